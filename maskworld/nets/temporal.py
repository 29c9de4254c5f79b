"""The frame that was dropped, from the others: deformable attention over bird's-eye maps, in a short and a long branch.

The volumes of the other frames stand in the dropped one's frame already (`voxel.warp`): what is left to find is what
moved by itself. Offsets are in cells, to be read as a motion of several guesses for every cell.

Sections: deformable attention - branches - the decoder.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskworld.nets.embed import sinusoidal

# -- deformable attention ---------------------------------------------------------------------------


def deform(
    values: Float[Tensor, "b t g e y x"],
    offsets: Float[Tensor, "b t g p y x 2"],
    weights: Float[Tensor, "b t g p y x"],
) -> Float[Tensor, "b g e y x"]:
    """Each cell reads every frame at p places around itself, weighs them, and takes the mean over frames.

    `offsets` are (x, y) in cells from the cell's own centre, one set for each head g; bilinear, zeros beyond the map
    (Zhu et al. 2021, Eq. 2).
    """
    b, t, _, p, y, x = weights.shape
    full = _full(torch.promote_types(values.dtype, offsets.dtype))
    size = torch.tensor([x, y], device=values.device, dtype=full)
    row, column = (torch.arange(n, device=values.device, dtype=full) + 0.5 for n in (y, x))
    own = torch.stack(torch.meshgrid(row, column, indexing="ij")[::-1], dim=-1)
    place = (own + offsets.to(full)) * (2 / size) - 1
    with torch.autocast(values.device.type, enabled=False):
        found = F.grid_sample(
            rearrange(values, "b t g e y x -> (b t g) e y x").to(full),
            rearrange(place, "b t g p y x two -> (b t g) (p y) x two"),
            align_corners=False,
        )
    found = rearrange(found, "(b t g) e (p y) x -> b t g e p y x", b=b, t=t, p=p)
    return ((found * weights[:, :, :, None].to(full)).sum(4).sum(1) / t).to(values.dtype)


def _full(dtype: torch.dtype) -> torch.dtype:
    """Float32 at the least: half precision cannot say where a place lies."""
    return torch.promote_types(dtype, torch.float32)


def ring(heads: int, points: int) -> Float[Tensor, "g p 2"]:
    """Offsets to begin with: a direction for each head, one cell further for each point (Zhu et al. 2021, App. A.4)."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    return direction[:, None] * torch.arange(1, points + 1)[:, None]


