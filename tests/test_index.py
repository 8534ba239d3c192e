"""An index is whole or absent, is what its digest says, and finds what plain search finds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_nb.chunks import chunk_document, in_context
from llmops_nb.core import ConfigurationError, DataError, Document, RunError
from llmops_nb.documents import Corpus, from_mapping
from llmops_nb.embedding import embed_all
from llmops_nb.index import Recipe, build_index, open_saved, words_of
from llmops_nb.vectors import Structure

WORDS = Recipe()
LETTERS = Recipe(chunk_size=30, embedder="letters")
WIDTHS = count(5)


class Letters:
    "Unit vectors from letter counts: deterministic, quick, and like any embedder from outside."

    name, digest = "letters", "letters-1"

    def __call__(self, texts):
        counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Fixed:
    "Vectors that were given for texts; counts what it is asked."

    name, digest = "fixed", "fixed-1"

    def __init__(self, vectors):
        self.vectors = vectors

    def __call__(self, texts):
        return np.array([self.vectors[text] for text in texts])


class Broken(Letters):
    def __init__(self, change):
        self.change = change

    def __call__(self, texts):
        return self.change(Letters.__call__(self, texts))


@pytest.fixture(scope="module")
def corpus():
    topics = from_mapping("pydoc_data.topics", "topics")
    return Corpus("some topics", tuple(topics.document(id) for id in ("compound", "for", "if", "while", "with")))


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def directories(state: Path) -> list[Path]:
    return [path for path in (state / "index").iterdir() if path.is_dir()]


# -- what an index is


def test_the_digest_names_corpus_recipe_and_embedder(corpus, tmp_path):
    other = Corpus("some topics", corpus.documents[:-1])
    embedder = Broken(lambda rows: rows)
    embedder.digest = "letters-2"
    made = [
        build_index(corpus, WORDS, None, tmp_path),
        build_index(other, WORDS, None, tmp_path),
        build_index(corpus, Recipe(chunk_size=60), None, tmp_path),
        build_index(corpus, Recipe(chunk_size=60, overlap=10), None, tmp_path),
        build_index(corpus, Recipe(stemmer=""), None, tmp_path),
        build_index(corpus, Recipe(stop_words=""), None, tmp_path),
        build_index(corpus, Recipe(embedder="letters"), Letters(), tmp_path),
        build_index(corpus, Recipe(embedder="letters"), embedder, tmp_path),
    ]
    assert len({index.digest for index in made}) == len(made) == len(directories(tmp_path))
    renamed = Corpus("another name", corpus.documents)
    assert build_index(renamed, WORDS, None, tmp_path).digest == made[0].digest


def test_what_was_built_is_what_is_loaded(corpus, tmp_path, quiet):
    built, loaded = (build_index(corpus, LETTERS, Letters(), tmp_path) for _ in range(2))
    assert (built.origin, loaded.origin) == ("built", "loaded")
    assert (built.digest, built.chunks, len(built)) == (loaded.digest, loaded.chunks, len(loaded))
    assert built.meta.copies == loaded.meta.copies
    query = Letters()(["else"])[0]
    assert built.nearest(query, 9) == loaded.nearest(query, 9)
    assert built.matching("else clause", 9) == loaded.matching("else clause", 9)
    assert "letters, 26 dimensions" in repr(loaded)
    assert repr(loaded) == repr(built)


def test_files_are_the_same_bytes_in_another_process(corpus, tmp_path):
    code = """
        import sys
        from pathlib import Path
        from llmops_nb.documents import from_mapping
        from llmops_nb.index import Recipe, build_index
        build_index(from_mapping("pydoc_data.topics", "topics"), Recipe(), None, Path(sys.argv[1]))
    """
    sums = []
    for seed in ("1", "2"):
        state = tmp_path / seed
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(state)], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        sums.append((directories(state)[0].name, (directories(state)[0] / "meta.json").read_bytes()))
    assert sums[0] == sums[1]


def test_copies_of_a_chunk_are_kept_once(corpus, tmp_path):
    index = build_index(corpus, WORDS, None, tmp_path)
    chunks, copies = index.chunks, index.meta.copies
    assert len(chunks) < sum(len(chunk_document(document, 120)) for document in corpus.documents)
    ids = {chunk.id for chunk in chunks}
    assert copies.keys() <= ids
    assert not ids & {copy for group in copies.values() for copy in group}
    assert any(copy.startswith("while#") for group in copies.values() for copy in group)


def test_a_heading_alone_is_no_chunk(tmp_path):
    corpus = Corpus("c", (Document("a", "# A\n\nText\n\n# End\n"), Document("b", "# B\n")))
    assert [chunk.id for chunk in build_index(corpus, WORDS, None, tmp_path).chunks] == ["a#1"]
    with pytest.raises(DataError, match="headings only"):
        build_index(Corpus("h", (Document("b", "# B\n"),)), WORDS, None, tmp_path)


# -- what it refuses


def test_recipe_and_embedder_must_fit(corpus, tmp_path):
    with pytest.raises(ConfigurationError, match="asks for the embedder 'bge', but none"):
        build_index(corpus, Recipe(embedder="bge"), None, tmp_path)
    with pytest.raises(ConfigurationError, match="asks for the embedder 'bge', but 'letters'"):
        build_index(corpus, Recipe(embedder="bge"), Letters(), tmp_path)
    assert build_index(corpus, WORDS, Letters(), tmp_path).meta.dimension == 0
    for recipe, name in ((Recipe(stemmer="englsh"), "english"), (Recipe(stop_words="englisch"), "english")):
        with pytest.raises(ConfigurationError, match=f"Did you mean '{name}'"):
            build_index(corpus, recipe, None, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[:-1], "one row a text"),
        (lambda rows: rows[0], "one row a text"),
        (lambda rows: np.eye(len(rows), next(WIDTHS), dtype=np.float32)[[0] * len(rows)], "all of one length"),
        (lambda rows: rows * 2, "not 1. Normalise"),
        (lambda rows: rows * np.nan, "not 1. Normalise"),
        (lambda rows: rows * 0, "not 1. Normalise"),
    ],
)
def test_embedders_that_would_rank_wrongly(change, says, corpus, tmp_path):
    with pytest.raises(ConfigurationError, match=says):
        build_index(corpus, LETTERS, Broken(change), tmp_path)
    assert not directories(tmp_path)


def test_a_vector_of_another_length_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigurationError, match="384 dimensions, the index 26, made by 'letters'"):
        build_index(corpus, LETTERS, Letters(), tmp_path).nearest(np.ones(384), 3)
    with pytest.raises(ConfigurationError, match="words only"):
        build_index(corpus, WORDS, None, tmp_path).nearest(np.ones(26), 3)


# -- on disk


def test_every_damaged_file_is_noticed_and_made_again(corpus, tmp_path):
    index = build_index(corpus, LETTERS, Letters(), tmp_path)
    (home,) = directories(tmp_path)
    files = sorted(file for file in home.rglob("*") if file.is_file())
    assert {"documents.jsonl", "chunks.jsonl", "entries.npy", "meta.json", "meta.sha256"} <= {file.name for file in files}
    for file in files:
        for damage in ("flip", "cut", "gone") if file.name in ("meta.json", "chunks.jsonl") else ("flip",):
            whole = file.read_bytes()
            if damage == "flip":
                file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
            elif damage == "cut":
                file.write_bytes(whole[:-1])
            else:
                file.unlink()
            with pytest.warns(UserWarning, match="is made again"):
                again = build_index(corpus, LETTERS, Letters(), tmp_path)
            assert (again.origin, again.chunks) == ("rebuilt", index.chunks), (file.name, damage)
            assert build_index(corpus, LETTERS, Letters(), tmp_path).origin == "loaded"
    assert directories(tmp_path) == [home]


def test_an_index_under_the_wrong_name_is_made_again(corpus, tmp_path):
    build_index(corpus, WORDS, None, tmp_path)
    (home,) = directories(tmp_path)
    recipe = Recipe(chunk_size=50)
    target = build_index(corpus, recipe, None, tmp_path / "elsewhere").digest[:16]
    shutil.copytree(home, home.parent / target)
    with pytest.warns(UserWarning, match="the directory is not what was written"):
        assert build_index(corpus, recipe, None, tmp_path).recipe == recipe


BUILDER = """
    import os, sys, time
    from pathlib import Path
    import numpy as np
    from llmops_nb.documents import from_mapping
    from llmops_nb.index import Recipe, build_index

    class Slow:
        name, digest = "slow", "slow-1"
        def __call__(self, texts):
            with open(sys.argv[2], "a") as log:
                log.write(f"{os.getpid()} {len(texts)}\\n")
            time.sleep(float(sys.argv[3]))
            rows = np.array([[len(text), text.count("e") + 1] for text in texts], dtype=np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    index = build_index(from_mapping("pydoc_data.topics", "topics"), Recipe(embedder="slow"), Slow(), Path(sys.argv[1]))
    print(index.origin, len(index), index.digest)
"""


def builder(state: Path, log: Path, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(BUILDER), str(state), str(log), str(pause)], stdout=subprocess.PIPE, text=True)


def test_processes_that_want_one_index_build_it_once(tmp_path):
    log = tmp_path / "log"
    processes = [builder(tmp_path, log, 0.03) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(words[0] for words in said) == ["built", "loaded", "loaded"]
    assert len({tuple(words[1:]) for words in said}) == 1
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 1
    assert sum(int(line.split()[1]) for line in log.read_text().splitlines()) == int(said[0][1])


def test_a_killed_builder_leaves_no_index_and_no_litter(tmp_path):
    log = tmp_path / "log"
    for calls in (4,):
        process = builder(tmp_path, log, 0.05)
        log.write_text("")
        while len(log.read_text().splitlines()) < calls:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not [path for path in directories(tmp_path) if "making" not in path.name]
    (tmp_path / "index").mkdir(exist_ok=True)
    name = build_name(tmp_path)
    (tmp_path / "index" / f"{name}.making-dead" / "new").mkdir(parents=True)
    process = builder(tmp_path, log, 0)
    assert process.communicate(timeout=120)[0].startswith("built")
    assert [path.name for path in directories(tmp_path)] == [name]


def build_name(tmp_path: Path) -> str:
    process = builder(tmp_path / "other", tmp_path / "other.log", 0)
    return process.communicate(timeout=120)[0].split()[2][:16]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_is_said_and_leaves_nothing(corpus, tmp_path):
    "The limit on the size of a file fails the same calls in the same places as a full disk; each file in turn does not fit."
    import resource

    build_index(corpus, LETTERS, Letters(), tmp_path / "whole")
    sizes = sorted({file.stat().st_size for file in directories(tmp_path / "whole")[0].rglob("*") if file.is_file()})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in sizes:
        state = tmp_path / str(size)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))
            with pytest.raises(RunError, match="No space left"):
                build_index(corpus, LETTERS, Letters(), state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not directories(state)
        assert build_index(corpus, LETTERS, Letters(), state).origin == "built"


def test_progress_counts_up_to_all(corpus, tmp_path):
    seen = []
    index = build_index(corpus, LETTERS, Letters(), tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(index), len(index))
    assert len(seen) == -(-len(index) // 64)


def test_words_need_no_vector_library(tmp_path):
    code = """
        import sys
        from pathlib import Path
        import llmops_nb.retrieve
        heavy = {"faiss", "bm25s", "numpy", "Stemmer", "filelock"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from llmops_nb.documents import from_mapping
        from llmops_nb.index import Recipe, build_index
        build_index(from_mapping("pydoc_data.topics", "topics"), Recipe(), None, Path(sys.argv[1])).matching("while", 3)
        assert not {"faiss", "onnxruntime"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True)


# -- searching


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(6)), min_size=1, max_size=60), st.integers(0, 5), st.integers(-1, 70))
def test_nearest_is_what_comparing_with_every_row_finds(kinds, asked, k):
    "Many equal vectors: the ids decide, also where the list is cut."
    base = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    rows = base[kinds]
    text = "\n\n".join(f"word{n} word" for n in range(len(kinds)))
    chunks = chunk_document(Document("d", text), 3)
    assert len(chunks) == len(kinds)
    with tempfile.TemporaryDirectory() as state:
        index = build_index(Corpus("c", (Document("d", text),)), Recipe(3, embedder="fixed"), Fixed(dict(zip([chunk.text for chunk in chunks], rows, strict=True))), Path(state))
    found = index.nearest(base[asked], k)
    expected = sorted(zip(rows @ base[asked], chunks, strict=True), key=lambda pair: (-round(float(pair[0]), 5), pair[1].id))[: max(k, 0)]
    assert [chunk.id for chunk, _ in found] == [chunk.id for _, chunk in expected]
    assert [score for _, score in found] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_words_are_scored_as_bm25s_does_it_alone(corpus, tmp_path):
    bm25s = pytest.importorskip("bm25s")
    index = build_index(corpus, WORDS, None, tmp_path)
    plain = bm25s.BM25(method="lucene")
    plain.index([words_of(in_context(chunk), WORDS) for chunk in index.chunks], show_progress=False)
    for query in ("else clause of a while loop", "context manager exit", "assignment expressions in for"):
        scores = plain.get_scores(words_of(query, WORDS))
        found = index.matching(query, 25)
        best = sorted(range(len(index)), key=lambda row: (-scores[row], index.chunks[row].id))[:25]
        assert [chunk.id for chunk, _ in found] == [index.chunks[row].id for row in best if scores[row] > 0]
        assert [score for _, score in found] == pytest.approx([scores[row] for row in best if scores[row] > 0])


