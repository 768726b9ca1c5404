"""Who waits does not flush: the service does, in processes of its own."""

import pickle
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Change, Config, Outcome, Pipeline
from tests.acceptance.nodes import ROOT

LONG = 60.0

WAITS = """
import pickle, sys
from pipeline import Config, Pipeline

with Pipeline(Config(redis_url=sys.argv[1], database_url=sys.argv[2])) as pipeline:
    receipts = pickle.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(pickle.dumps(pipeline.wait_all(receipts, timeout=60)))
"""


@pytest.fixture(scope="module")
def pipeline(
    redis_url: str,
    database_url: str,
    migrated: None,  # noqa: ARG001
    worker: CeleryTestWorker,  # noqa: ARG001
    beat: CeleryTestNode,  # noqa: ARG001
) -> Iterator[Pipeline]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE visits (id int PRIMARY KEY, n int, word varchar(3))")
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


def test_a_write_is_waited_for_while_the_service_writes_it(pipeline: Pipeline) -> None:
    good = pipeline.write("visits", {"id": 1}, add={"n": 1})
    bad = pipeline.write("visits", {"id": 1}, set={"word": "too long"})
    assert good.wait(LONG) is Outcome.APPLIED
    assert bad.wait(LONG).sqlstate == "22001"


def test_receipts_are_waited_for_in_another_process(pipeline: Pipeline, redis_url: str, database_url: str) -> None:
    receipts = pipeline.write_many([Change("visits", {"id": number}, add={"n": 1}) for number in range(100)])
    done = subprocess.run(
        [sys.executable, "-c", WAITS, redis_url, database_url],
        cwd=ROOT,
        input=pickle.dumps(receipts),
        capture_output=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert pickle.loads(done.stdout) == [Outcome.APPLIED] * 100  # noqa: S301 - our own bytes


def test_after_a_barrier_everything_is_there(pipeline: Pipeline, database_url: str) -> None:
    pipeline.write_many([Change("visits", {"id": 1000 + number}, add={"n": 1}) for number in range(500)])
    pipeline.barrier(timeout=LONG)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM visits WHERE id >= 1000").fetchone() == (500,)
