"""Around a chunk: the section, the document or the neighbours that it stands in, and overlapping pieces put together."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .core import Chunk, Document, Passage
from .documents import headings_of, lines_of
from .store import digest


@dataclass(frozen=True)
class Span:
    "A part of a document."

    start: int  # First character
    end: int  # One past the last
    heading: str = ""  # The headings above it, outermost first
    page: int = 0  # The page that it begins on, 0 when its document has no pages


@lru_cache(maxsize=256)
def _outline(text: str) -> tuple[tuple[int, int, int, str], ...]:
    "Every headed part of a text: where it begins, where its own words end, where its last sub-heading's words end, its headings."
    lines = lines_of(text)
    headings = headings_of(lines)
    starts = [*(lines[heading.line].start for heading in headings), len(text)]
    found: list[tuple[int, int, int, str]] = []
    path: list[tuple[int, str]] = []
    for place, heading in enumerate(headings):
        path = [*(above for above in path if above[0] < heading.level), (heading.level, heading.title)]
        after = next((n for n in range(place + 1, len(headings)) if headings[n].level <= heading.level), len(headings))
        found.append((starts[place], starts[place + 1], starts[after], " > ".join(title for _, title in path)))
    return tuple(found)


def page_at(document: Document, start: int) -> int:
    "The page on which a character stands, 0 when its document has no pages."
    pages = document.metadata.get("pages") or ()
    return bisect_right(list(pages), start) if all(isinstance(offset, int) for offset in pages) else 0


def _spans(chunk: Chunk, document: Document, whole: bool) -> Iterator[Span]:
    "The parts that a chunk stands in, widest first: the document and its sections, or its own section alone."
    text = document.text
    around = [part for part in _outline(text) if part[0] < chunk.end <= part[2]]
    parts = [(0, len(text), document.title)] if whole or not around else []
    parts += [(start, end, heading) for start, _, end, heading in (around if whole else around[-1:])]
    parts += [(start, own, heading) for start, own, _, heading in around[-1:] if own >= chunk.end]
    for start, end, heading in parts:
        yield _around(chunk, document, start, end, heading or chunk.heading)


def _around(chunk: Chunk, document: Document, start: int, end: int, heading: str) -> Span:
    "A span without blank lines around it, its first line with its indentation; all of the chunk is in it."
    part = document.text[start:end]
    kept, first = len(part.rstrip()), len(part) - len(part.lstrip())
    line = part.rfind("\n", 0, first) + 1
    if line == 0 and start > 0 and document.text[start - 1] != "\n":
        line = first
    begin = min(chunk.start, start + min(line, kept))
    return Span(begin, max(chunk.end, start + kept), heading, page_at(document, begin))


_TOKENS = re.compile(r"\w+|[^\w\s]+")


def at_most(text: str, start: int, end: int, most: int) -> bool:
    "Whether a part of a text has at most so many tokens, counted as `approximate_tokens` does, and no further than needed."
    left = most
    for part in _TOKENS.finditer(text, start, end):
        left -= 1 + (part.end() - part.start() - 1) // 8
        if left < 0:
            return False
    return True


def parent_of(chunk: Chunk, document: Document, part: str, most: int) -> Span:
    "The widest part around a chunk that has at most so many tokens; inside a longer one, the lines around the chunk that fit."

    def fits(start: int, end: int) -> bool:
        return at_most(document.text, start, end, most)

    spans = list(_spans(chunk, document, part == "document"))
    found = next((span for span in spans if fits(span.start, span.end)), None)
    return found or _grown(chunk, document, spans[-1], fits)


def _grown(chunk: Chunk, document: Document, within: Span, fits: Callable[[int, int], bool]) -> Span:
    "A chunk with the lines after and before it, in turns, for as long as they fit."
    text, start, end = document.text, chunk.start, chunk.end
    open_ends = {"after", "before"}
    while open_ends:
        if "after" in open_ends:
            line = text.find("\n", end + 1, within.end)
            further = within.end if line < 0 else line
            if further > end and fits(start, further):
                end = further
            else:
                open_ends.discard("after")
        if "before" in open_ends:
            further = max(within.start, text.rfind("\n", within.start, max(within.start, start - 1)) + 1)
            if further < start and fits(further, end):
                start = further
            else:
                open_ends.discard("before")
    return _around(chunk, document, start, end, chunk.heading if start == chunk.start else within.heading)


def neighbours_of(chunk: Chunk, beside: Sequence[Chunk]) -> Span:
    "A chunk with those beside it."
    first = min([chunk, *beside], key=lambda each: each.start)
    return Span(first.start, max(each.end for each in [chunk, *beside]), first.heading, first.page)


def joined(passages: Sequence[Passage], documents: Mapping[str, Document], widen: Callable[[Chunk, Document], Span]) -> list[Passage]:
    "Passages made wider, those that then overlap put into one, in the order of their best hits. A chunk that its document does not hold stays alone."
    groups: list[tuple[Span, list[Passage]]] = []
    alone: list[Passage] = []
    for passage in passages:
        chunk, document = passage.chunk, documents.get(passage.chunk.document)
        if document is None or document.text[chunk.start : chunk.end] != chunk.text:
            alone.append(replace(passage, scores={**passage.scores, "hits": 1.0, "found": 1.0}))
            continue
        span, hits, apart = widen(chunk, document), [passage], []
        for other, others in groups:
            if others[0].chunk.document == chunk.document and other.start < span.end and span.start < other.end:
                first = min(other, span, key=lambda each: each.start)
                span, hits = replace(first, end=max(other.end, span.end)), [*others, *hits]
            else:
                apart.append((other, others))
        groups = [*apart, (span, hits)]
    places = {passage.chunk.id: place for place, passage in enumerate(passages)}
    found = [*alone, *(_one(span, sorted(hits, key=lambda hit: places[hit.chunk.id]), documents) for span, hits in groups)]
    return sorted(found, key=lambda passage: places[passage.chunk.id])


def _one(span: Span, hits: Sequence[Passage], documents: Mapping[str, Document]) -> Passage:
    "The passage of a span: under the id and with the scores of its best hit, and how much of it was found by the search itself."
    best = hits[0]
    covered = len({at for hit in hits for at in range(hit.chunk.start, hit.chunk.end)})
    scores = {**best.scores, "hits": float(len(hits)), "found": covered / max(1, span.end - span.start)}
    if (span.start, span.end) == (best.chunk.start, best.chunk.end):
        return replace(best, scores=scores)
    text = documents[best.chunk.document].text[span.start : span.end]
    chunk = Chunk(best.chunk.id, best.chunk.document, text, span.start, span.end, span.heading, digest(text), span.page)
    return replace(best, chunk=chunk, scores=scores)
