"""Documents come in whole or not at all, and quotes are found where they stand."""

import os
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_nb.core import ConfigurationError, DataError, Document
from llmops_nb.documents import Corpus, find_quote, from_folder, from_mapping, headings_of, lines_of, load_corpus, normalise_space, title_of


def titles(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in headings_of(lines_of(text))]


# -- corpus


def test_digest_covers_ids_and_texts_and_nothing_else():
    one = Corpus("a", (Document("x", "1"), Document("y", "2")))
    assert one.digest == Corpus("b", (Document("x", "1", "Title", {"k": 1}), Document("y", "2"))).digest
    for other in ((Document("x", "1"),), (Document("x", "2"), Document("y", "1")), (Document("x", "12"), Document("y", ""))):
        assert Corpus("a", other).digest != one.digest


def test_a_corpus_needs_text_and_distinct_ids():
    with pytest.raises(DataError, match="no text"):
        Corpus("blank", (Document("x", " \n"),))
    with pytest.raises(DataError, match="two documents with the id 'x'"):
        Corpus("double", (Document("x", "1"), Document("y", "2"), Document("x", "3")))


def test_unknown_document_names_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'while'"):
        from_mapping("pydoc_data.topics", "topics").document("whlie")


# -- connectors


def test_topics_of_this_python():
    corpus = from_mapping("pydoc_data.topics", "topics")
    assert len(corpus) > 70
    assert list(corpus._places) == sorted(corpus._places)
    assert corpus.document("while").title == 'The "while" statement'
    assert all(document.title for document in corpus.documents)


@pytest.mark.parametrize(
    ("module", "attribute", "kind", "says"),
    [
        ("no_such_module_here", "topics", ConfigurationError, "cannot be imported"),
        ("pydoc_data.topics", "topic", ConfigurationError, "Did you mean 'topics'"),
        ("sample_mapping", "numbers", DataError, "not a mapping of ids to texts"),
        ("sample_mapping", "text", DataError, "not a mapping of ids to texts"),
        ("sample_mapping", "empty", DataError, "no text"),
    ],
)
def test_mapping_that_cannot_be_used(module, attribute, kind, says, monkeypatch):
    sample = types.ModuleType("sample_mapping")
    sample.numbers, sample.text, sample.empty = {"a": 1}, "text", {}
    monkeypatch.setitem(sys.modules, "sample_mapping", sample)
    with pytest.raises(kind, match=says):
        from_mapping(module, attribute)


def test_folder_ids_titles_and_line_ends(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_bytes("\ufeff# Büch\r\n\r\nText.\r\n".encode())
    (tmp_path / "deep" / "a.md").write_text("no heading")
    (tmp_path / "c.txt").write_text("other")
    corpus = from_folder(tmp_path)
    assert [(d.id, d.title) for d in corpus.documents] == [("b.md", "Büch"), ("deep/a.md", "a")]
    assert corpus.document("b.md").text == "# Büch\n\nText.\n"
    assert [d.id for d in from_folder(tmp_path, "*.txt").documents] == ["c.txt"]


def test_folder_digest_does_not_depend_on_the_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("text")
    assert from_folder(tmp_path / "one").digest == from_folder(tmp_path / "two").digest


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "good.md").write_text("text")
    bad = tmp_path / "bad.md"
    bad.write_bytes(b"fine so far \xff\xfe")
    with pytest.raises(DataError, match=r"bad\.md is not UTF-8 text: byte 0xff at 12"):
        from_folder(tmp_path)
    bad.unlink()
    bad.symlink_to(tmp_path / "nowhere.md")
    with pytest.raises(DataError, match=r"bad\.md is not a file"):
        from_folder(tmp_path)
    bad.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(bad)
        with pytest.raises(DataError, match=r"bad\.md is not a file"):
            from_folder(tmp_path)


