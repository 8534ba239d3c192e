"""Widgets without a browser: state on the disk, commands that are checked, long work, and the picture in a notebook."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab import CHROMIUM, needs_chromium

from llmops_nb import widgets
from llmops_nb.core import ConfigurationError, DataError, RunError
from llmops_nb.reports import sanitise
from llmops_nb.widgets import LONGEST, STATIC, Task, Widget, command, drawing, read_state, state_path, table_html


@dataclass(frozen=True)
class Notes:
    at: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)


class Pad(Widget[Notes]):
    name = "pad"
    version = 2

    def upgrade(self, version: int, state: Any) -> Any:
        return {"at": state["place"], "texts": {}}

    @command
    def move(self, to: int) -> None:
        if to < 0:
            raise ConfigurationError("There is nothing before the first.")
        self.change(at=to)

    @command
    def write(self, where: str, text: str = "") -> None:
        self.change(texts={**self.state.texts, where: text})

    @command
    def crash(self) -> None:
        raise KeyError("a fault in the widget")

    def body(self) -> Mapping[str, Any]:
        return {"at": self.state.at, "mean": float("nan")}

    def hidden(self) -> None:
        self.change(at=-99)


def test_a_change_is_on_the_disk_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pad.json"
    pad = Pad(Notes(), path, "run 1")
    assert not path.exists()
    pad.handle({"do": "move", "to": 7})
    pad.handle({"do": "write", "where": "w1", "text": "שלום <b>\u2028"})
    assert json.loads(path.read_text())["state"] == {"at": 7, "texts": {"w1": "שלום <b>\u2028"}}
    assert Pad(Notes(), path, "run 1").state == pad.state


def test_another_kernel_is_not_overwritten(tmp_path: Path) -> None:
    here, there = (Pad(Notes(), tmp_path / "pad.json") for _ in range(2))
    there.handle({"do": "move", "to": 5})
    shown = here.handle({"do": "move", "to": 6})
    assert "Another kernel has changed pad.json" in shown["problem"] and shown["body"]["at"] == 5
    assert here.handle({"do": "move", "to": 6})["problem"] == ""
    there.handle({"do": "hello"})
    assert there.state.at == 6


def test_many_kernels_at_once_lose_nothing_silently(tmp_path: Path) -> None:
    pads = [Pad(Notes(), tmp_path / "pad.json") for _ in range(4)]

    def count(pad: Pad) -> None:
        for _ in range(10):
            for _ in range(400):
                pad.problem = ""
                if not pad.handle({"do": "move", "to": pad.state.at + 1})["problem"]:
                    break

    threads = [threading.Thread(target=count, args=(pad,)) for pad in pads]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    stored = read_state(tmp_path / "pad.json", "pad", 2)
    assert stored and stored.state["at"] == 40 == stored.revision


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"widget": "pad", "ver', "left as it is"),
        ('{"widget": "other", "version": 1, "revision": 1}', "not of 'pad'"),
        ('{"widget": "pad", "version": 3, "revision": 1}', "newer version"),
        ('{"widget": "pad", "version": 2, "revision": 1, "subject": "run 2"}', "about something else"),
        ('{"widget": "pad", "version": 2, "revision": 1, "state": {"at": "x"}}', "Expected `int`"),
        ('{"widget": "pad", "version": 2, "revision": 1, "state": {"to": 1}}', "No key named 'to'"),
        ("[]", "left as it is"),
    ],
)
def test_a_foreign_file_is_refused_and_kept(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pad.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(words)):
        Pad(Notes(), tmp_path / "pad.json")
    assert (tmp_path / "pad.json").read_text() == text


def test_a_file_torn_under_a_running_widget_is_kept(tmp_path: Path) -> None:
    pad = Pad(Notes(), tmp_path / "pad.json")
    pad.handle({"do": "move", "to": 1})
    (tmp_path / "pad.json").write_text('{"torn')
    assert "pad.json" in pad.handle({"do": "move", "to": 2})["problem"]
    assert (tmp_path / "pad.json").read_text() == '{"torn'


def test_an_older_format_is_brought_up(tmp_path: Path) -> None:
    (tmp_path / "pad.json").write_text('{"widget": "pad", "version": 1, "revision": 4, "state": {"place": 9}}')
    pad = Pad(Notes(), tmp_path / "pad.json")
    assert pad.state == Notes(9)
    pad.handle({"do": "move", "to": 1})
    assert json.loads((tmp_path / "pad.json").read_text()) | {"state": 0} == {"widget": "pad", "version": 2, "revision": 5, "subject": "", "state": 0}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (None, "A message is"),
        ([], "A message is"),
        ({"do": 3}, "A message is"),
        ({"do": "hidden"}, "No command named 'hidden'"),
        ({"do": "change", "at": 3}, "No command named 'change'"),
        ({"do": "__class__"}, "No command named '__class__'"),
        ({"do": "_tell"}, "No command named '_tell'"),
        ({"do": "move " + "x" * 10_000}, "No command named 'move x"),
        ({"do": "move"}, "missing required field `to`"),
        ({"do": "move", "to": "7"}, "Expected `int`, got `str`"),
        ({"do": "move", "to": 1.5}, "Expected `int`, got `float`"),
        ({"do": "move", "to": True}, "Expected `int`, got `bool`"),
        ({"do": "move", "to": None}, "Expected `int`, got `null`"),
        ({"do": "move", "to": 1, "self": 2}, "unknown field `self`"),
        ({"do": "move", 3: 2}, "'move' cannot be called like this"),
        ({"do": "move", "to": {1, 2}}, "Expected `int`, got `array`"),
        ({"do": "move", "to": object()}, "'move' cannot be called like this"),
        ({"do": "write", "where": "w", "text": "x" * LONGEST}, "too long"),
        ({"do": "write", "where": ["w"]}, "Expected `str`, got `array`"),
        ({"do": "move", "to": -1}, "There is nothing before the first."),
        ({"do": "crash"}, "KeyError: 'a fault in the widget'"),
    ],
)
def test_a_hostile_message_becomes_words(tmp_path: Path, message: Any, words: str) -> None:
    pad = Pad(Notes(3), tmp_path / "pad.json")
    shown = pad.handle(message)
    assert words in shown["problem"] and len(shown["problem"]) < 500
    assert pad.state == Notes(3) and not (tmp_path / "pad.json").exists()
    assert pad.handle({"do": "move", "to": 4})["problem"] == ""


def test_a_deep_message_is_refused() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert "cannot be called like this" in Pad(Notes()).handle({"do": "move", "to": deep})["problem"]


def test_a_fault_keeps_its_traceback() -> None:
    pad = Pad(Notes())
    pad.handle({"do": "crash"})
    assert "in crash" in pad.fault


def test_a_body_that_fails_is_told_and_nan_is_no_json() -> None:
    class Broken(Pad):
        def body(self) -> Mapping[str, Any]:
            raise ValueError("no such run")

    assert Broken(Notes()).snapshot()["problem"] == "ValueError: no such run"
    json.dumps(Pad(Notes()).snapshot(), allow_nan=False)


def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pad = Pad(Notes(), tmp_path / "pad.json")
    pad.handle({"do": "move", "to": 1})

    def full(*_: Any) -> None:
        raise RunError("No space left to write pad.json.")

    monkeypatch.setattr(widgets, "write_atomic", full)
    assert "No space left" in pad.handle({"do": "move", "to": 2})["problem"]
    assert pad.state.at == 1


def test_long_work_tells_its_way_and_can_be_stopped() -> None:
    pad, gate = Pad(Notes()), threading.Event()

    def work(task: Task) -> None:
        for step in range(1, 1000):
            task.progress(step, 1000, "asking")
            gate.wait(0.01)

    pad.start("Sweep", work)
    with pytest.raises(ConfigurationError, match="“Sweep” is still going on"):
        pad.start("Another", work)
    shown = pad.handle({"do": "stop"})
    assert shown["task"]["label"] == "Sweep"
    pad.wait(20)
    assert pad.snapshot()["task"]["status"] == "stopped" and "Stopped after" in pad.snapshot()["task"]["text"]
    pad.start("Another", lambda task: task.progress(1, 1))
    pad.wait(20)
    assert pad.snapshot()["task"] == {"label": "Another", "status": "finished", "share": 1.0, "count": "1 of 1", "text": ""}


HEADLESS = [
    "from dataclasses import dataclass\nfrom llmops_nb.widgets import Widget\n@dataclass(frozen=True)\nclass Place:\n    at: int = 0\nclass Walker(Widget[Place]):\n    name = 'walker'\nwalker = Walker(Place())\nwalker",
    "def walk(task):\n    for at in (1, 2, 3):\n        task.progress(at, 3)\n        walker.change(at=at)\nwalker.start('Walk', walk)",
    "walker.wait()",
]


def test_long_work_without_a_person_ends_in_the_notebook() -> None:
    import nbformat
    from nbclient import NotebookClient

    made = NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in HEADLESS]), timeout=120).execute()
    assert "<td>at</td><td>3</td>" in made.cells[0].outputs[0]["data"]["text/html"]
    [view] = [model["state"]["view"] for model in made.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values() if "view" in model["state"]]
    assert view["task"]["status"] == "finished"


def test_long_work_that_fails_says_why() -> None:
    pad = Pad(Notes())
    pad.start("Sweep", lambda task: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(RunError, match="Sweep: ZeroDivisionError: division by zero"):
        pad.wait(20)
    assert pad.snapshot()["task"]["status"] == "failed" and "division" in pad.snapshot()["problem"]


def test_paths_of_subjects_are_safe_and_apart() -> None:
    names = ["a/b", "a\\b", "../../etc", "", "x" * 500, "שלום"]
    paths = [state_path(Path("reports"), "pad", name) for name in names]
    assert len(set(paths)) == len(names)
    assert all(path.parent == Path("reports/widgets") and len(path.name) < 70 for path in paths)


def test_the_picture_survives_the_report() -> None:
    made = table_html(["item", "<script>"], [["<img src=x onerror=alert(1)>", "a & b"]], "Two")
    assert "<script" not in made and "onerror=alert(1)&gt;" in made
    assert sanitise(made) == made
    data = Pad(Notes(2))._repr_mimebundle_()
    assert sanitise(data["text/html"]) == data["text/html"] and set(data) == {"text/plain", "text/html"}


def test_scripts_write_no_html_and_styles_stay_inside() -> None:
    for path in STATIC.glob("*.js"):
        if path.name != "report.js":
            code = re.sub(r"(?<!:)//.*", "", path.read_text("utf-8")).replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|https?:|fetch\(|import\(", code), path.name
    for path in STATIC.glob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.S)
        rules = [rule.strip() for rule in re.findall(r"([^{}]+)\{", text) if not rule.strip().startswith("@")]
        assert [rule for rule in rules if not all(part.strip().startswith(".llmops-widget") for part in re.split(r",(?![^(]*\))", rule))] == [], path.name
        assert "url(" not in text and "@import" not in text


PAGE = """<!DOCTYPE html><style>body { --vscode-editorWidget-background: rgb(1, 2, 3); --vscode-foreground: rgb(250, 250, 250) } p { margin: 7px } </style><p>outside</p>
<div id="one"></div><div id="two"></div>
<script type="module">
  const code = CODE;
  const { default: made } = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  class Model {  // What anywidget hands to a view
    constructor(view) { this.view = view; this.heard = []; this.listeners = new Set(); }
    get() { return this.view; }
    on(_, f) { this.listeners.add(f); }
    off(_, f) { this.listeners.delete(f); }
    send(message) { if (this.dead) throw new Error("Cannot send"); this.heard.push(message); }
    answer(view) { this.view = { ...this.view, ...view }; for (const f of [...this.listeners]) f(); }
  }
  window.models = [new Model({ body: { at: 1 } }), new Model({ body: { at: 100 } })];
  window.close = models.map((model, n) => made.render({ model, el: document.getElementById(n ? "two" : "one") }));
  window.ready = true;
