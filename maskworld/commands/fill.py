"""`maskworld fill` and its plain names: read a video or a log, hide what is asked, fill it in, compare, write.

Sections: what is asked - the answer.
"""

from __future__ import annotations

import dataclasses
import io
import json as json_
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from maskworld.__main__ import Asked, Drawing
from maskworld.clip import Clip, example, to, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.commands.logs import Footage, Piece, footage, held, told, view_of, views_of
from maskworld.data import video as video_
from maskworld.masks import on_pixels, whole_frames
from maskworld.noise import Rng
from maskworld.papers import maskgwm, mim4d, voc
from maskworld.probes.quality import psnr
from maskworld.probes.references import copy_known, linear_blend
from maskworld.report.film import Row
from maskworld.verbs import Known
from maskworld.world import World, load

# -- what is asked ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A clip with hidden parts, and the truth of it as far as there is one.

    clip    one example: frames of every view, the hidden parts grey; actions and cameras where the model is told them
    known   which pixels are given: frames, or pixels where a box is hidden
    truth   the frames that there are, 0 elsewhere; `there` says which
    drive   speed (m/s) and curvature (1/m) at the frames of a log, as far as they are known
    views   names of the views
    note    how frames were changed to fit the model; `notes` are what else is to be said
    """

    clip: Clip
    known: Known
    truth: Float[Tensor, "v t c h w"]
    there: Bool[Tensor, "v t"]
    drive: Float[Tensor, "n 2"] | None
    views: tuple[str, ...]
    fps: float
    note: str
    notes: tuple[str, ...]

    @property
    def hidden(self) -> Bool[Tensor, "v t"]:
        return ~whole_frames(self.known)[0]


def question(world: World, source: Path | None, asked: Asked) -> Question:
    """Cut the clip out of a video or a log. Raises ValueError where it has too few frames for what is asked."""
    for name in ("frames", "past", "future", "start"):
        value = getattr(asked, name)
        if value is not None and (value < 0 or (name == "frames" and value == 0)):
            raise ValueError(f"--{name} {value}: a number of frames, {'1' if name == 'frames' else '0'} or more")
    if source is None:
        t, views = asked.frames or world.reach.num_frames, views_of(world)
        return _asked(world, views, None, range(0, t), torch.zeros(len(views), t, dtype=torch.bool), 0, None, ())
    if asked.at is not None and asked.start is not None:
        raise ValueError("--at and --start both say where: give one of them")
    found = footage(world, source, asked.scene)
    total, rate = found.total, found.rate
    if asked.verb == "predict" and asked.at is None and asked.start is None and not found.whole:
        ends = f"{found.seconds:.2f}"
        raise ValueError(f"{source} is truncated: it breaks off after {ends} s; --at {ends} predicts from there")
    at = None if asked.at is None else round(asked.at * rate)
    if at is not None and not 0 <= at <= total:
        raise ValueError(f"--at {asked.at:g}: the video lasts {found.seconds:g} s")
    if asked.start is not None and asked.start >= total:
        raise ValueError(f"--start {asked.start}: {found.name} has frames 0 to {total - 1}")
    notes = found.notes
    if asked.hide is not None or asked.box is not None:
        start = at or asked.start or 0
        seen, left = world.reach.num_frames, total - start
        if asked.frames is None and isinstance(world.config, mim4d.Config) and left > seen:
            notes += (f"{seen} of {left} frames: as many as this model sees at once; --start says from where",)
            left = seen
        count = min(asked.frames or max(seen, left), left)
        hidden = _hidden(f"0:{count}" if asked.hide is None else asked.hide, count, found.views)
        known, span = ~hidden, range(start, start + count)
    else:
        span, frames, note = _span(world, asked, at, total)
        known, notes = torch.tensor(frames).expand(len(found.views), -1), notes + note
    first, last = max(span.start, 0), min(span.stop, total)
    if last <= first:
        raise ValueError(f"{found.name} has {total} frames at {rate:g} frames/s: none where they are asked for")
    if any(k and not 0 <= i < total for i, k in zip(span, known.any(0).tolist(), strict=True)):
        raise ValueError(
            f"{found.name} has {total} frames at {rate:g} frames/s, of which {int(known.any(0).sum())} are to be "
            f"known: frames {span.start} to {span.stop - 1} do not fit"
        )
    piece = found.read(first, last)
    ask = _asked(world, found.views, piece, span, known, first - span.start, asked.box, notes)
    if asked.hide is None and bool(known.any()) and not bool(ask.known.any()):
        raise ValueError(f"{found.name} has no frame of any view where it is to be known: frames {first} to {last - 1}")
    return ask


def prompt_of(world: World, found: Footage, most: int, start: int | None = None) -> Question:
    """The last frames of a video or a log, `most` or all that it has, or those from `start` on; nothing hidden.

    Raises ValueError for a broken one, and where there is no such frame.
    """
    if start is None and not found.whole:
        raise ValueError(f"{found.name} is truncated: it breaks off after {found.seconds:.2f} s")
    if start is not None and not 0 <= start < found.total:
        raise ValueError(f"--start {start}: {found.name} has frames 0 to {found.total - 1}")
    first = max(found.total - most, 0) if start is None else start
    piece = found.read(first, min(first + most, found.total))
    known = torch.ones_like(piece.there)
    frames, notes = range(first, first + piece.there.shape[1]), found.notes
    if isinstance(world.config, maskgwm.Config) and 0 < len(frames) < world.reach.past:
        notes += (_shorter(len(frames), world.reach.past),)
    ask = _asked(world, found.views, piece, frames, known, 0, None, notes)
    if not bool(ask.known.any()):
        raise ValueError(f"{found.name} has no frame of any view from {first} to {frames.stop - 1}")
    return ask


def _shorter(there: int, wanted: int) -> str:
    return f"{there} known frames are shown; the model has learnt from up to {wanted}"


def _span(world: World, asked: Asked, at: int | None, total: int) -> tuple[range, list[bool], tuple[str, ...]]:
    """The frames of the clip, counted in the video's, which of them are known, and what is to be said of it."""
    hidden = asked.frames or world.reach.ahead
    before, after = world.reach.around if asked.verb == "interpolate" else (world.reach.past, world.reach.future)
    room = total - (asked.start or 0) if at is None else at
    past = min(before, room) if asked.past is None else asked.past
    future = min(after, total) if asked.future is None else asked.future
    if asked.verb == "predict":
        begin, future = total if at is None else at, 0
        if past == 0 and before and asked.past is None:
            raise ValueError(f"--at {asked.at:g}: there is no frame before it to predict from")
    elif asked.verb == "lookback":
        begin, past = (at or 0) - hidden, 0
    else:
        if asked.verb == "interpolate" and asked.future is None:
            future = max(after, 1)
        elif asked.future is None:
            future = 0
        if asked.past is None and at is None:  # of a short video as many as leave room for what comes after
            left = room - hidden - future
            past = min(before, left) if asked.verb == "interpolate" and left > 0 else before
        begin = past if at is None else at
    start = begin - past if asked.start is None else asked.start
    notes: tuple[str, ...] = ()
    if isinstance(world.config, maskgwm.Config) and asked.past is None and asked.verb != "lookback" and past < before:
        notes = (_shorter(past, before),)
    return range(start, start + past + hidden + future), [True] * past + [False] * hidden + [True] * future, notes


