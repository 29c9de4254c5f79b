"""What a volume of features is asked for: layers of a bird's-eye view, boxes, the lines of a map.

    bev = encoder(volume)                  "b c z y x" -> "b d y x"
    logits = segmentation(bev)             road, lanes, vehicles
    maps = centres(bev)                    boxes, found by their centres
    drawn = lines(bev, grid)               polylines, one for each of a fixed number of queries

Places are metres in the frame of the grid (x ahead, y left, z up); a volume is read from above along z. Every loss is
a number for each example, which does not depend on its neighbours in the batch.

Sections: encoder - layers - boxes - lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from maskworld.nets.attention import attend
from maskworld.nets.embed import sinusoidal
from maskworld.nets.unet import conv3x3, num_groups
from maskworld.nets.voxel import Grid

# -- encoder --------------------------------------------------------------------------------------


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them (He et al. 2016), with GroupNorm: examples stay apart."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv0, self.norm0 = conv3x3(dim, dim), nn.GroupNorm(num_groups(dim), dim)
        self.conv1, self.norm1 = conv3x3(dim, dim), nn.GroupNorm(num_groups(dim), dim)

    def forward(self, x: Float[Tensor, "b d y x"]) -> Float[Tensor, "b d y x"]:
        return F.relu(x + self.norm1(self.conv1(F.relu(self.norm0(self.conv0(x))))))


class BEVEncoder(nn.Module):
    """A volume as a map seen from above: its heights become channels, then some residual blocks."""

    def __init__(self, channels: int, heights: int, dim: int, blocks: int = 3):
        super().__init__()
        self.channels, self.heights = channels, heights
        self.project = nn.Conv2d(channels * heights, dim, 1)
        self.norm = nn.GroupNorm(num_groups(dim), dim)
        self.blocks = nn.Sequential(*(_Block(dim) for _ in range(blocks)))

    def forward(self, volume: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b d y x"]:
        """Raises ValueError for a volume of another width or height."""
        if volume.shape[1:3] != (self.channels, self.heights):
            raise ValueError(
                f"this encoder reads {self.channels} channels at {self.heights} heights, not "
                f"{volume.shape[1]} at {volume.shape[2]}"
            )
        flat = rearrange(volume, "b c z y x -> b (c z) y x")
        return self.blocks(F.relu(self.norm(self.project(flat))))


def _branch(dim: int, dim_out: int) -> nn.Sequential:
    """A 3 x 3 convolution, and one of a single cell that says the answer."""
    norm = nn.GroupNorm(num_groups(dim), dim)
    return nn.Sequential(conv3x3(dim, dim), norm, nn.ReLU(), nn.Conv2d(dim, dim_out, 1))


def _rare(layer: nn.Conv2d | nn.Linear, p: float) -> None:
    """Begin with a probability of `p` everywhere, so that the many empty places do not swamp the first steps
    (Lin et al. 2017, Sec. 4.1)."""
    assert layer.bias is not None
    nn.init.constant_(layer.bias, math.log(p / (1 - p)))


def _plane(grid: Grid, like: Tensor) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Where the grid begins, and how far it goes, in metres (x, y)."""
    low, high = like.new_tensor(grid.low[:2]), like.new_tensor(grid.high[:2])
    return low, high - low


def _check_size(features: Tensor, grid: Grid) -> None:
    nx, ny = grid.cells[:2]
    if tuple(features.shape[-2:]) != (ny, nx):
        raise ValueError(f"a grid of {ny} x {nx} cells (y, x) and features of {tuple(features.shape[-2:])}")


# -- layers ---------------------------------------------------------------------------------------


class SegmentationHead(nn.Module):
    """Layers of a map, each with its own yes or no in every cell: logits."""

    def __init__(self, dim: int, layers: int):
        super().__init__()
        self.branch = _branch(dim, layers)

    def forward(self, bev: Float[Tensor, "b d y x"]) -> Float[Tensor, "b k y x"]:
        return self.branch(bev)


