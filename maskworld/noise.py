"""Noise: seeded generators, one for each example; schedules; and what a network may predict.

x_t = alpha x0 + sigma eps. Time runs as in DDPM: 0 is the least noise, T - 1 the most, and -1 none at all.

Sections: Rng - schedules - conversions - weights - Gamma noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# -- Rng ------------------------------------------------------------------------------------------


def mix(*parts: int) -> int:
    """One 63-bit seed from several integers (splitmix64 over each in turn); order matters."""
    z = 0x9E3779B97F4A7C15
    for part in parts:
        z = (z ^ (part & 0xFFFFFFFFFFFFFFFF)) & 0xFFFFFFFFFFFFFFFF
        z = (z + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        z ^= z >> 31
    return z >> 1


class Rng:
    """A stack of generators, one for each example, so that an example's noise does not depend on its
    neighbours (as in EDM2). Draws are made on the CPU and moved: a GPU changes speed, not meaning.
    """

    def __init__(self, generators: Sequence[torch.Generator]):
        self.generators = list(generators)

    @classmethod
    def of(cls, *seed: int, batch: int = 1) -> Rng:
        """Generators for a batch, each seeded by (*seed, its place)."""
        return cls([torch.Generator().manual_seed(mix(*seed, i)) for i in range(batch)])

    def __len__(self) -> int:
        return len(self.generators)

    def __getitem__(self, index: Sequence[int]) -> Rng:
        """Some examples' generators: the same ones, which advance together with this stack."""
        return Rng([self.generators[i] for i in index])

    def _stack(self, draw: Callable[[torch.Generator], Tensor], device) -> Tensor:
        return torch.stack([draw(g) for g in self.generators]).to(device)

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "b *shape"]:
        return self._stack(lambda g: torch.randn(tuple(shape), generator=g), device)

    def uniform(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Float[Tensor, "b *shape"]:
        """From 0 (included) to 1 (excluded)."""
        return self._stack(lambda g: torch.rand(tuple(shape), generator=g), device)

    def integers(
        self, low: int, high: int, shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> Int[Tensor, "b *shape"]:
        """From `low` (included) to `high` (excluded)."""
        return self._stack(lambda g: torch.randint(low, high, tuple(shape), generator=g), device)

    def gamma(self, concentration: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Gamma(concentration, 1), one value for each element."""
        parts = [
            torch._standard_gamma(k, generator=g)  # pyright: ignore[reportPrivateImportUsage]
            for k, g in zip(concentration.cpu(), self.generators, strict=True)
        ]
        return torch.stack(parts).to(concentration.device)


def gaussian(like: Float[Tensor, "b *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
    """Standard normal noise of this shape, type and device."""
    assert len(rng) == like.shape[0], f"{len(rng)} generators for a batch of {like.shape[0]}"
    return rng.normal(like.shape[1:], like.device).to(like.dtype)


# -- schedules ------------------------------------------------------------------------------------


class Level(NamedTuple):
    """How noisy: x = alpha x0 + sigma eps at this time."""

    time: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Schedule:
    """How much is left of x0 at each of T times, least noise first; between whole times alpha^2 is linear."""

    alpha_bar: Float[Tensor, " T"]  # alpha^2, float64

    def __len__(self) -> int:
        return self.alpha_bar.shape[0]

    def at(self, time: Int[Tensor, " b"] | Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(alpha, sigma) in float64 at times from -1 (clean) to T - 1."""
        table = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar]).to(time.device)
        place = (time.double() + 1).clamp(0, len(self))
        low = place.floor().long().clamp(max=len(self) - 1)
        part = place - low
        alpha_bar = table[low] * (1 - part) + table[low + 1] * part
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def level(self, time: float) -> Level:
        alpha, sigma = self.at(torch.tensor([time], dtype=torch.float64))
        return Level(time, alpha.item(), sigma.item())

    def levels(self, steps: int) -> list[Level]:
        """`steps` + 1 levels from the most noise to none, evenly spaced in time (DDIM's "trailing" spacing).

        Where `steps` divides T these are the times of the MCVD samplers, 999, 989, ..., 9 and then clean.
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"between 1 and {len(self)} steps, not {steps}")
        times = torch.linspace(len(self) - 1, -1, steps + 1, dtype=torch.float64).round().tolist()
        return [self.level(time) for time in times]


def linear(num_times: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> Schedule:
    """DDPM's schedule: beta rises linearly (Ho et al. 2020, Sec. 4)."""
    beta = torch.linspace(beta_first, beta_last, num_times, dtype=torch.float64)
    return Schedule(torch.cumprod(1 - beta, 0))


def cosine(num_times: int = 1000, beta_max: float | None = 0.999) -> Schedule:
    """Nichol & Dhariwal 2021, Eq. 17, with their limit on beta; None leaves it out, as the original MCVD does."""
    t = torch.arange(num_times + 1, dtype=torch.float64) / num_times
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    if beta_max is None:
        return Schedule(f[1:] / f[0])
    beta = (1 - f[1:] / f[:-1]).clamp(max=beta_max)
    return Schedule(torch.cumprod(1 - beta, 0))


# -- conversions: what a network may predict ------------------------------------------------------


class Estimate(NamedTuple):
    """What a network's output says of the clean frames and of the noise."""

    x0: Tensor
    eps: Tensor


Reading = Callable[[Tensor, Tensor, Tensor | float, Tensor | float], Estimate]
"""(output, x, alpha, sigma) -> Estimate."""


def as_eps(output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Estimate:
    """The output is the noise."""
    return Estimate((x - sigma * output) / alpha, output)


def as_x0(output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Estimate:
    """The output is the clean signal."""
    return Estimate(output, (x - alpha * output) / sigma)


def as_v(output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Estimate:
    """The output is v = alpha eps - sigma x0 (Salimans & Ho 2022); needs alpha^2 + sigma^2 = 1."""
    return Estimate(alpha * x - sigma * output, sigma * x + alpha * output)


def as_velocity(output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Estimate:
    """The output is x0 - eps, the velocity of the straight path; needs alpha + sigma = 1."""
    return Estimate(x + sigma * output, x - alpha * output)


def v_of(x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """The target that `as_v` reads back."""
    return alpha * eps - sigma * x0


def velocity_of(x0: Tensor, eps: Tensor) -> Tensor:
    """The target that `as_velocity` reads back."""
    return x0 - eps


# -- weights of the loss over noise levels --------------------------------------------------------


def min_snr(
    alpha: Float[Tensor, " b"],
    sigma: Float[Tensor, " b"],
    predicts: Literal["eps", "v", "x0"],
    limit: float = 5.0,
) -> Float[Tensor, " b"]:
    """Weights for the squared error of what is predicted, such that x0's error weighs min(SNR + 1, limit).

    SNR + 1 is the weight that the plain loss of v gives to x0 (Salimans & Ho 2022, Sec. 4); the limit is that of
    min-SNR (Hang et al. 2023, Sec. 3.4).
    """
    snr = (alpha / sigma) ** 2
    weight = (snr + 1).clamp(max=limit)
    return weight / {"eps": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[predicts]


# -- Gamma noise (MCVD, App. E; Nachmani et al. 2021) -----------------------------------------------


@dataclass(frozen=True)
class GammaNoise:
    """Centred Gamma noise of unit variance whose shape depends on the level: skewed where there is little noise.

    k and theta follow from the schedule: k_t = beta_t / (alpha_bar_t theta0^2), summed up to t, and
    theta_t = alpha_t theta0, so that k theta^2 = 1 - alpha_bar.
    """

    concentration: Float[Tensor, " T"]
    scale: Float[Tensor, " T"]

    @classmethod
    def of(cls, schedule: Schedule, theta0: float = 0.001) -> GammaNoise:
        alpha_bar = schedule.alpha_bar
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        k = (1 - alpha_bar / before) / (alpha_bar * theta0**2)
        return cls(torch.cumsum(k, 0), alpha_bar.sqrt() * theta0)

    def draw(self, like: Tensor, time: Int[Tensor, " b"], rng: Rng) -> Tensor:
        """Noise of mean 0 and variance 1 at these times; float64 inside, where float32 would cancel."""
        shape = [-1] + [1] * (like.ndim - 1)
        k = self.concentration.to(time.device)[time].view(shape)
        theta = self.scale.to(time.device)[time].view(shape)
        g = rng.gamma(k.expand(like.shape).contiguous())
        return ((g - k) * theta / (k * theta**2).sqrt()).to(like)
