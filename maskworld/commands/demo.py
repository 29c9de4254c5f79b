"""`maskworld demo`: what the zoo can do, on clips that it has never seen, in one page."""

from __future__ import annotations

import dataclasses
import json as json_
import math
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskworld import checkpoint
from maskworld.clip import Clip, collate, example, of_uint8, span
from maskworld.commands.doctor import fast_precision
from maskworld.commands.evaluate import held_out
from maskworld.data import video
from maskworld.masks import past_and_future, these_frames
from maskworld.papers import maskgwm, mim4d, voc
from maskworld.probes.protocol import Report, Task, evaluate
from maskworld.report.curve import Curve, Series
from maskworld.report.curve import Span as Stretch
from maskworld.report.film import Row, beside, film, hide
from maskworld.report.page import Code, Facts, Film, Interval, Note, Page, Section, Table
from maskworld.verbs import Known
from maskworld.world import World, load

FPS = 6


@dataclass(frozen=True)
class Size:
    """How much of everything; `quick` is for tests."""

    samples: int
    measured_clips: int
    measured_samples: int
    rolled: int
    episodes: int
    moments: int
    futures: int
    lifted: int
    every: int
    flown: int


FULL, QUICK = Size(3, 6, 3, 100, 10, 24, 32, 2, 2, 16), Size(2, 3, 2, 15, 5, 4, 4, 1, 8, 3)
KNOWN, FAR, GAP = 5, 10, 5  # frames that are known at most, frames predicted, and frames between
VOXEL_DRIVE = 3  # the held-out drive that is lifted into voxels
DRIVEN, DRIVE_STEPS = 20, 5  # frames of each future of a drive, and steps of its sampler


TITLE = "maskworld: one model, every mask"
AT_ONCE = 4  # models shown at a time, where there are cores for it


def demo_command(out: Path, quick: bool, seed: int, json: bool) -> int:
    """Exit code 0. Raises ValueError for an empty zoo, and for a folder that has another report."""
    began = time.perf_counter()
    # Discs first: they show best what there is to show.
    size, models = QUICK if quick else FULL, sorted(checkpoint.zoo(), key=lambda name: not name.endswith("discs"))
    if not models:
        raise ValueError("the zoo is empty: train a model first (maskworld train --help)")
    report = out / "report.html"
    if report.exists() and TITLE not in report.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{report} is not the demo's own: -o names another folder")
    out.mkdir(parents=True, exist_ok=True)
    sections, scores, files = [], {}, []
    for name, (shown, score, made) in zip(models, _all_shown(models, out, size, seed), strict=True):
        sections += shown
        files += made
        if score:
            scores[name] = score
    seconds = time.perf_counter() - began
    page = Page(
        TITLE,
        "A clip of video is views x time x space. A mask says what is known. A model fills in the rest. Everything "
        "below was drawn just now, on freshly made clips that the models were not trained on: green frames were "
        "given, orange ones filled in.",
        Facts(
            [("models", ", ".join(models)), ("made in", f"{seconds:.0f} s"), ("threads", str(torch.get_num_threads()))]
        ),
        [*sections, _next()],
        "Every video of this page can be drawn again: the same seed gives the same pixels.",
    )
    weight = page.save(report, force=True)
    print(f"\n{report.resolve()}  ({weight / 1e6:.1f} MB, made in {seconds:.0f} s): open it in a browser")
    if json:
        print(
            json_.dumps(
                {
                    "command": "demo",
                    "report": str(report),
                    "seconds": round(seconds, 1),
                    "scores": scores,
                    "videos": files,
                }
            )
        )
    return 0


Shown = tuple[list[Section], dict[str, Any], list[str]]  # of one model; what was measured, and the videos written


def _all_shown(models: Sequence[str], out: Path, size: Size, seed: int) -> Iterator[Shown]:
    """Of each model, in turn: several at a time, a process and some of the cores each. A GPU shows one by one."""
    at_once = 1 if torch.cuda.is_available() else min(torch.get_num_threads(), len(models), AT_ONCE)
    if at_once == 1:
        for name in models:
            yield _shown(name, out, size, seed)
        return
    threads = torch.get_num_threads() // at_once
    with ProcessPoolExecutor(at_once, get_context("spawn"), _begin, (threads,)) as pool:
        try:
            yield from map(pickle.loads, pool.map(partial(_pickled, out=out, size=size, seed=seed), models))
        except BrokenProcessPool:
            raise OSError("a process that shows a model was ended from outside: is there memory enough?") from None
        except BaseException:  # Ctrl-C too: what is begun is not waited for
            for process in active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    torch.set_num_threads(threads)


