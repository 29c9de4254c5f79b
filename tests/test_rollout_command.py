"""`maskworld rollout`: memories by name and their budgets, actions from files, bad input, interruptions."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from typing import Any

import numpy as np
import pytest
import torch

from maskworld import checkpoint
from maskworld.commands.evaluate import held_out
from maskworld.commands.memories import PLAIN, memory_of
from maskworld.data import video
from maskworld.memory.canvas import Canvas
from maskworld.memory.evict import Evicting
from maskworld.memory.retrieve import Retrieve
from maskworld.papers import forcing, mcvd
from maskworld.probes.base import ACTIONS, PAN
from maskworld.probes.films import Films, reckoned
from maskworld.world import BRICKS, World, load, network

LEARNED = ("merge", "ssm")


@pytest.fixture(scope="module")
def causal(forcing_checkpoint) -> World:
    return load(forcing_checkpoint)


@pytest.fixture
def rolls(cli, forcing_checkpoint, video_file, tmp_path):
    """Rolls out the video with one step; gives the JSON and what was written."""

    def call(*argv: object) -> tuple[dict, dict[str, np.ndarray]]:
        path = tmp_path / "out.npz"
        given = ("rollout", forcing_checkpoint, video_file, "-o", path, "--steps", 1, "--force", "--json")
        code, lines, errors = cli(*given, *argv)
        assert (code, errors) == (0, [])
        return json.loads(lines[-1]), dict(np.load(path))

    return call


# -- memories by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("window", [5, 8])
def test_what_is_shown_is_on_one_budget(causal, name, window):
    chosen = memory_of(name, causal, True, window, 2)
    assert chosen.memory.cost.shown == chosen.window == window and chosen.memory.cost.tokens == 0
    assert (chosen.name, chosen.reads) == (name, None)


@pytest.mark.parametrize("name", BRICKS)
def test_learned_tokens_take_the_place_of_frames(name):
    config = forcing.tiny(size=64, memories=(name,))
    chosen = memory_of(name, World(network(config), config, {}), False)
    cost, tokens = chosen.memory.cost, config.tokens
    assert chosen.reads == name and chosen.numbers > 0
    assert cost.shown * tokens + cost.tokens <= config.window * tokens < (cost.shown + 1) * tokens + cost.tokens


def test_the_paper_sizes():
    config = forcing.tiny(window=16, block=4)
    world = World(network(config), config, {})
    sizes: dict[str, Any] = {name: memory_of(name, world, True).memory for name in PLAIN}
    assert (sizes["sink"].first, sizes["sink"].recent) == (4, 12)
    assert (sizes["retrieve"].count, sizes["retrieve"].recent) == (4, 12)
    assert (sizes["consolidate"].first, sizes["consolidate"].old, sizes["consolidate"].recent) == (2, 4, 10)
    assert (sizes["canvas"].recent, sizes["canvas"].ahead) == (12, 4)


def test_retrieval_is_by_camera_where_there_is_one(causal):
    which = [("retrieve", True), ("retrieve", False), ("retrieve-likeness", True)]
    found: list[Any] = [memory_of(name, causal, cameras).memory for name, cameras in which]
    assert [memory.by for memory in found] == ["camera", "likeness", "likeness"]
    assert isinstance(memory_of("retrieve-camera", causal, True).memory, Retrieve)
    for name in ("retrieve-camera", "canvas"):
        with pytest.raises(ValueError, match="seen from"):
            memory_of(name, causal, False)


def test_memories_that_cannot_be(causal, tiny_checkpoint):
    for name, window, says in [
        ("windw", None, r"no memory is called windw; did you mean window\?"),
        ("xyz", None, "there are window, sink"),
        ("ttt", None, "no memory called ttt; it holds merge, ssm"),
        ("window", 9, "shown 1 to 8"),
        ("window", 0, "shown 1 to 8"),
        ("sink", 3, "no room for the memory sink"),
        ("merge", 4, "no room for the 256 tokens of merge"),
    ]:
        with pytest.raises(ValueError, match=says):
            memory_of(name, causal, True, window)
    with pytest.raises(ValueError, match="no room for a canvas as 4 frames"):
        memory_of("canvas", causal, True, 4, 4)
    old = load(tiny_checkpoint)
    assert memory_of("window", old, False).memory.cost.shown == 2
    with pytest.raises(ValueError, match="only the 2 frames before"):
        memory_of("sink", old, False)


def test_cameras_follow_from_pans():
    actions = torch.zeros(1, 4, len(ACTIONS))
    actions[0, 0, ACTIONS.index("pan_x")], actions[0, 1, ACTIONS.index("pan_y")] = 1.0, -0.5
    for size in (64, 128):
        offset = reckoned(actions, size).pose[0, 0, :, :2, 3] * 64 / size
        assert offset.tolist() == [[0, 0], [PAN, 0], [PAN, -PAN / 2], [PAN, -PAN / 2]]


# -- rolling out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "sink", "retrieve", "consolidate", *LEARNED])
def test_every_memory_rolls_out(rolls, causal, video_file, name):
    found, held = rolls("--frames", 5, "--memory", name)
    assert (found["command"], found["prompt"], found["frames"], found["samples"]) == ("rollout", 12, 5, 1)
    cost = memory_of(name, causal, False)
    assert found["memory"] == {**cost.as_dict(), "stride": 2}
    assert isinstance(cost.memory, Evicting) == (name in LEARNED) == (found["memory"]["numbers"] > 0)
    assert held["frames"].shape == (1, 17, 64, 64, 3)
    assert np.array_equal(held["frames"][0, :12], video.read(video_file, size=(64, 64)).frames.numpy())
    assert held["known"].reshape(17, -1).all(1).tolist() == [True] * 12 + [False] * 5
    assert held["frames"][0, 12:].std() > 1


def test_memories_make_a_difference_beyond_the_window(rolls):
    made = [rolls("--frames", 4, "--memory", name)[1]["frames"] for name in ("window", "sink", "ssm")]
    assert all((made[i] != made[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_sample_is_that_of_its_seed_and_number(rolls):
    many = rolls("--frames", 2, "--samples", 2)[1]["frames"]
    one = rolls("--frames", 2)[1]["frames"]
    assert np.abs(one[0].astype(int) - many[0]).max() <= 3
    assert (many[0] != many[1]).any()
    assert (rolls("--frames", 2, "--seed", 1)[1]["frames"] != one).any()


def test_the_past_and_the_stride(rolls):
    found, held = rolls("--frames", 3, "--past", 3, "--stride", 1, "--window", 4)
    assert (found["prompt"], found["memory"]["stride"], found["memory"]["shown"]) == (3, 1, 4)
    assert held["frames"].shape[1] == 6


def test_actions_from_files(rolls, tmp_path):
    rows = np.zeros((15, 9))
    plain, _ = rolls("--frames", 3)
    assert plain["memory"]["name"] == "window"
    made = []
    for i in range(2):
        rows[13, ACTIONS.index("pan_x")] = i
        np.save(tmp_path / "a.npy", rows)
        np.savetxt(tmp_path / "a.csv", rows, delimiter=",")
        npy, csv = (rolls("--frames", 3, "--actions", tmp_path / f"a.{kind}")[1]["frames"] for kind in ("npy", "csv"))
        assert np.array_equal(npy, csv)
        made.append(npy[0])
    assert np.array_equal(made[0][:14], made[1][:14]) and (made[0][14] != made[1][14]).any()
    found, held = rolls("--frames", 3, "--memory", "canvas", "--actions", tmp_path / "a.npy")
    assert (found["memory"]["name"], found["memory"]["shown"]) == ("canvas", 8)
    assert isinstance(memory_of("canvas", load_tiny(), True).memory, Canvas) and held["frames"].shape[1] == 15


def load_tiny() -> World:
    config = forcing.tiny()
    return World(network(config), config, {})


def test_a_line_for_people_and_a_film(cli, forcing_checkpoint, video_file, tmp_path):
    out = tmp_path / "out.mp4"
    code, lines, errors = cli("rollout", forcing_checkpoint, video_file, "-o", out, "--frames", 2, "--steps", 1)
    assert (code, errors) == (0, []) and video.probe(out).frames == 14
    assert lines[0].startswith(f"{out}: 12 + 2 frames, ")
    assert re.search(r" [\d.]+ frames/s; memory: window \(shows 8 frames, keeps 8 frames\)$", lines[0])
    assert lines[1].startswith("the video was 24x20 resized to 64x64")


def test_mcvd_rolls_out_with_its_window(cli, tiny_checkpoint, video_file, tmp_path):
    out = tmp_path / "out.npz"
    given = (
        "rollout",
        tiny_checkpoint,
        video_file,
        "-o",
        out,
        "--frames",
        3,
        "--steps",
        2,
        "--solver",
        "ddim",
        "--json",
    )
    code, lines, errors = cli(*given)
    assert (code, errors) == (0, [])
    assert json.loads(lines[-1])["memory"]["shown"] == 2 and np.load(out)["frames"].shape == (1, 15, 16, 16, 1)
    code, _, errors = cli(*given, "--force", "--memory", "sink")
    assert code == 2 and "only the 2 frames before" in errors[0]


# -- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--frames", 0], "0 frames: 1 or more"),
        (["--past", 0], "0 frames of the past"),
        (["--stride", 9], "a stride of 9 frames is longer than the window of 8"),
        (["--stride", 0], "a stride of 0 frames"),
        (["--memory", "retrive"], "did you mean retrieve?"),
        (["--memory", "canvas"], "give actions that say how the camera moves"),
        (["--window", 9], "shown 1 to 8"),
        (["--solver", "ddim"], "forcing has no solvers"),
        (["--samples", 0], "--samples and --scale"),
        (["--actions", "short.npy"], "actions for 14 frames; 12 are known and 3 new: 1 are missing"),
        (["--actions", "other.csv"], "actions are (frames, 9)"),
        (["--actions", "words.csv"], "does not hold rows of numbers"),
        (["--actions", "nan.npy"], "NaN"),
        (["--actions", "words.txt"], "from .npy or .csv"),
        (["--actions", "absent.npy"], "absent.npy"),
        (["--actions", "empty.npy"], "does not hold rows of numbers"),
        (["--actions", "zipped.npy"], "does not hold rows of numbers"),
        (["--actions", "complex.npy"], "does not hold rows of numbers"),
        (["--actions", "empty.csv"], "actions are (frames, 9)"),
        (["--actions", "huge.npy"], "infinity"),
    ],
)
def test_what_is_refused(cli, forcing_checkpoint, video_file, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros((14, 9)))
    np.save("nan.npy", np.full((15, 9), np.nan))
    np.savetxt("other.csv", np.zeros((15, 2)), delimiter=",")
    (tmp_path / "words.csv").write_text("push,pan\n")
    np.savez("zipped.npz", actions=np.zeros((15, 9)))
    (tmp_path / "zipped.npz").rename("zipped.npy")
    np.save("complex.npy", np.zeros((15, 9), dtype=complex))
    np.save("huge.npy", np.full((15, 9), 1e300))
    for name in ("empty.npy", "empty.csv"):
        (tmp_path / name).touch()
    given = ("rollout", forcing_checkpoint, video_file, "--steps", 1, "--frames", 3)
    code, lines, errors = cli(*given, *argv)
    assert (code, lines, len(errors)) == (2, [], 1), (code, lines, errors)
    assert says in errors[0] and not (tmp_path / "rollout.mp4").exists()


def test_actions_for_a_model_that_takes_none(cli, tiny_checkpoint, video_file, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((15, 9)))
    given = ("rollout", tiny_checkpoint, video_file, "-o", tmp_path / "o.npz", "--actions", tmp_path / "a.npy")
    code, _, errors = cli(*given)
    assert code == 2 and "takes no actions" in errors[0]


@pytest.mark.parametrize(("calls", "kept"), [(1, 0), (3, 4)])
def test_an_interrupt_keeps_the_frames_that_are_finished(
    cli, forcing_checkpoint, video_file, tmp_path, monkeypatch, calls, kept
):
    forward, made = forcing.Forcing.forward, []
    # A test run that was started in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def pressing(net, *given):
        made.append(1)
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)
        return forward(net, *given)

    monkeypatch.setattr(forcing.Forcing, "forward", pressing)
    out = tmp_path / "out.npz"
    try:
        code, _, errors = cli("rollout", forcing_checkpoint, video_file, "-o", out, "--frames", 20, "--steps", 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, len(errors)) == (130, 1)
    if kept:
        assert f"{kept} of 20 frames are finished" in errors[0]
        assert np.load(out)["frames"].shape == (1, 12 + kept, 64, 64, 3)
    else:
        assert "no frame was finished" in errors[0] and not out.exists()


# -- the other commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "argv", "filled"),
    [
        ("predict", ["--frames", 3], 3),
        ("lookback", ["--frames", 3], 3),
        ("interpolate", ["--frames", 3], 3),
        ("generate", [], 10),
        ("fill", ["--hide", "3:5", "--box", 8, 40, 8, 40], 2),
    ],
)
def test_the_causal_family_fills_in(cli, forcing_checkpoint, video_file, tmp_path, verb, argv, filled):
    given = () if verb == "generate" else (video_file,)
    out = tmp_path / "out.npz"
    code, lines, errors = cli(verb, forcing_checkpoint, *given, "-o", out, "--steps", 1, "--json", *argv)
    assert (code, errors) == (0, [])
    assert json.loads(lines[-1])["filled"] == filled
    whole = np.load(out)["known"].reshape(-1, np.load(out)["known"][0].size).all(1)
    if verb == "interpolate":
        assert whole.tolist() == [True] * 4 + [False] * 3 + [True] * 4


def test_the_causal_family_is_evaluated(cli, forcing_checkpoint):
    given = ("--clips", 2, "--samples", 1, "--steps", 1, "--frames", 2, "--extractor", "pixels8", "--json")
    code, lines, _ = cli("evaluate", forcing_checkpoint, "discs", *given)
    assert code == 0 and json.loads(lines[-1])["command"] == "evaluate"


def test_a_model_of_the_probes_is_evaluated_on_episodes_it_never_saw(causal):
    about = {"data": {"name": "probes", "families": ["P1", "P2a"], "shares": [1.0, 2.0], "fps": 8.0}}
    source, count, _ = held_out(dataclasses.replace(causal, about=about), None, 20)
    clip = source(0)
    assert count is None and torch.equal(clip.times - clip.times[:, :1], torch.arange(20)[None])
    trained = [Films(("P1", "P2a"), (1.0, 2.0), 19, 1, near=19)(i).frames for i in range(8)]
    assert not any(torch.equal(clip.frames, frames) for frames in trained)


def test_the_best_of_several_futures(rolls):
    given = {n: rolls("--frames", 3, "--best-of", n) for n in (1, 3)}
    assert [report["best_of"] for report, _ in given.values()] == [1, 3]
    key = next(iter(given[1][1]))
    plain, chosen = (arrays[key] for _, arrays in given.values())
    assert plain.shape == chosen.shape


def test_digits_are_judged_by_the_same_frames_whatever_a_model_sees(cli, tmp_path):
    """5 known and 10 ahead, or 5 between, as in the tables; a model that sees less has what it sees."""
    for past, future, known, ahead, between in ((8, 6, 5, 10, 5), (2, 2, 2, 4, 2)):
        net = mcvd.MCVD(mcvd.tiny(size=40, past=past, future=future, attention=(), partial=True))
        about = {"family": "mcvd", "config": dataclasses.asdict(net.config), "data": {"name": "digits"}, "step": 0}
        path = tmp_path / f"{past}.safetensors"
        checkpoint.write(path, net.state_dict(), about)
        for options, hidden in (([], ahead), (["--future", future], between)):
            given = ("--clips", 2, "--samples", 2, "--steps", 1, "--json", *options)
            code, lines, _ = cli("evaluate", path, *given)
            task = json.loads(lines[-1])["task"]
            assert (code, task["past"], task["hidden"]) == (0, known, hidden)


def test_a_draw_of_the_discounted_future_is_no_next_frame(cli, video_file, tmp_path):
    """It is filled in and said to be some later frame; no frame of the video is held against it, and nothing rolls."""
    out = tmp_path / "out.npz"
    code, lines, _ = cli("predict", "voc-cheetah", video_file, "--frames", 1, "-o", out, "--json")
    said = json.loads(lines[-1])
    assert code == 0 and said["psnr"] is None and any("some later frame" in note for note in said["notes"])
    code, lines, errors = cli("rollout", "voc-cheetah", video_file, "--frames", 4, "-o", tmp_path / "roll.npz")
    assert (code, lines, len(errors)) == (2, [], 1) and "does not roll out" in errors[0]
    assert not (tmp_path / "roll.npz").exists()


def test_videos_that_are_left_out_are_told(cli, tiny_checkpoint, video_file, tmp_path):
    """Once each, and the exit code says that parts are missing."""
    folder = tmp_path / "videos"
    folder.mkdir()
    whole = video_file.read_bytes()
    (folder / "whole.npz").write_bytes(whole)
    (folder / "broken.mp4").write_bytes(whole[:200])
    given = ("--frames", 2, "--clips", 2, "--samples", 1, "--steps", 1, "--extractor", "pixels8", "--json")
    code, lines, errors = cli("evaluate", tiny_checkpoint, folder, *given)
    assert code == 3, errors
    assert json.loads(lines[-1])["command"] == "evaluate"
    assert sum("broken.mp4" in line for line in errors) == 1
