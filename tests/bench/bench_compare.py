"""Two runs of 10,000 and of 100,000 items compared: seconds and megabytes, each in a process of its own.

The ideal is what no comparison can do without: reading both journals line by line. Memory must be bounded by the columns
that are kept (a few hundred bytes an item), not by the journals.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_RATIO = 13.0  # Seconds for ten times the items
GOAL_BYTES = 1500  # Of memory for each item of either run, the journals being 8,000

PADDING = "A passage of the length that passages have. " * 90  # prompt and passages: what is read over


def write(place: Path, items: int, seed: int) -> Path:
    "A run directory with a journal of full-sized records."
    draw = random.Random(seed)
    place.mkdir(parents=True)
    with open(place / "records.jsonl", "w", encoding="utf-8") as file:
        for number in range(items):
            right = float(draw.random() < 0.7)
            usage = {"prompt_tokens": 700, "completion_tokens": 60, "latency": draw.lognormvariate(0, 0.5), "cost": 0.001}
            scores = [{"name": "task_success", "value": right, "why": "", "error": ""}, {"name": "groundedness", "value": draw.random(), "why": "2 of 3", "error": ""},
                      {"name": "evidence_recall", "value": None if number % 7 == 0 else right, "why": "", "error": ""}, {"name": "latency", "value": usage["latency"], "why": "", "error": ""},
                      {"name": "cost", "value": 0.001, "why": "", "error": ""}]  # fmt: skip
            item = {"id": f"item-{number:06d}", "question": f"Question {number}?", "expected": f"answer {number}", "facts": [["a"]], "evidence": [{"document": f"d{number // 4}", "quote": "x"}],
                    "answerable": True, "slices": [f"slice {number % 5}"], "split": "dev", "origin": "author", "note": ""}  # fmt: skip
            answer = {"text": "An answer [1].", "model": "m", "usage": usage, "messages": [{"role": "user", "content": PADDING}], "passages": [{"chunk": {"text": PADDING[:3500]}, "score": 1.0}]}
            file.write(json.dumps({"item": item, "answer": answer, "scores": scores, "error": None, "seconds": 1.0, "at": 1.0}) + "\n")
    about = {"id": place.name, "app": "bench", "status": "finished", "items": items, "selection": "all", "digests": {"golden": "a" * 64, "scorers": "b" * 64, "app": place.name}}
    (place / "run.json").write_text(json.dumps(about))
    return place


CHILD = """
import resource, sys, time
from pathlib import Path
import numpy, pandas, scipy.stats
from llmops_nb.comparisons import compare
from llmops_nb.evals import open_run
from llmops_nb.store import read_journal
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runs = [open_run(Path(name)) for name in sys.argv[1:3]]
start = time.perf_counter()
bytes_read = sum(len(line) for run in runs for _, line in read_journal(run.directory / "records.jsonl"))
read = time.perf_counter() - start
start = time.perf_counter()
found = compare(*runs)
taken = time.perf_counter() - start
assert found.items == int(sys.argv[3]) and len(found.verdicts) == 5, found
print(read, taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, bytes_read)
"""


def measured(place: Path, items: int) -> tuple[float, float, float, float]:
    "Seconds to read, seconds to compare, bytes of memory beyond the imports, bytes of journal."
    runs = [write(place / name, items, seed) for seed, name in enumerate(("before", "after"))]
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, runs), str(items)], check=True, capture_output=True, text=True)
    read, taken, memory, size = map(float, done.stdout.split())
    return read, taken, memory, size


def main(sizes: tuple[int, int] = (10_000, 100_000)) -> list[tuple[str, float, str]]:
    rows, seconds = [], []
    for items in sizes:
        with tempfile.TemporaryDirectory() as place:
            read, taken, memory, size = measured(Path(place), items)
        seconds.append(taken)
        rows.append((f"two journals of {items:,} records ({size / 1e6:,.0f} MB) read and thrown away", read, "the ideal"))
        rows.append((f"compared: five metrics, five slices, {items // 4:,} clusters", taken, f"{taken / read:.1f} × ideal"))
        rows.append(("    memory beyond the imports, MB", memory / 1e6, f"{memory / items / 2:,.0f} bytes an item and run (goal ≤ {GOAL_BYTES}; journal {size / items / 2:,.0f})"))
    rows.append((f"{sizes[1] // sizes[0]} times the items, times the seconds", seconds[1] / seconds[0], f"goal ≤ {GOAL_RATIO}"))
    return rows


if __name__ == "__main__":
    begun = time.perf_counter()
    for name, value, remark in main():
        print(f"{name:<76} {value:9.3f}  {remark}")
    print(f"{'(all of it)':<76} {time.perf_counter() - begun:9.3f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:,.0f} MB here")
