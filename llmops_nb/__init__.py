"""LLMOps for people who live in Jupyter: one App, evaluated, changed and compared, with numbers that drill down."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App, load_app
    from .comparisons import Comparison, Verdict, compare, compare_arms
    from .core import Answer, Item, LLMOpsError, Message, Model, ModelError, Passage, Score, Usage
    from .datasets import GoldenSet, load_golden, save_golden, select
    from .eval_scorer import EvalScorer
    from .evals import Run, evaluate, open_run
    from .evidence import check_evidence
    from .forecasts import forecast
    from .models import EchoModel, ScriptedModel
    from .prompt_sweep import PromptSweep
    from .prompts import Prompt, load_prompt
    from .providers import resolve
    from .reports import render
    from .run_compare import RunCompare
    from .runs import find_run, resume_run, run_notebook
    from .scorers import standard_scorers
    from .settings import Settings, load_settings
    from .spaces import Plan, load_plan
    from .sweeps import Sweep, find_sweep, resume_sweep, run_sweep

# Where each public name stands. Importing the package imports none of it: a name is looked up when it is first used.
_HOMES = {
    "app": ("App", "load_app"),
    "comparisons": ("Comparison", "Verdict", "compare", "compare_arms"),
    "core": ("Answer", "Item", "LLMOpsError", "Message", "Model", "ModelError", "Passage", "Score", "Usage"),
    "datasets": ("GoldenSet", "load_golden", "save_golden", "select"),
    "eval_scorer": ("EvalScorer",),
    "evals": ("Run", "evaluate", "open_run"),
    "evidence": ("check_evidence",),
    "forecasts": ("forecast",),
    "models": ("EchoModel", "ScriptedModel"),
    "prompt_sweep": ("PromptSweep",),
    "prompts": ("Prompt", "load_prompt"),
    "providers": ("resolve",),
    "reports": ("render",),
    "run_compare": ("RunCompare",),
    "runs": ("find_run", "resume_run", "run_notebook"),
    "scorers": ("standard_scorers",),
    "settings": ("Settings", "load_settings"),
    "spaces": ("Plan", "load_plan"),
    "sweeps": ("Sweep", "find_sweep", "resume_sweep", "run_sweep"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Answer", "App", "Comparison", "EchoModel", "EvalScorer", "GoldenSet", "Item", "LLMOpsError", "Message", "Model", "ModelError",
    "Passage", "Plan", "Prompt", "PromptSweep", "Run", "RunCompare", "Score", "ScriptedModel", "Settings", "Sweep", "Usage", "Verdict",
    "check_evidence", "compare", "compare_arms", "evaluate", "find_run", "find_sweep", "forecast", "load_app", "load_golden", "load_plan",
    "load_prompt", "load_settings", "open_run", "render", "resolve", "resume_run", "resume_sweep", "run_notebook", "run_sweep",
    "save_golden", "select", "standard_scorers",
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
