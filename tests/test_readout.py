"""The read-out: exact on clean pictures, unmoved by what decoders do to them, and not to be flattered."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskworld.data.discs import AGENT, LIGHT, PALETTE
from maskworld.probes import scenes, stage
from maskworld.probes.base import HELD_OUT, SHIFTS, ranges_of
from maskworld.probes.readout import FAR, colour_at, errors, read

RED, GREEN, BLUE, YELLOW = PALETTE[:4]


def bouncing(seed, num_frames=12, shift="none"):
    """Four discs in a box."""
    rng, ranges = np.random.default_rng(seed), ranges_of(shift)
    radius = rng.uniform(*ranges.radius, 4)
    angle = rng.uniform(0, 2 * np.pi, 4)
    velocity = 1.6 * np.stack([np.cos(angle), np.sin(angle)], 1)
    bodies = stage.discs(scenes.scattered(rng, radius), velocity, radius)
    motion = stage.simulate(bodies, num_frames, bounds=scenes.BOUNDS)
    cast = stage.Cast(num_frames, scenes.GROUND, grain=seed)
    for i, colour in enumerate(scenes.colours(rng, 4, ranges)):
        cast.add(motion.position[:, i], radius[i], colour)
    return cast.track()


def still(*things, num_frames=1, **cast):
    """Discs of radius 5 that stand: (place, colour), or (place, colour, options)."""
    made = stage.Cast(num_frames, scenes.GROUND, **cast)
    for place, colour, *options in things:
        made.add(place, 5.0, colour, **(options[0] if options else {}))
    return made.track()


def degraded(frames, kind, amount, rng):
    unit = frames.shape[1] // 64
    x = frames / 255.0
    if kind == "noise":
        x = x + rng.normal(0, amount, x.shape)
    elif kind == "blur":
        x = ndimage.gaussian_filter(x, (0, amount * unit, amount * unit, 0))
    elif kind == "down-up":
        k = amount * unit
        t, h, w, _ = x.shape
        small = x.reshape(t, h // k, k, w // k, k, 3).mean((2, 4))
        x = np.empty_like(x)
        ndimage.zoom(small, (1, k, k, 1), output=x, order=1, grid_mode=True, mode="nearest")
    elif kind == "tint":
        x = x + amount * rng.choice([-1, 1], 3)
    elif kind == "grey":
        x = np.repeat(x.mean(-1, keepdims=True), 3, -1)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("tier", ["flat", "textured"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_clean_pictures_are_read_exactly(tier, shift):
    for seed in range(3):
        track = bouncing(seed, shift=shift)
        reading = read(stage.film(track, tier), track)
        error = errors(reading, track)
        assert error.located[error.scored].all() and error.scored.mean() > 0.95
        assert np.sqrt((error.distance[error.scored] ** 2).mean()) < 0.15
        full = np.pi * track.half[:, 0] ** 2
        assert np.abs(reading.area / full - 1)[error.scored].max() < 0.15
        assert not reading.spurious.any()


@pytest.mark.parametrize(
    ("kind", "amount", "most", "least"),
    [
        ("none", 0, 0.12, 1.0),
        ("noise", 0.05, 0.12, 1.0),
        ("noise", 0.10, 0.27, 1.0),
        ("blur", 1, 0.20, 1.0),
        ("blur", 2, 0.61, 0.97),
        ("down-up", 2, 0.26, 1.0),
        ("down-up", 4, 0.90, 0.985),
        ("tint", 0.1, 0.25, 1.0),
        ("grey", 0, FAR, 0.0),
    ],
)
@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_what_decoders_do_to_pictures_hardly_moves_it(tier, kind, amount, most, least):
    distance, located, spurious = [], [], []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        track = bouncing(seed)
        reading = read(degraded(stage.film(track, tier), kind, amount, rng), track)
        error = errors(reading, track)
        distance.append(error.distance[error.scored])
        located.append(error.located[error.scored])
        spurious.append(reading.spurious)
    assert np.concatenate(distance).mean() <= most
    assert np.concatenate(located).mean() >= least
    if kind == "grey":
        assert not np.concatenate(located).any()
    else:
        assert np.concatenate(spurious).mean() < 0.02


def test_what_is_missing_is_far_away():
    track = still(((20, 20), RED), ((44, 44), GREEN))
    reading = read(stage.film(still(((20, 20), RED))), track)
    error = errors(reading, track)
    assert reading.found.tolist() == [[True, False]] and np.isnan(reading.centre[0, 1]).all()
    assert error.distance[0, 1] == FAR and error.distance[0, 0] < 0.1
    assert error.located.tolist() == [[True, False]] and error.scored.all()


def test_no_error_is_more_than_far_and_near_is_not_located_beyond_the_tolerance():
    track = still(((10, 10), RED), ((40, 30), GREEN))
    moved = still(((50, 50), RED), ((40, 35), GREEN))
    error = errors(read(stage.film(moved), track), track)
    assert error.distance[0, 0] == FAR and error.distance[0, 1] == pytest.approx(5, abs=0.1)
    assert not error.located.any()


def test_painting_an_object_everywhere_does_not_find_it():
    track = still(((20, 20), RED))
    for places in ([(20, 20), (40, 20), (40, 40)], [(x, y) for x in range(8, 64, 12) for y in range(8, 64, 12)]):
        assert not read(stage.film(still(*((place, RED) for place in places))), track).found.any()


def test_half_a_colour_is_not_an_object():
    """The mean of futures that disagree: a disc at half its brightness in two places."""
    track = still(((20, 20), RED))
    one, other = (stage.film(still((place, RED))).astype(float) for place in [(20, 20), (40, 40)])
    assert not read(((one + other) / 2).astype(np.uint8), track).found.any()


def test_objects_of_one_colour_are_told_apart():
    places = [(12, 12), (30, 14), (50, 50)]
    track = still(*((place, RED) for place in places), ((20, 44), BLUE))
    reading = read(stage.film(track), track)
    np.testing.assert_allclose(reading.centre[0], [*places, (20, 44)], atol=0.1)
    # One of three gone: the other two stay, and it is the right one that is missing.
    reading = read(stage.film(still((places[0], RED), (places[2], RED), ((20, 44), BLUE))), track)
    assert reading.found.tolist() == [[True, False, True, True]]
    # A whole pattern of them fits every truth; there is too much of it.
    everywhere = still(*(((x, y), RED) for x in range(6, 64, 12) for y in range(6, 64, 12)))
    assert not read(stage.film(everywhere), track).found.any()


def test_a_colour_that_changes_is_looked_for_as_it_is():
    colours = np.array([RED, RED, GREEN, GREEN])
    track = still(((20, 20), colours), ((44, 44), BLUE), num_frames=4)
    frames = stage.film(track)
    assert read(frames, track).found.all()
    stuck = read(frames[[0, 0, 0, 0]], track)
    assert stuck.found.tolist() == [[True, True], [True, True], [False, True], [False, True]]
    assert not stuck.spurious.any()  # the scene has that colour, at another time


def test_colours_that_do_not_belong_are_counted():
    track = still(((20, 20), RED))
    extra = still(((20, 20), RED), ((44, 44), GREEN), ((44, 20), HELD_OUT[4]), ((20, 44), AGENT))
    assert read(stage.film(extra), track).spurious.tolist() == [3]
    tiny = stage.Cast(1, scenes.GROUND)
    tiny.add((20, 20), 5.0, RED)
    tiny.add((44, 44), 1.4, GREEN)
    assert read(stage.film(tiny.track()), track).spurious.tolist() == [0]


@pytest.mark.parametrize("tier", ["flat", "textured"])
def test_the_rim_of_a_grey_thing_is_not_part_of_a_white_one(tier):
    cast = stage.Cast(1, scenes.GROUND)
    cast.add((16, 16), 5.0, AGENT)
    cast.add((44, 40), 6.0, LIGHT, object=False)
    track = cast.track()
    assert errors(read(stage.film(track, tier), track), track).distance.max() < 0.15


def test_scenery_is_not_looked_for_and_what_is_hidden_is_not_scored():
    cast = stage.Cast(1, scenes.GROUND)
    cast.add((20, 20), 5.0, RED)
    cast.add((44, 44), 5.0, GREEN)
    cast.add((20, 20), (8, 8), scenes.SCREEN, box=True, object=False)
    track = cast.track()
    reading = read(stage.film(track), track)
    error = errors(reading, track)
    assert reading.found.tolist() == [[False, True]]
    assert error.scored.tolist() == [[False, True]]
    assert not reading.spurious.any()


def test_places_are_those_of_the_view():
    camera = np.array([[0.0, 0.0], [16.0, -8.0]])
    track = still(((24, 24), RED), ((4, 4), GREEN), num_frames=2, camera=camera)
    reading = read(stage.film(track, "textured"), track)
    error = errors(reading, track)
    np.testing.assert_allclose(reading.centre[1, 0], (8, 32), atol=0.1)
    assert not reading.found[1, 1] and not error.scored[1, 1]
    assert error.distance[error.scored].max() < 0.6


def test_equal_pictures_are_read_once_and_answered_each():
    track = bouncing(3)
    frames = stage.film(track)
    order = [0, 0, 0, 5, 5, 2, 2, 2, 2, 0, 7, 7]
    repeated, alone = read(frames[order], track), read(frames, track)
    np.testing.assert_array_equal(repeated.centre, alone.centre[order])
    np.testing.assert_array_equal(repeated.area, alone.area[order])
    # With shared colours the truth decides who is who, and it differs from frame to frame.
    cross = stage.Cast(2, scenes.GROUND)
    cross.add([(12, 12), (24, 12)], 5.0, RED)
    cross.add([(24, 12), (12, 12)], 5.0, RED)
    track = cross.track()
    reading = read(stage.film(track)[[0, 0]], track)
    np.testing.assert_allclose(reading.centre, track.position, atol=0.1)


def test_a_scene_without_objects_is_read_too():
    cast = stage.Cast(2, scenes.GROUND)
    cast.add((20, 20), (8, 8), scenes.SCREEN, box=True, object=False)
    track = cast.track()
    reading = read(stage.film(track), track)
    assert reading.found.shape == (2, 0) and reading.spurious.tolist() == [0, 0]
    assert read(stage.film(still(((44, 44), RED), num_frames=2)), track).spurious.tolist() == [1, 1]


def test_frames_that_do_not_fit_are_refused():
    track = still(((20, 20), RED), num_frames=3)
    with pytest.raises(ValueError, match="2 frames"):
        read(stage.film(track)[:2], track)


def test_the_colour_at_a_place():
    frame = stage.film(still(((20, 20), YELLOW), ((44, 44), BLUE)))[0]
    colours = np.array([RED, YELLOW, BLUE])
    assert colour_at(frame, (20, 20), 5, colours) == 1
    assert colour_at(frame, (44, 44), 5, colours) == 2
    assert colour_at(frame, (32, 10), 5, colours) is None
    assert colour_at(frame, (20, 28), 5, colours) is None  # a fifth of the disc is not covered
    assert colour_at(frame, (20, 24), 5, colours) == 1
    assert colour_at(frame, (200, 200), 5, colours) is None
    large = stage.film(still(((20, 20), YELLOW)), "textured")[0]
    assert colour_at(large, (20, 20), 5, colours) == 1
