"""Thirty runs of a notebook that imports heavy packages: papermill's own engine against kernels from a warm process.

One client, one notebook, another parameter each run; the start of the warm process counts. The plain engine is measured on a few
runs, taken in turn with the warm ones, and multiplied. The limit is what the cells themselves take where everything is imported
already. CPU seconds are of the client and of all it started: on a machine that others use they say more than the clock does.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # Its import fetches a price list otherwise, and waits for the network: in favour of the plain engine

import nbformat  # noqa: E402
import papermill  # noqa: E402

from llmops_nb import engine  # noqa: E402

RUNS, PLAIN, GOAL = 30, 4, 10
CELLS = (
    "top_k = 1",
    "import pandas as pd\nimport matplotlib.pyplot as plt\nimport faiss, litellm, transformers",
    "frame = pd.DataFrame({'k': range(top_k), 'score': [1 / (k + 1) for k in range(top_k)]})\nprint(len(frame))\nframe.tail(3)",
    "index = faiss.IndexFlatIP(4)\nindex.ntotal, litellm.__name__, transformers.__version__, plt.get_backend(), float(frame.score.sum())",
)


def spent() -> float:
    "CPU seconds of this process and of those it has waited for."
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def seconds(path: Path, name: str, top_k: int) -> tuple[float, float]:
    "Wall and CPU seconds of one run; the warm process's own CPU counts when it ends."
    start, before = time.perf_counter(), spent()
    papermill.execute_notebook(path, path.with_suffix(".out.ipynb"), {"top_k": top_k}, engine_name=name, progress_bar=False, extra_arguments=["--log-level=50"])
    return time.perf_counter() - start, spent() - before


def limit(path: Path) -> float:
    "What the cells take that follow the imports, in a kernel that has imported: from the times papermill writes down."
    cells = nbformat.read(path.with_suffix(".out.ipynb"), 4).cells
    return sum(cell.metadata.papermill.duration for cell in cells if cell.cell_type == "code")


def main() -> None:
    "Print a line each."
    engine.register()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "heavy.ipynb"
        cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)
        seconds(path, "nbclient", 1)  # Files come into the page cache
        plain, warm, ideal = [], [], []
        before = spent()
        for number in range(RUNS):
            warm.append(seconds(path, "llmops", number + 1))
            ideal.append(limit(path))
            started = engine.started_of(nbformat.read(path.with_suffix(".out.ipynb"), 4))
            assert started and started.way != "plain", started
            if number % (RUNS // PLAIN) == 1 and len(plain) < PLAIN:
                plain.append(seconds(path, "nbclient", number + 1))
        engine.close_servers()
        cpu = spent() - before - sum(used for _, used in plain)
    clock, one = sum(took for took, _ in warm), statistics.median(took for took, _ in warm)
    plain_clock, plain_cpu = (statistics.mean(values) * RUNS for values in zip(*plain, strict=True))
    print(f"{f'papermill alone, {RUNS} runs (from {PLAIN})':<60} {plain_clock:7.1f} s  {plain_cpu:.0f} CPU s; one run {statistics.median(took for took, _ in plain):.2f} s")
    print(f"{f'engine llmops ({started.way}), {RUNS} runs, start counted':<60} {clock:7.1f} s  {cpu:.0f} CPU s; start and first run {warm[0][0]:.1f} s, one run after it {one:.2f} s")
    print(f"{'':<60} {plain_clock / clock:7.1f} ×  by the clock, {plain_cpu / cpu:.1f} × by CPU (goal ≥ {GOAL} ×)")
    cells_only = statistics.median(ideal)
    print(f"{'limit: the cells, as papermill times them (with messages)':<60} {cells_only:7.3f} s  a run; one warm run is {one / cells_only:.1f} × it")


if __name__ == "__main__":
    sys.exit(main())
