"""nuScenes on disk: any version is read into logs, and recordings are written as a valid version.

A version is a folder of 13 tables (JSON) beside the files that they name: `samples/` has the images and LiDAR sweeps of
the key frames, at 2 Hz, `sweeps/` those between, `maps/` a picture of each map, `can_bus/` what the car said of itself.
A pose is the ego's at the time of that very image, times where the sensor is mounted. The tables are read once, and
each log keeps its own rows alone. The public devkit is not needed.

Source: Caesar et al., nuScenes, CVPR 2020 (1903.11027), and the schema that is published with it.

Sections: names - read - tables - a log - write - LiDAR - annotations - maps and the CAN bus.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from maskworld.clip import Clip
from maskworld.data import surround
from maskworld.data.drive import Boxes
from maskworld.data.surround import Known, Recording

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
KEY_FPS = 2.0
"""Key frames a second."""

# -- names ------------------------------------------------------------------------------------------

LIDAR = "LIDAR_TOP"
CATEGORIES = {
    "animal": "",
    "human.pedestrian.adult": "pedestrian.moving",
    "human.pedestrian.child": "pedestrian.moving",
    "human.pedestrian.construction_worker": "pedestrian.moving",
    "human.pedestrian.personal_mobility": "pedestrian.moving",
    "human.pedestrian.police_officer": "pedestrian.moving",
    "human.pedestrian.stroller": "pedestrian.moving",
    "human.pedestrian.wheelchair": "pedestrian.moving",
    "movable_object.barrier": "",
    "movable_object.debris": "",
    "movable_object.pushable_pullable": "",
    "movable_object.trafficcone": "",
    "static_object.bicycle_rack": "",
    "vehicle.bicycle": "cycle.with_rider",
    "vehicle.bus.bendy": "vehicle.moving",
    "vehicle.bus.rigid": "vehicle.moving",
    "vehicle.car": "vehicle.moving",
    "vehicle.construction": "vehicle.moving",
    "vehicle.emergency.ambulance": "vehicle.moving",
    "vehicle.emergency.police": "vehicle.moving",
    "vehicle.motorcycle": "cycle.with_rider",
    "vehicle.trailer": "vehicle.moving",
    "vehicle.truck": "vehicle.moving",
}
"""The categories of nuScenes, and the attribute of what moves."""

OURS = {"car": "vehicle.car", "walker": "human.pedestrian.adult"}
"""The categories of a drive that nuScenes has; buildings and trees it does not annotate."""

_AT_REST = {
    "vehicle.moving": "vehicle.parked",
    "pedestrian.moving": "pedestrian.standing",
    "cycle.with_rider": "cycle.without_rider",
}
_ATTRIBUTES = (*_AT_REST, *_AT_REST.values(), "vehicle.stopped", "pedestrian.sitting_lying_down")
_LEVELS = {"1": (0, 40), "2": (40, 60), "3": (60, 80), "4": (80, 100)}  # visibility, in per cent
_MAP_CELL = 0.1  # metres of a pixel of a map


def channel(camera: str) -> str:
    """front_left -> CAM_FRONT_LEFT"""
    return f"CAM_{camera.upper()}"


def camera(channel: str) -> str:
    """CAM_FRONT_LEFT -> front_left"""
    return channel.removeprefix("CAM_").lower()


# -- read -------------------------------------------------------------------------------------------


def there(path: Path | str) -> bool:
    """Whether a folder holds a version of nuScenes, or is one."""
    return bool(_versions(Path(path))) or _is_version(Path(path))


def read(
    folder: Path | str,
    version: str | None = None,
    fps: float | None = None,
    keys: bool = False,
    depth: bool = False,
    can: bool = True,
) -> Sequence[NuScenesLog]:
    """The scenes of a version, as logs.

    version  such as v1.0-mini; the only one in the folder otherwise, or the folder itself
    fps      of the time line; otherwise as the camera has them that has most images (12 a second in the real ones).
             Each camera gives the nearest image within half a frame's time; where there is none, it has no frame
    keys     the key frames alone, at 2 Hz
    depth    clips have the nearest LiDAR sweep's points as depth, where there is one within half a frame's time
    can      actions are the CAN bus's where it has some for all of a scene; the ego poses' otherwise

    The world of a log begins near the car, so that float32 holds it. Raises ValueError, in one line, for an unknown
    version and a missing or broken table; a missing image is one when its frame is asked for.
    """
    folder = Path(folder)
    if keys and fps is not None:
        raise ValueError("key frames have their own rate: either fps or keys")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps is a number above 0, not {fps:g}")
    if version is None and _is_version(folder):
        folder, version = folder.parent, folder.name
    found = _versions(folder)
    if version is None:
        if len(found) != 1:
            what = f"several versions, say which: {', '.join(found)}" if found else "no version of nuScenes"
            raise ValueError(f"{folder} holds {what}")
        version = found[0]
    if version not in found:
        hint = f"there is {', '.join(found)}" if found else "there is none at all"
        raise ValueError(f"{folder} holds no version {version}: {hint}")
    scenes = _scenes(folder, version, _stamp(folder, version))
    return [NuScenesLog(folder, version, scene, fps, keys, depth, can) for scene in scenes]


def _is_version(folder: Path) -> bool:
    return (folder / "scene.json").is_file() and (folder / "sensor.json").is_file()


def _versions(folder: Path) -> list[str]:
    """Folders with tables; that some are missing is said when they are read."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and _has_tables(p))


def _has_tables(folder: Path) -> bool:
    return folder.is_dir() and sum((folder / f"{name}.json").is_file() for name in TABLES) > len(TABLES) // 2


# -- tables -----------------------------------------------------------------------------------------


class _Track(NamedTuple):
    """What one sensor recorded in a scene, by time."""

    times: Int64[np.ndarray, " n"]  # microseconds
    files: tuple[str, ...]
    key: Bool[np.ndarray, " n"]
    ego: Float64[np.ndarray, "n 7"]  # translation, then the quaternion w x y z
    mount: Float64[np.ndarray, "4 4"]  # sensor to ego
    intrinsics: Float64[np.ndarray, "3 3"]  # of a camera
    size: tuple[int, int]  # of a camera


