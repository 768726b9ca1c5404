"""A worker that is asked to stop finishes its batch or leaves it: nothing is lost, nothing is doubled."""

from collections.abc import Iterator

import psycopg
import pytest
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Change, Config, Pipeline
from tests.acceptance.waiting import wait_until

EVENTS = 30_000


@pytest.fixture
def pipeline(redis_url: str, database_url: str, migrated: None) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


def test_a_worker_stopped_in_the_middle_of_a_backlog_loses_and_doubles_nothing(
    worker: CeleryTestWorker, beat: CeleryTestNode, database_url: str, pipeline: Pipeline
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("CREATE TABLE hits (page integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
        pipeline.write_many(Change("hits", key={"page": n % 5000}, add={"n": 1}) for n in range(EVENTS))
        wait_until(lambda: pipeline.status().pending < EVENTS, "the first batch")
        worker.container.stop()
        assert worker.container.status == "exited"
        assert "Traceback" not in worker.logs()
        worker.restart()
        wait_until(lambda: pipeline.status().pending == 0, "an empty pipeline")
        row = database.execute("SELECT count(*), sum(n), min(n), max(n) FROM hits").fetchone()
    assert row == (5000, EVENTS, 6, 6)
    assert pipeline.status().dead_letters == 0
    assert beat.ready()
