"""Who meets broken messages goes on: each becomes a dead letter as it was, and what is behind it arrives.

The tests of `test_malformed_ingress`, where the flush takes them in bulk, and of `test_malformed_one_by_one`.
"""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery
from celery.canvas import signature
from psycopg import sql
from pytest_celery import CeleryTestWorker

from pipeline import Config, Pipeline
from pipeline.ports import DeadLetter
from tests.acceptance.waiting import wait_until
from tests.unit.broken_messages import AT_THE_DOOR, BODIES, EIGHT, ENVELOPES, body, raw, stock

TASK = "pipeline.apply_event"
# the door looks at the size first, so one of the two big ones is enough: they take their time
DOOR = {kind: message for kind, message in AT_THE_DOOR.items() if not kind.startswith("fifty megabytes")}
numbers = itertools.count(1000)


@pytest.fixture(scope="module")
def database(database_url: str, migrated: None) -> Iterator[psycopg.Connection]:  # noqa: ARG001
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint DEFAULT 0, title text)")
        yield connection


@pytest.fixture(scope="module")
def pipeline(redis_url: str, database_url: str) -> Iterator[Pipeline]:
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def broker(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def goes_on(worker: CeleryTestWorker, database: psycopg.Connection, client: Celery) -> Iterator[Callable[[], None]]:
    """Afterwards, and when it is called, the same worker has taken an event that was sent behind all others."""
    pid = worker.container.pid

    def check() -> None:
        page = next(numbers)
        change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}}
        client.send_task(TASK, kwargs=change, queue="pipeline")
        wait_until(lambda: views(database, page) == 1, "the event behind it")
        assert (worker.container.status, worker.container.pid) == ("running", pid)
        assert "Connection to broker lost" not in worker.logs()

    yield check
    check()


def views(database: psycopg.Connection, page: int) -> int | None:
    row = database.execute("SELECT views FROM page_views WHERE page_id = %s", (page,)).fetchone()
    return row[0] if row else None


def reasons(database: psycopg.Connection, message: bytes) -> list[str]:
    """Of the dead letters with exactly these bytes."""
    letters = """SELECT reason FROM pipeline.dead_letter
        WHERE CASE WHEN octet_length(message) = %s THEN sha256(message) = %s ELSE false END"""  # some have 50 megabytes
    return [reason for (reason,) in database.execute(letters, (len(message), sha256(message).digest()))]


@pytest.mark.parametrize("kind", EIGHT)
def test_a_broken_message_becomes_a_dead_letter_and_nothing_behind_it_waits(
    kind: str, broker: Any, database: psycopg.Connection, goes_on: Callable[[], None]
) -> None:
    message, reason = EIGHT[kind]
    broker.lpush("pipeline", message)
    goes_on()
    wait_until(lambda: reasons(database, message), "its dead letter")
    assert [reason in found for found in reasons(database, message)] == [True]
    wait_until(lambda: broker.hlen("unacked") == 0, "nothing left in the worker")


@pytest.mark.parametrize("kinds", [ENVELOPES, BODIES, DOOR], ids=["envelopes", "bodies", "at the door"])
def test_broken_messages_among_good_ones_hold_up_none_of_them(
    kinds: dict[str, tuple[bytes, str]], broker: Any, database: psycopg.Connection, goes_on: Callable[[], None]
) -> None:
    pages = {next(numbers): kind for kind in kinds}
    for page, kind in pages.items():
        broker.lpush("pipeline", kinds[kind][0], raw(envelope(page)))
    wait_until(lambda: all(views(database, page) == 1 for page in pages), "the events behind them")
    goes_on()
    wait_until(lambda: all(reasons(database, message) for message, _ in kinds.values()), "their dead letters")
    for kind, (message, reason) in kinds.items():
        assert [reason in found for found in reasons(database, message)] == [True], kind


def test_a_broken_message_in_the_control_queue_ends_no_worker(
    broker: Any, pipeline: Pipeline, goes_on: Callable[[], None]
) -> None:
    sent = [raw({"control": 1}), raw({**stock(task="pipeline.flush"), "body": "no body"})]
    for message in sent:
        broker.lpush("pipeline.control", message)
        goes_on()
    wait_until(
        lambda: all(any(same(message, letter) for letter in pipeline.dead_letters.page()) for message in sent), "both"
    )


def same(message: bytes, letter: DeadLetter) -> bool:
    try:
        return bool(json.loads(letter.message) == json.loads(message))
    except ValueError:
        return False


