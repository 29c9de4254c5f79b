"""`maskworld rollout`: far beyond the end of a video or a log, with a memory, under one or several courses of action.

Sections: what is asked - actions - the answer - what is written.
"""

from __future__ import annotations

import dataclasses
import json as json_
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from maskworld import plan
from maskworld.__main__ import Drawing, Remembering
from maskworld.clip import Cameras
from maskworld.commands import courses
from maskworld.commands.doctor import fast_precision
from maskworld.commands.fill import Question, check_out, many, prompt_of, rows_of, write_samples
from maskworld.commands.logs import AHEAD, footage, held, told
from maskworld.commands.memories import Chosen, memory_of
from maskworld.noise import Rng
from maskworld.papers import forcing, maskgwm, voc
from maskworld.probes.base import ACTIONS
from maskworld.probes.films import reckoned
from maskworld.rollout import at_least_one, rollout
from maskworld.verbs import Fill, Known
from maskworld.world import World, load

LONGEST = 64  # frames of the video that any memory is told of, so that actions go with the same ones for each

# -- what is asked ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Where:
    """Where a roll-out begins: which scene of a log, at which frame, with how many of its frames."""

    scene: int | None = None
    start: int | None = None
    past: int | None = None


def rollout_command(
    checkpoint: str,
    source: Path,
    out: Path,
    frames: int,
    where: Where,
    actions: Sequence[str],
    best_of: int,
    remembering: Remembering,
    drawing: Drawing,
) -> int:
    """Exit code 0, or 130 where it was interrupted: the frames that were finished are written."""
    check_out(out, drawing, page=True)
    at_least_one("frames", frames)
    at_least_one("futures to choose from", best_of)
    if where.past is not None:
        at_least_one("frames of the past", where.past)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(checkpoint, device).sampled(
        drawing.steps, drawing.solver, fast_precision(device), guidance=drawing.guidance
    )
    stride = world.reach.stride if remembering.stride is None else remembering.stride
    drive = isinstance(world.config, maskgwm.Config)
    if isinstance(world.config, voc.Config):
        raise ValueError(f"{checkpoint} draws some later frame and does not roll out: see maskworld value --help")
    if actions and not world.reach.actions:
        raise ValueError(f"{actions[0]}: this model takes no actions")
    # Actions by name are those of a car, and a car's are for the frames that are new.
    acts = None if drive or not actions else _from_files(actions, world)
    # The probes' actions say how the camera moves; others may mean anything.
    tells = acts is not None and isinstance(world.config, forcing.Config) and world.reach.actions == len(ACTIONS)
    chosen = memory_of(remembering.memory or "window", world, tells, remembering.window, stride)
    most = world.reach.num_frames if drive else LONGEST
    found = footage(world, source, where.scene)
    ask = prompt_of(world, found, most if where.past is None else where.past, where.start)
    cameras = reckoned(acts, world.size[0]) if acts is not None and tells else None
    commanded: list[Float[Tensor, "frames 2"]] | None = None
    if drive and world.reach.actions and (actions or ask.drive is not None):
        commanded, acts = _driven(world, ask, actions, frames)
    if drive and ask.clip.cameras is not None:
        cameras = held(ask.clip.cameras, 0, frames)  # fixed to the car: where each looks from there is all that is told
    labels = _labels(actions, drawing.samples)
    clock = time.perf_counter()
    made, interrupted = _roll(world, ask, frames, chosen, stride, acts, cameras, best_of, len(labels), drawing)
    seconds = time.perf_counter() - clock
    if made is None:
        raise KeyboardInterrupt("no frame was finished")
    prompt = ask.truth.shape[1]
    done = made.shape[2] - prompt
    if interrupted:
        print(f"maskworld: interrupted; {done} of {frames} frames are finished", file=sys.stderr)
    samples = list(zip(labels, made, strict=True))
    if out.suffix.lower() == ".html":
        told_of = source.name if found.name == str(source) else f"{source.name}, {found.name}"
        facts = [("model", Path(checkpoint).name), ("prompt", told_of), ("made in", f"{seconds:.0f} s")]
        command = _command(checkpoint, source, out, frames, where, actions, best_of, remembering, drawing)
        _page(out, samples, _continued(ask, done), prompt, commanded, facts, command, drawing)
    else:
        write_samples(out, samples, _continued(ask, done), drawing)
    report: dict[str, Any] = {
        "command": "rollout",
        "checkpoint": checkpoint,
        "out": str(out),
        "prompt": prompt,
        "frames": done,
        "views": len(ask.views),
        "samples": drawing.samples,
        "actions": list(actions),
        "size": world.size,
        "fps": ask.fps,
        "changed": ask.note or None,
        "notes": list(ask.notes),
        "memory": {**chosen.as_dict(), "stride": stride},
        "best_of": best_of,
        "seconds": round(seconds, 3),
        "frames_per_second": round(done * len(labels) / seconds, 2),
    }
    if drawing.json:
        print(json_.dumps(report))
    else:
        print(
            f"{out}: {report['prompt']} + {done} frames, {seconds:.1f} s, {report['frames_per_second']:g} frames/s; "
            f"memory: {chosen.told()}"
        )
        if ask.note:
            print(f"the video was {ask.note} to fit the model")
        for note in ask.notes:
            print(note)
    return 130 if interrupted else 0


