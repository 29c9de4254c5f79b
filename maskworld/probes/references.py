"""Fills that know nothing of the world: what a model must beat before its numbers say anything."""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Clip
from maskworld.masks import check_fits, on_pixels
from maskworld.noise import Rng
from maskworld.verbs import Known


def copy_known(clip: Clip, known: Known, rng: Rng) -> Clip:
    """Each unknown pixel as it was in the frame nearest in time where it is known; the earlier one of two.

    In prediction this is copy-last, in looking back copy-next. A pixel that is never known is mid-grey (0).
    """
    check_fits(known, clip.frames)
    before, after = _neighbours(known)
    away_before, away_after = _away(clip, before), _away(clip, after)
    earlier = away_before <= away_after
    nearest = torch.where(earlier, before, after)
    return _filled(clip, known, _take(clip.frames, nearest), nearest)


def linear_blend(clip: Clip, known: Known, rng: Rng) -> Clip:
    """Each unknown pixel on the straight line between its known neighbours in time.

    With one neighbour this is its copy; a pixel that is never known is mid-grey (0).
    """
    check_fits(known, clip.frames)
    before, after = _neighbours(known)
    away_before, away_after = _away(clip, before), _away(clip, after)
    share = torch.where(away_after.isinf(), 0.0, away_before / (away_before + away_after).clamp(min=1))
    share = torch.where(away_before.isinf(), 1.0, share)  # of the later one
    share = _on_frames(share, clip.frames).to(clip.frames.dtype)
    either = torch.where(before >= 0, before, after)
    first = _take(clip.frames, either)
    last = _take(clip.frames, torch.where(after >= 0, after, either))
    # Not a weighted sum: lerp of two equal pixels is that pixel, bit for bit.
    return _filled(clip, known, torch.lerp(first, last, share), either)


def _neighbours(
    known: Bool[Tensor, "b v t gh gw"],
) -> tuple[Int[Tensor, "b v t gh gw"], Int[Tensor, "b v t gh gw"]]:
    """The known frame at or before each frame, and the one at or after; -1 where there is none."""
    t = known.shape[2]
    place = torch.arange(t, device=known.device)[:, None, None]
    before = torch.where(known, place, -1).cummax(2).values
    after = torch.where(known, place, t).flip(2).cummin(2).values.flip(2)
    return before, torch.where(after == t, -1, after)


def _away(clip: Clip, place: Int[Tensor, "b v t gh gw"]) -> Float[Tensor, "b v t gh gw"]:
    """How far that frame is by the clip's times (memories leave gaps); infinite where there is none."""
    b, v, t, gh, gw = place.shape
    there = clip.times[:, None, :, None, None].expand(b, v, t, gh, gw).gather(2, place.clamp(min=0))
    away = (there - clip.times[:, None, :, None, None]).abs().float()
    return torch.where(place < 0, torch.inf, away)


def _on_frames(value: Tensor, frames: Float[Tensor, "b v t c h w"]) -> Tensor:
    """One value per cell of the grid -> per pixel, the same for all channels."""
    h, w = frames.shape[-2:]
    kh, kw = h // value.shape[-2], w // value.shape[-1]
    return value.repeat_interleave(kh, -2).repeat_interleave(kw, -1)[:, :, :, None]


def _take(frames: Float[Tensor, "b v t c h w"], place: Int[Tensor, "b v t gh gw"]) -> Tensor:
    """Each pixel from the frame that `place` names."""
    return frames.gather(2, _on_frames(place.clamp(min=0), frames).expand(frames.shape))


def _filled(clip: Clip, known: Known, guess: Tensor, place: Int[Tensor, "b v t gh gw"]) -> Clip:
    """The clip with the guess where nothing is known, and grey where there is no guess either."""
    h, w = clip.frames.shape[-2:]
    guess = torch.where(_on_frames(place, clip.frames) < 0, torch.zeros_like(guess), guess)
    given = rearrange(on_pixels(known, h, w), "b v t h w -> b v t 1 h w")
    return dataclasses.replace(clip, frames=torch.where(given, clip.frames, guess))
