"""Sweeps over a real server that counts: killed, raced, stopped, held to a budget, and judged."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops_nb.budgets import Limits
from llmops_nb.core import BudgetError, ConfigurationError, RunError
from llmops_nb.evals import open_run, read_records
from llmops_nb.settings import load_settings
from llmops_nb.spaces import Plan
from llmops_nb.sweeps import all_sweeps, find_sweep, open_sweep, resume_sweep, run_sweep
from loopback import Loopback, loopback
from sweeping import sweeping, write_plan

LLMOPS = [sys.executable, "-m", "llmops_nb"]


def command(root: Path, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLMOPS, *map(str, words)], cwd=root, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, **options)


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def asked_again(server: Loopback, reports: Path) -> list[str]:
    "Questions that were asked after their record was in a journal."
    finished = {r.answer.messages[-1]["content"]: r.at for path in reports.glob("*-c*-r*") for r in read_records(path / "records.jsonl") if r.answer}
    return [text for when, text in server.requests() if when > finished.get(text, float("inf"))]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("kind", "kills"), [("app", 8), ("notebook", 2)])
def test_killed_at_any_moment_a_sweep_pays_for_nothing_twice(tmp_path: Path, kind: str, kills: int) -> None:
    chance, items, at_once = random.Random(5), 60, 4
    with loopback(tmp_path / "log", latency=0.03) as server:
        here = sweeping(tmp_path, server.url, items, concurrency=at_once, cache="no", trace="no")
        plan = write_plan(here, vary={"prompt": ["kind.md", "plain.md", "say.md"]}, workers=2, pilot=0)
        if kind == "app":
            plan.write_text(plan.read_text().replace("notebook: eval.ipynb", "app: .").replace("exact_match", "task_success").replace("workers: 2", "workers: 1"))
        for number in range(kills):
            words = ["sweep", str(plan), "--yes", "--quiet"] if number == 0 else ["sweep", "resume", "last", "--quiet"]
            process = subprocess.Popen([*LLMOPS, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
            before = len(server.requests())
            until(lambda: len(server.requests()) > before or process.poll() is not None)  # noqa: B023
            time.sleep(chance.uniform(0, 0.25))
            assert process.poll() is None, process.stderr and process.stderr.read()
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = command(tmp_path, "sweep", "resume", "last", "--quiet", "--json")
        assert done.returncode == 0, done.stderr
        info = json.loads(done.stdout)
        (reports,) = {s.directory.parent for s in all_sweeps(load_settings(tmp_path))}
        assert asked_again(server, reports) == []
        counts = Counter(text for _, text in server.requests())
        assert len(counts) == 3 * items
        assert 3 * items <= counts.total() <= 3 * items + kills * 2 * at_once  # At each kill the calls under way are lost
    assert info["status"] == "finished" and [c["status"] for c in info["cells"]] == ["finished"] * 3
    assert info["totals"]["items"] == 3 * items and info["totals"]["errors"] == 0
    assert info["totals"]["calls"] >= counts.total(), "what was under way at a kill counts as made"
    reports_written = list(reports.glob("*-c*-r0/report.html"))
    assert len(reports_written) == 3
    listed = json.loads(command(tmp_path, "sweep", "list", "--json").stdout)
    assert [s["id"] for s in listed] == [info["id"]]
    assert "sweep, 3 of 3 runs finished" in command(tmp_path, "runs").stdout


def test_the_winner_is_named_and_weak_cells_are_dropped_early(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.02) as server:
        here = sweeping(tmp_path, server.url, 300, concurrency=4)
        (here / "app.yaml").write_text("name: loop\nprompt: wrong.md\nmodel: {max_tokens: 16}\n")  # The app as it is is poor
        plan = Plan(app=str(here), vary={"prompt": ["plain.md", "wrong.md"], "max_tokens": [8, 16]}, objective="exact_match", racing=0.05, pilot=2, workers=1)
        (here / "plan.yaml").unlink(missing_ok=True)
        plan = Plan(**{**{f: getattr(plan, f) for f in plan.__dataclass_fields__}, "notebook": str(here / "eval.ipynb")})
        found = run_sweep(plan, load_settings(tmp_path), progress=False)
        requests = len(server.requests())
    states = {cell.label: cell.status for cell in found.info.cells}
    weak = found.cell(next(c.id for c in found.info.cells if c.values.get("prompt") == "wrong.md" and not c.baseline))
    assert weak.status == "dropped" and "is worse than prompt=plain" in weak.note, states
    raced = found.verdicts[weak.id]
    assert raced.sentence.startswith("Dropped by the race:") and raced.adjusted is None  # its fixed-size test would be too sure
    assert found.info.cells[0].baseline and found.info.cells[0].status == "finished", "all others need the baseline"
    saved = found.info.totals["saved"]
    assert saved > 100 and found.info.totals["items"] == 4 * 300 - saved
    assert requests == found.info.totals["calls"] <= 4 * 300 - saved
    (stopped,) = found.runs(weak.id)
    assert stopped.info.status == "stopped" and stopped.info.note == weak.note
    assert found.cell(found.info.winner).values["prompt"] == "plain.md" and " wins: " in found.info.verdict
    assert found.verdicts[found.info.winner].outcome == "better"
    again = resume_sweep(found, load_settings(tmp_path), progress=False)
    assert again.cell(weak.id).status == "dropped" and again.info.totals["calls"] == requests
    standing = {p.label: p.standing for p in found.pareto()}
    assert standing[weak.label] == "dominated" and standing[found.cell(found.info.winner).label] == "front"
    assert set(found.to_pandas()["verdict"]) >= {"baseline", "better"}
    assert "wins" in found._repr_html_() and "<script" not in found._repr_html_()


def test_without_a_difference_there_is_no_winner(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 30, concurrency=8)
        found = run_sweep(Plan(app=str(here), vary={"prompt": ["plain.md", "kind.md"]}, objective="normalised_match", repeats=2), load_settings(tmp_path), progress=False)
        assert found.info.status == "failed" and "No objective named 'normalised_match'" in found.info.note
        found = run_sweep(Plan(app=str(here), vary={"prompt": ["plain.md", "kind.md"]}, objective="task_success", repeats=2), load_settings(tmp_path), progress=False)
        before = len(server.requests())
    assert found.info.status == "finished" and found.info.winner == "" and found.info.verdict.startswith("No winner")
    assert [len(found.runs(c.id)) for c in found.info.cells] == [2, 2, 2]
    assert before == 3 * 2 * 30, "repeats are kept apart, and what the failed sweep had asked was remembered"
    assert found.info.cells[0].label == "as it is" and found.info.cells[0].values == {}


def test_a_cell_that_fails_stops_no_other(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 10, concurrency=4)
        plan = write_plan(here, vary={"prompt": ["refused.md", "plain.md"]}, pilot=0)
        done = command(tmp_path, "sweep", plan, "--yes", "--quiet")
    assert done.returncode == 3, done.stderr
    found = find_sweep("last", load_settings(tmp_path))
    states = {c.values.get("prompt", "as it is"): c.status for c in found.info.cells}
    assert states == {"as it is": "finished", "refused.md": "failed", "plain.md": "finished"}
    assert "401" in found.cell("c01").note and "verysecret" not in done.stdout + found.cell("c01").note
    assert "c01 failed" in done.stdout and f"llmops sweep resume {found.id}" in done.stdout


def test_a_budget_stops_a_sweep_that_can_go_on_with_more(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.01) as server:
        here = sweeping(tmp_path, server.url, 40, concurrency=4)
        settings = load_settings(tmp_path)
        plan = Plan(notebook=str(here / "eval.ipynb"), vary={"prompt": ["plain.md", "kind.md"]}, objective="exact_match", pilot=0, workers=2)
        with pytest.raises(BudgetError, match=r"needs 120 calls \(0 more are answered from memory\), and its budget is 100"):
            run_sweep(Plan(**{**vars(plan), "budget": Limits(calls=100)}), settings, progress=False)
        assert server.requests() == [] and all_sweeps(settings) == []
        # An answer costs about 5 millionths; so much is foretold without a pilot only as a range, and the ledger holds
        found = run_sweep(Plan(**{**vars(plan), "budget": Limits(money=0.0007)}), settings, progress=False)
        assert found.info.status == "interrupted" and "BudgetError" in found.info.note
        asked = len(server.requests())
        assert 0 < asked < 120 and found.info.totals["spent"] <= 0.0007
        assert {c.status for c in found.info.cells} <= {"finished", "stopped", "waiting"}
        with pytest.raises(RunError, match="shares"):
            raise RunError(command(tmp_path, "resume", found.runs("c00")[0].id, "--calls", "9").stderr) if found.runs("c00") else RunError("shares")
        done = resume_sweep(found, settings, limits=Limits(money=0.1), progress=False)
        assert done.info.status == "finished" and len(server.requests()) == 120
        assert done.info.totals["spent"] > 0.0003


def test_a_sweep_is_stopped_and_resumed_by_command(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.2) as server:
        here = sweeping(tmp_path, server.url, 60, concurrency=2)
        plan = write_plan(here, vary={"prompt": ["plain.md"]}, pilot=0, workers=1)
        process = subprocess.Popen([*LLMOPS, "sweep", str(plan), "--yes", "--quiet"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: len(server.requests()) >= 4)
        assert command(tmp_path, "sweep", "stop", "last", "--why", "enough for today").returncode == 0
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 3, errors
        asked = len(server.requests())
        found = find_sweep("last", load_settings(tmp_path))
        assert found.info.status == "stopped" and found.info.note == "enough for today" and asked < 60
        assert f"llmops sweep resume {found.id}" in said
        assert command(tmp_path, "sweep", "stop", "last").returncode == 1, "it does not run any more"


def test_ctrl_c_keeps_what_was_paid_for(tmp_path: Path) -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from llmops_nb.commands import main; main(prog_name='llmops')"
    with loopback(tmp_path / "log", latency=0.2) as server:
        here = sweeping(tmp_path, server.url, 80, concurrency=2)
        plan = write_plan(here, vary={"prompt": ["plain.md"]}, pilot=0, workers=2)
        process = subprocess.Popen([sys.executable, "-c", program, "sweep", str(plan), "--yes", "--quiet"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until(lambda: len(server.requests()) >= 6)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        found = find_sweep("last", load_settings(tmp_path))
        safe = sum(len(read_records(run.directory / "records.jsonl")) for c in found.info.cells for run in found.runs(c.id))
        assert found.info.status == "interrupted" and safe == len(server.requests()), "every call under way was waited for and kept"


def test_processes_of_a_pool_run_cells_as_threads_do(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 12, concurrency=4)
        with ProcessPoolExecutor(2) as pool:
            found = run_sweep(Plan(app=str(here), vary={"max_tokens": [4, 8, 16]}), load_settings(tmp_path), pool, progress=False)
        assert found.info.status == "finished" and len(server.requests()) == 3 * 12
    assert found.info.cells[0].values == {"max_tokens": 16}, "the plan contains the app as it is"


def test_optuna_learns_from_finished_cells_and_resumes(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 12, concurrency=4)
        settings = load_settings(tmp_path)
        plan = Plan(app=str(here), vary={"prompt": ["plain.md", "wrong.md"], "max_tokens": {"low": 2, "high": 9, "step": 1}}, sampler="optuna", trials=6, seed=3, pilot=1)
        found = run_sweep(plan, settings, progress=False)
        assert len(found.info.cells) == 7 and found.info.status == "finished"
        first = [c.values for c in found.info.cells]
        # Cut off after four cells, as by a kill: the same proposals come again, and nothing is asked again
        before = len(server.requests())
        info = json.loads((found.directory / "sweep.json").read_text())
        info["cells"], info["status"] = info["cells"][:4], "running"
        (found.directory / "sweep.json").write_text(json.dumps(info))
        again = resume_sweep(open_sweep(found.directory), settings, progress=False)
        assert [c.values for c in again.info.cells] == first and len(server.requests()) == before


def test_forecast_stands_beside_what_was(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 20, concurrency=4)
        plan = write_plan(here, vary={"prompt": ["plain.md", "kind.md"]}, repeats=2, pilot=3)
        said = command(tmp_path, "sweep", plan, "--quiet")
        assert said.returncode == 1 and "Call it with --yes" in said.stderr, "nobody can be asked"
        assert len(server.requests()) == 9, "the pilot alone"
        done = command(tmp_path, "sweep", plan, "--yes", "--quiet", "--json")
        info = json.loads(done.stdout)
        assert info["forecast"]["pilot"] == 0 and info["forecast"]["total"]["to_pay"] == 120 - 9 == info["totals"]["calls"]
        assert len(server.requests()) == 120
        cost = info["forecast"]["total"]["cost"]
        assert cost["low"] - 1e-9 <= info["totals"]["spent"] <= cost["high"] + 1e-9
    shown = command(tmp_path, "sweep", "show", "last").stdout
    assert "foretold: 111 calls" in shown and "No winner" in shown


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"vary": {"topk": [1, 2]}}, "No parameter of the app or its notebook named 'topk'"),
        ({"vary": {"prompt": ["nowhere.md"]}}, "nowhere.md"),
        ({"vary": {"model": ["gpt-nothing"]}}, "No model alias named 'gpt-nothing'"),
        ({"vary": {"prompt": []}}, "at least one"),
        ({"vary": {}}, "varies nothing"),
        ({"vary": {"max_tokens": [4, 4]}}, "4 stands there twice"),
        ({"sampler": "list", "cells": [{"max_tokens": 4}, {"max_tokens": 4}]}, "stands in the plan twice"),
        ({"sampler": "lucky", "vary": {"max_tokens": [4]}}, "No sampler named 'lucky'"),
        ({"vary": {"max_tokens": {"low": 1, "high": 9}}}, "A grid needs a step"),
        ({"vary": {"max_tokens": [4, 8]}, "skip": ["max_tokens > 1"]}, "leaves out every combination"),
        ({"vary": {"max_tokens": [4, 8]}, "skip": ["max_tokens >"]}, "cannot be evaluated"),
        ({"vary": {"max_tokens": [4, "many"]}}, "max_tokens is of type int"),
        ({"vary": {"max_tokens": [4]}, "fixed": {"split": "test"}}, "of the test split"),
        ({"vary": {"max_tokens": [4]}, "repeats": 0}, "repeats"),
        ({"vary": {"max_tokens": [4]}, "objective": "latency", "racing": 0.05}, "between 0 and 1"),
        ({"vary": {"max_tokens": [4]}, "bugdet": {"money": 1}}, "Did you mean 'budget'"),
        ({"vary": {"max_tokens": [4]}, "budget": {"dollars": 1}}, "No key named 'dollars'"),
        ({"vary": {"max_tokens": [4]}, "budget": {"calls": 3}}, "needs 8 calls"),
        ({"vary": {"repeat": [0, 1]}}, "ask for them with `repeats`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_spent(tmp_path: Path, plan: dict[str, Any], message: str) -> None:
    from llmops_nb.spaces import load_plan

    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 4)
        golden = (here / "golden" / "loop.jsonl").read_text()
        (here / "golden" / "loop.jsonl").write_text(golden + '{"id": "sealed", "question": "Say <x>", "split": "test"}\n')
        with pytest.raises((ConfigurationError, BudgetError)) as error:
            run_sweep(load_plan(write_plan(here, **plan)), load_settings(tmp_path), progress=False)
        assert message in str(error.value) and "\n" not in str(error.value)
        assert server.requests() == [] and all_sweeps(load_settings(tmp_path)) == []


def test_a_run_may_have_a_budget_of_its_own(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 30, concurrency=4)
        done = command(tmp_path, "run", here / "eval.ipynb", "--calls", 12, "--quiet")
        assert done.returncode == 1 and "budget of 12 calls is used up" in done.stderr, done.stderr
        assert len(server.requests()) == 12
        done = command(tmp_path, "resume", "last", "--calls", 100, "--quiet", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["totals"]["items"] == 30
        assert len(server.requests()) == 30
    (run,) = (tmp_path / "reports" / "loop").iterdir()
    assert open_run(run).info.budget == "budget.sqlite"


def local_children() -> set[int]:
    "Processes that hold a local model and descend from this one."
    parents, found = {}, set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if b"_llama_child" in (path / "cmdline").read_bytes():
                found.add(int(path.name))
        except OSError:
            pass
    mine = set()
    for process in found:
        above = process
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            mine.add(process)
    return mine


@pytest.mark.local
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_local_model_is_loaded_once_and_lent_to_all_cells(tmp_path: Path) -> None:
    here = sweeping(tmp_path, "http://127.0.0.1:1/v1", 3, concurrency=4)
    ours = load_settings(Path(__file__).parent)
    settings = replace(load_settings(tmp_path), model="local/smollm2-135m", weights=ours.weights)
    (tmp_path / "settings.ini").write_text(f"[llmops]\nmodel = local/smollm2-135m\nweights = {ours.weights}\n")
    before, seen = local_children(), set[int]()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.update(local_children() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        plan = Plan(notebook=str(here / "eval.ipynb"), vary={"prompt": ["plain.md", "kind.md"], "max_tokens": [4, 16]}, objective="exact_match", pilot=1)
        found = run_sweep(plan, settings, progress=False)
    finally:
        done.set()
        watcher.join()
    assert found.info.status == "finished" and found.info.totals["errors"] == 0, found.info.cells
    assert len(found.info.cells) == 5 and len(seen) == 1, "one process held the model for the pilot and for five cells"
    assert not (found.directory / ".models").exists() and "LLMOPS_LENT_MODELS" not in os.environ
    assert not [path for path in found.directory.parent.rglob("*") if path.is_file() and b"127.0.0.1" in path.read_bytes() and path.suffix in (".ipynb", ".html")]


def test_the_front_takes_noise_for_what_it_is() -> None:
    from llmops_nb._sweeps_front import front
    from llmops_nb._sweeps_journals import Seen

    chance = random.Random(8)

    def cell(right: float, cost: float, latency: float, n: int = 80) -> list[dict[str, Seen]]:
        return [{f"i{k}": Seen(float(k < right * n), cost, chance.gauss(latency, latency / 10)) for k in range(n)}]

    cells = {"good": cell(0.9, 1.0, 2.0), "twin": cell(0.9, 1.0, 2.0), "weak": cell(0.4, 1.0, 2.0), "cheap": cell(0.5, 0.1, 1.0), "hair": cell(0.88, 1.0, 2.0)}
    found = {p.cell: (p.standing, p.by) for p in front({name: (name, repeats) for name, repeats in cells.items()}, "task_success")}
    assert found["good"][0] == found["twin"][0] == found["cheap"][0] == "front", "equals beat each other in nothing; cheap is cheaper"
    assert found["weak"][0] == "dominated" and found["weak"][1] in ("good", "twin", "cheap")
    assert found["hair"][0] == "perhaps dominated", "one item more shows nothing"
    unknown = front({"a": ("a", [{"i": Seen(None, None, 1.0)}]), "b": ("b", cell(0.5, 1, 1))}, "task_success")
    assert [p.standing for p in unknown] == ["unknown", "front"]
