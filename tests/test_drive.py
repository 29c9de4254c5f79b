"""The drive: exact poses, depth, ids and flow, views that agree, and domains that change only what they say."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from einops import rearrange
from scipy.linalg import expm
from torch import Tensor

from maskworld.data import drive
from maskworld.data.drive import DAY, Domain, Drives, Rig, Scene, Views
from maskworld.data.drive_render import FIRST, GROUND, SKY

SIZE = (36, 60)
FRAMES = [0, 1, 9, 10]


@pytest.fixture(scope="module")
def town() -> Scene:
    """Twenty-four frames at 5 frames/s with everything in them."""
    return drive.scene(3, 24, 5.0)


@pytest.fixture(scope="module")
def rig() -> Rig:
    return drive.rig(6, SIZE)


@pytest.fixture(scope="module")
def seen(town: Scene, rig: Rig) -> Views:
    return drive.render(town, rig, FRAMES)


def poses(scene: Scene, rig: Rig, frames: list[int]) -> Tensor:
    return scene.ego[frames][None] @ rig.mount.double()[:, None]


def points(scene: Scene, rig: Rig, views: Views, frames: list[int]) -> Tensor:
    """Every pixel's point in the world: "v t h w 3"."""
    h, w = rig.size
    v, u = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], dim=-1).double() @ rig.intrinsics[0].double().inverse().T
    local = rays * views.depth.double()[..., None]
    pose = poses(scene, rig, frames)[:, :, None, None]
    return (pose[..., :3, :3] @ local[..., None])[..., 0] + pose[..., :3, 3]


# -- the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [5.0, 12.0])
def test_poses_are_what_the_actions_integrate_to(fps: float) -> None:
    scene = drive.scene(1, 24, fps)
    pose = torch.eye(4, dtype=torch.float64)
    for t, (speed, curvature) in enumerate(scene.actions.tolist()):
        torch.testing.assert_close(scene.ego[t], pose, atol=1e-9, rtol=0)
        twist = np.zeros((4, 4))
        twist[0, 3], twist[1, 0], twist[0, 1] = speed, speed * curvature, -speed * curvature
        pose = pose @ torch.from_numpy(expm(twist / fps))


def test_drives_turn_both_ways_and_stop_and_start() -> None:
    speeds, left, right = [], 0, 0
    for seed in range(24):
        actions = drive.town.travel(seed, 48, 5.0, 1.0).actions
        speeds.append(actions[:, 0])
        bend = (actions[:, 1] * (actions[:, 0] > 0.5)).reshape(6, 8)
        left, right = left + (bend.max(1) > 0.01).sum(), right + (bend.min(1) < -0.01).sum()
    share = np.array([left, right]) / (24 * 6)
    assert (share > 0.15).all() and (share < 0.5).all()
    speed = np.concatenate(speeds)
    assert speed.min() == 0 and 10 < speed.max() < 14 and 0.03 < (speed == 0).mean() < 0.3
    change = np.abs(np.diff(np.stack(speeds), axis=1)) * 5
    assert np.quantile(change, 0.99) < 4  # m/s^2


def test_the_ego_keeps_to_the_middle_of_its_lane_and_meets_nobody(town: Scene) -> None:
    centre = next(line.points for line in drive.lanes(town) if line.kind == "centre")
    a, b = centre[:-1], centre[1:]
    places = town.ego[:, :2, 3]
    along = ((places[:, None] - a) * (b - a)).sum(-1) / (b - a).square().sum(-1)
    distance = (places[:, None] - a - along.clamp(0, 1)[..., None] * (b - a)).norm(dim=-1).amin(1)
    assert distance.max() < 0.08  # chords of two metres
    for seed in (0, 7):
        scene = drive.scene(seed, 45, 5.0)
        for t in range(0, 45, 3):
            ego = scene.ego[t]
            middle = (ego @ torch.tensor([1.4, 0.0, 0.8, 1.0], dtype=torch.float64))[:3]
            boxes = drive.boxes(scene, t)
            away = middle[:2] - boxes.centre[:, :2].double()
            c, s = boxes.yaw.cos(), boxes.yaw.sin()
            outside = torch.stack([c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]], dim=-1).abs()
            gap = (outside - boxes.size[:, :2] / 2).amax(-1)
            assert gap.min() > 0.9  # half of the ego's width


def test_a_long_drive_is_made() -> None:
    scene = drive.scene(2, 250, 5.0)
    assert scene.ego.shape == (250, 4, 4) and len(scene.category) > 60
    assert drive.bev(scene, 249)[0].any()


# -- what is seen -----------------------------------------------------------------------------------


