"""The evaluation of one fill on a set of clips: samples beside the truth, beside baselines, with intervals.

    report = evaluate(world.fill, clips, Task(past=5, hidden=10), num_clips=256, extractor=random3d())
    print(as_table(report))

The fill is a black box that sees what a camera saw: the hidden frames are blanked before it is asked.

Sections: tasks - evaluation - report.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from maskworld.clip import Clip, collate, span
from maskworld.masks import on_pixels, past_and_future
from maskworld.noise import Rng
from maskworld.probes.quality import (
    MCVD,
    PSNR_CEILING,
    Extractor,
    Protocol,
    extract,
    frechet,
    kernel_mmd,
    mae,
    mse,
    psnr,
    psnr_frames,
    ssim,
)
from maskworld.probes.references import copy_known, linear_blend
from maskworld.probes.statistics import Interval, difference, interval, interval_of_sets, intervals
from maskworld.verbs import Fill, Known

# -- tasks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """`past` known frames, then `hidden` ones to fill in, then `future` known ones."""

    past: int
    hidden: int
    future: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.past < 0 or self.future < 0:
            raise ValueError(f"a task hides at least one frame and knows none or more, not {self}")

    @property
    def verb(self) -> str:
        """prediction, lookback, interpolation or generation."""
        if self.past and self.future:
            return "interpolation"
        return "prediction" if self.past else "lookback" if self.future else "generation"

    @property
    def frames(self) -> int:
        return self.past + self.hidden + self.future

    @property
    def hidden_frames(self) -> slice:
        return slice(self.past, self.past + self.hidden)

    def known(self, b: int = 1, v: int = 1) -> Known:
        return past_and_future(self.past, self.hidden, self.future, b, v)


def baselines(task: Task) -> dict[str, Fill]:
    """The fills that a table shows beside the model: what needs no model."""
    if task.verb == "generation":
        return {}
    return {"copy": copy_known} | ({"blend": linear_blend} if task.verb == "interpolation" else {})


def blanked(clip: Clip, known: Known) -> Clip:
    """The clip with everything that a camera saw of the unknown set to 0, so that it cannot leak."""
    h, w = clip.frames.shape[-2:]
    given = on_pixels(known, h, w)
    frames = torch.where(given[:, :, :, None], clip.frames, torch.zeros_like(clip.frames))
    depth = None if clip.depth is None else torch.where(given, clip.depth, torch.zeros_like(clip.depth))
    return dataclasses.replace(clip, frames=frames, depth=depth)


# -- evaluation -----------------------------------------------------------------------------------

METRICS = ("psnr", "ssim", "mse", "mae")
"""The first two are better when higher, the others when lower."""


@dataclass(frozen=True)
class Distance:
    """How far the set of filled clips is from the set of real ones, known frames included in both.

    pooled        Frechet distance of all samples together; its interval is by clip
    trajectories  of the 1st sample of every clip, of the 2nd, ...; their mean is what MCVD prints as FVD
    real_halves   of every other real clip from the rest, and
    filled_halves of the fillings of the rest from the same: like for like, a perfect model gets equal numbers
                  (a Frechet distance grows as clips get fewer; against the halves its size can be judged)
    mmd           squared kernel distance of all samples, unbiased: near 0 is good at any number of clips
    """

    extractor: str
    num_clips: int
    num_frames: int
    pooled: Interval
    trajectories: tuple[float, ...]
    real_halves: float | None
    filled_halves: float | None
    mmd: float

    @property
    def mean_of_trajectories(self) -> float:
        return sum(self.trajectories) / len(self.trajectories)


@dataclass(frozen=True)
class Report:
    """What `evaluate` found. Rows are ways to answer:

    best   of the samples, the best for each metric by itself (as MCVD; more samples always look better)
    one    a single sample: the mean over the samples of their scores
    mean   the mean of the samples' frames, scored once
    copy   the nearest known frame
    blend  between the two known neighbours (interpolation)

    With one sample there is only `one`; where nothing is known there is no truth to score, and no row.
    """

    task: Task
    protocol: Protocol
    seed: int
    samples: int
    num_clips: int
    asked: int
    size: tuple[int, int, int, int]  # views, channels, height, width
    scores: dict[str, dict[str, Interval]]  # row -> metric -> over clips
    curves: dict[str, list[Interval]]  # row -> PSNR of each hidden frame; of `best`, of the sample best as a whole
    gains: dict[str, dict[str, Interval]]  # row -> baseline -> PSNR above it, clip by clip
    items: dict[str, dict[str, Float[np.ndarray, " n"]]]  # row -> metric -> of each clip, for paired tests
    distance: Distance | None
    filled_frames: int  # all calls of the fill together, views counted
    wall_seconds: float  # of these calls alone
    cpu_seconds: float

    @property
    def partial(self) -> bool:
        """It was interrupted: the numbers are of the first `num_clips` alone."""
        return self.num_clips < self.asked

    @property
    def frames_per_second(self) -> float:
        """Frames filled in per second of wall time."""
        return self.filled_frames / self.wall_seconds


@dataclass(frozen=True)
class _Scored:
    """One clip, done: row -> metric -> value, row -> PSNR of each frame, features real and filled."""

    scores: dict[str, dict[str, float]]
    curves: dict[str, np.ndarray]
    real: np.ndarray | None  # v d
    fake: np.ndarray | None  # k v d


def evaluate(
    fill: Fill,
    clips: Callable[[int], Clip],
    task: Task,
    num_clips: int = 256,
    samples: int = 10,
    protocol: Protocol = MCVD,
    extractor: Extractor | None = None,
    batch: int = 16,
    cluster: Callable[[int], Hashable] | None = None,
    resamples: int = 2000,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Report:
    """Fill in each clip `samples` times and hold it against the truth.

    `clips(i)` gives the i-th clip, a batch of one; longer ones are cut to the task's first frames. Sample j
    of clip i is drawn from Rng.of(seed, i, j), whatever the `batch` (rows of one call of the fill). Several
    views count equally. `cluster(i)` names what clips share (their video, say), for the intervals.
    `progress(done, all)` is called after each clip. Ctrl-C gives the report of the clips done by then, marked
    partial, if there are any.

    Raises ValueError for clips that are too short, small or few for what is asked, and for a fill that
    changes what it was given or returns something else than finite frames.
    """
    if num_clips < 1 or samples < 1 or batch < 1:
        raise ValueError(f"at least one clip, sample and row: not {num_clips}, {samples} and {batch}")
    if extractor and task.frames < extractor.min_frames:
        raise ValueError(f"{extractor.name} looks at {extractor.min_frames} frames or more, the task has {task.frames}")
    if extractor and num_clips < 2:
        raise ValueError("a distance between sets wants at least two clips")
    if task.verb == "generation" and not extractor:
        raise ValueError("generation has no truth to be held against: it wants an extractor")

    truths: dict[int, Clip] = {}  # clips that are being filled in
    fills: dict[int, list[Tensor]] = {}
    done: list[_Scored] = []
    size: tuple[int, int, int, int] | None = None
    filled_frames, wall, cpu = 0, 0.0, 0.0
    try:
        for start in range(0, num_clips * samples, batch):
            rows = [divmod(row, samples) for row in range(start, min(start + batch, num_clips * samples))]
            for i in sorted({i for i, _ in rows} - truths.keys()):
                truths[i], fills[i] = _clip(clips, i, task), []
                _, v, _, c, h, w = truths[i].shape
                size = size or (v, c, h, w)
                if size != (v, c, h, w):
                    raise ValueError(f"clip {i} has views, channels, height and width of {(v, c, h, w)}, not {size}")
            assert size is not None
            known = task.known(len(rows), size[0])
            given = blanked(collate([truths[i] for i, _ in rows]), known)
            rng = Rng([Rng.of(seed, i, j).generators[0] for i, j in rows])
            clocks = time.perf_counter(), time.process_time()
            with torch.no_grad():
                filled = fill(given, known, rng)
                frames = _checked(filled, given, known)
            wall, cpu = wall + time.perf_counter() - clocks[0], cpu + time.process_time() - clocks[1]
            filled_frames += len(rows) * size[0] * task.hidden
            for (i, _), row in zip(rows, frames, strict=True):
                fills[i].append(row)
            for i in [i for i, rows_of_i in fills.items() if len(rows_of_i) == samples]:
                done.append(_score(truths.pop(i), torch.stack(fills.pop(i)), task, protocol, extractor))
                if progress:
                    progress(len(done), num_clips)
    except KeyboardInterrupt:
        if not done:
            raise
    assert size is not None and done
    clusters = [cluster(i) for i in range(len(done))] if cluster else None
    names = [name for name in ("best", "one", "mean", "copy", "blend") if name in done[0].scores]
    items = {name: {m: np.array([one.scores[name][m] for one in done]) for m in METRICS} for name in names}
    plain = list(baselines(task))
    return Report(
        task=task,
        protocol=protocol,
        seed=seed,
        samples=samples,
        num_clips=len(done),
        asked=num_clips,
        size=size,
        scores={
            name: {m: interval(values, clusters, resamples=resamples) for m, values in items[name].items()}
            for name in names
        },
        curves={
            name: intervals(np.stack([one.curves[name] for one in done]), clusters, resamples=resamples)
            for name in names
        },
        gains={
            name: {
                base: difference(items[name]["psnr"], items[base]["psnr"], clusters, resamples=resamples)
                for base in plain
            }
            for name in names
            if name not in plain
        },
        items=items,
        distance=_distance(done, extractor, task) if extractor and len(done) > 1 else None,
        filled_frames=filled_frames,
        wall_seconds=wall,
        cpu_seconds=cpu,
    )


def _clip(clips: Callable[[int], Clip], i: int, task: Task) -> Clip:
    clip = clips(i)
    b, _, t, _, _, _ = clip.shape
    if b != 1:
        raise ValueError(f"clip {i} is a batch of {b}; clips(i) gives one")
    if t < task.frames:
        raise ValueError(f"clip {i} has {t} frames; the task wants {task.frames}")
    if not clip.frames.isfinite().all():
        raise ValueError(f"clip {i} has pixels that are not finite")
    return span(clip, 0, task.frames)


def _checked(filled: Clip, given: Clip, known: Known) -> Float[Tensor, "b v t c h w"]:
    """The filled frames, on the CPU, which keep the first law. A GPU's work is waited for here."""
    frames = filled.frames.to(given.frames.device)
    if frames.shape != given.frames.shape:
        raise ValueError(f"the fill made {tuple(frames.shape)} of frames of {tuple(given.frames.shape)}")
    if not frames.isfinite().all():
        raise ValueError("the fill made pixels that are not finite (broken weights?)")
    seen = known.flatten(-2).all(-1)
    if not torch.equal(frames[seen], given.frames[seen]):
        raise ValueError("the fill changed frames that were known")
    return frames


