"""Retrieval: the last frames, and those of a bank that fit what lies ahead.

By camera, as WorldMem does (Xiao et al. 2025, "WorldMem: long-term consistent world simulation with memory"): of the
stored frames, one after another, the one whose field of view covers most of what is to be seen and is not covered yet,
less a penalty for its age.

By likeness, as MoBA (Lu et al. 2025, "MoBA: mixture of block attention for long-context LLMs") and MoC (Cai et al.
2025, "Mixture of contexts for long video generation") choose: the bank is cut into chunks, the key of a chunk is the
mean of its frames' keys, and the chunks come whose keys are most like the query.

Sections: the memory (by camera, by likeness) - pinhole cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Cameras, Clip, join, span
from maskworld.memory.base import Cost, after, alike, cameras_of, last, pick

# -- the memory -----------------------------------------------------------------------------------

Key = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n d"]]
"""What a frame is known by."""


def pooled(frames: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """8 x 8 means of the pixels, less each channel's own mean, of length 1: likeness is correlation."""
    small = F.adaptive_avg_pool2d(frames, 8)
    return F.normalize((small - small.mean((2, 3), keepdim=True)).flatten(1), dim=1)


class Bank(NamedTuple):
    """All frames that are kept, the recent ones last, and the keys of them (no numbers where cameras choose)."""

    clip: Clip
    keys: Float[Tensor, "b t d"]


