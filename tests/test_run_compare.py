"""RunCompare shows what two runs hold and keeps what a person wrote, whatever the texts are."""

from __future__ import annotations

import html
import random
import re
import time
from pathlib import Path
from typing import Any

import made_run
import pytest
from lab import browser_page, dark, idle, lab, menu, needs_chromium, notebook, shot
from llmops_nb.core import ConfigurationError, to_json
from llmops_nb.evals import open_run
from llmops_nb.run_compare import ROWS, RunCompare, find_items

NAMES = ("20261123-121703-4f2a", "20261124-090000-ab12")
HOSTILE = '<img src=x onerror=alert(1)></td><script>alert("x")</script>&amp;'


def flipped(records: list[dict[str, Any]], about: dict[str, Any], pages: dict[str, Any]) -> None:
    "Another prompt: some answers in other words, a few of them right now, a few wrong."
    chance = random.Random(5)
    for record in records:
        if not record["answer"]:
            continue
        draw = chance.random()
        success = next(s for s in record["scores"] if s["name"] == "task_success")
        if draw < 0.2:
            record["answer"]["text"] = record["answer"]["text"].replace("whenever", "zebra when")
        if draw < 0.05:
            success["value"] = 1.0 - success["value"]
    about["digests"] = about["digests"] | {"prompt": "e" * 64}


def hostile(records: list[dict[str, Any]], about: dict[str, Any], pages: dict[str, Any]) -> None:
    "Texts that would be markup if anybody let them."
    if about["id"] != NAMES[0]:
        flipped(records, about, pages)
    for record in records[:3]:
        record["item"] |= {"id": HOSTILE + str(record["item"]["id"]), "question": HOSTILE, "expected": HOSTILE, "slices": [HOSTILE]}
        if record["answer"]:
            record["answer"]["text"] = HOSTILE + str(about["digests"]["prompt"])
        for score in record["scores"]:
            score["why"] = HOSTILE


