"""Memories against each other, on one backbone and one budget: what is recalled after how long, and at what price.

    python studies/memory.py --minutes 30 -o runs/memory [--start CKPT] [--seeds 0 1 2] [--arms ssm canvas ...]
                             [--write docs/results.md] [--json]

For each seed one network learns to read every memory: the clips of a batch take them in turn (none, each learned one,
the canvas), so that all arms have the same backbone, the same steps and the same data; what a memory adds in weights
is said. Memories that need nothing learned (window, sink, retrieval, consolidation) show frames, as "none" does. All
are then asked the same questions with the same window (16 frames in all), and so is a bound: everything is shown.
`--start` gives the backbone of all seeds; without it each trains its own, for as long as its memories.

With `--write docs/results.md` the tables are put between the two marks that stand there.

Families: P2a, P2b, P4, P5 (persistence), C2, C2-null, C3 (causality). Scores are of the probes: 0 for the better of
copy and shuffled, 1 for the oracle. Intervals draw seeds, and episodes within them. Resumable: what is trained or
marked is not done again; seeds may run side by side in processes of their own and are put together at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import between
import numpy as np
import torch

from maskworld.clip import of_frames, planar
from maskworld.commands.doctor import fast_precision
from maskworld.commands.memories import Chosen, memory_of
from maskworld.commands.subjects import of_world
from maskworld.commands.train import begin_with
from maskworld.memory.window import Window
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.probes.suite import Suite, as_dict, families_of, run
from maskworld.recipes.forcing_discs import forcing_discs
from maskworld.rollout import rollout
from maskworld.train import STATE, Recipe, train
from maskworld.world import World, load

FAMILIES = {"P2a": 3.0, "P2b": 3.0, "P4": 1.0, "P5": 2.0, "C2": 1.0, "C3": 1.0}  # with their shares in training

SHOWN = ("window", "sink", "retrieve-camera", "retrieve-likeness", "consolidate")
LEARNED = ("canvas", "compress", "merge", "ssm", "ttt", "recurrent")
BOUND = "all frames"
ARMS = (*SHOWN, *LEARNED, BOUND)
TINY = {"dim": 32, "depth": 2, "heads": 2, "ratio": 2}

# -- training -------------------------------------------------------------------------------------


def recipe_of(seed: int, memories: bool, quick: bool) -> Recipe:
    """Of the backbone alone, or with all memories: then two clips of a batch for each."""
    learned = tuple(name for name in LEARNED if name != "canvas") if memories else ()
    config = dataclasses.replace(forcing.mini(actions=9, memories=learned), **(TINY if quick else {}))
    recipe = forcing_discs(
        config,
        families=tuple(FAMILIES),
        shares=tuple(FAMILIES.values()),
        history=12,
        lr=1e-3 if memories else 1.5e-3,
        batch=2 * (2 + len(learned)) if memories else 8,
        canvas=memories,
        p_other=0.0 if memories else 0.1,
        seed=seed,
        look_every=10**9,
    )
    return dataclasses.replace(recipe, valid_clips=2 if quick else 56)


def trained(seed: int, options: argparse.Namespace, memories: bool = True) -> str:
    """The run of a seed; its backbone first. Nothing is trained twice."""
    run_of = options.out / f"{'memories' if memories else 'backbone'}-{seed}"
    if (run_of / "done").exists():
        return str(run_of)
    start = None
    if memories:
        start = options.start or trained(seed, options, memories=False)
    recipe = recipe_of(seed, memories, options.quick)
    resume = (run_of / STATE).exists()
    if start is not None and not resume:
        begin_with(recipe, start)
    precision = "bf16" if fast_precision("cpu") == torch.bfloat16 else "no"
    train(recipe, run_of, minutes=options.minutes, resume=resume, workers=0, precision=precision, quiet=True)
    (run_of / "done").touch()
    return str(run_of)


# -- asking ---------------------------------------------------------------------------------------


def chosen_of(arm: str, world: World) -> tuple[World, Chosen]:
    """The model with its memory, on the budget of its window. The bound is shown every frame there was."""
    if arm != BOUND:
        return world, memory_of(arm, world, cameras=True, stride=world.reach.stride)
    assert isinstance(world.net, forcing.Forcing)
    wide = forcing.Forcing(dataclasses.replace(world.net.config, window=128), dict(world.net.memories.items()))
    wide.load_state_dict(world.net.state_dict())
    world = dataclasses.replace(world, net=wide.eval(), config=wide.config)
    return world, Chosen(arm, Window(128), 128)


def asked(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of an arm of one seed, and what it costs."""
    found = options.out / f"scores-{arm.replace(' ', '_')}-{seed}.json"
    if found.exists():
        return json.loads(found.read_text())
    world = load(trained(seed, options))
    world = world.sampled(steps=options.steps, precision=fast_precision("cpu"))
    world, chosen = chosen_of(arm, world)
    subject = of_world(world, arm, chosen=chosen)
    scores: dict[str, Any] = {}
    seconds = 0.0
    for id, episodes in options.asked.items():
        began = time.process_time()
        scores |= as_dict(run(subject, Suite(families_of([id]), episodes), workers=0))["families"]
        seconds += time.process_time() - began
    net = world.net
    assert isinstance(net, forcing.Forcing)
    brick = net.memories[arm] if arm in net.memories else None
    row = {
        "arm": arm,
        "seed": seed,
        "steps": world.about["step"],
        "parameters": sum(p.numel() for name, p in net.named_parameters() if not name.startswith("memories.")),
        "parameters of the memory": sum(p.numel() for p in brick.parameters()) if brick is not None else 0,
        "bits": bits_of(chosen, net),
        **chosen.memory.cost._asdict(),
        "cpu seconds": round(seconds, 1),
        "scores": scores,
    }
    beside = found.with_suffix(".part")
    beside.write_text(json.dumps(row))
    beside.replace(found)
    return row


