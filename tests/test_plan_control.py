"""Choosing by value, on small worlds whose values are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskworld.nets.critic import Critic, Mixture, Proposals, log_prob, sample
from maskworld.noise import Rng
from maskworld.plan import cem, expectile_loss, improve, lookahead

NUM_STATES, NUM_ACTIONS, GAMMA = 6, 3, 0.9


class MDP:
    """States and actions by number; rewards on arrival. The next state is any with some chance, or one."""

    def __init__(self, seed: int, certain: bool = False):
        rng = torch.Generator().manual_seed(seed)
        p = torch.rand(NUM_STATES, NUM_ACTIONS, NUM_STATES, generator=rng, dtype=torch.float64) ** 3
        if certain:
            p = torch.nn.functional.one_hot(p.argmax(-1), NUM_STATES).double()
        self.p = p / p.sum(-1, keepdim=True)
        self.reward = torch.randn(NUM_STATES, generator=rng, dtype=torch.float64)

    def value(self, policy: Tensor) -> Tensor:
        """V = (1 - gamma P)^-1 P r of a policy, states x actions."""
        p = torch.einsum("sa,sax->sx", policy, self.p)
        return torch.linalg.solve(torch.eye(NUM_STATES, dtype=torch.float64) - GAMMA * p, p @ self.reward)

    def q(self, value: Tensor) -> Tensor:
        return self.p @ (self.reward + GAMMA * value)

    def best(self) -> Tensor:
        value = torch.zeros(NUM_STATES, dtype=torch.float64)
        for _ in range(600):
            value = self.q(value).max(1).values
        return value


def one_hot(actions: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(actions, NUM_ACTIONS).double()


def choose(table: Tensor, propose, num: int, rng: Rng) -> Tensor:
    """The action of each state that `improve` takes; an action is a number from 0 on, as a float."""
    states = torch.arange(NUM_STATES)
    found = improve(lambda s, a: table[s[:, None], a[..., 0].long()].float(), propose, states, num, rng)
    return found[:, 0].long()


def each(states: Tensor, num: int, rng: Rng) -> Tensor:
    return torch.arange(num).float().expand(len(states), num)[..., None]


def drawn(states: Tensor, num: int, rng: Rng) -> Tensor:
    return rng.integers(0, NUM_ACTIONS, (num, 1)).float()


def test_improvement_is_nowhere_worse_and_ends_at_the_best_policy() -> None:
    world = MDP(0)
    policy = torch.full((NUM_STATES, NUM_ACTIONS), 1 / NUM_ACTIONS, dtype=torch.float64)
    rng = Rng.of(0, batch=NUM_STATES)
    before = world.value(policy)
    for _ in range(8):
        policy = one_hot(choose(world.q(world.value(policy)), each, NUM_ACTIONS, rng))
        after = world.value(policy)
        assert (after >= before - 1e-9).all()
        before = after
    assert torch.allclose(before, world.best(), atol=1e-9)


def test_one_proposal_is_the_policy_and_two_are_better() -> None:
    world = MDP(1)
    uniform = torch.full((NUM_STATES, NUM_ACTIONS), 1 / NUM_ACTIONS, dtype=torch.float64)
    table, rng = world.q(world.value(uniform)), Rng.of(0, batch=NUM_STATES)
    means = []
    for num in (1, 2, 16):
        counts = sum(one_hot(choose(table, drawn, num, rng)) for _ in range(600))
        means.append(world.value(counts / 600).mean())  # type: ignore[operator]
    assert means[0] == pytest.approx(float(world.value(uniform).mean()), abs=0.15)
    assert means[0] + 0.3 < means[1] < means[2] - 0.1
    greedy = world.value(one_hot(table.argmax(1))).mean()
    assert means[2] == pytest.approx(float(greedy), abs=0.02)  # 1 of 650 times the best is not among 16


def test_improve_refuses_what_is_no_value() -> None:
    for values, words in ((torch.tensor([[1.0, math.nan]]), "NaN"), (torch.zeros(1, 3), "each of")):
        with pytest.raises(ValueError, match=words):
            improve(lambda s, a, v=values: v, lambda s, k, r: torch.zeros(1, 2, 1), None, 2, Rng.of(0))
    with pytest.raises(ValueError, match="at least 1"):
        improve(lambda s, a: a[..., 0], lambda s, k, r: torch.zeros(1, 1, 1), None, 0, Rng.of(0))


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_lookahead_is_bellmans_equation_unrolled(horizon: int) -> None:
    world = MDP(2, certain=True)
    go, value = world.p.argmax(-1), world.best()

    def cost_from(state: int):
        return lookahead(
            lambda n: torch.full((n,), state),
            lambda x, a: go[x, a[:, 0].long()],
            lambda x: world.reward[x].float(),
            lambda x: value[x].float(),
            GAMMA,
        )

    plans = torch.cartesian_prod(*[torch.arange(NUM_ACTIONS)] * horizon).reshape(-1, horizon, 1).float()
    for state in range(NUM_STATES):
        costs = cost_from(state)(plans)
        x, total = state, 0.0
        for h, action in enumerate(plans[5 % len(plans), :, 0].long().tolist()):  # one of them by hand
            x = int(go[x, action])
            total += GAMMA**h * float(world.reward[x])
        assert float(costs[5 % len(plans)]) == pytest.approx(-total - GAMMA**horizon * float(value[x]), abs=1e-5)
        # With the best value at the end, the best plan is worth the best value, however long it is.
        assert float(costs.min()) == pytest.approx(-float(value[state]), abs=1e-5)


def test_cem_with_a_value_at_the_end_sees_beyond_its_horizon() -> None:
    """A mass is pushed; the reward is its nearness to 0, the value that of a linear regulator: two steps suffice."""

    def step(x: Tensor, a: Tensor) -> Tensor:
        return x + a

    def cost(value):
        return lookahead(lambda n: torch.full((n, 1), 3.0), step, lambda x: -((x[:, 0] - 1) ** 2), value, 0.9)

    def plan(value) -> Tensor:
        return cem(cost(value), -1.0, 1.0, (2, 1), 64, 8, 8, Rng.of(0)).actions[:, 0]

    assert torch.allclose(plan(lambda x: torch.zeros(len(x))), torch.tensor([-1.0, -1.0]), atol=0.05)
    # A great reward elsewhere, which no two steps reach, is seen through the value alone.
    far = plan(lambda x: 100 * x[:, 0])
    assert torch.allclose(far, torch.ones(2), atol=0.05)


def test_lookahead_refuses_a_discount_above_one() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        lookahead(lambda n: n, lambda x, a: x, lambda x: x, lambda x: x, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
def test_the_expectile_of_a_fair_coin_is_itself(expectile: float) -> None:
    estimate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    coin = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for _ in range(300):
        (grad,) = torch.autograd.grad(expectile_loss(coin - estimate, expectile).mean(), estimate)
        estimate = (estimate - 0.5 * grad).detach().requires_grad_()
    assert estimate.item() == pytest.approx(expectile, abs=1e-9)


def test_half_the_square_is_the_expectile_of_the_mean() -> None:
    error = torch.linspace(-2, 2, 9)
    assert torch.equal(expectile_loss(error, 0.5), error**2 / 2)
    for wrong in (0.0, 1.0, 1.2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            expectile_loss(error, wrong)


# -- the bricks -------------------------------------------------------------------------------------


def mixture(b: int = 1) -> Mixture:
    return Mixture(
        torch.tensor([[0.2, -0.5]]).expand(b, 2),
        torch.tensor([[[-1.1], [0.6]]]).expand(b, 2, 1),
        torch.tensor([[[-0.7], [-1.0]]]).expand(b, 2, 1),
    )


def test_the_likelihood_is_that_of_what_is_drawn() -> None:
    """All that can happen has a probability of 1 together; and draws fall where it says."""
    inside = torch.linspace(-1, 1, 20001, dtype=torch.float64)[1:-1, None].float()
    density = log_prob(mixture(len(inside)), inside).exp()
    low, high = log_prob(mixture(2), torch.tensor([[-1.0], [1.0]])).exp().tolist()
    whole = float(density.sum()) * 1e-4 + low + high
    assert whole == pytest.approx(1, abs=1e-3)
    rng = Rng.of(0)
    actions = sample(mixture(), rng.uniform((40_000,)), rng.normal((40_000, 1)))[0, :, 0]
    assert float((actions == -1).float().mean()) == pytest.approx(low, abs=0.01)
    assert float((actions == 1).float().mean()) == pytest.approx(high, abs=0.005)
    between = float(((actions > 0.2) & (actions < 0.7)).float().mean())
    there = (inside[:, 0] > 0.2) & (inside[:, 0] < 0.7)
    assert between == pytest.approx(float(density[there].sum()) * 1e-4, abs=0.01)


def test_proposals_learn_two_things_to_do() -> None:
    """Left or right with equal chance, never between: what one normal cannot say. Another policy always goes right."""
    torch.manual_seed(0)
    policy, rng = Proposals(2, 1, 4, 16, policies=2), Rng.of(0)
    x = rng.normal((256, 2))[0]
    sign = (rng.uniform((256,))[0] < 0.5).float() * 2 - 1
    who = torch.arange(256) % 4 // 3
    actions = (0.7 * torch.where(who == 1, 1.0, sign) + 0.05 * rng.normal((256,))[0])[:, None]
    optimiser = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        loss = -log_prob(policy(x, who), actions).mean()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        chance, normal = rng.uniform((256 * 4,)).reshape(256, 4), rng.normal((256, 4, 1))[0]
        found, always = (sample(policy(x, torch.full((256,), n)), chance, normal) for n in (0, 1))
    assert float((always > 0).float().mean()) > 0.95
    assert float((found.abs() < 0.4).float().mean()) < 0.05
    assert 0.35 < float((found > 0).float().mean()) < 0.65


def test_a_critic_says_the_same_of_an_action_whatever_stands_beside_it() -> None:
    torch.manual_seed(0)
    critic, rng = Critic(5, 2, 16), Rng.of(1, batch=3)
    critic.reward.begin(torch.tensor([1.0, 3.0]))
    x, actions, gamma = rng.normal((5,)), rng.uniform((4, 2)), torch.tensor([0.0, 0.5, 0.9])
    values = critic(x, actions, gamma)
    alone = torch.cat([critic(x, actions[:, i : i + 1], gamma) for i in range(4)], dim=1)
    assert torch.allclose(values, alone, atol=1e-6)
    mean = critic.reward.back(critic.standard(x, actions, gamma))
    assert torch.allclose(values * (1 - gamma)[:, None], mean, atol=1e-5)
    assert critic.reward.mean == 2 and critic.reward.std == 1