def test_queries_without_a_known_word_find_nothing(corpus, tmp_path):
    index = build_index(corpus, WORDS, None, tmp_path)
    for query in ("", "  ", "the of and", "zyzzyva", "?!", "\U0001f600"):
        assert index.matching(query, 5) == []
    assert index.matching("while", 0) == index.matching("while", -3) == []
    assert 0 < len(index.matching("while", 10_000)) < len(index)


def test_a_corpus_without_words_can_be_indexed(tmp_path):
    index = build_index(Corpus("signs", (Document("a", "+ - * /"), Document("b", "<= >="))), WORDS, None, tmp_path)
    assert index.matching("plus", 3) == []
    assert build_index(Corpus("signs", (Document("a", "+ - * /"), Document("b", "<= >="))), WORDS, None, tmp_path).origin == "loaded"


def test_quoted_stop_words_are_names():
    assert words_of("the `with` statement", WORDS) == ["with", "statement"]
    assert words_of('"if" and if', WORDS) == ["if"]
    assert words_of("don't stop", WORDS) == ["don", "stop"]
    assert words_of("Statements", Recipe(stemmer="")) == ["statements"]
    assert words_of("the end", Recipe(stop_words="")) == ["the", "end"]


def test_many_threads_get_what_one_gets(corpus, tmp_path):
    index, embedder = build_index(corpus, LETTERS, Letters(), tmp_path), Letters()
    queries = [f"{word} {other}" for word in ("while", "else", "with", "match", "async") for other in ("loop", "statement", "guard", "exit", "target")] * 8

    def ask(query):
        return index.nearest(embedder([query])[0], 7), index.matching(query, 7)

    alone = [ask(query) for query in queries]
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, queries)) == alone


