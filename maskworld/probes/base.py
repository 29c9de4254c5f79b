"""What a probe is. A family draws episodes; an episode asks questions; a subject answers them with pictures;
the family marks the answers by what a camera can see, and by nothing else.

    family draws -> Episode of Questions -> subject answers -> family marks -> Marks

Suite version, family, split and index fix an episode: its states and every pixel of it.

Sections: settings - questions - marks - families - subjects.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from maskworld.data.discs import PALETTE
from maskworld.probes.stage import SIDE, Tier, Track, film

VERSION = 1
"""Of the suite: a change of any scene, screen or read-out raises it. Scores of two versions are not compared."""

# -- settings -------------------------------------------------------------------------------------

Split = Literal["dev", "train", "salted"]
SPLITS: tuple[Split, ...] = ("dev", "train", "salted")
Shift = Literal["none", "speed", "size", "mass", "count", "palette"]
SHIFTS: tuple[Shift, ...] = ("none", "speed", "size", "mass", "count", "palette")

HELD_OUT = ((0.55, 0.30, 0.85), (0.55, 0.95, 0.55), (0.65, 0.15, 0.40), (1.00, 0.62, 0.72), (0.05, 0.50, 0.55))
"""Colours that only the palette shift shows; 0.3 and more from each other, from PALETTE and from all scenery."""


@dataclass(frozen=True)
class Ranges:
    """From what a family draws. Speeds in pixels per frame, radii in pixels; `ratio` of the heavier to the lighter."""

    speed: tuple[float, float] = (1.0, 2.2)
    radius: tuple[float, float] = (4.0, 5.5)
    ratio: tuple[float, float] = (1.2, 2.5)
    count: tuple[int, int] = (2, 4)
    palette: tuple[tuple[float, float, float], ...] = PALETTE


def ranges_of(shift: str) -> Ranges:
    """The ranges of the suite, or with one of them moved to where no training clip was."""
    moved: dict[str, dict[str, Any]] = {
        "none": {},
        "speed": {"speed": (2.6, 3.4)},
        "size": {"radius": (6.0, 7.0)},
        "mass": {"ratio": (3.0, 5.0)},
        "count": {"count": (5, 5)},
        "palette": {"palette": HELD_OUT},
    }
    if shift not in moved:
        raise ValueError(f"a shift is one of {', '.join(SHIFTS)}, not {shift!r}")
    return Ranges(**moved[shift])


@dataclass(frozen=True)
class Setting:
    """Which episodes, and how they are filmed. `salt` makes a split that nobody can have seen."""

    split: Split = "dev"
    tier: Tier = "flat"
    shift: Shift = "none"
    salt: str = ""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.tier not in ("flat", "textured"):
            raise ValueError(f"tier is flat or textured, not {self.tier!r}")
        if (self.split == "salted") != bool(self.salt):
            raise ValueError("a salted split needs a salt, and only a salted one has it")
        ranges_of(self.shift)

    @property
    def ranges(self) -> Ranges:
        return ranges_of(self.shift)


def generator(family: int, index: int, setting: Setting) -> np.random.Generator:
    """The random numbers of one episode; the salt enters through HMAC-SHA256, so that it cannot be read back."""
    words = [VERSION, family, SPLITS.index(setting.split), SHIFTS.index(setting.shift), index]
    if setting.salt:
        text = "/".join(map(str, words)).encode()
        words = list(np.frombuffer(hmac.new(setting.salt.encode(), text, hashlib.sha256).digest(), dtype=np.uint32))
    return np.random.default_rng([int(word) for word in words])


# -- questions ------------------------------------------------------------------------------------

ACTIONS = ("push_x", "push_y", "pan_x", "pan_y", "reach_x", "reach_y", "open", "light", "drive")
"""The channels of an action, the same in every family, each in [-1, 1]; an action is taken at t and felt at t + 1.

