"""The conductor of a tuning: setting by setting, question by question, each written down when it is known."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from llmops_nb._sweeps_front import Point, standing
from llmops_nb._tuning_effects import Part, effects
from llmops_nb.chunks import approximate_tokens, in_context
from llmops_nb.core import ConfigurationError, DataError, RunError, to_json
from llmops_nb.evals import now
from llmops_nb.metrics import source
from llmops_nb.paired import holm
from llmops_nb.rankings import relevance_of, score_ranking
from llmops_nb.retrieve import Retrieval
from llmops_nb.spaces import as_it_is, new_cell, propose
from llmops_nb.stats import Estimate, mean, percentile, share
from llmops_nb.store import Journal, read_journal, write_atomic

JOURNAL = "rankings.jsonl"  # In a tuning's directory


class Line(msgspec.Struct, omit_defaults=True):
    """What one setting found for one item, or how long it takes when it remembers nothing."""

    cell: str
    split: str = ""  # "" for a line of times
    item: str = ""
    scores: dict[str, float | None] = {}
    found: tuple[str, ...] = ()  # Ids of the chunks, best first
    source: str = ""  # What the item shares with others: the document of its evidence
    tokens: int = 0  # Of the passages that the model would read, roughly
    seconds: tuple[float, ...] = ()  # One a question


class Lines:
    """The journal of a tuning, read."""

    def __init__(self, path: Path):
        self.items: dict[tuple[str, str], dict[str, Line]] = {}
        self.seconds: dict[str, tuple[float, ...]] = {}
        for number, data in read_journal(path):
            try:
                self.take(msgspec.json.decode(data, type=Line))
            except msgspec.MsgspecError as error:
                raise RunError(f"{path.name}, line {number} is no line of a tuning: {error}. Remove it, and resume: what it held is computed again.") from error

    def take(self, line: Line) -> None:
        """Add a line."""
        if line.split:
            self.items.setdefault((line.cell, line.split), {})[line.item] = line
        else:
            self.seconds[line.cell] = line.seconds

    def scores(self, cell: str, split: str, measure: str) -> dict[str, float]:
        """One measure by item, where it has a value."""
        lines = self.items.get((cell, split), {})
        return {item: value for item, line in lines.items() if (value := line.scores.get(measure)) is not None}

    def tokens(self, cell: str, split: str) -> Estimate:
        """What the model would read."""
        return mean([float(line.tokens) for line in self.items.get((cell, split), {}).values()])


def estimate(scores: Mapping[str, float], sources: Mapping[str, str]) -> Estimate:
    """The average with its interval, items of one source counted together."""
    values = list(scores.values())
    clusters = [sources[item] for item in scores]
    return share(values, clusters) if values and set(values) <= {0.0, 1.0} else mean(values, clusters)


class Conductor:
    """Asks every question of every setting, once."""

    def __init__(self, directory: Path, info: Any, stages: Any, splits: Mapping[str, Sequence[Any]], save: Callable[[Any], None], bar: Any):
        self.directory, self.info, self.stages, self.save, self.bar = directory, info, stages, save, bar
        self.splits = splits  # Items by split
        self.lines = Lines(directory / JOURNAL)
        self.relevance: dict[str, Any] = {}
        self.began, self.before, self.already = time.monotonic(), float(info.totals.get("seconds", 0.0)), dict(info.totals.get("computed", {}))
        self._lengths: dict[str, int] = {}

    def run(self, cell: Any, retrieval: Retrieval, split: str, journal: Journal) -> None:
        """One setting over the items of a split; what stands in the journal is not asked again."""
        plan, done = self.info.plan, self.lines.items.get((cell.id, split), {})
        left = [item for item in self.splits[split] if item.id not in done]
        self.bar.update(len(self.splits[split]) - len(left))
        if left:
            retriever, k = self.stages.retriever(retrieval), plan.k or retrieval.top_k
            for item in left:
                self.spare()
                passages = retriever(item.question, k)
                scores = score_ranking(passages, self._relevance(item), plan.all_measures)
                line = Line(cell.id, split, item.id, scores, tuple(p.chunk.id for p in passages), source(item), sum(map(self._length, passages[: retrieval.top_k])))
                journal.append(to_json(line))
                self.lines.take(line)
                self.bar.update(1)

    def time(self, cell: Any, retrieval: Retrieval, split: str, journal: Journal) -> None:
        """How long some questions take when nothing is remembered, the first one aside."""
        items, wanted = self.splits[split], min(self.info.plan.timed, len(self.splits[split]))
        if not wanted or cell.id in self.lines.seconds:
            return
        retriever, seconds = self.stages.fresh(retrieval), []
        retriever("Is everything ready?", retrieval.top_k)
        for item in [items[place * len(items) // wanted] for place in range(wanted)]:
            self.spare()
            start = time.perf_counter()
            retriever(item.question, retrieval.top_k)
            seconds.append(time.perf_counter() - start)
        line = Line(cell.id, seconds=tuple(round(s, 6) for s in seconds))
        journal.append(to_json(line))
        self.lines.take(line)

    def spare(self) -> None:
        """Raise `BudgetSpent` when no more may be computed."""
        allowed, computed = self.info.plan.budget, self.stages.computed
        for name, limit in (("vectors", allowed.vectors), ("pairs", allowed.pairs)):
            if limit is not None and computed.get(name, 0) + self.already.get(name, 0) > limit:
                raise BudgetSpent(f"{limit:,} {name} were allowed, and they are used up.")
        if allowed.seconds is not None and self.seconds() > allowed.seconds:
            raise BudgetSpent(f"{allowed.seconds:g} s were allowed, and they are used up.")

    def seconds(self) -> float:
        """Of running, earlier processes included."""
        return self.before + time.monotonic() - self.began

    def keep(self, **changes: Any) -> None:
        """Write down how far it is."""
        computed = {name: self.already.get(name, 0) + self.stages.computed.get(name, 0) for name in {**self.already, **self.stages.computed}}
        totals = {**self.info.totals, "seconds": round(self.seconds(), 3), "computed": computed, "asked": sum(map(len, self.lines.items.values()))}
        self.info = replace(self.info, **{"totals": totals, **changes})
        self.save(self.info)

    def cell(self, id: str, **changes: Any) -> None:
        """Change what is known of a setting."""
        self.keep(cells=tuple(replace(c, **changes) if c.id == id else c for c in self.info.cells))

    def _relevance(self, item: Any) -> Any:
        if item.id not in self.relevance:
            self.relevance[item.id] = relevance_of(item, self.stages.corpus, self.info.plan.unit)
        return self.relevance[item.id]

    def _length(self, passage: Any) -> int:
        key = passage.chunk.id + passage.chunk.version
        if key not in self._lengths:
            self._lengths[key] = approximate_tokens(in_context(passage.chunk))
        return self._lengths[key]


class BudgetSpent(RunError):
    """What a tuning may compute is used up."""


def conduct(job: Conductor, retrieval: Callable[[Any], Retrieval], propose: Callable[[Sequence[Any]], Any | None]) -> None:
    """All settings on the split that is tuned on; one that fails stops no other."""
    split, sources = job.info.plan.split, {item.id: source(item) for item in job.splits[job.info.plan.split]}
    with_journal = Journal(job.directory / JOURNAL)
    try:
        while True:
            cell = next((c for c in job.info.cells if c.status == "waiting"), None)
            if cell is None:
                cell = propose(job.info.cells)
                if cell is None:
                    return
                job.keep(cells=(*job.info.cells, cell))
            job.cell(cell.id, status="running")
            try:
                how = retrieval(cell)
                job.run(cell, how, split, with_journal)
                job.time(cell, how, split, with_journal)
                size = job.stages.size(how)
            except BudgetSpent:
                job.cell(cell.id, status="waiting")
                raise
            except (ConfigurationError, DataError) as error:
                job.cell(cell.id, status="failed", note=str(error))
                continue
            found = estimate(job.lines.scores(cell.id, split, job.info.plan.objective), sources)
            job.keep(sizes={**job.info.sizes, cell.id: size}, chunks={**job.info.chunks, cell.id: len(job.stages.index(how))})
            job.cell(cell.id, status="finished", score=found.value)
    finally:
        with_journal.close()


def points(info: Any, lines: Lines, sources: Mapping[str, str]) -> tuple[Point, ...]:
    """Where each finished setting stands between quality, index size and latency: the size stands where a sweep has its cost."""
    split, objective = info.plan.split, info.plan.objective
    scores = {c.id: lines.scores(c.id, split, objective) for c in info.cells if c.status == "finished"}
    labels = {c.id: c.label for c in info.cells}

    def one(id: str) -> Point:
        size = info.sizes.get(id)
        bytes_ = Estimate(None, None, None, 0, "not known") if size is None else Estimate(float(size), float(size), float(size), 1, "counted")
        return Point(id, labels[id], estimate(scores[id], sources), bytes_, percentile(lines.seconds.get(id, ()), 0.5), "unknown")

    found = {id: one(id) for id in scores}
    return tuple(replace(p, standing=where, by=by) for p in found.values() for where, by in [standing(p, list(found.values()), scores, False)])


def choose(job: Conductor, retrieval: Callable[[Any], Retrieval]) -> None:
    """The best setting among those whose difference survives, then asked about items that played no part."""
    from llmops_nb.tuning import judged, paired_scores

    info, plan = job.info, job.info.plan
    sources = {item.id: source(item) for items in job.splits.values() for item in items}
    done = [c for c in info.cells if c.status == "finished"]
    first = next((c for c in done if c.baseline), None)
    others = [c for c in done if not c.baseline]
    if first is None or not others:
        job.keep(outcome="no difference", winner="", verdict="No verdict: the application as it is, or everything else, could not be asked.")
        return
    usual = job.lines.scores(first.id, plan.split, plan.objective)
    pairs = {c.id: paired_scores(usual, job.lines.scores(c.id, plan.split, plan.objective), sources) for c in others}
    adjusted = dict(zip(pairs, holm([found.p for found in pairs.values()]), strict=True))
    labels, labelled = {c.id: c.label for c in others}, {c.id: c for c in others}
    verdicts = {id: judged(plan.objective, found, adjusted[id], len(pairs), ("the app as it is", labels[id])) for id, found in pairs.items()}
    better = sorted((id for id, v in verdicts.items() if v.outcome == "better"), key=lambda id: (-round(pairs[id].difference or 0.0, 12), _unlike(first, labelled[id]), info.sizes.get(id) or 0))
    if not better:
        job.keep(verdicts=verdicts, winner="", confirmation=None, outcome="no difference", verdict=_nothing(verdicts, pairs, labels))
        return
    winner, also = better[0], f" {len(better) - 1} further {'settings are' if len(better) > 2 else 'setting is'} better than the app as it is; which of these is best was not tested." if better[1:] else ""
    job.keep(verdicts=verdicts, winner=winner)
    if not plan.confirm:
        job.keep(outcome="unconfirmed", verdict=f"{winner} wins on {plan.split}: {verdicts[winner].sentence}{also} No items were kept back to confirm it by.")
        return
    journal = Journal(job.directory / JOURNAL)
    try:
        for cell in (first, next(c for c in others if c.id == winner)):
            job.run(cell, retrieval(cell), plan.confirm, journal)
    finally:
        journal.close()
    kept = [job.lines.scores(id, plan.confirm, plan.objective) for id in (first.id, winner)]
    last = judged(plan.objective, paired_scores(kept[0], kept[1], sources), None, 1, ("the app as it is", labels[winner]))
    outcome = "confirmed" if last.outcome == "better" else "not confirmed"
    said = "wins and is confirmed" if outcome == "confirmed" else "was ahead, but is not confirmed"
    job.keep(confirmation=last, outcome=outcome, verdict=f"{winner} {said}. Chosen on {plan.split}: {verdicts[winner].sentence} On {plan.confirm}, looked at once: {last.sentence}{also}")


def _unlike(first: Any, cell: Any) -> int:
    """How many values a setting changes: of equals, the one that changes least wins."""
    return sum(first.values.get(name, first) != value for name, value in cell.values.items())


def run_all(place: Path, info: Any, settings: Any, stages: Any, progress: bool) -> None:
    """Conduct a tuning to its end, choose and confirm; however it ends, what is known stays and can be resumed."""
    from tqdm import tqdm

    from llmops_nb.tuning import questions, retrieval_of

    plan = info.plan
    splits = {split: list(questions(plan, split, settings)) for split in (plan.split, plan.confirm) if split}
    usual = as_it_is(plan.as_sweep, settings)

    def proposed(cells: Sequence[Any]) -> Any | None:
        values = propose(plan.as_sweep, cells, usual) if plan.sampler == "optuna" and len(cells) <= plan.trials else None
        return None if values is None else new_cell(len(cells), values)

    def section(cell: Any) -> Retrieval:
        return retrieval_of(plan, cell, settings)

    every = 0.5 if sys.stderr.isatty() else 10.0  # Seconds between two pictures: a log is no screen
    with tqdm(total=len(info.cells) * info.items, desc=plan.name, unit="ranking", disable=not progress, file=sys.stderr, dynamic_ncols=True, mininterval=every) as bar:
        job = Conductor(place, info, stages, splits, lambda known: write_atomic(place / "tuning.json", to_json(known)), bar)
        job.keep()
        status, note = "finished", ""
        try:
            conduct(job, section, proposed)
            choose(job, section)
        except BudgetSpent as error:
            status, note = "stopped", str(error)
        except BaseException as error:
            job.keep(status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed", note=f"{type(error).__name__}: {error}"[:300], finished=now())
            sys.stderr.write(f"\nWhat is known is kept. Go on with: llmops tune resume {place.name}\n")
            raise
        job.keep(status=status, note=note, finished=now())


def _nothing(verdicts: Mapping[str, Any], pairs: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """What is said when no setting is shown to be better."""
    best = max(pairs, key=lambda id: pairs[id].difference or 0.0)
    if (pairs[best].difference or 0.0) <= 0:
        return "No difference: no setting found more than the app as it is."
    return f"No difference is shown. The most promising is {best}: {verdicts[best].sentence}"


def rows_of(tuning: Any) -> list[dict[str, Any]]:
    """One row a setting: its values, its numbers with intervals, where it stands."""
    info, lines = tuning.info, tuning.lines()
    split, objective = info.plan.split, info.plan.objective
    sources = lines_sources(lines)
    where = {p.cell: p for p in points(info, lines, sources)}
    found = []
    for cell in info.cells:
        row: dict[str, Any] = {"cell": cell.id, "label": cell.label, **cell.values, "status": cell.status}
        if point := where.get(cell.id):
            row |= {objective: point.quality.value, "low": point.quality.low, "high": point.quality.high, "n": point.quality.n}
            row |= {name: estimate(lines.scores(cell.id, split, name), sources).value for name in info.plan.measures if name != objective}
            row |= {"p50": point.latency.value, "p95": percentile(lines.seconds.get(cell.id, ())).value, "bytes": info.sizes.get(cell.id), "chunks": info.chunks.get(cell.id)}
            row |= {"tokens": lines.tokens(cell.id, split).value, "standing": point.standing}
        found.append(row | {"verdict": "the app as it is" if cell.baseline else info.verdicts[cell.id].outcome if cell.id in info.verdicts else ""})
    return found


def table_of(tuning: Any, lines: Lines) -> tuple[list[Any], list[str], Any]:
    """The finished settings, the items that all of them have, and the objective of each."""
    import numpy as np

    info = tuning.info
    cells = [c for c in info.cells if c.status == "finished"]
    scores = [lines.scores(c.id, info.plan.split, info.plan.objective) for c in cells]
    items = [item for item in scores[0] if all(item in s for s in scores)] if scores else []
    return cells, items, np.array([[s[item] for item in items] for s in scores]).reshape(len(cells), len(items))


def parts_of(tuning: Any) -> tuple[list[Part], list[Part]]:
    """What single parameters and pairs of them explain; the application as it is stands aside when its values are unlike the others'."""
    lines = tuning.lines()
    cells, items, table = table_of(tuning, lines)
    names = set().union(*(c.values for c in cells)) if cells else set()
    whole = [at for at, c in enumerate(cells) if names <= c.values.keys()]
    sources = lines_sources(lines)
    return effects(table[whole], [cells[at].values for at in whole], [sources[item] for item in items])


def lines_sources(lines: Lines) -> dict[str, str]:
    """What each item shares with others, as it was when it was asked."""
    return {item: line.source or item for held in lines.items.values() for item, line in held.items()}


def card_of(tuning: Any) -> str:
    """A tuning as a table for a notebook."""
    info, rows = tuning.info, rows_of(tuning)
    names = {"cell": "cell", "label": "what is different", info.plan.objective: info.plan.objective, "low": "low", "high": "high", "p50": "p50 s", "p95": "p95 s",
             "bytes": "index bytes", "tokens": "tokens read", "standing": "quality, size, latency", "verdict": "against the app as it is"}  # fmt: skip

    def text(value: Any) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))

    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in names.values())
    ordered = sorted(rows, key=lambda row: -(row.get(info.plan.objective) or 0.0))
    body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{text(row.get(key))}</td>" for key in names) + "</tr>" for row in ordered)
    title = f"<p><b>{html.escape(info.plan.name or info.app)}</b> <code>{html.escape(info.id)}</code> {info.status}, {len(info.cells)} settings. {html.escape(info.verdict)}</p>"
    return f"{title}<table><tr>{head}</tr>{body}</table>"
