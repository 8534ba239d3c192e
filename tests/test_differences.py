"""Differences lose no character, find what changed, and end in time whatever the texts are."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops_nb.differences import Piece, changed_share, marked, side, word_diff

WORDS = st.lists(st.sampled_from(["a", "b", "the", "cat,", "x.", "\n", "  ", "é", "<b>", ". ", "!", "日本"]), max_size=40).map("".join)


@settings(max_examples=300, deadline=None)
@given(WORDS | st.text(max_size=60), WORDS | st.text(max_size=60))
def test_both_texts_come_back(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert "".join(text for _, text in side(pieces, "removed")) == before
    assert "".join(text for _, text in side(pieces, "added")) == after
    assert all(text for _, text in pieces)
    assert 0 <= changed_share(pieces) <= 1
    assert (changed_share(pieces) == 0) == ("".join(before.split()) == "".join(after.split())) or before.split() != after.split()


def test_long_texts_come_back_too() -> None:
    rng = random.Random(3)
    words = [rng.choice("the a cat dog sat . on\n it's".split(" ")) for _ in range(9000)]
    before, after = " ".join(words), " ".join(words[:4000] + ["different."] + words[4000:])
    pieces = word_diff(before, after)
    assert "".join(t for k, t in pieces if k != "added") == before
    assert "".join(t for k, t in pieces if k != "removed") == after
    assert changed_share(pieces) < 0.1


def test_frequent_words_are_still_found() -> None:
    before = "yes no " * 300
    assert changed_share(word_diff(before, before.replace("yes no", "yes perhaps no", 1))) < 0.01


@pytest.mark.parametrize(
    "before, after, pieces",
    [
        ("", "", []),
        ("a", "a", [("same", "a")]),
        ("", "new", [("added", "new")]),
        ("one  two", "one two", [("same", "one"), ("removed", "  "), ("added", " "), ("same", "two")]),
        ("by break.", "without break.", [("removed", "by"), ("added", "without"), ("same", " break.")]),
    ],
)
def test_small_cases(before: str, after: str, pieces: list[tuple[str, str]]) -> None:
    assert list(word_diff(before, after)) == [Piece(*each) for each in pieces]


@pytest.mark.parametrize("alphabet, size", [(2, 2000), (2, 400_000), (30, 2000)])
def test_no_text_takes_long(alphabet: int, size: int) -> None:
    rng = random.Random(1)
    before, after = (" ".join(f"w{rng.randrange(alphabet)}" for _ in range(size)) for _ in "ab")
    start = time.perf_counter()
    word_diff(before, after)
    assert time.perf_counter() - start < 20  # One second on an idle core


def test_html_holds_text_only() -> None:
    shown = marked(word_diff("a & <b>", "a & <script>alert(1)</script>\"'"))
    assert "<script" not in shown and "<b>" not in shown and "&amp;" in shown and "<ins>" in shown and "<del>" in shown