def test_embedding_order_does_not_move_rows():
    texts = ["a" * 40, "b", "c" * 9, "d" * 200] * 40
    rows = embed_all(Letters(), texts)
    assert np.array_equal(rows, Letters()(texts))


def test_meta_can_be_read_by_people(corpus, tmp_path):
    build_index(corpus, LETTERS, Letters(), tmp_path)
    meta = json.loads((directories(tmp_path)[0] / "meta.json").read_text())
    assert meta["recipe"]["chunk_size"] == 30
    assert meta["embedder_digest"] == "letters-1"
    assert set(meta["made_with"]) == {"bm25s", "faiss"}


# -- vectors in a structure, and what a change leaves behind


class Numbered:
    "Vectors by the number that a text begins with."

    name, digest = "numbered", "numbered-1"

    def __init__(self, rows=6000, dimension=16):
        self.rows = np.random.default_rng(1).normal(size=(rows, dimension)).astype(np.float32)
        self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)
        self.asked = 0

    def __call__(self, texts):
        self.asked += len(texts)
        return self.rows[[int(text.split()[0]) for text in texts]]


def numbered(numbers, **metadata):
    return [Document(f"d{n:05}", f"{n} word{n % 7}", metadata={"tenant": f"t{n % 4}", **metadata}) for n in numbers]


