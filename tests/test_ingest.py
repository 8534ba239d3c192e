"""Ingest: only what changed is read, nothing disappears, a killed run goes on, and what is forgotten is gone."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from postgres_server import VARIABLE, fresh_database

from llmops_nb import ingest as ingest_page
from llmops_nb import postgres, store
from llmops_nb._collections_scan import Wanted, pieces
from llmops_nb.collections import (
    Collection,
    Standing,
    check_version,
    collections_in,
    documents_table,
    forget,
    history_table,
    label_version,
    only_writer,
    open_collection,
    prove_forgotten,
    remember,
    roll_back_collection,
    standings_table,
    tombstones,
    undo_label,
)
from llmops_nb.commands import main
from llmops_nb.core import ConfigurationError, DataError, Document, RunError
from llmops_nb.documents import Corpus
from llmops_nb.index import Recipe
from llmops_nb.ingest import Duplicates, IngestReport, ingest, load_ingest_plan, read_ingest_plan, settle, stale_sources
from llmops_nb.settings import Settings, load_settings
from llmops_nb.sources import Entry

WORDS = ["".join(random.Random(n).choices("abcdefghijklmnoprstuvw", k=3 + n % 7)) for n in range(500)]


def prose(seed: object, words: int = 60) -> str:
    "A text that is like no other."
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words)) + "."


class Place:
    "A project with a folder of documents and a plan."

    def __init__(self, home: Path):
        self.home, self.docs, self.settings = home, home / "docs", load_settings(home)
        self.docs.mkdir()

    def write(self, **texts: str) -> None:
        "Documents by name, without .md."
        for name, text in texts.items():
            (self.docs / f"{name}.md").write_text(text)

    def plan(self, **more: Any) -> Any:
        "A plan over the folder."
        return read_ingest_plan({"collection": "c", "sources": [{"folder": "docs"}], **more}, self.home)

    def run(self, plan: Any = None, **options: Any) -> IngestReport:
        "One ingest."
        return ingest(plan or self.plan(), self.settings, progress=False, **options)

    @property
    def collection(self) -> Collection:
        "What was made."
        return open_collection("c", self.settings)

    def ids(self, version: str = "") -> list[str]:
        "Of the documents in a version."
        return [record.id for record in self.collection.records(version)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    "An empty project."
    return Place(tmp_path)


class Memory:
    "A source whose entries a test says, and how they fail."

    def __init__(self, name: str, texts: Mapping[str, Any]):
        self.name, self.texts, self.reads = name, dict(texts), list[str]()
        self.broken: Exception | None = None  # After the entries

    def entries(self) -> Iterator[Entry]:
        "In order of their ids."
        for id, content in self.texts.items():
            yield Entry(id, f"memory:{id}", str(hash(str(content))), 1.0, None, {}, lambda id=id: self.read(id))  # type: ignore[misc]
        if self.broken:
            raise self.broken

    def read(self, id: str) -> bytes | Document:
        "What a test said."
        self.reads.append(id)
        content = self.texts[id]
        if isinstance(content, Exception):
            raise content
        return Document(id, content, id) if isinstance(content, str) else content


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Memory]:
    "Sources by name, opened by `memory: NAME` in a plan; other sources as always."
    known: dict[str, Memory] = {}
    real = ingest_page.open_source
    monkeypatch.setattr(ingest_page, "open_source", lambda spec, root, copies=None: known[spec["memory"]] if "memory" in spec else real(spec, root, copies))
    return known


# The plan


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "write `collection: NAME`"),
        ({"collection": "c", "sources": []}, "under `sources:` a list"),
        ({"collection": "c", "sources": ["docs"]}, "found 'docs'"),
        ({"collection": "C c", "sources": [{"folder": "docs"}]}, "cannot name a collection"),
        ({"sources": [{"folder": "docs"}]}, "write `collection: NAME`"),
        ({"collection": "c", "sources": [{"folder": "docs"}], "policy": {"pii": "redact"}}, "such as `pii: {action: redact}`, found 'redact'"),
        ({"collection": "c", "sources": [{"folder": "docs", "retention": "3 months"}]}, "other.yaml, source docs: retention"),
        ({"collection": "../up", "sources": [{"folder": "docs"}]}, "cannot name a collection"),
        ({"collection": "c", "sources": [{"folder": "docs"}], "polices": {}}, "Did you mean 'policy'"),
        ({"collection": "c", "sources": [{"folder": "docs"}, {"folder": "docs"}]}, "two sources are named 'docs'"),
        ({"collection": "c", "sources": [{"folder": "docs", "sensitivity": "x"}]}, "No class of sensitivity named 'x'"),
        ({"collection": "c", "sources": [{"folder": "docs", "tenant": 5}]}, "tenant"),
        ({"collection": "c", "sources": [{"folder": "docs", "retention": "soon"}]}, "no span of time"),
        ({"collection": "c", "sources": [{"folder": "docs", "metadata": {"expires": 1}}]}, "metadata cannot set 'expires'"),
        ({"collection": "c", "sources": [{"folder": "docs", "metadata": {"a": "z"}}], "policy": {"fields": {"a": {"allowed": ["b"]}}}}, "a is 'z'. Allowed: 'b'."),
        ({"collection": "c", "sources": [{"folder": "docs"}], "duplicates": {"exact": "merge"}}, "Known: 'drop', 'keep'"),
        ({"collection": "c", "sources": [{"folder": "docs"}], "duplicates": {"threshold": 0}}, "above 0"),
        ({"collection": "c", "sources": [{"folder": "docs"}], "limits": {"byte": 1}}, "Did you mean 'bytes'"),
        ({"collection": "c", "sources": [{"folder": "docs"}], "stale_after": "x"}, "stale_after"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_ingest_plan(values, tmp_path, "other.yaml")
    assert said in str(error.value)


def test_a_plan_is_found_and_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no file '.*sources.yaml'"):
        load_ingest_plan(tmp_path)
    (tmp_path / "sources.yaml").write_text("collection: [")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load_ingest_plan(tmp_path)
    (tmp_path / "sources.yaml").write_text("collection: c\nsources:\n  - {folder: docs, name: d, prefix: d/}\n")
    assert load_ingest_plan(tmp_path / "sources.yaml").sources[0].prefix == "d/"


# What is read


def test_only_what_changed_is_read(place: Place) -> None:
    place.write(a=prose(1), b=prose(2), c=prose(3))
    first = place.run()
    assert (first.added, dict(first.read)) == (("a.md", "b.md", "c.md"), {"new": 3})
    again = place.run()
    assert (again.version, dict(again.read), again.added) == (first.version, {}, ())
    os.utime(place.docs / "a.md", (1, 1))
    touched = place.run()
    assert (touched.version, dict(touched.read)) == (first.version, {"changed": 1})
    assert dict(place.run().read) == {}
    place.write(b=prose("new"))
    (place.docs / "c.md").unlink()
    changed = place.run()
    assert (changed.changed, changed.removed, dict(changed.read)) == (("b.md",), ("c.md",), {"changed": 1})
    assert place.collection.corpus().document("b.md").text == prose("new")
    assert place.collection.corpus(first.version).document("b.md").text == prose(2)
    assert [v.documents for v in place.collection.versions] == [3, 2]
    assert place.collection.records()[0].metadata["modified"] > 1  # Equal content keeps the record that it had


def test_content_that_comes_back_has_the_version_that_it_had(place: Place) -> None:
    place.write(a="one")
    first = place.run()
    place.write(a="two, longer")
    place.run()
    place.write(a="one")
    assert place.run().version == first.version
    assert len(place.collection.versions) == 3


def test_another_policy_or_parser_judges_again_and_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(a=prose(1), b="mail ann@example.org")
    place.run()
    strict = place.plan(policy={"pii": {"action": "quarantine"}})
    found = place.run(strict)
    assert (dict(found.read), found.removed, [r.id for r in found.quarantined]) == ({"policy": 2}, ("b.md",), ["b.md"])
    monkeypatch.setattr(ingest_page, "parser_digest", lambda limits: "new")
    assert dict(place.run(strict).read) == {"parser": 2}


def test_retention_of_equal_content_follows_the_policy(place: Place) -> None:
    place.write(a=prose(1))
    before = place.run(place.plan(policy={"retention": "10d"}))
    after = place.run(place.plan(policy={"retention": "20d"}))
    assert after.changed == ("a.md",)
    ends = [place.collection.records(v)[0].metadata["expires"] for v in (before.version, after.version)]
    assert ends[1] - ends[0] == 10 * 86_400


def test_a_document_whose_time_is_over_leaves(place: Place) -> None:
    place.write(a=prose(1), b=prose(2))
    os.utime(place.docs / "b.md", (1, 1))
    found = place.run(place.plan(policy={"retention": "1y"}))
    assert place.ids() == ["a.md"]
    assert [(r.id, r.outcome, r.reason) for r in found.refused] == [("b.md", "expired", "Its time was over at 1971-01-01 00:00 UTC.")]


def test_a_dry_run_writes_nothing(place: Place) -> None:
    place.write(a=prose(1))
    dry = place.run(dry_run=True)
    assert dry.dry
    assert dict(dry.read) == {"new": 1}
    assert not place.settings.state.exists()
    place.run()
    (place.docs / "a.md").rename(place.docs / "b.md")
    place.write(c=prose(2))
    before = {path: path.stat().st_mtime_ns for path in place.settings.state.rglob("*")}
    dry = place.run(dry_run=True, accept_deletions=True)
    assert (dict(dry.read), dry.removed) == ({"new": 2}, ("a.md",))
    assert before == {path: path.stat().st_mtime_ns for path in place.settings.state.rglob("*")}


def test_quarantined_documents_are_not_read_again_until_asked(place: Place) -> None:
    place.write(good=prose(1), bad="")
    assert [r.reason for r in place.run().quarantined] == ["bad.md is empty: it has 0 bytes."]
    assert dict(place.run().read) == {}
    assert dict(place.run(again=True).read) == {"again": 1}
    place.write(bad="now with text")
    assert place.run().added == ("bad.md",)


@hypothesis_settings(max_examples=12, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["", "one", "two", "three"]), max_size=4), min_size=1, max_size=4))
def test_a_version_is_what_its_sources_were(tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, str]]) -> None:
    place = Place(tmp_path_factory.mktemp("p"))
    plan = place.plan(duplicates={"exact": "keep", "near": "ignore"})
    for number, state in enumerate(states):
        for file in place.docs.glob("*.md"):
            file.unlink()
        place.write(**state)
        for file in place.docs.glob("*.md"):
            os.utime(file, ns=(number, number))
        report = place.run(plan, accept_deletions=True)
        good = {f"{name}.md": text for name, text in state.items() if text}
        if report.version:
            assert {r.id: place.collection.texts.get(r.text).decode() for r in place.collection.records()} == good
        assert {r.id for r in report.quarantined} == {f"{name}.md" for name, text in state.items() if not text}


# Sources that fail


def test_a_source_that_cannot_be_reached_keeps_its_documents(place: Place) -> None:
    place.write(a=prose(1), b=prose(2))
    first = place.run()
    shutil.move(place.docs, place.home / "away")
    gone = place.run()
    assert (gone.version, gone.removed) == (first.version, ())
    assert "does not exist" in gone.stale["docs"]
    assert [(s.source, s.documents) for s in stale_sources(place.collection)] == [("docs", 2)]
    place.docs.mkdir()
    assert "none of the 2 documents" in place.run().stale["docs"]
    (place.docs / "new.md").write_text(prose(3))
    assert place.run().stale  # Still none of what it had
    assert place.run(accept_deletions=True).removed == ("a.md", "b.md")
    assert stale_sources(place.collection) == []


def test_a_listing_that_breaks_off_says_nothing_about_the_rest(place: Place, memory: dict[str, Memory]) -> None:
    memory["m"] = Memory("m", {"a": prose(1), "b": prose(2)})
    plan = read_ingest_plan({"collection": "c", "sources": [{"memory": "m"}]}, place.home)
    place.run(plan)
    memory["m"].texts = {"a": prose("changed")}
    memory["m"].broken = ConnectionResetError("gone")
    found = place.run(plan)
    assert (found.changed, found.removed, found.documents) == (("a",), (), 2)
    assert "gone" in found.stale["m"]
    memory["m"].broken = None
    assert place.run(plan).removed == ("b",)


def test_an_entry_that_cannot_be_fetched_keeps_its_old_text_until_it_can(place: Place, memory: dict[str, Memory]) -> None:
    memory["m"] = Memory("m", {"a": prose(1), "b": DataError("503 from the server")})
    plan = read_ingest_plan({"collection": "c", "sources": [{"memory": "m"}]}, place.home)
    first = place.run(plan)
    assert [(r.id, r.reason) for r in first.quarantined] == [("b", "503 from the server")]
    memory["m"].texts = {"a": DataError("503 again"), "b": prose(2)}
    second = place.run(plan)
    assert (second.added, second.removed) == (("b",), ())
    assert [s.why for s in stale_sources(place.collection)] == ["a: It could not be read: 503 again"]
    memory["m"].texts["a"] = prose("healed")
    assert place.run(plan).changed == ("a",)
    assert stale_sources(place.collection) == []


def test_a_parser_that_explodes_costs_one_document(place: Place, memory: dict[str, Memory]) -> None:
    memory["m"] = Memory("m", {"a": RecursionError("deep"), "b": prose(2), "c": Document("c", "  \n"), "d": Document("d", "half \ud800", metadata={"n": 2**80})})
    found = place.run(read_ingest_plan({"collection": "c", "sources": [{"memory": "m"}]}, place.home))
    assert {r.id: r.reason for r in found.quarantined} == {"a": "RecursionError: deep", "c": "c has no text in it."}
    assert place.collection.corpus().document("d").text == "half \ufffd"


def test_two_sources_with_one_id_are_told_apart(place: Place, memory: dict[str, Memory]) -> None:
    memory["m"], memory["n"] = Memory("m", {"a": prose(1)}), Memory("n", {"a": prose(2)})
    found = place.run(read_ingest_plan({"collection": "c", "sources": [{"memory": "m"}, {"memory": "n"}]}, place.home))
    assert [(r.source, r.outcome) for r in found.quarantined] == [("n", "clash")]
    both = place.run(read_ingest_plan({"collection": "c", "sources": [{"memory": "m"}, {"memory": "n", "prefix": "n/"}]}, place.home))
    assert (both.added, both.refused) == (("n/a",), ())
    without = place.run(read_ingest_plan({"collection": "c", "sources": [{"memory": "n", "prefix": "n/"}]}, place.home))
    assert without.removed == ("a",)


def test_a_source_not_seen_for_long_is_stale(place: Place) -> None:
    place.write(a=prose(1))
    place.run(place.plan(stale_after="2d"))
    assert stale_sources(place.collection, now=time.time() + 86_400) == []
    assert stale_sources(place.collection, older="1h", now=time.time() + 86_400)[0].why == "Not seen for 1 days; 1h is allowed."
    assert "2d is allowed" in stale_sources(place.collection, now=time.time() + 3 * 86_400)[0].why


# Copies


def test_copies_are_recorded_with_the_one_that_stays(place: Place) -> None:
    text = prose(1, 200)
    place.write(a=text, b=text.upper(), c=text + " And more.", d=prose(2))
    found = place.run(place.plan(duplicates={"near": "drop"}))
    assert place.ids() == ["a.md", "d.md"]
    table = standings_table(place.collection, "copy")
    assert dict(zip(table["id"], table["copy of"], strict=True)) == {"b.md": "a.md", "c.md": "a.md"}
    assert [r.outcome for r in found.refused] == ["copy", "copy"]
    place.run(place.plan())
    assert place.ids() == ["a.md", "c.md", "d.md"]
    assert dict(zip(*(standings_table(place.collection, "copy")[k] for k in ("id", "copy of")), strict=True)) == {"b.md": "a.md", "c.md": "a.md"}
    (place.docs / "a.md").unlink()
    assert place.run().added == ("b.md",)  # The copy takes its place


def test_what_another_tenant_sees_is_no_copy(place: Place, memory: dict[str, Memory]) -> None:
    memory["m"], memory["n"] = Memory("m", {"a": prose(1)}), Memory("n", {"b": prose(1)})
    found = place.run(read_ingest_plan({"collection": "c", "sources": [{"memory": "m", "tenant": "x"}, {"memory": "n", "tenant": "y"}]}, place.home))
    assert (found.added, found.refused) == (("a", "b"), ())


@pytest.mark.parametrize("prefer, stays", [("first", "a"), ("newest", "b"), ("longest", "c")])
def test_which_copy_stays_can_be_said(place: Place, prefer: str, stays: str) -> None:
    text = prose(1, 200)
    place.write(a=text, b=text + " B.", c=text + " C with some more.")
    for number, name in enumerate("acb"):
        os.utime(place.docs / f"{name}.md", (number + 1, number + 1))
    place.run(place.plan(duplicates={"near": "drop", "prefer": prefer}))
    assert place.ids() == [f"{stays}.md"]


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3)), min_size=1, max_size=8, unique=True))
def test_of_every_group_exactly_one_stays(copies: list[tuple[str, int]]) -> None:
    from llmops_nb.collections import Record
    from llmops_nb.duplicates import normalised
    from llmops_nb.store import digest

    texts = {f"{name}{n}": prose(name) + "!" * n for name, n in copies}
    rows = [Standing("s", id, id, record=Record(id, text), words=digest(normalised(text)), sketch="") for id, text in texts.items()]
    settled = {row.id: row for row in settle(rows, Duplicates(near="ignore"), {}, texts.__getitem__, 0.0)}
    for name in {name for name, _ in copies}:
        group = [settled[id] for id in texts if id.startswith(name)]
        assert sum(row.outcome == "in" for row in group) == 1
        assert all(settled[row.copy_of].outcome == "in" for row in group if row.outcome == "copy")


# Versions and labels


def test_labels_move_back_and_forth(place: Place) -> None:
    place.write(a="one")
    one = place.run().version
    label_version(place.collection, "production", "staging", "first")
    place.write(a="two, longer")
    two = place.run().version
    assert place.collection.version("production").digest == one
    assert place.collection.version("staging").digest == two
    label_version(place.collection, "production", "staging")
    assert roll_back_collection(place.collection).version == one
    assert roll_back_collection(place.collection).version == two
    assert undo_label(place.collection).version == one
    label_version(place.collection, "canary", two[:8])
    assert undo_label(place.collection, "canary").version == ""
    with pytest.raises(ConfigurationError, match="No label of collection 'c' named 'canry'"):
        undo_label(place.collection, "canry")
    with pytest.raises(ConfigurationError, match="cannot be a label"):
        label_version(place.collection, "abcd")
    assert [m.why for m in place.collection.trail.labels["production"]] == ["first", "", "rollback", "rollback", "undo"]


@pytest.mark.parametrize("damage", ["changed", "missing", "list"])
def test_a_version_that_is_not_whole_is_not_promoted(place: Place, damage: str) -> None:
    place.write(a="one", b="two")
    version = place.run().version
    label_version(place.collection, "production")
    place.write(a="one more")
    place.run()
    row = place.collection.records()[0]
    text = place.collection.path / "texts" / row.text[:2] / row.text[2:]
    listed = place.collection.path / "versions" / f"{place.collection.version().digest}.jsonl"
    if damage == "list":
        listed.write_bytes(listed.read_bytes().replace(b'"title":"a"', b'"title":"x"'))
    elif damage == "changed":
        text.write_text("something else")
    else:
        text.unlink()
    assert check_version(place.collection)
    with pytest.raises(DataError, match="not whole, so 'production' stays where it is"):
        label_version(place.collection, "production")
    with pytest.raises(DataError):
        place.collection.corpus()
    assert place.collection.corpus("production").document("a.md").text == "one"
    assert place.collection.version("production").digest == version


def test_names_of_versions(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="There is no collection yet"):
        place.collection  # noqa: B018
    place.write(a="")
    place.run()
    with pytest.raises(ConfigurationError, match="has no version yet"):
        place.collection.corpus()
    place.write(a="text")
    version = place.run().version
    assert place.collection.corpus(version[:6]).name == "c"
    for wrong in ("prod", version[:3], "zzzz"):
        with pytest.raises(ConfigurationError, match="Known: .*'staging'"):
            place.collection.corpus(wrong)
    with pytest.raises(ConfigurationError, match="Known: 'c'"):
        open_collection("d", place.settings)
    assert [one.name for one in collections_in(place.settings)] == ["c"]
    (place.docs / "a.md").unlink()
    place.run(accept_deletions=True)
    with pytest.raises(DataError, match="has no documents"):
        place.collection.corpus()


def test_tables_and_pictures_hold_what_is_there(place: Place) -> None:
    place.write(a="# <script>alert(1)</script>\n\ntext", b="")
    report = place.run(place.plan(policy={"retention": "5y"}))
    assert list(documents_table(place.collection)["id"]) == ["a.md"]
    assert history_table(place.collection).loc[0, "labels"] == "staging"
    assert list(standings_table(place.collection)["outcome"]) == ["quarantined"]
    for drawn in (place.collection._repr_html_(), report._repr_html_()):
        assert "<script>" not in drawn
        assert "c" in drawn
    assert "quarantined: b.md" in str(report)


# One writer, killed writers


def test_two_runs_exclude_each_other(place: Place) -> None:
    place.write(a="one")
    place.run()
    code = "import sys, time\nfrom pathlib import Path\nfrom llmops_nb.collections import only_writer, Collection\nfrom llmops_nb.settings import load_settings\nwith only_writer(Collection('c', load_settings(sys.argv[1])), 'ingest'):\n    print('held', flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(place.home)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"is being written: ingest by process {other.pid} since 20"):
            place.run()
        assert place.collection.corpus().document("a.md").text == "one"
        with pytest.raises(RunError):
            forget(place.collection, ["a.md"])
    finally:
        other.kill()
        other.wait()
    assert place.run().documents == 1  # The lock dies with its process


RUN = """
import sys, time
from pathlib import Path
import llmops_nb.ingest as page
from llmops_nb.settings import load_settings
home, read = Path(sys.argv[1]), page.read_entry
def slow(entry, *more):
    with open(home / "reads", "a") as file:
        file.write(entry.id + "\\n")
    time.sleep(0.004)
    return read(entry, *more)
