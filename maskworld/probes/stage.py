"""The stage of the probes: bodies that move by exact laws, and two ways to film them.

`simulate` says where everything is, `film` what a camera sees, `visible` how much of each thing it sees. None of
them draws anything at random. Lengths are pixels of a 64 x 64 view, times are frames; x runs right and y down.

Sections: things - physics - tracks - drawing - what is seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Numbers = Any
"""What `np.asarray` takes."""

VIEW = 64  # side of what the camera sees
WALL = -1  # the number under which the bounds appear among contacts

Tier = Literal["flat", "textured"]
SIDE: dict[Tier, int] = {"flat": 64, "textured": 128}
"""flat: one colour a thing, 64 x 64. textured: the same states on a grained ground with shaded things, 128 x 128."""

# -- physics --------------------------------------------------------------------------------------

SUBSTEPS = 8


@dataclass(frozen=True)
class Bodies:
    """What moves by law. Nothing turns.

    half       half the width and height; a disc has its radius twice
    box        upright rectangles, where True; discs otherwise
    density    mass for each square pixel
    solid      whether it meets others; what is not solid passes through everything, the bounds too
    fixed      stands still and cannot be pushed
    """

    position: Float[np.ndarray, "n 2"]
    velocity: Float[np.ndarray, "n 2"]
    half: Float[np.ndarray, "n 2"]
    box: Bool[np.ndarray, " n"]
    density: Float[np.ndarray, " n"]
    solid: Bool[np.ndarray, " n"]
    fixed: Bool[np.ndarray, " n"]

    @property
    def mass(self) -> Float[np.ndarray, " n"]:
        area = np.where(self.box, 4 * self.half.prod(1), np.pi * self.half[:, 0] ** 2)
        return area * self.density


def discs(
    position: Numbers,
    velocity: Numbers,
    radius: Numbers,
    density: Numbers = 1.0,
) -> Bodies:
    """Solid discs that are free to move: places and velocities (n, 2), radii (n,), densities (n,) or one for all."""
    n = len(np.asarray(radius))
    return Bodies(
        position=np.asarray(position, dtype=np.float64).reshape(n, 2),
        velocity=np.asarray(velocity, dtype=np.float64).reshape(n, 2),
        half=np.repeat(np.asarray(radius, dtype=np.float64)[:, None], 2, axis=1),
        box=np.zeros(n, dtype=bool),
        density=np.broadcast_to(np.asarray(density, dtype=np.float64), (n,)).copy(),
        solid=np.ones(n, dtype=bool),
        fixed=np.zeros(n, dtype=bool),
    )


class Contact(NamedTuple):
    """Two bodies that began to touch after frame `frame` and before the next; `b` may be WALL."""

    frame: int
    a: int
    b: int


@dataclass(frozen=True)
class Motion:
    """Where the bodies are at each frame; `velocity[t]` is before the kick of frame t."""

    position: Float[np.ndarray, "t n 2"]
    velocity: Float[np.ndarray, "t n 2"]
    contacts: tuple[Contact, ...]

    def between(self) -> tuple[Contact, ...]:
        """Contacts of two bodies, the bounds left out."""
        return tuple(c for c in self.contacts if c.b != WALL)


def simulate(
    bodies: Bodies,
    num_frames: int,
    *,
    bounds: tuple[float, float, float, float] | None = None,
    gravity: tuple[float, float] = (0.0, 0.0),
    drag: float = 0.0,
    friction: float = 0.0,
    elasticity: float = 1.0,
    kicks: Float[np.ndarray, "t n 2"] | None = None,
    paths: Mapping[int, Float[np.ndarray, "t 2"]] | None = None,
) -> Motion:
    """Let it run; frame 0 is the bodies as given.

    Args:
        bodies: what there is.
        num_frames: how long.
        bounds: left, top, right, bottom of the walls that keep solid bodies in; none if None.
        gravity: what each frame adds to every velocity.
        drag: share of the velocity that each frame takes.
        friction: speed that each frame takes, until there is none left.
        elasticity: share of the speed that a collision returns.
        kicks: what is added to the velocities right after each frame; the last frame's is not felt.
        paths: bodies that are led along given places instead, and push others without being pushed.
    """
    import pymunk

    assert num_frames >= 1 and 0 <= drag < 1 and friction >= 0
    paths = paths or {}
    space = pymunk.Space()
    space.gravity = gravity
    space.collision_slop, space.iterations = 0.01, 30
    space.damping = 1 - drag

    def slow(body: pymunk.Body, pull, damping: float, dt: float) -> None:
        pymunk.Body.update_velocity(body, pull, damping, dt)
        if body.velocity.length:
            body.velocity *= max(0.0, 1 - friction * dt / body.velocity.length)

    held, number = [], {}
    for i, (mass, half) in enumerate(zip(bodies.mass.tolist(), bodies.half.tolist(), strict=True)):
        led, fixed = i in paths, bool(bodies.fixed[i])
        kind = pymunk.Body.KINEMATIC if led else pymunk.Body.STATIC if fixed else pymunk.Body.DYNAMIC
        body = pymunk.Body(mass, float("inf"), body_type=kind)
        body.position = tuple((paths[i][0] if led else bodies.position[i]).tolist())
        if kind == pymunk.Body.DYNAMIC:
            if friction:  # calls back into Python at every substep
                body.velocity_func = slow
            body.velocity = tuple(bodies.velocity[i].tolist())
        held.append(body)
        space.add(body)
        if bodies.solid[i]:
            shape = pymunk.Poly.create_box(body, (2 * half[0], 2 * half[1])) if bodies.box[i] else None
            shape = shape or pymunk.Circle(body, half[0])
            number[shape] = i
            space.add(shape)
    if bounds is not None:
        left, top, right, bottom = bounds
        thick = 8.0  # against tunnelling
        x0, y0, x1, y1 = left - thick, top - thick, right + thick, bottom + thick
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            shape = pymunk.Segment(space.static_body, a, b, thick)
            number[shape] = WALL
            space.add(shape)
    for shape in number:
        shape.elasticity, shape.friction = elasticity**0.5, 0.0  # pymunk multiplies the two
    contacts: list[Contact] = []
    now = 0

    def began(arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        one, other = sorted((number[shape] for shape in arbiter.shapes), reverse=True)
        contacts.append(Contact(now, one, other))

    space.on_collision(begin=began)
    position, velocity = np.empty((2, num_frames, len(held), 2))
    for now in range(num_frames):
        for i, body in enumerate(held):
            position[now, i], velocity[now, i] = body.position, body.velocity
        if now + 1 == num_frames:
            break
        if kicks is not None:
            for i in np.nonzero(kicks[now].any(1))[0].tolist():
                held[i].velocity += tuple(kicks[now, i].tolist())
        for i, path in paths.items():
            held[i].velocity = tuple((path[now + 1] - path[now]).tolist())
        for _ in range(SUBSTEPS):
            space.step(1 / SUBSTEPS)
        for i, path in paths.items():
            held[i].position = tuple(path[now + 1].tolist())
    return Motion(position, velocity, tuple(contacts))


# -- tracks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """All that a camera could film, frame by frame. Things are drawn in their order, later ones over earlier.

    position   centre in the world; the camera's view is VIEW x VIEW from `camera` (its left top corner) on
    shown      whether the thing is there at all
    object     whether it is a thing that a read-out looks for; the rest is scenery (walls, occluders, lids)
    grain      seed of the textured ground
    """

    position: Float[np.ndarray, "t n 2"]
    half: Float[np.ndarray, "n 2"]
    box: Bool[np.ndarray, " n"]
    colour: Float[np.ndarray, "t n 3"]
    shown: Bool[np.ndarray, "t n"]
    object: Bool[np.ndarray, " n"]
    camera: Float[np.ndarray, "t 2"]
    background: Float[np.ndarray, " 3"]
    grain: int = 0

    def __post_init__(self) -> None:
        t, n = self.position.shape[:2]
        shapes = (self.half.shape, self.box.shape, self.colour.shape, self.shown.shape, self.object.shape)
        assert shapes == ((n, 2), (n,), (t, n, 3), (t, n), (n,)) and self.camera.shape == (t, 2), shapes

    @property
    def num_frames(self) -> int:
        return len(self.position)

    @property
    def objects(self) -> Int[np.ndarray, " k"]:
        """The numbers of the things that a read-out looks for."""
        return np.nonzero(self.object)[0]

    def part(self, start: int, stop: int) -> Track:
        """Frames start..stop - 1."""
        return self.changed(**{name: getattr(self, name)[start:stop] for name in _IN_TIME})

    def at(self, frames: Int[np.ndarray, " k"] | Sequence[int]) -> Track:
        """These frames, in this order; a frame may come twice."""
        index = np.asarray(frames, dtype=np.int64)
        return self.changed(**{name: getattr(self, name)[index] for name in _IN_TIME})

    def then(self, other: Track) -> Track:
        """This one, and then another with the same things."""
        return self.changed(**{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _IN_TIME})

    def changed(self, **changes) -> Track:
        """The same with some fields replaced."""
        return dataclasses.replace(self, **changes)


_IN_TIME = ("position", "colour", "shown", "camera")


@dataclass
class Cast:
    """Puts a track together, thing by thing, in the order in which they are drawn."""

    num_frames: int
    background: Numbers
    grain: int = 0
    camera: Float[np.ndarray, "t 2"] | None = None
    things: list[tuple] = field(default_factory=list)

    def add(
        self,
        position: Numbers,
        half: Numbers,
        colour: Numbers,
        *,
        box: bool = False,
        object: bool = True,
        shown: Numbers = True,
    ) -> int:
        """One more thing, over those before: `position` and `colour` at each frame, or once for all. Its number."""
        t = self.num_frames
        self.things.append(
            (
                np.broadcast_to(np.asarray(position, np.float64), (t, 2)),
                np.broadcast_to(np.asarray(half, np.float64), (2,)),
                np.broadcast_to(np.asarray(colour, np.float64), (t, 3)),
                box,
                object,
                np.broadcast_to(np.asarray(shown, bool), (t,)),
            )
        )
        return len(self.things) - 1

    def track(self) -> Track:
        position, half, colour, box, object_, shown = zip(*self.things, strict=True)
        camera = np.zeros((self.num_frames, 2)) if self.camera is None else np.asarray(self.camera, np.float64)
        return Track(
            position=np.stack(position, 1),
            half=np.stack(half),
            box=np.array(box, dtype=bool),
            colour=np.stack(colour, 1),
            shown=np.stack(shown, 1),
            object=np.array(object_, dtype=bool),
            camera=camera,
            background=np.asarray(self.background, np.float64),
            grain=self.grain,
        )


# -- drawing --------------------------------------------------------------------------------------

LIGHT = np.array([-0.6, -0.8])  # where the textured tier's light comes from
SHADE = 0.12  # how much brighter than its colour a thing is on that side
GRAIN = 0.05  # deviation of the textured ground


class _Part(NamedTuple):
    """Where one thing lies: an index into (t, h, w), how much of each pixel it covers, and its shade there."""

    window: tuple
    share: Float[np.ndarray, "t h w"]
    shade: Float[np.ndarray, "t h w"] | None


def film(track: Track, tier: Tier = "flat") -> UInt8[np.ndarray, "t h w 3"]:
    """What the camera sees. Antialiased: a pixel takes the share of a colour that its distance to the edge gives."""
    side = SIDE[tier]
    frames = np.broadcast_to(track.background.astype(np.float32), (track.num_frames, side, side, 3)).copy()
    if tier == "textured":
        frames += _ground(track, side)[..., None]
    for n, part in _parts(track, side, shaded=tier == "textured"):
        pixels = frames[part.window]
        colour = track.colour[:, n, None, None].astype(np.float32)
        if part.shade is not None:
            colour = colour * part.shade[..., None]
        frames[part.window] = pixels + part.share[..., None] * (colour - pixels)
    return (frames.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def visible(track: Track) -> Float[np.ndarray, "t n"]:
    """The share of each thing that the camera sees: inside the view and not behind another thing."""
    t, n = track.position.shape[:2]
    area = np.where(track.box, 4 * track.half.prod(1), np.pi * (track.half[:, 0] ** 2 + 1 / 12))
    open_ = np.ones((t, VIEW, VIEW), dtype=np.float32)
    seen = np.zeros((t, n))
    for i, part in reversed(list(_parts(track, VIEW, shaded=False))):
        there = open_[part.window]
        seen[:, i] = (part.share * there).sum((1, 2), dtype=np.float64)
        open_[part.window] = there * (1 - part.share)
    return np.clip(seen / np.maximum(area, 1e-9), 0, 1)


def _parts(track: Track, side: int, shaded: bool) -> Iterator[tuple[int, _Part]]:
    unit = side / VIEW
    for n in range(track.position.shape[1]):
        if not track.shown[:, n].any():
            continue
        centre = (track.position[:, n] - track.camera) * unit
        half = track.half[n] * unit
        part = _box(centre, half, side) if track.box[n] else _disc(centre, float(half[0]), side, shaded)
        if part is None:
            continue
        if not track.shown[:, n].all():
            part = part._replace(share=part.share * track.shown[:, n, None, None].astype(np.float32))
        yield n, part


def _disc(centre: Float[np.ndarray, "t 2"], radius: float, side: int, shaded: bool) -> _Part:
    width = min(side, int(np.ceil(2 * radius)) + 3)
    corner = np.clip(np.floor(centre - width / 2), 0, side - width)
    offset = (corner - centre)[..., None] + np.arange(width) + 0.5  # t (x y) width
    far = np.abs(offset) > 4 * side  # out of sight: squares would lose digits
    offset = np.where(far, 4.0 * side, offset).astype(np.float32)
    dx, dy = offset[:, 0][:, None, :], offset[:, 1][:, :, None]
    share = np.clip(np.float32(radius + 0.5) - np.sqrt(dx**2 + dy**2), 0, 1)
    columns, rows = (corner.astype(np.int64)[..., None] + np.arange(width)).swapaxes(0, 1)
    window = (np.arange(len(centre))[:, None, None], rows[:, :, None], columns[:, None, :])
    shade = None
    if shaded:
        lit = (dx * np.float32(LIGHT[0]) + dy * np.float32(LIGHT[1])) / np.float32(radius)
        shade = 1 + np.float32(SHADE) * np.clip(lit, -1, 1)
    return _Part(window, share, shade)


def _box(centre: Float[np.ndarray, "t 2"], half: Float[np.ndarray, " 2"], side: int) -> _Part | None:
    near = np.arange(side)
    low, high = (centre - half)[..., None], (centre + half)[..., None]  # t (x y) 1
    cover = np.clip(np.minimum(near + 1, high) - np.maximum(near, low), 0, 1).astype(np.float32)
    ranges = []
    for axis in (1, 0):  # rows, then columns
        used = np.nonzero(cover[:, axis].any(0))[0]
        if not len(used):
            return None
        ranges.append(slice(int(used[0]), int(used[-1]) + 1))
    share = cover[:, 1, ranges[0], None] * cover[:, 0, None, ranges[1]]
    return _Part((slice(None), ranges[0], ranges[1]), share, None)


def _ground(track: Track, side: int) -> Float[np.ndarray, "t h w"]:
    """A grain that lies still in the world: the camera moves over it."""
    rng = np.random.default_rng([7, track.grain])
    coarse = rng.standard_normal((32, 32))
    tile = np.kron(coarse, np.ones((8, 8)))
    for axis in (0, 1):  # smooth, and the same at both ends
        tile = np.mean([np.roll(tile, k, axis) for k in range(-4, 5)], axis=0)
    tile = (tile / tile.std() * GRAIN).astype(np.float32)
    corner = np.round(track.camera * side / VIEW).astype(np.int64)
    columns, rows = ((corner[..., None] + np.arange(side)) % len(tile)).swapaxes(0, 1)
    return tile[rows[:, :, None], columns[:, None, :]]
