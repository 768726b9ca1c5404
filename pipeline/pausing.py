"""Tables that cannot be written at all: set their events aside, probe them, take the events back (decision 0007)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.config import Config
from pipeline.core.blame import shape
from pipeline.core.change import Event
from pipeline.core.codec import Malformed, decode
from pipeline.core.failure import Meaning, classify
from pipeline.core.retry import delay
from pipeline.errors import ApplyFailed
from pipeline.ports import Buffer, Claimed, PausedTable, Store
from pipeline.telemetry import Probe, Step

__all__ = ["PausedTables", "set_aside"]

_COMPARED_AFTER: Final = 4
"""Probes in vain after which a table is resumed although its sample still fails: see `_may_be_to_blame`."""

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
        name, why = error.table or "", _why(error)
        probes = self._buffer.probed(claim.shard, name)  # it was resumed too early: it must not become a loop
        rest = delay(self._retry, probes + 1, self._draw())
        log.error("shard %d: table %s is paused, next probe in %.1f s: %s", claim.shard, name, rest, why)
        table = PausedTable(name, rest, why, sample.raw, probes, _waits(error))
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
            probes = table.probes + 1
            if problem is None or _may_be_to_blame(problem, probes):
                if self._buffer.resume(shard, table.table, probes):
                    why = "to compare its events" if problem else "it can be written again"
                    log.warning("shard %d: table %s is resumed: %s", shard, table.table, why)
                    self._probe(Step.RESUMED)
                    resumed = True
            else:
                waits = _waits(problem) if problem.meaning == Meaning.SYSTEMIC else table.waits
                rest = delay(self._retry, probes + 1, self._draw())
                self._buffer.pause(shard, PausedTable(table.table, rest, _why(problem), table.sample, probes, waits))
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
                shapes.setdefault(shape(entry), entry)
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


def set_aside(
    entries: Sequence[Event | Malformed], claim: Claimed, turns: Sequence[int] | None = None
) -> frozenset[int]:
    """Positions of the entries that must wait: they touch a paused table, or a row on which something waits already.

    ``turns``: see `pipeline.ports.Batch`.
    """
    if not claim.paused and not claim.held:
        return frozenset()
    tables = {paused.table for paused in claim.paused}
    held = set(claim.held)
    aside = set()
    for position in range(len(entries)) if turns is None else turns:
        entry = entries[position]
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


def _why(error: ApplyFailed) -> str:
    """What may be said of an error: the text of one that is not about the server or the schema may quote a row."""
    meaning = classify(error.sqlstate)
    return str(error) if meaning in {Meaning.OUTAGE, Meaning.SYSTEMIC} else f"{meaning} (SQLSTATE {error.sqlstate})"


def _may_be_to_blame(problem: ApplyFailed, probes: int) -> bool:
    """Whether it is time to look once more whether the sample alone is bad, although it had none to be compared with.

    Others like it may have been set aside since. All that waits goes through a flush for this, so it is done after 4,
    8, 16 … probes. Where PostgreSQL's catalog says what is missing, no event is named and none is to blame.
    """
    searched = problem.event is not None and problem.meaning == Meaning.SYSTEMIC and not _waits(problem)
    return searched and probes >= _COMPARED_AFTER and probes.bit_count() == 1
