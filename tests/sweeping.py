"""A project to sweep over: the loopback application with prompts that are right, wrong or out of order, and a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import yaml

from loopback import project

PROMPTS = {
    "kind.md": "Be kind. {{ question }}",
    "plain.md": "Plainly. {{ question }}",
    "wrong.md": "<wrong> {{ question }}",  # The server says what stands in the first brackets
    "refused.md": "fault:auth {{ question }}",
}
PARAMETERS = """
prompt: str | None = None  # File of another prompt
max_tokens: int | None = None  # Tokens written at most
split: str = "dev"  # Part of the golden set
limit: int = 0  # At most so many items
repeat: int = 0  # Number of the repeat
overrides: dict = {}  # Further settings of the app
run_dir: str = ""  # Filled in
"""
CELL = """
from llmops_nb import evaluate, load_app, load_golden, select
from llmops_nb.scorers import exact_match
app = load_app(".", prompt=prompt, max_tokens=max_tokens, repeat=repeat, **overrides)
evaluate(app, select(load_golden("golden/loop.jsonl"), split=split, limit=limit), [exact_match], run_dir or None)
"""


def sweeping(root: Path, url: str, items: int, **settings: object) -> Path:
    "The experiment, its notebook in it."
    here = project(root, url, items, **settings)
    for name, text in PROMPTS.items():
        (here / name).write_text(f"---\nvariables: {{question: str}}\n---\n[user]\n{text}\n")
    first = nbformat.v4.new_code_cell(PARAMETERS.strip(), id="parameters")
    first.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(CELL.strip(), id="run")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, here / "eval.ipynb")
    return here


def write_plan(here: Path, **plan: Any) -> Path:
    "A plan beside the notebook."
    path = here / "plan.yaml"
    path.write_text(yaml.safe_dump({"notebook": "eval.ipynb", "objective": "exact_match", **plan}))
    return path


def texts(here: Path, prompt: str, items: int) -> list[str]:
    "What the server is asked for a cell with this prompt."
    rows = [json.loads(line) for line in (here / "golden" / "loop.jsonl").read_text().splitlines()][:items]
    return [PROMPTS[prompt].replace("{{ question }}", row["question"]) for row in rows]
