"""Comparing runs: parity, failures that are not dropped, repeats, verdicts with known truth, and what people read."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmops_nb.comparisons import ASPECTS, Comparison, compare, compare_arms, parity, read_outcomes, read_record
from llmops_nb.core import Answer, ConfigurationError, DataError, Evidence, Item, Score, Usage, from_json, to_json
from llmops_nb.evals import Run, RunInfo, read_records, save_info
from llmops_nb.metrics import Failure, Record
from llmops_nb.store import Journal

Scored = Mapping[str, float | None] | None  # None: no answer


def item(number: int, slices: tuple[str, ...] = ("all",), source: str = "") -> Item:
    return Item(f"q{number:03}", f"Question {number}?", f"answer {number}", slices=slices, evidence=(Evidence(source, "quote"),) if source else ())


def make(
    place: Path,
    scores: Sequence[Scored],  # One an item
    *,
    items: Sequence[Item] = (),
    shuffled: int = 0,
    digests: Mapping[str, str] | None = None,
    **changes: Any,
) -> Run:
    "A run directory with these scores; a score of NaN is a scorer that failed."
    items = items or [item(n) for n in range(len(scores))]
    records = []
    for one, given in zip(items, scores, strict=True):
        if given is None:
            records.append(Record(one, None, error=Failure("ModelError", "server", "the provider is busy", True)))
            continue
        found = [Score(name, None, error="the scorer failed") if value is not None and math.isnan(value) else Score(name, value) for name, value in given.items()]
        records.append(Record(one, Answer(f"An answer to {one.id}", usage=Usage(latency=1.0)), tuple(found), seconds=1.0))
    random.Random(shuffled).shuffle(records)
    journal = Journal(place / "records.jsonl", sync=False)
    for record in records:
        journal.append(to_json(record))
    journal.close()
    made_of = {"app": place.name, "golden": "a" * 64, "scorers": "b" * 64, **(digests or {})}
    info = RunInfo(place.name, "pydocs", "finished", items=len(items), selection="all", digests=made_of, **changes)
    save_info(place, info)
    return Run(place, info)


def success(right: int, n: int, name: str = "task_success") -> list[Scored]:
    "The first are right."
    return [{name: float(k < right)} for k in range(n)]


def flips(wins: int, losses: int, both: int, n: int) -> tuple[list[Scored], list[Scored]]:
    "Two lists with so many changes."
    rest = n - wins - losses - both
    before, after = [0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * rest, [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * rest
    return [{"task_success": v} for v in before], [{"task_success": v} for v in after]


def test_a_clear_difference(tmp_path: Path) -> None:
    before, after = flips(11, 2, 42, 70)
    found = compare(make(tmp_path / "a", before), make(tmp_path / "b", after, shuffled=1), labels=("Prompt A", "Prompt B"))
    verdict = found.verdict("task_success")
    assert verdict.outcome == "better" and verdict.paired.p == pytest.approx(0.02246, abs=1e-5) and verdict.adjusted == verdict.paired.p
    assert verdict.sentence.startswith("Prompt B answers 9 more of 70 questions than Prompt A (+13 points, 95 % interval 3 to 24);")
    assert "unlikely to be chance (p = 0.022)" in verdict.sentence and "correction" not in verdict.sentence
    assert [len(found.changed(kind)) for kind in ("fixed", "broken", "same right", "same wrong", "missing")] == [11, 2, 42, 15, 0]
    back = compare(make(tmp_path / "c", after), make(tmp_path / "d", before)).verdict()
    assert back.outcome == "worse" and "9 fewer of 70" in back.sentence


def test_no_difference_says_how_many_more(tmp_path: Path) -> None:
    before, after = flips(8, 6, 40, 70)
    verdict = compare(make(tmp_path / "a", before), make(tmp_path / "b", after)).verdict()
    assert verdict.outcome == "not enough evidence" and verdict.more is not None and 400 < verdict.more < 900
    assert "cannot be told apart" in verdict.sentence and "70 items show a difference of" in verdict.sentence
    same = compare(make(tmp_path / "c", success(40, 70)), make(tmp_path / "d", success(40, 70))).verdict()
    assert same.outcome == "not enough evidence" and "are the same on task success on all 70 items" in same.sentence


def test_the_order_in_which_items_finished_changes_nothing(tmp_path: Path) -> None:
    draw = random.Random(3)
    scores = [{"groundedness": draw.random(), "latency": draw.random() + 0.1} for _ in range(60)]
    other = [{"groundedness": draw.random(), "latency": draw.random() + 0.1} for _ in range(60)]
    one = compare(make(tmp_path / "a", scores), make(tmp_path / "b", other))
    two = compare(make(tmp_path / "x" / "a", scores, shuffled=5), make(tmp_path / "x" / "b", other, shuffled=6))
    assert one.verdicts == two.verdicts and [c.item for c in one.changes] == [c.item for c in two.changes] == sorted(c.item for c in one.changes)


def test_parity_names_what_differs(tmp_path: Path) -> None:
    a = make(tmp_path / "a", success(40, 70))
    other = make(tmp_path / "b", success(40, 60), digests={"golden": "c" * 64, "scorers": "d" * 64})
    found = parity(a, other)
    assert [text.partition(":")[0] for text in found] == ["golden", "scorers", "items"]
    assert "version aaaaaaaaaaaa" in found[0] and "cccccccccccc" in found[0] and "10 only in a, e.g. 'q0" in found[2] and "60 are in both" in found[2]
    with pytest.raises(ConfigurationError, match=r"allow=\['golden', 'scorers', 'items'\]"):
        compare(a, other)
    with pytest.raises(ConfigurationError, match="scorers: the scorers of a"):
        compare(a, other, allow=("golden", "items"))
    kept = compare(a, other, allow=ASPECTS)
    assert kept.items == 60 and sum(note.startswith("Overlooked on request") for note in kept.notes) == 3
    with pytest.raises(ConfigurationError, match="Did you mean 'golden'"):
        compare(a, other, allow=("goldn",))
    assert parity(a, a) == []


def test_an_item_that_changed_is_not_paired_by_its_id(tmp_path: Path) -> None:
    a = make(tmp_path / "a", success(5, 10))
    changed = [item(n) if n else Item("q000", "Another question?", "another answer") for n in range(10)]
    found = compare(a, make(tmp_path / "b", success(5, 10), items=changed, digests={"golden": "c" * 64}), allow=("golden",))
    assert found.items == 9 and any("1 items have the same id but another question" in note for note in found.notes)


def test_failures_are_counted_at_their_worst(tmp_path: Path) -> None:
    before, after = flips(11, 2, 42, 70)
    some = [None if 20 <= n < 24 else score for n, score in enumerate(after)]
    verdict = compare(make(tmp_path / "a", before), make(tmp_path / "b", some)).verdict()
    assert verdict.failed == (0, 4) and verdict.paired.n == 66 and verdict.worst is not None and verdict.best is not None
    assert verdict.worst.difference == pytest.approx((11 - 2 - 4) / 70) and verdict.best.difference == pytest.approx(9 / 70)
    assert verdict.outcome == "not enough evidence" and "4 items failed (4 with b)" in verdict.sentence and "could undo the difference" in verdict.sentence
    strong, much = flips(25, 1, 30, 70)
    few = [None if n == 30 else score for n, score in enumerate(much)]
    held = compare(make(tmp_path / "c", strong), make(tmp_path / "d", few)).verdict()
    assert held.outcome == "better" and "this holds even with it at its worst" in held.sentence


def test_a_scorer_that_failed_or_does_not_apply(tmp_path: Path) -> None:
    before: list[Scored] = [{"groundedness": 0.5 + 0.005 * n} for n in range(40)]
    after: list[Scored] = [{"groundedness": float("nan") if n == 0 else None if n < 4 else 0.55 + 0.005 * n} for n in range(40)]
    verdict = compare(make(tmp_path / "a", before), make(tmp_path / "b", after)).verdict()
    assert verdict.failed == (0, 1) and verdict.onesided == 3 and verdict.paired.n == 36
    neither: list[Scored] = [{"groundedness": None} for _ in range(40)]
    none = compare(make(tmp_path / "c", neither), make(tmp_path / "d", neither)).verdict()
    assert none.outcome == "not enough evidence" and none.adjusted is None and "cannot be compared" in none.sentence


def test_the_last_record_of_an_item_counts(tmp_path: Path) -> None:
    "A failed item that was asked again has both records in the journal."
    before, after = flips(11, 2, 42, 70)
    b = make(tmp_path / "b", [None, *after[1:]])
    journal = Journal(tmp_path / "b" / "records.jsonl")
    journal.append(to_json(Record(item(0), Answer("again"), (Score("task_success", 1.0),))))
    journal.close()
    verdict = compare(make(tmp_path / "a", before), b).verdict()
    assert verdict.failed == (0, 0) and verdict.paired.n == 70 and verdict.paired.wins == 11


def test_repeats_are_averaged_by_item(tmp_path: Path) -> None:
    "Five repeats of one arm are not five times as many items."
    before, after = flips(6, 2, 10, 30)
    repeats = [make(tmp_path / f"b{r}", after, digests={"app": "same"}) for r in range(5)]
    many, single = compare(make(tmp_path / "a", before), repeats).verdict(), compare(make(tmp_path / "c", before), repeats[0]).verdict()
    assert many.paired == single.paired and many.paired.n == 30
    mixed = [make(tmp_path / f"m{r}", [{"task_success": float((n + r) % 2)} for n in range(30)], digests={"app": "same"}) for r in range(2)]
    half = compare(make(tmp_path / "d", success(0, 30)), mixed)
    assert half.verdict().paired.difference == 0.5 and not half.verdict().paired.binary and len(half.changed("fixed")) == 30
    with pytest.raises(ConfigurationError, match="app: a is no repeat of b0"):
        compare(repeats[0], [repeats[0], make(tmp_path / "e" / "a", after)])
    with pytest.raises(ConfigurationError, match="An arm without a run"):
        compare(repeats[0], [])


def test_one_failed_repeat_leaves_the_others(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"b{r}", [{"task_success": 1.0} if r or n else None for n in range(20)], digests={"app": "same"}) for r in range(2)]
    verdict = compare(make(tmp_path / "a", success(0, 20)), runs).verdict()
    assert verdict.failed == (0, 1) and verdict.paired.n == 20 and verdict.paired.difference == 1.0
    assert verdict.worst is not None and verdict.worst.difference == pytest.approx((19 + 0.5) / 20) and verdict.outcome == "better"


def test_less_is_better_for_latency_and_cost(tmp_path: Path) -> None:
    draw = random.Random(1)
    base = [draw.lognormvariate(0, 0.8) for _ in range(60)]
    slow: list[Scored] = [{"latency": v, "cost": 0.0, "tokens": 100.0} for v in base]
    fast: list[Scored] = [{"latency": v * draw.lognormvariate(math.log(0.7), 0.2), "cost": 0.0, "tokens": 100.0} for v in base]
    found = compare(make(tmp_path / "a", slow), make(tmp_path / "b", fast), margins={"cost": 0.1, "latency": 0.05})
    latency = found.verdict("latency")
    assert latency.outcome == "better" and latency.ratio and math.exp(latency.paired.difference or 0) == pytest.approx(0.7, abs=0.05)
    assert "% less time than" in latency.sentence and latency.medians is not None and latency.medians[0] > latency.medians[1]
    assert compare(make(tmp_path / "c", fast), make(tmp_path / "d", slow)).verdict("latency").outcome == "worse"
    assert found.verdict("cost").outcome == "not enough evidence" and not found.verdict("cost").ratio  # zeros have no ratio
    assert "are the same on cost" in found.verdict("cost").sentence
    row = found.to_pandas().set_index("metric").loc["latency"]
    assert row["kind"] == "ratio" and row["low"] < row["value"] < row["high"] < 1


def test_margins_make_equivalent_and_noninferior(tmp_path: Path) -> None:
    before, after = flips(3, 3, 250, 300)
    a, b = make(tmp_path / "a", before), make(tmp_path / "b", after)
    assert compare(a, b).verdict().outcome == "not enough evidence"
    same = compare(a, b, margins={"task_success": 0.03}).verdict()
    assert same.outcome == "equivalent" and same.noninferior and same.more is None and "differ by less than 3 points" in same.sentence
    up, down = flips(14, 5, 150, 200)
    open_ = compare(make(tmp_path / "c", up), make(tmp_path / "d", down), margins={"task_success": 0.05}).verdict()
    assert open_.outcome == "not enough evidence" and open_.noninferior and "at least not worse by more than 5 points" in open_.sentence


def test_arms_and_metrics_are_corrected_together(tmp_path: Path) -> None:
    before, after = flips(11, 2, 42, 70)
    old = make(tmp_path / "a", before)
    arms = {f"arm {n}": make(tmp_path / f"b{n}", after if n == 0 else before) for n in range(4)}
    found = compare_arms(old, arms)
    assert found["arm 0"].verdict().adjusted == pytest.approx(4 * 0.02246, abs=1e-4) and found["arm 0"].verdict().outcome == "not enough evidence"
    assert "after correction for 4 tests" in found["arm 0"].verdict().sentence and found["arm 0"].before.label == "baseline"
    alone = compare_arms(old, {"arm 0": arms["arm 0"]})["arm 0"].verdict()
    assert alone.outcome == "better"


def test_slices_have_verdicts_of_their_own(tmp_path: Path) -> None:
    items = [item(n, ("hard", "long") if n < 40 else ("easy",)) for n in range(80)]
    before: list[Scored] = [{"task_success": float(n >= 40), "exact_match": 0.0} for n in range(80)]
    after: list[Scored] = [{"task_success": float(n >= 40 or n < 12), "exact_match": 0.0} for n in range(80)]
    found = compare(make(tmp_path / "a", before, items=items), make(tmp_path / "b", after, items=items))
    assert {v.slice for v in found.slices} == {"hard", "easy", "long"} and len(found.slices) == 6
    assert found.verdict("task_success", "hard").outcome == "better" and found.verdict("task_success", "easy").outcome == "not enough evidence"
    assert found.verdict("task_success", "hard").paired.n == 40
    assert compare(make(tmp_path / "c", before, items=items), make(tmp_path / "d", after, items=items), by_slice=False).slices == ()
    with pytest.raises(ConfigurationError, match="No verdict named 'task_success har'"):
        found.verdict("task_success", "har")


def test_items_of_one_document_are_kept_together(tmp_path: Path) -> None:
    "All changes in four of forty documents: independent, a clear difference; by document, not."
    items = [item(n, source=f"document {n // 5}") for n in range(200)]
    before, after = success(0, 200), success(15, 200)
    a, b = make(tmp_path / "a", before, items=items), make(tmp_path / "b", after, items=items)
    kept, alone = compare(a, b).verdict(), compare(a, b, clustered=False).verdict()
    assert alone.outcome == "better" and alone.paired.p is not None and alone.paired.p < 0.001
    assert kept.outcome == "not enough evidence" and kept.paired.clusters == 40 and "40 clusters" in kept.paired.method
    assert compare(make(tmp_path / "c", before), make(tmp_path / "d", after)).verdict().paired.clusters == 0  # without sources


def test_labels_say_what_differs(tmp_path: Path) -> None:
    a = make(tmp_path / "a", success(5, 10), parameters={"model": "small", "top_k": 4}, digests={"prompt": "e" * 64})
    b = make(tmp_path / "b", success(5, 10), parameters={"model": "large", "top_k": 4}, digests={"prompt": "f" * 64})
    found = compare(a, b)
    assert (found.before.label, found.after.label) == ("model small", "model large")
    assert found.differs == ("prompt: eeeeeeeeeeee → ffffffffffff", "model: small → large")


def test_empty_and_one_item_comparisons(tmp_path: Path) -> None:
    empty = [make(tmp_path / name, []) for name in ("a", "b")]
    nothing = compare(*empty)
    assert nothing.items == 0 and nothing.verdicts == () and nothing.changes == () and isinstance(nothing._repr_html_(), str)
    one = compare(make(tmp_path / "c", success(0, 1)), make(tmp_path / "d", success(1, 1))).verdict()
    assert one.outcome == "not enough evidence" and one.paired.n == 1 and one.adjusted == 1.0
    failed = compare(make(tmp_path / "e", success(3, 3)), make(tmp_path / "f", [None] * 3)).verdict()
    assert failed.outcome == "not enough evidence" and failed.failed == (0, 3) and "(3 failed)" in failed.sentence


def test_outcomes_and_records_by_place(tmp_path: Path) -> None:
    run = make(tmp_path / "a", [None, *success(5, 9)], items=[item(n, source="d1") for n in range(10)])
    path = run.directory / "records.jsonl"
    outcomes = read_outcomes(path)
    assert len(outcomes) == 10 and outcomes["q000"].error == "the provider is busy" and outcomes["q003"].source == "d1"
    for outcome in outcomes.values():
        assert read_record(path, outcome.at).item.id == outcome.id
    assert {r.item.id: r for r in read_records(path)}["q004"] == read_record(path, outcomes["q004"].at)
    found = compare(run, run)
    assert all(read_record(path, change.at_after).item.id == change.item for change in found.changes)
    with open(path, "ab") as file:
        file.write(b'{"item": {"id": "torn"')
    assert len(read_outcomes(path)) == 10  # a line that is still being written
    path.write_bytes(b'{"item": 3}\n')
    with pytest.raises(DataError, match="records.jsonl:1: Not a Record"):
        read_outcomes(path)


def test_a_comparison_is_json_and_html_without_hostile_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    items = [item(n, (hostile,)) for n in range(70)]
    before, after = flips(20, 2, 30, 70)
    found = compare(make(tmp_path / "a", before, items=items), make(tmp_path / "b", after, items=items), labels=(hostile, f"{hostile}2"))
    page = found._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert from_json(to_json(found), Comparison) == found
    assert json.loads(to_json(found.verdict()))["outcome"] == "better"
    assert len(found.to_pandas()) == 2 and str(tmp_path) not in repr(found)


def test_unknown_metrics_are_refused_and_single_ones_noted(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", [{"x": 0.5, "y": 0.5}] * 10), make(tmp_path / "b", [{"x": 0.5, "z": 0.5}] * 10)
    found = compare(a, b)
    assert [v.metric for v in found.verdicts] == ["x"] and any("On one side only" in note and "y" in note and "z" in note for note in found.notes)
    with pytest.raises(ConfigurationError, match="No metric in both arms named 'y'"):
        compare(a, b, ["y"])


def test_verdicts_are_rarely_wrong(tmp_path: Path) -> None:
    "Two equal arms, three correlated metrics, eight documents' worth of clusters: any false verdict in at most one of twenty comparisons."
    draw, wrong, rounds = random.Random(11), 0, 120
    items = [item(n, source=f"d{n // 3}") for n in range(45)]
    for number in range(rounds):
        sides = []
        for name in "ab":
            scores: list[Scored] = []
            for _ in range(45):
                luck = draw.random()
                scores.append({"task_success": float(luck > 0.4), "groundedness": min(1.0, max(0.0, luck + draw.gauss(0, 0.2))), "latency": draw.lognormvariate(0, 0.5)})
            sides.append(make(tmp_path / str(number) / name, scores, items=items))
        wrong += any(v.outcome in ("better", "worse") for v in compare(*sides, by_slice=False).verdicts)
    assert wrong / rounds <= 0.09  # 0.05, give or take the noise of 120 rounds
