"""Planning over anything that foretells: random shooting, the cross-entropy method, MPPI; the best of several actions
by their value; the best of several futures; and futures that follow a drawing.

A planner knows nothing of the world. It hands candidates to `cost`, which may run a simulator or read predicted
pictures, and each call of `cost` gets `num` candidates: the budget stands in the arguments.

Sections: choosing actions - control - futures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskworld.clip import Clip, example
from maskworld.noise import Rng
from maskworld.verbs import Fill, Known, Surprise

# -- choosing actions -----------------------------------------------------------------------------

Cost = Callable[[Float[Tensor, "n t a"]], Float[Tensor, " n"]]
"""What each of n sequences of actions would cost; finite, lower is better."""
Bound = int | float | Float[Tensor, " a"]
"""The least or greatest action, of all channels or of each."""


class Plan(NamedTuple):
    """The actions chosen, what they are said to cost, and the cost of the best known after each iteration."""

    actions: Float[Tensor, "t a"]
    cost: float
    costs: Float[Tensor, " i"]


def random_shooting(cost: Cost, low: Bound, high: Bound, shape: tuple[int, int], num: int, rng: Rng) -> Plan:
    """The best of `num` sequences drawn uniformly between `low` and `high`; `shape` is (steps, channels)."""
    low_, high_ = _bounds(low, high, shape)
    _check_budget(num=num)
    candidates = low_ + (high_ - low_) * _uniform(num, shape, rng)
    costs = _asked(cost, candidates)
    best = int(costs.argmin())
    return Plan(candidates[best], float(costs[best]), costs[best : best + 1])


def cem(
    cost: Cost,
    low: Bound,
    high: Bound,
    shape: tuple[int, int],
    num: int,
    iterations: int,
    elites: int,
    rng: Rng,
    *,
    mean: Float[Tensor, "t a"] | None = None,
    std: float | Float[Tensor, "t a"] | None = None,
) -> Plan:
    """The cross-entropy method (Rubinstein 1999): draw `num`, fit a normal to the best `elites`, draw again.

    Args:
        cost: of candidates, n x t x a.
        low, high: bounds; what is drawn beyond them is moved to them.
        shape: (steps, channels) of a plan.
        num: candidates in each iteration.
        iterations: how often they are drawn; cost is asked num x iterations times.
        elites: how many of them shape the next draw.
        rng: one generator.
        mean: where to begin; half way between the bounds if None. It is itself the first candidate.
        std: how widely to begin; a quarter of the way between the bounds if None.

    The plan is the best candidate of all iterations.
    """
    low_, high_ = _bounds(low, high, shape)
    _check_budget(num=num, iterations=iterations, elites=elites)
    if elites > num:
        raise ValueError(f"{elites} elites of {num} candidates")
    centre, spread = _start(low_, high_, mean, std)
    best, best_cost, costs = centre, float("inf"), []
    for i in range(iterations):
        candidates = (centre + spread * _normal(num, shape, rng)).clamp(low_, high_)
        if i == 0:
            candidates[0] = centre.clamp(low_, high_)
        asked = _asked(cost, candidates)
        order = asked.argsort(stable=True)[:elites]
        if float(asked[order[0]]) < best_cost:
            best, best_cost = candidates[order[0]], float(asked[order[0]])
        centre, spread = candidates[order].mean(0), candidates[order].std(0, correction=0)
        costs.append(best_cost)
    return Plan(best, best_cost, torch.tensor(costs, dtype=torch.float32))


def mppi(
    cost: Cost,
    low: Bound,
    high: Bound,
    shape: tuple[int, int],
    num: int,
    iterations: int,
    temperature: float,
    rng: Rng,
    *,
    mean: Float[Tensor, "t a"] | None = None,
    std: float | Float[Tensor, "t a"] | None = None,
) -> Plan:
    """Model predictive path integral control (Williams et al. 2017): the mean of all candidates, weighted by
    exp(-cost / temperature), is the centre of the next draw; the spread stays.

    The other arguments are those of `cem`. The plan is the last mean; what it costs is asked once more, for it
    alone. `costs` are those of the means that came of each iteration but the last, and then its own.
    """
    low_, high_ = _bounds(low, high, shape)
    _check_budget(num=num, iterations=iterations)
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")
    centre, spread = _start(low_, high_, mean, std)
    centre, costs = centre.clamp(low_, high_), []
    for i in range(iterations):
        candidates = (centre + spread * _normal(num, shape, rng)).clamp(low_, high_)
        candidates[0] = centre
        asked = _asked(cost, candidates)
        if i:
            costs.append(float(asked[0]))
        weight = torch.softmax(-(asked - asked.min()) / temperature, 0)
        centre = (weight[:, None, None] * candidates).sum(0).clamp(low_, high_)  # a mean, but for its rounding
    last = float(_asked(cost, centre[None])[0])
    return Plan(centre, last, torch.tensor([*costs, last], dtype=torch.float32))


def _bounds(low: Bound, high: Bound, shape: tuple[int, int]) -> tuple[Float[Tensor, "t a"], Float[Tensor, "t a"]]:
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"the shape of a plan is (steps, channels), both at least 1, not {shape}")
    both = [torch.as_tensor(bound, dtype=torch.float32).expand(shape) for bound in (low, high)]
    if not (both[0] <= both[1]).all():
        raise ValueError(f"low is not above high: {low}, {high}")
    return both[0], both[1]


def _check_budget(**budget: int) -> None:
    for name, value in budget.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")


def _start(
    low: Float[Tensor, "t a"],
    high: Float[Tensor, "t a"],
    mean: Float[Tensor, "..."] | None,
    std: float | Float[Tensor, "..."] | None,
) -> tuple[Float[Tensor, "t a"], Float[Tensor, "t a"]]:
    centre = (low + high) / 2 if mean is None else mean.to(torch.float32)
    if centre.shape != low.shape:
        raise ValueError(f"the mean is a plan of {tuple(low.shape)}, not {tuple(centre.shape)}")
    return centre, (high - low) / 4 if std is None else torch.as_tensor(std, dtype=torch.float32).expand(low.shape)


def _uniform(num: int, shape: tuple[int, int], rng: Rng) -> Float[Tensor, "n t a"]:
    assert len(rng) == 1, f"one generator for one plan, not {len(rng)}"
    return rng.uniform((num, *shape))[0]


def _normal(num: int, shape: tuple[int, int], rng: Rng) -> Float[Tensor, "n t a"]:
    assert len(rng) == 1, f"one generator for one plan, not {len(rng)}"
    return rng.normal((num, *shape))[0]


def _asked(cost: Cost, candidates: Float[Tensor, "n t a"]) -> Float[Tensor, " n"]:
    costs = cost(candidates)
    if costs.shape != candidates.shape[:1]:
        raise ValueError(f"a cost is one number a candidate, ({len(candidates)},), not {tuple(costs.shape)}")
    if not costs.isfinite().all():
        raise ValueError("a cost is NaN or infinite")
    return costs


# -- control --------------------------------------------------------------------------------------

S = TypeVar("S")
"""States of a batch, of any kind: they are handed on and never looked into."""


def improve(
    q: Callable[[S, Float[Tensor, "b k a"]], Float[Tensor, "b k"]],
    propose: Callable[[S, int, Rng], Float[Tensor, "b k a"]],
    states: S,
    num: int,
    rng: Rng,
) -> Float[Tensor, "b a"]:
    """One step of policy improvement: for each state the best, by q, of `num` actions that a policy proposes there.

    Where q is the value of doing an action and then going on with that policy, what is done so is nowhere worse than
    the policy, but for the errors of q. Of equals the first is taken.
    ValueError for num below 1, and where q is not one finite number for each action.
    """
    _check_budget(num=num)
    actions = propose(states, num, rng)
    values = q(states, actions)
    if values.shape != actions.shape[:2]:
        raise ValueError(f"q is one number for each of {tuple(actions.shape[:2])} actions, not {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError("q is NaN or infinite")
    return actions[torch.arange(len(actions), device=actions.device), values.argmax(1)]


def lookahead(
    start: Callable[[int], S],
    step: Callable[[S, Float[Tensor, "n a"]], S],
    reward: Callable[[S], Float[Tensor, " n"]],
    value: Callable[[S], Float[Tensor, " n"]],
    gamma: float,
) -> Cost:
    """What n sequences of H actions cost, by a model of one step and the value of where they lead:
    -(r(x_1) + gamma r(x_2) + ... + gamma^(H - 1) r(x_H) + gamma^H V(x_H)).

    Args:
        start: (n) -> n times the state that the actions begin in.
        step: (n states, n actions) -> the n states after them.
        reward: of arriving in each of n states.
        value: discounted rewards of all that comes after each of n states.
        gamma: discount of each step, from 0 to 1.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"a discount gamma is from 0 to 1, not {gamma}")

    def cost(actions: Float[Tensor, "n t a"]) -> Float[Tensor, " n"]:
        n, horizon, _ = actions.shape
        x, total = start(n), torch.zeros(n, device=actions.device)
        for h in range(horizon):
            x = step(x, actions[:, h])
            total = total + gamma**h * reward(x)
        return -(total + gamma**horizon * value(x))

    return cost


