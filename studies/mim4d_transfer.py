"""Does pre-training without labels help who then learns from few of them, and does its temporal part?

python studies/mim4d_transfer.py --out runs/mim4d [--preset small] [--pretrain-minutes 20] [--steps 400] [--pool 1000]
                                 [--arms scratch single mim4d flow] [--labels 0.01 0.1 1.0] [--seeds 3] [--frames 1 3]
                                 [--only data | pretrain-mim4d | mim4d-0.1-2] [--write docs/results.md] [--json]
                                 [--quick]
python studies/mim4d_transfer.py --out runs/mim4d [--preset small] --subject mim4d-drive [--write docs/results.md]

Every arm is pre-trained on the same clips in the same order, from the same weights, for the same number of steps. Its
encoder then gets a fresh view from above and fresh heads, and all of it learns from labelled clips: layers of the map,
boxes, lines. Seeds are paired: with one seed all arms see the same labels in the same order and begin with the same
heads. With three frames in, the voxels of the past are moved by the car's own motion into its present frame and stacked
as channels. Thresholds are chosen on `valid` scenes, and all figures are of `test` scenes, one clip from each. What no
camera sees is not asked for.

Before that, each pre-trained model is asked for the depth of a present that it does not see, against what it gets by
carrying the previous frame's voxels over by the car's motion alone, and by carrying over the previous true depth.

Which way each answer would have to fall was written down before (QUESTIONS). An answer is `yes` or `the other way`
where the 95 % interval over clips and seeds excludes zero, and else `null`. Each arm is pre-trained once: the intervals
do not say what another pre-training would give.

With `--subject` a trained model is asked for depth alone. What is done is kept in --out, and nothing is done twice.
Several processes may each do one part (--only). What is of several frames alone has marks of its own in a document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import between
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from maskworld import checkpoint
from maskworld.clip import Cameras, Clip, collate, of_frames, to, to_uint8
from maskworld.commands.doctor import fast_precision
from maskworld.data import drive
from maskworld.data.drive import Drives
from maskworld.data.labels import CATEGORIES, LAYERS, MOVING, Labelled, LabelledDrives, footprints, some
from maskworld.masks import these_frames
from maskworld.nets import heads
from maskworld.nets.voxel import warp
from maskworld.noise import Rng, mix
from maskworld.papers import mim4d
from maskworld.papers.mim4d import MIM4D, Config, Encoder, Places, places_of, rays_at
from maskworld.probes import perception
from maskworld.probes.statistics import Interval, interval_of_sets
from maskworld.recipes.mim4d_drive import mim4d_drive
from maskworld.train import METRICS, STATE, Recipe, train
from maskworld.world import load, load_encoder

# -- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One way of pre-training; `changes` are of the configuration."""

    says: str
    temporal: bool = False
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SCRATCH, SINGLE, METHOD, FLOW = "scratch", "single", "mim4d", "flow"
ARMS: dict[str, Arm] = {
    SCRATCH: Arm("no pre-training"),
    SINGLE: Arm("hidden patches, each frame rendered from its own voxels (as UniPAD)"),
    METHOD: Arm("the same, and dropped frames rendered from the others", True),
    FLOW: Arm("the same, moved by a velocity for each voxel (an extension)", True, {"flow": True}),
}
PRESETS: dict[str, Config] = {
    "tiny": mim4d.tiny(),
    "pilot": mim4d.small(size=(64, 96), cells=(32, 32, 4), dims=(32, 64, 96), depths=(1, 1, 2), dim=32, rays=64),
    "small": mim4d.small(),
    "base": mim4d.base(),
}
FPS = 4.0
LINES: tuple[drive.Kind, ...] = ("centre", "divider", "edge", "kerb")
NEAR, FAR = 1.0, 30.0  # metres along the optical axis between which depth is compared
EVERY = 6  # pixels between two rays of that
THRESHOLDS = tuple(np.linspace(0.05, 0.95, 19).tolist())
GROUPS = 10  # of test clips, to pair what is no sum over clips: average precision
WEIGHTS = {"layers": 4.0, "boxes": 1.0, "lines": 0.05}  # of the losses, which then are of one size
QUERIES, LINE_POINTS, TRUE_POINTS = 50, 20, 100  # lines that are drawn, points of each, and of a true one

OVERLAPS = ("vehicles", "movers", "moving", "road", "marks")
MEASURES: dict[str, str] = {
    "vehicles": "IoU of cars",
    "movers": "IoU of cars, those that stand left out",
    "moving": "IoU of cars that are said to move",
    "road": "IoU of road",
    "marks": "IoU of lane marks",
    "boxes": "mean average precision of boxes",
    "nds": "the same and their errors in one number, as NDS",
    "lines": "mean average precision of lines",
    "velocity": "error of velocity at true centres of cars, m/s",
    "velocity moving": "error of velocity at true centres of cars that move, m/s",
}
"""By their short names. The last two are better where they are lower."""
POOLED = ("boxes", "nds", *CATEGORIES, "translation", "scale", "orientation", "velocity", "lines")


@dataclass(frozen=True)
class Question:
    """One less another, below (-1) or above (+1) zero as it should be, by `least` or more, with so many frames in."""

    asks: str
    one: str
    other: str
    what: str
    direction: int
    least: float = 0.0
    frames: tuple[int, ...] = (1, 3)


QUESTIONS: tuple[Question, ...] = (
    Question("pre-training helps to find cars, by 5 points", METHOD, SCRATCH, "vehicles", 1, 0.05),
    Question("so does that by single frames", SINGLE, SCRATCH, "vehicles", 1),
    Question("pre-training helps with the road", METHOD, SCRATCH, "road", 1),
    Question("and its marks", METHOD, SCRATCH, "marks", 1),
    Question("and boxes", METHOD, SCRATCH, "boxes", 1),
    Question("and lines", METHOD, SCRATCH, "lines", 1),
    Question("the temporal part helps to find cars in a single frame", METHOD, SINGLE, "vehicles", 1, frames=(1,)),
    Question("the temporal part helps to find cars in three frames", METHOD, SINGLE, "vehicles", 1, frames=(3,)),
    Question("and to say which of them move", METHOD, SINGLE, "moving", 1, frames=(3,)),
    Question("and how fast", METHOD, SINGLE, "velocity moving", -1, frames=(3,)),
    Question("and with boxes", METHOD, SINGLE, "boxes", 1),
    Question("a velocity for each voxel helps more: which move", FLOW, METHOD, "moving", 1, frames=(3,)),
    Question("how fast", FLOW, METHOD, "velocity moving", -1, frames=(3,)),
)
PAIRS = ((SINGLE, SCRATCH), (METHOD, SCRATCH), (FLOW, SCRATCH), (METHOD, SINGLE), (FLOW, METHOD))
PARTS = ("all", "still", "moving")
"""Of pixels. Of those that move, a dropped frame should be better than the previous one carried over: below 0."""

