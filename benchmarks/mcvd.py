"""How fast MCVD samples: ours against the paper's network and loop written down plainly, on the same weights.

    python benchmarks/mcvd.py [--quick] [--json]

Parts: that both give the same frames - seconds per call of the network - a whole block - equal PSNR (of a trained
model, `--checkpoint`). The two stand in turn (A B A B ...) within one run and medians are compared, since what else
the machine does comes and goes. CPU seconds are the process's own, and hardly see its neighbours; wall seconds do.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from plain_mcvd import Plain, condition, sample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from maskworld import checkpoint, solve
from maskworld.clip import Clip, collate, example, of_frames, span
from maskworld.commands.doctor import fast_bf16
from maskworld.commands.evaluate import held_out
from maskworld.masks import past_and_future
from maskworld.nets.attention import SpatialAttention
from maskworld.nets.unet import ResBlock, to_depth
from maskworld.noise import Rng
from maskworld.papers import mcvd
from maskworld.probes.quality import psnr
from maskworld.probes.statistics import difference
from maskworld.world import load

TOLERANCE = 1e-4  # of the check, for frames in [-1, 1]
MATMUL = 2048

# -- measuring ------------------------------------------------------------------------------------


class Seconds(NamedTuple):
    wall: float
    cpu: float


def in_turn(works: Sequence[Callable[[], object]], repeats: int, warm: bool = True) -> list[Seconds]:
    """The median seconds of each, run one after the other `repeats` times, after one run of each to `warm` up."""
    spent: list[list[Seconds]] = [[] for _ in works]
    for i in range(-warm, repeats):
        for work, times in zip(works, spent, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if i >= 0:
                times.append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
    return [
        Seconds(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times)) for times in spent
    ]


def matmul(precision: torch.dtype) -> Callable[[], Tensor]:
    a = torch.randn(MATMUL, MATMUL, generator=torch.Generator().manual_seed(0)).to(precision)
    return lambda: a @ a


def gflop_of(work: Callable[[], object]) -> float:
    """Of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() / 1e9


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object) -> int:
    return sdpa_flop_count(q, k, v)


# torch counts its fused attention on every device but the CPU.
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


# -- the two --------------------------------------------------------------------------------------


