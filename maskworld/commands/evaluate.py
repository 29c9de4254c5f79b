"""`maskworld evaluate`: a model against held-out clips."""

from __future__ import annotations

import dataclasses
import json as json_
import sys
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from maskworld.clip import Clip
from maskworld.commands.doctor import fast_precision, use_threads
from maskworld.commands.logs import told
from maskworld.data.video import VideoClips
from maskworld.papers import maskgwm
from maskworld.probes import protocol as protocol_
from maskworld.probes.quality import MCVD_DIGITS, Protocol, extractor_of, protocol_of
from maskworld.world import World, load

SMMNIST_PAST = 5
"""Frames that the tables of moving digits show, and fill between, or twice as many ahead, whatever a model may see."""


def evaluate_command(
    checkpoint: str,
    data: str | None,
    protocol: str,
    past: int | None,
    frames: int | None,
    future: int | None,
    clips: int,
    samples: int,
    steps: int | None,
    solver: str | None,
    extractor: str,
    batch: int,
    threads: int | None,
    seed: int,
    json: bool,
) -> int:
    """Exit code 0; 3 where some of the videos are left out; or 130 where it was interrupted: the numbers are then of
    the clips done by that time."""
    use_threads(threads)
    for name, value in (("past", past), ("frames", frames), ("future", future)):
        if value is not None and value < (name == "frames"):
            raise ValueError(f"--{name} {value}: there is no such number of frames to judge by")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(checkpoint, device).sampled(steps, solver, fast_precision(device))
    future = future or 0
    judged_by = _protocol(protocol, world, data)
    most = SMMNIST_PAST if judged_by is MCVD_DIGITS else sys.maxsize
    many = min(world.reach.ahead, most)
    hidden = frames if frames is not None else many if future else 2 * many
    if past is None:
        past = min(world.reach.past, most)
    task = protocol_.Task(past, hidden, future)
    missing: list[str] = []
    source, count, cluster = held_out(world, data, task.frames, missing)
    for reason in missing:
        print(f"maskworld: {reason}", file=sys.stderr)
    if count is not None and count < clips:
        print(f"maskworld: there are {count} held-out clips of {task.frames} frames, not {clips}", file=sys.stderr)
        clips = count
    bar = tqdm(total=clips, unit="clip", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def progress(done: int, _: int) -> None:
        bar.update(done - bar.n)

    fill = world.fill_with_rng
    report = protocol_.evaluate(
        (lambda clip, known, rng: fill(_to(clip, device), known.to(device), rng)) if device != "cpu" else fill,
        source,
        task,
        num_clips=clips,
        samples=samples,
        protocol=judged_by,
        extractor=extractor_of(extractor, device) if clips > 1 else None,
        batch=batch,
        cluster=cluster,
        progress=progress,
        seed=seed,
    )
    bar.close()
    print(protocol_.as_table(report))
    if json:
        print(json_.dumps({"command": "evaluate", "checkpoint": checkpoint, **protocol_.as_dict(report)}))
    return 130 if report.partial else 3 if missing else 0


def _protocol(name: str, world: World, data: str | None) -> Protocol:
    """The paper rounds digits to black and white before SSIM: its protocol for them is another one."""
    digits = (data or world.about.get("data", {}).get("name")) == "digits"
    return MCVD_DIGITS if name == "mcvd" and digits else protocol_of(name)


def _to(clip: Clip, device: str) -> Clip:
    from maskworld.clip import to

    return to(clip, device)


def _driven(world: World, drives: Callable[[int], Clip], index: int) -> Clip:
    """A drive with what the model takes of its actions: its own groups of them, or none."""
    clip = drives(index)
    assert clip.actions is not None
    takes = isinstance(world.config, maskgwm.Config) and world.reach.actions
    acts = told(world, clip.actions[0], float(world.about.get("data", {}).get("fps", 5.0)))[None] if takes else None
    return dataclasses.replace(clip, actions=acts, depth=None)


def held_out(
    world: World, data: str | None, num_frames: int, missing: list[str] | None = None
) -> tuple[Callable[[int], Clip], int | None, Callable[[int], Hashable] | None]:
    """(clips, how many there are, what clips share) that the model was not trained on.

    Toy worlds are endless. A video gives windows that do not overlap where `held_out` of it was kept back, and
    overlapping ones, counted as one cluster a second, where that is too short for more than a few. What is left out
    of the videos, and why, is added to `missing`.
    """
    from maskworld.data import surround
    from maskworld.data.digits import MovingDigits
    from maskworld.data.discs import Discs
    from maskworld.data.drive import Domain, Drives
    from maskworld.probes.films import Films

    (h, w), about = world.size, world.about.get("data", {})
    name = data or about.get("name")
    if name in ("digits", "discs") and h != w:
        raise ValueError(f"{name} are square; this model makes frames of {h} x {w}")
    if name == "digits":
        return MovingDigits("test", num_frames, h, about.get("num_digits", 2)), None, None
    if name == "discs":
        return Discs("test", num_frames, h, num_discs=tuple(about.get("num_discs", (2, 4)))), None, None
    if name == "drive":
        domain = Domain(**about.get("domain", {}))
        drives = Drives(num_frames, world.reach.views, (h, w), about.get("fps", 5.0), domain, "test")
        return partial(_driven, world, drives), None, lambda index: drives.place(index)[0]
    if data is not None and surround.there(data):
        logs = surround.LogClips(Path(data), num_frames, world.reach.views, (h, w), about.get("fps"), "test")
        return partial(_driven, world, logs), None, None
    if data is None and name == "probes":
        last = num_frames - 1  # of the frames before the last, as near as can be: a clip without gaps
        return Films(tuple(about["families"]), tuple(about["shares"]), last, 1, "valid", near=last), None, None
    if data is None:
        raise ValueError("name the videos to evaluate on: the model was trained on videos of yours")
    share, grey = about.get("held_out", 1.0), world.channels == 1
    shares = (1 - share, share, 0.0)
    split = "valid" if share < 1 else "all"
    videos = VideoClips(Path(data), num_frames, (h, w), about.get("fps"), grey, split, shares=shares)
    if missing is not None:
        missing += videos.left_out
    windows = [(i, span, start) for i, span in enumerate(videos.spans) for start in span.starts(num_frames)]
    clips = [(i, start // max(num_frames * span.every, 1), span, start) for i, span, start in windows]
    return (
        lambda index: videos.cut(clips[index][2], clips[index][3]),
        len(clips),
        lambda index: clips[index][:2],
    )
