"""Token merging (ToMe, Bolya et al., ICLR 2023, Sec. 3; across frames as in VidToMe, Li et al., CVPR 2024): a fixed
number of tokens for the whole past, in which those most alike have become one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.nets.transformer import Evicted


class Merge(nn.Module):
    """Old patches as `num_tokens` tokens for the input of the network.

    The state holds, for each token, the sums of the features and of the places that went into it, and their number:
    merging is addition. What is read at first is what the network reads of any frame: nothing makes it small.
    Raises ValueError for no tokens.
    """

    layered = False

    def __init__(self, dim: int, num_tokens: int):
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"{num_tokens} tokens hold nothing; 1 or more are needed")
        self.dim, self.num_tokens = dim, num_tokens
        # differs: attention is not told of a token's size by a term in its logits (ToMe, Eq. 1); the token says it.
        self.merged = nn.Parameter(torch.zeros(2, dim))

    def empty(self, b: int) -> Float[Tensor, "b m e"]:
        return self.merged.new_zeros(b, self.num_tokens, self.dim + 4)

    def write(self, memory: Float[Tensor, "b m e"], evicted: Evicted) -> Float[Tensor, "b m e"]:
        features, place = evicted.features.to(memory.dtype), evicted.place.to(memory.dtype)
        tokens = torch.cat([features, place, torch.ones_like(place[..., :1])], dim=-1)
        for new in tokens.unbind(1):
            memory = self._fit(torch.cat([memory, new], dim=1))
        return memory

    def tokens(
        self, memory: Float[Tensor, "b m e"]
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m 3"], Bool[Tensor, "b m"]]:
        """Features, mean places, and which tokens are there."""
        size = memory[..., -1:]
        mean = memory[..., :-1] / size.clamp(min=1)
        told = self.merged[0] + size.clamp(min=1).log2() * self.merged[1]
        return mean[..., : self.dim] + told, mean[..., self.dim :], size[..., 0] > 0

    def _fit(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b m e"]:
        """Empty slots go first; then rounds of merging, in each of which half of the tokens can go."""
        there = tokens[..., -1] > 0
        spare = min(int((~there).sum(1).min()), tokens.shape[1] - self.num_tokens)
        if spare:
            order = there.int().argsort(dim=1, stable=True)
            tokens = _take(tokens, order[:, spare:])
        while tokens.shape[1] > self.num_tokens:
            tokens = merge(tokens, self.dim, min(tokens.shape[1] - self.num_tokens, tokens.shape[1] // 2))
        return tokens


def merge(tokens: Float[Tensor, "b n e"], dim: int, num: int) -> Float[Tensor, "b m e"]:
    """Bipartite soft matching: every other token looks for the one most like it among the rest; the `num` best pairs
    become one. The first `dim` channels are compared, by the angle between them; the last one is the size, and a token
    without one goes for nothing."""
    a, b = tokens[:, ::2], tokens[:, 1::2]
    with torch.autocast(tokens.device.type, enabled=False):
        alike = F.normalize(a[..., :dim], dim=-1) @ F.normalize(b[..., :dim], dim=-1).mT
    alike = alike.masked_fill(b[:, None, :, -1] == 0, -2.0).masked_fill(a[:, :, -1:] == 0, 2.0)
    best, partner = alike.max(dim=-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    gone, stays = order[:, :num], order[:, num:]
    to = partner.gather(1, gone)[..., None].expand(-1, -1, tokens.shape[-1])
    return torch.cat([_take(a, stays), b.scatter_add(1, to, _take(a, gone))], dim=1)


def _take(tokens: Float[Tensor, "b n e"], index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
