"""Noise: generators that keep apart, the paper's schedules, and conversions that lose nothing."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from maskworld import noise
from maskworld.noise import GammaNoise, Level, Rng, Schedule, cosine, gaussian, linear, mix


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- Rng ------------------------------------------------------------------------------------------


def test_mix_depends_on_every_part_and_their_order() -> None:
    grid = [p for n in (1, 2, 3) for p in itertools.product(range(12), repeat=n)]
    seeds = {mix(*parts) for parts in grid}
    assert len(seeds) == len(grid)
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert mix(3, 4) != mix(4, 3)
    assert mix(-1) != mix(1) != mix(2**62)


def test_neighbouring_seeds_differ_in_half_of_their_bits() -> None:
    flips = [(mix(0, i) ^ mix(0, i + 1)).bit_count() for i in range(2000)]
    assert sum(flips) / len(flips) == pytest.approx(31.5, abs=0.5)


def test_the_same_seed_gives_the_same_numbers() -> None:
    for draw in (
        lambda r: r.normal((2, 3)),
        lambda r: r.uniform((2, 3)),
        lambda r: r.integers(0, 1000, (2, 3)),
        lambda r: r.gamma(torch.full((2, 3), 1.5)),
    ):
        assert torch.equal(draw(Rng.of(1, 2, batch=2)), draw(Rng.of(1, 2, batch=2)))
        assert not torch.equal(draw(Rng.of(1, 2, batch=2)), draw(Rng.of(2, 1, batch=2)))


def test_an_example_does_not_depend_on_its_neighbours() -> None:
    five = Rng.of(9, batch=5)
    drawn = [five.normal((4,)), five.uniform((2,)), five.integers(0, 99, (3,)), five.gamma(torch.ones(5, 2))]
    alone = Rng.of(9, batch=5)[[3]]
    again = [
        alone.normal((4,)),
        alone.uniform((2,)),
        alone.integers(0, 99, (3,)),
        alone.gamma(torch.ones(1, 2)),
    ]
    for all_of_them, one in zip(drawn, again, strict=True):
        assert torch.equal(all_of_them[3:4], one)
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert torch.equal(Rng.of(9, batch=2).normal((4,)), drawn[0][:2])


def test_a_part_of_the_stack_advances_with_it() -> None:
    whole = Rng.of(0, batch=3)
    whole[[1]].normal((4,))
    fresh = Rng.of(0, batch=3)
    second = fresh.normal((4,)), fresh.normal((4,))
    drawn = whole.normal((4,))
    assert torch.equal(drawn[0], second[0][0])
    assert torch.equal(drawn[1], second[1][1])
    assert len(whole) == 3 and len(whole[[0, 2]]) == 2


def test_draws_are_of_the_laws_they_name() -> None:
    rng = Rng.of(4, batch=2)
    n = 50_000
    for moments in (rng.normal((n,)).mean(1), rng.normal((n,)).std(1) - 1, rng.uniform((n,)).mean(1) - 0.5):
        assert moments.abs().max().item() < 0.02
    u, k = rng.uniform((n,)), rng.integers(2, 5, (n,))
    assert 0 <= u.min().item() and u.max().item() < 1
    assert k.unique().tolist() == [2, 3, 4]
    g = rng.gamma(torch.full((2, n), 3.0))
    assert g.mean(1).tolist() == pytest.approx([3, 3], abs=0.05)
    assert g.var(1).tolist() == pytest.approx([3, 3], abs=0.15)


def test_gaussian_has_the_type_and_shape_of_what_it_is_like() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = gaussian(torch.zeros(2, 3, 4, dtype=dtype), Rng.of(0, batch=2))
        assert z.dtype == dtype and z.shape == (2, 3, 4)
    with pytest.raises(AssertionError, match="generators"):
        gaussian(torch.zeros(3, 1), Rng.of(0, batch=2))


# -- schedules ------------------------------------------------------------------------------------


def test_linear_schedule_has_the_values_of_mcvd() -> None:
    """Its label i is our time 999 - i."""
    expected = {0: 4.03583e-5, 1: 4.11819e-5, 99: 2.70244e-4, 500: 0.0785872, 990: 0.998105, 999: 0.9999}
    alpha_bar = linear().alpha_bar
    assert len(linear()) == 1000
    for label, value in expected.items():
        assert alpha_bar[999 - label].item() == pytest.approx(value, rel=2e-6), label


def test_cosine_schedule() -> None:
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    free, limited = cosine(beta_max=None).alpha_bar, cosine().alpha_bar
    for time in (0, 1, 500, 900, 999):
        assert free[time].item() == pytest.approx(f[time + 1] / f[0], rel=1e-9, abs=1e-30)
    torch.testing.assert_close(free[:990], limited[:990], rtol=1e-9, atol=0)
    beta = 1 - limited[1:] / limited[:-1]
    assert beta.max().item() == pytest.approx(0.999, abs=1e-9)
    assert limited[-1] > 1e6 * free[-1]


@pytest.mark.parametrize("schedule", [linear(), cosine(), cosine(beta_max=None), linear(50), cosine(7)])
def test_schedules_only_ever_lose_signal(schedule: Schedule) -> None:
    alpha_bar = schedule.alpha_bar
    assert alpha_bar.dtype == torch.float64
    assert bool((alpha_bar.diff() < 0).all())
    assert 0 < alpha_bar[-1] and alpha_bar[0] < 1
    alpha, sigma = schedule.at(torch.linspace(-1, len(schedule) - 1, 31, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-15)


def test_at_is_the_table_at_whole_times_and_linear_in_alpha_squared_between() -> None:
    schedule = linear()
    whole, _ = schedule.at(torch.arange(1000))
    torch.testing.assert_close(whole**2, schedule.alpha_bar, rtol=1e-12, atol=0)
    part, _ = schedule.at(torch.tensor([41.25, -0.5], dtype=torch.float64))
    left, right = schedule.alpha_bar[41], schedule.alpha_bar[42]
    assert (part[0] ** 2).item() == pytest.approx((0.75 * left + 0.25 * right).item(), rel=1e-12)
    assert (part[1] ** 2).item() == pytest.approx((1 + schedule.alpha_bar[0].item()) / 2, rel=1e-12)
    assert schedule.level(-1.0) == Level(-1.0, 1.0, 0.0)
    assert schedule.level(42.0).alpha == pytest.approx(right.sqrt().item(), rel=1e-12)


@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 3, 10, 64, 100, 999, 1000])
def test_levels_go_evenly_from_the_most_noise_to_none(schedule: Schedule, steps: int) -> None:
    levels = schedule.levels(steps)
    times = [level.time for level in levels]
    assert len(levels) == steps + 1
    assert times[0] == 999 and levels[-1] == Level(-1.0, 1.0, 0.0)
    gaps = {a - b for a, b in itertools.pairwise(times)}
    assert gaps <= {math.floor(1000 / steps), math.ceil(1000 / steps)}
    assert all(a.sigma > b.sigma and a.alpha < b.alpha for a, b in itertools.pairwise(levels))
    if 1000 % steps == 0:
        assert times == list(range(999, -2, -1000 // steps))


def test_levels_of_the_mcvd_samplers() -> None:
    """100 steps are their labels 0, 10, ..., 990."""
    assert [999 - level.time for level in linear().levels(100)[:-1]] == list(range(0, 1000, 10))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_more_steps_than_times_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000 steps"):
        linear().levels(steps)


# -- conversions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0, 1, 500, 998])
@pytest.mark.parametrize("name", ["eps", "x0", "v"])
def test_readings_return_what_was_put_in(name: str, time: int) -> None:
    level = linear().level(float(time))
    x0, eps = random(2, 3), random(2, 3, seed=1)
    x = level.alpha * x0 + level.sigma * eps
    output = {"eps": eps, "x0": x0, "v": noise.v_of(x0, eps, level.alpha, level.sigma)}[name]
    reading = {"eps": noise.as_eps, "x0": noise.as_x0, "v": noise.as_v}[name]
    estimate = reading(output, x, level.alpha, level.sigma)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 0.999, 1.0])
def test_velocity_returns_what_was_put_in(sigma: float) -> None:
    x0, eps = random(2, 3), random(2, 3, seed=1)
    x = (1 - sigma) * x0 + sigma * eps
    estimate = noise.as_velocity(noise.velocity_of(x0, eps), x, 1 - sigma, sigma)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["eps", "x0", "v"])
def test_every_reading_of_any_output_makes_up_x(name: str) -> None:
    """Whatever the network says, alpha x0 + sigma eps is x; levels may differ by example."""
    reading = {"eps": noise.as_eps, "x0": noise.as_x0, "v": noise.as_v}[name]
    alpha, sigma = (part[:, None] for part in linear().at(torch.tensor([0, 400, 999])))
    x, output = random(3, 5), random(3, 5, seed=1)
    estimate = reading(output, x, alpha, sigma)
    torch.testing.assert_close(alpha * estimate.x0 + sigma * estimate.eps, x, rtol=0, atol=1e-10)


def test_v_is_safe_at_both_ends() -> None:
    x, v = random(2, 3), random(2, 3, seed=1)
    clean, pure = noise.as_v(v, x, 1.0, 0.0), noise.as_v(v, x, 0.0, 1.0)
    assert torch.equal(clean.x0, x) and torch.equal(clean.eps, v)
    assert torch.equal(pure.x0, -v) and torch.equal(pure.eps, x)


@pytest.mark.parametrize("name", ["eps", "v", "x0"])
def test_min_snr_weighs_the_error_of_x0_alike_whatever_is_predicted(name: Literal["eps", "v", "x0"]) -> None:
    """Where x0 is off by e, the weighted error of the output is min(SNR + 1, 5) e^2."""
    alpha, sigma = linear().at(torch.arange(0, 1000, 37))
    x, x0, e = random(28), random(28, seed=1), random(28, seed=2)

    def output(x0: Tensor) -> Tensor:
        eps = (x - alpha * x0) / sigma
        return {"eps": eps, "v": noise.v_of(x0, eps, alpha, sigma), "x0": x0}[name]

    weighted = noise.min_snr(alpha, sigma, name, limit=5.0) * (output(x0 + e) - output(x0)) ** 2
    snr = (alpha / sigma) ** 2
    assert len(x) == len(alpha) and bool((snr < 4).any()) and bool((snr > 4).any())
    torch.testing.assert_close(weighted, torch.where(snr < 4, snr + 1, 5.0) * e**2, rtol=1e-6, atol=1e-9)


# -- Gamma noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("theta0", [0.001, 0.1])
def test_gamma_variance_follows_the_schedule(theta0: float) -> None:
    """k theta^2 = 1 - alpha_bar at every time."""
    gamma = GammaNoise.of(linear(), theta0)
    torch.testing.assert_close(gamma.concentration * gamma.scale**2, 1 - linear().alpha_bar, rtol=1e-10, atol=0)
    assert bool((gamma.concentration.diff() > 0).all())


def test_gamma_concentration_of_mcvd() -> None:
    concentration = GammaNoise.of(linear()).concentration
    assert concentration[0].item() == pytest.approx(100.01, rel=1e-5)
    assert concentration[-1].item() == pytest.approx(2.48e10, rel=0.01)


@pytest.mark.parametrize("time", [0, 300, 999])
def test_gamma_noise_has_mean_0_variance_1_and_its_skew(time: int) -> None:
    gamma, n = GammaNoise.of(linear()), 200_000
    z = gamma.draw(torch.zeros(1, n, dtype=torch.float64), torch.tensor([time]), Rng.of(2))
    assert z.mean().item() == pytest.approx(0, abs=4 / n**0.5)
    assert z.var().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    skew = 2 / gamma.concentration[time].sqrt().item()
    assert ((z - z.mean()) ** 3).mean().item() == pytest.approx(skew, abs=4 * (6 / n) ** 0.5)


def test_gamma_noise_is_drawn_by_example() -> None:
    gamma, time = GammaNoise.of(linear()), torch.tensor([5, 800, 999])
    like = torch.zeros(3, 2, 4)
    three = gamma.draw(like, time, Rng.of(0, batch=3))
    one = gamma.draw(like[:1], time[:1], Rng.of(0))
    assert three.shape == like.shape and three.dtype == like.dtype
    assert torch.equal(three[:1], one)
