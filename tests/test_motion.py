"""Dominant motions are found exactly, several at once, from what is shown alone, and through noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskworld.nets import motion
from maskworld.nets.motion import aligned, extrapolated, num_aligned, num_extrapolated

SIZE = 48


def patch(seed: int, channels: int = 1, size: int = 10) -> Tensor:
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(seed)) * 1.5 - 0.5


def film(times: range, *things: tuple[tuple[int, int], tuple[int, int], Tensor]) -> Tensor:
    """Frames at `times` of patches on black: where each is at time 0, rows and columns a frame, what it looks like;
    the last in front."""
    frames = []
    for time in times:
        frame = torch.full((things[0][2].shape[0], SIZE, SIZE), -1.0)
        for (y, x), (dy, dx), look in things:
            y, x = y + time * dy, x + time * dx
            frame[:, y : y + look.shape[1], x : x + look.shape[2]] = look
        frames.append(frame)
    return torch.stack(frames)[None]


def of(frames: Tensor, **options) -> Tensor:
    return extrapolated(frames, torch.ones(frames.shape[:2], dtype=torch.bool), **options).pictures[:, 0]


@pytest.mark.parametrize("velocity", [(0, 0), (3, -2), (-4, 4), (0, 1)])
@pytest.mark.parametrize("distance", [1, 2])
def test_what_goes_on_is_found_where_it_will_be(velocity: tuple[int, int], distance: int) -> None:
    """Before and after, in colours that move together; each of the three frames gives the same picture."""
    thing = ((21, 17), velocity, patch(0, 3))
    want = film(range(distance - 1, distance), thing)
    for times in (range(-1, -4, -1), range(2 * distance - 1, 2 * distance + 2)):
        found = of(film(times, thing), distances=(distance,))
        assert found.shape == (1, 3, 3, SIZE, SIZE)
        for picture in found.unbind(1):
            torch.testing.assert_close(picture, want[:, 0], atol=0, rtol=0)


def test_things_that_go_two_ways_are_each_found() -> None:
    """Also where they overlap: one picture or the other has every pixel of them, except where one hides another."""
    for second in ((26, 26), (16, 12)):
        things = ((8, 8), (2, 1), patch(1, size=16)), (second, (-3, 0), patch(2, size=12))
        pictures = of(film(range(-1, -4, -1), *things), motions=2)
        assert pictures.shape[1] == 6
        for n in range(3):
            alone = [film(range(1), thing)[0, 0, 0] for thing in things]
            for look in alone:
                ink = look > -1
                hidden = (film(range(-1 - n, -n), *things[1:])[0, 0, 0] > -1).roll((2 * (n + 1), n + 1), (0, 1))
                seen = ink & ~hidden if look is alone[0] else ink
                right = (pictures[0, [n, 3 + n], 0] == look).flatten(1)[:, seen.flatten()].float().mean(1).amax()
                assert right == 1


def test_two_motions_are_better_than_the_best_one_and_the_next() -> None:
    """Three things: the motions of the larger two, though one between them explains a little of both."""
    things = (
        ((4, 12), (0, 4), patch(1, size=12)),
        ((4, 30), (0, 2), patch(2, size=4)),
        ((30, 26), (0, -4), patch(3, size=12)),
    )
    pictures = of(film(range(-1, -3, -1), *things), motions=2)
    for thing in (things[0], things[2]):
        ink = film(range(1), thing)[0, 0, 0] > -1
        assert (pictures[0, ::2, 0] == film(range(1), *things)[0, 0, 0]).flatten(1)[:, ink.flatten()].all(1).any()


def test_where_nothing_is_to_be_seen_nothing_moves() -> None:
    ramp = torch.linspace(-1, 1, SIZE).expand(1, SIZE, SIZE)
    for still in (torch.zeros(1, 2, 1, SIZE, SIZE), ramp[None, None].repeat(1, 2, 1, 1, 1)):
        torch.testing.assert_close(of(still), still, atol=0, rtol=0)


def test_examples_are_each_their_own_and_hidden_frames_say_nothing() -> None:
    films = [film(range(-1, -4, -1), ((19, 19), v, patch(i))) for i, v in enumerate(((1, 2), (-2, 0), (3, 3)))]
    frames, shown = torch.cat(films), torch.tensor([[True] * 3, [True, False, True], [True, True, False]])
    found = extrapolated(torch.where(shown[:, :, None, None, None], frames, 0.0), shown).pictures[:, 0]
    assert torch.equal(found[:1], of(films[0]))
    assert (found[1] == 0).all()
    assert torch.equal(found[2, :2], of(films[2])[0, :2]) and (found[2, 2] == 0).all()


def test_reach_is_what_is_looked_for() -> None:
    thing = ((19, 19), (0, 3), patch(5))
    frames, want = film(range(-1, -4, -1), thing), film(range(1), thing)[:, 0]
    assert torch.equal(of(frames, reach=3)[:, 0], want)
    assert not torch.equal(of(frames, reach=2)[:, 0], want)


def test_half_precision_around_it_changes_no_course() -> None:
    thing = ((19, 19), (2, -3), patch(6))
    frames = film(range(-1, -4, -1), thing)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(of(frames), film(range(1), thing).expand(1, 3, 1, SIZE, SIZE))


DARK, BRIGHT = patch(1, size=14) / 5 + 0.1, patch(2, size=6).clamp(min=0.6)


def turning() -> Tensor:
    """Eight frames, the latest first, of a dark thing that turned twice on its way, and a bright one before it now."""
    way = [(20, 16), (22, 18), (24, 20), (23, 22), (22, 24), (21, 26), (22, 25), (23, 24)]
    frames = [
        film(range(1), (place, (0, 0), DARK), ((24 + 2 * i, 18 - 2 * i), (0, 0), BRIGHT)) for i, place in enumerate(way)
    ]
    return torch.cat(frames, dim=1)


def test_what_is_followed_is_found_wherever_it_came_from() -> None:
    """The least of what was seen along the way of a thing has it alone, though another is before it now; also in the
    places of the nearest frame, and of the shown frames only."""
    frames = turning()
    shown = torch.ones(1, 8, dtype=torch.bool)
    found = extrapolated(frames, shown, motions=2, followed=8)
    assert found.pictures.shape[2] == num_extrapolated(8, 2, 8) == 6 and found.layers is not None
    assert found.layers.shape[1] == 4
    alone = film(range(1), ((20, 16), (0, 0), DARK))[0, 0, 0]
    ink = alone > -1
    right = [((one == alone) & ink).sum() / ink.sum() for one in found.layers[0, ::2, 0]]
    seen = ((frames[0, 0, 0] == alone) & ink).sum() / ink.sum()
    assert seen < 0.85 and max(right) == 1
    straight = extrapolated(frames, shown, motions=2).pictures[:, 0]
    assert torch.equal(straight[:, ::3], found.pictures[:, 0, ::3])
    which = int(torch.tensor(right).argmax())
    by = film(range(1), ((18, 14), (0, 0), DARK))[0, 0, 0]
    assert ((found.pictures[0, 0, 3 * which + 1, 0] == by)[by > -1]).all()
    shorter = extrapolated(frames[:, :4], shown[:, :4], motions=2, followed=8)
    hidden = torch.where(torch.arange(8)[None, :, None, None, None] < 4, frames, 0.0)
    some = extrapolated(hidden, torch.arange(8)[None] < 4, motions=2, followed=8)
    assert some.layers is not None and shorter.layers is not None
    torch.testing.assert_close(some.pictures, shorter.pictures)
    assert torch.equal(some.layers, shorter.layers)


@pytest.mark.parametrize(("frames", "left"), [(2, 0), (3, 0), (4, 1), (6, 1), (7, 2), (10, 3)])
def test_some_frames_may_be_wrong(frames: int, left: int) -> None:
    """What the least and the most of those frames leave out on either side; those that are not shown have no say."""
    value = torch.randperm(frames, generator=torch.Generator().manual_seed(frames)).float() / frames
    wrong = torch.cat([value, torch.tensor([-9.0, 9.0])])[None, :, None, None, None].expand(1, -1, 1, 2, 2)
    least, most = motion._extremes(wrong, torch.arange(frames + 2)[None] < frames)
    in_order = value.sort().values
    assert (least == in_order[left]).all() and (most == in_order[-1 - left]).all()
    negative = motion._extremes(-wrong, torch.arange(frames + 2)[None] < frames)
    assert torch.equal(negative[0], -most) and torch.equal(negative[1], -least)


def test_of_each_example_as_many_are_left_out_as_it_has_frames() -> None:
    films = torch.rand(3, 10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    shown = torch.arange(10) < torch.tensor([[10], [5], [2]])
    together = torch.stack(motion._extremes(films, shown))
    alone = [torch.stack(motion._extremes(films[i : i + 1], shown[i : i + 1])) for i in range(3)]
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_the_most_is_the_least_of_the_negative() -> None:
    """Motions are the same in both."""
    frames, shown = turning(), torch.ones(1, 8, dtype=torch.bool)
    found, negative = (extrapolated(sign * frames, shown, motions=2, followed=8) for sign in (1, -1))
    assert found.layers is not None and negative.layers is not None
    assert torch.equal(negative.layers, -found.layers[:, [1, 0, 3, 2]])
    assert torch.equal(negative.pictures, -found.pictures[:, :, [0, 2, 1, 3, 5, 4]])
    assert not torch.equal(found.layers[:, 0], found.layers[:, 1])


def test_two_things_are_followed_along_their_own_ways() -> None:
    """Each turns where the other does not; a bright one right beside them is not taken for either; over a grey frame
    that is not shown things go on as they went."""
    ways = (
        [(6, 6), (9, 8), (12, 10), (15, 12), (14, 15), (13, 18), (12, 21), (11, 24)],
        [(30, 30), (28, 28), (26, 26), (24, 28), (26, 30), (28, 32), (30, 34), (32, 36)],
    )
    looks = patch(3, size=10) / 2 + 0.2, patch(4, size=10) / 2 + 0.2
    films = []
    for n in range(8):
        things = [(way[n], (0, 0), look) for way, look in zip(ways, looks, strict=True)]
        films.append(film(range(1), ((0, 12), (0, 0), torch.ones(1, 36, 24)), *things))
    frames, shown = torch.cat(films, dim=1), torch.ones(1, 8, dtype=torch.bool)
    bare = torch.cat(
        [film(range(1), *((way[n], (0, 0), look) for way, look in zip(ways, looks, strict=True))) for n in range(8)],
        dim=1,
    )
    layers = extrapolated(bare, shown, motions=2, followed=8).layers
    assert layers is not None
    for way, look in zip(ways, looks, strict=True):
        alone = film(range(1), (way[0], (0, 0), look))[0, 0]
        assert max((least == alone).float().mean() for least in layers[0, ::2]) > 0.998
    for hidden in (None, 2):
        if hidden is not None:
            shown[:, hidden] = False
            frames = torch.where(shown[:, :, None, None, None], frames, 0.0)
        for way in ways:
            by = torch.tensor(way[1]) - torch.tensor(way[0])
            weight = torch.zeros(1, 1, SIZE, SIZE)
            (y, x) = way[0]
            weight[..., y : y + 10, x : x + 10] = 1.0
            places = motion._followed(frames, by[None], weight, 4)
            assert [tuple((torch.tensor(way[0]) + place[0]).tolist()) for place in places] == way, hidden


def test_what_moves_one_way_is_told_from_what_moves_another() -> None:
    """It is followed by its own pixels, and by those by which a motion can be told."""
    things = ((8, 8), (2, 1), patch(1)), ((28, 28), (-1, -2), patch(2))
    near, before = (film(range(i, i + 1), *things)[:, 0] for i in (0, -1))
    differs = motion._boxed(motion._cells(((near - look).abs() for look in motion._looks(before, 1, 4)), 2), 8)
    found = motion._dominant(differs, 2, 4)
    which = {tuple(by.tolist()): i for i, by in enumerate(motion._moves(4, near.device)[torch.cat(found)])}
    assert set(which) == {(2, 1), (-1, -2)} or set(which) == {(-2, -1), (1, 2)}
    for (y, x), way, _ in things:
        i = which[way] if way in which else which[-way[0], -way[1]]
        mine, other = (motion._belongs(differs, found, one, 2)[0, 0] for one in (i, 1 - i))
        here = (slice(y + 1, y + 9), slice(x + 1, x + 9))
        assert (mine[here] > 1.5 * other[here]).all() and mine[40:, :8].max() < 0.05 * mine[here].min()


def test_a_small_thing_is_followed_to_the_edge_and_back() -> None:
    """Frames are moved whole: what is there beyond their edges is not made up."""
    for seed in range(5):
        look = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(seed)) / 2 + 0.5
        way = [(0, 20), (4, 20), (8, 20), (4, 20), (0, 20)]
        frames = torch.cat([film(range(1), (place, (0, 0), look)) for place in way], dim=1)
        weight = torch.zeros(1, 1, SIZE, SIZE)
        weight[..., :4, 20:24] = 1.0
        places = motion._followed(frames, torch.tensor([[4, 0]]), weight, 4)
        assert [(int(y), 20 + int(x)) for y, x in (place[0] for place in places)] == way


def test_layers_are_moved_after_their_frame() -> None:
    """Each by each motion that the frame has against the noisy one."""
    ways = (3, -2), (-1, 2)
    things = ((8, 8), ways[0], patch(7, size=14)), ((26, 22), ways[1], patch(8, size=14))
    target, frame = (film(range(i, i + 1), *things)[:, 0] for i in (1, 0))
    layers = torch.stack([film(range(1), thing)[0, 0] for thing in (*things, *things[::-1])])[None]
    alpha, shown = torch.tensor([0.99]), torch.tensor([True])
    found = aligned(alpha * target, alpha, frame, shown, layers=layers, motions=2)
    assert found.shape[1] == num_aligned(2, 2, 5) == 10
    assert torch.equal(found[:, :2], aligned(alpha * target, alpha, frame, shown, motions=2))
    moved = [[film(range(1, 2), (place, way, look))[0, 0] for way in ways] for place, _, look in things]
    order = 0 if torch.equal(found[0, 2], moved[0][0]) else 1
    for i, which in enumerate((0, 1, 1, 0)):
        for j in range(2):
            assert torch.equal(found[0, 2 + 2 * i + j], moved[which][j ^ order])


@pytest.mark.parametrize("distance", [1, 2])
def test_through_noise_it_is_plain_where_things_went(distance: int) -> None:
    """Whatever they did before, at a noise in which nothing can be seen; grey for who is shown nothing."""
    things = ((8, 8), (3, -2), patch(7, size=14)), ((26, 22), (-1, 2), patch(8, size=14))
    target, frame = (film(range(i, i + 1), *things)[:, 0].expand(3, -1, -1, -1) for i in (distance, 0))
    eps = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([0.98, 0.4, 0.4])
    noisy = alpha[:, None, None, None] * target + (1 - alpha**2).sqrt()[:, None, None, None] * eps
    shown = torch.tensor([True, True, False])
    found = aligned(noisy, alpha, frame, shown, distance, motions=2)
    assert found.shape == (3, 2, 1, SIZE, SIZE) and (found[2] == 0).all()
    for thing in things:
        look = film(range(distance, distance + 1), thing)[0, 0, 0]
        same = (found[:2, :, 0] == look).flatten(2)[..., (look > -1).flatten()].all(2)
        assert same.any(1).all()
    with pytest.raises(ValueError, match="motions 0"):
        aligned(noisy, alpha, frame, shown, distance, motions=0)


def test_how_many_pictures_there_are() -> None:
    for frames, motions, count in ((1, 2, 0), (2, 2, 4), (3, 1, 3), (9, 2, 6), (5, 0, 0)):
        assert num_extrapolated(frames, motions) == count
        assert num_aligned(frames, motions) == motions
        if count:
            assert of(torch.zeros(1, frames, 1, 8, 8), motions=motions).shape[1] == count


@pytest.mark.parametrize(
    "wrong", [{"motions": 0}, {"reach": 0}, {"window": 0}, {"distances": (1, 0)}, {"followed": 1}, {"followed": -1}]
)
def test_what_means_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="two frames or more"):
        of(torch.zeros(1, 2, 1, 8, 8), **wrong)
    with pytest.raises(ValueError, match="not 1;"):
        of(torch.zeros(1, 1, 1, 8, 8))
