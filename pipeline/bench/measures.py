"""The measurements that need no other process: of a pipeline, of bare Redis, of PostgreSQL without a pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from typing import Any, Final, Self

import msgspec

from pipeline.bench.clock import Measure, Meter, Sample, side_by_side, timed
from pipeline.bench.workload import WORKLOADS, Row, Workload, change
from pipeline.buffer.yardstick import BareRedis
from pipeline.config import Config
from pipeline.store.yardstick import SCHEMA, Yardstick, chunks
from pipeline.wiring import Pipeline

__all__ = [
    "AT_ONCE",
    "BYTES_PER_EVENT",
    "COUNTER",
    "READ_MANY",
    "Bench",
    "InUse",
    "Sizes",
    "Wrong",
    "bench_config",
    "of",
]

AT_ONCE: Final = 5000
"""Rows in a transaction, for everybody who writes many."""

BYTES_PER_EVENT: Final = 2000
"""More than a pending event of any workload takes in Redis, with its part of the append-only file's buffer."""

COUNTER: Final = f"{SCHEMA}.{WORKLOADS[0].layout.table}"
"""The table of single calls."""

READ_MANY: Final = "read_many, hits, per row"

_PER_READ: Final = 100
_FIRST_NUMBER: Final = 10**9
"""Of the rows of single calls: no workload has them, so none of its rows is in the cache."""

_SUFFIX: Final = "-bench"
_LONGEST_NAME: Final = 40


class Sizes(msgspec.Struct, frozen=True):
    """How much is done in a round: single calls, events that are drained, rows that are written one by one."""

    singles: int = 2000
    events: int = 50_000
    rows: int = 2000


class Wrong(Exception):
    """What was measured did not do its work; so the measurement means nothing."""


class InUse(Exception):
    """There is a pipeline with the name that the one to be measured would have."""


def of(what: str, workload: str) -> str:
    """The name of a measurement of a workload."""
    return f"{what}: {workload}"


def bench_config(config: Config, events: int) -> Config:
    """The same servers and settings, in a namespace of its own that nobody flushes by himself."""
    name, longest = config.namespace, _LONGEST_NAME - len(_SUFFIX)
    if len(name) > longest:  # others may begin like it
        name = f"{name[: longest - 9]}-{blake2b(name.encode(), digest_size=4).hexdigest()}"
    return msgspec.structs.replace(
        config,
        namespace=name + _SUFFIX,
        flush_threshold=0,
        max_pending=max(config.max_pending, 4 * events * config.shards),
        tables=(),
        write_through_tables=(),
    )


