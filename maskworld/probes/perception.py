"""How well a driver's surroundings are read: layers of a map, boxes, lines, depth, motion. NumPy only.

Each figure is by the definition of the benchmark it is named after, and comes with an interval that draws whole scenes
again: frames of one scene are not independent. What is pooled over cells or pixels is kept as sums for each item (a
frame), so that a set of any size is read in parts and joined.

Places are metres in the frame of the ego car at each frame (x ahead, y left).

Sections: layers - boxes - lines - depth and flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int64
from scipy.spatial.distance import cdist

from maskworld.probes.statistics import Interval, interval_of_sets


def _pooled(
    sums: Float[np.ndarray, "n m"],
    clusters: Sequence[Hashable] | None,
    statistic: Callable[[np.ndarray], float],
    resamples: int,
    seed: int,
) -> Interval:
    """An interval of a statistic of the sums over all items, drawing whole clusters again."""
    if len(sums) == 0:
        raise ValueError("nothing was measured: there are no items")
    place = _numbered(clusters, len(sums))
    grouped = np.zeros((place.max() + 1, sums.shape[1]))
    np.add.at(grouped, place, sums)
    return interval_of_sets(lambda drawn: statistic(drawn.sum(0)), [grouped], resamples=resamples, seed=seed)


def _numbered(clusters: Sequence[Hashable] | None, num: int) -> Int64[np.ndarray, " n"]:
    """The number of each item's cluster; every item is its own where there are none."""
    if clusters is None:
        return np.arange(num)
    if len(clusters) != num:
        raise ValueError(f"{num} items, but clusters for {len(clusters)}")
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(cluster, len(places)) for cluster in clusters], dtype=np.int64)


# -- layers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Intersection over union of one layer, pooled over all cells, and the threshold that it is for."""

    iou: Interval
    threshold: float


def count_cells(
    score: Float[np.ndarray, "n k y x"],
    truth: Bool[np.ndarray, "n k y x"],
    thresholds: Sequence[float],
    valid: Bool[np.ndarray, "n y x"] | None = None,
) -> Int64[np.ndarray, "n k s 2"]:
    """Cells in the intersection and in the union, for each item, layer and threshold (a score of at least it counts).

    Join several along n. `valid` leaves out cells that are not asked about: of no label, out of sight, or all cars but
    the moving ones.
    """
    if not len(thresholds) or not np.isfinite(score).all():
        raise ValueError("scores are finite and have at least one threshold")
    inside = np.ones_like(truth[:, 0]) if valid is None else valid
    counts = []
    for threshold in thresholds:
        said = score >= threshold
        both, either = said & truth & inside[:, None], (said | truth) & inside[:, None]
        counts.append(np.stack([both.sum((2, 3)), either.sum((2, 3))], -1))
    return np.stack(counts, 2).astype(np.int64)


def iou(
    cells: Int64[np.ndarray, "n k s 2"],
    thresholds: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Overlap]:
    """The overlap of each layer at the threshold that is best for it, or at the only one.

    A best threshold that was chosen on the very items it is reported for flatters; choose it on others, and give it
    here alone. NaN where neither truth nor answer has a cell.
    """
    if len(thresholds) != cells.shape[2]:
        raise ValueError(f"{len(thresholds)} thresholds, but counts for {cells.shape[2]}")
    pooled = cells.sum(0).astype(np.float64)
    found = []
    for layer in range(cells.shape[1]):
        both, either = pooled[layer].T
        best = int(np.argmax(both / np.maximum(either, 1)))
        if either[best] == 0:
            found.append(Overlap(Interval(math.nan, math.nan, math.nan, len(cells)), float(thresholds[best])))
            continue
        sums = cells[:, layer, best].astype(np.float64)
        value = _pooled(sums, clusters, lambda total: total[0] / max(total[1], 1.0), resamples, seed)
        found.append(Overlap(value, float(thresholds[best])))
    return found


# -- boxes ------------------------------------------------------------------------------------------

ERRORS = ("translation", "scale", "orientation", "velocity", "attribute")
"""Of a box that was found (ATE, ASE, AOE, AVE, AAE): metres, 1 - IoU, radians, metres/s, 1 - accuracy."""


