"""What the probes themselves cost: episodes per second by family, and a whole suite without a model.

    python benchmarks/probes.py [--quick] [--json] [--full]

By family: drawing an episode (screens included), filming what a model is shown and what happens, marking an answer
(read-out and all); then all that a suite does of it, six references included. Seconds are of one core's CPU, which
hardly see the machine's neighbours. A suite is run as a user runs it, with worker processes, and takes wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# Before torch is loaded: the workers are what is parallel.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from maskworld.probes.base import Asked, Episode, Family, Setting
from maskworld.probes.references import reference
from maskworld.probes.suite import BESIDE, FAMILIES, Suite, families_of, full, marks_of, quick, run

TARGET = {"quick": 60.0, "full": 600.0}  # seconds on two cores


def seconds(work: Callable[[], object]) -> float:
    """Of CPU."""
    start = time.process_time()
    work()
    return time.process_time() - start


def of_family(family: Family, episodes: int, setting: Setting) -> dict[str, Any]:
    """CPU seconds for an episode."""
    suite, oracle = Suite((family,), episodes, setting), reference("oracle")
    marks_of(oracle, family, family.episode(episodes, setting), episodes, suite)  # what is worked out once
    drawn: list[Episode] = []
    draw = seconds(lambda: drawn.extend(family.episode(i, setting) for i in range(episodes)))

    def film() -> None:
        for episode in drawn:
            for question in episode.questions:
                question.prompt(setting.tier)
                question.truth(setting.tier)

    def mark(name: str) -> None:
        for index, episode in enumerate(drawn):
            marks_of(reference(name), family, episode, index, suite)

    def answer() -> None:
        for index, episode in enumerate(drawn):
            for branch, question in enumerate(episode.questions):
                oracle.answer([Asked(question, family, index, branch, setting)])

    filmed, whole = seconds(film), {name: seconds(lambda name=name: mark(name)) for name in BESIDE}
    answered = seconds(answer) if family.kind != "play" else 0.0
    return {
        "family": family.id,
        "draw_s": draw / episodes,
        "film_s": filmed / episodes,
        "mark_s": max(0.0, whole["oracle"] - answered) / episodes,
        "suite_s": (draw + sum(whole.values())) / episodes,
        "frames": sum(q.horizon for q in drawn[0].questions),
    }


def of_suite(suite: Suite, workers: int) -> dict[str, float]:
    """Wall seconds of a run with the oracle."""
    start = time.perf_counter()
    result = run(reference("oracle"), suite, workers=workers)
    wall = time.perf_counter() - start
    assert not result.failed, result.failed
    return {"episodes": suite.episodes, "families": len(suite.families), "workers": workers, "wall_s": wall}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer episodes of each family, and no whole suite")
    parser.add_argument("--full", action="store_true", help="run the full suite, too")
    parser.add_argument("--families", default=",".join(FAMILIES), help="ids, with commas")
    parser.add_argument("--episodes", type=int, help="of each family, by family")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tier", choices=["flat", "textured"], default="flat")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args(argv)
    families = families_of(given.families.split(","))
    setting = Setting(tier=given.tier)
    episodes = given.episodes or (3 if given.quick else 12)
    found: dict[str, Any] = {"benchmark": "probes", "tier": given.tier, "episodes": episodes, "families": []}

    print(f"episodes per second of one core, {given.tier} tier, {episodes} episodes of each family\n")
    print(f"{'family':8}{'draw':>9}{'film':>9}{'mark':>9}{'suite':>9}{'frames asked':>15}")
    for family in families:
        row = of_family(family, episodes, setting)
        found["families"].append(row)
        rates = "".join(_rate(row[name]) for name in ("draw_s", "film_s", "mark_s", "suite_s"))
        print(f"{row['family']:8}{rates}{row['frames']:15}", flush=True)
    cost = sum(row["suite_s"] for row in found["families"])
    found["cpu_s"] = {name: cost * suite().episodes for name, suite in (("quick", quick), ("full", full))}
    print(f"\nCPU: {found['cpu_s']['quick']:.0f} s the quick suite, {found['cpu_s']['full']:.0f} s the full one")

    found["suites"] = {}
    for name, preset in (("quick", quick), ("full", full)):
        if (name == "quick" and given.quick) or (name == "full" and not given.full):
            continue
        timed = of_suite(preset(families=families, setting=setting), given.workers)
        found["suites"][name] = timed
        print(
            f"{name} suite: {timed['wall_s']:.0f} s with {given.workers} workers on {os.cpu_count()} cores; "
            f"{timed['families']} families, {timed['episodes']} episodes each. Goal on two cores: {TARGET[name]:.0f} s",
            flush=True,
        )
    if given.json:
        print(json.dumps(found))
    return 0


def _rate(seconds: float) -> str:
    return f"{1 / seconds:9.1f}" if seconds > 0 else f"{'-':>9}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
