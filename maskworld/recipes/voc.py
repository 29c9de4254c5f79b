"""What the recipes of video occupancy models have in common: a tokenizer that is done with learning, and episodes in
its codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from maskworld import masks
from maskworld.clip import Clip, collate, to
from maskworld.data.episodes import Episode, Transitions
from maskworld.noise import Rng, mix
from maskworld.papers import voc
from maskworld.tokenizers import kinds
from maskworld.tokenizers.base import Tokenizer, codes_of
from maskworld.train import Recipe, inverse_sqrt, power_ema
from maskworld.verbs import Draw, Known

MOST_AHEAD = 256
"""Real frames after a state that Monte Carlo draws from: at a discount of 0.98, 1 in 170 lies beyond."""


def in_codes(tokenizer: Tokenizer, episodes: Sequence[Episode], quiet: bool = False) -> list[Episode]:
    """The episodes, their frames as a tokenizer's codes; one is read at a time."""
    bar = tqdm(episodes, desc="in codes", unit="episode", leave=False, disable=quiet, dynamic_ncols=True)
    return [dataclasses.replace(episode, frames=codes_of(tokenizer, episode.frames)) for episode in bar]


def inactive(episode: Episode) -> Episode:
    """The episode, and nothing of what was done in it."""
    return dataclasses.replace(episode, actions=episode.actions[:, :0])


def recipe(
    config: voc.Config,
    tokenizer: Tokenizer,
    train: Sequence[Episode],
    valid: Sequence[Episode],
    about: Mapping[str, Any],
    td: voc.TD,
    policies: tuple[str, ...],
    batch: int,
    lr: float,
    seed: int,
    look_every: int,
) -> Recipe:
    """A recipe for episodes in codes. `about` says where they are from."""
    torch.manual_seed(mix(seed))  # the weights
    assert isinstance(tokenizer, nn.Module)
    # Where nothing ends, an end that can be written is believed in at first, and unlearnt by TD only slowly.
    config = dataclasses.replace(config, ends=config.ends and any(episode.terminal for episode in train))
    net = voc.VOC(voc.of_tokenizer(config, tokenizer), tokenizer)
    rewards = np.concatenate([episode.rewards[1:] for episode in train])
    net.begin(torch.from_numpy(rewards).float(), td.steps is not None)
    ahead = min(MOST_AHEAD, max(len(e.rewards) for e in train) - 1) if td.steps is None else td.steps
    data = Transitions(train, config.stack, ahead, seed, policies)
    held = Transitions(valid, config.stack, ahead, seed + 1, policies)
    return Recipe(
        about={
            "family": "voc",
            "config": dataclasses.asdict(net.config),
            "tokenizer": kinds.config_of(tokenizer),
            "td": dataclasses.asdict(td),
            "policies": list(policies),
            "data": dict(about),
        },
        net=net,
        objective=voc.objective(td),
        draw=state_known(config.stack),
        data=data,
        valid=held,
        lr=inverse_sqrt(lr, 200, 1000),  # a rate that stays keeps distributions blurred
        ema=power_ema(0.1),
        batch=batch,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        seed=seed,
        look=Look(held, config.stack) if tokenizer.paints else None,
        look_every=look_every,
        valid_clips=256,
    )


def state_known(stack: int) -> Draw:
    """The first `stack` frames are known, and nothing after them."""

    def draw(b: int, v: int, t: int, rng: Rng) -> Known:
        return masks.past_and_future(stack, t - stack, 0, b, v)

    return draw


@dataclasses.dataclass(frozen=True)
class Look:
    """Draws a strip of futures: a state's last frame, and draws at the longest horizon."""

    data: Callable[[int], Clip]
    stack: int
    num_clips: int = 6
    num: int = 8

    def __call__(self, net: nn.Module, folder: Path, step: int) -> None:
        from maskworld.report.film import Row, strip_png

        assert isinstance(net, voc.VOC)
        clip = to(collate([self.data(i) for i in range(self.num_clips)]), next(net.parameters()).device)
        past = dataclasses.replace(clip, frames=clip.frames[:, :, : self.stack])
        states = voc.states_of(net, past)[:, -1]
        told = voc.Told(torch.full((self.num_clips,), max(net.config.gammas), device=states.device))
        found = voc.draws(net, states, told, self.num, Rng.of(step, batch=self.num_clips), ends=False)
        rows = []
        for i in range(self.num_clips):
            pictures = torch.cat([net.paint(states[i : i + 1])[:, -1], net.paint(found[i])[:, -1]])
            known = torch.arange(self.num + 1)[:, None, None] == 0
            rows.append(Row.of("draws", pictures, known))
        strip_png(rows, folder / f"step_{step:07d}.png", force=True)