@dataclass(frozen=True)
class Kind:
    """How a class of boxes is judged: up to which distance from the car, which turn is none, which errors it has."""

    reach: float  # metres
    period: float = 2 * math.pi  # radians
    errors: tuple[str, ...] = ERRORS

    def __post_init__(self) -> None:
        unknown = [name for name in self.errors if name not in ERRORS]
        if unknown or self.reach <= 0 or self.period <= 0:
            raise ValueError(f"a reach and a period of more than 0, and errors of {ERRORS}, not {self}")


NUSCENES: dict[str, Kind] = {
    "car": Kind(50.0),
    "truck": Kind(50.0),
    "bus": Kind(50.0),
    "trailer": Kind(50.0),
    "construction_vehicle": Kind(50.0),
    "pedestrian": Kind(40.0),
    "motorcycle": Kind(40.0),
    "bicycle": Kind(40.0),
    "traffic_cone": Kind(30.0, errors=("translation", "scale")),
    "barrier": Kind(30.0, math.pi, ("translation", "scale", "orientation")),
}
"""The classes of its detection task, with their ranges (the configuration of 2019)."""

DISTANCES = (0.5, 1.0, 2.0, 4.0)
"""Up to how many metres between centres a box is found, in turn; errors are taken at the third."""
_FOR_ERRORS, _LEAST_RECALL, _LEAST_PRECISION, _AP_WEIGHT = 2, 10, 0.1, 5


@dataclass(frozen=True)
class Boxes:
    """Boxes of many frames. Of a truth, the score means nothing, a velocity that is not known is NaN and an attribute
    is "" where there is none."""

    frame: Int[np.ndarray, " n"]  # the number of the frame
    category: tuple[str, ...]
    centre: Float[np.ndarray, "n 3"]  # metres from the car
    size: Float[np.ndarray, "n 3"]  # length, width, height in metres
    yaw: Float[np.ndarray, " n"]
    velocity: Float[np.ndarray, "n 2"]  # metres/s
    score: Float[np.ndarray, " n"]
    attribute: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Detection:
    """What boxes were found: average precision for each class and distance, errors for each class, and their means.

    An error that is asked of no class is NaN and has no part in `nds`, which is the benchmark's only where all five
    are asked for.
    """

    ap: dict[str, dict[float, float]]
    errors: dict[str, dict[str, float]]
    mean_ap: Interval
    mean_errors: dict[str, float]
    nds: Interval


def detection(
    found: Boxes,
    truth: Boxes,
    scenes: Sequence[Hashable],
    kinds: Mapping[str, Kind] = NUSCENES,
    resamples: int = 200,
    seed: int = 0,
) -> Detection:
    """The metrics of the nuScenes detection task (Caesar et al. 2020, Sec. 3.1), as its public devkit computes them.

    A class of which the truth has no box has an average precision of 0 and errors of 1, as there: name only classes
    that there are, or compare class by class.

    Args:
        found: what a model found, with a score each.
        truth: what there is. Leave out what no sensor can see (the benchmark: boxes without a point in them).
        scenes: the scene of each frame, by its number; intervals draw whole scenes.
        kinds: the classes, and how each is judged; boxes of others are left out.
        resamples: draws for the intervals.
        seed: of these draws.

    Raises:
        ValueError: frames that are in no scene, sizes that are not positive, values that are not finite, found boxes
            without a velocity or attribute where those are judged, or no classes.
    """
    if not kinds or not len(scenes):
        raise ValueError("a detection is judged on at least one frame, for at least one class")
    for name, boxes in (("found", found), ("true", truth)):
        _check_boxes(boxes, name, len(scenes))
    asked = {error for kind in kinds.values() for error in kind.errors}
    of_these = np.isin(found.category, list(kinds)) if found.category else np.zeros(0, dtype=bool)
    if "velocity" in asked and not np.isfinite(found.velocity[of_these]).all():
        raise ValueError("a box that was found has no velocity: judge kinds without this error, or give it one")
    if "attribute" in asked and truth.attribute is not None and any(truth.attribute) and found.attribute is None:
        raise ValueError("the true boxes have attributes and the found ones have none: judge kinds without this error")
    judged = {name: _judge(found, truth, name, kind, len(scenes)) for name, kind in kinds.items()}
    place = _numbered(scenes, len(scenes))
    once = np.ones(len(scenes), dtype=np.int64)
    ap, errors = _summary(judged, kinds, once)

    def over(statistic: Callable[[dict, dict], float]) -> Interval:
        def drawn(numbers: np.ndarray) -> float:
            times = np.bincount(numbers, minlength=place.max() + 1)[place]
            return statistic(*_summary(judged, kinds, times))

        return interval_of_sets(drawn, [np.arange(place.max() + 1)], resamples=resamples, seed=seed)

    return Detection(ap, errors, over(lambda ap, _: _mean_ap(ap)), _mean_errors(errors), over(_nds))


