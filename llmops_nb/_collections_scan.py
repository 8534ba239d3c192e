"""Whether a text is still somewhere on the disk: pieces of it are looked for, as hashes, in every byte of every file."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from .core import Chunk

WINDOW = 32  # Bytes of a piece
PIECES = 400  # Of one text at most
_BLOCK = 4_000_000  # Bytes looked at together
_PRIME = 0x9E3779B97F4A7C15  # Odd, so that no bit of a hash is lost by multiplying
_ALIKE = re.compile(rb"[^\x00-\x1f\"'&<>\\/]{32,}")  # Written in JSON and HTML as in the text itself


class ServedIndex(Protocol):
    "An index that lies elsewhere than in the project's state, as `forget` uses it."

    @property
    def meta(self) -> Any: ...
    @property
    def chunks(self) -> Sequence[Chunk]: ...
    def metadata(self, document: str) -> Mapping[str, Any]: ...
    def delete(self, documents: Iterable[str]) -> Any: ...
    def compact(self) -> Any: ...


def _hashes(data: bytes) -> Any:
    "A 64-bit polynomial hash of every run of WINDOW bytes, by doubling: of 2 bytes, of 4, of 8, …"
    import numpy as np

    found = np.frombuffer(data, dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    size, power = 1, _PRIME
    while size < WINDOW:
        found = found[:-size] * np.uint64(power) + found[size:]
        size, power = size * 2, power * power % 2**64
    return found


def pieces(text: str) -> list[int]:
    "Hashes of pieces of a text, spread over it; () when it has no run of 32 plain bytes."
    data = text.encode("utf-8", "surrogatepass")
    places = [at for run in _ALIKE.finditer(data) for at in range(run.start(), run.end() - WINDOW + 1, WINDOW)]
    step = max(1, len(places) // PIECES)
    return list(dict.fromkeys(int(_hashes(data[at : at + WINDOW])[0]) for at in places[::step][:PIECES]))


class Wanted:
    "Hashes of pieces, ready to be looked for."

    def __init__(self, hashes: Iterable[int]):
        import numpy as np

        self.hashes = np.unique(np.array(list(hashes), dtype=np.uint64))
        self._first = np.zeros(1 << 16, dtype=bool)
        self._first[(self.hashes >> np.uint64(48)).astype(np.int64)] = True

    def found(self, data: bytes) -> set[int]:
        "The pieces that stand in some bytes."
        import numpy as np

        if len(data) < WINDOW or not len(self.hashes):
            return set()
        here = _hashes(data)
        likely = here[self._first[(here >> np.uint64(48)).astype(np.int64)]]
        return {int(one) for one in self.hashes[np.isin(self.hashes, likely)]}

    def in_file(self, path: Path) -> set[int]:
        "The pieces that stand in a file, read a block at a time."
        found, rest = set[int](), b""
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                found |= self.found(rest + block)
                rest = (rest + block)[-WINDOW + 1 :]
        return found


def files_in(places: Sequence[Path]) -> Iterator[Path]:
    "Every file below some directories, links not followed."
    for place in places:
        yield from sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def is_sqlite(path: Path) -> bool:
    "Whether a file is an SQLite database."
    with open(path, "rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def clean_database(path: Path, wanted: Wanted) -> tuple[int, int]:
    "Delete the rows in which pieces stand, and every remembered vector, then write the file anew: how many of each."
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        rows = sum(_clean_table(connection, table, wanted) for table in tables)
        vectors = connection.execute("DELETE FROM vectors").rowcount if "vectors" in tables else 0
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rows, vectors


def _clean_table(connection: sqlite3.Connection, table: str, wanted: Wanted) -> int:
    "Delete the rows of one table in which pieces stand."
    keys = [name for _, name, _, _, _, key in connection.execute(f'PRAGMA table_info("{table}")') if key] or ["rowid"]
    columns, where = (between.join(f'"{key}"{after}' for key in keys) for between, after in ((", ", ""), (" AND ", " IS ?")))
    found = []
    for row in connection.execute(f'SELECT {columns}, * FROM "{table}"'):
        values = [value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in row]
        if any(wanted.found(value) for value in values if isinstance(value, bytes)):
            found.append(row[: len(keys)])
    connection.executemany(f'DELETE FROM "{table}" WHERE {where}', found)
    return len(found)
