"""Solvers: exact on a point, right on Gaussians, of the order they claim, and equal to diffusers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from maskworld import solve
from maskworld.noise import (
    Estimate,
    GammaNoise,
    Level,
    Rng,
    Schedule,
    as_eps,
    as_v,
    as_velocity,
    cosine,
    gaussian,
    linear,
)

STILL = ["ddim", "euler", "heun", "dpmpp_2m", "fpndm"]  # those that draw nothing
SCHEDULES = {"linear": linear(), "cosine": cosine(), "cosine without limit": cosine(beta_max=None)}


def gaussian_data(std: float) -> solve.Denoise:
    """The exact denoiser of data N(0, std^2)."""

    def denoise(x: Tensor, level: Level) -> Estimate:
        total = (level.alpha * std) ** 2 + level.sigma**2
        return Estimate(level.alpha * std**2 / total * x, level.sigma / total * x)

    return denoise


def one_point(x0: Tensor) -> solve.Denoise:
    """The exact denoiser of data that are always the same."""
    return lambda x, level: Estimate(x0, (x - level.alpha * x0) / level.sigma)


def two_bumps(x: Tensor, level: Level) -> Estimate:
    """The exact denoiser of an even mixture of N(-1, 0.3^2) and N(1, 0.3^2): bounded, not linear."""
    variance = level.alpha**2 * 0.09 + level.sigma**2
    centre = torch.tanh(x * level.alpha / variance)
    x0 = centre + level.alpha * 0.09 / variance * (x - level.alpha * centre)
    return Estimate(x0, (x - level.alpha * x0) / level.sigma)


def noise_like(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def factor(solver: solve.Solver, std: float, levels: list[Level]) -> float:
    """What a solver without noise multiplies x by: on Gaussian data it is linear."""
    one = torch.ones(1, 1, dtype=torch.float64)
    return solver(gaussian_data(std), one, levels, Rng.of(0)).item()


def ddpm_std(std: float, levels: list[Level]) -> float:
    """The standard deviation that DDPM ends with on Gaussian data, exactly.

    x at the end is a sum of the first x and the noise of each step, times numbers: example 0 begins with 1 and
    never gets noise, example i begins with 0 and gets a noise of 1 in step i, and they end as those numbers.
    """
    unit = iter(torch.eye(len(levels), dtype=torch.float64)[:, :, None])
    numbers = solve.ddpm(gaussian_data(std), next(unit), levels, Rng.of(0), noise=lambda like, level, rng: next(unit))
    return numbers.square().sum().sqrt().item()


# -- exact answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
@pytest.mark.parametrize("name", STILL)
def test_data_of_one_point_are_found_in_any_number_of_steps(name: str, steps: int, schedule: Schedule) -> None:
    x0, eps = noise_like(2, 3, seed=1), noise_like(2, 3, seed=2)
    levels = schedule.levels(steps)
    x = levels[0].alpha * x0 + levels[0].sigma * eps
    torch.testing.assert_close(solve.SOLVERS[name](one_point(x0), x, levels, Rng.of(0, batch=2)), x0, rtol=0, atol=1e-9)
    if steps > 1:  # stopped early, it stands at the last level with the noise that it began with
        last = levels[-2]
        stopped = solve.SOLVERS[name](one_point(x0), x, levels[:-1], Rng.of(0, batch=2))
        torch.testing.assert_close(stopped, last.alpha * x0 + last.sigma * eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [solve.ddpm, partial(solve.ddpm, variance="beta"), partial(solve.ddim, eta=1.0)])
def test_noise_is_gone_at_a_clean_end(solver: solve.Solver) -> None:
    x0 = noise_like(2, 3)
    out = solver(one_point(x0), noise_like(2, 3, seed=1), linear().levels(10), Rng.of(0, batch=2))
    torch.testing.assert_close(out, x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("std", "expected"), [(0.2, 0.186), (0.5, 0.486)])
def test_std_of_ddim_on_gaussian_data(std: float, expected: float) -> None:
    """The std that the original's DDIM with 100 steps ends with, without its last denoising."""
    # its figures are of samples, hence good to about a hundredth of themselves
    assert factor(solve.ddim, std, linear().levels(100)) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("steps", "std", "expected"),
    [(100, 0.2, 0.174), (100, 0.5, 0.467), (1000, 0.2, 0.196), (1000, 0.5, 0.496)],
)
def test_std_of_ddpm_on_gaussian_data(steps: int, std: float, expected: float) -> None:
    assert ddpm_std(std, linear().levels(steps)) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_step_is_the_one_of_the_paper(variance: str) -> None:
    """Ho et al. 2020, Eq. 6 and 7, with the beta of the chain of these levels."""
    a, b = linear().levels(100)[40:42]
    abar, abar_prev = a.alpha**2, b.alpha**2
    beta = 1 - abar / abar_prev
    x, x0, z = noise_like(2, 3), noise_like(2, 3, seed=1), noise_like(2, 3, seed=2)
    mean = math.sqrt(abar_prev) * beta / (1 - abar) * x0
    mean = mean + math.sqrt(1 - beta) * (1 - abar_prev) / (1 - abar) * x
    spread = math.sqrt(beta * (1 - abar_prev) / (1 - abar) if variance == "posterior" else beta)
    out = solve.ddpm(one_point(x0), x, [a, b], Rng.of(0, batch=2), variance=variance, noise=lambda like, level, rng: z)
    torch.testing.assert_close(out, mean + spread * z, rtol=0, atol=1e-12)


