"""An index on a real server: killed writers, dropped connections, several indexes, graphs under filters, secrets."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from postgres_server import VARIABLE, address, fresh_database

from llmops_nb import postgres
from llmops_nb.core import ConfigurationError, DataError, Document, RunError
from llmops_nb.documents import Corpus
from llmops_nb.index import Recipe
from llmops_nb.postgres import find_index, find_stored, list_indexes, open_postgres, remove_index
from llmops_nb.settings import Settings, parse_settings

RECIPE = Recipe(chunk_size=30, embedder="letters")


class Letters:
    name, digest = "letters", "letters-1"

    def __call__(self, texts):
        counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def server(request, monkeypatch):
    "The address of an empty database, in the environment."
    url = fresh_database("tests")
    monkeypatch.setenv(VARIABLE, url)
    yield url
    for one in postgres._servers.values():
        one.close()


def corpus(*pairs, **metadata):
    return Corpus("c", tuple(Document(id, text, metadata=metadata) for id, text in pairs))


def query(url, sql, *values):
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql, values).fetchall()


ONE, TWO = corpus(("a", "The while statement."), ("b", "The with statement.")), corpus(("x", "Another corpus."))


def test_several_indexes_stand_beside_each_other(server, tmp_path):
    one, two = open_postgres(ONE, RECIPE, Letters(), VARIABLE), open_postgres(TWO, Recipe(), None, VARIABLE)
    again = open_postgres(ONE, RECIPE, Letters(), VARIABLE)
    assert (one.origin, two.origin, again.origin) == ("built", "built", "loaded")
    settings = Settings(state=tmp_path, vectors=VARIABLE)
    assert [stored.digest for stored in list_indexes(settings)] == [one.digest, two.digest]
    assert len(find_index(two.digest[:8], settings)) == 1
    one.delete(["a"])
    assert [chunk.document for chunk, _ in again.matching("statement", 9)] == ["b"], "an open index follows its server"
    assert again.digest == one.digest != list_indexes(settings)[1].digest
    assert len(two.matching("corpus", 9)) == 1
    with pytest.raises(ConfigurationError, match=r"No index named 'ffff'"):
        find_index("ffff", settings)


WRITER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, {tests!r})
    from llmops_nb.core import Document
    from llmops_nb.postgres import open_postgres
    from test_postgres import ONE, RECIPE, Letters, VARIABLE

    class Slow(Letters):
        def __call__(self, texts):
            Path(sys.argv[1]).write_text("embedding")
            time.sleep(60)

    index = open_postgres(ONE, RECIPE, Letters() if sys.argv[2] == "upsert" else Slow(), VARIABLE)
    index.upsert([Document("a", "Everything is different."), Document("z", "New.")], Slow())
"""


