"""Dominant motions: how a few things, or the camera, move, found by matching frames and not by learning.

All displacements of whole pixels are tried, up to a number of pixels a frame. Those are taken with which, at each
place, the better one explains best what is there (`_dominant`). A frame moved by one of them shows what moves that way
where it will be; whose pixel is whose is left to a network. This is global motion compensation, as in video coding
(MPEG-4's), with several motions at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEPTH = 3  # frames that are moved along each motion; the two nearest say which these are
STILL = 1e-3  # what the fastest motion costs: where nothing is to be seen, nothing moves


def num_extrapolated(frames: int, motions: int) -> int:
    """How many pictures `extrapolated` makes of so many frames."""
    return motions * min(frames, DEPTH) if frames > 1 else 0


def extrapolated(
    frames: Float[Tensor, "b s c h w"],
    shown: Bool[Tensor, "b s"],
    distance: int = 1,
    *,
    motions: int = 1,
    reach: int = 4,
    window: int = 17,
) -> Float[Tensor, "b m c h w"]:
    """What `frames`, the nearest one first, show of a frame `distance` before or after them, if motions go on.

    For each of the `motions` between the two nearest frames come the nearest DEPTH frames, each moved along it: what
    does move that way is alike in all. `reach` is in pixels a frame; `window`, in pixels, is what is compared at each
    place. Beyond an edge are its own pixels. Grey (0) where one of the two nearest frames is not shown.

    Raises ValueError for less than two frames, and for a reach, a window or a distance that is not positive.
    """
    s = frames.shape[1]
    if s < 2 or min(distance, reach, window, motions) < 1:
        raise ValueError(
            f"motions are of two frames or more, not {s}; distance {distance}, motions {motions}, reach {reach} and "
            f"window {window} are 1 or more"
        )
    both = shown[:, :2].all(1)
    pictures = frames.new_zeros(len(frames), num_extrapolated(s, motions), *frames.shape[2:], dtype=torch.float32)
    if bool(both.any()):
        frames = frames[both].float()
        near, cell = frames[:, 0], _cell(frames)
        differs = _cells(((near - look).abs() for look in _looks(frames[:, 1], 1, reach)), cell)
        found = _dominant(_boxed(differs, window // cell), motions, reach)
        moved = [_along(frames[:, n], by, distance + n) for by in found for n in range(min(s, DEPTH))]
        pictures[both] = torch.stack(moved, dim=1)
    return pictures


def aligned(
    noisy: Float[Tensor, "b c h w"],
    alpha: Float[Tensor, " b"],
    frame: Float[Tensor, "b c h w"],
    shown: Bool[Tensor, " b"],
    distance: int = 1,
    *,
    motions: int = 1,
    reach: int = 4,
    window: int = 17,
) -> Float[Tensor, "b m c h w"]:
    """What `frame` shows, moved by the motions to a frame `distance` away that is only seen as alpha x0 + sigma eps.

    A frame is many pixels: long before anything can be seen through the noise it is plain where things went. Grey (0)
    where `frame` is not shown.

    Raises ValueError for a reach, a window, a distance or a number of motions that is not positive.
    """
    if min(distance, reach, window, motions) < 1:
        raise ValueError(f"distance {distance}, motions {motions}, reach {reach} and window {window} are 1 or more")
    pictures = frame.new_zeros(len(frame), motions, *frame.shape[1:], dtype=torch.float32)
    if bool(shown.any()):
        noisy, alpha, frame = noisy[shown].float(), alpha[shown].float(), frame[shown].float()
        looks, cell = _looks(frame * alpha[:, None, None, None], distance, reach), _cell(frame)
        differs = _cells(((noisy - look).square() for look in looks), cell)
        found = _dominant(_boxed(differs, window // cell), motions, reach)
        pictures[shown] = torch.stack([_along(frame, by, distance) for by in found], dim=1)
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


def _along(frame: Float[Tensor, "b c h w"], motion: Int[Tensor, "b 2"], distance: int) -> Float[Tensor, "b c h w"]:
    """What a frame `distance` away shows at each place."""
    c, h, w = frame.shape[1:]
    y = (torch.arange(h, device=frame.device) + distance * motion[:, :1]).clamp(0, h - 1)
    x = (torch.arange(w, device=frame.device) + distance * motion[:, 1:]).clamp(0, w - 1)
    place = (y[:, :, None] * w + x[:, None]).flatten(1)
    return frame.flatten(2).gather(2, place[:, None].expand(-1, c, -1)).view(frame.shape)


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
