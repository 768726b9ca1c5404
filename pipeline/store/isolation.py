"""Write events so that what is wrong with one of them is found, and the others are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg

from pipeline.core.blame import Lineup
from pipeline.core.change import Event, columns_of
from pipeline.core.entries import Events
from pipeline.core.failure import Meaning
from pipeline.core.fold_columns import fold_events
from pipeline.core.isolate import isolate
from pipeline.core.table import Table
from pipeline.driving import run
from pipeline.errors import ApplyFailed
from pipeline.store.bulk import BulkWriter, MissingColumn
from pipeline.store.catalog import Catalog
from pipeline.store.diagnosis import BLAMED, meaning_of, public_text, text_of_error
from pipeline.store.outbox import Outbox
from pipeline.store.plans import Plan, Shape
from pipeline.store.queries import BlockingQueries
from pipeline.store.text import Unfit
from pipeline.telemetry import Probe, Step

__all__ = ["Finding", "IsolatingWriter"]

_RELEASE: Final = b"RELEASE SAVEPOINT pipeline"
_UNDO: Final = b"ROLLBACK TO SAVEPOINT pipeline; " + _RELEASE


class Finding(NamedTuple):
    """What was wrong with an event; ``public`` is what may be said of it outside of PostgreSQL."""

    reason: str
    sqlstate: str | None
    meaning: Meaning = Meaning.POISON
    table: str | None = None
    public: str = ""


class IsolatingWriter:
    """Writes the events of one batch, inside the transaction that the caller has open.

    ``rows`` were written so far, with so many ``savepoints``.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        catalog: Catalog,
        plans: dict[tuple[int, Shape], Plan],
        stages: set[str],
        lane: int,
        *,
        probe: Probe,
    ) -> None:
        self._connection = connection
        self._catalog = catalog
        self._plans = plans
        self._probe = probe
        self._looked_again = False
        self._tables: dict[int, Table] = {}
        self._oids: dict[str, int] = {}
        self._outbox = Outbox(connection)
        self._writer = BulkWriter(self._outbox, self._tables, plans, stages, lane)
        self._lineup = Lineup(())
        self.rows = 0
        self.savepoints = 0

    @property
    def table(self) -> str | None:
        """The table that was being written when something went wrong, as its changes spell it."""
        at = self._writer.at
        return None if at is None else next(name for name, oid in reversed(self._oids.items()) if oid == at.oid)

    def make_room(self) -> None:
        """See `BulkWriter.make_room`."""
        self._writer.make_room()

    @property
    def looked_for(self) -> Iterable[int]:
        """See `BulkWriter.looked_for`."""
        return self._writer.looked_for

    def learn(self, inserted: Mapping[int, int]) -> None:
        """See `BulkWriter.learn`."""
        self._writer.learn(inserted)

    def write(self, events: Sequence[Event]) -> Sequence[tuple[Event, Finding]]:
        """Write ``events``, and return those that could not be written, in order, with what was wrong.

        Raises:
            ApplyFailed: a table cannot be written at all, or has no such column (meaning: systemic).
            psycopg.Error: something that is no event's fault.
        """
        self._lineup = Lineup(events)
        try:
            found = run(isolate(events, self._attempt, self._alone))
            return self._second_chances(found, events)
        except MissingColumn as error:
            table = self._spelling(error, events)
            raise ApplyFailed(str(error), "42703", Meaning.SYSTEMIC, table, column=error.column) from error

    def _spelling(self, error: MissingColumn, events: Sequence[Event]) -> str | None:
        """The missing column's table, as a change spells it that names the column; two spellings may be in a batch."""
        for change in (change for event in events for change in event.changes):
            oid = self._oids.get(change.table)
            if self._writer.at and oid == self._writer.at.oid and error.column in columns_of(change):
                return change.table
        return self.table

    def _second_chances(
        self, found: Sequence[tuple[Event, Finding]], events: Sequence[Event]
    ) -> Sequence[tuple[Event, Finding]]:
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

    async def _attempt(self, events: Sequence[Event]) -> Finding | None:
        return self._in_savepoint([Events.of(events)])

    async def _alone(self, event: Event) -> Finding | None:
        return self._attempt_alone(event)

    def _attempt_alone(self, event: Event) -> Finding | None:
        """What is wrong with ``event``; raises `ApplyFailed` if that is the table's fault, and not the event's."""
        finding = self._in_savepoint(_one_by_one(event))
        if finding is None or finding.meaning is not Meaning.SYSTEMIC:
            return finding
        if any(map(self._passes, self._lineup.beside(event))):  # what the event needs is there: it is to blame itself
            return finding._replace(meaning=Meaning.UNKNOWN)
        tables = [change.table for change in event.changes]
        table = finding.table if finding.table in tables else tables[0]
        raise ApplyFailed(finding.public, finding.sqlstate, Meaning.SYSTEMIC, table, event=event.id)

    def _passes(self, event: Event) -> bool:
        """Whether ``event`` can be written now, or could have been before it was; nothing of it remains."""
        finding = self._in_savepoint(_one_by_one(event), keep=False)
        return finding is None or (finding.sqlstate or "").startswith("23")

    def _in_savepoint(self, steps: Sequence[Events], *, keep: bool = True) -> Finding | None:
        """Fold and write each step; all or nothing. Deferred constraints are checked here too, not first at COMMIT."""
        self.savepoints += 1
        self._outbox.add(b"SAVEPOINT pipeline; SET CONSTRAINTS ALL DEFERRED")
        try:
            rows = 0
            for events in steps:
                tables = {name: self._table(name) for name in sorted(events.tables)}
                rows += self._writer.write(fold_events(events, tables))
            self._outbox.send(b"SET CONSTRAINTS ALL IMMEDIATE; " + (_RELEASE if keep else _UNDO))
        except Unfit as error:
            finding = Finding(str(error), None)
        except psycopg.Error as error:
            finding = Finding(text_of_error(error), error.sqlstate, meaning_of(error), self.table, public_text(error))
            if finding.meaning not in BLAMED:
                raise
        else:
            self.rows += rows * keep
            self._probe(Step.ATTEMPTED)
            return None
        self._outbox.send(_UNDO)
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

    def _table(self, name: str) -> Table:
        table = self._catalog.get(name)
        if table is None:
            self._outbox.send()
            table = run(self._catalog.read(BlockingQueries(self._connection), name))
        self._tables[table.oid] = table
        self._oids[name] = table.oid
        return table


def _one_by_one(event: Event) -> list[Events]:
    pairs = zip(event.changes, event.identities, strict=True)
    return [Events.of([Event(event.id, (change,), (name,))]) for change, name in pairs]