def expectile_loss(error: Float[Tensor, "*n"], expectile: float) -> Float[Tensor, "*n"]:
    """|expectile - [error < 0]| error^2 of error = target - estimate (Newey and Powell 1987): 0.5 leads to the mean
    of the targets (the loss is half the square), more than that to the better ones of them.

    ValueError for an expectile that is not between 0 and 1.
    """
    if not 0 < expectile < 1:
        raise ValueError(f"an expectile is between 0 and 1, not {expectile}")
    return (expectile - (error < 0).to(error)).abs() * error**2


# -- futures --------------------------------------------------------------------------------------


def best_of(fill: Fill, surprise: Surprise, n: int) -> Fill:
    """Fills n times, and keeps for each example the future that surprises the model least: best-of-n with the model
    as its own judge (after the verifiers of State and Dynamics, arXiv 2601.17067, Sec. 5).

    A future's surprise is the mean over its frames, under the same noise for all n. The first of the n is what `fill`
    alone would give; all noise of an example follows from its own generator.

    ValueError for n below 1. The Fill raises ValueError where what is known is not the first frames of every view,
    one or more and whole, or all of it; and for surprise that is no number.
    """
    if n < 1:
        raise ValueError(f"the best of {n} futures: 1 or more are needed")

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        starts = _starts(known)
        drawn = [fill(clip, known, rng) for _ in range(n)]
        if n == 1:
            return drawn[0]
        seeds = rng.integers(0, 2**62, ()).tolist()
        costs = torch.stack([_surprise_of(surprise, one, starts, seeds) for one in drawn])
        if not costs.isfinite().all():
            raise ValueError("the surprise is NaN or infinite")
        best = costs.argmin(0).tolist()
        frames = torch.stack([drawn[which].frames[i] for i, which in enumerate(best)])
        return dataclasses.replace(drawn[0], frames=frames)

    return run


