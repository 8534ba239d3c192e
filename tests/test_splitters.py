"""Every way of cutting: exact places, nothing lost, no chunk too large."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmops_nb.chunks import approximate_tokens
from llmops_nb.core import ConfigurationError, Document
from llmops_nb.documents import from_mapping
from llmops_nb.embedders import OnnxEmbedder, embedder
from llmops_nb.splitters import CHUNKERS, counter, cut

TEXTS = st.text(st.sampled_from("ab .!?\n#=-*é。字 \t\u00a0"), max_size=300)


def words(text: str) -> int:
    return len(text.split())


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, size=st.integers(1, 12), overlap=st.integers(0, 6), chunker=st.sampled_from(CHUNKERS), count=st.sampled_from([approximate_tokens, words, len]))
def test_places_are_exact_and_nothing_is_lost(text, size, overlap, chunker, count) -> None:
    overlap = min(overlap, size - 1)
    document = Document("d", text, "T")
    chunks = cut(document, chunker, size, overlap, count)
    seen: set[int] = set()
    for number, chunk in enumerate(chunks, start=1):
        assert chunk.id == f"d#{number}" and chunk.text.strip() and chunk.heading is not None
        assert text[chunk.start : chunk.end] == chunk.text
        seen |= set(range(chunk.start, chunk.end))
    lost = "".join(text[at] for at in range(len(text)) if at not in seen)
    assert not lost.strip() or chunker == "structure" and set(lost) <= set("#=-*. \n\t\u00a0!?"), lost
    starts = [chunk.start for chunk in chunks]
    assert starts == sorted(starts)
    if chunker != "structure" and count is not len:  # Characters between words count for len, and are not part of a unit's size
        assert all(count(chunk.text) <= size for chunk in chunks if len(chunk.text) > 1)
    if chunker != "structure":
        assert len(set(starts)) == len(starts)


def test_overlap_repeats_whole_units() -> None:
    text = "One is here. Two is here. Three is here. Four is here."
    chunks = [chunk.text for chunk in cut(Document("d", text), "sentences", 6, 3, words)]
    assert chunks == ["One is here. Two is here.", "Two is here. Three is here.", "Three is here. Four is here."]
    assert [chunk.text for chunk in cut(Document("d", "a b c d e f g"), "tokens", 3, 1, words)] == ["a b c", "c d e", "e f g"]


def test_a_word_longer_than_a_chunk_is_torn() -> None:
    chunks = cut(Document("d", "x" * 100 + " end"), "tokens", 5)
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") == "x" * 100 + "end" and all(approximate_tokens(chunk.text) <= 5 for chunk in chunks)
    assert cut(Document("d", "集合没有顺序。" * 40), "sentences", 5)[0].text


def test_the_page_a_chunk_begins_on() -> None:
    document = Document("d", "First page.\n\nSecond page.\n\nThird page.", metadata={"pages": [0, 13, 27]})
    for chunker in CHUNKERS:
        assert [chunk.page for chunk in cut(document, chunker, 3)] == [1, 2, 3], chunker
    assert [chunk.page for chunk in cut(Document("d", "First page."), "tokens", 3)] == [0]


@pytest.fixture(scope="module")
def bge() -> OnnxEmbedder:
    return embedder()


def test_no_chunk_is_longer_than_the_embedder_says(bge: OnnxEmbedder) -> None:
    count = counter("embedder", bge)
    corpus = from_mapping("pydoc_data.topics", "topics").documents[:20]
    for chunker in CHUNKERS:
        found = [bge.count(chunk.text) for document in corpus for chunk in cut(document, chunker, 60, 10, count)]
        assert max(found) <= 60 and sum(found) / len(found) > 20, chunker


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["C"]), max_size=200))
def test_a_sum_over_words_is_the_tokenizers_count(bge, text) -> None:
    assert counter("embedder", bge)(text) == bge.count(text)


def test_bad_settings(bge: OnnxEmbedder) -> None:
    document = Document("d", "a")
    with pytest.raises(ConfigurationError, match="No chunker named 'token'. Known: 'sentences', 'structure', 'tokens'"):
        cut(document, "token")
    for size, overlap in ((0, 0), (3, 3), (3, -1)):
        with pytest.raises(ConfigurationError, match="cannot be cut"):
            cut(document, "tokens", size, overlap)
    with pytest.raises(ConfigurationError, match="No way to count tokens named 'words'"):
        counter("words")
    with pytest.raises(ConfigurationError, match="no tokenizer"):
        counter("embedder", object.__new__(type("Plain", (), {"name": "plain"})))
