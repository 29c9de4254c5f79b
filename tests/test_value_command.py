"""`maskworld value`: fit, estimate, evaluate, on the chain; and every bad input in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from maskworld import checkpoint, returns
from maskworld.data import episodes, video
from maskworld.data.toys import FPS, Chain
from maskworld.papers import voc
from maskworld.tokenizers import flat, kinds

PAID = 1.5
LENGTH = 30


@pytest.fixture(scope="session")
def chain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of the chain, by two policies (in name), with actions that do nothing; every step brings PAID."""
    folder = tmp_path_factory.mktemp("data") / "chain"
    made = []
    for i, episode in enumerate(Chain(8).episodes(6, LENGTH, 0)):
        rewards = np.full(LENGTH, PAID, np.float32)
        rewards[0] = 0
        actions = np.zeros((LENGTH, 1), np.float32)
        actions[-1] = np.nan
        made.append(dataclasses.replace(episode, rewards=rewards, actions=actions, policy=("good", "bad")[i % 2]))
    episodes.write(folder, made, FPS, {"world": "chain"})
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory):
    """Writes a model with random weights that knows of the constant reward; gives its path."""
    folder = tmp_path_factory.mktemp("models")

    def write(name: str, steps: int | None = 4, policies: tuple[str, ...] = (), size: int = 16, **changes) -> Path:
        torch.manual_seed(0)
        tokenizer = flat.Flat(flat.Config(size))
        config = voc.tiny(
            **{"gammas": (0.0, 0.8, 0.9), "ends": False, "policies": len(policies), "depth": 1, "dim": 32, **changes}
        )
        net = voc.VOC(voc.of_tokenizer(config, tokenizer), tokenizer)
        net.begin(torch.full((4,), PAID), bootstraps=steps is not None)
        about = {
            "family": "voc", "config": dataclasses.asdict(net.config), "tokenizer": kinds.config_of(tokenizer),
            "td": {"steps": steps}, "policies": list(policies), "data": {"fps": FPS},
        }  # fmt: skip
        path = folder / f"{name}.safetensors"
        checkpoint.write(path, net.state_dict(), about)
        return path

    return write


@pytest.fixture(scope="session")
def plain(model) -> Path:
    return model("plain")


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of the chain as a video, larger than the model's and in colour."""
    frames = Chain(8).episodes(1, 20, 5)[0].frames.repeat(2, 1).repeat(2, 2).repeat(3, 3)
    path = tmp_path_factory.mktemp("film") / "film.npz"
    np.savez(path, frames=frames, fps=FPS)
    return path


# -- estimating -----------------------------------------------------------------------------------


def test_a_constant_reward_is_told_exactly(cli, plain, film) -> None:
    code, lines, errors = cli("value", "estimate", plain, film, "--samples", 3, "--json")
    assert (code, errors) == (0, [])
    found = json.loads(lines[-1])
    assert (found["frames"], found["fps"], found["gammas"], found["samples"]) == (20, FPS, [0.0, 0.8, 0.9], 3)
    assert found["changed"] == "32x32 resized to 16x16, made grey"
    assert (found["episode"], found["policy"], found["report"]) == (None, None, None)
    assert found["moments"][-1]["frame"] == 19
    assert found["moments"][-1]["values"] == found["last"]["values"]
    for moment in found["moments"]:
        assert moment["seconds"] == moment["frame"] / FPS
        for one in moment["values"]:
            assert one["value"] == pytest.approx(PAID / (1 - one["gamma"]), rel=1e-5)
            assert one["error"] == pytest.approx(0, abs=1e-5)
            assert one["ended"] == 0
            assert "true" not in one
    every = json.loads(cli("value", "estimate", plain, film, "--every", 3, "--gamma", ".85", "--json")[1][-1])
    assert [moment["frame"] for moment in every["moments"]] == [1, 4, 7, 10, 13, 16, 19]
    assert every["gammas"] == [0.85]


def test_one_draw_has_no_error(cli, plain, film) -> None:
    found = json.loads(cli("value", "estimate", plain, film, "--samples", 1, "--gamma", ".9", "--json")[1][-1])
    assert found["last"]["values"][0]["error"] is None
    code, lines, _ = cli("value", "estimate", plain, film, "--samples", 1, "--gamma", ".9")
    assert code == 0
    assert any(line.split() == ["0.9", "15", "-", "0", "%"] for line in lines)


def test_a_delay_is_where_the_video_comes_to_what_was_drawn(cli, plain, film) -> None:
    found = json.loads(cli("value", "estimate", plain, film, "--samples", 2, "--json")[1][-1])
    *before, last = found["futures"]
    assert last["frame"] == 19
    assert all(draw == {"delay": None, "apart": None} for draw in last["draws"])
    for future in before:
        for draw in future["draws"]:
            assert 1 <= draw["delay"] <= 19 - future["frame"]
            assert draw["apart"] in (0, 0.25, 0.5, 0.75, 1)


