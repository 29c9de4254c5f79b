"""Voxels: a grid in metres, features of images lifted into it, and volumes carried from one frame to another.

Ego frame: x ahead, y left, z up, metres. Camera: x right, y down, z ahead. A pixel's centre lies at +0.5, a cell's
feature at the cell's centre: lifting, warping and sampling all read a volume in this one way.

Sections: the grid - reading a volume - cameras - lifting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

# -- the grid ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A box of equal cells in the ego frame, metres; each field is (x, y, z). Raises ValueError where it is empty."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    cells: tuple[int, int, int]

    def __post_init__(self) -> None:
        for axis, low, high, cells in zip("xyz", self.low, self.high, self.cells, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"along {axis} a grid goes up from its low to its high edge, not {low} to {high} m")
            if cells < 1:
                raise ValueError(f"a grid has at least one cell along {axis}, not {cells}")

    @property
    def cell(self) -> tuple[float, float, float]:
        """Size of a cell, metres."""
        x, y, z = ((high - low) / n for low, high, n in zip(self.low, self.high, self.cells, strict=True))
        return x, y, z

    def centres(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "z y x 3"]:
        """Where the cells' centres are, metres."""
        x, y, z = (
            low + (torch.arange(n, device=device, dtype=dtype) + 0.5) * size
            for low, n, size in zip(self.low, self.cells, self.cell, strict=True)
        )
        at_z, at_y, at_x = torch.meshgrid(z, y, x, indexing="ij")
        return torch.stack([at_x, at_y, at_z], dim=-1)

    def unit(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Metres to -1 at the low edges and 1 at the high ones: the outer faces of the outer cells."""
        low, high = points.new_tensor(self.low), points.new_tensor(self.high)
        return (points - low) / (high - low) * 2 - 1


def volume_bytes(batch: int, frames: int, channels: int, grid: Grid, bytes_each: int = 4) -> int:
    """Memory of the volumes alone. What a network keeps of them for its gradients comes on top."""
    return batch * frames * channels * math.prod(grid.cells) * bytes_each


def _check(volume: Tensor, grid: Grid) -> None:
    if tuple(volume.shape[:1:-1]) != grid.cells:
        x, y, z = grid.cells
        there = " x ".join(str(n) for n in volume.shape[:1:-1])
        raise ValueError(f"a volume of {there} cells (x, y, z) is not one of a grid of {x} x {y} x {z}")


def _full(x: Tensor) -> Tensor:
    """Float32 at the least: half precision cannot say in which cell a point lies."""
    return x if x.dtype == torch.float64 else x.float()


def _move(matrix: Float[Tensor, "*b 4 4"], points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
    with torch.autocast(points.device.type, enabled=False):
        return points @ matrix[..., :3, :3].transpose(-1, -2) + matrix[..., None, :3, 3]


# -- reading a volume -------------------------------------------------------------------------------


def sample(
    volume: Float[Tensor, "b c z y x"], points: Float[Tensor, "b n 3"], grid: Grid, twice: bool = False
) -> Float[Tensor, "b c n"]:
    """Trilinear between cell centres, zeros beyond the grid; `points` in metres.

    With `twice` it can be differentiated twice, as an SDF's normal inside a loss asks. Raises ValueError where the
    volume is not of this grid.
    """
    _check(volume, grid)
    full = _full(volume)
    place = grid.unit(_full(points)).to(full.dtype)
    if twice:
        return _gathered(full, place, grid).to(volume.dtype)
    with torch.autocast(volume.device.type, enabled=False):
        found = F.grid_sample(full, place[:, :, None, None], mode="bilinear", align_corners=False)
    return rearrange(found, "b c n 1 1 -> b c n").to(volume.dtype)


def _corners(place: Float[Tensor, "*n k"], sizes: tuple[int, ...]) -> tuple[Int[Tensor, "*n e"], Float[Tensor, "*n e"]]:
    """The 2^k cells around each place (in cells; a centre is a whole number) and their weights: number and weight.

    The last axis of `sizes` runs fastest. Beyond the edge the weight is 0.
    """
    # Beyond the first cell out of bounds all is 0: so far, and a far point's number is still a number.
    low = torch.stack([place[..., i].detach().floor().clamp(-2, n) for i, n in enumerate(sizes)], dim=-1)
    part = place - low
    number = place.new_zeros((*place.shape[:-1], 1), dtype=torch.long)
    weight = place.new_ones((*place.shape[:-1], 1))
    for i, n in enumerate(sizes):
        one = low[..., i, None].long() + torch.arange(2, device=place.device)
        there = (one >= 0) & (one < n)
        share = torch.where(there, torch.stack([1 - part[..., i], part[..., i]], dim=-1), 0)
        number = (number[..., :, None] * n + one.clamp(0, n - 1)[..., None, :]).flatten(-2)
        weight = (weight[..., :, None] * share[..., None, :]).flatten(-2)
    return number, weight


def _gathered(volume: Float[Tensor, "b c z y x"], place: Float[Tensor, "b n 3"], grid: Grid) -> Float[Tensor, "b c n"]:
    """The same from eight gathers: every step of it has a second derivative on any release of torch."""
    cells = torch.tensor(grid.cells, device=place.device, dtype=place.dtype)
    at = ((place + 1) * cells - 1) / 2
    x, y, z = grid.cells
    number, weight = _corners(at.flip(-1), (z, y, x))
    number = number + torch.arange(volume.shape[0], device=place.device)[:, None, None] * (x * y * z)
    rows = rearrange(volume, "b c z y x -> (b z y x) c")
    found = torch.zeros((), device=place.device, dtype=place.dtype)
    for one, share in zip(number.unbind(-1), weight.unbind(-1), strict=True):
        found = found + rows.index_select(0, one.flatten()).view(*one.shape, -1) * share[..., None]
    return rearrange(found, "b n c -> b c n")


def warp(
    volume: Float[Tensor, "b c z y x"], grid: Grid, to_other: Float[Tensor, "b 4 4"]
) -> Float[Tensor, "b c z y x"]:
    """The volume as it stands in another frame: at a point p of that frame is what the volume holds at `to_other` p.

    `to_other` maps metres to metres, never cell numbers; compute it in float64 where poses are far from 0. Zeros
    where the volume did not reach; the identity gives the volume bit for bit. Raises ValueError where the volume is
    not of this grid.
    """
    _check(volume, grid)
    matrix = _full(to_other)
    centres = rearrange(grid.centres(volume.device, matrix.dtype), "z y x three -> 1 (z y x) three")
    points = _move(matrix, centres.expand(len(matrix), -1, -1))
    x, y, z = grid.cells
    found = rearrange(sample(volume, points, grid), "b c (z y x) -> b c z y x", z=z, y=y, x=x)
    still = (matrix == torch.eye(4, device=matrix.device, dtype=matrix.dtype)).all(-1).all(-1)
    return torch.where(rearrange(still, "b -> b 1 1 1 1"), volume, found)


# -- cameras ----------------------------------------------------------------------------------------


def project(
    points: Float[Tensor, "b n 3"], intrinsics: Float[Tensor, "b v 3 3"], to_ego: Float[Tensor, "b v 4 4"]
) -> tuple[Float[Tensor, "b v n 2"], Float[Tensor, "b v n"]]:
    """Where points of the ego frame are seen: pixel (u, v), and depth along the optical axis in metres.

    Behind a camera the depth is not positive, and the pixel says nothing.
    """
    inverse = torch.linalg.inv_ex(to_ego)[0]
    seen = _move(inverse, points[:, None].expand(-1, to_ego.shape[1], -1, -1))
    with torch.autocast(points.device.type, enabled=False):
        homogeneous = seen @ intrinsics.transpose(-1, -2)
    depth = seen[..., 2]
    safe = torch.where(depth.abs() > 1e-6, depth, 1e-6)
    return homogeneous[..., :2] / safe[..., None], depth


def unproject(
    pixels: Float[Tensor, "b v n 2"],
    depth: Float[Tensor, "b v n"],
    intrinsics: Float[Tensor, "b v 3 3"],
    to_ego: Float[Tensor, "b v 4 4"],
) -> Float[Tensor, "b v n 3"]:
    """The point of the ego frame that a pixel (u, v) shows at this depth along the optical axis, metres."""
    inverse = torch.linalg.inv_ex(intrinsics)[0]
    with torch.autocast(pixels.device.type, enabled=False):
        direction = F.pad(pixels, (0, 1), value=1.0) @ inverse.transpose(-1, -2)
    return _move(to_ego, direction * depth[..., None])


@dataclass(frozen=True)
class Bins:
    """Equal bins of depth along the optical axis, metres. Raises ValueError where there are none."""

    near: float
    far: float
    num: int

    def __post_init__(self) -> None:
        if not (0 <= self.near < self.far and math.isfinite(self.far)):
            raise ValueError(f"bins of depth go from 0 m or more up to a larger depth, not {self.near} to {self.far} m")
        if self.num < 1:
            raise ValueError(f"at least one bin of depth, not {self.num}")

    @property
    def step(self) -> float:
        return (self.far - self.near) / self.num

    @property
    def centres(self) -> Float[Tensor, " d"]:
        return self.near + (torch.arange(self.num) + 0.5) * self.step


# -- lifting ----------------------------------------------------------------------------------------


def lift_sample(
    features: Float[Tensor, "b v c h w"],
    depth: Float[Tensor, "b v d h w"],
    bins: Bins,
    intrinsics: Float[Tensor, "b v 3 3"],
    to_ego: Float[Tensor, "b v 4 4"],
    size: tuple[int, int],
    grid: Grid,
) -> Float[Tensor, "b c z y x"]:
    """Every cell looks up what its centre shows in each camera: feature x probability of its depth, summed (UVTR).

    `depth` holds probabilities, `intrinsics` are in pixels of the full image of `size` (height, width), which the
    feature map covers. A camera sees what lies between the bins' near and far depth and inside the image. Raises
    ValueError where depths and bins differ in number.
    """
    # differs: cell centres and feature cell centres, where the original takes corners; and up to half a cell from the
    # border of image or depth the nearest value, where the original fades to zero.
    _check_depth(depth, bins, size)
    (b, v, _, h, w), (height, width) = features.shape, size
    x, y, z = grid.cells
    with torch.no_grad():
        centres = grid.centres(features.device, _full(to_ego).dtype).flatten(0, 2)
        pixels, away = project(centres.expand(b, -1, -1), _full(intrinsics), _full(to_ego))
        inside = (away >= bins.near) & (away < bins.far) & (away > 0)
        inside = inside & (pixels >= 0).all(-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
        example, camera, cell = inside.nonzero(as_tuple=True)
        place = torch.stack([(away - bins.near) / bins.step, pixels[..., 1] * h / height, pixels[..., 0] * w / width])
        place = (place[:, example, camera, cell] - 0.5).T
        place = place.clamp(min=0).minimum(place.new_tensor([bins.num - 1, h - 1, w - 1]))
        image = (example * v + camera)[:, None]
        in_depth, share = _corners(place, (bins.num, h, w))
        in_image, weight = _corners(place[:, 1:], (h, w))
        in_depth, in_image = in_depth + image * (bins.num * h * w), in_image + image * (h * w)
    likely = _full(depth).flatten().gather(0, in_depth.flatten()).view_as(in_depth)
    weight = weight.to(likely.dtype) * (likely * share.to(likely.dtype)).sum(-1, keepdim=True)
    found = _pooled(features, in_image, weight, example * (x * y * z) + cell, b * x * y * z)
    return rearrange(found, "(b z y x) c -> b c z y x", b=b, z=z, y=y, x=x)


def lift_splat(
    features: Float[Tensor, "b v c h w"],
    depth: Float[Tensor, "b v d h w"],
    bins: Bins,
    intrinsics: Float[Tensor, "b v 3 3"],
    to_ego: Float[Tensor, "b v 4 4"],
    size: tuple[int, int],
    grid: Grid,
) -> Float[Tensor, "b c z y x"]:
    """Every feature goes along its ray, feature x probability at each depth, to the cell that contains the point (LSS).

    Arguments as those of `lift_sample`. Nothing is lost but what falls outside the grid. Raises ValueError where
    depths and bins differ in number.
    """
    # differs: the ray through the centre of each feature cell, where the original takes its corner; and what lies
    # just below the low edge is outside, where the original rounds it into the first cell.
    _check_depth(depth, bins, size)
    (b, v, _, h, w), (height, width) = features.shape, size
    x, y, z = grid.cells
    with torch.no_grad():
        exact = {"device": features.device, "dtype": _full(to_ego).dtype}
        row, column = (torch.arange(n, **exact) + 0.5 for n in (h, w))
        at = torch.meshgrid(bins.centres.to(**exact), row * height / h, column * width / w, indexing="ij")
        away, row, column = (one.flatten() for one in at)
        pixels = torch.stack([column, row], dim=-1).expand(b, v, -1, -1)
        points = unproject(pixels, away.expand(b, v, -1), _full(intrinsics), _full(to_ego))
        inside, cell = _cell_of(points, grid)
        cell = cell + torch.arange(b, device=cell.device)[:, None, None] * (x * y * z)
        pixel = torch.arange(b * v * h * w, device=cell.device).view(b, v, 1, h * w)
        pixel = pixel.expand(-1, -1, bins.num, -1).flatten(2)
        chosen = inside.flatten().nonzero()[:, 0]
    weight = _full(depth).flatten().gather(0, chosen)[:, None]
    found = _pooled(features, pixel.flatten()[chosen, None], weight, cell.flatten()[chosen], b * x * y * z)
    return rearrange(found, "(b z y x) c -> b c z y x", b=b, z=z, y=y, x=x)


def _check_depth(depth: Tensor, bins: Bins, size: tuple[int, int]) -> None:
    if depth.shape[2] != bins.num:
        raise ValueError(f"{depth.shape[2]} depths for each pixel and {bins.num} bins of depth")
    if min(size) < 1:
        raise ValueError(f"images have at least one pixel, not {size[0]} x {size[1]}")


def _cell_of(points: Float[Tensor, "b v n 3"], grid: Grid) -> tuple[Bool[Tensor, "b v n"], Int[Tensor, "b v n"]]:
    """Whether each point lies in the grid, and the number of its cell where it does."""
    x, y, _ = grid.cells
    number = (points - points.new_tensor(grid.low)) / points.new_tensor(grid.cell)
    inside = ((number >= 0) & (number < number.new_tensor(grid.cells))).all(-1)
    place = torch.where(inside[..., None], number, 0).long()
    return inside, (place[..., 2] * y + place[..., 1]) * x + place[..., 0]


def _pooled(
    features: Float[Tensor, "b v c h w"],
    pixel: Int[Tensor, "n e"],
    weight: Float[Tensor, "n e"],
    cell: Int[Tensor, " n"],
    num_cells: int,
) -> Float[Tensor, "cells c"]:
    """Sums of weighted features in each cell; the product of every point with its feature is never stored.

    It can be differentiated once.
    """
    rows = rearrange(_full(features), "b v c h w -> (b v h w) c")
    dtype = torch.promote_types(rows.dtype, weight.dtype)
    order = cell.argsort(stable=True)
    count = torch.bincount(cell, minlength=num_cells) * pixel.shape[1]
    with torch.autocast(features.device.type, enabled=False):
        found = F.embedding_bag(
            pixel[order].flatten(),
            rows.to(dtype),
            count.cumsum(0) - count,
            mode="sum",
            per_sample_weights=weight[order].flatten().to(dtype),
        )
    return found.to(features.dtype)