class _Scene(NamedTuple):
    name: str
    description: str
    samples: tuple[str, ...]  # tokens, by time
    sample_times: Int64[np.ndarray, " s"]
    tracks: dict[str, _Track]  # by channel: cameras, and the LiDAR where there is one
    map: str  # its picture; empty where there is none
    origin: tuple[float, float]  # where the world of the log begins, in that of the tables


class _Row(NamedTuple):
    """What is kept of a row of sample_data: there are millions."""

    time: int
    file: str
    ego: str
    mount: str
    key: bool
    size: tuple[int, int]


def _table(folder: Path, version: str, name: str) -> list[dict[str, Any]]:
    path = folder / version / f"{name}.json"
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{folder / version} has no table {name}.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no table: a list of rows is wanted")
    return rows


def _stamp(folder: Path, version: str) -> int:
    """When a table was last written. ValueError where one is missing."""
    files = {name: folder / version / f"{name}.json" for name in TABLES}
    for name, file in files.items():
        if not file.is_file():
            raise ValueError(f"{folder / version} has no table {name}.json")
    return max(file.stat().st_mtime_ns for file in files.values())


@lru_cache(maxsize=2)
def _scenes(folder: Path, version: str, stamp: int) -> list[_Scene]:
    """The scenes of a version as it was at `stamp`: every table is gone through once, and only what is used is kept."""
    try:
        return _joined(folder, version)
    except KeyError as error:
        raise ValueError(f"the tables of {folder / version} do not go together: {error} is missing in them") from None


