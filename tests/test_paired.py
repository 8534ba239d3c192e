"""Paired comparison against known truth: exact enumeration for 0/1, simulation for scores, libraries for both."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from llmops_nb.core import ConfigurationError, from_json, to_json
from llmops_nb.paired import (
    Paired,
    benjamini_hochberg,
    detectable,
    equivalence,
    holm,
    items_needed,
    noninferiority,
    paired,
    power_of_scores,
    power_of_shares,
    sign_flips,
    tango,
)


def counts(wins: int, losses: int, n: int) -> tuple[list[float], list[float]]:
    "Two lists with so many changes; half of the rest are right."
    rest = n - wins - losses
    same = [1.0] * (rest // 2) + [0.0] * (rest - rest // 2)
    return [0.0] * wins + [1.0] * losses + same, [1.0] * wins + [0.0] * losses + same


@cache
def grid(n: int) -> tuple[Any, Any, Any, Any]:
    "p, both ends of the interval and the lower 90 % end for every possible outcome of n pairs, as the library finds them."
    from scipy.stats import binom

    p, low, high, narrow = (np.full((n + 1, n + 1), np.nan) for _ in range(4))
    for wins, losses in itertools.product(range(n + 1), repeat=2):
        if wins + losses <= n:
            low[wins, losses], high[wins, losses] = tango(wins, losses, n)
            narrow[wins, losses] = tango(wins, losses, n, 0.90)[0]
            p[wins, losses] = min(1.0, 2 * binom.cdf(min(wins, losses), wins + losses, 0.5)) if wins + losses else 1.0
    return p, low, high, narrow


def chances(n: int, up: float, down: float) -> Any:
    "Probability of every outcome of n pairs."
    from scipy.special import gammaln, xlogy

    wins, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    rest = np.maximum(0, n - wins - losses)
    log = gammaln(n + 1) - gammaln(wins + 1) - gammaln(losses + 1) - gammaln(rest + 1) + xlogy(wins, up) + xlogy(losses, down) + xlogy(rest, 1 - up - down)
    return np.where(wins + losses <= n, np.exp(log), 0.0)


@pytest.mark.parametrize("n", [40, 70])
@pytest.mark.parametrize("changes", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("difference", [0.0, 0.05, 0.1])
def test_shares_cover_the_truth_and_raise_no_false_alarm(n: int, changes: float, difference: float) -> None:
    "Exact, over every outcome: coverage of Tango's interval, false alarms of McNemar's test and of non-inferiority at the margin."
    p, low, high, narrow = grid(n)
    seen = chances(n, (changes + difference) / 2, (changes - difference) / 2)
    assert seen.sum() == pytest.approx(1)
    assert 0.93 <= (seen * ((low <= difference) & (difference <= high))).sum() <= 0.97
    if difference == 0:
        assert (seen * (p <= 0.05)).sum() <= 0.05
    else:
        worse = chances(n, (changes - difference) / 2, (changes + difference) / 2)  # truly worse by just the margin
        assert (worse * (narrow > -difference)).sum() <= 0.055


def test_the_grid_is_what_paired_says() -> None:
    for wins, losses in [(0, 0), (3, 1), (11, 2), (0, 6), (20, 20)]:
        found = paired(*counts(wins, losses, 70))
        p, low, high, narrow = (part[wins, losses] for part in grid(70))
        assert (found.p, found.low, found.high) == pytest.approx((p, low, high))
        assert found.narrow is not None and found.narrow[0] == pytest.approx(narrow)


@pytest.mark.parametrize(("wins", "losses", "n"), [(11, 2, 70), (1, 7, 21), (6, 0, 20), (30, 21, 200), (0, 0, 12)])
def test_mcnemar_agrees_with_statsmodels(wins: int, losses: int, n: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    both = (n - wins - losses) // 2
    found = paired(*counts(wins, losses, n))
    assert found.p == pytest.approx(mcnemar([[both, losses], [wins, n - wins - losses - both]], exact=True).pvalue)
    assert (found.wins, found.losses, found.ties, found.n) == (wins, losses, n - wins - losses, n)
    assert found.difference == pytest.approx((wins - losses) / n) and found.binary


def test_tango_agrees_with_published_values() -> None:
    "Fagerland, Lydersen and Laake 2014, tables of two examples: 1/7 of 21, and 6/16 of 161."
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert tango(6, 16, 161) == pytest.approx((-0.124, -0.0046), abs=2e-3)
    assert tango(5, 0, 5)[1] == 1.0 and tango(0, 5, 5)[0] == -1.0
    assert tango(7, 1, 21) == pytest.approx((0.026, 0.517), abs=5e-4)  # turned around


def test_effects() -> None:
    found = paired(*counts(11, 2, 70))
    assert found.effect == pytest.approx(11 / 13 - 0.5) and found.odds == 5.5
    assert paired(*counts(4, 0, 70)).odds == math.inf and paired(*counts(0, 0, 70)).odds is None
    before, after = [0.1, 0.5, 0.4, 0.7, 0.2, 0.6, 0.3, 0.8, 0.5], [0.3, 0.6, 0.4, 0.6, 0.6, 0.9, 0.5, 0.9, 0.4]
    gaps = np.array(after) - np.array(before)
    assert paired(before, after).effect == pytest.approx(gaps.mean() / gaps.std(ddof=1))


def test_sign_flips_agree_with_scipy() -> None:
    from scipy.stats import permutation_test

    draw = np.random.default_rng(1)
    for n in (6, 9, 12):
        gaps = draw.normal(0.3, 1, n)
        theirs = permutation_test((gaps,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf, alternative="two-sided").pvalue
        assert sign_flips(gaps)[0] == pytest.approx(theirs)
    gaps = draw.normal(0.1, 1, 60)
    theirs = permutation_test((gaps,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=9999, vectorized=True, rng=draw).pvalue
    assert sign_flips(gaps)[0] == pytest.approx(theirs, abs=0.02)


def test_sign_flips_are_exact_sampled_and_normal_alike() -> None:
    "The three ways agree where they meet, and zeros change nothing."
    draw = np.random.default_rng(2)
    gaps = draw.normal(0.25, 1, 14)
    exact, how = sign_flips(gaps)
    assert how == "sign flips, exact" and sign_flips(np.append(gaps, [0.0] * 50))[0] == exact
    many = draw.normal(0.03, 1, 6000)
    normal, how = sign_flips(many)
    assert how == "sign flips, normal limit"
    few = many[:1000]
    assert sign_flips(few)[1] == "sign flips" and abs(sign_flips(few)[0] - 2 * (1 - _phi(abs(few.sum()) / math.sqrt((few**2).sum())))) < 0.02
    assert 0 < normal < 1
    assert sign_flips(np.full(40, 0.1))[0] == pytest.approx(1e-4)  # the smallest that 9,999 flips can say
    assert sign_flips(np.array([1.0, 1.0]))[0] == 0.5 and sign_flips(np.array([0.0]))[0] == 1.0


def _phi(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


@pytest.mark.parametrize("kind", ["steps", "normal", "half alike"])
@pytest.mark.parametrize("n", [40, 100])
def test_scores_cover_the_truth_and_raise_no_false_alarm(kind: str, n: int) -> None:
    draw, rounds = np.random.default_rng(22), 700
    gaps = {
        "steps": draw.choice([-1, -0.5, 0, 0.5, 1], (rounds, n), p=[0.1, 0.15, 0.5, 0.15, 0.1]),
        "normal": draw.normal(0, 0.2, (rounds, n)),
        "half alike": draw.normal(0, 0.2, (rounds, n)) * (draw.random((rounds, n)) < 0.5),
    }[kind]
    zeros = np.zeros(n)
    found = [paired(zeros, row, resamples=800, flips=99, seed=seed) for seed, row in enumerate(gaps[:500])]
    assert 0.93 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 0.975  # type: ignore[operator]  # ± 0.019
    assert np.mean([sign_flips(row, flips=999, seed=seed)[0] <= 0.05 for seed, row in enumerate(gaps)]) <= 0.055 + 0.008


def test_small_samples_have_no_false_alarms() -> None:
    "Exact: every sign pattern of ten differences is equally likely under the null, and at most one in twenty is significant."
    sizes = np.array([0.1, 0.2, 0.2, 0.3, 0.35, 0.5, 0.55, 0.7, 0.9, 1.0])
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    assert np.mean([sign_flips(sizes * row)[0] <= 0.05 for row in signs]) <= 0.05


def test_clusters_that_change_together_raise_no_false_alarm() -> None:
    "Documents in which all changes go one way: ignored, every fifth comparison is a false alarm; kept together, at most one in twenty."
    draw, rounds = np.random.default_rng(8), 500
    keys = np.repeat(np.arange(24), 5).tolist()
    naive, kept, inside = [], [], []
    for seed in range(rounds):
        side = draw.choice([-1, 1], 24)[:, None]
        gaps = (np.where(draw.random((24, 5)) < 0.35, side, 0)).ravel()
        before, after = np.maximum(-gaps, 0), np.maximum(gaps, 0)
        naive.append(paired(before, after).p)
        found = paired(before, after, keys, flips=999, seed=seed)
        kept.append(found.p)
        inside.append(found.low <= 0 <= found.high)  # type: ignore[operator]
    assert np.mean(np.array(naive) <= 0.05) > 0.1
    assert np.mean(np.array(kept) <= 0.05) <= 0.055 + 0.01
    assert 0.93 <= np.mean(inside) <= 0.975


def test_clusters_of_one_change_nothing_and_few_are_said() -> None:
    before, after = counts(11, 2, 70)
    assert paired(before, after, range(70)) == paired(before, after)
    few = paired(before, after, [n % 4 for n in range(70)])
    assert few.method == "McNemar exact; Tango, within 4 clusters" and few.p == paired(before, after).p and few.clusters == 0
    scores = np.random.default_rng(0).random((2, 60))
    found = paired(scores[0], scores[1], [n // 3 for n in range(60)])
    assert found.clusters == 20 and found.method.endswith("20 clusters")


def test_corrections_agree_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    draw = np.random.default_rng(4)
    for n in (1, 2, 5, 30):
        ps = (draw.random(n) ** 3).tolist()
        assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
        assert benjamini_hochberg(ps) == pytest.approx(multipletests(ps, method="fdr_bh")[1])
    assert holm([None, 0.01, None]) == [None, 0.01, None] and holm([]) == [] and benjamini_hochberg([None]) == [None]


def test_holm_keeps_false_alarms_among_arms_that_share_a_baseline() -> None:
    from scipy.stats import binom

    draw, rounds = np.random.default_rng(6), 2000
    hard = draw.normal(0, 1, (rounds, 1, 60))
    scores = (hard + draw.normal(0, 0.8, (rounds, 6, 60)) < 0.5).astype(int)
    gaps = scores[:, 1:] - scores[:, :1]
    wins, losses = (gaps > 0).sum(axis=2), (gaps < 0).sum(axis=2)
    ps = np.minimum(1, 2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
    assert (ps.min(axis=1) <= 0.05).mean() > 0.06  # uncorrected
    assert np.mean([any(p is not None and p <= 0.05 for p in holm(row)) for row in ps.tolist()]) <= 0.055


def test_margins() -> None:
    same = paired(*counts(4, 4, 200))
    assert equivalence(same, 0.05).holds and noninferiority(same, 0.05).holds
    better = paired(*counts(40, 4, 200))
    assert noninferiority(better, 0.05).holds and not equivalence(better, 0.05).holds
    worse = paired(*counts(4, 40, 200))
    assert not noninferiority(worse, 0.05).holds
    assert noninferiority(paired([0.5, 0.6], [0.5, 0.7]), 0.05).holds is None
    for margin in (0, -0.1, float("nan")):
        with pytest.raises(ConfigurationError, match="positive number"):
            equivalence(same, margin)


def test_equivalence_is_rarely_claimed_wrongly() -> None:
    "Scores that truly differ by just the margin: claimed equivalent at most once in twenty."
    draw, rounds = np.random.default_rng(9), 500
    claimed = [equivalence(paired(np.zeros(80), row, resamples=500, flips=99), 0.05).holds for row in draw.normal(0.05, 0.1, (rounds, 80))]
    assert np.mean(claimed) <= 0.055 + 0.01


@pytest.mark.parametrize(("difference", "changes"), [(0.05, 0.1), (0.1, 0.2), (0.2, 0.3)])
def test_advice_on_shares_is_about_right(difference: float, changes: float) -> None:
    "Experiments of the advised size, drawn and tested: eight of ten find the difference."
    from scipy.stats import binom

    n = items_needed(difference, changes) or 0
    draw = np.random.default_rng(3)
    drawn = draw.multinomial(n, [(changes + difference) / 2, (changes - difference) / 2, 1 - changes], 20_000)
    p = 2 * binom.cdf(np.minimum(drawn[:, 0], drawn[:, 1]), drawn[:, 0] + drawn[:, 1], 0.5)
    assert (p <= 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert (p <= 0.05).mean() == pytest.approx(power_of_shares(n, difference, changes), abs=0.01)
    assert detectable(n, changes) == pytest.approx(difference, rel=0.03)


def test_advice_on_scores_is_about_right() -> None:
    from statsmodels.stats.power import TTestPower

    for n, size in ((10, 0.5), (72, 1 / 3), (500, 0.1)):
        assert power_of_scores(n, size, 1.0) == pytest.approx(TTestPower().power(size, n, 0.05), abs=1e-3)
    assert items_needed(0.1, spread=0.3) == pytest.approx(TTestPower().solve_power(1 / 3, power=0.8, alpha=0.05), abs=1)
    n = items_needed(0.1, spread=0.3) or 0
    draw = np.random.default_rng(5)
    found = [sign_flips(row, flips=999)[0] <= 0.05 for row in draw.normal(0.1, 0.3, (1500, n))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.035)
    assert detectable(n, spread=0.3) == pytest.approx(0.1, rel=0.02)


def test_advice_where_there_is_none() -> None:
    assert items_needed(0.0) is None and items_needed(0.1, spread=0.0) is None and items_needed(1e-6) is None
    assert detectable(0) is None and detectable(1) is None and detectable(5) is None  # five pairs cannot reach p = 0.05
    assert (items_needed(0.1, error=0.01) or 0) > (items_needed(0.1) or 0) > (items_needed(0.2) or 0)


def test_what_cannot_be_said() -> None:
    none = paired([], [])
    assert none.difference is None and none.p is None and str(none) == "no pairs"
    one = paired([0.0], [1.0])
    assert one.p == 1.0 and one.n == 1 and one.spread is None and one.low is not None and one.low < 0
    few = paired([0.1, 0.2, 0.4], [0.3, 0.3, 0.8])
    assert few.low is None and "fewer than 8 pairs" in few.method and few.p == 0.25
    alike = paired([2.0] * 30, [2.5] * 30)
    assert alike.low is None and "every pair differs alike" in alike.method and alike.p is not None and alike.p < 0.001
    same = paired([0.25] * 30, [0.25] * 30)
    assert same.p == 1.0 and same.low is not None and same.high is not None and -0.12 < same.low < 0 < same.high < 0.12
    assert paired([3.0] * 30, [3.0] * 30).low is None  # not between 0 and 1: nothing bounds what was not seen
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="not a number"):
            paired([0.5] * 10, [0.5] * 9 + [bad])
    with pytest.raises(ConfigurationError, match="cannot be paired"):
        paired([1.0], [1.0, 0.0])


def test_a_few_changed_scores_have_a_cautious_interval() -> None:
    "Three of forty differ: the interval holds 0 unless the test excludes it, and holds the difference."
    found = paired([0.5] * 40, [0.9, 0.8, 0.7] + [0.5] * 37)
    assert found.low is not None and found.high is not None and found.low < 0 < found.difference < found.high  # type: ignore[operator]
    assert "Tango" in found.method


def test_order_of_items_and_seed_are_all_that_chance_is_made_of() -> None:
    draw = np.random.default_rng(7)
    before, after = draw.random(50), draw.random(50)
    assert paired(before, after) == paired(before.tolist(), after.tolist())
    turned = paired(after, before)
    here = paired(before, after)
    assert turned.difference == pytest.approx(-(here.difference or 0)) and turned.p == here.p
    assert from_json(to_json(here), Paired) == here
