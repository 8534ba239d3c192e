"""An index of vectors finds what it says it finds, gives equal bytes for equal input, and never trusts a file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmops_nb._vectors_faiss import interval
from llmops_nb.core import ConfigurationError, DataError, from_json, to_json
from llmops_nb.filters import Columns, read_filter
from llmops_nb.vectors import KINDS, Structure, VectorIndex, choose_structure

STRUCTURES = [Structure("ivf", "sq8"), Structure("ivf"), Structure("ivf", "pq", lists=60), Structure("hnsw"), Structure("hnsw", "sq8")]


def clustered(rows: int, dimension: int = 32, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(max(1, rows // 100), dimension))
    found = centres[draw.integers(len(centres), size=rows)] + 0.7 * draw.normal(size=(rows, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


POINTS, ASKED = clustered(6000), clustered(6000, seed=5)[:100]


@pytest.fixture(scope="module", params=STRUCTURES, ids=lambda one: f"{one.kind}{one.quantizer}")
def built(request: pytest.FixtureRequest) -> VectorIndex:
    return VectorIndex.build(POINTS, request.param)


def exact(matrix: Any, query: Any, k: int, keep: Any = None) -> list[int]:
    "Rows best first by plain arithmetic, the smaller number first among equals."
    rows = np.arange(len(matrix)) if keep is None else np.flatnonzero(keep)
    scores = (matrix[rows].astype(np.float64) * np.asarray(query, np.float64)).sum(axis=1).round(9)
    return [int(row) for row in rows[np.lexsort((rows, -scores))][:k]]


UNITS = st.lists(st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.6, 0.8, 0.0), (0.0, -0.6, 0.8), (-1.0, 0.0, 0.0)]), max_size=40)


@settings(max_examples=150, deadline=None)
@given(UNITS, UNITS, st.integers(0, 50), st.randoms(use_true_random=False))
@example([(1.0, 0.0, 0.0)] * 30, [(1.0, 0.0, 0.0)] * 30, 7, None)
def test_a_scan_is_plain_arithmetic_with_ties_by_row(first: list[Any], later: list[Any], k: int, random: Any) -> None:
    matrix = np.array(first, np.float32).reshape(-1, 3)
    index = VectorIndex.build(matrix).add(np.array(later, np.float32).reshape(-1, 3))
    whole = np.array([*first, *later], np.float32).reshape(-1, 3)
    keep = np.array([random is None or random.random() < 0.5 for _ in whole], bool)
    for mask in (None, keep):
        scores, rows = index.search([0.6, 0.8, 0.0], k, mask)
        assert rows.tolist() == exact(whole, [0.6, 0.8, 0.0], k, mask)
        assert np.allclose(scores, whole[rows] @ np.array([0.6, 0.8, 0.0], np.float32), atol=1e-6)


def test_the_recall_that_is_stated_is_there(built: VectorIndex) -> None:
    assert built.recall >= 0.95 and all(effort.low >= 0.95 for effort in built.efforts), built.efforts
    for share in (1.0, 0.5, 0.1, 0.02):
        keep = np.random.default_rng(3).random(len(POINTS)) < share
        plan = built.plan(keep, 10)
        assert plan == built.plan(int(keep.sum()), 10) or built.structure.kind == "hnsw"
        hits = []
        for query in ASKED:
            scores, rows = built.search(query, 10, keep)
            assert keep[rows].all() and len(set(rows.tolist())) == 10
            assert np.allclose(scores, POINTS[rows] @ query, atol=1e-6) and (np.diff(scores) <= 0).all()
            hits.append(len({*rows.tolist()} & {*exact(POINTS, query, 10, keep)}) / 10)
        assert np.mean(hits) >= (1.0 if plan.how == "scan" else 0.93), (plan, np.mean(hits))  # 100 other queries, a filter not seen at build


def test_a_filter_never_gives_fewer_than_it_keeps(built: VectorIndex) -> None:
    near = POINTS @ ASKED[0]
    for keep in (near < np.quantile(near, 0.3), near < np.quantile(near, 0.01), near > np.quantile(near, 0.999), near > 2):
        for k in (1, 10, 25, 100, 7000):
            rows = built.search(ASKED[0], k, keep)[1]
            assert len(rows) == min(k, int(keep.sum())) and keep[rows].all()
    far = near < np.quantile(near, 0.3)  # All that is near is hidden: lists near the query hold none, the rest is scanned
    assert len({*built.search(ASKED[0], 10, far)[1].tolist()} & {*exact(POINTS, ASKED[0], 10, far)}) >= 5


def test_a_filter_that_keeps_a_topic_is_scanned(built: VectorIndex) -> None:
    topic = np.argmax(POINTS @ POINTS[::1500].T, axis=1) == 2
    plan = built.plan(topic, 10)
    assert 0.1 < topic.mean() < 0.5 and (plan.how, plan.recall) == ("scan", 1.0)
    if built.structure.kind == "ivf":
        assert built.plan(int(topic.sum()), 10).how == "structure" and "chosen at random" in plan.why
    for query in ASKED:
        assert built.search(query, 10, topic)[1].tolist() == exact(POINTS, query, 10, topic)


def test_plans_say_what_is_done(built: VectorIndex) -> None:
    assert built.plan(0, 10).how == built.plan(100, 0).how == "nothing"
    few, all_, deep = built.plan(30, 10), built.plan(6000, 10), built.plan(6000, 5000)
    assert (few.how, few.effort, few.recall) == ("scan", 30, 1.0) and "30 of 6,000 rows" in few.why
    assert all_.how == "structure" and all_.recall == built.recall and f"{all_.recall:.3f}" in str(all_)
    assert deep.how == "scan" and deep.recall == 1.0
    plans = [(kept, built.plan(kept, 100)) for kept in (6000, 5900, 4300, 3100, 2000, 1300)]
    efforts = [(kept, plan) for kept, plan in plans if plan.how == "structure"]
    assert [plan.effort for _, plan in efforts] == sorted(plan.effort for _, plan in efforts), "less kept, more effort"
    for kept, plan in efforts:
        measured = [one for one in built.efforts if (one.effort, one.recall, one.k) == (plan.effort, plan.recall, 100)]
        assert any(one.kept <= kept / 6000 for one in measured), "a recall is stated that was measured with as little kept"


BYTES = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_vectors import POINTS, STRUCTURES
from llmops_nb.vectors import VectorIndex
for number, structure in enumerate(STRUCTURES):
    VectorIndex.build(POINTS[:2000], structure).save(Path(sys.argv[2]) / str(number))
"""


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.rglob("*")) if file.is_file()}


