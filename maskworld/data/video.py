"""Any folder or file of videos, in and out, and a source of clips for training.

What counts as a video: whatever FFmpeg opens among the suffixes below, a GIF, an array of uint8 (t h w c) or
(n t h w c) in .npy or .npz, and a folder of numbered images. Time is in seconds from the first frame.

PyAV must not be carried over a fork: every function opens its file, reads and closes it again, and
`VideoClips` reads from a cache of plain arrays wherever that is not too large.

Sections: look - read - write - clips - show.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import shutil
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maskworld.clip import Clip, of_frames
from maskworld.noise import mix

STREAMS = frozenset(".mp4 .m4v .mov .mkv .webm .avi .gif .mpg .mpeg .ts .ogv .wmv .flv".split())
ARRAYS = frozenset({".npy", ".npz"})
IMAGES = frozenset({".png", ".jpg", ".jpeg"})

UNTIMED_FPS = 25.0
"""Frames per second of what carries no time: images without an fps.txt beside them, arrays without `fps`."""

Number = float | int
Crop = Literal["center", "stretch"]
Split = Literal["train", "valid", "test", "all"]

# Swscale's bilinear | full_chroma_int | accurate_rnd. Without them RGB -> yuv420p -> RGB comes out 1.2 levels too
# dark and 1.9 off (rms) on smooth colours, with them 0.0 and 0.65; 2.7 ms for a frame of 960x540 instead of 0.2.
_EXACT = 0x2 | 0x2000 | 0x40000

_EPS = 1e-6  # seconds; time stamps are rounded, and a tie must not turn on that


class Truncated(ValueError):
    """A video that breaks off; what comes before the break can be had by asking for no more than that."""


# -- look -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself, checked against where it ends.

    frames   that can be read; of each video where an array holds several
    seconds  from the first frame to the end of the last
    fps      mean frames per second
    videos   how many the file holds: 1, or n of an array (n t h w c)
    whole    whether everything is there that the file promises
    """

    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    videos: int = 1
    whole: bool = True


def find(path: Path | str) -> list[Path]:
    """The videos under a folder, in natural order (2 before 10), or the file itself.

    A folder of numbered images is one video, unless it holds videos too; a single image is one only where
    there is nothing else. Hidden files are passed over. Raises ValueError where there are no videos.
    """
    path = Path(path)
    if path.is_file():
        _kind(path)
        return [path]
    if not path.is_dir():
        raise ValueError(f"no videos under {path}: there is no such file or folder")
    found, kept = [], cache_folder().resolve()  # what we decoded ourselves is no new video
    for folder, below, names in os.walk(path):
        below[:] = [b for b in below if not b.startswith(".") and Path(folder, b).resolve() != kept]
        here = [Path(folder, name) for name in names if not name.startswith(".")]
        videos = [file for file in here if file.suffix.lower() in STREAMS | ARRAYS]
        if videos:
            found += videos
        elif len(_stills(Path(folder))) > 1:
            found.append(Path(folder))
    if not found and _stills(path):
        found = [path]
    if not found:
        raise ValueError(f"no videos under {path}: neither {_known()} nor numbered images")
    return sorted(found, key=_natural)


