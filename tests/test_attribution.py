"""What an answer rests on: sentences, words, citations, influence; hostile texts stay text and cost no time."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import Opener, until
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops_nb._attribution_words import MARK, places, sentences_of, shared, words_of
from llmops_nb.app import App, Definition
from llmops_nb.attribution import attribute, basis_of, check_citations, influence, influence_calls, keep_influence, read_influence
from llmops_nb.attribution import given as handed
from llmops_nb.cache import Cache, cached
from llmops_nb.commands import main
from llmops_nb.core import Answer, Chunk, Citation, ConfigurationError, DataError, Item, Message, ModelError, Passage, Score, to_json
from llmops_nb.eval_scorer import EvalScorer
from llmops_nb.evals import RunInfo, open_run
from llmops_nb.groundedness import support
from llmops_nb.lineage import chunk_seen
from llmops_nb.metrics import Record
from llmops_nb.models import EchoModel, Wrapped
from llmops_nb.prompts import parse_prompt
from llmops_nb.settings import Settings, load_settings
from llmops_nb.widgets import drawing

opened = browsing.opened  # The browser, as a fixture

HOSTILE = "<img src=x onerror=alert(1)> seven hills </td><script>alert(2)</script>"


def passage(text: str, name: str = "d", start: int = 0) -> Passage:
    return Passage(Chunk(f"{name}#1", name, text, start, start + len(text), version=f"v-{name}"), 1.0)


def supports(sentence: str, texts: Sequence[str]) -> float:
    return support(sentence, texts).value


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aB. !?\n-*[1],`~#。日\t"))
def test_sentences_hold_every_sign_once_and_in_order(text: str) -> None:
    spans = sentences_of(text)
    assert all(a < b for a, b in spans) and all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    left = "".join(text[b:c] for (_, b), (c, _) in zip([(0, 0), *spans], [*spans, (len(text), 0)], strict=True))
    assert not left.strip()


@pytest.mark.parametrize(("text", "parts"), [
    ("It may, e.g. in loops. See Dr. Smith [1]. [2] Yes", ["It may, e.g. in loops.", "See Dr. Smith [1]. [2]", "Yes"]),
    ("Two:\n1. First. Then\n2. Second\n\nEnd", ["Two:", "1. First.", "Then", "2. Second", "End"]),
    ("Do:\n```py\na = 1. B\n```\nDone", ["Do:", "```py\na = 1. B\n```", "Done"]),
    ("これは本です。次！", ["これは本です。", "次！"]),
    ("v1.2 is out. 3 of 4 failed", ["v1.2 is out.", "3 of 4 failed"]),
])  # fmt: skip
def test_sentences_end_where_a_reader_would_end_them(text: str, parts: list[str]) -> None:
    assert [text[a:b] for a, b in sentences_of(text)] == parts


@pytest.mark.parametrize("text", ["!" * 99_999 + "a", " " * 99_999, "\n" * 99_999, "a. " * 9_999, "A. " * 9_999, "[1" * 50_000, "~~~" * 50_000, "```\n" * 9_999, "._" * 50_000, ". [1]" * 9_999, '".' * 50_000])
def test_no_text_takes_long(text: str) -> None:
    before = time.process_time()
    answer = Answer(text, passages=(passage(text),))
    sentences_of(text), words_of(text), MARK.sub("", text)
    places(words_of(text), words_of(text))
    assert time.process_time() - before < 3
    assert answer.text == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["the", "loop", "Loops", "else", "clause.", "Runs", "日本", "[1]", "\n"]), max_size=20), st.lists(st.sampled_from(["the", "loop", "else", "clause", "ran", "日本", ","]), max_size=30), st.integers(0, 50))
def test_words_stand_where_they_are_said_to_stand(said: list[str], source: list[str], start: int) -> None:
    document = "x" * start + " ".join(source)
    answer = Answer(" ".join(said), passages=(passage(document[start:], start=start),))
    bases = basis_of(answer)
    assert [(basis.start, basis.end) for basis in bases] == sentences_of(answer.text)
    for basis in bases:
        assert answer.text[basis.start : basis.end] == basis.sentence and 0 <= basis.share <= 1
        assert all(document[word.start : word.end] == word.text for word in basis.words)
        assert (basis.passage, basis.chunk) in ((0, ""), (1, "d#1")) and (basis.share >= 0.5) == bool(basis.passage)
        if basis.passage:
            telling = {word.key for word in words_of(MARK.sub("", basis.sentence)) if word.telling}
            assert {word.key for place in basis.words for word in words_of(place.text)} >= telling & {word.key for word in words_of(document[start:])}


def test_a_sentence_stands_on_the_passage_with_its_pairs_and_then_on_the_one_it_cites() -> None:
    one, two = passage("condition false becomes loop", "a"), passage("the loop condition becomes false", "b")
    assert basis_of(Answer("The loop condition becomes false.", passages=(one, two)))[0].chunk == "b#1"
    same = passage("the loop condition becomes false", "c")
    assert basis_of(Answer("The loop condition becomes false [3].", passages=(one, two, same)))[0].chunk == "c#1"
    assert basis_of(Answer("The loop condition becomes false.", passages=(one, two, same)))[0].chunk == "b#1"
    assert basis_of(Answer("", passages=(one,))) == () and basis_of(Answer("Said alone."))[0].passage == 0


def test_words_that_differ_by_an_ending_are_the_same() -> None:
    assert shared(words_of("Loops raised exceptions"), words_of("the loop raises an exception"))[0] == 1
    assert shared(words_of("日本語"), words_of("日本の本"))[0] == pytest.approx(2 / 3)


CITED = (passage("Rome has seven hills."), passage("Rome lies on the Tiber.", "e"), passage("Oslo lies on a fjord.", "f"))


@pytest.mark.parametrize(("text", "verdicts", "recall", "precision"), [
    ("Rome has seven hills [1].", ["supported"], 1, 1),
    ("Rome has seven hills [1, 3].", ["supported"], 1, 1 / 2),
    ("Rome has seven hills [3].", ["not supported"], 0, 0),
    ("Rome has seven hills [9].", ["no such passage"], 0, 0),
    ("Rome has seven hills [1][9].", ["supported"], 1, 1 / 2),
    ("Rome has seven hills.", ["uncited"], 0, None),
    ("Which hills?", [""], None, None),
    ("Here is what I found:\n- Rome has seven hills [1]\n- Oslo lies on a fjord", ["", "supported", "uncited"], 1 / 2, 1),
    ("", [], None, None),
])  # fmt: skip
def test_citations_are_checked(text: str, verdicts: list[str], recall: float | None, precision: float | None) -> None:
    found = check_citations(Answer(text, passages=CITED), supports)
    assert [claim.verdict for claim in found.claims] == verdicts and (found.recall, found.precision) == (recall, precision)
    assert len(found.to_pandas()) == len(verdicts) and str(found)


def test_two_passages_that_support_only_together_are_both_needed() -> None:
    both = check_citations(Answer("Rome has seven hills and lies on the Tiber [1, 2].", passages=CITED), lambda said, texts: float(len(texts) > 1))
    assert both.claims[0].needed == (1, 2) and both.precision == 1


def test_an_answer_that_says_it_does_not_know_needs_no_citation() -> None:
    assert check_citations(Answer("That is not in the reference.", passages=CITED, abstained=True), supports).recall is None


def test_hostile_texts_are_escaped() -> None:
    found = attribute(Answer(f"{HOSTILE} [1].", passages=(passage(HOSTILE, "<b>d</b>"),)), supports)
    shown = found._repr_html_()
    assert "<script" not in shown and "<img" not in shown and "<b>d" not in shown and "<mark>" in shown
    answered = app(lambda messages, **options: Answer(HOSTILE))
    shown = influence(answered, HOSTILE, [passage(HOSTILE, "<b>d</b>")])._repr_html_()
    assert "<script" not in shown and "<img" not in shown and "<b>d" not in shown


PROMPT = parse_prompt("---\nvariables: {question: str, passages: list}\n---\n[user]\n{% for passage in passages %}{{ loop.index }} {{ passage }}\n{% endfor %}{{ question }}\n", "lesson")
ITEM = Item("h", "How many hills?", facts=(("seven hills", "7 hills"), ("rome",)))


def app(answers: Any, cache: Cache | None = None) -> App:
    model = Wrapped(EchoModel(), answers)
    return App(Definition("lesson", "lesson.md"), PROMPT, model if cache is None else cached(model, cache))


def reader(messages: Sequence[Message], **options: Any) -> Answer:
    "Repeats the first line with a seven in it; at every repeat with another word behind."
    lines = [line for line in messages[-1]["content"].splitlines() if "seven" in line]
    return Answer(lines[0][2:] if lines else "I don't know")


def test_influence_is_where_the_answer_comes_from() -> None:
    score = lambda item, answer: Score("long", float(len(answer.text)))  # noqa: E731
    found = influence(app(reader), ITEM.question, CITED, item=ITEM, scorers=[score])
    assert found.most and found.most.chunk == "d#1" and found.most.facts == 1 and found.most.version == "v-d"
    assert [one.change for one in found.passages] == [1, 0, 0] and found.noise == 0 and (found.calls, found.remembered) == (5, 0)
    assert found.passages[0].scores == {"long": len("Rome has seven hills.") - len("I don't know")} and found.passages[1].scores == {"long": 0}
    assert list(found.to_pandas()["passage"]) == [1, 2, 3]


def test_passages_that_say_the_same_cover_for_each_other() -> None:
    found = influence(app(reader), ITEM.question, [passage("Rome has seven hills.", "a"), passage("Rome has seven hills.", "b")], item=ITEM)
    assert found.most is None


def test_a_model_that_any_change_upsets_names_no_passage() -> None:
    whole = "\n".join(f"{n} {p.chunk.text}" for n, p in enumerate(CITED, start=1))
    found = influence(app(lambda messages, **options: Answer("seven hills, Rome" if whole in messages[-1]["content"] else "I don't know")), ITEM.question, CITED, item=ITEM)
    assert [one.facts for one in found.passages] == [1, 1, 1] and found.most is None


def test_change_that_a_repeat_brings_too_is_no_influence() -> None:
    counted = iter(range(1000))
    found = influence(app(lambda messages, **options: Answer(f"number {next(counted)} of many")), ITEM.question, CITED, repeats=2)
    assert found.noise and found.noise > 0 and found.calls == 6 and (found.most is None or found.most.change > found.noise)


def test_asking_again_is_free_and_foretold(tmp_path: Path) -> None:
    calls = []
    cache = Cache(tmp_path / "answers.sqlite")

    def counting(messages: Sequence[Message], **options: Any) -> Answer:
        calls.append(messages)
        return reader(messages)

    lesson = app(counting, cache)
    assert influence_calls(lesson, {ITEM.question: CITED}, cache) == (5, 0)
    handed(lesson, CITED)(ITEM.question)
    assert influence_calls(lesson, {ITEM.question: CITED}, cache) == (5, 1)
    first = influence(lesson, ITEM.question, CITED, item=ITEM)
    assert (first.calls, first.remembered, len(calls)) == (5, 1, 5)
    assert influence_calls(lesson, {ITEM.question: CITED}, cache) == (5, 5)
    again = influence(lesson, ITEM.question, CITED, item=ITEM)
    assert again.passages == first.passages and again.remembered == 5 and len(calls) == 5


def test_influence_that_cannot_be_measured_is_refused_before_anything_is_asked() -> None:
    def never(messages: Sequence[Message], **options: Any) -> Answer:
        raise AssertionError("asked")

    with pytest.raises(ConfigurationError, match="No passage was given"):
        influence(app(never), "?", [])
    with pytest.raises(ConfigurationError, match="give the item"):
        influence(app(never), "?", CITED, scorers=[lambda item, answer: Score("x", 1.0)])
    with pytest.raises(ConfigurationError, match="repeats"):
        influence(app(never), "?", CITED, repeats=-1)

    def failing(messages: Sequence[Message], **options: Any) -> Answer:
        raise ModelError("down", code="server")

    with pytest.raises(ModelError, match="down"):
        influence(app(failing), "?", CITED)


def test_influence_is_kept_beside_its_run_and_a_torn_line_does_not_matter(tmp_path: Path) -> None:
    found = influence(app(reader), ITEM.question, CITED, item=ITEM)
    keep_influence(tmp_path, found)
    with open(tmp_path / "influence.jsonl", "ab") as file:
        file.write(b'{"question": 3}\nno json\n{"question":"torn')
    assert read_influence(tmp_path) == {"h": found} and read_influence(tmp_path / "none") == {}
    keep_influence(tmp_path, found)
    assert read_influence(tmp_path) == {"h": found}
    with pytest.raises(DataError, match="names none"):
        keep_influence(tmp_path, influence(app(reader), "?", CITED))


# Which answers saw a chunk


def record(item: str, *chunks: tuple[str, str, str], cited: str = "") -> bytes:
    "A line of a journal whose answer was given some chunks: id, document, version."
    passages = tuple(Passage(Chunk(name, document, "text", 0, 4, version=version), 1.0) for name, document, version in chunks)
    return to_json(Record(Item(item, "?"), Answer("a", passages=passages, citations=(Citation(1, cited),) if cited else ())))


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    (tmp_path / "settings.ini").write_text("[llmops]\nmodel = echo\n")
    found = load_settings(tmp_path)
    old, new = ("a.md#1", "a.md", "aaaaaa1111"), ("a.md#1", "a.md", "bbbbbb2222")
    other = ("ü/b <b>.md#1", "ü/b <b>.md", "cccccc3333")
    wrote(found, "r1", record("q1", other, old, cited="a.md#1"), record("q2", old), b"no json", record("q2", other), record("q3", other) + b" torn")
    wrote(found, "r2", record("q1", new, other), b'{"item":{"id":"q9"},"answer":null}')
    wrote(found, "r3", record("q1", other))
    (found.reports / "app" / "r3" / "run.json").write_bytes(b"{broken")
    for name, text in {"1.0": '{"lock": [{"app": "digest of r2"}]}', "1.1": '"nothing"', "1.2": "no json", "2.0": '["r1"]'}.items():
        (found.reports / "releases" / name).mkdir(parents=True)
        (found.reports / "releases" / name / "lock.json").write_text(text)
    return found


def wrote(settings: Settings, run: str, *lines: bytes) -> None:
    place = settings.reports / "app" / run
    place.mkdir(parents=True)
    (place / "run.json").write_bytes(to_json(RunInfo(run, "app", "finished", digests={"app": f"digest of {run}"})))
    (place / "records.jsonl").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(("wanted", "answers", "releases"), [
    ("a.md#1", [("r2", "q1", 1, False), ("r1", "q1", 2, True)], ("1.0", "2.0")),
    ("a.md", [("r2", "q1", 1, False), ("r1", "q1", 2, True)], ("1.0", "2.0")),
    ("bbbbbb", [("r2", "q1", 1, False)], ("1.0",)),
    ("aaaaaa1111", [("r1", "q1", 2, True)], ("2.0",)),
    ("ü/b <b>.md", [("r2", "q1", 2, False), ("r1", "q1", 1, False), ("r1", "q2", 1, False)], ("1.0", "2.0")),
    ("bbbbb", [], ()), ("a", [], ()), ("A.MD", [], ()), (".*", [], ()),
])  # fmt: skip
def test_who_saw_a_chunk(project: Settings, wanted: str, answers: list[tuple[str, str, int, bool]], releases: tuple[str, ...]) -> None:
    "The last answer to an item counts; broken and torn lines, broken runs and foreign releases are passed over."
    found = chunk_seen(wanted, project)
    assert [(one.run, one.item, one.rank, one.cited) for one in found.answers] == answers and found.releases == releases
    assert found.items == len(answers) and found.searched == 2 and list(found.to_pandas()["item"]) == [item for _, item, _, _ in answers]
    assert "<b>" not in found._repr_html_().replace("<table>", "")


def test_who_saw_a_chunk_on_the_command_line(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    ask = lambda *words: CliRunner().invoke(main, ["chunk", "seen", *words])  # noqa: E731
    found = json.loads(ask("a.md", "--json").output)
    assert [run["run"] for run in found["runs"]] == ["r2", "r1"] and found["releases"] == ["1.0", "2.0"] and len(found["answers"]) == 2
    assert "The first of 2 answers" in ask("a.md", "--limit", "1").output and "q1" in ask("bbbbbb").output
    assert ask("nobody").exit_code == 0 and "given to no answer" in ask("nobody").output
    assert ask(" ").exit_code == 1 and "Which chunk?" in ask(" ").output


# In the EvalScorer


@pytest.mark.browser
def test_passages_of_a_widget_are_drawn_as_text(tmp_path: Path, opened: Opener) -> None:
    poison = "<script>window.__pwned = 1</script><img src=x onerror='window.__pwned = 1'>"
    found = (passage(f"{poison} A break terminates the loop.", start=40),)
    answer = Answer("A break terminates the loop. <b>Cheese</b> grows on trees [9].", passages=found, citations=(Citation(9, ""),))
    wrote(load_settings(tmp_path), "r1", to_json(Record(Item("w", "When?"), answer)) + b"\n")
    scorer = EvalScorer(open_run(tmp_path / "reports" / "app" / "r1"), rater="ann")
    plain = lambda value: json.dumps(value).replace("</", "<\\/")  # noqa: E731
    (tmp_path / "widget.html").write_text(f"""<!doctype html><meta charset=utf-8><div id=root></div><script type=module>
const view = {plain(scorer.snapshot())};
const {{ default: made }} = await import("data:text/javascript," + encodeURIComponent({plain(drawing("eval_scorer", "js"))}));
made.render({{ model: {{ get: () => view, on() {{}}, off() {{}}, send() {{}} }}, el: document.getElementById("root") }});
document.querySelectorAll("details").forEach((one) => (one.open = true));
window.drawn = true;
</script>""")
    with opened(tmp_path / "widget.html", wait=False) as seen:
        until(seen.page, "window.drawn")
        assert seen.page.evaluate("[...document.querySelectorAll('.es-said')].map((one) => one.textContent)") == ["A break terminates the loop"]
        assert found[0].chunk.text in seen.page.evaluate("document.querySelector('.es-passages').textContent")
        shown = seen.page.evaluate("document.querySelector('.es-sentences').textContent")
        assert "passage 1" in shown and "no passage" in shown and "[9]" in shown
        seen.page.wait_for_timeout(200)
        assert seen.page.evaluate("window.__pwned") is None and seen.messages == [] and seen.dialogs == []
