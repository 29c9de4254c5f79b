"""All families put to one subject: its answers marked beside the references', as scores from 0 to 1 with intervals.

    run(reference("linear"), quick(), Path("out")) -> Result

Episodes are drawn, and references marked, by worker processes; the subject is asked in this one. What is finished is
written down as it comes and is not asked again.

Sections: suites - asking - drawing ahead - what is written - running - scores - two results - during training.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from maskworld.probes import causality, futures, persistence, planning, surprise
from maskworld.probes.base import (
    VERSION,
    Answer,
    Asked,
    Episode,
    Family,
    Marks,
    Question,
    Ratio,
    Setting,
    Subject,
    as_json,
    check_answer,
    check_surprise,
    of_json,
)
from maskworld.probes.references import drawn as drawn_episode
from maskworld.probes.references import reference
from maskworld.probes.statistics import Interval, holm, permutation_test

# -- suites ---------------------------------------------------------------------------------------

FAMILIES: dict[str, Family] = {
    family.id: family
    for family in sorted(
        (
            *persistence.FAMILIES,
            *causality.FAMILIES,
            *surprise.FAMILIES,
            *futures.FAMILIES,
            *planning.FAMILIES,
        ),
        key=lambda family: family.number,
    )
}
"""All that the suite asks, by id."""

FLOORS, CEILING = ("copy", "shuffled"), "oracle"
SIMPLE = ("linear", "frozen", "amnesia-8")
BESIDE = (CEILING, *FLOORS, *SIMPLE)
"""The references that every subject stands beside: 1 is the ceiling, 0 the better of the floors."""


@dataclass(frozen=True)
class Suite:
    """What is asked: `episodes` of each family. `samples`: answers to each question, where it does not want more."""

    families: tuple[Family, ...] = tuple(FAMILIES.values())
    episodes: int = 20
    setting: Setting = field(default_factory=Setting)
    samples: int = 1

    def __post_init__(self) -> None:
        if not self.families or self.episodes < 1 or self.samples < 1:
            raise ValueError("a suite has a family, an episode and a sample, or more")
        if len({family.id for family in self.families}) < len(self.families):
            raise ValueError("a family is named twice")


def quick(**changes: Any) -> Suite:
    """A first look, 20 episodes a family: half an interval is about .1. `changes` replace fields of the suite."""
    return Suite(**{"episodes": 20, **changes})


def full(**changes: Any) -> Suite:
    """For publication: 200 episodes a family."""
    return Suite(**{"episodes": 200, **changes})


def families_of(ids: Sequence[str]) -> tuple[Family, ...]:
    """The families of these ids, in the suite's order. ValueError for others."""
    for id in ids:
        if id not in FAMILIES:
            close = difflib.get_close_matches(id, FAMILIES, 1, 0.3)
            raise ValueError(
                f"no family is called {id!r}"
                + (f": did you mean {close[0]}?" if close else "")
                + f" There are {', '.join(FAMILIES)}"
            )
    return tuple(family for id, family in FAMILIES.items() if id in ids)


# -- asking ---------------------------------------------------------------------------------------


class _Refused(Exception):
    """The subject failed at a question; says at which episode and how."""


def _ask(subject: Subject, kind: str, asked: Sequence[Asked]) -> list[np.ndarray]:
    """What the subject makes of each question: an answer, or in probes of surprise the surprise of each frame."""
    where = f"{asked[0].family.id}, episode {asked[0].index}"
    watches = kind == "surprise" and subject.surprise is not None
    try:
        given = subject.surprise(asked) if watches and subject.surprise else subject.answer(asked)
        if len(given) != len(asked):
            raise ValueError(f"{len(given)} answers to {len(asked)} questions")
    except Exception as error:  # a subject is anybody's code
        more = f" (one of {len(asked)} questions asked together)" if len(asked) > 1 else ""
        raise _Refused(f"{where}{more}: {_words(error)}") from error
    results = []
    for one, answer in zip(asked, given, strict=True):
        try:
            results.append(check_surprise(one, answer) if watches else check_answer(one, answer))
        except ValueError as error:
            raise _Refused(f"{one.family.id}, episode {one.index}: {error}") from error
    return results


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"


def error_of_answer(asked: Asked, answer: Answer) -> Float[np.ndarray, " t"]:
    """How unexpected each frame was to who answered so: the mean squared error, of values from 0 to 1."""
    seen = asked.question.shown(asked.setting.tier)[asked.question.num_context :]
    apart = (answer.astype(np.float32) - seen) / np.float32(255)
    return (apart**2).mean((0, 2, 3, 4), dtype=np.float64)


