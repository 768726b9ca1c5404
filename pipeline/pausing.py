"""Tables that cannot be written at all: set their events aside, probe them, take the events back (decision 0007)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.config import Config
from pipeline.core.change import Event
from pipeline.core.codec import Malformed, decode
from pipeline.core.failure import Meaning, classify
from pipeline.core.retry import delay
from pipeline.errors import ApplyFailed
from pipeline.ports import Buffer, Claimed, PausedTable, Store
from pipeline.telemetry import Probe, Step

__all__ = ["PausedTables", "set_aside"]

log: Final = logging.getLogger("pipeline.flush")


class PausedTables:
    """Pauses tables for a flusher, and resumes them."""

    def __init__(
        self, buffer: Buffer, store: Store, config: Config, draw: Callable[[], float], *, probe: Probe
    ) -> None:
        """``draw`` gives uniform numbers in [0, 1)."""
        self._buffer = buffer
        self._store = store
        self._task = f"{config.namespace}.apply_event"
        self._retry = config.retry
        self._draw = draw
        self._probe = probe

    def pause(self, claim: Claimed, entries: Sequence[Event | Malformed], error: ApplyFailed) -> bool:
        """The table cannot be written at all: set its events aside from now on, and go on with the batch at once.

        ``False``: no event of the batch touches it.
        """
        sample = self._sample(claim, entries, error)
        if sample is None:
            return False
        rest = delay(self._retry, 1, self._draw())
        log.error("shard %d: table %s is paused, next probe in %.1f s: %s", claim.shard, error.table, rest, error)
        table = PausedTable(error.table or "", rest, str(error), sample.raw, waits=_waits(error))
        self._buffer.pause(claim.shard, table, claim)
        self._probe(Step.PAUSED)
        return True

    def probe(self, shard: int, paused: Sequence[PausedTable]) -> bool:
        """Probe the paused tables that are due, between two batches; whether one of them was resumed.

        When every one of them only waits for another, they wait for each other: then all of them are resumed.
        """
        resumed = False
        broken = {table.table for table in paused if not table.waits}
        for table in paused:
            if broken and table.seconds > 0:
                continue
            problem = self._problem(table.sample, others=bool(broken - {table.table})) if broken else None
            if problem is None:
                if self._buffer.resume(shard, table.table):
                    log.warning("shard %d: table %s can be written again and is resumed", shard, table.table)
                    self._probe(Step.RESUMED)
                    resumed = True
            else:
                waits = _waits(problem) if problem.meaning == Meaning.SYSTEMIC else table.waits
                rest = delay(self._retry, table.probes + 2, self._draw())
                put_off = PausedTable(table.table, rest, str(problem), table.sample, table.probes + 1, waits)
                self._buffer.pause(shard, put_off)
        return resumed

    def _sample(self, claim: Claimed, entries: Sequence[Event | Malformed], error: ApplyFailed) -> Event | None:
        """An event that met the trouble, to be tried again: one that did not would resume the table too early."""
        shapes: dict[object, Event] = {}
        for entry in entries:
            if (
                isinstance(entry, Event)
                and entry.refused is None
                and any(change.table == error.table for change in entry.changes)
            ):
                if entry.id == error.event:
                    return entry
                shapes.setdefault(_shape(entry), entry)
        for sample in shapes.values() if len(shapes) > 1 else ():
            if self._problem(sample.raw, others=bool(claim.paused)) is not None:
                return sample
        return next(iter(shapes.values()), None)

    def _problem(self, sample: bytes, *, others: bool) -> ApplyFailed | None:
        """What is still wrong with a paused table, tried with the event that met it."""
        event = decode(sample, self._task)
        if isinstance(event, Malformed):  # another version wrote it: the flush will see what it can do
            return None
        try:
            return self._store.probe(event, paused=others)
        except ApplyFailed as error:
            return error


def set_aside(entries: Sequence[Event | Malformed], claim: Claimed) -> frozenset[int]:
    """Positions of the entries that must wait: they touch a paused table, or a row on which something waits already."""
    if not claim.paused and not claim.held:
        return frozenset()
    tables = {paused.table for paused in claim.paused}
    held = set(claim.held)
    aside = set()
    for position, entry in enumerate(entries):
        if isinstance(entry, Malformed) or entry.refused is not None:
            continue
        rows = [f"{change.table}:{name}" for change, name in zip(entry.changes, entry.identities, strict=True) if name]
        if not held.isdisjoint(rows) or any(change.table in tables for change in entry.changes):
            aside.add(position)
            held.update(rows)
    return frozenset(aside)


def _waits(error: ApplyFailed) -> bool:
    """Whether a table is paused only because it may have to wait for another one."""
    return classify(error.sqlstate) is Meaning.PARENT_MISSING


def _shape(event: Event) -> object:
    """What PostgreSQL must allow for the event: which columns of which tables it writes, and how."""
    return frozenset(
        (
            change.table,
            change.delete,
            None if change.insert is None else frozenset(change.insert),
            *(frozenset(columns) for columns in (change.key, change.set, change.add, change.max, change.min)),
        )
        for change in event.changes
    )
