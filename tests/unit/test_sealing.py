"""Many changes are encoded at once as each of them would be alone; and what is wrong with one is told as if it were."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.core.change import MAX_IDENTITY, Change
from pipeline.core.encoded import Encoded
from pipeline.core.sealing import seal_all
from pipeline.encoding import Encoder
from pipeline.errors import EventTooLarge, InvalidEvent
from tests.unit import strategies

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)


class Name(str):
    """Text that is not quite."""

    __slots__ = ()


class Masked(str):
    """Text that shows itself as something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "***"

    def __format__(self, form: str) -> str:
        return "***"


class Size(StrEnum):
    SMALL = "small"


@dataclass
class Ids:
    """Makes the same ids again, whether for one event or for many."""

    made: int = 0

    def __call__(self, count: int) -> Sequence[str]:
        self.made += count
        return [f"event-{number}" for number in range(self.made - count, self.made)]


def encoder(**settings: Any) -> Encoder:
    return Encoder(Config(**settings), Ids())


def at_once(changes: Sequence[Any], **settings: Any) -> object:
    """The events, or the error."""
    try:
        return encoder(**settings).encode_each(changes)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return _told(error)


def one_by_one(changes: Sequence[Any], **settings: Any) -> object:
    each = encoder(**settings)
    events: list[Encoded] = []
    try:
        for change in changes:
            events.append(each.encode([change]))  # noqa: PERF401 - how many there are says which one is bad
    except Exception as error:  # noqa: BLE001 - whatever it is
        if isinstance(error, InvalidEvent):
            error.position = len(events)
        return _told(error)
    return events


def _told(error: Exception) -> object:
    return type(error), str(error)


columns = st.sampled_from(["a", "b", "c", "größe", "x" * 63, 'q"uote', "back\\slash"])
tables = st.sampled_from(["t", "log", "shop.orders", '"t"', '"Order"'])
odd = st.sampled_from(
    [
        None, True, 0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 2**13_999, 2**14_100, 2**20_000, 0.5, -0.0, 1e22,
        float("nan"), float("inf"), "", "text", "a:b", "a&b=c%", "é😀", '\x7f\x1f\n\t\\"', "n\x00l", "\\u0000",
        "\ud800", Name("x"), Size.SMALL, b"\xff", b"\x00", NOW, NOW.date(), NOW.time(), Decimal("1.50"), Decimal("NaN"),
        [1, "\x00"], [1, [2]], {"k": {"v": NOW}}, {"__type__": "x", "__value__": 1}, (1,), {1}, object, "x" * 5000,
        ":" * 1500,
    ]
)  # fmt: skip
parts = st.dictionaries(columns, odd | strategies.values, max_size=3)
not_parts: Any = st.sampled_from(
    [None, [], (), 0, MappingProxyType({"a": 1}), {"": 1}, {1: 1}, {"x" * 64: 1}, {"n\x00": 1}]
)
odd_tables: Any = tables | st.sampled_from(["Capital", "", "a.b.c", "x" * 64, 7, None, Name("t")])
hostile = st.one_of(
    st.builds(Change, odd_tables, parts | not_parts, parts | not_parts, parts, parts | not_parts, parts),
    st.builds(
        Change, tables, parts, parts, parts, parts, parts, st.sampled_from([True, 1, 0, None]), parts | not_parts
    ),
    st.builds(lambda table, row: Change(table, insert=row), odd_tables, parts | not_parts),
    st.sampled_from([None, "change", {"table": "t"}]),
)
alike = st.builds(
    lambda key, values: [
        Change("t", {"id": one}, {"v": value, "w": value}) for one, value in zip(key, values, strict=False)
    ],
    st.lists(strategies.key_values, max_size=5),
    st.lists(strategies.values, max_size=5),
)


@given(st.lists(strategies.changes, max_size=8) | alike)
def test_many_events_are_what_each_of_them_is_alone(changes: list[Change]) -> None:
    assert at_once(changes) == one_by_one(changes)


@given(st.lists(strategies.changes | hostile, max_size=6))
def test_what_is_wrong_with_one_of_many_is_told_as_if_it_were_alone(changes: list[Any]) -> None:
    assert at_once(changes) == one_by_one(changes)


