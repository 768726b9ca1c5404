"""Messages that a stock Celery app published itself, through kombu's own transport, decode to the events they say."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, signature
from hypothesis import given
from kombu.utils.json import dumps, register_type

from pipeline.core.change import Change, Event, seal
from pipeline.core.codec import Malformed, decode
from pipeline.core.values import timedelta_us
from tests.unit.messages import TASK
from tests.unit.strategies import changes

# As pipeline.contrib.celery does for every app that it is registered with.
register_type(timedelta, "timedelta", timedelta_us, lambda us: timedelta(microseconds=us))

VALUES = {
    "at": datetime(2013, 1, 1, 5, 15, tzinfo=UTC),
    "day": date(2013, 1, 1),
    "clock": time(5, 15),
    "spent": timedelta(microseconds=7),
    "price": Decimal("1.10"),
    "uuid": UUID(int=7),
    "raw": b"\xff\x00",
    "text": b"caf\xc3\xa9",
    "json": {"a": [1, None, True, 1.5, "é"]},
    "big": 2**70,
}


class Stock:
    """A stock Celery client, and what its broker got."""

    def __init__(self) -> None:
        self.app = Celery("stock", broker="memory://")
        connection: Any = self.app.connection_for_write()
        self.channel = connection.default_channel
        self.channel.queue_declare("pipeline")

    def sent(self, *args: object, **options: Any) -> bytes:
        """What lies in the queue after ``send_task``; the Redis transport stores exactly this text."""
        arguments = {"kwargs": {}, **options}
        self.app.send_task(TASK, args, queue="pipeline", **arguments)
        return dumps(self.channel._get("pipeline")).encode()


@pytest.fixture(scope="module")
def stock() -> Iterator[Stock]:
    client = Stock()
    yield client
    client.app.close()


def test_every_type_of_value_arrives(stock: Stock) -> None:
    kwargs = {"table": "t", "key": {"id": 1}, "set": VALUES}
    event = decode(stock.sent(kwargs=kwargs, task_id="order:42"), TASK)
    assert isinstance(event, Event)
    assert event.id == "order:42"
    assert repr(event.changes) == repr((Change("t", {"id": 1}, VALUES),))


@given(changes)
def test_any_change_arrives_as_it_was_sent(stock: Stock, change: Change) -> None:
    fields = {name: getattr(change, name) for name in Change.__struct_fields__}
    kwargs = {name: value for name, value in fields.items() if value or name == "insert"}
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    event = decode(stock.sent(kwargs=kwargs), TASK)
    assert isinstance(event, Event)
    assert repr(event.changes) == repr((change,))
    assert event.identities == (seal(change)[1],)


def test_a_group_arrives_in_order(stock: Stock) -> None:
    one, other = {"table": "t", "key": {"id": 1}, "delete": True}, {"table": "log", "insert": {"a": 1}}
    event = decode(stock.sent(kwargs={"changes": [one, other], "shard_by": "order:42"}), TASK)
    assert isinstance(event, Event)
    assert event.changes == (Change("t", {"id": 1}, delete=True), Change("log", insert={"a": 1}))
    assert event.shard_by == "order:42"


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60},
        {"expires": 60},
        {"priority": 9},
        {"headers": {"trace": "a"}},
        {"link": signature("other.task")},
        {"serializer": "json"},
        {"reply_to": "here"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_publisher_do_not_matter(stock: Stock, options: dict[str, Any]) -> None:
    event = decode(stock.sent(kwargs={"table": "t", "key": {"id": 1}}, **options), TASK)
    assert isinstance(event, Event)
    assert event.changes == (Change("t", {"id": 1}),)


@pytest.mark.parametrize(
    ("args", "options", "reason"),
    [
        ((1,), {}, "keyword arguments only"),
        ((), {"kwargs": {"table": "t"}}, "a key is needed"),
        ((), {"kwargs": {"table": "t", "key": {"id": 1}, "surprise": 1}}, "surprise"),
        ((), {"kwargs": {"table": "t", "key": {"id": 1}, "set": {"a": float("nan")}}}, "JSON"),
        ((), {"kwargs": {"table": "t", "key": {"id": 1}, "set": {"a": "\x00"}}}, "NUL"),
        ((), {"serializer": "pickle"}, "content type"),
        ((), {"serializer": "yaml"}, "content type"),
        ((), {"compression": "zlib"}, "compressed with"),
    ],
)
def test_what_is_no_event_is_kept_with_its_reason(
    stock: Stock, args: tuple[object, ...], options: dict[str, Any], reason: str
) -> None:
    raw = stock.sent(*args, task_id="an-id", **{"kwargs": {"table": "t", "key": {"id": 1}}, **options})
    malformed = decode(raw, TASK)
    assert isinstance(malformed, Malformed)
    assert malformed.raw == raw
    assert malformed.id == "an-id"
    assert reason in malformed.reason


def test_a_lone_surrogate_leaves_nothing_of_a_message_but_its_bytes(stock: Stock) -> None:
    raw = stock.sent(kwargs={"table": "t", "key": {"id": 1}, "set": {"a": "\ud800"}})  # Celery repeats it in a header
    malformed = decode(raw, TASK)
    assert isinstance(malformed, Malformed)
    assert (malformed.id, malformed.raw) == (None, raw)
