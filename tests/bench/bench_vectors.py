"""100,000 × 384 clustered vectors: queries a second through filters, columns and index, beside FAISS called bare.

One query at a time, one thread, 200 queries, recall@10 against the exact answer. The peer is FAISS alone with the same
structure and the same effort, its selector made beforehand; where our plan is a scan, the faster of the structure with
the effort it needs for a recall of 0.95 and of FAISS's own scan with a selector. The two take turns query by query.

`--with-store PYTHON` (or LLMOPS_BENCH_STORE) names a Python that has lancedb: python -m venv store && store/bin/pip
install lancedb pyarrow numpy. `--million` measures a million vectors as well: half an hour on two cores.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmops_nb.filters import Columns, read_filter
from llmops_nb.vectors import VectorIndex

GOAL_BARE, GOAL_STORE, GOAL_RECALL = 0.8, 10.0, 0.95
DIMENSION, QUERIES, ROUNDS, NOW = 384, 200, 7, 0.2

Row = tuple[str, float, str]


def clustered(rows: int) -> tuple[Any, Any]:
    "Unit vectors around rows / 200 centres, and queries from the same."
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((max(1, rows // 200), DIMENSION), dtype=np.float32)
    found = np.empty((rows + QUERIES, DIMENSION), np.float32)
    for start in range(0, len(found), 50_000):
        part = found[start : start + 50_000]
        part[:] = centres[draw.integers(len(centres), size=len(part))] + 0.7 * draw.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found[:rows], found[rows:]


def metadata(matrix: Any) -> list[dict[str, Any]]:
    "For every row a value in a hundred, one in ten, a topic (vectors near each other share it), and when it expires."
    draw = np.random.default_rng(1)
    topics = np.argmax(matrix[:, :64] @ draw.standard_normal((64, 10), dtype=np.float32), axis=1)
    drawn = zip(draw.integers(100, size=len(matrix)).tolist(), draw.integers(10, size=len(matrix)).tolist(), topics.tolist(), draw.random(len(matrix)).tolist(), strict=True)
    return [{"hundredth": a, "tenth": b, "topic": c, "expires": d} for a, b, c, d in drawn]


CASES: list[tuple[str, dict[str, Any], float | None]] = [
    ("no filter", {}, None),
    ("TTL, 80 % alive", {}, NOW),
    ("a filter that keeps 10 %", {"tenth": 3}, None),
    ("a filter that keeps 10 %, and TTL", {"tenth": 3}, NOW),
    ("a filter that keeps 1 %", {"hundredth": 3}, None),
    ("a filter that keeps 1 %, and TTL", {"hundredth": 3}, NOW),
    ("a topic (not at random), about 10 %", {"topic": 3}, None),
]


def nearest(matrix: Any, queries: Any, kept: Any) -> Any:
    "The exact ten."
    rows = np.flatnonzero(kept)
    best: list[Any] = [[], []]
    for start in range(0, len(rows), 100_000):
        some = rows[start : start + 100_000]
        scores = queries @ matrix[some].T
        top = np.argsort(-scores, axis=1)[:, :10]
        best[0].append(np.take_along_axis(scores, top, axis=1))
        best[1].append(some[top])
    order = np.argsort(-np.concatenate(best[0], axis=1), axis=1)[:, :10]
    return np.take_along_axis(np.concatenate(best[1], axis=1), order, axis=1)


def recall(found: list[Any], exact: Any) -> float:
    return float(np.mean([len(set(map(int, one)) & set(map(int, two))) / 10 for one, two in zip(found, exact, strict=True)]))


def in_turns(one: Callable[[Any], Any], two: Callable[[Any], Any], queries: Any) -> tuple[float, float, float]:
    "Seconds a query of both in their best round, and the median ratio of the second to the first."
    sums = np.zeros((ROUNDS, 2))
    for turn in range(ROUNDS):
        for place, query in enumerate(queries):
            for which in ((0, 1), (1, 0))[(turn + place) % 2]:
                begun = time.perf_counter()
                (one, two)[which](query)
                sums[turn, which] += time.perf_counter() - begun
    each = sums / len(queries)
    return float(each[:, 0].min()), float(each[:, 1].min()), statistics.median(each[:, 1] / each[:, 0])


def bare(structure: Any, flat: Any, plan: Any, kept: Any, queries: Any, exact: Any) -> tuple[Callable[[Any], Any], str]:
    "FAISS alone for the same question, and how it does it."
    import faiss

    selector = None if kept.all() else faiss.IDSelectorBitmap(np.packbits(kept, bitorder="little"))

    def search(index: Any, options: Any) -> Callable[[Any], Any]:
        return lambda query: index.search(query[None], 10, params=options)[1][0]

    if plan.how == "structure":
        return search(structure, faiss.SearchParametersIVF(sel=selector, nprobe=plan.effort)), f"nprobe {plan.effort}"
    ways = [(search(flat, faiss.SearchParameters(sel=selector)), "its scan")]
    for probes in (16, 32, 64, 128, 256, 512, 1024):
        ask = search(structure, faiss.SearchParametersIVF(sel=selector, nprobe=probes))
        if recall([ask(query) for query in queries], exact) >= GOAL_RECALL:
            ways.append((ask, f"nprobe {probes}"))
            break

    def seconds(way: tuple[Callable[[Any], Any], str]) -> float:
        begun = time.perf_counter()
        for query in queries:
            way[0](query)
        return time.perf_counter() - begun

    return min(ways, key=seconds)


CHILD = """
import resource, sys, time
import numpy as np
from pathlib import Path
import faiss
from llmops_nb.vectors import VectorIndex
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before, begun = anonymous(), time.perf_counter()
index = VectorIndex.load(Path(sys.argv[1]), check=False)
taken = time.perf_counter() - begun
for query in index.vectors(range(200)):
    index.search(query, 10)
