"""Voxels: one convention of centres, metric warps, lifts that equal a loop, sampling with a second derivative."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from maskworld.data import drive
from maskworld.nets import voxel
from maskworld.nets.voxel import Bins, Grid

PAPER = Grid((-51.2, -51.2, -5.0), (51.2, 51.2, 3.0), (128, 128, 5))
SMALL = Grid((-4.0, -3.0, -1.0), (5.0, 4.0, 2.0), (9, 7, 3))  # odd sizes, not square, not about 0


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def move(degrees: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> torch.Tensor:
    """A turn to the left about z, then a way; float64."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=torch.float64)


def moved(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def volume_of(function, grid: Grid, pose: torch.Tensor) -> torch.Tensor:
    """What a car at `pose` holds of a world in which every point has a value."""
    return function(moved(pose, grid.centres(dtype=torch.float64)))[None, None]


def inside(grid: Grid, points: torch.Tensor, cells: float) -> torch.Tensor:
    """Points that are so many cells from the border, or more."""
    number = (points - points.new_tensor(grid.low)) / points.new_tensor(grid.cell)
    return ((number >= cells) & (number <= number.new_tensor(grid.cells) - cells)).all(-1)


# -- the grid ---------------------------------------------------------------------------------------


def test_centres_and_unit_are_known_numbers():
    centres = PAPER.centres(dtype=torch.float64)
    assert centres.shape == (5, 128, 128, 3)
    assert PAPER.cell == pytest.approx((0.8, 0.8, 1.6))
    assert centres[0, 0, 0].tolist() == pytest.approx([-50.8, -50.8, -4.2])
    assert centres[4, 1, 127].tolist() == pytest.approx([50.8, -50.0, 2.2])  # z y x outside, (x, y, z) inside
    corners = torch.tensor([PAPER.low, PAPER.high, (0.0, 0.0, -1.0)], dtype=torch.float64)
    assert torch.allclose(PAPER.unit(corners), torch.tensor([[-1.0] * 3, [1.0] * 3, [0.0] * 3], dtype=torch.float64))
    assert PAPER.unit(centres)[0, 0, 0].tolist() == pytest.approx([1 / 128 - 1, 1 / 128 - 1, 1 / 5 - 1])


def test_memory_is_known_before_it_is_taken():
    assert voxel.volume_bytes(1, 3, 32, PAPER) == 31_457_280
    assert voxel.volume_bytes(2, 3, 32, PAPER, bytes_each=2) == 31_457_280


def test_empty_grids_and_bins_are_refused():
    with pytest.raises(ValueError, match="along z"):
        Grid((0.0, 0.0, 3.0), (1.0, 1.0, -5.0), (4, 4, 4))
    with pytest.raises(ValueError, match="along x"):
        Grid((0.0, 0.0, 0.0), (math.inf, 1.0, 1.0), (4, 4, 4))
    with pytest.raises(ValueError, match="at least one cell along y"):
        Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 0, 4))
    for near, far, num in ((-1.0, 5.0, 4), (5.0, 5.0, 4), (1.0, 5.0, 0)):
        with pytest.raises(ValueError, match="depth"):
            Bins(near, far, num)
    assert Bins(1.0, 3.0, 4).centres.tolist() == pytest.approx([1.25, 1.75, 2.25, 2.75])


# -- reading a volume -------------------------------------------------------------------------------


