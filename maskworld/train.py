"""The loop: draw what is known, ask the objective, step. It knows no family and no data set.

Everything of a step follows from the recipe's seed and the step's number, so a training that was stopped and
resumed is, bit for bit, the training that was not (on one machine, with the same number of processes).
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from maskworld import checkpoint
from maskworld.clip import Clip, collate, to
from maskworld.noise import Rng, mix
from maskworld.verbs import Draw, Objective

STATE = "state.safetensors"
METRICS = "metrics.jsonl"
SAVE_SECONDS = 300

Autocast = Callable[[], AbstractContextManager]

# -- recipe ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """All that a training is made of; the functions in `maskworld/recipes` return one.

    about      the family and its configuration, as a checkpoint's header keeps them
    data       index -> one clip, endless; valid the same, held out
    lr, ema    step -> learning rate, step -> how much of the average is kept
    look       (averaged network, folder, step): draws samples to look at, every `look_every` steps
    probes     (averaged network, step) -> numbers that are logged beside the loss, every `probes_every` steps
    """

    about: Mapping[str, Any]
    net: nn.Module
    objective: Objective
    draw: Draw
    data: Callable[[int], Clip]
    valid: Callable[[int], Clip]
    lr: Callable[[int], float]
    ema: Callable[[int], float]
    batch: int = 64
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    look: Callable[[nn.Module, Path, int], None] | None = None
    look_every: int = 2000
    probes: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    probes_every: int = 2000
    valid_every: int = 1000
    valid_clips: int = 128
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("batch", "look_every", "probes_every", "valid_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")


def warm_up(lr: float, steps: int) -> Callable[[int], float]:
    """Linear from 0; MCVD's first step is therefore at rate 0."""
    _check_rate(lr)
    return lambda step: lr * min(step / max(steps, 1), 1.0)


def inverse_sqrt(lr: float, steps: int, reference: int) -> Callable[[int], float]:
    """Warm up, then fall as 1 / sqrt(step) from `reference` on (EDM2, Eq. 67): needs no planned end."""
    _check_rate(lr)
    return lambda step: lr * min((step + 1) / max(steps, 1), 1.0) / math.sqrt(max(step / reference, 1.0))


def _check_rate(lr: float) -> None:
    if not 0 <= lr < math.inf:
        raise ValueError(f"a learning rate is 0 or more, not {lr}")


def constant_ema(rate: float) -> Callable[[int], float]:
    """The same rate from the first step on, as in MCVD (0.999)."""
    return lambda step: rate


def power_ema(width: float) -> Callable[[int], float]:
    """An average over the last `width` share of the training, however long it is (EDM2, Sec. 3.1)."""
    # The power function whose relative standard deviation is `width`: a root of a cubic (EDM2, Algorithm 2).
    low, high = 0.0, 1e4
    for _ in range(100):
        gamma = (low + high) / 2
        sigma = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
        low, high = (gamma, high) if sigma > width else (low, gamma)
    return lambda step: (1 - 1 / (step + 1)) ** (gamma + 1)


# -- data -----------------------------------------------------------------------------------------


class _Batches(Dataset):
    """One item is one batch of one process, given its step: the order of the data is a function of the step."""

    def __init__(self, data: Callable[[int], Clip], batch: int, process: int, processes: int):
        self.data, self.batch, self.process, self.processes = data, batch, process, processes

    def __getitem__(self, step: int) -> Clip | ValueError:
        first = (step * self.processes + self.process) * self.batch
        try:
            return collate([self.data(first + i) for i in range(self.batch)])
        except ValueError as error:
            return ValueError(str(error))  # raised here, it would come out of another process with that one's traceback


class _From:
    """Steps from the one to resume at."""

    def __init__(self, start: int):
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def _loader(recipe: Recipe, start: int, workers: int, accelerator: Accelerator) -> Iterator[Clip]:
    batches = _Batches(recipe.data, recipe.batch, accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=_From(start),  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # video decoders do not survive a fork
    )
    return _checked(iter(loader))


