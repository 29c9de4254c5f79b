"""How good a value is: true discounted returns of held-out episodes, beside what models say of their states.

From frame t of an episode of T frames, with left = T - 1 - t frames after it, the return is

    G(t) = r_{t+1} + gamma r_{t+2} + ... + gamma^(left-1) r_{t+left},

each reward received on arrival at its frame. Where the episode ended for good that is all there is. Where only its time
was over, G lacks what would have come, while a value is that of a future without end: a perfect model would seem to
be wrong by the share gamma^left. So whatever is summed over real frames, the return and the row `oracle reward`, is
then divided by 1 - gamma^left (what comes after is taken to be, on average, as what came before), and states are taken
only where little is missing: see `frames_left`.

Sections: returns - states - rows - evaluation - telling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt8
from torch import Tensor

from maskworld.clip import of_frames, of_uint8
from maskworld.data.episodes import Episode
from maskworld.noise import Rng
from maskworld.papers import voc
from maskworld.probes.statistics import Interval, interval_of_sets, intervals

MISSING = 0.01
"""Of a return, what may lie beyond an episode's end, where episodes are long enough."""

UNROLLED_UP_TO = 0.05
"""A one-step model is unrolled until this share of the return is left."""

_ROWS = 1024  # draws made together
_FRAMES = 256  # frames turned into codes together

# -- returns --------------------------------------------------------------------------------------


def discounted(rewards: Float[np.ndarray, " t"], gamma: float) -> Float[np.ndarray, " t"]:
    """What comes after each frame, to the end of the episode; 0 at its last one."""
    voc.check_gamma(gamma)
    found = np.zeros(len(rewards))
    for t in range(len(rewards) - 2, -1, -1):
        found[t] = rewards[t + 1] + gamma * found[t + 1]
    return found


def true_returns(rewards: Float[np.ndarray, " t"], gamma: float, terminal: bool) -> Float[np.ndarray, " t"]:
    """The return at each frame, corrected for the end unless it is a `terminal` one. NaN at a last frame after which
    something would have come."""
    found = discounted(rewards, gamma)
    return found if terminal else _endless(found, gamma)


def _endless(found: np.ndarray, gamma: float) -> np.ndarray:
    """Sums to the end of an episode, as if it went on as it was."""
    left = np.arange(len(found) - 1, -1, -1)
    with np.errstate(invalid="ignore"):
        return found / (1 - float(gamma) ** left)


