"""MIM4D and bad input: cameras that nobody knows, poses that jump, depth in other units, too little memory, frames
without a past; and the same training and filling from logs of ours and of nuScenes."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld import checkpoint, masks
from maskworld.clip import Clip, collate, example, join, span
from maskworld.data import drive, nuscenes, surround
from maskworld.data.surround import LogClips, Recording, jumps, said
from maskworld.masks import these_frames
from maskworld.noise import Rng
from maskworld.papers import mim4d
from maskworld.recipes.mim4d_drive import Look, mim4d_drive, warn_of_jumps
from maskworld.train import METRICS, train

V, T, SIZE = 2, 3, (32, 48)
FPS, LONG = 4.0, 16
FLAGS = [
    *("--config.size", 32, 48, "--config.views", 2, "--config.low", -8, -8, -1, "--config.high", 8, 8, 3),
    *("--config.cells", 8, 8, 4, "--config.dims", 8, 16, "--config.depths", 1, 1, "--config.first", 0),
    *("--config.levels", 2, "--config.dim", 16, "--config.far", 12, "--config.bins", 8, "--config.short", 16),
    *("--config.long", 8, "--config.coarse", 8, "--config.fine", 4, "--config.rays", 12, "--workers", 0),
]
"""`mim4d.tiny` at the command line."""


@pytest.fixture(scope="module")
def recording() -> Recording:
    """A drive of six cameras, filmed at twice the size that the model sees."""
    return surround.of_drive(drive.scene(5, LONG, FPS), drive.rig(6, (64, 96)), "drive")


@pytest.fixture(scope="module")
def clip() -> Clip:
    source = drive.Drives(T, V, SIZE, FPS, depth=True)
    return dataclasses.replace(collate([source(0), source(64)]), actions=None)


@pytest.fixture(scope="module")
def net() -> mim4d.MIM4D:
    torch.manual_seed(0)
    return mim4d.MIM4D(mim4d.tiny())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, net: mim4d.MIM4D) -> Path:
    """A model of two cameras."""
    path = tmp_path_factory.mktemp("run")
    data = {"fps": FPS, "cameras": ["front", "back"]}
    about = {"family": "mim4d", "config": dataclasses.asdict(net.config), "data": data, "step": 0}
    checkpoint.write(path / checkpoint.MODEL, net.state_dict(), about)
    return path


def logs(folder: Path, *recordings: Recording) -> Path:
    surround.write(folder, recordings, {"world": "here"})
    return folder


def loss(net: mim4d.MIM4D, clip: Clip):
    b, v, t = clip.frames.shape[:3]
    return mim4d.objective()(net, clip, these_frames([True] * t, b, v), Rng.of(0, batch=b))


def with_cameras(clip: Clip, **changes: Tensor) -> Clip:
    assert clip.cameras is not None
    return dataclasses.replace(clip, cameras=dataclasses.replace(clip.cameras, **changes))


def moved(recording: Recording, frame: int, metres: float) -> Recording:
    """The car, and its cameras with it, elsewhere from a frame on."""
    pose, ego = recording.pose.copy(), recording.ego.copy()
    pose[:, frame:, 0, 3] += metres
    ego[frame:, 0, 3] += metres
    return dataclasses.replace(recording, pose=pose, ego=ego)


def one_line(found: tuple[int, list[str], list[str]], *words: str) -> None:
    """Exit code 2, and a last line of stderr that has the words; what may stand before it is what a step takes."""
    code, _, err = found
    assert code == 2 and err[-1].startswith("maskworld: ") and all(word in err[-1] for word in words), err
    assert all(line.startswith("a step takes about") for line in err[:-1]), err


# -- cameras that nobody knows --------------------------------------------------------------------------


def bad_cameras(clip: Clip) -> dict[str, Clip]:
    cameras = clip.cameras
    assert cameras is not None and cameras.ego is not None
    no_focal, still = cameras.intrinsics.clone(), torch.eye(4).expand_as(cameras.pose)
    no_focal[:, 1] = torch.eye(3)
    lost = cameras.ego.clone()
    lost[0, 1, 0, 3] = float("nan")
    mirror = cameras.pose * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    away = cameras.pose.clone()
    away[1, 0, :, 0, 3] += 500.0
    return {
        "the clip has no calibration": dataclasses.replace(clip, cameras=None),
        "camera 1, counted from 0, has no calibration: a focal length of 1 pix": with_cameras(
            clip, intrinsics=no_focal
        ),
        "camera 0, counted from 0, has no cal": with_cameras(clip, intrinsics=torch.zeros_like(no_focal)),
        "NaN": with_cameras(clip, ego=lost),
        "a camera's pose is no turn": with_cameras(clip, pose=torch.zeros_like(cameras.pose)),
        "camera's pose is no turn with a shift: zeros, or a mirror": with_cameras(clip, pose=mirror),
        "a car's pose is no turn": with_cameras(clip, ego=torch.zeros_like(cameras.ego)),
        "all cameras stand in one place": with_cameras(clip, pose=still, ego=torch.eye(4).expand_as(cameras.ego)),
        r"stands (49\d|50\d)(\.\d)? m from its car": with_cameras(clip, pose=away),
    }


def test_cameras_that_nobody_knows(net, clip) -> None:
    for words, bad in bad_cameras(clip).items():
        with pytest.raises(ValueError, match=words):
            loss(net, bad)
    assert bool(torch.isfinite(loss(net, clip).total).all())


def test_to_render_a_camera_stands_anywhere(net, clip) -> None:
    """A picture from high above, and one from where another camera stands, are what filling is for."""
    cameras = clip.cameras
    assert cameras is not None
    pose = cameras.pose.clone()
    pose[0, 1, :, 2, 3] += 40.0
    pose[1, 1] = pose[1, 0]
    known = these_frames([True] * T, 2, V)
    known[:, 1] = False
    filled = mim4d.fill(net)(with_cameras(clip, pose=pose), known, Rng.of(0, batch=2))
    assert bool(torch.isfinite(filled.frames).all())


def test_a_video_has_no_cameras(cli, tmp_path, run, video_file) -> None:
    one_line(cli("fill", run, video_file, "--hide", "camera:front", "-o", tmp_path / "x.mp4"), "without calibration")
    one_line(cli("train", "mim4d-drive", "--data", video_file, "--steps", 1, "-o", tmp_path / "a", *FLAGS), "no intrin")
    one_line(
        cli("train", "mim4d-drive", "--data", video_file.parent, "--steps", 1, "-o", tmp_path / "a", *FLAGS),
        "no calibration and no poses",
    )
    assert not (tmp_path / "a").exists() and not (tmp_path / "x.mp4").exists()


def test_logs_that_lack_what_is_wanted(cli, tmp_path, run, recording) -> None:
    front = dataclasses.replace(
        recording,
        cameras=("front", "left"),
        **{name: getattr(recording, name)[:2] for name in ("frames", "intrinsics", "pose", "known", "depth")},
        ids=None,
        flow=None,
    )
    lacking = logs(tmp_path / "lacking", front)
    one_line(cli("fill", run, lacking, "--hide", "1", "-o", tmp_path / "x.mp4"), "00000 has no camera back")
    train = ("train", "mim4d-drive", "--steps", 1, "-o", tmp_path / "a", *FLAGS)
    one_line(cli(*train, "--data", lacking), "no camera back")
    blind = dataclasses.replace(recording, intrinsics=np.tile(np.eye(3, dtype=np.float32), (6, 1, 1)))
    one_line(cli(*train, "--data", logs(tmp_path / "blind", blind)), "00000 of", "frames", "has no calibration")


def test_what_is_wrong_in_another_process_is_one_line(tmp_path, recording) -> None:
    """And is raised, not logged, where a batch is made in a process of its own."""
    from maskworld.train import _Batches, _checked

    assert recording.depth is not None
    wrong = logs(tmp_path / "wrong", dataclasses.replace(recording, depth=recording.depth * np.float16(100)))
    recipe = mim4d_drive(wrong, mim4d.tiny(), FPS)
    made = _Batches(recipe.data, 1, 0, 1)[0]
    assert isinstance(made, ValueError)
    with pytest.raises(ValueError, match=r"^00000 of .*, frames \d to \d: depth is in metres .* millimetres or"):
        next(_checked(iter([made])))


# -- poses that jump --------------------------------------------------------------------------------------


def test_jumps_are_found_where_they_are() -> None:
    ego = np.tile(np.eye(4), (12, 1, 1))
    ego[:, 0, 3] = np.arange(12) * 2.0
    assert jumps(ego, 1, 20.0) == [] and jumps(ego, 3, 20.0) == []
    ego[5:, 1, 3] += 300.0
    ego[9:, 2, 3] -= 50.0
    for every in (1, 3):
        assert [found.frame for found in jumps(ego, every, 20.0)] == [4, 8]
    assert jumps(ego, 1, 20.0)[0].metres == pytest.approx(300.0067, abs=1e-3)
    assert jumps(ego, 1, 100.0)[0].frame == 4 and len(jumps(ego, 1, 100.0)) == 1 and jumps(ego, 1, 400.0) == []
    assert jumps(ego[:1], 1, 20.0) == [] and jumps(ego[:3], 3, 1.0) == []
    assert said(jumps(ego, 1, 20.0)) == "300 m from frame 4 to 5, 50.04 m from frame 8 to 9"
    assert said(jumps(ego, 1, 1.0), most=2).endswith(" and 9 times more")


def test_a_log_that_jumps_is_named_once_and_the_pair_is_not_used(tmp_path, recording) -> None:
    folder = logs(tmp_path / "two", moved(recording, 4, 500.0), recording)
    with pytest.warns(UserWarning) as heard:
        recipe = mim4d_drive(folder, mim4d.tiny(), FPS)
    (words,) = [str(one.message) for one in heard]
    assert words.startswith("00000: the car jumps 50") and "m from frame 3 to 4; nothing is carried across" in words
    across = span(surround.read(folder)[0].clip(3, 6, ("front", "back"), SIZE)[0], 0, T)
    network = recipe.net
    assert isinstance(network, mim4d.MIM4D)
    volumes, places = network.volumes(across, these_frames([True] * T, 1, V))
    volumes = volumes.detach().requires_grad_()
    made, there, _ = network.dropped(volumes, places, 2, [0, 1])
    (gradient,) = torch.autograd.grad(made.square().sum(), volumes)
    assert bool(there.all()) and (gradient.flatten(2).abs().sum(-1)[0] > 0).tolist() == [False, True, False]


def test_many_logs_that_jump_do_not_fill_the_screen() -> None:
    found = {f"{i:05d}": [surround.Jump(1, 100.0)] for i in range(30)}
    with pytest.warns(UserWarning) as heard:
        warn_of_jumps(found)
    assert len(heard) == 11 and str(heard[-1].message) == "the car jumps in 20 more logs, too"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_jumps({})


def test_jumps_are_named_at_the_command_line(cli, tmp_path, run, recording) -> None:
    folder = logs(tmp_path / "one", moved(recording, 4, 500.0))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = cli("train", "mim4d-drive", "--data", folder, "--steps", 1, "-o", tmp_path / "a", *FLAGS)
    named = [line for line in err if "jumps" in line]
    assert code == 0 and len(named) == 1 and named[0].startswith("maskworld: 00000: the car jumps 50"), err
    code, out, err = cli("fill", run, folder, "--start", 3, "--hide", "2", "-o", tmp_path / "x.npz")
    assert code == 0 and any("00000: the car jumps 50" in line for line in out), (out, err)
    one_line(cli("fill", run, folder, "--start", 3, "--hide", "0", "-o", tmp_path / "y.npz"), "frame 0 has no other")


# -- depth in other units -----------------------------------------------------------------------------------


def test_depth_in_metres_passes_and_in_other_units_it_does_not(clip, recording, tmp_path) -> None:
    """Of what is dense, and of what a LiDAR gives: a few points to a camera."""
    assert clip.depth is not None and recording.depth is not None
    nuscenes.write(tmp_path / "n", [recording], "v1.0-mini")
    lidar = surround.read(tmp_path / "n", depth=True)[0].clip(0, 3, None, SIZE)[0].depth
    assert lidar is not None
    lidar = lidar * (torch.rand(lidar.shape, generator=torch.Generator().manual_seed(0)) < 0.05)
    assert 0.01 < (lidar > 0).float().mean() < 0.05
    sky = torch.where(clip.depth > 0, clip.depth, 1000.0)  # as simulators tell of it
    for depth in (clip.depth, lidar, sky, torch.zeros_like(lidar)):
        mim4d.check_depth(depth)
    for depth in (clip.depth, lidar):
        for factor in (1000.0, 100.0, 256.0):
            with pytest.raises(ValueError, match="is it in millimetres or centimetres"):
                mim4d.check_depth(depth * factor)
        inverse = torch.where(depth > 0, 1 / depth.clamp(min=1), 0.0)
        for share in (depth / depth.max(), depth / 1000, inverse):
            with pytest.raises(ValueError, match="is it a share of the farthest, or an inverse"):
                mim4d.check_depth(share)
    with pytest.raises(ValueError, match="below 0, down to -1"):
        mim4d.check_depth(torch.where(clip.depth > 0, clip.depth, -1.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        mim4d.check_depth(torch.where(clip.depth > 0, clip.depth, float("inf")))
    few = torch.zeros(1, 1, 1, 20, 20)
    few[..., 0, :9] = 0.7  # a wall before the only camera
    mim4d.check_depth(few)


def test_depth_in_other_units_ends_a_training(cli, tmp_path, recording) -> None:
    assert recording.depth is not None
    wrong = logs(tmp_path / "wrong", dataclasses.replace(recording, depth=recording.depth * np.float16(100)))
    call = ("train", "mim4d-drive", "--data", wrong, "--steps", 1, "-o", tmp_path / "a", *FLAGS)
    one_line(cli(*call), "00000 of", "depth is in metres", "is it in millimetres or centimetres?")


# -- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"lift": "splat"}, {"flow": True}, {"alpha": "autograd"}, {"num_frames": 1}])
def test_the_estimate_of_a_step_is_what_it_keeps(changes) -> None:
    """Within a factor of two and a half of the tensors that autograd keeps, of every kind of network."""
    config = mim4d.tiny(cells=(16, 16, 4), rays=48, **changes)
    source = drive.Drives(config.num_frames, V, SIZE, FPS, depth=True)
    clip = dataclasses.replace(source(0), actions=None)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(0)
    network = mim4d.MIM4D(config)
    known = masks.blocks(*config.patches, 0.3)(1, V, config.num_frames, Rng.of(0, batch=1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        found = mim4d.objective()(network, clip, known, Rng.of(0, batch=1)).total.mean()
    part = mim4d.memory_of(config, 1)
    assert found.requires_grad and 0.4 < sum(part[:3]) / sum(kept.values()) < 2.5
    assert part.parameters == 24 * sum(value.numel() for value in network.parameters())


def test_memory_grows_with_what_is_asked_for() -> None:
    one, two = (mim4d.memory_of(mim4d.small(), b) for b in (1, 2))
    assert two[:3] == tuple(2 * x for x in one[:3]) and one.parameters == two.parameters
    assert 0.7e9 < sum(one) < 0.95e9  # 0.80 to 0.82 GB were measured
    wide = mim4d.memory_of(mim4d.small(cells=(128, 128, 8)), 1)
    assert 1.4e9 < sum(wide) < 2.0e9  # 1.71 GB were measured
    # A query for each cell of the map is a parameter: 96 numbers more, for each of three times as many cells.
    assert wide.parameters - one.parameters == 24 * 96 * (128**2 - 64**2)
    assert 1.2e9 < sum(mim4d.memory_of(mim4d.small(rays=384), 1)) < 1.8e9  # 1.45 GB were measured
    fills = mim4d.memory_of(mim4d.small(), 1, training=False)
    assert 0.12e9 < sum(fills) < 0.3e9  # 0.19 GB were measured


def test_what_does_not_fit_is_refused_before_it_is_allocated(cli, tmp_path, monkeypatch, run, recording) -> None:
    """Millions of gigabytes: anything that was allocated would be noticed."""
    huge = mim4d.tiny(cells=(400_000, 400_000, 8))
    with pytest.raises(ValueError, match=r"a step takes about \d+ GB \(voxels \d+, images 0.0\d, .* are free"):
        mim4d_drive(config=huge)
    flags = [400_000 if value == 8 and FLAGS[i - 1] == "--config.cells" else value for i, value in enumerate(FLAGS)]
    one_line(cli("train", "mim4d-drive", "--steps", 1, "-o", tmp_path / "a", *flags), "takes about", "are free")
    monkeypatch.setattr(mim4d, "free_memory", lambda device="cpu": 1_000_000)
    folder = logs(tmp_path / "logs", recording)
    one_line(cli("fill", run, folder, "--hide", "0", "-o", tmp_path / "x.mp4"), "this takes about", "only 0.00 GB")
    monkeypatch.setattr(mim4d, "free_memory", lambda device="cpu": None)
    assert "free" not in mim4d.check_memory(mim4d.tiny(), 1)


def test_the_estimate_is_said_first(capsys, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyError("the network")

    free = mim4d.free_memory()
    assert free is None or 1e6 < free < 1e14
    line = mim4d.check_memory(mim4d.tiny(), 1)
    monkeypatch.setattr(mim4d, "check_memory", lambda *_: line)
    monkeypatch.setattr(mim4d, "MIM4D", stop)
    with pytest.raises(KeyError):
        mim4d_drive(config=mim4d.tiny())
    assert capsys.readouterr().err == line + "\n" and line.startswith("a step takes about 0.0")


# -- frames without a past ------------------------------------------------------------------------------------


def test_frames_without_enough_before_them_end_clips_too(tmp_path, recording) -> None:
    """All of a log's frames are shown, each as the last of one clip; what stands in for others has their time."""
    known = recording.known.copy()
    known[1, 4] = False
    folder = logs(tmp_path / "gap", *[dataclasses.replace(recording, known=known)] * 10)
    whole, cut = (LogClips(folder, T, 2, SIZE, FPS, depth=True, cut=cut) for cut in (False, True))
    ends: dict[int, list[int]] = {}
    for number, first, every, there in cut._places:
        if number == 0:
            ends.setdefault(first + every * (there - 1), []).append(there)
    assert ends == {i: [{0: 1, 1: 2, 5: 1, 6: 2}.get(i, T)] for i in range(LONG) if i != 4}
    assert [p for p in cut._places if p[3] == T] == sorted(whole._places)
    assert {p[0] for p in cut._places} == set(range(8))  # the others are held out
    short = next(i for i in range(100) if cut._place(i)[3] == 2 and cut._place(i)[1] == 5)
    clip = cut(short)
    assert clip.times.tolist() == [[0, 0, 1]] and torch.equal(clip.frames[:, :, 0], clip.frames[:, :, 1])
    assert "frames 5 to 6" in cut.where(short) and cut.where(short).startswith("0000")
    full = surround.read(folder)[0].clip(5, 7, ("front", "back"), SIZE)[0]
    assert torch.equal(clip.frames[:, :, 1:], full.frames)
    # Of few logs the held-out part begins in the middle: there frames have a past, which is not shown.
    two = logs(tmp_path / "two", recording)
    held = LogClips(two, T - 1, 2, SIZE, FPS, "valid", cut=True)
    assert {p[3] for p in held._places} == {T - 1}


