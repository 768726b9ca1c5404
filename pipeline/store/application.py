"""One attempt to apply one batch: ledger check, bulk write, dead letters and ledger mark in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import psycopg

from pipeline.core.change import MAX_EVENT_ID, Event
from pipeline.core.codec import Malformed
from pipeline.core.entries import Entries
from pipeline.core.failure import Meaning
from pipeline.driving import run
from pipeline.errors import ApplyFailed, NotMigrated
from pipeline.ports import Applied, Batch
from pipeline.store.bulk import MissingColumn
from pipeline.store.catalog import Catalog
from pipeline.store.isolation import Finding, IsolatingWriter
from pipeline.store.outbox import together
from pipeline.store.plans import Plan, Shape
from pipeline.store.queries import BlockingQueries
from pipeline.store.statements import statement
from pipeline.store.turns import lane_key
from pipeline.telemetry import Probe, Step

__all__ = ["Application"]


_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Whatever the role's or the database's default is: a later snapshot would not see whom a race was lost to."""

_TOO_LATE: Final = "came back too late: a worker had taken it out of its shard's queue, and later events were applied"


class _Window(NamedTuple):
    """Batches of the ledger (first and last seq) whose events may come back, because Redis went back in time."""

    start: int
    end: int


class _Entry(NamedTuple):
    """The batch as it stands in the ledger: its seq there, and the ids of its events that were not set aside."""

    seq: int
    ids: frozenset[str]


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
        self._entries = Entries.of(batch.entries)
        self._scope = {"namespace": namespace, "shard": batch.shard}
        self._catalog = catalog
        self._plans = plans
        self._probe = probe
        self._writing = False
        self._dismissed = False
        self._inserted: dict[int, int] = {}  # by table, when the transaction began
        connection.add_notice_handler(self._heed)
        lane = lane_key(namespace, batch.shard)
        self._writer = IsolatingWriter(connection, catalog, plans, stages, lane, probe=probe)

    def run(self, begin: Callable[[], None]) -> Applied:
        """Apply the batch and commit; see `pipeline.ports.Store.apply`."""
        batch = self._batch
        self._writer.make_room()
        ledger = self._lock()
        if isinstance(ledger, _Entry):
            return self._applied_before(ledger)
        begin()
        self._writing = True
        self._probe(Step.LOCKED)
        seq, window, warning = self._place(ledger)
        turns = range(len(batch.entries)) if batch.turns is None else batch.turns
        here = [position for position in turns if position not in batch.aside] if batch.aside else turns
        fresh = self._not_yet_applied(self._fresh(here, window))
        if batch.bury is not None:
            bad = {position: Finding(batch.bury, None) for position in fresh}
        else:
            bad = self._write(fresh)
        for position, finding in sorted(bad.items()):
            self._bury(position, finding)
            self._probe(Step.BURIED)
        self._writing = False
        mark = {
            **self._scope,
            "seq": seq,
            "batch_id": batch.id,
            # also of those that were applied before: what is missing here was set aside
            "event_ids": "\n".join(self._ids(here)),
            "row_count": self._writer.rows,
            "dead_count": len(bad),
            "recheck_from": window and window.start,
            "recheck_to": window and window.end,
            "recheck_seconds": self._recheck_seconds if warning else None,
            "gaps": int(batch.seq > ledger.seq + 1),
        }
        with together(self._connection):
            self._connection.execute(statement("record_batch"), mark)
            inserted = self._count_inserted(self._writer.looked_for)
            self._probe(Step.COMMITTING)
            self._connection.execute("COMMIT")
        self._probe(Step.COMMITTED)
        self._writer.learn({oid: count - self._inserted[oid] for oid, count in inserted if oid in self._inserted})
        return Applied(
            seq=seq,
            rows=self._writer.rows,
            dead=frozenset(bad),
            skipped=len(here) - len(fresh),
            savepoints=self._writer.savepoints,
            warning=warning,
            aside=batch.aside,
        )

    def rehearse(self) -> None:
        """Write the batch and take it back: raises what is wrong with its tables."""
        self._connection.execute(_BEGIN)
        self._write(range(len(self._batch.entries)))
        self._connection.execute("ROLLBACK")

    def look_up(self, table: str, column: str) -> None:
        """Raise `ApplyFailed` unless ``table`` has ``column``."""
        self._connection.execute(_BEGIN)
        found = run(
            Catalog().read(BlockingQueries(self._connection), table)
        )  # not ours: it would not notice that it has changed
        self._connection.execute("ROLLBACK")
        if column not in found.columns:
            problem = str(MissingColumn(found.name, column))
            raise ApplyFailed(problem, "42703", Meaning.SYSTEMIC, table, column=column)

    @property
    def table(self) -> str | None:
        """The table that was being written when something went wrong, as its changes spell it."""
        return self._writer.table

    @property
    def lost(self) -> bool:
        """Whether the connection broke without a word while events were written.

        When a server is stopped, or the backend of somebody else crashes, it says so before it closes the connection.
        Where statements travel together, psycopg does not pass that on; but then no event is to blame any more.
        """
        return self._writing and self._connection.broken and not self._dismissed

    def _heed(self, notice: psycopg.errors.Diagnostic) -> None:
        self._dismissed |= (notice.sqlstate or "").startswith("57P")

    def close(self) -> None:
        """Give the connection back as it was."""
        self._connection.remove_notice_handler(self._heed)

    # --- once only

    def _lock(self) -> _Ledger | _Entry:
        """Lock the shard; an entry: the batch was applied and its acknowledgement was lost."""
        try:
            row = self._begin()
            if row is None:  # committed by itself, so that a second flusher does not wait for our whole batch
                self._connection.execute("ROLLBACK")
                self._connection.execute(statement("create_shard"), self._scope)
                row = self._begin()
        except psycopg.errors.LockNotAvailable as error:
            raise ApplyFailed("another flusher holds this shard", error.sqlstate, Meaning.BUSY) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise NotMigrated("the schema pipeline is missing: run `pipeline migrate`", error.sqlstate) from error
        if row is None:
            raise ApplyFailed("the shard's row vanished", None, Meaning.CONFLICT)
        seq, last_batch, start, end = row
        last = str(last_batch) == self._batch.id
        # read once: `prune` does not wait for us, and may remove any entry but the last
        if (last or self._batch.seq != seq + 1) and (entry := self._find_batch()) is not None:
            return entry
        if last:  # somebody has emptied the ledger: what was set aside is most likely what would be now
            here = [position for position in range(len(self._entries)) if position not in self._batch.aside]
            return _Entry(seq, frozenset(self._ids(here)))
        return _Ledger(seq, None if start is None else _Window(start, end))

    def _begin(self) -> tuple[Any, ...] | None:
        """Begin, lock the shard, and see that what the catalog's cache says of the batch's tables is still so."""
        known = self._catalog.known(self._entries.tables)
        unsure = {oid for (oid, _), plan in list(self._plans.items()) if plan.append and not plan.novelty.likely()}
        oids = {table.oid for table in map(self._catalog.get, known) if table is not None}
        with together(self._connection):
            self._connection.execute(_BEGIN)
            locked = self._connection.execute(statement("lock_shard"), self._scope)
            found = self._connection.execute(statement("catalog_fingerprints"), {"names": known})
            inserted = self._count_inserted(oids & unsure)
        self._inserted = dict(inserted)
        self._catalog.compare(known, dict(found.fetchall()))
        return locked.fetchone()

    def _count_inserted(self, oids: Iterable[int]) -> Iterable[tuple[int, int]]:
        wanted = list(oids)
        return self._connection.execute(statement("count_inserted"), {"oids": wanted}) if wanted else ()

    def _find_batch(self) -> _Entry | None:
        row = self._connection.execute(statement("find_batch"), {"batch_id": self._batch.id}).fetchone()
        return None if row is None else _Entry(row[0], frozenset(row[1]))

    def _applied_before(self, entry: _Entry) -> Applied:
        """The batch is in the ledger: say what became of it, and under which number it stands there."""
        batch = self._batch
        rows = self._connection.execute(statement("find_dead_events"), {"batch_id": batch.id}).fetchall()
        dead = {row[0] for row in rows}
        self._connection.execute("ROLLBACK")
        names = self._ids(range(len(self._entries)))
        return Applied(
            seq=entry.seq,
            rows=0,
            dead=frozenset(position for position, name in enumerate(names) if name in dead),
            skipped=len(batch.entries),
            aside=frozenset(position for position, name in enumerate(names) if name not in entry.ids),
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
        return self._unapplied(positions, positions, "find_applied_events", first=window.start, last=window.end)

    def _not_yet_applied(self, positions: Sequence[int]) -> Sequence[int]:
        """``positions`` without the displaced events that were applied when it was their turn.

        A worker had taken them out of the queue, and Celery has restored them more than once.
        """
        displaced = [position for position in positions if position in self._batch.displaced]
        if not displaced:
            return positions
        accepted_ms = min(self._entries.accepted_ms[position] or 0 for position in displaced)
        return self._unapplied(positions, displaced, "find_displaced_events", accepted_ms=accepted_ms)

    def _unapplied(self, positions: Sequence[int], suspects: Sequence[int], query: str, **bounds: int) -> Sequence[int]:
        """``positions`` without those of ``suspects`` whose events the ledger has within ``bounds``."""
        ids = dict(zip(suspects, self._ids(suspects), strict=True))
        found = self._connection.execute(
            statement(query),
            {**self._scope, **bounds, "event_ids": list(ids.values())},
            prepare=False,  # a generic plan would not hash the ids
        ).fetchall()
        applied = {row[0] for row in found}
        return [position for position in positions if ids.get(position) not in applied]

    # --- writing

    def _write(self, positions: Sequence[int]) -> dict[int, Finding]:
        """Write the entries at ``positions``; what was wrong with those that could not be written."""
        entries = self._entries
        bad: dict[int, Finding] = {}
        odd = self._batch.displaced | entries.others.keys()
        for position in [position for position in positions if position in odd] if odd else ():
            entry = entries[position]
            if isinstance(entry, Malformed):
                bad[position] = Finding(entry.reason, None)
            elif entry.refused is not None:
                bad[position] = Finding(entry.refused, None)
            elif position in self._batch.displaced and any(entry.identities):
                bad[position] = Finding(_TOO_LATE, None)  # a row that is only appended has no order
        good = [position for position in positions if position not in bad] if bad else positions
        found = self._writer.write(entries.events(good))
        place = {id(entries[position]): position for position in positions} if found else {}
        for event, finding in found:
            if finding.meaning is Meaning.PARENT_MISSING and self._batch.paused:
                raise ApplyFailed(finding.public, finding.sqlstate, Meaning.SYSTEMIC, finding.table, event=event.id)
            if finding.meaning is not Meaning.POISON and not self._batch.final:
                raise ApplyFailed(finding.public, finding.sqlstate, finding.meaning)
            bad[place[id(event)]] = finding
        return bad

    # --- dead letters

    def _ids(self, positions: Sequence[int]) -> list[str]:
        """The ids by which the ledger knows entries."""
        entries = self._entries
        ids = [entries.ids[position] for position in positions]
        if entries.others:
            others = [entries.others.get(position) for position in positions]
            ids = [
                _malformed_id(other) if isinstance(other, Malformed) else id_
                for id_, other in zip(ids, others, strict=True)
            ]
        return ids

    def _bury(self, position: int, finding: Finding) -> None:
        entry = self._entries[position]
        self._connection.execute(
            statement("bury"),
            {
                **self._scope,
                "batch_id": self._batch.id,
                "event_id": self._ids([position])[0],
                "table_name": entry.changes[0].table if isinstance(entry, Event) else None,
                "reason": finding.reason.replace("\x00", "\\0"),
                "sqlstate": finding.sqlstate,
                "attempts": self._batch.failures + int(self._batch.bury is None),
                "accepted_ms": entry.accepted_ms,
                "message": entry.raw,
            },
        )


def _malformed_id(entry: Malformed) -> str:
    """A malformed message may have no usable id: then it is its hash."""
    if entry.id is not None and 0 < len(entry.id) <= MAX_EVENT_ID and entry.id.isprintable():
        return entry.id
    return "raw:" + blake2b(entry.raw, digest_size=16).hexdigest()