def _checked(batches: Iterator[Clip | ValueError]) -> Iterator[Clip]:
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


# -- the loop -------------------------------------------------------------------------------------


@dataclass
class _State:
    """What a training carries from step to step; `state.safetensors` holds all of it."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    mean: dict[str, Tensor]
    step: int = 0
    sums: dict[str, int | float] = field(default_factory=dict)  # of what is logged, since it last was; and of `steps`
    told: dict[str, int | float] = field(default_factory=dict)  # of what is only reported, of all steps; and of `steps`


def train(
    recipe: Recipe,
    run: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    workers: int = 1,
    precision: Literal["no", "bf16"] = "no",
    quiet: bool = False,
) -> Mapping[str, Any]:
    """Train until `steps` are done in all or `minutes` have passed, and return the last metrics; and of what the
    objective only tells the mean over all steps, where it is not 0.

    Writes `model.safetensors` (averaged weights), `state.safetensors` (everything to resume) and `metrics.jsonl`
    into `run`. Interrupted, it finishes the step, saves, and raises KeyboardInterrupt.
    Raises ValueError for a run that exists and is not to be resumed, or that is of another recipe, for no steps or no
    minutes, and FloatingPointError for a loss that is not finite.
    """
    if steps is None and minutes is None:
        raise ValueError("say how long to train: steps, minutes, or both (the first reached ends it)")
    if (steps is not None and steps < 1) or (minutes is not None and not minutes > 0):
        raise ValueError(f"a training takes a step and some time: {steps} steps and {minutes} minutes are asked for")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device, show = accelerator.device, accelerator.is_main_process
    net = recipe.net.to(device)
    for value in net.parameters():
        if value.ndim == 4:  # of a convolution; what else has more axes stays as it is
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    state = _State(net, optimiser, {name: value.detach().clone() for name, value in net.state_dict().items()})
    if resume:
        _resume(recipe, run, state)
    else:
        _start(run)
    accelerator.wait_for_everyone()
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")
    valid = _valid_batches(recipe) if show else []
    began = saved = time.monotonic()
    row: dict[str, int | float] = {}
    found: dict[str, float] = {}
    bar = tqdm(total=steps, initial=state.step, unit="step", disable=quiet or not show, dynamic_ncols=True)
    with _Interrupt() as stop, bar:
        with stop.unheard():
            batches = _loader(recipe, state.step, workers, accelerator)
        while steps is None or state.step < steps:
            late = minutes is not None and time.monotonic() - began >= minutes * 60
            if _any(stop.asked or late, accelerator):
                break
            _step(recipe, accelerator, state, to(next(batches), device), autocast)
            bar.update()
            if not show:
                continue
            if state.step % recipe.log_every == 0:
                row = _means(recipe, state, began)
                _log(run, row)
                state.sums = {}
                bar.set_postfix_str(_postfix(row["loss"], began, minutes), refresh=False)
            if state.step % recipe.valid_every == 0:
                found = _validate(recipe, state, valid, autocast)
                _log(run, {"step": state.step, **found})
            if recipe.look is not None and state.step % recipe.look_every == 0:
                with _averaged(state), autocast():
                    recipe.look(net, run / "samples", state.step)
            if recipe.probes is not None and state.step % recipe.probes_every == 0:
                with _averaged(state), torch.no_grad(), autocast():
                    probed = recipe.probes(net, state.step)
                _log(run, {"step": state.step, **{f"probes/{name}": value for name, value in probed.items()}})
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(recipe, run, state)
                saved = time.monotonic()
        if show:
            _save(recipe, run, state)
    if stop.asked:
        raise KeyboardInterrupt(f"{state.step} steps are saved in {run}; --resume goes on from there")
    if show and state.step % recipe.valid_every:
        found = _validate(recipe, state, valid, autocast)
        _log(run, {"step": state.step, **found})
    last = {**(_means(recipe, state, began) if state.sums or not row else row), **found}
    told = {name: total / state.told["steps"] for name, total in state.told.items() if name != "steps"}
    return {name: value for name, value in last.items() if name not in told} | {n: x for n, x in told.items() if x}


def _step(recipe: Recipe, accelerator: Accelerator, state: _State, clip: Clip, autocast: Autocast) -> None:
    """Draw what is known, ask the objective, step."""
    b, v, t = clip.frames.shape[:3]
    seed = (recipe.seed, state.step, accelerator.process_index)
    rng = Rng.of(*seed, batch=b)
    torch.manual_seed(mix(*seed) % 2**32)  # dropout draws from the global generator
    for group in state.optimiser.param_groups:
        group["lr"] = recipe.lr(state.step)
    state.net.train()
    with autocast():
        known = recipe.draw(b, v, t, rng).to(clip.frames.device)
        loss = recipe.objective(state.net, clip, known, rng)
    loss.total.mean().backward()
    parameters = [p for p in state.net.parameters() if p.grad is not None]
    if accelerator.num_processes > 1:
        # Not DDP: an objective calls more of its network than `forward`.
        for p in parameters:
            p.grad = accelerator.reduce(p.grad, "mean")  # type: ignore[assignment]
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    state.optimiser.step()
    state.optimiser.zero_grad()
    _average(state.mean, state.net, recipe.ema(state.step))
    terms = {name: value.mean().item() for name, value in loss.terms.items()}
    numbers = {"loss": sum(terms.values()), "grad_norm": norm.item(), **(terms if len(terms) > 1 else {})}
    if not all(map(math.isfinite, numbers.values())):
        raise FloatingPointError(
            f"step {state.step} diverged: its loss is {numbers['loss']}, its gradient {numbers['grad_norm']}; "
            "the last saved state is from before it"
        )
    state.step += 1
    told = {name: value.mean().item() for name, value in loss.told.items()}
    _add(state.sums, {"steps": 1, **numbers, **told})
    _add(state.told, {"steps": 1, **told})


def _add(sums: dict[str, int | float], numbers: Mapping[str, int | float]) -> None:
    for name, value in numbers.items():
        sums[name] = sums.get(name, 0) + value


@torch.no_grad()
def _average(mean: dict[str, Tensor], net: nn.Module, keep: float) -> None:
    now = net.state_dict()
    floats = [name for name, value in mean.items() if value.is_floating_point()]
    torch._foreach_lerp_([mean[n] for n in floats], [now[n] for n in floats], 1 - keep)  # pyright: ignore[reportPrivateImportUsage]
    for name in mean.keys() - set(floats):
        mean[name].copy_(now[name])


@contextmanager
def _averaged(state: _State) -> Iterator[None]:
    """The network with its averaged weights, in eval mode, for the time of a `with`."""
    kept = {name: value.clone() for name, value in state.net.state_dict().items()}
    state.net.load_state_dict(state.mean)
    state.net.eval()
    try:
        yield
    finally:
        state.net.load_state_dict(kept)
        state.net.train()


def _any(flag: bool, accelerator: Accelerator) -> bool:
    """Whether it is so in any process: all leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0  # type: ignore[union-attr]


