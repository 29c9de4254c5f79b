"""Logs of several cameras and courses of action at the command line: what is cut, hidden, told and written."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld import checkpoint
from maskworld.__main__ import Asked
from maskworld.commands import courses
from maskworld.commands.evaluate import held_out
from maskworld.commands.fill import question
from maskworld.commands.logs import footage, told, views_of
from maskworld.data import surround, video
from maskworld.papers import maskgwm
from maskworld.world import World, load, network

H, W, T = 16, 32, 14
SIX = surround.RING


def recording(cameras: tuple[str, ...] = SIX, fps: float = 5.0, t: int = T, missing=(), seed: int = 0):
    """Noise of every camera; the car goes ever faster and turns ever more. `missing`: (camera, frame)."""
    rng, v = np.random.default_rng(seed), len(cameras)
    known = np.ones((v, t), bool)
    for camera, frame in missing:
        known[cameras.index(camera), frame] = False
    return surround.Recording(
        "noise",
        fps,
        cameras,
        rng.integers(0, 256, (v, t, H, W, 3), np.uint8) * known[:, :, None, None, None],
        np.tile(np.array([[20, 0, W / 2], [0, 20, H / 2], [0, 0, 1]], np.float32), (v, 1, 1)),
        np.tile(np.eye(4), (v, t, 1, 1)),
        np.tile(np.eye(4), (t, 1, 1)),
        np.stack([np.arange(t), np.arange(t) / 100], 1).astype(np.float32),
        known,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of MaskGWM with random weights, by its views and actions."""
    folder = tmp_path_factory.mktemp("models")

    def make(views: int = 1, actions: tuple[str, ...] = ("speed", "angle"), references: int = 3, fps: float = 5.0):
        path = folder / f"{views}-{'-'.join(actions)}-{references}-{fps}.safetensors"
        if not path.exists():
            config = maskgwm.tiny(
                size=(H, W), channels=3, latent=3, patch=8, views=views, actions=actions, references=references
            )
            rng = torch.Generator().manual_seed(0)
            state = network(config).state_dict().items()
            weights = {name: value + 0.1 * torch.randn(value.shape, generator=rng) for name, value in state}
            data = {"name": "drive", "fps": fps}
            about = {"family": "maskgwm", "config": dataclasses.asdict(config), "step": 0, "data": data}
            checkpoint.write(path, weights, about)
        return path

    return make


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """Two scenes of six cameras; the second lacks some frames of the front and all of the right."""
    folder = tmp_path_factory.mktemp("logs") / "log"
    missing = [("front", 4), ("front", 9), *(("front_right", i) for i in range(T))]
    surround.write(folder, [recording(), recording(missing=missing, seed=1)])
    return folder


@pytest.fixture
def asks(cli, tmp_path):
    """Runs a command with few steps; gives its JSON and, of an npz, what was written."""

    def call(verb: str, *argv: object, out: str = "out.npz") -> tuple[dict, dict[str, np.ndarray]]:
        path = tmp_path / out
        code, lines, errors = cli(verb, *argv, "-o", path, "--steps", 1, "--json", "--force")
        assert (code, errors) == (0, []), errors
        return json.loads(lines[-1]), dict(np.load(path)) if path.suffix == ".npz" else {}

    return call


def refused(cli, *argv: object) -> str:
    code, lines, errors = cli(*argv)
    assert (code, lines, len(errors)) == (2, [], 1), (code, lines, errors)
    return errors[0]


# -- what is cut from a log -----------------------------------------------------------------------


def test_one_view_takes_the_front_camera(asks, model, log):
    found, held = asks("predict", model(), log, "--start", 2)
    front = recording().frames[SIX.index("front")]
    assert (found["views"], found["size"], found["fps"], found["filled"]) == (1, [H, W], 5.0, 3)
    assert held["frames"].shape == (1, 6, H, W, 3) and held["views"].tolist() == ["front"]
    assert np.array_equal(held["frames"][0, :3], front[2:5]) and np.array_equal(held["truth"], front[2:8])
    assert held["known"].reshape(6, -1).all(1).tolist() == [True] * 3 + [False] * 3
    assert found["psnr"].keys() == {"one", "copy"}


