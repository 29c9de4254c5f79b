"""A drive through a small town, seen by one to six cameras: frames, depth, ids, flow, boxes, map, poses and actions.

A `Scene` follows from its seed: a road with bends and junctions, what stands along it, who moves on it, and an ego car
that drives in its right lane, stops and starts. `render` shows it to a `Rig` of cameras; neither is drawn at random
there. A `Domain` says how the same town differs: light, haze, lens, mount, density, speed, each a separate switch.

World: x and y on the ground, z up, metres. Ego: x ahead, y left, origin on the ground under the rear axle (nuScenes).
Camera: x right, y down, z ahead; a pixel's centre lies at +0.5.

Sections: domains and cameras - the scene - views - the map - the source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Cameras, Clip
from maskworld.data import drive_render as draw
from maskworld.data import drive_town as town
from maskworld.noise import mix

SPLITS = ("train", "valid", "test")

# -- domains and cameras ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Domain:
    """How a drive looks and goes. Each field is a switch of its own: it changes nothing else."""

    light: Literal["day", "night"] = "day"
    haze: float = 0.0  # 0 clear to 1 like heavy rain
    fov: float = 70.0  # horizontal field of view, degrees
    height: float = 1.5  # of the cameras, metres
    density: float = 1.0  # of cars, walkers, trees and buildings, 0 to 2
    speed: float = 1.0  # factor on the ego's speeds

    def __post_init__(self) -> None:
        if self.light not in ("day", "night"):
            raise ValueError(f"light is day or night, not {self.light!r}")
        limits = {"haze": (0, 1), "fov": (20, 120), "height": (0.3, 5), "density": (0, 2), "speed": (0.1, 2)}
        given = {"haze": self.haze, "fov": self.fov, "height": self.height}
        given |= {"density": self.density, "speed": self.speed}
        for name, (low, high) in limits.items():
            if not low <= given[name] <= high:
                raise ValueError(f"{name} is from {low} to {high}, not {given[name]}")


DAY = Domain()
SHIFTED = Domain("night", fov=55.0, height=2.2)
"""Never trained on: other light, lens and mount at once."""

YAWS = {"front_left": 60.0, "front": 0.0, "front_right": -60.0, "back_right": -120.0, "back": 180.0, "back_left": 120.0}
"""Degrees to the left; the order is that of six cameras."""

_RIGS = {
    1: ("front",),
    2: ("front", "back"),
    3: ("front_left", "front", "front_right"),
    4: ("front_left", "front", "front_right", "back"),
    5: ("front_left", "front", "front_right", "back_right", "back_left"),
    6: tuple(YAWS),
}
_MOUNT, _OUT = 1.5, 0.3  # metres ahead of the rear axle, and from there in each camera's direction


@dataclass(frozen=True)
class Rig:
    """Level cameras on a car. `mount` maps camera to ego, `yaw` is in radians to the left."""

    names: tuple[str, ...]
    yaw: Float[Tensor, " v"]
    intrinsics: Float[Tensor, "v 3 3"]
    mount: Float[Tensor, "v 4 4"]
    size: tuple[int, int]


def rig(num: int = 6, size: tuple[int, int] = (96, 160), domain: Domain = DAY) -> Rig:
    """One to six cameras around the car, 60 degrees apart; frames of `size` (height, width)."""
    if num not in _RIGS:
        raise ValueError(f"1 to 6 cameras, not {num}")
    h, w = size
    if min(h, w) < 8:
        raise ValueError(f"frames of at least 8 x 8 pixels, not {h} x {w}")
    names = _RIGS[num]
    yaw = torch.tensor([math.radians(YAWS[name]) for name in names])
    focal = w / 2 / math.tan(math.radians(domain.fov) / 2)
    intrinsics = torch.tensor([[focal, 0.0, w / 2], [0.0, focal, h / 2], [0.0, 0.0, 1.0]])
    mount = torch.zeros(num, 4, 4)
    cos, sin = yaw.cos(), yaw.sin()
    mount[:, 0, 0], mount[:, 1, 0] = sin, -cos  # right
    mount[:, 2, 1] = -1.0  # down
    mount[:, 0, 2], mount[:, 1, 2] = cos, sin  # ahead
    mount[:, 0, 3], mount[:, 1, 3], mount[:, 2, 3] = _MOUNT + _OUT * cos, _OUT * sin, domain.height
    mount[:, 3, 3] = 1.0
    return Rig(names, yaw, intrinsics.expand(num, 3, 3).clone(), mount, (h, w))


# -- the scene ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A drive of `num_frames` frames and everything along it. Objects have one more pose than there are frames."""

    seed: int
    fps: float
    domain: Domain
    ego: Float[Tensor, "t 4 4"]  # ego to world, float64
    actions: Float[Tensor, "t 2"]  # speed (m/s), curvature (1/m, positive to the left)
    category: tuple[str, ...]
    size: Float[Tensor, "n 3"]  # length, width, height
    pose: Float[Tensor, "n u 3"]  # x, y, yaw at each frame, float64
    prisms: draw.Prisms
    ground: draw.Ground
    road: Bool[Tensor, "y x"]
    marks: Bool[Tensor, "y x"]
    route: town.Route
    roads: tuple[town.Road, ...]
    crossings: tuple[tuple[float, float], ...]  # where on the route there are no marks
    reach: tuple[float, float]  # of the route: first and last metre that is a road

    @property
    def num_frames(self) -> int:
        return len(self.actions)


