"""A write asks for a flush when its shard has grown large, and when it is full."""

from contextlib import suppress
from typing import Any

import msgspec
import pytest

from pipeline import Change, Pipeline, PipelineFull, Receipt
from tests.conformance.lane import claimed
from tests.integration.scene import Scene


def view(pipeline: Pipeline, page: int = 7) -> Receipt:
    return pipeline.write("page_views", key={"page_id": page}, add={"views": 1})


def asked(scene: Scene) -> list[Any]:
    return [msgspec.json.decode(message) for message in scene.redis.lrange("pipeline.control", 0, -1)]


def test_crossing_the_threshold_asks_for_one_flush(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(flush_threshold=3)
    view(pipeline)
    view(pipeline)
    assert asked(redis_scene) == []
    for _ in range(10):
        view(pipeline)
    (message,) = asked(redis_scene)
    assert message["headers"]["task"] == "pipeline.flush_shard"
    assert msgspec.json.decode(message["body"])[1] == {"shard": 0}
    assert message["properties"]["delivery_info"]["routing_key"] == "pipeline.control"


def test_a_chunk_that_jumps_over_the_threshold_asks_for_one_flush_of_its_shard(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(flush_threshold=100, shards=3)
    receipts = pipeline.write_many(Change("t", key={"id": i}) for i in range(2000))
    bodies = [msgspec.json.decode(message["body"])[1]["shard"] for message in asked(redis_scene)]
    assert sorted(bodies) == sorted({receipt.shard for receipt in receipts}) == [0, 1, 2]


def test_no_second_flush_is_asked_for_until_one_has_started(scene: Scene) -> None:
    scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views int)")
    pipeline = scene.pipeline(flush_threshold=2)
    for _ in range(2):
        view(pipeline)
    scene.redis.rename(scene.keys.events, "away")
    for _ in range(2):
        view(pipeline)
    scene.redis.rpush(scene.keys.events, *scene.redis.lrange("away", 0, -1))
    assert len(asked(scene)) == 1  # the threshold was crossed twice, and the first flush has not started
    assert pipeline.shards_to_flush() == []
    pipeline.flush_shard(0)
    for _ in range(2):
        view(pipeline)
    assert len({message["headers"]["id"] for message in asked(scene)}) == 2


def overfill(pipeline: Pipeline) -> None:
    with suppress(PipelineFull):
        while True:
            view(pipeline)


def test_a_full_shard_asks_for_one_flush_and_before_everything_else(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=2)
    redis_scene.redis.lpush("pipeline.control", '{"what": "waits there"}')
    for _ in range(3):
        overfill(pipeline)
    waiting, first = asked(redis_scene)  # a worker takes the last one
    assert waiting == {"what": "waits there"}
    assert first["headers"]["task"] == "pipeline.flush_shard"


def test_a_shard_that_stays_full_does_not_always_come_first(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=2)
    overfill(pipeline)
    redis_scene.redis.hdel(redis_scene.keys.state, "wanted")  # the flush has begun, and ended
    overfill(pipeline)
    second, first = asked(redis_scene)
    assert first["headers"]["id"] < second["headers"]["id"]


def test_a_full_shard_that_is_being_flushed_asks_for_nothing(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=2, flush_threshold=0)
    view(pipeline)
    claimed(redis_scene.buffer())
    overfill(pipeline)
    assert asked(redis_scene) == []


def test_a_queue_that_stays_above_the_threshold_does_not_ask_again(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(flush_threshold=2)
    for _ in range(6):
        view(pipeline)
    claimed(redis_scene.buffer(batch_size=2))  # a flush has started, and four events are left to it
    for _ in range(3):
        view(pipeline)
    assert len(asked(redis_scene)) == 1


def test_a_flush_that_was_asked_for_and_never_started_is_asked_for_again(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    view(pipeline)
    assert pipeline.shards_to_flush() == [0]
    assert pipeline.shards_to_flush() == []
    wanted = int(redis_scene.redis.hget(redis_scene.keys.state, "wanted"))
    redis_scene.redis.hset(redis_scene.keys.state, "wanted", wanted - 6000)
    assert pipeline.shards_to_flush() == [0]


def test_a_shard_with_nothing_to_do_needs_no_flush(redis_scene: Scene) -> None:
    assert redis_scene.pipeline(shards=4).shards_to_flush() == []


@pytest.mark.parametrize("settings", [{"flush_threshold": 0}, {"flush_threshold": 2, "broker_url": "amqp://rabbit"}])
def test_without_threshold_or_with_another_broker_nothing_is_asked_for(
    redis_scene: Scene, settings: dict[str, Any]
) -> None:
    pipeline = redis_scene.pipeline(**settings)
    for _ in range(5):
        view(pipeline)
    assert asked(redis_scene) == []
