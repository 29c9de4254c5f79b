"""RQ2 of MCVD: does hiding the past at random in training help prediction?

    python studies/mcvd_masking.py --steps 1500 -o runs/masking [--json]

Two trainings on digits from the same weights, with the same clips in the same order and the same noise, of equal
steps; in one the past is hidden from half of the clips. Both then predict the same held-out clips with the same noise,
and the difference is taken clip by clip. Resumable: a training that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from maskworld.data.digits import MovingDigits
from maskworld.papers.mcvd import small
from maskworld.probes.protocol import Task, evaluate
from maskworld.probes.quality import MCVD_DIGITS
from maskworld.probes.statistics import difference
from maskworld.recipes.mcvd_digits import mcvd_digits
from maskworld.train import STATE, train
from maskworld.world import load

ARMS = {"always shown": 0.0, "hidden from half": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/masking"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    steps, clips = (3, 2) if options.quick else (options.steps, options.clips)
    config = small(future=0)
    task = Task(config.past, 10)
    scores = {}
    for name, p_hide in ARMS.items():
        run = options.out / name.replace(" ", "-")
        recipe = mcvd_digits(config, p_hide_past=p_hide, p_hide_future=0.0, p_part=0.0, look_every=10**9)
        train(recipe, run, steps=steps, resume=(run / STATE).exists(), workers=0)
        report = evaluate(
            load(run).fill_with_rng,
            MovingDigits("test", task.frames),
            task,
            num_clips=clips,
            samples=options.samples,
            protocol=MCVD_DIGITS,
            batch=32,
        )
        scores[name] = report
        print(f"{name}: " + ", ".join(f"{row} {v['psnr']} dB" for row, v in report.scores.items()))
    shown, hidden = (scores[name].items["one"]["psnr"] for name in ARMS)
    gain = difference(hidden, shown)
    print(f"hiding the past adds {gain} dB to the PSNR of one sample ({clips} clips, {steps} steps)")
    if options.json:
        found = {name: {row: v["psnr"].mean for row, v in r.scores.items()} for name, r in scores.items()}
        gained = {"mean": gain.mean, "low": gain.low, "high": gain.high}
        print(json.dumps({"study": "mcvd_masking", "steps": steps, "clips": clips, "psnr": found, "gain": gained}))


if __name__ == "__main__":
    main()