def scene(seed: int, num_frames: int, fps: float = 10.0, domain: Domain = DAY) -> Scene:
    """The drive of this seed. The same seed gives the same town and way in every domain."""
    if seed < 0:
        raise ValueError(f"seed is 0 or more, not {seed}")
    if num_frames < 1:
        raise ValueError(f"at least one frame, not {num_frames}")
    if not 0.5 <= fps <= 100:
        raise ValueError(f"fps is from 0.5 to 100, not {fps}")
    later = math.ceil(3 * fps)
    trip = town.travel(seed, num_frames + later, fps, domain.speed)
    route, junctions, s = trip.route, trip.junctions, trip.progress
    roads = town.side_roads(route, junctions)
    passed, last = trip.pose[:num_frames], float(s[num_frames])
    roads = [r for r in roads if np.square(passed[:, :2] - r.origin).sum(-1).min() < (town.AROUND + town.STUB) ** 2]
    things = town.Things(num_frames)
    town.populate(things, route, junctions, roads, passed, s, fps, domain.density, seed)
    reach = (-town.AROUND - 40, last + town.AROUND + 40)
    picture = town.paint(route, junctions, roads, passed, reach, np.random.default_rng([seed, 3]))

    levels = [torch.from_numpy(picture.colour)[None]]
    for _ in range(4):
        levels.append(F.avg_pool2d(levels[-1], 2))
    columns = list(zip(*things.prisms, strict=True)) if things.prisms else [()] * 8
    ahead, half_l, half_w, z0, z1, is_round, colour, material = columns
    prisms = draw.Prisms(
        owner=torch.tensor(things.owner, dtype=torch.int64),
        offset=torch.tensor(ahead, dtype=torch.float32),
        half=torch.tensor([half_l, half_w], dtype=torch.float32).T.contiguous(),
        z=torch.tensor([z0, z1], dtype=torch.float32).T.contiguous(),
        round=torch.tensor(is_round, dtype=torch.bool),
        colour=torch.tensor(colour, dtype=torch.float32).reshape(-1, 3),
        material=torch.tensor(material, dtype=torch.int64),
    )
    matrices = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    x, y, yaw = torch.from_numpy(passed).unbind(-1)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 0, 3] = yaw.cos(), -yaw.sin(), x
    matrices[:, 1, 0], matrices[:, 1, 1], matrices[:, 1, 3] = yaw.sin(), yaw.cos(), y
    pose = np.stack(things.path) if things.path else np.zeros((0, num_frames + 1, 3))
    return Scene(
        seed=seed,
        fps=float(fps),
        domain=domain,
        ego=matrices,
        actions=torch.from_numpy(trip.actions[:num_frames]).float(),
        category=tuple(things.category),
        size=torch.tensor(things.size, dtype=torch.float32).reshape(-1, 3),
        pose=torch.from_numpy(pose),
        prisms=prisms,
        ground=draw.Ground(tuple(levels), picture.corner, town.CELL),
        road=torch.from_numpy(picture.road),
        marks=torch.from_numpy(picture.marks),
        route=route,
        roads=tuple(roads),
        crossings=tuple((j.start - 3.5, j.stop + 3.5) for j in junctions),
        reach=reach,
    )


