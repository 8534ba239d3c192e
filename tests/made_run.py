"""A run directory made up from the language reference: realistic sizes, every kind of outcome, hostile text on request."""

from __future__ import annotations

import base64
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydoc_data.topics import topics

from llmops_nb.core import from_json, to_json
from llmops_nb.metrics import Record, check, summarise

SLICES = ("fact", "definition", "behaviour", "comparison", "multi-topic")
SYSTEM = (
    "You answer questions about the Python language from the numbered passages below and from nothing else. "
    "Cite the passages you used as [1], [2]. If the passages do not hold the answer, say exactly: I do not know."
)
THRESHOLDS = {"task_success": 0.75, "evidence_recall": 0.6, "groundedness": 0.63}


def _words(text: str, start: int, size: int) -> tuple[int, int]:
    "Bounds near the wanted ones that cut no word."
    while start and not text[start - 1].isspace():
        start -= 1
    end = min(len(text), start + size)
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


def _passages(rng: random.Random, name: str, known: Sequence[str]) -> list[dict[str, Any]]:
    "Four passages of about 400 characters, the first from the topic itself."
    found = []
    for place in range(4):
        document = name if place < 2 else rng.choice(known)
        start, end = _words(topics[document], rng.randrange(max(1, len(topics[document]) - 400)), 400)
        chunk = {"id": f"{document}#{start // 400}", "document": document, "text": topics[document][start:end], "start": start, "end": end,
                 "heading": document.title(), "version": f"{rng.getrandbits(256):064x}"}  # fmt: skip
        dense, bm25 = rng.uniform(0.3, 0.9), rng.uniform(2, 20)
        found.append({"chunk": chunk, "score": 0.95 - 0.2 * place, "scores": {"dense": dense, "bm25": bm25, "rrf": 1 / (61 + place), "rerank": 0.95 - 0.2 * place}})
    return found


def _scores(rng: random.Random, right: bool, answerable: bool, abstained: bool, usage: dict[str, Any], held: bool) -> list[dict[str, Any]]:
    "Ten scores, some that do not apply, now and then one whose scorer failed."

    def score(name: str, value: float | None, why: str = "", error: str = "") -> dict[str, Any]:
        return {"name": name, "value": value, "why": why, "error": error}

    blend = rng.uniform(0.6, 1) if right else rng.uniform(0.1, 0.7)
    grounded = (None, "", "The tokenizer met a byte it does not know: 0xff") if rng.random() < 0.01 else (blend, "2 of 3 numbers of the answer stand in a passage; '3.9' does not", "")
    return [
        score("task_success", float(right if answerable else abstained), "all 2 facts are there" if right else "missing: 'else clause'"),
        score("contains_facts", float(right) / (1 if right else 2) if answerable else None, "" if answerable else "no facts are expected"),
        score("abstained_correctly", None if answerable else float(abstained), "the question can be answered" if answerable else "abstained" if abstained else "answered anyway"),
        score("attempted", float(not abstained) if answerable else None),
        score("groundedness", *grounded),
        score("evidence_recall", float(held) if answerable else None, "all evidence is in the 4 passages" if held else "not retrieved: while: “It may have an else clause” (0%)"),
        score("token_f1", blend if answerable else None, "11 words in common: 30 said, 19 expected"),
        score("latency", usage["latency"]),
        score("tokens", float(usage["prompt_tokens"] + usage["completion_tokens"])),
        score("cost", usage["cost"]),
    ]


def record(number: int, rng: random.Random, names: Sequence[str]) -> dict[str, Any]:
    "One line of the journal."
    name = rng.choice(names)
    answerable, failed = rng.random() > 0.15, rng.random() < 0.02
    passages = _passages(rng, name, names)
    held = rng.random() < 0.8
    source = passages[rng.randrange(2)]["chunk"]["text"] if held else topics[name]
    words = source.split()
    begin = next((at for at in range(3, len(words) - 19) if words[at][0].isupper() and words[at].isalpha()), 3)
    quote = " ".join(words[begin : begin + 19])
    abstained = rng.random() < (0.08 if answerable else 0.7)
    right = answerable and not abstained and rng.random() < (0.78 if held else 0.3)
    slices = [rng.choice(SLICES)] if answerable else ["unanswerable"]
    item = {"id": f"{slices[0]}-{number:04d}", "question": f"In the chapter on {name}: when does “{' '.join(quote.split()[:8])} …” apply, and to what?",
            "expected": quote, "facts": [[" ".join(quote.split()[:3]), "it may"], [quote.split()[-1]]] if answerable else [],
            "evidence": [{"document": name, "quote": quote}] if answerable else [], "answerable": answerable, "slices": slices,
            "split": "test" if number % 4 == 0 else "dev", "origin": "author", "note": ""}  # fmt: skip
    if failed:
        error = {"kind": "ModelError", "code": "rate_limit", "message": "The provider is busy (429); gave up after 5 attempts.", "retryable": True}
        return {"item": item, "answer": None, "scores": [], "error": error, "seconds": rng.uniform(20, 40), "at": 1.7638e9 + number}
    text = "I do not know." if abstained else f"{quote} [1]. It applies whenever the suite is executed [2], see also [7]."
    usage = {"prompt_tokens": rng.randint(480, 760), "completion_tokens": 6 if abstained else rng.randint(30, 90), "cached_tokens": 0,
             "latency": rng.lognormvariate(0.3, 0.5), "cost": rng.uniform(1e-4, 4e-4), "cached": rng.random() < 0.3, "attempts": 1 + (rng.random() < 0.05)}  # fmt: skip
    prompt = f"{item['question']}\n\n" + "\n\n".join(f"[{n}] {p['chunk']['heading']}\n{p['chunk']['text']}" for n, p in enumerate(passages, 1))
    cited = [] if abstained else [{"number": 1, "chunk": passages[0]["chunk"]["id"]}, {"number": 2, "chunk": passages[1]["chunk"]["id"]}, {"number": 7, "chunk": ""}]
    answer = {"text": text, "model": "local/qwen2.5-coder-0.5b", "usage": usage, "finish": "stop",
              "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}], "passages": passages, "citations": cited,
              "abstained": abstained, "logprobs": [], "data": None, "findings": [], "trace_id": f"{rng.getrandbits(128):032x}"}  # fmt: skip
    scores = _scores(rng, right, answerable, abstained, usage, held)
    return {"item": item, "answer": answer, "scores": scores, "error": None, "seconds": usage["latency"] + 0.05, "at": 1.7638e9 + number}


