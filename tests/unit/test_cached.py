"""A row comes out of the cache as it went in, or it does not go in."""

from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cached import Pending, decode_overlay, decode_row, differing, encode_row
from pipeline.core.change import Change

Point = namedtuple("Point", "x y")  # noqa: PYI024 - as psycopg makes them


def there_and_back(row: dict[str, Any], updatable: str = "") -> dict[str, Any] | None:
    fields = encode_row(row, updatable)
    return None if fields is None else decode_row({name.encode(): value for name, value in fields.items()})


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, 2**63 - 1, 1.5, -0.0, "é\u2028", "", Decimal("1.50"), datetime(2013, 1, 1, tzinfo=UTC),
        datetime(2013, 1, 1),  # noqa: DTZ001
        date(2013, 1, 1), time(5, 15), timedelta(days=-1, microseconds=1), UUID(int=7),
        b"\x00\xff", b"text", [1, None, [2]], {"a": [1.5, {"__type__": "x"}]}, [], {}, [[]], ["a"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("updatable", ["", "v"])
def test_a_value_comes_back_as_it_was(value: Any, updatable: str) -> None:
    back = there_and_back({"v": value, "é": 1}, updatable)
    assert back == {"v": value, "é": 1}
    assert type(back["v"]) is type(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("NaN"), IPv4Address(1), Point(1, 2), {"__type__": "x", "__value__": 1},
     "lone \ud800", {1: 2}, (1, 2), [(1, 2)]],
)  # fmt: skip
def test_what_would_not_come_back_is_not_cached(value: Any) -> None:
    assert encode_row({"id": 1, "v": value}, "") is None


def test_the_write_script_sees_only_what_it_may_change() -> None:
    assert encode_row({"a": 1, "b": 1, "c": "x"}, "ac") == {"a": b"1", "b": b"[1]", "c": b'"x"'}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3), st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.booleans())
    )
)
def test_any_row_comes_back(row: dict[str, Any]) -> None:
    assert there_and_back(row, "".join(row)) in (row, None)


def test_pending_changes_come_in_their_order_with_their_values() -> None:
    entries = [b'[4,"a",{"table":"t","key":{"id":1},"add":{"n":{"__type__":"decimal","__value__":"1.5"}}}]']
    assert decode_overlay(entries) == [Pending(4, "a", Change("t", {"id": 1}, add={"n": Decimal("1.5")}))]


@pytest.mark.parametrize("entry", [b"", b"[]", b'[1,"a",{}]', b'[1,"a",{"table":"t"}]', b'["1","a",{"table":"t"}]'])
def test_an_entry_that_nobody_wrote_is_an_error(entry: bytes) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        decode_overlay([entry])


def differences(one: dict[str, Any], other: dict[str, Any], updatable: str = "") -> list[str]:
    fields = encode_row(one, updatable)
    assert fields is not None
    return differing({name.encode(): value for name, value in fields.items()}, other)


@pytest.mark.parametrize("updatable", ["", "abé"])
def test_a_row_differs_in_the_columns_that_are_not_the_same(updatable: str) -> None:
    row = {"a": 1, "b": [{"x": 1}], "é": "x"}
    assert differences(row, row, updatable) == []
    assert differences(row, {**row, "b": [{"x": 2}]}, updatable) == ["b"]
    assert differences(row, {**row, "é": "y", "a": None}, updatable) == ["a", "é"]
    assert differences(row, {"a": 1, "c": None, "é": "x"}, updatable) == ["c", "b"]


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (1, Decimal(1)), ("1", 1), ([1], [True]), ({"a": 0}, {"a": False})]
)
def test_values_of_other_types_are_not_the_same(one: Any, other: Any) -> None:
    assert differences({"v": one}, {"v": other}) == ["v"]


def test_values_that_are_written_in_another_way_are_the_same() -> None:
    here = datetime(2013, 1, 1, 7, tzinfo=timezone(timedelta(hours=2)))
    assert differences({"at": here, "n": Decimal("1.0")}, {"at": here.astimezone(UTC), "n": Decimal("1.00")}) == []


@pytest.mark.parametrize("text", [b"", b"{", b'"', b"1,2", b"[]", b"[1,2", b'{"__type__":"date","__value__":"x"}'])
def test_what_nobody_has_encoded_differs_from_everything(text: bytes) -> None:
    assert differing({b"v": text, b"n": b"1"}, {"v": None, "n": 1}) == ["v"]
