"""The loop: a function of the recipe and the step, whether or not it was interrupted, watched or helped."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskworld import checkpoint, masks, train
from maskworld.clip import Clip, of_frames
from maskworld.data.digits import MovingDigits
from maskworld.noise import Rng
from maskworld.papers import mcvd
from maskworld.train import METRICS, STATE, Recipe
from maskworld.verbs import Loss

# -- something to train -----------------------------------------------------------------------------


class Next(nn.Module):
    """Guesses a frame from the one before: the loop knows no family, so neither do most of these tests."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def next_frame(net: nn.Module, clip: Clip, known: Tensor, rng: Rng) -> Loss:
    noise = 0.1 * rng.normal((1, *clip.shape[-2:]))
    error = (net(clip.frames[:, 0, 0] + noise) - clip.frames[:, 0, 1]) ** 2
    return Loss({"error": error.flatten(1).mean(1), "half": 0.5 * error.flatten(1).mean(1)})


def flat(index: int) -> Clip:
    """Three frames of one random brightness."""
    rng = torch.Generator().manual_seed(index)
    return of_frames((torch.rand(1, 1, 1, 1, 1, 1, generator=rng) * 2 - 1).repeat(1, 1, 3, 1, 8, 8))


def simple(dropout: float = 0.0, **changes) -> Recipe:
    torch.manual_seed(0)
    recipe = Recipe(
        about={"family": "next", "config": {"sides": (1, 2)}, "data": {"name": "flat"}},
        net=Next(dropout),
        objective=next_frame,
        draw=masks.mcvd(1, 2, 0, 0.0, 0.0),
        data=flat,
        valid=lambda i: flat(-1 - i),
        lr=train.warm_up(1e-2, 10),
        ema=train.constant_ema(0.9),
        batch=4,
        valid_clips=6,
        valid_every=4,
        log_every=3,
    )
    return dataclasses.replace(recipe, **changes)


def with_mcvd(config: mcvd.Config | None = None, **changes) -> Recipe:
    torch.manual_seed(0)
    config = config or mcvd.tiny()
    sides = (config.past, config.current, config.future)
    return simple(
        about={"family": "mcvd", "config": dataclasses.asdict(config)},
        net=mcvd.MCVD(config),
        objective=mcvd.objective,
        draw=masks.mcvd(*sides, 0.5, 0.5),
        data=grey,
        valid=grey,
        **changes,
    )


def grey(index: int) -> Clip:
    """Six frames of one random brightness, of the size of mcvd.tiny()."""
    rng = torch.Generator().manual_seed(index)
    return of_frames((torch.rand(1, 1, 1, 1, 1, 1, generator=rng) * 2 - 1).repeat(1, 1, 6, 1, 16, 16))


def run(recipe: Recipe, folder: Path, steps: int, **options) -> dict:
    return dict(train.train(recipe, folder, steps=steps, workers=options.pop("workers", 0), quiet=True, **options))


def tensors(folder: Path, name: str = STATE) -> dict[str, Tensor]:
    return checkpoint.read(folder / name)[0]


def rows(folder: Path, seconds: bool = False) -> list[dict]:
    found = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in row.items() if seconds or key != "seconds"} for row in found]


def assert_same(left: Path, right: Path) -> None:
    a, b = tensors(left), tensors(right)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, first {different[:3]}"
    means = tensors(left, checkpoint.MODEL), tensors(right, checkpoint.MODEL)
    assert all(torch.equal(means[0][name], means[1][name]) for name in means[0])


# -- it learns ----------------------------------------------------------------------------------------