def _joined(folder: Path, version: str) -> list[_Scene]:
    sensors = {row["token"]: row for row in _table(folder, version, "sensor")}
    mounts = {row["token"]: row for row in _table(folder, version, "calibrated_sensor")}
    used = {}
    for token, row in mounts.items():
        sensor = sensors[row["sensor_token"]]
        if sensor["modality"] == "camera" or sensor["channel"] == LIDAR:
            used[token] = sensor["channel"]
    samples: dict[str, list[tuple[int, str]]] = defaultdict(list)
    scene_of = {}
    for row in _table(folder, version, "sample"):
        samples[row["scene_token"]].append((row["timestamp"], row["token"]))
        scene_of[row["token"]] = row["scene_token"]

    images: dict[str, dict[str, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    wanted = set()
    for row in _table(folder, version, "sample_data"):
        mount = row["calibrated_sensor_token"]
        if mount in used:
            size = (int(row["height"] or 0), int(row["width"] or 0))
            kept = _Row(row["timestamp"], row["filename"], row["ego_pose_token"], mount, row["is_key_frame"], size)
            images[scene_of[row["sample_token"]]][used[mount]].append(kept)
            wanted.add(kept.ego)
    poses = {}
    for row in _table(folder, version, "ego_pose"):
        if row["token"] in wanted:
            poses[row["token"]] = (*row["translation"], *row["rotation"])
    maps = {token: row["filename"] for row in _table(folder, version, "map") for token in row.get("log_tokens", ())}
    logs = {row["token"]: row for row in _table(folder, version, "log")}

    found = []
    for row in _table(folder, version, "scene"):
        tracks = {name: _track(rows, mounts, poses) for name, rows in images[row["token"]].items()}
        if not any(name != LIDAR for name in tracks):
            raise ValueError(f"{row['name']} of {folder / version} has no images")
        first = min(tracks.values(), key=lambda track: track.times[0]).ego[0]
        origin = logs[row["log_token"]].get("origin", (float(np.floor(first[0])), float(np.floor(first[1]))))
        by_time = sorted(samples[row["token"]])
        tokens, times = tuple(token for _, token in by_time), np.array([time for time, _ in by_time], np.int64)
        where = maps.get(row["log_token"], "")
        found.append(
            _Scene(row["name"], row["description"], tokens, times, tracks, where, (float(origin[0]), float(origin[1])))
        )
    if not found:
        raise ValueError(f"{folder / version} holds no scenes")
    return found


def _track(rows: list[_Row], mounts: Mapping[str, Any], poses: Mapping[str, Any]) -> _Track:
    rows = sorted(rows)
    mount = mounts[rows[0].mount]
    return _Track(
        np.array([row.time for row in rows], np.int64),
        tuple(row.file for row in rows),
        np.array([row.key for row in rows], bool),
        np.array([poses[row.ego] for row in rows], np.float64),
        _matrices(np.array([[*mount["translation"], *mount["rotation"]]], np.float64))[0],
        np.array(mount["camera_intrinsic"] or np.eye(3), np.float64),
        rows[0].size,
    )


def _matrices(seven: Float64[np.ndarray, "n 7"]) -> Float64[np.ndarray, "n 4 4"]:
    out = np.tile(np.eye(4), (len(seven), 1, 1))
    out[:, :3, :3] = Rotation.from_quat(seven[:, 3:], scalar_first=True).as_matrix()
    out[:, :3, 3] = seven[:, :3]
    return out


@lru_cache(maxsize=2)
def _annotations(folder: Path, version: str, stamp: int) -> dict[str, list[tuple[Any, ...]]]:
    """(instance, category, translation, size, rotation) of each annotation, by sample."""
    categories = {row["token"]: row["name"] for row in _table(folder, version, "category")}
    names = {row["token"]: categories[row["category_token"]] for row in _table(folder, version, "instance")}
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in _table(folder, version, "sample_annotation"):
        who = row["instance_token"]
        found[row["sample_token"]].append((who, names[who], row["translation"], row["size"], row["rotation"]))
    return dict(found)


# -- a log ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NuScenesLog:
    """A scene of nuScenes on one time line. Made by `read`."""

    folder: Path
    version: str
    scene: _Scene
    asked_fps: float | None
    keys: bool
    depth: bool
    can: bool

    @property
    def name(self) -> str:
        return self.scene.name

    @property
    def cameras(self) -> tuple[str, ...]:
        return self._cameras

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def known(self) -> Bool[np.ndarray, "v t"]:
        return self._known

    @property
    def ego(self) -> Float64[np.ndarray, "t 4 4"]:
        return self._ego

    @property
    def actions(self) -> Float32[np.ndarray, "t 2"]:
        return self._actions

    @cached_property
    def _cameras(self) -> tuple[str, ...]:
        return tuple(surround.ring(camera(name) for name in self.scene.tracks if name != LIDAR))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(track.size for track in self._tracks)

    @property
    def num_frames(self) -> int:
        return len(self.times)

    @cached_property
    def _fps(self) -> float:
        if self.keys:
            return KEY_FPS
        times = self._busiest.times
        if self.asked_fps is not None or len(times) < 2:
            return self.asked_fps or KEY_FPS
        steps = np.diff(times)  # of the real ones some last 50 ms and some 100
        return round(float(1e6 / steps[steps <= 1.6 * np.median(steps)].mean()), 2)

    @cached_property
    def times(self) -> Int64[np.ndarray, " t"]:
        """Of each frame, in microseconds."""
        if self.keys:
            return self.scene.sample_times
        times = self._busiest.times
        if self.asked_fps is not None:
            return np.arange(times[0], times[-1] + 1, 1e6 / self.fps).round().astype(np.int64)
        pieces = [times[:1]]  # where a frame is missing in the busiest camera, the time goes on all the same
        for a, b in pairwise(times.tolist()):
            pieces.append(np.linspace(a, b, 1 + max(1, round((b - a) * self.fps / 1e6)))[1:].round().astype(np.int64))
        return np.concatenate(pieces)

    @cached_property
    def _known(self) -> Bool[np.ndarray, "v t"]:
        return self._chosen >= 0

    @cached_property
    def _ego(self) -> Float64[np.ndarray, "t 4 4"]:
        """Between the poses that the tables have, on straight lines and with an even turn."""
        times = np.concatenate([track.times for track in self.scene.tracks.values()])
        poses = np.concatenate([track.ego for track in self.scene.tracks.values()])
        times, first = np.unique(times, return_index=True)
        poses, ask = poses[first], np.clip(self.times, times[0], times[-1])
        out = np.tile(np.eye(4), (len(ask), 1, 1))
        turns = Rotation.from_quat(poses[:, 3:], scalar_first=True)
        since = (times - times[0]) / 1e6
        turned = Slerp(since, turns)((ask - times[0]) / 1e6) if len(times) > 1 else turns
        out[:, :3, :3] = turned.as_matrix()
        out[:, :3, 3] = np.stack([np.interp(ask, times, poses[:, i]) for i in range(3)], 1) - self._shift
        return out

    @cached_property
    def _actions(self) -> Float32[np.ndarray, "t 2"]:
        if self.can and (said := self._said()) is not None:
            return said
        return surround.actions_of(self.ego, (self.times - self.times[0]) / 1e6)

    def clip(
        self, start: int, stop: int, cameras: Sequence[str] | None = None, size: tuple[int, int] | None = None
    ) -> tuple[Clip, Known]:
        """As `Log.clip`."""
        surround.check_span(self.name, self.num_frames, start, stop)
        views = surround.numbers(self.name, self.cameras, cameras)
        tracks = [self._tracks[view] for view in views]
        if size is None:
            size = tracks[0].size
            for view, track in zip(views, tracks, strict=True):
                if track.size != size:
                    a, b = f"{self.cameras[views[0]]} {size[0]}x{size[1]}", f"{track.size[0]}x{track.size[1]}"
                    raise ValueError(
                        f"{self.name} has cameras of different sizes ({a}, {self.cameras[view]} {b}): ask for a size"
                    )
        pixels = torch.zeros(len(views), stop - start, 3, *size)
        for v, (view, track) in enumerate(zip(views, tracks, strict=True)):
            for t, number in enumerate(self._chosen[view, start:stop]):
                if number >= 0:
                    pixels[v, t] = _image(self.folder / track.files[number], track.size, size)
        intrinsics = torch.stack(
            [surround.fit_intrinsics(torch.from_numpy(track.intrinsics), track.size, size) for track in tracks]
        )
        pose = self.pose[views, start:stop]
        return surround.clip_of(
            pixels,
            torch.from_numpy(self.known[views, start:stop].copy()),
            start,
            torch.from_numpy(self.actions[start:stop]),
            intrinsics,
            torch.from_numpy(pose),
            self._depth(start, stop, pose, intrinsics.numpy(), size) if self.depth else None,
            self.ego[start:stop],
        )

    @cached_property
    def pose(self) -> Float64[np.ndarray, "v t 4 4"]:
        """Camera to world, at the time of each very image; where there is none, at the time of the frame."""
        pose = []
        for track, chosen in zip(self._tracks, self._chosen, strict=True):
            ego = _matrices(track.ego[np.maximum(chosen, 0)])
            ego[:, :3, 3] -= self._shift
            pose.append(np.where((chosen >= 0)[:, None, None], ego, self.ego) @ track.mount)
        return np.stack(pose)

    def boxes(self, frame: int) -> Boxes | None:
        """As `Log.boxes`: between two key frames those that both have, on straight lines; after
        the last as they went before. None where nothing is annotated, as in the test split."""
        surround.check_span(self.name, self.num_frames, frame, frame + 1)
        annotated, order = self._annotated
        if not order:
            return None
        now, times = int(self.times[frame]), self.scene.sample_times
        after = int(np.searchsorted(times, now))
        found = {}
        if 0 < after < len(times):
            a, b, seconds = annotated[after - 1], annotated[after], np.diff(times)[after - 1] / 1e6
            share = (now - times[after - 1]) / 1e6 / seconds
            for who in b if share == 1 else a.keys() & b.keys():
                if share == 1:
                    found[who] = (b[who], self._velocity(who, after))
                    continue
                turn = (b[who].yaw - a[who].yaw + np.pi) % (2 * np.pi) - np.pi
                centre, yaw = (1 - share) * a[who].centre + share * b[who].centre, float(a[who].yaw + share * turn)
                found[who] = (a[who]._replace(centre=centre, yaw=yaw), (b[who].centre - a[who].centre)[:2] / seconds)
        else:
            at = min(after, len(times) - 1)
            for who, row in annotated[at].items():
                velocity = self._velocity(who, at)
                gone = np.append(velocity, 0.0) * (now - times[at]) / 1e6
                found[who] = (row._replace(centre=row.centre + gone), velocity)
        who = sorted(found, key=order.__getitem__)
        rows = [found[each] for each in who]

        def stack(parts: list[Any], columns: int) -> Tensor:
            return torch.from_numpy(np.array(parts, np.float32).reshape(len(parts), columns))

        return Boxes(
            torch.tensor([order[each] for each in who], dtype=torch.long),
            tuple(row.name for row, _ in rows),
            stack([row.centre for row, _ in rows], 3),
            stack([row.size for row, _ in rows], 3),
            stack([row.yaw for row, _ in rows], 1)[:, 0],
            stack([velocity for _, velocity in rows], 2),
        )

    def bev(self, frame: int) -> Bool[np.ndarray, "3 gx gy"] | None:
        """As `Log.bev`: the road from the map's picture, cars from the annotations; it knows no lane marks."""
        surround.check_span(self.name, self.num_frames, frame, frame + 1)
        path = self.folder / self.scene.map
        if not self.scene.map or not path.is_file():
            return None
        picture = _picture(path, path.stat().st_mtime_ns)
        points = _cells(self.ego[frame])
        column = np.round((points[..., 0] + self.scene.origin[0]) / _MAP_CELL).astype(np.int64)
        row = np.round(len(picture) - (points[..., 1] + self.scene.origin[1]) / _MAP_CELL).astype(np.int64)
        inside = (row >= 0) & (row < picture.shape[0]) & (column >= 0) & (column < picture.shape[1])
        bev = np.zeros((3, *row.shape), bool)
        bev[0][inside] = picture[row[inside], column[inside]] >= 225
        boxes = self.boxes(frame)
        if boxes is not None:
            for i, name in enumerate(boxes.category):
                if name.startswith("vehicle."):
                    local = points - boxes.centre[i, :2].double().numpy()
                    cos, sin = float(boxes.yaw[i].cos()), float(boxes.yaw[i].sin())
                    ahead, left = local @ [cos, sin], local @ [-sin, cos]
                    bev[2] |= (abs(ahead) <= float(boxes.size[i, 0]) / 2) & (abs(left) <= float(boxes.size[i, 1]) / 2)
        return bev

    def recording(self, size: tuple[int, int] | None = None) -> Recording:
        """As `Log.recording`."""
        return surround.record(self, self.pose, {}, size)

    @cached_property
    def _tracks(self) -> tuple[_Track, ...]:
        return tuple(self.scene.tracks[channel(name)] for name in self.cameras)

    @cached_property
    def _busiest(self) -> _Track:
        return max(self._tracks, key=lambda track: (len(track.times), track is self.scene.tracks.get("CAM_FRONT")))

    @property
    def _shift(self) -> Float64[np.ndarray, " 3"]:
        return np.array([*self.scene.origin, 0.0])

    @cached_property
    def _chosen(self) -> Int64[np.ndarray, "v t"]:
        """The number of each camera's image at each frame; -1 where there is none."""
        return np.stack([self._nearest(track) for track in self._tracks])

    def _nearest(self, track: _Track) -> Int64[np.ndarray, " t"]:
        numbers = np.flatnonzero(track.key) if self.keys else np.arange(len(track.times))
        if not len(numbers):
            return np.full(len(self.times), -1)
        times = track.times[numbers]
        after = np.searchsorted(times, self.times).clip(1, max(1, len(times) - 1))
        pair = np.stack([after - 1, np.minimum(after, len(times) - 1)])
        off = np.abs(times[pair] - self.times)
        best = np.take_along_axis(pair, off.argmin(0)[None], 0)[0]
        return np.where(off.min(0) <= 0.5e6 / self.fps, numbers[best], -1)

    def _said(self) -> Float32[np.ndarray, "t 2"] | None:
        """What the CAN bus says of each frame's time, on average; None where it does not cover them all."""
        path = self.folder / "can_bus" / f"{self.name}_pose.json"
        if not path.is_file():
            return None
        try:
            rows = [(row["utime"], row["vel"][0], row["rotation_rate"][2]) for row in json.loads(path.read_bytes())]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path} is no list of poses: {error!r}") from None
        table = np.array(sorted(rows), np.float64).reshape(len(rows), 3)
        ends = np.append(self.times, self.times[-1] + round(1e6 / self.fps))
        cuts = np.searchsorted(table[:, 0], ends)
        count = np.diff(cuts)
        if len(rows) == 0 or (count[:-1] == 0).any():
            return None
        sums = np.concatenate([np.zeros((1, 2)), table[:, 1:].cumsum(0)])
        speed, turn = ((sums[cuts[1:]] - sums[cuts[:-1]]) / np.maximum(count, 1)[:, None]).T
        if count[-1] == 0 and len(speed) > 1:
            speed[-1], turn[-1] = speed[-2], turn[-2]
        goes = np.abs(speed) > 0.1
        curvature = np.where(goes, turn / np.where(goes, speed, 1), 0)
        most = surround.MAX_CURVATURE
        return np.stack([speed, curvature.clip(-most, most)], 1).astype(np.float32)

    def _depth(
        self,
        start: int,
        stop: int,
        pose: Float64[np.ndarray, "v t 4 4"],
        intrinsics: Float64[np.ndarray, "v 3 3"],
        size: tuple[int, int],
    ) -> Tensor:
        """The points of the nearest sweep in each view, the nearest to a pixel; 0 where there is none."""
        out = np.zeros((*pose.shape[:2], *size), np.float32)
        track = self.scene.tracks.get(LIDAR)
        if track is None:
            return torch.from_numpy(out)
        for t, number in enumerate(self._nearest(track)[start:stop]):
            if number < 0:
                continue
            ego = _matrices(track.ego[number : number + 1])[0]
            ego[:3, 3] -= self._shift
            world = ego @ track.mount @ _homogeneous(_sweep(self.folder / track.files[number])[:, :3])
            for v in range(len(pose)):
                x, y, z = (np.linalg.inv(pose[v, t]) @ world)[:3]
                near = z > 0.1
                pixel = intrinsics[v] @ np.stack([x, y, z])[:, near] / z[near]
                column, row = np.floor(pixel[:2]).astype(np.int64)
                inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
                row, column, far = row[inside], column[inside], z[near][inside]
                order = far.argsort(kind="stable")[::-1]  # the nearest is written last
                out[v, t, row[order], column[order]] = far[order]
        return torch.from_numpy(out)

    @cached_property
    def _annotated(self) -> tuple[list[dict[str, _Box]], dict[str, int]]:
        """The boxes of each sample by instance, and the number of each instance: 2, 3, ... as they first appear."""
        table = _annotations(self.folder, self.version, _stamp(self.folder, self.version))
        boxes, order = [], {}
        for token in self.scene.samples:
            here = {}
            for who, name, (x, y, z), (w, l, h), rotation in table.get(token, ()):
                turn = Rotation.from_quat(rotation, scalar_first=True).as_matrix()
                here[who] = _Box(
                    name, np.array([x, y, z]) - self._shift, (l, w, h), float(np.arctan2(turn[1, 0], turn[0, 0]))
                )
                order.setdefault(who, 2 + len(order))
            boxes.append(here)
        return boxes, order

    def _velocity(self, who: str, at: int) -> Float64[np.ndarray, " 2"]:
        """From where it is at the key frames before and after; 0 where it is at neither."""
        annotated, _ = self._annotated
        beside = [i for i in (at - 1, at, at + 1) if 0 <= i < len(annotated) and who in annotated[i]]
        a, b = beside[0], beside[-1]
        if a == b:
            return np.zeros(2)
        seconds = (self.scene.sample_times[b] - self.scene.sample_times[a]) / 1e6
        return (annotated[b][who].centre - annotated[a][who].centre)[:2] / seconds


class _Box(NamedTuple):
    name: str
    centre: Float64[np.ndarray, " 3"]
    size: tuple[float, float, float]  # length, width, height
    yaw: float


def _image(path: Path, there: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A frame at a size. JPEG is decoded at a half, a quarter or an eighth where that is enough, which is faster."""
    (h, w), between = there, surround.scaled(there, size)
    try:
        with Image.open(path) as image:
            if image.size != (w, h):
                raise ValueError(f"{path} is {image.size[0]}x{image.size[1]}, but the tables say {w}x{h}")
            for part in (8, 4, 2):
                if h % part == 0 and w % part == 0 and h // part >= between[0] and w // part >= between[1]:
                    image.draft("RGB", (w // part, h // part))
                    break
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
    except FileNotFoundError:
        raise ValueError(f"there is no image {path}") from None
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return surround.fit_frames(pixels.movedim(-1, 0)[None].to(torch.float32) / 127.5 - 1, size)[0]


def _sweep(path: Path) -> Float32[np.ndarray, "n 5"]:
    try:
        values = np.fromfile(path, np.float32)
    except FileNotFoundError:
        raise ValueError(f"there is no sweep {path}") from None
    if len(values) % 5:
        raise ValueError(f"{path} is damaged: points of x, y, z, intensity and ring are wanted")
    return values.reshape(-1, 5)


@lru_cache(maxsize=1)
def _picture(path: Path, stamp: int) -> np.ndarray:
    """A map; real ones have more pixels than Pillow takes from strangers."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"))
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = most


