"""The suite's episodes as training clips: a few frames of history, with gaps, and the frames that follow.

    Films(("P2a", "C3"))(7) -> Clip of 8 + 4 frames, with times, actions and cameras

They are cut from the train split, which the suite never asks about, and are drawn at the chosen frames only.

Sections: families - pieces - films - pairs.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.clip import Cameras, Clip, of_uint8, planar
from maskworld.probes.base import ACTIONS, PAN, Episode, Question, Setting
from maskworld.probes.stage import VIEW, film
from maskworld.probes.suite import FAMILIES, families_of

# -- families -------------------------------------------------------------------------------------

PARTS = ("train", "valid")
_NUMBERS = 10**8  # periods of episodes that train is drawn from; valid is drawn from as many after them
_ABREAST = 32  # clips that follow each other and come from different episodes
_PANS = [ACTIONS.index("pan_x"), ACTIONS.index("pan_y")]


class Shape(NamedTuple):
    """What all episodes of a family have in common: frames, by index modulo the family's period, and branches."""

    num_frames: tuple[int, ...]
    num_branches: int


@lru_cache
def shape_of(family: str) -> Shape:
    """Found by drawing one episode of each residue. ValueError for families that are unknown or show no future."""
    (found,) = families_of([family])
    if found.kind != "predict":
        raise ValueError(f"{family} is a probe of {found.kind}: only those that ask for a prediction make films")
    drawn = [_episode(family, i) for i in range(found.period)]
    lengths = [{question.track.num_frames for question in episode.questions} for episode in drawn]
    assert all(len(length) == 1 for length in lengths), f"{family}: branches of different lengths {lengths}"
    return Shape(tuple(length.pop() for length in lengths), min(len(episode.questions) for episode in drawn))


@lru_cache(maxsize=4 * _ABREAST)
def _episode(family: str, number: int) -> Episode:
    return FAMILIES[family].episode(number, Setting(split="train"))


# -- pieces ---------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Which frames of which branch of which episode of the train split a clip shows."""

    family: str
    episode: int
    branch: int
    frames: tuple[int, ...]


def question_of(piece: Piece) -> Question:
    """The branch that the piece is cut from: its track, its actions, what else could have been done."""
    return _episode(piece.family, piece.episode).questions[piece.branch]


def turns(question: Question) -> tuple[int, ...]:
    """The frames at which something sets in: the first after the context, and where later actions begin to be felt.

    The camera returns, a lid opens, a push starts.
    """
    felt = {question.num_context}
    if question.actions is not None:
        acts = question.actions != 0
        begins = (acts[1:] & ~acts[:-1]).any(1)  # at 1, 2, ...
        felt |= {int(t) + 2 for t in np.nonzero(begins)[0] if question.num_context < t + 2 < question.track.num_frames}
    return tuple(sorted(felt))


def reckoned(actions: Float[Tensor, "b t a"], size: int = VIEW) -> Cameras:
    """Where the camera stands, frame by frame, as far as the pans of the actions tell (dead reckoning): it starts at 0.

    `size` is that of the frames, in pixels.
    """
    assert actions.shape[2] == len(ACTIONS)
    pans = (PAN * size / VIEW * actions[:, :-1, _PANS]).cumsum(1)
    return planar(torch.cat([torch.zeros_like(actions[:, :1, :2]), pans], dim=1), size)


def clip_of(piece: Piece) -> Clip:
    """The piece, filmed: absolute times, actions of all channels (0 where the family has none), cameras.

    Cameras are dead reckoning: where the pans alone have taken the camera since the first frame shown.
    """
    question = question_of(piece)
    index = np.array(piece.frames)
    actions = torch.zeros(1, question.track.num_frames, len(ACTIONS))
    if question.actions is not None:
        actions = torch.from_numpy(question.actions).float()[None]
    offset = reckoned(actions).pose[:, 0, index, :2, 3]
    clip = of_uint8(torch.from_numpy(film(question.track.at(index))))
    return dataclasses.replace(
        clip,
        times=torch.from_numpy(index)[None],
        actions=actions[:, index],
        cameras=planar(offset - offset[:, :1], VIEW),
    )