@dataclass(frozen=True)
class Retrieve:
    """Shows the `recent` frames, and before them `count` older ones that are chosen, in order of time.

    by            "camera": the frames that see what lies ahead; "likeness": the chunks that are like the last one
    bank          frames kept in all; when there are more the oldest chunks go, but never the first one
    chunk         frames of a chunk
    depth         by camera: how far away things are taken to be, one or more distances along the optical axis in the
                  cameras' units; None is that of a flat world, the focal length
    grid          by camera: what is to be seen is asked at grid x grid pixels of each view
    age_penalty   by camera: what a frame as old as the bank loses, as a share of the view
    key           by likeness: what a frame is known by

    Raises ValueError for counts that do not fit each other and, by camera, for clips without cameras.
    """

    recent: int
    count: int
    by: Literal["camera", "likeness"]
    bank: int = 512
    chunk: int = 4
    depth: float | tuple[float, ...] | None = None
    grid: int = 8
    age_penalty: float = 0.2
    key: Key = pooled

    def __post_init__(self) -> None:
        if self.by not in ("camera", "likeness"):
            raise ValueError(f"retrieval by {self.by!r}: it is by 'camera' or by 'likeness'")
        if min(self.recent, self.count, self.chunk, self.grid) < 1:
            raise ValueError(
                f"{self.recent} recent and {self.count} chosen frames, chunks of {self.chunk}, a grid of {self.grid}: "
                "retrieval needs 1 or more of each"
            )
        if self.by == "likeness" and self.count % self.chunk:
            raise ValueError(f"{self.count} frames are not whole chunks of {self.chunk}: likeness chooses chunks")
        if self.bank < self.recent + self.count + self.chunk:
            raise ValueError(
                f"a bank of {self.bank} frames is full before there is a choice: with {self.recent} recent and "
                f"{self.count} chosen frames and chunks of {self.chunk} it needs "
                f"{self.recent + self.count + self.chunk} or more"
            )
        if any(not distance > 0 for distance in _depths(self.depth)):
            raise ValueError(f"things at a depth of {self.depth} are not before the camera: it must be more than 0")

    @property
    def cost(self) -> Cost:
        return Cost(shown=self.recent + self.count, tokens=0, kept=self.bank)

    def start(self, clip: Clip) -> Bank:
        if self.by == "camera":
            cameras_of(clip, "retrieval by camera", "the prompt")
        return self._keep(Bank(clip, self._keys(clip)))

    def recall(self, state: Bank, ahead: Clip) -> Clip:
        t = state.clip.frames.shape[2]
        old = t - min(self.recent, t)
        if self.by == "camera":
            cameras_of(ahead, "retrieval by camera", "what lies ahead")
        recent = last(state.clip, self.recent)
        if old == 0:
            return alike(recent, ahead)
        if old <= self.count:
            return alike(state.clip, ahead)
        chosen = self._by_camera(state.clip, old, ahead) if self.by == "camera" else self._by_likeness(state.keys, old)
        return alike(join([pick(state.clip, chosen.sort(1).values), recent]), ahead)

    def store(self, state: Bank, new: Clip) -> Bank:
        return self._keep(Bank(after(state.clip, new), torch.cat([state.keys, self._keys(new)], dim=1)))

    def _keep(self, state: Bank) -> Bank:
        """The state without the oldest chunks after the first, where there is more than the bank holds."""
        t = state.clip.frames.shape[2]
        if t <= self.bank:
            return state
        begin, rest = self.chunk, self.chunk * (1 + -(-(t - self.bank) // self.chunk))
        return Bank(
            join([span(state.clip, 0, begin), span(state.clip, rest, t)]),
            torch.cat([state.keys[:, :begin], state.keys[:, rest:]], dim=1),
        )

    # -- by camera --------------------------------------------------------------------------------

    def _by_camera(self, clip: Clip, old: int, ahead: Clip) -> Int[Tensor, "b k"]:
        """The greedy cover (WorldMem, its algorithm of memory retrieval)."""
        past = cameras_of(clip, "retrieval by camera", "the bank")
        target = cameras_of(ahead, "retrieval by camera", "what lies ahead")
        h, w = clip.frames.shape[-2:]
        # differs: WorldMem draws points at random in a ball round the camera; these lie on rays of the target views.
        points = looked_at(target, (h, w), self.grid, _depths(self.depth))
        sees = inside(past, points, (h, w))
        # differs: what the recent frames show counts as covered from the start.
        left = ~sees[:, old:].any(1)
        sees = sees[:, :old]
        age = (ahead.times[:, :1] - clip.times[:, :old]).double()
        penalty = self.age_penalty * age / age[:, :1].clamp(min=1)
        chosen = []
        for _ in range(self.count):
            covered = reduce((sees & left[:, None]).double(), "b f p -> b f", "mean")
            best = (covered - penalty).argmax(1, keepdim=True)
            chosen.append(best)
            penalty = penalty.scatter(1, best, torch.inf)
            left = left & ~sees.take_along_dim(best[:, :, None], dim=1)[:, 0]
        return torch.cat(chosen, dim=1)

    # -- by likeness ------------------------------------------------------------------------------

    def _keys(self, clip: Clip) -> Float[Tensor, "b t d"]:
        b, v, t = clip.frames.shape[:3]
        if self.by == "camera":
            return clip.frames.new_zeros(b, t, 0)
        keys = self.key(rearrange(clip.frames, "b v t c h w -> (b v t) c h w"))
        return rearrange(keys, "(b v t) d -> b t (v d)", b=b, v=v)

    def _by_likeness(self, keys: Float[Tensor, "b t d"], old: int) -> Int[Tensor, "b k"]:
        """The chunks whose mean key has the largest product with that of the last chunk (MoBA, Sec. 2.2)."""
        whole = old // self.chunk
        chunks = reduce(keys[:, : whole * self.chunk], "b (n m) d -> b n d", "mean", m=self.chunk)
        # differs: in MoBA every token asks for itself; here the last frames ask for all that lies ahead.
        query = keys[:, -min(self.chunk, self.recent) :].mean(1)
        likeness = torch.einsum("b n d, b d -> b n", chunks, query)
        best = likeness.topk(self.count // self.chunk, dim=1).indices
        frames = best[:, :, None] * self.chunk + torch.arange(self.chunk, device=keys.device)
        return rearrange(frames, "b n m -> b (n m)")


# -- pinhole cameras ------------------------------------------------------------------------------


def _depths(depth: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """No distances stand for the focal length."""
    if depth is None:
        return ()
    return depth if isinstance(depth, tuple) else (depth,)


def looked_at(
    cameras: Cameras, size: tuple[int, int], grid: int, depths: tuple[float, ...] = ()
) -> Float[Tensor, "b p 3"]:
    """Points of the world that the views look at: grid x grid pixels of each, at these depths, or at the focal length
    where none are given. `size` is (height, width) of the frames in pixels."""
    h, w = size
    intrinsics, pose = cameras.intrinsics.double(), cameras.pose.double()
    step = (torch.arange(grid, dtype=torch.float64, device=pose.device) + 0.5) / grid
    y, x = torch.meshgrid(step * h, step * w, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)
    rays = torch.einsum("b v i j, n j -> b v n i", torch.linalg.inv(intrinsics), pixels)
    far = pose.new_tensor(depths).expand(*intrinsics.shape[:2], -1) if depths else intrinsics[:, :, 0, :1]
    points = rearrange(torch.einsum("b v m, b v n i -> b v m n i", far, rays), "b v m n i -> b v (m n) i")
    world = torch.einsum("b v t i j, b v n j -> b v t n i", pose[..., :3, :3], points) + pose[..., None, :3, 3]
    return rearrange(world, "b v t n i -> b (v t n) i")


def inside(cameras: Cameras, points: Float[Tensor, "b p 3"], size: tuple[int, int]) -> Bool[Tensor, "b t p"]:
    """Which points lie before the camera and within the frame, for each frame, in any of its views."""
    h, w = size
    towards = torch.linalg.inv(cameras.pose.double())
    seen = torch.einsum("b v t i j, b p j -> b v t p i", towards[..., :3, :3], points.double())
    seen = torch.einsum(
        "b v i j, b v t p j -> b v t p i", cameras.intrinsics.double(), seen + towards[..., None, :3, 3]
    )
    x, y, z = seen.unbind(-1)
    slack = 1e-3  # pixels: what float32 offsets are off by
    within = (x >= -slack * z) & (x <= (w + slack) * z) & (y >= -slack * z) & (y <= (h + slack) * z)
    return (within & (z > 1e-6)).any(1)
