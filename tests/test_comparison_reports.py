"""The report of a comparison shows both sides, first what flipped, and does nothing that its content wants; `llmops compare` ends with a code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import browsing
import made_comparison
import made_run
import pytest
from browsing import PAYLOADS, Elements, Opener, html_text, poison, until
from click.testing import CliRunner

from llmops_nb.commands import main
from llmops_nb.comparisons import Arm, Change, Comparison, compare
from llmops_nb.comparison_reports import comparison_page, differing, items_of, links, order, pieces, render_comparison, texts_apart
from llmops_nb.evals import open_run
from llmops_nb.pages import script_of, style_of
from llmops_nb.reports import render
from llmops_nb.store import Objects

opened = browsing.opened  # The browser, as a fixture


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "Two runs of 116 items with their reports; the second one is better."
    found = made_comparison.pair(tmp_path_factory.mktemp("pair"), gain=0.8)
    for run in found:
        render(run)
    return found


@pytest.fixture(scope="module")
def comparison(runs: tuple[Path, Path]) -> Comparison:
    return compare(open_run(runs[0]), open_run(runs[1]), margins={"task_success": 0.03})


@pytest.fixture(scope="module")
def report(runs: tuple[Path, Path], comparison: Comparison) -> Path:
    return render_comparison(comparison, runs[0].parent / "comparisons" / "a--b.html")


# ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["run", "comparison", "sweep"])
def test_no_script_writes_html_and_no_style_loads(kind: str) -> None:
    script, style = script_of(kind), style_of(kind)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|srcdoc|DOMParser|createContextual", script)
    for text in (script, style):
        assert "\r" not in text and "</" not in text.replace("</script", "") and "<!--" not in text
    assert "url(" not in style and "@import" not in style


def test_the_policy_admits_the_texts_of_the_page_and_nothing_else(report: Path) -> None:
    elements = Elements(report.read_text("utf-8"))
    (content,) = [a["content"] for tag, a in elements.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in content.split("; "))
    code = [text for text in elements.inside["script"] if not re.fullmatch(r"[A-Za-z0-9+/=]+", text)]
    for rule, (text,) in {"script-src": code, "style-src": elements.inside["style"]}.items():
        assert rules[rule] == "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    assert rules["default-src"] == "'none'"
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("src", "data:").startswith("data:")


def test_the_verdict_stands_in_words_and_flips_are_counted(report: Path, comparison: Comparison) -> None:
    html = report.read_text("utf-8")
    assert comparison.verdicts[0].outcome == "better" and f"<h2>{comparison.verdicts[0].sentence}</h2>" in html
    for verdict in comparison.verdicts:
        assert verdict.sentence in html
    for kind in ("fixed", "broken"):
        count = len(comparison.changed(kind))
        assert count and re.search(rf'<span class="key {kind}"></span> <span class="words-of">{kind}</span> <b>{count}</b>', html)


def test_what_differs_is_there_down_to_the_words_of_the_prompt(report: Path, runs: tuple[Path, Path]) -> None:
    html = report.read_text("utf-8")
    assert "prompts/long.txt" in html and "prompts/short.txt" in html
    assert re.search(r"<del>[^<]*You answer questions", html) and "<ins>Answer in one sentence</ins>" in html
    infos = [json.loads((run / "run.json").read_text()) for run in runs]
    apart, same = differing(*infos)
    assert [name for name, _, _ in apart] == ["app", "prompt", "parameter prompt"] and {"golden", "corpus", "model"} <= set(same)
    assert texts_apart(*infos, Objects(runs[0] / "nowhere")) == []  # A store that was emptied costs only this part


def test_links_lead_to_reports_that_exist(report: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = [a["href"] for tag, a in Elements(report.read_text("utf-8")).found if tag == "a" and "report.html" in a.get("href", "")]
    assert len(found) == 2 and all((report.parent / href).resolve().is_file() for href in found)
    (tmp_path / "javascript:x").mkdir()
    (tmp_path / "javascript:x" / "report.html").write_text("")
    assert links([str(tmp_path / "javascript:x"), str(tmp_path / "none")], tmp_path) == [("javascript:x", "javascript%3Ax/report.html"), ("none", "")]


def test_equal_comparisons_give_equal_pages_that_are_bounded(comparison: Comparison, report: Path) -> None:
    assert comparison_page(comparison, report.parent) == report.read_text("utf-8")
    assert report.stat().st_size < 1_000_000
    part = comparison_page(comparison, report.parent, shown=10)
    assert "10 of 116 items are in this page, flipped ones first; 106 more are in the journals" in part and len(part) < report.stat().st_size
    kinds = [change.kind for change in order(comparison) if change.before is not None or change.after is not None]
    assert [change.kind for change in order(comparison)][len(kinds) :] == ["missing"] * (116 - len(kinds)) != []  # Failed on both sides
    assert kinds == sorted(kinds, key=["broken", "fixed", "changed", "missing", "same wrong", "same right"].index)
    assert [row["id"] for row in items_of(comparison, shown=3)] == [change.item for change in order(comparison)[:3]]
    assert len(items_of(comparison, room=60_000)) < 10


# ── Comparisons that lack something ─────────────────────────────────────────────────────────────────────────────────


def test_a_comparison_of_nothing_is_said() -> None:
    html = comparison_page(Comparison(Arm("a", (), ()), Arm("b", (), ()), (), (), (), 0))
    assert "Nothing could be compared" in html and "Nothing that was recorded differs" in html


def test_one_item_and_equal_runs(tmp_path: Path) -> None:
    for items in (1, 12):
        run = made_run.make(tmp_path / f"run{items}", items=items)
        html = comparison_page(compare(open_run(run), open_run(run)))
        assert "not enough evidence" in html and "None" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", html, flags=re.S)


def test_journals_that_are_gone_or_torn_cost_their_items_only(comparison: Comparison, runs: tuple[Path, Path], tmp_path: Path) -> None:
    gone = replace(comparison, before=replace(comparison.before, directories=(str(tmp_path / "none"),)))
    row = items_of(gone, shown=1)[0]
    assert row["sides"][0]["error"].startswith("Error") and not row["sides"][1]["error"] and row["item"]["question"]
    astray = replace(comparison, changes=tuple(replace(c, at_after=c.at_after + 7) for c in comparison.changes))
    assert items_of(astray, shown=2)[1]["sides"][1]["error"]


def test_every_field_of_a_record_may_be_missing(tmp_path: Path) -> None:
    sides = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        records: list[dict[str, Any]] = [{"item": {"id": "x"}}, {"item": {"id": "y"}, "answer": {"text": None, "messages": [{}], "passages": [{"chunk": {}}, {"chunk": {"id": "c", "text": "t"}}]}, "scores": [{}]}, {"item": None}, {}]
        (tmp_path / name / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        sides.append(Arm(name, (name,), (str(tmp_path / name),)))
    starts = [0]
    for line in (tmp_path / "a" / "records.jsonl").read_bytes().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    changes = tuple(Change(str(n), (), None, None, "missing", at, at) for n, at in enumerate(starts))
    assert len(items_of(Comparison(sides[0], sides[1], (), (), changes, 4))) == 5


def test_repeats_are_shown_behind_the_first(tmp_path: Path) -> None:
    one, two = made_comparison.pair(tmp_path, items=12)
    again = made_run.make(tmp_path / "reports" / "pydocs" / "20261123-150000-aaaa", items=12, change=lambda records, *_: [r.pop("x", None) or r["answer"].update(text="another answer") for r in records if r["answer"]])
    info = json.loads((again / "run.json").read_text())
    (again / "run.json").write_text(json.dumps(info | {"digests": json.loads((one / "run.json").read_text())["digests"]}))
    kept = {json.loads(line)["item"]["id"] for line in (one / "records.jsonl").read_text().splitlines()}
    lines = [line for line in (again / "records.jsonl").read_text().splitlines() if json.loads(line)["item"]["id"] in kept]
    (again / "records.jsonl").write_text("\n".join(lines) + "\n")
    rows = items_of(compare([open_run(one), open_run(again)], open_run(two)))
    assert all(len(row["repeats"][0]) == 1 and row["repeats"][1] == [] for row in rows)
    assert {row["repeats"][0][0]["text"] for row in rows if row["answer"]} == {"another answer"}


@pytest.mark.parametrize(("before", "after"), [("", ""), ("a b c", "a x c"), (None, "new"), ("gone", None), ("naïve 🦊", "naïve 🐻"), ("x" * 9000, "y " * 4000)])
def test_pieces_make_both_texts_again(before: str | None, after: str | None) -> None:
    found = pieces(before, after)
    assert "".join(text for kind, text in found if kind in (0, 1)) == (before or "")
    assert "".join(text for kind, text in found if kind in (0, 2)) == (after or "")


# ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def called(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(runs[0].parent.parent.parent)
    return lambda *words: CliRunner().invoke(main, ["compare", *words])


def test_the_command_says_it_and_ends_with_a_code(called: Callable[..., Any], runs: tuple[Path, Path]) -> None:
    one, two = runs[0].name, runs[1].name
    better = called(one, two)
    assert better.exit_code == 0 and "BETTER: " in better.output and re.search(r"\d+ fixed", better.output)
    written = Path(re.search(r"Report: (.*)", better.output)[1])  # type: ignore[index]
    assert written.name == f"{one}--{two}.html" and "Comparison report" in written.read_text("utf-8")
    assert called(two, one, "--no-html").exit_code == 1
    same = called(one, one, "--no-html")
    assert same.exit_code == 3 and "Report:" not in same.output
    assert called(one, one, "--metric", "task_success", "--margin", "task_success=0.2", "--no-html").exit_code == 0
    told = json.loads(called(one, two, "--json", "--html", "x.html").output)
    assert told["exit_code"] == 0 and told["comparison"]["verdicts"][0]["outcome"] == "better" and Path("x.html").is_file()


def test_the_command_refuses_what_cannot_be_compared(called: Callable[..., Any], runs: tuple[Path, Path]) -> None:
    one, two = runs[0].name, runs[1].name
    for words, said in [
        (["--margin", "task_success"], "is no margin"), (["--margin", "task_success=-1"], "is no margin"), (["--margin", "speed=0.1"], "No metric of both sides named 'speed'"),
        (["--metric", "speed"], "speed"), (["--allow", "weather"], "weather"),
    ]:  # fmt: skip
        refused = called(one, two, *words)
        assert refused.exit_code == 1 and said in refused.output, words
    info = json.loads((runs[1] / "run.json").read_text())
    try:
        (runs[1] / "run.json").write_text(json.dumps(info | {"digests": {**info["digests"], "golden": "f" * 64}}))
        refused = called(one, two)
        assert refused.exit_code == 1 and "golden" in refused.output
        assert called(one, two, "--allow", "golden", "--no-html").exit_code == 0
    finally:
        (runs[1] / "run.json").write_text(json.dumps(info))
    assert called(one, "no-such-run").exit_code == 1


# ── In a browser ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.browser
def test_from_the_verdict_to_both_answers_in_two_clicks(report: Path, comparison: Comparison, opened: Opener) -> None:
    broken = comparison.changed("broken")
    with opened(report) as seen:
        page = seen.page
        page.locator(".legend a[href*=broken]").click()  # One
        until(page, f"document.getElementById('found').textContent.startsWith('{len(broken)} of 116 items')")
        assert page.locator("#table tbody tr").count() == len(broken)
        page.locator("#table tbody tr td.wordy").first.click()  # Two
        panel = page.locator("#panel")
        panel.wait_for()
        words = panel.inner_text()
        for part in ("Both answers", "Before", "After", "Expected", "missing: 'else clause'", "Passages", "Prompts as they were sent", "What it took", "in the report of its run"):
            assert part in words
        assert panel.locator(".pair del").count() and panel.locator(".pair ins").count()
        href = panel.get_by_text("in the report of its run").first.get_attribute("href")
        file, _, anchor = href.partition("#")
        assert (report.parent / file).resolve().is_file() and anchor == f"item={page.locator('#panel-title').inner_text()}"
        assert seen.messages == [] and seen.requests == [report.as_uri()]


@pytest.mark.browser
def test_the_keyboard_is_enough_and_an_address_leads_back(report: Path, opened: Opener) -> None:
    with opened(report, "#kind=fixed") as seen:
        page = seen.page
        names = [row.get_attribute("data-id") for row in page.locator("#table tbody tr").all()]
        page.locator("#table tbody tr").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        until(page, f"document.getElementById('panel-title')?.textContent === {json.dumps(names[1])}")
        page.keyboard.press("ArrowRight")
        until(page, f"document.getElementById('panel-title').textContent === {json.dumps(names[2])}")
        page.keyboard.press("Escape")
        until(page, f"!document.getElementById('panel').open && document.activeElement.dataset.id === {json.dumps(names[2])} && location.hash === '#kind=fixed'")
        page.keyboard.press("/")
        page.keyboard.type("no such words")
        until(page, "document.getElementById('found').textContent.startsWith('0 of')")
        page.click("#clear")
        page.locator("table.matrix td a").first.click()
        until(page, "location.hash.startsWith('#slice=')")
        assert seen.messages == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_hangs_over_the_edge_and_it_prints(report: Path, opened: Opener, width: int) -> None:
    with opened(report, "#kind=fixed", viewport={"width": width, "height": 844}, color_scheme="dark") as seen:
        page = seen.page
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.locator("#table tbody tr td.wordy").first.click()
        until(page, "document.getElementById('panel').open")
        assert page.evaluate("document.getElementById('panel').scrollWidth") <= width
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Hostile text in every field of both runs, and around them."
    place = tmp_path_factory.mktemp("poisoned")
    one, two = made_comparison.pair(place, items=2 * len(PAYLOADS), gain=0.6)
    store = Objects(place / ".llmops" / "objects")
    for run in (one, two):
        records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
        for number, record in enumerate(records):
            name = record["item"]["id"] + PAYLOADS[number % len(PAYLOADS)]
            records[number] = poison(record)
            records[number]["item"]["id"] = name
            if record["answer"]:
                records[number]["answer"]["text"] += PAYLOADS[number % len(PAYLOADS)]
        (run / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        info = json.loads((run / "run.json").read_text())
        kept = {"digests": {**info["digests"], "prompt": store.put(f"---\nvariables: {{question: str}}\n---\n[user]\n{run.name}{PAYLOADS[1]}{{{{ question }}}}")}, "id": info["id"], "app": info["app"] + PAYLOADS[0]}
        (run / "run.json").write_text(json.dumps(poison(info) | kept))
    found = compare(open_run(one), open_run(two), allow=["selection"], labels=(f"old{PAYLOADS[2]}", f"new{PAYLOADS[1]}"))
    found = replace(found, notes=(*found.notes, PAYLOADS[4]), differs=(PAYLOADS[5],))
    return render_comparison(found, place / "report.html")


@pytest.mark.browser
def test_hostile_content_does_nothing_and_is_shown_as_it_is(poisoned: Path, opened: Opener) -> None:
    with opened(poisoned) as seen:
        page = seen.page
        names = page.evaluate("[...document.querySelectorAll('#table tbody tr')].map((row) => row.dataset.id)")
        assert len(names) == 50
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        for index in range(0, 50, 3):
            page.evaluate(f"document.querySelectorAll('#table tbody tr')[{index}].querySelector('td.wordy').click()")
            until(page, f"document.getElementById('panel-title')?.textContent === {json.dumps(names[index])}")
            page.evaluate("for (const details of document.querySelectorAll('#panel details')) details.open = true")
            page.evaluate("document.getElementById('panel').close()")
        page.evaluate("document.querySelector('table.matrix a').click()")
        page.wait_for_timeout(300)
        assert page.evaluate("window.__pwned") is None and seen.dialogs == [] and seen.requests == [poisoned.as_uri()] and seen.messages == []
        assert page.evaluate("document.querySelectorAll('iframe, object, embed, base, svg script, form:not(#filters), meta[http-equiv=refresh], link:not([rel=icon]), main style, audio, video').length") == 0
        addresses = page.evaluate("[...document.querySelectorAll('[href], [src], [action]')].map((e) => e.getAttribute('href') || e.getAttribute('src') || '?')")
        assert addresses and not [a for a in addresses if not re.match(r"#|data:,$", a)]
        shown = page.evaluate("document.body.textContent")
        for text in (f"old{PAYLOADS[2]}", f"new{PAYLOADS[1]}", PAYLOADS[4]):
            assert html_text(text) in shown
