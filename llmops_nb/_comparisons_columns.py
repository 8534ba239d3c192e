"""The few columns of a run that comparing needs, read in one pass that keeps no record."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmops_nb.core import DataError
from llmops_nb.store import read_journal

SKIPPED, VALUED, FAILED = 0, 1, 2


class _Evidence(msgspec.Struct):
    document: str


class _Item(msgspec.Struct):
    id: str
    question: str = ""
    expected: str = ""
    facts: tuple[tuple[str, ...], ...] = ()
    slices: tuple[str, ...] = ()
    evidence: tuple[_Evidence, ...] = ()


class _Score(msgspec.Struct):
    name: str
    value: float | None = None
    error: str = ""


class _Error(msgspec.Struct):
    kind: str = ""
    message: str = ""


class Line(msgspec.Struct):
    """The little of a record that is decoded; all else is passed over, however long it is."""

    item: _Item
    scores: tuple[_Score, ...] = ()
    error: _Error | None = None


def lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Every finished line of a journal with the byte at which it begins."""
    decoder, at = msgspec.json.Decoder(Line), 0
    for number, raw in read_journal(path):
        try:
            yield at, decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise DataError(f"{path.name}:{number}: Not a Record: {error}") from error
        at += len(raw) + 1


class Table:
    """A run as columns: one row an item, the last record of each."""

    def __init__(self, path: Path):
        self.rows: dict[str, int] = {}
        self.slices: list[tuple[str, ...]] = []
        self.sources: list[str] = []
        self.versions, self.at = array("q"), array("q")
        self.values: dict[str, array[float]] = {}
        self.states: dict[str, bytearray] = {}
        self.failed = bytearray()
        same: dict[tuple[str, ...], tuple[str, ...]] = {}
        for at, line in lines(path):
            row = self._row(line, same)
            self.at[row] = at
            self.failed[row] = line.error is not None
            for score in line.scores:
                self._set(row, score)

    def _row(self, line: Line, same: dict[tuple[str, ...], tuple[str, ...]]) -> int:
        """The row of an item, emptied when an earlier record had filled it."""
        item, row = line.item, self.rows.setdefault(line.item.id, len(self.rows))
        source = item.evidence[0].document if item.evidence else ""
        slices, version = same.setdefault(item.slices, item.slices), hash((item.question, item.expected, item.facts))
        if row == len(self.slices):
            self.slices.append(slices)
            self.sources.append(source)
            self.versions.append(version)
            self.at.append(0)
            self.failed.append(0)
            for name in self.values:
                self.values[name].append(math.nan)
                self.states[name].append(FAILED)  # a score that is not there at all is one that failed
        else:
            self.slices[row], self.sources[row], self.versions[row] = slices, source, version
            for name in self.values:
                self.values[name][row], self.states[name][row] = math.nan, FAILED
        return row

    def _set(self, row: int, score: _Score) -> None:
        """One score of one item."""
        if score.name not in self.values:
            count = len(self.slices)
            self.values[score.name], self.states[score.name] = array("d", [math.nan]) * count, bytearray([FAILED]) * count
        sound = score.value is not None and math.isfinite(score.value)
        self.values[score.name][row] = score.value if score.value is not None and sound else math.nan
        self.states[score.name][row] = VALUED if sound else FAILED if score.error or score.value is not None else SKIPPED


class Side:
    """The repeats of one arm, averaged by item."""

    def __init__(self, tables: Sequence[Table], ids: Sequence[str]):
        import numpy as np

        self.tables = tables
        self.places = [np.fromiter((table.rows[name] for name in ids), dtype=np.intp, count=len(ids)) for table in tables]

    def column(self, name: str) -> tuple[Any, Any, Any]:
        """Sum of the values, their number, and the number of failures: three arrays, one entry an item."""
        import numpy as np

        total, count, fails = (np.zeros(len(self.places[0])) for _ in range(3))
        for table, place in zip(self.tables, self.places, strict=True):
            broken = np.frombuffer(table.failed, dtype=np.uint8)[place] == 1 if len(table.failed) else np.zeros(len(place), dtype=bool)
            if name in table.values:
                states = np.frombuffer(table.states[name], dtype=np.uint8)[place]
                values = np.frombuffer(table.values[name], dtype=float)[place]
                total += np.where(states == VALUED, values, 0.0)
                count += states == VALUED
                broken = broken | (states == FAILED)
            fails += broken
        return total, count, fails
