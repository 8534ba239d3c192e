"""Reads the tests of a promptfoo config as plain rows, and says by name what no row can hold; runs nothing, reads no environment."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .core import DataError

Row = tuple[str, Mapping[str, Any], str]  # Where it stands, its values by name, what is wrong with it
Table = Callable[[Path], Iterator[Row]]  # Reads a file of rows

# Reference answers that promptfoo compares by a measure of its own
_REFERENCE = ("similar", "factuality", "model-graded-factuality", "levenshtein", "rouge-n", "bleu", "gleu", "meteor")
_GRADED = ("llm-rubric", "g-eval", "model-graded-closedqa", "select-best", "max-score", "pi", "moderation", "classifier", "search-rubric")
_HINTS = {
    **dict.fromkeys(("javascript", "python", "ruby", "webhook"), "write it as a scorer: a function of item and answer"),
    **dict.fromkeys(_GRADED, "write it as a rubric for a judge"),
    **dict.fromkeys(("latency", "cost"), "set a threshold on the metric of that name"),
    **dict.fromkeys(("is-json", "contains-json"), "give the prompt a response schema"),
    **dict.fromkeys(("context-recall", "context-relevance", "context-faithfulness", "answer-relevance"), "see the scorers evidence_recall and groundedness"),
    "is-refusal": "set answerable to false, if the right answer is that the documents do not say",
}
_TYPES = {
    *_HINTS, *_REFERENCE, "equals", "contains", "icontains", "contains-all", "icontains-all", "contains-any", "icontains-any", "starts-with", "regex",
    "is-html", "contains-html", "is-sql", "contains-sql", "is-xml", "contains-xml", "perplexity", "perplexity-score", "word-count", "finish-reason",
    "is-valid-function-call", "is-valid-openai-function-call", "is-valid-openai-tools-call", "tool-call-f1", "conversation-relevance", "guardrails",
}  # fmt: skip
_SLICES = ("category", "categories", "slice", "slices", "tag", "tags", "topic", "feature", "difficulty", "type")
_SHORTHAND = re.compile(r"(?P<type>(?:not-)?[a-z][a-z0-9-]*)(?:\((?P<threshold>\d+(?:\.\d+)?)\))?:(?P<value>.*)", re.S)
_VARIABLE = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}")
LONGEST = 1_000_000  # Characters of a template that is filled in
MOST = 10_000  # Tests that one list of values may be multiplied into


class Promptfoo:
    "A config being read: its tests as rows, and what was lost on the way."

    def __init__(self, path: Path, columns: Mapping[str, str], names: Mapping[str, Sequence[str]], table: Table, read: Callable[[Path], str]):
        self.path, self.folder, self.columns, self.names, self.table, self.read = path, path.parent, columns, names, table, read
        self.mapped: Counter[str] = Counter()  # Assertions that became a field, by "type → field"
        self.lost: dict[str, Counter[str]] = {}  # Those that did not: by type and reason
        self.ignored: Counter[str] = Counter()  # Keys of tests that have no place in an item
        self.unread: list[str] = []  # Sources of tests that were not read
        self.said: list[str] = []  # Anything else, in sentences
        self.config = self._document(path)
        if not isinstance(self.config, Mapping):
            raise DataError(f"{path.name} is not a promptfoo config: expected a mapping with `tests`, found {type(self.config).__name__}.")

    def rows(self) -> Iterator[Row]:
        "Every test as a row with the names of an item's fields."
        default = self._resolved(self.config.get("defaultTest") or {}, "defaultTest")
        for where, test in self._tests(self.config.get("tests"), "tests"):
            yield from self._row(where, default, test)
        for n, scenario in enumerate(self._list(self.config.get("scenarios")), start=1):
            scenario = self._resolved(scenario, f"scenarios {n}")
            configs = [self._resolved(config, f"scenarios {n}") for config in self._list(scenario.get("config"))] or [{}]
            tests = list(self._tests(scenario.get("tests"), f"scenarios {n}")) or [(f"scenarios {n}", {})]
            for config, (where, test) in itertools.product(configs, tests):
                yield from self._row(where, self._merged(default, config), test)

    def notes(self) -> list[str]:
        "What a person who moves in should know, in sentences."
        found = list(self.said)
        if self.mapped:
            found.append("Assertions taken: " + ", ".join(f"{name} ({n})" for name, n in sorted(self.mapped.items())) + ".")
        if any(name.startswith("contains") or name.startswith("starts") for name in self.mapped):
            found.append("A fact is looked for as whole words, whatever their case: looser than contains in case, stricter inside words.")
        for kind, reasons in sorted(self.lost.items()):
            hint = _HINTS.get(kind.removeprefix("not-"), "write it as a scorer: a function of item and answer")
            found += [f"Not mapped: {kind} ({n}{f', {reason}' if reason else ''}); {hint}. Its text is kept in the note of the item." for reason, n in sorted(reasons.items())]
        found += [f"Not read: tests from {source}." for source in self.unread]
        if self.ignored:
            found.append("Without a place in an item: " + ", ".join(f"{name} ({n})" for name, n in sorted(self.ignored.items())) + ".")
        prompts = [self._named(prompt) for prompt in self._list(self.config.get("prompts"))]
        if prompts:
            found.append(f"Prompts to bring along as text files: {', '.join(prompts)}.")
        providers = [self._named(provider) for key in ("providers", "targets") for provider in self._list(self.config.get(key))]
        if providers:
            found.append(f"Models to name in settings.ini: {', '.join(providers)}.")
        known = {"description", "prompts", "providers", "targets", "tests", "scenarios", "defaultTest", "$schema", "assertionTemplates"}
        rest = [str(key) for key in self.config if key not in known]
        return found + ([f"Keys of the config that were not read: {', '.join(rest)}."] if rest else [])

    # Where tests come from

    def _tests(self, source: Any, where: str) -> Iterator[tuple[str, Any]]:
        "Tests, inline or from files, with their place."
        for n, entry in enumerate(self._list(source), start=1):
            here = f"{self.path.name}: {where} {n}"
            if isinstance(entry, Mapping) and "path" in entry and not {"vars", "assert"} & set(entry):
                self.unread.append(f"{entry['path']} (a program)")
            elif isinstance(entry, Mapping):
                yield here, entry
            elif isinstance(entry, str):
                yield from self._from_source(entry)
            else:
                yield here, f"a test is a mapping, not {type(entry).__name__}"

    def _from_source(self, source: str) -> Iterator[tuple[str, Any]]:
        "The tests of a file, a folder or a pattern."
        name = source.removeprefix("file://")
        if "://" in name:
            self.unread.append(f"{source} (not a file)")
            return
        try:
            within = self._inside(name)
            files = sorted(file for file in within.glob("**/*") if file.is_file()) if within.is_dir() else [within]
            if re.search(r"[*?\[]", name):
                files = sorted(file for file in self.folder.glob(name) if file.is_file())
        except (DataError, ValueError, NotImplementedError) as error:
            self.unread.append(f"{source} ({error})")
            return
        if not files:
            self.unread.append(f"{source} (no such file)")
        for file in files:
            yield from self._from_file(file)

    def _from_file(self, file: Path) -> Iterator[tuple[str, Any]]:
        "The tests of one file."
        name, kind = file.name, file.suffix.lower()
        if re.match(r"[.](py|rb|[cm]?[jt]s)(:|$)", kind):
            self.unread.append(f"{name} (a program)")
        elif not file.exists():
            self.unread.append(f"{name} (no such file)")
        elif kind in (".csv", ".tsv"):
            for where, row, problem in self.table(file):
                yield where, problem or self._from_cells(row)
        elif kind in (".jsonl", ".ndjson"):
            yield from ((where, problem or row) for where, row, problem in self.table(file))
        elif kind in (".yaml", ".yml", ".json"):
            found = self._list(self._document(file))
            yield from ((f"{name}: test {n}", test) for n, test in enumerate(found, start=1))
        else:
            self.unread.append(f"{name} (a format that is not read)")

    def _from_cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        "A row of a CSV file as a test: the columns that begin with two underscores are special."
        test: dict[str, Any] = {"vars": {}, "assert": [], "metadata": {}, "options": {}}
        for key, value in row.items():
            if key.startswith("__expected") and str(value).strip():
                test["assert"].append(shorthand(str(value)))
            elif key == "__description":
                test["description"] = value
            elif key.startswith("__metadata:"):
                name = key.removeprefix("__metadata:")
                test["metadata"][name.removesuffix("[]")] = re.split(r"(?<!\\),", str(value)) if name.endswith("[]") else value
            elif key.startswith("__"):
                self.ignored[key] += bool(str(value).strip())
            else:
                test["vars"][key] = value
        return test

    # One test

    def _row(self, where: str, default: Mapping[str, Any], test: Any) -> Iterator[Row]:
        "A test as rows: one for each combination, where a variable has several values."
        if isinstance(test, str):
            yield where, {}, test
            return
        try:
            whole = self._merged(default, self._resolved(test, where))
            variables = {str(key): self._variable(value) for key, value in whole.get("vars", {}).items()}
        except DataError as error:
            yield where, {}, str(error)
            return
        for key in whole:
            if key not in ("vars", "assert", "description", "metadata"):
                self.ignored[key] += bool(whole[key])
        lists = {} if (whole.get("options") or {}).get("disableVarExpansion") else {key: value for key, value in variables.items() if isinstance(value, list)}
        size = 1
        for value in lists.values():
            size *= len(value)
        if size > MOST or size == 0:
            yield where, {}, f"its lists of values make {size} tests; between 1 and {MOST} are possible"
            return
        for values in itertools.product(*lists.values()):
            yield self._one(where, {**variables, **dict(zip(lists, values, strict=True))}, whole)

    def _one(self, where: str, variables: Mapping[str, Any], test: Mapping[str, Any]) -> Row:
        "A test with one value a variable, as a row."
        used, question, problem = self._question(variables)
        if problem:
            return where, {}, problem
        row: dict[str, Any] = {"question": question, "facts": []}
        notes = [str(test["description"])] if test.get("description") else []
        for assertion in self._flat(test.get("assert")):
            lost = self._assertion(assertion, variables, row)
            if lost is not None:
                kind = str(assertion.get("type", "?")) if isinstance(assertion, Mapping) else "?"
                reasons = self.lost.setdefault(kind, Counter())
                reasons[lost] += 1
                notes.append(f"promptfoo {kind}: {_short(assertion.get('value', assertion.get('threshold', '')) if isinstance(assertion, Mapping) else assertion)}")
        for name, value in variables.items():
            if name in self.names["expected"] and "expected" not in row and name not in used:
                row["expected"] = value
            elif name in self.names["quote"] and name not in used and "quote" not in row:
                row["quote"] = value
                self.mapped[f"variable {name} → evidence"] += 1
            elif name not in used and name not in self.names["expected"]:
                self.ignored[f"variable {name}"] += 1
                notes.append(f"{name}: {_short(value)}")
        slices: list[str] = []
        for key, value in (test.get("metadata") or {}).items():
            if key in _SLICES:
                slices += [str(v) for v in (value if isinstance(value, list) else [value]) if str(v).strip()]
            else:
                self.ignored[f"metadata {key}"] += 1
        return where, {**row, "slices": slices, "note": "\n".join(notes)}, ""

    def _question(self, variables: Mapping[str, Any]) -> tuple[set[str], str, str]:
        "Which variables the question is made of, the question, and why there is none."
        wanted = self.columns.get("question", "")
        if "{{" in wanted:
            text = wanted
        elif wanted:
            if wanted not in variables:
                return set(), "", f"it has no variable {wanted!r}; it has: {', '.join(variables) or 'none'}"
            text = f"{{{{{wanted}}}}}"
        else:
            guessed = [name for name in self.names["question"] if name in variables] or [name for name in variables if len(variables) == 1]
            if not guessed:
                return set(), "", f"which of its variables is the question ({', '.join(variables) or 'it has none'})? Say so: question=NAME, or question='… {{{{NAME}}}} …'"
            text = f"{{{{{guessed[0]}}}}}"
        used = set(_VARIABLE.findall(text))
        question = self._filled(text, variables)
        if question is None:
            return used, "", f"its question holds a template that only promptfoo can fill: {_short(' '.join(str(variables.get(name, name)) for name in used))}"
        return used, question, ""

    def _assertion(self, assertion: Any, variables: Mapping[str, Any], row: dict[str, Any]) -> str | None:
        "Put an assertion into the row; None when it is there, otherwise why it cannot be."
        if not isinstance(assertion, Mapping) or not isinstance(assertion.get("type"), str):
            return "not an assertion"
        kind, value = assertion["type"], assertion.get("value")
        if assertion.get("weight") == 0:
            return "weight 0: it never decides"
        if assertion.get("transform") or assertion.get("contextTransform"):
            return "looks at a transformed answer"
        if kind.endswith(("-all", "-any")) and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        values = [self._filled(v, variables) for v in (value if isinstance(value, list) else [value])]
        if kind in ("contains", "icontains", "starts-with", "contains-all", "icontains-all", "contains-any", "icontains-any", "equals", "regex", *_REFERENCE):
            if value is None or any(v is None for v in values):
                return "no value" if value is None else "a template or file that is not read"
        texts = [v for v in values if v is not None]
        return self._placed(kind, value, texts, row)

    def _placed(self, kind: str, value: Any, texts: Sequence[str], row: dict[str, Any]) -> str | None:
        "Put the values of an assertion where an item has a place for them."
        if kind == "regex":
            wordings = literal(str(texts[0]))
            if wordings is None:
                return "a pattern, not words"
            texts = wordings
        if kind in ("contains", "icontains", "starts-with", "contains-all", "icontains-all", "contains-any", "icontains-any", "regex"):
            if not texts or not all(re.search(r"\w", text) for text in texts):
                return "signs without words"
            if any(re.search(r"[<>{}\[\]=\\`]", text) for text in texts):
                return "markup or code, of which a fact sees only the words"
            row["facts"] += [[text] for text in texts] if kind.endswith("-all") else [list(texts)]
            signs = any(re.search(r"[^\w\s.,:;!?()'\"+-]", text) for text in texts)
            self.mapped[f"{kind} → facts" + (" (its place is not checked)" if kind == "starts-with" else " (signs are not checked)" if signs else "")] += 1
        elif kind == "equals" or kind in _REFERENCE:
            if "expected" in row:
                return None if row["expected"] == texts[0] else "another expected answer stands there already"
            if not texts[0].strip():
                return "an empty answer is expected"
            row["expected"] = texts[0]
            self.mapped[f"{kind} → expected" + ("" if kind == "equals" else " (its threshold is not checked)")] += 1
        else:
            return ""
        return None

    # Small parts

    def _flat(self, assertions: Any) -> Iterator[Any]:
        "Assertions, with sets of which all must pass taken apart; `equals` first, since it has the best claim to `expected`."
        found: list[Any] = []
        for assertion in self._list(assertions):
            if isinstance(assertion, Mapping) and str(assertion.get("$ref", "")).startswith("#/assertionTemplates/"):
                assertion = (self.config.get("assertionTemplates") or {}).get(str(assertion["$ref"]).rpartition("/")[2], assertion)
            if isinstance(assertion, str):
                assertion = shorthand(assertion)
            if isinstance(assertion, Mapping) and assertion.get("type") == "assert-set" and assertion.get("threshold") in (None, 1):
                found += self._flat(assertion.get("assert"))
            else:
                found.append(assertion)
        return iter(sorted(found, key=lambda a: not (isinstance(a, Mapping) and a.get("type") == "equals")))

    def _filled(self, value: Any, variables: Mapping[str, Any]) -> str | None:
        "A value as text with its variables filled in; None when that takes promptfoo itself."
        try:
            value = self._variable(value)
        except DataError:
            return None
        text = value if isinstance(value, str) else "" if value is None else _plain(value)
        for _ in range(5):  # A variable may hold another one
            text = _VARIABLE.sub(lambda found: _plain(variables[found[1]]) if found[1] in variables else found[0], text)
            if len(text) > LONGEST:
                return None
        return None if re.search(r"\{\{|\{%|\{#", text) else text

    def _variable(self, value: Any) -> Any:
        "A variable's value; a text, YAML or JSON file is read, anything else that is a file refused."
        if not isinstance(value, str) or not value.startswith("file://"):
            return value
        file = self._inside(value.removeprefix("file://"))
        if file.suffix.lower() in (".txt", ".md"):
            return self.read(file)
        if file.suffix.lower() in (".yaml", ".yml", ".json"):
            return self._document(file)
        raise DataError(f"its value {value} is a file that is not read")

    def _inside(self, name: str) -> Path:
        "A file of the config's folder, or of the directory one works in; anything else is refused."
        file = self.folder / name
        if not any(file.resolve().is_relative_to(root.resolve()) for root in (self.folder, Path.cwd())):
            raise DataError(f"{name} lies outside the config's folder and the working directory")
        return file

    def _document(self, file: Path) -> Any:
        "A YAML or JSON file."
        try:
            found = yaml.safe_load(self.read(file))
            if _size(found, {}) > LONGEST:
                raise DataError(f"{file.name} is too large once its aliases are written out.")
            return found
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            hint = " Put the value in quotes: a question mark before a closing brace is read otherwise here." if "got '?'" in str(error) else ""
            raise DataError(f"{file.name} is not YAML: {' '.join(str(error).split())[:300]}{hint}") from error

    def _resolved(self, value: Any, where: str) -> dict[str, Any]:
        "A test as a mapping, read from its file when it is named by one."
        if isinstance(value, str):
            value = self._document(self._inside(value.removeprefix("file://")))
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: a test is a mapping, not {type(value).__name__}")
        found = dict(value)
        variables = found.get("vars") or {}
        found["vars"] = self._document(self._inside(variables.removeprefix("file://"))) if isinstance(variables, str) else variables
        if not isinstance(found["vars"], Mapping):
            raise DataError(f"{where}: vars is a mapping, not {type(found['vars']).__name__}")
        return found

    @staticmethod
    def _merged(default: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
        "A test over the default one: variables and metadata joined, assertions one after another."
        found = {**default, **test}
        for key in ("vars", "metadata"):
            found[key] = {**(default.get(key) or {}), **(test.get(key) or {})}
        found["assert"] = [*Promptfoo._list(test.get("assert")), *Promptfoo._list(default.get("assert"))]
        return found

    @staticmethod
    def _list(value: Any) -> list[Any]:
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    @staticmethod
    def _named(value: Any) -> str:
        "A prompt or provider by its name alone: what else its entry holds may be a secret."
        if isinstance(value, Mapping):
            value = value.get("id") or value.get("label") or next(iter(value), "?")
        text = str(value)
        return repr(_short(text, 60)) if "\n" in text or " " in text else _short(text, 60)


def shorthand(text: str) -> dict[str, Any]:
    "An assertion written in one cell: `type: value`, `type(0.8): value`, or the expected output alone."
    for prefix, kind in (("fn:", "javascript"), ("eval:", "javascript"), ("grade:", "llm-rubric")):
        if text.startswith(prefix):
            return {"type": kind, "value": text.removeprefix(prefix).strip()}
    found = _SHORTHAND.fullmatch(text.strip())
    if found and found["type"].removeprefix("not-") in _TYPES:
        threshold = {"threshold": float(found["threshold"])} if found["threshold"] else {}
        return {"type": found["type"], "value": found["value"].strip(), **threshold}
    if text.strip() in _TYPES or text.strip().removeprefix("not-") in _TYPES:
        return {"type": text.strip()}
    if text.startswith("file://"):
        return {"type": "python" if ".py" in text else "javascript", "value": text}
    return {"type": "equals", "value": text}


def literal(pattern: str) -> list[str] | None:
    "The words a pattern stands for, when it is nothing but words or a choice of words."
    words = re.sub(r"^\(\?i\)|^\.\*|\.\*$|\\b", "", pattern.strip())
    words = re.sub(r"^\((?:\?:)?([^()]*)\)$", r"\1", words)
    parts = [re.sub(r"\\([ .+*?/()\[\]{}$^|-])", r"\1", part) for part in words.split("|")] if not re.search(r"\\\|", words) else [words]
    bare = re.sub(r"\\[ .+*?/()\[\]{}$^-]", "", words)
    return None if re.search(r"[\\.+*?()\[\]{}$^]", bare) or not all(part.strip() for part in parts) else parts


def _size(value: Any, known: dict[int, int]) -> int:
    "How many values there are with every alias written out; one that holds itself never ends."
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = LONGEST + 1  # Until it is known: met again inside itself, it has no end
        known[id(value)] = 1 + sum(_size(inner, known) for inner in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]


def _plain(value: Any) -> str:
    "A value as promptfoo would put it into a prompt."
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value, enc_hook=str).decode()


def _short(value: Any, longest: int = 300) -> str:
    "A value in one line, cut."
    text = " ".join(_plain(value).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
