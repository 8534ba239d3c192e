"""Measures of rankings equal those of trec_eval, and those of spans equal a count of characters."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_nb.core import Chunk, ConfigurationError, DataError, Document, Evidence, Item, Passage
from llmops_nb.datasets import GoldenSet, load_golden, parse_golden, save_golden
from llmops_nb.documents import Corpus
from llmops_nb.evidence import ENOUGH
from llmops_nb.rankings import Relevance, parse_measure, relevance_of, score_ranking, score_rankings

CUTS = (1, 2, 3, 5, 10, 100)
THEIRS = {"recall": ir_measures.R, "precision": ir_measures.P, "hit_rate": ir_measures.Success, "mrr": ir_measures.RR, "map": ir_measures.AP, "ndcg": ir_measures.nDCG}
DOCUMENTS = [f"d{n}" for n in range(12)]
JUDGED = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 4), max_size=10)
RANKED = st.lists(st.sampled_from(DOCUMENTS), max_size=30)


def theirs(measures: list, qrels: dict[str, dict[str, int]], rankings: dict[str, list[str]]) -> dict[tuple[str, str], float]:
    "What ir-measures says, with scores that fall from place to place."
    run = {query: {name: float(len(found) - place) for place, name in enumerate(dict.fromkeys(found))} for query, found in rankings.items() if found}
    found = ir_measures.iter_calc(measures, qrels, run)
    return {(metric.query_id, str(metric.measure)): metric.value for metric in found}


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), st.tuples(JUDGED, RANKED), min_size=1), st.booleans())
def test_measures_equal_those_of_trec_eval(queries: dict[str, tuple[dict[str, int], list[str]]], condensed: bool) -> None:
    "Graded judgements, unjudged documents, documents that come again, queries without a ranking."
    judged = {query: some for query, (some, _) in queries.items() if any(grade > 0 for grade in some.values())}
    names = {f"{name}@{k}": kind(judged_only=True) @ k if condensed else kind @ k for k in CUTS for name, kind in THEIRS.items() if not condensed or name != "mrr"}
    names |= {"map": ir_measures.AP(judged_only=condensed), "mrr": ir_measures.RR(judged_only=condensed), "ndcg": ir_measures.nDCG(judged_only=condensed)}
    names |= {f"judged@{k}": ir_measures.Judged @ k for k in CUTS}
    expected = theirs(list(names.values()), judged, {query: ranking for query, (_, ranking) in queries.items()}) if judged else {}
    for query, (some, ranking) in queries.items():
        ours = score_ranking(ranking, Relevance("document", some), list(names), "condensed" if condensed else "irrelevant")
        for name, measure in names.items():
            if query not in judged:
                assert name.startswith("judged") or ours[name] is None
            elif name.startswith("judged") and not ranking:
                assert ours[name] is None
            else:
                assert ours[name] == pytest.approx(expected.get((query, str(measure)), 0.0), abs=1e-9), name


@settings(max_examples=60, deadline=None)
@given(JUDGED.filter(lambda some: any(some.values())), RANKED)
def test_the_exponential_gain_is_that_of_trec_eval_with_other_grades(judged: dict[str, int], ranking: list[str]) -> None:
    ours = score_ranking(ranking, Relevance("document", judged), ["ndcg_exp@10"])["ndcg_exp@10"]
    expected = theirs([ir_measures.nDCG @ 10], {"q": {name: 2**grade - 1 for name, grade in judged.items()}}, {"q": ranking})
    assert ours == pytest.approx(next(iter(expected.values()), 0.0), abs=1e-9)


def test_ties_are_broken_by_the_order_given_and_a_run_file_by_its_scores() -> None:
    judged = {"b": 1}
    tied = ir_measures.calc_aggregate([ir_measures.RR], {"q": judged}, {"q": {"a": 1.0, "b": 1.0}})[ir_measures.RR]
    assert tied == 1  # trec_eval: of equal scores, the later id first
    assert score_ranking(["a", "b"], Relevance("document", judged), ["mrr"]) == {"mrr": 0.5}


def passage(chunk: Chunk) -> Passage:
    return Passage(chunk, 1.0)


def test_chunks_of_a_document_count_once_at_the_first_of_them() -> None:
    found = [passage(Chunk(f"{name}#{n}", name, "", 0, 0)) for name, n in (("b", 1), ("b", 2), ("a", 1), ("b", 3))]
    assert score_ranking(found, Relevance("document", {"a": 1}), ["mrr", "precision@2"]) == {"mrr": 0.5, "precision@2": 0.5}
    assert score_ranking(found, Relevance("chunk", {"a#1": 1}), ["mrr", "precision@3"]) == {"mrr": 1 / 3, "precision@3": 1 / 3}


TEXT = "ab cd  ef\n\ngh ij ab kl mnop q ab"


@st.composite
def cut(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, len(TEXT) - 1))
    return start, draw(st.integers(start + 1, len(TEXT)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(cut(), st.sampled_from([1.0, 2.0, 0.5])), min_size=1, max_size=4), st.lists(cut(), max_size=6), st.integers(1, 6))
def test_spans_are_counted_character_by_character(quotes: list[tuple[tuple[int, int], float]], chunks: list[tuple[int, int]], k: int) -> None:
    solid = {at for at, letter in enumerate(TEXT) if not letter.isspace()}
    item = Item("i", "?", evidence=tuple(Evidence("d", TEXT[slice(*place)], grade) for place, grade in quotes))
    relevance = relevance_of(item, Corpus("c", (Document("d", TEXT),)), "span")
    wanted = {span: set(range(span.places[0], span.places[0] + len(span.text))) & solid for span in relevance.spans if len(span.places) == 1}
    if len(wanted) < len(relevance.spans) or not relevance.spans:
        return  # words that stand there twice have a test of their own
    found = [passage(Chunk(f"d#{n}", "d", TEXT[a:b], a, b)) for n, (a, b) in enumerate(chunks)]
    read = [set(range(a, b)) & solid for a, b in chunks[:k]]
    every, held = set().union(*wanted.values()), set().union(*read)
    shares = [[len(some & set().union(*read[:n])) / len(some) for some in wanted.values()] for n in range(len(read) + 1)]
    grades = [span.grade for span in wanted]
    gains = [sum(g * (b - a) for g, a, b in zip(grades, before, after, strict=True)) for before, after in zip(shares, shares[1:], strict=False)]
    first = next((n for n, some in enumerate(shares) if max(some) >= ENOUGH), math.inf)
    length = sum(map(len, read))
    assert score_ranking(found, relevance, [f"{name}@{k}" for name in ("recall", "precision", "iou", "found", "hit_rate", "mrr", "ndcg")]) == pytest.approx({
        f"recall@{k}": len(every & held) / len(every),
        f"precision@{k}": len(every & held) / length if length else 0.0,
        f"iou@{k}": len(every & held) / (length + len(every) - len(every & held)),
        f"found@{k}": sum(share >= ENOUGH for share in shares[-1]) / len(grades),
        f"hit_rate@{k}": float(max(shares[-1]) >= ENOUGH),
        f"mrr@{k}": 1 / first,
        f"ndcg@{k}": sum(gain / math.log2(n + 2) for n, gain in enumerate(gains)) / sum(grades),
    }, abs=1e-9)  # fmt: skip


def test_words_that_stand_twice_are_found_at_either_place() -> None:
    corpus = Corpus("c", (Document("d", "It may. Then again: it may. It may."),))
    relevance = relevance_of(Item("i", "?", evidence=(Evidence("d", "It may."),)), corpus, "span")
    assert relevance.spans[0].places == (0, 28)
    found = [passage(Chunk("d#2", "d", "It may.", 28, 35))]
    assert score_ranking(found, relevance, ["recall@1", "precision@1"]) == {"recall@1": 1, "precision@1": 1}


def test_a_chunk_of_another_version_covers_nothing_that_has_changed() -> None:
    corpus = Corpus("c", (Document("d", "Rome has seven hills."),))
    relevance = relevance_of(Item("i", "?", evidence=(Evidence("d", "seven hills"),)), corpus, "span")
    assert score_ranking([passage(Chunk("d#1", "d", "Rome had eight hills.", 0, 21))], relevance, ["recall"]) == {"recall": 0}
    assert score_ranking([passage(Chunk("d#1", "d", "Rome has seven hills.", 0, 21))] * 2, relevance, ["recall", "precision"])["precision"] == pytest.approx(10 / 18)


def test_a_whole_document_is_evidence_without_a_quote() -> None:
    corpus = Corpus("c", (Document("d", "\n Rome has hills. \n"), Document("e", "  ")))
    relevance = relevance_of(Item("i", "?", evidence=(Evidence("d"), Evidence("e"), Evidence("d", "no such words"))), corpus, "span")
    assert relevance.missing == 2
    assert score_ranking([passage(Chunk("d#1", "d", "Rome has hills.", 2, 17))], relevance, ["recall", "iou"]) == {"recall": 1, "iou": 1}


@pytest.mark.parametrize("measure", ["ndcg@0", "ndcg@-1", "ndcg@1.5", "nDCG@10", "recall@", "@3", "", "map@10\n", "recall@9999999", "<b>@2"])
def test_a_measure_that_there_is_not_is_refused(measure: str) -> None:
    with pytest.raises(ConfigurationError, match=r"No measure of documents named .*Known: 'hit_rate'"):
        parse_measure(measure)


def test_what_cannot_be_judged_is_said() -> None:
    with pytest.raises(ConfigurationError, match="unit of relevance"):
        relevance_of(Item("i", "?"), unit="word")
    with pytest.raises(ConfigurationError, match="give the corpus"):
        relevance_of(Item("i", "?"), unit="span")
    with pytest.raises(DataError, match="None of 2 items has evidence"):
        score_rankings([Item("i", "?"), Item("j", "?")], {}, ["map"])
    spans = relevance_of(Item("i", "?", evidence=(Evidence("d"),)), Corpus("c", (Document("d", "words"),)), "span")
    with pytest.raises(ConfigurationError, match="give the passages"):
        score_ranking(["d"], spans, ["recall"])
    with pytest.raises(ConfigurationError, match="unjudged"):
        score_ranking(["d"], Relevance("document", {"d": 1}), ["recall"], "ignored")


def test_items_without_anything_to_find_are_left_out_and_counted() -> None:
    items = [Item("a", "?", evidence=(Evidence("d", grade=2),)), Item("b", "?"), Item("c", "?", evidence=(Evidence("d", grade=0),)), Item("e", "?", evidence=(Evidence("d"),))]
    scores = score_rankings(items, {"a": ["d"], "b": ["d"], "c": ["d"]}, ["recall@1", "judged@1"])
    assert scores.of("recall@1") == {"a": 1, "e": 0} and scores.left_out == ("b", "c") and scores.unranked == ("e",)
    assert scores.of("judged@1") == {"a": 1, "c": 1}
    frame = scores.to_pandas()
    assert list(frame.index) == ["a", "b", "c", "e"] and frame["recall@1"].isna().sum() == 2
    assert "2 left out" in scores._repr_html_()


def test_a_grade_changes_no_golden_set_that_has_none(tmp_path: Path) -> None:
    old = '{"id":"a","question":"?","evidence":[{"document":"d","quote":"words"}]}\n'
    golden = parse_golden(old, "old")
    assert golden["a"].evidence == (Evidence("d", "words", 1.0),)
    assert golden.content == b'[{"evidence":[{"document":"d","quote":"words"}],"id":"a","question":"?"}]'
    save_golden(golden, tmp_path / "g.jsonl")
    assert json.loads((tmp_path / "g.jsonl").read_text()) == json.loads(old)
    assert parse_golden('{"id":"a","question":"?","evidence":[{"document":"d","quote":"","grade":1}]}', "x").digest == parse_golden('{"id":"a","question":"?","evidence":[{"document":"d"}]}', "y").digest
    graded = GoldenSet("new", (Item("a", "?", evidence=(Evidence("d", "words", 3), Evidence("e", "", 0))),))
    save_golden(graded, tmp_path / "g.jsonl")
    assert load_golden(tmp_path / "g.jsonl").items == graded.items and graded.digest != golden.digest
    with pytest.raises(DataError, match="evidence names its document"):
        parse_golden('{"id":"a","question":"?","evidence":[{"document":""}]}', "bad")
