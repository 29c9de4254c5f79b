"""What rolling out costs, frame by frame, with every memory; and what a training step makes of the matrix units.

    python benchmarks/rollout.py [--quick] [--json] [--checkpoint forcing-discs] [--preset mini]

Parts: cost per frame at frame 100 and at frame 1,000, measured in turn from the states there, and what is kept - with
the cache, without it, and with the whole window computed at every call of the network - a training step of the small
preset in bf16 against a plain product of matrices on the same cores. Costs of weights do not depend on their values:
without a checkpoint they are random. Seconds are CPU seconds of one thread, which hardly see the machine's neighbours;
the training step takes all cores and wall seconds, the best of several.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from maskworld import masks, noise
from maskworld.clip import Clip, of_frames, planar, span
from maskworld.commands.doctor import fast_bf16
from maskworld.commands.memories import PLAIN, memory_of
from maskworld.noise import Rng
from maskworld.papers import forcing
from maskworld.rollout import ahead_of, rollout
from maskworld.verbs import Fill, Known
from maskworld.world import BRICKS, World, load, network

MATMUL = 2048
EARLY, LATE, AROUND = 100, 1000, 8  # frames of the two measurements, and over how many
TARGETS = {"late / early": 1.1, "whole window / cached": 5.0, "share of the matrix rate": 0.30}

# -- roll-outs ------------------------------------------------------------------------------------


class Watched:
    """A memory that can begin at any state, and whose state stands here after each piece."""

    def __init__(self, memory: Any, state: Any = None):
        self.memory, self.cost, self.state = memory, memory.cost, state

    def start(self, clip: Clip) -> Any:
        return self.memory.start(clip) if self.state is None else self.state

    def recall(self, state: Any, ahead: Clip) -> Clip:
        return self.memory.recall(state, ahead)

    def store(self, state: Any, new: Clip) -> Any:
        self.state = self.memory.store(state, new)
        return self.state


def numbers_in(state: Any) -> int:
    """Numbers in all tensors of a state, whatever it is made of."""
    if isinstance(state, Tensor):
        return state.numel()
    if dataclasses.is_dataclass(state):
        return sum(numbers_in(getattr(state, field.name)) for field in dataclasses.fields(state))
    if isinstance(state, tuple | list):
        return sum(numbers_in(part) for part in state)
    if isinstance(state, dict):
        return sum(numbers_in(part) for part in state.values())
    return 0


def prompt_and_ahead(world: World, num_ahead: int) -> tuple[Clip, Clip]:
    """A camera that wanders over noise, so that memories which look at cameras have something to do."""
    generator, t = torch.Generator().manual_seed(0), world.reach.past
    frames = torch.rand((1, 1, t, world.channels, *world.size), generator=generator) * 2 - 1
    ways = (torch.randint(-1, 2, (1, t + num_ahead, 2), generator=generator) * 8.0).cumsum(1) % 64
    prompt = dataclasses.replace(of_frames(frames), cameras=planar(ways[:, :t], world.size[0]))
    ahead = dataclasses.replace(ahead_of(prompt, num_ahead), cameras=planar(ways[:, t:], world.size[0]))
    if world.reach.actions:
        prompt = dataclasses.replace(prompt, actions=torch.zeros(1, t, world.reach.actions))
        ahead = dataclasses.replace(ahead, actions=torch.zeros(1, num_ahead, world.reach.actions))
    return prompt, ahead


def of_memory(world: World, name: str, early: int, late: int, steps: int, repeats: int = 9) -> dict[str, Any]:
    """Roll out to both frames, keep the states, and go on from them in turn: CPU seconds of a frame, numbers kept."""
    chosen = memory_of(name, world, cameras=True, stride=1)
    prompt, ahead = prompt_and_ahead(world, late + AROUND)
    states, state, last = {}, None, 0
    with torch.no_grad():
        for frame in (early, late):
            watched = Watched(chosen.memory, state)
            rollout(
                world.sampled(steps=1).fill_of(chosen.reads), prompt, span(ahead, last, frame), watched, 1, Rng.of(0)
            )
            states[frame], state, last = watched.state, watched.state, frame
        fills = {frame: world.sampled(steps=steps).fill_of(chosen.reads) for frame in states}
        clock: dict[int, list[float]] = {frame: [] for frame in states}
        for i in range(repeats + 1):
            for frame in states:
                piece = span(ahead, frame, frame + AROUND)
                began = time.process_time()
                rollout(fills[frame], prompt, piece, Watched(chosen.memory, states[frame]), 1, Rng.of(0))
                if i:
                    clock[frame].append((time.process_time() - began) / AROUND)
    ms = {frame: 1000 * statistics.median(spent) for frame, spent in clock.items()}
    return {
        "memory": name,
        "ms at early": ms[early],
        "ms at late": ms[late],
        "late / early": statistics.median(b / a for a, b in zip(clock[early], clock[late], strict=True)),
        "numbers kept at early": numbers_in(states[early]),
        "numbers kept at late": numbers_in(states[late]),
    }


# -- with and without the cache -------------------------------------------------------------------


def whole_window(net: forcing.Forcing, steps: int) -> Fill:
    """One frame after a window of known ones, with all of the window computed at every call: no cache of any kind."""

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        t = clip.shape[2]
        now = clip.times[:, -1].float()
        cameras = lambda part: clip.cameras and dataclasses.replace(clip.cameras, pose=clip.cameras.pose[:, :, part])
        past, new = slice(0, t - 1), slice(t - 1, t)
        frames = clip.frames[:, 0]
        there = torch.ones_like(frames[:, past, :1], dtype=torch.bool)
        felt = forcing.felt_of(clip, net.config.actions)
        x = noise.gaussian(frames[:, new], rng)
        levels = forcing.shifted(torch.linspace(1, 0, steps + 1), net.config.shift)
        with torch.inference_mode():
            for a, b in itertools.pairwise(levels):
                place = net.place(clip.times[:, past].float(), cameras(past), now)
                seen, _ = net.see(frames[:, past], there, place)
                told = net.told(a.expand(x.shape[0], 1), None if felt is None else felt[:, new])
                place = net.place(clip.times[:, new].float(), cameras(new), now)
                empty = torch.zeros_like(x[:, :, :1], dtype=torch.bool)
                x0 = net(x, empty, told, place, net.context(seen, now, None, None), None).clamp(-1, 1)
                x = b / a * x + (1 - b / a) * x0
        return dataclasses.replace(clip, frames=torch.cat([clip.frames[:, :, past], x[:, None]], dim=2))

    return run


def caching(world: World, frames: int, steps: int) -> dict[str, Any]:
    """The same roll-out in three ways: seconds of a frame, ratios, and how far the pictures are apart."""
    assert isinstance(world.net, forcing.Forcing)
    prompt, ahead = prompt_and_ahead(world, frames)
    memory = memory_of("window", world, cameras=True, stride=1).memory
    ways: dict[str, Callable[[], Fill]] = {
        "cached": lambda: forcing.fill(world.net, forcing.Sampling(steps=steps)),  # type: ignore[arg-type]
        "window once a frame": lambda: forcing.fill(world.net, forcing.Sampling(steps=steps, cached=0)),  # type: ignore[arg-type]
        "whole window": lambda: whole_window(world.net, steps),  # type: ignore[arg-type]
    }
    spent, films = {}, {}
    for name, way in ways.items():
        clock, last = [], time.process_time()

        def on_frame(done: int, total: int, clock: list[float] = clock) -> None:
            nonlocal last
            clock.append(time.process_time() - last)
            last = time.process_time()

        films[name] = rollout(way(), prompt, ahead, memory, 1, Rng.of(0), on_frame).frames
        spent[name] = statistics.median(clock)
    return {
        **{f"ms {name}": 1000 * seconds for name, seconds in spent.items()},
        "window once a frame / cached": spent["window once a frame"] / spent["cached"],
        "whole window / cached": spent["whole window"] / spent["cached"],
        "apart": max((film - films["cached"]).abs().max().item() for film in films.values()),
    }


# -- training -------------------------------------------------------------------------------------


def training(preset: str, batch: int, repeats: int) -> dict[str, Any]:
    """A step's rate in floating-point operations of its products, and that of one plain product, in turn."""
    precision = torch.bfloat16 if fast_bf16() else torch.float32
    config = getattr(forcing, preset)(actions=9)
    net = network(config)
    assert isinstance(net, forcing.Forcing)
    optimiser, ask = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True), forcing.objective()
    clip = of_frames(torch.rand(batch, 1, 16, 3, 64, 64) * 2 - 1)
    known = masks.past_and_future(12, 4, 0, batch)
    a, b = torch.randn(2, MATMUL, MATMUL).to(precision)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = ask(net, clip, known, Rng.of(0, batch=batch))
        loss.total.mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    spent: dict[str, list[float]] = {"step": [], "matmul": []}
    for i in range(repeats + 1):
        for name, work in (("matmul", lambda: a @ b), ("step", step)):
            began = time.perf_counter()
            work()
            if i:
                spent[name].append(time.perf_counter() - began)
    operations = _operations(config, batch)
    rate = {"step": operations / min(spent["step"]), "matmul": 2 * MATMUL**3 / min(spent["matmul"])}
    return {
        "preset": preset,
        "parameters": sum(p.numel() for p in net.parameters()),
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "ms a step": 1000 * min(spent["step"]),
        "GFLOP/s of a step": rate["step"] / 1e9,
        "GFLOP/s of a product": rate["matmul"] / 1e9,
        "share of the matrix rate": rate["step"] / rate["matmul"],
    }


