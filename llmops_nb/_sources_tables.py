"""Reads rows, a part at a time: CSV, JSONL, Parquet, a DataFrame, a query. A row that is broken comes with the reason."""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import io
import json
import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .core import ConfigurationError, DataError, need, unknown
from .formats import decode

Row = tuple[str, Mapping[str, Any], str]  # Where it stands, its cells, and what is wrong with it
PART = 1000  # Rows held at a time
LINE = 50_000_000  # Bytes of a line of JSON, or characters of a cell, at most


def file_rows(path: Path) -> Iterator[Row]:
    "The rows of a file by the end of its name; raises `DataError` when it cannot be read."
    kinds = {".csv": csv_rows, ".tsv": csv_rows, ".jsonl": json_rows, ".ndjson": json_rows, ".parquet": parquet_rows}
    if path.suffix.lower() not in kinds:
        raise ConfigurationError(unknown("kind of table", path.suffix, kinds))
    if not path.is_file():
        raise DataError(f"There is no table {path.name}. Check `table`.")
    try:
        yield from kinds[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def encoding_of(path: Path) -> str:
    "The encoding of a text file, from its beginning."
    with open(path, "rb") as file:
        begin = file.read(1 << 16)
    if not begin:
        raise DataError(f"{path.name} is empty: it has 0 bytes.")
    cut = begin if len(begin) < 1 << 16 else begin[: begin.rfind(b"\n") + 1] or begin
    found = decode(cut, path.name)[1]
    return "utf-8-sig" if found == "utf-8" else found


def csv_rows(path: Path) -> Iterator[Row]:
    "The rows of a CSV file by its heads."
    csv.field_size_limit(LINE)
    with open(path, encoding=encoding_of(path), newline="") as file:
        first = file.readline()
        mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=lambda m: len(next(csv.reader([first], delimiter=m), [])))
        file.seek(0)
        reader = csv.reader(file, delimiter=mark, strict=True)
        heads = [head.strip().lstrip("\ufeff") for head in next(reader, [])]
        if len(set(heads)) < len(heads):
            double = next(head for head in heads if heads.count(head) > 1)
            raise DataError(f"{path.name} has two columns {double!r}. Rename one of them.")
        try:
            for cells in reader:
                slipped = f"has {len(cells)} cells where the first line has {len(heads)}" if cells and len(cells) != len(heads) else ""
                if any(cell.strip() for cell in cells):
                    yield f"{path.name}:{reader.line_num}", dict(zip(heads, cells, strict=False)), slipped
        except csv.Error as error:
            yield f"{path.name}:{reader.line_num}", {}, f"is not CSV from here on: {error}. Is a quotation mark left open?"
        except UnicodeDecodeError as error:
            yield f"{path.name}:{reader.line_num}", {}, f"is not {error.encoding} text from here on: byte {error.object[error.start]:#04x}. Convert the file to UTF-8."


def json_rows(path: Path) -> Iterator[Row]:
    "The rows of a file with one JSON object a line."
    with open(path, "rb") as file:
        begin = file.read(4)
    if not begin:
        raise DataError(f"{path.name} is empty: it has 0 bytes.")
    encoding = "utf-16" if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with open(path, "rb") as raw, io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline="\n") as lines:
        number = 0
        while line := lines.readline(LINE):
            number += 1
            where, problem, value = f"{path.name}:{number}", "", {}
            if len(line) >= LINE:
                yield where, {}, f"has more than {LINE:,} characters. The rest of the file is not read."
                return
            if not line.strip():
                continue
            try:
                line.encode()
                value = json.loads(line)
                problem = "" if isinstance(value, dict) else "is not a JSON object"
            except UnicodeEncodeError:
                problem = f"is not {encoding} text. Convert the file to UTF-8."
            except (ValueError, RecursionError) as error:
                problem = f"is not JSON: {error}"
            yield where, value if isinstance(value, dict) else {}, problem


def parquet_rows(path: Path) -> Iterator[Row]:
    "The rows of a Parquet file."
    parquet, arrow = need("pyarrow.parquet", "parquet"), need("pyarrow", "parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PART):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}: row {number}", row, ""
    except arrow.ArrowException as error:
        raise DataError(f"{path.name} is not a Parquet file, or a damaged one: {str(error)[:200]}") from None


def frame_rows(frame: Any) -> Iterator[Row]:
    "The rows of a DataFrame."
    heads = [str(head) for head in frame.columns]
    if len(set(heads)) < len(heads):
        raise DataError("The DataFrame has two columns of one name. Rename one of them.")
    for number, cells in enumerate(frame.itertuples(index=False, name=None), start=1):
        yield f"row {number}", dict(zip(heads, cells, strict=True)), ""


def query_rows(query: str, variable: str) -> Iterator[Row]:
    "The rows of a query, asked read-only where the database can; raises `DataError` with what the database said, its address left out."
    sql = need("sqlalchemy", "ingest")
    secret = os.environ.get(variable, "")
    if not secret:
        raise ConfigurationError(f"The environment variable {variable} is not set. It should hold the database's address, e.g. postgresql+psycopg://user:password@host/name.")
    bare = re.sub(r"^(?:\s|\(|--[^\n]*\n|/\*.*?\*/)+", "", query, flags=re.DOTALL)
    if not re.match(r"(?:select|with|values|table)\b", bare, re.I):
        raise ConfigurationError(f"sql: a query begins with SELECT, WITH, VALUES or TABLE, not with {bare.split()[0] if bare.split() else 'nothing'!r}.")
    address = None
    try:
        address = sql.make_url(secret)
        if address.get_backend_name() == "sqlite" and address.database not in (None, "", ":memory:") and not Path(address.database.removeprefix("file:").partition("?")[0]).is_file():
            raise DataError(f"The database that {variable} names does not exist.")
        engine = sql.create_engine(address, hide_parameters=True, poolclass=sql.pool.NullPool)
        with engine.connect() as connection:
            kind = engine.dialect.name
            if kind == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            elif kind in ("sqlite", "mysql", "mariadb"):
                connection.exec_driver_sql("PRAGMA query_only = ON" if kind == "sqlite" else "SET SESSION TRANSACTION READ ONLY")
            found = connection.execution_options(stream_results=True, yield_per=PART).execute(sql.text(query.replace(":", r"\:")))
            heads = list(found.keys())
            if len(set(heads)) < len(heads):
                raise DataError("The query has two columns of one name. Rename one of them with AS.")
            for number, row in enumerate(found, start=1):
                yield f"row {number}", dict(zip(heads, row, strict=True)), ""
    except sql.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error)
        for part in filter(None, (secret, *([address.password, address.render_as_string(hide_password=False), address.host, address.username] if address else []))):
            said = said.replace(str(part), "***") if len(str(part)) > 2 else said
        raise DataError(f"The query cannot be answered by the database that {variable} names: {' '.join(said.split())[:300]}") from None
    except ModuleNotFoundError as error:
        raise DataError(f"The database that {variable} names needs the package {error.name!r}. Install it with pip.") from None


def plain(value: Any) -> Any:
    "A cell as JSON has it; None for what is empty."
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return None if value != value else value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)) or hasattr(value, "tolist") and getattr(value, "ndim", False):
        return [plain(inner) for inner in (value.tolist() if hasattr(value, "tolist") else value)]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(bytes(value))} bytes"
    return None if value != value or str(value) in ("NaT", "<NA>") else str(value)


def seconds_of(value: Any) -> float | None:
    "A moment as seconds since 1970, from a number, a date or its ISO form; None when it is none of these."
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    try:
        moment = datetime.datetime.fromisoformat(str(plain(value)))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
