"""The ingress queue is taken in bulk: each event once and in order, and what is no event goes where it belongs."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from celery import Celery

from pipeline import Change, Pipeline
from pipeline.buffer.keys import Keys
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.celery import register
from pipeline.driving import run
from pipeline.ingress import Taken
from pipeline.telemetry import Probe, Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, dead, drain, eventually
from tests.unit.broken_messages import raw, stock

KEYS = Keys("pipeline", 8)
SCHEMA = "CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0, last text)"


def event(number: int, page: int = 1, **headers: Any) -> bytes:
    change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}, "set": {"last": str(number)}}
    return raw(stock(f"event-{number}", change, **headers))


def ids(messages: list[bytes]) -> list[str]:
    """Of messages as Redis lists them, oldest first."""
    return [json.loads(message)["headers"]["id"] for message in messages[::-1]]


def queued(scene: Scene, shard: int = 0) -> list[str]:
    return ids(scene.redis.lrange(KEYS.shards[shard].events, 0, -1))


def send(scene: Scene, *messages: bytes) -> None:
    scene.redis.lpush("pipeline", *messages)


def take(pipeline: Pipeline) -> Taken:
    return pipeline.take_ingress(read_as_celery)


def nothing_is_left(scene: Scene) -> bool:
    names = [key.decode() for key in scene.redis.keys("pipeline.ingress.*") + scene.redis.keys("pipeline.waiting.*")]
    return not names and not scene.redis.exists(*KEYS.ingress)


def test_events_are_accepted_in_the_order_in_which_they_were_sent(redis_scene: Scene) -> None:
    send(redis_scene, *(event(n, n % 7) for n in range(100)))
    assert take(redis_scene.pipeline(ingress_batch=30)) == Taken(accepted=100)
    assert queued(redis_scene) == [f"event-{n}" for n in range(100)]
    assert nothing_is_left(redis_scene)


def test_every_shard_gets_its_events_in_order(redis_scene: Scene) -> None:
    send(redis_scene, *(event(n, n % 50) for n in range(1000)))
    assert take(redis_scene.pipeline(shards=8, ingress_batch=300)).accepted == 1000
    lanes = [[int(name.partition("-")[2]) for name in queued(redis_scene, shard)] for shard in range(8)]
    assert sorted(chain.from_iterable(lanes)) == list(range(1000))
    assert all(lane == sorted(lane) for lane in lanes)
    assert sum(map(bool, lanes)) == 8


def test_what_is_delivered_again_is_accepted_once(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    send(redis_scene, event(1), event(2), event(1))
    take(pipeline)
    send(redis_scene, event(2), event(3))  # as Celery restores what a worker had not acknowledged
    take(pipeline)
    assert queued(redis_scene) == ["event-1", "event-2", "event-3"]


def test_a_priority_is_served_as_celery_serves_it(redis_scene: Scene) -> None:
    for n, name in enumerate(reversed(KEYS.ingress)):
        redis_scene.redis.lpush(name, event(n))
    assert [name.removeprefix("pipeline") for name in KEYS.ingress] == ["", "\x06\x163", "\x06\x166", "\x06\x169"]
    take(redis_scene.pipeline())
    assert queued(redis_scene) == ["event-3", "event-2", "event-1", "event-0"]


def test_large_messages_are_taken_a_few_at_a_time(redis_scene: Scene) -> None:
    """The memory of who takes them has a bound, and Redis is not held for long."""
    large = {"table": "page_views", "key": {"page_id": 1}, "set": {"last": "x" * 700_000}}
    send(redis_scene, *(raw(stock(f"event-{n}", large)) for n in range(12)))
    arrived: list[Step] = []
    with Pipeline(redis_scene.config(max_event_bytes=1_000_000), arrived.append) as pipeline:
        assert take(pipeline) == Taken(accepted=12)
    assert arrived.count(Step.ARRIVED) == 3  # four megabytes at once
    assert queued(redis_scene) == [f"event-{n}" for n in range(12)]


def test_what_only_celery_can_handle_is_left_to_it_in_order_and_not_looked_at_again(redis_scene: Scene) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    of_celery = [
        raw(stock("greet-1", task="shop.greet")),
        event(2, eta=later),
        raw(stock("greet-3", task="shop.greet")),
    ]
    send(redis_scene, event(0), of_celery[0], of_celery[1], event(1), of_celery[2])
    pipeline = redis_scene.pipeline()
    assert take(pipeline) == Taken(accepted=2, for_celery=3)
    assert redis_scene.redis.lrange("pipeline.others", 0, -1)[::-1] == of_celery
    assert take(pipeline) == Taken()
    assert queued(redis_scene) == ["event-0", "event-1"]
    assert nothing_is_left(redis_scene)


def test_what_is_no_event_is_a_dead_letter_with_its_bytes_once_each(scene: Scene) -> None:
    scene.sql(SCHEMA)
    nonsense = [b"nonsense", b"nonsense", b"\x80", event(7, expires="2020-01-01T00:00:00+00:00")]
    send(scene, event(0), *nonsense, event(1))
    pipeline = scene.pipeline()
    assert take(pipeline) == Taken(accepted=2, refused=4)
    drain(pipeline)
    assert sorted(letter.message for letter in dead(pipeline)) == sorted(nonsense)
    assert scene.sql("SELECT views, last FROM page_views") == [(2, "1")]


@pytest.mark.parametrize("settings", [{"tables": ("orders",)}, {"write_through_tables": ("page_views",)}])
def test_a_table_that_may_not_be_written_is_refused_as_by_a_worker(scene: Scene, settings: dict[str, Any]) -> None:
    pipeline = scene.pipeline(**settings)
    send(scene, event(1))
    assert take(pipeline) == Taken(refused=1)
    drain(pipeline)
    (letter,) = dead(pipeline)
    assert (letter.event_id, letter.message) == ("event-1", event(1))


def test_nothing_is_taken_from_another_broker(redis_scene: Scene) -> None:
    send(redis_scene, event(1))
    pipeline = redis_scene.pipeline(broker_url="amqp://guest@nowhere.invalid//")
    assert take(pipeline) == Taken()
    assert redis_scene.redis.llen("pipeline") == 1


def test_nothing_is_taken_where_workers_do_but_what_was_frozen_finds_its_place(redis_scene: Scene) -> None:
    send(redis_scene, event(1))
    with stopped_at(redis_scene, Step.ARRIVED):
        send(redis_scene, event(2))
        assert take(redis_scene.pipeline(ingress_batch=0)) == Taken(accepted=1)
    assert queued(redis_scene) == ["event-1"]
    assert redis_scene.redis.llen("pipeline") == 1


# --- full


def full_shard(scene: Scene) -> int:
    """Four more events are taken than its shard holds; which shard that is."""
    send(scene, *(event(n) for n in range(8)))
    assert take(scene.pipeline(shards=8, max_pending=32)) == Taken(accepted=4, waiting=4)
    (shard,) = (shard for shard in range(8) if queued(scene, shard))
    return shard


def test_a_full_shard_does_not_hold_up_the_others(redis_scene: Scene) -> None:
    shard = full_shard(redis_scene)
    send(redis_scene, event(8), *(event(100 + page, page) for page in range(2, 20)), event(9))
    pipeline = redis_scene.pipeline(shards=8, max_pending=32)
    taken = take(pipeline)
    assert taken.accepted + taken.waiting == 20
    assert queued(redis_scene, shard) == [f"event-{n}" for n in range(4)]
    assert sum(len(queued(redis_scene, other)) for other in range(8) if other != shard) == taken.accepted >= 9
    waiting = ids(redis_scene.redis.lrange(KEYS.shards[shard].waiting, 0, -1))
    assert [name for name in waiting if len(name) == len("event-4")] == [f"event-{n}" for n in range(4, 10)]


def test_what_waits_for_room_is_accepted_in_order_as_room_is_made(scene: Scene) -> None:
    scene.sql(SCHEMA)
    shard = full_shard(scene)
    pipeline = scene.pipeline(shards=8, max_pending=32)
    send(scene, *(event(n) for n in range(8, 30)))
    seen = []
    while not nothing_is_left(scene):
        seen += queued(scene, shard)
        drain(pipeline)
        take(pipeline)
    assert seen + queued(scene, shard) == [f"event-{n}" for n in range(30)]
    drain(pipeline)
    assert scene.sql("SELECT views, last FROM page_views") == [(30, "29")]


def test_as_many_are_accepted_as_have_room(redis_scene: Scene) -> None:
    full_shard(redis_scene)
    roomier = redis_scene.pipeline(shards=8, max_pending=8 * 7)
    assert take(roomier) == Taken(accepted=3)
    assert redis_scene.redis.smembers("pipeline.ingress.full") != set()
    assert take(redis_scene.pipeline(shards=8, max_pending=8 * 8)) == Taken(accepted=1)
    assert nothing_is_left(redis_scene)


def test_what_finds_its_room_taken_waits_on_in_front_of_what_is_newer(redis_scene: Scene) -> None:
    shard = full_shard(redis_scene)
    send(redis_scene, event(8))
    other = redis_scene.pipeline(shards=8)
    seen: list[Step] = []

    def take_the_room(step: Step) -> None:
        seen.append(step)
        if seen.count(Step.ARRIVED) == 2 and step is Step.ARRIVED:
            other.write_many(Change("page_views", {"page_id": 1}) for _ in range(4))

    with Pipeline(redis_scene.config(shards=8, max_pending=8 * 8), take_the_room) as pipeline:
        assert take(pipeline) == Taken(waiting=1 + 4)
    assert ids(redis_scene.redis.lrange(KEYS.shards[shard].waiting, 0, -1)) == [f"event-{n}" for n in range(4, 9)]


def test_doctor_counts_what_was_taken_and_has_not_found_its_place(redis_scene: Scene) -> None:
    full_shard(redis_scene)
    send(redis_scene, raw(stock(task="shop.greet")), event(100, eta="2100-01-01T00:00:00+00:00"))
    pipeline = redis_scene.pipeline(shards=8, max_pending=32)
    take(pipeline)
    redis_scene.redis.lpush(KEYS.ingress[2], event(101))
    (broker,) = (finding for finding in pipeline.doctor() if finding.check == "broker")
    assert "and 7 events wait" in broker.message


def test_a_full_redis_loses_nothing_and_takes_it_when_it_has_room(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    pipeline.ping()
    send(redis_scene, event(0), b"nonsense", event(1))
    redis_scene.redis.config_set("maxmemory", 1)
    try:
        assert "OutOfMemory" in (take(pipeline).error or "")
        assert "OutOfMemory" in (take(pipeline).error or "")
    finally:
        redis_scene.redis.config_set("maxmemory", 0)
    assert take(pipeline) == Taken(accepted=2, refused=1)
    assert sorted(queued(redis_scene))[:2] == ["event-0", "event-1"]
    assert len(queued(redis_scene)) == 3  # the broken one was handed over once, although it was taken three times
    assert nothing_is_left(redis_scene)


@pytest.mark.parametrize("shard", ["99", "none"])
def test_a_bug_in_taking_the_queue_does_not_stop_the_flush(scene: Scene, shard: str) -> None:
    scene.sql(SCHEMA)
    pipeline = scene.pipeline()
    pipeline.write("page_views", {"page_id": 1}, add={"views": 1})
    scene.redis.sadd("pipeline.ingress.full", shard)
    with closing(Celery("shop", broker=scene.redis_url, set_as_current=False)) as app:
        register(app, pipeline)
        app.tasks["pipeline.flush"]()
    assert scene.sql("SELECT views FROM page_views") == [(1,)]


# --- several who take


def killed(scene: Scene, probe: Probe, **settings: Any) -> None:
    """Somebody has taken what there was until ``probe`` killed him, and his lease is over."""
    assert in_child(scene.config(lease_seconds=0.02, **settings), probe, take) == KILLED
    eventually(lambda: not scene.redis.exists("pipeline.ingress.lease"), "the end of its lease")


@contextmanager
def stopped_at(scene: Scene, step: Step, **settings: Any) -> Iterator[None]:
    """In the block, somebody else has taken what there was, and died at ``step``."""
    killed(scene, die_at(step), **settings)
    yield


def test_one_takes_at_a_time(redis_scene: Scene) -> None:
    send(redis_scene, event(1), event(2))
    other = redis_scene.pipeline()
    seen: list[Taken] = []

    def meanwhile(step: Step) -> None:
        if step is Step.ARRIVED:
            seen.append(take(other))

    with Pipeline(redis_scene.config(), meanwhile) as pipeline:
        assert take(pipeline).accepted == 2
    assert seen == [Taken()]


@pytest.mark.parametrize("step", [Step.ARRIVED, Step.ADMITTED])
def test_who_has_slept_over_its_lease_doubles_nothing_and_drops_nothing_of_others(
    redis_scene: Scene, step: Step
) -> None:
    send(redis_scene, *(event(n) for n in range(5)))
    other = redis_scene.pipeline(ingress_batch=5)

    def sleep(taken: Step) -> None:
        if taken is step and not queued_by_other:
            eventually(lambda: not redis_scene.redis.exists("pipeline.ingress.lease"), "the end of its lease")
            take(other)
            send(redis_scene, *(event(n) for n in range(5, 10)))
            with stopped_at(redis_scene, Step.ARRIVED, ingress_batch=5):
                queued_by_other.append(True)

    queued_by_other: list[bool] = []
    with Pipeline(redis_scene.config(lease_seconds=0.02, ingress_batch=5), sleep) as pipeline:
        take(pipeline)
    take(other)
    assert queued(redis_scene) == [f"event-{n}" for n in range(10)]
    assert nothing_is_left(redis_scene)


def test_a_message_that_ends_whoever_takes_it_is_left_to_celery_and_its_neighbours_are_accepted(
    redis_scene: Scene,
) -> None:
    deadly = raw(stock("deadly", {"table": "page_views", "key": {"page_id": 1}, "set": {"last": "__type__"}}))
    send(redis_scene, *(event(n) for n in range(20)), deadly, *(event(n) for n in range(20, 40)))

    def read_and_die(text: bytes | str) -> object:
        os.kill(os.getpid(), signal.SIGKILL)
        return text

    deaths = 0
    config = redis_scene.config(lease_seconds=0.02, flush_interval_seconds=5)
    while in_child(config, lambda _: None, lambda pipeline: pipeline.take_ingress(read_and_die)) == KILLED:
        deaths += 1
        eventually(lambda: not redis_scene.redis.exists("pipeline.ingress.lease"), "the end of its lease")
        assert deaths < 10
    assert deaths <= 9  # log2(41) + 3
    assert redis_scene.redis.lrange("pipeline.others", 0, -1) == [deadly]
    assert queued(redis_scene) == [f"event-{n}" for n in range(40)]
    assert nothing_is_left(redis_scene)


def test_what_comes_after_a_suspect_is_taken_together_and_not_suspected_for_one_kill(redis_scene: Scene) -> None:
    send(redis_scene, *(event(n) for n in range(30)))
    while redis_scene.redis.hmget("pipeline.ingress.state", "most", "deaths") != [b"1", b"5"]:
        killed(redis_scene, die_at(Step.ARRIVED))
    seen: list[Step] = []

    def die_after_the_suspect(step: Step) -> None:
        seen.append(step)
        if step is Step.ARRIVED and Step.PLACED in seen:
            os.kill(os.getpid(), signal.SIGKILL)

    killed(redis_scene, die_after_the_suspect)
    assert redis_scene.redis.lrange("pipeline.others", 0, -1) == [event(0)]
    arrived: list[Step] = []
    with Pipeline(redis_scene.config(), arrived.append) as pipeline:
        assert take(pipeline) == Taken(accepted=29)
    assert arrived.count(Step.ARRIVED) == 2


def test_deaths_over_what_was_accepted_then_are_no_reason_to_suspect_what_follows(redis_scene: Scene) -> None:
    send(redis_scene, *(event(n) for n in range(4)))
    for _ in range(2):
        killed(redis_scene, die_at(Step.ARRIVED))
    killed(redis_scene, die_at(Step.ARRIVED, 3))  # it took one at a time, and placed two
    assert queued(redis_scene) == ["event-0", "event-1"]
    assert take(redis_scene.pipeline()) == Taken(accepted=2)


def test_a_single_event_is_not_suspected_for_two_kills(redis_scene: Scene) -> None:
    send(redis_scene, event(1))
    for step in (Step.ARRIVED, Step.ADMITTED):
        killed(redis_scene, die_at(step))
    assert take(redis_scene.pipeline()) == Taken(accepted=1)
    assert queued(redis_scene) == ["event-1"]


def test_a_failure_is_no_death(redis_scene: Scene) -> None:
    """What is taken in vain, again and again, is not suspected, or an outage would break the order."""
    send(redis_scene, event(0), event(1))

    def stop(step: Step) -> None:
        if step is Step.ARRIVED:
            raise InterruptedError

    with Pipeline(redis_scene.config(), stop) as pipeline:
        for _ in range(5):
            with pytest.raises(InterruptedError):
                take(pipeline)
    assert take(redis_scene.pipeline()) == Taken(accepted=2)
    assert not redis_scene.redis.exists("pipeline.others")


def test_a_worker_that_takes_messages_beside_it_loses_and_doubles_nothing(scene: Scene) -> None:
    """A worker has taken some of them, and is to be delivered others again; see also tests/acceptance."""
    scene.sql(SCHEMA)
    pipeline = scene.pipeline(ingress_batch=10)
    send(scene, *(event(n, n) for n in range(50)))
    of_worker = [scene.redis.rpop("pipeline") for _ in range(20)]
    for message in of_worker[:10]:
        found = json.loads(message)
        run(pipeline.ingress.accept(found["headers"]["id"], json.loads(found["body"])[1], str))
    scene.redis.rpush("pipeline", *of_worker[5:])  # it died: five of these were accepted and not acknowledged
    take(pipeline)
    drain(pipeline)
    assert scene.sql("SELECT count(*), sum(views) FROM page_views") == [(50, 50)]
