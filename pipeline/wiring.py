"""The composition root: the only module that knows both Redis and PostgreSQL, and where clock and chance come in."""

from __future__ import annotations

import os
import random
import secrets
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
from pipeline.buffer.rows import RedisRows
from pipeline.config import Config, Durability
from pipeline.core.change import Change, event_id
from pipeline.core.drain import drain_seconds
from pipeline.core.health import Facts, Finding, Lane, diagnose
from pipeline.errors import InvalidSetting, PipelineError
from pipeline.flush import End, Flusher, FlushReport
from pipeline.ports import Ledger, ShardLedger, ShardState
from pipeline.reader import Reader
from pipeline.replay import Replayer
from pipeline.store.dead_letters import PostgresDeadLetters, PostgresLedger
from pipeline.store.inspection import inspect_store
from pipeline.store.postgres import PostgresStore
from pipeline.store.reader import PostgresRows
from pipeline.store.schema import migrate
from pipeline.store.session import Sessions
from pipeline.telemetry import Probe, ignore
from pipeline.writer import Ingress, Receipt, Writer

__all__ = ["Pipeline", "ShardStatus", "Status"]

_RANDOM_BITS: Final = 74  # of a UUIDv7
_TURN_SECONDS: Final = 0.5  # of one shard in a drain; short, so that its caller can show progress and stop
_BUSY_SECONDS: Final = 0.05  # until another flusher, who is in the middle of a batch, is looked at again


