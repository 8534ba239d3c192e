"""What RetrievalTuner can turn: a control for every setting of `Retrieval`, with its limits and what a new value of it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import msgspec

from .core import ConfigurationError, Document
from .retrieve import Retrieval
from .settings import Settings
from .splitters import CHUNKERS, UNITS
from .weights import CATALOGUE, available

GROUPS = ("Search", "Order", "Context", "Chunks")
MANY = 8  # Different values of a field of documents that are offered
COSTS = {"index": "a new value needs an index, and embeddings that are not known yet", "scores": "a new candidate needs a score of the re-ranker", "calls": "asks a model for every question"}


@dataclass(frozen=True)
class Control:
    """How one setting is turned."""

    group: str  # One of GROUPS
    label: str  # What people call it
    kind: str = "range"  # "range", "choice", "check", "filter" or "text"
    low: float = 0  # Least value of a range
    high: float = 1  # Largest one offered; a larger value in effect extends it
    step: float = 1  # Between two values
    choices: tuple[str, ...] = ()  # Of a choice, besides the value in effect
    unit: str = ""  # Behind the number
    needs: str = ""  # What a new value costs: a key of COSTS, or nothing
    when: Callable[[Retrieval], bool] = lambda now: True  # Whether it means anything beside the others


def _fused(now: Retrieval) -> bool:
    return now.mode == "fused"


_OWN: Mapping[str, Control] = {  # In the order in which they are drawn
    "mode": Control("Search", "Search by", "choice", choices=("dense", "bm25", "fused")),
    "fusion": Control("Search", "Fused by", "choice", choices=("rrf", "convex"), when=_fused),
    "weight": Control("Search", "Weight of meaning", low=0, high=1, step=0.05, when=_fused),
    "rrf_k": Control("Search", "RRF constant", low=1, high=120, when=lambda now: _fused(now) and now.fusion == "rrf"),
    "depth": Control("Search", "Depth", low=5, high=200, unit="places", when=_fused),
    "where": Control("Search", "Filter", "filter"),
    "query_prefix": Control("Search", "Query prefix", "text", when=lambda now: now.mode != "bm25"),
    "rewrite": Control("Search", "Question worded anew", "choice", choices=("", "rewrite", "paraphrase", "hypothetical"), needs="calls"),
    "rewrite_model": Control("Search", "By the model", "text", needs="calls", when=lambda now: bool(now.rewrite)),
    "rewrite_prompt": Control("Search", "With the prompt", "text", needs="calls", when=lambda now: bool(now.rewrite)),
    "paraphrases": Control("Search", "Wordings", low=1, high=8, needs="calls", when=lambda now: now.rewrite == "paraphrase"),
    "rerank": Control("Order", "Re-rank by", "choice", needs="scores"),
    "rubric": Control("Order", "Rubric", "text", needs="scores", when=lambda now: bool(now.rerank) and now.rerank not in CATALOGUE),
    "mmr": Control("Order", "Relevance against diversity", low=0, high=1, step=0.05),
    "candidates": Control("Order", "Candidates", low=1, high=50, needs="scores", when=lambda now: bool(now.rerank) or now.mmr < 1),
    "top_k": Control("Order", "Passages read", low=1, high=20),
    "expand": Control("Context", "Neighbours shown", low=0, high=4, unit="each side", when=lambda now: not now.parent),
    "parent": Control("Context", "Shown around a hit", "choice", choices=("", "section", "document"), when=lambda now: not now.expand),
    "parent_tokens": Control("Context", "Of it at most", low=50, high=2000, step=50, unit="tokens", when=lambda now: bool(now.parent)),
    "merge": Control("Context", "Join what overlaps", "check"),
    "chunker": Control("Chunks", "Cut by", "choice", needs="index"),
    "chunk_size": Control("Chunks", "Chunk size", low=20, high=480, step=10, unit="tokens", needs="index"),
    "overlap": Control("Chunks", "Overlap", low=0, high=120, step=5, unit="tokens", needs="index"),
    "tokens": Control("Chunks", "Tokens counted", "choice", needs="index"),
    "embedder": Control("Chunks", "Embedder", "choice", needs="index", when=lambda now: bool(now.recipe.embedder)),
}


def _general(kind: str) -> Control | None:
    """A control for a setting that this page has no own form for."""
    kinds = {"bool": "check", "str": "text", "int": "text", "float": "text"}
    return Control("Search", "", kinds[kind]) if kind in kinds else None


def controls() -> dict[str, Control]:
    """The control of every setting that `Retrieval` has now, in the order in which they are drawn."""
    there = {f.name: str(f.type).removesuffix(" | None") for f in fields(Retrieval)}
    found = {name: control for name, control in _OWN.items() if name in there}
    for name, kind in there.items():
        if name not in found and (control := _general(kind)) is not None:
            found[name] = control
    return found


def offered(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The choices that depend on what is installed."""
    here = [weights for weights in available(settings.weights) if weights.here]
    embedders = tuple(w.name for w in here if w.kind == "embedder")
    return {"rerank": ("", *(w.name for w in here if w.kind == "re-ranker")), "embedder": embedders, "chunker": CHUNKERS, "tokens": UNITS}


