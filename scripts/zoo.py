"""Put a trained run into the zoo: half-precision weights and their card.

python scripts/zoo.py runs/digits mcvd-digits --minutes 90 --machine "2 cores of an AMD EPYC" --scores a.json b.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import torch

from maskworld import checkpoint
from maskworld.world import TRAINING_ONLY

PARTS = ("all", "still", "moving")
ZOO = Path(__file__).parents[1] / "maskworld" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of the training")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--recipe", required=True, help="the command that trained it")
    parser.add_argument(
        "--scores", type=Path, nargs="*", default=[], help="last lines of evaluate or probe with --json"
    )
    options = parser.parse_args()
    tensors, about = checkpoint.read(checkpoint.find(options.run))
    halves = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in tensors.items()
        if not name.startswith(TRAINING_ONLY)
    }
    checkpoint.finite(halves, options.run)
    path = ZOO / f"{options.name}.safetensors"
    checkpoint.write(path, halves, about)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    card = {
        "name": options.name,
        "recipe": options.recipe,
        "commit": commit,
        "data": about["data"],
        "steps": about["step"],
        "batch": about["batch"],
        "minutes": options.minutes,
        "machine": options.machine,
        "parameters": sum(value.numel() for value in halves.values()),
        "scores": [_score(json.loads(file.read_text().splitlines()[-1])) for file in options.scores],
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _score(report: dict) -> dict:
    """What a reader of the card compares: of `evaluate --json`, `probe --json`, `value evaluate --json`,
    `value act --json`, studies/maskgwm_drive.py, or studies/mim4d_transfer.py --subject."""
    if report.get("study") == "maskgwm_drive":
        return {key: value for key, value in report.items() if key not in ("study", "model")}
    if report.get("study") == "mim4d_depth":
        return {
            "films": report["rendered"][0]["all"]["n"],
            "relative error of depth": {
                row["what"]: {part: [round(row[part][k], 4) for k in ("mean", "low", "high")] for part in PARTS}
                for row in report["rendered"]
            },
        }
    if report["command"] == "value evaluate":
        return {"samples": report["samples"], "tables": report["tables"]}
    if report["command"] == "act":
        return {key: report[key] for key in ("task", "how", "episodes", "decisions", "rows", "above")}
    if report["command"] == "probe":
        return {key: report[key] for key in ("memory", "episodes", "scores", "curves")}
    kept = {key: report[key] for key in ("task", "clips", "samples", "seed")}
    kept["psnr"] = {row: values["psnr"] for row, values in report["scores"].items()}
    kept["ssim"] = {row: values["ssim"] for row, values in report["scores"].items()}
    return kept | {
        "frechet": report["frechet"] and {k: report["frechet"][k] for k in ("extractor", "mean_of_trajectories")}
    }


if __name__ == "__main__":
    main()
