"""Probes of surprise: films that are possible beside films that are not, of the same pictures.

C5 violation of expectation   while a thing is hidden, it is exchanged for another, or for nothing
C6 arrow of time              a world that loses its energy, run backwards

The cheats are kept out by construction. C5: two films A and B agree in all pixels around the cut, so the four films
AA, BB, AB, BA hold each pair of neighbouring frames equally often in the possible and in the impossible two, and
whatever adds up over such pairs says nothing. C6: both films show the same frames after the context.

Sections: comparisons - violation of expectation - arrow of time - cheats.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.probes.base import Again, Episode, Family, Marks, Question, Ranges
from maskworld.probes.scenes import BOUNDS, GROUND, SCREEN, between, colours, heading, scattered, steady
from maskworld.probes.stage import VIEW, Cast, Track, discs, simulate
from maskworld.probes.statistics import permutation_test

# -- comparisons ----------------------------------------------------------------------------------

TIE = 1e-9  # of the larger: sums that differ by less are equal


def more(one: float, other: float) -> float:
    """1 if the first is larger, 0 if the second is, 0.5 for a tie."""
    if abs(one - other) <= TIE * max(abs(one), abs(other)):
        return 0.5
    return float(one > other)


# -- violation of expectation ---------------------------------------------------------------------

KINDS = ("permanence", "colour", "teleport")
CONTEXT, HORIZON = 14, 16


def _draw_violation(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """A disc passes behind a screen. permanence: B has none; colour: B's has another; teleport: B's is elsewhere."""
    kind = KINDS[index % len(KINDS)]
    radius, speed = between(rng, ranges.radius), between(rng, ranges.speed)
    before, after = int(rng.integers(2, 5)), int(rng.integers(2, 4))  # frames hidden on either side of the cut
    lanes = np.repeat(radius + between(rng, (2.0, 5.0)), 2)
    if kind == "teleport":
        lanes[1] += 2 * radius + between(rng, (2.0, 4.0))
    top, bottom = np.floor(lanes[0] - radius - 2), np.ceil(lanes[1] + radius + 2)

    width = np.ceil(2 * radius + speed * (before + after - 1)) + 2
    left = np.round((VIEW - width) / 2 + between(rng, (-2.0, 2.0)))
    x = left + radius + 0.75 + speed * (np.arange(CONTEXT + HORIZON) - (CONTEXT - before))

    num_others = int(rng.integers(ranges.count[0], ranges.count[1] + 1)) - 1
    others_radius = between(rng, ranges.radius, num_others)
    away = (0.0, float(bottom), float(VIEW), float(VIEW))  # they never come near the screen
    velocity = [between(rng, ranges.speed) * heading(between(rng, (0.0, 2 * np.pi))) for _ in range(num_others)]
    others = discs(scattered(rng, others_radius, away), np.array(velocity), others_radius)
    others_at = simulate(others, len(x), bounds=away).position

    right_to_left = index // len(KINDS) % 2 == 1  # the next of a kind comes out on the other side: no lucky guesses
    upside_down = rng.random() < 0.5

    def turned(place: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 2"]:
        flip = np.array([right_to_left, upside_down])
        return np.where(flip, VIEW - place, place)

    colour = colours(rng, num_others + 2, ranges)
    empty, grain = int(rng.integers(2)), int(rng.integers(2**31))
    films = []
    for film in range(2):
        cast = Cast(len(x), GROUND, grain)
        for i in range(num_others):
            cast.add(turned(others_at[:, i]), others_radius[i], colour[2 + i])
        place = turned(np.stack([x, np.full(len(x), lanes[film])], 1))
        there = kind != "permanence" or film != empty
        cast.add(place, radius, colour[film if kind == "colour" else 0], shown=there)
        middle = np.array([left + width / 2, (top + bottom) / 2])
        cast.add(turned(middle), (width / 2, (bottom - top) / 2), SCREEN, box=True, object=False)
        films.append(cast.track())
    a, b = films
    questions = (
        Question(a, CONTEXT),
        Question(b, CONTEXT),
        Question(a, CONTEXT, observed=_switched(a, b)),
        Question(b, CONTEXT, observed=_switched(b, a)),
    )
    return Episode(questions, {"kind": kind, "hidden": before + after})


def _switched(one: Track, other: Track) -> Track:
    """The context of one, and then what follows in the other."""
    return one.part(0, CONTEXT).then(other.part(CONTEXT, other.num_frames))


def _mark_violation(episode: Episode, surprises: Sequence[np.ndarray]) -> Marks:
    """Surprise adds up over time: only then do matched films keep frame-by-frame statistics at one half."""
    aa, bb, ab, ba = (float(s.sum()) for s in surprises)
    possible, impossible = aa + bb, ab + ba
    right = more(impossible, possible)
    pairs = [more(bad, good) for bad in (ab, ba) for good in (aa, bb)]
    peak = [float(s.max()) for s in surprises]
    total = abs(impossible) + abs(possible)
    return Marks(
        error=(1 - right, 1.0),
        numbers={
            "2x2 accuracy": (float(np.mean(pairs)), 1.0),
            f"accuracy, {episode.about['kind']}": (right, 1.0),
            "max, quadruplet": (more(peak[2] + peak[3], peak[0] + peak[1]), 1.0),
            EXCESS: ((impossible - possible) / total if total else 0.0, 1.0),
        },
    )


EXCESS = "excess"
"""How much more surprise the impossible films get, as a share of all; -1..1 where surprise is not negative."""


def permutation_p(marks: Sequence[Marks], resamples: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of "the impossible films are no more surprising than the possible ones", over episodes.

    Under it, each episode's two sums could be exchanged (the test of InfLevel, Weihs et al. 2022).
    """
    excess = np.array([each.numbers[EXCESS][0] for each in marks])
    return permutation_test(excess, np.zeros_like(excess), resamples=resamples, seed=seed)