def test_equal_input_gives_equal_bytes_with_one_thread_and_with_three(tmp_path: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", BYTES, str(Path(__file__).parent), str(tmp_path / threads)], env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads})
        for threads in ("1", "3")
    ]
    assert [one.wait(120) for one in running] == [0, 0]
    first = contents(tmp_path / "1")
    assert first == contents(tmp_path / "3") and len(first) == 3 * len(STRUCTURES)


def test_compacted_is_as_if_the_others_had_never_been(tmp_path: Path) -> None:
    keep = np.random.default_rng(2).random(2500) < 0.8
    index = VectorIndex.build(POINTS[:2000], Structure("ivf", "sq8")).add(POINTS[2000:2500])
    index.compacted(keep).save(tmp_path / "compacted")
    VectorIndex.build(POINTS[:2500][keep], Structure("ivf", "sq8")).save(tmp_path / "fresh")
    assert contents(tmp_path / "compacted") == contents(tmp_path / "fresh")


def test_what_was_added_is_found_at_once_and_a_rebuild_is_asked_for(built: VectorIndex, tmp_path: Path) -> None:
    more = clustered(1500, seed=8)
    grown = built.add(more[:1000]).add(more[1000:])
    assert (len(built), len(grown), built.rebuild_due, built.add(more[:900]).rebuild_due, grown.rebuild_due) == (6000, 7500, False, False, True)
    assert [grown.search(vector, 1)[1][0] for vector in more[::100]] == [*range(6000, 7500, 100)]
    keep = np.zeros(7500, bool)
    keep[5990:6010] = True
    assert {*grown.search(more[5], 20, keep)[1].tolist()} == {*range(5990, 6010)}
    assert np.array_equal(grown.vectors([7499, 0, 6000, 0]), np.array([more[1499], POINTS[0], more[0], POINTS[0]]))
    grown.save(tmp_path / "grown")
    again = VectorIndex.load(tmp_path / "grown")
    for query in ASKED[:20]:
        assert all(np.array_equal(one, two) for one, two in zip(again.search(query, 10), grown.search(query, 10), strict=True))
    assert again.add(more[:1]).search(more[0], 2)[1].tolist() == [6000, 7500]
    assert (again.rebuild_due, again.wanted, repr(again)) == (True, grown.wanted, repr(grown))
    with pytest.raises(ConfigurationError, match="have 8 dimensions, the index 32"):
        built.add(np.eye(8))
    for wrong in ([7500], [-1]):
        with pytest.raises(ConfigurationError, match="there are 7500, from 0"):
            grown.vectors(wrong)


