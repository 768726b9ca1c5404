"""The ingress queue is frozen by one command and judged ahead of what is written, and others flush meanwhile."""

import itertools
import json
import math
from base64 import b64decode
from contextlib import closing
from datetime import UTC, datetime

import pytest
from celery import Celery

from pipeline import Pipeline
from pipeline.arrivals import Arrivals
from pipeline.buffer.arrivals import RedisArrivals
from pipeline.buffer.keys import Keys
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.celery import register
from pipeline.driving import run
from pipeline.errors import BufferUnavailable
from pipeline.ingress import BulkIngress, Taken
from pipeline.telemetry import Step
from tests.integration.scene import Scene
from tests.unit.broken_messages import raw, stock

KEYS = Keys("pipeline", 1)
LARGE = 700_000


def event(number: int, text: str = "") -> bytes:
    change = {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}, "set": {"last": text}}
    return raw(stock(f"event-{number}", change))


def queued(scene: Scene) -> list[str]:
    messages = scene.redis.lrange(KEYS.shards[0].events, 0, -1)[::-1]
    return [json.loads(message)["headers"]["id"] for message in messages]


def names(count: int) -> list[str]:
    return [f"event-{n}" for n in range(count)]


def ticking(pipeline: Pipeline, until: float = math.inf) -> BulkIngress:
    """What takes the queue, for whom a second is over whenever it looks at the clock, ``until`` that stands still."""
    queue = RedisArrivals(pipeline._wire, pipeline._topology, pipeline.config)
    ticks = itertools.count()
    return BulkIngress(
        queue, pipeline._parts.intake, pipeline.ingress, pipeline.config,
        lambda: min(next(ticks), until), lambda: datetime.now(UTC), probe=pipeline._probe,
    )  # fmt: skip


@pytest.mark.parametrize("forbidden", ["-sort", "-memory", "-sort -memory"])
def test_a_user_who_may_not_call_a_dangerous_command_takes_it_all_the_same(redis_scene: Scene, forbidden: str) -> None:
    client = redis_scene.redis
    client.acl_setuser(
        "limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=forbidden.split()
    )
    try:
        client.lpush("pipeline", *(event(n) for n in range(100)))
        url = redis_scene.redis_url.replace("redis://", "redis://limited:any@", 1)
        pipeline = redis_scene.pipeline(redis_url=url, ingress_batch=30)
        assert pipeline.take_ingress(read_as_celery) == Taken(accepted=100)
    finally:
        client.acl_deluser("limited")
    assert queued(redis_scene) == names(100)


def test_large_messages_between_small_ones_are_taken_a_few_at_a_time(redis_scene: Scene) -> None:
    """Every second one is looked at before so many are frozen, and these are small; how many are read is exact."""
    redis_scene.redis.lpush("pipeline", *(event(n, "x" * LARGE * (n % 2 == 0)) for n in range(32)))
    arrived: list[Step] = []
    with Pipeline(redis_scene.config(max_event_bytes=1_000_000), arrived.append) as pipeline:
        assert pipeline.take_ingress(read_as_celery) == Taken(accepted=32)
    assert arrived.count(Step.ARRIVED) >= 16 * LARGE // (4 * 1024 * 1024 + LARGE)
    assert queued(redis_scene) == names(32)


def test_messages_are_judged_while_redis_writes_those_before_them(redis_scene: Scene) -> None:
    for_celery_to_read = raw(
        stock("event-500", {"table": "page_views", "key": {"page_id": 1}, "set": {"last": "__type__"}})
    )
    redis_scene.redis.lpush("pipeline", *(event(n) for n in range(500)), for_celery_to_read)
    seen: list[str] = []

    def reads(text: bytes | str) -> object:
        seen.append("judged")
        return read_as_celery(text)

    with Pipeline(redis_scene.config(), seen.append) as pipeline:
        assert pipeline.take_ingress(reads) == Taken(accepted=501)
    assert seen.index("judged") < seen.index(Step.ADMITTED)
    assert queued(redis_scene) == names(501)


