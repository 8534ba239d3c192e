"""Intervals against known truth: exact coverage where it can be computed, simulation where it cannot."""

from __future__ import annotations

import math
import random

import pytest

from llmops_nb.stats import ENOUGH, mean, more_needed, percentile, share


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


def test_wilson_agrees_with_a_published_value() -> None:
    "Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."
    found = share([1.0] * 81 + [0.0] * 182)
    assert found.low == pytest.approx(0.2553, abs=5e-5) and found.high == pytest.approx(0.3662, abs=5e-5)


@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded"])
def test_the_bootstrap_covers_the_true_mean(kind: str) -> None:
    chance = random.Random(7)
    draw = {"normal": lambda: chance.gauss(3, 2), "skewed": lambda: chance.expovariate(1), "bounded": lambda: min(1.0, chance.betavariate(2, 1))}[kind]
    truth = {"normal": 3.0, "skewed": 1.0, "bounded": 2 / 3}[kind]
    hits, rounds = 0, 400
    for seed in range(rounds):
        found = mean([draw() for _ in range(100)], resamples=600, seed=seed)
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / rounds <= 0.98  # 0.95, give or take the noise of 400 rounds (± 0.022)


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
