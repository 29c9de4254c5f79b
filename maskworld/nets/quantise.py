"""Vectors to numbers and back: a codebook that learns, and a grid that is fixed.

    found = quantiser(features)                        codes, their vectors, and how far the features are from them
    quantiser.learn(features, found.codes, rng)        Nearest alone: the codebook follows what was assigned to it

Both compute in float32, whatever the caller's autocast says: a code is a function of its features alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantised(NamedTuple):
    """What a quantiser makes of features.

    vectors      of the codes; their gradient goes straight through to the features
    commitment   mean squared distance of each example's features to their codes; pulls on the features alone
    """

    codes: Int[Tensor, "b gh gw"]
    vectors: Float[Tensor, "b gh gw d"]
    commitment: Float[Tensor, " b"]


def float32(x: Tensor) -> torch.autocast:
    """The time of a `with` in which autocast is off on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)


# -- a codebook -----------------------------------------------------------------------------------


class Nearest(nn.Module):
    """The nearest of `vocab` vectors; each is the running mean of the features that were assigned to it
    (van den Oord et al. 2017, App. A.1). A code that is hardly used begins again at a feature of the batch.

    decay   how much of the running mean is kept at each step
    unit    features and codes are of length 1, as in VQ-KD (Peng et al. 2022, Sec. 2.1)

    differs: the codebook begins at clusters of the first batch, and codes are restarted (Zeghidour et al. 2021,
    Sec. III-C), without which most of them would never be used.
    """

    DEAD = 0.03
    """A code with less than this share of the mean use is restarted."""

    codebook: Tensor
    count: Tensor
    begun: Tensor

    def __init__(self, vocab: int, dim: int, decay: float = 0.98, unit: bool = False):
        super().__init__()
        if vocab < 2 or dim < 1:
            raise ValueError(f"at least 2 codes of 1 number, not {vocab} of {dim}")
        self.vocab, self.dim, self.decay, self.unit = vocab, dim, decay, unit
        start = torch.randn(vocab, dim)
        self.register_buffer("codebook", F.normalize(start, dim=1) if unit else start)
        self.register_buffer("count", torch.ones(vocab))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, features: Float[Tensor, "b gh gw d"]) -> Quantised:
        with float32(features):
            x = self._scaled(features)
            codes = self.nearest(x)
            vectors = self.vectors(codes)
            away = reduce((x - vectors).square(), "b gh gw d -> b", "mean")
            return Quantised(codes, x + (vectors - x).detach(), away)

    @torch.no_grad()
    def nearest(self, features: Float[Tensor, "b gh gw d"]) -> Int[Tensor, "b gh gw"]:
        """The code of each feature."""
        with float32(features):
            x = rearrange(self._scaled(features), "b gh gw d -> (b gh gw) d")
            return _closest(x, self.codebook).view(features.shape[:-1])

    def vectors(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b gh gw d"]:
        return F.embedding(codes, self.codebook)

    @torch.no_grad()
    def learn(self, features: Float[Tensor, "b gh gw d"], codes: Int[Tensor, "b gh gw"], rng: torch.Generator) -> None:
        """One step of the running means. The first one places the codebook and looks at no codes."""
        with float32(features):
            x = rearrange(self._scaled(features), "b gh gw d -> (b gh gw) d")
            if not self.begun:
                self.codebook.copy_(self._place(x, rng))
                self.count.fill_(len(x) / self.vocab)
                self.begun.fill_(True)
            else:
                flat = codes.flatten()
                count = over_processes(torch.bincount(flat, minlength=self.vocab).to(x))
                total = over_processes(torch.zeros_like(self.codebook).index_add_(0, flat, x))
                total = torch.lerp(total, self.codebook * self.count[:, None], self.decay)
                self.count.lerp_(count, 1 - self.decay)
                self.codebook.copy_(total / self.count[:, None])
                self._restart(x, rng)
            if self.unit:
                self.codebook.copy_(F.normalize(self.codebook, dim=1))
            _of_the_first(self.codebook)

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features.float(), dim=-1) if self.unit else features.float()

    def _place(self, x: Float[Tensor, "n d"], rng: torch.Generator) -> Float[Tensor, "k d"]:
        """Ten rounds of k-means from features drawn at random."""
        centres = x[_some(len(x), self.vocab, rng).to(x.device)].clone()
        for _ in range(10):
            codes = _closest(x, centres)
            count = torch.bincount(codes, minlength=self.vocab)[:, None]
            total = torch.zeros_like(centres).index_add_(0, codes, x)
            centres = torch.where(count > 0, total / count.clamp(min=1), centres)
        return centres

    def _restart(self, x: Float[Tensor, "n d"], rng: torch.Generator) -> None:
        mean = self.count.mean()
        dead = self.count < self.DEAD * mean
        if dead.any():
            self.codebook[dead] = x[_some(len(x), int(dead.sum()), rng).to(x.device)]
            self.count[dead] = mean


def _closest(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    return (centres.square().sum(1) - 2 * x @ centres.T).argmin(1)


def _some(n: int, many: int, rng: torch.Generator) -> Int[Tensor, " many"]:
    """`many` of n places at random, each at most once more often than any other."""
    rounds = [torch.randperm(n, generator=rng) for _ in range(-(-many // n))]
    return torch.cat(rounds)[:many]


def over_processes(x: Tensor) -> Tensor:
    """The sum over all processes of a training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x


def _of_the_first(x: Tensor) -> None:
    """All processes take what the first one has: each restarts codes at features of its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(x, 0)


# -- a grid ---------------------------------------------------------------------------------------


class Scalar(nn.Module):
    """Finite scalar quantisation: each number is squashed and rounded to one of its levels, and the code counts
    through their combinations (Mentzer et al. 2023, Sec. 3.1, App. A.1). There is nothing to learn.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"each number of a code has 2 or more levels, not {tuple(levels)}")
        self.vocab, self.dim = math.prod(levels), len(levels)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, features: Float[Tensor, "b gh gw d"]) -> Quantised:
        with float32(features):
            x = self._bounded(features.float())
            steps = x + (x.round() - x).detach()
            vectors = steps / (self.levels // 2)
            return Quantised(self.number(vectors.detach()), vectors, features.new_zeros(len(features)).float())

    def number(self, vectors: Float[Tensor, "b gh gw d"]) -> Int[Tensor, "b gh gw"]:
        """The code of each vector of the grid."""
        half = self.levels // 2
        digits = (vectors * half + half).round().long()
        return (digits * self.basis).sum(-1)

    def vectors(self, codes: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b gh gw d"]:
        digits = codes[..., None] // self.basis % self.levels
        half = self.levels // 2
        return (digits - half) / half

    def nearest(self, features: Float[Tensor, "b gh gw d"]) -> Int[Tensor, "b gh gw"]:
        """The code of each feature."""
        return self(features).codes

    def _bounded(self, x: Tensor) -> Tensor:
        """Between the outermost levels, and a little beyond, so that rounding reaches them."""
        reach = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(x + torch.atanh(offset / reach)) * reach - offset
