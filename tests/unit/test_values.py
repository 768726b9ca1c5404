"""How values travel as JSON: nothing is lost, nothing is converted silently, and kombu agrees."""

import enum
import json
import math
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from pipeline.core.values import from_wire, timedelta_us, to_wire, travels_as_it_is
from pipeline.errors import InvalidEvent
from tests.unit import strategies

# As pipeline.contrib.celery does for every app that it is registered with.
kombu_json.register_type(timedelta, "timedelta", timedelta_us, lambda us: timedelta(microseconds=us))


class Colour(enum.Enum):
    RED = "red"
    PRICE = Decimal("1.10")


class Level(enum.IntEnum):
    HIGH = 3


class SafeText(str):
    __slots__ = ()


class Amount(int):
    pass


class Moment(datetime):
    pass


def exactly(value: object) -> str:
    """Equal only for equal values of equal types: 1, 1.0, True and Decimal('1.0') differ, and so do 0.0 and -0.0."""
    return repr(value)


def refused(value: object) -> str:
    with pytest.raises(InvalidEvent) as refusal:
        to_wire(value)
    return refusal.value.problem


@given(strategies.values)
def test_a_value_comes_back_as_it_was_through_real_json(value: Any) -> None:
    text = msgspec.json.encode(to_wire(value))
    assert exactly(from_wire(msgspec.json.decode(text))) == exactly(value)


@given(strategies.values)
def test_kombu_reads_what_we_wrote(value: Any) -> None:
    assert exactly(kombu_json.loads(msgspec.json.encode(to_wire(value)))) == exactly(value)


@given(strategies.values)
def test_we_read_what_kombu_wrote(value: Any) -> None:
    assert exactly(from_wire(msgspec.json.decode(kombu_json.dumps(value)))) == exactly(value)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (datetime(2013, 1, 1, 5, 15, tzinfo=UTC), {"__type__": "datetime", "__value__": "2013-01-01T05:15:00+00:00"}),
        (datetime(2013, 1, 1), {"__type__": "datetime", "__value__": "2013-01-01T00:00:00"}),  # noqa: DTZ001
        (date(2013, 1, 1), {"__type__": "date", "__value__": "2013-01-01"}),
        (time(5, 15), {"__type__": "time", "__value__": "05:15:00"}),
        (timedelta(days=-1, microseconds=1), {"__type__": "timedelta", "__value__": -86_399_999_999}),
        (Decimal("1.10"), {"__type__": "decimal", "__value__": "1.10"}),
        (UUID(int=7), {"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000007"}}),
        (b"caf\xc3\xa9", {"__type__": "bytes", "__value__": "café"}),
        (b"\xff", {"__type__": "base64", "__value__": "/w=="}),
        (bytearray(b"a"), {"__type__": "bytes", "__value__": "a"}),
        (memoryview(b"a"), {"__type__": "bytes", "__value__": "a"}),
        (b"\x00", {"__type__": "bytes", "__value__": "\x00"}),
        (Colour.RED, "red"),
        (Colour.PRICE, {"__type__": "decimal", "__value__": "1.10"}),
        (Level.HIGH, 3),
        (SafeText("a"), "a"),
        (Amount(3), 3),
        (Moment(2013, 1, 1, tzinfo=UTC), {"__type__": "datetime", "__value__": "2013-01-01T00:00:00+00:00"}),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        (OrderedDict(b=1, a=None), {"b": 1, "a": None}),
    ],
)
def test_the_wire_form_of_a_value_is_fixed(value: object, wire: object) -> None:
    assert to_wire(value) == wire


@pytest.mark.parametrize("value", [SafeText("a"), Amount(3), Level.HIGH, Colour.RED])
def test_a_subclass_travels_as_its_plain_type(value: object) -> None:
    assert type(to_wire(value)) in {str, int}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_json_has_not_is_refused_with_a_way_out(value: float) -> None:
    assert f"the text {str(value)!r}" in refused(value)


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_decimal_that_is_no_number_is_refused(value: str) -> None:
    assert "not finite" in refused(Decimal(value))


@pytest.mark.parametrize("value", ["a\x00b", ["\x00"], {"\x00": 1}, {"a": {"b": "\x00"}}])
def test_a_nul_in_text_is_refused_wherever_it_is(value: object) -> None:
    assert "NUL" in refused(value)


@pytest.mark.parametrize("value", ["a\ud800", ["\udfff"], {"\ud800": 1}])
def test_a_lone_surrogate_is_refused_wherever_it_is(value: object) -> None:
    assert "surrogate" in refused(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, range(3), ValueError("x")])
