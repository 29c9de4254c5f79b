"""`maskworld value`: fit a video occupancy model to episodes, estimate values along a video, hold them against returns.

Sections: fitting - what is watched - estimating - evaluating.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from tqdm import tqdm

from maskworld import returns, train
from maskworld.__main__ import Drawn, Fitting
from maskworld.clip import to_uint8
from maskworld.commands.doctor import fast_precision, use_threads
from maskworld.data import episodes as episodes_
from maskworld.data import video as video_
from maskworld.data.episodes import Episode, Episodes
from maskworld.noise import Rng
from maskworld.papers import voc
from maskworld.report.film import write_whole
from maskworld.report.value import Along, Moment, Told, value_page
from maskworld.report.value import Drawn as Draw
from maskworld.returns import Subject
from maskworld.world import World, load, load_codes

# -- fitting --------------------------------------------------------------------------------------

FIT = "fit.json"
TOKENIZER = "tokenizer"
LONGEST_TOKENIZER = 10.0  # minutes


def fit_command(
    data: Path,
    out: Path,
    fitting: Fitting,
    minutes: float,
    steps: int | None,
    resume: bool,
    workers: int,
    threads: int | None,
    json: bool,
) -> int:
    """Train a tokenizer, unless one is given, then the model; what was interrupted goes on with `resume`."""
    if not (math.isfinite(minutes) and minutes > 0):
        raise ValueError(f"--minutes {minutes:g}: above 0")
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: 1 or more")
    use_threads(threads)
    config, td = _network(fitting)
    found = episodes_.read(data)
    _check_told(fitting, found)
    if fitting.tokenizer not in _kinds():
        _check_reads(fitting, found)
    of = {"name": found.name, "episodes": len(found), "frames": sum(found.lengths)}
    fit = _resumed(out, fitting, of) if resume else _begun(out, fitting, of)
    if resume:
        config, td = _network(fit.fitting)
    how: dict[str, Any] = {"workers": workers, "precision": _precision(), "quiet": json and not sys.stderr.isatty()}
    tokenizer = fit.fitting.tokenizer
    if tokenizer in _kinds():
        tokenizer = str(out / TOKENIZER)
        if not fit.done:
            with fit.timed(TOKENIZER):
                share = min(minutes / 4, LONGEST_TOKENIZER)
                left = max(share - fit.spent[TOKENIZER] / 60, 0.0)
                recipe = _tokenizer_recipe(data, fit.fitting)
                fit.save()
                train.train(recipe, out / TOKENIZER, minutes=left, resume=_half_done(out / TOKENIZER), **how)
                fit.done = True
    with fit.timed("occupancy"):
        began, again = time.monotonic(), _half_done(out)
        recipe = _occupancy_recipe(data, tokenizer, config, td, fit.fitting)
        # Turning many frames into codes takes its time; half of all is the model's, whatever that was.
        left = minutes - sum(fit.spent.values()) / 60 - (time.monotonic() - began) / 60
        left = max(left, 0.0 if again else minutes / 2)
        fit.save()
        last = train.train(recipe, out, steps=steps, minutes=left, resume=again, **how)
    numbers = {name: value for name, value in last.items() if isinstance(value, int | float)}
    spent = {name: round(seconds / 60, 2) for name, seconds in fit.spent.items()}
    if json:
        report = {"command": "value fit", "run": str(out), "tokenizer": tokenizer, "minutes": spent, **numbers}
        print(json_.dumps(report))
        return 0
    loss = f", held-out loss {numbers['valid_loss']:.4g}" if "valid_loss" in numbers else ""
    print(
        f"{out}: {numbers['step']} steps in {sum(spent.values()):.3g} minutes{loss}; "
        f"now `maskworld value estimate {out} VIDEO` or `maskworld value evaluate {out} {data}`"
    )
    return 0


def _network(fitting: Fitting) -> tuple[voc.Config, voc.TD]:
    """Refuses what makes no network, before anything is trained."""
    config = voc.Config(
        stack=fitting.stack, dim=fitting.dim, depth=fitting.depth, heads=fitting.heads, gammas=fitting.gammas,
        reward_bins=fitting.reward_bins,
    )  # fmt: skip
    if fitting.td_steps < 0:
        raise ValueError(f"--td-steps {fitting.td_steps}: 1 or more real steps, or 0 for all there are")
    return config, voc.TD(steps=fitting.td_steps or None)


def _kinds() -> tuple[str, ...]:
    from maskworld.recipes.tokenizer import Kind

    return get_args(Kind)


def _check_told(fitting: Fitting, found: Episodes) -> None:
    if fitting.acts and not found.actions:
        raise ValueError(f"--acts: the episodes of {found.name} have no actions")
    if fitting.policies and len(found.policies) < 2:
        raise ValueError(f"--policies: all episodes of {found.name} are of one policy")
    if fitting.tokenizer == "dynamics" and not found.actions:
        raise ValueError(f"--tokenizer dynamics learns from actions, and the episodes of {found.name} have none")


def _check_reads(fitting: Fitting, found: Episodes) -> None:
    tokenizer = fitting.tokenizer
    try:
        net = load_codes(tokenizer)[0]
    except ValueError as error:
        raise ValueError(f"--tokenizer is one of {', '.join(_kinds())}, or a checkpoint of one: {error}") from None
    if fitting.size not in (None, net.size):
        raise ValueError(f"--size {fitting.size}: --tokenizer {tokenizer} reads frames of {net.size}x{net.size}")
    if found.at(net.size).shape[2] != net.channels:
        raise ValueError(
            f"--tokenizer {tokenizer} reads frames of {net.channels} channels, and those of {found.name} have "
            f"{found.shape[2]}"
        )


def _tokenizer_recipe(data: Path, fitting: Fitting) -> train.Recipe:
    from maskworld.recipes.tokenizer import tokenizer

    kind: Any = fitting.tokenizer
    weights: dict[str, Any] = {} if fitting.weights is None else {"weights": fitting.weights}
    return tokenizer(
        data, kind, grid=fitting.grid, vocab=fitting.vocab, size=fitting.size, seed=fitting.seed, **weights
    )


def _occupancy_recipe(data: Path, tokenizer: str, config: voc.Config, td: voc.TD, fitting: Fitting) -> train.Recipe:
    from maskworld.recipes.voc_episodes import voc_episodes

    return voc_episodes(
        data,
        tokenizer,
        config,
        td,
        acts=fitting.acts,
        policies=fitting.policies,
        batch=fitting.batch,
        lr=fitting.lr,
        seed=fitting.seed,
    )


def _precision() -> Any:
    return "bf16" if fast_precision("cuda" if torch.cuda.is_available() else "cpu") == torch.bfloat16 else "no"


def _half_done(run: Path) -> bool:
    """Whether a training has saved something to go on from; the log of one that had not is removed."""
    if (run / train.STATE).exists():
        return True
    (run / train.METRICS).unlink(missing_ok=True)
    return False


@dataclass
class _Fit:
    """How far a fit is, kept in its folder. `spent` are seconds; `done`, whether the tokenizer is trained."""

    path: Path
    fitting: Fitting
    data: dict[str, Any]
    spent: dict[str, float]
    done: bool = False

    def save(self) -> None:
        held = {"fitting": dataclasses.asdict(self.fitting), "data": self.data, "spent": self.spent, "done": self.done}
        write_whole(self.path, (json_.dumps(held, indent=2) + "\n").encode(), force=True)

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Keeps the time of a `with`, however it ends; but not of what was refused."""
        began, refused = time.monotonic(), False
        try:
            yield
        except ValueError:
            refused = True
            raise
        finally:
            self.spent[part] += time.monotonic() - began
            if not refused:
                self.save()