def test_what_stands_in_for_a_frame_is_no_other_frame(net, clip) -> None:
    """It is not mixed in, and dropped it counts as one without any other."""
    short = join([span(clip, 1, 2), span(clip, 1, 2), span(clip, 2, 3)])
    volumes, places = net.volumes(short, these_frames([True] * T, 2, V))
    assert places.own.tolist() == [[False, True, True]] * 2
    volumes = volumes.detach().requires_grad_()
    made, there, _ = net.dropped(volumes, places, 2, [0, 1])
    (gradient,) = torch.autograd.grad(made.square().sum(), volumes)
    assert bool(there.all()) and (gradient.flatten(2).abs().sum(-1)[0] > 0).tolist() == [False, True, False]
    assert not bool(net.dropped(volumes, places, 0, [1, 2])[1].any())
    assert bool(net.dropped(volumes, places, 1, [0, 2])[1].all())


def test_single_frames_are_counted_and_told(net, clip) -> None:
    """Per example: of its two dropped frames none, or both, had another."""
    alone = join([span(clip, 0, 1)] * T)
    mixed = collate([example(clip, [0]), example(alone, [1])])
    found = loss(net, mixed)
    assert found.told["single_frame_share"].tolist() == [0.0, 1.0]
    assert (
        found.terms["dropped colour"][1] == 0 and found.terms["colour"][1] > 0 and found.terms["dropped colour"][0] > 0
    )
    assert loss(net, span(clip, 0, 1)).told["single_frame_share"].tolist() == [1.0, 1.0]
    direct = mim4d.objective(temporal=False)(net, mixed, these_frames([True] * T, 2, V), Rng.of(0, batch=2))
    assert not direct.told