def around(grid: Grid, num: int, seed: int = 1) -> torch.Tensor:
    """Points in the grid and up to a fifth of its size beyond it."""
    low, high = (torch.tensor(edge, dtype=torch.float64) for edge in (grid.low, grid.high))
    part = torch.rand(2, num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * (part * 1.4 - 0.2)


def test_both_samplers_equal_grid_sample():
    volume, points = noise(2, 4, 3, 7, 9), around(SMALL, 200)
    oracle = F.grid_sample(volume, SMALL.unit(points)[:, :, None, None], align_corners=False)[..., 0, 0]
    for twice in (False, True):
        found = voxel.sample(volume, points, SMALL, twice=twice)
        assert (found - oracle).abs().max() < 1e-12
        single = voxel.sample(volume.float(), points.float(), SMALL, twice=twice)
        assert single.dtype == torch.float32 and (single - oracle).abs().max() < 2e-5
    apart = [voxel.sample(volume.float(), points.float(), SMALL, twice=twice) for twice in (False, True)]
    assert (apart[0] - apart[1]).abs().max() < 1e-6


def test_both_samplers_have_the_same_gradients():
    made = []
    for twice in (False, True):
        volume, points = noise(2, 4, 3, 7, 9).requires_grad_(), around(SMALL, 50).requires_grad_()
        found = voxel.sample(volume, points, SMALL, twice=twice)
        made.append(torch.autograd.grad((found * noise(2, 4, 50, seed=5)).sum(), (volume, points)))
    for one, two in zip(*made, strict=True):
        assert one.abs().max() > 0.1 and (one - two).abs().max() < 1e-12


def test_a_volume_at_its_centres_is_itself_and_a_slope_is_a_slope():
    volume = noise(1, 2, 3, 7, 9)
    centres = SMALL.centres(dtype=torch.float64).reshape(1, -1, 3)
    slope = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)
    points = around(SMALL, 100)[:1]
    deep = inside(SMALL, points, 0.5)
    assert 20 < deep.sum() < 100
    for twice in (False, True):
        there = voxel.sample(volume, centres, SMALL, twice=twice)
        assert (there.view(1, 2, 3, 7, 9) - volume).abs().max() < 1e-12
        found = voxel.sample((SMALL.centres(dtype=torch.float64) @ slope)[None, None], points, SMALL, twice=twice)
        assert (found[:, 0] - points @ slope)[deep].abs().max() < 1e-12


def test_far_points_read_zeros():
    points = torch.tensor([[[1e12, 0.0, 0.0], [0.0, -1e20, 0.0], [0.0, 0.0, 2.6]]], dtype=torch.float64)
    for twice in (False, True):
        assert not voxel.sample(noise(1, 2, 3, 7, 9), points, SMALL, twice=twice).any()


def test_the_second_derivative_of_sampling():
    grid = Grid((-1.0, -1.5, 0.0), (1.0, 1.5, 2.0), (2, 3, 2))
    part = torch.tensor([[0.3, 0.6, 0.7], [1.2, 2.3, 1.1], [0.8, 1.7, 0.9]], dtype=torch.float64)
    points = (part + torch.tensor(grid.low, dtype=torch.float64))[None].requires_grad_()  # between centres, cells of 1
    volume = noise(1, 1, 2, 3, 2).requires_grad_()

    def read(volume, points):
        return voxel.sample(volume, points, grid, twice=True)

    assert torch.autograd.gradcheck(read, (volume, points))
    assert torch.autograd.gradgradcheck(read, (volume, points))


def test_a_volume_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="3 x 7 x 9 cells"):
        voxel.sample(noise(1, 1, 9, 7, 3), around(SMALL, 4)[:1], SMALL)
    with pytest.raises(ValueError, match="7 x 9 x 3 cells"):
        voxel.warp(noise(1, 1, 3, 9, 7), SMALL, torch.eye(4, dtype=torch.float64)[None])


# -- warping ----------------------------------------------------------------------------------------

ROAD = Grid((-20.0, -18.0, -2.0), (20.0, 18.0, 2.0), (80, 72, 8))


def waves(points: torch.Tensor) -> torch.Tensor:
    x, y, z = points.unbind(-1)
    return (0.4 * x + 0.1 * z).sin() + (0.3 * y - 0.2 * x).cos() + 0.2 * z


def slope(points: torch.Tensor) -> torch.Tensor:
    return points @ points.new_tensor([0.3, -0.7, 0.2]) + 5


