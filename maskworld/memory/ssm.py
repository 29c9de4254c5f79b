"""A gated delta state over the frames that left the window, beside the attention of every layer.

The form is VideoSSM's (2025, arXiv 2512.04519): a local window of attention, a global state of what it evicted, and a
router between them. The rule is the gated delta rule (Yang et al. 2024, arXiv 2412.06464, Eq. 10),
and its chunk form that of Sec. 3.3 there. A chunk is a frame: its tokens share one decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.memory.evict import Address, each_layer, heads, precise
from maskworld.nets.transformer import Evicted


def delta_rule(
    state: Float[Tensor, "*b k v"],
    keys: Float[Tensor, "*b f n k"],
    values: Float[Tensor, "*b f n v"],
    beta: Float[Tensor, "*b f n"],
    log_decay: Float[Tensor, "*b f"],
) -> Float[Tensor, "*b k v"]:
    """The state after f frames of n tokens. Before each frame it fades, M <- exp(log_decay) M; then, token by token,

        M <- M + k (beta (v - k M))^T

    which a triangular system solves for a whole frame at once: what the tokens write is U - W M, where U and W do not
    depend on the state and are found for all frames together.
    """
    weighted = beta[..., None] * keys
    system = torch.tril(weighted @ keys.mT, diagonal=-1)
    both = torch.linalg.solve_triangular(
        system, torch.cat([weighted, beta[..., None] * values], dim=-1), upper=False, unitriangular=True
    )
    w, u = both.split([keys.shape[-1], values.shape[-1]], dim=-1)
    frames = (log_decay.exp().unbind(-1), keys.mT.unbind(-3), w.unbind(-3), u.unbind(-3))
    for decay, k, w_i, u_i in zip(*frames, strict=True):
        state = decay[..., None, None] * state
        state = state + k @ (u_i - w_i @ state)
    return state


class GatedDelta(nn.Module):
    """A matrix of keys by values for each layer and head, and the number of frames that were written.

    dim_key    how many things a head can hold apart; the state is dim_key x dim_value numbers
    layers     which layers have a state; None: all `depth`
    horizon    frames after which the router weighs the state by its bias alone

    differs: keys and queries are told where they are in the world, so that a place can be asked for.
    Raises ValueError for a layer that is not there.
    """

    layered = True

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        dim_key: int = 128,
        dim_value: int = 16,
        layers: Sequence[int] | None = None,
        horizon: int = 16,
    ):
        super().__init__()
        self.layers = tuple(range(depth)) if layers is None else tuple(layers)
        if not self.layers or not set(self.layers) <= set(range(depth)):
            raise ValueError(f"a state in layers {self.layers} of a network of {depth}: there are no such layers")
        self.num_heads, self.dim_key, self.horizon = num_heads, dim_key, horizon
        num, wide = len(self.layers), num_heads * dim_value
        self.key = Address(num, dim, num_heads, dim_key)
        self.query = Address(num, dim, num_heads, dim_key)
        self.query.load_state_dict(self.key.state_dict())  # what was written at a place is found there from the start
        self.value = nn.Parameter(torch.randn(num, dim, wide) * dim**-0.5)
        self.beta = nn.Parameter(torch.randn(num, dim, num_heads) * 0.02)
        self.beta_bias = nn.Parameter(torch.zeros(num, num_heads))
        self.alpha = nn.Parameter(torch.randn(num, dim, num_heads) * 0.02)
        fades = torch.logspace(math.log10(5e-4), math.log10(2e-2), num_heads)  # of itself, with each frame
        self.alpha_bias = nn.Parameter(fades.expm1().log().repeat(num, 1))  # softplus of it is `fades`
        self.log_a = nn.Parameter(torch.zeros(num, num_heads))
        self.gate = nn.Parameter(torch.randn(num, dim, wide) * dim**-0.5)
        self.norm = nn.Parameter(torch.ones(num, num_heads, 1, dim_value))
        self.out = nn.Parameter(torch.randn(num, wide, dim) * (2 * depth * wide) ** -0.5)
        self.route = nn.Parameter(torch.tensor([1.0, -1.0]).repeat(num, 1))  # slope and bias

    def empty(self, b: int) -> Float[Tensor, "b m e"]:
        num, wide = self.norm.shape[0] * self.num_heads * self.dim_key, self.norm.shape[-1]
        return self.norm.new_zeros(b, num + 1, wide)

    def write(self, memory: Float[Tensor, "b m e"], evicted: Evicted) -> Float[Tensor, "b m e"]:
        f = evicted.hidden.shape[2]
        hidden = rearrange(evicted.hidden[list(self.layers)], "l b f n d -> l b (f n) d")
        place = rearrange(evicted.place, "b f n c -> b (f n) c")
        keys = self.key(hidden, place, slice(None))
        values = precise(heads(each_layer(hidden, self.value), self.num_heads))
        beta = torch.sigmoid(precise(each_layer(hidden, self.beta)) + self.beta_bias[:, None, None])
        alpha = F.softplus(precise(each_layer(hidden, self.alpha)) + self.alpha_bias[:, None, None])
        log_decay = -self.log_a.exp()[:, None, None] * rearrange(alpha, "l b (f n) g -> l b f n g", f=f).mean(3)
        with torch.autocast(memory.device.type, enabled=False):
            state = delta_rule(
                self._open(memory),
                rearrange(keys, "l b g (f n) k -> l b g f n k", f=f),
                rearrange(values, "l b g (f n) v -> l b g f n v", f=f),
                rearrange(beta, "l b (f n) g -> l b g f n", f=f),
                rearrange(log_decay, "l b f g -> l b g f"),
            )
        return torch.cat([rearrange(state, "l b g k v -> b (l g k) v"), memory[:, -1:] + f], dim=1)

    def read(
        self, memory: Float[Tensor, "b m e"], layer: int, hidden: Float[Tensor, "b n d"], place: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n d"]:
        """gamma (Swish(gate) * RMSNorm(q M)), projected; gamma grows with what was written (the paper's router)."""
        if layer not in self.layers:
            return torch.zeros_like(hidden)
        i = self.layers.index(layer)
        queries = self.query(hidden[None], place, slice(i, i + 1))[0]
        with torch.autocast(memory.device.type, enabled=False):
            found = queries @ self._open(memory)[i]
        found = F.rms_norm(found, found.shape[-1:], eps=1e-5) * self.norm[i]
        found = rearrange(found, "b g n v -> b n (g v)").to(hidden.dtype)
        found = (F.silu(hidden @ self.gate[i]) * found) @ self.out[i]
        # differs: the paper's t / T is a share of a whole video; here the number of frames written, which has no end.
        slope, bias = self.route[i]
        gamma = torch.sigmoid(slope * ((memory[:, -1, 0] + 1) / self.horizon).log() + bias)
        return gamma[:, None, None].to(found.dtype) * found

    def _open(self, memory: Float[Tensor, "b m e"]) -> Float[Tensor, "l b g k v"]:
        return rearrange(memory[:, :-1], "b (l g k) v -> l b g k v", g=self.num_heads, k=self.dim_key)
