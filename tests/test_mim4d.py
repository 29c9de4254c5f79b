"""MIM4D: frames that are dropped, rays that know their depth, poses, pictures from where no camera stood."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch

from maskworld import masks
from maskworld.clip import Cameras, Clip, collate, example, span
from maskworld.data import drive
from maskworld.masks import these_frames
from maskworld.noise import Rng
from maskworld.papers import mim4d

B, V, T = 2, 2, 3


@functools.cache
def net(**changes) -> mim4d.MIM4D:
    torch.manual_seed(0)
    network = mim4d.MIM4D(mim4d.tiny(**changes))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    return network.eval()


@functools.cache
def clip(b: int = B, t: int = T, views: int = V, size: tuple[int, int] = (32, 48)) -> Clip:
    source = drive.Drives(t, views, size, 4.0, depth=True)
    return dataclasses.replace(collate([source(i * 64) for i in range(b)]), actions=None)


def all_known(of: Clip) -> torch.Tensor:
    return these_frames([True] * of.shape[2], of.shape[0], of.shape[1])


# -- dropped frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_dropped_frame_is_made_from_the_others_alone(flow: bool, k: int) -> None:
    network = net(flow=flow)
    volumes, places = network.volumes(clip(), all_known(clip()))
    volumes = volumes.detach().requires_grad_()
    made, there, _ = network.dropped(volumes, places, k, [j for j in range(T) if j != k])
    (gradient,) = torch.autograd.grad(made.square().mean(), volumes)
    used = gradient.flatten(2).abs().sum(-1) > 0
    assert not bool(used[:, k].any()) and bool(there.all())
    assert bool(used[:, [j for j in range(T) if j != k]].any(0).all()) or flow  # the flow moves the nearest frame alone
    assert bool(used.any(1).all())


def test_the_short_branch_looks_at_the_nearest_frame_on_each_side() -> None:
    def nearest(*gaps: int) -> list[int]:
        of = torch.tensor(gaps)
        return of[mim4d.nearest_of(of)].tolist()

    assert nearest(-2, -1, 1, 2) == [-1, 1] and nearest(-3, -2) == [-2] and nearest(2, 1) == [1]


def test_a_volume_that_is_moved_is_what_it_was_elsewhere() -> None:
    grid = mim4d.tiny().grid
    centres = grid.centres(torch.device("cpu"), torch.float64)
    volume = centres.movedim(-1, 0)[None]
    way = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64).view(1, 3, 1, 1, 1).expand_as(volume)
    made = mim4d.moved(volume, way, grid)
    torch.testing.assert_close(made[..., 1:-1, 1:-1, 1:-1], (volume - way)[..., 1:-1, 1:-1, 1:-1])


def test_without_motion_the_flow_is_the_frame_before() -> None:
    """Of a car that stands: a new flow head moves nothing."""
    network = mim4d.MIM4D(mim4d.tiny(flow=True)).eval()
    still = span(clip(), 0, 1)
    cameras = still.cameras
    assert cameras is not None and cameras.ego is not None
    three = Cameras(cameras.intrinsics, cameras.pose.expand(-1, -1, 3, -1, -1), cameras.ego.expand(-1, 3, -1, -1))
    of = dataclasses.replace(clip(), cameras=three)
    volumes, places = network.volumes(of, all_known(of))
    made, _, velocity = network.dropped(volumes, places, 2, [0, 1])
    assert velocity is not None and not bool(velocity.any())
    torch.testing.assert_close(made, volumes[:, 1], atol=1e-4, rtol=1e-4)


# -- rays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 2])
def test_rays_end_where_their_depth_says(k: int) -> None:
    """A point of a frame, by its own ray and depth, lies on the ground or above it, where the world's points are: of a
    past frame, too, by that frame's own pose."""
    of = clip()
    places = mim4d.places_of(of, net().config)
    h, w = of.shape[4:]
    pixels = torch.arange(0, h * w, 7).expand(B, V, -1)
    rays = mim4d.rays_at(of, places, k, pixels)
    assert of.depth is not None and of.cameras is not None
    points = rays.origins + rays.directions * rays.depth[..., None]
    world = torch.einsum("bij,brj->bri", places.ego[:, k, :3, :3].float(), points) + places.ego[:, k, None, :3, 3]
    along = of.depth[:, :, k].flatten(2).gather(2, pixels)
    focal, centre = of.cameras.intrinsics[..., 0, 0], of.cameras.intrinsics[..., :2, 2]
    u, v = pixels % w + 0.5, pixels // w + 0.5
    x = torch.stack([(u - centre[..., :1]) / focal[..., None], (v - centre[..., 1:]) / focal[..., None]], -1)
    seen = torch.cat([x, torch.ones_like(x[..., :1])], -1) * along[..., None]
    wanted = (
        torch.einsum("bvij,bvrj->bvri", of.cameras.pose[:, :, k, :3, :3], seen) + of.cameras.pose[:, :, k, None, :3, 3]
    )
    known = rays.depth > 0
    torch.testing.assert_close(world.float()[known], wanted.flatten(1, 2)[known], atol=2e-3, rtol=1e-4)
    assert bool((world[known][:, 2] > -0.02).all())
    colour = (of.frames[:, :, k].flatten(3).movedim(2, -1).flatten(1, 2)[:, ::7][:, : colour_len(pixels)] + 1) / 2
    torch.testing.assert_close(rays.target[:, : pixels.shape[2]], colour[:, : pixels.shape[2]])


