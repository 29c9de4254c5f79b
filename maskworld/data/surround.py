"""Logs: what several cameras of one car recorded, from any source, and scenes of them on disk.

World: x and y on the ground, z up, metres. Ego: x forward, y left, z up, on the ground under the rear axle. Camera:
x right, y down, z forward. Actions are (speed in m/s, curvature in 1/m, positive to the left): what the car does from
a frame to the next, along an arc.

Our format is a folder: `surround.json` says the format and where the scenes come from; `00000.npz`, `00001.npz`, ...
hold one each: frames uint8 "v t h w 3", intrinsics "v 3 3", pose "v t 4 4", ego "t 4 4", actions "t 2", fps, cameras;
and where they are known depth float16 "v t h w", known "v t", ids, flow, boxes, bev, domain.

Sections: a log - in memory - a drive - actions - poses that jump - sizes - ours on disk - for training.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int32, UInt8
from torch import Tensor

from maskworld.clip import Cameras, Clip, at_frames, join, span, to_uint8
from maskworld.data.drive import Boxes, Rig, Scene, rig

FORMAT = "maskworld surround 1"
ABOUT = "surround.json"
RING = ("front_left", "front", "front_right", "back_right", "back", "back_left")
"""The order of six cameras, clockwise as seen from above."""

MAX_SPEED, MAX_CURVATURE = 70.0, 1.0
"""Of actions in the right units: m/s and 1/m."""

Known = Bool[Tensor, "1 v t 1 1"]
"""False where a view has no frame."""

# -- a log ------------------------------------------------------------------------------------------


@runtime_checkable
class Log(Protocol):
    """What the cameras of one car recorded, at `fps` frames a second on one time line.

    sizes    (height, width) of each camera's frames
    known    False where a camera has no frame at that time
    ego      car to world, in metres
    actions  speed and curvature
    """

    @property
    def name(self) -> str: ...
    @property
    def fps(self) -> float: ...
    @property
    def cameras(self) -> tuple[str, ...]: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def sizes(self) -> tuple[tuple[int, int], ...]: ...
    @property
    def known(self) -> Bool[np.ndarray, "v t"]: ...
    @property
    def ego(self) -> Float64[np.ndarray, "t 4 4"]: ...
    @property
    def actions(self) -> Float32[np.ndarray, "t 2"]: ...

    def clip(
        self, start: int, stop: int, cameras: Sequence[str] | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Clip, Known]:
        """Frames start..stop - 1 of some cameras, all of them otherwise; and where a view has no frame (its pixels 0).

        With a `size` (height, width) they are resized, antialiased, and cut to it about their centre. Raises ValueError
        for frames and cameras that are not there, and for cameras of different sizes where no `size` is asked for.
        """
        ...

    def boxes(self, frame: int) -> Boxes | None:
        """What stands around at a frame, in the world; None where nobody says."""
        ...

    def bev(self, frame: int) -> Bool[np.ndarray, "3 gx gy"] | None:
        """Road, lane marks and cars about the car, as `drive.bev` has them; None where nobody says."""
        ...

    def recording(self, size: tuple[int, int] | None = None) -> Recording:
        """All of it in memory, to be written."""
        ...


def check_span(log: str, num_frames: int, start: int, stop: int) -> None:
    """Raise ValueError where a log has no frames start..stop - 1."""
    if not 0 <= start < stop <= num_frames:
        raise ValueError(f"{log} has {num_frames} frames: there are none from {start} to {stop - 1}")


def numbers(log: str, there: Sequence[str], asked: Sequence[str] | None) -> list[int]:
    """Which views of a log are those cameras; all where none are named. ValueError for one that it has not."""
    if asked is None:
        return list(range(len(there)))
    if isinstance(asked, str) or not asked:
        raise ValueError(f"cameras are a list of names such as {there[0]}, not {asked!r}")
    for name in asked:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}"
            raise ValueError(f"{log} has no camera {name}: {hint}")
    return [there.index(name) for name in asked]


def ring(cameras: Iterable[str]) -> list[str]:
    """Cameras in the order of the ring; others after them, by name."""
    return sorted(cameras, key=lambda name: (RING.index(name) if name in RING else len(RING), name))


# -- in memory --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recording:
    """A log that lies in memory; it can be written.

    frames   of views without one at that time (`known` False): 0
    objects  what stands around, frame by frame
    maps     road, lane marks and cars about the car, frame by frame
    ids, flow, domain   as `drive.render` and `drive.Scene` have them
    """

    name: str
    fps: float
    cameras: tuple[str, ...]
    frames: UInt8[np.ndarray, "v t h w 3"]
    intrinsics: Float32[np.ndarray, "v 3 3"]
    pose: Float64[np.ndarray, "v t 4 4"]
    ego: Float64[np.ndarray, "t 4 4"]
    actions: Float32[np.ndarray, "t 2"]
    known: Bool[np.ndarray, "v t"]
    depth: Float16[np.ndarray, "v t h w"] | None = None
    ids: Int32[np.ndarray, "v t h w"] | None = None
    flow: Float16[np.ndarray, "v t 3 h w"] | None = None
    objects: tuple[Boxes, ...] | None = None
    maps: Bool[np.ndarray, "t 3 gx gy"] | None = None
    domain: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(_arrays(self))

    @property
    def num_frames(self) -> int:
        return self.frames.shape[1]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        h, w = self.frames.shape[2:4]
        return ((h, w),) * len(self.cameras)

    def clip(
        self, start: int, stop: int, cameras: Sequence[str] | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Clip, Known]:
        """As `Log.clip`."""
        check_span(self.name, self.num_frames, start, stop)
        views = numbers(self.name, self.cameras, cameras)
        h, w = self.frames.shape[2:4]
        size = (h, w) if size is None else size
        frames = rearrange(torch.from_numpy(self.frames[views, start:stop]), "v t h w c -> v t c h w")
        known = torch.from_numpy(self.known[views, start:stop].copy())
        pixels = fit_frames(frames.flatten(0, 1).to(torch.float32) / 127.5 - 1, size).unflatten(0, frames.shape[:2])
        depth = None
        if self.depth is not None:
            depth = fit_depth(torch.from_numpy(self.depth[views, start:stop]).to(torch.float32), size)
        return clip_of(
            pixels,
            known,
            start,
            torch.from_numpy(self.actions[start:stop]),
            fit_intrinsics(torch.from_numpy(self.intrinsics[views]), (h, w), size),
            torch.from_numpy(self.pose[views, start:stop]),
            depth,
            self.ego[start:stop],
        )

    def boxes(self, frame: int) -> Boxes | None:
        """As `Log.boxes`."""
        check_span(self.name, self.num_frames, frame, frame + 1)
        return None if self.objects is None else self.objects[frame]

    def bev(self, frame: int) -> Bool[np.ndarray, "3 gx gy"] | None:
        """As `Log.bev`."""
        check_span(self.name, self.num_frames, frame, frame + 1)
        return None if self.maps is None else self.maps[frame]

    def recording(self, size: tuple[int, int] | None = None) -> Recording:
        """As `Log.recording`; ids and flow are lost where the size changes."""
        return self if size in (None, self.frames.shape[2:4]) else record(self, self.pose, self.domain, size)


def _check(held: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, in one line, for arrays that do not go together."""
    frames, fps = held["frames"], float(held["fps"])
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[4] != 3:
        raise ValueError(f"frames are uint8 (v, t, h, w, 3), not {frames.dtype} {frames.shape}")
    v, t, h, w, _ = frames.shape
    if min(v, t, h, w) < 1:
        raise ValueError(f"{v} views of {t} frames of {h}x{w}: there is nothing in them")
    names = [str(name) for name in held["cameras"]]
    if len(names) != v or len(set(names)) != v:
        raise ValueError(f"{v} views want as many different camera names, not {', '.join(names)}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps is a number above 0, not {fps:g}")
    wanted = {"intrinsics": (v, 3, 3), "pose": (v, t, 4, 4), "ego": (t, 4, 4), "known": (v, t)}
    wanted |= {"depth": (v, t, h, w), "ids": (v, t, h, w), "flow": (v, t, 3, h, w)}
    for key, shape in wanted.items():
        if key in held and held[key].shape != shape:
            raise ValueError(f"{key} of {v} views and {t} frames of {h}x{w} are {shape}, not {held[key].shape}")
    for key in ("intrinsics", "pose", "ego"):
        if held[key].dtype.kind not in "fiu" or not np.isfinite(held[key]).all():
            raise ValueError(f"{key} has NaN, infinite numbers, or what is no number")
    check_actions(held["actions"], t)
    if "bev" in held and (held["bev"].ndim != 4 or held["bev"].shape[:2] != (t, 3)):
        raise ValueError(f"bev of {t} frames is ({t}, 3, gx, gy), not {held['bev'].shape}")
    if "boxes" in held:
        rows, many = held["boxes"], len(held.get("categories", ()))
        if rows.ndim != 2 or rows.shape[1] != 11 or many != len(rows):
            raise ValueError(f"boxes are (n, 11) with a category each, not {rows.shape} with {many}")