def test_automatic_structures_grow_with_the_rows() -> None:
    assert choose_structure(0, 8).kind == "flat" and choose_structure(60_000, 8).quantizer == "sq8" and choose_structure(10**7, 400).quantizer == "pq"
    assert choose_structure(10, 8, Structure("ivf")).lists == 2 and choose_structure(10**6, 8, Structure("ivf")).lists == 4000
    assert choose_structure(60_000, 30, Structure(quantizer="pq")).parts in (3, 5)
    for wrong, says in [
        (Structure("tree"), "No kind of structure named 'tree'"),
        (Structure("flat", "sq8"), "quantizer for 'flat' named 'sq8'"),
        (Structure("ivf", "pq"), "256 rows"),
        (Structure(recall=0.0), "recall is above 0"),
        (Structure(lists=-1), "nothing is negative"),
        (Structure("hnsw", links=1), "links at least 2"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            choose_structure(100, 32, wrong)
    with pytest.raises(ConfigurationError, match="parts that divide"):
        choose_structure(1000, 32, Structure("ivf", "pq", parts=5))
    assert from_json(to_json(Structure("ivf")), Structure) == Structure("ivf") and set(KINDS) == {"auto", "flat", "ivf", "hnsw"}


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("rows", [0, 1, 2, 11])
def test_a_few_rows_are_enough(kind: str, rows: int, tmp_path: Path) -> None:
    index = VectorIndex.build(POINTS[:rows], Structure(kind))
    assert sorted(index.search(ASKED[0], 50)[1].tolist()) == [*range(rows)]
    assert index.search(ASKED[0], 5, np.zeros(rows, bool))[1].tolist() == []
    index.save(tmp_path / "few")
    assert len(VectorIndex.load(tmp_path / "few").add(POINTS[:3])) == rows + 3
    assert len(index.compacted([])) == 0


def test_many_equal_vectors_are_in_the_order_of_their_rows(tmp_path: Path) -> None:
    index = VectorIndex.build(np.repeat(POINTS[:100], 30, axis=0), Structure("ivf", "sq8"))
    scores, rows = index.search(POINTS[40], 30)
    assert len(set(scores.tolist())) == 1 and rows.tolist() == sorted(rows.tolist()) and {row // 30 for row in rows.tolist()} == {40}
    flat = VectorIndex.build(np.repeat(POINTS[:100], 30, axis=0))
    assert flat.search(POINTS[40], 7)[1].tolist() == [*range(1200, 1207)]


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (np.ones(31), "The query has 31 dimensions, the index 32"),
        (np.ones((2, 32)), r"\(2, 32\) dimensions, the index 32"),
        (np.full(32, np.nan), "holds NaN"),
        (np.full(32, np.inf), "holds NaN"),
        (["a"] * 32, "vector of numbers"),
        (None, "vector of numbers|dimensions"),
        ([], "The query has 0 dimensions"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(built: VectorIndex, vector: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        built.search(vector, 3)


def test_masks_and_matrices_that_do_not_fit_are_refused(built: VectorIndex) -> None:
    for keep in (np.ones(5999, bool), np.arange(6000), [0, 1], np.ones((6000, 1), bool)):
        with pytest.raises(ConfigurationError, match="one truth value for each of 6000 rows"):
            built.search(ASKED[0], 3, keep)
    for matrix, says in [(np.ones(3), "one row each"), ([[1, 0], [1, 1]], "Row 1 has the length 1.41"), ([["a"]], "matrix of numbers"), (np.ones((2, 0)), "one row each"), ([[0, 0]], "Row 0 has the length 0")]:
        with pytest.raises(ConfigurationError, match=says):
            VectorIndex.build(matrix)
    with pytest.raises(ConfigurationError, match="cannot measure vectors of 32"):
        VectorIndex.build(POINTS, Structure("ivf"), queries=np.eye(4))


def test_queries_that_are_given_decide_the_effort() -> None:
    draw = np.random.default_rng(4).normal(size=(200, 32))
    strange = (draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32)
    easy, hard = VectorIndex.build(POINTS, Structure("ivf")), VectorIndex.build(POINTS, Structure("ivf"), queries=strange)
    assert hard.efforts[0].effort > easy.efforts[0].effort and hard.recall >= 0.95
    found = [len({*hard.search(query, 10)[1].tolist()} & {*exact(POINTS, query, 10)}) / 10 for query in strange[:50]]
    assert np.mean(found) >= 0.93


def test_columns_and_index_together_and_many_at_once(built: VectorIndex) -> None:
    columns = Columns.of([{"tenant": row % 7, "expires": float(row)} for row in range(6000)])
    filter = read_filter({"tenant": {"in": [1, 2]}}, columns.names)

    def ask(number: int) -> list[int]:
        return built.search(ASKED[number % 100], 10, columns.mask(filter, float(number % 5)))[1].tolist()

    alone = [ask(number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == alone
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    ask(1)
    assert faiss.omp_get_max_threads() == 2, "the number of threads is the caller's"
    faiss.omp_set_num_threads(threads)


def test_a_mask_that_changes_is_looked_at_again(built: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = np.ones(6000, bool)
    best = built.search(ASKED[0], 1, keep)[1][0]
    keep[best] = False
    assert built.search(ASKED[0], 1, keep)[1][0] != best
    view = keep[:]
    view.flags.writeable = False  # Its base can still change
    second = built.search(ASKED[0], 1, view)[1][0]
    keep[second] = False
    assert built.search(ASKED[0], 1, view)[1][0] != second
    monkeypatch.setattr("llmops_nb._vectors_faiss.ROOM", 1_000_000)
    for _ in range(200):
        frozen = np.random.default_rng(1).random(6000) < 0.5
        frozen.flags.writeable = False
        built.search(ASKED[0], 1, frozen)
    assert len(built.held._selections) <= 64


def test_a_filter_that_comes_again_is_scanned_side_by_side_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    index = VectorIndex.build(POINTS, Structure("flat"))
    masks = [np.arange(6000) % 60 == part for part in range(60)]
    for mask in masks:
        mask.flags.writeable = False
    first, *others = [index.search(ASKED[0], 10, masks[7]) for _ in range(5)]
    chosen = index.held.selection(masks[7])
    assert chosen.near is not None and len(chosen.near) == 100
    for scores, rows in others:
        assert scores.tobytes() == first[0].tobytes() and rows.tolist() == first[1].tolist()
    monkeypatch.setattr("llmops_nb._vectors_faiss.ROOM", 300_000)
    for mask in masks * 4:
        index.search(ASKED[0], 10, mask)
        assert sum(one.bytes for one in index.held._selections.values()) <= 300_000


def test_files_that_are_not_what_was_written_are_told_by_name(built: VectorIndex, tmp_path: Path) -> None:
    built.save(tmp_path / "good")
    with pytest.raises(ConfigurationError, match="exists already"):
        built.save(tmp_path / "good")
    files = {file.name: file.read_bytes() for file in (tmp_path / "good").iterdir()}
    assert set(files) == {"vectors.npy", "structure.faiss", "vectors.json"}
    about = json.loads(files["vectors.json"])

    def damaged(name: str, data: bytes | None, check: bool = True) -> str:
        path = tmp_path / "bad"
        path.mkdir(exist_ok=True)
        for other, whole in files.items():
            (path / other).write_bytes(whole)
        if data is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(data)
        with pytest.raises(DataError, match="cannot be read.*Build the index again") as error:
            VectorIndex.load(path, check)
        return str(error.value)

    for name, whole in files.items():
        for data in (b"", whole[:50], whole[:-1], whole + b"x", None, b"\x00" * 100, b"PK\x03\x04 a foreign file"):
            assert name in damaged(name, data) or name == "vectors.json"
            damaged(name, data, check=False)
    for name in ("vectors.npy", "structure.faiss"):
        whole = files[name]
        for place in (0, len(whole) // 2, len(whole) - 1):
            assert f"{name} is not what was written" in damaged(name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for change in ({"rows": 5}, {"dimension": 31}, {"indexed": 5999}, {"indexed": -1}, {"files": {}}, {"structure": {**about["structure"], "kind": "ivf" if built.structure.kind == "hnsw" else "hnsw"}}):
        damaged("vectors.json", json.dumps({**about, **change}).encode())
    with pytest.raises(DataError, match="cannot be read"):
        VectorIndex.load(tmp_path / "nowhere")


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_vectors import POINTS, Structure, VectorIndex
from llmops_nb.core import RunError
index = VectorIndex.build(POINTS[:2000], Structure("ivf"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for most in (100_000, 256_128 + 10_000):  # Within the vectors; within the structure
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        index.save(Path(sys.argv[2]) / "vectors")
    except RunError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.count("No space left to write the vectors") == 2, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import sys
from pathlib import Path
import faiss, numpy
from llmops_nb.vectors import VectorIndex
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
before = anonymous()
index = VectorIndex.load(Path(sys.argv[1]), check=sys.argv[2] == "check")
for query in index.vectors(range(50)):
    index.search(query, 10)
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("check", ["check", "trust"])
def test_a_loaded_index_is_mapped_not_read(tmp_path: Path, check: str) -> None:
    VectorIndex.build(clustered(20_000, 128), Structure("ivf", "", lists=64, recall=0.5)).save(tmp_path / "large")  # Twice 10 MB
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path / "large"), check], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3, "megabytes of memory of its own"


def test_a_perfect_sample_does_not_claim_to_be_certain() -> None:
    mean, low, high = interval(np.ones(200))
    assert mean == high == 1.0 and 0.97 < low < 1.0
    mean, low, high = interval(np.r_[np.ones(150), np.zeros(50)])
    assert low < 0.75 == mean < high and high - low == pytest.approx(2 * 1.96 * 0.433 / 200**0.5, rel=0.05)
