"""`maskworld data make` and `maskworld data inspect`."""

from __future__ import annotations

import io
import json as json_
from pathlib import Path
from typing import Literal

import numpy as np

from maskworld.clip import to_uint8
from maskworld.data import video
from maskworld.report.film import write_whole


def make_command(
    world: Literal["digits", "discs"],
    out: Path,
    clips: int,
    frames: int,
    size: int,
    seed: int,
    split: Literal["train", "valid", "test"],
    fps: float,
    force: bool,
) -> int:
    from maskworld.data.digits import MovingDigits
    from maskworld.data.discs import Discs

    if clips < 1:
        raise ValueError(f"--clips {clips}: 1 or more")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; --force replaces it")
    source = MovingDigits(split, frames, size, seed=seed) if world == "digits" else Discs(split, frames, size, seed)
    made = (to_uint8(source(i).frames[0, 0]) for i in range(clips))
    if out.suffix.lower() == ".npz":
        held = io.BytesIO()
        np.savez_compressed(held, frames=np.stack([one.numpy() for one in made]), fps=fps)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, held.getvalue(), force=force)
    elif out.suffix:
        if clips > 1:
            raise ValueError(f"{out} is one video: --clips 1, an .npz, or a folder")
        video.write(out, next(made), fps, force=force)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for i, one in enumerate(made):
            video.write(out / f"{world}_{i:05d}.mkv", one, fps, force=force)
    print(f"{out}: {clips} clips of {frames} frames, {size} x {size}")
    return 0


def inspect_command(path: Path, json: bool) -> int:
    """Exit code 3 where some of the videos are broken."""
    rows = video.inspect(path)
    found = video.summary(rows)
    if json:
        print(json_.dumps({"path": str(path), **found}))
    else:
        for row in rows:
            if row.info:
                many = f"{row.info.videos} x " if row.info.videos > 1 else ""
                print(
                    f"{row.path}  {many}{row.info.frames} frames, {row.info.width}x{row.info.height}, "
                    f"{row.info.fps:g} frames/s, {row.info.seconds:.2f} s, {row.info.codec}"
                )
            if row.trouble:
                print(f"{row.path}  {row.trouble}")
        print(f"{found['videos']} videos, {found['frames']} frames, {found['seconds']} s")
    return 3 if found["broken"] else 0
