"""A worker has taken events out of a shard queue: what is behind them waits, so that nothing is overtaken (law L3)."""

import json
import logging
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.flush import End
from pipeline.writer import Delivery
from tests.integration.scene import Scene, dead, drain, eventually

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v int, n int DEFAULT 0)"
LOG = "CREATE TABLE log (n int)"


def take(scene: Scene, count: int = 1) -> list[bytes]:
    """What a stock worker has in its hands: the oldest messages."""
    return [scene.redis.rpop(scene.keys.events) for _ in range(count)]


def give_back(scene: Scene, pipeline: Pipeline, raw: bytes) -> None:
    """What our task does with a message of a shard queue."""
    message: dict[str, Any] = json.loads(raw)
    headers, tag = message["headers"], message["properties"]["delivery_tag"]
    body = message["body"]
    delivery = Delivery(scene.keys.events, tag, tuple(headers["pipeline"]))
    assert not pipeline.ingress.accept(headers["id"], json.loads(body)[1], lambda: body, delivery)


def put(pipeline: Pipeline, *values: int, row: int = 1) -> None:
    for value in values:
        pipeline.write("t", key={"id": row}, set={"v": value}, add={"n": 1})


def rows(scene: Scene) -> list[tuple[Any, ...]]:
    return scene.sql("SELECT v, n FROM t ORDER BY id")


def test_an_event_in_the_hands_of_a_worker_is_not_overtaken(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    put(pipeline, 1, 2)
    (taken,) = take(scene)
    with caplog.at_level(logging.WARNING, "pipeline"):
        assert pipeline.flush_shard(0).end is End.WAITING
    assert "events 1 to 1 are missing in its queue" in caplog.text
    assert rows(scene) == []
    give_back(scene, pipeline, taken)
    assert drain(pipeline).events == 2
    assert rows(scene) == [(2, 2)]


def test_what_is_before_the_missing_events_is_written(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    put(pipeline, 1, 2)
    drain(pipeline)
    put(pipeline, 3, 4, 5, 6)
    first, second, third = take(scene, 3)
    give_back(scene, pipeline, first)
    report = pipeline.flush_shard(0)
    assert (report.end, report.events) == (End.WAITING, 1)
    assert rows(scene) == [(3, 3)]
    put(pipeline, 7)
    give_back(scene, pipeline, third)
    give_back(scene, pipeline, second)
    drain(pipeline)
    assert rows(scene) == [(7, 7)]


def test_events_that_never_come_back_are_not_waited_for_for_ever(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline(lease_seconds=0.05)
    put(pipeline, 1, 2, 3)
    take(scene)
    with caplog.at_level(logging.ERROR, "pipeline"):
        eventually(lambda: pipeline.flush_shard(0).end is End.EMPTY, "it waits for ever")
    assert "going on without" in caplog.text
    assert rows(scene) == [(3, 2)]
    put(pipeline, 4)
    assert pipeline.flush_shard(0).end is End.EMPTY


def test_what_comes_back_too_late_undoes_nothing_and_is_not_lost(scene: Scene) -> None:
    scene.sql(TABLE)
    scene.sql(LOG)
    pipeline = scene.pipeline(lease_seconds=0.05)
    put(pipeline, 1)
    pipeline.insert("log", {"n": 1}, shard_by="the only shard")
    put(pipeline, 2)
    taken = take(scene, 2)
    eventually(lambda: pipeline.flush_shard(0).end is End.EMPTY, "it waits for ever")
    for raw in (*taken, *taken):  # the second time because the worker died before it acknowledged
        give_back(scene, pipeline, raw)
    drain(pipeline)
    assert rows(scene) == [(2, 1)]
    assert scene.sql("SELECT n FROM log") == [(1,)]  # has no order that could be wrong
    (letter,) = dead(pipeline)
    assert "came back too late" in letter.reason
    assert scene.redis.keys("pipeline.overlay*") == []


def test_messages_with_invented_numbers_hold_nothing_up(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    put(pipeline, 1)
    (raw,) = take(scene)
    scene.redis.rpush(scene.keys.events, raw.replace(b'"pipeline":[1,', b'"pipeline":[999,'))
    put(pipeline, 2)
    report = pipeline.flush_shard(0)
    assert report.end is End.WAITING  # number 1 is missing, as far as anybody can see
    scene.redis.rpush(scene.keys.events, raw)
    drain(pipeline)
    assert rows(scene) == [(2, 3)]


def test_a_batch_that_was_committed_is_acknowledged_and_not_cut(scene: Scene) -> None:
    scene.sql(TABLE)
    put(scene.pipeline(), 1, 2, 3)
    take(scene)
    pipeline = scene.pipeline(lease_seconds=0.05)
    applied = eventually(lambda: (r := pipeline.flush_shard(0)).end is End.EMPTY and r, "it waits for ever")
    assert applied.batches == 1