def _hidden(text: str, count: int, views: Sequence[str]) -> Bool[Tensor, "v t"]:
    """`3:8`, `0,4,7:9`, `camera:front` or `camera:front@3:8` -> which frames of which views.

    Raises ValueError for what is not such a list, lies outside the clip, or is no camera.
    """
    hidden = torch.zeros(len(views), count, dtype=torch.bool)
    for part in text.split(","):
        which: int | slice = slice(None)
        frames = part
        if part.startswith("camera:"):
            name, _, frames = part.removeprefix("camera:").partition("@")
            which = view_of(name, views, f"--hide {text}")
            frames = frames if "@" in part else f"0:{count}"
        hidden[which, _frames(frames, text, count)] = True
    if not bool(hidden.any()):
        raise ValueError(f"--hide {text} hides no frame: the end is not included")
    return hidden


def _frames(part: str, text: str, count: int) -> list[int]:
    try:
        numbers = [int(end) for end in part.split(":")]
    except ValueError:
        raise ValueError(
            f"--hide {text}: write frames such as 3:8 or 0,4,7:9, or a view such as camera:front or camera:front@3:8"
        ) from None
    if len(numbers) > 2 or numbers[0] < 0 or numbers[-1] > count or (len(numbers) == 1 and numbers[0] >= count):
        raise ValueError(f"--hide {text}: the clip has frames 0 to {count - 1}")
    return list(range(*numbers)) if len(numbers) == 2 else numbers


