"""Metadata policies: every rule refuses with its reason, nothing is lowered, and a detector that fails closes the door."""

from __future__ import annotations

import math
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops_nb.core import ConfigurationError, Document, from_json, to_json
from llmops_nb.policies import Judged, PatternDetector, PersonalData, Policy, SourceRules, apply_policy, detector_digest, iso_date, read_policy, read_value, seconds_of

NOW = 1_700_000_000.0
PLAIN = SourceRules("s")


def judged(policy: dict[str, Any] | Policy, document: Document | dict[str, Any] | None = None, rules: SourceRules = PLAIN, **facts: Any) -> Judged:
    "What a policy says of a document with some metadata."
    found = document if isinstance(document, Document) else Document("d", "Some text.", "Title", document or {})
    return apply_policy(policy if isinstance(policy, Policy) else read_policy(policy), rules, found, facts, NOW)


@pytest.mark.parametrize(
    "rule, value, kept",
    [
        ({"type": "number"}, " 12 ", 12),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "yes/no"}, "Off", False),
        ({"type": "date"}, date(2024, 2, 29), "2024-02-29"),
        ({"type": "date"}, "2024-02-29T23:30:00-02:00", "2024-03-01T01:30:00Z"),
        ({"type": "list", "allowed": ["a", "b"]}, "a;b", ["a", "b"]),
        ({"type": "text"}, 5, "5"),
        ({"default": "x"}, None, "x"),
        ({"default": "x"}, "", "x"),
    ],
)
def test_a_value_is_read_as_its_type(rule: dict[str, Any], value: Any, kept: Any) -> None:
    found = judged({"fields": {"f": rule}}, {"f": value})
    assert found.document is not None, found.problems
    assert found.document.metadata["f"] == kept


