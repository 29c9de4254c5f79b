"""Labels of a drive: layers, boxes and lines agree with each other and with what the cameras see."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from maskworld.data import drive, labels
from maskworld.data.drive import Domain, Drives
from maskworld.data.drive_town import PARKING
from maskworld.data.labels import LAYERS, LabelledDrives, labelled

EXTENT, CELL = (-30.0, 40.0, -32.0, 32.0), 0.5
DRIVES = Drives(2, 6, (24, 40), split="valid", seed=3)


@pytest.fixture(scope="module")
def some() -> list[labels.Labelled]:
    """Of four scenes, each at its last frame."""
    return [labelled(DRIVES, i, -1, EXTENT, CELL) for i in range(4)]


def cells_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that points lie in."""
    return ((points[:, 0] - EXTENT[0]) / CELL).long(), ((points[:, 1] - EXTENT[2]) / CELL).long()


def along(points: Tensor, step: float = 0.5) -> Tensor:
    """Points on a polyline every half metre, its ends left out."""
    found = []
    for a, b in pairwise(points):
        num = max(int((b - a).norm() / step), 1)
        found.append(a + (b - a) * (torch.arange(num) + 0.5)[:, None] / num)
    return torch.cat(found)


def wider(layer: Tensor) -> Tensor:
    return torch.nn.functional.max_pool2d(layer[None].float(), 3, 1, 1)[0].bool()


# -- boxes ------------------------------------------------------------------------------------------


def test_boxes_stand_on_the_layer_of_vehicles_and_fill_it(some: list[labels.Labelled]) -> None:
    cars = edge = moving = 0
    for each in some:
        boxes, layer = each.boxes, each.bev[LAYERS.index("vehicles")]
        is_car = torch.tensor([name == "car" for name in boxes.category])
        assert set(boxes.category) <= set(labels.CATEGORIES)
        feet = labels.footprints(boxes, EXTENT, CELL)[is_car]
        assert not (feet.any(0) & ~layer).any()
        # What is left over belongs to cars whose centres lie outside: it is near the border.
        x, y = (layer & ~feet.any(0)).nonzero().double().unbind(-1)
        inside = torch.minimum(torch.minimum(x, layer.shape[0] - 1 - x), torch.minimum(y, layer.shape[1] - 1 - y))
        assert (inside * CELL <= 3.0).all()
        quick = is_car & (boxes.velocity.norm(dim=-1) >= labels.MOVING)
        ahead = labels.footprints(boxes, EXTENT, CELL)[quick].any(0)
        moves = each.bev[LAYERS.index("moving")]
        assert not (ahead & ~moves).any() and not (moves & ~layer).any()
        cars, edge, moving = cars + int(is_car.sum()), edge + len(x), moving + int(moves.sum())
        assert int(layer.sum()) > int(moves.sum())
    assert cars > 20 and moving > 40 and edge < 0.2 * sum(int(each.bev[2].sum()) for each in some)


def test_boxes_are_those_of_the_world_seen_from_the_car(some: list[labels.Labelled]) -> None:
    for i, each in enumerate(some):
        scene, now = DRIVES.scene(i), DRIVES.place(i)[1] + 1
        world, ego = drive.boxes(scene, now), scene.ego[now]
        at = each.boxes.ids - 2
        place = torch.cat([each.boxes.centre.double(), torch.ones(len(at), 1)], dim=-1) @ ego.T
        torch.testing.assert_close(place[:, :3], world.centre[at].double(), atol=1e-4, rtol=0)
        velocity = each.boxes.velocity.double() @ ego[:2, :2].T
        torch.testing.assert_close(velocity, world.velocity[at].double(), atol=1e-5, rtol=0)
        heading = math.atan2(float(ego[1, 0]), float(ego[0, 0]))
        off = each.boxes.yaw.double() + heading - world.yaw[at]
        assert (off.cos() > 1 - 1e-9).all() and (each.boxes.yaw.abs() <= math.pi + 1e-6).all()
        assert torch.equal(each.boxes.size, world.size[at])
        # Who moves, moves as it looks.
        quick = velocity.norm(dim=-1) > 1
        ahead = torch.stack([each.boxes.yaw.cos(), each.boxes.yaw.sin()], dim=-1)
        assert ((each.boxes.velocity * ahead).sum(-1)[quick] > 0.9 * velocity.norm(dim=-1)[quick]).all()


