"""Which cells of a sweep nobody beats at once in quality, cost and latency, as far as the items can tell."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops_nb.metrics import KINDS, OTHER
from llmops_nb.paired import paired
from llmops_nb.stats import Estimate, mean, percentile
from llmops_nb._sweeps_journals import Seen


@dataclass(frozen=True)
class Point:
    "Where a cell stands between quality, cost and latency."

    cell: str  # Id
    label: str  # For people
    quality: Estimate  # The objective, averaged over repeats by item
    cost: Estimate  # US dollars an answer, at list price
    latency: Estimate  # Seconds the model took for an answer, median
    standing: str  # "front" (nobody is better), "dominated" (shown), "perhaps dominated" (by these items, but not shown) or "unknown"
    by: str = ""  # Id of a cell that is at least as good in all three, and better in one


def by_item(repeats: Sequence[Mapping[str, Seen]]) -> dict[str, float]:
    "The objective of every item, averaged over repeats."
    found: dict[str, list[float]] = {}
    for items in repeats:
        for item, seen in items.items():
            if seen.score is not None:
                found.setdefault(item, []).append(seen.score)
    return {item: math.fsum(values) / len(values) for item, values in found.items()}


def quality(scores: Mapping[str, float], objective: str) -> Estimate:
    "The objective of a cell with its interval."
    values = list(scores.values())
    kind = KINDS.get(objective, OTHER)
    whole = all(value in (0.0, 1.0) for value in values)
    return kind.summary(values) if kind.unit != "share" or whole else mean(values)


def front(cells: Mapping[str, tuple[str, Sequence[Mapping[str, Seen]]]], objective: str) -> tuple[Point, ...]:
    "All cells with what is known of them; `cells` has label and repeats by id."
    scores = {cell: by_item(repeats) for cell, (_, repeats) in cells.items()}
    lower = KINDS.get(objective, OTHER).better == "lower"
    measured = {cell: _measured(repeats, scores[cell], objective, lower) for cell, (_, repeats) in cells.items()}
    found = []
    for cell, (label, repeats) in cells.items():
        answers = [seen for items in repeats for seen in items.values() if not seen.failed]
        costs = [seen.cost for seen in answers if seen.cost is not None]
        cost = mean(costs) if len(costs) == len(answers) else Estimate(None, None, None, 0, "price not known")
        latency = percentile([seen.latency for seen in answers], 0.5)
        standing, by = _standing(cell, measured, scores, lower)
        found.append(Point(cell, label, quality(scores[cell], objective), cost, latency, standing, by))
    return tuple(found)


def _measured(repeats: Sequence[Mapping[str, Seen]], scores: Mapping[str, float], objective: str, lower: bool) -> tuple[float, ...] | None:
    "Quality, cost and latency as numbers of which more is better; None without data."
    answers = [seen for items in repeats for seen in items.values() if not seen.failed]
    if not scores or not answers:
        return None
    value = math.fsum(scores.values()) / len(scores)
    known = all(seen.cost is not None for seen in answers)
    cost = math.fsum(seen.cost or 0.0 for seen in answers) / len(answers) if known else math.inf
    latencies = sorted(seen.latency for seen in answers)
    return (-value if lower else value, -cost, -latencies[(len(latencies) - 1) // 2])


def _standing(cell: str, measured: Mapping[str, tuple[float, ...] | None], scores: Mapping[str, Mapping[str, float]], lower: bool) -> tuple[str, str]:
    "How a cell stands, and by whom it is beaten."
    mine = measured[cell]
    if mine is None:
        return "unknown", ""
    better = [other for other, theirs in measured.items() if theirs is not None and theirs != mine and all(t >= m for t, m in zip(theirs, mine, strict=True))]
    if not better:
        return "front", ""
    better.sort(key=lambda other: measured[other] or (), reverse=True)
    for other in better[:5]:
        common = sorted(scores[cell].keys() & scores[other].keys())
        if len(common) < 2:
            continue
        before, after = ([side[item] for item in common] for side in (scores[cell], scores[other]))
        found = paired(after, before) if lower else paired(before, after)
        if found.low is not None and found.low > 0:
            return "dominated", other
    return "perhaps dominated", better[0]


def rows(sweep: Any) -> list[dict[str, Any]]:
    "One row a cell: its values, its numbers with intervals, where it stands."
    points, judged = {p.cell: p for p in sweep.pareto()}, sweep.verdicts
    found = []
    for cell in sweep.info.cells:
        row: dict[str, Any] = {"cell": cell.id, "label": cell.label, **cell.values, "status": cell.status}
        if point := points.get(cell.id):
            row |= {sweep.info.plan.objective: point.quality.value, "low": point.quality.low, "high": point.quality.high, "n": point.quality.n}
            row |= {"cost": point.cost.value, "latency": point.latency.value, "standing": point.standing}
        found.append(row | {"verdict": "baseline" if cell.baseline else judged[cell.id].outcome if cell.id in judged else ""})
    return found


def card(sweep: Any) -> str:
    "A sweep as a table for a notebook."
    info, objective = sweep.info, sweep.info.plan.objective
    columns = {"cell": "cell", "label": "what is different", "status": "status", objective: objective, "low": "low", "high": "high",
               "cost": "cost", "latency": "latency", "standing": "quality, cost, latency", "verdict": "against the app as it is"}  # fmt: skip

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in columns.values())
    body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{text(row.get(key))}</td>" for key in columns) + "</tr>" for row in rows(sweep))
    note = f"<p>{html.escape(info.note)}</p>" if info.note else ""
    title = f"<p><b>{html.escape(info.plan.name or info.app)}</b> <code>{html.escape(info.id)}</code> {info.status}, {len(info.cells)} cells. {html.escape(info.verdict)}</p>"
    return f"{title}{note}<table><tr>{head}</tr>{body}</table>"
