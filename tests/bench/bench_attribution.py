"""Attribution: a report's sentences and sources for 1,000 items, and who saw a chunk in 100 runs of 1,000 records.

The ideal of the query is reading the journals once, line by line, and looking for the bytes of the name.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import made_run  # noqa: E402

from llmops_nb import load_settings  # noqa: E402
from llmops_nb._reports_sources import sources  # noqa: E402
from llmops_nb.core import to_json  # noqa: E402
from llmops_nb.evals import RunInfo  # noqa: E402
from llmops_nb.lineage import chunk_seen  # noqa: E402
from llmops_nb.reports import read_run  # noqa: E402
from llmops_nb.store import read_journal  # noqa: E402

RUNS = 100


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "settings.ini").write_text("[llmops]\nmodel = echo\n")
        settings = load_settings(root)
        records = read_run(made_run.make(root / "made")).records
        start = time.process_time()
        for record in records:
            sources(record)
        print(f"sentences and sources of 1,000 records: {time.process_time() - start:.2f} s of CPU")
        journal = (root / "made" / "records.jsonl").read_bytes()
        chunk = next(record["answer"]["passages"][0]["chunk"]["id"] for record in records if record["answer"])
        for number in range(RUNS):
            run = settings.reports / "app" / f"run-{number:03}"
            run.mkdir(parents=True)
            (run / "run.json").write_bytes(to_json(RunInfo(run.name, "app", "finished")))
            (run / "records.jsonl").write_bytes(journal)
        start = time.process_time()
        lines = sum(chunk.encode() in line for run in settings.reports.glob("app/*/records.jsonl") for _, line in read_journal(run))
        ideal = time.process_time() - start
        start = time.process_time()
        seen = chunk_seen(chunk, settings)
        taken = time.process_time() - start
        print(f"who saw {chunk!r} in {RUNS} runs, {RUNS * len(journal) / 1e9:.1f} GB, {lines} lines that name it: {taken:.2f} s of CPU, {taken / ideal:.1f} × reading; {seen.items} answers")


if __name__ == "__main__":
    main()
