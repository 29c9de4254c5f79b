"""Video occupancy models of the two toy worlds, whose discounted future is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maskworld.data.episodes import Episode
from maskworld.data.toys import FPS, LEVELS, PATCH, Chain, Clock
from maskworld.papers.voc import TD, Config, tiny
from maskworld.recipes.voc import in_codes, recipe
from maskworld.tokenizers import flat
from maskworld.train import Recipe


def voc_chain(
    states: int = 16,
    config: Config = tiny(gammas=(0.8, 0.95)),
    td: TD = TD(),
    episodes: int = 400,
    length: int = 101,
    batch: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    look_every: int = 2000,
) -> Recipe:
    """Train a video occupancy model of a Markov chain that is shown as video.

    Args:
        states: of the chain.
        config: the network.
        td: how the occupancy is learnt.
        episodes: of the data.
        length: frames of each.
        batch: states a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data and the draws.
        look_every: steps between two strips of draws.
    """
    chain = Chain(states)
    about = {"name": "chain", "states": states}
    return _toy(chain.size, chain.episodes, about, config, td, episodes, length, batch, lr, seed, look_every)


def voc_clock(
    period: int = 64,
    config: Config = tiny(gammas=(0.8, 0.9)),
    td: TD = TD(steps=16),
    episodes: int = 400,
    length: int = 128,
    batch: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
    look_every: int = 2000,
) -> Recipe:
    """Train a video occupancy model of a clock: every draw says how far ahead it is.

    Args:
        period: frames after which the clock begins again.
        config: the network.
        td: how the occupancy is learnt.
        episodes: of the data.
        length: frames of each.
        batch: states a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data and the draws.
        look_every: steps between two strips of draws.
    """
    clock = Clock(period)
    about = {"name": "clock", "period": period}
    return _toy(clock.size, clock.episodes, about, config, td, episodes, length, batch, lr, seed, look_every)


def _toy(
    size: int,
    make: Callable[[int, int, int], list[Episode]],
    about: Mapping[str, Any],
    config: Config,
    td: TD,
    episodes: int,
    length: int,
    batch: int,
    lr: float,
    seed: int,
    look_every: int,
) -> Recipe:
    tokenizer = flat.Flat(flat.Config(size, 1, PATCH, LEVELS))
    train = in_codes(tokenizer, make(episodes, length, 2 * seed), quiet=True)
    valid = in_codes(tokenizer, make(max(episodes // 10, 1), length, 2 * seed + 1), quiet=True)
    source = {**about, "fps": FPS, "episodes": episodes, "length": length}
    return recipe(config, tokenizer, train, valid, source, td, (), batch, lr, seed, look_every)
