"""Imports: real files of every format, hostile ones too; what is refused says where and why, and nothing is lost in silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest

from llmops_nb._imports_promptfoo import literal, shorthand
from llmops_nb.core import ConfigurationError, DataError, Evidence
from llmops_nb.datasets import load_golden, save_golden
from llmops_nb.documents import find_quote, from_folder
from llmops_nb.imports import Imported, import_golden, save_documents


def wrote(path: Path, content: str | bytes | Any) -> Path:
    "A file with that content."
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reasons(imported: Imported) -> list[str]:
    return [f"{refusal.where}: {refusal.why}" for refusal in imported.report.refused]


# Text files


@pytest.mark.parametrize(
    "data",
    [
        b"question,answer\nWo?,Caf\xc3\xa9\n",
        b"\xef\xbb\xbfquestion,answer\r\nWo?,Caf\xc3\xa9\r\n",
        "question;answer\nWo?;Café\n".encode(),
        "question\tanswer\nWo?\tCafé\n".encode("utf-16"),
        b'sep=;\r\n"question";"answer"\r\n"Wo?";"Caf\xc3\xa9"\r\n',
        "\n\nQUESTION , Answer\nWo?,Café\n\n ,\n".encode(),
    ],
)
def test_csv_of_any_country(tmp_path: Path, data: bytes) -> None:
    imported = import_golden(wrote(tmp_path / "q.csv", data))
    assert [(i.question, i.expected) for i in imported.golden] == [("Wo?", "Café")]
    assert (imported.report.rows, imported.report.taken) == (1, 1)


def test_a_wrong_encoding_is_named_not_guessed(tmp_path: Path) -> None:
    file = wrote(tmp_path / "q.csv", "question,answer\nWhere?,x\nWo?,Café\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"q.csv is not UTF-8 text: byte 0xe9 in line 3.*encoding='cp1252'"):
        import_golden(file)
    assert import_golden(file, encoding="cp1252").golden.items[1].expected == "Café"
    with pytest.raises(ConfigurationError, match="no encoding 'cp0'"):
        import_golden(file, encoding="cp0")
    with pytest.raises(DataError, match="is not"):
        import_golden(wrote(tmp_path / "odd.jsonl", b"\xff\xfe{"))
    with pytest.raises(DataError, match="cannot be read"):
        import_golden(wrote(tmp_path / "q.csv.gz", b"not gzip"))


def test_rows_that_slipped_are_refused_with_their_line(tmp_path: Path) -> None:
    text = 'question,answer\nA?,"two\nlines"\nB?,x,y\nC?\n,z\nD?,x\nA?,again\n'
    imported = import_golden(wrote(tmp_path / "q.csv", text))
    assert [i.question for i in imported.golden] == ["A?", "D?"]
    assert reasons(imported) == [
        "q.csv:4: 3 cells where the first line has 2",
        "q.csv:5: 1 cells where the first line has 2",
        "q.csv:6: it has no question",
        "q.csv:8: its question was taken already from q.csv:2",
    ]
    assert imported.report.rows == 6


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "q.csv holds no rows"),
        ("question,answer\n", "holds no rows"),
        ("question,question\na,b\n", "two columns 'question'"),
        ('question,answer\nA?,"open\nB?,x\n', "q.csv:2: not CSV from here on"),
        ("frage,antwort\nWo?,da\n", "No column looks like a question: frage, antwort"),
        ("question,answer\n,x\n", "No item could be made"),
    ],
)
def test_csv_without_items_says_why(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        import_golden(wrote(tmp_path / "q.csv", text))


def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    odd = ["=HYPERLINK(\"http://x\")", "+1 or -1?", "@SUM(A1)", "<script>alert(1)</script>", "a\u2028b\x85c", "\u202eright to left", "x" * 300_000, "'; DROP TABLE items; --"]
    file = tmp_path / "q.csv"
    pd.DataFrame({"id": range(len(odd)), "question": odd, "answer": "y"}).to_csv(file, index=False)
    imported = import_golden(file)
    assert [i.question for i in imported.golden] == odd
    save_golden(imported.golden, tmp_path / "q.jsonl")
    again = load_golden(tmp_path / "q.jsonl")
    assert again.items == imported.golden.items and again.digest == imported.golden.digest
    assert "<script>" not in again._repr_html_() and "<script>" not in import_golden(wrote(tmp_path / "s.csv", "question,<script>\nq,x\n")).report._repr_html_()


def test_jsonl_lines(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "question": "A?", "facts": [["x", "y"], ["z"]], "split": "test", "review": "accepted"},
        {"id": "a", "question": "B?"},
        {"id": "b", "question": "C?", "facts": "one|1; two", "tags": ["t1", "t2"], "origin": "traffic"},
        {"id": "c", "question": ["D?", "and then?"]},
        {"id": "d", "question": [{"role": "system", "content": "s"}, {"role": "user", "content": "E?"}], "answers": ["yes", "yep"]},
        {"id": 7, "question": "F?", "answerable": "unanswerable", "answer": 3.0, "facts": ["x"]},
        {"id": "e", "question": "G?", "answerable": "perhaps"},
        {"id": "f", "question": "H?", "split": "validation", "review": "maybe"},
        {"id": "g", "question": "I?", "split": "train", "facts": [["ok", ""]]},
    ]
    text = "\n".join([*map(json.dumps, lines), "{broken", "[1]", '{"id": "n", "question": NaN}', ""])
    imported = import_golden(wrote(tmp_path / "q.jsonl", text))
    golden = imported.golden
    assert [i.id for i in golden] == ["a", "b", "d", "7"]
    assert (golden["a"].facts, golden["a"].split, golden["a"].review) == ((("x", "y"), ("z",)), "test", "accepted")
    assert (golden["b"].facts, golden["b"].slices, golden["b"].origin, golden["b"].review) == ((("one", "1"), ("two",)), ("t1", "t2"), "traffic", "draft")
    assert golden["d"].question == "E?" and golden["7"].expected == "3" and golden["7"].facts == () and not golden["7"].answerable
    said = "\n".join(reasons(imported))
    for part in ("q.jsonl:2: its id 'a' was taken already from q.jsonl:1", "2 turns", "'perhaps' does not say", "No review state named 'maybe'", "no wording may be empty",
                 "q.jsonl:10: not JSON", "q.jsonl:11: an object is expected, not list", "q.jsonl:12: not JSON"):  # fmt: skip
        assert part in said
    assert len(imported.report.refused) + imported.report.taken == imported.report.rows == 12


def test_long_answers_are_no_facts_and_the_report_shows_columns(tmp_path: Path) -> None:
    rows = [{"query": "A?", "ground_truth": ["a long answer that nobody will ever give word for word", "no"], "meta": {"category": "c", "x": 1}, "output": "model said", "history": ["before"]}]
    imported = import_golden(wrote(tmp_path / "q.json", {"name": 1, "rows": rows}))
    item = imported.golden.items[0]
    assert item.facts == () and item.expected.startswith("a long") and item.slices == ("c",) and item.id.startswith("q-")
    assert imported.report.columns == {"question": "query", "expected": "ground_truth", "slices": "meta.category"}
    assert set(imported.report.unused) == {"meta.x", "output", "history"}
    assert "earlier conversation" in str(imported.report)
    assert import_golden(tmp_path / "q.json", columns={"expected": "output", "slices": ""}).golden.items[0].expected == "model said"


@pytest.mark.parametrize(
    ("columns", "error"),
    [({"questoin": "query"}, "Did you mean 'question'"), ({"question": "qeury"}, "Did you mean 'query'"), ({"slices": "query,nope"}, "No column named 'nope'")],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path: Path, columns: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        import_golden(wrote(tmp_path / "q.csv", "query,answer\nA?,b\n"), columns=columns)


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("q.xyz", b"x", "What is q.xyz\\?"),
        ("q.json", b"{]", "not JSON"),
        ("q.json", b'{"a": [], "b": []}', "holds 2 lists"),
        ("q.parquet", b"PAR1junk", "not a Parquet file"),
        ("q.yaml", b"a: [", "not YAML"),
        ("q.yaml", b"tests: [{vars: {question: So?}}]", "Put the value in quotes"),
        ("q.yaml", b"- a", "not a promptfoo config"),
        ("q.yaml", b"!!python/object/apply:os.system ['x']", "not YAML"),
        ("squad.json", b'{"data": [{"paragraphs": 3}]}', "is not SQuAD JSON"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, data: bytes, error: str) -> None:
    with pytest.raises((DataError, ConfigurationError), match=error):
        import_golden(wrote(tmp_path / name, data))
    with pytest.raises(DataError, match="no file|no corpus|has no"):
        import_golden(tmp_path / "missing.csv")
    with pytest.raises(ConfigurationError, match="No format named 'exel'"):
        import_golden(tmp_path / name, "exel")


def test_a_format_that_cannot_be(tmp_path: Path) -> None:
    file = wrote(tmp_path / "q.csv", "question,answer\nA?,b\n")
    for source, kind in ((file, "pandas"), (pd.DataFrame({"question": ["A?"]}), "csv")):
        with pytest.raises(ConfigurationError, match="Leave the format out"):
            import_golden(source, kind)
    with pytest.raises(ConfigurationError, match="squad has no columns"):
        import_golden(wrote(tmp_path / "s.json", squad()), "squad", {"question": "x"})
    with pytest.raises(ConfigurationError, match="Only question can be named"):
        import_golden(wrote(tmp_path / "p.yaml", "tests: []"), columns={"slices": "x"})
    with pytest.raises(DataError, match=r"p.yaml holds no rows"):
        import_golden(tmp_path / "p.yaml")


# Tables with types


def test_pandas_with_missing_values() -> None:
    frame = pd.DataFrame({
        "id": [1.0, 2.0, None], "question": ["A?", float("nan"), "C?"], "answer": [10, pd.NA, 2.5], "tags": [["x"], None, pd.NA],
        "when": pd.to_datetime(["2026-01-01", None, None]), "answerable": pd.array([True, None, False], dtype="boolean"),
    })  # fmt: skip
    imported = import_golden(frame)
    assert [(i.id[:2], i.question, i.expected, i.slices, i.answerable) for i in imported.golden] == [("1", "A?", "10", ("x",), True), ("q-", "C?", "2.5", (), False)]
    assert reasons(imported) == ["row 1: it has no question"] and "when" in imported.report.unused
    assert import_golden(pyarrow.Table.from_pylist([{"question": "A?", "answer": "b"}])).golden.items[0].expected == "b"
    with pytest.raises(DataError, match="two columns 'a'"):
        import_golden(pd.DataFrame([["x", "y"]], columns=["a", "a"]))
    with pytest.raises(DataError, match="DataFrame holds no rows"):
        import_golden(frame[:0])


def test_parquet_with_nested_columns(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question": "A?", "answers": {"text": ["yes", "yes"], "answer_start": [1, 1]}, "contexts": [{"id": "d1", "text": "It is so."}], "facts": [["so"], ["is"]]},
        {"id": "2", "question": "B?", "answers": {"text": [], "answer_start": []}, "contexts": [], "facts": None},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "q.parquet")
    imported = import_golden(tmp_path / "q.parquet")
    one, two = imported.golden
    assert one.facts == (("so",), ("is",)) and one.evidence == (Evidence("d1", "It is so."),) and one.expected == "yes"
    assert two.expected == "" and two.evidence == () and [d.id for d in imported.documents] == ["d1"]


# BEIR


def beir(folder: Path, qrels: dict[str, str]) -> Path:
    corpus = [{"_id": "d1", "title": "One", "text": "First text."}, {"_id": "d2", "title": "", "text": "Second text."}, {"_id": "d3", "text": "  "}]
    queries = [{"_id": "q1", "text": "One?"}, {"_id": "q2", "text": "Two?"}, {"_id": "q3", "text": "Three?"}, {"_id": "q4", "text": "Four?"}]
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, corpus)).encode()))
    wrote(folder / "queries.jsonl", "\n".join(map(json.dumps, queries)))
    for name, text in qrels.items():
        wrote(folder / name, text)
    return folder


def test_beir_folder(tmp_path: Path) -> None:
    head = "query-id\tcorpus-id\tscore\n"
    folder = beir(tmp_path / "set", {"qrels/test.tsv": f"{head}q1\td1\t1\nq1\td2\t2\nq2\td1\t0\n", "qrels/train.tsv": f"{head}q2\td2\t1\nq3\td3\t1\nq3\tnone\t1\n"})
    imported = import_golden(folder)
    assert [(i.id, i.split, [e.document for e in i.evidence], i.origin) for i in imported.golden] == [("q1", "test", ["d1", "d2"], "beir"), ("q2", "dev", ["d2", "d1"], "beir")]
    assert imported.golden["q1"].evidence == (Evidence("d1"), Evidence("d2", grade=2)) and imported.golden["q2"].evidence[1] == Evidence("d1", grade=0)
    assert reasons(imported) == [f"queries.jsonl:{n}: no document of the corpus is judged relevant to it" for n in (3, 4)]
    assert "1 judgements say that a document is not relevant" in str(imported.report) and "2 relevant documents are missing" in str(imported.report)
    assert imported.documents == () and len(import_golden(folder, documents=True).documents) == 3


def test_beir_without_judgements_says_what_it_costs(tmp_path: Path) -> None:
    imported = import_golden(beir(tmp_path / "set", {}))
    assert len(imported.golden) == 4 and "No qrels files were found" in str(imported.report)
    with pytest.raises(DataError, match="test.tsv:2: a judgement is query, document and a number"):
        import_golden(beir(tmp_path / "bad", {"qrels/test.tsv": "q1\td1\t1\nq1 d2 maybe so\n"}))
    assert import_golden(beir(tmp_path / "trec", {"qrels.tsv": "q1 0 d1 1\n"})).golden["q1"].evidence[0].document == "d1"
    (tmp_path / "trec" / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="trec has no queries.jsonl"):
        import_golden(tmp_path / "trec")


# SQuAD


def squad(*questions: dict[str, Any], context: str = "Rome is old. It has seven hills, e.g. the Palatine. The rest is history.") -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "Rome", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def test_squad_offsets(tmp_path: Path) -> None:
    right, wrong = {"text": "seven hills", "answer_start": 20}, {"text": "seven hills", "answer_start": 3}
    data = squad(
        {"id": "1", "question": "How many hills?", "answers": [right, {"text": "seven", "answer_start": 20}, right]},
        {"id": "2", "question": "What does it have?", "answers": [wrong]},
        {"id": "3", "question": "How young is it?", "answers": [{"text": "nine hundred", "answer_start": 0}]},
        {"id": "4", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": [right]},
        {"id": "5", "question": "Lost?", "answers": []},
        {"id": "1", "question": "Twice?", "answers": [right]},
    )
    imported = import_golden(wrote(tmp_path / "dev-v2.0.json", data))
    golden = imported.golden
    assert golden["1"].facts == (("seven hills", "seven"),) and golden["1"].expected == "seven hills"
    assert golden["1"].evidence[0].quote == golden["2"].evidence[0].quote == "It has seven hills, e.g. the Palatine."
    assert golden["3"].evidence[0].quote == imported.documents[0].text
    assert not golden["4"].answerable and golden["4"].facts == () and golden["4"].evidence == ()
    assert [refusal.why for refusal in imported.report.refused] == ["it has no answer, and is not marked as impossible", "its id '1' was taken already from dev-v2.0.json: question 1"]
    assert "2 answers do not stand where their offset says" in str(imported.report) and "1 answers do not stand in their paragraph at all" in str(imported.report)


def test_documents_written_are_a_corpus_that_has_every_quote(tmp_path: Path) -> None:
    file = wrote(tmp_path / "squad.json", squad({"id": "1", "question": "Hills?", "answers": [{"text": "seven hills", "answer_start": 20}]}))
    imported = save_documents(import_golden(file), tmp_path / "docs")
    corpus = from_folder(tmp_path / "docs")
    evidence = imported.golden["1"].evidence[0]
    assert find_quote(corpus.document(evidence.document).text, evidence.quote)
    with pytest.raises(DataError, match="no documents"):
        save_documents(import_golden(wrote(tmp_path / "q.csv", "question,answer\na,b\n")), tmp_path / "docs")


def test_document_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "document": name, "context": f"text {n}"} for n, name in enumerate(["../../up", "/etc/x", "a/b", "a-b", "", "..", "x" * 300])]
    imported = save_documents(import_golden(wrote(tmp_path / "q.json", rows)), tmp_path / "docs")
    files = sorted(p for p in tmp_path.rglob("*.md"))
    assert len(files) == 7 and all(p.parent == tmp_path / "docs" for p in files)
    assert {e.document for i in imported.golden for e in i.evidence} == {p.name for p in files}


# promptfoo


def promptfoo(folder: Path, config: str, **files: str) -> Imported:
    for name, text in files.items():
        wrote(folder / name.replace("__", "."), text)
    return import_golden(wrote(folder / "promptfooconfig.yaml", config))


def test_promptfoo_assertions_become_what_they_honestly_can(tmp_path: Path) -> None:
    imported = promptfoo(tmp_path, """