def _questions(family: Family, episode: Episode, index: int, suite: Suite) -> list[Asked]:
    return [
        Asked(_sampled(question, suite.samples), family, index, branch, suite.setting)
        for branch, question in enumerate(episode.questions)
    ]


def _sampled(question: Question, samples: int) -> Question:
    return dataclasses.replace(question, num_samples=max(samples, question.num_samples))


class _Told(NamedTuple):
    """A question and its answer, to be looked at."""

    asked: Asked
    answer: np.ndarray


def _marked(family: Family, episode: Episode, asked: Sequence[Asked], given: Sequence[np.ndarray]) -> Marks:
    """The marks of what a subject gave to the questions of an episode."""
    assert family.mark is not None
    if family.kind == "surprise":
        given = [g if g.ndim == 1 else error_of_answer(a, g) for a, g in zip(asked, given, strict=True)]
    return family.mark(episode, given)


def _play(subject: Subject, family: Family, episode: Episode, index: int, suite: Suite) -> tuple[Marks, _Told | None]:
    """A family that asks as it goes; the last question too, for the report."""
    assert family.play is not None
    last: list[_Told] = []
    count = 0

    def ask(questions: Sequence[Question]) -> list[Answer]:
        nonlocal count, last
        answers: list[Answer] = []
        for start in range(0, len(questions), subject.batch):
            some = questions[start : start + subject.batch]
            asked = [Asked(q, family, index, count + i, suite.setting) for i, q in enumerate(some)]
            answers += _ask(subject, family.kind, asked)
            count += len(some)
            last = [_Told(asked[-1], answers[-1])]
        return answers

    marks = family.play(episode, ask)
    return marks, last[0] if last else None


def marks_of(subject: Subject, family: Family, episode: Episode, index: int, suite: Suite) -> Marks:
    """One episode from questions to marks, for a subject that is not asked in batches."""
    if family.kind == "play":
        return _play(subject, family, episode, index, suite)[0]
    asked = _questions(family, episode, index, suite)
    return _marked(family, episode, asked, [_ask(subject, family.kind, [one])[0] for one in asked])


# -- drawing ahead --------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """An episode, and what references made of it."""

    index: int
    episode: Episode
    marks: dict[str, Marks]


class _Wanted(NamedTuple):
    """References (by name) whose marks are wanted at an episode."""

    index: int
    references: tuple[str, ...]


def _draw(
    family: Family, wanted: Sequence[_Wanted], suite: Suite, kept: dict[tuple[str, int], Episode] | None = None
) -> list[_Drawn]:
    """Episodes, and the marks of references; `kept` has those that were drawn before."""
    drawn = []
    for index, names in wanted:
        episode = (kept or {}).get((family.id, index)) or drawn_episode(family, index, suite.setting)
        if kept is not None:
            kept[family.id, index] = episode
        marks = {name: marks_of(reference(name), family, episode, index, suite) for name in names}
        drawn.append(_Drawn(index, episode, marks))
    return drawn


CHUNK = 10  # episodes that a worker draws at a time, neighbours so that they can borrow from each other


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that draw; none for no workers."""
    if workers < 1:
        yield None
        return
    # Never forked from here: a model's threads and its GPU do not survive that.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=_DEAF)
    try:
        yield pool
    except BaseException:  # nobody waits for what is under way
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_DEAF = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers, too: who started them ends them


class _Job(NamedTuple):
    family: Family
    wanted: tuple[_Wanted, ...]


class _Done(NamedTuple):
    """A job and its episodes, or how it went wrong."""

    family: Family
    drawn: list[_Drawn] | BaseException


def _ahead(
    jobs: Sequence[_Job], suite: Suite, workers: int, kept: dict[tuple[str, int], Episode] | None
) -> Iterator[_Done]:
    """The jobs' results in their order; workers are always a few jobs ahead."""
    with _pool(workers) as pool:
        if pool is None:
            for job in jobs:
                try:
                    yield _Done(job.family, _draw(job.family, job.wanted, suite, kept))
                except Exception as error:  # told where it is counted
                    yield _Done(job.family, error)
            return
        waiting = iter(jobs)
        under_way: deque[tuple[Family, Future[list[_Drawn]]]] = deque()
        while True:
            while len(under_way) < 2 * workers + 2 and (job := next(waiting, None)) is not None:
                alone = dataclasses.replace(suite, families=(job.family,))
                under_way.append((job.family, pool.submit(_draw, job.family, job.wanted, alone)))
            if not under_way:
                return
            family, future = under_way.popleft()
            error = future.exception()
            yield _Done(family, future.result() if error is None else error)


