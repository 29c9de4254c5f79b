"""Rays, samples and NeuS weights, against planes whose depth is known."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.nets.render import Field, March, Rendered, crossing, cut, finer, rays_of, render, slant
from maskworld.nets.voxel import Grid

GRID = Grid((-20.0, -20.0, -2.0), (20.0, 20.0, 4.0), (10, 10, 3))
SMALL = Grid((-4.0, -4.0, -2.0), (4.0, 4.0, 2.0), (4, 4, 2))
FEW = Grid((-4.0, -4.0, -2.0), (4.0, 4.0, 2.0), (3, 3, 1))
WAYS: tuple[Literal["fd", "autograd"], ...] = ("fd", "autograd")


class Plane(Field):
    """The distance to the plane normal . p = offset (metres), positive on the origin's side; scaled by 1 / 20."""

    def __init__(self, normal: tuple[float, float, float], offset: float, sharp: float, scale: float = 1 / 20):
        super().__init__(channels=2, normals=False)
        self.plane = torch.tensor([*normal, offset * scale], dtype=torch.float64)
        self.double()
        with torch.no_grad():
            self.sharpness.fill_(math.log(sharp) / 10)

    def sdf(
        self, points: Float[Tensor, "b n 3"], features: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n g"]]:
        return self.plane[3] - points @ self.plane[:3], super().sdf(points, features)[1]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ahead(rays: int, spread: float = 0.3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """(origins, directions, jitter) of rays forward from a metre above the ground."""
    turn = torch.linspace(-spread, spread, rays, dtype=dtype)
    directions = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], dim=-1)[None]
    origins = torch.tensor([0.0, 0.0, 1.0], dtype=dtype).expand_as(directions)
    return origins, directions, torch.linspace(0, 0.9, rays, dtype=dtype)[None]


def plane_seen(alpha: Literal["fd", "autograd"], sharp: float, march: March) -> tuple[Rendered, Tensor]:
    """A wall that stands across the road at 12 metres, a little turned; and the true distances along the rays."""
    normal = (math.cos(0.2), math.sin(0.2), 0.0)
    origins, directions, jitter = ahead(16)
    truth = 12 / (directions @ torch.tensor(normal, dtype=torch.float64))
    field, volume = Plane(normal, 12.0, sharp), torch.zeros(1, 2, 3, 10, 10, dtype=torch.float64)
    with torch.no_grad():
        return render(field, volume, GRID, origins, directions, jitter, march, alpha), truth


# -- rays -----------------------------------------------------------------------------------------


def rig() -> tuple[Tensor, Tensor]:
    """Six cameras around a car: (intrinsics, to_ego)."""
    intrinsics = torch.tensor([[560.0, 0.3, 401.0], [0, 555.0, 238.0], [0, 0, 1]], dtype=torch.float64)
    poses = []
    for i, yaw in enumerate((0, 55, 110, 180, -110, -55)):
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        axes = torch.tensor([[s, 0, c], [-c, 0, s], [0, -1, 0]], dtype=torch.float64)  # right, down, ahead
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3], pose[:3, 3] = axes, torch.tensor([1.5 * c, 0.5 * s, 1.5 + 0.1 * i])
        poses.append(pose)
    return intrinsics.expand(1, 6, 3, 3), torch.stack(poses)[None]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_pixel_s_ray_leads_back_to_the_pixel(dtype: torch.dtype, close: float) -> None:
    intrinsics, to_ego = rig()
    pixels = torch.rand(1, 6, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = pixels * torch.tensor([800.0, 480.0])
    given = pixels.to(dtype)
    origins, directions = (one.double() for one in rays_of(given, intrinsics.to(dtype), to_ego.to(dtype)))
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(1, 6, 50, dtype=torch.float64), atol=1e-6, rtol=0)
    points = origins + 17.0 * directions
    inverse = torch.linalg.inv(to_ego)
    camera = torch.einsum("bvij,bvrj->bvri", inverse[..., :3, :3], points) + inverse[..., None, :3, 3]
    assert (camera[..., 2] > 0).all()
    image = torch.einsum("bvij,bvrj->bvri", intrinsics, camera)
    assert (image[..., :2] / image[..., 2:] - given.double()).abs().max() < close
    along = slant(given, intrinsics.to(dtype)).double()
    torch.testing.assert_close(camera[..., 2] * along, torch.full_like(along, 17.0), atol=1e-4, rtol=0)