@pytest.mark.parametrize("degrees, ahead", [(0.0, 0.83), (2.0, 0.8), (10.0, 4.0)])
def test_a_warped_volume_is_the_world_seen_from_there(degrees, ahead):
    other = move(25.0, 130.0, -40.0)
    here = other @ move(degrees, ahead, 0.1, 0.05)
    to_other = torch.linalg.inv(other) @ here
    deep = inside(ROAD, moved(to_other, ROAD.centres(dtype=torch.float64)), 0.5)
    assert deep.double().mean() > 0.6
    for world, error in ((slope, 1e-9), (waves, 0.02)):  # between centres half a metre apart: h^2 / 8 of the bend
        found = voxel.warp(volume_of(world, ROAD, other), ROAD, to_other[None])[0, 0]
        truth = volume_of(world, ROAD, here)[0, 0]
        assert (found - truth)[deep].abs().max() < error
    if degrees == 10:  # of numbers of cells in place of metres it is another place, by 13 m
        wide = PAPER.centres(dtype=torch.float64)
        number = (wide - wide.new_tensor(PAPER.low)) / wide.new_tensor(PAPER.cell) - 0.5
        wrong = moved(to_other, number) * wide.new_tensor(PAPER.cell)
        right = moved(to_other, wide) - wide.new_tensor(PAPER.low) - 0.5 * wide.new_tensor(PAPER.cell)
        assert (wrong - right)[..., :2].norm(dim=-1).mean() > 8


def test_a_thing_stands_where_the_turned_car_sees_it():
    to_other = move(10.0, 4.0)  # the other frame is behind: the car went 4 m and turned left
    volume = torch.zeros(1, 1, 8, 72, 80, dtype=torch.float64)
    volume[0, 0, 4, 40, 70] = 1.0
    there = ROAD.centres(dtype=torch.float64)[4, 40, 70]
    expected = moved(torch.linalg.inv(to_other), there)
    found = voxel.warp(volume, ROAD, to_other[None])[0, 0]
    centre = (found[..., None] * ROAD.centres(dtype=torch.float64)).sum((0, 1, 2)) / found.sum()
    assert (expected - there).norm() > 4 and (centre - expected).norm() < 0.25  # half a cell


def test_the_identity_is_exact():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        volume = noise(2, 3, 3, 7, 9).to(dtype)
        for pose in (torch.eye(4), torch.eye(4, dtype=torch.float64)):
            found = voxel.warp(volume, SMALL, pose.expand(2, 4, 4))
            assert found.dtype == dtype and torch.equal(found, volume)
    almost = move(0.0, 1e-13).expand(2, 4, 4)
    assert (voxel.warp(noise(2, 3, 3, 7, 9), SMALL, almost) - noise(2, 3, 3, 7, 9)).abs().max() < 1e-11


def test_a_way_of_whole_cells_is_a_shift():
    volume = noise(1, 2, 3, 7, 9)
    found = voxel.warp(volume, SMALL, move(0.0, 2.0, -1.0, 1.0)[None])
    assert (found[:, :, :2, 1:, :7] - volume[:, :, 1:, :6, 2:]).abs().max() < 1e-12
    for beyond in (found[:, :, 2:], found[:, :, :, :1], found[..., 7:]):
        assert beyond.abs().max() < 1e-12


def test_there_and_back_is_the_identity_inside():
    turn = move(10.0, 4.0, 0.5)
    centres = ROAD.centres(dtype=torch.float64)
    back = moved(torch.linalg.inv(turn), centres)
    deep = inside(ROAD, back, 1.5) & inside(ROAD, centres, 2.0)
    assert deep.double().mean() > 0.3
    for world, error in ((slope, 1e-9), (waves, 0.03)):
        volume = volume_of(world, ROAD, torch.eye(4, dtype=torch.float64))
        there = voxel.warp(volume, ROAD, turn[None])
        found = voxel.warp(there, ROAD, torch.linalg.inv(turn)[None])
        assert (found - volume)[0, 0][deep].abs().max() < error


def test_half_precision_changes_values_but_not_places():
    volume, turn = volume_of(waves, ROAD, move(0.0)).float(), move(10.0, 4.0)[None].float()
    plain = voxel.warp(volume, ROAD, turn)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(voxel.warp(volume, ROAD, turn), plain)
    half = voxel.warp(volume.bfloat16(), ROAD, turn)
    assert half.dtype == torch.bfloat16 and (half.float() - plain).abs().max() < 0.02


# -- cameras ----------------------------------------------------------------------------------------

