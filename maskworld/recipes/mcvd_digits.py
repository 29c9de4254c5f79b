"""MCVD on stochastic moving digits (64 x 64, grey): made on the fly, nothing to download."""

from __future__ import annotations

from pathlib import Path

from maskworld.data.digits import MovingDigits
from maskworld.papers.mcvd import Config, small
from maskworld.recipes.mcvd import recipe
from maskworld.train import Recipe


def mcvd_digits(
    config: Config = small(past=10, motions=2, followed=10, own_context=0.4),
    batch: int = 16,
    lr: float = 2e-3,
    num_digits: int = 2,
    glyphs: Path | None = None,
    p_hide_past: float = 0.12,
    p_hide_future: float = 0.5,
    p_part: float = 0.6,
    seed: int = 0,
    look_every: int = 1000,
) -> Recipe:
    """Train MCVD on moving digits.

    Args:
        config: the network; `--config.width 32` changes one of its numbers.
        batch: clips a step.
        lr: learning rate after the warm-up.
        num_digits: digits in a clip.
        glyphs: a folder with MNIST's idx files; the digits that ship with the package otherwise.
        p_hide_past: how often the past is hidden, 0..1.
        p_hide_future: how often the future is hidden, 0..1.
        p_part: how often a side that is shown is shown in part, 0..1.
        seed: of the weights, the data, what is hidden and the noise.
        look_every: steps between two strips of samples.
    """
    data = MovingDigits("train", config.num_frames, config.size, num_digits, seed, glyphs=glyphs)
    valid = MovingDigits("valid", config.num_frames, config.size, num_digits, seed, glyphs=glyphs)
    about = {"name": "digits", "num_digits": num_digits}
    return recipe(config, data, valid, about, batch, lr, (p_hide_past, p_hide_future, p_part), seed, look_every)