IVF = Recipe(embedder="numbered", structure=Structure("ivf"))


def test_a_structure_outlives_changes_until_it_is_compacted(tmp_path):
    embedder = Numbered()
    index = build_index(Corpus("c", tuple(numbered(range(2000)))), IVF, embedder, tmp_path / "a")
    assert index.meta.history == ""
    index.delete([f"d{n:05}" for n in range(100, 130)])
    index.upsert(numbered(range(5000, 5080)))
    index.upsert([Document("d00007", "5999 other", metadata={"tenant": "t3"})])
    assert embedder.asked == 2000 + 80 + 1
    assert index.meta.history == "81 vectors came after its structure was trained, 31 of 2,081 are of chunks that are gone"
    left = [*numbered([n for n in range(2000) if not 100 <= n < 130 and n != 7]), *numbered(range(5000, 5080)), Document("d00007", "5999 other", metadata={"tenant": "t3"})]
    fresh = build_index(Corpus("c", tuple(sorted(left, key=lambda document: document.id))), IVF, embedder, tmp_path / "b")
    assert (index.digest, index.chunks) == (fresh.digest, fresh.chunks)
    assert "of the first, 81 vectors came after" in index.difference(fresh)
    hits = {None: 0, "t3": 0}
    for number in range(0, 2000, 20):
        query = embedder.rows[number]
        for tenant in hits:
            where = {"tenant": tenant} if tenant else None
            found = {chunk.document for chunk, _ in index.nearest(query, 10, where)}
            rows = {document.id: int(document.text.split()[0]) for document in left if not tenant or document.metadata["tenant"] == tenant}
            best = sorted(rows, key=lambda id: -float(embedder.rows[rows[id]] @ query))[:10]
            hits[tenant] += len(found & set(best))
            assert found <= set(rows)
    assert min(hits.values()) >= 900, "of 1,000"
    loaded = open_saved(tmp_path / "a" / "index" / index.digest[:16])
    assert loaded.meta.history == index.meta.history
    assert loaded.nearest(embedder.rows[3], 10, {"tenant": "t3"}) == index.nearest(embedder.rows[3], 10, {"tenant": "t3"})
    assert np.array_equal(loaded.vectors_of(["d05050#1", "d00007#1"]), embedder.rows[[5050, 5999]])
    loaded.compact()
    assert loaded.meta.history == loaded.difference(fresh) == ""
    assert open_saved(tmp_path / "a" / "index" / index.digest[:16]).meta.files == fresh.meta.files