page.read_entry = slow
page.ingest(page.load_ingest_plan(home), load_settings(home), progress=False, workers=2)
"""


def test_killed_many_times_nothing_is_parsed_twice_and_the_old_version_can_be_read(place: Place) -> None:
    count, chance = 300, random.Random(4)
    place.write(**{f"d{n:03}": prose(n) for n in range(20)})
    (place.home / "sources.yaml").write_text("collection: c\nsources:\n  - folder: docs\n")
    old = place.run(load_ingest_plan(place.home)).version
    place.write(**{f"d{n:03}": prose(n) for n in range(20, count)})
    command, kills = [sys.executable, "-c", RUN, str(place.home)], 0
    reads = place.home / "reads"
    while kills < 5:
        before = len(reads.read_text().split()) if reads.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and (len(reads.read_text().split()) if reads.exists() else 0) < before + 15:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        assert len(place.collection.corpus(old)) == 20
        assert place.collection.version().digest == old
        assert check_version(place.collection) == []
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert len(place.ids()) == count
    assert check_version(place.collection) == []
    done = reads.read_text().split()
    assert set(done) == {f"d{n:03}.md" for n in range(20, count)}
    assert len(done) - len(set(done)) <= kills * 10  # Two threads, and what waits to be written
    assert dict(place.run(load_ingest_plan(place.home)).read) == {}


@pytest.mark.parametrize("step", ["versions", "history.json", "ledger.jsonl", "sources.json", "labels.yaml"])
def test_killed_before_each_file_of_the_end_it_goes_on(place: Place, step: str) -> None:
    place.write(a=prose(1))
    (place.home / "sources.yaml").write_text("collection: c\nsources:\n  - folder: docs\n")
    old = place.run(load_ingest_plan(place.home)).version
    place.write(a=prose(2), b=prose(3))
    code = f"""