def test_mcvd_learns_flat_frames(tmp_path):
    recipe = with_mcvd(lr=train.warm_up(1e-2, 5), log_every=8, valid_clips=0, batch=8)
    run(recipe, tmp_path / "run", 24)
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_gets_a_gradient():
    recipe = with_mcvd(mcvd.tiny(spatin=8))
    for parameter in recipe.net.parameters():  # what starts at zero holds back the gradients before it
        parameter.data += 0.1
    clip, rng = grey(0), Rng.of(0)
    recipe.objective(recipe.net, clip, masks.past_and_future(2, 2, 2), rng).total.mean().backward()
    assert [name for name, p in recipe.net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_clip_norm_bounds_a_step_and_the_norm_before_it_is_logged(tmp_path):
    kept = simple(log_every=1, betas=(0.0, 0.0))
    last = run(dataclasses.replace(kept, clip_norm=1e-12, lr=lambda step: 1.0), tmp_path / "run", 1)
    # Adam's step is g / (|g| + 1e-8): as large as the rate, unless g was cut to far less than 1e-8.
    moved = [(a - b).abs().max() for a, b in zip(kept.net.parameters(), simple().net.parameters(), strict=True)]
    assert 0 < max(moved) < 1e-3 < last["grad_norm"]


# -- a function of the step -----------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [4, 5, 8])
def test_resumed_is_never_stopped(tmp_path, stop):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    run(simple(dropout=0.3), straight, 10)
    run(simple(dropout=0.3), parts, stop)
    run(simple(dropout=0.3), parts, 10, resume=True)
    assert_same(straight, parts)
    extra = [{"step": stop, "valid_loss": pytest.approx(0, abs=9)}] if stop % 4 else []  # the one at its end
    expected = sorted(rows(straight) + extra, key=lambda row: row["step"])
    assert rows(parts) == expected


def test_resumed_is_never_stopped_for_mcvd(tmp_path):
    # Convolutions in channels-last memory: Adam's moments must come back as they lay.
    recipes = [with_mcvd(mcvd.tiny(dropout=0.2), valid_clips=2) for _ in range(3)]
    run(recipes[0], tmp_path / "straight", 4)
    run(recipes[1], tmp_path / "parts", 2)
    run(recipes[2], tmp_path / "parts", 4, resume=True)
    assert_same(tmp_path / "straight", tmp_path / "parts")


def test_resuming_what_is_done_changes_nothing(tmp_path):
    run(simple(), tmp_path / "run", 4)
    before = tensors(tmp_path / "run"), rows(tmp_path / "run")
    last = run(simple(), tmp_path / "run", 4, resume=True)
    assert last["step"] == 4
    assert rows(tmp_path / "run") == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in tensors(tmp_path / "run").items())


def test_workers_change_nothing(tmp_path):
    def digits() -> Recipe:
        source = MovingDigits("train", 3, 64, 1, 0)
        return simple(dropout=0.3, data=source, valid_clips=0)

    run(digits(), tmp_path / "none", 3)
    run(digits(), tmp_path / "one", 3, workers=1)
    assert_same(tmp_path / "none", tmp_path / "one")


def test_validation_and_looking_do_not_disturb(tmp_path):
    def look(net: nn.Module, folder: Path, step: int) -> None:
        assert not net.training
        torch.rand(3)
        looked.append((folder.name, step, next(net.parameters()).clone()))

    looked: list = []
    run(simple(dropout=0.3, valid_every=100, valid_clips=0), tmp_path / "blind", 5)
    probes = lambda net, step: {"weight": float(next(net.parameters()).sum())}
    watched = simple(dropout=0.3, valid_every=1, look=look, look_every=2, probes=probes, probes_every=2)
    run(watched, tmp_path / "watched", 5)
    assert_same(tmp_path / "blind", tmp_path / "watched")
    assert [step for _, step, _ in looked] == [2, 4]
    assert looked[0][0] == "samples"
    found = [(row["step"], row["probes/weight"]) for row in rows(tmp_path / "watched") if "probes/weight" in row]
    assert [step for step, _ in found] == [2, 4]
    assert found[0][1] == pytest.approx(looked[0][2].sum().item())  # both saw the averaged network
    assert watched.net.training


def test_data_come_in_the_order_of_the_step(tmp_path):
    asked: list[int] = []

    def data(index: int) -> Clip:
        asked.append(index)
        return flat(index)

    run(simple(data=data), tmp_path / "run", 2)
    assert asked == list(range(8))
    asked.clear()
    run(simple(data=data), tmp_path / "run", 3, resume=True)
    assert asked == [8, 9, 10, 11]


