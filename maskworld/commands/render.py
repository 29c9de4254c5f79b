"""`maskworld render`: a page of what a model of voxels sees: colours and depth, a frame that it is not shown, a flight.

Sections: what is shown - what is rendered - the page.
"""

from __future__ import annotations

import dataclasses
import json as json_
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from maskworld.clip import Cameras, Clip, to, to_uint8
from maskworld.commands.logs import views_of
from maskworld.data import surround
from maskworld.data.drive import Domain
from maskworld.data.labels import MOVING, Boxes, LabelledDrives
from maskworld.masks import these_frames
from maskworld.papers import mim4d
from maskworld.papers.mim4d import MIM4D, Ground, Places, View
from maskworld.report.around import Above, depth_colours
from maskworld.report.curve import Curve, Series
from maskworld.report.film import Row, beside
from maskworld.report.page import Block, Code, Facts, Film, Page, Picture, Section, Table
from maskworld.train import METRICS
from maskworld.world import World, load

# -- what is shown --------------------------------------------------------------------------------

NEAR, FAR = 1.0, 30.0  # metres along the optical axis between which depth is compared
SECONDS = 1.0  # an arrow is as long as what it stands for moves in that time


@dataclass(frozen=True)
class Moment:
    """A clip, the last frame of which is the present, and what is true around the car, where that is known."""

    clip: Clip
    bev: Bool[np.ndarray, "layer gx gy"] | None = None
    boxes: Boxes | None = None


def moments_of(world: World, path: Path | None, scene: int, start: int, num: int) -> tuple[str, list[Moment]]:
    """What they are taken from, and moments in a row: of a log, or of a held-out drive where no log is given.

    Raises ValueError for what is no log, has no such scene or camera, or too few frames.
    """
    config = world.config
    assert isinstance(config, mim4d.Config)
    t, about = config.num_frames, world.about.get("data", {})
    if path is None:
        domain = Domain(**about.get("domain", {}))
        (x0, y0, _), (x1, y1, _) = config.low, config.high
        source = LabelledDrives(
            t + num - 1, config.views, config.size, about.get("fps", 4.0), domain, "test", extent=(x0, x1, y0, y1),
            cell=(x1 - x0) / config.cells[0], num=64 * (scene + 1), frame=t - 1, depth=True,
        )  # fmt: skip
        found = []
        for i in range(num):
            one = dataclasses.replace(source, frame=t - 1 + i)(64 * scene)
            found.append(Moment(_cut(one.clip, i, i + t), one.bev.numpy(), one.boxes))
        return f"a held-out drive, number {scene}", found
    if not surround.there(path):
        raise ValueError(f"{path} is no log of several cameras, nor nuScenes: poses and calibration are wanted")
    logs = surround.read(path, depth=True)
    if scene >= len(logs):
        raise ValueError(f"--scene {scene}: {path} has scenes 0 to {len(logs) - 1}")
    log = logs[scene]
    every = max(round(log.fps / float(about.get("fps") or log.fps)), 1)
    last = start + every * (t + num - 2)
    if last >= log.num_frames:
        raise ValueError(f"--start {start}: {log.name} has {log.num_frames} frames, and {last - start + 1} are wanted")
    whole, known = log.clip(start, last + 1, views_of(world), config.size)
    if not bool(known[:, :, ::every].all()):
        raise ValueError(f"{log.name}: not all of {', '.join(views_of(world))} have a frame at {start} to {last}")
    frames = range(0, last + 1 - start, every)
    return log.name, [Moment(_picked(whole, frames[i : i + t])) for i in range(num)]


def _cut(clip: Clip, first: int, last: int) -> Clip:
    return _picked(clip, range(first, last))


def _picked(clip: Clip, frames: Sequence[int]) -> Clip:
    """Some frames of a clip, without actions."""
    at, cameras = list(frames), clip.cameras
    assert cameras is not None
    ego = None if cameras.ego is None else cameras.ego[:, at]
    depth = None if clip.depth is None else clip.depth[:, :, at]
    moved = Cameras(cameras.intrinsics, cameras.pose[:, :, at], ego)
    return Clip(clip.frames[:, :, at], torch.arange(len(at))[None], None, moved, depth)


# -- what is rendered -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A moment: from its own voxels, from those of the frames before it, and the last one's carried over."""

    own: View
    dropped: View | None
    carried: View | None