def test_the_middle_of_the_image_looks_along_the_camera_s_axis() -> None:
    intrinsics, to_ego = rig()
    origins, directions = rays_of(torch.tensor([401.0, 238.0]).double().expand(1, 6, 1, 2), intrinsics, to_ego)
    torch.testing.assert_close(directions[0, 0, 0], torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(directions[0, 3, 0], torch.tensor([-1.0, 0, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert directions[0, 1, 0, 1] > 0.8  # 55 degrees to the left is +y
    assert torch.equal(origins[0, :, 0], to_ego[0, :, :3, 3])


# -- samples --------------------------------------------------------------------------------------


def test_a_ray_enters_and_leaves_the_box_where_it_should() -> None:
    origins = torch.tensor([[[-30.0, 0, 0], [0, 0, 1], [0, 0, 10], [0, 0, 10], [19.5, 0, 0], [20.0, 0, 0]]])
    directions = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0]]])
    enter, leave, hits = crossing(GRID, origins, directions, 1.0)
    assert hits.tolist() == [[True, True, False, True, False, False]]  # the last two: too near a face, and along it
    assert enter[hits].tolist() == [10.0, 1.0, 6.0]
    assert leave[hits].tolist() == [50.0, 20.0, 12.0]
    assert torch.isfinite(enter).all() and torch.isfinite(leave).all()


@pytest.mark.parametrize("alpha", WAYS)
@pytest.mark.parametrize("fine", [0, 1, 24])
def test_samples_are_in_order_and_inside_the_box(alpha: Literal["fd", "autograd"], fine: int) -> None:
    torch.manual_seed(0)
    field = Field(channels=4, normals=alpha == "autograd")
    origins, directions, jitter = ahead(9, 3.0, torch.float32)
    march = March(coarse=12, fine=fine)
    volume = noise(1, 4, 3, 10, 10, dtype=torch.float32)
    seen = render(field, volume, GRID, origins, directions, jitter, march, alpha)
    assert seen.edges.shape == (1, 9, 13 + fine) and seen.alpha.shape == seen.weights.shape == (1, 9, 12 + fine)
    assert (seen.edges.diff(dim=-1) >= 0).all() and (seen.edges >= march.near).all()
    points = origins[:, :, None] + directions[:, :, None] * seen.edges[..., None]
    low, high = torch.tensor(GRID.low), torch.tensor(GRID.high)
    assert ((points >= low - 1e-4) & (points <= high + 1e-4)).all()


def test_even_pieces_move_with_the_jitter_by_less_than_one() -> None:
    enter, leave = torch.full((1, 2), 2.0), torch.full((1, 2), 10.0)
    edges = cut(enter, leave, torch.tensor([[0.0, 0.5]]), 4)
    assert edges[0, 0].tolist() == [2.0, 3.0, 5.0, 7.0, 9.0]
    assert edges[0, 1].tolist() == [2.5, 4.0, 6.0, 8.0, 9.5]


def test_finer_samples_gather_at_the_surface() -> None:
    edges = torch.linspace(1, 20, 20, dtype=torch.float64)[None, None]
    more = finer(edges, (12.3 - edges) / 20, torch.tensor([[0.5]]).double(), March(fine=24), 1 / 20)
    assert ((more - 12.3).abs() < 2).double().mean() > 0.9
    assert (more.diff() > 0).all()
    away = finer(edges, torch.full_like(edges, 3.0), torch.tensor([[0.5]]).double(), March(fine=24), 1 / 20)
    assert away.std() > 4  # no surface: spread over the whole ray


