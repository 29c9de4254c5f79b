"""Measures of driving: answers that are known beforehand, laws of the reader, and refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from safetensors.torch import load_file, save_file

from maskworld.clip import Cameras
from maskworld.data import drive
from maskworld.probes import driving, ego
from maskworld.probes import quality as q


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- controllability ------------------------------------------------------------------------------


def turning(yaw_rate: torch.Tensor, fps: float = 5.0, focal: float = 68.0) -> torch.Tensor:
    """A far backdrop past which the camera turns: to the left, and the picture moves to the right."""
    b, steps = yaw_rate.shape
    texture = F.interpolate(noise(b, 3, 12, 100).tanh(), (48, 400), mode="bilinear", align_corners=False)
    heading = F.pad((yaw_rate / fps).cumsum(1), (1, 0))
    frames = []
    for t in range(steps + 1):
        x = torch.arange(96)[None] + 152 - focal * heading[:, t, None]
        grid = torch.stack([x / 200 - 1 + 1 / 400, torch.zeros_like(x)], -1)
        rows = repeat(grid, "b w two -> b h w two", h=48).clone()
        rows[..., 1] = (torch.arange(48)[:, None] * 2 + 1) / 48 - 1
        frames.append(F.grid_sample(texture, rows, align_corners=False))
    return torch.stack(frames, 1)


def by_shift(frames: torch.Tensor, fps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A reader by hand: the shift that explains the next frame best, in half pixels; speed is not read."""
    wide = F.interpolate(rearrange(frames, "b t c h w -> (b t) c h w"), scale_factor=(1.0, 2.0), mode="bilinear")
    wide = rearrange(wide, "(b t) c h w -> b t c h w", b=len(frames))
    now, after = wide[:, :-1], wide[:, 1:]
    errors = [(now[..., 30 - k : 162 - k] - after[..., 30:162]).square().mean((2, 3, 4)) for k in range(-24, 25)]
    best = torch.stack(errors).argmin(0) - 24
    yaw_rate = best / 2 / 68.0 * fps
    return torch.full_like(yaw_rate, 4.0), yaw_rate


def test_a_turn_is_read_as_it_was_commanded():
    yaw_rate = 0.5 * noise(6, 7, seed=1).clamp(-1.5, 1.5)
    frames = turning(yaw_rate)
    actions = torch.stack([torch.full_like(yaw_rate, 4.0), yaw_rate / 4], -1)
    actions = torch.cat([actions, actions[:, -1:]], 1)
    found = driving.controllability(frames, actions, read=by_shift, resamples=50)
    assert found["yaw_rate"].pearson.mean > 0.99 and found["yaw_rate"].rank.mean > 0.98
    assert found["yaw_rate"].rmse.mean < 0.03
    low, high = found["yaw_rate"].pearson.low, found["yaw_rate"].pearson.high
    assert low <= found["yaw_rate"].pearson.mean <= high and found["yaw_rate"].pearson.n == 6
    assert found["speed"].rmse.mean == 0 and math.isnan(found["speed"].pearson.mean)
    mirrored = driving.controllability(frames.flip(-1), actions, read=by_shift, resamples=5)
    assert mirrored["yaw_rate"].pearson.mean < -0.98