def clip_of(
    pixels: Float[Tensor, "v t c h w"],
    known: Bool[Tensor, "v t"],
    start: int,
    actions: Float[Tensor, "t 2"],
    intrinsics: Float[Tensor, "v 3 3"],
    pose: Float[Tensor, "v t 4 4"],
    depth: Float[Tensor, "v t h w"] | None,
    ego: Float[np.ndarray, "t 4 4"],
) -> tuple[Clip, Known]:
    """A batch of one from the parts of a log; nothing is left of views without a frame."""
    pixels = pixels * known[:, :, None, None, None]
    times = torch.arange(start, start + pixels.shape[1])[None]
    car = torch.from_numpy(np.asarray(ego, dtype=np.float32))[None]
    cameras = Cameras(intrinsics[None].to(torch.float32), pose[None].to(torch.float32), car)
    if depth is not None:
        depth = (depth * known[:, :, None, None])[None]
    clip = Clip(pixels[None], times, actions[None].to(torch.float32).clone(), cameras, depth)
    return clip, rearrange(known, "v t -> 1 v t 1 1")


def record(
    log: Log, pose: Float64[np.ndarray, "v t 4 4"], domain: Mapping[str, Any], size: tuple[int, int] | None
) -> Recording:
    """All of a log as it is at a size; `pose` of its cameras is in float64, which a clip is not."""
    clip, known = log.clip(0, log.num_frames, None, size)
    assert clip.cameras is not None
    boxes = [log.boxes(i) for i in range(log.num_frames)]
    maps = [log.bev(i) for i in range(log.num_frames)]
    frames = to_uint8(clip.frames[0]).numpy()
    frames[~known[0, :, :, 0, 0].numpy()] = 0
    return Recording(
        log.name,
        log.fps,
        log.cameras,
        frames,
        clip.cameras.intrinsics[0].numpy(),
        pose,
        log.ego,
        log.actions,
        log.known,
        None if clip.depth is None else clip.depth[0].numpy().astype(np.float16),
        objects=None if any(b is None for b in boxes) else tuple(b for b in boxes if b is not None),
        maps=None if any(m is None for m in maps) else np.stack([m for m in maps if m is not None]),
        domain=domain,
    )