@pytest.mark.parametrize("what", ["build", "upsert"])
def test_a_killed_writer_leaves_what_was(what, server, tmp_path):
    if what == "upsert":
        index = open_postgres(ONE, RECIPE, Letters(), VARIABLE)
        before = (index.digest, [chunk.id for chunk in index.chunks], index.matching("statement", 9))
    sign = tmp_path / "sign"
    code = textwrap.dedent(WRITER.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen([sys.executable, "-c", code, str(sign), what], env={**os.environ, VARIABLE: server})
    while not sign.exists():
        assert process.poll() is None
        time.sleep(0.02)
    if what == "upsert":
        assert (index.digest, [chunk.id for chunk in index.chunks], index.matching("statement", 9)) == before, "readers do not wait"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if what == "upsert":
        assert (index.digest, [chunk.id for chunk in index.chunks], index.matching("statement", 9)) == before
        assert index.upsert([Document("z", "New.")]).added == ("z",)
    else:
        assert query(server, "SELECT count(*) FROM pg_tables WHERE starts_with(tablename, 'llmops_rows_')") == [(0,)]
        assert open_postgres(ONE, RECIPE, Letters(), VARIABLE).origin == "built"


def test_a_connection_that_was_cut_is_replaced(server):
    index = open_postgres(ONE, RECIPE, Letters(), VARIABLE)
    before = index.matching("statement", 9)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tests' AND pid <> pg_backend_pid()"
    query(server, cut)
    assert index.matching("statement", 9) == before

    class Cutting(Letters):
        def __call__(self, texts):
            query(server, cut)
            return Letters.__call__(self, texts)

    digest = index.digest
    with pytest.raises(RunError, match="Nothing was changed"):
        index.upsert([Document("a", "Everything is different.")], Cutting())
    assert (index.digest, index.matching("statement", 9)) == (digest, before)


def test_an_index_is_removed_with_its_tables(server, tmp_path):
    settings = Settings(state=tmp_path, vectors=VARIABLE)
    index, other = open_postgres(ONE, RECIPE, Letters(), VARIABLE), open_postgres(TWO, Recipe(), None, VARIABLE)
    tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'llmops\\_%%\\_%%'"
    (before,) = query(server, tables)[0]
    stored = find_stored(index.digest[:8], settings)
    remove_index(stored, settings)
    assert query(server, tables)[0][0] == before - 4
    with pytest.raises(DataError, match="somebody removed it"):
        index.matching("statement", 3)
    with pytest.raises(DataError, match="somebody removed it"):
        remove_index(stored, settings)
    assert len(other.matching("corpus", 9)) == 1


def test_an_index_that_was_removed_is_said(server):
    index = open_postgres(ONE, Recipe(), None, VARIABLE)
    query(server, "DELETE FROM llmops_indexes RETURNING number")
    with pytest.raises(DataError, match="somebody removed it"):
        index.matching("statement", 3)
    with pytest.raises(DataError, match="somebody removed it"):
        index.upsert([Document("n", "n")])


def test_tables_that_were_changed_by_hand_are_said(server):
    index = open_postgres(ONE, Recipe(), None, VARIABLE)
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP TABLE llmops_words_{index._number}")
    with pytest.raises(RunError, match="changed by hand"):
        index.matching("statement", 3)


def test_an_entry_that_was_changed_is_said(server):
    index = open_postgres(ONE, Recipe(), None, VARIABLE)
    query(server, "UPDATE llmops_indexes SET digest = repeat('0', 64) RETURNING number")
    with pytest.raises(DataError, match="not what was written"):
        open_postgres(ONE, Recipe(), None, VARIABLE)
        index.matching("statement", 3)


def test_the_graph_is_searched_under_filters(server, monkeypatch):
    monkeypatch.setattr(postgres, "_GRAPH_FROM", 300)
    monkeypatch.setattr(postgres, "_FEW", 40)
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(600, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    class Given:
        name, digest = "letters", "given"

        def __call__(self, texts):
            return rows[[int(text.split()[0]) for text in texts]]

    documents = tuple(Document(f"d{n:03}", f"{n} text", metadata={"tenant": f"t{n % 20}", "half": n % 2, "expires": 1000 + n % 10}) for n in range(600))
    index = open_postgres(Corpus("c", documents), RECIPE, Given(), VARIABLE)
    assert index.plan(now=0).startswith("the HNSW graph, followed until")
    assert "exact: 30 of 600" in index.plan({"tenant": "t3"}, now=0)
    assert "300 kept rows of 600" in index.plan({"half": 1}, now=0)
    for where, now, keep in (({"tenant": "t3"}, 0, lambda n: n % 20 == 3), ({"half": 1}, 0, lambda n: n % 2), ({"half": 1}, 1005, lambda n: n % 2 and n % 10 > 5), (None, 1007, lambda n: n % 10 > 7)):
        kept = np.array([n for n in range(600) if keep(n)])
        hits = 0
        for vector in rows[:20]:
            found = [chunk.document for chunk, _ in index.nearest(vector, 10, where, now)]
            exact = [f"d{n:03}" for n in kept[np.argsort(-(rows[kept] @ vector))[:10]]]
            assert len(found) == 10
            assert {int(id[1:]) for id in found} <= set(kept.tolist())
            hits += len(set(found) & set(exact))
        assert hits >= 190, where
    index.compact()
    assert index.purge(now=1004).rows == len(index) == 300
    assert len(index.nearest(rows[0], 10, now=0)) == 10


def test_no_error_shows_the_password(monkeypatch):
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'llmops_nb[postgres]'")
    for url in ("postgresql://me:hunter2secret@127.0.0.1:1/db", "postgresql://me:hunter2secret@[bad/db", "hunter2secret", "host=127.0.0.1 port=1 password=hunter2secret bogus=1"):
        monkeypatch.setenv("LLMOPS_WRONG", url)
        with pytest.raises((RunError, ConfigurationError)) as error:
            open_postgres(ONE, Recipe(), None, "LLMOPS_WRONG")
        assert "LLMOPS_WRONG" in str(error.value)
        chain, seen = error.value, ""
        while chain is not None:
            seen += str(chain) if not chain.__suppress_context__ or chain is error.value else str(chain)
            chain = chain.__cause__
        assert "hunter2" not in seen


def test_the_setting_is_a_name_and_no_address():
    assert parse_settings("[llmops]\nvectors = LLMOPS_POSTGRES\n").vectors == "LLMOPS_POSTGRES"
    for wrong in ("postgresql://me:pw@host/db", "host=localhost", "a b"):
        with pytest.raises(ConfigurationError) as error:
            parse_settings(f"[llmops]\nvectors = {wrong}\n")
        assert "pw" not in str(error.value)
    with pytest.raises(ConfigurationError, match="LLMOPS_NOT_THERE"):
        open_postgres(ONE, Recipe(), None, "LLMOPS_NOT_THERE")


def test_what_postgres_cannot_hold_is_said(server):
    index = open_postgres(ONE, Recipe(), None, VARIABLE)
    with pytest.raises(DataError, match="PostgreSQL cannot hold this"):
        index.upsert([Document("n", "text", metadata={"note": "a\x00b"})])
    assert index.upsert([Document("n", "a text with a \x00 in it")]).added == ("n",)
    assert index.chunk("n#1").text == "a text with a \x00 in it"


def test_processes_that_want_one_index_build_it_once(server):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_postgres import *; print(open_postgres(ONE, RECIPE, Letters(), VARIABLE).origin)"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)], env={**os.environ, VARIABLE: server}, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in processes) == ["built", "loaded", "loaded"]
    assert address()