def _homogeneous(points: np.ndarray) -> Float64[np.ndarray, "4 n"]:
    return np.concatenate([points.T.astype(np.float64), np.ones((1, len(points)))])


EXTENT = (-20.0, 40.0, -30.0, 30.0)
"""Of a bird's-eye map about the car, in metres: x from, to, y from, to."""


def _cells(ego: Float64[np.ndarray, "4 4"], cell: float = 0.5) -> Float64[np.ndarray, "gx gy 2"]:
    """The middles of a bird's-eye map's cells, in the world."""
    x0, x1, y0, y1 = EXTENT
    x, y = np.arange(x0 + cell / 2, x1, cell), np.arange(y0 + cell / 2, y1, cell)
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
    return grid @ ego[:2, :2].T + ego[:2, 3]


# -- write ------------------------------------------------------------------------------------------

_ABOUT = "maskworld.json"
_START = 1_532_402_927_000_000  # microseconds; scenes follow one another by the hour
_OFTEN = 10.0  # seconds between two writings of the tables
_RANGE = 60.0  # metres, of annotations where no LiDAR says what was seen


def write(
    folder: Path | str,
    recordings: Iterable[Recording],
    version: str = "v1.0-mini",
    source: Mapping[str, Any] | None = None,
    force: bool = False,
    start: int = 0,
) -> None:
    """Write recordings as the scenes of a version, one by one: what is written stays, whatever happens.

    Frames become JPEG images, with a LiDAR-like sweep made from their depth, and at the key frames with annotations
    made from their boxes (those that a point falls into, as in nuScenes). Each has a map of its own: the road as far as
    it was seen, or the car's own tracks where it was not. `start` and `source` as in `surround.write`. ValueError where
    the folder holds other files, or that version, and `force` is not given; `force` replaces a version that was written
    here, and no other.
    """
    folder, source = Path(folder), dict(source or {})
    if not version or Path(version).name != version or version.startswith("."):
        raise ValueError(f"a version is a name such as v1.0-mini, not {version!r}")
    if start and start != held(folder, version, source):
        raise ValueError(f"{folder} holds {held(folder, version, source)} scenes: number {start} is not the next")
    if not start:
        _clear(folder, version, force)
        tables = _empty()
    else:
        tables = {name: _table(folder, version, name) for name in TABLES}
    saved = time.monotonic()
    try:
        for number, recording in enumerate(recordings, start):
            new = _scene_of(folder, version, number, recording)
            known = {row["token"] for row in tables["sensor"]}
            new["sensor"] = [row for row in new["sensor"] if row["token"] not in known]
            for name in TABLES:
                tables[name] += new[name]
            if time.monotonic() - saved > _OFTEN:
                _save(folder, version, tables, source)
                saved = time.monotonic()
    finally:
        if tables["scene"]:
            _save(folder, version, tables, source)


