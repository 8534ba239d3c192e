"""What the project consists of, for the tests that read its files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "llmops_nb"
PAGES = {path.stem[3:]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}  # By module name
FLOORS = {name: int(path.name[:2]) for name, path in PAGES.items()}


def cells(path: Path) -> list[dict[str, Any]]:
    "The cells of a notebook file."
    return cells_of(path.read_text("utf-8"))


def cells_of(text: str) -> list[dict[str, Any]]:
    "The cells of a notebook, each with its source as one string and its directives, such as 'export'."
    found: list[dict[str, Any]] = json.loads(text)["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
        cell["directives"] = re.findall(r"^#\s*\|\s*(\w+)", cell["source"], re.M) if cell["cell_type"] == "code" else []
    return found


def exported(cell: dict[str, Any]) -> bool:
    "Whether the cell's code goes into the module."
    return bool({"export", "exporti", "exports"} & set(cell["directives"]))


def files() -> list[Path]:
    "Every file that is, or is about to be, in git."
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in sorted(set(names.split("\0"))) if name and (path := ROOT / name).is_file()]


def copy_to(directory: Path) -> Path:
    "A copy of those files, as a fresh clone would have them."
    for path in files():
        target = directory / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return directory
