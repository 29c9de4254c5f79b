"""What `maskworld data make drive` and `maskworld data inspect` of logs do."""

from __future__ import annotations

import dataclasses
import json as json_
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from maskworld.__main__ import Driving
from maskworld.clip import to_uint8
from maskworld.data import drive, nuscenes, surround
from maskworld.data.surround import Log, Recording
from maskworld.noise import mix
from maskworld.report.around import Above, depth_colours
from maskworld.report.film import png, write_whole

# -- make -------------------------------------------------------------------------------------------


def options(asked: Driving) -> dict[str, object]:
    """What was given, by the name of its option."""
    return {f"--{name}": value for name, value in dataclasses.asdict(asked).items()}


def _domain(asked: Driving) -> drive.Domain:
    switches = {field.name for field in dataclasses.fields(drive.Domain)}
    given = {name: value for name, value in dataclasses.asdict(asked).items() if name in switches and value is not None}
    return drive.Domain(**given)


def make_drive(
    out: Path, asked: Driving, frames: int | None, fps: float | None, size: Sequence[int] | None, seed: int, force: bool
) -> int:
    """Scenes that a folder already holds of the same drive stay, and the rest is added."""
    num, t = 1 if asked.scenes is None else asked.scenes, 40 if frames is None else frames
    fps = 10.0 if fps is None else fps
    for name, value in (("--scenes", num), ("--frames", t)):
        if value < 1:
            raise ValueError(f"{name} {value}: 1 or more")
    if seed < 0:
        raise ValueError(f"--seed {seed}: 0 or more")
    size = (96, 160) if size is None else tuple(size)
    if len(size) != 2:
        raise ValueError(f"--size {' '.join(map(str, size))}: frames of a drive have a height and a width")
    if not 0.1 <= fps <= 100:
        raise ValueError(f"--fps {fps:g}: 0.1 to 100")
    domain, cameras = _domain(asked), 6 if asked.cameras is None else asked.cameras
    rig = drive.rig(cameras, size, domain)
    about = {"world": "drive", "cameras": cameras, "frames": t, "fps": fps, "size": list(size), "seed": seed}
    source = about | {"domain": dataclasses.asdict(domain)}

    def made(start: int) -> Iterator[Recording]:
        from tqdm import tqdm

        with tqdm(range(start, num), desc="drive", total=num, initial=start, unit="scene", disable=None) as bar:
            for i in bar:
                scene = drive.scene(mix(seed, i), t, fps, domain)
                yield surround.of_drive(scene, rig, f"{i:05d}")

    def there() -> int:
        if asked.format == "nuscenes":
            return nuscenes.held(out, VERSION, source)
        return surround.held(out, source)

    start = 0 if force else there()
    try:
        if start < num and asked.format == "nuscenes":
            nuscenes.write(out, made(start), VERSION, source, force, start)
        elif start < num:
            surround.write(out, made(start), source, force, start)
    except KeyboardInterrupt:
        kept = there() if out.exists() else 0
        raise KeyboardInterrupt(f"{out} keeps {kept} of {num} scenes; the same command goes on from there") from None
    added = f", {start} of them were there" if start else ""
    h, w = size
    print(f"{out}: {there()} scenes{added}, {t} frames of {cameras} cameras, {w} x {h}, {fps:g} frames/s")
    return 0


VERSION = "v1.0-mini"
"""The version that is written as nuScenes."""

# -- inspect ----------------------------------------------------------------------------------------

TURNING = 0.01
"""Curvature in 1/m above which a frame turns: a radius of 100 m."""


def inspect_logs(path: Path, json: bool, sheet: Path | None, force: bool) -> int:
    """What is in logs; with a `sheet`, a picture of the first."""
    logs = nuscenes.read(path, depth=True) if nuscenes.there(path) else surround.read(path)
    rows = [_about(log) for log in logs]
    if sheet is not None:
        if sheet.suffix.lower() != ".png":
            raise ValueError(f"{sheet}: a sheet is a .png")
        write_whole(sheet, png(contact_sheet(logs[0])), force=force)
    frames = sum(row["frames"] for row in rows)
    metres = round(sum(row["metres"] for row in rows), 1)
    if json:
        found = {"path": str(path), "logs": rows, "frames": frames, "metres": metres}
        print(json_.dumps(found | {"sheet": None if sheet is None else str(sheet)}))
        return 0
    for row in rows:
        sizes = sorted({f"{w} x {h}" for h, w in row["sizes"]})
        print(
            f"{row['name']:12} {row['frames']:4} frames, {len(row['cameras'])} cameras of {', '.join(sizes)}, "
            f"{row['fps']:g} frames/s, {row['metres']:.1f} m driven, {100 * row['turning']:.0f} % of frames turn, "
            f"{100 * row['known']:.0f} % known"
        )
    print(f"{path}: {len(rows)} logs, {frames} frames, {metres:.1f} m; cameras {', '.join(logs[0].cameras)}")
    if sheet is not None:
        print(f"{sheet}: {logs[0].name}")
    return 0


def _about(log: Log) -> dict:
    step = np.linalg.norm(np.diff(log.ego[:, :2, 3], axis=0), axis=1)
    turning = (np.abs(log.actions[:, 1]) > TURNING) & (np.abs(log.actions[:, 0]) > 0.1)
    return {
        "name": log.name,
        "frames": log.num_frames,
        "cameras": list(log.cameras),
        "sizes": [list(size) for size in log.sizes],
        "fps": log.fps,
        "metres": round(float(step.sum()), 2),
        "turning": round(float(turning.mean()), 4),
        "known": round(float(log.known.mean()), 4),
    }