def test_three_views_take_theirs_in_their_order(asks, model, log):
    found, held = asks("predict", model(3), log, "--samples", 2)
    names = ("front_left", "front", "front_right")
    assert (found["views"], found["frames"], found["filled"], found["psnr"]) == (3, 6, 9, None)
    assert held["frames"].shape == (2, 3, 6, H, W, 3) and held["known"].shape == (3, 6, 1, 1)
    assert held["views"].tolist() == list(names) and held["labels"].tolist() == ["sample 0", "sample 1"]
    for view, name in enumerate(names):
        assert (held["frames"][:, view, :3] == recording().frames[SIX.index(name), T - 3 :]).all()


def test_views_without_frames_are_unknown_and_filled_in(asks, model, log):
    found, held = asks("fill", model(3), log, "--scene", 1, "--hide", "13")
    known = held["known"].reshape(3, T)
    there = recording(missing=[("front", 4), ("front", 9), *(("front_right", i) for i in range(T))], seed=1)
    expected = there.known[[SIX.index(name) for name in held["views"]]]
    assert np.array_equal(held["frames"][0][known], there.frames[:3][expected & (np.arange(T) < 13)])
    assert np.array_equal(known, expected & (np.arange(T) < 13))
    assert found["filled"] == T + 2 + 2
    assert held["frames"][0][~known].reshape(-1, H * W * 3).std(1).min() > 1  # and not left black


def test_cameras_that_a_log_lacks_are_filled_in(asks, model, tmp_path):
    surround.write(tmp_path / "two", [recording(("front", "back"))])
    found, held = asks("predict", model(3), tmp_path / "two")
    assert held["known"][..., 0, 0].any(1).tolist() == [False, True, False]
    assert found["notes"] == ["00000 has no camera front_left, front_right: filled in"]
    surround.write(tmp_path / "one", [recording(("dashboard",))])
    assert asks("predict", model(), tmp_path / "one")[1]["known"].sum() == 3


def test_a_video_is_the_front_of_several_views(asks, cli, model, video_file, tmp_path):
    found, held = asks("predict", model(3), video_file)
    assert held["known"][..., 0, 0].any(1).tolist() == [False, True, False]
    seen = video.read(video_file, start=0.8, fps=5.0, num_frames=3, size=(H, W)).frames.numpy()
    assert np.array_equal(held["frames"][0, 1, :3], seen)
    assert found["notes"] == ["a video is one view, front: the others are filled in"]
    code, lines, _ = cli("predict", model(3), video_file, "-o", tmp_path / "o.npz", "--steps", 1)
    assert code == 0 and "a video is one view" in lines[-1]


def test_hidden_views_and_frames(asks, model, log):
    for hide, hidden in (
        ("camera:front", {(1, i) for i in range(T)}),
        ("camera:front@2:4", {(1, 2), (1, 3)}),
        ("camera:front_left@5,camera:front_right@12:14,7", {(0, 5), (2, 12), (2, 13), (0, 7), (1, 7), (2, 7)}),
    ):
        found, held = asks("fill", model(3), log, "--hide", hide)
        known = held["known"].reshape(3, T)
        assert {(int(v), int(t)) for v, t in zip(*np.nonzero(~known), strict=True)} == hidden
        assert found["filled"] == len(hidden)
        assert np.array_equal(held["frames"][0][known], recording().frames[:3][known])
        assert ("copy" in found["psnr"]) == (hide != "camera:front")


def test_what_a_model_is_told_of_a_log(model, log):
    world = load(model(3))
    clip = question(world, log, Asked("predict", start=4)).clip
    assert torch.equal(clip.times, torch.arange(4, 10)[None])
    assert torch.equal(clip.actions[0], torch.from_numpy(recording().actions[4:10]))
    assert clip.cameras.pose.shape == (1, 3, 6, 4, 4)
    clip = question(world, log, Asked("predict")).clip  # of what the log does not have, nothing is told
    assert torch.isfinite(clip.actions[0]).all(1).tolist() == [True] * 3 + [False] * 3
    blind = load(model(3, actions=()))
    assert question(blind, log, Asked("predict")).clip.actions is None


