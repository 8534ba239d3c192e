"""The tables of an index on a PostgreSQL server: how they are made, filled, changed and asked."""

from __future__ import annotations

import atexit
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ._index_rows import key_of
from ._index_search import Fetched
from .chunks import in_context
from .core import Chunk, ConfigurationError, DataError, Document, RunError, need, to_json

CATALOGUE = "llmops_indexes"
K1, B = 1.5, 0.75  # As for the index in files
_LOCK = 0x6C6C6D6F7073  # Advisory lock while the catalogue is made

MAKE = """
CREATE TABLE {docs} (id text COLLATE "C" PRIMARY KEY, digest text NOT NULL, metadata jsonb NOT NULL);
CREATE TABLE {chunks} (id text COLLATE "C" PRIMARY KEY, document text COLLATE "C" NOT NULL, number int NOT NULL,
  chunk bytea NOT NULL, key bytea, kind bytea NOT NULL, hash bytea NOT NULL);
CREATE INDEX ON {chunks} (document, number);
CREATE INDEX ON {chunks} (key, kind, document, number);
CREATE TABLE {rows} (row bigint PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, key bytea NOT NULL, length int NOT NULL,
  hash bytea NOT NULL, metadata jsonb NOT NULL);
CREATE INDEX ON {rows} USING gin (metadata jsonb_path_ops);
CREATE INDEX ON {rows} (hash);
CREATE TABLE {words} (word text COLLATE "C", row bigint, times int NOT NULL, length int NOT NULL, PRIMARY KEY (word, row));
CREATE INDEX ON {words} (row);
"""
MATCH = """
WITH asked(word, times) AS (SELECT * FROM unnest(%(words)s::text[], %(times)s::int[])),
hits AS (SELECT w.row, w.word, w.times, w.length, a.times AS asked FROM {words} w JOIN asked a USING (word)),
rare AS (SELECT word, ln(1 + (%(rows)s - count(*) + 0.5)::float8 / (count(*) + 0.5)::float8) AS weight FROM hits GROUP BY word),
scored AS (SELECT row, sum(asked * weight * times / (%(k1)s * ((1 - %(b)s) + %(b)s * length / %(mean)s) + times) ORDER BY word) AS score
  FROM hits JOIN rare USING (word) GROUP BY row)
SELECT r.id, s.score::real AS score, r.key FROM scored s JOIN {rows} r USING (row) WHERE {kept} ORDER BY 2 DESC, 1 LIMIT %(most)s
"""
READ = "SELECT c.chunk, f.score, f.key FROM ({found}) f JOIN {chunks} c USING (id) ORDER BY f.score DESC, c.id"


@dataclass(frozen=True)
class Tables:
    "The names of the tables of one index."

    number: int  # Of the index in the catalogue

    def fill(self, sql: str, **parts: str) -> Any:
        "A statement with the names of the tables in it."
        names = {name: f"llmops_{name}_{self.number}" for name in ("docs", "chunks", "rows", "words")}
        return sql.format(**names, **parts)


