"""An index as files: written beside its place, checked by hash when it is read, mapped into memory instead of copied."""

from __future__ import annotations

import errno
import hashlib
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ._index_rows import ENTRY, Bags, Content, Held, Moved, documents_of, spans
from .chunks import in_context
from .core import DataError, RunError, T, from_json, need, to_json
from .store import digest
from .vectors import Structure, VectorIndex


@dataclass(frozen=True, eq=False)
class Parts:
    "What an index consists of, in memory or on disk."

    content: Content  # Documents and chunks
    bags: Bags  # The words of every row
    words: Any  # BM25 weights; None when there is no word
    vectors: Any  # A structure to search by; None when there is none, or no row
    places: Any  # By row, its place in `vectors`; None when that is the same

    @cached_property
    def rows(self) -> Any:
        "By place in `vectors`, the row; -1 for what was deleted."
        import numpy as np

        rows = np.full(len(self.vectors), -1, np.int64)
        rows[self.places] = np.arange(len(self.places))
        return rows


class _Later(Sequence[Held]):
    "Documents that are decoded when the first of them is looked at."

    def __init__(self, path: Path, count: int):
        self._data, self._count = path.read_bytes(), count

    @cached_property
    def _all(self) -> list[Held]:
        return list(documents_of(self._data))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        return self._all[place]


class Vocabulary(Sequence[str]):
    "The words of an index by number, sorted out when the first of them is looked at."

    def __init__(self, words: Any):
        self._words = words

    @cached_property
    def _known(self) -> list[str]:
        numbers = {} if self._words is None else self._words.vocab_dict
        return sorted((word for word in numbers if word), key=numbers.__getitem__)

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, place: Any) -> Any:
        return self._known[place]


def weigh(bags: Bags) -> Any:
    "BM25 weights of every word in every row, None without any word."
    if not len(bags.flat):
        return None
    index = need("bm25s", "retrieval").BM25(method="lucene", k1=1.5, b=0.75)
    index.index((spans(bags), {word: number for number, word in enumerate(bags.known)}), show_progress=False)
    return index


def sources(before: Parts, moved: Moved) -> tuple[Any, dict[int, str]]:
    "By row, the row before that has its vector; and the texts of the rows that have none."
    import numpy as np

    old, source = before.content, moved.origin.copy()
    wanted = moved.content.entries["first"][moved.content.standing[source < 0]]
    alike = np.flatnonzero(np.isin(old.entries["first"][old.standing], wanted))
    known = {in_context(old.chunks[row]): int(row) for row in alike}
    for row, text in moved.texts.items():
        source[row] = known.get(text, -1)
    return source, {row: text for row, text in moved.texts.items() if source[row] < 0}


def vectors_after(before: Parts, source: Any, fresh: Mapping[int, Any], structure: Structure) -> tuple[Any, Any]:
    "A structure with the vectors of all rows, and by row its place in it; None for one after the other."
    import numpy as np

    if not len(source):
        return None, None
    kept, new = source >= 0, np.array(list(fresh.values()), np.float32)
    places = np.full(len(source), -1, np.int64)
    places[kept] = source[kept] if before.places is None else before.places[source[kept]]
    places[list(fresh)] = (len(before.vectors) if before.vectors is not None else 0) + np.arange(len(fresh))
    if before.vectors is not None and before.vectors.structure.kind != "flat":
        grown = before.vectors.add(new) if len(new) else before.vectors
        if not grown.rebuild_due and len(grown) - len(source) <= len(grown) // 5:
            return (grown, None) if np.array_equal(places, np.arange(len(grown))) else (grown, places)
    matrix = np.empty((len(source), new.shape[1] if len(new) else before.vectors.dimension), np.float32)
    if kept.any():
        matrix[kept] = before.vectors.vectors(places[kept])
    if len(new):
        matrix[list(fresh)] = new
    return VectorIndex.build(matrix, structure), None


def history(parts: Parts) -> str:
    "Why the vectors are not laid out as those of a fresh build, '' when they are."
    if parts.vectors is None:
        return ""
    late, dead = len(parts.vectors.held.tail), len(parts.vectors) - len(parts.content.standing)
    return f"{late:,} vectors came after its structure was trained, {dead:,} of {len(parts.vectors):,} are of chunks that are gone" if late or dead or parts.places is not None else ""


def difference(one: Mapping[str, str], other: Mapping[str, str], libraries: tuple[Mapping[str, str], Mapping[str, str]], past: Sequence[str], vectors: Callable[[], float]) -> str:
    "Why two sets of files with one digest are not the same bytes, '' when they are."
    files = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    if not files:
        return ""
    reasons = list(past)
    changed = [f"{name} {libraries[0].get(name, 'none')} and {libraries[1].get(name, 'none')}" for name in sorted({*libraries[0], *libraries[1]}) if libraries[0].get(name) != libraries[1].get(name)]
    if changed:
        reasons.append(f"other versions wrote them ({', '.join(changed)})")
    if not reasons and any(name.startswith("vectors") for name in files):
        reasons.append(f"the embedder's numbers differ by up to {vectors():.1g}: it rounds otherwise in other batches, or on another machine")
    return f"{', '.join(files)} differ: {'; '.join(reasons) or 'nothing that is known explains it, so one of them was made by code that has changed since'}."


def hash_of(path: Path) -> str:
    "The SHA-256 of a file, read in pieces."
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(path: Path, names: Sequence[str]) -> dict[str, str]:
    "The SHA-256 of files, several at a time."
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(lambda name: hash_of(path / name), names), strict=True))


