"""What the model is shown of the past, and what that costs. State is a value: carried in, carried out.

Sections: the contract - what memories share.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from maskworld.clip import Cameras, Clip, join, span

# -- the contract ---------------------------------------------------------------------------------

State = TypeVar("State")


class Cost(NamedTuple):
    """The budget of a memory, for one example: what it never exceeds, however long the roll-out.

    shown    frames shown at most before a piece
    tokens   tokens shown besides, in `Clip.memory`
    kept     frames kept at most between two pieces, or as many pixels; None grows without bound
    """

    shown: int
    tokens: int
    kept: int | None


@runtime_checkable
class Memory(Protocol[State]):
    """`rollout` asks `recall` for what to show before each new piece, and gives the piece to `store`.

    No call changes the state that it is given.
    """

    @property
    def cost(self) -> Cost:
        """What is shown and kept at most."""
        ...

    def start(self, clip: Clip) -> State:
        """The state after the prompt."""
        ...

    def recall(self, state: State, ahead: Clip) -> Clip:
        """Known frames to show before `ahead`, with the fields that it carries. NaN pixels were never seen."""
        ...

    def store(self, state: State, new: Clip) -> State:
        """The state after a new piece."""
        ...


# -- what memories share --------------------------------------------------------------------------

_OPTIONAL = ("actions", "cameras", "depth")


def last(clip: Clip, num_frames: int) -> Clip:
    """The last frames of the clip, or all of it where it has no more."""
    t = clip.frames.shape[2]
    return span(clip, max(t - num_frames, 0), t)


def pick(clip: Clip, which: Int[Tensor, "b k"]) -> Clip:
    """Frames which[i] of example i, in that order."""
    rows = torch.arange(which.shape[0], device=which.device)[:, None]

    def late(x: Tensor) -> Tensor:
        return x.movedim(2, 1)[rows, which].movedim(1, 2)

    cameras = clip.cameras
    if cameras is not None:
        ego = None if cameras.ego is None else cameras.ego[rows, which]
        cameras = Cameras(cameras.intrinsics, late(cameras.pose), ego)
    return dataclasses.replace(
        clip,
        frames=late(clip.frames),
        times=clip.times[rows, which],
        actions=None if clip.actions is None else clip.actions[rows, which],
        cameras=cameras,
        depth=None if clip.depth is None else late(clip.depth),
    )


def after(clip: Clip, new: Clip) -> Clip:
    """The clip and the new piece after it, with the fields that both carry; tokens of a memory are left out."""

    def lean(one: Clip, other: Clip) -> Clip:
        gone = {name: None for name in _OPTIONAL if getattr(other, name) is None}
        return dataclasses.replace(one, memory=None, **gone)

    return join([lean(clip, new), lean(new, clip)])


def alike(clip: Clip, ahead: Clip) -> Clip:
    """The clip with the fields that `ahead` carries, so that the two can be joined.

    Raises ValueError where the clip lacks actions, cameras or depth that `ahead` has.
    """
    missing = [name for name in _OPTIONAL if getattr(ahead, name) is not None and getattr(clip, name) is None]
    if missing:
        names = " and ".join(missing)
        raise ValueError(f"what lies ahead has {names}, and the prompt has none: give {names} for its frames too")
    gone = {name: None for name in _OPTIONAL if getattr(ahead, name) is None}
    return dataclasses.replace(clip, memory=ahead.memory, **gone)


def cameras_of(clip: Clip, who: str, which: str) -> Cameras:
    """The cameras of a clip. Raises ValueError where it has none; `who` needs them, `which` is the clip's name."""
    if clip.cameras is None:
        raise ValueError(
            f"{who} needs to know where each frame was seen from, and {which} has no cameras: give its intrinsics "
            "and poses (clip.planar makes those of a flat world from offsets in pixels)"
        )
    return clip.cameras