def _begun(out: Path, fitting: Fitting, of: dict[str, Any]) -> _Fit:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a fit needs a folder")
    if any((out / name).exists() for name in (FIT, train.STATE, train.METRICS)) or (out / TOKENIZER).exists():
        raise ValueError(f"{out} already holds a fit; --resume continues it, another folder keeps both")
    return _Fit(out / FIT, fitting, of, {TOKENIZER: 0.0, "occupancy": 0.0})


def _resumed(out: Path, fitting: Fitting, of: dict[str, Any]) -> _Fit:
    """As it was begun. Raises ValueError for other data, or options that are now others."""
    path = out / FIT
    if not path.is_file():
        raise ValueError(f"{out} holds no fit to resume: there is no {FIT}")
    try:
        held = json_.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in held["fitting"].items()}
        fit = _Fit(path, Fitting(**{"reward_bins": 0, **values}), held["data"], held["spent"], held["done"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if fit.data != of:
        raise ValueError(f"{out} was fitted to {fit.data}, not to {of}")
    for field in dataclasses.fields(Fitting):
        now, then = (getattr(one, field.name) for one in (fitting, fit.fitting))
        if now != field.default and now != then:
            raise ValueError(f"{out} was begun with --{field.name.replace('_', '-')} {then}, not {now}")
    return fit


# -- what is watched ------------------------------------------------------------------------------


class Watched(NamedTuple):
    """A video, or an episode with its number and what it brought."""

    frames: UInt8[np.ndarray, "t h w c"] | Int32[np.ndarray, "t h w 1"]
    fps: float
    note: str = ""
    number: int | None = None
    outcome: returns.Outcome | None = None


def watched(net: voc.VOC, fps: float | None, path: Path, number: int | None) -> Watched:
    """A video, at the model's rate and size; or an episode as it is.

    Raises ValueError for a number where there are no episodes, or none of that number.
    """
    source = _episodes_of(path)
    if source is None:
        if number is not None:
            raise ValueError(f"--episode {number}: {path} is a video and holds no episodes")
        size = (net.config.size, net.config.size)
        video = video_.read(path, fps=fps, size=size, grey=net.config.channels == 1)
        return Watched(video.frames.numpy(), video.fps, video.note)
    found, own = source
    found = found.at(net.config.size) if found[0].frames.dtype == np.uint8 else found
    if number is None:
        number = own if own is not None else _first_held_out(len(found))
    if not 0 <= number < len(found):
        raise ValueError(f"--episode {number}: there are episodes 0 to {len(found) - 1}")
    one = found[number]
    return Watched(one.frames, found.fps, "", number, returns.Outcome(one.rewards, one.terminal, one.policy))


def _episodes_of(path: Path) -> tuple[Episodes, int | None] | None:
    """Episodes, and the number of the one that was named; None where it is a video."""
    hdf5 = (".hdf5", ".h5")
    if path.suffix.lower() == ".npz" and path.is_file() and path.stem.isdigit():
        if (path.parent / episodes_.ABOUT).is_file():
            return episodes_.read(path.parent), int(path.stem)
    if path.is_dir():
        ours = (path / episodes_.ABOUT).is_file() or any(p.suffix.lower() in hdf5 for p in path.iterdir())
    else:
        ours = path.suffix.lower() in hdf5
    return (episodes_.read(path), None) if ours else None


def _first_held_out(n: int) -> int:
    return min(held_out(n)) if n >= 3 else 0


def held_out(n: int) -> list[int]:
    """The numbers of the episodes that a model does not learn from. Nothing is chosen by those for validation."""
    of = episodes_.numbers(n)
    return sorted(of["valid"] + of["test"])


class _Chosen(Sequence[Episode]):
    """Some of the episodes, read when they are asked for."""

    def __init__(self, of: Episodes, numbers: Sequence[int]):
        self.of, self.numbers = of, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Chosen(self.of, self.numbers[index])
        return self.of[self.numbers[index]]


# -- estimating -----------------------------------------------------------------------------------

ROWS, POINTS = 8, 24  # moments along a video, in the terminal and on a page
MOMENTS, SHOWN = 4, 9  # of which futures are drawn, and how many


def estimate_command(
    checkpoint: str,
    video: Path,
    gamma: tuple[float, ...],
    every: int | None,
    policy: str | None,
    episode: int | None,
    out: Path | None,
    drawing: Drawn,
) -> int:
    """Values along a video, and pictures of what may come."""
    _at_least(1, samples=drawing.samples, every=every)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world, subject = _subject(checkpoint, device)
    net, precision = subject.net, fast_precision(device)
    gammas = voc.gammas_of(net.config, gamma)
    label = _label(subject, policy)
    report = None if out is None else out / "report.html"
    if report is not None and report.exists() and not drawing.force:
        raise ValueError(f"{report} exists; --force replaces it")
    seen = watched(net, world.about.get("data", {}).get("fps"), video, episode)
    if policy is None and seen.outcome is not None and seen.outcome.policy in subject.policies:
        label = seen.outcome.policy
    clock, cpu = time.perf_counter(), time.process_time()
    states = returns.states_along(net, seen.frames)
    frames = _moments(len(states), every, ROWS if out is None else POINTS)
    along = values_along(subject, states, frames, gammas, label, seen.outcome, drawing.samples, drawing.seed, precision)
    futures = futures_along(subject, states, frames, label, max(gammas), MOMENTS, drawing.seed, precision)
    paints: bool = net.tokenizer.paints  # type: ignore[assignment]
    blind = "" if paints else "the tokenizer of this model does not paint: there are values, but no pictures"
    row = {
        "command": "value estimate",
        "checkpoint": checkpoint,
        "video": str(video),
        "episode": seen.number,
        "frames": len(states),
        "fps": seen.fps,
        "changed": seen.note or None,
        "policy": label or None,
        "samples": 0 if net.config.reward_bins else drawing.samples,
        "gammas": list(gammas),
        "last": _json_at(along, -1),
        "moments": [{"frame": f, "seconds": f / seen.fps, **_json_at(along, i)} for i, f in enumerate(frames)],
        "futures": [
            {"frame": f.frame, "gamma": max(gammas), "draws": [{"delay": d.delay, "apart": d.apart} for d in f.draws]}
            for f in futures
        ],
        "report": None if report is None else str(report),
        "seconds": round(time.perf_counter() - clock, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
    }
    if report is not None:
        pixels = _pixels(net, seen, states)
        moments = [Moment(f.frame, pixels[f.frame], f.draws) for f in futures] if paints and pixels is not None else []
        page = Told(
            f"The value of {'' if seen.number is None else f'episode {seen.number} of '}{video.resolve().name}",
            _facts(row, checkpoint),
            seen.fps,
            along,
            pixels,
            moments,
            max(gammas),
            f"{blind[:1].upper()}{blind[1:]}.",
            _again(checkpoint, video, gammas, every, policy, episode, out, drawing),
        )
        value_page(page).save(report, force=drawing.force)
    if drawing.json:
        print(json_.dumps(row))
        return 0
    _show(row, along)
    if blind and report is not None:
        print(blind)
    return 0


def values_along(
    subject: Subject,
    states: torch.Tensor,
    frames: Sequence[int],
    gammas: Sequence[float],
    label: str,
    outcome: returns.Outcome | None,
    samples: int,
    seed: int,
    precision: torch.dtype,
) -> list[Along]:
    """Values at some of the frames of which these are the states, at each discount, beside what came if it is known."""
    total, along = len(frames) * len(gammas), []
    with tqdm(total=total, unit="moment", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def done(many: int) -> None:
            bar.update(many)

        for gamma in gammas:
            some = states[list(frames)]
            found = returns.values(subject, some, [label] * len(frames), gamma, samples, seed, precision, done)
            true = None
            if outcome is not None:
                true = returns.true_returns(outcome.rewards, gamma, outcome.terminal)[list(frames)].tolist()
            numbers = (found.value.tolist(), found.error.tolist(), found.ended.tolist())
            along.append(Along(gamma, frames, *numbers, true))
    return along


def futures_along(
    subject: Subject,
    states: torch.Tensor,
    frames: Sequence[int],
    label: str,
    gamma: float,
    many: int,
    seed: int,
    precision: torch.dtype,
) -> list[Future]:
    """Draws after `many` of the frames, evenly spaced."""
    chosen = dict.fromkeys(frames[i] for i in np.linspace(0, len(frames) - 1, many).round().astype(int))
    return [_future(subject, states, frame, label, gamma, Rng.of(seed, frame), precision) for frame in chosen]


def _at_least(least: int, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: {least} or more")


def _subject(checkpoint: str, device: str, what: str = "") -> tuple[World, Subject]:
    """A model that tells values. Raises ValueError for one of another family."""
    world = load(checkpoint, device)
    if not isinstance(world.net, voc.VOC):
        family = world.about.get("family")
        raise ValueError(f"{what}{checkpoint} is of the family {family}: only video occupancy models (voc) tell values")
    return world, Subject(world.net, tuple(world.about.get("policies", ())))


def _label(subject: Subject, policy: str | None) -> str:
    if policy is None:
        return ""
    if policy not in subject.policies:
        there = f"there are {', '.join(subject.policies)}" if subject.policies else "it is told of none"
        raise ValueError(f"--policy {policy}: this model knows no such policy; {there}")
    return policy


def _moments(t: int, every: int | None, many: int) -> list[int]:
    """Frames, evenly spaced, the last one among them."""
    step = max(t // many, 1) if every is None else every
    return list(range(t - 1, -1, -step))[::-1]


class Future(NamedTuple):
    """A moment of a video, and draws of what may follow it."""

    frame: int
    draws: list[Draw]


def _future(
    subject: Subject,
    states: torch.Tensor,
    frame: int,
    label: str,
    gamma: float,
    rng: Rng,
    precision: torch.dtype,
) -> Future:
    """Draws after a frame, and how much later in the same video the likest state stands."""
    net = subject.net
    found = voc.draws(net, states[frame : frame + 1], subject.told(gamma, [label]), SHOWN, rng, precision=precision)[0]
    paints: bool = net.tokenizer.paints  # type: ignore[assignment]
    pictures = to_uint8(net.paint(found)[:, -1]).cpu().numpy() if paints else [None] * SHOWN
    later, draws = states[frame + 1 :], []
    for picture, draw in zip(pictures, found, strict=True):
        if bool((draw == net.config.vocab).any()):
            draws.append(Draw(None, None, None))
        elif not len(later):
            draws.append(Draw(picture, None, None))
        else:
            apart = (later != draw).float().mean(1).cpu().numpy()
            draws.append(Draw(picture, int(apart.argmin()) + 1, float(apart.min())))
    return Future(frame, draws)


def _pixels(net: voc.VOC, seen: Watched, states: torch.Tensor) -> UInt8[np.ndarray, "t h w c"] | None:
    """The video, painted where it is in codes; None where it cannot be."""
    if seen.frames.dtype == np.uint8:
        return seen.frames
    if not net.tokenizer.paints:
        return None
    return np.concatenate([to_uint8(net.paint(some)[:, -1]).cpu().numpy() for some in states.split(64)])


def _json_at(along: Sequence[Along], i: int) -> dict[str, Any]:
    def at(one: Along) -> dict[str, Any]:
        row = {"gamma": one.gamma, "value": one.value[i], "error": _known(one.error[i]), "ended": one.ended[i]}
        return row if one.true is None else {**row, "true": _known(one.true[i])}

    return {"values": [at(one) for one in along]}


def _known(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _facts(row: Mapping[str, Any], checkpoint: str) -> list[tuple[str, str]]:
    facts = [
        ("model", checkpoint),
        ("frames", f"{row['frames']} at {row['fps']:g} a second"),
        ("draws for each value", str(row["samples"] or "none")),
        ("made in", f"{row['seconds']:.1f} s"),
    ]
    if row["episode"] is not None:
        facts.insert(1, ("episode", str(row["episode"])))
    if row["policy"] is not None:
        facts.append(("policy", row["policy"]))
    if row["changed"] is not None:
        facts.append(("the video was", row["changed"]))
    return facts


def _again(
    checkpoint: str,
    video: Path,
    gammas: Sequence[float],
    every: int | None,
    policy: str | None,
    episode: int | None,
    out: Path | None,
    drawing: Drawn,
) -> str:
    """The command that makes the same page."""
    given = {"every": every, "policy": policy, "episode": episode, "samples": drawing.samples, "seed": drawing.seed}
    words = ["maskworld", "value", "estimate", checkpoint, str(video), "--gamma", *(f"{gamma:g}" for gamma in gammas)]
    for name, value in given.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join([*words, "-o", str(out)])


def _show(row: Mapping[str, Any], along: Sequence[Along]) -> None:
    which = "" if row["episode"] is None else f", episode {row['episode']}"
    many = f"{row['frames']} frame{'s' * (row['frames'] > 1)} at {row['fps']:g} a second"
    who = "" if row["policy"] is None else f"; policy {row['policy']}"
    draws = f"{row['samples']} draws of each state" if row["samples"] else "values without draws"
    print(f"{row['video']}{which}: {many}; {draws}, {row['seconds']:.1f} s{who}")
    if row["changed"]:
        print(f"the video was {row['changed']} to fit the model")
    truth = along[0].true is not None
    print("after the last frame:")
    print(f"{'gamma':<8}{'value':<12}{'s.e.':<10}{'all over':<10}{'return' if truth else ''}".rstrip())
    for one in along:
        error = f"{one.error[-1]:.3g}" if math.isfinite(one.error[-1]) else "-"
        line = f"{one.gamma:<8g}{one.value[-1]:<12.4g}{error:<10}{f'{100 * one.ended[-1]:.0f} %':<10}"
        print((line + (_or_dash(one.true[-1]) if one.true is not None else "")).rstrip())
    print("along the video" + (" (the true return beside):" if truth else ":"))
    shown = np.linspace(0, len(along[0].frames) - 1, min(len(along[0].frames), ROWS)).round().astype(int).tolist()
    rows = [["frame", "s", *(f"V({one.gamma:g})" for one in along)]]
    for i in shown:
        frame = along[0].frames[i]
        rows.append([str(frame), f"{frame / row['fps']:.2f}", *(_cell(one, i) for one in along)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    if row["report"] is not None:
        print(row["report"])


def _cell(one: Along, i: int) -> str:
    error = f" ± {one.error[i]:.2g}" if math.isfinite(one.error[i]) else ""
    beside = "" if one.true is None else f" ({_or_dash(one.true[i])})"
    return f"{one.value[i]:.4g}{error}{beside}"


def _or_dash(x: float) -> str:
    return f"{x:.4g}" if math.isfinite(x) else "-"


# -- evaluating -----------------------------------------------------------------------------------


def evaluate_command(
    checkpoint: str,
    data: Path,
    mc: str | None,
    onestep: str | None,
    gamma: tuple[float, ...],
    states: int,
    unroll: int | None,
    drawing: Drawn,
) -> int:
    """The table of estimates against returns of held-out episodes."""
    _at_least(1, states=states, samples=drawing.samples, unroll=unroll)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, subject = _subject(checkpoint, device)
    gammas = voc.gammas_of(subject.net.config, gamma)
    other = None if mc is None else _monte_carlo(mc, device, gammas)
    one = None if onestep is None else _subject(onestep, device, "--onestep ")[1]
    asked = returns.Asked(subject, other, one, unroll, states, drawing.samples, fast_precision(device), drawing.seed)
    found = episodes_.read(data).at(subject.net.config.size)
    held = _Chosen(found, held_out(len(found)))
    before = returns.outcomes(episodes_.split(found, "train"))
    with tqdm(unit="state", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def done(many: int) -> None:
            bar.update(many)

        judged = returns.evaluate(asked, held, before, gammas, done)
    if drawing.json:
        tables = [returns.as_dict(one) for one in judged]
        row = {"command": "value evaluate", "checkpoint": checkpoint, "data": str(data), "mc": mc, "onestep": onestep}
        print(json_.dumps({**row, "samples": drawing.samples, "tables": tables}))
        return 0
    print("\n\n".join(returns.as_table(one) for one in judged))
    return 0


def _monte_carlo(checkpoint: str, device: str, gammas: Sequence[float]) -> Subject:
    world, subject = _subject(checkpoint, device, "--mc ")
    if world.about.get("td", {"steps": None}).get("steps") is not None:
        raise ValueError(f"--mc {checkpoint} was not learnt by Monte Carlo (value fit --td-steps 0)")
    try:
        voc.gammas_of(subject.net.config, gammas)
    except ValueError as error:
        raise ValueError(f"--mc {checkpoint}: {error}") from None
    return subject
