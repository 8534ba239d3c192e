"""What a sweep sees of its runs while they go: journals read from where the last look ended, and no more of a record than is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from llmops_nb.prices import total


class _Usage(msgspec.Struct):
    cost: float | None = 0.0
    latency: float = 0.0
    cached: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage = msgspec.field(default_factory=_Usage)
    finish: str = "stop"


class _Score(msgspec.Struct):
    name: str
    value: float | None = None


class _Item(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    item: _Item
    answer: _Answer | None = None
    scores: tuple[_Score, ...] = ()


class Seen(msgspec.Struct):
    "What became of one item."

    score: float | None = None  # Of the objective; None when it does not apply, failed, or there is no answer
    cost: float | None = 0.0  # US dollars at list price; None when nobody knows
    latency: float = 0.0  # Seconds the model took when it was really asked
    cached: bool = False  # From memory
    failed: bool = False  # No answer
    prompt_tokens: int = 0  # Read
    completion_tokens: int = 0  # Written


class Tail:
    "A journal that is being written: each look reads what is new."

    def __init__(self, path: Path, objective: str):
        self.path, self.objective = path, objective
        self.items: dict[str, Seen] = {}  # By item, the last record of each
        self.scorers: set[str] = set()  # That were seen
        self._at = 0

    def look(self) -> int:
        "Read the lines that were finished since the last look; how many."
        try:
            with open(self.path, "rb") as file:
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return 0
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = whole.splitlines()
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):  # the report counts and names a line that is no record
                self._take(msgspec.json.decode(line, type=_Line))
        return len(lines)

    def _take(self, line: _Line) -> None:
        if line.answer is None:
            self.items[line.item.id] = Seen(failed=True)
            return
        scores = {score.name: score.value for score in line.scores}
        self.scorers |= scores.keys()
        usage = line.answer.usage
        self.items[line.item.id] = Seen(scores.get(self.objective), usage.cost, usage.latency, usage.cached, False, usage.prompt_tokens, usage.completion_tokens)

    @property
    def scores(self) -> dict[str, float]:
        "The objective by item, where there is one."
        return {item: seen.score for item, seen in self.items.items() if seen.score is not None}

    @property
    def raced(self) -> dict[str, float | None]:
        "What racing goes by: the objective by item, a failed answer at its worst, None where it does not apply."
        return {item: 0.0 if seen.failed else seen.score for item, seen in self.items.items()}

    @property
    def spent(self) -> float | None:
        "US dollars paid for the answers."
        return total(0.0 if seen.cached else seen.cost for seen in self.items.values() if not seen.failed)

    def count(self, what: str) -> int:
        "How many items are cached, or failed."
        return sum(bool(getattr(seen, what)) for seen in self.items.values())


def items_seen(directory: Path, objective: str) -> dict[str, Seen]:
    "What became of the items of a run, by id."
    tail = Tail(directory / "records.jsonl", objective)
    tail.look()
    return tail.items


def sums(tails: Collection[Tail]) -> dict[str, Any]:
    "Items, failures, answers from memory and tokens of several runs."
    seen = [one for tail in tails for one in tail.items.values()]
    found = {"runs": sum(bool(tail.items) for tail in tails), "items": len(seen), "errors": sum(one.failed for one in seen), "cached": sum(one.cached for one in seen)}
    return found | {name: sum(getattr(one, name) for one in seen) for name in ("prompt_tokens", "completion_tokens")}