def colour_len(pixels: torch.Tensor) -> int:
    return pixels.shape[1] * pixels.shape[2]


def test_most_rays_go_where_depth_is_known() -> None:
    config = mim4d.tiny(rays=40, anywhere=0.25)
    of = clip()
    pixels = mim4d.chosen(of, config, 1, Rng.of(0, batch=B))
    assert pixels.shape == (B, V, 40) and of.depth is not None
    depth = of.depth[:, :, 1].flatten(2).gather(2, pixels)
    near = ((depth > 1) & (depth < 8)).float().mean(-1)
    there = ((of.depth[:, :, 1] > 1) & (of.depth[:, :, 1] < 8)).flatten(2).sum(-1)
    assert bool((near[there >= 30] >= 0.75).all())
    blind = dataclasses.replace(of, depth=None)
    pixels = mim4d.chosen(blind, config, 1, Rng.of(0, batch=B))
    assert bool((pixels.sort(-1).values.diff(dim=-1) > 0).all())
    assert bool(torch.isfinite(mim4d.objective()(net(), blind, all_known(of), Rng.of(0, batch=B)).total).all())


def test_some_steps_bring_the_loss_down() -> None:
    torch.manual_seed(0)
    network = mim4d.MIM4D(mim4d.tiny(rays=48)).train()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    of, losses = example(clip(), [0]), []
    for i in range(30):
        loss = mim4d.objective()(network, of, all_known(of), Rng.of(i, batch=1)).total.mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


# -- poses ----------------------------------------------------------------------------------------------


def test_a_pose_that_jumps_is_not_used_and_is_counted() -> None:
    of = clip()
    cameras = of.cameras
    assert cameras is not None and cameras.ego is not None
    pose, ego = cameras.pose.clone(), cameras.ego.clone()
    pose[0, :, 2:, 0, 3] += 500.0
    ego[0, 2:, 0, 3] += 500.0
    far = dataclasses.replace(of, cameras=Cameras(cameras.intrinsics, pose, ego))
    places = mim4d.places_of(far, net().config)
    assert mim4d.near_of(places.ego, 2, 20.0).tolist() == [[False, False, True], [True] * 3]
    assert mim4d.near_of(places.ego, 0, 20.0).tolist() == [[True, True, False], [True] * 3]
    network = mim4d.MIM4D(mim4d.tiny())
    loss = mim4d.objective()(network, far, all_known(far), Rng.of(0, batch=B))
    assert network.single.tolist()[0] >= 1 and network.single.tolist()[1] == 2 * B
    assert bool(torch.isfinite(loss.total).all())


def test_where_nobody_says_where_the_car_is_it_is_under_the_cameras() -> None:
    of = clip()
    cameras = of.cameras
    assert cameras is not None and cameras.ego is not None
    bare = dataclasses.replace(of, cameras=Cameras(cameras.intrinsics, cameras.pose))
    ours = mim4d.places_of(bare, net().config)
    turned = torch.linalg.solve(cameras.ego.double(), ours.ego)
    torch.testing.assert_close(turned[..., :3, :3], torch.eye(3).double().expand(B, T, 3, 3), atol=1e-4, rtol=0)
    assert turned[..., :2, 3].norm(dim=-1).max() < 2.0 and turned[..., 2, 3].abs().max() < 1e-3


def test_bad_input_is_refused() -> None:
    of = clip()
    cases = {
        "no calibration": dataclasses.replace(of, cameras=None),
        "2 views of 3 x 32 x 48": clip(views=1),
        "sees 3 frames at once": clip(t=4),
    }
    for words, bad in cases.items():
        with pytest.raises(ValueError, match=words):
            mim4d.objective()(net(), bad, all_known(bad), Rng.of(0, batch=B))
    assert of.depth is not None
    for depth in (of.depth * 1000 + 1e5, -of.depth - 1, of.depth * math.nan):
        with pytest.raises(ValueError, match="depth is in metres"):
            mim4d.objective()(net(), dataclasses.replace(of, depth=depth), all_known(of), Rng.of(0, batch=B))
    with pytest.raises(ValueError, match="nothing is known"):
        mim4d.fill(net())(of, ~all_known(of), Rng.of(0, batch=B))
    with pytest.raises(ValueError, match="do not tile"):
        mim4d.tiny(size=(33, 48))


