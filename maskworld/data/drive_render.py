"""Ray casting of upright prisms on a flat, painted ground, for cameras that stand level: colour, depth, ids, flow.

A level camera (no pitch, no roll) looks along each of its columns in one horizontal direction. So the rays of a column
are cast once, in two dimensions, against the footprints of all prisms, and its pixels only ask which of the nearest
ones they meet, from the side, from above or from below. Rays are scaled so that their length is the depth along the
optical axis, which is therefore exact at every pixel's centre.

Sections: what is there - columns - pixels - colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

# -- what is there --------------------------------------------------------------------------------

PLAIN, WALL, BODY, CABIN, LEAVES, CLOTHES = range(6)
"""What a prism is made of; how it is painted."""

SKY, GROUND, FIRST = 0, 1, 2
"""Ids of what a pixel shows: objects are numbered from 2."""


@dataclass(frozen=True)
class Prisms:
    """Upright boxes and cylinders, each fixed to an object: `offset` metres ahead of its middle."""

    owner: Int[Tensor, " p"]
    offset: Float[Tensor, " p"]
    half: Float[Tensor, "p 2"]  # of the length and the width; a cylinder's radius, twice
    z: Float[Tensor, "p 2"]  # bottom and top
    round: Bool[Tensor, " p"]
    colour: Float[Tensor, "p 3"]  # 0..1
    material: Int[Tensor, " p"]


@dataclass(frozen=True)
class Ground:
    """A picture of the ground, seen from above: row y, column x, from `origin` on. Every level is half as fine."""

    levels: tuple[Float[Tensor, "1 3 _ _"], ...]
    origin: tuple[float, float]
    cell: float  # metres, of the finest level


@dataclass(frozen=True)
class Light:
    """How a scene is lit. Colours 0..1."""

    night: bool
    sun: tuple[float, float]  # the horizontal direction it comes from
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ambient: tuple[float, float, float]
    fog: float  # per metre


class Level(NamedTuple):
    """Level cameras: where they are, where they look and how they project."""

    place: Float[Tensor, "n 2"]  # world, metres
    height: Float[Tensor, " n"]
    ahead: Float[Tensor, "n 2"]  # unit vectors of the optical axes
    slope: Float[Tensor, " w"]  # of each column: metres to the right per metre ahead
    rise: Float[Tensor, " h"]  # of each row: metres up per metre ahead
    ego: Float[Tensor, "n 3"]  # where the car is (x, y, yaw), for its head lights


class Seen(NamedTuple):
    """What cameras see; n of them at once."""

    rgb: Float[Tensor, "3 n h w"]  # 0..1
    depth: Float[Tensor, "n h w"]
    ids: Int[Tensor, "n h w"]
    flow: Float[Tensor, "3 n h w"]


FAR = 120.0  # metres; what is farther is not drawn
NEAREST = 14  # prisms of a column that its pixels are tested against
_NEAR = 0.05

# -- columns --------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """The prisms that each column's rays go through, nearest first; m of them, inf where there are fewer."""

    enter: Float[Tensor, "m n w"]
    leave: Float[Tensor, "m n w"]
    prism: Int[Tensor, "m n w"]
    along: Float[Tensor, "m n w"]  # where on the face, in metres from its middle
    face: Float[Tensor, "m n w"]  # 0 front, 1 back, 2 left, 3 right, 4 round
    normal: Float[Tensor, "m n w"]  # the outward normal's angle in the world


