"""An index, an embedder and a re-ranker that compute nothing twice; what they say is what those they hold would say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_nb.core import to_json


class KeptIndex:
    """An index that repeats a search from memory; everything else about it is the index's own."""

    def __init__(self, index: Any, now: float, counts: Counter[str]):
        self._index, self._now, self._counts = index, now, counts
        self._near: dict[tuple[bytes, int, bytes, float], Any] = {}
        self._match: dict[tuple[str, int, bytes, float], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def __len__(self) -> int:
        return len(self._index)

    def nearest(self, vector: Any, k: int, where: Mapping[str, Any] | None = None, now: float | None = None) -> Any:
        """The nearest chunks, searched for once; the clock stands still at the moment the stages were opened."""
        import numpy as np

        moment = self._now if now is None else now
        key = (np.asarray(vector, np.float32).tobytes(), k, to_json(where), moment)
        if key not in self._near:
            self._counts["dense searches"] += 1
            self._near[key] = self._index.nearest(vector, k, where, moment)
        return list(self._near[key])

    def matching(self, query: str, k: int, where: Mapping[str, Any] | None = None, now: float | None = None) -> Any:
        """The chunks that share words with a query, searched for once."""
        moment = self._now if now is None else now
        key = (query, k, to_json(where), moment)
        if key not in self._match:
            self._counts["word searches"] += 1
            self._match[key] = self._index.matching(query, k, where, moment)
        return list(self._match[key])


class KeptEmbedder:
    """An embedder that computes the vector of a text once."""

    def __init__(self, embedder: Any, counts: Counter[str]):
        self.inside, self._counts = embedder, counts
        self._rows: dict[str, Any] = {}
        self.name, self.digest = embedder.name, embedder.digest

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def __call__(self, texts: Sequence[str]) -> Any:
        """The vectors of texts, in their order."""
        import numpy as np

        if isinstance(texts, str) or not texts:
            return self.inside(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if missing:
            self._counts["query vectors"] += len(missing)
            self._rows |= dict(zip(missing, self.inside(missing), strict=True))
        return np.stack([self._rows[text] for text in texts])


class KeptReranker:
    """A re-ranker that looks at a query and a text once."""

    def __init__(self, reranker: Any, counts: Counter[str]):
        self._reranker, self._counts = reranker, counts
        self._scores: dict[tuple[str, str], float] = {}
        self.name, self.digest = reranker.name, reranker.digest

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """One number a text, in their order."""
        missing = [text for text in dict.fromkeys(texts) if (query, text) not in self._scores]
        if missing:
            self._counts["re-ranked pairs"] += len(missing)
            self._scores |= {(query, text): float(score) for text, score in zip(missing, self._reranker(query, missing), strict=True)}
        return [self._scores[query, text] for text in texts]


class Counted:
    """An embedder or a re-ranker that counts what it really computes."""

    def __init__(self, inside: Any, name: str, computed: Counter[str]):
        self.inside, self._name, self._computed = inside, name, computed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def __call__(self, *asked: Any) -> Any:
        """What it holds says of the texts that come last."""
        found = self.inside(*asked)
        self._computed[self._name] += len(asked[-1])
        return found
