"""MCVD on coloured discs that bounce among walls (64 x 64, RGB): exact physics, made on the fly."""

from __future__ import annotations

from maskworld.data.discs import Discs
from maskworld.papers.mcvd import Config, small
from maskworld.recipes.mcvd import Probes, recipe
from maskworld.train import Recipe


def mcvd_discs(
    config: Config = small(channels=3),
    batch: int = 16,
    lr: float = 2e-3,
    num_discs: tuple[int, int] = (2, 4),
    p_hide_past: float = 0.35,
    p_hide_future: float = 0.35,
    p_part: float = 0.3,
    seed: int = 0,
    look_every: int = 1000,
    probe_every: int = 0,
    probe_families: tuple[str, ...] = ("P1", "P3", "C1", "C2"),
    probe_episodes: int = 10,
) -> Recipe:
    """Train MCVD on bouncing discs.

    Args:
        config: the network; `--config.width 32` changes one of its numbers.
        batch: clips a step.
        lr: learning rate after the warm-up.
        num_discs: fewest and most discs in a clip.
        p_hide_past: how often the past is hidden, 0..1.
        p_hide_future: how often the future is hidden, 0..1.
        p_part: how often a side that is shown is shown in part, 0..1.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of samples.
        probe_every: steps between two rounds of probes, whose scores stand in metrics.jsonl; 0 asks none.
        probe_families: which families of probes.
        probe_episodes: episodes of each.
    """
    if probe_every < 0:
        raise ValueError(f"probe_every is a number of steps, or 0 for no probes, not {probe_every}")
    probes = Probes(config, probe_families, probe_episodes) if probe_every else None
    data = Discs("train", config.num_frames, config.size, seed, num_discs)
    valid = Discs("valid", config.num_frames, config.size, seed, num_discs)
    about = {"name": "discs", "num_discs": list(num_discs)}
    p_hide = (p_hide_past, p_hide_future, p_part)
    every = probe_every or 2000
    return recipe(config, data, valid, about, batch, lr, p_hide, seed, look_every, probes, every)