def lively(config: mcvd.Config, seed: int = 0) -> mcvd.MCVD:
    """A network with random weights whose branches, which start near zero, all speak.

    Its weights keep asking for gradients: autocast remembers the casts of no others.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = mcvd.MCVD(config).eval()
        ends: list[nn.Conv2d | nn.Linear] = [net.unet.out]
        for module in net.modules():
            ends += [module.conv1] if isinstance(module, ResBlock) else []
            ends += [module.out] if isinstance(module, SpatialAttention) else []
        for layer in ends:
            nn.init.normal_(layer.weight, std=0.5 * layer.weight[0].numel() ** -0.5)
    return net


@dataclass(frozen=True)
class Pair:
    """One network, both ways: `plain` in float32, `ours` in `precision`."""

    net: mcvd.MCVD
    plain: Plain
    precision: torch.dtype

    @classmethod
    def of(cls, net: mcvd.MCVD, precision: torch.dtype) -> Pair:
        ours = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(ours, Plain(net), precision)

    def context(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """(context frames, which are shown), of which the past alone is."""
        config = self.net.config
        past = clip.frames[:, 0, : config.past]
        context = torch.cat([past, past.new_zeros(past.shape[0], config.future, *past.shape[2:])], dim=1)
        return context, (torch.arange(config.num_context) < config.past).expand(past.shape[0], -1)

    def calls(self, clip: Clip) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
        """(one call of plain, one of ours, what ours computes once for a block of 100 steps)."""
        config, net = self.net.config, self.net
        b = clip.frames.shape[0]
        context, shown = self.context(clip)
        x = Rng.of(1, batch=b).normal((config.current, config.channels, config.size, config.size))
        stacked, cond = to_depth(x.flatten(1, 2), config.stem), condition(config, context, shown)
        label, times = torch.full((b,), 499), torch.arange(9, config.num_times, 10)
        seen, when = net.see(context, shown), net.when(config.num_times - 1 - label[:1], shown[:1])

        def plain() -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.plain(stacked, label, cond)

        return plain, lambda: net(x, when, seen), lambda: (net.see(context, shown), net.when(times, shown[:1]))

    def loops(self, clip: Clip, steps: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """The block after the past by DDPM with the paper's last call, from the same noise: (plain's, ours)."""
        config = self.net.config
        b = clip.frames.shape[0]
        fill = mcvd.fill(self.net, mcvd.Sampling(steps, denoise_label=True, precision=self.precision))
        known = past_and_future(config.past, config.current, 0, b)
        asked = span(clip, 0, config.past + config.current)

        def plain() -> Tensor:
            return sample(self.plain, *self.context(clip), steps, Rng.of(2, batch=b)).clamp(-1, 1)

        def ours() -> Tensor:
            return fill(asked, known, Rng.of(2, batch=b)).frames[:, 0, config.past :]

        return plain, ours


def noise_clip(config: mcvd.Config, batch: int) -> Clip:
    frames = (1, config.past + config.current, config.channels, config.size, config.size)
    return of_frames(Rng.of(3, batch=batch).uniform(frames) * 2 - 1)


# -- parts ----------------------------------------------------------------------------------------


def check(config: mcvd.Config, steps: int = 5) -> float:
    """The largest difference between the frames of both in float32. Raises ValueError where it is too large."""
    plain, ours = Pair.of(lively(config), torch.float32).loops(noise_clip(config, 2), steps)
    theirs = plain()
    apart = (theirs - ours()).abs().max().item()
    if not (apart < TOLERANCE and theirs.std() > 0.1):
        raise ValueError(
            f"both should give the same frames, but they differ by {apart:.1e}: the comparison is not fair"
        )
    return apart


def compare(config: mcvd.Config, batch: int, threads: int, repeats: int, steps: int) -> dict[str, Any]:
    """Seconds of a call and of a whole block, beside a matrix product that says what the machine can do."""
    torch.set_num_threads(threads)
    precision = torch.bfloat16 if fast_bf16() else torch.float32
    pair, clip = Pair.of(lively(config), precision), noise_clip(config, batch)
    # Autocast is entered once, as in a whole fill: it casts the weights when it meets them first.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        plain, ours, once = pair.calls(clip)
        gflop = {"plain": gflop_of(plain), "ours": gflop_of(ours)}
        works = [plain, ours, once, matmul(torch.float32), matmul(precision)]
        t_plain, t_ours, t_once, t_float32, t_ours_matmul = in_turn(works, repeats)
    peak = {name: 2 * MATMUL**3 / 1e9 / t.cpu for name, t in (("plain", t_float32), ("ours", t_ours_matmul))}
    block_plain, block_ours = in_turn(pair.loops(clip, steps), 1, warm=False)
    frames = batch * config.current
    return {
        "batch": batch,
        "threads": threads,
        "call_s": {"plain": t_plain._asdict(), "ours": t_ours._asdict(), "ours_once_a_block": t_once._asdict()},
        "call_ratio": ratio(t_plain, t_ours),
        "gflop_a_call": gflop,
        "matmul_gflop_per_cpu_s": peak,
        "fraction_of_peak": {
            "plain": gflop["plain"] / t_plain.cpu / peak["plain"],
            "ours": gflop["ours"] / t_ours.cpu / peak["ours"],
        },
        "block_steps": steps,
        "block_s": {"plain": block_plain._asdict(), "ours": block_ours._asdict()},
        "block_frames_per_cpu_s": {"plain": frames / block_plain.cpu, "ours": frames / block_ours.cpu},
        "block_ratio": ratio(block_plain, block_ours),
        # 100 steps and the last call, from the seconds of a call
        "block_ratio_100": {
            unit: 101 * getattr(t_plain, unit) / (getattr(t_once, unit) + 101 * getattr(t_ours, unit))
            for unit in Seconds._fields
        },
    }


def ratio(slow: Seconds, fast: Seconds) -> dict[str, float]:
    return {"wall": slow.wall / fast.wall, "cpu": slow.cpu / fast.cpu}


def equal_psnr(
    name: str, clips: int, samples: int, solvers: Sequence[str], steps: Sequence[int], repeats: int
) -> dict[str, Any]:
    """On held-out clips: few steps of which solver are as good as 100 of DDPM, and how much faster are they?

    The quality of DDPM is measured on ours, whose frames are those of the plain loop (checked here too). Times are
    of a batch of 4 on one thread, the plain loop in turn with every sampler of ours.
    """
    torch.set_num_threads(1)
    world = load(name)
    config, net = world.config, world.net
    assert isinstance(net, mcvd.MCVD)
    if config.motions:
        raise ValueError(f"the plain loop is the paper's, and looks for no motions; {name} does")
    pair = Pair(net, Plain(net), torch.float32)
    data, *_ = held_out(world, None, config.past + config.current)
    truth = collate([data(i) for i in range(clips)])
    known = past_and_future(config.past, config.current, 0, clips)
    ahead = truth.frames[:, :, config.past :]

    def psnrs(sampling: mcvd.Sampling) -> dict[str, list[float]]:
        """Of each clip: the mean over single samples, and that of the mean of all samples."""
        fill = mcvd.fill(net, sampling)
        drawn = [fill(truth, known, Rng.of(n, batch=clips)).frames[:, :, config.past :] for n in range(samples)]
        one = torch.stack([psnr(sample_, ahead)[:, 0] for sample_ in drawn]).mean(0)
        return {"one": one.tolist(), "mean": psnr(torch.stack(drawn).mean(0), ahead)[:, 0].tolist()}

    few = {f"{solver}-{n}": mcvd.Sampling(n, solve.SOLVERS[solver]) for solver in solvers for n in steps}
    samplers = {"ddpm-100": mcvd.Sampling(100), **few}
    quality = {label: psnrs(sampling) for label, sampling in samplers.items()}

    four, fours_known = example(truth, slice(4)), known[:4]
    rng = lambda: Rng.of(0, batch=len(fours_known))
    plain = lambda: sample(pair.plain, *pair.context(four), 100, rng(), denoise_label=False).clamp(-1, 1)
    fills = [mcvd.fill(net, sampling) for sampling in samplers.values()]
    apart = (plain() - fills[0](four, fours_known, rng()).frames[:, 0, config.past :]).abs().max().item()
    if not apart < TOLERANCE:
        raise ValueError(f"plain and ours differ by {apart:.1e} in 100 steps of DDPM: the comparison is not fair")
    spent = in_turn([plain, *(lambda fill=fill: fill(four, fours_known, rng()) for fill in fills)], repeats, warm=False)
    frames = len(fours_known) * config.current
    rows = []
    for label, seconds in zip(samplers, spent[1:], strict=True):
        row: dict[str, Any] = {
            "sampler": label,
            "frames_per_cpu_s": frames / seconds.cpu,
            "ratio": ratio(spent[0], seconds),
        }
        for kind in ("one", "mean"):
            better = difference(quality[label][kind], quality["ddpm-100"][kind])
            row[f"psnr_{kind}"] = statistics.mean(quality[label][kind])
            row[f"psnr_{kind}_minus_ddpm"] = [better.mean, better.low, better.high]
        rows.append(row)
    best = {}
    for kinds in (("one",), ("mean",), ("one", "mean")):
        good = [row for row in rows if all(row[f"psnr_{kind}_minus_ddpm"][0] >= 0 for kind in kinds)]
        row = max(good, key=lambda row: row["ratio"]["cpu"])
        best[" and ".join(kinds)] = {"sampler": row["sampler"], "ratio": row["ratio"]}
    return {
        "checkpoint": name,
        "clips": clips,
        "samples": samples,
        "plain_apart": apart,
        "plain_frames_per_cpu_s": frames / spent[0].cpu,
        "rows": rows,
        "best": best,
    }


# -- command line ---------------------------------------------------------------------------------

MODELS = {"big5": mcvd.smmnist(), "big5_spade": mcvd.smmnist(spatin=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 1, one thread, loops of 2 steps; under a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2")
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 4")
    parser.add_argument("--repeats", type=int, help="of a call of the network; default 5")
    parser.add_argument("--steps", type=int, help="of the loop that is measured as a whole, divides 1000; default 100")
    parser.add_argument(
        "--checkpoint", default="mcvd-discs", help="of the part on equal PSNR: a name of the zoo or a path"
    )
    parser.add_argument("--clips", type=int, help="held-out clips of that part; default 32")
    parser.add_argument("--samples", type=int, help="of each clip; default 10")
    parser.add_argument("--solvers", nargs="+", choices=solve.SOLVERS, default=["dpmpp_2m", "ddim"])
    parser.add_argument("--few", nargs="+", type=int, help="numbers of steps to try; default 4 5 6 8 10 15 20")
    given = parser.parse_args(arguments)
    full = {"threads": [1, 2], "batches": [1, 4], "repeats": 5, "steps": 100, "clips": 32, "samples": 10}
    full["few"] = [4, 5, 6, 8, 10, 15, 20]
    quick = {"threads": [1], "batches": [1], "repeats": 2, "steps": 2, "clips": 2, "samples": 2, "few": [5, 10]}
    for name, value in (quick if given.quick else full).items():
        if getattr(given, name) is None:
            setattr(given, name, value)

    bf16 = "in hardware: ours uses it" if fast_bf16() else "not in hardware: ours uses float32 too"
    found: dict[str, Any] = {
        "benchmark": "mcvd",
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16": bf16,
        "quick": given.quick,
    }
    print(f"torch {torch.__version__} on {found['cpu']}; bf16: {bf16}")
    torch.set_num_threads(min(given.threads))
    small = {"future": 0, "num_times": 1000, "width": 32}
    found["check"] = {
        "concat": check(mcvd.tiny(**small)),
        "spatin": check(mcvd.tiny(spatin=16, **small)),
    }
    print(f"both give the same frames in float32: largest difference {max(found['check'].values()):.1e}\n")
    print(_HEADER)
    found["speed"] = []
    for model in given.models:
        for batch in given.batches:
            for threads in given.threads:
                row = {"model": model, **compare(MODELS[model], batch, threads, given.repeats, given.steps)}
                found["speed"].append(row)
                print(_line(row), flush=True)
    print(
        f"\nSeconds: of CPU; ratios plain / ours in CPU (wall) seconds. Block: {given.steps} steps of DDPM and\n"
        "the paper's last call, as a whole; at 100: from a call's seconds and what ours computes once a block.\n"
        f"Peak: GFLOP of a call per CPU second, over those of a {MATMUL} x {MATMUL} matrix product in this precision."
    )
    try:
        checkpoint.find(given.checkpoint)
    except ValueError as error:
        found["equal_psnr"] = None
        print(f"\nequal PSNR: skipped, {error}")
    else:
        found["equal_psnr"] = equal_psnr(
            given.checkpoint, given.clips, given.samples, given.solvers, given.few, 1 if given.quick else 3
        )
        print(_table(found["equal_psnr"]))
    if given.json:
        print(json.dumps(found))
    return 0


_HEADER = (
    f"{'model':11}{'batch':>6}{'threads':>8}{'plain call':>12}{'ours':>8}{'ratio':>14}"
    f"{'block ratio':>15}{'at 100':>14}{'peak: plain':>13}{'ours':>7}"
)


def _line(row: dict[str, Any]) -> str:
    def both(name: str) -> str:
        return f"{row[name]['cpu']:.2f} ({row[name]['wall']:.2f})"

    call, peak = row["call_s"], row["fraction_of_peak"]
    return (
        f"{row['model']:11}{row['batch']:6}{row['threads']:8}{call['plain']['cpu']:12.3f}{call['ours']['cpu']:8.3f}"
        f"{both('call_ratio'):>14}{both('block_ratio'):>15}{both('block_ratio_100'):>14}"
        f"{peak['plain']:13.0%}{peak['ours']:7.0%}"
    )


def _table(part: dict[str, Any]) -> str:
    lines = [
        f"\nequal PSNR: {part['checkpoint']}, {part['clips']} held-out clips, {part['samples']} samples of each;",
        f"ratios of frames/s to the plain loop of DDPM-100, {part['plain_frames_per_cpu_s']:.3g} frames per CPU s\n",
        f"{'sampler':14}{'frames/CPU s':>13}{'ratio (wall)':>16}{'PSNR of one':>13}{'- DDPM':>24}"
        f"{'of the mean':>13}{'- DDPM':>24}",
    ]
    for row in part["rows"]:
        apart = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*row[f"psnr_{kind}_minus_ddpm"]) for kind in ("one", "mean")]
        speed = f"{row['ratio']['cpu']:.1f} ({row['ratio']['wall']:.1f})"
        lines.append(
            f"{row['sampler']:14}{row['frames_per_cpu_s']:13.3g}{speed:>16}{row['psnr_one']:13.2f}{apart[0]:>24}"
            f"{row['psnr_mean']:13.2f}{apart[1]:>24}"
        )
    for kind, best in part["best"].items():
        lines.append(f"fastest at equal or better PSNR of {kind}: {best['sampler']}, {best['ratio']['cpu']:.1f} times")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