def test_agreement_knows_its_numbers():
    said = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    found = driving.agreement(said, said**3 + 1, resamples=20)
    assert found.rank.mean == pytest.approx(1.0) and found.pearson.mean < 0.95
    shifted = driving.agreement(said, said + 0.5, resamples=20)
    assert shifted.rmse.mean == pytest.approx(0.5) and shifted.pearson.mean == pytest.approx(1.0)
    with pytest.raises(ValueError, match="compared"):
        driving.agreement(said, said[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        driving.agreement(said, said * np.nan)
    with pytest.raises(ValueError, match="actions"):
        driving.controllability(torch.zeros(1, 3, 3, 48, 96), torch.zeros(1, 2, 2), read=by_shift)


# -- distances ------------------------------------------------------------------------------------

MEANS = q.Extractor("means", lambda frames: frames.mean((1, 3, 4)))


def test_distances_of_a_set_to_itself_are_zero_and_grow_with_what_is_added():
    real, other = noise(40, 7, 3, 4, 4).tanh(), noise(40, 7, 3, 4, 4, seed=1).tanh()
    same = driving.frechet_by_window(real, real, other, 2, MEANS, resamples=20)
    assert [x.mean for x in same.made] == pytest.approx([0] * 3, abs=1e-9)
    assert same.slope.mean == pytest.approx(0, abs=1e-9) and same.name == "means"
    lighter = real.clamp(-0.5, 0.5)
    brighter = lighter + repeat(torch.tensor([0.0, 0.2, 0.4]), "k -> 1 (k s) 1 1 1", s=2)[:, [*range(6), 5]]
    found = driving.frechet_by_window(lighter, brighter, other, 2, MEANS, resamples=20)
    # The covariances are the same, the means of three channels go off: 3 (0, 0.04, 0.16).
    assert [x.mean for x in found.made] == pytest.approx([0, 0.12, 0.48], abs=1e-5)
    assert found.slope.mean == pytest.approx(0.24, abs=1e-5)
    assert found.slope.low < 0.24 < found.slope.high and found.slope.low > 0.2
    assert all(x.mean > 0 for x in found.floor)


def test_two_models_are_compared_over_the_same_prompts_and_trainings():
    rng = np.random.default_rng(0)
    real, base = rng.normal(size=(60, 3, 2)), rng.normal(size=(3, 60, 3, 2))
    worse = base + 0.5 * np.arange(3)[:, None]
    less = driving.compared(real, base, worse, resamples=60)
    assert less.mean < 0 and less.high < 0
    same = driving.compared(real, base, base, resamples=10)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    alone = driving.compared(real, base[:1], worse[:1], lambda x: float(x.mean()), resamples=10)
    by_hand = driving.distances(real, base[0]).mean() - driving.distances(real, worse[0]).mean()
    assert alone.mean == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="paired"):
        driving.compared(real, base, base[:2])


def test_distances_refuse_what_cannot_be_compared():
    real = torch.zeros(4, 3, 3, 4, 4)
    with pytest.raises(ValueError, match="equal numbers"):
        driving.frechet_by_window(real, real[:3], real, 1, MEANS)
    with pytest.raises(ValueError, match="windows of 4"):
        driving.frechet_by_window(real, real, real, 4, MEANS)
    assert driving.slope(np.array([1.0, 3.0, 5.0])) == pytest.approx(2) and driving.slope(np.array([4.0])) == 0


# -- drift ----------------------------------------------------------------------------------------


def test_drift_of_what_is_added_is_what_was_added():
    frames = 0.4 * noise(5, 8, 3, 6, 6).tanh()
    frames[:, 2:] = frames[:, :1]
    frames[:, :2] = frames[:, :1]
    still = driving.drift(frames, 2, 3, resamples=20)
    assert all(abs(x.mean) < 1e-6 for name in ("brightness", "contrast", "colour") for x in getattr(still, name))
    assert len(still.colour) == 2
    grey = frames.clone()
    grey[:, 5:] += 0.2
    found = driving.drift(grey, 2, 3, resamples=20)
    assert [x.mean for x in found.brightness] == pytest.approx([0, 0.1], abs=1e-6)
    assert found.contrast[1].mean == pytest.approx(0, abs=1e-6)
    assert found.colour[1].mean == pytest.approx(0.1, abs=1e-6)
    red = frames.clone()
    red[:, 5:] += torch.tensor([0.2, -0.1, -0.1])[:, None, None]
    found = driving.drift(red, 2, 3, resamples=20)
    assert found.brightness[1].mean == pytest.approx(0, abs=1e-6)
    assert found.colour[1].mean == pytest.approx(math.sqrt((0.01 + 0.0025 + 0.0025) / 3), abs=1e-6)
    flat = frames.clone()
    flat[:, 2:] = flat[:, 2:].mean((-2, -1), keepdim=True)
    assert driving.drift(flat, 2, 3, resamples=20).contrast[0].mean < -0.05
    for prompt, window in ((0, 1), (8, 1), (2, 7)):
        with pytest.raises(ValueError, match="prompt"):
            driving.drift(frames, prompt, window)


# -- overlaps -------------------------------------------------------------------------------------


def rig(b: int, t: int, h: int, w: int, yaws: tuple[float, ...], out: float = 0.3) -> Cameras:
    """Cameras of 70 degrees, 1.5 m above the ground, somewhat apart, on a car that drives ahead."""
    focal = w / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]])
    pose = torch.eye(4).repeat(b, len(yaws), t, 1, 1)
    for i, yaw in enumerate(map(math.radians, yaws)):
        ahead = torch.tensor([math.cos(yaw), math.sin(yaw), 0])
        right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0])
        pose[:, i, :, :3, :3] = torch.stack([right, torch.tensor([0.0, 0, -1]), ahead], -1)
        pose[:, i, :, :3, 3] = torch.tensor([1.5, 0, 1.5]) + out * ahead
    pose[..., 0, 3] += torch.arange(t)[:, None, None].squeeze(-1).T
    return Cameras(intrinsics.expand(b, len(yaws), 3, 3), pose)