def info(records: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    "run.json of these records."
    usages = [r["answer"]["usage"] for r in records if r.get("answer")]
    totals = {"items": len(records), "errors": sum(bool(r["error"]) for r in records), "prompt_tokens": sum(u["prompt_tokens"] for u in usages),
              "completion_tokens": sum(u["completion_tokens"] for u in usages), "cost": sum(u["cost"] for u in usages),
              "spent": sum(u["cost"] for u in usages if not u["cached"]), "cached_share": sum(u["cached"] for u in usages) / max(1, len(usages)),
              "seconds": 125.3}  # fmt: skip
    metrics = summarise([from_json(json.dumps(r), Record) for r in records])
    found, checks = json.loads(to_json(metrics)), json.loads(to_json(check(metrics, THRESHOLDS)))
    digests = {name: f"{zlib.crc32(name.encode()):08x}" * 8 for name in ("app", "prompt", "golden", "corpus", "index", "model", "scorers", "code")}
    packages = {f"package-{n}": f"1.{n}.0" for n in range(40)} | {"llmops_nb": "0.1.0", "numpy": "2.4.6"}
    return {"id": "20261123-121703-4f2a", "app": "pydocs", "status": "finished", "created": "2026-11-23T12:17:03+00:00", "finished": "2026-11-23T12:19:08+00:00",
            "notebook": "experiments/pydocs/eval.ipynb", "parameters": {"model": "local/qwen2.5-coder-0.5b", "top_k": 4, "split": "", "rerank": True, "note": "first look"},
            "items": len(records), "selection": "", "thresholds": THRESHOLDS, "digests": digests, "model": {"name": "local/qwen2.5-coder-0.5b", "digest": "9a" * 32, "temperature": 0, "threads": 2},
            "environment": {"python": "3.11.7", "platform": "Linux-x86_64", "packages": packages},
            "git": {"commit": "1f3c0de5" * 5, "branch": "main", "dirty": True}, "metrics": found, "checks": checks, "totals": totals, "note": ""} | changes  # fmt: skip


def png(width: int = 8, height: int = 6) -> str:
    "A real, small picture, as notebooks store one."

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((40 * y % 256, 90, 30 * x % 256)[c] for x in range(width) for c in range(3)) for y in range(height))
    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")).decode()


TABLE = '<div><style>.dataframe td {{color: red}}</style><table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th><th>name</th><th>value</th></tr></thead><tbody>{}</tbody></table></div>'


def code(source: str, *outputs: dict[str, Any], tags: Sequence[str] = ()) -> dict[str, Any]:
    "A code cell that has run."
    return {"cell_type": "code", "execution_count": 1, "id": f"c{zlib.crc32(source.encode()):08x}", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def shown(**data: str) -> dict[str, Any]:
    "An output with media types, written with '_' for '/': text_html=…"
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/").replace("svg", "svg+xml"): v for k, v in data.items()}}


def notebook(*cells: dict[str, Any], picture: str = "") -> dict[str, Any]:
    "An executed notebook: prose, parameters, a table, a plot, a stream."
    rows = "".join(f"<tr><th>{n}</th><td>metric {n}</td><td>{n / 7:.3f}</td></tr>" for n in range(5))
    usual = [
        {"cell_type": "markdown", "id": "m1", "metadata": {}, "source": "# Evaluate pydocs\n\nRuns the *application* over its golden set.\n\n| a | b |\n|---|---|\n| 1 | 2 |"},
        code("top_k: int = 8  # Passages handed to the model", tags=["parameters"]),
        code("# Parameters\ntop_k = 4", tags=["injected-parameters"]),
        code("from llmops_nb.evals import evaluate\n\nrun = evaluate(app, golden)  # one line an item\nrun.to_pandas().head(5)", shown(text_html=TABLE.format(rows), text_plain="a table")),
        code("run.plot()", shown(image_png=picture or png(), text_plain="<Figure>")),
        code("run.close()", {"output_type": "stream", "name": "stdout", "text": "1,000 items \x1b[32mdone\x1b[0m\n"}),
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "cells": [*usual, *cells]}


def make(
    run: Path,  # The directory to fill
    items: int = 1000,
    change: Callable[[list[dict[str, Any]], dict[str, Any], dict[str, Any]], None] | None = None,  # Gets records, info, notebook before they are written
    picture: str = "",
    **changes: Any,  # Fields of run.json
) -> Path:
    "Write run.json, records.jsonl and notebook.ipynb."
    rng = random.Random(7)
    names = sorted(name for name, text in topics.items() if len(re.sub(r"\s+", " ", text)) > 1500)
    records = [record(number, rng, names) for number in range(1, items + 1)]
    about, pages = info(records, **changes), notebook(picture=picture)
    if change:
        change(records, about, pages)
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(about))
    (run / "records.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    (run / "notebook.ipynb").write_text(json.dumps(pages))
    return run