def speed(arm: str, seed: int, options: argparse.Namespace, frames: int = 24) -> float:
    """Tokens of new frames for each CPU second, rolling out one film of noise: half of its frames warm up."""
    found = options.out / f"speed-{arm.replace(' ', '_')}.json"
    if found.exists():
        return json.loads(found.read_text())
    world = load(trained(seed, options)).sampled(steps=options.steps, precision=fast_precision("cpu"))
    world, chosen = chosen_of(arm, world)
    assert isinstance(world.net, forcing.Forcing)
    noise = torch.rand((1, 1, 48, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = planar(torch.zeros(1, 48 + 2 * frames, 2), world.size[0])
    prompt, ahead = world.told(of_frames(noise), 2 * frames, None, still)
    clock: list[float] = []
    with torch.no_grad():
        rollout(
            world.fill_of(chosen.reads), prompt, ahead, chosen.memory, world.reach.stride, Rng.of(0),
            lambda done, total: clock.append(time.process_time()),
        )  # fmt: skip
    rate = frames * world.net.config.tokens / (clock[-1] - clock[len(clock) // 2 - 1])
    found.write_text(json.dumps(rate))
    return rate


def bits_of(chosen: Chosen, net: forcing.Forcing) -> int | None:
    """Of the state that is carried, for one example: pixels count 8 bits, numbers of a learned state 32."""
    config, cost = net.config, chosen.memory.cost
    frame = 8 * config.channels * config.size**2
    if chosen.name == "canvas":
        return frame * (cost.kept or 0)
    learned = 32 * chosen.numbers
    return None if cost.kept is None else frame * cost.kept + learned


# -- the table ------------------------------------------------------------------------------------


def hierarchical(
    seeds: Sequence[Mapping[str, Any]], family: str, resamples: int = 2000
) -> tuple[float, float, float] | None:
    """(mean, low, high) of the score, clipped to 0..1: seeds are drawn, and episodes within each."""
    each = [one["scores"][family] for one in seeds]
    if any(score["score"] is None for score in each):
        return None
    rng = np.random.default_rng(0)
    marks = [np.array([mark[1:] for mark in score["marks"]["subject"]]) for score in each]

    def score_of(i: int, rows: np.ndarray) -> float:
        error = rows[:, 0].sum() / rows[:, 1].sum()
        floor, ceiling = each[i]["floor"], each[i]["ceiling"]
        return float(np.clip((floor - error) / (floor - ceiling), 0, 1))

    mean = np.mean([score_of(i, rows) for i, rows in enumerate(marks)])
    drawn = [
        np.mean([score_of(i, marks[i][rng.integers(len(marks[i]), size=len(marks[i]))])
                 for i in rng.integers(len(marks), size=len(marks))])
        for _ in range(resamples)
    ]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(mean), float(low), float(high)


def number(seeds: Sequence[Mapping[str, Any]], family: str, name: str) -> float | None:
    """The mean over seeds of a number of a family."""
    found = [one["scores"][family]["numbers"].get(name) for one in seeds]
    values = [one["mean"] for one in found if one is not None and one["mean"] is not None]
    return float(np.mean(values)) if values else None


def recall(seeds: Sequence[Mapping[str, Any]], family: str) -> dict[int, float]:
    """Gap -> share of what was asked that was found at its place, over seeds."""
    found: dict[int, list[float]] = {}
    for one in seeds:
        for point in one["scores"][family]["curves"].get("recall", {"points": []})["points"]:
            found.setdefault(int(point["x"]), []).append(point["mean"])
    return {gap: float(np.mean(values)) for gap, values in sorted(found.items())}


def summary(arm: str, seeds: Sequence[Mapping[str, Any]], rate: float) -> dict[str, Any]:
    first = seeds[0]
    return {
        "arm": arm,
        "seeds": [one["seed"] for one in seeds],
        **{key: first[key] for key in ("parameters", "parameters of the memory", "bits", "shown", "tokens", "kept")},
        "steps": [one["steps"] for one in seeds],
        "tokens a second": rate,
        "scores": {family: hierarchical(seeds, family) for family in first["scores"]},
        "recall": {family: recall(seeds, family) for family in ("P2a", "P2b", "P5") if family in first["scores"]},
        "numbers": {
            family: {name: number(seeds, family, name) for name in score["numbers"]}
            for family, score in first["scores"].items()
        },
    }


RECALL = (("P2a", "P2a, things at rest"), ("P2b", "P2b, one moves"))
EFFECTS = (
    ("P4", "horizon", "P4, frames until it drifts"),
    ("C2", "effect R2", "C2, effect R2"),
    ("C3", "effect R2", "C3, effect R2"),
    ("C2-null", "null leak px", "C2-null, leak in px"),
)  # fmt: skip


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: scores with intervals; recall by gap; drift, effects and costs."""
    families = list(rows[0]["scores"])
    cells = {
        row["arm"]: ["n/a" if s is None else f"{s[0]:.2f} [{s[1]:.2f}, {s[2]:.2f}]" for s in row["scores"].values()]
        for row in rows
    }
    parts = [_markdown(["memory", *families], cells)]
    for family, what in RECALL:
        gaps = sorted({gap for row in rows for gap in row["recall"].get(family, {})})
        if gaps:
            curves = {row["arm"]: row["recall"][family] for row in rows}
            cells = {arm: [f"{curve.get(gap, math.nan):.2f}" for gap in gaps] for arm, curve in curves.items()}
            parts.append(_markdown([f"recall, {what}", *(f"after {gap}" for gap in gaps)], cells))
    effects = [(family, name, title) for family, name, title in EFFECTS if family in families]
    cells = {}
    for row in rows:
        values = [row["numbers"][family].get(name) for family, name, _ in effects]
        bits = "grows" if row["bits"] is None else f"{row['bits'] / 1e6:.1f} M"
        cells[row["arm"]] = [
            *("n/a" if value is None else f"{value:.2f}" for value in values),
            bits,
            f"{row['parameters of the memory']:,}",
            f"{row['tokens a second']:,.0f}",
            str(len(row["seeds"])),
        ]
    parts.append(
        _markdown(
            ["memory", *(title for *_, title in effects), "bits kept", "weights added", "tokens/CPU s", "seeds"], cells
        )
    )
    return "\n\n".join(parts)


def _markdown(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join([name, *cells])} |" for name, cells in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training the memories of a seed")
    parser.add_argument("--start", help="the backbone of all seeds; without it each trains its own, as long")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--episodes", type=int, default=25, help="of P2a, P2b and P5; the others have fewer")
    parser.add_argument("--steps", type=int, default=4, help="from noise to a clean frame")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", type=Path, help="a document with marks, between which the tables are put")
    parser.add_argument("--quick", action="store_true", help="under a minute: a tiny network, two arms, few episodes")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    n = options.episodes
    options.asked = {"P2a": n, "P2b": n, "P4": max(n // 6, 1), "P5": n, "C2": n // 2, "C2-null": n // 2, "C3": n // 2}
    if options.quick:
        options.seeds, options.arms, options.minutes, options.steps = [0], ["window", "ssm"], 0.05, 1
        options.asked = {"P2a": 5, "C2": 2}
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm in options.arms:
        seeds = []
        for seed in options.seeds:
            row = asked(arm, seed, options)
            seeds.append(row)
            told = {id: score["score"] and round(score["score"]["mean"], 2) for id, score in row["scores"].items()}
            print(f"{arm}, seed {seed}: {row['steps']} steps, {told}", flush=True)
        rows.append(summary(arm, seeds, speed(arm, options.seeds[0], options)))
    print(tables(rows))
    if options.write is not None:
        between.write(options.write, "memory", tables(rows))
    if options.json:
        print(json.dumps({"study": "memory", "minutes": options.minutes, "arms": rows}))


if __name__ == "__main__":
    main()
