"""Texts embedded a second: the embedder of the project against onnxruntime called bare, at whatever batch size is best for it.

Both use the same network, the same tokenizer and the same two threads, in turns, so that a noisy machine disturbs both.
The bare way pads each batch to its longest text, over texts sorted by length; its vectors depend on the batch a little.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from llmops_nb.embedders import cached_embedder, embedder, read_tokenizer
from llmops_nb.documents import from_mapping
from llmops_nb.embedding import embed_all
from llmops_nb.settings import load_settings
from llmops_nb.splitters import cut

GOAL = 0.9  # Of the best bare throughput
BATCHES = (1, 2, 4, 8, 16)
ROUNDS = 3


def bare(directory: Path, threads: int) -> Any:
    "onnxruntime and the tokenizer, with nothing around them."
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = read_tokenizer(directory / "tokenizer.json")

    def run(texts: list[str], batch: int) -> None:
        order = sorted(texts, key=len)
        for begin in range(0, len(order), batch):
            found = tokenizer(order[begin : begin + batch], truncation=True, max_length=512, padding=True, return_token_type_ids=True)
            out = session.run(None, {name: np.array(found[name], np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")})[0][:, 0]
            out / np.linalg.norm(out, axis=1, keepdims=True)

    return run


def main(texts: int = 160) -> int:
    settings = load_settings()
    corpus = from_mapping("pydoc_data.topics", "topics")
    chunks = [chunk.text for document in corpus.documents for chunk in cut(document)][:: max(1, 1200 // texts)][:texts]
    ours = embedder(settings=settings)
    run = bare(settings.weights / "weights" / "bge-small-en-v1.5", settings.threads)
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, job in [("ours", lambda: embed_all(ours, chunks)), *((f"bare, batch {n}", lambda n=n: run(chunks, n)) for n in BATCHES)]:
            start = time.perf_counter()
            job()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as state:
        cached = cached_embedder(ours, Path(state) / "vectors.sqlite")
        for name in ("ours, written to the cache", "ours, from the cache"):
            start = time.perf_counter()
            embed_all(cached, chunks)
            seconds[name] = [time.perf_counter() - start]
    best = min(min(found) for name, found in seconds.items() if name.startswith("bare"))
    for name, found in seconds.items():
        print(f"{name:28} {len(chunks) / min(found):8.1f} texts/s   {best / min(found):6.2f} x the best bare batch")
    reached = best / min(seconds["ours"])
    print(f"\n{reached:.2f} of the best bare throughput (goal {GOAL})")
    return 0 if reached >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