def held(folder: Path | str, version: str, source: Mapping[str, Any]) -> int:
    """How many scenes a version already holds of this source: 0 where there is none. ValueError for something else."""
    folder = Path(folder)
    if not (folder / version).exists():
        _clear(folder, version, False)
        return 0
    if not (folder / version / _ABOUT).is_file():
        raise ValueError(f"{folder} holds another {version}; choose a folder of its own")
    about = json.loads((folder / version / _ABOUT).read_text(encoding="utf-8"))
    if about["source"] != json.loads(json.dumps(dict(source))):
        raise ValueError(f"{folder} holds other scenes, of {about['source']}; --force replaces them")
    return len(_table(folder, version, "scene"))


def _clear(folder: Path, version: str, force: bool) -> None:
    """Make place for a version. ValueError where something else is there; `force` removes what was written here."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; nuScenes needs a folder")
    if not folder.exists():
        return
    for other in _versions(folder):
        if other != version or not (folder / other / _ABOUT).is_file():
            raise ValueError(f"{folder} holds another {other}; choose a folder of its own")
    old = folder / version
    if not old.exists():
        if any(folder.iterdir()) and not force:
            raise ValueError(f"{folder} exists and holds no nuScenes; --force writes into it all the same")
        return
    if not force:
        raise ValueError(f"{folder} holds a {version}; --force replaces it")
    names = [row["name"] for row in _table(folder, version, "scene")]
    shutil.rmtree(old)
    log = f"maskworld-{version}-*"
    for pattern in (f"samples/*/{log}", f"sweeps/*/{log}", f"maps/{log}", *(f"can_bus/{name}_*" for name in names)):
        for file in folder.glob(pattern):
            file.unlink()


def _save(folder: Path, version: str, tables: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """The tables are written beside and the folder is renamed: they always go together."""
    beside, old = folder / f".{version}.{os.getpid()}", folder / f".{version}.old"
    shutil.rmtree(old, ignore_errors=True)
    beside.mkdir(parents=True, exist_ok=True)
    try:
        for name in TABLES:
            (beside / f"{name}.json").write_text(json.dumps(tables[name]), encoding="utf-8")
        (beside / _ABOUT).write_text(json.dumps({"source": dict(source)}), encoding="utf-8")
        if (folder / version).exists():
            (folder / version).rename(old)
        beside.rename(folder / version)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _token(*parts: object) -> str:
    return hashlib.blake2b("/".join(str(part) for part in parts).encode(), digest_size=16).hexdigest()


def _empty() -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    tables["category"] = [
        {"token": _token("category", name), "name": name, "description": "", "index": i}
        for i, name in enumerate(CATEGORIES, 1)
    ]
    tables["attribute"] = [
        {"token": _token("attribute", name), "name": name, "description": ""} for name in _ATTRIBUTES
    ]
    tables["visibility"] = [
        {"token": token, "level": f"v{low}-{high}", "description": f"visibility of {low} to {high} %"}
        for token, (low, high) in _LEVELS.items()
    ]
    return tables


def _seven(pose: Float64[np.ndarray, "4 4"]) -> dict[str, list[float]]:
    rotation = Rotation.from_matrix(pose[:3, :3]).as_quat(canonical=True, scalar_first=True)
    return {"translation": pose[:3, 3].tolist(), "rotation": rotation.tolist()}


def _scene_of(folder: Path, version: str, number: int, recording: Recording) -> dict[str, list[dict[str, Any]]]:
    """One scene: its files are written; its rows in the tables."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    name, log = f"scene-{number + 1:04d}", f"maskworld-{version}-{number:04d}"
    t = recording.num_frames
    times = [_START + number * 3_600_000_000 + round(i * 1e6 / recording.fps) for i in range(t)]
    step = max(1.0, recording.fps / KEY_FPS)
    keys = sorted({frame for k in range(t) if (frame := round(k * step)) < t})
    shift = np.floor(recording.ego[:, :2, 3].min(0)) - 60.0
    moved = np.eye(4)
    moved[:2, 3] = -shift  # a map begins at 0, 0
    ego, pose = moved @ recording.ego, moved @ recording.pose
    samples = [_token(version, name, "sample", i) for i in range(len(keys))]

    tables["log"].append(
        {
            "token": _token(version, log),
            "logfile": log,
            "vehicle": "maskworld",
            "date_captured": "2018-07-24",
            "location": "synthetic",
            "origin": (-shift).tolist(),
        }
    )
    tables["scene"].append(
        {
            "token": _token(version, name),
            "log_token": _token(version, log),
            "nbr_samples": len(keys),
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": name,
            "description": " ".join([recording.name, *(f"{k} {v}" for k, v in recording.domain.items())]),
        }
    )
    for i, key in enumerate(keys):
        row = {"token": samples[i], "timestamp": times[key], "scene_token": _token(version, name)}
        tables["sample"].append(row | _chain(samples, i))

    channels = [*map(channel, recording.cameras), *([LIDAR] if recording.depth is not None else [])]
    for each in channels:
        modality = "lidar" if each == LIDAR else "camera"
        tables["sensor"].append({"token": _token("sensor", each), "channel": each, "modality": modality})

    lidar = _lidar_mount()
    clouds: dict[int, Float64[np.ndarray, "n 3"]] = {}
    for v, each in enumerate(channels):
        mount, frames = lidar, list(range(t))
        if each != LIDAR:
            frames = np.flatnonzero(recording.known[v]).tolist()
            if not frames:
                continue
            mount = np.linalg.inv(ego[frames[0]]) @ pose[v, frames[0]]
        tables["calibrated_sensor"].append(
            {
                "token": _token(version, name, each),
                "sensor_token": _token("sensor", each),
                **_seven(mount),
                "camera_intrinsic": [] if each == LIDAR else recording.intrinsics[v].astype(np.float64).tolist(),
            }
        )
        tokens = [_token(version, name, each, i) for i in frames]
        for i, frame in enumerate(frames):
            place = folder / ("samples" if frame in keys else "sweeps") / each
            place.mkdir(parents=True, exist_ok=True)
            suffix = ".pcd.bin" if each == LIDAR else ".jpg"
            file = place / f"{log}__{each}__{times[frame]}{suffix}"
            if each == LIDAR:
                sweep = scan(recording, frame)
                file.write_bytes(sweep.tobytes())
                clouds[frame] = (ego[frame] @ lidar @ _homogeneous(sweep[:, :3]))[:3].T
                at, h, w = ego[frame], 0, 0
            else:
                Image.fromarray(recording.frames[v, frame]).save(file, "JPEG", quality=95, subsampling=0)
                at, (h, w) = pose[v, frame] @ np.linalg.inv(mount), recording.frames.shape[2:4]
            tables["ego_pose"].append({"token": tokens[i], "timestamp": times[frame], **_seven(at)})
            after = next((k for k, key in enumerate(keys) if key >= frame), len(keys) - 1)
            row = {
                "token": tokens[i],
                "sample_token": samples[after],
                "ego_pose_token": tokens[i],
                "calibrated_sensor_token": _token(version, name, each),
                "timestamp": times[frame],
                "fileformat": "pcd" if each == LIDAR else "jpg",
                "is_key_frame": frame in keys,
                "height": h,
                "width": w,
                "filename": file.relative_to(folder).as_posix(),
            }
            tables["sample_data"].append(row | _chain(tokens, i))

    _annotate(version, name, tables, recording, dict(zip(keys, samples, strict=True)), clouds, -shift)
    picture = _painted(recording, -shift)
    map_file = folder / "maps" / f"{log}.png"
    map_file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(map_file, "PNG")
    tables["map"].append(
        {
            "token": _token(version, log, "map"),
            "log_tokens": [_token(version, log)],
            "category": "semantic_prior",
            "filename": map_file.relative_to(folder).as_posix(),
        }
    )
    for what, rows in _can(recording, ego, times).items():
        (folder / "can_bus").mkdir(exist_ok=True)
        surround.write_whole(folder / "can_bus" / f"{name}_{what}.json", json.dumps(rows).encode())
    return tables


