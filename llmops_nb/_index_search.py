"""The rows that a query finds, best first: one place for equal texts, ids decide where scores are equal."""

from __future__ import annotations

import marshal
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

from ._index_files import Parts
from ._index_rows import Content
from .core import Chunk
from .filters import Columns, read_filter

Found = list[tuple[Chunk, float]]  # Chunks with their score, best first


Fetched = list[tuple[Any, float, Any]]  # Which chunk, its score, and its kind: the same for equal texts


ROOM = 128_000_000  # Bytes in which the answers to filters are remembered, for one state of an index


class Kept:
    "The rows that one filter keeps at one time."

    def __init__(self, parts: Parts, rows: Any):
        self.rows, self._parts = rows, parts  # By row, whether it is kept; None for all of them

    @cached_property
    def places(self) -> Any:
        "The same by place in the vectors."
        import numpy as np

        parts = self._parts
        if parts.places is None or parts.vectors is None:
            return self.rows
        kept = np.zeros(len(parts.vectors), dtype=bool)
        kept[parts.places if self.rows is None else parts.places[self.rows]] = True
        kept.flags.writeable = False
        return kept


class Filters:
    "What filters keep of one state, remembered by how they are written and by how many rows have expired."

    def __init__(self, parts: Parts, fields: Sequence[str]):
        self._parts, self._fields, self._expires = parts, fields, "expires" in fields
        self._all, self._lock = Kept(parts, None), threading.Lock()
        self._known: OrderedDict[tuple[bytes, int], Kept] = OrderedDict()

    @cached_property
    def columns(self) -> Columns:
        content = self._parts.content
        return Columns.of([document.metadata for document in content.documents]).take(content.owners)

    def kept(self, where: Mapping[str, Any] | None, now: float) -> Kept:
        "The rows that a query may find at a moment; raises `ConfigurationError` for a filter that cannot be."
        if not self._parts.content.standing.size or not where and not self._expires:
            return self._all
        gone = int(self.columns.ends[1].searchsorted(now, "right")) if self._expires else 0
        try:
            plain: Any = where
            key = marshal.dumps(plain, 2), gone  # Unlike JSON it tells every type from every other, and it refuses what is not plain data
        except ValueError:
            return self._asked(where, now)
        with self._lock:
            if (kept := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return kept
        kept = self._asked(where, now)
        with self._lock:
            self._known[key] = kept
            while len(self._known) > max(1, ROOM // (2 * len(self.columns) + 1000)):
                self._known.popitem(last=False)
        return kept

    def _asked(self, where: Mapping[str, Any] | None, now: float) -> Kept:
        mask = self.columns.mask(read_filter(where, self._fields), now if self._expires else None)
        return self._all if mask.all() else Kept(self._parts, mask)


def best(k: int, fetch: Callable[[int], Fetched], chunk: Callable[[Any], Chunk], exact: bool = True) -> Found:
    "The k best of what `fetch` finds, best first, when it is asked for so many; what is not exact need not be looked at past the end."
    most = k + 8 if exact else k
    while k > 0:
        found = fetch(most)
        last = found[-1][1] if exact and len(found) >= most else float("-inf")
        if len(found) < most or len({kind for _, score, kind in found if score > last}) >= k:
            return _once(found, k, chunk)
        most *= 4
    return []


def _once(found: Fetched, k: int, chunk: Callable[[Any], Chunk]) -> Found:
    "The k best chunks, one of each kind; of those with one score in the order of their ids."
    kept: dict[Any, tuple[Chunk, float]] = {}
    for _, tied in groupby(found, key=itemgetter(1)):
        for one, score, kind in sorted(((chunk(place), score, kind) for place, score, kind in tied), key=lambda row: row[0].id):
            kept.setdefault(kind, (one, score))
        if len(kept) >= k:
            break
    return list(kept.values())[:k]


def _listed(content: Content, rows: Any, scores: Any) -> Fetched:
    kinds = rows if content.groups is None else content.groups[rows]
    return list(zip(rows.tolist(), scores.tolist(), kinds.tolist(), strict=True))


def nearest(parts: Parts, query: Any, k: int, kept: Kept) -> Found:
    "The chunks whose vectors are nearest, of the rows that are kept."
    vectors, content = parts.vectors, parts.content
    if vectors is None or k < 1:
        return []
    if content.groups is None:  # Nothing to leave out; when no two scores are equal, nothing to put in order either
        scores, places = vectors.search(query, k if vectors.efforts else k + 1, kept.places)
        known = scores.tolist()
        if len(set(known)) == len(known):
            rows = (places if parts.places is None else parts.rows[places])[:k]
            return list(zip(map(content.chunks.found, rows.tolist()), known, strict=False))

    def fetch(most: int) -> Fetched:
        scores, places = vectors.search(query, most, kept.places)
        return _listed(content, places if parts.places is None else parts.rows[places], scores)

    return best(k, fetch, content.chunks.found, exact=not vectors.efforts)


def planned(parts: Parts, keep: Any, k: int) -> str:
    "How the k nearest of the rows that are kept will be searched."
    if parts.vectors is None:
        return "nothing: there are no vectors"
    return str(parts.vectors.plan(len(parts.content.standing) if keep is None else int(keep.sum()), k))


def matching(parts: Parts, words: Sequence[str], k: int, keep: Any) -> Found:
    "The chunks that hold the words, by BM25, of the rows that are kept."
    import numpy as np

    numbers = [] if parts.words is None else parts.words.get_tokens_ids(words)
    if not numbers or k < 1:
        return []
    scores = parts.words.get_scores_from_ids(numbers)
    found = np.flatnonzero(scores > 0 if keep is None else (scores > 0) & keep)

    def fetch(most: int) -> Fetched:
        some = found if most >= len(found) else found[np.argpartition(-scores[found], most - 1)[:most]]
        some = some[np.argsort(-scores[some], kind="stable")]
        return _listed(parts.content, some, scores[some])

    return best(k, fetch, parts.content.chunks.found)


def apart(one: Parts, other: Parts) -> float:
    "The largest difference between a number of the vectors of two indexes with the same rows."
    import numpy as np

    pairs = [parts.vectors.vectors(np.arange(len(parts.content.standing)) if parts.places is None else parts.places) for parts in (one, other)]
    return float(np.abs(pairs[0] - pairs[1]).max(initial=0))