def test_dpmpp_2m_step_is_the_one_of_the_paper() -> None:
    """Lu et al. 2022, Alg. 2, on steps of uneven length in lambda = log(alpha / sigma)."""
    s, a, b = levels = [linear().level(time) for time in (700.0, 500.0, 420.0)]
    x, lam = noise_like(2, 3), {level: math.log(level.alpha / level.sigma) for level in levels}
    first = two_bumps(x, s).x0
    middle = a.sigma / s.sigma * x - a.alpha * math.expm1(lam[s] - lam[a]) * first
    second, r = two_bumps(middle, a).x0, (lam[a] - lam[s]) / (lam[b] - lam[a])
    ahead = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    expected = b.sigma / a.sigma * middle - b.alpha * math.expm1(lam[a] - lam[b]) * ahead
    out = solve.dpmpp_2m(two_bumps, x, levels, Rng.of(0, batch=2))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_fpndm_begins_with_the_runge_kutta_step_of_the_paper() -> None:
    """Liu et al. 2022, Eq. 13: classical Runge-Kutta, but each part of a step is DDIM's transfer."""
    a, m, b = (linear().level(time) for time in (700.0, 660.0, 620.0))
    x = noise_like(2, 3)

    def transfer(eps: Tensor, to: Level) -> Tensor:
        return to.alpha * (x - a.sigma * eps) / a.alpha + to.sigma * eps

    e1 = two_bumps(x, a).eps
    e2 = two_bumps(transfer(e1, m), m).eps
    e3 = two_bumps(transfer(e2, m), m).eps
    e4 = two_bumps(transfer(e3, b), b).eps
    out = solve.fpndm(two_bumps, x, [a, b], Rng.of(0, batch=2), schedule=linear())
    expected = transfer(e1 / 6 + e2 / 3 + e3 / 3 + e4 / 6, b)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_ddim_with_all_its_noise_is_ddpm() -> None:
    x, levels = noise_like(2, 3), linear().levels(20)
    ours = solve.ddim(two_bumps, x, levels, Rng.of(5, batch=2), eta=1.0)
    torch.testing.assert_close(ours, solve.ddpm(two_bumps, x, levels, Rng.of(5, batch=2)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_euler_is_ddim(schedule: Schedule) -> None:
    x, levels = noise_like(2, 3), schedule.levels(20)
    euler, ddim = (f(two_bumps, x, levels, Rng.of(0, batch=2)) for f in (solve.euler, solve.ddim))
    torch.testing.assert_close(euler, ddim, rtol=0, atol=1e-9)


def test_what_a_clipped_x0_changes() -> None:
    """DDIM and DPM-Solver++ take x0 as they are given it; Euler, Heun and F-PNDM go by eps alone."""

    def clipped(x: Tensor, level: Level) -> Estimate:
        estimate = two_bumps(x, level)
        return Estimate(estimate.x0.clamp(-0.5, 0.5), estimate.eps)

    x, levels = noise_like(2, 3), linear().levels(20)
    for name in STILL:
        free, tied = (solve.SOLVERS[name](d, x, levels, Rng.of(0, batch=2)) for d in (two_bumps, clipped))
        if name in ("ddim", "dpmpp_2m"):
            assert tied.abs().max() <= 0.5 + 1e-12 < free.abs().max()
        else:
            torch.testing.assert_close(tied, free, rtol=0, atol=0)


# -- order of convergence ---------------------------------------------------------------------------


def arc(steps: int) -> list[Level]:
    """Levels even in the angle, from much noise to little."""
    angles = torch.linspace(1.4, 0.2, steps + 1, dtype=torch.float64).tolist()
    return [Level(100 * angle, math.cos(angle), math.sin(angle)) for angle in angles]


def error(solver: solve.Solver, levels: list[Level], std: float = 0.5) -> float:
    """Against the exact solution on Gaussian data: x keeps its place in units of its standard deviation."""
    first, last = (math.hypot(level.alpha * std, level.sigma) for level in (levels[0], levels[-1]))
    return abs(factor(solver, std, levels) - last / first)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(solve.ddim, 1), (solve.euler, 1), (solve.heun, 2), (solve.dpmpp_2m, 2), (solve.fpndm, 2)],
)
def test_order_of_convergence(solver: solve.Solver, order: int) -> None:
    coarse, fine = error(solver, arc(64)), error(solver, arc(128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_fpndm_is_of_fourth_order_where_s_is_even_in_time() -> None:
    """Its weights are those for even steps of s = sigma / alpha (with others it is of second order)."""
    times = torch.arange(1025, dtype=torch.float64)
    schedule = Schedule(1 / (1 + (0.5 + 3 * times / 1024) ** 2))

    def levels(steps: int) -> list[Level]:
        return [schedule.level(float(time)) for time in range(1024, -1, -1024 // steps)]

    solver = partial(solve.fpndm, schedule=schedule)
    coarse, fine = error(solver, levels(64)), error(solver, levels(128))
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.3)
    # without the schedule the middles are interpolated, and that is the smaller error
    assert error(solve.fpndm, levels(64)) == pytest.approx(coarse, rel=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_higher_orders_come_closer_than_ddim_on_every_schedule(schedule: Schedule) -> None:
    """Also from a cosine schedule's all but infinite sigma / alpha, where eps alone would be hopeless."""
    miss = {name: abs(factor(solve.SOLVERS[name], 0.5, schedule.levels(50)) - 0.5) for name in STILL}
    assert max(miss["heun"], miss["dpmpp_2m"], miss["fpndm"]) < miss["ddim"] / 3, miss


@pytest.mark.parametrize("steps", [10, 50, 100])
@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=["linear", "cosine"])
def test_levels_between_are_nearly_the_schedules(schedule: Schedule, steps: int) -> None:
    """Without a schedule F-PNDM asks at interpolated levels, close to what their times say."""
    asked: list[Level] = []

    def denoise(x: Tensor, level: Level) -> Estimate:
        asked.append(level)
        return two_bumps(x, level)

    levels = schedule.levels(steps)
    solve.fpndm(denoise, noise_like(1, 2), levels, Rng.of(0))
    between = [level for level in asked if level not in levels]
    assert len(between) == 6
    for level in between:
        true = schedule.level(level.time)
        assert math.atan2(level.sigma, level.alpha) == pytest.approx(math.atan2(true.sigma, true.alpha), abs=0.005)


# -- contracts ------------------------------------------------------------------------------------


def test_calls() -> None:
    count = {name: solve.calls(f, linear().levels(100)) for name, f in solve.SOLVERS.items()}
    assert count == {"ddpm": 100, "ddim": 100, "euler": 100, "heun": 199, "dpmpp_2m": 100, "fpndm": 109}
    assert [solve.calls(solve.fpndm, linear().levels(n)) for n in (1, 2, 3, 4)] == [1, 5, 9, 13]
    assert solve.calls(solve.heun, linear().levels(10)[:-1]) == 18  # nine steps, none of which ends clean


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_arithmetic_stays_in_the_type_of_x(name: str, dtype: torch.dtype) -> None:
    x, seen = noise_like(1, 4, dtype=dtype), set()

    def denoise(x: Tensor, level: Level) -> Estimate:
        seen.add(x.dtype)
        return two_bumps(x, level)

    assert solve.SOLVERS[name](denoise, x, linear().levels(5), Rng.of(0)).dtype == dtype
    assert seen == {dtype}


@pytest.mark.parametrize("name", solve.SOLVERS)
def test_an_example_does_not_depend_on_its_neighbours(name: str) -> None:
    x, levels = noise_like(3, 2, 2), linear().levels(5)
    together = solve.SOLVERS[name](two_bumps, x, levels, Rng.of(7, batch=3))
    alone = solve.SOLVERS[name](two_bumps, x[1:2], levels, Rng.of(7, batch=3)[[1]])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", STILL)
def test_solvers_without_noise_leave_rng_and_x_alone(name: str) -> None:
    x, rng = noise_like(1, 3), Rng.of(3)
    kept = x.clone()
    solve.SOLVERS[name](two_bumps, x, linear().levels(5), rng)
    assert torch.equal(rng.normal((4,)), Rng.of(3).normal((4,)))
    assert torch.equal(x, kept)


def test_ddpm_takes_its_noise_at_the_level_that_the_step_leaves() -> None:
    seen: list[Level] = []
    gamma = GammaNoise.of(linear())

    def noise(like: Tensor, level: Level, rng: Rng) -> Tensor:
        seen.append(level)
        return gamma.draw(like, torch.tensor([int(level.time)]), rng)

    levels = linear().levels(10)
    out = solve.ddpm(two_bumps, noise_like(1, 8), levels, Rng.of(0), noise=noise)
    assert seen == levels[:-2]  # not for the step that ends clean
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("name", sorted(set(solve.SOLVERS) - {"fpndm"}))
def test_straight_paths_from_pure_noise(name: str) -> None:
    """alpha + sigma = 1 and begins at alpha = 0."""
    levels = [Level(100 * s, 1 - s, s) for s in torch.linspace(1, 0, 41, dtype=torch.float64).tolist()]
    x = noise_like(1000, 8)

    def denoise(x: Tensor, level: Level) -> Estimate:
        exact = gaussian_data(0.5)(x, level)
        return as_velocity(exact.x0 - exact.eps, x, level.alpha, level.sigma)

    out = solve.SOLVERS[name](denoise, x, levels, Rng.of(0, batch=1000))
    rel = {"ddpm": 0.1, "ddim": 0.05, "euler": 0.05}.get(name, 0.01)
    assert out.std().item() / x.std().item() == pytest.approx(0.5, rel=rel)


def test_bad_input_is_refused() -> None:
    x, levels, rng = noise_like(1, 2), linear().levels(4), Rng.of(0)
    for name, solver in solve.SOLVERS.items():
        for bad in ([], levels[:1], levels[::-1], [levels[0], levels[0]], [levels[-1], levels[-1]]):
            with pytest.raises(ValueError, match="less noise"):
                solver(two_bumps, x, bad, rng)
        assert solver(two_bumps, x, levels, rng).shape == x.shape, name
    with pytest.raises(ValueError, match="eta"):
        solve.ddim(two_bumps, x, levels, rng, eta=1.5)
    with pytest.raises((ValueError, TypeError), match="variance"):
        solve.ddpm(two_bumps, x, levels, rng, variance="betas")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        solve.fpndm(two_bumps, x, [Level(1, 0.2, 0.8), Level(0, 1.0, 0.0)], rng)


# -- diffusers ------------------------------------------------------------------------------------

SETTINGS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def network(x: Tensor, time: float) -> Tensor:
    """What a network would say that is told the time: the noise."""
    return two_bumps(x, linear().level(float(time))).eps


def denoise_eps(x: Tensor, level: Level) -> Estimate:
    return as_eps(network(x, level.time), x, level.alpha, level.sigma)


def denoise_v(x: Tensor, level: Level) -> Estimate:
    exact = two_bumps(x, level)
    return as_v(level.alpha * exact.eps - level.sigma * exact.x0, x, level.alpha, level.sigma)


def theirs(scheduler, x: Tensor, stop: int = 0, scale: Callable[[Tensor, float], Tensor] | None = None) -> Tensor:
    """Run a scheduler of diffusers to its end, or leave out the last `stop` steps."""
    times = scheduler.timesteps[: len(scheduler.timesteps) - stop]
    for time in times:
        seen = scale(x, time) if scale else x
        x = scheduler.step(network(seen, float(time)), time, x, return_dict=False)[0]
    return x


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_ddim_of_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        **SETTINGS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    x = noise_like(4, 3)
    for denoise in (denoise_eps, denoise_v):
        ours = solve.ddim(denoise, x, linear().levels(steps), Rng.of(0, batch=4))
        torch.testing.assert_close(ours, theirs(scheduler, x), rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("variance", "kind"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_ddpm_of_diffusers(variance: str, kind: str) -> None:
    """With `fixed_large` diffusers adds noise to the step that ends clean too, so both stop before it."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(**SETTINGS, clip_sample=False, variance_type=kind, timestep_spacing="trailing")
    scheduler.set_timesteps(50)
    stop = 1 if kind == "fixed_large" else 0
    draws = torch.Generator().manual_seed(3)
    x, levels = noise_like(2, 3), linear().levels(50)
    ours = solve.ddpm(
        two_bumps,
        x,
        levels[: len(levels) - stop],
        Rng.of(0, batch=2),
        variance=variance,
        noise=lambda like, level, rng: torch.randn(like.shape, generator=draws, dtype=like.dtype),
    )
    out, draws_again = x, torch.Generator().manual_seed(3)
    for time in scheduler.timesteps[: len(scheduler.timesteps) - stop]:
        out = scheduler.step(network(out, float(time)), time, out, generator=draws_again).prev_sample
    torch.testing.assert_close(ours, out, rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [10, 50, 100])
def test_fpndm_of_diffusers(steps: int) -> None:
    """Numbers of steps for which the middle between two levels is a whole time."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.PNDMScheduler(
        **SETTINGS, skip_prk_steps=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    x, levels = noise_like(4, 3), linear().levels(steps)
    ours = solve.fpndm(denoise_eps, x, levels, Rng.of(0, batch=4), schedule=linear())
    torch.testing.assert_close(ours, theirs(scheduler, x), rtol=0, atol=1e-5)
    bare = solve.fpndm(denoise_eps, x, levels, Rng.of(0, batch=4))
    torch.testing.assert_close(bare, ours, rtol=0, atol=2e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_dpmpp_2m_of_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SETTINGS,
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    x = noise_like(4, 3)
    ours = solve.dpmpp_2m(denoise_eps, x, linear().levels(steps), Rng.of(0, batch=4))
    torch.testing.assert_close(ours, theirs(scheduler, x), rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["euler", "heun"])
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_euler_and_heun_of_diffusers(name: str, steps: int) -> None:
    """Theirs carry y = x / alpha."""
    diffusers = pytest.importorskip("diffusers")
    kind = {"euler": diffusers.EulerDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler}[name]
    scheduler = kind(**SETTINGS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x, levels = noise_like(4, 3), linear().levels(steps)
    y = theirs(scheduler, x / levels[0].alpha, scale=scheduler.scale_model_input)
    ours = solve.SOLVERS[name](denoise_eps, x, levels, Rng.of(0, batch=4))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)


def test_samples_of_two_bumps_are_two_bumps() -> None:
    """The law of what comes out, end to end: half on each side, with the right centre and width."""
    rng = Rng.of(1, batch=1)
    x = gaussian(torch.empty(1, 20_000), rng)
    for name in ("ddpm", "dpmpp_2m", "heun", "fpndm"):
        out = solve.SOLVERS[name](two_bumps, x, linear().levels(100), rng)
        right = out > 0
        assert right.double().mean().item() == pytest.approx(0.5, abs=0.015), name
        assert out[right].mean().item() == pytest.approx(1.0, abs=0.015), name
        assert out[right].std().item() == pytest.approx(0.3, abs=0.02), name