class Eyes:
    """A model, and what it makes of moments."""

    def __init__(self, net: MIM4D, every: int):
        self.net, self.every = net, every

    @torch.no_grad()
    def volumes(self, clip: Clip) -> tuple[Float[Tensor, "b t c z y x"], Places]:
        b, v, t = clip.frames.shape[:3]
        clip = to(clip, next(self.net.parameters()).device)
        return self.net.volumes(clip, these_frames([True] * t, b, v).to(clip.frames.device))

    @torch.no_grad()
    def __call__(self, clip: Clip) -> Seen:
        volumes, places = self.volumes(clip)
        k = clip.frames.shape[2] - 1
        own, dropped, carried = volumes[:, k], None, None
        if k > 0:
            dropped = self.net.dropped(volumes, places, k, range(k))[0]
            carried = mim4d.carried(self.net, volumes, places, k, k - 1)
        return Seen(*(None if x is None else self.look(x, places, k) for x in (own, dropped, carried)))  # type: ignore[arg-type]

    def look(self, volume: Float[Tensor, "b c z y x"], places: Places, k: int) -> View:
        return mim4d.look(self.net, volume, places.intrinsics, places.to_ego[:, :, k], self.every)

    @torch.no_grad()
    def flow(self, clip: Clip) -> tuple[Ground, Float[Tensor, "b x y 2"] | None]:
        """The present from above, made from the frames before it where the model moves voxels; and how far each cell
        moves in a frame, metres."""
        volumes, places = self.volumes(clip)
        k, grid = clip.frames.shape[2] - 1, self.net.config.grid
        if self.net.flow is None or k == 0:
            return mim4d.from_above(self.net, volumes[:, k], 2), None
        volume, _, velocity = self.net.dropped(volumes, places, k, range(k))
        assert velocity is not None
        ground = mim4d.from_above(self.net, volume)
        (x0, y0, _), (x1, y1, _) = grid.low, grid.high
        nx, ny = ground.height.shape[1:]
        x, y = torch.meshgrid(
            x0 + (torch.arange(nx) + 0.5) * (x1 - x0) / nx,
            y0 + (torch.arange(ny) + 0.5) * (y1 - y0) / ny,
            indexing="ij",
        )
        height = ground.height[0].cpu()
        points = torch.stack([x, y, height], -1)[None, None].to(velocity.device)
        way = nn.functional.grid_sample(velocity, grid.unit(points), align_corners=False)[0, :2, 0]
        return ground, way.movedim(0, -1)[None]

    def fly(self, clip: Clip, num: int) -> View:
        """The present from poses where no camera stood: once around the car, looking inwards over it, and down."""
        volumes, places = self.volumes(clip)
        poses = flight(num, 0.65 * self.net.config.high[2]).to(volumes.device)  # below what it takes for the sky
        intrinsics = places.intrinsics[:, :1].expand(-1, num, -1, -1)
        return mim4d.look(self.net, volumes[:, -1], intrinsics, poses[None], self.every)


def flight(num: int, top: float) -> Float[Tensor, "n 4 4"]:
    """Poses (camera to car): from the place of a front camera up and back, then once around what is there."""
    poses = []
    for i in range(num):
        share = i / max(num - 1, 1)
        rise = min(share / 0.3, 1.0)
        ease = rise * rise * (3 - 2 * rise)
        angle = math.pi + 2 * math.pi * max(share - 0.3, 0) / 0.7
        away = 10.0 * ease
        place = torch.tensor(
            [away * math.cos(angle) + 1.5 * (1 - ease), away * math.sin(angle), 1.5 + (top - 1.5) * ease]
        )
        aim = torch.tensor([12.0 * (1 - ease), 0.0, 1.4 * (1 - ease)])
        aim = aim + ease * torch.tensor([-4 * math.cos(angle), -4 * math.sin(angle), 0.0])
        poses.append(towards(place, aim))
    return torch.stack(poses)


