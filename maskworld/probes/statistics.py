"""How sure a mean is: bootstraps by cluster, paired tests, correction for many tests. NumPy only.

Items of one episode or video are not independent: name their clusters, and whole clusters are drawn again.

Sections: intervals - pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Float

# -- intervals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean (or another statistic) and where it would fall again; `n` counts what was drawn independently.

    `low` and `high` are NaN where n = 1: one cluster says nothing of others.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval(
    values: Float[np.ndarray, " n"] | Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    kind: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> Interval:
    """A bootstrap interval of the mean; with `clusters` (one name per value) whole clusters are drawn.

    Percentile, or BCa (Efron 1987), which follows a skewed mean at few items.
    Raises ValueError for no values, values that are not finite, or clusters of another number.
    """
    return intervals(np.asarray(values, dtype=np.float64)[:, None], clusters, level, resamples, kind, seed)[0]


def intervals(
    values: Float[np.ndarray, "n m"],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    kind: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> list[Interval]:
    """`interval` of every column, with the same draws (a curve over time, say)."""
    _check(level, resamples)
    if kind not in ("percentile", "bca"):
        raise ValueError(f"an interval is percentile or bca, not {kind!r}")
    values = np.asarray(values, dtype=np.float64)
    sums, counts = _by_cluster(values, clusters)
    n, mean = len(counts), values.mean(0)
    if n == 1:
        return [Interval(float(m), math.nan, math.nan, 1) for m in mean]
    drawn = np.concatenate([times @ sums / (times @ counts)[:, None] for times in _draws(n, resamples, seed)])
    low, high = (1 - level) / 2, (1 + level) / 2
    if kind == "percentile":
        ends = [(low, high)] * values.shape[1]
    else:
        left_out = (sums.sum(0) - sums) / (counts.sum() - counts)[:, None]  # the mean without each cluster
        ends = [_bca_ends(d, m, j, low, high) for d, m, j in zip(drawn.T, mean, left_out.T, strict=True)]
    ends = [np.quantile(d, pair) for d, pair in zip(drawn.T, ends, strict=True)]
    return [Interval(float(m), float(lo), float(hi), n) for m, (lo, hi) in zip(mean, ends, strict=True)]


def interval_of_sets(
    statistic: Callable[..., float],
    sets: Sequence[np.ndarray],
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """An interval of a statistic of several sets (a Frechet distance, say), drawing items of each again.

    `paired`: the sets hold the same items, which are drawn together. The bias that drawing again brings is
    taken out (draws are centred on the value), so the interval is for what other sets of this size would
    give: distances between sets depend on the number of items. `n` is the size of the smallest set.
    """
    _check(level, resamples)
    sizes = [len(items) for items in sets]
    if not sizes or min(sizes) == 0:
        raise ValueError("a statistic of sets wants sets with something in them")
    if paired and len(set(sizes)) > 1:
        raise ValueError(f"paired sets have equally many items, not {sizes}")
    value = float(statistic(*sets))
    if min(sizes) == 1:
        return Interval(value, math.nan, math.nan, 1)
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for r in range(resamples):
        if paired:
            places = [rng.integers(sizes[0], size=sizes[0])] * len(sets)
        else:
            places = [rng.integers(size, size=size) for size in sizes]
        drawn[r] = statistic(*(items[place] for items, place in zip(sets, places, strict=True)))
    low, high = np.quantile(drawn - drawn.mean(), [(1 - level) / 2, (1 + level) / 2]) + value
    return Interval(value, float(low), float(high), min(sizes))


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval is between 0 and 1, not {level}")
    if resamples < 1:
        raise ValueError(f"a bootstrap draws at least once, not {resamples} times")


def _by_cluster(
    values: Float[np.ndarray, "n m"], clusters: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, "g m"], Float[np.ndarray, " g"]]:
    """The sum and the number of the values of each cluster."""
    if len(values) == 0:
        raise ValueError("no values: there is no mean of nothing")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite have no mean with an interval")
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values, but clusters for {len(clusters)}")
    places: dict[Hashable, int] = {}
    place = np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, place, values)
    return sums, np.bincount(place).astype(np.float64)


def _draws(n: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each of n items is drawn, for all resamples, a few megabytes at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, 1_000_000 // n)
    for start in range(0, resamples, step):
        r = min(step, resamples - start)
        place = rng.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        yield np.bincount(place.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def _bca_ends(
    drawn: Float[np.ndarray, " r"], mean: float, left_out: Float[np.ndarray, " g"], low: float, high: float
) -> tuple[float, float]:
    """Which quantiles of the draws end a BCa interval (Efron & Tibshirani 1993, Eq. 14.9 to 14.15)."""
    below = (np.mean(drawn < mean) + np.mean(drawn <= mean)) / 2
    away = left_out.mean() - left_out
    spread = (away**2).sum()
    if not 0 < below < 1 or spread == 0:
        return low, high  # all draws are the same or on one side: there is nothing to correct by
    normal = NormalDist()
    bias, acceleration = normal.inv_cdf(float(below)), (away**3).sum() / (6 * spread**1.5)

    def end(p: float) -> float:
        z = bias + normal.inv_cdf(p)
        return normal.cdf(float(bias + z / (1 - acceleration * z)))

    return end(low), end(high)


# -- pairs ----------------------------------------------------------------------------------------


def common(
    a: Mapping[Hashable, float], b: Mapping[Hashable, float]
) -> tuple[list[Hashable], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The items that both have, in a's order, and the values of each. ValueError where there are none."""
    items = [item for item in a if item in b]
    if not items:
        raise ValueError("the two have no item in common: nothing can be paired")
    return items, np.array([a[i] for i in items], dtype=float), np.array([b[i] for i in items], dtype=float)