# -- actions ----------------------------------------------------------------------------------------


def _from_files(actions: Sequence[str], world: World) -> Float[Tensor, "n t a"]:
    """Rows for the frames of a prompt and of all that follow, as long as the shortest file has."""
    for name in actions:
        if name in courses.NAMES and not Path(name).exists():
            raise ValueError(f"--actions {name}: this model is no model of drives; it takes files")
    each = [courses.rows_of(Path(name), (world.reach.actions,)) for name in actions]
    shortest = min(len(rows) for rows in each)
    return torch.stack([rows[:shortest] for rows in each])


def _driven(
    world: World, ask: Question, actions: Sequence[str], frames: int
) -> tuple[list[Float[Tensor, "frames 2"]] | None, Float[Tensor, "n t a"]]:
    """(speed and curvature that are commanded at the new frames, for each of the actions; what the model is told of all
    frames: the prompt's are the log's, NaN where there is none)"""
    told_of_prompt = torch.full((ask.truth.shape[1], world.reach.actions), math.nan)
    if ask.clip.actions is not None:
        told_of_prompt = ask.clip.actions[0]
    unknown = torch.full((frames, world.reach.actions), math.nan)
    if not actions:
        return None, torch.cat([told_of_prompt, unknown])[None]
    before = ask.drive
    ends = before is not None and bool(before[-1].isfinite().all())
    speed = before[-1, 0].item() if before is not None and ends else None
    commanded, acts = [], []
    for name in actions:
        if name in courses.NAMES:
            # what tells of the seconds ahead needs to know them, beyond the last frame, too
            rows = courses.named(name, frames + math.ceil(AHEAD * ask.fps), ask.fps, speed)
        elif Path(name).suffix:
            rows = courses.drive_of(Path(name), frames)
        else:
            raise ValueError(f"--actions {name}: a .csv or .npy file, or one of {', '.join(courses.NAMES)}")
        all_ = rows if before is None or not ends else torch.cat([before, rows])
        new = told(world, all_, ask.fps)
        whole = new if before is not None and ends else torch.cat([told_of_prompt, new])
        commanded.append(rows[:frames])
        acts.append(whole[: len(told_of_prompt) + frames])
    return commanded, torch.stack(acts)


def _labels(actions: Sequence[str], samples: int) -> list[str]:
    """Names of all that is drawn: each course of action, `samples` times."""
    names = [name if name in courses.NAMES else Path(name).stem for name in actions]
    if not names:
        return [f"sample {i}" for i in range(samples)]
    return [name if samples == 1 else f"{name} {i}" for name in names for i in range(samples)]


# -- the answer -------------------------------------------------------------------------------------


