"""C10, stochastic futures: a disc goes behind a screen and leaves it by one of several exits, as chance will have it.

Nobody can know which. So the question is put many times over, and the answers are a distribution, scored by a
proper rule: no distribution has a better expected score than the true one. The expected error of one answer prefers
the mean of all futures, where nothing ever is; the best of many answers rewards those that are everywhere.

Sections: scene - scores - marks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from maskworld.probes.base import Again, Episode, Family, Marks, Question, Ranges
from maskworld.probes.readout import FAR, read
from maskworld.probes.scenes import GROUND, SCREEN, TOLERANCE, between, colours
from maskworld.probes.stage import VIEW, Cast, Track, visible

# -- scene ----------------------------------------------------------------------------------------

CONTEXT, HORIZON = 14, 18
NUM_SAMPLES = 16
KINDS = {
    "even": ((0.5, -1), (0.5, 1)),
    "uneven": ((0.75, -1), (0.25, 1)),
    "three": ((0.5, -1), (0.25, 0), (0.25, 1)),
}
"""(probability, side) of each exit."""
LAST = 4  # frames that are scored: the last ones that show the disc


def _draw_fork(rng: np.random.Generator, index: int, ranges: Ranges) -> Episode:
    """The way forks where it cannot be seen; then it goes on as before, higher or lower."""
    kind = list(KINDS)[index % len(KINDS)]
    chance, sides = (np.array(column) for column in zip(*KINDS[kind], strict=True))
    sides = sides * int(rng.choice([-1, 1]))
    radius, speed, step = between(rng, ranges.radius), between(rng, ranges.speed), between(rng, (10.0, 14.0))
    middle = between(rng, (step + radius + 3, VIEW - step - radius - 3))
    enters, leaves = CONTEXT - int(rng.integers(2, 4)), CONTEXT + 1  # the first and the last hidden frame
    width = np.ceil(2 * radius + speed * (leaves - enters)) + 2
    left = np.round((VIEW - width) * between(rng, (0.35, 0.45)))
    frame = np.arange(CONTEXT + HORIZON)
    x = left + radius + 0.75 + speed * (frame - enters)
    top, bottom = np.floor(middle - step - radius - 2), np.ceil(middle + step + radius + 2)
    screen = np.array([left + width / 2, (top + bottom) / 2])
    turned = rng.random() < 0.5  # from right to left
    if turned:
        x, screen[0] = VIEW - x, VIEW - screen[0]
    colour, grain = colours(rng, 1, ranges)[0], int(rng.integers(2**31))
    on_the_way = np.clip((frame - enters) / (leaves - enters), 0, 1)

    tracks = []
    for side in sides:
        cast = Cast(len(frame), GROUND, grain)
        cast.add(np.stack([x, middle + side * step * on_the_way], 1), radius, colour)
        cast.add(screen, (width / 2, (bottom - top) / 2), SCREEN, box=True, object=False)
        tracks.append(cast.track())
    if len(scored_frames(tracks[0].part(CONTEXT, len(frame)))) < 2:
        raise Again
    drawn = int(rng.choice(len(tracks), p=chance))
    question = Question(
        tracks[drawn],
        CONTEXT,
        num_samples=NUM_SAMPLES,
        chances=tuple((float(p), track) for p, track in zip(chance, tracks, strict=True)),
    )
    return Episode((question,), {"kind": kind, "exits": len(tracks)})


def scored_frames(future: Track) -> Int[np.ndarray, " f"]:
    """The last frames, LAST at most, in which the disc is to be seen."""
    return np.nonzero(visible(future)[:, future.objects[0]] > 0.8)[0][-LAST:]


# -- scores ---------------------------------------------------------------------------------------


def distance(a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """How far apart two places are: pixels while they are near, and never above 2 FAR. NaN is "nowhere", which is
    FAR from every place and 0 from itself.

    2 FAR (1 - exp(-d / 2 FAR)) and not min(d, 2 FAR): with k(a, b) = exp(-d / 2 FAR), a positive definite kernel,
    it is FAR times the squared distance of two unit vectors of a Hilbert space, and "nowhere" is its origin. So it is
    of negative type, which makes the energy score proper; a distance that is cut off is not, in the plane.
    """
    a, b = np.broadcast_arrays(a, b)
    none_a, none_b = np.isnan(a).any(-1), np.isnan(b).any(-1)
    d = 2 * FAR * -np.expm1(-np.linalg.norm(a - b, axis=-1) / (2 * FAR))
    return np.where(none_a & none_b, 0.0, np.where(none_a | none_b, FAR, d))


def energy_score(samples: Float[np.ndarray, "k f 2"], truth: Float[np.ndarray, "f 2"]) -> float:
    """E d(X, o) - E d(X, X') / 2 (Gneiting & Raftery 2007), the mean over frames; lower is better.

    X and X' are different samples, so the expectation does not depend on their number.
    """
    k = len(samples)
    assert k >= 2, "the spread of one sample is unknown"
    spread = distance(samples[:, None], samples[None]).mean(-1).sum() / (k * (k - 1))
    return float(distance(samples, truth).mean() - spread / 2)


def errors(samples: Float[np.ndarray, "k f 2"], truth: Float[np.ndarray, "f 2"]) -> Float[np.ndarray, " k"]:
    """How far each sample is off, in pixels, at most FAR a frame; what is nowhere is FAR off."""
    d = np.linalg.norm(samples - truth, axis=-1)
    return np.where(np.isnan(d), FAR, np.minimum(d, FAR)).mean(-1)


def exits_of(samples: Float[np.ndarray, "k f 2"], exits: Float[np.ndarray, "e f 2"]) -> Int[np.ndarray, " k"]:
    """By which exit each sample came, if within TOLERANCE; else -1."""
    off = np.stack([errors(samples, exit) for exit in exits])
    return np.where(off.min(0) <= TOLERANCE, off.argmin(0), -1)


def mode_distance(chosen: Int[np.ndarray, " k"], chances: Float[np.ndarray, " e"]) -> float:
    """Total variation between the shares of the exits, invalid samples left out, and their chances; 1 if none is valid.

    A sampler that is right has some, for there are few samples: about 0.1 for 16 of two exits.
    """
    valid = chosen[chosen >= 0]
    if not len(valid):
        return 1.0
    shares = np.bincount(valid, minlength=len(chances)) / len(valid)
    return float(np.abs(shares - chances).sum() / 2)


# -- marks ----------------------------------------------------------------------------------------


def _mark_fork(episode: Episode, answers: Sequence[np.ndarray]) -> Marks:
    (question,), (answer,) = episode.questions, answers
    future, k = question.future, len(answer)
    frames = scored_frames(future)
    every = future.at(np.tile(frames, k))
    samples = read(answer[:, frames].reshape(-1, *answer.shape[2:]), every).centre[:, 0].reshape(k, len(frames), 2)

    def places(track: Track) -> Float[np.ndarray, "f 2"]:
        return (track.position[:, track.objects[0]] - track.camera)[question.num_context + frames]

    truth = places(question.track)
    exits = np.stack([places(track) for _, track in question.chances])
    off, chosen = errors(samples, truth), exits_of(samples, exits)
    return Marks(
        error=(energy_score(samples, truth), 1.0),
        numbers={
            "expected error": (float(off.mean()), 1.0),
            "best of 5": (float(off[:5].min()), 1.0),
            "best of 16": (float(off[:16].min()), 1.0),
            "validity": (float((chosen >= 0).mean()), 1.0),
            "mode distance": (mode_distance(chosen, np.array([p for p, _ in question.chances])), 1.0),
        },
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        id="C10",
        number=21,
        title="Stochastic futures",
        question="Where chance decides, are the answers as likely as what can happen?",
        axis="causality",
        draw=_draw_fork,
        mark=_mark_fork,
        period=len(KINDS),
    ),
)