import os, signal, sys
import llmops_nb.collections, llmops_nb.ingest as page, llmops_nb.versions, llmops_nb.store as store
real = store.write_atomic
def deadly(path, data):
    if {step!r} in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)
for module in (llmops_nb.collections, page, llmops_nb.versions):
    module.write_atomic = deadly
from llmops_nb.settings import load_settings
page.ingest(page.load_ingest_plan(sys.argv[1]), load_settings(sys.argv[1]), progress=False)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(place.home)], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert place.collection.corpus(old).document("a.md").text == prose(1)
    assert len(place.collection.corpus()) in (1, 2)
    again = place.run(load_ingest_plan(place.home))
    assert (dict(again.read), again.documents) == ({}, 2)
    assert place.collection.version("staging").digest == again.version == place.collection.version().digest


def test_texts_that_a_power_cut_tore_are_read_again(place: Place) -> None:
    place.write(a=prose(1), b=prose(2))
    place.run()
    place.write(c=prose(3), d=prose(4))
    rows = place.collection.ledger.read_bytes()
    old = place.collection.path / "history.json"
    history, newest = old.read_bytes(), place.run().version
    torn = next(r.text for r in place.collection.records(newest) if r.id == "c.md")
    old.write_bytes(history)  # As if the power had gone just before the version was named
    (place.collection.path / "texts" / torn[:2] / torn[2:]).write_bytes(b"")
    (place.collection.path / "writer.json").write_bytes(b"{}")
    assert rows != place.collection.ledger.read_bytes()
    again = place.run()
    assert (dict(again.read), again.version) == ({"new": 1}, newest)
    assert check_version(place.collection) == []


