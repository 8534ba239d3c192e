"""Journals searched for a chunk: one line of one run in memory at a time, and of a run the items that saw it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .store import read_journal


class _Chunk(msgspec.Struct):
    id: str = ""
    document: str = ""
    version: str = ""


class _Passage(msgspec.Struct):
    chunk: _Chunk = msgspec.field(default_factory=_Chunk)


class _Citation(msgspec.Struct):
    chunk: str = ""


class _Answer(msgspec.Struct):
    passages: tuple[_Passage, ...] = ()
    citations: tuple[_Citation, ...] = ()


class _Item(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    """The little of a record that is decoded; all else is passed over, however long it is."""

    item: _Item
    answer: _Answer | None = None


_DECODER = msgspec.json.Decoder(_Line)
_VERSION = re.compile(r"[0-9a-f]{6,64}")
Found = tuple[int, str, str, str, bool]  # Rank from 1, chunk, version, document, cited


def fits(chunk: _Chunk, wanted: str) -> bool:
    "Whether a chunk is the one, in the document, or of the version that is asked for."
    return wanted in (chunk.id, chunk.document) or bool(_VERSION.fullmatch(wanted)) and chunk.version.startswith(wanted)


def search(journal: Path, wanted: str) -> Iterator[tuple[str, list[Found]]]:
    "Every item of a run whose last answer was given the chunk, in the order in which they were first finished."
    plain = wanted.encode() if re.fullmatch(r"[\w .#:-]+", wanted, re.ASCII) else b""  # Written the same by every JSON writer
    last: dict[str, list[Found]] = {}
    for _, line in read_journal(journal):
        if not last and plain not in line:
            continue
        try:
            record = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # torn or foreign: whoever reads the run itself is told
        answer = record.answer or _Answer()
        cited = {citation.chunk for citation in answer.citations}
        found = [(rank, p.chunk.id, p.chunk.version, p.chunk.document, p.chunk.id in cited) for rank, p in enumerate(answer.passages, start=1) if fits(p.chunk, wanted)]
        if found or record.item.id in last:
            last[record.item.id] = found
    yield from ((item, found) for item, found in last.items() if found)
