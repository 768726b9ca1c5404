"""Many messages are decoded together, and what comes out is what would come out of each of them alone."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Change, Event
from pipeline.core.codec import Malformed, decode
from pipeline.core.decoding import Decoder
from pipeline.core.values import column_from_wire, from_wire, identities, identity, to_wire
from pipeline.errors import InvalidEvent
from scripts.fuzzing.mutants import Mutants
from tests.unit import strategies
from tests.unit.broken_messages import BODIES, DEEP, EIGHT, ENVELOPES, stock
from tests.unit.calling import calls_of
from tests.unit.messages import TASK, message

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BROKEN = {kind: raw for kind, (raw, _) in (EIGHT | ENVELOPES | BODIES).items() if len(raw) < 10 * DEEP}
BATCH = 530
"""Messages of which not all are decoded together."""


def one_by_one(messages: Sequence[bytes]) -> list[Event | Malformed]:
    return [decode(raw, TASK) for raw in messages]


def assert_same(messages: Sequence[bytes]) -> None:
    """By their texts: 1 is not True there, nor 1.0, and a moment has its zone. What was seen before does not matter."""
    decoder, alone = Decoder(TASK), list(map(repr, one_by_one(messages)))
    for _ in range(2):
        assert list(map(repr, decoder.decode(messages))) == alone


def flight(n: int) -> Change:
    return Change(
        "flight",
        {"year": 2013, "carrier": ("UA", "9E", "ü %")[n % 3], "flight": n},
        set={"tail": f"N{n}" if n % 7 else None, "at": NOON + timedelta(minutes=n), "late": n * 0.5, "big": n % 5 == 0},
        add={"seats": 1 if n % 2 else 1.5},
        max={"left": NOON - timedelta(minutes=n)},
    )


ALIKE: dict[str, Callable[[int], Change]] = {
    "counter": lambda n: Change("page_views", {"page_id": n}, add={"views": 1}),
    "flight": flight,
    "insert": lambda n: Change("log", insert={"actor": f"user-{n}", "at": NOON, "größe": Decimal(n) / 8}),
    "nothing but a key": lambda n: Change('shop."Order"', {"id": UUID(int=n)}),
    "delete": lambda n: Change("carts", {"sku": f"A{n}", "day": date(2026, 11, 1 + n % 28)}, delete=True),
    "now and then": lambda n: Change("t", {"id": n}, {"at": None if n % 2 else NOON, "why": {"n": n} if n % 3 else 7}),
}  # fmt: skip


def batch(change: Callable[[int], Change], size: int = BATCH) -> list[bytes]:
    return list(_batch(change, size))


@cache
def _batch(change: Callable[[int], Change], size: int) -> Sequence[bytes]:
    return [message(f"id-{n}", [change(n)], accepted=(n + 1, 1_700_000_000_000 + n)) for n in range(size)]


@pytest.mark.parametrize("kind", ALIKE)
def test_a_batch_of_events_that_are_alike_is_what_each_of_them_is_alone(kind: str) -> None:
    assert_same(batch(ALIKE[kind]))


def test_a_batch_of_events_of_all_kinds_is_what_each_of_them_is_alone() -> None:
    batches = [batch(change) for change in ALIKE.values()]
    assert_same([raw for together in zip(*batches, strict=True) for raw in together])


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_message_is_malformed_wherever_it_stands_and_harms_no_neighbour(kind: str, place: int) -> None:
    messages = batch(flight, 9)
    whole = list(Decoder(TASK).decode(messages))
    messages[place] = BROKEN[kind]
    found = list(Decoder(TASK).decode(messages))
    assert isinstance(found[place], Malformed)
    assert repr(found[place]) == repr(decode(BROKEN[kind], TASK))
    whole[place] = found[place]
    assert found == whole


def test_broken_messages_all_over_a_batch_harm_none_that_is_whole() -> None:
    messages = batch(flight)
    for place, raw in zip(range(0, BATCH, 7), BROKEN.values(), strict=False):
        messages[place] = messages[511 - place] = raw
    assert_same(messages)


def altered(raw: bytes, **kwargs: Any) -> bytes:
    envelope = json.loads(raw)
    args, found, embed = json.loads(envelope["body"])
    return json.dumps({**envelope, "body": json.dumps([args, found | kwargs, embed])}).encode()


def tagged(name: object, payload: object) -> dict[str, object]:
    return {"__type__": name, "__value__": payload}


ODD: dict[str, dict[str, Any]] = {
    "a table in needless quotes": {"table": '"page_views"'},
    "two tables": {"table": "other"},
    "no key": {"key": {}},
    "a key of another column": {"key": {"id": 1}},
    "a key of two columns": {"key": {"page_id": 1, "b=&:%": "x=&:%"}},
    "a key that is null": {"key": {"page_id": None}},
    "a key that is true": {"key": {"page_id": True}},
    "a key that is a float": {"key": {"page_id": 1.0}},
    "a key that is text": {"key": {"page_id": "1"}},
    "a key that is empty": {"key": {"page_id": ""}},
    "a key with a NUL": {"key": {"page_id": "\x00"}},
    "a key that is a moment": {"key": {"page_id": tagged("datetime", "2026-11-22T12:00:00+02:00")}},
    "a key that is too long": {"key": {"page_id": "x" * 5000}},
    "a key that is a large number": {"key": {"page_id": 2**70}},
    "a key that is a huge number": {"key": {"page_id": 10**4250}},
    "a column that comes twice": {"set": {"views": 2}},
    "a column without a name": {"set": {"": 1}},
    "a column with a long name": {"set": {"ü" * 32: 1}},
    "an increment that is text": {"add": {"views": "1"}},
    "an increment that is true": {"add": {"views": True}},
    "an increment that is null": {"add": {"views": None}},
    "an increment that is a Decimal": {"add": {"views": tagged("decimal", "1.10")}},
    "an increment that is not finite": {"add": {"views": tagged("decimal", "NaN")}},
    "an increment that is a moment": {"add": {"views": tagged("datetime", "2026-11-22")}},
    "a greatest that is null": {"max": {"last": None}},
    "a least that is a list": {"min": {"last": [1]}},
    "a greatest that is a dict": {"max": {"last": {"a": 1}}},
    "a value of another type": {"set": {"at": tagged("set", [])}},
    "a value of a type that is none": {"set": {"at": tagged([], [])}},
    "a value that is ill-formed": {"set": {"at": tagged("datetime", "noon")}},
    "a value whose payload is of another form": {"set": {"at": tagged("datetime", 7)}},
    "a value with more than a tag": {"set": {"at": {**tagged("date", "2026-11-22"), "x": 1}}},
    "a value of two columns, none a tag": {"set": {"at": {"__type__": "datetime", "value": 1}}},
    "a value that nests": {"set": {"at": [tagged("uuid", {"hex": "0" * 32})]}},
    "a delete that sets": {"delete": True},
    "an insert with a key": {"insert": {"a": 1}},
    "an insert of nothing, with a key": {"insert": {}},
    "arguments that are null": {"set": None, "max": None, "delete": None},
    "a lane": {"shard_by": "x"},
    "an unknown argument": {"bogus": 1},
    "changes": {"changes": [{"table": "t", "key": {"id": 1}}]},
}


@pytest.mark.parametrize("others", [0, 3, 40])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_event_is_what_it_is_alone(kind: str, others: int) -> None:
    messages = batch(ALIKE["counter"], others + 1)
    messages[others // 2] = altered(messages[others // 2], **ODD[kind])
    assert_same(messages)
    assert_same([altered(raw, **ODD[kind]) for raw in messages])


ODD_HEADERS: dict[str, dict[str, Any]] = {
    "another task": {"task": "other"},
    "an empty id": {"id": ""},
    "an id of 200 characters": {"id": "ü" * 200},
    "an id of 201 characters": {"id": "ü" * 201},
    "an id that is not printable": {"id": "a\nb"},
    "no number": {"pipeline": None},
    "a number that is none": {"pipeline": [-1, 5]},
    "a number too many": {"pipeline": [1, 2, 3]},
    "refused": {"refused": "because"},
    "refused without a reason": {"refused": ""},
    "compressed": {"compression": "gzip"},
    "not compressed": {"compression": ""},
}
ODD_PARTS: dict[str, dict[str, Any]] = {
    "an encoding of another name": {"content-encoding": "UTF-8"},
    "no encoding": {"content-encoding": None},
    "an encoding that is none": {"content-encoding": "utf-16"},
    "another content type": {"content-type": "text/plain"},
    "a body in base64": {"body": "W10=", "properties": {"delivery_tag": "x", "body_encoding": "base64"}},
    "a body that is not in base64": {"properties": {"delivery_tag": "x", "body_encoding": "base64"}},
    "a body encoded by name": {"properties": {"delivery_tag": "x", "body_encoding": "utf-8"}},
    "arguments by position": {"body": '[[1],{"table":"t","key":{"id":1}},{}]'},
    "nothing behind the task": {"body": '[[],{"table":"t","key":{"id":1}},null]'},
    "another message for a body": {"body": "[[],{},{}]"},
    "a value that comes twice": {
        "body": '[[],{"table":"t","key":{"id":1,"id":2},"set":{"a":{"__type__":"date","__value__":1,"__type__":"bytes",'
        '"__value__":"x"}},"table":"page_views","set":{}},{}]'
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ODD_HEADERS, *ODD_PARTS])
def test_an_odd_message_is_what_it_is_alone(kind: str) -> None:
    messages = batch(ALIKE["counter"], 9)
    envelope = json.loads(messages[4])
    envelope["headers"] |= ODD_HEADERS.get(kind, {})
    messages[4] = json.dumps(envelope | ODD_PARTS.get(kind, {})).encode()
    assert_same(messages)
    assert_same([messages[4]] * 9)


def test_halves_of_a_message_do_not_complete_each_other() -> None:
    raw = batch(ALIKE["counter"], 1)[0]
    for cut in range(1, len(raw)):
        found = Decoder(TASK).decode([raw, raw[:cut], raw[cut:], raw])
        assert [type(entry) for entry in found] == [Event, Malformed, Malformed, Event]


def test_nothing_is_nothing() -> None:
    assert list(Decoder(TASK).decode([])) == []


@given(st.lists(st.tuples(strategies.changes, st.integers(1, 6)), max_size=4), st.integers(0, 2**32), st.data())
def test_any_batch_is_what_its_messages_are_alone(
    kinds: list[tuple[Change, int]], seed: int, data: st.DataObject
) -> None:
    whole = [message(f"id-{n}", [change]) for n, (change, often) in enumerate(kinds) for _ in range(often)]
    whole += batch(flight, 6)
    mutants = Mutants(whole, seed)
    broken = [mutants.next() for _ in range(data.draw(st.integers(0, 6)))]
    assert_same(data.draw(st.permutations([*whole, *broken, stock_message()])))


def stock_message() -> bytes:
    return json.dumps(stock()).encode()


def outcome(decode: Callable[[], Any]) -> str:
    try:
        return repr(decode())
    except InvalidEvent:
        return "refused"


@given(st.lists(strategies.scalars | strategies.values, max_size=6), st.booleans())
def test_the_values_of_a_column_are_what_each_of_them_is_alone(values: list[Any], nothing: bool) -> None:  # noqa: FBT001
    wire = [to_wire(value) for value in values] + [None] * nothing
    found, kinds = column_from_wire(wire)
    assert repr(list(found)) == repr([from_wire(value) for value in wire])
    assert kinds == set(map(type, found))


KEYS = st.lists(strategies.key_values, min_size=4, max_size=4) | st.lists(strategies.scalars, min_size=4, max_size=4)
NAMES = st.sampled_from(["id", "at", "user_id", "a&b=c:d%e", "größe", "%s"])


@given(st.dictionaries(NAMES, KEYS, min_size=1))
def test_the_identities_of_many_keys_are_those_of_each(key: dict[str, list[Any]]) -> None:
    rows = [dict(zip(key, row, strict=True)) for row in zip(*key.values(), strict=True)]
    assert outcome(lambda: identities(key)) == outcome(lambda: [identity(row) for row in rows])


def test_a_number_too_long_for_a_key_is_refused_among_others() -> None:
    with pytest.raises(InvalidEvent):
        identities({"id": [1, 10**4250, 3]})


# --- what it costs


def calls(messages: Sequence[bytes]) -> int:
    """How often a Python function is called to decode ``messages``."""
    return calls_of(lambda: Decoder(TASK).decode(messages))


@pytest.mark.parametrize("kind", ["counter", "insert"])
def test_what_is_alike_is_looked_at_together(kind: str) -> None:
    assert calls(batch(ALIKE[kind], 2048)) < 2048 / 4


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_event_makes_few_others_be_looked_at_alone(kind: str) -> None:
    messages = batch(ALIKE["counter"], 1024)
    messages[700] = altered(messages[700], **ODD[kind])
    assert calls(messages) < 2 * 1024


def test_what_is_never_alike_costs_no_more_than_twice_what_it_costs_alone() -> None:
    messages = [message(f"id-{n}", [Change("t", {"id": n}, {f"column_{n}": n})]) for n in range(1024)]
    assert calls(messages) < 2 * calls_of(lambda: one_by_one(messages))
