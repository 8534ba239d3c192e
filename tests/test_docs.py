"""The site builds without a network and without a loose end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from project import PAGES, ROOT


def test_site_has_no_loose_end(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "site", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.stem for path in tmp_path.glob("*.html")}
    assert built >= {"index", "CONTRIBUTING", "CHANGELOG"} | {path.stem for path in PAGES.values()}


def test_index_names_every_page(build: ModuleType) -> None:
    text = build.readme()
    missing = [path.name for path in PAGES.values() if f"](nbs/{path.name})" not in text]
    assert missing == []


def test_hidden_cells_are_not_shown(build: ModuleType) -> None:
    code = [{"cell_type": "code", "source": source} for source in ("#| hide\nimport x", "#| default_exp y", "#| export\ndef f(): ...")]
    assert [cell["source"] for cell in build.visible({"cells": code})["cells"]] == ["def f(): ..."]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="other.html">', "does not exist"),
        ('<a href="#nowhere">', "no such place"),
        ('<a href="index.html#nowhere">', "no such place"),
        ('<a href="../elsewhere.html">', "does not exist"),
        ('<a href="javascript:alert(1)">', "no web address"),
        ('<img src="missing.png">', "does not exist"),
        ('<img src="https://example.org/x.png">', "from outside"),
        ('<img srcset="https://example.org/x.png 2x">', "from outside"),
        ('<script src="//example.org/x.js"></script>', "from outside"),
        ('<link rel="stylesheet" href="https://example.org/x.css">', "from outside"),
        ("<style>@import 'https://example.org/x.css'</style>", "from outside"),
        ('<p style="background: url(https://example.org/x.png)">', "from outside"),
        ('<a href="https://example.org"><a href="#here" id="here"><img src="data:image/png;base64,">', ""),
    ],
)
def test_loose_ends_are_seen(build: ModuleType, tmp_path: Path, body: str, problem: str) -> None:
    (tmp_path / "index.html").write_text(f"<html><body>{body}</body></html>")
    found = list(build.problems(tmp_path))
    assert len(found) == bool(problem)
    assert problem in "".join(found)
