"""What an index holds apart from its search structures: documents, their chunks in order, and which chunk stands for which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import Any

import msgspec

from .chunks import body_of, in_context
from .core import Chunk, DataError, Document, from_json, to_json
from .store import digest

# A chunk: where its line begins, its document, the row that stands for it (-1: a heading alone),
# the first row with the same text, and what "the same text" is decided by
ENTRY = [("at", "<i8"), ("document", "<i4"), ("row", "<i4"), ("group", "<i4"), ("first", "<u8"), ("second", "<u8")]
decode_chunk = msgspec.json.Decoder(Chunk).decode


@dataclass(frozen=True)
class Held:
    "A document as an index remembers it."

    id: str  # Unique in the index
    digest: str  # Of its text, title and metadata
    title: str  # What a person calls it
    chunks: int  # How many it was cut into
    metadata: Mapping[str, Any] = field(default_factory=dict)  # What filters look at


ROOM = 16_000_000  # Bytes of lines whose chunks an index keeps decoded


class Chunks(Sequence[Chunk]):
    "Chunks that are decoded when they are looked at, and kept until they fill their room."

    def __init__(self, lines: Any, starts: Any, numbers: Any):
        self._lines, self._starts, self._numbers = lines, starts, numbers
        self._known: dict[int, Chunk] = {}
        self._used = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        found = self._numbers[place]
        return self.entry(found) if isinstance(found, int) else [self.entry(number) for number in found]

    def entry(self, number: Any) -> Chunk:
        "The chunk of an entry."
        return decode_chunk(self._lines[self._starts[number] : self._starts[number + 1]])

    def found(self, row: int) -> Chunk:
        "The chunk of a row that a query found: likely to be found again."
        chunk = self._known.get(row)
        if chunk is None:
            number = self._numbers[row]
            self._used += self._starts[number + 1] - self._starts[number]
            if self._used > ROOM:
                self._known, self._used = {}, 0
            chunk = self._known[row] = self.entry(number)
        return chunk

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Chunks({len(self):,})"


def fingerprint(document: Document) -> str:
    "The digest of a document as an index sees it; raises `DataError` for metadata that is not JSON."
    trouble = _not_json(document.metadata)
    expires = document.metadata.get("expires")
    if not trouble and expires is not None and (isinstance(expires, bool) or not isinstance(expires, (int, float))):
        trouble = f"expires: {expires!r} is no number of seconds since 1970"
    if trouble:
        raise DataError(f"Document {document.id!r} has metadata that is not JSON or cannot be compared – {trouble}. Use text, finite numbers, true, false, null, and lists or mappings of them.")
    try:
        return digest([document.text, document.title, document.metadata])
    except (UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise DataError(f"Document {document.id!r} holds text that is not Unicode: {error}.") from error


def fingerprints(documents: Sequence[Document]) -> dict[str, str]:
    "By id the digest of every document; raises `DataError` for two with one id."
    found: dict[str, str] = {}
    for document in documents:
        if document.id in found:
            raise DataError(f"Two of the documents have the id {document.id!r}.")
        found[document.id] = fingerprint(document)
    return found


_PLAIN = {str, bool, type(None)}  # Of these every value is JSON


def _not_json(value: Any, where: str = "") -> str:
    "What in a value is not JSON, '' when all of it is."
    if value is None or isinstance(value, (str, bool)):
        return ""
    if isinstance(value, int):
        return "" if abs(value) < 2**63 else f"{where}: the number {str(value)[:20]}… has more than 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where}: {value} is no number that JSON knows"
    if isinstance(value, dict) and all(type(key) is str and type(part) in _PLAIN for key, part in value.items()):
        return ""
    if isinstance(value, Mapping):
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            return f"{where}: the key {strange!r} is not text"
        return next((found for key, part in value.items() if (found := _not_json(part, f"{where}.{key}" if where else key))), "")
    if isinstance(value, (list, tuple)):
        return next((found for part in value if (found := _not_json(part, where))), "")
    return f"{where}: {type(value).__name__}"


def content_digest(documents: Iterable[tuple[str, str]]) -> str:
    "The digest of a set of documents: pairs of id and digest, in any order."
    return digest([list(pair) for pair in sorted(documents)])


@dataclass(frozen=True)
class Content:
    "Documents in the order of their ids, and their chunks in the order of the text."

    documents: Sequence[Held]  # By number
    lines: Any  # bytes or a map of a file: the JSON of every chunk, one a line
    entries: Any  # Structured array of ENTRY, one for a chunk

    @cached_property
    def starts(self) -> Any:
        "Where each line begins, and where the last ends."
        import numpy as np

        return np.append(self.entries["at"], len(self.lines)).tolist()

    @cached_property
    def standing(self) -> Any:
        "Entry of each row: the first chunk of its kind."
        import numpy as np

        rows, first = np.unique(self.entries["row"], return_index=True)
        return first[rows >= 0]

    @cached_property
    def groups(self) -> Any:
        "By row, the first row with the same text; None when every row is the first."
        import numpy as np

        groups = self.entries["group"][self.standing]
        return None if np.array_equal(groups, np.arange(len(groups))) else groups

    @cached_property
    def owners(self) -> Any:
        "By row, the number of its document."
        return self.entries["document"][self.standing]

    @cached_property
    def chunks(self) -> Chunks:
        "Those that are searched, by row."
        return Chunks(self.lines, self.starts, self.standing.tolist())

    @cached_property
    def numbers(self) -> dict[str, int]:
        "Number of a document by its id."
        return {document.id: number for number, document in enumerate(self.documents)}

    def of(self, id: str) -> tuple[int, int]:
        "The first entry of a document, and one past its last; nothing for an unknown one."
        import numpy as np

        number = self.numbers.get(id, -1)
        first, last = np.searchsorted(self.entries["document"], [number, number + 1]) if number >= 0 else (0, 0)
        return int(first), int(last)

    def find(self, id: str) -> int | None:
        "The entry of a chunk."
        first, last = self.of(id.rpartition("#")[0])
        return next((number for number in range(first, last) if self.chunks.entry(number).id == id), None)

    def copies(self) -> dict[str, tuple[str, ...]]:
        "By id of a chunk that stands for others, their ids."
        import numpy as np

        rows = self.entries["row"]
        others = np.setdiff1d(np.flatnonzero(rows >= 0), self.standing, assume_unique=True)
        found: dict[str, tuple[str, ...]] = {}
        for number in others:
            first = self.chunks[rows[number]].id
            found[first] = (*found.get(first, ()), self.chunks.entry(number).id)
        return found


def nothing() -> Content:
    "A content without documents."
    import numpy as np

    return Content([], b"", np.empty(0, dtype=ENTRY))


def key_of(chunk: Chunk) -> tuple[int, int]:
    "What equal chunks have in common: their text and their last heading; zeros for a heading alone."
    body = " ".join(body_of(chunk).split())
    if not body:
        return 0, 0
    raw = sha256(to_json([chunk.heading.rpartition(" > ")[2], body])).digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little") | 1


def _arrange(documents: Sequence[Held], entries: Any) -> None:
    "Number the rows: chunks of equal text are one row where what filters see of their documents is equal."
    kinds: dict[bytes, int] = {}
    kind = [kinds.setdefault(to_json(document.metadata), len(kinds)) for document in documents]
    rows: dict[tuple[int, int, int], int] = {}
    groups: dict[tuple[int, int], int] = {}
    made, grouped = [-1] * len(entries), [-1] * len(entries)
    columns = (entries[name].tolist() for name in ("document", "first", "second"))
    for number, (document, first, second) in enumerate(zip(*columns, strict=True)):
        if second:
            made[number] = rows.setdefault((first, second, kind[document]), len(rows))
            grouped[number] = groups.setdefault((first, second), made[number])
    entries["row"], entries["group"] = made, grouped


@dataclass(frozen=True)
class Moved:
    "A content after a change, and where its rows were before."

    content: Content  # As it is now
    origin: Any  # By row, the row of the same chunk before; -1 for a new one
    texts: Mapping[int, str]  # Of the new rows


def changed(
    before: Content,
    documents: Iterable[Document],  # New, or in the place of those with the same id
    digests: Mapping[str, str],  # Their fingerprints, by id
    gone: Iterable[str],  # Ids of documents to leave out
    cut: Callable[[Document], list[Chunk]],
) -> Moved:
    "The content with some documents replaced, added and left out."
    import numpy as np

    fresh = {document.id: document for document in documents}
    out = {before.numbers[id] for id in (*fresh, *gone) if id in before.numbers}
    kept = [number for number in range(len(before.documents)) if number not in out]
    order = sorted([(before.documents[number].id, number) for number in kept] + [(id, -1) for id in fresh])
    bounds = np.searchsorted(before.entries["document"], np.arange(len(before.documents) + 1)).tolist()
    was = np.full(len(before.entries), -1, dtype=np.int64)
    was[before.standing] = np.arange(len(before.standing))

    held: list[Held] = []
    lines: list[Any] = []
    parts: list[Any] = []
    origins: list[Any] = []
    for id, number in order:
        if number >= 0:
            first, last = bounds[number], bounds[number + 1]
            part, origin = before.entries[first:last].copy(), was[first:last]
            part["at"] -= part["at"][0] if len(part) else 0
            lines.append(before.lines[before.starts[first] : before.starts[last]])
            held.append(before.documents[number])
        else:
            document = fresh[id]
            chunks = cut(document)
            raw = [to_json(chunk) + b"\n" for chunk in chunks]
            part, origin = np.zeros(len(chunks), dtype=ENTRY), np.full(len(chunks), -1, dtype=np.int64)
            part["at"] = np.cumsum([0, *map(len, raw)])[:-1]
            for place, chunk in enumerate(chunks):
                part["first"][place], part["second"][place] = key_of(chunk)
            lines.append(b"".join(raw))
            held.append(Held(id, digests[id], document.title, len(chunks), document.metadata))
        parts.append(part)
        origins.append(origin)
    entries = np.concatenate([np.empty(0, dtype=ENTRY), *parts])
    begins = np.cumsum([0, *map(len, lines)])[:-1]
    lengths = list(map(len, parts))
    entries["at"] += np.repeat(begins, lengths).astype(np.int64)
    entries["document"] = np.repeat(np.arange(len(held)), lengths)
    _arrange(held, entries)
    content = Content(held, b"".join(lines), entries)
    origin = np.concatenate([np.empty(0, dtype=np.int64), *origins])[content.standing]
    return Moved(content, origin, {int(row): in_context(content.chunks[row]) for row in np.flatnonzero(origin < 0)})


@dataclass(frozen=True)
class Bags:
    "The words of every row, as numbers of words in alphabetical order."

    flat: Any  # int32: the words of one row after those of another
    ends: Any  # int64: where each row's words end
    known: Sequence[str]  # The word of each number

    def words(self, row: int) -> Any:
        "Numbers of the words of a row."
        return self.flat[self.ends[row - 1] if row else 0 : self.ends[row]]


def no_bags() -> Bags:
    "The words of nothing."
    import numpy as np

    return Bags(np.empty(0, np.int32), np.empty(0, np.int64), [])


def bags_after(before: Bags, moved: Moved, words_of: Callable[[str], list[str]]) -> Bags:
    "The words after a change: those of new rows counted, the others renumbered."
    import numpy as np

    fresh = {row: words_of(text) for row, text in moved.texts.items()}
    numbers = {word: number for number, word in enumerate(before.known)}
    known = [*before.known, *dict.fromkeys(word for words in fresh.values() for word in words if word not in numbers)]
    numbers = {word: number for number, word in enumerate(known)}
    rows = [before.words(was) if was >= 0 else np.array([numbers[word] for word in fresh[row]], np.int32) for row, was in enumerate(moved.origin.tolist())]
    flat = np.concatenate([np.empty(0, np.int32), *rows])
    used = np.unique(flat)
    order = sorted(used.tolist(), key=known.__getitem__)
    place = np.zeros(len(known), np.int32)
    place[order] = np.arange(len(order))
    return Bags(place[flat], np.cumsum([len(row) for row in rows], dtype=np.int64), [known[number] for number in order])


def documents_of(data: bytes) -> Iterator[Held]:
    "The documents that a file holds."
    return (from_json(line, Held) for line in data.splitlines())


def spans(bags: Bags) -> list[list[int]]:
    "The words of every row as lists."
    flat = bags.flat.tolist()
    return [flat[begin:end] for begin, end in pairwise([0, *bags.ends.tolist()])]


def expired(documents: Iterable[Held], moment: float) -> list[str]:
    "Ids of the documents that have expired by a moment."
    ends = ((held.id, held.metadata.get("expires")) for held in documents)
    return [id for id, end in ends if end is not None and end <= moment]


def missing(kind: str, id: str, corpus: str, documents: int) -> str:
    "What to say about a name that an index does not hold."
    return f"The index of {corpus!r} holds no {kind} {id!r}. It has {documents:,} documents; it may have been deleted, or stand in another version."
