"""What PromptSweep reads and shows, prepared as values, texts and numbers: its script computes nothing."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .app import Definition, settable
from .comparisons import Verdict
from .core import ConfigurationError, Item
from .differences import Piece, marked, side, word_diff
from .edits import Edit, free_name, read_draft
from .figures import quantity
from .following import Progress, Seen
from .forecasts import Expected, Forecast
from .metrics import KINDS, OTHER, Record
from .prompts import Prompt
from .stats import Estimate
from .store import short
from .sweeps import SweepInfo
from .widgets import table_html

LETTERS = {"right": "r", "wrong": "w", "mixed": "m", "error": "e", "unscored": "u"}  # As the script draws them; "." is to come
MOST = 300  # Items drawn of a cell; the sums are over all


def between(
    estimate: Estimate,  # With an interval, or without
    unit: str,  # As `quantity` knows them
) -> str:
    "A number with its interval, in words."
    if estimate.value is None:
        return "not known"
    ends = [quantity(end, unit) if end is not None else "?" for end in (estimate.low, estimate.high)]
    return quantity(estimate.value, unit) if ends[0] == ends[1] or ends == ["?", "?"] else f"{quantity(estimate.value, unit)} ({ends[0]} to {ends[1]})"


def expected(
    ahead: Expected,  # Of a cell, or of all
) -> dict[str, str]:
    "What is ahead, as texts."
    share = f"{ahead.cached / ahead.calls:.0%} from memory" if ahead.calls else "nothing to ask"
    return {
        "calls": f"{ahead.calls:,}", "to_pay": f"{ahead.to_pay:,}", "cached": share,
        "cost": between(ahead.cost, "USD"), "seconds": between(ahead.seconds, "s"), "tokens": f"{between(ahead.prompt_tokens, 'tokens')} read, {between(ahead.completion_tokens, 'tokens')} written",
    }  # fmt: skip


def foreseen(
    forecast: Forecast,  # Of a plan
    labels: Mapping[str, str],  # By id of the cell
) -> dict[str, Any]:
    "A forecast: the sum, a row a cell, and what it rests on."
    paid = "" if not forecast.pilot else f" For it, {forecast.pilot} calls were made"
    price = "" if not forecast.pilot else " (their price is not known)." if forecast.pilot_cost is None else f" ({quantity(forecast.pilot_cost, 'USD')})."
    rows = [{"label": labels.get(id, id), **expected(ahead)} for id, ahead in forecast.cells.items()]
    return {"total": expected(forecast.total), "rows": rows, "method": f"From {forecast.method or 'nothing'}.{paid}{price}", "notes": list(forecast.notes)}


def declared(
    prompt: Prompt,  # Read from what is typed
) -> str:
    "What a prompt declares, in a sentence."
    names = ", ".join(f"{name} ({kind})" for name, kind in prompt.variables.items())
    more = [*(["a schema"] if prompt.schema else []), *(f"includes {name}" for name in prompt.parts)]
    return f"Declares {names or 'no variable'}{'; ' + ', '.join(more) if more else ''}."


def text_of(
    path: Path,  # A prompt's file
) -> str:
    "The text of a file; nothing where there is none."
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def beside(
    home: Path,  # Of the app
    own: str,  # The app's prompt, relative to it
) -> list[str]:
    "The prompts in one directory with the app's own, relative to the app; its own first."
    files = sorted(path for path in (home / own).parent.glob(f"*{Path(own).suffix}") if path.is_file() and not path.name.startswith("."))
    return list(dict.fromkeys([own, *(path.relative_to(home).as_posix() for path in files)]))


def unfit(
    prompt: Prompt,  # Read from what is typed
    definition: Definition,  # Of the app
) -> str:
    "Why an app cannot use a prompt: what it fills in and the prompt does not declare, or the other way round; nothing when it can."
    filled = {"question", *(["passages"] if definition.corpus else []), *definition.variables}
    declared = set(prompt.variables) - {prompt.slot}
    lacking, surplus = sorted(filled - declared - {prompt.slot}), sorted(declared - filled - set(prompt.defaults))
    parts = [f"it does not declare {', '.join(lacking)}, which {definition.name} fills in"] if lacking else []
    parts += [f"{definition.name} does not fill in {', '.join(surplus)}"] if surplus else []
    return f"Prompt {prompt.name!r} cannot be used here: {'; '.join(parts)}." if parts else ""


def editor(
    home: Path,  # Of the app
    definition: Definition,  # What stands in its app.yaml
    file: str,  # The prompt in the editor
    files: Sequence[str],  # All of them
    draft: str | None,  # What was typed over it; None when nothing was
) -> dict[str, Any]:
    "The editor: the text, what it declares or what is wrong with it, and what was changed."
    path = home / file
    saved = text_of(path)
    text = saved if draft is None else draft
    try:
        prompt = read_draft(text, path)
        problem = unfit(prompt, definition)
        ok, says = not problem, problem or declared(prompt)
    except ConfigurationError as error:
        ok, says = False, str(error)
    changes = [list(piece) for piece in word_diff(saved, text)] if text != saved else []
    return {"file": file, "files": list(files), "text": text, "changed": text != saved, "ok": ok, "says": says, "changes": changes, "free": free_name(path)}


def lines(
    edit: Edit,  # Not made yet
) -> dict[str, Any]:
    "An edit, line by line."
    hint = f"Anybody can run it then: llmops sweep {edit.path.name}" if edit.path.name == "sweep.yaml" else ""
    return {"title": edit.title, "path": edit.path.name, "new": edit.before is None, "lines": [list(line) for line in edit.lines], "hint": hint}


def labelled(
    path: Path,  # Of the prompt
    label: str,  # That would be moved
    before: str,  # Version it stands for now; "" for none
    after: str,  # Version it would stand for
    why: str,  # Kept with it
) -> dict[str, Any]:
    "A move of a label, line by line."
    moved = [] if before == after else [["removed" if before else "same", f"{path.name}: {label} is {short(before) or 'not given'}"], ["added", f"{path.name}: {label} is {short(after)}"], ["same", f"  why: {why}"]]
    return {"title": f"Label {path.name} as {label}", "path": "labels.yaml", "new": False, "lines": moved}


def varied(
    vary: Mapping[str, Sequence[Any]],  # Parameter → values
) -> list[dict[str, Any]]:
    "What varies, each value as text."
    return [{"name": name, "kind": settable()[name], "values": [str(value) for value in values]} for name, values in vary.items()]


def value_of(
    name: str,  # Of a parameter
    text: str,  # As it was typed
) -> Any:
    "A value as what its parameter is; raises `ConfigurationError` for what is no YAML."
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{text!r} is no value for {name}: {' '.join(str(error).split())}") from error
    return text.strip() if settable()[name] == "str" else value


def cell_row(
    seen: Seen,  # One cell, as far as it is
    progress: Progress,  # The sweep it belongs to
    order: Sequence[str],  # Ids of the items, as in the golden set
    verdict: Verdict | None,  # Against the baseline, once there is one
) -> dict[str, Any]:
    "One row of the grid."
    cell = next(cell for cell in progress.info.cells if cell.id == seen.id)
    counts = Counter(seen.marks.values())
    unit = KINDS.get(progress.info.plan.objective, OTHER).unit
    left = max(0, seen.planned - seen.done)
    words = ", ".join([*(f"{counts[kind]} {kind}" for kind in LETTERS if counts[kind]), *([f"{left} to come"] if left else [])])
    score, ends = seen.score, ""
    if score is not None and score.low is not None and score.high is not None:
        ends = f"{quantity(score.low, unit)} to {quantity(score.high, unit)}"
    return {
        "id": seen.id, "label": cell.label, "status": cell.status, "baseline": cell.baseline, "note": cell.note, "words": words or "nothing yet",
        "marks": "".join(LETTERS.get(seen.marks.get(item, ""), ".") for item in order[:MOST]),
        "share": round(100 * seen.done / seen.planned, 1) if seen.planned else 0.0, "count": f"{seen.done:,} / {seen.planned:,}",
        "score": quantity(score.value, unit) if score is not None else "—", "range": ends, "spent": "?" if seen.spent is None else quantity(seen.spent, "USD"), "cached": f"{seen.cached:,} from memory" if seen.cached else "",
        "outcome": "the app as it is" if cell.baseline else verdict.outcome if verdict else "", "sentence": verdict.sentence if verdict else "",
    }  # fmt: skip


def answers(
    item: Item,  # What was asked
    records: Sequence[tuple[str, str, Record | None]],  # Cell, its label, and what it said; the first is compared with
    objective: str,  # Which score decides
) -> dict[str, Any]:
    "The answers of several cells to one item, differences from the first one marked."
    texts = [record.answer.text if record and record.answer else "" for _, _, record in records]
    shown = []
    for place, (id, name, record) in enumerate(records):
        pieces = word_diff(texts[0], texts[place] if place else texts[1] if len(texts) == 2 else texts[0])
        score = next((s for s in record.scores if s.name == objective), None) if record else None
        said = {True: "right", False: "wrong"}.get(score.value >= 0.5) if score and score.value is not None else ""
        shown.append({"id": id, "label": name, "mark": said, "why": (score.error or score.why) if score else "", "took": took(record), "pieces": [list(p) for p in side(pieces, "added" if place else "removed")]})
    return {"item": item.id, "question": item.question, "expected": item.expected, "arms": shown}


def took(
    record: Record | None,  # None when the cell has not come to the item yet
) -> str:
    "In one line what an answer took, or why there is none."
    if record is None:
        return "not asked yet"
    if record.answer is None:
        return f"no answer: {record.error.message if record.error else 'unknown'}"
    usage = record.answer.usage
    cost = "cost unknown" if usage.cost is None else quantity(usage.cost, "USD")
    return ", ".join([f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens", quantity(usage.latency, "s"), cost, *(["from memory"] if usage.cached else [])])


def going(
    progress: Progress,  # As far as it is
    money: float | None,  # What may be spent
    short: bool = False,  # Without the number of answers, which stands beside it
) -> str:
    "How a sweep goes, in one line."
    spent = "cost unknown" if progress.spent is None else quantity(progress.spent, "USD")
    parts = ["" if short else f"{progress.done:,} of {progress.planned:,} answers", spent if money is None else f"{spent} of {quantity(money, 'USD')}"]
    if progress.cached:
        parts.append(f"{progress.cached / max(1, progress.done):.0%} from memory")
    if progress.left and progress.done < progress.planned and math.isfinite(progress.left):
        parts.append(f"about {quantity(progress.left, 's')} left")
    return " · ".join(filter(None, parts))


def report(
    directory: Path,  # Of a sweep
    root: Path,  # Of the project
) -> str:
    "Where the sweep's report is; nothing when there is none."
    path = directory / "report.html"
    if not path.is_file():
        return ""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def spoken(
    progress: Progress,  # As far as it is
) -> str:
    "How far a sweep is, in steps that are worth saying aloud."
    return f"{10 * (10 * progress.done // max(1, progress.planned))} percent answered"


def against(
    info: SweepInfo,  # Of a sweep that has ended
) -> str:
    "What was forecast against what it took."
    if info.forecast is None or "calls" not in info.totals:
        return ""
    ahead, spent = info.forecast.total, info.totals.get("spent")
    price = "cost unknown" if spent is None else quantity(spent, "USD")
    return f"Forecast: {ahead.to_pay:,} calls, {between(ahead.cost, 'USD')}. Taken: {info.totals['calls']:,} calls, {price}, {quantity(info.totals.get('seconds'), 's')}."


def still(
    body: Mapping[str, Any],  # Of a snapshot
) -> str:
    "The widget as plain HTML, for readers without a kernel."
    escape, parts = html.escape, [f"<p><b>{html.escape(body['label'])}</b>. {html.escape(body['golden'])}. {html.escape(body['size'])}</p>"]
    if body["vary"]:
        parts.append(table_html([], [[row["name"], ", ".join(row["values"])] for row in body["vary"]], "Varied:"))
    if body["prompt"]["changed"]:
        parts.append(f"<p>Draft over {escape(body['prompt']['file'])}:</p><pre>{marked(Piece(*piece) for piece in body['prompt']['changes'])}</pre>")
    if body["forecast"]:
        total = body["forecast"]["total"]
        parts.append(f"<p>Forecast: {escape(total['to_pay'])} of {escape(total['calls'])} calls to pay ({escape(total['cached'])}), {escape(total['cost'])}, {escape(total['seconds'])}. {escape(body['refused'])}</p>")
    if sweep := body["sweep"]:
        parts.append(f"<p><b>{escape(sweep['status'])}</b>: {escape(sweep['going'])}. {escape(sweep['verdict'])}</p>")
        head = ["cell", body["objective"], "95 % interval", "answers", "", "spent", "against the app as it is"]
        rows = [[f"{'★ ' if r['id'] == body['winner'] else ''}{r['label']}", r["score"], r["range"], r["count"], r["words"], r["spent"], r["sentence"] or r["outcome"]] for r in sweep["rows"]]
        parts.append(table_html(head, rows))
    if found := body["answers"]:
        cells = "".join(f"<td>{marked(Piece(*piece) for piece in arm['pieces'])}</td>" for arm in found["arms"])
        names = "".join(f"<th>{escape(arm['label'])}</th>" for arm in found["arms"])
        parts.append(f"<p>{escape(found['item'])}: {escape(found['question'])}</p><table><tbody><tr>{names}</tr><tr>{cells}</tr></tbody></table>")
    return "".join(parts)