def _pickled(name: str, out: Path, size: Size, seed: int) -> bytes:
    """As bytes: tensors would be handed over in memory that goes when this process ends."""
    return pickle.dumps(_shown(name, out, size, seed))


def _shown(name: str, out: Path, size: Size, seed: int) -> Shown:
    world = load(name).sampled(precision=fast_precision())
    if isinstance(world.net, voc.VOC):
        print(f"{name}: says what a video is worth ...", flush=True)
        return *_worth(world, name, size, seed), []
    if isinstance(world.config, maskgwm.Config):
        print(f"{name}: drives ...", flush=True)
        sections, files = _drives(world, name, out, size, seed)
        return sections, {}, files
    if isinstance(world.config, mim4d.Config):
        print(f"{name}: lifts what six cameras see into voxels ...", flush=True)
        return _voxels(world, name, out, size)
    if world.reach.window is not None:
        print(f"{name}: looks away and back, with every memory ...", flush=True)
        return _remembering(world, name, out, size)
    print(f"{name}: predicts, looks back, interpolates, generates, inpaints, rolls out ...", flush=True)
    sections, files = _verbs(world, name, out, size, seed)
    measured, score = _measured(world, name, size, seed)
    return [*sections, measured], score, files


def _verbs(world: World, name: str, out: Path, size: Size, seed: int) -> tuple[list[Section], list[str]]:
    """One section for each verb of one model, and the videos written."""
    about = world.about.get("data", {})
    p, f = min(world.reach.past, KNOWN), world.reach.future
    source, _, _ = held_out(world, None, max(p + FAR + f, p + size.rolled))
    long = source(1_000 + seed)
    clip = span(long, 0, p + FAR + f)
    files: list[str] = []

    def shown(verb: str, known: Known, part: Clip, heading: str, text: str, command: str) -> Section:
        began = time.perf_counter()
        many = collate([part] * size.samples)
        drawn = world.fill(many, known.expand(size.samples, *known.shape[1:]), seed)
        seconds = time.perf_counter() - began
        truth = Row.of("truth", part.frames[0, 0])
        rows = [truth] if verb != "generate" else []
        if verb == "inpaint":
            rows.append(hide(Row.of("given", part.frames[0, 0], known[0, 0]), "given"))
        rows += [Row.of(f"sample {i + 1}", drawn.frames[i, 0], known[0, 0]) for i in range(size.samples)]
        path = out / f"{name}-{verb}.mp4"
        video.write(path, film(rows), FPS, force=True)
        files.append(str(path))
        hidden = int((~known[0, 0].flatten(1).all(1)).sum()) * size.samples
        caption = f"{size.samples} samples, {seconds:.1f} s: {hidden / seconds:.0f} frames a second."
        return Section(f"{name}: {heading}", text, [Film(rows, FPS, caption, with_strip=True), Code(command)])

    h, w = world.size
    top, bottom, left, right = h // 4, 3 * h // 4, w // 4, 3 * w // 4
    box = torch.ones(1, 1, p + GAP, h, w, dtype=torch.bool)
    box[:, :, p:, top:bottom, left:right] = False
    make = f"maskworld data make {about.get('name')} clip.mkv --frames {p + FAR}\n"
    sections = [
        shown(
            "predict",
            past_and_future(p, FAR, 0),
            span(clip, 0, p + FAR),
            "predict",
            f"{p} frames are given; the model draws the next {FAR}.",
            f"{make}maskworld predict {name} clip.mkv --at {p / 8:g} --frames {FAR} --samples 3 -o predicted.mp4",
        ),
        shown(
            "lookback",
            past_and_future(0, FAR, f),
            span(clip, 0, FAR + f),
            "look back",
            "The same network, asked for what came before.",
            f"maskworld lookback {name} clip.mkv --frames {FAR} --samples 3 -o before.mp4",
        ),
        shown(
            "interpolate",
            past_and_future(p, GAP, f),
            span(clip, 0, p + GAP + f),
            "interpolate",
            f"{GAP} frames between {p} and {f} given ones.",
            f"maskworld interpolate {name} clip.mkv --frames {GAP} --samples 3 -o between.mp4",
        ),
        shown(
            "generate",
            these_frames([False] * (p + FAR)),
            span(clip, 0, p + FAR),
            "generate",
            "Nothing is given.",
            f"maskworld generate {name} --frames {p + FAR} --samples 3 -o new.mp4",
        ),
        shown(
            "inpaint",
            box,
            span(clip, 0, p + GAP),
            "inpaint",
            f"After {p} whole frames a box in the middle of the next {GAP} is hidden. The model was never trained on "
            "this: what is known around the box is put back at every step.",
            f"maskworld fill {name} clip.mkv --frames {p + GAP} --hide {p}:{p + GAP} "
            f"--box {top} {bottom} {left} {right} --samples 3 -o inpainted.mp4",
        ),
    ]
    began = time.perf_counter()
    prompt = collate([span(long, 0, p)] * size.samples)
    rolled = world.rollout(prompt, size.rolled, seed)
    seconds = time.perf_counter() - began
    whole = torch.cat([prompt.frames, rolled.frames], dim=2)[:, 0]
    known = torch.zeros(p + size.rolled, 1, 1, dtype=torch.bool)
    known[:p] = True
    rows = [Row.of("truth", long.frames[0, 0, : p + size.rolled])]
    rows += [Row.of(f"roll-out {i + 1}", one, known) for i, one in enumerate(whole)]
    path = out / f"{name}-rollout.mp4"
    video.write(path, film(rows), FPS, force=True)
    files.append(str(path))
    sections.append(
        Section(
            f"{name}: roll out {size.rolled} frames",
            f"Block after block, each seeing only the {world.reach.past} frames before it: what the model draws is all "
            "that it knows of the past. What crosses or touches may come apart as something else, and errors add up; "
            "nothing here remembers what things were.",
            [
                Film(
                    rows,
                    12,
                    f"{seconds:.1f} s: {size.samples * size.rolled / seconds:.0f} frames a second.",
                    with_strip=True,
                    most=12,
                ),
                Code(f"maskworld predict {name} clip.mkv --frames {size.rolled} --samples 3 -o long.mp4"),
            ],
        )
    )
    return sections, files


