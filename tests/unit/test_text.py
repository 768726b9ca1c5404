"""Values as PostgreSQL's input functions read them, and what a column does not take."""

import csv
import json
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.table import Column, Kind
from pipeline.store.text import Unfit, array_text, copy_data, text_of, texts_of
from tests.unit.strategies import texts


def column(kind: Kind, type_: str = "", element: Kind | None = None) -> Column:
    return Column("c", type_ or kind.value, type_ or kind.value, kind, element)


TEXT, JSON = column(Kind.TEXT, "text"), column(Kind.JSON, "jsonb")
TEXTS, JSONS = column(Kind.ARRAY, "text[]", Kind.TEXT), column(Kind.ARRAY, "jsonb[]", Kind.JSON)
TIMETZ = column(Kind.TIME, "time with time zone")
TIME = column(Kind.TIME, "time without time zone")

# --- COPY -------------------------------------------------------------------------------------------------------------


def read_copy(data: bytes) -> list[list[str | None]]:
    """Rows as PostgreSQL's COPY FROM reads `COPY_OPTIONS` (its manual, section "CSV Format")."""
    rows: list[list[str | None]] = [[]]
    rest = data.decode()
    while True:
        quoted = re.match(r'"((?:[^"\\]|\\["\\])*)"', rest, re.DOTALL)
        found = quoted or re.match(r'[^,\n"\\]*', rest)
        assert found is not None
        rows[-1].append(
            re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL) if quoted else None if found[0] == "null" else found[0]
        )
        rest = rest[found.end() :]
        if not rest:
            return rows
        if rest[0] == "\n":
            rows.append([])
        else:
            assert rest[0] == ","
        rest = rest[1:]


cells = st.none() | texts | st.text("\\\n\r\tN.\"',{}[]bu01\x01\x1f", max_size=8) | st.just("null")
tables_of_texts = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1)
)


@given(tables_of_texts)
def test_rows_come_back_out_of_copy_as_they_were(rows: list[list[str | None]]) -> None:
    assert read_copy(copy_data(list(zip(*rows, strict=True)))) == rows


@given(tables_of_texts)
def test_rows_that_are_copied_in_order_are_the_same_rows(rows: list[list[str | None]]) -> None:
    found = read_copy(copy_data(list(zip(*rows, strict=True)), ordered=True))
    assert sorted(map(repr, found)) == sorted(map(repr, rows))
    assert found == read_copy(copy_data(list(zip(*reversed(rows), strict=True)), ordered=True))


@given(st.lists(st.tuples(st.integers(), st.integers()), min_size=1, unique_by=lambda row: row[0]))
def test_rows_of_different_shapes_are_in_one_order_if_they_have_the_same_key(rows: list[tuple[int, int]]) -> None:
    wide, narrow = ([row[:width] for row in rows] for width in (2, 1))
    orders = [read_copy(copy_data(list(zip(*some, strict=True)), ordered=True)) for some in (wide, narrow)]
    assert [row[0] for row in orders[0]] == [row[0] for row in orders[1]]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ([None, 1], b"null,1"),
        (["null"], b'"null"'),
        (["\\."], b'"\\\\."'),
        ([""], b'""'),
        ([7, -(2**70), True, Decimal("1E+2")], b'7,-1180591620717411303424,true,"1E+2"'),
        (["a\tb\nc\rd\\e\x00\x1f"], b'"a\tb\nc\rd\\\\e\x00\x1f"'),
        (['\\n]\n["', None, "],["], b'"\\\\n]\n[\\"",null,"],["'),
        (["é\x7f\u2028", "\\u0041"], b'"\xc3\xa9\x7f\xe2\x80\xa8","\\\\u0041"'),
        ([date(13, 1, 1), UUID(int=7)], b'"0013-01-01","00000000-0000-0000-0000-000000000007"'),
        ([datetime(2013, 1, 1, 5, 0, 0, 1, tzinfo=UTC)], b'"2013-01-01T05:00:00.000001Z"'),
    ],
)
def test_the_copy_form_of_a_row_is_fixed(row: list[Any], line: bytes) -> None:
    assert copy_data([[cell] for cell in row]) == line
    assert copy_data([[cell, cell] for cell in row], ordered=True) == line + b"\n" + line


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_array(literal: str) -> list[str | None]:
    """The elements of a flat array literal, of which every one is quoted or NULL."""
    inner = literal[1:-1]
    (cells,) = csv.reader([inner], escapechar="\\", doublequote=False) if inner else [[]]
    return [None if cell == "NULL" else cell for cell in cells]


