"""README.md and the site, both made from the pages in nbs/.

python docs/build.py readme          writes README.md
python docs/build.py site DIRECTORY  builds the site there, without a network, and checks every link in it
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ["Ground", "Material", "Models", "Documents", "Retrieval and App", "Judgement", "Runs", "Decisions", "Doors", "Doors"]
TEXTS = ["docs/method.md", "CONTRIBUTING.md", "CHANGELOG.md"]  # In the site beside the pages
DIRECTIVES = re.compile(r"^(#\s*\|.*\n?)+")
LINK = re.compile(r"\]\((?:\.\./)?([\w./-]+)\.(?:ipynb|md)(#[^)]*)?\)")  # To another page or text


def visible(notebook: dict) -> dict:
    "A notebook as readers see it: no hidden cells, no directives."
    shown = copy.deepcopy(notebook)
    shown["cells"] = []
    for cell in copy.deepcopy(notebook["cells"]):
        source = "".join(cell["source"])
        directives = DIRECTIVES.match(source)
        cell["source"] = DIRECTIVES.sub("", source).strip("\n")
        if cell["source"] and not (directives and re.search(r"\|\s*hide\b", directives[0])):
            shown["cells"].append(cell)
    return shown


def readme(root: Path = ROOT) -> str:
    "The text of README.md: nbs/index.ipynb with its outputs, links relative to the project's root."
    parts = []
    for cell in visible(json.loads((root / "nbs" / "index.ipynb").read_text("utf-8")))["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            parts.append("".join(data["text/markdown"]) if "text/markdown" in data else f"```\n{''.join(data['text/plain']).rstrip()}\n```")
    text = "\n\n".join(parts) + "\n"
    return re.sub(r"\]\((?!\.\./|\w+:|#)", "](nbs/", text).replace("](../", "](")


def only_imports(cell: dict) -> bool:
    "Whether a cell of a page does nothing but import: readers of the site look for the idea, not for its furniture."
    lines = [line for line in cell["source"].splitlines() if line.strip()]
    return cell["cell_type"] == "code" and not cell["outputs"] and all(line.startswith(("import ", "from ")) for line in lines)


def stage(directory: Path) -> list[dict]:
    "Copies the sources of the site into a directory and returns their order, floor by floor."
    floors: dict[str, list[dict[str, str]]] = {}
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        notebook = visible(json.loads(path.read_text("utf-8")))
        if path.stem != "index":
            notebook["cells"] = [cell for cell in notebook["cells"] if not only_imports(cell)]
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = LINK.sub(r"](\1.html\2)", cell["source"]).replace("](../docs/", "](docs/")
        (directory / path.name).write_text(json.dumps(notebook), "utf-8")
        number, _, name = path.stem.partition("_")
        if number.isdigit():
            title = f"{number} {name}"
            floors.setdefault(FLOORS[int(number) // 10], []).append({title: path.name})
    shutil.copytree(ROOT / "docs" / "pictures", directory / "docs" / "pictures")
    for name in TEXTS:
        (directory / name).write_text((ROOT / name).read_text("utf-8").replace("](nbs/", "]("), "utf-8")
    shutil.copy(ROOT / "docs" / "site.css", directory)
    texts = [{Path(name).stem.capitalize(): name} for name in TEXTS]
    return [{"Home": "index.ipynb"}, *({floor: pages} for floor, pages in floors.items()), {"Project": texts}]


class Page(HTMLParser):
    "What one HTML file points at, and what can be pointed at in it."

    LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src", "object": "data"}

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []  # A reader may follow them
        self.loads: list[str] = []  # The browser fetches them by itself
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        if tag in ("a", "area") and "href" in values:
            self.links.append(values["href"])
        elif tag == "link":
            rel = values.get("rel", "").split()
            (self.links if {"canonical", "next", "prev", "edit", "license"} & set(rel) else self.loads).append(values.get("href", ""))
        elif values.get(self.LOADS.get(tag, "")):
            self.loads.append(values[self.LOADS[tag]])
        self.loads += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.loads += fetched(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.loads += fetched(data)


def fetched(style: str) -> list[str]:
    "Addresses that a style sheet loads."
    return [a or b for a, b in re.findall(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)['"]""", style)]


def problems(site: Path) -> Iterator[str]:
    "Every link that leads nowhere, and everything a page would load from elsewhere."
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = [(path, address, address in page.loads) for path, page in pages.items() for address in [*page.links, *page.loads]]
    found += [(path, address, True) for path in sorted(site.rglob("*.css")) for address in fetched(path.read_text("utf-8"))]
    for path, address, loaded in dict.fromkeys(found):
        where, parts = path.relative_to(site), urlsplit(address)
        if parts.scheme in ("http", "https") or parts.netloc:
            if loaded:
                yield f"{where} loads {address} from outside"
            continue
        if parts.scheme:
            if parts.scheme not in ("data", "mailto"):
                yield f"{where} points at {address}, which is no web address"
            continue
        target = path
        if parts.path:
            start = site if parts.path.startswith("/") or path.name == "404.html" else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file() or not target.is_relative_to(site.resolve()) and target != path:
            yield f"{where} points at {address}, which does not exist"
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in pages[target].ids:
            yield f"{where} points at {address}, but there is no such place in that page"


def site(directory: Path) -> list[str]:
    "Builds the site; returns what is wrong with it."
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    directory = directory.resolve()
    with tempfile.TemporaryDirectory() as sources:
        config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=sources, site_dir=str(directory), nav=stage(Path(sources)), strict=True)
        build(config)
    return list(problems(directory))


def main(arguments: list[str]) -> str | None:
    "What the command line asks for; an error message, or nothing."
    match arguments:
        case ["readme"]:
            (ROOT / "README.md").write_text(readme(), "utf-8")
        case ["site", directory]:
            wrong = site(Path(directory))
            if wrong:
                return "\n".join([*wrong, f"{len(wrong)} problems."])
            print(f"Open {Path(directory) / 'index.html'}")
        case _:
            return __doc__
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