def test_a_box_is_seen_where_the_cameras_see_it(some: list[labels.Labelled]) -> None:
    for i, each in enumerate(some[:2]):
        rig = drive.rig(6, DRIVES.size)
        ids = drive.render(DRIVES.scene(i), rig, [DRIVES.place(i)[1] + 1]).ids
        assert each.boxes.seen.tolist() == [int((ids == number).sum()) for number in each.boxes.ids]
        assert (each.boxes.seen > 0).any() and (each.boxes.seen == 0).any()


# -- lines ------------------------------------------------------------------------------------------


def test_lines_lie_where_the_layers_have_them(some: list[labels.Labelled]) -> None:
    on: dict[str, list[float]] = {"edge": [], "beside": [], "road": []}
    for each in some:
        road, marks = each.bev[0], wider(each.bev[1])
        for line in each.lines:
            points = along(line.points)
            if line.kind == "edge":
                on["edge"] += marks[cells_of(points)].tolist()
                way = line.points[-1] - line.points[0]
                left = torch.stack([-way[1], way[0]]) / way.norm()
                aside = points + 1.75 * left
                inside = (aside[:, 0] > EXTENT[0]) & (aside[:, 0] < EXTENT[1] - 1e-3)
                inside &= (aside[:, 1] > EXTENT[2]) & (aside[:, 1] < EXTENT[3] - 1e-3)
                on["beside"] += marks[cells_of(aside[inside])].tolist()
            if line.kind in ("edge", "divider", "centre"):
                on["road"] += road[cells_of(points)].tolist()
    share = {name: sum(hits) / len(hits) for name, hits in on.items()}
    assert len(on["edge"]) > 400
    assert share["edge"] > 0.97 and share["road"] > 0.99 and share["beside"] < 0.5


def test_a_kerb_is_where_the_road_ends(some: list[labels.Labelled]) -> None:
    hits = []
    for each in some:
        kerbs = [along(line.points) for line in each.lines if line.kind == "kerb"]
        x, y = cells_of(torch.cat(kerbs))
        road = each.bev[0]
        hits += (wider(road) & wider(~road))[x, y].tolist()
    assert len(hits) > 400 and sum(hits) / len(hits) > 0.95
    assert PARKING > 2 * CELL  # else an edge would be one, too


def test_lines_stay_within_the_extent_and_are_those_of_the_world(some: list[labels.Labelled]) -> None:
    x0, x1, y0, y1 = EXTENT
    for i, each in enumerate(some[:2]):
        ego = DRIVES.scene(i).ego[DRIVES.place(i)[1] + 1]
        world = [line for line in drive.lanes(DRIVES.scene(i))]
        assert {line.kind for line in each.lines} == {"centre", "divider", "edge", "kerb"}
        for line in each.lines:
            x, y = line.points.T
            slack = 1e-4
            assert (x >= x0 - slack).all() and (x <= x1 + slack).all()
            assert (y >= y0 - slack).all() and (y <= y1 + slack).all()
            assert line.points.diff(dim=0).norm(dim=-1).sum() >= labels.LEAST - slack
            place = line.points.double() @ ego[:2, :2].T + ego[:2, 3]
            near = min(_apart(place, other.points) for other in world if other.kind == line.kind)
            assert near < 1e-3
        # What is cut away of the middle of lanes is what lies outside: as much length inside, found by sampling.
        inside = 0.0
        for line in (line for line in world if line.kind == "centre"):
            local = (along(line.points, 0.05) - ego[:2, 3]) @ ego[:2, :2]
            x, y = local.T
            length = line.points.diff(dim=0).norm(dim=-1).sum() / len(local)
            inside += float(((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).sum() * length)
        ours = sum(float(line.points.diff(dim=0).norm(dim=-1).sum()) for line in each.lines if line.kind == "centre")
        assert ours == pytest.approx(inside, rel=0.02)


def _apart(points: Tensor, line: Tensor) -> float:
    """The farthest that any of the points lies from a polyline."""
    a, way = line[:-1], line.diff(dim=0)
    part = (((points[:, None] - a) * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)
    return float((points[:, None] - a - part[..., None] * way).norm(dim=-1).amin(1).max())


def test_a_line_that_leaves_and_returns_is_two() -> None:
    line = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [5.0, 30.0], [-3.0, 30.0], [-3.0, 5.0], [-3.0, 3.0]])
    parts = labels._within(line, (-4.0, 8.0, -10.0, 10.0))
    assert [part.tolist() for part in parts] == [
        [[-4, 0], [5, 0], [5, 10]],
        [[-3, 10], [-3, 5], [-3, 3]],
    ]
    assert labels._within(line, (20.0, 30.0, -10.0, 10.0)) == []
    assert labels._within(line, (-4.0, -3.5, -10.0, 10.0)) == []  # half a metre of it


