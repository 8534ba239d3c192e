"""Walks folders and reads files that may be links, pipes, too large, unreadable or badly named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .core import DataError

VERSIONING = {".git", ".hg", ".svn", ".bzr", "CVS", "_darcs"}


def walk(
    folder: Path,  # Where to begin
    root: Path,  # Where ids begin
    hidden: bool,  # Whether names that begin with a dot count
) -> Iterator[tuple[str, Path, str]]:
    "Id, path and, where it is no file to read, the reason, in the order of names."
    try:
        with os.scandir(folder) as found:
            inside = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield folder.relative_to(root).as_posix() or ".", folder, f"The folder {folder.name!r} cannot be listed: {error.strerror}."
        return
    for entry in inside:
        path, id = Path(entry.path), Path(entry.path).relative_to(root).as_posix()
        if entry.name in VERSIONING or entry.name.startswith(".") and not hidden:
            continue
        if not id.isprintable() or any(0xDC80 <= ord(letter) <= 0xDCFF for letter in id):
            readable = os.fsencode(id).decode("utf-8", "backslashreplace")
            yield "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in readable), path, "Its name is no text that can be printed. Rename it."
        elif entry.is_dir(follow_symlinks=False):
            yield from walk(path, root, hidden)
        elif entry.is_symlink() and path.is_dir():
            yield id, path, f"{id} is a link to a folder. Folders behind links are not read: name that folder as a source of its own."
        else:
            yield id, path, ""


def read_file(
    path: Path,  # The file
    root: Path | None,  # The folder that it must lie in, links followed; None: anywhere
    id: str,  # For the error
    limit: int,  # Bytes at most
) -> bytes:
    "A file's bytes; raises `DataError` with the reason when it is not to be read."
    try:
        real = path.resolve(strict=True)
        if root is not None and not real.is_relative_to(root):
            raise DataError(f"{id} is a link that leads out of the folder {root.name!r}, and is not followed.")
        handle = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{id} is no file: a folder, a pipe or a device.")
            if status.st_size > limit:
                raise DataError(f"{id} has {status.st_size:,} bytes; the limit is {limit:,}. Split it, or raise `limit`.")
            data = file.read(limit + 1)
    except RuntimeError:
        raise DataError(f"{id} is a link that leads in a circle.") from None
    except OSError as error:
        raise DataError(f"{id} cannot be read: {error.strerror}. A link may lead nowhere, or the rights are missing.") from None
    if len(data) > limit:
        raise DataError(f"{id} grows while it is read, beyond the limit of {limit:,} bytes.")
    return data