def rows(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def test_the_share_is_logged_and_reported_and_a_resumed_training_has_the_same(tmp_path, recording) -> None:
    """Logs of two frames, where three are asked for: every second one has a past of one, every other none."""
    short = [dataclasses.replace(_frames(recording, i, i + 2)) for i in range(0, 8, 2)] * 2 + [recording] * 2
    folder = logs(tmp_path / "short", *short)

    def recipe():
        made = mim4d_drive(folder, mim4d.tiny(), FPS, look_every=100)
        return dataclasses.replace(made, log_every=2, valid_clips=1)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    last = train(recipe(), whole, steps=6, workers=0, quiet=True)
    train(recipe(), parts, steps=3, workers=0, quiet=True)
    again = train(recipe(), parts, steps=6, resume=True, workers=0, quiet=True)
    shares = [row["single_frame_share"] for row in rows(whole) if "single_frame_share" in row]
    assert len(shares) == 3 and 0 < last["single_frame_share"] == pytest.approx(sum(shares) / 3)
    assert again["single_frame_share"] == last["single_frame_share"]
    logged = [[row for row in rows(folder) if "loss" in row] for folder in (whole, parts)]
    assert logged[0] == logged[1]
    left, right = (checkpoint.read(run / checkpoint.MODEL)[0] for run in (whole, parts))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _frames(recording: Recording, start: int, stop: int) -> Recording:
    return dataclasses.replace(
        recording,
        **{name: getattr(recording, name)[:, start:stop] for name in ("frames", "pose", "known", "depth")},
        **{name: getattr(recording, name)[start:stop] for name in ("ego", "actions")},
        **dict.fromkeys(("ids", "flow", "objects", "maps")),
    )


def test_where_every_frame_has_a_past_the_end_says_nothing_of_it(tmp_path) -> None:
    made = dataclasses.replace(mim4d_drive(config=mim4d.tiny()), valid_clips=1, log_every=1)
    last = train(made, tmp_path / "a", steps=1, workers=0, quiet=True)
    assert "single_frame_share" not in last and rows(tmp_path / "a")[0]["single_frame_share"] == 0


# -- logs of ours and of nuScenes -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ours", "nuscenes"])
def test_a_folder_is_trained_on_and_filled(cli, tmp_path, recording, form) -> None:
    """Images of twice the size: with the intrinsics of the model's own; and pictures where depth is sparse."""
    if form == "ours":
        folder = logs(tmp_path / "data", recording, recording)
    else:
        folder = tmp_path / "data"
        nuscenes.write(folder, [recording, recording], "v1.0-mini")
    call = ("train", "mim4d-drive", "--data", folder, "--steps", 2, "--look-every", 2, "-o", tmp_path / "run", *FLAGS)
    code, out, err = cli(*call)
    assert code == 0, err
    assert (tmp_path / "run" / "samples" / "step_0000002.png").is_file()
    probed = [row for row in rows(tmp_path / "run") if "probes/abs_rel_seen" in row]
    assert len(probed) == 1 and np.isfinite(probed[0]["probes/abs_rel_dropped"])
    clip = LogClips(folder, T, 2, SIZE, FPS, depth=True)(0)
    assert clip.cameras is not None
    own = drive.rig(6, SIZE)
    wanted = own.intrinsics[[own.names.index(name) for name in ("front", "back")]]
    torch.testing.assert_close(clip.cameras.intrinsics[0], wanted.float(), atol=1e-3, rtol=1e-4)
    for hide in ("camera:front", "camera:CAM_FRONT"):
        code, out, err = cli("fill", tmp_path / "run", folder, "--hide", hide, "-o", tmp_path / "x.npz", "--force")
        assert code == 0 and any("3 of 16 frames" in line for line in out), err
        with np.load(tmp_path / "x.npz") as file:
            assert file["frames"].shape[1:] == (2, 3, *SIZE, 3) and not file["known"][0].any()
            assert file["known"][1].all()
    one_line(
        cli("fill", tmp_path / "run", folder, "--hide", "camera:fron", "-o", tmp_path / "y.npz"), "did you mean front?"
    )


def test_a_log_without_depth_is_trained_on(tmp_path, recording) -> None:
    folder = logs(tmp_path / "bare", dataclasses.replace(recording, depth=None), recording)
    made = mim4d_drive(folder, mim4d.tiny(), FPS, batch=4, look_every=1)
    assert made.look is not None and made.probes is not None
    last = train(dataclasses.replace(made, valid_clips=4), tmp_path / "a", steps=1, workers=0, quiet=True)
    assert np.isfinite(last["loss"])
    blind = Look(lambda index: dataclasses.replace(made.valid(index), depth=None), 2)
    blind(made.net, tmp_path / "b", 1)
    assert (tmp_path / "b" / "step_0000001.png").is_file() and blind.numbers(made.net, 1) == {}


def test_a_hidden_frame_on_the_other_side_of_a_jump_is_refused(tmp_path, recording) -> None:
    folder = logs(tmp_path / "two", moved(recording, 4, 500.0), recording)
    across = span(surround.read(folder)[0].clip(3, 6, ("front", "back"), SIZE)[0], 0, T)
    network = mim4d.MIM4D(mim4d.tiny()).eval()
    known = these_frames([False, True, True], 1, V)
    with pytest.raises(ValueError, match="frame 0 has no other"):
        mim4d.fill(network)(dataclasses.replace(across, actions=None), known, Rng.of(0, batch=1))
