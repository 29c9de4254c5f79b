"""Metrics of perception: known cases by hand, the definitions' own consequences, and the public devkit."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maskworld.data import drive, nuscenes, surround
from maskworld.probes import perception
from maskworld.probes.perception import Boxes, Kind, Lines

NAN = math.nan


def boxes(
    centre: Sequence[Sequence[float]],
    frame: Sequence[int] | None = None,
    category: Sequence[str] | None = None,
    score: Sequence[float] | None = None,
    attribute: Sequence[str] | None = None,
    **changed: np.ndarray,
) -> Boxes:
    """Cars of 4 x 2 x 1.5 m that look along x and stand still."""
    n = len(centre)
    made = Boxes(
        frame=np.zeros(n, np.int64) if frame is None else np.array(frame),
        category=("car",) * n if category is None else tuple(category),
        centre=np.array([[x, y, 0.0] for x, y in centre]).reshape(n, 3),
        size=np.tile([4.0, 2.0, 1.5], (n, 1)),
        yaw=np.zeros(n),
        velocity=np.zeros((n, 2)),
        score=np.linspace(0.9, 0.5, n) if score is None else np.array(score, float),
        attribute=None if attribute is None else tuple(attribute),
    )
    return dataclasses.replace(made, **changed)


ROW = [(4.0 * i - 20, 3.0) for i in range(10)]
PLAIN = {"car": Kind(50.0, errors=("translation", "scale", "orientation", "velocity"))}


# -- layers -------------------------------------------------------------------------------------------


def test_iou_by_hand_and_in_parts():
    truth = np.zeros((3, 2, 4, 4), bool)
    truth[:, 0, :2] = True  # 8 cells in each item
    score = np.where(truth, 0.9, 0.1)
    score[0, 0, 0] = 0.3  # 4 of the first item are missed above 0.3
    score[1, 0, 3] = 0.6  # 4 of the second are made up below 0.6
    thresholds = (0.2, 0.5, 0.7)
    cells = perception.count_cells(score, truth, thresholds)
    assert cells[:, 0, :, 0].tolist() == [[8, 4, 4], [8, 8, 8], [8, 8, 8]]
    assert cells[:, 0, :, 1].tolist() == [[8, 8, 8], [12, 12, 8], [8, 8, 8]]
    best = perception.iou(cells, thresholds)
    assert best[0].iou.mean == pytest.approx(24 / 28) and best[0].threshold == 0.2 and best[0].iou.n == 3
    assert math.isnan(best[1].iou.mean)
    fixed = perception.iou(cells[:, :, 1:2], [0.5])
    assert fixed[0].iou.mean == pytest.approx(20 / 28) and fixed[0].threshold == 0.5
    parts = [perception.count_cells(score[i : i + 1], truth[i : i + 1], thresholds) for i in (2, 0, 1)]
    assert perception.iou(np.concatenate(parts), thresholds)[0].iou.mean == best[0].iou.mean
    grouped = perception.iou(cells, thresholds, ["a", "a", "b"])[0].iou
    assert grouped.n == 2 and grouped.mean == best[0].iou.mean and grouped.low < grouped.mean < grouped.high
    assert math.isnan(perception.iou(cells, thresholds, ["a"] * 3)[0].iou.low)
    valid = np.ones((3, 4, 4), bool)
    valid[0, 0] = valid[1, 3] = False
    assert perception.iou(perception.count_cells(score, truth, [0.5], valid), [0.5])[0].iou.mean == 1
    with pytest.raises(ValueError, match="2 thresholds, but counts for 3"):
        perception.iou(cells, [0.1, 0.2])
    with pytest.raises(ValueError, match="3 items, but clusters for 2"):
        perception.iou(cells, thresholds, ["a", "b"])


# -- boxes --------------------------------------------------------------------------------------------


def test_perfect_boxes_are_perfect():
    truth = boxes(ROW, attribute=["vehicle.parked"] * 10)
    got = perception.detection(truth, truth, ["a"], {"car": Kind(50.0)})
    assert got.ap["car"] == {0.5: pytest.approx(1), 1.0: pytest.approx(1), 2.0: pytest.approx(1), 4.0: pytest.approx(1)}
    assert got.errors["car"] == pytest.approx(dict.fromkeys(perception.ERRORS, 0), abs=1e-12)
    assert got.mean_ap.mean == pytest.approx(1) and got.nds.mean == pytest.approx(1)
    ten = perception.detection(truth, truth, ["a"])
    assert ten.mean_ap.mean == pytest.approx(0.1)
    assert ten.mean_errors["translation"] == pytest.approx(0.9)  # nine classes have none
    assert ten.mean_errors["attribute"] == pytest.approx(7 / 8) and ten.mean_errors["orientation"] == pytest.approx(
        8 / 9
    )
    want = (5 * 0.1 + 0.1 + 0.1 + 1 / 9 + 1 / 8 + 1 / 8) / 10
    assert ten.nds.mean == pytest.approx(want)


def test_a_box_that_is_off_counts_where_it_is_near_enough():
    truth = boxes(ROW)
    found = dataclasses.replace(truth, centre=truth.centre + [0.42, 0.56, 3.0])  # 0.7 m on the ground
    got = perception.detection(found, truth, ["a"], PLAIN)
    assert list(got.ap["car"].values()) == pytest.approx([0, 1, 1, 1]) and got.mean_ap.mean == pytest.approx(0.75)
    assert got.errors["car"]["translation"] == pytest.approx(0.7)
    assert got.nds.mean == pytest.approx((5 * 0.75 + 0.3 + 3) / 9)  # one error is not asked for


def test_a_wrong_box_in_front():
    """Ten of which all are found after one that is wrong: the precision at recall r is 10 r / (10 r + 1), and between
    those on straight lines."""
    truth = boxes(ROW)
    found = boxes([(30.0, -20.0), *ROW], score=np.linspace(0.9, 0.1, 11).tolist())
    got = perception.detection(found, truth, ["a"], PLAIN)
    recall = np.arange(11, 101) / 100
    precision = np.interp(recall, np.arange(1, 11) / 10, np.arange(1, 11) / np.arange(2, 12))
    want = np.mean(precision - 0.1) / 0.9
    assert 0.75 < want < 0.8
    assert list(got.ap["car"].values()) == pytest.approx([want] * 4)
    last = boxes([*ROW, (30.0, -20.0)], score=np.linspace(0.9, 0.1, 11).tolist())
    got = perception.detection(last, truth, ["a"], PLAIN).mean_ap.mean
    assert got == pytest.approx(1 - 1 / 11 / 81)  # at a recall of 1 the devkit counts what comes after it


def test_what_is_missed_has_no_precision():
    truth = boxes(ROW)
    half = perception.detection(boxes(ROW[:5]), truth, ["a"], PLAIN)
    assert half.mean_ap.mean == pytest.approx(40 / 90)  # recalls of 0.11 to 0.50
    one = perception.detection(boxes(ROW[:1]), truth, ["a"], PLAIN)
    assert one.mean_ap.mean == 0 and one.errors["car"]["translation"] == 1  # a recall of 0.1 is not above it
    nothing = perception.detection(boxes([]), truth, ["a"], PLAIN)
    assert nothing.mean_ap.mean == 0 and nothing.nds.mean == 0
    assert perception.detection(truth, boxes([]), ["a"], PLAIN).mean_ap.mean == 0


def test_errors_are_running_means():
    """Two found of two, off by 0.2 m and then by 0.4 m: from the first mean to the second as the score falls."""
    truth = boxes([(0, 0), (10, 0)])
    found = boxes([(0, 0.2), (10, 0.4)], score=[0.8, 0.4])
    got = perception.detection(found, truth, ["a"], PLAIN).errors["car"]["translation"]
    score = np.interp(np.arange(11, 101) / 100, [0.5, 1], [0.8, 0.4])
    assert got == pytest.approx(np.mean(np.interp(-score, [-0.8, -0.4], [0.2, 0.3])))


def test_turns_sizes_and_speeds():
    truth = boxes(ROW, category=["car", "barrier"] * 5)
    found = dataclasses.replace(
        truth, yaw=np.full(10, math.pi), size=truth.size * [0.5, 1, 2], velocity=np.tile([3.0, 4.0], (10, 1))
    )
    kinds = {"car": Kind(50.0, errors=perception.ERRORS[:4]), "barrier": perception.NUSCENES["barrier"]}
    got = perception.detection(found, truth, ["a"], kinds)
    assert got.errors["car"] == pytest.approx(
        {"translation": 0, "scale": 2 / 3, "orientation": math.pi, "velocity": 5}, abs=1e-9
    )
    assert got.errors["barrier"] == pytest.approx({"translation": 0, "scale": 2 / 3, "orientation": 0}, abs=1e-9)
    assert got.mean_errors["velocity"] == pytest.approx(5) and math.isnan(got.mean_errors["attribute"])
    assert got.nds.mean == pytest.approx((5 + 1 + 1 / 3) / 9)  # pi / 2 and 5 m/s are worth nothing
    turned = dataclasses.replace(truth, yaw=np.full(10, 2 * math.pi - 0.1))
    assert perception.detection(turned, truth, ["a"], kinds).errors["car"]["orientation"] == pytest.approx(0.1)


def test_what_the_truth_does_not_say_is_not_judged():
    names = ["vehicle.moving", "", "vehicle.moving", "", "vehicle.parked"] * 2
    velocity = np.zeros((10, 2))
    velocity[::2] = NAN
    truth = boxes(ROW, attribute=names, velocity=velocity)
    found = boxes(ROW, attribute=["vehicle.moving"] * 10, velocity=np.tile([0.3, 0.4], (10, 1)))
    errors = perception.detection(found, truth, ["a"], {"car": Kind(50.0)}).errors["car"]
    assert 0 < errors["attribute"] < 1 / 3 and 0 < errors["velocity"] <= 0.5
    silent = dataclasses.replace(truth, velocity=np.full((10, 2), NAN), attribute=("",) * 10)
    errors = perception.detection(found, silent, ["a"], {"car": Kind(50.0)}).errors["car"]
    assert errors["attribute"] == errors["velocity"] == 1


def test_each_class_is_judged_as_far_as_it_reaches():
    truth = boxes([(5, 0), (29.9, 0), (30, 0), (35, 0)], category=["traffic_cone"] * 4)
    found = boxes([(5, 0), (29.9, 0)], category=["traffic_cone"] * 2)
    one = {"traffic_cone": perception.NUSCENES["traffic_cone"]}
    assert perception.detection(found, truth, ["a"], one).mean_ap.mean == pytest.approx(1)
    far = {"traffic_cone": Kind(34.0, errors=("translation",))}
    assert perception.detection(found, truth, ["a"], far).mean_ap.mean == pytest.approx(
        np.sum(np.arange(11, 101) <= 66) / 90
    )


def test_the_surest_takes_the_nearest_that_is_free():
    truth = boxes([(0, 0), (1.5, 0)])
    found = boxes([(0.7, 0), (0.1, 0)], score=[0.9, 0.8])
    got = perception.detection(found, truth, ["a"], PLAIN).ap["car"]
    # Within 2 m the first takes (0, 0) and the second must take (1.5, 0); within 1 m it finds none.
    assert got[2.0] == pytest.approx(1) and got[0.5] < got[1.0] == pytest.approx((39 * 0.9 + 0.4) / 81)
    apart = boxes([(0.7, 0), (0.1, 0)], frame=[0, 1], score=[0.9, 0.8])
    assert perception.detection(apart, truth, ["a", "a"], PLAIN).ap["car"][2.0] == pytest.approx((39 * 0.9 + 0.4) / 81)


def many(seed: int, frames: int = 12) -> tuple[Boxes, Boxes]:
    rng = np.random.default_rng(seed)
    n = 8 * frames
    truth = boxes(
        rng.uniform(-40, 40, (n, 2)).tolist(),
        frame=np.repeat(np.arange(frames), 8).tolist(),
        category=rng.choice(["car", "pedestrian"], n).tolist(),
    )
    found = dataclasses.replace(
        truth,
        centre=truth.centre + rng.normal(0, 0.8, (n, 3)),
        yaw=rng.normal(0, 0.3, n),
        score=rng.permutation(n) / n,
    )
    return found, truth


def shuffled(all_boxes: Boxes, seed: int) -> Boxes:
    order = np.random.default_rng(seed).permutation(len(all_boxes.frame))
    arrays = {f: getattr(all_boxes, f)[order] for f in ("frame", "centre", "size", "yaw", "velocity", "score")}
    return dataclasses.replace(all_boxes, category=tuple(all_boxes.category[i] for i in order), **arrays)


def test_order_does_not_matter_and_intervals_draw_scenes():
    kinds = {"car": PLAIN["car"], "pedestrian": Kind(40.0, errors=PLAIN["car"].errors)}
    found, truth = many(0)
    scenes = [f"scene {i // 3}" for i in range(12)]
    one = perception.detection(found, truth, scenes, kinds, resamples=50)
    other = perception.detection(shuffled(found, 1), shuffled(truth, 2), scenes, kinds, resamples=50)
    assert one == other
    assert one.mean_ap.n == 4 and one.mean_ap.low < one.mean_ap.mean < one.mean_ap.high
    assert one.nds.low < one.nds.mean < one.nds.high
    assert 0.2 < one.mean_ap.mean < 0.9
    assert math.isnan(perception.detection(found, truth, ["a"] * 12, kinds).nds.low)
    moved = dataclasses.replace(found, frame=found.frame[::-1].copy())
    assert perception.detection(moved, truth, scenes, kinds).mean_ap.mean < one.mean_ap.mean


def test_bad_boxes_are_refused():
    truth = boxes(ROW)
    no_speed = dataclasses.replace(truth, velocity=np.full((10, 2), NAN))
    for found, true, match in [
        (no_speed, truth, "has no velocity"),
        (dataclasses.replace(truth, frame=truth.frame + 1), truth, "frames 0 to 0, not 1"),
        (truth, dataclasses.replace(truth, size=truth.size * 0), "more than 0"),
        (dataclasses.replace(truth, score=truth.score * NAN), truth, "finite"),
        (dataclasses.replace(truth, category=("car",)), truth, "as many categories"),
    ]:
        with pytest.raises(ValueError, match=match):
            perception.detection(found, true, ["a"], PLAIN)
    with pytest.raises(ValueError, match="have attributes"):
        perception.detection(truth, boxes(ROW, attribute=["vehicle.moving"] * 10), ["a"], {"car": Kind(50.0)})
    with pytest.raises(ValueError, match="at least one class"):
        perception.detection(truth, truth, ["a"], {})
    with pytest.raises(ValueError, match="not Kind"):
        Kind(50.0, errors=("wheels",))
    flat = {"car": Kind(50.0, errors=("translation",))}
    assert perception.detection(no_speed, truth, ["a"], flat).nds.mean == pytest.approx(1)


# -- lines --------------------------------------------------------------------------------------------


def straight(*heights: float, score: Sequence[float] | None = None, frame: Sequence[int] | None = None) -> Lines:
    """Dividers of 20 m along x at these y."""
    n = len(heights)
    return Lines(
        np.zeros(n, np.int64) if frame is None else np.array(frame),
        ("divider",) * n,
        [np.array([[-10.0, y], [3.0, y], [10.0, y]]) for y in heights],
        np.linspace(0.9, 0.5, n) if score is None else np.array(score, float),
    )


def test_chamfer_by_hand():
    a, b = np.array([[0.0, 0], [2, 0]]), np.array([[0.0, 1], [2, 1], [2, 4]])
    assert perception.chamfer(a, b) == pytest.approx((1 + (1 + 1 + 4) / 3) / 2)
    assert perception.chamfer(b, a) == perception.chamfer(a, b)
    bent = perception.resample(np.array([[0.0, 0], [3, 0], [3, 4]]), 8)
    assert np.allclose(bent[[0, 3, 5, 7]], [[0, 0], [3, 0], [3, 2], [3, 4]])


def test_line_ap_by_hand():
    truth = straight(0, 4, 8, 12)
    assert perception.line_ap(truth, truth, ["a"], ["divider"]).mean_ap.mean == pytest.approx(1)
    off = perception.line_ap(straight(0.7, 4.7, 8.7, 12.7), truth, ["a"], ["divider"])
    assert off.ap["divider"] == {0.5: 0, 1.0: pytest.approx(1), 1.5: pytest.approx(1)}
    front = perception.line_ap(straight(-20, 0, 4, 8, 12), truth, ["a"], ["divider"])
    assert front.mean_ap.mean == pytest.approx(4 / 5)  # each precision is raised to the last
    behind = perception.line_ap(straight(0, 4, 8, 12, -20), truth, ["a"], ["divider"])
    assert behind.mean_ap.mean == pytest.approx(1)
    twice = perception.line_ap(straight(0, 0.1, 4, 8), truth, ["a"], ["divider"])
    assert twice.mean_ap.mean == pytest.approx((1 + 3 / 4 + 3 / 4) / 4)  # the second is one too many
    two = perception.line_ap(truth, truth, ["a"], ["divider", "kerb"])
    assert two.mean_ap.mean == pytest.approx(0.5) and two.ap["kerb"][0.5] == 0
    other_way = dataclasses.replace(truth, points=[points[::-1].copy() for points in truth.points])
    assert perception.line_ap(other_way, truth, ["a"], ["divider"]).mean_ap.mean == pytest.approx(1)


def test_the_nearest_line_is_asked_even_where_it_is_taken():
    """As MapTR's code: the second is nearest to what is taken, and does not get the other, which is near enough."""
    truth = straight(0, 1.2)
    found = straight(0.1, 0.5, score=[0.9, 0.8])
    got = perception.line_ap(found, truth, ["a"], ["divider"]).ap["divider"]
    assert got[1.0] == pytest.approx(0.5)


