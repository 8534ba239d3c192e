"""What RetrievalTuner shows, prepared as texts and numbers: its script computes nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from .chunks import coverage
from .core import DataError, Document, Item, Passage
from .documents import Corpus, find_quote
from .retrieve import Retrieval
from .stats import Estimate
from .widgets import table_html

TEXT = 3000  # Characters of a passage on the screen
LISTED = 60  # Items of a list on the screen
MANY = 5  # Settings tried, from which on the reader is warned
Pieces = list[tuple[str, str]]  # Kind, "same" or "hit", and text


def _document(corpus: Corpus, id: str) -> Document | None:
    """A document, None when the corpus does not have it."""
    try:
        return corpus.document(id)
    except DataError:
        return None


def spans(
    passage: Passage,  # That was found
    item: Item,  # What is asked
    corpus: Corpus,  # Where both come from
) -> list[tuple[int, int]]:  # First character and one past the last, in the passage; in order, none overlapping
    """Where the evidence stands in a passage: by its place in the document, or by its words in a copy of it."""
    chunk, found = passage.chunk, []
    for evidence in item.evidence:
        place = find_quote(chunk.text, evidence.quote)
        document = _document(corpus, chunk.document) if place is None and evidence.document == chunk.document else None
        if document is not None and document.text[chunk.start : chunk.end] == chunk.text:
            whole = find_quote(document.text, evidence.quote) or (0, 0)
            first, last = max(whole[0], chunk.start), min(whole[1], chunk.end)
            place = (first - chunk.start, last - chunk.start) if first < last else None
        if place is not None:
            found.append(place)
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def pieces(
    text: str,  # Of a passage
    places: Sequence[tuple[int, int]],  # What to mark, in order
) -> tuple[Pieces, str]:  # And a word about what was left out
    """A text with marked places, cut when it is too long; what is marked is kept."""
    first, end = 0, len(text)
    if end > TEXT:
        first = max(0, min(places[0][0] - TEXT // 4, end - TEXT)) if places else 0
        end = first + TEXT
    found: Pieces = []
    at = first
    for begin, stop in [(max(first, a), min(end, b)) for a, b in places if a < end and b > first]:
        found += [("same", text[at:begin])] if at < begin else []
        found.append(("hit", text[begin:stop]))
        at = stop
    found += [("same", text[at:end])] if at < end else []
    left = len(text) - (end - first)
    return found, f"{left:,} more characters" if left else ""


def relevance(
    passage: Passage,  # That was found
    item: Item | None,  # What is asked; None for a question of one's own
    corpus: Corpus,  # Where both come from
) -> tuple[str, str]:  # "evidence", "document" or "", and that in words
    """How a passage bears on an item: it holds evidence, it comes from a document that does, or neither."""
    if item is None:
        return "", ""
    most = 0.0
    for evidence in item.evidence:
        document = _document(corpus, evidence.document)
        if document is not None and evidence.quote.strip():
            most = max(most, coverage([passage.chunk], document, evidence.quote))
    if most > 0:
        return "evidence", "holds the evidence" if most > 0.995 else f"holds {max(most, 0.01):.0%} of the evidence"
    if passage.chunk.document in {evidence.document for evidence in item.evidence}:
        return "document", "same document"
    return "", ""


def same_place(
    one: Passage,  # Of one ranking
    other: Passage,  # Of another, perhaps from an index cut otherwise
) -> float:  # Characters in common, as a share of the shorter; above 1 for the same chunk
    """How much two passages are the same words of the same document."""
    a, b = one.chunk, other.chunk
    if a.document != b.document:
        return 0.0
    if (a.start, a.end) == (b.start, b.end):
        return 2.0
    return max(0, min(a.end, b.end) - max(a.start, b.start)) / max(1, min(a.end - a.start, b.end - b.start))


def matched(
    now: Sequence[Passage],  # A ranking, best first
    before: Sequence[Passage],  # The one it is compared with
) -> list[int | None]:  # For every passage of `now` its place in `before`, from 0; None when it is new
    """Which passage was where: the same chunk, or else the one that shares most of its words, more than half of the shorter."""
    pairs = sorted(((-same_place(p, q), n, m) for n, p in enumerate(now) for m, q in enumerate(before) if same_place(p, q) > 0.5), key=lambda pair: pair)
    found: list[int | None] = [None] * len(now)
    taken: set[int] = set()
    for _, n, m in pairs:
        if found[n] is None and m not in taken:
            found[n] = m
            taken.add(m)
    return found


def moved(place: int, was: int | None) -> str:
    """What became of a passage, as a sign and a number."""
    return "new" if was is None else f"↑{was - place}" if was > place else f"↓{place - was}" if was < place else "="


def bars(
    passages: Sequence[Passage],  # A ranking
) -> list[list[dict[str, Any]]]:  # For every passage, its stages
    """The score of every stage, with a bar between the least and the largest of the ranking."""
    stages = list(dict.fromkeys(stage for passage in passages for stage in passage.scores))
    ends = {s: (min(x), max(x)) for s in stages if (x := [p.scores[s] for p in passages if s in p.scores])}

    def bar(stage: str, value: float) -> dict[str, Any]:
        low, high = ends[stage]
        return {"stage": stage, "text": f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}", "width": round(8 + 92 * (value - low) / (high - low)) if high > low else 100}

    return [[bar(stage, p.scores[stage]) for stage in stages if stage in p.scores] for p in passages]


def ranking(
    now: Sequence[Passage],  # As the settings find them
    before: Sequence[Passage] | None,  # As the baseline does; None when it is not known
    top_k: int,  # Of them the model reads
    item: Item | None,  # What is asked
    corpus: Corpus,  # Where they come from
) -> list[dict[str, Any]]:
    """A ranking, row by row."""
    was = matched(now, before) if before is not None else [None] * len(now)
    rows = []
    for place, (passage, scores) in enumerate(zip(now, bars(now), strict=True)):
        chunk = passage.chunk
        kind, words = relevance(passage, item, corpus)
        text, more = pieces(chunk.text, spans(passage, item, corpus) if item else [])
        rows.append({
            "id": chunk.id, "place": place + 1, "document": chunk.document, "heading": chunk.heading, "page": f"page {chunk.page}" if chunk.page else "", "read": place < top_k,
            "kind": kind, "relevance": words, "move": moved(place, was[place]) if before is not None else "", "text": text, "more": more, "scores": scores,
        })  # fmt: skip
    return rows


def beside(
    before: Sequence[Passage],  # The ranking of the baseline
    now: Sequence[Passage] | None,  # That of the settings; None when it is not known
    top_k: int,  # Of them the model read
    item: Item | None,  # What is asked
    corpus: Corpus,  # Where they come from
) -> list[dict[str, Any]]:
    """The ranking of the baseline, with where its passages went."""
    went: dict[int, int] = {m: n for n, m in enumerate(matched(now, before)) if m is not None} if now is not None else {}
    rows = []
    for place, passage in enumerate(before):
        kind, words = relevance(passage, item, corpus)
        gone = now is not None and place not in went
        rows.append({"id": passage.chunk.id, "place": place + 1, "document": passage.chunk.document, "heading": passage.chunk.heading, "read": place < top_k, "kind": kind, "relevance": words,
                     "went": "gone" if gone else f"now {went[place] + 1}" if place in went else "", "gone": gone})  # fmt: skip
    return rows


def summary(rows: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]], item: Item | None) -> str:
    """A ranking in a sentence, for people who cannot see it."""
    if not rows:
        return "Nothing was found."
    first = next((row["place"] for row in rows if row["kind"] == "evidence"), None) or next((row["place"] for row in rows if row["kind"] == "document"), None)
    hit = "" if item is None or not item.evidence else f"The first relevant passage stands at place {first}. " if first else f"No relevant passage among the first {len(rows)}. "
    new, gone = sum(row["move"] == "new" for row in rows), sum(row["gone"] for row in beside)
    ups = sum(row["move"].startswith("↑") for row in rows)
    change = f"Against the baseline: {new} new, {gone} gone, {ups} up." if new or gone or ups else "As in the baseline." if beside else ""
    return f"{hit}{change}".strip()


def named(
    retrieval: Retrieval,  # Some settings
    usual: Retrieval,  # Those of the app as it is
) -> str:
    """What people call some settings: what is different about them."""
    differing = [(name, getattr(retrieval, name)) for name in Retrieval.__dataclass_fields__ if getattr(retrieval, name) != getattr(usual, name)]
    words = [f"{name} {'none' if value in ('', None) else f'{value:g}' if isinstance(value, float) else value}" for name, value in differing]
    return ", ".join(words) or "the app as it is"


def figure(estimate: Estimate | None) -> dict[str, str]:
    """A measure as texts."""
    if estimate is None or estimate.value is None:
        return {"value": "—", "range": ""}
    known = estimate.low is not None and estimate.high is not None
    return {"value": f"{estimate.value:.3f}", "range": f"{estimate.low:.3f} to {estimate.high:.3f}" if known else ""}


def about(item: Item | None) -> str:
    """What is known of a question, in a sentence."""
    if item is None:
        return "A question of your own: nobody has said what is relevant."
    if not item.evidence:
        return "Not in the documents: nothing is relevant." if not item.answerable else "No evidence is given for this item."
    return ""


def chance(p: float | None) -> str:
    """A p-value with as many digits as it deserves."""
    return "not tested" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def corrected(p: float | None, tests: int) -> str:
    """A p-value after correction for all that was tried."""
    return f"After correction for the {tests} settings that were tried against this baseline: {chance(p)}." if tests > 1 else ""


def looks(tests: int, items: int) -> str:
    """How often these items were looked at, and what follows from it."""
    if tests < 2:
        return ""
    warning = " The best of many looks better than it is: confirm a winner on the test split, once." if tests >= MANY else ""
    return f"{tests} settings were tried on these {items:,} items; p-values are corrected for them.{warning}"


def still(
    body: Mapping[str, Any],  # Of a snapshot
) -> str:
    """The widget as plain HTML, for readers without a kernel."""
    escape = html.escape
    parts = [f"<p><b>{escape(body['label'])}</b>. {escape(body['golden'])}. Set: {escape(body['now']['title'])}. Baseline: {escape(body['base']['title'])}.</p>"]
    if body["query"]["text"]:
        source = f" ({escape(body['query']['item'])}, {escape(body['query']['split'])})" if body["query"]["item"] else ""
        parts.append(f"<p>Asked: {escape(body['query']['text'])}{source}</p>")
    if body["now"]["rows"]:
        rows = [[row["place"], row["move"], " > ".join(filter(None, [row["document"], row["heading"], row["page"]])), row["relevance"], "; ".join(f"{s['stage']} {s['text']}" for s in row["scores"])] for row in body["now"]["rows"]]
        parts.append(table_html(["", "moved", "passage", "relevant", "scores"], rows))
    elif body["now"]["says"]:
        parts.append(f"<p>{escape(body['now']['says'])}</p>")
    if gone := [row for row in body["base"]["rows"] if row["gone"]]:
        parts.append(table_html([], [[row["place"], f"{row['document']} > {row['heading']}", row["relevance"]] for row in gone], "Fell out:"))
    if found := body["measured"]:
        head = ["", *(f"{name} [95 % interval]" for name in found["measures"])]
        parts.append(table_html(head, [[row["name"], *(" ".join(filter(None, [f["value"], f["range"] and f"[{f['range']}]"])) for f in row["figures"])] for row in found["rows"]], "Over the golden set:"))
        parts.append(f"<p>{escape(found['sentence'])}</p>")
    if body["tried"]:
        parts.append(table_html(["tried", body["objective"], "against the baseline of that time"], [[row["name"], " ".join(filter(None, [row["value"], row["range"] and f"[{row['range']}]"])), row["outcome"]] for row in body["tried"]], body["looks"]))
    return "".join(parts)