def test_a_march_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="coarse at least 1"):
        March(coarse=0)


# -- rendering ------------------------------------------------------------------------------------


def test_parameters_are_the_paper_s() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    field = Field()
    assert (count(field.distance), count(field.colour), count(field)) == (4881, 4451, 4881 + 4451 + 1)
    assert count(Field(normals=False).colour) == 4451 - 4 * 16 * 3
    assert field.sharp().item() == pytest.approx(math.exp(3), rel=1e-6)


@pytest.mark.parametrize("alpha", WAYS)
def test_the_depth_of_a_plane_is_found_as_the_surface_hardens(alpha: Literal["fd", "autograd"]) -> None:
    errors, spreads = [], []
    for sharp in (2.0, 20.0, 200.0, 1e5):
        seen, truth = plane_seen(alpha, sharp, March(coarse=200, fine=100))
        middles = (seen.edges[..., 1:] + seen.edges[..., :-1]) / 2
        off = (seen.weights * (middles - truth[..., None]) ** 2).sum(-1) / seen.weight
        errors.append((seen.depth - truth).abs().max().item())
        spreads.append(off.sqrt().max().item())
        assert (seen.weight <= 1 + 1e-12).all() and (seen.weights >= 0).all()
    assert spreads == sorted(spreads, reverse=True)
    assert errors[0] > 1 and max(errors[2:]) < 0.01  # pieces are about a centimetre long where the wall is
    # That of a logistic curve; longer along the ray that meets the wall most aslant.
    assert spreads[2] == pytest.approx(20 / 200 * math.pi / math.sqrt(3) * truth.max().item() / 12, rel=0.01)
    assert (seen.weight > 1 - 1e-6).all()


def test_weights_sum_to_one_less_what_passes() -> None:
    seen, _ = plane_seen("fd", 40.0, March(coarse=30, fine=10))
    torch.testing.assert_close(seen.weight, 1 - (1 - seen.alpha).prod(-1))
    before = torch.cat([torch.ones(1, 16, 1).double(), (1 - seen.alpha).cumprod(-1)[..., :-1]], dim=-1)
    torch.testing.assert_close(seen.weights, seen.alpha * before)


@pytest.mark.parametrize("sharp", [20.0, 300.0])
def test_differences_and_gradients_agree_for_a_linear_distance(sharp: float) -> None:
    march = March(coarse=24, fine=12)
    (one, _), (two, _) = plane_seen("fd", sharp, march), plane_seen("autograd", sharp, march)
    assert one.alpha.max() > 0.3
    torch.testing.assert_close(one.edges, two.edges, atol=1e-12, rtol=0)
    torch.testing.assert_close(one.alpha, two.alpha, atol=1e-12, rtol=0)
    torch.testing.assert_close(one.depth, two.depth, atol=1e-10, rtol=0)


def test_a_wall_seen_from_behind_is_not_there() -> None:
    origins, directions, jitter = ahead(3)
    volume = torch.zeros(1, 2, 3, 10, 10, dtype=torch.float64)
    for alpha in WAYS:
        seen = render(Plane((-1.0, 0, 0), -8.0, 200.0), volume, GRID, origins, directions, jitter, March(), alpha)
        assert seen.weight.abs().max() < 1e-12 and torch.isfinite(seen.depth).all()


@pytest.mark.parametrize("alpha", WAYS)
def test_colours_lie_between_black_and_white_and_a_wall_hides_what_is_behind(
    alpha: Literal["fd", "autograd"],
) -> None:
    seen, truth = plane_seen(alpha, 1e5, March(coarse=64, fine=32))
    assert ((seen.rgb >= 0) & (seen.rgb <= 1)).all()
    behind = seen.edges[..., :-1] > truth[..., None] + 0.1
    assert behind.any() and seen.weights[behind].max() < 1e-12


