"""Processes that read files of strangers, one file each at a time, kept for the next file.

A pipe that closes and a timer that kills are all the machinery, so it works the same in a notebook, a thread, a forked
or a spawned process, on every system.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .core import RunError

CHILD = Path(__file__).with_name("_formats_child.py")
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV")  # fmt: skip
PARSERS = ("kreuzberg", "pypdfium2", "trafilatura")
WEAR = 500  # Files that one process reads before another takes its place


class Reader:
    "A process that reads one file at a time."

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "MALLOC_ARENA_MAX": "2"},
        )
        self.worn, self.owner = 0, os.getpid()
        path = [os.path.abspath(entry) for entry in sys.path] + [str(CHILD.parent.parent)]
        try:
            self._send({"path": path, "modules": PARSERS}, b"")
            alive = self.lives()
        except OSError:
            alive = False
        except BaseException:
            self.end()
            raise
        if not alive:
            self.end()
            raise RunError("The process that reads files does not start. Is there memory left, and may programs start others?")

    def _send(self, header: Mapping[str, Any], data: bytes) -> None:
        assert self.process.stdin is not None
        line = json.dumps(header).encode()
        self.process.stdin.write(struct.pack(">Q", len(line)) + line + struct.pack(">Q", len(data)))
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def _receive(self) -> bytes:
        assert self.process.stdout is not None
        head = self.process.stdout.read(8)
        (length,) = struct.unpack(">Q", head) if len(head) == 8 else (0,)
        found = self.process.stdout.read(length)
        if len(head) < 8 or len(found) < length:
            raise EOFError
        return found

    def ask(self, header: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        "One file read; raises `EOFError` or `OSError` when the process has ended."
        self.worn += 1
        self._send(header, data)
        return json.loads(self._receive()), self._receive()

    def lives(self) -> bool:
        "Whether the process answers; a new one does when its parsers are loaded."
        with contextlib.suppress(EOFError, OSError):
            self._send({"format": ""}, b"")
            return json.loads(self._receive()) == {"lengths": []} and self._receive() == b""
        return False

    def end(self) -> None:
        "Kill the process and close its pipes."
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()


idle: list[Reader] = []
_lock = threading.Lock()


def borrow() -> Reader:
    "A reader for the caller alone. Those of another process, from before a fork, are left alone; one that died meanwhile is replaced."
    while True:
        with _lock:
            reader = idle.pop() if idle else None
        if reader is None:
            return Reader()
        if reader.owner == os.getpid():
            if reader.lives():
                return reader
            reader.end()


def give_back(reader: Reader) -> None:
    "Keep a reader for the next file, unless it is worn or there are enough."
    with _lock:
        if reader.worn < WEAR and len(idle) < (os.cpu_count() or 1):
            idle.append(reader)
            return
    reader.end()


def renew_lock() -> None:
    "After a fork: another thread may have held the lock."
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_lock)


def ask(
    request: Mapping[str, Any],  # What the child should do
    data: bytes,  # The file
    seconds: float,  # Until the child is killed
) -> tuple[dict[str, Any], bytes]:
    "What a reader makes of a file; raises `TimeoutError` when it takes too long, `EOFError` when the reader died of it."
    reader, over, late = borrow(), threading.Lock(), threading.Event()

    def stop() -> None:
        if over.acquire(blocking=False):  # The file is not finished
            late.set()
            reader.process.kill()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        found = reader.ask(request, data)
    except (EOFError, OSError):
        reader.end()
        raise (TimeoutError if late.is_set() else EOFError) from None
    except BaseException:  # An interruption leaves an answer in the pipe
        reader.end()
        raise
    finally:
        timer.cancel()
    if over.acquire(blocking=False):
        give_back(reader)
    else:
        reader.end()
    return found
