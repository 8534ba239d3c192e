"""LLMOps for people who live in Jupyter: one App, evaluated, changed and compared, with numbers that drill down."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App, load_app
    from .attribution import attribute
    from .collections import Collection, open_collection
    from .comparisons import Comparison, Verdict, compare, compare_arms
    from .core import Answer, Item, LLMOpsError, Message, Model, ModelError, Passage, Score, Usage
    from .datasets import GoldenSet, load_golden, save_golden, select
    from .eval_scorer import EvalScorer
    from .evals import Run, evaluate, open_run
    from .evidence import check_evidence
    from .forecasts import forecast
    from .index import FileIndex, Recipe, build_index
    from .ingest import IngestReport, load_ingest_plan
    from .lineage import chunk_seen
    from .models import EchoModel, ScriptedModel
    from .prompt_sweep import PromptSweep
    from .prompts import Prompt, load_prompt
    from .providers import resolve
    from .reports import render
    from .retrieval_tuner import RetrievalTuner
    from .run_compare import RunCompare
    from .runs import find_run, resume_run, run_notebook
    from .scorers import standard_scorers
    from .settings import Settings, load_settings
    from .spaces import Plan, load_plan
    from .sweeps import Sweep, find_sweep, resume_sweep, run_sweep
    from .tuning import Stages, Tuning, compare_retrieval, find_tuning, load_tune_plan, measure_retrieval, tune

# Where each public name stands. Importing the package imports none of it: a name is looked up when it is first used.
_HOMES = {
    "app": ("App", "load_app"),
    "attribution": ("attribute",),
    "collections": ("Collection", "open_collection"),
    "comparisons": ("Comparison", "Verdict", "compare", "compare_arms"),
    "core": ("Answer", "Item", "LLMOpsError", "Message", "Model", "ModelError", "Passage", "Score", "Usage"),
    "datasets": ("GoldenSet", "load_golden", "save_golden", "select"),
    "eval_scorer": ("EvalScorer",),
    "evals": ("Run", "evaluate", "open_run"),
    "evidence": ("check_evidence",),
    "forecasts": ("forecast",),
    "index": ("FileIndex", "Recipe", "build_index"),
    "ingest": ("IngestReport", "load_ingest_plan"),
    "lineage": ("chunk_seen",),
    "models": ("EchoModel", "ScriptedModel"),
    "prompt_sweep": ("PromptSweep",),
    "prompts": ("Prompt", "load_prompt"),
    "providers": ("resolve",),
    "reports": ("render",),
    "retrieval_tuner": ("RetrievalTuner",),
    "run_compare": ("RunCompare",),
    "runs": ("find_run", "resume_run", "run_notebook"),
    "scorers": ("standard_scorers",),
    "settings": ("Settings", "load_settings"),
    "spaces": ("Plan", "load_plan"),
    "sweeps": ("Sweep", "find_sweep", "resume_sweep", "run_sweep"),
    "tuning": ("Stages", "Tuning", "compare_retrieval", "find_tuning", "load_tune_plan", "measure_retrieval", "tune"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Answer", "App", "Collection", "Comparison", "EchoModel", "EvalScorer", "FileIndex", "GoldenSet", "IngestReport", "Item",
    "LLMOpsError", "Message", "Model", "ModelError", "Passage", "Plan", "Prompt", "PromptSweep", "Recipe", "RetrievalTuner", "Run",
    "RunCompare", "Score", "ScriptedModel", "Settings", "Stages", "Sweep", "Tuning", "Usage", "Verdict", "attribute", "build_index",
    "check_evidence", "chunk_seen", "compare", "compare_arms", "compare_retrieval", "evaluate", "find_run", "find_sweep",
    "find_tuning", "forecast", "load_app", "load_golden", "load_ingest_plan", "load_plan", "load_prompt", "load_settings",
    "load_tune_plan", "measure_retrieval", "open_collection", "open_run", "render", "resolve", "resume_run", "resume_sweep",
    "run_notebook", "run_sweep", "save_golden", "select", "standard_scorers", "tune",
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
