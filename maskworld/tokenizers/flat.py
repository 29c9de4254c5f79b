"""A tokenizer without weights: every patch is its mean colour, rounded to a few levels. Exact on flat patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskworld.tokenizers.base import check_fits


@dataclass(frozen=True)
class Config:
    """Patches of `patch` pixels; `levels` from black to white, evenly spaced, in each channel."""

    size: int = 16
    channels: int = 1
    patch: int = 8
    levels: int = 4

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"frames are grey (1 channel) or colour (3), not of {self.channels} channels")
        if self.patch < 1 or self.size % self.patch or self.size < self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile frames of {self.size}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"from 2 to 256 levels, not {self.levels}")


class Flat(nn.Module):
    """A code is the level of grey, or red + levels * (green + levels * blue)."""

    paints = True

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.size, self.channels, self.dim = config.size, config.channels, config.channels
        self.grid = (config.size // config.patch, config.size // config.patch)
        self.vocab = config.levels**config.channels

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n c h w"]) -> Int[Tensor, "n gh gw"]:
        check_fits(frames, self.size, self.channels)
        p, top = self.config.patch, self.config.levels - 1
        mean = reduce(frames.float(), "n c (gh ph) (gw pw) -> n gh gw c", "mean", ph=p, pw=p)
        digits = ((mean + 1) / 2 * top).round().clamp(0, top).long()
        return (digits * self._basis(frames.device)).sum(-1)

    def vectors(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n gh gw d"]:
        """The colour, in [-1, 1]."""
        digits = codes[..., None] // self._basis(codes.device) % self.config.levels
        return digits / (self.config.levels - 1) * 2 - 1

    def decode(self, codes: Int[Tensor, "n gh gw"]) -> Float[Tensor, "n c h w"]:
        p = self.config.patch
        return repeat(self.vectors(codes), "n gh gw c -> n c (gh ph) (gw pw)", ph=p, pw=p)

    def _basis(self, device: torch.device) -> Tensor:
        return self.config.levels ** torch.arange(self.channels, device=device)
