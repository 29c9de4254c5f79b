"""Drives: what the ego car is told to do, by name or from a file, and the page on which several futures stand.

Sections: by name - from a file - the page.
"""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.papers import maskgwm
from maskworld.report.curve import Curve, Series
from maskworld.report.film import Row
from maskworld.report.page import Block, Code, Facts, Film, Page, Section, Table

# -- by name --------------------------------------------------------------------------------------

NAMES = ("left", "right", "straight", "stop")
"""What may stand for a file of actions."""

CRUISE = 6.0  # m/s
EASE, BRAKE = 2.0, 3.0  # m/s^2, towards the cruising speed and to a stop
BEND, TURN = 0.06, math.pi / 2  # 1/m and radians of a turn: a quarter, in a circle of 17 m


def named(name: str, frames: int, fps: float, speed: float | None = None) -> Float[Tensor, "frames 2"]:
    """Speed (m/s) and curvature (1/m) at each frame: `left` and `right` turn by a quarter, and go straight on;
    `straight` and these go at CRUISE; `stop` brakes, straight on.

    speed    the car's at the beginning, from which it is changed by EASE or BRAKE; CRUISE, where it is not known.
    """
    assert name in NAMES
    now, turned, rows = CRUISE if speed is None else speed, 0.0, []
    side = {"left": 1.0, "right": -1.0}.get(name, 0.0)
    aim, most = (0.0, BRAKE) if name == "stop" else (CRUISE, EASE)
    for _ in range(frames):
        now += max(-most / fps, min(most / fps, aim - now))
        left = TURN - turned
        bend = min(BEND, left / (now / fps)) if now > 0 and left > 1e-9 else 0.0
        turned += bend * now / fps
        rows.append((now, side * bend))
    return torch.tensor(rows, dtype=torch.float32)


# -- from a file ----------------------------------------------------------------------------------


def rows_of(path: Path, widths: Sequence[int]) -> Float[Tensor, "t a"]:
    """Rows of numbers from a .npy or .csv file, of one of these widths. Raises ValueError for anything else."""
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
    if rows.ndim != 2 or rows.shape[1] not in widths:
        wanted = " or ".join(f"(frames, {width})" for width in widths)
        raise ValueError(f"{path} holds numbers of shape {rows.shape}; actions are {wanted}")
    if not (np.abs(rows.astype(np.float64)) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{path} holds NaN or infinity")
    return torch.from_numpy(rows.astype(np.float32))


def drive_of(path: Path, frames: int) -> Float[Tensor, "frames 2"]:
    """Speed (m/s) and curvature (1/m, to the left) at each of `frames` new frames, from a file.

    Raises ValueError where it has fewer rows, and for numbers that cannot be in these units.
    """
    rows = rows_of(path, (2,))
    if len(rows) < frames:
        raise ValueError(f"{path} has actions for {len(rows)} of {frames} new frames: {frames - len(rows)} are missing")
    try:
        maskgwm.check_units(rows[None], ("speed", "angle"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return rows[:frames]


# -- the page -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Future:
    """One of several futures of the same prompt; `drive` is what was commanded at its new frames, if anything was."""

    label: str
    row: Row
    drive: Float[Tensor, "frames 2"] | None


def sections(futures: Sequence[Future], prompt: int, fps: float) -> list[Section]:
    """The futures side by side, `prompt` frames of which are the same, and what was commanded."""
    new = len(futures[0].row.frames) - prompt
    caption = f"{prompt} frames were given (green), {new} were drawn (orange), at {fps:g} a second."
    film = Film([future.row for future in futures], fps, caption, with_strip=True, most=12)
    driven = [(future.label, future.drive.double()) for future in futures if future.drive is not None]
    if not driven:
        return [Section("What comes after", "", [film])]
    if len(futures) == 1:
        first = Section("What comes after", "The car is told what to do, and the model what the camera sees.", [film])
    else:
        text = "The same model, the same prompt, the same noise: what differs is what the car is told to do."
        first = Section("One beginning, several futures", text, [film])
    seconds = [i / fps for i in range(new)]

    def curve(column: int, label: str, caption: str) -> Curve:
        series = [Series(name, seconds, drive[:, column].tolist()) for name, drive in driven]
        return Curve(series, "seconds", label, caption)

    rows = []
    for name, drive in driven:
        way, turned = drive[:, 0].sum().item() / fps, (drive[:, 0] * drive[:, 1]).sum().item() / fps
        rows.append([name, f"{way:.0f}", f"{math.degrees(turned):+z.0f}", f"{drive[-1, 0].item():.1f}"])
    blocks: list[Block] = [
        curve(0, "speed, m/s", "The speed that is commanded, from the first new frame on."),
        curve(1, "curvature, 1/m", "The curvature of the path that is commanded; positive ones turn to the left."),
        Table(["drive", "metres", "degrees to the left", "m/s at the end"], rows),
    ]
    return [first, Section("What was commanded", "", blocks)]


def page(
    title: str, parts: Sequence[Section], facts: Sequence[tuple[str, str]], notes: Sequence[str], command: Sequence[str]
) -> Page:
    """Sections on a page, and how to make them again."""
    again = Section("Again", "\n\n".join(notes), [Code(shlex.join(command))])
    return Page(title, "", Facts(list(facts)), [*parts, again], "The same seed gives the same pixels.")
