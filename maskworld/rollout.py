"""Longer than a clip: recall, fill, store, repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from maskworld.clip import Clip, join, span
from maskworld.memory.base import Memory, State
from maskworld.noise import Rng
from maskworld.verbs import Fill


def blank(times: torch.Tensor, like: Clip) -> Clip:
    """What lies ahead: times, and no frames to read. Actions and cameras are added by `dataclasses.replace`."""
    b, v, _, c, h, w = like.shape
    frames = like.frames.new_zeros(b, v, times.shape[1], c, h, w)
    return Clip(frames, times.to(like.times.device))


def at_least_one(what: str, number: int) -> None:
    """Raise ValueError for no frames, clips or whatever it is."""
    if number < 1:
        raise ValueError(f"{number} {what}: 1 or more are needed")


def ahead_of(prompt: Clip, num_frames: int) -> Clip:
    """The `num_frames` frames after a prompt, at its own rate, without frames to read."""
    at_least_one("frames", num_frames)
    step = torch.arange(1, num_frames + 1, device=prompt.times.device)
    return blank(prompt.times[:, -1:] + step, prompt)


def rollout(
    fill: Fill,
    prompt: Clip,
    ahead: Clip,
    memory: Memory[State],
    stride: int,
    rng: Rng,
    on_frame: Callable[[int, int], None] | None = None,
    window: int | None = None,
) -> Clip:
    """What happens after `prompt`, `stride` frames at a time; the frames of `ahead` are never read.

    Before each piece the memory is asked what to show; after it the piece is stored. Only frames and times are
    recalled where `ahead` carries nothing more.

    Args:
        on_frame: told (frames done, frames in all) after each piece.
        window: the most known frames that the model is shown at once. The frames at the end of a piece longer than
            that see none of what the memory shows. None for models that fill a longer piece as one.

    Raises ValueError for a stride below 1, for a stride or a memory longer than the window, and where actions or
    cameras are given for fewer frames than lie ahead.
    """
    if stride < 1:
        raise ValueError(f"a stride of {stride} frames never arrives; it needs 1 or more")
    if window is not None and stride > window:
        raise ValueError(f"a stride of {stride} frames is longer than the window of {window}")
    if window is not None and memory.cost.shown > window:
        raise ValueError(f"the memory shows up to {memory.cost.shown} frames, more than the window of {window}")
    total = ahead.frames.shape[2]
    _enough("actions", None if ahead.actions is None else ahead.actions.shape[1], total)
    _enough("cameras", None if ahead.cameras is None else ahead.cameras.pose.shape[2], total)
    ahead = dataclasses.replace(ahead, frames=torch.zeros_like(ahead.frames))
    state = memory.start(prompt)
    pieces = []
    for start in range(0, total, stride):
        piece = span(ahead, start, min(start + stride, total))
        shown = memory.recall(state, piece)
        t_shown = shown.frames.shape[2]
        tokens = piece.memory if shown.memory is None else shown.memory
        both = join([dataclasses.replace(part, memory=tokens) for part in (shown, piece)])
        known = torch.zeros(*both.frames.shape[:3], 1, 1, dtype=torch.bool, device=both.frames.device)
        known[:, :, :t_shown] = True
        filled = fill(both, known, rng)
        new = dataclasses.replace(span(filled, t_shown, filled.frames.shape[2]), memory=piece.memory)
        state = memory.store(state, new)
        pieces.append(new)
        if on_frame is not None:
            on_frame(min(start + stride, total), total)
    return join(pieces)


def _enough(what: str, given: int | None, total: int) -> None:
    if given is not None and given < total:
        raise ValueError(f"{what} for {given} of the {total} frames ahead: {total - given} are missing")
