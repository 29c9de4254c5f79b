"""Heads over a volume: their targets say what their answers mean, and matching is the best there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from maskworld.nets import heads
from maskworld.nets.heads import Boxes, CentreHead, CentreMaps, Drawn, Lines, MapHead
from maskworld.nets.voxel import Grid

GRID = Grid((-12.0, -8.0, -2.0), (12.0, 8.0, 2.0), (24, 32, 4))  # cells of 1 m along x and 0.5 m along y


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_boxes(num: int = 5, seed: int = 0) -> Boxes:
    """Apart by more than a cell: on a lattice, moved a little."""
    u = torch.rand(num, 9, generator=gen(seed), dtype=torch.float64)
    places = torch.tensor(list(itertools.product((-9.3, -3.4, 2.6, 8.7), (-5.2, 0.1, 4.8))), dtype=torch.float64)
    at = torch.randperm(len(places), generator=gen(seed))[:num]
    centre = torch.cat([places[at] + 0.6 * u[:, :2], 2 * u[:, 2:3] - 1], -1)
    size = 1 + u[:, 3:6] * torch.tensor([4.0, 1.5, 1.0], dtype=torch.float64)
    label = torch.arange(num) % 2
    return Boxes(label, centre, size, (u[:, 6] * 2 - 1) * math.pi, u[:, 7:] * 10 - 5)


def none() -> Boxes:
    return Boxes(
        torch.zeros(0, dtype=torch.long), torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 2)
    )


def line(*points: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64)


# -- encoder and layers -------------------------------------------------------------------------------


def test_encoder_keeps_places_and_examples_apart():
    torch.manual_seed(0)
    encoder = heads.BEVEncoder(3, 4, 8, blocks=1).double()
    volume = torch.randn(2, 3, 4, 12, 10, generator=gen(), dtype=torch.float64)
    bev = encoder(volume)
    assert bev.shape == (2, 8, 12, 10)
    assert (encoder(volume[:1]) - bev[:1]).abs().max() < 1e-12
    turned = encoder(volume.permute(0, 2, 1, 3, 4).reshape(2, 3, 4, 12, 10))
    assert (turned - bev).abs().max() > 1e-3  # channels and heights are not mixed up
    with pytest.raises(ValueError, match="3 channels at 4 heights"):
        encoder(volume[:, :, :3])


def test_segmentation_loss_is_of_valid_cells_alone():
    torch.manual_seed(0)
    head = heads.SegmentationHead(8, 3)
    bev = torch.randn(2, 8, 6, 5, generator=gen())
    logits = head(bev)
    layers = torch.rand(2, 3, 6, 5, generator=gen(1)) < 0.3
    valid = torch.rand(2, 6, 5, generator=gen(2)) < 0.5
    assert logits.shape == layers.shape
    plain = heads.segmentation_loss(logits, layers, positive=1.0)
    want = F.binary_cross_entropy_with_logits(logits, layers.float(), reduction="none")
    assert torch.allclose(plain, want.mean((1, 2, 3)))
    loss = heads.segmentation_loss(logits, layers, valid)
    changed = torch.where(valid[:, None], logits, 50.0)
    assert torch.equal(heads.segmentation_loss(changed, layers, valid), loss)
    weighted = want * torch.where(layers, 2.13, 1.0)
    each = torch.stack([weighted[i][:, valid[i]].mean() for i in range(2)])
    assert torch.allclose(loss, each)
    assert heads.segmentation_loss(logits, layers, torch.zeros_like(valid)).tolist() == [0, 0]


# -- boxes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.7])
def test_the_radius_keeps_the_overlap(overlap):
    """At the radius the worst of the three ways to move two corners has exactly this overlap."""
    size = torch.tensor([[9.2, 3.8], [1.3, 1.3], [24.0, 5.0], [2.0, 30.0]], dtype=torch.float64)
    r = heads.gaussian_radius(size, overlap)
    h, w = size.unbind(-1)
    both = (h - r) * (w - r)
    one_way = both / (2 * h * w - both)
    inward = (h - 2 * r) * (w - 2 * r) / (h * w)
    outward = h * w / ((h + 2 * r) * (w + 2 * r))
    worst = torch.stack([one_way, inward, outward]).amin(0)
    assert (r > 0).all() and (worst - overlap).abs().max() < 1e-9
    assert heads.gaussian_radius(torch.tensor([[4.0, 4.0]]), 0.25).item() == pytest.approx(1.0)  # halved: a quarter
    with pytest.raises(ValueError, match="between 0 and 1"):
        heads.gaussian_radius(size, 1.0)


def test_the_heat_is_one_at_centres_and_falls():
    head = CentreHead(4, 2)
    boxes = some_boxes()
    maps, there = head.targets([boxes, none()], GRID)
    assert maps.heat.shape == (2, 2, 32, 24) and there.sum((1, 2)).tolist() == [5, 0]
    assert (maps.heat == 1).sum((1, 2, 3)).tolist() == [5, 0] and not maps.heat[1].any()
    for i in range(5):
        x, y = boxes.centre[i, :2].tolist()
        column, row = math.floor(x + 12), math.floor((y + 8) / 0.5)
        k = int(boxes.label[i])
        assert there[0, row, column] and maps.heat[0, k, row, column] == 1
        radius = max(2, int(heads.gaussian_radius(boxes.size[i : i + 1, :2] / torch.tensor([1.0, 0.5]))))
        sigma = (2 * radius + 1) / 6
        for step in range(1, 3):
            if row + step < 32:
                assert maps.heat[0, k, row + step, column] >= math.exp(-(step**2) / (2 * sigma**2)) - 1e-12
        assert maps.offset[0, :, row, column].tolist() == pytest.approx(
            [x + 12 - column - 0.5, (y + 8) / 0.5 - row - 0.5]
        )
    one = Boxes(*(part[:1] for part in vars(boxes).values()))
    heat = head.targets([one], GRID).maps.heat[0, int(one.label[0])]
    radius = max(2, int(heads.gaussian_radius(one.size[:, :2] / torch.tensor([1.0, 0.5]))))
    assert (heat > 0).sum() == (2 * radius + 1) ** 2  # nowhere beyond the radius


def test_decoded_targets_are_the_boxes():
    head = CentreHead(4, 2)
    given = [some_boxes(7, 3), none(), some_boxes(2, 4)]
    maps, _ = head.targets(
        [Boxes(*(p.double() if p.is_floating_point() else p for p in vars(b).values())) for b in given], GRID
    )
    found = head.decode(maps._replace(heat=torch.logit(maps.heat, 1e-6)), GRID, least=0.9)
    for boxes, (got, score) in zip(given, found, strict=True):
        assert len(got.label) == len(boxes.label) and (score > 0.9).all()
        for i in range(len(boxes.label)):
            j = int((got.centre - boxes.centre[i].float()).norm(dim=-1).argmin())
            assert got.label[j] == boxes.label[i]
            for name in ("centre", "size", "velocity"):
                assert torch.allclose(getattr(got, name)[j], getattr(boxes, name)[i].float(), atol=1e-4), name
            assert abs(float(got.yaw[j] - boxes.yaw[i])) < 1e-4


def test_decode_takes_local_maxima_in_order():
    heat = torch.full((1, 1, 32, 24), -9.0)
    heat[0, 0, 10, 10], heat[0, 0, 10, 11], heat[0, 0, 20, 5], heat[0, 0, 0, 0] = 2.0, 1.0, 3.0, 0.5
    zeros = [torch.zeros(1, n, 32, 24) for n in (2, 1, 3, 2, 2)]
    head = CentreHead(4, 1)
    ((boxes, score),) = head.decode(CentreMaps(heat, *zeros), GRID, least=0.5)
    assert score.tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (3.0, 2.0, 0.5)])
    assert boxes.centre[:, :2].tolist() == [[-6.5, 2.25], [-1.5, -2.75], [-11.5, -7.75]]
    assert boxes.size.tolist() == [[1.0] * 3] * 3
    assert len(head.decode(CentreMaps(heat, *zeros), GRID, num=1)[0].score) == 1
    with pytest.raises(ValueError, match="24 cells"):
        head.decode(CentreMaps(heat[..., :-1], *(z[..., :-1] for z in zeros)), GRID)


def test_the_centre_loss_is_least_at_the_targets():
    head = CentreHead(4, 2)
    targets = head.targets([some_boxes(4), some_boxes(2, 1), none()], GRID)
    right = targets.maps._replace(heat=torch.where(targets.maps.heat == 1, 30.0, -30.0).double())
    best = head.loss(right, targets)
    assert all(term.shape == (3,) and (term.abs() < 1e-6).all() for term in best.values())
    for name in ("offset", "z", "size", "turn", "velocity"):
        off = right._replace(**{name: getattr(right, name) + 1})
        term = head.loss(off, targets)
        num = getattr(right, name).shape[1]
        weight = 0.25 * (0.2 if name == "velocity" else 1)
        assert torch.allclose(term[name], torch.tensor([weight * num, weight * num, 0.0]).double(), atol=1e-5)
        assert all(torch.equal(term[other], best[other]) for other in term if other != name)


def test_the_heat_loss_by_hand():
    """One centre, one cell near it and one far: CornerNet's Eq. 1."""
    head = CentreHead(4, 1)
    heat = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 1, 1, 3)
    zeros = [torch.zeros(1, n, 1, 3) for n in (2, 1, 3, 2, 2)]
    targets = heads.CentreTargets(CentreMaps(heat, *zeros), heat[:, 0] == 1)
    p = torch.tensor([0.8, 0.3, 0.1]).reshape(1, 1, 1, 3)
    got = head.loss(CentreMaps(torch.logit(p), *zeros), targets)["heat"].item()
    want = 0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9)
    assert got == pytest.approx(-want, rel=1e-5)


