"""What RetrievalTuner works with: stages that are at hand, what others would cost, and rankings that were asked for before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._index_rows import changed, nothing
from .core import LLMOpsError, Passage
from .datasets import GoldenSet
from .documents import Corpus
from .embedders import CachedEmbedder, missing_vectors
from .embedding import open_embedder
from .index import Recipe, cut_by
from .retrieve import Retrieval
from .settings import Settings
from .store import digest
from .tuning import Measured, Stages, compare_retrieval, measure_retrieval
from .weights import CATALOGUE

SHOWN = 10  # Places of a ranking on the screen, or as many as the model reads
LIVE = 1.5  # Seconds; embeddings and scores that take longer wait until somebody asks for them
ASIDE = 30.0  # Seconds; an index that needs no new embeddings is built aside when it takes no longer
SAMPLE = 4_000_000  # Characters that are cut to know what an index costs; of a larger corpus, a part
REMEMBERED = 400  # Rankings
KEPT = 60  # Items that gained, and that lost: a state is written at every move
TINY = 1e-9  # Differences below it come from adding up


@dataclass(frozen=True)
class Price:
    """What an index takes that is not at hand."""

    chunks: int  # It would hold
    embeddings: int  # Of them without a known vector
    embedder: str  # Who computes them, "" for words alone
    seconds: float | None  # About; None when nobody knows
    exact: bool = True  # Counted, and not estimated from a part of the corpus
    problem: str = ""  # Why it cannot be counted

    @property
    def text(self) -> str:
        """In words."""
        if self.problem:
            return f"cannot be built. {self.problem}"
        about = "" if self.exact else "about "
        what = f"{about}{self.embeddings:,} new embeddings" if self.embeddings else f"a new index of {about}{self.chunks:,} chunks"
        took = f", about {duration(self.seconds)}" if self.seconds is not None else f" from {self.embedder}, which may charge for them"
        return f"needs {what}{took}"


def duration(seconds: float) -> str:
    """A time that is only about right."""
    return "a second" if seconds < 1.5 else f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _wording(retrieval: Retrieval, query: str) -> tuple[Any, ...]:
    """What a rewriting of a question depends on."""
    return query, retrieval.rewrite, retrieval.rewrite_model, retrieval.rewrite_prompt, retrieval.paraphrases


class Desk:
    """Stages over one corpus, with a memory for what they found and a guess of what they take."""

    def __init__(self, corpus: Corpus, settings: Settings, root: Path):
        self.corpus, self.settings = corpus, settings
        self.stages = Stages(corpus, settings, root=root)
        self.prices: dict[Recipe, Price] = {}
        self.rate: dict[str, float] = {}  # Seconds an embedding, by embedder
        self.pair = 0.03  # Seconds a pair that is re-ranked
        self.built = 1e-6  # Seconds a character that is cut and counted into an index
        self.small = sum(len(document.text) for document in corpus.documents) < 100_000  # Cut before anybody notices
        self._ready: set[Recipe] = set()
        self._found: dict[tuple[str, str], list[Passage]] = {}
        self._pairs: set[tuple[str, str, str]] = set()
        self._worded: set[tuple[Any, ...]] = set()
        self._judged: set[tuple[Any, ...]] = set()

    def quick(self, retrieval: Retrieval) -> bool:
        """Whether an index is brought to hand without being asked for."""
        price = self.price(retrieval)
        return price.seconds is not None and price.seconds <= (LIVE if price.embeddings else ASIDE)

    def ready(self, retrieval: Retrieval) -> bool:
        """Whether the index of some settings is at hand."""
        return retrieval.recipe in self._ready

    def price(self, retrieval: Retrieval) -> Price:
        """What the index of some settings takes, counted once."""
        recipe = retrieval.recipe
        if recipe not in self.prices:
            try:
                self.prices[recipe] = self._count(recipe)
            except LLMOpsError as error:
                self.prices[recipe] = Price(0, 0, recipe.embedder, None, problem=str(error))
        return self.prices[recipe]

    def _count(self, recipe: Recipe) -> Price:
        part, share = self.corpus, 1.0
        characters = sum(len(document.text) for document in self.corpus.documents)
        if characters > SAMPLE:
            step = -(-characters // SAMPLE)
            part = Corpus(self.corpus.name, self.corpus.documents[::step])
            share = characters / max(1, sum(len(document.text) for document in part.documents))
        begun = time.perf_counter()
        texts = self._texts(part, recipe)
        self.built = max(self.built, 3 * (time.perf_counter() - begun) / (characters / share))
        seconds: float | None = self.built * characters
        missing = 0
        if recipe.embedder:
            embedder = open_embedder(recipe.embedder, self.settings)
            missing = missing_vectors(embedder, texts)
            if missing:
                rate = self._rate(embedder, texts)
                missing = missing_vectors(embedder, texts)  # Without those that were tried
                seconds = None if rate is None else self.built * characters + rate * missing * share
        return Price(round(len(texts) * share), round(missing * share), recipe.embedder, seconds, share == 1.0)

    def _texts(self, corpus: Corpus, recipe: Recipe) -> list[str]:
        """The texts that an index of a corpus embeds: one of every group of equal chunks, as the index groups them."""
        embedder = open_embedder(recipe.embedder, self.settings) if recipe.embedder else None
        moved = changed(nothing(), corpus.documents, {document.id: "" for document in corpus.documents}, (), lambda document: cut_by(document, recipe, embedder))
        return list(dict.fromkeys(moved.texts.values()))

    def _rate(self, embedder: CachedEmbedder, texts: Sequence[str]) -> float | None:
        """Seconds an embedding takes: tried on a few that are wanted anyway, unless a service would have to be paid for them."""
        if embedder.name not in self.rate and embedder.name in CATALOGUE:
            some = sorted(texts, key=len)[:: max(1, len(texts) // 8)][:8]
            embedder.embedder(some[:1])  # The first text waits for the network to be ready
            begun = time.perf_counter()
            embedder(some)
            self.rate[embedder.name] = (time.perf_counter() - begun) / len(some)
        return self.rate.get(embedder.name)

    def build(self, retrieval: Retrieval, progress: Callable[[int, int], None] | None = None) -> None:
        """Bring the index of some settings to hand; what `progress` raises ends it, and vectors that are computed are kept."""
        self.stages.progress = progress
        try:
            self.stages.index(retrieval)
        except Exception:
            del self.prices[retrieval.recipe]
            self.price(retrieval)  # Less is left than before
            raise
        finally:
            self.stages.progress = None
        self._ready.add(retrieval.recipe)

    def lacks(self, retrieval: Retrieval, query: str) -> tuple[str, float | None]:
        """What some settings with an index at hand need for a question that nobody has yet: in words, and about how many seconds; nothing when it is quick."""
        if not query.strip() or (query, digest(retrieval)) in self._found:
            return "", 0.0
        if retrieval.rewrite and _wording(retrieval, query) not in self._worded:
            return f"needs {retrieval.rewrite_model or self.settings.model} to word the question anew", None
        seen = (query, retrieval.rerank, retrieval.rubric, retrieval.candidates, retrieval.recipe, retrieval.mode) in self._judged
        pairs = self._pairs_ahead(retrieval, query) if retrieval.rerank and not seen else 0
        if pairs and retrieval.rerank not in CATALOGUE:
            return f"needs {retrieval.rerank} to judge {pairs:,} passages", None
        seconds = pairs * self.pair
        return (f"needs {pairs:,} new scores of {retrieval.rerank}, about {duration(seconds)}", seconds) if seconds > LIVE else ("", seconds)

    def _pairs_ahead(self, retrieval: Retrieval, query: str) -> int:
        """How many pairs the re-ranker has not seen that these settings want it to see."""
        return sum((retrieval.rerank, query, passage.chunk.text) not in self._pairs for passage in self._candidates(retrieval, query))

    def spends(self, retrieval: Retrieval, items: int) -> str:
        """What a run over a golden set asks of a model, in words."""
        asked = [f"{retrieval.rewrite_model or self.settings.model} to word {items:,} questions anew"] if retrieval.rewrite else []
        asked += [f"{retrieval.rerank} to judge up to {items * retrieval.candidates:,} passages"] if retrieval.rerank and retrieval.rerank not in CATALOGUE else []
        return f"Asks {' and '.join(asked)}; what was asked before is remembered." if asked else ""

    def _candidates(self, retrieval: Retrieval, query: str) -> list[Passage]:
        return self.stages.retriever(replace(retrieval, rerank="", mmr=1.0, expand=0, parent="", merge=False))(query, max(retrieval.candidates, retrieval.top_k))

    def find(self, retrieval: Retrieval, query: str) -> list[Passage]:
        """What an app with these settings retrieves, and behind it what would come next: at least SHOWN places together."""
        key = (query, digest(retrieval))
        if key not in self._found:
            retriever = self.stages.retriever(retrieval)
            begun, new = time.perf_counter(), self._pairs_ahead(retrieval, query) if retrieval.rerank else 0
            read = retriever(query, retrieval.top_k)
            pool = retrieval.candidates if retrieval.rerank or retrieval.mmr < 1 else SHOWN
            more = max(retrieval.top_k, min(SHOWN, pool))
            there = {passage.chunk.id for passage in read}
            tail = [passage for passage in retriever(query, more) if passage.chunk.id not in there] if more > retrieval.top_k else []
            self._worded.add(_wording(retrieval, query))
            if new:
                self.pair = (time.perf_counter() - begun) / new
                self._pairs |= {(retrieval.rerank, query, passage.chunk.text) for passage in self._candidates(retrieval, query)}
            while len(self._found) >= REMEMBERED:
                self._found.pop(next(iter(self._found)))
            self._found[key] = [*read, *tail][: max(more, len(read))]
        return self._found[key]


    def measure(self, retrieval: Retrieval, golden: GoldenSet, measures: Sequence[str], unit: str, progress: Callable[[int, int], None]) -> Measured:
        """What settings are worth over a golden set; what `progress` raises ends it."""
        found = measure_retrieval(self.stages.retriever(retrieval), golden, measures, self.corpus, unit, progress=progress)
        for item in golden:  # What a model said of them is remembered now
            self._worded.add(_wording(retrieval, item.question))
            self._judged.add((item.question, retrieval.rerank, retrieval.rubric, retrieval.candidates, retrieval.recipe, retrieval.mode))
            self._pairs |= {(retrieval.rerank, item.question, passage.chunk.text) for passage in found.rankings[item.id]}
        return found

    def compared(self, before: Measured, after: Measured, measure: str, labels: tuple[str, str]) -> dict[str, Any]:
        """A verdict, and the items that gained and lost, the largest differences first."""
        verdict = compare_retrieval(before, after, measure, labels)
        old, new = before.scores.of(measure), after.scores.of(measure)
        pairs = sorted(((item, (old[item], new[item])) for item in new if item in old), key=lambda pair: -abs(pair[1][1] - pair[1][0]))
        gained, lost = ([(item, pair) for item, pair in pairs if sign * (pair[1] - pair[0]) > TINY] for sign in (1, -1))
        kept = {"gained": dict(gained[:KEPT]), "lost": dict(lost[:KEPT]), "changed": (len(gained), len(lost))}
        return {"outcome": verdict.outcome, "sentence": verdict.sentence, "p": verdict.paired.p, **kept}
