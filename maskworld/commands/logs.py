"""What a clip is cut from, at the rate and the size of a model: a video, or a log of several cameras of one car.

Sections: footage - a video - a log.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from maskworld.clip import Cameras, at_frames
from maskworld.data import drive as drive_
from maskworld.data import nuscenes, surround
from maskworld.data import video as video_
from maskworld.papers import maskgwm, mim4d
from maskworld.world import World

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as for videos
AHEAD = 2.0  # seconds that an action may tell of: the last way point of a trajectory

# -- footage --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some frames in a row, in every view of the model; where a view has none, its pixels are 0.

    there     where there is a frame
    drive     speed (m/s) and curvature (1/m) at these frames, and at those after them that are at hand: up to AHEAD
    fps       at which the frames were taken
    note      what was changed about them to fit the model, in words
    """

    pixels: Float[Tensor, "v n c h w"]
    there: Bool[Tensor, "v n"]
    drive: Float[Tensor, "m 2"] | None
    cameras: Cameras | None
    fps: float
    note: str


@dataclass(frozen=True)
class Footage:
    """Frames to cut from, counted at the rate of a model; `read(first, last)` gives those from first to last - 1.

    whole     False where a file breaks off
    views     the cameras of the model, in its order
    notes     what is to be said of it
    """

    name: str
    rate: float
    total: int
    seconds: float
    whole: bool
    views: tuple[str, ...]
    read: Callable[[int, int], Piece]
    notes: tuple[str, ...] = ()


def footage(world: World, path: Path, scene: int | None = None) -> Footage:
    """A video, or a scene of a log (the first one, unless another is named).

    Raises ValueError where there is none such, and for a scene of what is no log.
    """
    if surround.there(path):
        return _of_log(world, path, scene or 0)
    if scene is not None:
        raise ValueError(f"--scene {scene}: {path} is no log of scenes, but a video or nothing that is known")
    return _of_video(world, path)


def views_of(world: World) -> tuple[str, ...]:
    """The cameras of a model, in its order: those that its training saw, where it says so."""
    number = world.reach.views
    said = world.about.get("data", {}).get("cameras")
    return tuple(said) if isinstance(said, list) and len(said) == number else drive_.rig(number).names


def view_of(name: str, views: Sequence[str], why: str) -> int:
    """The place of a camera, by its name here or in nuScenes. Raises ValueError, which begins with `why`, for one that
    there is not."""
    if name.startswith("CAM_"):
        name = nuscenes.camera(name)
    if name not in views:
        near = difflib.get_close_matches(name, views, 1)
        hint = f"did you mean {near[0]}?" if near else f"this model sees {', '.join(views)}"
        raise ValueError(f"{why}: no camera is called {name}; {hint}")
    return views.index(name)


# -- a video --------------------------------------------------------------------------------------


def _of_video(world: World, path: Path) -> Footage:
    """A video is what the front camera saw; the other views of a model have no frames. ValueError where the model wants
    to know where cameras stand."""
    info, fps = video_.probe(path), world.about.get("data", {}).get("fps")
    if isinstance(world.config, mim4d.Config):
        raise ValueError(f"{path} is a video, without calibration and poses: this model wants a log, which has them")
    rate, total = (info.fps, info.frames) if fps is None else (fps, max(int(info.seconds * fps + 1e-6), 1))
    views = views_of(world)
    seen = views.index("front") if "front" in views else 0
    notes = (f"a video is one view, {views[seen]}: the others are filled in",) if len(views) > 1 else ()

    def read(first: int, last: int) -> Piece:
        found = video_.read(
            path, start=first / rate, fps=fps, num_frames=last - first, size=world.size, grey=world.channels == 1
        )
        frames = found.frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels, there = _nothing(world, len(frames))
        pixels[seen], there[seen] = frames, True
        return Piece(pixels, there, None, None, float(found.fps), found.note)

    return Footage(str(path), float(rate), total, float(info.seconds), info.whole, views, read, notes)


def _nothing(world: World, n: int) -> tuple[Float[Tensor, "v n c h w"], Bool[Tensor, "v n"]]:
    v = world.reach.views
    return torch.zeros(v, n, world.channels, *world.size), torch.zeros(v, n, dtype=torch.bool)


# -- a log ----------------------------------------------------------------------------------------