def _columns(prisms: Prisms, pose: Float[Tensor, "n p 3"], cameras: Level) -> _Columns | None:
    """Cast one horizontal ray for each column of each camera."""
    ahead, slope = cameras.ahead, cameras.slope
    right = torch.stack([ahead[:, 1], -ahead[:, 0]], dim=-1)
    offset = prisms.offset[:, None] * torch.stack([pose[..., 2].cos(), pose[..., 2].sin()], dim=-1)
    off = pose[..., :2] + offset - cameras.place[:, None]
    z, x = (off * ahead[:, None]).sum(-1), (off * right[:, None]).sum(-1)
    reach = torch.where(prisms.round, prisms.half[:, 0], prisms.half.norm(dim=-1))
    widest = float(slope.abs().max())
    seen = (z + reach > _NEAR) & (z - reach < FAR) & (x.abs() - widest * z <= reach * math.hypot(1, widest))
    num = int(seen.sum(-1).max())
    if num == 0:
        return None
    distance, which = torch.where(seen, z.square() + x.square(), torch.inf).topk(num, dim=-1, largest=False)
    there = distance < torch.inf
    z, x, yaw = (each.gather(-1, which)[:, None] for each in (z, x, pose[..., 2]))
    half = prisms.half[which][:, None]
    facing = torch.atan2(ahead[:, 1], ahead[:, 0])[:, None, None]
    cos, sin = (yaw - facing).cos(), (yaw - facing).sin()  # the length axis is (-sin, cos) in (right, ahead)

    ray = slope[None, :, None]
    to_l, to_w = -(cos * z - sin * x), sin * z + cos * x  # the camera, from the box's middle, in its own axes
    ray_l, ray_w = cos - sin * ray, -(sin + cos * ray)
    ray_l, ray_w = (torch.where(r.abs() < 1e-7, 1e-7, r) for r in (ray_l, ray_w))
    in_l, in_w = -to_l / ray_l - half[..., 0] / ray_l.abs(), -to_w / ray_w - half[..., 1] / ray_w.abs()
    out_l, out_w = -to_l / ray_l + half[..., 0] / ray_l.abs(), -to_w / ray_w + half[..., 1] / ray_w.abs()
    enter, leave = torch.maximum(in_l, in_w), torch.minimum(out_l, out_w)

    is_round = prisms.round[which][:, None]
    square, dot = 1 + ray * ray, ray * x + z
    root = (dot * dot - square * (x * x + z * z - half[..., 0].square())).clamp(min=0).sqrt()
    enter = torch.where(is_round, (dot - root) / square, enter)
    leave = torch.where(is_round, (dot + root) / square, leave)

    met = (leave > enter) & (enter > _NEAR) & there[:, None]
    m = min(NEAREST, int(met.sum(-1).max()))
    if m == 0:
        return None
    enter, order = torch.where(met, enter, torch.inf).topk(m, dim=-1, largest=False)
    where = rearrange(order, "n w m -> m n w")
    n, w = enter.shape[:2]

    def of(values: Tensor) -> Tensor:
        return rearrange(values.expand(n, w, -1).gather(-1, order), "n w m -> m n w").contiguous()

    enter = rearrange(enter, "n w m -> m n w").contiguous()
    ray_l, ray_w, to_l, to_w, in_l, in_w = (of(each) for each in (ray_l, ray_w, to_l, to_w, in_l, in_w))
    cylinder, by_end, heading = of(is_round), in_l > in_w, of(yaw)
    at_l, at_w = to_l + enter * ray_l, to_w + enter * ray_w
    around = torch.atan2(at_w, at_l)
    face = torch.where(by_end, (ray_l > 0).float(), 2 + (ray_w > 0).float())
    normal = torch.where(by_end, torch.where(ray_l > 0, math.pi, 0.0), torch.where(ray_w > 0, -1, 1) * math.pi / 2)
    return _Columns(
        enter=enter,
        leave=of(leave),
        prism=which.gather(-1, rearrange(where, "m n w -> n (m w)")).unflatten(-1, (m, w)).transpose(0, 1),
        along=torch.where(cylinder, around * of(half[..., 0]), torch.where(by_end, at_w, at_l)),
        face=torch.where(cylinder, 4.0, face),
        normal=heading + torch.where(cylinder, around, normal),
    )


# -- pixels ---------------------------------------------------------------------------------------


def _nearest(
    columns: _Columns | None,
    bottom: Float[Tensor, "m n w"] | None,
    top: Float[Tensor, "m n w"] | None,
    start: Float[Tensor, "n h 1"],
    inverse: Float[Tensor, " h"],
    width: int,
) -> tuple[Float[Tensor, "n h w"], Int[Tensor, "n h w"]]:
    """The depth of the first thing each pixel meets and its place in the column, -1 for what was there at `start`.

    `bottom` and `top` are heights over the camera where rays of these rows (all up, or all down) leave and reach a
    prism's heights: a ray is within them from top / rise to bottom / rise.
    """
    best = start.expand(-1, -1, width).clone()
    which = torch.full(best.shape, -1, dtype=torch.int32, device=best.device)
    if columns is None or bottom is None or top is None or not len(inverse):
        return best, which
    inverse = inverse[:, None]
    for m in range(len(columns.enter)):
        hit = torch.maximum(columns.enter[m, :, None], top[m, :, None] * inverse)
        last = torch.minimum(columns.leave[m, :, None], bottom[m, :, None] * inverse)
        closer = (hit <= last) & (hit < best)
        best = torch.where(closer, hit, best)
        which.masked_fill_(closer, m)
    return best, which


