"""One definition of retrieval, nothing computed twice, no choice by sealed items, and verdicts that the items carry."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmops_nb import commands as commands
from llmops_nb._tuning_effects import effects, levels, two_way
from llmops_nb._tuning_job import JOURNAL
from llmops_nb.app import open_retriever
from llmops_nb.cli import main
from llmops_nb.core import ConfigurationError, DataError, Document, Evidence, Item, RunError
from llmops_nb.datasets import GoldenSet, load_golden, save_golden
from llmops_nb.documents import Corpus
from llmops_nb.golden_changes import seal
from llmops_nb.retrieve import Retrieval
from llmops_nb.settings import Settings, load_settings
from llmops_nb.tune_reports import render_tuning, tuning_page
from llmops_nb.tuning import Allowance, Stages, TunePlan, compare_retrieval, find_tuning, load_tune_plan, measure_retrieval, open_tuning, outlook, planned, resume_tuning, tune

ROOT = Path(__file__).parent.parent
WORDS = "amber basalt cedar dune ember fjord garnet heron iris jade kelp lichen maple nectar opal pine quartz reed slate thyme".split()


def documents() -> tuple[Document, ...]:
    "Twenty small documents of two sections, each with words of its neighbours."
    found = []
    for n, word in enumerate(WORDS):
        near, far = WORDS[(n + 1) % len(WORDS)], WORDS[(n + 7) % len(WORDS)]
        found.append(Document(f"{word}.md", f"# {word}\n\nThe {word} lies by the {near}. Some say the {word} is older than the {far}.\n\n## Use\n\nA {word} is kept with {far} and {near}, and sold in {word} boxes on market days.\n", word))
    return tuple(found)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    "A project with an application whose first passage is always the wrong one."
    root = tmp_path_factory.mktemp("project")
    here = root / "stones"
    (here / "docs").mkdir(parents=True)
    (here / "golden").mkdir()
    for document in documents():
        (here / "docs" / document.id).write_text(document.text)
    (here / "docs" / "decoy.md").write_text("# decoy\n\nTell me of it please, tell me of it now, please tell.\n")
    (here / "answer.md").write_text("---\nvariables: {question: str, passages: list}\n---\n[user]\n{% for p in passages %}{{ p }}\n{% endfor %}{{ question }}\n")
    (here / "app.yaml").write_text("name: stones\nprompt: answer.md\ncorpus: {folder: docs}\n# as it was found\nretrieval:\n  mode: bm25\n  top_k: 1   # passages\n")
    items = [Item(f"{split}-{word}", f"Please tell me of it now: {word} <b>?", evidence=(Evidence(f"{word}.md", ""),), split=split) for split in ("dev", "test") for word in WORDS[:12]]
    save_golden(GoldenSet("stones.jsonl", tuple(items)), here / "golden" / "stones.jsonl")
    (root / "settings.ini").write_text("[llmops]\nreports = reports\nstate = state\n")
    weights = load_settings(ROOT).weights
    return replace(load_settings(root), weights=weights)


def plan_of(project: Settings, **changes: object) -> TunePlan:
    return replace(TunePlan(app=str(project.root / "stones"), vary={"top_k": [1, 2, 3]}, objective="recall", timed=0), **changes)  # type: ignore[arg-type]


SECTIONS = st.builds(
    dict,
    mode=st.sampled_from(["dense", "bm25", "fused"]), top_k=st.integers(1, 8), depth=st.sampled_from([3, 20]), rerank=st.sampled_from(["", "ms-marco-minilm-l-12"]), candidates=st.sampled_from([2, 4]),
    chunk_size=st.sampled_from([20, 60]), fusion=st.sampled_from(["rrf", "convex"]), weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]), rrf_k=st.sampled_from([5, 60]), mmr=st.sampled_from([1.0, 0.6]),
    expand=st.sampled_from([0, 1]), chunker=st.sampled_from(["structure", "sentences"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def stages(project: Settings) -> Stages:
    return Stages(Corpus("stones", documents()), project)


@hypothesis_settings(max_examples=10, deadline=None)
@given(section=SECTIONS, word=st.sampled_from(WORDS[:4]))
def test_a_shared_stage_says_what_the_application_would(stages: Stages, section: dict[str, object], word: str) -> None:
    section = section | ({"mmr": 1.0} if section["mode"] == "bm25" else {})
    retrieval = Retrieval(**section)  # type: ignore[arg-type]
    query = f"Where is the {word} kept?"
    alone, _ = open_retriever(retrieval, stages.corpus, stages.settings)
    for k in (retrieval.top_k, 1):
        for retriever in (stages.retriever(retrieval), stages.fresh(retrieval)):
            assert retriever(query, k) == alone(query, k), "ids, scores of every stage and their order"


def test_nothing_is_computed_twice(project: Settings) -> None:
    stages = Stages(Corpus("stones", documents()), project)
    golden = GoldenSet("g", tuple(Item(f"q{n}", f"Where is the {word}?", evidence=(Evidence(f"{word}.md", ""),)) for n, word in enumerate(WORDS[:5])))
    section = Retrieval(mode="fused", chunk_size=60, rerank="ms-marco-minilm-l-12", candidates=3)
    measure_retrieval(stages.retriever(section), golden, ["recall@3"])
    before = Counter(stages.counts)
    assert before["query vectors"] == before["dense searches"] == before["word searches"] == 5 and before["re-ranked pairs"] == 15 and before["indexes"] == 1
    for changes in ({"weight": 0.5}, {"rerank": ""}, {"fusion": "convex", "rerank": ""}, {"rrf_k": 5, "rerank": ""}, {"mmr": 0.5, "rerank": ""}):
        measure_retrieval(stages.retriever(replace(section, **changes)), golden, ["recall@3"])  # type: ignore[arg-type]
    assert stages.counts == before, "fusion, weights and diversity are sums"
    again = Stages(Corpus("stones", documents()), project)
    measure_retrieval(again.retriever(section), golden, ["recall@3"])
    assert again.computed == Counter(), "the next process finds vectors and pairs in the project's state"


def test_a_winner_is_confirmed_and_applied(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "stones" / "tune.yaml").write_text("vary: {top_k: [1, 2, 3]}\nobjective: recall\nmeasures: [mrr]\ntimed: 2\n")
    path = project.root / "stones" / "app.yaml"
    before = path.read_text()
    refused = CliRunner().invoke(main, ["tune", "stones/tune.yaml"])
    assert refused.exit_code == 1 and "--yes" in refused.stderr and path.read_text() == before
    done = CliRunner().invoke(main, ["tune", "stones/tune.yaml", "--yes", "--quiet", "--apply"])
    assert done.exit_code == 0, done.output
    assert path.read_text() == before.replace("top_k: 1 ", "top_k: 2 "), "comments stay"
    assert "wins and is confirmed" in done.stdout and "+   top_k: 2" in done.stdout
    tuning = find_tuning("last", project)
    assert tuning.info.winner == "c01" and tuning.info.outcome == "confirmed", "of settings that find the same, the one with least"
    lines = tuning.lines()
    asked = {key for key in lines.items if key[1] == "test"}
    assert asked == {("c00", "test"), ("c01", "test")}, "the test split is looked at by two settings, once"
    assert all(len(seconds) == 2 for seconds in lines.seconds.values()) and len(lines.seconds) == 3
    page = render_tuning(tuning.directory, project).read_text()
    assert page == tuning_page(tuning, {i.id: i.question for i in load_golden(project.root / tuning.info.plan.golden)})
    assert "&lt;b&gt;" in page and "<b>?" not in page, "questions are text"
    shown = CliRunner().invoke(main, ["tune", "show", tuning.id[:15]])
    assert shown.exit_code == 0 and "confirmed" in shown.stdout
    listed = json.loads(CliRunner().invoke(main, ["tune", "list", "--json"]).stdout)
    assert listed[0]["outcome"] == "confirmed"
    path.write_text(before)


def test_no_difference_leaves_the_test_split_alone(project: Settings) -> None:
    tuning = tune(plan_of(project, vary={"chunk_size": [30, 60]}), project, progress=False)
    assert tuning.info.outcome == "no difference" and not tuning.changes and tuning.info.confirmation is None
    assert {split for _, split in tuning.lines().items} == {"dev"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vary": {"top": [1]}}, "No setting of retrieval named 'top'"),
        ({"vary": {"model": ["echo"]}}, "No setting of retrieval named 'model'"),
        ({"objective": "ndgc@10"}, "ndgc@10"),
        ({"objective": "ndcg@10", "k": 5}, "as much as the longest measure looks at"),
        ({"split": "test", "confirm": "dev"}, "of the test split"),
        ({"confirm": "dev"}, "cannot be confirmed by the same items"),
        ({"vary": {"overlap": [200]}}, "overlap is 200"),
        ({"vary": {"mode": ["sparse"]}}, "sparse"),
        ({"vary": {"rerank": ["no-such"]}}, "No re-ranker named 'no-such'"),
        ({"vary": {"embedder": ["no-such"], "mode": ["dense"]}}, "No embedder named 'no-such'"),
        ({"vary": {"mode": ["dense"], "chunker": ["tokens"], "chunk_size": [11]}, "budget": Allowance(vectors=3)}, "its budget allows 3"),
        ({"sampler": "genetic"}, "No sampler named 'genetic'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(project: Settings, changes: dict[str, object], words: str) -> None:
    before = set(project.reports.glob("*/*"))
    with pytest.raises((ConfigurationError, DataError), match=words.replace(".", r"\.")):
        tune(plan_of(project, **changes), project, progress=False)
    assert set(project.reports.glob("*/*")) == before


def test_a_sealed_test_split_that_was_changed_is_refused(project: Settings) -> None:
    path = project.root / "stones" / "golden" / "stones.jsonl"
    golden = load_golden(path)
    seal(golden, path, "for the last word", who="test", when="2026-01-01T00:00:00+00:00")
    try:
        moved = tuple(replace(i, split="dev") if i.id == "test-amber" else i for i in golden)
        save_golden(replace(golden, items=moved), path)
        with pytest.raises(ConfigurationError, match="not as it was sealed"):
            planned(plan_of(project), project)
    finally:
        save_golden(golden, path)
        path.with_suffix(".seal.json").unlink()


def test_a_tuning_that_is_killed_goes_on(project: Settings) -> None:
    code = """
