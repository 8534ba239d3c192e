"""How often the passage that changes an answer most is the one with the evidence, on the pydocs application: python measure_influence.py [ITEMS] [MODEL].

Six calls an item, remembered in the project's cache: a second time is free. Not a part of `make bench`.
"""

from __future__ import annotations

import sys
from collections import Counter

from llmops_nb import load_app, load_golden, load_settings
from llmops_nb.attribution import basis_of, influence, influence_calls
from llmops_nb.core import Answer
from llmops_nb.datasets import select
from llmops_nb.evidence import ENOUGH, evidence_found
from llmops_nb.providers import answer_cache


def main(most: int = 15, model: str = "") -> None:
    settings = load_settings(".")
    app = load_app("experiments/pydocs", settings, **({"model": model} if model else {}))
    items = [item for item in select(load_golden("experiments/pydocs/golden/pydocs.jsonl"), split="dev") if item.answerable and item.evidence and item.facts]
    items = items[:: max(1, len(items) // most)][:most]
    passages = {item.question: tuple(app.retriever(item.question, app.definition.retrieval.top_k)) for item in items}
    calls, remembered = influence_calls(app, passages, answer_cache(settings))
    print(f"{app.model.name}: {len(items)} items, {calls} calls, {remembered} of them from memory", flush=True)
    counts: Counter[str] = Counter()
    chance = noise = 0.0
    for item in items:
        found = passages[item.question]
        holding = {n for n, passage in enumerate(found, start=1) if any(part >= ENOUGH for _, part in evidence_found(item, [passage], app.corpus))}
        influences = influence(app, item.question, found, item=item)
        noise = max(noise, influences.noise or 0.0)
        if not holding:
            counts["without evidence in one passage"] += 1
            continue
        counts["with evidence in one passage"] += 1
        counts["changed by leaving a passage out"] += any(one.change for one in influences.passages)
        if influences.most:
            counts["that name a passage"] += 1
            counts["… which has the evidence"] += influences.most.number in holding
            chance += len(holding) / len(found)
        bases = Counter(basis.passage for basis in basis_of(Answer(influences.answer, passages=found)) if basis.passage)
        if bases and not any(words in influences.answer for words in app.definition.abstain):
            counts["whose words stand in a passage"] += 1
            counts["… which has the evidence (by words)"] += bases.most_common(1)[0][0] in holding
    print(*(f"{count:4} {what}" for what, count in counts.items()), f"{chance:.1f} by chance; noise of a repeat {noise:.2f}", sep="\n")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, str), sys.argv[1:], strict=False)))