def test_a_value_of_an_unknown_type_is_refused_and_the_known_ones_are_named(value: object) -> None:
    problem = refused(value)
    assert type(value).__name__ in problem
    assert "Decimal" in problem


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), Level.HIGH])
def test_a_dict_key_that_is_no_text_is_refused(key: object) -> None:
    assert "dict keys must be text" in refused({key: 1})


def test_a_dict_that_looks_like_a_typed_value_is_refused() -> None:
    assert "__type__" in refused({"a": [{"__type__": "decimal", "__value__": "1"}]})


@pytest.mark.parametrize("also", [{}, {"a": 1}])
def test_a_dict_with_half_a_tag_or_more_than_a_tag_is_an_ordinary_dict(also: dict[str, int]) -> None:
    value = {"__type__": "decimal", **also}
    assert from_wire(to_wire(value)) == value


def nested(depth: int, inner: object = 1) -> object:
    for level in range(depth):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


def test_nesting_up_to_the_limit_comes_back() -> None:
    assert from_wire(to_wire(nested(64))) == nested(64)


@pytest.mark.parametrize("depth", [65, 100_000])
def test_deeper_nesting_is_refused_in_both_directions(depth: int) -> None:
    value = nested(depth)
    assert "nested more than 64 deep" in refused(value)
    with pytest.raises(InvalidEvent, match="nested more than 64 deep"):
        from_wire(value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "nested" in refused(endless)


def test_an_integer_too_long_for_json_is_refused() -> None:
    assert "digits" in refused(10**5000)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("datetime", "yesterday"),
        ("datetime", 5),
        ("date", "2013-02-30"),
        ("time", "25:00"),
        ("time", None),
        ("timedelta", "1"),
        ("timedelta", 1.5),
        ("timedelta", True),
        ("timedelta", 10**30),
        ("decimal", "one"),
        ("decimal", "NaN"),
        ("decimal", "Infinity"),
        ("decimal", 1.1),
        ("decimal", [0, [1], 0]),
        ("uuid", "7"),
        ("uuid", {}),
        ("uuid", {"hex": "7"}),
        ("uuid", {"hex": 7}),
        ("uuid", {"int": 1.5}),
        ("uuid", {"wrong": "7"}),
        ("bytes", 7),
        ("bytes", None),
        ("base64", "***"),
        ("base64", "é"),
        ("base64", 7),
    ],
)
def test_an_ill_formed_typed_value_is_refused_by_its_type(name: str, payload: object) -> None:
    with pytest.raises(InvalidEvent, match=f"(?i){name}"):
        from_wire({"__type__": name, "__value__": payload})


@pytest.mark.parametrize("name", ["set", "", 7, None, [], {}])
def test_a_typed_value_of_an_unknown_type_is_refused(name: object) -> None:
    with pytest.raises(InvalidEvent, match="unknown type"):
        from_wire({"__type__": name, "__value__": 1})


@pytest.mark.parametrize("value", ["\x00", ["\x00"], {"\x00": 1}, {"a": "\x00"}])
def test_a_nul_that_another_client_sent_is_refused(value: object) -> None:
    with pytest.raises(InvalidEvent, match="NUL"):
        from_wire(value)


def test_a_date_that_a_client_sent_with_a_time_of_midnight_is_a_date() -> None:
    assert from_wire({"__type__": "date", "__value__": "2013-01-01T00:00:00"}) == date(2013, 1, 1)


@given(st.timedeltas())
def test_microseconds_of_a_duration_are_exact(value: timedelta) -> None:
    assert timedelta(microseconds=timedelta_us(value)) == value


def test_python_itself_reads_the_wire_form() -> None:
    wire = to_wire({"a": [1, 1.5, "é"], "b": Decimal(1)})
    assert json.loads(msgspec.json.encode(wire)) == wire


UNUSUAL = [math.nan, math.inf, -math.inf, "a\x00", "\ud800", 2**63, 2**20_000, -(2**20_000), object()]
SUBCLASSED = [SafeText("x"), Amount(7), Level.HIGH, Colour.RED, True]


@given(strategies.values | st.sampled_from(UNUSUAL) | st.sampled_from(SUBCLASSED))
def test_what_travels_as_it_is_at_a_glance_does_so(value: object) -> None:
    if travels_as_it_is(value):
        assert exactly(to_wire(value)) == exactly(value)


@pytest.mark.parametrize("value", [0, -7, 2**63 - 1, "", "plain text", 0.5, -0.0])
def test_nearly_every_value_is_seen_to_travel_as_it_is(value: object) -> None:
    assert travels_as_it_is(value)