def test_a_structure_is_trained_anew_when_much_has_changed(tmp_path):
    embedder = Numbered()
    index = build_index(Corpus("c", tuple(numbered(range(1200)))), IVF, embedder, tmp_path)
    index.delete([f"d{n:05}" for n in range(400)])
    assert index.meta.history == "", "a third is gone"
    index.upsert(numbered(range(1200, 2600)))
    assert index.meta.history == "", "more than half is new"
    assert embedder.asked == 2600


def test_an_index_says_why_its_bytes_are_others(corpus, tmp_path):
    one = build_index(corpus, LETTERS, Letters(), tmp_path / "one")
    two = build_index(corpus, LETTERS, Letters(), tmp_path / "two")
    assert one.difference(two) == ""
    assert "other documents" in one.difference(build_index(corpus, WORDS, None, tmp_path / "words"))
    third = build_index(corpus, LETTERS, Broken(lambda rows: rows * np.float32(1 + 1e-6)), tmp_path / "three")
    assert "the embedder's numbers differ by up to" in one.difference(third)


def test_changes_leave_nothing_of_what_was_deleted(corpus, tmp_path):
    index = build_index(Corpus("c", (*corpus.documents, Document("secret", "The passphrase is xylophone."))), LETTERS, Letters(), tmp_path)

    def traces():
        return [file.name for file in (tmp_path / "index").rglob("*") if file.is_file() and b"xylophon" in file.read_bytes()]

    assert {"chunks.jsonl", "vocab.index.json"} <= set(traces())
    index.delete(["secret"])
    assert traces() == []
    assert [path.name for path in directories(tmp_path)] == [index.digest[:16]]
    assert build_index(corpus, LETTERS, Letters(), tmp_path).origin == "loaded", "the digest of what is left"


