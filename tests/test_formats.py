"""Files of many formats: what they are, what is in them, and what becomes of those that would do harm."""

from __future__ import annotations

import concurrent.futures
import http.server
import io
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import made_files as made
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmops_nb import _formats_readers
from llmops_nb.chunks import chunk_document
from llmops_nb.core import DataError, Document
from llmops_nb.documents import headings_of, lines_of
from llmops_nb.formats import ParseLimits, Parsed, decode, format_named, format_of, parse

FILES = {
    "a.docx": made.docx(),
    "a.pptx": made.pptx(),
    "a.xlsx": made.xlsx(),
    "a.pdf": made.REPORT,
    "a.html": made.PAGE.encode(),
    "a.ipynb": made.NOTEBOOK.encode(),
    "a.md": b"# Leave\n\n## How many days\n\n| Age | Days |\n| --- | --- |\n| under 50 | 20 |\n| 50 or more | 25 |\n",
    "a.txt": "Leave\n=====\n\nTwenty days, Grüße\n".encode(),
    "a.py": b"# Leave\nclass Leave:\n    def days(self):\n        return 20\n",
}


def titles(parsed: Parsed) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in headings_of(lines_of(parsed.text))]


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_known_by_its_content_and_keeps_its_offsets(name: str) -> None:
    found = parse(FILES[name], name)
    assert found.format == format_named(name) == format_of(FILES[name], name)
    assert "\r" not in found.text and found.text.strip()
    chunks = chunk_document(Document(name, found.text), size=30)
    assert chunks and all(found.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert list(found.pages) == sorted(set(found.pages)) and all(page <= len(found.text) for page in found.pages)


@pytest.mark.parametrize("name", ["a.docx", "a.pdf", "a.html", "a.md"])
def test_headings_and_tables_survive(name: str) -> None:
    found = parse(FILES[name], name)
    assert [title for _, title in titles(found)] == ["Leave", "How many days"] and [level for level, _ in titles(found)] == [1, 2]
    assert found.title == "Leave"
    rows = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in found.text.splitlines() if line.startswith("|") and "---" not in line]
    assert rows == [["Age", "Days"], ["under 50", "20"], ["50 or more", "25"]]
    last = chunk_document(Document(name, found.text), size=40)[-1]
    assert "How many days" in last.heading


def test_pages_and_slides_keep_their_places() -> None:
    report, slides = parse(made.REPORT, "report.pdf"), parse(made.pptx(), "slides.pptx")
    assert len(report.pages) == 2 and report.text[report.pages[1] :].startswith("## How many days")
    assert report.text[: report.pages[1]].endswith("more than a week.\n\n")
    assert len(slides.pages) == 2 and "Travel" in slides.text[slides.pages[1] :] and "Travel" not in slides.text[: slides.pages[1]]


def test_slides_keep_notes_charts_tables_and_lists() -> None:
    found = parse(made.rich_pptx(), "rich.pptx").text
    assert found.startswith("# Plan\n\n- First\n  - Detail\n- Second\n\n| Age | Days |\n| --- | --- |\n| 50 \\| more | 25 |")
    assert "Visitors\n\n|  | 2024 | 2025 |\n| --- | --- | --- |\n| May | 3 | 5 |\n| June | 4 |  |" in found
    assert "A red bicycle" in found and "Notes: Say it slowly" in found and "# Slide 2\n\nNo title here" in found


def test_a_paragraph_of_a_pdf_stays_one_and_two_columns_are_no_table() -> None:
    left = [(72, 700 - 12 * n, 10, f"The left column says number {n} here,") for n in range(8)]
    right = [(320, 700 - 12 * n, 10, f"and the right one {n} there.") for n in range(8)]
    found = parse(made.pdf([left + right]), "columns.pdf")
    assert "|" not in found.text and found.text.index("number 7") < found.text.index("right one 0")
    assert "\n\n" not in found.text[: found.text.index("number 7")]


def test_bold_lines_alone_are_headings_and_hashes_are_not() -> None:
    found = parse(made.pdf([[(72, 700, 10, "# 12 is a number of an order"), (72, 688, 10, "not a heading")]]), "order.pdf")
    assert titles(found) == [] and "12 is a number" in found.text


def test_sheets_are_headings_and_cells_are_escaped() -> None:
    found = parse(made.xlsx(), "leave.xlsx")
    assert [title for _, title in titles(found)] == ["Leave", "Travel"] and found.title == "leave"
    assert "2024-01-31" in found.text and "49.5" in found.text
    assert r"50 \| more" in found.text


