"""A verdict as a sentence a manager can read."""

from __future__ import annotations

import html
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from llmops_nb.evals import Run
from llmops_nb.paired import detectable
from llmops_nb.store import short

if TYPE_CHECKING:
    from llmops_nb.comparisons import Comparison, Verdict


def middle(difference: float | None, limit: float | None, usual: float) -> float:
    """The difference of interest: the margin that was given, else what was seen when that is more than what usually matters."""
    return limit if limit is not None else max(abs(difference or 0.0), usual)


def sentence(verdict: Verdict, labels: tuple[str, str]) -> str:
    """What is said about one metric."""
    found, name = verdict.paired, verdict.metric.replace("_", " ")
    if found.difference is None:
        why = f" ({sum(verdict.failed)} failed)" if any(verdict.failed) else ""
        return f"{labels[1]} and {labels[0]} cannot be compared on {name}: no item has a value on both sides{why}."
    told = {"better": _told, "worse": _told, "equivalent": _equivalent}.get(verdict.outcome, _undecided)(verdict, name, labels)
    return told + _failures(verdict, labels)


def number(value: float, digits: int = 0) -> str:
    """With a typographic minus."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def amount(verdict: Verdict, value: float, sign: bool = False) -> str:
    """A difference in words: points of a share, a score, per cent of a ratio."""
    plus = "+" if sign and value > 0 else ""
    if verdict.ratio:
        percent = 100 * math.expm1(value)
        return f"{plus}{number(percent)} %"
    if verdict.unit == "share":
        digits = 0 if abs(value) >= 0.02 or value == 0 else 1
        return f"{plus}{number(100 * value, digits)}" + ("" if not sign else " point" if abs(value) == 0.01 else " points")
    return f"{plus}{number(value, 3 if abs(value) < 0.1 else 2)}" + ("" if verdict.unit in ("share", "score") else f" {verdict.unit}")


def interval(verdict: Verdict) -> str:
    """The 95 % interval, or why there is none."""
    found = verdict.paired
    if found.low is None or found.high is None:
        return f"no interval from {found.n} items"
    return f"95 % interval {amount(verdict, found.low)} to {amount(verdict, found.high)}"


def chance(verdict: Verdict) -> str:
    """The p-value, with what it was corrected for."""
    if verdict.adjusted is None:
        return "not tested"
    return shown(verdict.adjusted) + (f" after correction for {verdict.tests} tests" if verdict.tests > 1 else "")


def shown(p: float) -> str:
    """A p-value with as many digits as it deserves."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _told(verdict: Verdict, name: str, labels: tuple[str, str]) -> str:
    found, value = verdict.paired, verdict.paired.difference or 0.0
    seen = f"({amount(verdict, value, sign=True)}, {interval(verdict)})"
    if verdict.ratio:
        less, more = {"s": ("takes", "less", "more"), "USD": ("costs", "less", "more"), "tokens": ("uses", "fewer", "more")}[verdict.unit][1:]
        verb, word = {"s": "takes", "USD": "costs", "tokens": "uses"}[verdict.unit], less if value < 0 else more
        noun = {"s": " time", "USD": "", "tokens": " tokens"}[verdict.unit]
        what = "" if verdict.metric in ("latency", "cost", "tokens") else f" ({name})"
        first = f"{labels[1]} {verb} {number(abs(100 * math.expm1(value)))} % {word}{noun} than {labels[0]}{what} ({interval(verdict)} on {found.n} items)"
    elif found.binary and verdict.unit == "share":
        net = found.wins - found.losses
        many = f"{abs(net)} {'more' if net > 0 else 'fewer'} of {found.n}"
        verb, what = ("answers", "questions") if verdict.metric == "task_success" else (f"passes {name} on", "items")
        first = f"{labels[1]} {verb} {many} {what} than {labels[0]} {seen}"
    elif verdict.unit == "share":
        first = f"{labels[1]} has {'a higher' if value > 0 else 'a lower'} {name} than {labels[0]} {seen[:-1]} on {found.n} items)"
    else:
        first = f"{labels[1]} scores {number(abs(value), 2 if abs(value) >= 0.1 else 3)} {'higher' if value > 0 else 'lower'} than {labels[0]} on {name} ({interval(verdict)} on {found.n} items)"
    return f"{first}; a difference this large is unlikely to be chance ({chance(verdict)})."