# -- a drive ----------------------------------------------------------------------------------------

_CHUNK = 20  # frames that are rendered together


def of_drive(scene: Scene, rig: Rig, name: str, device: torch.device | str = "cpu") -> Recording:
    """A drive of ours, filmed by a rig: everything that is known of it."""
    import dataclasses

    from maskworld.data import drive

    t = scene.num_frames
    parts = []
    for start in range(0, t, _CHUNK):
        views = drive.render(scene, rig, range(start, min(start + _CHUNK, t)), torch.device(device))
        parts.append(
            (
                to_uint8(views.rgb).cpu().numpy(),
                views.depth.cpu().numpy().astype(np.float16),
                views.ids.cpu().numpy().astype(np.int32),
                views.flow.cpu().numpy().astype(np.float16),
            )
        )
    frames, depth, ids, flow = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
    ego = scene.ego.cpu().double().numpy()
    mount = rig.mount.cpu().double().numpy()
    return Recording(
        name,
        float(scene.fps),
        tuple(rig.names),
        frames,
        rig.intrinsics.cpu().float().numpy(),
        ego[None] @ mount[:, None],
        ego,
        scene.actions.cpu().float().numpy(),
        np.ones((len(rig.names), t), bool),
        depth,
        ids,
        flow,
        tuple(drive.boxes(scene, i) for i in range(t)),
        np.stack([drive.bev(scene, i).cpu().numpy() for i in range(t)]),
        dataclasses.asdict(scene.domain),
    )