def frames_left(gamma: float, length: int, terminal: bool = False) -> int:
    """How many frames an episode of this length must have left after a state: so many that gamma^left is at most 1 %;
    half of the episode where it is too short for that; 1 where it ended for good, for then nothing is missing."""
    voc.check_gamma(gamma)
    if terminal:
        return 1
    far = 1 if gamma == 0 else math.ceil(math.log(MISSING) / math.log(gamma) - 1e-9)
    return max(min(far, (length - 1) // 2), 1)


class Outcome(NamedTuple):
    """What an episode brought, and who acted."""

    rewards: Float[np.ndarray, " t"]
    terminal: bool
    policy: str = ""


def outcomes(episodes: Sequence[Episode]) -> list[Outcome]:
    """Of each; an episode's frames are forgotten before the next one is read."""
    return [Outcome(e.rewards, e.terminal, e.policy) for e in episodes]


def mean_return(of: Sequence[Outcome], gamma: float) -> float:
    """Over all states of all episodes that have enough frames left: what a predictor without eyes would say."""
    parts = []
    for rewards, terminal, _ in of:
        last = len(rewards) - frames_left(gamma, len(rewards), terminal)
        parts.append(true_returns(rewards, gamma, terminal)[:last])
    if not parts:
        raise ValueError("no episodes: there is no mean return")
    return float(np.concatenate(parts).mean())


# -- states ---------------------------------------------------------------------------------------


class Start(NamedTuple):
    """A state to be judged: the frame of an episode."""

    episode: int
    frame: int


def starts(of: Sequence[Outcome], gamma: float, num: int) -> list[Start]:
    """`num` states, evenly spread over all that have enough frames left; all where there are no more."""
    if num < 1:
        raise ValueError(f"1 or more states are judged, not {num}")
    there = [
        Start(number, frame)
        for number, one in enumerate(of)
        for frame in range(len(one.rewards) - frames_left(gamma, len(one.rewards), one.terminal))
    ]
    if not there:
        raise ValueError("no held-out episodes: there is no state to judge")
    places = np.linspace(0, len(there) - 1, min(num, len(there))).round().astype(int)
    return [there[place] for place in places]


def states_along(
    net: voc.VOC, frames: UInt8[np.ndarray, "t h w c"] | Int32[np.ndarray, "t h w 1"]
) -> Int[Tensor, "t n"]:
    """The state at every frame of a video, of pixels or of codes, on the network's device.

    Raises ValueError for frames that are not the network's.
    """
    device, parts = next(net.parameters()).device, []
    for first in range(0, len(frames), _FRAMES):
        some = torch.from_numpy(np.ascontiguousarray(frames[first : first + _FRAMES])).to(device)
        if some.dtype == torch.uint8:
            clip = of_uint8(some)
        else:
            clip = of_frames(some.float().movedim(-1, 1)[None, None])
        parts.append(net.codes(clip)[0])
    gh, gw = net.config.grid
    codes = torch.cat(parts).float().reshape(1, 1, len(frames), 1, gh, gw)
    return voc.states_of(net, of_frames(codes))[0]


@dataclass(frozen=True)
class Subject:
    """A model that is asked. `policies` are the names of those of which it can be told, in its order."""

    net: voc.VOC
    policies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.policies) != self.net.config.policies:
            raise ValueError(
                f"a model of {self.net.config.policies} policies, of which {len(self.policies)} have names"
            )

    def told(self, gamma: float, labels: Sequence[str]) -> voc.Told:
        """This discount, and of each row which policy acts: not told where the model knows none of this name. What is
        done first is not told."""
        config, device = self.net.config, next(self.net.parameters()).device
        of = torch.full((len(labels),), gamma, device=device)
        if not config.actions + config.policies:
            return voc.Told(of)
        does = torch.full((len(labels), config.actions + config.policies), math.nan, device=device)
        for row, label in enumerate(labels):
            if label in self.policies:
                does[row, config.actions :] = 0
                does[row, config.actions + self.policies.index(label)] = 1
        return voc.Told(of, does)


class Found(NamedTuple):
    """Values of many states, the standard error of each over its draws, the share of draws in which all is over; and
    the processor's seconds for all of them, the encoding of frames not counted."""

    value: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    ended: Float[np.ndarray, " n"]
    seconds: float


Estimator = Callable[[Int[Tensor, "b n"], Sequence[str], Rng], voc.Value]


def values(
    subject: Subject,
    states: Int[Tensor, "b n"],
    labels: Sequence[str],
    gamma: float,
    samples: int,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    on_done: Callable[[int], None] | None = None,
) -> Found:
    """V of each state, from so many draws of its future. The numbers of a state depend on the seed and its place."""

    def estimate(some: Tensor, who: Sequence[str], rng: Rng) -> voc.Value:
        return voc.value(subject.net, some, subject.told(gamma, who), samples, rng, precision)

    return _in_batches(estimate, states, labels, samples, seed, on_done)


def unrolled_values(
    subject: Subject,
    states: Int[Tensor, "b n"],
    gamma: float,
    steps: int,
    samples: int,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    on_done: Callable[[int], None] | None = None,
) -> Found:
    """V of each state, from so many roll-outs of a model that goes one frame ahead."""

    def estimate(some: Tensor, who: Sequence[str], rng: Rng) -> voc.Value:
        return voc.unrolled(subject.net, some, gamma, steps, samples, rng, precision)

    return _in_batches(estimate, states, [""] * len(states), samples, seed, on_done)


def _in_batches(
    estimate: Estimator,
    states: Tensor,
    labels: Sequence[str],
    samples: int,
    seed: int,
    on_done: Callable[[int], None] | None,
) -> Found:
    if samples < 1:
        raise ValueError(f"1 or more draws of each state, not {samples}")
    many, parts = max(_ROWS // samples, 1), []
    clock = time.process_time()
    for first in range(0, len(states), many):
        some = states[first : first + many]
        places = range(first, first + len(some))
        rng = Rng([Rng.of(seed, place).generators[0] for place in places])
        parts.append(torch.stack(estimate(some, labels[first : first + many], rng)).double().cpu())
        if on_done is not None:
            on_done(len(some))
    value, error, ended = torch.cat(parts, dim=1).numpy()
    return Found(value, error, ended, time.process_time() - clock)


def steps_of(gamma: float) -> int:
    """How far a one-step model is unrolled where nobody says: until 5 % of the return are left."""
    voc.check_gamma(gamma)
    return 1 if gamma == 0 else max(math.ceil(math.log(UNROLLED_UP_TO) / math.log(gamma) - 1e-9), 1)


# -- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """How one estimate did. Intervals are of 95 %, over whole episodes.

    bias         mean of the estimate less the return
    correlation  of both; NaN where either does not vary
    error        mean standard error of an estimate over its draws; None where nothing is drawn
    seconds      of a processor, for each state; None for what is no estimate, or reads no state
    """

    name: str
    bias: Interval
    rmse: Interval
    correlation: Interval
    error: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Judgement:
    """All rows at one discount.

    states, episodes, ended   how many states were judged, of how many episodes, of which so many ended for good
    missing                   the largest share of a return that was beyond an end, and corrected for
    mean, std                 of the true returns
    """

    gamma: float
    states: int
    episodes: int
    ended: int
    missing: float
    mean: float
    std: float
    rows: tuple[Row, ...]


def judged(
    name: str,
    found: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    clusters: Sequence[int],
    error: float | None = None,
    seconds: float | None = None,
    resamples: int = 2000,
) -> Row:
    """Bias, RMSE and correlation of estimates, with bootstrap intervals over clusters."""
    away = found - truth
    bias, square = intervals(np.stack([away, away**2], axis=1), clusters, resamples=resamples)
    rmse = Interval(math.sqrt(square.mean), math.sqrt(square.low), math.sqrt(square.high), square.n)
    return Row(name, bias, rmse, _correlated(found, truth, clusters, min(resamples, 1000)), error, seconds)


def _correlated(x: np.ndarray, y: np.ndarray, clusters: Sequence[int], resamples: int) -> Interval:
    """Of whole clusters drawn again; from the sums over each."""
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    flat = [one.std() <= 1e-6 * max(np.abs(one).max(), 1e-30) for one in (x, y)]
    if any(flat):
        return Interval(math.nan, math.nan, math.nan, len(names))
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    sums = np.zeros((len(names), 6))
    np.add.at(sums, place, np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))

    def correlation(some: np.ndarray) -> float:
        n, sx, sy, sxx, syy, sxy = some.sum(0)
        of_x, of_y = sxx - sx * sx / n, syy - sy * sy / n
        return float((sxy - sx * sy / n) / math.sqrt(of_x * of_y)) if min(of_x, of_y) > 1e-9 * n else math.nan

    found = interval_of_sets(correlation, [sums], resamples=resamples)
    return Interval(found.mean, max(found.low, -1.0), min(found.high, 1.0), found.n)


# -- evaluation -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Who is asked, and how.

    model        the row `model`; its reward head makes the row `oracle reward`
    monte_carlo  another model that was learnt from real delays alone
    one_step     one that has learnt the discount 0; it is unrolled `steps` times, or as `steps_of` says
    states       of each discount, at most
    samples      draws of each state
    """

    model: Subject
    monte_carlo: Subject | None = None
    one_step: Subject | None = None
    steps: int | None = None
    states: int = 200
    samples: int = 64
    precision: torch.dtype = torch.float32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a model is unrolled for 1 or more steps, not {self.steps}")
        if self.one_step is not None and min(self.one_step.net.config.gammas) > 0:
            learnt = ", ".join(f"{gamma:g}" for gamma in self.one_step.net.config.gammas)
            raise ValueError(f"the one-step model has not learnt the discount 0, but {learnt}")

    @property
    def rows(self) -> int:
        """Rows whose states are drawn from."""
        return 1 + (self.monte_carlo is not None) + (self.one_step is not None)


def evaluate(
    asked: Asked,
    held: Sequence[Episode],
    before: Sequence[Outcome],
    gammas: Sequence[float],
    on_done: Callable[[int], None] | None = None,
) -> list[Judgement]:
    """A judgement at each discount, on states of held-out episodes; `before` are the outcomes of those that were learnt
    from, whose mean return is the last row. `on_done` hears of so many states done, of each row that draws."""
    ends = outcomes(held)
    along = {name: [states_along(of.net, e.frames) for e in held] for name, of in _subjects(asked).items()}
    with torch.no_grad():
        rewards = [np.append(0.0, asked.model.net.rewards(s[1:]).double().cpu().numpy()) for s in along["model"]]
    return [_judge(asked, ends, along, rewards, mean_return(before, gamma), gamma, on_done) for gamma in gammas]


def _subjects(asked: Asked) -> dict[str, Subject]:
    there = {"model": asked.model, "Monte Carlo": asked.monte_carlo, "one step": asked.one_step}
    return {name: subject for name, subject in there.items() if subject is not None}


def _judge(
    asked: Asked,
    ends: Sequence[Outcome],
    along: dict[str, list[Tensor]],
    rewards: Sequence[np.ndarray],
    constant: float,
    gamma: float,
    on_done: Callable[[int], None] | None,
) -> Judgement:
    chosen = starts(ends, gamma, asked.states)
    clusters = [start.episode for start in chosen]
    labels = [ends[start.episode].policy for start in chosen]
    true = [true_returns(one.rewards, gamma, one.terminal) for one in ends]
    truth = np.array([true[i][frame] for i, frame in chosen])
    rows = []
    for name, subject in _subjects(asked).items():
        states = torch.stack([along[name][i][frame] for i, frame in chosen])
        if name == "one step":
            steps = steps_of(gamma) if asked.steps is None else asked.steps
            found = unrolled_values(subject, states, gamma, steps, asked.samples, asked.seed, asked.precision, on_done)
            name = f"one step x {steps}"
        else:
            found = values(subject, states, labels, gamma, asked.samples, asked.seed, asked.precision, on_done)
        error = float(found.error.mean())
        rows.append(judged(name, found.value, truth, clusters, error, found.seconds / len(chosen)))
    told = [true_returns(of, gamma, one.terminal) for of, one in zip(rewards, ends, strict=True)]
    oracle = np.array([told[i][frame] for i, frame in chosen])
    rows.append(judged("oracle reward", oracle, truth, clusters))
    rows.append(judged("mean of the training data", np.full(len(chosen), constant), truth, clusters))
    cut = [gamma ** (len(ends[i].rewards) - 1 - frame) for i, frame in chosen if not ends[i].terminal]
    episodes = set(clusters)
    return Judgement(
        gamma,
        len(chosen),
        len(episodes),
        sum(ends[i].terminal for i in episodes),
        max(cut, default=0.0),
        float(truth.mean()),
        float(truth.std()),
        tuple(rows),
    )


# -- telling --------------------------------------------------------------------------------------


def as_table(judgement: Judgement) -> str:
    """As text."""
    j = judgement
    cells = [["", "bias", "RMSE", "correlation", "s.e.", "CPU s/state"]]
    for row in j.rows:
        error = "-" if row.error is None or math.isnan(row.error) else f"{row.error:.3g}"
        seconds = "-" if row.seconds is None else f"{row.seconds:.2g}"
        cells.append([row.name, *(_told(x) for x in (row.bias, row.rmse, row.correlation)), error, seconds])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"gamma {j.gamma:g}: {j.states} states of {j.episodes} held-out episodes; {correction(j)}",
        f"true returns: mean {j.mean:.4g}, standard deviation {j.std:.4g}",
        *("  ".join(f"{x:<{width}}" for x, width in zip(row, widths, strict=True)).rstrip() for row in cells),
    ]
    return "\n".join(lines)


def correction(j: Judgement) -> str:
    """What was done about the ends of episodes."""
    if j.ended == j.episodes:
        return "all ended for good, and no return is corrected"
    which = "returns are" if not j.ended else f"{j.ended} ended for good, the returns of the others are"
    return f"{which} divided by 1 - gamma^left, at most {100 * j.missing:.2g} % of them beyond an end"


def _told(x: Interval) -> str:
    if math.isnan(x.mean):
        return "-"
    ends = f" [{x.low:.3g}, {x.high:.3g}]" if math.isfinite(x.low + x.high) else ""
    return f"{x.mean:.4g}{ends}"


def as_dict(judgement: Judgement) -> dict[str, Any]:
    """As JSON takes it; null where a number is not known."""

    def ends(x: Interval) -> dict[str, float | None]:
        return {"mean": _known(x.mean), "low": _known(x.low), "high": _known(x.high)}

    rows = {
        row.name: {
            "bias": ends(row.bias),
            "rmse": ends(row.rmse),
            "correlation": ends(row.correlation),
            "error": _known(row.error),
            "cpu_seconds": _known(row.seconds),
        }
        for row in judgement.rows
    }
    return {
        "gamma": judgement.gamma,
        "states": judgement.states,
        "episodes": judgement.episodes,
        "ended": judgement.ended,
        "missing": judgement.missing,
        "true": {"mean": judgement.mean, "std": judgement.std},
        "rows": rows,
    }


def _known(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else x
