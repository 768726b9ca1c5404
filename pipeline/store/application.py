"""One attempt to apply one batch: ledger check, bulk write, dead letters and ledger mark in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import psycopg

from pipeline.core.change import MAX_EVENT_ID, Change, Event
from pipeline.core.codec import Malformed
from pipeline.core.failure import Meaning, classify
from pipeline.core.fold import fold
from pipeline.core.isolate import isolate
from pipeline.core.table import Table
from pipeline.errors import ApplyFailed, NotMigrated
from pipeline.ports import Applied, Batch
from pipeline.store.bulk import BulkWriter, Plan, Shape
from pipeline.store.catalog import Catalog
from pipeline.store.statements import statement
from pipeline.store.text import Unfit
from pipeline.telemetry import Probe, Step

__all__ = ["Application", "text_of_error"]


class _Finding(NamedTuple):
    """What was wrong with an event."""

    reason: str
    sqlstate: str | None
    meaning: Meaning = Meaning.POISON
    table: str | None = None


_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Whatever the role's or the database's default is: a later snapshot would not see whom a race was lost to."""

_ISOLATED: Final = frozenset({Meaning.POISON, Meaning.PARENT_MISSING, Meaning.UNKNOWN})
"""Errors that may be one event's fault: look for it. Everything else ends the attempt for the whole batch."""


def text_of_error(error: Exception) -> str:
    """The message of an error, with PostgreSQL's detail, without the position in our own SQL."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return error.diag.message_primary + (f" ({detail})" if detail else "")
    return str(error).strip() or type(error).__name__


class _Window(NamedTuple):
    """Batches of the ledger (first and last seq) whose events may come back, because Redis went back in time."""

    start: int
    end: int


class _Ledger(NamedTuple):
    """What the shard's row said when it was locked."""

    seq: int
    window: _Window | None


