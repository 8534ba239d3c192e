"""Taking a document out of everything that a collection wrote: versions, ledger, texts, indexes, databases."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ._collections_scan import ServedIndex, Wanted, clean_database, files_in, is_sqlite, pieces
from .collections import Collection, CollectionVersion, Tombstone, now_text, read_records, tombstones, version_digest
from .core import ConfigurationError, DataError, LLMOpsError, to_json
from .store import short, write_atomic
from .versions import move_label


def held_texts(collection: Collection) -> dict[str, set[str]]:
    "Digests of the texts that each document has in any version, or has waiting in the ledger."
    found: dict[str, set[str]] = {}
    rows = [row for version in {v.digest for v in collection.versions} for row in read_records(collection, version)]
    for row in [*rows, *(s.record for s in collection.standings().values() if s.record)]:
        found.setdefault(row.id, set()).add(row.text)
    for standing in collection.standings().values():
        found.setdefault(standing.id, set())
    return found


def tombstones_for(collection: Collection, ids: Sequence[str], held: Mapping[str, set[str]], why: str) -> tuple[list[Tombstone], set[int]]:
    "Tombstones with what can be searched for later: pieces that no document has that stays."
    earlier, at = tombstones(collection), now_text()
    all_of = {id: held.get(id, set()) | set(earlier[id].texts if id in earlier else ()) for id in ids}
    mine = {id: [t for t in sorted(all_of[id]) if collection.texts._path(t).is_file()] for id in ids}
    own = {id: {p for t in texts for p in pieces(collection.texts.get(t).decode("utf-8", "surrogatepass"))} | set(earlier[id].pieces if id in earlier else ()) for id, texts in mine.items()}
    wanted = Wanted({p for some in own.values() for p in some})
    alike = {id: {other for other in (earlier[id].copies if id in earlier else ()) if held.get(other)} for id in ids}
    shared: set[int] = set()
    for other in (id for id in held if id not in ids):
        for text in (t for t in held[other] if collection.texts._path(t).is_file()):
            here = wanted.in_file(collection.texts._path(text))
            shared |= here
            for id in ids:
                if text in all_of[id] or 2 * len(here & own[id]) > max(1, len(own[id])):
                    alike[id].add(other)
    stones = [Tombstone(id, at, why, tuple(sorted(all_of[id])), tuple(sorted(own[id] - shared)), tuple(sorted(alike[id]))) for id in ids]
    return stones, {p for some in own.values() for p in some} - shared


def leave_out(collection: Collection, ids: set[str]) -> list[str]:
    "Write every version and the ledger without some documents; labels follow."
    renamed: dict[str, str] = {}
    history: list[CollectionVersion] = []
    for version in collection.versions:
        rows = read_records(collection, version.digest)
        rest = [row for row in rows if row.id not in ids]
        name = version.digest if len(rest) == len(rows) else version_digest(rest)
        if name != version.digest:
            renamed[version.digest] = name
            write_atomic(collection.path / "versions" / f"{name}.jsonl", b"".join(to_json(row) + b"\n" for row in rest))
            version = replace(version, digest=name, documents=len(rest), characters=sum(r.characters for r in rest), was=(*version.was, version.digest))
        history.append(version)
    write_atomic(collection.path / "history.json", to_json(history))
    successors = {old: version.digest for version in history for old in version.was}
    for label, name in collection.trail.now.items():
        if name in successors:
            move_label(collection.path / collection.name, label, successors[name], "documents in it were forgotten")
    standing = [s for s in collection.standings().values() if s.id not in ids]
    write_atomic(collection.ledger, b"".join(to_json(row) + b"\n" for row in standing))
    return [f"version {short(old)} is {short(new)} without them" for old, new in renamed.items()]


def sweep(collection: Collection) -> list[str]:
    "Delete texts and lists that nothing names, and copies of repositories, in which texts are packed."
    used = {text for texts in held_texts(collection).values() for text in texts}
    names = {version.digest for version in collection.versions}
    stray = [path for path in files_in([collection.path / "texts"]) if path.parent.name + path.name not in used]
    lists = [path for path in files_in([collection.path / "versions"]) if path.stem not in names]
    for path in [*stray, *lists]:
        path.unlink()
    done = [f"texts deleted: {len(stray)}, lists of documents: {len(lists)}"] if stray or lists else []
    if (collection.path / "git").is_dir():
        shutil.rmtree(collection.path / "git")
        done.append("copies of git repositories deleted; the next ingest fetches them again")
    return done


def clean_state(collection: Collection, wanted: Wanted) -> list[str]:
    "Delete indexes that hold pieces, and rows of databases that do, with all remembered vectors."
    done, state = [], collection.settings.state
    indexes = [path for path in sorted((state / "index").glob("*")) if path.is_dir()]
    for path in indexes:
        if any(wanted.in_file(file) for file in files_in([path])):
            shutil.rmtree(path)
            done.append(f"index {path.name} deleted; it is built again when it is needed")
    for path in sorted(path for path in state.glob("*") if path.is_file() and is_sqlite(path)):
        try:
            rows, vectors = clean_database(path, wanted)
        except sqlite3.Error as error:
            done.append(f"{path.name} could not be cleaned: {error}")
            continue
        done += [f"{path.name}: rows deleted: {rows}, remembered vectors: {vectors}"] if rows or vectors else []
    return done


def served(collection: Collection, indexes: Iterable[ServedIndex] | None) -> list[ServedIndex]:
    "The indexes on a server; raises `ConfigurationError` when the settings name a server and nobody passed its indexes."
    if indexes is None and collection.settings.vectors:
        raise ConfigurationError(f"The setting `vectors` keeps indexes on the server that ${collection.settings.vectors} names, and they would not be searched. Pass indexes=open_served(settings), from llmops_nb.postgres; nothing was removed.")
    return list(indexes or ())


def _held(index: ServedIndex, corpus: str, ids: set[str], wanted: Wanted) -> list[str]:
    "Documents in an index that are the ones meant, or hold pieces of them."
    found = {chunk.document for chunk in index.chunks if wanted.found(to_json(chunk))}
    for id in ids if index.meta.corpus == corpus else ():
        try:
            index.metadata(id)
        except DataError:
            continue
        found.add(id)
    return sorted(found)


def clean_indexes(indexes: Sequence[ServedIndex], corpus: str, ids: set[str], wanted: Wanted) -> list[str]:
    "Delete documents from indexes on a server; what was done, and what failed."
    done = []
    for index in indexes:
        gone, name = list[str](), "an index"
        try:
            name = f"index {short(index.meta.digest)} of corpus {index.meta.corpus!r}"
            while found := _held(index, corpus, ids, wanted):  # A chunk that was the copy of another may stand now
                index.delete(found)
                gone += found
            if gone:
                index.compact()
        except LLMOpsError as error:
            done.append(f"{name} on the server could not be cleaned: {error}")
        done += [f"{name} on the server: deleted {', '.join(gone)}"] if gone else []
    return done


def search_indexes(indexes: Sequence[ServedIndex], corpus: str, ids: set[str], wanted: Wanted) -> list[str]:
    "What is left in indexes on a server, and which of them could not be searched."
    left = []
    for index in indexes:
        try:
            if found := _held(index, corpus, ids, wanted):
                left.append(f"index {short(index.meta.digest)} of corpus {index.meta.corpus!r} on the server: {', '.join(found)}. Forget once more.")
        except LLMOpsError as error:
            left.append(f"An index on the server could not be searched: {error} Forget once more when it can.")
    return left


def search_files(collection: Collection, stones: Sequence[Tombstone], wanted: Wanted) -> tuple[int, int, list[str], list[str]]:
    "How many files and bytes of state and reports were searched, where something is left, and what is packed."
    state, reports = collection.settings.state, collection.settings.reports
    files, size, left, unseen = 0, 0, list[str](), list[str]()
    digests = {text for stone in stones for text in stone.texts} - {text for texts in held_texts(collection).values() for text in texts}
    for copy in sorted((state / "collections").glob("*/git/*/")):
        unseen.append(f"{copy.relative_to(state).as_posix()} is a copy of a git repository, packed.")
    for path in files_in([state, reports]):
        files, size = files + 1, size + path.stat().st_size
        name = path.relative_to(state if path.is_relative_to(state) else reports.parent).as_posix()
        if found := wanted.in_file(path):
            left.append(f"{name} holds {len(found)} pieces. {'Delete the run.' if path.is_relative_to(reports) else 'Look at it, or delete it.'}")
        if path.is_relative_to(collection.path / "texts") and path.parent.name + path.name in digests:
            left.append(f"{name} is a text of it. Forget once more.")
        if path.suffix in (".gz", ".zip", ".npz", ".parquet", ".zst", ".xz", ".bz2"):
            unseen.append(f"{name} is packed.")
    return files, size, left, unseen