push    changes the velocity of the agent, or moves the container, by PUSH pixels per frame
pan     moves the camera, by PAN pixels
reach   a place in the view, (-1, -1) its left top corner, where `open` opens what is closed
light   switches a light; drive  pushes what is driven
"""
PUSH, PAN = 2.0, 32.0

Frames = UInt8[np.ndarray, "t h w 3"]
Answer = UInt8[np.ndarray, "k t h w 3"]
Actions = Float[np.ndarray, "t a"]


@dataclass(frozen=True)
class Question:
    """One thing asked: what comes after the first `num_context` frames? A model is shown `prompt` and `actions`.

    track        what happens, from the first frame on: the truth
    actions      of all frames, or None where the family has none
    rerun        what would have happened under other actions (of all frames); for references
    observed     what is shown instead of the truth after the context, in probes of surprise
    num_samples  how often the question is answered
    chances      other possible futures with their probabilities, of which the truth is one; only where there is chance
    """

    track: Track
    num_context: int
    actions: Actions | None = None
    rerun: Callable[[Actions], Track] | None = None
    observed: Track | None = None
    num_samples: int = 1
    chances: tuple[tuple[float, Track], ...] = ()

    def __post_init__(self) -> None:
        assert 1 <= self.num_context < self.track.num_frames
        assert self.actions is None or self.actions.shape == (self.track.num_frames, len(ACTIONS))
        assert self.observed is None or self.observed.num_frames == self.track.num_frames

    @property
    def horizon(self) -> int:
        """Frames to answer with."""
        return self.track.num_frames - self.num_context

    @property
    def future(self) -> Track:
        """The truth after the context."""
        return self.track.part(self.num_context, self.track.num_frames)

    def prompt(self, tier: Tier = "flat") -> Frames:
        """What the model is shown."""
        return film(self.track.part(0, self.num_context), tier)

    def truth(self, tier: Tier = "flat") -> Frames:
        """What happens after the prompt."""
        return film(self.future, tier)

    def shown(self, tier: Tier = "flat") -> Frames:
        """The whole film: what was observed where that differs from the truth."""
        return film(self.observed or self.track, tier)


@dataclass(frozen=True)
class Episode:
    """The questions that belong together (branches of one world), and what their marks depend on."""

    questions: tuple[Question, ...]
    about: Mapping[str, Any] = field(default_factory=dict)  # numbers and words: the gap, the kind


class Again(Exception):
    """Raised by a family's `draw` for an episode that a screen rejects: the next numbers are tried."""


# -- marks ----------------------------------------------------------------------------------------

Ratio = tuple[float, float]
"""(numerator, denominator): over episodes both are summed, so a mean has denominators of 1 (or of its count)."""


@dataclass(frozen=True)
class Marks:
    """What one episode adds to the numbers of its family.

    error     the headline, lower is better: 0..1 follows from it by floor and ceiling
    numbers   what else is measured
    points    curve -> (x, y) pairs, averaged at each x over episodes
    """

    error: Ratio
    numbers: Mapping[str, Ratio] = field(default_factory=dict)
    points: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)


def as_json(marks: Marks) -> dict[str, Any]:
    """Lists and numbers only; `of_json` is its inverse."""
    return {
        "error": list(marks.error),
        "numbers": {name: list(ratio) for name, ratio in marks.numbers.items()},
        "points": {name: [list(point) for point in points] for name, points in marks.points.items()},
    }


def of_json(marks: Mapping[str, Any]) -> Marks:
    return Marks(
        error=(marks["error"][0], marks["error"][1]),
        numbers={name: (a, b) for name, (a, b) in marks["numbers"].items()},
        points={name: tuple((x, y) for x, y in points) for name, points in marks["points"].items()},
    )


# -- families -------------------------------------------------------------------------------------

Ask = Callable[[Sequence[Question]], list[Answer]]
"""Puts questions to the subject; for a family that plays (C9)."""


