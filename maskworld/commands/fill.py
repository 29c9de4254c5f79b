"""`maskworld fill` and its plain names: read a video, hide what is asked, fill it in, compare, write."""

from __future__ import annotations

import io
import json as json_
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
from maskworld.clip import Clip, of_frames, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.data import video as video_
from maskworld.masks import on_pixels
from maskworld.noise import Rng
from maskworld.probes.quality import psnr
from maskworld.probes.references import copy_known, linear_blend
from maskworld.verbs import Known
from maskworld.world import World, load

# -- what is asked ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A clip with hidden parts, and the truth of it as far as there is one.

    clip    frames of the video, the hidden parts grey
    known   which pixels are given: frames, or pixels where a box is hidden
    truth   the frames that the video has, 0 elsewhere; `there` says which
    """

    clip: Clip
    known: Known
    truth: Float[Tensor, "t c h w"]
    there: Bool[Tensor, " t"]
    fps: float
    note: str

    @property
    def hidden(self) -> Bool[Tensor, " t"]:
        return ~self.known.flatten(-2).all(-1)[0, 0]


def question(world: World, video: Path | None, asked: Asked) -> Question:
    """Cut the clip out of the video. Raises ValueError where it has too few frames for what is asked."""
    for name in ("frames", "past", "future"):
        value = getattr(asked, name)
        if value is not None and (value < 0 or (name == "frames" and value == 0)):
            raise ValueError(f"--{name} {value}: a number of frames, {'1' if name == 'frames' else '0'} or more")
    if video is None:
        t = asked.frames or world.reach.num_frames
        return _asked(world, torch.zeros(0, 1, 1, 1), range(0, t), [False] * t, 0, None, _fps(world), "")
    info, rate, total = _counted(world, video)
    if asked.verb == "predict" and asked.at is None and not info.whole:
        ends = f"{info.seconds:.2f}"
        raise ValueError(f"{video} is truncated: it breaks off after {ends} s; --at {ends} predicts from there")
    at = None if asked.at is None else round(asked.at * rate)
    if at is not None and not 0 <= at <= total:
        raise ValueError(f"--at {asked.at:g}: the video lasts {info.seconds:g} s")
    if asked.hide is not None or asked.box is not None:
        start = at or 0
        count = min(asked.frames or max(world.reach.num_frames, total - start), total - start)
        hidden = range(count) if asked.hide is None else _indices(asked.hide, count)
        known = [i not in hidden for i in range(count)]
        span = range(start, start + count)
    else:
        span, known = _span(world, asked, at, total)
    first, last = max(span.start, 0), min(span.stop, total)
    if last <= first:
        raise ValueError(f"{video} has {total} frames at {rate:g} frames/s: none where they are asked for")
    if any(k and not 0 <= i < total for i, k in zip(span, known, strict=True)):
        raise ValueError(
            f"{video} has {total} frames at {rate:g} frames/s, of which {sum(known)} are to be known: frames "
            f"{span.start} to {span.stop - 1} do not fit"
        )
    read = _read(world, video, first, last, rate)
    return _asked(world, _pixels(read), span, known, first - span.start, asked.box, read.fps, read.note)


def prompt_of(world: World, video: Path, most: int) -> Question:
    """The last frames of a video, `most` or all that it has, and nothing hidden. Raises ValueError for a broken one."""
    info, rate, total = _counted(world, video)
    if not info.whole:
        raise ValueError(f"{video} is truncated: it breaks off after {info.seconds:.2f} s")
    first = max(total - most, 0)
    read = _read(world, video, first, total, rate)
    frames = range(first, first + len(read.frames))
    return _asked(world, _pixels(read), frames, [True] * len(frames), 0, None, read.fps, read.note)


def _counted(world: World, video: Path) -> tuple[video_.VideoInfo, float, int]:
    """(what is in the video, frames a second and frames in all, at the rate of the model)"""
    info, fps = video_.probe(video), world.about.get("data", {}).get("fps")
    rate, total = (info.fps, info.frames) if fps is None else (fps, max(int(info.seconds * fps + 1e-6), 1))
    return info, rate, total


def _read(world: World, video: Path, first: int, last: int, rate: float) -> video_.Video:
    """Frames first..last - 1 at the size of the model."""
    return video_.read(
        video,
        start=first / rate,
        fps=world.about.get("data", {}).get("fps"),
        num_frames=last - first,
        size=(world.size, world.size),
        grey=world.channels == 1,
    )


def _pixels(read: video_.Video) -> Float[Tensor, "n c h w"]:
    return read.frames.permute(0, 3, 1, 2).float() / 127.5 - 1


def _fps(world: World) -> float:
    return float(world.about.get("data", {}).get("fps") or 8.0)


def _span(world: World, asked: Asked, at: int | None, total: int) -> tuple[range, list[bool]]:
    """The frames of the clip, counted in the video's, and which of them are known."""
    hidden = asked.frames or world.reach.ahead
    before, after = world.reach.around if asked.verb == "interpolate" else (world.reach.past, world.reach.future)
    past = min(before, total if at is None else at) if asked.past is None else asked.past
    future = min(after, total) if asked.future is None else asked.future
    if asked.verb == "predict":
        begin, future = total if at is None else at, 0
    elif asked.verb == "lookback":
        begin, past = (at or 0) - hidden, 0
    else:
        if asked.verb == "interpolate" and asked.future is None:
            future = max(after, 1)
        elif asked.future is None:
            future = 0
        past = before if asked.past is None and at is None else past
        begin = past if at is None else at
    return range(begin - past, begin + hidden + future), [True] * past + [False] * hidden + [True] * future