@given(st.lists(st.none() | st.text("ab\\\"{},' N;é", max_size=6)))
def test_no_text_in_an_array_has_a_meaning_of_its_own(elements: list[str | None]) -> None:
    assert read_array(array_text(elements, TEXT)) == elements


@pytest.mark.parametrize(
    ("elements", "literal"),
    [
        ([], "{}"),
        ([None], "{NULL}"),
        (["NULL"], '{"NULL"}'),
        ([""], '{""}'),
        (['a"b', "c\\d", "{e,f}"], '{"a\\"b","c\\\\d","{e,f}"}'),
        ([["a", None], ["b", "c"]], '{{"a",NULL},{"b","c"}}'),
    ],
)
def test_the_literal_of_an_array_is_fixed(elements: list[Any], literal: str) -> None:
    assert text_of(elements, TEXTS) == literal


def test_a_list_in_an_array_of_json_is_json() -> None:
    assert text_of([[1, "a"], {"b": []}], JSONS) == '{"[1,\\"a\\"]","{\\"b\\":[]}"}'


def test_an_element_that_does_not_fit_names_the_column() -> None:
    with pytest.raises(Unfit, match="column c: a int does not fit the type text"):
        text_of([1], TEXTS)


# --- what fits --------------------------------------------------------------------------------------------------------

HERE = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "found", "text"),
    [
        (True, column(Kind.BOOL), "true"),
        (False, column(Kind.BOOL), "false"),
        (-(2**70), column(Kind.DECIMAL), "-1180591620717411303424"),
        (7, column(Kind.FLOAT), "7"),
        (0.1, column(Kind.FLOAT), "0.1"),
        (1e300, column(Kind.DECIMAL), "1e+300"),
        (Decimal("1E+5"), column(Kind.DECIMAL), "1E+5"),
        (Decimal("1.10"), column(Kind.INTEGER), "1.10"),
        ("7", column(Kind.INTEGER), "7"),
        ("infinity", column(Kind.DATE), "infinity"),
        ("NaN", column(Kind.FLOAT), "NaN"),
        ("happy", column(Kind.OTHER, "mood"), "happy"),
        (b"\x00\xff", column(Kind.BYTES), "\\x00ff"),
        (datetime(2013, 1, 1, 5, tzinfo=HERE), column(Kind.TIMESTAMPTZ), "2013-01-01T05:00:00+02:00"),
        (datetime(2013, 1, 1, 5), column(Kind.TIMESTAMP), "2013-01-01T05:00:00"),  # noqa: DTZ001
        (date(13, 1, 1), column(Kind.DATE), "0013-01-01"),
        (time(5, 15, 0, 1), TIME, "05:15:00.000001"),
        (time(5, 15, tzinfo=HERE), TIMETZ, "05:15:00+02:00"),
        (timedelta(days=-1, microseconds=1), column(Kind.INTERVAL), "-1 days 0.000001 seconds"),
        (timedelta(hours=1), column(Kind.INTERVAL), "0 days 3600.000000 seconds"),
        (UUID(int=7), column(Kind.OTHER, "uuid"), "00000000-0000-0000-0000-000000000007"),
        ("text", JSON, '"text"'),
        ("{}", JSON, '"{}"'),
        (7, JSON, "7"),
        (True, JSON, "true"),
        ([1, None], JSON, "[1,null]"),
        ({"a": [Decimal("1.10"), 10**30]}, JSON, '{"a":[1.10,1000000000000000000000000000000]}'),
    ],
)
def test_a_value_that_fits_has_one_text(value: object, found: Column, text: str) -> None:
    assert text_of(value, found) == text


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (True, column(Kind.INTEGER)),
        (1, column(Kind.BOOL)),
        (7, TEXT),
        (1.5, TEXT),
        (Decimal(1), TEXT),
        (UUID(int=7), TEXT),
        (date(2013, 1, 1), TEXT),
        (b"a", TEXT),
        ("\\xff", column(Kind.BYTES)),
        (datetime(2013, 1, 1, tzinfo=UTC), column(Kind.TIMESTAMP)),
        (datetime(2013, 1, 1), column(Kind.TIMESTAMPTZ)),  # noqa: DTZ001
        (datetime(2013, 1, 1, tzinfo=UTC), column(Kind.DATE)),
        (date(2013, 1, 1), column(Kind.TIMESTAMP)),
        (time(5, tzinfo=HERE), TIME),  # the zone would be dropped without a word
        (time(5), TIMETZ),  # the session's zone would be added without a word
        (5, column(Kind.INTERVAL)),
        ([1], column(Kind.OTHER, "int4range")),
        ({"a": 1}, TEXTS),
        ({"a": 1}, TEXT),
        (b"a", JSON),
        (date(2013, 1, 1), JSON),
        ({"a": [UUID(int=7)]}, JSON),
        ([timedelta(1)], JSON),
    ],
)
def test_a_value_that_its_column_would_change_does_not_fit(value: object, found: Column) -> None:
    with pytest.raises(Unfit) as refusal:
        text_of(value, found)
    assert refusal.value.column == "c"