def drawn(
    now: Retrieval,  # What is set
    usual: Retrieval,  # As app.yaml has it
    choices: Mapping[str, tuple[str, ...]],  # By setting: what is installed
) -> list[dict[str, Any]]:
    """Every control that means something beside the others, as the script draws it."""
    rows = []
    for name, control in controls().items():
        value, was = getattr(now, name), getattr(usual, name)
        if not control.when(now) and value == was:
            continue
        high = {"overlap": min(control.high, now.chunk_size - 1), "candidates": max(control.high, now.top_k)}.get(name, control.high)
        numbers = [x for x in (value, was) if isinstance(x, (int, float))]
        row = {"name": name, "label": control.label or name.replace("_", " "), "group": control.group, "kind": control.kind, "text": written(value), "changed": value != was,
               "was": written(was) or "none", "unit": control.unit, "needs": COSTS.get(control.needs, ""), "off": not control.when(now)}  # fmt: skip
        if control.kind == "range":
            low = {"chunk_size": max(control.low, _upper(now.overlap + 1, control.step))}.get(name, control.low)
            row |= {"value": value, "low": min([low, *numbers]), "high": max([high, *numbers]) if name != "overlap" else max(high, value), "step": control.step}
        elif control.kind == "choice":
            row["choices"] = list(dict.fromkeys([*(control.choices or choices.get(name, ())), written(was), written(value)]))
        elif control.kind == "check":
            row["value"] = bool(value)
        rows.append(row)
    return rows


def _upper(value: float, step: float) -> float:
    """The first multiple of a step that is not below a value."""
    return -(-value // step) * step


def written(value: Any) -> str:
    """A value as a person writes it."""
    if isinstance(value, (Mapping, list, tuple)):
        return msgspec.json.encode(value).decode() if value else ""
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def read(
    name: str,  # Of a setting
    value: Any,  # As the browser sends it
) -> Any:
    """A value as what its setting is; raises `ConfigurationError` for what cannot be one."""
    kind = {f.name: str(f.type) for f in fields(Retrieval)}[name]
    if kind.startswith("float") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and not kind.startswith("str"):
        import yaml

        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{value!r} is no value for {name}: {' '.join(str(error).split())}") from error
        if value is None and "None" not in kind:
            field = next(f for f in fields(Retrieval) if f.name == name)
            return field.default_factory() if field.default_factory is not MISSING else field.default
    if kind.startswith("int") and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def filterable(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """The fields that a filter may use, each with some of its values as the filter that asks for it."""
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        for name, value in document.metadata.items():
            values = found.setdefault(name, {})
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(one, (str, int, float, bool)) and len(values) < MANY and len(str(one)) <= 60:
                    values[written(one)] = one
    return [{"name": name, "values": [{"text": text, "where": written({name: value})} for text, value in values.items()]} for name, values in sorted(found.items())]
