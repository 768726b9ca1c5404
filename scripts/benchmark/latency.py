"""From write to commit: how long that takes at a given load, with a worker and a beat as users run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import psycopg

from pipeline import Change, Pipeline
from scripts.demo_flights.services import Services

__all__ = ["RATES", "Latency", "latencies"]

RATES: Final = (100.0, 1_000.0, 10_000.0, None)
"""Events per second; ``None``: as many as are taken."""

SCHEMA: Final = "CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0)"

NOW: Final = "SELECT clock_timestamp(), extract(epoch FROM clock_timestamp())::double precision"
COMMITTED: Final = """
SELECT count(*), count(DISTINCT (batch.shard, batch.seq)),
       extract(epoch FROM max(pg_xact_commit_timestamp(batch.xmin)))::double precision,
       coalesce(percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
           ORDER BY extract(epoch FROM pg_xact_commit_timestamp(batch.xmin))
                    - ('x' || translate(left(id, 13), '-', ''))::bit(48)::bigint / 1000.0
       ), '{}')
FROM pipeline.batch, unnest(event_ids) AS id
WHERE applied_at > %s
"""
"""An event's id begins with the millisecond in which it was written (UUIDv7), and PostgreSQL knows when it committed:
so nobody has to look again and again, which would be a load of its own."""

KEYS: Final = 100_000
STRIDE: Final = 61_803  # coprime to it, so that every key has its turn, and neighbours are far apart
TICK_SECONDS: Final = 0.01
CHUNK: Final = 500
MAX_PENDING: Final = 50_000
WAIT_SECONDS: Final = 120.0


class Latency(msgspec.Struct, frozen=True):
    """A run at one load: ``asked`` and ``per_second`` are events accepted per second, the others seconds."""

    asked: float | None
    events: int
    batches: int
    per_second: float
    p50: float
    p99: float
    longest: float


def latencies(rates: Sequence[float | None], seconds: float, say: Callable[[str], None]) -> list[Latency]:
    """Write at each of ``rates`` for so many ``seconds``, one after the other, on servers of its own."""
    say("starting a worker and beat")
    with _services() as services, psycopg.connect(services.servers.database_url, autocommit=True) as database:
        database.execute(SCHEMA)
        environment = {**services.environment, "PIPELINE_MAX_PENDING": str(MAX_PENDING), "PIPELINE_WHEN_FULL": "block"}
        with Pipeline.from_env(environment) as pipeline:
            pipeline.migrate()
            for name in services.names:
                services.start(name)
            _warm_up(pipeline)
            found = []
            for rate in rates:
                say(f"{rate or 'max'} events/s for {seconds:g} s")
                found.append(_measure(pipeline, database, rate, seconds))
                services.check()
            return found


@contextmanager
def _services() -> Iterator[Services]:
    services = Services(flower=False, postgres_settings={"track_commit_timestamp": "on"})
    try:
        services.servers.start()
        yield services
    finally:
        services.stop(quickly=True)


def _warm_up(pipeline: Pipeline) -> None:
    """Let every process of the worker connect and look up the table."""
    for _ in range(3):
        pipeline.write_many(_changes(range(1000)))
        pipeline.barrier(timeout=WAIT_SECONDS)


def _measure(pipeline: Pipeline, database: psycopg.Connection[Any], rate: float | None, seconds: float) -> Latency:
    """The run at one load; what it has written is committed at its end."""
    start, start_seconds = database.execute(NOW).fetchall()[0]
    took = _produce(pipeline, rate, seconds)
    pipeline.barrier(timeout=WAIT_SECONDS)
    events, batches, end_seconds, quantiles = database.execute(COMMITTED, (start,)).fetchall()[0]
    per_second = events / (took if rate else end_seconds - start_seconds)
    return Latency(rate, events, batches, per_second, *quantiles)


def _produce(pipeline: Pipeline, rate: float | None, seconds: float) -> float:
    """Write for so many ``seconds`` what is due by then; how long it really took."""
    began = time.monotonic()
    written = 0
    while (now := time.monotonic() - began) < seconds:
        due = written + CHUNK if rate is None else int(now * rate) + 1
        if due > written:
            pipeline.write_many(_changes(range(written, due)))
            written = due
        if rate is not None:
            time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - began - now)))
    return time.monotonic() - began


def _changes(numbers: range) -> Iterator[Change]:
    return (Change("page_views", {"page_id": number * STRIDE % KEYS}, add={"views": 1}) for number in numbers)
