"""How long it takes to import the package, and until `llmops --help` has answered, beside a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

LLMOPS = str(Path(sys.executable).parent / "llmops")


def seconds(*command: str, rounds: int = 9) -> float:
    "The median of several runs, after one that warms the page cache."
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    "Print a line each; the ideal is an interpreter that does nothing."
    bare = seconds(sys.executable, "-c", "pass")
    for name, goal, command in (
        ("import llmops_nb", "goal ≤ 60 ms above it", (sys.executable, "-c", "import llmops_nb")),
        ("llmops --help", "goal ≤ 250 ms", (LLMOPS, "--help")),
    ):
        took = seconds(*command)
        print(f"{name:<60} {took:7.3f} s  {(took - bare) * 1000:.0f} ms above a bare interpreter ({bare * 1000:.0f} ms), {took / bare:.1f} × it ({goal})")


if __name__ == "__main__":
    main()
