"""EvalScorer: labels that survive, blindness, hostile texts; and a person with a keyboard in a real JupyterLab."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lab import browser_page, dark, idle, lab, menu, needs_chromium, notebook, shot

from llmops_nb.app import citations
from llmops_nb.core import Answer, Chunk, ConfigurationError, Item, Passage, RunError, Score, to_json
from llmops_nb.eval_scorer import EvalScorer, turns_of
from llmops_nb.evals import Run, RunInfo, open_run
from llmops_nb.labels import Label, read_labels, read_lines
from llmops_nb.metrics import Failure, Record
from llmops_nb.rubrics import Rubric, parse_rubric

RUBRIC = """\
---
task: Answer a question about Python from the language reference.
criteria:
  - name: correctness
    question: Does the answer say what the reference says?
    scale: {0: contradicts it, 1: leaves something out, 2: says all of it}
---
"""
TEXTS = {
    "while-else": ("When does the else clause of a while loop run?", "When the condition is false; a break skips it.", "When the condition becomes false. It is skipped when the loop ends by break [1]."),
    "finally": ("Is a finally clause executed after a return?", "Yes, before the function returns.", "Yes [1]."),
    "is-literal": ("Why does x is 1 give a warning?", "Identity of literals is an implementation detail.", "Because 1 is a literal, and whether equal literals are one object is not promised [2]. Use == to compare values."),
    "global": ("Does global work for a name that is read only?", "It is not needed for reading.", "A name that is only read needs no global statement [1]."),
}
HOSTILE = {
    "script": "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "rtl": "שלום עולם \u202egnp.exe\u202c مرحبا",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f1e9\U0001f1ea e\u0301",
    "huge": "word " * 30_000,
    "long-word": "x" * 5000,
    "controls": "\x00\x07\x1b[31m a\u2028b\u2029c",
    "empty": "",
    "template": "{{ 7 * 7 }} ${alert(1)} </div></section>",
}


def made(directory: Path, texts: dict[str, tuple[str, str, str]], name: str = "", model: str = "secret-model", scores: Sequence[float] = (1.0, 0.0)) -> Run:
    "A run over a few made-up answers."
    directory.mkdir(parents=True)
    records = [Record(Item(i, q, e), Answer(a, model), (Score("task_success", scores[n % len(scores)]), Score("latency", 1.5))) for n, (i, (q, e, a)) in enumerate(texts.items())]
    (directory / "records.jsonl").write_bytes(b"".join(to_json(r) + b"\n" for r in records))
    (directory / "run.json").write_bytes(to_json(RunInfo(name or directory.name, "pydocs", "finished", model={"name": model}, items=len(records))))
    return open_run(directory)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made(tmp_path / "20261124-0900-aaaa", TEXTS)


@pytest.fixture
def rubric() -> Rubric:
    return parse_rubric(RUBRIC)


def press(scorer: EvalScorer, value: float) -> dict[str, Any]:
    "What a digit does."
    turn = scorer.body()["turn"]
    return scorer.handle({"do": "score", "turn": turn["turn"], "criterion": next(c["name"] for c in turn["criteria"] if c["active"]), "value": value})


def cells(directory: Path, *runs: str) -> list[str]:
    "Cells that show a scorer for each run."
    first = "import os\nfrom pathlib import Path\nfrom llmops_nb.eval_scorer import EvalScorer\nfrom llmops_nb.evals import open_run\nfrom llmops_nb.rubrics import load_rubric\n"
    (directory / "rubric.md").write_text(RUBRIC)
    return [f"{first if n == 0 else ''}EvalScorer(open_run(Path({run!r})), load_rubric('rubric.md'), rater='ann')" for n, run in enumerate(runs)]


@pytest.mark.browser
@needs_chromium
@pytest.mark.timeout(400)
def test_a_person_scores_in_jupyterlab(tmp_path: Path, run: Run) -> None:
    from playwright.sync_api import expect

    made(tmp_path / "hostile", {name: (f"{text[:90]}?", text[:200], text) for name, text in HOSTILE.items()})
    notebook(tmp_path / "score.ipynb", *cells(tmp_path, run.directory.name, "hostile"))
    dark(tmp_path / "home")
    errors: list[str] = []
    labels, order = run.directory / "labels.jsonl", [turn.item for turn in turns_of([run], False, "ann")]

    def written(count: int) -> list[Label]:
        for _ in range(600):
            if labels.exists() and len(read_lines(labels)) >= count:
                break
            page.wait_for_timeout(100)
        return list(read_lines(labels))

    with lab(tmp_path, tmp_path / "home") as address, browser_page(address.format("score.ipynb"), errors, patience=90_000) as page:
        menu(page, "Run", "Run All Cells")
        first, second = (page.locator(".llmops-widget").nth(n) for n in (0, 1))
        expect(first).to_contain_text("0 of 4 done")
        first.focus()
        for done, key in enumerate(("2", "0", "1"), start=1):
            page.keyboard.press("z")  # No key of the widget, and must not become one of the notebook
            page.keyboard.press(key)
            expect(first).to_contain_text(f"{done} of 4 done")
        page.keyboard.press("u")
        expect(first).to_contain_text("2 of 4 done")
        assert [(label.item, label.value, label.kind) for label in written(4)] == [(order[0], 2, "score"), (order[1], 0, "score"), (order[2], 1, "score"), (order[2], None, "undo")]
        shot(page, "scored")
        page.keyboard.press("n")
        page.keyboard.type("see 2 sources")
        page.keyboard.press("Escape")
        assert written(5)[-1].note == "see 2 sources"
        assert page.locator(".jp-Notebook .jp-Cell").count() == 2 and page.locator(".jp-MarkdownCell").count() == 0

        second.focus()  # The focus leaves the first: its picture in the notebook is brought up to date
        for done in range(1, len(HOSTILE) + 1):
            page.keyboard.press("1")
            expect(second).to_contain_text(f"{done} of {len(HOSTILE)} done")
        expect(second).to_contain_text("All done")
        assert page.evaluate("window.hacked") is None and page.locator(".llmops-widget img, .llmops-widget script").count() == 0
        page.keyboard.press("ArrowDown")
        first.focus()
        page.keyboard.press("Control+s")
        for _ in range(600):
            saved = json.loads((tmp_path / "score.ipynb").read_text())["cells"][0]["outputs"]
            if saved and "2 of 4 done" in "".join(saved[0]["data"]["text/html"]):
                break
            page.wait_for_timeout(100)
        assert len(saved) == 1 and "see 2 sources" in "".join(saved[0]["data"]["text/html"])

        menu(page, "Kernel", "Restart Kernel…")
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        idle(page)
        first.focus()
        page.keyboard.press("2")  # No kernel hears it
        expect(first).to_contain_text("The kernel does not answer")
        menu(page, "Run", "Run All Cells")
        expect(page.locator(".llmops-widget")).to_have_count(2)
        expect(first).to_contain_text("2 of 4 done")
        expect(first.locator("textarea")).to_have_value("see 2 sources")
        shot(page, "restarted")
    assert errors == [], errors
    assert len(written(5)) == 5


def test_an_executed_notebook_and_its_report_hold_the_last_state(tmp_path: Path, run: Run) -> None:
    import papermill

    from llmops_nb.reports import notebook_html

    for _ in range(2):
        press(EvalScorer(run, parse_rubric(RUBRIC), rater="ann"), 2)
    source = cells(tmp_path, str(run.directory))[0].replace("load_rubric('", f"load_rubric('{tmp_path}/").replace("EvalScorer(open", "scorer = EvalScorer(open") + "; scorer"
    later = "turn = scorer.body()['turn']\nscorer.handle({'do': 'score', 'turn': turn['turn'], 'criterion': 'correctness', 'value': 0});"
    made = papermill.execute_notebook(str(notebook(tmp_path / "in.ipynb", source, later)), str(tmp_path / "out.ipynb"), progress_bar=False, cwd=str(tmp_path))
    assert "3 of 4 done" in made.cells[0].outputs[0]["data"]["text/html"] and "application/vnd.jupyter.widget-view+json" in made.cells[0].outputs[0]["data"]
    report = notebook_html((tmp_path / "out.ipynb").read_text())
    assert "3 of 4 done" in report and "0: contradicts it" in report and "Names of runs and other people" in report
    assert run.id not in report.split("Labels by ann")[1]


def test_every_key_is_a_line_and_nothing_is_lost_when_the_kernel_dies(run: Run, rubric: Rubric) -> None:
    scorer = EvalScorer(run, rubric, rater="ann")
    press(scorer, 2)
    press(scorer, 0)
    with (run.directory / "labels.jsonl").open("a") as file:
        file.write('{"item": "torn')  # Killed in the middle of a line
    again = EvalScorer(run, rubric, rater="ann")
    assert again.state.at == 2 and again.body()["progress"]["done"] == 2
    press(again, 1)
    lines = (run.directory / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [2.0, 0.0, 1.0]
    (run.directory / "widgets").rename(run.directory / "gone")  # Without its state it goes on where labels are missing
    assert EvalScorer(run, rubric, rater="ann").state.at == 3


CLICKS = """
import sys
from pathlib import Path
from llmops_nb.eval_scorer import EvalScorer
from llmops_nb.evals import open_run
scorer = EvalScorer(open_run(Path(sys.argv[1])), rater=sys.argv[2])
while (turn := scorer.body()["turn"]) is not None:
    done = scorer.handle({"do": "score", "turn": turn["turn"], "criterion": "good", "value": 1})
    print(turn["turn"], repr(done["problem"]), flush=True)
