"""Stages leave their scores, ties are decided the same way every time, and nonsense is refused."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_nb import trace
from llmops_nb._retrieve_spans import at_most
from llmops_nb.chunks import approximate_tokens, in_context
from llmops_nb.core import Chunk, ConfigurationError, Document, Passage, build
from llmops_nb.documents import Corpus, from_mapping
from llmops_nb.embedding import open_embedder
from llmops_nb.filters import matches, read_filter
from llmops_nb.index import Recipe, build_index
from llmops_nb.retrieve import Retrieval, bm25, build_retriever, convex, dense, diverse, expanded, fused, gathered, merged, mmr, narrowed, reranked, rrf, whole
from llmops_nb.settings import load_settings
from llmops_nb.store import digest


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


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=3), st.data())
def test_weighted_rrf_is_the_weighted_sum(rankings, data):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(rankings), max_size=len(rankings)))
    scores = rrf(rankings, 60, weights)
    for id, score in scores.items():
        assert score == pytest.approx(sum(weight / (60 + r.index(id) + 1) for r, weight in zip(rankings, weights, strict=True) if id in r))
    assert ids(fused([fixed(*r) for r in rankings], weights=weights)("q", 9)) == sorted(scores, key=lambda id: (-scores[id], id))


def reference_convex(rankings, weights, least):
    "As in Bruch et al.: every score brought to 0…1, absent ones 0, and the weighted mean."
    sums = {}
    for ranking, weight, floor in zip(rankings, weights, least, strict=True):
        low = min(ranking.values(), default=0) if floor is None else floor
        high = max(ranking.values(), default=0)
        for id, score in ranking.items():
            scaled_to = 1.0 if high <= low else (score - low) / (high - low)
            sums[id] = sums.get(id, 0) + weight / sum(weights) * min(1, max(0, scaled_to))
    return sums


scored = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 30, width=32), max_size=8)


@given(st.lists(st.tuples(scored, st.floats(0.1, 3), st.sampled_from([None, 0.0, -1.0])), min_size=1, max_size=3), st.integers(0, 10))
def test_convex_is_the_weighted_mean_of_scaled_scores(parts, k):
    rankings, weights, least = (list(part) for part in zip(*parts, strict=True))

    def giving(ranking):
        best = sorted(ranking, key=lambda id: (-ranking[id], id))
        return lambda query, k, where=None: [passage(id, ranking[id], s=ranking[id]) for id in best][:k]

    found = convex([giving(ranking) for ranking in rankings], weights, least=least)("q", k)
    sums = reference_convex(rankings, weights, least)
    assert len(found) == min(k, len(sums)) and len(set(ids(found))) == len(found)
    assert [each.score for each in found] == pytest.approx(sorted(sums.values(), reverse=True)[:k])
    for each in found:
        assert each.score == each.scores["convex"] == pytest.approx(sums[each.chunk.id]) and -1e-9 <= each.score <= 1 + 1e-9


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [-1, 2], [0, 0], [math.nan, 1], [math.inf, 1]])
def test_weights_that_cannot_be(weights):
    for join in (fused, convex):
        with pytest.raises(ConfigurationError, match="one for each of the 2 retrievers"):
            join([fixed("a"), fixed("b")], weights=weights)


# -- diversity


def reference_mmr(relevance, likeness, balance, k):
    "Carbonell and Goldstein's formula, word for word."
    picked = []
    while len(picked) < min(k, len(relevance)):
        rest = [n for n in range(len(relevance)) if n not in [place for place, _ in picked]]
        value = {n: balance * relevance[n] - (1 - balance) * max([0.0, *(likeness[n][m] for m, _ in picked)]) for n in rest}
        best = max(rest, key=lambda n: (value[n], -n))
        picked.append((best, value[best]))
    return picked


@given(st.integers(0, 9), st.floats(0, 1), st.integers(0, 10), st.integers(0, 1000))
def test_mmr_follows_its_formula(many, balance, k, seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(many, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance, likeness = random.random(many).tolist(), vectors @ vectors.T
    found = mmr(relevance, likeness, balance, k)
    expected = reference_mmr(relevance, likeness, balance, k)
    assert [place for place, _ in found] == [place for place, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)


def test_diverse_passes_over_what_was_said(tmp_path):
    same = "The while statement repeats as long as a test is true"
    texts = {"a": same, "b": f"{same}!", "c": f"{same}?", "d": "A while loop has an else clause, zzz qqq xxx."}
    made = build_index(Corpus("same", tuple(Document(id, text) for id, text in texts.items())), Recipe(embedder="letters"), Letters(), tmp_path)
    near = dense(made, Letters())
    plain, unlike = near("while statement repeats", 2), diverse(near, made, 0.1)("while statement repeats", 2)
    assert {"d#1"} & set(ids(plain)) == set() and ids(unlike)[0] == ids(plain)[0] and ids(unlike)[1] == "d#1"
    assert all(each.scores.keys() == {"dense", "mmr"} and each.score == each.scores["mmr"] for each in unlike)
    assert ids(diverse(near, made, 1.0)("while", 4)) == ids(near("while", 4)), "relevance alone"
    assert diverse(near, made)("while", 0) == diverse(near, made)("", 3) == []
    with pytest.raises(ConfigurationError, match="words only"):
        diverse(near, build_index(Corpus("w", (Document("a", "x y"),)), Recipe(), None, tmp_path), 0.5)


# -- filters


FOUND_IN = {"a": {"tenant": "acme", "year": 2020}, "b": {"tenant": "acme", "year": 2024}, "c": {"tenant": "umbrella", "year": 2024}, "d": {"year": 2021}}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory):
    documents = tuple(Document(f"{id}{n}", f"The while statement number {n} of {id}.", metadata=metadata) for id, metadata in FOUND_IN.items() for n in range(5))
    return build_index(Corpus("tenants", documents), Recipe(embedder="letters"), Letters(), tmp_path_factory.mktemp("state"))


def every_way(index):
    near, words = dense(index, Letters()), bm25(index)
    both = fused([near, words])
    return {**all_of(index), "convex": convex([near, words], least=[None, 0.0]), "diverse": diverse(both, index, 0.5), "all": diverse(reranked(both, Overlap(), 10), index, 0.5, 10)}


leaf = st.one_of(
    st.fixed_dictionaries({"tenant": st.sampled_from(["acme", "umbrella", "nobody"])}),
    st.fixed_dictionaries({"year": st.dictionaries(st.sampled_from(["gte", "lt", "eq", "ne"]), st.integers(2019, 2025), min_size=1, max_size=2)}),
)
filters = st.recursive(leaf, lambda inner: st.one_of(st.builds(lambda parts: {"any": parts}, st.lists(inner, max_size=2)), st.builds(lambda part: {"not": part}, inner)), max_leaves=3)


@settings(max_examples=25, deadline=None)
@given(filters, st.one_of(st.none(), filters), st.integers(0, 25))
def test_no_caller_sees_what_the_application_withholds(tenants, kept, asked, k):
    known = frozenset({"tenant", "year"})
    for name, search in every_way(tenants).items():
        found = narrowed(search, kept)("while statement", k, asked)
        allowed = {id for id, metadata in FOUND_IN.items() if matches(read_filter(kept, known), metadata) and (asked is None or matches(read_filter(asked, known), metadata))}
        assert {each.chunk.document[0] for each in found} <= allowed, name
        assert len(found) == min(k, 5 * len(allowed)), name
        assert len(set(ids(found))) == len(found)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


@pytest.mark.parametrize("hostile", [{"any": [{"tenant": "umbrella"}, {"not": {"tenant": "umbrella"}}]}, {"all": []}, {"not": {"any": []}}, {}])
def test_a_filter_that_is_always_true_widens_nothing(tenants, hostile):
    mine = narrowed(bm25(tenants), {"tenant": "acme"})
    assert ids(mine("while", 20, hostile)) == ids(mine("while", 20)) and len(mine("while", 20)) == 10


@pytest.mark.parametrize(("bad", "says"), [({"tennant": "acme"}, "Did you mean 'tenant'"), ({"tenant": {"like": "a"}}, "operator"), (["tenant"], "mapping"), ({"tenant": None}, "compared")])
def test_filters_that_mean_nothing(tenants, bad, says):
    for search in [*every_way(tenants).values(), narrowed(bm25(tenants), {"tenant": "acme"})]:
        with pytest.raises(ConfigurationError, match=says):
            search("while", 3, bad)
    if isinstance(bad, dict):
        with pytest.raises(ConfigurationError, match=says):
            build_retriever(Retrieval(embedder="letters", where=bad), tenants, Letters())


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


def test_what_a_reranker_likes_equally_keeps_its_order():
    equal = reranked(fixed("c", "a", "b"), lambda query, texts: [1.0] * len(texts))
    assert ids(equal("q", 2)) == ["c", "a"]


@given(st.lists(st.one_of(st.none(), st.integers(-2, 2)), max_size=8), st.integers(0, 9))
def test_a_passage_without_a_judgement_keeps_its_place(grades, k):
    names = [f"p{n}" for n in range(len(grades))]
    found = reranked(fixed(*names), lambda query, texts: [math.nan if grade is None else grade for grade in grades][: len(texts)], depth=8)("q", k)
    judged = iter(sorted((n for n, grade in enumerate(grades) if grade is not None), key=lambda n: -grades[n]))
    assert ids(found) == [names[n if grade is None else next(judged)] for n, grade in enumerate(grades)][:k]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    for each in found:
        assert ("unjudged" in each.scores) == (grades[names.index(each.chunk.id)] is None) == ("rerank" not in each.scores)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_none_are_no_judgement(bad):
    found = reranked(fixed("a", "b", "c"), lambda query, texts: [1.0, bad, 5.0])("q", 3)
    assert ids(found) == ["c", "b", "a"] and all(math.isfinite(each.score) for each in found)


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
        ({"fusion": "rff"}, "Did you mean 'rrf'"),
        ({"weight": 1.5}, "weight is 1.5, it must be from 0 to 1"),
        ({"weight": math.nan}, "it must be from 0 to 1"),
        ({"mmr": -0.1}, "mmr is -0.1"),
        ({"mmr": 0.5, "mode": "bm25"}, "no vectors"),
        ({"rrf_k": 0}, "rrf_k is 0"),
        ({"expand": -1}, "expand is -1"),
        ({"expand": 2, "parent": "section"}, "not both"),
        ({"parent": "chapter"}, "Known: '', 'document', 'section'"),
        ({"parent_tokens": 0}, "parent_tokens is 0"),
        ({"paraphrases": 99}, "from 0 to 10"),
        ({"rewrite": "hyde"}, "Known: '', 'hypothetical', 'paraphrase', 'rewrite'"),
        ({"where": "tenant"}, "Expected `object`"),
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


# -- in context


GUIDE = Document(
    "guide",
    """# Guide

