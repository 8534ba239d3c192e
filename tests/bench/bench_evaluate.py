"""1,000 items at concurrency 64 against a loopback server with 50 ms latency, and the same again from memory.

The ideal is 1,000 / 64 × 50 ms = 0.78 s. Cache, journal (fsynced) and trace are on.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmops_nb.app import load_app
from llmops_nb.core import Item
from llmops_nb.datasets import GoldenSet
from llmops_nb.evals import evaluate
from llmops_nb.scorers import exact_match
from llmops_nb.settings import load_settings

ITEMS, AT_ONCE, LATENCY = 1000, 64, 0.05
SERVER = Path(__file__).parent.parent / "openai_server.py"
APP = "name: bench\nprompt: say.md\nmodel: {alias: bench, max_tokens: 16}\n"
PROMPT = "---\nvariables: {question: str}\n---\n[system]\nAnswer in one word.\n[user]\n{{ question }}\n"


def bare_loop(port: int) -> float:
    "The cheapest loop there is: threads over plain connections, nothing kept."
    import http.client
    import json
    import threading
    from concurrent.futures import ThreadPoolExecutor

    local = threading.local()

    def ask(n: int) -> None:
        connection = getattr(local, "connection", None) or http.client.HTTPConnection("127.0.0.1", port)
        local.connection = connection
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": [{"role": "user", "content": f"bare <{n}>"}]}), {"content-type": "application/json"})
        json.loads(connection.getresponse().read())

    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask, range(ITEMS)))
    return time.perf_counter() - start


def main(rounds: int = 3) -> list[tuple[str, float, str]]:
    cold, warm, bare = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name, subprocess.Popen([sys.executable, str(SERVER), "--latency", str(LATENCY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            root = Path(name)
            assert server.stdout is not None
            port = int(server.stdout.readline())
            (root / "settings.ini").write_text(f"[llmops]\nconcurrency = {AT_ONCE}\n[model bench]\nbase_url = http://127.0.0.1:{port}/v1\ninput_price = 1\noutput_price = 2\n")
            (root / "app.yaml").write_text(APP)
            (root / "say.md").write_text(PROMPT)
            settings = load_settings(root)
            app = load_app(root, settings)
            golden = GoldenSet("bench", tuple(Item(f"i{n}", f"Say <{n}>", str(n) if n % 4 else "wrong") for n in range(ITEMS)))
            app("warm up the imports <x>")
            bare.append(bare_loop(port))
            for times, run in ((cold, "cold"), (warm, "warm")):
                start = time.perf_counter()
                found = evaluate(app, golden, [exact_match], root / run, settings=settings, progress=False)
                times.append(time.perf_counter() - start)
                metric = found.metric("exact_match")
                assert metric.value == 0.75 and metric.n == ITEMS, metric
            server.kill()
    ideal = ITEMS / AT_ONCE * LATENCY
    b, c, w = (statistics.median(x) for x in (bare, cold, warm))
    return [
        ("bare loop, nothing kept", b, f"{b / ideal:.2f} × ideal"),
        (f"evaluate {ITEMS} items, {AT_ONCE} at once, {LATENCY * 1000:.0f} ms", c, f"{c / ideal:.2f} × ideal (goal ≤ 1.4), {c / b:.2f} × bare loop"),
        ("the same again, from memory", w, f"{w / ITEMS * 1000:.2f} ms an item (goal ≤ 0.5 s)"),
    ]


if __name__ == "__main__":
    for name, seconds, ratio in main():
        print(f"{name:<60} {seconds:7.3f} s  {ratio}")
