"""Does generative TD find the occupancy of a chain whose occupancy is known? Sixteen states, two tokens each.

    python studies/voc_tabular.py [--quick] [--gammas 0.8 0.95] [--seeds 0 1] [--arms ...] [--write docs/results.md]
                                  [--json]

Each arm trains a transformer of 0.1 M weights from nothing and compares all of its conditional probabilities with
(1 - g) P (I - g P)^-1: the total variation, the mean over states. The last two arms have faults in the draws that
they learn from: the likeliest tokens alone, or probabilities that are sharpened a little. A fault that can hardly be
seen in one draw is applied again at each backup, and grows with the horizon.

Seconds are CPU seconds of one thread. With `--write docs/results.md` the table is put between the marks there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import between
import numpy as np
import torch
from torch import Tensor, nn

from maskworld.clip import Clip
from maskworld.masks import past_and_future
from maskworld.noise import Rng, mix
from maskworld.papers import voc
from maskworld.train import power_ema

# -- the chain ------------------------------------------------------------------------------------

BASE = 4  # a state is two digits


class Chain(NamedTuple):
    """Transitions of a dense random chain, P[i, j] of j after i."""

    p: Tensor

    @classmethod
    def of(cls, states: int) -> Chain:
        generator = torch.Generator().manual_seed(5)
        return cls(torch.softmax(2 * torch.randn(states, states, generator=generator, dtype=torch.float64), 1))

    def occupancy(self, gamma: float) -> Tensor:
        eye = torch.eye(len(self.p), dtype=torch.float64)
        return (1 - gamma) * self.p @ torch.linalg.inv(eye - gamma * self.p)

    def walks(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        """Each state begins equally many walks, if `num` is a multiple of the states."""
        total, now = self.p.cumsum(1), torch.arange(num) % len(self.p)
        found = [now]
        for _ in range(steps):
            chance = torch.rand(num, 1, generator=generator, dtype=torch.float64)
            now = torch.searchsorted(total[now], chance)[:, 0].clamp(max=len(self.p) - 1)
            found.append(now)
        return torch.stack(found, dim=1)


def digits(states: Tensor) -> Tensor:
    return torch.stack([states // BASE, states % BASE], dim=-1)


class Digits(nn.Module):
    """Stands for a tokenizer: frames are two codes already."""

    vocab, grid, size, channels, dim, paints = BASE, (1, 2), 2, 1, BASE, False

    def vectors(self, codes: Tensor) -> Tensor:
        return nn.functional.one_hot(codes, BASE).float()


class Together(Rng):
    """One generator for all of a batch: cheaper, where no example is ever looked at by itself."""

    def __init__(self, seed: int, batch: int):
        super().__init__([torch.Generator().manual_seed(seed)] * batch)

    def uniform(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        return torch.rand(len(self), *shape, generator=self.generators[0]).to(device)

    def integers(self, low: int, high: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        return torch.randint(low, high, (len(self), *shape), generator=self.generators[0]).to(device)


# -- training -------------------------------------------------------------------------------------

TAU = 0.02
ARMS = {
    "one step": voc.TD(steps=1, loss="sample", tau=TAU),
    "one step, whole distributions": voc.TD(steps=1, tau=TAU),
    "4 steps": voc.TD(steps=4, loss="sample", tau=TAU),
    "4 steps, whole distributions": voc.TD(steps=4, tau=TAU),
    "Monte Carlo": voc.TD(steps=None),
    "one step, temperature 0.9": voc.TD(steps=1, loss="sample", tau=TAU, temperature=0.9),
    "one step, likeliest 2 of 4": voc.TD(steps=1, loss="sample", tau=TAU, top_k=2),
}  # fmt: skip


class Budget(NamedTuple):
    states: int = 16
    steps: int = 2500
    batch: int = 256
    lr: float = 2e-3
    dim: int = 64
    depth: int = 2


def trained(td: voc.TD, gamma: float, budget: Budget, seed: int) -> tuple[float, float]:
    """(total variation, CPU seconds) of the averaged weights, after a cosine to 0."""
    began = time.process_time()
    torch.manual_seed(mix(seed))
    chain = Chain.of(budget.states)
    config = voc.tiny(
        size=2, channels=1, vocab=BASE, grid=(1, 2), dim_code=BASE, gammas=(gamma,), dim=budget.dim,
        depth=budget.depth, heads=2, ends=False,
    )  # fmt: skip
    net = voc.VOC(config, Digits())
    net.begin(torch.zeros(2), td.steps is not None)
    net.train()
    learnt = [p for p in net.occupancy.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=budget.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    ask, keep, generator = voc.objective(td), power_ema(0.1), torch.Generator().manual_seed(seed)
    mean = [p.detach().clone() for p in learnt]
    # Beyond these steps less than one walk in a thousand would go on.
    ahead = td.steps or int(np.ceil(np.log(1e-3) / np.log(gamma)))
    known = past_and_future(1, ahead, 0, budget.batch)
    for step in range(budget.steps):
        walks = digits(chain.walks(budget.batch, ahead, generator)).float()
        clip = Clip(walks[:, None, :, None, None], torch.arange(1 + ahead).expand(budget.batch, -1))
        for group in optimiser.param_groups:
            group["lr"] = budget.lr * min(1.0, (step + 1) / 50) * (1 + np.cos(np.pi * step / budget.steps)) / 2
        ask(net, clip, known, Together(mix(seed, step), budget.batch)).total.mean().backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(mean, list(learnt), 1 - keep(step))  # pyright: ignore[reportPrivateImportUsage]
    with torch.no_grad():
        for weight, value in zip(learnt, mean, strict=True):
            weight.copy_(value)
    return apart(net.eval(), chain, gamma), time.process_time() - began


@torch.no_grad()
def apart(net: voc.VOC, chain: Chain, gamma: float) -> float:
    """Total variation between the model's probabilities of all states and the occupancy, the mean over states."""
    n = len(chain.p)
    state, other = digits(torch.arange(n).repeat_interleave(n)), digits(torch.arange(n).repeat(n))
    logits, _ = net.occupancy(state, voc.Told(torch.full((n * n,), gamma)), other)
    log_p = logits.double().log_softmax(-1).gather(-1, other[..., None])[..., 0].sum(1)
    return (0.5 * (log_p.exp().view(n, n) - chain.occupancy(gamma)).abs().sum(1)).mean().item()