def test_a_cell_far_away_brings_no_empty_rows() -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active["A1"], book.active["C4000"], book.active["XFD1048576"] = "near", "middle", "far"
    book.save(buffer := io.BytesIO())
    found = parse(buffer.getvalue(), "far.xlsx", ParseLimits(seconds=30))
    assert "near" in found.text and "middle" in found.text and found.text.count("\n") < 20


def test_a_page_nested_deeper_than_any_parser_goes_keeps_its_text() -> None:
    found = parse(b"<html><body>" + b"<div>" * 50_000 + b"hello" + b"</div>" * 50_000, "deep.html")
    assert found.text == "hello" and "without structure" in found.notes[0]


def test_a_page_loses_its_furniture_and_keeps_lists_and_code() -> None:
    found = parse(made.PAGE.encode(), "leave.html")
    assert "Injected" not in found.text and "Shop" not in found.text and "cookies" not in found.text and "color" not in found.text
    assert "- In summer\n  - two weeks\n- In winter" in found.text and "```\nleave --days 20\n```" in found.text
    assert found.metadata["language"] == "en" and found.notes == ()


def test_a_page_without_an_article_is_kept_whole_and_says_so() -> None:
    found = parse(b"<html><body><nav>Home</nav><div class=menu><a href=/a>Apples</a> <a href=/b>Pears</a></div><footer>Imprint</footer></body></html>", "index.html")
    assert all(word in found.text for word in ("Home", "Apples", "Pears", "Imprint"))
    assert "all visible text" in found.notes[0]


def test_code_is_cut_at_its_definitions() -> None:
    code = '"""Doc."""\n# not a heading\nimport re\n\n\n@cache\ndef one():\n    return """```"""\n\n\nclass Two:\n    x = 1\n\n    async def three(self):\n        # neither\n        pass\n'
    found = parse(code.encode(), "src/robot.py")
    assert titles(found) == [(1, "src/robot.py"), (2, "def one"), (2, "class Two"), (3, "def Two.three")]
    assert "@cache\ndef one" in found.text and found.text.count("````") == 2
    assert [title for _, title in titles(parse(b"package a\n\nfunc (s *T) Go(x int) {\n}\n\ntype T struct {\n}\n", "a.go"))] == ["a.go", "func", "type T struct"]


def test_a_broken_program_is_still_text() -> None:
    assert "def broken(" in parse(b"def broken(:\n  pass\n", "a.py").text


def test_a_notebook_keeps_cells_and_short_outputs_but_no_pictures() -> None:
    found = parse(made.NOTEBOOK.encode(), "budget.ipynb")
    assert titles(found) == [(1, "Budget")] and "```text\n2\n```" in found.text and "iVBOR" not in found.text


# Text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"])
def test_encodings_are_found(encoding: str) -> None:
    text = "Größe und Gewicht müssen für die Prüfung genau angegeben werden; das fällt nicht jedem leicht.\r\nÜber Änderungen später mehr.\r\n"
    found, said, guessed = decode(text.encode(encoding), "a.txt")
    assert found == text.replace("\r\n", "\n")
    assert guessed == (encoding in ("cp1252", "latin-1", "utf-16-le", "utf-16-be"))
    notes = parse(text.encode(encoding), "a.txt").notes
    assert bool(notes) == guessed and (not notes or said in notes[0])


@given(st.text(max_size=200), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_marked_text_and_utf_8_come_back_as_they_were(text: str, encoding: str) -> None:
    plain = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t") or "x"
    if encoding == "utf-8" and plain.startswith("\ufeff"):
        return
    found, _, guessed = decode(plain.encode(encoding), "a.txt")
    assert (found, guessed) == (plain, False)


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("Grüße", "cp1252"), ("Der Löwe ist müde.", "cp1252"), ("naïve café – “quote” €5", "cp1252"), ("Año nuevo, niño pequeño", "latin-1"), ("L’été où François a mangé", "cp1252"), ("Rødgrød med fløde på", "cp1252"),
        ("Zażółć gęślą jaźń, proszę pana bardzo", "cp1250"), ("Příliš žluťoučký kůň úpěl ďábelské ódy", "cp1250"), ("Привет, как дела? Это тестовый текст.", "cp1251"), ("こんにちは世界、これはテストです。", "shift_jis"), ("你好，世界，这是一个测试。", "gb18030"),
    ],
)  # fmt: skip
def test_short_texts_in_old_encodings_are_read(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding), "a.txt")[0] == text


def test_a_few_damaged_bytes_do_not_spoil_a_text() -> None:
    found = parse("Grüße und schöne Tage für alle Hörer. ".encode() * 20 + b"\xff end", "a.txt")
    assert found.text.startswith("Grüße und schöne") and found.text.endswith("\ufffd end") and "damage" in found.notes[0]


