"""Dominant motions: how a few things, or the camera, move, found by matching frames and not by learning.

All displacements of whole pixels are tried, up to a number of pixels a frame. Those are taken with which, at each
place, the better one explains best what is there (`_dominant`). A frame moved by one of them shows what moves that way
where it will be; whose pixel is whose is left to a network. This is global motion compensation, as in video coding
(MPEG-4's), with several motions at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEPTH = 3  # frames that are moved along each motion; the two nearest say which these are
SUMMARY = 3  # pictures of what all frames show that a motion was followed through: the least, the most and the mean
SURE = 0.1  # of a place it is sure which motion it has, where the other explains it worse by more than this
STILL = 1e-3  # what the fastest motion costs: where nothing is to be seen, nothing moves


def num_extrapolated(frames: int, motions: int, followed: int = 0) -> int:
    """How many pictures `extrapolated` makes of so many frames."""
    return motions * (min(frames, DEPTH) + SUMMARY * (followed > 0)) if frames > 1 else 0


def num_aligned(frames: int, motions: int, followed: int = 0) -> int:
    """And how many `aligned` makes of the nearest one."""
    layers = 2 * motions if frames > 1 and followed else 0
    return motions * (1 + layers) if frames else 0


class Extrapolated(NamedTuple):
    """pictures  where motions lead, in the order of the motions; what was followed comes after what was moved
    layers    the least and the most of each, in the places of the nearest frame; None where nothing was followed"""

    pictures: Float[Tensor, "b m c h w"]
    layers: Float[Tensor, "b l c h w"] | None


def extrapolated(
    frames: Float[Tensor, "b s c h w"],
    shown: Bool[Tensor, "b s"],
    distance: int = 1,
    *,
    motions: int = 1,
    followed: int = 0,
    reach: int = 4,
    window: int = 17,
) -> Extrapolated:
    """What `frames`, the nearest one first, show of a frame `distance` before or after them, if motions go on.

    For each of the `motions` between the two nearest frames come the nearest DEPTH frames, each moved along it: what
    does move that way is alike in all. `reach` is in pixels a frame; `window`, in pixels, is what is compared at each
    place. Beyond an edge are its own pixels. Grey (0) where one of the two nearest frames is not shown.

    With `followed`, what moves that way is followed back through so many frames, wherever it came from, and the least,
    the most and the mean of what these show there come too: what has long overlapped is taken apart by what each had
    around it before (layers; Wang and Adelson, 1994).

    Raises ValueError for less than two frames, and for a reach, a window or a distance that is not positive.
    """
    s = frames.shape[1]
    if s < 2 or min(distance, reach, window, motions) < 1 or followed < 0:
        raise ValueError(
            f"motions are of two frames or more, not {s}; distance {distance}, motions {motions}, reach {reach} and "
            f"window {window} are 1 or more, and {followed} frames are followed"
        )
    both = shown[:, :2].all(1)
    shape = frames.shape[2:]
    pictures = frames.new_zeros(len(frames), num_extrapolated(s, motions, followed), *shape, dtype=torch.float32)
    layers = pictures.new_zeros(len(frames), 2 * motions, *shape) if followed else None
    if bool(both.any()):
        frames, shown = frames[both].float(), shown[both]
        near, cell = frames[:, 0], _cell(frames)
        differs = _cells(((near - look).abs() for look in _looks(frames[:, 1], 1, reach)), cell)
        differs = _boxed(differs, window // cell)
        found = _dominant(differs, motions, reach)
        moved: list[Tensor] = []
        summaries: list[Tensor] = []
        here: list[Tensor] = []
        for i, by in enumerate(found):
            if not followed:
                moved += [_along(frames[:, n], by * (distance + n)) for n in range(min(s, DEPTH))]
                continue
            places = _followed(frames[:, :followed], by, _belongs(differs, found, i, reach, cell), reach)
            films = [_along(frames[:, n], place) for n, place in enumerate(places)]
            least, most, mean = _summary(torch.stack(films, dim=1), shown[:, :followed])
            moved += [_along(frames[:, n], place + by * distance) for n, place in enumerate(places[:DEPTH])]
            summaries += [_along(picture, by * distance) for picture in (least, most, mean)]
            here += [least, most]
        pictures[both] = torch.stack(moved + summaries, dim=1)
        if layers is not None:
            layers[both] = torch.stack(here, dim=1)
    return Extrapolated(pictures, layers)


def aligned(
    noisy: Float[Tensor, "b c h w"],
    alpha: Float[Tensor, " b"],
    frame: Float[Tensor, "b c h w"],
    shown: Bool[Tensor, " b"],
    distance: int = 1,
    *,
    layers: Float[Tensor, "b l c h w"] | None = None,
    motions: int = 1,
    reach: int = 4,
    window: int = 17,
) -> Float[Tensor, "b m c h w"]:
    """What `frame` shows, moved by the motions to a frame `distance` away that is only seen as alpha x0 + sigma eps.

    A frame is many pixels: long before anything can be seen through the noise it is plain where things went. `layers`
    of the same frame are moved along after it, each by each motion. Grey (0) where `frame` is not shown.

    Raises ValueError for a reach, a window, a distance or a number of motions that is not positive.
    """
    if min(distance, reach, window, motions) < 1:
        raise ValueError(f"distance {distance}, motions {motions}, reach {reach} and window {window} are 1 or more")
    also = [] if layers is None else [layer[shown] for layer in layers.unbind(1)]
    pictures = frame.new_zeros(len(frame), motions * (1 + len(also)), *frame.shape[1:], dtype=torch.float32)
    if bool(shown.any()):
        noisy, alpha, frame = noisy[shown].float(), alpha[shown].float(), frame[shown].float()
        looks, cell = _looks(frame * alpha[:, None, None, None], distance, reach), _cell(frame)
        differs = _cells(((noisy - look).square() for look in looks), cell)
        found = _dominant(_boxed(differs, window // cell), motions, reach)
        pictures[shown] = torch.stack([_along(one, by * distance) for one in [frame, *also] for by in found], dim=1)
    return pictures


def _dominant(differs: Float[Tensor, "b v gh gw"], number: int, reach: int) -> list[Int[Tensor, "b 2"]]:
    """Motions, in pixels a frame, which together differ least: at each place the better one counts. One is taken
    after the other, and each is then chosen again, given the rest."""
    steps = torch.arange(-reach, reach + 1, device=differs.device)
    still = STILL * (steps[:, None] ** 2 + steps**2).flatten() / reach**2
    differs = differs.flatten(2)
    chosen: list[Tensor] = []
    for i in [*range(number), *range(number)] if number > 1 else [0]:
        left = differs
        rest = chosen[:i] + chosen[i + 1 :]
        if rest:
            best = torch.stack([differs[torch.arange(len(v), device=v.device), v] for v in rest]).amin(0)
            left = torch.minimum(differs, best[:, None])
        chosen[i : i + 1] = [(left.mean(2) + still).argmin(1)]
    return [torch.stack([v // (2 * reach + 1), v % (2 * reach + 1)], dim=1) - reach for v in chosen]


def _belongs(
    differs: Float[Tensor, "b v gh gw"], motions: Sequence[Int[Tensor, "b 2"]], which: int, reach: int, cell: int
) -> Float[Tensor, "b 1 h w"]:
    """How surely each pixel of the nearest frame moves as that one does, and how much there is to be told by."""
    rows = torch.arange(len(differs), device=differs.device)
    index = [(by[:, 0] + reach) * (2 * reach + 1) + by[:, 1] + reach for by in motions]
    cost = torch.stack([differs[rows, i] for i in index], dim=1)
    telling = differs.amax(1, keepdim=True) - differs.amin(1, keepdim=True)
    weight = (-cost / SURE).softmax(1)[:, which : which + 1] * telling
    return weight.repeat_interleave(cell, 2).repeat_interleave(cell, 3)


def _followed(
    frames: Float[Tensor, "b s c h w"], motion: Int[Tensor, "b 2"], weight: Float[Tensor, "b 1 h w"], reach: int
) -> list[Int[Tensor, "b 2"]]:
    """Where, from its place in the nearest frame, what has `weight` there was in each: from frame to frame it
    moves to where it looks most alike, and as it moved where that does not say."""
    near = frames[:, 0]
    steps = torch.arange(-reach, reach + 1, device=frames.device)
    steps = torch.stack([steps.repeat_interleave(len(steps)), steps.repeat(len(steps))], dim=1)
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    places, by = [torch.zeros_like(motion), motion], motion
    for n in range(2, frames.shape[1]):
        there = F.pad(_along(frames[:, n], places[-1]), (reach,) * 4, mode="replicate")
        # Sums of weight (near - there)^2 over the frame, for all steps at once; the square of `near` is in all.
        alike = _correlated(weight * near, there) - _correlated(weight.expand_as(near), there.square()) / 2
        changed = STILL * (steps - by[:, None]).square().sum(2) / reach**2
        by = steps[(changed - 2 * alike.flatten(1)).argmin(1)]
        places.append(places[-1] + by)
    return places[: frames.shape[1]]


def _correlated(x: Float[Tensor, "b c h w"], wide: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b n n"]:
    """Of each example, summed over colours and pixels, at each place of x within `wide`."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(wide.flatten(0, 1)[None], x, groups=len(x))[0]