def _valid_batches(recipe: Recipe) -> list[Clip]:
    indices = range(recipe.valid_clips)
    return [
        collate([recipe.valid(i) for i in indices[start : start + recipe.batch]])
        for start in range(0, recipe.valid_clips, recipe.batch)
    ]


def _validate(recipe: Recipe, state: _State, clips: Sequence[Clip], autocast: Autocast) -> dict[str, float]:
    """The averaged network's loss on the same held-out clips, masks and noise every time."""
    losses, device = [], next(state.net.parameters()).device
    with _averaged(state), torch.no_grad(), autocast():
        for i, clip in enumerate(clips):
            b, v, t = clip.frames.shape[:3]
            rng = Rng.of(recipe.seed, -1, i, batch=b)
            known = recipe.draw(b, v, t, rng).to(device)
            losses.append(recipe.objective(state.net, to(clip, device), known, rng).total)
    return {"valid_loss": torch.cat(losses).mean().item()} if losses else {}


# -- metrics ----------------------------------------------------------------------------------------


def _means(recipe: Recipe, state: _State, began: float) -> dict[str, int | float]:
    """One row: what was summed since the last one, as means over the steps."""
    row = {"step": state.step, "seconds": round(time.monotonic() - began, 2)}
    if state.sums:
        means = {name: total / state.sums["steps"] for name, total in state.sums.items() if name != "steps"}
        row |= {**means, "lr": recipe.lr(state.step - 1)}
    return row