# -- what is written ------------------------------------------------------------------------------

SCHEMA = "maskworld.probe/1"


def setting_as_dict(setting: Setting) -> dict[str, str]:
    """The setting without its salt, of which only a digest is told."""
    salt = hashlib.sha256(setting.salt.encode()).hexdigest()[:16] if setting.salt else ""
    return {"split": setting.split, "tier": setting.tier, "shift": setting.shift, "salt": salt}


@dataclass
class _Ledger:
    """Marks that are known, by (family, index, reference or subject), and the file to which new ones are added."""

    known: dict[tuple[str, int, str], Marks] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def opened(cls, path: Path, head: Mapping[str, Any]) -> _Ledger:
        """What a file holds. A last line that was not finished is dropped; another head is refused."""
        ledger = cls(path=path)
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            _write(path, (json.dumps(head) + "\n").encode())
            return ledger
        if lines[0] != head:
            differ = [name for name in {**lines[0], **head} if lines[0].get(name) != head.get(name)]
            was = ", ".join(f"{name} {lines[0].get(name)}, not {head.get(name)}" for name in differ)
            raise ValueError(f"{path.parent} holds another run ({was}): choose another folder")
        if len(whole) < len(text):
            _write(path, whole)
        for line in lines[1:]:
            ledger.known[line["family"], line["index"], line["who"]] = of_json(line["marks"])
        return ledger

    def add(self, family: str, index: int, who: str, marks: Marks) -> None:
        self.known[family, index, who] = marks
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"family": family, "index": index, "who": who, "marks": as_json(marks)}) + "\n")


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    os.replace(beside, path)


def _rate(marks: Marks) -> float | None:
    """The error of one episode."""
    return marks.error[0] / marks.error[1] if marks.error[1] > 0 else None


@dataclass
class _Films:
    """The best and the worst episode of each family, as pictures."""

    folder: Path | None

    def ends(self, index: int, marks: Mapping[int, Marks]) -> list[str]:
        """Which of these an episode is: best, worst, both or none."""
        rates = {i: rate for i, m in marks.items() if (rate := _rate(m)) is not None}
        if self.folder is None or index not in rates:
            return []
        ends = {"best": min(rates, key=lambda i: (rates[i], i)), "worst": max(rates, key=lambda i: (rates[i], -i))}
        return [which for which, end in ends.items() if end == index]

    def keep(self, family: Family, index: int, which: Sequence[str], marks: Marks, told: Sequence[_Told]) -> None:
        """Of the questions the one whose answer is furthest from the truth. Without answers: only what was seen."""
        if not which or not told:
            return
        assert self.folder is not None
        tier = told[0].asked.setting.tier
        films = [one.asked.question.truth(tier) for one in told]
        away = [
            float(np.abs(one.answer[0].astype(np.int16) - truth).mean()) if one.answer.ndim == 5 else 0.0
            for one, truth in zip(told, films, strict=True)
        ]
        place = int(np.argmax(away))
        asked, answer = told[place]
        arrays: dict[str, Any] = {"truth": films[place], "prompt": asked.question.prompt(tier)}
        if asked.question.observed is not None:
            arrays["observed"] = asked.question.shown(tier)[asked.question.num_context :]
        arrays["prediction" if answer.ndim == 5 else "surprise"] = answer[0] if answer.ndim == 5 else answer
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in which:
            beside = self.folder / f".{family.id}-{name}.part.npz"
            np.savez_compressed(
                beside, index=index, branch=asked.branch, error=marks.error[0] / marks.error[1], **arrays
            )
            os.replace(beside, self.folder / f"{family.id}-{name}.npz")


# -- running --------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """How far a run is, in episodes. `left` is in seconds; None before anything is finished."""

    family: str
    done: int
    total: int
    seconds: float
    left: float | None


