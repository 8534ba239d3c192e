"""Reports of 1,000, 10,000 and 100,000 items, and of a comparison of as many: seconds, megabytes of the file, and the memory of the process that writes it.

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
if len(sys.argv) == 2:
    render(Path(sys.argv[1]))
else:
    from llmops_nb.comparisons import compare
    from llmops_nb.comparison_reports import render_comparison
    from llmops_nb.evals import open_run
    one, other = (open_run(Path(name)) for name in sys.argv[1:])
    found = compare(one, other)
    print("compared", time.perf_counter() - start)
    start = time.perf_counter()
    render_comparison(found, other.directory / "comparison.html")
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


def alone(*runs: Path) -> tuple[float, float, float]:
    "Seconds and bytes of memory of one report in a process of its own, and seconds of comparing two runs before it."
    done = subprocess.run([sys.executable, "-c", CODE, *map(str, runs)], check=True, capture_output=True, text=True)
    *before, last = done.stdout.splitlines()
    seconds, memory = map(float, last.split())
    return seconds, memory, float(before[0].split()[1]) if before else 0.0


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
            seconds, memory, _ = alone(run)
            size, journal_size = (run / "report.html").stat().st_size, (run / "records.jsonl").stat().st_size
            note = f"{seconds / items * 1e6:.0f} µs an item, page {size / 1e6:.1f} MB, {memory / 1e6:.0f} MB more memory; the journal alone, parsed: {parsed:.2f} s"
            found.append((f"report of {items:,} items, journal of {journal_size / 1e6:,.0f} MB", seconds, note))
            seconds, memory, compared = alone(run, run)
            size = (run / "comparison.html").stat().st_size
            found.append((f"report of a comparison of 2 × {items:,} items", seconds, f"page {size / 1e6:.1f} MB, {memory / 1e6:.0f} MB more memory with comparing, which took {compared:.2f} s"))
    return found


if __name__ == "__main__":
    for name, seconds, ratio in main():
        print(f"{name:<70} {seconds:7.3f} s  {ratio}")
