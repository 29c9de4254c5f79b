"""Probes of causes: does what happens follow from what was done, and from nothing else?

C1 collision outcome           two discs meet after the context
C2 counterfactual              two worlds that differ in one cause, and what that does to everything else
C2-null null intervention      the same beside a change that does nothing
C3 action response             one past, four ways to push
C4 laws of motion              ballistic, free flight, support removed, friction
C7 common cause and correlate  a hidden driver moves two discs and lights a lamp
C8 hidden parameter            the past tells a mass, a drag or a gravity; what does it mean elsewhere?

An effect is the difference that a cause makes: D of the truth, D^ of what was answered, both between two branches of
one episode. Its error sum |D^ - D|^2 / sum |D|^2 is 0 for the truth and 1 for a world without causes.

Sections: scenes - readings - C1 - C2 - C2-null - C3 - C4 - C7 - C8 - families.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from maskworld.data.discs import AGENT
from maskworld.data.discs import LIGHT as LIT
from maskworld.probes.base import ACTIONS, PUSH, Actions, Again, Episode, Family, Marks, Question, Ranges, Ratio
from maskworld.probes.readout import FAR, REJECT, Errors, Reading, errors, read
from maskworld.probes.scenes import (
    BOUNDS,
    GROUND,
    SCREEN,
    TOLERANCE,
    WALLS,
    between,
    colours,
    heading,
    meet,
    scattered,
    shifted,
    steady,
)
from maskworld.probes.stage import SIDE, SUBSTEPS, VIEW, WALL, Bodies, Cast, Motion, Tier, Track, discs, film, simulate

CONTEXT, HORIZON = 8, 16  # where nothing else is said
SOON = (2.0, 4.0)  # frames from the last one of the context to the impact
Box = tuple[float, float, float, float]
Colour = tuple[float, float, float]

# -- scenes ---------------------------------------------------------------------------------------


def _turn(vector: Float[np.ndarray, " 2"], angle: float) -> Float[np.ndarray, " 2"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * vector[0] - s * vector[1], s * vector[0] + c * vector[1]])


def _inside(path: Float[np.ndarray, "*t 2"], radius: float, box: Box = BOUNDS, gap: float = 0.5) -> bool:
    left, top, right, bottom = box
    low, high = np.array([left, top]) + radius + gap, np.array([right, bottom]) - radius - gap
    return bool((path >= low).all() and (path <= high).all())


def _straight(velocity: Float[np.ndarray, " 2"], num_frames: int) -> Float[np.ndarray, "t 2"]:
    """The way from the start."""
    return np.arange(num_frames)[:, None] * velocity


def _clear(
    rng: np.random.Generator,
    way: Float[np.ndarray, "t 2"],
    radius: float,
    paths: Float[np.ndarray, "t n 2"],
    radii: Float[np.ndarray, " n"],
    box: Box = BOUNDS,
    gap: float = 1.0,
    tries: int = 64,
) -> Float[np.ndarray, " 2"]:
    """A start from which a disc that goes this way stays inside the box and clear of others. Again if none is found.

    `paths` may be longer than `way`.
    """
    left, top, right, bottom = box
    low = np.array([left, top]) + radius + gap - way.min(0)
    high = np.array([right, bottom]) - radius - gap - way.max(0)
    if (low > high).any():
        raise Again
    start = rng.uniform(low, high, (tries, 2))
    away = start[:, None, None] + way[None, :, None] - paths[None, : len(way)]  # tries t n 2
    free = (np.linalg.norm(away, axis=-1) > radius + radii + gap).all((1, 2))
    if not free.any():
        raise Again
    return start[int(free.argmax())]


def _towards(
    rng: np.random.Generator,
    radius: Float[np.ndarray, " 2"],
    velocity: Float[np.ndarray, "2 2"],
    when: float,
    aside: float = 0.6,
) -> Float[np.ndarray, "2 2"]:
    """Starts of two discs that touch first after `when` frames, near the middle of the view.

    `aside` is the largest angle between the line of centres and the course of one as seen from the other: wider ones
    graze. Again where they would be slow to meet, or not be inside the view on their way.
    """
    course = velocity[0] - velocity[1]
    pace = float(np.linalg.norm(course))
    if pace < 0.8 * np.linalg.norm(velocity, axis=1).max():
        raise Again
    normal = _turn(course / pace, between(rng, (-aside, aside)))
    touch = between(rng, (18.0, VIEW - 18.0), 2)
    start = np.stack([touch - radius[0] * normal, touch + radius[1] * normal]) - when * velocity
    for i in range(2):
        if not _inside(np.stack([start[i], start[i] + when * velocity[i]]), float(radius[i])):
            raise Again
    return start


def _velocity(rng: np.random.Generator, ranges: Ranges, factor: float = 1.0) -> Float[np.ndarray, " 2"]:
    return factor * between(rng, ranges.speed) * heading(between(rng, (0.0, 2 * np.pi)))


def _colours(rng: np.random.Generator, n: int, ranges: Ranges, also: Sequence[Colour] = ()) -> Float[np.ndarray, "n 3"]:
    """n colours after those given, such that no thing's rim looks like another thing, far away as it may be."""
    for _ in range(1000):
        drawn = np.concatenate([np.array(also).reshape(-1, 3), colours(rng, n, ranges)])
        named = [tuple(colour) for colour in drawn.tolist()]
        if not any(_bleeds(a, b) for a in named for b in named if a != b):
            return drawn
    raise AssertionError(f"no {n} colours of {ranges.palette} can be told apart")


@cache
def _bleeds(colour: Colour, other: Colour) -> bool:
    """Whether a rim, where a colour and the ground share a pixel, may be read as another colour."""
    share = np.linspace(0, 1, 101)[:, None]
    rim = np.array(GROUND) + share * (np.array(colour) - np.array(GROUND))
    own, ground, away = (np.linalg.norm(rim - np.array(c), axis=1) for c in (colour, GROUND, other))
    return bool(((away < np.minimum(own, ground)) & (away < REJECT + 0.02)).any())