# -- a contact sheet --------------------------------------------------------------------------------

_ROWS, _GAP, _LINE = 4, 6, 18
_PAPER, _INK, _BLANK = (250, 249, 246), (40, 40, 40), (222, 220, 214)
_EXTENT = (-20.0, 40.0, -30.0, 30.0)  # metres ahead and to the left, of the map


def contact_sheet(log: Log, rows: int = _ROWS) -> UInt8[np.ndarray, "h w 3"]:
    """Moments of a log, one below another: its cameras in the order of the ring, their depth, and the map at the right.

    The map shows the road, lane marks, boxes and the car (a triangle) with the way that it takes; where nobody says
    what is around, the points that have depth and stand above the ground.
    """
    frames = np.unique(np.linspace(0, log.num_frames - 1, min(rows, log.num_frames)).round().astype(int)).tolist()
    cameras = surround.ring(log.cameras)
    h, w = _size(log)
    font = ImageFont.load_default(12)
    deep = any(_moment(log, frame, cameras, (h, w))[1] is not None for frame in frames[:1])
    down = _LINE + h + (_GAP + h if deep else 0) + _GAP
    side = down - _LINE - _GAP
    left = 56
    sheet = Image.new(
        "RGB", (left + len(cameras) * (w + _GAP) + max(side, 160) + _GAP, _LINE + len(frames) * down), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for v, name in enumerate(cameras):
        pen.text((left + v * (w + _GAP), 2), name, _INK, font)
    pen.text((left + len(cameras) * (w + _GAP), 2), f"{log.name}, 60 x 60 m, ahead is up", _INK, font)
    for i, frame in enumerate(frames):
        top = _LINE + i * down
        rgb, depth, known, points = _moment(log, frame, cameras, (h, w))
        speed, curvature = log.actions[frame]
        pen.text(
            (4, top + _LINE), f"{frame / log.fps:.1f} s\n{speed:.1f} m/s\n{speed * curvature:+.2f}\nrad/s", _INK, font
        )
        for v in range(len(cameras)):
            x, y = left + v * (w + _GAP), top + _LINE
            if not known[v]:
                pen.rectangle((x, y, x + w - 1, y + h - 1), _BLANK)
                pen.text((x + 6, y + 6), "no frame", _INK, font)
                continue
            sheet.paste(Image.fromarray(rgb[v]), (x, y))
            if depth is not None:
                sheet.paste(Image.fromarray(_coloured(depth[v])), (x, y + h + _GAP))
        bird = Image.fromarray(_bird(log, frame, points)).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(bird, (left + len(cameras) * (w + _GAP), top + _LINE))
    return np.asarray(sheet)


def _size(log: Log) -> tuple[int, int]:
    """Of a view on the sheet: about 192 pixels wide, in the shape of the first camera."""
    h, w = log.sizes[0]
    return max(1, round(192 * h / w)), 192


def _moment(
    log: Log, frame: int, cameras: Sequence[str], size: tuple[int, int]
) -> tuple[
    UInt8[np.ndarray, "v h w 3"], Float[np.ndarray, "v h w"] | None, list[bool], Float[np.ndarray, "n 3"] | None
]:
    """Frames, depth, which are known; and the points of their depth in the ego's frame."""
    clip, known = log.clip(frame, frame + 1, cameras, size)
    there = known[0, :, 0, 0, 0].tolist()
    if clip.depth is None:
        return to_uint8(clip.frames[0, :, 0]).numpy(), None, there, None
    assert clip.cameras is not None
    depth, found = clip.depth[0, :, 0].double().numpy(), []
    to_ego = np.linalg.inv(log.ego[frame])
    for v in range(len(cameras)):
        row, column = np.nonzero(depth[v])
        z, k = depth[v, row, column], clip.cameras.intrinsics[0, v].double().numpy()
        points = [(column + 0.5 - k[0, 2]) / k[0, 0] * z, (row + 0.5 - k[1, 2]) / k[1, 1] * z, z, np.ones_like(z)]
        found.append((to_ego @ clip.cameras.pose[0, v, 0].double().numpy() @ np.stack(points))[:3].T)
    return to_uint8(clip.frames[0, :, 0]).numpy(), depth, there, np.concatenate(found)


def _coloured(depth: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in colours; single points are drawn larger."""
    if 0 < (depth > 0).mean() < 0.3:
        from scipy.ndimage import minimum_filter

        depth = np.where(depth > 0, depth, np.inf)
        depth = minimum_filter(depth, 3)
        depth = np.where(np.isinf(depth), 0, depth)
    return depth_colours(depth)


def _bird(log: Log, frame: int, points: Float[np.ndarray, "n 3"] | None) -> UInt8[np.ndarray, "h w 3"]:
    """What is around from above."""
    bird = Above(_EXTENT)
    bev, boxes = log.bev(frame), log.boxes(frame)
    if bev is not None:
        bird.ground(bev)
    to_ego = np.linalg.inv(log.ego[frame])
    if points is not None and bev is None and boxes is None:
        bird.points(points[(points[:, 2] > 0.3) & (points[:, 2] < 6), :2])
    if boxes is not None:
        heading = math.atan2(log.ego[frame][1, 0], log.ego[frame][0, 0])
        for i, name in enumerate(boxes.category):
            place = to_ego[:2, :2] @ boxes.centre[i, :2].double().numpy() + to_ego[:2, 3]
            l, w, _ = boxes.size[i].tolist()
            bird.box(name, place, (l, w), float(boxes.yaw[i]) - heading)
    bird.way(log.ego[:, :2, 3] @ to_ego[:2, :2].T + to_ego[:2, 3])
    bird.car()
    return bird.picture
