"""Examples: read or refused, chosen the same way every time, and never an item of the golden set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmops_nb import ScriptedModel, evaluate, load_app, load_golden, load_settings
from llmops_nb.core import Answer, ConfigurationError, DataError, Item, LLMOpsError
from llmops_nb.datasets import GoldenSet
from llmops_nb.fewshots import Example, ExampleSet, chooser, leaks, load_examples, mmr, parse_examples, pick
from llmops_nb.trace import read_spans, tracing
from project import ROOT

PYDOCS = ROOT / "experiments" / "pydocs"


class Directions:
    "An embedder that knows the direction of each text."

    name = digest = "directions"

    def __init__(self, vectors: dict[str, tuple[float, float]]):
        self.vectors, self.asked = vectors, 0

    def __call__(self, texts):
        self.asked += len(texts)
        rows = np.array([self.vectors[t] for t in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def examples_of(*questions: str) -> ExampleSet:
    return ExampleSet("e.jsonl", tuple(Example(q, q, f"Answer to {q}") for q in questions))


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ("", "e.jsonl", "holds no examples"),
        ("nonsense", "e.jsonl", "e.jsonl:1: not JSON"),
        ("[1]", "e.jsonl", "not list"),
        ('{"question": "?"}', "e.jsonl", "here is no answer"),
        ('{"question": " ", "answer": "!"}', "e.jsonl", "here is no question"),
        ('{"question": 5, "answer": "!"}', "e.jsonl", "here is no question"),
        ('{"id": "a", "question": "?", "answer": "!"}\n{"id": "a", "question": "??", "answer": "!"}', "e.jsonl", "e.jsonl:2: the same id as in e.jsonl:1"),
        ('{"question": "What  is it?", "answer": "!"}\n{"question": "what is IT?", "answer": "?"}', "e.jsonl", "the same question"),
        ("- [", "e.yaml", "not YAML"),
        ("question: x", "e.yaml", "should be a list"),
        ("- {question: x}", "e.yaml", "e.yaml, example 1"),
    ],
)
def test_examples_that_cannot_be(text: str, name: str, error: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_examples(text, name)
    assert error in str(caught.value)


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "python.jsonl").write_text('{"question": "?", "answer": "!"}')
    with pytest.raises(DataError, match="Did you mean 'python.jsonl'"):
        load_examples(tmp_path / "pyton.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        load_examples(tmp_path / "b.jsonl")


def test_the_version_is_that_of_the_examples_not_of_their_spelling(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "Is 1 < 2?", "answer": "Yes.", "why": ["order"]}, {"id": "b", "question": "Is 2 < 1?", "answer": "No.", "why": []}]
    (tmp_path / "e.jsonl").write_text("\n\n".join(json.dumps(r, indent=None) for r in rows))
    (tmp_path / "e.yaml").write_text(json.dumps(rows, indent=4))
    one, two = load_examples(tmp_path / "e.jsonl"), load_examples(tmp_path / "e.yaml")
    assert one.digest == two.digest
    assert one.digest != ExampleSet("e", one.examples[::-1]).digest, "the order is part of it"
    assert one.examples[0].plain() == rows[0]


def test_choosing_by_meaning_and_by_difference() -> None:
    vectors = {"north": (0.0, 1.0), "north too": (0.01, 1.0), "north-east": (0.5, 1.0), "east": (1.0, 0.0), "asked": (0.1, 1.0)}
    embedder = Directions(vectors)
    known = examples_of("east", "north", "north too", "north-east")

    def ids(how: str, k: int) -> list[str]:
        return [e.id for e in pick(known, "asked", how, k, embedder)]

    assert ids("fixed", 2) == ["east", "north"]
    assert ids("nearest", 2) == ["north", "north too"], "the likest stands last"
    assert ids("diverse", 2) == ["east", "north too"], "a twin of what is chosen adds nothing"
    assert set(ids("nearest", 4)) == set(ids("diverse", 4)) == set(vectors) - {"asked"}
    assert ids("nearest", 0) == []


def test_the_set_is_embedded_once_and_ties_go_to_the_first() -> None:
    embedder = Directions({"a": (1.0, 0.0), "b": (1.0, 0.0), "c": (1.0, 0.0), "q": (1.0, 0.0)})
    choose = chooser(examples_of("a", "b", "c"), "nearest", 2, embedder)
    assert [[e.id for e in choose("q")] for _ in range(3)] == [["b", "a"]] * 3
    assert embedder.asked == 3 + 3


def test_mmr_against_its_definition() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(12, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance, alike = (vectors @ vectors[0]).tolist(), (vectors @ vectors.T).tolist()
    for balance in (0.0, 0.3, 0.5, 1.0):
        chosen: list[int] = []
        for _ in range(5):
            worth = {i: balance * relevance[i] - (1 - balance) * max([alike[i][j] for j in chosen], default=0) for i in range(12) if i not in chosen}
            chosen.append(max(worth, key=lambda i: round(worth[i], 6)))  # noqa: B023
        assert mmr(relevance, alike, 5, balance) == chosen


@pytest.mark.parametrize(("how", "k", "error"), [("best", 1, "No choice of examples named 'best'"), ("fixed", 9, "holds 2"), ("fixed", -1, "holds 2"), ("nearest", 1, "needs an embedder")])
def test_a_choice_that_cannot_be_made(how: str, k: int, error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        chooser(examples_of("a", "b"), how, k)


GOLDEN = GoldenSet(
    "g.jsonl",
    (
        Item("a", "In `low < f() <= high`, how often is the function f called?", "Once, because an expression in the middle of a chain is evaluated once."),
        Item("b", "Which exception is raised by 5 % 0?", "A ZeroDivisionError, as for any division by zero."),
        Item("n1", "Who won?", "This is not in the documents.", answerable=False),
        Item("n2", "Who lost?", "This is not in the documents.", answerable=False),
    ),
)


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("which exception is raised by  5 % 0", "?", "same question"),
        ("In low < f() <= high how often is the function f called", "?", "near question"),
        ("I asked my teacher this and got no answer. In `low < f() <= high`, how often is the function f called? Please help.", "?", "question inside"),
        ("What about 0 // 0, then?", "A ZeroDivisionError, as for every division by zero!", "answer"),
    ],
)
def test_what_gives_an_item_away(question: str, answer: str, kind: str) -> None:
    found = leaks(ExampleSet("e", (Example("e", question, answer),)), GOLDEN)
    assert [leak.kind for leak in found] == [kind], found


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Who came third?", "This is not in the documents."), ("Which exception is raised by int('x')?", "A ValueError."), ("Who?", "Nobody"), ("How often is f called in f() or f()?", "Once or twice.")],
)
def test_what_does_not(question: str, answer: str) -> None:
    assert leaks(ExampleSet("e", (Example("e", question, answer),)), GOLDEN) == []


def test_every_item_would_be_noticed_as_an_example_and_no_other_mistaken_for_it() -> None:
    golden = load_golden(PYDOCS / "golden" / "pydocs.jsonl")
    copies = ExampleSet("copies", tuple(Example(i.id, i.question.upper() + " ", "?") for i in golden.items))
    assert {(leak.example, leak.item) for leak in leaks(copies, golden)} == {(i.id, i.id) for i in golden.items}


def test_the_examples_of_pydocs_give_nothing_away() -> None:
    assert leaks(load_examples(PYDOCS / "fewshots" / "python.jsonl"), load_golden(PYDOCS / "golden" / "pydocs.jsonl"), threshold=0.5) == []


# In an application

PROMPT = "---\nvariables: {question: str, shots: examples}\n---\n[system]\nAnswer.\n[user]\n{% for s in shots %}{{ s.question }} {{ s.answer }}\n{% endfor %}{{ question }}\n"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "settings.ini").write_text("[llmops]\nmodel = echo\n")
    (tmp_path / "app.yaml").write_text("name: shots\nprompt: say.md\nfewshots: {file: e.jsonl, k: 2}\n")
    (tmp_path / "say.md").write_text(PROMPT)
    (tmp_path / "plain.md").write_text("---\nvariables: {question: str}\n---\n{{ question }}")
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"id": n, "question": f"How much is {n}?", "answer": f"It is {n}."}) + "\n" for n in ("one", "two", "three")))
    return tmp_path


def test_what_was_shown_is_in_the_answer_and_in_the_trace(experiment: Path) -> None:
    app = load_app(experiment)
    with tracing(experiment / "spans.jsonl"):
        answer = app("How much is four?")
    assert answer.messages[1]["content"].splitlines() == ["How much is one? It is one.", "How much is two? It is two.", "How much is four?"]
    shown = next(s for s in read_spans(experiment / "spans.jsonl") if s["name"] == "fewshots")
    assert shown["attributes"]["llmops.fewshots.examples"] == ["one", "two"]


def test_the_version_of_an_app_covers_its_examples(experiment: Path) -> None:
    first = load_app(experiment)
    assert first.provenance.digests["fewshots"] == load_examples(experiment / "e.jsonl").digest
    seen = {first.digest, load_app(experiment, shots=1).digest}
    (experiment / "e.jsonl").write_text((experiment / "e.jsonl").read_text().replace("It is one.", "One."))
    seen.add(load_app(experiment).digest)
    none = load_app(experiment, shots=0)
    assert len(seen | {none.digest}) == 4 and "fewshots" not in none.provenance.digests


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"prompt": "plain.md"}, "has no slot for the examples of e.jsonl"),
        ({"fewshots": ""}, "names no file of them"),
        ({"fewshots": "f.jsonl"}, "Did you mean 'e.jsonl'"),
        ({"shots": 4}, "holds 3"),
        ({"shots": -1}, "must be 0 or more"),
        ({"shot_choice": "neares"}, "Did you mean 'nearest'"),
        ({"shot": 1}, "Did you mean 'shots'"),
    ],
)
def test_examples_and_slot_must_meet(experiment: Path, change: dict, error: str) -> None:
    model = ScriptedModel([])
    with pytest.raises(LLMOpsError, match=error):
        load_app(experiment, answering=model, **change)
    assert model.calls == []


def test_without_examples_any_prompt_will_do(experiment: Path) -> None:
    assert load_app(experiment, shots=0, fewshots="")("How much is four?").text == "How much is four?"
    assert load_app(experiment, shots=0, prompt="plain.md")("?").text == "?"


def test_an_evaluation_that_would_be_a_memory_test_does_not_begin(experiment: Path) -> None:
    model = ScriptedModel(["It is two."])
    golden = GoldenSet("g", (Item("i1", "how much is two", "It is two."),))
    with pytest.raises(ConfigurationError, match="example 'two' gives item 'i1' away"):
        evaluate(load_app(experiment, answering=model), golden, [], experiment / "run", settings=load_settings(experiment), progress=False)
    assert model.calls == [] and not (experiment / "run").exists()
    fair = GoldenSet("g", (Item("i1", "What is the square of two?", "Four"),))
    run = evaluate(load_app(experiment, answering=model), fair, [], experiment / "run", settings=load_settings(experiment), progress=False)
    assert run.info.digests["fewshots"] and run.records[0].answer


def test_any_callable_can_still_be_evaluated(tmp_path: Path) -> None:
    run = evaluate(lambda question: Answer(question), GOLDEN, [], tmp_path / "run", settings=load_settings(tmp_path), progress=False)
    assert len(run.records) == len(GOLDEN)