def probe(path: Path | str) -> VideoInfo:
    """What is in a video, from its headers, its first frame and its end.

    Raises ValueError where it is not a video or has no frame that can be read.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "stills":
        files = _stills(path)
        h, w = _image(files[0]).shape[:2]
        fps = _stills_fps(path)
        return VideoInfo(len(files), len(files) / fps, fps, w, h, files[0].suffix[1:].lower())
    if kind == "array":
        array, fps = _array(path)
        n, t, h, w, _ = array.shape
        return VideoInfo(t, t / fps, fps, w, h, "uint8", videos=n)
    return _probe_stream(path)


def _probe_stream(path: Path) -> VideoInfo:
    with _open(path) as (_, stream):
        first = next(_shots_of(path, stream), None)
        if first is None:
            raise ValueError(f"{path} has no frames")
        h, w = first.pixels().shape[:2]
        codec = stream.codec_context.codec.name
    with _open(path) as (container, stream):
        promised = _promised(container, stream)
        # An index at the front of the file promises frames that may be missing at its end: look there.
        if promised is not None and stream.frames > 0 and "mp4" in container.format.name:
            with suppress(ValueError, OSError):
                last = math.floor(promised / stream.time_base)
                container.seek(last + (stream.start_time or 0), stream=stream)
            if _ends(stream)[1] > promised - _slack(stream):
                fps = stream.frames / promised
                rate = float(stream.average_rate or fps)
                return VideoInfo(stream.frames, promised, rate, w, h, codec)
    with _open(path) as (container, stream):
        count, seconds = _ends(stream)
        if count == 0:
            raise ValueError(f"{path} has no frames")
        whole = _ends_well(path) and (promised is None or seconds > promised - _slack(stream))
        fps = count / seconds
        rate = float(stream.average_rate or fps)
        if abs(rate / fps - 1) < 0.02:  # else the frames are spaced unevenly, as in many GIFs: take the mean
            fps = rate
        return VideoInfo(count, seconds, fps, w, h, codec, whole=whole)


def _kind(path: Path) -> Literal["stream", "array", "stills"]:
    if path.is_dir():
        if _stills(path):
            return "stills"
        raise ValueError(f"not a video: the folder {path} has no numbered images in it")
    if not path.is_file():
        raise ValueError(f"not a video: {path}: there is no such file")
    suffix = path.suffix.lower()
    if suffix in STREAMS or suffix in ARRAYS:
        if path.stat().st_size == 0:
            raise ValueError(f"not a video: {path} is empty, 0 bytes")
        return "stream" if suffix in STREAMS else "array"
    if suffix in IMAGES:
        raise ValueError(f"not a video: {path} is a single image; give the folder of the images")
    raise ValueError(f"not a video: {path}; known are {_known()} and folders of numbered images")


def _known() -> str:
    return ", ".join(sorted(STREAMS | ARRAYS))


def _natural(path: Path) -> tuple[list[list[int | str]], str]:
    """Numbers within names compare as numbers; re.split gives text and digits in turn."""
    parts = [re.split(r"(\d+)", part.lower()) for part in path.parts]
    return [[int(x) if i % 2 else x for i, x in enumerate(part)] for part in parts], str(path)


def _stills(folder: Path) -> list[Path]:
    """The numbered images of a folder, in natural order."""
    files = (Path(entry.path) for entry in os.scandir(folder) if entry.is_file())
    numbered = (f for f in files if f.suffix.lower() in IMAGES and re.search(r"\d", f.stem))
    return sorted((f for f in numbered if not f.name.startswith(".")), key=_natural)


def _stills_fps(folder: Path) -> float:
    note = folder / "fps.txt"
    if not note.exists():
        return UNTIMED_FPS
    try:
        return _positive("fps", float(note.read_text()))
    except ValueError:
        raise ValueError(f"{note} should hold one number, the frames per second") from None


def _positive(name: str, value: Number) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is a number above 0, not {value}")
    return float(value)


# -- read -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """Frames of a video, and a note of what was done to them: empty where they are as they were stored."""

    frames: UInt8[Tensor, "t h w c"]
    fps: float
    note: str = ""


def read(
    path: Path | str,
    *,
    start: Number = 0.0,
    seconds: Number | None = None,
    fps: Number | None = None,
    num_frames: int | None = None,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    crop: Crop = "center",
    item: int = 0,
) -> Video:
    """Frames from `start` on: `num_frames` of them, those of `seconds`, or all; RGB, or one grey channel.

    fps   resamples by the time stamps: each time k / fps gets the frame nearest to it, and a frame that stays
          longer than 1 / fps is held; None takes the frames as they are stored
    size  (h, w) in pixels, antialiased; "center" keeps the aspect and cuts what overhangs, "stretch" does not
    item  which video of an array (n t h w c)

    Raises ValueError where `path` is not a video or has fewer frames than `num_frames`; `Truncated`, a
    ValueError, where it breaks off before what was asked for. Of a whole video `seconds` may exceed what is left.
    """
    path = Path(path)
    frames = list(_frames(path, start, seconds, fps, num_frames, size, grey, crop, item))
    info = probe(path)
    if num_frames is not None and len(frames) < num_frames:
        rate = "" if fps is None else f" at {fps:g} frames/s"
        since = "" if start == 0 else f" from {start:g} s on"
        raise ValueError(f"{path} has {len(frames)} frames{rate}{since}, {num_frames} are wanted")
    if not frames:
        raise ValueError(f"{path} has no frames from {start:g} s on: it lasts {info.seconds:g} s")
    rate = info.fps if fps is None else float(fps)
    note = _note(info, rate, size, grey, crop)
    return Video(torch.from_numpy(np.stack(frames)), rate, note)


def _note(info: VideoInfo, fps: float, size: tuple[int, int] | None, grey: bool, crop: Crop) -> str:
    done = []
    if size is not None and size != (info.height, info.width):
        h, w = size
        done.append(f"{info.width}x{info.height} resized to {w}x{h}")
        if crop == "center" and info.width * h != info.height * w:
            x0, y0, x1, y1 = _box(info.height, info.width, size, crop)
            done.append(f"cut to the middle {x1 - x0:.0f}x{y1 - y0:.0f}")
    if abs(fps / info.fps - 1) > 1e-3:
        done.append(f"{info.fps:g} frames/s resampled to {fps:g}")
    if grey:
        done.append("made grey")
    return ", ".join(done)


def _frames(
    path: Path,
    start: Number,
    seconds: Number | None,
    fps: Number | None,
    num_frames: int | None,
    size: tuple[int, int] | None,
    grey: bool,
    crop: Crop,
    item: int,
    every: int = 1,
) -> Iterator[np.ndarray]:
    """What `read` returns, one frame at a time, and of `every` so many one; Truncated on arriving there."""
    if seconds is not None and num_frames is not None:
        raise ValueError("give seconds or num_frames, not both")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is in seconds from the first frame, 0 or more, not {start}")
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames is 1 or more, not {num_frames}")
    if size is not None and min(size) < 1:
        raise ValueError(f"a size is (height, width), each 1 pixel or more, not {size}")
    if crop not in get_args(Crop):
        raise ValueError(f"crop is one of {get_args(Crop)}, not {crop!r}")
    if seconds is not None:
        _positive("seconds", seconds)
    shots = _shots(path, item, float(start))
    if fps is None:
        stop = math.inf if seconds is None else start + seconds
        shots = _native(shots, float(start), stop)
    else:
        shots = _pick(shots, float(start), _positive("fps", fps))
        if seconds is not None:
            num_frames = max(1, math.ceil(seconds * fps - _EPS))
    last, pixels = None, np.empty(0)
    for shot in islice(shots, 0, None if num_frames is None else num_frames * every, every):
        if shot is not last:  # a frame that is held is fitted once
            last, pixels = shot, _fit(shot.pixels(), size, grey, crop)
        yield pixels


class _Shot(NamedTuple):
    """A stored frame: when it comes and for how long it stays, in seconds; `pixels` decodes it (h w c)."""

    time: float
    seconds: float
    pixels: Callable[[], np.ndarray]


def _native(shots: Iterator[_Shot], start: float, stop: float) -> Iterator[_Shot]:
    """Frames as they are stored; half a frame's time of grace at both ends."""
    for shot in shots:
        middle = shot.time + shot.seconds / 2
        if middle > stop + _EPS:
            return
        if middle > start + _EPS:
            yield shot


