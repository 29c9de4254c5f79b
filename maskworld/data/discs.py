"""Coloured discs that bounce without loss among walls: a world whose state is known exactly.

A `Scene` is how a clip begins, `simulate` gives its states (pymunk), `render` draws them. Neither draws
anything at random, so that a probe can change a scene and see what would have happened then. Lengths are
pixels, velocities pixels per frame; x runs right and y down from the top left corner of the frame.

Sections: states - physics - drawing - the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from maskworld.clip import Clip, of_frames

SPLITS = ("train", "valid", "test")

# RGB, 0..1. Any two of them, and each and what stands still, are more than 0.3 apart.
AGENT = (1.0, 1.0, 1.0)  # only the disc that actions push
PALETTE = (
    (0.90, 0.10, 0.12),  # red
    (0.10, 0.75, 0.20),  # green
    (0.15, 0.30, 1.00),  # blue
    (1.00, 0.85, 0.00),  # yellow
    (0.95, 0.20, 0.90),  # magenta
    (0.00, 0.85, 0.90),  # cyan
    (1.00, 0.50, 0.05),  # orange
)
DARK, LIGHT = (0.06, 0.06, 0.09), (0.70, 0.70, 0.66)
BAR, OCCLUDER = (0.45, 0.30, 0.15), (0.40, 0.40, 0.46)

# -- states ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """How a clip begins, and all that does not move in it. Disc 0 is the one that actions push."""

    size: int
    position: Float[np.ndarray, "n 2"]
    velocity: Float[np.ndarray, "n 2"]
    radius: Float[np.ndarray, " n"]
    colour: Float[np.ndarray, "n 3"]
    background: Float[np.ndarray, " 3"]
    bar: Float[np.ndarray, "2 2"] | None = None  # the ends of its axis; a wall with round ends
    occluder: Float[np.ndarray, " 4"] | None = None  # left, top, right, bottom; drawn over the discs

    @property
    def mass(self) -> Float[np.ndarray, " n"]:
        """As the area."""
        return np.pi * self.radius**2

    @property
    def bar_radius(self) -> float:
        return 1.5 * self.size / 64


@dataclass(frozen=True)
class DiscStates:
    """The truth of a clip. `velocity[t]` is before the push of `actions[t]`, which is felt at t + 1."""

    scene: Scene
    position: Float[np.ndarray, "t n 2"]
    velocity: Float[np.ndarray, "t n 2"]
    actions: Float[np.ndarray, "t 2"] | None = None


# -- physics --------------------------------------------------------------------------------------

SUBSTEPS = 16  # per frame: a disc moves less than half a pixel between two looks at what it touches
PUSH = 2.0  # pixels per frame that an action of length 1 adds, at 64 pixels
LIMIT = 4.0  # pixels per frame above which a push does not speed up a disc, at 64 pixels


def simulate(scene: Scene, num_frames: int, actions: Float[np.ndarray, "t 2"] | None = None) -> DiscStates:
    """Let it run, from the scene itself as frame 0. Every collision is elastic and without friction."""
    import pymunk

    if num_frames < 1:
        raise ValueError(f"at least one frame, not {num_frames}")
    if actions is not None and len(actions) != num_frames:
        raise ValueError(f"{len(actions)} actions for {num_frames} frames")
    if actions is not None and len(scene.radius) == 0:
        raise ValueError("actions push disc 0, and the scene has no discs")
    space = pymunk.Space()
    space.collision_slop = 0.01
    space.iterations = 50  # with pymunk's 10, where three touch at once, energy is off by up to a hundredth
    bodies, shapes = [], []
    state = (scene.position.tolist(), scene.velocity.tolist(), scene.radius.tolist(), scene.mass.tolist())
    for position, velocity, radius, mass in zip(*state, strict=True):
        body = pymunk.Body(mass, float("inf"))  # never turns
        body.position, body.velocity = tuple(position), tuple(velocity)
        bodies.append(body)
        shapes.append(pymunk.Circle(body, radius))
    edge, s = (
        4.0 * scene.size / 64,
        float(scene.size),
    )  # walls just outside the frame, thick against tunnelling
    corners = [(-edge, -edge), (s + edge, -edge), (s + edge, s + edge), (-edge, s + edge)]
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        shapes.append(pymunk.Segment(space.static_body, a, b, edge))
    if scene.bar is not None:
        a, b = scene.bar.tolist()
        shapes.append(pymunk.Segment(space.static_body, tuple(a), tuple(b), scene.bar_radius))
    for shape in shapes:
        shape.elasticity, shape.friction = 1.0, 0.0
    space.add(*bodies, *shapes)

    states = []
    for t in range(num_frames):
        states.append([(*body.position, *body.velocity) for body in bodies])
        if actions is not None:
            bodies[0].velocity = _pushed(states[-1][0][2:], actions[t].tolist(), scene.size)
        for _ in range(SUBSTEPS if t + 1 < num_frames else 0):
            space.step(1 / SUBSTEPS)
    path = np.array(states, dtype=np.float64).reshape(num_frames, len(bodies), 4)
    return DiscStates(scene, path[..., :2], path[..., 2:], actions)


def _pushed(velocity: tuple[float, float], action: list[float], size: int) -> tuple[float, float]:
    """The velocity after a push; never faster than LIMIT unless it was so before."""
    before = float(np.hypot(*velocity))
    vx, vy = (v + PUSH * size / 64 * a for v, a in zip(velocity, action, strict=True))
    scale = min(1.0, max(LIMIT * size / 64, before) / max(float(np.hypot(vx, vy)), 1e-9))
    return vx * scale, vy * scale


# -- drawing --------------------------------------------------------------------------------------


def render(states: DiscStates) -> Float[np.ndarray, "t 3 h w"]:
    """Frames in [-1, 1], flat and antialiased: a pixel takes the share of a colour that its signed distance
    to the border gives. Background, bar, discs in their order, occluder. Pure.
    """
    scene, size = states.scene, states.scene.size
    still = np.tile(_signed(scene.background), (size, size, 1))
    if scene.bar is not None:
        centres = np.arange(size) + 0.5
        distance = _to_segment(scene.bar, np.stack(np.meshgrid(centres, centres), axis=-1))
        _blend(still, np.clip(scene.bar_radius + 0.5 - distance, 0, 1), BAR)
    frames = np.repeat(still[None], len(states.position), axis=0)  # t h w c: a disc's pixels lie together
    for n, colour in enumerate(scene.colour):
        window, share = _footprint(states, n)
        pixels = frames[window]
        _blend(pixels, share, colour)
        frames[window] = pixels
    if scene.occluder is not None:
        share = _box(scene.occluder, size)
        rows, columns = (slice(i.min(initial=size), i.max(initial=-1) + 1) for i in np.nonzero(share))
        _blend(frames[:, rows, columns], share[rows, columns], OCCLUDER)
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def visible(states: DiscStates) -> Float[np.ndarray, "t n"]:
    """The share of each disc's drawn area that the occluder leaves to be seen."""
    t, n = states.position.shape[:2]
    if states.scene.occluder is None:
        return np.ones((t, n))
    open_ = np.tile(1 - _box(states.scene.occluder, states.scene.size), (t, 1, 1))
    seen = []
    for i in range(n):
        window, share = _footprint(states, i)
        seen.append((share * open_[window]).sum((1, 2)) / np.maximum(share.sum((1, 2)), 1e-9))
    return np.stack(seen, axis=1).astype(np.float64)