def cast(
    prisms: Prisms,
    pose: Float[Tensor, "n p 3"],
    motion: Float[Tensor, "n o 3"],
    ground: Ground,
    light: Light,
    cameras: Level,
) -> Seen:
    """What n level cameras see, each with its own `pose` (x, y, yaw) of all prisms' owners.

    `motion` is how far each object goes and turns until the next frame.
    """
    rise, slope = cameras.rise, cameras.slope
    n, h, w = len(cameras.place), len(rise), len(slope)
    split = int((rise > 0).sum())  # rows above the horizon
    inverse = 1 / rise
    columns = _columns(prisms, pose, cameras)
    low = high = None
    if columns is not None:
        z = prisms.z[columns.prism] - cameras.height[None, :, None, None]
        low, high = z.unbind(-1)
    up = _nearest(columns, high, low, torch.full((n, split, 1), torch.inf, device=rise.device), inverse[:split], w)
    floor = -cameras.height[:, None, None] * inverse[split:, None]
    down = _nearest(columns, low, high, floor, inverse[split:], w)
    depth = torch.cat([up[0], down[0]], dim=1)
    which = torch.cat([up[1], down[1]], dim=1)

    rgb = torch.cat([_sky(light, cameras, split), _ground(ground, light, cameras, split)], dim=2)
    flow = torch.zeros(3, n, h, w, device=rgb.device)
    ids = torch.zeros(n, h, w, dtype=torch.int64, device=rgb.device)
    ids[:, split:] = GROUND
    depth = torch.where(torch.isinf(depth), 0.0, depth)
    if columns is None:
        return Seen(rgb, depth, ids, flow)

    at = (which >= 0).flatten().nonzero()[:, 0]
    camera, row, column = at // (h * w), at // w % h, at % w
    place = (which.flatten()[at].long() * n + camera) * w + column
    prism = columns.prism.reshape(-1)[place]
    far = depth.flatten()[at]
    height = cameras.height[camera] + far * rise[row]
    owner = prisms.owner[prism]
    ids.view(-1)[at] = owner + FIRST
    colour = _paint(prisms, columns, light, prism, place, far, height, float(slope[1] - slope[0]))
    points = None
    if light.night:
        points = _points(cameras, camera, column, far)
        colour = colour[0] * _lamps(light, cameras, camera, points, height) + colour[1]
    else:
        colour = colour[0]
    rgb.view(3, -1)[:, at] = _hazy(light, colour, far * (1 + slope[column].square()).sqrt())

    moves = motion[camera, owner]
    moving = (moves != 0).any(-1).nonzero()[:, 0]
    if len(moving):
        camera, column, far, moves = camera[moving], column[moving], far[moving], moves[moving]
        arm = _points(cameras, camera, column, far) - pose[camera, prism[moving], :2]
        cos, sin = moves[:, 2].cos() - 1, moves[:, 2].sin()
        shift = torch.stack([cos * arm[:, 0] - sin * arm[:, 1], sin * arm[:, 0] + cos * arm[:, 1]])
        flow.view(3, -1)[:2, at[moving]] = shift + moves[:, :2].T
    return Seen(rgb, depth, ids, flow)


def _points(cameras: Level, camera: Tensor, column: Tensor, far: Tensor) -> Float[Tensor, "n 2"]:
    """Where on the map a depth in a column is."""
    ahead = cameras.ahead[camera]
    right = torch.stack([ahead[:, 1], -ahead[:, 0]], dim=-1)
    return cameras.place[camera] + far[:, None] * (ahead + cameras.slope[column][:, None] * right)


# -- colours --------------------------------------------------------------------------------------


