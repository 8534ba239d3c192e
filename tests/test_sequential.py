"""Racing against known truth: the best arm survives however often one looks, and weak arms go early."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmops_nb.core import ConfigurationError
from llmops_nb.sequential import confidence_sequence, purse, to_drop
from llmops_nb.store import digest

ITEMS = sorted((f"q{n}" for n in range(140)), key=digest)


def first(gaps: np.ndarray, bound: float) -> np.ndarray:
    "When each game reached a bound; one past the end for never."
    reached = purse(gaps) >= bound
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, gaps.shape[-1] + 1)


@pytest.mark.parametrize("changes", [0.1, 0.4, 1.0])
def test_a_fair_game_is_rarely_won(changes: float) -> None:
    "Ville: the chance of ever reaching 20 is at most 1 in 20, looked at after every one of 300 items."
    draw = np.random.default_rng(1)
    gaps = draw.choice([-1, 0, 1], (3000, 300), p=[changes / 2, 1 - changes, changes / 2])
    assert (purse(gaps).max(axis=1) >= math.log(20)).mean() <= 0.055


def test_the_purse_is_exactly_fair() -> None:
    "The mean over all 2^10 equally likely games is 1; a game against the odds has less."
    signs = 1 - 2 * ((np.arange(1024)[:, None] >> np.arange(10)) & 1)
    assert np.exp(purse(signs)[:, -1]).mean() == pytest.approx(1)
    assert np.exp(purse(signs * 0.3)[:, -1]).mean() == pytest.approx(1)
    assert purse([1.0, -1.0, 0.5]).shape == (3,) and purse([]).shape == (0,)
    with pytest.raises(ConfigurationError, match="outside −1 to 1"):
        purse([1.5])


@pytest.mark.parametrize("arms", [2, 4, 8])
def test_the_best_arm_is_dropped_at_most_as_often_as_agreed(arms: int) -> None:
    "All arms equal, the hardest case: a given one of them, looked at after every item, on hard and easy questions they share."
    draw, rounds = np.random.default_rng(2), 1500
    hard = draw.normal(0, 1, (rounds, 1, 140))
    scores = (hard + draw.normal(0, 0.8, (rounds, arms, 140)) < 0.5).astype(float)
    bound = math.log(max(1, arms - 1) / 0.05)
    dropped = np.zeros(rounds, dtype=bool)
    for rival in range(1, arms):
        dropped |= first(scores[:, rival] - scores[:, 0], bound) <= 140
    assert dropped.mean() <= 0.055


@pytest.mark.parametrize(("difference", "items", "share"), [(0.3, 70, 0.85), (0.2, 140, 0.85), (0.15, 140, 0.6)])
def test_weak_arms_are_dropped_early(difference: float, items: int, share: float) -> None:
    "Among four arms, with a quarter of the questions in doubt either way."
    draw = np.random.default_rng(3)
    gaps = draw.choice([-1, 0, 1], (1500, items), p=[0.06, 1 - 0.12 - difference, 0.06 + difference])
    when = first(gaps, math.log(3 / 0.05))
    assert (when <= items).mean() >= share
    assert np.minimum(when, items).mean() < 0.75 * items


def arm(seed: int, share: float, items: int = 140) -> dict[str, float | None]:
    "Made-up scores of the first items."
    draw = np.random.default_rng(seed)
    return {item: float(draw.random() < share) for item in ITEMS[:items]}


def test_what_was_dropped_stays_dropped() -> None:
    "Asked again after every item, an arm that is out never comes back, and stands still meanwhile."
    arms = {"good": arm(1, 0.8), "fair": arm(2, 0.7), "bad": arm(3, 0.3)}
    seen: dict[str, int] = {}
    for n in range(1, 141):
        upto = {name: {item: known[item] for item in ITEMS[: min(n, seen.get(name, n))]} for name, known in arms.items()}
        now = to_drop(upto)
        assert set(seen) <= set(now)
        for name in now:
            seen.setdefault(name, n)
    assert "bad" in seen and seen["bad"] < 60 and "good" not in seen


def test_only_the_items_both_have_count_up_to_the_first_that_is_missing() -> None:
    good, bad = arm(1, 0.95), arm(2, 0.1)
    assert list(to_drop({"good": good, "bad": bad})) == ["bad"]
    assert list(to_drop({"good": good, "bad": {item: bad[item] for item in ITEMS[:60]}})) == ["bad"]
    assert to_drop({"good": good, "bad": {item: bad[item] for item in ITEMS[1:]}}) == {}  # the first is missing: nothing is a fair sample
    assert list(to_drop({"good": good, "bad": {item: bad[item] for item in ITEMS[1:]}}, order=ITEMS[1:])) == ["bad"]
    assert list(to_drop({"good": good, "bad": {**bad, ITEMS[0]: None}})) == ["bad"]  # asked, and the metric did not apply


def test_the_order_of_a_mapping_does_not_matter() -> None:
    arms = {"good": arm(1, 0.8), "bad": arm(3, 0.4)}
    shuffled = {name: {item: known[item] for item in sorted(known)} for name, known in arms.items()}
    assert to_drop(arms) == to_drop(shuffled)


def test_scores_are_scaled_and_turned() -> None:
    draw = np.random.default_rng(6)
    stars = {name: {item: float(np.clip(draw.normal(mean, 0.8), 1, 5)) for item in ITEMS} for name, mean in (("good", 4.2), ("bad", 2.2))}
    with pytest.raises(ConfigurationError, match="which is not between 0.0 and 1.0"):
        to_drop(stars)
    found = to_drop(stars, low=1, high=5)
    assert list(found) == ["bad"] and "lower, worse on" in found["bad"]
    assert list(to_drop(stars, low=1, high=5, better="lower")) == ["good"]
    with pytest.raises(ConfigurationError, match="which is not between"):
        to_drop({"a": {"q1": float("nan")}, "b": {"q1": 0.0}})


def test_more_arms_need_more_evidence() -> None:
    "The threshold counts arms that have not begun, so that it does not move."
    arms = {"good": arm(1, 0.85, 60), "bad": arm(5, 0.4, 60)}
    enough = [k for k in (2, 5, 20, 100, 10**9) if "bad" in to_drop(arms, arms=k)]
    assert enough == sorted(enough) and (2 in enough) and 10**9 not in enough
    assert to_drop(arms | {"waiting": {}}) == to_drop(arms, arms=3)


def test_odd_races() -> None:
    assert to_drop({}) == {} and to_drop({"only": arm(1, 0.5)}) == {} and to_drop({"a": {}, "b": arm(1, 0.5)}) == {}
    same = arm(4, 0.6)
    assert to_drop({"a": same, "b": dict(same)}) == {}
    assert to_drop({"a": dict.fromkeys(ITEMS, 0.5), "b": dict.fromkeys(ITEMS, 0.5)}) == {}
    for wrong in ({"error": 0.0}, {"error": 1.0}, {"low": 1.0, "high": 1.0}):
        with pytest.raises(ConfigurationError, match="makes no race"):
            to_drop({"a": same}, **wrong)
    with pytest.raises(ConfigurationError, match="No direction named 'up'"):
        to_drop({"a": same}, better="up")


@pytest.mark.parametrize("kind", ["half", "mostly", "scores"])
def test_a_confidence_sequence_is_right_at_all_times(kind: str) -> None:
    draw, rounds = np.random.default_rng(7), 160
    data, truth = {"half": ((draw.random((rounds, 100)) < 0.5).astype(float), 0.5), "mostly": ((draw.random((rounds, 100)) < 0.9).astype(float), 0.9), "scores": (draw.beta(2, 1, (rounds, 100)), 2 / 3)}[kind]
    found = [confidence_sequence(row.tolist(), parts=100) for row in data]
    assert np.mean([all(low <= truth <= high for low, high in case) for case in found]) >= 0.94
    assert all(b[0] >= a[0] and b[1] <= a[1] for case in found for a, b in zip(case, case[1:], strict=False))  # never wider again
    assert np.mean([case[-1][1] - case[-1][0] for case in found]) < 0.36


def test_a_confidence_sequence_of_differences() -> None:
    found = confidence_sequence([1.0, 0.0, -1.0, 1.0] * 30, low=-1, high=1)
    assert len(found) == 120 and found[0] == pytest.approx((-1, 1), abs=0.06) and found[-1][0] < 0.25 < found[-1][1]
    assert confidence_sequence([]) == []
    for values in ([2.0], [float("nan")]):
        with pytest.raises(ConfigurationError, match="is not between"):
            confidence_sequence(values)
