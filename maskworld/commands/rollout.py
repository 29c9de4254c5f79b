"""`maskworld rollout`: far beyond the end of a video, with a memory."""

from __future__ import annotations

import dataclasses
import json as json_
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from maskworld import plan
from maskworld.__main__ import Drawing, Remembering
from maskworld.clip import Cameras, Clip
from maskworld.commands.doctor import fast_precision
from maskworld.commands.fill import Question, check_out, prompt_of, write_samples
from maskworld.commands.memories import Chosen, memory_of
from maskworld.noise import Rng
from maskworld.probes.base import ACTIONS
from maskworld.probes.films import reckoned
from maskworld.rollout import at_least_one, rollout
from maskworld.verbs import Fill, Known
from maskworld.world import World, load

LONGEST = 64  # frames of the video that any memory is told of, so that actions go with the same ones for each

# -- what is asked ----------------------------------------------------------------------------------


def rollout_command(
    checkpoint: str,
    video: Path,
    out: Path,
    frames: int,
    past: int | None,
    actions: Path | None,
    best_of: int,
    remembering: Remembering,
    drawing: Drawing,
) -> int:
    """Exit code 0, or 130 where it was interrupted: the frames that were finished are written."""
    check_out(out, drawing)
    at_least_one("frames", frames)
    at_least_one("futures to choose from", best_of)
    if past is not None:
        at_least_one("frames of the past", past)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = load(checkpoint, device).sampled(drawing.steps, drawing.solver, fast_precision(device))
    stride = world.reach.stride if remembering.stride is None else remembering.stride
    acts = None if actions is None else actions_of(actions, world)
    # The probes' actions say how the camera moves; others may mean anything.
    tells = acts is not None and world.reach.actions == len(ACTIONS)
    chosen = memory_of(remembering.memory or "window", world, tells, remembering.window, stride)
    ask = prompt_of(world, video, LONGEST if past is None else past)
    cameras = reckoned(acts, world.size) if acts is not None and tells else None
    clock = time.perf_counter()
    made, interrupted = _roll(world, ask, frames, chosen, stride, acts, cameras, best_of, drawing)
    seconds = time.perf_counter() - clock
    if made is None:
        raise KeyboardInterrupt("no frame was finished")
    done = made.shape[1] - len(ask.truth)
    if interrupted:
        print(f"maskworld: interrupted; {done} of {frames} frames are finished", file=sys.stderr)
    write_samples(out, list(made), _continued(ask, done), drawing)
    report: dict[str, Any] = {
        "command": "rollout",
        "checkpoint": checkpoint,
        "out": str(out),
        "prompt": len(ask.truth),
        "frames": done,
        "samples": drawing.samples,
        "size": world.size,
        "fps": ask.fps,
        "changed": ask.note or None,
        "memory": {**chosen.as_dict(), "stride": stride},
        "best_of": best_of,
        "seconds": round(seconds, 3),
        "frames_per_second": round(done * drawing.samples / seconds, 2),
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
    return 130 if interrupted else 0


def actions_of(path: Path, world: World) -> Float[Tensor, "1 t a"]:
    """Rows of numbers from a .npy or .csv file. Raises ValueError for anything else, and where the model takes none."""
    if not world.reach.actions:
        raise ValueError(f"{path}: this model takes no actions")
    if path.suffix.lower() not in (".npy", ".csv"):
        raise ValueError(f"actions are read from .npy or .csv, not from {path}")
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                rows = np.lib.format.read_array(file, allow_pickle=False)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of an empty file: its shape is told below
                rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} does not hold rows of numbers: {error}") from None
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{path} does not hold rows of numbers")
    if rows.ndim != 2 or rows.shape[1] != world.reach.actions:
        raise ValueError(f"{path} holds numbers of shape {rows.shape}; actions are (frames, {world.reach.actions})")
    if not (np.abs(rows.astype(np.float64)) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{path} holds NaN or infinity")
    return torch.from_numpy(rows.astype(np.float32))[None]


# -- the answer -------------------------------------------------------------------------------------


def _roll(
    world: World,
    ask: Question,
    frames: int,
    chosen: Chosen,
    stride: int,
    actions: Float[Tensor, "1 t a"] | None,
    cameras: Cameras | None,
    best_of: int,
    drawing: Drawing,
) -> tuple[Float[Tensor, "n t c h w"] | None, bool]:
    """(prompt and what follows, for each sample; None where no frame was finished; whether it was interrupted)"""
    b, device = drawing.samples, world.device

    def many(x: Tensor) -> Tensor:
        return x.to(device).expand(b, *x.shape[1:])

    prompt = Clip(many(ask.clip.frames), many(ask.clip.times))
    view = None if cameras is None else Cameras(many(cameras.intrinsics), many(cameras.pose))
    prompt, ahead = world.told(prompt, frames, None if actions is None else many(actions), view)
    rng = Rng([Rng.of(drawing.seed, i).generators[0] for i in range(b)])
    pieces: list[Tensor] = [prompt.frames[:, 0].cpu()]
    with tqdm(total=frames, unit="frame", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        fill = _kept(_judged(world, world.fill_of(chosen.reads, b), best_of), pieces)
        try:
            rollout(
                fill,
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
    return (torch.cat(pieces, dim=1) if len(pieces) > 1 else None), interrupted


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

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        made = fill(clip, known, rng)
        pieces.append(made.frames[:, 0, ~known[0, 0, :, 0, 0]].cpu())
        return made

    return run


def _continued(ask: Question, frames: int) -> Question:
    """The question of a prompt with so many hidden frames after it, of which there is no truth."""
    t, *shape = ask.truth.shape
    return dataclasses.replace(
        ask,
        known=torch.cat([ask.known, torch.zeros(1, 1, frames, 1, 1, dtype=torch.bool)], dim=2),
        truth=torch.cat([ask.truth, torch.zeros(frames, *shape)]),
        there=torch.arange(t + frames) < t,
    )
