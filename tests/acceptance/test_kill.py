"""The worker and beat are killed in the middle of their work: nothing is lost, nothing is done twice."""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import psycopg
import pytest
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Change, Config, Pipeline, Receipt

EVENTS = 20_000
HALF = EVENTS // 2
COUNTERS = 997
DRAIN_SECONDS = 90.0  # a shard whose flusher was killed is taken over when its lease of 10 s is over


@pytest.fixture
def pipeline(redis_url: str, database_url: str) -> Iterator[Pipeline]:
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as opened:
        yield opened


@pytest.fixture
def database(migrated: None, database_url: str) -> Iterator[psycopg.Connection]:  # noqa: ARG001
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE counter (id integer PRIMARY KEY, hits integer NOT NULL DEFAULT 0, last integer)"
        )
        connection.execute("CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY, number integer NOT NULL)")
        yield connection


def _change(number: int) -> Change:
    """Every second one counts, every other one appends: both show what is done twice."""
    if number % 2:
        return Change("entry", insert={"number": number})
    return Change("counter", {"id": number % COUNTERS}, set={"last": number}, add={"hits": 1})


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_totals_are_exact_after_worker_and_beat_were_killed_half_way(
    pipeline: Pipeline, database: psycopg.Connection, worker: CeleryTestWorker, beat: CeleryTestNode
) -> None:
    receipts: list[Receipt] = []

    def write(numbers: range) -> None:
        receipts.extend(pipeline.write_many(map(_change, numbers)))

    write(range(HALF))
    _wait(lambda: pipeline.status().frozen > 0, DRAIN_SECONDS)  # a batch is under way
    worker.kill()
    beat.kill()
    killed = pipeline.status()
    assert killed.pending > 0
    write(range(HALF, EVENTS))
    assert pipeline.status().pending == killed.pending + EVENTS - HALF  # nobody is at work
    worker.restart()
    beat.restart()
    _wait(lambda: pipeline.status().pending == 0, DRAIN_SECONDS)

    numbers = range(EVENTS)
    last = {number % COUNTERS: number for number in numbers if not number % 2}
    hits = Counter(number % COUNTERS for number in numbers if not number % 2)
    counters = database.execute("SELECT id, hits, last FROM counter").fetchall()
    assert sorted(counters) == sorted((counter, hits[counter], last[counter]) for counter in hits)
    entries = database.execute("SELECT number FROM entry").fetchall()
    assert sorted(entries) == [(number,) for number in numbers if number % 2]
    applied = database.execute("SELECT unnest(event_ids) FROM pipeline.batch WHERE dead_count = 0").fetchall()
    assert sorted(applied) == sorted((receipt.event_id,) for receipt in receipts)
    assert pipeline.status().dead_letters == 0
