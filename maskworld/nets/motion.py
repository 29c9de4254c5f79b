"""Dominant motions: how a few things, or the camera, move, found by matching frames and not by learning.

All displacements of whole pixels are tried, up to a number of pixels a frame. Those are taken with which, at each
place, the better one explains best what is there (`_dominant`). A frame moved by one of them shows what moves that way
where it will be; whose pixel is whose is left to a network. This is global motion compensation, as in video coding
(MPEG-4's), with several motions at once. What moves one way can be followed back through many frames (`_followed`), and
taken apart from what hides it now by what was seen of it before (`_extremes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEPTH = 3  # frames that are moved along each motion if none is followed; the two nearest say which these are
OUTLIERS = 3  # for so many frames after the first through which a motion is followed, one may be wrong
SURE = 0.1  # of a place it is sure which motion it has, where the other explains it worse by more than this
STILL = 1e-3  # what the fastest motion costs: where nothing is to be seen, nothing moves


def num_extrapolated(frames: int, motions: int, followed: int = 0) -> int:
    """How many pictures `extrapolated` makes of so many frames."""
    return motions * (3 if followed else min(frames, DEPTH)) if frames > 1 else 0


def num_aligned(frames: int, motions: int, followed: int = 0) -> int:
    """And how many `aligned` makes of the nearest one."""
    layers = 2 * motions if frames > 1 and followed else 0
    return motions * (1 + layers) if frames else 0


class Extrapolated(NamedTuple):
    """pictures  where motions lead, at each distance, motion by motion
    layers    the least and the most of each, in the places of the nearest frame; None where nothing was followed"""

    pictures: Float[Tensor, "b k m c h w"]
    layers: Float[Tensor, "b l c h w"] | None


def extrapolated(
    frames: Float[Tensor, "b s c h w"],
    shown: Bool[Tensor, "b s"],
    distances: Sequence[int] = (1,),
    *,
    motions: int = 1,
    followed: int = 0,
    reach: int = 4,
    window: int = 17,
) -> Extrapolated:
    """What `frames`, the nearest one first, show of frames at `distances` before or after them, if motions go on.

    For each of the `motions` between the two nearest frames come the nearest DEPTH frames, each moved along it: what
    does move that way is alike in all. `reach` is in pixels a frame; `window`, in pixels, is what is compared at each
    place. Beyond an edge are its own pixels. Grey (0) where one of the two nearest frames is not shown.

    With `followed`, what moves that way is followed back through so many frames, wherever it came from. Beside the
    nearest frame, moved, come then the least and the most that was seen of it: what has long overlapped is taken apart
    by what each had around it before (layers; Wang and Adelson, 1994). Frames may be wrong: of n that are shown the
    (n - 1) // OUTLIERS least are left out, and as many of the most.

    Raises ValueError for less than two frames, for a reach, a window, a distance or a number of motions that is not
    positive, and where one frame is followed, or less than none.
    """
    s = frames.shape[1]
    if s < 2 or min(*distances, reach, window, motions) < 1 or followed < 0 or followed == 1:
        raise ValueError(
            f"motions are of two frames or more, not {s}; distances {distances}, motions {motions}, reach {reach} and "
            f"window {window} are 1 or more; none or two frames and more are followed, not {followed}"
        )
    both = shown[:, :2].all(1)
    shape = frames.shape[2:]
    count = (len(distances), num_extrapolated(s, motions, followed))
    pictures = frames.new_zeros(len(frames), *count, *shape, dtype=torch.float32)
    layers = pictures.new_zeros(len(frames), 2 * motions, *shape) if followed else None
    if bool(both.any()):
        frames, shown = frames[both].float(), shown[both]
        near, cell = frames[:, 0], _cell(frames)
        differs = _cells(((near - look).abs() for look in _looks(frames[:, 1], 1, reach)), cell)
        differs = _boxed(differs, window // cell)
        found, moves = _dominant(differs, motions, reach), _moves(reach, frames.device)
        moved: list[tuple[Tensor, int, Tensor]] = []  # a picture, from how many frames ago, and its motion
        here: list[Tensor] = []
        for i, index in enumerate(found):
            by = moves[index]
            if followed:
                places = _followed(frames[:, :followed], by, _belongs(differs, found, i, cell), reach)
                films = torch.stack([_along(frames[:, n], place) for n, place in enumerate(places)], dim=1)
                extremes = _extremes(films, shown[:, :followed])
                moved += [(one, 0, by) for one in (near, *extremes)]
                here += extremes
            else:
                moved += [(frames[:, n], n, by) for n in range(min(s, DEPTH))]
        made = [torch.stack([_along(one, by * (ago + n)) for one, ago, by in moved], dim=1) for n in distances]
        pictures[both] = torch.stack(made, dim=1)
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
        places = [_moves(reach, frame.device)[index] * distance for index in found]
        pictures[shown] = torch.stack([_along(one, place) for one in [frame, *also] for place in places], dim=1)
    return pictures


def _moves(reach: int, device: torch.device) -> Int[Tensor, "v 2"]:
    """All displacements, rows first: pixels a frame, down and to the right."""
    steps = torch.arange(-reach, reach + 1, device=device)
    return torch.cartesian_prod(steps, steps)


def _dominant(differs: Float[Tensor, "b v gh gw"], number: int, reach: int) -> list[Int[Tensor, " b"]]:
    """Which motions together differ least: at each place the better one counts. One is taken after the other, and
    each is then chosen again, given the rest."""
    still = STILL * _moves(reach, differs.device).square().sum(1) / reach**2
    chosen: list[Tensor] = []
    for i in [*range(number), *range(number)] if number > 1 else [0]:
        left = differs
        rest = chosen[:i] + chosen[i + 1 :]
        if rest:
            left = torch.minimum(differs, _costs(differs, rest).amin(1, keepdim=True))
        chosen[i : i + 1] = [(left.mean((2, 3)) + still).argmin(1)]
    return chosen


def _costs(differs: Float[Tensor, "b v gh gw"], motions: Sequence[Int[Tensor, " b"]]) -> Float[Tensor, "b n gh gw"]:
    return torch.stack([differs[torch.arange(len(index), device=index.device), index] for index in motions], dim=1)


def _belongs(
    differs: Float[Tensor, "b v gh gw"], motions: Sequence[Int[Tensor, " b"]], which: int, cell: int
) -> Float[Tensor, "b 1 h w"]:
    """How surely each pixel of the nearest frame moves as that one does, and how much there is to be told by."""
    telling = differs.amax(1, keepdim=True) - differs.amin(1, keepdim=True)
    weight = (-_costs(differs, motions) / SURE).softmax(1)[:, which : which + 1] * telling
    return weight.repeat_interleave(cell, 2).repeat_interleave(cell, 3)


def _followed(
    frames: Float[Tensor, "b s c h w"], motion: Int[Tensor, "b 2"], weight: Float[Tensor, "b 1 h w"], reach: int
) -> list[Int[Tensor, "b 2"]]:
    """Where, from its place in the nearest frame, what has `weight` there was in each: from frame to frame it
    moves to where it looks most alike, and as it moved where that does not say."""
    near, moves = frames[:, 0], _moves(reach, frames.device)
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    places, by = [torch.zeros_like(motion), motion], motion
    for n in range(2, frames.shape[1]):
        there = _along(frames[:, n], places[-1], reach)
        # Sums of weight (near - there)^2 over the frame, for all steps at once; the square of `near` is in all.
        alike = _correlated(weight * near, there) - _correlated(weight.expand_as(near), there.square()) / 2
        changed = STILL * (moves - by[:, None]).square().sum(2) / reach**2
        by = moves[(changed - 2 * alike.flatten(1)).argmin(1)]
        places.append(places[-1] + by)
    return places


def _correlated(x: Float[Tensor, "b c h w"], wide: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b n n"]:
    """Of each example, summed over colours and pixels, at each place of x within `wide`."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(wide.flatten(0, 1)[None], x, groups=len(x))[0]


