"""Block matching: where straight courses lead, from the frames that are there to one that is not.

For each place of a missing frame all displacements of whole pixels are tried, up to a number of pixels a frame. One by
which the two nearest frames agree, in a window around where it leads, is a course that things there are on. What the
frames show along it is what the missing one would show, if things went on as they went. Nothing of it is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

DEPTH = 3  # frames that are looked at along a course; the two nearest say which it is
STILL = 1e-3  # what the fastest displacement costs: where nothing is to be seen, nothing moves
DOUBT = 0.4  # how much of a window must be left unexplained for a further motion to be sure of it


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
    """What `frames`, the nearest one first, show along straight courses to a frame `distance` before or after them.

    `motions` courses are looked for at each place: the second one explains what the first left unexplained, so that
    things which overlap are told apart. For each come the pictures that the nearest DEPTH frames make of it; where
    things do go on, these are alike. `reach` is in pixels a frame, `window` in pixels. Where both a thing and empty
    ground may come to a place, the slower does.
    Grey (0) where one of the two nearest frames is not shown.

    Raises ValueError for less than two frames, and for a reach, a window or a distance that is not positive.
    """
    s = frames.shape[1]
    if s < 2 or min(distance, reach, window, motions) < 1:
        raise ValueError(
            f"courses are of two frames or more, not {s}; distance {distance}, motions {motions}, reach {reach} and "
            f"window {window} are 1 or more"
        )
    both = shown[:, :2].all(1)
    pictures = frames.new_zeros(len(frames), num_extrapolated(s, motions), *frames.shape[2:], dtype=torch.float32)
    if bool(both.any()):
        frames = frames[both].float()
        with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
            courses = _courses(frames, distance, motions, reach, window)
        found = [_along(frames[:, n], course, distance + n) for course in courses for n in range(min(s, DEPTH))]
        pictures[both] = torch.stack(found, dim=1)
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
    """What `frame` shows, moved to where it looks most like a frame `distance` away that is only seen as
    alpha x0 + sigma eps. A window is many pixels: long before a frame can be seen through the noise it is plain where
    things went. The further motions are of what is left unexplained, as in `extrapolated`. Grey (0) where `frame` is
    not shown.

    Raises ValueError for a reach, a window, a distance or a number of motions that is not positive.
    """
    if min(distance, reach, window, motions) < 1:
        raise ValueError(f"distance {distance}, motions {motions}, reach {reach} and window {window} are 1 or more")
    pictures = frame.new_zeros(len(frame), motions, *frame.shape[1:], dtype=torch.float32)
    if bool(shown.any()):
        noisy, alpha, frame = noisy[shown].float(), alpha[shown].float(), frame[shown].float()
        with torch.no_grad(), torch.autocast(frame.device.type, enabled=False):
            cell = math.gcd(*frame.shape[-2:], 2)
            looks = _looks(frame * alpha[:, None, None, None], distance, reach)
            differs = _cells(((noisy - look).square() for look in looks), cell)
            left = torch.ones_like(differs[:, :1])
            courses = []
            for _ in range(motions):
                course = _cheapest(differs, left, reach, window // cell)
                left = torch.minimum(left, differs.gather(1, course))
                courses.append(_course(course, reach, cell))
        pictures[shown] = torch.stack([_along(frame, course, distance) for course in courses], dim=1)
    return pictures


Course = tuple[Int[Tensor, "b h w"], Int[Tensor, "b h w"]]  # rows and columns a frame


def _along(frame: Float[Tensor, "b c h w"], course: Course, distance: int) -> Float[Tensor, "b c h w"]:
    """What a frame `distance` away shows; beyond its edge are its own pixels."""
    (c, h, w), (rows, columns) = frame.shape[1:], course
    y = (torch.arange(h, device=frame.device)[:, None] + distance * rows).clamp(0, h - 1)
    x = (torch.arange(w, device=frame.device) + distance * columns).clamp(0, w - 1)
    return frame.flatten(2).gather(2, (y * w + x).flatten(1)[:, None].expand(-1, c, -1)).view(frame.shape)


def _courses(frames: Tensor, distance: int, motions: int, reach: int, window: int) -> list[Course]:
    """Towards the frames that are there, at each place of the missing one."""
    near, far = frames[:, 0], frames[:, 1]
    cell = math.gcd(*near.shape[-2:], 2)
    # What the nearest frame shows is followed in its own places, too: there a course leaves it unexplained or not.
    here = _differences(near, far, 0, reach, cell) if motions > 1 else None
    there = _differences(near, far, distance, reach, cell)
    left = torch.ones_like(there[:, :1])
    found = []
    for i in range(motions):
        counts = left
        if i:
            pixels = left.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
            counts = _cells(_looks(pixels, distance, reach), cell)
        found.append(_course(_cheapest(there, counts, reach, window // cell), reach, cell))
        if here is not None and i + 1 < motions:
            left = torch.minimum(left, here.gather(1, _cheapest(here, left, reach, window // cell)))
    return found


def _cheapest(
    differs: Float[Tensor, "b v gh gw"], counts: Float[Tensor, "b ... gh gw"], reach: int, width: int
) -> Int[Tensor, "b 1 gh gw"]:
    """Of all courses, at each cell; what differs counts where more or less is left to explain."""
    steps = torch.arange(-reach, reach + 1, device=differs.device)
    still = STILL * (steps[:, None] ** 2 + steps**2).flatten()[:, None, None] / reach**2
    wrong, of = _boxed(differs * counts, width), _boxed(counts, width)
    return ((wrong + DOUBT) / (of + DOUBT) + still).argmin(1, keepdim=True)


def _course(index: Int[Tensor, "b 1 gh gw"], reach: int, cell: int) -> Course:
    index = index[:, 0].repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return index // (2 * reach + 1) - reach, index % (2 * reach + 1) - reach


def _differences(
    near: Float[Tensor, "b c h w"], far: Float[Tensor, "b c h w"], distance: int, reach: int, cell: int
) -> Float[Tensor, "b v gh gw"]:
    """How much two frames differ along each course."""
    pairs = zip(_looks(near, distance, reach), _looks(far, distance + 1, reach), strict=True)
    return _cells(((a - b).abs() for a, b in pairs), cell)


def _cells(x: Iterable[Float[Tensor, "b c h w"]], cell: int) -> Float[Tensor, "b v gh gw"]:
    """Means over cells and colours, of each."""
    return torch.cat([F.avg_pool2d(one, cell).mean(1, keepdim=True) for one in x], dim=1)


def _looks(x: Float[Tensor, "b c h w"], distance: int, reach: int) -> Iterator[Tensor]:
    """What a frame `distance` away shows at each place, for each course, rows first."""
    h, w = x.shape[-2:]
    wide = F.pad(x, (distance * reach,) * 4, mode="replicate")
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            yield wide[..., distance * i : distance * i + h, distance * j : distance * j + w]


def _boxed(x: Float[Tensor, "b v h w"], width: int) -> Float[Tensor, "b v h w"]:
    """The mean over a square of cells around each one, as far as there are any."""
    rows, columns = (_band(n, width // 2, x.device) for n in x.shape[-2:])
    return rows @ x @ columns.T


def _band(n: int, half: int, device: torch.device) -> Float[Tensor, "n n"]:
    place = torch.arange(n, device=device)
    near = ((place[:, None] - place).abs() <= half).float()
    return near / near.sum(1, keepdim=True)
