"""A forecast counts exactly, its intervals hold, and it says what it does not know."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb.budgets import Budget, Limits, spending
from llmops_nb.core import BudgetError, ConfigurationError, Usage
from llmops_nb.forecasts import _Kind, _of_kind, forecast, refuse, summary
from llmops_nb.prices import fixed_price
from llmops_nb.settings import load_settings
from llmops_nb.spaces import Plan, cells_of, complete
from llmops_nb.sweeps import run_sweep
from loopback import loopback, project
from sweeping import sweeping


def test_what_is_remembered_or_asked_twice_is_not_to_pay(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 30, concurrency=4)
        settings = load_settings(tmp_path)
        plan = complete(Plan(app=str(here), vary={"prompt": ["say.md", "plain.md", "kind.md"], "longest_question": [2000, 3000]}, repeats=2), settings)
        found = forecast(plan, settings, pilot=0)
        assert (found.total.calls, found.total.to_pay, found.pilot) == (6 * 2 * 30, 3 * 2 * 30, 0)
        assert found.method == "list prices" and any("A pilot would tell" in note for note in found.notes)
        assert found.total.cost.value is None and found.total.cost.high is not None and server.requests() == []
        assert sum(e.to_pay for e in found.cells.values()) == found.total.to_pay, "a call belongs to the cell that makes it first"
        again = forecast(plan, settings, pilot=4)
        assert (again.pilot, again.total.to_pay) == (12, 3 * 2 * 30 - 12) and again.method == "a pilot"
        third = forecast(plan, settings, pilot=4)
        assert third.pilot == 0 and third.method == "earlier answers" and len(server.requests()) == 12
        done = run_sweep(replace(plan, pilot=4), settings, progress=False)
        assert done.info.totals["calls"] == third.total.to_pay == len(server.requests()) - 12
        assert forecast(plan, settings).total.to_pay == 0


def test_without_a_cache_every_call_is_paid_and_the_pilot_still_teaches(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 20, cache="no")
        settings = load_settings(tmp_path)
        plan = complete(Plan(app=str(here), vary={"prompt": ["plain.md"], "longest_question": [2000, 3000]}), settings)
        found = forecast(plan, settings, pilot=3)
        assert (found.total.to_pay, found.pilot) == (3 * 20, 2 * 3) and found.total.cost.low is not None
        assert any("pay for the pilot's questions again" in note for note in found.notes)


def test_an_interval_holds_as_often_as_it_says() -> None:
    "95 % of sums of further calls lie inside, for tokens that vary as those of real models do."
    chance, inside, rounds, n = random.Random(1), 0, 400, 200
    price = fixed_price(1, 4)
    for _ in range(rounds):

        def call() -> tuple[int, Usage]:
            size = chance.randint(1500, 2500)
            return size, Usage(round(size / chance.gauss(4.2, 0.15)), min(200, max(5, round(chance.gauss(80, 30)))), latency=chance.gauss(1, 0.2))

        kind, future = _Kind(price, 200, 1, [call() for _ in range(4)]), [call() for _ in range(n)]
        expected = _of_kind(kind, n, sum(size for size, _ in future))
        truth = sum(usage.completion_tokens for _, usage in future)
        inside += expected["completion_tokens"].low <= truth <= expected["completion_tokens"].high
        cost = sum(price(usage) or 0.0 for _, usage in future)
        assert expected["cost"].low * 0.5 < cost < expected["cost"].high * 2
    assert 0.92 <= inside / rounds <= 0.98, inside / rounds


def test_a_pilot_is_held_to_the_budget_and_keeps_its_answers(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 30)
        settings = load_settings(tmp_path)
        plan = complete(Plan(app=str(here), vary={"prompt": ["plain.md", "kind.md"]}), settings)
        with spending(Budget(tmp_path / "budget.sqlite", Limits(calls=5))), pytest.raises(BudgetError):
            forecast(plan, settings, pilot=4)
        assert len(server.requests()) == 5
        assert forecast(plan, settings, pilot=0).total.to_pay == 90 - 5


def test_a_model_without_a_price_is_named(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 5)
        settings = load_settings(tmp_path)
        settings = replace(settings, models={"loop": replace(settings.models["loop"], model="nobody-knows", input_price=None, output_price=None)})
        plan = complete(Plan(app=str(here), vary={"prompt": ["plain.md"]}), settings)
        found = forecast(plan, settings, pilot=1)
        assert found.total.cost.value is None and any("price of a model is not known" in note for note in found.notes)
        assert "not known" in summary(found)
        before = len(server.requests())
        with pytest.raises(ConfigurationError, match=r"input_price and output_price under \[model loop\]"):
            run_sweep(replace(plan, budget=Limits(money=1)), settings, progress=False)
        assert len(server.requests()) == before


def test_a_pilot_whose_calls_fail_says_so(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = sweeping(tmp_path, server.url, 5)
        settings = load_settings(tmp_path)
        plan = complete(Plan(app=str(here), vary={"prompt": ["refused.md"]}), settings)
        found = forecast(plan, settings, pilot=2)
        assert any("401" in note and "c01" in note for note in found.notes)
        assert found.pilot == 2, "the other kind of call was asked"


def test_a_sweep_is_refused_by_what_it_will_take(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.05) as server:
        here = sweeping(tmp_path, server.url, 40, concurrency=1)
        settings = load_settings(tmp_path)
        plan = complete(Plan(app=str(here), vary={"prompt": ["plain.md", "kind.md"]}, workers=1), settings)
        found = forecast(plan, settings, cells=cells_of(plan, settings), pilot=4)
        assert found.total.seconds.value is not None and 4 < found.total.seconds.value < 60
        for limits, words in ((Limits(seconds=1), "about .* s for 108 calls"), (Limits(money=1e-5), r"about \$0\.000.* for 108 calls"), (Limits(calls=100), "needs 108 calls")):
            with pytest.raises(BudgetError, match=words):
                refuse(found, limits)
        refuse(found, Limits(money=1, calls=200, seconds=600))


def test_a_forecast_asks_nothing_for_a_search_that_asks_models(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 3)
        (here / "docs").mkdir()
        (here / "docs" / "a.md").write_text("# A\n\nThe pass statement does nothing. Say it.\n")
        (here / "say.md").write_text("---\nvariables: {question: str, passages: list}\n---\n{% for p in passages %}{{ p }}{% endfor %}{{ question }}\n")
        (here / "app.yaml").write_text("name: loop\nprompt: say.md\ncorpus: {folder: docs}\nretrieval: {mode: bm25, rewrite: rewrite, rerank: loop}\nmodel: {max_tokens: 16}\n")
        settings = load_settings(here)
        plan = complete(Plan(app=str(here), vary={"longest_question": [2000, 3000]}), settings)
        found = forecast(plan, settings, pilot=0)
        assert found.total.calls == 6 and server.requests() == []
        assert any("ask of models" in note for note in found.notes)