SIZE = (48, 80)


def cameras(batch: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rig = drive.rig(6, SIZE)
    return tuple(x.to(dtype).expand(batch, -1, -1, -1).contiguous() for x in (rig.intrinsics, rig.mount))  # type: ignore[return-value]


def test_pixels_to_points_and_back():
    intrinsics, to_ego = cameras(2, torch.float32)
    rng = torch.Generator().manual_seed(3)
    pixels = torch.rand(2, 6, 40, 2, generator=rng) * torch.tensor([80.0, 48.0])
    away = torch.rand(2, 6, 40, generator=rng) * 59 + 1
    points = voxel.unproject(pixels, away, intrinsics, to_ego)
    for i in range(6):
        found, depth = voxel.project(points[:, i], intrinsics, to_ego)
        assert (found[:, i] - pixels[:, i]).abs().max() < 1e-4
        assert (depth[:, i] - away[:, i]).abs().max() < 1e-4


def test_a_known_point_is_seen_at_a_known_pixel():
    intrinsics, to_ego = cameras(1, torch.float64)
    focal = 40 / math.tan(math.radians(35))
    points = torch.tensor([[[11.8, 1.0, 1.0], [-20.0, 0.0, 1.5]]], dtype=torch.float64)  # 10 m before the front camera
    pixels, depth = voxel.project(points, intrinsics, to_ego)
    assert depth[0, 1].tolist() == pytest.approx([10.0, -21.8], abs=1e-5)
    assert pixels[0, 1, 0].tolist() == pytest.approx([40 - focal / 10, 24 + focal / 20], abs=1e-4)  # left and below


# -- lifting ----------------------------------------------------------------------------------------

TOWN = Grid((-7.0, -9.0, -0.6), (11.0, 7.5, 2.7), (12, 11, 3))
BINS = Bins(0.5, 12.5, 7)


def pictures(batch: int, h: int, w: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return noise(batch, 6, 4, h, w, dtype=dtype), noise(batch, 6, BINS.num, h, w, seed=2, dtype=dtype).softmax(2)


def splat_loop(features, depth, intrinsics, to_ego) -> tuple[torch.Tensor, torch.Tensor]:
    """The volume, and all that was put into it."""
    b, v, c, h, w = features.shape
    out, put = torch.zeros(b, c, 3, 11, 12, dtype=features.dtype), torch.zeros(b, c, dtype=features.dtype)
    for i, j, d, y, x in itertools.product(range(b), range(v), range(BINS.num), range(h), range(w)):
        away = 0.5 + (d + 0.5) * 12 / 7
        k = intrinsics[i, j]
        u, r = (x + 0.5) * SIZE[1] / w, (y + 0.5) * SIZE[0] / h
        seen = torch.stack([(u - k[0, 2]) / k[0, 0] * away, (r - k[1, 2]) / k[1, 1] * away, k.new_tensor(away)])
        point = to_ego[i, j, :3, :3] @ seen + to_ego[i, j, :3, 3]
        at = [math.floor((p - low) / size) for p, low, size in zip(point.tolist(), TOWN.low, TOWN.cell, strict=True)]
        if all(0 <= place < n for place, n in zip(at, TOWN.cells, strict=True)):
            part = features[i, j, :, y, x] * depth[i, j, d, y, x]
            out[i, :, at[2], at[1], at[0]] += part
            put[i] += part
    return out, put


def sample_loop(features, depth, intrinsics, to_ego) -> torch.Tensor:
    b, v, c, h, w = features.shape
    out = torch.zeros(b, c, 3, 11, 12, dtype=features.dtype)
    centres = TOWN.centres(dtype=features.dtype)

    def corners(at: float, n: int) -> list[tuple[int, float]]:
        at = min(max(at, 0.0), n - 1.0)
        low = min(math.floor(at), n - 1)
        return [(low, 1 - at + low), (min(low + 1, n - 1), at - low)]

    for i, j, z, y, x in itertools.product(range(b), range(v), range(3), range(11), range(12)):
        right, down, away = moved(torch.linalg.inv(to_ego[i, j]), centres[z, y, x]).tolist()
        k = intrinsics[i, j]
        if not 0.5 <= away < 12.5:
            continue
        u, r = (k[0, 0] * right / away + k[0, 2]).item(), (k[1, 1] * down / away + k[1, 2]).item()
        if not (0 <= u < SIZE[1] and 0 <= r < SIZE[0]):
            continue
        rows, columns = corners(r * h / SIZE[0] - 0.5, h), corners(u * w / SIZE[1] - 0.5, w)
        bins = corners((away - 0.5) / 12 * 7 - 0.5, 7)
        seen, likely = torch.zeros(c, dtype=features.dtype), 0.0
        for (row, a), (column, e) in itertools.product(rows, columns):
            seen += a * e * features[i, j, :, row, column]
            likely += sum(a * e * f * depth[i, j, d, row, column].item() for d, f in bins)
        out[i, :, z, y, x] += seen * likely
    return out


def test_splatting_equals_a_loop_and_loses_nothing():
    intrinsics, to_ego = cameras(2, torch.float64)
    features, depth = pictures(2, 3, 5)
    found = voxel.lift_splat(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN)
    loop, put = splat_loop(features, depth, intrinsics, to_ego)
    assert (found - loop).abs().max() < 1e-12 and loop.abs().max() > 0.5
    assert (found.sum((2, 3, 4)) - put).abs().max() < 1e-12
    everywhere = Grid((-50.0, -50.0, -50.0), (50.0, 50.0, 50.0), (3, 4, 2))
    kept = voxel.lift_splat(features, depth, BINS, intrinsics, to_ego, SIZE, everywhere)
    assert (kept.sum((2, 3, 4)) - features.sum((1, 3, 4))).abs().max() < 1e-12


def test_looking_up_equals_a_loop():
    intrinsics, to_ego = cameras(2, torch.float64)
    features, depth = pictures(2, 3, 5)
    found = voxel.lift_sample(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN)
    loop = sample_loop(features, depth, intrinsics, to_ego)
    assert (found - loop).abs().max() < 1e-9 and loop.abs().max() > 0.1


@pytest.mark.parametrize("view, row, column, bin", [(0, 2, 4, 2), (1, 1, 0, 4), (4, 2, 3, 3)])
def test_a_pixel_of_known_depth_fills_the_one_cell_of_its_point(view, row, column, bin):
    intrinsics, to_ego = cameras(1, torch.float64)
    features = torch.zeros(1, 6, 1, 3, 5, dtype=torch.float64)
    features[0, view, 0, row, column] = 2.0
    depth = torch.zeros(1, 6, BINS.num, 3, 5, dtype=torch.float64)
    depth[0, :, bin] = 1.0
    found = voxel.lift_splat(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN)[0, 0]
    focal, away = 40 / math.tan(math.radians(35)), 0.5 + (bin + 0.5) * 12 / 7
    right, down = ((column + 0.5) * 16 - 40) / focal * away, ((row + 0.5) * 16 - 24) / focal * away
    yaw = math.radians(list(drive.YAWS.values())[view])
    point = (
        1.5 + (0.3 + away) * math.cos(yaw) + right * math.sin(yaw),
        (0.3 + away) * math.sin(yaw) - right * math.cos(yaw),
        1.5 - down,
    )
    (z, y, x), *others = found.nonzero().tolist()
    assert not others and found[z, y, x] == 2.0
    centre = TOWN.centres(dtype=torch.float64)[z, y, x].tolist()
    assert all(abs(p - c) <= size / 2 for p, c, size in zip(point, centre, TOWN.cell, strict=True))


def test_what_lies_below_the_low_edge_is_dropped():
    to_ego = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]])[None, None]
    intrinsics = torch.tensor([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]])[None, None]
    bins, ones = Bins(9.5, 10.5, 1), torch.ones(1, 1, 1, 1, 1)  # the point is (10, 0, 1)
    for low, full in ((10.3, 0.0), (9.7, 1.0)):  # a third of a cell beyond it, and before it
        grid = Grid((low, -1.0, 0.0), (low + 8, 1.0, 2.0), (8, 1, 1))
        found = voxel.lift_splat(ones, ones, bins, intrinsics, to_ego, (10, 10), grid)
        assert found.sum() == full and found[0, 0, 0, 0, 0] == full


