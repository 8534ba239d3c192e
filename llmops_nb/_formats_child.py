"""A process that reads files of strangers for as long as its parent lives, one after the other, within limits.

Requests come on standard input and answers go to standard output, each as a length, a line of JSON, a length, bytes. It
ends when its input does, or when a file takes too long; it holds no secrets, opens no connection and starts no program.
It is started by llmops_nb.formats as a file. What it must not trust: every byte of every file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "webbrowser.", "urllib.", "http.client.")
OFFICE = {"docx": "wordprocessingml.document", "pptx": "presentationml.presentation", "xlsx": "spreadsheetml.sheet"}


class Refused(Exception):
    "Why a file cannot be read, as the end of a sentence that begins with its name."


def receive(
    stream: BinaryIO,  # Where a message comes from
) -> tuple[dict[str, Any], bytes]:
    "One message; raises `EOFError` when there are no more."
    parts = []
    for _ in range(2):
        head = stream.read(8)
        if len(head) < 8:
            raise EOFError
        (length,) = struct.unpack(">Q", head)
        parts.append(stream.read(length))
        if len(parts[-1]) < length:
            raise EOFError
    return json.loads(parts[0]), parts[1]


def send(
    stream: BinaryIO,  # Where a message goes
    header: dict[str, Any],  # What JSON can say
    data: bytes = b"",  # What follows it
) -> None:
    "Write one message."
    line = json.dumps(header).encode()
    stream.write(struct.pack(">Q", len(line)) + line + struct.pack(">Q", len(data)))
    stream.write(data)
    stream.flush()


def check_archive(
    data: bytes,  # An Office file, which is a zip archive of XML
    unpacked: int,  # Bytes it may hold
    ratio: float,  # Of bytes unpacked to bytes packed
) -> None:
    "Raise `Refused` for an archive that is encrypted, damaged or a bomb, before anything parses it. What it declares is checked, then what it holds."
    import zipfile
    import zlib

    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > 20_000:
                raise Refused(f"holds {len(entries):,} packed files, which no document does.")
            if any(entry.flag_bits & 1 for entry in entries):
                raise Refused("is encrypted. Save a copy without a password.")
            fits(sum(entry.file_size for entry in entries), len(data), unpacked, ratio)
            for entry in entries:
                markup = entry.filename.lower().endswith((".xml", ".rels", ".vml"))
                with archive.open(entry) as packed:
                    begin = b""
                    while piece := packed.read(1 << 16):
                        total += len(piece)
                        fits(total, len(data), unpacked, ratio)
                        if markup and re.search(rb"<!(?:DOCTYPE|ENTITY)", (begin + piece).replace(b"\0", b""), re.I):
                            raise Refused("declares XML entities, which Office files never do and attacks do. It is not read.")
                        begin = piece[-32:]
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, OSError, ValueError, IndexError) as error:
        raise Refused(f"is damaged or cut off: {error}. Get a whole copy.") from None


def fits(total: int, packed: int, unpacked: int, ratio: float) -> None:
    if total > unpacked or total > 10_000_000 and total > ratio * packed:
        raise Refused(f"unpacks to {total:,} bytes or more from {packed:,}. The limits are {unpacked:,} bytes and {ratio:g} times; raise `unpacked` or `ratio` if you trust it.")


def unescaped(text: str) -> str:
    "Markdown without backslashes that only a renderer needs; those that keep a line from being a heading or a cell from ending stay."
    return re.sub(r"(?<=[^\n\\])\\([!-/:-@\[-`{}~])", r"\1", text)


def read_office(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    "Word and Excel, through kreuzberg; PowerPoint's slides by themselves."
    check_archive(data, request["unpacked"], request["ratio"])
    if request["format"] == "pptx":
        from llmops_nb._formats_slides import read_slides

        slides, said = read_slides(data)
        return {"parts": slides, "paged": True, "metadata": said, "notes": []}
    import kreuzberg

    kind = f"application/vnd.openxmlformats-officedocument.{OFFICE[request['format']]}"
    result = kreuzberg.extract_bytes_sync(data, kind, kreuzberg.ExtractionConfig(use_cache=False, output_format="markdown"))
    known: dict[str, Any] = dict(result.metadata)
    about = {key: str(known[key]) for key in ("title", "subject", "language") if known.get(key)}
    about |= {"author": ", ".join(map(str, known["authors"]))} if known.get("authors") else {}
    text = re.sub(r"!\[([^\]]*)\]\([^)\n]*\)", r"\1", result.content.replace(r"\!", "!"))
    if request["format"] == "xlsx":  # A cell far away brings thousands of empty rows
        text = re.sub(r"^\|(?: *\|)+\n(?!\|(?: -+ \|)+)", "", text, flags=re.M)
    return {"parts": [unescaped(text)], "paged": False, "metadata": about, "notes": []}


def read_html(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    "A web page, through trafilatura."
    from llmops_nb._formats_html import read_page

    text, said, notes = read_page(data.decode())
    return {"parts": [text], "paged": False, "metadata": said, "notes": notes}


def read_pages(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    "PDF, through pdfium."
    from llmops_nb._formats_pdf import read_pdf

    try:
        pages, said = read_pdf(data)
    except ValueError as error:
        raise Refused(str(error)) from None
    if not any(page.strip() for page in pages):
        raise Refused(f"has {len(pages)} pages and no text in them: pictures of text, it seems. Run it through OCR first.")
    cut = [] if b"%%EOF" in data[-2048:] else ["The file lacks its end mark: it may be cut off, and pages may be missing."]
    empty = [number for number, page in enumerate(pages, start=1) if not page.strip()]
    bare = [f"No text on page {', '.join(map(str, empty[:10]))}{' …' if len(empty) > 10 else ''}: empty, or a picture."] if empty else []
    return {"parts": pages, "paged": True, "metadata": said, "notes": cut + bare}


READERS: dict[str, Callable[[bytes, dict[str, Any]], dict[str, Any]]] = {"pdf": read_pages, "html": read_html, **dict.fromkeys(OFFICE, read_office)}


@contextlib.contextmanager
def limited(
    seconds: float,  # Until the kernel ends this process, whatever it is doing
    memory: int,  # Bytes beyond what it has now
) -> Iterator[None]:
    "Hold what is done inside to a time and an amount of memory, as far as the system can."
    if sys.platform == "win32":
        yield
        return
    import resource

    with open("/proc/self/statm") if sys.platform == "linux" else contextlib.nullcontext() as file:
        held = int(file.read().split()[0]) * resource.getpagesize() if file else 0
    most = resource.getrlimit(resource.RLIMIT_AS)
    if held:
        resource.setrlimit(resource.RLIMIT_AS, (held + memory if most[1] < 0 else min(held + memory, most[1]), most[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if held:
            resource.setrlimit(resource.RLIMIT_AS, most)


def answer(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    "What is in a file, or why it cannot be read."
    try:
        with limited(request["seconds"] + 1, request["memory"]):
            return READERS[request["format"]](data, request)
    except Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"needs more than {request['memory']:,} bytes of memory to be read. Raise the limit `memory` if you trust it."}
    except RecursionError:
        return {"error": "is nested too deeply to be read."}
    except ImportError as error:
        return {"missing": str(error.name or error)}
    except BaseException as error:  # A parser may raise anything, a panic of another language included
        return {"error": f"cannot be parsed: {' '.join(str(error).split())[:200] or type(error).__name__}. It may be damaged."}


def refuse(event: str, _: Any) -> None:
    "An audit hook: Python code that reads a file needs neither a connection nor a program."
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not allowed while a file is read")


def main() -> None:
    "Serve until standard input ends."
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # An interruption is meant for the parent
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)  # Whatever a parser prints is not our answer
        os.dup2(nothing.fileno(), 2)
    try:
        first, _ = receive(source)
        sys.path[:] = first["path"]
        for name in first["modules"]:
            with contextlib.suppress(ImportError):
                __import__(name)
        sys.addaudithook(refuse)
        while True:
            request, data = receive(source)
            found = answer(request, data) if request["format"] else {}
            text = [part.encode("utf-8", "replace") for part in found.pop("parts", [])]
            send(sink, {**found, "lengths": [len(part) for part in text]}, b"".join(text))
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    main()