def _measured(world: World, name: str, size: Size, seed: int) -> tuple[Section, dict[str, Any]]:
    """PSNR frame by frame, for prediction and interpolation, with intervals over clips."""
    tasks = {
        "prediction": Task(min(world.reach.past, KNOWN), FAR, 0),
        "interpolation": Task(min(world.reach.past, KNOWN), GAP, world.reach.future),
    }
    blocks: list[Any] = []
    scores: dict[str, Any] = {}
    rows = []
    for title, task in tasks.items():
        source, _, _ = held_out(world, None, task.frames)
        report = evaluate(
            world.fill_with_rng,
            source,
            task,
            size.measured_clips,
            size.measured_samples,
            batch=40,
            resamples=1000,
            seed=seed,
        )
        blocks.append(_curve(report, title))
        scores[title] = {row: round(values["psnr"].mean, 2) for row, values in report.scores.items()}
        for row, values in report.scores.items():
            rows.append([title, _LABELS[row].format(k=report.samples), *(_cell(values[m]) for m in ("psnr", "ssim"))])
    table = Table(["task", "answer", "PSNR, dB", "SSIM"], rows, "With 95 % bootstrap intervals over clips.")
    text = (
        f"{size.measured_clips} clips, {size.measured_samples} samples of each. The mean of several samples beats a "
        "single one in PSNR, because PSNR rewards blur where the future is open; a sample is what the model believes."
    )
    command = Code(f"maskworld evaluate {name} --protocol mcvd --json")
    return Section(f"{name}: measured", text, [*blocks, table, command]), scores


QUESTIONS = (
    ("P2a", 4, "the camera turns away for 32 frames, and back",
     "What it saw first lies further back than the window of {window} frames. A memory has to bring it back."),
    ("P2b", 2, "one of the things moves while nobody looks",
     "To remember is not enough here: a world goes on where it is not seen. This small model does not get it right: "
     "what moved is not found where it has come to be, by any memory."),
)  # fmt: skip
"""Families of probes, which of their episodes, and what is said of it."""