def _grain(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _filmed(
    motion: Motion,
    bodies: Bodies,
    colour: Float[np.ndarray, "n 3"],
    grain: int,
    order: Sequence[int] | None = None,
    gone: Sequence[int] = (),
) -> Track:
    """All bodies as objects, drawn in this order; `gone` are not there."""
    cast = Cast(len(motion.position), GROUND, grain)
    for i in order if order is not None else range(len(colour)):
        cast.add(motion.position[:, i], bodies.half[i], colour[i], box=bool(bodies.box[i]), shown=i not in gone)
    return cast.track()


def _first(motion: Motion, start: int = 0) -> int | None:
    """The first frame after which two bodies begin to touch."""
    return min((c.frame for c in motion.between() if c.frame >= start), default=None)


# -- readings -------------------------------------------------------------------------------------

SPAN = 3  # frames over which a velocity is taken, the last ones
VELOCITY_CAP = 4.0  # px/frame: error of a velocity that cannot be read
BINS = (2.0, 4.0, 8.0, 16.0)  # px: sizes of effects


def _truth(track: Track) -> Float[np.ndarray, "t n 2"]:
    """Where a camera sees the objects."""
    return track.position[:, track.objects] - track.camera[:, None]


def _looked(question: Question, frames: np.ndarray) -> tuple[Reading, Errors]:
    """What is read from one sample of an answer, and how far it is off."""
    reading = read(frames, question.future)
    return reading, errors(reading, question.future)


def _late(question: Question, start: int) -> Bool[np.ndarray, " t"]:
    """Which frames of the future are from `start` on, counted from the first one of the context."""
    return np.arange(question.num_context, question.track.num_frames) >= start


class _Places(NamedTuple):
    """How far objects are from where they should be, in pixels up to FAR."""

    error: float  # the mean
    located: Ratio


def _places(error: Errors, when: Bool[np.ndarray, " t"]) -> _Places:
    scored = error.scored & when[:, None]
    count = float(scored.sum())
    assert count, "a question without a scored place"
    return _Places(
        error=float(error.distance[scored].sum()) / count,
        located=(float((error.located & scored).sum()) / count, 1.0),
    )


def _mean(values: Sequence[float]) -> Ratio:
    return float(np.mean(values)), 1.0


def _added(ratios: Sequence[Ratio]) -> Ratio:
    """Over samples: both parts are means, so that more samples weigh no more."""
    return float(np.mean([a for a, _ in ratios])), float(np.mean([b for _, b in ratios]))


class _Effect(NamedTuple):
    """Sums over the places that count, in square pixels."""

    error: float  # |D^ - D|^2
    answered: float  # |D^|^2
    along: float  # D^ . D
    size: float  # |D|^2
    count: int
    gain: tuple[tuple[float, float], ...] = ()  # (bin of |D|, mean |D^| / |D|)


def _effect(
    seen: tuple[Reading, Reading],
    true: tuple[Float[np.ndarray, "t n 2"], Float[np.ndarray, "t n 2"]],
    counts: Bool[np.ndarray, "t n"],
) -> _Effect:
    """The effect of the second branch against the first.

    An object that is missing in a branch is FAR off there; two that are missing do not cancel.
    """
    missing = (~seen[0].found).astype(int) + ~seen[1].found
    off = missing * FAR**2
    answered = np.where((missing > 0)[..., None], 0.0, seen[1].centre - seen[0].centre)
    effect = true[1] - true[0]
    square, true_square = (answered**2).sum(-1), (effect**2).sum(-1)
    size = np.sqrt(true_square)
    error = np.where(missing > 0, off, ((answered - effect) ** 2).sum(-1))
    gain = []
    bins = np.clip(2.0 ** np.round(np.log2(np.maximum(size, 1e-9))), BINS[0], BINS[-1])
    for edge in BINS:
        here = counts & (size >= 1) & (bins == edge)
        if here.any():
            gain.append((edge, float(np.clip(np.sqrt(square[here]) / size[here], 0, 3).mean())))
    return _Effect(
        error=float(error[counts].sum()),
        answered=float((square + off)[counts].sum()),
        along=float((answered * effect).sum(-1)[counts].sum()),
        size=float(true_square[counts].sum()),
        count=int(counts.sum()),
        gain=tuple(gain),
    )


def _explained(error: float, size: float) -> Ratio:
    """R^2 of an effect."""
    return size - error, size


# -- C1 -------------------------------------------------------------------------------------------


def _draw_collision(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two discs of different size, the mass as the area, meet just after the context."""
    sizes = between(rng, ranges.ratio) ** (0.25 * np.array([1, -1]))
    radius = between(rng, ranges.radius) * rng.permutation(sizes)
    velocity = np.stack([_velocity(rng, ranges), _velocity(rng, ranges, between(rng, (0.0, 1.0)))])
    start = _towards(rng, radius, velocity, CONTEXT - 1 + between(rng, SOON))
    bodies, colour, grain = discs(start, velocity, radius), _colours(rng, 2, ranges), _grain(rng)
    total = CONTEXT + HORIZON
    motion = simulate(bodies, total, bounds=BOUNDS)
    impact = _first(motion)
    if impact is None or impact < CONTEXT or any(c.frame < CONTEXT for c in motion.contacts):
        raise Again
    unhindered = start[None] + np.arange(total)[:, None, None] * velocity
    if np.linalg.norm(motion.position - unhindered, axis=-1)[-1].mean() < 6:
        raise Again
    _screen(bodies, motion, rng)
    question = Question(_filmed(motion, bodies, colour, grain), CONTEXT)
    return Episode((question,), {"from": impact + 1, "mass": tuple(bodies.mass.tolist())})


def _screen(bodies: Bodies, motion: Motion, rng: np.random.Generator, tries: int = 10) -> None:
    """The chaos screen, from the end of the context on: before, nothing touches and a shift stays as it is."""
    late = dataclasses.replace(bodies, position=motion.position[CONTEXT - 1], velocity=motion.velocity[CONTEXT - 1])
    path = motion.position[CONTEXT - 1 :]
    run = partial(_moved, late, len(path))
    if not steady(run, path, rng, tries):
        raise Again


def _moved(bodies: Bodies, num_frames: int, by: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "t n 2"]:
    return simulate(shifted(bodies, by), num_frames, bounds=BOUNDS).position


def _mark_collision(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    (question,), (answer,) = episode.questions, answers
    mass, when = np.array(episode.about["mass"]), _late(question, episode.about["from"])
    true = _last_velocity(_truth(question.future))
    momentum, energy = mass @ true, float(mass @ (true**2).sum(1))
    error, located, velocity, residual, kept = [], [], [], [], []
    for frames in answer:
        reading, off = _looked(question, frames)
        places = _places(off, when)
        error.append(places.error)
        located.append(places.located)
        seen = _last_velocity(reading.centre)
        wrong = np.linalg.norm(seen - true, axis=1)
        velocity.append(float(np.where(np.isnan(wrong), VELOCITY_CAP, np.minimum(wrong, VELOCITY_CAP)).mean()))
        size = float(np.linalg.norm(momentum))
        left = float(np.linalg.norm(mass @ seen - momentum))  # NaN where a disc is missing
        residual.append((2 * size if np.isnan(left) else min(left, 2 * size), size))
        kept.append((float(mass @ np.nan_to_num((seen**2).sum(1))), energy))
    return Marks(
        error=_mean(error),
        numbers={
            "located": _added(located),
            "velocity error": _mean(velocity),
            "momentum residual": _added(residual),
            "energy ratio": _added(kept),
        },
    )


def _last_velocity(centre: Float[np.ndarray, "t n 2"]) -> Float[np.ndarray, "n 2"]:
    return (centre[-1] - centre[-1 - SPAN]) / SPAN


# -- C2 -------------------------------------------------------------------------------------------

CHANGES = ("removal", "mass", "velocity")
STRIKER, TARGET = 0, 1


@dataclass(frozen=True)
class _World:
    """Discs, of which `gone` are neither seen nor felt."""

    bodies: Bodies
    gone: tuple[int, ...] = ()

    def run(self) -> Motion:
        return simulate(self.bodies, CONTEXT + HORIZON, bounds=BOUNDS)


def _changed(rng: np.random.Generator, bodies: Bodies, which: int, change: str, ratio: float) -> _World:
    """Without one body, with its radius (and so its mass, by `ratio`) or with its velocity another; the rest as is."""
    half, velocity, solid, gone = bodies.half.copy(), bodies.velocity.copy(), bodies.solid.copy(), ()
    if change == "removal":
        solid[which], gone = False, (which,)
    elif change == "mass":
        half[which] *= ratio**0.5
    else:
        angle = between(rng, (0.3, 0.9)) * (-1) ** int(rng.integers(2))
        velocity[which] = _turn(velocity[which], angle) * between(rng, (0.5, 1.2))
    return _World(dataclasses.replace(bodies, half=half, velocity=velocity, solid=solid), gone)


def _struck(
    rng: np.random.Generator, ranges: Ranges, change: str, num_others: int
) -> tuple[tuple[_World, _World], tuple[Motion, Motion], int]:
    """A disc strikes another soon after the context; in the second world the striker is changed. Others move about.

    Gives the worlds, their motions and the frame after which they part. What is not changed would go straight on
    without meeting anything: the difference is the striker's doing.
    """
    ratio = between(rng, ranges.ratio) ** (-1) ** int(rng.integers(2))
    radius = between(rng, ranges.radius, 2 + num_others)
    if change == "mass":  # heavier than the target in one world, lighter in the other
        radius[STRIKER] = radius[TARGET] * ratio**-0.5
    velocity = np.stack(
        [
            _velocity(rng, ranges, 1.1),
            _velocity(rng, ranges, between(rng, (0.0, 0.3))),
            *(_velocity(rng, ranges, between(rng, (0.0, 0.4))) for _ in range(num_others)),
        ]
    )
    total, when = CONTEXT + HORIZON, CONTEXT - 1 + between(rng, SOON)
    start = _towards(rng, radius[:2], velocity[:2], when, aside=0.8)
    target = start[TARGET] + _straight(velocity[TARGET], total)
    if not _inside(target, radius[TARGET]):
        raise Again
    paths = target[:, None]
    for i in range(2, 2 + num_others):
        way = _straight(velocity[i], total)
        place = _clear(rng, way, radius[i], paths, radius[TARGET:i])
        start = np.concatenate([start, place[None]])
        paths = np.concatenate([paths, (place + way)[:, None]], axis=1)
    bodies = discs(start, velocity, radius)
    worlds = (_World(bodies), _changed(rng, bodies, STRIKER, change, ratio**2))
    motions = worlds[0].run(), worlds[1].run()
    return worlds, motions, _parting(worlds, motions)


def _parting(worlds: Sequence[_World], motions: Sequence[Motion]) -> int:
    """The first frame after which the striker touches anything in either world. Again unless the causes are fit."""
    if any(c.frame < CONTEXT for motion in motions for c in motion.contacts):
        raise Again
    if not meet(motions[0], STRIKER, TARGET) or any(_rims_touch(*pair) for pair in zip(worlds, motions, strict=True)):
        raise Again
    parting = min(c.frame for motion in motions for c in motion.between() if STRIKER in (c.a, c.b))
    effect = np.linalg.norm(motions[1].position - motions[0].position, axis=-1)[:, TARGET:]
    assert not effect[: parting + 1].any(), f"an effect before its cause: {effect[: parting + 1].max()} px"
    if effect[-1, 0] < 4 or parting >= CONTEXT + 5:
        raise Again
    return parting


def _rims_touch(world: _World, motion: Motion) -> bool:
    """Whether the striker shares pixels with others in the context: then not even these would look the same without."""
    if STRIKER in world.gone:
        return False
    shown, radius = motion.position[:CONTEXT], world.bodies.half[:, 0]
    away = np.linalg.norm(shown[:, TARGET:] - shown[:, STRIKER, None], axis=-1) - radius[TARGET:] - radius[STRIKER]
    return bool(away.min() < 2)


def _draw_counterfactual(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    change = CHANGES[index % len(CHANGES)]
    num_others = int(rng.integers(ranges.count[0], ranges.count[1] + 1)) - 2
    worlds, motions, parting = _struck(rng, ranges, change, num_others)
    for world, motion in zip(worlds, motions, strict=True):
        _screen(world.bodies, motion, rng, tries=5)
    order = (STRIKER, *range(2, 2 + num_others), TARGET)  # the target over all others: none can hide it
    questions = _branches(rng, worlds, motions, order, ranges)
    return Episode(questions, {"kind": change, "from": parting + 1, "objects": tuple(range(1, 2 + num_others))})


def _branches(
    rng: np.random.Generator,
    worlds: Sequence[_World],
    motions: Sequence[Motion],
    order: Sequence[int],
    ranges: Ranges,
) -> tuple[Question, ...]:
    colour, grain = _colours(rng, len(order), ranges), _grain(rng)
    return tuple(
        Question(_filmed(motion, world.bodies, colour, grain, order, world.gone), CONTEXT)
        for world, motion in zip(worlds, motions, strict=True)
    )


def _compared(episode: Episode, answers: Sequence[np.ndarray], branch: int, sample: int, base: int = 0) -> _Effect:
    """The effect of a branch against branch `base`, on the episode's objects, from its frame on."""
    questions = episode.questions[base], episode.questions[branch]
    looked = [_looked(q, answers[b][sample]) for q, b in zip(questions, (base, branch), strict=True)]
    counts = np.zeros_like(looked[0][1].scored)
    counts[:, list(episode.about["objects"])] = True
    counts &= _late(questions[0], episode.about["from"])[:, None]
    counts &= looked[0][1].scored & looked[1][1].scored
    true = _truth(questions[0].future), _truth(questions[1].future)
    return _effect((looked[0][0], looked[1][0]), true, counts)


def _mark_counterfactual(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    effects = [_compared(episode, answers, 1, sample) for sample in range(len(answers[0]))]
    explained = _added([_explained(e.error, e.size) for e in effects])
    return Marks(
        error=_added([(e.error, e.size) for e in effects]),
        numbers={
            "effect R2": explained,
            f"effect R2, {episode.about['kind']}": explained,
            "slope": _added([(e.along, e.size) for e in effects]),
        },
        points={"effect by size": tuple(point for e in effects for point in e.gain)},
    )


# -- C2-null --------------------------------------------------------------------------------------


def _draw_null(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """The factual world, one with an effect, and one in which only a bystander is changed, whom nothing ever meets."""
    change = CHANGES[index % len(CHANGES)]
    num_others = max(0, int(rng.integers(ranges.count[0], ranges.count[1] + 1)) - 3)
    (fact, effect), motions, _ = _struck(rng, ranges, change, num_others)
    # The bystander: clear of everything in both worlds, with either velocity and at its largest.
    ratio = between(rng, ranges.ratio)
    radius, velocity = between(rng, ranges.radius), _velocity(rng, ranges, between(rng, (0.0, 0.6)))
    alone = discs(np.zeros((1, 2)), velocity[None], [radius])
    other = _changed(rng, alone, 0, CHANGES[int(rng.integers(len(CHANGES)))], ratio)
    total, largest = CONTEXT + HORIZON, float(max(radius, other.bodies.half[0, 0]))
    ways = [_straight(v, total) for v in (velocity, other.bodies.velocity[0])]
    paths = np.concatenate([motion.position for motion in motions], axis=1)
    radii = np.concatenate([world.bodies.half[:, 0] for world in (fact, effect)])
    doubled = np.concatenate([paths, paths])  # both ways from one start, one after the other
    start = _clear(rng, np.concatenate(ways), largest, doubled, radii, gap=3.0)

    last = len(fact.bodies.solid)
    worlds = (
        _World(_joined(fact.bodies, alone, start)),
        _World(_joined(effect.bodies, alone, start), effect.gone),
        _World(_joined(fact.bodies, other.bodies, start), tuple(last for _ in other.gone)),
    )
    motions = tuple(world.run() for world in worlds)
    parting = _parting(worlds[:2], motions[:2])
    if any(last in (c.a, c.b) for motion in motions for c in motion.contacts):
        raise Again
    if (motions[2].position[:, :last] != motions[0].position[:, :last]).any():
        raise Again
    for world, motion in zip(worlds[:2], motions[:2], strict=True):
        _screen(world.bodies, motion, rng, tries=5)
    order = (STRIKER, *range(2, last + 1), TARGET)
    questions = _branches(rng, worlds, motions, order, ranges)
    objects = tuple(i for i, n in enumerate(order) if n not in (STRIKER, last))
    return Episode(questions, {"kind": change, "from": parting + 1, "objects": objects})


def _joined(bodies: Bodies, more: Bodies, place: Float[np.ndarray, " 2"]) -> Bodies:
    """These bodies, and one more at this place."""
    more = dataclasses.replace(more, position=place[None])
    fields = [field.name for field in dataclasses.fields(Bodies)]
    return Bodies(**{name: np.concatenate([getattr(bodies, name), getattr(more, name)]) for name in fields})


def _mark_null(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    error, explained, squared, pixels = [], [], [], []
    for sample in range(len(answers[0])):
        effect = _compared(episode, answers, 1, sample)
        null = _compared(episode, answers, 2, sample)
        leak = null.answered * effect.count / null.count  # for as many places as the effect has
        error.append((effect.error + leak, effect.size))
        explained.append(_explained(effect.error, effect.size))
        squared.append((leak, effect.size))
        pixels.append(((null.answered / null.count) ** 0.5, 1.0))
    return Marks(
        error=_added(error),
        numbers={
            "effect R2": _added(explained),
            "null leak (squared)": _added(squared),
            "null leak px": _added(pixels),
        },
    )


# -- C3 -------------------------------------------------------------------------------------------

BRANCHES = 4
HELD = (2, 4)  # frames for which a push is held
STRENGTH = (0.08, 0.3)  # of PUSH
LAGS = 3  # frames


def _draw_response(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """A disc is pushed, in four ways from one past; bystanders move up and down a lane where it never comes."""
    total = CONTEXT + HORIZON
    num_others = int(rng.integers(ranges.count[0], ranges.count[1] + 1)) - 1
    radius = between(rng, ranges.radius, 1 + num_others)
    lane = 2 * float(radius[1:].max()) + 2
    past = _policy(rng, CONTEXT)
    pushes = np.stack([np.concatenate([past, _policy(rng, HORIZON)]) for _ in range(BRANCHES)])  # k t 2
    velocity = _velocity(rng, ranges, 0.5)
    # A start from which no branch leads into a wall or the lane: it touches nothing, so nothing can be chaotic.
    speed = velocity + np.concatenate([np.zeros((BRANCHES, 1, 2)), PUSH * pushes[:, :-1]], 1).cumsum(1)
    way = np.concatenate([np.zeros((BRANCHES, 1, 2)), speed[:, 1:].cumsum(1)], 1)
    beside = (lane, 0.0, float(VIEW), float(VIEW))
    nobody = np.empty((BRANCHES * total, 0, 2))
    start = _clear(rng, way.reshape(-1, 2), float(radius[0]), nobody, radius[:0], beside)

    along = scattered(rng, radius[1:], (0.0, 0.0, lane, float(VIEW)))
    along[:, 0] = lane / 2
    pace = between(rng, ranges.speed, num_others) * rng.choice([-1, 1], num_others)
    place = np.concatenate([start[None], along])
    course = np.concatenate([velocity[None], np.stack([np.zeros(num_others), pace], 1)])
    quarter = int(rng.integers(4))  # the lane is on any side
    place = _quarters(place - VIEW / 2, quarter) + VIEW / 2
    bodies = discs(place, _quarters(course, quarter), radius)
    colour = _colours(rng, num_others, ranges, [AGENT])
    rerun = partial(_pushed, bodies, colour, _grain(rng))
    questions = []
    for push in pushes:
        actions = np.zeros((total, len(ACTIONS)))
        actions[:, :2] = _quarters(push, quarter)
        questions.append(Question(rerun(actions), CONTEXT, actions, rerun))
    tracks = [question.track.position for question in questions]
    if any((track[:, 1:] != tracks[0][:, 1:]).any() for track in tracks):
        raise Again
    return Episode(tuple(questions))


def _policy(rng: np.random.Generator, num_frames: int) -> Float[np.ndarray, "t 2"]:
    """Pushes in random directions, each held for a few frames; what they lead to plays no part."""
    pushes = np.zeros((num_frames, 2))
    t = 0
    while t < num_frames:
        held = int(rng.integers(HELD[0], HELD[1] + 1))
        pushes[t : t + held] = between(rng, STRENGTH) * heading(between(rng, (0.0, 2 * np.pi)))
        t += held
    return pushes


def _quarters(vector: Float[np.ndarray, "*n 2"], turns: int) -> Float[np.ndarray, "*n 2"]:
    """Turned by so many right angles, exactly."""
    for _ in range(turns):
        vector = np.stack([-vector[..., 1], vector[..., 0]], -1)
    return vector


def _pushed(bodies: Bodies, colour: Float[np.ndarray, "n 3"], grain: int, actions: Actions) -> Track:
    """What happens if the first body is pushed like that."""
    kicks = np.zeros((len(actions), len(colour), 2))
    kicks[:, 0] = PUSH * actions[:, :2]
    return _filmed(simulate(bodies, len(actions), bounds=BOUNDS, kicks=kicks), bodies, colour, grain)


def _mark_response(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    """Effects are against the mean over the branches, of the truth and of the answer alike."""
    true = np.stack([_truth(question.future) for question in episode.questions])  # k t n 2
    effect = (true - true.mean(0))[:, :, 0]
    error, along, crossed, latency, leak = [], [], [], [], []
    for sample in range(len(answers[0])):
        looked = [_looked(q, answer[sample]) for q, answer in zip(episode.questions, answers, strict=True)]
        scored = np.stack([off.scored for _, off in looked])
        found = np.stack([reading.found for reading, _ in looked])
        centre = np.stack([np.where(r.found[..., None], r.centre, 0.0) for r, _ in looked])
        mean = centre.sum(0) / np.maximum(found.sum(0), 1)[..., None]
        answered = np.where(found[..., None], centre - mean, 0.0)
        mine, there, counts = answered[:, :, 0], found[:, :, 0], scored[:, :, 0]
        size = float((effect**2).sum(-1)[counts].sum())
        for target, ratios in ((effect, error), (np.roll(effect, -1, 0), crossed)):
            wrong = np.where(there, ((mine - target) ** 2).sum(-1), FAR**2)
            ratios.append((float(wrong[counts].sum()), float((target**2).sum(-1)[counts].sum())))
        along.append((float((mine * effect).sum(-1)[counts].sum()), size))
        latency.append(_lag(mine, effect))
        others = np.where(found, np.linalg.norm(answered, axis=-1), FAR)[:, :, 1:]
        leak.append((float(others[scored[:, :, 1:]].mean()), 1.0))
    missed, off = _added(error), _added(crossed)
    return Marks(
        error=missed,
        numbers={
            "effect R2": _explained(*missed),
            "gain": _added(along),
            "shuffled-action R2": _explained(*off),
            "latency": _added(latency),
            "bystander leak": _added(leak),
        },
    )


def _lag(answered: Float[np.ndarray, "k t 2"], effect: Float[np.ndarray, "k t 2"]) -> Ratio:
    """By how many frames the answer comes late; (0, 0) if it does not move at all."""
    late, true = np.diff(answered, axis=1), np.diff(effect, axis=1)
    if not late.any():
        return 0.0, 0.0
    t = late.shape[1]
    product = {}
    for lag in range(-LAGS, LAGS + 1):
        a, b = late[:, max(0, lag) : t + min(0, lag)], true[:, max(0, -lag) : t - max(0, lag)]
        product[lag] = float((a * b).sum()) / float(np.sqrt((a**2).sum() * (b**2).sum()) + 1e-12)
    return float(max(product, key=lambda lag: (product[lag], -abs(lag)))), 1.0


# -- C4 -------------------------------------------------------------------------------------------

LAWS = ("ballistic", "free flight", "support", "friction")
FLOOR = 60.0  # its top
FLIGHT = 10  # frames of a free flight to answer: the fastest cross the view in no more


def _draw_law(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    kind = LAWS[index % len(LAWS)]
    draw = {"ballistic": _ballistic, "free flight": _flight, "support": _support, "friction": _slide}[kind]
    return draw(rng, index, ranges)


def _crowd(
    rng: np.random.Generator, ways: Sequence[Float[np.ndarray, "t 2"]], radius: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2"]:
    """Starts from which discs on these ways never meet, nor leave the view."""
    paths, start = np.empty((len(ways[0]), 0, 2)), []
    for i, way in enumerate(ways):
        start.append(_clear(rng, way, float(radius[i]), paths, radius[:i]))
        paths = np.concatenate([paths, (start[-1] + way)[:, None]], axis=1)
    return np.stack(start)


def _ballistic(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """A disc is thrown."""
    total, gravity, radius = CONTEXT + HORIZON, between(rng, (0.08, 0.2)), between(rng, ranges.radius, 1)
    velocity = np.array([between(rng, ranges.speed) * rng.choice([-1, 1]) * 0.8, -between(rng, ranges.speed)])
    t = np.arange(total)[:, None]
    start = _crowd(rng, [velocity * t + np.array([0, gravity]) * t**2 / 2], radius)
    bodies = discs(start, velocity[None], radius)
    motion = simulate(bodies, total, gravity=(0.0, gravity))
    question = Question(_filmed(motion, bodies, _colours(rng, 1, ranges), _grain(rng)), CONTEXT)
    return Episode((question,), {"kind": "ballistic", "gravity": gravity})


def _flight(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Discs go straight on."""
    total, n = CONTEXT + FLIGHT, int(rng.integers(ranges.count[0], ranges.count[1] + 1))
    radius = between(rng, ranges.radius, n)
    velocity = np.stack([_velocity(rng, ranges) for _ in range(n)])
    bodies = discs(_crowd(rng, [_straight(v, total) for v in velocity], radius), velocity, radius)
    motion = simulate(bodies, total)
    question = Question(_filmed(motion, bodies, _colours(rng, n, ranges), _grain(rng)), CONTEXT)
    return Episode((question,), {"kind": "free flight"})


def _slide(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Discs slide, slow down and stop, each at a time of its own."""
    total, n = CONTEXT + HORIZON, 2
    radius, friction = between(rng, ranges.radius, n), between(rng, (0.1, 0.25))
    velocity = []
    for _ in range(n):
        stop = between(rng, (CONTEXT + 5.0, total - 3.0))
        velocity.append(stop * friction * heading(between(rng, (0.0, 2 * np.pi))))
    velocity = np.stack(velocity)
    speed = np.linalg.norm(velocity, axis=1)
    if not (speed <= 2 * ranges.speed[1]).all() or not (speed >= 1.2 * ranges.speed[0]).all():
        raise Again
    ways = []
    for v, s in zip(velocity, speed, strict=True):
        t = np.minimum(np.arange(total), s / friction)[:, None]
        ways.append(v * t - v / s * friction * t**2 / 2)
    bodies = discs(_crowd(rng, ways, radius), velocity, radius)
    motion = simulate(bodies, total, friction=friction)
    question = Question(_filmed(motion, bodies, _colours(rng, n, ranges), _grain(rng)), CONTEXT)
    return Episode((question,), {"kind": "friction"})


def _support(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Two blocks lie on supports, and one of these is pulled away: its block falls, the other stays."""
    total, gravity = CONTEXT + HORIZON, between(rng, (0.22, 0.35))
    size = between(rng, ranges.radius, 2) * 0.9  # half the sides
    x = np.array([17.0, 47.0]) + between(rng, (-2.0, 2.0), 2)
    top = between(rng, (20.0, 34.0), 2)  # of the supports
    falls = index // len(LAWS) % 2
    blocks, supports = np.stack([x, top - size], 1), np.stack([x, top + 1.5], 1)
    half = np.concatenate([np.stack([size, size], 1), np.stack([size + 2, [1.5, 1.5]], 1), [[VIEW / 2, 2.0]]])
    place = np.concatenate([blocks, supports, [[VIEW / 2, FLOOR + 2]]])
    bodies = Bodies(
        position=place,
        velocity=np.zeros((5, 2)),
        half=half,
        box=np.ones(5, dtype=bool),
        density=np.ones(5),
        solid=np.ones(5, dtype=bool),
        fixed=np.array([False, False, True, True, True]),
    )
    begin, free = 2, CONTEXT - 1 + between(rng, (0.1, 0.9))  # pulled from, gone at
    way = np.maximum(0, np.arange(total) - begin) * (2 * size[falls] + 2) / (free - begin)
    path = supports[falls] + way[:, None] * np.array([-1.0 if falls == 0 else 1.0, 0.0])
    motion = simulate(bodies, total, gravity=(0.0, gravity), elasticity=0.0, paths={2 + falls: path})
    drop = motion.position[:, :2, 1] - motion.position[0, :2, 1]
    if abs(drop[CONTEXT - 1]).max() > 0.25:
        raise Again
    assert drop[-1, falls] > 2 * TOLERANCE and abs(drop[:, 1 - falls]).max() < 0.25, drop[-1]
    colour = _colours(rng, 2, ranges)
    cast = Cast(total, GROUND, _grain(rng))
    for i in (2, 3, 4):
        cast.add(motion.position[:, i], half[i], WALLS, box=True, object=False)
    for i in range(2):
        cast.add(motion.position[:, i], half[i], colour[i], box=True)
    return Episode((Question(cast.track(), CONTEXT),), {"kind": "support"})


def _mark_law(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    (question,), (answer,) = episode.questions, answers
    kind, true = episode.about["kind"], _truth(question.future)
    before = _truth(question.track)[question.num_context - 1]
    error, located, own = [], [], []
    for frames in answer:
        reading, off = _looked(question, frames)
        places = _places(off, np.ones(question.horizon, dtype=bool))
        error.append(places.error)
        located.append(places.located)
        if kind == "ballistic":
            own.append(_acceleration_error(reading, episode.about["gravity"]))
        elif kind == "free flight":
            along = true[-1] - true[0]
            along /= np.linalg.norm(along, axis=-1, keepdims=True)
            away = reading.centre - true
            aside = np.abs(away[..., 0] * along[:, 1] - away[..., 1] * along[:, 0])
            aside = np.where(reading.found, np.minimum(aside, FAR), FAR)
            own.append(float(aside[off.scored].mean()))
        elif kind == "support":
            fell, falls = (centre[-1, :, 1] - before[:, 1] > TOLERANCE for centre in (reading.centre, true))
            own.append(float((reading.found[-1] & (fell == falls)).mean()))
        else:
            own.append(float(off.distance[-1].mean()))
    name = {
        "ballistic": "acceleration error",
        "free flight": "straight-line deviation",
        "support": "stability accuracy",
        "friction": "stop error",
    }[kind]
    return Marks(
        error=_mean(error),
        numbers={f"error, {kind}": _mean(error), name: _mean(own), "located": _added(located)},
    )


def _acceleration_error(reading: Reading, gravity: float) -> float:
    """|g^ - g| / |g| of the parabola through what was found; 2 at most, and where there is too little to fit."""
    when = np.nonzero(reading.found[:, 0])[0]
    if len(when) < 5:
        return 2.0
    fitted = 2 * np.polyfit(when, reading.centre[when, 0], 2)[0]
    return float(min(2.0, np.linalg.norm(fitted - np.array([0.0, gravity])) / gravity))


# -- C7 -------------------------------------------------------------------------------------------

PAST, AFTER = 16, 14
PULSE = 2  # frames of an impulse
BEATS = (1, 6, 11)  # frames of the context at which the driver acts
DRAG = 0.1
PUSH_X, LAMP, DRIVE = ACTIONS.index("push_x"), ACTIONS.index("light"), ACTIONS.index("drive")
DEEDS = ("none", "drive", "push A", "light")


def _draw_common_cause(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """In the context a hidden driver moves A and B, and a lamp is lit whenever it acts; then each is done alone."""
    total = PAST + AFTER
    strength = between(rng, ranges.speed, len(BEATS) + 1) / PULSE / PUSH * rng.choice([-1, 1], len(BEATS) + 1)
    past = np.zeros(total)
    for beat, s in zip(BEATS, strength, strict=False):
        past[beat : beat + PULSE] = s
    deed = np.zeros(total)
    deed[PAST : PAST + PULSE] = strength[-1]
    # Two lanes, far apart; starts from which nothing that is done leads into a wall.
    way = np.concatenate([_dragged(past), _dragged(past + deed)])
    radius = between(rng, ranges.radius, 2)
    x = []
    for r in radius.tolist():
        low, high = r + 1 - way.min(), VIEW - r - 1 - way.max()
        if low > high:
            raise Again
        x.append(between(rng, (low, high)))
    y = np.array([15.0, 49.0]) + between(rng, (-3.0, 3.0), 2)
    bodies = discs(np.stack([x, y], 1), np.zeros((2, 2)), radius)
    colour = _colours(rng, 1, ranges, [AGENT])
    lamp = np.array([between(rng, (8.0, VIEW - 8.0)), VIEW / 2])
    rerun = partial(_driven, bodies, colour, lamp, _grain(rng))
    questions = []
    for name in DEEDS:
        actions = np.zeros((total, len(ACTIONS)))
        actions[:, DRIVE] = past + (deed if name == "drive" else 0)
        actions[:, PUSH_X] = deed if name == "push A" else 0
        actions[:, LAMP] = (deed != 0) if name == "light" else 0
        questions.append(Question(rerun(actions), PAST, actions, rerun))
    return Episode(tuple(questions), {"from": PAST + 1, "objects": (1,)})


def _dragged(action: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The way, in pixels along x, of a disc at rest that is pushed like that against the drag."""
    keep = (1 - DRAG) ** (1 / SUBSTEPS)
    share = sum(keep**s for s in range(SUBSTEPS)) / SUBSTEPS
    way, speed = np.zeros(len(action)), 0.0
    for t, a in enumerate(action[:-1]):
        speed += PUSH * a
        way[t + 1] = way[t] + speed * share
        speed *= 1 - DRAG
    return way


def _driven(
    bodies: Bodies,
    colour: Float[np.ndarray, "n 3"],
    lamp: Float[np.ndarray, " 2"],
    grain: int,
    actions: Actions,
) -> Track:
    """The driver pushes both discs along their lanes and lights the lamp; a push moves the first alone."""
    kicks = np.zeros((len(actions), 2, 2))
    kicks[:, :, 0] = PUSH * (actions[:, DRIVE, None] + actions[:, PUSH_X, None] * np.array([1.0, 0.0]))
    motion = simulate(bodies, len(actions), bounds=BOUNDS, drag=DRAG, kicks=kicks)
    on = np.zeros(len(actions), dtype=bool)
    on[1:] = ((actions[:, DRIVE] != 0) | (actions[:, LAMP] > 0))[:-1]
    cast = Cast(len(actions), GROUND, grain)
    cast.add(lamp, 4.0, np.where(on[:, None], LIT, SCREEN), box=True, object=False)
    for i in range(2):
        cast.add(motion.position[:, i], bodies.half[i], colour[i])
    return cast.track()


def _mark_common_cause(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    numbers: dict[str, list[Ratio]] = {"driver -> B R2": [], "do(A) -> B leak": [], "light -> B leak": []}
    error = []
    for sample in range(len(answers[0])):
        drive, push, light = (_compared(episode, answers, branch, sample) for branch in (1, 2, 3))
        error.append((drive.error + push.answered + light.answered, drive.size))
        numbers["driver -> B R2"].append(_explained(drive.error, drive.size))
        numbers["do(A) -> B leak"].append((push.answered, drive.size))
        numbers["light -> B leak"].append((light.answered, drive.size))
    return Marks(error=_added(error), numbers={name: _added(ratios) for name, ratios in numbers.items()})


# -- C8 -------------------------------------------------------------------------------------------

PARAMETERS = ("mass", "drag", "gravity")
BEFORE, GLIMPSE, THEN = 11, 2, 14  # frames of the first scene, of the second, and to answer
DRAGS, GRAVITIES = (0.01, 0.17), (0.03, 0.27)
APART = 3.0  # px at the end between the true parameter and the mean one


def _draw_parameter(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """A scene that tells the parameter; a cut; the beginning of another scene under the same parameter."""
    kind = PARAMETERS[index % len(PARAMETERS)]
    n = 2 if kind == "mass" else 1
    radius, colour, grain = np.repeat(between(rng, ranges.radius), n), _colours(rng, n, ranges), _grain(rng)
    if kind == "mass":  # of one to the other: either is the heavier, equally often
        true = between(rng, ranges.ratio) ** (-1) ** int(rng.integers(2))
        mean, wrong = 1.0, 1 / true
    else:
        low, high = DRAGS if kind == "drag" else GRAVITIES
        true, mean = between(rng, (low, high)), (low + high) / 2
        wrong = low + high - true
    told = _unfold(rng, ranges, kind, radius, BEFORE)(true, BEFORE)
    setup, length = _unfold(rng, ranges, kind, radius, GLIMPSE), GLIMPSE + THEN
    motion = setup(true, length)
    start = BEFORE + GLIMPSE  # the first frame that counts
    if kind == "mass":
        hit = _first(motion)
        if _first(told) is None or hit is None or any(c.b == WALL for c in told.contacts):
            raise Again
        if any(c.frame < GLIMPSE for c in motion.contacts):
            raise Again
        if not steady(partial(_collided, setup, true, length), motion.position, rng):
            raise Again
        start = BEFORE + hit + 1
    elif not all(_inside(m.position, float(radius[0])) for m in (told, motion)):
        raise Again
    others = {"mean": setup(mean, length), "wrong": setup(wrong, length)}
    if np.linalg.norm(others["mean"].position - motion.position, axis=-1)[-1].mean() < APART:
        raise Again
    films = {name: _cut(told, m, radius, colour, grain) for name, m in {"true": motion, **others}.items()}
    about = {"kind": kind, "value": true, "from": start, "mean": films["mean"], "wrong": films["wrong"]}
    return Episode((Question(films["true"], BEFORE + GLIMPSE),), about)


@dataclass(frozen=True)
class _Setup:
    """A scene whose parameter is still to be set."""

    kind: str
    bodies: Bodies

    def __call__(self, value: float, num_frames: int, by: Float[np.ndarray, "n 2"] | None = None) -> Motion:
        bodies = self.bodies if by is None else shifted(self.bodies, by)
        if self.kind == "mass":
            bodies = dataclasses.replace(bodies, density=np.array([value**0.5, value**-0.5]))
            return simulate(bodies, num_frames, bounds=BOUNDS)
        if self.kind == "drag":
            return simulate(bodies, num_frames, drag=value)
        return simulate(bodies, num_frames, gravity=(0.0, value))


def _collided(setup: _Setup, value: float, num_frames: int, by: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "t n 2"]:
    return setup(value, num_frames, by).position


def _unfold(rng: np.random.Generator, ranges: Ranges, kind: str, radius: Float[np.ndarray, " n"], shown: int) -> _Setup:
    """How a scene begins, of which `shown` frames are shown: long ones hold the impact, short ones only announce it."""
    if kind == "mass":
        velocity = np.stack([_velocity(rng, ranges), _velocity(rng, ranges, between(rng, (0.3, 1.0)))])
        when = between(rng, (3.5, 4.5)) if shown == BEFORE else shown - 1 + between(rng, SOON)
        return _Setup(kind, discs(_towards(rng, radius, velocity, when), velocity, radius))
    if kind == "drag":
        velocity = _velocity(rng, ranges, 1.5)
    else:
        velocity = np.array([between(rng, ranges.speed) * rng.choice([-1, 1]) * 0.7, -between(rng, ranges.speed)])
    start = between(rng, (float(radius[0]) + 1, VIEW - float(radius[0]) - 1), 2)
    return _Setup(kind, discs(start[None], velocity[None], radius))


def _cut(
    told: Motion, motion: Motion, radius: Float[np.ndarray, " n"], colour: Float[np.ndarray, "n 3"], grain: int
) -> Track:
    """The first scene and, after a cut, the second."""
    position = np.concatenate([told.position, motion.position])
    cast = Cast(len(position), GROUND, grain)
    for i, r in enumerate(radius.tolist()):
        cast.add(position[:, i], r, colour[i])
    return cast.track()


def _mark_parameter(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    """Adaptivity is 1 for who knows the parameter, 0 for who takes its mean, negative for who is worse than that."""
    (question,), (answer,) = episode.questions, answers
    when, kind = _late(question, episode.about["from"]), episode.about["kind"]
    error, located = [], []
    for frames in answer:
        _, off = _looked(question, frames)
        places = _places(off, when)
        error.append(places.error)
        located.append(places.located)
    alone = {name: _read_off(question, episode.about[name], answer, when) for name in ("mean", "wrong")}
    least = _read_off(question, question.track, answer, when)
    adaptivity = alone["mean"] - float(np.mean(error)), alone["mean"] - least
    return Marks(
        error=_mean(error),
        numbers={
            "adaptivity": adaptivity,
            f"adaptivity, {kind}": adaptivity,
            "error of the mean parameter": (alone["mean"], 1.0),
            "error of the wrong parameter": (alone["wrong"], 1.0),
            "located": _added(located),
        },
    )


def _read_off(question: Question, track: Track, answer: np.ndarray, when: Bool[np.ndarray, " t"]) -> float:
    """The error of who answers with this track, filmed and read like the answer."""
    tier: Tier = "flat" if answer.shape[2] == SIDE["flat"] else "textured"
    frames = film(track.part(question.num_context, track.num_frames), tier)
    return _places(_looked(question, frames)[1], when).error


# -- families -------------------------------------------------------------------------------------

_causality = partial(Family, axis="causality")
FAMILIES: tuple[Family, ...] = (
    _causality(
        id="C1",
        number=11,
        title="Collision outcome",
        question="Where do two discs go after they meet?",
        draw=_draw_collision,
        mark=_mark_collision,
    ),
    _causality(
        id="C2",
        number=12,
        title="Counterfactual",
        question="What would be different if one thing had been gone, heavier or on another course?",
        draw=_draw_counterfactual,
        mark=_mark_counterfactual,
        period=len(CHANGES),
        curves={"effect by size": ("size of the true effect, px", "size of the answered effect over it")},
    ),
    _causality(
        id="C2-null",
        number=13,
        title="Null intervention",
        question="Does a change that concerns nothing else leave everything else as it is?",
        draw=_draw_null,
        mark=_mark_null,
        period=len(CHANGES),
    ),
    _causality(
        id="C3",
        number=14,
        title="Action response",
        question="Does the agent go where it is pushed, and nothing else?",
        draw=_draw_response,
        mark=_mark_response,
        acts=True,
    ),
    _causality(
        id="C4",
        number=15,
        title="Laws of motion",
        question="Do things fall, fly on, stay put and come to rest as they should?",
        draw=_draw_law,
        mark=_mark_law,
        period=len(LAWS),
    ),
    _causality(
        id="C7",
        number=18,
        title="Common cause and correlate",
        question="Is what moves together told from what moves the other?",
        draw=_draw_common_cause,
        mark=_mark_common_cause,
        acts=True,
    ),
    _causality(
        id="C8",
        number=19,
        title="Hidden parameter",
        question="Is a mass, drag or gravity that the past showed used in a new scene?",
        draw=_draw_parameter,
        mark=_mark_parameter,
        period=len(PARAMETERS),
    ),
)
