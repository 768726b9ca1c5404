"""PostgreSQL is away for long: nothing becomes a dead letter, and what waits is written as soon as it is back."""

from collections.abc import Iterator

import psycopg
import pytest
import redis
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Config, Pipeline
from pipeline.contrib.embedded import Postgres
from tests.acceptance.waiting import wait_until


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    """As after minutes of an outage: a batch that failed would rest for longer than this test runs."""
    return {
        "PIPELINE_REDIS_URL": redis_url,
        "PIPELINE_DATABASE_URL": database_url,
        "PIPELINE_RETRY_BASE": "3600",
        "PIPELINE_RETRY_CAP": "3600",
        "PIPELINE_SHARDS": "4",
    }


@pytest.fixture
def pipeline(environment: dict[str, str], migrated: None) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config.from_mapping(environment)) as pipeline:
        yield pipeline


def test_what_waited_for_postgresql_is_written_when_it_is_back(
    pipeline: Pipeline, worker: CeleryTestWorker, beat: CeleryTestNode, postgres: Postgres, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("CREATE TABLE hits (page integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    postgres.stop("immediate")
    try:
        for page in range(40):
            pipeline.write("hits", key={"page": page}, add={"n": 1})
        with redis.Redis.from_url(pipeline.config.redis_url) as client:
            shards = [f"pipeline.shard.{{{shard}}}" for shard in range(4)]
            wait_until(lambda: all(client.hget(shard, "due") for shard in shards), "batches that rest, on every shard")
    finally:
        postgres.start()
    wait_until(lambda: pipeline.status().pending == 0, "an empty pipeline")
    with psycopg.connect(database_url) as database:
        assert database.execute("SELECT count(*), sum(n) FROM hits").fetchone() == (40, 40)
    assert pipeline.status().dead_letters == 0
    assert worker.container.status == "running"
    assert beat.ready()
