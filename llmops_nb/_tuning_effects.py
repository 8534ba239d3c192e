"""Which parameters matter, and which only matter together: a table of settings × items, taken apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops_nb.paired import holm
from llmops_nb.stats import ENOUGH

FLIPS, LEVELS, BINS = 1999, 12, 4  # Random signs; values of a parameter that stand alone; groups into which more are put


@dataclass(frozen=True)
class Part:
    """What one parameter, or two together, explain of how settings differ."""

    names: tuple[str, ...]  # One parameter: its own effect. Two: what they do together beyond the sum of both
    share: float  # Of the variance between the settings' means; what others explain as well is not counted
    p: float | None  # How often chance alone would explain as much (random signs of items); corrected over all pairs; None when nothing can be told
    freedom: int  # Numbers that were fitted for it; 0 when the settings tried cannot tell it from others


@dataclass(frozen=True)
class TwoWay:
    """The objective at each pair of values of two parameters."""

    names: tuple[str, str]  # Down, and across
    down: tuple[str, ...]  # Values of the first
    across: tuple[str, ...]  # Values of the second
    means: tuple[tuple[float | None, ...], ...]  # Averaged over the settings that have both; None where there is none


def levels(values: Sequence[Any]) -> list[str]:
    """The group that each setting's value belongs to."""
    distinct = list(dict.fromkeys(map(repr, values)))
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(distinct) <= LEVELS or len(numbers) < len(values):
        return [_text(v) for v in values]
    ordered = sorted(set(numbers))
    edges = [ordered[len(ordered) * n // BINS] for n in range(BINS)]
    number = [max(n for n, edge in enumerate(edges) if v >= edge) for v in numbers]
    ends = [f"{_text(edges[n])} to {_text(max(v for v, g in zip(numbers, number, strict=True) if g == n))}" for n in range(BINS)]
    return [ends[n] for n in number]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "none" if value in ("", None) else str(value)


def _columns(groups: Sequence[str]) -> Any:
    """One column of zeros and ones a group."""
    import numpy as np

    names = list(dict.fromkeys(groups))
    return np.array([[float(group == name) for name in names] for group in groups])


def _projection(columns: Sequence[Any]) -> Any:
    """What turns values of the settings into what these columns explain."""
    import numpy as np

    matrix = np.hstack([np.ones((len(columns[0]), 1)), *columns])
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    basis = u[:, s > 1e-9 * s[0]]
    return basis @ basis.T


def _together(one: Any, other: Any) -> Any:
    """One column for each pair of groups."""
    import numpy as np

    return np.hstack([one[:, [a]] * other for a in range(one.shape[1])])


def effects(table: Any, settings: Sequence[Mapping[str, Any]], sources: Sequence[str], seed: int = 0) -> tuple[list[Part], list[Part]]:
    """Each parameter's own part, and each pair's, the largest first; `table` has a row a setting and a column an item.

    The projections of the usual analysis of variance (type II), taken of every item; whether a part is more than chance is asked of
    the items by random signs, sources kept together, which assumes no normal distribution and no equal variances.
    """
    import numpy as np

    names = [name for name in dict.fromkeys(n for s in settings for n in s) if len({repr(s[name]) for s in settings}) > 1]
    if len(settings) < 3 or not names or table.shape[1] < 2:
        return [], []
    columns = {name: _columns(levels([s[name] for s in settings])) for name in names}
    keys: Sequence[Any] = sources if len(set(sources)) >= ENOUGH else range(len(sources))  # Too few sources tell nothing, as elsewhere
    number = {source: n for n, source in enumerate(dict.fromkeys(keys))}
    sums = np.zeros((len(settings), len(number)))
    np.add.at(sums.T, [number[s] for s in keys], table.T)
    means = table.mean(axis=1)
    whole = float(np.square(means - means.mean()).sum())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, len(number)))

    def part(which: tuple[str, ...], with_it: Any, without: Any) -> Part:
        beyond = with_it - without
        freedom = round(float(np.trace(beyond)))
        if freedom == 0 or whole <= 1e-15:
            return Part(which, 0.0, None, 0)
        seen = beyond @ sums
        real = float(np.square(seen.sum(axis=1)).sum())
        if real <= 1e-12 * float(np.square(sums).sum()):
            return Part(which, 0.0, 1.0, freedom)
        drawn = np.square(signs @ seen.T).sum(axis=1)
        p = (int((drawn >= real * (1 - 1e-9)).sum()) + 1) / (FLIPS + 1)
        return Part(which, float(np.square(beyond @ means).sum()) / whole, p, freedom)

    mains = _projection(list(columns.values()))
    nothing = np.full((len(settings), len(settings)), 1 / len(settings))
    own = [part((name,), mains, _projection([c for other, c in columns.items() if other != name]) if len(names) > 1 else nothing) for name in names]
    pairs = [part((a, b), _projection([*columns.values(), _together(columns[a], columns[b])]), mains) for a, b in itertools.combinations(names, 2)]
    corrected = [_corrected(parts) for parts in (own, pairs)]
    return corrected[0], corrected[1]


def _corrected(parts: Sequence[Part]) -> list[Part]:
    """With p-values corrected over all of them, the largest part first."""
    adjusted = holm([part.p for part in parts])
    found = [Part(part.names, part.share, p, part.freedom) for part, p in zip(parts, adjusted, strict=True)]
    return sorted(found, key=lambda part: (-part.share, part.names))


def two_way(names: tuple[str, str], scores: Sequence[float], settings: Sequence[Mapping[str, Any]]) -> TwoWay:
    """The means of two parameters together."""
    one, other = (levels([s[name] for s in settings]) for name in names)
    cells: dict[tuple[str, str], list[float]] = {}
    for a, b, score in zip(one, other, scores, strict=True):
        cells.setdefault((a, b), []).append(score)
    down, across = _ordered(one), _ordered(other)
    means = tuple(tuple(sum(v) / len(v) if (v := cells.get((a, b))) else None for b in across) for a in down)
    return TwoWay(names, down, across, means)


def _ordered(values: Sequence[str]) -> tuple[str, ...]:
    """Numbers by size, all else as it came."""
    distinct = list(dict.fromkeys(values))
    try:
        return tuple(sorted(distinct, key=lambda v: float(v.partition(" to ")[0])))
    except ValueError:
        return tuple(distinct)
