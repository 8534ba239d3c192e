"""What a user meets explains itself: docstrings, types, a comment beside every parameter and field."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator

import llmops_nb
import pytest
from project import PACKAGE, PAGES

# Loaded by `import llmops_nb` only when a name that needs them is used
HEAVY = ["numpy", "pandas", "scipy", "msgspec", "jinja2", "yaml", "click", "urllib3", "tqdm", "opentelemetry", "genai_prices", "sqlite3",
         "IPython", "matplotlib", "papermill", "nbconvert", "faiss", "bm25s", "onnxruntime", "transformers", "xllamacpp", "litellm"]  # fmt: skip


class Source:
    "A module's code, with the comment that stands at the end of each line."

    def __init__(self, code: str):
        self.tree = ast.parse(code)
        tokens = tokenize.generate_tokens(io.StringIO(code).readline)
        self.comments = {token.start[0]: token.string.strip("# ") for token in tokens if token.type == tokenize.COMMENT}

    def public(self) -> set[str]:
        "The names in __all__."
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                return set(ast.literal_eval(node.value))
        return set()

    def commented(self, node: ast.AST) -> bool:
        "Whether a comment stands on the last line of a piece of code, or on its first."
        return bool(self.comments.get(node.end_lineno) or self.comments.get(node.lineno))  # type: ignore[attr-defined]

    def complaints(self) -> Iterator[str]:
        "What a public name leaves unexplained."
        public = self.public()
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in public:
                yield from self.about_function(node, node.name)
            elif isinstance(node, ast.ClassDef) and node.name in public:
                yield from self.about_class(node)

    def about_function(self, node: ast.FunctionDef, name: str) -> Iterator[str]:
        "What a function leaves unexplained."
        docstring = ast.get_docstring(node, clean=False) or ""
        if node.name != "__init__" and not docstring.strip() or "\n" in docstring:
            yield f"{name}: one line must say what it does"
        arguments = node.args
        command = any(re.search(r"\.(command|group)\b", ast.unparse(decorator)) for decorator in node.decorator_list)
        explained = command or ("." in name and node.name != "__init__")  # A command has its help, a method its sentence
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
            if argument is None or argument.arg in ("self", "cls"):
                continue
            if argument.annotation is None:
                yield f"{name}: {argument.arg} has no type"
            if not explained and not self.commented(argument):
                yield f"{name}: no comment says what {argument.arg} means"
        if node.returns is None and node.name != "__init__":
            yield f"{name}: no type says what it returns"

    def about_class(self, node: ast.ClassDef) -> Iterator[str]:
        "What a class leaves unexplained."
        if not (ast.get_docstring(node) or "").strip():
            yield f"{node.name}: one line must say what it is"
        protocol = any("Protocol" in ast.dump(base) for base in node.bases)
        data = any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list) or any("TypedDict" in ast.dump(base) for base in node.bases)
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and data and not getattr(part.target, "id", "_").startswith("_") and not self.commented(part):
                yield f"{node.name}: no comment says what {ast.unparse(part.target)} is"
            elif isinstance(part, ast.FunctionDef) and not protocol and (part.name == "__init__" or not part.name.startswith("_")):
                yield from self.about_function(part, f"{node.name}.{part.name}")


@pytest.mark.parametrize("page", PAGES)
def test_public_names_explain_themselves(page: str) -> None:
    assert list(Source((PACKAGE / f"{page}.py").read_text("utf-8")).complaints()) == []


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    return 1",
        "def f(\n    a: int,\n) -> int:\n    'Does.'",
        "def f(\n    a,  # What it is\n) -> int:\n    'Does.'",
        "def f(\n    a: int = 1,  # What it is\n    *rest: int,\n) -> int:\n    'Does.'",
        "class f:\n    def g(self) -> int: ...",
        "class f:\n    'Is.'\n    def g(self) -> int:\n        return 1",
        "class f:\n    'Is.'\n    def __init__(self, a: int):\n        self.a = a",
        "@dataclass(frozen=True)\nclass f:\n    'Is.'\n    a: int",
    ],
)
def test_what_is_unexplained_is_seen(code: str) -> None:
    assert list(Source(f"__all__ = ['f']\n{code}").complaints())


def test_import_is_light() -> None:
    code = f"import sys, llmops_nb; print(*sorted({HEAVY!r} & sys.modules.keys()))".replace("[", "{").replace("]", "}")
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == []


def test_top_level_names_resolve() -> None:
    names = [name for name in llmops_nb.__all__ if not name.startswith("__")]
    assert names
    assert set(names) <= set(dir(llmops_nb))
    for name in names:
        assert getattr(llmops_nb, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such_name"):
        llmops_nb.no_such_name  # noqa: B018


def test_no_public_name_is_hidden_behind_a_module() -> None:
    "Importing llmops_nb.x anywhere binds the name x in the package: a function of that name would be gone."
    assert not set(llmops_nb.__all__) & {path.stem for path in PACKAGE.glob("*.py")}
