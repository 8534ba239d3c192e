"""Intervals against known truth: exact coverage where it can be computed, simulation where it cannot."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from llmops_nb.core import ConfigurationError
from llmops_nb.stats import ENOUGH, MANY, bca, by_cluster, design_effect, independent, intervals, mean, more_needed, percentile, resampled, share


@pytest.mark.parametrize("n", [70, 140])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8, 0.9])
def test_wilson_covers_the_true_share(n: int, p: float) -> None:
    "Exact: the probability of each count, times whether its interval holds p. Coverage swings with p on a lattice."
    from scipy.stats import binom

    inside = 0.0
    for ones in range(n + 1):
        found = share([1.0] * ones + [0.0] * (n - ones))
        assert found.low is not None and found.high is not None
        inside += binom.pmf(ones, n, p) * (found.low <= p <= found.high)
    assert 0.93 <= inside <= 0.97


def test_wilson_agrees_with_published_values_and_libraries() -> None:
    "Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662. Then scipy and statsmodels."
    from scipy.stats import binomtest
    from statsmodels.stats.proportion import proportion_confint

    found = share([1.0] * 81 + [0.0] * 182)
    assert found.low == pytest.approx(0.2553, abs=5e-5) and found.high == pytest.approx(0.3662, abs=5e-5)
    for ones, n in [(0, 10), (1, 1), (17, 20), (20, 20), (55, 70), (850, 1000)]:
        found = share([1.0] * ones + [0.0] * (n - ones))
        assert (found.low, found.high) == pytest.approx(tuple(binomtest(ones, n).proportion_ci(method="wilson")), abs=1e-9)
        assert (found.low, found.high) == pytest.approx(proportion_confint(ones, n, method="wilson"), abs=1e-9)


@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded", "half alike"])
@pytest.mark.parametrize("n", [30, 100])
def test_the_bootstrap_covers_the_true_mean(kind: str, n: int) -> None:
    draw = np.random.default_rng(11)
    rounds = 700
    data, truth = {
        "normal": (draw.normal(3, 2, (rounds, n)), 3.0),
        "skewed": (draw.exponential(1, (rounds, n)), 1.0),
        "bounded": (draw.beta(2, 1, (rounds, n)), 2 / 3),
        "half alike": (draw.normal(0, 1, (rounds, n)) * (draw.random((rounds, n)) < 0.5), 0.0),
    }[kind]
    found = [resampled(row, np.ones(n), resamples=500, seed=seed)[0] for seed, row in enumerate(data)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in found]) <= 0.975  # noise of 700 rounds: ± 0.016


def test_the_bootstrap_agrees_with_scipy() -> None:
    "Without the widening for small samples, the ends are those of scipy.stats.bootstrap on the same draws."
    from scipy.special import ndtr, stdtrit
    from scipy.stats import bootstrap

    data = np.random.default_rng(3).exponential(1, 40)
    deviations = data - data.mean()
    freedom = min(39.0, 2 * 40 / (40 * (deviations**4).sum() / (deviations**2).sum() ** 2 - 1))
    level = 2 * ndtr(math.sqrt((freedom + 1) / freedom) * stdtrit(freedom, 0.975)) - 1
    theirs = bootstrap((data,), np.mean, n_resamples=2000, method="BCa", confidence_level=level, rng=np.random.default_rng(0))
    [ours] = bca(theirs.bootstrap_distribution, data.mean(), (data.sum() - data) / 39)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), rel=1e-6)
    whole = mean(data.tolist())
    assert whole.low == pytest.approx(min(ours[0], data.mean() - stdtrit(39, 0.975) * data.std(ddof=1) / math.sqrt(40)))
    assert whole.high == pytest.approx(max(ours[1], data.mean() + stdtrit(39, 0.975) * data.std(ddof=1) / math.sqrt(40)))
    assert level > 0.95


def cases(groups: int, size: int, truth: float, rounds: int) -> tuple[np.ndarray, list[int]]:
    "0/1 values whose clusters have rates of their own, with a correlation of 0.3 inside."
    draw, spread = np.random.default_rng(5), 0.7 / 0.3
    rates = draw.beta(spread * truth, spread * (1 - truth), (rounds, groups))[:, :, None]
    return (draw.random((rounds, groups, size)) < rates).astype(float).reshape(rounds, -1), np.repeat(np.arange(groups), size).tolist()


@pytest.mark.parametrize(("groups", "size"), [(15, 5), (70, 2)])
@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_clustered_shares_and_means_cover_the_truth(groups: int, size: int, truth: float) -> None:
    rounds = 800
    data, keys = cases(groups, size, truth, rounds)
    shares = [share(row.tolist(), keys) for row in data]
    means = [intervals(*by_cluster(row, keys), resamples=400, seed=seed)[0][0] for seed, row in enumerate(data[:500])]
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in shares]) <= 0.972  # type: ignore[operator]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in means]) <= 0.985  # noise of 500 rounds: ± 0.019
    ignored = np.mean([e.low <= truth <= e.high for e in map(share, data.tolist())])  # type: ignore[operator]
    assert ignored < np.mean([e.low <= truth <= e.high for e in shares]) - 0.005  # type: ignore[operator]


def test_clusters_that_hold_one_item_change_nothing() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.5, 0.2, 0.7, 0.9, 0.1]
    assert mean(values, list(range(9))) == mean(values)
    assert share([1.0, 0.0] * 9, [f"d{n}" for n in range(18)]) == share([1.0, 0.0] * 9)
    assert design_effect(values, range(9)) == 1.0 and independent(9, 9, 1.0) == 9


def test_a_cluster_of_copies_tells_as_much_as_one_item() -> None:
    "Twenty documents, each asked five times with the same outcome: as wide as twenty items, and a little more for not knowing the effect."
    outcome = [1.0] * 14 + [0.0] * 6
    copies, keys = [v for v in outcome for _ in range(5)], [k for k in range(20) for _ in range(5)]
    assert design_effect(copies, keys) == pytest.approx(5, rel=0.06)
    one, five = share(outcome), share(copies, keys)
    assert five.n == 100 and five.clusters == 20 and five.value == one.value
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.08)  # type: ignore[operator]


def test_few_clusters_are_taken_as_given_and_said() -> None:
    values, keys = [1.0, 0.0] * 30, [n % 3 for n in range(60)]
    assert share(values, keys).method == "Wilson, within 3 clusters" and share(values, keys).low == share(values).low
    assert mean([0.1 * (n % 7) for n in range(60)], keys).method.endswith("within 3 clusters")
    assert share([1.0] * 40, [n // 4 for n in range(40)]).low == pytest.approx(share([1.0] * 8).low, abs=0.06)  # all right: ten documents, not forty
    with pytest.raises(ConfigurationError, match="60 values and 59 cluster keys"):
        mean([0.1 * (n % 7) for n in range(60)], list(range(59)))


def test_many_values_are_quick_and_the_same() -> None:
    "Above a size the normal distribution stands in; it agrees with the bootstrap it replaces."
    data = np.random.default_rng(2).beta(2, 5, MANY + 1)
    [(low, high)], method = intervals(data, np.ones(len(data)))
    [(slow_low, slow_high)] = resampled(data, np.ones(len(data)))
    assert method == "normal" and (low, high) == pytest.approx((slow_low, slow_high), abs=0.06 * (high - low))


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (200, 0.95), (1000, 0.95)])
def test_the_percentile_interval_covers_the_true_percentile(n: int, q: float) -> None:
    chance = random.Random(3)
    truth = -math.log(1 - q)
    hits, rounds = 0, 600
    for _ in range(rounds):
        found = percentile([chance.expovariate(1) for _ in range(n)], q)
        hits += (found.low or 0) <= truth <= (math.inf if found.high is None else found.high)
    assert 0.93 <= hits / rounds <= 0.99  # Order statistics are conservative


def test_small_and_odd_samples_say_what_they_cannot_say() -> None:
    assert share([]).value is None and mean([]).value is None and percentile([]).value is None
    few = mean([1.0] * (ENOUGH - 1))
    assert few.value == 1.0 and few.low is None and "fewer" in few.method
    assert mean([2.0] * 30).method == "all values equal"
    assert percentile([1.0, 2.0, 3.0], 0.95).high is None
    assert share([1.0]).low == pytest.approx(0.2065, abs=1e-3)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="not a number"):
            mean([0.5] * 20 + [bad])
    assert bca(np.array([1.0] * 50), 1.0, np.array([1.0] * 10)) == [(1.0, 1.0)]


def test_the_advice_on_more_items_is_about_right() -> None:
    "With as many items as advised, and the same share, the interval just leaves the floor."
    seen = share([1.0] * 46 + [0.0] * 24)
    more = more_needed(seen, 0.6)
    assert more is not None and more > 0
    n = seen.n + more
    ones = round(46 / 70 * n)
    low = share([1.0] * ones + [0.0] * (n - ones)).low
    assert low == pytest.approx(0.6, abs=0.01)
    assert more_needed(seen, seen.value or 0) is None
