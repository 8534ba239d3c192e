"""Work done by threads, few pieces at a time, each result handed over as soon as it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

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