def _chain(tokens: Sequence[str], i: int) -> dict[str, str]:
    return {"prev": tokens[i - 1] if i else "", "next": tokens[i + 1] if i + 1 < len(tokens) else ""}


# -- LiDAR ------------------------------------------------------------------------------------------

_RINGS, _STEPS = 32, 1084  # of a Velodyne HDL-32E, and its steps around
_LOW, _HIGH = -30.67, 10.67  # degrees
_REACH = 100.0  # metres


def _lidar_mount() -> Float64[np.ndarray, "4 4"]:
    """On the roof, its x to the right and its y ahead."""
    mount = np.eye(4)
    mount[:2, :2] = [[0, 1], [-1, 0]]
    mount[:3, 3] = 0.94, 0.0, 1.84
    return mount


def scan(recording: Recording, frame: int) -> Float32[np.ndarray, "n 5"]:
    """A LiDAR-like sweep from the depth of all cameras: x, y, z in the sensor's frame, intensity, ring.

    Of each ring and step around, the nearest point; intensity is how bright its pixel is, 0..255.
    """
    assert recording.depth is not None
    points, bright = [], []
    to_sensor = np.linalg.inv(recording.ego[frame] @ _lidar_mount())
    for v in range(len(recording.cameras)):
        depth = recording.depth[v, frame].astype(np.float64)
        row, column = np.nonzero(depth * recording.known[v, frame])
        z, k = depth[row, column], recording.intrinsics[v].astype(np.float64)
        x, y = (column + 0.5 - k[0, 2]) / k[0, 0] * z, (row + 0.5 - k[1, 2]) / k[1, 1] * z
        points.append((to_sensor @ recording.pose[v, frame] @ _homogeneous(np.stack([x, y, z], 1)))[:3].T)
        bright.append(recording.frames[v, frame, row, column].mean(-1))
    xyz, intensity = np.concatenate(points), np.concatenate(bright)
    distance = np.linalg.norm(xyz, axis=1)
    up = np.degrees(np.arcsin(xyz[:, 2] / np.maximum(distance, 1e-6)))
    ring = np.floor((up - _LOW) / (_HIGH - _LOW) * _RINGS).astype(np.int64)
    step = np.floor((np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi) + 0.5) * _STEPS).astype(np.int64)
    seen = np.flatnonzero((ring >= 0) & (ring < _RINGS) & (distance > 0) & (distance < _REACH))
    seen = seen[distance[seen].argsort(kind="stable")]
    _, first = np.unique((ring * (_STEPS + 1) + step)[seen], return_index=True)
    kept = seen[first]
    return np.concatenate([xyz[kept], intensity[kept, None], ring[kept, None]], 1).astype(np.float32)


