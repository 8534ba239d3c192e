"""Two runs of the same items, made up: another prompt, other answers, some of them flipped; and a sweep of such runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import made_run

from llmops_nb.budgets import Limits
from llmops_nb.core import to_json
from llmops_nb.forecasts import Expected, Forecast
from llmops_nb.spaces import Cell, Plan
from llmops_nb.stats import Estimate
from llmops_nb.store import Objects
from llmops_nb.sweeps import SweepInfo, conclusion, open_sweep

PROMPTS = {
    "long": "---\ndescription: Answers from passages\nvariables: {question: str, passages: list}\n---\n[system]\nYou answer questions about the Python language from the numbered passages below and from nothing else.\nCite the passages you used.\n[user]\n{{ question }}\n",
    "short": "---\ndescription: Answers from passages, briefly\nvariables: {question: str, passages: list}\n---\n[system]\nAnswer in one sentence from the numbered passages below and from nothing else.\nCite the passages you used as [1], [2].\n[user]\n{{ question }}\n",
}


def other(seed: int, gain: float) -> Any:
    "A change for `made_run.make`: answers in other words, `gain` of the wrong ones right, a ninth of that share of the right ones wrong."

    def change(records: list[dict[str, Any]], info: dict[str, Any], _: dict[str, Any]) -> None:
        rng = random.Random(seed)
        for record in records:
            answer = record["answer"]
            if not answer:
                continue
            success = record["scores"][0]
            right = success["value"] == 1.0
            flip = rng.random() < (gain if not right else gain / 9)
            if flip:
                success["value"], success["why"] = float(not right), "all 2 facts are there" if not right else "missing: 'else clause'"
            words = answer["text"].split()
            if flip or rng.random() < 0.4:
                cut = words[: max(4, len(words) // 2)]
                answer["text"] = " ".join(cut) + (" – and that holds for every suite [1]." if flip else " [1].")
            if rng.random() < 0.3:
                answer["passages"] = [answer["passages"][1], answer["passages"][0], *answer["passages"][3:]]
            answer["messages"][0]["content"] = "Answer in one sentence from the numbered passages below and from nothing else. Cite the passages you used as [1], [2]."
            answer["usage"]["latency"] *= rng.uniform(0.6, 1.0)
            answer["usage"]["cost"] *= 0.8
            for score in record["scores"]:
                if score["name"] in ("latency", "cost"):
                    score["value"] = answer["usage"][score["name"]]
        info.update(made_run.info(records, **{key: info[key] for key in ("id", "created", "finished", "environment", "git", "digests", "model", "parameters")}))

    return change


def pair(place: Path, items: int = 120, seed: int = 3, gain: float = 0.45) -> tuple[Path, Path]:
    "Two run directories under a project of their own, with both prompts in its object store."
    (place / "settings.ini").write_text("[llmops]\n") if place.exists() else (place.mkdir(parents=True), (place / "settings.ini").write_text("[llmops]\n"))
    store = Objects(place / ".llmops" / "objects")

    def fewer_errors(records: list[dict[str, Any]], *rest: Any) -> None:
        errors = [record for record in records if record["error"]][2:]
        records[:] = [record for record in records if record not in errors]

    def after(records: list[dict[str, Any]], info: dict[str, Any], notebook: dict[str, Any]) -> None:
        fewer_errors(records)
        other(seed, gain)(records, info, notebook)

    digests = {name: store.put(text) for name, text in PROMPTS.items()}
    one, two = place / "reports" / "pydocs" / "20261123-121703-4f2a", place / "reports" / "pydocs" / "20261123-140911-b07c"
    made_run.make(one, items, change=fewer_errors)
    made_run.make(two, items, change=after, id=two.name)
    for run, name in ((one, "long"), (two, "short")):
        info = json.loads((run / "run.json").read_text())
        info["digests"]["prompt"] = digests[name]
        info["digests"]["app"] = digests[name][::-1]
        info["parameters"]["prompt"] = f"prompts/{name}.txt"
        (run / "run.json").write_text(json.dumps(info))
    return one, two


def sweep(place: Path, items: int = 60, repeats: int = 1, **changes: Any) -> Path:
    "A sweep directory with the runs of its cells: three prompts, two models, two values of top_k; some cells dropped, failed or waiting."
    place.mkdir(parents=True, exist_ok=True)
    (place / "settings.ini").write_text("[llmops]\n")
    reports, name = place / "reports" / "pydocs", "20261124-030012-9e1d"
    grid = [{"prompt": p, "model": m, "top_k": k} for p in ("prompts/answer.txt", "prompts/short.txt", "prompts/steps.txt") for m in ("local/smollm2-135m", "local/qwen2.5-coder-0.5b") for k in (2, 6)]
    cells = []
    for number, values in enumerate(grid):
        gain = 0.05 + 0.5 * (values["prompt"] != "prompts/answer.txt") * (number / 12) + 0.25 * (values["model"] != "local/smollm2-135m")
        status = {5: "dropped", 8: "dropped", 9: "failed"}.get(number, "finished")
        note = {5: "worse than c03 by a test that holds while it is looked at, after 24 items", 8: "worse than c03 by a test that holds while it is looked at, after 31 items", 9: "ModelError: the server said 500 for 20 items in a row"}.get(number, "")
        runs = tuple(f"{name}-c{number:02d}-r{r}" for r in range(repeats))
        label = "the app as it is" if number == 0 else ", ".join(f"{k}={v}" for k, v in values.items())
        cells.append(Cell(f"c{number:02d}", values, label, runs, status, number == 0, None, note))
        for repeat, run in enumerate(runs):
            if status != "failed":
                _cell_run(reports / run, items, number, repeat, gain, values, status, name)
    ahead = Expected(12 * items, 2 * items, 10 * items, Estimate(400_000.0, 360_000.0, 440_000.0, 4, ""), Estimate(21_000.0, 17_000.0, 25_000.0, 4, ""), Estimate(0.11, 0.09, 0.14, 4, ""), Estimate(620.0, 540.0, 760.0, 4, ""))
    did = {"runs": 11, "items": 11 * items - 65, "errors": 9, "calls": 9 * items, "cached": 2 * items, "spent": 0.104, "prompt_tokens": 371_200, "completion_tokens": 19_840, "seconds": 812.0, "saved": 65}
    plan = Plan("experiments/pydocs/eval.ipynb", name="Prompts and passages", vary={"prompt": sorted({g["prompt"] for g in grid}), "model": sorted({g["model"] for g in grid}), "top_k": [2, 6]},
                fixed={"split": "dev"}, racing=0.05, repeats=repeats, budget=Limits(money=0.5))  # fmt: skip
    fields = {"status": "finished", "created": "2026-11-24T03:00:12+00:00", "finished": "2026-11-24T03:13:44+00:00", "totals": did,
              "forecast": Forecast(ahead, {}, 8, 0.001, "pilot", ("The price of local models is what settings.ini says.",)), "items": items}  # fmt: skip
    directory = reports / name
    directory.mkdir()
    (directory / "sweep.json").write_bytes(to_json(SweepInfo(name, "pydocs", plan=plan, cells=tuple(cells), **fields)))
    winner, sentence = conclusion(open_sweep(directory))
    (directory / "sweep.json").write_bytes(to_json(SweepInfo(name, "pydocs", plan=plan, cells=tuple(cells), winner=winner, verdict=sentence, **{**fields, **changes})))
    return directory


def _cell_run(run: Path, items: int, number: int, repeat: int, gain: float, values: dict[str, Any], status: str, sweep_id: str) -> None:
    "The run of one cell."

    def change(records: list[dict[str, Any]], info: dict[str, Any], notebook: dict[str, Any]) -> None:
        other(100 * number + repeat, min(0.9, gain))(records, info, notebook)
        pace = (0.4 if "smollm" in values["model"] else 1.3) * (0.8 + values["top_k"] / 10)
        for record in records:
            if record["answer"]:
                record["answer"]["usage"]["latency"] *= pace
                record["answer"]["usage"]["cost"] *= pace**1.5
        if status == "dropped":
            del records[24 + number :]
        info.update(made_run.info(records, **{key: info[key] for key in ("created", "finished", "environment", "git", "digests", "model", "parameters")}))
        info.update(id=run.name, sweep=sweep_id, parameters={**info["parameters"], **values}, status="stopped" if status == "dropped" else "finished", note="dropped by racing" if status == "dropped" else "")
        info["digests"] = {**info["digests"], "app": f"{number:02x}" * 32}

    made_run.make(run, items, change=change)