def _new_event_id() -> str:
    return event_id(time.time_ns() // 1_000_000, secrets.randbits(_RANDOM_BITS))


class ShardStatus(msgspec.Struct, frozen=True):
    """One shard as ``pipeline status`` shows it. Ages and waits are in seconds; ``None``: there is none.

    ``pending`` counts ``frozen`` and ``parked`` events, too. ``parked`` events are set aside because of the tables in
    ``paused`` (table → why). ``per_second`` is how many events were drained lately, ``drain_seconds`` how long the
    pending ones will take at that rate, if no more come (see `pipeline.core.drain`).
    """

    shard: int
    pending: int
    frozen: int
    oldest_age: float | None
    attempts: int
    failures: int
    next_try: float | None
    error: str | None
    applied_batches: int
    dead_letters: int
    rechecking: bool
    store_gaps: int
    parked: int
    paused: dict[str, str]
    per_second: float | None
    drain_seconds: float | None


class Status(msgspec.Struct, frozen=True):
    """All shards and their sums.

    Not ``healthy``: a batch keeps failing, a table is paused, or PostgreSQL went back in time.
    """

    namespace: str
    pending: int
    frozen: int
    parked: int
    oldest_age: float | None
    dead_letters: int
    healthy: bool
    shards: list[ShardStatus]


class Pipeline:
    """A write-behind pipeline: writes go to Redis, batches go to PostgreSQL.

    Thread-safe and fork-safe; connections are made at first use. One instance per process is enough.

    >>> pipeline = Pipeline.from_env()                                              # doctest: +SKIP
    >>> pipeline.write("page_views", key={"page_id": 7}, add={"views": 1})          # doctest: +SKIP
    Receipt(event_id='019…', shard=3, seq=1, duplicate=False)
    """

    def __init__(self, config: Config | None = None, probe: Probe = ignore) -> None:
        """``probe`` is told every step on the way of an event; see `pipeline.telemetry`."""
        self.config = config or Config()
        self._probe = probe
        self._redis = connect(self.config)
        self._buffer = RedisBuffer(self._redis, self.config)
        self._sessions = Sessions(self.config)
        self._rows = RedisRows(self.config, self._buffer.check_topology)
        store = PostgresRows(self._sessions, self.config, time.monotonic)
        self._reader = Reader(self._rows, store, self.config, time.monotonic, time.sleep, probe=probe)
        self._writer = Writer(self._buffer, self.config, _new_event_id, probe)

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
        change = Change(table, dict(key), dict(set or {}), dict(add or {}), dict(max or {}), dict(min or {}))
        return self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

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
        change = Change(table, dict(key), delete=True)
        return self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

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
        change = Change(table, insert=dict(values))
        return self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

    def write_many(self, changes: Iterable[Change], *, durability: Durability | None = None) -> list[Receipt]:
        """Accept one event per change, in chunks of one round trip each; order is kept per shard.

        Raises as `write`; the error's ``receipts`` say what was accepted before it. ``durability`` is waited for once,
        in the end, for all of them; also for what was accepted before an error.
        """
        return self._writer.write_many(changes, durability=durability)

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
        return self._writer.write(changes, event_id=event_id, shard_by=shard_by, durability=durability)

    @cached_property
    def ingress(self) -> Ingress:
        """Accepts events that arrive as Celery messages; what the task ``apply_event`` calls."""
        return Ingress(self._writer, self._buffer, self.config)

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
        return self._reader.read(table, key, shard_by=shard_by, allow_stale=allow_stale)

    def read_many(
        self, table: str, keys: Iterable[Mapping[str, Any]], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> list[dict[str, Any] | None]:
        """`read` for many keys, in their order; in one round trip for each 500 of them if all are cached."""
        return self._reader.read_many(table, keys, shard_by=shard_by, allow_stale=allow_stale)

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
        return self._flusher.flush_shard(shard, owner, slice_seconds)

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
        return Replayer(self._writer, self.dead_letters, self.config, self._probe)

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
        now_ms = time.time() * 1000
        shards = [_shard_status(state, ledgers.get(state.shard), now_ms) for state in self._buffer.states()]
        return Status(
            namespace=self.config.namespace,
            pending=sum(shard.pending for shard in shards),
            frozen=sum(shard.frozen for shard in shards),
            parked=sum(shard.parked for shard in shards),
            oldest_age=max((shard.oldest_age for shard in shards if shard.oldest_age is not None), default=None),
            dead_letters=sum(shard.dead_letters for shard in shards),
            healthy=not any(shard.failures or shard.store_gaps or shard.paused for shard in shards),
            shards=shards,
        )

    def doctor(self) -> list[Finding]:
        """Everything that could be wrong with servers, settings and lanes, and what to do: `pipeline.core.health`.

        A side that cannot be asked is a finding, not an error.
        """
        states, ledgers = _asked(self._buffer.states), _asked(self.ledger.shards)
        known = {} if isinstance(ledgers, PipelineError) else {ledger.shard: ledger for ledger in ledgers}
        now_ms = time.time() * 1000
        return diagnose(
            Facts(
                buffer=_asked(lambda: inspect_buffer(self._redis, self._buffer)),
                broker=_asked(lambda: inspect_broker(self.config)),
                store=_asked(lambda: inspect_store(self._sessions, self.config)),
                lanes=states
                if isinstance(states, PipelineError)
                else [_lane(_shard_status(state, known.get(state.shard), now_ms)) for state in states],
                flush_interval_seconds=self.config.flush_interval_seconds,
                max_pending=self.config.max_pending,
            )
        )

    def ping(self) -> None:
        """Raise `BufferUnavailable` or `TopologyMismatch` if this pipeline cannot be used."""
        self._buffer.ping()

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        self._buffer.close()
        self._rows.close()
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


def _lane(status: ShardStatus) -> Lane:
    return msgspec.convert(status, Lane, from_attributes=True)


def _shard_status(state: ShardState, ledger: ShardLedger | None, now_ms: float) -> ShardStatus:
    oldest = state.oldest_ms
    pending = state.queued + state.frozen + state.parked
    return ShardStatus(
        shard=state.shard,
        pending=pending,
        frozen=state.frozen,
        oldest_age=None if oldest is None else round(max(0.0, now_ms - oldest) / 1000, 3),
        attempts=state.begun,
        failures=state.failures,
        next_try=None if state.due_ms is None else round(max(0.0, state.due_ms - now_ms) / 1000, 3),
        error=state.error,
        applied_batches=ledger.seq if ledger else 0,
        dead_letters=ledger.dead_letters if ledger else 0,
        rechecking=ledger.rechecking if ledger else False,
        store_gaps=ledger.store_gaps if ledger else 0,
        parked=state.parked,
        paused={table.table: table.error for table in state.paused},
        per_second=state.per_second,
        drain_seconds=drain_seconds(pending, state.per_second),
    )