@pytest.mark.parametrize(
    "rule, value, said",
    [
        ({"type": "number"}, "twelve", "f is 'twelve', which is no number"),
        ({"type": "number"}, True, "f is True"),
        ({"type": "number"}, "nan", "no number"),
        ({"type": "yes/no"}, "perhaps", "f is 'perhaps'"),
        ({"type": "date"}, "2024-13-01", "f is '2024-13-01', which is no date"),
        ({"type": "list"}, [{"a": 1}], "which is no list"),
        ({"allowed": ["a", "b"]}, "c", "f is 'c'. Allowed: 'a', 'b'."),
        ({"type": "list", "allowed": ["a"]}, ["a", "z"], "f is 'z'. Allowed: 'a'."),
        ({"required": True, "allowed": ["a"]}, None, "f is missing, and required (text). Allowed: 'a'."),
        ({"required": True}, "", "f is missing"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named(rule: dict[str, Any], value: Any, said: str) -> None:
    found = judged({"fields": {"f": rule}}, {"f": value})
    assert found.document is None
    assert said in found.reason


@pytest.mark.parametrize(
    "policy, said",
    [
        ({"fieds": {}}, "Did you mean 'fields'?"),
        ({"fields": {"a": {"typ": "text"}}}, "Did you mean 'type'?"),
        ({"fields": {"a": {"type": "string"}}}, "'yes/no'"),
        ({"fields": {"a": {"allowed": ["x"], "default": "y"}}}, "default breaks its own rule"),
        ({"fields": {"a": {"type": "number", "allowed": ["x"]}}}, "'x' is no value of type number"),
        ({"fields": {"expires": {}}}, "written by ingest itself"),
        ({"other": "drop"}, "Known: 'keep', 'refuse'"),
        ({"sensitivity": ["a", "a"]}, "each once"),
        ({"retention": "90"}, "no span of time"),
        ({"retention": "0d"}, "above 0"),
        ({"pii": {"action": "mask"}}, "Known: 'flag', 'quarantine', 'redact'"),
        ({"pii": {"kinds": ["ssn"]}}, "Known: 'card', 'email'"),
        ({"pii": {"detector": "nowhere:f"}}, "cannot be imported"),
        ({"pii": {"detector": "math:pi"}}, "is no function"),
        ({"pii": {"detector": "math"}}, "'module:function'"),
        ({"pii": {"detector": "math:sqrt", "action": "redact"}}, "has no redact"),
        ([1], "expected a mapping"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_before_anything_is_read(policy: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("(", r"\(").replace("?", r"\?")):
        read_policy(policy)


def test_a_document_can_raise_its_class_and_not_lower_it() -> None:
    rules = SourceRules("s", tenant="acme", sensitivity="internal")
    assert judged({}, {}, rules).document.metadata["sensitivity"] == "internal"  # type: ignore[union-attr]
    assert judged({}, {"sensitivity": "secret"}, rules).document.metadata["sensitivity"] == "secret"  # type: ignore[union-attr]
    assert "below 'internal'" in judged({}, {"sensitivity": "public"}, rules).reason
    assert "Allowed: 'public', 'internal', 'confidential', 'secret'" in judged({}, {"sensitivity": "Secret"}, rules).reason
    assert "belongs to 'acme'" in judged({}, {"tenant": "globex"}, rules).reason
    assert "no text" in judged({}, {"tenant": ["acme"]}, rules).reason
    assert judged({"sensitivity": ["low", "high"]}, {"sensitivity": "high"}).document.metadata["sensitivity"] == "high"  # type: ignore[union-attr]


@given(own=st.sampled_from(["", "public", "internal", "confidential", "secret"]), least=st.sampled_from(["", "public", "internal", "confidential", "secret"]))
def test_no_document_comes_in_below_its_source(own: str, least: str) -> None:
    order = Policy().sensitivity
    found = judged({}, {"sensitivity": own} if own else {}, SourceRules("s", sensitivity=least)).document
    assert (found is None) == bool(own and least and order.index(own) < order.index(least))
    if found is not None and least:
        assert order.index(found.metadata["sensitivity"]) >= order.index(least)


def test_time_to_live_begins_where_it_should() -> None:
    day = 86_400.0
    assert judged({"retention": "10d"}, modified=NOW - day).document.metadata["expires"] == NOW + 9 * day  # type: ignore[union-attr]
    assert judged({"retention": "10d"}).document.metadata["expires"] == NOW + 10 * day  # type: ignore[union-attr]
    assert judged({"retention": "10d"}, {}, SourceRules("s", retention="12h")).document.metadata["expires"] == NOW + day / 2  # type: ignore[union-attr]
    dated = {"fields": {"valid": {"type": "date"}}, "retention": "1d", "retention_from": "valid"}
    assert judged(dated, {"valid": "2024-05-01"}).document.metadata["expires"] == datetime(2024, 5, 2, tzinfo=UTC).timestamp()  # type: ignore[union-attr]
    assert judged({}, {"expires": "2024-05-01"}).document.metadata["expires"] == datetime(2024, 5, 1, tzinfo=UTC).timestamp()  # type: ignore[union-attr]
    assert judged({"retention": "10d"}, {"expires": 5}).document.metadata["expires"] == 5  # type: ignore[union-attr]  # The earlier one
    assert "Nobody can say when it expires" in judged({}, {"expires": "soon"}).reason


def test_what_the_library_writes_cannot_be_claimed() -> None:
    found = judged({}, {"source": "board", "modified": 1.0, "uri": "x", "pages": "all", "pii": [], "team": "a"}, uri="file:d", modified=2.0)
    assert found.document is not None
    assert found.document.metadata == {"team": "a", "source": "s", "uri": "file:d", "modified": 2.0}
    assert len(found.notes) == 5


def test_a_closed_policy_refuses_fields_it_does_not_know() -> None:
    assert "'colour' is no field of the policy. Known: 'team'." in judged({"other": "refuse", "fields": {"team": {}}}, {"colour": "red"}).reason


def test_all_faults_are_told_at_once() -> None:
    found = judged({"fields": {"a": {"required": True}, "b": {"type": "number"}}}, {"b": "x", "sensitivity": "?"})
    assert len(found.problems) == 3


def test_values_of_tables_become_plain() -> None:
    import numpy as np
    import pandas as pd

    found = judged({}, {"i": np.int64(3), "f": np.float32(0.5), "n": math.nan, "t": pd.Timestamp("2024-05-01"), "nat": pd.NaT, "a": np.array([1, 2]), "big": 2**70, "half": "\ud800x", "deep": {"s": {3, 1}}})
    assert found.document is not None
    assert found.document.metadata == {"i": 3, "f": 0.5, "t": "2024-05-01T00:00:00Z", "a": [1, 2], "big": str(2**70), "half": "\ufffdx", "deep": {"s": [1, 3]}, "source": "s"}


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8), max_size=5))
def test_whatever_a_document_says_can_be_written_down_or_is_refused(metadata: dict[str, Any]) -> None:
    found = judged({"fields": {"a": {"type": "number"}}}, metadata)
    if found.document is not None:
        again = from_json(to_json(found.document), Document)
        assert again == found.document
    else:
        assert found.problems


@given(st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(9000, 1, 1)), st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(9000, 1, 1)))
def test_dates_sort_as_text(a: datetime, b: datetime) -> None:
    a, b = a.replace(microsecond=0), b.replace(microsecond=0)
    assert (iso_date(a) < iso_date(b)) == (a < b)
    assert read_value(iso_date(a), "date") == iso_date(a)


@pytest.mark.parametrize("span, seconds", [("12h", 43_200), ("90d", 7_776_000), (" 2 y ", 63_072_000), ("1.5w", 907_200)])
def test_spans(span: str, seconds: float) -> None:
    assert seconds_of(span) == seconds


# Personal data


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("mail ann.o'neill+x@sub.example.co.uk now", ["email"]),
        ("4111-1111-1111-1111", ["card"]),
        ("4111 1111 1111 1112", []),  # Fails the Luhn check
        ("0000 0000 0000 0000", []),
        ("GB82 WEST 1234 5698 7654 32", ["iban"]),
        ("GB82 WEST 1234 5698 7654 33", []),
        ("host 192.168.1.77, not 192.168.1.777 and not 1.2.3", ["ip"]),
        ("2001:db8::ff00:42:8329 is here", ["ip"]),
        ("at 10:30:45 std::vector", []),
        ("+49 (0)30 901820-0 or (212) 555-0123 or 212-555-0123", ["phone", "phone", "phone"]),
        ("1,234,567 items in 2024-05-01, 3.14159, v1.2.3, 1234567890", []),
    ],
)
def test_patterns(text: str, kinds: list[str]) -> None:
    detector = PatternDetector()
    assert [finding.kind for finding in detector(text)] == kinds
    assert detector(detector.redact(text)) == []


