"""Stages leave their scores, ties are decided the same way every time, and nonsense is refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_nb.chunks import in_context
from llmops_nb.core import Chunk, ConfigurationError, Document, Passage, build
from llmops_nb.documents import Corpus, from_mapping
from llmops_nb.index import Recipe, build_index
from llmops_nb.retrieve import Retrieval, bm25, build_retriever, dense, fused, reranked, rrf


class Letters:
    name, digest = "letters", "letters-1"

    def __call__(self, texts):
        counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Overlap:
    "Share of the query's words in the text; counts what it was asked."

    name, digest = "overlap", "overlap-1"

    def __init__(self):
        self.asked = []

    def __call__(self, query, texts):
        self.asked.append((query, list(texts)))
        words = set(query.lower().split())
        return [len(words & set(text.lower().split())) / len(words) for text in texts]


@pytest.fixture(scope="module")
def topics():
    corpus = from_mapping("pydoc_data.topics", "topics")
    return Corpus("some topics", tuple(corpus.document(id) for id in ("compound", "for", "if", "while", "with")))


@pytest.fixture(scope="module")
def index(topics, tmp_path_factory):
    return build_index(topics, Recipe(embedder="letters"), Letters(), tmp_path_factory.mktemp("state"))


def passage(id, score=0.0, **scores):
    return Passage(Chunk(id, "d", id, 0, len(id)), score, scores)


def fixed(*ids, stage="s"):
    return lambda query, k, where=None: [passage(id, 1 / n, **{stage: 1 / n}) for n, id in enumerate(ids, start=1)][:k]


def ids(passages):
    return [found.chunk.id for found in passages]


# -- fusion


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4), st.integers(1, 100))
def test_rrf_is_the_sum_of_inverse_places(rankings, k):
    scores = rrf(rankings, k)
    assert scores.keys() == {id for ranking in rankings for id in ranking}
    for id, score in scores.items():
        assert score == pytest.approx(sum(1 / (k + ranking.index(id) + 1) for ranking in rankings if id in ranking))


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=3), st.integers(0, 12))
def test_fused_order_is_by_score_then_id(rankings, k):
    found = fused([fixed(*ranking) for ranking in rankings])("q", k)
    scores = rrf(rankings)
    assert ids(found) == sorted(scores, key=lambda id: (-scores[id], id))[:k]


def test_fused_passages_carry_every_stage():
    found = fused([fixed("a", "b", stage="dense"), fixed("b", "c", stage="bm25")], k=10)("q", 5)
    by_id = {each.chunk.id: each for each in found}
    assert ids(found)[0] == "b"
    assert by_id["b"].scores == {"dense": 0.5, "bm25": 1.0, "rrf": pytest.approx(1 / 11 + 1 / 12)}
    assert by_id["a"].scores.keys() == {"dense", "rrf"}
    assert all(each.score == each.scores["rrf"] for each in found)


def test_depth_limits_what_is_fused_but_never_what_is_asked_for():
    first, second = fixed("a", "b", "c"), fixed("c", "d", "e")
    assert set(ids(fused([first, second], depth=1)("q", 1))) <= {"a", "c"}
    assert len(fused([first, second], depth=1)("q", 3)) == 3
    assert len(fused([first, second], depth=1)("q", 10)) == 5


# -- re-ranking


def test_reranked_looks_at_depth_candidates_in_context(index):
    judge = Overlap()
    found = reranked(bm25(index), judge, depth=6)("else clause of the while statement", 3)
    assert len(judge.asked[0][1]) == 6
    assert set(judge.asked[0][1]) >= {in_context(each.chunk) for each in found}
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert all(each.scores.keys() == {"bm25", "rerank"} and each.score == each.scores["rerank"] for each in found)
    reranked(bm25(index), judge, depth=2)("statement", 5)
    assert len(judge.asked[1][1]) == 5


def test_reranker_is_not_asked_about_nothing():
    judge = Overlap()
    assert reranked(fixed(), judge)("q", 3) == reranked(fixed("a"), judge)("q", 0) == []
    assert judge.asked == []


def test_a_reranker_that_loses_a_passage_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        reranked(fixed("a", "b"), lambda query, texts: [1.0])("q", 2)


def test_ties_are_decided_by_id():
    equal = reranked(fixed("c", "a", "b"), lambda query, texts: [1.0] * len(texts))
    assert ids(equal("q", 2)) == ["a", "b"]


# -- searching


def all_of(index):
    near, words = dense(index, Letters()), bm25(index)
    return {"dense": near, "bm25": words, "fused": fused([near, words]), "reranked": reranked(fused([near, words]), Overlap(), 10)}


def test_every_retriever_keeps_the_contract(index):
    for name, search in all_of(index).items():
        many = search("else clause of the while statement", 10_000)
        assert 10 < len(many) <= len(index), name
        assert len(set(ids(many))) == len(many), name
        assert [each.score for each in many] == sorted((each.score for each in many), reverse=True), name
        assert search("", 5) == search(" \n", 5) == search("while", 0) == [], name
        few = search("else clause of the while statement", 5)
        assert len(few) == 5
        if name in ("dense", "bm25"):
            assert ids(few) == ids(many[:5])
        assert few == search("else clause of the while statement", 5), name


def test_many_threads_get_what_one_gets(index):
    queries = [f"{word} {other}" for word in ("while", "else", "with", "match") for other in ("loop", "statement", "guard")] * 6
    for search in all_of(index).values():
        alone = [search(query, 4) for query in queries]
        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(lambda query, search=search: search(query, 4), queries)) == alone


def test_long_and_strange_queries(index):
    for query in ("while " * 20_000, "\x00\ud800 while", "'; DROP TABLE chunks; --", "\U0001f600"):
        for name, search in all_of(index).items():
            assert len(search(query, 3)) <= 3, name


def test_the_prefix_goes_to_the_embedder_only(index):
    seen = []

    class Listening(Letters):
        def __call__(self, texts):
            seen.extend(texts)
            return super().__call__(texts)

    dense(index, Listening(), prefix="query: ")("while", 1)
    assert seen == ["query: while"]


def test_an_embedder_searches_only_its_own_index(index, topics, tmp_path):
    other = Letters()
    other.digest = "letters-2"
    with pytest.raises(ConfigurationError, match="made by 'letters'"):
        dense(index, other)
    with pytest.raises(ConfigurationError, match="words only"):
        dense(build_index(topics, Recipe(), None, tmp_path), Letters())


# -- app.yaml


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"mode": "hybrid"}, "Known: 'bm25', 'dense', 'fused'"),
        ({"mode": "fuse"}, "Did you mean 'fused'"),
        ({"top_k": 0}, "top_k is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"overlap": 120}, "overlap is 120"),
        ({"overlap": -1}, "overlap is -1"),
        ({"embedder": ""}, "needs an embedder"),
        ({"topk": 3}, "Did you mean 'top_k'"),
        ({"top_k": "3"}, "Expected `int`, got `str`"),
    ],
)
def test_sections_that_mean_nothing(section, says):
    with pytest.raises(ConfigurationError, match=says):
        build(Retrieval, section, "app.yaml: retrieval")


def test_a_section_makes_its_retriever(topics, tmp_path):
    judge = Overlap()
    expected = {
        Retrieval(mode="bm25", embedder=""): {"bm25"},
        Retrieval(mode="dense", embedder="letters"): {"dense"},
        Retrieval(embedder="letters"): {"dense", "bm25", "rrf"},
        Retrieval(embedder="letters", rerank="overlap", candidates=3): {"dense", "bm25", "rrf", "rerank"},
        Retrieval(mode="bm25", rerank="overlap"): {"bm25", "rerank"},
    }
    for spec, stages in expected.items():
        embedder = None if spec.mode == "bm25" else Letters()
        made = build_index(topics, spec.recipe, embedder, tmp_path)
        found = build_retriever(spec, made, embedder, judge)("while statement", spec.top_k)
        assert len(found) == spec.top_k
        assert set().union(*(each.scores for each in found)) == stages


def test_missing_parts_are_named(index):
    with pytest.raises(ConfigurationError, match="needs the embedder 'letters'"):
        build_retriever(Retrieval(embedder="letters"), index)
    with pytest.raises(ConfigurationError, match="needs the re-ranker 'x', but none"):
        build_retriever(Retrieval(embedder="letters", rerank="x"), index, Letters())
    with pytest.raises(ConfigurationError, match="needs the re-ranker 'x', but 'overlap'"):
        build_retriever(Retrieval(embedder="letters", rerank="x"), index, Letters(), Overlap())
    with pytest.raises(ConfigurationError, match="The index was made by"):
        build_retriever(Retrieval(embedder="letters", chunk_size=50), index, Letters())
    assert build_retriever(Retrieval(mode="bm25"), index)("while", 2)


def test_one_document_is_enough(tmp_path):
    made = build_index(Corpus("one", (Document("a", "Only this."),)), Recipe(embedder="letters"), Letters(), tmp_path)
    for search in all_of(made).values():
        assert ids(search("only", 5)) == ["a#1"]