def test_a_log_is_thinned_to_the_rate_of_the_model(model, tmp_path):
    surround.write(tmp_path / "log", [recording(fps=10.0)])
    world = load(model(fps=5.0))
    found = footage(world, tmp_path / "log")
    assert (found.rate, found.total) == (5.0, 7)
    piece = found.read(1, 4)
    frames = torch.from_numpy(recording().frames[1, 2:8:2].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(piece.pixels[0], frames)
    actions = torch.from_numpy(recording().actions[2:8].copy()).view(3, 2, 2)
    assert torch.equal(piece.drive[:3, 0], actions[..., 0].mean(1))  # as far
    turned = (actions[..., 0] * actions[..., 1]).sum(1)
    torch.testing.assert_close(piece.drive[:3].prod(1) * 2, turned)  # and turned by as much
    with pytest.raises(ValueError, match="10 frames a second; this model has learnt 40: they are too few"):
        footage(load(model(fps=40.0)), tmp_path / "log")


def test_goals_and_commands_are_of_what_is_seen_at_once(model):
    world = load(model(actions=("speed", "goal", "command")))
    drive = torch.tensor([[5.0, 0.0]]).repeat(30, 1)
    drive[20:, 1] = 0.1
    acts = told(world, drive, 5.0)
    assert acts.shape == (30, 4)
    torch.testing.assert_close(acts[0, 1:3], torch.tensor([10.0, 0.0]))  # ten frames of a metre, not thirty
    assert acts[0, 3] == 3 and acts[19, 3] == 1  # straight on, and left where the turn is in sight


def test_a_grey_model_of_another_family_sees_a_log(asks, tiny_checkpoint, log):
    found, held = asks("predict", tiny_checkpoint, log)
    assert found["size"] == [16, 16] and held["frames"].shape == (1, 4, 16, 16, 1)


# -- roll-outs --------------------------------------------------------------------------------------


def test_courses_by_name_are_futures_of_one_prompt(asks, model, log):
    found, held = asks("rollout", model(3), log, "--frames", 8, "--actions", "left", "right", "stop", "--samples", 2)
    assert (found["prompt"], found["frames"], found["views"]) == (6, 8, 3)
    assert found["actions"] == ["left", "right", "stop"]
    assert held["labels"].tolist() == [f"{name} {i}" for name in ("left", "right", "stop") for i in (0, 1)]
    frames = held["frames"]
    assert frames.shape == (6, 3, 14, H, W, 3)
    assert (frames[:, :, :6] == recording().frames[:3, T - 6 :]).all()
    # The first new frame feels what was done before it: no course has begun there.
    assert (frames[0::2, :, 6] == frames[0, :, 6]).all() and (frames[0, :, 6] != frames[1, :, 6]).any()
    assert (frames[0, :, 7] != frames[2, :, 7]).any() and (frames[0, :, 7] != frames[4, :, 7]).any()


def test_a_file_is_of_the_new_frames(asks, model, log, tmp_path):
    rows = courses.named("left", 5, 5.0, float(T - 1))  # as the log ends
    np.savetxt(tmp_path / "mine.csv", rows.numpy(), delimiter=",")
    np.save(tmp_path / "mine.npy", rows.numpy())
    given = ("rollout", model(), log, "--frames", 5, "--actions")
    held = asks(*given, tmp_path / "mine.csv", "left", tmp_path / "mine.npy")[1]
    assert held["labels"].tolist() == ["mine", "left", "mine"]
    assert (np.abs(held["frames"].astype(int) - held["frames"][0]) <= 1).all()


def test_a_prompt_is_whole_before_it_goes_on(asks, model, log):
    held = asks("rollout", model(3), log, "--scene", 1, "--start", 3, "--frames", 3)[1]
    known = held["known"].reshape(3, 9)
    assert known.tolist() == [
        [True] * 6 + [False] * 3,
        [True, False, True, True, True, True] + [False] * 3,
        [False] * 9,
    ]
    assert held["frames"][0][~known].reshape(-1, H * W * 3).std(1).min() > 1


def test_a_video_has_no_actions_of_its_own(asks, model, video_file):
    for views in (1, 3):
        found, held = asks("rollout", model(views), video_file, "--frames", 4, "--actions", "stop", "straight")
        stop, straight = held["frames"]
        assert (found["prompt"], found["frames"]) == (6, 4) and (stop != straight).any()


def test_fewer_frames_than_references(asks, cli, model, tmp_path):
    surround.write(tmp_path / "short", [recording(t=2)])
    note = "2 known frames are shown; the model has learnt from up to 3"
    found, held = asks("predict", model(), tmp_path / "short")
    assert found["notes"] == [note] and held["known"].sum() == 2 and held["frames"].shape[1] == 5
    found, held = asks("rollout", model(), tmp_path / "short", "--frames", 4)
    assert found["notes"] == [note] and held["frames"].shape[1] == 6
    out = ("-o", tmp_path / "o.npz")
    error = refused(cli, "predict", model(), tmp_path / "short", "--at", 0, *out)
    assert "no frame before it to predict from" in error
    surround.write(tmp_path / "none", [recording(missing=[("front", i) for i in range(T)])])
    for verb in ("predict", "rollout"):
        assert "no frame of any view" in refused(cli, verb, model(), tmp_path / "none", *out)


def test_what_is_shown_of_several_views(cli, model, log, tmp_path):
    given = (model(3), log, "--steps", 1, "--force")
    for name, size in (("one.mkv", (1, 3)), ("both.gif", (3, 3)), ("folder", (1, 3))):
        also = ("--hide", "camera:front", "--samples", 2 if name == "both.gif" else 1)
        assert cli("fill", *given, *also, "-o", tmp_path / name, "--scale", 4)[0] == 0
        film = tmp_path / name / "sample_00.mp4" if name == "folder" else tmp_path / name
        read = video.probe(film)
        down, across = size  # lines of films, of which each has a name, a border and a margin
        assert read.frames == T
        assert (read.height, read.width) == (down * (4 * H + 36) + 10, across * (4 * W + 16) + 10)
    assert (tmp_path / "folder" / "strip.png").exists()


def test_a_page_of_futures(cli, model, log, tmp_path):
    out = tmp_path / "futures.html"
    given = ("rollout", model(3), log, "--frames", 6, "--steps", 1, "--actions", "left", "stop", "-o", out)
    code, lines, errors = cli(*given, "--seed", 7)
    assert (code, errors) == (0, []) and lines[0].startswith(f"{out}: 6 + 6 frames")
    page = out.read_text()
    for word in ("left", "stop", "curvature, 1/m", "speed, m/s", "front_left, front, front_right"):
        assert word in page
    (again,) = re.findall(r"maskworld rollout .*? -o \S+\.html", page)
    assert "--actions left stop" in again and "--seed 7" in again and "--steps 1" in again
    assert "https://" not in page
    assert "exists; --force" in refused(cli, *given)
    assert "known are" in refused(cli, "predict", model(3), log, "-o", tmp_path / "predicted.html")


@pytest.mark.parametrize(("calls", "kept"), [(1, 0), (3, 6)])
def test_an_interrupt_keeps_what_is_finished_of_every_future(cli, model, log, tmp_path, monkeypatch, calls, kept):
    forward, made = maskgwm.MaskGWM.forward, []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def pressing(net, *given):
        made.append(1)
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)
        return forward(net, *given)

    monkeypatch.setattr(maskgwm.MaskGWM, "forward", pressing)
    out = tmp_path / "out.npz"
    given = ("rollout", model(), log, "-o", out, "--frames", 9, "--steps", 1, "--guidance", 1)
    given = (*given, "--actions", "left", "right")
    try:
        code, _, errors = cli(*given)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, len(errors)) == (130, 1)
    if kept:
        assert f"{kept} of 9 frames are finished" in errors[0]
        assert np.load(out)["frames"].shape == (2, 6 + kept, H, W, 3)
    else:
        assert "no frame was finished" in errors[0] and not out.exists()