WORDS_DRAWN = st.lists(st.sampled_from(["while", "file", "loop", "with"]), min_size=1, max_size=4)
DRAWN = st.builds(lambda words, n: Document("", "\n\n".join(f"# {word}\n\n{word} {words[0]} suite" for word in words), f"t{n}", {"n": n}), WORDS_DRAWN, st.integers(0, 1))
CORPORA = st.lists(st.dictionaries(st.sampled_from("abcde"), DRAWN, min_size=1), min_size=2, max_size=5)


@settings(max_examples=12, deadline=None)
@given(CORPORA, st.sampled_from([WORDS, LETTERS, replace(LETTERS, structure=Structure("hnsw"))]))
def test_a_version_made_from_another_is_the_one_made_from_nothing(versions, recipe):
    embedder = Letters() if recipe.embedder else None
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        for number, documents in enumerate(versions):
            corpus = Corpus("c", tuple(replace(document, id=id) for id, document in documents.items()))
            made = build_index(corpus, recipe, embedder, Path(one))
            fresh = build_index(corpus, recipe, embedder, Path(two) / str(number))
            assert (made.origin in ("derived", "loaded") or not number) and fresh.origin == "built"
            assert (made.digest, made.chunks, made.meta, made.difference(fresh)) == (fresh.digest, fresh.chunks, fresh.meta, "")
            for where in (None, {"n": 0}):
                assert made.matching("while file", 5, where) == fresh.matching("while file", 5, where)
                if embedder:
                    assert made.nearest(embedder(["while"])[0], 5, where) == fresh.nearest(embedder(["while"])[0], 5, where)


def test_only_an_index_like_it_is_changed_into_the_next_version(corpus, tmp_path, monkeypatch):
    class Asked(Letters):
        asked: list = []

        def __call__(self, texts):
            self.asked += texts
            return super().__call__(texts)

    def derived(recipe=LETTERS, name=corpus.name):
        Asked.asked = []
        return build_index(Corpus(name, (*corpus.documents[:-1], Document("note", "A while later."))), recipe, Asked() if recipe.embedder else None, tmp_path / "state").origin, len(set(Asked.asked))

    def again():
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        return build_index(corpus, LETTERS, Letters(), tmp_path / "state")

    again()
    assert derived() == ("derived", 1), "one new text"
    again()
    assert derived(replace(LETTERS, overlap=5))[0] == derived(WORDS)[0] == "built", "another recipe"
    again()
    assert derived(name="other")[0] == "built", "another corpus"
    file = tmp_path / "state" / "index" / again().digest[:16] / "chunks.jsonl"
    file.write_bytes(file.read_bytes().replace(b"while", b"whale"))
    assert derived()[0] == "built", "damaged"
    again()
    monkeypatch.setattr("bm25s.__version__", "0.0.1")
    assert derived()[0] == "built", "another version of a library"