# -- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What all parts share."""

    out: Path
    preset: str
    config: Config
    device: str
    precision: torch.dtype
    pretrain_batch: int
    pool: int
    labels: tuple[float, ...]
    steps: int
    batch: int
    lr: float
    encoder_rate: float
    valid: int
    test: int
    films: int
    dim: int
    resamples: int
    quick: bool

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def fixed(self) -> dict[str, Any]:
        """What may not differ between parts that are kept in one folder."""
        names = ("preset", "pretrain_batch", "pool", "steps", "batch", "lr", "encoder_rate", "valid", "test", "films")
        return {name: getattr(self, name) for name in names} | {"quick": self.quick}


# -- clips ----------------------------------------------------------------------------------------


def places_in(split: str, num: int) -> list[int]:
    """Which clips of a split: the first, of those to learn from; one from each scene, of those to be measured on."""
    return [i if split == "train" else i // 8 * 64 + i % 8 for i in range(num)]


@lru_cache(maxsize=4)
def labelled(study: Study, split: str, frames: int) -> dict[str, np.ndarray]:
    """Labelled clips as arrays: their last `frames` frames."""
    num = {"train": study.pool, "valid": study.valid, "test": study.test}[split]
    return between.kept(study.out / f"{split}-{num}-{frames}.npz", lambda: _labelled(study.config, split, num, frames))


def _labelled(config: Config, split: str, num: int, frames: int) -> dict[str, np.ndarray]:
    (x0, y0, _), (x1, y1, _) = config.low, config.high
    index = places_in(split, num)
    source = LabelledDrives(
        config.num_frames, config.views, config.size, FPS, split=split,  # type: ignore[arg-type]
        extent=(x0, x1, y0, y1), cell=(x1 - x0) / config.cells[0], num=index[-1] + 1,
    )  # fmt: skip
    parts: dict[str, list[Tensor]] = {}
    for i, place in enumerate(index):
        for name, value in _arrays(source(place), source, i, frames).items():
            parts.setdefault(name, []).append(value)
    return {name: (torch.cat if "_" in name else torch.stack)(values).numpy() for name, values in parts.items()}


def _arrays(one: Labelled, source: LabelledDrives, i: int, frames: int) -> dict[str, Tensor]:
    """Of a labelled clip; names with `_` are of its boxes and lines, however many."""
    unseen = torch.tensor([name == "car" for name in one.boxes.category], dtype=torch.bool) & (one.boxes.seen == 0)
    hidden = footprints(some(one.boxes, unseen), source.extent, source.cell).any(0)
    seen = some(one.boxes, one.boxes.seen > 0)
    lines = [heads.resample(line.points, TRUE_POINTS) for line in one.lines]
    return {
        **_seen(one.clip, frames),
        "layers": one.bev.mT,
        "valid": ~hidden.mT,
        "box_of": torch.full_like(seen.ids, i),
        "box_label": torch.tensor([CATEGORIES.index(name) for name in seen.category], dtype=torch.int64),
        "box_centre": seen.centre,
        "box_size": seen.size,
        "box_yaw": seen.yaw,
        "box_velocity": seen.velocity,
        "line_of": torch.full((len(lines),), i, dtype=torch.int64),
        "line_label": torch.tensor([LINES.index(line.kind) for line in one.lines], dtype=torch.int64),
        "line_points": torch.stack(lines) if lines else torch.zeros(0, TRUE_POINTS, 2),
    }


def _seen(clip: Clip, frames: int) -> dict[str, Tensor]:
    cameras = clip.cameras
    assert cameras is not None and cameras.ego is not None
    return {
        "frames": to_uint8(clip.frames[0, :, -frames:]),
        "intrinsics": cameras.intrinsics[0],
        "pose": cameras.pose[0, :, -frames:],
        "ego": cameras.ego[0, -frames:],
    }


def clips_of(arrays: Mapping[str, np.ndarray], index: Sequence[int] | np.ndarray, device: str) -> Clip:
    def of(name: str) -> Tensor:
        return torch.from_numpy(arrays[name][index])

    frames = rearrange(of("frames").float() / 127.5 - 1, "b v t h w c -> b v t c h w")
    cameras = Cameras(of("intrinsics"), of("pose"), of("ego"))
    return to(dataclasses.replace(of_frames(frames), cameras=cameras), device)


def films(study: Study) -> dict[str, np.ndarray]:
    """Test clips with depth, and with what moves: true, of the last two frames."""

    def make() -> dict[str, np.ndarray]:
        config = study.config
        drives = Drives(config.num_frames, config.views, config.size, FPS, split="test", depth=True)
        rig, t = drive.rig(config.views, config.size), config.num_frames
        parts: dict[str, list[Tensor]] = {}
        for i in places_in("test", study.films):
            scene, start = drives.scene(i), drives.place(i)[1]
            views = drive.render(scene, rig, range(start, start + t))
            values = {
                **_seen(drive.as_clip(scene, rig, start, views), t),
                "depth": views.depth[:, -2:].half(),
                "moving": views.flow[:, -1].norm(dim=1) >= MOVING / FPS,
                "flow": views.flow[:, -2].half(),
            }
            for name, value in values.items():
                parts.setdefault(name, []).append(value)
        return {name: torch.stack(values).numpy() for name, values in parts.items()}

    return between.kept(study.out / f"films-{study.films}.npz", make)


# -- pre-training ---------------------------------------------------------------------------------


def configuration(study: Study, arm: str) -> Config:
    return dataclasses.replace(study.config, **ARMS[arm].changes)


def recipe(study: Study, arm: str) -> Recipe:
    made = mim4d_drive(
        config=configuration(study, arm), fps=FPS, temporal=ARMS[arm].temporal, batch=study.pretrain_batch
    )
    return dataclasses.replace(
        made, look=None, probes=None, valid_every=10**9, valid_clips=0, log_every=1 if study.quick else 10
    )


def seconds_a_step(study: Study, arm: str, steps: int) -> float:
    """CPU seconds of a step, the least of a few."""
    made, spent, b = recipe(study, arm), [], study.pretrain_batch
    net = made.net.to(study.device)
    for step in range(steps):
        began = time.process_time()
        clip = to(collate([made.data(step * b + i) for i in range(b)]), study.device)
        rng = Rng.of(step, batch=b)
        with study.autocast():
            known = made.draw(b, study.config.views, study.config.num_frames, rng).to(study.device)
            loss = made.objective(net, clip, known, rng)
        loss.total.mean().backward()
        net.zero_grad()
        spent.append(time.process_time() - began)
    return min(spent)


def planned(study: Study, minutes: float) -> dict[str, Any]:
    """How long there is pre-training, and all that parts in this folder have in common: as in its first run."""
    path = study.out / "plan.json"
    if not path.exists():
        steps = 3 if study.quick else max(1, round(60 * minutes / seconds_a_step(study, METHOD, 3)))
        path.write_text(json.dumps({"pretrain_steps": steps, **study.fixed()}))
    plan = json.loads(path.read_text())
    for name, value in study.fixed().items():
        if plan[name] != value:
            raise ValueError(f"{study.out} holds a study with {name} {plan[name]}, not {value}: take another folder")
    print(f"{plan['pretrain_steps']} steps of pre-training, as {path} has it", flush=True)
    return plan


def pretrained(study: Study, plan: Mapping[str, Any], arm: str) -> Path:
    """The run of an arm; nothing is trained twice."""
    run, steps = study.out / f"pretrain-{arm}", plan["pretrain_steps"]
    if (run / "done.json").exists():
        return run
    resume = (run / STATE).exists()
    before = checkpoint.read_about(run / STATE)["step"] if resume else 0
    began, clock = time.process_time(), time.monotonic()
    precision = "bf16" if study.precision == torch.bfloat16 else "no"
    train(recipe(study, arm), run, steps=steps, resume=resume, workers=0, precision=precision, quiet=True)
    num = max(1, steps - before)
    rows = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    done = {
        "steps": steps,
        "images": steps * study.pretrain_batch * study.config.views * study.config.num_frames,
        "cpu_seconds_a_step": (time.process_time() - began) / num,
        "seconds_a_step": (time.monotonic() - clock) / num,
        "train_loss": float(np.mean(losses[-max(1, len(losses) // 5) :])) if losses else math.nan,
    }
    (run / "done.json").write_text(json.dumps(done))
    print(f"pretrain-{arm}: {steps} steps, {done['cpu_seconds_a_step']:.2f} CPU s each", flush=True)
    return run


def rendered(study: Study, plan: Mapping[str, Any], arm: str) -> dict[str, np.ndarray]:
    """Of a pre-trained arm, film by film: sums of errors of depth and of flow, over all pixels, those that are still
    and those that move. "n part 2" each: the sum, and over how many."""
    run = pretrained(study, plan, arm)
    return between.kept(run / f"rendered-{study.films}.npz", lambda: _rendered(study, run, arm))


def _rendered(study: Study, run: Path, arm: str) -> dict[str, np.ndarray]:
    net = MIM4D(configuration(study, arm))
    net.load_state_dict(checkpoint.read(run / checkpoint.MODEL)[0])
    return _sums_of(study, net, ARMS[arm].temporal)


@torch.no_grad()
def _sums_of(study: Study, net: MIM4D, temporal: bool) -> dict[str, np.ndarray]:
    config, arrays = net.config, films(study)
    net = net.to(study.device).eval().requires_grad_(False)
    h, w = config.size
    grid = torch.zeros(h, w, dtype=torch.bool)
    grid[EVERY // 2 :: EVERY, EVERY // 2 :: EVERY] = True
    pixels = grid.flatten().nonzero()[:, 0]
    k = config.num_frames - 1
    found: dict[str, list[np.ndarray]] = {}
    for i in range(len(arrays["frames"])):
        clip = clips_of(arrays, [i], study.device)
        places = places_of(clip, config)
        true = torch.from_numpy(arrays["depth"][i]).float()
        now = true[:, 1].flatten(1)[:, pixels].numpy()
        moves = torch.from_numpy(arrays["moving"][i]).flatten(1)[:, pixels].numpy()
        volumes, _ = net.volumes(clip, these_frames([True] * (k + 1), 1, config.views).to(study.device))
        carried = warp(volumes[:, k - 1], config.grid, between_cars(places, k, k - 1))
        made = {"seen": volumes[:, k], "carried": carried}
        if temporal:
            made["dropped"], _, velocity = net.dropped(volumes, places, k, range(k))
            if velocity is not None:
                for name, sums in _flow_sums(velocity, arrays, i, places, config).items():
                    found.setdefault(name, []).append(sums)
        depths = {name: _depth(net, clip, places, volume, pixels) for name, volume in made.items()}
        depths["true depth carried"] = carried_over(true[:, 0], places, k).flatten(1)[:, pixels].numpy()
        for name, depth in depths.items():
            valid = (now > NEAR) & (now < FAR) & (depth > 0 if name == "true depth carried" else True)
            found.setdefault(name, []).append(_depth_sums(depth, now, valid, moves))
    return {name: np.stack(sums) for name, sums in found.items()}


def between_cars(places: Places, one: int, other: int) -> Float[Tensor, "b 4 4"]:
    """Maps metric points of the car's frame at one time into its frame at another."""
    return torch.linalg.solve(places.ego[:, other], places.ego[:, one]).float()


def _depth(net: MIM4D, clip: Clip, places: Places, volume: Tensor, pixels: Tensor) -> Float[np.ndarray, "v r"]:
    """Along the optical axis, of the present."""
    views, k = clip.frames.shape[1], clip.frames.shape[2] - 1
    rays = rays_at(clip, places, k, pixels.to(volume.device).expand(1, views, -1))
    seen = net.seen(volume, rays, torch.full_like(rays.depth, 0.5))
    ahead = places.to_ego[:, :, k, :3, 2].repeat_interleave(len(pixels), 1)
    depth = seen.depth * (rays.directions * ahead).sum(-1)
    return rearrange(depth[0], "(v r) -> v r", v=views).cpu().numpy()


def _depth_sums(made: np.ndarray, true: np.ndarray, valid: np.ndarray, moves: np.ndarray) -> np.ndarray:
    parts = (valid, valid & ~moves, valid & moves)
    return np.stack([perception.sum_depth(made[None], true[None], part[None])[0, [0, 3]] for part in parts])


def carried_over(depth: Float[Tensor, "v h w"], places: Places, k: int) -> Float[Tensor, "v h w"]:
    """The true depth of frame k - 1 as the cameras of frame k would have it if nothing but the car had moved: the
    nearest of the points that fall on a pixel, 0 where none does."""
    points = _world(depth, places, k - 1)
    found = torch.full((*depth.shape[:1], depth[0].numel()), math.inf, dtype=torch.float64)
    v, (h, w) = len(depth), depth.shape[1:]
    for view in range(v):
        pose = (places.ego[0, k] @ places.to_ego[0, view, k].double()).cpu()
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        local = local[local[:, 2] > 0.1]
        uv = (local / local[:, 2:]) @ places.intrinsics[0, view].double().cpu().T
        column, row = uv[:, 0].floor().long(), uv[:, 1].floor().long()
        inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
        place = row[inside] * w + column[inside]
        found[view].scatter_reduce_(0, place, local[inside, 2], "amin")
    return torch.where(found.isinf(), 0.0, found).float().view(v, h, w)


def _world(depth: Float[Tensor, "v h w"], places: Places, k: int) -> Float[Tensor, "n 3"]:
    """The points that are seen in frame k, in world axes; those without depth left out."""
    v, h, w = depth.shape
    rows, columns = torch.arange(h, dtype=torch.float64) + 0.5, torch.arange(w, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixel = torch.stack([x, y, torch.ones_like(x)], -1)
    parts = []
    for view in range(v):
        pose = (places.ego[0, k] @ places.to_ego[0, view, k].double()).cpu()
        inverse = torch.linalg.inv(places.intrinsics[0, view].double().cpu())
        local = (pixel @ inverse.T) * depth[view, ..., None].double()
        parts.append((local @ pose[:3, :3].T + pose[:3, 3])[depth[view] > 0])
    return torch.cat(parts)


def _flow_sums(
    velocity: Tensor, arrays: Mapping[str, np.ndarray], i: int, places: Places, config: Config
) -> dict[str, np.ndarray]:
    """Of the points of the previous frame: how far from where they went to the velocities put them, in metres. A
    velocity is of the place where a point arrives. Beside it, what no flow at all would get."""
    k, grid = config.num_frames - 1, config.grid
    depth = torch.from_numpy(arrays["depth"][i, :, 0]).float()
    flow = rearrange(torch.from_numpy(arrays["flow"][i]).double(), "v c h w -> v h w c")[depth > 0]
    arrived, ego = _world(depth, places, k - 1) + flow, places.ego[0, k].cpu()
    here = ((arrived - ego[:3, 3]) @ ego[:3, :3]).float()
    true = (flow @ ego[:3, :3]).float()
    unit = grid.unit(here)
    valid = (unit.abs() < 1).all(-1) & (depth[depth > 0] < FAR)
    at = unit.to(velocity.device)[None, None, None]
    made = nn.functional.grid_sample(velocity, at, mode="bilinear", align_corners=False)[0, :, 0, 0].cpu()
    still = true.norm(dim=-1) < MOVING / FPS
    sums = {}
    for name, one in (("flow", made.T), ("no flow", torch.zeros_like(true))):
        parts = [
            perception.sum_flow(one.T[None].numpy(), true.T[None].numpy(), (valid & part)[None].numpy())[0]
            for part in (torch.ones_like(still), still, ~still)
        ]
        sums[name] = np.stack(parts)
    return sums


# -- fine-tuning ----------------------------------------------------------------------------------


class Read(NamedTuple):
    """What is read from a clip of its last frame."""

    layers: Float[Tensor, "b k y x"]
    boxes: heads.CentreMaps
    lines: list[heads.Drawn]


class Reader(nn.Module):
    """An encoder, a view from above of its voxels, and three heads."""

    def __init__(self, encoder: Encoder, frames: int, dim: int):
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.above = heads.BEVEncoder(frames * config.dim, config.cells[2], dim, blocks=2)
        self.layers = heads.SegmentationHead(dim, len(LAYERS))
        self.boxes = heads.CentreHead(dim, len(CATEGORIES))
        self.lines = heads.MapHead(dim, len(LINES), QUERIES, LINE_POINTS)

    def forward(self, clip: Clip) -> Read:
        """The voxels of all frames, in the frame of the car at the last; then from above."""
        config = self.encoder.config
        places = places_of(clip, config)
        last, parts = clip.frames.shape[2] - 1, []
        for i in range(last + 1):
            volume = self.encoder(clip.frames[:, :, i], None, places.intrinsics, places.to_ego[:, :, i])
            parts.append(volume if i == last else warp(volume, config.grid, between_cars(places, last, i)))
        bev = self.above(torch.cat(parts, 1))
        return Read(self.layers(bev), self.boxes(bev), self.lines(bev, config.grid))


def boxes_of(arrays: Mapping[str, np.ndarray], i: int, device: str) -> heads.Boxes:
    of = arrays["box_of"] == i
    names = ("label", "centre", "size", "yaw", "velocity")
    return heads.Boxes(*(torch.from_numpy(arrays[f"box_{name}"][of]).to(device) for name in names))


def lines_of(arrays: Mapping[str, np.ndarray], i: int, device: str) -> heads.Lines:
    """Of the points that are drawn; where there are more lines than queries, the longest."""
    of = np.flatnonzero(arrays["line_of"] == i)
    points = torch.from_numpy(arrays["line_points"][of])
    longest = points.diff(dim=1).norm(dim=-1).sum(-1).argsort(descending=True)[:QUERIES]
    drawn = [heads.resample(line, LINE_POINTS) for line in points[longest]]
    stacked = torch.stack(drawn) if drawn else torch.zeros(0, LINE_POINTS, 2)
    return heads.Lines(torch.from_numpy(arrays["line_label"][of])[longest].to(device), stacked.to(device))


def loss_of(reader: Reader, read: Read, arrays: Mapping[str, np.ndarray], index: np.ndarray) -> Float[Tensor, " b"]:
    device, grid = str(read.layers.device), reader.encoder.config.grid
    layers, valid = (torch.from_numpy(arrays[name][index]).to(device) for name in ("layers", "valid"))
    targets = reader.boxes.targets([boxes_of(arrays, int(i), device) for i in index], grid)
    lines = [lines_of(arrays, int(i), device) for i in index]
    parts = {
        "layers": heads.segmentation_loss(read.layers, layers, valid),
        "boxes": torch.stack(list(reader.boxes.loss(read.boxes, targets).values())).sum(0),
        "lines": torch.stack(list(reader.lines.loss(read.lines, lines, grid).values())).sum(0),
    }
    return torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum(0)


def fresh(study: Study, plan: Mapping[str, Any], arm: str, seed: int, frames: int) -> Reader:
    """Before any label: the encoder of the arm, and heads that are those of the seed, whatever the arm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 7))
        encoder = Encoder(study.config) if arm == SCRATCH else load_encoder(pretrained(study, plan, arm))
        torch.manual_seed(mix(seed, 8))
        reader = Reader(encoder, frames, study.dim)
    return reader.requires_grad_(True).to(study.device)


def name_of(arm: str, share: float, seed: int) -> str:
    return f"{arm}-{share:g}-{seed}"


def tuned(study: Study, plan: Mapping[str, Any], arm: str, share: float, seed: int, frames: int) -> Path:
    """The folder of a fine-tuned reader."""
    run = study.out / f"frames{frames}" / name_of(arm, share, seed)
    if (run / "done.json").exists():
        return run
    arrays = labelled(study, "train", frames)
    some_of = np.random.default_rng(mix(seed, 9)).permutation(study.pool)[: max(1, round(share * study.pool))]
    reader = fresh(study, plan, arm, seed, frames).train()
    rate = 1.0 if arm == SCRATCH else study.encoder_rate
    encoder = list(reader.encoder.parameters())
    mine = {id(p) for p in encoder}
    rest = [p for p in reader.parameters() if id(p) not in mine]
    optimiser = torch.optim.AdamW([{"params": encoder}, {"params": rest}], lr=study.lr, weight_decay=0.01)
    warm, losses, began = max(1, study.steps // 20), [], time.process_time()
    for step in range(study.steps):
        now = min((step + 1) / warm, 1.0) * (1 + math.cos(math.pi * step / study.steps)) / 2 * study.lr
        for group, factor in zip(optimiser.param_groups, (rate, 1.0), strict=True):
            group["lr"] = factor * now
        index = some_of[np.random.default_rng(mix(seed, 10, step)).integers(len(some_of), size=study.batch)]
        with study.autocast():
            read = reader(clips_of(arrays, index, study.device))
            loss = loss_of(reader, read, arrays, index).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"{run.name} diverged at step {step}")
    done = {
        "cpu_seconds_a_step": (time.process_time() - began) / study.steps,
        "train_loss": float(np.mean(losses[-max(1, study.steps // 5) :])),
    }
    checkpoint.write(run / checkpoint.MODEL, reader.state_dict(), {"family": "mim4d-reader", "arm": arm})
    (run / "done.json").write_text(json.dumps(done))
    print(f"{run.parent.name}/{run.name}: {done['cpu_seconds_a_step']:.2f} CPU s a step, loss {done['train_loss']:.3f}",
          flush=True)  # fmt: skip
    return run


# -- measuring ------------------------------------------------------------------------------------


Sums = dict[str, np.ndarray]


def measured(study: Study, plan: Mapping[str, Any], arm: str, share: float, seed: int, frames: int) -> Sums:
    """MEASURES of a fine-tuned reader, "n 2" each: of every test clip (or group of clips) a sum, and over what; and
    beside them POOLED, as the benchmarks have it."""
    run = tuned(study, plan, arm, share, seed, frames)
    return between.kept(run / "measured.npz", lambda: _measured(study, plan, run, arm, seed, frames))


@torch.no_grad()
def _measured(
    study: Study, plan: Mapping[str, Any], run: Path, arm: str, seed: int, frames: int
) -> dict[str, np.ndarray]:
    reader = fresh(study, plan, arm, seed, frames)
    reader.load_state_dict(checkpoint.read(run / checkpoint.MODEL)[0])
    reader.eval()
    valid, arrays = labelled(study, "valid", frames), labelled(study, "test", frames)
    cells = np.concatenate(
        [_cells(torch.sigmoid(read.layers.float()), valid, index) for index, read in _reads(study, reader, valid)]
    )
    best = [each.threshold for each in perception.iou(cells, THRESHOLDS, resamples=1)]
    grid = reader.encoder.config.grid
    counts, errors = [], []
    boxes: list[heads.Detections] = []
    lines: list[heads.Sketch] = []
    for index, read in _reads(study, reader, arrays):
        counts.append(_cells(torch.sigmoid(read.layers.float()), arrays, index))
        errors.append(_velocity(reader, read, arrays, index))
        boxes += reader.boxes.decode(read.boxes, grid, 50, 0.05)
        lines += reader.lines.decode(read.lines, 0.05)
    cells, speeds = np.concatenate(counts).astype(np.float64), np.concatenate(errors)
    found = {name: cells[:, k, THRESHOLDS.index(best[k])] for k, name in enumerate((*LAYERS, "movers"))}
    found |= {"velocity": speeds[:, 0], "velocity moving": speeds[:, 1]}
    groups = max(1, min(GROUPS, study.test // 2))
    rows = [_judged(reader, arrays, boxes, lines, np.arange(g, study.test, groups)) for g in range(groups)]
    for name in ("boxes", "nds", "lines"):
        found[name] = np.array([[row[name], 1.0] for row in rows])
    whole = _judged(reader, arrays, boxes, lines, np.arange(study.test))
    return {**found, "pooled": np.array([whole[f"error {n}" if n in perception.ERRORS else n] for n in POOLED])}


def _reads(study: Study, reader: Reader, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, Read]]:
    num = len(arrays["frames"])
    for start in range(0, num, 8):
        index = np.arange(start, min(start + 8, num))
        with study.autocast():
            read = reader(clips_of(arrays, index, study.device))
        yield index, read


def _cells(score: Tensor, arrays: Mapping[str, np.ndarray], index: np.ndarray) -> np.ndarray:
    """Of each layer, and of cars where those that stand are not asked for."""
    truth, valid, said = arrays["layers"][index], arrays["valid"][index], score.cpu().numpy()
    car = slice(LAYERS.index("vehicles"), LAYERS.index("vehicles") + 1)
    stands = truth[:, car][:, 0] & ~truth[:, LAYERS.index("moving")]
    every = perception.count_cells(said, truth, THRESHOLDS, valid)
    movers = perception.count_cells(said[:, car], truth[:, car], THRESHOLDS, valid & ~stands)
    return np.concatenate([every, movers], 1)


def _velocity(reader: Reader, read: Read, arrays: Mapping[str, np.ndarray], index: np.ndarray) -> np.ndarray:
    """At the cells of the centres of cars, and of those that move: "n 2 2"."""
    cars = []
    for i in index:
        one = boxes_of(arrays, int(i), "cpu")
        of = one.label == CATEGORIES.index("car")
        cars.append(heads.Boxes(one.label[of], one.centre[of], one.size[of], one.yaw[of], one.velocity[of]))
    targets = reader.boxes.targets(cars, reader.encoder.config.grid)
    true, there = targets.maps.velocity.numpy(), targets.there.numpy()
    moves = np.linalg.norm(true, axis=1) >= MOVING
    made = read.boxes.velocity.float().cpu().numpy()
    return np.stack([perception.sum_flow(made, true, part) for part in (there, there & moves)], 1)


def _judged(
    reader: Reader,
    arrays: Mapping[str, np.ndarray],
    boxes: Sequence[heads.Detections],
    lines: Sequence[heads.Sketch],
    index: np.ndarray,
) -> dict[str, float]:
    """Boxes and lines of some of the clips, as nuScenes and MapTR have it."""
    reach = max(abs(x) for x in (*reader.encoder.config.low[:2], *reader.encoder.config.high[:2]))
    kinds = {
        "car": perception.Kind(reach, errors=("translation", "scale", "orientation", "velocity")),
        "walker": perception.Kind(reach, errors=("translation", "scale", "velocity")),
    }
    truth = [(boxes_of(arrays, int(i), "cpu"), None) for i in index]
    detected = perception.detection(
        _boxes([(boxes[i].boxes, boxes[i].score) for i in index]), _boxes(truth), index.tolist(), kinds, resamples=1
    )
    drawn = [(lines[i].lines.label, lines[i].lines.points, lines[i].score) for i in index]
    real = []
    for i in index:
        of = arrays["line_of"] == i
        real.append((torch.from_numpy(arrays["line_label"][of]), torch.from_numpy(arrays["line_points"][of]), None))
    found = perception.line_ap(_lines(drawn), _lines(real), index.tolist(), LINES, resamples=1)
    values = {"boxes": detected.mean_ap.mean, "nds": detected.nds.mean, "lines": found.mean_ap.mean}
    values |= {name: float(np.mean(list(row.values()))) for name, row in detected.ap.items()}
    return values | {f"error {name}": value for name, value in detected.mean_errors.items()}


def _boxes(frames: Sequence[tuple[heads.Boxes, Tensor | None]]) -> perception.Boxes:
    """Frame after frame; a truth has no score."""

    def of(name: str) -> np.ndarray:
        return torch.cat([getattr(one, name) for one, _ in frames]).cpu().numpy()

    frame = np.repeat(np.arange(len(frames)), [len(one.label) for one, _ in frames])
    score = torch.cat([torch.ones(len(one.label)) if s is None else s.cpu() for one, s in frames]).numpy()
    category = tuple(CATEGORIES[k] for k in of("label").tolist())
    return perception.Boxes(frame, category, of("centre"), of("size"), of("yaw"), of("velocity"), score)


def _lines(frames: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> perception.Lines:
    frame = np.repeat(np.arange(len(frames)), [len(label) for label, _, _ in frames])
    category = tuple(LINES[k] for label, _, _ in frames for k in label.tolist())
    points = [line.cpu().numpy() for _, lines, _ in frames for line in lines]
    score = torch.cat([torch.ones(len(label)) if s is None else s.cpu() for label, _, s in frames]).numpy()
    return perception.Lines(frame, category, points, score)


# -- telling --------------------------------------------------------------------------------------


def ratio(sums: Float[np.ndarray, "n s 2"]) -> float:
    """Pooled over the items, the mean over the seeds; NaN where there is nothing."""
    total = sums.sum(0)
    if (total[:, 1] == 0).any():
        return math.nan
    return float((total[:, 0] / total[:, 1]).mean())


def over(statistic: Callable[[np.ndarray], float], sums: Float[np.ndarray, "n s *m"], resamples: int) -> Interval:
    """A statistic of items x seeds; both are drawn again, seeds only where there are several."""
    if sums.shape[1] == 1:
        return interval_of_sets(statistic, [sums], resamples=resamples)
    seeds = np.arange(sums.shape[1])
    return interval_of_sets(lambda items, drawn: statistic(items[:, drawn]), [sums, seeds], resamples=resamples)


def minus(one: np.ndarray, other: np.ndarray, resamples: int) -> Interval:
    """One less another over the same items and seeds."""
    both = np.stack([one, other], -1)
    return over(lambda drawn: ratio(drawn[..., 0]) - ratio(drawn[..., 1]), both, resamples)


def answer(found: Interval, direction: int, least: float = 0.0) -> str:
    if not (np.isfinite(found.low) and (found.low > 0 or found.high < 0)):
        return "null"
    if np.sign(found.mean) != direction:
        return "the other way"
    return "yes" if abs(found.mean) >= least else f"yes, by less than {least:g}"


def told(study: Study, plan: Mapping[str, Any], arms: Sequence[str], seeds: int, frames: Sequence[int]) -> between.Told:
    """Tables: what pre-training costs and renders, then what it is good for."""
    say = between.Told(rows={"plan": dict(plan), "arms": list(arms), "seeds": seeds, "frames": list(frames)})
    learnt = [arm for arm in arms if arm != SCRATCH]
    if learnt:
        _tell_pretraining(say, study, plan, learnt)
    say.lines += [
        "",
        f"Labels: shares of {study.pool} clips; {study.steps} steps of {study.batch} clips each; {study.valid} clips "
        f"for thresholds, {study.test} for all figures; {seeds} seeds.",
    ]
    for num in frames:
        _tell_transfer(say, study, plan, arms, seeds, num)
    return say


def _tell_pretraining(say: between.Told, study: Study, plan: Mapping[str, Any], arms: Sequence[str]) -> None:
    done = {arm: json.loads((pretrained(study, plan, arm) / "done.json").read_text()) for arm in arms}
    body = [
        [arm, ARMS[arm].says, f"{d['steps']}", f"{d['images']}", f"{d['cpu_seconds_a_step']:.2f}",
         f"{d['cpu_seconds_a_step'] * d['steps'] / 60:.1f}", f"{d['train_loss']:.3f}"]
        for arm, d in done.items()
    ]  # fmt: skip
    head = ["arm", "", "steps", "images", "CPU s a step", "CPU minutes", "training loss"]
    say.table(f"**Pre-training**, `{study.preset}`, without labels.", head, body)
    say.rows["pretraining"] = done
    sums = {arm: rendered(study, plan, arm) for arm in arms}
    body, asked = [], []
    for arm in arms:
        for name in ("seen", "dropped", "carried"):
            if name in sums[arm]:
                body.append([arm, name, *_shown(say, study, sums[arm], name, arm=arm)])
        if "dropped" in sums[arm]:
            for p, part in enumerate(PARTS):
                found = minus(sums[arm]["dropped"][:, None, p], sums[arm]["carried"][:, None, p], study.resamples)
                said = answer(found, -1)
                asked.append([arm, part, "below 0", _cell(found), said])
                say.keep("dropped less carried", arm=arm, part=part, found=_row(found), answer=said)
    first = sums[arms[0]]
    body.append(["", "true depth carried", *_shown(say, study, first, "true depth carried", arm="")])
    title = (
        f"**Depth of the present, absolute relative error**, {NEAR:g} to {FAR:g} m, {study.films} test clips: seen; "
        "dropped and made from the frames before; the previous frame's voxels carried over by the car's motion alone."
    )
    say.table(title, ["arm", "rendered", *PARTS], body)
    if asked:
        say.table("**Dropped less carried over.**", ["arm", "pixels", "expected", "found", "answer"], asked)
    if FLOW in arms:
        body = [[name, *_shown(say, study, sums[FLOW], name, arm=FLOW)] for name in ("flow", "no flow")]
        say.table("**Flow from the previous frame**: end-point error, metres a frame.", ["", *PARTS], body)


def one_model(study: Study, name: str) -> between.Told:
    """A trained model of this preset: how well it renders a present that it sees, and one that it does not.

    Raises ValueError for a model of another family or another configuration.
    """
    net = load(name).net
    if not isinstance(net, MIM4D) or dataclasses.replace(net.config, flow=False) != study.config:
        raise ValueError(f"{name} is no mim4d model of the preset {study.preset}")
    say, sums = between.Told(), _sums_of(study, net, True)
    body = [[what, *_shown(say, study, sums, what, arm=name)]
            for what in ("seen", "dropped", "carried", "true depth carried")]  # fmt: skip
    title = (
        f"**Depth of the present, absolute relative error**, `{name}`, {NEAR:g} to {FAR:g} m, {study.films} test clips "
        f"of {study.config.num_frames} frames at {FPS:g} a second."
    )
    say.table(title, ["rendered", *PARTS], body)
    body = []
    for other in ("carried", "true depth carried"):
        row = [f"dropped less {other}"]
        for p, part in enumerate(PARTS):
            found = minus(sums["dropped"][:, None, p], sums[other][:, None, p], study.resamples)
            row.append(_cell(found))
            say.keep("dropped less", other=other, part=part, found=_row(found), answer=answer(found, -1))
        body.append(row)
    say.table("**Dropped less carried over** (below 0: better).", ["", *PARTS], body)
    if net.config.flow:
        body = [[what, *_shown(say, study, sums, what, arm=name)] for what in ("flow", "no flow")]
        say.table("**Flow from the previous frame**: end-point error, metres a frame.", ["", *PARTS], body)
    return say


def _shown(say: between.Told, study: Study, sums: Mapping[str, np.ndarray], name: str, arm: str) -> list[str]:
    found = [over(ratio, sums[name][:, None, p], study.resamples) for p in range(len(PARTS))]
    say.keep("rendered", arm=arm, what=name, **{part: _row(x) for part, x in zip(PARTS, found, strict=True)})
    return [_cell(x, "") for x in found]


def _tell_transfer(
    say: between.Told, study: Study, plan: Mapping[str, Any], arms: Sequence[str], seeds: int, frames: int
) -> None:
    found: dict[tuple[str, float], dict[str, np.ndarray]] = {}
    for arm in arms:
        for share in study.labels:
            parts = [measured(study, plan, arm, share, seed, frames) for seed in range(seeds)]
            found[arm, share] = {name: np.stack([p[name] for p in parts], 1) for name in parts[0] if name != "pooled"}
            found[arm, share]["pooled"] = np.stack([p["pooled"] for p in parts])
    into = f"{frames} frame{'s' if frames > 1 else ''} in"
    for share in study.labels:
        body = [
            [arm, *(_cell(over(ratio, found[arm, share][name], study.resamples), "") for name in OVERLAPS)]
            for arm in arms
        ]
        say.table(f"**Layers**, {share:.0%} of the labels, {into}: IoU.", ["arm", *OVERLAPS], body)
        body = []
        for arm in arms:
            values = found[arm, share]["pooled"].mean(0)
            errors = [_cell(over(ratio, found[arm, share][name], study.resamples), "")
                      for name in ("velocity", "velocity moving")]  # fmt: skip
            body.append([arm, *(f"{x:.3f}" for x in values), *errors])
            say.keep("boxes and lines", frames=frames, labels=share, arm=arm, **dict(zip(POOLED, values, strict=True)))
            for name in MEASURES:
                each = found[arm, share][name]
                by_seed = [ratio(each[:, s : s + 1]) for s in range(seeds)]
                say.keep("measured", frames=frames, labels=share, arm=arm, what=name, seeds=by_seed,
                         found=_row(over(ratio, each, study.resamples)))  # fmt: skip
        names = {"boxes": "mAP", "nds": "NDS", "lines": "mAP of lines"}
        head = [names[n] if n in names else f"AP {n}" if n in CATEGORIES else f"{n} error" for n in POOLED]
        head = ["arm", *head, "velocity at centres", "of those that move"]
        say.table(f"**Boxes and lines**, {share:.0%} of the labels, {into}; means over seeds.", head, body)
        body = []
        for one, other in PAIRS:
            if one in arms and other in arms:
                row = [f"{one} - {other}"]
                for name in MEASURES:
                    less = minus(found[one, share][name], found[other, share][name], study.resamples)
                    row.append(_cell(less))
                    say.keep("less", frames=frames, labels=share, one=one, other=other, what=name, found=_row(less))
                body.append(row)
        if body:
            title = f"**One less another**, {share:.0%} of the labels, {into}; paired over clips and seeds."
            say.table(title, ["", *MEASURES], body)
    body = []
    for question in QUESTIONS:
        if frames not in question.frames or not {question.one, question.other} <= set(arms):
            continue
        for share in study.labels:
            one, other = (found[arm, share][question.what] for arm in (question.one, question.other))
            less = minus(one, other, study.resamples)
            said = answer(less, question.direction, question.least)
            sign = "below 0" if question.direction < 0 else "above 0"
            what = f"{question.one} - {question.other}, {MEASURES[question.what]}"
            body.append([question.asks, f"{share:.0%}", what, sign, _cell(less), said])
            say.keep("questions", **dataclasses.asdict(question), at=frames, labels=share, found=_row(less),
                     answer=said)  # fmt: skip
    if body:
        head = ["", "labels", "", "expected", "found", "answer"]
        say.table(f"**What was asked before**, {into}, and what was found (95 %).", head, body)


def _cell(x: Interval, sign: str = "+") -> str:
    if math.isnan(x.mean):
        return "-"
    return f"{x.mean:{sign}.3f}" + ("" if math.isnan(x.low) else f" [{x.low:.3f}, {x.high:.3f}]")


def _row(x: Interval) -> dict[str, float]:
    return dataclasses.asdict(x)


def plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# -- the command ----------------------------------------------------------------------------------


def only(study: Study, plan: Mapping[str, Any], part: str, frames: Sequence[int]) -> None:
    """Do one part alone, for several processes to share the work. Who is fine-tuned waits for the pre-training."""
    kind, _, rest = part.partition("-")
    if part == "data":
        films(study)
        for num in frames:
            for split in ("train", "valid", "test"):
                labelled(study, split, num)
    elif kind == "pretrain" and rest in ARMS and rest != SCRATCH:
        rendered(study, plan, rest)
    elif kind in ARMS and rest.count("-") == 1:
        share, seed = rest.split("-")
        try:
            which = float(share), int(seed)
        except ValueError:
            raise ValueError(f"--only {part}: a share and a seed are numbers, as in mim4d-0.1-2") from None
        if not 0 < which[0] <= 1:
            raise ValueError(f"--only {part}: a share of the labels is above 0 and at most 1")
        if kind != SCRATCH and not (study.out / f"pretrain-{kind}" / "done.json").exists():
            raise ValueError(f"{study.out} has no encoder of {kind} yet: --only pretrain-{kind} makes it")
        for num in frames:
            measured(study, plan, kind, *which, num)
    else:
        raise ValueError(f"--only takes data, pretrain-ARM or ARM-SHARE-SEED, as in mim4d-0.1-2, not {part}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mim4d"))
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--pretrain-minutes", type=float, default=20.0,
                        help="CPU minutes of pre-training of the arm mim4d; the others get as many steps")  # fmt: skip
    parser.add_argument("--pretrain-batch", type=int, default=1, help="clips a step of pre-training")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--labels", nargs="+", type=float, default=[0.01, 0.1, 1.0], help="shares of the pool")
    parser.add_argument("--pool", type=int, default=1000, help="labelled clips, all together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4, help="clips a step of fine-tuning")
    parser.add_argument("--lr", type=float, default=1e-3, help="of fine-tuning")
    parser.add_argument("--encoder-rate", type=float, default=1.0, help="factor on it for a pre-trained encoder")
    parser.add_argument("--frames", nargs="+", type=int, default=[1], choices=[1, 3], help="that are fine-tuned on")
    parser.add_argument("--valid", type=int, default=100, help="clips for thresholds")
    parser.add_argument("--test", type=int, default=200, help="clips for all figures")
    parser.add_argument("--films", type=int, default=64, help="test clips whose depth is rendered")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, where that is fast")
    parser.add_argument("--only", help="do this part alone: data, pretrain-mim4d, or mim4d-0.1-2 (arm, share, seed)")
    parser.add_argument("--subject", help="a checkpoint or a model of the zoo: measure its depth alone")
    parser.add_argument("--quick", action="store_true", help="a check of the script: numbers mean nothing")
    parser.add_argument("--write", type=Path, help="a document with marks, between which the tables are put")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = (options.pretrain_batch, options.pool, options.seeds, options.steps, options.batch, options.films)
    if min(counts) < 1 or min(options.valid, options.test) < 2:
        parser.error("batches, steps, seeds and clips are 1 or more, valid and test clips 2 or more")
    if not (options.pretrain_minutes > 0 and options.lr > 0 and options.encoder_rate > 0):
        parser.error("minutes and rates are above 0")
    if not all(0 < share <= 1 for share in options.labels):
        parser.error("a share of the labels is above 0 and at most 1")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    device, quick = "cuda" if torch.cuda.is_available() else "cpu", options.quick
    study = Study(
        out=options.out,
        preset="tiny" if quick else options.preset,
        config=PRESETS["tiny" if quick else options.preset],
        device=device,
        precision=fast_precision(device) if options.bf16 else torch.float32,
        pretrain_batch=options.pretrain_batch,
        pool=10 if quick else options.pool,
        labels=tuple(sorted({0.1, 1.0})) if quick else tuple(sorted(set(options.labels))),
        steps=3 if quick else options.steps,
        batch=2 if quick else options.batch,
        lr=options.lr,
        encoder_rate=options.encoder_rate,
        valid=4 if quick else options.valid,
        test=6 if quick else options.test,
        films=3 if quick else options.films,
        dim=16 if quick else 64,
        resamples=20 if quick else 1000,
        quick=quick,
    )
    try:
        if options.subject:
            finish(one_model(study, options.subject), options, "mim4d_depth")
            return
        plan = planned(study, options.pretrain_minutes)
        if options.only:
            only(study, plan, options.only, options.frames)
            return
    except ValueError as error:
        parser.error(str(error))
    say = told(study, plan, options.arms, min(options.seeds, 2) if quick else options.seeds, options.frames)
    finish(say, options, "mim4d_transfer" if 1 in options.frames else "mim4d_transfer_frames")


def finish(say: between.Told, options: argparse.Namespace, mark: str) -> None:
    text = "\n".join(say.lines).strip()
    print(text)
    if options.write is not None:
        between.write(options.write, mark, text)
    if options.json:
        print(json.dumps(plain({"study": mark, **say.rows})))


if __name__ == "__main__":
    main()
