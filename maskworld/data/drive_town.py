"""A small town and a way through it: roads with bends and junctions, what stands along them, and who moves on them.

The ego's way comes first: a planned curvature, a profile of speed, and the chain of arcs that they integrate to. The
road is what lies around that chain, so that the ego is exactly in its lane, and everybody else who drives follows the
same chain at other distances or in the other lane, so that nobody ever meets anybody.

Sections: the route - the town - the ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from maskworld.data import drive_render as draw

# -- the route --------------------------------------------------------------------------------------

LANE, PARKING, PAVEMENT = 3.5, 2.2, 2.8  # widths, metres
HALF = LANE + PARKING  # of the asphalt, from the centre line
_STEP = 0.25  # metres between two values of the planned curvature
AROUND = 75.0  # metres of town around the ego's way
STUB = 65.0  # length of a side road


@dataclass(frozen=True)
class Route:
    """The ego's way as a chain of arcs; before and after it the road is straight. Lengths from the first pose."""

    start: Float[np.ndarray, " n"]
    pose: Float[np.ndarray, "n 3"]  # x, y, yaw where each arc starts
    curvature: Float[np.ndarray, " n"]

    def at(self, s: Float[np.ndarray, " m"], left: Float[np.ndarray, " m"] | float = 0.0) -> Float[np.ndarray, "m 3"]:
        """Poses along the way, `left` metres to the left of it, heading as it does."""
        i = np.clip(np.searchsorted(self.start, s, side="right") - 1, 0, len(self.start) - 1)
        pose = _along(self.pose[i], s - self.start[i], self.curvature[i])
        pose[:, 0] -= np.sin(pose[:, 2]) * left
        pose[:, 1] += np.cos(pose[:, 2]) * left
        return pose


