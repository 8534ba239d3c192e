"""The rows that a query finds, best first: one place for equal texts, ids decide where scores are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from ._index_files import Parts
from ._index_rows import Content
from .core import Chunk

Found = list[tuple[Chunk, float]]  # Chunks with their score, best first


Fetched = list[tuple[Any, float, Any]]  # Which chunk, its score, and its kind: the same for equal texts


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


def places_kept(parts: Parts, keep: Any) -> Any:
    "Which places of the vectors a query may find; None for all of them."
    import numpy as np

    if parts.places is None:
        return keep
    kept = np.zeros(len(parts.vectors), dtype=bool)
    kept[parts.places if keep is None else parts.places[keep]] = True
    return kept


def nearest(parts: Parts, query: Any, k: int, keep: Any) -> Found:
    "The chunks whose vectors are nearest, of the rows that are kept."
    if parts.vectors is None:
        return []
    keep = places_kept(parts, keep)

    def fetch(most: int) -> Fetched:
        scores, places = parts.vectors.search(query, most, keep)
        return _listed(parts.content, places if parts.places is None else parts.rows[places], scores)

    return best(k, fetch, parts.content.chunks.__getitem__, exact=not parts.vectors.efforts)


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

    return best(k, fetch, parts.content.chunks.__getitem__)


def apart(one: Parts, other: Parts) -> float:
    "The largest difference between a number of the vectors of two indexes with the same rows."
    import numpy as np

    pairs = [parts.vectors.vectors(np.arange(len(parts.content.standing)) if parts.places is None else parts.places) for parts in (one, other)]
    return float(np.abs(pairs[0] - pairs[1]).max(initial=0))
