"""Which characters of the evidence the first chunks of a ranking cover, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .core import Chunk, ConfigurationError, Passage
from .evidence import ENOUGH

if TYPE_CHECKING:
    from .rankings import Span

Ranges = list[tuple[int, int]]  # Parts of a quote: first character, one past the last


@dataclass(frozen=True)
class Covered:
    "What a ranking has covered after each place; index 0 is before the first."

    total: int  # Characters of evidence
    grades: tuple[float, ...]  # Of the quotes
    hidden: list[int] = field(default_factory=list)  # Characters of evidence that are not covered yet
    held: list[int] = field(default_factory=list)  # Characters retrieved so far
    shares: list[tuple[float, ...]] = field(default_factory=list)  # Covered of each quote so far

    def _at(self, k: int | None) -> int:
        last = len(self.held) - 1
        return last if k is None else min(k, last)

    def places(self, k: int | None) -> range:
        "The places among the first k, from 1."
        return range(1, self._at(k) + 1)

    def covered(self, k: int | None) -> int:
        "Characters of evidence that the first k cover together."
        return self.total - self.hidden[self._at(k)]

    def read(self, k: int | None) -> int:
        "Characters that the first k hold, as often as they are there."
        return self.held[self._at(k)]

    def found(self, k: int | None) -> int:
        "How many quotes the first k cover well enough."
        return sum(share >= ENOUGH for share in self.shares[self._at(k)])

    def gain(self, place: int) -> float:
        "What the chunk at a place covers anew: its share of each quote times the quote's grade."
        return sum(grade * (after - before) for grade, before, after in zip(self.grades, self.shares[place - 1], self.shares[place], strict=True))


def cover(found: Sequence[Passage] | Sequence[str], spans: Sequence[Span]) -> Covered:
    "What a ranking covers of the spans; a chunk that comes again is passed over."
    rest: list[Ranges] = [[(0, len(span.text))] for span in spans]  # Of each quote, what is not covered
    once = [_own(spans, number) for number in range(len(spans))]  # The same, but characters that two quotes share belong to the first
    left, alone = ([_solid(span, ranges) for span, ranges in zip(spans, some, strict=True)] for some in (rest, once))
    sizes = list(left)
    covered = Covered(sum(alone), tuple(span.grade for span in spans), [sum(alone)], [0], [(0.0,) * len(spans)])
    seen = set[str]()
    for passage in found:
        if isinstance(passage, str):
            raise ConfigurationError("Spans are judged by the text of passages: give the passages themselves, not their ids.")
        if passage.chunk.id in seen:
            continue
        seen.add(passage.chunk.id)
        for number, span in enumerate(spans):
            for start, end in _held(span, passage.chunk):
                rest[number], once[number] = _without(rest[number], start, end), _without(once[number], start, end)
                left[number], alone[number] = _solid(span, rest[number]), _solid(span, once[number])
        covered.hidden.append(sum(alone))
        covered.held.append(covered.held[-1] + sum(map(len, passage.chunk.text.split())))
        covered.shares.append(tuple(1 - some / size for some, size in zip(left, sizes, strict=True)))
    return covered


def _held(span: Span, chunk: Chunk) -> Ranges:
    "Which parts of a quote a chunk holds, at any of its places, where the chunk has the document's text."
    if span.document != chunk.document:
        return []
    parts = [(place, max(place, chunk.start), min(place + len(span.text), chunk.end)) for place in span.places]
    return [(start - place, end - place) for place, start, end in parts
            if start < end and span.text[start - place : end - place] == chunk.text[start - chunk.start : end - chunk.start]]  # fmt: skip


def _own(spans: Sequence[Span], number: int) -> Ranges:
    "The parts of a quote, at its first place, that no earlier quote has."
    span = spans[number]
    own: Ranges = [(0, len(span.text))]
    for other in spans[:number]:
        if other.document == span.document:
            start = other.places[0] - span.places[0]
            own = _without(own, start, start + len(other.text))
    return own


def _without(ranges: Ranges, start: int, end: int) -> Ranges:
    "Ranges with one taken out."
    parts = [part for a, b in ranges for part in ((a, min(b, start)), (max(a, end), b))]
    return [(a, b) for a, b in parts if a < b]


def _solid(span: Span, ranges: Ranges) -> int:
    "Characters of a quote in some ranges, white space aside."
    return sum(len(word) for a, b in ranges for word in span.text[a:b].split())
