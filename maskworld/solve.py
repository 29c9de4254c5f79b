"""Solvers: from noise to a clean signal along a list of levels. Plain functions with one signature.

    x = solver(denoise, x, levels, rng)

`denoise` says what is clean in x at a level, and what is noise; clipping, guidance and known pixels are its
business. `levels` go from the most noise to the least (`Schedule.levels`), the last one usually clean, and x
comes back at the last. Only `ddpm`, and `ddim` with eta > 0, draw from `rng`. All but `fpndm` serve straight
paths (alpha + sigma = 1) as well as those with alpha^2 + sigma^2 = 1.

Sections: words - stochastic - first and second order - multistep - by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.noise import Estimate, Level, Rng, Schedule, gaussian

# -- words ----------------------------------------------------------------------------------------

Denoise = Callable[[Tensor, Level], Estimate]
"""(x, its level) -> what is clean in it, and what is noise."""

Solver = Callable[[Denoise, Tensor, Sequence[Level], Rng], Tensor]
"""(denoise, x, levels, rng) -> x at the last level."""

Noise = Callable[[Tensor, Level, Rng], Tensor]
"""(like, the level that the step leaves, rng) -> noise of mean 0 and variance 1."""


def _steps(levels: Sequence[Level]) -> list[tuple[Level, Level]]:
    """(from, to) of every step."""
    steps = list(itertools.pairwise(levels))
    if not steps or any(a.sigma * b.alpha <= b.sigma * a.alpha for a, b in steps):
        raise ValueError(f"a solver wants two levels or more, each with less noise than the last, not {levels}")
    return steps


# Below this alpha (DDPM's linear schedule ends at 0.0064, a cosine near 0) eps tells next to nothing of x0,
# and its small errors come out times 1 / alpha: there a step is DDIM's, whatever the order of the solver.
_ALL_NOISE = 0.005


def _move(x: Tensor, eps: Tensor, a: Level, b: Level) -> Tensor:
    """From level a to b as if eps were constant: dy = eps ds, where y = x / alpha and s = sigma / alpha."""
    ratio = b.alpha / a.alpha
    return ratio * x + (b.sigma - ratio * a.sigma) * eps


def _renoise(estimate: Estimate, level: Level) -> Tensor:
    """What was estimated, at another level: `_move` where x = alpha x0 + sigma eps, and safe at alpha = 0."""
    return level.alpha * estimate.x0 + level.sigma * estimate.eps


# -- stochastic -----------------------------------------------------------------------------------


def _gaussian(like: Tensor, level: Level, rng: Rng) -> Tensor:
    return gaussian(like, rng)


def ddpm(
    denoise: Denoise,
    x: Float[Tensor, " b *shape"],
    levels: Sequence[Level],
    rng: Rng,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
    noise: Noise = _gaussian,
) -> Float[Tensor, " b *shape"]:
    """Ancestral sampling (Ho et al. 2020, Alg. 2) on the chain of these levels; one call a step.

    Each step draws from q(x_b | x_a, x0), Eq. 6 and 7, or with `variance="beta"` with the wider variance of
    Sec. 3.2. The step that ends clean adds no noise and gives x0. For Gamma noise pass a `noise` drawing it.
    """
    if variance not in ("posterior", "beta"):
        raise ValueError(f'the variance of DDPM is "posterior" or "beta", not {variance!r}')
    for a, b in _steps(levels):
        x0 = denoise(x, a).x0
        ratio = a.alpha / b.alpha
        beta = a.sigma**2 - (ratio * b.sigma) ** 2  # the variance that the forward step from b to a adds
        kept = (b.sigma / a.sigma) ** 2
        x = (b.alpha * beta / a.sigma**2) * x0 + (ratio * kept) * x
        if b.sigma > 0:
            x = x + math.sqrt(beta * kept if variance == "posterior" else beta) * noise(x, a, rng)
    return x


def ddim(
    denoise: Denoise,
    x: Float[Tensor, " b *shape"],
    levels: Sequence[Level],
    rng: Rng,
    *,
    eta: float = 0.0,
) -> Float[Tensor, " b *shape"]:
    """Song et al. 2021, Eq. 12 and 16; one call a step. eta = 0 draws nothing, eta = 1 is DDPM.

    x0 and eps are used as `denoise` gives them: where it clips x0, it decides whether eps follows.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta goes from 0 (no noise) to 1 (DDPM), not {eta}")
    for a, b in _steps(levels):
        estimate = denoise(x, a)
        fresh = eta * (b.sigma / a.sigma) * math.sqrt(a.sigma**2 - (a.alpha / b.alpha * b.sigma) ** 2)
        x = _renoise(estimate, Level(b.time, b.alpha, math.sqrt(b.sigma**2 - fresh**2)))
        if fresh > 0:
            x = x + fresh * gaussian(x, rng)
    return x


# -- first and second order -----------------------------------------------------------------------