# -- actions ----------------------------------------------------------------------------------------


def check_actions(actions: np.ndarray, num_frames: int) -> None:
    """Raise ValueError for what are no actions of a drive: their shape, or the units they seem to be in."""
    if actions.shape != (num_frames, 2):
        raise ValueError(
            f"actions of {num_frames} frames are ({num_frames}, 2), speed and curvature, not {actions.shape}"
        )
    if not np.isfinite(actions).all():
        raise ValueError(f"the action at frame {int(np.flatnonzero(~np.isfinite(actions).all(1))[0])} is not a number")
    for column, most, what, unit in (
        (0, MAX_SPEED, "speed", "m/s (not km/h)"),
        (1, MAX_CURVATURE, "curvature", "1/m (not degrees, nor a steering angle)"),
    ):
        far = np.abs(actions[:, column])
        if far.max() > most:
            frame = int(far.argmax())
            raise ValueError(f"{what} {actions[frame, column]:g} at frame {frame}: it is in {unit}, {most:g} at most")


def actions_of(ego: Float64[np.ndarray, "t 4 4"], seconds: Float64[np.ndarray, " t"]) -> Float32[np.ndarray, "t 2"]:
    """Speed and curvature of the arcs that lead from pose to pose; the last is as the one before.

    A car that goes less than 1 cm from frame to frame stands: its curvature is 0.
    """
    actions = np.zeros((len(ego), 2))
    if len(ego) > 1:
        yaw = np.arctan2(ego[:, 1, 0], ego[:, 0, 0])
        turn = (np.diff(yaw) + np.pi) % (2 * np.pi) - np.pi
        step, middle = np.diff(ego[:, :2, 3], axis=0), yaw[:-1] + turn / 2
        chord = step[:, 0] * np.cos(middle) + step[:, 1] * np.sin(middle)
        arc = chord / np.sinc(turn / (2 * np.pi))
        actions[:-1, 0] = arc / np.diff(seconds)
        goes = np.abs(arc) >= 0.01
        actions[:-1, 1][goes] = np.clip(turn[goes] / arc[goes], -MAX_CURVATURE, MAX_CURVATURE)
        actions[-1] = actions[-2]
    return actions.astype(np.float32)


# -- poses that jump --------------------------------------------------------------------------------


class Jump(NamedTuple):
    """From a frame to the next the car goes further than a car can."""

    frame: int
    metres: float


def jumps(ego: Float64[np.ndarray, "t 4 4"], every: int, most: float) -> list[Jump]:
    """Where a car that is looked at every so many frames goes more than `most` metres in between: of each such piece
    the longest step, once."""
    if len(ego) <= every:
        return []
    step = np.linalg.norm(np.diff(ego[:, :3, 3], axis=0), axis=1)
    far = np.linalg.norm(ego[every:, :3, 3] - ego[:-every, :3, 3], axis=1) > most
    frames = {int(first + step[first : first + every].argmax()) for first in np.flatnonzero(far)}
    return [Jump(frame, float(step[frame])) for frame in sorted(frames)]


def said(found: Sequence[Jump], most: int = 3) -> str:
    """In words: 500 m from frame 4 to 5, ..."""
    parts = [f"{metres:.4g} m from frame {frame} to {frame + 1}" for frame, metres in found[:most]]
    return ", ".join(parts) + (f" and {len(found) - most} times more" if len(found) > most else "")


