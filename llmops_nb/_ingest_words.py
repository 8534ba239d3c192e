"""A report of an ingest in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .store import short

if TYPE_CHECKING:
    from .ingest import IngestReport


def report_lines(report: IngestReport, most: int = 20) -> list[str]:
    "A report for people, a line each; the first says the most."
    reading = sum(report.read.values())
    reasons = ", ".join(f"{count:,} {'without a fingerprint' if why == 'unknown' else why}" for why, count in sorted(report.read.items()))
    if report.dry:
        head = [f"{report.collection}: {report.listed:,} entries, {reading:,} would be read{f' ({reasons})' if reasons else ''}, {len(report.removed):,} gone; nothing was written."]
    else:
        same = "no new version" if report.version == report.before else f"version {short(report.version)}"
        head = [f"{report.collection}: {same if report.version else 'nothing came in'}, {report.documents:,} documents (+{len(report.added):,} ~{len(report.changed):,} −{len(report.removed):,}); {report.listed:,} entries, {reading:,} read{f' ({reasons})' if reasons else ''}, {report.seconds:.1f} s."]
    lines = head + [f"  stale: {name}: {why}" for name, why in report.stale.items()]
    lines += ["  No source lists anything. Look at `folder`, `glob` and the like in the plan."] if not report.listed and not report.stale else []
    counts = Counter(one.outcome for one in report.refused)
    lines += [f"  not in: {', '.join(f'{count:,} {outcome}' for outcome, count in sorted(counts.items()))}"] if counts else []
    lines += [f"  {one.outcome}: {one.id} ({one.source}): {one.reason}" for one in report.refused[:most]]
    return [*lines, f"  … and {len(report.refused) - most:,} more: llmops collection quarantine {report.collection}"] if len(report.refused) > most else lines