def _mean_ap(ap: Mapping[str, Mapping[float, float]]) -> float:
    return float(np.mean([list(row.values()) for row in ap.values()]))


def _mean_errors(errors: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Over the classes of which each is asked."""
    asked = {name: [row[name] for row in errors.values() if name in row] for name in ERRORS}
    return {name: float(np.mean(values)) if values else math.nan for name, values in asked.items()}


def _nds(ap: Mapping[str, Mapping[float, float]], errors: Mapping[str, Mapping[str, float]]) -> float:
    """(5 mAP + sum of 1 - min(1, error)) / 10 (Eq. 3)."""
    good = [1 - min(1.0, value) for value in _mean_errors(errors).values() if not math.isnan(value)]
    return (_AP_WEIGHT * _mean_ap(ap) + sum(good)) / (_AP_WEIGHT + len(good))


def _check_boxes(boxes: Boxes, name: str, num: int) -> None:
    n = len(boxes.frame)
    if len(boxes.category) != n or (boxes.attribute is not None and len(boxes.attribute) != n):
        raise ValueError(f"{n} {name} boxes have as many categories, and attributes if any")
    if n and not 0 <= boxes.frame.min() <= boxes.frame.max() < num:
        raise ValueError(f"{name} boxes are of frames 0 to {num - 1}, not {boxes.frame.min()} to {boxes.frame.max()}")
    if not all(np.isfinite(part).all() for part in (boxes.centre, boxes.size, boxes.yaw, boxes.score)):
        raise ValueError(f"{name} boxes have places, sizes, turns and scores that are finite")
    if not (boxes.size > 0).all():
        raise ValueError(f"{name} boxes have a length, a width and a height of more than 0")


class _Judged(NamedTuple):
    """Boxes of a class, the surest first: whether each is right at each distance, and its errors at one of them."""

    frame: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, "n s"]
    errors: Float[np.ndarray, "n e"]  # NaN where there is none
    there: Int[np.ndarray, " f"]  # true boxes in each frame


def _judge(found: Boxes, truth: Boxes, name: str, kind: Kind, num: int) -> _Judged:
    """Each box, the surest first, takes the nearest true one of its frame that is not yet taken."""

    def of(boxes: Boxes) -> Int64[np.ndarray, " n"]:
        this = np.fromiter((each == name for each in boxes.category), dtype=bool, count=len(boxes.category))
        return np.flatnonzero(this & (np.linalg.norm(boxes.centre[:, :2], axis=1) < kind.reach))

    mine, true = of(found), of(truth)
    mine = mine[np.argsort(found.score[mine], kind="stable")[::-1]]  # of equal ones the later, as the devkit
    right = np.zeros((len(mine), len(DISTANCES)), dtype=bool)
    errors = np.full((len(mine), len(ERRORS)), math.nan)
    for frame in np.unique(found.frame[mine]):
        rows, columns = np.flatnonzero(found.frame[mine] == frame), true[truth.frame[true] == frame]
        if not len(columns):
            continue
        distance = cdist(found.centre[mine[rows], :2], truth.centre[columns, :2])
        for s, limit in enumerate(DISTANCES):
            free = distance.copy()
            for i, row in enumerate(rows):
                j = int(free[i].argmin())
                if free[i, j] < limit:
                    free[:, j], right[row, s] = math.inf, True
                    if s == _FOR_ERRORS:
                        errors[row] = _errors(found, int(mine[row]), truth, int(columns[j]), kind.period)
    there = np.bincount(truth.frame[true], minlength=num)
    return _Judged(found.frame[mine], found.score[mine].astype(np.float64), right, errors, there)


def _errors(found: Boxes, i: int, truth: Boxes, j: int, period: float) -> list[float]:
    """In the order of `ERRORS`; NaN where the truth does not say."""
    made, true = found.size[i].astype(np.float64), truth.size[j].astype(np.float64)
    common = np.minimum(made, true).prod()
    turn = float(abs((truth.yaw[j] - found.yaw[i] + period / 2) % period - period / 2))
    attribute = math.nan
    if truth.attribute is not None and found.attribute is not None and truth.attribute[j]:
        attribute = float(found.attribute[i] != truth.attribute[j])
    return [
        float(np.linalg.norm(found.centre[i, :2] - truth.centre[j, :2])),
        float(1 - common / (made.prod() + true.prod() - common)),
        turn,
        float(np.linalg.norm(found.velocity[i] - truth.velocity[j])),
        attribute,
    ]


def _summary(
    judged: Mapping[str, _Judged], kinds: Mapping[str, Kind], times: Int[np.ndarray, " f"]
) -> tuple[dict[str, dict[float, float]], dict[str, dict[str, float]]]:
    """Average precision and errors of each class, each frame taken so many times."""
    ap, errors = {}, {}
    for name, each in judged.items():
        again = np.repeat(np.arange(len(each.frame)), times[each.frame])
        num = int((each.there * times).sum())
        right, score = each.right[again], each.score[again]
        ap[name] = {limit: _nuscenes_ap(right[:, s], num) for s, limit in enumerate(DISTANCES)}
        means = _nuscenes_errors(right[:, _FOR_ERRORS], score, each.errors[again], num)
        errors[name] = {error: means[ERRORS.index(error)] for error in kinds[name].errors}
    return ap, errors


_RECALL = np.linspace(0, 1, 101)


def _nuscenes_ap(right: Bool[np.ndarray, " n"], num: int) -> float:
    """The mean precision above 0.1 at recalls of 0.11 to 1, scaled so that all right is 1 (Sec. 3.1)."""
    if num == 0 or not right.any():
        return 0.0
    hits = np.cumsum(right)
    precision = np.interp(_RECALL, hits / num, hits / np.arange(1, len(right) + 1), right=0)
    above = np.maximum(precision[_LEAST_RECALL + 1 :] - _LEAST_PRECISION, 0)
    return float(above.mean() / (1 - _LEAST_PRECISION))


def _nuscenes_errors(
    right: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n e"], num: int
) -> list[float]:
    """The mean over recalls from 0.11 to the highest of the mean error down to the score there; 1 where it is not
    reached (Sec. 3.1)."""
    if num == 0 or not right.any():
        return [1.0] * errors.shape[1]
    at = np.interp(_RECALL, np.cumsum(right) / num, score, right=0)
    reached = np.flatnonzero(at)
    last = int(reached[-1]) if len(reached) else 0
    if last <= _LEAST_RECALL:
        return [1.0] * errors.shape[1]
    means = []
    for column in errors[right].T:
        known = np.isfinite(column)
        running = np.cumsum(np.where(known, column, 0)) / np.maximum(np.cumsum(known), 1)
        if not known.any():
            running = np.ones_like(column)
        here = np.interp(at[::-1], score[right][::-1], running[::-1])[::-1]
        means.append(float(here[_LEAST_RECALL + 1 : last + 1].mean()))
    return means


# -- lines ------------------------------------------------------------------------------------------

CHAMFER = (0.5, 1.0, 1.5)
"""Up to how many metres of Chamfer distance a line is found, in turn (MapTR, Sec. 4.1)."""


@dataclass(frozen=True)
class Lines:
    """Polylines of many frames; one that ends where it begins is closed. Of a truth, the score means nothing."""

    frame: Int[np.ndarray, " n"]  # the number of the frame
    category: tuple[str, ...]
    points: Sequence[Float[np.ndarray, "_ 2"]]  # metres
    score: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Drawing:
    """What lines were found: average precision for each class and distance, and the mean of all."""

    ap: dict[str, dict[float, float]]
    mean_ap: Interval


def resample(points: Float[np.ndarray, "n 2"], num: int) -> Float[np.ndarray, "p 2"]:
    """`num` points evenly along a polyline. Raises ValueError for a line of fewer than two points."""
    if len(points) < 2 or num < 2:
        raise ValueError(f"a line has at least 2 points, not {len(points)}, to be sampled at {num}")
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    want = np.linspace(0, along[-1], num)
    return np.stack([np.interp(want, along, column) for column in points.T.astype(np.float64)], -1)


def chamfer(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"]) -> float:
    """The mean distance from each point to the nearest of the other line, both ways, halved."""
    distance = cdist(a, b)
    return float(distance.min(1).mean() + distance.min(0).mean()) / 2


def line_ap(
    found: Lines,
    truth: Lines,
    scenes: Sequence[Hashable],
    classes: Sequence[str],
    num_points: int = 100,
    resamples: int = 200,
    seed: int = 0,
) -> Drawing:
    """Average precision of lines, as MapTR (Sec. 4.1) and its code compute it.

    Each line, the surest first, is right where the true line nearest to it is near enough and was not yet found. The
    area under the curve of precision, each replaced by the best at a higher recall. A class of which the truth has no
    line counts as 0.

    Args:
        found: what a model drew, with a score each.
        truth: what there is, cut at the same edges.
        scenes: the scene of each frame, by its number; intervals draw whole scenes.
        classes: those that are judged; lines of others are left out.
        num_points: along each line, evenly, before they are compared.
        resamples: draws for the interval.
        seed: of these draws.

    Raises:
        ValueError: frames that are in no scene, lines of one point, points that are not finite, or no classes.
    """
    if not classes or not len(scenes):
        raise ValueError("lines are judged on at least one frame, for at least one class")
    for name, lines in (("found", found), ("true", truth)):
        if not len(lines.frame) == len(lines.category) == len(lines.points) == len(lines.score):
            raise ValueError(f"{len(lines.frame)} {name} lines have as many categories, points and scores")
        if len(lines.frame) and not 0 <= lines.frame.min() <= lines.frame.max() < len(scenes):
            raise ValueError(f"{name} lines are of frames 0 to {len(scenes) - 1}, not {sorted(set(lines.frame))}")
        if not all(np.isfinite(points).all() for points in lines.points) or not np.isfinite(lines.score).all():
            raise ValueError(f"{name} lines have points and scores that are finite")
    judged = {name: _judge_lines(found, truth, name, num_points, len(scenes)) for name in classes}
    place = _numbered(scenes, len(scenes))

    def ap(times: Int[np.ndarray, " f"]) -> dict[str, dict[float, float]]:
        values = {}
        for name, each in judged.items():
            right = each.right[np.repeat(np.arange(len(each.frame)), times[each.frame])]
            num = int((each.there * times).sum())
            values[name] = {limit: _area(right[:, s], num) for s, limit in enumerate(CHAMFER)}
        return values

    def drawn(numbers: np.ndarray) -> float:
        return _mean_ap(ap(np.bincount(numbers, minlength=place.max() + 1)[place]))

    mean = interval_of_sets(drawn, [np.arange(place.max() + 1)], resamples=resamples, seed=seed)
    return Drawing(ap(np.ones(len(scenes), dtype=np.int64)), mean)


def _judge_lines(found: Lines, truth: Lines, name: str, num_points: int, num: int) -> _Judged:
    def of(lines: Lines) -> Int64[np.ndarray, " n"]:
        return np.array([i for i, each in enumerate(lines.category) if each == name], dtype=np.int64)

    mine, true = of(found), of(truth)
    mine = mine[np.argsort(-found.score[mine], kind="stable")]
    right = np.zeros((len(mine), len(CHAMFER)), dtype=bool)
    for frame in np.unique(found.frame[mine]):
        rows, columns = np.flatnonzero(found.frame[mine] == frame), true[truth.frame[true] == frame]
        if not len(columns):
            continue
        drawn = [resample(found.points[i], num_points) for i in mine[rows]]
        wanted = [resample(truth.points[j], num_points) for j in columns]
        distance = np.array([[chamfer(a, b) for b in wanted] for a in drawn])
        nearest = distance.argmin(1)
        for s, limit in enumerate(CHAMFER):
            taken: set[int] = set()
            for i, row in enumerate(rows):
                j = int(nearest[i])
                if distance[i, j] <= limit and j not in taken:
                    taken.add(j)
                    right[row, s] = True
    there = np.bincount(truth.frame[true], minlength=num)
    empty = np.zeros((len(mine), 0))
    return _Judged(found.frame[mine], found.score[mine].astype(np.float64), right, empty, there)


def _area(right: Bool[np.ndarray, " n"], num: int) -> float:
    """Under the curve of precision over recall, made to fall (Everingham et al. 2010)."""
    if num == 0 or not right.any():
        return 0.0
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / num)


# -- depth and flow ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Depth:
    """Errors of depth over all pixels (Eigen et al. 2014)."""

    abs_rel: Interval  # |made - true| / true
    rmse: Interval  # metres
    delta: Interval  # the share of pixels off by a factor below 1.25


def sum_depth(
    made: Float[np.ndarray, "n *s"], true: Float[np.ndarray, "n *s"], valid: Bool[np.ndarray, "n *s"]
) -> Float[np.ndarray, "n 4"]:
    """Sums over the valid pixels of each item that have a true depth: relative error, squared error, within 1.25, and
    their number. Join several along n. Raises ValueError for made depths that are not finite."""
    if not np.isfinite(made[valid]).all():
        raise ValueError("a depth that was made is not finite")
    valid = valid & (true > 0)
    a, b = np.where(valid, made, 1).astype(np.float64), np.where(valid, true, 1).astype(np.float64)
    ratio = np.where(a > 0, np.maximum(a, b) / np.maximum(np.minimum(a, b), 1e-12), math.inf)
    values = [np.abs(a - b) / b, (a - b) ** 2, ratio < 1.25, np.ones_like(a)]
    return np.stack([(value * valid).reshape(len(made), -1).sum(1) for value in values], -1)


def depth(
    sums: Float[np.ndarray, "n 4"],
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Depth:
    """Errors pooled over all pixels, from their sums. Raises ValueError where there is no pixel."""
    if len(sums) and not sums[:, 3].sum():
        raise ValueError("no pixel is valid: there is no depth to compare")

    def over(statistic: Callable[[np.ndarray], float]) -> Interval:
        return _pooled(sums, clusters, statistic, resamples, seed)

    return Depth(
        over(lambda total: total[0] / max(total[3], 1.0)),
        over(lambda total: math.sqrt(total[1] / max(total[3], 1.0))),
        over(lambda total: total[2] / max(total[3], 1.0)),
    )


def depth_by_motion(
    made: Float[np.ndarray, "n *s"],
    true: Float[np.ndarray, "n *s"],
    valid: Bool[np.ndarray, "n *s"],
    moving: Bool[np.ndarray, "n *s"],
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Depth]:
    """Errors of depth over "all" valid pixels, of what is "still" and of what is "moving"; a part without a pixel is
    left out."""
    parts = {"all": valid, "still": valid & ~moving, "moving": valid & moving}
    sums = {name: sum_depth(made, true, part) for name, part in parts.items()}
    return {name: depth(each, clusters, resamples, seed) for name, each in sums.items() if each[:, 3].any()}


def sum_flow(
    made: Float[np.ndarray, "n d *s"], true: Float[np.ndarray, "n d *s"], valid: Bool[np.ndarray, "n *s"]
) -> Float[np.ndarray, "n 2"]:
    """The sum over the valid places of each item of the distance between the ends of two vectors, and their number.
    Raises ValueError for vectors that are not finite."""
    error = np.linalg.norm(made.astype(np.float64) - true, axis=1)
    if not np.isfinite(error[valid]).all():
        raise ValueError("a flow is not finite where it is valid")
    flat = np.where(valid, error, 0).reshape(len(made), -1)
    return np.stack([flat.sum(1), valid.reshape(len(made), -1).sum(1)], -1)


def flow_error(
    sums: Float[np.ndarray, "n 2"],
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean end-point error over all places, in the flow's unit. Raises ValueError where there is no place."""
    if len(sums) and not sums[:, 1].sum():
        raise ValueError("no place is valid: there is no flow to compare")
    return _pooled(sums, clusters, lambda total: total[0] / max(total[1], 1.0), resamples, seed)


def flow_by_motion(
    made: Float[np.ndarray, "n d *s"],
    true: Float[np.ndarray, "n d *s"],
    valid: Bool[np.ndarray, "n *s"],
    least: float = 1e-3,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The end-point error over "all" valid places, where the true flow is "still" (shorter than `least`) and where it
    is "moving"; a part without a place is left out."""
    moving = np.linalg.norm(true, axis=1) >= least
    parts = {"all": valid, "still": valid & ~moving, "moving": valid & moving}
    sums = {name: sum_flow(made, true, part) for name, part in parts.items()}
    return {name: flow_error(each, clusters, resamples, seed) for name, each in sums.items() if each[:, 1].any()}
