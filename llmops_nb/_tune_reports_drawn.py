"""A tuning laid out for its page: settings as rows, quality against size and time as dots, parameters as shares, pairs as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops_nb._tuning_effects import Part, TwoWay, two_way
from llmops_nb._tuning_job import Lines, estimate, lines_sources, points, table_of
from llmops_nb.cells import STATES, Dot, Plot, scale, stairs, value_text
from llmops_nb.comparison_reports import Row, reaches, row_of
from llmops_nb.figures import is_number, quantity, ticks
from llmops_nb.stats import percentile

MOST_DOTS, MOST_ROWS = 300, 500


@dataclass(frozen=True)
class Setting:
    """A setting, ready to be drawn."""

    cell: Any  # Of the plan
    tone: str  # Of its status
    values: tuple[str, ...]  # One a parameter, "" for as it is
    text: str  # The objective
    range: str  # Its interval
    strip: tuple[float | None, ...]  # The same on a scale from 0 to 100
    n: int  # Items
    others: tuple[str, ...]  # Further measures
    p50: str  # Median latency
    p95: str  # 95th percentile
    size: str  # Of its index
    chunks: str  # In its index
    tokens: str  # That the model would read
    standing: str  # Between quality, size and latency
    by: str  # Who is better in all
    against: Row | None  # The verdict
    keys: tuple[float | None, ...]  # Quality, bytes, seconds, tokens: to sort by
    low: float | None  # Lower end of the objective
    high: float | None  # Upper end


def parameters(info: Any) -> list[str]:
    """What is varied, in the order of the plan."""
    return list(dict.fromkeys([*info.plan.vary, *(name for cell in info.cells for name in cell.values)]))


def shown_size(size: Any) -> str:
    """Bytes for people."""
    if not is_number(size):
        return "—"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}" if size < 100 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:,.0f} bytes"


def settings_of(tuning: Any, lines: Lines) -> list[Setting]:
    """All settings, the best first."""
    info, sources = tuning.info, lines_sources(lines)
    plan, names, found = info.plan, parameters(info), []
    where = {p.cell: p for p in points(info, lines, sources)}
    top = max([1.0, *(p.quality.high or 0.0 for p in where.values())])
    reach = max(reaches(list(info.verdicts.values())).values(), default=1.0)
    for cell in info.cells:
        point = where.get(cell.id)
        q = point.quality if point else None
        ends = (q.low, q.value, q.high) if q else (None, None, None)
        strip = tuple(round(100 * max(0.0, min(1.0, end / top)), 2) if is_number(end) else None for end in ends)
        seconds = lines.seconds.get(cell.id, ())
        p50, p95 = (percentile(seconds, at).value for at in (0.5, 0.95))
        tokens = lines.tokens(cell.id, plan.split).value
        others = tuple(number(estimate(lines.scores(cell.id, plan.split, name), sources).value) for name in plan.measures if name != plan.objective)
        between = f"{number(ends[0])} – {number(ends[2])}" if is_number(ends[0]) and is_number(ends[2]) else ""
        against = row_of(info.verdicts[cell.id], reach) if cell.id in info.verdicts else None
        found.append(Setting(
            cell, STATES.get(cell.status, ""), tuple(value_text(cell.values[name]) if name in cell.values else "" for name in names), number(ends[1]), between, (*strip, None), q.n if q else 0, others,
            quantity(p50, "s"), quantity(p95, "s"), shown_size(info.sizes.get(cell.id)), quantity(info.chunks.get(cell.id), "tokens"), quantity(tokens, "tokens"), point.standing if point else "unknown", point.by if point else "",
            against, (ends[1], _float(info.sizes.get(cell.id)), p50, tokens), ends[0], ends[2],
        ))  # fmt: skip
    return sorted(found, key=lambda row: (row.keys[0] is None, -(row.keys[0] or 0.0)))


def number(value: Any) -> str:
    """A measure, in three digits."""
    return f"{value:.3f}" if is_number(value) else "—"


def _float(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def plot(rows: Sequence[Setting], info: Any, name: str) -> Plot | None:
    """Quality against "size" or "latency"; nothing where nothing differs or is known."""
    place, text = (1, shown_size) if name == "size" else (2, lambda value: quantity(value, "s"))
    drawn = [(row, float(row.keys[0] or 0.0), float(row.keys[place] or 0.0)) for row in rows if is_number(row.keys[0]) and is_number(row.keys[place])][:MOST_DOTS]
    if not drawn or not any(x for _, _, x in drawn):
        return None
    bottom, top, down = scale(end for row, value, _ in drawn for end in (row.low, row.high, value))
    right = max(x for _, _, x in drawn) * 1.06
    dots = []
    for row, value, x in drawn:
        words = f"{row.cell.id} {row.cell.label}: {row.text}{f' ({row.range})' if row.range else ''}, {row.size}, {row.p50} a question; {row.standing}"
        mark = "winner" if row.cell.id == info.winner else "baseline" if row.cell.baseline else ""
        low, high = (None if end is None else down(end) for end in (row.low, row.high))
        dots.append(Dot(row.cell.id, words, round(100 * x / right, 2), down(value), low, high, row.standing == "front", mark))
    across = tuple((round(100 * at / right, 2), text(at)) for at in ticks(0.0, right, 6))
    return Plot(name, tuple(dots), tuple(stairs(dots, True)), across, tuple((down(at), f"{at:.2f}") for at in ticks(bottom, top, 5)))


@dataclass(frozen=True)
class Bar:
    """A part of the differences, ready to be drawn."""

    part: Part  # Which
    words: str  # Its names
    share: str  # In per cent
    width: float  # From 0 to 100
    p: str  # How often chance alone
    told: bool  # Whether it is more than chance


def bars(parts: Sequence[Part]) -> list[Bar]:
    """Parts as bars, those that cannot be told last."""
    return [
        Bar(part, " × ".join(part.names), f"{100 * part.share:.1f}%" if part.freedom else "—", round(100 * min(1.0, part.share), 1), "cannot be told apart with these settings" if part.p is None else chance(part.p), part.p is not None and part.p <= 0.05)
        for part in parts
    ]  # fmt: skip


def chance(p: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@dataclass(frozen=True)
class Grid:
    """Two parameters together: a table of means, and the same as lines."""

    table: TwoWay  # The means
    rows: tuple[tuple[str, tuple[tuple[str, int] | None, ...]], ...]  # Value down, and text with a shade from 0 to 9 for each value across
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]  # Value down, and points: per cent across, pixels down
    up: tuple[tuple[float, str], ...]  # Ticks at the side: pixels down, and text
    bar: Bar  # What they do together


LINES = 150  # Pixels of a drawing of lines


def grids(tuning: Any, lines: Lines, pairs: Sequence[Part]) -> list[Grid]:
    """Up to three pairs, those that do most together first."""
    cells, items, table = table_of(tuning, lines)
    names = set().union(*(c.values for c in cells)) if cells else set()
    whole = [at for at, c in enumerate(cells) if names <= c.values.keys()]
    if not whole or not items:
        return []
    scores, settings = [float(table[at].mean()) for at in whole], [cells[at].values for at in whole]
    found = []
    for bar in [bar for bar in bars(pairs) if bar.part.freedom][:3]:
        two = two_way((bar.part.names[0], bar.part.names[1]), scores, settings)
        if len(two.down) > 8 or len(two.across) > 12:
            continue
        known = [mean for row in two.means for mean in row if mean is not None]
        low, high = min(known), max(known)
        pad = 0.08 * (high - low) or 0.01
        bottom, top = low - pad, high + pad
        rows = tuple((down, tuple(None if m is None else (number(m), _shade(m, low, high)) for m in means)) for down, means in zip(two.down, two.means, strict=True))
        steps = max(1, len(two.across) - 1)
        drawn = tuple(
            (down, tuple((round(6 + 88 * at / steps, 2), round(LINES * (top - m) / (top - bottom), 1)) for at, m in enumerate(means) if m is not None))
            for down, means in zip(two.down, two.means, strict=True)
        )
        up = tuple((round(LINES * (top - at) / (top - bottom), 1), f"{at:.2f}" if high - low > 0.02 else f"{at:.3f}") for at in ticks(bottom, top, 4))
        found.append(Grid(two, rows, drawn, up, bar))
    return found


def _shade(value: float, low: float, high: float) -> int:
    return 4 if high <= low else max(0, min(9, int(10 * (value - low) / (high - low))))


def flips(tuning: Any, lines: Lines, questions: Mapping[str, str], most: int = 12) -> list[tuple[str, str, str, str, float]]:
    """Items that the best setting and the application as it is find most differently: id, question, before, after, difference."""
    info = tuning.info
    first = next((c for c in info.cells if c.baseline and c.status == "finished"), None)
    others = [c for c in info.cells if not c.baseline and c.status == "finished"]
    best = next((c for c in others if c.id == info.winner), max(others, key=lambda c: c.score or 0.0, default=None))
    if first is None or best is None:
        return []
    before, after = (lines.scores(c.id, info.plan.split, info.plan.objective) for c in (first, best))
    gaps = sorted(((after[item] - before[item], item) for item in before if item in after), key=lambda gap: (-abs(gap[0]), gap[1]))
    return [(item, questions.get(item, ""), number(before[item]), number(after[item]), gap) for gap, item in gaps[:most] if not math.isclose(gap, 0.0, abs_tol=1e-9)]