class Application:
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
        stages: set[str],
        recheck_seconds: float,
    ) -> None:
        self._recheck_seconds = recheck_seconds
        self._connection = connection
        self._batch = batch
        self._scope = {"namespace": namespace, "shard": batch.shard}
        self._catalog = catalog
        self._plans = plans
        self._probe = probe
        self._begun = False
        self._looked_again = False
        self._tables: dict[int, Table] = {}
        self._names: dict[int, str] = {}
        self._writer = BulkWriter(connection, self._tables, plans, stages)
        self._rows = 0
        self._savepoints = 0

    def run(self, begin: Callable[[], None]) -> Applied:
        """Apply the batch and commit; see `pipeline.ports.Store.apply`."""
        batch = self._batch
        self._writer.make_room()
        self._connection.execute(_BEGIN)
        ledger = self._lock()
        if ledger is None:
            return self._applied_before()
        begin()
        self._begun = True
        self._probe(Step.LOCKED)
        seq, window, warning = self._place(ledger)
        self._freshen()
        here = [position for position in range(len(batch.entries)) if position not in batch.aside]
        fresh = self._fresh(here, window)
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
                "event_ids": "\n".join([_entry_id(batch.entries[position]) for position in here]),
                "row_count": self._rows,
                "dead_count": len(bad),
                "recheck_from": window and window.start,
                "recheck_to": window and window.end,
                "recheck_seconds": self._recheck_seconds if warning else None,
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
        self._connection.execute(_BEGIN)
        self._write(range(len(self._batch.entries)))
        self._connection.execute("ROLLBACK")

    @property
    def table(self) -> str | None:
        """The table that was being written when something went wrong, as its changes spell it."""
        return None if self._writer.at is None else self._names[self._writer.at.oid]

    @property
    def lost(self) -> bool:
        """Whether the connection broke after the batch was begun."""
        return self._begun and self._connection.broken

    def _freshen(self) -> None:
        """See that what the catalog's cache says of the batch's tables is still so."""
        events = (entry for entry in self._batch.entries if isinstance(entry, Event))
        if self._catalog.freshen(self._connection, {change.table for event in events for change in event.changes}):
            self._plans.clear()

    # --- once only

    def _lock(self) -> _Ledger | None:
        """Lock the shard; ``None``: the batch was applied and its acknowledgement was lost."""
        lock = statement("lock_shard")
        try:
            row = self._connection.execute(lock, self._scope).fetchone()
            if row is None:  # committed by itself, so that a second flusher does not wait for our whole batch
                self._connection.execute("ROLLBACK")
                self._connection.execute(statement("create_shard"), self._scope)
                self._connection.execute(_BEGIN)
                row = self._connection.execute(lock, self._scope).fetchone()
        except psycopg.errors.LockNotAvailable as error:
            raise ApplyFailed("another flusher holds this shard", error.sqlstate, Meaning.BUSY) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise NotMigrated("the schema pipeline is missing: run `pipeline migrate`", error.sqlstate) from error
        if row is None:
            raise ApplyFailed("the shard's row vanished", None, Meaning.CONFLICT)
        seq, last_batch, start, end = row
        if str(last_batch) == self._batch.id:
            return None
        if self._batch.seq != seq + 1 and self._find_batch() is not None:
            return None
        return _Ledger(seq, None if start is None else _Window(start, end))

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

    def _place(self, ledger: _Ledger) -> tuple[int, _Window | None, str | None]:
        """The seq to record the batch under, where to look for its events, and what is odd about it."""
        expected, claimed, window = ledger.seq + 1, self._batch.seq, ledger.window
        if claimed == expected:
            return expected, window, None
        if claimed < expected:
            start = claimed if window is None else min(claimed, window.start)
            return (
                expected,
                _Window(start, ledger.seq),
                (
                    f"Redis went back in time: it is at batch {claimed}, PostgreSQL has applied {ledger.seq}; "
                    "looking up every event that could come back"
                ),
            )
        return (
            claimed,
            window,
            (
                f"PostgreSQL went back in time: it has applied batch {ledger.seq}, Redis acknowledged {claimed - 1}; "
                f"the effects of the {claimed - expected} batches between are not in this database"
            ),
        )

    def _fresh(self, positions: Sequence[int], window: _Window | None) -> Sequence[int]:
        """Those of ``positions`` whose entries have not been applied."""
        if window is None:
            return positions
        ids = {position: _entry_id(self._batch.entries[position]) for position in positions}
        found = self._connection.execute(
            statement("find_applied_events"),
            {**self._scope, "first": window.start, "last": window.end, "event_ids": list(ids.values())},
            prepare=False,  # a generic plan would not hash the ids
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
            elif entry.refused is not None:
                bad[position] = _Finding(entry.refused, None)
            else:
                place[id(entry)] = position
                events.append(entry)
        for event, finding in self._second_chances(isolate(events, self._attempt, self._attempt_alone), events):
            if finding.meaning is Meaning.PARENT_MISSING and self._batch.paused:
                raise ApplyFailed(finding.reason, finding.sqlstate, Meaning.SYSTEMIC, finding.table, event=event.id)
            if finding.meaning is not Meaning.POISON and not self._batch.final:
                raise ApplyFailed(finding.reason, finding.sqlstate, finding.meaning)
            bad[place[id(event)]] = finding
        return bad

    def _second_chances(
        self, found: Sequence[tuple[Event, _Finding]], events: Sequence[Event]
    ) -> Sequence[tuple[Event, _Finding]]:
        """What is still wrong when the events that missed a parent are tried again behind the rest of the batch.

        Bisection may have parted a child from a parent that comes after it. One whose rows a later event touches must
        stay in its place.
        """
        orphans = [event for event, finding in found if finding.meaning is Meaning.PARENT_MISSING]
        if not orphans or len(events) == len(found):
            return found
        waiting = {id(event) for event in orphans}
        touched: set[tuple[str, str]] = set()
        free: list[Event] = []
        for event in reversed(events):
            rows = {(c.table, name) for c, name in zip(event.changes, event.identities, strict=True) if name}
            if id(event) in waiting and rows.isdisjoint(touched):
                free.append(event)
            touched |= rows
        healed = {id(event) for event in reversed(free) if self._attempt_alone(event) is None}
        return [(event, finding) for event, finding in found if id(event) not in healed]

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
            finding = _Finding(text_of_error(error), error.sqlstate, classify(error.sqlstate), self.table)
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
