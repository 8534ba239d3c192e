"""A budget is never overspent: with threads, with processes that are killed, over a real server with faults."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb.app import load_app
from llmops_nb.budgets import Budget, Limits, metered, spending, worst_case
from llmops_nb.core import Answer, BudgetError, ConfigurationError, Item, Usage
from llmops_nb.datasets import GoldenSet, load_golden
from llmops_nb.evals import RunInfo, evaluate, open_run, save_info
from llmops_nb.models import Wrapped
from llmops_nb.prices import fixed_price, priced
from llmops_nb.providers import resolve
from llmops_nb.scorers import exact_match
from llmops_nb.settings import load_settings
from loopback import loopback, project

# One client: reserves, puts what the call really cost on a bill that nobody can forge, and settles; until it is refused
CLIENT = """
import os, random, sys, time
from pathlib import Path
from llmops_nb.budgets import Budget
from llmops_nb.core import BudgetError
budget, chance = Budget(Path(sys.argv[1])), random.Random(int(sys.argv[3]))
bill = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
try:
    while True:
        most = chance.uniform(0.001, 0.01)
        ticket = budget.reserve(most)
        cost = most * chance.choice([0.5, 1, 1, 1])
        os.write(bill, f"{cost!r}\\n".encode())
        time.sleep(chance.uniform(0.002, 0.006))
        budget.settle(ticket, cost)
except BudgetError:
    sys.exit(7)
