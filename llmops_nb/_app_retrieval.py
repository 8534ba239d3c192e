"""What an application tells of its retrieval: to a trace, to its version, to a reader, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from . import trace
from .collections import open_collection
from .core import ConfigurationError, Passage, Usage, to_json, unknown
from .documents import Corpus, load_corpus
from .filters import Columns, read_filter
from .prompts import load_prompt
from .retrieve import Retrieval
from .rubrics import load_rubric
from .settings import Settings
from .store import digest, short

_ALWAYS = ("mode", "top_k", "depth", "rerank", "candidates", "chunk_size", "overlap", "embedder", "query_prefix")


def said(retrieval: Retrieval) -> dict[str, Any]:
    "The settings that make a version: nine always, any other where it is not what it is by default, so that a new one leaves old versions as they are."
    plain = Retrieval()
    values = {each.name: getattr(retrieval, each.name) for each in fields(retrieval)}
    return {name: value for name, value in values.items() if name in _ALWAYS or value != getattr(plain, name)}


def version_of(retrieval: Retrieval) -> Any:
    "The same as a value whose JSON keeps the order of the settings: that of versions made before there were others."
    values = said(retrieval)
    return make_dataclass("Said", [(name, Any) for name in values])(**values)


def described(retrieval: Retrieval) -> str:
    "Retrieval in one line."
    others = [f"{name} {value}" for name, value in said(retrieval).items() if name not in _ALWAYS]
    again = [f"re-ranked by {retrieval.rerank}"] if retrieval.rerank else []
    return ", ".join([f"{retrieval.mode}, top {retrieval.top_k} of chunks of {retrieval.chunk_size} tokens", *again, *others])


def corpus_of(spec: Mapping[str, Any], root: Path, settings: Settings) -> Corpus:
    "The documents of an application: those of a collection under a label, or whatever `load_corpus` reads."
    if "collection" not in spec:
        return load_corpus(spec, root)
    for key, value in spec.items():
        if key not in ("collection", "label"):
            raise ConfigurationError(f"corpus: {unknown('key', str(key), ('collection', 'label'), 'Beside a collection there is only its label.')}")
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"corpus: {key} must be text, not {value!r}.")
    return open_collection(spec["collection"], settings).corpus(spec.get("label", "production"))


def check_filter(retrieval: Retrieval, corpus: Corpus) -> None:
    "Raise `ConfigurationError` for a filter over fields that no document has, before an index is built."
    if retrieval.where:
        read_filter(retrieval.where, Columns.of([document.metadata for document in corpus.documents]).names)


def files_of(retrieval: Retrieval, root: Path) -> tuple[str, ...]:
    "The texts of the files that retrieval names, so that it can be made again."
    prompt = [load_prompt(root / retrieval.rewrite_prompt).content] if retrieval.rewrite and retrieval.rewrite_prompt else []
    rubric = [load_rubric(root / retrieval.rubric).text] if retrieval.rerank and retrieval.rubric else []
    return (*prompt, *rubric)


def observed(passages: Sequence[Passage], filters: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    "Attributes of a span: chunks, versions, scores of every stage, and which fields were filtered by – not with which values."
    found: dict[str, Any] = {
        trace.CHUNKS: [passage.chunk.id for passage in passages],
        trace.CHUNK_VERSIONS: [short(passage.chunk.version) for passage in passages],
        trace.STAGE_SCORES: [to_json(passage.scores).decode() for passage in passages],
    }
    both = [dict(where) for where in filters if where]
    if both:
        found |= {trace.FILTER: sorted({name for where in both for name in _named(where)}), trace.FILTER_DIGEST: short(digest(both))}
    return found


def _named(where: Mapping[str, Any]) -> Iterator[str]:
    "The fields that a filter compares."
    for name, value in where.items():
        if name == "not":
            yield from _named(value)
        elif name in ("all", "any"):
            for part in value:
                yield from _named(part)
        else:
            yield str(name)


def together(usage: Usage, others: Sequence[Usage]) -> Usage:
    "What an answer took with all that was asked for it; paid for when any part was."
    parts = [usage, *others]
    costs = [part.cost for part in parts]
    return replace(
        usage,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        cached_tokens=sum(part.cached_tokens for part in parts),
        latency=sum(part.latency for part in parts),
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
        cached=all(part.cached for part in parts),
        attempts=sum(part.attempts for part in parts),
    )
