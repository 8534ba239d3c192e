"""What every index does, in files and on a server: one suite for both."""

import json
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_server import VARIABLE, address

from llmops_nb.core import ConfigurationError, DataError, Document
from llmops_nb.documents import Corpus, from_mapping
from llmops_nb.filters import matches, read_filter
from llmops_nb.index import Recipe, build_index
from llmops_nb.postgres import open_index
from llmops_nb.settings import Settings

RECIPE = Recipe(chunk_size=30, embedder="counting")


class Counting:
    "Unit vectors from letter counts, and how many texts were embedded."

    name, digest = "counting", "counting-1"

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture(params=["files", "postgres"])
def make(request, tmp_path, monkeypatch):
    "A function that opens an index of documents; each call has its own state, so nothing is found by its digest."
    if request.param == "postgres":
        address()
        if request.param == "postgres":
            monkeypatch.setenv(VARIABLE, address())

    def opened(documents, embedder=None, recipe=RECIPE, state="state"):
        where = Settings(state=tmp_path / state, vectors=VARIABLE if request.param == "postgres" else "")
        if request.param == "postgres":
            forget()
        return open_index(Corpus("c", tuple(documents)), recipe, embedder or Counting(), where)

    opened.kind = request.param
    return opened


def forget():
    "Take every index off the server."
    import psycopg

    with psycopg.connect(address(), autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('llmops_indexes')").fetchone()[0]:
            for (number,) in connection.execute("SELECT number FROM llmops_indexes").fetchall():
                connection.execute(f"DROP TABLE llmops_docs_{number}, llmops_chunks_{number}, llmops_rows_{number}, llmops_words_{number}")
            connection.execute("DELETE FROM llmops_indexes")


def doc(id, text, **metadata):
    return Document(id, text, metadata=metadata)


TEXT = {
    "a": "# Loops\n\nThe while statement repeats a suite.\n\n# Ends\n\nA loop ends with break.",
    "b": "# Loops\n\nThe while statement repeats a suite.\n\n# Files\n\nThe with statement closes a file.",
    "c": "Guarantees about files are few. A file closes.",
    "d": "The while statement repeats a suite.",
}


def found(index, query, k=9, **options):
    near = index.nearest(Counting()([query])[0], k, **options)
    match = index.matching(query, k, **options)
    return near, match


def alike(one, two):
    "Two results with the same chunks at the same scores, whatever order equal scores have."
    assert [score for _, score in one] == pytest.approx([score for _, score in two], abs=2e-6)
    rounded = [sorted((round(score, 4), chunk.id) for chunk, score in result) for result in (one, two)]
    assert [id for _, id in rounded[0]] == [id for _, id in rounded[1]]


def test_everything_that_can_be_read(make):
    index = make([doc(id, text, tenant="x") for id, text in TEXT.items()])
    assert [chunk.id for chunk in index.chunks][:3] == ["a#1", "a#2", "b#2"]
    assert len(index) == len(index.chunks) == 5
    assert index.chunk("b#1").document == "b"
    assert index.meta.copies == {"a#1": ("b#1",)}
    assert index.metadata("b") == {"tenant": "x"}
    assert index.fields == ("tenant",)
    assert [chunk.id for chunk in index.beside(index.chunk("a#1"))] == ["a#2"]
    assert [chunk.id for chunk in index.beside(index.chunk("b#2"), 3, 3)] == ["b#1"]
    assert index.beside(index.chunk("a#1"), 0, 0) == []
    assert index.vectors_of(["b#1", "a#1"]) == pytest.approx(Counting()(["Loops\nThe while statement repeats a suite."] * 2), abs=1e-6)
    for bad, call in (("zzz", index.metadata), ("zzz#1", index.chunk)):
        with pytest.raises(DataError, match="zzz"):
            call(bad)
    with pytest.raises(DataError, match="zzz#4"):
        index.vectors_of(["a#1", "zzz#4"])
    assert "26 dimensions" in repr(index)


def test_rows_are_shared_where_metadata_is_equal_and_nowhere_else(make):
    text = "The notice period is three months."
    index = make([doc("one", text, tenant="acme"), doc("two", text, tenant="zeta"), doc("three", text, tenant="acme"), doc("four", "Other.", tenant="zeta")])
    assert len(index) == 3
    for who, first in (("acme", "one#1"), ("zeta", "two#1")):
        near, match = found(index, "notice period", where={"tenant": who})
        assert [chunk.id for chunk, _ in match] == [first]
        assert near[0][0].id == first
        assert {index.metadata(chunk.document)["tenant"] for chunk, _ in near} == {who}
    near, match = found(index, "notice period")
    assert [chunk.id for chunk, _ in match] == ["one#1"], "equal texts take one place"
    assert [chunk.id for chunk, _ in near] == ["one#1", "four#1"]


def test_a_filter_leaves_rows_out_and_no_score_changes(make):
    rng = random.Random(3)
    words = "while with loop file suite break guard exit match case".split()
    documents = [doc(f"d{n:02}", " ".join(rng.choices(words, k=12)), year=2000 + n % 7, tags=rng.sample(words, 2)) for n in range(60)]
    index = make(documents)
    everything = {chunk.id: score for chunk, score in index.matching("while file", 999)}
    nearest = {chunk.id: score for chunk, score in index.nearest(Counting()(["while file"])[0], 999)}
    for where in ({"year": {"gte": 2004}}, {"tags": "loop"}, {"any": [{"year": 2001}, {"tags": {"in": ["file", "exit"]}}]}, {"not": {"tags": "loop"}}):
        filter = read_filter(where, index.fields)
        kept = {document.id for document in documents if matches(filter, document.metadata)}
        near, match = found(index, "while file", 999, where=where)
        assert {chunk.document for chunk, _ in near} == kept
        assert {chunk.id for chunk, _ in match} == {id for id in everything if id.partition("#")[0] in kept}
        assert [score for _, score in match] == pytest.approx([everything[chunk.id] for chunk, _ in match], abs=1e-6)
        assert [score for _, score in near] == pytest.approx([nearest[chunk.id] for chunk, _ in near], abs=1e-6)
        alike(found(index, "while file", 5, where=where)[0], near[:5])


def test_unknown_fields_and_nonsense_are_refused(make):
    index = make([doc("a", TEXT["a"], tenant="acme", year=2020)])
    with pytest.raises(ConfigurationError, match="Did you mean 'tenant'"):
        index.matching("while", 3, {"tenent": "acme"})
    with pytest.raises(ConfigurationError, match="year"):
        index.nearest(np.ones(26), 3, {"yeer": 1})
    with pytest.raises(ConfigurationError, match="3 dimensions, the index 26"):
        index.nearest([1, 0, 0], 3)
    with pytest.raises(ConfigurationError, match="not finite"):
        index.nearest([math.nan] * 26, 3)
    hostile = "'; DROP TABLE llmops_indexes; -- %s {rows} \\"
    assert index.matching("while", 3, {"tenant": hostile}) == []
    assert index.matching(hostile, 3) == []
    assert index.nearest(np.ones(26), 0) == index.matching("while", -1) == []


def test_what_a_filter_keeps_is_remembered_for_that_filter_and_time_alone(make):
    rows = {"a": {"v": 1}, "b": {"v": True}, "c": {"v": "1", "expires": 100.0}, "d": {"v": [1, "x"], "expires": 200}}
    index = make([doc(id, f"{TEXT[id]} {id}", **metadata) for id, metadata in rows.items()])
    wheres = [None, {}, {"v": 1}, {"v": 1.0}, {"v": True}, {"v": "1"}, {"v": {"in": [1, True]}}, {"v": {"in": (True, 1)}}, {"not": {"v": 1}}, {"v": {"exists": True}}, {"all": []}, {"any": []}]
    for where in (wheres + wheres[::-1]) * 2:
        for now in (0, 99.9, 100, 150.0, 200, 1e18, -1e18, 0):
            kept = {id for id, metadata in rows.items() if matches(read_filter(where, index.fields), metadata, now)}
            near, _ = found(index, "while file", 20, where=where, now=now)
            assert {chunk.document for chunk, _ in near} == kept, (where, now)
    for wrong in ({"v": b"1"}, {"v": None}, {"v": math.nan}, {1: 1}, {"v": {"in": "1"}}, {"v": object()}):
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                index.nearest(np.ones(26), 3, wrong)


def test_what_has_expired_is_not_found_and_purge_takes_it_out(make):
    embedder = Counting()
    index = make([doc("a", TEXT["a"], expires=100.0), doc("b", TEXT["b"], expires=200), doc("c", TEXT["c"])], embedder)
    for now, left in ((99.9, "abc"), (100.0, "bc"), (199, "bc"), (1e12, "c")):
        near, match = found(index, "while file statement", now=now)
        assert {chunk.document for chunk, _ in near} == set(left), now
        assert {chunk.document for chunk, _ in match} <= set(left)
    assert {chunk.document for chunk, _ in found(index, "while file")[0]} == {"c"}, "the clock is past both"
    before = len(embedder.asked)
    change = index.purge(now=150)
    assert (change.removed, change.rows) == (("a",), len(index))
    assert len(embedder.asked) == before
    assert index.purge(now=150).removed == ()
    assert {chunk.document for chunk, _ in found(index, "while", now=0)[0]} == {"b", "c"}
    with pytest.raises(DataError, match="holds no document 'a'"):
        index.metadata("a")
    index.delete(["c"])
    assert found(index, "while file") == ([], []), "everything has expired"
    index.purge()
    assert (len(index), list(index.chunks), found(index, "while", where={"any": []})) == (0, [], ([], []))
    assert index.upsert([doc("z", TEXT["d"])]).added == ("z",)
    assert len(found(index, "while")[0]) == 1


def test_only_what_changed_is_embedded(make):
    embedder = Counting()
    index = make([doc(id, text, tenant="x") for id, text in TEXT.items()], embedder)
    first = len(embedder.asked)
    assert first == len(index)
    same = index.upsert([doc(id, text, tenant="x") for id, text in TEXT.items()])
    assert (same.same, same.embedded, same.added, same.replaced) == (4, 0, (), ())
    assert index.upsert([doc("c", TEXT["c"], tenant="y", expires=1e12)]).embedded == 0, "metadata alone"
    assert index.metadata("c") == {"tenant": "y", "expires": 1e12}
    assert {chunk.document for chunk, _ in index.matching("guarantees", 9, {"tenant": "y"})} == {"c"}
    changed = index.upsert([doc("b", TEXT["b"] + "\n\n# More\n\nA new section.", tenant="x")])
    assert (changed.replaced, changed.embedded) == (("b",), 1)
    assert embedder.asked[first:] == ["More\nA new section."]
    gone = index.delete(["a"])
    assert (gone.removed, gone.embedded) == (("a",), 0), "the copy in b takes the place, with the vector it shared"
    assert [chunk.id for chunk, _ in index.matching("while repeats", 1, {"tenant": "x"})] == ["d#1"]
    assert index.chunk("b#1").id in {chunk.id for chunk in index.chunks}


def test_a_refused_change_changes_nothing(make):
    index = make([doc(id, text, tenant="x") for id, text in TEXT.items()])
    before = (index.digest, [chunk.id for chunk in index.chunks])

    class Other(Counting):
        digest = "counting-2"

    class Wide(Counting):
        def __call__(self, texts):
            return np.eye(len(texts), 99, dtype=np.float32)

    class Dead(Counting):
        def __call__(self, texts):
            raise ValueError("no power")

    new = doc("new", "Something new.")
    for kind, says, call in (
        (ConfigurationError, "must be embedded by 'counting'", lambda: index.upsert([new], Other())),
        (ConfigurationError, "99", lambda: index.upsert([new], Wide())),
        (ValueError, "no power", lambda: index.upsert([doc("a", "x"), new], Dead())),
        (DataError, "two of the documents|Two of the documents", lambda: index.upsert([new, new])),
        (DataError, "not JSON", lambda: index.upsert([doc("a", "x", when={1, 2})])),
        (DataError, "not JSON", lambda: index.upsert([doc("a", "x", n=math.nan)])),
        (DataError, "expires", lambda: index.upsert([doc("a", "x", expires="tomorrow")])),
        (DataError, "Unicode", lambda: index.upsert([doc("a", "x \ud800")])),
        (DataError, "holds no document 'nobody'", lambda: index.delete(["a", "nobody"])),
    ):
        with pytest.raises(kind, match=says):
            call()
        assert (index.digest, [chunk.id for chunk in index.chunks]) == before
    assert index.upsert([new]).added == ("new",)


def test_hostile_names_and_texts_come_back_as_they_were(make):
    names = ["a#1", "ä/ö.md", "x' OR 1=1 --", "line\nbreak", "tab\tand \\N", "", "😀", "%s", "{rows}"]
    documents = [doc(name, f"Text number {place} about \\. things\u2028of 'quotes'", note=name) for place, name in enumerate(names)]
    index = make(documents)
    assert {chunk.document for chunk in index.chunks} == set(names)
    for document in documents:
        assert index.metadata(document.id) == {"note": document.id}
        (one,) = index.matching("text about quotes", 99, {"note": document.id})
        assert one[0].text == document.text
        assert index.chunk(one[0].id) == one[0]


WORDS = ["while", "file", "loop", "with"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=0, max_size=5).map(lambda words: "\n\n".join(f"# {word}\n\n{word} {words[0]} suite" for word in words))
DOCUMENTS = st.builds(lambda id, text, metadata: Document(id, text, "", metadata), st.sampled_from("abcde"), TEXTS, st.sampled_from([{}, {"tenant": "x"}, {"tenant": "y"}, {"tenant": "x", "expires": 50.0}]))
STEPS = st.lists(st.one_of(st.lists(DOCUMENTS, max_size=3, unique_by=lambda document: document.id), st.sampled_from(["a", "b", "c", "purge", "compact"])), max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_however_it_came_about_it_is_the_index_of_its_documents(make, steps):
    "Any history of changes: the digest, the rows, the scores of one made from nothing."
    embedder, now = Counting(), {"a": doc("a", TEXT["a"], tenant="x")}
    index = make(now.values(), embedder, state=f"s{random.random()}")
    for step in steps:
        if isinstance(step, list):
            index.upsert(step)
            now |= {document.id: document for document in step}
        elif step == "purge":
            index.purge(now=60)
            now = {id: document for id, document in now.items() if document.metadata.get("expires", 99) > 60}
        elif step == "compact":
            index.compact()
        elif step in now:
            index.delete([step])
            del now[step]
    if not any(document.text.strip() for document in now.values()):
        assert len(index) == 0
        return
    known = (index.digest, [chunk.id for chunk in index.chunks], index.meta.copies, index.fields)
    results = [found(index, query, 9, where=where, now=0) for query in ("while", "loop file") for where in (None, *([{"tenant": "x"}] if "tenant" in index.fields else []))]
    fresh = make([now[id] for id in sorted(now)], state=f"s{random.random()}")
    assert known == (fresh.digest, [chunk.id for chunk in fresh.chunks], fresh.meta.copies, fresh.fields)
    again = [found(fresh, query, 9, where=where, now=0) for query in ("while", "loop file") for where in (None, *([{"tenant": "x"}] if "tenant" in fresh.fields else []))]
    for one, two in zip(results, again, strict=True):
        for a, b in zip(one, two, strict=True):
            alike(a, b)


def test_many_threads_get_what_one_gets_while_it_changes(make):
    index = make([doc(id, text, tenant="x") for id, text in TEXT.items()])
    queries = ["while loop", "with file", "guarantees", "break"] * 5
    alone = [found(index, query, where={"tenant": "x"}) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: found(index, query, where={"tenant": "x"}), queries)) == alone
    stop, states = threading.Event(), set()

    def watch():
        while not stop.is_set():
            states.add(tuple(sorted(chunk.document for chunk, _ in index.matching("pair", 9))))

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for _ in range(3):
        index.upsert([doc("p1", "A pair."), doc("p2", "The pair of it.")])
        index.delete(["p1", "p2"])
    stop.set()
    for watcher in watchers:
        watcher.join()
    assert states <= {(), ("p1", "p2")}, "half a change was seen"


def test_real_text_scores_the_same_in_files_and_on_a_server(make, tmp_path):
    topics = from_mapping("pydoc_data.topics", "topics")
    corpus = [topics.document(id) for id in ("compound", "for", "if", "while", "with", "strings", "operator-summary")]
    recipe = replace(RECIPE, chunk_size=90)
    index = make(corpus, recipe=recipe)
    plain = build_index(Corpus("c", tuple(corpus)), recipe, Counting(), tmp_path / "plain")
    assert index.digest == plain.digest
    assert [chunk.id for chunk in index.chunks] == [chunk.id for chunk in plain.chunks]
    assert json.dumps(index.meta.copies, sort_keys=True) == json.dumps(plain.meta.copies, sort_keys=True)
    for query in ("else clause of a while loop", "context manager exit exit", "What is `with` good for?", "zyzzyva"):
        for one, two in zip(found(index, query, 20), found(plain, query, 20), strict=True):
            alike(one, two)


def test_a_clock_that_moves_is_looked_at(make):
    soon = time.time() + 0.6
    index = make([doc("a", TEXT["a"], expires=soon), doc("b", TEXT["c"])])
    assert {chunk.document for chunk, _ in found(index, "while file")[0]} == {"a", "b"} or time.time() > soon
    time.sleep(max(0, soon - time.time()) + 0.05)
    assert {chunk.document for chunk, _ in found(index, "while file")[0]} == {"b"}
