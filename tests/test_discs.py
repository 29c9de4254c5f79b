"""Discs: the laws of motion, of drawing and of actions."""

import dataclasses
import hashlib
import itertools
import math
import pickle
import platform

import numpy as np
import pymunk
import pytest
import torch

from maskworld.data.discs import (
    AGENT,
    BAR,
    DARK,
    LIGHT,
    LIMIT,
    OCCLUDER,
    PALETTE,
    PUSH,
    Discs,
    DiscStates,
    Scene,
    render,
    simulate,
    visible,
)

RICH = Discs(num_discs=(3, 6), p_light=0.5, p_bar=0.7, p_occluder=0.7, actions=True)


def scene(*discs, size=64, **fields) -> Scene:
    """Discs given as (x, y, vx, vy, radius), in the palette's colours."""
    table = np.array(discs, dtype=np.float64).reshape(-1, 5)
    return Scene(
        size=size,
        position=table[:, :2],
        velocity=table[:, 2:4],
        radius=table[:, 4],
        colour=np.array(PALETTE[: len(discs)]).reshape(-1, 3),
        background=np.array(DARK),
        **fields,
    )


def energy(states: DiscStates) -> np.ndarray:
    return (states.scene.mass * (states.velocity**2).sum(-1)).sum(-1)


def gaps(states: DiscStates) -> float:
    """The least distance between the borders of two discs, or of a disc and the frame."""
    p, r = states.position, states.scene.radius
    between = np.linalg.norm(p[:, :, None] - p[:, None], axis=-1) - r[:, None] - r
    between[:, np.eye(len(r), dtype=bool)] = np.inf
    wall = np.minimum(p - r[:, None], states.scene.size - p - r[:, None])
    return min(between.min(), wall.min())


# -- the source -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [Discs(num_frames=6), dataclasses.replace(RICH, num_frames=6)])
def test_a_clip_is_a_function_of_its_number(source):
    first = [source(i) for i in range(3)]
    again = [pickle.loads(pickle.dumps(source))(i) for i in (2, 1, 0)][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert (a.actions is None) == (not source.actions)
        assert a.actions is None or torch.equal(a.actions, b.actions)
    clip = first[0]
    assert clip.shape == (1, 1, 6, 3, 64, 64) and clip.frames.dtype == torch.float32
    assert clip.frames.abs().max() <= 1 and clip.times.tolist() == [list(range(6))]
    assert np.array_equal(render(source.states(1)), first[1].frames[0, 0].numpy())
    others = [
        first[1],
        source(10**12),
        dataclasses.replace(source, seed=1)(0),
        dataclasses.replace(source, split="valid")(0),
        dataclasses.replace(source, split="test")(0),
    ]
    assert not any(torch.equal(clip.frames, other.frames) for other in others)


def test_clips_are_as_asked():
    scenes = [RICH.scene(i) for i in range(200)]
    assert {len(s.radius) for s in scenes} == {3, 4, 5, 6}
    for given in (
        [s.bar is not None for s in scenes],
        [s.occluder is not None for s in scenes],
        [tuple(s.background) == DARK for s in scenes],
    ):
        assert 0.3 < np.mean(given) < 0.85
    for s in scenes:
        assert len({tuple(c) for c in s.colour}) == len(s.colour)
        assert tuple(s.colour[0]) == AGENT and AGENT not in {tuple(c) for c in s.colour[1:]}
        speed = np.linalg.norm(s.velocity, axis=1)
        assert speed.min() >= 1 and speed.max() <= 3 and s.radius.min() >= 4 and s.radius.max() <= 6.5
    plain = [Discs().scene(i) for i in range(30)]
    assert all(s.bar is None and s.occluder is None and tuple(s.background) == DARK for s in plain)
    assert AGENT not in {tuple(c) for s in plain for c in s.colour}


def test_the_world_grows_with_the_frame():
    small, large = (dataclasses.replace(RICH, size=size).states(4) for size in (64, 128))
    assert np.allclose(small.position * 2, large.position, atol=0.2)
    assert np.allclose(small.scene.radius * 2, large.scene.radius, rtol=1e-12)


def test_colours_can_be_told_apart():
    colours = [AGENT, *PALETTE, DARK, LIGHT, BAR, OCCLUDER]
    assert min(math.dist(a, b) for a, b in itertools.combinations(colours, 2)) > 0.3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_frames": 0}, "frame"),
        ({"size": 8}, "pixels"),
        ({"seed": -1}, "seed"),
        ({"num_discs": (0, 2)}, "num_discs"),
        ({"num_discs": (3, 2)}, "num_discs"),
        ({"num_discs": (2, 8)}, "num_discs"),
        ({"p_occluder": 1.5}, "p_occluder is a probability"),
        ({"p_bar": -0.1}, "p_bar is a probability"),
        ({"p_light": 2.0}, "p_light is a probability"),
    ],
)
def test_bad_fields_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Discs(**fields)


