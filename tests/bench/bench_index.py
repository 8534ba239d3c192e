"""An index in files of 100,000 chunks x 384 dimensions: searched whole (filter, vectors, chunks decoded), loaded, changed.

The ideal is the vector structure asked alone, with a filter that is already a mask; FAISS's flat index with a bitmap of the
rows kept is the peer. Filters and chunks are asked for again and again, as tenants do. Loading is compared with reading the
same files once. `python tests/bench/bench_index.py 10000` takes another size.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from llmops_nb.core import Document
from llmops_nb.documents import Corpus
from llmops_nb.index import Recipe, build_index, open_saved

DIMENSION, QUERIES = 384, 200


def clustered(rows: int) -> Any:
    "Unit vectors in clusters of about 200."
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(max(1, rows // 200), DIMENSION)).astype(np.float32)
    matrix = centres[draw.integers(0, len(centres), rows)] + 0.35 * draw.normal(size=(rows, DIMENSION)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def documents(rows: int) -> tuple[Document, ...]:
    "One chunk each, of sixty words from a vocabulary with a long tail; every fifth has expired."
    words = [f"w{number}" for number in np.random.default_rng(1).zipf(1.3, 200_000) % 50_000]
    return tuple(
        Document(f"d{n:06}", f"n{n} {' '.join(words[n * 13 % 190_000 :][:60])}.", metadata={"tenant": f"t{n % 100}", "year": n % 10, "expires": 1e9 if n % 5 == 0 else 2e9})
        for n in range(rows)
    )


def per_second(call: Callable[[Any], Any], queries: Any) -> float:
    "Calls a second, the best of three rounds."
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for query in queries:
            call(query)
        best = max(best, len(queries) / (time.perf_counter() - start))
    return best


def version(corpus: Corpus, recipe: Recipe, embedder: Any) -> tuple[str, float, str]:
    "The next version of a corpus, one document of a hundred changed: made from the version before, and from nothing."
    after = tuple(replace(document, text=f"{document.text} More was said.") if number % 100 == 0 else document for number, document in enumerate(corpus.documents))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        build_index(corpus, recipe, embedder, Path(one))
        start = time.perf_counter()
        derived = build_index(replace(corpus, documents=after), recipe, embedder, Path(one))
        took = time.perf_counter() - start
        start = time.perf_counter()
        fresh = build_index(replace(corpus, documents=after), recipe, embedder, Path(two))
        nothing = time.perf_counter() - start
        return f"the next version ({derived.origin}), 1 % changed, seconds", took, f"{nothing / took:.1f} × as fast as from nothing ({nothing:.1f} s, embedding left out); {derived.difference(fresh) or 'the same bytes'}"


def main(rows: int) -> list[tuple[str, float, str]]:
    matrix = clustered(rows)

    class Given:
        name, digest = "given", "given-1"

        def __call__(self, texts: Any) -> Any:
            return matrix[[int(text.split()[0][1:]) for text in texts]]

    corpus, recipe, table = Corpus("bench", documents(rows)), Recipe(embedder="given"), []
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        index = build_index(corpus, recipe, Given(), Path(place))
        table.append((f"built from {rows:,} documents, seconds", time.perf_counter() - start, "cut, words, vectors, written; embedding left out"))
        home = Path(place) / "index" / index.digest[:16]
        files = [file for file in home.rglob("*") if file.is_file()]
        start = time.perf_counter()
        size = sum(len(file.read_bytes()) for file in files)
        read = time.perf_counter() - start
        start = time.perf_counter()
        index = open_saved(home, Given())
        index.matching("w1", 1)
        took = time.perf_counter() - start
        table.append((f"opened, all {size / 1e6:,.0f} MB checked by hash, seconds", took, f"{took / read:.1f} × reading the files once"))
        start = time.perf_counter()
        build_index(corpus, recipe, Given(), Path(place))
        table.append(("found by build_index, seconds", time.perf_counter() - start, "the digest of the documents comes on top"))
        draw = np.random.default_rng(2)
        queries = matrix[draw.integers(0, rows, QUERIES)] + 0.1 * draw.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        vectors = index._state.parts.vectors
        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(matrix)
        for what, where, now in (("no filter", None, 0.0), ("TTL", None, 1.5e9), ("10 % + TTL", {"year": 3}, 1.5e9), ("1 % + TTL", {"tenant": "t7"}, 1.5e9)):
            keep = index._state.kept(where, now).rows
            bitmap = None if keep is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little")))
            whole = per_second(lambda query, where=where, now=now: index.nearest(query, 10, where, now), queries)
            alone = per_second(lambda query, keep=keep: vectors.search(query, 10, keep), queries)
            bare = per_second(lambda query, bitmap=bitmap: flat.search(query[None], 10, params=bitmap), queries[:50])
            table.append((f"nearest, {what}: queries a second", whole, f"{whole / alone:.2f} × the vectors alone ({alone:,.0f}), {whole / bare:.1f} × FAISS flat ({bare:,.0f}); {index.plan(where, now).split(':')[0]}"))
        start = time.perf_counter()
        change = index.upsert([Document("d000005", "n5 changed text here.", metadata={"tenant": "t1", "year": 1})])
        table.append(("one document changed, seconds", time.perf_counter() - start, f"{change.embedded} text embedded; words weighed and files written anew"))
    table.append(version(corpus, recipe, Given()))
    return table


if __name__ == "__main__":
    for name, value, remark in main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000):
        print(f"{name:<66} {value:9.2f}  {remark}")
