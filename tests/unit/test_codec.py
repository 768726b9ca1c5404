"""Our own messages: what goes in comes out, and the bytes on the wire stay what they are."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Change, Event, seal
from pipeline.core.codec import (
    OPEN_END,
    Envelope,
    Malformed,
    accepted_ms,
    accepted_seq,
    arguments,
    decode,
    flush_message,
)
from tests.unit.messages import QUEUE, TASK, message
from tests.unit.strategies import changes, event_ids, texts

GOLDEN = Path(__file__).parent / "golden"
ID = "013bf457-7a60-7cc3-98c4-dc0c0c07398f"

EVERY_TYPE = Change(
    '"Order"',
    {"id": UUID(int=7), "größe": "100%"},
    set={
        "none": None,
        "bool": True,
        "int": -(2**70),
        "float": 1.5,
        "text": 'naïve "quotes" \\ \n \U0001f600',
        "bytes": b"caf\xc3\xa9",
        "binary": b"\xff\x00",
        "moment": datetime(2013, 1, 1, 5, 15, 0, 1, tzinfo=UTC),
        "clock": datetime(2013, 1, 1, 5, 15),  # noqa: DTZ001
        "date": date(2013, 1, 1),
        "time": time(5, 15),
        "list": [1, [Decimal("1.10")], {}],
        "dict": {"a": {"b": UUID(int=8)}},
    },
    add={"count": 1, "amount": Decimal("0.10"), "spent": timedelta(days=-1, microseconds=1)},
    max={"last_seen": datetime(2013, 1, 1, tzinfo=UTC)},
    min={"first_seen": datetime(2013, 1, 1, tzinfo=UTC)},
)

EVENTS: dict[str, tuple[list[Change], str | None]] = {
    "every_type": ([EVERY_TYPE], None),
    "delete": ([Change("carts", {"user_id": 3, "sku": "A1"}, delete=True)], None),
    "insert": ([Change("audit_log", insert={"actor": "u1", "action": "login"})], None),
    "lane": ([Change("orders", {"id": 9}, {"status": "paid"})], "order:9"),
    "group": ([Change("orders", {"id": 9}, {"status": "paid"}), Change("log", insert={"order": 9})], "order:9"),
}


@pytest.mark.parametrize("name", EVENTS)
def test_the_bytes_of_a_message_are_those_of_the_golden_file(name: str) -> None:
    changes, shard_by = EVENTS[name]
    assert message(ID, changes, shard_by) == (GOLDEN / f"{name}.json").read_bytes().strip()


@pytest.mark.parametrize("name", EVENTS)
def test_a_golden_message_of_an_earlier_version_can_be_read(name: str) -> None:
    raw = (GOLDEN / f"{name}.json").read_bytes().strip()
    changes, shard_by = EVENTS[name]
    identities = tuple(seal(change)[1] for change in changes)
    assert repr(decode(raw, TASK)) == repr(
        Event(ID, tuple(changes), identities, raw, seq=1, accepted_ms=1_357_017_300_000, shard_by=shard_by)
    )


def test_the_golden_message_of_a_stock_client_can_be_read() -> None:
    # published by Celery 5.7 with apply_event.delay(…), taken out of Redis
    event = decode((GOLDEN / "stock_client.json").read_bytes().strip(), TASK)
    assert isinstance(event, Event)
    assert event.id == "8bd8c8a3-ee44-4ba5-a04d-3de62ff2d5ac"
    assert event.changes == (
        Change("flights", {"carrier": "UA", "flight": 1545}, {"at": datetime(2013, 1, 1, 5, 15, tzinfo=UTC)}, {"n": 1}),
    )
    assert (event.seq, event.accepted_ms) == (None, None)


@given(event_ids, st.lists(changes, min_size=1, max_size=3), st.none() | texts, st.integers(0, 2**53))
def test_an_event_comes_back_as_it_was(event: str, changes: list[Change], shard_by: str | None, seq: int) -> None:
    raw = message(event, changes, shard_by, (seq, 5))
    decoded = decode(raw, TASK)
    assert isinstance(decoded, Event)
    assert repr(decoded.changes) == repr(tuple(changes))
    assert decoded.identities == tuple(seal(change)[1] for change in changes)
    assert (decoded.id, decoded.raw, decoded.shard_by) == (event, raw, shard_by)
    assert (decoded.seq, decoded.accepted_ms) == (accepted_seq(raw), accepted_ms(raw)) == (seq, 5)


@given(st.lists(changes, min_size=1, max_size=3), st.none() | texts)
def test_the_arguments_of_an_event_are_those_in_its_message(changes: list[Change], shard_by: str | None) -> None:
    event = decode(message("id", changes, shard_by), TASK)
    assert isinstance(event, Event)
    wire: Any = [seal(change)[0] for change in changes]
    expected = wire[0] if len(wire) == 1 else {"changes": wire}
    assert arguments(event) == (expected if shard_by is None else {**expected, "shard_by": shard_by})


@given(texts)
def test_an_event_that_was_refused_before_says_so(reason: str) -> None:
    body = '[[],{"table":"t","key":{"id":1}},{}]'
    event = decode(Envelope(TASK, QUEUE).wrap(b'"id"', body, reason) + b"[7,8]" + OPEN_END, TASK)
    assert isinstance(event, Event)
    assert (event.refused, event.seq) == (reason, 7)


def test_a_message_is_open_at_its_end_until_redis_has_numbered_it() -> None:
    kwargs = b'{"table":"t","key":{"id":1}}'
    open_message = Envelope(TASK, QUEUE).encode(b'"id"', kwargs)
    with pytest.raises(json.JSONDecodeError):
        json.loads(open_message)
    assert json.loads(open_message + b"[7,8]" + OPEN_END)["headers"]["pipeline"] == [7, 8]


def test_a_message_has_everything_that_a_stock_worker_needs() -> None:
    envelope = json.loads(message("id", EVENTS["delete"][0]))
    assert envelope["headers"] | {"pipeline": 0} == {"lang": "py", "task": TASK, "id": "id", "pipeline": 0}
    assert envelope["properties"] == {
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "delivery_tag": "id",
    }
    assert (envelope["content-type"], envelope["content-encoding"]) == ("application/json", "utf-8")
    args, kwargs, embed = json.loads(envelope["body"])
    assert (args, embed) == ([], {})
    assert kwargs == {"table": "carts", "key": {"user_id": 3, "sku": "A1"}, "delete": True}


def test_the_message_that_asks_for_a_flush_is_that_of_the_golden_file() -> None:
    raw = flush_message("pipeline.flush_shard", "pipeline.control", 3, "@id@")
    assert raw == (GOLDEN / "flush_shard.json").read_bytes().strip()
    assert json.loads(msgspec.json.decode(raw)["body"]) == [[], {"shard": 3}, {}]


def test_a_message_that_redis_did_not_number_has_no_time() -> None:
    assert accepted_ms(b'{"body":"","headers":{"id":"a"}}') is None
    assert accepted_ms(b"nonsense") is None
    assert accepted_ms(b"[" * 100_000) is None


def test_a_message_without_a_number_is_an_event_too() -> None:
    raw = message("id", EVENTS["delete"][0]).replace(b',"pipeline":[1,1357017300000]', b"")
    event = decode(raw, TASK)
    assert isinstance(event, Event)
    assert (event.seq, event.accepted_ms) == (None, None)


def test_a_malformed_message_keeps_its_number_so_that_its_place_is_known() -> None:
    raw = message("id", EVENTS["delete"][0]).replace(b"carts", b"Carts")
    malformed = decode(raw, TASK)
    assert isinstance(malformed, Malformed)
    assert (malformed.id, malformed.seq, malformed.accepted_ms, malformed.raw) == ("id", 1, 1_357_017_300_000, raw)