"""


def clicking(run: Run, rater: str) -> subprocess.Popen[str]:
    "A process that scores everything and prints each turn when it was told that it is saved."
    return subprocess.Popen([sys.executable, "-c", CLICKS, str(run.directory), rater], stdout=subprocess.PIPE, text=True)


def test_a_killed_kernel_has_saved_every_click(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {f"w{n}": (f"Question {n}?", "", f"answer {n}") for n in range(300)})
    with clicking(run, "ann") as process:
        assert process.stdout
        told = [process.stdout.readline() for _ in range(25)]
        process.kill()
        told += process.stdout.readlines()
    lines = read_lines(run.directory / "labels.jsonl")
    keys = {turn.item: turn.key for turn in turns_of([run], False, "ann")}
    assert 25 <= len(told) < 300 and len(told) <= len(lines) <= len(told) + 1
    assert [f"{keys[line.item]} ''\n" for line in lines][: len(told)] == told
    assert EvalScorer(run, rater="ann").body()["progress"]["done"] == len(lines)


def test_people_at_once_share_one_file(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {f"w{n}": (f"Question {n}?", "", f"answer {n}") for n in range(15)})
    people = [clicking(run, rater) for rater in ("ann", "bob", "cem")]
    for process in people:
        assert process.communicate()[0].count("''") == 15
    labels = read_labels(run.directory / "labels.jsonl")
    assert sorted((label.rater, label.item) for label in labels) == sorted((rater, f"w{n}") for rater in ("ann", "bob", "cem") for n in range(15))


def test_undo_reaches_back_over_restarts(run: Run, rubric: Rubric) -> None:
    scorer = EvalScorer(run, rubric, rater="ann")
    for value in (2, 0, 1):
        press(scorer, value)
    scorer.handle({"do": "skip", "turn": scorer.body()["turn"]["turn"]})
    assert scorer.body()["turn"] is None
    again = EvalScorer(run, rubric, rater="ann")
    for place in (3, 2, 1, 0):
        assert again.handle({"do": "undo"})["body"]["turn"]["place"] == place
    assert again.handle({"do": "undo"})["problem"] == "There is nothing to take back."
    assert read_labels(run.directory / "labels.jsonl") == () and len(read_lines(run.directory / "labels.jsonl")) == 8


def test_undo_of_a_changed_mind_gives_the_first_opinion_back(run: Run, rubric: Rubric) -> None:
    scorer = EvalScorer(run, rubric, rater="ann")
    press(scorer, 2)
    scorer.handle({"do": "go", "to": 0})
    press(scorer, 0)
    scorer.handle({"do": "undo"})
    assert [label.value for label in read_labels(run.directory / "labels.jsonl")] == [2.0]


def test_nobody_sees_names_or_others_before_the_end(tmp_path: Path, rubric: Rubric) -> None:
    runs = [made(tmp_path / f"2026112{n}-0900-aaaa", TEXTS, model=f"secret-{n}") for n in (4, 5)]
    first = EvalScorer(runs, rubric, rater="ann", how="pairs", labels=tmp_path / "labels.jsonl")
    scorer = EvalScorer(runs, rubric, rater="bob", how="pairs", labels=tmp_path / "labels.jsonl")
    assert "20261124" not in json.dumps(scorer.handle({"do": "skip", "turn": scorer.body()["turn"]["turn"]}) | scorer.handle({"do": "undo"}))
    for n in range(4):
        press(first, 1)
        told = json.dumps(scorer.snapshot()) + scorer.still()
        assert not any(word in told for word in ("secret", "20261124", "20261125", "ann"))
        if n < 3:
            press(scorer, 0)
    press(scorer, 0)
    told = json.dumps(scorer.snapshot()) + scorer.still()
    assert "20261124" in told and "ann" in told
    scorer = EvalScorer(runs, rubric, rater="cem", how="pairs", labels=tmp_path / "labels.jsonl")
    assert scorer.handle({"do": "reveal"})["body"]["tables"][0]["title"].startswith("Where opinions differ most")
    scorer.handle({"do": "go", "to": 0})
    press(scorer, 0.5)
    assert [label.blind for label in read_labels(tmp_path / "labels.jsonl")] == [True] * 8 + [False]


def test_sides_and_orders_are_mixed_but_the_same_tomorrow(tmp_path: Path) -> None:
    texts = {f"w{n}": (f"Question {n}?", "", f"answer {n}") for n in range(200)}
    runs = [made(tmp_path / name, {i: (q, e, f"{a} of {name}") for i, (q, e, a) in texts.items()}) for name in ("a", "b")]
    ann, bob = (turns_of(runs, True, rater) for rater in ("ann", "bob"))
    assert ann == turns_of(runs, True, "ann") and ann != turns_of(runs, True, "ann", seed=1)
    assert [t.item for t in ann] != [t.item for t in bob] and {t.item for t in ann} == {t.item for t in bob}
    assert 70 < sum(t.swapped for t in ann) < 130
    assert all(t.answers[t.swapped].text.endswith("of a") and t.answers[not t.swapped].text.endswith("of b") for t in ann)
    fewer = made(tmp_path / "c", dict(list(texts.items())[:50]))
    order = [t.item for t in turns_of([runs[0]], False, "ann") if t.item in dict(list(texts.items())[:50])]
    assert len([t for t in turns_of([fewer], False, "ann")]) == 50 and len(order) == 50


def test_a_win_is_counted_for_the_run_whatever_its_side(tmp_path: Path) -> None:
    runs = [made(tmp_path / name, TEXTS, name) for name in ("old", "new")]
    scorer = EvalScorer(runs, rater="ann", how="pairs")
    while (turn := scorer.body()["turn"]) is not None:
        swapped = scorer.sheet.turns[turn["place"]].swapped
        press(scorer, 1 if swapped else 0)  # Always the new one
    assert {label.value for label in read_labels(scorer.sheet.path)} == {0.0}
    [rates] = [table for table in scorer.body()["tables"] if table["title"] == "Comparisons"]
    assert rates["rows"][0][2].startswith("0.0% [0.0%")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_words_stay_words(tmp_path: Path, rubric: Rubric, name: str) -> None:
    from llmops_nb.reports import sanitise

    text = HOSTILE[name]
    run = made(tmp_path / "run", {f"{name} <b>": (text or "?", text, text)})
    scorer = EvalScorer(run, rubric, rater="<i>ann</i>")
    turn = scorer.body()["turn"]
    scorer.handle({"do": "note", "turn": turn["turn"], "text": text[:5000]})
    press(scorer, 2)
    assert len(json.dumps(scorer.snapshot())) < 100_000
    still = scorer.still()
    assert not re.search(r"<(?!/?(p|b|table|thead|tbody|tr|th|td)>)", still) and len(still) < 10_000
    assert sanitise(still).count("<td>") == still.count("<td>")
    assert EvalScorer(run, rubric, rater="<i>ann</i>").body()["turn"] is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"do": "score", "turn": "another", "criterion": "correctness", "value": 1}, "another answer than the one shown"),
        ({"do": "score", "turn": "", "criterion": "x" * 500, "value": 1}, "No criterion named"),
        ({"do": "score", "turn": "", "criterion": "correctness", "value": 3}, "3 is no point of the scale"),
        ({"do": "score", "turn": "", "criterion": "correctness", "value": 0.5}, "0.5 is no point of the scale"),
        ({"do": "note", "turn": "", "text": "x" * 5001}, "more than 5,000"),
        ({"do": "note", "turn": "nowhere", "text": "x"}, "not here"),
        ({"do": "skip", "turn": "old"}, "another answer"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_written(run: Run, rubric: Rubric, message: dict[str, Any], words: str) -> None:
    scorer = EvalScorer(run, rubric, rater="ann")
    message = {**message, "turn": message["turn"] or scorer.body()["turn"]["turn"]}
    assert words in scorer.handle(message)["problem"]
    assert not (run.directory / "labels.jsonl").exists()
    for to in (-(10**9), 10**9):
        assert scorer.handle({"do": "go", "to": to})["problem"] == ""


def test_two_kernels_of_one_person_lose_no_label(run: Run, rubric: Rubric) -> None:
    here, there = (EvalScorer(run, rubric, rater="ann") for _ in range(2))
    press(here, 2)
    turn = there.body()["turn"]["turn"]
    told = there.handle({"do": "score", "turn": turn, "criterion": "correctness", "value": 1})
    assert "All labels of both are kept" in told["problem"] and told["body"]["turn"]["place"] == 1
    press(there, 0)
    assert len(read_lines(run.directory / "labels.jsonl")) == 3 and there.body()["progress"]["done"] == 2


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    other = {**TEXTS, "finally": ("Another question?", "", "No.")}
    del other["global"]
    scorer = EvalScorer([made(tmp_path / "a", TEXTS), made(tmp_path / "b", other)], rater="ann", how="pairs")
    assert len(scorer.sheet.turns) == 2 and scorer.body()["progress"]["out"].startswith("2 left out")
    assert "2 left out: no answer, or not the same question" in scorer.still()


def test_what_cannot_be_scored_is_said(tmp_path: Path, run: Run, rubric: Rubric) -> None:
    for wrong, words in [
        (lambda: EvalScorer(run, rubric, rater=" "), "Say who judges"),
        (lambda: EvalScorer(run, rubric, rater="ann", how="pair"), "Did you mean 'pairs'"),
        (lambda: EvalScorer(run, rubric, rater="ann", how="pairs"), "Two different runs are needed"),
        (lambda: EvalScorer([run, run], rubric, rater="ann", how="pairs"), "Two different runs are needed"),
        (lambda: EvalScorer([], rubric, rater="ann"), "given: none"),
    ]:
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            wrong()
    failed = made(tmp_path / "failed", {})
    (failed.directory / "records.jsonl").write_bytes(to_json(Record(Item("w", "q?"), None, (), Failure("ModelError", "server", "x"))) + b"\n")
    with pytest.raises(RunError, match="nothing to judge"):
        EvalScorer(failed, rubric, rater="ann")


def with_passages(directory: Path, text: str, *passages: str) -> EvalScorer:
    "A scorer of one answer that was given some passages."
    directory.mkdir(parents=True)
    found = tuple(Passage(Chunk(f"d#{n}", "d", words, 50, 50 + len(words), f"Heading {n}"), 1.0) for n, words in enumerate(passages, start=1))
    answer = Answer(text, "secret-model", passages=found, citations=citations(text, found))
    (directory / "records.jsonl").write_bytes(to_json(Record(Item("w", "When?", "Then."), answer)) + b"\n")
    (directory / "run.json").write_bytes(to_json(RunInfo("r", "pydocs", "finished", items=1)))
    return EvalScorer(open_run(directory), rater="ann")


def test_passages_show_the_words_that_an_answer_uses_and_no_verdict(tmp_path: Path) -> None:
    loop, other = "🦊 A break terminates the loop without executing the else clause.", "Names are resolved in the enclosing scope."
    said = with_passages(tmp_path / "run", "🦊 A break terminates the loop. It was invented in 1989 [7].", other, loop).body()["turn"]["answers"][0]
    assert [(one["text"], one["where"]) for one in said["sentences"]] == [("🦊 A break terminates the loop.", "passage 2"), ("It was invented in 1989 [7].", "no passage")]
    assert said["passages"][0]["parts"] == [[other, False]]
    assert said["passages"][1]["parts"] == [["🦊 ", False], ["A break terminates the loop", True], [" without executing the else clause.", False]]
    assert "[7]" in said["lost"] and "support" not in json.dumps(said)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_passages_come_whole_or_cut_and_soon(tmp_path: Path, text: str) -> None:
    said = with_passages(tmp_path / "run", text, text, "").body()["turn"]["answers"][0]
    shown = "".join(words for words, _ in said["passages"][0]["parts"])
    assert shown == text[:2000] and said["passages"][0]["rest"] == max(0, len(text) - 2000)