def _extremes(films: Float[Tensor, "b s c h w"], shown: Bool[Tensor, "b s"]) -> list[Float[Tensor, "b c h w"]]:
    """The least and the most that those shown show, but for those that may be wrong."""
    example, count = torch.arange(len(films), device=films.device), shown.sum(1)
    ordered = films.masked_fill(~shown[:, :, None, None, None], torch.inf).sort(1).values
    wrong = (count - 1) // OUTLIERS
    return [ordered[example, wrong], ordered[example, count - 1 - wrong]]


def _along(frame: Float[Tensor, "b c h w"], place: Int[Tensor, "b 2"], more: int = 0) -> Float[Tensor, "b c h2 w2"]:
    """What a frame shows that many rows and columns away, and so many pixels `more` on each side."""
    c, h, w = frame.shape[1:]
    y = (torch.arange(-more, h + more, device=frame.device) + place[:, :1]).clamp(0, h - 1)
    x = (torch.arange(-more, w + more, device=frame.device) + place[:, 1:]).clamp(0, w - 1)
    index = (y[:, :, None] * w + x[:, None]).flatten(1)
    found = frame.flatten(2).gather(2, index[:, None].expand(-1, c, -1))
    return found.unflatten(2, (h + 2 * more, w + 2 * more))


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
