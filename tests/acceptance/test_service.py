"""The service as its users run it: any Celery client publishes, worker and beat bring it to PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Change, Config, Pipeline
from pipeline.contrib.celery import register
from tests.acceptance.queues import active_queues
from tests.acceptance.waiting import wait_until

pytestmark = pytest.mark.usefixtures("worker", "beat")

SCHEMA = """
CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0, title text);
CREATE TABLE sample (
    id integer PRIMARY KEY, price numeric, at timestamptz, day date, clock time, took interval, token uuid, raw bytea,
    document jsonb
);
"""
SAMPLE = {
    "price": Decimal("12345678901234567890.123456789"),
    "at": datetime(2026, 2, 28, 12, 30, 15, 123456, UTC),
    "day": date(2026, 2, 28),
    "clock": time(23, 59, 59, 999999),
    "took": timedelta(days=1, seconds=2, microseconds=3),
    "token": UUID("01a1ffc6-6b70-7c36-8467-b1a02e348ea7"),
    "raw": b"\x00\xff",
    "document": {"a": [1, None, "x"]},
}


@pytest.fixture(scope="module")
def database(database_url: str, migrated: None) -> Iterator[psycopg.Connection]:  # noqa: ARG001
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection


@pytest.fixture(scope="module")
def pipeline(redis_url: str, database_url: str, worker: CeleryTestWorker, beat: CeleryTestNode) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


def views(database: psycopg.Connection, page: int) -> int | None:
    row = database.execute("SELECT views FROM page_views WHERE page_id = %s", (page,)).fetchone()
    return row[0] if row else None


def test_what_the_application_writes_reaches_postgres(database: psycopg.Connection, pipeline: Pipeline) -> None:
    pipeline.write("page_views", key={"page_id": 1}, add={"views": 2}, set={"title": "Home"})
    wait_until(lambda: views(database, 1) == 2, "the row")


def test_a_foreign_client_can_publish_by_name(database: psycopg.Connection, client: Celery) -> None:
    client.send_task(
        "pipeline.apply_event",
        kwargs={"table": "page_views", "key": {"page_id": 2}, "add": {"views": 5}},
        queue="pipeline",
    )
    wait_until(lambda: views(database, 2) == 5, "the row")


def test_delay_carries_every_type_of_value(database: psycopg.Connection, pipeline: Pipeline, redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    register(app, pipeline)
    app.tasks["pipeline.apply_event"].delay(table="sample", key={"id": 1}, set=SAMPLE)
    wait_until(lambda: database.execute("SELECT FROM sample WHERE id = 1").fetchone() is not None, "the row")
    row = database.execute(
        "SELECT price, at, day, clock, took, token, raw, document FROM sample WHERE id = 1"
    ).fetchone()
    assert row == tuple(SAMPLE.values())
    app.close()


def test_delay_refuses_positional_arguments_at_once(pipeline: Pipeline, redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    register(app, pipeline)
    with pytest.raises(TypeError, match="keyword arguments only"):
        app.tasks["pipeline.apply_event"].delay("page_views", {"page_id": 1})
    app.close()


def test_a_message_that_is_delivered_twice_is_applied_once(database: psycopg.Connection, client: Celery) -> None:
    arguments = {"table": "page_views", "key": {"page_id": 3}, "add": {"views": 1}}
    for _ in range(3):
        client.send_task("pipeline.apply_event", kwargs=arguments, queue="pipeline", task_id="the-same-id")
    client.send_task(
        "pipeline.apply_event",
        kwargs={"table": "page_views", "key": {"page_id": 4}, "add": {"views": 1}},
        queue="pipeline",
    )
    wait_until(lambda: views(database, 4) == 1, "the event behind them")
    wait_until(lambda: views(database, 3) is not None, "the event itself")
    assert views(database, 3) == 1


def test_an_event_that_is_no_event_becomes_a_dead_letter_with_its_message(pipeline: Pipeline, client: Celery) -> None:
    sent = client.send_task("pipeline.apply_event", kwargs={"table": "page_views", "bogus": 1}, queue="pipeline")
    wait_until(lambda: any(letter.event_id == sent.id for letter in pipeline.dead_letters.page()), "the dead letter")
    letter = next(letter for letter in pipeline.dead_letters.page() if letter.event_id == sent.id)
    assert "bogus" in letter.reason
    assert b"bogus" in letter.message


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"table": "page_views", "key": {"page_id": 77}, "set": {"title": "x" * 300_000}}, "PIPELINE_MAX_EVENT_BYTES"),
        (
            {"changes": [{"table": "page_views", "key": {"page_id": n}, "add": {"views": 1}} for n in (77, 78)]},
            "give shard_by=",
        ),
        ({"table": "pipeline.shard", "key": {"namespace": "x", "shard": 0}, "set": {"seq": 1}}, "the pipeline itself"),
    ],
)
def test_what_the_write_side_refuses_no_client_can_publish(
    database: psycopg.Connection, pipeline: Pipeline, client: Celery, arguments: dict[str, object], reason: str
) -> None:
    sent = client.send_task("pipeline.apply_event", kwargs=arguments, queue="pipeline")
    wait_until(lambda: any(letter.event_id == sent.id for letter in pipeline.dead_letters.page()), "the dead letter")
    letter = next(letter for letter in pipeline.dead_letters.page() if letter.event_id == sent.id)
    assert reason in letter.reason
    assert views(database, 77) is None


def test_a_message_in_a_shard_queue_is_flushed_although_a_client_put_it_there(
    database: psycopg.Connection, client: Celery
) -> None:
    client.send_task(
        "pipeline.apply_event",
        kwargs={"table": "page_views", "key": {"page_id": 5}, "add": {"views": 7}},
        queue="pipeline.events.{0}",
    )
    wait_until(lambda: views(database, 5) == 7, "the row")


def test_a_burst_is_flushed_before_the_next_tick_and_leaves_nothing_pending(
    database: psycopg.Connection, pipeline: Pipeline
) -> None:
    pipeline.write_many(Change("page_views", key={"page_id": 1000 + n % 100}, add={"views": 1}) for n in range(20_000))
    wait_until(lambda: pipeline.status().pending == 0, "an empty pipeline")
    row = database.execute("SELECT count(*), sum(views) FROM page_views WHERE page_id >= 1000").fetchone()
    assert row == (100, 20_000)


def test_the_worker_leaves_the_ingress_queue_and_the_shard_queues_to_the_flush(
    client: Celery, worker: CeleryTestWorker
) -> None:
    assert active_queues(client) == {"pipeline.control", "pipeline.others"}
    assert worker.container.status == "running"


def test_the_events_of_one_client_take_effect_in_the_order_in_which_it_sent_them(
    database: psycopg.Connection, client: Celery
) -> None:
    for n in range(500):
        change = {"table": "page_views", "key": {"page_id": 6}, "add": {"views": 1}, "set": {"title": str(n)}}
        client.send_task("pipeline.apply_event", kwargs=change, queue="pipeline")
    wait_until(lambda: views(database, 6) == 500, "all of them")
    assert database.execute("SELECT title FROM page_views WHERE page_id = 6").fetchone() == ("499",)