def _asked(
    world: World,
    views: tuple[str, ...],
    piece: Piece | None,
    span: range,
    known: Bool[Tensor, "v t"],
    offset: int,
    box: tuple[int, int, int, int] | None,
    notes: tuple[str, ...],
) -> Question:
    """The question of these frames, of which `piece` begins at `offset`; what is not there is not known."""
    t, (h, w) = len(span), world.size
    truth, there = torch.zeros(len(views), t, world.channels, h, w), torch.zeros(len(views), t, dtype=torch.bool)
    actions, cameras, drive, fps, note = None, None, None, float(world.about.get("data", {}).get("fps") or 8.0), ""
    if piece is not None:
        n, fps, note = piece.there.shape[1], piece.fps, piece.note
        here = slice(offset, offset + n)
        truth[:, here], there[:, here] = piece.pixels, piece.there
        cameras = None if piece.cameras is None else held(piece.cameras, offset, t - offset - n)
        if piece.drive is not None:
            drive = torch.full((t, 2), math.nan)
            drive[here] = piece.drive[:n]
            if isinstance(world.config, maskgwm.Config) and world.reach.actions:
                actions = torch.full((1, t, world.reach.actions), math.nan)
                actions[0, here] = told(world, piece.drive, fps)[:n]
    given = (known & there)[None, :, :, None, None]
    if box is not None:
        top, bottom, left, right = box
        if not (0 <= top < bottom <= h and 0 <= left < right <= w):
            sides = f"0 to {h}" if h == w else f"0 to {h} and 0 to {w}"
            raise ValueError(f"--box {top} {bottom} {left} {right}: rows and columns of the model's frame, {sides}")
        given = given.expand(-1, -1, -1, h, w).clone()
        inside = torch.zeros(h, w, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        given |= ~inside & there[None, :, :, None, None]
    frames = torch.where(on_pixels(given, h, w)[:, :, :, None], truth[None], 0.0)
    times = torch.arange(span.start, span.stop)[None]
    clip = Clip(frames, times, actions, cameras if isinstance(world.config, maskgwm.Config | mim4d.Config) else None)
    return Question(clip, given, truth, there, drive, views, fps, note, notes)


# -- the answer -------------------------------------------------------------------------------------


def fill_command(checkpoint: str, source: Path | None, out: Path, asked: Asked, drawing: Drawing) -> int:
    """Exit code 0, or 130 where it was interrupted: the samples that were finished are written."""
    check_out(out, drawing)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(checkpoint, device).sampled(
        drawing.steps, drawing.solver, fast_precision(device), guidance=drawing.guidance
    )
    if isinstance(world.config, mim4d.Config):
        mim4d.check_memory(world.config, min(drawing.samples, AT_ONCE), device, training=False)
    ask = question(world, source, asked)
    timeless = isinstance(world.config, voc.Config)
    if timeless:
        ask = dataclasses.replace(ask, notes=(*ask.notes, SOME_LATER))
    clock, cpu = time.perf_counter(), time.process_time()
    samples, interrupted = _draw(world, ask, drawing)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    if not samples:
        raise KeyboardInterrupt("no sample was finished")
    if interrupted:
        print(f"maskworld: interrupted; {len(samples)} of {drawing.samples} samples are finished", file=sys.stderr)
    write_samples(out, [(f"sample {i}", sample) for i, sample in enumerate(samples)], ask, drawing)
    report: dict[str, Any] = {
        "command": asked.verb,
        "checkpoint": checkpoint,
        "out": str(out),
        "frames": ask.hidden.shape[1],
        "views": len(ask.views),
        "filled": int(ask.hidden.sum()),
        "samples": len(samples),
        "size": world.size,
        "fps": ask.fps,
        "changed": ask.note or None,
        "notes": list(ask.notes),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "psnr": None if timeless else _scores(samples, ask),
    }
    if drawing.json:
        print(json_.dumps(report))
    else:
        _tell(report)
    return 130 if interrupted else 0


def check_out(out: Path, drawing: Drawing, page: bool = False) -> None:
    """Raise ValueError where nothing can be written there, before anything is drawn; `page` allows .html."""
    if drawing.samples < 1 or drawing.scale < 1:
        raise ValueError("--samples and --scale are 1 or more")
    if out.suffix.lower() not in ("", ".mp4", ".mov", ".mkv", ".gif", ".npz", *([".html"] if page else [])):
        known = f".mp4, .mkv, .gif, .npz{', .html' if page else ''}, and no suffix for a folder"
        raise ValueError(f"cannot write {out}: known are {known}")
    if out.exists() and not drawing.force:
        raise ValueError(f"{out} exists; --force replaces it")


AT_ONCE = 8  # samples
SOME_LATER = "what is filled in is some later frame, a draw of the discounted future: not the next one"


def _draw(world: World, ask: Question, drawing: Drawing, at_once: int = AT_ONCE) -> tuple[list[Tensor], bool]:
    """(samples of all views, whether it was interrupted). A sample depends on the seed and its number alone."""
    samples: list[Tensor] = []
    bar = tqdm(unit="call", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    try:
        for start in range(0, drawing.samples, at_once):
            number = range(start, min(start + at_once, drawing.samples))

            def on_call(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            rng = Rng([Rng.of(drawing.seed, i).generators[0] for i in number])
            clip = many(ask.clip, len(number), world.device)
            known = ask.known.to(world.device).expand(len(number), -1, -1, -1, -1)
            drawn = world.sampled(on_call=on_call).fill_with_rng(clip, known, rng)
            samples += list(drawn.frames.cpu())
    except KeyboardInterrupt:
        return samples, True
    finally:
        bar.close()
    return samples, False


def many(clip: Clip, number: int, device: torch.device | str) -> Clip:
    """The one example of a clip so many times, on this device."""
    return to(example(clip, [0] * number), device)


def _scores(samples: Sequence[Tensor], ask: Question) -> dict[str, float] | None:
    """PSNR of the hidden frames that there are: of one sample (the mean over them), the best, their mean."""
    frames = ask.hidden & ask.there
    if not bool(frames.any()):
        return None
    truth = ask.truth[frames]
    each = torch.stack([psnr(sample[frames][None], truth[None])[0] for sample in samples])
    scores = {"one": each.mean().item()}
    if len(samples) > 1:
        scores |= {"best": each.max().item()}
        scores["mean"] = psnr(torch.stack(list(samples)).mean(0)[frames][None], truth[None])[0].item()
    whole, asked = ~ask.hidden, frames.any(1)
    if bool(whole[asked].any(1).all()):  # a view that is never seen has nothing to be copied
        by_frame, rng = whole[None, :, :, None, None], Rng.of(0)
        copied = copy_known(ask.clip, by_frame, rng).frames[0]
        scores["copy"] = psnr(copied[frames][None], truth[None])[0].item()
        if bool((whole[asked, 0] & whole[asked, -1]).all()):
            blend = linear_blend(ask.clip, by_frame, rng).frames[0]
            scores["blend"] = psnr(blend[frames][None], truth[None])[0].item()
    return {name: round(value, 3) for name, value in scores.items()}


def rows_of(
    label: str,
    frames: Float[Tensor, "v t c h w"],
    known: Bool[Tensor, "v t gh gw"] | None,
    views: Sequence[str],
) -> list[Row]:
    """A row for each view; its name stands with it where there are several."""
    names = [label] if len(views) == 1 else [f"{view}: {label}" for view in views]
    each = [None] * len(views) if known is None else list(known)
    return [Row.of(name, one, given) for name, one, given in zip(names, frames, each, strict=True)]


def write_samples(out: Path, samples: Sequence[tuple[str, Tensor]], ask: Question, drawing: Drawing) -> None:
    """One video, arrays, or a folder of videos, as the suffix says. Samples have a name and frames "v t c h w"."""
    from maskworld.report.film import film, strip_png, write_whole

    known, v = ask.known[0], len(ask.views)
    each = [rows_of(label, sample, known, ask.views) for label, sample in samples]
    rows = [row for one in each for row in one]
    if bool(ask.there.all()) and bool(ask.hidden.any()):
        rows = [*rows_of("truth", ask.truth, None, ask.views), *rows]

    def write(path: Path, number: int) -> None:
        """A sample: as it is, or its views side by side."""
        frames = to_uint8(samples[number][1][0])
        if v > 1:
            frames = film(each[number], scale=drawing.scale, across=v)
        video_.write(path, frames, ask.fps, scale=1 if v > 1 else drawing.scale, force=drawing.force)

    if out.suffix.lower() == ".npz":
        frames, truth = to_uint8(torch.stack([sample for _, sample in samples])), to_uint8(ask.truth)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            frames=(frames[:, 0] if v == 1 else frames).numpy(),
            known=(known[0] if v == 1 else known).numpy(),
            truth=(truth[0] if v == 1 else truth).numpy(),
            fps=ask.fps,
            labels=np.array([label for label, _ in samples]),
            views=np.array(ask.views),
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, buffer.getvalue(), force=drawing.force)
    elif out.suffix:
        if len(samples) == 1:
            write(out, 0)
        else:
            whole = film(rows, scale=drawing.scale, across=v if v > 1 else None)
            video_.write(out, whole, ask.fps, force=drawing.force)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for i in range(len(samples)):
            write(out / f"sample_{i:02d}.mp4", i)
        strip_png(rows, out / "strip.png", force=drawing.force)


def _tell(report: dict[str, Any]) -> None:
    print(
        f"{report['out']}: {report['samples']} x {report['frames']} frames at {report['fps']:g}/s, "
        f"{report['filled']} filled in, {report['seconds']:.1f} s"
    )
    if report["changed"]:
        print(f"the video was {report['changed']} to fit the model")
    for note in report["notes"]:
        print(note)
    if report["psnr"]:
        names = {
            "one": "one sample",
            "best": "the best",
            "mean": "their mean",
            "copy": "nearest frame",
            "blend": "blend",
        }
        print("PSNR  " + ", ".join(f"{names[name]} {value:.2f}" for name, value in report["psnr"].items()) + " dB")
