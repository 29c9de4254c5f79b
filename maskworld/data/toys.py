"""Two toy worlds whose discounted future is known exactly: a Markov chain and a clock, both shown as video.

Frames are grey, made of flat patches of 8 x 8 pixels in 4 levels, so that a patch is a digit in base 4 and nothing is
lost where each is read as one code. Neither world ever ends: their episodes stop because their time is over, and
every value counts what would have come after that, too. The future of a frame begins at the frame after it.

Sections: patches - the chain - the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from maskworld.data.episodes import Episode

FPS = 8.0

# -- patches ----------------------------------------------------------------------------------------

PATCH = 8  # pixels of a side
LEVELS = 4
UNREADABLE = -1


def paint(digits: Int[np.ndarray, "t gh gw"]) -> UInt8[np.ndarray, "t h w 1"]:
    """Every digit a flat patch: 0 is black, 3 white."""
    grey = (digits * (255 // (LEVELS - 1))).astype(np.uint8)
    return repeat(grey, "t gh gw -> t (gh p) (gw q) 1", p=PATCH, q=PATCH)


def digits_of(frames: Float[Tensor, "*n 1 h w"]) -> Int[Tensor, "*n gh gw"]:
    """The digit nearest to the mean of each patch; frames in [-1, 1]."""
    if frames.shape[-1] % PATCH or frames.shape[-2] % PATCH:
        raise ValueError(f"frames of whole patches of {PATCH} pixels, not {tuple(frames.shape[-2:])}")
    mean = rearrange(frames, "... 1 (gh p) (gw q) -> ... gh gw (p q)", p=PATCH, q=PATCH).mean(-1)
    return ((mean + 1) / 2 * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma is from 0 to below 1, not {gamma}")


def _check_episodes(num: int, length: int) -> None:
    if num < 1 or length < 2:
        raise ValueError(f"at least one episode of at least 2 frames, not {num} of {length}")


def _episode(frames: UInt8[np.ndarray, "t h w 1"], rewards: np.ndarray) -> Episode:
    """Without actions; the first frame has no reward."""
    actions = np.full((len(frames), 0), np.nan, np.float32)
    return Episode(frames, actions, np.concatenate([[0], rewards[1:]]).astype(np.float32), terminal=False)


# -- the chain --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A Markov chain: `states` states, three ways out of most of them, a reward on arrival at each.

    A frame is 2 x 2 patches: the state in base 4, and under it two check digits. Transitions and rewards follow
    from the seed.
    """

    states: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.states <= LEVELS**2:
            raise ValueError(f"a chain of 2 to {LEVELS**2} states, not {self.states}")
        if self.seed < 0:
            raise ValueError(f"seed is 0 or more, not {self.seed}")

    @property
    def size(self) -> int:
        return 2 * PATCH

    @cached_property
    def transitions(self) -> Float[np.ndarray, "s s"]:
        """P[i, j] = the probability of j after i. Ergodic: each leads to the next, the first to itself too."""
        rng = np.random.default_rng([self.seed, 0])
        p = np.zeros((self.states, self.states))
        for i in range(self.states):
            ways = {(i + 1) % self.states, *rng.integers(self.states, size=2).tolist()} | ({0} if i == 0 else set())
            p[i, sorted(ways)] = 0.1 + rng.dirichlet(np.ones(len(ways)))
        return p / p.sum(1, keepdims=True)

    @cached_property
    def rewards(self) -> Float[np.ndarray, " s"]:
        """On arrival at each state, from 0 to 1."""
        return np.random.default_rng([self.seed, 1]).uniform(0, 1, self.states)

    def occupancy(self, gamma: float) -> Float[np.ndarray, "s s"]:
        """(1 - gamma) P (I - gamma P)^-1: row i is where the discounted future of state i is spent (Dayan 1993)."""
        _check_gamma(gamma)
        p = self.transitions
        return (1 - gamma) * np.linalg.solve((np.eye(self.states) - gamma * p).T, p.T).T

    def values(self, gamma: float) -> Float[np.ndarray, " s"]:
        """The sum over k of gamma^k r(s_{t+1+k}), expected, for each s_t."""
        return self.occupancy(gamma) @ self.rewards / (1 - gamma)

    def digits(self, states: Int[np.ndarray, " t"]) -> Int[np.ndarray, "t 2 2"]:
        """What is painted: high and low digit, and two weighted sums of them."""
        high, low = np.divmod(states.astype(np.int64), LEVELS)
        flat = np.stack([high, low, (high + low) % LEVELS, (high + 2 * low + 1) % LEVELS], axis=1)
        return rearrange(flat, "t (gh gw) -> t gh gw", gh=2)

    def frames(self, states: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 1"]:
        return paint(self.digits(states))

    def state_of(self, frames: Float[Tensor, "*n 1 h w"]) -> Int[Tensor, "*n"]:
        """The state that each frame shows, or -1 where its digits are those of none."""
        if frames.shape[-2:] != (self.size, self.size):
            raise ValueError(f"the chain is {self.size} x {self.size} pixels, not {tuple(frames.shape[-2:])}")
        table = torch.from_numpy(self.digits(np.arange(self.states)))
        same = (digits_of(frames.cpu())[..., None, :, :] == table).flatten(-2).all(-1)
        return torch.where(same.any(-1), same.long().argmax(-1), UNREADABLE).to(frames.device)

    def walk(self, start: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, " t"]:
        """States of a walk that begins at `start`."""
        reached = np.cumsum(self.transitions, axis=1)
        path = [start]
        for u in rng.random(length - 1).tolist():
            path.append(min(int(np.searchsorted(reached[path[-1]], u, side="right")), self.states - 1))
        return np.array(path, dtype=np.int64)

    def episodes(self, num: int, length: int, seed: int) -> list[Episode]:
        """Walks from states drawn uniformly."""
        _check_episodes(num, length)
        made = []
        for i in range(num):
            rng = np.random.default_rng([self.seed, 2, seed, i])
            path = self.walk(int(rng.integers(self.states)), length, rng)
            made.append(_episode(self.frames(path), self.rewards[path]))
        return made


# -- the clock --------------------------------------------------------------------------------------

STRIKE = 16
"""Frames from one stroke of the clock to the next."""

_GRID = 4
# Where on the grid (row, column) a hand goes round, the digits stand (lowest first), and the rest.
_ROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
_DIGITS = ((3, 3), (3, 2), (3, 1), (3, 0), (2, 3))
_SUM, _WEIGHTED, _LAMP = (1, 1), (1, 3), (0, 3)


@dataclass(frozen=True)
class Clock:
    """A video that tells its own time: frame after frame counts one up, and begins again after `period` frames.

    A frame is 4 x 4 patches: a hand with a fading trail, the time in base 4 (five digits), two check digits and a
    lamp, which is lit at every 16th frame: then the clock strikes, and that is the reward, 1.
    """

    period: int = 512

    def __post_init__(self) -> None:
        if not STRIKE <= self.period <= LEVELS ** len(_DIGITS) or self.period % STRIKE:
            most = LEVELS ** len(_DIGITS)
            raise ValueError(f"a period is a multiple of {STRIKE} up to {most} frames, not {self.period}")

    @property
    def size(self) -> int:
        return _GRID * PATCH

    @cached_property
    def rewards(self) -> Float[np.ndarray, " p"]:
        """On arrival at each time."""
        return (np.arange(self.period) % STRIKE == 0).astype(np.float64)

    def values(self, gamma: float) -> Float[np.ndarray, " p"]:
        """The sum over k of gamma^k r(time + 1 + k), at each time: the clock goes on for ever."""
        _check_gamma(gamma)
        wait = STRIKE - np.arange(self.period) % STRIKE  # 1 to 16 frames until it strikes again
        return gamma ** (wait - 1.0) / (1 - gamma**STRIKE)

    def delays(self, gamma: float) -> Float[np.ndarray, " p"]:
        """How probable each delay is in the discounted future: 1, 2, ..., period (where the same frame comes again)."""
        _check_gamma(gamma)
        return (1 - gamma) * gamma ** np.arange(float(self.period)) / (1 - gamma**self.period)

    def digits(self, times: Int[np.ndarray, " t"]) -> Int[np.ndarray, "t 4 4"]:
        """What is painted; times are counted modulo the period."""
        times = times.astype(np.int64) % self.period
        grid = np.zeros((len(times), _GRID, _GRID), np.int64)
        every = np.arange(len(times))
        for behind in (2, 1, 0):
            rows, columns = np.array(_ROUND)[(times - behind) % len(_ROUND)].T
            grid[every, rows, columns] = LEVELS - 1 - behind
        written = np.stack([times // LEVELS**i % LEVELS for i in range(len(_DIGITS))])
        for place, digit in zip(_DIGITS, written, strict=True):
            grid[:, *place] = digit
        grid[:, *_SUM] = written.sum(0) % LEVELS
        grid[:, *_WEIGHTED] = (np.arange(len(_DIGITS)) @ written) % LEVELS
        grid[:, *_LAMP] = np.where(times % STRIKE == 0, LEVELS - 1, 0)
        return grid

    def frames(self, times: Int[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 1"]:
        return paint(self.digits(times))

    def time_of(self, frames: Float[Tensor, "*n 1 h w"]) -> Int[Tensor, "*n"]:
        """The time that each frame shows, or -1 where any of its patches is not as it is at that time."""
        if frames.shape[-2:] != (self.size, self.size):
            raise ValueError(f"the clock is {self.size} x {self.size} pixels, not {tuple(frames.shape[-2:])}")
        seen = digits_of(frames.cpu())
        time = sum(seen[..., row, column] * LEVELS**i for i, (row, column) in enumerate(_DIGITS))
        assert isinstance(time, Tensor)
        table = torch.from_numpy(self.digits(np.arange(self.period)))
        same = (table[time.clamp(max=self.period - 1)] == seen).flatten(-2).all(-1) & (time < self.period)
        return torch.where(same, time, UNREADABLE).to(frames.device)

    def episodes(self, num: int, length: int, seed: int) -> list[Episode]:
        """Stretches that begin at times drawn uniformly; one may be longer than the period."""
        _check_episodes(num, length)
        starts = np.random.default_rng([3, seed]).integers(self.period, size=num).tolist()
        made = []
        for start in starts:
            times = np.arange(start, start + length) % self.period
            made.append(_episode(self.frames(times), self.rewards[times]))
        return made