# -- annotations ------------------------------------------------------------------------------------


def _annotate(
    version: str,
    name: str,
    tables: dict[str, Any],
    recording: Recording,
    keys: Mapping[int, str],
    clouds: Mapping[int, Float64[np.ndarray, "n 3"]],
    shift: Float64[np.ndarray, " 2"],
) -> None:
    """Boxes at the key frames, and their instances. `keys` gives the sample of each."""
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    category = {}
    for frame, sample in keys.items():
        boxes = recording.boxes(frame)
        if boxes is None:
            return
        for i, ours in enumerate(boxes.category):
            what = OURS.get(ours, ours)
            if what not in CATEGORIES:
                continue
            centre = boxes.centre[i].double().numpy()
            size, yaw = boxes.size[i].double().numpy(), float(boxes.yaw[i])
            moved = centre + [*shift, 0.0]
            if frame in clouds:
                num = int(_inside(clouds[frame], moved, size, yaw).sum())
                if num == 0:
                    continue
            else:
                num = 0
                if np.linalg.norm(centre[:2] - recording.ego[frame, :2, 3]) > _RANGE:
                    continue
            who = int(boxes.ids[i])
            attribute = CATEGORIES[what]
            if attribute and float(boxes.velocity[i].norm()) < 0.2:
                attribute = _AT_REST[attribute]
            category[who] = what
            rows[who].append(
                {
                    "token": _token(version, name, "box", who, frame),
                    "sample_token": sample,
                    "instance_token": _token(version, name, "instance", who),
                    "visibility_token": _visibility(recording, frame, centre, size, yaw),
                    "attribute_tokens": [_token("attribute", attribute)] if attribute else [],
                    "translation": moved.tolist(),
                    "size": [float(size[1]), float(size[0]), float(size[2])],
                    "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
                    "num_lidar_pts": num,
                    "num_radar_pts": 0,
                }
            )
    for who, chain in rows.items():
        tokens = [row["token"] for row in chain]
        tables["sample_annotation"] += [row | _chain(tokens, i) for i, row in enumerate(chain)]
        tables["instance"].append(
            {
                "token": _token(version, name, "instance", who),
                "category_token": _token("category", category[who]),
                "nbr_annotations": len(chain),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )


def _inside(points: np.ndarray, centre: np.ndarray, size: np.ndarray, yaw: float) -> Bool[np.ndarray, " n"]:
    local, (cos, sin) = points - centre, (np.cos(yaw), np.sin(yaw))
    turned = np.stack([local[:, :2] @ [cos, sin], local[:, :2] @ [-sin, cos], local[:, 2]], 1)
    return np.asarray((np.abs(turned) <= size / 2 + 0.01).all(1))


def _visibility(recording: Recording, frame: int, centre: np.ndarray, size: np.ndarray, yaw: float) -> str:
    """The level of how much of a box is seen: the share of points within it that a camera has before it.

    A point counts as hidden where the camera sees something nearer by more than the box's own diagonal.
    """
    line = np.linspace(-0.4, 0.4, 5)
    local = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3) * size
    cos, sin = np.cos(yaw), np.sin(yaw)
    world = _homogeneous(local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + centre)
    seen = np.zeros(len(local), bool)
    h, w = recording.frames.shape[2:4]
    for v in np.flatnonzero(recording.known[:, frame]):
        x, y, z = (np.linalg.inv(recording.pose[v, frame]) @ world)[:3]
        k = recording.intrinsics[v].astype(np.float64)
        ahead = np.maximum(z, 0.1)
        column, row = np.floor(k[0, 0] * x / ahead + k[0, 2]), np.floor(k[1, 1] * y / ahead + k[1, 2])
        inside = (z > 0.1) & (row >= 0) & (row < h) & (column >= 0) & (column < w)
        if recording.depth is not None:
            met = recording.depth[v, frame][row.clip(0, h - 1).astype(int), column.clip(0, w - 1).astype(int)]
            inside &= (met == 0) | (met.astype(np.float64) > z - np.linalg.norm(size))
        seen |= inside
    share = 100 * seen.mean()
    return next(token for token, (_, high) in _LEVELS.items() if share <= high)


