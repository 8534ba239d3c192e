"""Bad input: each one clear error that says what happened and what to do, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from llmops_nb import evaluate, load_app, load_golden, load_settings, select
from llmops_nb.commands import main
from llmops_nb.core import Answer, ConfigurationError, DataError, Item, LLMOpsError, ModelError, RunError, Score
from llmops_nb.datasets import GoldenSet, parse_golden
from llmops_nb.prompts import load_prompt, parse_prompt
from llmops_nb.runs import run_notebook
from loopback import Loopback, loopback, project


@pytest.fixture
def server(tmp_path: Path):
    with loopback(tmp_path / "log") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, server: Loopback) -> Path:
    return project(tmp_path, server.url, 8)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "There is no app.yaml"),
        ("name: [", "app.yaml is not YAML"),
        ("just words", "expected a mapping"),
        ("name: loop", "prompt"),
        ("name: loop\nprompt: say.md\nmodle: {}", "Did you mean 'model'?"),
        ("name: loop\nprompt: say.md\nmodel: {temprature: 0}", "Did you mean 'temperature'?"),
        ("name: loop\nprompt: say.md\nmodel: {temperature: hot}", "Expected `float"),
        ("name: loop\nprompt: say.md\nmodel: {temperature: 9}", "not a value it can take"),
        ("name: loop\nprompt: sya.md", "Did you mean 'say.md'?"),
        ("name: loop\nprompt: say.md\nmodel: {alias: lop}", "Did you mean 'loop'?"),
        ("name: loop\nprompt: say.md\ncorpus: {folder: nowhere}", "passages"),
        ("name: loop\nprompt: ask.md\ncorpus: {folder: nowhere}", "corpus folder 'nowhere' does not exist"),
        ("name: loop\nprompt: ask.md\ncorpus: {mapping: 'no_such_module:x'}", "cannot be imported"),
        ("name: loop\nprompt: ask.md\ncorpus: {folder: bad}\nretrieval: {mode: bm25}", "is not UTF-8"),
        ("name: loop\nprompt: ask.md\ncorpus: {folder: bad}\nretrieval: {mode: best}", "No retrieval mode named 'best'"),
        ("name: loop\nprompt: ask.md\ncorpus: {folder: bad}\nretrieval: {top_k: 0}", "must be 1 or more"),
    ],
)
def test_an_application_that_cannot_be(here: Path, server: Loopback, text: str | None, error: str) -> None:
    (here / "ask.md").write_text("---\nvariables: {question: str, passages: list}\n---\n[user]\n{{ passages }}{{ question }}")
    (here / "bad").mkdir()
    (here / "bad" / "a.md").write_bytes(b"caf\xe9")
    (here / "app.yaml").unlink()
    if text is not None:
        (here / "app.yaml").write_text(text)
    with pytest.raises(LLMOpsError) as caught:
        load_app(here)
    assert error in str(caught.value), str(caught.value)
    assert server.requests() == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("---\nvariables: {q: str}\n---\n[user]\n{{ q }} {{ passages }}", "Declare it in the front matter"),
        ("---\nvariables: {q: text}\n---\n{{ q }}", "No kind named 'text'"),
        ("---\nvariables: [\n---\n{{ q }}", "not YAML"),
        ("---\nvariables: {q: str}\n---\n[user]\n{{ q", "template is broken"),
        ("---\nvariabels: {q: str}\n---\n{{ q }}", "Did you mean 'variables'?"),
        ("---\nvariables: {q: str}\n---\nhello\n[user]\n{{ q }}", "before the first role"),
    ],
)
def test_a_prompt_that_cannot_be(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_prompt(text, "p")
    assert error in str(caught.value)


def test_a_prompt_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_prompt(tmp_path / "p.md")


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ q.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os }}", "{% set x = q.append(1) %}", "{{ 1 / 0 }}"],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    prompt = parse_prompt("---\nvariables: {q: list}\n---\n[user]\n" + attack, "p")
    with pytest.raises(ConfigurationError, match="cannot be filled in"):
        prompt.render(q=[])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds no items"),
        ('{"id": "a", "question": "?"}\nnonsense', "g.jsonl:2: not JSON"),
        ('{"id": "a", "question": "?"}\n{"id": "a", "question": "!"}', "g.jsonl:2: the id 'a' stands already in line 1"),
        ('{"id": "a"}', "g.jsonl:1"),
        ('{"id": "a", "question": 5}', "Expected `str`"),
        ('{"id": "a", "question": "?", "expcted": "x"}', "Did you mean 'expected'?"),
        ('{"id": "a", "question": "?", "split": "train"}', "No split named 'train'"),
        ('{"id": "a", "question": "?", "facts": [[]]}', "at least one wording"),
        ('{"id": "a", "question": "?", "answerable": false, "facts": [["x"]]}', "cannot be answered"),
        ('[1, 2]', "expected a mapping"),
    ],
)
def test_a_golden_set_that_cannot_be(text: str, error: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_golden(text, "g.jsonl")
    assert error in str(caught.value)


def test_every_broken_line_is_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        parse_golden("x\n" * 30, "g.jsonl")
    assert "g.jsonl:1:" in str(caught.value) and "and 20 more" in str(caught.value)


def test_an_empty_selection_is_refused(here: Path) -> None:
    with pytest.raises(DataError, match="Slices|slices"):
        select(load_golden(here / "golden/loop.jsonl"), slice="purple")


def test_a_wrong_key_ends_the_run_at_the_first_item(here: Path, server: Loopback, tmp_path: Path) -> None:
    golden = GoldenSet("g", tuple(Item(f"i{n}", f"fault:auth {n}") for n in range(50)))
    with pytest.raises(ModelError, match="401"):
        evaluate(load_app(here), golden, [], tmp_path / "run", settings=load_settings(here), concurrency=1, progress=False)
    assert len(server.requests()) == 1


def test_a_missing_key_costs_nothing_and_names_the_variable(here: Path, server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text((tmp_path / "settings.ini").read_text() + "key = LOOP_KEY\n")
    with pytest.raises(ConfigurationError, match="LOOP_KEY"):
        evaluate(load_app(here), load_golden(here / "golden/loop.jsonl"), [], tmp_path / "run", settings=load_settings(here), progress=False)
    assert server.requests() == []


def test_failures_and_bad_scorers_are_data(here: Path, tmp_path: Path) -> None:
    golden = GoldenSet("g", (Item("ok", "say <yes>"), Item("down", "fault:500"), Item("odd", "fault:garbage")))

    def broken(item: Item, answer: Answer) -> Score:
        raise KeyError("no such thing")

    def infinite(item: Item, answer: Answer) -> Score:
        return Score("infinite", float("inf"))

    (tmp_path / "settings.ini").write_text((tmp_path / "settings.ini").read_text().replace("[llmops]", "[llmops]\nretries = 0"))
    run = evaluate(load_app(here), golden, [broken, infinite], tmp_path / "run", settings=load_settings(here), progress=False, thresholds={"broken": 0.5})
    codes = {r.item.id: r.error.code if r.error else "" for r in run.records}
    assert codes == {"ok": "", "down": "server", "odd": "bad_response"}
    assert all(score.value is None and score.error for score in run.record("ok").scores)
    assert run.metric("broken").value is None and run.metric("broken").failed == 3
    assert run.info.checks[0].outcome == "not enough evidence"


def small_notebook(path: Path, source: str, parameters: str = 'top_k: int = 4  # Passages\nrun_dir: str = ""') -> None:
    cell = nbformat.v4.new_code_cell(parameters, id="p")
    cell.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(source, id="c")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        (["topk=3"], "Did you mean 'top_k'?"),
        (["top_k=three"], "is of type int"),
        (["top_k"], "is not name=value"),
        (["run_dir=/elsewhere"], "No parameter named 'run_dir'"),
    ],
)
def test_parameters_are_refused_before_a_kernel_starts(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: list[str], error: str) -> None:
    small_notebook(here / "eval.ipynb", "1 / 0")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", str(here / "eval.ipynb"), *[x for p in pairs for x in ("-p", p)]])
    assert result.exit_code == 1 and error in result.output
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [("not a notebook", "cannot be read as a Python notebook"), (json.dumps(nbformat.v4.new_notebook()), "cannot be read|no cell tagged")],
)
def test_a_notebook_that_is_none(here: Path, content: str, error: str) -> None:
    (here / "eval.ipynb").write_text(content)
    with pytest.raises(ConfigurationError, match=error):
        run_notebook(here / "eval.ipynb", {}, load_settings(here), progress=False)


def test_a_cell_that_fails_names_itself_and_keeps_the_run(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_notebook(here / "eval.ipynb", "from llmops_nb import load_app\nload_app('.', model='nobody')")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run", str(here / "eval.ipynb"), "--quiet"])
    assert result.exit_code == 1
    assert "No model alias named 'nobody'" in result.output and "llmops resume" in result.output
    run = next((tmp_path / "reports" / "loop").iterdir())
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert (run / "notebook.ipynb").exists()


def test_going_on_with_something_else_is_refused(here: Path, tmp_path: Path) -> None:
    golden = load_golden(here / "golden/loop.jsonl")
    evaluate(load_app(here), golden, [], tmp_path / "run", settings=load_settings(here), progress=False)
    with pytest.raises(RunError, match="another app, model"):
        evaluate(load_app(here, temperature=1.0), golden, [], tmp_path / "run", settings=load_settings(here), progress=False)
    (tmp_path / "run" / "records.jsonl").write_text("{broken}\n")
    with pytest.raises(DataError, match="records.jsonl:1"):
        evaluate(load_app(here), golden, [], tmp_path / "run", settings=load_settings(here), progress=False)


@pytest.mark.parametrize("words", [["show", "nothing"], ["resume", "nothing"], ["report", ""], ["check", "nowhere"], ["models", "pull", "gpt-5"]])
def test_commands_end_with_one_sentence_and_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ") and "Traceback" not in result.output
