"""The composition root, with `pipeline.parts`: where Redis and PostgreSQL meet, and clock and chance come in.

Only `pipeline.asynchronous` knows both, too: it is the same for an event loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

from pipeline.barrier import Tell
from pipeline.buffer.arrivals import RedisArrivals
from pipeline.buffer.topology import ping
from pipeline.client import Client
from pipeline.config import Config, Durability
from pipeline.core.change import Change
from pipeline.core.outcome import Outcome
from pipeline.driving import aside, blocking_sleep, run
from pipeline.flush import End
from pipeline.ingress import BulkIngress, CeleryReads, Taken
from pipeline.operations import Operations, owner
from pipeline.parts import Parts
from pipeline.ports import nothing
from pipeline.receipts import Receipt, Slip
from pipeline.telemetry import Probe, ignore
from pipeline.through import PATIENCE_SECONDS, Flushed
from pipeline.vigil import BlockingBell
from pipeline.writer import Ingress

__all__ = ["Pipeline"]


class Pipeline(Operations):
    """A write-behind pipeline: writes go to Redis, batches go to PostgreSQL.

    Thread-safe and fork-safe; connections are made at first use. One instance per process is enough.

    >>> pipeline = Pipeline.from_env()                                              # doctest: +SKIP
    >>> pipeline.write("page_views", key={"page_id": 7}, add={"views": 1})          # doctest: +SKIP
    Receipt(event_id='019…', shard=3, seq=1, duplicate=False, after=0, applied=False)
    """

    def __init__(self, config: Config | None = None, probe: Probe = ignore) -> None:
        """``probe`` is told every step on the way of an event; see `pipeline.telemetry`."""
        super().__init__(config or Config(), probe)
        self._parts = Parts(
            self.config,
            self._wire,
            self._topology,
            self._sessions,
            receipt=Receipt,
            bell=BlockingBell,
            flush=self._flush_aside,
            sleep=blocking_sleep,
            probe=probe,
        )
        self._client = Client(self._parts, self.config)

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
            PipelineFull: the shard holds as many pending events as it may, and (with ``config.when_full`` ``"block"``)
                has done so for ``config.full_timeout_seconds``.
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

        Raises as `write`; the error's ``receipts`` say what was accepted before it, since earlier chunks may have been,
        and the ``position`` of an `InvalidEvent` says which change is wrong. An error of ``changes`` itself has a note
        of how many were accepted. ``durability`` is waited for once, in the end, for all of them; also for what was
        accepted before an error.
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
                The transaction must be READ COMMITTED.
            timeout: seconds to wait for what is pending. What is left of it, or one second if that is more and
                ``timeout`` is not less, is for the turn on the row, and again for the row if somebody has locked it;
                never more than PostgreSQL's statement_timeout.

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

    @cached_property
    def _bulk_ingress(self) -> BulkIngress:
        queue = RedisArrivals(self._wire, self._topology, self.config)
        return BulkIngress(
            queue, self._parts.intake, self.ingress, self.config,
            time.monotonic, lambda: datetime.now(UTC), probe=self._probe,
        )  # fmt: skip

    def take_ingress(self, celery_reads: CeleryReads, meanwhile: Callable[[], object] = nothing) -> Taken:
        """Accept the events in Celery's ingress queue in bulk, if that lies in this Redis; what the flush begins with.

        ``celery_reads``: see `pipeline.writer.Ingress.sort`; ``meanwhile``: see `pipeline.ingress.BulkIngress.take`.
        Raises no `PipelineError`; the answer says it.
        """
        if not self.config.shares_broker:
            return Taken()
        return run(self._bulk_ingress.take(owner(), celery_reads, meanwhile))

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

    # --- waiting

    def wait(self, receipt: Slip, timeout: float | None = None) -> Outcome:
        """What became of an event: `Outcome.APPLIED`, or `Outcome.DEAD` with the reason, as soon as that is so.

        ``timeout`` is in seconds, ``None``: wait for ever. While Redis or PostgreSQL is away, it goes on waiting. An
        event that Redis has forgotten, because it went back in time, is waited for in vain.

        Any number of threads may wait: one of them looks for all. ``receipt`` may come from another process.

        Raises:
            StillPending: a `TimeoutError`; says what may keep the event.
            StoreError: PostgreSQL refuses to answer: no ``pipeline migrate``, no right to read the ledger.
        """
        return run(self._client.wait(receipt, timeout))

    def wait_all(self, receipts: Iterable[Slip], timeout: float | None = None) -> list[Outcome]:
        """`wait` for all of them together; the outcomes in their order."""
        return run(self._client.wait_all(receipts, timeout))

    def outcome(self, receipt: Slip) -> Outcome:
        """What PostgreSQL says of an event now; `Outcome.PENDING` if it says nothing.

        That it does also after PIPELINE_LEDGER_RETENTION, when it has forgotten the event.

        Raises:
            StoreUnavailable: PostgreSQL is down.
        """
        return run(self._client.outcome(receipt))

    def barrier(self, table: str | None = None, timeout: float | None = None, tell: Tell | None = None) -> None:
        """Return when everything that was accepted before is committed or dead, by whomever it was written.

        With ``table`` events that are set aside, because another table is paused, are not waited for if they do not
        touch this one. ``timeout`` is in seconds; ``tell`` is called now and then, with the number of events that are
        still waited for.

        Raises:
            StillPending: a `TimeoutError`; says which shards are not done, and why.
            BufferUnavailable: Redis is down at the call, or went back in time meanwhile, so nobody can say.
        """
        run(self._client.barrier(table, timeout, tell))

    # --- connections

    async def _flush_aside(self, shard: int, seconds: float) -> Flushed | None:
        """See `pipeline.through.FlushAside`. In a thread, since what it waits for may be the caller's own locks."""
        report = aside(lambda: self.flush_shard(shard, slice_seconds=0), seconds)
        return None if report is None else Flushed(report.why, report.end is End.SLICE)

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