def test_lines_of_frames_in_any_order():
    rng = np.random.default_rng(0)
    frame = np.repeat(np.arange(6), 3)
    heights = np.tile([0.0, 4.0, 8.0], 6)
    truth = straight(*heights, frame=frame.tolist())
    found = straight(*(heights + rng.normal(0, 0.8, 18)), frame=frame.tolist(), score=rng.permutation(18).tolist())
    one = perception.line_ap(found, truth, list("aabbcc"), ["divider"])
    order = rng.permutation(18)
    mixed = Lines(frame[order], ("divider",) * 18, [found.points[i] for i in order], found.score[order])
    assert perception.line_ap(mixed, truth, list("aabbcc"), ["divider"]) == one
    assert one.mean_ap.n == 3 and one.mean_ap.low <= one.mean_ap.mean <= one.mean_ap.high
    with pytest.raises(ValueError, match="frames 0 to 2"):
        perception.line_ap(found, truth, list("abc"), ["divider"])
    with pytest.raises(ValueError, match="at least 2 points"):
        lone = dataclasses.replace(found, points=[points[:1] for points in found.points])
        perception.line_ap(lone, truth, list("aabbcc"), ["divider"])


# -- depth and flow -----------------------------------------------------------------------------------


def test_depth_by_hand():
    true = np.array([[[10.0, 20.0], [0.0, 40.0]], [[5.0, 5.0], [5.0, 5.0]]])
    made = np.array([[[11.0, 26.0], [9.0, 40.0]], [[5.0, 4.0], [5.0, 3.0]]])
    valid = np.ones((2, 2, 2), bool)
    got = perception.depth(perception.sum_depth(made, true, valid))
    assert got.abs_rel.mean == pytest.approx((0.1 + 0.3 + 0 + 0.2 + 0.4) / 7) and got.abs_rel.n == 2
    assert got.rmse.mean == pytest.approx(math.sqrt((1 + 36 + 1 + 4) / 7))
    assert got.delta.mean == pytest.approx(4 / 7)  # 5 / 4 is not below 1.25
    moving = np.zeros_like(valid)
    moving[1, :, 1] = True
    parts = perception.depth_by_motion(made, true, valid, moving, ["a", "b"])
    assert set(parts) == {"all", "still", "moving"} and parts["all"].abs_rel.mean == got.abs_rel.mean
    assert parts["moving"].abs_rel.mean == pytest.approx(0.3) and parts["still"].abs_rel.mean == pytest.approx(0.4 / 5)
    assert "moving" not in perception.depth_by_motion(made, true, valid, ~valid)
    valid[0] = False
    assert perception.depth(perception.sum_depth(made, true, valid)).abs_rel.mean == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no pixel"):
        perception.depth(perception.sum_depth(made, true, ~np.ones_like(valid)))
    with pytest.raises(ValueError, match="not finite"):
        perception.sum_depth(made * NAN, true, valid)
    assert perception.depth(perception.sum_depth(-made, true, valid)).delta.mean == 0