class DeformableAttention(nn.Module):
    """Every cell's query says where it looks in each frame, and how much each place counts; never the values.

    Each of the `gaps` in time has an offset and a score of its own, for what moves is further away in a frame that is
    further away. Raises ValueError where the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, points: int, gaps: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads, self.points, self.gaps = heads, points, gaps
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.offset = nn.Linear(dim, gaps * heads * points * 2)
        self.score = nn.Linear(dim, gaps * heads * points)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.offset, self.score):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offset.bias.copy_(ring(heads, points).flatten().repeat(gaps))

    def forward(
        self,
        query: Float[Tensor, "b y x d"],
        position: Float[Tensor, "y x d"],
        values: Float[Tensor, "b t y x d"],
        which: Int[Tensor, " t"],
    ) -> Float[Tensor, "b y x d"]:
        """`which` says at which gap each frame lies, by its place in the table."""
        g, p = self.heads, self.points
        asked = query + position
        offsets = self._at(self.offset, which, asked)
        scores = self._at(self.score, which, asked)
        found = deform(
            rearrange(self.value(values), "b t y x (g e) -> b t g e y x", g=g),
            rearrange(offsets, "b y x (t g p two) -> b t g p y x two", g=g, p=p, two=2),
            rearrange(scores, "b y x (t g p) -> b t g p y x", g=g, p=p).softmax(3, dtype=_full(scores.dtype)),
        )
        return self.out(rearrange(found, "b g e y x -> b y x (g e)"))

    def _at(self, layer: nn.Linear, which: Tensor, asked: Tensor) -> Tensor:
        """Only the rows of the gaps that are there."""
        weight = rearrange(layer.weight, "(n o) d -> n o d", n=self.gaps)[which]
        bias = rearrange(layer.bias, "(n o) -> n o", n=self.gaps)[which]
        return F.linear(asked, weight.flatten(0, 1), bias.flatten())


# -- branches ---------------------------------------------------------------------------------------


def sine(cells: tuple[int, int], dim: int) -> Float[Tensor, "y x d"]:
    """Where a cell stands: sines and cosines of its row, then of its column, both from 0 to 2 pi over the map.

    Raises ValueError for a width that 4 does not divide.
    """
    if dim % 4:
        raise ValueError(f"rows and columns share a width that 4 divides, not {dim}")
    row, column = (sinusoidal((torch.arange(n) + 0.5) * (2 * math.pi / n), dim // 2) for n in cells)
    y, x = cells
    return torch.cat([row[:, None].expand(-1, x, -1), column[None].expand(y, -1, -1)], dim=-1)


class _Layer(nn.Module):
    """Deformable attention, norm, MLP, norm; each adds to what came in."""

    def __init__(self, dim: int, heads: int, points: int, gaps: int):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, points, gaps)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, query: Tensor, position: Tensor, values: Tensor, which: Tensor) -> Tensor:
        query = self.norm1(query + self.attention(query, position, values, which))
        return self.norm2(query + self.mlp(query))


class Branch(nn.Module):
    """Learned queries, one for each cell of the map, ask the frames in several layers."""

    position: Tensor

    def __init__(self, dim: int, cells: tuple[int, int], layers: int, heads: int, points: int, gaps: int):
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(*cells, dim))
        self.layers = nn.ModuleList(_Layer(dim, heads, points, gaps) for _ in range(layers))
        self.register_buffer("position", sine(cells, dim), persistent=False)

    def forward(self, values: Float[Tensor, "b t y x d"], which: Int[Tensor, " t"]) -> Float[Tensor, "b y x d"]:
        query = self.queries.expand(values.shape[0], -1, -1, -1)
        for layer in self.layers:
            query = layer(query, self.position, values, which)
        return query


# -- the decoder ------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """The volume of a dropped frame from those of the others, aligned to it: height to channel, two branches, back.

    The short branch sees the frames next to the dropped one, the long branch all (MIM4D; long-short decoder of HoP,
    Zong et al. 2023). `cells` are those of the map (y, x), `frames` is the largest gap in time. Raises ValueError for
    widths that the heads or the position do not divide, and for sizes below one.
    """

    def __init__(
        self,
        channels: int,
        heights: int,
        cells: tuple[int, int],
        frames: int,
        dim_short: int = 128,
        dim_long: int = 64,
        layers: int = 2,
        heads: tuple[int, int] = (4, 2),
        points: int = 4,
    ):
        super().__init__()
        if min(channels, heights, *cells, frames, layers, *heads, points) < 1:
            raise ValueError("channels, heights, cells, frames, layers, heads and points are one or more, each")
        self.heights, self.cells, self.frames = heights, cells, frames
        flat, gaps = channels * heights, 2 * frames
        self.enter = nn.Sequential(nn.Linear(flat, dim_short, bias=False), nn.LayerNorm(dim_short))
        # differs: a vector, offsets and scores for each gap in time, where the original has them for each place in the
        # list of frames left, in which the same place is another gap as soon as another frame is dropped.
        self.gap = nn.Parameter(0.02 * torch.randn(gaps, dim_short))
        self.reduce = nn.Sequential(nn.Linear(dim_short, dim_long), nn.LayerNorm(dim_long))
        self.short = Branch(dim_short, cells, layers, heads[0], points, gaps)
        self.long = Branch(dim_long, cells, layers, heads[1], points, gaps)
        self.join = nn.Conv2d(dim_short + dim_long, flat, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(flat)

    def forward(
        self, aligned: Float[Tensor, "b t c z y x"], gaps: Int[Tensor, " t"], short: Bool[Tensor, " t"]
    ) -> Float[Tensor, "b c z y x"]:
        """`gaps` are frame numbers less that of the dropped one, `short` says which frames the short branch sees.

        The order of the frames does not matter. Raises ValueError where a gap is 0 or larger than `frames`, where the
        short branch would see nothing, or where the volumes are of another size.
        """
        self._check(aligned, gaps, short)
        flat = rearrange(aligned, "b t c z y x -> b t y x (c z)")
        which = gaps + self.frames - (gaps > 0).to(gaps.dtype)
        values = self.enter(flat) + self.gap[which][:, None, None]
        near = self.short(values[:, short], which[short])
        far = self.long(self.reduce(values), which)
        joined = self.join(rearrange(torch.cat([near, far], dim=-1), "b y x d -> b d y x"))
        volume = self.norm(rearrange(joined, "b d y x -> b y x d"))
        return rearrange(volume, "b y x (c z) -> b c z y x", z=self.heights)

    def _check(self, aligned: Tensor, gaps: Tensor, short: Tensor) -> None:
        if tuple(aligned.shape[-3:]) != (self.heights, *self.cells):
            there, here = tuple(aligned.shape[-3:]), (self.heights, *self.cells)
            raise ValueError(f"volumes of {there} cells (z, y, x), and the decoder was made for {here}")
        numbers = gaps.tolist()
        if any(gap == 0 or abs(gap) > self.frames for gap in numbers):
            raise ValueError(f"gaps of 1 to {self.frames} frames before or after the dropped one, not {numbers}")
        if not any(short.tolist()):
            raise ValueError("the short branch needs at least one frame to look at")
