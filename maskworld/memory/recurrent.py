"""MemoryPack (Pack and Force Your Memory, Wu et al. 2025, arXiv 2510.01784): a recurrent semantic state,

    psi <- Squeeze(psi, Memorize(x))

Memorize looks within a segment of frames, Squeeze aligns it with what was known before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.memory.evict import NUM_WAVES, plane_waves
from maskworld.nets.transformer import Evicted


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Float[Tensor, "b n d"], to: Float[Tensor, "b s d"]) -> Float[Tensor, "b n d"]:
        parts = (self.q(x), self.k(to), self.v(to))
        q, k, v = (rearrange(part, "b n (g e) -> b g n e", g=self.num_heads) for part in parts)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b g n e -> b n (g e)"))


class Squeeze(nn.Module):
    """`num_tokens` tokens for the input of the network, which mean the whole past.

    segment    frames that are taken up together. One write of many frames is cut into such segments, so that frames
               written one at a time give another state than frames written at once: the method depends on segments

    differs: psi starts from learned tokens, not from a text and an image, which this model has not; it keeps its length
    by pooling, where the paper's grows with the segment; and it gives way by a gate, so that it can last.
    Tokens are read as any others are: nothing makes them small at first.
    Raises ValueError for no tokens, or heads that do not divide the width.
    """

    layered = False

    def __init__(self, dim: int, num_tokens: int = 16, num_heads: int = 4, segment: int = 4):
        super().__init__()
        if num_tokens < 1 or segment < 1:
            raise ValueError(f"{num_tokens} tokens and segments of {segment} frames: both are 1 or more")
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide a width of {dim}")
        self.segment = segment
        self.first = nn.Parameter(torch.randn(num_tokens, dim))
        self.asks = nn.Parameter(torch.randn(num_tokens, dim))
        self.where = nn.Linear(NUM_WAVES + 1, dim)
        self.memorize = _Attention(dim, num_heads)
        self.squeeze = _Attention(dim, num_heads)
        self.pool = _Attention(dim, num_heads)
        self.gate = nn.Linear(2 * dim, dim)
        nn.init.constant_(self.gate.bias, -1.0)
        self.out = nn.Linear(dim, dim)

    def empty(self, b: int) -> Float[Tensor, "b m e"]:
        """psi, the time of the newest frame, and how many were written."""
        return F.pad(self.first, (0, 2)).expand(b, -1, -1)

    def write(self, memory: Float[Tensor, "b m e"], evicted: Evicted) -> Float[Tensor, "b m e"]:
        psi, written = memory[..., :-2], memory[..., -1:]
        parts = (x.split(self.segment, dim=1) for x in (evicted.features, evicted.place))
        for features, place in zip(*parts, strict=True):
            psi = self._step(psi, features.to(psi.dtype), place.to(psi.dtype))
        newest = evicted.place[:, -1, :1, :1].to(psi.dtype).expand_as(written)
        return torch.cat([psi, newest, written + evicted.place.shape[1]], dim=-1)

    def tokens(
        self, memory: Float[Tensor, "b m e"]
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m 3"], Bool[Tensor, "b m"]]:
        """They stand at the newest frame's time and at the world's origin, from where places can be told."""
        psi, newest, written = memory[..., :-2], memory[..., -2:-1], memory[..., -1]
        return self.out(_norm(psi)), F.pad(newest, (0, 2)), written > 0

    def _step(
        self, psi: Float[Tensor, "b m d"], features: Float[Tensor, "b f n d"], place: Float[Tensor, "b f n 3"]
    ) -> Float[Tensor, "b m d"]:
        age = (place[..., :1] - place[:, -1:, :, :1]) / self.segment
        x = features + self.where(torch.cat([plane_waves(place), age], dim=-1))
        x = rearrange(x, "b f n d -> b (f n) d")
        x = x + self.memorize(_norm(x), _norm(x))
        x = x + self.squeeze(_norm(x), _norm(psi))
        new = self.pool(_norm(self.asks + psi), _norm(x))
        gate = torch.sigmoid(self.gate(torch.cat([_norm(psi), new], dim=-1)))
        return psi + gate * (new - psi)


def _norm(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    return F.layer_norm(x, x.shape[-1:])
