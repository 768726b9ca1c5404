"""A worker that is told to consume a shard queue does not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Config, Pipeline
from tests.acceptance.nodes import ROOT, process_environment
from tests.acceptance.waiting import wait_until

SHARDS = 8
EVENTS = 400


@pytest.fixture
def pipeline(redis_url: str, database_url: str, migrated: None) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


def test_a_worker_of_a_shard_queue_is_refused_with_a_sentence(environment: dict[str, str]) -> None:
    program = str(Path(sys.executable).parent / "celery")
    refused = subprocess.run(
        [program, "-A", "tasks", "worker", "--concurrency=1", "-Q", "pipeline,pipeline.events.{3}"],
        cwd=ROOT,
        env=process_environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "pipeline.events.{3}: events wait there for the flush" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_worker_that_is_told_to_consume_a_shard_queue_does_not(
    worker: CeleryTestWorker, beat: CeleryTestNode, client: Celery, database_url: str, pipeline: Pipeline
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("CREATE TABLE hits (page integer PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
        for shard in range(SHARDS):
            client.control.add_consumer(f"pipeline.events.{{{shard}}}")
        refused = "events wait there for the flush; it is not consumed"
        wait_until(lambda: worker.logs().count(refused) == SHARDS, "a word about every shard queue")
        for n in range(EVENTS):
            pipeline.write("hits", key={"page": n % 50}, add={"n": 1})
        wait_until(lambda: pipeline.status().pending == 0, "an empty pipeline", 60)
        assert database.execute("SELECT sum(n) FROM hits").fetchone() == (EVENTS,)
    assert pipeline.status().dead_letters == 0
    assert worker.container.status == "running"
    assert beat.ready()
