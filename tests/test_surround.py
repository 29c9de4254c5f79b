"""Logs: what is written is read, a missing view is unknown, a crop keeps rays where they were, bad ones are refused."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld.data import drive, surround
from maskworld.data.surround import Recording, actions_of

SIZE = (24, 40)
T = 6


@pytest.fixture(scope="module")
def made() -> list[Recording]:
    """Two short drives, of six cameras and of one."""
    town = drive.scene(3, T, 5.0)
    return [
        surround.of_drive(town, drive.rig(6, SIZE), "six"),
        surround.of_drive(drive.scene(4, T, 5.0), drive.rig(1, SIZE), "one"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, made: list[Recording]) -> Path:
    path = tmp_path_factory.mktemp("logs") / "two"
    surround.write(path, made, {"world": "here"})
    return path


def arc(speed: float, curvature: float, t: int, seconds: float) -> np.ndarray:
    """Poses along a circle."""
    out = np.tile(np.eye(4), (t, 1, 1))
    for i in range(t):
        turn = speed * curvature * seconds * i
        out[i, :2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        along = speed * seconds * i
        out[i, :2, 3] = [math.sin(turn) / curvature, (1 - math.cos(turn)) / curvature] if curvature else [along, 0.0]
    return out


# -- round trips --------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder, made):
    logs = surround.read(folder)
    assert [log.name for log in logs] == ["00000", "00001"] and surround.there(folder)
    for log, recording in zip(logs, made, strict=True):
        assert (log.fps, log.cameras, log.num_frames, log.sizes) == (
            5.0,
            recording.cameras,
            T,
            (SIZE,) * len(recording.cameras),
        )
        back = log.recording()
        for field in dataclasses.fields(Recording):
            if field.name not in {"name", "objects"}:
                a, b = getattr(back, field.name), getattr(recording, field.name)
                assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name
        for frame in (0, T - 1):
            a, b = log.boxes(frame), recording.boxes(frame)
            assert a is not None and b is not None and a.category == b.category
            for name in ("ids", "centre", "size", "yaw", "velocity"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_a_clip_of_a_log_is_that_of_its_drive(folder):
    town = drive.scene(3, T, 5.0)
    want = drive.clip_of(town, drive.rig(6, SIZE), 1, 5)
    clip, known = surround.read(folder)[0].clip(1, 5)
    assert known.shape == (1, 6, 4, 1, 1) and known.all()
    assert torch.equal(clip.times, want.times) and clip.actions is not None and want.actions is not None
    assert torch.equal(clip.actions, want.actions)
    assert (clip.frames - want.frames).abs().max() <= 0.5 / 127.5 + 1e-6
    assert clip.cameras is not None and want.cameras is not None and clip.depth is not None
    assert torch.equal(clip.cameras.intrinsics, want.cameras.intrinsics)
    assert (clip.cameras.pose - want.cameras.pose).abs().max() < 1e-5
    assert torch.allclose(clip.depth, want.depth, rtol=1e-3)


def test_cameras_come_in_the_order_that_is_asked_for(folder):
    log = surround.read(folder)[0]
    whole, _ = log.clip(0, 2)
    some, known = log.clip(0, 2, ["back", "front_left"])
    assert torch.equal(some.frames, whole.frames[:, [4, 0]]) and known.shape[1] == 2
    assert surround.ring(("other", "back", "front")) == ["front", "back", "other"]


def test_a_single_file_is_a_log_and_logs_travel(folder):
    (log,) = surround.read(folder / "00001.npz")
    assert log.cameras == ("front",)
    again = pickle.loads(pickle.dumps(log))
    assert torch.equal(again.clip(0, 1)[0].frames, log.clip(0, 1)[0].frames)


def test_writing_goes_on_where_it_ended(tmp_path, made):
    def interrupted():
        yield made[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surround.write(tmp_path / "a", interrupted(), {"seed": 1})
    assert surround.held(tmp_path / "a", {"seed": 1}) == 1
    with pytest.raises(ValueError, match="holds other scenes"):
        surround.held(tmp_path / "a", {"seed": 2})
    with pytest.raises(ValueError, match="number 2 is not the next"):
        surround.write(tmp_path / "a", made, {"seed": 1}, start=2)
    with pytest.raises(ValueError, match="exists; --force"):
        surround.write(tmp_path / "a", made, {"seed": 1})
    surround.write(tmp_path / "a", made[:1], {"seed": 1}, start=1)
    assert [log.cameras[0] for log in surround.read(tmp_path / "a")] == ["front", "front_left"]
    (tmp_path / "a" / "notes.txt").write_text("mine")
    surround.write(tmp_path / "a", made[1:], {"seed": 2}, force=True)
    assert len(surround.read(tmp_path / "a")) == 1 and (tmp_path / "a" / "notes.txt").exists()


# -- views and sizes ----------------------------------------------------------------------------------


def test_a_view_without_a_frame_is_unknown_and_empty(tmp_path, made):
    known = np.ones((6, T), bool)
    known[2, 1:3] = False
    surround.write(tmp_path / "gaps", [dataclasses.replace(made[0], known=known)])
    (log,) = surround.read(tmp_path / "gaps")
    clip, given = log.clip(0, T, size=(12, 20))
    assert np.array_equal(given[0, :, :, 0, 0].numpy(), known)
    assert clip.depth is not None
    assert not clip.frames[0, 2, 1:3].any() and not clip.depth[0, 2, 1:3].any() and clip.frames[0, 2, 3].any()


@pytest.mark.parametrize("size", [(12, 20), (12, 12), (6, 20), (48, 80), (11, 13)])
def test_a_pixel_keeps_its_ray(made, size):
    """Colours and intrinsics go together: each frame is painted with the rays of its own pixels."""
    h, w = SIZE
    k = torch.from_numpy(made[0].intrinsics[0])
    x = (torch.arange(w) + 0.5 - k[0, 2]) / k[0, 0]
    y = (torch.arange(h) + 0.5 - k[1, 2]) / k[1, 1]
    rays = torch.stack([x.expand(h, w), y[:, None].expand(h, w), torch.ones(h, w)])[None]
    found = surround.fit_frames(rays, size)[0]
    fitted = surround.fit_intrinsics(k, SIZE, size)
    assert found.shape[1:] == size
    inner = (slice(2, -2), slice(2, -2))  # antialiasing has less to average at the border
    x = (torch.arange(size[1]) + 0.5 - fitted[0, 2]) / fitted[0, 0]
    y = (torch.arange(size[0]) + 0.5 - fitted[1, 2]) / fitted[1, 1]
    assert ((found[0] - x) * fitted[0, 0])[inner].abs().max() < 0.05  # pixels
    assert ((found[1] - y[:, None]) * fitted[1, 1])[inner].abs().max() < 0.05
    depth = torch.tensor([1.0, 50.0]).repeat_interleave(w // 2).expand(1, 1, h, w)
    assert set(surround.fit_depth(depth, size).unique().tolist()) == {1.0, 50.0}  # never between


def test_antialiasing(made):
    stripes = torch.tensor([-1.0, 1.0]).repeat(SIZE[1] // 2).expand(1, 3, *SIZE)
    assert surround.fit_frames(stripes, (6, 10)).abs().max() < 0.2


# -- actions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "curvature"), [(8.0, 0.0), (5.0, 0.05), (12.0, -0.02), (-2.0, 0.1), (0.0, 0.0)])
def test_actions_of_an_arc(speed, curvature):
    actions = actions_of(arc(speed, curvature, 9, 0.2), np.arange(9) * 0.2)
    assert np.allclose(actions, [speed, curvature], atol=1e-5)


def test_actions_of_a_drive_are_its_own(made):
    for recording in made:
        found = actions_of(recording.ego, np.arange(T) / recording.fps)
        moving = recording.actions[:-1, 0] > 0.1
        assert np.allclose(found[:-1, 0], recording.actions[:-1, 0], atol=1e-3)
        assert np.allclose(found[:-1, 1][moving], recording.actions[:-1, 1][moving], atol=1e-3)


def test_turning_past_the_back_is_no_jump():
    ego = arc(10.0, 0.1, 40, 0.2)  # over one full turn
    assert np.allclose(actions_of(ego, np.arange(40) * 0.2)[:, 1], 0.1, atol=1e-5)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ([[80.0, 0.0]] * T, "speed 80 at frame 0: it is in m/s"),
        ([[5.0, 0.0]] * (T - 1) + [[5.0, -30.0]], f"curvature -30 at frame {T - 1}: it is in 1/m"),
        ([[5.0, float("nan")]] * T, "frame 0 is not a number"),
        ([[5.0, 0.0, 0.0]] * T, r"\(6, 2\), speed and curvature, not \(6, 3\)"),
        ([[5.0, 0.0]] * 2, r"not \(2, 2\)"),
    ],
)
def test_actions_in_the_wrong_units_or_shape(tmp_path, made, actions, words):
    actions = np.array(actions, np.float32)
    with pytest.raises(ValueError, match=words):
        surround.check_actions(actions, T)
    path = changed(tmp_path, made[1], actions=actions)
    with pytest.raises(ValueError, match=words) as error:
        surround.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# -- bad input ----------------------------------------------------------------------------------------


def changed(folder: Path, recording: Recording, **arrays: object) -> Path:
    """A scene's file with other arrays in it; None leaves one out."""
    held = surround._arrays(recording) | arrays
    path = folder / "scene.npz"
    np.savez(path, **{key: value for key, value in held.items() if value is not None})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pose": None, "fps": None}, "has no pose, fps"),
        ({"frames": np.zeros((1, T, 8, 8), np.uint8)}, r"frames are \(v, t, h, w, 3\)"),
        ({"frames": np.zeros((1, T, *SIZE, 3), np.float32)}, r"frames are uint8 \(v, t, h, w, 3\), not float32"),
        ({"cameras": np.array(["front", "back"])}, "1 views want as many different camera names, not front, back"),
        ({"pose": np.zeros((1, T - 1, 4, 4))}, r"pose of 1 views .* not \(1, 5, 4, 4\)"),
        ({"depth": np.zeros((1, T, 8, 8), np.float16)}, "depth of 1 views"),
        ({"intrinsics": np.full((1, 3, 3), np.nan)}, "intrinsics has NaN"),
        ({"fps": np.array(0.0)}, "fps is a number above 0"),
        ({"boxes": np.zeros((2, 7))}, "boxes are"),
    ],
)
def test_files_that_are_no_scenes(tmp_path, made, arrays, words):
    path = changed(tmp_path, made[1], **arrays)
    with pytest.raises(ValueError, match=words) as error:
        surround.read(path)[0].clip(0, 1)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_broken_files(tmp_path, made):
    path = changed(tmp_path, made[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not surround.there(path)
    with pytest.raises(ValueError, match="is damaged"):
        surround.read(path)
    bytes_ = io.BytesIO(whole)
    with zipfile.ZipFile(bytes_) as archive:
        start = archive.getinfo("frames.npy").header_offset + 300
    path.write_bytes(whole[:start] + bytes(99) + whole[start + 99 :])  # the headers are whole
    (log,) = surround.read(path)
    with pytest.raises(ValueError, match="is damaged"):
        log.clip(0, 1)


def test_what_is_not_there(tmp_path, folder):
    log = surround.read(folder)[0]
    with pytest.raises(ValueError, match="has no camera frnt: did you mean front"):
        log.clip(0, 1, ["frnt"])
    with pytest.raises(ValueError, match="there are front_left"):
        log.clip(0, 1, ["zzz"])
    with pytest.raises(ValueError, match="list of names"):
        log.clip(0, 1, "front")
    for start, stop in ((0, T + 1), (3, 3), (-1, 2)):
        with pytest.raises(ValueError, match="has 6 frames: there are none"):
            log.clip(start, stop)
    with pytest.raises(ValueError, match="1 pixel or more"):
        log.clip(0, 1, size=(0, 4))
    with pytest.raises(ValueError, match="no such file"):
        surround.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is wanted"):
        surround.read(tmp_path)
    assert not surround.there(tmp_path) and not surround.there(tmp_path / "nowhere")


def test_folders_that_are_no_logs(tmp_path, made):
    surround.write(tmp_path / "a", [])
    with pytest.raises(ValueError, match="holds no scenes yet"):
        surround.read(tmp_path / "a")
    surround.write(tmp_path / "b", [made[1], made[1]])
    (tmp_path / "b" / "00000.npz").unlink()
    with pytest.raises(ValueError, match=r"has no 00000.npz, but a later one"):
        surround.read(tmp_path / "b")
    (tmp_path / "b" / surround.ABOUT).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="is not of the format"):
        surround.read(tmp_path / "b")
    (tmp_path / "b" / surround.ABOUT).write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        surround.read(tmp_path / "b")


# -- the commands -------------------------------------------------------------------------------------

MAKE = ("data", "make", "drive")
SMALL = ("--frames", 4, "--cameras", 2, "--size", 16, 24)


def test_make_and_inspect(cli, tmp_path):
    out = tmp_path / "out"
    code, lines, _ = cli(*MAKE, out, *SMALL, "--scenes", 1, "--fps", 5, "--light", "night", "--haze", 0.5)
    assert code == 0 and "1 scenes, 4 frames of 2 cameras, 24 x 16, 5 frames/s" in lines[-1]
    first = (out / "00000.npz").read_bytes()
    code, lines, _ = cli(*MAKE, out, *SMALL, "--scenes", 2, "--fps", 5, "--light", "night", "--haze", 0.5)
    assert code == 0 and "2 scenes, 1 of them were there" in lines[-1] and (out / "00000.npz").read_bytes() == first
    a, b = surround.read(out)
    assert a.recording().domain["light"] == "night" and a.cameras == ("front", "back")
    assert not torch.equal(a.clip(0, 1)[0].frames, b.clip(0, 1)[0].frames)

    code, lines, _ = cli("data", "inspect", out, "--sheet", tmp_path / "s.png", "--json")
    found = json.loads(lines[-1])
    assert code == 0 and found["frames"] == 8 and len(found["logs"]) == 2
    step = np.linalg.norm(np.diff(a.ego[:, :2, 3], axis=0), axis=1).sum()
    assert abs(found["logs"][0]["metres"] - step) < 0.01 and found["logs"][0]["known"] == 1.0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = cli("data", "inspect", out, "--sheet", tmp_path / "s.png")
    assert code == 2 and "exists" in err[-1]
    code, lines, _ = cli("data", "inspect", out / "00001.npz")
    assert code == 0 and "2 cameras of 24 x 16" in lines[0] and "m driven" in lines[0]


def test_an_interrupted_drive_is_kept(cli, tmp_path, monkeypatch):
    made, whole = [], surround.of_drive

    def stop(*arguments):
        if made:
            raise KeyboardInterrupt
        made.append(1)
        return whole(*arguments)

    monkeypatch.setattr(surround, "of_drive", stop)
    code, _, err = cli(*MAKE, tmp_path / "out", *SMALL, "--scenes", 3)
    assert code == 130 and "keeps 1 of 3 scenes; the same command goes on" in err[-1]
    assert len(surround.read(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("drive", "--episodes", 3), "drive takes no --episodes"),
        (("drive", "--clips", 3), "drive takes no --clips"),
        (("discs", "--cameras", 3), "discs takes no --cameras"),
        (("clock", "--haze", 0.3), "clock takes no --haze"),
        (("discs", "--size", 16, 24), "frames of this world are square"),
        (("drive", "--size", 16), "a height and a width"),
        (("drive", "--cameras", 7), "1 to 6 cameras"),
        (("drive", "--haze", 2), "haze is from 0 to 1"),
        (("drive", "--scenes", 0), "--scenes 0: 1 or more"),
        (("drive", "--frames", 0), "--frames 0: 1 or more"),
        (("drive", "--seed", -1), "--seed -1: 0 or more"),
        (("driv",), "did you mean drive"),
    ],
)
def test_options_of_other_worlds_are_refused(cli, tmp_path, arguments, words):
    code, _, err = cli("data", "make", arguments[0], tmp_path / "out", *arguments[1:])
    assert code == 2 and words in err[-1] and not (tmp_path / "out").exists()


def test_a_drive_does_not_take_the_place_of_something_else(cli, tmp_path):
    (tmp_path / "photo.txt").write_text("mine")
    for form in ("surround", "nuscenes"):
        code, _, err = cli(*MAKE, tmp_path, *SMALL, "--format", form)
        assert code == 2 and "--force writes into it" in err[-1]
    assert cli("data", "inspect", tmp_path, "--sheet", tmp_path / "s.png")[0] == 2


def test_a_sheet_of_a_log_of_which_little_is_known(made):
    from maskworld.commands.drive import contact_sheet

    known = np.ones((6, T), bool)
    known[1] = False
    poor = dataclasses.replace(made[0], objects=None, maps=None, known=known)
    sheet, none = contact_sheet(poor, 2), contact_sheet(dataclasses.replace(poor, depth=None), 2)
    assert sheet.shape[1] > 6 * 192 and none.shape[0] < sheet.shape[0]
    left, right = contact_sheet(made[0], 2), contact_sheet(dataclasses.replace(made[0], depth=None), 2)
    assert (left[:, 1300:] != sheet[:, 1300:]).any() and left.shape != right.shape
