"""With ``when_full="block"`` a write waits for room, in order, for so long and no longer, and without a storm."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from pipeline import AsyncPipeline, AsyncReceipt, Change, Config, Pipeline, PipelineFull, Receipt
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import BlockingWire
from pipeline.buffer.writing import RedisIntake
from pipeline.core.change import Event, shard_of
from pipeline.core.codec import decode
from pipeline.core.values import identity
from pipeline.driving import blocking_sleep, run
from pipeline.patience import Patience
from pipeline.telemetry import Step
from pipeline.writer import CHUNK, Writer
from tests.integration.conftest import MakeValkey
from tests.integration.durable import pages, view, views
from tests.integration.scene import Scene

TIMEOUT = 30.0


class Time:
    """A clock that goes on only in sleeps, and in each of them something may happen."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self._events = list(events)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        if self._events:
            self._events.pop(0)()


@contextmanager
def writing(config: Config, time: Time) -> Iterator[Writer[Receipt]]:
    wire = BlockingWire(config)
    intake = RedisIntake(wire, Topology(config), config, blocking_sleep)
    ids = count()
    patience = Patience(config.full_timeout_seconds, lambda: time.now, lambda: 0.5, time.sleep)
    yield Writer(intake, config, lambda number: [f"event-{next(ids)}" for _ in range(number)], patience, Receipt)
    run(wire.close())


def nothing() -> None:
    """Another sleep in vain."""


def changes_of(lane: int, number: int) -> list[Change]:
    """Changes of different rows, all in this one of two shards."""
    found = (Change("page_views", key={"page_id": page}) for page in count())
    mine = (change for change in found if shard_of([("page_views", identity(change.key))], None, "", 2) == lane)
    return [next(mine) for _ in range(number)]


def queued(scene: Scene, lane: int) -> list[object]:
    """The pages that wait in a shard, oldest first."""
    messages = scene.redis.lrange(f"pipeline.events.{{{lane}}}", 0, -1)
    events = [decode(message, "pipeline.apply_event") for message in reversed(messages)]
    return [event.changes[0].key["page_id"] for event in events if isinstance(event, Event)]


def page_ids(changes: Sequence[Change]) -> list[object]:
    return [change.key["page_id"] for change in changes]


def test_a_blocked_write_is_accepted_when_there_is_room(redis_scene: Scene) -> None:
    config = redis_scene.config(max_pending=3, when_full="block")
    time = Time(nothing, nothing, lambda: redis_scene.redis.ltrim(redis_scene.keys.events, 0, 1))
    with writing(config, time) as writer:
        receipts = [run(writer.write([change])) for change in views(4)]
    assert [receipt.seq for receipt in receipts] == [1, 2, 3, 4]
    assert len(time.sleeps) == 3
    assert queued(redis_scene, 0) == [1, 2, 3]


def test_a_write_that_finds_no_room_in_time_is_refused(redis_scene: Scene) -> None:
    time = Time()
    with writing(redis_scene.config(max_pending=1, when_full="block", full_timeout_seconds=TIMEOUT), time) as writer:
        run(writer.write(views(1)))
        with pytest.raises(PipelineFull):
            run(writer.write(views(1), when_full="raise"))  # this asks for a flush
        before = {key: redis_scene.redis.dump(key) for key in redis_scene.redis.keys("*")}
        with pytest.raises(PipelineFull) as caught:
            run(writer.write(views(1)))
    assert (caught.value.pending, caught.value.limit, caught.value.drain_seconds) == (1, 1, None)
    assert time.now - 1000 == pytest.approx(TIMEOUT)  # and the last try was at that very moment
    assert 1000 > len(time.sleeps) > 10
    assert {key: redis_scene.redis.dump(key) for key in redis_scene.redis.keys("*")} == before


def test_a_write_is_refused_at_once_unless_it_is_to_block(redis_scene: Scene) -> None:
    time = Time()
    with writing(redis_scene.config(max_pending=1), time) as writer:
        run(writer.write(views(1)))
        with pytest.raises(PipelineFull):
            run(writer.write(views(1)))
        with pytest.raises(PipelineFull):
            run(writer.write_many(views(1)))
    assert time.sleeps == []


def test_the_others_get_everything_while_a_full_shard_is_waited_for_and_its_order_is_kept(redis_scene: Scene) -> None:
    limit = 2 * CHUNK
    slow, quick = changes_of(0, limit + 10), changes_of(1, CHUNK + 10)
    config = redis_scene.config(shards=2, max_pending=2 * limit, when_full="block")
    seen = []

    def look() -> None:
        seen.append((queued(redis_scene, 0), queued(redis_scene, 1)))

    def make_room() -> None:
        look()
        redis_scene.redis.delete("pipeline.events.{0}")

    with writing(config, Time(look, make_room)) as writer:
        run(writer.write_many(slow[:limit]))
        receipts = run(writer.write_many([*slow[limit:], *quick]))
    assert [receipt.shard for receipt in receipts] == [0] * 10 + [1] * len(quick)
    assert [receipt.seq for receipt in receipts] == [*range(limit + 1, limit + 11), *range(1, len(quick) + 1)]
    assert seen == [(page_ids(slow[:limit]), page_ids(quick))] * 2
    assert queued(redis_scene, 0) == page_ids(slow[limit:])


def test_every_chunk_may_wait_for_as_long_as_a_single_write(redis_scene: Scene) -> None:
    config = redis_scene.config(shards=2, max_pending=20, when_full="block", full_timeout_seconds=0.5)

    def make_room() -> None:
        redis_scene.redis.delete("pipeline.events.{0}")

    with writing(config, time := Time(*[nothing, nothing, make_room] * 3)) as writer:
        assert len(run(writer.write_many(changes_of(0, 40)))) == 40
    assert time.now - 1000 > 2 * 0.5