@pytest.mark.parametrize("text", ["%PDF-1.7 is how a file begins", "x = b'%PDF-'\n# a PDF", "MZ is a magic", "BZh too", "GIF89a", "<p>no page, but Markdown</p>"])
def test_text_about_formats_is_text(text: str) -> None:
    name = "a.md"
    assert format_of((" " * (text[0] == "%") + "About: " * (text[0] == "%") + text).encode(), name) == "markdown"


# Refusals


def encrypted_pdf() -> bytes:
    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(made.REPORT))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(buffer := io.BytesIO())
    return buffer.getvalue()


def encrypted_zip() -> bytes:
    data = bytearray(made.docx())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 4)
    return bytes(data)


def lying_zip() -> bytes:
    "An archive whose largest part declares to be small."
    data = bytearray(made.office("word/document.xml", "wordprocessingml.document", {"word/document.xml": b" " * 30_000_000}))
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.find(mark)
        while at >= 0:
            if struct.unpack_from("<I", data, at + place)[0] == 30_000_000:
                struct.pack_into("<I", data, at + place, 1000)
            at = data.find(mark, at + 4)
    return bytes(data)


LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha">' + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)) + '<!ENTITY ask "&j;">]>'
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600

REFUSED = {
    "empty": ("a.md", b"", "0 bytes"),
    "blank": ("a.md", b" \n\n ", "no text"),
    "encrypted pdf": ("a.pdf", encrypted_pdf(), "password"),
    "encrypted zip": ("a.docx", encrypted_zip(), "encrypted"),
    "encrypted office": ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted Office"),
    "old office": ("a.doc", OLE, "Office 2003"),
    "cut pdf": ("a.pdf", made.REPORT[:200], "damaged or cut off"),
    "cut docx": ("a.docx", made.docx()[:-40], "cut off"),
    "cut xlsx": ("a.xlsx", made.xlsx()[:2000], "cut off"),
    "bomb": ("a.docx", made.office("word/document.xml", "wordprocessingml.document", {"word/document.xml": b" " * 50_000_000}), "unpacks to"),
    "lying bomb": ("a.docx", lying_zip(), "damaged"),
    "laughs": ("a.docx", made.docx(LAUGHS), "entities"),
    "laughs in utf-16": ("a.docx", made.office("word/document.xml", "wordprocessingml.document", {"word/document.xml": LAUGHS.encode("utf-16")}), "entities"),
    "picture": ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "PNG picture"),
    "binary": ("a.txt", random.Random(1).randbytes(5000), "text"),
    "zip": ("a.zip", made.zipped({"a.txt": "hello"}), "zip archive"),
    "mis-coded": ("a.txt", "Grüße".encode("utf-16") + b"\x00\xd8", "utf-16"),
    "no notebook": ("a.ipynb", b'{"cells": [1]}', "notebook"),
    "not even JSON": ("a.ipynb", b"{", "notebook"),
    "deep JSON": ("a.ipynb", b'{"cells": ' + b"[" * 100_000, "notebook"),
    "scan": ("a.pdf", made.pdf_of([b"0 0 100 100 re f"]), "OCR"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_says_why(case: str) -> None:
    name, data, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason) as caught:
        parse(data, name)
    assert str(caught.value).startswith(name) and len(str(caught.value)) < 400


def test_sizes_are_looked_at_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="limit is 1,000"):
        parse(b"x" * 1001, "a.txt", ParseLimits(bytes=1000))
    began = time.perf_counter()
    with pytest.raises(DataError, match="500,000,000 bytes; the limit"):
        parse(bytes(500_000_000), "a.txt")
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("name, data, format", [("a.pdf", made.docx(), "docx"), ("a.docx", made.REPORT, "pdf"), ("a.txt", made.PAGE.encode(), "html"), ("a.xlsx", b"only text", "text"), ("a.pptx", made.xlsx(), "xlsx")])
def test_a_misnamed_file_is_read_as_what_it_is(name: str, data: bytes, format: str) -> None:
    found = parse(data, name)
    assert found.format == format and "The name says" in found.notes[0] and format in found.notes[0]


def test_a_cut_pdf_that_can_be_mended_has_a_note() -> None:
    assert "cut off" in " ".join(parse(made.REPORT[: made.REPORT.rindex(b"startxref")], "a.pdf").notes)


# Readers that die


def child() -> int:
    parse(made.docx(), "a.docx")
    return _formats_readers.idle[-1].process.pid


def test_one_process_reads_many_files() -> None:
    assert len({child() for _ in range(20)}) == 1


def test_a_process_that_died_is_replaced() -> None:
    os.kill(first := child(), signal.SIGKILL)
    assert child() != first


