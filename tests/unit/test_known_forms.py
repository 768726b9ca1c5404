"""What a decoder remembers of the forms of changes makes it faster, and changes nothing that it says."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from pipeline.core.change import Change, Event
from pipeline.core.codec import Malformed, decode
from pipeline.core.decoding import Decoder
from tests.unit.calling import calls_of
from tests.unit.messages import TASK, message, numbered

MANY = 64
"""Changes that are worth to be remembered."""

MOST_TABLES = 64
"""Tables of which a form is remembered."""

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


ENVELOPE = json.loads(message("id", [Change("t", {"id": 1})]))


def saying(body: str, number: int = 1) -> bytes:
    """A message with these arguments, as they are."""
    headers = {**ENVELOPE["headers"], "id": f"id-{number}", "pipeline": [number, 5]}
    return msgspec.json.encode({**ENVELOPE, "headers": headers, "body": f"[[],{body},{{}}]"})


def assert_same(decoder: Decoder, messages: Sequence[bytes]) -> None:
    """``decoder`` says of ``messages`` what each of them is alone, and blocks say of themselves what is in them."""
    entries = decoder.decode(messages)
    alone = [decode(raw, TASK) for raw in messages]
    assert list(map(said, entries)) == list(map(said, alone))
    for block, positions in entries.blocks:
        assert list(positions) == sorted(positions)
        names: Sequence[str | None] = block.names or [None] * block.size
        events = [event for event in (alone[at] for at in positions) if isinstance(event, Event)]
        assert [event.identities for event in events] == [(name,) for name in names]
        for values, types in zip(block.columns, block.kinds, strict=True):
            assert set(map(type, values)) <= types


def said(entry: Event | Malformed) -> str:
    """By its text: 1 is not True there, nor 1.0. The columns of a change are in no order."""
    if isinstance(entry, Malformed):
        return repr(entry)
    changes = [
        [
            sorted((name, repr(value)) for name, value in part.items()) if isinstance(part, dict) else part
            for part in parts
        ]
        for parts in map(astuple, entry.changes)
    ]
    return repr((changes, msgspec.structs.replace(entry, changes=())))


# --- any batch after any others

VALUES = [
    *("null", "true", "1", "-0", "1.0", "1e2", "0.1", str(2**63 - 1), str(2**63), str(-(2**63)), str(2**80)),
    *('"x"', '""', '"1"', r'"a\\\"b=&:%"', r'"\u0000"', "[1]", "[]", '{"a":1}', "{}", "1" * 4400),
    '{"__type__":"datetime","__value__":"2026-11-22T12:00:00+00:00"}',
    '{"__type__":"datetime","__value__":"2026-11-22T12:00:00"}',
    '{"__type__":"datetime","__value__":"noon"}',
    '{"__type__":"datetime","__value__":7}',
    '{"__type__":"datetime","__value__":"2026-11-22T12:00:00+00:00","more":1}',
    '{"__value__":"2026-11-22T12:00:00+00:00","__type__":"datetime"}',
    '{"__type__":"date","__type__":"datetime","__value__":1,"__value__":"2026-11-22"}',
    '{"__type__":"datetime","__type__":"date","__value__":"2026-11-22"}',
    '{"__type__":"date","__value__":"2026-11-22T00:00:00"}',
    '{"__type__":"time","__value__":"12:00:00"}',
    '{"__type__":"timedelta","__value__":1500000}',
    '{"__type__":"timedelta","__value__":1.0}',
    '{"__type__":"timedelta","__value__":99999999999999999999}',
    '{"__type__":"decimal","__value__":"1.10"}',
    '{"__type__":"decimal","__value__":"NaN"}',
    '{"__type__":"uuid","__value__":{"hex":"00000000000000000000000000000001"}}',
    '{"__type__":"base64","__value__":"/w=="}',
    '{"__type__":"bytes","__value__":"x"}',
    '{"__type__":"other","__value__":"x"}',
]  # fmt: skip
OFTEN: list[str] = [
    '"x"',
    "1",
    "null",
    VALUES[VALUES.index("true")],
    *(value for value in VALUES if '"__type__":"date' in value),
]

FORMS = [
    '"table":"t","key":{"id":%s},"set":{"a":%s}',
    '"set":{"a":%s},"key":{"id":%s},"table":"t"',
    '"table":"t","key":{"id":%s},"set":{"a":%s,"b":1}',
    '"table":"t","key":{"id":%s},"set":{"b":1,"a":%s}',
    '"table":"t","key":{"id":%s},"add":{"a":%s}',
    '"table":"t","key":{"id":%s},"max":{"a":%s}',
    '"table":"t","key":{"id":%s,"a":%s}',
    '"table":"t","key":{"a":%s,"id":%s},"set":{}',
    '"table":"t","key":{"id":%s},"set":{"a":%s},"max":{},"min":{},"add":{}',
    '"table":"t","key":{"id":%s},"set":{"a":%s},"max":null,"insert":null',
    '"table":"t","key":{"id":%s},"set":{"a":%s},"delete":false',
    '"table":"t","key":{"id":%s,"a":%s},"delete":true',
    '"table":"t","key":{"id":0,"id":%s},"set":{"a":0,"a":%s}',
    '"table":"t","key":{"id":%s},"set":{"b":0},"set":{"a":%s}',
    '"table":"t","key":{"id":%s},"set":{"a":%s},"table":"u"',
    '"table":"u","key":{"id":%s},"set":{"a":%s},"table":"t"',
    '"key":{"id":%s},"set":{"a":%s}',
    r'"table":"t","key":{"\u0069d":%s},"s\u0065t":{"\u0061":%s}',
    r'"t\u0061ble":"\u0074","key":{"id":%s},"set":{"a":%s}',
    r'"table":"t\u0000","key":{"id":%s},"set":{"a":%s}',
    r'"table":"t","key":{"id":%s},"set":{"a\u0000":%s}',
    '"table":"","key":{"id":%s},"set":{"a":%s}',
    '"table":null,"key":{"id":%s},"set":{"a":%s}',
    '"table":"u","key":{"id":%s},"set":{"a":%s}',
    '"table":"\\"t\\"","key":{"id":%s},"set":{"a":%s}',
    '"table":"t","insert":{"id":%s,"a":%s}',
    '"table":"t","insert":{"id":%s,"a":%s},"key":{}',
    '"table":"t","key":{"id":%s},"set":{"a":%s},"shard_by":"x"',
]

values = st.sampled_from(OFTEN) | st.sampled_from(VALUES)
spoken = st.tuples(
    st.sampled_from(FORMS[:4]) | st.sampled_from(FORMS),
    st.sampled_from(["1", '"x"']) | values,
    st.lists(values, min_size=1, max_size=3),
    st.sampled_from([1, 4, 33, 40]),
)
batches = st.lists(spoken, min_size=1, max_size=4)


def batch_of(drawn: Sequence[tuple[str, str, Sequence[str], int]], *, mixed: bool) -> list[bytes]:
    """Runs of messages; ``mixed``: of each run one after the other."""
    runs = [
        ["{" + form % (key, operands[n % len(operands)]) + "}" for n in range(often)]
        for form, key, operands, often in drawn
    ]
    if mixed:
        longest = max(map(len, runs))
        runs = [[run[n] for run in runs if n < len(run)] for n in range(longest)]
    return [saying(body, number) for number, body in enumerate((body for run in runs for body in run), 1)]


@given(st.lists(batches, max_size=3), batches, st.booleans())
def test_a_batch_is_what_its_messages_are_alone_whatever_was_seen_before(
    seen: list[Any],
    drawn: Any,
    mixed: bool,  # noqa: FBT001
) -> None:
    decoder = Decoder(TASK)
    for before in seen:
        decoder.decode(batch_of(before, mixed=mixed))
    assert_same(decoder, batch_of(drawn, mixed=mixed))


@pytest.mark.parametrize("known", [FORMS[0], FORMS[6], *(form for form in FORMS if "true" in form or "insert" in form)])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_looks_like_a_known_one_is_what_it_is_alone(known: str, form: str) -> None:
    decoder = Decoder(TASK)
    assert_same(decoder, [saying("{" + known % (n, n) + "}", n) for n in range(1, MANY)])
    body = "{" + form % (1, 2) + "}"
    for size in (1, 4, 40):
        assert_same(decoder, [saying(body, n) for n in range(1, size + 1)])
        mixed = [body if n % 9 == 5 else "{" + known % (n, n) + "}" for n in range(size)]
        assert_same(decoder, [saying(each, n) for n, each in enumerate(mixed, 1)])


KINDS: dict[str, Callable[[int], Any]] = {
    "int": lambda n: n,
    "bool": lambda n: n % 2 == 0,
    "float": lambda n: n / 2,
    "str": lambda n: f"x{n}",
    "nothing": lambda _: None,
    "int or nothing": lambda n: n if n % 2 else None,
    "str or nothing": lambda n: f"x{n}" if n % 2 else None,
    "datetime or nothing": lambda n: NOON if n % 2 else None,
    "int or str": lambda n: n if n % 2 else f"x{n}",
    "datetime": lambda n: NOON + timedelta(minutes=n),
    "date": lambda n: date(2026, 11, 1 + n % 28),
    "time": lambda n: time(n % 24),
    "timedelta": lambda n: timedelta(seconds=n),
    "Decimal": lambda n: Decimal(n) / 8,
    "UUID": lambda n: UUID(int=n),
    "bytes": lambda n: b"%d\xff" % n,
    "list": lambda n: [n],
    "dict": lambda n: {"n": n},
}


def of_kind(kind: str, form: Callable[[int, Any], Change], size: int = MANY) -> list[bytes]:
    return numbered([[form(n, KINDS[kind](n))] for n in range(size)])


IN: dict[str, Callable[[int, Any], Change]] = {
    "set": lambda n, value: Change("t", {"id": n}, {"a": value}),
    "insert": lambda n, value: Change("t", insert={"n": n, "a": value}),
}


@pytest.mark.parametrize("part", IN)
@pytest.mark.parametrize("first", KINDS)
def test_values_of_any_type_may_follow_on_values_of_any_other(first: str, part: str) -> None:
    for second in KINDS:
        decoder = Decoder(TASK)
        for kind in (first, second, second, first):
            assert_same(decoder, of_kind(kind, IN[part], 36))


@pytest.mark.parametrize("odd", VALUES, ids=lambda odd: odd[:60])
@pytest.mark.parametrize("kind", ['"x"', "1", "true", "0.5", "null", *OFTEN[4:6]], ids=lambda kind: kind[:60])
def test_one_odd_value_among_known_ones_is_what_it_is_alone(kind: str, odd: str) -> None:
    known = ["{" + FORMS[0] % (n, kind) + "}" for n in range(40)]
    decoder = Decoder(TASK)
    decoder.decode([saying(body, n) for n, body in enumerate(known, 1)])
    for wrong in (FORMS[0] % (1, odd), FORMS[0] % (odd, kind)):
        bodies = [*known[:9], "{" + wrong + "}", *known[9:20]]
        assert_same(decoder, [saying(body, n) for n, body in enumerate(bodies, 1)])


KEYS = ["int", "bool", "str", "datetime", "date", "time", "Decimal", "UUID", "bytes", "int or str"]


@pytest.mark.parametrize("first", KEYS)
def test_keys_of_any_type_may_follow_on_keys_of_any_other(first: str) -> None:
    for second in KEYS:
        decoder = Decoder(TASK)
        for kind in (first, second, first):
            assert_same(decoder, of_kind(kind, lambda n, value: Change("t", {"id": value, "n": n}, {"a": 1}), 36))


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**4000])
def test_a_key_may_be_larger_than_all_before(number: int) -> None:
    decoder = Decoder(TASK)
    for start in (0, number - 5, 0):
        assert_same(decoder, numbered([[Change("t", {"id": start + n, "x": "a"})] for n in range(10)] * 4))


# --- names and sizes

ODD_NAMES = [
    *("__type__", "__value__", "__class__", "__slots__", "table", "key", "set", "insert", "tag", "self"),
    *("c0", "c1", "größe", 'a"b', "a\\b", "a.b", "a b", " ", "\n", "'", "%s", "None", "\x7f", "\u2028", "ü" * 31),
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_column_may_have_any_name(name: str) -> None:
    forms: list[Callable[[int], Change]] = [
        lambda n: Change("t", {name: n}, {"a": n}),
        lambda n: Change("t", {"id": n}, {name: n, "c0": NOON}),
        lambda n: Change("t", {"id": n}, {"a": {name: n}, "b": {"__type__": n, "a": 1}}),
        lambda n: Change("t", {"id": n}, add={"c1": n, name + "2": n}, max={"c2": "x"}),
        lambda n: Change("t", insert={"c1": n, name + "2": None}),
    ]
    for form in forms:
        decoder = Decoder(TASK)
        for _ in range(2):
            assert_same(decoder, numbered([[form(n)] for n in range(MANY)]))


def test_a_form_of_all_columns_that_look_like_ours_is_a_form() -> None:
    columns = {name: n for n, name in enumerate(ODD_NAMES) if name not in {'a"b', "a\\b", "\n"}}
    decoder = Decoder(TASK)
    for _ in range(2):
        assert_same(decoder, numbered([[Change("t", {"id": n}, columns)] for n in range(MANY)]))
    assert fast(decoder, numbered([[Change("t", {"id": 1}, columns)]] * 256))


@pytest.mark.parametrize("size", [199, 200, 201, 1600])
def test_a_form_may_have_as_many_columns_as_a_table(size: int) -> None:
    def change(n: int) -> Change:
        return Change("t", {"id": n}, {f"column_{at}": at + n for at in range(size - 1)})

    decoder = Decoder(TASK)
    for _ in range(2):
        assert_same(decoder, numbered([[change(n)] for n in range(40)]))


@pytest.mark.parametrize("table", ['"Order"', 'shop."a""b"', '"two words"', "größe", '"__type__"', '"\n"', "x" * 63])
def test_a_table_may_have_any_name(table: str) -> None:
    decoder = Decoder(TASK)
    for _ in range(3):
        assert_same(decoder, numbered([[Change(table, {"id": n}, {"a": n})] for n in range(MANY)]))


# --- what is remembered


def counting(table: str, start: int = 0, size: int = MANY, **values: Any) -> list[list[Change]]:
    return [[Change(table, {"id": start + n}, values or {"a": n})] for n in range(size)]


def fast(decoder: Decoder, messages: Sequence[bytes]) -> bool:
    """Whether ``messages`` are of known forms: then no function is called for each of them."""
    return calls_of(lambda: decoder.decode(messages)) < len(messages)


def test_a_form_that_drifts_is_known_anew() -> None:
    """What is of a new form costs a look at each, and the next time no more."""
    decoder = Decoder(TASK)
    drift: list[dict[str, Any]] = [{"a": 1}, {"a": 1, "b": "x"}, {"b": "x"}, {"b": None}, {"b": NOON}, {"a": 1.5}]
    decoder.decode(numbered(counting("t", size=256, first=True)))
    for columns in drift:
        messages = numbered(counting("t", size=256, **columns))
        assert [fast(decoder, messages) for _ in range(3)] == [False, True, True]


def test_types_that_take_turns_are_known_together() -> None:
    decoder = Decoder(TASK)
    turns = [numbered(counting("t", size=256, a=value)) for value in (1, None, "x")]
    for messages in turns:
        decoder.decode(messages)
    assert all(fast(decoder, messages) for messages in turns * 2)


STRANGE: dict[str, Callable[[int], bytes]] = {
    "large numbers in keys": lambda n: numbered([[Change("t", {"id": 2**70 + n}, {"a": 1})]])[0],
    "a needless part": lambda n: saying(f'{{"table":"t","key":{{"id":{n}}},"set":{{"a":1}},"max":{{}}}}'),
    "a needless word": lambda n: saying(f'{{"table":"t","key":{{"id":{n}}},"set":{{"a":1}},"delete":false}}'),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_stays_strange_is_not_learned_again_and_again(kind: str) -> None:
    """A form costs more to remember than a batch of a thousand costs to decode, if it has many columns."""
    decoder = Decoder(TASK)
    decoder.decode(numbered(counting("t", a=1)))
    before = types_made()
    messages = [STRANGE[kind](n) for n in range(MANY)]
    for _ in range(3):
        decoder.decode(messages)
    assert types_made() == before


def types_made() -> int:
    """Types that were made for forms and are still there."""
    return len([kind for kind in msgspec.Struct.__subclasses__() if kind.__module__ == "pipeline.core.forms"])


def test_a_stranger_with_thousands_of_tables_costs_no_memory() -> None:
    decoder = Decoder(TASK)
    names = (f"t{n}" for n in count())
    messages: list[bytes] = []
    for tables in (10, 60, 200, 1, 63, 65, 64):
        messages = numbered([change for _ in range(tables) for change in counting(next(names), size=40)])
        for _ in range(2):
            assert_same(decoder, messages)
            assert len(decoder._memory.known) <= MOST_TABLES
    assert fast(decoder, messages[-80:])


def test_tables_that_are_known_stay_known_when_one_of_them_drifts() -> None:
    decoder = Decoder(TASK)
    tables = [f"t{n}" for n in range(MOST_TABLES)]
    whole = numbered([change for table in tables for change in counting(table, size=40)])
    decoder.decode(whole)
    decoder.decode(numbered(counting(tables[0], b="x")))
    assert fast(decoder, whole[40:])


def test_threads_share_a_decoder() -> None:
    decoder = Decoder(TASK)
    kinds: list[list[dict[str, Any]]] = [
        [{"a": 1}, {"a": None}],
        [{"a": "x", "b": NOON}, {"b": 1.5}],
        [{"a": True}, {"a": 2**70}],
    ]
    wrong: list[BaseException] = []
    start = threading.Barrier(len(kinds))

    def work(forms: Iterator[dict[str, Any]]) -> None:
        try:
            start.wait()
            for columns in forms:
                assert_same(decoder, numbered(counting("t", **columns)))
                assert_same(decoder, numbered(counting("u", **columns)))
        except BaseException as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=partial(work, iter(forms * 10))) for forms in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
