"""A barrier ends when everything that was accepted before it is committed or dead, and not before."""

import pytest

from pipeline import BufferUnavailable, Change, InvalidEvent, Outcome, Pipeline, StillPending
from pipeline.contrib.embedded import Valkey
from pipeline.ports import PausedTable
from tests.integration.conftest import Aside
from tests.integration.scene import Scene, drain, restore, snapshot

SOON = 0.05
LONG = 20.0


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word varchar(3))")
    scene.sql("CREATE TABLE other (id int PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE log (id int)")
    return scene.pipeline()


def waits(pipeline: Pipeline, table: str | None = None) -> str:
    """The barrier does not end; what the error says."""
    with pytest.raises(TimeoutError) as caught:
        pipeline.barrier(table, timeout=SOON)
    assert isinstance(caught.value, StillPending)
    return str(caught.value)


def test_it_ends_when_everything_is_written_or_dead(pipeline: Pipeline) -> None:
    pipeline.barrier(timeout=0)
    pipeline.write("t", {"id": 1}, add={"n": 1})
    poison = pipeline.write("t", {"id": 2}, set={"word": "too long"})
    assert "events 1 to 2 are not written" in waits(pipeline)
    drain(pipeline)
    pipeline.barrier(timeout=0)
    assert poison.outcome() == Outcome.DEAD


def test_it_does_not_wait_for_what_comes_later(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    scene.sql("CREATE TABLE seen (n int)")
    step = scene.pipeline(batch_size=3, flush_slice_seconds=1e-9)  # one batch per call
    for number in range(3):
        pipeline.write("t", {"id": number}, add={"n": 1})
    left: list[int] = []
    barrier = aside(pipeline.barrier, timeout=LONG, tell=left.append)
    while not left:
        pass
    for number in range(3):
        pipeline.write("t", {"id": number}, add={"n": 1})
    step.flush_shard(0)
    barrier.result(LONG)
    assert (left[0], left[-1]) == (3, 0)
    waits(pipeline)


def test_a_frozen_batch_is_not_passed(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1})
    scene.buffer().claim(0, "somebody")
    waits(pipeline)
    scene.redis.delete(scene.keys.lease)
    drain(pipeline)
    pipeline.barrier(timeout=LONG)


def test_what_is_set_aside_is_waited_for_and_its_table_named(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    pipeline.write("missing", {"id": 1})
    pipeline.write("t", {"id": 1}, add={"n": 1})
    pipeline.flush_shard(0)
    assert "these are paused: missing" in waits(pipeline)
    barrier = aside(pipeline.barrier, timeout=LONG)
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
    drain(pipeline)
    barrier.result(LONG)
    assert scene.sql("SELECT id FROM missing") == [(1,)]


def test_of_one_table_only_its_own_events_are_waited_for(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1}, shard_by="x")
    assert "not written" in waits(pipeline, "other")  # it is in the same queue
    pipeline.write("missing", {"id": 1}, shard_by="x")
    pipeline.write_group([Change("missing", {"id": 2}), Change("other", {"id": 1}, add={"n": 1})], shard_by="x")
    pipeline.write_group([Change("missing", {"id": 3}), Change("log", insert={"id": 1})], shard_by="x")
    pipeline.flush_shard(0)
    pipeline.barrier("t", timeout=LONG)
    pipeline.barrier("public.elsewhere", timeout=LONG)
    for table in ("missing", "other", "log", None):
        assert "these are paused: missing" in waits(pipeline, table)
    pipeline.write("t", {"id": 2}, add={"n": 1}, shard_by="x")
    waits(pipeline, "t")
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
    drain(pipeline)
    for table in ("missing", "other", "log", "t", None):
        pipeline.barrier(table, timeout=LONG)
    with pytest.raises(InvalidEvent):
        pipeline.barrier("no table;")


def test_events_of_the_table_that_were_set_aside_later_are_not_waited_for(
    scene: Scene, pipeline: Pipeline, aside: Aside
) -> None:
    for number in range(250):  # more than one page
        pipeline.write("missing", {"id": number})
    pipeline.write("t", {"id": 1}, add={"n": 1})
    left: list[int] = []
    barrier = aside(pipeline.barrier, "t", timeout=LONG, tell=left.append)
    while not left:
        pass
    pipeline.write_group([Change("missing", {"id": 1}), Change("t", {"id": 2}, add={"n": 1})], shard_by="x")
    pipeline.flush_shard(0)
    barrier.result(LONG)
    waits(pipeline, "t")
    assert scene.sql("SELECT id FROM t") == [(1,)]


def test_what_is_on_its_way_back_is_waited_for(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("missing", {"id": 1})
    pipeline.flush_shard(0)
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
    assert scene.buffer().resume(0, PausedTable("missing", 0, "", b""))
    assert "on their way back" in waits(pipeline)
    scene.buffer().claim(0, "somebody")
    assert "on their way back" in waits(pipeline)
    assert "on their way back" in waits(pipeline, "missing")
    pipeline.barrier("t", timeout=LONG)
    scene.redis.delete(scene.keys.lease)
    drain(pipeline)
    pipeline.barrier(timeout=LONG)


def test_what_a_worker_has_taken_out_of_the_queue_is_waited_for(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1})
    message = scene.redis.rpop(scene.keys.events)
    assert "does a worker consume it?" in waits(pipeline)
    scene.redis.lpush(scene.keys.events, message)
    drain(pipeline)
    pipeline.barrier(timeout=LONG)


def test_a_message_that_was_never_accepted_is_not_waited_for(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1})
    scene.redis.rpush(scene.keys.events, b"garbage")
    drain(pipeline)
    scene.redis.rpush(scene.keys.events, b"more garbage")
    pipeline.barrier(timeout=LONG)


def test_a_redis_that_goes_back_in_time_ends_it_with_an_error(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1})
    older = snapshot(scene.redis)
    pipeline.write("t", {"id": 2}, add={"n": 1})
    left: list[int] = []
    barrier = aside(pipeline.barrier, timeout=LONG, tell=left.append)
    while not left:
        pass
    restore(scene.redis, older)
    with pytest.raises(BufferUnavailable, match="gone back in time: shard 0 had accepted 2 events, and now"):
        barrier.result(LONG)


def test_while_redis_is_away_it_goes_on_waiting(pipeline: Pipeline, valkey: Valkey, aside: Aside) -> None:
    pipeline.write("t", {"id": 1}, add={"n": 1})
    left: list[int] = []
    barrier = aside(pipeline.barrier, timeout=0.5, tell=left.append)
    while not left:
        pass
    valkey.stop()
    with pytest.raises(StillPending, match="Redis could not be asked"):
        barrier.result(LONG)
    with pytest.raises(BufferUnavailable):
        pipeline.barrier(timeout=LONG)


def test_many_wait_as_one(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    def looks() -> int:
        calls: int = scene.redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        return calls

    pipeline.write("t", {"id": 1}, add={"n": 1})
    left: list[int] = []
    barriers = [aside(pipeline.barrier, timeout=LONG, tell=left.append) for _ in range(16)]
    while len(left) < 16 * 16:
        pass
    before, told = looks(), len(left)
    while len(left) < told + 16 * 10:
        pass
    assert looks() - before <= 12
    drain(pipeline)
    for barrier in barriers:
        barrier.result(LONG)