tests:
  - vars: {question: 'Capital of France?'}
    assert:
      - {type: contains, value: Paris}
      - {type: icontains-any, value: [river, Seine]}
      - {type: icontains, value: "50 %"}
      - {type: contains-all, value: "a1, b2"}
      - {type: regex, value: "(Paris|Lutetia)"}
      - {type: similar, value: Paris is the capital, threshold: 0.8}
      - {type: equals, value: Paris}
  - vars: {question: Q2}
    assert:
      - {type: regex, value: "\\\\d{4}"}
      - {type: contains, value: "..."}
      - {type: contains, value: "<b>bold</b>"}
      - {type: not-contains, value: sorry}
      - {type: javascript, value: "output.length < 10"}
      - {type: python, value: "file://check.py"}
      - {type: llm-rubric, value: Is polite}
      - {type: latency, threshold: 900}
      - {type: is-json}
      - {type: contains, value: "{{missing}}"}
      - {type: icontains, value: zero, weight: 0}
      - {type: some-new-thing, value: x}
  - vars: {question: Q3}
    assert:
      - {type: assert-set, assert: [{type: contains, value: in set}]}
      - {type: assert-set, threshold: 0.5, assert: [{type: contains, value: half}]}
      - "icontains: short hand"
""")  # fmt: skip
    one, two, three = imported.golden
    assert one.expected == "Paris" and one.facts == (("Paris",), ("river", "Seine"), ("50 %",), ("a1",), ("b2",), ("Paris", "Lutetia"))
    assert two.facts == () and two.expected == ""
    assert three.facts == (("in set",), ("short hand",))
    said = str(imported.report)
    assert "icontains → facts (signs are not checked) (1)" in said
    for kind in ("regex", "contains", "not-contains", "javascript", "python", "llm-rubric", "latency", "is-json", "icontains", "some-new-thing", "assert-set", "similar"):
        assert f"Not mapped: {kind} (" in said
    for text in ("output.length < 10", "Is polite", "sorry", "900", "some-new-thing: x"):
        assert text in two.note
    assert said.count("Not mapped") == 14 and two.review == "draft" and two.origin == "promptfoo"


def test_promptfoo_templates_and_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITY", "Secretville")
    imported = promptfoo(tmp_path, """
