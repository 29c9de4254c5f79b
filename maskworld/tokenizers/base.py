"""What a tokenizer is: frames to codes and back, each frame for itself; and how good one is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt8
from torch import Tensor

from maskworld.clip import of_uint8

PSNR_CEILING = 100.0
"""Decibels of pictures that are equal; also the most that is ever given."""


@runtime_checkable
class Tokenizer(Protocol):
    """A module that writes a frame as a grid of codes. What a frame's codes are depends on nothing but the frame.

    vocab      how many codes there are
    grid       rows and columns of codes
    size       pixels of a frame's side
    channels   of a frame
    dim        numbers of a code's vector
    paints     whether codes can be shown as pixels
    """

    vocab: int
    grid: tuple[int, int]
    size: int
    channels: int
    dim: int
    paints: bool

    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        """Frames in [-1, 1]. Raises ValueError for frames of another size."""
        ...

    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        """What a code stands for, as a network may read it."""
        ...

    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        """In [-1, 1]. Raises ValueError where the tokenizer does not paint."""
        ...


def check_fits(frames: Float[Tensor, "n c h w"], size: int, channels: int) -> None:
    """Raise ValueError where frames are not of a tokenizer's size."""
    n, c, h, w = frames.shape
    if n == 0 or (c, h, w) != (channels, size, size):
        raise ValueError(
            f"the tokenizer reads frames of {channels} channels and {size}x{size} pixels, not {n} of {c} and {h}x{w}"
        )


def codes_of(
    tokenizer: Tokenizer, frames: UInt8[np.ndarray, "t h w c"], batch: int = 64, device: torch.device | str = "cpu"
) -> Int32[np.ndarray, "t gh gw 1"]:
    """The codes of many frames, `batch` at a time; `device` is where the tokenizer is."""
    parts = [tokenizer.encode(some).cpu().to(torch.int32) for some in _batches(frames, batch, device)]
    if not parts:
        raise ValueError("no frames to turn into codes")
    return torch.cat(parts)[..., None].numpy()


def measure(
    tokenizer: Tokenizer, frames: UInt8[np.ndarray, "t h w c"], batch: int = 64, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """How good it is on frames that it was not trained on.

    use          share of the codebook that these frames need, 0..1
    perplexity   e to the entropy of the codes, in nats: as many codes, equally used, would say as much
    psnr         mean over the frames, in decibels, of their reconstructions on [0, 1]; where it paints
    """
    count, decibels = torch.zeros(tokenizer.vocab, dtype=torch.float64), []
    for some in _batches(frames, batch, device):
        codes = tokenizer.encode(some)
        count += torch.bincount(codes.flatten().cpu(), minlength=tokenizer.vocab)
        if tokenizer.paints:
            with torch.no_grad():
                painted = tokenizer.decode(codes)
            error = ((painted.double() - some.double()) / 2).square().mean((1, 2, 3))
            decibels.append(-10 * error.clamp(min=10 ** (-PSNR_CEILING / 10)).log10().cpu())
    if not count.any():
        raise ValueError("no frames to measure on")
    p = count[count > 0] / count.sum()
    found = {"use": len(p) / tokenizer.vocab, "perplexity": float((-p * p.log()).sum().exp())}
    return {"psnr": float(torch.cat(decibels).mean()), **found} if decibels else found


def _batches(frames: np.ndarray, batch: int, device: torch.device | str) -> Iterator[Tensor]:
    if batch < 1:
        raise ValueError(f"batches of 1 or more frames, not {batch}")
    for start in range(0, len(frames), batch):
        some = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch]))
        yield of_uint8(some).frames[0, 0].to(device)
