"""The stage: laws of motion that hold exactly, and pictures that show what the states say."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from maskworld.probes import stage
from maskworld.probes.base import (
    ACTIONS,
    Again,
    Asked,
    Episode,
    Family,
    Marks,
    Question,
    Setting,
    as_json,
    check_answer,
    check_surprise,
    fingerprint,
    generator,
    of_json,
    ranges_of,
    replaced,
)
from maskworld.probes.scenes import meet, scattered, shifted, steady
from maskworld.probes.stage import WALL, Cast, discs, film, simulate, visible

BOX = (0.0, 0.0, 64.0, 64.0)


# -- physics ----------------------------------------------------------------------------------------


def test_elastic_discs_keep_energy_and_between_walls_momentum() -> None:
    bodies = discs([[12, 32], [40, 33], [30, 10]], [[2, 0.1], [-1, 0], [0, 1.5]], [5, 4, 6], [1, 2, 0.5])
    motion = simulate(bodies, 60, bounds=BOX)
    energy = (motion.velocity**2).sum(2) @ bodies.mass
    np.testing.assert_allclose(energy, energy[0], rtol=1e-6)
    assert motion.between()
    free = simulate(bodies, 30)
    momentum = np.einsum("tnc,n->tc", free.velocity, bodies.mass)
    np.testing.assert_allclose(momentum, np.broadcast_to(momentum[0], momentum.shape), rtol=1e-9, atol=1e-9)


def test_a_central_collision_is_the_formula() -> None:
    """v1' = (m1 - m2) / (m1 + m2) v1, v2' = 2 m1 / (m1 + m2) v1."""
    bodies = discs([[10, 32], [40, 32]], [[2, 0], [0, 0]], [5, 5], [3, 1])
    motion = simulate(bodies, 40)
    assert meet(motion, 0, 1) == [9] or meet(motion, 0, 1) == [10]
    np.testing.assert_allclose(motion.velocity[-1], [[1, 0], [3, 0]], atol=1e-6)


def test_gravity_drag_friction_and_kicks() -> None:
    one = discs([[32, 10]], [[1.0, 0]], [4])
    fall = simulate(one, 9, gravity=(0.0, 0.25))
    np.testing.assert_allclose(fall.velocity[:, 0, 1], 0.25 * np.arange(9), atol=1e-9)
    steps = stage.SUBSTEPS  # the place after n small steps: g n (n - 1) / 2 of them
    n = steps * np.arange(9)
    np.testing.assert_allclose(fall.position[:, 0, 1], 10 + 0.25 / steps**2 * n * (n - 1) / 2, atol=1e-9)
    slower = simulate(one, 9, drag=0.1)
    np.testing.assert_allclose(slower.velocity[:, 0, 0], 0.9 ** np.arange(9), rtol=1e-9)
    stops = simulate(one, 12, friction=0.2)
    np.testing.assert_allclose(stops.velocity[:, 0, 0], np.maximum(1 - 0.2 * np.arange(12), 0), atol=1e-9)
    kicks = np.zeros((5, 1, 2))
    kicks[2, 0] = (-1, 2)
    kicked = simulate(one, 5, kicks=kicks)
    np.testing.assert_allclose(kicked.velocity[:, 0], [[1, 0], [1, 0], [1, 0], [0, 2], [0, 2]], atol=1e-12)


def test_led_bodies_follow_their_path_and_push_without_being_pushed() -> None:
    bodies = discs([[10, 32], [24, 32]], [[0, 0], [0, 0]], [5, 5])
    path = np.stack([10 + 2.0 * np.arange(12), np.full(12, 32.0)], 1)
    motion = simulate(bodies, 12, paths={0: path})
    np.testing.assert_allclose(motion.position[:, 0], path)
    assert motion.velocity[-1, 1, 0] > 1.5
    assert meet(motion, 0, 1)


def test_what_is_not_solid_passes_and_what_is_fixed_stays() -> None:
    bodies = discs([[10, 32], [30, 32], [50, 32]], [[2, 0], [0, 0], [0, 0]], [4, 4, 4])
    bodies = dataclasses.replace(bodies, solid=np.array([True, False, True]), fixed=np.array([False, True, True]))
    motion = simulate(bodies, 40, bounds=BOX)
    assert not meet(motion, 0, 1) and meet(motion, 0, 2)
    assert np.ptp(motion.position[:, 1:], axis=0).max() == 0
    assert any(c.b == WALL and c.a == 0 for c in motion.contacts)
    np.testing.assert_array_equal(shifted(bodies, np.ones((3, 2))).position - bodies.position, [[1, 1], [0, 0], [0, 0]])


def test_the_same_start_gives_the_same_bits() -> None:
    bodies = discs([[12, 32], [40, 33]], [[2, 0.1], [-1, 0]], [5, 4])
    one, other = (simulate(bodies, 50, bounds=BOX) for _ in range(2))
    assert one.position.tobytes() == other.position.tobytes() and one.contacts == other.contacts


def test_the_chaos_screen_passes_free_flight_and_refuses_a_grazing_hit() -> None:
    def run_of(bodies):
        def run(by):
            return simulate(shifted(bodies, by), 40).position

        return run

    rng = np.random.default_rng(0)
    flight = discs([[10, 32], [40, 10]], [[1, 0], [0, 1]], [5, 5])
    assert steady(run_of(flight), simulate(flight, 40).position, rng)
    grazing = discs([[10, 32], [30, 41.9]], [[2, 0], [0, 0]], [5, 5])
    assert not steady(run_of(grazing), simulate(grazing, 40).position, rng)


def test_scattered_discs_stand_apart() -> None:
    rng = np.random.default_rng(0)
    place = scattered(rng, [5, 6, 7], gap=2.0)
    for i in range(3):
        for j in range(i):
            assert np.linalg.norm(place[i] - place[j]) > [5, 6, 7][i] + [5, 6, 7][j] + 2
    with pytest.raises(Again):
        scattered(rng, [20, 20, 20])


# -- pictures -----------------------------------------------------------------------------------------


def a_track(camera=None, **changes) -> stage.Track:
    cast = Cast(6, (0.0, 0.0, 0.0), camera=camera)
    cast.add(np.stack([8 + 4.0 * np.arange(6), np.full(6, 20.0)], 1), 5, (1, 0, 0))
    cast.add((40, 40), (6, 3), (0, 1, 0), box=True)
    cast.add((32, 20), (6, 12), (0, 0, 1), box=True, object=False)
    return cast.track().changed(**changes)


@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_a_film_shows_each_thing_where_it_is(tier: stage.Tier) -> None:
    frames, unit = film(a_track(), tier).astype(float) / 255, stage.SIDE[tier] / 64
    assert frames.shape == (6, stage.SIDE[tier], stage.SIDE[tier], 3)
    red = frames[0, ..., 0] - frames[0, ..., 2]
    red = np.where(red > 0.3, red, 0)
    y, x = np.indices(red.shape)
    centre = np.array([(red * x).sum(), (red * y).sum()]) / red.sum() + 0.5
    np.testing.assert_allclose(centre / unit, (8, 20), atol=0.2)
    if tier == "flat":
        assert frames[..., 1].sum() == pytest.approx(6 * 4 * 6 * 3, rel=1e-3)
        assert frames[0, ..., 0].sum() == pytest.approx(np.pi * (25 + 1 / 12), rel=0.01)
    else:
        assert frames[0, :20, :20].std() > 0.01  # the ground is grained


def test_the_camera_moves_the_world_the_other_way() -> None:
    still = film(a_track())
    moved = film(a_track(camera=np.broadcast_to([8.0, 4.0], (6, 2))))
    np.testing.assert_array_equal(moved[:, :60, :56], still[:, 4:, 8:])
    textured = film(a_track(camera=np.broadcast_to([8.0, 4.0], (6, 2))), "textured")
    np.testing.assert_array_equal(textured[:, :120, :112], film(a_track(), "textured")[:, 8:, 16:])


def test_visible_is_the_share_that_pictures_show() -> None:
    track = a_track()
    share = visible(track)
    # What the occluder leaves of the red disc, counted from pictures with and without it.
    alone = film(track.changed(shown=track.shown & np.array([True, False, False])))[..., 0].sum((1, 2)) / 255
    seen = film(track)[..., 0].sum((1, 2)) / 255
    np.testing.assert_allclose(share[:, 0], seen / alone, atol=0.02)
    assert share[0, 0] > 0.99 and share[5, 0] < 0.3
    np.testing.assert_allclose(share[:, 1], 1, atol=1e-6)
    away = visible(a_track(camera=np.broadcast_to([200.0, 0.0], (6, 2))))
    assert (away == 0).all()
    half = visible(a_track(camera=np.broadcast_to([40.0, 0.0], (6, 2))))
    np.testing.assert_allclose(half[:, 1], 0.5, atol=1e-6)


def test_what_is_not_shown_is_not_there() -> None:
    shown = np.ones((6, 3), dtype=bool)
    shown[3:, 0] = False
    track = a_track(shown=shown)
    assert film(track)[3:, ..., 0].max() == 0 and (visible(track)[3:, 0] == 0).all()
    assert film(track)[2, ..., 0].max() > 0


def test_tracks_are_cut_and_joined() -> None:
    track = a_track()
    again = track.part(0, 2).then(track.part(2, 6))
    np.testing.assert_array_equal(film(again), film(track))
    np.testing.assert_array_equal(film(track.at([5, 0, 0])), film(track)[[5, 0, 0]])
    assert track.objects.tolist() == [0, 1]


# -- contracts ----------------------------------------------------------------------------------------


def toy(rng: np.random.Generator, index: int, ranges) -> Episode:
    if rng.random() < 0.3:
        raise Again
    cast = Cast(6, (0, 0, 0))
    cast.add(rng.uniform(10, 54, 2), 5, ranges.palette[index % len(ranges.palette)])
    return Episode((Question(cast.track(), 2),), {"kind": "toy"})


TOY = Family("T", 99, "toy", "where?", "persistence", toy)


def test_an_episode_is_a_function_of_version_family_split_and_index() -> None:
    seen = {
        fingerprint(family.episode(index, setting))
        for family in (TOY, replaced(TOY, number=98))
        for index in (0, 7)
        for setting in (
            Setting(),
            Setting("train"),
            Setting("salted", salt="a"),
            Setting("salted", salt="b"),
            Setting(shift="palette"),
        )
    }
    assert len(seen) == 20
    assert fingerprint(TOY.episode(3)) == fingerprint(pickle.loads(pickle.dumps(TOY)).episode(3))
    a, b = (generator(1, 2, Setting("salted", salt=s)).random() for s in ("x", "x"))
    assert a == b


@pytest.mark.parametrize(
    "words", [{"split": "test"}, {"tier": "vivid"}, {"shift": "weight"}, {"salt": "s"}, {"split": "salted"}]
)
def test_settings_that_mean_nothing_are_refused(words: dict) -> None:
    setting = Setting()
    for name, value in words.items():
        object.__setattr__(setting, name, value)  # past the type check, as an untyped caller comes
    with pytest.raises(ValueError):
        setting.__post_init__()


def test_shifts_leave_the_ranges_of_training() -> None:
    usual = ranges_of("none")
    assert ranges_of("speed").speed[0] > usual.speed[1] and ranges_of("size").radius[0] > usual.radius[1]
    assert ranges_of("mass").ratio[0] > usual.ratio[1] and ranges_of("count").count[0] > usual.count[1]
    colours = np.array([*usual.palette, *ranges_of("palette").palette])
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(len(colours))
    assert distance.min() > 0.3


def test_marks_survive_json() -> None:
    marks = Marks((1.5, 2.0), {"located": (3.0, 4.0)}, {"recall": ((1.0, 0.5), (8.0, 0.0))})
    assert of_json(as_json(marks)) == marks


def test_answers_are_checked() -> None:
    asked = Asked(TOY.episode(0).questions[0], TOY, 0, 0, Setting())
    right = np.zeros((1, 4, 64, 64, 3), np.uint8)
    assert check_answer(asked, right) is right
    for wrong, words in [
        (right[:, :3], "1 frames too few"),
        (right[0], "shape"),
        (right.astype(np.float32), "uint8"),
        (right.astype(np.float32) * np.nan, "NaN"),
        ([1, 2], "NumPy"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_answer(asked, wrong)
    assert check_surprise(asked, [1, 2, 3, 4]).shape == (4,)
    for wrong in ([1, 2], [1, 2, 3, np.inf]):
        with pytest.raises(ValueError):
            check_surprise(asked, wrong)
    assert len(ACTIONS) == 9