class Server:
    "Connections to one server. Each use has one for itself; a few are kept for the next."

    def __init__(self, url: str, variable: str):
        self.url, self._variable, self._idle, self._lock = url, variable, list[Any](), threading.Lock()
        atexit.register(self.close)

    def _connect(self) -> Any:
        psycopg = need("psycopg", "postgres")
        try:
            connection = psycopg.connect(self.url, autocommit=True, connect_timeout=10)
        except psycopg.Error as error:
            raise RunError(f"The PostgreSQL server that ${self._variable} names cannot be reached: {self._said(error)}") from None
        try:
            found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
            if found is None:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            elif tuple(int(part) for part in found[0].split(".")[:2]) < (0, 8):
                raise ConfigurationError(f"The server that ${self._variable} names has pgvector {found[0]}; 0.8 or newer is needed to search under filters.")
        except psycopg.Error as error:
            connection.close()
            raise ConfigurationError(f"The server that ${self._variable} names has no pgvector, and it cannot be added: {self._said(error)} Ask its administrator for CREATE EXTENSION vector.") from None
        return connection

    def _said(self, error: Exception) -> str:
        "What an error says, without what the address holds."
        psycopg = need("psycopg", "postgres")
        try:
            password = psycopg.conninfo.conninfo_to_dict(self.url).get("password")
        except psycopg.Error:
            return "its value is not an address such as postgresql://user@host/database."
        said = " ".join(str(error).replace(self.url, "…").split())
        return said.replace(str(password), "…") if password else said

    @contextmanager
    def connection(self) -> Iterator[Any]:
        "A connection for one use; raises `RunError` when the server goes away, `DataError` for what it cannot hold."
        psycopg = need("psycopg", "postgres")
        with self._lock:
            while self._idle and (self._idle[-1].closed or self._idle[-1].broken):
                self._idle.pop()
            connection = self._idle.pop() if self._idle else None
        if connection is not None and not _alive(connection):
            connection = None
        connection = connection or self._connect()
        try:
            yield connection
        except psycopg.OperationalError as error:
            connection.close()
            raise RunError(f"The PostgreSQL server went away or could not go on: {self._said(error)} Nothing was changed.") from None
        except psycopg.DataError as error:
            raise DataError(f"PostgreSQL cannot hold this: {self._said(error)}") from None
        except psycopg.Error as error:
            raise RunError(f"PostgreSQL refused: {self._said(error)} Nothing was changed; the tables may have been changed by hand, or rights are missing.") from None
        finally:
            if not connection.closed:
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.rollback()
                with self._lock:
                    self._idle.append(connection)
                    spare = self._idle.pop(0) if len(self._idle) > 8 else None
                if spare is not None:
                    spare.close()

    def close(self) -> None:
        "Close the connections that wait."
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _alive(connection: Any) -> bool:
    "Whether a connection that waited can still be used."
    try:
        connection.execute("SELECT 1")
    except need("psycopg", "postgres").Error:
        connection.close()
        return False
    return True


def make_catalogue(connection: Any) -> None:
    "The table that lists the indexes, once."
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {CATALOGUE} (number bigserial PRIMARY KEY, digest text NOT NULL, "
            "meta bytea NOT NULL, rows bigint NOT NULL, mean float8 NOT NULL, graph bool NOT NULL)"
        )


def make_graph(connection: Any, tables: Tables, dimension: int) -> bool:
    "A graph to search vectors by, when there is none; whether there is one now."
    if not 0 < dimension <= 2000:  # What pgvector's HNSW can hold
        return False
    connection.execute("SET LOCAL maintenance_work_mem = '256MB'")
    connection.execute(tables.fill("CREATE INDEX IF NOT EXISTS {rows}_graph ON {rows} USING hnsw (embedding vector_ip_ops)"))
    return True


def vector_text(vector: Any) -> str:
    "A vector as pgvector reads it, every float32 exactly."
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def _binary(connection: Any) -> type:
    "A type whose values travel as pgvector keeps them."
    psycopg = need("psycopg", "postgres")
    info = psycopg.types.TypeInfo.fetch(connection, "vector")
    info.register(connection)

    class Vector:
        def __init__(self, numbers: Any):
            self.numbers = numbers

    class Dumper(psycopg.adapt.Dumper):  # type: ignore[misc, name-defined]
        format = psycopg.pq.Format.BINARY
        oid = info.oid

        def dump(self, obj: Vector) -> bytes:
            return bytes(struct.pack(">HH", len(obj.numbers), 0) + obj.numbers.astype(">f4").tobytes())

    connection.adapters.register_dumper(Vector, Dumper)
    return Vector


@dataclass(frozen=True)
class Kept:
    "A condition on the rows that a query may find."

    sql: str  # With %(name)s for its parameters
    values: Mapping[str, Any]  # The parameters


def kept_by(sql: str, values: Sequence[Any]) -> Kept:
    "A condition whose parameters have names, so that it can stand among others."
    named = {f"kept{place}": value for place, value in enumerate(values)}
    return Kept(sql % tuple(f"%({name})s" for name in named), named)


def near(connection: Any, tables: Tables, query: Any, most: int, kept: Kept, exact: bool) -> Fetched:
    "The rows with the nearest vectors."
    values = {**kept.values, "query": vector_text(query), "most": most}
    if exact:
        sql = "WITH kept AS MATERIALIZED (SELECT r.id, r.key, r.embedding FROM {rows} r WHERE {kept}) "
        sql += "SELECT id, -(embedding <#> %(query)s::vector) AS score, key FROM kept ORDER BY embedding <#> %(query)s::vector, id LIMIT %(most)s"
    else:
        connection.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * most))}")
        connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        sql = "SELECT r.id, -(r.embedding <#> %(query)s::vector) AS score, r.key FROM {rows} r WHERE {kept} ORDER BY r.embedding <#> %(query)s::vector LIMIT %(most)s"
    return _read(connection, tables, sql, kept, values)