# -- maps and the CAN bus ---------------------------------------------------------------------------


def _painted(recording: Recording, shift: Float64[np.ndarray, " 2"]) -> np.ndarray:
    """A picture of the road, row 0 in the north: 255 where it was seen about the car, or where the car has been."""
    ego = recording.ego.copy()
    ego[:, :2, 3] += shift
    w, h = (np.ceil(ego[:, :2, 3].max(0) + 60.0) / _MAP_CELL).astype(np.int64)
    picture = np.zeros((h, w), np.uint8)
    last = None
    for frame, pose in enumerate(ego):
        if last is not None and frame < len(ego) - 1 and np.linalg.norm(pose[:2, 3] - last) < 2.0:
            continue
        last = pose[:2, 3]
        x0, x1, y0, y1 = (-1.0, 4.0, -1.0, 1.0) if recording.maps is None else EXTENT
        corners = np.array([[x, y] for x in (x0, x1) for y in (y0, y1)]) @ pose[:2, :2].T + last
        low = np.floor(corners.min(0) / _MAP_CELL).astype(np.int64).clip(0, [w, h])
        high = np.ceil(corners.max(0) / _MAP_CELL).astype(np.int64).clip(0, [w, h])
        column, line = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        local = (np.stack([column, line], -1) * _MAP_CELL - last) @ pose[:2, :2]
        inside = (local[..., 0] >= x0) & (local[..., 0] < x1) & (local[..., 1] >= y0) & (local[..., 1] < y1)
        if recording.maps is not None:
            gx, gy = recording.maps.shape[2:]
            i = ((local[..., 0] - x0) / (x1 - x0) * gx).astype(np.int64).clip(0, gx - 1)
            j = ((local[..., 1] - y0) / (y1 - y0) * gy).astype(np.int64).clip(0, gy - 1)
            inside &= recording.maps[frame, 0, i, j]
        rows = (h - line)[inside]
        good = rows < h
        picture[rows[good], column[inside][good]] = 255
    return picture


def _can(recording: Recording, ego: Float64[np.ndarray, "t 4 4"], times: Sequence[int]) -> dict[str, list[Any]]:
    """What the car says of itself: its pose at 50 Hz, its speed and turn at 2 Hz."""
    poses, monitor = [], []
    until = times[0] + round(recording.num_frames * 1e6 / recording.fps)
    frame = 0
    for tick, moment in enumerate(range(times[0], until, 20_000)):
        while frame + 1 < len(times) and times[frame + 1] <= moment:
            frame += 1
        speed, curvature = (float(x) for x in recording.actions[frame])
        arc, rate = speed * (moment - times[frame]) / 1e6, speed * curvature
        turn = arc * curvature
        along = arc * np.sinc(turn / (2 * np.pi)) * np.array([np.cos(turn / 2), np.sin(turn / 2)])
        here = np.eye(4)
        here[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        here[:2, 3] = along
        at = _seven(ego[frame] @ here)
        poses.append(
            {
                "utime": moment,
                "pos": at["translation"],
                "orientation": at["rotation"],
                "vel": [speed, 0.0, 0.0],
                "rotation_rate": [0.0, 0.0, rate],
                "accel": [0.0, speed * rate, 9.81],
            }
        )
        if tick % 25 == 0:
            about = {"utime": moment, "vehicle_speed": 3.6 * speed, "yaw_rate": float(np.degrees(rate))}
            monitor.append(about | {"steering": float(np.degrees(16 * np.arctan(2.588 * curvature)))})
    return {"pose": poses, "vehicle_monitor": monitor}