def test_delays_of_a_model_that_copies(monkeypatch, plain, film) -> None:
    """What stands 3 frames later in the video is found there, or where it stood before."""
    from maskworld.commands.value import _future
    from maskworld.noise import Rng
    from maskworld.world import load

    net = load(plain).net
    assert isinstance(net, voc.VOC)
    states = returns.states_along(net, video.read(film, size=(16, 16), grey=True).frames.numpy())
    monkeypatch.setattr(voc, "draws", lambda *_, **__: states[7][None, None].expand(1, 9, -1))
    future = _future(returns.Subject(net), states, 4, "", 0.9, Rng.of(0), torch.float32)
    first = next(k for k in (1, 2, 3) if torch.equal(states[4 + k], states[7]))
    assert [(draw.delay, draw.apart) for draw in future.draws] == [(first, 0.0)] * 9
    monkeypatch.setattr(voc, "draws", lambda *_, **__: torch.full((1, 9, 4), net.config.vocab))
    ended = _future(returns.Subject(net), states, 4, "", 0.9, Rng.of(0), torch.float32)
    assert all(draw.image is None and draw.delay is None for draw in ended.draws)


def test_an_episode_has_its_true_returns_beside(cli, plain, chain_folder) -> None:
    for source, number in ((chain_folder, 4), (chain_folder / "00002.npz", 2)):
        found = json.loads(cli("value", "estimate", plain, source, "--samples", 2, "--json")[1][-1])
        assert (found["episode"], found["frames"], found["fps"]) == (number, LENGTH, FPS)
        assert [one["true"] for one in found["last"]["values"]] == [None] * 3  # nothing is known of what comes after
        for moment in found["moments"][:-1]:
            for one in moment["values"]:
                assert one["true"] == pytest.approx(PAID / (1 - one["gamma"]), rel=1e-6)
    found = json.loads(cli("value", "estimate", plain, chain_folder, "--episode", 1, "--json", "--samples", 2)[1][-1])
    assert found["episode"] == 1


def test_a_policy_is_told(cli, model, chain_folder, film) -> None:
    told = model("told", policies=("bad", "good"))
    ask = ("value", "estimate", told, film, "--samples", 2, "--json", "--gamma", ".9")
    assert json.loads(cli(*ask)[1][-1])["policy"] is None
    assert json.loads(cli(*ask, "--policy", "good")[1][-1])["policy"] == "good"
    ours = ("value", "estimate", told, chain_folder, "--samples", 2, "--json")
    assert json.loads(cli(*ours)[1][-1])["policy"] == "good"  # of the fifth episode
    assert json.loads(cli(*ours, "--policy", "bad")[1][-1])["policy"] == "bad"


def test_what_is_printed(cli, plain, film, chain_folder) -> None:
    code, lines, errors = cli("value", "estimate", plain, film, "--samples", 4)
    assert (code, errors) == (0, [])
    assert lines[0].startswith(f"{film}: 20 frames at 8 a second; 4 draws of each state")
    assert lines[1] == "the video was 32x32 resized to 16x16, made grey to fit the model"
    assert any(re.fullmatch(r"0\.9 +15 +\S+ +0 %", line) for line in lines)
    assert any(re.fullmatch(r"19 +2\.38 .*1\.5 ± \S+ +7\.5 ± \S+ +15 ± \S+", line) for line in lines)
    code, lines, errors = cli("value", "estimate", plain, chain_folder, "--samples", 4)
    assert (code, errors) == (0, [])
    assert "along the video (the true return beside):" in lines
    assert any("(15)" in line for line in lines)


def test_the_page(cli, plain, film, chain_folder, tmp_path) -> None:
    for i, source in enumerate((film, chain_folder)):
        out = tmp_path / str(i)
        code, lines, errors = cli("value", "estimate", plain, source, "--samples", 2, "--gamma", ".8", ".9", "-o", out)
        assert (code, errors) == (0, [])
        assert lines[-1] == str(out / "report.html")
        page = (out / "report.html").read_text()
        assert page.count('class="stills"') == 4
        assert page.count('class="still given"') == 4
        assert page.count('class="still"') == 4 * 9
        assert page.count("<span>-</span>") == 9  # at the end of the video
        assert len(re.findall(r"<span>\+\d+, \d+ %</span>", page)) == 27
        assert ("true return" in page) == (source == chain_folder)
    code, _, errors = cli("value", "estimate", plain, film, "-o", tmp_path / "0")
    assert (code, len(errors)) == (2, 1)
    assert "--force replaces it" in errors[0]
    assert cli("value", "estimate", plain, film, "--samples", 2, "-o", tmp_path / "0", "--force")[0] == 0