def _log(run: Path, row: Mapping[str, int | float]) -> None:
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _forget_after(path: Path, step: int) -> None:
    """Drop what was logged after the state was saved: those steps will be done again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("}\n")]  # the last one may have been cut short
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")
    os.replace(beside, path)


def _postfix(loss: float, began: float, minutes: float | None) -> str:
    if minutes is None:
        return f"loss {loss:.4g}"
    left = max(minutes - (time.monotonic() - began) / 60, 0)
    return f"loss {loss:.4g}, {left:.0f} min left"


# -- state on disk ----------------------------------------------------------------------------------


def _start(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file; a training needs a folder")
    if (run / STATE).exists() or (run / METRICS).exists():
        raise ValueError(f"{run} already holds a training; --resume continues it, another folder keeps both")
    if (run / checkpoint.MODEL).exists():
        raise ValueError(f"{run} already holds a model, {checkpoint.MODEL}; another folder keeps both")
    run.mkdir(parents=True, exist_ok=True)


def _save(recipe: Recipe, run: Path, state: _State) -> None:
    about = {**recipe.about, "step": state.step, "batch": recipe.batch}
    tensors = {f"net.{name}": value for name, value in state.net.state_dict().items()}
    tensors |= {f"mean.{name}": value for name, value in state.mean.items()}
    for i, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{slot}": value for slot, value in slots.items()}
    checkpoint.write(run / STATE, tensors, {**about, "sums": state.sums, "told": state.told})
    checkpoint.write(run / checkpoint.MODEL, state.mean, about)


def _resume(recipe: Recipe, run: Path, state: _State) -> None:
    if not (run / STATE).exists():
        raise ValueError(f"{run} holds no training to resume: there is no {STATE}")
    tensors, about = checkpoint.read(run / STATE)
    for key in ("family", "config"):
        if json.loads(json.dumps(recipe.about[key])) != about[key]:
            raise ValueError(f"{run} was trained with another {key}: {about[key]}, not {recipe.about[key]}")
    if about["batch"] != recipe.batch:
        raise ValueError(f"{run} was trained with batches of {about['batch']}, not {recipe.batch}")
    state.net.load_state_dict(_part(tensors, "net."))
    for name, value in _part(tensors, "mean.").items():
        state.mean[name].copy_(value)
    parameters = list(state.net.parameters())
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimiser.").items():
        i, slot = name.split(".")
        # A fused step walks through memory: the moments must lie there as their parameter does.
        like = parameters[int(i)]
        slots.setdefault(int(i), {})[slot] = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": slots, "param_groups": groups})
    state.step, state.sums, state.told = about["step"], about.get("sums", {}), about.get("told", {})
    _forget_after(run / METRICS, state.step)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# -- interruption -----------------------------------------------------------------------------------


class _Interrupt:
    """Ctrl-C (or SIGTERM) asks the loop to stop after its step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses, and never delivers
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Processes that are started here never hear Ctrl-C, which a terminal sends to all: they end with the loop."""
        ours = signal.SIGINT in self.before
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, self._ask)