def test_a_full_disk_stops_the_run_and_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(**{f"d{n}": prose(n) for n in range(6)})
    first = place.run()
    place.write(**{f"e{n}": prose(n + 50) for n in range(6)})
    left, put = threading.Semaphore(3), store.Objects.put

    def full(self: Any, data: Any, sync: bool = True) -> str:
        if not left.acquire(blocking=False):
            raise RunError("No space left to write it.")
        return put(self, data, sync)

    monkeypatch.setattr(store.Objects, "put", full)
    with pytest.raises(RunError, match="No space left"):
        place.run()
    assert place.collection.version().digest == first.version
    monkeypatch.undo()
    assert sum(place.run().read.values()) == 3
    assert place.collection.version().documents == 12


def test_a_repository_elsewhere_is_copied_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(place.docs), "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True, capture_output=True)

    def packed() -> set[str]:
        return {path.name for path in (place.settings.state / "collections" / "c" / "git").rglob("objects/*/*") if path.is_file()}

    plan = place.plan(sources=[{"git": place.docs.as_uri(), "name": "wiki"}])
    place.write(**{f"d{n}": prose(n) for n in range(5)})
    git("init", "--quiet")
    git("add", "-A")
    git("commit", "--quiet", "-m", "one")
    assert place.run(plan, dry_run=True).read == {"new": 5}
    assert not (place.settings.state / "collections").exists()
    assert place.run(plan).documents == 5
    first = packed()
    assert first
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)  # A copy for a moment would be one of everything
    assert place.run(plan).read == {}
    assert packed() == first
    place.write(d3=prose("3b"))
    git("commit", "--quiet", "-am", "two")
    assert place.run(plan).changed == ("d3.md",)
    blobs = subprocess.run(["git", "-C", str(place.docs), "rev-list", "--objects", "HEAD~1"], check=True, capture_output=True, text=True).stdout
    assert 1 <= len(packed() - first) <= 3 < len(blobs.splitlines()), "a commit, a folder and a file, or one pack of them"
    proof = forget(place.collection, ["d3.md"])
    assert proof.clean
    assert any("git" in line for line in proof.done)
    assert packed() == set()
    monkeypatch.undo()
    assert place.run(plan).documents == 4
    assert any("copy of a git repository" in line for line in prove_forgotten(place.collection).unseen)


