"""Full shards and a flood of events that are refused for it: the flush that makes room is not starved by them.

Each refused event keeps a process of a worker busy for two seconds. When workers were away, beat has left ticks that
have expired; a worker that took the queues in turns would drop one of them between two refused events.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery

from pipeline import Config, Pipeline
from tests.acceptance.nodes import ProcessWorker
from tests.acceptance.waiting import wait_until

MakeWorker = Callable[..., ProcessWorker]

SHOP = '''
"""A Celery app with queues of its own, which it takes in turns."""

from celery import Celery

from pipeline import Pipeline
from pipeline.contrib.celery import register

pipeline = Pipeline.from_env()
app = Celery("shop", broker=pipeline.config.broker_url, set_as_current=True)
app.conf.worker_prefetch_multiplier = 1
register(app, pipeline)
'''
EVENTS = 8
FULL = 4
SETTINGS = {"PIPELINE_SHARDS": "1", "PIPELINE_MAX_PENDING": str(FULL), "PIPELINE_INGRESS_BATCH": "0"}
TICKS = 100


@pytest.fixture
def make_worker(
    migrated: None,  # noqa: ARG001
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeWorker]:
    workers = []

    def make(settings: dict[str, str], **options: Any) -> ProcessWorker:
        scratch = tmp_path_factory.mktemp("worker")
        if "name" in options:
            (scratch / "tasks.py").write_text(SHOP)
            options["directory"] = scratch
        worker = ProcessWorker(environment={**environment, **settings}, scratch=scratch, **options)
        workers.append(worker)
        worker.start()
        return worker

    yield make
    for worker in workers:
        worker.stop()
        worker.remove()


def flood(client: Celery, pipeline: Pipeline, redis_url: str, database_url: str) -> None:
    """A full shard, more events, and ticks that have expired."""
    with redis.Redis.from_url(redis_url) as database:
        database.flushall()
    with psycopg.connect(database_url) as database:
        database.execute("DROP TABLE IF EXISTS flooded")
        database.execute("CREATE TABLE flooded (id int PRIMARY KEY)")
    for number in range(FULL):
        pipeline.write("flooded", {"id": number})
    past = datetime.now(UTC) - timedelta(hours=1)
    for _ in range(TICKS):
        client.send_task("pipeline.flush", queue="pipeline.control", expires=past)
    for number in range(FULL, EVENTS):
        client.send_task("pipeline.apply_event", kwargs={"table": "flooded", "key": {"id": number}}, queue="pipeline")


def written(database_url: str) -> int:
    with psycopg.connect(database_url) as database:
        row = database.execute("SELECT count(*) FROM flooded").fetchone()
    return row[0] if row else 0


def test_the_worker_takes_what_flushes_first(
    make_worker: MakeWorker, client: Celery, redis_url: str, database_url: str
) -> None:
    # another spelling: the write script does not know that it could enqueue a flush there
    settings = {**SETTINGS, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_BROKER_URL": redis_url.removesuffix("/0") + "/"}
    assert settings["PIPELINE_BROKER_URL"] != redis_url
    with Pipeline(Config.from_mapping({**settings, "PIPELINE_DATABASE_URL": database_url})) as pipeline:
        flood(client, pipeline, redis_url, database_url)
    make_worker(settings, options=("--concurrency=1",))

    def all_are_written() -> bool:
        client.send_task("pipeline.flush", queue="pipeline.control", expires=20)
        return written(database_url) == EVENTS

    wait_until(all_are_written, "every event is written")


def test_a_refused_event_asks_for_a_flush_that_is_the_next_to_be_taken(
    make_worker: MakeWorker, client: Celery, redis_url: str, database_url: str
) -> None:
    settings = {**SETTINGS, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
    with Pipeline(Config.from_mapping(settings)) as pipeline:
        flood(client, pipeline, redis_url, database_url)
    options = ("--concurrency=1", "--queues=pipeline,pipeline.control")
    make_worker({**SETTINGS, "C_FORCE_ROOT": "1"}, name="shop", options=options)
    wait_until(lambda: written(database_url) == EVENTS - FULL, "only what nobody was refused for is not written")
