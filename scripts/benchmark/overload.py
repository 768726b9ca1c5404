"""Producers that are faster than PostgreSQL: a run, what it showed every second, and the laws that must hold."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any, Final, NamedTuple

import psycopg
import redis

from pipeline import Config, Pipeline
from pipeline.buffer.keys import Keys
from pipeline.telemetry import Step

__all__ = ["Load", "Outcome", "Sample", "overload"]

SCHEMA: Final = "CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0)"
SLOW: Final = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(TG_ARGV[0]::double precision); RETURN new; END $$
"""
TRIGGER: Final = (
    "CREATE TRIGGER be_slow BEFORE INSERT OR UPDATE ON page_views FOR EACH ROW EXECUTE FUNCTION be_slow({})"
)
ROWS: Final = "SELECT coalesce(sum(row_count), 0)::bigint FROM pipeline.batch"

BYTES_PER_EVENT: Final = 1024
"""More than a pending event of this load takes in Redis, measured: see `docs/how-to/backpressure.md`."""

FIXED_BYTES: Final = 1024 * 1024
"""What does not grow with the backlog: scripts, connections, a batch on its way to the flusher."""

SAMPLE_SECONDS: Final = 0.05
STALL_SECONDS: Final = 60.0


class Load(NamedTuple):
    """``events`` updates of ``keys`` rows, the n-th most popular of them 1/n as often as the first."""

    events: int
    keys: int = 50_000
    per_second: float = 1_000.0
    rows_per_second: float = 200.0
    max_pending: int = 8_000
    shards: int = 8
    producers: int = 4
    seed: int = 1


class Sample(NamedTuple):
    """Where everything stands. ``memory`` is what Redis uses more than before the run, in bytes.

    ``waits`` counts the refusals after which a writer waited.
    """

    seconds: float
    accepted: int
    pending: int
    rows: int
    memory: int
    waits: int

    @property
    def committed(self) -> int:
        """Events that are in PostgreSQL."""
        return self.accepted - self.pending

    @property
    def saved(self) -> int:
        """Committed events that needed no row operation of their own."""
        return max(0, self.committed - self.rows)


class Outcome(NamedTuple):
    """A run: a sample for each second and the last one, the peaks of all, and rows that are not what they must be."""

    load: Load
    samples: Sequence[Sample]
    peak_pending: int
    peak_memory: int
    wrong_rows: int

    @property
    def laws(self) -> dict[str, bool]:
        """What must hold, however long it took."""
        last = self.samples[-1]
        return {
            "pending is never above max_pending": self.peak_pending <= self.load.max_pending,
            "Redis grows by no more than max_pending events": self.peak_memory <= memory_bound(self.load),
            "every producer gets through in the end": last.accepted == self.load.events,
            "every sum is exact in the end": self.wrong_rows == 0 and last.pending == 0,
            "fewer rows are written than events": last.rows < self.load.events,
        }


def memory_bound(load: Load) -> int:
    """Bytes that Redis may need for this load."""
    return FIXED_BYTES + load.max_pending * BYTES_PER_EVENT


def overload(redis_url: str, database_url: str, load: Load, show: Callable[[Sample], None]) -> Outcome:
    """Run ``load`` on an empty Redis and an empty database; ``show`` gets a sample several times a second."""
    with ExitStack() as stack:
        run = _Run(redis_url, database_url, load, stack)
        return run.run(show)


class _Run:
    def __init__(self, redis_url: str, database_url: str, load: Load, stack: ExitStack) -> None:
        self._load = load
        chance = random.Random(load.seed)  # noqa: S311 - no secret
        weights = list(accumulate(1 / rank for rank in range(1, load.keys + 1)))
        self._pages = chance.choices(range(load.keys), cum_weights=weights, k=load.events)
        config = Config(
            redis_url=redis_url,
            database_url=database_url,
            shards=load.shards,
            max_pending=load.max_pending,
            when_full="block",
            full_timeout_seconds=STALL_SECONDS,
        )
        self._waits: list[Step] = []
        self._producing = stack.enter_context(Pipeline(config, self._note))
        self._flushing = stack.enter_context(Pipeline(config))
        self._keys = Keys(config.namespace, config.shards)
        self._redis: Any = stack.enter_context(redis.Redis.from_url(redis_url))
        self._database = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        self._done = threading.Event()
        self._failures: list[BaseException] = []
        self._began = 0.0
        self._memory = 0

    def run(self, show: Callable[[Sample], None]) -> Outcome:
        self._prepare()
        self._began = time.monotonic()
        self._memory = self._look().memory
        threads = [self._thread(self._produce, number) for number in range(self._load.producers)]
        threads.append(self._thread(self._flush))
        samples = [self._look()]
        peak_pending = peak_memory = 0
        while samples[-1].accepted < self._load.events or samples[-1].pending:
            time.sleep(SAMPLE_SECONDS)
            if self._failures:
                raise self._failures[0]
            sample = self._look()
            show(sample)
            peak_pending, peak_memory = max(peak_pending, sample.pending), max(peak_memory, sample.memory)
            if len(samples) > 1 and int(sample.seconds) == int(samples[-1].seconds):
                samples.pop()
            samples.append(sample)
        self._done.set()
        for thread in threads:
            thread.join()
        return Outcome(self._load, samples, peak_pending, peak_memory, self._wrong_rows())

    def _prepare(self) -> None:
        for statement in (SCHEMA, SLOW):
            self._database.execute(statement)
        self._database.execute(
            psycopg.sql.SQL(TRIGGER).format(psycopg.sql.Literal(str(1 / self._load.rows_per_second)))
        )
        self._flushing.migrate()
        self._producing.ping()

    def _note(self, step: Step) -> None:
        if step is Step.BLOCKED:
            self._waits.append(step)

    def _thread(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self._failures.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _produce(self, number: int) -> None:
        """Every page that is this producer's, each at its time, or as soon as the pipeline takes it."""
        for position in range(number, self._load.events, self._load.producers):
            due = self._began + position / self._load.per_second
            if self._done.wait(max(0.0, due - time.monotonic())):
                return
            self._producing.write("page_views", {"page_id": self._pages[position]}, add={"views": 1})

    def _flush(self) -> None:
        """What one worker process does that beat asks again and again."""
        while not self._done.wait(0.1):
            for shard in self._flushing.shards_to_flush():
                self._flushing.flush_shard(shard)

    def _look(self) -> Sample:
        """All at one moment: a batch that is just being frozen must not be counted twice."""
        pipe = self._redis.pipeline(transaction=True)
        for names in self._keys.shards:
            pipe.hget(names.state, "accepted")
            for queue in (names.events, names.batch, names.parked, names.resumed):
                pipe.llen(queue)
        pipe.info("memory")
        *replies, memory = pipe.execute()
        accepted = sum(int(number or 0) for number in replies[::5])
        pending = sum(number for index, number in enumerate(replies) if index % 5)
        row = self._database.execute(ROWS).fetchone()
        return Sample(
            seconds=time.monotonic() - self._began,
            accepted=accepted,
            pending=pending,
            rows=row[0] if row else 0,
            memory=memory["used_memory"] - self._memory,
            waits=len(self._waits),
        )

    def _wrong_rows(self) -> int:
        expected = Counter(self._pages)
        found: dict[int, int] = dict(self._database.execute("SELECT page_id, views FROM page_views").fetchall())
        return sum(expected[page] != found.get(page) for page in expected.keys() | found.keys())