# Forgetting


def test_what_is_forgotten_is_gone_everywhere(place: Place) -> None:
    place.write(a=prose("a"), b=prose("b"), c=prose("c"))
    place.run()
    label_version(place.collection, "production")
    place.write(b=prose("b2"))
    place.run()
    state = place.settings.state
    with sqlite3.connect(state / "answers.sqlite") as cache:
        cache.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer BLOB) WITHOUT ROWID")
        cache.executemany("INSERT INTO answers VALUES (?, ?)", [("1", json.dumps({"text": prose("b")}).encode()), ("2", b"other")])
        cache.execute("CREATE TABLE spans (note TEXT)")
        cache.executemany("INSERT INTO spans VALUES (?)", [(f"<b>{prose('b2')}</b>",), ("nothing",)])
    with sqlite3.connect(state / "vectors.sqlite") as vectors:
        vectors.execute("CREATE TABLE vectors (model TEXT, text BLOB, vector BLOB, PRIMARY KEY (model, text)) WITHOUT ROWID")
        vectors.execute("INSERT INTO vectors VALUES ('m', x'00', x'00')")
    cache.close()
    vectors.close()
    for name, text in (("with", prose("b")), ("without", prose("a"))):
        (state / "index" / name).mkdir(parents=True)
        (state / "index" / name / "chunks.jsonl").write_text(json.dumps({"text": text}))
    (place.settings.reports / "run").mkdir(parents=True)
    (place.settings.reports / "run" / "records.jsonl").write_text(json.dumps({"passage": prose("b2")}))
    proof = forget(place.collection, ["b.md"], "asked")
    assert [line.partition(" holds")[0] for line in proof.left] == ["reports/run/records.jsonl"]
    shutil.rmtree(place.settings.reports / "run")
    assert prove_forgotten(place.collection).clean
    everything = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    for text in (prose("b"), prose("b2")):
        assert text[:40].encode() not in everything
    assert not (state / "index" / "with").exists()
    assert (state / "index" / "without").exists()
    with sqlite3.connect(state / "answers.sqlite") as cache:
        assert cache.execute("SELECT key FROM answers").fetchall() == [("2",)]
        assert cache.execute("SELECT note FROM spans").fetchall() == [("nothing",)]
    with sqlite3.connect(state / "vectors.sqlite") as vectors:
        assert vectors.execute("SELECT count(*) FROM vectors").fetchone() == (0,)
    assert [v.documents for v in place.collection.versions] == [2, 2]
    assert place.collection.corpus("production").document("a.md").text == prose("a")
    assert all(check_version(place.collection, v.digest) == [] for v in place.collection.versions)