def _remembering(world: World, name: str, out: Path, size: Size) -> tuple[list[Section], dict[str, Any], list[str]]:
    """For a model with memories: what each brings back, in pictures and in numbers."""
    from maskworld.commands.memories import memory_of
    from maskworld.commands.subjects import of_world
    from maskworld.probes.base import Asked, Setting
    from maskworld.probes.suite import FAMILIES, Suite, families_of, run

    chosen = {memory: memory_of(memory, world, cameras=True) for memory in ("window", "retrieve", "canvas")}
    chosen |= {memory: memory_of(memory, world, cameras=True) for memory in world.reach.memories}
    subjects = {memory: of_world(world, memory, chosen=one) for memory, one in chosen.items()}
    sections, files = [], []
    for id, index, heading, text in QUESTIONS:
        (question, *_) = FAMILIES[id].episode(index).questions
        asked = Asked(question, FAMILIES[id], index, 0, Setting())
        prompt = of_uint8(torch.from_numpy(question.prompt())).frames[0, 0]
        known = torch.arange(question.track.num_frames)[:, None, None] < question.num_context
        truth = torch.cat([prompt, of_uint8(torch.from_numpy(question.truth())).frames[0, 0]])
        rows = [Row.of("truth", truth)]
        began = time.perf_counter()
        for memory, subject in subjects.items():
            (answer,) = subject.answer([asked])
            drawn = of_uint8(torch.from_numpy(answer[0])).frames[0, 0]
            rows.append(Row.of(memory, torch.cat([prompt, drawn]), known))
        seconds = time.perf_counter() - began
        path = out / f"{name}-{id}.mp4"
        video.write(path, film(rows), FPS, force=True)
        files.append(str(path))
        drawn_frames = question.horizon * len(subjects)
        caption = f"{drawn_frames} frames, {seconds:.1f} s. Green frames were given, orange ones drawn."
        command = f"maskworld probe {name} --memory retrieve --families {id}"
        sections.append(
            Section(
                f"{name}: {heading}",
                text.format(window=world.reach.window),
                [Film(rows, FPS, caption, with_strip=True, most=14), Code(command)],
            )
        )
    suite = Suite(families_of(["P2a"]), size.episodes)
    lines, scores = [], {}
    for memory, subject in subjects.items():
        score = run(subject, suite, workers=0).scores["P2a"]
        curve = {point.x: point.y.mean for point in score.curves["recall"]}
        scores[memory] = {"P2a": None if score.score is None else round(score.score.mean, 3)}
        cells = [f"{curve[gap]:.2f}" for gap in sorted(curve)]
        lines.append([memory, "n/a" if score.score is None else _cell(score.score), *cells])
        gaps = sorted(curve)
    table = Table(
        ["memory", "P2a", *(f"unseen for {gap:g}" for gap in gaps)],
        lines,
        f"{size.episodes} episodes; score with a 95 % interval, and the share of things found where they were left.",
    )
    text = (
        "The same network, the same budget: what differs is what it is shown of the past. The window forgets what it "
        "no longer sees; retrieval finds the frames in which the camera looked there; the canvas lays out the world as "
        "it was last seen; a learned memory keeps a state of constant size."
    )
    command = Code(f"maskworld probe {name} --memory ssm --families P2a,P2b --json")
    return [*sections, Section(f"{name}: what is recalled", text, [table, command])], scores, files


