"""Apply a batch exactly once: ledger check, bulk write, dead letters and ledger mark in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout

from pipeline.config import Config
from pipeline.core.change import MAX_EVENT_ID, Change, Event
from pipeline.core.codec import Malformed
from pipeline.core.failure import Meaning, classify
from pipeline.core.fold import fold
from pipeline.core.isolate import isolate
from pipeline.core.table import Table
from pipeline.errors import ApplyFailed, NotMigrated
from pipeline.ports import Applied, Batch
from pipeline.store.bulk import BulkWriter, MissingColumn, Plan, Shape
from pipeline.store.catalog import Catalog
from pipeline.store.session import Sessions
from pipeline.store.statements import statement
from pipeline.store.text import Unfit
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["PostgresStore"]


class _Finding(NamedTuple):
    """What was wrong with an event."""

    reason: str
    sqlstate: str | None
    meaning: Meaning = Meaning.POISON
    table: str | None = None


_ISOLATED: Final = frozenset({Meaning.POISON, Meaning.PARENT_MISSING, Meaning.UNKNOWN})
"""Errors that may be one event's fault: look for it. Everything else ends the attempt for the whole batch."""


T = TypeVar("T")


class PostgresStore:
    """`pipeline.ports.Store` on PostgreSQL ≥ 15."""

    def __init__(self, sessions: Sessions, config: Config, probe: Probe = ignore) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._probe = probe
        self._catalog = Catalog()
        self._plans: dict[tuple[int, Shape], Plan] = {}

    def apply(self, batch: Batch) -> Applied:
        """See `pipeline.ports.Store.apply`."""
        try:
            return self._run(batch, _Application.run)
        except ApplyFailed as error:
            if error.meaning != Meaning.SYSTEMIC:
                raise
            self._forget()  # the schema seems wrong, or our copy of it is old: look again, once
        return self._run(batch, _Application.run)

    def probe(self, event: Event, *, paused: bool) -> str | None:
        """See `pipeline.ports.Store.probe`."""
        self._forget()
        batch = Batch(shard=-1, id="", seq=0, entries=[event], final=True, failures=0, paused=paused)
        try:
            self._run(batch, _Application.rehearse)
        except ApplyFailed as error:
            if error.meaning == Meaning.SYSTEMIC:
                return str(error)
            raise
        return None

    def _run(self, batch: Batch, run: Callable[[_Application], T]) -> T:
        application: _Application | None = None
        try:
            with self._sessions.connection() as connection:
                try:
                    application = _Application(
                        connection,
                        batch,
                        namespace=self._namespace,
                        catalog=self._catalog,
                        plans=self._plans,
                        probe=self._probe,
                    )
                    return run(application)
                finally:
                    if connection.info.transaction_status not in {TransactionStatus.IDLE, TransactionStatus.UNKNOWN}:
                        connection.rollback()
        except MissingColumn as error:
            raise ApplyFailed(
                str(error), "42703", Meaning.SYSTEMIC, application.table if application else None
            ) from error
        except (psycopg.Error, PoolTimeout) as error:
            raise _failure(error, application.table if application else None) from error

    def _forget(self) -> None:
        self._catalog.forget()
        self._plans.clear()


def _failure(error: Exception, table: str | None) -> ApplyFailed:
    sqlstate = getattr(error, "sqlstate", None)
    return ApplyFailed(_text(error), sqlstate, classify(sqlstate), table)


def _text(error: Exception) -> str:
    """The message of an error, with PostgreSQL's detail, without the position in our own SQL."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return error.diag.message_primary + (f" ({detail})" if detail else "")
    return str(error).strip() or type(error).__name__


class _Ledger(NamedTuple):
    """What the shard's row said when it was locked."""

    seq: int
    recheck_from: int | None


