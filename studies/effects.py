"""The loss on an intervention's effect: does it teach what follows from a cause, and what does not?

    python studies/effects.py --minutes 5 --start CHECKPOINT -o runs/effects [--weight 1] [--json]

Two arms go on from one checkpoint of the causal family, for equally many steps on the same clips in the same order:
pairs of branches of one episode that differ in one factor (C2, C2-null, C3). One has the loss |(x0_i' - x0_j') -
(x0_i - x0_j)|^2 on each pair beside its own, the other has not. `minutes` of CPU go into each. Both, and the
checkpoint itself, are then asked the same questions: the effect that is explained (R^2), and what leaks to what the
change has nothing to do with. Resumable: what is trained or marked is not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mcvd_choices import seconds_a_step

from maskworld.commands.doctor import fast_precision
from maskworld.commands.subjects import of_world
from maskworld.commands.train import begin_with
from maskworld.papers import forcing
from maskworld.probes.suite import Suite, as_dict, compare, families_of, run
from maskworld.recipes.forcing_discs import forcing_discs
from maskworld.train import STATE, Recipe, train
from maskworld.world import load

FAMILIES = ("C2", "C2-null", "C3")
NUMBERS = {
    "C2": ("effect R2", "slope"),
    "C2-null": ("effect R2", "null leak (squared)", "null leak px"),
    "C3": ("effect R2", "gain", "bystander leak"),
}
WITHOUT, WITH, BEFORE = "without", "with", "before"


def recipe_of(start: str, weight: float, lr: float, quick: bool) -> Recipe:
    """On pairs, whatever the weight of their loss; begins with the checkpoint."""
    world = load(start)
    if not isinstance(world.config, forcing.Config):
        raise ValueError(f"--start {start}: it is not of the causal family")
    many = (1.0,) * len(FAMILIES)
    recipe = forcing_discs(world.config, FAMILIES, many, lr=lr, p_other=0.0, paired=True, pairs=weight)
    recipe = dataclasses.replace(recipe, look=None)
    begin_with(recipe, start)
    return dataclasses.replace(recipe, valid_clips=8) if quick else recipe


def trained(run: Path, recipe: Recipe, steps: int) -> None:
    """Train in this folder, unless that is done."""
    if not (run / "done").exists():
        bf16 = "bf16" if fast_precision() == torch.bfloat16 else "no"
        train(recipe, run, steps=steps, resume=(run / STATE).exists(), workers=0, precision=bf16)
        (run / "done").touch()


def told(value: Mapping[str, Any] | None) -> str:
    """Mean and interval, for people."""
    if value is None or value["mean"] is None:
        return "n/a"
    ends = "" if value["low"] is None else f" [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value['mean']:.3g}{ends}"


def steps_of(plan: Path, about: Mapping[str, Any], minutes: float, quick: bool) -> int:
    """Steps of each arm: as written down when the study began, or as many as the minutes hold."""
    if not plan.exists():
        recipe = recipe_of(about["start"], about["weight"], about["lr"], quick)
        steps = 3 if quick else max(1, round(minutes * 60 / seconds_a_step(recipe, fast_precision())))
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({**about, "steps": steps}))
    held = json.loads(plan.read_text())
    if {**held, **about} != held:
        raise ValueError(f"{plan.parent} holds another study: {held}")
    return held["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="a checkpoint of the causal family on the probes' frames")
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of training for each arm")
    parser.add_argument("--weight", type=float, default=1.0, help="of the loss on pairs, in the arm that has it")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--episodes", type=int, default=30, help="of each family")
    parser.add_argument("--steps", type=int, default=4, help="from noise to frames")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw episodes")
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/effects"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    out, start, weight, quick = options.out, options.start, options.weight, options.quick
    episodes, steps = (2, 1) if quick else (options.episodes, options.steps)
    about = {"start": start, "weight": weight, "lr": options.lr}
    training = steps_of(out / "study.json", about, options.minutes, quick)
    runs: dict[str, str | Path] = {BEFORE: start, WITHOUT: out / WITHOUT, WITH: out / WITH}
    for arm, given in ((WITHOUT, 0.0), (WITH, weight)):
        trained(out / arm, recipe_of(start, given, options.lr, quick), training)

    suite = Suite(families_of(FAMILIES), episodes)
    results: dict[str, Mapping[str, Any]] = {}
    rows: dict[str, Any] = {}
    for arm, where in runs.items():
        world = load(where).sampled(steps, precision=fast_precision())
        folder, held = out / "marks" / arm, out / "marks" / BEFORE / "references.jsonl"
        if held.exists() and not (folder / held.name).exists():  # the same for all
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(held, folder)
        subject = of_world(world, f"{where} after {world.about.get('step')} steps, drawn in {steps}")
        results[arm] = as_dict(run(subject, suite, folder, workers=options.workers))
        found = results[arm]["families"]
        rows[arm] = {
            family: {"score": found[family]["score"], **{name: found[family]["numbers"].get(name) for name in names}}
            for family, names in NUMBERS.items()
        }
        print(f"{arm}" + (f", {training} steps" if arm != BEFORE else ""), flush=True)
        for family, row in rows[arm].items():
            print(f"  {family}: " + ", ".join(f"{name} {told(value)}" for name, value in row.items()), flush=True)
    gains = compare(results[WITH], results[WITHOUT])["families"]
    for family, row in gains.items():
        p = "" if "p_holm" not in row else f", p {row['p_holm']:.3g} (Holm)"
        print(f"{family}, unclipped score with - without: {told(row.get('difference'))}{p}")
    if options.json:
        result = {"training_steps": training, "episodes": episodes, "arms": rows, "with_minus_without": gains}
        print(json.dumps({"study": "effects", **about, **result}))


if __name__ == "__main__":
    main()
