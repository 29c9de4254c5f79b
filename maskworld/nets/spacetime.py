"""Space, time and view: the three attentions of a video transformer, each in a block that is modulated frame by frame.

Tokens lie on a grid, (b, v, t, gh, w, d): view, frame, row, place in the row. Where an encoder drops tokens it drops
as many in every row, and what is kept slides left: time attention then looks along places, not columns (MaskGWM,
Sec. 3.3), and view attention along the rows of all views (Sec. 3.4).
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.nets.attention import attend

Over = Literal["space", "time", "times", "view", "views"]

# How tokens stand in heads, and back: "time" looks at one place of all frames, "times" at one row of them; "view" looks
# at one row of all views, "views" at all of them.
_APART: dict[Over, str] = {
    "space": "b v t gh w (g e) -> (b v t) g (gh w) e",
    "time": "b v t gh w (g e) -> (b v) (gh w g) t e",
    "times": "b v t gh w (g e) -> (b v gh) g (t w) e",
    "view": "b v t gh w (g e) -> (b t gh) g (v w) e",
    "views": "b v t gh w (g e) -> (b t) g (v gh w) e",
}
_ANGLES: dict[Over, str] = {
    "space": "b v t gh w p -> (b v t) 1 (gh w) p",
    "view": "b v t gh w p -> (b t gh) 1 (v w) p",
    "views": "b v t gh w p -> (b t) 1 (v gh w) p",
}
_TOGETHER: dict[Over, str] = {over: " -> ".join(reversed(pattern.split(" -> "))) for over, pattern in _APART.items()}

Grid = Float[Tensor, "b v t gh _ _"]
"""Tokens: so many in a row as there are, of any width."""


class Attention(nn.Module):
    """Self-attention along one of the axes; queries and keys are normalised (Esser et al. 2024, Sec. 5.3.2).

    Raises ValueError where the heads do not divide the width, or have an odd number of channels.
    """

    def __init__(self, dim: int, heads: int, over: Over):
        super().__init__()
        if dim % heads or dim // heads % 2:
            raise ValueError(f"{heads} heads of an even number of channels do not divide a width of {dim}")
        self.heads = heads
        self.over: Over = over
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm_q = nn.Parameter(torch.ones(dim // heads))
        self.norm_k = nn.Parameter(torch.ones(dim // heads))
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Grid,
        angles: Float[Tensor, "b t p"] | Float[Tensor, "b v t gh w p"] | None,
        looks: Bool[Tensor, "n #g q k"] | None,
    ) -> Grid:
        """What each token found, still to go through `out`. `angles` turn queries and keys: by time, in attention over
        time, and by each token's own angles in the others; `looks` is True where one may look."""
        _, v, _, gh, w, _ = x.shape
        parts = [rearrange(part, _APART[self.over], g=self.heads) for part in self.qkv(x).chunk(3, dim=-1)]
        q, k = _normed(parts[0], self.norm_q), _normed(parts[1], self.norm_k)
        if angles is not None and angles.ndim > 3:
            turned = rearrange(angles, _ANGLES[self.over])
            q, k = turn(q, turned), turn(k, turned)
        elif angles is not None:
            pattern = "b t p -> (b v gh) 1 (t w) p" if self.over == "times" else "b t p -> (b v) 1 t p"
            turned = repeat(angles, pattern, **({"v": v, "gh": gh, "w": w} if self.over == "times" else {"v": v}))
            q, k = turn(q, turned), turn(k, turned)
        if looks is not None and self.over == "times":
            looks = repeat(looks, "n 1 q k -> (n gh) 1 (q w) (k x)", gh=gh, w=w, x=w)
        elif looks is not None and looks.shape[1] > 1:  # another for each place: heads lie within places
            looks = looks.repeat_interleave(self.heads, dim=1)
        found = attend(q, k, parts[2], looks)
        return rearrange(found, _TOGETHER[self.over], g=self.heads, v=v, gh=gh, w=w, b=x.shape[0])


def _normed(x: Float[Tensor, "n g t e"], weight: Float[Tensor, " e"]) -> Float[Tensor, "n g t e"]:
    return nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), 1e-6)