def _of_log(world: World, path: Path, scene: int) -> Footage:
    """A scene of a log, thinned to the rate of the model; cameras that it lacks have no frames. ValueError where the
    model wants to know where those stand."""
    logs = surround.read(path)
    if not 0 <= scene < len(logs):
        raise ValueError(f"--scene {scene}: {path} has scenes 0 to {len(logs) - 1}")
    log, views = logs[scene], views_of(world)
    shown = [name for name in views if name in log.cameras]
    names = dict(zip(shown, shown, strict=True))
    if not shown and len(views) == len(log.cameras) == 1:
        names = {views[0]: log.cameras[0]}
    if not names:
        raise ValueError(f"{log.name} has the cameras {', '.join(log.cameras)}; this model sees {', '.join(views)}")
    lacking = [name for name in views if name not in names]
    if lacking and isinstance(world.config, mim4d.Config):
        raise ValueError(
            f"{log.name} has no camera {', '.join(lacking)}: this model wants to know where each of its cameras stands"
        )
    notes = (f"{log.name} has no camera {', '.join(lacking)}: filled in",) if lacking else ()
    fps = float(world.about.get("data", {}).get("fps") or log.fps)
    every = max(round(log.fps / fps), 1)
    if log.fps < 0.75 * fps:
        raise ValueError(f"{log.name} has {log.fps:g} frames a second; this model has learnt {fps:g}: they are too few")
    rate, total = log.fps / every, -(-log.num_frames // every)
    if abs(rate / fps - 1) > 0.02:
        notes += (f"{log.name} is shown at {rate:g} frames a second; this model has learnt {fps:g}",)
    if isinstance(world.config, mim4d.Config) and (far := surround.jumps(log.ego, every, world.config.jump)):
        notes += (f"{log.name}: the car jumps {surround.said(far)}; nothing is carried across",)

    def read(first: int, last: int) -> Piece:
        start, stop = first * every, min(last * every, log.num_frames)
        clip, known = log.clip(start, stop, tuple(names.values()), world.size)
        pixels, there = _nothing(world, len(range(start, stop, every)))
        for i, name in enumerate(names):
            place = views.index(name)
            pixels[place] = _coloured(clip.frames[0, i, ::every], world.channels)
            there[place] = known[0, i, ::every, 0, 0]
        pixels *= there[..., None, None, None]
        driven = log.actions[start : min(stop + math.ceil(AHEAD * log.fps), log.num_frames)]
        cameras = None
        if clip.cameras is not None and not lacking:
            cameras = at_frames(clip.cameras, slice(None, None, every))
        return Piece(pixels, there, _thinned(torch.from_numpy(driven), every), cameras, rate, "")

    return Footage(log.name, rate, total, total / rate, True, views, read, notes)


def _coloured(frames: Float[Tensor, "n c h w"], channels: int) -> Float[Tensor, "n k h w"]:
    if frames.shape[1] == channels:
        return frames
    if channels == 1:
        return einsum(frames, frames.new_tensor(LUMA), "n c h w, c -> n h w")[:, None]
    return frames.expand(-1, channels, -1, -1)


def _thinned(drive: Float[Tensor, "n 2"], every: int) -> Float[Tensor, "m 2"]:
    """Speed and curvature over steps of `every` frames: as far and turned by as much as frame by frame."""
    parts = []
    for part in drive.split(every):
        way = part[:, 0].sum()
        turned = (part[:, 0] * part[:, 1]).sum()
        parts.append(torch.stack([part[:, 0].mean(), turned / way if way.abs() > 1e-6 else part[:, 1].mean()]))
    return torch.stack(parts)


def told(world: World, drive: Float[Tensor, "n 2"], fps: float) -> Float[Tensor, "n a"]:
    """Speed and curvature as the model's own groups of actions; NaN where one cannot be known.

    A goal and a command speak of what the model sees at once, as in training, and not of the end of a long drive.
    Raises ValueError for other units than m/s and 1/m.
    """
    assert isinstance(world.config, maskgwm.Config)
    groups, reach = world.config.actions, max(world.reach.num_frames, math.ceil(AHEAD * fps))
    if not {"goal", "command"} & set(groups):
        return maskgwm.actions_of(drive[None], fps, groups)[0]
    each = [maskgwm.actions_of(drive[None, i : i + reach], fps, groups)[0, 0] for i in range(len(drive))]
    return torch.stack(each)


def held(cameras: Cameras, before: int, after: int) -> Cameras:
    """Cameras for frames before and after those that there are, too: they stay where they were."""
    pose = cameras.pose
    first, last = pose[:, :, :1].expand(-1, -1, before, -1, -1), pose[:, :, -1:].expand(-1, -1, after, -1, -1)
    ego = cameras.ego
    if ego is not None:
        ego = torch.cat([ego[:, :1].expand(-1, before, -1, -1), ego, ego[:, -1:].expand(-1, after, -1, -1)], dim=1)
    return Cameras(cameras.intrinsics, torch.cat([first, pose, last], dim=2), ego)
