"""When Redis has no memory left (``noeviction``): writes are refused, and draining still works."""

from collections.abc import Iterator

import pytest

from pipeline import BufferUnavailable, Change
from pipeline.driving import run
from pipeline.flush import End
from tests.integration.scene import Scene, dead, disk_full, drain


@pytest.fixture
def full(scene: Scene) -> Iterator[Scene]:
    """A scene with three pending events, in which Redis is told that it has no memory left."""
    scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views int NOT NULL)")
    pipeline = scene.pipeline()
    for page in range(3):
        pipeline.write("page_views", key={"page_id": page}, add={"views": 1})
    scene.redis.config_set("maxmemory", 1)
    yield scene
    scene.redis.config_set("maxmemory", 0)


def test_a_full_redis_refuses_writes_and_keeps_nothing_of_them(full: Scene) -> None:
    pipeline = full.pipeline()
    before = {key: full.redis.dump(key) for key in full.redis.keys("*")}
    with pytest.raises(BufferUnavailable, match="OutOfMemory"):
        pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id="order:42")
    with pytest.raises(BufferUnavailable, match="OutOfMemory") as caught:
        pipeline.write_many([Change("page_views", key={"page_id": 1}, add={"views": 1})] * 3)
    assert caught.value.receipts == [None] * 3
    assert {key: full.redis.dump(key) for key in full.redis.keys("*")} == before


@pytest.mark.parametrize("batch_size", [1, 2, 5000])
def test_a_full_redis_can_be_drained_by_a_new_process(full: Scene, batch_size: int) -> None:
    pipeline = full.pipeline(batch_size=batch_size)
    assert pipeline.shards_to_flush() == [0]
    assert drain(pipeline).events == 3
    assert full.sql("SELECT sum(views) FROM page_views") == [(3,)]
    assert full.redis.keys("pipeline.overlay*") == []


def test_a_full_redis_keeps_count_of_failures_so_that_no_event_is_blamed(full: Scene) -> None:
    pipeline = full.pipeline()
    with disk_full(full, "page_views"):
        for _ in range(8):
            pipeline.flush_shard(0)
        (shard,) = pipeline.status().shards
    assert shard.failures > 0
    assert shard.frozen == 3
    assert drain(pipeline).events == 3
    assert dead(pipeline) == []


def test_a_full_redis_can_set_events_aside_and_take_them_back(full: Scene) -> None:
    full.sql("ALTER TABLE page_views RENAME TO elsewhere")
    pipeline = full.pipeline()
    assert pipeline.flush_shard(0).end is End.PAUSED
    (shard,) = pipeline.status().shards
    assert (shard.parked, shard.frozen) == (3, 0)
    full.sql("ALTER TABLE elsewhere RENAME TO page_views")
    assert drain(pipeline).events == 3
    assert dead(pipeline) == []


def test_a_full_redis_takes_a_refused_message_to_its_dead_letters(full: Scene) -> None:
    pipeline = full.pipeline()
    run(pipeline.ingress.bury(b"garbage", "it is garbage", "delivery 1"))
    assert drain(pipeline).dead == 1
    assert [(letter.message, letter.reason) for letter in dead(pipeline)] == [(b"garbage", "it is garbage")]