def _roll(
    world: World,
    ask: Question,
    frames: int,
    chosen: Chosen,
    stride: int,
    actions: Float[Tensor, "n t a"] | None,
    cameras: Cameras | None,
    best_of: int,
    number: int,
    drawing: Drawing,
) -> tuple[Float[Tensor, "b v done c h w"] | None, bool]:
    """(prompt and what follows, for each course of action and sample; None where no frame was finished; whether it was
    interrupted). Sample i of every course has the same noise. What a prompt lacks is filled in first."""
    device = world.device

    def each(x: Tensor) -> Tensor:
        return x.to(device).repeat_interleave(number // len(x), 0)

    view = None
    if cameras is not None:
        ego = None if cameras.ego is None else each(cameras.ego)
        view = Cameras(each(cameras.intrinsics), each(cameras.pose), ego)
    bare = dataclasses.replace(ask.clip, actions=None, cameras=None)
    prompt, ahead = world.told(
        many(bare, number, device), frames, None if actions is None else each(actions), view
    )  # fmt: skip
    rng = Rng([Rng.of(drawing.seed, i % drawing.samples).generators[0] for i in range(number)])
    pieces: list[Tensor] = []
    with tqdm(total=frames, unit="frame", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        fill = world.fill_of(chosen.reads, number)
        try:
            if not bool(ask.known.all()):
                prompt = fill(prompt, ask.known.to(device).expand(number, -1, -1, -1, -1), rng)
            pieces.append(prompt.frames.cpu())
            rollout(
                _kept(_judged(world, fill, best_of), pieces),
                prompt,
                ahead,
                chosen.memory,
                stride,
                rng,
                on_frame=lambda done, _: _move(bar, done),
                window=world.reach.window,
            )
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
    return (torch.cat(pieces, dim=2) if len(pieces) > 1 else None), interrupted


def _move(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)


def _judged(world: World, fill: Fill, num: int) -> Fill:
    """The fill, or of `num` the one that surprises the model least."""
    if num == 1:
        return fill
    if (watch := world.surprise_with_rng) is None:
        raise ValueError("--best-of: this model has no surprise to choose by")
    return plan.best_of(fill, watch, num)


def _kept(fill: Fill, pieces: list[Tensor]) -> Fill:
    """The fill, which leaves what it makes in `pieces`, so that an interruption loses nothing."""

    def run(clip, known: Known, rng: Rng):
        made = fill(clip, known, rng)
        pieces.append(made.frames[:, :, ~known[0, 0, :, 0, 0]].cpu())
        return made

    return run


def _continued(ask: Question, frames: int) -> Question:
    """The question of a prompt with so many hidden frames after it, of which there is no truth."""
    v, _, *shape = ask.truth.shape
    return dataclasses.replace(
        ask,
        known=torch.cat([ask.known, torch.zeros(1, v, frames, 1, 1, dtype=torch.bool)], dim=2),
        truth=torch.cat([ask.truth, torch.zeros(v, frames, *shape)], dim=1),
        there=torch.cat([ask.there, torch.zeros(v, frames, dtype=torch.bool)], dim=1),
    )


# -- what is written --------------------------------------------------------------------------------


def _page(
    out: Path,
    samples: Sequence[tuple[str, Tensor]],
    ask: Question,
    prompt: int,
    commanded: Sequence[Float[Tensor, "frames 2"]] | None,
    facts: Sequence[tuple[str, str]],
    command: Sequence[str],
    drawing: Drawing,
) -> None:
    """All that was drawn on one page, the views of each side by side."""
    from maskworld.report.film import beside

    done, futures = ask.truth.shape[1] - prompt, []
    for i, (label, frames) in enumerate(samples):
        rows = rows_of(label, frames, ask.known[0], ask.views)
        drive = None if commanded is None else commanded[i // drawing.samples][:done]
        futures.append(courses.Future(label, beside(label, rows), drive))
    if len(ask.views) > 1:
        facts = [*facts, ("views, from left to right", ", ".join(ask.views))]
    title = "Futures" if commanded is None else "Futures of a drive"
    parts = courses.sections(futures, prompt, ask.fps)
    courses.page(title, parts, facts, ask.notes, command).save(out, force=drawing.force)


def _command(
    checkpoint: str,
    source: Path,
    out: Path,
    frames: int,
    where: Where,
    actions: Sequence[str],
    best_of: int,
    remembering: Remembering,
    drawing: Drawing,
) -> list[str]:
    """What to type to have the same again."""
    told = ["maskworld", "rollout", checkpoint, str(source), "--frames", str(frames)]
    plain = Drawing()
    options = dataclasses.asdict(where) | dataclasses.asdict(remembering)
    options |= {name: value for name, value in dataclasses.asdict(drawing).items() if value != getattr(plain, name)}
    options |= {"best_of": best_of if best_of > 1 else None}
    for name, value in options.items():
        if value is not None and name not in ("json", "force"):
            told += [f"--{name.replace('_', '-')}", str(value)]
    told += ["--actions", *actions] if actions else []
    return [*told, "-o", str(out)]