# -- what it is for -----------------------------------------------------------------------------------------


def test_a_new_pose_is_rendered_and_the_depth_says_where() -> None:
    """The same pose again renders the same picture; another one another."""
    network, of = net(), clip()
    known = all_known(of)
    known[:, 1] = False
    cameras = of.cameras
    assert cameras is not None
    made = mim4d.fill(network)(of, known, Rng.of(0, batch=B)).frames
    pose = cameras.pose.clone()
    pose[:, 1, :, 0, 3] += 1.0
    elsewhere = dataclasses.replace(of, cameras=Cameras(cameras.intrinsics, pose, cameras.ego))
    other = mim4d.fill(network)(elsewhere, known, Rng.of(0, batch=B)).frames
    assert torch.equal(made[:, 0], other[:, 0]) and not torch.allclose(made[:, 1], other[:, 1], atol=1e-3)


def test_features_are_of_each_frame_and_where_they_are() -> None:
    network, of = net(), clip()
    found = network.features(of)
    config = network.config
    x, y, z = config.cells
    assert found.volume.shape == (B, T, config.dim, z, y, x) and found.bev.shape == (B, T, config.dim * z, y, x)
    assert found.grid == config.grid
    alone = network.features(span(of, 1, 2))
    torch.testing.assert_close(alone.volume[:, 0], found.volume[:, 1], atol=1e-5, rtol=1e-4)


def test_hidden_patches_change_nothing_of_what_is_seen() -> None:
    network, of = net(), clip()
    known = masks.blocks(*network.config.patches, 0.4)(B, V, T, Rng.of(0, batch=B))
    pixels = masks.on_pixels(known, 32, 48)[:, :, :, None]
    other = dataclasses.replace(of, frames=torch.where(pixels, of.frames, torch.rand_like(of.frames)))
    assert torch.equal(network.volumes(of, known)[0], network.volumes(other, known)[0])


@pytest.mark.parametrize(
    ("config", "parameters", "backbone", "unit", "patches"),
    [(mim4d.paper(), 54_201_269, 49_456_032, 32, (15, 25)), (mim4d.paper_fine(), 62_408_843, 49_456_032, 32, (15, 25))],
)
def test_the_released_sizes(config, parameters: int, backbone: int, unit: int, patches: tuple[int, int]) -> None:
    """Without memory."""
    with torch.device("meta"):
        network = mim4d.MIM4D(config)
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert sum(value.numel() for value in network.encoder.backbone.parameters()) == backbone
    assert (config.unit, config.patches) == (unit, patches)


def test_an_encoder_leaves_its_model(tmp_path, capsys) -> None:
    """What is exported sees what the model saw; the model's own file is read, too."""
    from maskworld import checkpoint
    from maskworld.__main__ import main
    from maskworld.world import load, load_encoder

    network, of = net(), clip()
    about = {"family": "mim4d", "config": dataclasses.asdict(network.config), "data": {"fps": 4.0}, "step": 3}
    checkpoint.write(tmp_path / "run" / checkpoint.MODEL, network.state_dict(), about)
    out = tmp_path / "encoder.safetensors"
    with pytest.raises(SystemExit) as done:
        main(["export", str(tmp_path / "run"), str(out)])
    assert done.value.code == 0 and "parameters" in capsys.readouterr().out
    places = mim4d.places_of(of, network.config)
    seen = [
        encoder(of.frames[:, :, 0], None, places.intrinsics, places.to_ego[:, :, 0])
        for encoder in (network.encoder, load_encoder(out), load_encoder(tmp_path / "run"))
    ]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    world = load(tmp_path / "run")
    assert world.size == (32, 48) and world.reach.views == V
    torch.testing.assert_close(world.features(of).volume[:, 0], seen[0])
    known = all_known(of)
    known[:, 1, 2] = False
    assert torch.equal(world.fill(of, known).frames, mim4d.fill(network)(of, known, Rng.of(0, batch=B)).frames)
    for argv, words in (
        (["export", str(tmp_path / "run"), str(out)], "exists; --force"),
        (["export", "mcvd-digits", str(tmp_path / "x.safetensors")], "mim4d has an encoder"),
        (["export", str(tmp_path / "run"), str(tmp_path / "x.pt")], "written as .safetensors"),
    ):
        with pytest.raises(SystemExit) as done:
            main(argv)
        assert done.value.code == 2 and words in capsys.readouterr().err
    with pytest.raises(ValueError, match="is an encoder and no world"):
        load(out)