import sys, time
from dataclasses import replace
from pathlib import Path
from llmops_nb import _tuning_job as job
from llmops_nb.settings import load_settings
from llmops_nb.tuning import TunePlan, tune
score = job.score_ranking
def slow(*given):
    time.sleep(0.03)
    return score(*given)
job.score_ranking = slow
tune(TunePlan(app=str(Path(sys.argv[1]) / "stones"), vary={"top_k": [1, 2, 3, 4]}, objective="recall", timed=0), load_settings(Path(sys.argv[1])), progress=False)
"""
    known = set(project.reports.glob("*/*"))
    child = subprocess.Popen([sys.executable, "-c", code, str(project.root)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    journal = None
    until = time.monotonic() + 60
    while time.monotonic() < until and child.poll() is None:
        journal = next((p / JOURNAL for p in set(project.reports.glob("*/*")) - known if (p / JOURNAL).exists()), None)
        if journal and journal.read_bytes().count(b"\n") >= 15:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert journal is not None
    with open(journal, "ab") as file:
        file.write(b'{"cell":"c01","split":"dev","it')  # A line that was under way
    before = journal.read_bytes().count(b"\n")
    assert open_tuning(journal.parent).info.status == "running"
    done = resume_tuning(open_tuning(journal.parent), project, progress=False)
    rows = [json.loads(line) for line in journal.read_bytes().splitlines()]
    assert Counter((r["cell"], r["split"], r["item"]) for r in rows).most_common(1)[0][1] == 1, "no question was asked twice"
    assert done.info.status == "finished" and done.info.outcome == "confirmed" and 15 <= before < len(rows)
    with open(project.root / "stones" / "docs" / "new.md", "w") as file:
        file.write("# new\n\nA document more.\n")
    try:
        with pytest.raises(RunError, match="corpus changed"):
            resume_tuning(done, project, progress=False)
    finally:
        (project.root / "stones" / "docs" / "new.md").unlink()


def test_a_budget_stops_and_a_larger_one_goes_on(project: Settings) -> None:
    plan = plan_of(project, vary={"rerank": ["ms-marco-minilm-l-12"], "candidates": [2, 3], "chunk_size": [25]}, objective="mrr", budget=Allowance(pairs=10))
    stopped = tune(plan, project, progress=False)
    assert stopped.info.status == "stopped" and "10 pairs were allowed" in stopped.info.note and stopped.info.totals["computed"]["pairs"] <= 13
    assert "tune resume" in tuning_page(stopped)
    done = resume_tuning(stopped, project, budget=Allowance(), progress=False)
    assert done.info.status == "finished" and done.info.totals["computed"]["pairs"] <= 12 * 3 + 2 * 12 * 3


def test_optuna_tries_as_many_as_it_may(project: Settings) -> None:
    tuning = tune(plan_of(project, vary={"top_k": {"low": 1, "high": 6, "step": 1}}, sampler="optuna", trials=4, confirm=""), project, progress=False)
    assert len(tuning.info.cells) == 5 and len({str(c.values) for c in tuning.info.cells}) == 5
    assert tuning.info.outcome == "unconfirmed" and not tuning.changes


def test_forecasts_count_what_nobody_remembers(project: Settings, tmp_path: Path) -> None:
    fresh = replace(project, state=tmp_path)
    plan, cells = planned(plan_of(project, vary={"mode": ["dense", "fused"], "chunk_size": [20, 60]}), fresh)
    stages = Stages(Corpus("stones", documents()), fresh)
    found = outlook(plan, cells, fresh, stages)
    assert found.settings == 5 and found.indexes == 3 and found.pairs.high == 0
    pilot = stages.computed["vectors"]
    for retrieval in (Retrieval(mode="dense", chunk_size=20), Retrieval(mode="dense", chunk_size=60)):
        stages.index(retrieval)
    distinct = stages.computed["vectors"] - 1  # The first text of a process is computed twice, to wake the network
    assert found.vectors == distinct and 0 < pilot < distinct
    assert outlook(plan, cells, fresh, stages).vectors == 0


def test_a_search_that_learns_is_forecast_by_the_ends_of_what_it_may_try(project: Settings, tmp_path: Path) -> None:
    fresh = replace(project, state=tmp_path)
    plan, cells = planned(plan_of(project, vary={"chunk_size": {"low": 20, "high": 60, "step": 10}}, sampler="optuna", trials=4), fresh)
    found = outlook(plan, cells, fresh, Stages(Corpus("stones", documents()), fresh))
    assert found.settings == 5 and len(cells) == 1
    assert found.indexes == 3  # As it is, and both ends


def test_a_plan_is_read_with_its_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("varry: {top_k: [1]}\n")
    with pytest.raises(ConfigurationError, match="Did you mean 'vary'"):
        load_tune_plan(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not YAML"):
        load_tune_plan(path)
    with pytest.raises(ConfigurationError, match=r"Known: 'tune\.yaml'"):
        load_tune_plan(tmp_path / "tune.yml")


def made(seed: int, interaction: float, items: int = 60) -> tuple[np.ndarray, list[dict[str, object]]]:
    rng = np.random.default_rng(seed)
    settings: list[dict[str, object]] = [{"a": a, "b": b, "c": c} for a in (0, 1) for b in (0, 1, 2) for c in (0, 1)]
    means = np.array([0.2 * float(s["a"]) + interaction * (1 if s["a"] == 1 and s["b"] == 2 else 0) for s in settings])  # type: ignore[arg-type]
    return means[:, None] + rng.normal(0, 0.3, (1, items)) + rng.normal(0, 0.3, (len(settings), items)), settings


def test_an_interaction_is_found_and_none_is_invented() -> None:
    table, settings = made(0, 0.5)
    own, pairs = effects(table, settings, [str(n) for n in range(60)])
    assert own[0].names == ("a",) and pairs[0].names == ("a", "b") and (pairs[0].p or 1) < 0.01
    assert abs(sum(part.share for part in (*own, *pairs)) - 1) < 0.1, "a balanced grid falls apart into its parts and what three do together"
    alarms = 0
    for seed in range(30):
        table, settings = made(seed, 0.0)
        alarms += any((part.p or 1) <= 0.05 for part in effects(table, settings, [str(n) for n in range(60)])[1])
    assert alarms <= 5, f"{alarms} of 30 without any interaction"


def test_parameters_that_always_change_together_cannot_be_told_apart() -> None:
    table, settings = made(1, 0.0)
    tied = [{**s, "d": s["a"]} for s in settings]
    own, _ = effects(table, tied, [str(n) for n in range(60)])
    assert {part.names[0]: part.freedom for part in own}["d"] == 0
    assert effects(table[:1], settings[:1], ["x"] * 60) == ([], [])


def test_numbers_are_grouped_where_there_are_many() -> None:
    assert len(set(levels([n / 40 for n in range(40)]))) == 4
    assert levels(["", "x"]) == ["none", "x"]
    two = two_way(("a", "b"), [1.0, 2.0, 3.0], [{"a": 10, "b": "x"}, {"a": 2, "b": "x"}, {"a": 10, "b": "y"}])
    assert two.down == ("2", "10") and two.means == ((2.0, None), (1.0, 3.0))


def test_a_comparison_says_how_many_more(stages: Stages) -> None:
    golden = GoldenSet("g", tuple(Item(word, f"Where is the {word}?", evidence=(Evidence(f"{word}.md", ""),)) for word in WORDS))
    good = measure_retrieval(stages.retriever(Retrieval(mode="bm25", chunk_size=60)), golden, ["recall@1", "mrr@5"], k=5)
    assert compare_retrieval(good, good, "recall@1").outcome == "not enough evidence"
    verdict = compare_retrieval(measure_retrieval(lambda query, k, where=None: [], golden, ["recall@1"]), good, "recall@1", ("nothing", "words"))
    assert verdict.outcome == "better" and "words" in verdict.sentence
    with pytest.raises(ConfigurationError, match="mrr@4"):
        compare_retrieval(good, good, "mrr@4")


def test_pairs_are_counted_once_for_depths_of_one_search() -> None:
    from llmops_nb._tuning_ahead import pairs_ahead

    base = Retrieval(rerank="ms-marco-minilm-l-12", candidates=10)
    found = pairs_ahead([base, replace(base, candidates=20), replace(base, top_k=6), replace(base, mode="dense"), Retrieval()], 7, lambda r: r.top_k)
    assert found == {"ms-marco-minilm-l-12": (140, 210)}