# -- courses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [5.0, 10.0])
@pytest.mark.parametrize("speed", [None, 0.0, 12.0])
def test_courses_do_what_they_say(fps, speed):
    rows = {name: courses.named(name, round(20 * fps), fps, speed).double() for name in courses.NAMES}
    for name, degrees in (("left", 90), ("right", -90), ("straight", 0), ("stop", 0)):
        turned = rows[name].prod(1).sum().item() / fps
        assert math.degrees(turned) == pytest.approx(degrees, abs=0.01)
        assert rows[name][-1].tolist() == [0.0 if name == "stop" else courses.CRUISE, 0.0]
        start = courses.CRUISE if speed is None else speed
        change = torch.cat([torch.tensor([start]).double(), rows[name][:, 0]]).diff().abs().max().item() * fps
        assert change <= (courses.BRAKE if name == "stop" else courses.EASE) + 1e-4
    assert rows["left"][:, 1].max() == pytest.approx(courses.BEND)
    assert torch.equal(rows["left"], rows["right"] * torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--actions", "short.csv"], "short.csv has actions for 3 of 5 new frames: 2 are missing"),
        (["--actions", "fast.csv"], "fast.csv: speed of 130: it is in m/s"),
        (["--actions", "degrees.csv"], "degrees.csv: angle of 30: it is in 1/m"),
        (["--actions", "wide.csv"], "wide.csv holds numbers of shape (5, 3); actions are (frames, 2)"),
        (["--actions", "lft"], "a .csv or .npy file, or one of left, right, straight, stop"),
        (["--actions", "left", "absent.csv"], "absent.csv"),
        (["--scene", 2], "has scenes 0 to 1"),
        (["--scene", -1], "has scenes 0 to 1"),
        (["--start", T], f"has frames 0 to {T - 1}"),
        (["--start", -1], f"has frames 0 to {T - 1}"),
    ],
)
def test_rollouts_that_are_refused(cli, model, log, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    for name, rows in {
        "short": np.ones((3, 2)) * 0.5,
        "fast": np.tile([130.0, 0.0], (5, 1)),
        "degrees": np.tile([5.0, 30.0], (5, 1)),
        "wide": np.zeros((5, 3)),
    }.items():
        np.savetxt(f"{name}.csv", rows, delimiter=",")
    assert says in refused(cli, "rollout", model(), log, "--frames", 5, "--steps", 1, *argv)
    assert not (tmp_path / "rollout.mp4").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--hide", "camera:frnt"], "no camera is called frnt; did you mean front?"),
        (["--hide", "camera:back"], "this model sees front_left, front, front_right"),
        (["--hide", "camera:front@20"], "the clip has frames 0 to 13"),
        (["--hide", "camera:front@x"], "a view such as camera:front"),
        (["--hide", "front"], "a view such as camera:front"),
        (["--hide", "camera:front@3:3"], "hides no frame"),
        (["--start", 2, "--at", 1], "both say where"),
        (["--start", T], f"has frames 0 to {T - 1}"),
        (["--start", -1], "--start -1"),
        (["--scene", 5], "has scenes 0 to 1"),
        (["--box", 0, 8, 0, 33], "0 to 16 and 0 to 32"),
        (["--box", 0, 8, 0, 8], "whole frames"),
        (["--solver", "euler"], "MaskGWM has no solvers"),
        (["--guidance", -1], "not negative"),
    ],
)
def test_questions_that_are_refused(cli, model, log, tmp_path, argv, says):
    out = tmp_path / "out.npz"
    assert says in refused(cli, "fill", model(3), log, "-o", out, "--steps", 1, *argv)
    assert not out.exists()