def test_the_depth_of_the_ground_is_that_of_a_plane(seen: Views, rig: Rig) -> None:
    h = SIZE[0]
    focal = float(rig.intrinsics[0, 1, 1])
    plane = 1.5 * focal / (torch.arange(h) + 0.5 - h / 2)
    expected = plane[:, None].expand_as(seen.depth)
    on = seen.ids == GROUND
    assert on[..., h // 2 :, :].float().mean() > 0.3
    torch.testing.assert_close(seen.depth[on], expected[on], rtol=1e-5, atol=0)
    assert ((seen.depth == 0) == (seen.ids == SKY)).all()
    assert not on[..., : h // 2, :].any()


def brute(scene: Scene, frame: int, origin: np.ndarray, ray: np.ndarray) -> tuple[float, int]:
    """The nearest thing along a ray, of everything, in three dimensions: how many rays away, and its id."""
    best, who = (-origin[2] / ray[2], GROUND) if ray[2] < 0 else (math.inf, SKY)
    prisms = scene.prisms
    for p, owner in enumerate(prisms.owner.tolist()):
        x, y, yaw = scene.pose[owner, frame].tolist()
        c, s = math.cos(yaw), math.sin(yaw)
        ahead = float(prisms.offset[p])
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        o, d = turn @ (origin - (x + ahead * c, y + ahead * s, 0)), turn @ ray
        z0, z1 = prisms.z[p].tolist()
        a, b = prisms.half[p].tolist()
        if prisms.round[p]:
            square, dot, rest = d[0] ** 2 + d[1] ** 2, d[0] * o[0] + d[1] * o[1], o[0] ** 2 + o[1] ** 2 - a**2
            root = dot**2 - square * rest
            if root <= 0:
                continue
            near, far = (-dot - math.sqrt(root)) / square, (-dot + math.sqrt(root)) / square
        else:
            with np.errstate(divide="ignore"):
                ends = np.stack([(-np.array([a, b]) - o[:2]) / d[:2], (np.array([a, b]) - o[:2]) / d[:2]])
            near, far = ends.min(0).max(), ends.max(0).min()
        floors = sorted(((z0 - o[2]) / d[2], (z1 - o[2]) / d[2]))
        near, far = max(near, floors[0]), min(far, floors[1])
        if 0 < near <= far and near < best:
            best, who = near, owner + FIRST
    return best, who


@pytest.mark.parametrize("height", [0.6, 1.5, 2.6])
def test_pixels_are_what_a_ray_through_everything_meets(town: Scene, height: float) -> None:
    size = (18, 30)
    rig = drive.rig(3, size, Domain(height=height))
    views = drive.render(town, rig, [10])
    inverse = rig.intrinsics[0].double().inverse().numpy()
    rng = np.random.default_rng(0)
    objects = 0
    for _ in range(90):
        v, y, x = rng.integers((3, *size)).tolist()
        pose = poses(town, rig, [10])[v, 0].numpy()
        ray = pose[:3, :3] @ inverse @ (x + 0.5, y + 0.5, 1.0)
        depth, who = brute(town, 10, pose[:3, 3], ray)
        if who >= FIRST and depth > 100:
            continue  # too far to be drawn
        assert int(views.ids[v, 0, y, x]) == who
        assert float(views.depth[v, 0, y, x]) == pytest.approx(0.0 if who == SKY else depth, rel=1e-4)
        objects += who >= FIRST
    assert objects > 12


def test_pixels_of_an_object_lie_in_its_box_and_flow_moves_them_with_it(town: Scene, rig: Rig, seen: Views) -> None:
    where = points(town, rig, seen, FRAMES)
    found, moved = set(), set()
    for i, t in enumerate(FRAMES):
        now, then = drive.boxes(town, t), drive.boxes(town, t + 1)
        ids, flow = seen.ids[:, i].flatten(), rearrange(seen.flow[:, i], "v c h w -> (v h w) c").double()
        here = where[:, i].reshape(-1, 3)
        assert (flow[ids < FIRST] == 0).all()
        on = ids >= FIRST
        who = ids[on] - FIRST
        for boxes, place in ((now, here[on]), (then, here[on] + flow[on])):
            off = place - boxes.centre[who].double()
            c, s = boxes.yaw[who].double().cos(), boxes.yaw[who].double().sin()
            local = torch.stack([c * off[:, 0] + s * off[:, 1], c * off[:, 1] - s * off[:, 0], off[:, 2]], dim=-1)
            assert (local.abs() <= boxes.size[who].double() / 2 + 2e-3).all()
        found |= {now.category[n] for n in who.tolist()}
        moved |= {now.category[n] for n in who[(flow[on] != 0).any(-1)].tolist()}
    assert found == {"building", "tree", "car", "walker"} and moved == {"car", "walker"}


def agreement(town: Scene, rig: Rig, seen: Views, source: tuple[int, int], target: tuple[int, int]) -> dict[str, float]:
    """Project the points of one picture into another: how often depth agrees, and how far apart the colours are."""
    (v0, t0), (v1, t1) = source, target
    h, w = rig.size
    still = (seen.flow[v0, t0] == 0).all(0) & (seen.depth[v0, t0] > 0)
    world = points(town, rig, seen, FRAMES)[v0, t0][still]
    pose = poses(town, rig, FRAMES)[v1, t1]
    local = (world - pose[:3, 3]) @ pose[:3, :3]
    image = local @ rig.intrinsics[0].double().T
    u, v = image[:, 0] / image[:, 2], image[:, 1] / image[:, 2]
    inside = (local[:, 2] > 0.5) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    column, row = u[inside].long(), v[inside].long()
    same = seen.ids[v1, t1, row, column] == seen.ids[v0, t0][still][inside]
    depth = local[inside, 2]
    close = ((seen.depth[v1, t1, row, column] / depth - 1).abs() < 0.15) & same
    colour = seen.rgb[v1, t1][:, row, column] - seen.rgb[v0, t0][:, still][:, inside]
    other = seen.rgb[v1, t1][:, row, column].flip(1) - seen.rgb[v0, t0][:, still][:, inside]
    return {
        "shared": inside.double().mean().item(),
        "depth": close.double().mean().item(),
        "colour": colour[:, close].abs().mean().item(),
        "shuffled": other.abs().mean().item(),
    }


def test_views_and_frames_agree_where_they_overlap(town: Scene, rig: Rig, seen: Views) -> None:
    names = list(rig.names)
    beside = agreement(town, rig, seen, (names.index("front"), 2), (names.index("front_left"), 2))
    later = agreement(town, rig, seen, (names.index("front"), 0), (names.index("front"), 1))
    assert 0.04 < beside["shared"] < 0.3 and later["shared"] > 0.6
    for each in (beside, later):
        assert each["depth"] > 0.75
        assert each["colour"] < 0.12 and each["colour"] < 0.6 * each["shuffled"]


def test_frames_do_not_depend_on_those_rendered_with_them(town: Scene, rig: Rig, seen: Views) -> None:
    alone = drive.render(town, rig, [9])
    assert (alone.ids[:, 0] == seen.ids[:, 2]).float().mean() > 0.999
    assert (alone.rgb[:, 0] - seen.rgb[:, 2]).abs().mean() < 1e-3


def test_nothing_stands_where_there_are_no_things(rig: Rig) -> None:
    scene = drive.scene(0, 4, 5.0, Domain(density=0.0))
    assert scene.category == () and len(drive.boxes(scene, 0).ids) == 0
    views = drive.render(scene, rig)
    assert set(views.ids.unique().tolist()) == {SKY, GROUND}
    assert not drive.bev(scene, 0)[2].any() and drive.bev(scene, 0)[0].any()


# -- the map ----------------------------------------------------------------------------------------


def test_cars_on_the_map_lie_in_their_boxes(town: Scene) -> None:
    extent, cell = (-20.0, 40.0, -30.0, 30.0), 0.5
    found = drive.bev(town, 7, extent, cell)
    assert found.shape == (3, 120, 120)
    road, marks, cars = found
    assert road[40, 60] and not (marks & ~torch.nn.functional.max_pool2d(road[None].float(), 3, 1, 1)[0].bool()).any()
    at = cars.nonzero().double()
    local = torch.stack([extent[0] + (at[:, 0] + 0.5) * cell, extent[2] + (at[:, 1] + 0.5) * cell], dim=-1)
    world = local @ town.ego[7, :2, :2].T + town.ego[7, :2, 3]
    boxes = drive.boxes(town, 7)
    is_car = torch.tensor([c == "car" for c in boxes.category])
    off = world[:, None] - boxes.centre[is_car, :2].double()
    c, s = boxes.yaw[is_car].double().cos(), boxes.yaw[is_car].double().sin()
    half = boxes.size[is_car, :2].double() / 2
    inside = ((c * off[..., 0] + s * off[..., 1]).abs() <= half[:, 0] + 1e-6) & (
        (c * off[..., 1] - s * off[..., 0]).abs() <= half[:, 1] + 1e-6
    )
    assert len(at) > 20 and inside.any(1).all()
    # and as many cells as boxes of that area hold
    assert at.shape[0] * cell**2 == pytest.approx(float((4 * half.prod(1))[inside.any(0)].sum()), rel=0.25)


def test_velocity_is_how_boxes_move(town: Scene) -> None:
    now, then = drive.boxes(town, 4), drive.boxes(town, 5)
    torch.testing.assert_close(now.centre[:, :2] + now.velocity / 5, then.centre[:, :2], atol=1e-3, rtol=0)
    still = torch.tensor([c in ("building", "tree") for c in now.category])
    assert (now.velocity[still] == 0).all() and (now.velocity[~still].norm(dim=-1) > 0.5).any()


def test_marks_lie_on_the_lines_of_the_vector_map() -> None:
    scene = drive.scene(4, 8, 5.0, Domain(density=0.0))
    lines = [line.points for line in drive.lanes(scene) if line.kind == "divider"]
    yellow = scene.ground.levels[0][0]
    at = ((yellow[0] > 0.7) & (yellow[2] < 0.4)).nonzero()[::7].flip(-1).double()
    world = at * scene.ground.cell + torch.tensor(scene.ground.origin) + scene.ground.cell / 2
    near = [float("inf")] * 0
    for point in world:
        near.append(min(_to_line(point, line) for line in lines))
    assert len(near) > 20 and np.quantile(near, 0.95) < 0.3


def _to_line(point: Tensor, line: Tensor) -> float:
    a, b = line[:-1], line[1:]
    along = (((point - a) * (b - a)).sum(-1) / (b - a).square().sum(-1)).clamp(0, 1)
    return float((point - a - along[:, None] * (b - a)).norm(dim=-1).min())


# -- domains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [Domain("night"), Domain(haze=0.8)])
def test_light_and_haze_change_colours_alone(town: Scene, rig: Rig, seen: Views, domain: Domain) -> None:
    other = drive.scene(3, 24, 5.0, domain)
    views = drive.render(other, rig, FRAMES)
    assert torch.equal(views.depth, seen.depth) and torch.equal(views.ids, seen.ids)
    assert torch.equal(views.flow, seen.flow) and torch.equal(other.ego, town.ego)
    assert (views.rgb - seen.rgb).abs().mean() > 0.05


def test_the_lens_and_the_mount_change_no_scene() -> None:
    for domain in (Domain(fov=55.0), Domain(height=2.2)):
        other, plain = drive.scene(3, 6, 5.0, domain), drive.scene(3, 6, 5.0)
        assert torch.equal(other.ego, plain.ego) and torch.equal(other.pose, plain.pose)
        assert torch.equal(other.ground.levels[0], plain.ground.levels[0])
    assert drive.rig(1, SIZE, Domain(height=2.2)).mount[0, 2, 3] == pytest.approx(2.2)
    assert drive.rig(1, SIZE, Domain(fov=90.0)).intrinsics[0, 0, 0] == pytest.approx(SIZE[1] / 2)


def test_density_changes_the_number_of_things_and_not_the_way(town: Scene) -> None:
    num = {}
    for density in (0.3, 1.6):
        other = drive.scene(3, 24, 5.0, Domain(density=density))
        assert torch.equal(other.ego, town.ego) and torch.equal(other.marks, town.marks)
        num[density] = len(other.category)
    assert num[0.3] < 0.6 * len(town.category) and num[1.6] > 1.15 * len(town.category)


def test_speed_changes_how_fast_the_same_streets_go_by(town: Scene) -> None:
    slow = drive.scene(3, 24, 5.0, Domain(speed=0.6))
    assert slow.actions[0, 0] == pytest.approx(0.6 * float(town.actions[0, 0]), rel=0.1)
    assert slow.actions[:, 0].max() <= 0.62 * town.actions[:, 0].max() + 0.5

    def houses(scene: Scene) -> Tensor:
        return torch.stack([p[0, :2] for p, c in zip(scene.pose, scene.category, strict=True) if c == "building"])

    nearest = torch.cdist(houses(slow), houses(town)).amin(1)
    assert (nearest < 0.5).double().mean() > 0.8


# -- clips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", range(1, 7))
def test_one_to_six_cameras(num: int) -> None:
    source = Drives(num_frames=2, cameras=num, size=(12, 20), depth=num > 3)
    clip = source(0)
    assert clip.shape == (1, num, 2, 3, 12, 20)
    assert clip.frames.min() >= -1 and clip.frames.max() <= 1 and clip.frames.std() > 0.1
    assert clip.actions is not None and clip.actions.shape == (1, 2, 2) and not clip.actions.isnan().any()
    assert clip.cameras is not None and clip.cameras.pose.shape == (1, num, 2, 4, 4)
    assert (clip.depth is not None) == (num > 3)
    yaw = torch.rad2deg(drive.rig(num).yaw)
    assert [drive.YAWS[name] for name in drive.rig(num).names] == pytest.approx(yaw.tolist())


def test_cameras_look_where_they_are_mounted(town: Scene, rig: Rig) -> None:
    clip = drive.clip_of(town, rig, 5, 8)
    assert clip.cameras is not None
    pose = clip.cameras.pose[0].double()
    assert clip.times.tolist() == [[5, 6, 7]]
    torch.testing.assert_close(pose[..., :3, :3] @ pose[..., :3, :3].mT, torch.eye(3).double().expand(6, 3, 3, 3))
    ahead = pose[rig.names.index("front"), :, :3, 2]
    torch.testing.assert_close(ahead, town.ego[5:8, :3, 0], atol=1e-6, rtol=0)
    left = pose[rig.names.index("front_left"), :, :3, 2]
    assert ((left * town.ego[5:8, :3, 1]).sum(-1) > 0.8).all()
    assert (pose[..., 2, 1] == -1).all()  # down


def test_the_same_index_gives_the_same_clip_in_any_order() -> None:
    source = Drives(num_frames=2, size=(12, 20), seed=4)
    first = source(9)
    drive._cached.cache_clear()
    source(10)
    again = pickle.loads(pickle.dumps(source))(9)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.times, again.times)
    assert not torch.equal(first.frames, source(17).frames)


def test_splits_and_seeds_share_no_scene() -> None:
    seeds = [
        {Drives(1, size=(8, 8), split=split, seed=seed).place(i)[0] for i in range(3)}
        for split in drive.SPLITS
        for seed in (0, 1)
    ]
    assert len(set.union(*seeds)) == sum(len(each) for each in seeds) == 18


def test_clips_of_a_scene_start_all_over_it() -> None:
    source = Drives(1, size=(8, 8))
    starts = [source.place(i)[1] for i in range(0, 64, 8)]
    assert starts == sorted(set(starts)) and starts[0] < 5 and starts[-1] >= 35
    assert len({source.place(i)[0] for i in range(0, 64, 8)}) == 1
    assert source.scene(8).seed == source.place(8)[0] and source.scene(8).num_frames == 41


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: drive.rig(0), "1 to 6 cameras"),
        (lambda: drive.rig(7), "1 to 6 cameras"),
        (lambda: drive.rig(1, (-4, 8)), "8 x 8"),
        (lambda: Domain(haze=1.5), "haze"),
        (lambda: Domain(fov=170.0), "fov"),
        (lambda: Domain(density=-1.0), "density"),
        (lambda: Domain(speed=math.nan), "speed"),
        (lambda: drive.scene(-1, 4), "seed"),
        (lambda: drive.scene(0, 0), "one frame"),
        (lambda: drive.scene(0, 4, 0.0), "fps"),
        (lambda: Drives(0), "one frame"),
        (lambda: Drives(4, cameras=9), "1 to 6 cameras"),
        (lambda: Drives(4)(-1), "from 0"),
    ],
)
def test_what_cannot_be_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(("made", "field", "says"), [(DAY, "light", "day or night"), (Drives(1), "split", "split is")])
def test_words_that_nobody_knows_are_refused(made: Domain | Drives, field: str, says: str) -> None:
    other = copy.copy(made)
    object.__setattr__(other, field, "dusk")  # what the annotations would stop in these tests, but not elsewhere
    with pytest.raises(ValueError, match=says):
        other.__post_init__()


@pytest.mark.parametrize(
    "call",
    [
        lambda town, rig: drive.render(town, rig, [24]),
        lambda town, rig: drive.render(town, rig, [-1]),
        lambda town, rig: drive.render(town, rig, []),
        lambda town, rig: drive.clip_of(town, rig, 20, 25),
        lambda town, rig: drive.clip_of(town, rig, 5, 5),
        lambda town, rig: drive.bev(town, 24),
        lambda town, rig: drive.boxes(town, -1),
    ],
)
def test_frames_that_are_not_there_are_refused(call, town: Scene, rig: Rig) -> None:
    with pytest.raises(ValueError, match="frames"):
        call(town, rig)


def test_a_map_without_cells_is_refused(town: Scene) -> None:
    with pytest.raises(ValueError, match="extent"):
        drive.bev(town, 0, (0.0, 0.0, -1.0, 1.0))


def test_the_shifted_domain_is_three_switches() -> None:
    changed = [f.name for f in dataclasses.fields(Domain) if getattr(drive.SHIFTED, f.name) != getattr(DAY, f.name)]
    assert changed == ["light", "fov", "height"]
