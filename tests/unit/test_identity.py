"""The one text that stands for a row key."""

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.values import identity, key_texts
from pipeline.errors import InvalidEvent
from tests.unit.strategies import integers, keys, names, texts


class Size(enum.Enum):
    LARGE = "l"


def test_it_reads_as_columns_and_values_in_the_order_of_the_names() -> None:
    assert identity({"user_id": 3, "sku": "A1"}) == "sku=A1&user_id=3"


def test_what_separates_the_parts_is_escaped_in_them() -> None:
    assert identity({"a=b": "c&d", "e": "50%:"}) == "a%3Db=c%26d&e=50%25%3A"


@given(keys, st.randoms(use_true_random=False))
def test_the_order_of_the_columns_does_not_matter(key: dict[str, Any], random: Any) -> None:
    columns = list(key.items())
    random.shuffle(columns)
    assert identity(dict(columns)) == identity(key)


@given(st.dictionaries(names, texts | integers | st.uuids(), min_size=1, max_size=4))
def test_two_different_keys_never_share_one_because_it_can_be_read_back(key: dict[str, Any]) -> None:
    parts = [part.split("=") for part in identity(key).split("&")]
    assert {unquote(name): unquote(value) for name, value in parts} == {name: str(value) for name, value in key.items()}


@given(keys)
def test_a_key_can_be_read_back_as_texts_which_have_the_same_identity(key: dict[str, Any]) -> None:
    back = key_texts(identity(key))
    assert back.keys() == key.keys()
    assert identity(back) == identity(key)
    assert all(back[name] == value for name, value in key.items() if isinstance(value, str))


@pytest.mark.parametrize("text", ["", "id", "id=1&", "id=1=2", "&", "a&b=1"])
def test_what_is_no_identity_cannot_be_read_back(text: str) -> None:
    with pytest.raises(ValueError, match="identity"):
        key_texts(text)


@given(st.one_of(integers, st.uuids(), st.dates(), st.times(), st.datetimes(), st.datetimes(timezones=st.just(UTC))))
def test_a_value_and_its_text_are_the_same_row(value: Any) -> None:
    text = value.isoformat() if isinstance(value, date | time) else str(value)
    assert identity({"id": value}) == identity({"id": text})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (Decimal("7.00"), "7"),
        (Decimal("-0.0"), "0"),
        (Decimal("1E+2"), "100"),
        (Decimal("100.000"), "100"),
        (Decimal("0.10"), "0.1"),
        (b"\xff\x00", "\\xff00"),
        (Size.LARGE, "l"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (datetime(2013, 1, 1, 7, tzinfo=timezone(timedelta(hours=2))), "2013-01-01T05%3A00%3A00+00%3A00"),
    ],
)
def test_the_text_of_a_value_is_fixed(value: object, text: str) -> None:
    assert identity({"id": value}) == f"id={text}"


@given(st.decimals(-(10**30), 10**30), st.integers(0, 5))
def test_trailing_zeros_of_a_decimal_do_not_matter(value: Decimal, zeros: int) -> None:
    padded = Decimal(f"{value:f}{'' if '.' in f'{value:f}' else '.'}{'0' * zeros}")
    assert identity({"id": padded}) == identity({"id": value})


def test_the_same_moment_in_another_zone_is_the_same_row() -> None:
    here = datetime(2013, 1, 1, 7, tzinfo=timezone(timedelta(hours=2)))
    assert identity({"at": here}) == identity({"at": here.astimezone(UTC)})


@pytest.mark.parametrize("value", [None, 1.5, [1], {"a": 1}, timedelta(1), object()])
def test_what_cannot_identify_a_row_is_refused_by_column(value: object) -> None:
    with pytest.raises(InvalidEvent, match="cannot identify a row") as refusal:
        identity({"id": 1, "at": value})
    assert refusal.value.column == "at"


@pytest.mark.parametrize(
    "value",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_moment_that_utc_has_not_is_still_one_row(value: datetime) -> None:
    assert identity({"at": value}) == identity({"at": value})


@pytest.mark.parametrize("value", ["1E+999999999999", "1E-999999999999", "0E+999999999999"])
def test_a_decimal_with_a_monstrous_exponent_costs_no_memory(value: str) -> None:
    try:
        text = identity({"id": Decimal(value)})
    except InvalidEvent as refusal:
        text = str(refusal)
    assert len(text) < 1000


def test_an_integer_too_long_for_text_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        identity({"id": 10**5000})