def save(parts: Parts, path: Path) -> dict[str, str]:
    "Write the files of an index into a new directory; their hashes."
    import numpy as np

    path.mkdir(parents=True)
    (path / "documents.jsonl").write_bytes(b"".join(to_json(document) + b"\n" for document in parts.content.documents))
    (path / "chunks.jsonl").write_bytes(parts.content.lines)
    for name, array in (("entries", parts.content.entries), ("words", parts.bags.flat), ("ends", parts.bags.ends), ("places", parts.places)):
        if array is not None:
            np.save(path / f"{name}.npy", array)
    if parts.words is not None:
        parts.words.save(path / "bm25", show_progress=False)
    if parts.vectors is not None:
        parts.vectors.save(path / "vectors")
    return hashes(path, [file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file()])


def load(path: Path, files: Mapping[str, str], documents: int) -> Parts:
    "Read the files of an index; raises `DataError` when one is missing, has changed or cannot be read."
    try:
        found = hashes(path, list(files))
    except OSError as error:
        raise DataError(f"{Path(error.filename).name} cannot be read") from error
    if changed := [name for name, known in files.items() if found[name] != known]:
        raise DataError(f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} not what was written")
    try:
        return _read(path, files, documents)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"it cannot be read with the versions installed: {error}") from error


def _read(path: Path, files: Mapping[str, str], documents: int) -> Parts:
    import numpy as np

    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") if f"{name}.npy" in files else None for name in ("entries", "words", "ends", "places")}
    if arrays["entries"] is None or arrays["entries"].dtype != np.dtype(ENTRY):
        raise ValueError("entries.npy is of another version")
    words = need("bm25s", "retrieval").BM25.load(path / "bm25", mmap=True, show_progress=False) if any(name.startswith("bm25/") for name in files) else None
    vectors = None
    if any(name.startswith("vectors") for name in files):
        vectors = VectorIndex.load(path / "vectors", check=False)
    content = Content(_Later(path / "documents.jsonl", documents), _map(path / "chunks.jsonl"), arrays["entries"])
    return Parts(content, Bags(arrays["words"], arrays["ends"], Vocabulary(words)), words, vectors, arrays["places"])


def _map(path: Path) -> Any:
    "The bytes of a file, in memory only where they are looked at."
    if not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    "A directory to write to, put in the place of `path` at the end or thrown away; raises `RunError` when the disk is full."
    work = Path(tempfile.mkdtemp(prefix=f"{path.name}.making-", dir=path.parent))
    try:
        yield work / "new"
        if path.exists():
            path.rename(work / "old")
        (work / "new").rename(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError("No space left to write the index. Free some space and start again; embeddings that were cached are kept.") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove(path: Path) -> None:
    "Take a directory away in one step."
    work = Path(tempfile.mkdtemp(prefix=f"{path.name}.making-", dir=path.parent))
    try:
        path.rename(work / "old")
    except FileNotFoundError:
        pass
    shutil.rmtree(work, ignore_errors=True)


def locked(path: Path) -> Any:
    "A lock on an index directory, for one process at a time."
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def write_index(meta: Any, parts: Parts, path: Path) -> Any:
    "Put an index in its place on disk; what is known of it, with the hashes of its files."
    for left in path.parent.glob(f"{path.name}.making-*"):
        remove(left)
    with replacing(path) as work:
        meta = replace(meta, files=save(parts, work))
        raw = to_json(meta)
        (work / "meta.json").write_bytes(raw)
        (work / "meta.sha256").write_text(digest(raw))
    return meta


def read_meta(path: Path, kind: type[T]) -> T:
    "What is known of an index on disk; raises `DataError` when that is not what was written."
    try:
        raw = (path / "meta.json").read_bytes()
        if digest(raw) != (path / "meta.sha256").read_text():
            raise DataError("meta.json is not what was written")
    except OSError as error:
        raise DataError(f"{Path(error.filename).name} cannot be read") from error
    return from_json(raw, kind)


def read_index(path: Path, name: str, kind: type[T]) -> tuple[T, Parts]:
    "An index from its place on disk; raises `DataError` when a file is missing, has changed or cannot be read."
    meta: Any = read_meta(path, kind)
    if meta.digest != name:
        raise DataError("the directory is not what was written")
    try:
        return meta, load(path, meta.files, meta.documents)
    except DataError as error:
        raise DataError(f"{error} (written with {', '.join(f'{name} {version}' for name, version in meta.made_with.items())})") from error


def versions(embedder: str) -> dict[str, str]:
    "Versions of the libraries that write the files, with or without vectors."
    return {name: str(need(name, "retrieval").__version__) for name in ("bm25s", *(("faiss",) if embedder else ()))}


def predecessor(home: Path, meta: Any) -> tuple[Any, Parts] | None:
    "The newest index of the same corpus, recipe, embedder and libraries, if it is one of the twelve written last; None when there is none, or it is damaged."
    written: list[tuple[float, Path]] = []
    for path in home.glob("*/meta.json"):
        try:
            written.append((path.stat().st_mtime, path.parent))
        except OSError:
            continue  # Removed meanwhile
    wanted = (meta.corpus, meta.recipe, meta.embedder, meta.embedder_digest, versions(meta.embedder))
    for _, path in sorted(written, reverse=True)[:12]:
        try:
            found = read_meta(path, type(meta))
            if (found.corpus, found.recipe, found.embedder, found.embedder_digest, found.made_with) == wanted:
                return read_index(path, found.digest, type(meta))
        except DataError:
            continue
    return None
