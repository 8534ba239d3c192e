"""The rows that a query finds, best first: one place for equal texts, ids decide where scores are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._index_files import Parts
from ._index_rows import Content
from .core import Chunk

Found = list[tuple[Chunk, float]]  # Chunks with their score, best first


def best(content: Content, k: int, fetch: Callable[[int], tuple[Any, Any]]) -> Found:
    "The k best of what `fetch` finds (scores and rows, best first) when it is asked for so many rows."
    most = k + 8
    while k > 0:
        scores, found = fetch(most)
        last = scores[-1] if len(found) >= most else float("-inf")
        kinds = found if content.groups is None else content.groups[found]
        rows = list(zip(found.tolist(), scores.tolist(), kinds.tolist(), strict=True))
        if len(found) < most or len({kind for _, score, kind in rows if score > last}) >= k:
            return _once(content, rows, k)
        most *= 4
    return []


def _once(content: Content, rows: Sequence[tuple[int, float, int]], k: int) -> Found:
    "The k best rows, one of each kind."
    pairs = sorted(((content.chunks[row], score, kind) for row, score, kind in rows), key=lambda one: (-one[1], one[0].id))
    kept: dict[int, tuple[Chunk, float]] = {}
    for chunk, score, kind in pairs:
        kept.setdefault(kind, (chunk, score))
    return list(kept.values())[:k]


def nearest(parts: Parts, query: Any, k: int, keep: Any) -> Found:
    "The chunks whose vectors are nearest, of the rows that are kept."
    import numpy as np

    if parts.vectors is None:
        return []
    if parts.places is not None:
        kept = np.zeros(len(parts.vectors), dtype=bool)
        kept[parts.places if keep is None else parts.places[keep]] = True
        keep = kept

    def fetch(most: int) -> tuple[Any, Any]:
        scores, places = parts.vectors.search(query, most, keep)
        return scores, places if parts.places is None else parts.rows[places]

    return best(parts.content, k, fetch)


def matching(parts: Parts, words: Sequence[str], k: int, keep: Any) -> Found:
    "The chunks that hold the words, by BM25, of the rows that are kept."
    import numpy as np

    numbers = [] if parts.words is None else parts.words.get_tokens_ids(words)
    if not numbers or k < 1:
        return []
    scores = parts.words.get_scores_from_ids(numbers)
    found = np.flatnonzero(scores > 0 if keep is None else (scores > 0) & keep)

    def fetch(most: int) -> tuple[Any, Any]:
        some = found if most >= len(found) else found[np.argpartition(-scores[found], most - 1)[:most]]
        some = some[np.argsort(-scores[some], kind="stable")]
        return scores[some], some

    return best(parts.content, k, fetch)
