"""What leaves the window is written into a memory that the network itself holds and learned to use.

Sections: the memory - addresses: what the learned memories that name places share.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from maskworld.clip import Clip, span
from maskworld.memory.base import Cost, after, alike

# -- the memory -----------------------------------------------------------------------------------


class Held(NamedTuple):
    """The last frames, and the state of the network's memory of all those before them."""

    recent: Clip
    memory: Float[Tensor, "b m e"]


@dataclass(frozen=True)
class Evicting:
    """Shows the last `recent` frames; those before them are written into a learned memory, in order, and only once.

    write     (memory or None, frames) -> memory: `Forcing.write` of one name
    empty     number of examples -> memory of nothing
    tokens    tokens that the memory adds to what is shown; 0 where the layers read it beside their attention

    `start` can be differentiated, so that what is written is learned. `store` keeps nothing for gradients: a roll-out
    of any length takes constant memory. Raises ValueError for no recent frames.
    """

    recent: int
    write: Callable[[Tensor | None, Clip], Tensor]
    empty: Callable[[int], Tensor]
    tokens: int

    def __post_init__(self) -> None:
        if self.recent < 1 or self.tokens < 0:
            raise ValueError(f"{self.recent} recent frames and {self.tokens} tokens: at least 1 and at least 0")

    @property
    def cost(self) -> Cost:
        """`kept` counts the frames; the numbers beside them are `size`."""
        return Cost(shown=self.recent, tokens=self.tokens, kept=self.recent)

    @property
    def size(self) -> int:
        """Numbers in the learned memory's state, for one example."""
        return self.empty(1).numel()

    def start(self, clip: Clip) -> Held:
        return self._split(dataclasses.replace(clip, memory=None), None)

    def recall(self, state: Held, ahead: Clip) -> Clip:
        return dataclasses.replace(alike(state.recent, ahead), memory=state.memory)

    @torch.no_grad()
    def store(self, state: Held, new: Clip) -> Held:
        return self._split(after(state.recent, new), state.memory)

    def _split(self, clip: Clip, memory: Tensor | None) -> Held:
        b, _, t, *_ = clip.shape
        out = max(t - self.recent, 0)
        if out:
            memory = self.write(memory, span(clip, 0, out))
        return Held(span(clip, out, t), self.empty(b) if memory is None else memory)


# -- addresses ------------------------------------------------------------------------------------

WAVELENGTHS = (2.3, 3.1, 4.3, 6.7, 13.0, 64.0)
"""In patches; not in octaves, because cameras like to move by powers of two, and would find the same waves again."""

NUM_WAVES = 8 * len(WAVELENGTHS)


def plane_waves(place: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n w"]:
    """Fourier features of rows and columns: sines and cosines that run along both and along both diagonals, so that
    two tokens are alike only where row and column are. Time does not enter."""
    row, column = place[..., 1], place[..., 2]
    along = torch.stack([row, column, row + column, row - column], dim=-1)
    rate = 2 * math.pi / along.new_tensor(WAVELENGTHS)
    angle = rearrange(along[..., None] * rate, "... n four k -> ... n (four k)")
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Address(nn.Module):
    """Keys (or queries) of unit length that can name a place, for several layers and heads at once: SiLU of a
    projection of the hidden features and of where they are. At first the place says nearly all, and most channels are
    near 0, so that far places have keys at nearly right angles."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, dim_key: int):
        super().__init__()
        self.num_heads = num_heads
        self.what = nn.Parameter(torch.randn(num_layers, dim, num_heads * dim_key) * 0.1 * dim**-0.5)
        self.where = nn.Parameter(torch.randn(num_layers, NUM_WAVES, num_heads * dim_key) * (8 / NUM_WAVES) ** 0.5)
        self.bias = nn.Parameter(torch.full((num_layers, 1, 1, num_heads * dim_key), -2.0))

    def forward(
        self, hidden: Float[Tensor, "l b n d"], place: Float[Tensor, "b n 3"], layers: slice
    ) -> Float[Tensor, "l b g n e"]:
        waves = plane_waves(place).to(hidden.dtype).expand(hidden.shape[0], -1, -1, -1)
        x = each_layer(hidden, self.what[layers]) + each_layer(waves, self.where[layers]) + self.bias[layers]
        return F.normalize(precise(heads(F.silu(x), self.num_heads)), dim=-1)


def each_layer(x: Float[Tensor, "l b n d"], weight: Float[Tensor, "l d e"]) -> Float[Tensor, "l b n e"]:
    """Each layer's own projection."""
    return torch.einsum("lbnd,lde->lbne", x, weight.to(x.dtype))


def heads(x: Float[Tensor, "l b n ge"], num_heads: int) -> Float[Tensor, "l b g n e"]:
    return rearrange(x, "l b n (g e) -> l b g n e", g=num_heads)


def precise(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """In float32 at least: states add up many small things."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