# -- sizes ------------------------------------------------------------------------------------------


def scaled(there: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """To what frames of `there` are resized so that `size`, both (height, width), can be cut from their middle."""
    if min(size) < 1:
        raise ValueError(f"frames of {size[0]}x{size[1]}: 1 pixel or more are needed")
    (h, w), (th, tw) = there, size
    scale = max(th / h, tw / w)
    return max(th, round(h * scale)), max(tw, round(w * scale))


def fit_frames(frames: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c th tw"]:
    """Resized, antialiased, and cut to `size` about their centre."""
    there = (frames.shape[-2], frames.shape[-1])
    between = scaled(there, size)
    if between != there:
        frames = F.interpolate(frames, between, mode="bilinear", antialias=True, align_corners=False)
    return _cut(frames, size)


def fit_depth(depth: Float[Tensor, "v t h w"], size: tuple[int, int]) -> Float[Tensor, "v t th tw"]:
    """As `fit_frames`, but each pixel keeps the depth of one: what lies before and behind is not mixed."""
    there = (depth.shape[-2], depth.shape[-1])
    between = scaled(there, size)
    if between != there:
        depth = F.interpolate(depth, between, mode="nearest-exact")
    return _cut(depth, size)


def fit_intrinsics(
    intrinsics: Float[Tensor, "*n 3 3"], there: tuple[int, int], size: tuple[int, int]
) -> Float[Tensor, "*n 3 3"]:
    """Those of frames that `fit_frames` has brought from `there` to `size`."""
    (rh, rw), (h, w), fitted = scaled(there, size), there, intrinsics.clone()
    fitted[..., 0, :] *= rw / w
    fitted[..., 1, :] *= rh / h
    fitted[..., 0, 2] -= (rw - size[1]) // 2
    fitted[..., 1, 2] -= (rh - size[0]) // 2
    return fitted


def _cut(x: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


# -- ours on disk -----------------------------------------------------------------------------------

_KEYS = ("frames", "intrinsics", "pose", "ego", "actions", "fps", "cameras")
_FILE = r"\d{5,}\.npz"


class Stored:
    """A log in a file of ours: only its headers are read until its frames are asked for."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.stem
        held, shapes = _look(path)
        self.fps, self.cameras = float(held["fps"]), tuple(str(name) for name in held["cameras"])
        v, self.num_frames, h, w, _ = shapes["frames"]
        self.sizes = ((h, w),) * len(self.cameras)
        self.known: Bool[np.ndarray, "v t"] = held.get("known", np.ones((v, self.num_frames), bool))
        self.ego: Float64[np.ndarray, "t 4 4"] = held["ego"].astype(np.float64)
        self.actions: Float32[np.ndarray, "t 2"] = held["actions"].astype(np.float32)

    def clip(
        self, start: int, stop: int, cameras: Sequence[str] | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Clip, Known]:
        """As `Log.clip`."""
        return self._load(False).clip(start, stop, cameras, size)

    def boxes(self, frame: int) -> Boxes | None:
        """As `Log.boxes`."""
        return self._load(False).boxes(frame)

    def bev(self, frame: int) -> Bool[np.ndarray, "3 gx gy"] | None:
        """As `Log.bev`."""
        return self._load(False).bev(frame)

    def recording(self, size: tuple[int, int] | None = None) -> Recording:
        """As `Log.recording`."""
        return self._load(True).recording(size)

    def _load(self, whole: bool) -> Recording:
        return _load(self.path, self.path.stat().st_mtime_ns, whole)


def read(path: Path | str, depth: bool = False) -> Sequence[Log]:
    """The logs of a folder of ours, of one of its files, or of a folder that holds nuScenes (see `data.nuscenes`), of
    which `depth` asks for that of its LiDAR.

    Raises ValueError where there are none.
    """
    from maskworld.data import nuscenes

    path = Path(path)
    if path.is_dir() and (path / ABOUT).is_file():
        _about(path)
        files = _numbered(path)
        if not files:
            raise ValueError(f"{path} holds no scenes yet")
        return [_stored(file, file.stat().st_mtime_ns) for file in files]
    if path.is_file() and path.suffix.lower() == ".npz":
        return [_stored(path, path.stat().st_mtime_ns)]
    if nuscenes.there(path):
        return nuscenes.read(path, depth=depth)
    if not path.exists():
        raise ValueError(f"no scenes in {path}: there is no such file or folder")
    raise ValueError(f"no scenes in {path}: a folder with {ABOUT}, one of its .npz files, or nuScenes is wanted")


def there(path: Path | str) -> bool:
    """Whether a path is one that `read` reads."""
    from maskworld.data import nuscenes

    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                return {f"{key}.npy" for key in _KEYS} <= set(archive.namelist())
        except (zipfile.BadZipFile, OSError):
            return False
    return (path / ABOUT).is_file() or nuscenes.there(path)


def write(
    folder: Path | str,
    recordings: Iterable[Recording],
    source: Mapping[str, Any] | None = None,
    force: bool = False,
    start: int = 0,
) -> None:
    """Write scenes one by one into a folder, each beside and then renamed: what is written stays, whatever happens.

    `source` says where they come from and is written as it is. `start` is the number of the first: a folder that
    already holds that many goes on (see `held`). ValueError where the folder holds scenes or other files and `force`
    is not given; `force` removes its scenes, and nothing else.
    """
    folder, source = Path(folder), dict(source or {})
    if start and start != held(folder, source):
        raise ValueError(f"{folder} holds {held(folder, source)} scenes: number {start} is not the next")
    if not start:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; scenes need a folder")
        if folder.exists() and not force and any(folder.iterdir()):
            raise ValueError(f"{folder} exists; --force replaces the scenes in it")
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if file.name == ABOUT or re.fullmatch(_FILE, file.name):
                file.unlink()
        write_whole(folder / ABOUT, json.dumps({"format": FORMAT, "source": source}, indent=2).encode() + b"\n")
    for number, recording in enumerate(recordings, start):
        bytes_ = io.BytesIO()
        np.savez_compressed(bytes_, **_arrays(recording))  # type: ignore[arg-type]
        write_whole(folder / f"{number:05d}.npz", bytes_.getvalue())


def held(folder: Path | str, source: Mapping[str, Any]) -> int:
    """How many scenes a folder already holds of this source: 0 where there is none. ValueError for something else."""
    folder = Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return 0
    if not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} exists and holds no scenes; --force writes into it all the same")
    about = _about(folder)
    if about["source"] != json.loads(json.dumps(dict(source))):
        raise ValueError(f"{folder} holds other scenes, of {about['source']}; --force replaces them")
    return len(_numbered(folder))


def write_whole(path: Path, bytes_: bytes) -> None:
    """Write a file that is there whole or not at all: beside its place first, then renamed into it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(bytes_)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / ABOUT} is no JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or "source" not in about:
        raise ValueError(f"{folder / ABOUT} is not of the format {FORMAT!r}")
    return about


def _numbered(folder: Path) -> list[Path]:
    """The scenes of a folder: 00000.npz and so on, without a gap."""
    files = sorted(p for p in folder.iterdir() if re.fullmatch(_FILE, p.name))
    for number, file in enumerate(files):
        if int(file.stem) != number:
            raise ValueError(f"{folder} has no {number:05d}.npz, but a later one")
    return files


def _arrays(recording: Recording) -> dict[str, np.ndarray]:
    """What is written of a recording, by key."""
    found: dict[str, np.ndarray] = {
        "frames": recording.frames,
        "intrinsics": recording.intrinsics,
        "pose": recording.pose,
        "ego": recording.ego,
        "actions": recording.actions,
        "known": recording.known,
        "fps": np.array(recording.fps),
        "cameras": np.array(recording.cameras),
        "domain": np.array(json.dumps(dict(recording.domain))),
    }
    optional = {"depth": recording.depth, "ids": recording.ids, "flow": recording.flow, "bev": recording.maps}
    found |= {key: array for key, array in optional.items() if array is not None}
    if recording.objects is not None:
        found["boxes"] = np.concatenate([_rows(i, boxes) for i, boxes in enumerate(recording.objects)])
        found["categories"] = np.array([name for boxes in recording.objects for name in boxes.category], dtype=np.str_)
    return found


def _rows(frame: int, boxes: Boxes) -> Float64[np.ndarray, "n 11"]:
    """frame, id, centre, size, yaw, velocity"""
    parts = (boxes.ids[:, None], boxes.centre, boxes.size, boxes.yaw[:, None], boxes.velocity)
    rows = torch.cat([part.double() for part in parts], 1).numpy()
    return np.concatenate([np.full((len(rows), 1), float(frame)), rows], 1)


def _look(path: Path) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """The small arrays of a file, and the shape of the frames from their header."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = {name.removesuffix(".npy") for name in archive.namelist()}
            if missing := [key for key in _KEYS if key not in there]:
                raise ValueError(f"{path} has no {', '.join(missing)}")
            with archive.open("frames.npy") as file:
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shapes = {"frames": header[np.lib.format.read_magic(file)](file)[0]}
            small = {}
            for key in ("ego", "actions", "fps", "cameras", "known"):
                if key in there:
                    with archive.open(f"{key}.npy") as file:
                        small[key] = np.lib.format.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, zipfile.error, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(shapes["frames"]) != 5 or shapes["frames"][-1] != 3:
        raise ValueError(f"{path}: frames are (v, t, h, w, 3), not {shapes['frames']}")
    try:
        check_actions(small["actions"], shapes["frames"][1])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return small, shapes


@lru_cache(maxsize=1024)
def _stored(path: Path, stamp: int) -> Stored:
    """A file as it was at `stamp`: its headers are read once."""
    return Stored(path)


@lru_cache(maxsize=16)
def _load(path: Path, stamp: int, whole: bool) -> Recording:
    """A file of ours as it was at `stamp`; ids and flow are large and rarely wanted, and come with the `whole`."""
    leave = set() if whole else {"ids", "flow"}
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files if key not in leave}
    except (zipfile.BadZipFile, zipfile.error, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    try:
        return _recording(path.stem, held)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _recording(name: str, held: dict[str, np.ndarray]) -> Recording:
    _check(held)
    frames = held["frames"]
    v, t = frames.shape[:2]
    objects = None
    if "boxes" in held:
        rows, names = held["boxes"], held["categories"]
        objects = tuple(_boxes(rows[rows[:, 0] == i, 1:], names[rows[:, 0] == i]) for i in range(t))

    def cast(key: str, dtype: Any) -> Any:
        return held[key].astype(dtype, copy=False) if key in held else None

    known = held["known"].astype(bool) if "known" in held else np.ones((v, t), bool)
    return Recording(
        name,
        float(held["fps"]),
        tuple(str(camera) for camera in held["cameras"]),
        frames,
        held["intrinsics"].astype(np.float32),
        held["pose"].astype(np.float64),
        held["ego"].astype(np.float64),
        held["actions"].astype(np.float32),
        known,
        cast("depth", np.float16),
        cast("ids", np.int32),
        cast("flow", np.float16),
        objects,
        cast("bev", bool),
        json.loads(str(held["domain"])) if "domain" in held else {},
    )


def _boxes(rows: np.ndarray, names: np.ndarray) -> Boxes:
    x = torch.from_numpy(np.ascontiguousarray(rows, np.float64))
    return Boxes(
        x[:, 0].long(),
        tuple(str(name) for name in names),
        x[:, 1:4].float(),
        x[:, 4:7].float(),
        x[:, 7].float(),
        x[:, 8:10].float(),
    )


# -- for training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogClips:
    """Clips of logs: number `index` of an endless set, `num_frames` frames of `views` cameras, resized to `size`.

    Of many logs every tenth is `valid` and every tenth `test`; of fewer than ten the last fifth of each is both.
    Only frames that all of the cameras have are shown. With `cut` frames before which there are not enough of them, as
    at the beginning of a log, end a clip, too: its first frame, and its time, stand in for those before.
    Raises ValueError where there are none such.
    """

    path: Path
    num_frames: int
    views: int = 1
    size: tuple[int, int] = (48, 96)
    fps: float | None = None
    split: Literal["train", "valid", "test"] = "train"
    seed: int = 0
    depth: bool = False
    cut: bool = False

    def __post_init__(self) -> None:
        if not self._places:
            many = 1 if self.cut else self.num_frames
            raise ValueError(
                f"{self.path} has no {many} frames in a row, of {', '.join(self.cameras)}, for {self.split}"
            )

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Those that are shown."""
        return rig(self.views, self.size).names

    @cached_property
    def _logs(self) -> Sequence[Log]:
        return read(self.path, self.depth)

    def where(self, index: int) -> str:
        """What a clip was cut from, in words."""
        number, first, every, there = self._place(index)
        return f"{self._logs[number].name} of {self.path}, frames {first} to {first + every * (there - 1)}"

    def jumps(self, most: float) -> dict[str, list[Jump]]:
        """By log, between frames that clips show one after another: see `jumps`."""
        found = {}
        for number in sorted({place[0] for place in self._places}):
            log = self._logs[number]
            if far := jumps(log.ego, self._every(log), most):
                found[log.name] = far
        return found

    def _every(self, log: Log) -> int:
        return 1 if self.fps is None else max(round(log.fps / self.fps), 1)

    def _place(self, index: int) -> tuple[int, int, int, int]:
        return self._places[int(np.random.default_rng([self.seed, index]).integers(len(self._places)))]

    @cached_property
    def _places(self) -> list[tuple[int, int, int, int]]:
        """(log, first frame, frames to the next, frames that are there) of every clip."""
        logs, found = self._logs, []
        for number, log in enumerate(logs):
            every = self._every(log)
            t, long = log.num_frames, every * (self.num_frames - 1) + 1
            low, high = 0, t
            if len(logs) >= 10:
                part = {8: "valid", 9: "test"}.get(number % 10, "train")
                low, high = (0, t) if part == self.split else (0, 0)
            else:
                low, high = (0, t * 4 // 5) if self.split == "train" else (t * 4 // 5, t)
            whole = np.asarray(log.known[numbers(log.name, log.cameras, self.cameras)].all(axis=0))
            found += [
                (number, first, every, self.num_frames)
                for first in range(low, high - long + 1)
                if bool(whole[first : first + long : every].all())
            ]
            if self.cut:
                found += [(number, first, every, there) for first, there in self._cut(whole, low, high, every)]
        return found

    def _cut(self, whole: Bool[np.ndarray, " t"], low: int, high: int, every: int) -> Iterator[tuple[int, int]]:
        """(first frame, frames that are there) of clips that end before the log has given enough of them."""
        for last in range(low, high):
            there = 0
            while there < self.num_frames and last - there * every >= 0 and whole[last - there * every]:
                there += 1
            first = last - (there - 1) * every
            if 0 < there < self.num_frames and first >= low:
                yield first, there

    def __call__(self, index: int) -> Clip:
        number, first, every, there = self._place(index)
        log = self._logs[number]
        clip, _ = log.clip(first, first + every * (there - 1) + 1, self.cameras, self.size)
        assert clip.actions is not None and clip.cameras is not None
        # Of fewer frames a second: the same way, and as much of a turn, in one step.
        parts = [clip.actions[0, i : i + every] for i in range(0, clip.shape[2], every)]
        way, turn = (
            torch.stack([x.sum(0) for x in xs]) for xs in zip(*[(p[:, 0], p.prod(1)) for p in parts], strict=True)
        )
        many = torch.tensor([len(p) for p in parts])
        acts = torch.stack([way / many, torch.where(way.abs() > 1e-6, turn / way, 0.0)], -1)[None]
        cameras = at_frames(clip.cameras, slice(None, None, every))
        times = torch.arange(there, device=clip.times.device)[None]
        depth = None if clip.depth is None else clip.depth[:, :, ::every]
        found = Clip(clip.frames[:, :, ::every], times, acts, cameras, depth)
        return found if there == self.num_frames else join([span(found, 0, 1)] * (self.num_frames - there) + [found])
