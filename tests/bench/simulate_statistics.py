"""What the statistics promise, measured against known truth: coverage, false alarms, power advice, and what a race saves.

The tests hold the same promises with fewer rounds; this prints the tables that the pages quote. About five minutes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llmops_nb.agreement import cohen_kappa, kappa_of
from llmops_nb.paired import holm, items_needed, paired
from llmops_nb.sequential import confidence_sequence, purse
from llmops_nb.stats import mean, share

SHAPES: dict[str, tuple[Callable[[np.random.Generator, int], Any], float]] = {
    "normal": (lambda draw, n: draw.normal(3, 2, n), 3.0),
    "bounded": (lambda draw, n: draw.beta(2, 1, n), 2 / 3),
    "skewed": (lambda draw, n: draw.exponential(1, n), 1.0),
    "steps of a half": (lambda draw, n: draw.choice([0.0, 0.5, 1.0], n, p=[0.2, 0.3, 0.5]), 0.65),
    "half alike": (lambda draw, n: 0.5 + draw.normal(0, 0.1, n) * (draw.random(n) < 0.5), 0.5),
}


def coverage_of_means(rounds: int) -> Iterator[tuple[str, float]]:
    "Bootstrap intervals of a mean."
    draw = np.random.default_rng(1)
    for n in (12, 20, 40, 70, 140):
        for name, (make, truth) in SHAPES.items():
            found = [mean(make(draw, n).tolist(), seed=seed, resamples=1000) for seed in range(rounds)]
            yield f"mean of {n}, {name}", float(np.mean([e.low <= truth <= e.high for e in found if e.low is not None and e.high is not None]))


def clustered(draw: np.random.Generator, groups: int, size: int, truth: float, alike: float) -> tuple[list[float], list[int]]:
    "0/1 values whose clusters have rates of their own; `alike` is the correlation inside a cluster."
    spread = (1 - alike) / alike
    rates = draw.beta(spread * truth, spread * (1 - truth), groups)
    return (draw.random((groups, size)) < rates[:, None]).astype(float).ravel().tolist(), np.repeat(np.arange(groups), size).tolist()


def coverage_with_clusters(rounds: int) -> Iterator[tuple[str, float]]:
    "Shares and means of clustered items, counted as such and not."
    draw = np.random.default_rng(2)
    for groups, size, alike in ((12, 5, 0.3), (20, 5, 0.3), (40, 3, 0.2), (70, 2, 0.3)):
        for truth in (0.5, 0.8, 0.9):
            cases = [clustered(draw, groups, size, truth, alike) for _ in range(rounds)]
            for name, make in (
                ("share", lambda v, c: share(v, c)),
                ("share, clusters ignored", lambda v, c: share(v)),
                ("mean", lambda v, c: mean(v, c, resamples=1000)),
            ):
                found = [make(*case) for case in cases]
                yield (
                    f"{name} {truth}, {groups} × {size} items",
                    float(np.mean([e.low <= truth <= e.high for e in found if e.low is not None and e.high is not None])),
                )


def gaps_of(draw: np.random.Generator, kind: str, n: int) -> Any:
    "Differences with mean 0."
    if kind == "0/1, 20 % change":
        return draw.choice([-1, 0, 1], n, p=[0.1, 0.8, 0.1])
    if kind == "steps of a half":
        return draw.choice([-1, -0.5, 0, 0.5, 1], n, p=[0.1, 0.15, 0.5, 0.15, 0.1])
    if kind == "half alike":
        return draw.normal(0, 0.1, n) * (draw.random(n) < 0.5)
    if kind == "log ratios, heavy tails":
        return draw.normal(0, 0.4, n) + draw.normal(0, 0.4, n) ** 3
    return draw.exponential(1, n) - 1  # skewed: mean 0, but not symmetric


def paired_tests(rounds: int) -> Iterator[tuple[str, float]]:
    "Coverage of the difference and false alarms of test, verdict (test and interval) and one-sided bound."
    draw = np.random.default_rng(3)
    for n in (20, 40, 70, 140):
        for kind in ("0/1, 20 % change", "steps of a half", "half alike", "log ratios, heavy tails", "skewed"):
            found = []
            for seed in range(rounds):
                gaps = gaps_of(draw, kind, n)
                before, after = (np.minimum(gaps, 0) * -1, np.maximum(gaps, 0)) if kind[0] == "0" else (np.zeros(n), gaps)
                found.append(paired(before, after, seed=seed, resamples=1000))
            whole = [f for f in found if f.low is not None and f.high is not None and f.p is not None and f.narrow is not None]
            yield f"{n} pairs, {kind}: coverage", float(np.mean([f.low <= 0 <= f.high for f in whole]))  # type: ignore[operator]
            yield "    p ≤ 0.05", float(np.mean([f.p <= 0.05 for f in whole]))  # type: ignore[operator]
            yield "    p ≤ 0.05 and interval without 0 (the verdict)", float(np.mean([f.p <= 0.05 and not f.low <= 0 <= f.high for f in whole]))  # type: ignore[operator]
            yield "    one-sided bound above 0", float(np.mean([f.narrow[0] > 0 for f in whole]))  # type: ignore[index]


def clustered_pairs(rounds: int) -> Iterator[tuple[str, float]]:
    "Clusters in which all changes tend to go one way."
    draw = np.random.default_rng(4)
    for groups, size in ((12, 6), (25, 4), (35, 2)):
        found, naive = [], []
        for seed in range(rounds):
            side = draw.beta(0.7, 0.7, groups)[:, None]
            gaps = np.where(draw.random((groups, size)) < 0.3, np.where(draw.random((groups, size)) < side, 1, -1), 0).ravel()
            keys = np.repeat(np.arange(groups), size).tolist()
            found.append(paired(np.maximum(-gaps, 0), np.maximum(gaps, 0), keys, seed=seed))
            naive.append(paired(np.maximum(-gaps, 0), np.maximum(gaps, 0)))
        for name, cases in (("by cluster", found), ("clusters ignored", naive)):
            yield f"{groups} clusters of {size} pairs, {name}: coverage", float(np.mean([f.low <= 0 <= f.high for f in cases]))  # type: ignore[operator]
            yield "    p ≤ 0.05", float(np.mean([f.p <= 0.05 for f in cases]))  # type: ignore[operator]


def corrections(rounds: int) -> Iterator[tuple[str, float]]:
    "Any false alarm among arms that share a baseline, none of them different."
    draw = np.random.default_rng(5)
    for arms in (3, 6, 12):
        any_raw = any_holm = 0
        for _ in range(rounds):
            hard = draw.normal(0, 1, 70)
            base = (hard + draw.normal(0, 0.8, 70) < 0.7).astype(float)
            ps = [paired(base, (hard + draw.normal(0, 0.8, 70) < 0.7).astype(float)).p for _ in range(arms)]
            any_raw += min(p for p in ps if p is not None) <= 0.05
            any_holm += min(p for p in holm(ps) if p is not None) <= 0.05
        yield f"{arms} equal arms, 70 items: any p ≤ 0.05", any_raw / rounds
        yield "    any p ≤ 0.05 after Holm", any_holm / rounds


def advice(rounds: int) -> Iterator[tuple[str, float]]:
    "Share of experiments of the advised size that find the difference; 0.8 was asked for."
    draw = np.random.default_rng(6)
    for difference, changes in ((0.05, 0.1), (0.1, 0.2), (0.15, 0.3), (0.2, 0.3)):
        n = items_needed(difference, changes) or 0
        found = 0
        for _ in range(rounds):
            gaps = draw.choice([-1, 0, 1], n, p=[(changes - difference) / 2, 1 - changes, (changes + difference) / 2])
            p = paired(np.maximum(-gaps, 0), np.maximum(gaps, 0)).p
            found += p is not None and p <= 0.05
        yield f"{difference:.0%} at {changes:.0%} changes: {n} items advised", found / rounds
    for difference, spread in ((0.05, 0.2), (0.1, 0.3)):
        n = items_needed(difference, spread=spread) or 0
        found = sum((paired(np.zeros(n), draw.normal(difference, spread, n), resamples=100).p or 0) <= 0.05 for _ in range(rounds // 2))
        yield f"{difference} at a spread of {spread}: {n} items advised", found / (rounds // 2)


def agreements(rounds: int) -> Iterator[tuple[str, float]]:
    "Bootstrap intervals of κ."
    draw = np.random.default_rng(7)
    tables = {"even": [[0.42, 0.08], [0.10, 0.40]], "one label rare": [[0.80, 0.05], [0.06, 0.09]]}
    tables["three labels"] = [[0.30, 0.05, 0.01], [0.06, 0.20, 0.06], [0.02, 0.05, 0.25]]
    for n in (60, 100, 200):
        for name, table in tables.items():
            flat, size = np.array(table).ravel(), len(table)
            truth, inside, said = float(kappa_of(table)), 0, 0
            for seed in range(rounds):
                cells = draw.choice(size * size, n, p=flat)
                found = cohen_kappa((cells // size).tolist(), (cells % size).tolist(), labels=range(size), resamples=1000, seed=seed)
                said += found.low is not None
                inside += found.low is not None and found.high is not None and found.low <= truth <= found.high
            yield f"κ of {n} items, {name}", inside / max(1, said)


def race(draw: np.random.Generator, shares: list[float], items: int, rounds: int, error: float = 0.05) -> tuple[float, float, float]:
    "Share of the calls saved, how often the best arm was dropped, and the share of the other arms that were."
    arms = len(shares)
    hard = draw.normal(0, 1, (rounds, items))
    cut = [math.sqrt(1 + 0.8**2) * float(np.sqrt(2) * _inverse_error(2 * s - 1)) for s in shares]
    scores = np.stack([(hard + draw.normal(0, 0.8, (rounds, items)) < c).astype(float) for c in cut], axis=1)
    bound = math.log(max(1, arms - 1) / error)
    first = np.full((rounds, arms, arms), items + 1)
    for i in range(arms):
        for j in range(arms):
            if i != j:
                reached = purse(scores[:, j] - scores[:, i]) >= bound
                first[:, i, j] = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, items + 1)
    gone = np.full((rounds, arms), items + 1)
    for step in range(1, items + 1):
        asked = gone >= step  # those still asked at this step
        out = asked & ((first == step) & asked[:, None, :]).any(axis=2)
        gone[out] = step
    calls = np.minimum(gone, items)
    best = int(np.argmax(shares))
    return 1 - float(calls.mean()) / items, float((gone[:, best] <= items).mean()), float(np.delete(gone <= items, best, axis=1).mean())


def _inverse_error(value: float) -> float:
    from scipy.special import erfinv

    return float(erfinv(value))


FIELDS = {
    "8 equal arms": [0.7] * 8,
    "2 arms, 0.75 and 0.60": [0.75, 0.60],
    "4 arms, 0.75 and three of 0.60": [0.75, 0.60, 0.60, 0.60],
    "4 arms, 0.75, 0.70, 0.50, 0.40": [0.75, 0.70, 0.50, 0.40],
    "8 arms, 0.80 down to 0.45 in steps of 0.05": [0.80 - 0.05 * place for place in range(8)],
    "12 arms, 0.75 and eleven of 0.45": [0.75] + [0.45] * 11,
}


def races(rounds: int) -> Iterator[tuple[str, float]]:
    "Races looked at after every item."
    draw = np.random.default_rng(8)
    for items in (70, 140):
        for name, shares in FIELDS.items():
            saved, wrong, dropped = race(draw, shares, items, rounds)
            yield f"{name}, {items} items: calls saved", saved
            yield "    best arm dropped (a given arm, when all are equal)", wrong
            yield "    other arms dropped", dropped


def sequences(rounds: int) -> Iterator[tuple[str, float]]:
    "Confidence sequences that were right at every one of 140 items."
    draw = np.random.default_rng(9)
    for truth in (0.5, 0.8, 0.95):
        found = [confidence_sequence((draw.random(140) < truth).astype(float).tolist(), parts=200) for _ in range(rounds // 4)]
        yield f"0/1 with mean {truth}: right at all times", float(np.mean([all(low <= truth <= high for low, high in case) for case in found]))
        yield "    width after 140", float(np.mean([case[-1][1] - case[-1][0] for case in found]))


PARTS = [coverage_of_means, coverage_with_clusters, paired_tests, clustered_pairs, corrections, advice, agreements, races, sequences]


def main(rounds: int, parts: list[str]) -> None:
    for part in PARTS:
        if not parts or part.__name__ in parts:
            print(f"\n{part.__doc__} ({part.__name__}, {rounds} rounds, ± {1.96 * math.sqrt(0.05 * 0.95 / rounds):.3f})")
            for name, value in part(rounds):
                print(f"{name:<72} {value:6.3f}", flush=True)


if __name__ == "__main__":
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("parts", nargs="*", help=f"which tables; all by default: {', '.join(p.__name__ for p in PARTS)}")
    reader.add_argument("--rounds", type=int, default=1000)
    given = reader.parse_args()
    main(given.rounds, given.parts)
