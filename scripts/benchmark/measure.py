"""The measurements: each returns seconds per operation."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis
from celery import Celery

from pipeline import Change, Config, Pipeline
from pipeline.contrib.celery import register
from pipeline.contrib.embedded import Servers
from pipeline.flush import End

ROOT = Path(__file__).parents[2]
SCHEMA = "CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0)"
START_SECONDS = 60.0


class Bench:
    """One set of servers, and the same table for everybody."""

    def __init__(self, servers: Servers, events: int, stock_events: int) -> None:
        self._servers = servers
        self._events = events
        self._stock_events = stock_events
        self._redis = redis.Redis.from_url(servers.redis_url, retry=None)
        self._database = psycopg.connect(servers.database_url, autocommit=True)
        self._database.execute(SCHEMA)
        self._pipeline = Pipeline(Config(redis_url=servers.redis_url, database_url=servers.database_url))
        self._pipeline.migrate()
        self._app = Celery("shop", broker=servers.redis_url, set_as_current=False)
        register(self._app, self._pipeline)
        self._next = 0

    def close(self) -> None:
        """Close every connection."""
        self._app.close()
        self._pipeline.close()
        self._database.close()
        self._redis.close()

    def _pages(self, count: int) -> range:
        """Pages that no measurement has touched before."""
        start, self._next = self._next, self._next + count
        return range(start, start + count)

    # --- writing, microseconds matter

    def bare_set(self, count: int) -> float:
        """One ``SET`` of a small value."""
        return _median(lambda n: self._redis.set(f"bare:{n}", b"x" * 64), self._pages(count))

    def write(self, count: int) -> float:
        """One ``Pipeline.write``."""
        return _median(
            lambda n: self._pipeline.write("page_views", {"page_id": n}, add={"views": 1}), self._pages(count)
        )

    def delay(self, count: int) -> float:
        """One ``apply_event.delay`` of the same event."""
        task = self._app.tasks["pipeline.apply_event"]
        seconds = _median(
            lambda n: task.delay(table="page_views", key={"page_id": n}, add={"views": 1}), self._pages(count)
        )
        self._redis.delete("pipeline")  # nobody consumes them here
        return seconds

    def write_many(self) -> float:
        """One event of ``Pipeline.write_many``; the events are what `drain` finds."""
        changes = [Change("page_views", key={"page_id": n}, add={"views": 1}) for n in self._pages(self._events)]
        started = time.perf_counter()
        self._pipeline.write_many(changes)
        return (time.perf_counter() - started) / self._events

    # --- reading

    def _stored_pages(self, count: int) -> range:
        """Fresh pages that are in PostgreSQL and not in the cache."""
        pages = self._pages(count)
        self._database.execute(
            "INSERT INTO page_views SELECT generate_series(%s::int, %s::int), 7", (pages[0], pages[-1])
        )
        return pages

    def bare_hgetall(self, count: int) -> float:
        """One ``HGETALL`` of a hash like a cached row."""
        for n in (pages := self._pages(count)):
            self._redis.hset(f"bare.row:{n}", mapping={"": "0123456789abcdef", "page_id": n, "views": 7})
        return _median(lambda n: self._redis.hgetall(f"bare.row:{n}"), pages)

    def read_hit(self, count: int) -> float:
        """One ``Pipeline.read`` of a cached row."""
        pages = self._stored_pages(count)
        self._pipeline.read_many("page_views", [{"page_id": n} for n in pages])
        return _median(lambda n: self._pipeline.read("page_views", {"page_id": n}), pages)

    def read_miss(self, count: int) -> float:
        """One ``Pipeline.read`` of a row that is not cached, and then is."""
        return _median(lambda n: self._pipeline.read("page_views", {"page_id": n}), self._stored_pages(count))

    def read_pending(self, count: int) -> float:
        """The same for a row with a pending change, which PostgreSQL folds on top of it."""
        pages = self._stored_pages(count)
        self._pipeline.write_many(Change("page_views", key={"page_id": n}, add={"views": 1}) for n in pages)
        return _median(lambda n: self._pipeline.read("page_views", {"page_id": n}), pages)

    def read_many(self, count: int) -> float:
        """One row of a ``Pipeline.read_many`` of 100 that are all cached."""
        pages = self._stored_pages(count)
        chunks = [[{"page_id": n} for n in pages[start : start + 100]] for start in range(0, count, 100)]
        for chunk in chunks:
            self._pipeline.read_many("page_views", chunk)
        return _median(lambda n: self._pipeline.read_many("page_views", chunks[n]), range(len(chunks))) / 100

    # --- draining, rows per second matter

    def drain(self) -> float:
        """One pending event from queue to commit, all shards one after the other in this process."""
        pending = self._pipeline.status().pending
        started = time.perf_counter()
        for shard in range(self._pipeline.config.shards):
            while self._pipeline.flush_shard(shard).end is not End.EMPTY:
                pass
        return (time.perf_counter() - started) / pending

    def stock_task_per_row(self) -> float:
        """One queued task of a stock Celery worker (prefork 2) that writes one row."""
        from scripts.benchmark.stock import app, count_view  # noqa: PLC0415 - reads the environment that we set

        app.conf.update(broker_url=self._servers.redis_url)
        pages = self._pages(self._stock_events)
        with app.connection_for_write() as connection, connection.Producer() as producer:
            for page in pages:
                count_view.apply_async((page, 1), queue="stock.waiting", producer=producer)
        with self._stock_worker():
            self._redis.rename("stock.waiting", "stock")  # release them all at once
            started = time.perf_counter()
            while self._count(pages) < len(pages):
                time.sleep(0.02)
            return (time.perf_counter() - started) / len(pages)

    def _count(self, pages: range) -> int:
        row = self._database.execute(
            "SELECT count(*) FROM page_views WHERE page_id BETWEEN %s AND %s", (pages[0], pages[-1])
        ).fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _stock_worker(self) -> Iterator[None]:
        environment = {
            **os.environ,
            "PIPELINE_REDIS_URL": self._servers.redis_url,
            "PIPELINE_DATABASE_URL": self._servers.database_url,
        }
        command = [sys.executable, "-m", "celery", "-A", "scripts.benchmark.stock", "worker", "--concurrency=2"]
        command += ["--loglevel=ERROR", "--without-mingle", "--without-gossip", "--hostname=stock@%h"]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as worker:
            try:
                self._wait_for_consumer(worker)
                yield
            finally:
                worker.terminate()

    def _wait_for_consumer(self, worker: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not any(client["cmd"] == "brpop" for client in self._redis.client_list()):
            if worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the stock Celery worker did not start")
            time.sleep(0.05)


def _median(operation: Callable[[int], object], numbers: range) -> float:
    seconds = []
    for number in numbers:
        started = time.perf_counter()
        operation(number)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
