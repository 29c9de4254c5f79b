"""Embeddings of numbers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoidal(position: Float[Tensor, " n"], dim: int) -> Float[Tensor, "n d"]:
    """Sines, then cosines, at `dim` // 2 wavelengths from 2 pi to 10,000 x 2 pi (Ho et al. 2020, code)."""
    half = dim // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=position.device) / max(half - 1, 1))
    angle = position.float()[:, None] * rate
    parts = [angle.sin(), angle.cos()]
    if dim % 2:
        parts.append(torch.zeros_like(angle[:, :1]))
    return torch.cat(parts, dim=1)
