"""Versions linked to runs, what a change did to answers, and `llmops prompt` on a real repository."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmops_nb import evaluate, load_app, load_golden, load_settings
from llmops_nb.commands import main
from llmops_nb.core import Answer, ConfigurationError, Item, Score
from llmops_nb.datasets import GoldenSet, save_golden
from llmops_nb.evals import save_info
from llmops_nb.lineage import behaviour, lineage
from llmops_nb.prompts import load_prompt
from llmops_nb.store import Objects
from llmops_nb.versions import load_version, read_trail

HEAD = "---\ndescription: Say it\nvariables: {question: str}\n---\n[user]\n"
WORDS = [f"word{n}" for n in range(30)]


def says(item: Item, answer: Answer) -> Score:
    "Whether the expected text is in the answer."
    return Score("task_success", float(item.expected in answer.text), "looked for it")


class Project:
    "A project in a repository, with an experiment whose model repeats the prompt."

    def __init__(self, root: Path):
        self.root, self.experiment = root, root / "experiments" / "words"
        (self.experiment / "prompts").mkdir(parents=True)
        (self.experiment / "golden").mkdir()
        (root / "settings.ini").write_text("[llmops]\nmodel = echo\ntrace = no\n")
        (root / ".gitignore").write_text("/.llmops\n/reports\n")
        (self.experiment / "app.yaml").write_text("name: words\nprompt: prompts/say.md\n")
        self.file, self.settings = self.experiment / "prompts" / "say.md", load_settings(root)
        save_golden(GoldenSet("g", tuple(Item(w, f"Is {w} here?", f"{w} here? yes" if n % 5 else "no") for n, w in enumerate(WORDS))), self.experiment / "golden" / "g.jsonl")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")

    def git(self, *words: str) -> str:
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(["git", *words], cwd=self.root, env=env, check=True, capture_output=True, text=True).stdout

    def commit(self, text: str, message: str) -> str:
        self.file.write_text(HEAD + text)
        self.git("add", "-A")
        self.git("commit", "-qm", message)
        return load_prompt(self.file).digest

    def run(self, version: str, limit: int = 30, **overrides: object) -> str:
        golden = load_golden(self.experiment / "golden" / "g.jsonl")
        golden = replace(golden, items=golden.items[:limit])
        app = load_app(self.experiment, self.settings, prompt=f"prompts/say.md@{version}", **overrides)
        return evaluate(app, golden, [says], settings=self.settings, progress=False).id


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def two(project: Project) -> tuple[Project, str, str]:
    return project, project.commit("{{ question }} no\n", "Say no"), project.commit("{{ question }} yes\n", "Say yes")


@pytest.fixture
def llmops() -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(main, ["prompt", *words], catch_exceptions=False)


def compared(project: Project, old: str, new: str):
    return behaviour(*(load_version(f"{project.file}@{version}") for version in (old, new)), project.settings, ("old", "new"))


# Behaviour


def test_without_runs_nothing_is_claimed(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    assert "No run used old" in compared(project, old, new).sentence and "or new" in compared(project, old, new).sentence
    project.run(old)
    found = compared(project, old, new)
    assert found.outcome == "no runs" and "No run used new" in found.sentence and "old" not in found.sentence.partition("(")[0]
    assert "same version" in compared(project, old, old).sentence


def test_items_that_flip_with_the_verdict(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    project.run(old)
    project.run(new)
    found = compared(project, old, new)
    assert found.outcome == "better" and found.comparison is not None and found.comparison.items == 30
    assert sorted(f.item for f in found.flips if f.kind == "broken") == sorted(WORDS[::5])
    assert len([f for f in found.flips if f.kind == "fixed"]) == 24
    flip = next(f for f in found.flips if f.item == "word1")
    assert (flip.question, flip.before, flip.after) == ("Is word1 here?", "Is word1 here? no", "Is word1 here? yes")
    assert compared(project, new, old).outcome == "worse"


@pytest.mark.parametrize(("overrides", "named"), [({"longest_question": 100}, "settings"), ({"max_tokens": 9}, "model"), ({"limit": 20}, "golden")])
def test_runs_that_differ_in_more_than_the_prompt_may_not_speak(two: tuple[Project, str, str], overrides: dict, named: str) -> None:
    project, old, new = two
    project.run(old)
    project.run(new, **overrides)
    found = compared(project, old, new)
    assert found.comparison is None and named in found.sentence and "prompt alone" in found.sentence
    if named != "golden":
        forced = behaviour(load_version(f"{project.file}@{old}"), load_version(f"{project.file}@{new}"), project.settings, allow=[named])
        assert forced.outcome == "better" and f"Overlooked: the runs also differ in {named}." in forced.sentence
    project.run(new)
    assert compared(project, old, new).outcome == "better", "a fair pair among others is found"


def test_the_pair_over_the_most_items_is_taken_and_repeats_are_one_arm(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    few = [project.run(version, limit=12) for version in (old, new)]
    many = [project.run(version) for version in (old, new)] + [project.run(new, repeat=1)]
    again = [project.run(version, limit=12) for version in (old, new)]
    comparison = compared(project, old, new).comparison
    assert comparison is not None and comparison.items == 30
    assert set(comparison.before.runs) | set(comparison.after.runs) == set(many) and not {*few, *again} & {*comparison.before.runs, *comparison.after.runs}


def test_unfinished_runs_do_not_count(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    for version in (old, new):
        project.run(version)
    from llmops_nb.runs import all_runs

    run = next(r for r in all_runs(project.settings) if r.info.digests["prompt"] == new)
    save_info(run.directory, replace(run.info, status="interrupted"))
    assert compared(project, old, new).outcome == "no runs"


def test_history_carries_runs_labels_and_scores(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    runs = {project.run(old, limit=12), project.run(old), project.run(new)}
    project.file.write_text(HEAD + "draft {{ question }}\n")
    found = lineage(project.file, project.settings)
    assert [len(e.runs) for e in found.entries] == [0, 1, 2] and {r.id for e in found.entries for r in e.runs} == runs
    score = found.entries[2].score
    assert score is not None and (score.n, score.value) == (30, 0.2) and score.low is not None and score.low < 0.2
    assert found.entries[0].version.message == "not committed"
    assert list(found.to_pandas()["value"].fillna(-1)) == [-1, 0.8, 0.2] and "Say yes" in found._repr_html_()
    with pytest.raises(ConfigurationError, match="Did you mean 'task_success'"):
        lineage(project.file, project.settings, "task_succes")


def test_drafts_that_runs_used_are_part_of_the_history(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    (project.experiment / "prompts" / "other.md").write_text("---\nvariables: {question: str}\n---\n[system]\nYou are a poet and rhyme whatever is asked.\n[user]\nA verse on {{ question }}, please.\n")
    project.file.write_text(HEAD + "{{ question }} maybe\n")
    golden = load_golden(project.experiment / "golden" / "g.jsonl")
    draft = evaluate(load_app(project.experiment, project.settings), golden, [says], settings=project.settings, progress=False)
    evaluate(load_app(project.experiment, project.settings, prompt="prompts/other.md"), golden, [says], settings=project.settings, progress=False)
    project.file.write_text(HEAD + "{{ question }} yes\n")
    found = lineage(project.file, project.settings).entries
    assert [e.version.message for e in found] == ["never committed", "Say yes", "Say no"]
    assert found[0].runs[0].id == draft.id and found[0].version.digest == draft.info.digests["prompt"] and not found[1].runs
    assert load_version(f"{project.file}@{draft.info.digests['prompt'][:12]}", Objects(project.settings.state / "objects")).text.endswith("maybe\n")


def test_hostile_text_is_escaped(two: tuple[Project, str, str]) -> None:
    project, old, new = two
    evil = project.commit("{{ question }} <script>alert(1)</script>\n", "<img src=x onerror=alert(1)>")
    project.run(new)
    project.run(evil)
    shown = compared(project, new, evil)._repr_html_() + lineage(project.file, project.settings)._repr_html_() + load_prompt(project.file)._repr_html_()
    assert "<script>" not in shown and "<img" not in shown and "&lt;img" in shown


# Commands


def test_list(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, new = two
    project.run(new)
    (project.experiment / "prompts" / "bad.md").write_text(HEAD + "{{ x }}")
    (project.experiment / "prompts" / "fresh.md").write_text(HEAD + "{{ question }}")
    llmops("label", "experiments/words", "production")
    rows = {Path(r["prompt"]).name: r for r in json.loads(llmops("list", "--json").output)}
    assert {name: r["state"] for name, r in rows.items()} == {"bad.md": "broken", "fresh.md": "new", "say.md": "committed"}
    assert (rows["say.md"]["version"], rows["say.md"]["labels"], rows["say.md"]["runs"], rows["say.md"]["value"]) == (new, ["production"], 1, 0.8)
    project.file.write_text(HEAD + "edited {{ question }}")
    text = llmops("list", "experiments/words").output
    assert "changed" in text and "experiments/words/prompts/say.md" in text
    assert "No prompts here" in llmops("list", str(project.root)).output
    assert llmops("list", "nowhere").exit_code == 1


def test_show(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, _ = two
    llmops("label", f"experiments/words/prompts/say.md@{old[:8]}", "candidate")
    shown = llmops("show", "experiments/words/prompts/say.md@candidate").output
    assert old in shown and "candidate" in shown and "{{ question }} no" in shown and "question: str" in shown
    assert json.loads(llmops("show", "experiments/words", "--json").output)["text"].endswith("yes\n")
    done = llmops("show", "experiments/words/prompts/say.md@nothing")
    assert done.exit_code == 1 and "Error: No version or label of say.md named 'nothing'. Known: " in done.output and "'candidate'" in done.output and "Traceback" not in done.output
    assert "Did you mean 'say.md'" in llmops("show", "experiments/words/prompts/sya.md").output


def test_diff_shows_text_and_behaviour_and_ends_with_a_code(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, new = two
    without = llmops("diff", "experiments/words")
    assert without.exit_code == 0 and "-{{ question }} no" in without.output and "NO RUNS" in without.output
    assert "llmops run experiments/words/eval.ipynb -p prompt=prompts/say.md@VERSION" in without.output
    assert llmops("diff", "experiments/words", "--exit-code").exit_code == 3
    for version in (old, new):
        project.run(version)
    text = llmops("diff", "experiments/words", "--exit-code")
    assert text.exit_code == 0 and "BETTER:" in text.output and "6 broken, 24 fixed" in text.output and "Is word1 here?" in text.output
    back = llmops("diff", "experiments/words/prompts/say.md", new[:9], old[:9], "--exit-code", "--json")
    found = json.loads(back.output)
    assert back.exit_code == 1 == found["exit_code"] and found["outcome"] == "worse" and len(found["flips"]) == 30 and found["verdicts"][0]["adjusted"] < 0.05
    assert llmops("diff", "experiments/words", new[:9], "--exit-code").exit_code == 0, "nothing changed"
    project.run(old, longest_question=50, limit=29)
    assert "BETTER" in llmops("diff", "experiments/words", "--allow", "settings", "--allow", "golden").output
    assert "no metric" in llmops("diff", "experiments/words", "--metric", "nonsense").output.lower()


def test_diff_of_two_files(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, _, _ = two
    other = project.experiment / "prompts" / "other.md"
    other.write_text(HEAD + "other {{ question }}\n")
    assert "+other {{ question }}" in llmops("diff", "experiments/words", "current", "experiments/words/prompts/other.md").output
    first = llmops("diff", "experiments/words/prompts/other.md")
    assert first.exit_code == 1 and "no version before this one" in first.output


def test_history(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, new = two
    run = project.run(old)
    text = llmops("history", "experiments/words").output
    assert "Say yes" in text and "Ada" in text and run in text
    assert "1 older" in llmops("history", "experiments/words", "--limit", "1").output
    found = json.loads(llmops("history", "experiments/words", "--json").output)
    assert [v["version"] for v in found["versions"]] == [new[:12], old[:12]] and found["versions"][1]["run_ids"] == [run]


def test_label_and_rollback(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, new = two
    place = "experiments/words/prompts/say.md"
    assert "has no labels yet" in llmops("label", place).output
    assert "stands for" in llmops("label", f"{place}@{old[:8]}", "production", "--why", "first").output
    assert json.loads(llmops("label", place, "production", "--why", "better", "--json").output)["move"]["instead_of"] == old
    assert json.loads(llmops("rollback", place, "--label", "production", "--json").output)["after"] == old
    trail = llmops("label", place).output
    assert "first" in trail and "better" in trail and "rollback" in trail
    assert "taken away" in llmops("label", place, "production", "--remove").output and read_trail(project.file).now == {}
    before = project.file.read_bytes()
    assert "Undo with: llmops prompt rollback experiments/words/prompts/say.md --undo" in llmops("rollback", place).output
    assert project.file.read_bytes() != before
    assert llmops("rollback", place, "--undo").exit_code == 0 and project.file.read_bytes() == before
    assert json.loads(llmops("rollback", place, "--to", old[:8], "--json").output)["written"] == ["say.md"]
    assert llmops("rollback", place, "--undo", "--to", old).exit_code == 1
    project.file.write_text(HEAD + "draft {{ question }}\n")
    assert "not committed" in llmops("label", place, "candidate").output
    assert llmops("label", place, "beef").exit_code == 1


def test_check(two: tuple[Project, str, str], llmops: Callable[..., Result]) -> None:
    project, old, _ = two
    good = llmops("check")
    assert good.exit_code == 0 and "experiments/words: 1 prompt, 0 examples, 0 problems" in good.output
    (project.experiment / "e.jsonl").write_text('{"id": "twin", "question": "is word7 here", "answer": "yes"}\n')
    (project.experiment / "prompts" / "shots.md").write_text(HEAD.replace("{question: str}", "{question: str, e: examples}") + "{{ e[0].answer }}{{ question }}")
    (project.experiment / "prompts" / "judge.md").write_text("---\nvariables: {verdict: str}\n---\n{{ verdict }}")
    (project.experiment / "app.yaml").write_text("name: words\nprompt: prompts/say.md\nfewshots: {file: e.jsonl, k: 0}\n")
    leaking = llmops("check", "experiments/words", "--json")
    found = json.loads(leaking.output)[0]
    assert leaking.exit_code == 1 and len(found["problems"]) == 1 and "'twin' gives item 'word7' away" in found["problems"][0]
    assert len(found["notes"]) == 1 and "judge" in found["notes"][0], "a prompt with other variables is no mistake"
    (project.experiment / "e.jsonl").write_text('{"id": "twin", "question": "Where is my hat?", "answer": "On your head"}\n')
    assert llmops("check", "experiments/words").exit_code == 0
    (project.experiment / "prompts" / "labels.yaml").write_text("say.md:\n  labels:\n    production:\n    - {version: " + "ab" * 32 + ", at: now, by: me}\n")
    lost = llmops("check", "experiments/words")
    assert lost.exit_code == 1 and "label production" in lost.output
    (project.experiment / "app.yaml").write_text("name: words\nprompt: prompts/sya.md\n")
    broken = llmops("check", "experiments/words")
    assert broken.exit_code == 1 and "Did you mean 'say.md'" in broken.output and "Traceback" not in broken.output


def test_without_git_the_rest_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llmops: Callable[..., Result]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.yaml").write_text("name: words\nprompt: say.md\n")
    (tmp_path / "say.md").write_text(HEAD + "{{ question }}")
    assert "no git" in llmops("list", ".").output
    assert "stands for" in llmops("label", ".", "production").output and llmops("show", "say.md@production").exit_code == 0
    for command in ("history", "diff", "rollback"):
        done = llmops(command, "say.md")
        assert done.exit_code == 1 and "not in a git repository" in done.output
    assert llmops("check", ".").exit_code == 0