def test_another_seed_draws_other_noise(tmp_path):
    first, second = run(simple(), tmp_path / "a", 3), run(simple(seed=1), tmp_path / "b", 3)
    assert first["loss"] != second["loss"]


@pytest.mark.slow
def test_two_processes_take_the_mean_of_their_gradients(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "import torch, test_train as t\n"
        "torch.set_num_threads(1)\n"
        "def plain(net, clip, known, rng): return t.Loss({'e': net(clip.frames[:, 0, 0]).flatten(1).abs().mean(1)})\n"
        "batch = int(sys.argv[3])\n"
        "t.run(t.simple(objective=plain, batch=batch, valid_clips=0), Path(sys.argv[2]), 4)\n"
        "if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()\n"
    )
    here = str(Path(__file__).parent)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for count, batch in ((2, 2), (1, 4)):
        command = [*launch, str(count), str(script), here, str(tmp_path / str(count)), str(batch)]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    one, two = tensors(tmp_path / "1", checkpoint.MODEL), tensors(tmp_path / "2", checkpoint.MODEL)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-5)


# -- metrics ----------------------------------------------------------------------------------------------


def test_rows_are_finite_in_order_and_means_over_their_steps(tmp_path):
    last = run(simple(), tmp_path / "means", 7)
    run(simple(log_every=1), tmp_path / "each", 7)
    found = rows(tmp_path / "means", seconds=True)
    assert [row["step"] for row in found] == [3, 4, 6, 7]
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert [set(row) for row in found[:2]] == [
        {"step", "seconds", "loss", "error", "half", "grad_norm", "lr"},
        {"step", "valid_loss"},
    ]
    each = [row["loss"] for row in rows(tmp_path / "each") if "loss" in row]
    assert found[0]["loss"] == pytest.approx(sum(each[:3]) / 3)
    assert found[2]["loss"] == pytest.approx(sum(each[3:6]) / 3)
    assert found[0]["loss"] == pytest.approx(found[0]["error"] + found[0]["half"])
    assert last["loss"] == pytest.approx(each[6])
    assert last["step"] == 7
    assert last["valid_loss"] == found[-1]["valid_loss"]
    assert found[0]["lr"] == train.warm_up(1e-2, 10)(2)


def test_the_validation_loss_is_that_of_the_averaged_network(tmp_path):
    recipe = simple()
    last = run(recipe, tmp_path / "run", 4)
    recipe.net.load_state_dict(tensors(tmp_path / "run", checkpoint.MODEL))
    total = []
    for i, indices in enumerate([range(4), range(4, 6)]):
        clip = of_frames(torch.cat([recipe.valid(n).frames for n in indices]))
        rng = Rng.of(0, -1, i, batch=len(indices))
        known = recipe.draw(len(indices), 1, 3, rng)
        total += recipe.objective(recipe.net.eval(), clip, known, rng).total.tolist()
    assert last["valid_loss"] == pytest.approx(sum(total) / 6)


