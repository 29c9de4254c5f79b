"""What is true around the car at one frame of a drive, for those who learn from labels: layers of a map seen from
above, boxes, and the lines of the road.

All of it stands in the frame of the car at that time: x ahead, y left, z up, metres, from the ground under its rear
axle. Layers lie x first, as `drive.bev` has them; transposed (`.mT`) they lie as the maps of a network do, "k y x".

Sections: boxes - lines - labels - the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Clip
from maskworld.data import drive
from maskworld.data.drive import DAY, Domain, Drives, Kind, Scene
from maskworld.data.drive_render import FIRST

Extent = tuple[float, float, float, float]
"""x0, x1, y0, y1 around the car, in metres."""

AROUND: Extent = (-25.6, 25.6, -25.6, 25.6)
CELL = 0.8

LAYERS = ("road", "marks", "vehicles", "moving")
CATEGORIES = ("car", "walker")
"""Whom there are boxes of."""
MOVING = 0.5
"""Metres a second from which on something moves."""
LEAST = 1.0
"""Metres: shorter parts of a line are left out."""

# -- boxes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """Cars and walkers around the car, in its frame.

    velocity  over the ground, and not past the car that sees it
    seen      pixels of it in all cameras together at that frame; 0 is hidden, or out of sight
    """

    ids: Int[Tensor, " n"]  # the same in every frame of a scene
    category: tuple[str, ...]
    centre: Float[Tensor, "n 3"]
    size: Float[Tensor, "n 3"]  # length, width, height
    yaw: Float[Tensor, " n"]  # radians to the left of ahead, from -pi to pi
    velocity: Float[Tensor, "n 2"]  # metres/s
    seen: Int[Tensor, " n"]


def boxes_around(scene: Scene, frame: int, ids: Int[Tensor, "*v h w"]) -> Boxes:
    """Every car and walker of the scene at a frame; `ids` is what the cameras see there."""
    every = drive.boxes(scene, frame)
    ego = scene.ego[frame]
    turn, heading = ego[:2, :2], math.atan2(float(ego[1, 0]), float(ego[0, 0]))
    place = (scene.pose[:, frame, :2] - ego[:2, 3]) @ turn
    seen = ids.flatten().bincount(minlength=FIRST + len(every.ids))[every.ids]
    found = Boxes(
        ids=every.ids,
        category=every.category,
        centre=torch.cat([place, every.centre[:, 2:].double() - ego[2, 3]], dim=-1).float(),
        size=every.size,
        yaw=(torch.remainder(scene.pose[:, frame, 2] - heading + math.pi, 2 * math.pi) - math.pi).float(),
        velocity=(every.velocity.double() @ turn).float(),
        seen=seen,
    )
    return some(found, torch.tensor([name in CATEGORIES for name in every.category], dtype=torch.bool))


def some(boxes: Boxes, here: Bool[Tensor, " n"]) -> Boxes:
    """The boxes where `here` is True."""
    return Boxes(
        ids=boxes.ids[here],
        category=tuple(name for name, is_here in zip(boxes.category, here.tolist(), strict=True) if is_here),
        centre=boxes.centre[here],
        size=boxes.size[here],
        yaw=boxes.yaw[here],
        velocity=boxes.velocity[here],
        seen=boxes.seen[here],
    )


def within(boxes: Boxes, extent: Extent) -> Boxes:
    """The boxes whose centres lie within the extent."""
    x0, x1, y0, y1 = extent
    x, y = boxes.centre[:, 0], boxes.centre[:, 1]
    return some(boxes, (x >= x0) & (x < x1) & (y >= y0) & (y < y1))


def footprints(boxes: Boxes, extent: Extent, cell: float) -> Bool[Tensor, "n gx gy"]:
    """The cells whose centres lie under each box; x0, y0 is in the first cell."""
    x0, x1, y0, y1 = extent
    x = x0 + (torch.arange(round((x1 - x0) / cell), dtype=torch.float64) + 0.5) * cell
    y = y0 + (torch.arange(round((y1 - y0) / cell), dtype=torch.float64) + 0.5) * cell
    dx = x[:, None] - boxes.centre[:, 0, None, None].double()
    dy = y[None, :] - boxes.centre[:, 1, None, None].double()
    cos, sin = boxes.yaw.double().cos()[:, None, None], boxes.yaw.double().sin()[:, None, None]
    half = boxes.size.double()[:, :, None, None] / 2
    return ((cos * dx + sin * dy).abs() <= half[:, 0]) & ((cos * dy - sin * dx).abs() <= half[:, 1])


# -- lines ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A part of a polyline of the map, in the frame of the car."""

    kind: Kind
    points: Float[Tensor, "n 2"]