"""


@pytest.mark.parametrize("limits", [Limits(money=1.5), Limits(calls=500), Limits(money=2.0, calls=450)])
def test_processes_that_are_killed_never_overspend(tmp_path: Path, limits: Limits) -> None:
    chance, bill = random.Random(3), tmp_path / "bill"
    ledger = Budget(tmp_path / "budget.sqlite", limits)

    def client(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CLIENT, str(ledger.path), str(bill), str(number)])

    running, started, killed = [client(n) for n in range(4)], 4, 0
    while running:
        time.sleep(0.03)
        for process in list(running):
            if process.poll() is not None:
                assert process.returncode == 7
                running.remove(process)
            elif killed < 10 and chance.random() < 0.3 and bill.exists():
                process.send_signal(signal.SIGKILL)
                process.wait()
                running[running.index(process)] = client(started)
                started, killed = started + 1, killed + 1
    costs = [float(line) for line in bill.read_text().splitlines()]
    state = ledger.state()
    assert killed >= 4, "clients were killed while they worked"
    assert state.reserved == 0, "what the dead had reserved is settled"
    assert sum(costs) <= state.money + 1e-9 and len(costs) <= state.calls
    if limits.money is not None:
        assert state.money <= limits.money + 1e-9
    if limits.calls is not None:
        assert state.calls <= limits.calls
    assert (limits.money is not None and state.money > limits.money - 0.02) or state.calls == limits.calls, "the budget was used"


def test_threads_wait_for_each_other_instead_of_being_refused(tmp_path: Path) -> None:
    price = fixed_price(0, 1000)  # A tenth of a cent a token
    said = Answer("Yes.", usage=Usage(10, 1))
    under_way: set[int] = set()

    def slow(messages: object, **options: object) -> Answer:
        under_way.add(threading.get_ident())
        time.sleep(0.01)
        return said

    ask = metered(priced(Wrapped(resolve("echo"), slow), price), price)
    question = [{"role": "user", "content": "Is it so?"}]
    assert worst_case(price, question, 20) == pytest.approx(0.02)  # type: ignore[arg-type]
    budget = Budget(tmp_path / "budget.sqlite", Limits(money=0.1))
    refused = []

    def call(n: int) -> None:
        try:
            ask(question, max_tokens=20)  # type: ignore[arg-type]
        except BudgetError:
            refused.append(n)

    with spending(budget), ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(100)))
    state = budget.state()
    # With twenty times the usual price at stake, the last call can begin at 8 cents
    assert state.calls == 100 - len(refused) == 81 and state.money == pytest.approx(0.081)
    assert len(under_way) > 1


def test_time_runs_while_somebody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "budget.sqlite"
    hold = "import sys, time; from pathlib import Path; from llmops_nb.budgets import Budget, spending\nwith spending(Budget(Path(sys.argv[1]))): print('in', flush=True); time.sleep(60)"
    Budget(path, Limits(seconds=1.2))
    process = subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.4)
    process.kill()
    process.wait()
    budget = Budget(path)
    begun = budget.state().seconds
    time.sleep(0.8)  # Nobody is there
    with spending(budget):
        assert budget.state().seconds < begun + 0.1 < 0.6
        budget.settle(budget.reserve(0), 0)
        time.sleep(1.3)
        with pytest.raises(BudgetError, match="1.2 seconds is used up"):
            budget.reserve(0)
    used = budget.state().seconds
    time.sleep(0.2)
    assert budget.state().seconds == used


def test_a_raised_limit_lets_the_work_go_on(tmp_path: Path) -> None:
    path = tmp_path / "budget.sqlite"
    first = Budget(path, Limits(calls=1))
    first.settle(first.reserve(0), None)
    with pytest.raises(BudgetError, match="budget of 1 calls"):
        first.reserve(0)
    Budget(path, Limits(calls=2))
    first.reserve(0)
    assert first.state().unpriced == 1 and first.state().limits == Limits(calls=2)


def test_every_try_counts_and_a_run_can_be_resumed(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 0, concurrency=8, retries=2)
        items = tuple(Item(f"i{n}", f"Say <{n}> fault:{'500' if n % 3 == 0 else 'none'}", str(n)) for n in range(60))
        golden, settings, place = GoldenSet("faults", items), load_settings(tmp_path), tmp_path / "run"
        budget = Budget(tmp_path / "budget.sqlite", Limits(calls=50))
        save_info(place, RunInfo("run", "loop", budget="../budget.sqlite"))
        with pytest.raises(BudgetError):
            evaluate(load_app(here, settings), golden, [exact_match], place, settings=settings, progress=False)
        stopped = open_run(place)
        assert stopped.info.status == "interrupted" and "budget of 50 calls" in stopped.info.note
        assert len(server.requests()) == budget.state().calls == 50
        safe = {r.item.question for r in stopped.records if r.error is None}
        assert safe
        Budget(tmp_path / "budget.sqlite", Limits(calls=500))
        before = len(server.requests())
        done = evaluate(load_app(here, settings), golden, [exact_match], place, settings=settings, progress=False)
        later = [text for _, text in server.requests()[before:]]
        assert done.info.status == "finished" and not safe & set(later)
        assert budget.state().calls == len(server.requests())


def test_answers_from_memory_cost_nothing(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 20)
        settings, golden = load_settings(tmp_path), load_golden(here / "golden" / "loop.jsonl")
        for name, calls in (("first", 20), ("second", 20)):
            with spending(Budget(tmp_path / "budget.sqlite", Limits(calls=20))) as budget:
                evaluate(load_app(here, settings), golden, [exact_match], tmp_path / name, settings=settings, progress=False)
            assert len(server.requests()) == budget.state().calls == calls


def test_an_unknown_price_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with loopback(tmp_path / "log") as server:
        here = project(tmp_path, server.url, 5)
        settings = load_settings(tmp_path)
        nameless = replace(settings, models={"loop": replace(settings.models["loop"], model="nobody-knows", input_price=None, output_price=None)})
        with spending(Budget(tmp_path / "budget.sqlite", Limits(money=1))), pytest.raises(ConfigurationError, match=r"input_price and output_price under \[model loop\]"):
            evaluate(load_app(here, nameless), load_golden(here / "golden" / "loop.jsonl"), [exact_match], tmp_path / "run", settings=settings, progress=False)
        assert server.requests() == []


def test_a_file_that_is_no_ledger_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "budget.sqlite").write_text(json.dumps(["no", "ledger"]) * 100)
    with pytest.raises(Exception, match="budget.sqlite cannot be opened"):
        Budget(tmp_path / "budget.sqlite")


# One of several processes that all want the same answers
ASKER = """
import sys
from pathlib import Path
from llmops_nb.app import load_app
from llmops_nb.settings import load_settings
from concurrent.futures import ThreadPoolExecutor
app = load_app(Path(sys.argv[1]), load_settings(Path(sys.argv[1])))
with ThreadPoolExecutor(4) as pool:
    list(pool.map(app, [f"Say <{n}>" for n in range(30)]))
"""


def test_processes_that_want_the_same_answers_ask_once(tmp_path: Path) -> None:
    with loopback(tmp_path / "log", latency=0.05) as server:
        here = project(tmp_path, server.url, 5)
        clients = [subprocess.Popen([sys.executable, "-c", ASKER, str(here)]) for _ in range(3)]
        while len(server.requests()) < 8:
            time.sleep(0.005)
        clients[0].kill()  # What it was asking is asked by another: at most its four calls are made twice
        assert [process.wait(120) for process in clients[1:]] == [0, 0]
        clients[0].wait()
        asked = [text for _, text in server.requests()]
    assert len(set(asked)) == 30 <= len(asked) <= 34