def _pick(shots: Iterator[_Shot], start: float, fps: float) -> Iterator[_Shot]:
    """The frame for each time start + k / fps until the video ends.

    A frame takes over half a step before its time stamp. The step is its distance to the frame before it, so
    that the nearest is taken; or 1 / fps where that is less, so that a frame which stays long is held.
    """
    now, broken, k = None, None, 0
    try:
        for shot in shots:
            if now is not None:
                takeover = shot.time - min(shot.time - now.time, 1 / fps) / 2
                while start + k / fps <= takeover + _EPS:
                    yield now
                    k += 1
            now = shot
    except Truncated as error:
        broken = error
    while now is not None and start + k / fps < now.time + now.seconds - _EPS:
        yield now
        k += 1
    if broken is not None:
        raise broken


def _shots(path: Path, item: int, start: float) -> Iterator[_Shot]:
    """The frames of a video in order, from one at or before `start` on (where that is known beforehand)."""
    kind = _kind(path)
    if kind == "array":
        array, fps = _array(path)
        if not 0 <= item < len(array):
            raise ValueError(f"{path} has videos 0 to {len(array) - 1}, not {item}")
        video = array[item]
        return (_Shot(i / fps, 1 / fps, partial(np.array, video[i])) for i in range(_skip(start, fps), video.shape[0]))
    if item != 0:
        raise ValueError(f"{path} is one video, number 0, not {item}")
    if kind == "stills":
        return _stills_shots(path, start)
    return _stream_shots(path, start)


def _skip(start: float, fps: float) -> int:
    return max(0, math.floor(start * fps + _EPS))


def _stills_shots(folder: Path, start: float) -> Iterator[_Shot]:
    files, fps = _stills(folder), _stills_fps(folder)
    want = _image(files[0]).shape

    def pixels(file: Path) -> np.ndarray:
        image = _image(file)
        if image.shape != want:
            raise ValueError(f"{file} is {image.shape[1]}x{image.shape[0]}, the first image {want[1]}x{want[0]}")
        return image

    for i in range(_skip(start, fps), len(files)):
        yield _Shot(i / fps, 1 / fps, partial(pixels, files[i]))


def _image(file: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # 16 bits: PIL would clip them
                return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"not an image: {file}") from None
    except OSError as error:
        raise Truncated(f"truncated: the image {file} ({error})") from None


def _array(path: Path) -> tuple[np.ndarray, float]:
    """(n t h w c) uint8 and frames per second."""
    stat = path.stat()
    return _array_of(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _array_of(path: Path, mtime_ns: int, size: int) -> tuple[np.ndarray, float]:
    fps = UNTIMED_FPS
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = [n for n in arrays.files if n != "fps"]
                name = "frames" if "frames" in names else names[0] if len(names) == 1 else None
                if name is None:
                    raise ValueError(f"not a video: {path} has arrays {names[:4]}; one of them should be `frames`")
                array = arrays[name]
                if "fps" in arrays.files:
                    fps = _positive("fps", float(arrays["fps"]))
    except Exception as error:
        # numpy's and zipfile's complaints about damaged files are of many kinds; ours is one
        if isinstance(error, ValueError) and str(error).startswith("not a video"):
            raise
        raise ValueError(f"not a video: {path} is no whole numpy file ({error})") from None
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"not a video: {path} is {array.dtype} of shape {array.shape}; "
            "wanted is uint8 (t, h, w, c) or (n, t, h, w, c) with 1 or 3 channels"
        )
    if 0 in array.shape:
        raise ValueError(f"{path} has no frames: its shape is {array.shape}")
    return (array if array.ndim == 5 else array[None]), fps


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream), open only inside: PyAV's streams must not be touched after closing."""
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    try:
        container = av.open(str(path), metadata_errors="ignore")
    except FFmpegError:
        with path.open("rb") as file:
            head = file.read(12)
        begun = head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"GIF8")
        what = "truncated: {} begins like a video and cannot be read" if begun else "not a video: {}"
        raise (Truncated if begun else ValueError)(what.format(path)) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise ValueError(f"not a video: {path} has no moving picture in it")
        stream = streams[0]
        stream.codec_context.thread_count = 2  # frames come at 1.6 times the pace of one; more starve the trainer
        stream.codec_context.thread_type = "FRAME"
        yield container, stream


