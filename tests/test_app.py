"""One App from its file to its trace: what is recorded leads from a number to the prompt, the model and the chunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb import evaluate, load_app, load_golden, load_settings, standard_scorers, trace
from llmops_nb.core import Answer, Item
from llmops_nb.datasets import GoldenSet
from llmops_nb.evals import open_run, save_info, scorers_digest
from llmops_nb.models import ScriptedModel
from llmops_nb.scorers import exact_match, task_success
from llmops_nb.store import Objects, digest
from loopback import Loopback, loopback, project

PROMPT = "---\nvariables: {question: str, passages: list}\n---\n[system]\nAnswer.\n[user]\n{% for p in passages %}[{{ loop.index }}] {{ p }}\n{% endfor %}{{ question }}\n"
APP = """
name: manual
prompt: ask.md
corpus: {folder: docs}
retrieval: {mode: bm25, top_k: 2, chunk_size: 40}
model: {temperature: 0, max_tokens: 20}
abstain: [not in the manual]
"""


@pytest.fixture
def server(tmp_path: Path):
    with loopback(tmp_path / "log") as running:
        yield running


@pytest.fixture
def manual(tmp_path: Path, server: Loopback) -> Path:
    "An application over three documents, whose model is the loopback server."
    here = project(tmp_path, server.url, 4)
    (here / "docs").mkdir()
    (here / "docs" / "while.md").write_text("# While\n\nA while loop repeats until its condition is false.\n\nIts else clause runs unless break ends the loop.\n")
    (here / "docs" / "pass.md").write_text("# Pass\n\nThe pass statement does nothing at all.\n")
    (here / "docs" / "del.md").write_text("# Del\n\nThe del statement removes a name from its namespace.\n")
    (here / "ask.md").write_text(PROMPT)
    (here / "app.yaml").write_text(APP)
    return here


def test_an_answer_carries_what_made_it(manual: Path) -> None:
    answer = load_app(manual)("Which statement does nothing? <pass [1]>")
    assert answer.text == "pass [1]"
    assert answer.passages[0].chunk.document == "pass.md" and answer.passages[0].scores["bm25"] > 0
    assert answer.citations[0].chunk == answer.passages[0].chunk.id
    assert [m["role"] for m in answer.messages] == ["system", "user"]
    assert "The pass statement does nothing" in answer.messages[1]["content"]
    assert answer.usage.cost and answer.usage.latency > 0


def test_abstaining_and_refusing(manual: Path, server: Loopback) -> None:
    app = load_app(manual)
    assert app("<That is not in the manual.>").abstained
    before = len(server.requests())
    assert app("   ").finish == "blocked" and app("x" * 3000).finish == "blocked"
    assert len(server.requests()) == before, "a blocked question costs nothing"


def test_the_version_changes_with_anything_that_changes_an_answer(manual: Path) -> None:
    app = load_app(manual)
    seen = {app.digest}
    for change in ({"top_k": 1}, {"temperature": 0.5}, {"max_tokens": 21}, {"chunk_size": 30}, {"mode": "bm25", "overlap": 5}):
        seen.add(load_app(manual, **change).digest)
    (manual / "ask.md").write_text(PROMPT.replace("Answer.", "Answer briefly."))
    seen.add(load_app(manual).digest)
    (manual / "ask.md").write_text(PROMPT)
    (manual / "docs" / "pass.md").write_text("# Pass\n\nThe pass statement does nothing.\n")
    seen.add(load_app(manual).digest)
    assert len(seen) == 8
    (manual / "docs" / "pass.md").write_text("# Pass\n\nThe pass statement does nothing at all.\n")
    assert load_app(manual).digest == app.digest


def test_a_trace_leads_from_the_item_to_the_chunk(manual: Path, tmp_path: Path) -> None:
    golden = GoldenSet("g", (Item("nothing", "Which statement does nothing? <pass>", "pass"),))
    app = load_app(manual)
    run = evaluate(app, golden, standard_scorers(app.corpus), tmp_path / "run", settings=load_settings(manual), progress=False)
    spans = trace.read_spans(tmp_path / "run" / "spans.jsonl")
    answer = run.record("nothing").answer
    assert answer is not None
    assert {s["traceId"] for s in spans} == {answer.trace_id}
    by_id, by_name = {s["spanId"]: s for s in spans}, {s["name"].partition(" ")[0]: s for s in spans}
    assert by_id[by_name["chat"]["parentSpanId"]]["name"] == "invoke_agent manual"
    assert by_id[by_name["invoke_agent"]["parentSpanId"]]["name"] == "item"
    assert by_name["item"]["attributes"][trace.ITEM] == "nothing"
    chat, found = by_name["chat"]["attributes"], by_name["retrieval"]["attributes"]
    assert (chat["gen_ai.operation.name"], chat["gen_ai.request.model"], chat["gen_ai.usage.output_tokens"]) == ("chat", "loop", 1)
    assert found[trace.CHUNKS] == [p.chunk.id for p in answer.passages]
    assert by_name["score"]["attributes"][trace.EVALUATION]
    assert all(s["endTimeUnixNano"] >= s["startTimeUnixNano"] for s in spans)
    assert by_name["guard"]["attributes"][trace.GUARD] == "question_length"


def test_spans_reach_a_provider_of_the_users_own(manual: Path) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = load_app(manual)
    with trace.tracing(provider=provider):
        app("Which statement does nothing? <pass>")
    assert {s.name.partition(" ")[0] for s in exporter.get_finished_spans()} >= {"invoke_agent", "retrieval", "chat", "guard"}
    app("Which statement does nothing? <pass>")
    assert len([s for s in exporter.get_finished_spans() if s.name.startswith("chat")]) == 1, "off again"


def test_tracing_leaves_random_numbers_alone_and_does_not_depend_on_them(tmp_path: Path) -> None:
    import random

    ids, drawn = [], []
    for number in range(2):
        random.seed(7)
        with trace.tracing(tmp_path / f"{number}.jsonl"), trace.span("item") as step:
            ids.append(step.trace_id)
            drawn.append(random.random())
    assert ids[0] != ids[1], "two runs with one seed are two traces"
    random.seed(7)
    assert drawn == [random.random()] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_trace_that_cannot_be_written_costs_no_answer(manual: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "spans.jsonl").symlink_to("/dev/full")
    app = load_app(manual)
    with trace.tracing(tmp_path / "spans.jsonl"):
        assert app("Which statement does nothing? <pass>").text == "pass"
    assert caplog.text.count("No space left to write spans.jsonl") == 1


def test_what_a_run_used_is_kept(manual: Path, tmp_path: Path) -> None:
    golden = load_golden(manual / "golden" / "loop.jsonl")
    settings = load_settings(manual)
    app = load_app(manual)
    info = evaluate(app, golden, [exact_match], tmp_path / "run", settings=settings, progress=False).info
    assert Objects(settings.state / "objects").get(info.digests["prompt"]).decode() == PROMPT
    assert digest(Objects(settings.state / "objects").get(golden.digest)) == info.digests["golden"]
    assert set(info.digests) == {"app", "prompt", "model", "index", "corpus", "settings", "golden", "scorers", "code"}
    assert info.environment["packages"]["numpy"] and info.model["name"] == "loop"
    assert open_run(tmp_path / "run").info == info


def test_scorers_have_a_version() -> None:
    def mine(item: Item, answer: Answer):  # noqa: ANN202
        return task_success(item, answer)

    assert scorers_digest([exact_match]) == scorers_digest([exact_match])
    assert len({scorers_digest([exact_match]), scorers_digest([task_success]), scorers_digest([mine]), scorers_digest([exact_match, mine])}) == 4


def test_a_hosted_error_becomes_the_items_error_and_resuming_asks_again(manual: Path, tmp_path: Path) -> None:
    from llmops_nb.core import ModelError

    busy = ModelError("Overloaded.", code="server", retryable=True)
    app = replace(load_app(manual), model=ScriptedModel(["pass", busy, "pass"], name="moody"))
    golden = GoldenSet("g", (Item("a", "one?", "pass"), Item("b", "two?", "pass")))
    first = evaluate(app, golden, [exact_match], tmp_path / "run", settings=load_settings(manual), concurrency=1, progress=False)
    save_info(tmp_path / "run", replace(first.info, totals={**first.info.totals, "seconds": 100.0}))
    assert first.info.totals["errors"] == 1 and first.metric("exact_match").failed == 1
    again = evaluate(app, golden, [exact_match], tmp_path / "run", settings=load_settings(manual), concurrency=1, progress=False)
    assert again.info.totals["errors"] == 0 and again.metric("exact_match").value == 1.0
    assert len(app.model.calls) == 3
    assert 100 <= again.info.totals["seconds"] < 110, "the time of both parts"