@given(st.text(alphabet="0123456789 -+().@:abAB", max_size=60))
def test_redaction_leaves_the_rest_untouched(text: str) -> None:
    detector = PatternDetector()
    spans = list(detector.spans(text))
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    redacted, at = detector.redact(text), 0
    for start, end, kind in spans:
        kept = text[at:start] + f"[{kind}]"
        assert redacted.startswith(kept)
        redacted, at = redacted[len(kept) :], end
    assert redacted == text[at:]


LETTER = Document("d", "Ask ann@example.org or 10.0.0.1.", "To ann@example.org", {"to": ["ann@example.org", "x"], "uri": "mailto:ann@example.org"})


def test_flag_lists_the_kinds() -> None:
    found = judged({"pii": {}}, LETTER)
    assert found.document is not None
    assert found.document.metadata["pii"] == ["email", "ip"]
    assert found.document.text == LETTER.text
    only = judged({"pii": {"kinds": ["ip"]}}, LETTER)
    assert only.document is not None
    assert only.document.metadata["pii"] == ["ip"]


def test_quarantine_refuses_without_quoting() -> None:
    found = judged({"pii": {"action": "quarantine"}}, LETTER)
    assert found.document is None
    assert found.problems == ("Personal data was found: email, ip. The policy refuses it.",)


def test_redaction_reaches_title_and_metadata() -> None:
    found = judged({"pii": {"action": "redact"}}, LETTER)
    assert found.document is not None
    assert (found.document.text, found.document.title, found.document.metadata["to"]) == ("Ask [email] or [ip].", "To [email]", ["[email]", "x"])
    assert "ann@" not in str(found)


DETECTORS = """
from llmops_nb.core import Finding
def fails(text): raise ValueError("saw ann@example.org")
def wrong(text): return ["email"]
def names(text): return [Finding("names", "person")] if "Ann" in text else []
class Half:
    def __call__(self, text): return [Finding("half", "person")] if "Ann" in text or "Bob" in text else []
    def redact(self, text): return text.replace("Ann", "[person]")
half = Half()
"""


@pytest.fixture
def detectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A module with detectors of a user's own."
    file = tmp_path / "my_detectors.py"
    file.write_text(DETECTORS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_detectors", None)
    return file


def test_a_detector_of_ones_own(detectors: Path) -> None:
    assert judged({"pii": {"detector": "my_detectors:names", "action": "quarantine"}}, Document("d", "Ann")).document is None
    assert judged({"pii": {"detector": "my_detectors:names", "action": "quarantine"}}, Document("d", "Bob")).document is not None


@pytest.mark.parametrize("name", ["fails", "wrong"])
@pytest.mark.parametrize("action", ["flag", "quarantine"])
def test_a_detector_that_fails_closes_the_door(detectors: Path, name: str, action: str) -> None:
    found = judged({"pii": {"detector": f"my_detectors:{name}", "action": action}}, Document("d", "Hello"))
    assert found.document is None
    assert f"'my_detectors:{name}' failed with" in found.reason
    assert "ann@" not in found.reason


def test_what_redaction_leaves_is_refused(detectors: Path) -> None:
    policy = {"pii": {"detector": "my_detectors:half", "action": "redact"}}
    assert judged(policy, Document("d", "Ann")).document is not None
    assert judged(policy, Document("d", "Ann and Bob")).problems == ("Personal data is left after redaction: person.",)


def test_another_detector_is_another_policy(detectors: Path) -> None:
    spec = PersonalData("flag", "my_detectors:names")
    before = detector_digest(spec)
    detectors.write_text(DETECTORS + "# better\n")
    assert detector_digest(spec) != before
    assert Policy(pii=spec).digest != Policy(pii=PersonalData()).digest != Policy().digest
