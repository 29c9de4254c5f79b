"""`maskworld data make` and `maskworld data inspect`."""

from __future__ import annotations

import difflib
import io
import json as json_
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from maskworld.__main__ import Driving
from maskworld.clip import to_uint8
from maskworld.commands.drive import inspect_logs, make_drive, options
from maskworld.data import control, episodes, surround, toys, video
from maskworld.data.episodes import Episode
from maskworld.report.film import write_whole

Split = Literal["train", "valid", "test"]
CLIPS, TOYS = ("digits", "discs"), ("chain", "clock")


def make_command(
    world: str,
    out: Path,
    clips: int | None,
    frames: int | None,
    split: Split | None,
    fps: float | None,
    num_episodes: int | None,
    steps: int | None,
    policy: str | None,
    look: control.Look | None,
    size: Sequence[int] | None,
    driving: Driving,
    seed: int,
    force: bool,
) -> int:
    of_clips = {"--clips": clips, "--frames": frames, "--split": split, "--fps": fps}
    of_control = {"--policy": policy, "--look": look, "--size": size}
    of_episodes = {"--episodes": num_episodes, "--steps": steps}
    if world == "drive":
        _only(world, {**of_episodes, "--policy": policy, "--look": look, "--clips": clips, "--split": split})
        return make_drive(out, driving, frames, fps, size, seed, force)
    _only(world, options(driving))
    if world in CLIPS:
        _only(world, {**of_episodes, "--policy": policy, "--look": look})
        return _make_clips(
            world,
            out,
            1 if clips is None else clips,
            20 if frames is None else frames,
            _side(size),
            seed,
            split or "test",
            8.0 if fps is None else fps,
            force,
        )
    num, long = 20 if num_episodes is None else num_episodes, 250 if steps is None else steps
    for name, value in (("--episodes", num), ("--steps", long)):
        if value < 1:
            raise ValueError(f"{name} {value}: 1 or more")
    if seed < 0:
        raise ValueError(f"--seed {seed}: 0 or more")
    if world in TOYS:
        _only(world, of_clips | of_control)
        toy = toys.Chain() if world == "chain" else toys.Clock()
        made = toy.episodes(num, long + 1, seed)
        return _make_episodes(out, num, toys.FPS, {"world": world, "steps": long, "seed": seed}, force, made)
    if not world.startswith(("control-", "gym:")):
        known = [*CLIPS, "drive", *TOYS, *(f"control-{name}" for name in control.TASKS)]
        near = difflib.get_close_matches(world, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)} and gym:ID"
        raise ValueError(f"no world {world}: {hint}")
    _only(world, of_clips)
    policy = policy or ("random" if world.startswith("gym:") else "all")
    control.labels(policy)
    env = control.load(world.removeprefix("control-"), _side(size), look or "fast")
    try:
        source = {"world": world, "policy": policy, "steps": long, "size": env.size, "look": look or "fast"}
        return _make_episodes(out, num, env.fps, {**source, "seed": seed}, force, (env, policy, long, seed))
    finally:
        env.close()


def _only(world: str, given: dict[str, object]) -> None:
    """Raise ValueError for an option that another kind of world has."""
    strange = [name for name, value in given.items() if value is not None]
    if strange:
        raise ValueError(f"{world} takes no {', '.join(strange)}; see `maskworld data make --help`")


def _side(size: Sequence[int] | None) -> int:
    """Of square frames."""
    if size is not None and len(size) != 1:
        raise ValueError(f"--size {' '.join(map(str, size))}: frames of this world are square, one number")
    return 64 if size is None else size[0]


def _make_clips(
    world: str, out: Path, clips: int, frames: int, size: int, seed: int, split: Split, fps: float, force: bool
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


def _make_episodes(
    out: Path,
    num: int,
    fps: float,
    source: dict[str, object],
    force: bool,
    made: list[Episode] | tuple[control.Env, str, int, int],
) -> int:
    """Episodes that a folder already holds of the same source stay, and the rest is added."""
    start = 0 if force else episodes.held(out, fps, source)
    rest = made[start:] if isinstance(made, list) else control.collect(*made[:2], num, *made[2:], start=start)
    try:
        if start < num:
            episodes.write(out, _watched(rest, num, start, str(source["world"])), fps, source, force, start)
    except KeyboardInterrupt:
        kept = episodes.held(out, fps, source)
        raise KeyboardInterrupt(f"{out} keeps {kept} of {num} episodes; the same command goes on from there") from None
    found = episodes.read(out)
    added = f", {start} of them were there" if start else ""
    print(f"{out}: {len(found)} episodes{added}, {sum(found.lengths)} frames, {_size(found)}")
    return 0


def _watched(made: Iterable[Episode], num: int, start: int, world: str) -> Iterator[Episode]:
    from tqdm import tqdm

    with tqdm(made, desc=world, total=num, initial=start, unit="episode", disable=None) as bar:
        for episode in bar:
            bar.set_postfix_str(f"{episode.policy} {episode.rewards.sum():.0f}".strip(), refresh=False)
            yield episode


def _size(found: episodes.Episodes) -> str:
    h, w, c = found.shape
    return f"{w} x {h}, {'grey' if c == 1 else 'colour'}"


def _inspect_episodes(path: Path, json: bool) -> int:
    held = episodes.read(path)
    rows: dict[str, list[tuple[int, float, bool]]] = {}
    for episode in held:
        row = (len(episode), float(episode.rewards.sum(dtype=np.float64)), episode.terminal)
        rows.setdefault(episode.policy, []).append(row)
    h, w, c = held.shape
    returns = {
        label: {
            "episodes": len(found),
            "frames": sum(length for length, _, _ in found),
            "ended": sum(terminal for _, _, terminal in found),
            "mean_return": float(np.mean([total for _, total, _ in found])),
            "std_return": float(np.std([total for _, total, _ in found])),
        }
        for label, found in sorted(rows.items())
    }
    if json:
        about = {"episodes": len(held), "frames": sum(held.lengths), "fps": held.fps, "height": h, "width": w}
        print(json_.dumps({"path": str(path), **about, "channels": c, "actions": held.actions, "policies": returns}))
        return 0
    shortest, longest = min(held.lengths), max(held.lengths)
    print(
        f"{path}: {len(held)} episodes of {f'{shortest} to ' if shortest < longest else ''}{longest} frames, "
        f"{sum(held.lengths)} in all, {_size(held)}, {held.fps:g} frames/s, {held.actions} action channels"
    )
    for label, row in returns.items():
        print(
            f"{label or 'no label':12} {row['episodes']:5} episodes, mean return {row['mean_return']:8.2f} "
            f"(standard deviation {row['std_return']:.2f}), {row['ended']} ended for good"
        )
    return 0


def inspect_command(path: Path, json: bool, sheet: Path | None, force: bool) -> int:
    """Exit code 3 where some of the videos are broken."""
    if surround.there(path):
        return inspect_logs(path, json, sheet, force)
    if sheet is not None:
        raise ValueError(f"{path} holds no logs: a sheet is made of what several cameras recorded")
    if episodes.there(path):
        return _inspect_episodes(path, json)
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
