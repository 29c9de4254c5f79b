"""Plans: exact where the law is known, better when learned, and drawn where they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from maskworld.data.discs import Discs
from maskworld.planners import (
    Example,
    Learned,
    State,
    constant_velocity,
    draw,
    of_piece,
    of_track,
    planner_error,
    simulator,
    together,
    train_planner,
)
from maskworld.probes.base import ACTIONS, PUSH
from maskworld.probes.films import Films
from maskworld.probes.stage import film
from maskworld.probes.suite import FAMILIES

PAST, HORIZON = 4, 8


def _bouncing(split: str, num_frames: int):
    discs = Discs(split, num_frames=num_frames)  # pyright: ignore[reportArgumentType]

    def source(index: int) -> Example:
        states = discs.states(index)
        scene = states.scene
        position, radius, colour = (
            torch.from_numpy(x).float()[None] for x in (states.position, scene.radius, 2 * scene.colour - 1)
        )
        return Example(State(position, radius, colour, torch.ones_like(radius, dtype=torch.bool)))

    return source


def _free(b: int = 2, t: int = 12, n: int = 3) -> State:
    rng = torch.Generator().manual_seed(0)
    start = 64 * torch.rand(b, 1, n, 2, generator=rng)
    pace = torch.randn(b, 1, n, 2, generator=rng)
    position = start + pace * torch.arange(t)[:, None, None]
    return State(position, torch.full((b, n), 4.0), torch.ones(b, n, 3), torch.ones(b, n, dtype=torch.bool))


def test_constant_velocity_is_exact_for_what_is_free() -> None:
    state = _free()
    plan = constant_velocity(state.at(0, 4), None, 8)
    assert planner_error(plan, state.position[:, 4:], state.there).max() < 1e-4
    bent = state.position[:, 4:] + torch.tensor([3.0, 4.0])
    assert torch.allclose(planner_error(plan, bent, state.there), torch.tensor(5.0), atol=1e-4)
    alone = state.there.clone()
    alone[1] = alone[0, 1:] = False
    bent[1] += 100
    assert torch.allclose(planner_error(plan, bent, alone), torch.tensor(5.0), atol=1e-4)  # of who is there


def test_untrained_the_learned_planner_is_constant_velocity() -> None:
    state = together([_bouncing("valid", 12)(i).state for i in range(4)])
    past = state.at(0, PAST)
    net = Learned(dim=8)
    assert torch.allclose(net(past, None, HORIZON), constant_velocity(past, None, HORIZON), atol=0.5)
    assert torch.allclose(net(state.at(0, 2), None, 3), constant_velocity(state.at(0, 2), None, 3), atol=1e-4)


def test_learned_beats_constant_velocity_on_bouncing_discs_soon() -> None:
    torch.manual_seed(0)
    net = Learned(dim=32)
    losses = train_planner(net, _bouncing("train", 32), 60, num_worlds=128, batch=32)
    assert losses[-10:].mean() < losses[:10].mean()
    held = together([_bouncing("valid", PAST + HORIZON)(i).state for i in range(64)])
    past, truth = held.at(0, PAST), held.position[:, PAST:]
    with torch.no_grad():
        learned = planner_error(net(past, None, HORIZON), truth, held.there)[-1]
    simple = planner_error(constant_velocity(past, None, HORIZON), truth, held.there)[-1]
    assert learned < 0.7 * simple  # 0.4 is usual


def _weighted() -> Learned:
    torch.manual_seed(1)
    net = Learned(dim=16)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim:
                weight.copy_(torch.randn_like(weight) * 0.5 / weight.shape[-1] ** 0.5)
    return net


def test_the_learned_planner_knows_no_order_no_fillers_and_no_right_or_left() -> None:
    past = _bouncing("valid", PAST)(1).state
    past = past._replace(position=past.position.double(), radius=past.radius.double(), colour=past.colour.double())
    net, n = _weighted().double(), past.radius.shape[1]
    actions = torch.full((1, 4, 9), 0.3, dtype=torch.float64)
    plan = net(past, actions, 4)
    assert (plan - constant_velocity(past, None, 4)).abs().max() > 1  # not trivially so

    order = torch.arange(n).flip(0)
    other = State(past.position[:, :, order], past.radius[:, order], past.colour[:, order], past.there[:, order])
    assert torch.allclose(net(other, actions, 4), plan[:, :, order])

    more = together([past, _free(1, PAST, n + 2)])
    assert torch.allclose(net(more, actions.expand(2, -1, -1), 4)[:1, :, :n], plan)

    mirrored = past._replace(position=64 - past.position.flip(-1))
    assert torch.allclose(net(mirrored, None, 4), 64 - net(past, None, 4).flip(-1))


def test_every_parameter_of_the_learned_planner_learns() -> None:
    state = together([_bouncing("train", 12)(i).state for i in range(16)])
    net = _weighted()
    net(state.at(0, PAST), torch.ones(16, HORIZON, 9), HORIZON).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_pushes_can_be_learned() -> None:
    """One white disc and one that is not, far from all: only the white one is pushed."""

    def source(index: int) -> Example:
        rng = np.random.default_rng(index)
        actions = np.zeros((12, len(ACTIONS)))
        actions[:, :2] = rng.uniform(-0.5, 0.5, (12, 2))
        speed = np.concatenate([np.zeros((1, 2)), PUSH * actions[:-1, :2].cumsum(0)])
        start = np.array([[0.0, 0.0], [500.0, 0.0]]) + rng.uniform(-9, 9, (2, 2))
        path = np.stack([start[0] + speed.cumsum(0), np.tile(start[1], (12, 1))], 1)
        colour = torch.tensor([[[1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]])
        state = State(torch.from_numpy(path).float()[None], torch.full((1, 2), 4.0), colour, torch.ones(1, 2) > 0)
        return Example(state, torch.from_numpy(actions).float()[None])

    torch.manual_seed(0)
    net = Learned(8, bounds=(-1e4, -1e4, 1e4, 1e4))
    train_planner(net, source, 80, num_worlds=32, batch=32, lr=0.1)
    held = [source(1000 + i) for i in range(16)]
    state = together([one.state for one in held])
    actions = torch.cat([one.actions for one in held if one.actions is not None])
    past, truth = state.at(0, PAST), state.position[:, PAST:]
    with torch.no_grad():
        plan = net(past, actions[:, PAST - 1 : -1], HORIZON)
    simple = planner_error(constant_velocity(past, None, HORIZON), truth, state.there)[-1]
    assert planner_error(plan, truth, state.there)[-1] < 0.2 * simple


def test_the_simulator_is_the_truth_and_reruns_under_actions() -> None:
    questions = FAMILIES["C3"].episode(0).questions
    state = together([of_track(question.track) for question in questions])
    start = questions[0].num_context
    past = state.at(0, start)
    plan = simulator(questions)
    assert torch.equal(plan(past, None, 16), state.position[:, start:])
    # Each branch under its neighbour's actions is the neighbour: their pasts are one.
    done = torch.from_numpy(np.stack([q.actions for q in questions if q.actions is not None])).float()
    turned = done.roll(1, 0)[:, start - 1 : start + 15]
    assert torch.allclose(plan(past, turned, 16), state.position.roll(1, 0)[:, start:], atol=1e-3)
    with pytest.raises(ValueError, match="8 \\+ 17 frames of a simulation of 24"):
        plan(past, None, 17)
    with pytest.raises(ValueError, match="4 questions for 1 worlds"):
        plan(State(*(field[:1] for field in past)), None, 4)
    quiet = FAMILIES["C1"].episode(0).questions
    with pytest.raises(ValueError, match="nothing can be done"):
        simulator(quiet)(of_track(quiet[0].track).at(0, 8), torch.zeros(1, 2, 9), 2)


def test_a_drawn_plan_is_what_the_camera_sees() -> None:
    track = FAMILIES["P3"].episode(2).questions[0].track
    track = dataclasses.replace(track, background=np.zeros(3))
    state = of_track(track)
    frames = draw(state.position, state.radius, state.colour, 64)
    truth = torch.from_numpy(film(track)).movedim(-1, 1)[None].float() / 127.5 - 1
    assert frames.shape == (1, track.num_frames, 3, 64, 64)
    assert (frames - truth).abs().max() < 0.02
    empty = draw(state.position, 0 * state.radius, state.colour, 64)
    assert torch.equal(empty, torch.full_like(empty, -1.0))


def test_a_plan_goes_with_the_film_it_is_made_for() -> None:
    films = Films(("P2a",), history=6, near=6, ahead=14, p_turn=1.0)
    for i in range(6):
        clip, (state, actions) = films(i), of_piece(films.piece(i))
        assert clip.cameras is not None and clip.actions is not None and actions is not None
        assert torch.equal(actions, clip.actions)
        offset = clip.cameras.pose[:, 0, :, None, :2, 3]
        frames = draw(state.position - offset, state.radius, state.colour)
        bright = frames.amax(2) > -1
        lit = (clip.frames[:, 0] - clip.frames[0, 0, 0, :, 0, 0][:, None, None]).abs().amax(2) > 0.02
        assert (bright == lit).float().mean() > 0.99


def test_what_cannot_be_is_refused() -> None:
    state = _free()
    with pytest.raises(ValueError, match="takes two frames"):
        constant_velocity(state.at(0, 1), None, 2)
    with pytest.raises(ValueError, match="one frame or more"):
        constant_velocity(state, None, 0)
    with pytest.raises(ValueError, match="3 actions for a plan of 2"):
        Learned(8)(state, torch.zeros(2, 3, 9), 2)
    with pytest.raises(ValueError, match="same number of frames"):
        together([state, state.at(0, 3)])
    with pytest.raises(ValueError, match="worlds of 8 frames"):
        train_planner(Learned(8), _bouncing("train", 8), 1, num_worlds=2)