def painted(cameras: Cameras, h: int, w: int, wall: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A ground of waves under a sky of waves, with or without a wall across the road; and the depths."""
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], -1)
    ray = torch.einsum("b v k l, h w l -> b v h w k", torch.linalg.inv(cameras.intrinsics), place)
    d = torch.einsum("b v t k l, b v h w l -> b v t h w k", cameras.pose[..., :3, :3], ray)
    eye = cameras.pose[..., None, None, :3, 3]
    ground = torch.where(d[..., 2] < 0, -eye[..., 2] / d[..., 2].clamp(max=-1e-9), math.inf)
    stands = torch.full_like(ground, math.inf)
    if wall is not None:
        across = torch.where(d[..., 0] > 1e-6, (wall - eye[..., 0]) / d[..., 0].clamp(min=1e-6), math.inf)
        high = (eye + across[..., None].nan_to_num(posinf=0.0) * d)[..., 2]
        stands = torch.where((high > 0) & (high < 6) & (across > 0), across, stands)
    depth = torch.minimum(ground, stands)
    far = ~depth.isfinite()
    depth = torch.where(far, 0.0, depth)
    point = torch.where(far[..., None], 30 * F.normalize(d, dim=-1), eye + depth[..., None] * d)
    soft = torch.exp(-depth / 8)  # waves too short for the pixels would only be noise
    value = torch.stack([(point[..., 0] / 3).sin(), (point[..., 1] * 1.5).cos(), (point[..., 2] * 1.5).sin()], -1)
    value = torch.where(far[..., None], (point / 4).sin(), value * soft[..., None])
    return rearrange(0.8 * value, "b v t h w c -> b v t c h w"), depth


def test_views_of_one_plane_world_agree_with_depth_and_without():
    cameras = rig(2, 2, 24, 48, (30.0, 0.0, -30.0))
    frames, depth = painted(cameras, 24, 48, None)
    exact = driving.overlap_error(frames, cameras, depth)
    plane = driving.overlap_error(frames, cameras)
    assert exact.error.max() < 0.02 and plane.error.max() < 0.02  # the world is as the plane has it
    assert (exact.share > 0.3).all() and (plane.share >= exact.share - 1e-9).all()
    unlike = driving.overlap_error(frames.flip(1), cameras)
    assert (unlike.error > 5 * plane.error).all()


def test_what_stands_near_disagrees_without_depth_and_agrees_with_it():
    cameras = rig(1, 2, 24, 48, (30.0, 0.0, -30.0), out=1.0)
    frames, depth = painted(cameras, 24, 48, 6.0)
    exact, plane = driving.overlap_error(frames, cameras, depth), driving.overlap_error(frames, cameras)
    assert exact.error.item() < 0.01 and plane.error.item() > 4 * exact.error.item()
    off = frames.clone()
    off[:, 1] = (off[:, 1] + 0.2).clamp(-1, 1)  # one view is lighter by a tenth
    assert driving.overlap_error(off, cameras, depth).error.item() == pytest.approx(0.1, abs=0.02)
    assert driving.ratio(plane, plane).mean == 1 and driving.ratio(plane, exact).mean > 1


def test_a_rendered_scene_agrees_with_itself():
    scene = drive.scene(3, 3, 5.0)
    clip = drive.clip_of(scene, drive.rig(3, (48, 80)), 0, 3, depth=True)
    assert clip.cameras is not None and clip.depth is not None
    exact = driving.overlap_error(clip.frames, clip.cameras, clip.depth)
    plane = driving.overlap_error(clip.frames, clip.cameras)
    other = drive.clip_of(drive.scene(4, 3, 5.0), drive.rig(3, (48, 80)), 0, 3)
    mixed = torch.cat([clip.frames[:, :1], other.frames[:, 1:2], clip.frames[:, 2:]], 1)
    strange = driving.overlap_error(mixed, clip.cameras)
    assert exact.error.item() < 0.06 and exact.error.item() < plane.error.item() < strange.error.item()


def test_overlaps_want_an_overlap():
    cameras = rig(1, 1, 24, 48, (90.0, -90.0))
    with pytest.raises(ValueError, match="nothing in common"):
        driving.overlap_error(torch.zeros(1, 2, 1, 3, 24, 48), cameras)
    with pytest.raises(ValueError, match="two views"):
        driving.overlap_error(torch.zeros(1, 1, 1, 3, 24, 48), rig(1, 1, 24, 48, (0.0,)))


# -- the reader -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films():
    """Textures past which a camera turns; all else is as if it were known."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(4):
        rate = torch.from_numpy(np.repeat(rng.uniform(-1, 1, 4), 5)[None]).float()
        frames = turning(rate, 10.0)[0]
        bytes_ = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        motion = np.stack([np.full(21, 2.0), np.append(rate[0].numpy(), 0.0)], 1).astype(np.float32)
        pixels = rearrange(bytes_, "t c h w -> t h w c").contiguous().numpy()
        made.append(ego.Film(pixels, motion, np.full(21, i, np.float32), np.zeros(4, np.float32), 10.0))
    return made


@pytest.fixture(scope="module")
def trained(films):
    losses = []
    net = ego.train(films, 40, 1, batch=3, length=3, on_step=lambda step, terms: losses.append(terms["yaw"]))
    return net.requires_grad_(False), losses


def test_it_learns_which_way_it_turns(trained, films):
    net, losses = trained
    assert len(losses) == 40 and np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert sum(p.numel() for p in net.parameters()) <= 300_000
    yaw_rate = torch.tensor([[0.6] * 3, [-0.6] * 3])
    read = ego.read_motion(turning(yaw_rate, 10.0), 10.0, net)[1]
    assert read[0].mean() > 0 > read[1].mean()


def test_a_mirrored_clip_reads_mirrored_and_each_step_reads_its_own_two_frames(trained):
    net, _ = trained
    frames = noise(2, 4, 3, 48, 96).tanh()
    speed, yaw_rate = ego.read_motion(frames, 5.0, net)
    assert speed.shape == yaw_rate.shape == (2, 3)
    mirrored = ego.read_motion(frames.flip(-1), 5.0, net)
    assert torch.equal(speed, mirrored[0]) and torch.equal(yaw_rate, -mirrored[1])
    part = ego.read_motion(frames[:, 1:3], 5.0, net)
    torch.testing.assert_close(part[1], yaw_rate[:, 1:2])
    torch.testing.assert_close(ego.read_motion(frames, 10.0, net)[0], 2 * speed)
    torch.testing.assert_close(ego.read_motion(frames, 5.0, net, chunk=1)[0], speed)


def test_frames_of_other_sizes_are_looked_at_in_the_middle(trained):
    net, _ = trained
    frames = noise(1, 2, 3, 48, 96).tanh()
    high = F.pad(frames, (0, 0, 8, 8), value=1.0)
    assert torch.equal(ego.prepare(high), frames)
    assert ego.prepare(noise(1, 2, 3, 24, 48)).shape == (1, 2, 3, 48, 96)
    assert ego.features(frames, net).shape == (1, ego.DIM) and ego.count_cars(frames, net).shape == (1,)
    extractor = ego.extractor("ego-test", net)
    assert torch.equal(q.extract(extractor, frames), ego.features(frames, net))
    for shape, why in (((1, 1, 3, 48, 96), "two frames"), ((1, 2, 1, 48, 96), "colour"), ((1, 2, 3, 20, 96), "wide")):
        with pytest.raises(ValueError, match=why):
            ego.read_motion(torch.zeros(shape), 5.0, net)
    with pytest.raises(ValueError, match="frames a second"):
        ego.read_motion(frames, 0.0, net)


def test_the_same_seed_gives_the_same_weights_and_leaves_global_randomness_alone(films):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (ego.train(films, 2, seed, batch=2, length=2).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["hidden.weight"], other["hidden.weight"])
    with pytest.raises(ValueError, match="13 frames"):
        short = ego.Film(films[0].frames[:9], films[0].motion[:9], films[0].cars[:9], films[0].condition, 10.0)
        ego.train([short], 1, 0)


def test_a_film_of_a_drive_says_what_happens_in_it():
    film = ego.film(5, 6, 10.0, drive.SHIFTED)
    scene = drive.scene(5, 6, 10.0, drive.SHIFTED)
    np.testing.assert_allclose(film.motion[:, 0], scene.actions[:, 0], rtol=1e-5)
    np.testing.assert_allclose(film.motion[:, 1], scene.actions.prod(1), rtol=1e-4, atol=1e-6)
    turned = torch.atan2(scene.ego[1, 1, 0], scene.ego[1, 0, 0]) - torch.atan2(scene.ego[0, 1, 0], scene.ego[0, 0, 0])
    assert film.motion[0, 1] == pytest.approx(turned.item() * 10, abs=1e-4)
    assert film.frames.shape == (6, 48, 96, 3) and film.frames.std() > 5
    assert film.condition.tolist() == pytest.approx([1, 0, -0.75, 0.4])
    assert (film.cars >= 0).all()


def test_its_file_is_what_its_name_says(trained, tmp_path):
    net, _ = trained
    path = tmp_path / "ego.safetensors"
    name = ego.save(net, path, {"steps": 60})
    again, loaded, card = ego.load(path)
    assert again == name and card == {"steps": 60} and path.stat().st_size < 1e6
    assert all(torch.equal(v, net.state_dict()[k].half().float()) for k, v in loaded.state_dict().items())
    halves = load_file(path)
    with pytest.raises(ValueError, match="no such file"):
        ego.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(ValueError, match="not a safetensors file"):
        ego.load(tmp_path / "text")
    save_file(halves, tmp_path / "stranger")
    with pytest.raises(ValueError, match="no network"):
        ego.load(tmp_path / "stranger")
    changed = halves | {"motion.bias": halves["motion.bias"] + 1}
    save_file(changed, tmp_path / "changed", metadata={"maskworld-ego": name, "card": json.dumps({})})
    with pytest.raises(ValueError, match="its weights are"):
        ego.load(tmp_path / "changed")


def test_the_one_that_ships_reads_real_drives():
    name = ego.shipped()[0]
    drives = drive.Drives(6, domain=drive.DAY, split="test", seed=7)
    clips = [drives(i // 8 * 64 + i % 8) for i in range(10)]
    frames = torch.cat([clip.frames[:, 0] for clip in clips])
    actions = torch.cat([clip.actions for clip in clips if clip.actions is not None])
    found = driving.controllability(frames, actions, resamples=20)
    assert found["yaw_rate"].pearson.mean > 0.9 and found["speed"].pearson.mean > 0.85
    assert name.startswith("ego-") and ego.SHIPPED.stat().st_size < 1e6
    assert ego.load(ego.SHIPPED)[2]["held_out"]["day"]["sharp"]["yaw_rate_pearson"] > 0.9
