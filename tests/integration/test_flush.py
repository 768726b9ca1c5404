"""A flush: from the queue to committed rows, and what is left in Redis afterwards."""

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pipeline import Change, InvalidEvent
from pipeline.core.change import shard_of
from pipeline.flush import End
from tests.integration.scene import Scene, dead, drain

VIEWS = "CREATE TABLE views (page int PRIMARY KEY, n int NOT NULL DEFAULT 0, title text, seen timestamptz)"


def test_a_write_reaches_postgresql(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    now = datetime(2013, 1, 1, tzinfo=UTC)
    pipeline.write("views", {"page": 7}, add={"n": 1}, set={"title": "Home"}, max={"seen": now})
    report = pipeline.flush_shard(0)
    assert (report.end, report.batches, report.events, report.rows, report.dead, report.skipped) == (
        (End.EMPTY, 1, 1, 1, 0, 0)
    )
    assert scene.sql("SELECT * FROM views") == [(7, 1, "Home", now)]
    assert pipeline.flush_shard(0).events == 0


def test_after_a_flush_redis_holds_nothing_of_it_but_its_counters(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(batch_size=700, flush_threshold=0)
    pipeline.write_many(Change("views", {"page": page % 900}, add={"n": 1}) for page in range(2000))
    report = drain(pipeline)
    assert (report.batches, report.events) == (3, 2000)
    assert sorted(scene.redis.keys("*")) == [b"pipeline.shard.{0}", b"pipeline.topology"]
    counters = {b"accepted", b"seq", b"settled", b"drained", b"draining", b"drained_at", b"stacked", b"cached"}
    assert set(scene.redis.hkeys(scene.keys.state)) == counters
    assert scene.sql("SELECT count(*), sum(n) FROM views") == [(900, 2000)]


def test_changes_of_a_key_take_effect_in_the_order_of_acceptance(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(batch_size=7)
    for number in range(50):
        pipeline.write("views", {"page": 1}, set={"title": f"t{number}"})
        if number % 10 == 9:
            pipeline.delete("views", {"page": 1})
        pipeline.write("views", {"page": 1}, add={"n": 1})
        if number in {3, 17, 31}:
            pipeline.flush_shard(0)
    drain(pipeline)
    assert scene.sql("SELECT n, title FROM views") == [(1, None)]


def test_every_shard_has_its_own_queue_and_its_own_batches(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(shards=4)
    receipts = pipeline.write_many(Change("views", {"page": page}, add={"n": 1}) for page in range(100))
    assert pipeline.shards_to_flush() == [0, 1, 2, 3]
    pipeline.flush_shard(2)
    mine = {receipt.shard for receipt in receipts}
    assert mine == {0, 1, 2, 3}
    pages = [page for page in range(100) if shard_of([("views", f"page={page}")], None, "", 4) == 2]
    assert scene.sql("SELECT page FROM views ORDER BY 1") == [(page,) for page in pages]
    drain(pipeline)
    assert scene.sql("SELECT count(*) FROM views") == [(100,)]
    with pytest.raises(ValueError, match="there is no shard 4; shards are 0 to 3"):
        pipeline.flush_shard(4)


def test_a_flush_gives_way_when_its_time_is_over(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(batch_size=2, flush_slice_seconds=1e-9)
    for page in range(5):
        pipeline.write("views", {"page": page})
    ends = [pipeline.flush_shard(0) for _ in range(4)]
    assert [(report.end, report.events) for report in ends] == [
        (End.SLICE, 2), (End.SLICE, 2), (End.SLICE, 1), (End.EMPTY, 0),
    ]  # fmt: skip
    assert not scene.redis.exists(scene.keys.lease)


def test_a_flush_leaves_a_shard_to_who_is_at_work_there(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    pipeline.write("views", {"page": 1})
    scene.redis.set(scene.keys.lease, "somebody")
    assert pipeline.flush_shard(0).end is End.BUSY
    assert pipeline.shards_to_flush() == []
    assert scene.sql("SELECT * FROM views") == []


# --- the row cache ----------------------------------------------------------------------------------------------------


def test_a_cached_row_gets_its_time_to_live_back_when_nothing_of_it_is_pending(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(cache_ttl_seconds=100)
    scene.cache("views:page=1", {"page": 1, "n": 0}, ttl_seconds=5)
    pipeline.write("views", {"page": 1}, add={"n": 1})
    assert scene.redis.ttl(scene.keys.row + "views:page=1") == -1
    pipeline.flush_shard(0)
    assert 90 < scene.redis.ttl(scene.keys.row + "views:page=1") <= 100
    assert scene.cached("views:page=1") == {"page": 1, "n": 1}


def test_a_cached_row_is_dropped_with_the_event_that_died(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    scene.cache("views:page=1", {"page": 1, "n": 0})
    scene.cache("views:page=2", {"page": 2, "n": 0})
    pipeline.write("views", {"page": 1}, add={"n": 2**40})
    pipeline.write("views", {"page": 2}, add={"n": 1})
    drain(pipeline)
    assert len(dead(pipeline)) == 1
    assert scene.cached("views:page=1") == {}
    assert scene.cached("views:page=2") == {"page": 2, "n": 1}


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_adds_up(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(shards=2, batch_size=3)
    status = pipeline.status()
    assert (status.pending, status.oldest_age, status.dead_letters, status.healthy) == (0, None, 0, True)
    pipeline.write_many(Change("views", {"page": page}, {"n": None if page == 7 else 1}) for page in range(20))
    scene.redis.rename("pipeline.events.{0}", "pipeline.batch.{0}")
    pending = pipeline.status()
    assert (pending.pending, pending.frozen) == (20, pending.shards[0].frozen)
    assert pending.shards[0].frozen + pending.shards[1].pending == 20
    assert pending.oldest_age is not None
    assert 0 <= pending.oldest_age < 20
    scene.redis.rename("pipeline.batch.{0}", "pipeline.events.{0}")
    drain(pipeline)
    done = pipeline.status()
    assert (done.pending, done.frozen, done.oldest_age, done.dead_letters, done.healthy) == (0, 0, None, 1, True)
    assert sum(shard.applied_batches for shard in done.shards) == scene.sql("SELECT count(*) FROM pipeline.batch")[0][0]


# --- messages that others put into a shard queue ----------------------------------------------------------------------


def message(body: Any = None, **changed: Any) -> dict[str, Any]:
    """A message as a stock Celery client publishes it, with parts of it changed."""
    kwargs = {"table": "views", "key": {"page": 1}, "add": {"n": 1}}
    whole = {
        "body": base64.b64encode(msgspec.json.encode([[], kwargs, {}] if body is None else body)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "pipeline.apply_event", "id": "stock", "root_id": "stock", "retries": 0},
        "properties": {"body_encoding": "base64", "delivery_tag": "x", "priority": 0},
    }
    return {**whole, **changed}


def headers(**changed: Any) -> dict[str, Any]:
    return {"headers": {"task": "pipeline.apply_event", "id": "stock", **changed}}


def test_a_message_of_a_stock_client_in_a_shard_queue_is_an_event(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    scene.redis.lpush(scene.keys.events, msgspec.json.encode(message()))
    pipeline.write("views", {"page": 1}, add={"n": 1})
    assert drain(pipeline).events == 2
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM views") == [(2,)]


def change(**kwargs: Any) -> dict[str, Any]:
    return message([[], {"table": "views", "key": {"page": 9}, **kwargs}, {}])


def endless() -> bytes:
    """A change of a number that JSON can spell and no computer can hold."""
    body = msgspec.json.encode([[], {"table": "views", "key": {"page": 9}}, {}]).replace(b"9", b"1e999")
    return msgspec.json.encode(message(body=0, properties={}) | {"body": body.decode()})


HOSTILE: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"\xff\xfe{",
    "a NUL": b"\x00",
    "a bare value": b"7",
    "deep": b"[" * 100_000,
    "no headers": {"body": ""},
    "another task": message(**headers(task="other.task")),
    "no id": message(headers={"task": "pipeline.apply_event"}),
    "an empty id": message(**headers(id="")),
    "a NUL in the id": message(**headers(id="a\x00b")),
    "a long id": message(**headers(id="x" * 10_000)),
    "a surrogate in the id": b'{"body":"","headers":{"task":"pipeline.apply_event","id":"\\ud800"}}',
    "a number beyond all bounds": message(**headers(pipeline=[10**30, 10**30])),
    "a time beyond all bounds": message(**headers(pipeline=[1, 2**62])),
    "a time before all bounds": message(**headers(pipeline=[1, -(2**62)])),
    "a negative number": message(**headers(pipeline=[-5, 0])),
    "no base64": message() | {"body": "%%%"},
    "another encoding": message(properties={"body_encoding": "rot13"}),
    "pickle": message(**{"content-type": "application/x-python-serialize"}),
    "no arguments": message([[], {}, {}]),
    "positional arguments": message([["views"], {}, {}]),
    "an unknown argument": change(upsert={"n": 1}),
    "no table name": change(table="views; DROP TABLE views"),
    "a NUL in the table": change(table='"vi\x00ews"'),
    "a NUL in a column": change(set={"a\x00b": 1}),
    "a NUL in text": change(set={"title": "a\x00b"}),
    "a NUL in nested text": change(set={"title": [{"a\x00": "b"}]}),
    "an unknown type": change(set={"title": {"__type__": "object", "__value__": "os.system"}}),
    "a bad date": change(set={"seen": {"__type__": "datetime", "__value__": "yesterday"}}),
    "an endless number": endless(),
    "a huge integer": change(set={"n": 10**4000}),
    "a huge decimal": change(set={"n": {"__type__": "decimal", "__value__": "1E+999999"}}),
    "no changes": message([[], {"changes": []}, {}]),
    "a key of null": change(key={"page": None}),
    "a key of a list": change(key={"page": [1]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_lies_in_a_shard_queue_hurts_only_itself(scene: Scene, name: str) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    raw = HOSTILE[name] if isinstance(HOSTILE[name], bytes) else msgspec.json.encode(HOSTILE[name])
    pipeline.write("views", {"page": 2}, add={"n": 1})
    scene.redis.lpush(scene.keys.events, raw)
    pipeline.write("views", {"page": 2}, add={"n": 1})
    report = drain(pipeline)
    assert (report.batches, report.events, report.dead) == (1, 3, 1)
    (letter,) = dead(pipeline)
    assert letter.message == raw
    assert scene.sql("SELECT page, n FROM views") == [(2, 2)]
    assert pipeline.status().pending == 0


def test_the_same_malformed_message_twice_is_two_dead_letters(scene: Scene) -> None:
    pipeline = scene.pipeline()
    scene.redis.lpush(scene.keys.events, b"no event", b"no event")
    assert drain(pipeline).dead == 2
    assert len(dead(pipeline)) == 2


def test_a_write_with_a_table_that_is_not_allowed_is_refused(scene: Scene) -> None:
    pipeline = scene.pipeline(tables=("views",))
    with pytest.raises(InvalidEvent, match="PIPELINE_TABLES"):
        pipeline.write("secrets", {"id": 1})
    pipeline.write("views", {"page": 1})
