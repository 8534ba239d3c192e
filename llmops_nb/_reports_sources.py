"""What a report shows of where an answer comes from: sentences, words in passages, citations, influence; asks no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .attribution import CitationReport, Influences, basis_of, check_citations
from .core import Answer, DataError, MissingExtra, from_json, to_json
from .groundedness import support

_NEEDED = ("text", "passages", "abstained")
MANY = 40  # Sentences of one answer


def sources(record: Mapping[str, Any], influence: Influences | None = None) -> dict[str, Any] | None:
    "Sentences of an answer with the passage each stands on, and what leaving a passage out did; None where there is nothing to say."
    answer = _read(record.get("answer"))
    if answer is None or not answer.passages:
        return None
    found = {} if answer.abstained else _said(answer)
    if influence is not None and [one.chunk for one in influence.passages] == [passage.chunk.id for passage in answer.passages]:
        found["influence"] = _influence(influence)
    return found or None


def _read(answer: Any) -> Answer | None:
    "The answer of a record, as far as this needs it; None when it lacks something."
    if not isinstance(answer, Mapping) or not answer.get("text"):
        return None
    try:
        return from_json(to_json({name: answer[name] for name in _NEEDED if answer.get(name) is not None}), Answer)
    except (DataError, TypeError):
        return None


def _said(answer: Answer) -> dict[str, Any]:
    "Sentences: start, end, passage or 0, share, verdict, and the words in the passage; places as a browser counts them."
    bases, report = basis_of(answer)[:MANY], _checked(answer)
    verdicts = [claim.verdict for claim in report.claims] if report else [""] * len(bases)
    rows = []
    for basis, verdict in zip(bases, verdicts, strict=False):
        chunk = answer.passages[basis.passage - 1].chunk if basis.passage else None
        words = units(chunk.text, [at - chunk.start for word in basis.words for at in (word.start, word.end)]) if chunk else []
        rows.append([*units(answer.text, [basis.start, basis.end]), basis.passage, round(basis.share, 2), verdict, words])
    return {"sentences": rows, "citing": str(report) if report and any(verdicts) else ""}


def _checked(answer: Answer) -> CitationReport | None:
    "The citations of an answer, judged by words; None without the package that stems them."
    try:
        return check_citations(answer, lambda sentence, texts: support(sentence, texts).value)
    except MissingExtra:
        return None


def units(text: str, places: Sequence[int]) -> list[int]:
    "Places in a text as JavaScript counts them: signs beyond U+FFFF are two there."
    if text.isascii() or max(text, default="") <= "\uffff":
        return list(places)
    return [place + sum(sign > "\uffff" for sign in text[:place]) for place in places]


def _influence(found: Influences) -> dict[str, Any]:
    "Influence for a table: the numbers as text."
    names = list(dict.fromkeys(name for one in found.passages for name in one.scores))
    rows = [[one.number, f"{one.change:.2f}", "—" if one.facts is None else f"{one.facts:.0%}", *(f"{one.scores[n]:+.2f}" if n in one.scores else "—" for n in names), "The same." if one.without == found.answer else one.without[:2000]] for one in found.passages]
    noise = "" if found.noise is None else f"Asked again without a change, the answer differed by {found.noise:.2f}."
    return {"heads": ["Change", "Facts lost", *names], "rows": rows, "most": found.most.number if found.most else 0, "noise": noise}