def _indices(text: str, count: int) -> set[int]:
    """`3:8` or `0,4,7:9` -> frames. Raises ValueError for what is not such a list, or lies outside the clip."""
    found: set[int] = set()
    for part in text.split(","):
        ends = part.split(":")
        try:
            numbers = [int(end) for end in ends]
        except ValueError:
            raise ValueError(f"--hide {text}: write frames such as 3:8 or 0,4,7:9") from None
        if len(numbers) > 2 or numbers[0] < 0 or numbers[-1] > count or (len(numbers) == 1 and numbers[0] >= count):
            raise ValueError(f"--hide {text}: the clip has frames 0 to {count - 1}")
        found |= set(range(*numbers)) if len(numbers) == 2 else set(numbers)
    if not found:
        raise ValueError(f"--hide {text} hides no frame: the end is not included")
    return found


def _asked(
    world: World,
    pixels: Float[Tensor, "n c h w"],
    span: range,
    known: Sequence[bool],
    offset: int,
    box: tuple[int, int, int, int] | None,
    fps: float,
    note: str,
) -> Question:
    c, size = world.channels, world.size
    truth, there = torch.zeros(len(span), c, size, size), torch.zeros(len(span), dtype=torch.bool)
    truth[offset : offset + len(pixels)], there[offset : offset + len(pixels)] = pixels.reshape(-1, c, size, size), True
    given = torch.tensor(list(known))[None, None, :, None, None]
    if box is not None:
        top, bottom, left, right = box
        if not (0 <= top < bottom <= size and 0 <= left < right <= size):
            raise ValueError(f"--box {top} {bottom} {left} {right}: rows and columns of the model's frame, 0 to {size}")
        given = given.expand(-1, -1, -1, size, size).clone()
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        given |= ~inside
    frames = torch.where(on_pixels(given, size, size)[:, :, :, None], truth[None, None], 0.0)
    return Question(of_frames(frames, span.start), given, truth, there, fps, note)


# -- the answer -------------------------------------------------------------------------------------


def fill_command(checkpoint: str, video: Path | None, out: Path, asked: Asked, drawing: Drawing) -> int:
    """Exit code 0, or 130 where it was interrupted: the samples that were finished are written."""
    check_out(out, drawing)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(checkpoint, device).sampled(drawing.steps, drawing.solver, fast_precision(device))
    ask = question(world, video, asked)
    clock, cpu = time.perf_counter(), time.process_time()
    samples, interrupted = _draw(world, ask, drawing)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
    if not samples:
        raise KeyboardInterrupt("no sample was finished")
    if interrupted:
        print(f"maskworld: interrupted; {len(samples)} of {drawing.samples} samples are finished", file=sys.stderr)
    write_samples(out, samples, ask, drawing)
    report: dict[str, Any] = {
        "command": asked.verb,
        "checkpoint": checkpoint,
        "out": str(out),
        "frames": len(ask.hidden),
        "filled": int(ask.hidden.sum()),
        "samples": len(samples),
        "size": world.size,
        "fps": ask.fps,
        "changed": ask.note or None,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "psnr": _scores(samples, ask),
    }
    if drawing.json:
        print(json_.dumps(report))
    else:
        _tell(report)
    return 130 if interrupted else 0