def test_a_metrics_file_cut_short_or_ahead_of_the_state_is_mended(tmp_path):
    run(simple(), tmp_path / "run", 4)
    before = rows(tmp_path / "run")
    with open(tmp_path / "run" / METRICS, "a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    run(simple(), tmp_path / "run", 4, resume=True)
    assert rows(tmp_path / "run") == before


# -- averages and rates -----------------------------------------------------------------------------------


def profile(keep, steps: int) -> Tensor:
    """How much each step's weights count in the average after `steps` steps."""
    weights = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        weights *= keep(step)
        weights[step] += 1 - keep(step)
    return weights


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_power_average_is_as_wide_as_asked(width):
    steps = 4000
    weights = profile(train.power_ema(width), steps)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    time = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    mean = (weights * time).sum()
    assert ((weights * (time - mean) ** 2).sum().sqrt()).item() == pytest.approx(width, rel=5e-3)
    assert weights.diff().min() >= 0


def test_the_power_average_is_the_same_shape_at_every_length():
    keep = train.power_ema(0.1)
    short, long = profile(keep, 100), profile(keep, 1000)
    torch.testing.assert_close(short, long.view(100, 10).sum(1), atol=2e-3, rtol=0)


def test_the_constant_average_forgets_by_its_rate():
    weights = profile(train.constant_ema(0.9), 50)
    torch.testing.assert_close(weights, 0.1 * 0.9 ** torch.arange(49, -1, -1, dtype=torch.float64))


def test_the_average_takes_the_first_weights_whole_or_keeps_its_share(tmp_path):
    start = simple().net.state_dict()
    for name, ema, share in (("power", train.power_ema(0.1), 0.0), ("constant", train.constant_ema(0.75), 0.75)):
        run(simple(ema=ema, lr=lambda step: 1e-2), tmp_path / name, 1)
        state = tensors(tmp_path / name)
        for key, first in start.items():
            expected = share * first + (1 - share) * state[f"net.{key}"]
            torch.testing.assert_close(state[f"mean.{key}"], expected)
            assert not torch.equal(first, state[f"net.{key}"])
        assert all(torch.equal(state[f"mean.{key}"], state[f"net.{key}"]) for key in start) == (share == 0)


def test_the_model_is_the_average(tmp_path):
    run(simple(), tmp_path / "run", 2)
    state, model = tensors(tmp_path / "run"), tensors(tmp_path / "run", checkpoint.MODEL)
    assert all(torch.equal(value, state[f"mean.{name}"]) for name, value in model.items())
    about = checkpoint.read_about(tmp_path / "run" / checkpoint.MODEL)
    assert about == {
        "family": "next",
        "config": {"sides": [1, 2]},
        "data": {"name": "flat"},
        "step": 2,
        "batch": 4,
    }


def test_rates():
    rate = train.warm_up(0.5, 10)
    assert [rate(step) for step in (0, 5, 10, 999)] == [0, 0.25, 0.5, 0.5]
    assert train.warm_up(0.5, 0)(0) == 0 and train.warm_up(0.5, 0)(1) == 0.5
    rate = train.inverse_sqrt(0.5, 10, 100)
    assert [rate(step) for step in (0, 4, 9, 50, 100)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.5])
    assert rate(400) == pytest.approx(0.25)
    assert rate(10000) == pytest.approx(0.05)


def test_the_rate_is_that_of_the_step(tmp_path):
    asked: list[int] = []

    def lr(step: int) -> float:
        asked.append(step)
        return 0.0

    recipe = simple(lr=lr, log_every=100)
    before = {name: value.clone() for name, value in recipe.net.state_dict().items()}
    run(recipe, tmp_path / "run", 3)
    assert asked[:3] == [0, 1, 2]
    assert all(torch.equal(value, before[name]) for name, value in recipe.net.state_dict().items())


# -- what is refused, and what survives ---------------------------------------------------------------------