def test_without_pictures(cli, plain, film, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(flat.Flat, "paints", False)
    code, lines, errors = cli("value", "estimate", plain, film, "--samples", 2, "-o", tmp_path)
    assert (code, errors) == (0, [])
    assert "does not paint" in lines[-1]
    page = (tmp_path / "report.html").read_text()
    assert "does not paint" in page
    assert 'class="stills"' not in page
    found = json.loads(cli("value", "estimate", plain, film, "--samples", 2, "--json")[1][-1])
    assert found["futures"][0]["draws"][0]["delay"] >= 1  # codes tell, pictures or none


# -- evaluating -----------------------------------------------------------------------------------


def test_evaluate(cli, model, plain, chain_folder) -> None:
    mc = model("mc", steps=None)
    argv = ("value", "evaluate", plain, chain_folder, "--mc", mc, "--onestep", plain, "--samples", 3, "--states", 10)
    code, lines, errors = cli(*argv, "--gamma", ".8", ".9", "--json")
    assert (code, errors) == (0, [])
    tables = json.loads(lines[-1])["tables"]
    assert [table["gamma"] for table in tables] == [0.8, 0.9]
    for table in tables:
        assert (table["states"], table["episodes"], table["ended"]) == (10, 2, 0)
        assert len(table["rows"]) == 5
        for name, row in table["rows"].items():
            assert row["bias"]["mean"] == pytest.approx(0, abs=1e-3), name
            assert row["rmse"]["mean"] == pytest.approx(0, abs=1e-3), name
    assert list(tables[0]["rows"])[2] == "one step x 14"
    code, lines, errors = cli(*argv, "--gamma", ".9", "--unroll", 2)
    assert (code, errors) == (0, [])
    assert lines[0].startswith("gamma 0.9: 10 states of 2 held-out episodes; returns are divided by 1 - gamma^left")
    assert any(line.startswith("one step x 2") for line in lines)
    assert lines[-1].startswith("mean of the training data")


# -- fitting --------------------------------------------------------------------------------------

SMALL = ("--dim", 16, "--depth", 1, "--heads", 1, "--stack", 1, "--batch", 4, "--workers", 0)


def test_fit_goes_on_where_it_stopped_and_its_model_tells(cli, chain_folder, film, tmp_path, monkeypatch) -> None:
    from maskworld import train

    run, real = tmp_path / "run", train.train
    fit = ("value", "fit", chain_folder, "-o", run)
    argv = (*fit, "--grid", 2, "--vocab", 8, "--gammas", ".5", ".8", "--policies", *SMALL)

    def stopped(recipe, folder, **how):
        real(recipe, folder, **{**how, "steps": 2})
        raise KeyboardInterrupt("2 steps are saved")

    monkeypatch.setattr(train, "train", stopped)
    code, _, errors = cli(*argv)
    assert code == 130
    assert errors[-1].endswith("2 steps are saved")
    assert not (run / "model.safetensors").exists()
    code, _, errors = cli(*argv)
    assert (code, len(errors)) == (2, 1)
    assert "--resume" in errors[0]
    # What it was begun with need not be said again.
    monkeypatch.setattr(train, "train", lambda recipe, folder, **how: real(recipe, folder, **{**how, "steps": 4}))
    code, lines, _ = cli(*fit, "--resume", "--workers", 0, "--json")
    assert code == 0
    found = json.loads(lines[-1])
    assert (found["run"], found["step"], found["tokenizer"]) == (str(run), 4, str(run / "tokenizer"))
    assert min(found["minutes"].values()) >= 0
    assert checkpoint.read_about(run / "tokenizer" / "model.safetensors")["step"] == 4
    # The tokenizer is done with.
    monkeypatch.setattr(train, "train", real)
    before = (run / "tokenizer" / "model.safetensors").read_bytes()
    code, lines, _ = cli(*fit, "--resume", "--steps", 5, "--workers", 0)
    assert code == 0
    assert lines[-1].startswith(f"{run}: 5 steps in ")
    assert f"maskworld value estimate {run} VIDEO" in lines[-1]
    assert (run / "tokenizer" / "model.safetensors").read_bytes() == before
    about = checkpoint.read_about(run / "model.safetensors")
    assert (about["config"]["gammas"], about["policies"], about["step"]) == ([0.5, 0.8], ["bad", "good"], 5)
    found = json.loads(cli("value", "estimate", run, film, "--samples", 2, "--policy", "bad", "--json")[1][-1])
    assert found["gammas"] == [0.5, 0.8]
    assert all(math.isfinite(one["value"]) for one in found["last"]["values"])
    for extra in (("--gammas", ".7"), ("--stack", 3)):
        code, _, errors = cli(*fit, "--resume", *extra)
        assert (code, len(errors)) == (2, 1)
        assert f"was begun with {extra[0]}" in errors[0]


def test_a_tokenizer_that_is_given_is_not_trained(cli, plain, chain_folder, tmp_path) -> None:
    run = tmp_path / "run"
    argv = ("value", "fit", chain_folder, "-o", run, "--tokenizer", plain, "--gammas", ".8", "--td-steps", 0, *SMALL)
    assert cli(*argv, "--steps", 2, "--acts")[0] == 0
    assert not (run / "tokenizer").exists()
    about = checkpoint.read_about(run / "model.safetensors")
    assert about["tokenizer"]["kind"] == "flat"
    assert about["td"]["steps"] is None
    assert about["config"]["actions"] == 1
    assert about["config"]["ends"] is False  # no episode ended for good
    table = json.loads(cli("value", "evaluate", run, chain_folder, "--mc", run, "--samples", 4, "--json")[1][-1])[
        "tables"
    ][0]
    for name, row in table["rows"].items():  # the reward never changes: it is known from the first step on
        assert row["rmse"]["mean"] == pytest.approx(0, abs=1e-4), name


# -- bad input ------------------------------------------------------------------------------------


def test_bad_input(cli, model, plain, tiny_checkpoint, chain_folder, film, tmp_path) -> None:
    far, still, empty = model("far", gammas=(0.8,)), tmp_path / "still.npz", tmp_path / "empty.npz"
    large = model("large", size=32)
    assert cli("value", "estimate", large, chain_folder, "--samples", 2)[0] == 0  # episodes are resized
    np.savez(empty, frames=np.zeros((0, 16, 16, 3), np.uint8), fps=8.0)
    np.savez(still, frames=np.zeros((1, 16, 16, 3), np.uint8), fps=8.0)
    assert cli("value", "estimate", plain, still, "--samples", 2)[0] == 0
    fit = ("fit", chain_folder, "-o", tmp_path / "new")
    cases = [
        (("estimate", plain, film, "--gamma", "1"), "at least 0 and below 1, not 1"),
        (("estimate", plain, film, "--gamma", ".95"), "a discount of 0.95; this model has learnt those from 0 to 0.9"),
        (("estimate", plain, film, "--samples", "0"), "--samples 0: 1 or more"),
        (("estimate", plain, film, "--every", "0"), "--every 0: 1 or more"),
        (("estimate", plain, film, "--policy", "good"), "no such policy; it is told of none"),
        (("estimate", plain, film, "--episode", "1"), "is a video and holds no episodes"),
        (("estimate", plain, chain_folder, "--episode", "6"), "there are episodes 0 to 5"),
        (("estimate", plain, empty), "empty.npz"),
        (("estimate", plain, tmp_path / "none.mp4"), "no such file"),
        (("estimate", tiny_checkpoint, film), "is of the family mcvd: only video occupancy models (voc)"),
        (("evaluate", plain, chain_folder, "--mc", plain), "was not learnt by Monte Carlo"),
        (("evaluate", plain, chain_folder, "--onestep", far), "has not learnt the discount 0"),
        (("evaluate", plain, chain_folder, "--states", "0"), "--states 0: 1 or more"),
        (("evaluate", plain, film), "holds no episodes"),
        (("evaluate", plain, chain_folder, "--mc", tiny_checkpoint), "--mc"),
        ((*fit, "--gammas", "1.5"), "below 1, not 1.5"),
        ((*fit, "--minutes", "0"), "--minutes 0: above 0"),
        ((*fit, "--td-steps", "-1"), "--td-steps -1"),
        ((*fit, "--tokenizer", "vqvea"), "--tokenizer is one of vqvae, fsq, mae, dino, dynamics, or a checkpoint"),
        ((*fit, "--tokenizer", large, "--size", 16), "--size 16: --tokenizer"),
        ((*fit, "--grid", "3"), "a grid of 3 does not fit"),
        ((*fit, "--resume"), "no fit to resume"),
        (("fit", tmp_path, "-o", tmp_path / "new"), "no episodes in"),
        (("fit", chain_folder, "-o", film), "is a file"),
    ]
    for argv, words in cases:
        code, lines, errors = cli("value", *argv)
        assert (code, lines, len(errors)) == (2, [], 1), (argv, errors)
        assert words in errors[0]


def test_hdf5_with_missing_keys(cli, plain, tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "some.hdf5"
    with h5py.File(path, "w") as file:
        file["observation"] = np.zeros((4, 3, 16, 16), np.uint8)
    for argv in (("fit", path, "-o", tmp_path / "new"), ("evaluate", plain, path), ("estimate", plain, path)):
        code, _, errors = cli("value", *argv)
        assert (code, len(errors)) == (2, 1)
        assert "has no action, reward, discount, step_type" in errors[0]
