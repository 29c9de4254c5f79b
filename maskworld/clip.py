"""Clip and Cameras: the one data type, and the letters of every axis.

b batch, v view, t time, c channel, h w pixels, gh gw mask grid, n token, d feature, a action.
The same letters stand in every einops pattern and every type of the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """Where each view stands and how it projects.

    `intrinsics` are in pixels of the frames they go with; `pose` maps camera to world, in metres. `ego` is what carries
    them, a car: it maps x ahead, y left, z up, from the ground under it, to the world.
    """

    intrinsics: Float[Tensor, "b v 3 3"]
    pose: Float[Tensor, "b v t 4 4"]
    ego: Float[Tensor, "b t 4 4"] | None = None


@dataclass(frozen=True)
class Clip:
    """Views x time x space, and what belongs to them. Immutable: functions return a new one.

    frames     in [-1, 1]; one camera is v = 1. A tokenizer turns them into codes: one channel, each its number
    times      absolute frame index; a recalled memory may leave gaps
    actions    taken at t, felt at t + 1
    depth      metres along the optical axis; 0 where there is none
    memory     tokens carried from beyond the window
    rewards    received on arrival at t; the first frame of an episode has none: 0
    discounts  1; 0 where an episode ended for good at t, and not because its time was over
    """

    frames: Float[Tensor, "b v t c h w"]
    times: Int[Tensor, "b t"]
    actions: Float[Tensor, "b t a"] | None = None
    cameras: Cameras | None = None
    depth: Float[Tensor, "b v t h w"] | None = None
    memory: Float[Tensor, "b n d"] | None = None
    rewards: Float[Tensor, "b t"] | None = None
    discounts: Float[Tensor, "b t"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """(b, v, t, c, h, w)"""
        b, v, t, c, h, w = self.frames.shape
        return b, v, t, c, h, w


def planar(offset: Float[Tensor, "b t 2"], size: int) -> Cameras:
    """One camera that slides past a flat world: `offset` (x, y) says by how many pixels, frame by frame.

    The world lies at a depth of `size` before it, so that a step of one unit moves the picture by one pixel.
    """
    b, t = offset.shape[:2]
    centre = size / 2
    intrinsics = offset.new_tensor([[size, 0.0, centre], [0.0, size, centre], [0.0, 0.0, 1.0]])
    pose = torch.eye(4, dtype=offset.dtype, device=offset.device).repeat(b, 1, t, 1, 1)
    pose[:, 0, :, :2, 3] = offset
    return Cameras(intrinsics.expand(b, 1, 3, 3), pose)


# How each field is cut and joined: the axis of the batch is 0 everywhere, this is the axis of time.
_TIME_AXIS = {"frames": 2, "times": 1, "actions": 1, "depth": 2, "rewards": 1, "discounts": 1}


def of_frames(frames: Float[Tensor, "b v t c h w"], start: int = 0) -> Clip:
    """A clip of frames alone, its times counted from `start`."""
    b, t = frames.shape[0], frames.shape[2]
    times = torch.arange(start, start + t, device=frames.device).expand(b, t)
    return Clip(frames, times)


def of_uint8(video: UInt8[Tensor, "t h w c"] | UInt8[Tensor, "b t h w c"]) -> Clip:
    """A clip of one camera from 8-bit video, 0..255 -> [-1, 1]."""
    if video.ndim == 4:
        video = video[None]
    frames = video.permute(0, 1, 4, 2, 3)[:, None].to(torch.float32) / 127.5 - 1
    return of_frames(frames.contiguous())


def to_uint8(frames: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n h w c"]:
    """8-bit pixels, [-1, 1] -> 0..255, rounded; the inverse of `of_uint8` on every 8-bit value."""
    bytes_ = ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_.movedim(-3, -1).contiguous()


def at_frames(cameras: Cameras, index: slice | Int[Tensor, " n"]) -> Cameras:
    """Where they stand at some of the frames."""
    ego = None if cameras.ego is None else cameras.ego[:, index]
    return Cameras(cameras.intrinsics, cameras.pose[:, :, index], ego)


def _of_cameras(cameras: Cameras, change) -> Cameras:
    ego = None if cameras.ego is None else change(cameras.ego)
    return Cameras(change(cameras.intrinsics), change(cameras.pose), ego)


def _map(clip: Clip, change, cameras) -> Clip:
    """Change every tensor that is there: change(name, tensor) and cameras(cameras)."""
    changed = {}
    for field in dataclasses.fields(clip):
        value = getattr(clip, field.name)
        if value is not None:
            changed[field.name] = cameras(value) if field.name == "cameras" else change(field.name, value)
    return dataclasses.replace(clip, **changed)


def to(clip: Clip, device: torch.device | str) -> Clip:
    """The clip with every tensor on `device`."""
    return _map(
        clip,
        lambda _, x: x.to(device),
        lambda cam: _of_cameras(cam, lambda x: x.to(device)),
    )


def span(clip: Clip, start: int, stop: int) -> Clip:
    """Frames start..stop - 1 of the clip, with what belongs to them. Cut like a Python slice, but never empty."""
    t = clip.frames.shape[2]
    if not 0 <= start < stop <= t:
        raise ValueError(f"frames {start} to {stop - 1} of a clip of {t} frames: there are none such")

    def cut(name: str, x: Tensor) -> Tensor:
        return x.narrow(_TIME_AXIS[name], start, stop - start) if name in _TIME_AXIS else x

    return _map(clip, cut, lambda cam: at_frames(cam, slice(start, stop)))


def example(clip: Clip, index: slice | Sequence[int] | Int[Tensor, " n"] | Bool[Tensor, " b"]) -> Clip:
    """Some examples of the batch: by number, or those where `index` is True."""
    if not isinstance(index, slice):
        index = torch.as_tensor(index)
    return _map(clip, lambda _, x: x[index], lambda cam: _of_cameras(cam, lambda x: x[index]))


def join(clips: Sequence[Clip]) -> Clip:
    """One clip after another in time. All carry the same fields; memory is the last one's."""
    first = _same_fields(clips)

    def cat(name: str, x: Tensor) -> Tensor:
        if name == "memory":
            assert clips[-1].memory is not None
            return clips[-1].memory
        return torch.cat([getattr(clip, name) for clip in clips], dim=_TIME_AXIS[name])

    def cat_cameras(cam: Cameras) -> Cameras:
        cams = [clip.cameras for clip in clips if clip.cameras is not None]
        egos = [c.ego for c in cams if c.ego is not None]
        ego = torch.cat(egos, dim=1) if len(egos) == len(cams) else None
        return Cameras(cam.intrinsics, torch.cat([c.pose for c in cams], dim=2), ego)

    return _map(first, cat, cat_cameras)


def collate(clips: Sequence[Clip]) -> Clip:
    """One batch of many clips. All carry the same fields and sizes."""
    first = _same_fields(clips)

    def cat(name: str, x: Tensor) -> Tensor:
        return torch.cat([getattr(clip, name) for clip in clips], dim=0)

    def cat_cameras(cam: Cameras) -> Cameras:
        cams = [clip.cameras for clip in clips if clip.cameras is not None]
        egos = [c.ego for c in cams if c.ego is not None]
        ego = torch.cat(egos) if len(egos) == len(cams) else None
        return Cameras(torch.cat([c.intrinsics for c in cams]), torch.cat([c.pose for c in cams]), ego)

    return _map(first, cat, cat_cameras)


def _same_fields(clips: Sequence[Clip]) -> Clip:
    if not clips:
        raise ValueError("no clips to put together")
    there = [[f.name for f in dataclasses.fields(c) if getattr(c, f.name) is not None] for c in clips]
    if any(names != there[0] for names in there):
        raise ValueError(f"clips with different fields cannot be put together: {there}")
    return clips[0]
