"""The loop: draw what is known, ask the objective, step. It knows no family and no data set.

Everything of a step follows from the recipe's seed and the step's number, so a training that was stopped and
resumed is, bit for bit, the training that was not (on one machine, with the same number of processes).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from maskworld import checkpoint
from maskworld.clip import Clip, collate, to
from maskworld.noise import Rng, mix
from maskworld.verbs import Draw, Objective

STATE = "state.safetensors"
METRICS = "metrics.jsonl"

# -- recipe ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """All that a training is made of; the functions in `maskworld/recipes` return one.

    about      the family and its configuration, as a checkpoint's header keeps them
    data       index -> one clip, endless; valid the same, held out
    lr, ema    step -> learning rate, step -> how much of the average is kept
    look       (averaged network, folder, step): draws samples to look at, every `look_every` steps
    probes     (averaged network, step) -> numbers that are logged beside the loss
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
    valid_every: int = 1000
    valid_clips: int = 128
    log_every: int = 20


def warm_up(lr: float, steps: int) -> Callable[[int], float]:
    """Linear from 0; MCVD's first step is therefore at rate 0."""
    return lambda step: lr * min(step / max(steps, 1), 1.0)


def inverse_sqrt(lr: float, steps: int, reference: int) -> Callable[[int], float]:
    """Warm up, then fall as 1 / sqrt(step) from `reference` on (EDM2, Eq. 67): needs no planned end."""
    return lambda step: lr * min((step + 1) / max(steps, 1), 1.0) / math.sqrt(max(step / reference, 1.0))


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

    def __getitem__(self, step: int) -> Clip:
        first = (step * self.processes + self.process) * self.batch
        return collate([self.data(first + i) for i in range(self.batch)])


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
    return iter(loader)


# -- the loop -------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    run: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    workers: int = 1,
    precision: str = "no",
    quiet: bool = False,
) -> Mapping[str, Any]:
    """Train until `steps` are done in all or `minutes` have passed, and return the last metrics.

    Writes `model.safetensors` (averaged weights), `state.safetensors` (everything to resume) and `metrics.jsonl`
    into `run`. Interrupted, it finishes the step, saves, and raises KeyboardInterrupt.
    Raises ValueError for a run that exists and is not to be resumed, or that is of another recipe, and
    FloatingPointError for a loss that is not finite.
    """
    if steps is None and minutes is None:
        raise ValueError("say how long to train: steps, minutes, or both (the first reached ends it)")
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    net = recipe.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=0.0, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    mean = {name: value.detach().clone() for name, value in net.state_dict().items()}
    step = _resume(recipe, run, net, optimiser, mean) if resume else _start(run)
    model, optimiser = accelerator.prepare(net, optimiser)
    mean = {name: value.to(accelerator.device) for name, value in mean.items()}
    valid = _valid_batches(recipe)
    began, saved, logged = time.monotonic(), time.monotonic(), None
    stop = _Interrupt()
    show = accelerator.is_main_process
    progress = tqdm(total=steps, initial=step, unit="step", disable=quiet or not show, dynamic_ncols=True)
    sums: dict[str, float] = {}
    batches = _loader(recipe, step, workers, accelerator)
    last: dict[str, Any] = {"step": step}
    with stop:
        while not stop.asked and (steps is None or step < steps):
            if minutes is not None and time.monotonic() - began >= minutes * 60:
                break
            clip = to(next(batches), accelerator.device)
            terms = _step(recipe, accelerator, model, optimiser, clip, step)
            _average(mean, net, recipe.ema(step))
            step += 1
            progress.update()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            every = step - (logged or 0) if logged is not None else step
            if step % recipe.log_every == 0 and show:
                shown = {name: total / max(min(every, recipe.log_every), 1) for name, total in sums.items()}
                sums, logged = {}, step
                last = {"step": step, "seconds": round(time.monotonic() - began, 2), **shown}
                last["lr"] = recipe.lr(step - 1)
                _log(run, last)
                progress.set_postfix_str(_postfix(shown["loss"], began, minutes), refresh=False)
            if step % recipe.valid_every == 0 and show:
                last |= _validate(recipe, net, mean, valid, step)
                _log(
                    run,
                    {
                        key: value
                        for key, value in last.items()
                        if key == "step" or "valid" in key or "/" in key
                    },
                )
            if recipe.look is not None and step % recipe.look_every == 0 and show:
                with _averaged(net, mean):
                    recipe.look(net, run / "samples", step)
            if time.monotonic() - saved > 300 and show:
                _save(recipe, run, net, optimiser, mean, step, began)
                saved = time.monotonic()
    progress.close()
    if show:
        _save(recipe, run, net, optimiser, mean, step, began)
    if stop.asked:
        raise KeyboardInterrupt
    if show and step % recipe.valid_every:
        last |= _validate(recipe, net, mean, valid, step)
        _log(
            run, {key: value for key, value in last.items() if key == "step" or "valid" in key or "/" in key}
        )
    return last


