"""What MIM4D costs: rays rendered a second, by finite differences and by gradients, and the memory they take.

    python benchmarks/mim4d.py [--quick] [--json] [--threads 2] [--repeats 5] [--device cpu]

Parts:
- rendering, forward and backward, of equal rays and samples with alpha="fd" and alpha="autograd", each with the field
  that it is used with (autograd's colours are told normals). To reach: fd at least 1.5 times as fast.
- the depth error of both, in metres on rays not trained on, after equally many steps of a volume and a field that
  learn a walled yard from the depths of random rays: faster counts only where the error is the same. Over seeds.
- memory against rays and against voxels: the bytes that a render keeps for its gradients, without the volume (on a CPU
  counted tensor by tensor; on a GPU the highest mark of forward and backward).

Speeds stand in turn within one run (A B A B ...); medians are compared, of CPU seconds, which hardly see what else
runs, and of wall seconds; on a GPU wall seconds alone mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from typing import Any, Literal

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from mcvd import in_turn
from torch import Tensor

from maskworld.nets.render import Field, March, Rendered, render
from maskworld.nets.voxel import Grid

Alpha = Literal["fd", "autograd"]
ALPHAS: tuple[Alpha, Alpha] = ("fd", "autograd")
TARGET = 1.5
CHANNELS = 32

# (rays of all cameras, cells along x and y, coarse and fine samples); the last is that of a released configuration.
SIZES = [(384, 64, (48, 16)), (768, 64, (48, 16)), (3072, 128, (72, 24))]
RAYS, CELLS = (96, 384, 1536), (32, 64, 128)


def grid_of(cells: int, reach: float = 32.0) -> Grid:
    return Grid((-reach, -reach, -3.0), (reach, reach, 5.0), (cells, cells, 5))


class Work:
    """A render of random rays through a random volume, and its gradients."""

    def __init__(self, alpha: Alpha, rays: int, cells: int, pieces: tuple[int, int], device: str):
        torch.manual_seed(0)
        self.alpha: Alpha = alpha
        self.field = Field(CHANNELS, normals=alpha == "autograd").to(device)
        self.grid, self.march = grid_of(cells), March(coarse=pieces[0], fine=pieces[1])
        rng = torch.Generator().manual_seed(0)
        self.volume = torch.randn(1, CHANNELS, 5, cells, cells, generator=rng).to(device).requires_grad_()
        self.origins, self.directions, self.jitter = (one.to(device) for one in rays_like(rays, rng))
        self.device = device

    def look(self) -> Rendered:
        rays = self.origins, self.directions, self.jitter
        return render(self.field, self.volume, self.grid, *rays, self.march, self.alpha)

    def __call__(self) -> None:
        seen = self.look()
        (seen.rgb.mean() + seen.depth.mean()).backward()
        self.field.zero_grad()
        self.volume.grad = None
        if self.device == "cuda":
            torch.cuda.synchronize()


def rays_like(rays: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(origins, directions, jitter): around the car, from a roof's height, level to 20 degrees down."""
    around, down, jitter = torch.rand(3, 1, rays, generator=rng)
    around, down = around * 2 * torch.pi, down * 0.35
    directions = torch.stack([around.cos() * down.cos(), around.sin() * down.cos(), -down.sin()], dim=-1)
    return torch.tensor([0.0, 0.0, 1.6]).expand_as(directions), directions, jitter


# -- speed ----------------------------------------------------------------------------------------


def speed(rays: int, cells: int, pieces: tuple[int, int], repeats: int, device: str) -> dict[str, Any]:
    works = [Work(alpha, rays, cells, pieces, device) for alpha in ALPHAS]
    spent = dict(zip(ALPHAS, in_turn(works, repeats), strict=True))
    row: dict[str, Any] = {"rays": rays, "samples": sum(pieces), "cells": [cells, cells, 5]}
    for alpha, each in spent.items():
        row[alpha] = {"cpu": each.cpu, "wall": each.wall}
        row[alpha] |= {"rays_per_cpu_s": rays / each.cpu, "rays_per_s": rays / each.wall}
    fd, autograd = spent["fd"], spent["autograd"]
    row["fd faster by"] = {"cpu": autograd.cpu / fd.cpu, "wall": autograd.wall / fd.wall}
    rates = [f"{alpha} {row[alpha]['rays_per_cpu_s']:.0f} ({row[alpha]['rays_per_s']:.0f})" for alpha in ALPHAS]
    ratio = f"{row['fd faster by']['cpu']:.2f} ({row['fd faster by']['wall']:.2f})"
    print(f"{rays} rays x {sum(pieces)}, {cells} x {cells} x 5: rays/s {', '.join(rates)}; fd faster by {ratio}")
    return row