def difference(
    a: Float[np.ndarray, " n"] | Sequence[float],
    b: Float[np.ndarray, " n"] | Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    kind: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> Interval:
    """The mean of a - b over the same items, item by item: much surer than two intervals side by side."""
    return interval(_minus(a, b), clusters, level, resamples, kind, seed)


def sign_test(a: Float[np.ndarray, " n"] | Sequence[float], b: Float[np.ndarray, " n"] | Sequence[float]) -> float:
    """The two-sided p-value of "a is above b as often as below", exact; ties are left out."""
    minus = _minus(a, b)
    above, below = int((minus > 0).sum()), int((minus < 0).sum())
    n, fewer = above + below, min(above, below)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))  # whole numbers: exact at any n
    return min(1.0, 2 * tail / 2**n)


def permutation_test(
    a: Float[np.ndarray, " n"] | Sequence[float],
    b: Float[np.ndarray, " n"] | Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """The two-sided p-value of the mean of a - b when the sign of each item (or cluster) is a coin's.

    All signs are tried where there are no more of them than `resamples`; otherwise as many are drawn, and
    the data count as one draw more, so that p is never 0 (Phipson & Smyth 2010).
    """
    _check(0.5, resamples)
    sums = _by_cluster(_minus(a, b)[:, None], clusters)[0][:, 0]
    n, seen = len(sums), abs(sums.sum())
    limit = seen - 1e-12 * np.abs(sums).sum()  # equal sums in another order of addition are equal
    if n < 63 and 2**n <= resamples:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= limit))
    rng = np.random.default_rng(seed)
    step, beyond = max(1, 1_000_000 // n), 0
    for start in range(0, resamples, step):
        signs = 1 - 2 * rng.integers(2, size=(min(step, resamples - start), n))
        beyond += int((np.abs(signs @ sums) >= limit).sum())
    return (beyond + 1) / (resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values made larger for having asked several questions (Holm 1979), so that 0.05 means 0.05 again."""
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise ValueError("a p-value is from 0 to 1")
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _minus(
    a: Float[np.ndarray, " n"] | Sequence[float], b: Float[np.ndarray, " n"] | Sequence[float]
) -> Float[np.ndarray, " n"]:
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"pairs want two lists of equal length, not {one.shape} and {other.shape}")
    return one - other
