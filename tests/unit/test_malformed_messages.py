"""Whatever lies in a queue is decoded to an event or to a `Malformed`: nothing raises, and nothing is lost."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Change, Event, seal
from pipeline.core.codec import OPEN_END, Envelope, Malformed, accepted_ms, accepted_seq, decode, malformed_kwargs
from tests.unit.messages import QUEUE, TASK, message
from tests.unit.strategies import changes

GOOD: dict[str, Any] = json.loads(message("an-id", [Change("t", {"id": 1}, {"a": 1})]))
TAG = {"delivery_tag": "a-tag"}
CHANGE = {"table": "t", "key": {"id": 1}}


def with_body(body: object) -> bytes:
    """A message with this body: text as it is, anything else as JSON."""
    return json.dumps({**GOOD, "body": body if isinstance(body, str) else json.dumps(body)}).encode()


def with_kwargs(kwargs: object) -> bytes:
    return with_body([[], kwargs, {}])


def without(*path: str) -> bytes:
    envelope = json.loads(json.dumps(GOOD))
    inner = envelope
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(envelope).encode()


def changed(part: str, **fields: object) -> bytes:
    return json.dumps({**GOOD, part: {**GOOD[part], **fields}}).encode()


def malformed(raw: bytes) -> Malformed:
    found = decode(raw, TASK)
    assert isinstance(found, Malformed)
    assert found.raw == raw
    return found


# --- a message that is none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"nonsense",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"NaN",
        b'{"body":"\\ud800","headers":{"id":"a"}}',
        b'{"body":"","headers":[]}',
        b'{"body":"","headers":{"id":7}}',
        b'{"body":{},"headers":{"id":"a"}}',
        b"[" * 100_000,
        b'{"body":' * 100_000,
        without("body"),
        without("headers"),
        without("headers", "id"),
        without("properties"),
        without("properties", "delivery_tag"),
        json.dumps(GOOD).encode()[:-1],
        json.dumps(GOOD).encode() + b"x",
        json.dumps(GOOD).encode("utf-16"),
    ],
)
def test_what_is_no_celery_message_has_a_reason_and_no_id(raw: bytes) -> None:
    found = malformed(raw)
    assert found.id is None
    assert "not a Celery message" in found.reason or "nested too deeply" in found.reason
    assert (accepted_ms(raw), accepted_seq(raw)) == (None, None)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (without("headers", "task"), "a message of the task ''"),
        (changed("headers", task="other.task"), "a message of the task 'other.task', not 'pipeline.apply_event'"),
        (without("content-type"), "content type None"),
        (json.dumps({**GOOD, "content-type": "application/x-yaml"}).encode(), "content type 'application/x-yaml'"),
        (json.dumps({**GOOD, "content-encoding": "utf-16"}).encode(), "encoding 'utf-16'"),
        (changed("headers", compression="application/x-gzip"), "compressed with 'application/x-gzip'"),
        (changed("properties", body_encoding="rot13"), "encoded as 'rot13'"),
        (changed("properties", body_encoding="base64"), "not a Celery message"),
        (
            json.dumps({**GOOD, "properties": {**TAG, "body_encoding": "base64"}, "body": "é"}).encode(),
            "not a Celery message",
        ),
        (
            json.dumps({**GOOD, "properties": {**TAG, "body_encoding": "base64"}, "body": "/w=="}).encode(),
            "not a Celery",
        ),
        (changed("headers", id=""), "event id"),
        (changed("headers", id="x" * 201), "event id"),
        (changed("headers", id="\x00"), "event id"),
    ],
)
def test_a_message_of_another_kind_is_kept_under_its_id(raw: bytes, reason: str) -> None:
    found = malformed(raw)
    assert reason in found.reason
    assert found.id == json.loads(raw)["headers"]["id"]


@pytest.mark.parametrize("accepted", [[1], [1, 2, 3], ["1", 2], [-1, 2], [1.5, 2], [2**60, 1], [1, 10**18], {}, "1"])
def test_a_number_that_redis_never_gave_makes_no_event(accepted: object) -> None:
    # milliseconds beyond the calendar of PostgreSQL would fail where the dead letter is written, again and again
    malformed(changed("headers", pipeline=accepted))


# --- a body that is none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        '[[],{"table":"\\ud800","key":{"id":1}},{}]',
        [],
        {},
        None,
        [[], CHANGE],
        [[], CHANGE, {}, {}],
        [{}, CHANGE, {}],
        [[], [], {}],
        "[" * 100_000,
        '[[],{"table":"t","key":{"id":1},"set":{"a":' + "[" * 100_000,
        '[[],{"table":"t","key":{"id":1},"set":{"a":NaN}},{}]',
        '[[],{"table":"t","key":{"id":1},"set":{"a":1e999}},{}]',
        '[[],{"table":"t","key":{"id":1},"set":{"a":' + "9" * 5000 + "}},{}]",
    ],
)
def test_a_body_that_is_no_body_is_kept_under_its_id(body: object) -> None:
    assert malformed(with_body(body)).id == "an-id"


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({}, "not a table name"),
        ({"table": 7, "key": {"id": 1}}, "Expected `str`"),
        ({"table": "T", "key": {"id": 1}}, "not a table name"),
        ({"table": "t"}, "a key is needed"),
        ({**CHANGE, "key": []}, "Expected `object`"),
        ({**CHANGE, "set": 7}, "Expected `object`"),
        ({"table": None, "key": {"id": 1}}, "not a table name"),
        ({**CHANGE, "delete": 1}, "Expected `bool`"),
        ({**CHANGE, "surprise": 1}, "surprise"),
        ({**CHANGE, "shard_by": 7}, "Expected `str | null`"),
        ({**CHANGE, "set": {"id": 1}}, "t.id: the column appears twice"),
        ({**CHANGE, "set": {"a": "\x00"}}, "NUL"),
        ({**CHANGE, "set": {"": 1}}, "column name"),
        ({**CHANGE, "set": {"a\x00": 1}}, "column name"),
        ({**CHANGE, "add": {"a": "1"}}, "t.a: an increment must be a number"),
        ({**CHANGE, "set": {"a": {"__type__": "set", "__value__": 1}}}, "unknown type 'set'"),
        ({**CHANGE, "set": {"a": {"__type__": "decimal", "__value__": "x"}}}, "ill-formed decimal"),
        ({"table": "t", "key": {"id": None}}, "t.id: NULL cannot identify a row"),
        ({"table": "t", "key": {"id": {"__type__": "timedelta", "__value__": 10**30}}}, "ill-formed timedelta"),
        ({"changes": []}, "no change"),
        ({"changes": [], "table": "t"}, "cannot be mixed"),
        ({"changes": [CHANGE], "key": {"id": 1}}, "cannot be mixed"),
        ({"changes": [CHANGE, 7]}, "Expected `object`"),
        ({"changes": [{**CHANGE, "shard_by": "a"}]}, "shard_by"),
        ({"changes": [CHANGE, {"table": "t"}]}, "a key is needed"),
    ],
)
def test_arguments_that_are_no_event_are_kept_with_their_reason(kwargs: object, reason: str) -> None:
    assert reason in malformed(with_kwargs(kwargs)).reason


@pytest.mark.parametrize("kwargs", [{**CHANGE, "set": None, "delete": None}, {"changes": [{**CHANGE, "insert": None}]}])
def test_an_argument_that_is_none_was_not_given(kwargs: object) -> None:
    event = decode(with_kwargs(kwargs), TASK)
    assert isinstance(event, Event)
    assert event.changes == (Change("t", {"id": 1}),)


def test_a_message_that_carries_one_that_is_none_is_that_one() -> None:
    raw = b'\xff{"headers":'
    carrier = Envelope(TASK, QUEUE).encode(b'"malformed-1"', malformed_kwargs(raw, "not JSON")) + b"[7,8]" + OPEN_END
    assert decode(carrier, TASK) == Malformed("not JSON", raw, None, 7, 8)
    with_id = with_kwargs({})
    carrier = Envelope(TASK, QUEUE).encode(b'"malformed-1"', malformed_kwargs(with_id, "empty")) + b"null" + OPEN_END
    assert decode(carrier, TASK) == Malformed("empty", with_id, "an-id")


def test_positional_arguments_are_refused() -> None:
    assert "keyword arguments only" in malformed(with_body([[1], CHANGE, {}])).reason


def test_nesting_deeper_than_ours_is_refused_and_not_a_crash() -> None:
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    assert "nested more than 64 deep" in malformed(with_kwargs({**CHANGE, "set": {"a": deep}})).reason


def test_of_a_duplicate_key_the_last_counts_as_everywhere_in_json() -> None:
    event = decode(with_body('[[],{"table":"t","key":{"id":1,"id":2},"set":{"a":1},"set":{"a":2}},{}]'), TASK)
    assert isinstance(event, Event)
    assert event.changes == (Change("t", {"id": 2}, {"a": 2}),)


def test_an_integer_beyond_64_bits_is_exact() -> None:
    event = decode(with_kwargs({**CHANGE, "set": {"a": 10**50}}), TASK)
    assert isinstance(event, Event)
    assert event.changes[0].set == {"a": 10**50}


@pytest.mark.parametrize("encoding", [None, "utf-8", "base64"])
def test_a_body_may_be_plain_or_base64(encoding: str | None) -> None:
    body = json.dumps([[], CHANGE, {}])
    text = base64.b64encode(body.encode()).decode() if encoding == "base64" else body
    event = decode(json.dumps({**GOOD, "body": text, "properties": {**TAG, "body_encoding": encoding}}).encode(), TASK)
    assert isinstance(event, Event)


def test_headers_and_properties_that_we_do_not_know_are_ignored() -> None:
    envelope = {
        **GOOD,
        "surprise": [1],
        "headers": {**GOOD["headers"], "trace": {"a": 1}},
        "properties": {**TAG, "x": None},
    }
    assert isinstance(decode(json.dumps(envelope).encode(), TASK), Event)


# --- anything at all --------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
tagged = st.builds(
    lambda name, value: {"__type__": name, "__value__": value},
    st.sampled_from(["datetime", "date", "time", "timedelta", "decimal", "uuid", "bytes", "base64", "other"]),
    json_values | st.sampled_from(["0001-01-01T00:00:00+05:00", "1E+999999999", {"hex": 7}, {"int": 1.5}]),
)


def check(raw: bytes) -> None:
    found = decode(raw, TASK)
    assert found.raw == raw
    if isinstance(found, Malformed):
        assert found.reason
        return
    for change, identity in zip(found.changes, found.identities, strict=True):
        assert seal(change)[1] == identity  # what is accepted here would have been accepted as a write, too


@given(st.binary())
def test_no_bytes_raise(raw: bytes) -> None:
    check(raw)


@given(json_values)
def test_no_json_raises(value: Any) -> None:
    check(msgspec.json.encode(value))


@given(st.sampled_from(["key", "set", "add", "max", "min", "insert"]), json_values | tagged, st.text(max_size=5))
def test_no_value_raises_wherever_it_stands(part: str, value: Any, name: str) -> None:
    base = {"table": "t"} if part == "insert" else CHANGE
    check(with_kwargs({**base, part: {name: value}}))
    check(with_kwargs({"changes": [{**base, part: {name: value}}]}))


@given(st.lists(changes, min_size=1, max_size=2), st.randoms(use_true_random=False), json_values | tagged)
def test_no_part_replaced_by_something_else_raises(changes: list[Change], random: Any, value: Any) -> None:
    envelope = json.loads(message("an-id", changes))
    envelope["body"] = json.loads(envelope["body"])
    replace_somewhere(envelope, value, random)
    if not isinstance(envelope.get("body"), str):
        envelope["body"] = json.dumps(envelope.get("body"))
    check(json.dumps(envelope).encode())


def replace_somewhere(container: Any, value: object, random: Any) -> None:
    """Replace one value somewhere in nested JSON."""
    places = list(container) if isinstance(container, dict) else list(range(len(container)))
    place = random.choice(places)
    inner = container[place]
    if isinstance(inner, dict | list) and inner and random.random() < 0.8:
        replace_somewhere(inner, value, random)
    else:
        container[place] = value


@given(
    st.lists(changes, min_size=1, max_size=2),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(max_size=3)), min_size=1, max_size=3),
)
def test_no_damaged_message_raises(changes: list[Change], damages: list[tuple[int, int, bytes]]) -> None:
    raw = message("an-id", changes)
    for place, length, patch in damages:
        start = place % len(raw)
        raw = raw[:start] + patch + raw[start + length :]
    check(raw)