# -- films ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """Clip number `index` of an endless set: a function of the fields and the index alone.

    A clip has `ahead` frames that follow each other, and before them `history` frames of the same episode in order of
    time: the last `near`, and others drawn from all earlier ones, so that times have gaps. Families whose episodes
    are all too short for that give way to the others.

    families           of the suite, by id; those that ask for a prediction
    shares             how often each is drawn, in proportion; equally often if None
    p_turn             how often the frames ahead begin within `ahead` frames of a turn of the episode
    split              valid shows episodes that train never does
    clips_per_episode  an episode is cut so often, differently; clips that stand near each other never share one
    """

    families: tuple[str, ...]
    shares: tuple[float, ...] | None = None
    history: int = 8
    ahead: int = 4
    split: Literal["train", "valid"] = "train"
    seed: int = 0
    near: int = 3
    p_turn: float = 0.6
    clips_per_episode: int = 4

    def __post_init__(self) -> None:
        if self.split not in PARTS:
            raise ValueError(f"split is one of {', '.join(PARTS)}, not {self.split!r}")
        if not self.families or len(set(self.families)) < len(self.families):
            raise ValueError(f"films are cut from one family or more, each named once, not {self.families}")
        for name in ("history", "ahead", "clips_per_episode"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        for name in ("seed", "near"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 or more, not {getattr(self, name)}")
        if not 0 <= self.p_turn <= 1:
            raise ValueError(f"p_turn is a probability, from 0 to 1, not {self.p_turn}")
        if self.shares is not None:
            if len(self.shares) != len(self.families):
                raise ValueError(f"{len(self.shares)} shares for {len(self.families)} families")
            if not all(math.isfinite(share) and share >= 0 for share in self.shares):
                raise ValueError(f"shares are 0 or more, not {self.shares}")
        if not self._chances().any():
            longest = max(max(shape_of(family).num_frames) for family in self.families)
            raise ValueError(
                f"no episode of {', '.join(self.families)} that is ever drawn has {self.history} + {self.ahead} frames:"
                f" the longest has {longest}"
            )

    @property
    def channels(self) -> int:
        return 3

    def __call__(self, index: int) -> Clip:
        return clip_of(self.piece(index))

    def piece(self, index: int) -> Piece:
        """What clip number `index` shows."""
        if index < 0:
            raise ValueError(f"clips are numbered from 0, not {index}")
        block, place = divmod(index, _ABREAST * self.clips_per_episode)
        cut, column = divmod(place, _ABREAST)
        words = [self.seed, PARTS.index(self.split), block * _ABREAST + column]
        family, episode = self._drawn(np.random.default_rng(words))
        return self._cut(family, episode, np.random.default_rng([*words, 1 + cut]))

    def _chances(self) -> Float[np.ndarray, " n"]:
        """How likely each family is, but for their sum."""
        shares = np.ones(len(self.families)) if self.shares is None else np.array(self.shares, dtype=np.float64)
        return shares * [bool(self._residues(family)) for family in self.families]

    def _residues(self, family: str) -> list[int]:
        """Of the indices modulo the period, those whose episodes are long enough."""
        return [i for i, length in enumerate(shape_of(family).num_frames) if length >= self.history + self.ahead]

    def _drawn(self, rng: np.random.Generator) -> tuple[str, int]:
        """A family and the number of an episode of it that is long enough."""
        chances = self._chances()
        family = self.families[int(rng.choice(len(chances), p=chances / chances.sum()))]
        number = int(rng.integers(_NUMBERS)) + _NUMBERS * PARTS.index(self.split)
        return family, number * FAMILIES[family].period + int(rng.choice(self._residues(family)))

    def _cut(self, family: str, number: int, rng: np.random.Generator) -> Piece:
        """A branch, where the frames ahead begin, and the frames before them."""
        questions = _episode(family, number).questions
        branch = int(rng.integers(len(questions)))
        question = questions[branch]
        starts = np.arange(self.history, question.track.num_frames - self.ahead + 1)
        if rng.random() < self.p_turn:
            turn = rng.choice(turns(question))
            close = starts[np.abs(starts - turn) <= self.ahead]
            starts = close if len(close) else starts
        start = int(rng.choice(starts))
        near = min(self.near, self.history)
        early = rng.choice(start - near, self.history - near, replace=False)
        frames = (*sorted(early.tolist()), *range(start - near, start + self.ahead))
        return Piece(family, number, branch, frames)


# -- pairs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs(Films):
    """Clips 2 i and 2 i + 1 show the same frames of two branches of one episode: the first, and another.

    The scene is the same but for one factor: a thing is gone, another or on another course, or is acted on otherwise.
    """

    families: tuple[str, ...] = ("C2", "C2-null", "C3")

    def __post_init__(self) -> None:
        super().__post_init__()
        for family in self.families:
            if shape_of(family).num_branches < 2:
                raise ValueError(f"episodes of {family} have one branch only, and a pair takes two")

    def piece(self, index: int) -> Piece:
        piece = super().piece(index // 2)
        num = len(_episode(piece.family, piece.episode).questions)
        rng = np.random.default_rng([self.seed, PARTS.index(self.split), index // 2, 0, 1])
        return piece._replace(branch=(index % 2) * int(rng.integers(1, num)))