def _step(
    recipe: Recipe, accelerator: Accelerator, model, optimiser, clip: Clip, step: int
) -> dict[str, float]:
    """Draw what is known, ask the objective, step."""
    b, v, t = clip.frames.shape[:3]
    seed = (recipe.seed, step, accelerator.process_index)
    rng = Rng.of(*seed, batch=b)
    set_seed(mix(*seed) % 2**32)  # dropout draws from the global generator
    for group in optimiser.param_groups:
        group["lr"] = recipe.lr(step)
    model.train()
    with accelerator.autocast():
        known = recipe.draw(b, v, t, rng).to(clip.frames.device)
        loss = recipe.objective(model, clip, known, rng)
    accelerator.backward(loss.total.mean())
    norm = accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimiser.step()
    optimiser.zero_grad()
    terms = {name: value.mean().item() for name, value in loss.terms.items()}
    total = sum(terms.values())
    if not math.isfinite(total):
        raise FloatingPointError(
            f"the loss of step {step} is {total}; the last saved state is from before it"
        )
    return {"loss": total, "grad_norm": float(norm), **(terms if len(terms) > 1 else {})}


@torch.no_grad()
def _average(mean: dict[str, Tensor], net: nn.Module, keep: float) -> None:
    now = net.state_dict()
    floats = [name for name, value in mean.items() if value.is_floating_point()]
    torch._foreach_lerp_([mean[n] for n in floats], [now[n] for n in floats], 1 - keep)
    for name in mean.keys() - set(floats):
        mean[name].copy_(now[name])


class _averaged:
    """The network with its averaged weights, in eval mode, for the time of a `with`."""

    def __init__(self, net: nn.Module, mean: Mapping[str, Tensor]):
        self.net, self.mean = net, mean

    def __enter__(self) -> nn.Module:
        self.kept = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.net.load_state_dict(self.mean)
        return self.net.eval()

    def __exit__(self, *_: object) -> None:
        self.net.load_state_dict(self.kept)
        self.net.train()


def _valid_batches(recipe: Recipe) -> list[Clip]:
    indices = range(recipe.valid_clips)
    return [
        collate([recipe.valid(i) for i in indices[start : start + recipe.batch]])
        for start in range(0, recipe.valid_clips, recipe.batch)
    ]


def _validate(
    recipe: Recipe, net: nn.Module, mean: Mapping[str, Tensor], clips: Sequence[Clip], step: int
) -> dict[str, float]:
    """The averaged network's loss on the same held-out clips, masks and noise every time; and the probes."""
    losses, device = [], next(net.parameters()).device
    with _averaged(net, mean), torch.no_grad():
        for i, clip in enumerate(clips):
            b, v, t = clip.frames.shape[:3]
            rng = Rng.of(recipe.seed, -1, i, batch=b)
            known = recipe.draw(b, v, t, rng).to(device)
            losses.append(recipe.objective(net, to(clip, device), known, rng).total)
        found = dict(recipe.probes(net, step)) if recipe.probes is not None else {}
    valid = {"valid_loss": torch.cat(losses).mean().item()} if losses else {}
    return valid | {f"probes/{name}": value for name, value in found.items()}


# -- state on disk ----------------------------------------------------------------------------------


def _start(run: Path) -> int:
    if (run / STATE).exists() or (run / METRICS).exists():
        raise ValueError(f"{run} already holds a training; --resume continues it, another folder keeps both")
    run.mkdir(parents=True, exist_ok=True)
    return 0


def _save(recipe, run, net, optimiser, mean, step: int, began: float) -> None:
    about = {**recipe.about, "step": step, "batch": recipe.batch}
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    state |= {f"mean.{name}": value for name, value in mean.items()}
    for i, slots in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{i}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    checkpoint.write(run / STATE, state, about)
    checkpoint.write(run / checkpoint.MODEL, mean, about)


def _resume(recipe: Recipe, run: Path, net: nn.Module, optimiser, mean: dict[str, Tensor]) -> int:
    if not (run / STATE).exists():
        raise ValueError(f"{run} holds no training to resume: there is no {STATE}")
    state, about = checkpoint.read(run / STATE)
    for key in ("family", "config"):
        if json.loads(json.dumps(recipe.about[key])) != about[key]:
            raise ValueError(f"{run} was trained with another {key}: {about[key]}, not {recipe.about[key]}")
    if about["batch"] != recipe.batch:
        raise ValueError(f"{run} was trained with batches of {about['batch']}, not {recipe.batch}")
    net.load_state_dict(_part(state, "net."))
    for name, value in _part(state, "mean.").items():
        mean[name].copy_(value)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(state, "optimiser.").items():
        i, slot = name.split(".")
        slots.setdefault(int(i), {})[slot] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    _forget_after(run / METRICS, about["step"])
    return about["step"]


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _log(run: Path, row: Mapping[str, Any]) -> None:
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _forget_after(path: Path, step: int) -> None:
    """Drop what was logged after the state was saved: those steps will be done again."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(row + "\n" for row in rows))


def _postfix(loss: float, began: float, minutes: float | None) -> str:
    if minutes is None:
        return f"loss {loss:.4g}"
    left = max(minutes - (time.monotonic() - began) / 60, 0)
    return f"loss {loss:.4g}, {left:.0f} min left"


class _Interrupt:
    """Ctrl-C (or SIGTERM) asks the loop to stop after its step; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupt:
        self.before: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        except ValueError:
            pass  # not in the main thread: signals go elsewhere
        return self

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