print(taken, (anonymous() - before) / 1000)
"""

STORE = """
import json, sys, tempfile, time
import numpy as np, lancedb, pyarrow as pa
place, cases, goal = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
matrix, queries, columns, exact = (np.load(f"{place}/{name}.npy") for name in ("matrix", "queries", "columns", "exact"))
begun = time.perf_counter()
with tempfile.TemporaryDirectory() as home:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    names = ["hundredth", "tenth", "topic"]
    data = pa.table({"row": np.arange(len(matrix)), "vector": vectors, **{name: columns[:, n].astype(int) for n, name in enumerate(names)}, "expires": columns[:, 3]})
    table = lancedb.connect(home).create_table("vectors", data)
    table.create_index(metric="dot", index_type="IVF_HNSW_SQ", vector_column_name="vector")
    for name in names:
        table.create_scalar_index(name, index_type="BITMAP")
    print(json.dumps(["build", time.perf_counter() - begun, lancedb.__version__]), flush=True)
    for number, (name, where) in enumerate(cases):
        def ask(query, effort):
            search = table.search(query).distance_type("dot").limit(10).select(["row"]).nprobes(effort).refine_factor(2)
            return (search.where(where, prefilter=True) if where else search).to_arrow()["row"].to_pylist()
        for effort in (5, 10, 20, 50, 100, 250):
            some = [ask(query, effort) for query in queries[:50]]
            reached = float(np.mean([len(set(a) & set(b.tolist())) / 10 for a, b in zip(some, exact[number])]))
            if reached >= goal:
                break
        begun = time.perf_counter()
        for query in queries:
            ask(query, effort)
        print(json.dumps([name, (time.perf_counter() - begun) / len(queries), reached]), flush=True)
