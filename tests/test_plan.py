"""Planning: known optima are found, bounds and budgets hold, and the same seed gives the same plan."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from maskworld.clip import Clip, example, of_frames
from maskworld.masks import past_and_future, these_frames
from maskworld.noise import Rng
from maskworld.plan import Plan, best_of, cem, mppi, random_shooting

SHAPE = (4, 2)
GOAL = torch.linspace(-0.8, 0.8, 8).reshape(SHAPE)
PLANNERS = {
    "random": lambda cost, low, high, rng: random_shooting(cost, low, high, SHAPE, 200, rng),
    "cem": lambda cost, low, high, rng: cem(cost, low, high, SHAPE, 100, 15, 20, rng),
    "mppi": lambda cost, low, high, rng: mppi(cost, low, high, SHAPE, 100, 15, 0.05, rng),
}


def quadratic(actions: Tensor) -> Tensor:
    """Least at GOAL, where it is 0."""
    return ((actions - GOAL) ** 2).sum((1, 2))


def test_a_quadratic_is_brought_down() -> None:
    start = float(quadratic(torch.zeros(1, *SHAPE)))
    found = {name: plan(quadratic, -1.0, 1.0, Rng.of(0)) for name, plan in PLANNERS.items()}
    assert found["cem"].cost < 1e-3 * start and found["mppi"].cost < 0.05 * start
    assert torch.allclose(found["cem"].actions, GOAL, atol=0.02)
    assert found["cem"].cost < found["mppi"].cost < found["random"].cost < start


def test_what_is_said_to_cost_so_much_does() -> None:
    for plan in PLANNERS.values():
        found = plan(quadratic, -1.0, 1.0, Rng.of(3))
        assert float(quadratic(found.actions[None])) == pytest.approx(found.cost, rel=1e-6)
        assert float(found.costs[-1]) == pytest.approx(found.cost)


def test_bounds_hold_for_every_candidate_and_for_each_channel() -> None:
    low, high = torch.tensor([-0.5, 0.1]), torch.tensor([0.0, 0.2])
    seen = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return quadratic(actions)

    for plan in PLANNERS.values():
        seen.append(plan(cost, low, high, Rng.of(1)).actions[None])
    everything = torch.cat(seen)
    assert (everything >= low).all() and (everything <= high).all()
    found = PLANNERS["cem"](quadratic, low, high, Rng.of(1))
    assert torch.allclose(found.actions, torch.minimum(torch.maximum(GOAL, low), high), atol=0.02)  # the corner


def test_the_budget_is_what_was_said() -> None:
    asked = []

    def cost(actions: Tensor) -> Tensor:
        asked.append(len(actions))
        return quadratic(actions)

    random_shooting(cost, -1, 1, SHAPE, 9, Rng.of(0))
    cem(cost, -1, 1, SHAPE, 10, 3, 2, Rng.of(0))
    mppi(cost, -1, 1, SHAPE, 11, 2, 1.0, Rng.of(0))
    assert asked == [9, 10, 10, 10, 11, 11, 1]


def test_a_plan_is_a_function_of_its_seed() -> None:
    for plan in PLANNERS.values():
        one, same, other = (plan(quadratic, -1.0, 1.0, Rng.of(seed)) for seed in (5, 5, 6))
        assert torch.equal(one.actions, same.actions) and one.cost == same.cost
        assert not torch.equal(one.actions, other.actions)


def test_the_best_that_was_seen_is_kept() -> None:
    found = cem(quadratic, -1, 1, SHAPE, 12, 6, 12, Rng.of(0))  # all are elites: later draws are no better
    assert (found.costs.diff() <= 0).all() and found.cost == float(found.costs[-1])


def test_a_good_start_is_not_lost() -> None:
    found = cem(quadratic, -1, 1, SHAPE, 4, 1, 2, Rng.of(0), mean=GOAL)
    assert torch.equal(found.actions, GOAL) and found.cost == 0
    near = mppi(quadratic, -1, 1, SHAPE, 20, 2, 1e-3, Rng.of(0), mean=GOAL, std=0.05)
    assert near.cost < 1e-3


def roll(actions: Tensor, weight: float) -> Tensor:
    """Squared places and weighted squared steps of a point that begins at 1."""
    place, cost = torch.ones(len(actions)), torch.zeros(len(actions))
    for step in actions.unbind(1):
        place = place + step[:, 0]
        cost = cost + place**2 + weight * step[:, 0] ** 2
    return cost


def test_a_linear_quadratic_problem_has_riccatis_plan() -> None:
    steps, weight = 6, 2.0
    left, gains = 0.0, []  # the cost that is left at place 1, from the end backwards
    for _ in range(steps):
        gains.append((1 + left) / (1 + left + weight))
        left = (1 + left) * (1 - gains[-1])
    place, best = 1.0, []
    for gain in reversed(gains):
        best.append(-gain * place)
        place += best[-1]
    found = cem(partial(roll, weight=weight), -1.0, 1.0, (steps, 1), 100, 20, 20, Rng.of(0))
    assert left < 0.2 * float(roll(torch.zeros(1, steps, 1), weight))
    assert found.cost == pytest.approx(left, rel=1e-4)
    assert np.allclose(found.actions[:, 0].numpy(), best, atol=0.002)


def test_what_makes_no_sense_is_refused() -> None:
    def plan(**changes) -> Plan:
        arguments = {"low": -1.0, "high": 1.0, "shape": SHAPE, "num": 5, "iterations": 2, "elites": 2, **changes}
        return cem(arguments.pop("cost", quadratic), rng=Rng.of(0), **arguments)

    for changes, words in (
        ({"low": 2.0}, "low is not above high"),
        ({"num": 0}, "num is at least 1"),
        ({"elites": 6}, "6 elites of 5"),
        ({"shape": (0, 2)}, "both at least 1"),
        ({"mean": torch.zeros(3, 2)}, "the mean is a plan of"),
        ({"cost": lambda actions: quadratic(actions)[:2]}, "one number a candidate"),
        ({"cost": lambda actions: quadratic(actions) * torch.nan}, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            plan(**changes)
    with pytest.raises(ValueError, match="above 0"):
        mppi(quadratic, -1, 1, SHAPE, 5, 2, 0.0, Rng.of(0))


# -- futures --------------------------------------------------------------------------------------


def _noise(clip: Clip, known: Tensor, rng: Rng) -> Clip:
    """Unknown frames are one number each."""
    level = rng.normal((*clip.shape[1:3], 1, 1, 1))
    return dataclasses.replace(clip, frames=torch.where(known[:, :, :, None], clip.frames, level))


def _far(clip: Clip, start: int, rng: Rng) -> Tensor:
    """The further from 0 the more surprising, and a little noise."""
    assert rng.normal((3,)).isfinite().all()
    return clip.frames[:, 0, start:, 0, 0, 0].abs()


def _clip(b: int = 3, t: int = 5) -> Clip:
    return of_frames(torch.full((b, 1, t, 1, 2, 2), 9.0))


def test_the_least_surprising_of_n_futures_is_kept() -> None:
    clip, known = _clip(), past_and_future(3, 2, 0, 3)
    rng = Rng.of(6, batch=3)
    every = torch.stack([_noise(clip, known, rng).frames for _ in range(6)])
    costs = every[:, :, 0, 3:, 0, 0, 0].abs().mean(-1)
    made = best_of(_noise, _far, 6)(clip, known, Rng.of(6, batch=3)).frames
    for i in range(3):
        assert torch.equal(made[i], every[int(costs[:, i].argmin()), i])
    assert len(set(costs.argmin(0).tolist())) > 1  # not the same one for all
    assert torch.equal(made[:, :, :3], clip.frames[:, :, :3])
    one = best_of(_noise, _far, 1)(clip, known, Rng.of(6, batch=3)).frames
    assert torch.equal(one, every[0])


def test_the_choice_for_an_example_does_not_depend_on_its_neighbours() -> None:
    def noisy(clip: Clip, start: int, rng: Rng) -> Tensor:
        return rng.normal((clip.shape[2] - start,)) + clip.frames[:, 0, start:, 0, 0, 0]

    clip, known = _clip(), torch.cat([past_and_future(past, 5 - past, 0) for past in (3, 1, 5)])
    rng = Rng.of(7, batch=3)
    whole = best_of(_noise, noisy, 4)(clip, known, rng).frames
    for i in range(3):
        alone = best_of(_noise, noisy, 4)(example(clip, [i]), known[[i]], Rng.of(7, batch=3)[[i]])
        assert torch.equal(alone.frames[0], whole[i])
    assert torch.equal(whole[2], clip.frames[2])  # all of it is known


def test_all_futures_are_judged_under_the_same_noise() -> None:
    heard = []

    def listening(clip: Clip, start: int, rng: Rng) -> Tensor:
        heard.append(rng.normal((2,)))
        return torch.zeros(clip.shape[0], clip.shape[2] - start)

    clip, known = _clip(), past_and_future(3, 2, 0, 3)
    made = best_of(_noise, listening, 3)(clip, known, Rng.of(6, batch=3))
    assert len(heard) == 3 and all(torch.equal(each, heard[0]) for each in heard)
    assert torch.equal(made.frames, _noise(clip, known, Rng.of(6, batch=3)).frames)  # of equal ones the first


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="best of 0 futures"):
        best_of(_noise, _far, 0)
    clip, judge = _clip(), best_of(_noise, _far, 2)
    rows = torch.ones(3, 1, 5, 2, 1, dtype=torch.bool)
    rows[:, :, 4, 0] = False
    for known in (
        past_and_future(0, 5, 0, 3),
        past_and_future(2, 2, 1, 3),
        these_frames([True, False] * 2 + [True], 3),
        rows,
    ):
        with pytest.raises(ValueError, match="at the beginning are known"):
            judge(clip, known, Rng.of(0, batch=3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        best_of(_noise, lambda *_: torch.full((3, 2), torch.nan), 2)(
            clip, past_and_future(3, 2, 0, 3), Rng.of(0, batch=3)
        )
