"""From the queue to the commit: what is waiting is released all at once, and PostgreSQL dates the last commit.

PostgreSQL must run with ``track_commit_timestamp``, on this machine. So nobody has to look often whether it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
import redis
from psycopg import sql

from pipeline.bench.clock import Meter, Sample
from pipeline.bench.measures import Bench, Wrong
from pipeline.bench.workload import Row, Workload, change
from pipeline.buffer.keys import Keys
from pipeline.contrib.embedded import Servers
from pipeline.core.change import Change
from pipeline.store.yardstick import SCHEMA
from scripts.benchmark.workers import Workers

__all__ = ["SETTINGS", "Drains"]

SETTINGS: Final[Mapping[str, str]] = {"track_commit_timestamp": "on"}

POLL_SECONDS: Final = 0.02
LONGEST_SECONDS: Final = 600.0
INGRESS_TIMES: Final = 10
"""So many times more messages are taken in bulk than tasks are run one by one, so that both take about a second."""

IN_BACKGROUND: Final = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
UNACKED: Final = "unacked"
LAST_COMMIT: Final = "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 FROM {}"


class Drains:
    """The same rows into the same tables, by one worker of each kind after the other. ``rows``: for the slow ones."""

    def __init__(self, servers: Servers, bench: Bench, workers: Workers, rows: int) -> None:
        self._bench = bench
        self._workers = workers
        self._count = rows
        self._keys = Keys(bench.config.namespace, bench.config.shards)
        self._redis: Any = redis.Redis.from_url(servers.redis_url)
        self._database = psycopg.connect(servers.database_url, autocommit=True)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
        self._database.close()

    def rest(self) -> None:
        """Wait until Redis does nothing in the background: rewriting its file takes one of the cores.

        What was measured before has brought that about, and not what is measured next.
        """
        until = time.monotonic() + LONGEST_SECONDS
        while any(map(self._redis.info("persistence").get, IN_BACKGROUND)):
            if time.monotonic() > until:
                raise Wrong("Redis did not come to rest")
            time.sleep(POLL_SECONDS)

    def ours(self, workload: Workload) -> Sample:
        """One pending event. What ``write_many`` has left is flushed, as beat asks for it."""
        rows = self._bench.rows(workload)
        sample = self._timed("ours", workload, len(rows), lambda: None, self._pending)
        self._bench.check(workload, rows)
        return sample

    def ingress(self, workload: Workload) -> Sample:
        """One message of ``apply_event.delay``: from the ingress queue to its shard, and to the commit."""
        rows = self._bench.begin(workload, INGRESS_TIMES * self._count)
        task = f"{self._bench.config.namespace}.apply_event"
        self._publish(task, [((), _arguments(change(workload, row))) for row in rows])
        sample = self._timed(
            "ours",
            workload,
            len(rows),
            lambda: self._release(self._keys.ingress[0]),
            lambda: self._queued(*self._keys.ingress, self._keys.ingress_batch) or self._pending(),
        )
        self._bench.check(workload, rows)
        return sample

    def task_per_row(self, kind: str, workload: Workload) -> Sample:
        """One message of a task that writes one row, by a worker of that ``kind``."""
        rows = self._bench.begin(workload, self._count)
        self._publish(f"{kind}.write_row", [((workload.name, *row), {}) for row in rows])
        return self._timed(
            kind,
            workload,
            len(rows),
            lambda: self._release(kind),
            # celery-batches acknowledges before it writes
            lambda: self._queued(kind) or not self._written(workload, rows),
        )

    def _written(self, workload: Workload, rows: Sequence[Row]) -> bool:
        try:
            self._bench.check(workload, rows)
        except Wrong:
            return False
        return True

    def _publish(self, task: str, messages: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        """They wait until they are released."""
        self._redis.delete(self.waiting)
        client = self._workers.client
        with client.connection_for_write() as connection, connection.Producer() as producer:
            for args, kwargs in messages:
                client.send_task(task, args, kwargs, queue=self.waiting, producer=producer, ignore_result=True)

    @property
    def waiting(self) -> str:
        """A queue that nobody consumes."""
        return f"{self._bench.config.namespace}.waiting"

    def _release(self, queue: str) -> None:
        self._redis.rename(self.waiting, queue)

    def _queued(self, *queues: str) -> bool:
        return bool(self._redis.exists(*queues, UNACKED))

    def _pending(self) -> bool:
        lists = [key for names in self._keys.shards for key in (names.events, names.batch, names.waiting)]
        return bool(self._redis.exists(*lists))

    def _timed(
        self, kind: str, workload: Workload, events: int, release: Callable[[], None], busy: Callable[[], bool]
    ) -> Sample:
        """Seconds of one event, between the release and the last commit."""
        meter = self._meter(kind)
        before, began, released = meter(), time.monotonic(), time.time()
        release()
        ticks = 0
        while True:
            waited = time.monotonic() - began
            if kind == "ours" and waited >= ticks * self._bench.config.flush_interval_seconds:
                ticks += 1
                self._flush()
            if not busy():
                break
            if waited > LONGEST_SECONDS:
                raise Wrong(f"{workload.name} were not written in {LONGEST_SECONDS:.0f} seconds")
            time.sleep(POLL_SECONDS)
        after = meter()
        seconds = self._last_commit(workload) - released
        return Sample(seconds / events, {who: (after[who] - used) / events for who, used in before.items()})

    def _meter(self, kind: str) -> Meter:
        return lambda: {**self._workers.cpu_seconds(kind), "Redis": self._bench.redis.cpu_seconds()}

    def _flush(self) -> None:
        """What beat does."""
        namespace = self._bench.config.namespace
        self._workers.client.send_task(f"{namespace}.flush", queue=f"{namespace}.control", ignore_result=True)

    def _last_commit(self, workload: Workload) -> float:
        table = sql.Identifier(SCHEMA, workload.layout.table)
        row = self._database.execute(sql.SQL(LAST_COMMIT).format(table)).fetchone()
        if row is None or row[0] is None:
            raise Wrong(f"nothing of {workload.name} was written")
        return float(row[0])


def _arguments(one: Change) -> dict[str, Any]:
    fields = ("table", "key", "set", "add", "insert")
    return {name: value for name in fields if (value := getattr(one, name))}
