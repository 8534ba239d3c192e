"""`llmops golden` as a person and a pipeline use it: files in, text or JSON out, exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmops_nb.commands import main
from llmops_nb.core import to_json
from llmops_nb.datasets import load_golden, save_golden, select
from llmops_nb.evals import RunInfo
from llmops_nb.store import Objects
from made_comparison import pair
from test_golden import changed, git, made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A project with one golden set, which is where commands are called."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("[llmops]\n")
    save_golden(made(40), tmp_path / "experiments" / "made" / "golden" / "made.jsonl")
    return tmp_path / "experiments" / "made" / "golden" / "made.jsonl"


def golden(*words: object, code: int = 0) -> str:
    "What a command prints; its exit code must be as said."
    done = CliRunner().invoke(main, ["golden", *map(str, words)])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output and (done.exception is None or isinstance(done.exception, SystemExit)), done.output
    return done.output


def as_json(*words: object, code: int = 0) -> Any:
    return json.loads(golden(*words, "--json", code=code))


def test_list(here: Path) -> None:
    (here.parent / "broken.jsonl").write_text("{")
    text = golden("list")
    assert re.search(r"experiments/made/golden/made.jsonl +40 +20 +20 +0 +[0-9a-f]{12}  not sealed", text) and "broken.jsonl:1: not JSON" in text
    golden("seal", here, "--why", "final")
    assert [f.get("seal") for f in as_json("list")] == [None, "sealed"]
    save_golden(changed(made(40), "i39", note="x"), here)
    assert "SEAL BROKEN: 1 problem" in golden("list")
    assert "llmops golden import" in golden("list", here.parent)


def test_import_writes_only_what_it_is_told(here: Path) -> None:
    (source := Path("faq.csv")).write_text("Frage;Antwort\nWo?;hier\nWann?;jetzt;gleich\n")
    golden("import", source, code=1)
    assert "Nothing was written" in golden("import", source, "--map", "question=Frage") and not Path("faq.jsonl").exists()
    assert "--strict" in golden("import", source, "--map", "question=Frage", "--to", "faq.jsonl", "--strict", code=1) and not Path("faq.jsonl").exists()
    report = as_json("import", source, "--map", "question=Frage", "--map", "expected=Antwort", "--to", "faq.jsonl", "--split", "test", "--review", "accepted", "--origin", "team")
    assert report["items"] == 1 and report["report"]["refused"][0]["where"] == "faq.csv:3" and report["written"] == "faq.jsonl"
    item = load_golden("faq.jsonl").items[0]
    assert (item.expected, item.split, item.review, item.origin) == ("hier", "test", "accepted", "team")
    assert "exists already" in golden("import", source, "--map", "question=Frage", "--to", "faq.jsonl", code=1)
    assert "1 id already" in golden("import", source, "--map", "question=Frage", "--to", "faq.jsonl", "--add", code=1)
    Path("more.csv").write_text("question,answer\nWarum?,darum\n")
    golden("import", "more.csv", "--to", "faq.jsonl", "--add")
    assert [i.question for i in load_golden("faq.jsonl")] == ["Wo?", "Warum?"]
    assert "is not FIELD=COLUMN" in golden("import", source, "--map", "Frage", code=1)
    golden("import", "nosuch.csv", code=2)


def test_import_with_documents(here: Path) -> None:
    Path("q.json").write_text(json.dumps([{"question": "Hills?", "answer": "seven", "document": "rome", "context": "Rome has seven hills."}]))
    golden("import", "q.json", "--to", "q.jsonl", "--documents", "docs")
    assert Path("docs/rome.md").read_text() == "Rome has seven hills.\n" and load_golden("q.jsonl").items[0].evidence[0].document == "rome.md"


def test_diff_of_files_and_revisions(here: Path) -> None:
    git(Path(), "init", "-q")
    git(Path(), "add", "-A")
    git(Path(), "commit", "-qm", "one")
    assert "The two versions are the same." in golden("diff", here, "--since", "HEAD", "--exit-code")
    save_golden(changed(changed(made(40), "i0", expected="near"), "i1", id="one"), here)
    text = golden("diff", here, "--since", "HEAD", "--exit-code", code=1)
    assert "~ i0" in text and "'in 0'" in text and "'near'" in text and "~ one" in text
    assert golden("diff", f"HEAD:{here.relative_to(Path.cwd()).as_posix()}", here) == text
    assert [c["fields"] for c in as_json("diff", here, "--since", "HEAD")["changed"]] == [["expected"], ["id"]]
    for words in ((here,), (here, here, "--since", "HEAD")):
        assert "Name two sides" in golden("diff", *words, code=1)
    assert "git has no" in golden("diff", here, "--since", "nosuch", code=1)
    assert "No golden set named 'other.jsonl'" in golden("diff", here, here.with_name("other.jsonl"), code=1)


def test_check_exit_codes(here: Path) -> None:
    golden("check", here, "--strict")
    save_golden(changed(made(40), "i0", slices=("lonely",)), here)
    assert "WARNING: small slice (1)" in golden("check", here)
    golden("check", here, "--strict", code=1)
    golden("check", here, "--strict", "--few", 1)
    save_golden(changed(made(40), "i0", expected=""), here)
    report = as_json("check", here, code=1)
    assert report["problems"][0] | {"fix": ""} == {"level": "error", "kind": "nothing to judge by", "item": "i0", "what": "It has neither facts nor evidence nor an expected answer.", "fix": ""}
    here.write_text("")
    assert "holds no items" in golden("check", here, code=1)


def test_duplicates(here: Path) -> None:
    assert "No two of 40 questions" in golden("duplicates", here)
    twin = changed(made(40), "i39", question=made(40)["i0"].question.upper())
    save_golden(twin, here)
    assert "LEAK" in golden("duplicates", here, code=1)
    save_golden(changed(twin, "i39", split="dev", question=made(40)["i0"].question.upper()), here)
    assert as_json("duplicates", here) == [{"a": "i0", "b": "i39", "similarity": 1.0, "leak": False}]
    save_golden(select(made(40), limit=3), Path("other.jsonl"))
    assert len(as_json("duplicates", "other.jsonl", here, code=1)) == 4
    assert "above 0" in golden("duplicates", here, "--threshold", 0, code=1)


def test_seal_tells_how_things_stand(here: Path) -> None:
    assert "is not sealed" in golden("seal", here)
    assert "20 test items, sealed by Ada" in golden("seal", here, "--why", "final", "--who", "Ada")
    assert here.with_name("made.seal.json").exists() and "sealed already" in golden("seal", here, "--why", "x", code=1)
    assert "is sealed: dividing it again" in golden("divide", here, code=1)
    save_golden(changed(made(40), "i39", note="x"), here)
    text = golden("seal", here, code=1)
    assert "THE SEAL IS BROKEN, 1 problem" in text and "'i39' was changed" in text
    assert "ERROR: seal broken" in golden("check", here, code=1)


def test_looks_are_counted_from_the_runs_of_the_project(here: Path) -> None:
    whole, test, dev = made(40), select(made(40), split="test"), select(made(40), split="dev")
    for n, (asked, app) in enumerate([(whole, "v1"), (test, "v2"), (dev, "v3"), (test, "v2")]):
        Objects(Path(".llmops/objects")).put(asked.content)
        place = Path(f"reports/made/run-{n}")
        place.mkdir(parents=True)
        (place / "run.json").write_bytes(to_json(RunInfo(f"run-{n}", "made", created=f"2026-01-0{n + 1}", selection=asked.selection, digests={"golden": asked.digest, "app": app})))
    assert "looked at 3 times by 2 versions" in golden("seal", here)
    found = as_json("seal", here)
    assert found["versions"] == 2 and [look["run"] for look in found["looks"]["looks"]] == ["run-0", "run-1", "run-3"]


def test_divide(here: Path) -> None:
    Path("q.csv").write_text("question,answer\n" + "".join(f"What is the {n * 7919}th prime times {n}?,{n}\n" for n in range(20)))
    golden("import", "q.csv", "--to", "q.jsonl")
    assert as_json("divide", "q.jsonl", "--test", 0.3)["test"] == 6
    before = Path("q.jsonl").read_bytes()
    assert "0 items moved" in golden("divide", "q.jsonl", "--test", 0.3) and Path("q.jsonl").read_bytes() == before
    golden("divide", "q.jsonl", "--test", 1, code=2)


def test_power(here: Path) -> None:
    found = as_json("power", here, "--difference", 0.1)
    sizes = {p["part"]: p["items"] for p in found["parts"]}
    assert sizes == {"all": 40, "split dev": 20, "split test": 20, "slice places": 40}
    assert 0.1 < found["parts"][0]["detectable"] < 0.3 < found["parts"][1]["detectable"] + 0.1 and 150 < found["needed"] < 250
    assert re.search(r"With 200 items you can detect a difference of (9|10)(\.\d+)? points", golden("power", "--items", 200))
    assert as_json("power", "--items", 200, "--tests", 5)["parts"][0]["detectable"] > as_json("power", "--items", 200)["parts"][0]["detectable"]
    assert "detect nothing" in golden("power", "--items", 2)
    for words in ((), (here, "--items", 3)):
        assert "Name a golden set, or a number" in golden("power", *words, code=1)
    golden("power", "--items", 1, code=2)


def test_power_measured_from_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = (place.name for place in pair(tmp_path / "project", 60))
    monkeypatch.chdir(tmp_path / "project")
    found = as_json("power", "--items", 60, "--like", before, after)
    assert 0 < found["discordance"] < 0.5 and found["spread"] is None
    assert f"as {before} and {after} do" in golden("power", "--items", 60, "--like", before, after)
    scores = as_json("power", "--items", 60, "--like", before, after, "--metric", "latency")
    assert scores["spread"] > 0
    assert re.search(r"a difference of [\d.]+ % \(.*standard deviation", golden("power", "--items", 60, "--like", before, after, "--metric", "latency"))
    assert "agree on all" in golden("power", "--items", 60, "--like", before, before, code=1)
    assert "No metric" in golden("power", "--items", 60, "--like", before, after, "--metric", "nope", code=1)


def test_stats(here: Path) -> None:
    assert "made.jsonl, version" in golden("stats", here)
    assert as_json("stats", here)["parts"][0]["items"] == 40


def test_the_whole_command_starts(here: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "llmops_nb", "golden", "check", str(here), "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["items"] == 40