def euler(
    denoise: Denoise, x: Float[Tensor, " b *shape"], levels: Sequence[Level], rng: Rng
) -> Float[Tensor, " b *shape"]:
    """Euler's method for dy/ds = eps (Karras et al. 2022); one call a step.

    It is `ddim` without noise wherever x = alpha x0 + sigma eps, and unlike it deaf to a clipped x0.
    """
    for a, b in _steps(levels):
        estimate = denoise(x, a)
        x = _renoise(estimate, b) if a.alpha < _ALL_NOISE else _move(x, estimate.eps, a, b)
    return x


def heun(
    denoise: Denoise, x: Float[Tensor, " b *shape"], levels: Sequence[Level], rng: Rng
) -> Float[Tensor, " b *shape"]:
    """Heun's method for dy/ds = eps (Karras et al. 2022, Alg. 1); two calls a step.

    The step that ends clean, and those that leave almost pure noise, are of first order, with one call.
    """
    for a, b in _steps(levels):
        estimate = denoise(x, a)
        if a.alpha < _ALL_NOISE:
            x = _renoise(estimate, b)
            continue
        eps = estimate.eps
        if b.sigma > 0:
            eps = (eps + denoise(_move(x, eps, a, b), b).eps) / 2
        x = _move(x, eps, a, b)
    return x


# -- multistep ------------------------------------------------------------------------------------


def dpmpp_2m(
    denoise: Denoise, x: Float[Tensor, " b *shape"], levels: Sequence[Level], rng: Rng
) -> Float[Tensor, " b *shape"]:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2); one call a step. It reads x0 alone, so x0 may be clipped.

    The first step, and the one that ends clean (where x = x0), are of first order.
    """
    before: tuple[Level, Tensor] | None = None
    for a, b in _steps(levels):
        x0 = ahead = denoise(x, a).x0
        if before is not None and b.sigma > 0:
            h_before, h = _half_log_snr(a) - _half_log_snr(before[0]), _half_log_snr(b) - _half_log_snr(a)
            ahead = x0 + (h / (2 * h_before)) * (x0 - before[1])
        ratio = b.sigma / a.sigma
        x = ratio * x + (b.alpha - ratio * a.alpha) * ahead
        before = a, x0
    return x


def _half_log_snr(level: Level) -> float:
    return math.log(level.alpha / level.sigma) if level.alpha > 0 else -math.inf


# Adams-Bashforth: the weights of the newest value, the one before, ...
_ADAMS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def fpndm(
    denoise: Denoise,
    x: Float[Tensor, " b *shape"],
    levels: Sequence[Level],
    rng: Rng,
    *,
    schedule: Schedule | None = None,
) -> Float[Tensor, " b *shape"]:
    """F-PNDM (Liu et al. 2022, Alg. 2): three pseudo Runge-Kutta steps of four calls, then multistep.

    Levels are evenly spaced in time. The Runge-Kutta steps also call at the time midway between two levels;
    how noisy it is there says the schedule, or without one an interpolation of the levels around. The step
    that ends clean is a multistep even where it is among the first three, of as many values as there are;
    steps that leave almost pure noise are DDIM's, and the others count from there.
    Raises ValueError where alpha^2 + sigma^2 is not 1.
    """
    if any(abs(level.alpha**2 + level.sigma**2 - 1) > 1e-6 for level in levels):
        raise ValueError("fpndm is for levels with alpha^2 + sigma^2 = 1; take heun or dpmpp_2m for others")
    history: list[Tensor] = []  # eps at the levels passed, the newest first
    for i, (a, b) in enumerate(_steps(levels)):
        estimate = denoise(x, a)
        if a.alpha < _ALL_NOISE:
            x = _renoise(estimate, b)
            continue
        history = [estimate.eps, *history[:3]]
        if len(history) < 4 and b.sigma > 0:
            time = (a.time + b.time) / 2
            middle = schedule.level(time) if schedule else _between(levels[i : i + 3], time)
            e1 = estimate.eps
            e2 = denoise(_move(x, e1, a, middle), middle).eps
            e3 = denoise(_move(x, e2, a, middle), middle).eps
            e4 = denoise(_move(x, e3, a, b), b).eps
            eps = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        else:
            eps = torch.zeros_like(x)
            for weight, e in zip(_ADAMS[len(history)], history, strict=True):
                eps = eps + weight * e
        x = _move(x, eps, a, b)
    return x


def _between(levels: Sequence[Level], time: float) -> Level:
    """The level at a time among two or three, by the polynomial through their angles atan(sigma / alpha)."""
    angle = 0.0
    for one in levels:
        others = [other.time for other in levels if other is not one]
        angle += math.atan2(one.sigma, one.alpha) * math.prod((time - t) / (one.time - t) for t in others)
    return Level(time, math.cos(angle), math.sin(angle))


# -- by name --------------------------------------------------------------------------------------

SOLVERS: dict[str, Solver] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "fpndm": fpndm,
}


def calls(solver: Solver, levels: Sequence[Level]) -> int:
    """How often a solver calls the network along these levels, found by counting."""
    count = 0

    def denoise(x: Tensor, level: Level) -> Estimate:
        nonlocal count
        count += 1
        return Estimate(x, x)

    solver(denoise, torch.zeros(1, 1), levels, Rng.of(0))
    return count
