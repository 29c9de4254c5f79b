"""nuScenes: what is written is whole and comes back; any version is put on one time line; missing parts are said."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskworld.clip import to_uint8
from maskworld.data import drive, nuscenes, surround
from maskworld.data.surround import Recording

VERSION = "v1.0-mini"
SIZE = (32, 56)
T, FPS = 12, 10.0


@pytest.fixture(scope="module")
def made() -> list[Recording]:
    """A drive of six cameras in which one misses two frames, and one of three cameras."""
    known = np.ones((6, T), bool)
    known[3, 4:6] = False
    six = surround.of_drive(drive.scene(5, T, FPS), drive.rig(6, SIZE), "six")
    return [
        dataclasses.replace(six, known=known),
        surround.of_drive(drive.scene(6, T, 4.0), drive.rig(3, SIZE), "three"),
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, made: list[Recording]) -> Path:
    path = tmp_path_factory.mktemp("nuscenes") / "data"
    nuscenes.write(path, made, VERSION, {"world": "here"})
    return path


@pytest.fixture
def copy(tmp_path: Path, root: Path) -> Path:
    return shutil.copytree(root, tmp_path / "copy")


def tables(root: Path) -> dict[str, list[dict]]:
    return {name: json.loads((root / VERSION / f"{name}.json").read_text()) for name in nuscenes.TABLES}


def change(root: Path, name: str, rows: object) -> None:
    (root / VERSION / f"{name}.json").write_text(json.dumps(rows))


# -- what is written ----------------------------------------------------------------------------------


def test_every_token_is_there_once(root):
    found = tables(root)
    by_token = {name: {row["token"]: row for row in rows} for name, rows in found.items()}
    for name, rows in found.items():
        assert rows and len(by_token[name]) == len(rows), name
    special = {"first_sample_token": "sample", "last_sample_token": "sample"}
    special |= {"first_annotation_token": "sample_annotation", "last_annotation_token": "sample_annotation"}
    for rows in found.values():
        for row in rows:
            for key, value in row.items():
                if key.endswith("_token"):
                    assert value in by_token[special.get(key, key.removesuffix("_token"))], key
                if key.endswith("_tokens"):
                    assert all(token in by_token[key.removesuffix("_tokens")] for token in value), key
    for row in [*found["sample_data"], *found["map"]]:
        assert (root / row["filename"]).is_file()


def test_chains_go_forward_and_back(root):
    found = tables(root)
    sensor = {row["token"]: row["sensor_token"] for row in found["calibrated_sensor"]}
    scene = {row["token"]: row["scene_token"] for row in found["sample"]}
    times = {row["token"]: row["timestamp"] for row in found["sample"]}
    keys = {
        "sample": lambda row: (row["scene_token"], row["timestamp"]),
        "sample_data": lambda row: (
            scene[row["sample_token"]],
            sensor[row["calibrated_sensor_token"]],
            row["timestamp"],
        ),
        "sample_annotation": lambda row: (row["instance_token"], times[row["sample_token"]]),
    }
    for name, key in keys.items():
        rows = sorted(found[name], key=key)
        for a, b in zip(rows, [*rows[1:], None], strict=True):
            together = b is not None and key(a)[:-1] == key(b)[:-1]
            assert a["next"] == (b["token"] if b is not None and together else ""), name
            if b is not None:
                assert b["prev"] == (a["token"] if together else ""), name
    for row in found["instance"]:
        own = [a for a in found["sample_annotation"] if a["instance_token"] == row["token"]]
        assert len(own) == row["nbr_annotations"] > 0
    for row in found["scene"]:
        assert row["nbr_samples"] == sum(s["scene_token"] == row["token"] for s in found["sample"])


def test_key_frames_come_twice_a_second(root):
    found = tables(root)
    first = [row["timestamp"] for row in found["sample"] if row["scene_token"] == found["scene"][0]["token"]]
    assert np.diff(first).tolist() == [500_000, 500_000]  # 12 frames at 10 Hz
    for row in found["sample_data"]:
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
        assert row["is_key_frame"] == (row["timestamp"] in {s["timestamp"] for s in found["sample"]})
    front = [row for row in found["sample_data"] if "0000__CAM_FRONT__" in row["filename"]]
    assert len(front) == T and sum(row["is_key_frame"] for row in front) == 3
    assert (front[0]["width"], front[0]["height"]) == SIZE[::-1]


def test_what_a_point_falls_into_is_annotated(root, made):
    """Every annotation has points, all its points are the object's own or the ground's, and cars are cars."""
    found = tables(root)
    assert all(row["num_lidar_pts"] > 0 for row in found["sample_annotation"])
    names = {row["token"]: row["name"] for row in found["category"]}
    used = {names[row["category_token"]] for row in found["instance"]}
    assert used <= {"vehicle.car", "human.pedestrian.adult"} and "vehicle.car" in used
    frame, recording = 5, made[0]
    log = nuscenes.read(root, can=False)[0]
    boxes, all_boxes = log.boxes(frame), recording.boxes(frame)
    assert boxes is not None and all_boxes is not None and len(boxes.ids) > 0
    assert recording.ids is not None
    seen = set(np.unique(recording.ids[recording.known[:, frame], frame]).tolist())
    for i in range(len(boxes.ids)):
        distance = (all_boxes.centre - boxes.centre[i]).norm(dim=1)
        same = int(distance.argmin())
        assert distance[same] < 1e-4 and int(all_boxes.ids[same]) in seen
        assert torch.allclose(all_boxes.size[same], boxes.size[i], atol=1e-5)
        turn = float(all_boxes.yaw[same] - boxes.yaw[i])
        assert abs(np.sin(turn)) < 1e-4 and np.cos(turn) > 0
        assert nuscenes.OURS[all_boxes.category[same]] == boxes.category[i]


def test_a_sweep_lies_on_what_is_seen(made):
    """Each point, brought back into some camera, has the depth that this camera sees there."""
    recording, frame = made[0], 2
    sweep = nuscenes.scan(recording, frame)
    assert sweep.dtype == np.float32 and set(np.unique(sweep[:, 4])) <= set(range(32)) and len(sweep) > 300
    assert recording.depth is not None
    world = recording.ego[frame] @ nuscenes._lidar_mount() @ np.concatenate([sweep[:, :3].T, np.ones((1, len(sweep)))])
    near = np.full(len(sweep), np.inf)
    for v in range(6):
        x, y, z = (np.linalg.inv(recording.pose[v, frame]) @ world)[:3]
        k = recording.intrinsics[v]
        column = np.floor(k[0, 0] * x / z + k[0, 2]).astype(int)
        row = np.floor(k[1, 1] * y / z + k[1, 2]).astype(int)
        inside = (z > 0) & (row >= 0) & (row < SIZE[0]) & (column >= 0) & (column < SIZE[1])
        depth = recording.depth[v, frame][row.clip(0, SIZE[0] - 1), column.clip(0, SIZE[1] - 1)].astype(float)
        near = np.minimum(near, np.where(inside, np.abs(depth - z), np.inf))
    assert np.median(near) < 0.01 and (near < 0.05).mean() > 0.99


def test_the_car_is_on_the_map(root, made):
    with Image.open(next((root / "maps").glob("*0000.png"))) as image:
        picture = np.array(image)
    origin = tables(root)["log"][0]["origin"]
    for x, y in made[0].ego[:, :2, 3] + origin:
        assert picture[len(picture) - round(y / 0.1), round(x / 0.1)] == 255
    assert 0.01 < (picture == 255).mean() < 0.6


# -- there and back -----------------------------------------------------------------------------------


def test_what_is_written_is_read(root, made):
    logs = nuscenes.read(root)
    assert nuscenes.there(root) and surround.there(root) and len(surround.read(root)) == 2
    for log, recording in zip(logs, made, strict=True):
        assert (log.fps, log.cameras, log.num_frames) == (recording.fps, recording.cameras, T)
        assert log.sizes == (SIZE,) * len(recording.cameras)
        assert np.array_equal(log.known, recording.known)
        assert np.abs(log.ego - recording.ego).max() < 1e-9
        clip, known = log.clip(0, T)
        want, _ = recording.clip(0, T)
        assert clip.cameras is not None and want.cameras is not None
        assert torch.equal(clip.cameras.intrinsics, want.cameras.intrinsics)
        assert (clip.cameras.pose - want.cameras.pose).abs().max() < 1e-5
        assert np.array_equal(known[0, :, :, 0, 0].numpy(), recording.known)
        error = (to_uint8(clip.frames).float() - to_uint8(want.frames).float()).abs()[0][torch.tensor(recording.known)]
        assert error.mean() < 3 and not clip.frames[0][~torch.tensor(recording.known)].any()


@pytest.mark.parametrize("can", [True, False])
def test_actions_come_back_from_the_can_bus_and_from_the_poses(root, made, can):
    for log, recording in zip(nuscenes.read(root, can=can), made, strict=True):
        moving = np.abs(recording.actions[:-1, 0]) > 0.15
        assert np.abs(log.actions[:-1, 0] - recording.actions[:-1, 0]).max() < 1e-3
        assert np.abs(log.actions[:-1, 1] - recording.actions[:-1, 1])[moving].max() < 1e-3


def test_a_can_bus_that_ends_early_is_not_used(copy, made):
    path = copy / "can_bus" / "scene-0001_pose.json"
    rows = json.loads(path.read_text())
    fast = [row | {"vel": [33.0, 0.0, 0.0]} for row in rows]
    path.write_text(json.dumps(fast))
    assert np.allclose(nuscenes.read(copy)[0].actions[:, 0], 33)
    path.write_text(json.dumps(fast[:20]))
    assert nuscenes.read(copy)[0].actions[:, 0].max() < 30
    path.write_text(json.dumps([{"utime": 1}]))
    with pytest.raises(ValueError, match="is no list of poses"):
        _ = nuscenes.read(copy)[0].actions


def test_points_become_depth(root, made):
    log = nuscenes.read(root, depth=True)[0]
    clip, _ = log.clip(3, 5)
    want, _ = made[0].clip(3, 5)
    assert clip.depth is not None and want.depth is not None
    there = clip.depth > 0
    assert 0.03 < there.float().mean() < 0.9
    error = ((clip.depth - want.depth).abs() / want.depth)[there & (want.depth > 0)]
    assert error.median() < 1e-3 and (error < 0.05).float().mean() > 0.9  # some are of another camera's pixels
    small, _ = log.clip(3, 4, ["front"], (16, 28))
    assert small.depth is not None and 0 < (small.depth > 0).float().mean()
    assert nuscenes.read(root)[0].clip(3, 4)[0].depth is None


def test_boxes_between_key_frames_are_on_the_way(root, made):
    log, recording = nuscenes.read(root)[0], made[0]
    moved = 0.0
    for frame in (0, 2, 5, 7, 11):
        boxes, want = log.boxes(frame), recording.boxes(frame)
        assert boxes is not None and want is not None and len(boxes.ids)
        off = (boxes.centre[:, None] - want.centre[None]).norm(dim=2).amin(1)
        assert off.max() < 0.5
        moved = max(moved, float(boxes.velocity.norm(dim=1).max()))
    assert moved > 0.3
    ids = log.boxes(0)
    assert ids is not None and ids.ids.min() >= 2


def test_the_map_comes_back(root, made):
    log, recording = nuscenes.read(root)[0], made[0]
    bev, want = log.bev(5), recording.bev(5)
    assert bev is not None and want is not None and bev.shape == want.shape
    assert (bev[0] != want[0]).mean() < 0.05 and want[0].mean() > 0.05
    assert (want[2] & bev[2]).sum() > 0.9 * bev[2].sum() > 0 and not bev[1].any()


def test_logs_are_light_and_travel(root):
    log = nuscenes.read(root)[0]
    packed = pickle.dumps(log)
    assert len(packed) < 100_000
    assert torch.equal(pickle.loads(packed).clip(0, 1)[0].frames, log.clip(0, 1)[0].frames)


def test_nuscenes_becomes_a_folder_of_ours(root, tmp_path):
    surround.write(tmp_path / "ours", [log.recording((16, 28)) for log in nuscenes.read(root, depth=True)])
    ours, log = surround.read(tmp_path / "ours")[0], nuscenes.read(root)[0]
    assert np.abs(ours.ego - log.ego).max() == 0 and np.array_equal(ours.known, log.known)
    a, b = ours.clip(4, 6)[0], log.clip(4, 6, size=(16, 28))[0]
    assert (a.frames - b.frames).abs().max() < 0.01 and a.depth is not None and ours.boxes(3) is not None


# -- any version --------------------------------------------------------------------------------------


def test_key_frames_alone_and_other_rates(root):
    log = nuscenes.read(root, keys=True)[0]
    assert (log.fps, log.num_frames) == (2.0, 3) and log.known[:, 0].all()
    every = nuscenes.read(root)[0]
    assert torch.equal(log.clip(1, 2)[0].frames, every.clip(5, 6)[0].frames)
    half = nuscenes.read(root, fps=5.0)[0]
    assert half.num_frames == 6 and torch.equal(half.clip(3, 4)[0].frames, every.clip(6, 7)[0].frames)
    assert np.allclose(half.actions[1, 0], every.actions[2:4, 0].mean(), atol=1e-3)
    finer = nuscenes.read(root, fps=20.0)[0]
    assert finer.num_frames == 23


def test_cameras_that_are_not_in_step(copy, root):
    """As in the real ones, other cameras are some milliseconds later, and each has the pose of its own moment."""
    late, stray = 30_000, 70_000
    rows, found = tables(copy)["ego_pose"], tables(copy)["sample_data"]
    own = {row["ego_pose_token"]: row for row in found}
    for row in rows:
        name = own[row["token"]]["filename"]
        by = late if "CAM_BACK__" in name else stray if "CAM_BACK_LEFT__" in name else 0
        own[row["token"]]["timestamp"] += by
        row["timestamp"] += by
        row["translation"][0] += by / 1e6
    change(copy, "ego_pose", rows)
    change(copy, "sample_data", found)
    log, plain = nuscenes.read(copy, can=False)[0], nuscenes.read(root, can=False)[0]
    assert log.num_frames == T and log.fps == 10.0
    back, left = log.cameras.index("back"), log.cameras.index("back_left")
    assert log.known[back].all()
    assert not log.known[left, 0] and log.known[left, 1:].all()  # the image before, 30 ms ago, is nearer
    want = plain.pose.copy()
    want[back, :, 0, 3] += late / 1e6
    want[left, 1:] = plain.pose[left, :-1]
    want[left, 1:, 0, 3] += stray / 1e6
    for v in (back, left, log.cameras.index("front")):
        assert np.abs(log.pose[v, 1:] - want[v, 1:]).max() < 1e-9, log.cameras[v]
    assert torch.equal(log.clip(3, 4, ["back_left"])[0].frames, plain.clip(2, 3, ["back_left"])[0].frames)


def test_a_camera_that_misses_frames_and_a_time_that_goes_on(copy, root):
    """All cameras lose the same two frames: the time line has them all the same, and nobody knows them."""
    rows = tables(copy)["sample_data"]
    start = min(row["timestamp"] for row in rows)
    lost = {start + 600_000, start + 700_000}
    change(copy, "sample_data", [row for row in rows if row["timestamp"] not in lost])
    log = nuscenes.read(copy, can=False)[0]
    assert log.num_frames == T and log.fps == 10.0 and not log.known[:, 6:8].any() and log.known[1, [5, 8]].all()
    assert np.abs(log.ego - nuscenes.read(root)[0].ego).max() < 0.05  # on the way between
    clip, known = log.clip(5, 9, ["front"])
    assert known.flatten().tolist() == [True, False, False, True] and not clip.frames[0, 0, 1:3].any()


def test_cameras_of_different_sizes(copy):
    rows = tables(copy)["sample_data"]
    for row in rows:
        if "CAM_BACK__" in row["filename"]:
            row["height"], row["width"] = 24, 42
            with Image.open(copy / row["filename"]) as image:
                small = image.resize((42, 24))
            small.save(copy / row["filename"])
    change(copy, "sample_data", rows)
    log = nuscenes.read(copy)[0]
    with pytest.raises(ValueError, match=r"different sizes \(front_left 32x56, back 24x42\): ask for a size"):
        log.clip(0, 1)
    clip, known = log.clip(0, 1, size=(16, 28))
    assert clip.frames.shape[-2:] == (16, 28) and known.all()
    assert clip.cameras is not None  # the same lens at another size is the same lens
    k = clip.cameras.intrinsics[0]
    assert log.clip(0, 1, ["back"])[0].frames.shape[-2:] == (24, 42)
    assert k[4, 0, 0] > k[1, 0, 0]  # its intrinsics belong to larger frames than it has


def test_large_images_are_read_small(tmp_path):
    """A JPEG that is decoded at a quarter is the same picture as one that is resized."""
    x = np.linspace(0, 255, 320)
    picture = np.stack(
        [np.tile(x, (180, 1)), np.tile(np.linspace(0, 255, 180)[:, None], (1, 320)), np.full((180, 320), 90)]
    )
    Image.fromarray(picture.transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "a.jpg", quality=98)
    small = nuscenes._image(tmp_path / "a.jpg", (180, 320), (36, 64))
    full = surround.fit_frames(nuscenes._image(tmp_path / "a.jpg", (180, 320), (180, 320))[None], (36, 64))[0]
    assert (small - full).abs().max() < 0.03


def test_names_of_cameras():
    for name in surround.RING:
        assert nuscenes.camera(nuscenes.channel(name)) == name
    assert nuscenes.channel("front_left") == "CAM_FRONT_LEFT"


# -- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nuscenes.TABLES)
def test_a_table_that_is_missing(copy, name):
    (copy / VERSION / f"{name}.json").unlink()
    with pytest.raises(ValueError, match=f"has no table {name}.json") as error:
        nuscenes.read(copy, VERSION)[0].boxes(0)
    assert "\n" not in str(error.value)


def test_tables_that_do_not_go_together(copy):
    change(copy, "ego_pose", tables(copy)["ego_pose"][1:])
    with pytest.raises(ValueError, match="do not go together"):
        nuscenes.read(copy)
    (copy / VERSION / "sensor.json").write_text("[{")
    with pytest.raises(ValueError, match="is no JSON"):
        nuscenes.read(copy)
    change(copy, "sensor", {"a": 1})
    with pytest.raises(ValueError, match="is no table"):
        nuscenes.read(copy)


def test_versions(copy, tmp_path):
    with pytest.raises(ValueError, match=r"holds no version v1.0-trainval: there is v1.0-mini"):
        nuscenes.read(copy, "v1.0-trainval")
    with pytest.raises(ValueError, match="holds no version of nuScenes"):
        nuscenes.read(tmp_path / "empty")
    shutil.copytree(copy / VERSION, copy / "v1.0-test")
    with pytest.raises(ValueError, match=r"several versions, say which: v1.0-mini, v1.0-test"):
        nuscenes.read(copy)
    assert len(nuscenes.read(copy, "v1.0-test")) == len(nuscenes.read(copy / "v1.0-test")) == 2
    with pytest.raises(ValueError, match="either fps or keys"):
        nuscenes.read(copy, VERSION, fps=2.0, keys=True)
    with pytest.raises(ValueError, match="fps is a number above 0"):
        nuscenes.read(copy, VERSION, fps=0.0)


def test_images_and_sweeps_that_are_missing_or_broken(copy):
    log = nuscenes.read(copy, depth=True)[0]
    file = sorted((copy / "samples" / "CAM_FRONT").iterdir())[0]
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match=f"there is no image .*{file.name}"):
        log.clip(0, 1)
    log.clip(0, 1, ["back"])
    file.write_bytes(whole[:300])
    with pytest.raises(ValueError, match="is damaged"):
        log.clip(0, 1)
    Image.new("RGB", (8, 6)).save(file)
    with pytest.raises(ValueError, match="is 8x6, but the tables say 56x32"):
        log.clip(0, 1)
    file.write_bytes(whole)
    sweep = sorted((copy / "samples" / "LIDAR_TOP").iterdir())[0]
    sweep.write_bytes(sweep.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is damaged: points of x, y, z"):
        log.clip(0, 1)
    sweep.unlink()
    with pytest.raises(ValueError, match="there is no sweep"):
        log.clip(0, 1)
    with pytest.raises(ValueError, match="no camera frontt: did you mean front"):
        log.clip(0, 1, ["frontt"])
    with pytest.raises(ValueError, match="has 12 frames"):
        log.clip(0, 13)


def test_writing_goes_on_and_replaces_only_its_own(tmp_path, made):
    root = tmp_path / "out"

    def interrupted():
        yield made[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nuscenes.write(root, interrupted(), VERSION, {"seed": 1})
    assert nuscenes.held(root, VERSION, {"seed": 1}) == 1 and len(nuscenes.read(root)) == 1
    with pytest.raises(ValueError, match="holds other scenes"):
        nuscenes.held(root, VERSION, {"seed": 2})
    nuscenes.write(root, made[:1], VERSION, {"seed": 1}, start=1)
    assert [len(log.cameras) for log in nuscenes.read(root)] == [3, 6]
    assert len({row["channel"] for row in tables(root)["sensor"]}) == len(tables(root)["sensor"]) == 7
    with pytest.raises(ValueError, match="--force replaces it"):
        nuscenes.write(root, made, VERSION)
    (root / "maps" / "mine.png").write_bytes(b"")
    nuscenes.write(root, made[1:], VERSION, force=True)
    assert len(nuscenes.read(root)) == 1 and (root / "maps" / "mine.png").exists()
    assert not list(root.glob("samples/CAM_BACK/*")) and not list(root.glob("can_bus/scene-0002*"))
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    (root / VERSION / "maskworld.json").unlink()
    for force in (False, True):
        with pytest.raises(ValueError, match=r"holds another v1.0-mini"):
            nuscenes.write(root, made, VERSION, force=force)
    with pytest.raises(ValueError, match="a version is a name"):
        nuscenes.write(tmp_path / "x", made, "../y")


def test_a_log_without_depth_boxes_or_map(tmp_path, made):
    poor = dataclasses.replace(made[1], depth=None, objects=None, maps=None)
    nuscenes.write(tmp_path / "out", [poor], VERSION)
    (log,) = nuscenes.read(tmp_path / "out", depth=True)
    clip, _ = log.clip(0, 1)
    assert log.boxes(0) is None and clip.depth is not None and not clip.depth.any()
    bev = log.bev(0)
    assert bev is not None and 0 < bev[0].sum() < 400  # the car's own tracks


# -- the commands and the public kit ------------------------------------------------------------------


def test_make_and_inspect(cli, tmp_path):
    out = tmp_path / "out"
    make = ("data", "make", "drive", out, "--frames", 6, "--cameras", 3, "--size", 24, 40, "--format", "nuscenes")
    assert cli(*make)[0] == 0
    code, lines, _ = cli(*make, "--scenes", 2)
    assert code == 0 and "2 scenes, 1 of them were there" in lines[-1]
    code, lines, _ = cli("data", "inspect", out, "--sheet", tmp_path / "s.png")
    assert code == 0 and "3 cameras of 40 x 24, 10 frames/s" in lines[0] and len(lines) == 4
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] > 3 * 192
    (out / VERSION / "log.json").unlink()
    code, _, err = cli("data", "inspect", out)
    assert code == 2 and "has no table log.json" in err[-1]


KIT = "MASKWORLD_NUSCENES_DEVKIT"
SCRIPT = """
import json, sys
import numpy as np
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import BoxVisibility
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
kit = NuScenes(sys.argv[1], sys.argv[2], verbose=False)
kit.list_scenes()
sample = kit.get("sample", kit.get("sample", kit.scene[0]["first_sample_token"])["next"])
boxes, points = {}, {}
for channel, token in sample["data"].items():
    if channel.startswith("CAM"):
        path, found, k = kit.get_sample_data(token, box_vis_level=BoxVisibility.ANY)
        boxes[channel] = [[b.name, *b.center.tolist(), *b.wlh.tolist()] for b in found]
        pixels, depth, image = kit.explorer.map_pointcloud_to_image(sample["data"]["LIDAR_TOP"], token)
        points[channel] = np.concatenate([pixels[:2], depth[None]]).T.tolist()
