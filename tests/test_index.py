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
from llmops_nb.index import Recipe, build_index, words_of

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
        for damage in ("flip", "cut", "gone"):
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
    processes = [builder(tmp_path, log, 0.05) for _ in range(4)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(words[0] for words in said) == ["built", "loaded", "loaded", "loaded"]
    assert len({tuple(words[1:]) for words in said}) == 1
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 1
    assert sum(int(line.split()[1]) for line in log.read_text().splitlines()) == int(said[0][1])


def test_a_killed_builder_leaves_no_index_and_no_litter(tmp_path):
    log = tmp_path / "log"
    for calls in (1, 4, 8):
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
