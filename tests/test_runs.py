"""Runs are executed with kernels from a warm process, alone, by many threads at once, and in a Dask worker; their record says how."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from llmops_nb import engine
from llmops_nb.core import ConfigurationError, RunError
from llmops_nb.evals import open_run
from llmops_nb.runs import resume_run, run_notebook
from llmops_nb.settings import load_settings
from loopback import loopback, project

SPEC = {"name": "python3", "display_name": "python3", "language": "python"}
WAY = "fork" if sys.platform == "linux" else "pool"
EVALUATE = """
from llmops_nb import evaluate, load_app, load_golden
from llmops_nb.scorers import exact_match
evaluate(load_app("."), load_golden("golden/loop.jsonl"), [exact_match], run_dir or None)
"""


def notebook(path: Path, *cells: str) -> Path:
    "A notebook whose first cell holds a parameter and the run's directory."
    first = nbformat.v4.new_code_cell('x: int = 1\nrun_dir: str = ""', id="parameters", metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(cell, id=f"c{number}") for number, cell in enumerate(cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata={"kernelspec": SPEC}), path)
    return path


def value(directory: Path) -> str:
    "What the executed notebook of a run ends with."
    return str(nbformat.read(directory / "notebook.ipynb", 4).cells[-1].outputs[-1]["data"]["text/plain"])


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    engine.close_servers()


@pytest.mark.parametrize("name", ["", "plain"])
def test_a_run_says_how_it_was_executed_and_what_it_belongs_to(tmp_path: Path, name: str) -> None:
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 8)
        path = notebook(here / "eval.ipynb", EVALUATE)
        run = run_notebook(path, {}, load_settings(here), progress=False, sweep="20260101-000000-abcd", engine=name)
    info = open_run(run.directory).info
    assert (info.status, info.sweep, info.budget, info.totals["items"]) == ("finished", "20260101-000000-abcd", "", 8)
    assert info.environment["engine"].startswith(name or WAY) and "numpy" in info.environment["packages"]


def test_a_budget_is_named_relative_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    path = notebook(tmp_path / "e" / "n.ipynb", "import json\njson.load(open(run_dir + '/run.json'))['budget']")
    run = run_notebook(path, {}, load_settings(tmp_path), progress=False, budget=tmp_path / "reports" / "e" / "s" / "budget.sqlite")
    assert run.info.budget == "../s/budget.sqlite" and value(run.directory) == "'../s/budget.sqlite'"


def test_an_engine_that_is_not_there_is_refused_before_anything_exists(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    with pytest.raises(ConfigurationError, match="No engine named 'fats'. Known: .*'plain'"):
        run_notebook(notebook(tmp_path / "e" / "n.ipynb", "1"), {}, load_settings(tmp_path), engine="fats")
    assert not (tmp_path / "reports").exists()


def test_a_failed_run_is_resumed_by_either_engine(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    path = notebook(tmp_path / "e" / "n.ipynb", "import os\nassert os.path.exists('ready'), 'not yet'\nx")
    for name in ("", "plain"):
        with pytest.raises(RunError, match="AssertionError in cell 2 of n.ipynb: not yet"):
            run_notebook(path, {"x": 5}, load_settings(tmp_path), progress=False, engine=name, directory=tmp_path / "reports" / "e" / f"r{name}")
        failed = open_run(tmp_path / "reports" / "e" / f"r{name}")
        assert failed.info.status == "failed" and failed.info.environment["engine"].startswith(name or WAY)
        (tmp_path / "e" / "ready").touch()
        assert resume_run(failed, load_settings(tmp_path), progress=False, engine="" if name else "plain").info.status == "finished"
        assert value(failed.directory) == "5"
        (tmp_path / "e" / "ready").unlink()


def test_many_threads_execute_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    paths = [notebook(tmp_path / f"e{number}" / "n.ipynb", "import os, time\ntime.sleep(0.3)\nx, os.getcwd()") for number in range(2)]
    here, level, threads = os.getcwd(), logging.getLogger("papermill").level, threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda x: run_notebook(paths[x % 2], {"x": x}, load_settings(tmp_path), progress=False), range(8)))
    assert [value(run.directory) for run in runs] == [str((x, str(tmp_path / f"e{x % 2}"))) for x in range(8)]
    assert {run.info.status for run in runs} == {"finished"} and len({run.id for run in runs}) == 8
    assert os.getcwd() == here and logging.getLogger("papermill").level == level and threading.active_count() <= threads


def test_runs_are_executed_in_a_dask_worker(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    path = notebook(tmp_path / "e" / "n.ipynb", "import jinja2, os\nx, os.getppid()")
    program = f"""
        import json
        from pathlib import Path
        def one(x):
            from llmops_nb.runs import run_notebook
            from llmops_nb.settings import load_settings
            run = run_notebook(Path({str(path)!r}), {{"x": x}}, load_settings(Path({str(tmp_path)!r})), progress=False)
            return str(run.directory), run.info.environment["engine"]
        if __name__ == "__main__":
            from distributed import Client, LocalCluster
            with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
                print(json.dumps(list(client.get_executor().map(one, range(4)))))"""
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [how for _, how in runs] == [f"{WAY}, with jinja2, os imported ahead"] * 4
    values = [value(Path(directory)).strip("()").split(", ") for directory, _ in runs]
    assert [x for x, _ in values] == ["0", "1", "2", "3"]
    assert WAY == "pool" or len({server for _, server in values}) == 1, "the runs of a worker share its warm process"


@pytest.mark.local
def test_the_process_of_a_local_model_ends_with_its_run(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    code = "from llmops_nb.local import local_model\nmodel = local_model('qwen2.5-coder-0.5b')\nmodel([{'role': 'user', 'content': 'Say yes.'}], max_tokens=2)\nmodel._child.process.pid"
    run = run_notebook(notebook(tmp_path / "e" / "n.ipynb", code), {}, load_settings(tmp_path), progress=False)
    with pytest.raises(ProcessLookupError):
        os.kill(int(value(run.directory)), 0)