Read this first.

## Loops

### While

Repeats as long as its test is true.

The else clause runs when the test has become false.

### For

Takes one element after the other, in their order.

## Names

Deletion removes the binding of a name.
""",
    "Guide",
)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    corpus = Corpus("guide", (GUIDE,))
    return corpus, build_index(corpus, Recipe(chunk_size=12), None, tmp_path_factory.mktemp("state"))


def headed(name):
    return GUIDE.text.index(name)


@pytest.mark.parametrize(
    ("part", "most", "first", "last"),
    [
        ("section", 400, "### While", "become false."),
        ("document", 400, "# Guide", "of a name."),
        ("document", 40, "## Loops", "in their order."),  # The widest part that fits
        ("document", 25, "### While", "become false."),
        ("section", 13, "The else clause", "become false."),  # No part fits: the lines around the chunk that do
        ("section", 1, "The else clause", "become false."),  # Never less than what was found
    ],
)
def test_the_widest_part_that_fits(guide, part, most, first, last):
    corpus, index = guide
    (found,) = whole(bm25(index), corpus, part, most)("else clause", 1)
    assert (found.chunk.start, found.chunk.end) == (headed(first), headed(last) + len(last))
    assert found.chunk.text == GUIDE.text[found.chunk.start : found.chunk.end]
    assert found.chunk.version == digest(found.chunk.text) and found.chunk.id in {chunk.id for chunk in index.chunks}
    assert approximate_tokens(found.chunk.text) <= max(most, 12)


def test_a_part_is_read_under_its_headings(guide):
    corpus, index = guide
    (found,) = whole(bm25(index), corpus, "section")("else clause", 1)
    assert found.chunk.heading == "Guide > Loops > While"
    assert in_context(found.chunk).startswith("Guide > Loops > While\nRepeats as long")


def test_hits_of_one_part_are_one_passage(guide):
    corpus, index = guide
    hits = bm25(index)("test true false else", 3)
    (found,) = whole(bm25(index), corpus, "section")("test true false else", 3)
    assert len(hits) == 2 and found.scores["hits"] == 2 and found.score == hits[0].score and found.chunk.id == hits[0].chunk.id
    assert found.scores["found"] == pytest.approx(sum(len(hit.chunk.text) for hit in hits) / len(found.chunk.text))


def test_neighbours_stand_around(guide):
    corpus, index = guide
    (hit,) = bm25(index)("else clause", 1)
    (found,) = expanded(bm25(index), index, corpus, 1, 1)("else clause", 1)
    around = [hit.chunk, *index.beside(hit.chunk, 1, 1)]
    assert (found.chunk.start, found.chunk.end) == (min(each.start for each in around), max(each.end for each in around))
    assert found.chunk.text == GUIDE.text[found.chunk.start : found.chunk.end] and found.scores["found"] < 1
    (whole_guide,) = expanded(bm25(index), index, corpus, 99, 99)("else clause", 1)
    assert whole_guide.chunk.end == len(GUIDE.text.rstrip())


def test_a_changed_or_missing_document_leaves_the_chunk_alone(guide):
    _, index = guide
    (hit,) = bm25(index)("else clause", 1)
    for other in (Corpus("other", (Document("guide", "Now it says something else."),)), Corpus("none", (Document("x", "y"),))):
        for around in (whole(bm25(index), other), expanded(bm25(index), index, other), merged(bm25(index), other)):
            (found,) = around("else clause", 1)
            assert found.chunk == hit.chunk and found.scores["found"] == 1


def test_pages_go_along(tmp_path):
    first, second = "One page about spam and eggs.", "Another page about ham, then more of it, and more."
    text = f"{first}\n\n{second}\n"
    corpus = Corpus("paged", (Document("p", text, metadata={"pages": [0, len(first) + 2]}),))
    index = build_index(corpus, Recipe(chunk_size=14), None, tmp_path)
    found = merged(bm25(index), corpus)("ham", 1)
    assert found[0].chunk.page == 2 and whole(bm25(index), corpus, "document")("ham", 1)[0].chunk.page == 1


@given(st.text(max_size=60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
def test_what_fits_is_counted_as_everywhere(text, start, end, most):
    assert at_most(text, start, end, most) == (approximate_tokens(text[start:end]) <= most)


pieces = st.lists(st.tuples(st.integers(0, 180), st.integers(1, 60)), min_size=1, max_size=8)


@given(pieces, st.sampled_from(["merge", "section", "document"]), st.integers(1, 60))
def test_what_is_shown_is_the_text_and_nothing_twice(spans, way, most):
    text = "".join(f"{'# ' if n % 7 == 0 else ''}word{n} of a line\n{'' if n % 3 else chr(10)}" for n in range(12))
    corpus = Corpus("t", (Document("d", text),))
    chunks = {(a, min(a + b, len(text))) for a, b in spans}
    hits = [Passage(Chunk(f"d#{n}", "d", text[a:b], a, b), 1 / n, {"s": 1 / n}) for n, (a, b) in enumerate(sorted(chunks), start=1)]

    def search(query, k, where=None):
        return hits[:k]

    found = (merged(search, corpus) if way == "merge" else whole(search, corpus, way, most))("q", 8)
    covered = [at for each in found for at in range(each.chunk.start, each.chunk.end)]
    assert len(covered) == len(set(covered)), "nothing is read twice"
    assert set(covered) >= {at for hit in hits for at in range(hit.chunk.start, hit.chunk.end)}, "nothing found is lost"
    assert all(text[each.chunk.start : each.chunk.end] == each.chunk.text and 0 < each.scores["found"] <= 1 for each in found)
    assert sum(each.scores["hits"] for each in found) == len(hits)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


# -- windows, empty indexes, the whole section


class Narrow(Letters):
    window = 8

    def __init__(self):
        self.seen = []

    def count(self, text):
        return len(text.split())

    def __call__(self, texts):
        self.seen.extend(texts)
        return super().__call__(texts)


def test_a_query_longer_than_the_window_is_cut_and_says_so(index, caplog, tmp_path):
    narrow = Narrow()
    search = dense(index, narrow)
    with trace.tracing(tmp_path / "spans.jsonl"):
        found = search("while " * 5000, 3)
    assert [len(text.split()) for text in narrow.seen] == [8] and len(found) == 3
    assert "longer than the 8 tokens that letters reads" in caplog.text
    (span,) = trace.read_spans(tmp_path / "spans.jsonl")
    assert span["name"] == "query cut" and span["attributes"]["llmops.query.characters"] == 30000
    caplog.clear()
    search("while one two three four five six seven", 3)
    assert not caplog.text and narrow.seen[-1].endswith("seven")


def test_an_index_from_which_all_is_gone_finds_nothing(topics, tmp_path):
    made = build_index(topics, Recipe(embedder="letters"), Letters(), tmp_path)
    made.delete([document.id for document in topics.documents])
    assert len(made) == 0
    for name, search in every_way(made).items():
        assert search("while statement", 3) == [], name


def test_a_whole_section_is_built_with_every_stage(tenants):
    corpus = Corpus("tenants", tuple(Document(f"{id}{n}", f"The while statement number {n} of {id}.", metadata=metadata) for id, metadata in FOUND_IN.items() for n in range(5)))
    spec = Retrieval(embedder="letters", fusion="convex", weight=0.3, rerank="overlap", candidates=8, mmr=0.8, parent="document", where={"tenant": "acme"}, rewrite="rewrite")
    asked = []

    def around(retriever):
        def search(query, k, where=None):
            asked.append(where)
            return retriever("while statement", k, where)

        return search

    found = build_retriever(spec, tenants, Letters(), Overlap(), corpus, around)("Whatever?", 3, {"year": 2024})
    assert {each.chunk.document[0] for each in found} == {"b"} and len(found) == 3
    assert found[0].scores.keys() == {"dense", "bm25", "convex", "rerank", "mmr", "hits", "found"}
    assert asked == [{"all": [{"tenant": "acme"}, {"year": 2024}]}]
    with pytest.raises(ConfigurationError, match="no corpus was given"):
        build_retriever(spec, tenants, Letters(), Overlap(), asking=around)
    with pytest.raises(ConfigurationError, match="no model was given"):
        build_retriever(spec, tenants, Letters(), Overlap(), corpus)


def test_old_sections_keep_their_meaning(index):
    near, words = dense(index, Letters()), bm25(index)
    for query in ("while statement", "else clause of for", "guard"):
        old = fused([near, words], 60, 50)(query, 4)
        assert build_retriever(Retrieval(embedder="letters"), index, Letters())(query, 4) == old


def test_a_section_is_a_key(index):
    assert {Retrieval(where={"a": 1}): 1}[Retrieval(where={"a": 1})] == 1 and Retrieval(where={"a": 1}) != Retrieval(where={"a": 2})


@pytest.mark.local
def test_the_real_embedder_is_asked_for_what_it_reads(tmp_path, caplog):
    near = open_embedder("bge-small-en-v1.5", load_settings())
    made = build_index(Corpus("one", (Document("a", "The while statement repeats."),)), Recipe(embedder=near.name), near, tmp_path)
    assert near.window == 510 and near.count("while " * 600) == 600
    (long,) = dense(made, near)("while statement " * 400, 1)
    assert "longer than the 510 tokens" in caplog.text
    (cut,) = dense(made, near)("while statement " * 255, 1)
    assert long.score == cut.score
    assert dense(made, near)("w" * 100_000, 1), "a word without end"
    caplog.clear()
    dense(made, near, "Represent this: ")("while " * 500, 1)
    assert not caplog.text


@pytest.mark.parametrize("fusion", ["rrf", "convex"])
def test_the_weight_is_the_share_of_the_search_by_meaning(index, fusion):
    query = "else clause of the while statement"
    for weight, alone in ((1.0, dense(index, Letters())), (0.0, bm25(index))):
        search = build_retriever(Retrieval(embedder="letters", fusion=fusion, weight=weight), index, Letters())
        assert ids(search(query, 5)) == ids(alone(query, 5))


def test_of_two_scores_of_one_stage_the_larger_is_told():
    found = gathered([[passage("a", 0.5, s=0.5)], [passage("a", 0.9, s=0.9, t=0.1)], [passage("a", 0.2, s=0.2)]])
    assert found["a"].scores == {"s": 0.9, "t": 0.1}