def _equivalent(verdict: Verdict, name: str, labels: tuple[str, str]) -> str:
    found, margin = verdict.paired, verdict.margin or 0.0
    low, high = found.narrow or (0.0, 0.0)
    most = amount(verdict, math.log1p(margin) if verdict.ratio else margin, sign=True).lstrip("+")
    return f"{labels[1]} and {labels[0]} are equivalent on {name}: they differ by less than {most} (90 % interval {amount(verdict, low)} to {amount(verdict, high)} on {found.n} items)."


def _undone(verdict: Verdict) -> bool:
    """Whether it is the failures that keep a difference from being shown."""
    found = verdict.paired
    return verdict.outcome == "not enough evidence" and verdict.worst is not None and found.p is not None and found.p * verdict.tests <= 0.05


def _undecided(verdict: Verdict, name: str, labels: tuple[str, str]) -> str:
    found = verdict.paired
    if _undone(verdict):
        total, which = sum(verdict.failed), ", ".join(f"{n} with {label}" for n, label in zip(verdict.failed, labels, strict=True) if n)
        seen = f"{amount(verdict, found.difference or 0.0, sign=True)}, {interval(verdict)} on the {found.n} items with both"
        return f"{labels[1]} and {labels[0]} differ on {name} ({seen}), but {total} {'item' if total == 1 else 'items'} failed ({which}): at the worst, what failed could undo the difference ({chance(verdict)}). Ask the failed items again to settle it."
    if not found.wins + found.losses:
        first = f"{labels[1]} and {labels[0]} are the same on {name} on {'the only item' if found.n == 1 else f'all {found.n} items'}"
    else:
        seen = chance(verdict)
        if verdict.worst is not None and found.p is not None:  # what failed has made the deciding p larger; say what the others show
            seen = f"{shown(found.p)} on the items with both{' before correction' if verdict.tests > 1 else ''}"
        first = f"{labels[1]} and {labels[0]} cannot be told apart on {name} ({amount(verdict, found.difference or 0.0, sign=True)}, {interval(verdict)}; {seen})"
    advice = []
    if (least := _least(verdict)) is not None and found.wins + found.losses:
        advice.append(f"{found.n} items show a difference of {amount(verdict, least, sign=True).lstrip('+')} or more")
    usual = math.log1p(0.05) if verdict.ratio else 0.05
    limit = None if verdict.margin is None else math.log1p(verdict.margin) if verdict.ratio else verdict.margin
    wanted = amount(verdict, middle(found.difference, limit, usual), sign=True).lstrip("+")
    if verdict.more is not None and verdict.more > 10 * found.n:
        advice.append(f"more than ten times as many would be needed to show {'one' if advice else 'a difference'} of {wanted}")
    elif verdict.more is not None:
        advice.append(f"about {_rounded(verdict.more)} more would show one of {wanted}" if advice else f"about {_rounded(verdict.more)} more items would show a difference of {wanted}")
    text = f"{first}{'; ' + ', '.join(advice) if advice else ''}."
    return text + (f" {labels[1]} is at least not worse by more than {amount(verdict, math.log1p(verdict.margin) if verdict.ratio else verdict.margin, sign=True).lstrip('+')}." if verdict.noninferior and verdict.margin else "")


def _rounded(count: int) -> str:
    """A number of items as advice gives it: two digits, no false precision."""
    size = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / size) * size:,}"


def _least(verdict: Verdict) -> float | None:
    """The smallest difference that so many items would show."""
    found = verdict.paired
    if found.n < 2 or (not found.binary and not found.spread):
        return None
    changes = max((found.wins + found.losses) / found.n, 1 / found.n)
    return detectable(found.n, changes, None if found.binary else found.spread, error=0.05 / verdict.tests)