GOOD = [Change("t", {"id": number}, {"v": "x"}) for number in range(5)]
BAD: Any = [
    Change("t"), Change("T", {"id": 1}), Change("t", {"id": None}), Change("t", {"id": 1.5}),
    Change("t", {"id": "\x00"}), Change("t", {"id": 1}, {"id": 2}), Change("t", {"id": 1}, {"v": float("nan")}),
    Change("t", {"id": 1}, {"v": "\x00"}), Change("t", {"id": 1}, {"v": "\ud800"}),
    Change("t", {"id": 1}, {"v": 2**14_100}), Change("t", {"id": 1}, {"": 1}), Change("t", {"id": 1}, add={"n": "1"}),
    Change("t", {"id": 1}, add={"n": True}), Change("t", {"id": 1}, max={"n": None}),
    Change("t", {"id": 1}, min={"n": [1]}), Change("t", {"id": 1}, {"v": 1}, delete=True),
    Change("t", {"i": 1}, insert={}), Change("t", {"id": "x" * MAX_IDENTITY}), Change("t", {"id": ":" * 1500}),
    Change("t", {"id": 1}, {"v": object()}), Change("secret", {"id": 1}), Change("kept", {"id": 1}),
    Change("t", {"id": 1}, {"v": "x" * 2000}), {"table": "t"}, None,
]  # fmt: skip


@pytest.mark.parametrize("position", range(len(GOOD) + 1))
@pytest.mark.parametrize("bad", BAD, ids=[str(number) for number in range(len(BAD))])
def test_the_first_bad_one_is_told_wherever_it_is(bad: Any, position: int) -> None:
    settings = {"tables": ("t", "kept"), "write_through_tables": ("kept",), "max_event_bytes": 1000}
    changes = [*GOOD[:position], bad, *GOOD[position:]]
    found = at_once(changes, **settings)
    assert found == one_by_one(changes, **settings)
    assert isinstance(found, tuple)
    assert issubclass(found[0], InvalidEvent)


@pytest.mark.parametrize("length", range(300, 420))
def test_an_event_is_too_large_for_one_call_if_it_is_for_the_other(length: int) -> None:
    changes = [*GOOD, Change("t", {"id": 1}, {"v": "é" * (length // 2)})]
    assert at_once(changes, max_event_bytes=700) == one_by_one(changes, max_event_bytes=700)


def test_large_events_are_told_before_bad_ones_behind_them() -> None:
    found = at_once([*GOOD, Change("t", {"id": 1}, {"v": "x" * 2000}), Change("t")], max_event_bytes=1000)
    assert isinstance(found, tuple)
    assert found[0] is EventTooLarge


@pytest.mark.parametrize(
    "changes",
    [
        GOOD,
        [Change("t", {"id": number}, add={"n": 1}) for number in range(5)],
        [
            Change("t", {"a": 1, "b": "x y"}, {"at": NOW, "price": Decimal(number), "tags": ["a"]})
            for number in range(5)
        ],
        [Change("t", {"id": NOW}, max={"at": NOW}, min={"n": 0.5}), Change("u", {"k": "ä"}, delete=True)],
        [Change("log", insert={"at": NOW}), Change('"t"', {"id": 1}), Change("log", insert={})],
    ],
)
def test_what_nearly_all_changes_are_is_sealed_at_once(changes: list[Change]) -> None:
    assert seal_all(changes) is not None


def test_changes_are_left_as_they_are() -> None:
    changes = [Change('"t"', {"id": Size.SMALL}, {"at": NOW, "v": [NOW]}), Change("log", insert={"at": NOW})]
    before = repr(changes)
    events = encoder().encode_each(changes)
    assert repr(changes) == before
    assert all(isinstance(event, Encoded) for event in events)


@pytest.mark.parametrize("bad", BAD, ids=[str(number) for number in range(len(BAD))])
def test_a_bad_one_is_told_where_every_table_and_size_is_allowed(bad: Any) -> None:
    assert at_once([*GOOD, bad]) == one_by_one([*GOOD, bad])


@pytest.mark.parametrize("key", [{"sku": Masked("A1")}, {"user_id": 3, "sku": Masked("A1")}])
def test_a_key_is_what_it_is_and_not_what_it_shows_itself_as(key: dict[str, Any]) -> None:
    changes = [Change("carts", key), Change("carts", key, delete=True)]
    assert at_once(changes) == one_by_one(changes)
