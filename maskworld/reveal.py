"""Reveal: in which order the unknown appears. A matrix of rows x frames says how noisy each frame is when.

1 is all noise, 0 is clean; the first row is all 1 and the last all 0, and no frame ever gets noisier. n steps
make n + 1 rows. These are the scheduling matrices of Diffusion Forcing (Chen et al. 2024, Sec. 3.2): each
frame falls from 1 to 0 in `steps` even steps, some frames later than others. Backwards: flip the frames.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Order = Float[Tensor, "rows frames"]
"""float64; `times` says to which times of a schedule the values belong."""


def whole(steps: int, frames: int) -> Order:
    """All frames at once, in `steps` steps: diffusion of a whole clip."""
    return pyramid(steps, frames, 0)


def frame_by_frame(steps: int, frames: int) -> Order:
    """A frame begins when the one before is clean: autoregression, `steps` steps for each frame."""
    return pyramid(steps, frames, steps)


def pyramid(steps: int, frames: int, lag: int) -> Order:
    """Each frame begins `lag` steps after the one before, so that the near future is always clearer."""
    _at_least(1, steps=steps, frames=frames)
    _at_least(0, lag=lag)
    return _delayed(steps, lag * torch.arange(frames))


def block_by_block(steps: int, frames: int, block: int) -> Order:
    """Blocks of `block` frames, the last one perhaps shorter; one begins when the one before is clean."""
    _at_least(1, steps=steps, frames=frames, block=block)
    return _delayed(steps, steps * (torch.arange(frames) // block))


def times(order: Order, num_times: int) -> Int[Tensor, "rows frames"]:
    """Whole times of a schedule: 1 -> num_times - 1 and 0 -> -1, spaced as in `Schedule.levels`."""
    return (order * num_times - 1).round().long()


def _delayed(steps: int, delay: Int[Tensor, " frames"]) -> Order:
    """Each frame waits, falls to 0 in even steps, and stays there; until the last has arrived."""
    row = torch.arange(steps + int(delay.max()) + 1)
    left = (steps + delay[None, :] - row[:, None]).clamp(0, steps)
    return left.double() / steps


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is at least {least}, not {value}")
