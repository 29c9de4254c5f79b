"""How far ahead the draws of a clock's occupancy model are: each of them says its time.

maskworld train voc-clock --minutes 8 -o runs/clock
python studies/voc_clock.py runs/clock [--states 512] [--samples 8] [--json]

The delay of a draw should be geometric, Pr(delay = k) = (1 - gamma) gamma^(k-1), of mean 1 / (1 - gamma): told by a
chi-square test over delays, and by the mean. Draws that are no frame of the clock are counted and left out.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from scipy import stats

from maskworld.clip import of_uint8
from maskworld.data.toys import UNREADABLE, Clock
from maskworld.noise import Rng
from maskworld.papers import voc
from maskworld.world import load

LEAST = 10.0
"""Draws that are expected in each cell of the test."""


def delays(net: voc.VOC, clock: Clock, gamma: float, states: int, samples: int, seed: int) -> tuple[np.ndarray, float]:
    """How many frames ahead each draw is, of so many from states evenly spread; and the share of unreadable ones."""
    times = np.linspace(0, clock.period, states, endpoint=False).astype(int)
    clip = of_uint8(torch.from_numpy(clock.frames(times)))
    here = net.codes(clip)[0]
    told = voc.Told(torch.full((states,), gamma))
    found = voc.draws(net, here, told, samples, Rng.of(seed, batch=states))
    seen = clock.time_of(net.paint(found.flatten(0, 1))[:, -1]).numpy().reshape(states, samples)
    readable = seen != UNREADABLE
    ahead = (seen - times[:, None] - 1) % clock.period + 1
    return ahead[readable], 1 - float(readable.mean())


def judged(found: np.ndarray, clock: Clock, gamma: float) -> dict[str, float]:
    """The mean delay, and the probability of a chi-square as large as this if delays are as they should be."""
    expected = clock.delays(gamma) * len(found)
    counts = np.bincount(found - 1, minlength=clock.period).astype(float)
    cells: list[tuple[float, float]] = [(0.0, 0.0)]
    for many, mean in zip(counts, expected, strict=True):  # neighbours together, until enough are expected
        if cells[-1][1] >= LEAST:
            cells.append((0.0, 0.0))
        cells[-1] = (cells[-1][0] + many, cells[-1][1] + mean)
    if cells[-1][1] < LEAST:
        last = cells.pop()
        cells[-1] = (cells[-1][0] + last[0], cells[-1][1] + last[1])
    seen, mean = np.array(cells).T
    test = stats.chisquare(seen, mean * seen.sum() / mean.sum())
    return {
        "draws": len(found),
        "cells": len(cells),
        "chi2": float(test.statistic),
        "p": float(test.pvalue),
        "mean": float(found.mean()),
        "expected": float((clock.delays(gamma) * np.arange(1, clock.period + 1)).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--states", type=int, default=512)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    world = load(options.checkpoint)
    assert isinstance(world.net, voc.VOC)
    clock = Clock(world.about["data"]["period"])
    rows: list[dict[str, Any]] = []
    for gamma in world.net.config.gammas:
        found, lost = delays(world.net, clock, gamma, options.states, options.samples, options.seed)
        row = {"gamma": gamma, "unreadable": lost, **judged(found, clock, gamma)}
        rows.append(row)
        print(
            f"gamma {gamma:g}: mean delay {row['mean']:.3f}, expected {row['expected']:.3f} "
            f"({100 * (row['mean'] / row['expected'] - 1):+.1f} %); "
            f"chi-square {row['chi2']:.1f} in {row['cells']} cells, p = {row['p']:.3f}; "
            f"{row['draws']} draws, {100 * lost:.2f} % unreadable"
        )
    if options.json:
        print(json.dumps({"study": "voc_clock", "steps": world.about["step"], "rows": rows}))


if __name__ == "__main__":
    main()
