"""Reports of 1,000, 10,000 and 100,000 items: seconds, megabytes of the file, and the memory of the process that writes it.

The ideal is what no report can do without: reading the journal once (JSON parsed), packing the items that are shown (JSON written,
compressed). The memory is the peak of a new process minus its peak after the imports.
"""

from __future__ import annotations

import gzip
import json
import random
import re
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
SIZES = (1_000, 10_000, 100_000)
CODE = r"""
import re, resource, sys, time
from pathlib import Path
import nbconvert, numpy, jinja2
from llmops_nb.reports import render

def peak():
    "Bytes of memory at the highest; Linux says it of this program alone."
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = peak()
start = time.perf_counter()
render(Path(sys.argv[1]))
print(time.perf_counter() - start, peak() - before)
"""


def best(work: Callable[[], object], times: int = 3) -> float:
    "Seconds of the fastest of some tries."
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def grown(run: Path, items: int) -> Path:
    "The run with as many items, made of its first thousand under other names."
    lines = (run / "records.jsonl").read_text("utf-8").splitlines()[:1000]
    records, rng = [json.loads(line) for line in lines], random.Random(7)
    with (run / "records.jsonl").open("w", encoding="utf-8") as file:
        for number in range(items):
            record = records[number % 1000]
            record["item"]["id"] = re.sub(r"\d+$", f"{number:06d}", record["item"]["id"])
            for score in record["scores"]:
                score["value"] = rng.random() if score["name"] == "token_f1" and score["value"] is not None else score["value"]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "items": items}))
    return run


def alone(run: Path) -> tuple[float, float]:
    "Seconds and bytes of memory of one report in a process of its own."
    done = subprocess.run([sys.executable, "-c", CODE, str(run)], check=True, capture_output=True, text=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def read(run: Path) -> int:
    "The journal parsed, line by line, and nothing kept."
    with (run / "records.jsonl").open("rb") as file:
        return sum(len(json.loads(line)) for line in file)


def main() -> list[tuple[str, float, str]]:
    found: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as place:
        run = made_run.make(Path(place) / "run")
        journal = (run / "records.jsonl").read_bytes()
        ideal = best(lambda: gzip.compress(json.dumps([json.loads(line) for line in journal.splitlines()]).encode(), 6))
        warm = best(lambda: render(run))
        found.append((f"journal of {len(journal) / 1e6:.1f} MB parsed, written and compressed, no report", ideal, "the ideal"))
        found.append(("report of 1,000 items in a process that is warm", warm, f"{warm / ideal:.1f} × ideal (goal ≤ {GOAL_SECONDS} s and {GOAL_MEGABYTES} MB)"))
        for items in SIZES:
            grown(run, items)
            parsed = best(lambda: read(run), 1)
            seconds, memory = alone(run)
            size, journal_size = (run / "report.html").stat().st_size, (run / "records.jsonl").stat().st_size
            note = f"{seconds / items * 1e6:.0f} µs an item, page {size / 1e6:.1f} MB, {memory / 1e6:.0f} MB more memory; the journal alone, parsed: {parsed:.2f} s"
            found.append((f"report of {items:,} items, journal of {journal_size / 1e6:,.0f} MB", seconds, note))
    return found


if __name__ == "__main__":
    for name, seconds, ratio in main():
        print(f"{name:<70} {seconds:7.3f} s  {ratio}")
