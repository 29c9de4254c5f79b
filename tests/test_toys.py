"""The toy worlds: their pictures can be read back exactly, and their truth is what their episodes do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from maskworld.data.episodes import Transitions, clip_of
from maskworld.data.toys import LEVELS, STRIKE, Chain, Clock, digits_of

# -- the chain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [2, 8, 13, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_chain_is_ergodic(states, seed):
    p = Chain(states, seed).transitions
    assert np.allclose(p.sum(1), 1) and (p >= 0).all()
    assert (np.linalg.matrix_power(p, states**2) > 0).all()  # every state reaches every one, at the same time
    assert ((p > 0).sum(1) <= 4).all()


def test_chains_follow_from_their_seed():
    assert np.array_equal(Chain(8, 3).transitions, Chain(8, 3).transitions)
    assert not np.array_equal(Chain(8, 3).transitions, Chain(8, 4).transitions)
    assert not np.array_equal(Chain(8, 3).rewards, Chain(8, 4).rewards)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.8, 0.95])
def test_the_occupancy_is_the_sum_over_delays(gamma):
    chain = Chain(12, 1)
    p, power, total, value = chain.transitions, np.eye(12), np.zeros((12, 12)), np.zeros(12)
    for k in range(600):
        power = power @ p
        total += (1 - gamma) * gamma**k * power
        value += gamma**k * power @ chain.rewards
    m, v = chain.occupancy(gamma), chain.values(gamma)
    assert np.allclose(m, total, atol=1e-12) and np.allclose(m.sum(1), 1)
    assert np.allclose(v, value, atol=1e-10)
    assert np.allclose(m, (1 - gamma) * p + gamma * p @ m)  # Bellman
    assert np.allclose(v, p @ (chain.rewards + gamma * v))
    if gamma == 0:
        assert np.allclose(m, p)


def test_a_walk_goes_as_the_transitions_say():
    chain = Chain(8, 0)
    path = chain.walk(0, 20_000, np.random.default_rng(0))
    count = np.zeros((8, 8))
    np.add.at(count, (path[:-1], path[1:]), 1)
    assert ((count > 0) <= (chain.transitions > 0)).all()
    share = count / count.sum(1, keepdims=True)
    assert np.abs(share - chain.transitions).max() < 4 * (0.25 / count.sum(1).min()) ** 0.5


@pytest.mark.parametrize("states", [8, 16])
def test_a_state_is_read_back_from_its_picture(states):
    chain = Chain(states)
    (episode,) = chain.episodes(1, 300, 7)
    assert episode.frames.shape == (300, 16, 16, 1) and episode.actions.shape == (300, 0) and not episode.terminal
    clip = clip_of(episode, np.arange(300))
    path = chain.state_of(clip.frames)
    assert path.shape == (1, 1, 300) and set(path.flatten().tolist()) == set(range(states))
    assert np.array_equal(chain.frames(path.flatten().numpy()), episode.frames)
    rewards = chain.rewards[path.flatten().numpy()]
    assert episode.rewards[0] == 0 and np.allclose(episode.rewards[1:], rewards[1:])
    assert (chain.transitions[path.flatten()[:-1], path.flatten()[1:]] > 0).all()
    noisy = clip.frames + 0.3 * (torch.rand(clip.frames.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    assert torch.equal(chain.state_of(noisy), path)


def test_a_wrong_digit_is_no_state():
    chain = Chain(16)
    frames = torch.from_numpy(chain.frames(np.arange(16))).permute(0, 3, 1, 2).float() / 127.5 - 1
    digits = digits_of(frames)
    assert len({tuple(d.flatten().tolist()) for d in digits}) == 16
    assert sorted(set(frames.flatten().tolist())) == pytest.approx([-1, -1 / 3, 1 / 3, 1])  # evenly spaced levels
    for row in (0, 8):
        for column in (0, 8):  # any one digit that is off shows
            wrong = frames.clone()
            patch = wrong[:, :, row : row + 8, column : column + 8]
            patch[:] = torch.where(patch > 0.9, -1.0, patch + 2 / 3)
            assert (chain.state_of(wrong) == -1).all()


def test_chains_that_cannot_be():
    for states in (1, 17):
        with pytest.raises(ValueError, match="2 to 16 states"):
            Chain(states)
    with pytest.raises(ValueError, match="seed"):
        Chain(8, -1)
    for world in (Chain(), Clock()):
        for gamma in (-0.1, 1.0, 1.5):
            with pytest.raises(ValueError, match="gamma"):
                world.values(gamma)
        for num, length in ((0, 5), (1, 1)):
            with pytest.raises(ValueError, match="at least one episode"):
                world.episodes(num, length, 0)


# -- the clock ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [16, 64, 512, 1024])
def test_a_time_is_read_back_from_its_picture(period):
    clock = Clock(period)
    frames = torch.from_numpy(clock.frames(np.arange(period + 3))).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert frames.shape == (period + 3, 1, 32, 32)
    assert clock.time_of(frames).tolist() == [*range(period), 0, 1, 2]
    assert sorted(digits_of(frames).unique().tolist()) == list(range(LEVELS))


def test_a_patch_that_is_off_is_no_time():
    clock = Clock()
    frames = torch.from_numpy(clock.frames(np.arange(512))).permute(0, 3, 1, 2).float() / 127.5 - 1
    for row in range(0, 32, 8):
        for column in range(0, 32, 8):
            wrong = frames.clone()
            patch = wrong[:, :, row : row + 8, column : column + 8]
            patch[:] = torch.where(patch > 0.9, -1.0, patch + 2 / 3)
            assert (clock.time_of(wrong) == -1).all()


def test_the_hand_goes_round_without_a_jump():
    digits = Clock(512).digits(np.arange(513))
    bright = [np.argwhere(grid[:3, :3] == 3) for grid in digits]
    heads = [
        [tuple(place) for place in found.tolist() if tuple(place) != (1, 1)] for found in bright
    ]  # the middle is a check digit
    assert all(len(head) == 1 for head in heads)
    steps = [abs(a[0][0] - b[0][0]) + abs(a[0][1] - b[0][1]) for a, b in pairwise(heads)]
    assert set(steps) == {1} and heads[0] == heads[8] == heads[512]


@pytest.mark.parametrize("gamma", [0.0, 0.8, 0.95, 0.99])
def test_the_clocks_value_is_the_sum_of_its_strokes(gamma):
    clock = Clock(64)
    value = np.array(
        [sum(gamma**k * clock.rewards[(t + 1 + k) % 64] for k in range(4000 if gamma else 1)) for t in range(64)]
    )
    assert np.allclose(clock.values(gamma), value)
    assert clock.rewards.sum() == 64 / STRIKE
    delays = clock.delays(gamma)
    assert delays.shape == (64,) and delays.sum() == pytest.approx(1)
    after = np.array([clock.rewards[(5 + k) % 64] for k in range(1, 65)])
    assert delays @ after / (1 - gamma) == pytest.approx(clock.values(gamma)[5])  # the value is a mean over delays


def test_the_clocks_episodes_tell_the_time():
    clock = Clock(32)
    made = clock.episodes(30, 40, 1)
    starts = set()
    for episode in made:
        times = clock.time_of(clip_of(episode, np.arange(40)).frames)[0, 0]
        assert ((times[1:] - times[:-1]) % 32 == 1).all()
        assert episode.rewards.tolist()[1:] == (times[1:] % STRIKE == 0).float().tolist()
        starts.add(int(times[0]))
    assert len(starts) > 10
    clip = Transitions(made, 2, 3)(0)
    assert clip.discounts is not None and (clip.discounts == 1).all() and clip.actions is None


def test_clocks_that_cannot_be():
    for period in (0, 8, 100, 1040):
        with pytest.raises(ValueError, match="multiple of 16"):
            Clock(period)