def test_logs_that_are_refused(cli, model, video_file, forcing_checkpoint, tmp_path):
    out = ("-o", tmp_path / "out.npz")
    assert "no log of scenes" in refused(cli, "predict", model(), video_file, "--scene", 0, *out)
    surround.write(tmp_path / "back", [recording(("back", "back_left"))])
    error = refused(cli, "predict", model(3), tmp_path / "back", *out)
    assert "has the cameras back, back_left; this model sees front_left, front, front_right" in error
    error = refused(cli, "rollout", forcing_checkpoint, video_file, "--actions", "left", *out)
    assert "no model of drives" in error
    error = refused(cli, "rollout", model(actions=()), video_file, "--actions", "left", *out)
    assert "takes no actions" in error


# -- elsewhere --------------------------------------------------------------------------------------


def test_views_have_the_names_that_training_gave_them():
    config = maskgwm.tiny(views=3)
    net = network(config)
    assert views_of(World(net, config, {})) == ("front_left", "front", "front_right")
    said = {"data": {"cameras": ["front", "back", "left"]}}
    assert views_of(World(net, config, said)) == ("front", "back", "left")


def test_drives_are_held_out(model):
    world = load(model(3, actions=("angle", "command")))
    source, count, cluster = held_out(world, None, 5)
    clip = source(0)
    assert count is None and clip.frames.shape == (1, 3, 5, 3, H, W) and clip.actions.shape == (1, 5, 2)
    assert cluster(0) == cluster(8) != cluster(1)


def test_logs_are_held_out(model, log):
    source, _, _ = held_out(load(model(3)), str(log), 3)
    clip = source(0)
    assert clip.frames.shape == (1, 3, 3, 3, H, W) and clip.actions[0, 0, 0] >= T * 4 // 5  # of the last fifth
