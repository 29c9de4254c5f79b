import math

import numpy as np
import pytest

from maskworld.probes import statistics as s


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# -- intervals ------------------------------------------------------------------------------------


def test_an_interval_holds_its_mean_and_is_as_wide_as_theory_says():
    values = draws(400) * 2 + 5
    got = s.interval(values)
    error = values.std() / math.sqrt(400)
    assert got.mean == pytest.approx(values.mean()) and got.n == 400
    assert (got.high - got.low) == pytest.approx(2 * 1.96 * error, rel=0.08)
    half = s.interval(values, level=0.5)
    assert (half.high - half.low) == pytest.approx(2 * 0.674 * error, rel=0.1)
    assert got == s.interval(values) and got != s.interval(values, seed=1)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_scipy_draws_the_same_interval(kind):
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.exp(draws(40))  # skewed, so that the two kinds differ
    want = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=kind, rng=np.random.default_rng(1)
    ).confidence_interval
    got = s.interval(values, kind=kind, resamples=20_000)
    width = want.high - want.low
    assert got.low == pytest.approx(want.low, abs=0.03 * width)
    assert got.high == pytest.approx(want.high, abs=0.03 * width)


def test_bca_follows_the_skew():
    values = np.exp(draws(40))
    plain, bca = s.interval(values), s.interval(values, kind="bca")
    assert bca.low > plain.low and bca.high > plain.high


def coverage(kind: str, by_cluster: bool, trials: int = 300) -> float:
    """How often a 90 % interval holds the true mean, 0, of 24 clusters of 1 to 7 values."""
    clusters = np.repeat(np.arange(24), np.arange(24) % 7 + 1)
    hits = 0
    for trial in range(trials):
        values = draws(24, seed=trial)[clusters] + 0.5 * draws(len(clusters), seed=10_000 + trial)
        named = clusters.tolist() if by_cluster else None
        got = s.interval(values, named, level=0.9, resamples=400, kind=kind, seed=trial)
        hits += got.low <= 0 <= got.high
    return hits / trials


def test_intervals_by_cluster_hold_the_truth_as_often_as_they_say():
    # 300 trials have a standard error of 0.017; at 24 clusters a bootstrap is a little too narrow.
    assert 0.82 < coverage("percentile", by_cluster=True) < 0.95
    assert 0.82 < coverage("bca", by_cluster=True) < 0.95
    assert coverage("percentile", by_cluster=False) < 0.75  # what the clusters are for


def test_clusters_of_one_are_no_clusters_and_names_do_not_matter():
    values = draws(30)
    assert s.interval(values, list(range(30))) == s.interval(values)
    assert s.interval(values, [f"clip {i}" for i in range(30)]) == s.interval(values)
    twice = s.interval(np.repeat(values, 2), np.repeat(np.arange(30), 2).tolist())
    assert twice.n == 30 and twice.low == pytest.approx(s.interval(values).low)


def test_a_curve_is_its_columns():
    values = draws(20, 3)
    for column, got in enumerate(s.intervals(values, resamples=300)):
        want = s.interval(values[:, column], resamples=300)
        assert [got.mean, got.low, got.high] == pytest.approx([want.mean, want.low, want.high], rel=1e-9)


def test_values_that_are_all_the_same_have_no_width():
    for kind in ("percentile", "bca"):
        got = s.interval([2.5] * 10, kind=kind)
        assert (got.mean, got.low, got.high) == (2.5, 2.5, 2.5)
        uneven = s.interval([2.5] * 10, list("abbbccccdd"), kind=kind)  # how many are drawn does not matter
        assert (uneven.low, uneven.high, uneven.n) == (2.5, 2.5, 4)


def test_one_cluster_says_nothing_of_others():
    got = s.interval([1.0, 2.0], ["a", "a"])
    assert got.mean == 1.5 and math.isnan(got.low) and math.isnan(got.high) and got.n == 1


@pytest.mark.parametrize(
    ("values", "settings", "says"),
    [
        ([], {}, "no values"),
        ([1.0, math.inf], {}, "finite"),
        ([1.0, 2.0], {"clusters": ["a"]}, "clusters for 1"),
        ([1.0, 2.0], {"level": 95.0}, "between 0 and 1"),
        ([1.0, 2.0], {"resamples": 0}, "at least once"),
    ],
)
def test_what_has_no_interval_is_refused(values, settings, says):
    with pytest.raises(ValueError, match=says):
        s.interval(values, **settings)