env: {TOKEN: sk-aaaa}
providers:
  - id: openai:gpt-5-mini
    config: {apiKey: sk-secret, temperature: 0}
  - anthropic:x
  - azure:y: {config: {apiKey: sk-other}}
prompts: ["Answer: {{question}}", "file://p.txt", {id: named, raw: long}]
redteam: {plugins: [x]}
defaultTest:
  vars: {expected: from default, lang: en}
  assert: [{type: equals, value: "{{expected}}"}]
  options: {transform: output.trim()}
tests:
  - vars: {question: "In {{env.CITY}}?", expected: x}
  - vars: {question: "{{ name }} where?", expected: y}
  - vars: {question: "In {{ lang }}?"}
  - vars: {question: [a, b], lang: [de, fr]}
  - vars: {question: "{% for x in y %}"}
""")  # fmt: skip
    assert [(i.question, i.expected) for i in imported.golden] == [("In en?", "from default"), ("a", "from default"), ("b", "from default")]
    said = str(imported.report) + "".join(i.note + i.question for i in imported.golden)
    assert "Secretville" not in said and "sk-" not in said
    assert "openai:gpt-5-mini, anthropic:x, azure:y" in said and "'Answer: {{question}}', file://p.txt, named" in said
    assert "redteam" in said and "env" in said and "options" in said
    assert sum("only promptfoo can fill" in r for r in reasons(imported)) >= 2


def test_promptfoo_values_multiply(tmp_path: Path) -> None:
    imported = promptfoo(tmp_path, "tests: [{vars: {question: [a, b], lang: [de, fr]}}]")
    assert imported.report.rows == 4 and [(i.question, i.note) for i in imported.golden] == [("a", "lang: de"), ("b", "lang: de")]
    assert len(imported.report.refused) == 2
    with pytest.raises(DataError, match="its lists of values make 1000000 tests"):
        promptfoo(tmp_path, f"tests: [{{vars: {{question: &n {list(range(100))}, b: *n, c: *n}}}}]")
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for hostile in (f"{bomb}tests: [{{vars: {{question: x, y: *i}}}}]", "tests: &t [{vars: {question: *t}}]"):
        with pytest.raises(DataError, match="too large once its aliases"):
            promptfoo(tmp_path, hostile)
    with pytest.raises(DataError, match="only promptfoo can fill"):
        promptfoo(tmp_path, "tests: [{vars: {question: '{{v}}{{v}}', v: '{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}{{v}}'}}]")


def test_promptfoo_files_of_tests(tmp_path: Path) -> None:
    imported = promptfoo(
        tmp_path, """