# -- the source -------------------------------------------------------------------------------------


def test_the_same_number_gives_the_same_labels_and_the_clip_of_the_drive(some: list[labels.Labelled]) -> None:
    again = labelled(DRIVES, 1, 1, EXTENT, CELL)
    first = some[1]
    assert first.frame == again.frame == 1
    assert torch.equal(first.bev, again.bev) and torch.equal(first.clip.frames, again.clip.frames)
    for field in dataclasses.fields(labels.Boxes):
        one, two = (getattr(each.boxes, field.name) for each in (first, again))
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    assert all(
        a.kind == b.kind and torch.equal(a.points, b.points) for a, b in zip(first.lines, again.lines, strict=True)
    )
    plain = DRIVES(1)
    assert torch.equal(plain.frames, first.clip.frames) and torch.equal(plain.times, first.clip.times)
    assert first.clip.depth is None and first.clip.cameras is not None and plain.cameras is not None
    assert torch.equal(plain.cameras.pose, first.clip.cameras.pose)
    assert torch.equal(first.bev[:3], drive.bev(DRIVES.scene(1), int(plain.times[0, -1]), EXTENT, CELL))


def small(**changes) -> LabelledDrives:
    return dataclasses.replace(LabelledDrives(1, 1, (8, 12), num=40), **changes)


def test_kerbs_end_where_roads_meet() -> None:
    """Of the lines of the map, those that run over asphalt on both sides are left out, and most are not."""
    scene = DRIVES.scene(3)
    far = (-1e3, 1e3, -1e3, 1e3)

    def length(lines) -> float:
        return sum(float(line.points.diff(dim=0).norm(dim=-1).sum()) for line in lines if line.kind == "kerb")

    ours, every = length(labels.lines_around(scene, 5, far)), length(drive.lanes(scene))
    assert 0.4 * every < ours < 0.95 * every


def test_shares_are_nested_and_other_splits_and_seeds_are_other_examples() -> None:
    sizes = {share: len(small(share=share)) for share in (0.01, 0.1, 0.5, 1.0)}
    assert sizes == {0.01: 1, 0.1: 4, 0.5: 20, 1.0: 40}
    few, many = small(share=0.1), small(share=0.5)
    for i in (0, 3):
        assert torch.equal(few(i).clip.frames, many(i).clip.frames) and torch.equal(few(i).bev, many(i).bev)
    assert torch.equal(few(0).clip.frames, few(4).clip.frames)  # and round again
    assert not torch.equal(few(0).clip.frames, many(4).clip.frames)
    assert few.drives == many.drives == dataclasses.replace(Drives(1, 1, (8, 12)), fps=few.fps)
    scenes = [small(split=split, seed=seed).drives.place(0)[0] for split in drive.SPLITS for seed in (0, 1)]
    assert len(set(scenes)) == 6


def test_a_town_without_anybody_has_no_boxes() -> None:
    found = small(domain=Domain(density=0.0))(0)
    assert len(found.boxes.ids) == 0 and found.boxes.category == () and not found.bev[2:].any()
    assert found.bev.shape == (4, 64, 64) and found.bev[0].any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: labelled(DRIVES, 0, 2), "frames from 0 to 1"),
        (lambda: labelled(DRIVES, 0, -3), "frames from 0 to 1"),
        (lambda: labelled(DRIVES, -1), "from 0"),
        (lambda: labelled(DRIVES, 0, 0, (5.0, 5.0, 0.0, 1.0)), "extent"),
        (lambda: small(share=0.0), "share"),
        (lambda: small(share=1.5), "share"),
        (lambda: small(num=0), "labelled example"),
        (lambda: small(frame=1), "frames from 0 to 0"),
        (lambda: small(num_frames=0), "one frame"),
        (lambda: small()(-1), "from 0"),
    ],
)
def test_what_cannot_be_is_refused(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
