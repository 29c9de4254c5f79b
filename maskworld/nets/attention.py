"""Attention: small modules over torch's fused kernel, one for each pattern."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Every pixel of a feature map looks at every other, in heads of `dim_head` channels.

    Normalises, attends, adds to its input and divides by sqrt(2), as in NCSN++ (Song et al. 2021, App. H).
    Raises ValueError where `dim_head` does not divide the width.
    """

    def __init__(self, dim: int, dim_head: int, groups: int):
        super().__init__()
        if dim >= dim_head and dim % dim_head:
            raise ValueError(f"heads of {dim_head} channels do not divide a width of {dim}")
        self.num_heads = max(dim // dim_head, 1)
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        h, w = x.shape[-2:]
        tokens = rearrange(self.norm(x), "b d h w -> b (h w) d")
        q, k, v = rearrange(self.qkv(tokens), "b n (three g d) -> three b g n d", three=3, g=self.num_heads)
        seen = rearrange(F.scaled_dot_product_attention(q, k, v), "b g n d -> b n (g d)")
        return (x + rearrange(self.out(seen), "b (h w) d -> b d h w", h=h, w=w)) * 2**-0.5
