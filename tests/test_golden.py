"""Golden sets: versions, review, what changed, what is wrong, and a test split that nobody tunes on."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb.core import ConfigurationError, DataError, Evidence, Item
from llmops_nb.datasets import GoldenSet, divide, load_golden, parse_golden, reviewed, save_golden, select
from llmops_nb.golden_changes import Seal, diff_golden, golden_at, looks, read_seal, seal, seal_path, tuning_only
from llmops_nb.golden_checks import check_golden, golden_stats, golden_twins
from project import ROOT


def made(n: int = 6, **values: object) -> GoldenSet:
    "A set, the first half of it for tuning; in files of 10 there is nothing small to warn of."
    topics = ["river", "mountain", "forest", "harbour", "castle", "bridge", "desert", "village", "garden", "island"]
    items = [Item(f"i{k}", f"Where does the {topics[k % 10]} of region {k * 7919} lie?", f"in {k}", slices=("places",), split="dev" if k < n // 2 else "test") for k in range(n)]
    return GoldenSet("made.jsonl", tuple(replace(item, **values) for item in items))  # type: ignore[arg-type]


def changed(golden: GoldenSet, key: str, **values: object) -> GoldenSet:
    return replace(golden, items=tuple(replace(i, **values) if i.id == key else i for i in golden))  # type: ignore[arg-type]


# Versions and review


def test_a_version_is_what_items_say(tmp_path: Path) -> None:
    written_out = parse_golden('{"id": "a", "question": "?", "split": "dev", "answerable": true, "note": "", "facts": [], "review": "accepted"}', "x")
    left_out = parse_golden('{"question": "?", "id": "a"}', "x")
    built = GoldenSet("y", (Item("a", "?"),))
    assert written_out.digest == left_out.digest == built.digest and built.content == b'[{"id":"a","question":"?"}]'
    save_golden(written_out, tmp_path / "short.jsonl")
    assert (tmp_path / "short.jsonl").read_bytes() == b'{"id":"a","question":"?"}\n'
    for other in (Item("a", "?", review="draft"), Item("a", "?", note="n"), Item("a", "!")):
        assert GoldenSet("y", (other,)).digest != built.digest
    golden = load_golden(ROOT / "experiments/pydocs/golden/pydocs.jsonl")
    save_golden(golden, tmp_path / "again.jsonl")
    assert load_golden(tmp_path / "again.jsonl").digest == golden.digest
    assert not golden.to_pandas().isna().any().any()


def test_line_separators_inside_a_question_are_no_line_ends(tmp_path: Path) -> None:
    golden = GoldenSet("x", (Item("a", "one\u2028two\x0bthree\x85four\r\nfive"),))
    save_golden(golden, tmp_path / "x.jsonl")
    assert load_golden(tmp_path / "x.jsonl").items == golden.items
    assert parse_golden('{"id": "a", "question": "?"}\r\n{"id": "b", "question": "?"}\r\n', "x").items[1].id == "b"


def test_review_decides_what_is_asked() -> None:
    golden = reviewed(made(), {"i0": "rejected", "i1": "draft", "i5": "draft"})
    assert [i.id for i in select(golden)] == ["i1", "i2", "i3", "i4", "i5"]
    assert select(golden).selection == "without 1 rejected, 2 of them drafts"
    assert [i.id for i in select(golden, review="accepted")] == ["i2", "i3", "i4"]
    assert select(golden, review="accepted", split="dev").selection == "split dev, without 2 not accepted"
    assert len(select(golden, review="rejected")) == 6
    assert select(made()).selection == "all" and select(made()).digest == made().digest
    with pytest.raises(DataError, match="No review state named 'aceptd'"):
        select(golden, review="aceptd")
    with pytest.raises(DataError, match="No item named 'i9'"):
        reviewed(golden, {"i9": "draft"})
    with pytest.raises(DataError, match="x:1: No review state named 'ok'"):
        parse_golden('{"id": "a", "question": "?", "review": "ok"}', "x")


def test_dividing_keeps_what_is_alike_together_and_what_is_test_in_test() -> None:
    golden = replace(made(200), items=tuple(replace(i, split="dev", slices=("rare",) if k % 10 == 0 else ("often",)) for k, i in enumerate(made(200))))
    golden = changed(changed(golden, "i3", question=golden["i7"].question + "!"), "i9", split="test")
    divided = divide(golden, 0.3)
    test = {i.id for i in divided if i.split == "test"}
    assert sum(i.slices == ("rare",) for i in divided if i.id in test) == 6 and abs(len(test) - 60) <= 1
    assert "i9" in test and ("i3" in test) == ("i7" in test)
    assert divide(replace(golden, items=golden.items[::-1]), 0.3)["i5"].split == divided["i5"].split
    assert divide(divided, 0.3).items == divided.items
    assert {i.id for i in divide(divided, 0.5) if i.split == "test"} > test
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(ConfigurationError, match="share"):
            divide(golden, share)


# Differences


def test_diff_pairs_renamed_items_and_counts_by_slice() -> None:
    old = made()
    new = changed(changed(old, "i0", id="zero"), "i1", slices=("water",), expected="elsewhere")
    new = replace(new, items=(*new.items[:5], Item("new", "Brand new?", slices=("water",))))
    diff = diff_golden(old, new)
    assert {(c.before.id, c.after.id): c.fields for c in diff.changed} == {("i0", "zero"): ("id",), ("i1", "i1"): ("expected", "slices")}
    assert [i.id for i in diff.added] == ["new"] and [i.id for i in diff.removed] == ["i5"] and diff.unchanged == 3 and not diff.reordered
    assert {s.slice: (s.before, s.after, s.added, s.removed, s.changed) for s in diff.by_slice} == {"": (6, 6, 1, 1, 2), "places": (6, 4, 0, 2, 1), "water": (0, 2, 2, 0, 0)}
    assert str(diff) == "1 added, 1 removed, 2 changed, 3 unchanged" and bool(diff)


def test_diff_of_the_same_of_order_and_of_nothing_in_common() -> None:
    golden = made()
    assert not diff_golden(golden, golden) and str(diff_golden(golden, golden)) == "The two versions are the same."
    turned = diff_golden(golden, replace(golden, items=golden.items[::-1]))
    assert turned.reordered and turned and not (turned.added or turned.removed or turned.changed)
    assert not diff_golden(golden, replace(golden, items=(Item("first", "A new one"), *golden.items[1:]))).reordered
    other = diff_golden(golden, GoldenSet("o", (Item("x", "<script>alert(1)</script>"),)))
    assert len(other.added) == 1 and len(other.removed) == 6 and "<script>" not in other._repr_html_()
    twice, renamed = GoldenSet("t", (Item("a", "Same?"), Item("b", "Same?"))), GoldenSet("t", (Item("c", "Same?"), Item("d", "same")))
    assert [(c.before.id, c.after.id) for c in diff_golden(twice, renamed).changed] == [("a", "c"), ("b", "d")]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=a@example.com", *words], cwd=folder, check=True, capture_output=True)


def test_a_set_at_a_revision(tmp_path: Path) -> None:
    file = tmp_path / "sets" / "q.jsonl"
    git(tmp_path, "init", "-q")
    save_golden(made(), file)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    save_golden(changed(made(), "i0", question="Other?"), file)
    assert diff_golden(golden_at(file, "HEAD"), load_golden(file)).changed[0].fields == ("question",)
    for revision, said in (("nosuch", "nosuch"), ("", "is not a revision"), ("--output=x", "is not a revision")):
        with pytest.raises(DataError, match=said):
            golden_at(file, revision)
    with pytest.raises(DataError, match="git has no other.jsonl"):
        golden_at(file.with_name("other.jsonl"), "HEAD")


# The seal


def test_a_seal_notices_everything_and_keeps_its_history(tmp_path: Path) -> None:
    golden, file = made(), tmp_path / "made.jsonl"
    first = seal(golden, file, "  final  ", who="Ada", when="2026-01-01T00:00:00+00:00")
    assert read_seal(file) == first and first.why == "final" and seal_path(file).name == "made.seal.json"
    assert first.problems(golden) == () and first.problems(replace(golden, items=golden.items[::-1])) == ()
    assert first.problems(changed(golden, "i0", question="A dev item may change?")) == ()
    for other, said in (
        (changed(golden, "i5", expected="x"), "'i5' was changed"),
        (changed(golden, "i5", split="dev"), "'i5' was moved to split 'dev'"),
        (changed(golden, "i0", split="test"), "'i0' was added after the seal"),
        (replace(golden, items=golden.items[:-1]), "'i5' was removed"),
        (changed(golden, "i5", review="rejected"), "'i5' was changed"),
    ):
        assert len(first.problems(other)) == 1 and said in first.problems(other)[0]
    with pytest.raises(ConfigurationError, match="sealed already, by Ada"):
        seal(golden, file, "again")
    with pytest.raises(ConfigurationError, match="needs a reason"):
        seal(changed(golden, "i5", expected="x"), file, " ")
    second = seal(changed(golden, "i5", expected="x"), file, "typo", who="Grace")
    assert [dict(b)["who"] for b in second.before] == ["Ada"] and second.digest != first.digest
    with pytest.raises(ConfigurationError, match="nothing to seal"):
        seal(select(golden, split="dev"), tmp_path / "dev.jsonl", "why")
    assert not (tmp_path / "dev.seal.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"golden": "x"}', '{"golden": "x", "digest": 3, "items": {}, "who": "", "when": "", "why": ""}', '{"surprise": 1}'])
def test_a_broken_seal_is_an_error_not_no_seal(tmp_path: Path, text: str) -> None:
    (tmp_path / "q.seal.json").write_text(text)
    with pytest.raises(DataError, match=r"q\.seal\.json is not a seal"):
        read_seal(tmp_path / "q.jsonl")


def test_tuning_keeps_off_test_items_whatever_they_are_called() -> None:
    golden = made()
    sealed = Seal("made.jsonl", "", {i.id: "" for i in golden if i.split == "test"}, "Ada", "", "")
    tuning_only(select(golden, split="dev"), sealed)
    for selection in (golden, select(golden, split="test"), select(golden, limit=4)):
        with pytest.raises(ConfigurationError, match="of the test split"):
            tuning_only(selection)
    disguised = replace(golden, items=tuple(replace(i, split="dev") for i in golden))
    with pytest.raises(ConfigurationError, match="3 sealed items moved out of it"):
        tuning_only(disguised, sealed)


def test_looks_are_counted_by_items_when_they_are_kept() -> None:
    golden = made()
    dev, test, other = select(golden, split="dev"), select(golden, split="test", limit=2), GoldenSet("o", (Item("x", "?", split="test"),))
    kept = {g.digest: g.content for g in (golden, dev, test, other)}

    def run(n: int, asked: GoldenSet, app: str, **more: str) -> dict[str, object]:
        return {"id": f"r{n}", "created": f"2026-01-0{n}", "selection": asked.selection, "digests": {"golden": asked.digest, "app": app, **more}}

    runs = [run(4, test, "v2"), run(1, golden, "v1"), run(2, dev, "v1"), run(3, other, "v9"), run(5, test, "v2", model="m")]
    counted = looks(runs, golden, kept.get)
    assert [(look.run, look.items) for look in counted.looks] == [("r1", 3), ("r4", 2), ("r5", 2)] and counted.versions == 3
    assert "looked at 3 times by 3 versions" in str(counted)
    blind = looks([{**r, "digests": {}} for r in runs] + [{"id": "r9", "digests": None}], golden)
    assert [look.run for look in blind.looks] == ["r9", "r1", "r3", "r4", "r5"]
    assert "has not been looked at" in str(looks([], golden))


# What is wrong


def kinds(golden: GoldenSet, **options: object) -> set[tuple[str, str, str]]:
    return {(p.level, p.kind, p.item) for p in check_golden(golden, **options).problems}  # type: ignore[arg-type]


def test_a_sound_set_has_no_errors_and_no_warnings() -> None:
    report = check_golden(made(40))
    assert report.of("error") == report.of("warning") == () and {p.kind for p in report.of("note")} == {"not sealed", "all answerable", "no evidence", "no facts"}
    mine = check_golden(load_golden(ROOT / "experiments/pydocs/golden/pydocs.jsonl"))
    assert mine.of("error") == () and {p.kind for p in mine.of("warning")} <= {"small slice"}


@pytest.mark.parametrize(
    ("key", "values", "problem"),
    [
        ("i1", {"expected": ""}, ("error", "nothing to judge by", "i1")),
        ("i1", {"facts": (("elsewhere",),)}, ("error", "fails itself", "i1")),
        ("i1", {"facts": (("lie",),), "expected": "they lie"}, ("warning", "gives itself away", "i1")),
        ("i1", {"facts": (("lie",), ("1",)), "expected": "they lie 1"}, ("note", "gives itself away", "i1")),
        ("i1", {"question": "x " * 3000}, ("note", "long question", "i1")),
        ("i1", {"split": "tets"}, ("error", "not an item", "i1")),
        ("i1", {"id": "i0"}, ("error", "id twice", "i0")),
        ("i1", {"evidence": (Evidence("d", "q"),)}, ("note", "some evidence", "")),
        ("i1", {"evidence": (Evidence("d", "q"),), "expected": ""}, ("note", "retrieval only", "")),
        ("i1", {"review": "draft"}, ("note", "drafts", "")),
        ("i1", {"slices": ("lonely",)}, ("warning", "small slice", "")),
        ("i1", {"question": "where does the RIVER of region 0 lie"}, ("warning", "question twice", "i1")),
        ("i1", {"question": "Where does the rivers of region 0 lie?"}, ("warning", "question twice", "i1")),
        ("i39", {"question": "where does the RIVER of region 0 lie"}, ("error", "leak", "i39")),
        ("i39", {"question": "Where does the rivers of region 0 lie?"}, ("warning", "leak", "i39")),
    ],
)
def test_each_problem_is_seen(key: str, values: dict[str, object], problem: tuple[str, str, str]) -> None:
    assert problem not in kinds(made(40))
    assert problem in kinds(changed(made(40), key, **values))


def test_a_broken_seal_is_an_error_of_the_set(tmp_path: Path) -> None:
    golden = made(40)
    sealed = seal(golden, tmp_path / "q.jsonl", "why", who="Ada")
    assert ("error", "seal broken", "") in kinds(changed(golden, "i39", expected="x"), seal=sealed)
    assert not {k for k in kinds(golden, seal=sealed) if k[1] in ("seal broken", "not sealed")}


def test_statistics_count_every_part() -> None:
    golden = changed(changed(made(), "i0", answerable=False, expected=""), "i1", origin="traffic", slices=("places", "wet"))
    parts = {(p.kind, p.name): p for p in golden_stats(golden).parts}
    assert (whole := parts["all", ""]).items == 6 and whole.answerable == 5 / 6 and whole.expected == 1 and whole.facts == whole.evidence == 0
    assert parts["slice", "wet"].items == 1 and parts["origin", "traffic"].dev == 1 and parts["split", "test"].test == 3 and parts["review", "accepted"].items == 6
    assert len(golden_stats(golden).to_pandas()) == len(parts)
    nothing = golden_stats(GoldenSet("e", ())).parts[0]
    assert nothing.items == 0 and nothing.answerable == 0


def test_what_people_wrote_is_escaped() -> None:
    hostile = GoldenSet("<img onerror=x>", (Item("<b>", "<script>x</script>", slices=("<i>",), origin="<u>"), Item("c", "<script>x</script>!", split="test")))
    for shown in (hostile, golden_stats(hostile), check_golden(hostile), diff_golden(hostile, made())):
        html = shown._repr_html_()
        assert not any(tag in html for tag in ("<script", "<img", "<i>", "<u>", "<b><"))
    assert golden_twins(hostile)[0].leak and json.dumps(str(check_golden(hostile)))
