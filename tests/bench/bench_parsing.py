"""Real files in difficult formats: words, their order, headings and table rows that survive, and what a file costs.

The peers are the parsers alone, in the same run: kreuzberg's Markdown, and pdfium's text. Word-F1 compares the words that
came out with those expected, as bags; order recall is the share of the expected runs of four words that came out. The
price of a process that may die is measured against the same parser called here. Needs ../shared/data/docs_mixed_formats.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import made_files as made

from llmops_nb.documents import headings_of, lines_of
from llmops_nb.formats import parse

PLACES = [parent / "shared" / "data" / "docs_mixed_formats" for parent in Path(__file__).resolve().parents]
DATA = next((place for place in PLACES if place.is_dir()), PLACES[3])
GOAL_WORDS, GOAL_ORDER = 0.99, 0.90  # Mean over the files with an expected text
OFFICE = "application/vnd.openxmlformats-officedocument."
KINDS = {"pdf": "application/pdf", "html": "text/html", "docx": OFFICE + "wordprocessingml.document", "pptx": OFFICE + "presentationml.presentation", "xlsx": OFFICE + "spreadsheetml.sheet"}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def word_f1(text: str, expected: str) -> float:
    found, wanted = Counter(words(text)), Counter(words(expected))
    return 2 * sum((found & wanted).values()) / (sum(found.values()) + sum(wanted.values()))


def order_recall(text: str, expected: str) -> float:
    def runs(said: list[str]) -> Counter[tuple[str, ...]]:
        return Counter(tuple(said[place : place + 4]) for place in range(len(said) - 3))

    found, wanted = runs(words(text)), runs(words(expected))
    return sum((found & wanted).values()) / max(sum(wanted.values()), 1)


def structure(text: str) -> tuple[int, int]:
    "Headings that the chunker sees, and rows of tables without their rules."
    rows = [line for line in text.splitlines() if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line)]
    return len(headings_of(lines_of(text))), len(rows)


def ours(data: bytes, name: str) -> str:
    return parse(data, name).text


def kreuzberg_alone(data: bytes, name: str) -> str:
    import kreuzberg

    config = kreuzberg.ExtractionConfig(use_cache=False, output_format="markdown")
    return str(kreuzberg.extract_bytes_sync(data, KINDS[name.rpartition(".")[2]], config).content)


def pdfium_alone(data: bytes, name: str) -> str:
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    return "\n\n".join(document[number].get_textpage().get_text_range() for number in range(len(document)))


def timed(function: Callable[[bytes, str], str], data: bytes, name: str) -> tuple[str, float]:
    "What comes out, and the median of three times after one to warm up."
    text, seconds = function(data, name), []
    for _ in range(3):
        begun = time.perf_counter()
        function(data, name)
        seconds.append(time.perf_counter() - begun)
    return text, median(seconds)


def real_files(rows: list[tuple[str, float, str]]) -> None:
    scores: dict[str, list[tuple[float, float]]] = {}
    times: dict[str, float] = {}
    for path in sorted((DATA / "files").iterdir()):
        expected = DATA / "expected" / f"expected_{path.stem}.md"
        parsers = {"llmops_nb": ours, **({"kreuzberg alone": kreuzberg_alone} if path.suffix[1:] in KINDS else {}), **({"pdfium alone": pdfium_alone} if path.suffix == ".pdf" else {})}
        for who, function in parsers.items():
            text, seconds = timed(function, path.read_bytes(), path.name)
            headings, table = structure(text)
            remark = f"{headings:3d} headings, {table:3d} rows"
            times[f"{who} {path.suffix}"] = times.get(f"{who} {path.suffix}", 0.0) + seconds
            if expected.exists():
                wanted = expected.read_text("utf-8")
                scores.setdefault(who, []).append((word_f1(text, wanted), order_recall(text, wanted)))
                remark += f" (of {structure(wanted)[1]}), word-F1 {scores[who][-1][0]:.3f}, order {scores[who][-1][1]:.3f}"
            rows.append((f"{path.name[:40]}: {who}, s", seconds, remark))
    for who, found in scores.items():
        goal = f" (goal ≥ {GOAL_WORDS} and {GOAL_ORDER})" if who == "llmops_nb" else ""
        rows.append((f"PDF with an expected text, {who}: mean word-F1", mean(f for f, _ in found), f"order recall {mean(o for _, o in found):.3f}{goal}"))
    for suffix in (".pdf", ".html", ".docx", ".xlsx"):
        rows.append((f"all {suffix} files, seconds", times[f"llmops_nb {suffix}"], f"{times[f'llmops_nb {suffix}'] / times[f'kreuzberg alone {suffix}']:.1f} × kreuzberg alone"))


def many_files(rows: list[tuple[str, float, str]], count: int = 500) -> None:
    "What the process of its own costs for small files, where it costs most."
    for name, data in (("small.docx", made.docx()), ("small.pdf", made.REPORT), ("small.pptx", made.pptx())):
        parse(data, name)
        begun = time.perf_counter()
        for _ in range(count):
            parse(data, name)
        here = time.perf_counter() - begun
        alone = pdfium_alone if name.endswith("pdf") else kreuzberg_alone
        begun = time.perf_counter()
        for _ in range(count):
            alone(data, name)
        peer = time.perf_counter() - begun
        rows.append((f"{name}, read {count} times, files a second", count / here, f"{count / peer:,.0f} by {alone.__name__.replace('_', ' ')} in this process"))


def main() -> list[tuple[str, float, str]]:
    rows: list[tuple[str, float, str]] = []
    if DATA.is_dir():
        real_files(rows)
    else:
        rows.append(("real files: skipped, there is no ../shared/data/docs_mixed_formats", 0.0, ""))
    many_files(rows)
    return rows


if __name__ == "__main__":
    for name, value, remark in main():
        print(f"{name:<76} {value:9.3f}  {remark}")