tests:
  - file://a.csv
  - file://more/*.yaml
  - file://t.jsonl
  - file://gen.py:make
  - path: file://gen.js
  - huggingface://datasets/x
  - file://none.yaml
  - file:///etc/passwd
  - file://../outside.yaml
  - 3
""", a__csv='question,__expected,__expected2,__description,__metadata:category,__metadata:tags[],__threshold\nA?,contains: x,"contains-any: <b>,y",told,geo,"t1,t2",0.5\nB?,plain,,,,,\n',
        **{"more/one__yaml": "- vars: {question: 'C?'}\n  assert: [{type: equals, value: 4}]\n", "more/two__yaml": "vars: file://vars.yaml\n", "vars__yaml": "question: 'D?'\n"},
        t__jsonl='{"vars": {"question": "E?"}, "assert": [{"type": "equals", "value": {"k": 1}}]}\n{"vars": 3}\n',
    )  # fmt: skip
    assert [(i.question, i.expected) for i in imported.golden] == [("A?", ""), ("B?", "plain"), ("C?", "4"), ("D?", ""), ("E?", '{"k":1}')]
    assert imported.golden.items[0].facts == (("x",),) and "promptfoo contains-any: <b>,y" in imported.golden.items[0].note and imported.golden.items[0].slices == ("geo", "t1", "t2") and "told" in imported.golden.items[0].note
    said = str(imported.report)
    for source in ("gen.py:make (a program)", "file://gen.js (a program)", "huggingface://datasets/x (not a file)", "none.yaml (no such file)", "passwd", "outside the config's folder", "__threshold (1)"):
        assert source in said, source
    assert any("not int" in r for r in reasons(imported))


def test_promptfoo_which_variable_is_the_question(tmp_path: Path) -> None:
    config = "tests: [{vars: {text: Hello, language: French}}, {vars: {phrase: Bye, language: Dutch}}]"
    imported = promptfoo(tmp_path, config)
    assert [i.question for i in imported.golden] == ["Hello"] and "language: French" in imported.golden.items[0].note
    assert "which of its variables is the question (phrase, language)" in reasons(imported)[0]
    both = import_golden(tmp_path / "promptfooconfig.yaml", columns={"question": "Say {{text}} in {{language}}"})
    assert [i.question for i in both.golden] == ["Say Hello in French"]
    quoted = promptfoo(tmp_path, "tests: [{vars: {question: 'Hills?', context: Rome has seven hills.}, assert: [{type: context-recall, value: seven}]}]")
    assert quoted.golden.items[0].evidence[0].quote == "Rome has seven hills." and "Not mapped: context-recall" in str(quoted.report)
    assert "no variable 'nope'" in str(pytest.raises(DataError, import_golden, tmp_path / "promptfooconfig.yaml", columns={"question": "nope"}).value)


def test_promptfoo_scenarios_and_templates_of_assertions(tmp_path: Path) -> None:
    imported = promptfoo(tmp_path, """
