"""What MIM4D costs: rays rendered a second, by finite differences and by gradients, a step, and the memory they take.

    python benchmarks/mim4d.py [--quick] [--json] [--plots FOLDER] [--compile] [--threads 2] [--repeats 5]
                               [--device cpu]

Parts:
- rendering, forward and backward, of equal rays and samples with alpha="fd" and alpha="autograd", each with the field
  that it is used with (autograd's colours are told normals). To reach: fd at least 1.5 times as fast.
- a step of pre-training: forward and backward of the recipe's objective, without the optimiser, on one clip of the
  synthetic drive that is made before. It is cut into encode and lift, drop (move the other frames, decode) and render
  (two frames, each from its own voxels and dropped), each forward and backward; what is left is choosing rays and
  comparing colours. In float32, and in bfloat16 by autocast where the hardware has it. Rays a second stand for
  rendering forward alone, with what it keeps for gradients, and for the whole step.
- the depth error of both, in metres on rays not trained on, after equally many steps of a volume and a field that
  learn a walled yard from the depths of random rays: faster counts only where the error is the same. Over seeds.
- memory against rays and against voxels: the bytes that a render keeps for its gradients, without the volume (on a CPU
  counted tensor by tensor; on a GPU the highest mark of forward and backward). `--plots` draws both as SVG.
- with `--compile`, torch.compile against none on a CPU: the core of rendering by fd (field, alpha, compositing), and
  all of it with its gathers.

Speeds stand in turn within one run (A B A B ...); medians are compared, of CPU seconds, which hardly see what else
runs, and of wall seconds; on a GPU wall seconds alone mean something.

What was expected, from plain code on two shared Xeon cores in float32, CPU seconds, good to a half: a render of 384
rays x 64 samples, forward and backward, 0.4 by fd and 0.7 to 1.4 by autograd; 768 x 64, 0.9 and 1.4 to 3.2; 3072 x 96,
5.2 and 7.8 to 8.9, the latter keeping 1 to 2 GB. A step of six cameras and three frames of 128 x 224: ResNet-18, 64 x
64 cells, 64 rays a camera, fd, 6, of which the backbone 3.3, lifts 0.1, decoders 1.0, renders 1.6; ConvNeXt-T, 128 rays
and autograd, 11; ConvNeXt-T, 128 x 128 cells, 512 rays x 96, 32 to 46. Of 64 x 112, tiny, 40 x 40 cells, 64 rays: 0.5.

What was measured, on one thread of a shared AMD EPYC, torch 2.13: these renders take 0.09 and 0.21, 0.17 and 0.46, 1.2
and 3.3 CPU seconds; the last keeps 0.45 and 1.13 GiB. A step of `small` (six cameras, three frames of 96 x 160, 64 x 64
x 8 cells, 96 rays a camera x 56 samples), forward + backward: 2.0 in float32 (encode and lift 0.34 + 0.67, drop 0.18 +
0.36, render 0.18 + 0.28), 1.7 in bfloat16 (0.28 + 0.49, 0.16 + 0.31, 0.18 + 0.27). Compiling does not pay there: the
core, forward and backward, becomes 0.87 to 1.16 times as fast over sizes and runs (median 1.0), all of rendering 0.93
to 1.06; the core forward alone, without gradients, 1.13 to 1.26. Its first call takes half a minute of CPU or more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

# Before torch is loaded: threads that wait actively cost CPU seconds, several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Helpers of torch's compiler each load torch: for so few kernels that takes longer than they save.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from einops import rearrange
from mcvd import Seconds, in_turn
from torch import Tensor

from maskworld.clip import Clip, to
from maskworld.commands.doctor import fast_precision
from maskworld.nets.render import Field, March, Ray, Rendered, _log_clear, _weights, cut, render
from maskworld.nets.voxel import Grid, sample
from maskworld.noise import Rng
from maskworld.papers import mim4d
from maskworld.recipes.mim4d_drive import mim4d_drive
from maskworld.report.curve import Curve, Series, svg
from maskworld.train import Recipe
from maskworld.verbs import Known

Alpha = Literal["fd", "autograd"]
ALPHAS: tuple[Alpha, Alpha] = ("fd", "autograd")
TARGET = 1.5
PAYS = 1.15
"""Times faster from which on compiling is worth its wait."""
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
        self.device, self.render = device, render

    def look(self) -> Rendered:
        rays = self.origins, self.directions, self.jitter
        return self.render(self.field, self.volume, self.grid, *rays, self.march, self.alpha)

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
    row: dict[str, Any] = {"rays": rays, "samples": sum(pieces), "voxels": 5 * cells**2}
    for alpha, each in spent.items():
        row |= seconds(alpha, each) | rates(alpha, rays, each)
    faster = share(spent["autograd"], spent["fd"])
    row |= {"fd_faster_by_cpu": faster.cpu, "fd_faster_by_wall": faster.wall}
    told = [f"{alpha} {row[f'{alpha}_rays_per_cpu_s']:.0f} ({row[f'{alpha}_rays_per_s']:.0f})" for alpha in ALPHAS]
    print(f"{rays} rays x {sum(pieces)}, {cells} x {cells} x 5: rays/s {', '.join(told)}; fd faster by {both(faster)}")
    return row


def seconds(name: str, spent: Seconds) -> dict[str, float]:
    return {f"{name}_cpu_s": spent.cpu, f"{name}_wall_s": spent.wall}


def rates(name: str, rays: int, spent: Seconds) -> dict[str, float]:
    return {f"{name}_rays_per_cpu_s": rays / spent.cpu, f"{name}_rays_per_s": rays / spent.wall}


def share(one: Seconds, of: Seconds) -> Seconds:
    return Seconds(one.wall / of.wall, one.cpu / of.cpu)


def both(spent: Seconds, digits: int = 2) -> str:
    return f"{spent.cpu:.{digits}f} ({spent.wall:.{digits}f})"


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
    found = {alpha: [learn(alpha, seed, steps, device) for seed in range(seeds)] for alpha in ALPHAS}
    told = ", ".join(f"{alpha} {statistics.mean(found[alpha]):.3f} {_range(found[alpha])}" for alpha in ALPHAS)
    print(f"depth error after {steps} steps, metres, {seeds} seeds: {told}")
    return {"depth_error_steps": steps} | {f"depth_error_{alpha}_m": each for alpha, each in found.items()}


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
        row: dict[str, Any] = {
            "rays": r,
            "samples": 64,
            "voxels": 5 * c * c,
            "volume_mib": CHANNELS * 5 * c * c / 2**18,
        }
        for alpha in ALPHAS:
            row[f"{alpha}_kept_mib"] = kept(Work(alpha, r, c, (48, 16), device)) / 2**20
        rows.append(row)
        told = ", ".join(f"{alpha} {row[f'{alpha}_kept_mib']:.0f}" for alpha in ALPHAS)
        print(f"{r} rays x 64, {c} x {c} x 5 (a volume of {row['volume_mib']:.1f} MiB): MiB kept {told}")
    return rows


def plot(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """The same as two curves: memory_rays.svg and memory_voxels.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for against, fixed in (("rays", "voxels"), ("voxels", "rays")):
        # That size stands still at which the other one has most values.
        middle = statistics.mode(row[fixed] for row in rows)
        some = sorted((row for row in rows if row[fixed] == middle), key=lambda row: row[against])
        xs = [row[against] for row in some]
        series = [Series(alpha, xs, [row[f"{alpha}_kept_mib"] for row in some]) for alpha in ALPHAS]
        series.append(Series("the volume", xs, [row["volume_mib"] for row in some], baseline=True))
        drawn = svg(Curve(series, f"{against} ({middle:,} {fixed}, 64 samples a ray)", "MiB kept for gradients"))
        file = folder / f"memory_{against}.svg"
        file.write_text(drawn + "\n")
        print(f"wrote {file}")