</script>"""
DRAW = """
export default widget((view, { h, button, send, keys }) => {
  keys({ a: () => send("add", { seen: view.body.at }) });
  return [h("p", { id: "text" + view.body.at }, "<i>at</i> " + view.body.at), h("input", { "data-keep": "field", value: "v" + view.body.at }), button("Add", () => send("add"), { hint: "a", "data-keep": "add" })];
});
"""


@contextmanager
def views(tmp_path: Path, draw: str) -> Iterator[Any]:
    "A page with two views of one drawing and their models; it must be left without an error."
    from playwright.sync_api import sync_playwright

    code = json.dumps(drawing("none", "js") + draw).replace("</", "<\\/")
    (tmp_path / "page.html").write_text(PAGE.replace("CODE", code).replace("</style>", drawing("none", "css") + "</style>"))
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("window.ready")
        yield page
        browser.close()
    assert errors == []


@pytest.mark.browser
@needs_chromium
def test_two_views_of_a_page_keep_apart_and_leave_nothing(tmp_path: Path) -> None:
    with views(tmp_path, DRAW) as page:

        def heard(n: int) -> list[Any]:
            found: list[Any] = page.evaluate(f"models[{n}].heard.splice(0)")
            return found

        assert [heard(0), heard(1)] == [[{"do": "hello"}]] * 2
        assert page.locator("#text1").text_content() == "<i>at</i> 1" and page.locator("#one i").count() == 0
        assert page.locator("#one section").evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(1, 2, 3)"
        assert page.evaluate("getComputedStyle(document.querySelector('body > p')).margin") == "7px"

        page.locator("#one section").focus()
        page.keyboard.type("aab")  # The second a waits for the answer to the first
        assert heard(0) == [{"do": "add", "seen": 1}] and heard(1) == []
        page.evaluate("models[0].answer({ body: { at: 2 } })")
        assert heard(0) == [{"do": "add", "seen": 2}]
        page.evaluate("models[0].answer({ body: { at: 3 }, problem: '<b>Full</b>' })")
        assert page.locator("#one [role=alert]").text_content() == "<b>Full</b>" and heard(0) == []

        page.locator("#one input").focus()
        page.keyboard.type("a")  # Typing is not commanding
        page.evaluate("models[0].answer({ body: { at: 4 }, problem: '' })")
        assert page.evaluate("document.activeElement.value") == "v3a" and heard(0) == []
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.tagName") == "SECTION" and not page.locator("#one [role=alert]").is_visible()

        page.locator("#two section").focus()
        page.wait_for_function("models[0].heard.length")
        assert heard(0) == [{"do": "rest"}] and heard(1) == []
        page.evaluate("models[1].answer({ task: { label: 'Sweep', status: 'running', share: 0.5, count: '5 of 10', text: 'asking' } })")
        assert page.locator("#two [role=progressbar]").get_attribute("aria-valuenow") == "50"
        page.locator("#two").get_by_role("button", name="Stop").click()
        assert heard(1) == [{"do": "stop"}]

        page.evaluate("models[1].dead = true")
        page.locator("#two").get_by_role("button", name="Add").click()
        assert "does not answer" in str(page.locator("#two [role=alert]").text_content())
        page.evaluate("close.forEach((f) => f())")
        assert page.locator("section").count() == 0 and page.evaluate("models.map((m) => m.listeners.size)") == [0, 0]
        assert heard(0) == [{"do": "bye"}]


FORM = """
export default widget((view, { h, button, send }) => {
  const { rows = ["a", "b", "c"], names = ["x", "y", "z"], text = "", title = "first", sure = false, last = false } = view.body;
  return [last ? h("p", { class: "soft" }, "New on top") : null,
    h("textarea", { "data-keep": "text", value: text }), h("input", { "data-keep": "free", value: title }), h("input", { "data-keep": "sent", value: title, change: () => send("sent") }),
    h("select", { "data-keep": "list", change: () => send("list") }, names.map((name) => h("option", { value: name, selected: name === view.body.name }, name))), h("input", { type: "checkbox", checked: sure, "data-keep": "sure" }),
    h("details", {}, h("summary", {}, "More"), h("p", { class: "told" }, "at " + view.body.at)),
    h("div", { class: "scroll", "data-keep": "rows", style: `width: ${99 + view.body.at}px; height: 40px` }, rows.map((row) => h("p", { "data-keep": row, style: "height: 60px" }, row))),
    button("Press", () => send("press", { at: view.body.at }), { "data-keep": "press", disabled: last })];
});
"""


@pytest.mark.browser
@needs_chromium
def test_a_drawing_leaves_in_place_what_somebody_uses(tmp_path: Path) -> None:
    with views(tmp_path, FORM) as page:

        def told(**body: Any) -> None:
            page.evaluate("([body, task]) => models[0].answer({ body, task })", [body, {"label": "Sweep", "status": "running", "share": body["at"] / 100, "count": "", "text": ""}])

        text, free, sent, choice = (page.locator(f"#one [data-keep={name}]") for name in ("text", "free", "sent", "list"))
        page.evaluate("window.nodes = [...document.querySelectorAll('#one [data-keep]')]")

        text.focus()
        for at, word in enumerate(("one ", "two ", "three"), start=2):
            page.keyboard.type(word)
            told(at=at, text="one " if at > 2 else "")
        page.keyboard.press("Home")
        told(at=5, text="one two three")  # The caret stays at the start, and so does what can be undone
        page.keyboard.type("0 ")
        assert text.input_value() == "0 one two three"
        page.keyboard.press("Control+z")
        told(at=6, text="0 one two three")
        page.keyboard.press("Control+z")
        assert "three" not in text.input_value()

        choice.focus()
        page.keyboard.press("ArrowDown")
        told(at=7, names=["w", "x", "y", "z"], name="y")
        assert page.evaluate("document.activeElement.value") == "y"
        told(at=8, names=["y", "z"], name="z")
        assert choice.input_value() == "y"
        free.focus()
        told(at=8, names=["y", "z"], name="z")  # Nobody uses it any more: what Python says holds
        assert choice.input_value() == "z" and choice.locator("option").all_text_contents() == ["y", "z"]

        free.fill("mine")
        sent.fill("asked for")
        text.focus()
        told(at=9)
        assert [free.input_value(), sent.input_value()] == ["mine", "first"], "only what Python was asked about is set right"
        told(at=10, title="second", sure=True)
        assert [free.input_value(), sent.input_value()] == ["second", "second"] and page.locator("#one [data-keep=sure]").is_checked()

        page.locator("#one summary").click()
        page.evaluate("nodes.find((n) => n.dataset.keep === 'rows').scrollTop = 70; getSelection().selectAllChildren(document.querySelector('#one .told'))")
        told(at=11, rows=["c", "b", "a", "d"])
        assert page.locator("#one .told").is_visible() and page.evaluate("String(getSelection())").strip().startswith("at ")
        assert page.locator("#one [data-keep=rows] p").all_text_contents() == ["c", "b", "a", "d"]
        assert page.evaluate("nodes.every((node) => node.isConnected)"), "no element was made anew"
        assert page.evaluate("[nodes.find((n) => n.dataset.keep === 'rows')].map((n) => [n.scrollTop > 0, n.style.width])") == [[True, "110px"]]
        assert page.locator("#one .llmops-bar span").evaluate("(e) => e.style.width") == "11%"

        press = page.locator("#one [data-keep=press]")
        page.evaluate("models[0].heard = []")
        press.click()
        assert page.evaluate("models[0].heard") == [{"do": "press", "at": 11}], "one press, and the last drawing's"
        told(at=12, last=True)
        assert page.evaluate("document.activeElement.tagName") == "SECTION", "a dead button hands the focus to its widget"
        assert page.locator("#one .soft").first.text_content() == "New on top"


@pytest.mark.browser
@needs_chromium
def test_the_notebook_hears_no_key_of_a_widget_but_its_own(tmp_path: Path) -> None:
    with views(tmp_path, DRAW) as page:
        # JupyterLab listens when the event comes up; Notebook 7 before it comes down, and climbs from its target to an attribute
        page.evaluate("window.keys = []; document.addEventListener('keydown', (e) => { if (!e.target.closest('[data-lm-suppress-shortcuts]')) keys.push(e.key); })")
        page.evaluate("window.early = []; document.addEventListener('keydown', (e) => { if (!e.target.hasAttribute('data-lm-suppress-shortcuts')) early.push(e.target.closest('[data-lm-suppress-shortcuts]') ? 'half ' + e.key : e.key); }, true)")

        def through(*pressed: str) -> list[str]:
            for key in pressed:
                page.keyboard.press(key)
            heard: list[str] = page.evaluate("[keys.splice(0), early.splice(0)].map((list) => list.join(' '))")
            assert heard[0] == heard[1]
            return heard[0].split()

        for place in ("section", "button"):  # A button is no field, and its keys are not the notebook's either
            page.locator(f"#one {place}").first.focus()
            assert through("z", "d", "d", "b", "Shift+Enter", "Control+z", "Control+c") == []
            assert through("Control+s", "Control+Enter") == ["s", "Enter"]
        page.locator("#one section").focus()
        assert through("z") == []
        page.locator("#one input").focus()
        assert through("Control+s") == ["s"]
        assert through("d", "d", "Enter", "ArrowDown", "Control+z", "Control+Enter", "Control+ArrowLeft", "Control+Backspace") == []
        assert through("Control+s") == ["s"]
        page.locator("#one input").blur()
        page.evaluate("models[0].heard = []")
        assert through("a", "z") == ["a", "z"] and page.evaluate("models[0].heard") == [], "a widget hears no key of the notebook"