class _Application:
    """One attempt to apply one batch."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        batch: Batch,
        *,
        namespace: str,
        catalog: Catalog,
        plans: dict[tuple[int, Shape], Plan],
        probe: Probe,
    ) -> None:
        self._connection = connection
        self._batch = batch
        self._scope = {"namespace": namespace, "shard": batch.shard}
        self._catalog = catalog
        self._plans = plans
        self._probe = probe
        self._looked_again = False
        self._tables: dict[int, Table] = {}
        self._names: dict[int, str] = {}
        self._writer = BulkWriter(connection, self._tables, plans)
        self._rows = 0
        self._savepoints = 0

    def run(self) -> Applied:
        batch = self._batch
        self._connection.execute("BEGIN")
        ledger = self._lock()
        if ledger is None:
            return self._applied_before()
        self._probe(Step.LOCKED)
        seq, recheck_from, warning = self._place(ledger)
        here = [position for position in range(len(batch.entries)) if position not in batch.aside]
        fresh = self._fresh(here, recheck_from)
        if batch.bury is not None:
            bad = {position: _Finding(batch.bury, None) for position in fresh}
        else:
            bad = self._write(fresh)
        for position, finding in sorted(bad.items()):
            self._bury(batch.entries[position], finding)
            self._probe(Step.BURIED)
        self._connection.execute(
            statement("record_batch"),
            {
                **self._scope,
                "seq": seq,
                "batch_id": batch.id,
                # also of those that were applied before: what is missing here was set aside
                "event_ids": [_entry_id(batch.entries[position]) for position in here],
                "row_count": self._rows,
                "dead_count": len(bad),
                "recheck_from": None if batch.drained and not batch.aside else recheck_from,
                "gaps": int(batch.seq > ledger.seq + 1),
            },
        )
        self._probe(Step.COMMITTING)
        self._connection.execute("COMMIT")
        self._probe(Step.COMMITTED)
        return Applied(
            seq=seq,
            rows=self._rows,
            dead=frozenset(bad),
            skipped=len(here) - len(fresh),
            savepoints=self._savepoints,
            warning=warning,
            aside=batch.aside,
        )

    def rehearse(self) -> None:
        """Write the batch and take it back: raises what is wrong with its tables."""
        self._connection.execute("BEGIN")
        self._write(range(len(self._batch.entries)))
        self._connection.execute("ROLLBACK")

    @property
    def table(self) -> str | None:
        """The table that was being written when something went wrong, as its changes spell it."""
        return None if self._writer.at is None else self._names[self._writer.at.oid]

    # --- once only

    def _lock(self) -> _Ledger | None:
        """Lock the shard; ``None``: the batch was applied and its acknowledgement was lost."""
        lock = statement("lock_shard")
        try:
            row = self._connection.execute(lock, self._scope).fetchone()
            if row is None:  # committed by itself, so that a second flusher does not wait for our whole batch
                self._connection.execute("ROLLBACK")
                self._connection.execute(statement("create_shard"), self._scope)
                self._connection.execute("BEGIN")
                row = self._connection.execute(lock, self._scope).fetchone()
        except psycopg.errors.LockNotAvailable as error:
            raise ApplyFailed("another flusher holds this shard", error.sqlstate, Meaning.BUSY) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise NotMigrated("the schema pipeline is missing: run `pipeline migrate`", error.sqlstate) from error
        if row is None:
            raise ApplyFailed("the shard's row vanished", None, Meaning.CONFLICT)
        seq, last_batch, recheck_from = row
        if str(last_batch) == self._batch.id:
            return None
        if self._batch.seq != seq + 1 and self._find_batch() is not None:
            return None
        return _Ledger(seq, recheck_from)

    def _find_batch(self) -> tuple[int, frozenset[str]] | None:
        """The seq under which the batch stands in the ledger, and the ids of its events there."""
        row = self._connection.execute(statement("find_batch"), {"batch_id": self._batch.id}).fetchone()
        return None if row is None else (row[0], frozenset(row[1]))

    def _applied_before(self) -> Applied:
        """The batch is in the ledger: say what became of it, and under which number it stands there."""
        batch = self._batch
        seq, ids = self._find_batch() or (batch.seq, frozenset())
        rows = self._connection.execute(statement("find_dead_events"), {"batch_id": batch.id}).fetchall()
        dead = {row[0] for row in rows}
        self._connection.execute("ROLLBACK")
        names = list(map(_entry_id, batch.entries))
        return Applied(
            seq=seq,
            rows=0,
            dead=frozenset(position for position, name in enumerate(names) if name in dead),
            skipped=len(batch.entries),
            aside=frozenset(position for position, name in enumerate(names) if name not in ids),
        )

    def _place(self, ledger: _Ledger) -> tuple[int, int | None, str | None]:
        """The seq to record the batch under, from which seq on to look for its events, and what is odd about it."""
        expected, claimed = ledger.seq + 1, self._batch.seq
        if claimed == expected:
            return expected, ledger.recheck_from, None
        if claimed < expected:
            start = claimed if ledger.recheck_from is None else min(claimed, ledger.recheck_from)
            return (
                expected,
                start,
                (
                    f"Redis went back in time: it is at batch {claimed}, PostgreSQL has applied {ledger.seq}; "
                    "looking up every event that was pending in it"
                ),
            )
        return (
            claimed,
            ledger.recheck_from,
            (
                f"PostgreSQL went back in time: it has applied batch {ledger.seq}, Redis acknowledged {claimed - 1}; "
                f"the effects of the {claimed - expected} batches between are not in this database"
            ),
        )

    def _fresh(self, positions: Sequence[int], recheck_from: int | None) -> Sequence[int]:
        """Those of ``positions`` whose entries have not been applied."""
        if recheck_from is None:
            return positions
        ids = {position: _entry_id(self._batch.entries[position]) for position in positions}
        found = self._connection.execute(
            statement("find_applied_events"),
            {**self._scope, "from_seq": recheck_from, "event_ids": list(ids.values())},
        ).fetchall()
        applied = {row[0] for row in found}
        return [position for position, event in ids.items() if event not in applied]

    # --- writing

    def _write(self, positions: Sequence[int]) -> dict[int, _Finding]:
        """Write the entries at ``positions``; what was wrong with those that could not be written."""
        entries = self._batch.entries
        bad: dict[int, _Finding] = {}
        events: list[Event] = []
        place: dict[int, int] = {}
        for position in positions:
            entry = entries[position]
            if isinstance(entry, Malformed):
                bad[position] = _Finding(entry.reason, None)
            else:
                place[id(entry)] = position
                events.append(entry)
        for event, finding in isolate(events, self._attempt, self._attempt_alone):
            if finding.meaning is Meaning.PARENT_MISSING and self._batch.paused:
                raise ApplyFailed(finding.reason, finding.sqlstate, Meaning.SYSTEMIC, finding.table)
            if finding.meaning is not Meaning.POISON and not self._batch.final:
                raise ApplyFailed(finding.reason, finding.sqlstate, finding.meaning)
            bad[place[id(event)]] = finding
        return bad

    def _attempt(self, events: Sequence[Event]) -> _Finding | None:
        return self._in_savepoint(
            [[row for event in events for row in zip(event.changes, event.identities, strict=True)]]
        )

    def _attempt_alone(self, event: Event) -> _Finding | None:
        return self._in_savepoint([[row] for row in zip(event.changes, event.identities, strict=True)])

    def _in_savepoint(self, steps: Sequence[Sequence[tuple[Change, str | None]]]) -> _Finding | None:
        """Fold and write each step; all or nothing. Deferred constraints are checked here too, not first at COMMIT."""
        self._savepoints += 1
        self._connection.execute("SAVEPOINT pipeline; SET CONSTRAINTS ALL DEFERRED")
        try:
            rows = 0
            for changes in steps:
                rows += self._writer.write(
                    fold([(self._table(change.table), change, name) for change, name in changes])
                )
            self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT pipeline")
        except Unfit as error:
            finding = _Finding(str(error), None)
        except psycopg.Error as error:
            finding = _Finding(_text(error), error.sqlstate, classify(error.sqlstate), self.table)
            if finding.meaning not in _ISOLATED:
                raise
        else:
            self._rows += rows
            self._probe(Step.ATTEMPTED)
            return None
        self._connection.execute("ROLLBACK TO SAVEPOINT pipeline; RELEASE SAVEPOINT pipeline")
        self._look_again()
        self._probe(Step.ATTEMPTED)
        return finding

    def _look_again(self) -> None:
        """Something did not fit: before an event is blamed, read the catalog anew, once.

        A column may be wider by now, a key unique, a table referenced.
        """
        if not self._looked_again:
            self._looked_again = True
            self._catalog.forget()
            self._plans.clear()

    def _table(self, name: str) -> Table:
        table = self._catalog.get(name)
        if table is None:
            table = self._catalog.read(self._connection, name)
        self._tables[table.oid] = table
        self._names[table.oid] = name
        return table

    # --- dead letters

    def _bury(self, entry: Event | Malformed, finding: _Finding) -> None:
        self._connection.execute(
            statement("bury"),
            {
                **self._scope,
                "batch_id": self._batch.id,
                "event_id": _entry_id(entry),
                "table_name": entry.changes[0].table if isinstance(entry, Event) else None,
                "reason": finding.reason.replace("\x00", "\\0"),
                "sqlstate": finding.sqlstate,
                "attempts": self._batch.failures + 1,
                "accepted_ms": entry.accepted_ms,
                "message": entry.raw,
            },
        )


def _entry_id(entry: Event | Malformed) -> str:
    """The id by which the ledger knows an entry. A malformed message may have no usable one: then it is its hash."""
    if isinstance(entry, Event):
        return entry.id
    if entry.id is not None and 0 < len(entry.id) <= MAX_EVENT_ID and entry.id.isprintable():
        return entry.id
    return "raw:" + blake2b(entry.raw, digest_size=16).hexdigest()
