"""Reads web pages: trafilatura says which sentences are the article, the page itself says which are headings, lists and tables.

trafilatura knows well what a page is about, but loses what stands in the cells of its tables. So the page is rendered
here block by block, and its judgement decides which blocks stay. Runs in the process of _formats_child.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SKIPPED = {"script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object", "canvas", "video", "audio", "button", "select", "textarea", "input"}
AROUND = {"nav", "footer", "aside", "form", "menu", "dialog"}
NAMED_AROUND = re.compile(r"\b(?:nav(?:bar|igation|box)?|menu|side-?bar|footer|bread-?crumbs?|share|social|comments?|related|cookies?|banner|newsletter|toc|reflist)\b", re.I)
BLOCKS = set("address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol p pre section summary table tbody td tfoot th thead tr ul".split())  # fmt: skip


@dataclass(frozen=True)
class Block:
    "A heading, a paragraph, an item, a table or code."

    text: str  # As Markdown
    kind: str  # "heading", "text", "item", "table" or "code"
    linked: float  # Share of its letters that are links
    around: bool  # Stands in what pages put around their content


def visible(element: Any) -> bool:
    "Whether a reader sees an element."
    if not isinstance(element.tag, str) or element.tag in SKIPPED or element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return False
    return not re.search(r"display\s*:\s*none|visibility\s*:\s*hidden", element.get("style") or "", re.I)


def inline(element: Any, nested: bool = True) -> tuple[str, int]:
    "The text of an element and how many of its letters are links; without the lists in it when not `nested`."
    parts, linked = [element.text or ""], 0
    for child in element:
        if visible(child) and (nested or child.tag not in ("ul", "ol")):
            text, links = inline(child, nested)
            parts.append(" " if child.tag == "br" else f" {text} " if child.tag in BLOCKS else text)
            linked += len("".join(text.split())) if child.tag == "a" else links
        parts.append(child.tail or "")
    return "".join(parts), linked


def block(text: str, kind: str, linked: int, around: bool, mark: str = "") -> Iterator[Block]:
    "A block of a text, or none when it is empty."
    words = " ".join(text.split())
    if words:
        safe = mark + (words if mark else re.sub(r"^(#{1,6}\s|```|~~~)", r"\\\1", words))
        yield Block(safe, kind, linked / len(words.replace(" ", "")), around)


def blocks(element: Any, around: bool = False, depth: int = 0) -> Iterator[Block]:
    "What a reader sees in an element, in order."
    if not visible(element):
        return
    tag = element.tag
    named = f"{element.get('role') or ''} {element.get('id') or ''} {element.get('class') or ''}"
    around = around or tag in AROUND or tag not in ("body", "html", "main", "article") and bool(NAMED_AROUND.search(named))
    if re.fullmatch("h[1-6]", tag):
        text, linked = inline(element)
        yield from block(text, "heading", linked, around, "#" * int(tag[1]) + " ")
    elif tag == "pre":
        code = element.text_content().strip("\n")
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
        if code.strip():
            yield Block(f"{fence}\n{code}\n{fence}", "code", 0.0, around)
    elif tag == "table" and is_data(element):
        yield from table(element, around)
    elif tag == "li":
        text, linked = inline(element, nested=False)
        yield from block(text, "item", linked, around, "  " * max(depth - 1, 0) + "- ")
        for child in element.iterchildren("ul", "ol"):
            yield from blocks(child, around, depth)
    else:
        yield from flow(element, around, depth + (tag in ("ul", "ol")))


def flow(element: Any, around: bool, depth: int) -> Iterator[Block]:
    "Blocks inside an element; what stands between them is a paragraph."
    parts, linked = [element.text or ""], 0
    for child in element:
        holds = isinstance(child.tag, str) and (child.tag in BLOCKS or visible(child) and child.tag != "a" and any(inner.tag in BLOCKS for inner in child.iter()))
        if holds:
            yield from block("".join(parts), "text", linked, around)
            yield from blocks(child, around, depth)
            parts, linked = [], 0
        elif visible(child):
            text, links = inline(child)
            parts.append(" " if child.tag == "br" else text)
            linked += len("".join(text.split())) if child.tag == "a" else links
        parts.append(child.tail or "")
    yield from block("".join(parts), "text", linked, around)


def is_data(element: Any) -> bool:
    "Whether a table holds data: the others lay out a page."
    if element.xpath(".//table") or element.xpath(".//h1|.//h2|.//h3|.//pre"):
        return bool(element.xpath("./thead|./caption|./tr/th|./tbody/tr/th"))
    return len(element.xpath(".//tr")) > 1 or len(element.xpath(".//td|.//th")) > 1


def table(element: Any, around: bool) -> Iterator[Block]:
    "A table in Markdown; its first row is the head, spanned cells are empty."
    for caption in element.iterchildren("caption"):
        yield from block(inline(caption)[0], "text", 0, around)
    rows, linked = [], 0
    for row in element.xpath("./tr|./thead/tr|./tbody/tr|./tfoot/tr"):
        cells: list[str] = []
        for cell in row.iterchildren("td", "th"):
            text, links = inline(cell) if visible(cell) else ("", 0)
            span = cell.get("colspan") or "1"
            cells += [" ".join(text.split()).replace("|", r"\|")] + [""] * (min(int(span), 50) - 1 if span.isdecimal() else 0)
            linked += links
        if any(cells):
            rows.append(cells)
    if not rows:
        return
    width = max(map(len, rows))
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    letters = sum(len(cell.replace(" ", "")) for row in rows for cell in row)
    yield Block("\n".join([lines[0], "|" + " --- |" * width, *lines[1:]]), "table", linked / max(letters, 1), around)


def chosen(found: Sequence[Block], article: str) -> list[Block]:
    "The blocks that belong to an article: what trafilatura kept, and what stands between and is neither links nor furniture."
    kept = shingles(article)
    whole = {" ".join(words(line)) for line in article.split("\n")}

    def matches(item: Block) -> bool:
        said = words(item.text)
        runs = shingles(item.text)
        return sum(run in kept for run in runs) > 0.5 * len(runs) if len(said) > 3 else " ".join(said) in whole

    matched = [matches(item) and not (item.around and item.linked > 0.6) for item in found]
    if not any(matched):
        return []
    first, last = matched.index(True), len(matched) - 1 - matched[::-1].index(True)
    head = next((place for place in range(first, -1, -1) if found[place].kind == "heading"), first)
    first = head if found[head].text.startswith("# ") else first
    return [item for place, item in enumerate(found) if first <= place <= last and (matched[place] or not item.around and item.linked < (0.9 if item.kind == "table" else 0.6))]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    "Runs of three words."
    said = words(text)
    return {tuple(said[place : place + 3]) for place in range(max(len(said) - 2, 0))}


def joined(found: Sequence[Block]) -> str:
    "Blocks as one text: items of a list stand together."
    text = ""
    for before, item in zip([None, *found], found, strict=False):
        gap = "" if before is None else "\n" if before.kind == item.kind == "item" else "\n\n"
        text += gap + item.text
    return text


def read_page(
    page: str,  # HTML
) -> tuple[str, dict[str, Any], list[str]]:  # The text as Markdown, what the page says of itself, and notes
    "The main content of a web page, or all that a reader sees where none is found. Nothing in it is executed or fetched."
    import trafilatura

    tree = trafilatura.load_html(page)
    found = list(blocks(tree)) if tree is not None else []
    if not found:  # Nested deeper than the parser goes, or no page at all
        bare = " ".join(re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", page).split())
        return bare, {}, ["This page could not be taken apart: its text was kept without structure."] if bare else []
    said = trafilatura.extract_metadata(trafilatura.load_html(page))
    names = ("title", "description", "sitename")
    metadata = {name: value for name in names if (value := getattr(said, name, None))} if said else {}
    language = str(tree.get("lang") or "").strip() if tree is not None else ""
    metadata |= {"language": language.split("-")[0].lower()} if re.fullmatch(r"[A-Za-z]{2,3}(?:-\w+)*", language) else {}
    content = chosen(found, trafilatura.extract(page, include_comments=False, include_tables=True) or "")
    size, inner, whole = (sum(len(item.text) for item in some) for some in (content, [item for item in found if not item.around], found))
    if not size or size < 0.2 * inner or size < min(200, 0.5 * whole):
        return joined(found), metadata, ["No article was found in this page: all visible text was kept, menus included."]
    return joined(content), metadata, []
