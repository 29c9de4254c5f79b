"""TTT-linear: weights as state (Sun et al. 2024, arXiv 2407.04620; for video Dalal et al. 2025, arXiv 2504.05298).

The state of a head is a linear model that learns, while the network is used, to find values from keys. One frame that
leaves the window is one mini-batch, and one gradient step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.memory.evict import Address, each_layer, heads, precise
from maskworld.nets.transformer import Evicted

_EPS = 1e-6


def inner_step(
    weight: Float[Tensor, "*b e e"],
    bias: Float[Tensor, "*b 1 e"],
    keys: Float[Tensor, "*b n e"],
    values: Float[Tensor, "*b n e"],
    rate: Float[Tensor, "*b n"],
    scale: Float[Tensor, "#*b 1 e"],
    shift: Float[Tensor, "#*b 1 e"],
) -> tuple[Float[Tensor, "*b e e"], Float[Tensor, "*b 1 e"]]:
    """The linear model after one step on sum_i rate_i |LN(k_i W + b) - (v_i - k_i)|^2, all taken at the old weights.

    In the dual form (Sun et al., Sec. 2.5): no token's own gradient is ever made, only K^T (rate * G), where G is the
    gradient at the model's output, through the layer norm by hand.
    """
    out = keys @ weight + bias
    centred = out - out.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + _EPS).rsqrt()
    normal = centred * inverse
    grad = 2 * (normal * scale + shift - (values - keys)) * scale
    grad = inverse * (grad - grad.mean(-1, keepdim=True) - normal * (grad * normal).mean(-1, keepdim=True))
    grad = rate[..., None] * grad
    return weight - keys.mT @ grad, bias - grad.sum(-2, keepdim=True)


class TTTLinear(nn.Module):
    """A matrix and a bias for each layer and head, which start from learned ones.

    differs: keys and queries are told where they are in the world and pass a SiLU, so that a place can be asked for;
    the learned rates need no further scale, because keys have unit length. Nothing is read in reverse order.
    """

    layered = True

    def __init__(self, dim: int, depth: int, num_heads: int, dim_head: int = 64):
        super().__init__()
        self.num_heads, self.dim_head = num_heads, dim_head
        wide = num_heads * dim_head
        self.key = Address(depth, dim, num_heads, dim_head)
        self.query = Address(depth, dim, num_heads, dim_head)
        self.query.load_state_dict(self.key.state_dict())  # what was learned at a place is found there from the start
        self.value = nn.Parameter(torch.randn(depth, dim, wide) * dim**-0.5)
        self.rate = nn.Parameter(torch.randn(depth, dim, num_heads) * 0.02)
        self.rate_bias = nn.Parameter(torch.full((depth, num_heads), -1.5))
        self.weight = nn.Parameter(torch.randn(depth, num_heads, dim_head, dim_head))
        self.bias = nn.Parameter(torch.zeros(depth, num_heads, 1, dim_head))
        self.scale = nn.Parameter(torch.ones(depth, num_heads, 1, dim_head))
        self.shift = nn.Parameter(torch.zeros(depth, num_heads, 1, dim_head))
        self.out = nn.Parameter(torch.randn(depth, wide, dim) * wide**-0.5)
        self.alpha = nn.Parameter(torch.full((depth, dim), 0.1))

    def empty(self, b: int) -> Float[Tensor, "b m e"]:
        first = torch.cat([self.weight, self.bias], dim=2)
        return rearrange(first, "l g k v -> 1 (l g k) v").expand(b, -1, -1)

    def write(self, memory: Float[Tensor, "b m e"], evicted: Evicted) -> Float[Tensor, "b m e"]:
        f = evicted.hidden.shape[2]
        hidden = rearrange(evicted.hidden, "l b f n d -> l b (f n) d")
        keys = self.key(hidden, rearrange(evicted.place, "b f n c -> b (f n) c"), slice(None))
        values = precise(heads(each_layer(hidden, self.value), self.num_heads))
        rate = torch.sigmoid(precise(each_layer(hidden, self.rate)) + self.rate_bias[:, None, None])
        frames = [
            rearrange(keys, "l b g (f n) e -> f l b g n e", f=f),
            rearrange(values, "l b g (f n) e -> f l b g n e", f=f),
            rearrange(rate, "l b (f n) g -> f l b g n", f=f),
        ]
        weight, bias = self._open(memory)
        with torch.autocast(memory.device.type, enabled=False):
            for k, v, r in zip(*frames, strict=True):
                weight, bias = inner_step(weight, bias, k, v, r, self.scale[:, None], self.shift[:, None])
        return rearrange(torch.cat([weight, bias], dim=-2), "l b g k v -> b (l g k) v")

    def read(
        self, memory: Float[Tensor, "b m e"], layer: int, hidden: Float[Tensor, "b n d"], place: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n d"]:
        """tanh(alpha) (q + LN(q W + b)), projected (the gate of Dalal et al., Sec. 3.1)."""
        weight, bias = (x[layer] for x in self._open(memory))
        queries = self.query(hidden[None], place, slice(layer, layer + 1))[0]
        with torch.autocast(memory.device.type, enabled=False):
            found = F.layer_norm(queries @ weight + bias, queries.shape[-1:], eps=_EPS)
        found = queries + found * self.scale[layer] + self.shift[layer]
        found = rearrange(found, "b g n e -> b n (g e)").to(hidden.dtype)
        return (torch.tanh(self.alpha[layer]) * (found @ self.out[layer])).to(hidden.dtype)

    def _open(self, memory: Float[Tensor, "b m e"]) -> tuple[Float[Tensor, "l b g e e"], Float[Tensor, "l b g 1 e"]]:
        both = rearrange(memory, "b (l g k) v -> l b g k v", g=self.num_heads, k=self.dim_head + 1)
        return both[..., :-1, :], both[..., -1:, :]