sweeps, _ = LidarPointCloud.from_file_multisweep(kit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=2)
poses = [kit.get("ego_pose", row["ego_pose_token"])["translation"] for row in kit.sample_data
         if "0000__CAM_FRONT__" in row["filename"]]
on = kit.map[0]["mask"].is_on_mask([p[0] for p in poses], [p[1] for p in poses])
bus = NuScenesCanBus(sys.argv[2]).get_messages("scene-0001", "vehicle_monitor")
print(json.dumps({"scenes": len(kit.scene), "time": sample["timestamp"], "boxes": boxes, "points": points,
    "sweeps": sweeps.points.shape[1], "road": float(on.mean()), "speed": bus[0]["vehicle_speed"]}))
"""


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.timeout(1800)
@pytest.mark.skipif(KIT not in os.environ, reason=f"{KIT} names no folder for the devkit's own environment")
def test_the_public_devkit_opens_it(root, made):
    """It is installed, once, in an environment of its own: it wants an older numpy than we do."""
    home = Path(os.environ[KIT])
    python = home / "bin" / "python"
    if not (home / "lib").is_dir() or not list(home.glob("lib/*/site-packages/nuscenes")):
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "nuscenes-devkit"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nuscenes-devkit cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([python, "-c", SCRIPT, VERSION, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["scenes"] == 2 and found["road"] == 1.0 and found["sweeps"] > 300
    recording, frame = made[0], 5
    assert found["speed"] == pytest.approx(3.6 * float(recording.actions[0, 0]), abs=1e-3)
    mine, all_boxes = nuscenes.read(root)[0].boxes(frame), recording.boxes(frame)
    assert mine is not None and all_boxes is not None and recording.depth is not None
    num = 0
    for v, camera in enumerate(recording.cameras):
        to_camera = torch.from_numpy(np.linalg.inv(recording.pose[v, frame]))
        centres = (all_boxes.centre.double() @ to_camera[:3, :3].T) + to_camera[:3, 3]
        for name, x, y, z, width, length, height in found["boxes"].get(nuscenes.channel(camera), []):
            off = (centres - torch.tensor([x, y, z], dtype=torch.float64)).norm(dim=1)
            same = int(off.argmin())
            assert off[same] < 1e-3 and nuscenes.OURS[all_boxes.category[same]] == name
            assert all_boxes.size[same].tolist() == pytest.approx([length, width, height], abs=1e-4)
            num += 1
        if not recording.known[v, frame]:
            assert nuscenes.channel(camera) not in found["points"]
            continue
        column, row, z = np.array(found["points"][nuscenes.channel(camera)]).T
        # The kit's image begins at the middle of our first pixel's left edge: both floor to the same pixel.
        depth = recording.depth[v, frame][row.astype(int), column.astype(int)].astype(float)
        assert np.median(np.abs(depth - z)) < 0.02
    assert num > 0