def test_flow_by_hand():
    true, made = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    true[0, :2, 0] = 3.0, 4.0
    made[1, 2, 3] = 2.0
    valid = np.ones((2, 4), bool)
    assert perception.flow_error(perception.sum_flow(made, true, valid)).mean == pytest.approx(7 / 8)
    parts = perception.flow_by_motion(made, true, valid)
    assert parts["moving"].mean == 5 and parts["still"].mean == pytest.approx(2 / 7)
    valid[0, 0] = False
    assert set(perception.flow_by_motion(made, true, valid)) == {"all", "still"}
    with pytest.raises(ValueError, match="no place"):
        perception.flow_error(perception.sum_flow(made, true, ~np.ones_like(valid)))


# -- the devkit ---------------------------------------------------------------------------------------

KIT = "MASKWORLD_NUSCENES_DEVKIT"
VERSION = "v1.0-mini"
SCRIPT = """
import json, sys
from nuscenes.nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
version, root, file, out = sys.argv[1:]
kit = NuScenes(version, root, verbose=False)
judge = DetectionEval(kit, config_factory("detection_cvpr_2019"), file, "ours", out, verbose=False)
metrics, _ = judge.evaluate()
print(json.dumps(metrics.serialize()))
"""
DEVKIT = {"translation": "trans", "scale": "scale", "orientation": "orient", "velocity": "vel", "attribute": "attr"}
TO_CLASS = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "human.pedestrian.adult": "pedestrian",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
}