def check_out(out: Path, drawing: Drawing) -> None:
    """Raise ValueError where nothing can be written there, before anything is drawn."""
    if drawing.samples < 1 or drawing.scale < 1:
        raise ValueError("--samples and --scale are 1 or more")
    if out.suffix.lower() not in ("", ".mp4", ".mov", ".mkv", ".gif", ".npz"):
        raise ValueError(f"cannot write {out}: known are .mp4, .mkv, .gif, .npz, and no suffix for a folder")
    if out.exists() and not drawing.force:
        raise ValueError(f"{out} exists; --force replaces it")


def _draw(world: World, ask: Question, drawing: Drawing, at_once: int = 8) -> tuple[list[Tensor], bool]:
    """(samples of frames, whether it was interrupted). A sample depends on the seed and its number alone."""
    samples: list[Tensor] = []
    bar = tqdm(unit="call", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    try:
        for start in range(0, drawing.samples, at_once):
            number = range(start, min(start + at_once, drawing.samples))

            def on_call(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            rng = Rng([Rng.of(drawing.seed, i).generators[0] for i in number])
            b, device = len(number), world.device
            frames = ask.clip.frames.to(device).expand(b, -1, -1, -1, -1, -1)
            clip = Clip(frames, ask.clip.times.to(device).expand(b, -1))
            known = ask.known.to(device).expand(b, -1, -1, -1, -1)
            drawn = world.sampled(on_call=on_call).fill_with_rng(clip, known, rng)
            samples += list(drawn.frames[:, 0].cpu())
    except KeyboardInterrupt:
        return samples, True
    finally:
        bar.close()
    return samples, False


def _scores(samples: Sequence[Tensor], ask: Question) -> dict[str, float] | None:
    """PSNR of the hidden frames that the video has: of one sample (the mean over them), the best, their mean."""
    frames = ask.hidden & ask.there
    if not bool(frames.any()):
        return None
    truth = ask.truth[frames]
    each = torch.stack([psnr(sample[frames][None], truth[None])[0] for sample in samples])
    scores = {"one": each.mean().item()}
    if len(samples) > 1:
        scores |= {"best": each.max().item()}
        scores["mean"] = psnr(torch.stack(list(samples)).mean(0)[frames][None], truth[None])[0].item()
    whole = ask.known.flatten(-2).all(-1)[0, 0]
    if bool(whole.any()):
        by_frame = whole[None, None, :, None, None]
        rng = Rng.of(0)
        copied = copy_known(ask.clip, by_frame, rng).frames[0, 0]
        scores["copy"] = psnr(copied[frames][None], truth[None])[0].item()
        if bool(whole[0] & whole[-1]):
            blend = linear_blend(ask.clip, by_frame, rng).frames[0, 0]
            scores["blend"] = psnr(blend[frames][None], truth[None])[0].item()
    return {name: round(value, 3) for name, value in scores.items()}


def write_samples(out: Path, samples: Sequence[Tensor], ask: Question, drawing: Drawing) -> None:
    """One video, arrays, or a folder of videos, as the suffix says."""
    from maskworld.report.film import Row, film, strip_png, write_whole

    pixels = [to_uint8(sample) for sample in samples]
    known = ask.known[0, 0]
    rows = [Row.of("truth", ask.truth)] if bool(ask.there.all()) and bool(ask.hidden.any()) else []
    rows += [Row.of(f"sample {i}", sample, known) for i, sample in enumerate(samples)]
    if out.suffix.lower() == ".npz":
        held = io.BytesIO()
        np.savez_compressed(
            held,
            frames=torch.stack(pixels).numpy(),
            known=known.numpy(),
            fps=ask.fps,
            truth=to_uint8(ask.truth).numpy(),
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, held.getvalue(), force=drawing.force)
    elif out.suffix:
        if len(pixels) == 1:
            video_.write(out, pixels[0], ask.fps, scale=drawing.scale, force=drawing.force)
        else:
            video_.write(out, film(rows, scale=drawing.scale), ask.fps, force=drawing.force)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(pixels):
            video_.write(out / f"sample_{i:02d}.mp4", one, ask.fps, scale=drawing.scale, force=drawing.force)
        strip_png(rows, out / "strip.png", force=drawing.force)


def _tell(report: dict[str, Any]) -> None:
    print(
        f"{report['out']}: {report['samples']} x {report['frames']} frames at {report['fps']:g}/s, "
        f"{report['filled']} filled in, {report['seconds']:.1f} s"
    )
    if report["changed"]:
        print(f"the video was {report['changed']} to fit the model")
    if report["psnr"]:
        names = {
            "one": "one sample",
            "best": "the best",
            "mean": "their mean",
            "copy": "nearest frame",
            "blend": "blend",
        }
        print("PSNR  " + ", ".join(f"{names[name]} {value:.2f}" for name, value in report["psnr"].items()) + " dB")
