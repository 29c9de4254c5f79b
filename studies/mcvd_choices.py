"""The small preset's departures from the paper, one at a time, at equal cost of training.

    python studies/mcvd_choices.py --minutes 5 -o runs/choices [--arms "the preset" "no stem"] [--json]

Each arm undoes one choice (or all that concern the target) and trains on the same clips for the same CPU time: a few
steps are timed first, and the number of steps follows. All predict the same held-out clips with the same solver.
Resumable: an arm that is done is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from maskworld.clip import collate
from maskworld.commands.doctor import fast_precision
from maskworld.data.digits import MovingDigits
from maskworld.noise import Rng
from maskworld.papers.mcvd import small
from maskworld.probes.protocol import Task, evaluate
from maskworld.probes.quality import MCVD_DIGITS
from maskworld.probes.statistics import difference
from maskworld.recipes.mcvd_digits import mcvd_digits
from maskworld.train import STATE, Recipe, train
from maskworld.world import load

PAPER: dict[str, Any] = {"predicts": "eps", "weight": "sum", "schedule": "linear"}
ARMS: dict[str, dict[str, Any]] = {
    "the preset": {},
    "the paper's target, schedule and EMA": PAPER,
    "v instead of the clean frame": {"predicts": "v"},
    "no stem": {"stem": 1},
    "five frames a block": {"current": 5},
    "no noise on the context": {"context_noise": 0.0},
    "where motions lead": {"motions": 2, "followed": 5},
    "24, 48 and 96 channels": {"width": 24, "multiples": (1, 2, 4)},
}
LR = {"the paper's target, schedule and EMA": 2e-4}  # the paper's


def recipe_of(arm: str) -> Recipe:
    return mcvd_digits(
        small(**ARMS[arm]), lr=LR.get(arm, 2e-3), p_hide_past=0.2, p_hide_future=0.5, p_part=0.3, look_every=10**9
    )


def seconds_a_step(recipe: Recipe, precision: torch.dtype, steps: int = 4) -> float:
    """CPU seconds of a step, the least of a few."""
    net = recipe.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    spent = []
    for step in range(steps + 1):
        began = time.process_time()
        clip = collate([recipe.data(step * recipe.batch + i) for i in range(recipe.batch)])
        b, v, t = clip.frames.shape[:3]
        rng = Rng.of(step, batch=b)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = recipe.objective(net, clip, recipe.draw(b, v, t, rng), rng)
        loss.total.mean().backward()
        net.zero_grad()
        spent.append(time.process_time() - began)
    return min(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of training for each arm")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="steps of DPM-Solver++(2M), for all arms")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="default: all")
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/choices"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    precision = fast_precision()
    clips = 2 if options.quick else options.clips
    rows: dict[str, Mapping[str, Any]] = {}
    first: Any = None
    for arm in options.arms:
        run = options.out / arm.replace(" ", "-").replace(",", "").replace("'", "")
        if not (run / "done").exists():
            steps = 3 if options.quick else round(options.minutes * 60 / seconds_a_step(recipe_of(arm), precision))
            bf16 = "bf16" if precision == torch.bfloat16 else "no"
            train(recipe_of(arm), run, steps=steps, resume=(run / STATE).exists(), workers=0, precision=bf16)
            (run / "done").touch()
        world = load(run)
        report = evaluate(
            world.sampled(options.steps, "dpmpp_2m", precision).fill_with_rng,
            MovingDigits("test", 15),
            Task(5, 10),
            num_clips=clips,
            samples=options.samples,
            protocol=MCVD_DIGITS,
            batch=32,
        )
        one = report.items["one"]["psnr"]
        first = one if first is None else first
        gain = difference(one, first)
        scores = report.scores["one"]
        rows[arm] = {
            "steps": world.about["step"],
            "psnr": scores["psnr"].mean,
            "ssim": scores["ssim"].mean,
            "against_preset": {"mean": gain.mean, "low": gain.low, "high": gain.high},
        }
        print(
            f"{arm}: {world.about['step']} steps, {scores['psnr']} dB, SSIM {scores['ssim']}, {gain} dB to "
            f"{options.arms[0]}"
        )
    if options.json:
        print(json.dumps({"study": "mcvd_choices", "minutes": options.minutes, "clips": clips, "arms": rows}))


if __name__ == "__main__":
    main()