def test_a_stampede_of_broken_messages_delays_nobody(
    broker: Any, pipeline: Pipeline, goes_on: Callable[[], None]
) -> None:
    before = pipeline.dead_letters.extent().count
    broker.lpush("pipeline", *(b"nonsense %d" % n for n in range(2000)))
    goes_on()
    wait_until(lambda: pipeline.dead_letters.extent().count == before + 2000, "all dead letters")


def envelope(page: int, third: object = None, **headers: Any) -> dict[str, Any]:
    change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}}
    message = stock(f"id-{page}", **headers)
    return {**message, "body": json.dumps([[], change, third])}


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()


ODD: dict[str, Callable[[int], bytes]] = {
    "callbacks that nobody can run": lambda page: raw(envelope(page, {"callbacks": [{"task": "no.such.task"}]})),
    "callbacks that are no signatures": lambda page: raw(envelope(page, {"callbacks": [{"subtask_type": "x"}]})),
    "a chord that is none": lambda page: raw(envelope(page, {"chord": {"task": 7}})),
    "an eta": lambda page: raw(envelope(page, eta=soon())),
    "an expiry to come": lambda page: raw(envelope(page, expires="2100-01-01T00:00:00+00:00")),
    "a time limit that nobody can keep": lambda page: raw(envelope(page, timelimit=[0.000001, 0.000001])),
    "a compressed body": lambda page: body(
        zlib.compress(envelope(page)["body"].encode()), compression="application/x-gzip", task_id=f"id-{page}"
    ),
    "protocol 1": lambda page: raw(
        {
            **stock(),
            "headers": {},
            "body": json.dumps(
                {"task": TASK, "id": f"id-{page}", "args": [], "kwargs": json.loads(envelope(page)["body"])[1]}
            ),
        }
    ),
    "a duplicate key": lambda page: raw(envelope(page)).replace(b'"lang"', b'"id": "an-id", "lang"'),
    "none where nothing is given": lambda page: raw(
        {**envelope(page), "body": envelope(page)["body"].replace('"add"', '"set": null, "delete": null, "add"')}
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_message_that_is_an_event_is_applied_once(
    kind: str, broker: Any, database: psycopg.Connection, goes_on: Callable[[], None]
) -> None:
    page = next(numbers)
    broker.lpush("pipeline", ODD[kind](page))
    wait_until(lambda: views(database, page) is not None, "the row")
    goes_on()
    assert views(database, page) == 1


@pytest.mark.parametrize("column", ["missing", 'x"); DROP TABLE page_views; --', "two\nlines"])
def test_an_event_with_a_column_that_does_not_exist_waits_and_nothing_behind_it_does(
    column: str, client: Celery, database: psycopg.Connection, pipeline: Pipeline, goes_on: Callable[[], None]
) -> None:
    dead = pipeline.dead_letters.extent().count
    first, *others = (next(numbers) for _ in range(51))

    def send(page: int, **parts: Any) -> None:
        change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}, "shard_by": "one"}
        client.send_task(TASK, kwargs={**change, **parts}, queue="pipeline")

    send(first, set={column: "x"})
    wait_until(lambda: any(shard.paused for shard in pipeline.status().shards), "the pause")
    for page in others:
        send(page)
    send(first)
    wait_until(lambda: all(views(database, page) == 1 for page in others), "the events behind it")
    goes_on()
    wait_until(lambda: sum(shard.parked for shard in pipeline.status().shards) == 2, "its row's next event beside it")
    assert views(database, first) is None
    database.execute(sql.SQL("ALTER TABLE page_views ADD COLUMN {} text").format(sql.Identifier(column)))
    wait_until(lambda: views(database, first) == 2, "both events of the row")
    assert pipeline.status().healthy
    assert pipeline.dead_letters.extent().count == dead


def test_options_of_a_client_do_no_harm(
    client: Celery, database: psycopg.Connection, goes_on: Callable[[], None]
) -> None:
    page = next(numbers)
    change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}}
    link = signature("pipeline.prune_ledger", app=client, immutable=True, queue="pipeline.control")
    client.send_task(
        TASK,
        kwargs=change,
        queue="pipeline",
        countdown=0.1,
        expires=60,
        link=link,
        link_error=link,
        compression="bzip2",
    )
    wait_until(lambda: views(database, page) == 1, "the row")
    goes_on()