def yaw_of(rotation: Sequence[float]) -> float:
    w, x, y, z = rotation
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def generated(root: Path) -> tuple[list[str], list[str], list[dict], dict[str, np.ndarray]]:
    """A folder of two drives in which some cars are other things: frames, their scenes, boxes and places of the car."""
    made = [
        surround.of_drive(drive.scene(seed, 16, 4.0), drive.rig(6, (32, 56)), f"drive {seed}") for seed in (5, 6, 9)
    ]
    nuscenes.write(root, made, VERSION, {"world": "here"})
    folder = root / VERSION
    table = {name: json.loads((folder / f"{name}.json").read_text()) for name in nuscenes.TABLES}
    category = {row["name"]: row["token"] for row in table["category"]}
    others = ["vehicle.truck", "movable_object.barrier", "movable_object.trafficcone"]
    cars = [row for row in table["instance"] if row["category_token"] == category["vehicle.car"]]
    for i, row in enumerate(cars):
        if i % 2:
            row["category_token"] = category[others[i // 2 % 3]]
    (folder / "instance.json").write_text(json.dumps(table["instance"]))
    scene = {row["token"]: row["name"] for row in table["scene"]}
    (folder / "splits.json").write_text(json.dumps({"ours": list(scene.values())}))
    pose = {row["token"]: np.array(row["translation"]) for row in table["ego_pose"]}
    mounts = {row["token"]: row["sensor_token"] for row in table["calibrated_sensor"]}
    lidar = {row["token"] for row in table["sensor"] if row["channel"] == nuscenes.LIDAR}
    ego = {
        row["sample_token"]: pose[row["ego_pose_token"]]
        for row in table["sample_data"]
        if row["is_key_frame"] and mounts[row["calibrated_sensor_token"]] in lidar
    }
    name = {row["token"]: row["name"] for row in table["category"] + table["attribute"]}
    what = {row["token"]: name[row["category_token"]] for row in table["instance"]}
    times = {row["token"]: row["timestamp"] / 1e6 for row in table["sample"]}
    rows = {row["token"]: row for row in table["sample_annotation"]}
    found = []
    for row in rows.values():
        ends = [rows[row[side]] if row[side] else row for side in ("prev", "next")]
        seconds = times[ends[1]["sample_token"]] - times[ends[0]["sample_token"]]
        velocity = [NAN, NAN]
        if 0 < seconds <= (3.0 if row["prev"] and row["next"] else 1.5):
            velocity = (np.subtract(ends[1]["translation"], ends[0]["translation"])[:2] / seconds).tolist()
        found.append(
            {
                "sample_token": row["sample_token"],
                "translation": row["translation"],
                "size": row["size"],
                "rotation": row["rotation"],
                "velocity": velocity,
                "detection_name": TO_CLASS[what[row["instance_token"]]],
                "detection_score": 1.0,
                "attribute_name": name[row["attribute_tokens"][0]] if row["attribute_tokens"] else "",
            }
        )
    frames = [row["token"] for row in table["sample"]]
    return frames, [scene[row["scene_token"]] for row in table["sample"]], found, ego


def disturbed(truth: list[dict], rng: np.random.Generator) -> list[dict]:
    """Some are missed, some are doubled, and all are off: in place, size, turn, speed and attribute."""
    found = []
    for row in truth:
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            yaw = yaw_of(row["rotation"]) + rng.normal(0, 0.2) + math.pi * (rng.uniform() < 0.2)
            velocity = np.nan_to_num(row["velocity"]) + rng.normal(0, 0.3, 2)
            moving = row["attribute_name"].split(".")[0] + ".moving"
            attribute = {"vehicle": moving, "pedestrian": moving}.get(row["attribute_name"].split(".")[0], "")
            if row["detection_name"] in ("barrier", "traffic_cone"):
                attribute = ""
            found.append(
                row
                | {
                    "translation": (np.array(row["translation"]) + rng.normal(0, [0.7, 0.7, 0.3])).tolist(),
                    "size": (np.array(row["size"]) * rng.uniform(0.8, 1.3, 3)).tolist(),
                    "rotation": [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)],
                    "velocity": velocity.tolist(),
                    "detection_score": float(rng.uniform(0.05, 1)),
                    "attribute_name": attribute,
                }
            )
    return found


def as_boxes(rows: list[dict], frames: list[str], ego: dict[str, np.ndarray]) -> Boxes:
    """In the axes of the world, but from the car: distances and differences are the same as in its own."""
    size = np.array([row["size"] for row in rows])[:, [1, 0, 2]]
    return Boxes(
        frame=np.array([frames.index(row["sample_token"]) for row in rows]),
        category=tuple(row["detection_name"] for row in rows),
        centre=np.array([row["translation"] - ego[row["sample_token"]] for row in rows]),
        size=size,
        yaw=np.array([yaw_of(row["rotation"]) for row in rows]),
        velocity=np.array([row["velocity"] for row in rows]),
        score=np.array([row["detection_score"] for row in rows]),
        attribute=tuple(row["attribute_name"] for row in rows),
    )


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.timeout(1800)
@pytest.mark.skipif(KIT not in os.environ, reason=f"{KIT} names no folder for the devkit's own environment")
def test_the_public_devkit_agrees(tmp_path):
    """Every average precision, every error, mAP and NDS. It is installed, once, in an environment of its own."""
    home = Path(os.environ[KIT])
    python = home / "bin" / "python"
    if not (home / "lib").is_dir() or not list(home.glob("lib/*/site-packages/nuscenes")):
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "nuscenes-devkit"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nuscenes-devkit cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    root = tmp_path / "data"
    frames, scenes, truth, ego = generated(root)
    for what, found in {"same": truth, "off": disturbed(truth, np.random.default_rng(0))}.items():
        found = [row | {"velocity": np.nan_to_num(row["velocity"]).tolist()} for row in found]
        results: dict[str, list[dict]] = {frame: [] for frame in frames}
        for row in found:
            results[row["sample_token"]].append(row)
        meta = dict.fromkeys(["use_camera", "use_lidar", "use_radar", "use_map", "use_external"], False)
        file = tmp_path / f"{what}.json"
        file.write_text(json.dumps({"meta": meta, "results": results}))
        done = subprocess.run(
            [python, "-c", SCRIPT, VERSION, root, file, tmp_path / what], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        kit = json.loads(done.stdout.splitlines()[-1])
        mine = perception.detection(as_boxes(found, frames, ego), as_boxes(truth, frames, ego), scenes)
        for name, row in mine.ap.items():
            for limit, value in row.items():
                assert value == pytest.approx(kit["label_aps"][name][str(limit)], abs=1e-9), (what, name, limit)
        for name, row in mine.errors.items():
            for error, value in row.items():
                want = kit["label_tp_errors"][name][f"{DEVKIT[error]}_err"]
                assert value == pytest.approx(want, abs=1e-9), (what, name, error)
        for error, value in mine.mean_errors.items():
            assert value == pytest.approx(kit["tp_errors"][f"{DEVKIT[error]}_err"], abs=1e-9)
        assert mine.mean_ap.mean == pytest.approx(kit["mean_ap"], abs=1e-9)
        assert mine.nds.mean == pytest.approx(kit["nd_score"], abs=1e-9)
        print(f"{what}: mAP {mine.mean_ap.mean:.6f} ({kit['mean_ap']:.6f}), NDS {mine.nds} ({kit['nd_score']:.6f})")