def two(place: Path, items: int = 120, change: Any = flipped) -> tuple[Any, Any]:
    "A run, and the same one with another prompt."
    before = made_run.make(place / NAMES[0], items, change=change if change is hostile else None)
    return open_run(before), open_run(made_run.make(place / NAMES[1], items, change=change, id=NAMES[1]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return two(tmp_path_factory.mktemp("runs"))


def test_what_is_listed_is_what_happened(runs: tuple[Any, Any], tmp_path: Path) -> None:
    widget = RunCompare(*runs, path=tmp_path / "state.json")
    before, after = ({r.item.id: r for r in run.records} for run in runs)

    def success(record: Any) -> float | None:
        return next((s.value for s in record.scores if s.name == "task_success"), None)

    broken = {i for i in before if success(before[i]) == 1.0 and success(after[i]) == 0.0}
    words = {i for i in before if success(before[i]) == success(after[i]) is not None and before[i].answer.text != after[i].answer.text}
    assert broken and words
    assert {row["item"] for row in widget.handle({"do": "choose", "kinds": ["broken"]})["body"]["rows"]} == broken
    assert {change.item for change in widget.items.values() if change.kind == "reworded"} == words
    shown = widget.handle({"do": "open", "item": min(broken)})["body"]["item"]
    for side, record in (("before", before[min(broken)]), ("after", after[min(broken)])):
        assert "".join(text for _, text in shown["answers"][side]) == record.answer.text
    assert any(row["name"] == "task success" and row["tone"] == "bad" for row in shown["scores"])


def test_filters_and_pages(runs: tuple[Any, Any], tmp_path: Path) -> None:
    widget = RunCompare(*runs, path=tmp_path / "state.json")
    everything = [kind["kind"] for kind in widget.body()["kinds"]]
    body = widget.handle({"do": "choose", "kinds": everything})["body"]
    assert (len(body["rows"]), body["pages"], body["count"]) == (ROWS, 3, "120 of 120 items")
    assert len(widget.handle({"do": "turn", "page": 99})["body"]["rows"]) == 120 - 2 * ROWS
    part = widget.handle({"do": "choose", "kinds": everything, "slice": "fact"})["body"]
    assert {row["item"].split("-")[0] for row in part["rows"]} == {"fact"} and part["aside"]
    found = widget.handle({"do": "choose", "kinds": everything, "search": "ZEBRA when"})["body"]
    assert {row["item"] for row in found["rows"]} == {i.item.id for i in runs[1].records if i.answer and "zebra when" in i.answer.text}
    assert widget.handle({"do": "choose", "kinds": [], "search": ""})["body"]["rows"] == []


def test_steps_cross_pages(runs: tuple[Any, Any], tmp_path: Path) -> None:
    widget = RunCompare(*runs, path=tmp_path / "state.json")
    widget.handle({"do": "choose", "kinds": [kind["kind"] for kind in widget.body()["kinds"]]})
    for _ in range(ROWS + 1):
        widget.handle({"do": "step", "by": 1})
    assert widget.state.page == 1 and widget.state.item == widget.changes[ROWS].item
    widget.handle({"do": "open", "item": ""})
    widget.handle({"do": "step", "by": -1})
    assert widget.state.item == widget.changes[-1].item
    assert widget.handle({"do": "step", "by": 1})["problem"] == "" and widget.state.item == widget.changes[-1].item


def test_marks_survive_the_kernel(runs: tuple[Any, Any], tmp_path: Path) -> None:
    first = RunCompare(*runs, path=tmp_path / "state.json")
    item = first.changes[0].item
    for message in ({"do": "open", "item": item}, {"do": "pin", "item": item, "pinned": True}, {"do": "note", "item": item, "text": f" {HOSTILE} "}, {"do": "unfold", "part": "prompts", "shown": True}):
        assert first.handle(message)["problem"] == ""
    again = RunCompare(*runs, path=tmp_path / "state.json")
    assert again.state == first.state and again.state.notes == {item: HOSTILE} and again.state.pins == (item,)
    assert again.body()["item"]["prompts"] and again.handle({"do": "choose", "kinds": [], "marked": True})["body"]["marks"] == 1
    assert "Another kernel has changed state.json" in first.handle({"do": "note", "item": item, "text": "late"})["problem"]
    assert first.handle({"do": "note", "item": item, "text": ""})["problem"] == "" and first.state.notes == {}


def test_by_default_the_state_lies_beside_the_later_run(runs: tuple[Any, Any]) -> None:
    RunCompare(*runs).handle({"do": "turn", "page": 0})
    assert list((runs[1].directory / "widgets").glob("run_compare-*.json"))


def test_nothing_becomes_markup(tmp_path: Path) -> None:
    runs = two(tmp_path, 12, hostile)
    widget = RunCompare(*runs)
    for change in list(widget.items.values())[:3]:
        assert widget.handle({"do": "open", "item": change.item})["problem"] == ""
        assert widget.handle({"do": "note", "item": change.item, "text": HOSTILE})["problem"] == ""
        widget.handle({"do": "choose", "kinds": [kind["kind"] for kind in widget.body()["kinds"]], "slice": HOSTILE})
        shown = widget.still()
        assert set(re.findall(r"</?(\w+)", shown)) <= {"p", "b", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "del", "ins", "code"}
        assert html.escape(HOSTILE) in shown and "<img" not in shown


@pytest.mark.parametrize(
    "message, problem",
    [
        ({"do": "open", "item": "nothing-1"}, "No item named 'nothing-1'"),
        ({"do": "choose", "kinds": ["worse"]}, "No kind of change named 'worse'"),
        ({"do": "note", "item": "nothing-1", "text": ""}, "No item named"),
        ({"do": "unfold", "part": "notes", "shown": True}, "No part named"),
        ({"do": "turn", "page": "2"}, "Expected `int`"),
        ({"do": "compare"}, "No command named"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(runs: tuple[Any, Any], tmp_path: Path, message: dict[str, Any], problem: str) -> None:
    widget = RunCompare(*runs, path=tmp_path / "state.json")
    assert problem in widget.handle(message)["problem"]
    assert not (tmp_path / "state.json").exists()


def test_runs_without_parity_are_refused(runs: tuple[Any, Any], tmp_path: Path) -> None:
    other = open_run(made_run.make(tmp_path / "other", 30, digests={**runs[0].info.digests, "golden": "a" * 64}))
    with pytest.raises(ConfigurationError, match="cannot be compared"):
        RunCompare(runs[0], other)


def test_a_large_run_is_read_a_page_at_a_time(tmp_path: Path) -> None:
    runs = two(tmp_path, 1500)
    widget = RunCompare(*runs)
    kinds = [kind["kind"] for kind in widget.body()["kinds"]]
    start = time.perf_counter()
    for page in (0, 20, 37):
        widget.handle({"do": "choose", "kinds": kinds})
        widget.handle({"do": "turn", "page": page})
    shown = widget.handle({"do": "open", "item": widget.changes[1200].item})
    assert time.perf_counter() - start < 30  # Under two seconds on an idle core
    assert len(to_json(shown)) < 60_000
    assert "records" not in vars(runs[0]), "the journal was read as a whole"
    assert find_items(widget.journals[0], "surely-nowhere") == set()


@pytest.mark.browser
@needs_chromium
@pytest.mark.timeout(300)
def test_two_runs_are_compared_in_jupyterlab(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    two(tmp_path / "reports", 60, hostile)
    notebook(tmp_path / "compare.ipynb", "from llmops_nb.run_compare import RunCompare\n\nRunCompare('reports/20261123-121703-4f2a', 'reports/20261124-090000-ab12')")
    home, errors = tmp_path / "home", list[str]()
    dark(home)
    with lab(tmp_path, home) as address, browser_page(address.format("compare.ipynb"), errors, patience=90_000) as page:
        menu(page, "Run", "Run All Cells")
        widget = page.locator(".llmops-widget")
        rows = widget.locator(".rc-row")
        expect(widget.locator(".rc-verdict")).to_contain_text("task success")
        for kind in ("fixed", "changed", "no score"):
            widget.get_by_role("button", name=kind).click()
            expect(widget.get_by_role("button", name=kind)).to_have_attribute("aria-pressed", "false")
        expect(rows.first).to_contain_text("broken")
        assert {rows.nth(n).locator(".chip").inner_text() for n in range(rows.count())} == {"broken"}
        rows.first.click()
        answers = widget.locator(".rc-answer")
        expect(answers).to_have_count(2)
        widget.get_by_role("button", name="fixed").click()
        widget.get_by_role("button", name="reworded").click()
        widget.get_by_role("searchbox").fill("zebra")
        expect(rows.first.locator("ins")).to_contain_text("zebra")
        rows.first.click()
        expect(answers.nth(0).locator("del")).to_contain_text("whenever")
        expect(answers.nth(1).locator("ins")).to_contain_text("zebra when")
        item = widget.locator(".rc-detail code").first.inner_text()
        widget.focus()
        page.keyboard.press("p")
        expect(widget.get_by_role("button", name="Pinned")).to_be_visible()
        page.keyboard.press("n")
        page.keyboard.type("Zebras? <b>")
        page.keyboard.press("Escape")
        expect(rows.first.get_by_role("img", name="has a note")).to_be_visible()
        widget.get_by_role("button", name="Prompts as they were sent").click()
        expect(widget.locator(".rc-message").first).to_contain_text("You answer questions")
        shot(page, "run_compare")
        menu(page, "Kernel", "Restart Kernel…")
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        idle(page)
        menu(page, "Run", "Run All Cells")
        expect(widget.locator("textarea")).to_have_value("Zebras? <b>")
        expect(widget.locator(".rc-detail code").first).to_have_text(item)
        widget.focus()
        page.keyboard.press("j")
        expect(widget.locator(".rc-detail code").first).not_to_have_text(item)
        assert page.evaluate("document.querySelectorAll('.llmops-widget img, .llmops-widget script').length") == 0
        page.evaluate("document.activeElement.blur()")  # The picture in the notebook is brought up to date
        page.wait_for_timeout(800)
        widget.focus()
        page.keyboard.press("Control+s")
        for _ in range(200):
            if 'Zebras? &lt;b&gt;' in (saved := (tmp_path / "compare.ipynb").read_text()):
                break
            page.wait_for_timeout(100)
    assert errors == []
    assert "Zebras? &lt;b&gt;" in saved and "text/html" in saved