def test_an_index_of_words_is_gone_with_its_document(place: Place) -> None:
    from llmops_nb.index import Recipe, build_index

    place.write(a=prose("a"), b=prose("b"))
    place.run()
    build_index(place.collection.corpus(), Recipe(embedder=""), None, place.settings.state)
    proof = forget(place.collection, ["b.md"])
    assert proof.clean
    assert any(line.startswith("index ") for line in proof.done)
    assert prose("b")[:40].encode() not in b"".join(path.read_bytes() for path in place.settings.state.rglob("*") if path.is_file())


@pytest.fixture
def on_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    "A project that keeps its indexes on a real PostgreSQL server."
    monkeypatch.setenv(VARIABLE, fresh_database("ingest"))
    (place.home / "settings.ini").write_text(f"[llmops]\nvectors = {VARIABLE}\n")
    place.settings = load_settings(place.home)
    assert place.settings.vectors == VARIABLE
    yield place
    for one in postgres._servers.values():
        one.close()


def test_what_is_forgotten_is_gone_from_indexes_on_a_server(on_server: Place) -> None:
    place, recipe = on_server, Recipe(chunk_size=30)
    place.write(a=prose("a"), b=prose("b", 200), c=prose("c"), short="# Tiny\n\nb.")
    place.run()
    index = postgres.open_postgres(place.collection.corpus(), recipe, None, VARIABLE)
    quoting = Corpus("other", (Document("x", "It says: " + prose("b", 200)), Document("y", "It says: " + prose("b", 200)), Document("b.md", "Another text of that name.")))
    other = postgres.open_postgres(quoting, recipe, None, VARIABLE)
    alone = postgres.open_postgres(Corpus("alone", (Document("b.md", "Another text of that name."),)), recipe, None, VARIABLE)
    before = alone.digest
    with pytest.raises(ConfigurationError, match="Pass indexes=open_served"):
        forget(place.collection, ["b.md"])
    assert place.ids() == ["a.md", "b.md", "c.md", "short.md"]
    proof = forget(place.collection, ["b.md", "short.md"], "asked", postgres.open_served(place.settings))
    assert proof.clean
    assert proof.indexes == 3
    assert sorted(line.partition("server: ")[2] for line in proof.done if "on the server" in line) == ["deleted b.md, short.md", "deleted x, y"]
    assert {chunk.document for chunk in index.chunks} == {"a.md", "c.md"}
    assert [chunk.text for chunk in other.chunks] == ["Another text of that name."]
    assert alone.digest == before
    assert index.digest == postgres.open_postgres(place.collection.corpus(), recipe, None, VARIABLE).digest, "it is the index of what stays"
    postgres.open_postgres(quoting, recipe, None, VARIABLE)
    again = prove_forgotten(place.collection, indexes=postgres.open_served(place.settings))
    assert [line.partition("server: ")[2] for line in again.left] == ["x. Forget once more."], "y is only a copy while x stands"
    assert forget(place.collection, ["b.md"], indexes=postgres.open_served(place.settings)).clean


def test_all_documents_of_an_index_on_a_server_can_be_forgotten(on_server: Place) -> None:
    on_server.write(a=prose("a"))
    on_server.run()
    index = postgres.open_postgres(on_server.collection.corpus(), Recipe(), None, VARIABLE)
    assert forget(on_server.collection, ["a.md"], indexes=[index]).clean
    assert len(index) == 0
    assert index.matching(prose("a"), 3) == []