def test_an_upsert_leaves_the_index_that_somebody_else_uses(corpus, tmp_path):
    old = build_index(corpus, LETTERS, Letters(), tmp_path)
    index = build_index(corpus, LETTERS, Letters(), tmp_path)
    asked = [chunk.id for chunk, _ in old.matching("while", 9)]
    index.upsert([Document("note", "A while later.")])
    assert {path.name for path in directories(tmp_path)} == {old.digest[:16], index.digest[:16]}
    assert build_index(corpus, LETTERS, Letters(), tmp_path).origin == "loaded", "whoever starts on the old label"
    assert [chunk.id for chunk, _ in old.matching("while", 9)] == asked and len(index) == len(old) + 1
    before = index.digest
    index.upsert([Document("secret", "The passphrase is xylophone.", metadata={"expires": 5})])
    index.purge(now=6)
    assert index.digest == before, "back where it was"
    assert {path.name for path in directories(tmp_path)} == {old.digest[:16], index.digest[:16]}, "only what held the words is gone"


def test_a_killed_change_leaves_the_old_state(tmp_path):
    code = """
        import sys
        from pathlib import Path
        import numpy as np
        sys.path.insert(0, sys.argv[2])
        import llmops_nb._index_files as files
        from test_index import LETTERS, Letters
        from llmops_nb.core import Document
        from llmops_nb.documents import Corpus
        from llmops_nb.index import build_index
        import os, signal

        index = build_index(Corpus("c", (Document("a", "First text."),)), LETTERS, Letters(), Path(sys.argv[1]))
        class Dying(Letters):
            def __call__(self, texts):
                os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[3] == "save":
            files.hashes = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
        index.upsert([Document("b", "Second text.")], Dying() if sys.argv[3] == "embed" else Letters())
    """
    for moment in ("embed", "save"):
        state = tmp_path / moment
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(state), str(Path(__file__).parent), moment])
        assert done.returncode == -signal.SIGKILL
        index = build_index(Corpus("c", (Document("a", "First text."),)), LETTERS, Letters(), state)
        assert (index.origin, len(index)) == ("loaded", 1)
        before = index.digest[:16]
        assert index.upsert([Document("b", "Second text.")]).added == ("b",)
        assert {path.name for path in directories(state)} == {before, index.digest[:16]}


def test_the_recipe_says_how_to_cut(corpus, tmp_path):
    class Counts(Letters):
        def count(self, text):
            return len(text.split())

    recipe = Recipe(12, embedder="letters", chunker="tokens", tokens="embedder")
    index = build_index(corpus, recipe, Counts(), tmp_path)
    assert max(len(chunk.text.split()) for chunk in index.chunks) <= 12
    with pytest.raises(ConfigurationError, match="no tokenizer"):
        build_index(corpus, recipe, Letters(), tmp_path / "other")
    with pytest.raises(ConfigurationError, match="Did you mean 'embedder'"):
        build_index(corpus, replace(recipe, tokens="embeder"), Counts(), tmp_path)
    with pytest.raises(ConfigurationError, match="chunker"):
        build_index(corpus, replace(recipe, chunker="tokns"), Counts(), tmp_path)


