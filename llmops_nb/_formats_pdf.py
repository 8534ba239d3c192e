"""Reads the pages of a PDF with pdfium: lines in the order of the file, headings by their size, tables by their gaps.

A PDF knows glyphs and places, no headings and no tables. What is set larger than the rest, or bold and alone, is a
heading here; neighbouring lines whose words leave the same gaps are a table. Runs in the process of _formats_child.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

PLACEHOLDER = re.compile(r"\W*(?:anonymous|untitled|unspecified|unknown|none|.*\.(?:exe|docx?|indd|dvi|tex|tmp))?\W*$", re.I)  # What programs write
Cell = tuple[str, float, float]  # Text, left, right
Letter = tuple[int, str, float, float, float, float]  # Its number on the page, itself, left, right, top, bottom


@dataclass(frozen=True)
class Row:
    "A line of a page."

    cells: tuple[Cell, ...]  # Words that stand together, left to right
    top: float  # In points from the bottom of the page
    bottom: float
    size: float  # Of the type, in points
    bold: bool

    @property
    def text(self) -> str:
        return " ".join(cell[0] for cell in self.cells)


def read_pdf(
    data: bytes,  # The file
) -> tuple[list[str], dict[str, Any]]:  # The text of each page, and what the file says of itself
    "The pages of a PDF as Markdown; raises `ValueError` with the reason."
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise ValueError("is encrypted with a password. Save a copy without one.") from None
        raise ValueError("is damaged or cut off: no PDF reader finds its pages. Get a whole copy.") from None
    pages = [rows_of(pypdfium2.raw, document[number]) for number in range(len(document))]
    body = Counter(round(row.size, 1) for rows in pages for row in rows for _ in row.text).most_common(1)
    sizes = sorted({round(row.size) for rows in pages for row in rows if body and row.size > 1.15 * body[0][0]}, reverse=True)
    known = ("Title", "Author", "Subject", "Keywords")
    said = {key.lower(): value for key, value in document.get_metadata_dict(skip_empty=True).items() if key in known and not PLACEHOLDER.match(value)}
    texts = [page_text(rows, body[0][0] if body else 0.0, sizes) for rows in pages]
    heading = re.search(r"^#{1,3} (.+)", texts[0] if texts else "", re.M)
    return texts, {**said, **({"title": heading[1]} if heading else {})}


def rows_of(raw: Any, page: Any) -> list[Row]:
    "The lines of a page with what stands in them."
    found: list[Row] = []
    text = page.get_textpage()
    line: list[Letter] = []
    box = raw.FS_RECTF()
    for index in range(text.count_chars()):
        code = raw.FPDFText_GetUnicode(text, index)
        letter = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
        if letter == "\n":
            found += row_of(raw, text, line)
            line = []
        elif letter in "\x02\ufffe":
            line.append((index, "\u00ad", 0.0, 0.0, 0.0, 0.0))
        elif letter.isspace():
            line.append((index, " ", 0.0, 0.0, 0.0, 0.0))
        elif letter.isprintable():
            raw.FPDFText_GetLooseCharBox(text, index, ctypes.byref(box))
            line.append((index, letter, box.left, box.right, box.top, box.bottom))
    return found + row_of(raw, text, line)


def row_of(raw: Any, text: Any, line: Sequence[Letter]) -> list[Row]:
    "A line from its letters: a gap wider than most letters begins a new cell; a list of none when there are no letters."
    letters = [letter for letter in line if letter[1] not in " \u00ad"]
    if not letters:
        return []
    height = median(letter[4] - letter[5] for letter in letters)
    cells: list[list[Any]] = []
    space = False
    for _, letter, left, right, _, _ in line:
        if letter == " ":
            space = True
        elif letter == "\u00ad":
            if cells:
                cells[-1][0] += letter
        elif not cells or left - cells[-1][2] > 0.8 * height or left < cells[-1][1] - height:
            cells.append([letter, left, right])
            space = False
        else:
            cells[-1][0] += " " * space + letter
            cells[-1][2] = max(right, cells[-1][2])
            space = False
    sample = [letters[0][0], letters[len(letters) // 2][0], letters[-1][0]]
    size = median(raw.FPDFText_GetFontSize(text, index) * scale(raw, text, index) for index in sample)
    bold = all(is_bold(raw, text, index) for index in sample)
    top, bottom = median(letter[4] for letter in letters), median(letter[5] for letter in letters)
    return [Row(tuple((cell[0], cell[1], cell[2]) for cell in cells), top, bottom, size, bold)]


def scale(raw: Any, text: Any, index: int) -> float:
    "How much larger a letter is drawn than its font size says."
    matrix = raw.FS_MATRIX()
    return (matrix.c**2 + matrix.d**2) ** 0.5 if raw.FPDFText_GetMatrix(text, index, ctypes.byref(matrix)) else 1.0


def is_bold(raw: Any, text: Any, index: int) -> bool:
    "Whether a letter is set bold, by the weight or the name of its font."
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    raw.FPDFText_GetFontInfo(text, index, name, 128, ctypes.byref(flags))
    return raw.FPDFText_GetFontWeight(text, index) >= 600 or re.search(rb"bold|black|heavy", name.value, re.I) is not None


def page_text(rows: Sequence[Row], body: float, sizes: Sequence[int]) -> str:
    "A page as Markdown."
    parts: list[str] = []
    place, heading = 0, 0
    steps = [above.top - below.top for above, below in pairwise(rows) if above.top > below.top]
    leading = median(steps) if steps else 0.0
    while place < len(rows):
        row, before = rows[place], rows[place - 1] if place else None
        columns, last = table_at(rows, place)
        apart = before is None or before.top - row.top > 1.35 * leading or heading > 0
        if columns:
            parts += ["", *table(rows[place:last], columns), ""]
            place, heading = last, 0
            continue
        level = level_of(rows, place, body, sizes, apart)
        if level and level == heading and before is not None and 0 <= before.bottom - row.top < row.top - row.bottom:
            parts[-1] += f" {row.text}"  # A title on two lines
        elif level:
            parts += ["", "#" * level + f" {row.text}"]
        elif not re.fullmatch(r"[\W_]{3,}", row.text):
            parts += ["", plain(row.text)] if apart else [plain(row.text)]
        place, heading = place + 1, level
    text = re.sub("\u00ad\n*", "", "\n".join(parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def plain(text: str) -> str:
    "A line that Markdown would not take for a heading or a fence."
    return re.sub(r"^(#{1,6}\s|```|~~~)", r"\\\1", text)


def level_of(rows: Sequence[Row], place: int, body: float, sizes: Sequence[int], apart: bool) -> int:
    "The level of a heading; 0 for text."
    row, after = rows[place], rows[place + 1] if place + 1 < len(rows) else None
    if len(row.text) > 150 or not re.search(r"[^\W\d_]{2}", row.text) or len(row.cells) > 2:
        return 0
    if row.size > 1.15 * body:
        return 1 + min(sizes.index(round(row.size)) if round(row.size) in sizes else len(sizes), 4)
    closed = after is None or not after.bold or row.top - after.top > 1.35 * (row.top - row.bottom)
    short = len(row.text) <= 80 and len(row.cells) == 1 and row.text[-1] not in ".,;"
    return min(len(sizes), 4) + 1 if row.bold and row.size > 0.95 * body and short and apart and closed else 0


def table_at(rows: Sequence[Row], place: int) -> tuple[list[tuple[float, float]], int]:
    "The columns of the table that begins at a line and one past its last line; no columns when none does."
    last = place
    while last < len(rows) and len(rows[last].cells) > 1 and (last == place or rows[last].top <= rows[last - 1].top):
        last += 1
    while last - place >= 2:
        columns = columns_of(rows[place:last])
        widest = max(len(row.cells) for row in rows[place:last])
        if len(columns) >= max(2, widest - 1):
            return columns, last
        last -= 1
    return [], place


def columns_of(rows: Sequence[Row]) -> list[tuple[float, float]]:
    "Where the columns stand: what overlaps in any two lines is one."
    columns: list[tuple[float, float]] = []
    for left, right in sorted((cell[1], cell[2]) for row in rows for cell in row.cells):
        if columns and left < columns[-1][1]:
            columns[-1] = (columns[-1][0], max(right, columns[-1][1]))
        else:
            columns.append((left, right))
    return columns


def table(rows: Sequence[Row], columns: Sequence[tuple[float, float]]) -> list[str]:
    "Lines as a Markdown table; the first is its head."
    lines = []
    for row in rows:
        cells = [""] * len(columns)
        for text, left, _ in row.cells:
            column = next(number for number, (begin, end) in enumerate(columns) if begin <= left <= end)
            cells[column] = f"{cells[column]} {text}".strip().replace("|", r"\|")
        lines.append(f"| {' | '.join(cells)} |")
    return [lines[0], "|" + " --- |" * len(columns), *lines[1:]]