def test_a_server_that_cannot_be_reached_keeps_everything(on_server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place = on_server
    place.write(a=prose("a"), b=prose("b"))
    place.run()
    monkeypatch.chdir(place.home)
    before = {path: path.read_bytes() for path in place.settings.state.rglob("*") if path.is_file()}
    with monkeypatch.context() as gone:
        gone.setenv(VARIABLE, "postgresql://somebody:secret-word@127.0.0.1:9/x")
        said = CliRunner().invoke(main, ["collection", "forget", "c", "b.md", "--yes"])
    assert said.exit_code == 1
    assert "cannot be reached" in said.output
    assert "secret-word" not in said.output
    assert {path: path.read_bytes() for path in place.settings.state.rglob("*") if path.is_file()} == before
    said = CliRunner().invoke(main, ["collection", "forget", "c", "b.md", "--yes"])
    assert said.exit_code == 0, said.output


def test_a_server_that_goes_away_meanwhile_is_told_and_the_rest_is_done(on_server: Place) -> None:
    import psycopg

    place = on_server
    place.write(a=prose("a"), b=prose("b"))
    place.run()
    index = postgres.open_postgres(place.collection.corpus(), Recipe(), None, VARIABLE)
    opened = postgres.open_served(place.settings)
    with psycopg.connect(os.environ[VARIABLE], autocommit=True) as connection:
        connection.execute("ALTER TABLE llmops_rows_1 RENAME TO hidden")
        proof = forget(place.collection, ["b.md"], indexes=opened)
        assert place.ids() == ["a.md"]
        assert not proof.clean
        assert any("could not be cleaned" in line for line in proof.done)
        assert any("could not be searched" in line for line in proof.left)
        connection.execute("ALTER TABLE hidden RENAME TO llmops_rows_1")
    assert "b.md" in {chunk.document for chunk in index.chunks}
    assert forget(place.collection, ["b.md"], indexes=opened).clean
    assert {chunk.document for chunk in index.chunks} == {"a.md"}


def test_a_forgotten_document_does_not_come_back_until_it_may(place: Place) -> None:
    place.write(a=prose("a"), b=prose("b"))
    place.run()
    forget(place.collection, ["b.md"])
    found = place.run()
    assert (found.documents, [(r.id, r.outcome) for r in found.refused]) == (1, [("b.md", "forgotten")])
    place.write(b=prose("b") + " again")
    assert place.run().documents == 1
    assert prove_forgotten(place.collection).clean
    remember(place.collection, ["b.md"])
    assert place.run().added == ("b.md",)
    with pytest.raises(ConfigurationError, match="No forgotten document named 'b.md'"):
        remember(place.collection, ["b.md"])
    with pytest.raises(ConfigurationError, match="No document in any version of 'c' named 'x'"):
        forget(place.collection, ["x"])


def test_a_copy_that_stays_is_named_and_kept(place: Place) -> None:
    text = prose("same", 100)
    place.write(a=text, b=text, c=prose("c"))
    place.run()
    proof = forget(place.collection, ["a.md"])
    assert any("stays as b.md" in line for line in proof.unseen)
    assert place.run().added == ("b.md",)
    assert place.collection.corpus().document("b.md").text == text
    again = forget(place.collection, ["a.md"])
    assert again.clean, "what a copy still needs is not left over"
    assert any("stays as b.md" in line for line in again.unseen)
    (place.docs / "b.md").unlink()
    place.run()
    assert forget(place.collection, ["b.md"]).clean
    assert not any("stays as b.md" in line for line in forget(place.collection, ["a.md"]).unseen)
    digest = tombstones(place.collection)["b.md"].texts[0]
    back = place.collection.texts._path(digest)
    back.parent.mkdir(exist_ok=True)
    back.write_text(text)
    assert any("is a text of it" in line for line in prove_forgotten(place.collection).left)
    assert forget(place.collection, ["a.md"]).clean


def test_a_forgetting_that_was_killed_is_finished_by_the_next(place: Place) -> None:
    place.write(a=prose("a"), b=prose("b"))
    place.run()
    label_version(place.collection, "production")
    code = """
import os, signal, sys
import llmops_nb._collections_forget as mechanism
from llmops_nb.collections import forget, open_collection
from llmops_nb.settings import load_settings
mechanism.move_label = lambda *more: os.kill(os.getpid(), signal.SIGKILL)
forget(open_collection("c", load_settings(sys.argv[1])), ["b.md"])
"""
    assert subprocess.run([sys.executable, "-c", code, str(place.home)], capture_output=True).returncode == -signal.SIGKILL
    proof = forget(place.collection, ["b.md"])
    assert proof.clean
    assert len(tombstones(place.collection)["b.md"].pieces) > 3
    assert [r.id for r in place.collection.records("production")] == ["a.md"]
    with pytest.raises(ConfigurationError, match="nothing to go back to"):
        roll_back_collection(place.collection)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=400), st.binary(max_size=50), st.integers(0, 100))
def test_pieces_of_a_text_are_found_in_what_quotes_it(text: str, around: bytes, cut: int) -> None:
    hashes = pieces(text)
    wanted = Wanted(hashes)
    for data in (text.encode(), json.dumps(text, ensure_ascii=False).encode()):
        assert wanted.found(around + data + around) == set(hashes)
    assert Wanted(hashes).found(around) <= set(hashes)


def test_pieces_are_found_across_blocks(tmp_path: Path) -> None:
    from llmops_nb import _collections_scan as scan

    text = prose("x", 50)
    file = tmp_path / "big"
    for before in (scan._BLOCK - 20, scan._BLOCK - 100, 3):
        file.write_bytes(b"." * before + text.encode() + b"." * 50)
        assert Wanted(pieces(text)).in_file(file) == set(pieces(text))


# Hostile files


def bomb() -> bytes:
    "An Office file that unpacks to far more than it is."
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "x")
        archive.writestr("word/document.xml", b"A" * 60_000_000)
    return data.getvalue()