def test_centre_targets_leave_out_and_refuse():
    head = CentreHead(4, 2)
    boxes = some_boxes(3)
    outside = Boxes(boxes.label, boxes.centre + torch.tensor([[40.0, 0, 0]]), boxes.size, boxes.yaw, boxes.velocity)
    assert not head.targets([outside], GRID).there.any()
    just = Boxes(
        boxes.label[:1], torch.tensor([[-12.01, 0.0, 0.0]]), boxes.size[:1].float(), torch.zeros(1), torch.zeros(1, 2)
    )
    assert not head.targets([just], GRID).there.any()  # and not in the first cell
    unknown = Boxes(boxes.label, boxes.centre, boxes.size, boxes.yaw, torch.full_like(boxes.velocity, math.nan))
    maps = CentreMaps(*(m.requires_grad_() for m in head(torch.randn(1, 4, 32, 24, generator=gen()))))
    terms = head.loss(maps, head.targets([unknown], GRID))
    assert terms["velocity"].item() == 0 and all(term.isfinite().all() for term in terms.values())
    grads = torch.autograd.grad(torch.stack([t.sum() for t in terms.values()]).sum(), [maps.velocity, maps.z])
    assert all(g.isfinite().all() for g in grads) and not grads[0].any() and grads[1].any()
    with pytest.raises(ValueError, match="from 0 to 1"):
        head.targets([Boxes(boxes.label + 1, boxes.centre, boxes.size, boxes.yaw, boxes.velocity)], GRID)
    with pytest.raises(ValueError, match="more than 0"):
        head.targets([Boxes(boxes.label, boxes.centre, boxes.size * 0, boxes.yaw, boxes.velocity)], GRID)
    with pytest.raises(ValueError, match="at least one example"):
        head.targets([], GRID)