def test_a_training_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="how long"):
        train.train(simple(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("length", [{"steps": 0}, {"minutes": 0.0}, {"minutes": -1.0}, {"steps": 5, "minutes": 0.0}])
def test_a_training_without_a_step_is_refused(tmp_path, length):
    with pytest.raises(ValueError, match="takes a step"):
        train.train(simple(), tmp_path / "run", **length)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_climbs_is_refused(lr):
    for schedule in (train.warm_up(0.1, 10), train.inverse_sqrt(0.1, 10, 100)):
        assert schedule(5) > 0
    with pytest.raises(ValueError, match="learning rate"):
        train.warm_up(lr, 10)
    with pytest.raises(ValueError, match="learning rate"):
        train.inverse_sqrt(lr, 10, 100)


def test_minutes_end_it_and_leave_a_state(tmp_path):
    last = train.train(simple(valid_clips=0), tmp_path / "run", minutes=0.001, workers=0, quiet=True)
    assert last["step"] == checkpoint.read_about(tmp_path / "run" / STATE)["step"]


def test_a_run_is_not_overwritten(tmp_path):
    run(simple(), tmp_path / "run", 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="already holds a training; --resume"):
        run(simple(), tmp_path / "run", 2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / checkpoint.MODEL).write_text("mine")
    with pytest.raises(ValueError, match="already holds a model"):
        run(simple(), tmp_path / "model", 1)
    assert (tmp_path / "model" / checkpoint.MODEL).read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        run(simple(), tmp_path / "file", 1)
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match="no training to resume"):
        run(simple(), tmp_path / "run", 1, resume=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"about": {"family": "other", "config": {"sides": (1, 2)}}}, "another family"),
        ({"about": {"family": "next", "config": {"sides": (1, 3)}}}, "another config"),
        ({"batch": 2}, "batches of 4, not 2"),
    ],
)
def test_another_recipe_is_not_resumed(tmp_path, changes, says):
    run(simple(), tmp_path / "run", 1)
    before = (tmp_path / "run" / STATE).read_bytes()
    with pytest.raises(ValueError, match=says):
        run(simple(**changes), tmp_path / "run", 2, resume=True)
    assert (tmp_path / "run" / STATE).read_bytes() == before


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_ends_it_and_the_state_stays(tmp_path, bad):
    run(simple(), tmp_path / "run", 3)
    before = (tmp_path / "run" / STATE).read_bytes(), rows(tmp_path / "run")

    def objective(net: nn.Module, clip: Clip, known: Tensor, rng: Rng) -> Loss:
        loss = next_frame(net, clip, known, rng)
        weight = next(net.parameters()).flatten()[0]
        at_zero = (weight * 0).sqrt()  # 0, of infinite slope
        return Loss({"error": loss.terms["error"] + (math.nan if bad == "loss" else at_zero)})

    with pytest.raises(FloatingPointError, match="step 3 diverged"):
        run(simple(objective=objective), tmp_path / "run", 9, resume=True)
    assert ((tmp_path / "run" / STATE).read_bytes(), rows(tmp_path / "run")) == before


def test_it_is_saved_along_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_SECONDS", 0)

    def look(net: nn.Module, folder: Path, step: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError):
        run(simple(look=look, look_every=3), tmp_path / "run", 9)
    assert checkpoint.read_about(tmp_path / "run" / STATE)["step"] == 2


def interrupting(at: int):
    """Data that press Ctrl-C when the clip `at` is asked for."""

    def data(index: int) -> Clip:
        if index == at:
            signal.raise_signal(signal.SIGINT)
        return flat(index)

    return data


def test_an_interrupt_ends_after_the_step_and_can_be_resumed(tmp_path):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="3 steps are saved"):
        run(simple(data=interrupting(9)), tmp_path / "parts", 10)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert checkpoint.read_about(tmp_path / "parts" / STATE)["step"] == 3
    run(simple(), tmp_path / "parts", 10, resume=True)
    run(simple(), tmp_path / "straight", 10)
    assert_same(tmp_path / "straight", tmp_path / "parts")
    assert rows(tmp_path / "straight") == rows(tmp_path / "parts")


def test_a_second_interrupt_ends_at_once(tmp_path):
    def data(index: int) -> Clip:
        if index == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return flat(index)

    with pytest.raises(KeyboardInterrupt):
        run(simple(data=data), tmp_path / "run", 10)
    assert not (tmp_path / "run" / STATE).exists()


def test_it_trains_in_another_thread(tmp_path):
    done: list[dict] = []
    thread = threading.Thread(target=lambda: done.append(run(simple(), tmp_path / "thread", 4)))
    thread.start()
    thread.join()
    assert done[0]["step"] == 4
    run(simple(), tmp_path / "main", 4)
    assert_same(tmp_path / "thread", tmp_path / "main")


def test_precision_is_the_argument_of_each_training(tmp_path):
    types: list[torch.dtype] = []

    def objective(net: nn.Module, clip: Clip, known: Tensor, rng: Rng) -> Loss:
        types.append(net(clip.frames[:, 0, 0]).dtype)
        return next_frame(net, clip, known, rng)

    recipe = simple(objective=objective, valid_clips=2)
    for precision, expected in (("bf16", torch.bfloat16), ("no", torch.float32)):
        types.clear()
        run(recipe, tmp_path / precision, 1, precision=precision)
        assert types == [expected] * 2  # a step and a validation
        assert all(value.dtype == torch.float32 for value in tensors(tmp_path / precision).values())
