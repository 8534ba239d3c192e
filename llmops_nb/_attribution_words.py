"""Sentences of an answer, words as they are compared, and where the words of one text stand in another."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

# English words that carry no meaning of their own
STOP_WORDS = frozenset(
    "a an the and or but if then else of in on at to from by for with as is are was were be been being it its this that these those "
    "there here which who whom whose what when where why how not no nor so such than too very can could may might must shall should "
    "will would do does did done has have had having i you he she we they him his her their our your my me us also only any all each "
    "both some more most other into over under about between through during before after again further once same own just".split()
)
LONGEST = 1500  # Words that are compared one by one
MARK = re.compile(r"(?<!\s)\s*\[\d{1,3}(?:\s*[,;]\s*\d{1,3})*\]")  # A citation, as the application page reads it
_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿가-힯]|(?:(?![぀-ヿ㐀-䶿一-鿿豈-﫿가-힯])\w)+(?:[._'’](?:(?![぀-ヿ㐀-䶿一-鿿豈-﫿가-힯])\w)+)*")
_ENDING = re.compile(r"(?<=\w{4})(?:'s|’s|es|s|ed|ing|ly)$")
_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++[\"'”’»)\]*_`]*+(?:\s*\[\d{1,3}(?:\s*[,;]\s*\d{1,3})*\])*(?=\s+[^\sa-z]|\s*$)|(?<=[。！？])(?=\S)")
_BREAK = re.compile(r"\n[ \t]*(?:\n\s*|(?=(?:[-*+•]|\d{1,3}[.)])[ \t])|(?=#{1,6} ))")
_SHORT = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|etc|approx|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|Inc|Ltd)|\b[A-Z]|^\s*\d{1,3})\.$")
_FENCE = re.compile(r"^[ \t]*(`{3,}+|~{3,}+)[^\n]*\n.*?(?:^[ \t]*\1[^\n]*$|\Z)", re.M | re.S)


@dataclass(frozen=True)
class Word:
    "A word with its place."

    key: str  # As it is compared
    start: int  # First character
    end: int  # One past the last

    @property
    def telling(self) -> bool:
        "Whether it carries meaning."
        return self.key not in STOP_WORDS


@functools.lru_cache(maxsize=512)
def words_of(text: str) -> tuple[Word, ...]:
    "The words of a text; case and common English endings aside, and each Chinese, Japanese or Korean sign alone."
    return tuple(Word(_ENDING.sub("", found[0].casefold()), found.start(), found.end()) for found in _WORD.finditer(text))


def sentences_of(text: str) -> list[tuple[int, int]]:
    "First character and one past the last of every sentence, list entry or fenced block, blanks aside."
    ends, at = {len(text)}, 0
    blocks = [(found.start(), found.end()) for found in _FENCE.finditer(text)]
    for start, end in [*blocks, (len(text), len(text))]:
        ends |= {found.start() for found in _BREAK.finditer(text, at, start)}
        ends |= {found.end() for found in _END.finditer(text, at, start) if not _SHORT.search(_before(text, found.start()))}
        ends |= {start, end}
        at = end
    cuts = sorted({0, *ends})
    parts = [(a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in zip(cuts, cuts[1:], strict=False)]
    return [(a, b) for a, b in parts if a < b]


def _before(text: str, at: int) -> str:
    "The end of a line up to a character; one that is cut says so with a letter in front."
    begin = max(text.rfind("\n", 0, at) + 1, at - 12)
    return ("" if begin == 0 or text[begin - 1] == "\n" else "x") + text[begin : at + 1]


def shared(sentence: Sequence[Word], source: Sequence[Word]) -> tuple[float, float]:
    "The share of a sentence's telling words that a source has, and of its neighbouring pairs; 0 without telling words."
    telling = [word.key for word in sentence if word.telling]
    known = {word.key for word in source}
    pairs = [(a.key, b.key) for a, b in zip(sentence, sentence[1:], strict=False)]
    beside = {(a.key, b.key) for a, b in zip(source, source[1:], strict=False)}
    return (sum(key in known for key in telling) / len(telling) if telling else 0.0), (sum(pair in beside for pair in pairs) / len(pairs) if pairs else 0.0)


def places(sentence: Sequence[Word], source: Sequence[Word]) -> list[tuple[int, int]]:
    "Where the words of a sentence stand in a source: runs of them in their order, then telling words that are left, once each."
    sentence, source = sentence[:LONGEST], source[:LONGEST]
    said, known = [word.key for word in sentence], [word.key for word in source]
    found: set[int] = set()
    used: set[str] = set()
    for block in SequenceMatcher(None, said, known, autojunk=False).get_matching_blocks():
        run = sentence[block.a : block.a + block.size]
        if any(word.telling for word in run):
            found |= set(range(block.b, block.b + block.size))
            used |= {word.key for word in run}
    left = {word.key for word in sentence if word.telling} - used
    for at, key in enumerate(known):
        if key in left:
            left.discard(key)
            found.add(at)
    spans: list[tuple[int, int]] = []
    for at in sorted(found):
        if spans and at - 1 in found:
            spans[-1] = (spans[-1][0], source[at].end)
        else:
            spans.append((source[at].start, source[at].end))
    return spans
