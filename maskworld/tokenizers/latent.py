"""What a continuous tokenizer is: frames to latents and back, each frame for itself; and how good one is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.clip import of_uint8
from maskworld.tokenizers.base import PSNR_CEILING


@runtime_checkable
class Continuous(Protocol):
    """A module that writes a frame as a grid of vectors. What they are depends on nothing but the frame.

    size       height and width of the frames it was trained on; all multiples of `factor` are read
    channels   of a frame
    dim        numbers of a vector, each of about zero mean and unit variance
    factor     pixels from one vector to the next, in each direction
    """

    size: tuple[int, int]
    channels: int
    dim: int
    factor: int

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d gh gw"]:
        """Frames in [-1, 1]; nothing is drawn. Raises ValueError for frames that it does not read."""
        ...

    def decode(self, latents: Float[Tensor, "n d gh gw"]) -> Float[Tensor, "n c h w"]:
        """In [-1, 1]."""
        ...


def check_reads(frames: Float[Tensor, "n c h w"], channels: int, factor: int) -> None:
    """Raise ValueError where frames are not of these channels, or not of multiples of `factor`."""
    n, c, h, w = frames.shape
    if n == 0 or c != channels:
        raise ValueError(f"the tokenizer reads frames of {channels} channels, not {n} of {c}")
    if h < factor or w < factor or h % factor or w % factor:
        raise ValueError(f"the tokenizer reads frames of multiples of {factor} pixels, not of {h}x{w}")


def measure(
    tokenizer: Continuous, frames: UInt8[np.ndarray, "t h w c"], batch: int = 64, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """How good it is on frames that it was not trained on; `device` is where it is.

    psnr               mean over the frames, in decibels, of what comes back, on [0, 1]
    mean               of a channel of the latents, the largest there is, without its sign
    std_min, std_max   of a channel of the latents, the smallest and the largest there is
    """
    if batch < 1:
        raise ValueError(f"batches of 1 or more frames, not {batch}")
    if not len(frames):
        raise ValueError("no frames to measure on")
    decibels, sums, squares, many = [], 0.0, 0.0, 0
    for start in range(0, len(frames), batch):
        some = of_uint8(torch.from_numpy(np.ascontiguousarray(frames[start : start + batch]))).frames[0, 0].to(device)
        with torch.no_grad():
            latents = tokenizer.encode(some)
            decibels.append(psnr(tokenizer.decode(latents), some).cpu())
        numbers = rearrange(latents.double(), "n d gh gw -> d (n gh gw)")
        many += numbers.shape[1]
        sums, squares = sums + numbers.sum(1), squares + numbers.square().sum(1)
    mean = torch.as_tensor(sums / many)
    std = (torch.as_tensor(squares / many) - mean.square()).clamp(min=0).sqrt()
    return {
        "psnr": float(torch.cat(decibels).mean()),
        "mean": float(mean.abs().max()),
        "std_min": float(std.min()),
        "std_max": float(std.max()),
    }


def psnr(painted: Float[Tensor, "n c h w"], frames: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Of each frame, in decibels, both in [-1, 1]."""
    error = ((painted.double() - frames.double()) / 2).square().mean((1, 2, 3))
    return -10 * error.clamp(min=10 ** (-PSNR_CEILING / 10)).log10()
