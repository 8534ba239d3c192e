"""Plans: what samplers choose, what goes where, and that a plan survives its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb.core import ConfigurationError, from_json, to_json
from llmops_nb.settings import load_settings
from llmops_nb.spaces import Plan, Range, axis, cells_of, combinations, complete, given_to_app, given_to_notebook, label, load_plan, new_cell, propose
from sweeping import sweeping, write_plan

NOWHERE = "http://127.0.0.1:1/v1"


def test_a_random_choice_is_the_same_for_a_seed_and_never_doubled() -> None:
    plan = Plan(vary={"a": [1, 2, 3, 4], "b": {"low": 0, "high": 1}, "c": {"low": 0.001, "high": 1, "log": True}}, sampler="random", trials=30, seed=4)
    found = combinations(plan, {})
    assert found == combinations(plan, {}) != combinations(replace(plan, seed=5), {})
    assert len({to_json(values) for values in found}) == 30
    assert all(0 <= values["b"] <= 1 and 0.001 <= values["c"] <= 1 for values in found)
    assert sum(values["c"] < 0.03 for values in found) > 8, "orders of magnitude are drawn evenly"
    small = combinations(Plan(vary={"a": [1, 2], "b": [1, 2]}, sampler="random", trials=30), {})
    assert len(small) == 4, "no more than there are"


def test_ranges_have_the_values_a_person_expects() -> None:
    assert Range(0, 1, 0.1).values() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert Range(2, 8, 3).values() == [2, 5, 8]
    assert all(isinstance(value, int) for value in Range(2, 8, 3).values())
    for wrong in ({"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 0, "high": 1, "step": 0}):
        with pytest.raises(ConfigurationError, match="a range goes up"):
            axis("x", wrong)


def test_a_grid_too_large_to_mean_anything_is_refused() -> None:
    plan = Plan(vary={name: list(range(30)) for name in "abc"})
    with pytest.raises(ConfigurationError, match="27000 cells"):
        combinations(plan, {})


def test_a_plan_goes_through_its_file_and_through_json(tmp_path: Path) -> None:
    here = sweeping(tmp_path, NOWHERE, 4)
    path = write_plan(here, vary={"prompt": ["plain.md"]}, budget={"money": 1, "calls": 10}, repeats=2, racing=0.05, skip=["max_tokens > 99"])
    settings = load_settings(tmp_path)
    plan = complete(load_plan(path), settings)
    assert (plan.notebook, plan.app, plan.golden, plan.name) == ("experiments/loop/eval.ipynb", "experiments/loop", "experiments/loop/golden/loop.jsonl", "plan")
    assert plan.budget.money == 1.0 and from_json(to_json(plan), Plan) == plan
    assert complete(plan, settings) == plan
    with pytest.raises(ConfigurationError, match="There are 2 golden sets"):
        (here / "golden" / "other.jsonl").write_text("")
        complete(load_plan(path), settings)


def test_a_value_goes_to_the_notebook_or_through_its_overrides(tmp_path: Path) -> None:
    here = sweeping(tmp_path, NOWHERE, 4)
    settings = load_settings(tmp_path)
    plan = complete(Plan(notebook=str(here / "eval.ipynb"), fixed={"limit": 2, "longest_question": 900}), settings)
    assert given_to_notebook(plan, {"max_tokens": 4, "temperature": 0.5}, 1, settings) == {"limit": 2, "max_tokens": 4, "repeat": 1, "overrides": {"longest_question": 900, "temperature": 0.5}}
    assert given_to_app(plan, {"max_tokens": 4}, 1) == {"longest_question": 900, "max_tokens": 4, "repeat": 1}
    notebook = (here / "eval.ipynb").read_text()
    (here / "eval.ipynb").write_text(notebook.replace("overrides: dict = {}  # Further settings of the app\\n", ""))
    with pytest.raises(ConfigurationError, match="add a line `temperature: float"):
        given_to_notebook(replace(plan, fixed={}), {"temperature": 0.5}, 0, settings)


def test_the_app_as_it_is_comes_first_whether_planned_or_not(tmp_path: Path) -> None:
    here = sweeping(tmp_path, NOWHERE, 4)
    settings = load_settings(tmp_path)
    plan = complete(Plan(app=str(here), vary={"max_tokens": [4, 8]}), settings)
    added = cells_of(plan, settings)
    assert [(c.id, c.baseline, c.values) for c in added] == [("c00", True, {}), ("c01", False, {"max_tokens": 4}), ("c02", False, {"max_tokens": 8})]
    planned = cells_of(replace(plan, vary={"max_tokens": [4, 16], "prompt": ["plain.md", "say.md"]}), settings)
    assert len(planned) == 4 and planned[0].baseline and planned[0].values == {"max_tokens": 16, "prompt": "say.md"}
    fixed = cells_of(replace(plan, fixed={"max_tokens": 8}, vary={"prompt": ["say.md", "plain.md"]}), settings)
    assert [c.label for c in fixed] == ["prompt=say", "prompt=plain"], "what is fixed for all is the app as it is"


def test_labels_are_short() -> None:
    assert label({"prompt": "prompts/answer.md", "temperature": 0.123456, "top_k": 4}) == "prompt=answer, temperature=0.123, top_k=4"
    assert label({}) == "as it is"


def test_optuna_minimises_where_less_is_better_and_passes_over_what_failed() -> None:
    pytest.importorskip("optuna")
    plan = Plan(vary={"k": list(range(12)), "how": ["a", None]}, sampler="optuna", objective="cost", seed=2)
    cells = []
    for n in range(20):
        values = propose(plan, cells, {})
        assert values is not None and values not in [c.values for c in cells]
        cells.append(replace(new_cell(n, values), score=abs(values["k"] - 3) + (0 if values["how"] is None else 1), status="finished") if n != 3 else replace(new_cell(n, values), status="failed"))
    assert min(cells[4:], key=lambda c: 99 if c.score is None else c.score).values == {"k": 3, "how": None}
    every = [new_cell(n, {"k": k, "how": how}) for n, (k, how) in enumerate((k, how) for k in range(12) for how in ("a", None))]
    assert propose(plan, every, {}) is None, "nothing new is left"


def test_a_plan_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"notebook: \xff\xfe")
    with pytest.raises(ConfigurationError, match="plan.yaml is not YAML"):
        load_plan(tmp_path / "plan.yaml")