def _starts(known: Bool[Tensor, "b v t gh gw"]) -> Int[Tensor, " b"]:
    """The first frame of each example that is not known; the number of frames where all are."""
    whole, none = known.flatten(3).all(-1), ~known.flatten(3).any(-1)
    given = whole.all(1)
    starts = given.long().cumprod(1).sum(1)
    asked = ~whole.all(2, keepdim=True)  # views with something to fill in
    after = torch.arange(known.shape[2], device=known.device) >= starts[:, None]
    if not (whole == ~(asked & after[:, None])).all() or not (whole | none).all() or not (starts > 0).all():
        raise ValueError("the best of several futures: whole frames at the beginning are known, and none after them")
    return starts.cpu()


def _surprise_of(surprise: Surprise, clip: Clip, starts: Int[Tensor, " b"], seeds: list[int]) -> Float[Tensor, " b"]:
    """The mean over the frames from each example's start on."""
    b, t = clip.times.shape
    found = torch.zeros(b, dtype=torch.float64)
    for start in sorted(set(starts.tolist()) - {t}):
        members = (starts == start).nonzero()[:, 0].tolist()
        rng = Rng([torch.Generator().manual_seed(seeds[i]) for i in members])
        found[members] = surprise(example(clip, members), start, rng).double().cpu().mean(1)
    return found


def along(fill: Fill, drawing: Float[Tensor, "b t c h w"]) -> Fill:
    """A Fill of clips of one view, from one of clips with a plan as their second view: `drawing` has the plan of
    frames 0, 1, ... of each example, and `Clip.times` say which of them belong to a clip.

    The Fill raises ValueError for clips of more views, of other examples, or with times that the plan does not have.
    """

    def run(clip: Clip, known: Known, rng: Rng) -> Clip:
        b, v, _, c, h, w = clip.shape
        if v != 1 or (b, c, h, w) != (len(drawing), *drawing.shape[2:]):
            raise ValueError(
                f"a plan for {len(drawing)} examples of {tuple(drawing.shape[2:])} does not go with "
                f"{b} of {v} x {(c, h, w)}"
            )
        if int(clip.times.min()) < 0 or int(clip.times.max()) >= drawing.shape[1]:
            raise ValueError(f"the plan has frames 0 to {drawing.shape[1] - 1}, and the clip others")
        plan = drawing[torch.arange(b, device=drawing.device)[:, None], clip.times.to(drawing.device)].to(clip.frames)
        both = dataclasses.replace(clip, frames=torch.cat([clip.frames, plan[:, None]], dim=1))
        filled = fill(both, torch.cat([known, torch.ones_like(known)], dim=1), rng)
        return dataclasses.replace(filled, frames=filled.frames[:, :1])

    return run