# -- equal error ----------------------------------------------------------------------------------


def yard(origins: Tensor, directions: Tensor) -> Tensor:
    """Metres to the ground or to the walls at 9 m of a square yard."""
    level = (9 / directions[..., :2].abs().amax(-1)).clamp(max=1e3)
    down = origins[..., 2] / (-directions[..., 2]).clamp(min=1e-6)
    return torch.minimum(level, down)


def learn(alpha: Alpha, seed: int, steps: int, device: str) -> float:
    """The mean absolute error of depth, in metres, on rays not learnt from."""
    torch.manual_seed(seed)
    grid, march, rng = grid_of(24, 12.0), March(coarse=32, fine=16), torch.Generator().manual_seed(seed)
    field = Field(CHANNELS, normals=alpha == "autograd").to(device)
    volume = (0.1 * torch.randn(1, CHANNELS, 5, 24, 24, generator=rng)).to(device).requires_grad_()
    optimiser = torch.optim.Adam([volume, *field.parameters()], lr=1e-2)
    for _ in range(steps):
        origins, directions, jitter = (one.to(device) for one in rays_like(128, rng))
        seen = render(field, volume, grid, origins, directions, jitter, march, alpha)
        error = (seen.depth - yard(origins, directions)).abs().mean() / 12
        (10 * error + 0 * seen.rgb.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()
    origins, directions, _ = (one.to(device) for one in rays_like(1024, torch.Generator().manual_seed(10**6)))
    jitter = torch.full(origins.shape[:2], 0.5, device=device)
    with torch.no_grad():
        seen = render(field, volume, grid, origins, directions, jitter, march, alpha)
    return (seen.depth - yard(origins, directions)).abs().mean().item()


def errors(steps: int, seeds: int, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {alpha: [learn(alpha, seed, steps, device) for seed in range(seeds)] for alpha in ALPHAS}
    told = ", ".join(f"{alpha} {statistics.mean(found[alpha]):.3f} {_range(found[alpha])}" for alpha in ALPHAS)
    print(f"depth error after {steps} steps, metres, {seeds} seeds: {told}")
    return {"steps": steps} | found


def _range(values: list[float]) -> str:
    return f"({min(values):.3f} to {max(values):.3f})"


# -- memory ---------------------------------------------------------------------------------------


def kept(work: Work) -> int:
    """Bytes that a render keeps for its gradients, without the volume and the field."""
    if work.device == "cuda":
        work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        store = tensor.untyped_storage()
        found[store.data_ptr()] = store.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        seen = work.look()  # held: no memory is given out twice
    given = [work.volume, *work.field.parameters()]
    for tensor in given:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    assert seen.depth.requires_grad
    return sum(found.values())


def memory(rays: Sequence[int], cells: Sequence[int], device: str) -> list[dict[str, Any]]:
    """Against rays at the middle number of cells, and against cells at the middle number of rays."""
    middle_rays, middle_cells = rays[len(rays) // 2], cells[len(cells) // 2]
    sizes = sorted({(r, middle_cells) for r in rays} | {(middle_rays, c) for c in cells})
    rows = []
    for r, c in sizes:
        row: dict[str, Any] = {"rays": r, "samples": 64, "cells": [c, c, 5], "volume_mib": CHANNELS * 5 * c * c / 2**18}
        for alpha in ALPHAS:
            row[alpha] = kept(Work(alpha, r, c, (48, 16), device)) / 2**20
        rows.append(row)
        told = ", ".join(f"{alpha} {row[alpha]:.0f}" for alpha in ALPHAS)
        print(f"{r} rays x 64, {c} x {c} x 5 (a volume of {row['volume_mib']:.1f} MiB): MiB kept {told}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest size, fewer steps; about a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    repeats = 3 if given.quick else given.repeats
    print(f"{given.device}, {given.threads} threads; CPU (wall) seconds; fd is to be faster by {TARGET}")
    speeds = [speed(*size, repeats, given.device) for size in (SIZES[:1] if given.quick else SIZES)]
    depth = errors(*((60, 2) if given.quick else (400, 5)), given.device)
    rows = memory(*((RAYS[:2], CELLS[:2]) if given.quick else (RAYS, CELLS)), given.device)
    if given.json:
        found = {"torch": torch.__version__, "threads": given.threads, "device": given.device, "quick": given.quick}
        print(json.dumps({"benchmark": "mim4d", **found, "speed": speeds, "depth_error": depth, "memory": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