def _footprint(states: DiscStates, n: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The pixels in a window around disc n, as an index of (t, h, w), and how much of each it covers."""
    size, radius = states.scene.size, float(states.scene.radius[n])
    side = min(size, int(np.ceil(2 * radius)) + 3)
    corner = np.clip(np.floor(states.position[:, n] - side / 2), 0, size - side)
    offset = (corner - states.position[:, n])[..., None] + np.arange(side) + 0.5  # t (x y) side
    dx2, dy2 = np.square(offset, dtype=np.float64).astype(np.float32).swapaxes(0, 1)
    share = np.clip(np.float32(radius + 0.5) - np.sqrt(dx2[:, None, :] + dy2[:, :, None]), 0, 1)
    columns, rows = (corner.astype(np.int64)[..., None] + np.arange(side)).swapaxes(0, 1)
    when = np.arange(len(corner))[:, None, None]
    return (when, rows[:, :, None], columns[:, None, :]), share


def _box(box: Float[np.ndarray, " 4"], size: int) -> Float[np.ndarray, "h w"]:
    """How much of each pixel an upright rectangle covers."""
    left, top, right, bottom = box.tolist()
    near = np.arange(size)
    in_x, in_y = (
        np.clip(np.minimum(near + 1, high) - np.maximum(near, low), 0, 1)
        for low, high in ((left, right), (top, bottom))
    )
    return (in_y[:, None] * in_x).astype(np.float32)


def _signed(colour: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(colour, np.float32) * 2 - 1


def _blend(pixels: np.ndarray, share: np.ndarray, colour: Sequence[float] | np.ndarray) -> None:
    pixels += share[..., None].astype(np.float32) * (_signed(colour) - pixels)


def _to_segment(segment: Float[np.ndarray, "2 2"], points: np.ndarray) -> np.ndarray:
    """The distance of points (last axis x, y) to a piece of a straight line."""
    along = segment[1] - segment[0]
    part = np.clip((points - segment[0]) @ along / max(float(along @ along), 1e-12), 0, 1)
    return np.linalg.norm(points - segment[0] - part[..., None] * along, axis=-1)


# -- the source -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discs:
    """Clip number `index` of an endless set: a function of the fields and the index alone.

    Each clip has `num_discs` (fewest, most) discs of different colours. With the given probabilities its
    background is light, a bar stands in it, an occluder lies over it. With `actions` disc 0 is white and is
    pushed at random times; an action is the push's (x, y), each in [-1, 1].
    """

    split: Literal["train", "valid", "test"] = "train"
    num_frames: int = 20
    size: int = 64  # pixels; radii and speeds grow with it
    seed: int = 0
    num_discs: tuple[int, int] = (2, 4)
    p_light: float = 0.0
    p_bar: float = 0.0
    p_occluder: float = 0.0
    actions: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.num_frames < 1:
            raise ValueError(f"at least one frame, not {self.num_frames}")
        if self.size < 16:
            raise ValueError(f"frames of at least 16 pixels, not {self.size}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or more, not {self.seed}")
        low, high = self.num_discs
        if not 1 <= low <= high <= len(PALETTE):
            raise ValueError(f"num_discs is (fewest, most), from 1 to {len(PALETTE)}, not {self.num_discs}")
        chances = {"p_light": self.p_light, "p_bar": self.p_bar, "p_occluder": self.p_occluder}
        for name, p in chances.items():
            if not 0 <= p <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {p}")

    @property
    def channels(self) -> int:
        return 3

    def scene(self, index: int) -> Scene:
        """How the clip begins."""
        return self._draw(index)[0]

    def states(self, index: int) -> DiscStates:
        """Where every disc is, exactly."""
        scene, actions = self._draw(index)
        return simulate(scene, self.num_frames, actions)

    def __call__(self, index: int) -> Clip:
        states = self.states(index)
        clip = of_frames(torch.from_numpy(render(states))[None, None])
        if states.actions is None:
            return clip
        return dataclasses.replace(clip, actions=torch.from_numpy(states.actions).float()[None])

    def _draw(self, index: int) -> tuple[Scene, Float[np.ndarray, "t 2"] | None]:
        if index < 0:
            raise ValueError(f"clips are numbered from 0, not {index}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        unit, size = self.size / 64, self.size
        n = int(rng.integers(self.num_discs[0], self.num_discs[1] + 1))
        light, bar, occluder = rng.random(3) < (self.p_light, self.p_bar, self.p_occluder)
        colour = np.array(PALETTE)[rng.permutation(len(PALETTE))[:n]]
        if self.actions:
            colour[0] = AGENT
        radius = rng.uniform(4, 6.5, n) * unit
        speed, course = rng.uniform(1, 3, n) * unit, rng.uniform(0, 2 * np.pi, n)
        velocity = (speed * np.array([np.cos(course), np.sin(course)])).T
        ends = _bar(size, rng) if bar else None
        scene = Scene(
            size=size,
            position=_apart(radius, size, ends, rng),
            velocity=velocity,
            radius=radius,
            colour=colour,
            background=np.array(LIGHT if light else DARK),
            bar=ends,
            occluder=_band(size, rng) if occluder else None,
        )
        if not self.actions:
            return scene, None
        pushed = rng.random((self.num_frames, 1)) < 0.3
        return scene, np.where(pushed, rng.uniform(-1, 1, (self.num_frames, 2)), 0.0)


def _apart(
    radius: Float[np.ndarray, " n"], size: int, bar: np.ndarray | None, rng: np.random.Generator
) -> Float[np.ndarray, "n 2"]:
    """Places, uniform over those where no two discs are nearer than a pixel, nor a disc and a wall."""
    gap, unit = 1.0 * size / 64, size / 64
    for _ in range(10_000):
        position = rng.uniform(radius[:, None] + gap, size - radius[:, None] - gap, (len(radius), 2))
        between = np.linalg.norm(position[:, None] - position[None], axis=-1) - radius[:, None] - radius - gap
        np.fill_diagonal(between, 1)
        free = bar is None or (_to_segment(bar, position) - radius - 1.5 * unit - gap).min() > 0
        if between.min() > 0 and free:
            return position
    raise AssertionError(f"{len(radius)} discs do not fit into {size} pixels")


def _bar(size: int, rng: np.random.Generator) -> Float[np.ndarray, "2 2"]:
    centre, angle, length = rng.uniform(0.35, 0.65, 2), rng.uniform(0, np.pi), rng.uniform(0.25, 0.45)
    half = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    return np.stack([centre - half, centre + half]) * size


def _band(size: int, rng: np.random.Generator) -> Float[np.ndarray, " 4"]:
    """A band across the frame, upright or level, wider than the largest disc."""
    width = rng.uniform(14, 20) * size / 64
    start = rng.uniform(0.2 * size, 0.8 * size - width)
    box = (start, 0.0, start + width, size) if rng.random() < 0.5 else (0.0, start, size, start + width)
    return np.array(box, dtype=np.float64)