@pytest.mark.parametrize("alpha", WAYS)
def test_rays_that_miss_see_nothing_and_teach_nothing(alpha: Literal["fd", "autograd"]) -> None:
    torch.manual_seed(0)
    field = Field(channels=4, normals=alpha == "autograd")
    volume = noise(1, 4, 2, 4, 4, dtype=torch.float32).requires_grad_()
    origins = torch.tensor([[[0.0, 0, 0], [0, 0, 50], [9, 9, 0]]])
    directions = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]])
    seen = render(field, volume, SMALL, origins, directions, torch.rand(1, 3), March(coarse=8, fine=4), alpha)
    for value in (seen.weight, seen.depth, seen.rgb.sum(-1)):
        assert value[0, 0] > 0 and value[0, 1:].eq(0).all()
    told = seen.rgb[:, 1:].sum() + seen.depth[:, 1:].sum() + seen.weight[:, 1:].sum()
    (grad,) = torch.autograd.grad(told, volume, retain_graph=True)
    assert grad.eq(0).all()
    (seen.rgb.sum() + seen.depth.sum()).backward()
    assert volume.grad is not None and torch.isfinite(volume.grad).all() and volume.grad.ne(0).any()
    for name, p in field.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.ne(0).any(), name


@pytest.mark.parametrize("alpha", WAYS)
def test_gradients_of_a_whole_render_are_those_of_finite_differences(alpha: Literal["fd", "autograd"]) -> None:
    """With "autograd" the first gradient is already a second one of the sampling of the volume."""
    torch.manual_seed(1)
    field = Field(channels=2, dim=3, layers=(2, 2), geometry=1, normals=alpha == "autograd").double()
    field.distance.activation = torch.nn.Softplus(beta=5)  # smooth on the scale of a finite difference
    field.colour.activation = torch.nn.Softplus(beta=5)
    origins, directions, jitter = ahead(2)
    volume = noise(1, 2, 1, 3, 3).requires_grad_()

    def outcome(volume: Tensor, sharpness: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        parameters = {"sharpness": sharpness, "distance.told.weight": weight}
        named = {f"field.{name}": value for name, value in parameters.items()}
        found = torch.func.functional_call(Called(field, alpha), named, (volume, origins, directions, jitter))
        return found.rgb, found.depth, found.weight

    given = (volume, field.sharpness.detach().requires_grad_(), field.distance.told.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(outcome, given, eps=1e-6, atol=1e-5)


class Called(torch.nn.Module):
    """`render` as a module, so that its parameters can be exchanged."""

    def __init__(self, field: Field, alpha: Literal["fd", "autograd"]):
        super().__init__()
        self.field = field
        self.alpha: Literal["fd", "autograd"] = alpha

    def forward(self, volume: Tensor, origins: Tensor, directions: Tensor, jitter: Tensor) -> Rendered:
        return render(self.field, volume, FEW, origins, directions, jitter, March(coarse=5, fine=0), self.alpha)


@pytest.mark.parametrize("alpha", WAYS)
def test_half_precision_leaves_distances_and_weights_alone(alpha: Literal["fd", "autograd"]) -> None:
    torch.manual_seed(0)
    field = Field(channels=4, normals=alpha == "autograd")
    origins, directions, jitter = ahead(5, dtype=torch.float32)
    volume, march = noise(1, 4, 2, 4, 4, dtype=torch.float32).bfloat16(), March(coarse=8, fine=4)
    full = render(field, volume.float(), SMALL, origins, directions, jitter, march, alpha)
    with torch.autocast("cpu", torch.bfloat16):
        half = render(field, volume, SMALL, origins, directions, jitter, march, alpha)
        there = rays_of(torch.full((1, 1, 1, 2), 33.3), torch.eye(3)[None, None], torch.eye(4)[None, None])
    assert all(value.dtype == torch.float32 for value in (*half, *there))
    for name in ("depth", "weight", "edges", "alpha", "weights"):
        assert torch.equal(getattr(half, name), getattr(full, name)), name
    assert 0 < (half.rgb - full.rgb).abs().max() < 0.01  # the colour's decoder alone is in bfloat16


@pytest.mark.parametrize("alpha", WAYS)
def test_the_jitter_alone_decides_and_each_example_stands_alone(alpha: Literal["fd", "autograd"]) -> None:
    torch.manual_seed(0)
    field = Field(channels=4, normals=alpha == "autograd").double()
    origins, directions, jitter = (one.expand(2, *one.shape[1:]) for one in ahead(5))
    jitter, volume = torch.stack([jitter[0], 1 - jitter[1]]) * 0.99, noise(2, 4, 2, 4, 4)
    march = March(coarse=8, fine=4)
    with torch.no_grad():
        one, two = (render(field, volume, SMALL, origins, directions, jitter, march, alpha) for _ in range(2))
        other = render(field, volume, SMALL, origins, directions, (jitter + 0.3) % 1, march, alpha)
        alone = render(field, volume[1:], SMALL, origins[1:], directions[1:], jitter[1:], march, alpha)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert (one.depth - other.depth).abs().min() > 0
    for together, single in zip(one, alone, strict=True):
        torch.testing.assert_close(together[1:], single, atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", WAYS)
def test_looking_and_learning_see_the_same(alpha: Literal["fd", "autograd"]) -> None:
    torch.manual_seed(0)
    field = Field(channels=4, normals=alpha == "autograd").double()
    volume, march = noise(1, 4, 2, 4, 4), March(coarse=8, fine=4)
    learnt = render(field, volume, SMALL, *ahead(5), march, alpha)
    with torch.no_grad():
        looked = render(field, volume, SMALL, *ahead(5), march, alpha)
    assert learnt.depth.requires_grad and not looked.depth.requires_grad and not looked.rgb.requires_grad
    torch.testing.assert_close(tuple(learnt), tuple(looked), atol=0, rtol=0)


def test_the_order_of_cells_is_the_grid_s() -> None:
    """A dense cell ahead, a little left: the ray through it sees a colour that its neighbours do not."""
    volume = torch.zeros(1, 4, 2, 4, 4)
    volume[0, :, 1, 2, 3] = 5  # x in 2..4, y in 0..2, z in 0..2
    field = Field(channels=4, normals=False)
    origins = torch.tensor([[[-2.0, 1.0, 1.0], [-2.0, -3.0, 1.0], [-2.0, 1.0, -1.9]]])
    directions = torch.tensor([1.0, 0, 0]).expand(1, 3, 3)
    march = March(coarse=8, fine=0)
    seen = render(field, volume, SMALL, origins, directions, torch.full((1, 3), 0.5), march, "fd")
    empty = render(field, volume * 0, SMALL, origins, directions, torch.full((1, 3), 0.5), march, "fd")
    changed = (seen.alpha - empty.alpha).abs().amax(-1)[0]
    assert changed[0] > 1e-3 and changed[1:].max() == 0


def test_what_does_not_fit_is_refused() -> None:
    origins, directions, jitter = ahead(2, dtype=torch.float32)
    with pytest.raises(ValueError, match="4 channels of 2 x 4 x 4"):
        render(Field(channels=4), torch.zeros(1, 3, 2, 4, 4), SMALL, origins, directions, jitter, March(), "autograd")
    with pytest.raises(ValueError, match="normals=False"):
        render(Field(channels=4), torch.zeros(1, 4, 2, 4, 4), SMALL, origins, directions, jitter, March(), "fd")
    with pytest.raises(ValueError, match="at least one layer"):
        Field(layers=(0, 4))