def _stream_shots(path: Path, start: float) -> Iterator[_Shot]:
    from av.error import FFmpegError

    if start > 0 and path.suffix.lower() != ".gif":  # GIFs have no key frames to go to
        with _open(path) as (container, stream):
            shots = _shots_of(path, stream, sought=True)
            key = math.floor(start / stream.time_base) + (stream.start_time or 0)
            try:
                container.seek(key, stream=stream, backward=True)
                first = next(shots, None)
            except FFmpegError:
                first = None
            if first is not None and first.time <= start + _EPS:
                yield first
                yield from shots
                return
    with _open(path) as (_, stream):
        yield from _shots_of(path, stream)


def _shots_of(path: Path, stream: Any, sought: bool = False) -> Iterator[_Shot]:
    """Decode from where the container stands. After seeking, stops where frames carry no time stamps."""
    zero, unit, period = stream.start_time or 0, float(stream.time_base), _period(stream)
    promised = _promised(stream.container, stream)
    count, end = 0, 0.0
    broken = not _ends_well(path)
    for frame in _decoded(stream):
        if frame is None or frame.is_corrupt:
            broken = True
            break
        if frame.pts is None and sought:
            return
        time = end if frame.pts is None else (frame.pts - zero) * unit
        long = frame.duration * unit if frame.duration else period
        count, end = count + 1, time + long
        yield _Shot(time, long, partial(_pixels, frame))
    if broken or (promised is not None and end < promised - _slack(stream)):
        raise Truncated(f"truncated: {path} breaks off after {end:.2f} s; {count} frames could be read there")


def _decoded(stream: Any) -> Iterator[Any]:
    """Frames in the order of showing, and None where the file is damaged."""
    from av.error import FFmpegError

    try:
        for packet in stream.container.demux(stream):
            if packet.is_corrupt:
                break
            yield from packet.decode()
        else:
            return
    except FFmpegError:
        pass
    with suppress(FFmpegError):  # frames that the decoder's threads still hold
        yield from stream.codec_context.decode(None)
    yield None


def _pixels(frame: Any) -> np.ndarray:
    """(h w 3), upright. Swscale takes the frame's own colour matrix and range, 8 bits or more."""
    pixels = frame.to_ndarray(format="rgb24", interpolation=_EXACT)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _ends(stream: Any) -> tuple[int, float]:
    """(how many frames follow, the second at which the last of them ends), without decoding."""
    zero, unit, period = stream.start_time or 0, float(stream.time_base), _period(stream)
    count, last = 0, 0.0
    with suppress(ValueError, OSError):  # FFmpeg's complaints of damage are either
        for packet in stream.container.demux(stream):
            if packet.is_corrupt:
                break
            if packet.size:
                begin = last if packet.pts is None else (packet.pts - zero) * unit
                end = begin + (packet.duration * unit if packet.duration else period)
                count, last = count + 1, max(last, end)
    return count, last


def _period(stream: Any) -> float:
    return 1 / float(stream.average_rate or stream.base_rate or UNTIMED_FPS)


def _promised(container: Any, stream: Any) -> float | None:
    """How many seconds the file says that its frames last, where it says so apart from other streams."""
    if container.format.name == "avi" and stream.frames:  # FFmpeg mends the length of a cut AVI, not this count
        return stream.frames * _period(stream)
    if stream.duration is not None:
        return stream.duration * float(stream.time_base)
    if len(container.streams) == 1 and container.duration is not None:
        return container.duration / 1e6
    return None


def _slack(stream: Any) -> float:
    """Headers round; a missing frame or two at the end is not worth an alarm."""
    return 2.5 * _period(stream)


def _ends_well(path: Path) -> bool:
    """A GIF says nothing of its length, but it has a last byte."""
    if path.suffix.lower() != ".gif":
        return True
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        return file.read().rstrip(b"\0").endswith(b";")


