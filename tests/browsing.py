"""What the tests of all reports share: a page taken apart, a real browser that may load nothing but the file, and hostile texts."""

from __future__ import annotations

import contextlib
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest


class Elements(HTMLParser):
    "Every element with its attributes, and the text of scripts and styles."

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in self.inside and self.cdata_elem:
            self.inside[self.found[-1][0]].append(data)


@dataclass
class Seen:
    "What a page did."

    page: Any
    requests: list[str] = field(default_factory=list)  # Addresses asked for, data: left out
    dialogs: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)  # Console and errors


Opener = Callable[..., contextlib.AbstractContextManager[Seen]]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opener]:
    "Open a report in a real Chromium that may load nothing but the file."
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])

        @contextlib.contextmanager
        def open_(path: Path, anchor: str = "", wait: bool = True, alone: bool = True, **options: Any) -> Iterator[Seen]:
            context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
            context.set_default_timeout(60_000)
            if alone:
                context.route("**/*", lambda route: route.continue_() if route.request.url.startswith((path.as_uri(), "data:")) else route.abort())
            page = context.new_page()
            seen = Seen(page)
            context.on("request", lambda request: None if request.url.startswith("data:") else seen.requests.append(request.url))
            page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
            page.on("console", lambda message: seen.messages.append(message.text))
            page.on("pageerror", lambda error: seen.messages.append(str(error)))
            try:
                page.goto(path.as_uri() + anchor)
                if wait:
                    page.wait_for_selector("html[data-ready]")
                yield seen
            finally:
                context.close()

        yield open_
        browser.close()


def until(page: Any, condition: str) -> None:
    "Wait for a condition. The browser library's own way of waiting needs eval, which the policy of the page forbids."
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never: {condition}"
        page.wait_for_timeout(20)


PAYLOADS = [
    "<script>window.__pwned=1</script>",
    "</script><script>window.__pwned=2;alert(2)</script>",
    "<img src=x onerror=\"window.__pwned=3;alert(3)\">",
    "<img src='https://pwned.example/a.png' srcset='https://pwned.example/b.png 2x'>",
    "<svg onload=\"window.__pwned=4\"><script>window.__pwned=5</script><image href='https://pwned.example/c.png'/></svg>",
    "\"'><iframe src=\"javascript:parent.__pwned=6\"></iframe>",
    "<iframe srcdoc=\"<script>parent.__pwned=7</script>\"></iframe>",
    "<a href=\"javascript:window.__pwned=8\">click</a> <a href=\"JaVa&#09;ScRiPt:window.__pwned=8\">click</a>",
    "[click](javascript:window.__pwned=9) [click](<JAVASCRIPT:window.__pwned=9>) ![x](https://pwned.example/d.png)",
    "<meta http-equiv=\"refresh\" content=\"0;url=https://pwned.example/e\">",
    "<style>@import 'https://pwned.example/f.css'; body{background:url(https://pwned.example/g.png)} main{display:none}</style>",
    "<div style=\"position:fixed;inset:0;background:url(https://pwned.example/h.png)\">over everything</div>",
    "<link rel=stylesheet href=https://pwned.example/i.css><link rel=prefetch href=https://pwned.example/j>",
    "<object data='https://pwned.example/k'></object><embed src='https://pwned.example/l'><audio src='https://pwned.example/m' autoplay></audio><video poster='https://pwned.example/n'></video>",
    "<form action='https://pwned.example/o'><input autofocus onfocus=\"window.__pwned=10\"><button formaction='javascript:window.__pwned=11'>send</button></form>",
    "<base href=\"https://pwned.example/\"><a id=data></a><a id=panel></a><img name=getElementById>",
    "<details open ontoggle=\"window.__pwned=12\"><summary>x</summary></details><body onload=\"window.__pwned=13\" onpageshow=\"window.__pwned=13\">",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=window.__pwned=14&gt;\"></table></mtext></math>",
    "<noscript><p title=\"</noscript><img src=x onerror=window.__pwned=15>\">",
    "{{7*7}} {% for x in ().__class__.__mro__ %}{{x}}{% endfor %} ${7*7} <%= 7*7 %> #{7*7}",
    "\u2028window.__pwned=16\u2029//\u202e\u0000\ufeff\\u003cscript\\u003e",
    "--><!--'\"`]]><![CDATA[<script>window.__pwned=17</script>",
    "</textarea></title></style></template></noscript></table></dialog></main><script>window.__pwned=18</script>",
    "<a href='data:text/html,<script>opener.__pwned=19</script>' target=_blank>data</a><a href='//pwned.example/p'>r</a>",
    "<x onclick=window.__pwned=20 tabindex=1 contenteditable onfocus=window.__pwned=20 autofocus>x",
    "<xmp><p title=\"</xmp><svg/onload=window.__pwned=21>\">",
]  # fmt: skip
STRUCTURE = {"unit", "better", "outcome", "role", "status", "nbformat", "cell_type", "output_type", "id"}  # What is no free text; ids of items are poisoned by hand


def poison(value: Any, key: str = "") -> Any:
    "Hostile text behind every string, the same behind equal strings, so that names still fit together."
    if isinstance(value, dict):
        free = key in ("parameters", "digests", "packages", "model", "git", "environment")
        return {poison(k) if free and k not in ("packages", "name", "commit", "dirty") else k: poison(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(each, key) for each in value]
    if not isinstance(value, str) or key in STRUCTURE:
        return value
    if key in ("question", "expected", "content", "why", "message", "heading", "note"):
        return value + " ".join(PAYLOADS)
    return value + PAYLOADS[zlib.crc32(value.encode()) % len(PAYLOADS)]


def html_text(text: str) -> str:
    "What HTML makes of a text."
    return text.replace("\0", "")