def run(
    subject: Subject,
    suite: Suite,
    out: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    workers: int = 2,
) -> Result:
    """Put the suite to a subject.

    A family at which it fails is "n/a" with the reason; the others go on. What a reference answers is worked out by
    the workers, which import the families: a script that runs this needs its `if __name__ == "__main__"`.

    Args:
        subject: who.
        suite: what.
        out: where the marks (*.jsonl), films of the best and the worst episodes and scores.json go. A run that was
            broken off goes on there. ValueError where it holds the run of another subject or setting.
        on_progress: told after every episode.
        workers: processes that draw; 0 to do it all in this one.
    """
    ours, beside = _Ledger(), _Ledger()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        head = {"schema": SCHEMA, "version": VERSION, "setting": setting_as_dict(suite.setting)}
        ours = _Ledger.opened(out / "episodes.jsonl", {**head, "subject": subject.name, "samples": suite.samples})
        beside = _Ledger.opened(out / "references.jsonl", head)
    running = _Running(subject, suite, ours, beside, _Films(out / "films" if out else None), on_progress)
    result = running.result(workers)
    if out is not None:
        _write(out / "scores.json", (json.dumps(as_dict(result), allow_nan=False) + "\n").encode())
    return result


@dataclass
class _Running:
    """One run: who is asked what, what is known of it, and who is told."""

    subject: Subject
    suite: Suite
    ours: _Ledger
    beside: _Ledger
    films: _Films
    on_progress: Callable[[Progress], None] | None = None
    kept: dict[tuple[str, int], Episode] | None = None
    done: int = 0
    total: int = 0
    fresh: int = 0  # of those done, the ones that were not known before
    start: float = field(default_factory=time.monotonic)

    def result(self, workers: int) -> Result:
        suite = self.suite
        reasons = {f.id: "it takes no actions" for f in suite.families if f.acts and not self.subject.actions}
        failed: dict[str, str] = {}
        able = [family for family in suite.families if family.id not in reasons]
        self.total = len(able) * suite.episodes
        for family in able:
            for _ in self.marks(family):
                self.tell(family, fresh=False)
        stream = _ahead(self.jobs(able), suite, workers, self.kept)
        for _, chunks in itertools.groupby(stream, key=lambda done: done.family.id):
            self.ask(chunks, failed)
        scored = [
            _scored(family, suite, self.marks(family), self.beside, reasons.get(family.id), failed.get(family.id))
            for family in suite.families
        ]
        return _result(self.subject.name, suite, scored)

    @property
    def whom(self) -> str | None:
        """The name of the reference that the subject is, if it is one."""
        name = self.subject.name
        return name.removeprefix("reference:") if name.startswith("reference:") else None

    def marks(self, family: Family) -> dict[int, Marks]:
        """The subject's, by index."""
        keys = {index: (family.id, index, self.subject.name) for index in range(self.suite.episodes)}
        return {index: self.ours.known[key] for index, key in keys.items() if key in self.ours.known}

    def jobs(self, families: Sequence[Family]) -> list[_Job]:
        """What is not known yet."""
        jobs = []
        for family in families:
            mine, wanted = self.marks(family), []
            for index in range(self.suite.episodes):
                names = [name for name in BESIDE if (family.id, index, name) not in self.beside.known]
                if self.whom is not None and self.whom not in BESIDE and index not in mine:
                    names.append(self.whom)
                if names or index not in mine:
                    wanted.append(_Wanted(index, tuple(names)))
            jobs += [_Job(family, tuple(wanted[i : i + CHUNK])) for i in range(0, len(wanted), CHUNK)]
        return jobs

    def ask(self, chunks: Iterable[_Done], failed: dict[str, str]) -> None:
        """Everything of one family. Where it fails, what references made of the rest is still written down."""
        first, rest = _peek(chunks)
        family = first.family
        asking = _Asking(self.subject, family, self.suite, self.finish)
        for step in itertools.chain(rest, [None]):
            try:
                if step is None:  # all are drawn
                    if family.id not in failed:
                        asking.flush()
                        self.film_ends(family)
                elif isinstance(step.drawn, BaseException):
                    raise step.drawn
                else:
                    self.take(family, step.drawn, asking if family.id not in failed else None)
            except Exception as error:
                if family.id not in failed:
                    ours = "" if isinstance(error, _Refused) else f"{family.id}: the suite itself failed: "
                    failed[family.id] = ours + (str(error) if isinstance(error, _Refused) else _words(error))
                    self.total -= self.suite.episodes - len(self.marks(family))

    def take(self, family: Family, drawn: Sequence[_Drawn], asking: _Asking | None) -> None:
        """Write down what references made of episodes, and ask the subject."""
        mine = self.marks(family)
        for index, episode, marks in drawn:
            for name in BESIDE:
                if name in marks:
                    self.beside.add(family.id, index, name, marks[name])
            if index in mine or asking is None:
                continue
            if self.whom is None:
                asking.put(index, episode)
            else:
                given = marks.get(self.whom) or self.beside.known[family.id, index, self.whom]
                self.finish(family, index, given, ())

    def finish(self, family: Family, index: int, marks: Marks, told: Sequence[_Told]) -> None:
        which = self.films.ends(index, {**self.marks(family), index: marks}) if told else []
        self.films.keep(family, index, which, marks, told)
        self.ours.add(family.id, index, self.subject.name, marks)
        self.tell(family, fresh=True)

    def tell(self, family: Family, fresh: bool) -> None:
        self.done, self.fresh = self.done + 1, self.fresh + fresh
        if self.on_progress is not None:
            spent = time.monotonic() - self.start
            left = spent / self.fresh * (self.total - self.done) if self.fresh else None
            self.on_progress(Progress(family.id, self.done, self.total, spent, left))

    def film_ends(self, family: Family) -> None:
        """The films of a reference, which answered elsewhere."""
        mine = self.marks(family)
        for index in mine if self.whom is not None and self.films.folder is not None else ():
            if which := self.films.ends(index, mine):
                ((_, episode, _),) = _draw(family, [_Wanted(index, ())], self.suite)
                seen: list[_Told] = []

                def see(_: Family, __: int, ___: Marks, told: Sequence[_Told], to: list[_Told] = seen) -> None:
                    to.extend(told)

                once = _Asking(self.subject, family, self.suite, see)
                once.put(index, episode)
                once.flush()
                self.films.keep(family, index, which, mine[index], seen)


