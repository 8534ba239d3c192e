"""Reads the slides of a presentation from its XML: titles, lists, tables, the numbers of charts, texts of pictures, notes.

kreuzberg reads slides too, but loses what a speaker wrote into the notes and the numbers behind charts. Every slide gets
a heading, so that the text of one without a title is not taken for a part of the slide before. Runs in the process of
_formats_child, after check_archive.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
Element = ElementTree.Element


def relations(archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    "By id: the kind of another part of the archive, and its name."
    name = posixpath.join(posixpath.dirname(part), "_rels", f"{posixpath.basename(part)}.rels")
    if name not in archive.namelist():
        return {}
    found = {}
    for row in ElementTree.fromstring(archive.read(name)):
        target = row.get("Target", "")
        inside = target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(part), target))
        if row.get("TargetMode") != "External" and inside in archive.namelist():
            found[row.get("Id", "")] = (row.get("Type", "").rpartition("/")[2], inside)
    return found


def read_slides(
    data: bytes,  # The file
) -> tuple[list[str], dict[str, str]]:  # The slides, and what the file says of itself
    "The slides of a presentation as Markdown, in the order they are shown; raises what zipfile and ElementTree raise."
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        main = next((name for kind, name in relations(archive, "").values() if kind == "officeDocument"), "ppt/presentation.xml")
        linked = relations(archive, main)
        ids = [row.get(f"{R}id", "") for row in ElementTree.fromstring(archive.read(main)).iter(f"{P}sldId")]
        slides = [slide(archive, linked[id][1], number) for number, id in enumerate((id for id in ids if id in linked), start=1)]
        return slides, said(archive)


def said(archive: zipfile.ZipFile) -> dict[str, str]:
    "Title, author and subject from the properties of a file."
    name = next((part for kind, part in relations(archive, "").values() if kind.endswith("core-properties")), "")
    tags = {"title": "title", "creator": "author", "subject": "subject", "keywords": "keywords", "language": "language"}
    found: list[Element] = list(ElementTree.fromstring(archive.read(name))) if name else []
    return {tags[key]: value for row in found if (key := row.tag.rpartition("}")[2]) in tags and (value := (row.text or "").strip())}


def slide(archive: zipfile.ZipFile, part: str, number: int) -> str:
    "One slide, its title first, its notes last."
    linked = relations(archive, part)
    tree = ElementTree.fromstring(archive.read(part)).find(f".//{P}spTree")
    shapes = list(shapes_of(tree)) if tree is not None else []
    title = next((shape for shape in shapes if kind_of(shape) in ("title", "ctrTitle") and words(shape)), None)
    parts = [f"# {words(title)}" if title is not None else f"# Slide {number}"]
    for shape in shapes:
        if shape is not title:
            parts += content(archive, shape, linked)
    for kind, name in linked.values():
        if kind == "notesSlide":
            body = [shape for shape in ElementTree.fromstring(archive.read(name)).iter(f"{P}sp") if kind_of(shape) == "body" and words(shape)]
            parts += [f"Notes: {words(shape)}" for shape in body]
    return "\n\n".join(parts)


def shapes_of(tree: Element) -> Iterator[Element]:
    "What stands on a slide, out of its groups."
    for child in tree:
        if child.tag == f"{P}grpSp":
            yield from shapes_of(child)
        elif child.tag.endswith("}AlternateContent"):
            yield from (shape for choice in list(child)[:1] for shape in shapes_of(choice))
        elif child.tag in (f"{P}sp", f"{P}graphicFrame", f"{P}pic"):
            yield child


def kind_of(shape: Element) -> str:
    "What a shape is a place for: title, body, …; a placeholder without a kind is a body."
    place = shape.find(f".//{P}nvPr/{P}ph")
    return "" if place is None else place.get("type", "body")


def line(paragraph: Element) -> str:
    "The text of a paragraph on one line."
    parts = [" " if part.tag == f"{A}br" else part.text or "" for part in paragraph.iter() if part.tag in (f"{A}t", f"{A}br")]
    return " ".join("".join(parts).split())


def words(shape: Element) -> str:
    "All text of a shape on one line."
    return " ".join(filter(None, map(line, shape.iter(f"{A}p"))))


def content(archive: zipfile.ZipFile, shape: Element, linked: dict[str, tuple[str, str]]) -> list[str]:
    "The paragraphs, the table, the chart or the text of a picture."
    if shape.tag == f"{P}pic":
        about = shape.find(f".//{P}cNvPr")
        return [text] if about is not None and (text := " ".join(about.get("descr", "").split())) else []
    if kind_of(shape) in ("sldNum", "dt", "ftr"):
        return []
    if (chart := shape.find(f".//{C}chart")) is not None:
        return numbers(ElementTree.fromstring(archive.read(linked[id][1]))) if (id := chart.get(f"{R}id", "")) in linked else []
    if (grid := shape.find(f".//{A}tbl")) is not None:
        return table([[words(cell) for cell in row.iter(f"{A}tc")] for row in grid.iter(f"{A}tr")])
    said = [(paragraph, text) for paragraph in shape.iter(f"{A}p") if (text := line(paragraph))]
    levels = [int(found.get("lvl", "0")) if (found := paragraph.find(f"{A}pPr")) is not None else 0 for paragraph, _ in said]
    if kind_of(shape) == "body" and len(said) > 1 or any(levels):
        return ["\n".join(f"{'  ' * level}- {text}" for level, (_, text) in zip(levels, said, strict=True))]
    return [re.sub(r"^(#{1,6}\s|```|~~~)", r"\\\1", text) for _, text in said]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    "Rows in Markdown; the first is the head."
    width = max(map(len, rows), default=0)
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in [*row, *[''] * (width - len(row))])} |" for row in rows]
    return ["\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])] if width else []


def numbers(chart: Element) -> list[str]:
    "The title of a chart and a table of its numbers, a column for each series."
    title = chart.find(f".//{C}chart/{C}title")
    series = list(chart.iter(f"{C}ser"))
    names = [" ".join(value.text or "" for value in one.iterfind(f"{C}tx//{C}v")) for one in series]
    points = [{place.get("idx", ""): place.findtext(f"{C}v") or "" for place in one.iterfind(f"{C}val//{C}pt")} for one in series]
    labels = {place.get("idx", ""): place.findtext(f"{C}v") or "" for one in series for place in one.iterfind(f"{C}cat//{C}pt")}
    places = list(dict.fromkeys([*labels, *(place for one in points for place in one)]))
    rows = [["", *names], *([labels.get(place, ""), *(one.get(place, "") for one in points)] for place in places)]
    return [*([words(title)] if title is not None and words(title) else []), *(table(rows) if places else [])]
