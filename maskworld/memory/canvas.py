"""A geometric canvas: all that was seen, laid out in the world and not in time.

Each new frame is written where its camera looked, the newest on top; before each piece the canvas is warped into the
views that lie ahead, with holes where nobody ever looked. The loop is that of the methods that keep a map and render
it (among them ViewCrafter, Yu et al. 2024, and GEN3C, Ren et al. 2025): render from the new view, fill the holes,
write back.
differs: their map is a cloud of points in space; this one is the flat world of a camera that slides past a plane
(`clip.planar`), an image whose place in a view is its camera's offset. It needs no depth and nothing learned. What
moves while it is unseen stands still on the canvas.

Sections: the memory - where a frame lies - write and read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from maskworld.clip import Clip, join
from maskworld.memory.base import Cost, after, alike, cameras_of, last

# -- the memory -----------------------------------------------------------------------------------

_NEVER = torch.iinfo(torch.int64).min


class Drawn(NamedTuple):
    """The recent frames and the canvas.

    pixels   of the canvas; NaN where nothing was ever seen
    when     the time of the frame that each pixel was last seen in
    origin   where the first camera stood
    """

    recent: Clip
    pixels: Float[Tensor, "b c y x"]
    when: Int[Tensor, "b y x"]
    origin: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class Canvas:
    """Shows the canvas as each of the frames ahead would see it, then the `recent` frames.

    The canvas reaches `extent` views to each side of the first one, and up and down; what is seen beyond is dropped
    and comes back as a hole. Offsets between whole pixels are read and written bilinearly; whole ones are exact.
    `ahead` is the most frames that lie ahead at once. The times of what is warped are those of the frames ahead, its
    actions are 0.

    Raises ValueError for clips without cameras, and for cameras that turn, advance or zoom.
    """

    recent: int
    extent: int = 4
    ahead: int = 4

    def __post_init__(self) -> None:
        if self.recent < 1 or self.extent < 0 or self.ahead < 1:
            raise ValueError(
                f"{self.recent} recent frames, {self.extent} views to each side, {self.ahead} frames ahead: a canvas "
                "needs 1, 0 and 1 or more"
            )

    @property
    def cost(self) -> Cost:
        return Cost(shown=self.recent + self.ahead, tokens=0, kept=self.recent + (2 * self.extent + 1) ** 2)

    def start(self, clip: Clip) -> Drawn:
        origin = _stands(clip, "the prompt")[:, 0]
        b, _, _, c, h, w = clip.shape
        size = (h * (2 * self.extent + 1), w * (2 * self.extent + 1))
        pixels = clip.frames.new_full((b, c, *size), torch.nan)
        when = torch.full((b, *size), _NEVER, device=clip.times.device)
        return self._write(Drawn(clip, pixels, when, origin), clip)

    def recall(self, state: Drawn, ahead: Clip) -> Clip:
        t = ahead.frames.shape[2]
        if t > self.ahead:
            raise ValueError(f"{t} frames lie ahead at once; this canvas is made for up to {self.ahead} (ahead={t})")
        offset = self._offset(state, ahead, "what lies ahead")
        seen = _read(state.pixels, offset, ahead.frames.shape[-2:])
        warped = dataclasses.replace(
            ahead,
            frames=seen[:, None],
            actions=None if ahead.actions is None else torch.zeros_like(ahead.actions),
            depth=None if ahead.depth is None else torch.zeros_like(ahead.depth),
        )
        return join([warped, alike(state.recent, ahead)])

    def store(self, state: Drawn, new: Clip) -> Drawn:
        return self._write(state._replace(recent=after(state.recent, new)), new)

    def _write(self, state: Drawn, new: Clip) -> Drawn:
        offset = self._offset(state, new, "the new piece")
        pixels, when = _written(state.pixels, state.when, new.frames[:, 0], new.times, offset)
        return Drawn(last(state.recent, self.recent), pixels, when, state.origin)

    # -- where a frame lies -----------------------------------------------------------------------

    def _offset(self, state: Drawn, clip: Clip, which: str) -> Float[Tensor, "b t 2"]:
        """The pixel of the canvas, (x, y), where the corner of each frame lies, to a 256th: offsets that are sums in
        float32 are not whole to the last bit."""
        h, w = clip.frames.shape[-2:]
        from_first = _stands(clip, which) - state.origin[:, None]
        if from_first[..., 2].abs().max() > 1e-3:
            raise ValueError(f"a canvas holds a flat world that cameras slide past; in {which} one comes nearer")
        before = cameras_of(state.recent, "a canvas", "the prompt").intrinsics
        if not torch.allclose(before, cameras_of(clip, "a canvas", which).intrinsics, atol=1e-3):
            raise ValueError(f"a canvas holds a flat world seen at one scale; in {which} the camera zooms")
        corner = from_first.new_tensor([w * self.extent, h * self.extent])
        return ((from_first[..., :2] + corner) * 256).round() / 256


def _stands(clip: Clip, which: str) -> Float[Tensor, "b t 3"]:
    """Where the one camera stands. Raises ValueError where it cannot be that of a flat world."""
    cameras = cameras_of(clip, "a canvas", which)
    if clip.frames.shape[1] != 1:
        raise ValueError(f"a canvas holds what one camera sees; {which} has {clip.frames.shape[1]} views")
    pose, intrinsics = cameras.pose[:, 0].double(), cameras.intrinsics
    if (pose[..., :3, :3] - torch.eye(3).to(pose)).abs().max() > 1e-4:
        raise ValueError(f"a canvas holds a flat world that cameras slide past; in {which} one is turned")
    if not torch.allclose(intrinsics[..., 0, 0], intrinsics[..., 1, 1]):
        raise ValueError(f"a canvas needs square pixels; in {which} the two focal lengths differ")
    return pose[..., :3, 3]


# -- write and read -------------------------------------------------------------------------------


def _places(corner: Int[Tensor, "b 2"], frame: tuple[int, int], canvas: tuple[int, int]) -> Int[Tensor, "b h w"]:
    """The number of the canvas pixel under each pixel of a frame; one past the last where there is none."""
    (h, w), (height, width) = frame, canvas
    x = corner[:, None, None, 0] + torch.arange(w, device=corner.device)
    y = corner[:, None, None, 1] + torch.arange(h, device=corner.device)[:, None]
    there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(there, y * width + x, height * width)


def _between(
    rows: Float[Tensor, "b c h w"], part: Float[Tensor, "b 2"], near: slice, far: slice
) -> Float[Tensor, "b c i j"]:
    """Bilinear values, `part` (x, y) of the way from the pixel at `near` to that at `far`. A pixel without weight is
    not read, so that a hole next to it does no harm."""
    x, y = part.to(rows)[:, :, None, None, None].unbind(1)
    rows = torch.where(y == 0, rows[..., near, :], torch.lerp(rows[..., near, :], rows[..., far, :], y))
    return torch.where(x == 0, rows[..., near], torch.lerp(rows[..., near], rows[..., far], x))


def _read(
    pixels: Float[Tensor, "b c y x"], offset: Float[Tensor, "b t 2"], size: tuple[int, int] | torch.Size
) -> Float[Tensor, "b t c h w"]:
    """The canvas as frames with their corners at `offset` see it; NaN where it was never seen."""
    (b, c, height, width), t, (h, w) = pixels.shape, offset.shape[1], size
    offset = rearrange(offset, "b t xy -> (b t) xy")
    corner = offset.floor()
    place = _places(corner.long(), (h + 1, w + 1), (height, width))  # one more, to lie between
    place = rearrange(place, "(b t) h w -> b 1 (t h w)", b=b).expand(-1, c, -1)
    spare = height * width
    found = rearrange(pixels, "b c y x -> b c (y x)").gather(2, place.clamp(max=spare - 1))
    found = torch.where(place == spare, torch.nan, found)
    found = rearrange(found, "b c (t h w) -> (b t) c h w", t=t, h=h + 1)
    seen = _between(found, offset - corner, slice(0, -1), slice(1, None))
    return rearrange(seen, "(b t) c h w -> b t c h w", b=b)


def _written(
    pixels: Float[Tensor, "b c y x"],
    when: Int[Tensor, "b y x"],
    frames: Float[Tensor, "b t c h w"],
    times: Int[Tensor, "b t"],
    offset: Float[Tensor, "b t 2"],
) -> tuple[Float[Tensor, "b c y x"], Int[Tensor, "b y x"]]:
    """(pixels, when) after the frames, the newest on top; holes in them are not written."""
    t, c, h, w = frames.shape[1:]
    height, width = pixels.shape[2:]
    spare = height * width  # what lies beyond the canvas, and what is not to be written, goes there
    flat = F.pad(rearrange(pixels, "b c y x -> b c (y x)"), (0, 1), value=torch.nan)
    when = F.pad(rearrange(when, "b y x -> b (y x)"), (0, 1), value=_NEVER)
    corner = offset.floor()
    for i in range(t):
        padded = F.pad(frames[:, i], (1, 0, 1, 0), value=torch.nan)
        new = _between(padded, (offset - corner)[:, i], slice(1, None), slice(0, -1))
        new = rearrange(new, "b c h w -> b c (h w)")
        place = rearrange(_places(corner[:, i].long(), (h, w), (height, width)), "b h w -> b (h w)")
        time = times[:, i, None].long().expand(-1, h * w)
        place = torch.where(~new.isnan().any(1) & (time >= when.gather(1, place)), place, spare)
        flat.scatter_(2, place[:, None].expand(-1, c, -1), new)
        when.scatter_(1, place, time)
    return (
        rearrange(flat[..., :-1], "b c (y x) -> b c y x", y=height),
        rearrange(when[..., :-1], "b (y x) -> b y x", y=height),
    )