def _box(h: int, w: int, size: tuple[int, int], crop: Crop) -> tuple[float, float, float, float]:
    """The part (left, top, right, bottom) of an h x w frame that is shown at `size`."""
    if crop == "stretch":
        return 0.0, 0.0, float(w), float(h)
    scale = min(h / size[0], w / size[1])
    dy, dx = max(0.0, h - size[0] * scale) / 2, max(0.0, w - size[1] * scale) / 2
    return dx, dy, w - dx, h - dy


def _fit(pixels: np.ndarray, size: tuple[int, int] | None, grey: bool, crop: Crop) -> np.ndarray:
    """Resize and colour one frame: Lanczos, which widens its filter as it shrinks; luma by BT.601."""
    from PIL import Image

    h, w, c = pixels.shape
    image = Image.fromarray(pixels[..., 0] if c == 1 else pixels)
    if grey:
        image = image.convert("L")
    if size is not None and size != (h, w):
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=_box(h, w, size, crop))
    if not grey:
        image = image.convert("RGB")
    out = np.asarray(image)
    return out[..., None] if grey else out


# -- write ----------------------------------------------------------------------------------------


def write(
    path: Path | str,
    frames: UInt8[Tensor, "t h w c"] | UInt8[np.ndarray, "t h w c"],
    fps: Number,
    *,
    crf: int = 18,
    scale: int = 1,
    force: bool = False,
) -> Path:
    """Write a video; its suffix says how.

    .mp4 .mov    H.264 yuv420p of quality `crf` (0 best, 51 worst), for browsers; odd sides get a pixel more
    .gif         one palette for all frames, looped; at most 50 frames/s
    .mkv         lossless H.264 in RGB; .npz lossless arrays `frames` and `fps`
    no suffix    a folder of numbered PNG files and fps.txt; lossless

    scale  enlarges by repeating pixels, so that small frames can be looked at

    Written beside and then renamed: no half of a file stays. Raises ValueError where there are no frames, the
    suffix is unknown, or `path` exists and `force` is not given; a folder is only ever replaced where nothing but
    numbered images is in it.
    """
    path, rate = Path(path), _positive("fps", fps)
    pixels = np.asarray(frames)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise ValueError(
            f"frames to write are uint8 (t, h, w, c) with 1 or 3 channels, not {pixels.dtype} {pixels.shape}"
        )
    if 0 in pixels.shape:
        raise ValueError(f"no frames to write: their shape is {pixels.shape}")
    if scale < 1:
        raise ValueError(f"scale is a whole number, 1 or more, not {scale}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf is from 0 (best) to 51 (worst), not {crf}")
    suffix = path.suffix.lower()
    if suffix == ".gif" and rate > 50:
        raise ValueError(f"a GIF shows at most 50 frames/s, not {fps:g}")
    writers: dict[str, Callable[[Path, np.ndarray, float], None]] = {
        ".mp4": partial(_write_h264, container="mp4", crf=crf),
        ".mov": partial(_write_h264, container="mov", crf=crf),
        ".mkv": _write_lossless,
        ".gif": _write_gif,
        ".npz": _write_npz,
        "": _write_stills,
    }
    if suffix not in writers:
        raise ValueError(f"cannot write {path}: known are .mp4, .mov, .mkv, .gif, .npz, and no suffix for a folder")
    if scale > 1:
        pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    with _beside(path, force) as place:
        writers[suffix](place, pixels, rate)
    return path