def _score(
    truth: Clip,
    fills: Float[Tensor, "k v t c h w"],
    task: Task,
    protocol: Protocol,
    extractor: Extractor | None,
) -> _Scored:
    known = task.known(1, truth.shape[1])
    scores: dict[str, dict[str, float]] = {}
    curves: dict[str, np.ndarray] = {}
    if task.verb != "generation":
        hidden = task.hidden_frames
        table, curve = _against(fills[:, :, hidden], truth.frames[:, :, hidden], protocol)  # of each sample
        scores["one"] = {name: float(value.mean()) for name, value in table.items()}
        curves["one"] = curve.mean(0)
        if len(fills) > 1:
            scores["best"] = {
                name: float(value.max() if name in ("psnr", "ssim") else value.min()) for name, value in table.items()
            }
            curves["best"] = curve[int(table["psnr"].argmax())]
        answers = {"mean": fills.mean(0, keepdim=True)} if len(fills) > 1 else {}
        given = blanked(truth, known)
        for name, baseline in baselines(task).items():
            answers[name] = baseline(given, known, Rng.of(0, batch=1)).frames
        for name, frames in answers.items():
            table, curve = _against(frames[:, :, hidden], truth.frames[:, :, hidden], protocol)
            scores[name] = {metric: float(value[0]) for metric, value in table.items()}
            curves[name] = curve[0]
    if extractor is None:
        return _Scored(scores, curves, None, None)
    both = rearrange(torch.cat([truth.frames, fills]), "k v t c h w -> (k v) t c h w")
    features = rearrange(extract(extractor, both).numpy(), "(k v) d -> k v d", v=truth.shape[1])
    return _Scored(scores, curves, features[0], features[1:])