def test_nothing_outside_the_folder(tmp_path):
    (tmp_path / "secret.md").write_text("secret")
    inside = tmp_path / "docs"
    inside.mkdir()
    (inside / "link.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(DataError, match=r"link\.md lies outside"):
        from_folder(inside)
    (inside / "link.md").unlink()
    (inside / "loop").symlink_to(inside)
    (inside / "a.md").write_text("text")
    assert {d.id for d in from_folder(inside).documents} == {"a.md"}
    with pytest.raises(DataError, match=r"secret\.md lies outside"):
        from_folder(inside, "../*.md")


@pytest.mark.parametrize("glob", ["", "/etc/*"])
def test_patterns_that_cannot_be_used(tmp_path, glob):
    with pytest.raises(ConfigurationError, match="cannot be used"):
        from_folder(tmp_path, glob)


def test_folders_without_anything(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        from_folder(tmp_path / "none")
    with pytest.raises(DataError, match="No file in"):
        from_folder(tmp_path)
    (tmp_path / "blank.md").write_text("\n")
    with pytest.raises(DataError, match="no text"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    "spec",
    [{}, {"mapping": "pydoc_data.topics"}, {"glob": "*.md"}, {"folder": ""}, {"folder": 3}, {"folder": "a", "mapping": "b:c"}, {"mapping": "b:c", "glob": "*"}, {"maping": "a:b"}],
)
def test_corpus_sections_that_say_nothing_usable(spec, tmp_path):
    with pytest.raises(ConfigurationError, match="^corpus: "):
        load_corpus(spec, tmp_path)


def test_corpus_section_starts_at_its_root(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("text")
    assert load_corpus({"folder": "docs"}, tmp_path).name == "docs"
    assert load_corpus({"mapping": "pydoc_data.topics:topics"}, tmp_path).digest == from_mapping("pydoc_data.topics", "topics").digest


# -- headings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One\n\n## Two ##\ntext\n### C# #\n", [(1, "One"), (2, "Two"), (3, "C#")]),
        ("One\n***\n\nTwo\n===\n\nThree\n---\n\nFour\n===\n", [(1, "One"), (2, "Two"), (3, "Three"), (2, "Four")]),
        ("====\nOver\n====\n\nUnder\n=====\n", [(1, "Over"), (2, "Under")]),
        ("text\n\n-----\n\nmore", []),
        ("a line\nof prose\n-----\n", []),
        ("   indented\n   ========\n", []),
        ("```\n# comment\n\nx\n===\n```\n# Real\n", [(1, "Real")]),
        ("Title\n~~~~~\n\n~~~\n# comment\n~~~\n\nNext\n~~~~\n", [(1, "Title"), (1, "Next")]),
        ("---\ntitle: x\ntags: y\n---\n# Real\n", [(1, "Real")]),
        ("---\n\n# Real\n", [(1, "Real")]),
        ("#no space\n#\n", []),
        ("=====\n=====\n", []),
    ],
)
def test_headings(text, expected):
    assert titles(text) == expected


@given(st.text(alphabet=st.sampled_from("ab #=-~`\n\r\t\x0b\u2028é")))
def test_lines_never_lose_a_character(text):
    lines = lines_of(text)
    starts = [line.start for line in lines] + [len(text)]
    assert all(text[start:end].rstrip() == line.text for line, start, end in zip(lines, starts, starts[1:], strict=False))
    assert starts == sorted(set(starts)) or text == ""
    assert isinstance(title_of(text), str)


# -- quotes


@given(st.text(alphabet="ab.(*\\ \n\t\u00a0", min_size=1), st.integers(0, 40), st.integers(1, 20))
def test_every_quote_of_a_text_is_found_in_it(text, start, length):
    quote = text[start : start + length]
    found = find_quote(text, normalise_space(quote))
    if not quote.split():
        assert found is None
    else:
        assert normalise_space(text[slice(*found)]) == normalise_space(quote)
        assert found == find_quote(text, quote)


def test_quotes_are_exact_words():
    text = "The value\n   of a+b is   (c)."
    assert text[slice(*find_quote(text, "of a+b is (c)"))] == "of a+b is   (c)"
    assert find_quote(text, "the value") is None
    assert find_quote(text, "of ab is") is None
    assert find_quote(text, "") is None


def test_long_quotes_are_fast():
    text = "word " * 20_000 + "end"
    assert find_quote(text, "word " * 2_000 + "end") is not None
    assert find_quote(text, "word " * 2_000 + "start") is None