# -- views --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """What the cameras of a rig see, and what is true of it."""

    rgb: Float[Tensor, "v t 3 h w"]  # in [-1, 1]
    depth: Float[Tensor, "v t h w"]  # metres along the optical axis; 0 is sky
    ids: Int[Tensor, "v t h w"]  # 0 sky, 1 ground, 2 and more: objects, in the scene's order
    flow: Float[Tensor, "v t 3 h w"]  # metres, in world axes, until the next frame; 0 where nothing moves


_BATCH = 150_000  # pixels at once on a CPU: what stays in its cache


def _light(domain: Domain, seed: int) -> draw.Light:
    angle = 2 * math.pi * (mix(seed, 3) % 1000) / 1000
    fog = 0.0035 + 0.045 * domain.haze**1.5
    if domain.light == "night":
        grey = domain.haze * 0.05
        horizon = (0.09 + grey, 0.10 + grey, 0.16 + grey)
        return draw.Light(
            True, (math.cos(angle), math.sin(angle)), (0.015, 0.02, 0.06), horizon, (0.28, 0.30, 0.39), fog
        )
    part = domain.haze
    horizon = tuple(a + part * (b - a) for a, b in zip((0.80, 0.87, 0.94), (0.68, 0.70, 0.72), strict=True))
    return draw.Light(False, (math.cos(angle), math.sin(angle)), (0.30, 0.52, 0.86), horizon, (1.0, 1.0, 1.0), fog)  # type: ignore[arg-type]


def _poses(scene: Scene, rig: Rig, frames: Sequence[int]) -> Float[Tensor, "v t 4 4"]:
    """Camera to world, float64."""
    return scene.ego[list(frames)][None] @ rig.mount.double()[:, None]