def _read(connection: Any, tables: Tables, sql: str, kept: Kept, values: Mapping[str, Any]) -> Fetched:
    found = connection.execute(tables.fill(READ, found=tables.fill(sql, kept=kept.sql)), values, binary=True)
    return [(raw, float(score), bytes(key)) for raw, score, key in found.fetchall()]


def match(connection: Any, tables: Tables, words: Sequence[str], most: int, kept: Kept, rows: int, mean: float) -> Fetched:
    "The rows that hold the words, by BM25."
    times = {word: words.count(word) for word in words}
    values = {**kept.values, "words": list(times), "times": list(times.values()), "rows": rows, "mean": mean, "k1": K1, "b": B, "most": most}
    return _read(connection, tables, MATCH, kept, values)


@dataclass(frozen=True)
class Written:
    "What a change wrote."

    embedded: int  # Texts that went to the embedder
    dimension: int  # Of the vectors
    documents: Mapping[str, str]  # Digest of every document now, by id
    fields: Sequence[str]  # Names in their metadata
    copies: Mapping[str, tuple[str, ...]]  # By id of a chunk that stands for others, their ids
    rows: int  # Chunks that can be found
    mean: float  # Of their lengths in words


def write(
    connection: Any,
    tables: Tables,
    fresh: Sequence[Document],  # To put in, in the place of those with their ids
    digests: Mapping[str, str],  # Of these
    gone: Iterable[str],  # Ids to take out
    dimension: int,  # Of the vectors so far
    cut: Callable[[Document], list[Chunk]],
    words_of: Callable[[str], list[str]],
    embed: Callable[[Sequence[str]], Any] | None,
) -> Written:
    "Change the tables of an index, inside a transaction."
    out = [*gone, *(document.id for document in fresh)]
    touched = {(bytes(key), bytes(kind)) for key, kind in _all(connection, tables, "SELECT DISTINCT key, kind FROM {chunks} WHERE key IS NOT NULL AND document = ANY(%s)", out)}
    vectors = _vectors(connection, tables, "hash IN (SELECT hash FROM {chunks} WHERE document = ANY(%s))", out) if dimension else {}
    _drop(connection, tables, [id for (id,) in _all(connection, tables, "SELECT r.id FROM {rows} r JOIN {chunks} c USING (id) WHERE c.document = ANY(%s)", out)])
    for table, column in (("{chunks}", "document"), ("{docs}", "id")):
        connection.execute(tables.fill(f"DELETE FROM {table} WHERE {column} = ANY(%s)"), [out])
    touched |= _put(connection, tables, fresh, digests, cut)
    wanted, standing = _standing(connection, tables, touched)
    dropped = sorted(standing - wanted)
    if dimension:
        vectors |= _vectors(connection, tables, "id = ANY(%s)", dropped)
    _drop(connection, tables, dropped)
    embedded, dimension = _stand(connection, tables, sorted(wanted - standing), vectors, dimension, words_of, embed)
    return replace(_now(connection, tables), embedded=embedded, dimension=dimension)


def _all(connection: Any, tables: Tables, sql: str, *values: Any) -> list[Any]:
    return list(connection.execute(tables.fill(sql), list(values)).fetchall())


def _vectors(connection: Any, tables: Tables, which: str, values: Sequence[Any]) -> dict[bytes, Any]:
    "Vectors by the hash of what was embedded."
    import numpy as np

    found = connection.execute(tables.fill(f"SELECT hash, embedding::real[] FROM {{rows}} WHERE {which}"), [list(values)], binary=True).fetchall()
    return {bytes(name): np.array(numbers, np.float32) for name, numbers in found}


def _drop(connection: Any, tables: Tables, ids: Sequence[str]) -> None:
    "Take rows out of what is searched."
    connection.execute(tables.fill("DELETE FROM {words} WHERE row IN (SELECT row FROM {rows} WHERE id = ANY(%s))"), [list(ids)])
    connection.execute(tables.fill("DELETE FROM {rows} WHERE id = ANY(%s)"), [list(ids)])


