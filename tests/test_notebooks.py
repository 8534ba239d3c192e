"""Pages keep their limits, are clean, say what is true, and are the source of the modules."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from project import PACKAGE, PAGES, ROOT, cells, cells_of, copy_to, exported, files

NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "experiments").glob("*/*.ipynb"))]]
FOREIGN = re.compile(r"/(?:root|home|Users|tmp|work)/\w|python[h]osted|pypi\.[o]rg|--(?:extra-)?index[-]url|find[-]links")
BINARY = {".png", ".ico", ".gz", ".parquet", ".npz", ".onnx", ".gguf"}


def lines(cell: dict) -> list[str]:
    "The lines of code that a cell exports."
    return [line for line in re.sub(r"^(#\s*\|.*\n)+", "", cell["source"]).splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_page_keeps_its_limits(page: str) -> None:
    found = cells(PAGES[page])
    sizes = [len(lines(cell)) for cell in found if exported(cell)]
    long = {lines(cell)[0]: len(lines(cell)) for cell in found if exported(cell) and len(lines(cell)) > 40}
    words = sum(len(cell["source"].split()) for cell in found if cell["cell_type"] == "markdown")
    assert sum(sizes) <= 400, "exported lines"
    assert long == {}, "lines of exported cells"
    assert words >= sum(sizes), f"{words} words for {sum(sizes)} lines"
    assert PAGES[page].stat().st_size <= 200_000
    runs = re.findall("x+", "".join("x" if exported(cell) else "." for cell in found))
    assert max(map(len, runs), default=0) <= 3, "exported cells in a row"


@pytest.mark.parametrize("page", PAGES)
def test_page_opens_with_what_it_is(page: str) -> None:
    first, second = cells(PAGES[page])[:2]
    assert re.match(r"# \S.*\n> \S.*\n\n\S.{80,}", first["source"], re.S), "a title, one > sentence, a paragraph"
    assert second["source"].strip() == f"#| default_exp {page}"


@pytest.mark.parametrize("page", PAGES)
def test_lessons_show_values(page: str) -> None:
    for cell in cells(PAGES[page]):
        if cell["cell_type"] != "code":
            continue
        assert not {"eval", "notest"} & set(cell["directives"]), "a cell that is not executed proves nothing"
        tree = ast.parse(re.sub(r"^[%!].*$", "", cell["source"], flags=re.M))
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        stars = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
        assert not stars
        if not exported(cell):
            assert "print" not in called, "a lesson ends with its value"
            assert not any(isinstance(node, ast.Try) for node in ast.walk(tree)), "an expected failure is `with expect_fail(…)`"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_holds_no_error(name: str) -> None:
    outputs = [output for cell in cells(ROOT / name) for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr" and "Traceback" in "".join(output["text"])]


@dataclass
class Rerun:
    "The pages exported, executed and cleaned anew in a copy of the project."

    root: Path  # The copy
    executed: set[str]  # Notebooks that ran to their end
    log: str  # What the commands printed


@pytest.fixture(scope="module")
def rerun(tmp_path_factory: pytest.TempPathFactory) -> Rerun:
    copy = copy_to(tmp_path_factory.mktemp("copy"))
    for page in PAGES:
        (copy / "llmops_nb" / f"{page}.py").unlink(missing_ok=True)

    def command(*words: str) -> str:
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run([program, *words[1:]], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True)
        return done.stdout + done.stderr

    log = command("nbdev-export") + command("nbdev-test", "--save", "--n-workers", "2")
    ran = [path.name for path in (copy / "nbs").glob("*.ipynb") if any(cell.get("execution_count") for cell in cells(path))]
    return Rerun(copy, set(ran), log + command("nbdev-clean"))


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("nbs/")])
def test_outputs_are_true_and_clean(rerun: Rerun, name: str) -> None:
    "Executed anew and cleaned, a page is what is stored: same outputs, no execution counts, no surplus metadata."
    assert Path(name).name in rerun.executed, f"{name} fails:\n{rerun.log}"
    stored, fresh = (path.read_text("utf-8") for path in (ROOT / name, rerun.root / name))
    stored, fresh = (re.sub(r'("image/\w+": ").*"', r'\1…"', text) for text in (stored, fresh))  # Pixels differ between machines
    for old, new in zip(cells_of(stored), cells_of(fresh), strict=True):
        assert old.get("outputs") == new.get("outputs"), f"other outputs than stored (make pages stores them) from:\n{old['source']}"
    assert stored == fresh, "not clean; make pages cleans it"


@pytest.mark.parametrize("name", sorted(path.name for path in PACKAGE.glob("*.py")))
def test_module_is_what_the_pages_export(rerun: Rerun, name: str) -> None:
    fresh = rerun.root / "llmops_nb" / name
    assert fresh.is_file(), f"{name} is made from no page\n{rerun.log}"
    assert fresh.read_text("utf-8") == (PACKAGE / name).read_text("utf-8"), "make pages exports it"


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("experiments/")])
def test_experiment_is_clean(name: str) -> None:
    notebook = json.loads((ROOT / name).read_text("utf-8"))
    assert set(notebook["metadata"]) <= {"kernelspec"}
    for cell in notebook["cells"]:
        assert not cell.get("execution_count") and set(cell["metadata"]) <= {"tags"}


def test_no_file_names_somebodys_machine() -> None:
    found = []
    for path in files():
        if path.name != "LICENSE" and path.suffix not in BINARY:
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if FOREIGN.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []


@pytest.mark.parametrize("text", ["see /root" + "/x", "/home" + "/me/x.txt", "https://files.python" + "hosted.org", "--extra-index" + "-url http://x"])
def test_a_foreign_path_is_seen(text: str) -> None:
    assert FOREIGN.search(text)