def segmentation_loss(
    logits: Float[Tensor, "b k y x"],
    layers: Bool[Tensor, "b k y x"],
    valid: Bool[Tensor, "b y x"] | None = None,
    positive: float = 2.13,
) -> Float[Tensor, " b"]:
    """Binary cross-entropy, the mean over layers and valid cells; what is there weighs `positive` times
    (Philion & Fidler 2020). An example without a valid cell has a loss of 0."""
    weight = torch.where(layers, positive, 1.0)
    if valid is not None:
        weight = weight * valid[:, None]
    error = F.binary_cross_entropy_with_logits(logits.float(), layers.float(), reduction="none") * weight
    num = logits[0].numel() if valid is None else reduce(valid.float(), "b y x -> b", "sum") * logits.shape[1]
    return reduce(error, "b k y x -> b", "sum") / torch.as_tensor(num, device=logits.device).clamp(min=1)


# -- boxes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """The boxes of one example. `centre` is the middle of the box; a velocity that is not known is NaN."""

    label: Int[Tensor, " n"]
    centre: Float[Tensor, "n 3"]  # metres
    size: Float[Tensor, "n 3"]  # length, width, height in metres
    yaw: Float[Tensor, " n"]  # radians, to the left of x
    velocity: Float[Tensor, "n 2"]  # metres/s, along x and y


class Detections(NamedTuple):
    """Boxes that were found, the surest first."""

    boxes: Boxes
    score: Float[Tensor, " n"]


class CentreMaps(NamedTuple):
    """What each cell says of a box whose centre lies in it."""

    heat: Float[Tensor, "b k y x"]  # logits; of targets from 0 to 1
    offset: Float[Tensor, "b 2 y x"]  # from the cell's centre, in cells (x, y): -0.5 to 0.5
    z: Float[Tensor, "b 1 y x"]  # metres
    size: Float[Tensor, "b 3 y x"]  # logarithms of metres
    turn: Float[Tensor, "b 2 y x"]  # sine and cosine of yaw
    velocity: Float[Tensor, "b 2 y x"]  # metres/s


class CentreTargets(NamedTuple):
    maps: CentreMaps
    there: Bool[Tensor, "b y x"]  # a centre lies here


def gaussian_radius(size: Float[Tensor, "n 2"], overlap: float = 0.1) -> Float[Tensor, " n"]:
    """How far two opposite corners of boxes of this size (in cells) may lie off before the overlap (IoU) with the true
    box falls below `overlap` (Law & Deng 2018, Sec. 3.2): the least of both outward, both inward and both one way.

    # differs: the released code of CornerNet and its followers takes (b + sqrt(b^2 - 4ac)) / 2 for each root, which
    # is not one unless a = 1, and is the greater one; these are the roots.
    """
    if not 0 < overlap < 1:
        raise ValueError(f"the least overlap is between 0 and 1, not {overlap}")
    total, area = size.sum(-1), size.prod(-1)
    one_way = _least_root(torch.ones_like(area), -total, area * (1 - overlap) / (1 + overlap))
    inward = _least_root(torch.full_like(area, 4), -2 * total, area * (1 - overlap))
    outward = -2 * overlap * total + (4 * (overlap * total) ** 2 + 16 * overlap * (1 - overlap) * area).sqrt()
    return torch.minimum(torch.minimum(one_way, inward), outward / (8 * overlap))