def _put(connection: Any, tables: Tables, fresh: Sequence[Document], digests: Mapping[str, str], cut: Callable[[Document], list[Chunk]]) -> set[tuple[bytes, bytes]]:
    "Write documents and their chunks; the kinds of chunks among them."
    touched = set()
    with connection.cursor() as cursor:
        with cursor.copy(tables.fill("COPY {docs} (id, digest, metadata) FROM STDIN")) as copy:
            for document in fresh:
                copy.write_row((document.id, digests[document.id], to_json(document.metadata).decode()))
        with cursor.copy(tables.fill("COPY {chunks} (id, document, number, chunk, key, kind, hash) FROM STDIN")) as copy:
            for document in fresh:
                kind = hashlib.sha256(to_json(document.metadata)).digest()[:16]
                for number, chunk in enumerate(cut(document)):
                    first, second = key_of(chunk)
                    key = struct.pack("<QQ", first, second) if second else None
                    copy.write_row((chunk.id, document.id, number, to_json(chunk), key, kind, hashlib.sha256(in_context(chunk).encode()).digest()))
                    if key:
                        touched.add((key, kind))
    return touched


def _standing(connection: Any, tables: Tables, touched: set[tuple[bytes, bytes]]) -> tuple[set[str], set[str]]:
    "Of the kinds that were touched, the chunks that should be rows, and those that are."
    pairs = sorted(touched)
    connection.execute("CREATE TEMP TABLE touched (key bytea, kind bytea) ON COMMIT DROP")
    with connection.cursor() as cursor, cursor.copy("COPY touched FROM STDIN") as copy:
        for pair in pairs:
            copy.write_row(pair)
    connection.execute("ANALYZE touched")
    wanted = _all(connection, tables, "SELECT DISTINCT ON (key, kind) id FROM {chunks} JOIN touched USING (key, kind) ORDER BY key, kind, document, number")
    standing = _all(connection, tables, "SELECT r.id FROM {rows} r JOIN {chunks} c USING (id) JOIN touched t ON t.key = c.key AND t.kind = c.kind")
    return {id for (id,) in wanted}, {id for (id,) in standing}


def _stand(connection: Any, tables: Tables, ids: Sequence[str], vectors: dict[bytes, Any], dimension: int, words_of: Callable[[str], list[str]], embed: Callable[[Sequence[str]], Any] | None) -> tuple[int, int]:
    "Make rows of chunks: count their words, embed what has no vector; how many texts were embedded, and the dimension."
    from ._index_rows import decode_chunk

    found = _all(connection, tables, "SELECT c.id, c.chunk, c.key, c.hash, d.metadata::text FROM {chunks} c JOIN {docs} d ON d.id = c.document WHERE c.id = ANY(%s) ORDER BY c.document, c.number", list(ids))
    texts = [in_context(decode_chunk(raw)) for _, raw, _, _, _ in found]
    bags = [words_of(text) for text in texts]
    hashes = [bytes(name) for _, _, _, name, _ in found]
    if embed and dimension:
        vectors |= _vectors(connection, tables, "hash = ANY(%s)", hashes)
    missing = {name: text for name, text in zip(hashes, texts, strict=True) if name not in vectors} if embed else {}
    if embed and missing:
        made = embed(list(missing.values()))
        vectors |= dict(zip(missing, made, strict=True))
        if not dimension:
            dimension = made.shape[1]
            if dimension > 16_000:
                raise ConfigurationError(f"PostgreSQL holds vectors of 16,000 dimensions at most, the embedder makes {dimension}. Keep this index in files.")
            connection.execute(tables.fill(f"ALTER TABLE {{rows}} ADD COLUMN embedding vector({dimension})"))
    (last,) = _all(connection, tables, "SELECT coalesce(max(row), 0) FROM {rows}")[0]
    _copy_rows(connection, tables, [(last + place, *one) for place, one in enumerate(zip(found, hashes, bags, strict=True), start=1)], vectors if embed else None)
    return len(missing), dimension


def _copy_rows(connection: Any, tables: Tables, rows: Sequence[Any], vectors: Mapping[bytes, Any] | None) -> None:
    Vector, Jsonb = _binary(connection), need("psycopg.types.json", "postgres").Jsonb
    columns, types = "row, id, key, length, hash, metadata", ["int8", "text", "bytea", "int4", "bytea", "jsonb"]
    with connection.cursor() as cursor:
        if rows:
            names = columns + (", embedding" if vectors is not None else "")
            with cursor.copy(tables.fill(f"COPY {{rows}} ({names}) FROM STDIN (FORMAT binary)")) as copy:
                copy.set_types([*types, *(["vector"] if vectors is not None else [])])
                for row, (id, _, key, _, metadata), name, words in rows:
                    vector = [] if vectors is None else [Vector(vectors[name])]
                    copy.write_row((row, id, bytes(key), len(words), name, Jsonb(json.loads(metadata)), *vector))
        with cursor.copy(tables.fill("COPY {words} (word, row, times, length) FROM STDIN")) as copy:
            for row, _, _, words in rows:
                for word in sorted(set(words)):
                    copy.write_row((word, row, words.count(word), len(words)))