"""


def in_store(python: str, matrix: Any, queries: Any, rows: list[dict[str, Any]], exact: list[Any]) -> dict[str, tuple[float, Any]]:
    "Seconds a query and recall of LanceDB, by case."
    wheres = []
    for name, where, now in CASES:
        parts = [f"{field} = {value}" for field, value in where.items()] + ([f"expires > {now}"] if now is not None else [])
        wheres.append((name, " AND ".join(parts)))
    with tempfile.TemporaryDirectory() as place:
        columns = np.array([[row["hundredth"], row["tenth"], row["topic"], row["expires"]] for row in rows])
        for name, array in (("matrix", matrix), ("queries", queries), ("columns", columns), ("exact", np.array(exact))):
            np.save(f"{place}/{name}.npy", array)
        done = subprocess.run([python, "-c", STORE, place, json.dumps(wheres), str(GOAL_RECALL)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    if done.returncode:
        print(f"the store fails: {done.stderr.strip().splitlines()[-1:]}")
    return {name: (seconds, what) for name, seconds, what in map(json.loads, done.stdout.splitlines())}


def measured(rows: int, store: str) -> list[Row]:
    "Everything for so many vectors."
    import faiss

    matrix, queries = clustered(rows)
    about = metadata(matrix)
    begun = time.perf_counter()
    columns = Columns.of(about)
    table: list[Row] = [(f"metadata of {rows:,} rows made into columns, s", time.perf_counter() - begun, "")]
    begun = time.perf_counter()
    index = VectorIndex.build(matrix)
    taken = time.perf_counter() - begun
    structure = index.held.asked.index  # type: ignore[union-attr]
    table.append((f"{rows:,} × {DIMENSION}: built and measured, s", taken, f"{index.structure.kind} {index.structure.quantizer}, {index.structure.lists} lists, recall@10 {index.recall} at build"))
    table.append(("    memory of this process at most, MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, f"the vectors are {matrix.nbytes / 1e6:,.0f}"))
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(matrix)
    with tempfile.TemporaryDirectory() as place:
        index.save(Path(place) / "vectors")
        sizes = {file.name: file.stat().st_size / 1e6 for file in (Path(place) / "vectors").iterdir()}
        table.append(("    on disk, MB", sum(sizes.values()), f"vectors {sizes['vectors.npy']:,.0f}, structure {sizes['structure.faiss']:,.0f}"))
        seconds, memory = map(float, subprocess.run([sys.executable, "-c", CHILD, f"{place}/vectors"], check=True, capture_output=True, text=True).stdout.split())
        table.append(("    memory of its own after load and 200 queries, MB", memory, f"mapped in {seconds * 1e3:.0f} ms; pages of the files come and go"))
        index = VectorIndex.load(Path(place) / "vectors")
        exact = []
        found: dict[str, float] = {}
        faiss.omp_set_num_threads(1)
        for name, where, now in CASES:
            asked = read_filter(where, columns.names)
            kept = columns.mask(asked, now)
            exact.append(nearest(matrix, queries, kept))
            plan = index.plan(kept, 10)
            free = not where and now is None

            def ours(query: Any, asked: Any = asked, now: float | None = now, free: bool = free) -> Any:
                return index.search(query, 10, None if free else columns.mask(asked, now))[1]

            other, how = bare(structure, flat, plan, kept, queries, exact[-1])
            mine, its, ratio = in_turns(ours, other, queries)
            found[name] = mine
            reached, theirs = (recall([ask(query) for query in queries], exact[-1]) for ask in (ours, other))
            goal = f"goal ≥ {GOAL_BARE}" if plan.how == "structure" else "no goal: another way"
            remark = f"recall {reached:.3f} by {plan.how}; FAISS bare {1 / its:,.0f} ({how}, recall {theirs:.3f}): {ratio:.2f} × ({goal})"
            table.append((f"{name}, queries a second", 1 / mine, remark))
        clock = iter(np.sort(columns.expiry)[rows // 5 :])
        begun = time.perf_counter()
        for query in queries:
            index.search(query, 10, columns.mask(None, float(next(clock))))
        table.append(("TTL, and a row expires between any two queries", QUERIES / (time.perf_counter() - begun), "masks and bitmaps are made anew each time"))
    if store:
        for name, (seconds, what) in in_store(store, matrix, queries, about, exact).items():
            line = (f"LanceDB {what}: built, s", seconds, "IVF_HNSW_SQ and bitmaps, its own threads") if name == "build" else (
                f"LanceDB: {name}, queries a second", 1 / seconds, f"recall {what:.3f}; ours is {seconds / found[name]:,.0f} × as fast (goal ≥ {GOAL_STORE:.0f})")  # fmt: skip
            table.append(line)
    else:
        print("No embedded store is compared: name a Python that has lancedb with --with-store (see the top of this file).")
    return table


def main(arguments: list[str]) -> list[Row]:
    store = arguments[arguments.index("--with-store") + 1] if "--with-store" in arguments else os.environ.get("LLMOPS_BENCH_STORE", "")
    rows = int(arguments[arguments.index("--rows") + 1]) if "--rows" in arguments else 100_000
    return measured(rows, store) + (measured(1_000_000, "") if "--million" in arguments else [])


if __name__ == "__main__":
    for name, value, remark in main(sys.argv[1:]):
        print(f"{name:<60} {value:11,.3f}  {remark}")