def _against(
    pred: Float[Tensor, "k v t c h w"], truth: Float[Tensor, "1 v t c h w"], protocol: Protocol
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each metric of each sample (k), and PSNR of each frame (k t); views are averaged."""
    truth = truth.to(pred.dtype).expand(pred.shape)
    table = {
        name: measure(pred, truth, protocol).mean(1).cpu().numpy()
        for name, measure in {"psnr": psnr, "ssim": ssim, "mse": mse, "mae": mae}.items()
    }
    return table, psnr_frames(pred, truth).mean(1).cpu().numpy()


def _distance(done: list[_Scored], extractor: Extractor, task: Task) -> Distance:
    real = np.stack([one.real for one in done if one.real is not None])  # n v d
    fake = np.stack([one.fake for one in done if one.fake is not None])  # n k v d

    samples, enough = fake.shape[1], len(done) >= 4

    def pooled(real: np.ndarray, fake: np.ndarray) -> float:
        return frechet(_rows(real), _rows(fake))

    return Distance(
        extractor=extractor.name,
        num_clips=len(done),
        num_frames=task.frames,
        # Each draw costs a decomposition; 100 of them place the ends of an interval well enough.
        pooled=interval_of_sets(pooled, [real, fake], paired=True, resamples=100),
        trajectories=tuple(pooled(real, fake[:, j]) for j in range(samples)),
        real_halves=pooled(real[::2], real[1::2]) if enough else None,
        filled_halves=(sum(pooled(real[::2], fake[1::2, j]) for j in range(samples)) / samples if enough else None),
        mmd=kernel_mmd(_rows(real), _rows(fake)),
    )


def _rows(features: np.ndarray) -> Float[Tensor, "n d"]:
    return torch.from_numpy(features.reshape(-1, features.shape[-1]))


# -- report ---------------------------------------------------------------------------------------


def as_dict(report: Report) -> dict:
    """Plain numbers and names, for one line of JSON; what there is no number for is None."""
    distance = report.distance
    v, c, h, w = report.size
    return {
        "task": {"verb": report.task.verb, **dataclasses.asdict(report.task)},
        "protocol": dataclasses.asdict(report.protocol),
        "psnr_ceiling": PSNR_CEILING,
        "seed": report.seed,
        "samples": report.samples,
        "clips": report.num_clips,
        "clips_asked": report.asked,
        "partial": report.partial,
        "views": v,
        "channels": c,
        "height": h,
        "width": w,
        "scores": {r: {m: _plain(x) for m, x in row.items()} for r, row in report.scores.items()},
        "psnr_by_frame": {r: [_plain(x) for x in curve] for r, curve in report.curves.items()},
        "psnr_gain": {r: {base: _plain(x) for base, x in row.items()} for r, row in report.gains.items()},
        "frechet": distance
        and {
            "extractor": distance.extractor,
            "clips": distance.num_clips,
            "frames": distance.num_frames,
            "known_frames_included": True,
            "pooled": _plain(distance.pooled),
            "mean_of_trajectories": distance.mean_of_trajectories,
            "trajectories": list(distance.trajectories),
            "real_halves": distance.real_halves,
            "filled_halves": distance.filled_halves,
            "kernel_mmd": distance.mmd,
        },
        "fill_wall_seconds": report.wall_seconds,
        "fill_cpu_seconds": report.cpu_seconds,
        "frames_per_second": report.frames_per_second,
    }


def _plain(x: Interval) -> dict[str, float | int | None]:
    return {name: None if math.isnan(value) else value for name, value in dataclasses.asdict(x).items()}


def as_table(report: Report) -> str:
    """The report for people: one row for each way to answer, with 95 % intervals over clips."""
    task, k = report.task, report.samples
    given = " + ".join(str(n) for n in (task.past, task.future) if n) or "0"
    lines = [
        f"{task.verb}: {given} frames known, {task.hidden} filled in; {report.num_clips} clips, "
        f"{k} sample{'s' * (k > 1)} each; protocol {report.protocol.name}"
    ]
    if report.partial:
        lines.append(f"PARTIAL: interrupted after {report.num_clips} of {report.asked} clips")
    labels = {
        "best": f"best of {k}",
        "one": "one sample",
        "mean": f"mean of {k}",
        "copy": "copy-next" if task.verb == "lookback" else "copy-nearest" if task.future else "copy-last",
        "blend": "linear blend",
    }
    if report.scores:
        cells = [["", *(metric.upper() for metric in METRICS)]]
        cells += [[labels[r], *(str(row[metric]) for metric in METRICS)] for r, row in report.scores.items()]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines.append("")
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        lines.append("")
        for name, row in report.gains.items():
            for base, gain in row.items():
                lines.append(f"{labels[name]} above {labels[base]}: {gain} dB")
    if report.distance:
        d = report.distance
        halves = (
            ""
            if d.real_halves is None
            else f"; halves: filled from real {d.filled_halves:.4g}, real from real {d.real_halves:.4g}"
        )
        lines.append(
            f"Frechet ({d.extractor}, {d.num_clips} clips of {d.num_frames} frames, known ones included): "
            f"mean over samples {d.mean_of_trajectories:.4g}, pooled {d.pooled}{halves}; "
            f"kernel MMD {d.mmd:.3g}"
        )
    lines.append(
        f"fill: {report.wall_seconds:.1f} s, {report.cpu_seconds:.1f} CPU-seconds, "
        f"{report.frames_per_second:.3g} frames/s"
    )
    return "\n".join(lines)
