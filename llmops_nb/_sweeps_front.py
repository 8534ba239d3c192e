"""Which cells of a sweep nobody beats at once in quality, cost and latency, as far as the items can tell."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    points = {cell: _point(cell, label, repeats, scores[cell], objective) for cell, (label, repeats) in cells.items()}
    lower = KINDS.get(objective, OTHER).better == "lower"
    found = []
    for point in points.values():
        where, by = standing(point, list(points.values()), scores, lower)
        found.append(replace(point, standing=where, by=by))
    return tuple(found)


def _point(cell: str, label: str, repeats: Sequence[Mapping[str, Seen]], scores: Mapping[str, float], objective: str) -> Point:
    "Quality, cost and latency of one cell."
    answers = [seen for items in repeats for seen in items.values() if not seen.failed]
    costs = [seen.cost for seen in answers if seen.cost is not None]
    cost = mean(costs) if len(costs) == len(answers) else Estimate(None, None, None, 0, "price not known")
    return Point(cell, label, quality(scores, objective), cost, percentile([seen.latency for seen in answers], 0.5), "unknown")


NEAR = 0.01  # Costs that differ by less are the same: prompts of one length in other words


def standing(mine: Point, points: Sequence[Point], scores: Mapping[str, Mapping[str, float]], lower: bool) -> tuple[str, str]:
    "How a cell stands, and by whom it is beaten: latencies whose intervals overlap are the same, and so are costs within 1 %."
    if mine.quality.value is None:
        return "unknown", ""
    sign = -1 if lower else 1
    rivals = [p for p in points if p.cell != mine.cell and p.quality.value is not None and sign * (p.quality.value - mine.quality.value) >= 0]
    rivals = [p for p in rivals if not _less(mine.cost, p.cost, NEAR) and not _less(mine.latency, p.latency)]
    rivals.sort(key=lambda p: sign * (p.quality.value or 0.0), reverse=True)
    perhaps = ""
    for other in rivals:
        if _shown(scores[mine.cell], scores[other.cell], lower):
            return "dominated", other.cell
        if other.quality.value != mine.quality.value or _less(other.cost, mine.cost, NEAR) or _less(other.latency, mine.latency):
            perhaps = perhaps or other.cell
    return ("perhaps dominated", perhaps) if perhaps else ("front", "")


def _less(one: Estimate, other: Estimate, near: float | None = None) -> bool:
    "Whether one is clearly less than another: by its interval, or by more than a share of it."
    if one.value is None or other.value is None:
        return False
    if near is not None:
        return one.value < other.value * (1 - near)
    return (one.value if one.high is None else one.high) < (other.value if other.low is None else other.low)


def _shown(before: Mapping[str, float], after: Mapping[str, float], lower: bool) -> bool:
    "Whether the items that both have show that after is better."
    common = sorted(before.keys() & after.keys())
    if len(common) < 2:
        return False
    one, other = ([side[item] for item in common] for side in (before, after))
    found = paired(other, one) if lower else paired(one, other)
    return found.low is not None and found.low > 0


def verdicts_of(sweep: Any, comparisons: Mapping[str, Any]) -> dict[str, Any]:
    "The verdict on every cell; on one that was dropped, what the race said: a test of a fixed number of items is too sure of it."
    baseline = next((cell.label for cell in sweep.info.cells if cell.baseline), "")
    found = {}
    for id, comparison in comparisons.items():
        cell, verdict = sweep.cell(id), comparison.verdict(sweep.info.plan.objective)
        if cell.status == "dropped":
            outcome = "worse" if f" is worse than {baseline}:" in cell.note else "not enough evidence"
            verdict = replace(verdict, outcome=outcome, sentence=f"Dropped by the race: {cell.note}", adjusted=None, more=None)
        found[id] = verdict
    return found


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