@contextmanager
def _beside(path: Path, force: bool) -> Iterator[Path]:
    """A place to write, which becomes `path` if all goes well and vanishes if not."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists; it is replaced only with force")
    if path.is_dir() and not path.suffix and not _ours(path):
        raise ValueError(f"{path} is a folder that holds other things than numbered images: not replaced")
    if path.is_dir() and path.suffix:
        raise ValueError(f"{path} is a folder: not replaced by a file")
    if path.is_file() and not path.suffix:
        raise ValueError(f"{path} is a file: not replaced by a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    place, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        yield place
        if path.is_dir():
            path.rename(old)
        os.replace(place, path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    finally:
        for rest in (place, old):
            if rest.is_dir():
                shutil.rmtree(rest)
            else:
                rest.unlink(missing_ok=True)


def _ours(folder: Path) -> bool:
    return {f.name for f in folder.iterdir()} <= {f.name for f in _stills(folder)} | {"fps.txt"}


def _rgb(frames: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))


def _encode(stream: Any, container: Any, frames: Iterator[Any]) -> None:
    for frame in frames:
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_stream(container: Any, codec: str, format: str, frames: np.ndarray, fps: float) -> Any:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = format
    stream.codec_context.thread_count = 2
    return stream


def _write_h264(place: Path, frames: np.ndarray, fps: float, container: str, crf: int) -> None:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    odd_h, odd_w = frames.shape[1] % 2, frames.shape[2] % 2  # 4:2:0 halves the colour: sides must be even
    frames = np.pad(frames, ((0, 0), (0, odd_h), (0, odd_w), (0, 0)), mode="edge")
    with av.open(str(place), "w", format=container, options={"movflags": "+faststart"}) as out:
        stream = _add_stream(out, "libx264", "yuv420p", frames, fps)
        # A key frame each second, so that players and readers can jump.
        stream.options = {"crf": str(crf), "g": str(max(1, round(fps)))}
        # Say BT.709 and mean it: players guess the matrix of untagged files, each in its own way.
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = 1

        def converted() -> Iterator[Any]:
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(_rgb(pixels), format="rgb24")
                yield frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=_EXACT,
                )

        _encode(stream, out, converted())


def _write_lossless(place: Path, frames: np.ndarray, fps: float) -> None:
    import av

    with av.open(str(place), "w", format="matroska") as out:
        stream = _add_stream(out, "libx264rgb", "rgb24", frames, fps)
        stream.options = {"crf": "0", "g": str(max(1, round(fps)))}
        _encode(stream, out, (av.VideoFrame.from_ndarray(_rgb(x), format="rgb24") for x in frames))


def _write_gif(place: Path, frames: np.ndarray, fps: float) -> None:
    import av

    grey = bool((frames == frames[..., :1]).all())  # a palette of 256 greys is exact
    with av.open(str(place), "w", format="gif", options={"loop": "0"}) as out:
        stream = _add_stream(out, "gif", "gray" if grey else "pal8", frames, fps)
        if grey:
            flat = (np.ascontiguousarray(x[..., 0]) for x in frames)
            _encode(stream, out, (av.VideoFrame.from_ndarray(x, format="gray") for x in flat))
        else:
            _encode(stream, out, _paletted(frames, fps))


def _paletted(frames: np.ndarray, fps: float) -> Iterator[Any]:
    """Frames of 256 colours, the same throughout so that nothing flickers; exact where 256 are enough."""
    import av
    from av.filter import Graph

    graph = Graph()
    h, w = frames.shape[1:3]
    rate = Fraction(fps).limit_denominator(1001)
    source = graph.add_buffer(width=w, height=h, format=av.VideoFormat("rgb24"), time_base=1 / rate)
    split, palette = graph.add("split"), graph.add("palettegen", "reserve_transparent=0")
    use, sink = graph.add("paletteuse", "dither=sierra2_4a"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for i, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(_rgb(pixels), format="rgb24")
        frame.pts, frame.time_base = i, 1 / rate
        source.push(frame)
    source.push(None)
    for _ in range(len(frames)):
        yield sink.pull()


def _write_npz(place: Path, frames: np.ndarray, fps: float) -> None:
    with place.open("wb") as file:
        np.savez_compressed(file, frames=frames, fps=np.float64(fps))


def _write_stills(place: Path, frames: np.ndarray, fps: float) -> None:
    from PIL import Image

    place.mkdir()
    for i, pixels in enumerate(frames):
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(place / f"{i:05d}.png")
    (place / "fps.txt").write_text(f"{fps!r}\n")


# -- clips ----------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Frames start..stop - 1 of a video at `fps`, which one split may use.

    A clip takes each `every`-th of them. `cache` holds them all at the model's size.
    """

    path: Path
    item: int
    fps: float
    every: int
    start: int
    stop: int
    cache: Path | None

    def starts(self, num_frames: int) -> range:
        """Where a clip may begin so that it ends before `stop`."""
        return range(self.start, self.stop - (num_frames - 1) * self.every)