def _peek(chunks: Iterable[_Done]) -> tuple[_Done, Iterator[_Done]]:
    """The first, and all of them."""
    rest = iter(chunks)
    first = next(rest)
    return first, itertools.chain([first], rest)


Finish = Callable[[Family, int, Marks, Sequence[_Told]], None]


@dataclass
class _Asking:
    """Puts questions of one shape together, over episodes, and finishes an episode when all of its are answered."""

    subject: Subject
    family: Family
    suite: Suite
    finish: Finish
    waiting: dict[tuple[int, int, int], list[Asked]] = field(default_factory=dict)
    open: dict[int, tuple[Episode, list[_Told | None]]] = field(default_factory=dict)

    def put(self, index: int, episode: Episode) -> None:
        if self.family.kind == "play":
            marks, last = _play(self.subject, self.family, episode, index, self.suite)
            self.finish(self.family, index, marks, [last] if last else [])
            return
        self.open[index] = (episode, [None] * len(episode.questions))
        for one in _questions(self.family, episode, index, self.suite):
            question = one.question
            shape = (question.num_context, question.horizon, question.num_samples)
            batch = self.waiting.setdefault(shape, [])
            batch.append(one)
            if len(batch) >= self.subject.batch:
                self.send(shape)

    def flush(self) -> None:
        for shape in list(self.waiting):
            self.send(shape)

    def send(self, shape: tuple[int, int, int]) -> None:
        batch = self.waiting.pop(shape)
        for one, answer in zip(batch, _ask(self.subject, self.family.kind, batch), strict=True):
            episode, told = self.open[one.index]
            told[one.branch] = _Told(one, answer)
            whole = [t for t in told if t is not None]
            if len(whole) == len(told):
                del self.open[one.index]
                marks = _marked(self.family, episode, [t.asked for t in whole], [t.answer for t in whole])
                self.finish(self.family, one.index, marks, whole)


# -- scores ---------------------------------------------------------------------------------------

RESAMPLES = 2000
PERFECT = 0.99  # a simple reference with this score leaves nothing to be better by


@dataclass(frozen=True)
class Point:
    """One place of a curve."""

    x: float
    y: Interval


@dataclass(frozen=True)
class Beside:
    """What a reference makes of the same episodes."""

    error: float
    score: float
    numbers: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Score:
    """A family. All but `n` and the marks are None or empty where it is n/a, and `reason` says why.

    error        the headline: lower is better
    unclipped    (floor - error) / (floor - ceiling): 1 for the oracle, 0 for the better of copy and shuffled
    score        the same, clipped to 0..1
    best         the best of the simple references (linear, frozen, amnesia-8) that are not perfect here
    over_best    (its error - error) / (its error - ceiling): above 0 is better than it
    marks        error of each episode, for the subject and for the references
    failed       whether the reason is something that went wrong
    """

    family: Family
    n: int
    marks: Mapping[str, Mapping[int, Ratio]]
    error: Interval | None = None
    score: Interval | None = None
    unclipped: Interval | None = None
    over_best: Interval | None = None
    floor: float | None = None
    ceiling: float | None = None
    best: str | None = None
    beside: Mapping[str, Beside] = field(default_factory=dict)
    numbers: Mapping[str, Interval] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    reason: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Index:
    """The mean of the scores of an axis: over `families` of `of` that were asked for; the rest is n/a."""

    score: Interval | None
    families: int
    of: int