def test_a_wall_is_lifted_to_where_it_stands():
    """8.2 m before the front camera, at x = 10, in cells of half a metre: both lifts put it there."""
    grid = Grid((4.0, -4.0, 0.0), (16.0, 4.0, 3.0), (24, 16, 6))
    rig = drive.rig(1, SIZE)
    given = rig.intrinsics[None], rig.mount[None]
    bins = Bins(0.0, 16.0, 64)
    likely = (1 - (bins.centres - 8.2).abs() / bins.step).clamp(min=0)
    depth = likely[None, None, :, None, None].expand(1, 1, 64, 12, 20).contiguous()
    for lift in (voxel.lift_sample, voxel.lift_splat):
        mass = lift(torch.ones(1, 1, 1, 12, 20), depth, bins, *given, SIZE, grid)[0, 0].sum((0, 1))
        assert ((mass * grid.centres()[0, 0, :, 0]).sum() / mass.sum() - 10.0).abs() < 0.25
        assert mass[:10].sum() + mass[14:].sum() == 0


@pytest.mark.parametrize("lift", [voxel.lift_sample, voxel.lift_splat])
def test_an_example_does_not_depend_on_its_batch(lift):
    intrinsics, to_ego = cameras(2, torch.float64)
    to_ego[1] = move(7.0, 0.2) @ to_ego[1]
    features, depth = pictures(2, 3, 7)
    both = lift(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN)
    for i in range(2):
        one = lift(*(x[i : i + 1] for x in (features, depth)), BINS, intrinsics[i, None], to_ego[i, None], SIZE, TOWN)
        assert torch.equal(one, both[i : i + 1])
    assert (both[0] - both[1]).abs().max() > 0.01