def test_waits_follow_the_rate_of_the_drain_and_double(redis_scene: Scene) -> None:
    config = redis_scene.config(max_pending=1, when_full="block", full_timeout_seconds=0.5)
    now_ms = 1000 * redis_scene.redis.time()[0]
    redis_scene.redis.hset(redis_scene.keys.state, mapping={"drained": 1500, "draining": 30_000, "drained_at": now_ms})
    with writing(config, time := Time()) as writer:
        run(writer.write(views(1)))
        with pytest.raises(PipelineFull):
            run(writer.write(views(1)))
    # 20 ms for one event at 50 a second; each is in the middle between 10 ms and its ceiling
    assert [round(seconds, 3) for seconds in time.sleeps[:5]] == [0.015, 0.025, 0.045, 0.085, 0.13]


def test_the_receipts_of_a_write_many_that_waited_in_vain_say_what_was_accepted(redis_scene: Scene) -> None:
    slow, quick = changes_of(0, 15), changes_of(1, 5)
    config = redis_scene.config(shards=2, max_pending=20, when_full="block", full_timeout_seconds=TIMEOUT)
    with writing(config, Time()) as writer, pytest.raises(PipelineFull) as caught:
        run(writer.write_many([*slow, *quick]))
    assert [isinstance(receipt, Receipt) for receipt in caught.value.receipts] == [True] * 10 + [False] * 5 + [True] * 5
    assert (caught.value.accepted, caught.value.shard) == (15, 0)
    assert queued(redis_scene, 0) == page_ids(slow[:10])


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_what_waited_for_room_is_as_durable_as_it_asked_for(
    make_valkey: MakeValkey, durability: Any, pipeline_on: Callable[..., Pipeline]
) -> None:
    server = make_valkey(appendonly="yes", appendfsync="always")
    pipeline = pipeline_on(server)
    config = Config(redis_url=server.url, shards=1, max_pending=2, when_full="block")

    def make_room() -> None:
        pipeline._redis.delete("pipeline.events.{0}")

    for write in (Writer.write, Writer.write_many):
        with writing(config, time := Time(nothing, make_room)) as writer:
            run(write(writer, views(1), durability=durability))
            run(write(writer, views(1), durability=durability))
            run(write(writer, views(1), durability=durability))
        assert len(time.sleeps) == 2
        assert pages(server) == [0]
        make_room()


def test_an_event_out_of_a_celery_message_never_waits_for_room(redis_scene: Scene) -> None:
    blocked: list[Step] = []
    pipeline = Pipeline(redis_scene.config(max_pending=1, when_full="block"), blocked.append)
    with pipeline:
        view(pipeline)
        with pytest.raises(PipelineFull):
            run(pipeline.ingress.accept("id", {"table": "page_views", "key": {"page_id": 1}, "add": {"n": 1}}, str))
    assert Step.BLOCKED not in blocked


@pytest.mark.parametrize(
    "write",
    [
        view,
        lambda pipeline: pipeline.delete("page_views", {"page_id": 1}),
        lambda pipeline: pipeline.insert("page_views", {"page_id": 1}),
        lambda pipeline: pipeline.write_many(views(1)),
        lambda pipeline: pipeline.write_group([Change("page_views", {"page_id": 1}, add={"n": 1})]),
    ],
    ids=["write", "delete", "insert", "write_many", "write_group"],
)
def test_whatever_is_written_waits_for_room_that_another_thread_makes(
    redis_scene: Scene, write: Callable[[Pipeline], object]
) -> None:
    blocked = threading.Event()

    def note(step: Step) -> None:
        if step is Step.BLOCKED:
            blocked.set()

    with Pipeline(redis_scene.config(max_pending=1, when_full="block"), note) as pipeline:
        view(pipeline)
        assert not blocked.is_set()
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(write(pipeline)))
        thread.start()
        assert blocked.wait(20)
        assert done == []
        redis_scene.redis.delete(redis_scene.keys.events)
        thread.join(20)
        assert done
    assert redis_scene.redis.llen(redis_scene.keys.events) == 1


def test_tasks_that_wait_for_room_keep_nobody_else_in_the_event_loop_from_writing(redis_scene: Scene) -> None:
    full, roomy = changes_of(0, 1)[0], changes_of(1, 1)[0]
    config = redis_scene.config(shards=2, max_pending=2, when_full="block")

    async def work() -> list[AsyncReceipt]:
        blocked = asyncio.Event()

        def note(step: Step) -> None:
            if step is Step.BLOCKED:
                blocked.set()

        async with AsyncPipeline(config, note) as pipeline, asyncio.timeout(20):
            await pipeline.write_group([full])
            async with asyncio.TaskGroup() as group:
                one = group.create_task(pipeline.write_group([full]))
                many = group.create_task(pipeline.write_many([full]))
                await blocked.wait()
                receipt = await pipeline.write_group([roomy])
                for task in (one, many):
                    assert not task.done()
                while not (one.done() and many.done()):
                    redis_scene.redis.delete("pipeline.events.{0}")
                    await asyncio.wait((one, many), timeout=0.01)
            return [receipt, one.result(), *many.result()]

    first, *others = asyncio.run(work())
    assert first.shard == 1
    assert sorted((receipt.shard, receipt.seq) for receipt in others) == [(0, 2), (0, 3)]
