"""The report of 1,000 items: seconds in a new process and again in the same one, and megabytes.

The ideal is what no report can do without: reading the journal and packing it (JSON parsed, written, compressed).
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import made_run  # noqa: E402

from llmops_nb.reports import render  # noqa: E402

GOAL_SECONDS, GOAL_MEGABYTES = 5, 5


def best(work: Callable[[], object], times: int = 3) -> float:
    "Seconds of the fastest of some tries."
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> list[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as place:
        run = made_run.make(Path(place) / "run")
        journal = (run / "records.jsonl").read_bytes()
        ideal = best(lambda: gzip.compress(json.dumps([json.loads(line) for line in journal.splitlines()]).encode(), 6))
        code = f"from pathlib import Path; from llmops_nb.reports import render; render(Path({str(run)!r}))"
        cold = best(lambda: subprocess.run([sys.executable, "-c", code], check=True))
        warm = best(lambda: render(run))
        size = (run / "report.html").stat().st_size / 1e6
    return [
        (f"journal of {len(journal) / 1e6:.1f} MB parsed, written and compressed, no report", ideal, "the ideal"),
        (f"report of 1,000 items, {size:.2f} MB, in a new process", cold, f"{cold / ideal:.1f} × ideal (goal ≤ {GOAL_SECONDS} s and {GOAL_MEGABYTES} MB)"),
        ("the same again in one process", warm, f"{warm / ideal:.1f} × ideal"),
    ]


if __name__ == "__main__":
    for name, seconds, ratio in main():
        print(f"{name:<60} {seconds:7.3f} s  {ratio}")