def towards(place: Float[Tensor, " 3"], aim: Float[Tensor, " 3"]) -> Float[Tensor, "4 4"]:
    """The pose of a camera that stands at one place and looks at another, upright."""
    ahead = nn.functional.normalize(aim - place, dim=0)
    right = nn.functional.normalize(torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    pose = torch.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, torch.linalg.cross(ahead, right), ahead, place
    return pose


def abs_rel(made: Float[Tensor, "*s"], true: Float[Tensor, "*s"]) -> float:
    """Mean absolute relative error of depth from 1 to 30 m; NaN where nothing is there."""
    near = (true > NEAR) & (true < FAR)
    return ((made - true).abs() / true)[near].mean().item()


# -- the page -------------------------------------------------------------------------------------


def render_command(
    checkpoint: str,
    log: Path | None,
    out: Path,
    scene: int,
    start: int,
    moments: int,
    flight_frames: int,
    every: int,
    json: bool,
    force: bool,
) -> int:
    if out.suffix.lower() != ".html":
        raise ValueError(f"{out}: a page is written as .html")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; --force replaces it")
    if min(scene, start) < 0:
        raise ValueError(f"--scene {scene}, --start {start}: both count from 0, and are 0 or more")
    if min(moments, flight_frames, every) < 1:
        raise ValueError("--moments, --flight and --every are 1 or more")
    world = load(checkpoint)
    net = world.net
    if not isinstance(net, MIM4D):
        raise ValueError(
            f"{checkpoint} is a model of the family {world.about.get('family')}: mim4d has voxels to render"
        )
    began = time.perf_counter()
    source, shown = moments_of(world, log, scene, start, moments)
    names, fps, eyes = views_of(world), float(world.about.get("data", {}).get("fps") or 4.0), Eyes(net, every)
    sections, errors = pictures(eyes, shown, names, fps)
    sections += [above(eyes, shown[-1], fps), flown(eyes, shown[-1], flight_frames)]
    sections += training(Path(checkpoint))
    seconds = time.perf_counter() - began
    command = f"maskworld render {checkpoint} {'' if log is None else str(log) + ' '}-o {out.name} --scene {scene}"
    step = world.about.get("step")
    facts = [("of", source), ("trained", "" if step is None else f"{step:,} steps"), ("made in", f"{seconds:.0f} s")]
    page = Page(
        f"{checkpoint}: what its voxels hold",
        "Images of several cameras became voxels around the car. All here but the truth was rendered from these.",
        Facts([fact for fact in facts if fact[1]]),
        [*sections, Section("Again", "", [Code(command)])],
    )
    weight = page.save(out, force=force)
    row = {"out": str(out), "source": source, "moments": moments, "abs_rel": errors, "seconds": round(seconds, 1)}
    if json:
        print(json_.dumps({"command": "render", "checkpoint": checkpoint, **row}))
    else:
        told = "; ".join(f"{name} {value:.3f}" for name, value in errors.items())
        print(f"{out}  ({weight / 1e6:.1f} MB, {seconds:.0f} s){': depth error, relative: ' + told if told else ''}")
    return 0


def pictures(
    eyes: Eyes, shown: Sequence[Moment], names: Sequence[str], fps: float
) -> tuple[list[Section], dict[str, float]]:
    """Moments in colour and depth, beside the truth; and the errors of depth, where the true one is known."""
    seen = [eyes(one.clip) for one in shown]
    step = slice(None, None, eyes.every)
    true = [one.clip.frames[0, :, -1, :, step, step] for one in shown]
    rows: list[Row] = [row("truth", [_bytes(x) for x in true])]
    deep: list[Row] = []
    depths = [None if one.clip.depth is None else one.clip.depth[0, :, -1, step, step] for one in shown]
    if all(x is not None for x in depths):
        deep.append(row("true depth", [depth_colours(x.double().numpy()) for x in depths if x is not None]))
    errors: dict[str, float] = {}
    kinds: list[tuple[str, str, Callable[[Seen], View | None]]] = [
        ("seen", "from its own voxels", lambda one: one.own),
        ("not shown", "from the frames before", lambda one: one.dropped),
        ("carried over", "the last one's voxels, moved by the car's own motion", lambda one: one.carried),
    ]
    lines = []
    for name, text, of in kinds:
        views = [of(one) for one in seen]
        found = [view for view in views if view is not None]
        if len(found) < len(views):
            continue
        rows.append(row(name, [_bytes(view.frames[0].cpu()) for view in found]))
        deep.append(row(f"{name}: depth", [_deep(view) for view in found]))
        each = [abs_rel(v.depth[0].cpu(), d) for v, d in zip(found, depths, strict=True) if d is not None]
        each = [x for x in each if not math.isnan(x)]
        if each:
            errors[name] = sum(each) / len(each)
            lines.append([name, text, errors[name]])
    caption = ", ".join(names)
    blocks: list[Block] = [Film(rows, fps, caption)]
    blocks.append(Film(deep, fps, "Depth along the optical axis: 2 m bright, 80 m dark; grey where nothing is."))
    if lines:
        head = ["rendered", "how", "relative error of depth"]
        blocks.append(Table(head, lines, f"Absolute, over pixels of 1 to 30 m, {len(shown)} moments.",
                            {head[2]: "lower"}))  # fmt: skip
    text = (
        "A moment is lifted into voxels and rendered back (seen). Then it is not shown at all, and its voxels are made "
        "from those of the frames before it (not shown). What stands still could be carried over; what moves could not."
    )
    return [Section("Colours and depth", text, blocks)], errors


def row(label: str, moments: Sequence[UInt8[np.ndarray, "v h w 3"]]) -> Row:
    """Views side by side, over moments."""
    views = range(len(moments[0]))
    return beside(label, [Row(str(v), np.stack([one[v] for one in moments])) for v in views])


def _bytes(frames: Float[Tensor, "v c h w"]) -> UInt8[np.ndarray, "v h w 3"]:
    found = to_uint8(frames.expand(-1, 3, -1, -1)).numpy()
    return found


def _deep(view: View) -> UInt8[np.ndarray, "v h w 3"]:
    """Depth in colours; grey where less than half of a wall is seen."""
    return depth_colours(torch.where(view.weight > 0.5, view.depth, 0)[0].double().cpu().numpy())


def above(eyes: Eyes, moment: Moment, fps: float) -> Section:
    """The voxels from above; what moves, as arrows; and the truth."""
    config = eyes.net.config
    (x0, y0, _), (x1, y1, _) = config.low, config.high
    extent = (x0, x1, y0, y1)
    ground, way = eyes.flow(moment.clip)
    maps: list[UInt8[np.ndarray, "h w 3"]] = []
    text = ""
    if moment.bev is not None and moment.boxes is not None:
        true = Above(extent)
        true.ground(moment.bev[:3])
        arrows(true, moment.boxes)
        true.car()
        maps.append(true.picture)
        text = f"Left: the truth, road, marks and cars, and how far things move in {SECONDS:g} s. Right: "
    colour = (ground.colour[0] * 255).round().byte().cpu().numpy()
    paper = np.full_like(colour, 225)
    seen = Above(extent)
    seen.paint(np.where((ground.weight[0] > 0.5).cpu().numpy()[..., None], colour, paper))
    text += "the voxels, looked at straight from above; grey where nothing is."
    if way is not None:
        here = (ground.weight[0] > 0.5) & (way[0].norm(dim=-1) >= MOVING / fps)
        here[::2] = here[:, ::2] = False
        x, y = (here.cpu().nonzero() + 0.5).double().unbind(-1)
        nx, ny = ground.height.shape[1:]
        places = torch.stack([x0 + x * (x1 - x0) / nx, y0 + y * (y1 - y0) / ny], -1).numpy()
        seen.arrows(places, way[0][here].double().cpu().numpy() * fps * SECONDS)
        text += f" Arrows: how far they are said to move in {SECONDS:g} s, where that is {MOVING:g} m/s or more."
    if moment.boxes is not None:
        for i, name in enumerate(moment.boxes.category):
            if name == "car":
                l, w, _ = moment.boxes.size[i].tolist()
                seen.box("", moment.boxes.centre[i, :2].double().numpy(), (l, w), float(moment.boxes.yaw[i]))
        text += " Outlines: where cars really are."
    seen.car()
    maps.append(seen.picture)
    gap = np.full((len(maps[0]), 16, 3), 255, np.uint8)
    whole = np.concatenate([part for one in maps for part in (gap, one)][1:], axis=1)
    return Section("From above", "Ahead is up.", [Picture(whole, text[0].upper() + text[1:])])


def arrows(on: Above, boxes: Boxes) -> None:
    moving = boxes.velocity.norm(dim=-1) >= MOVING
    on.arrows(boxes.centre[moving, :2].double().numpy(), boxes.velocity[moving, :2].double().numpy() * SECONDS)


def flown(eyes: Eyes, moment: Moment, num: int) -> Section:
    view = eyes.fly(moment.clip, num)
    rows = [
        Row("colour", _bytes(view.frames[0].cpu())),
        Row("depth", _deep(view)),
    ]
    text = "The last moment from poses where no camera stood: up and back from the front, and once around the car."
    return Section("A flight", text, [Film(rows, 12, "", with_strip=True, most=8)])


def training(run: Path) -> list[Section]:
    """Curves of a run: its loss, and depth errors of held-out clips, where the checkpoint is a run's folder."""
    path = run / METRICS
    if not path.is_file():
        return []
    rows = [json_.loads(line) for line in path.read_text().splitlines()]
    blocks: list[Block] = []
    groups = {
        "loss": ["colour", "depth", "dropped colour", "dropped depth"],
        "relative error of depth": ["probes/abs_rel_seen", "probes/abs_rel_dropped"],
    }
    for label, names in groups.items():
        series = []
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                series.append(Series(name.removeprefix("probes/abs_rel_"), list(x), list(y)))
        if series:
            blocks.append(Curve(series, "step", label))
    return [Section("Training", "", blocks)] if blocks else []
