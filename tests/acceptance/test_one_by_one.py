"""A worker that takes the ingress queue one by one: told to, or beside a flush that takes it in bulk."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from pipeline import Config, Pipeline
from pipeline.contrib._celery_guard import read_as_celery
from tests.acceptance.queues import active_queues
from tests.acceptance.waiting import wait_until

pytestmark = pytest.mark.usefixtures("worker", "beat")

EVENTS = 400


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    urls = {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
    return {**urls, "PIPELINE_INGRESS_BATCH": "0"}


@pytest.fixture(scope="module")
def database(database_url: str, migrated: None) -> Iterator[psycopg.Connection]:  # noqa: ARG001
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint DEFAULT 0, title text)")
        yield connection


@pytest.fixture
def pipeline(redis_url: str, database_url: str) -> Iterator[Pipeline]:
    """As that of another process, which does take in bulk."""
    with Pipeline(Config(redis_url=redis_url, database_url=database_url, ingress_batch=20)) as pipeline:
        yield pipeline


def send(client: Celery, page: int, **parts: Any) -> str:
    change = {"table": "page_views", "key": {"page_id": page}, "add": {"views": 1}, **parts}
    sent = client.send_task("pipeline.apply_event", kwargs=change, queue="pipeline")
    return str(sent.id)


def test_the_worker_takes_the_ingress_queue_and_what_others_have_left_of_it(client: Celery) -> None:
    assert active_queues(client) == {"pipeline", "pipeline.control", "pipeline.others"}


def test_flower_and_the_log_are_told_that_there_is_an_event_and_not_what_is_in_it(
    database: psycopg.Connection, client: Celery, worker: CeleryTestWorker
) -> None:
    told: list[dict[str, Any]] = []
    with client.connection_for_read() as connection:
        listening = client.events.Receiver(connection, handlers={"*": told.append}).itercapture(
            timeout=30, wakeup=False
        )
        next(listening)  # a heartbeat: from now on nothing is missed
        sent = send(client, 9, set={"title": "hunter2"})
        while not any(event.get("uuid") == sent and event["type"] == "task-succeeded" for event in told):
            next(listening)
    (received,) = (event for event in told if event.get("uuid") == sent and event["type"] == "task-received")
    assert (received["args"], received["kwargs"]) == ("()", "{…}")
    assert "hunter2" not in str(told)
    wait_until(lambda: database.execute("SELECT views FROM page_views WHERE page_id = 9").fetchone(), "the row")
    assert "hunter2" not in worker.logs()


def test_what_a_worker_and_a_flush_take_beside_each_other_is_applied_once(
    database: psycopg.Connection, client: Celery, pipeline: Pipeline
) -> None:
    in_bulk = 0
    for n in range(EVENTS):
        send(client, 1000 + n % 100)
        if n % 10 == 0:
            in_bulk += pipeline.take_ingress(read_as_celery).accepted

    def total() -> Any:
        return database.execute("SELECT sum(views) FROM page_views WHERE page_id >= 1000").fetchone()

    wait_until(lambda: total() == (EVENTS,), "all events")
    assert 0 < in_bulk < EVENTS
    assert pipeline.status().pending == 0
    assert total() == (EVENTS,)
