"""The number in a page's name is the architecture: a module imports only smaller numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from project import FLOORS, PACKAGE, PAGES, cells

# Who may import what: first and last floor
OWNED = {
    "opentelemetry": (6, 6),
    "jinja2": (10, 79),
    "rensa": (8, 39),
    "pyarrow": (12, 38),
    "krippendorff": (50, 59),
    "optuna": (60, 69),
    "distributed": (60, 69),
    "genai_prices": (20, 29),
    "litellm": (20, 29),
    "onnxruntime": (20, 29),
    "tokenizers": (20, 29),
    "transformers": (20, 29),
    "xllamacpp": (20, 29),
    "kreuzberg": (37, 37),
    "pypdfium2": (37, 37),
    "trafilatura": (37, 38),
    "charset_normalizer": (37, 38),
    "sqlalchemy": (38, 79),
    "bm25s": (40, 49),
    "faiss": (40, 49),
    "psycopg": (40, 49),
    "scipy": (50, 59),
    "papermill": (60, 69),
    "ipykernel": (60, 79),
    "nbclient": (60, 79),
    "nbconvert": (60, 79),
    "nbformat": (60, 79),
    "matplotlib": (50, 79),
    "nh3": (70, 79),
    "anywidget": (80, 99),
    "traitlets": (70, 99),
    "click": (80, 99),
}
# What only an extra brings: imported inside functions
OPTIONAL = {"litellm", "onnxruntime", "tokenizers", "transformers", "xllamacpp", "Stemmer", "bm25s", "faiss", "papermill",
            "ipykernel", "nbclient", "nbconvert", "nbformat", "matplotlib", "nh3", "IPython", "ipywidgets", "anywidget", "traitlets", "optuna", "distributed", "pyarrow", "jupyter_client",
            "kreuzberg", "pypdfium2", "trafilatura", "charset_normalizer", "sqlalchemy", "psycopg"}  # fmt: skip
DEVELOPMENT = {"nbdev", "fastcore", "pytest", "execnb"}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "_modidx"))


def floor(module: str) -> int:
    "A page's own number; a helper module stands where the first page stands that names it; __main__ stands at the door."
    if module == "__main__":
        return FLOORS["commands"]
    if module in FLOORS:
        return FLOORS[module]
    naming = [FLOORS[page] for page in FLOORS if re.search(rf"\b{module}\b", (PACKAGE / f"{page}.py").read_text("utf-8"))]
    assert naming, f"{module}.py is neither made from a page nor named by one"
    return min(naming)


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    "Every module that code names in an import, a `need(…)` or an `import_module(…)`, and whether it is loaded with the module itself."
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)}
    typing = {id(node) for branch in ast.walk(tree) if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test) for node in ast.walk(branch)}
    for node in ast.walk(tree):
        at_once = id(node) not in inside | typing
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"llmops_nb.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            yield from ((f"{module}.{alias.name}", at_once) for alias in node.names) if module == "llmops_nb" else [(module, at_once)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("need", "import_module", "__import__"):
                yield str(node.args[0].value), at_once


def violations(module: str, here: int, code: str) -> list[str]:
    "What a module on a floor imports and may not."
    found = []
    for name, at_once in imports(ast.parse(code)):
        top, _, rest = name.partition(".")
        sibling = rest.partition(".")[0]
        if top == "llmops_nb" and sibling:
            above = floor(sibling) > here or (floor(sibling) == here and sibling in FLOORS and module in FLOORS)
            if above:
                found.append(f"{module} ({here}) imports {sibling} ({floor(sibling)})")
        if top in DEVELOPMENT:
            found.append(f"{module} imports {top}, which only development has")
        first, last = OWNED.get(top, (0, 99))
        if not first <= here <= last:
            found.append(f"{module} ({here}) imports {top}, which belongs to {first}–{last}")
        if at_once and top in OPTIONAL:
            found.append(f"{module} imports {top} at once: import it in the function that needs it")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert violations(module, floor(module), (PACKAGE / f"{module}.py").read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES)
def test_lessons_import_no_page_above(page: str) -> None:
    for cell in cells(PAGES[page]):
        if cell["cell_type"] == "code":
            code = re.sub(r"^[%!].*$", "", cell["source"], flags=re.M)
            above = [name for name, _ in imports(ast.parse(code)) if FLOORS.get(name.partition("llmops_nb.")[2], 0) > FLOORS[page]]
            assert not above, f"a cell of {page} imports {above}"


def test_numbers_are_unique() -> None:
    assert len(set(FLOORS.values())) == len(FLOORS)


@pytest.mark.parametrize(
    "code",
    [
        "from .store import digest",
        "from llmops_nb.store import digest",
        "from . import store",
        "import llmops_nb.store",
        "def f():\n    from .store import digest",
        "import fastcore",
        "def f():\n    import litellm",
        "def f():\n    need('papermill', 'notebooks')",
        "def f():\n    importlib.import_module('faiss')",
    ],
)
def test_what_is_forbidden_is_seen(code: str) -> None:
    assert violations("settings", 2, code)


def test_an_optional_package_may_not_be_imported_at_once() -> None:
    assert violations("index", 43, "import faiss")
    assert violations("index", 43, "def f():\n    import faiss") == []
    assert violations("index", 43, "if TYPE_CHECKING:\n    import faiss") == []
