"""Work done by threads, few pieces at a time, and what makes it safe to stop it anywhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from .collections import Collection
from .core import DataError, to_json
from .store import digest, write_atomic

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], workers: int, take: Callable[[Result], None]) -> None:
    "Call a function for every item in threads, and `take` in this one for each result; at most four items a thread wait."
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="ingest"), set[Future[Result]]()

    def collect() -> None:
        nonlocal waiting
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        failed = None
        for future in done:
            if (error := future.exception()) is None:
                take(future.result())
            failed = failed or error
        if failed is not None:
            raise failed

    try:
        for item in items:
            if len(waiting) >= 4 * workers:
                collect()
            waiting.add(pool.submit(function, item))
        while waiting:
            collect()
    except BaseException:  # What is finished is kept all the same
        pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(Exception):
            for future in waiting:
                if not future.cancelled() and future.exception() is None:
                    take(future.result())
        raise
    pool.shutdown()


def identity(content: Any, metadata: Mapping[str, Any]) -> str:
    "Digest of what a source gave, whatever stands in it."
    return digest(repr((digest(content) if isinstance(content, bytes) else content, metadata)).encode("utf-8", "backslashreplace"))


def to_disk(anything: bool) -> None:
    "Force all that was written to the disk at once, if anything was."
    if anything and hasattr(os, "sync"):
        os.sync()


def safely_written(collection: Collection, killed: bool) -> None:
    "After a writer was killed: take from the ledger what has no whole text behind it, so that it is read again."
    if not killed:
        return
    named = {row.text for row in collection.records()} if collection.versions else set[str]()
    kept = []
    for row in collection.standings().values():
        if row.record is not None and row.record.text not in named:
            try:
                collection.texts.get(row.record.text)
            except (DataError, OSError):
                collection.texts._path(row.record.text).unlink(missing_ok=True)
                continue
        kept.append(row)
    write_atomic(collection.ledger, b"".join(to_json(row) + b"\n" for row in kept))
