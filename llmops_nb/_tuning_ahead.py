"""What a tuning will take: how much of it is known already, and how fast this machine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llmops_nb.chunks import approximate_tokens, body_of, in_context
from llmops_nb.embedders import missing_vectors
from llmops_nb.retrieve import Retrieval
from llmops_nb.splitters import cut
from llmops_nb.stats import Estimate

PILOT = 12  # Texts that are embedded, and pairs that are looked at, to see how long one takes
SUM = 0.002  # Seconds in which the rankings of one question are joined and scored, roughly


def look_ahead(plan: Any, retrievals: Sequence[Retrieval], golden: Any, stages: Any, kind: Any) -> Any:
    """Counts what is ahead, and computes a few to see how fast it goes."""
    texts = missing_texts(stages, retrievals)
    for retrieval in {(r.rerank, r.rubric): r for r in retrievals if r.rerank}.values():
        stages.reranker(retrieval)
    pairs = pairs_ahead(retrievals, len(golden), lambda r: plan.k or r.top_k)
    timed = min(plan.timed, len(golden))
    some = [d.text[:600] for d in stages.corpus.documents if d.text.strip()]
    paces = {name: embed_pace(stages.embedder_named(name).inside, missing) for name, missing in texts.items() if missing}
    parts = [(float(len(texts[name])), float(len(texts[name])), pace) for name, pace in paces.items()]
    for name, (low, high) in pairs.items():
        held = stages.reranker(next(r for r in retrievals if r.rerank == name)).inside
        paces[name] = rerank_pace(getattr(held, "reranker", held), [item.question for item in golden], some)
        again = timed * sum(r.candidates for r in retrievals if r.rerank == name)
        parts.append((float(low + again), float(high + again), paces[name]))
    asked = float(len(golden) * len(retrievals))
    parts.append((asked, asked, _about(SUM, 1)))
    least, most = (sum(ends[side] for ends in pairs.values()) for side in (0, 1))
    indexes = len(dict.fromkeys(r.recipe for r in retrievals))
    return kind(len(retrievals), indexes, len(golden), sum(map(len, texts.values())), Estimate((least + most) / 2, float(least), float(most), 1, "counted"), total_seconds(parts), paces)


def missing_texts(stages: Any, retrievals: Sequence[Retrieval]) -> dict[str, list[str]]:
    """By embedder, the texts whose vectors nobody remembers: chunks of every way of cutting."""
    wanted: dict[str, dict[str, None]] = {}
    for recipe in dict.fromkeys(r.recipe for r in retrievals):
        if recipe.embedder:
            held = stages.embedder_named(recipe.embedder).inside
            counter = (held.count if recipe.tokens == "embedder" else None) or approximate_tokens
            chunks = (c for document in stages.corpus.documents for c in cut(document, recipe.chunker, recipe.chunk_size, recipe.overlap, counter))
            alike: dict[tuple[str, str], str] = {}  # Chunks that an index keeps once
            for chunk in chunks:
                alike.setdefault((chunk.heading.rpartition(" > ")[2], " ".join(body_of(chunk).split())), in_context(chunk))
            wanted.setdefault(recipe.embedder, {}).update(dict.fromkeys(text for (_, body), text in alike.items() if body))
    return {name: unknown_texts(stages.embedder_named(name).inside, list(texts)) for name, texts in wanted.items()}


def unknown_texts(held: Any, texts: Sequence[str]) -> list[str]:
    """Texts without a remembered vector."""
    return [text for start in range(0, len(texts), 500) if missing_vectors(held, part := texts[start : start + 500]) for text in part if missing_vectors(held, [text])]


def pairs_ahead(retrievals: Sequence[Retrieval], items: int, ask: Callable[[Retrieval], int]) -> dict[str, tuple[int, int]]:
    """By re-ranker, how many pairs it will see: at least as if all settings found the same passages, at most as if no two searches did."""
    found: dict[str, dict[Any, int]] = {}
    for retrieval in retrievals:
        if retrieval.rerank:
            search = replace(retrieval, candidates=1, top_k=1, mmr=1.0, expand=0, parent="", merge=False)  # Of two depths of one search, the lesser is a part
            sizes = found.setdefault(retrieval.rerank, {})
            sizes[search] = max(sizes.get(search, 0), items * max(retrieval.candidates, ask(retrieval)))
    return {name: (max(sizes.values()), sum(sizes.values())) for name, sizes in found.items()}


def embed_pace(embedder: Any, texts: Sequence[str]) -> Estimate:
    """Seconds a text takes, from a few of all lengths; they are remembered, so nothing is computed twice."""
    if not texts:
        return Estimate(0.0, 0.0, 0.0, 0, "nothing to embed")
    ordered = sorted(texts, key=len)
    some = [ordered[place * len(ordered) // min(PILOT, len(ordered))] for place in range(min(PILOT, len(ordered)))]
    embedder.embedder(some[:1])  # The first text of a process waits for the network to be ready
    start = time.perf_counter()
    embedder(some)
    return _about((time.perf_counter() - start) / len(some), len(some))


def rerank_pace(reranker: Any, questions: Sequence[str], texts: Sequence[str]) -> Estimate:
    """Seconds a pair takes."""
    some = [texts[place * len(texts) // PILOT] for place in range(PILOT)]
    reranker(questions[0], some[:1])
    start = time.perf_counter()
    reranker(questions[0], some)
    return _about((time.perf_counter() - start) / len(some), len(some))


def _about(seconds: float, n: int) -> Estimate:
    """Few texts on a machine that does other things too: half as long, or twice."""
    return Estimate(seconds, seconds / 2, seconds * 2, n, "pilot")


def total_seconds(parts: Sequence[tuple[float, float, Estimate]]) -> Estimate:
    """Of everything: at least and at most so many, at a pace each."""
    low = sum(least * (pace.low or 0.0) for least, _, pace in parts)
    high = sum(most * (pace.high or 0.0) for _, most, pace in parts)
    value = sum((least + most) / 2 * (pace.value or 0.0) for least, most, pace in parts)
    return Estimate(value, low, high, len(parts), "pilot")
