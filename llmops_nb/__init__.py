"""LLMOps for people who live in Jupyter: one App, evaluated end to end, with numbers that drill down."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App, load_app
    from .core import Answer, Item, LLMOpsError, Message, Model, ModelError, Passage, Score, Usage
    from .datasets import GoldenSet, load_golden, select
    from .evals import Run, evaluate, open_run
    from .evidence import check_evidence
    from .models import EchoModel, ScriptedModel
    from .prompts import Prompt, load_prompt
    from .providers import resolve
    from .reports import render
    from .runs import find_run, resume_run, run_notebook
    from .scorers import standard_scorers
    from .settings import Settings, load_settings

# Where each public name stands. Importing the package imports none of it: a name is looked up when it is first used.
_HOMES = {
    "app": ("App", "load_app"),
    "core": ("Answer", "Item", "LLMOpsError", "Message", "Model", "ModelError", "Passage", "Score", "Usage"),
    "datasets": ("GoldenSet", "load_golden", "select"),
    "evals": ("Run", "evaluate", "open_run"),
    "evidence": ("check_evidence",),
    "models": ("EchoModel", "ScriptedModel"),
    "prompts": ("Prompt", "load_prompt"),
    "providers": ("resolve",),
    "reports": ("render",),
    "runs": ("find_run", "resume_run", "run_notebook"),
    "scorers": ("standard_scorers",),
    "settings": ("Settings", "load_settings"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Answer", "App", "EchoModel", "GoldenSet", "Item", "LLMOpsError", "Message", "Model", "ModelError", "Passage", "Prompt", "Run", "Score",
    "ScriptedModel", "Settings", "Usage", "check_evidence", "evaluate", "find_run", "load_app", "load_golden", "load_prompt", "load_settings",
    "open_run", "render", "resolve", "resume_run", "run_notebook", "select", "standard_scorers",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmops_nb' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
