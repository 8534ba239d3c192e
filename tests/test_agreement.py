"""Agreement against libraries, the paper's example, known truth and odd labels."""

from __future__ import annotations


import numpy as np
import pytest

from llmops_nb.agreement import LEVELS, agreement, alpha_of, cohen_kappa, kappa_of, krippendorff_alpha, label_pairs
from llmops_nb.core import ConfigurationError


@pytest.mark.parametrize("weights", ["", "linear", "quadratic"])
def test_kappa_agrees_with_statsmodels(weights: str) -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    draw = np.random.default_rng(1)
    for size in (2, 3, 5):
        table = draw.integers(0, 20, (size, size)) + 12 * np.eye(size, dtype=int)
        theirs = cohens_kappa(table, wt=weights or None, return_results=False)
        assert float(kappa_of(table, weights)) == pytest.approx(theirs)
    assert kappa_of(np.stack([table, table]), weights) == pytest.approx([theirs, theirs])  # several at once


def test_label_pairs_count_what_was_said() -> None:
    table, known, cells = label_pairs(["b", "a", "b"], ["b", "b", "a"])
    assert known == ["a", "b"] and table.tolist() == [[0, 1], [1, 1]] and cells.tolist() == [3, 1, 2]
    assert label_pairs([1, 2], [2, 2], labels=[1, 2, 3])[0].shape == (3, 3)
    with pytest.raises(ConfigurationError, match="No label named '4'"):
        label_pairs([1, 4], [1, 1], labels=[1, 2])
    with pytest.raises(ConfigurationError, match="2 labels of one rater and 1"):
        label_pairs([1, 2], [1])


@pytest.mark.parametrize("n", [80, 200])
@pytest.mark.parametrize("kind", ["even", "rare", "three"])
def test_the_interval_of_kappa_covers_the_truth(n: int, kind: str) -> None:
    table = {"even": [[0.42, 0.08], [0.10, 0.40]], "rare": [[0.75, 0.06], [0.06, 0.13]], "three": [[0.30, 0.05, 0.01], [0.06, 0.20, 0.06], [0.02, 0.05, 0.25]]}[kind]
    size, truth, draw = len(table), float(kappa_of(table)), np.random.default_rng(2)
    rounds = draw.choice(size * size, (500, n), p=np.array(table).ravel())
    found = [cohen_kappa((row // size).tolist(), (row % size).tolist(), labels=range(size), resamples=600, seed=seed) for seed, row in enumerate(rounds)]
    cautious = 0.99 if kind == "rare" else 0.975  # with ten rare labels it promises less than it holds; noise: ± 0.019
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in found]) <= cautious  # type: ignore[operator]


def test_alpha_agrees_with_the_paper_and_its_interval_holds_it() -> None:
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    for level, value in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        found = krippendorff_alpha(observers, level)
        assert found.value == pytest.approx(value, abs=5e-4) and found.n == 11  # one unit has a single label
        assert found.low is not None and found.high is not None and found.low < value < found.high <= 1


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_for_many_samples_is_the_packages(level: str) -> None:
    import krippendorff

    draw = np.random.default_rng(9)
    counts = draw.multinomial(3, [0.4, 0.3, 0.2, 0.1], 25)
    pairs = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(4)) / 2
    theirs = krippendorff.alpha(value_counts=counts, value_domain=[0, 1, 2, 3], level_of_measurement=level)
    assert float(alpha_of(pairs.sum(axis=0), level)) == pytest.approx(theirs)


def test_the_interval_of_alpha_covers_the_truth() -> None:
    table = np.array([[0.42, 0.08], [0.10, 0.40]])
    margin = (table.sum(axis=0) + table.sum(axis=1)) / 2
    truth = 1 - (1 - np.trace(table)) / (1 - (margin**2).sum())
    rounds = np.random.default_rng(3).choice(4, (500, 80), p=table.ravel())
    found = [krippendorff_alpha([(row // 2).tolist(), (row % 2).tolist()], resamples=600, seed=seed) for seed, row in enumerate(rounds)]
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.975  # type: ignore[operator]  # noise: ± 0.019


def test_constant_raters_are_no_evidence() -> None:
    one = cohen_kappa([1] * 20, [1] * 15 + [0] * 5)
    assert one.value == 0 and one.low is None and "κ is 0 whatever" in one.method
    both = cohen_kappa(["x"] * 20, ["x"] * 20)
    assert both.value is None and "nothing to agree about" in both.method
    assert krippendorff_alpha([[1] * 20, [1] * 20]).value is None
    assert cohen_kappa([], []).value is None and krippendorff_alpha([[1, None], [None, 2]]).method == "no item has two labels"


def test_perfect_agreement_is_not_certainty() -> None:
    short, long = cohen_kappa([1, 0] * 5, [1, 0] * 5), cohen_kappa([1, 0] * 100, [1, 0] * 100)
    assert short.value == long.value == 1 and short.high == 1
    assert short.low is not None and long.low is not None and short.low < 0.6 < 0.95 < long.low < 1
    assert cohen_kappa([1, 2, 3] * 5, [1, 2, 3] * 5, "ordinal").low is None
    assert krippendorff_alpha([[1, 0] * 10, [1, 0] * 10]).low is None


def test_few_items_have_no_interval() -> None:
    assert cohen_kappa([1, 0, 1, 0, 1, 1, 0], [1, 0, 1, 0, 1, 0, 0]).low is None
    assert krippendorff_alpha([[1, 0, 1], [1, 0, 0]]).method.startswith("fewer than 8 items")


def test_agreement_takes_labels_as_people_leave_them() -> None:
    draw = np.random.default_rng(4)
    truth = draw.integers(0, 2, 60)
    ratings = {name: {f"q{n}": int(truth[n]) if draw.random() < 0.85 else 1 - int(truth[n]) for n in range(60) if draw.random() < 0.9} for name in ("Ann", "Bob", "Cem")}
    three = agreement(ratings)
    assert three.kappa is None and three.raters == ("Ann", "Bob", "Cem") and 50 < three.items <= 60
    assert three.percent.value is not None and 0.6 < three.percent.value < 0.9
    assert all(sum(shares.values()) == pytest.approx(1) for shares in three.base.values())
    two = agreement({name: ratings[name] for name in ("Ann", "Bob")})
    assert two.kappa is not None and two.kappa.value is not None and two.alpha.value is not None
    assert two.kappa.value == pytest.approx(two.alpha.value, abs=0.03) and two.percent.method == "Wilson"
    assert two.percent.n == two.kappa.n == two.items


def test_the_kind_of_labels_matters_and_is_checked() -> None:
    first, second = [1, 2, 3, 4, 5] * 8, [2, 3, 4, 5, 4] * 8  # always one step apart
    values = [cohen_kappa(first, second, level).value for level in LEVELS]
    assert all(v is not None for v in values) and values[0] < 0 < values[1] < values[2]  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match="Did you mean 'ordinal'"):
        cohen_kappa(first, second, "ordnal")
    with pytest.raises(ConfigurationError, match="two raters or more"):
        agreement({"Ann": {"q1": 1}})


def test_labels_never_reach_a_page_unescaped() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    page = agreement({hostile: {str(n): hostile if n % 2 else "b" for n in range(20)}, "Bob": {str(n): "b" for n in range(20)}})._repr_html_()
    assert "<img" not in page and "&lt;img" in page