def test_an_interval_of_two_sets():
    x, y = draws(200), draws(150, seed=1) + 1

    def gap(a, b):
        return float(b.mean() - a.mean())

    got = s.interval_of_sets(gap, [x, y], resamples=1000)
    error = math.sqrt(x.var() / 200 + y.var() / 150)
    assert got.mean == pytest.approx(gap(x, y)) and got.n == 150
    assert (got.high - got.low) == pytest.approx(2 * 1.96 * error, rel=0.12)
    # The same items in both: what they share goes away, and with it nearly all of the width.
    y = x + 1 + 0.01 * y[:1]
    paired = s.interval_of_sets(gap, [x, y], paired=True, resamples=200)
    apart = s.interval_of_sets(gap, [x, y], resamples=200)
    assert (paired.high - paired.low) < 1e-6 < (apart.high - apart.low)
    with pytest.raises(ValueError, match="equally many"):
        s.interval_of_sets(gap, [x, y[:5]], paired=True)
    with pytest.raises(ValueError, match="something in them"):
        s.interval_of_sets(gap, [x, y[:0]])


def test_the_bias_of_drawing_again_is_taken_out():
    """A squared gap of means, like every distance between sets, grows when items are drawn again."""

    def distance(a, b):
        return float(((b.mean(0) - a.mean(0)) ** 2).sum())

    expected = np.mean([distance(draws(30, 50, seed=i), draws(30, 50, seed=1000 + i)) for i in range(200)])
    hits = 0
    for i in range(100):
        got = s.interval_of_sets(distance, [draws(30, 50, seed=i), draws(30, 50, seed=1000 + i)], resamples=100)
        assert got.low < got.mean < got.high
        hits += got.low <= expected <= got.high
    assert hits >= 90


# -- pairs ----------------------------------------------------------------------------------------


def test_a_paired_difference_sees_through_what_items_share():
    hard = draws(50) * 10
    a, b = hard + 0.5 + 0.1 * draws(50, seed=1), hard
    got = s.difference(a, b)
    assert got.mean == pytest.approx((a - b).mean()) and 0.4 < got.low < 0.5 < got.high < 0.6
    with pytest.raises(ValueError, match="equal length"):
        s.difference([1.0], [1.0, 2.0])


def test_common_items():
    items, a, b = s.common({"x": 1.0, "y": 2.0, "z": 3.0}, {"z": 30.0, "w": 0.0, "x": 10.0})
    assert items == ["x", "z"] and a.tolist() == [1, 3] and b.tolist() == [10, 30]
    with pytest.raises(ValueError, match="in common"):
        s.common({"x": 1.0}, {"y": 1.0})


@pytest.mark.oracle
@pytest.mark.parametrize(("above", "below", "ties"), [(9, 1, 3), (5, 5, 0), (300, 240, 2), (0, 6, 0)])
def test_sign_test_is_scipys_binomial_test(above, below, ties):
    scipy_stats = pytest.importorskip("scipy.stats")
    minus = [1.0] * above + [-1.0] * below + [0.0] * ties
    want = scipy_stats.binomtest(above, above + below).pvalue
    assert s.sign_test(minus, [0.0] * len(minus)) == pytest.approx(want)


def test_sign_test_of_ties_alone_says_nothing():
    assert s.sign_test([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_permutation_test_of_few_items_tries_all_signs():
    assert s.permutation_test([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 2 / 8  # all the same sign
    assert s.permutation_test([1.0, 2.0, -3.0], [0.0, 0.0, 0.0]) == 1.0
    assert s.permutation_test([0.1, 0.2, 0.3], [0.0, 0.0, 0.0]) == 2 / 8  # 0.1 + 0.2 is not quite 0.3


@pytest.mark.oracle
def test_permutation_test_is_scipys():
    scipy_stats = pytest.importorskip("scipy.stats")
    a, b = draws(12) + 0.6, draws(12, seed=1)
    want = scipy_stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert s.permutation_test(a, b) == pytest.approx(want)
    assert s.permutation_test(a, b, resamples=4000) == pytest.approx(want, abs=0.03)  # drawn and not tried
    assert s.permutation_test(a, b, resamples=4000) != s.permutation_test(a, b)


def test_permutation_test_turns_whole_clusters():
    values = [1.0, 1.1, 0.9, 1.2, 0.8, 1.0]
    assert s.permutation_test(values, [0.0] * 6) == 2 / 64
    assert s.permutation_test(values, [0.0] * 6, list("aabbcc")) == 2 / 8


def test_permutation_p_is_never_zero():
    assert s.permutation_test([1.0] * 40, [0.0] * 40, resamples=99) == 1 / 100


def test_holm_by_hand():
    got = s.holm({"a": 0.03, "b": 0.01, "c": 0.02, "d": 0.9})
    assert got == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.9})
    assert list(got) == ["a", "b", "c", "d"]
    assert s.holm({"a": 0.7, "b": 0.6})["a"] == 1.0 and s.holm({}) == {}
    with pytest.raises(ValueError, match="from 0 to 1"):
        s.holm({"a": 1.5})
