"""The causal family on the training episodes of the probes: discs that are hidden, pushed, recalled (64 x 64, RGB)."""

from __future__ import annotations

from maskworld.papers.forcing import Config, mini
from maskworld.probes.base import ACTIONS
from maskworld.probes.films import Films, Pairs
from maskworld.recipes.forcing import recipe
from maskworld.train import Recipe


def forcing_discs(
    config: Config = mini(actions=len(ACTIONS)),
    families: tuple[str, ...] = ("P1", "P2a", "P2b", "P3", "P4", "P5", "P6", "C1", "C2", "C3"),
    shares: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    history: int = 8,
    ahead: int = 4,
    batch: int = 8,
    lr: float = 1.5e-3,
    canvas: bool = False,
    recent: int = 3,
    p_other: float = 0.15,
    paired: bool = False,
    pairs: float = 0.0,
    resample: float = 0.0,
    seed: int = 0,
    look_every: int = 1000,
) -> Recipe:
    """Train the causal family on the train split of the probes.

    Args:
        config: the network; `--config.memories ssm` adds a learned memory to it.
        families: of the probes, by id.
        shares: how often each is drawn, in proportion.
        history: frames before what is ahead; they may lie far back, with gaps.
        ahead: frames to fill in.
        batch: clips a step.
        lr: learning rate after the warm-up.
        canvas: whether the network also learns to be shown a canvas of the world.
        recent: frames that are shown as they are where a learned memory or the canvas holds the others.
        p_other: how often the history is not what is known, but both ends, the end, or nothing.
        paired: whether the clips come in pairs of branches of one episode.
        pairs: weight of the loss on the effect of an intervention; above 0 the clips are paired.
        resample: how often the history is degraded by the network itself, 0..1.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of samples.
    """
    kind = Pairs if paired or pairs else Films
    data = kind(families, shares, history, ahead, "train", seed)
    valid = kind(families, shares, history, ahead, "valid", seed)
    about = {"name": "probes", "families": list(families), "shares": list(shares), "fps": 8.0}
    return recipe(
        config, data, valid, about, batch, lr, history, ahead, canvas, recent, p_other, pairs, resample, seed,
        look_every,
    )  # fmt: skip