def test_commands_look_after_indexes(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from llmops_nb.commands import main

    def llmops(*words, code=0):
        done = CliRunner().invoke(main, ["index", *words])
        assert done.exit_code == code, done.output
        return done.output

    monkeypatch.chdir(tmp_path)
    assert "No indexes here" in llmops("list")
    assert "No indexes here" in llmops("purge")
    documents = (Document("a", "The while statement.", metadata={"tenant": "x", "expires": 10}), Document("b", "The with statement.", metadata={"tenant": "y"}))
    name = build_index(Corpus("c", documents), Recipe(), None, tmp_path / ".llmops").digest
    other = build_index(corpus_of("d"), Recipe(), None, tmp_path / ".llmops").digest
    assert name[:12] in llmops("list")
    assert "tenant" in llmops("show", name[:6])
    (found,) = json.loads(llmops("search", name, "while statement", "--where", '{"tenant": "x"}', "--now", "5", "--json"))
    assert (found["chunk"], found["metadata"]["tenant"]) == ("a#1", "x")
    assert "is not JSON" in llmops("search", name, "q", "--where", "{tenant", code=1)
    assert "JSON object" in llmops("search", name, "q", "--where", "[1]", code=1)
    assert "tenant" in llmops("search", name, "q", "--where", '{"tenent": 1}', code=1)
    assert "words only" in llmops("search", name, "q", "--by", "meaning", code=1)
    assert "No index named 'abcd'" in llmops("search", "abcd", "q", code=1)
    assert "is whole" in llmops("verify", name)
    for file in (tmp_path / ".llmops" / "index" / other[:16]).glob("chunks.jsonl"):
        file.write_bytes(b"x" + file.read_bytes()[1:])
    assert "chunks.jsonl is not what was written" in llmops("verify", other, code=1)
    said = llmops("purge", code=1)
    assert "1 documents removed" in said
    assert "chunks.jsonl is not what was written" in said
    (tmp_path / ".llmops" / "index" / other[:16] / "meta.json").write_text("{}")
    assert "damaged" in llmops("list")
    assert "cannot be used" in llmops("compact", other[:12], code=1)
    assert "Call it with --yes" in llmops("remove", other[:12], code=1)
    left = json.loads(llmops("list", "--json"))
    assert "No index named 'abcd'" in llmops("remove", other[:12], "abcd", "--yes", code=1)
    assert json.loads(llmops("list", "--json")) == left, "a wrong name removes nothing"
    assert "nobody knows what" in llmops("remove", other[:12], other[:10], "--yes")
    (rest,) = json.loads(llmops("list", "--json"))
    assert "Removed" in llmops("remove", rest["digest"], "--yes")
    assert "No indexes here" in llmops("list")
    assert [path for path in (tmp_path / ".llmops" / "index").iterdir() if path.is_dir()] == []


def test_the_query_prefix_is_that_of_the_experiment_or_the_one_given(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from llmops_nb.commands import main

    asked = []

    class Asked(Letters):
        def __call__(self, texts):
            asked.extend(texts)
            return super().__call__(texts)

    monkeypatch.setattr("llmops_nb.embedding.open_embedder", lambda name, settings: Asked())
    home = tmp_path / "app"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "a.md").write_text("# A\n\nThe while statement repeats.\n")
    (home / "p.md").write_text("---\ndescription: p\nvariables:\n  question: str\n  passages: list\n---\n[user]\n{{ question }} {{ passages }}\n")
    (home / "app.yaml").write_text("name: app\nprompt: p.md\ncorpus: {folder: docs}\nretrieval: {mode: dense, embedder: letters, query_prefix: 'ask: '}\nmodel: {alias: echo}\n")
    monkeypatch.chdir(tmp_path)

    def search(*words):
        asked.clear()
        done = CliRunner().invoke(main, ["index", "search", *words, "--json"])
        return asked[-1] if done.exit_code == 0 else done.output

    assert search("app", "while", "--by", "meaning") == "ask: while"
    assert search("app", "while", "--by", "meaning", "--query-prefix", "query: ") == "query: while"
    assert search("app", "while", "--by", "meaning", "--query-prefix", "") == "while"
    (name,) = [path.name for path in directories(tmp_path / ".llmops")]
    assert search(name, "while", "--by", "meaning") == "while"
    assert "is for embedders" in search(name, "while", "--query-prefix", "query: ")


def corpus_of(name):
    return Corpus(name, (Document("d", f"A text of {name}."),))


def test_an_experiment_is_built_and_verified_against_a_build_from_nothing(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from llmops_nb.commands import main

    home = tmp_path / "app"
    (home / "docs").mkdir(parents=True)
    (home / "docs" / "a.md").write_text("# A\n\nThe while statement repeats.\n")
    (home / "p.md").write_text("---\ndescription: p\nvariables:\n  question: str\n  passages: list\n---\n[user]\n{{ question }} {{ passages }}\n")
    (home / "app.yaml").write_text("name: app\nprompt: p.md\ncorpus: {folder: docs}\nretrieval: {mode: bm25}\nmodel: {alias: echo}\n")
    monkeypatch.chdir(tmp_path)
    for words, says in ((["build", "app"], "built"), (["build", "app"], "loaded"), (["verify", "app"], "equal to a build from nothing"), (["search", "app", "while"], "a.md#1")):
        done = CliRunner().invoke(main, ["index", *words])
        assert says in done.output, done.output