def _drives(world: World, name: str, out: Path, size: Size, seed: int) -> tuple[list[Section], list[str]]:
    """For a model of drives: futures of one beginning, under actions; and a camera filled in from the others."""
    from maskworld.commands import courses
    from maskworld.commands.fill import rows_of
    from maskworld.commands.logs import held, told, views_of

    views, fps, reach = views_of(world), float(world.about["data"]["fps"]), world.reach
    ahead, world = min(size.rolled, DRIVEN), world.sampled(steps=DRIVE_STEPS)
    source, _, _ = held_out(world, "drive", reach.num_frames + ahead)
    clip = source(1_000 + seed)
    prompt, known = span(clip, 0, max(reach.past, 1)), max(reach.past, 1)
    files: list[str] = []

    def row(label: str, frames: Tensor, given: Tensor) -> Row:
        return beside(label, rows_of(label, frames, given, views))

    def written(rows: list[Row], what: str) -> None:
        path = out / f"{name}-{what}.mp4"
        video.write(path, film(rows, across=1 if len(views) > 1 else None), FPS, force=True)
        files.append(str(path))

    futures = []
    if reach.actions and len(views) == 1:
        given = (torch.arange(known + ahead) < known)[None, :, None, None]
        drives = [courses.named(course, ahead, fps) for course in courses.NAMES]
        untold = torch.full((known, reach.actions), math.nan)
        acts = torch.stack([torch.cat([untold, told(world, drive, fps)]) for drive in drives])
        many = example(dataclasses.replace(prompt, actions=None), [0] * len(drives))
        many_cameras = span(many, 0, 1).cameras
        many = dataclasses.replace(many, cameras=None)
        cameras = None if many_cameras is None else held(many_cameras, 0, known + ahead - 1)
        rolled = world.rollout(many, ahead, seed, actions=acts, cameras=cameras)
        for i, (course, drive) in enumerate(zip(courses.NAMES, drives, strict=True)):
            whole = torch.cat([prompt.frames[0], rolled.frames[i]], dim=1)
            futures.append(courses.Future(course, row(course, whole, given), drive))
    sections = []
    if futures:
        parts = courses.sections(futures, known, fps)
        command = Code(
            f"maskworld data make drive drive --scenes 1 --cameras {len(views)}\n"
            f"maskworld rollout {name} drive --frames {ahead} --actions {' '.join(courses.NAMES)} -o futures.html"
        )
        parts[0] = dataclasses.replace(parts[0], heading=f"{name}: {parts[0].heading.lower()}")
        parts[1] = dataclasses.replace(
            parts[1], heading=f"{name}: {parts[1].heading.lower()}", blocks=[*parts[1].blocks, command]
        )
        sections += parts
        written([future.row for future in futures], "futures")
    if len(views) > 1:
        clip, place = span(clip, 0, reach.num_frames), len(views) // 2
        there = torch.ones(1, len(views), reach.num_frames, 1, 1, dtype=torch.bool)
        there[:, place] = False
        filled = world.fill(clip, there, seed).frames[0]
        truth = beside("truth", rows_of("truth", clip.frames[0], None, views))
        rows = [truth, row("filled in", filled, there[0])]
        caption = "A border of both colours: some of the views were given, and one was drawn."
        command = Code(f"maskworld fill {name} drive --hide camera:{views[place]} -o filled.mp4")
        text = f"The camera {views[place]} is hidden all the time: the model draws what it would see from the others. "
        text += "Where it overlaps with its neighbours it is theirs; in between, a street as there might be one."
        sections.append(
            Section(f"{name}: a missing camera", text, [Film(rows, FPS, caption, with_strip=True, most=8), command])
        )
        written(rows, "camera")
    return sections, files


def _voxels(world: World, name: str, out: Path, size: Size) -> tuple[list[Section], dict[str, Any], list[str]]:
    """For a model of voxels: what it renders of a drive, of a moment that it is not shown, and from new poses."""
    from maskworld.commands import render
    from maskworld.commands.logs import views_of

    assert isinstance(world.net, mim4d.MIM4D)
    fps, eyes = float(world.about["data"]["fps"]), render.Eyes(world.net, size.every)
    _, moments = render.moments_of(world, None, VOXEL_DRIVE, 0, size.lifted)
    sections, errors = render.pictures(eyes, moments, views_of(world), fps)
    sections += [render.above(eyes, moments[-1], fps), render.flown(eyes, moments[-1], size.flown)]
    command = Code(f"maskworld render {name} -o voxels.html\nmaskworld export {name} encoder.safetensors")
    parts = [dataclasses.replace(part, heading=f"{name}: {part.heading.lower()}") for part in sections]
    parts[-1] = dataclasses.replace(parts[-1], blocks=[*parts[-1].blocks, command])
    files = []
    for part, what in ((sections[0], "seen"), (sections[-1], "flight")):
        shown = next(block for block in part.blocks if isinstance(block, Film))
        path = out / f"{name}-{what}.mp4"
        video.write(path, film(shown.rows, across=1), fps if what == "seen" else FPS, force=True)
        files.append(str(path))
    return parts, {"relative error of depth": {what: round(x, 3) for what, x in errors.items()}}, files