def _operations(config: forcing.Config, batch: int, past: int = 12, ahead: int = 4) -> float:
    """Of the products of a step, forwards and twice backwards: linear layers on every token, and attention."""
    tokens, dim = config.tokens, config.dim
    linear = 2 * batch * (past + ahead) * tokens * config.depth * (4 + 2 * config.ratio) * dim**2
    looks = past * tokens**2 + ahead * tokens * (past + ahead) * tokens
    return 3 * (linear + 2 * 2 * batch * looks * dim * config.depth)


# -- the command ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer frames and memories")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--checkpoint", help="measure this model, and the learned memories that it holds")
    parser.add_argument("--preset", default="mini", help="of random weights, where no checkpoint is given")
    parser.add_argument("--steps", type=int, default=2, help="from noise to a clean frame, in the long roll-outs")
    args = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if args.checkpoint:
        world = load(args.checkpoint)
    else:
        torch.manual_seed(0)
        config = getattr(forcing, args.preset)(actions=9, memories=tuple(BRICKS))
        world = World(network(config).eval().requires_grad_(False), config, {})
    early, late = (40, 160) if args.quick else (EARLY, LATE)
    names = ["window", "retrieve-camera"] if args.quick else [n for n in PLAIN if n != "retrieve"]
    names += list(world.reach.memories)[: 1 if args.quick else None]
    report: dict[str, Any] = {"early": early, "late": late, "steps": args.steps, "memories": []}
    print(f"{'memory':<20} ms at {early:<5} ms at {late:<5} ratio   numbers kept")
    for name in names:
        row = of_memory(world, name, early, late, args.steps)
        report["memories"].append(row)
        print(
            f"{name:<20} {row['ms at early']:8.1f} {row['ms at late']:11.1f} {row['late / early']:9.2f}   "
            f"{row['numbers kept at early']:,} -> {row['numbers kept at late']:,}",
            flush=True,
        )
    report["cache"] = cache = caching(world, 12 if args.quick else 60, 8)
    print(
        f"a frame of 8 steps: cached {cache['ms cached']:.0f} ms, the window once a frame "
        f"{cache['window once a frame / cached']:.1f}x, the whole window at every step "
        f"{cache['whole window / cached']:.1f}x; at most {cache['apart']:.0e} apart"
    )
    torch.set_num_threads(threads)
    report["training"] = train = training("small", 4, 2 if args.quick else 8)
    print(
        f"a training step of {train['preset']} ({train['parameters'] / 1e6:.1f} M) in {train['precision']}: "
        f"{train['ms a step']:.0f} ms, {train['GFLOP/s of a step']:.0f} of {train['GFLOP/s of a product']:.0f} "
        f"GFLOP/s: {train['share of the matrix rate']:.0%}"
    )
    print("targets: " + ", ".join(f"{name} {value:g}" for name, value in TARGETS.items()))
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
