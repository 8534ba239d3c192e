"""A run that is killed goes on and pays for no finished item again: shown with real kills and a server that counts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from llmops_nb.evals import open_run, read_records
from loopback import Loopback, loopback, project

ITEMS, AT_ONCE, KILLS = 500, 4, 50
SCRIPT = """
import sys
from pathlib import Path
from llmops_nb.app import load_app
from llmops_nb.datasets import load_golden
from llmops_nb.evals import evaluate
from llmops_nb.scorers import exact_match
from llmops_nb.settings import load_settings
here = Path(sys.argv[1])
evaluate(load_app(here), load_golden(here / "golden/loop.jsonl"), [exact_match], here / "run", settings=load_settings(here), progress=False)
"""
NOTEBOOK = """
from llmops_nb import evaluate, load_app, load_golden
from llmops_nb.scorers import exact_match
evaluate(load_app("."), load_golden("golden/loop.jsonl"), [exact_match], run_dir or None)
"""


def asked_again(server: Loopback, run: Path) -> list[str]:
    "Items that were asked after they had been finished."
    finished = {r.item.question: r.at for r in read_records(run / "records.jsonl") if r.error is None}
    return [text for when, text in server.requests() if when > finished.get(text, float("inf"))]


def kill_when_busy(process: subprocess.Popen[bytes], server: Loopback, before: int, wait: float) -> bool:
    "Kill a process some time after its first request; False when it had ended by itself."
    deadline = time.monotonic() + 60
    while len(server.requests()) <= before and process.poll() is None:
        assert time.monotonic() < deadline, "no request within a minute"
        time.sleep(0.005)
    time.sleep(wait)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cache", ["no", "yes"])
def test_killed_many_times_a_run_pays_for_nothing_twice(tmp_path: Path, cache: str) -> None:
    chance = random.Random(20)
    kills = KILLS if cache == "no" else 10
    with loopback(tmp_path / "log", latency=0.01) as server:
        here = project(tmp_path, server.url, ITEMS, concurrency=AT_ONCE, cache=cache)
        command = [sys.executable, "-c", SCRIPT, str(here)]
        done = 0
        for _ in range(kills):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            done += kill_when_busy(process, server, len(server.requests()), chance.uniform(0, 0.025))
            lines = (here / "run" / "records.jsonl").read_bytes() if (here / "run" / "records.jsonl").exists() else b""
            assert all(json.loads(line) for line in lines.split(b"\n")[:-1])  # Whole lines, but for the last
        assert done == kills, "every process was killed while it worked"
        before = len(read_records(here / "run" / "records.jsonl"))
        assert 0 < before < ITEMS
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        run = open_run(here / "run")
        assert asked_again(server, here / "run") == []
        requests = len(server.requests())
    assert run.info.status == "finished"
    assert len(run.records) == ITEMS == run.metric("exact_match").n
    assert run.metric("exact_match").value == 0.75
    # At each kill, at most the calls under way are lost
    assert ITEMS <= requests <= ITEMS + kills * AT_ONCE


def loop_notebook(path: Path) -> None:
    cell = nbformat.v4.new_code_cell('run_dir: str = ""', id="parameters")
    cell.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(NOTEBOOK, id="run")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.mark.timeout(300)
def test_the_commands_resume_a_killed_notebook_run(tmp_path: Path) -> None:
    llmops = [sys.executable, "-m", "llmops_nb"]
    with loopback(tmp_path / "log", latency=0.1) as server:
        here = project(tmp_path, server.url, 240, concurrency=AT_ONCE, cache="no")
        loop_notebook(here / "eval.ipynb")
        for number in range(3):
            command = [*llmops, "run", str(here / "eval.ipynb")] if number == 0 else [*llmops, "resume", "last"]
            process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            assert kill_when_busy(process, server, len(server.requests()), 0.4)
        last = subprocess.run([*llmops, "resume", "last", "--json", "--quiet"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert last.returncode == 0, last.stderr
        info = json.loads(last.stdout)
        run = tmp_path / "reports" / "loop" / info["id"]
        assert asked_again(server, run) == []
        assert len(server.requests()) <= 240 + 3 * AT_ONCE
    assert info["status"] == "finished" and info["totals"]["items"] == 240
    assert (run / "report.html").stat().st_size > 10_000
    listed = subprocess.run([*llmops, "runs", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [r["id"] for r in json.loads(listed.stdout)] == [info["id"]]
    shown = subprocess.run([*llmops, "show", "last", "--item", "i7", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["answer"]["text"] == "7"


def test_interrupting_keeps_what_was_paid_for(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.02) as server:
        here = project(tmp_path, server.url, ITEMS, concurrency=AT_ONCE, cache="no")
        # A process started in the background of a shell ignores SIGINT; a person's does not
        listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + SCRIPT
        process = subprocess.Popen([sys.executable, "-c", listening, str(here)], stderr=subprocess.PIPE, text=True)
        while len(server.requests()) < 40:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        asked = len(server.requests())
        safe = len(read_records(here / "run" / "records.jsonl"))
    assert process.returncode != 0
    assert safe == asked, "every call under way was waited for and kept"
    assert f"{safe} of {ITEMS} items are safe" in said and "llmops resume run" in said
    assert open_run(here / "run").info.status == "interrupted"


def test_interrupting_the_command_keeps_what_was_paid_for(tmp_path: Path) -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from llmops_nb.commands import main; main(prog_name='llmops')"
    with loopback(tmp_path / "log", latency=0.3) as server:
        here = project(tmp_path, server.url, 200, concurrency=AT_ONCE, cache="no")
        loop_notebook(here / "eval.ipynb")
        command = [sys.executable, "-c", program, "run", str(here / "eval.ipynb")]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while len(server.requests()) < 12:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # As Ctrl-C in a terminal
        _, said = process.communicate(timeout=60)
        (run,) = (tmp_path / "reports" / "loop").iterdir()
        assert process.returncode == 130 and "Traceback" not in said, said
        assert f"Go on with: llmops resume {run.name}" in said
        assert open_run(run).info.status == "interrupted"
        assert len(read_records(run / "records.jsonl")) == len(server.requests()), "every call under way was waited for and kept"


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.2) as server:
        here = project(tmp_path, server.url, 400, concurrency=2, cache="no")
        first = subprocess.Popen([sys.executable, "-c", SCRIPT, str(here)], stderr=subprocess.DEVNULL)
        try:
            while len(server.requests()) < 2:
                time.sleep(0.01)
            second = subprocess.run([sys.executable, "-c", SCRIPT, str(here)], capture_output=True, text=True, timeout=60)
            assert "Another process is writing the run" in second.stderr
            assert first.poll() is None
        finally:
            first.kill()
            first.wait()


def test_a_full_disk_stops_the_run_and_keeps_it_readable(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 200, concurrency=AT_ONCE, cache="no", trace="no")
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        full = subprocess.run([sys.executable, "-c", limit + SCRIPT, str(here)], capture_output=True, text=True, timeout=60)
        assert "No space left to write records.jsonl" in full.stderr, full.stderr
        kept = len(read_records(here / "run" / "records.jsonl"))
        assert 0 < kept < 200
        subprocess.run([sys.executable, "-c", SCRIPT, str(here)], check=True, capture_output=True, timeout=60)
        assert asked_again(server, here / "run") == []
    assert open_run(here / "run").info.totals["items"] == 200
