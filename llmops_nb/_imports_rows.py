"""Reads files of rows, as people have them: CSV of any country, JSON, Parquet, a DataFrame; every row with its place, broken ones with the reason."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ._imports_promptfoo import Row
from .core import ConfigurationError, DataError, need



def text_of(path: Path, encoding: str = "") -> str:
    "A file as text; raises `DataError` that names the byte which does not fit."
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no file {path.name}.") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode(encoding or ("utf-16" if wide else "utf-8-sig"))
    except LookupError:
        raise ConfigurationError(f"There is no encoding {encoding!r}. Examples: utf-8, cp1252, utf-16, shift_jis.") from None
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = data[:at].count(b"\n") + 1
        raise DataError(f"{path.name} is not {encoding or 'UTF-8'} text: byte {data[at]:#04x} in line {line}. Say what it is, e.g. encoding='cp1252'.") from error


def csv_rows(path: Path, encoding: str = "") -> Iterator[Row]:
    "The rows of a CSV file by its heads."
    text = text_of(path, encoding)
    first, said = text.partition("\n")[0], re.match(r"sep=(.)\r?\n", text, re.I)
    text = text[said.end() :] if said else text
    pieces = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in ",;\t|"}
    mark = said[1] if said else max(pieces, key=lambda m: pieces[m])
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    heads: list[str] = []
    line = 1 + bool(said)
    with _broken_csv(path, lambda: line):
        for cells in reader:
            where, line = f"{path.name}:{line}", reader.line_num + 1 + bool(said)
            if not heads:
                heads = [head.strip() for head in cells]
                if twice := [head for head, n in Counter(heads).items() if n > 1 and head]:
                    raise DataError(f"{path.name} has two columns {twice[0]!r}. Rename one of them.")
            elif any(cell.strip() for cell in cells):
                slipped = f"{len(cells)} cells where the first line has {len(heads)}" if len(cells) != len(heads) else ""
                yield where, dict(zip(heads, cells, strict=False)), slipped


@contextlib.contextmanager
def _broken_csv(path: Path, line: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise DataError(f"{path.name}:{line()}: not CSV from here on: {error}. Is a quotation mark left open?") from error


def json_rows(path: Path, encoding: str = "") -> Iterator[Row]:
    "The rows of a JSON file, with inner objects flattened."
    return ((where, flat(row), problem) for where, row, problem in json_objects(path, encoding))


def json_objects(path: Path, encoding: str = "") -> Iterator[Row]:
    "The objects of a JSON file as they are: an object a line, or one list of objects."
    text = text_of(path, encoding)
    if text.lstrip()[:1] == "[" or path.name.removesuffix(".gz").endswith(".json"):
        try:
            found = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise DataError(f"{path.name} is not JSON: {error}.") from error
        lists = [value for value in found.values() if isinstance(value, list)] if isinstance(found, dict) else [found]
        if len(lists) != 1:
            raise DataError(f"{path.name} holds {len(lists)} lists; one list of objects is expected, or one object a line (.jsonl).")
        entries: Iterable[tuple[str, Any, str]] = ((f"{path.name}: entry {n}", value, "") for n, value in enumerate(lists[0], start=1))
    else:
        entries = ((f"{path.name}:{n}", *decoded(line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    for where, value, problem in entries:
        fits = isinstance(value, Mapping)
        yield where, value if fits else {}, problem or ("" if fits else f"an object is expected, not {type(value).__name__}")


def decoded(line: str) -> tuple[Any, str]:
    try:
        return msgspec.json.decode(line), ""
    except msgspec.DecodeError as error:
        return {}, f"not JSON: {error}"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    "A row with what stands in an inner object under 'outer.inner'; answers in the form of Hugging Face's SQuAD as a list."
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            flat[key] = value["text"]
        elif isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return flat


def parquet_rows(path: Path) -> Iterator[Row]:
    "The rows of a Parquet file, some at a time."
    arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    try:
        place = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(4096):
                for row in batch.to_pylist():
                    place += 1
                    yield f"{path.name}: row {place}", flat(row), ""
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read: {' '.join(str(error).split())[:200]}") from error


def frame_rows(frame: Any) -> Iterator[Row]:
    "The rows of a DataFrame."
    if twice := [str(name) for name, n in Counter(map(str, frame.columns)).items() if n > 1]:
        raise DataError(f"The DataFrame has two columns {twice[0]!r}. Rename one of them.")
    for place, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        yield f"row {place}", flat(dict(zip(map(str, frame.columns), row, strict=True))), ""


def plain(value: Any) -> Any:
    "A cell as JSON would give it; missing values are None."
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