class Bench:
    """A context manager that leaves nothing behind, in Redis and in PostgreSQL.

    Raises (on entering):
        BufferUnavailable, StoreUnavailable, NotMigrated: one side cannot be used.
        StoreError: somebody else measures there.
        InUse: its namespace is that of a pipeline which is not there to be measured; nothing of that is touched.
    """

    def __init__(self, config: Config, sizes: Sizes, workloads: Sequence[Workload] = WORKLOADS) -> None:
        self.config: Final = bench_config(config, sizes.events)
        self.sizes: Final = sizes
        self.workloads: Final = workloads
        self.pipeline: Final = Pipeline(self.config)
        self.redis: Final = BareRedis(self.config)
        self.database: Final = Yardstick(config.database_url, self.config.namespace)
        self._rows = {workload.name: workload.rows(sizes.events) for workload in workloads}
        self._next = _FIRST_NUMBER
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.pipeline)
            stack.enter_context(self.redis)
            stack.enter_context(self.database)
            self._take()
            stack.callback(self._remove)
            self._clear()  # what a killed run has left
            self.database.prepare()
            for workload in self.workloads:
                self.database.create(workload.layout)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _take(self) -> None:
        """Mark the namespace as ours, unless a killed run has done so, or it is somebody else's."""
        if self.redis.marked():
            return
        if self.redis.in_use() or self.database.in_use() or not self.redis.mark():
            name = self.config.namespace
            raise InUse(
                f"there is a pipeline {name} in this Redis or this database, and what is measured here would have its"
                f" name and would be removed with it; say PIPELINE_NAMESPACE=some-other-name, or, if nobody needs it,"
                f" delete its keys ({name}.*) and its rows in the schema pipeline"
            )

    def _clear(self) -> None:
        try:
            self.redis.remove()
        finally:
            self.database.remove()

    def _remove(self) -> None:
        self._clear()
        self.redis.unmark()  # not before all of the rest is gone

    def rows(self, workload: Workload, count: int | None = None) -> Sequence[Row]:
        """The rows to write, or the first ``count`` of them."""
        return self._rows[workload.name][:count]

    def begin(self, workload: Workload, count: int | None = None) -> Sequence[Row]:
        """The rows to write; the table is as it was before any of them was written."""
        rows = self.rows(workload, count)
        self.database.empty(workload.layout, workload.before(rows))
        return rows

    def check(self, workload: Workload, rows: Sequence[Row]) -> None:
        """Raise `Wrong` if the table does not hold what ``rows`` come to."""
        found, expected = self.database.total(workload.layout, workload.witness), workload.total(rows)
        if found != expected:
            raise Wrong(f"{workload.name} come to {found:,} instead of {expected:,}")

    def meter(self) -> Mapping[str, float]:
        """CPU time of this process and of Redis; PostgreSQL does not say."""
        return {"Python": time.process_time(), "Redis": self.redis.cpu_seconds()}

    # --- one call, microseconds matter

    def writes(self, others: Mapping[str, tuple[Callable[[Any], object], Sequence[Any]]]) -> dict[str, Sample]:
        """A write of one small row beside a SET, and beside ``others``."""
        write, count = self.pipeline.write, self.sizes.singles
        samples = side_by_side(
            {
                "SET": (lambda name: self.redis.set(name, b"x" * 64), self._names(count)),
                "write": (lambda key: write(COUNTER, key, add={"hits": 1}), self.keys(count)),
                **others,
            }
        )
        self._settle()
        return samples

    def reads(self) -> dict[str, Sample]:
        """A read of one small cached row beside a HGETALL, and many of them in one call."""
        read, read_many, count = self.pipeline.read, self.pipeline.read_many, self.sizes.singles
        names, keys = self._names(count), self._stored(count)
        for name in names:
            self.redis.put_row(name, ("", "0123456789abcdef", "id", "4711", "hits", "7"))
        read_many(COUNTER, keys)
        samples = side_by_side(
            {
                "HGETALL": (self.redis.row, names),
                "read, hit": (lambda key: read(COUNTER, key), keys),
                READ_MANY: (lambda some: read_many(COUNTER, some), list(chunks(keys, _PER_READ))),
            }
        )
        return {**samples, READ_MANY: Sample(samples[READ_MANY].seconds / _PER_READ)}

    def misses(self) -> dict[str, Sample]:
        """A read of a row that is not cached; and of one that has a change which PostgreSQL does not have."""
        read, count = self.pipeline.read, self.sizes.singles // 4
        keys = self._stored(2 * count)
        pending, settled = keys[:count], keys[count:]
        for key in pending:
            self.pipeline.write(COUNTER, key, add={"hits": 1})
        samples = side_by_side(
            {
                "read, miss": (lambda key: read(COUNTER, key), settled),
                "read, miss with a pending change": (lambda key: read(COUNTER, key), pending),
            }
        )
        self._settle()
        return samples

    def _numbers(self, count: int) -> range:
        """That no measurement has used before."""
        start, self._next = self._next, self._next + count
        return range(start, start + count)

    def keys(self, count: int) -> list[dict[str, int]]:
        """Of rows of `COUNTER` that nobody has seen before."""
        return [{"id": number} for number in self._numbers(count)]

    def _names(self, count: int) -> list[str]:
        return [self.redis.name(number) for number in self._numbers(count)]

    def _stored(self, count: int) -> list[dict[str, int]]:
        """Keys of rows that are in PostgreSQL, and not in the cache."""
        keys = self.keys(count)
        self.database.empty(WORKLOADS[0].layout, [(key["id"], 7) for key in keys])
        return keys

    def _settle(self) -> None:
        for _ in self.pipeline.drain():
            pass

    # --- many rows, rows per second matter

    def write_many(self, workload: Workload, meter: Meter) -> Sample:
        """One event of ``write_many``; they stay pending for a drain."""
        rows = self.begin(workload)
        changes = [change(workload, row) for row in rows]
        return timed(len(rows), lambda: self.pipeline.write_many(changes), meter)

    def drain(self, workload: Workload, meter: Meter) -> Sample:
        """One pending event, from the queue to the commit, in this process; all shards in turns."""
        rows = self.rows(workload)
        sample = timed(len(rows), self._settle, meter)
        self.check(workload, rows)
        return sample

    def upsert(self, workload: Workload, meter: Meter) -> Sample:
        """One row, written by the application itself in a transaction of its own."""
        rows = self.begin(workload, self.sizes.rows)
        sample = timed(len(rows), lambda: self.database.upsert(workload.layout, rows), meter)
        self.check(workload, rows)
        return sample

    def executemany(self, workload: Workload, meter: Meter) -> Sample:
        """One row of psycopg's ``executemany``."""
        rows = self.begin(workload)
        sample = timed(len(rows), lambda: self.database.executemany(workload.layout, rows, AT_ONCE), meter)
        self.check(workload, rows)
        return sample

    def copy(self, workload: Workload, meter: Meter) -> Sample:
        """One row of ``COPY`` into the empty table."""
        rows = self.rows(workload)
        self.database.empty(workload.layout)
        sample = timed(len(rows), lambda: self.database.copy(workload.layout, rows, AT_ONCE), meter)
        self.check(workload, rows)
        return sample

    def direct(self, workload: Workload, meter: Meter) -> dict[str, Measure]:
        """The ways of writing that need no pipeline; ``COPY`` only where no row comes twice."""
        ways = {"upsert per write": self.upsert, "executemany": self.executemany}
        if workload.distinct:
            ways["COPY"] = self.copy
        names = {of(way, workload.name): write for way, write in ways.items()}
        return {name: _named(name, write, workload, meter) for name, write in names.items()}

    def in_this_process(self) -> dict[str, Measure]:
        """Everything that ``pipeline bench`` measures, in the order in which it takes turns."""
        measures: dict[str, Measure] = {"writes": lambda: self.writes({}), "reads": self.reads, "misses": self.misses}
        for workload in self.workloads:
            for way, work in {"write_many": self.write_many, "drain": self.drain}.items():
                measures[of(way, workload.name)] = _named(of(way, workload.name), work, workload, self.meter)
            measures |= self.direct(workload, self.meter)
        return measures


def _named(name: str, work: Callable[[Workload, Meter], Sample], workload: Workload, meter: Meter) -> Measure:
    return lambda: {name: work(workload, meter)}