@dataclass(frozen=True)
class Result:
    """What a subject scored. `scores` has every family that was asked for, in order."""

    subject: str
    suite: Suite
    scores: Mapping[str, Score]
    persistence: Index
    causality: Index

    @property
    def failed(self) -> dict[str, str]:
        """Families where something went wrong, and what; not those that the subject cannot be asked."""
        return {id: score.reason or "" for id, score in self.scores.items() if score.failed}


class _Scored(NamedTuple):
    score: Score
    drawn: Float[np.ndarray, " r"] | None  # the clipped score, at each resampling of the episodes


def _counts(n: int, seed: int) -> Float[np.ndarray, "r n"]:
    """How often each of n episodes counts: once, and then as often as it is drawn."""
    drawn = np.random.default_rng([VERSION, seed]).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return np.concatenate([np.ones((1, n)), drawn])


def _ratio(counts: Float[np.ndarray, "r n"], pairs: Iterable[Any]) -> Float[np.ndarray, " r"]:
    """The ratio of the sums of (numerator, denominator), for each row of counts; NaN where nothing was measured."""
    top, bottom = np.array(list(pairs), dtype=np.float64).reshape(-1, 2).T
    num, den = (counts * top).sum(1), (counts * bottom).sum(1)
    return np.divide(num, den, out=np.full(len(num), np.nan), where=den > 0)


def _interval(values: Float[np.ndarray, " r"], n: int) -> Interval:
    """Of the value (the first) and its resamples."""
    drawn = values[1:][np.isfinite(values[1:])]
    if n < 2 or not len(drawn):
        return Interval(float(values[0]), math.nan, math.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), n)


def _scored(
    family: Family, suite: Suite, mine: Mapping[int, Marks], beside: _Ledger, reason: str | None, failed: str | None
) -> _Scored:
    all_marks = {name: _of(beside, family, suite, name) for name in BESIDE}
    common = [index for index in mine if all(index in marks for marks in all_marks.values())]
    known = {"": mine, **all_marks}
    errors = {name: {index: marks[index].error for index in common} for name, marks in known.items()}
    score = Score(family, len(common), errors)
    if reason or failed:
        return _Scored(dataclasses.replace(score, reason=failed or reason, failed=failed is not None), None)
    if not common:
        return _Scored(dataclasses.replace(score, reason="no episode was asked"), None)
    counts = _counts(len(common), family.number)
    error = {name: _ratio(counts, pairs.values()) for name, pairs in errors.items()}
    floor = np.minimum(*(error[name] for name in FLOORS))
    ceiling, subject = error[CEILING], error[""]
    if not np.isfinite(subject[0]) or not floor[0] > ceiling[0]:
        why = "nothing was measured" if not np.isfinite(subject[0]) else "the oracle is no better than the floor"
        return _Scored(dataclasses.replace(score, reason=f"{why} in {len(common)} episodes"), None)
    unclipped = _share(floor, subject, ceiling)
    n, wrong = len(common), [name for name in SIMPLE if _share(floor, error[name], ceiling)[0] < PERFECT]
    simple = np.min([error[name] for name in wrong], axis=0) if wrong else None
    score = dataclasses.replace(
        score,
        error=_interval(subject, n),
        score=_interval(unclipped.clip(0, 1), n),
        unclipped=_interval(unclipped, n),
        over_best=None if simple is None else _interval(_share(simple, subject, ceiling), n),
        floor=float(floor[0]),
        ceiling=float(ceiling[0]),
        best=min(wrong, key=lambda name: error[name][0], default=None),
        beside={
            name: Beside(
                float(error[name][0]),
                float(_share(floor, error[name], ceiling)[0]),
                {which: y.mean for which, y in _numbers(all_marks[name], common, counts[:1]).items()},
                {c: [(p.x, p.y.mean) for p in points] for c, points in _curves(all_marks[name], common, None).items()},
            )
            for name in BESIDE
        },
        numbers=_numbers(mine, common, counts),
        curves=_curves(mine, common, family.number),
    )
    return _Scored(score, unclipped.clip(0, 1))