def test_others_hear_of_what_they_may_flush_before_all_is_taken(redis_scene: Scene) -> None:
    redis_scene.redis.lpush("pipeline", *(event(n) for n in range(50)))
    pipeline = redis_scene.pipeline(ingress_batch=10, flush_interval_seconds=1000, flush_slice_seconds=1000)
    heard: list[int] = []
    taken = run(ticking(pipeline).take("me", read_as_celery, lambda: heard.append(len(queued(redis_scene)))))
    assert taken == Taken(accepted=50)
    assert heard == [10, 20, 30, 40, 50]


def test_what_goes_wrong_when_others_hear_of_it_ends_the_taking_and_loses_nothing(redis_scene: Scene) -> None:
    redis_scene.redis.lpush("pipeline", *(event(n) for n in range(50)))
    pipeline = redis_scene.pipeline(ingress_batch=10, flush_interval_seconds=1000, flush_slice_seconds=1000)

    def fail() -> None:
        raise BufferUnavailable("away")

    taken = run(ticking(pipeline).take("me", read_as_celery, fail))
    assert (taken.accepted, taken.error) == (10, str(BufferUnavailable("away")))
    assert pipeline.take_ingress(read_as_celery) == Taken(accepted=40)
    assert queued(redis_scene) == names(50)


def test_the_flush_asks_other_workers_to_flush_what_it_has_taken_so_far(scene: Scene) -> None:
    scene.sql("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0, last text)")
    scene.redis.lpush("pipeline", *(event(n) for n in range(50)))
    pipeline = scene.pipeline(ingress_batch=10, flush_interval_seconds=1000)
    pipeline.__dict__["_bulk_ingress"] = ticking(pipeline)
    with closing(Celery("shop", broker=scene.redis_url, set_as_current=False)) as app:
        register(app, pipeline)
        app.tasks["pipeline.flush"]()
    (asked,) = scene.redis.lrange(KEYS.control, 0, -1)
    assert json.loads(asked)["headers"]["task"] == "pipeline.flush_shard"


def test_what_another_worker_has_left_in_a_shard_is_asked_for_again(scene: Scene) -> None:
    """It was at shard 0 when this one had taken everything, and has flushed shard 1 before."""
    scene.sql("CREATE TABLE log (what int)")
    inserts = [{"table": "log", "insert": {"what": n}, "shard_by": str(n)} for n in range(50)]
    scene.redis.lpush("pipeline", *(raw(stock(f"event-{n}", change)) for n, change in enumerate(inserts)))
    shards = Keys("pipeline", 2).shards
    placed = 0

    def other_worker(step: Step) -> None:
        nonlocal placed
        placed += step is Step.PLACED
        if step is Step.PLACED and placed == 5:
            scene.redis.delete(KEYS.control)
            for shard in shards:
                scene.redis.hdel(shard.state, "wanted")
            scene.redis.set(shards[0].lease, "other")
        elif step is Step.ACKNOWLEDGED:
            scene.redis.delete(shards[0].lease)

    config = scene.config(shards=2, ingress_batch=10, flush_interval_seconds=1000, flush_slice_seconds=1000)
    with Pipeline(config, other_worker) as pipeline:
        pipeline.__dict__["_bulk_ingress"] = ticking(pipeline, until=8)
        with closing(Celery("shop", broker=scene.redis_url, set_as_current=False)) as app:
            register(app, pipeline)
            assert app.tasks["pipeline.flush"]() == [1]
    (asked,) = scene.redis.lrange(KEYS.control, 0, -1)
    assert json.loads(b64decode(json.loads(asked)["body"]))[:2] == [[0], {}]


def test_who_reads_what_somebody_else_has_frozen_meanwhile_takes_nothing(redis_scene: Scene) -> None:
    """Between the freezing and the reading of messages there is a moment."""
    redis_scene.redis.lpush("pipeline", event(1))
    pipeline = redis_scene.pipeline()
    queue = RedisArrivals(pipeline._wire, pipeline._topology, pipeline.config)
    taken = run(queue.take("me"))
    assert isinstance(taken, Arrivals)

    async def read(batch: str, dropped: int) -> list[bytes] | None:
        async with pipeline._wire.line() as line:
            return await queue._messages(line, batch.encode(), b"%d" % dropped, 1)

    assert run(read(taken.batch, 0)) == [event(1)]
    assert run(read(taken.batch, 1)) is None
    assert run(read("another", 0)) is None
