"""A video occupancy model of episodes on disk: frames, rewards, perhaps actions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from maskworld.data import episodes
from maskworld.papers.voc import TD, Config, clean
from maskworld.recipes.voc import in_codes, inactive, recipe
from maskworld.train import Recipe
from maskworld.world import load_codes


def voc_episodes(
    data: Path,
    tokenizer: str,
    config: Config = clean(reward_bins=64),
    td: TD = TD(),
    acts: bool = False,
    policies: bool = False,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    look_every: int = 1000,
) -> Recipe:
    """Train a video occupancy model on episodes, with a tokenizer that is trained already.

    Args:
        data: a folder of episodes, or .hdf5 files of V-D4RL.
        tokenizer: a checkpoint of one, or of a model that holds one.
        config: the network; what is the tokenizer's follows from it.
        td: how the occupancy is learnt.
        acts: whether the model is told the first action, so that it tells the values of actions.
        policies: whether the model is told which of the data's policies goes on.
        batch: states a step.
        lr: learning rate after the warm-up.
        seed: of the weights, the data and the draws.
        look_every: steps between two strips of draws.
    """
    of, about = load_codes(tokenizer)
    found = episodes.read(data).at(of.size)
    labels = found.policies if policies else ()
    config = dataclasses.replace(config, actions=found.actions if acts else 0, policies=len(labels))
    train, valid = (in_codes(of, episodes.split(found, part)) for part in ("train", "valid"))
    if not acts:
        train, valid = ([inactive(episode) for episode in part] for part in (train, valid))
    source = {
        "name": "episodes",
        "of": found.name,
        "fps": found.fps,
        "episodes": len(found),
        "tokenizer": about.get("data"),
    }
    return recipe(config, of, train, valid, source, td, labels, batch, lr, seed, look_every)
