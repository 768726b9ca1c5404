"""PostgreSQL is away for long: nothing becomes a dead letter, and what waits is written as soon as it is back.

The clock is beat: its ticks are counted, since seconds say little about a machine that is busy with something else.
"""

import logging
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import redis
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Config, Pipeline
from pipeline.contrib.embedded import Postgres
from tests.acceptance.waiting import wait_until

log = logging.getLogger(__name__)

TICK = "Sending due task pipeline.flush "
FLUSH_INTERVAL_SECONDS = 3
"""Long enough for a loaded machine to flush forty rows before the next tick."""


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    """As after minutes of an outage: a batch that failed would rest for longer than this test runs."""
    return {
        "PIPELINE_REDIS_URL": redis_url,
        "PIPELINE_DATABASE_URL": database_url,
        "PIPELINE_RETRY_BASE": "3600",
        "PIPELINE_RETRY_CAP": "3600",
        "PIPELINE_SHARDS": "4",
        "PIPELINE_FLUSH_INTERVAL": str(FLUSH_INTERVAL_SECONDS),
    }


@pytest.fixture
def pipeline(environment: dict[str, str], migrated: None) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config.from_mapping(environment)) as pipeline:
        yield pipeline


def ticks(beat: CeleryTestNode) -> int:
    """How often beat has asked for a flush."""
    return str(beat.logs()).count(TICK)


def test_what_waited_for_postgresql_is_written_within_two_flush_intervals_of_its_return(
    pipeline: Pipeline,
    worker: CeleryTestWorker,
    beat: CeleryTestNode,
    postgres: Postgres,
    record_property: Callable[[str, object], None],
) -> None:
    with psycopg.connect(pipeline.config.database_url, autocommit=True) as database:
        database.execute("CREATE TABLE hits (page integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    postgres.stop("immediate")
    try:
        for page in range(40):
            pipeline.write("hits", key={"page": page}, add={"n": 1})
        with redis.Redis.from_url(pipeline.config.redis_url) as client:
            shards = [f"pipeline.shard.{{{shard}}}" for shard in range(4)]
            wait_until(lambda: all(client.hget(shard, "due") for shard in shards), "batches that rest, on every shard")
    finally:
        postgres.start()  # returns when it accepts connections
    before, back = ticks(beat), time.monotonic()
    assert before > 0
    wait_until(lambda: pipeline.status().pending == 0, "an empty pipeline")
    used, seconds = ticks(beat) - before, time.monotonic() - back
    record_property("ticks", used)
    record_property("seconds", round(seconds, 2))
    log.info("drained %.2f s after PostgreSQL was back, at tick %d", seconds, used)
    assert used < 3
    with psycopg.connect(pipeline.config.database_url) as database:
        assert database.execute("SELECT count(*), sum(n) FROM hits").fetchone() == (40, 40)
    assert pipeline.status().dead_letters == 0
    assert worker.container.status == "running"
    assert beat.ready()
