"""A Dask cluster as an executor: the one of a scheduler's address, or two workers of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from llmops_nb.core import RunError, need


@contextmanager
def on_dask(address: str) -> Iterator[Executor]:
    "The executor of a scheduler, for the time of a `with`; \"local\" starts a cluster here. Raises `MissingExtra`, `RunError`."
    distributed = need("distributed", "dask")
    try:
        client = distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) if address == "local" else distributed.Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise RunError(f"No Dask scheduler answers at {address!r}: {error}. Example: tcp://10.0.0.5:8786, or 'local'.") from error
    with client:
        yield client.get_executor(pure=False)
