"""A sweep is followed by what is new in its files: repeats, failures, what was dropped, half-written lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmops_nb import following
from llmops_nb.core import to_json
from llmops_nb.evals import RunInfo, save_info
from llmops_nb.following import Follower
from llmops_nb.spaces import Cell, Plan
from llmops_nb.store import write_atomic
from llmops_nb.sweeps import SweepInfo


def line(item: str, value: float | None, cost: float | None = 0.5, cached: bool = False) -> bytes:
    record: dict[str, Any] = {"item": {"id": item}, "answer": {"text": "x" * 99, "usage": {"cost": cost, "cached": cached}}, "scores": [{"name": "other", "value": 1.0}, {"name": "task_success", "value": value}]}
    return json.dumps(record).encode() + b"\n"


FAILED = b'{"item": {"id": "i1"}, "answer": null, "scores": [], "error": {"kind": "E", "code": "", "message": "no"}}\n'


def sweep(place: Path, journals: dict[str, bytes], cells: tuple[Cell, ...], repeats: int = 1) -> Follower:
    write_atomic(place / "s" / "sweep.json", to_json(SweepInfo("s", "demo", plan=Plan(repeats=repeats), cells=cells)))
    for name, data in journals.items():
        save_info(place / name, RunInfo(name, "demo", items=3))
        (place / name / "records.jsonl").write_bytes(data)
    return Follower(place / "s")


def test_repeats_share_a_row(tmp_path: Path) -> None:
    journals = {"a0": line("i1", 1.0) + line("i2", 0.0) + line("i3", None), "a1": line("i1", 0.0) + line("i2", 0.0, cached=True)}
    seen = sweep(tmp_path, journals, (Cell("c00", {}, "a", ("a0", "a1"), "running"),), repeats=2).look().cells[0]
    assert dict(seen.marks) == {"i1": "mixed", "i2": "wrong", "i3": "unscored"}
    assert (seen.done, seen.planned, seen.spent, seen.cached, seen.errors) == (5, 6, 2.0, 1, 0)
    assert seen.score is not None and seen.score.value == 0.25 and seen.score.n == 2


def test_failures_are_no_answers_and_a_second_try_replaces_them(tmp_path: Path) -> None:
    follower = sweep(tmp_path, {"a0": FAILED}, (Cell("c00", {}, "a", ("a0",), "running"),))
    seen = follower.look().cells[0]
    assert (dict(seen.marks), seen.errors, seen.score) == ({"i1": "error"}, 1, None)
    with (tmp_path / "a0" / "records.jsonl").open("ab") as file:
        file.write(line("i1", 1.0, cost=None))
    seen = follower.look().cells[0]
    assert (dict(seen.marks), seen.errors, seen.done, seen.spent) == ({"i1": "right"}, 0, 1, None)


def test_negative_scores_are_scores(tmp_path: Path) -> None:
    seen = sweep(tmp_path, {"a0": line("i1", -1.0) + line("i2", 0.0)}, (Cell("c00", {}, "a", ("a0",), "running"),)).look().cells[0]
    assert dict(seen.marks) == {"i1": "wrong", "i2": "wrong"} and seen.score is not None and seen.score.value == -0.5


def test_what_was_dropped_is_waited_for_no_longer(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(following, "SOON", 0.0)
    cells = (Cell("c00", {}, "a", ("a0",), "finished"), Cell("c01", {}, "b", ("b0",), "dropped"), Cell("c02", {}, "c", ("c0",), "waiting"))
    follower = sweep(tmp_path, {"a0": line("i1", 1.0) * 1 + line("i2", 1.0) + line("i3", 1.0), "b0": line("i1", 0.0)}, cells)
    progress = follower.look()
    assert (progress.done, progress.planned, progress.left) == (4, 7, None)
    save_info(tmp_path / "c0", RunInfo("c0", "demo", items=3))
    (tmp_path / "c0" / "records.jsonl").write_bytes(line("i1", 1.0)[:30])
    assert follower.look().done == 4
    (tmp_path / "c0" / "records.jsonl").write_bytes(line("i1", 1.0) + b"not a record\n")
    progress = follower.look()
    assert progress.done == 5 and progress.left is not None and progress.left > 0