def test_a_crash_costs_one_file() -> None:
    "pdfium is stopped in the middle of a long file, as a fault of its own would."
    long = made.pdf([[(72, 700 - n, 1, "word " * 40) for n in range(600)] for _ in range(40)])
    before = child()
    killer = threading.Timer(0.3, os.kill, (before, signal.SIGSEGV))
    killer.start()
    with pytest.raises(DataError, match="crashes its parser"):
        parse(long, "long.pdf")
    killer.join()
    assert parse(made.docx(), "a.docx").title == "Leave"


def test_time_is_limited() -> None:
    long = made.pdf([[(72, 700 - n, 1, "word " * 40) for n in range(600)] for _ in range(40)])
    began = time.perf_counter()
    with pytest.raises(DataError, match="longer than 0.3 s"):
        parse(long, "long.pdf", ParseLimits(seconds=0.3))
    assert time.perf_counter() - began < 3
    assert parse(made.docx(), "a.docx").title == "Leave"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_is_limited() -> None:
    packer, bomb = zlib.compressobj(9), b""
    for _ in range(250):
        bomb += packer.compress(b" " * 1_000_000)
    bomb += packer.flush()
    data = made.pdf_of([b"x"]).replace(zlib.compress(b"x", 9), bomb).replace(b"/Length 9 ", f"/Length {len(bomb)} ".encode())
    with pytest.raises(DataError, match="memory|OCR|damaged"):
        parse(data, "bomb.pdf", ParseLimits(memory=100_000_000))
    with open(f"/proc/{child()}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 600_000


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_processes_have_readers_of_their_own(method: str) -> None:
    own = child()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        others = [future.result(60) for future in [pool.submit(child) for _ in range(4)]]
    assert own not in others and child() == own


def test_threads_share_a_few_readers() -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda n: parse(made.pptx([("Leave", f"day {n}")]), "a.pptx").text.count(f"day {n}"), range(30))) == {1}
    assert len(_formats_readers.idle) <= (os.cpu_count() or 1)


def test_readers_end_with_their_parent() -> None:
    code = "import sys, os, signal\nsys.path.insert(0, 'tests')\nimport made_files as made\nfrom llmops_nb import formats, _formats_readers\nformats.parse(made.docx(), 'a.docx')\nprint(_formats_readers.idle[-1].process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent, env={**os.environ, "PYTHONPATH": "."}).stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z (" in Path(f"/proc/{pid}/status").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the reader outlived its parent")


def test_a_reader_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    for reader in _formats_readers.idle:
        os.kill(reader.process.pid, signal.SIGKILL)
        reader.process.wait()
    environment = Path(f"/proc/{child()}/environ")
    assert not environment.exists() or b"sk-very-secret" not in environment.read_bytes()


# No file fetches anything


def test_nothing_is_fetched(tmp_path: Path) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        page = made.PAGE.replace("<head>", f'<head><base href="{url}/"><link rel="stylesheet" href="{url}/s.css"><meta http-equiv="refresh" content="0; url={url}/r">').replace(
            "<h1>", f'<img src="{url}/i.png"><script src="{url}/s.js"></script><iframe src="{url}/f"></iframe><h1>'
        )
        assert "Leave" in parse(page.encode(), "a.html").text
        xhtml = f'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY x SYSTEM "{url}/x"><!ENTITY f SYSTEM "file:///etc/passwd">]><html><body><h1>Hi</h1><p>&x; &f; and text</p></body></html>'
        assert "root:" not in parse(xhtml.encode(), "a.xhtml").text
        links = made.relations(("attachedTemplate", f"{url}/t.dotm", "External"), ("image", f"{url}/i.png", "External"))
        assert "Leave" in parse(made.docx(links=links), "a.docx").text
        report = made.pdf_of([b"BT /F1 12 Tf 72 700 Td (Leave) Tj ET"]).replace(b"/Type /Catalog", f"/Type /Catalog /OpenAction << /S /URI /URI ({url}/p) >>".encode())
        assert "Leave" in parse(report, "a.pdf").text
        server.shutdown()
    assert asked == []


# Nothing that is broken at random brings anything down


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_broken_files_are_read_or_refused(name: str, data: st.DataObject) -> None:
    broken = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(0, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken = broken[: data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))]
    try:
        found = parse(bytes(broken), name, ParseLimits(seconds=20))
        assert found.text.strip() and found.title
    except DataError as error:
        assert str(error).startswith(name)


@pytest.mark.parametrize("name", ["scan.pdf", "letter.docx", "table.xlsx"])
def test_a_binary_file_that_is_not_what_its_name_says_is_refused_by_that_name(name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is named like a {name[-4:].strip('.')} file, but is none, nor text"):
        parse(bytes(range(256)) * 40, name)
    assert parse(b"plain words", name).text == "plain words"
