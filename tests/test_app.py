"""One App from its file to its trace: what is recorded leads from a number to the prompt, the model and the chunk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb import evaluate, load_app, load_golden, load_settings, standard_scorers, trace
from llmops_nb.app import App, open_retriever, override
from llmops_nb.collections import Collection, Record, add_version, label_version, roll_back_collection
from llmops_nb.core import Answer, ConfigurationError, Document, Item, Usage
from llmops_nb.datasets import GoldenSet
from llmops_nb.documents import Corpus
from llmops_nb.evals import open_run, save_info, scorers_digest
from llmops_nb.models import ScriptedModel
from llmops_nb.queries import rewritten
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


# -- who may see what


def of_tenants(home: Path, **overrides: object) -> App:
    "The application over documents of two tenants, one of them secret."
    texts = {
        "acme": Document("acme", "The pass phrase of the vault is spam.", metadata={"tenant": "acme", "level": 1}),
        "umbrella": Document("umbrella", "The pass phrase of the vault is eggs.", metadata={"tenant": "umbrella", "level": 1}),
        "secret": Document("secret", "The pass phrase of the other vault is ham.", metadata={"tenant": "acme", "level": 3}),
    }
    app = load_app(home)
    app = replace(app, definition=override(app.definition, overrides))
    corpus = Corpus("tenants", tuple(texts.values()))
    retriever, recipe = open_retriever(app.definition.retrieval, corpus, load_settings(home), home)
    return replace(app, corpus=corpus, retriever=retriever, recipe=recipe)


def seen(answer: Answer) -> set[str]:
    return {passage.chunk.document for passage in answer.passages}


def test_a_caller_narrows_what_the_application_lets_through(manual: Path) -> None:
    app = of_tenants(manual, top_k=5, where={"level": {"lt": 3}})
    question = "What is the pass phrase of the vault? <spam>"
    assert seen(app(question)) == {"acme", "umbrella"}
    assert seen(app(question, {"tenant": "acme"})) == {"acme"}
    assert seen(app(question, {"any": [{"level": 3}, {"tenant": "umbrella"}]})) == {"umbrella"}
    nobody = app(question, where={"tenant": "nobody"})
    assert nobody.passages == () and nobody.text == "spam", "a prompt without passages is for the model to answer"
    assert "eggs" not in app(question, {"tenant": "acme"}).messages[1]["content"]
    with pytest.raises(ConfigurationError, match="Did you mean 'tenant'"):
        app(question, {"tennant": "acme"})
    with pytest.raises(ConfigurationError, match="field to filter by named 'stage'"):
        of_tenants(manual, where={"stage": 1})
    with pytest.raises(ConfigurationError, match="no field to filter by"):
        load_app(manual, where={"tenant": "acme"}, chunk_size=33)
    made = {json.loads(path.read_bytes())["recipe"]["chunk_size"] for path in (load_settings(manual).state / "index").glob("*/meta.json")}
    assert made == {40}, "a filter that cannot be is refused before an index is built"


def test_a_trace_tells_scores_and_fields_but_no_values(manual: Path, tmp_path: Path) -> None:
    app = of_tenants(manual, top_k=5, where={"level": {"lt": 3}})
    with trace.tracing(tmp_path / "spans.jsonl"):
        answer = app("What is the pass phrase? <spam>", {"not": {"any": [{"tenant": "umbrella"}]}})
        app("What is the pass phrase? <spam>", {"not": {"any": [{"tenant": "umbrella"}]}})
        app("What is the pass phrase? <spam>", {"tenant": "umbrella"})
    first, again, other = (span["attributes"] for span in trace.read_spans(tmp_path / "spans.jsonl") if span["name"] == "retrieval")
    assert first[trace.FILTER] == ["level", "tenant"] and [json.loads(row) for row in first[trace.STAGE_SCORES]] == [dict(p.scores) for p in answer.passages]
    assert first[trace.FILTER_DIGEST] == again[trace.FILTER_DIGEST] != other[trace.FILTER_DIGEST]
    assert "umbrella" not in json.dumps({k: v for k, v in first.items() if k != trace.CHUNKS})


def test_provenance_covers_all_that_decides_what_is_found(manual: Path) -> None:
    (manual / "own.md").write_text("---\nvariables: {question: str}\nschema: {type: object, properties: {q: {type: string}}}\n---\n{{ question }}")
    (manual / "rubric.md").write_text("---\ntask: x\ncriteria:\n- name: relevance\n  question: Good?\n  scale: {0: bad, 1: good}\n---\n")
    changes: list[dict[str, object]] = [{}, {"fusion": "convex"}, {"rewrite": "rewrite"}, {"rewrite": "paraphrase"}, {"rewrite": "rewrite", "rewrite_model": "echo"}, {"rewrite": "rewrite", "rewrite_prompt": "own.md"}, {"merge": True}, {"parent": "section"}, {"expand": 1}, {"rerank": "echo"}, {"rerank": "echo", "rubric": "rubric.md"}]
    made = [load_app(manual, **change) for change in changes]  # type: ignore[arg-type]
    assert len({app.digest for app in made}) == len(made)
    assert made[0].digest == load_app(manual, fusion="rrf", merge=False, where={}).digest, "what is said by default is no other version"
    kept = "".join(load_app(manual, rewrite="rewrite", rewrite_prompt="own.md", rerank="echo", rubric="rubric.md").provenance.contents)
    assert (manual / "own.md").read_text() in kept and (manual / "rubric.md").read_text() in kept
    before = {name: load_app(manual, **change).recipe for name, change in (("own", changes[5]), ("rubric", changes[10]))}  # type: ignore[arg-type]
    (manual / "own.md").write_text("---\nvariables: {question: str}\nschema: {type: object, properties: {q: {type: string}}}\n---\nQ: {{ question }}")
    (manual / "rubric.md").write_text("---\ntask: x\ncriteria:\n- name: relevance\n  question: Very good?\n  scale: {0: bad, 1: good}\n---\n")
    assert before["own"] != load_app(manual, **changes[5]).recipe and before["rubric"] != load_app(manual, **changes[10]).recipe  # type: ignore[arg-type]


def test_what_a_search_asks_of_models_is_in_the_usage(manual: Path) -> None:
    app = load_app(manual)
    plain = app("Which statement does nothing? <pass>")
    asked = ScriptedModel([Answer('{"query": "pass statement"}', usage=Usage(100, 10, latency=1.0, cost=0.5)), Answer("{}", usage=Usage(100, 10, cost=None))])
    assert app.retriever is not None
    wordy = replace(app, retriever=rewritten(app.retriever, asked))
    answer = wordy("Which statement does nothing? <pass>")
    assert answer.passages[0].chunk.document == "pass.md" and answer.passages[0].scores["rewrite"] == 1
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.attempts) == (plain.usage.prompt_tokens + 100, plain.usage.completion_tokens + 10, 2)
    assert answer.usage.cost == pytest.approx((plain.usage.cost or 0) + 0.5) and not answer.usage.cached
    assert wordy("Which statement does nothing? <pass>").usage.cost is None, "an unknown price makes the whole unknown"


def test_a_model_that_words_nothing_usable_costs_no_answer(manual: Path) -> None:
    answer = load_app(manual, rewrite="rewrite", rewrite_model="echo")("Which statement does nothing? <pass>")
    assert answer.text == "pass" and answer.passages[0].chunk.document == "pass.md" and answer.passages[0].scores["rewrite"] == 0


def test_passages_shown_in_context_can_be_cut_out_of_their_document(manual: Path) -> None:
    for change in ({"parent": "document"}, {"expand": 1}, {"parent": "section", "parent_tokens": 5}, {"merge": True, "overlap": 5, "chunk_size": 12}):
        app = load_app(manual, top_k=3, **change)  # type: ignore[arg-type]
        answer = app("When does the else clause of a while loop run? <pass>")
        assert app.corpus is not None and answer.passages
        for passage in answer.passages:
            assert app.corpus.document(passage.chunk.document).text[passage.chunk.start : passage.chunk.end] == passage.chunk.text
            assert passage.chunk.version == digest(passage.chunk.text) and passage.chunk.text.split()[-1] in answer.messages[1]["content"]


def test_documents_come_from_a_collection_under_its_label(manual: Path) -> None:
    collection = Collection("handbook", load_settings(manual))
    for word in ("nothing", "everything"):
        text = f"The pass statement does {word} at all."
        version, _ = add_version(collection, [Record("pass", collection.texts.put(text.encode()), "Pass", {"tenant": "acme"}, len(text))], word)
        label_version(collection, "production" if word == "nothing" else "staging", version.digest)
    (manual / "app.yaml").write_text(APP.replace("{folder: docs}", "{collection: handbook}"))
    first = load_app(manual)
    assert first("What does pass do? <x>", {"tenant": "acme"}).passages[0].chunk.text.endswith("nothing at all.")
    (manual / "app.yaml").write_text(APP.replace("{folder: docs}", "{collection: handbook, label: staging}"))
    assert load_app(manual)("What does pass do? <x>").passages[0].chunk.text.endswith("everything at all.")
    assert load_app(manual).digest != first.digest
    label_version(collection, "production", collection.version("staging").digest)
    (manual / "app.yaml").write_text(APP.replace("{folder: docs}", "{collection: handbook}"))
    assert load_app(manual).provenance.digests["corpus"] != first.provenance.digests["corpus"]
    roll_back_collection(collection)
    assert load_app(manual).digest == first.digest
    for corpus, says in (("{collection: handbok}", "Did you mean 'handbook'"), ("{collection: handbook, lable: x}", "Did you mean 'label'"), ("{collection: handbook, label: next}", "Known:"), ("{collection: 3}", "must be text")):
        (manual / "app.yaml").write_text(APP.replace("{folder: docs}", corpus))
        with pytest.raises(ConfigurationError, match=says):
            load_app(manual)
