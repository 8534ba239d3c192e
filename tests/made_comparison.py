"""Two runs of the same items, made up: another prompt, other answers, some of them flipped; and a sweep of such runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import made_run

from llmops_nb.store import Objects

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