@pytest.mark.parametrize("lift", [voxel.lift_sample, voxel.lift_splat])
def test_lifting_is_differentiated(lift):
    intrinsics, to_ego = cameras(1, torch.float64)
    chosen = torch.tensor([1, 3])
    given = intrinsics[:, chosen], to_ego[:, chosen]
    features, depth = (x[:, chosen, :2].requires_grad_() for x in pictures(1, 2, 3))
    grid, bins = Grid((-7.0, -4.0, -0.6), (11.0, 4.0, 2.7), (5, 3, 2)), Bins(0.5, 12.5, 2)
    assert lift(features, depth, bins, *given, SIZE, grid).abs().max() > 0.1
    assert torch.autograd.gradcheck(lambda f, d: lift(f, d, bins, *given, SIZE, grid), (features, depth))


@pytest.mark.parametrize("lift", [voxel.lift_sample, voxel.lift_splat])
def test_lifting_in_half_precision_and_of_nothing(lift):
    intrinsics, to_ego = cameras(1, torch.float32)
    features, depth = pictures(1, 3, 5, torch.float32)
    plain = lift(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN)
    half = lift(features.bfloat16(), depth.bfloat16(), BINS, intrinsics, to_ego, SIZE, TOWN)
    assert half.dtype == torch.bfloat16 and (half.float() - plain).abs().max() < 0.02 * plain.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lift(features, depth, BINS, intrinsics, to_ego, SIZE, TOWN), plain)
    away = Grid((500.0, 500.0, 0.0), (501.0, 501.0, 1.0), (2, 3, 4))
    assert not lift(features, depth, BINS, intrinsics, to_ego, SIZE, away).any()


@pytest.mark.parametrize("lift", [voxel.lift_sample, voxel.lift_splat])
def test_bad_arguments_of_a_lift(lift):
    intrinsics, to_ego = cameras(1, torch.float64)
    features, depth = pictures(1, 3, 5)
    with pytest.raises(ValueError, match="7 depths for each pixel and 8 bins"):
        lift(features, depth, Bins(1.0, 9.0, 8), intrinsics, to_ego, SIZE, TOWN)
    with pytest.raises(ValueError, match="at least one pixel"):
        lift(features, depth, BINS, intrinsics, to_ego, (0, 80), TOWN)
