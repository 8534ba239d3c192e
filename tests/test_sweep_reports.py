"""The report of a sweep shows what each cell did, says what is not finished, and does nothing that its content wants."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import browsing
import made_comparison
import pytest
from browsing import PAYLOADS, Elements, Opener, html_text, poison, until

from llmops_nb.cells import HEIGHT, cell_rows, plot
from llmops_nb.core import RunError, to_json
from llmops_nb.reports import render
from llmops_nb.spaces import Cell
from llmops_nb.stats import Estimate
from llmops_nb.sweep_reports import ahead, board_of, crossings, effects, heat, remarks, render_sweep, shade, sweep_page
from llmops_nb.sweeps import Sweep, SweepInfo, open_sweep

opened = browsing.opened  # The browser, as a fixture


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A sweep of 12 cells over 40 items with its report and one of a run."
    found = made_comparison.sweep(tmp_path_factory.mktemp("sweep"), items=40)
    for name in ("c00", "c06"):
        render(found.parent / f"{found.name}-{name}-r0")
    render_sweep(found)
    return found


@pytest.fixture(scope="module")
def sweep(directory: Path) -> Sweep:
    return open_sweep(directory)


def changed(directory: Path, **fields: Any) -> str:
    "The page of a sweep of which some fields are different."
    return sweep_page(Sweep(directory, replace(open_sweep(directory).info, **fields)))


# ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_policy_admits_the_texts_of_the_page_and_nothing_else(directory: Path) -> None:
    elements = Elements((directory / "report.html").read_text("utf-8"))
    (content,) = [a["content"] for tag, a in elements.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in content.split("; "))
    code = [text for text in elements.inside["script"] if not re.fullmatch(r"[A-Za-z0-9+/=]+", text)]
    for rule, (text,) in {"script-src": code, "style-src": elements.inside["style"]}.items():
        assert rules[rule] == "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag


def test_every_link_leads_somewhere(directory: Path) -> None:
    elements = Elements((directory / "report.html").read_text("utf-8"))
    ids = {a["id"] for _, a in elements.found if "id" in a}
    addresses = [a["href"] for tag, a in elements.found if tag == "a"]
    assert all(href[1:] in ids for href in addresses if href.startswith("#"))
    files = {href.partition("#")[0] for href in addresses if not href.startswith("#")}
    flips = {file for file in files if file.startswith("comparisons/")}
    assert len(flips) == 5 and files - flips == {f"../{directory.name}-{name}-r0/report.html" for name in ("c00", "c06")}
    assert all((directory / file).resolve().is_file() for file in files)


def test_every_cell_stands_with_its_numbers_and_its_reason(directory: Path, sweep: Sweep) -> None:
    html = (directory / "report.html").read_text("utf-8")
    rows = cell_rows(sweep)
    assert [row.cell.id for row in rows][-1] == "c09" and len(rows) == 12  # The failed one has no number
    values = [row.quality.value for row in rows if row.quality.value is not None]
    assert values == sorted(values, reverse=True)
    for cell in sweep.info.cells:
        assert f'id="cell-{cell.id}"' in html
        if cell.note:
            assert cell.note in html
    assert sweep.info.verdict in html.replace("&#39;", "'") and "1 of 12 cells failed" in html
    assert all(row.against.verdict.sentence in html for row in rows if row.against)
    assert {row.cell.id for row in rows if row.against} == {cell.id for cell in sweep.info.cells if cell.status in ("finished", "dropped") and not cell.baseline}


def test_equal_sweeps_give_equal_pages_of_bounded_size(directory: Path) -> None:
    assert sweep_page(open_sweep(directory)) == sweep_page(open_sweep(directory))
    assert (directory / "report.html").stat().st_size < 400_000


# ── Sweeps that are not finished, or lack something ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("status", "words"), [("running", "has not finished"), ("interrupted", "was interrupted"), ("stopped", "was stopped"), ("failed", "failed with"), ("forecast", "Nothing has run yet")])
def test_a_sweep_that_did_not_end_says_so(directory: Path, status: str, words: str) -> None:
    html = changed(directory, status=status, verdict="", winner="", note="BudgetError: no <money> left", totals={})
    assert words in html and "No verdict" in html and "no &lt;money&gt; left" in html
    assert ("llmops sweep resume" in html) == (status != "forecast")


def test_a_sweep_without_anything(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"sweep\.json is missing"):
        render_sweep(tmp_path)
    (tmp_path / "sweep.json").write_bytes(to_json(SweepInfo("s", "app")))
    assert "No verdict yet" in render_sweep(tmp_path).read_text("utf-8")
    cells = (Cell("c00", {}, "the app as it is", ("s-c00-r0",), baseline=True), Cell("c01", {"k": 1}, "k=1", ("s-c01-r0",), "failed", note="it broke"))
    (tmp_path / "sweep.json").write_bytes(to_json(SweepInfo("s", "app", cells=cells)))
    html = render_sweep(tmp_path).read_text("utf-8")
    assert "it broke" in html and 'id="front"' not in html and 'id="map"' not in html


def test_journals_that_are_torn_or_gone_cost_their_cells_only(tmp_path: Path) -> None:
    directory = made_comparison.sweep(tmp_path, items=12)
    (directory.parent / f"{directory.name}-c01-r0" / "records.jsonl").write_text('{"item": 3}\n{"torn\n')
    (directory.parent / f"{directory.name}-c02-r0" / "records.jsonl").unlink()
    html = render_sweep(directory).read_text("utf-8")
    assert html.count('id="cell-') == 12 and 'id="map"' in html
    assert "c01" not in board_of(open_sweep(directory)).cells
    values = {row.cell.id: row.quality.value for row in cell_rows(open_sweep(directory))}
    assert {name for name, value in values.items() if value is None} == {"c01", "c02", "c09"}


def test_all_values_equal_and_not_a_number(tmp_path: Path) -> None:
    directory = made_comparison.sweep(tmp_path, items=6)
    for path in directory.parent.glob("*/records.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            for score in record["scores"]:
                score["value"] = 1.0 if score["value"] is not None else None
            if record["answer"]:
                record["answer"]["usage"] |= {"latency": 1.0, "cost": 0.0}
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    html = render_sweep(directory).read_text("utf-8")
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", html, flags=re.S)
    assert "Every cell solves every item" in shown and not re.search(r"\bnan\b|\binf\b|None", shown)


# ── What is computed for drawing ────────────────────────────────────────────────────────────────────────────────────


def test_effects_average_by_item_over_the_cells_that_have_a_value(sweep: Sweep) -> None:
    board, rows = board_of(sweep), cell_rows(sweep)
    found = {effect.name: effect for effect in effects(sweep, board)}
    assert set(found) == {"prompt", "model", "top_k"} and list(found.values()) == sorted(found.values(), key=lambda e: -e.spread)
    whole = [cell for cell in sweep.info.cells if cell.status == "finished"]
    common = set.intersection(*(set(board.column(cell.id)) for cell in whole))
    for value, n, estimate, _, _ in found["model"].levels:
        cells = [cell for cell in whole if cell.values["model"] == value]
        expected = sum(board.column(cell.id)[item] for cell in cells for item in common) / (len(cells) * len(common))
        assert n == len(cells) and estimate.value == pytest.approx(expected) and estimate.low <= expected <= estimate.high
    crossed = crossings(sweep, effects(sweep, board), rows)
    assert len(crossed) == 3 and all(len(values) == len(c.columns) for c in crossed for _, values in c.rows)


def test_the_map_counts_all_items_and_shows_some(sweep: Sweep) -> None:
    board, rows = board_of(sweep), cell_rows(sweep)
    found = heat(sweep, board, rows)
    assert found
    solved = {item: [cell for cell in board.cells if board.column(cell).get(item, 0) >= 0.5] for item in board.items}
    asked = {item: [cell for cell in board.cells if item in board.column(cell)] for item in board.items}
    known = [item for item in board.items if asked[item]]
    none, every = sum(not solved[i] for i in known), sum(len(solved[i]) == len(asked[i]) for i in known)
    assert found.sentence.startswith(f"Of {len(known)} items, {none} are solved by no cell, {every} by every cell")
    assert [by for _, by, _ in found.rows[:none]] == [f"0 of {len(asked[i])}" for i, _, _ in found.rows[:none]]
    assert len(found.rows) == len(known) - every and all(len(squares) == len(found.cells) == 11 for _, _, squares in found.rows)


def test_the_plot_stands_inside_its_field_and_its_stairs_rise(sweep: Sweep) -> None:
    rows = cell_rows(sweep)
    for name in ("cost", "latency"):
        drawn = plot(rows, sweep.info, name)
        assert drawn and len(drawn.dots) == 11
        assert all(0 <= dot.x <= 100 and 0 <= dot.y <= HEIGHT and 0 <= (dot.high or 0) <= (dot.low or 0) <= HEIGHT for dot in drawn.dots)
        assert all(x1 <= x2 and y1 >= y2 for x1, y1, x2, y2 in drawn.steps)  # To the right and up
        corners = {(x, y) for x1, y1, x2, y2 in drawn.steps for x, y in ((x1, y1), (x2, y2))}
        assert not any(dot.x <= x and dot.y < y and (dot.x, dot.y) != (x, y) for dot in drawn.dots for x, y in corners & {(d.x, d.y) for d in drawn.dots})
    assert plot([replace(row, keys=(row.keys[0], 0.0, None, 1.0)) for row in rows], sweep.info, "cost") is None  # Free models
    assert plot(rows, sweep.info, "latency") is not None


@pytest.mark.parametrize(
    ("expected", "actual", "outcome"),
    [(Estimate(10.0, 8.0, 12.0, 4, ""), 12.5, "above"), (Estimate(10.0, 8.0, 12.0, 4, ""), 12.0, "inside"), (Estimate(10.0, 8.0, 12.0, 4, ""), 0, "below"), (Estimate(10.0, None, None, 4, ""), 10, "inside"),
     (Estimate(None, None, 12.0, 4, ""), 3, ""), (Estimate(10.0, 8.0, 12.0, 4, ""), None, ""), (Estimate(10.0, 8.0, 12.0, 4, ""), float("nan"), "")],
)  # fmt: skip
def test_a_forecast_is_inside_or_not(expected: Estimate, actual: Any, outcome: str) -> None:
    assert ahead("x", expected, actual, "USD").outcome == outcome


def test_shades_and_remarks() -> None:
    assert [shade(x, 0.0, 1.0) for x in (-1, 0, 0.5, 1, 2)] == [0, 0, 5, 9, 9] and shade(1, 1, 1) == 4
    assert remarks(SweepInfo("s", "a", "finished")) == []


# ── In a browser ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.browser
def test_sort_switch_and_follow(directory: Path, opened: Opener) -> None:
    with opened(directory / "report.html") as seen:
        page = seen.page
        names = "[...document.querySelectorAll('#cells-table tbody tr')].map((row) => row.id)"
        first = page.evaluate(names)
        page.get_by_role("button", name="Cost", exact=True).click()
        costs = "[...document.querySelectorAll('#cells-table tbody tr')].map((row) => row.querySelectorAll('td[data-sort]')[5].dataset.sort)"
        down = page.evaluate(costs)
        page.get_by_role("button", name="Cost", exact=True).press("Enter")
        up = page.evaluate(costs)
        assert down[-1] == up[-1] == "" and page.evaluate(names)[-1] == "cell-c09"  # What is not known stands last
        assert list(map(float, down[:-1])) == sorted(map(float, up[:-1]), reverse=True) and up[:-1] == down[:-1][::-1]
        page.get_by_role("button", name="Cost", exact=True).click()
        assert page.evaluate(names) == first
        assert page.locator(".for-cost").is_visible() and not page.locator(".for-latency").is_visible()
        page.get_by_text("Time of an answer").click()
        assert page.locator(".for-latency").is_visible() and not page.locator(".for-cost").is_visible()
        page.locator(".for-latency a").first.click()
        until(page, "location.hash.startsWith('#cell-') && document.querySelector('tr:target')")
        assert seen.messages == [] and seen.requests == [(directory / "report.html").as_uri()]


@pytest.mark.browser
def test_a_square_leads_to_the_item_in_the_report_of_its_run(directory: Path, opened: Opener) -> None:
    with opened(directory / "report.html", alone=False) as seen:
        page = seen.page
        square = page.locator(".heat td a").first
        item = square.locator("xpath=ancestor::tr/th").inner_text()
        square.click()
        until(page, "document.documentElement.dataset.ready && document.getElementById('panel-title')")
        assert page.locator("#panel-title").inner_text() == item and seen.messages == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_hangs_over_the_edge_in_light_dark_and_print(directory: Path, opened: Opener, width: int) -> None:
    with opened(directory / "report.html", viewport={"width": width, "height": 844}, color_scheme="dark") as seen:
        page = seen.page
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
        assert page.locator(".for-latency").is_visible() and page.locator(".for-cost").is_visible()
    with opened(directory / "report.html", wait=False, java_script_enabled=False) as plain:
        assert plain.page.locator("#cells-table tbody tr").count() == 12 and plain.page.locator(".heat").is_visible()


@pytest.mark.browser
def test_hostile_content_does_nothing_and_is_shown_as_it_is(tmp_path: Path, opened: Opener) -> None:
    directory = made_comparison.sweep(tmp_path, items=len(PAYLOADS))
    for path in directory.parent.glob("*/records.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for number, record in enumerate(records):
            name = record["item"]["id"] + PAYLOADS[number % len(PAYLOADS)]
            records[number] = poison(record)
            records[number]["item"]["id"] = name
            for score, was in zip(records[number]["scores"], record["scores"], strict=True):
                score["name"] = was["name"]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    info = open_sweep(directory).info
    cells = tuple(replace(c, label=c.label + PAYLOADS[n], note=PAYLOADS[-n], values={k + PAYLOADS[2]: str(v) + PAYLOADS[n] for k, v in c.values.items()}) for n, c in enumerate(info.cells))
    plan = replace(info.plan, name=PAYLOADS[0], vary={PAYLOADS[2]: [PAYLOADS[1], 3]}, fixed={"x": {PAYLOADS[3]: PAYLOADS[4]}}, notebook=PAYLOADS[5])
    (directory / "sweep.json").write_bytes(to_json(replace(info, app=info.app + PAYLOADS[1], cells=cells, plan=plan, note=PAYLOADS[6], verdict=PAYLOADS[7])))
    with opened(render_sweep(directory)) as seen:
        page = seen.page
        page.evaluate("for (const button of document.querySelectorAll('th button')) button.click()")
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.wait_for_timeout(300)
        assert page.evaluate("window.__pwned") is None and seen.dialogs == [] and seen.messages == [] and len(seen.requests) == 1
        assert page.evaluate("document.querySelectorAll('iframe, object, embed, base, svg script, form, meta[http-equiv=refresh], link:not([rel=icon]), main style, audio, video, img').length") == 0
        shown = page.evaluate("document.body.textContent")
        for text in (PAYLOADS[0], PAYLOADS[3], PAYLOADS[6], PAYLOADS[7], cells[3].note):
            assert html_text(text) in shown
        assert html_text(cells[3].values["prompt" + PAYLOADS[2]]) in shown