assertionTemplates: {polite: {type: icontains, value: please}}
scenarios:
  - config: [{vars: {language: Spanish, hello: hola}}, {vars: {language: French, hello: bonjour}}]
    tests:
      - {description: greeting, vars: {input: "Hello in {{language}}"}, assert: [{type: icontains, value: "{{hello}}"}, {$ref: "#/assertionTemplates/polite"}]}
""")  # fmt: skip
    assert [(i.question, i.facts) for i in imported.golden] == [("Hello in Spanish", (("hola",), ("please",))), ("Hello in French", (("bonjour",), ("please",)))]
    assert imported.golden.items[0].note.startswith("greeting")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Paris", "equals", "Paris"), ("contains: Paris", "contains", "Paris"), ("similar(0.8):Hello", "similar", "Hello"), ("fn:x > 1", "javascript", "x > 1"),
        ("grade: nice", "llm-rubric", "nice"), ("not-icontains:a:b", "not-icontains", "a:b"), ("is-json", "is-json", None), ("Note: this", "equals", "Note: this"),
        ("https://x", "equals", "https://x"), ("file://a.js", "javascript", "file://a.js"),
    ],
)  # fmt: skip
def test_shorthand(text: str, kind: str, value: str | None) -> None:
    found = shorthand(text)
    assert (found["type"], found.get("value")) == (kind, value)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("Paris", ["Paris"]), ("a|b c", ["a", "b c"]), ("(?i)yes", ["yes"]), (r"\bno\b", ["no"]), (r".*3\.5.*", ["3.5"]), (r"\d+", None), ("^x$", None), ("a.*b", None), ("(a)(b)", None), ("", None), ("[ab]", None)],
)  # fmt: skip
def test_a_pattern_is_words_only_when_it_is(pattern: str, words: list[str] | None) -> None:
    assert literal(pattern) == words
