"""Who writes a file that several processes share: a process of a machine, and whether it has ended."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import time
from pathlib import Path

PATIENCE = 900.0  # Seconds after which a silent client on another machine is believed dead


def began(process: int) -> str:
    "When a process began, in the words of the system; empty where it does not say, or the process has ended, its parent told or not."
    try:
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]
    except (OSError, IndexError):
        return ""


@functools.lru_cache(maxsize=4)
def _named(process: int) -> str:
    return json.dumps([socket.gethostname(), process, began(process)])


def client() -> str:
    "This process: its machine, its number, and when it began, since numbers are given anew."
    return _named(os.getpid())


def gone(client: str, seen: float) -> bool:
    "Whether a client has ended; where that cannot be asked, it lives while it was seen lately."
    host, process, start = json.loads(client)
    if host != socket.gethostname() or sys.platform == "win32":
        return time.time() - seen > PATIENCE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(start) and began(process) != start