def time_angles(times: Float[Tensor, "b t"], dim_head: int) -> Float[Tensor, "b t p"]:
    """By how much each pair of channels is turned at each time (Su et al. 2021), from 1 radian a frame to 1 / 100."""
    rate = 100.0 ** -torch.linspace(0, 1, dim_head // 2, device=times.device)
    return times.float()[..., None] * rate


def bearing_angles(directions: Float[Tensor, "*s 3"], dim_head: int) -> Float[Tensor, "*s p"]:
    """By how much each pair of channels is turned for a ray: whole multiples, 1 to 32, of its angle around the vertical
    axis (x to the right, y down, z ahead), so that a full circle is no turn. Tokens of several cameras that look the
    same way are turned alike (as relative encodings of cameras are: Li et al. 2025)."""
    many = (32.0 ** torch.linspace(0, 1, dim_head // 2, device=directions.device)).round()
    return torch.atan2(directions[..., 0], directions[..., 2])[..., None] * many


def turn(x: Float[Tensor, "n g t e"], angles: Float[Tensor, "#n 1 t p"]) -> Float[Tensor, "n g t e"]:
    """Pairs of channels, turned."""
    one, two = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


class Modulated(nn.Module):
    """Normalise, shift and scale before, gate after, as each frame's vector says: adaLN-zero (Peebles & Xie 2023).

    At the start the gate is shut: the block is the identity.
    """

    def __init__(self, dim: int, dim_told: int, parts: int):
        super().__init__()
        self.parts = parts
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.table = nn.Linear(dim_told, 3 * parts * dim)
        nn.init.zeros_(self.table.weight)
        nn.init.zeros_(self.table.bias)

    def forward(self, told: Float[Tensor, "b v t m"]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(shift, scale, gate) of each part, for each frame."""
        rows = self.table(nn.functional.silu(told))[:, :, :, None, None].chunk(3 * self.parts, dim=-1)
        return [(rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]) for i in range(self.parts)]

    def before(self, x: Grid, shift: Tensor, scale: Tensor) -> Grid:
        return torch.addcmul(shift, self.norm(x).to(scale.dtype), 1 + scale)


def _mlp(dim: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(ratio * dim, dim))


class SpaceBlock(nn.Module):
    """Every token of a frame looks at every other; so does the view block, along rows or at all of all views."""

    def __init__(self, dim: int, dim_told: int, heads: int, ratio: int, over: Over = "space"):
        super().__init__()
        self.attention, self.mlp = Attention(dim, heads, over), _mlp(dim, ratio)
        self.modulate = Modulated(dim, dim_told, 2)

    def forward(
        self,
        x: Grid,
        told: Float[Tensor, "b v t m"],
        looks: Bool[Tensor, "n #g q k"] | None = None,
        only: Int[Tensor, "b v t r"] | None = None,
        angles: Float[Tensor, "b v t gh w p"] | None = None,
    ) -> Grid:
        """All tokens, or those at the places `only`, as a grid of as many rows. `angles` turn queries and keys."""
        (shift, scale, gate), (shift2, scale2, gate2) = self.modulate(told)
        found = self.attention(self.modulate.before(x, shift, scale), angles, looks)
        if only is not None:
            x, found = gather(x, only, x.shape[3]), gather(found, only, x.shape[3])
        x = x + gate * self.attention.out(found)
        return x + gate2 * self.mlp(self.modulate.before(x, shift2, scale2))


class TimeBlock(nn.Module):
    """Every token looks along time, then at what is done: one key and value for each frame's action.

    Without `acts` there is no second attention. `over`: at its own place of all frames, or at its row ("times").
    """

    def __init__(self, dim: int, dim_told: int, heads: int, ratio: int, acts: bool, over: Over = "time"):
        super().__init__()
        self.heads = heads
        self.attention, self.mlp = Attention(dim, heads, over), _mlp(dim, ratio)
        self.modulate = Modulated(dim, dim_told, 3 if acts else 2)
        self.ask = None
        if acts:
            self.ask, self.tell, self.hear = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(
        self,
        x: Grid,
        told: Float[Tensor, "b v t m"],
        angles: Float[Tensor, "b t p"],
        looks: Bool[Tensor, "n #g q k"] | None,
        acts: Float[Tensor, "b t d"] | None,
        feels: Bool[Tensor, "n 1 q k"] | None,
        only: Int[Tensor, "b v t r"] | None = None,
    ) -> Grid:
        """All tokens, or those at the places `only`, as a grid of as many rows. `looks` says which frame may look at
        which, `feels` which frame feels which action: a row of `feels` that is False everywhere feels none."""
        parts = self.modulate(told)
        shift, scale, gate = parts[0]
        found = self.attention(self.modulate.before(x, shift, scale), angles, looks)
        if only is not None:
            x, found = gather(x, only, x.shape[3]), gather(found, only, x.shape[3])
        x = x + gate * self.attention.out(found)
        if self.ask is not None:
            assert acts is not None and feels is not None
            shift, scale, gate = parts[1]
            x = x + gate * self._felt(self.modulate.before(x, shift, scale), acts, feels, angles)
        shift, scale, gate = parts[-1]
        return x + gate * self.mlp(self.modulate.before(x, shift, scale))

    def _felt(self, x: Grid, acts: Tensor, feels: Tensor, angles: Tensor) -> Grid:
        _, v, _, gh, w, _ = x.shape
        assert self.ask is not None
        q = rearrange(self.ask(x), "b v t gh w (g e) -> b g (v t gh w) e", g=self.heads)
        q = turn(q, repeat(angles, "b t p -> b 1 (v t n) p", v=v, n=gh * w))
        k, value = rearrange(self.tell(acts), "b t (two g e) -> two b g t e", two=2, g=self.heads)
        k = turn(k, angles[:, None])
        # One key more, of zeros: who feels no action looks at nothing.
        k, value = (nn.functional.pad(one, (0, 0, 1, 0)) for one in (k, value))
        may = nn.functional.pad(feels, (1, 0), value=True)
        found = attend(q, k, value, repeat(may, "(b v) 1 q k -> b 1 (v q n) k", v=v, n=gh * w))
        return self.hear(rearrange(found, "b g (v t gh w) e -> b v t gh w (g e)", v=v, gh=gh, w=w))


def gather(x: Grid, places: Int[Tensor, "b v t n"], rows: int) -> Float[Tensor, "b v t gh m d"]:
    """The tokens at these places (row x width + column), in this order, as a grid of so many rows."""
    flat = rearrange(x, "b v t gh w d -> b v t (gh w) d")
    found = flat.gather(3, places[..., None].expand(*places.shape, x.shape[-1]))
    return rearrange(found, "b v t (gh m) d -> b v t gh m d", gh=rows)


def scatter(x: Float[Tensor, "b v t gh m d"], places: Int[Tensor, "b v t n"], among: Grid) -> Grid:
    """The tokens back at their places among others; the inverse of `gather`."""
    flat = rearrange(among, "b v t gh w d -> b v t (gh w) d")
    tokens = rearrange(x, "b v t gh m d -> b v t (gh m) d").to(flat.dtype)
    found = flat.scatter(3, places[..., None].expand_as(tokens), tokens)
    return rearrange(found, "b v t (gh w) d -> b v t gh w d", gh=among.shape[3])