@dataclass(frozen=True)
class Road:
    """A straight side road: from `origin` in the direction `yaw`."""

    origin: tuple[float, float]
    yaw: float
    length: float = STUB

    def local(self, points: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
        """How far along the road, and how far left of it."""
        dx, dy = points[:, 0] - self.origin[0], points[:, 1] - self.origin[1]
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return c * dx + s * dy, c * dy - s * dx

    def at(self, s: float, left: float) -> tuple[float, float, float]:
        c, n = math.cos(self.yaw), math.sin(self.yaw)
        return self.origin[0] + c * s - n * left, self.origin[1] + n * s + c * left, self.yaw


def _along(
    pose: Float[np.ndarray, "*n 3"], length: Float[np.ndarray, "*n"] | float, curvature: Float[np.ndarray, "*n"] | float
) -> Float[np.ndarray, "*n 3"]:
    """Move poses (x, y, yaw) along arcs, exactly: the chord of an arc that turns by a is L sin(a/2) / (a/2)."""
    half = length * curvature / 2
    chord = length * np.sinc(half / np.pi)
    x, y, yaw = np.moveaxis(pose, -1, 0)
    return np.stack([x + chord * np.cos(yaw + half), y + chord * np.sin(yaw + half), yaw + 2 * half], axis=-1)


@dataclass(frozen=True)
class Junction:
    """From where to where on the route, and which way it goes there: 1 left, -1 right, 0 straight on."""

    start: float
    stop: float
    turn: int
    stops: bool


def _plan(length: float, rng: np.random.Generator) -> tuple[Float[np.ndarray, " n"], list[Junction]]:
    """Curvature of the way every _STEP metres: straights, bends (radius 15 to 200 m) and junctions."""
    pieces: list[np.ndarray] = []
    junctions: list[Junction] = []
    done, heading = 0.0, 0.0

    def add(values: np.ndarray) -> None:
        nonlocal done, heading
        pieces.append(values)
        done += len(values) * _STEP
        heading += float(values.sum()) * _STEP

    def arc(radius: float, angle: float, ramp: float) -> np.ndarray:
        """As a trapezoid: the wheel is turned over `ramp` metres. The angle is exact."""
        plateau = max(angle * radius - ramp, 0.0)
        places = np.arange(0, plateau + 2 * ramp, _STEP)
        values = np.minimum(np.minimum(places, plateau + 2 * ramp - places) / ramp, 1)
        return values * angle / (values.sum() * _STEP)

    def straight(metres: float) -> None:
        add(np.zeros(max(round(metres / _STEP), 1)))

    def side(angle: float) -> int:
        """Either, but the way never comes back to where it was."""
        sign = 1 if rng.random() < 0.5 else -1
        return -sign if abs(heading + sign * angle) > math.radians(105) else sign

    straight(rng.uniform(0, 10))
    bends = 0
    while done < length:
        what = rng.random()
        if what < 0.5 and bends < 2:
            bends += 1
            radius, angle = math.exp(rng.uniform(math.log(15), math.log(200))), math.radians(rng.uniform(25, 90))
            angle = min(angle, 45 / radius)
            add(side(angle) * arc(radius, angle, min(6.0, angle * radius / 3)))
            straight(rng.uniform(1, 10))
            continue
        bends = 0
        straight(12.0)
        start, sign = done, 0
        if what < 0.9:
            sign = side(math.pi / 2)
            radius = rng.uniform(10, 12) if sign > 0 else rng.uniform(8, 9.5)
            add(sign * arc(radius, math.pi / 2, 3.0))
        else:
            straight(2 * HALF)
        junctions.append(Junction(start, done, sign, bool(rng.random() < 0.33)))
        straight(10 + rng.uniform(0, 4))
    return np.concatenate(pieces), junctions


_BRAKE, _PULL, _SIDEWAYS = 2.5, 1.8, 2.4  # metres/s^2


def _progress(
    curvature: Float[np.ndarray, " n"],
    junctions: list[Junction],
    num: int,
    fps: float,
    factor: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, " num"]:
    """How far the ego has come at each frame: cruise, slow for bends, stop at some junctions, start again."""
    of_pace, of_waits = rng.spawn(2)  # so that a longer way changes neither
    cruise = np.repeat(of_pace.uniform(5, 13.5, 1 + len(curvature) // 160), 160)[: len(curvature)]
    limit = np.minimum(cruise, np.sqrt(_SIDEWAYS / np.maximum(np.abs(curvature), 1e-4)))
    limit = limit.tolist()
    for i in range(len(limit) - 2, -1, -1):
        limit[i] = min(limit[i], math.sqrt(limit[i + 1] ** 2 + 2 * _BRAKE * _STEP))
    stops = [j.start - 4.5 for j in junctions if j.stops] + [math.inf]
    waits = of_waits.uniform(1.0, 4.0, len(stops)).tolist()
    if rng.random() < 0.3:
        stops.insert(0, rng.uniform(0.5, 15))
        waits.insert(0, rng.uniform(0.5, 2.5))
        stops, waits = map(list, zip(*sorted(zip(stops, waits, strict=True)), strict=True))
    s, wait, substeps = 0.0, 0.0, max(math.ceil(20 / fps), 1)
    dt = factor / (fps * substeps)
    v = min(limit[0], math.sqrt(2 * _BRAKE * max(stops[0], 0.01)))
    places = []
    for _ in range(num):
        places.append(s)
        for _ in range(substeps):
            if wait > 0:
                wait -= dt / factor
                continue
            most = min(v + _PULL * dt, limit[min(int(s / _STEP), len(limit) - 1)])
            left = stops[0] - s
            v = min(most, math.sqrt(2 * _BRAKE * max(left, 0)))
            if left < 0.05:
                v, wait = 0.0, waits[0]
                stops, waits = stops[1:], waits[1:]
                continue
            s += min(v * dt, left)
    return np.array(places)


@dataclass(frozen=True)
class Journey:
    """What the ego does at each frame, where it is then and after the last, how far it has come, and on what way."""

    actions: Float[np.ndarray, "t 2"]
    pose: Float[np.ndarray, "u 3"]
    progress: Float[np.ndarray, " u"]
    route: Route
    junctions: tuple[Junction, ...]


def travel(seed: int, num: int, fps: float, factor: float) -> Journey:
    """A journey of `num` frames whose speeds are scaled by `factor`.

    The way is what the actions integrate to, not the other way round: so the ego is exactly in its lane.
    """
    length = 14 * factor * num / fps + 2 * AROUND + 60
    curvature, junctions = _plan(length, np.random.default_rng([seed, 0]))
    s = _progress(curvature, junctions, num + 1, fps, factor, np.random.default_rng([seed, 1]))
    heading = np.concatenate([[0.0], np.cumsum(curvature) * _STEP])
    grid = np.arange(len(heading)) * _STEP
    gone, turned = np.diff(s), np.diff(np.interp(s, grid, heading))
    here = curvature[np.minimum((s[:-1] / _STEP).astype(int), len(curvature) - 1)]
    bend = np.where(gone > 1e-3, turned / np.maximum(gone, 1e-3), here)
    actions = np.stack([gone * fps, bend], axis=-1).astype(np.float32).astype(np.float64)
    pose = np.zeros((num + 1, 3))
    for t in range(num):
        pose[t + 1] = _along(pose[t], float(actions[t, 0]) / fps, float(actions[t, 1]))
    s = np.concatenate([[0.0], np.cumsum(actions[:, 0] / fps)])
    moving = np.flatnonzero(np.diff(s) > 1e-6)
    starts, poses, bends = [-1e4, *s[moving]], [[-1e4, 0.0, 0.0], *pose[moving]], [0.0, *actions[moving, 1]]
    last, place = pose[-1], float(s[-1])
    ahead = np.arange(place, grid[-1], 1.0)
    turns = np.diff(np.interp(ahead, grid, heading))
    for turn in turns:
        starts.append(place)
        poses.append(last)
        bends.append(turn)
        last, place = _along(last, 1.0, float(turn)), place + 1.0
    starts.append(place)
    poses.append(last)
    bends.append(0.0)
    route = Route(np.array(starts), np.array(poses), np.array(bends))
    return Journey(actions, pose, s, route, tuple(junctions))


def side_roads(route: Route, junctions: Sequence[Junction]) -> list[Road]:
    """What else meets at each junction: the road straight on and its other arms."""
    roads = []
    for j in junctions:
        (x0, y0, a0), (x1, y1, a1) = route.at(np.array([j.start, j.stop]), LANE / 2).tolist()
        if j.turn == 0:
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            roads += [Road(middle, a0 + math.pi / 2), Road(middle, a0 - math.pi / 2)]
            continue
        a1 = a0 + j.turn * math.pi / 2
        d0 = (math.cos(a0), math.sin(a0))
        ahead = (x1 - x0) * d0[0] + (y1 - y0) * d0[1]
        middle = (x0 + ahead * d0[0], y0 + ahead * d0[1])
        roads += [Road(middle, a0), Road(middle, a1 + math.pi)]
    return roads


# -- the town ---------------------------------------------------------------------------------------

CATEGORIES = ("building", "tree", "car", "walker")

_PAINTS = (
    (0.80, 0.80, 0.82),
    (0.16, 0.17, 0.19),
    (0.45, 0.47, 0.50),
    (0.70, 0.10, 0.10),
    (0.12, 0.24, 0.55),
    (0.90, 0.90, 0.86),
    (0.15, 0.38, 0.25),
    (0.86, 0.66, 0.16),
)
_WALLS = (
    (0.66, 0.36, 0.27),
    (0.82, 0.74, 0.58),
    (0.70, 0.70, 0.70),
    (0.80, 0.60, 0.40),
    (0.62, 0.66, 0.72),
    (0.88, 0.84, 0.78),
    (0.52, 0.40, 0.34),
)
_LEAVES = ((0.22, 0.44, 0.16), (0.30, 0.50, 0.18), (0.16, 0.36, 0.18), (0.44, 0.50, 0.16))
_CLOTHES = ((0.80, 0.20, 0.20), (0.20, 0.35, 0.75), (0.90, 0.80, 0.25), (0.85, 0.85, 0.85), (0.20, 0.55, 0.35))
_CARS = ((4.4, 1.80, 0.88, 1.46, 2.4, -0.25), (3.8, 1.70, 0.90, 1.50, 2.5, -0.35), (5.2, 2.0, 1.05, 2.1, 4.1, -0.5))
"""Length, width, height of the body and of it all, length of the cabin, and how far ahead of the middle it is."""

_Prism = tuple[float, float, float, float, float, bool, tuple[float, float, float], int]


class Things:
    """Objects as they are put down, one after the other."""

    def __init__(self, num_frames: int):
        self.num_frames = num_frames
        self.category: list[str] = []
        self.size: list[tuple[float, float, float]] = []
        self.path: list[np.ndarray] = []
        self.owner: list[int] = []
        self.prisms: list[_Prism] = []

    def add(
        self, category: str, size: tuple[float, float, float], prisms: Sequence[_Prism], path: np.ndarray | Sequence
    ) -> None:
        """`path` is one pose (x, y, yaw), or one for each frame and the one after the last."""
        path = np.asarray(path, np.float64)
        self.owner += [len(self.category)] * len(prisms)
        self.prisms += prisms
        self.category.append(category)
        self.size.append(size)
        self.path.append(np.broadcast_to(path, (self.num_frames + 1, 3)))

    def car(self, path: np.ndarray | Sequence, rng: np.random.Generator, kind: int | None = None) -> None:
        kind = int(rng.choice(3, p=[0.5, 0.33, 0.17])) if kind is None else kind
        length, width, low, high, cabin, ahead = _CARS[kind]
        paint = _some(_PAINTS, rng, 0.05)
        body: _Prism = (0.0, length / 2, width / 2, 0.0, low, False, paint, draw.BODY)
        top: _Prism = (ahead, cabin / 2, width / 2 - 0.12, low, high, False, paint, draw.CABIN)
        self.add("car", (length, width, high), [body, top], path)

    def walker(self, path: np.ndarray | Sequence, rng: np.random.Generator) -> None:
        scale = rng.uniform(0.88, 1.1)
        r, top = 0.26 * scale, 1.75 * scale
        neck = 1.48 * scale
        body: _Prism = (0.0, r, r, 0.0, neck, True, _some(_CLOTHES, rng, 0.1), draw.CLOTHES)
        head: _Prism = (0.0, 0.13, 0.13, neck, top, True, (0.80, 0.60, 0.48), draw.PLAIN)
        self.add("walker", (2 * r, 2 * r, top), [body, head], path)

    def tree(self, x: float, y: float, rng: np.random.Generator) -> None:
        top, r, colour = rng.uniform(4.5, 8.5), rng.uniform(1.3, 2.2), _some(_LEAVES, rng, 0.06)
        if rng.random() < 0.3:  # a fir
            parts = [(0.18, 0.45, r), (0.45, 0.75, 0.66 * r), (0.75, 1.0, 0.33 * r)]
        else:
            parts = [(0.30, 0.48, 0.8 * r), (0.48, 0.80, r), (0.80, 1.0, 0.62 * r)]
        trunk: _Prism = (0.0, 0.17, 0.17, 0.0, parts[0][0] * top, True, (0.36, 0.26, 0.18), draw.PLAIN)
        crown: list[_Prism] = [(0.0, w, w, a * top, b * top, True, colour, draw.LEAVES) for a, b, w in parts]
        self.add("tree", (2 * r, 2 * r, top), [trunk, *crown], (x, y, rng.uniform(-3, 3)))

    def building(self, pose: Sequence[float], length: float, depth: float, rng: np.random.Generator) -> None:
        top, colour = 3.0 * rng.integers(1, 6) + 0.9, _some(_WALLS, rng, 0.05)
        whole: _Prism = (0.0, length / 2, depth / 2, 0.0, top, False, colour, draw.WALL)
        self.add("building", (length, depth, top), [whole], pose)


def _some(colours: Sequence[tuple[float, float, float]], rng: np.random.Generator, spread: float):
    """One of the colours, a little changed."""
    r, g, b = np.clip(
        np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3), 0.03, 0.97
    ).tolist()
    return r, g, b


def populate(
    things: Things,
    route: Route,
    junctions: Sequence[Junction],
    roads: Sequence[Road],
    ego: Float[np.ndarray, "n 3"],
    s: Float[np.ndarray, " u"],
    fps: float,
    density: float,
    seed: int,
) -> None:
    """Put down what lines the road and who moves on it.

    Every kind, road and side has its own random numbers, so that a longer way adds to a town and does not change it.
    """

    def draws(*which: int) -> np.random.Generator:
        return np.random.default_rng([seed, 2, *which])

    num = things.num_frames
    first, last = -AROUND, float(s[num]) + AROUND
    way = route.at(np.arange(first - 30, last + 30, 1.5), LANE / 2)
    passed = ego[::3, :2]

    def off_road(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """Metres from the edge of the nearest asphalt; negative on it."""
        found = np.sqrt(np.square(points[:, None] - way[None, :, :2]).sum(-1).min(1)) - HALF
        for road in roads:
            along, left = road.local(points)
            found = np.minimum(found, np.hypot(along - np.clip(along, 0, road.length), left) - HALF)
        return found

    def near(x: float, y: float) -> bool:
        return bool(np.square(passed - (x, y)).sum(-1).min() < 65**2)

    lines: list[tuple[float, float, Callable[[float, float], tuple[float, float, float]]]] = [
        (first, last, lambda at, left: tuple(route.at(np.array([at]), left + LANE / 2)[0].tolist()))  # type: ignore[misc]
    ]
    lines += [(HALF + PAVEMENT + 2, road.length + 8, road.at) for road in roads]

    # Buildings on both sides; they touch neither a road nor each other.
    corners = np.array([(a, b) for a in (-0.5, -0.25, 0, 0.25, 0.5) for b in (-0.5, 0, 0.5)])
    built: list[tuple[float, float, float]] = []
    for k, (start, stop, line) in enumerate(lines):
        for sign in (1, -1):
            rng = draws(0, k, sign + 1)
            at = start + rng.uniform(0, 8)
            while at < stop:
                length, depth, back = rng.uniform(9, 20), rng.uniform(8, 13), rng.uniform(1.5, 6)
                x, y, yaw = line(at + length / 2, sign * (HALF + PAVEMENT + back + depth / 2))
                at += length + rng.uniform(1, 9)
                there, own = rng.random() < min(0.85 * density, 1), np.random.default_rng(rng.integers(2**63))
                if not there or not near(x, y):
                    continue
                c, n = math.cos(yaw), math.sin(yaw)
                points = corners * (length, depth) @ np.array([[c, n], [-n, c]]) + (x, y)
                reach = math.hypot(length, depth) / 2
                apart = all(math.hypot(x - a, y - b) > 0.8 * (reach + r) for a, b, r in built)
                if apart and off_road(points).min() > PAVEMENT + 0.8:
                    built.append((x, y, reach))
                    things.building((x, y, yaw + (math.pi if sign > 0 else 0.0)), length, depth, own)

    houses = [(p[0], np.array(size[:2]) / 2) for p, size in zip(things.path, things.size, strict=True)]
    for k, (start, stop, line) in enumerate(lines):
        for sign in (1, -1):
            rng = draws(1, k, sign + 1)
            at = start + rng.uniform(0, 9)
            while at < stop:
                x, y, _ = line(at, sign * (HALF + PAVEMENT + rng.uniform(-0.7, 1.2)))
                at += rng.uniform(6, 14)
                there, own = rng.random() < min(0.6 * density, 1), np.random.default_rng(rng.integers(2**63))
                if there and near(x, y) and off_road(np.array([[x, y]]))[0] > PAVEMENT - 0.9:
                    if all(_outside(x, y, pose, half + 0.5) for pose, half in houses):
                        things.tree(x, y, own)

    # Parked cars, beside the lanes, not where roads meet.
    for k, (start, stop, line) in enumerate(lines):
        for sign in (1, -1):
            rng = draws(2, k, sign + 1)
            at = start + rng.uniform(0, 6)
            while at < stop:
                x, y, yaw = line(at, sign * (LANE + PARKING / 2 + rng.uniform(-0.08, 0.08)))
                yaw += (math.pi if sign > 0 else 0.0) + rng.normal(0, 0.02)
                busy = k == 0 and any(j.start - 9 < at < j.stop + 9 for j in junctions)
                at += 6.5 * rng.integers(1, 4)
                there, own = rng.random() < 0.45 * density, np.random.default_rng(rng.integers(2**63))
                others = [r for i, r in enumerate(roads) if i != k - 1]
                point = np.array([[x, y]])
                if k > 0 and np.square(way[:, :2] - point).sum(-1).min() < (HALF + 4.5) ** 2:
                    continue
                crossed = [r.local(point) for r in others]
                if any(
                    abs(float(b[0])) < HALF + 4.5 and -HALF - 4.5 < a[0] < r.length + 4
                    for r, (a, b) in zip(others, crossed, strict=True)
                ):
                    continue
                if there and not busy and near(x, y):
                    things.car((x, y, yaw), own)

    # A car ahead goes as the ego will a little later, so that they never meet.
    rng = draws(3)
    ahead = math.ceil(rng.uniform(1.0, 2.2) * fps)
    gap, there, own = (
        rng.uniform(9.5, 14),
        rng.random() < min(0.55 * density, 1),
        np.random.default_rng(rng.integers(2**63)),
    )
    if there:
        later = np.minimum(np.arange(num + 1) + ahead, len(s) - 1)
        things.car(route.at(s[later] + gap), own)

    # Oncoming cars follow one law of speed over place, so that they never meet either.
    rng = draws(4)
    places = np.arange(first - 60, last + 15 * num / fps + 60, 1.0)
    poses = route.at(places)
    bend = np.abs(np.gradient(np.unwrap(poses[:, 2])))
    pace = np.minimum(rng.uniform(5, 12), np.sqrt(_SIDEWAYS / np.maximum(bend, 1e-3)))
    pace = np.convolve(np.pad(pace, 6, "edge"), np.ones(13) / 13, "valid")
    clock = np.concatenate([[0.0], np.cumsum(1 / pace[:-1])])
    when = float(np.interp(first, places, clock)) + rng.uniform(0, 3)
    while when < clock[-1]:
        then = np.interp(when - np.arange(num + 1) / fps, clock, places)
        when += rng.uniform(2.0, 7.0)
        there, own = rng.random() < min(0.75 * density, 1), np.random.default_rng(rng.integers(2**63))
        if there and then[0] > first and then[-1] < last and then[-1] > places[0]:
            path = route.at(then, LANE)
            path[:, 2] += math.pi
            things.car(path, own)

    # Walkers on the pavements, some of them standing.
    for sign in (1, -1):
        rng = draws(5, sign + 1)
        at = first + rng.uniform(0, 10)
        while at < last:
            left = sign * (HALF + rng.uniform(0.7, PAVEMENT - 1.0)) + LANE / 2
            pace = 0.0 if rng.random() < 0.25 else rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)
            course = at + pace * np.arange(num + 1) / fps
            at += rng.uniform(4, 16)
            there, own = rng.random() < 0.5 * density, np.random.default_rng(rng.integers(2**63))
            path = route.at(course, left)
            if (
                there
                and min(np.square(passed[i] - path[::8, :2]).sum(-1).min() for i in range(0, len(passed), 4)) < 65**2
            ):
                path[:, 2] += math.pi if pace < 0 else 0.0
                things.walker(path, own)


def _outside(x: float, y: float, pose: np.ndarray, half: np.ndarray) -> bool:
    c, s = math.cos(pose[2]), math.sin(pose[2])
    dx, dy = x - pose[0], y - pose[1]
    return bool(abs(c * dx + s * dy) > half[0] or abs(c * dy - s * dx) > half[1])


# -- the ground -----------------------------------------------------------------------------------

CELL = 0.2  # metres, of the picture of the ground
_ASPHALT, _PAVED, _KERB, _GRASS = (0.33, 0.33, 0.35), (0.60, 0.58, 0.55), (0.74, 0.73, 0.70), (0.33, 0.47, 0.22)
_WHITE, _YELLOW = (0.92, 0.92, 0.90), (0.90, 0.72, 0.16)
_NOWHERE = 99.0


@dataclass(frozen=True)
class Picture:
    """The ground from above: row y, column x, cells of CELL from `corner` on."""

    colour: Float[np.ndarray, "3 y x"]
    road: Bool[np.ndarray, "y x"]
    marks: Bool[np.ndarray, "y x"]
    corner: tuple[float, float]


_Window = tuple[slice, slice]


def _around(points: Float[np.ndarray, "n 2"], x: np.ndarray, y: np.ndarray) -> _Window | None:
    """The cells that a road through these points may cover."""
    reach = HALF + PAVEMENT + 1
    (x0, y0), (x1, y1) = points.min(0) - reach, points.max(0) + reach
    rows, columns = slice(*np.searchsorted(y, [y0, y1])), slice(*np.searchsorted(x, [x0, x1]))
    return None if rows.stop <= rows.start or columns.stop <= columns.start else (rows, columns)


def _main_road(
    route: Route, span: tuple[float, float], x: np.ndarray, y: np.ndarray
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """How far along the route each cell is, and how far to the left of its centre line."""
    s = np.zeros((len(y), len(x)), np.float32)
    left = np.full((len(y), len(x)), _NOWHERE, np.float32)
    places = np.arange(*span, 1.5)
    pose = route.at(places, LANE / 2)
    for i in range(len(pose) - 1):
        window = _around(pose[i : i + 2, :2], x, y)
        if window is None:
            continue
        tx, ty = pose[i + 1, :2] - pose[i, :2]
        chord = np.float32(math.hypot(tx, ty))
        tx, ty = np.float32(tx) / chord, np.float32(ty) / chord
        dx = (x[window[1]] - pose[i, 0]).astype(np.float32)
        dy = (y[window[0], None] - pose[i, 1]).astype(np.float32)
        along, across = dx * tx + dy * ty, dy * tx - dx * ty
        on = np.clip(along, 0, chord)
        beyond = along - on
        distance = np.sqrt(across * across + beyond * beyond)
        closer = distance < np.abs(left[window])
        np.copyto(left[window], np.copysign(distance, across), where=closer)
        np.copyto(s[window], np.float32(places[i]) + on * (np.float32(1.5) / chord), where=closer)
    return s, left


def _line(offset: np.ndarray, half: float) -> np.ndarray:
    """How much of a cell a line covers."""
    return np.clip((half - np.abs(offset)) / CELL + 0.5, 0, 1)


def _marks(along: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """White at the lanes' edges and between parking bays, yellow dashes in the middle."""
    wide = np.abs(across)
    bay = _line(along % 6.5 - 3.25, 0.07) * (wide > LANE) * (wide < HALF - 0.15)
    return np.maximum(_line(wide - LANE, 0.08), bay), _line(across, 0.10) * (np.abs(along % 7 - 3.5) < 2.2)


def _zebra(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """A crossing for walkers, around where `along` is 0."""
    return (np.abs(along) < 1.4) * _line(across % 1.2 - 0.6, 0.28) * (np.abs(across) < HALF - 0.3)


def _texture(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "y x"]:
    """Grain, tufts and patches that stay where they are: mean 0, a fifth in size."""
    ny, nx = shape
    found = 0.10 * rng.standard_normal(shape, np.float32)
    for step, share in ((4, 0.12), (16, 0.13)):
        coarse = torch.from_numpy(rng.standard_normal((1, 1, ny // step, nx // step), np.float32))
        found += share * F.interpolate(coarse, size=shape, mode="bilinear")[0, 0].numpy()
    return found


def paint(
    route: Route,
    junctions: Sequence[Junction],
    roads: Sequence[Road],
    ego: Float[np.ndarray, "n 3"],
    span: tuple[float, float],
    rng: np.random.Generator,
) -> Picture:
    """The ground around the ego's way; of the route, the metres of `span` are a road."""
    low, high = ego[:, :2].min(0) - AROUND, ego[:, :2].max(0) + AROUND
    low = np.floor(low / 16) * 16
    nx, ny = (np.ceil((high - low) / (16 * CELL)) * 16).astype(int).tolist()
    x, y = low[0] + (np.arange(nx) + 0.5) * CELL, low[1] + (np.arange(ny) + 0.5) * CELL
    s, left = _main_road(route, span, x, y)

    main = np.abs(left) - np.float32(HALF)  # metres outside its asphalt
    edge, crossing = main.copy(), np.full_like(main, _NOWHERE)
    sides: list[tuple[_Window, np.ndarray, np.ndarray]] = []
    for road in roads:
        window = _around(np.array([road.at(0.0, 0.0)[:2], road.at(road.length, 0.0)[:2]]), x, y)
        if window is None:
            continue
        c, n = np.float32(math.cos(road.yaw)), np.float32(math.sin(road.yaw))
        dx = (x[window[1]] - road.origin[0]).astype(np.float32)
        dy = (y[window[0], None] - road.origin[1]).astype(np.float32)
        along, across = c * dx + n * dy, c * dy - n * dx
        outside = np.maximum(np.abs(across) - HALF, np.maximum(-along - HALF, along - road.length))
        for field in (edge, crossing):
            np.minimum(field[window], outside, out=field[window])
        sides.append((window, along, across))

    white, yellow = np.zeros_like(edge), np.zeros_like(edge)
    cells = np.flatnonzero((main < 0) & (crossing > 0.4))
    along, across = s.ravel()[cells], left.ravel()[cells]
    lines, dashes = _marks(along, across)
    for j in junctions:
        outside = (along < j.start) | (along > j.stop)
        lines, dashes = lines * outside, dashes * outside
    white.ravel()[cells] = lines
    for start in (start for j in junctions for start in (j.start - 1.8, j.stop + 1.8)):
        dashes *= np.abs(along - start) > 1.8
        near = np.flatnonzero(np.abs(along - start) < 2)
        place = cells[near]
        white.ravel()[place] = np.maximum(white.ravel()[place], _zebra(along[near] - start, across[near]))
    yellow.ravel()[cells] = dashes
    for window, along, across in sides:
        on = (main[window] > 0.4) & (along > HALF) & (along < STUB) & (np.abs(across) < HALF)
        along, across = along[on], across[on]
        lines, dashes = _marks(along, across)
        lines = np.maximum(lines * (along > 14.5), _zebra(along - 11.4, across))
        white[window][on] = np.maximum(white[window][on], lines)
        yellow[window][on] = np.maximum(yellow[window][on], dashes * (along > 14.5))

    texture = _texture((ny, nx), rng)
    picture = np.array(_GRASS, np.float32)[:, None, None] * (1 + texture)
    cells = np.flatnonzero(edge < PAVEMENT + CELL)
    edge_, white_, yellow_ = edge.ravel()[cells], white.ravel()[cells], yellow.ravel()[cells]
    asphalt = np.clip(-edge_ / CELL + 0.5, 0, 1)
    joints = np.minimum(x % 1.5, 1.5 - x % 1.5)[cells % nx] < 0.12
    joints |= np.minimum(y % 1.5, 1.5 - y % 1.5)[cells // nx] < 0.12
    rough = (1 + 0.45 * texture.ravel()[cells]) * (1 - 0.13 * (joints & (edge_ > 0.2)))
    layers = (
        (_PAVED, np.clip((PAVEMENT - edge_) / CELL + 0.5, 0, 1)),
        (_KERB, _line(edge_ - 0.1, 0.14)),
        (_ASPHALT, asphalt),
        (_WHITE, 0.92 * white_ * asphalt),
        (_YELLOW, 0.92 * yellow_ * asphalt),
    )
    for channel, plane in enumerate(picture.reshape(3, -1)):
        found = plane[cells]
        for number, (colour, share) in enumerate(layers):
            new = np.float32(colour[channel]) * (rough if number < 3 else np.float32(1))
            found += share * (new - found)
        plane[cells] = found
    np.clip(picture, 0, 1, out=picture)
    for border in (picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]):
        border[:] = np.array(_GRASS, np.float32)[:, None]
    return Picture(picture, edge < 0, (np.maximum(white, yellow) > 0.35) & (edge < 0), (float(low[0]), float(low[1])))
