"""The loopback server of openai_server.py as a context manager, and a small project that asks it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SERVER = Path(__file__).parent / "openai_server.py"


@dataclass(frozen=True)
class Loopback:
    "A running server."

    port: int  # On 127.0.0.1
    log: Path  # One line a request: [time, text]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def requests(self) -> list[tuple[float, str]]:
        "Every request so far: when, and the text of its last message."
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def state(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as reply:
            return dict(json.load(reply))


@contextlib.contextmanager
def loopback(log: Path, latency: float = 0.0) -> Iterator[Loopback]:
    "A server for the time of a `with`."
    command = [sys.executable, str(SERVER), "--latency", str(latency), "--log", str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Loopback(int(process.stdout.readline()), log)
        finally:
            process.kill()


def project(root: Path, url: str, items: int, **settings: object) -> Path:
    "A project with one application whose model is the server at `url`, and a golden set."
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (root / "settings.ini").write_text("\n".join(["[llmops]", "model = loop", *lines, "[model loop]", f"base_url = {url}", "input_price = 1", "output_price = 2", ""]))
    experiment = root / "experiments" / "loop"
    (experiment / "golden").mkdir(parents=True)
    (experiment / "app.yaml").write_text("name: loop\nprompt: say.md\nmodel: {max_tokens: 16}\n")
    (experiment / "say.md").write_text("---\nvariables: {question: str}\n---\n[system]\nAnswer in one word.\n[user]\n{{ question }}\n")
    rows = [{"id": f"i{n}", "question": f"Say <{n}>", "expected": str(n) if n % 4 else "other", "slices": ["even" if n % 2 == 0 else "odd"]} for n in range(items)]
    (experiment / "golden" / "loop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return experiment