UTC_ALSO = timezone(timedelta(0))
ODD = timezone(timedelta(minutes=53, seconds=28))  # JSON would round it to minutes
zones = st.sampled_from([UTC, UTC_ALSO, HERE, ODD])
columns_of_values: dict[Kind, tuple[Column, st.SearchStrategy[Any]]] = {
    Kind.INTEGER: (column(Kind.INTEGER), st.integers() | st.text(max_size=3) | st.floats() | st.decimals()),
    Kind.DECIMAL: (column(Kind.DECIMAL), st.decimals() | st.integers() | st.floats()),
    Kind.FLOAT: (column(Kind.FLOAT), st.floats() | st.integers(-(10**30), 10**30)),
    Kind.BOOL: (column(Kind.BOOL), st.booleans()),
    Kind.TEXT: (TEXT, texts),
    Kind.BYTES: (column(Kind.BYTES), st.binary(max_size=4)),
    Kind.TIMESTAMPTZ: (column(Kind.TIMESTAMPTZ), st.datetimes(timezones=zones)),
    Kind.TIMESTAMP: (column(Kind.TIMESTAMP), st.datetimes()),
    Kind.DATE: (column(Kind.DATE), st.dates()),
    Kind.TIME: (TIMETZ, st.times(timezones=zones)),
    Kind.INTERVAL: (column(Kind.INTERVAL), st.timedeltas()),
    Kind.ARRAY: (TEXTS, st.lists(texts, max_size=2)),
    Kind.JSON: (JSON, st.integers() | texts | st.lists(texts, max_size=2)),
    Kind.OTHER: (column(Kind.OTHER, "uuid"), st.uuids() | texts),
}


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_the_texts_of_a_column_are_those_of_its_values(kind: Kind, data: st.DataObject) -> None:
    found, single_values = columns_of_values[kind]
    values = data.draw(st.lists(st.none() | single_values, max_size=6) | st.lists(single_values, max_size=6))
    assert texts_of(values, found) == [None if value is None else text_of(value, found) for value in values]


@given(
    st.integers()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=zones)
    | st.uuids()
    | st.datetimes(timezones=zones).map(lambda moment: moment.replace(microsecond=0))
)
def test_numbers_dates_and_ids_are_spelled_as_python_spells_them(value: Any) -> None:
    kinds = {int: Kind.INTEGER, date: Kind.DATE, UUID: Kind.OTHER, datetime: Kind.TIMESTAMP}
    kind = Kind.TIMESTAMPTZ if getattr(value, "tzinfo", None) else kinds[type(value)]
    spelled = value.isoformat().replace("+00:00", "Z") if isinstance(value, date) else str(value)
    assert texts_of([value, value], column(kind)) == [spelled, spelled]


def test_one_value_of_a_column_that_does_not_fit_is_refused_like_it_alone() -> None:
    for values in ([1, True], [True, 1, None]):
        with pytest.raises(Unfit, match="a bool does not fit the type integer"):
            texts_of(values, column(Kind.INTEGER))
    with pytest.raises(Unfit, match="a datetime with no time zone"):
        texts_of([datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1)], column(Kind.TIMESTAMPTZ))  # noqa: DTZ001


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(json_values.filter(lambda value: value is not None))
def test_json_says_the_same_to_postgres_as_to_python(value: Any) -> None:
    assert json.loads(text_of(value, JSON)) == value