def _share(
    zero: Float[np.ndarray, " r"], value: Float[np.ndarray, " r"], one: Float[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """Where a value lies from zero to one; NaN where these are the same."""
    return np.divide(zero - value, zero - one, out=np.full(len(zero), np.nan), where=zero > one)


def _of(beside: _Ledger, family: Family, suite: Suite, name: str) -> dict[int, Marks]:
    keys = {index: (family.id, index, name) for index in range(suite.episodes)}
    return {index: beside.known[key] for index, key in keys.items() if key in beside.known}


def _numbers(marks: Mapping[int, Marks], indices: Sequence[int], counts: np.ndarray) -> dict[str, Interval]:
    names = dict.fromkeys(name for index in indices for name in marks[index].numbers)
    found = {}
    for name in names:
        pairs = [marks[index].numbers.get(name, (0.0, 0.0)) for index in indices]
        values = _ratio(counts, pairs)
        if np.isfinite(values[0]):
            found[name] = _interval(values, sum(den > 0 for _, den in pairs) if len(counts) > 1 else 1)
    return found


def _curves(marks: Mapping[int, Marks], indices: Sequence[int], seed: int | None) -> dict[str, list[Point]]:
    """The mean at each x; of an episode with several points there, of their mean counts as often as they are.

    Without a seed there are no intervals.
    """
    sums: dict[str, dict[float, dict[int, list[float]]]] = {}
    for index in indices:
        for name, points in marks[index].points.items():
            for x, y in points:
                total = sums.setdefault(name, {}).setdefault(x, {}).setdefault(index, [0.0, 0.0])
                total[0] += y
                total[1] += 1
    curves = {}
    for name, at in sums.items():
        curves[name] = []
        for x in sorted(at):
            pairs = [(a, b) for a, b in at[x].values()]
            counts = np.ones((1, len(pairs))) if seed is None or len(pairs) < 2 else _counts(len(pairs), seed)
            curves[name].append(Point(float(x), _interval(_ratio(counts, pairs), len(pairs))))
    return curves


def _result(subject: str, suite: Suite, scored: Sequence[_Scored]) -> Result:
    return Result(
        subject,
        suite,
        {one.score.family.id: one.score for one in scored},
        *(_index([one for one in scored if one.score.family.axis == axis]) for axis in ("persistence", "causality")),
    )


def _index(scored: Sequence[_Scored]) -> Index:
    drawn = [one.drawn for one in scored if one.drawn is not None]
    if not drawn:
        return Index(None, 0, len(scored))
    n = min(one.score.n for one in scored if one.drawn is not None)
    return Index(_interval(np.mean(drawn, axis=0), n), len(drawn), len(scored))


def as_dict(result: Result) -> dict[str, Any]:
    """All of it for JSON: numbers that are not there are None. The salt is not told."""
    suite = result.suite
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "subject": result.subject,
        "setting": setting_as_dict(suite.setting),
        "episodes": suite.episodes,
        "samples": suite.samples,
        **{
            axis: None if (index := getattr(result, axis)).score is None else index.score.mean
            for axis in ("persistence", "causality")
        },
        "indices": {
            axis: {"score": _plain(index.score), "families": index.families, "of": index.of}
            for axis, index in (("persistence", result.persistence), ("causality", result.causality))
        },
        "families": {id: _score_as_dict(score) for id, score in result.scores.items()},
    }


def _score_as_dict(score: Score) -> dict[str, Any]:
    family = score.family
    return {
        "title": family.title,
        "question": family.question,
        "axis": family.axis,
        "n": score.n,
        **{name: _plain(getattr(score, name)) for name in ("score", "unclipped", "over_best", "error")},
        **{name: getattr(score, name) for name in ("floor", "ceiling", "best", "reason", "failed")},
        "numbers": {name: _plain(value) for name, value in score.numbers.items()},
        "curves": {
            name: {
                "axes": list(family.curves.get(name, ("", ""))),
                "points": [{"x": point.x, **(_plain(point.y) or {})} for point in points],
            }
            for name, points in score.curves.items()
        },
        "references": {
            name: {
                "error": one.error,
                "score": one.score,
                "numbers": dict(one.numbers),
                "curves": {curve: [list(point) for point in points] for curve, points in one.curves.items()},
            }
            for name, one in score.beside.items()
        },
        "marks": {
            name or "subject": [[index, *error] for index, error in errors.items()]
            for name, errors in score.marks.items()
        },
    }


def _plain(value: Interval | None) -> dict[str, Any] | None:
    if value is None:
        return None
    ends = {"mean": value.mean, "low": value.low, "high": value.high}
    return {**{name: end if math.isfinite(end) else None for name, end in ends.items()}, "n": value.n}


# -- two results ----------------------------------------------------------------------------------


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two results (as `as_dict` gives them, or scores.json) on the episodes that both have.

    For each family the difference of the unclipped scores, a - b, with an interval: episodes are drawn again, the
    same for both. p is of the permutation test that exchanges the two within episodes, adjusted for the number of
    families (Holm). Raises ValueError where they are not of one version and setting.
    """
    for name in ("schema", "version", "setting"):
        if a[name] != b[name]:
            raise ValueError(f"their {name} differs, {a[name]} and {b[name]}: they cannot be compared")
    rows: dict[str, dict[str, Any]] = {}
    for id, one in a["families"].items():
        if (other := b["families"].get(id)) is None:
            continue
        absent = [f"{x['subject']}: {f['reason']}" for x, f in ((a, one), (b, other)) if f["reason"]]
        both = {index for index, *_ in one["marks"]["subject"]} & {index for index, *_ in other["marks"]["subject"]}
        if absent or not both:
            rows[id] = {"n": 0, "reason": "; ".join(absent) or "no episode in common", "axis": one["axis"]}
        else:
            rows[id] = {"axis": one["axis"], **_compared(one["marks"], other["marks"], both)}
    if not rows:
        raise ValueError("they have no family in common")
    adjusted = holm({id: row["p"] for id, row in rows.items() if "p" in row})
    for id, p in adjusted.items():
        rows[id]["p_holm"] = p
    indices = {}
    for axis in ("persistence", "causality"):
        drawn = [row["drawn"] for row in rows.values() if row["axis"] == axis and "drawn" in row]
        least = min((row["n"] for row in rows.values() if row["axis"] == axis and "drawn" in row), default=0)
        indices[axis] = {
            "difference": _plain(_interval(np.mean(drawn, axis=0), least)) if drawn else None,
            "families": len(drawn),
        }
    families = {id: {name: value for name, value in row.items() if name != "drawn"} for id, row in rows.items()}
    return {"a": a["subject"], "b": b["subject"], **indices, "families": families}


def _compared(one: Mapping[str, Any], other: Mapping[str, Any], both: set[int]) -> dict[str, Any]:
    """One family: the difference, its resamples, p."""

    def pairs(marks: Sequence[Any]) -> Float[np.ndarray, "n 2"]:
        held = {index: (num, den) for index, num, den in marks}
        return np.array([held[index] for index in sorted(both)], dtype=np.float64)

    a, b = pairs(one["subject"]), pairs(other["subject"])
    n = len(both)
    counts = _counts(n, 0)
    errors = {name: _ratio(counts, pairs(one[name])) for name in (*FLOORS, CEILING)}
    floor = np.minimum(*(errors[name] for name in FLOORS))
    first, second = (_share(floor, _ratio(counts, x), errors[CEILING]) for x in (a, b))
    # Exchanging two equal errors changes nothing: how far each episode is off the mean of both is what is exchanged.
    total = a + b
    mean = total[:, 0].sum() / total[:, 1].sum()
    p = permutation_test(a[:, 0] - mean * a[:, 1], b[:, 0] - mean * b[:, 1])
    return {
        "n": n,
        "a": float(first[0]),
        "b": float(second[0]),
        "difference": _plain(_interval(first - second, n)),
        "p": p,
        "drawn": first - second,
    }


# -- during training ------------------------------------------------------------------------------


@dataclass
class Monitor:
    """A small suite asked again and again; episodes and references are worked out once, at the first call."""

    suite: Suite
    _beside: _Ledger = field(default_factory=_Ledger, repr=False)
    _episodes: dict[tuple[str, int], Episode] = field(default_factory=dict, repr=False)

    def __call__(self, subject: Subject) -> dict[str, float]:
        """The score of each family and of the axes. NaN where it failed; what it cannot be asked is not there."""
        running = _Running(subject, self.suite, _Ledger(), self._beside, _Films(None), kept=self._episodes)
        result = running.result(workers=0)
        found = {id: score.score.mean for id, score in result.scores.items() if score.score is not None}
        found |= {id: math.nan for id in result.failed}
        for axis, index in (("persistence", result.persistence), ("causality", result.causality)):
            if index.score is not None:
                found[axis] = index.score.mean
        return found
