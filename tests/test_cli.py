"""The command line: every verb on small videos, and every bad input in one line and with its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from maskworld import checkpoint
from maskworld.data import video
from maskworld.papers import mcvd

VERBS = ("predict", "lookback", "interpolate", "generate", "fill")
KEYS = {
    *("command", "checkpoint", "out", "frames", "views", "filled", "samples", "size", "fps", "changed"),
    *("notes", "seconds", "cpu_seconds", "psnr"),
}


@pytest.fixture
def asks(cli, tiny_checkpoint, tmp_path):
    """One of the verbs, with two steps and JSON; gives the JSON and, of an npz, what is in it."""

    def call(verb: str, *argv: object, out: str = "out.npz") -> tuple[dict, dict[str, np.ndarray]]:
        path = tmp_path / out
        code, lines, errors = cli(verb, tiny_checkpoint, *argv, "-o", path, "--steps", 2, "--json")
        assert (code, errors) == (0, [])
        found = json.loads(lines[-1])
        assert found.keys() == KEYS
        assert (found["command"], found["out"], found["size"]) == (verb, str(path), [16, 16])
        assert (found["views"], found["notes"]) == (1, [])
        return found, dict(np.load(path)) if path.suffix == ".npz" else {}

    return call


@pytest.fixture(scope="session")
def resized(video_file) -> np.ndarray:
    """The frames of the video at the model's size."""
    return video.read(video_file, size=(16, 16), grey=True).frames.numpy()


# -- verbs --------------------------------------------------------------------------------------------------


def test_predict(asks, video_file, resized):
    found, held = asks("predict", video_file, "--frames", 3)
    assert (found["frames"], found["filled"], found["samples"], found["fps"]) == (5, 3, 1, 8.0)
    assert found["psnr"] is None  # nothing is known of what comes after
    assert found["changed"] == "24x20 resized to 16x16, cut to the middle 20x20, made grey"
    assert held["frames"].shape == (1, 5, 16, 16, 1)
    assert held["frames"].dtype == np.uint8
    assert held["fps"] == 8
    assert np.array_equal(held["frames"][0, :2], resized[10:])
    assert held["known"].reshape(5, -1).all(1).tolist() == [True] * 2 + [False] * 3