def _worth(world: World, name: str, size: Size, seed: int) -> tuple[list[Section], dict[str, Any]]:
    """For a model of values: along the episode that comes with it, beside what it really brought; and its futures."""
    from maskworld.commands.value import futures_along, values_along
    from maskworld.data.episodes import read_one
    from maskworld.report.value import Moment, Told, curves, futures
    from maskworld.returns import Outcome, Subject, states_along

    assert isinstance(world.net, voc.VOC)
    path = checkpoint.zoo()[name].with_suffix(".npz")
    episode, about = read_one(path), world.about
    policies = tuple(about["policies"])
    subject = Subject(world.net, policies)
    label = episode.policy if episode.policy in policies else ""
    gammas = [gamma for gamma in world.net.config.gammas if gamma > 0]
    states = states_along(world.net, episode.frames)
    frames = list(range(0, len(states), max(len(states) // size.moments, 1)))
    outcome = Outcome(episode.rewards, episode.terminal, episode.policy)
    precision = fast_precision()
    began = time.perf_counter()
    along = values_along(subject, states, frames, gammas, label, outcome, size.futures, seed, precision)
    drawn = futures_along(subject, states, frames[:-1], label, max(gammas), 4, seed, precision)
    seconds = time.perf_counter() - began
    moments = [Moment(one.frame, episode.frames[one.frame], one.draws) for one in drawn]
    fps = float(about["data"]["fps"])
    told = Told(name, [], fps, along, episode.frames, moments, max(gammas), "", "")
    worth, ahead = curves(told), futures(told)
    rows = [Row("episode", episode.frames)]
    text = (
        "An episode that the model has not seen (it comes with the model). The value of a moment is the sum of the "
        "rewards to come (here: how fast it runs), discounted; it is the mean reward of the future, which is "
        "not rolled out. "
    )
    each = "Values without draws" if world.net.config.reward_bins else f"{size.futures} draws"
    caption = f"{each} at each of {len(frames)} moments and {len(gammas)} discounts: {seconds:.1f} s."
    command = Code(
        "maskworld data make control-cheetah episodes --episodes 12 --policy all\n"
        f"maskworld value estimate {name} episodes -o page"
    )
    blocks = [Film(rows, fps / 2, caption, with_strip=True, most=14), *worth.blocks, command]
    sections = [
        dataclasses.replace(worth, heading=f"{name}: what a video is worth", text=text + worth.text, blocks=blocks),
        dataclasses.replace(ahead, heading=f"{name}: draws of the discounted future"),
    ]
    found = {
        f"{one.gamma:g}": round(float(np.corrcoef(one.value[:-1], one.true[:-1])[0, 1]), 3) for one in along if one.true
    }
    return sections, {"correlation with the true return": found}


_LABELS = {
    "best": "best of {k}",
    "one": "one sample",
    "mean": "mean of {k}",
    "copy": "nearest known frame",
    "blend": "linear blend",
}


def _cell(value) -> Interval:
    return Interval(value.mean, value.low, value.high, 2 if abs(value.mean) > 2 else 3)


def _curve(report: Report, title: str) -> Curve:
    task = report.task
    x = [task.past + i for i in range(task.hidden)]
    series = []
    for row in ("one", "mean", "copy", "blend"):
        if row in report.curves:
            curve = report.curves[row]
            band = [i.low for i in curve], [i.high for i in curve]
            label = _LABELS[row].format(k=report.samples)
            series.append(Series(label, x, [i.mean for i in curve], *band, baseline=row in ("copy", "blend")))
    stretches = [Stretch(task.past, task.past + task.hidden - 1, "filled in", "filled")]
    return Curve(
        series, "frame", "PSNR, dB", f"{title.capitalize()}: {task.past} + {task.future} frames known", stretches
    )


def _next() -> Section:
    return Section(
        "Your own video",
        "Twenty minutes on two cores give a small model of one scene; a GPU and a day give more.",
        [
            Code(
                "maskworld train mcvd-video --data VIDEO_OR_FOLDER --minutes 20 -o runs/mine\n"
                "maskworld predict runs/mine VIDEO --samples 10 -o future.mp4\n"
                "maskworld interpolate runs/mine VIDEO --samples 10 -o between.mp4\n"
                "maskworld evaluate runs/mine VIDEO --protocol mcvd"
            ),
            Note("The videos of this page lie beside it as .mp4."),
        ],
    )
