"""Ingest of 10,000 documents: first time, again unchanged, again with 1 % changed, again all touched, beside the ideal.

The ideal is to read and hash the files, and nothing else. Every figure is of this machine at this moment; the ratio to
the ideal of the same run is what to compare.
Usage: python tests/bench/bench_ingest.py [documents]
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = (("md", 70), ("html", 20), ("txt", 8), ("py", 2))  # Of a hundred documents
RUN = """
import json, resource, sys, time
from pathlib import Path
from llmops_nb.ingest import ingest, load_ingest_plan
from llmops_nb.settings import load_settings
home = Path(sys.argv[1])
start = time.perf_counter()
report = ingest(load_ingest_plan(home), load_settings(home), progress=False)
seconds = time.perf_counter() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sum(report.read.values()), report.documents, len(report.refused)]))
"""


def write(path: Path, number: int, kind: str, words: list[str]) -> None:
    "A document of some 600 words with headings; in HTML with what surrounds the main content of a page."
    chance = random.Random(number)
    parts = [(f"Part {n} of {number}", [" ".join(chance.choices(words, k=50)) + "." for _ in range(4)]) for n in range(3)]
    if kind == "html":
        body = "".join(f"<h2>{head}</h2>" + "".join(f"<p>{text}</p>" for text in texts) for head, texts in parts)
        text = f"<html><head><title>Document {number}</title></head><body><nav><a href='/'>Home</a> <a href='/all'>All</a></nav><main><article><h1>Document {number}</h1>{body}</article></main><footer>Imprint</footer></body></html>"
    elif kind == "py":
        text = f'"""Document {number}"""\n\n' + "".join(f"def part_{n}():\n    # {texts[0]}\n    return {n}\n\n\n" for n, (_, texts) in enumerate(parts))
    else:
        text = f"# Document {number}\n\n" + "\n\n".join(f"## {head}\n\n" + "\n\n".join(texts) for head, texts in parts)
    path.write_text(text, "utf-8")


def make(home: Path, count: int) -> list[Path]:
    "The documents and a plan for them."
    words = ["".join(random.Random(n).choices("abcdefghijklmnoprstuvw", k=2 + n % 9)) for n in range(4000)]
    kinds = [kind for kind, share in KINDS for _ in range(share)]
    found = []
    for number in range(count):
        kind = kinds[number % 100]
        path = home / "docs" / f"{number % 50:02}" / f"{number:05}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, number, kind, words)
        found.append(path)
    (home / "sources.yaml").write_text("collection: bench\nsources:\n  - folder: docs\n    sensitivity: internal\n    retention: 5y\n")
    return found


def ideal(files: list[Path]) -> float:
    "Seconds to read and hash the files, and nothing else."
    start = time.perf_counter()
    for path in files:
        hashlib.sha256(path.read_bytes()).digest()
    return time.perf_counter() - start


def run(home: Path, name: str, bare: float) -> None:
    "One ingest in a process of its own, and a line about it."
    import json

    said = subprocess.run([sys.executable, "-c", RUN, str(home)], check=True, capture_output=True, text=True).stdout
    seconds, own, readers, read, documents, refused = json.loads(said.splitlines()[-1])
    rate = f"{documents / seconds:,.0f} documents/s"
    print(f"{name:<34} {seconds:7.2f} s  {rate}, {read:,} read, {refused} not in, peak {own / 1024:.0f} MB + {readers / 1024:.0f} MB in a reader, {seconds / bare:.1f} × the ideal")


def main() -> None:
    "Print a line each."
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        files = make(home, count)
        bare = min(ideal(files) for _ in range(3))
        size = sum(path.stat().st_size for path in files)
        print(f"{count:,} documents, {size / 1e6:.0f} MB: {bare:.2f} s to read and hash them, nothing else: the ideal")
        run(home, "ingest, first time", bare)
        run(home, "ingest again, nothing changed", bare)
        chance = random.Random(1)
        for path in chance.sample(files, count // 100):
            path.write_text(path.read_text("utf-8").replace("Part 1 of", "Part one of"), "utf-8")
        run(home, "ingest again, 1 % changed", bare)
        for path in files:
            os.utime(path)
        run(home, "ingest again, all only touched", bare)


if __name__ == "__main__":
    main()