# -- a step of pre-training -----------------------------------------------------------------------

PARTS = {"encode_lift": "encode and lift", "drop": "drop", "render": "render"}


class Timed(mim4d.MIM4D):
    """The network, whose step is cut where its parts meet, so that each part's own way back is timed too.

    What a part gives is handed on as a leaf; its gradient is then sent into the part by hand. The sums are the same.
    """

    def __init__(self, config: mim4d.Config):
        super().__init__(config)
        self.spent: dict[str, Seconds] = {}
        self.cuts: list[tuple[str, Tensor, Tensor]] = []
        self.rays = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self.now()
        yield
        stop, before = self.now(), self.spent.get(name, Seconds(0, 0))
        self.spent[name] = Seconds(before.wall + stop.wall - start.wall, before.cpu + stop.cpu - start.cpu)

    def now(self) -> Seconds:
        if self.single.is_cuda:
            torch.cuda.synchronize()
        return Seconds(time.perf_counter(), time.process_time())

    def handed_on(self, name: str, made: Tensor) -> Tensor:
        leaf = made.detach().requires_grad_()
        self.cuts.append((name, made, leaf))
        return leaf

    def volumes(self, clip: Clip, known: Known) -> tuple[Tensor, mim4d.Places]:
        with self.part("encode_lift_forward"):
            made, places = super().volumes(clip, known)
        return self.handed_on("encode_lift", made), places

    def dropped(
        self, volumes: Tensor, places: mim4d.Places, k: int, others: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        with self.part("drop_forward"):
            made, there, velocity = super().dropped(volumes, places, k, others)
        return self.handed_on("drop", made), there, velocity

    def seen(self, volume: Tensor, rays: mim4d.Rays, jitter: Tensor, march: March | None = None) -> Rendered:
        self.rays += rays.depth.numel()
        with self.part("render_forward"):
            return super().seen(volume, rays, jitter, march)

    def backward(self, loss: Tensor) -> None:
        with self.part("render_backward"):
            loss.backward()
        for name, made, leaf in reversed(self.cuts):
            with self.part(f"{name}_backward"):
                made.backward(leaf.grad)
        self.cuts = []


class Step:
    """Forward and backward of the recipe's objective on one clip of the synthetic drive; the clip is made before."""

    def __init__(self, recipe: Recipe, config: mim4d.Config, precision: torch.dtype, device: str):
        torch.manual_seed(0)
        self.net, self.precision, self.device = Timed(config).to(device).train(), precision, device
        self.objective, self.clip = recipe.objective, to(recipe.data(0), device)
        self.known = recipe.draw(1, config.views, config.num_frames, Rng.of(0)).to(device)
        self.parts: list[dict[str, Seconds]] = []

    def __call__(self) -> None:
        net = self.net
        net.spent, net.rays = {}, 0
        with net.part("step"):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                loss = self.objective(net, self.clip, self.known, Rng.of(0)).total.mean()
            net.backward(loss)
        net.zero_grad()
        spent = net.spent
        for way in ("forward", "backward"):
            spent[way] = total([spent[f"{part}_{way}"] for part in PARTS])
        step, named = spent["step"], total([spent["forward"], spent["backward"]])
        spent["other"] = Seconds(step.wall - named.wall, step.cpu - named.cpu)  # choosing rays, comparing colours
        self.parts.append(spent)


def total(times: Sequence[Seconds]) -> Seconds:
    return Seconds(sum(t.wall for t in times), sum(t.cpu for t in times))


def steps(preset: str, repeats: int, device: str) -> list[dict[str, Any]]:
    config = {"tiny": mim4d.tiny, "small": mim4d.small, "base": mim4d.base}[preset]()
    kinds = [torch.float32, torch.bfloat16] if fast_precision(device) == torch.bfloat16 else [torch.float32]
    recipe = mim4d_drive(config=config)
    works = [Step(recipe, config, kind, device) for kind in kinds]
    in_turn(works, repeats)
    rows = []
    for work in works:
        spent = {name: median([parts[name] for parts in work.parts[-repeats:]]) for name in work.parts[-1]}
        step, rays = spent["step"], work.net.rays
        row: dict[str, Any] = {"preset": preset, "precision": str(work.precision).removeprefix("torch.")}
        row |= {"cameras": config.views, "frames": config.num_frames, "image_height": config.size[0]}
        row |= {"image_width": config.size[1], "voxels": math.prod(config.cells)}
        row |= {"rays_a_step": rays, "samples_a_ray": config.coarse + config.fine}
        for name, each in spent.items():
            row |= seconds(name, each)
        row |= rates("render_forward", rays, spent["render_forward"]) | rates("step", rays, step)
        rows.append(row)
        forth, back = ({part: both(spent[f"{part}_{way}"]) for part in PARTS} for way in ("forward", "backward"))
        told = ", ".join(f"{name} {forth[part]} + {back[part]}" for part, name in PARTS.items())
        rate = both(Seconds(rays / spent["render_forward"].wall, rays / spent["render_forward"].cpu), 0)
        in_all = both(Seconds(rays / step.wall, rays / step.cpu), 0)
        print(
            f"a step of {preset}, {row['precision']}, {rays} rays x {row['samples_a_ray']}: {both(step)} s; forward + "
            f"backward: {told}; rays/s rendered forward {rate}, in a step {in_all}",
            flush=True,
        )
    return rows


def median(times: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times))