def _summary(films: Float[Tensor, "b s c h w"], shown: Bool[Tensor, "b s"]) -> tuple[Tensor, Tensor, Tensor]:
    there = shown[:, :, None, None, None]
    mean = torch.where(there, films, 0.0).sum(1) / there.sum(1)
    least, most = (films.masked_fill(~there, sign * torch.inf) for sign in (1, -1))
    return least.amin(1), most.amax(1), mean


def _along(frame: Float[Tensor, "b c h w"], place: Int[Tensor, "b 2"]) -> Float[Tensor, "b c h w"]:
    """What a frame shows that many rows and columns away."""
    c, h, w = frame.shape[1:]
    y = (torch.arange(h, device=frame.device) + place[:, :1]).clamp(0, h - 1)
    x = (torch.arange(w, device=frame.device) + place[:, 1:]).clamp(0, w - 1)
    index = (y[:, :, None] * w + x[:, None]).flatten(1)
    return frame.flatten(2).gather(2, index[:, None].expand(-1, c, -1)).view(frame.shape)


def _looks(x: Float[Tensor, "b c h w"], distance: int, reach: int) -> Iterator[Tensor]:
    """The same for each motion, rows first."""
    h, w = x.shape[-2:]
    wide = F.pad(x, (distance * reach,) * 4, mode="replicate")
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            yield wide[..., distance * i : distance * i + h, distance * j : distance * j + w]


def _cell(frames: Tensor) -> int:
    """Differences are averaged over squares of 2 pixels, where these divide a frame."""
    return math.gcd(*frames.shape[-2:], 2)


def _cells(x: Iterable[Float[Tensor, "b c h w"]], cell: int) -> Float[Tensor, "b v gh gw"]:
    """Means over cells and colours, of each."""
    return torch.cat([F.avg_pool2d(one, cell).mean(1, keepdim=True) for one in x], dim=1)


def _boxed(x: Float[Tensor, "b v h w"], width: int) -> Float[Tensor, "b v h w"]:
    """The mean over a square of cells around each one, as far as there are any."""
    rows, columns = (_band(n, width // 2, x.device) for n in x.shape[-2:])
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


def _band(n: int, half: int, device: torch.device) -> Float[Tensor, "n n"]:
    place = torch.arange(n, device=device)
    near = ((place[:, None] - place).abs() <= half).float()
    return near / near.sum(1, keepdim=True)