def test_of_two_centres_in_a_cell_the_later_is_described():
    boxes = some_boxes(1)
    two = Boxes(*(torch.cat([p, p]) for p in vars(boxes).values()))
    two = Boxes(two.label, two.centre, torch.tensor([[3.0, 2, 1], [5.0, 2, 1]]).double(), two.yaw, two.velocity)
    maps, there = CentreHead(4, 2).targets([two], GRID)
    assert there.sum() == 1 and maps.size[0][:, there[0]].exp()[0].item() == pytest.approx(5)


# -- lines --------------------------------------------------------------------------------------------


def test_resample_is_even_and_keeps_the_ends():
    bent = line((0, 0), (3, 0), (3, 0), (3, 4))
    got = heads.resample(bent, 8)
    assert torch.allclose(got[:4], line((0, 0), (1, 0), (2, 0), (3, 0))) and torch.allclose(got[5], line((3, 2))[0])
    assert torch.equal(got[0], bent[0]) and torch.equal(got[-1], bent[-1])
    square = line((0, 0), (0.1, 0), (0.1, 0.1), (0, 0.1), (0, 0))
    assert torch.equal(heads.resample(square, 7)[0], heads.resample(square, 7)[-1])
    with pytest.raises(ValueError, match="0 m"):
        heads.resample(line((1, 1), (1, 1)), 5)


