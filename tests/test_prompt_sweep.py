"""PromptSweep spends only what was forecast, loses nothing, and writes only what it has shown."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab import browser_page, idle, lab, menu, needs_chromium, notebook, shot
from llmops_nb.app import read_definition
from llmops_nb.core import RunError
from llmops_nb.prompt_sweep import PromptSweep
from llmops_nb.spaces import load_plan
from llmops_nb.versions import read_trail
from loopback import Loopback, loopback, project

HOSTILE = '</td><script>alert("x")</script><img src=x onerror=alert(1)>'
OTHER = "---\nvariables: {question: str}\n---\n[user]\nSay <other> first. {{ question }}\n"


def small(root: Path, server: Loopback, items: int = 8, **settings: object) -> PromptSweep:
    "A project that asks the server, with a sealed item, and its widget."
    home = project(root, server.url, items, **settings)
    with (home / "golden" / "loop.jsonl").open("a") as file:
        file.write(json.dumps({"id": "sealed", "question": "Say <sealed>", "expected": "sealed", "split": "test"}) + "\n")
    return PromptSweep(home)


def do(widget: PromptSweep, command: str, /, **arguments: object) -> dict[str, Any]:
    "A message that must not fail; the body that follows."
    answer = widget.handle({"do": command, **arguments})
    assert answer["problem"] == ""
    return dict(answer["body"])


def tried(widget: PromptSweep) -> PromptSweep:
    "The widget with another wording in its plan, forecast."
    do(widget, "edit", file="say.md", text=OTHER)
    do(widget, "keep", name="say-2.md")
    do(widget, "foresee")
    widget.wait(60)
    return widget


def test_from_the_first_wording_to_app_yaml(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = small(tmp_path, server)
        assert "1 of the test split is sealed" in widget.body()["golden"]
        body = do(widget, "edit", file="say.md", text=OTHER.replace("question }}", "qestion }}"))
        assert not body["prompt"]["ok"] and "Did you mean 'question'?" in body["prompt"]["says"]
        assert (widget.home / "say.md").read_text() != body["prompt"]["text"]
        body = tried(widget).body()
        assert body["size"] == "2 cells × 8 items = 16 answers." and body["can_run"] and len(server.requests()) == 8
        assert body["forecast"]["total"]["to_pay"] == "8" and "50% from memory" in body["forecast"]["total"]["cached"]
        do(widget, "run")
        widget.wait(60)
        assert max(Counter(text for _, text in server.requests()).values()) == 1 and len(server.requests()) == 16
        rows = widget.body()["sweep"]["rows"]
        assert [row["marks"] for row in rows] == ["wrrrwrrr", "rwwwrwww"]
        assert [row["outcome"] for row in rows] == ["the app as it is", "not enough evidence"]
        assert not widget.body()["can_run"], "a forecast is used up by its sweep"
        arms = do(widget, "look", item="i1", cells=["c00", "c01"])["answers"]["arms"]
        assert [(arm["mark"], arm["pieces"]) for arm in arms] == [("right", [["removed", "1"]]), ("wrong", [["added", "other"]])]
        do(widget, "pin", cell="c01")
        app = (widget.home / "app.yaml").read_text()
        shown = do(widget, "offer", what="app")["offer"]["lines"]
        assert ["added", "prompt: say-2.md"] in shown and (widget.home / "app.yaml").read_text() == app
        do(widget, "make")
        assert read_definition(widget.home / "app.yaml").prompt == "say-2.md"
        do(widget, "offer", what="label")
        assert not (widget.home / "labels.yaml").exists()
        do(widget, "make")
        assert read_trail(widget.home / "say-2.md").now["candidate"]
        do(widget, "offer", what="plan")
        do(widget, "make")
        assert load_plan(widget.home / "sweep.yaml").vary == {"prompt": ["say.md", "say-2.md"]}


def test_what_was_shown_is_what_is_written(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = tried(small(tmp_path, server, 2))
        do(widget, "run")
        widget.wait(60)
        do(widget, "pin", cell="c01")
        do(widget, "offer", what="app")
        path = widget.home / "app.yaml"
        path.write_text(path.read_text() + "description: somebody's\n")
        assert "no longer what was shown" in widget.handle({"do": "make"})["problem"]
        assert read_definition(path).prompt == "say.md"
        do(widget, "make")
        assert (read_definition(path).prompt, read_definition(path).description) == ("say-2.md", "somebody's")


def test_stopped_in_the_middle_and_resumed_by_another_kernel(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.1) as server:
        widget = tried(small(tmp_path, server, 24, concurrency=1))
        do(widget, "run")
        while (sweep := widget.body()["sweep"]) is None or sum(row["marks"].count(".") for row in sweep["rows"]) > 40:
            time.sleep(0.1)
        do(widget, "stop")
        widget.wait(60)
        assert widget.task is not None and widget.task.status == "stopped" and "nothing is paid for twice" in widget.task.text
        again = PromptSweep(widget.home)
        sweep = again.body()["sweep"]
        assert sweep["status"] == "stopped" and sweep["resumable"] and any("." in row["marks"] for row in sweep["rows"])
        do(again, "go_on")
        again.wait(60)
        assert again.body()["sweep"]["status"] == "finished" and not any("." in row["marks"] for row in again.body()["sweep"]["rows"])
        assert len(server.requests()) == 48 and set(Counter(text for _, text in server.requests()).values()) == {1}


SCRIPT = """
import sys, time
from llmops_nb.prompt_sweep import PromptSweep
widget = PromptSweep(sys.argv[1])
widget.handle({"do": "run"})
print("running", flush=True)
time.sleep(60)
"""


def test_a_killed_kernel_pays_for_nothing_twice(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.1) as server:
        widget = tried(small(tmp_path, server, 24, concurrency=1))
        kernel = subprocess.Popen([sys.executable, "-c", SCRIPT, str(widget.home)], stdout=subprocess.PIPE, text=True)
        assert kernel.stdout is not None and kernel.stdout.readline() == "running\n"
        while len(server.requests()) < 14:
            time.sleep(0.05)
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.wait()
        again = PromptSweep(widget.home)
        assert again.body()["sweep"]["status"] == "interrupted" and again.body()["sweep"]["resumable"]
        do(again, "go_on")
        again.wait(60)
        assert again.body()["sweep"]["status"] == "finished"
        asked = Counter(text for _, text in server.requests())
        assert len(asked) == 48 and sum(asked.values()) <= 49, "at most the call that was under way"


def test_a_plan_that_cannot_be_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = small(tmp_path, server)
        before = widget.state
        for message, problem in [
            ({"do": "add", "name": "tempperature", "text": "1"}, "Did you mean 'temperature'"),
            ({"do": "add", "name": "temperature", "text": "hot"}, "temperature"),
            ({"do": "add", "name": "temperature", "text": "[1"}, "no value for temperature"),
            ({"do": "add", "name": "temperature", "text": "0"}, "twice"),
            ({"do": "add", "name": "model", "text": "gpt-9"}, "No model alias named 'gpt-9'"),
            ({"do": "add", "name": "prompt", "text": "nowhere.md"}, "No prompt file named"),
            ({"do": "choose", "slice": "none", "limit": 0, "repeats": 1, "racing": False}, "slice='none'"),
            ({"do": "choose", "slice": "", "limit": -1, "repeats": 1, "racing": False}, "or more"),
            ({"do": "choose", "slice": "", "limit": 0, "repeats": 0, "racing": False}, "repeats"),
            ({"do": "afford", "money": -1, "calls": None, "seconds": None}, "0 or more"),
            ({"do": "keep", "name": "../other.md"}, "is a path"),
            ({"do": "keep", "name": "say.md"}, "There is a say.md already"),
            ({"do": "show_prompt", "file": "../../settings.ini"}, "No prompt named"),
            ({"do": "run"}, "Forecast this plan first"),
            ({"do": "foresee"}, "varies nothing"),
            ({"do": "look", "item": "i1"}, "No sweep has been run yet"),
            ({"do": "pin", "cell": "c00"}, "No sweep has been run yet"),
            ({"do": "offer", "what": "app"}, "No sweep has been run yet"),
        ]:
            assert problem in widget.handle(message)["problem"], message
        says = do(widget, "edit", file="say.md", text=OTHER.replace("question", "demand"))["prompt"]
        assert not says["ok"] and says["says"] == "Prompt 'say' cannot be used here: it does not declare question, which loop fills in; loop does not fill in demand."
        assert "fills in" in widget.handle({"do": "keep", "name": "say-2.md"})["problem"]
        assert not (widget.home / "say-2.md").exists() and widget.state.vary == before.vary == {}
        assert server.requests() == []


def test_a_plan_beyond_the_budget_is_not_run(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = small(tmp_path, server, 24)
        do(widget, "add", name="temperature", text="0.5")
        do(widget, "afford", money=None, calls=20, seconds=None)
        do(widget, "foresee")
        widget.wait(60)
        body = widget.body()
        assert not body["can_run"] and "20" in body["refused"]
        assert widget.handle({"do": "run"})["problem"] == body["refused"]
        asked = len(server.requests())
        assert asked == 0
        assert not do(widget, "afford", money=None, calls=500, seconds=None)["can_run"], "another plan needs another forecast"
        assert len(server.requests()) == asked


def test_values_are_read_as_what_they_are(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = small(tmp_path, server)
        do(widget, "add", name="temperature", text="")
        do(widget, "add", name="temperature", text="0.5")
        do(widget, "add", name="max_tokens", text="8")
        assert widget.state.vary == {"temperature": [0.0, 0.5], "max_tokens": [16, 8]}
        assert PromptSweep(widget.home).state.vary == widget.state.vary
        assert do(widget, "choose", slice="even", limit=3, repeats=2, racing=True)["size"] == "4 cells × 3 items × 2 repeats = 24 answers."
        do(widget, "drop", name="max_tokens", place=0)
        body = do(widget, "drop", name="max_tokens", place=0)
        assert [row["name"] for row in body["vary"]] == ["temperature"]


def test_nothing_becomes_markup(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        home = project(tmp_path, server.url, 1)
        row = {"id": HOSTILE, "question": f"<{HOSTILE.replace('<', '').replace('>', '')}> {HOSTILE}", "expected": HOSTILE, "slices": [HOSTILE]}
        (home / "golden" / "loop.jsonl").write_text(json.dumps(row))
        widget = PromptSweep(home)
        do(widget, "edit", file="say.md", text=OTHER + HOSTILE)
        assert "<script" not in widget.still() and "<img" not in widget.still()
        tried(widget)
        do(widget, "run")
        widget.wait(60)
        do(widget, "look", item=HOSTILE)
        do(widget, "pin", cell="c01")
        shown = widget.still()
        assert set(re.findall(r"</?(\w+)", shown)) <= {"p", "b", "pre", "table", "thead", "tbody", "tr", "th", "td", "del", "ins"}
        assert "&lt;script&gt;" in shown


def test_an_executed_notebook_and_its_report_hold_the_sweep(tmp_path: Path) -> None:
    import papermill
    from llmops_nb.reports import notebook_html

    with loopback(tmp_path / "log") as server:
        small(tmp_path, server)
        (tmp_path / "experiments" / "loop" / "say-2.md").write_text(OTHER)
        first = "from llmops_nb.prompt_sweep import PromptSweep\n\nsweep = PromptSweep('experiments/loop')\nsweep"
        later = "sweep.handle({'do': 'add', 'name': 'prompt', 'text': 'say-2.md'})\nsweep.handle({'do': 'foresee'})\nsweep.wait()\nsweep.handle({'do': 'run'})\nsweep.wait()"
        made = papermill.execute_notebook(str(notebook(tmp_path / "in.ipynb", first, later)), str(tmp_path / "out.ipynb"), progress_bar=False, cwd=str(tmp_path))
    kept = made.cells[0].outputs[0]["data"]
    assert "6 right, 2 wrong" in kept["text/html"] and "No winner" in kept["text/html"] and "application/vnd.jupyter.widget-view+json" in kept
    assert "6 right, 2 wrong" in notebook_html((tmp_path / "out.ipynb").read_text())


def test_a_failure_of_long_work_is_told(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        widget = small(tmp_path, server, 2)
        tried(widget)
        (widget.home / "say-2.md").unlink()
        do(widget, "run")
        with pytest.raises(RunError, match="say-2.md"):
            widget.wait(60)
        assert "say-2.md" in widget.snapshot()["problem"] and widget.snapshot()["task"]["status"] == "failed"


@pytest.mark.browser
@needs_chromium
@pytest.mark.timeout(300)
def test_a_prompt_is_improved_in_jupyterlab(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with loopback(tmp_path / "log", latency=0.25) as server:
        home, errors = small(tmp_path, server, 16, concurrency=1).home, list[str]()
        notebook(tmp_path / "sweep.ipynb", "from llmops_nb.prompt_sweep import PromptSweep\n\nPromptSweep('experiments/loop')")
        with lab(tmp_path, tmp_path / "home") as address, browser_page(address.format("sweep.ipynb"), errors, height=1400, patience=90_000) as page:
            menu(page, "Run", "Run All Cells")
            widget = page.locator(".llmops-widget")
            text = widget.get_by_label("Text of say.md")
            text.fill(OTHER.replace("question }}", "qestion }}"))
            expect(widget.locator(".ps-says")).to_contain_text("Did you mean 'question'?")
            text.fill(OTHER)
            expect(widget.locator(".ps-says")).to_contain_text("Declares question")
            widget.get_by_role("button", name="Save and try it").click()
            expect(widget.locator(".ps-value")).to_have_count(2)
            expect(widget.get_by_role("button", name="Run", exact=True)).to_be_disabled()
            widget.get_by_role("button", name="Forecast").click()
            expect(widget.locator(".ps-forecast")).to_contain_text("of 32 calls")
            widget.get_by_role("button", name="Run", exact=True).click()
            expect(widget.locator(".ps-squares")).to_have_count(2)
            expect(widget.locator(".ps-cell").first).to_contain_text(re.compile("running|[1-9]+ / 16"))
            editor, tally = widget.locator("textarea.ps-text"), widget.locator(".ps-cell").first
            before, count = editor.input_value(), tally.inner_text()
            editor.press_sequentially("and while it runs", delay=50)
            expect(tally).not_to_have_text(count)  # At least one drawing later
            for _ in range(2):
                page.keyboard.press("Control+z")
            expect(editor).to_have_value(before)
            widget.get_by_label("Vary another parameter").evaluate("(list) => { list.focus(); window.list = list; }")
            count = tally.inner_text()
            expect(tally).not_to_have_text(count)
            assert page.evaluate("document.activeElement === list && list.isConnected")
            shot(page, "prompt_sweep_running")
            widget.get_by_role("button", name="Stop").click()
            expect(widget.locator(".chip").get_by_text("stopped", exact=True).first).to_be_visible()
            asked = len(server.requests())
            assert asked < 32
            menu(page, "Kernel", "Restart Kernel…")
            page.get_by_role("button", name="Confirm Kernel Restart").click()
            idle(page)
            menu(page, "Run", "Run All Cells")
            widget.get_by_role("button", name="Go on").click()
            expect(widget.locator(".ps-verdict")).to_contain_text("No winner")
            expect(widget.locator(".ps-cell").nth(1)).to_contain_text("16 / 16")
            widget.locator(".ps-squares").nth(1).click(position={"x": 16, "y": 4})
            arms = widget.locator(".ps-arm")
            expect(arms.nth(0).locator("del")).to_have_text("1")
            expect(arms.nth(1).locator("ins")).to_have_text("other")
            widget.focus()
            page.keyboard.press("j")
            expect(arms.nth(0).locator("del")).to_have_text("2")
            page.keyboard.press("p")
            expect(widget.locator(".ps-pinned")).to_contain_text("prompt=say-2")
            widget.get_by_role("button", name="Bring it into app.yaml").click()
            expect(widget.locator(".ps-lines .added")).to_contain_text("prompt: say-2.md")
            shot(page, "prompt_sweep")
            widget.get_by_role("button", name="Write it").click()
            expect(widget.locator(".ps-offer")).to_have_count(0)
            page.evaluate("document.activeElement.blur()")  # The picture in the notebook is brought up to date
            page.wait_for_timeout(800)
            widget.focus()
            page.keyboard.press("Control+s")
            for _ in range(200):
                if '16 / 16' in (saved := (tmp_path / "sweep.ipynb").read_text()):
                    break
                page.wait_for_timeout(100)
        assert errors == []
        assert set(Counter(text for _, text in server.requests()).values()) == {1} and len(server.requests()) == 32
    assert read_definition(home / "app.yaml").prompt == "say-2.md"
    assert "16 / 16" in saved and "prompt=say-2" in saved
