"""FAISS made, measured and asked: what `vectors` decides about is done here, always by one thread a task, so that
neither the number of cores nor of threads changes a byte."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from .core import ConfigurationError, need

T = TypeVar("T")
R = TypeVar("R")
DEPTHS = (10, 30, 100)  # Recall is measured for so many results
SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)  # … and for filters that keep so much, chosen at random
QUERIES = 200  # … over so many queries
FETCH = {"": 1.0, "sq8": 1.5, "pq": 16.0}  # By quantizer: candidates taken for each result, then scored by the full vectors
BLOCK = 16_384  # Rows in one task
ROOM = 128_000_000  # Bytes in which what filters keep is remembered, for one index


@contextmanager
def one_thread() -> Iterator[None]:
    "FAISS works with one thread here; OpenMP keeps that number for each calling thread."
    faiss = need("faiss", "retrieval")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def in_tasks(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    "Call a function for every part, on all cores; the parts, not the cores, decide what is computed."

    def alone(part: T) -> R:
        with one_thread():
            return function(part)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(alone, parts))


class Matrix:
    "Unit vectors in memory or in a mapped file. Scores are exact, and equal vectors have equal scores."

    def __init__(self, rows: Any):
        faiss = need("faiss", "retrieval")
        self._swig, self._compare = faiss.swig_ptr, faiss.fvec_inner_products_by_idx
        self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        self._pointer = self._swig(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def everything(self) -> Any:
        "The numbers of all rows."
        return np.arange(len(self.rows))

    def scores(self, query: Any, rows: Any) -> Any:
        "Inner products of a query with some rows, each computed in the same way, wherever it stands."
        found, pointer = np.empty(len(rows), np.float32), self._swig
        self._compare(pointer(found), pointer(query), self._pointer, pointer(rows), self.rows.shape[1], 1, len(rows))
        return found


def best(scores: Any, rows: Any, k: int) -> tuple[Any, Any]:
    "The k best, best first; among equal scores, the smaller number of a row."
    if len(scores) > max(4 * k, 64):
        some = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        scores, rows = scores[some], rows[some]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


class Selection:
    "The rows that a filter keeps, in the forms that a scan and a structure want."

    def __init__(self, keep: Any, indexed: int):
        self.keep, self._indexed = keep, indexed  # Held, so that its address is not used again
        self.count = int(np.count_nonzero(keep))
        self.tail = np.flatnonzero(keep[indexed:])
        self._options: dict[int, Any] = {}
        self._usual: bool | None = None
        self.scans = 0
        self.near: Matrix | None = None  # The vectors of its rows side by side, when it is scanned again and again

    @property
    def bytes(self) -> int:
        "About how much memory it takes, besides what is used only while it is asked."
        return len(self.keep) + 8 * self.count + (self.near.rows.nbytes if self.near is not None else 0)

    def usual(self, asked: Asked | None) -> bool:
        "Whether what was measured with rows kept at random holds for these: many are kept, or they look like it."
        if self._usual is None:
            self._usual = asked is None or 2 * self.count > len(self.keep) or asked.like_random(self)
        return self._usual

    @cached_property
    def rows(self) -> Any:
        return np.flatnonzero(self.keep[: self._indexed])

    @cached_property
    def _selector(self) -> Any:
        return need("faiss", "retrieval").IDSelectorBitmap(np.packbits(self.keep[: self._indexed], bitorder="little"))

    def options(self, kind: str, effort: int) -> Any:
        if effort not in self._options:
            self._options[effort] = options(kind, effort, self._selector)
        return self._options[effort]


def options(kind: str, effort: int, selector: Any = None) -> Any:
    "How FAISS is to search: how many lists to probe, or how many neighbours to remember."
    faiss = need("faiss", "retrieval")
    return faiss.SearchParametersIVF(sel=selector, nprobe=effort) if kind == "ivf" else faiss.SearchParametersHNSW(sel=selector, efSearch=effort)


class Asked:
    "A FAISS structure that is asked for candidates."

    def __init__(self, index: Any, kind: str):
        self._swig, self.index, self.kind = need("faiss", "retrieval").swig_ptr, index, kind
        self._options: dict[int, Any] = {}

    def candidates(self, query: Any, fetch: int, effort: int, selection: Selection | None = None) -> Any:
        "Numbers of rows that are near, in no order that counts."
        if selection is not None:
            how = selection.options(self.kind, effort)
        else:
            how = self._options.get(effort) or self._options.setdefault(effort, options(self.kind, effort))
        rows, scores, pointer = np.empty(fetch, np.int64), np.empty(fetch, np.float32), self._swig
        self.index.search_c(1, pointer(query), fetch, pointer(scores), pointer(rows), how)
        return rows if rows[-1] >= 0 else rows[rows >= 0]

    @cached_property
    def _homes(self) -> tuple[Any, Any]:
        "By row, its list; by list, how many rows it has."
        faiss, lists = need("faiss", "retrieval"), self.index.invlists
        homes, sizes = np.zeros(self.index.ntotal, np.int32), np.array([lists.list_size(number) for number in range(self.index.nlist)])
        for number, size in enumerate(sizes.tolist()):
            if size:
                homes[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return homes, sizes

    def like_random(self, selection: Selection) -> bool:
        "Whether the rows kept are spread over the lists about as evenly as if they were drawn; a graph cannot tell."
        if self.kind != "ivf":
            return False
        (homes, sizes), keep = self._homes, selection.keep[: self.index.ntotal]
        share = np.count_nonzero(keep) / max(1, len(keep))
        squares = (np.bincount(homes[keep], minlength=len(sizes)).astype(np.float64) ** 2).sum()
        return bool(squares <= 1.5 * (share * (1 - share) * sizes + (share * sizes) ** 2).sum())


class Held:
    "The vectors of an index: those that the structure knows, the structure, and those that came later."

    def __init__(self, main: Matrix, asked: Asked | None, fetch: float, tail: Matrix):
        self.main, self.asked, self.fetch, self.tail = main, asked, fetch, tail
        self.dimension: int = main.rows.shape[1]
        self.rows: int = len(main) + len(tail)
        self._selections: OrderedDict[int, Selection] = OrderedDict()
        self._lock = threading.Lock()
        faiss = need("faiss", "retrieval")
        self._threads, self._set_threads = faiss.omp_get_max_threads, faiss.omp_set_num_threads

    def query(self, vector: Any) -> Any:
        "A query as FAISS reads it; raises `ConfigurationError` for one that does not fit."
        try:
            query = np.ascontiguousarray(vector, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"A query is a vector of numbers: {str(error)[:200]}") from error
        query = query[0] if query.ndim == 2 and len(query) == 1 else query
        if query.shape != (self.dimension,):
            raise ConfigurationError(f"The query has {query.shape[-1] if query.ndim == 1 else query.shape} dimensions, the index {self.dimension}. Ask with the embedder that made it.")
        if not math.isfinite(query.dot(query)):
            raise ConfigurationError("The query holds NaN, or numbers too large to compare.")
        return query

    def selection(self, keep: Any) -> Selection:
        "What is needed to search under a filter; remembered for masks that cannot change."
        with self._lock:
            if (known := self._selections.get(id(keep))) is not None:
                self._selections.move_to_end(id(keep))
                return known
        mask = np.asarray(keep)
        if mask.dtype != bool or mask.shape != (self.rows,):
            raise ConfigurationError(f"`keep` is {mask.dtype} of the shape {mask.shape}: one truth value for each of {self.rows} rows is needed.")
        selection = Selection(mask, len(self.main))
        if mask is keep and mask.base is None and not mask.flags.writeable:
            with self._lock:
                self._selections[id(keep)] = selection
                self._forget()
        return selection

    def _forget(self) -> None:
        "Drop what was not asked for the longest time, until the rest fits."
        used = sum(one.bytes for one in self._selections.values())
        while used > ROOM and len(self._selections) > 1:
            used -= self._selections.popitem(last=False)[1].bytes

    def _scan(self, query: Any, chosen: Selection) -> Any:
        "Scores of the rows that a filter keeps; from the third time on from a copy of their vectors: the same numbers, two to four times as fast."
        if chosen.near is None:
            chosen.scans += 1
            if chosen.scans != 3 or 4 * chosen.count * self.dimension > ROOM // 4:
                return self.main.scores(query, chosen.rows)
            chosen.near = Matrix(self.main.rows[chosen.rows])
            with self._lock:
                self._forget()
        return chosen.near.scores(query, chosen.near.everything)

    def search(self, query: Any, k: int, chosen: Selection | None, effort: int | None) -> tuple[Any, Any]:
        "Scores and numbers of the k best; without an effort, or when the structure finds too few, by a scan."
        before = self._threads()
        self._set_threads(1)  # For this thread, and only until the answer is there
        try:
            return self._search(query, k, chosen, effort)
        finally:
            self._set_threads(before)

    def _search(self, query: Any, k: int, chosen: Selection | None, effort: int | None) -> tuple[Any, Any]:
        main, rows = self.main, None
        if effort is not None and self.asked is not None:
            rows = self.asked.candidates(query, min(math.ceil(self.fetch * k), len(main)), effort, chosen)
            if len(rows) < k and len(rows) < (len(main) if chosen is None else chosen.count - len(chosen.tail)):
                rows = None
        if rows is not None:
            scores = main.scores(query, rows)
        elif chosen is None:
            rows, scores = main.everything, main.scores(query, main.everything)
        else:
            rows, scores = chosen.rows, self._scan(query, chosen)
        if len(self.tail):
            late = self.tail.everything if chosen is None else chosen.tail
            scores, rows = np.concatenate([scores, self.tail.scores(query, late)]), np.concatenate([rows, late + len(main)])
        return best(scores, rows, k)

    def vectors(self, rows: Any) -> Any:
        "The vectors of rows, in their order; raises `ConfigurationError` for a row that is not there."
        numbers = np.asarray(rows)
        numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers.astype(np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.rows:
            raise ConfigurationError(f"No row {numbers.max() if numbers.max() >= self.rows else numbers.min()}: there are {self.rows}, from 0.")
        found, late = np.empty((len(numbers), self.dimension), np.float32), numbers >= len(self.main)
        found[~late], found[late] = self.main.rows[numbers[~late]], self.tail.rows[numbers[late] - len(self.main)]
        return found


def unit_vectors(matrix: Any) -> Any:
    "A float32 matrix; raises `ConfigurationError` unless every row has the length 1."
    try:
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Vectors are a matrix of numbers, one row each: {str(error)[:200]}") from error
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ConfigurationError(f"Vectors are a matrix, one row each, not of the shape {rows.shape}.")
    for start in range(0, len(rows), BLOCK):
        lengths = np.linalg.norm(rows[start : start + BLOCK], axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= 0.01))  # NaN is wrong as well
        if len(wrong):
            raise ConfigurationError(f"Row {start + wrong[0]} has the length {lengths[wrong[0]]:.3g}, unit vectors are needed. Normalise them.")
    return rows


def make(matrix: Any, kind: str, quantizer: str, lists: int, links: int, parts: int, seed: int) -> Any:
    "A structure over all rows of a matrix."
    faiss = need("faiss", "retrieval")
    dimension, inner = matrix.shape[1], faiss.METRIC_INNER_PRODUCT
    sq8 = faiss.ScalarQuantizer.QT_8bit
    draw = np.random.default_rng(seed)
    with one_thread():
        if kind == "hnsw":
            index = faiss.IndexHNSWSQ(dimension, sq8, links, inner) if quantizer else faiss.IndexHNSWFlat(dimension, links, inner)
            index.hnsw.efConstruction = 100
            index.hnsw.rng = faiss.RandomGenerator(12345 + seed)
            index.train(matrix[sample(draw, len(matrix), 65_536)])
            index.add(matrix)
            return index
        coarse = faiss.IndexFlatIP(dimension)
        if quantizer == "pq":
            index = faiss.IndexIVFPQ(coarse, dimension, lists, parts, 8, inner)
            index.pq.cp.seed, index.pq.cp.niter = 1234 + seed, 10
        elif quantizer == "sq8":
            index = faiss.IndexIVFScalarQuantizer(coarse, dimension, lists, sq8, inner)
        else:
            index = faiss.IndexIVFFlat(coarse, dimension, lists, inner)
        index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1234 + seed, 6, 1, 1_000_000
        index.train(matrix[sample(draw, len(matrix), max(16 * lists, min(32 * lists, 65_536)))])
    starts = range(0, len(matrix), BLOCK)
    homes = in_tasks(lambda start: coarse.search(matrix[start : start + BLOCK], 1)[1], starts)
    with one_thread():
        for start, home in zip(starts, homes, strict=True):
            part, home = np.ascontiguousarray(matrix[start : start + BLOCK]), np.ascontiguousarray(home[:, 0])
            index.add_core(len(part), faiss.swig_ptr(part), None, faiss.swig_ptr(home))
    return index


def sample(draw: Any, rows: int, most: int) -> Any:
    "At most so many row numbers, ascending, each once."
    return np.arange(rows) if rows <= most else np.sort(draw.choice(rows, most, replace=False))


def scan_cost(kept: int, dimension: int) -> float:
    "About how many microseconds it takes to compare a query with so many rows (measured on one core: 86 for 1,000 × 384)."
    return 3 + kept * (0.005 + dimension * 2.3e-4)


def structure_cost(kind: str, effort: int, share: float, rows: int, lists: int, dimension: int) -> float:
    "About how many microseconds a structure takes: lists compared, rows of probed lists looked at, those kept compared."
    if kind == "hnsw":
        return 10 + effort * dimension * 4e-3
    seen = rows * min(1.0, effort / max(lists, 1))
    return 10 + lists * dimension * 1.3e-4 + seen * (0.003 + share * dimension * 1e-4)


def ladder(kind: str, lists: int) -> list[int]:
    "Efforts to try, each about 1.4 times the one before."
    most = lists if kind == "ivf" else 2048
    steps = sorted({round(2 ** (step / 2)) for step in range(0 if kind == "ivf" else 8, 40)} | {most})
    return [step for step in steps if step <= most]


def truth(matrix: Any, queries: Any, rows: Any, own: Any, depth: int) -> Any:
    "By query, the scores of its `depth` nearest among some rows, itself left out."
    faiss = need("faiss", "retrieval")

    def part(start: int) -> Any:
        some = rows[start : start + BLOCK]
        scores, places = faiss.knn(queries, matrix[some], min(depth + 1, len(some)), metric=faiss.METRIC_INNER_PRODUCT)
        scores[some[places] == own[:, None]] = -np.inf
        return scores

    found = np.concatenate(in_tasks(part, range(0, len(rows), BLOCK)), axis=1)
    return -np.sort(-found, axis=1)[:, :depth]


def measure(matrix: Any, index: Any, kind: str, quantizer: str, target: float, seed: int, queries: Any = None) -> list[tuple[float, int, int, float, float, float]]:
    "The least effort that reaches a recall, by share kept and depth: share, depth, effort, recall and its interval."
    draw, rows, found = np.random.default_rng(seed), len(matrix), []
    lists = index.nlist if kind == "ivf" else 0
    if queries is None:
        own = sample(draw, rows, QUERIES)  # Rows ask for their neighbours; themselves they find for free
        queries = np.ascontiguousarray(matrix[own])
    else:
        own, queries = np.full(len(queries), -1), np.ascontiguousarray(queries, np.float32)
    order, steps, exact = draw.random(rows), ladder(kind, lists), Matrix(matrix)
    began: dict[int, int] = dict.fromkeys(DEPTHS, 0)
    for share in SHARES:
        kept = order < share
        selection = Selection(kept, rows)
        depths = [depth for depth in DEPTHS if depth < selection.count]
        worth = [depth for depth in depths if share == 1 or structure_cost(kind, steps[began[depth]], share, rows, lists, matrix.shape[1]) < scan_cost(selection.count, matrix.shape[1])]
        if not worth:
            continue
        nearest = truth(matrix, queries, selection.rows, own, max(worth))
        for depth in worth:
            for step in range(began[depth], len(steps)):
                last = step == len(steps) - 1
                if share < 1 and structure_cost(kind, steps[step], share, rows, lists, matrix.shape[1]) > scan_cost(selection.count, matrix.shape[1]):
                    break
                hits = _hits(exact, index, kind, math.ceil(FETCH[quantizer] * depth), steps[step], selection if share < 1 else None, queries, own, nearest[:, :depth])
                recall, low, high = interval(hits)
                if low >= target or last and share == 1:
                    found.append((share, depth, steps[step], recall, low, high))
                    began[depth] = step
                    break
    return found


def _hits(exact: Matrix, index: Any, kind: str, fetch: int, effort: int, selection: Selection | None, queries: Any, own: Any, nearest: Any) -> Any:
    "By query, the share of its nearest that were found; rows of equal score stand for each other."
    depth, how = nearest.shape[1], selection.options(kind, effort) if selection else options(kind, effort)

    def part(start: int) -> list[float]:
        shares = []
        asked = queries[start : start + 50]
        for place, rows in enumerate(index.search(asked, fetch + 1, params=how)[1], start=start):
            rows = rows[(rows >= 0) & (rows != own[place])][:fetch]
            shares.append(min(depth, int((exact.scores(queries[place], rows) >= nearest[place, -1] - 1e-6).sum())) / depth)
        return shares

    return np.concatenate(in_tasks(part, range(0, len(queries), 50)))


def interval(shares: Any) -> tuple[float, float, float]:
    "The mean and its 95 % interval, with one query that found nothing and one that found all added, so that no sample claims to be certain."
    more = np.append(shares, [0.0, 1.0])
    middle, half = float(more.mean()), 1.96 * float(more.std()) / math.sqrt(len(more))
    mean = float(np.mean(shares))
    return round(mean, 4), round(max(0.0, min(mean, middle - half)), 4), round(min(1.0, max(mean, middle + half)), 4)