def lines_around(scene: Scene, frame: int, extent: Extent) -> tuple[Line, ...]:
    """The lines of `drive.lanes` within the extent, where the ground shows them: roads that run into each other have
    neither kerbs nor marks there. One that leaves the extent, or is interrupted, and goes on is two."""
    ego, found = scene.ego[frame], []
    turn, place = ego[:2, :2], ego[:2, 3]
    for line in drive.lanes(scene):
        for part in _within((line.points - place) @ turn, extent):
            there = _shown(scene, line.kind, part @ turn.T + place)
            found.extend(Line(line.kind, (each - place) @ turn) for each in there)
    return tuple(Line(line.kind, line.points.float()) for line in found)


_STEP, _GAP = 0.5, 3.0  # metres: of looking along a line; up to which a gap is one between dashes


def _shown(scene: Scene, kind: Kind, points: Float[Tensor, "n 2"]) -> list[Float[Tensor, "_ 2"]]:
    """The parts of a polyline where the ground is as such a line has it; world metres."""
    way = points.diff(dim=0)
    length = way.norm(dim=-1)
    ends = F.pad(length.cumsum(0), (1, 0))
    num = max(round(float(ends[-1]) / _STEP), 1)
    at = (torch.arange(num, dtype=points.dtype) + 0.5) * ends[-1] / num
    i = (torch.searchsorted(ends, at, right=True) - 1).clamp(0, len(way) - 1)
    ahead = way[i] / length[i, None]
    middle = points[i] + (at - ends[i])[:, None] * ahead
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], dim=-1)
    if kind == "centre":
        real = _on(scene, scene.road, middle)
    elif kind == "kerb":
        real = _on(scene, scene.road, middle + 0.5 * left) ^ _on(scene, scene.road, middle - 0.5 * left)
    else:
        real = torch.stack([_on(scene, scene.marks, middle + side * left) for side in (-0.2, 0.0, 0.2)]).any(0)
    runs: list[list[float]] = []
    for k in real.nonzero()[:, 0].tolist():
        begin, end = k * float(ends[-1]) / num, (k + 1) * float(ends[-1]) / num
        if runs and begin - runs[-1][1] <= _GAP:
            runs[-1][1] = end
        else:
            runs.append([begin, end])
    found = []
    for begin, end in (run for run in runs if run[1] - run[0] >= LEAST):
        inner = points[(ends > begin + 1e-6) & (ends < end - 1e-6)]
        rims = torch.tensor([begin, end], dtype=points.dtype)
        j = (torch.searchsorted(ends, rims, right=True) - 1).clamp(0, len(way) - 1)
        rim = points[j] + ((rims - ends[j]) / length[j])[:, None] * way[j]
        found.append(torch.cat([rim[:1], inner, rim[1:]]))
    return found


def _on(scene: Scene, picture: Bool[Tensor, "y x"], points: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """What the picture of the ground has at these places; nothing beyond its rim."""
    ground, (ny, nx) = scene.ground, picture.shape
    x, y = ((points - points.new_tensor(ground.origin)) / ground.cell).floor().long().unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < nx) & (y < ny)
    return picture[y.clamp(0, ny - 1), x.clamp(0, nx - 1)] & inside