def test_an_unknown_split_is_refused():
    source = Discs()
    object.__setattr__(source, "split", "trial")  # past the type check, as an untyped caller comes
    with pytest.raises(ValueError, match="split is one of train, valid, test, not 'trial'"):
        source.__post_init__()


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="numbered from 0"):
        Discs()(-1)
    with pytest.raises(ValueError, match="3 actions for 4 frames"):
        simulate(scene((30, 30, 0, 0, 5)), 4, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no discs"):
        simulate(scene(), 4, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least one frame"):
        simulate(scene(), 0)


# -- physics ----------------------------------------------------------------------------------------


def test_free_flight_is_straight():
    states = simulate(scene((10, 20, 2.5, 1.25, 5)), 16)
    t = np.arange(16)[:, None]
    assert np.allclose(states.position[:, 0], [10, 20] + t * [2.5, 1.25], atol=1e-9)
    assert np.allclose(states.velocity[:, 0], [2.5, 1.25], atol=1e-12)


@pytest.mark.parametrize(("axis", "sign"), [(0, 1), (0, -1), (1, 1), (1, -1)])
def test_a_wall_mirrors(axis, sign):
    start = np.array([32.0, 32.0, 1.0, 1.0, 5.0])
    start[2 + axis] = 3 * sign
    states = simulate(scene(start), 16)
    mirrored = np.array([1.0, 1.0])
    mirrored[axis] = -3 * sign
    assert np.allclose(states.velocity[-1, 0], mirrored, atol=1e-9)
    # the border turns at the edge of the frame: 32 - 5 = 27 px there, 18 px back
    assert abs(states.position[-1, 0, axis] - (32 + sign * (27 - (45 - 27)))) < 0.4


def test_two_discs_collide_as_the_textbook_says():
    m1, m2, u1, u2 = 16.0, 36.0, 2.0, -1.0  # masses as 4^2 and 6^2, head on
    states = simulate(scene((15, 32, u1, 0, 4), (45, 32, u2, 0, 6)), 14)
    v1 = ((m1 - m2) * u1 + 2 * m2 * u2) / (m1 + m2)
    v2 = ((m2 - m1) * u2 + 2 * m1 * u1) / (m1 + m2)
    assert np.allclose(states.velocity[-1], [[v1, 0], [v2, 0]], atol=1e-9)


def test_momentum_is_kept_away_from_walls():
    states = simulate(scene((20, 28, 2, 0.3, 5), (40, 32, -1, 0, 6), (38, 14, -0.5, 1, 4)), 12)
    momentum = (states.scene.mass[:, None] * states.velocity).sum(1)
    assert gaps(states) > -0.5 and np.abs(np.diff(states.velocity[:, 0], axis=0)).max() > 0.5  # they met
    assert np.allclose(momentum, momentum[0], atol=1e-6)


def test_energy_is_kept_and_nothing_overlaps():
    source = Discs(num_discs=(4, 7), num_frames=80, p_bar=0.5)
    for index in range(25):
        states = source.states(index)
        assert gaps(simulate(states.scene, 1)) > 0.99
        assert np.allclose(energy(states), energy(states)[0], rtol=1e-5)
        assert gaps(states) > -0.5
        if states.scene.bar is not None:
            a, b = states.scene.bar
            part = np.clip((states.position - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            off = np.linalg.norm(states.position - a - part[..., None] * (b - a), axis=-1)
            assert (off - states.scene.radius).min() > states.scene.bar_radius - 0.5


def test_a_bar_stops_a_disc():
    bar = np.array([[32.0, 20.0], [32.0, 44.0]])
    states = simulate(scene((15, 32, 2, 0, 5), bar=bar), 16)
    assert np.allclose(states.velocity[-1, 0], [-2, 0], atol=1e-9)
    assert states.position[:, 0, 0].max() < 32 - 1.5 - 5 + 0.3


def test_a_disc_that_touches_nothing_can_be_taken_away():
    discs = [(12, 12, 2, 0, 5), (40, 14, -1, 0, 6), (30, 55, 0.5, 0, 4)]
    whole, less = (simulate(scene(*d), 15) for d in (discs, discs[:2]))
    assert np.array_equal(whole.position[:, :2], less.position)
    alone = simulate(scene(discs[0]), 15)
    assert np.abs(whole.position[-1, 0] - alone.position[-1, 0]).max() > 3  # the other one did something


def test_golden():
    plain = Discs(num_frames=20).states(7)
    rich = Discs(p_bar=1.0, p_occluder=1.0, p_light=1.0, actions=True, num_discs=(5, 5)).states(7)
    assert np.allclose(plain.position[0, 0], [53.6544, 36.2762], atol=1e-3)
    assert np.allclose(plain.position[-1, 0], [56.6317, 17.6851], atol=1e-3)
    assert np.allclose(rich.position[-1, 0], [43.4068, 15.3026], atol=1e-3)
    if (pymunk.version, platform.machine()) == ("7.3.1", "x86_64"):
        assert [digest(plain), digest(rich)] == ["2224a4d50367c770", "926a8c95950e058d"]


def digest(states: DiscStates) -> str:
    rounded = np.round(np.concatenate([states.position, states.velocity], -1), 6) + 0.0  # no -0
    return hashlib.sha256(rounded.astype("<f8").tobytes()).hexdigest()[:16]


# -- actions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 4, 8])
def test_an_action_is_felt_in_the_next_frame_and_not_before(t):
    source = dataclasses.replace(RICH, num_frames=10)
    for index in range(8):
        states = source.states(index)
        changed = states.actions.copy()
        changed[t:] = np.random.default_rng(index).uniform(-1, 1, changed[t:].shape)
        other = simulate(states.scene, 10, changed)
        assert np.array_equal(states.position[: t + 1], other.position[: t + 1])
        assert np.array_equal(states.velocity[: t + 1], other.velocity[: t + 1])
        assert np.abs(states.position[t + 1, 0] - other.position[t + 1, 0]).max() > 1e-3


def test_a_push_adds_to_the_velocity_of_disc_0_alone():
    start = scene((20, 32, 1, 0, 5), (50, 50, 0, -1, 5))
    actions = np.zeros((6, 2))
    actions[2] = [0.5, -0.25]
    states = simulate(start, 6, actions)
    want = np.array([1, 0]) + PUSH * np.array([0.5, -0.25])
    assert np.allclose(states.velocity[:3, 0], [1, 0]) and np.allclose(states.velocity[3:, 0], want)
    assert np.allclose(states.position[3, 0] - states.position[2, 0], want)
    assert np.allclose(states.velocity[:, 1], [0, -1])
    still = simulate(start, 6)
    assert np.array_equal(simulate(start, 6, np.zeros((6, 2))).position, still.position)


def test_pushes_do_not_exceed_the_limit():
    actions = np.ones((4, 2))
    states = simulate(scene((12, 12, 3, 0, 5)), 4, actions)
    assert np.allclose(np.linalg.norm(states.velocity[1:, 0], axis=1), LIMIT)
    fast = simulate(scene((12, 12, 5, 0, 5)), 3, actions[:3])  # faster than that already: kept, not braked
    assert np.allclose(np.linalg.norm(fast.velocity[1:, 0], axis=1), 5)


def test_clips_carry_their_actions():
    clip, states = RICH(3), RICH.states(3)
    assert clip.actions.shape == (1, 20, 2) and np.allclose(clip.actions[0].numpy(), states.actions)
    drawn = np.concatenate([RICH.states(i).actions for i in range(60)])
    assert 0.2 < (drawn != 0).any(1).mean() < 0.4 and np.abs(drawn).max() <= 1


# -- drawing ----------------------------------------------------------------------------------------


def share_of(frame: np.ndarray, colour, background=DARK) -> np.ndarray:
    """How much of each pixel a disc covers, read back from its colour."""
    away = np.array(colour) - background
    return ((frame.transpose(1, 2, 0) + 1) / 2 - background) @ away / (away @ away)


@pytest.mark.parametrize("radius", [3.0, 4.7, 6.5, 11.2])
def test_a_disc_has_its_area_place_and_colour(radius):
    rng = np.random.default_rng(int(radius * 10))
    for _ in range(10):
        x, y = rng.uniform(radius + 1, 63 - radius, 2)
        frame = render(simulate(scene((x, y, 0, 0, radius)), 1))[0]
        share = share_of(frame.astype(np.float64), PALETTE[0])
        assert abs(share.sum() / (math.pi * radius**2) - 1) < 0.02
        centre = np.arange(64) + 0.5
        assert abs((share.sum(0) @ centre) / share.sum() - x) < 0.02
        assert abs((share.sum(1) @ centre) / share.sum() - y) < 0.02
        assert np.allclose((frame[:, int(y), int(x)] + 1) / 2, PALETTE[0], atol=1e-6)
        assert share.min() > -1e-6 and share.max() < 1 + 1e-6


def test_a_shift_by_a_pixel_shifts_the_picture():
    here, there = (render(simulate(scene((20.3 + d, 30.6, 0, 0, 5)), 1)) for d in (0, 1))
    assert np.allclose(here[..., :-1], there[..., 1:], atol=1e-6)


def test_a_disc_beyond_the_edge_is_cut():
    for x, part in ((64.0, 0.5), (0.0, 0.5), (80.0, 0.0), (-80.0, 0.0)):
        states = simulate(scene((32, 32, 0, 0, 6)), 1)
        moved = dataclasses.replace(states, position=np.array([[[x, 32.0]]]))
        share = share_of(render(moved)[0], PALETTE[0])
        assert abs(share.sum() / (math.pi * 36) - part) < 0.03


def test_a_disc_larger_than_the_frame_fills_it():
    states = dataclasses.replace(simulate(scene((8, 8, 0, 0, 5), size=16), 1))
    huge = dataclasses.replace(states, scene=dataclasses.replace(states.scene, radius=np.array([40.0])))
    assert np.allclose((render(huge)[0] + 1) / 2, np.array(PALETTE[0])[:, None, None], atol=1e-6)


def test_drawing_is_in_order_and_the_occluder_is_on_top():
    at = (32, 32, 0, 0)
    box = np.array([20.0, 0.0, 30.5, 64.0])
    start = scene((*at, 9), (*at, 4), bar=np.array([[10.0, 32.0], [54.0, 32.0]]), occluder=box)
    still = np.stack([start.position])
    picture = (render(DiscStates(start, still, still * 0))[0] + 1) / 2
    half = (np.array(OCCLUDER) + DARK) / 2
    for x, y, colour in (
        (32, 32, PALETTE[1]),
        (38, 32, PALETTE[0]),
        (50, 32, BAR),
        (12, 31, BAR),
        (50, 40, DARK),
        (25, 32, OCCLUDER),
        (20, 63, OCCLUDER),
        (19, 5, DARK),
        (30, 5, half),
    ):
        assert np.allclose(picture[:, y, x], colour, atol=1e-6), (x, y)


def test_an_occluder_outside_the_frame_hides_nothing():
    start = scene((10, 20, 0, 0, 5))
    away = dataclasses.replace(start, occluder=np.array([70.0, 0.0, 90.0, 64.0]))
    assert np.array_equal(render(simulate(start, 2)), render(simulate(away, 2)))


def test_visible_is_the_share_that_the_occluder_leaves():
    start = scene((10, 20, 0, 0, 5), (40, 20, 0, 0, 5), (30, 50, 0, 0, 5))
    box = np.array([30.0, 0.0, 50.0, 64.0])
    states = simulate(start, 2)
    assert (visible(states) == 1).all()
    hidden = visible(simulate(dataclasses.replace(start, occluder=box), 2))
    assert np.allclose(hidden, [[1, 0, 0.5]] * 2, atol=1e-6)


def test_an_empty_scene_is_its_background():
    frames = render(simulate(scene(), 3))
    assert frames.shape == (3, 3, 64, 64)
    assert np.allclose((frames + 1) / 2, np.array(DARK)[None, :, None, None], atol=1e-6)