# -- the table ------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: an arm in each line, a discount in each column."""
    gammas = sorted({row["gamma"] for row in rows})
    head = " | ".join([*(f"g = {gamma:g}" for gamma in gammas), "CPU s a run"])
    lines = [f"| what is to be written | {head} |", "|---" * (len(gammas) + 2) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = {row["gamma"]: row for row in rows if row["arm"] == arm}
        numbers = [f"{np.mean(cells[g]['apart']):.3f}" if g in cells else "" for g in gammas]
        seconds = np.mean([s for row in cells.values() for s in row["cpu_seconds"]])
        lines.append(f"| {arm} | {' | '.join(numbers)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 states, 300 steps, one discount; under a minute")
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.8, 0.95])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    for name, default in Budget()._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--tau", type=float, default=TAU, help="how fast the slow copy follows")
    parser.add_argument("--write", type=Path, help="a document with marks, between which the table is put")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(*(getattr(given, name) for name in Budget._fields))
    if given.quick:
        given.gammas, given.seeds = [0.8], [0]
        budget = budget._replace(states=8, steps=300)
    rows = []
    for arm in given.arms:
        td = ARMS[arm] if ARMS[arm].steps is None else dataclasses.replace(ARMS[arm], tau=given.tau)
        for gamma in given.gammas:
            runs = [trained(td, gamma, budget, seed) for seed in given.seeds]
            found, seconds = ([run[i] for run in runs] for i in (0, 1))
            rows.append({"arm": arm, "gamma": gamma, "apart": found, "cpu_seconds": seconds})
            each = ", ".join(f"{value:.4f}" for value in found)
            print(f"{arm}, g = {gamma:g}: total variation {each}; {np.mean(seconds):.0f} CPU s", flush=True)
    print("\n" + table(rows))
    if given.write is not None:
        between.write(given.write, "voc_tabular", table(rows))
    if given.json:
        print(json.dumps({"study": "voc_tabular", "budget": budget._asdict(), "tau": given.tau, "arms": rows}))


if __name__ == "__main__":
    main()
