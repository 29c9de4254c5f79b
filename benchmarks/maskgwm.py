"""What MaskGWM costs: a training step with tokens dropped and without, in bfloat16 and in float32, and frames a second.

    python benchmarks/maskgwm.py [--quick] [--json] [--threads 2] [--repeats 5]

Parts:
- a training step (forward, backward, AdamW) of the `small` network for one, three and six cameras, and of `base` for
  three: with nothing hidden; with a quarter of the tokens of each row dropped and filled in (the paper's way); and with
  the same tokens masked in attention instead, which is what dropping is to save. To reach, for three cameras or more: a
  step with tokens dropped costs at most 0.85 of one without.
- the same step with nothing hidden in float32: bfloat16 is to be at least twice as fast, where the CPU has it.
- a roll-out: frames a second at the sampler's default steps, in both types.

All stand in turn within one run (A B C A B C ...); medians are compared, of CPU seconds, which hardly see what else
runs, and of wall seconds. Latents are random: what a tokenizer costs is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from mcvd import Seconds, in_turn

from maskworld.clip import Clip, of_frames
from maskworld.commands.doctor import fast_precision
from maskworld.masks import past_and_future
from maskworld.noise import Rng
from maskworld.papers import maskgwm

TARGETS = {"dropped / plain": 0.85, "float32 / bfloat16": 2.0}
TOKENS = 4608
"""Of a batch, about: as many clips as that gives."""

WAYS = {
    "plain": None,
    "dropped": maskgwm.Way(),
    "masked attention": maskgwm.Way(attention="masked_rows"),
}


class Step:
    """A training step of a network on one batch."""

    def __init__(self, config: maskgwm.Config, way: maskgwm.Way | None, precision: torch.dtype, batch: int):
        torch.manual_seed(0)
        self.net, self.precision = maskgwm.MaskGWM(config).train(), precision
        self.objective = maskgwm.objective(way or maskgwm.Way(), masking=way is not None)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.clip = clip_of(config, batch)
        v, t = config.views, config.num_frames
        self.known = past_and_future(config.references, t - config.references, 0, batch, v)
        self.rng = Rng.of(0, batch=batch)

    def __call__(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == torch.bfloat16):
            loss = self.objective(self.net, self.clip, self.known, self.rng).total.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.net.parameters() if p.grad is not None], 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


def clip_of(config: maskgwm.Config, batch: int) -> Clip:
    shape = (batch, config.views, config.num_frames, config.channels, *config.size)
    frames = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    actions = torch.tensor([5.0, 0.02]).expand(batch, config.num_frames, 2)
    return dataclasses.replace(of_frames(frames), actions=actions)


def config_of(views: int, frames: int, preset: str = "small") -> maskgwm.Config:
    """The network on pixels: as many tokens, of about as many numbers, as on latents."""
    make = {"small": maskgwm.small, "base": maskgwm.base}[preset]
    return make(views=views, num_frames=frames, latent=3, factor=1, patch=8)


def steps(views: int, frames: int, repeats: int, precision: torch.dtype, preset: str) -> dict[str, Any]:
    config = config_of(views, frames, preset)
    gh, gw = config.grid
    batch = max(TOKENS // (views * frames * gh * gw), 1)
    works: dict[str, Callable[[], object]] = {name: Step(config, way, precision, batch) for name, way in WAYS.items()}
    if precision != torch.float32:
        works["float32"] = Step(config, None, torch.float32, batch)
    spent = dict(zip(works, in_turn(list(works.values()), repeats), strict=True))
    row: dict[str, Any] = {"preset": preset, "views": views, "frames": frames, "batch": batch}
    row |= {name: {"cpu": s.cpu, "wall": s.wall} for name, s in spent.items()}
    ratios = {f"{name} / plain": share(spent[name], spent["plain"]) for name in ("dropped", "masked attention")}
    if "float32" in spent:
        ratios["float32 / bfloat16"] = share(spent["float32"], spent["plain"])
    told = ", ".join(f"{name} {each['cpu']:.2f} ({each['wall']:.2f})" for name, each in ratios.items())
    print(
        f"{preset}, {views} x {frames} frames, batch {batch}: plain {spent['plain'].cpu:.2f} CPU s a step; {told}",
        flush=True,
    )
    return row | {"ratios": ratios}


def share(one: Seconds, of: Seconds) -> dict[str, float]:
    return {"cpu": one.cpu / of.cpu, "wall": one.wall / of.wall}


def rollouts(repeats: int, precision: torch.dtype) -> dict[str, Any]:
    """Frames a second of a long model's roll-out of three pieces."""
    config = config_of(1, 8)
    torch.manual_seed(0)
    net, new = maskgwm.MaskGWM(config).eval(), 3 * (config.num_frames - config.references)
    t = config.references + new
    clip = clip_of(dataclasses.replace(config, num_frames=t), 1)
    known, row = past_and_future(config.references, new, 0), {"frames": new}
    kinds = [torch.float32] if precision == torch.float32 else [torch.float32, precision]
    fills = [maskgwm.fill(net, maskgwm.Sampling(precision=kind)) for kind in kinds]
    works = [lambda fill=fill: fill(clip, known, Rng.of(0, batch=1)) for fill in fills]
    for kind, spent in zip(kinds, in_turn(works, repeats), strict=True):
        row[str(kind).removeprefix("torch.")] = {"frames_per_cpu_s": new / spent.cpu, "frames_per_s": new / spent.wall}
    rates = [f"{name} {each['frames_per_s']:.1f}" for name, each in row.items() if isinstance(each, dict)]
    print(f"roll-out of {new} frames, {maskgwm.Sampling().steps} steps a piece, frames/s: {', '.join(rates)}")
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one and three cameras, one repeat; under a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    precision, repeats = fast_precision("cpu"), 1 if given.quick else given.repeats
    small = [("small", 1, 8), ("small", 3, 6)]
    sizes = small if given.quick else [*small, ("small", 6, 6), ("base", 3, 4)]
    print(f"{precision}, {given.threads} threads; ratios of CPU (wall) seconds; to reach: {TARGETS}")
    rows = [steps(views, frames, repeats, precision, preset) for preset, views, frames in sizes]
    rolled = rollouts(repeats, precision)
    if given.json:
        found = {"torch": torch.__version__, "threads": given.threads, "precision": str(precision)}
        print(json.dumps({"benchmark": "maskgwm", **found, "quick": given.quick, "steps": rows, "rollout": rolled}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
