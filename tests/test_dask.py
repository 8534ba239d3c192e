"""A sweep on a real Dask cluster of two workers, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from llmops_nb.core import RunError
from llmops_nb.evals import read_records
from llmops_nb.settings import load_settings
from llmops_nb.spaces import Plan
from llmops_nb.sweeps import run_sweep
from loopback import loopback
from sweeping import sweeping

distributed = pytest.importorskip("distributed")


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_midway_costs_only_the_calls_under_way(tmp_path: Path) -> None:
    items, at_once = 60, 2
    with (
        loopback(tmp_path / "log", latency=0.05) as server,
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")) as cluster,
        distributed.Client(cluster) as client,
    ):
        here = sweeping(tmp_path, server.url, items, concurrency=at_once, cache="no", trace="no")
        workers = client.run(os.getpid)
        assert len(workers) == 2
        killed: list[int] = []

        def kill() -> None:
            while len(server.requests()) < items // 2:
                time.sleep(0.02)
            at_work = [address for address, tasks in client.processing().items() if tasks]
            killed.append(workers[at_work[0]])
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        plan = Plan(app=str(here), vary={"prompt": ["plain.md", "kind.md", "wrong.md"]}, pilot=0, workers=2)
        found = run_sweep(plan, load_settings(tmp_path), client.get_executor(pure=False), progress=False)
        killer.join(10)
        counts = Counter(text for _, text in server.requests())
    assert killed, "a worker was killed while it worked"
    assert found.info.status == "finished" and {c.status for c in found.info.cells} == {"finished"}
    records = [r for c in found.info.cells for run in found.runs(c.id) for r in read_records(run.directory / "records.jsonl")]
    assert len(records) == 4 * items and not [r for r in records if r.error]
    assert len(counts) == 4 * items
    assert 4 * items <= counts.total() <= 4 * items + at_once, "only what was under way at the kill is asked again"


def test_no_scheduler_is_an_error_in_words(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 4)
        with pytest.raises(RunError, match="No Dask scheduler answers at 'tcp://127.0.0.1:1'"):
            run_sweep(Plan(app=str(here), vary={"max_tokens": [4]}, pilot=0), load_settings(tmp_path), "tcp://127.0.0.1:1", progress=False)
        assert server.requests() == []
