"""What a person who judges an answer sees of its passages: the words that each sentence uses, and citations that point nowhere."""

from __future__ import annotations

from typing import Any

from .attribution import basis_of
from .core import Answer

SHOWN = 10  # Passages
LONGEST = 2000  # Characters of a passage
MANY = 30  # Sentences
TOO_LONG = 20_000  # Characters of an answer that no sentence is looked for in


def sourced(answer: Answer) -> dict[str, Any]:
    "The passages of an answer in parts, used or not, and its sentences with the passage each stands on; says nothing of whether it is right."
    bases = basis_of(answer)[:MANY] if len(answer.text) <= TOO_LONG and answer.passages and not answer.abstained else ()
    passages = []
    for number, passage in enumerate(answer.passages[:SHOWN], start=1):
        chunk = passage.chunk
        places = sorted((word.start - chunk.start, word.end - chunk.start) for basis in bases if basis.passage == number for word in basis.words)
        passages.append({"title": f"[{number}] {chunk.heading or chunk.id}", "parts": _parts(chunk.text[:LONGEST], places), "rest": max(0, len(chunk.text) - LONGEST)})
    sentences = [{"text": basis.sentence[:LONGEST], "where": f"passage {basis.passage}" if basis.passage else "no passage"} for basis in bases]
    lost = sorted({citation.number for citation in answer.citations if not citation.chunk})
    return {"passages": passages, "sentences": sentences, "lost": f"Cited, but there is no such passage: {', '.join(f'[{number}]' for number in lost)}." if lost else ""}


def _parts(text: str, places: list[tuple[int, int]]) -> list[list[Any]]:
    "A text in parts: the words and whether the answer uses them."
    parts: list[list[Any]] = []
    at = 0
    for start, end in places:
        if start < at or start >= len(text):
            continue
        parts += [[text[at:start], False]] if start > at else []
        parts.append([text[start:end], True])
        at = end
    return [*parts, [text[at:], False]] if at < len(text) else parts
