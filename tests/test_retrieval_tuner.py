"""RetrievalTuner shows what the application would find, spends nothing unasked, and writes only what the evidence supports or a person insists on."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import browser_page, idle, lab, menu, needs_chromium, notebook, shot
from llmops_nb import _retrieval_tuner_desk as desk
from llmops_nb import _retrieval_tuner_shown as shown
from llmops_nb.app import load_app, read_definition
from llmops_nb.core import Chunk, ConfigurationError, DataError, Document, Evidence, Item, Passage, RunError
from llmops_nb.datasets import load_golden
from llmops_nb.documents import Corpus
from llmops_nb.golden_changes import seal
from llmops_nb.retrieval_tuner import RetrievalTuner

HOSTILE = '</td><script>alert("x")</script><img src=x onerror=alert(1)>'
BIRDS = ["robin", "wren", "owl", "heron", "swift", "kestrel", "dipper", "crane", "plover", "siskin", "bittern", "curlew"]
APP = """# Birds of one valley
name: birds
prompt: answer.md
corpus: {{folder: docs}}
retrieval:
  mode: {mode}          # how to search
  chunk_size: {size}
  top_k: 3
model: {{alias: echo}}
"""


def project(root: Path, mode: str = "bm25", size: int = 120, hostile: bool = False) -> Path:
    "A valley with a page about each bird and one that names them all, questions about them, and two that have the last word."
    (root / "settings.ini").write_text("[llmops]\nmodel = echo\n")
    home = root / "experiments" / "birds"
    (home / "docs").mkdir(parents=True)
    (home / "golden").mkdir()
    (home / "app.yaml").write_text(APP.format(mode=mode, size=size))
    (home / "answer.md").write_text("---\nvariables: {question: str, passages: list}\n---\n[user]\n{% for p in passages %}{{ p }}{% endfor %}{{ question }}\n")
    rows = []
    for n, bird in enumerate(BIRDS):
        nest = f"The {bird} builds its nest from {['moss', 'mud', 'reeds'][n % 3]} at the {['river', 'barn', 'ridge'][n % 3]} in week {n + 10}. Ivy hides it until the young have flown, and nobody may come near it for that time."
        song = f"In the evening a {bird} sings from the {['gate', 'roof', 'alder'][n % 3]}, and {BIRDS[(n + 1) % 12]} and {BIRDS[(n + 2) % 12]} answer. Before the next rain all of them fall silent, and a warden writes down the hour."
        (home / "docs" / f"{bird}.md").write_text(f"# The {bird}\n\n{nest}\n\n## Song\n\n{song}\n\n{HOSTILE if hostile else 'Nobody counts them.'}\n")
        rows.append({"id": f"nest-{bird}", "question": f"From what does the {bird} build its nest?", "expected": nest, "evidence": [{"document": f"{bird}.md", "quote": nest}], "slices": ["nest"], "split": "test" if n > 9 else "dev"})
        rows.append({"id": f"song-{bird}", "question": f"Who answers when a {bird} sings in the evening?", "evidence": [{"document": f"{bird}.md", "quote": song}], "slices": ["song"]})
    rows.append({"id": "none", "question": "What does a gull eat?", "answerable": False})
    everything = " ".join(f"{bird}, nest, week {n}." for n, bird in enumerate(BIRDS))
    (home / "docs" / "list.md").write_text(f"# All of them\n\n{everything}\n")
    if hostile:
        rows[0] |= {"id": HOSTILE, "question": f"From what does the robin build its nest? {HOSTILE}", "slices": [HOSTILE]}
    (home / "golden" / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def do(widget: RetrievalTuner, command: str, /, **arguments: object) -> dict[str, Any]:
    "A message that must not fail, and all that it set going; the body that follows."
    answer = widget.handle({"do": command, **arguments})
    assert answer["problem"] == "", answer["problem"]
    widget.wait(120)
    return dict(widget.snapshot()["body"])


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A project whose app searches by meaning, its index built: for tests that write nothing to the app."
    home = project(tmp_path_factory.mktemp("dense"), "dense")
    load_app(home)
    return home


@pytest.mark.parametrize(
    "turned",
    [{}, {"mode": "bm25"}, {"mode": "fused"}, {"mode": "fused", "depth": 5, "top_k": 6}, {"rerank": "ms-marco-minilm-l-12", "candidates": 4}, {"top_k": 12},
     {"mode": "fused", "fusion": "convex", "weight": 0.2}, {"mode": "fused", "rrf_k": 2, "weight": 0.9}, {"mmr": 0.3, "candidates": 8}, {"expand": 1}, {"merge": True}, {"parent": "section"}],
    ids=str,
)  # fmt: skip
def test_what_is_shown_is_what_the_app_retrieves(dense: Path, tmp_path: Path, turned: dict[str, Any]) -> None:
    widget = RetrievalTuner(dense, path=tmp_path / "state.json")
    for name, value in turned.items():
        do(widget, "set", name=name, value=value)
    app = load_app(dense, **turned)
    assert app.retriever is not None
    for question in ("From what does the owl build its nest?", "whose song is heard at dusk"):
        body = do(widget, "ask", text=question)
        if body["can_compute"]:
            body = do(widget, "compute")
        found = app.retriever(question, app.definition.retrieval.top_k)
        read = [row for row in body["now"]["rows"] if row["read"]]
        assert [row["id"] for row in read] == [p.chunk.id for p in found]
        assert ["".join(text for _, text in row["text"]) for row in read] == [p.chunk.text for p in found]
        assert [row["place"] for row in body["now"]["rows"]] == list(range(1, len(body["now"]["rows"]) + 1))
        assert [{s["stage"] for s in row["scores"]} for row in read] == [set(p.scores) for p in found]
        assert len({row["id"] for row in body["now"]["rows"]}) == len(body["now"]["rows"])


def test_the_words_that_hold_the_answer_are_marked(tmp_path: Path) -> None:
    widget = RetrievalTuner(project(tmp_path))
    body = do(widget, "pick", item="nest-owl")
    item = widget.golden["nest-owl"]
    assert body["query"]["text"] == item.question and body["query"]["split"] == "dev"
    first = next(row for row in body["now"]["rows"] if row["kind"] == "evidence")
    assert [text for kind, text in first["text"] if kind == "hit"] == [item.evidence[0].quote] and first["relevance"] == "holds the evidence"
    body = do(widget, "ask", text=item.question + " Or not?")
    assert body["query"]["item"] == "" and "nobody has said" in body["query"]["note"] and {row["kind"] for row in body["now"]["rows"]} == {""}


def test_evidence_across_two_chunks_is_marked_in_both(tmp_path: Path) -> None:
    text = "One two three four. Five six seven eight. Nine ten."
    corpus = Corpus("c", (Document("d", text),))
    item = Item("i", "?", evidence=(Evidence("d", "three four. Five six"),))
    left, right = (Passage(Chunk("d#1", "d", text[:19], 0, 19), 1.0), Passage(Chunk("d#2", "d", text[20:41], 20, 41), 0.5))
    rest = Passage(Chunk("d#3", "d", text[42:], 42, len(text)), 0.1)
    assert [left.chunk.text[a:b] for a, b in shown.spans(left, item, corpus)] == ["three four."]
    assert [right.chunk.text[a:b] for a, b in shown.spans(right, item, corpus)] == ["Five six"]
    assert shown.relevance(left, item, corpus) == ("evidence", "holds 59% of the evidence")
    assert shown.spans(rest, item, corpus) == [] and shown.relevance(rest, item, corpus) == ("document", "same document")
    copy = Passage(Chunk("e#1", "e", f"A copy says: three  four. Five six, {text[42:]}", 0, 50), 0.1)
    assert [copy.chunk.text[a:b] for a, b in shown.spans(copy, item, corpus)] == ["three  four. Five six"], "by its words, white space aside"


chunks = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(1, 20)), unique=True, max_size=7).map(
    lambda found: [Passage(Chunk(f"{d}#{s}-{n}", d, "x" * n, s, s + n), -float(place)) for place, (d, s, n) in enumerate(found)]
)


@settings(max_examples=60, deadline=None)
@given(chunks, chunks)
def test_a_passage_moves_from_one_place(now: list[Passage], before: list[Passage]) -> None:
    found = shown.matched(now, before)
    places = [place for place in found if place is not None]
    assert len(places) == len(set(places)) and all(before[m].chunk.document == now[n].chunk.document for n, m in enumerate(found) if m is not None)
    assert shown.matched(now, now) == list(range(len(now)))
    same = {(p.chunk.document, p.chunk.start, p.chunk.end): n for n, p in enumerate(before)}
    assert all(found[n] == same[key] for n, p in enumerate(now) if (key := (p.chunk.document, p.chunk.start, p.chunk.end)) in same)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_marks_lose_no_character(text: str, places: list[tuple[int, int]]) -> None:
    kept: list[tuple[int, int]] = []
    for a, b in sorted((min(p), min(max(p), len(text))) for p in places):
        if a < b and (not kept or a > kept[-1][1]):
            kept.append((a, b))
    found, more = shown.pieces(text, kept)
    assert "".join(part for _, part in found) == text and more == "" and [part for kind, part in found if kind == "hit"] == [text[a:b] for a, b in kept]


def test_a_long_passage_is_cut_around_what_is_marked() -> None:
    text = "x" * 10_000 + "HIT" + "y" * 10_000
    found, more = shown.pieces(text, [(10_000, 10_003)])
    assert ("hit", "HIT") in found and sum(len(part) for _, part in found) == shown.TEXT and more == f"{len(text) - shown.TEXT:,} more characters"


def test_moves_against_a_pinned_baseline(tmp_path: Path) -> None:
    widget = RetrievalTuner(project(tmp_path))
    body = do(widget, "pick", item="song-wren")
    assert {row["move"] for row in body["now"]["rows"]} == {"="} and body["base"]["same"]
    before = [row["id"] for row in body["base"]["rows"]]
    body = do(widget, "set", name="chunk_size", value=20)
    assert [row["id"] for row in body["base"]["rows"]] == before, "the baseline stays"
    moves = {row["move"] for row in body["now"]["rows"]}
    assert "new" in moves and len(moves) > 1
    gone = [row for row in body["base"]["rows"] if row["gone"]]
    matched = sum(row["move"] != "new" for row in body["now"]["rows"])
    assert len(gone) == len(before) - matched and all(row["went"] == "gone" for row in gone)
    body = do(widget, "pin")
    assert {row["move"] for row in body["now"]["rows"]} == {"="} and body["base"]["own"] and body["base"]["title"] == "chunk_size 20"
    body = do(widget, "reset", to="app")
    assert body["now"]["title"] == "the app as it is" and body["base"]["title"] == "chunk_size 20"
    assert do(widget, "reset", to="baseline")["now"]["title"] == "chunk_size 20"
    assert not do(widget, "pin", what="app")["base"]["own"]


def test_items_with_the_last_word_are_not_for_tuning(tmp_path: Path) -> None:
    home = project(tmp_path)
    path = home / "golden" / "birds.jsonl"
    seal(load_golden(path), path, "the last word", who="me")
    path.write_text(path.read_text().replace('"split": "test"', '"split": "dev"'))  # Moved out, but sealed
    widget = RetrievalTuner(home)
    assert "2 are sealed" in widget.body()["golden"] and len(widget.golden) == 23
    assert {"nest-bittern", "nest-curlew"} & {item["id"] for item in widget.body()["items"]} == set()
    assert "No item to tune by named 'nest-curlew'" in widget.handle({"do": "pick", "item": "nest-curlew"})["problem"]
    do(widget, "evaluate")
    measured = next(iter(widget.measured.values()))
    assert len(measured.scores.values) == 23 and not {"nest-bittern", "nest-curlew"} & measured.scores.values.keys()


def test_embeddings_are_made_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LIVE", 0.0)
    widget = RetrievalTuner(project(tmp_path, "dense"))
    body = do(widget, "pick", item="nest-owl")
    vectors = widget.settings.state / "vectors.sqlite"

    def known() -> int:
        with sqlite3.connect(vectors) as connection:
            return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])

    assert body["need"].startswith("Needs ") and "new embeddings, about" in body["need"] and body["can_compute"] and body["now"]["rows"] == []
    promised, before = int(body["need"].split()[1]), known()
    assert before <= 9, "a few are tried to see how long one takes, and kept"
    body = do(widget, "compute")
    assert body["now"]["rows"] and not body["need"]
    assert known() == before + promised + 1, "those that were promised, and that of the question"
    body = do(widget, "set", name="chunk_size", value=30)
    assert body["can_compute"] and body["base"]["rows"] and not body["now"]["rows"], "the baseline is still there"
    assert do(widget, "set", name="top_k", value=5)["can_compute"]
    body = do(widget, "set", name="chunk_size", value=120)
    assert body["now"]["rows"] and not body["need"], "what is at hand is live"


def test_stopping_keeps_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LIVE", 0.0)
    home = project(tmp_path, "dense")
    for n in range(40):
        (home / "docs" / f"note{n}.md").write_text("".join(f"# Note {n}.{m}\n\nOn day {n} the warden saw {m} birds.\n\n" for m in range(8)))
    widget = RetrievalTuner(home)
    do(widget, "pick", item="nest-owl")
    widget.handle({"do": "compute"})
    while widget.task is not None and widget.task.status == "running" and not widget.task.done:
        time.sleep(0.01)
    widget.handle({"do": "stop"})
    widget.wait(60)
    assert widget.task is not None and widget.task.status == "stopped"
    body = widget.snapshot()["body"]
    assert body["can_compute"] and not body["now"]["rows"]
    do(widget, "set", name="top_k", value=4)
    left = int(widget.snapshot()["body"]["need"].split()[1].replace(",", ""))
    assert 0 < left <= 360 - 64
    assert do(widget, "compute")["now"]["rows"]


def test_a_move_takes_less_than_a_tenth_of_a_second(dense: Path, tmp_path: Path) -> None:
    widget = RetrievalTuner(dense, path=tmp_path / "state.json")
    do(widget, "pick", item="nest-owl")
    do(widget, "set", name="mode", value="fused")
    took = []
    for depth in range(10, 40):
        start = time.perf_counter()
        assert widget.handle({"do": "set", "name": "depth", "value": depth})["body"]["now"]["rows"]
        took.append(time.perf_counter() - start)
    assert sorted(took)[len(took) // 4] < 0.1, "a quarter of them, because other tests run at the same time"


def test_over_the_golden_set_and_after_the_kernel(tmp_path: Path) -> None:
    home = project(tmp_path)
    widget = RetrievalTuner(home)
    do(widget, "set", name="chunk_size", value=20)
    body = do(widget, "evaluate")
    found = body["measured"]
    assert [row["name"] for row in found["rows"]] == ["baseline", "these settings"] and found["outcome"] and found["sentence"]
    entry = widget.state.tried[-1]
    assert found["counts"] == [len(entry.gained), len(entry.lost)] == list(entry.changed) and sum(found["counts"]) > 0
    for item, (before, after) in {**entry.gained, **entry.lost}.items():
        assert before != after and (item in entry.gained) == (after > before)
    lost_or_gained = next(iter({**entry.gained, **entry.lost}))
    assert do(widget, "pick", item=lost_or_gained)["query"]["item"] == lost_or_gained
    again = RetrievalTuner(home)
    assert again.state == widget.state and again.body()["measured"]["sentence"] == found["sentence"]
    assert [row["name"] for row in again.body()["tried"]] == ["chunk_size 20", "the app as it is"]
    do(again, "set", name="chunk_size", value=40)
    assert "not been run against this baseline" in again.body()["measured"]["sentence"]
    body = do(again, "evaluate")
    assert "After correction for the 2 settings" in body["measured"]["corrected"] and body["looks"].startswith("2 settings were tried on these")
    for size in (50, 60, 70):
        do(again, "set", name="chunk_size", value=size)
        body = do(again, "evaluate")
    assert "confirm a winner on the test split" in body["looks"]
    assert do(again, "restore", number=1)["now"]["title"] == "chunk_size 20"


def test_scores_of_other_questions_are_not_compared(tmp_path: Path) -> None:
    home = project(tmp_path)
    do(widget := RetrievalTuner(home), "set", name="chunk_size", value=20)
    do(widget, "evaluate")
    path = home / "golden" / "birds.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[2:]))
    again = RetrievalTuner(home)
    assert again.body()["measured"] is None and {row["outcome"] for row in again.body()["tried"]} == {"of other questions or documents"}


def test_app_yaml_changes_with_evidence_or_on_demand(tmp_path: Path) -> None:
    home = project(tmp_path, size=20)
    widget = RetrievalTuner(home)
    before = (home / "app.yaml").read_text()
    do(widget, "set", name="chunk_size", value=30)
    offer = do(widget, "offer", what="app")["offer"]
    assert not offer["supported"] and "have not been run" in offer["why"] and ["added", "  chunk_size: 30"] in offer["lines"] and (home / "app.yaml").read_text() == before
    assert "Nothing was written. These settings have not been run" in widget.handle({"do": "make"})["problem"]
    do(widget, "evaluate")
    if widget.state.tried[-1].outcome != "better":
        assert "does not support it" in widget.handle({"do": "make"})["problem"] and (home / "app.yaml").read_text() == before
    (home / "app.yaml").write_text(before + "description: somebody's\n")
    assert "no longer what was shown" in widget.handle({"do": "make", "anyway": True})["problem"]
    body = do(widget, "make", anyway=True)
    assert (definition := read_definition(home / "app.yaml")).retrieval.chunk_size == 30 and definition.description == "somebody's"
    assert body["now"]["title"] == "the app as it is" and not body["changed"] and "# how to search" in (home / "app.yaml").read_text()


def test_a_supported_change_is_written(tmp_path: Path) -> None:
    home = project(tmp_path, size=20)
    lines = [json.loads(line) for line in (home / "golden" / "birds.jsonl").read_text().splitlines()]
    (home / "golden" / "birds.jsonl").write_text("".join(json.dumps({**line, "split": "dev"}) + "\n" for line in lines))
    widget = RetrievalTuner(home, measure="recall@1")
    do(widget, "set", name="mode", value="bm25")
    do(widget, "set", name="chunk_size", value=120)
    body = do(widget, "evaluate")
    assert body["measured"]["outcome"] == "better", "what a chunk of 20 tokens cuts apart, one of 120 holds together"
    offer = do(widget, "offer", what="app")["offer"]
    assert offer["supported"]
    do(widget, "make")
    assert read_definition(home / "app.yaml").retrieval.chunk_size == 120


def test_what_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    widget = RetrievalTuner(project(tmp_path))
    do(widget, "pick", item="nest-owl")
    before = widget.state
    for message, problem in [
        ({"do": "set", "name": "chunk_sise", "value": 3}, "Did you mean 'chunk_size'"),
        ({"do": "set", "name": "chunk_size", "value": 0}, "chunk_size is 0"),
        ({"do": "set", "name": "chunk_size", "value": "many"}, "chunk_size"),
        ({"do": "set", "name": "mode", "value": "magic"}, "No retrieval mode named 'magic'"),
        ({"do": "set", "name": "overlap", "value": 120}, "overlap"),
        ({"do": "set", "name": "where", "value": "{colour: red}"}, "colour"),
        ({"do": "set", "name": "where", "value": "{colour"}, "no value for where"),
        ({"do": "ask", "text": "x" * 2001}, "2,000 are taken"),
        ({"do": "pick", "item": "nest-dodo"}, "No item to tune by named 'nest-dodo'"),
        ({"do": "restore", "number": 0}, "no number 0"),
        ({"do": "reset", "to": "start"}, "No place to go back to named 'start'"),
        ({"do": "pin", "what": "that"}, "No thing to pin named 'that'"),
        ({"do": "offer", "what": "plan"}, "No change named 'plan'"),
        ({"do": "make"}, "no longer what was shown"),
    ]:
        assert problem in widget.handle(message)["problem"], message
        assert {**vars(widget.state), "offered": ""} == vars(before)


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    home = project(tmp_path)
    app = load_app(home)
    with pytest.raises(ConfigurationError, match="does not say where its golden sets are"):
        RetrievalTuner(app)
    widget = RetrievalTuner(app, home / "golden" / "birds.jsonl", path=tmp_path / "state.json", settings=None)
    do(widget, "set", name="top_k", value=5)
    assert "given as a value" in widget.handle({"do": "offer", "what": "app"})["problem"]
    (home / "app.yaml").write_text("name: birds\nprompt: say.md\n")
    (home / "say.md").write_text("---\nvariables: {question: str}\n---\n[user]\n{{ question }}\n")
    with pytest.raises(ConfigurationError, match="has no corpus"):
        RetrievalTuner(home)
    with pytest.raises(DataError):
        RetrievalTuner(home, home / "golden" / "none.jsonl", app.corpus)
    assert RetrievalTuner(home, corpus=app.corpus).desk.corpus is app.corpus


def test_a_filter_keeps_what_it_says(tmp_path: Path) -> None:
    home = project(tmp_path)
    found = load_app(home).corpus
    assert found is not None
    documents = tuple(replace(d, metadata={"tenant": "acme" if n % 2 else "umbrella", "year": 2020 + n % 3}) for n, d in enumerate(found.documents))
    widget = RetrievalTuner(home, corpus=Corpus("birds", documents))
    body = do(widget, "pick", item="nest-owl")
    fields = {field["name"]: field["values"] for field in body["fields"]}
    assert [value["text"] for value in fields["tenant"]] == ["umbrella", "acme"] and {value["text"] for value in fields["year"]} == {"2020", "2021", "2022"}
    of = {d.id: d.metadata for d in documents}
    assert len({of[row["document"]]["tenant"] for row in body["now"]["rows"]}) == 2
    body = do(widget, "set", name="where", value=fields["tenant"][1]["where"])
    assert {of[row["document"]]["tenant"] for row in body["now"]["rows"]} == {"acme"}
    body = do(widget, "set", name="where", value="{year: {gte: 2021}, tenant: acme}")
    assert {(of[row["document"]]["tenant"], of[row["document"]]["year"] > 2020) for row in body["now"]["rows"]} == {("acme", True)}
    assert "gone" in {row["went"] for row in body["base"]["rows"]}
    assert "colour" in widget.handle({"do": "set", "name": "where", "value": "{colour: red}"})["problem"]
    assert do(widget, "set", name="where", value="")["now"]["title"] == "the app as it is"


def test_a_model_is_asked_when_somebody_asks_for_it(tmp_path: Path) -> None:
    widget = RetrievalTuner(project(tmp_path))
    do(widget, "pick", item="nest-owl")
    body = do(widget, "set", name="rewrite", value="rewrite")
    assert "needs echo to word the question anew" in body["now"]["says"] and body["can_compute"] and not body["now"]["rows"]
    assert body["spends"].startswith("Asks echo to word 23 questions anew")
    body = do(widget, "compute")
    assert body["now"]["rows"] and not body["need"]
    assert do(widget, "set", name="top_k", value=5)["now"]["rows"], "asked once"


def test_an_embedder_that_is_not_there_is_told(tmp_path: Path) -> None:
    home = project(tmp_path)
    (home / "app.yaml").write_text((home / "app.yaml").read_text().replace("mode: bm25", "embedder: nobody\n  mode: fused"))
    widget = RetrievalTuner(home)
    body = do(widget, "pick", item="nest-owl")
    assert "No embedder named 'nobody'" in body["need"] and body["controls"]
    assert do(widget, "set", name="mode", value="bm25")["now"]["rows"]


def test_a_failing_part_is_told_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widget = RetrievalTuner(project(tmp_path))
    do(widget, "pick", item="nest-owl")

    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("a retriever's own mistake")

    monkeypatch.setattr(widget.desk.stages, "retriever", broken)
    body = do(widget, "set", name="top_k", value=9)
    assert body["now"]["says"] == "ZeroDivisionError: a retriever's own mistake" and body["controls"] and body["base"]["rows"]
    widget.handle({"do": "evaluate"})
    with pytest.raises(RunError, match="own mistake"):
        widget.wait(60)
    assert widget.snapshot()["task"]["status"] == "failed"


def test_nothing_becomes_markup(tmp_path: Path) -> None:
    widget = RetrievalTuner(project(tmp_path, hostile=True))
    do(widget, "pick", item=HOSTILE)
    do(widget, "set", name="chunk_size", value=30)
    do(widget, "evaluate")
    seen = widget.still()
    assert set(re.findall(r"</?(\w+)", seen)) <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert html.escape(HOSTILE) in seen


def test_an_executed_notebook_keeps_the_ranking(tmp_path: Path) -> None:
    import papermill

    project(tmp_path)
    first = "from llmops_nb.retrieval_tuner import RetrievalTuner\n\ntuner = RetrievalTuner('experiments/birds')\ntuner"
    later = "tuner.handle({'do': 'pick', 'item': 'nest-owl'})\ntuner.wait()\ntuner.handle({'do': 'set', 'name': 'chunk_size', 'value': 200})\ntuner.wait()\ntuner.handle({'do': 'evaluate'})\ntuner.wait()"
    made = papermill.execute_notebook(str(notebook(tmp_path / "in.ipynb", first, later)), str(tmp_path / "out.ipynb"), progress_bar=False, cwd=str(tmp_path))
    kept = made.cells[0].outputs[0]["data"]
    assert "holds the evidence" in kept["text/html"] and "Over the golden set" in kept["text/html"] and "application/vnd.jupyter.widget-view+json" in kept


@pytest.mark.browser
@needs_chromium
@pytest.mark.timeout(300)
def test_retrieval_is_tuned_in_jupyterlab(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    home, errors = project(tmp_path, "fused", size=20), list[str]()
    load_app(home)  # What another day computed
    load_app(home, chunk_size=120)
    notebook(tmp_path / "tune.ipynb", "from llmops_nb import _retrieval_tuner_desk\nfrom llmops_nb.retrieval_tuner import RetrievalTuner\n\n_retrieval_tuner_desk.LIVE = 0.0  # So that every embedding has to be asked for\nRetrievalTuner('experiments/birds', measure='recall@1')")
    with lab(tmp_path, tmp_path / "home") as address, browser_page(address.format("tune.ipynb"), errors, height=1500, patience=60_000) as page:
        menu(page, "Run", "Run All Cells")
        widget = page.locator(".llmops-widget")
        now, base = widget.locator(".rt-now .rt-row"), widget.locator(".rt-base .rt-row")
        widget.locator(".rt-query").fill("where does the wren nest")
        expect(now.first).to_contain_text("wren.md")
        expect(widget.locator(".rt-row.evidence")).to_have_count(0)  # Nobody has said what is relevant
        widget.get_by_label("Question of the golden set").select_option("nest-wren")
        expect(widget.locator(".rt-now .rt-row.evidence mark").first).to_contain_text("The wren builds its nest from mud")
        before = now.all_inner_texts()
        weight = widget.get_by_label("Weight of meaning")
        weight.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        expect(widget.locator(".rt-now h4")).to_contain_text("weight 0.9")
        expect(widget.locator(".rt-now .rt-score").first).to_be_visible()
        assert now.all_inner_texts() != before and page.evaluate("document.activeElement.type") == "range"
        widget.get_by_role("button", name="As the app is").click()
        size = widget.get_by_label("Chunk size")
        size.fill("120")
        expect(widget.locator(".rt-now h4")).to_contain_text("chunk_size 120")
        expect(widget.locator(".rt-base .rt-row.gone").first).to_be_visible()
        widget.get_by_role("button", name="Run over the golden set").click()
        expect(widget.locator(".rt-verdict")).to_contain_text("better")
        expect(widget.locator(".rt-item").first).to_be_visible()
        item = widget.locator(".rt-item").nth(2)
        name = item.locator("bdi").inner_text()
        item.click()
        expect(item).to_have_attribute("aria-pressed", "true")
        assert widget.get_by_label("Question of the golden set").input_value() == name
        shot(page, "retrieval_tuner")
        size.fill("60")
        expect(widget.locator(".rt-need")).to_contain_text("new embeddings")
        expect(widget.locator(".rt-need").get_by_role("button", name="Compute")).to_be_visible()
        assert base.count() > 0
        widget.get_by_role("button", name="Compute").click()
        expect(widget.locator(".rt-need")).to_have_count(0)
        expect(now.first).to_be_visible()
        widget.focus()
        page.keyboard.press("p")
        expect(widget.locator(".rt-base h4")).to_contain_text("chunk_size 60")
        first = widget.locator(".rt-place").inner_text()
        page.keyboard.press("j")
        expect(widget.locator(".rt-place")).not_to_have_text(first)
        menu(page, "Kernel", "Restart Kernel…")
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        idle(page)
        menu(page, "Run", "Run All Cells")
        expect(widget.locator(".rt-tried tbody tr")).to_have_count(2)
        widget.get_by_role("button", name="Unpin").click()
        widget.get_by_role("button", name="Take the settings chunk_size 120").click()
        expect(widget.locator(".rt-verdict")).to_contain_text("better")
        widget.get_by_role("button", name="Write to app.yaml").click()
        expect(widget.locator(".rt-lines .added")).to_contain_text("chunk_size: 120")
        shot(page, "retrieval_tuner_offer")
        widget.get_by_role("button", name="Write it", exact=True).click()
        expect(widget.locator(".rt-offer")).to_have_count(0)
    assert errors == []
    assert read_definition(home / "app.yaml").retrieval.chunk_size == 120