@dataclass(frozen=True)
class VideoClips:
    """Clips of `num_frames` at `size` (h, w) from a folder or file of videos: endless, one for each index.

    Ten videos or more are split by video, in natural order, into `shares` for train, valid and test; fewer are
    each split in time by the same shares, and no clip crosses a border. A clip may start at any frame that the
    video has, between the steps of `fps` too, and every start is as likely as any other. `fps` None means each
    video's own mean rate. `flip` mirrors half of the clips left to right.

    Where the split takes less than `cache_bytes` at this size it is decoded once, into MASKWORLD_CACHE or
    ~/.cache/maskworld; else clips are decoded as they are asked for. `left_out` names what is broken or too
    short, and why. Raises ValueError where nothing is left.
    """

    path: Path | str
    num_frames: int
    size: tuple[int, int]
    fps: Number | None = None
    grey: bool = False
    split: Split = "train"
    seed: int = 0
    flip: bool = False
    shares: tuple[Number, Number, Number] = (0.8, 0.1, 0.1)
    cache_bytes: int = 2 << 30
    spans: tuple[Span, ...] = dataclasses.field(init=False, repr=False, compare=False)
    left_out: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(f"split is one of {get_args(Split)}, not {self.split!r}")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is 1 or more, not {self.num_frames}")
        if min(self.size) < 1:
            raise ValueError(f"a size is (height, width), each 1 pixel or more, not {self.size}")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"the shares of train, valid and test add up to 1, not {self.shares}")
        if self.fps is not None:
            _positive("fps", self.fps)
        spans, left_out = _spans(self)
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "left_out", left_out)

    def __call__(self, index: int) -> Clip:
        """Clip number `index`, a batch of one; its times count steps of `fps` from the video's first frame."""
        place = (self.seed, get_args(Split).index(self.split), index)
        ends = list(accumulate(len(span.starts(self.num_frames)) for span in self.spans))
        pick = mix(*place) % ends[-1]
        which = bisect_right(ends, pick)
        span = self.spans[which]
        clip = self.cut(span, span.starts(self.num_frames)[pick - ends[which]])
        if self.flip and mix(*place, 1) & 1:
            return dataclasses.replace(clip, frames=clip.frames.flip(-1))
        return clip

    def windows(self) -> Iterator[Clip]:
        """Clips of the split that do not overlap in time, in order and unmirrored: for evaluation."""
        for span in self.spans:
            for start in self._apart(span):
                yield self.cut(span, start)

    @property
    def num_windows(self) -> int:
        """How many clips `windows` gives."""
        return sum(len(self._apart(span)) for span in self.spans)

    def _apart(self, span: Span) -> range:
        return span.starts(self.num_frames)[:: self.num_frames * span.every]

    def cut(self, span: Span, start: int) -> Clip:
        if span.cache is None:
            since, n = start / span.fps, self.num_frames
            stills = _frames(span.path, since, None, span.fps, n, self.size, self.grey, "center", span.item, span.every)
            pixels = np.stack(list(stills))
            if len(pixels) < n:
                raise ValueError(f"{span.path} ends early: {len(pixels)} of {n} frames from {since:g} s on")
        else:
            if not span.cache.exists():  # swept away since
                _fill_cache(span.cache, span.path, span.item, self.size, span.fps, self.grey)
            pixels = np.array(_mapped(span.cache)[start :: span.every][: self.num_frames])
        frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)[None, None].float().contiguous()
        return of_frames(frames.div_(127.5).sub_(1), start // span.every)


def _spans(clips: VideoClips) -> tuple[tuple[Span, ...], tuple[str, ...]]:
    """What the split may use, and what is left out of it, with the reason. Fills the cache."""
    left_out: list[str] = []
    videos = [(path, item) for path in find(clips.path) for item in range(_num_videos(path))]
    by_video = len(videos) >= 10
    if by_video:
        low, high = _share(len(videos), clips.split, clips.shares)
        videos = videos[low:high]
    found: list[tuple[VideoInfo, Span]] = []
    for path, item in videos:
        try:
            info = probe(path)
        except ValueError as error:
            left_out.append(str(error))
            continue
        fps = float(clips.fps or info.fps)
        every = max(1, math.floor(info.fps / fps + 1e-3))  # the finest steps that the video has frames for
        fine = fps * every
        count = max(1, math.ceil((info.seconds - 2 * _EPS) * fine))  # times k / fine that fall into the video
        found.append((info, Span(path, item, fine, every, 0, count, None)))
    h, w = clips.size
    cached = sum(span.stop for _, span in found) * h * w * (1 if clips.grey else 3) <= clips.cache_bytes
    if cached:
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"no place for decoded videos ({error}): set MASKWORLD_CACHE to a folder") from None
    spans, longest = [], (-1, "")
    for info, span in _progress(found, cached):
        cache, count = None, span.stop
        if cached:
            try:
                cache, count = _cached(span.path, span.item, clips.size, span.fps, clips.grey)
            except ValueError as error:
                left_out.append(str(error))
                continue
        if not info.whole:
            left_out.append(f"truncated: {span.path}: only its first {count / span.fps:.2f} s are used")
        low, high = (0, count) if by_video else _share(count, clips.split, clips.shares)
        if low > 0:  # where steps are finer than the video's own, a frame is held over several: not over a border
            low += math.ceil(span.fps / info.fps - 1e-3) - 1
        span = span._replace(start=low, stop=high, cache=cache)
        if span.starts(clips.num_frames):
            spans.append(span)
            continue
        have, rate = -(-(high - low) // span.every), span.fps / span.every
        left_out.append(
            f"too short: {span.path} has {have} frames for it at {rate:g} frames/s, {info.seconds:g} s in all"
        )
        longest = max(longest, (have, left_out[-1]))
    _array_of.cache_clear()
    if not spans and longest[1]:
        raise ValueError(
            f"the {clips.split} split of {clips.path} has no {clips.num_frames} frames in a row ({longest[1]}): "
            "ask for fewer frames, for more frames per second, for other shares or for another split"
        )
    if not spans:
        reasons = "; ".join(left_out[:3]) or "no video falls to it"
        raise ValueError(f"nothing can be read in the {clips.split} split of {clips.path}: {reasons}")
    return tuple(spans), tuple(left_out)


def _num_videos(path: Path) -> int:
    if _kind(path) != "array":
        return 1
    try:
        return len(_array(path)[0])
    except ValueError:  # said later, where it can be left out
        return 1


def _share(count: int, split: Split, shares: tuple[Number, Number, Number]) -> tuple[int, int]:
    """The places of a split among `count`: train, valid and test in a row."""
    if split == "all":
        return 0, count
    which = get_args(Split).index(split)
    low, high = (math.floor(count * sum(shares[:n]) + 1e-6) for n in (which, which + 1))
    return low, high


def _progress(videos: list, show: bool) -> Iterator:
    from tqdm import tqdm

    # Silent unless it takes a while and someone sits before it.
    return iter(tqdm(videos, "decoding once", disable=None if show else True, delay=2, leave=False, unit="video"))


def cache_folder() -> Path:
    """Where decoded videos are kept: MASKWORLD_CACHE, or ~/.cache/maskworld."""
    return Path(os.environ.get("MASKWORLD_CACHE") or "~/.cache/maskworld").expanduser() / "video"


def _cached(path: Path, item: int, size: tuple[int, int], fps: float, grey: bool) -> tuple[Path, int]:
    """The array of a video at model size, made if it is not there or the video has changed."""
    what = _digest(path.resolve(), item, size, fps, grey, _CACHE_VERSION)
    files = [path] if path.is_file() else [*_stills(path), path / "fps.txt"]
    when = _digest(*((f.name, s.st_size, s.st_mtime_ns) for f in files if f.exists() for s in [f.stat()]))
    cache = cache_folder() / f"{what}-{when}.npy"
    if not cache.exists():
        _fill_cache(cache, path, item, size, fps, grey)
        for old in cache.parent.glob(f"{what}-*.npy"):  # of the video before it changed
            if old != cache:
                with suppress(OSError):
                    old.unlink()
    return cache, len(_mapped(cache))


@lru_cache(maxsize=64)
def _mapped(cache: Path) -> np.ndarray:
    """(t h w c) on the disk; opening it takes as long as cutting a clip out of it, so it stays open."""
    return np.load(cache, mmap_mode="r", allow_pickle=False)


_CACHE_VERSION = 1  # raise it when the same video would give other pixels


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _fill_cache(cache: Path, path: Path, item: int, size: tuple[int, int], fps: float, grey: bool) -> None:
    """Decode a video into an .npy file, frame by frame; of a truncated one, what there is.

    numpy leaves room in the header for a first axis of any length, so the count is put in at the end.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (0, *size, 1 if grey else 3)}
    with _beside(cache, force=True) as place, place.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        body, count = file.tell(), 0
        try:
            for pixels in _frames(path, 0.0, None, fps, None, size, grey, "center", item):
                file.write(np.ascontiguousarray(pixels).data)
                count += 1
        except Truncated:
            if count == 0:
                raise
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *header["shape"][1:])})
        assert file.tell() == body, f"the header grew from {body} to {file.tell()} bytes"


# -- show -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One video of an inspection: what it is, or what is wrong with it; both where a part can be read."""

    path: Path
    info: VideoInfo | None
    trouble: str | None


def inspect(path: Path | str) -> list[Row]:
    """Look into every video under `path`: headers, first frame, end. Raises ValueError if there are none."""
    rows = []
    for video in find(path):
        try:
            info = probe(video)
        except ValueError as error:
            rows.append(Row(video, None, str(error)))
            continue
        trouble = None if info.whole else f"truncated: {video}: {info.frames} frames can be read"
        rows.append(Row(video, info, trouble))
    return rows


def summary(rows: list[Row]) -> dict[str, object]:
    """The inspection in numbers, ready for JSON."""
    infos = [row.info for row in rows if row.info]
    lengths = [info.frames for info in infos]
    return {
        "videos": sum(info.videos for info in infos),
        "files": len(rows),
        "frames": sum(info.videos * info.frames for info in infos),
        "seconds": round(sum(info.videos * info.seconds for info in infos), 3),
        "shortest": min(lengths, default=0),
        "longest": max(lengths, default=0),
        "sizes": dict(Counter(f"{info.width}x{info.height}" for info in infos)),
        "fps": dict(Counter(f"{info.fps:g}" for info in infos)),
        "codecs": dict(Counter(info.codec for info in infos)),
        "broken": [row.trouble for row in rows if row.trouble],
    }


def still_sheet(frames: UInt8[Tensor, "t h w c"], columns: int, gap: int = 2) -> UInt8[Tensor, "H W c"]:
    """Frames side by side, row after row, white between them: a contact sheet to look at."""
    t, h, w, c = frames.shape
    if t == 0 or columns < 1:
        raise ValueError(f"a sheet needs a frame and a column at least, not {t} and {columns}")
    columns = min(columns, t)
    lines = -(-t // columns)
    sheet = frames.new_full((lines * (h + gap) - gap, columns * (w + gap) - gap, c), 255)
    for i, frame in enumerate(frames):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = frame
    return sheet


def write_still(path: Path | str, image: UInt8[Tensor, "h w c"], *, force: bool = False) -> Path:
    """Write one image as PNG, beside and renamed. Raises ValueError where it exists without `force`."""
    from PIL import Image

    path, pixels = Path(path), image.numpy()
    if path.suffix.lower() != ".png":
        raise ValueError(f"an image is written as .png, not {path.name}")
    with _beside(path, force) as place:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(place, format="PNG")
    return path
