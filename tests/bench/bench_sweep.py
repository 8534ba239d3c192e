"""24 cells × 120 items against a loopback server with 50 ms latency, where every call is made by two cells.

Direct is the cheapest way to the same answers: a loop that asks each different question once, with nothing kept. The sweep is run
twice: cells as notebooks, each a papermill run with its directory, and cells evaluated directly. No repeated call may reach the server.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from llmops_nb.app import load_app
from llmops_nb.settings import load_settings
from llmops_nb.spaces import Plan
from llmops_nb.sweeps import run_sweep
from loopback import loopback
from sweeping import sweeping

PROMPTS, ITEMS, AT_ONCE, LATENCY = 12, 120, 16, 0.05


def direct(url: str, questions: list[str]) -> float:
    "Seconds of a loop of threads over plain connections."
    import http.client
    import json
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import urlsplit

    local, port = threading.local(), urlsplit(url).port

    def ask(question: str) -> None:
        connection = getattr(local, "connection", None) or http.client.HTTPConnection("127.0.0.1", port)
        local.connection = connection
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": [{"role": "user", "content": question}]}), {"content-type": "application/json"})
        json.loads(connection.getresponse().read())

    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask, questions))
    return time.perf_counter() - start


def sweep(kind: str) -> tuple[float, float]:
    "Seconds of a sweep and of direct calls; checks that no repeated call reached the server."
    with tempfile.TemporaryDirectory() as name, loopback(Path(name) / "log", LATENCY) as server:
        here = sweeping(Path(name), server.url, ITEMS, concurrency=AT_ONCE)
        for n in range(PROMPTS):
            (here / f"p{n}.md").write_text(f"---\nvariables: {{question: str}}\n---\n[user]\nVariant {n}. {{{{ question }}}}\n")
        (here / "app.yaml").write_text("name: loop\nprompt: p0.md\nmodel: {max_tokens: 16}\n")
        settings = load_settings(Path(name))
        load_app(here, settings)
        vary = {"prompt": [f"p{n}.md" for n in range(PROMPTS)], "longest_question": [2000, 3000]}  # The second changes no call
        plan = Plan(app=str(here), vary=vary, objective="task_success", workers=1)
        if kind == "notebook":
            plan = replace(plan, notebook=str(here / "eval.ipynb"), objective="exact_match", workers=2)
        alone = direct(server.url, [f"Direct {n}. Say <{i}>" for n in range(PROMPTS) for i in range(ITEMS)])
        start = time.perf_counter()
        found = run_sweep(plan, settings, progress=False)
        seconds = time.perf_counter() - start
        counts = Counter(text for _, text in server.requests() if text.startswith("Variant"))
        assert found.info.status == "finished" and len(found.info.cells) == 2 * PROMPTS, found.info
        assert found.info.totals["items"] == 2 * PROMPTS * ITEMS and found.info.totals["errors"] == 0
        assert len(counts) == counts.total() == PROMPTS * ITEMS, f"a repeated call reached the model: {len(counts)} questions, {counts.total()} calls"
        return seconds, alone


def main() -> list[tuple[str, float, str]]:
    rows = []
    items = 2 * PROMPTS * ITEMS
    for kind, what in (("app", "cells evaluated directly"), ("notebook", "cells as notebooks, 2 at once")):
        seconds, alone = sweep(kind)
        rows.append((f"{2 * PROMPTS} cells × {ITEMS} items, {what}", seconds, f"{items // 2} calls for {items} items; direct calls {alone:.2f} s; {(seconds - alone) / items * 1000:.1f} ms overhead an item"))
    return rows


if __name__ == "__main__":
    for name, seconds, ratio in main():
        print(f"{name:<60} {seconds:7.3f} s  {ratio}")