def test_cut_keeps_what_lies_within():
    through = heads.cut(line((-20, 1), (0, 1), (20, 1)), GRID)
    assert len(through) == 1 and through[0].tolist() == [[-12, 1], [0, 1], [12, 1]]
    twice = heads.cut(line((0, 0), (0, 10), (6, 10), (6, 0)), GRID)
    assert [part.tolist() for part in twice] == [[[0, 0], [0, 8]], [[6, 8], [6, 0]]]
    assert heads.cut(line((-20, 9), (20, 9)), GRID) == []
    ring = heads.cut(line((0, 6), (3, 6), (3, 10), (-3, 10), (-3, 6), (0, 6)), GRID)
    assert [part.tolist() for part in ring] == [[[-3, 8], [-3, 6], [0, 6], [3, 6], [3, 8]]]
    inside = line((1, 1), (2, 3), (-4, 5))
    assert torch.equal(heads.cut(inside, GRID)[0], inside)


def test_orders_say_the_same_line():
    opened = line((0, 0), (1, 0), (2, 1), (4, 1), (5, 5))
    square = line((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
    both, real = heads.orders(torch.stack([opened, square]))
    assert both.shape == (2, 8, 5, 2) and real.sum(1).tolist() == [2, 8]
    assert torch.equal(both[0, 0], opened) and torch.equal(both[0, 1], opened.flip(0))
    found = {tuple(map(tuple, order.tolist())) for order in both[1]}
    ring = square[:-1]
    want = set()
    for start, turned in itertools.product(range(4), (ring, ring.flip(0))):
        order = torch.roll(turned, start, 0)
        want.add(tuple(map(tuple, torch.cat([order, order[:1]]).tolist())))
    assert found == want and len(want) == 8
    only, real = heads.orders(opened[None])
    assert only.shape == (1, 2, 5, 2) and real.all()


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_the_best_of_all(seed):
    g = gen(seed)
    n, m, k, p = 5, 3, 2, 4
    logit, points = torch.randn(n, k, generator=g), torch.rand(n, p, 2, generator=g) * 10
    truth = torch.rand(m, p, 2, generator=g) * 10
    truth[1, -1] = truth[1, 0]  # closed
    label, span = torch.tensor([0, 1, 0]), torch.tensor([24.0, 16.0])
    got = heads.match(logit, points, Lines(label, truth), span)

    def cost(query: int, one: int) -> tuple[float, torch.Tensor]:
        prob = float(torch.sigmoid(logit[query, label[one]]))
        focal = -0.25 * (1 - prob) ** 2 * math.log(prob) + 0.75 * prob**2 * math.log(1 - prob)
        ways = [truth[one], truth[one].flip(0)]
        if one == 1:
            rings = [torch.roll(ring, s, 0) for ring in (truth[1, :-1], truth[1, :-1].flip(0)) for s in range(p - 1)]
            ways = [torch.cat([ring, ring[:1]]) for ring in rings]
        off = [float(((points[query] - way).abs() / span).sum()) for way in ways]
        return 2 * focal + 5 * min(off), ways[off.index(min(off))]

    table = [[cost(i, j) for j in range(m)] for i in range(n)]
    best = min(itertools.permutations(range(n), m), key=lambda q: sum(table[i][j][0] for j, i in enumerate(q)))
    assert {(int(j), int(i)) for i, j in zip(got.query, got.line, strict=True)} == set(enumerate(best))
    for i, j, order in zip(got.query.tolist(), got.line.tolist(), got.points, strict=True):
        assert torch.equal(order, table[i][j][1])


def test_the_loss_does_not_care_how_a_line_is_written():
    torch.manual_seed(0)
    head = MapHead(8, 2, num=4, points=5, layers=1)
    drawn = [Drawn(torch.randn(1, 4, 2, generator=gen()), torch.rand(1, 4, 5, 2, generator=gen(1)) * 10)]
    opened = heads.resample(line((0, 0), (4, 0), (4, 5)), 5).float()
    ring = line((0, 0), (2, 0), (2, 2), (0, 2), (0, 0)).float()
    turned = torch.roll(ring[:-1], 1, 0).flip(0)
    label = torch.tensor([0, 1])
    one = head.loss(drawn, [Lines(label, torch.stack([opened, ring]))], GRID)
    other = head.loss(
        drawn, [Lines(label.flip(0), torch.stack([torch.cat([turned, turned[:1]]), opened.flip(0)]))], GRID
    )
    assert set(one) == {"class", "points", "direction"}
    for name in one:
        assert one[name].shape == (1,) and torch.allclose(one[name], other[name], rtol=1e-5) and one[name] > 0
    sure = torch.tensor([[40.0, -40.0], [-40.0, 40.0], [-40.0, -40.0], [-40.0, -40.0]])
    exact = torch.stack([opened.flip(0), ring, ring, ring])
    best = head.loss([Drawn(sure[None], exact[None])], [Lines(label, torch.stack([opened, ring]))], GRID)
    assert all(term.abs().item() < 1e-6 for term in best.values())
    away = head.loss([Drawn(sure[None], exact[None] + 0.1)], [Lines(label, torch.stack([opened, ring]))], GRID)
    assert away["points"].item() == pytest.approx(5 * 5 * (0.1 / 24 + 0.1 / 16), rel=1e-4)


def test_a_map_head_learns_its_lines():
    """And what one example shows does not depend on another; every parameter has a gradient."""
    torch.manual_seed(0)
    head = MapHead(16, 2, num=6, points=6)
    bev = torch.randn(2, 16, 32, 24, generator=gen())
    first = Lines(
        torch.tensor([0, 1]),
        torch.stack([heads.resample(line(*ends).float(), 6) for ends in (((-12, 3), (12, 3)), ((5, -8), (5, 8)))]),
    )
    truth = [first, Lines(torch.zeros(0, dtype=torch.long), torch.zeros(0, 6, 2))]
    drawn = head(bev, GRID)
    assert len(drawn) == 2 and drawn[-1].points.shape == (2, 6, 6, 2)
    low, high = torch.tensor(GRID.low[:2]), torch.tensor(GRID.high[:2])
    assert all(((step.points >= low) & (step.points <= high)).all() for step in drawn)
    alone = head(bev[:1], GRID)
    assert (alone[-1].points - drawn[-1].points[:1]).abs().max() < 1e-4
    start = head.loss(drawn, truth, GRID)
    assert torch.allclose(head.loss(alone, truth[:1], GRID)["points"], start["points"][:1], rtol=1e-3)
    assert start["points"][1] == 0 and start["class"][1] > 0
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    for step in range(40):
        optimiser.zero_grad()
        torch.stack([t.sum() for t in head.loss(head(bev, GRID), truth, GRID).values()]).sum().backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        optimiser.step()
    end = head.loss(head(bev, GRID), truth, GRID)
    assert end["points"][0] < 0.4 * start["points"][0] and end["class"].sum() < start["class"].sum()
    (lines, score), _ = head.decode(head(bev, GRID))
    assert (score[:-1] >= score[1:]).all() and set(lines.label[:2].tolist()) == {0, 1}


def test_bad_lines_are_refused():
    head = MapHead(8, 1, num=2, points=4, layers=1)
    drawn = head(torch.randn(1, 8, 32, 24, generator=gen()), GRID)
    points = torch.rand(3, 4, 2, generator=gen())
    with pytest.raises(ValueError, match="2 queries cannot draw 3"):
        head.loss(drawn, [Lines(torch.zeros(3, dtype=torch.long), points)], GRID)
    with pytest.raises(ValueError, match="lines of 4 points"):
        head.loss(drawn, [Lines(torch.zeros(1, dtype=torch.long), points[:1, :3])], GRID)
    with pytest.raises(ValueError, match="from 0 to 0"):
        head.loss(drawn, [Lines(torch.ones(1, dtype=torch.long), points[:1])], GRID)
    with pytest.raises(ValueError, match="2 examples for 1"):
        head.loss(drawn, [Lines(torch.zeros(1, dtype=torch.long), points[:1])] * 2, GRID)
    with pytest.raises(ValueError, match="32 x 24"):
        head(torch.randn(1, 8, 24, 32), GRID)
    with pytest.raises(ValueError, match="multiple of both"):
        MapHead(10, 1)