@torch.no_grad()
def render(scene: Scene, rig: Rig, frames: Sequence[int] | None = None, device: torch.device | str = "cpu") -> Views:
    """What the rig's cameras see at these frames of the scene; at all of them by default."""
    frames = range(scene.num_frames) if frames is None else list(frames)
    if not len(frames) or min(frames) < 0 or max(frames) >= scene.num_frames:
        raise ValueError(f"frames from 0 to {scene.num_frames - 1}, not {list(frames)[:8]}")
    h, w = rig.size
    v, device = len(rig.names), torch.device(device)
    fx, fy, cx, cy = (float(rig.intrinsics[0][i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    slope = ((torch.arange(w, dtype=torch.float64) + 0.5 - cx) / fx).float().to(device)
    rise = (cy - torch.arange(h, dtype=torch.float64) - 0.5) / fy
    rise = torch.where(rise == 0, -1e-6, rise).float().to(device)
    prisms = draw.Prisms(*(each.to(device) for each in vars(scene.prisms).values()))
    levels = tuple(level.to(device) for level in scene.ground.levels)
    light = _light(scene.domain, scene.seed)
    poses = _poses(scene, rig, frames)
    at = torch.tensor(list(frames))
    motion = scene.pose[:, at + 1] - scene.pose[:, at]
    yaws = torch.atan2(scene.ego[at, 1, 0], scene.ego[at, 0, 0])

    def every_view(x: Float[Tensor, "t n d"]) -> Float[Tensor, "vt n d"]:
        return repeat(x.float().to(device), "t n d -> (v t) n d", v=v)

    num = max(1, (_BATCH if device.type == "cpu" else 16 * _BATCH) // (v * h * w))
    shape = (v, len(frames), h, w)
    rgb = torch.empty(v, len(frames), 3, h, w, device=device)
    flow = torch.empty(v, len(frames), 3, h, w, device=device)
    depth, ids = torch.empty(shape, device=device), torch.empty(shape, dtype=torch.int64, device=device)
    for first in range(0, len(frames), num):
        some = slice(first, first + num)
        t = len(at[some])
        # All lengths from a point nearby: single precision is fine to a few micrometres there.
        near = poses[0, first, :2, 3].clone()
        ego = torch.cat([scene.ego[at[some], :2, 3] - near, yaws[some, None]], dim=-1)
        pose = scene.pose[:, at[some]].transpose(0, 1) - torch.cat([near, torch.zeros(1, dtype=torch.float64)])
        cameras = draw.Level(
            place=rearrange(poses[:, some, :2, 3] - near, "v t d -> (v t) d").float().to(device),
            height=rearrange(poses[:, some, 2, 3], "v t -> (v t)").float().to(device),
            ahead=rearrange(poses[:, some, :2, 2], "v t d -> (v t) d").float().to(device),
            slope=slope,
            rise=rise,
            ego=every_view(ego[:, None])[:, 0],
        )
        x, y = (near - torch.tensor(scene.ground.origin, dtype=torch.float64)).tolist()
        ground = draw.Ground(levels, (-x, -y), scene.ground.cell)
        seen = draw.cast(
            prisms,
            every_view(pose)[:, prisms.owner],
            every_view(motion[:, some].transpose(0, 1)),
            ground,
            light,
            cameras,
        )
        rgb[:, some] = rearrange(seen.rgb, "c (v t) h w -> v t c h w", v=v, t=t).clamp(0, 1) * 2 - 1
        flow[:, some] = rearrange(seen.flow, "c (v t) h w -> v t c h w", v=v, t=t)
        depth[:, some] = rearrange(seen.depth, "(v t) h w -> v t h w", v=v, t=t)
        ids[:, some] = rearrange(seen.ids, "(v t) h w -> v t h w", v=v, t=t)
    return Views(rgb, depth, ids, flow)


def clip_of(
    scene: Scene, rig: Rig, start: int, stop: int, device: torch.device | str = "cpu", depth: bool = True
) -> Clip:
    """Frames start..stop - 1 with times, actions, cameras and, where asked for, depth."""
    if not 0 <= start < stop <= scene.num_frames:
        raise ValueError(f"frames {start} to {stop - 1} of a drive of {scene.num_frames}: there are none such")
    return as_clip(scene, rig, start, render(scene, rig, range(start, stop), device), depth)


def as_clip(scene: Scene, rig: Rig, start: int, views: Views, depth: bool = True) -> Clip:
    """What was rendered of the frames from `start` on, with what `clip_of` adds to it."""
    stop, device = start + views.rgb.shape[1], views.rgb.device
    return Clip(
        frames=views.rgb[None],
        times=torch.arange(start, stop, device=device)[None],
        actions=scene.actions[None, start:stop].to(device),
        cameras=Cameras(
            rig.intrinsics[None].to(device),
            _poses(scene, rig, range(start, stop))[None].float().to(device),
            scene.ego[None, start:stop].float().to(device),
        ),
        depth=views.depth[None] if depth else None,
    )


# -- the map ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """The objects' boxes at a frame, in world axes."""

    ids: Int[Tensor, " n"]
    category: tuple[str, ...]
    centre: Float[Tensor, "n 3"]
    size: Float[Tensor, "n 3"]  # length, width, height
    yaw: Float[Tensor, " n"]
    velocity: Float[Tensor, "n 2"]  # metres/s


def _check_frame(scene: Scene, frame: int) -> None:
    if not 0 <= frame < scene.num_frames:
        raise ValueError(f"frames from 0 to {scene.num_frames - 1}, not {frame}")


def boxes(scene: Scene, frame: int) -> Boxes:
    """Every object's box at a frame."""
    _check_frame(scene, frame)
    now, then = scene.pose[:, frame], scene.pose[:, frame + 1]
    return Boxes(
        ids=torch.arange(len(scene.category)) + draw.FIRST,
        category=scene.category,
        centre=torch.cat([now[:, :2].float(), scene.size[:, 2:] / 2], dim=-1),
        size=scene.size,
        yaw=now[:, 2].float(),
        velocity=((then - now)[:, :2] * scene.fps).float(),
    )


def bev(
    scene: Scene, frame: int, extent: tuple[float, float, float, float] = (-20.0, 40.0, -30.0, 30.0), cell: float = 0.5
) -> Bool[Tensor, "3 gx gy"]:
    """Road, lane marks and cars around the ego: x0, x1, y0, y1 in metres in its frame, and x0, y0 in the first cell."""
    _check_frame(scene, frame)
    x0, x1, y0, y1 = extent
    if not (x0 < x1 and y0 < y1 and 0 < cell <= min(x1 - x0, y1 - y0)):
        raise ValueError(f"extent is x0 < x1, y0 < y1 and some cells, not {extent} in cells of {cell}")
    gx, gy = round((x1 - x0) / cell), round((y1 - y0) / cell)
    parts = max(math.ceil(cell / town.CELL - 1e-9), 1)  # no coarser than the picture: a line is one of its cells wide

    def world(sub: int) -> Float[Tensor, "gx gy 2"]:
        x = x0 + (torch.arange(gx * sub, dtype=torch.float64) + 0.5) * cell / sub
        y = y0 + (torch.arange(gy * sub, dtype=torch.float64) + 0.5) * cell / sub
        x, y = torch.meshgrid(x, y, indexing="ij")
        m = scene.ego[frame]
        return torch.stack([m[i, 0] * x + m[i, 1] * y + m[i, 3] for i in (0, 1)], dim=-1)

    def of(picture: Bool[Tensor, "y x"], points: Float[Tensor, "gx gy 2"]) -> Bool[Tensor, "gx gy"]:
        place = ((points - torch.tensor(scene.ground.origin, dtype=torch.float64)) / town.CELL).floor().long()
        ny, nx = picture.shape
        inside = (place >= 0).all(-1) & (place[..., 0] < nx) & (place[..., 1] < ny)
        return picture[place[..., 1].clamp(0, ny - 1), place[..., 0].clamp(0, nx - 1)] & inside

    points = world(1)
    marks = rearrange(of(scene.marks, world(parts)), "(gx a) (gy b) -> gx gy (a b)", a=parts, b=parts).any(-1)
    cars = torch.tensor([name == "car" for name in scene.category], dtype=torch.bool)
    x, y, yaw = scene.pose[cars, frame, :, None, None].unbind(1)
    dx, dy = points[..., 0] - x, points[..., 1] - y
    half = scene.size[cars, :2, None, None].double() / 2
    inside = (yaw.cos() * dx + yaw.sin() * dy).abs() <= half[:, 0]
    inside &= (yaw.cos() * dy - yaw.sin() * dx).abs() <= half[:, 1]
    return torch.stack([of(scene.road, points), marks, inside.any(0)])


Kind = Literal["centre", "divider", "edge", "kerb"]
"""Of a line: the middle of a lane, in its direction; yellow marks; white marks; the edge of the asphalt."""


@dataclass(frozen=True)
class Line:
    """A polyline on the map, in world metres."""

    kind: Kind
    points: Float[Tensor, "n 2"]


def lanes(scene: Scene) -> tuple[Line, ...]:
    """Lane marks, centre lines of lanes and kerbs; marks end where roads meet."""
    first, last = scene.reach
    found: list[Line] = []

    def route(kind: Kind, left: float, start: float, stop: float) -> None:
        places = np.append(np.arange(start, stop, 2.0), stop)
        points = scene.route.at(places, left + town.LANE / 2)[:, :2]
        found.append(Line(kind, torch.from_numpy(points[::-1].copy() if left > 0 and kind == "centre" else points)))

    for left in (-town.LANE / 2, town.LANE / 2):
        route("centre", left, first, last)
    edges = [first, *(min(max(s, first), last) for pair in scene.crossings for s in pair), last]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start > 1:
            route("divider", 0.0, start, stop)
            for sign in (-1, 1):
                route("edge", sign * town.LANE, start, stop)
                route("kerb", sign * town.HALF, start, stop)
    for road in scene.roads:
        start, stop = town.HALF + 4.0, road.length
        sides: list[tuple[Kind, float]] = [("divider", 0.0), ("edge", town.LANE), ("kerb", town.HALF)]
        for kind, left in sides + [(kind, -left) for kind, left in sides[1:]]:
            ends = [road.at(start, left)[:2], road.at(stop, left)[:2]]
            found.append(Line(kind, torch.tensor(ends, dtype=torch.float64)))
        for left in (-town.LANE / 2, town.LANE / 2):
            ends = [road.at(0.0, left)[:2], road.at(stop, left)[:2]]
            found.append(Line("centre", torch.tensor(ends if left < 0 else ends[::-1], dtype=torch.float64)))
    return tuple(found)


# -- the source ---------------------------------------------------------------------------------------

_CLIPS = 8  # of a scene
_TURN = 8  # scenes that take turns, so that clips that follow each other do not look alike
_LONGER = 40  # frames that a scene is longer than a clip


@lru_cache(maxsize=2 * _TURN)
def _cached(seed: int, num_frames: int, fps: float, domain: Domain) -> Scene:
    return scene(seed, num_frames, fps, domain)


@dataclass(frozen=True)
class Drives:
    """Clip number `index` of an endless set: a function of the fields and the index alone. Splits share no scene.

    Eight scenes take turns, and each gives eight clips; a process keeps the last ones.
    """

    num_frames: int
    cameras: int = 1
    size: tuple[int, int] = (48, 96)  # height, width
    fps: float = 5.0
    domain: Domain = DAY
    split: Literal["train", "valid", "test"] = "train"
    seed: int = 0
    depth: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.num_frames < 1:
            raise ValueError(f"at least one frame, not {self.num_frames}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or more, not {self.seed}")
        rig(self.cameras, self.size, self.domain)

    @property
    def channels(self) -> int:
        return 3

    def place(self, index: int) -> tuple[int, int]:
        """The seed of the scene that a clip is cut from, and its first frame there."""
        if index < 0:
            raise ValueError(f"clips are numbered from 0, not {index}")
        block, place = divmod(index, _CLIPS * _TURN)
        seed = mix(self.seed, SPLITS.index(self.split), block * _TURN + place % _TURN)
        return seed, (place // _TURN * _LONGER + mix(seed, index) % _LONGER) // _CLIPS

    def scene(self, index: int) -> Scene:
        """The scene that a clip is cut from."""
        return _cached(self.place(index)[0], self.num_frames + _LONGER, self.fps, self.domain)

    def __call__(self, index: int) -> Clip:
        drive, start = self.scene(index), self.place(index)[1]
        return clip_of(
            drive, rig(self.cameras, self.size, self.domain), start, start + self.num_frames, depth=self.depth
        )