def _now(connection: Any, tables: Tables) -> Written:
    "What the tables hold."
    documents = dict(_all(connection, tables, "SELECT id, digest FROM {docs}"))
    fields = [name for (name,) in _all(connection, tables, "SELECT DISTINCT f.key FROM {docs}, jsonb_each(metadata) f WHERE jsonb_typeof(f.value) <> 'null'")]
    copies: dict[str, tuple[str, ...]] = {}
    sql = "SELECT first.id, c.id FROM {chunks} c JOIN LATERAL (SELECT id FROM {chunks} o WHERE o.key = c.key AND o.kind = c.kind ORDER BY o.document, o.number LIMIT 1) first ON first.id <> c.id WHERE c.key IS NOT NULL ORDER BY c.document, c.number"
    for first, copy in _all(connection, tables, sql):
        copies[first] = (*copies.get(first, ()), copy)
    rows, mean = _all(connection, tables, "SELECT count(*), coalesce(avg(length), 0)::float8 FROM {rows}")[0]
    return Written(0, 0, documents, fields, copies, rows, mean)


def vectors_of(connection: Any, tables: Tables, ids: Sequence[str]) -> dict[str, Any]:
    "By id of a chunk, the vector of the row that stands for it."
    import numpy as np

    sql = "SELECT c.id, r.embedding::real[] FROM {chunks} c JOIN {chunks} o ON o.key = c.key AND o.kind = c.kind JOIN {rows} r ON r.id = o.id WHERE c.id = ANY(%s)"
    found = connection.execute(tables.fill(sql), [list(ids)], binary=True).fetchall()
    return {id: np.array(numbers, np.float32) for id, numbers in found}


def versions(connection: Any) -> dict[str, str]:
    "Versions of the server and its extension."
    (server, vector) = connection.execute("SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return {"postgresql": server.split()[0], "pgvector": vector}


def expired(connection: Any, tables: Tables, moment: float) -> list[str]:
    "Ids of the documents that have expired by a moment."
    sql = "SELECT id FROM {docs} WHERE jsonb_typeof(metadata -> 'expires') = 'number' AND (metadata ->> 'expires')::numeric <= %s::numeric ORDER BY id"
    return [id for (id,) in _all(connection, tables, sql, repr(float(moment)))]


def create(connection: Any, digest: str, meta: bytes) -> int:
    "Empty tables for an index, and its entry in the catalogue."
    sql = f"INSERT INTO {CATALOGUE} (digest, meta, rows, mean, graph) VALUES (%s, %s, 0, 0, false) RETURNING number"
    (number,) = connection.execute(sql, [digest, meta]).fetchone()
    connection.execute(Tables(number).fill(MAKE))
    return int(number)


def drop(connection: Any, tables: Tables) -> None:
    "Take an index off the server."
    connection.execute(f"DELETE FROM {CATALOGUE} WHERE number = %s", [tables.number])
    connection.execute(tables.fill("DROP TABLE {docs}, {chunks}, {rows}, {words}"))


def tidy(server: Server, tables: Tables, graph: bool) -> None:
    "Free the room of rows that are gone, and make the graph anew."
    with server.connection() as connection:
        if graph:
            connection.execute(tables.fill("REINDEX INDEX {rows}_graph"))
        for name in ("{docs}", "{chunks}", "{rows}", "{words}"):
            connection.execute(tables.fill(f"VACUUM (ANALYZE) {name}"))


def listed(connection: Any) -> list[tuple[str, bytes, int]]:
    "Digest, description and bytes of every index."
    found = connection.execute(f"SELECT digest, meta, number FROM {CATALOGUE} ORDER BY number").fetchall()
    sizes = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) name"
    return [(name, raw, int(connection.execute(sizes, [[f"llmops_{table}_{number}" for table in ("docs", "chunks", "rows", "words")]]).fetchone()[0])) for name, raw, number in found]


def number_of(connection: Any, digest: str) -> int:
    "The number of an index in the catalogue; raises `DataError` when it is not there."
    found = connection.execute(f"SELECT number FROM {CATALOGUE} WHERE digest = %s ORDER BY number", [digest]).fetchone()
    if found is None:
        raise DataError("The index is no longer on the server: somebody removed it. Open it again to build it anew.")
    return int(found[0])
