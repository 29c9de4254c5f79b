"""Find the gaits of maskworld/data/control.py: the cross-entropy method over what the physics returns, no pictures.

    python scripts/gaits.py cheetah
    python scripts/gaits.py hopper --task stand --iterations 60

Prints the best gait as Python, and its mean return over other episodes than those it was searched on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time

import numpy as np
import torch

from maskworld.data import control
from maskworld.noise import Rng
from maskworld.plan import cem

BOUNDS = {
    "offset": (-1.0, 1.0),
    "swing": (0.0, 1.5),
    "phase": (-math.pi, math.pi),
    "lean": (-2.0, 2.0),
    "damp": (-1, 1),
}
FREQUENCY = (0.5, 6.0)


def gait(numbers: np.ndarray) -> control.Gait:
    """From one row: the frequency, and then each field of all joints."""
    rows = numbers[1:].astype(np.float64).reshape(len(BOUNDS), -1).round(2).tolist()
    return control.Gait(round(float(numbers[0]), 3), *map(tuple, rows))


def score(env: control.Suite, law: control.Law, steps: int, seeds: range, height: float) -> list[float]:
    """Returns of episodes that begin with these seeds; and so much for a metre of height of the trunk, at each step."""
    found = []
    for seed in seeds:
        env.begin(seed)
        total = 0.0
        for _ in range(steps):
            total += env.advance(law(env.physics))
            total += height * float(env.physics.named.data.xpos["torso", "z"]) if height else 0.0
        found.append(total)
    return found


def main(
    name: str,
    task: str | None,
    num: int,
    iterations: int,
    elites: int,
    steps: int,
    starts: int,
    height: float,
    seed: int,
) -> None:
    if task is not None:
        control.TASKS[name] = dataclasses.replace(control.TASKS[name], task=task)
    env = control.load(name)
    assert isinstance(env, control.Suite)
    low = torch.tensor([FREQUENCY[0], *(b[0] for b in BOUNDS.values() for _ in range(env.actions))])
    high = torch.tensor([FREQUENCY[1], *(b[1] for b in BOUNDS.values() for _ in range(env.actions))])
    mean = torch.tensor([2.5, *(m for m in (0.0, 0.7, 0.0, 0.0, 0.0) for _ in range(env.actions))])
    began, best, asked = time.monotonic(), -math.inf, 0

    def cost(candidates: torch.Tensor) -> torch.Tensor:
        nonlocal best, asked
        seeds = range(1000 + asked * starts, 1000 + (asked + 1) * starts)  # others each time: none is learnt by heart
        asked += 1
        found = [float(np.mean(score(env, gait(c[0].numpy()), steps, seeds, height))) for c in candidates]
        if max(found) > best:
            best = max(found)
            print(f"{asked:3d}  {best:7.1f}  {time.monotonic() - began:5.0f} s", file=sys.stderr, flush=True)
        finals.append(candidates[int(np.argmax(found)), 0].numpy())
        return -torch.tensor(found)

    finals: list[np.ndarray] = []
    plan = cem(
        cost,
        low,
        high,
        (1, len(low)),
        num,
        iterations,
        elites,
        Rng.of(seed),
        mean=mean[None],
        std=(high - low)[None] / 3,
    )
    held_out = range(20)
    laws = [gait(numbers) for numbers in (plan.actions[0].numpy(), *finals[-5:])]
    means = [float(np.mean(score(env, law, steps, held_out, 0.0))) for law in laws]
    law = laws[int(np.argmax(means))]
    print(law)
    print(f"# {name}: mean return {max(means):.0f} over {steps} decisions, 20 episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("name", choices=["cheetah", "walker", "hopper"])
    parser.add_argument("--task", help="of the same body, such as walk or stand")
    parser.add_argument("--num", type=int, default=48, help="gaits tried in each iteration")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--elites", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250, help="decisions in an episode")
    parser.add_argument("--starts", type=int, default=2, help="episodes by which a gait is judged")
    parser.add_argument("--height", type=float, default=0.0, help="also reward height, where else nothing is rewarded")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