def _least_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Of a x^2 + b x + c."""
    return (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


class CentreHead(nn.Module):
    """Boxes as points: a heat map for each class, and what a box is like at its centre (Yin et al. 2021, Sec. 4.1)."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.classes = classes
        self.heat = _branch(dim, classes)
        self.box = _branch(dim, 10)
        last = self.heat[-1]
        assert isinstance(last, nn.Conv2d)
        _rare(last, 0.1)

    def forward(self, bev: Float[Tensor, "b d y x"]) -> CentreMaps:
        return CentreMaps(self.heat(bev), *self.box(bev).split([2, 1, 3, 2, 2], dim=1))

    def targets(self, boxes: Sequence[Boxes], grid: Grid, overlap: float = 0.1, least_radius: int = 2) -> CentreTargets:
        """What the maps should be for the boxes of each example. Centres outside the grid are left out, and of two
        centres in a cell the later box is described.

        Raises ValueError for a class that there is not, a size that is not positive, or no examples.
        """
        if not boxes:
            raise ValueError("targets are of at least one example")
        each = [self._targets(one, grid, overlap, least_radius) for one in boxes]
        maps = CentreMaps(*(torch.stack(parts) for parts in zip(*(maps for maps, _ in each), strict=True)))
        return CentreTargets(maps, torch.stack([there for _, there in each]))

    def _targets(
        self, boxes: Boxes, grid: Grid, overlap: float, least_radius: int
    ) -> tuple[list[Tensor], Bool[Tensor, "y x"]]:
        if len(boxes.label) and not 0 <= int(boxes.label.min()) <= int(boxes.label.max()) < self.classes:
            raise ValueError(f"classes are numbered from 0 to {self.classes - 1}, not {boxes.label.tolist()}")
        if not bool((boxes.size > 0).all()):
            raise ValueError("a box has a length, a width and a height of more than 0")
        nx, ny = grid.cells[:2]
        low, span = _plane(grid, boxes.centre)
        cell = span / span.new_tensor([nx, ny])
        place = (boxes.centre[:, :2] - low) / cell
        at = place.floor().long()
        inside = ((at >= 0) & (at < at.new_tensor([nx, ny]))).all(-1)
        place, at, label = place[inside], at[inside], boxes.label[inside]
        centre, size = boxes.centre[inside], boxes.size[inside]
        yaw, velocity = boxes.yaw[inside], boxes.velocity[inside]

        radius = gaussian_radius(size[:, :2] / cell, overlap).floor().clamp(min=least_radius)[:, None, None]
        dx = (torch.arange(nx, device=at.device) - at[:, :1])[:, None]
        dy = (torch.arange(ny, device=at.device) - at[:, 1:])[:, :, None]
        sigma = (2 * radius + 1) / 6
        bump = (-(dx**2 + dy**2) / (2 * sigma**2)).exp() * ((dx.abs() <= radius) & (dy.abs() <= radius))
        heat = centre.new_zeros(self.classes, ny, nx)
        for k in label.unique().tolist():
            heat[k] = bump[label == k].amax(0)

        flat = at[:, 1] * nx + at[:, 0]
        last = torch.full((ny * nx,), -1, device=at.device)
        last = last.scatter_reduce(0, flat, torch.arange(len(flat), device=at.device), "amax")
        there = last >= 0
        turn = torch.stack([yaw.sin(), yaw.cos()], -1)
        parts = []
        for values in (place - at - 0.5, centre[:, 2:], size.log(), turn, velocity):
            part = values.new_zeros(ny * nx, values.shape[1])
            part[there] = values[last[there]]
            parts.append(rearrange(part, "(y x) k -> k y x", x=nx))
        return [heat, *parts], rearrange(there, "(y x) -> y x", x=nx)

    def loss(
        self, maps: CentreMaps, targets: CentreTargets, box: float = 0.25, velocity: float = 0.2
    ) -> dict[str, Float[Tensor, " b"]]:
        """Weighted terms: penalty-reduced focal loss of the heat, with alpha = 2 and beta = 4 (Law & Deng 2018,
        Eq. 1), and L1 of the rest at the centres, of which `velocity` weighs less (Yin et al. 2021).

        # differs: each example is divided by its own number of boxes, not by the batch's.
        """
        logits, heat = maps.heat.float(), targets.maps.heat
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        centre = heat == 1
        gain = torch.where(centre, (1 - logits.sigmoid()) ** 2 * yes, (1 - heat) ** 4 * logits.sigmoid() ** 2 * no)
        num = reduce(centre.float(), "b k y x -> b", "sum").clamp(min=1)
        terms = {"heat": -reduce(gain, "b k y x -> b", "sum") / num}
        weights = {"offset": box, "z": box, "size": box, "turn": box, "velocity": box * velocity}
        made, wanted = maps._asdict(), targets.maps._asdict()
        for name, weight in weights.items():
            valid = targets.there[:, None] & wanted[name].isfinite()
            error = (made[name].float() - torch.where(valid, wanted[name], 0.0)).abs() * valid
            num = reduce(valid.any(1).float(), "b y x -> b", "sum").clamp(min=1)
            terms[name] = weight * reduce(error, "b k y x -> b", "sum") / num
        return terms

    @torch.no_grad()
    def decode(self, maps: CentreMaps, grid: Grid, num: int = 100, least: float = 0.0) -> list[Detections]:
        """The boxes of each example: the `num` surest cells that no neighbour of their class exceeds, with a score
        (a probability) of at least `least`. Raises ValueError for maps of another size than the grid's."""
        _check_size(maps.heat, grid)
        nx, ny = grid.cells[:2]
        low, span = _plane(grid, maps.heat.float())
        heat = maps.heat.float().sigmoid()
        heat = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
        score, place = rearrange(heat, "b k y x -> b (k y x)").topk(min(num, heat[0].numel()))
        label, cell = place // (ny * nx), place % (ny * nx)
        at = torch.stack([cell % nx, cell // nx], -1)

        def pick(values: Float[Tensor, "b k y x"]) -> Float[Tensor, "b n k"]:
            flat = rearrange(values.float(), "b k y x -> b (y x) k")
            return flat.gather(1, repeat(cell, "b n -> b n k", k=flat.shape[2]))

        plane = low + (at + 0.5 + pick(maps.offset)) * span / span.new_tensor([nx, ny])
        centre = torch.cat([plane, pick(maps.z)], -1)
        size, turn, velocity = pick(maps.size).exp(), pick(maps.turn), pick(maps.velocity)
        yaw = torch.atan2(turn[..., 0], turn[..., 1])
        found = []
        for i, sure in enumerate((score >= least) & (score > 0)):
            boxes = Boxes(label[i, sure], centre[i, sure], size[i, sure], yaw[i, sure], velocity[i, sure])
            found.append(Detections(boxes, score[i, sure]))
        return found


# -- lines ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lines:
    """Polylines of one example, each of p points evenly along it. One that ends exactly where it begins is closed."""

    label: Int[Tensor, " m"]
    points: Float[Tensor, "m p 2"]  # metres


class Drawn(NamedTuple):
    """What each query draws, after one layer of the decoder."""

    logit: Float[Tensor, "b n k"]
    points: Float[Tensor, "b n p 2"]  # metres


class Sketch(NamedTuple):
    """Lines that were found, with their scores."""

    lines: Lines
    score: Float[Tensor, " m"]


def resample(points: Float[Tensor, "n 2"], num: int) -> Float[Tensor, "p 2"]:
    """`num` points evenly along a polyline; its ends stay, exactly. Raises ValueError for a line without length."""
    step = points.diff(dim=0).norm(dim=-1)
    if num < 2 or not bool(step.sum() > 0):
        raise ValueError(
            f"a line has a length and at least 2 points: this one has {step.sum():.3g} m, for {num} points"
        )
    along = F.pad(step.cumsum(0), (1, 0))
    want = torch.linspace(0, 1, num, dtype=points.dtype, device=points.device) * along[-1]
    after = torch.searchsorted(along, want, right=True).clamp(1, len(along) - 1)
    part = ((want - along[after - 1]) / step[after - 1].clamp(min=1e-12)).clamp(0, 1)[:, None]
    placed = points[after - 1] + part * (points[after] - points[after - 1])
    return torch.cat([points[:1], placed[1:-1], points[-1:]])


def cut(points: Float[Tensor, "n 2"], grid: Grid) -> list[Float[Tensor, "_ 2"]]:
    """The parts of a polyline that lie within the grid, in order (Liang & Barsky 1984)."""
    low, span = _plane(grid, points)
    begin, way = points[:-1], points.diff(dim=0)
    near, far = (low - begin) / way, (low + span - begin) / way
    still, inside = way == 0, (begin >= low) & (begin <= low + span)
    enter = torch.where(still, torch.where(inside, 0.0, 2.0), torch.minimum(near, far)).amax(-1).clamp(min=0)
    leave = torch.where(still, torch.where(inside, 1.0, -1.0), torch.maximum(near, far)).amin(-1).clamp(max=1)
    parts: list[list[Tensor]] = []
    for i in ((leave > enter) & (~still).any(-1)).nonzero()[:, 0].tolist():
        first = points[i] if enter[i] == 0 else begin[i] + enter[i] * way[i]
        last = points[i + 1] if leave[i] == 1 else begin[i] + leave[i] * way[i]
        if not parts or not torch.equal(parts[-1][-1], first):
            parts.append([first])
        parts[-1].append(last)
    if len(parts) > 1 and torch.equal(parts[0][0], parts[-1][-1]) and torch.equal(points[0], points[-1]):
        parts[0] = parts.pop() + parts[0][1:]  # of a closed line that begins within
    return [torch.stack(part) for part in parts]


def orders(points: Float[Tensor, "m p 2"]) -> tuple[Float[Tensor, "m o p 2"], Bool[Tensor, "m o"]]:
    """Every order of the points that says the same line, and which of the list are real (MapTR, Sec. 3.1): an open
    line in both directions, a closed one also from any of its points on."""
    closed = (points[:, 0] == points[:, -1]).all(-1)
    num = points.shape[1]
    forward = torch.arange(num, device=points.device)
    places = torch.stack([forward, forward.flip(0)])
    if not bool(closed.any()):
        return points[:, places], torch.ones(len(points), 2, dtype=torch.bool, device=points.device)
    around = (torch.arange(num - 1, device=points.device)[:, None] + forward) % (num - 1)  # one start for each row
    ring = torch.cat([around, around.flip(1)])
    ring = rearrange(points[:, ring], "m (way start) p k -> m (start way) p k", way=2)
    line = F.pad(points[:, places], (0, 0, 0, 0, 0, ring.shape[1] - 2))
    real = (torch.arange(ring.shape[1], device=points.device) < 2) | closed[:, None]
    return torch.where(closed[:, None, None, None], ring, line), real


class Match(NamedTuple):
    """Which query draws which line, and in which order its points are taken."""

    query: Int[Tensor, " m"]
    line: Int[Tensor, " m"]
    points: Float[Tensor, "m p 2"]


@torch.no_grad()
def match(
    logit: Float[Tensor, "n k"],
    points: Float[Tensor, "n p 2"],
    truth: Lines,
    span: Float[Tensor, "2"],
    weights: tuple[float, float] = (2.0, 5.0),
) -> Match:
    """The assignment of queries to lines that costs least (MapTR, Sec. 3.2, Eq. 3 to 5): a focal cost of the class, and
    L1 over the points, in units of the plane's extent, in the order that fits best. Every line gets a query.

    Raises ValueError for more lines than queries.
    """
    if len(truth.label) > len(logit):
        raise ValueError(f"{len(logit)} queries cannot draw {len(truth.label)} lines")
    alternatives, real = orders(truth.points.to(points.dtype))
    p, yes, no = logit.float().sigmoid(), F.logsigmoid(logit.float()), F.logsigmoid(-logit.float())
    gain = 0.75 * p**2 * no - 0.25 * (1 - p) ** 2 * yes
    away = points[:, None, None].float() - alternatives[None].float()
    far = reduce(away.abs() / span, "n m o p k -> n m o", "sum").masked_fill(~real, math.inf)
    least, order = far.min(-1)
    cost = weights[0] * gain[:, truth.label] + weights[1] * least
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    query, line = torch.from_numpy(rows).to(logit.device), torch.from_numpy(columns).to(logit.device)
    return Match(query, line, alternatives[line, order[query, line]])


class _Attention(nn.Module):
    """Queries look at tokens, in heads; what they find is added to them."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(
        self, query: Float[Tensor, "b n d"], keys: Float[Tensor, "b m d"], values: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b n d"]:
        def split(x: Tensor) -> Tensor:
            return rearrange(x, "b n (g e) -> b g n e", g=self.heads)

        seen = attend(split(self.q(self.norm(query))), split(self.k(keys)), split(self.v(values)))
        return query + self.out(rearrange(seen, "b g n e -> b n (g e)"))


class _Layer(nn.Module):
    """Queries look at each other, at all cells, and at the cells under their own points; then they move those."""

    def __init__(self, dim: int, heads: int, classes: int, points: int):
        super().__init__()
        self.each_other, self.all_cells = _Attention(dim, heads), _Attention(dim, heads)
        self.look = nn.Conv2d(dim, max(dim // 4, 1), 1)
        self.under = nn.Linear(points * max(dim // 4, 1), dim)
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.label = nn.Linear(dim, classes)
        last = nn.Linear(dim, 2 * points)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        self.move = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), last)
        _rare(self.label, 0.01)

    def forward(
        self,
        query: Float[Tensor, "b n d"],
        place: Float[Tensor, "b n p 2"],
        bev: Float[Tensor, "b d y x"],
        where: Float[Tensor, "m d"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n p 2"]]:
        query = self.each_other(query, query, query)
        cells = rearrange(bev, "b d y x -> b (y x) d")
        query = self.all_cells(query, cells + where, cells)
        seen = self.look(bev).to(place.dtype)  # half precision cannot say where a point lies
        under = F.grid_sample(seen, 2 * place.sigmoid() - 1, align_corners=False)
        query = query + self.under(rearrange(under, "b e n p -> b n (p e)"))
        query = query + self.mix(query)
        moved = rearrange(self.move(self.norm(query)), "b n (p two) -> b n p two", two=2)
        return query, place + moved


class MapHead(nn.Module):
    """A fixed number of queries, each with a class (or none) and a polyline of some points (after MapTR, Liao et al.
    2023).

    # differs: a query is a whole line; it looks at all cells and at those under its points, in place of queries for
    # each point with deformable attention: small, and without a search for where to look.
    """

    reference: Tensor

    def __init__(self, dim: int, classes: int, num: int = 50, points: int = 20, layers: int = 2, heads: int = 4):
        super().__init__()
        if dim % 4 or dim % heads:
            raise ValueError(f"a width of {dim} is cut in four and in {heads} heads: it is a multiple of both")
        self.classes = classes
        self.query = nn.Parameter(torch.randn(num, dim))
        self.reference = nn.Parameter(_first_lines(num, points))
        self.layers = nn.ModuleList(_Layer(dim, heads, classes, points) for _ in range(layers))

    def forward(self, bev: Float[Tensor, "b d y x"], grid: Grid) -> list[Drawn]:
        """What is drawn after each layer; the last is the answer. Raises ValueError for features of another size."""
        _check_size(bev, grid)
        (ny, nx), b = bev.shape[-2:], len(bev)
        rows, columns = (sinusoidal(torch.arange(n, device=bev.device).float(), bev.shape[1] // 2) for n in (ny, nx))
        where = torch.cat([repeat(rows, "y d -> (y x) d", x=nx), repeat(columns, "x d -> (y x) d", y=ny)], -1)
        where = where.to(bev.dtype)
        query, place = repeat(self.query, "n d -> b n d", b=b), repeat(self.reference, "n p k -> b n p k", b=b)
        low, span = _plane(grid, place)
        drawn = []
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            query, place = layer(query, place, bev, where)
            drawn.append(Drawn(layer.label(layer.norm(query)), low + place.sigmoid() * span))
            place = place.detach()
        return drawn

    def loss(
        self,
        drawn: Sequence[Drawn],
        truth: Sequence[Lines],
        grid: Grid,
        weights: tuple[float, float, float] = (2.0, 5.0, 0.005),
    ) -> dict[str, Float[Tensor, " b"]]:
        """Weighted terms, the mean over layers: focal loss of the class, L1 of the points in units of the grid's
        extent, and 1 - the cosine between edges (MapTR, Sec. 3.3), over the lines of an example.

        Raises ValueError for lines of another number of points, classes that there are not, or more than queries.
        """
        if not drawn or len(truth) != len(drawn[0].logit):
            raise ValueError(f"lines of {len(truth)} examples for {len(drawn[0].logit) if drawn else 0} drawn")
        points = drawn[0].points.shape[2]
        for lines in truth:
            if lines.points.shape[1:] != (points, 2):
                raise ValueError(f"lines of {points} points are drawn, not {lines.points.shape[1]}")
            if len(lines.label) and not 0 <= int(lines.label.min()) <= int(lines.label.max()) < self.classes:
                raise ValueError(f"classes are numbered from 0 to {self.classes - 1}, not {lines.label.tolist()}")
        terms: dict[str, list[Tensor]] = {"class": [], "points": [], "direction": []}
        _, span = _plane(grid, drawn[0].points)
        for i, lines in enumerate(truth):
            each = [self._loss(step.logit[i].float(), step.points[i].float(), lines, span, weights) for step in drawn]
            for name, values in zip(terms, zip(*each, strict=True), strict=True):
                terms[name].append(torch.stack(values).mean())
        return {name: torch.stack(values) for name, values in terms.items()}

    def _loss(
        self,
        logit: Float[Tensor, "n k"],
        points: Float[Tensor, "n p 2"],
        truth: Lines,
        span: Float[Tensor, "2"],
        weights: tuple[float, float, float],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        to = match(logit, points, truth, span, weights[:2])
        wanted = torch.zeros_like(logit)
        wanted[to.query, truth.label[to.line]] = 1
        p, num = logit.sigmoid(), max(len(to.line), 1)
        yes, no = F.logsigmoid(logit), F.logsigmoid(-logit)
        label = -(0.25 * wanted * (1 - p) ** 2 * yes + 0.75 * (1 - wanted) * p**2 * no).sum() / num
        made, true = points[to.query], to.points.float()
        off = ((made - true).abs() / span).sum() / num
        turn = (1 - F.cosine_similarity(made.diff(dim=1), true.diff(dim=1), dim=-1)).sum() / num
        return weights[0] * label, weights[1] * off, weights[2] * turn

    @torch.no_grad()
    def decode(self, drawn: Sequence[Drawn], least: float = 0.0) -> list[Sketch]:
        """The lines of each example after the last layer, the surest first: each query's likeliest class, with a
        score (a probability) of at least `least`."""
        score, label = drawn[-1].logit.float().sigmoid().max(-1)
        found = []
        for i in range(len(score)):
            order = score[i].argsort(descending=True)
            order = order[score[i][order] >= least]
            found.append(Sketch(Lines(label[i][order], drawn[-1].points[i][order]), score[i][order]))
        return found


def _first_lines(num: int, points: int) -> Float[Tensor, "n p 2"]:
    """Where queries begin: short lines spread evenly over the plane, along x and y in turn, as logits of 0 to 1."""
    i = torch.arange(num, dtype=torch.float64)[:, None]
    centre = 0.1 + 0.8 * ((0.5 + i * torch.tensor([0.7548776662, 0.5698402910], dtype=torch.float64)) % 1)
    way = F.one_hot(torch.arange(num) % 2, 2).double()
    along = torch.linspace(-0.08, 0.08, points, dtype=torch.float64)
    return torch.logit(centre[:, None] + einsum(along, way, "p, n k -> n p k")).float()
