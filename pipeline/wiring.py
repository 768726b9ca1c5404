"""The composition root: where Redis and PostgreSQL meet, and clock and chance come in.

Only `pipeline.asynchronous` knows both, too: it is the same for an event loop.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Self, TypeVar

import msgspec

from pipeline.buffer.inspection import inspect_broker, inspect_buffer
from pipeline.buffer.redis import RedisBuffer, connect
from pipeline.buffer.topology import Topology, check_topology, ping
from pipeline.buffer.wire import BlockingWire
from pipeline.client import Client
from pipeline.config import Config, Durability
from pipeline.core.change import Change
from pipeline.core.health import Facts, Finding, diagnose
from pipeline.driving import aside, blocking_sleep, run
from pipeline.errors import InvalidSetting, PipelineError
from pipeline.flush import End, Flusher, FlushReport
from pipeline.parts import Parts, new_event_id
from pipeline.ports import Ledger
from pipeline.replay import Replayer
from pipeline.status import Status, lanes, summary
from pipeline.store.dead_letters import PostgresDeadLetters, PostgresLedger
from pipeline.store.inspection import inspect_store
from pipeline.store.postgres import PostgresStore
from pipeline.store.schema import migrate
from pipeline.store.session import Sessions
from pipeline.telemetry import Probe, ignore
from pipeline.through import PATIENCE_SECONDS
from pipeline.writer import Ingress, Receipt

__all__ = ["Pipeline"]

_TURN_SECONDS: Final = 0.5  # of one shard in a drain; short, so that its caller can show progress and stop
_BUSY_SECONDS: Final = 0.05  # until another flusher, who is in the middle of a batch, is looked at again


class Pipeline:
    """A write-behind pipeline: writes go to Redis, batches go to PostgreSQL.

    Thread-safe and fork-safe; connections are made at first use. One instance per process is enough.

    >>> pipeline = Pipeline.from_env()                                              # doctest: +SKIP
    >>> pipeline.write("page_views", key={"page_id": 7}, add={"views": 1})          # doctest: +SKIP
    Receipt(event_id='019…', shard=3, seq=1, duplicate=False, applied=False)
    """

    def __init__(self, config: Config | None = None, probe: Probe = ignore) -> None:
        """``probe`` is told every step on the way of an event; see `pipeline.telemetry`."""
        self.config = config or Config()
        self._probe = probe
        self._redis = connect(self.config)
        self._wire = BlockingWire(self.config)
        self._topology = Topology(self.config)
        self._buffer = RedisBuffer(self._redis, self.config, self._check_topology)
        self._sessions = Sessions(self.config)
        self._parts = Parts(
            self.config, self._wire, self._topology, self._sessions,
            sleep=blocking_sleep, flush=self._flush_aside, probe=probe,
        )  # fmt: skip
        self._client = Client(self._parts.writer, self._parts.reader, self._parts.through, self.config, new_event_id)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """A pipeline with the settings in ``PIPELINE_…`` environment variables.

        Raises:
            InvalidSetting: names the variable and the problem.
        """
        return cls(Config.from_mapping(os.environ if environ is None else environ))

    # --- writing

    def write(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        max: Mapping[str, Any] | None = None,
        min: Mapping[str, Any] | None = None,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> Receipt:
        """Change one row, or create it: one atomic round trip to Redis.

        Args:
            table: as SQL spells it: ``page_views``, ``shop.orders``, ``"Order"``.
            key: columns and values of the primary key or of a unique index. Always address a row by the same ones.
            set: column → new value.
            add: column → increment; counts a missing row as its defaults and NULL as 0.
            max: column → value; the column keeps the greater one, as its type orders them in PostgreSQL.
            min: column → value; the column keeps the lesser one.
            event_id: idempotency key: the same id within ``dedupe_window_seconds`` is one event.
            shard_by: the lane, instead of the row's key. All writes of a row must give the same.
            durability: what the answer waits for: ``"memory"``: Redis has accepted it; ``"disk"``: and fsynced it to
                its append-only file, so it survives a power cut there; ``"replica"``: and a replica has received it,
                so it survives a failover to that one. Default: ``config.durability``. See `pipeline.buffer.durable`.

        Raises:
            InvalidEvent: names the table, the column and the problem; nothing reached Redis.
            PipelineFull: the shard holds as many pending events as it may.
            DurabilityNotReached: it was accepted, but ``durability`` not reached in time; see there about retries.
            BufferUnavailable: Redis could not be reached, or the connection broke; see there about retries.
        """
        return run(
            self._client.write(
                table, key, set=set, add=add, max=max, min=min,
                event_id=event_id, shard_by=shard_by, durability=durability,
            )
        )  # fmt: skip

    def delete(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> Receipt:
        """Delete one row; nothing happens if there is none. Raises as `write`."""
        return run(self._client.delete(table, key, event_id=event_id, shard_by=shard_by, durability=durability))

    def insert(
        self,
        table: str,
        values: Mapping[str, Any],
        *,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> Receipt:
        """Append one row to a table without addressing it by a key, once. Raises as `write`."""
        return run(self._client.insert(table, values, event_id=event_id, shard_by=shard_by, durability=durability))

    def write_many(self, changes: Iterable[Change], *, durability: Durability | None = None) -> list[Receipt]:
        """Accept one event per change, in chunks of one round trip each; order is kept per shard.

        Raises as `write`; the error's ``receipts`` say what was accepted before it. ``durability`` is waited for once,
        in the end, for all of them; also for what was accepted before an error.
        """
        return run(self._client.write_many(changes, durability=durability))

    def write_group(
        self,
        changes: Sequence[Change],
        *,
        shard_by: str | None = None,
        event_id: str | None = None,
        durability: Durability | None = None,
    ) -> Receipt:
        """Accept several changes as one event: they are applied together or become one dead letter.

        Raises as `write`; also `InvalidEvent` if the rows live in different shards and ``shard_by`` is not given.
        """
        return run(self._client.write_group(changes, shard_by=shard_by, event_id=event_id, durability=durability))

    def write_through(
        self,
        table: str,
        key: Mapping[str, Any] | None = None,
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        max: Mapping[str, Any] | None = None,
        min: Mapping[str, Any] | None = None,
        delete: bool = False,
        insert: Mapping[str, Any] | None = None,
        shard_by: str | None = None,
        connection: Any = None,
        timeout: float = PATIENCE_SECONDS,
    ) -> None:
        """Change one row in PostgreSQL now, behind everything that was accepted for it; then it is committed.

        Args:
            table: as in `write`, and spelled as in all writes of the row.
            key: as in `write`.
            set: as in `write`.
            add: as in `write`.
            max: as in `write`.
            min: as in `write`.
            delete: delete the row.
            insert: column → value of a row to append; it has no key, and no order.
            shard_by: as in `write`, and the same as in all writes of the row.
            connection: make the change in the open transaction of this psycopg connection, to the database of
                ``config.database_url``, and leave the commit to the caller. Until then reads do not see it. Do this
                first in the transaction: what is pending is flushed by others, who may need what it has locked.
            timeout: seconds to wait for what is pending; and again as long for the row, if somebody has locked it.

        Raises:
            InvalidEvent: names the table, the column and the problem; or what is wrong with ``connection``.
            NotSettled: it was not our turn in time.
            ChangeRefused: the change does not fit the table, or breaks a constraint of it.
            StoreError: conflicts with other transactions, again and again; roll back one of your own.
            StoreUnavailable: PostgreSQL is down. If that was while it committed, the message says that nobody knows.
            BufferUnavailable: Redis is down.
        """
        run(
            self._client.write_through(
                table, key, set=set, add=add, max=max, min=min, delete=delete, insert=insert,
                shard_by=shard_by, connection=connection, timeout=timeout,
            )
        )  # fmt: skip

    @cached_property
    def ingress(self) -> Ingress:
        """Accepts events that arrive as Celery messages; what the task ``apply_event`` calls."""
        return Ingress(self._parts.writer, self._parts.intake, self.config)

    # --- reading

    def read(
        self, table: str, key: Mapping[str, Any], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> dict[str, Any] | None:
        """The row with every change that was accepted for it, committed or not yet; ``None``: there is none.

        ``table``, the columns of ``key`` and ``shard_by`` must be those of its writes. With ``allow_stale``, when Redis
        is down, PostgreSQL alone answers: with a `StaleRow`, and a warning in the log.

        Raises:
            InvalidRead: no such table, or not one of its keys.
            BufferUnavailable: Redis is down.
            StoreUnavailable: PostgreSQL is down, and the row is not cached.
        """
        return run(self._client.read(table, key, shard_by=shard_by, allow_stale=allow_stale))

    def read_many(
        self, table: str, keys: Iterable[Mapping[str, Any]], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> list[dict[str, Any] | None]:
        """`read` for many keys, in their order; in one round trip for each 500 of them if all are cached."""
        return run(self._client.read_many(table, keys, shard_by=shard_by, allow_stale=allow_stale))

    # --- flushing

    @cached_property
    def _flusher(self) -> Flusher:
        store = PostgresStore(self._sessions, self.config, self._probe)
        return Flusher(self._buffer, store, self.config, time.monotonic, random.random, probe=self._probe)

    def flush_shard(self, shard: int, *, slice_seconds: float | None = None) -> FlushReport:
        """Flush one shard until it is empty, fails, or its time slice (default: the configured one) is over.

        Raises:
            BufferUnavailable: Redis could not be reached.
            NotMigrated: ``pipeline migrate`` has not run.
            ValueError: there is no such shard.
        """
        if not 0 <= shard < self.config.shards:
            raise ValueError(f"there is no shard {shard}; shards are 0 to {self.config.shards - 1}")
        owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}:{uuid.uuid4().hex[:8]}"
        report = self._flusher.flush_shard(shard, owner, slice_seconds)
        if report.end is not End.RESTING:
            return report
        return msgspec.structs.replace(report, error=self._buffer.states()[shard].error)

    async def _flush_aside(self, shard: int, seconds: float) -> str | None:
        """See `pipeline.through.FlushAside`. In a thread, since what it waits for may be the caller's own locks."""
        report = aside(lambda: self.flush_shard(shard, slice_seconds=seconds), seconds)
        return None if report is None else report.why

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

    def status(self) -> Status:
        """Pending events, frozen batches and dead letters, per shard and in sum.

        Raises:
            BufferUnavailable, StoreUnavailable, NotMigrated: one side could not be asked.
        """
        ledgers = {ledger.shard: ledger for ledger in self.ledger.shards()}
        return summary(self.config.namespace, self._buffer.states(), ledgers, time.time() * 1000)

    def doctor(self) -> list[Finding]:
        """Everything that could be wrong with servers, settings and lanes, and what to do: `pipeline.core.health`.

        A side that cannot be asked is a finding, not an error.
        """
        states, ledgers = _asked(self._buffer.states), _asked(self.ledger.shards)
        known = {} if isinstance(ledgers, PipelineError) else {ledger.shard: ledger for ledger in ledgers}
        return diagnose(
            Facts(
                buffer=_asked(lambda: inspect_buffer(self._redis, self._check_topology)),
                broker=_asked(lambda: inspect_broker(self.config)),
                store=_asked(lambda: inspect_store(self._sessions, self.config)),
                lanes=states if isinstance(states, PipelineError) else lanes(states, known, time.time() * 1000),
                flush_interval_seconds=self.config.flush_interval_seconds,
                max_pending=self.config.max_pending,
            )
        )

    def _check_topology(self) -> None:
        run(check_topology(self._wire, self._topology))

    def ping(self) -> None:
        """Raise `BufferUnavailable` or `TopologyMismatch` if this pipeline cannot be used."""
        run(ping(self._wire, self._topology))

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        self._buffer.close()
        run(self._wire.close())
        self._sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


T = TypeVar("T")


def _asked(ask: Callable[[], T]) -> T | PipelineError:
    try:
        return ask()
    except InvalidSetting:
        raise
    except PipelineError as error:
        return error
