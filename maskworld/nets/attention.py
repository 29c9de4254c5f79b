"""Attention: small modules over torch's fused kernel, one for each pattern."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

SMALL = 2**20
"""Queries x keys up to which, on a CPU, plain products are faster than the fused kernel."""


def attend(
    q: Float[Tensor, "b g q e"],
    k: Float[Tensor, "b g k e"],
    v: Float[Tensor, "b g k e"],
    mask: Bool[Tensor, "#b #g q k"] | None = None,
) -> Float[Tensor, "b g q e"]:
    """softmax(q k / sqrt(e)) v; `mask` is True where a query may look. Every query may look at something."""
    if q.device.type != "cpu" or q.shape[2] * k.shape[2] > SMALL:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        score = score + mask.logical_not().to(score.dtype) * -1e4
    return score.softmax(-1).to(v.dtype) @ v


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