# -- arrow of time --------------------------------------------------------------------------------

ARROW_CONTEXT, ARROW_HORIZON = 8, 16
GRAVITY, DRAG, ELASTICITY = 0.12, 0.02, 0.5
_decay = partial(simulate, bounds=BOUNDS, gravity=(0.0, GRAVITY), drag=DRAG, elasticity=ELASTICITY)


def _draw_arrow(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """Discs that fall, bounce with loss and are slowed, forward and reversed; and discs that fly free, as a control."""
    n = int(rng.integers(ranges.count[0], ranges.count[1] + 1))
    radius, speed = between(rng, ranges.radius, n), between(rng, ranges.speed, n)
    colour, grain = colours(rng, n, ranges), int(rng.integers(2**31))
    angle = between(rng, (0.0, 2 * np.pi), n)
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    span = ARROW_CONTEXT + ARROW_HORIZON
    start = discs(scattered(rng, radius), velocity, radius)
    motion = _decay(start, span + ARROW_CONTEXT)

    def steady_from(place: Float[np.ndarray, "n 2"], velocity: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "t n 2"]:
        """What follows by law; Again where pixels cannot tell."""

        def run(by: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "t n 2"]:
            return _decay(discs(place + by, velocity, radius), ARROW_HORIZON + 1).position[1:]

        path = run(np.zeros((n, 2)))
        if not steady(run, path, rng):
            raise Again
        return path

    # The reversed film has the forward film's future for its own, and what came after that for its context.
    backward = motion.position[ARROW_CONTEXT:][::-1]
    lawful = _decay(discs(motion.position[span], -motion.velocity[span], radius), ARROW_HORIZON + 1).position[1:]
    apart = np.linalg.norm(lawful - backward[ARROW_CONTEXT:], axis=-1)
    if apart.max(1).mean() < APART:
        raise Again
    steady_from(motion.position[ARROW_CONTEXT - 1], motion.velocity[ARROW_CONTEXT - 1])
    steady_from(motion.position[span], -motion.velocity[span])

    def filmed(position: Float[np.ndarray, "t n 2"]) -> Track:
        cast = Cast(len(position), GROUND, grain)
        for i in range(n):
            cast.add(position[:, i], radius[i], colour[i])
        return cast.track()

    free = _flight(rng, radius, ranges)
    expected = np.concatenate([backward[:ARROW_CONTEXT], lawful])
    questions = (
        Question(filmed(motion.position[:span]), ARROW_CONTEXT),
        Question(filmed(expected), ARROW_CONTEXT, observed=filmed(backward)),
        Question(filmed(free[:span]), ARROW_CONTEXT),
        Question(filmed(free[ARROW_CONTEXT:][::-1]), ARROW_CONTEXT),
    )
    return Episode(questions, {"apart": float(apart.max(1).mean())})


APART = 2.0  # pixels between what the law says and the reversed film, of the disc that is furthest off, on average


def _flight(rng: np.random.Generator, radius: Float[np.ndarray, " n"], ranges: Ranges) -> Float[np.ndarray, "t n 2"]:
    """Free flight between elastic walls, where no disc meets another: read backwards, it obeys the same law exactly."""
    time = np.arange(ARROW_CONTEXT + ARROW_HORIZON + ARROW_CONTEXT)[:, None]
    paths: list[Float[np.ndarray, "t 2"]] = []
    for i, r in enumerate(radius):
        for _ in range(200):
            velocity = between(rng, ranges.speed) * heading(between(rng, (0.0, 2 * np.pi)))
            room = VIEW - 2 * r
            unfolded = rng.uniform(0, room, 2) + velocity * time
            path = r + room - np.abs(unfolded % (2 * room) - room)  # a triangle wave between the walls
            gaps = [np.linalg.norm(path - paths[j], axis=1).min() - r - radius[j] for j in range(i)]
            if all(gap > 2.0 for gap in gaps):
                paths.append(path)
                break
        else:
            raise Again
    return np.stack(paths, 1)


def _mark_arrow(episode: Episode, surprises: Sequence[np.ndarray]) -> Marks:
    forward, backward, free, free_backward = (float(s.sum()) for s in surprises)
    right = more(backward, forward)
    return Marks(
        error=(1 - right, 1.0),
        numbers={"arrow accuracy": (right, 1.0), "elastic control": (more(free_backward, free), 1.0)},
    )


# -- cheats ---------------------------------------------------------------------------------------

Frames = UInt8[np.ndarray, "t h w 3"]


def frame_difference(frames: Frames, num_context: int) -> Float[np.ndarray, " horizon"]:
    """A surprise that knows nothing: the mean difference of each frame after the context to the one before, 0..1."""
    new, old = (part.astype(np.int64) for part in (frames[num_context:], frames[num_context - 1 : -1]))
    return np.abs(new - old).mean((1, 2, 3)) / 255


def copy_context(frames: Frames, num_context: int) -> Float[np.ndarray, " horizon"]:
    """Another: the mean squared difference of each frame after the context to the last one in it, 0..1."""
    new, last = (part.astype(np.int64) for part in (frames[num_context:], frames[num_context - 1]))
    return ((new - last) ** 2).mean((1, 2, 3)) / 255**2


FAMILIES: tuple[Family, ...] = (
    Family(
        id="C5",
        number=16,
        title="Violation of expectation",
        question="Is it surprising when a hidden thing vanishes, turns into another or jumps elsewhere?",
        axis="causality",
        draw=_draw_violation,
        mark=_mark_violation,
        kind="surprise",
        period=len(KINDS),
    ),
    Family(
        id="C6",
        number=17,
        title="Arrow of time",
        question="Is it surprising when a world that loses its energy runs backwards?",
        axis="causality",
        draw=_draw_arrow,
        mark=_mark_arrow,
        kind="surprise",
    ),
)