def test_predict_at_a_moment_is_held_against_the_video(asks, video_file, resized):
    found, held = asks("predict", video_file, "--frames", 3, "--past", 4, "--at", 0.5, "--samples", 3)
    assert held["frames"].shape == (3, 7, 16, 16, 1)
    assert (held["frames"][:, :4] == resized[:4]).all()
    assert np.array_equal(held["truth"], resized[:7])
    assert found["psnr"].keys() == {"one", "best", "mean", "copy"}
    assert found["psnr"]["one"] <= found["psnr"]["best"]
    assert found["psnr"]["one"] <= found["psnr"]["mean"]
    copied = psnr(resized[3], resized[4:7])
    assert found["psnr"]["copy"] == pytest.approx(copied, abs=0.01)
    assert found["psnr"]["one"] == pytest.approx(np.mean([psnr(s[4:], resized[4:7]) for s in held["frames"]]), abs=0.05)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of 8-bit frames, all of their pixels together."""
    return float(10 * np.log10(255**2 / ((np.asarray(a, float) - b) ** 2).mean()))


def test_lookback(asks, video_file, resized):
    found, held = asks("lookback", video_file, "--frames", 3)
    assert (found["frames"], found["filled"], found["psnr"]) == (5, 3, None)
    assert np.array_equal(held["frames"][0, 3:], resized[:2])
    found, held = asks("lookback", video_file, "--frames", 3, "--at", 1.0, "--future", 3, "--force")
    assert np.array_equal(held["frames"][0, 3:], resized[8:11])
    assert np.array_equal(held["truth"], resized[5:11])
    assert found["psnr"].keys() == {"one", "copy"}


def test_interpolate(asks, video_file, resized):
    found, held = asks("interpolate", video_file, "--frames", 3, "--samples", 2)
    assert (found["frames"], found["filled"]) == (7, 3)
    assert (held["frames"][:, :2] == resized[:2]).all()
    assert (held["frames"][:, 5:] == resized[5:7]).all()
    assert found["psnr"].keys() == {"one", "best", "mean", "copy", "blend"}
    blend = [(1 - k / 4) * resized[1] + k / 4 * resized[5] for k in (1, 2, 3)]
    assert found["psnr"]["blend"] == pytest.approx(psnr(blend, resized[2:5]), abs=0.01)
    copied = psnr(resized[[1, 1, 5]], resized[2:5]), psnr(resized[[1, 5, 5]], resized[2:5])
    assert min(abs(found["psnr"]["copy"] - value) for value in copied) < 0.01


def test_a_short_video_is_interpolated_from_what_there_is(asks, video_file, resized):
    """Twelve frames leave room for one known one before nine hidden ones and two after them."""
    found, held = asks("interpolate", video_file, "--frames", 9)
    assert (found["frames"], found["filled"]) == (12, 9)
    assert np.array_equal(held["frames"][0, [0, 10, 11]], resized[[0, 10, 11]])


def test_generate(asks):
    found, held = asks("generate", "--frames", 3, "--samples", 2)
    assert (found["frames"], found["filled"], found["samples"], found["psnr"]) == (3, 3, 2, None)
    assert (held["frames"][0] != held["frames"][1]).mean() > 0.5
    again = asks("generate", "--frames", 3, "--samples", 2, "--force")[1]
    assert np.array_equal(again["frames"], held["frames"])
    one = asks("generate", "--frames", 3, "--force")[1]  # a sample is that of its seed and number
    assert np.abs(one["frames"][0].astype(int) - held["frames"][0]).max() <= 1
    other = asks("generate", "--frames", 3, "--seed", 1, "--force")[1]
    assert (other["frames"] != one["frames"]).mean() > 0.5


def test_fill_by_numbers(asks, video_file, resized):
    found, held = asks("fill", video_file, "--past", 2, "--frames", 4, "--future", 2)
    assert (found["frames"], found["filled"]) == (8, 4)
    assert np.array_equal(held["frames"][0, [0, 1, 6, 7]], resized[[0, 1, 6, 7]])


def test_fill_what_is_hidden(asks, video_file, resized):
    found, held = asks("fill", video_file, "--hide", "2:4,8", "--at", 0.125)
    hidden = [2, 3, 8]
    assert (found["frames"], found["filled"]) == (11, 3)
    assert np.flatnonzero(~held["known"].reshape(11, -1).all(1)).tolist() == hidden
    kept = [i for i in range(11) if i not in hidden]
    assert np.array_equal(held["frames"][0, kept], resized[1:][kept])
    assert (held["frames"][0, hidden] != resized[1:][hidden]).mean() > 0.5


@pytest.mark.parametrize("hide", [None, "2:4"])
def test_fill_a_box(asks, video_file, resized, hide):
    also = [] if hide is None else ["--hide", hide]
    found, held = asks("fill", video_file, "--frames", 6, "--box", 4, 8, 6, 16, *also)
    inside = np.zeros((6, 16, 16, 1), bool)
    inside[slice(None) if hide is None else slice(2, 4), 4:8, 6:16] = True
    assert found["filled"] == (6 if hide is None else 2)
    assert np.array_equal(held["known"], ~inside[..., 0])
    assert np.array_equal(held["frames"][0][~inside], resized[:6][~inside])
    assert (held["frames"][0][inside] != resized[:6][inside]).mean() > 0.5


def test_without_json_it_says_what_it_did(cli, tiny_checkpoint, video_file, tmp_path):
    out = tmp_path / "out.npz"
    code, lines, errors = cli(
        "interpolate", tiny_checkpoint, video_file, "-o", out, "--steps", 1, "--solver", "ddim", "--samples", 2
    )
    assert (code, errors) == (0, [])
    assert lines[0].startswith(f"{out}: 2 x 6 frames at 8/s, 2 filled in")
    assert lines[1].startswith("the video was 24x20 resized to 16x16")
    for word in ("PSNR", "one sample", "the best", "their mean", "nearest frame", "blend"):
        assert word in lines[2]


# -- formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in.mp4", "in.gif", "in.mkv", "in"])
def test_videos_of_every_kind_are_read(asks, pixels, tmp_path, name):
    path = tmp_path / name
    video.write(path, pixels, 8.0)
    _, held = asks("predict", path)
    known = video.read(path, size=(16, 16), grey=True).frames.numpy()[10:]
    assert np.array_equal(held["frames"][0, :2], known)


def test_videos_of_every_kind_are_written(asks, video_file, tmp_path):
    exact = asks("interpolate", video_file, "--samples", 2)[1]["frames"]
    asks("interpolate", video_file, out="one.mp4")
    read = video.read(tmp_path / "one.mp4", grey=True)
    assert read.fps == pytest.approx(8) and read.frames.shape == (6, 16, 16, 1)
    assert np.abs(read.frames.numpy().astype(int) - exact[0]).mean() < 12
    asks("interpolate", video_file, "--scale", 3, out="one.mkv")
    large = video.read(tmp_path / "one.mkv", grey=True).frames.numpy()
    assert np.abs(large[:, 1::3, 1::3].astype(int) - exact[0]).max() <= 1
    asks("interpolate", video_file, "--samples", 2, out="both.gif")
    assert video.probe(tmp_path / "both.gif").frames == 6
    asks("interpolate", video_file, "--samples", 2, out="folder")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["sample_00.mp4", "sample_01.mp4", "strip.png"]


def test_made_clips_can_be_used(cli, asks, tmp_path):
    path = tmp_path / "discs.mkv"
    assert cli("data", "make", "discs", path, "--size", 16, "--frames", 6)[0] == 0
    code, lines, _ = cli("data", "inspect", path, "--json")
    found = json.loads(lines[-1])
    assert (code, found["videos"], found["frames"], found["broken"]) == (0, 1, 6, [])
    assert asks("predict", path)[0]["changed"] == "made grey"


def test_made_clips_are_of_their_seed(cli, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        out = tmp_path / f"{name}.npz"
        assert cli("data", "make", "digits", out, "--clips", 2, "--frames", 3, "--seed", seed)[0] == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["frames"] for name in "abc")
    assert a.shape == (2, 3, 64, 64, 1)
    assert np.array_equal(a, b) and not np.array_equal(a, c) and not np.array_equal(a[0], a[1])


# -- bad input ------------------------------------------------------------------------------------------------


def refused(call, *argv: object) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    code, lines, errors = call(*argv)
    assert (code, lines, len(errors)) == (2, [], 1), (code, lines, errors)
    assert errors[0].startswith("maskworld: ")
    return errors[0]


def test_not_a_video(cli, tiny_checkpoint, tmp_path):
    (tmp_path / "notes.mp4").write_text("dear diary, " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    out = tmp_path / "out.npz"
    for name in ("notes.mp4", "empty.mp4", "empty", "other.npz", "absent.mp4"):
        assert name in refused(cli, "predict", tiny_checkpoint, tmp_path / name, "-o", out)
    assert not out.exists()


def test_a_truncated_video(cli, tiny_checkpoint, tmp_path):
    path = tmp_path / "half.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    video.write(path, noise, 8.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seconds = video.probe(path).seconds
    out = tmp_path / "out.npz"
    assert f"half.mp4 is truncated: it breaks off after {seconds:.2f} s" in refused(
        cli, "predict", tiny_checkpoint, path, "-o", out
    )
    assert "half.mp4" in refused(cli, "interpolate", tiny_checkpoint, path, "--at", f"{seconds:.2f}", "-o", out)
    assert cli("predict", tiny_checkpoint, path, "--at", f"{seconds:.2f}", "-o", out, "--steps", 1)[0] == 0
    path.write_bytes(path.read_bytes()[:200])
    assert "half.mp4" in refused(cli, "predict", tiny_checkpoint, path, "-o", out, "--force")


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (5, 0, 16, 3), (5, 16, 0, 3)])
def test_no_frames_or_none_of_any_size(cli, tiny_checkpoint, tmp_path, shape):
    np.savez(tmp_path / "void.npz", frames=np.zeros(shape, np.uint8), fps=8.0)
    assert "void.npz" in refused(cli, "predict", tiny_checkpoint, tmp_path / "void.npz", "-o", tmp_path / "out.npz")


def test_fewer_frames_than_the_context(cli, tiny_checkpoint, pixels, tmp_path):
    path, out = tmp_path / "short.npz", tmp_path / "out.npz"
    np.savez(path, frames=pixels[:1], fps=8.0)
    for verb in ("predict", "lookback"):
        assert "at least 2 frame(s)" in refused(cli, verb, tiny_checkpoint, path, "-o", out)
    assert "1 frames" in refused(cli, "predict", tiny_checkpoint, path, "--past", 2, "-o", out)
    assert "1 frames" in refused(cli, "interpolate", tiny_checkpoint, path, "-o", out)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--frames", 0], "--frames 0: a number of frames, 1 or more"),
        (["--past", -1], "--past -1"),
        (["--steps", 0], "between 1 and 50 steps, not 0"),
        (["--samples", 0], "1 or more"),
        (["--scale", 0], "1 or more"),
        (["--at", 99], "--at 99: the video lasts 1.5 s"),
        (["--at", -1], "--at -1"),
        (["--hide", "3:2"], "hides no frame"),
        (["--hide", ""], "--hide"),
        (["--hide", "a:b"], "write frames such as"),
        (["--hide", "50"], "the clip has frames 0 to 11"),
        (["--box", 0, 0, 0, 0], "--box 0 0 0 0"),
        (["--box", 0, 17, 0, 4], "0 to 16"),
    ],
)
def test_numbers_that_make_no_sense(cli, tiny_checkpoint, video_file, tmp_path, options, says):
    out = tmp_path / "out.npz"
    assert says in refused(cli, "fill", tiny_checkpoint, video_file, "-o", out, *options)
    assert not out.exists()


def test_worlds_of_no_size(cli, tmp_path):
    for option in ("--size", "--frames", "--clips"):
        refused(cli, "data", "make", "digits", tmp_path / "out.npz", option, 0)
        refused(cli, "data", "make", "discs", tmp_path / "out.npz", option, 0)
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_none(cli, tiny_checkpoint, video_file, tmp_path):
    tensors, about = checkpoint.read(tiny_checkpoint)
    nan = {name: value * float("nan") for name, value in tensors.items()}
    checkpoint.write(tmp_path / "nan.safetensors", nan, about)
    checkpoint.write(tmp_path / "other.safetensors", tensors, {**about, "family": "dreamer"})
    (tmp_path / "cut.safetensors").write_bytes(tiny_checkpoint.read_bytes()[:-100])
    for name, says in (
        ("nan.safetensors", "NaN"),
        ("other.safetensors", "family dreamer"),
        ("cut.safetensors", "truncated"),
        ("absent.safetensors", "no checkpoint"),
        ("hub:nobody/nothing", "hub repository"),
    ):
        path = name if ":" in name else tmp_path / name
        assert says in refused(cli, "predict", path, video_file, "-o", tmp_path / "out.npz")


@pytest.mark.parametrize("name", ["out.npz", "out.mp4", "folder"])
def test_what_exists_is_not_overwritten(cli, tiny_checkpoint, video_file, tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    mine = path / "mine.txt" if name == "folder" else path
    mine.write_text("mine")
    assert "exists; --force" in refused(cli, "predict", tiny_checkpoint, video_file, "-o", path)
    assert mine.read_text() == "mine"
    assert cli("predict", tiny_checkpoint, video_file, "-o", path, "--steps", 1, "--force")[0] == 0
    if name == "folder":
        assert mine.read_text() == "mine" and (path / "sample_00.mp4").exists()
    else:
        assert path.read_bytes()[:4] != b"mine"
    refused(cli, "data", "make", "digits", path)


def test_what_cannot_be_written(cli, tiny_checkpoint, video_file, tmp_path):
    assert "known are" in refused(cli, "predict", tiny_checkpoint, video_file, "-o", tmp_path / "out.webp")
    (tmp_path / "file").write_text("")
    refused(cli, "predict", tiny_checkpoint, video_file, "-o", tmp_path / "file" / "out.npz", "--steps", 1)


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["predict", "m", "v.mp4", "-o", "o.npz", "--frmes", "3"], "--frames"),
        (["fill", "m", "v.mp4", "-o", "o.npz", "--sampels", "3"], "--samples"),
        (["predikt", "m", "v.mp4"], "predict"),
        (["train", "mcvd-digits", "-o", "run", "--config.widht", "8"], "--config.width"),
        (["train", "mcvd-digits", "-o", "run", "--minuts", "8"], "--minutes"),
        (["train", "mcvd-digit", "-o", "run"], "mcvd-digits"),
        (["data", "mak", "digits", "o.npz"], "make"),
        (["predict", "m", "v.mp4", "-o", "o.npz", "--solver", "ddmi"], "ddim"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_the_right_word(cli, argv, near):
    code, lines, errors = cli(*argv)
    assert (code, lines) == (2, [])
    assert near in " ".join(errors)
    assert "Traceback" not in " ".join(errors)


# -- training -------------------------------------------------------------------------------------------------

TINY = [
    *("--config.width", 4, "--config.multiples", 1, 1, "--config.blocks", 1, "--config.attention"),
    *("--config.dim-head", 4, "--config.stem", 8, "--config.past", 1, "--config.current", 1, "--config.future", 1),
    *("--config.num-times", 10, "--config.motions", 0, "--config.followed", 0, "--batch", 16),
]


def test_train_resume_and_use(cli, tmp_path):
    folder = tmp_path / "run"
    command = ["train", "mcvd-digits", "-o", folder, *TINY, "--workers", 0, "--json"]
    code, lines, _ = cli(*command, "--steps", 2)
    found = json.loads(lines[-1])
    assert (code, found["run"], found["step"]) == (0, str(folder), 2)
    assert found.keys() >= {"loss", "grad_norm", "lr", "seconds", "valid_loss"}
    assert "already holds a training; --resume" in cli(*command, "--steps", 3)[2][-1]
    code, lines, _ = cli(*command, "--steps", 3, "--resume")
    assert (code, json.loads(lines[-1])["step"]) == (0, 3)
    code, _, errors = cli(*command, "--steps", 4, "--resume", "--config.width", 8)
    assert code == 2 and "another config" in errors[-1]
    out = tmp_path / "out.npz"
    assert cli("generate", folder, "-o", out, "--frames", 2, "--steps", 2)[0] == 0
    assert np.load(out)["frames"].shape == (1, 2, 64, 64, 1)


def test_a_training_starts_from_weights(cli, tmp_path):
    command = ["train", "mcvd-digits", *TINY, "--workers", 0, "--steps", 1]
    assert cli(*command, "-o", tmp_path / "a")[0] == 0
    for name, options in (("same", ["--start", tmp_path / "a"]), ("new", ["--seed", 1])):
        assert cli(*command, "-o", tmp_path / name, *options, "--lr", 0)[0] == 0  # nothing is learnt
    a, same, new = (checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("a", "same", "new"))
    assert all(torch.equal(value, same[name]) for name, value in a.items())
    assert not all(torch.equal(value, new[name]) for name, value in a.items())
    code, _, errors = cli(*command, "-o", tmp_path / "other", "--start", "mcvd-digits")
    assert code == 2 and "do not fit" in errors[-1] and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "how long to train"),
        (["--steps", 1, "--config.size", 0], "size is 1 or more, not 0"),
        (["--steps", 1, "--config.stem", 0], "stem is 1 or more, not 0"),
        (["--steps", 1, "--threads", 0], "at least one thread"),
        (["--steps", 0], "takes a step"),
        (["--minutes", -1], "takes a step"),
        (["--steps", 1, "--lr", -1], "learning rate"),
        (["--steps", 1, "--batch", 0], "batch is 1 or more, not 0"),
        (["--steps", 1, "--p-hide-past", 2], "p_hide_past"),
        (["--steps", 1, "--glyphs", "/absent"], "/absent"),
    ],
)
def test_trainings_that_make_no_sense(cli, tmp_path, options, says):
    code, lines, errors = cli("train", "mcvd-digits", "-o", tmp_path / "run", *TINY, "--workers", 0, *options)
    assert (code, lines) == (2, [])
    assert len(errors) == 1 or "--config." in str(options)  # tyro's own box
    assert says in " ".join(errors) and "Traceback" not in " ".join(errors)


# -- interrupted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "kept"), [(1, 0), (3, 8), (5, 16)])
def test_an_interrupt_keeps_the_samples_that_are_finished(cli, tiny_checkpoint, tmp_path, monkeypatch, calls, kept):
    forward, made = mcvd.MCVD.forward, []
    # A test run that was started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def pressing(net, x, when, seen):
        made.append(len(x))
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)
        return forward(net, x, when, seen)

    monkeypatch.setattr(mcvd.MCVD, "forward", pressing)
    out = tmp_path / "out.npz"
    command = ("generate", tiny_checkpoint, "-o", out, "--frames", 2, "--samples", 18, "--steps", 2)
    try:
        code, _, errors = cli(*command)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, len(errors)) == (130, 1)
    if kept:
        assert f"{kept} of 18 samples are finished" in errors[0]
        assert np.load(out)["frames"].shape == (kept, 2, 16, 16, 1)
    else:
        assert "no sample was finished" in errors[0] and not out.exists()


@pytest.mark.skipif(os.name == "nt", reason="signals to a group of processes")
def test_an_interrupt_of_a_training_keeps_what_was_done(cli, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "maskworld", "train", "mcvd-digits", "-o", folder, *TINY, "--minutes", 5]
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    steps = checkpoint.read_about(folder / "state.safetensors")["step"]
    assert errors.splitlines()[-1] == (
        f"maskworld: interrupted; {steps} steps are saved in {folder}; --resume goes on from there"
    )
    assert steps >= 20
    command = ["train", "mcvd-digits", "-o", folder, *TINY, "--workers", 0, "--steps", steps + 1, "--resume", "--json"]
    assert json.loads(cli(*command)[1][-1])["step"] == steps + 1


# -- help -----------------------------------------------------------------------------------------------------


def test_help_does_without_heavy_imports():
    script = (
        "import sys\nfrom maskworld.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'av', 'PIL', 'matplotlib', 'accelerate', 'pymunk'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    for argv in (["--help"], ["predict", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()
    # The rest of the help is the same text.
    for word in ("--frames", "--solver", "--seed", "CKPT", "VIDEO"):
        assert word in done.stdout


@pytest.mark.parametrize("argv", [["train", "mcvd-video", "--help"], ["data", "--help"], ["data", "make", "--help"]])
def test_help_of_the_rest(cli, argv):
    code, lines, errors = cli(*argv)
    assert (code, errors) == (0, [])
    assert len(lines) > 5


def test_solvers_are_those_that_there_are():
    from typing import get_args

    from maskworld.__main__ import COMMANDS, Solver
    from maskworld.solve import SOLVERS

    assert set(get_args(Solver)) == set(SOLVERS)
    assert set(VERBS) <= set(COMMANDS)


def test_doctor(cli):
    code, lines, errors = cli("doctor", "--json")
    found = json.loads(lines[-1])
    assert (code, errors) == (0, [])
    assert found["torch"] == torch.__version__
    assert found["threads"] == 1