@dataclass(frozen=True)
class Family:
    """One kind of question, asked over and over.

    number   never changes: it seeds the episodes
    kind     "predict": `mark` is given answers (one for each question); "surprise": the surprise of each frame after
             the context (one array for each question); "play": `play` asks as it goes
    acts     whether the questions have actions: a model that takes none is not asked
    period   episodes whose index agrees modulo `period` have the same number of frames
    curves   curve -> (name of x, name of y), for the report
    """

    id: str
    number: int
    title: str
    question: str
    axis: Literal["persistence", "causality"]
    draw: Callable[[np.random.Generator, int, Ranges], Episode]
    mark: Callable[[Episode, Sequence[np.ndarray]], Marks] | None = None
    play: Callable[[Episode, Ask], Marks] | None = None
    kind: Literal["predict", "surprise", "play"] = "predict"
    acts: bool = False
    period: int = 1
    curves: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def episode(self, index: int, setting: Setting = Setting()) -> Episode:
        """Episode number `index`: a function of its arguments and VERSION alone."""
        if index < 0:
            raise ValueError(f"episodes are numbered from 0, not {index}")
        rng = generator(self.number, index, setting)
        for _ in range(1000):
            try:
                return self.draw(rng, index, setting.ranges)
            except Again:
                continue
        raise AssertionError(f"{self.id}: no episode {index} passes the screens")


def fingerprint(episode: Episode, tier: Tier = "flat") -> tuple[str, str]:
    """SHA-256 of an episode's states (to 1e-9) and of its pixels: what a golden file holds."""
    states, pixels = hashlib.sha256(), hashlib.sha256()
    for question in episode.questions:
        for track in (question.track, question.observed, *(track for _, track in question.chances)):
            if track is None:
                continue
            for name in ("position", "half", "colour", "camera"):
                states.update((np.round(getattr(track, name), 9) + 0.0).tobytes())
            states.update(track.shown.tobytes())
        if question.actions is not None:
            states.update((np.round(question.actions, 9) + 0.0).tobytes())
        pixels.update(question.shown(tier).tobytes())
    return states.hexdigest(), pixels.hexdigest()


# -- subjects -------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A question and where it stands: references may look at all of it, a model sees `Question.prompt` and actions."""

    question: Question
    family: Family
    index: int
    branch: int  # place of the question in its episode
    setting: Setting


@dataclass(frozen=True)
class Subject:
    """Who is asked.

    answer     one answer for each question, k x t x h x w x 3, 0..255: k = question.num_samples, t = horizon
    surprise   one array for each question: how unexpected each frame after the context is; None: from `answer`
    actions    whether it takes actions; if not, families that act are "n/a"
    batch      questions at a time
    """

    name: str
    answer: Callable[[Sequence[Asked]], list[np.ndarray]]
    surprise: Callable[[Sequence[Asked]], list[np.ndarray]] | None = None
    actions: bool = True
    batch: int = 16


def check_answer(asked: Asked, answer: Any, samples: int | None = None) -> Answer:
    """The answer, if it is one; else ValueError that says what is wrong with it and what would be right."""
    question, tier = asked.question, asked.setting.tier
    k = samples or question.num_samples
    want = (k, question.horizon, SIDE[tier], SIDE[tier], 3)
    if not isinstance(answer, np.ndarray):
        raise ValueError(f"an answer is a NumPy array, not {type(answer).__name__}")
    if answer.dtype != np.uint8:
        if answer.dtype.kind == "f" and not np.isfinite(answer).all():
            raise ValueError("the answer holds NaN or infinity")
        raise ValueError(f"an answer is uint8, 0..255, not {answer.dtype}")
    if answer.shape != want:
        less = answer.ndim == 5 and answer.shape[1] < want[1]
        raise ValueError(
            f"the answer's shape is {answer.shape}, not {want} (samples, frames, height, width, RGB)"
            + (f": {want[1] - answer.shape[1]} frames too few" if less else "")
        )
    return answer


def check_surprise(asked: Asked, surprise: Any) -> Float[np.ndarray, " t"]:
    """The surprise of each frame after the context, if it is that; else ValueError."""
    surprise = np.asarray(surprise, dtype=np.float64)
    if surprise.shape != (asked.question.horizon,):
        raise ValueError(f"surprise is one number a frame, {(asked.question.horizon,)}, not {surprise.shape}")
    if not np.isfinite(surprise).all():
        raise ValueError("the surprise holds NaN or infinity")
    return surprise


def replaced(family: Family, **changes: Any) -> Family:
    """The family with some fields replaced."""
    return dataclasses.replace(family, **changes)
