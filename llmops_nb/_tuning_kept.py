"""An index, an embedder and a re-ranker that compute nothing twice; what they say is what those they hold would say."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops_nb.core import Retriever, to_json
from llmops_nb.documents import Corpus
from llmops_nb.embedding import open_embedder
from llmops_nb.index import Recipe
from llmops_nb.postgres import open_index
from llmops_nb.queries import open_asking, open_reranker
from llmops_nb.retrieve import Retrieval
from llmops_nb.settings import Settings


class KeptIndex:
    """An index that repeats a search from memory; everything else about it is the index's own."""

    def __init__(self, index: Any, now: float, counts: Counter[str]):
        self.inside, self._now, self._counts = index, now, counts
        self._near: dict[tuple[bytes, int, bytes, float], Any] = {}
        self._match: dict[tuple[str, int, bytes, float], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def __len__(self) -> int:
        return len(self.inside)

    def nearest(self, vector: Any, k: int, where: Mapping[str, Any] | None = None, now: float | None = None) -> Any:
        """The nearest chunks, searched for once; the clock stands still at the moment the stages were opened."""
        import numpy as np

        moment = self._now if now is None else now
        key = (np.asarray(vector, np.float32).tobytes(), k, to_json(where), moment)
        if key not in self._near:
            self._counts["dense searches"] += 1
            self._near[key] = self.inside.nearest(vector, k, where, moment)
        return list(self._near[key])

    def matching(self, query: str, k: int, where: Mapping[str, Any] | None = None, now: float | None = None) -> Any:
        """The chunks that share words with a query, searched for once."""
        moment = self._now if now is None else now
        key = (query, k, to_json(where), moment)
        if key not in self._match:
            self._counts["word searches"] += 1
            self._match[key] = self.inside.matching(query, k, where, moment)
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
        self.inside, self._counts = reranker, counts
        self._scores: dict[tuple[str, str], float] = {}
        self.name, self.digest = reranker.name, reranker.digest

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """One number a text, in their order."""
        missing = [text for text in dict.fromkeys(texts) if (query, text) not in self._scores]
        if missing:
            self._counts["re-ranked pairs"] += len(missing)
            self._scores |= {(query, text): float(score) for text, score in zip(missing, self.inside(query, missing), strict=True)}
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


class Parts:
    """What retrievers over one corpus are made of, each opened once."""

    def __init__(self, corpus: Corpus, settings: Settings, progress: Callable[[int, int], None] | None, root: Path):
        self.corpus, self.settings, self.progress, self.root = corpus, settings, progress, root
        self.now = time.time()  # Of all searches
        self.counts: Counter[str] = Counter()  # What was asked for the first time, by stage; the rest came from memory
        self.computed: Counter[str] = Counter()  # "vectors" and "pairs" that no earlier process had left either
        self._indexes: dict[Recipe, KeptIndex] = {}
        self._embedders: dict[str, KeptEmbedder] = {}
        self._rerankers: dict[tuple[str, str], KeptReranker] = {}

    def indexed(self, recipe: Recipe) -> Any:
        """The index of a recipe."""
        if recipe not in self._indexes:
            self.counts["indexes"] += 1
            vectors = self.embedder_named(recipe.embedder).inside if recipe.embedder else None
            made = open_index(self.corpus, recipe, vectors, self.settings, self.progress)
            self._indexes[recipe] = KeptIndex(made, self.now, self.counts)
        return self._indexes[recipe]

    def embedder_named(self, name: str) -> Any:
        """An embedder of the settings."""
        if name not in self._embedders:
            held = open_embedder(name, self.settings)
            counted: Any = Counted(held.embedder, "vectors", self.computed)
            self._embedders[name] = KeptEmbedder(replace(held, embedder=counted), self.counts)
        return self._embedders[name]

    def embedder(self, retrieval: Retrieval) -> Any:
        """The embedder of a section, None for one that searches by word alone."""
        return self.embedder_named(retrieval.embedder) if retrieval.recipe.embedder else None

    def reranker(self, retrieval: Retrieval) -> Any:
        """The re-ranker of a section, None when nothing re-ranks."""
        key = (retrieval.rerank, retrieval.rubric)
        if retrieval.rerank and key not in self._rerankers:
            held: Any = open_reranker(retrieval, self.settings, self.root)
            inner = getattr(held, "reranker", None)
            counted: Any = Counted(held if inner is None else inner, "pairs", self.computed)
            self._rerankers[key] = KeptReranker(counted if inner is None else replace(held, reranker=counted), self.counts)
        return self._rerankers.get(key)

    def asking(self, retrieval: Retrieval) -> Callable[[Retriever], Retriever] | None:
        """What words the questions of a section anew."""
        return open_asking(retrieval, self.settings, self.root)[0]


def bare(part: Any) -> Any:
    """An index, embedder or re-ranker with no memory around it: what a part holds, below its cache."""
    held = getattr(part, "inside", None)
    return getattr(held, "embedder", getattr(held, "reranker", held)) if not isinstance(part, KeptIndex) else held