def _within(points: Float[Tensor, "n 2"], extent: Extent) -> list[Float[Tensor, "_ 2"]]:
    """Each step is cut where it crosses the four sides; steps that follow each other uncut stay one line."""
    x0, x1, y0, y1 = extent
    low, high = points.new_tensor([x0, y0]), points.new_tensor([x1, y1])
    begin, way = points[:-1], points.diff(dim=0)
    over = torch.where(way.abs() < 1e-12, 1e-12, way)
    sides = torch.stack([(low - begin) / over, (high - begin) / over])
    enter, leave = sides.amin(0).amax(-1).clamp(min=0), sides.amax(0).amin(-1).clamp(max=1)
    parts: list[list[Tensor]] = []
    last = -2  # the step that the last part goes on from, if it does
    for i in (leave > enter).nonzero()[:, 0].tolist():
        if i != last + 1 or enter[i] > 0:
            parts.append([begin[i] + enter[i] * way[i]])
        parts[-1].append(begin[i] + leave[i] * way[i])
        last = i if leave[i] == 1 else -2
    whole = [torch.stack(part) for part in parts]
    return [part for part in whole if part.diff(dim=0).norm(dim=-1).sum() >= LEAST]


# -- labels -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """A clip, and what is true around the car at one of its frames."""

    clip: Clip
    frame: int  # of the clip
    bev: Bool[Tensor, "layer gx gy"]  # the layers of LAYERS
    boxes: Boxes
    lines: tuple[Line, ...]


def labelled(
    drives: Drives,
    index: int,
    frame: int = -1,
    extent: Extent = AROUND,
    cell: float = CELL,
) -> Labelled:
    """Clip number `index` of the drives with its labels at one of its frames; -1 is the last one.

    Raises ValueError for a frame that the clip does not have, or an extent without cells.
    """
    if not -drives.num_frames <= frame < drives.num_frames:
        raise ValueError(f"frames from 0 to {drives.num_frames - 1} of the clip, or from its end, not {frame}")
    frame %= drives.num_frames
    scene, (_, start) = drives.scene(index), drives.place(index)
    now = start + frame
    layers = drive.bev(scene, now, extent, cell)  # which refuses a wrong extent before anything is rendered
    rig = drive.rig(drives.cameras, drives.size, drives.domain)
    views = drive.render(scene, rig, range(start, start + drives.num_frames))
    every = boxes_around(scene, now, views.ids[:, frame])
    quick = torch.tensor([name == "car" for name in every.category], dtype=torch.bool)
    quick &= every.velocity.norm(dim=-1) >= MOVING
    # Rounding may move the rim of a box by a cell: what moves is never more than what is there.
    moving = footprints(some(every, quick), extent, cell).any(0) & layers[2]
    return Labelled(
        clip=drive.as_clip(scene, rig, start, views, drives.depth),
        frame=frame,
        bev=torch.cat([layers, moving[None]]),
        boxes=within(every, extent),
        lines=lines_around(scene, now, extent),
    )


# -- the source -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledDrives:
    """`num` labelled clips, or the first `share` of them: who has 1 % of the labels has a part of who has 10 %.

    A function of the fields and the index alone; numbers past the last start again. `frame` is the one with labels, -1
    the last.
    """

    num_frames: int
    cameras: int = 6
    size: tuple[int, int] = (96, 160)  # height, width
    fps: float = 5.0
    domain: Domain = DAY
    split: Literal["train", "valid", "test"] = "train"
    seed: int = 0
    extent: Extent = AROUND
    cell: float = CELL
    num: int = 1000
    share: float = 1.0
    frame: int = -1
    depth: bool = False

    def __post_init__(self) -> None:
        assert self.drives, "which refuse what no drive can be"
        if self.num < 1:
            raise ValueError(f"at least one labelled example, not {self.num}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is more than 0 and at most 1, not {self.share}")
        if not -self.num_frames <= self.frame < self.num_frames:
            raise ValueError(f"frames from 0 to {self.num_frames - 1} of a clip, or from its end, not {self.frame}")

    @property
    def drives(self) -> Drives:
        """The clips, and more of them, without labels."""
        return Drives(
            self.num_frames, self.cameras, self.size, self.fps, self.domain, self.split, self.seed, self.depth
        )

    def __len__(self) -> int:
        return max(1, round(self.share * self.num))

    def __call__(self, index: int) -> Labelled:
        if index < 0:
            raise ValueError(f"examples are numbered from 0, not {index}")
        return labelled(self.drives, index % len(self), self.frame, self.extent, self.cell)