# -- compiling ------------------------------------------------------------------------------------


def core(field: Field, points: Tensor, features: Tensor, towards: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(colour, depth) of rays whose features have been read: what `render` by "fd" does around its gathers."""
    each = edges.shape[-1]
    sdf, shape = field.sdf(points, features)
    colours = rearrange(field.rgb(points, [towards, features, shape]), "b (r e) i -> b r e i", e=each)
    sdf = rearrange(sdf, "b (r e) -> b r e", e=each)
    weights = _weights(_log_clear(sdf[..., :-1], sdf[..., 1:], field.sharp()))
    rgb = (weights[..., None] * (colours[:, :, 1:] + colours[:, :, :-1]) / 2).sum(2)
    return rgb, (weights * (edges[..., 1:] + edges[..., :-1]) / 2).sum(-1)


class Core:
    """The core alone, of as many rays, samples and features as a `Work` renders; its way back ends at the features."""

    def __init__(self, rays: int, cells: int, pieces: tuple[int, int], call: Callable[..., tuple[Tensor, Tensor]]):
        work = Work("fd", rays, cells, pieces, "cpu")
        ray, ends = Ray(work.origins, work.directions), torch.ones(1, rays)
        edges = cut(ends, 30 * ends, work.jitter, sum(pieces))
        points, scale = ray.at(edges), 1 / 32
        features = sample(work.volume.detach(), points, work.grid).mT.contiguous().requires_grad_()
        self.field, self.features, self.call = work.field, features, call
        self.given = points * scale, features, ray.towards(edges.shape[-1]), edges

    def forward(self) -> None:
        with torch.no_grad():
            self.call(self.field, *self.given)

    def __call__(self) -> list[Tensor]:
        """Colour, depth and the features' gradient."""
        rgb, depth = self.call(self.field, *self.given)
        (rgb.mean() + depth.mean()).backward()
        found, self.features.grad = self.features.grad, None
        self.field.zero_grad()
        assert found is not None
        return [rgb.detach(), depth.detach(), found]


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, if there is one."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


def compiled(rays: int, cells: int, pieces: tuple[int, int], repeats: int, whole: bool) -> list[dict[str, Any]]:
    """The core, and where asked the whole of `render`, as it is and compiled."""
    size, faster = (rays, cells, pieces), torch.compile(core, dynamic=False)
    one, two = Core(*size, core), Core(*size, faster)
    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {"core forward and backward": (one, two)}
    if whole:
        works["core forward"] = one.forward, two.forward
        three, four = Work("fd", *size, "cpu"), Work("fd", *size, "cpu")
        four.render = torch.compile(render, dynamic=False)
        works["render forward and backward"] = three, four
    rows = []
    for name, (eager, other) in works.items():
        start = time.perf_counter()
        other()
        row: dict[str, Any] = {"part": name, "rays": rays, "samples": sum(pieces), "voxels": 5 * cells**2}
        row["first_call_wall_s"] = time.perf_counter() - start
        if eager is one:
            for told, ours, theirs in zip(("colour", "depth", "gradient"), one(), two(), strict=True):
                if not (apart := (ours - theirs).abs().max() / ours.abs().max()) < 1e-3:
                    raise ValueError(f"compiled, the core gives another {told}: the largest difference is {apart:.1e}")
        before, after = in_turn([eager, other], repeats)
        ratio = share(before, after)
        row |= seconds("eager", before) | seconds("compiled", after)
        row |= {"compiled_faster_by_cpu": ratio.cpu, "compiled_faster_by_wall": ratio.wall, "pays": ratio.cpu > PAYS}
        rows.append(row)
        print(
            f"{rays} rays x {sum(pieces)}, {name}: {both(before, 3)} s, compiled {both(after, 3)} s, faster by "
            f"{both(ratio)}; its first call {row['first_call_wall_s']:.0f} s: {'pays' if row['pays'] else 'no gain'}",
            flush=True,
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, fewer steps; under a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw memory against rays and voxels there, as SVG"
    )
    parser.add_argument("--compile", action="store_true", help="also torch.compile against none, on a CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device, repeats = given.device, 3 if given.quick else given.repeats
    found: dict[str, Any] = {"benchmark": "mim4d", "torch": torch.__version__, "threads": given.threads}
    found |= {"device": device, "quick": given.quick}
    print(f"{device}, {given.threads} threads; CPU (wall) seconds; fd is to be faster by {TARGET}")
    sizes = SIZES[:1] if given.quick else SIZES
    found["speed"] = [speed(*size, repeats, device) for size in sizes]
    presets = ["tiny"] if given.quick else ["small", "base"] if device == "cuda" else ["small"]
    found["step"] = [row for preset in presets for row in steps(preset, repeats, device)]
    found |= errors(*((60, 2) if given.quick else (400, 5)), device)
    found["memory"] = memory(*((RAYS[:2], CELLS[:2]) if given.quick else (RAYS, CELLS)), device)
    if given.plots:
        plot(found["memory"], given.plots)
    if given.compile and not compiler():
        print("compiling: not measured, for there is no C++ compiler here")
    elif given.compile:
        found["compile"] = [row for size in sizes for row in compiled(*size, repeats, not given.quick)]
    if given.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
