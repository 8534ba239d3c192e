"""Every chunk is a slice of its document, no text is lost, no chunk is too long."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_nb.chunks import approximate_tokens, body_of, chunk_document, coverage, covers, in_context
from llmops_nb.core import Chunk, ConfigurationError, Document
from llmops_nb.documents import from_mapping
from llmops_nb.store import digest

# Lines that mean something to the cutter, in any order
LINES = [
    "", "", "", "   ", "Title", "=====", "-----", "*****", "~~~~~", "# Head", "### Deep ###", "```", "~~~", "```py", "---",
    "* item one", "  * nested item", "1. first", "Intro:", "   deeper text that goes on", "      deepest. It ends here.", "str.upper()",
    "A sentence. Another one, e.g. This. And more! Is it? (Yes.) \"Quoted.\" End", "   x = 1  # comment", "| a | b |", "+---+---+", "|===|===|",
    "word " * 30, "x" * 100, "\u4f60\u597d" * 20, "é\u2028ü\x0b\x0c", "\tTab", "tail  ", "::", ".", "a\rb", "\U0001f600" * 9,
]  # fmt: skip
documents = st.lists(st.sampled_from(LINES) | st.text(max_size=30), max_size=40).map(lambda lines: Document("d", "\n".join(lines), "T"))
counters = st.sampled_from([approximate_tokens, len, lambda text: len(text.split())])


@settings(max_examples=400, deadline=None)
@given(documents, st.integers(1, 90), st.integers(0, 40), counters)
def test_chunks_are_slices_that_lose_nothing_and_fit(document, size, overlap, count):
    overlap = min(overlap, size - 1)
    chunks = chunk_document(document, size, overlap, count)
    held = set()
    for number, chunk in enumerate(chunks, start=1):
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert count(chunk.text) <= size
        assert (chunk.id, chunk.document, chunk.version) == (f"d#{number}", "d", digest(chunk.text))
        held.update(range(chunk.start, chunk.end))
        in_context(chunk)
    assert all(character.isspace() for place, character in enumerate(document.text) if place not in held)
    assert all(before.start < after.start and before.end < after.end for before, after in pairwise(chunks))
    if overlap == 0:
        assert all(before.end <= after.start for before, after in pairwise(chunks))
    assert chunks == chunk_document(document, size, overlap, count)


@settings(max_examples=150, deadline=None)
@given(documents, st.integers(3, 90), st.data())
def test_all_chunks_together_cover_every_quote(document, size, data):
    words = document.text.split()
    if not words:
        return
    start = data.draw(st.integers(0, len(words) - 1))
    quote = " ".join(words[start : start + data.draw(st.integers(1, 12))])
    assert coverage(chunk_document(document, size), document, quote) == pytest.approx(1)


@pytest.fixture(scope="module")
def topics():
    return from_mapping("pydoc_data.topics", "topics")


@pytest.mark.parametrize(("size", "overlap"), [(40, 0), (120, 0), (120, 30), (100_000, 0)])
def test_the_whole_reference(topics, size, overlap):
    for document in topics.documents:
        chunks = chunk_document(document, size, overlap)
        assert "".join(document.text.split()) == "".join("".join(chunk.text.split()) for chunk in chunks) or overlap
        assert all(approximate_tokens(chunk.text) <= size and chunk.heading for chunk in chunks)


def test_sizes_that_cannot_be():
    for size, overlap in ((0, 0), (10, 10), (10, -1), (-5, 0)):
        with pytest.raises(ConfigurationError, match="cannot be cut"):
            chunk_document(Document("d", "text"), size, overlap)


def cut(text, size=30, overlap=0):
    return [(chunk.heading, chunk.text) for chunk in chunk_document(Document("d", text, "Doc"), size, overlap)]


def test_chunks_end_at_headings_and_carry_their_path():
    text = "Intro.\n\n# A\n\nOne.\n\n## B\n\nTwo.\n\n# C\n\n## D\n\nThree.\n"
    assert cut(text) == [("Doc", "Intro."), ("A", "# A\n\nOne."), ("A > B", "## B\n\nTwo."), ("C > D", "# C\n\n## D\n\nThree.")]


def test_a_heading_is_never_left_alone():
    sentence = "Some words make a sentence here. "
    found = cut("Heading\n=======\n\n" + sentence * 8, size=20)
    assert found[0][1].startswith("Heading\n=======\n\nSome words")
    assert len(found) > 2


def test_code_stays_with_its_introduction():
    prose = "These are seven words of plain prose."
    found = cut(f"{prose}\n\n{prose}\n\nFor example:\n\n   a = 1\n   b = 2\n\n   c = 3\n\n{prose}", size=26)
    assert any(text.startswith("For example:") and text.count("=") == 3 for _, text in found)
    fenced = cut(f"{prose}\n\n{prose}\n\nFor example:\n\n```\na = 1\n\nb = 2\n```\n\n{prose}", size=26)
    assert any(text.startswith("For example:") and text.count("=") == 2 for _, text in fenced)


def test_entries_name_themselves_in_later_chunks():
    body = "   Return a copy of the string with words changed in it.\n\n" * 3
    found = cut(f"Methods\n=======\n\nstr.one()\n\n{body}str.two(x)\n\n{body}", size=20)
    assert [heading for heading, text in found if text.startswith("   ")] == ["Methods > str.one()"] * 2 + ["Methods > str.two(x)"] * 2
    assert all(text.count("Return") == 1 for heading, text in found if text.startswith("str."))


def test_prose_is_no_entry():
    found = cut("This sentence stands above an indented one.\n\n   " + "Deep words follow here now. " * 12, size=20)
    assert {heading for heading, _ in found} == {"Doc"}


def test_lists_are_cut_between_items_and_tables_between_rows():
    items = "\n".join(f"* item number {n} says this and\n  that" for n in range(8))
    assert all(text.startswith("* item") for _, text in cut(items, size=25))
    rows = "+---+---+\n" + "".join(f"| row {n} | some words |\n|  | and more |\n+---+---+\n" for n in range(6))
    assert all(text.count("row") == text.count("and more") for _, text in cut(rows, size=40))


def test_sentences_are_not_cut_at_abbreviations():
    text = "Use a number, e.g. Seven or eight, i.e. Nine. Version 3.8 is old. The rest follows here."
    assert [text for _, text in cut(text, size=19)] == ["Use a number, e.g. Seven or eight, i.e. Nine.", "Version 3.8 is old. The rest follows here."]


def test_overlap_repeats_whole_sentences():
    text = " ".join(f"Sentence number {n} is here." for n in range(12))
    found = chunk_document(Document("d", text), 24, 8)
    for before, after in pairwise(found):
        shared = text[after.start : before.end]
        assert re.fullmatch(r"(Sentence number \d+ is here\.)( Sentence number \d+ is here\.)*", shared)
        assert approximate_tokens(shared) <= 8


def test_context_is_the_heading_and_the_plain_text():
    text = "Top\n***\n\nSub\n---\n\n+---+---+\n| a | b |\n+===+===+\n| 1 | - |\n+---+---+\n"
    (chunk,) = chunk_document(Document("d", text), 100)
    assert in_context(chunk) == "Top > Sub\n| a | b |\n| 1 | - |"
    assert body_of(Chunk("d#9", "d", "# a comment\nx = 1", 0, 17, "Other")) == "# a comment\nx = 1"
    assert in_context(Chunk("d#9", "d", "text", 0, 4)) == "text"


def test_coverage_counts_parts_unions_and_copies():
    document = Document("d", "One two three.\n\nFour five six.")
    first, second = chunk_document(document, 4)
    quote = "three. Four five"
    assert covers(first, document, quote) == pytest.approx(6 / 14)
    assert coverage([first, second], document, quote) == pytest.approx(1)
    assert coverage([], document, quote) == 0
    assert covers(first, document, "not there") == 0
    copy = Chunk("e#1", "e", "One  two\n three.", 5, 21)
    quote = "two three. Four five six."
    assert covers(copy, document, quote) == covers(first, document, quote) == pytest.approx(9 / 21)
    assert covers(Chunk("e#2", "e", "X. One two three. Y.", 0, 20), document, "One two three.") == 1
    assert covers(Chunk("e#3", "e", "Nothing of it", 0, 13), document, quote) == 0


def test_chunks_of_a_changed_document_do_not_claim_its_words():
    stale = Chunk("d#1", "d", "Old words.", 0, 10)
    assert covers(stale, Document("d", "New words here."), "New words") == 0