def encrypted_pdf() -> bytes:
    "A PDF that asks for a password."
    from pypdf import PdfWriter

    writer, data = PdfWriter(), io.BytesIO()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(data)
    return data.getvalue()


def test_good_files_come_in_beside_bad_ones_and_nothing_is_harmed(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("the secret outside the folder")
    good = {"a.md": b"# A\n\nA good text.", "latin.txt": "Größe und Ärger über die Straße, schön und gut.".encode("cp1252"), "utf16.txt": "Text in UTF-16.".encode("utf-16"), "page.html": b"<html><body><main><h1>Page</h1><p>" + prose(9).encode() + b"</p></main></body></html>"}
    bad = {"empty.md": b"", "blank.txt": b" \n ", "cut.pdf": b"%PDF-1.4\n1 0 obj\n<<", "picture.docx": b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "bomb.docx": bomb(), "locked.pdf": encrypted_pdf(), "noise.txt": random.Random(1).randbytes(3000), "cut.docx": bomb()[:2000]}
    for name, data in {**good, **bad}.items():
        (place.docs / name).write_bytes(data)
    os.truncate(os.open(place.docs / "huge.txt", os.O_CREAT | os.O_WRONLY), 500_000_000)
    (place.docs / "link.txt").symlink_to(outside)
    (place.docs / "loop").symlink_to(place.docs)
    (place.docs / "dangling.md").symlink_to(place.docs / "nothing")
    with open(os.fsencode(place.docs) + b"/bad\xff.md", "w") as file:
        file.write("# A name that is no text\n")
    before = {path: path.read_bytes() for path in place.docs.iterdir() if path.is_file() and path.name != "huge.txt"}
    found = place.run()
    assert set(found.added) == set(good)
    reasons = {r.id: r.reason for r in found.quarantined}
    assert set(reasons) == {*bad, "huge.txt", "link.txt", "loop", "dangling.md", r"bad\xff.md"}
    assert all(len(reason) > 15 for reason in reasons.values())
    assert before == {path: path.read_bytes() for path in before}
    assert b"secret outside" not in b"".join(path.read_bytes() for path in place.settings.state.rglob("*") if path.is_file())
    assert "Größe und Ärger" in place.collection.corpus().document("latin.txt").text
    again = place.run()
    assert again.version == found.version
    assert set(again.read) <= {"unknown"}  # Links and the like, which have no state of their own


# Commands


def llmops(*words: str) -> Any:
    "A command, in this process."
    return CliRunner().invoke(main, list(words))


def test_commands_from_the_first_to_the_last(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.home)
    assert (llmops("ingest").exit_code, "A plan begins with `collection: handbook`" in llmops("ingest").output) == (1, True)
    assert "llmops ingest sources.yaml" in llmops("collection", "list").output
    place.write(a=prose("a"), b="", c=prose("c"))
    (place.home / "sources.yaml").write_text("collection: c\nsources:\n  - folder: docs\n    sensitivity: internal\n")
    assert "2 would be read" not in llmops("ingest", "--dry-run", "--quiet").output
    first = llmops("ingest", "--quiet", "--json")
    assert (first.exit_code, json.loads(first.output)["documents"]) == (0, 2)
    assert llmops("ingest", "--quiet", "--strict").exit_code == 3
    assert json.loads(llmops("collection", "quarantine", "c", "--json").output)[0]["id"] == "b.md"
    assert llmops("collection", "label", "c@staging", "production", "--why", "looked at").exit_code == 0
    place.write(a=prose("a2"))
    assert llmops("ingest", "--quiet").exit_code == 0
    assert llmops("collection", "label", "c", "production").exit_code == 0
    assert json.loads(llmops("collection", "label", "c", "--json").output)["trail"]["production"][0]["why"] == "looked at"
    assert llmops("collection", "rollback", "c").exit_code == 0
    assert llmops("collection", "rollback", "c", "--undo").exit_code == 0
    assert llmops("collection", "rollback", "c", "--undo", "--to", "staging").exit_code == 1
    assert [row["id"] for row in json.loads(llmops("collection", "documents", "c@production", "--json").output)] == ["a.md", "c.md"]
    assert "production" in llmops("collection", "show", "c").output
    assert json.loads(llmops("collection", "list", "--json").output)[0]["quarantined"] == 1
    assert "Call it with --yes" in llmops("collection", "forget", "c", "a.md").output
    assert len(place.ids()) == 2
    assert llmops("collection", "forget", "c", "a.md", "--yes").exit_code == 0
    assert llmops("collection", "verify", "c").exit_code == 0
    (place.settings.reports).mkdir()
    (place.settings.reports / "leak.txt").write_text(prose("a2"))
    leak = llmops("collection", "verify", "c", "--json")
    assert (leak.exit_code, len(json.loads(leak.output)["forgotten"]["left"])) == (1, 1)
    assert llmops("collection", "forget", "c", "a.md", "--lift").exit_code == 0
    assert llmops("ingest", "--quiet").exit_code == 0
    shutil.rmtree(place.docs)
    assert llmops("ingest", "--quiet", "--strict").exit_code == 3
    assert llmops("collection", "stale", "c", "--strict").exit_code == 3
    assert "does not exist" in llmops("collection", "stale", "c").output
    assert "Known: 'c'" in llmops("collection", "show", "d").output
    assert "Traceback" not in llmops("collection", "label", "c@nothing", "production").output


def test_a_collection_of_no_project_is_not_made_by_reading(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path / "state")
    assert collections_in(settings) == []
    with pytest.raises(ConfigurationError):
        open_collection("c", settings)
    assert not (tmp_path / "state").exists()
    with only_writer(Collection("c", settings), "test"):
        assert (tmp_path / "state" / "collections" / "c" / "writer.json").exists()
