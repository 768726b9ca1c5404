"""Tables that cannot be written at all, and columns that are missing: set events aside, probe, take the events back.

Decisions 0007 and 0012.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from pipeline.config import Config
from pipeline.core.blame import shape
from pipeline.core.change import Event, columns_of
from pipeline.core.codec import Malformed, decode
from pipeline.core.failure import Meaning, classify
from pipeline.core.retry import delay
from pipeline.errors import ApplyFailed
from pipeline.ports import Buffer, Claimed, PausedTable, Store
from pipeline.telemetry import Probe, Step

__all__ = ["MOST_COLUMNS", "PausedTables", "rows_of", "set_aside"]

MOST_COLUMNS: Final = 16
"""Paused columns of one table in a shard. Each costs a try of the batch that meets it first, and then probes. A client
that writes ever other columns pauses the table; so many columns no migration adds at once."""

_COMPARED_AFTER: Final = 4
"""Probes in vain after which a table is resumed although its sample still fails: see `_may_be_to_blame`."""

log: Final = logging.getLogger("pipeline.flush")


class PausedTables:
    """Pauses tables and columns for a flusher, and resumes them."""

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
        """A table cannot be written at all, or a column is missing: set aside what needs it, and go on at once.

        ``False``: no event of the batch needs it.
        """
        sample = self._sample(claim, entries, error)
        if sample is None:
            return False
        name, why = error.table or "", _why(error)
        column = error.column if _has_room(claim.paused, name) else None
        probes = self._buffer.probed(claim.shard, name, column)  # it was resumed too early: it must not become a loop
        rest = delay(self._retry, probes + 1, self._draw())
        tried = sample.raw if column is None else b""
        paused = PausedTable(name, rest, why, tried, probes, _waits(error), column)
        log.error("shard %d: %s is paused, next probe in %.1f s: %s", claim.shard, _called(paused), rest, why)
        self._buffer.pause(claim.shard, paused, claim)
        self._probe(Step.PAUSED)
        return True

    def probe(self, shard: int, paused: Sequence[PausedTable], resumed: set[str]) -> bool:
        """Probe what is paused and due, between two batches; whether some of it was resumed.

        When every table only waits for another, they wait for each other: then all of them are resumed. ``resumed`` is
        what this flush has resumed, and is added to: what is paused again in the same flush waits for the next one, so
        that a table which only fails behind others' events does not keep one going round for ever.
        """
        before = len(resumed)
        broken = [one for one in paused if not one.waits]
        for one in paused:
            if one.name in resumed or (broken and one.seconds > 0):
                continue
            problem = self._problem(one, others=any(other is not one for other in broken)) if broken else None
            after = msgspec.structs.replace(one, probes=one.probes + 1)
            if why := _reason_to_resume(after, problem, paused):
                if self._buffer.resume(shard, after):
                    log.warning("shard %d: %s is resumed: %s", shard, _called(one), why)
                    self._probe(Step.RESUMED)
                    resumed.add(one.name)
            elif problem is not None:
                waits = _waits(problem) if problem.meaning == Meaning.SYSTEMIC else one.waits
                rest = delay(self._retry, after.probes + 1, self._draw())
                again = msgspec.structs.replace(after, seconds=rest, error=_why(problem), waits=waits)
                self._buffer.pause(shard, again)
        return len(resumed) > before

    def _sample(self, claim: Claimed, entries: Sequence[Event | Malformed], error: ApplyFailed) -> Event | None:
        """An event that met the trouble, to be tried again: one that did not would resume the table too early."""
        shapes: dict[object, Event] = {}
        for entry in entries:
            if isinstance(entry, Event) and entry.refused is None and _needs(entry, error.table, error.column):
                if entry.id == error.event or error.column is not None:
                    return entry
                shapes.setdefault(shape(entry), entry)
        for sample in shapes.values() if len(shapes) > 1 else ():
            if self._tried(sample.raw, others=bool(claim.paused)) is not None:
                return sample
        return next(iter(shapes.values()), None)

    def _problem(self, paused: PausedTable, *, others: bool) -> ApplyFailed | None:
        """What is still wrong. A column is looked up: what else an event that names it may need is not its fault."""
        if paused.column is None:
            return self._tried(paused.sample, others=others)
        try:
            return self._store.lacks(paused.table, paused.column)
        except ApplyFailed as error:
            return error

    def _tried(self, sample: bytes, *, others: bool) -> ApplyFailed | None:
        """What is still wrong with a paused table, tried with the event that met it."""
        event = decode(sample, self._task)
        if isinstance(event, Malformed):  # another version wrote it: the flush will see what it can do
            return None
        try:
            return self._store.probe(event, paused=others)
        except ApplyFailed as error:
            return error


def set_aside(
    entries: Sequence[Event | Malformed],
    paused: Sequence[PausedTable],
    held: Collection[str],
    turns: Sequence[int] | None = None,
) -> frozenset[int]:
    """Positions of the entries that must wait: they need what is paused, or touch a row on which something waits.

    ``held`` are rows on which something waits already. ``turns``: see `pipeline.ports.Batch`.
    """
    if not paused and not held:
        return frozenset()
    tables = {one.table for one in paused if one.column is None}
    columns: dict[str, set[str]] = {}
    for one in paused:
        if one.column is not None:
            columns.setdefault(one.table, set()).add(one.column)
    waiting = set(held)
    aside = set()
    for position in range(len(entries)) if turns is None else turns:
        entry = entries[position]
        if isinstance(entry, Malformed) or entry.refused is not None:
            continue
        rows = rows_of(entry)
        if not waiting.isdisjoint(rows) or any(
            change.table in tables
            or (change.table in columns and not columns[change.table].isdisjoint(columns_of(change)))
            for change in entry.changes
        ):
            aside.add(position)
            waiting.update(rows)
    return frozenset(aside)


def rows_of(event: Event) -> list[str]:
    """The rows that ``event`` touches, as ``table:identity``."""
    return [f"{change.table}:{name}" for change, name in zip(event.changes, event.identities, strict=True) if name]


def _needs(event: Event, table: str | None, column: str | None) -> bool:
    """Whether a change of ``event`` is one of ``table``, and names ``column`` if there is one."""
    return any(change.table == table and (column is None or column in columns_of(change)) for change in event.changes)


def _has_room(paused: Sequence[PausedTable], table: str) -> bool:
    """Whether another column of ``table`` may be paused."""
    return sum(one.table == table and one.column is not None for one in paused) < MOST_COLUMNS


def _called(paused: PausedTable) -> str:
    return f"table {paused.name}" if paused.column is None else f"column {paused.name}"


def _reason_to_resume(paused: PausedTable, problem: ApplyFailed | None, others: Sequence[PausedTable]) -> str | None:
    if problem is None:
        return "it can be written again" if paused.column is None else "it is there now"
    if paused.column is None and problem.column is not None and _has_room(others, paused.table):
        return "only a column is missing now"
    return "to compare its events" if _may_be_to_blame(problem, paused.probes) else None


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