def _failures(verdict: Verdict, labels: tuple[str, str]) -> str:
    """What failed, and whether it mattered."""
    if not any(verdict.failed) or _undone(verdict):
        return ""
    parts = [f"{n} with {label}" for n, label in zip(verdict.failed, labels, strict=True) if n]
    total = sum(verdict.failed)
    text = f" {total} {'item' if total == 1 else 'items'} failed ({', '.join(parts)})"
    if verdict.worst is None or verdict.best is None:
        return f"{text} and {'is' if total == 1 else 'are'} not counted."
    return f"{text}; this holds even with {'it' if total == 1 else 'them'} at {'its' if total == 1 else 'their'} worst." if verdict.outcome != "not enough evidence" else f"{text} and {'is' if total == 1 else 'are'} not counted."


def row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row of a table."""
    found = verdict.paired
    ends = [found.difference, found.low, found.high]
    if verdict.ratio:
        ends = [None if end is None else math.exp(end) for end in ends]
    before, after = verdict.medians or (None, None) if verdict.ratio else (found.before, found.after)
    return {
        "metric": verdict.metric, "slice": verdict.slice, "outcome": verdict.outcome, "before": before, "after": after, "kind": "ratio" if verdict.ratio else "difference",
        "value": ends[0], "low": ends[1], "high": ends[2], "p": found.p, "adjusted": verdict.adjusted, "n": found.n, "wins": found.wins, "losses": found.losses,
        "ties": found.ties, "effect": found.effect, "failed_before": verdict.failed[0], "failed_after": verdict.failed[1], "more": verdict.more, "method": found.method, "sentence": verdict.sentence,
    }  # fmt: skip


def card(comparison: Comparison) -> str:
    """A comparison as a notebook shows it."""
    count = Counter(change.kind for change in comparison.changes)
    flips = ", ".join(f"{n} {kind}" for kind, n in count.most_common())
    head = f"<p><b>{html.escape(comparison.after.label)}</b> against <b>{html.escape(comparison.before.label)}</b> on {comparison.items} items. {flips}</p>"
    lines = "".join(f"<li><b>{v.outcome}</b>: {html.escape(v.sentence)}</li>" for v in comparison.verdicts)
    seen = [v for v in comparison.slices if v.outcome != "not enough evidence"]
    parts = "".join(f"<li><b>{v.outcome}</b> on {html.escape(v.slice)}: {html.escape(v.sentence)}</li>" for v in seen)
    small = [*(f"What differs: {text}" for text in comparison.differs), *comparison.notes]
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in small)
    return f"{head}<ul>{lines}</ul>" + (f"<p>By slice (at most 5 % of these are false alarms):</p><ul>{parts}</ul>" if parts else "") + (f"<ul><small>{notes}</small></ul>" if notes else "")


def differs(before: Run, after: Run) -> tuple[str, ...]:
    """What is different about two runs, in words."""
    one, other = before.info, after.info
    parts = [f"{name}: {short(one.digests.get(name, '')) or 'none'} → {short(other.digests.get(name, '')) or 'none'}" for name in sorted(one.digests.keys() | other.digests.keys()) if name not in ("app", "golden", "scorers", "code") and one.digests.get(name) != other.digests.get(name)]
    for kind, first, second in (("", one.parameters, other.parameters), ("model ", one.model, other.model)):
        parts += [f"{kind}{key}: {first.get(key)} → {second.get(key)}" for key in sorted(first.keys() | second.keys()) if key not in ("digest", "run_dir") and first.get(key) != second.get(key)]
    return tuple(parts)


def labels_of(before: Run, after: Run, first: str | None, second: str | None) -> tuple[str, str]:
    """What people call the two: as told, or the one parameter that differs, or their ids."""
    one, other = before.info.parameters, after.info.parameters
    keys = [key for key in one.keys() & other.keys() if one[key] != other[key] and key != "run_dir"]
    own = [f"{keys[0]} {run.info.parameters[keys[0]]}" if len(keys) == 1 else run.id for run in (before, after)]
    return first or own[0], second or own[1]
