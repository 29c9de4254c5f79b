"""What a driving model does when it is told where to go: long roll-outs, and views that are to agree.

python studies/maskgwm_drive.py maskgwm-long --frames 200 --clips 8 [--steps 10] [--guidance 2.5]
                                [--write docs/results.md] [--json]
python studies/maskgwm_drive.py maskgwm-mview --clips 32 [...]

Prompts and commands are those of held-out drives: the true drive goes on under the same commands, and everything that
is read from its pictures is the floor.

One view: speed and yaw rate are read back by a frozen regressor (maskworld/probes/ego.py) and held against what was
commanded, over all frames and over the last quarter; colours against those of the prompt.
Several views: frames ahead of the references, and the middle camera filled in from the others. Where two cameras see
the same, their pictures are compared: with the true depth where all but one camera are true, and else by the ground and
the horizon, for made and real clips alike (`ratio` is of the two).

With `--write docs/results.md` the table is put between the two marks that stand there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import between
import torch
from tqdm import trange

from maskworld.clip import Clip, collate, span
from maskworld.commands.doctor import fast_precision
from maskworld.data.drive import Domain, Drives
from maskworld.masks import past_and_future
from maskworld.papers import maskgwm
from maskworld.probes import driving
from maskworld.probes.statistics import Interval
from maskworld.world import World, load


def sampled(world: World, options: argparse.Namespace) -> World:
    sampling = maskgwm.Sampling(options.steps, options.guidance, fast_precision("cpu"))
    return dataclasses.replace(world, sampling=sampling)


def drives(world: World, frames: int, depth: bool) -> Drives:
    about = world.about["data"]
    domain = Domain(**about["domain"])
    size = (world.size[0], world.size[1])
    return Drives(frames, world.reach.views, size, float(about["fps"]), domain, "test", depth=depth)


def of_scenes(source: Drives, num: int) -> Clip:
    """Clips of as many scenes: eight clips of eight scenes take turns."""
    return collate([source(i // 8 * 64 + i % 8) for i in range(num)])


# -- one view -------------------------------------------------------------------------------------


def one_view(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Controllability and drift of a long roll-out."""
    past, fps = world.reach.past, float(world.about["data"]["fps"])
    source = drives(world, past + options.frames, False)
    made, real, actions = [], [], []
    at_once = 8
    for first in trange(0, options.clips, at_once, desc="roll-outs", disable=None):
        clip = collate([source(i // 8 * 64 + i % 8) for i in range(first, min(first + at_once, options.clips))])
        assert clip.actions is not None
        prompt = span(dataclasses.replace(clip, actions=None, cameras=None), 0, past)
        told = maskgwm.actions_of(clip.actions, fps, world.config.actions)  # type: ignore[union-attr]
        rolled = world.rollout(prompt, options.frames, options.seed, actions=told, cameras=clip.cameras)
        made.append(torch.cat([prompt.frames, rolled.frames], 2)[:, 0])
        real.append(clip.frames[:, 0])
        actions.append(clip.actions)
    frames, truth, acts = torch.cat(made), torch.cat(real), torch.cat(actions)
    row: dict[str, Any] = {"clips": len(frames), "frames": options.frames, "fps": fps}
    late = options.frames * 3 // 4
    for name, pictures in (("made", frames), ("real", truth)):
        for part, start in (("all", past - 1), ("last quarter", past - 1 + late)):
            found = driving.controllability(pictures[:, start:], acts[:, start:], fps)
            row[f"{name}, {part}"] = {
                what: {key: _ends(getattr(one, key)) for key in ("rmse", "pearson", "rank")}
                for what, one in found.items()
            }
        drift = driving.drift(pictures, past, options.frames // 4)
        row[f"{name}, colour"] = [_ends(one) for one in drift.colour]
        row[f"{name}, contrast"] = [_ends(one) for one in drift.contrast]
    return row


# -- several views --------------------------------------------------------------------------------


def several_views(world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Whether views agree, of frames ahead and of a camera that is missing."""
    reach, fps = world.reach, float(world.about["data"]["fps"])
    source = drives(world, reach.num_frames, True)
    clip = of_scenes(source, options.clips)
    assert clip.actions is not None and clip.cameras is not None and clip.depth is not None
    b, v, t = clip.frames.shape[:3]
    told = maskgwm.actions_of(clip.actions, fps, world.config.actions)  # type: ignore[union-attr]
    asked = dataclasses.replace(clip, actions=told, depth=None)
    known = past_and_future(reach.past, t - reach.past, 0, b, v)
    ahead = world.fill(asked, known, options.seed).frames[:, :, reach.past :]
    cameras = dataclasses.replace(clip.cameras, pose=clip.cameras.pose[:, :, reach.past :], ego=None)
    real = clip.frames[:, :, reach.past :]
    row: dict[str, Any] = {"clips": b, "views": v, "frames": t, "fps": fps}
    plain = [driving.overlap_error(x, cameras) for x in (ahead, real)]
    row["ahead, by the ground"] = _ratio(*plain)
    place = v // 2
    known = torch.ones(b, v, t, 1, 1, dtype=torch.bool)
    known[:, place] = False
    missing = world.fill(asked, known, options.seed).frames
    by_depth = [driving.overlap_error(x, clip.cameras, clip.depth) for x in (missing, clip.frames)]
    row["a camera, by true depth"] = _ratio(*by_depth)
    wrong = clip.frames.clone()
    wrong[:, place] = clip.frames.roll(1, 0)[:, place]
    row["another scene's camera, by true depth"] = _ratio(
        driving.overlap_error(wrong, clip.cameras, clip.depth), by_depth[1]
    )
    return row


def _ratio(made: driving.Overlap, real: driving.Overlap) -> dict[str, Any]:
    return {
        "made": made.error.mean().item(), "real": real.error.mean().item(),
        "ratio": _ends(driving.ratio(made, real, paired=True)), "share": real.share.mean().item(),
    }  # fmt: skip


# -- telling --------------------------------------------------------------------------------------


def table(name: str, row: dict[str, Any], options: argparse.Namespace) -> str:
    how = f"`{name}`, {row['clips']} held-out drives, {options.steps} steps, guidance {options.guidance:g}"
    if "views" in row:
        lines = [f"{how}, {row['views']} views of {row['frames']} frames.", ""]
        lines += ["| where two cameras see the same | made | real | made / real |", "|---|---|---|---|"]
        for what in [key for key in row if key.startswith(("ahead", "a camera", "another"))]:
            one = row[what]
            lines.append(f"| {what} | {one['made']:.4f} | {one['real']:.4f} | {_cell(one['ratio'])} |")
        return "\n".join(lines) + "\n"
    lines = [f"{how}, {row['frames']} frames at {row['fps']:g}/s.", ""]
    lines += ["| | yaw rate: correlation | RMSE, rad/s | speed: correlation | RMSE, m/s |", "|---|---|---|---|---|"]
    for what in [key for key in row if key.endswith(("all", "last quarter"))]:
        yaw, speed = row[what]["yaw_rate"], row[what]["speed"]
        lines.append(
            f"| {what} | {_cell(yaw['pearson'])} | {_cell(yaw['rmse'], 3)} | {_cell(speed['pearson'])} | "
            f"{_cell(speed['rmse'])} |"
        )
    lines += ["", "| after the prompt, by quarters | 1 | 2 | 3 | 4 |", "|---|---|---|---|---|"]
    for what in ("made, colour", "real, colour", "made, contrast", "real, contrast"):
        lines.append(f"| {what} | " + " | ".join(_cell(one, 3) for one in row[what]) + " |")
    return "\n".join(lines) + "\n"


def _ends(x: Interval) -> tuple[float, float, float]:
    return x.mean, x.low, x.high


def _cell(x: tuple[float, float, float], digits: int = 2) -> str:
    return f"{x[0]:.{digits}f} [{x[1]:.{digits}f}, {x[2]:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a path or a name of the zoo")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=200, help="after the prompt, of one view")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a document with marks, between which the table is put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = sampled(load(options.model), options)
    if not isinstance(world.config, maskgwm.Config):
        parser.error(f"{options.model} is no driving model")
    views = world.reach.views
    row = (one_view if views == 1 else several_views)(world, options)
    text = table(options.model, row, options)
    print(text)
    if options.write is not None:
        between.write(options.write, f"maskgwm_{'long' if views == 1 else 'mview'}", text)
    if options.json:
        print(json.dumps({"study": "maskgwm_drive", "model": options.model, "guidance": options.guidance, **row}))


if __name__ == "__main__":
    main()