def _rgb(colour: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(colour, dtype=like.dtype, device=like.device)


def _hazy(light: Light, colour: Float[Tensor, "3 *n"], distance: Float[Tensor, "*n"]) -> Float[Tensor, "3 *n"]:
    clear = (-light.fog * distance).exp()
    horizon = _rgb(light.horizon, colour).view(3, *[1] * (colour.ndim - 1))
    return horizon + clear * (colour - horizon)


def _sky(light: Light, cameras: Level, split: int) -> Float[Tensor, "3 n h w"]:
    """From the horizon's colour to the zenith's; thick haze hides it."""
    rise = cameras.rise[:split]
    share = (rise / (rise + 0.35)) * math.exp(-35 * max(light.fog - 0.004, 0))
    horizon, zenith = _rgb(light.horizon, rise), _rgb(light.zenith, rise)
    column = horizon[:, None] + share * (zenith - horizon)[:, None]
    return repeat(column, "c h -> c n h w", n=len(cameras.place), w=len(cameras.slope))


def _ground(ground: Ground, light: Light, cameras: Level, split: int) -> Float[Tensor, "3 n h w"]:
    """The painted ground, each row from the level as fine as its pixels are on it."""
    rise, slope = cameras.rise[split:], cameras.slope
    n, w = len(cameras.place), len(slope)
    if not len(rise):
        return torch.zeros(3, n, 0, w, device=rise.device)
    pixel = float(slope[1] - slope[0]) if w > 1 else 1.0
    step = float(rise[0] - rise[1]) if len(rise) > 1 else pixel
    tall = float(cameras.height.max())
    right = torch.stack([cameras.ahead[:, 1], -cameras.ahead[:, 0]], dim=-1)
    rays = cameras.ahead[:, None] + slope[:, None] * right[:, None]
    place = cameras.place - torch.tensor(ground.origin, device=rise.device)
    rows = []
    for each in rise.tolist():
        far = tall / -each
        wide, deep = far * pixel, far * step / -each
        rows.append(min(max(round(math.log2(math.sqrt(wide * min(deep, 8 * wide)) / ground.cell)), 0), 99))
    parts = []
    for level in sorted(set(min(r, len(ground.levels) - 1) for r in rows), reverse=True):
        these = torch.tensor([min(r, len(ground.levels) - 1) == level for r in rows], device=rise.device)
        far = cameras.height[:, None] / -rise[these]
        points = place[:, None, None] + far[:, :, None, None] * rays[:, None]
        picture = ground.levels[level]
        size = torch.tensor(picture.shape[:-3:-1], device=rise.device) * (ground.cell * 2**level)
        grid = rearrange(points / size * 2 - 1, "n h w xy -> 1 (n h) w xy")
        found = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        parts.append(rearrange(found, "1 c (n h) w -> c n h w", n=n))
    colour = torch.cat(parts, dim=2)
    far = cameras.height[:, None] / -rise
    if light.night:
        points = cameras.place[:, None, None] + far[:, :, None, None] * rays[:, None]
        camera = repeat(torch.arange(n, device=rise.device), "n -> n h w", h=len(rise), w=w)
        lamps = _lamps(light, cameras, camera.reshape(-1), points.reshape(-1, 2), None)
        colour = colour * lamps.view(3, *camera.shape)
    return _hazy(light, colour, far[:, :, None] * (1 + slope.square()).sqrt())


def _lamps(
    light: Light, cameras: Level, camera: Tensor, points: Float[Tensor, "n 2"], height: Tensor | None
) -> Float[Tensor, "3 n"]:
    """How bright the night is at each point: a little everywhere, and in the cone of the car's head lights."""
    x, y, yaw = cameras.ego[camera].unbind(-1)
    dx, dy = points[:, 0] - x, points[:, 1] - y
    cos, sin = yaw.cos(), yaw.sin()
    ahead, left = cos * dx + sin * dy - 3.5, cos * dy - sin * dx
    wide = 0.8 + 0.33 * ahead.clamp(min=0)
    cone = (-(left / wide).square()).exp() * (ahead / 2).clamp(0, 1) * (1 - ahead / 45).clamp(0, 1)
    if height is not None:
        cone = cone * (1 - (height - 0.8) / (0.5 + 0.08 * ahead.clamp(min=0))).clamp(0, 1)
    return _rgb(light.ambient, points)[:, None] + 0.75 * cone * _rgb((1.0, 0.96, 0.82), points)[:, None]


def _hash(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """0..1, the same for the same whole numbers."""
    x = (a * 12.9898 + b * 78.233 + c * 37.719).sin() * 43758.547
    return x - x.floor()


def _paint(
    prisms: Prisms,
    columns: _Columns,
    light: Light,
    prism: Int[Tensor, " n"],
    place: Int[Tensor, " n"],
    far: Float[Tensor, " n"],
    height: Float[Tensor, " n"],
    pixel: float,
) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]]:
    """The colour of each pixel of an object in daylight's shading, and what shines by itself at night."""
    material, z, half = prisms.material[prism], prisms.z[prism], prisms.half[prism]
    along, face = columns.along.reshape(-1)[place], columns.face.reshape(-1)[place]
    side = far <= columns.enter.reshape(-1)[place]
    sun = math.atan2(light.sun[1], light.sun[0])
    lit = (columns.normal.reshape(-1)[place] - sun).cos()
    shade = torch.where(side, 0.74 + 0.26 * lit, torch.where(height > z.mean(-1), 1.08, 0.5))
    if light.night:
        shade = torch.where(side, 0.92, shade.clamp(max=1))
    base = prisms.colour.T[:, prism]
    glow = torch.zeros_like(base)

    def painted(where: Tensor, colour: Sequence[float] | Tensor, share: float | Tensor = 1.0) -> None:
        nonlocal base
        new = colour if isinstance(colour, Tensor) else _rgb(colour, base)[:, None]
        base = torch.where(where, base + share * (new - base), base)

    number = prism.float()
    # Windows, as wide and high as the house's storeys; where a pixel holds several they become their mean.
    wall = (material == WALL) & side
    u, v = along / 2.6 + 0.5, height / 3.0
    within = ((u - u.floor() - 0.5).abs() < 0.27) & ((v - v.floor() - 0.52).abs() < 0.26)
    within &= (height < z[:, 1] - 0.5) & (half.gather(1, (face < 2).long()[:, None])[:, 0] - along.abs() > 0.4)
    drawn = hash_ = _hash(u.floor(), v.floor(), number % 97 + face)
    fine = (2.2 - far * pixel * 2.2).clamp(0, 1)
    glass = torch.stack([0.20 + 0.16 * drawn, 0.26 + 0.18 * drawn, 0.34 + 0.20 * drawn])
    painted(wall & within, glass, fine)
    painted(wall, glass, 0.25 * (1 - fine))
    painted(wall & (height < 0.5), (0.42, 0.40, 0.38), 0.6)
    painted(wall & (height > z[:, 1] - 0.35), (0.30, 0.25, 0.24), 0.7)

    body, cabin = (material == BODY) & side, (material == CABIN) & side
    flank = (face == 2) | (face == 3)
    painted(body & (height < 0.26), (0.06, 0.06, 0.07))
    axle = (along.abs() - 0.62 * half[:, 0]).square() + (height - 0.32).square()
    painted(body & flank & (axle < 0.33**2), (0.09, 0.09, 0.10))
    lamp = body & ~flank & (half[:, 1] - along.abs() < 0.45) & (height > 0.5) & (height < 0.76)
    front = torch.where(face == 0, 1.0, 0.0)
    lamps = torch.stack([0.75 + 0.2 * front, 0.08 + 0.84 * front, 0.07 + 0.75 * front])
    painted(lamp, lamps)
    pane = cabin & (height > z[:, 0] + 0.06) & (height < z[:, 1] - 0.1)
    painted(pane & ~(flank & (along.abs() < 0.05)), (0.13, 0.16, 0.20), 0.9)

    leaves = material == LEAVES
    tuft = _hash((along * 1.6).floor(), (height * 1.6).floor(), number % 89)
    low = ((height - z[:, 0]) / (z[:, 1] - z[:, 0]).clamp(min=0.1)).clamp(0, 1)
    shade = torch.where(leaves, shade * (0.74 + 0.2 * low + 0.28 * tuft), shade)
    painted((material == CLOTHES) & (height < 0.52 * z[:, 1]), (0.16, 0.17, 0.24), 0.8)
    if light.night:
        window = wall & within & (hash_ > 0.62)
        glow = torch.where(window, _rgb((0.85, 0.66, 0.32), base)[:, None] * fine, glow)
        glow = torch.where(lamp, lamps, glow)
    return base * shade, glow
