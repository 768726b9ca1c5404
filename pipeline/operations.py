"""What operates a pipeline: flushing, looking, mending. `pipeline.Pipeline` is one of these, too."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Final, TypeVar

import msgspec

from pipeline.buffer.connection import check_broker
from pipeline.buffer.inspection import inspect_arrivals, inspect_broker, inspect_buffer
from pipeline.buffer.redis import RedisBuffer, connect
from pipeline.buffer.survey import RedisSurvey
from pipeline.buffer.topology import Topology, check_topology
from pipeline.buffer.wire import BlockingWire
from pipeline.config import Config
from pipeline.core.health import Facts, Finding, Lane, diagnose
from pipeline.driving import blocking_sleep, each, run
from pipeline.errors import InvalidSetting, PipelineError
from pipeline.flush import End, Flusher, FlushReport
from pipeline.parts import Parts
from pipeline.ports import Ledger
from pipeline.receipts import Receipt
from pipeline.reconcile import Reconciled, Reconciler
from pipeline.replay import Replayer
from pipeline.status import BufferStatus, Sides, Status, buffer_status, shard_statuses, status_of
from pipeline.store.dead_letters import PostgresDeadLetters, PostgresLedger
from pipeline.store.inspection import inspect_store
from pipeline.store.postgres import PostgresStore
from pipeline.store.schema import migrate
from pipeline.store.session import Sessions
from pipeline.telemetry import Probe

__all__ = ["Operations", "owner"]

_TURN_SECONDS: Final = 0.5  # of one shard in a drain; short, so that its caller can show progress and stop
_BUSY_SECONDS: Final = 0.05  # until another flusher, who is in the middle of a batch, is looked at again


class Operations:
    """The methods of `pipeline.Pipeline` for those who run it, and for its tasks. They block."""

    _parts: Parts[Receipt]

    def __init__(self, config: Config, probe: Probe) -> None:
        self.config = config
        self._probe = probe
        self._redis = connect(config)
        check_broker(config.broker_url)
        self._wire = BlockingWire(config)
        self._topology = Topology(config)
        self._buffer = RedisBuffer(self._redis, config, self._check_topology)
        self._sessions = Sessions(config)

    # --- flushing

    @cached_property
    def _flusher(self) -> Flusher:
        store = PostgresStore(self._sessions, self.config, self._probe)
        return Flusher(self._buffer, store, self.config, time.monotonic, random.random, probe=self._probe)

    def flush_shard(self, shard: int, *, slice_seconds: float | None = None) -> FlushReport:
        """Flush one shard until nothing that was accepted before is pending, it fails, or its time slice is over.

        The slice is the configured one unless ``slice_seconds`` says otherwise. A few events that are accepted
        meanwhile are left to the next flush.

        Raises:
            BufferUnavailable: Redis could not be reached.
            NotMigrated: ``pipeline migrate`` has not run.
            ValueError: there is no such shard.
        """
        if not 0 <= shard < self.config.shards:
            raise ValueError(f"there is no shard {shard}; shards are 0 to {self.config.shards - 1}")
        report = self._flusher.flush_shard(shard, owner(), slice_seconds)
        if report.end is not End.RESTING:
            return report
        return msgspec.structs.replace(report, error=self._buffer.states()[shard].error)

    def drain(self, shards: Iterable[int] | None = None) -> Iterator[FlushReport]:
        """Flush ``shards`` (default: all) in turns until each was empty once, or has a batch that failed.

        Yields what every turn did. A shard on which another flusher is at work gets its turn again later. Stopping
        between two turns leaves nothing half done. Raises as `flush_shard`.
        """
        turns = deque(range(self.config.shards) if shards is None else shards)
        while turns:
            report = self.flush_shard(turns.popleft(), slice_seconds=_TURN_SECONDS)
            if report.end in {End.SLICE, End.BUSY}:
                turns.append(report.shard)
            yield report
            if report.end is End.BUSY:
                time.sleep(_BUSY_SECONDS)

    def shards_to_flush(self) -> list[int]:
        """Shards that have something to do now; from now on they count as asked for, so the caller must flush them.

        See `pipeline.flush.Flusher.due`.
        """
        return self._flusher.due(time.time() * 1000)

    # --- operating

    def migrate(self) -> list[str]:
        """Create or upgrade the schema ``pipeline``; the names of the migrations that were applied."""
        return migrate(self._sessions)

    @cached_property
    def dead_letters(self) -> PostgresDeadLetters:
        """The dead letters, to look at."""
        return PostgresDeadLetters(self._sessions, self.config)

    @cached_property
    def replayer(self) -> Replayer:
        """Writes dead letters again."""
        return Replayer(self._parts.writer, self.dead_letters, self.config, self._probe)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of applied batches."""
        return PostgresLedger(self._sessions, self.config)

    def sides(self) -> Sides:
        """What Redis and PostgreSQL say of the shards; a side that cannot be asked is an error in its place."""
        ledger = _asked(self.ledger.shards)
        return Sides(_asked(self._buffer_status), ledger)

    def _buffer_status(self) -> BufferStatus:
        states, ingress = self._buffer.states(), inspect_arrivals(self._redis, self.config)
        return buffer_status(self.config.namespace, states, ingress, time.time() * 1000)

    def status(self) -> Status:
        """Pending events, frozen batches and dead letters, per shard and in sum.

        Raises:
            BufferUnavailable, StoreUnavailable, NotMigrated: one side could not be asked; `sides` has the other.
        """
        return status_of(self.sides())

    @cached_property
    def _reconciler(self) -> Reconciler:
        survey = RedisSurvey(self._wire, self._topology, self.config)
        return Reconciler(survey, self._parts.rows, time.monotonic, blocking_sleep, random.random)

    def reconcile(
        self,
        *,
        table: str | None = None,
        sample: float = 1.0,
        fix: bool = False,
        rows_per_second: float | None = None,
    ) -> Iterator[Reconciled]:
        """Compare cached rows with PostgreSQL and what is pending, part by part, while everything goes on.

        Args:
            table: only rows of this table.
            sample: look at so many of the rows, by chance; 1 is all.
            fix: drop rows that are wrong, so that the next read installs the right ones.
            rows_per_second: go no faster.

        Yields what each part came to, which may be nothing. Stopping between two parts leaves nothing half done.

        Raises:
            InvalidRead, ValueError: an argument cannot be used.
            BufferUnavailable, StoreUnavailable, NotMigrated, TopologyMismatch: one side could not be asked.
        """
        return each(self._reconciler.reconcile(table=table, sample=sample, fix=fix, rows_per_second=rows_per_second))

    def doctor(self) -> list[Finding]:
        """Everything that could be wrong with servers, settings and lanes, and what to do: `pipeline.core.health`.

        A side that cannot be asked is a finding, not an error.
        """
        sides = self.sides()
        known = [] if isinstance(sides.ledger, PipelineError) else sides.ledger
        return diagnose(
            Facts(
                buffer=_asked(lambda: inspect_buffer(self._redis, self._check_topology)),
                broker=_asked(lambda: inspect_broker(self.config, time.sleep)),
                store=_asked(lambda: inspect_store(self._sessions, self.config)),
                lanes=sides.buffer
                if isinstance(sides.buffer, PipelineError)
                else msgspec.convert(shard_statuses(sides.buffer.shards, known), list[Lane], from_attributes=True),
                flush_interval_seconds=self.config.flush_interval_seconds,
                max_pending=self.config.max_pending,
            )
        )

    def _check_topology(self) -> None:
        run(check_topology(self._wire, self._topology))


def owner() -> str:
    """A name for who takes a lease now."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}:{uuid.uuid4().hex[:8]}"


T = TypeVar("T")


def _asked(ask: Callable[[], T]) -> T | PipelineError:
    try:
        return ask()
    except InvalidSetting:
        raise
    except PipelineError as error:
        return error
