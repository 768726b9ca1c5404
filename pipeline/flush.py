"""Flush a shard: claim, apply, acknowledge, batch after batch, until it is empty or the time slice is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.config import Config
from pipeline.core.change import Event, canonical_table
from pipeline.core.codec import Malformed, decode
from pipeline.core.failure import Meaning
from pipeline.core.retry import delay
from pipeline.core.verdict import Bury, Halve, Leave, Retry, crashes_inherited, judge_crash, judge_failure
from pipeline.errors import ApplyFailed
from pipeline.ports import Applied, Batch, Buffer, Busy, Claimed, Empty, PausedTable, Resting, Settled, Store
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["End", "FlushReport", "Flusher"]

log: Final = logging.getLogger("pipeline.flush")

_TELLING: Final = frozenset({Meaning.OUTAGE, Meaning.SYSTEMIC, Meaning.BUSY})
"""Errors whose text is about the server or the schema. The text of the others may quote a row, and is not logged."""

_BOUNDED: Final = frozenset({Meaning.PARENT_MISSING, Meaning.UNKNOWN})
"""Errors that are tried ``retry_attempts`` times, and only they count: an outage before uses up no try."""


class End(StrEnum):
    """Why a flush of a shard ended."""

    EMPTY = "empty"  # nothing is pending
    SLICE = "slice"  # its time was over; there may be more
    BUSY = "busy"  # another flusher is at work
    RESTING = "resting"  # the frozen batch failed before and is not due yet
    FAILED = "failed"  # the batch could not be applied now and rests
    PAUSED = "paused"  # nothing else is pending, but events are set aside until their table can be written


class FlushReport(msgspec.Struct, frozen=True):
    """What a flush of one shard did.

    ``rows`` were written or deleted; ``skipped`` events had been applied before; events ``aside`` wait for their table.
    """

    shard: int
    end: End
    batches: int = 0
    events: int = 0
    rows: int = 0
    dead: int = 0
    skipped: int = 0
    aside: int = 0
    error: str | None = None


class Flusher:
    """Moves pending events from the buffer to the store. Several may run at once, also on one shard."""

    def __init__(
        self,
        buffer: Buffer,
        store: Store,
        config: Config,
        clock: Callable[[], float],
        draw: Callable[[], float],
        *,
        probe: Probe = ignore,
    ) -> None:
        """``clock`` counts seconds monotonically; ``draw`` gives uniform numbers in [0, 1)."""
        self._buffer = buffer
        self._store = store
        self._task = f"{config.namespace}.apply_event"
        self._tables = frozenset(map(canonical_table, config.tables))
        self._retry = config.retry
        self._slice = config.flush_slice_seconds
        self._clock = clock
        self._draw = draw
        self._probe = probe

    def flush_shard(self, shard: int, owner: str, slice_seconds: float | None = None) -> FlushReport:
        """Work on ``shard`` under the name ``owner`` until it is empty, fails, or the time slice is over.

        The slice is the configured one unless ``slice_seconds`` says otherwise.

        Raises:
            BufferUnavailable, StoreUnavailable, NotMigrated: nothing can be done now; the batch stays frozen.
        """
        until = self._clock() + (self._slice if slice_seconds is None else slice_seconds)
        report = FlushReport(shard, End.EMPTY)
        while True:
            claim = self._buffer.claim(shard, owner)
            match claim:
                case Empty(paused):
                    if self._probe_paused(shard, paused):
                        continue
                    why = "; ".join(f"{table.table} is paused: {table.error}" for table in paused)
                    return msgspec.structs.replace(report, end=End.PAUSED if paused else End.EMPTY, error=why or None)
                case Busy():
                    return _ended(report, End.BUSY)
                case Resting():
                    return _ended(report, End.RESTING)
                case Claimed():
                    self._probe(Step.CLAIMED)
                    report = self._apply(claim, report)
                    if report.end is End.EMPTY:
                        self._probe_paused(shard, claim.paused)
            if report.end is not End.EMPTY:
                return report
            if self._clock() >= until:
                self._buffer.release(shard, owner)
                return _ended(report, End.SLICE)

    def _apply(self, claim: Claimed, report: FlushReport) -> FlushReport:
        """Apply a claimed batch; the report's ``end`` stays `End.EMPTY` if the flush may go on."""
        verdict = judge_crash(claim.begun, claim.failures, len(claim.messages))
        if isinstance(verdict, Halve):
            log.warning("shard %d: batch %s keeps dying with its worker, halving it", claim.shard, claim.id)
            self._buffer.halve(claim, crashes_inherited(len(claim.messages)))
            self._probe(Step.HALVED)
            return report
        entries = [self._entry(message) for message in claim.messages]
        batch = Batch(
            shard=claim.shard,
            id=claim.id,
            seq=claim.seq,
            entries=entries,
            final=claim.tries + 1 >= self._retry.attempts,
            failures=claim.failures,
            bury=verdict.reason if isinstance(verdict, Bury) else None,
            aside=_aside(entries, claim),
            paused=bool(claim.paused),
        )
        try:
            applied = self._store.apply(batch, lambda: self._buffer.begin(claim))
        except ApplyFailed as error:
            return self._failed(claim, entries, error, report)
        except BaseException as error:  # a bug, or a stop: without a word of it this would look like a crash
            self._buffer.fail(claim, type(error).__name__, delay(self._retry, claim.failures + 1, self._draw()))
            raise
        self._tell(claim, entries, applied)
        self._buffer.acknowledge(claim, _settled(claim, entries, applied), applied.seq)
        self._probe(Step.ACKNOWLEDGED)
        return msgspec.structs.replace(
            report,
            batches=report.batches + 1,
            events=report.events + len(entries) - len(applied.aside),
            aside=report.aside + len(applied.aside),
            rows=report.rows + applied.rows,
            dead=report.dead + len(applied.dead),
            skipped=report.skipped + applied.skipped,
        )

    def _entry(self, message: bytes) -> Event | Malformed:
        entry = decode(message, self._task)
        if isinstance(entry, Malformed):
            return entry
        reason = entry.refused
        # what came through the write side was checked there
        if self._tables and entry.seq is None and not all(change.table in self._tables for change in entry.changes):
            reason = reason or "a table of the event is not in PIPELINE_TABLES"
        return entry if reason is None else Malformed(reason, message, entry.id, entry.seq, entry.accepted_ms)

    def _failed(
        self, claim: Claimed, entries: Sequence[Event | Malformed], error: ApplyFailed, report: FlushReport
    ) -> FlushReport:
        meaning = Meaning(error.meaning)
        if meaning is Meaning.SYSTEMIC and (sample := _first_of(entries, error.table)) is not None:
            return self._pause(claim, sample, error, report)
        text = str(error) if meaning in _TELLING else f"{meaning} (SQLSTATE {error.sqlstate})"
        verdict = judge_failure(meaning, claim.failures + 1, len(claim.messages), self._retry, self._draw())
        match verdict:
            case Leave():
                self._buffer.release(claim.shard, claim.owner)
                return _ended(report, End.BUSY)
            case Halve():
                log.warning("shard %d: batch %s halved: %s", claim.shard, claim.id, text)
                self._buffer.halve(claim, crashes=0)
                self._probe(Step.HALVED)
                return report
            case Retry(seconds):
                level = logging.ERROR if meaning is Meaning.SYSTEMIC else logging.WARNING
                log.log(level, "shard %d: batch %s kept, next try in %.1f s: %s", claim.shard, claim.id, seconds, text)
                self._buffer.fail(claim, text, seconds, bounded=meaning in _BOUNDED)
                self._probe(Step.FAILED)
                if seconds == 0:
                    return report
                return msgspec.structs.replace(report, end=End.FAILED, error=text)

    def _pause(self, claim: Claimed, sample: Event, error: ApplyFailed, report: FlushReport) -> FlushReport:
        """The table cannot be written at all: set its events aside from now on, and go on with the batch at once."""
        rest = delay(self._retry, 1, self._draw())
        log.error("shard %d: table %s is paused, next probe in %.1f s: %s", claim.shard, error.table, rest, error)
        table = PausedTable(error.table or "", rest, str(error), sample.raw)
        self._buffer.pause(claim.shard, table, claim)
        self._probe(Step.PAUSED)
        return report

    def _probe_paused(self, shard: int, paused: Sequence[PausedTable]) -> bool:
        """Probe the paused tables that are due, between two batches; whether one of them was resumed."""
        resumed = False
        for table in paused:
            if table.seconds > 0:
                continue
            problem = self._problem(table, others=len(paused) > 1)
            if problem is None:
                log.warning("shard %d: table %s can be written again and is resumed", shard, table.table)
                self._buffer.resume(shard, table.table)
                self._probe(Step.RESUMED)
                resumed = True
            else:
                rest = delay(self._retry, table.probes + 2, self._draw())
                put_off = PausedTable(table.table, rest, problem, table.sample, table.probes + 1)
                self._buffer.pause(shard, put_off)
        return resumed

    def _problem(self, table: PausedTable, *, others: bool) -> str | None:
        """What is still wrong with a paused table, tried with the event that met it."""
        event = decode(table.sample, self._task)
        if isinstance(event, Malformed):  # another version wrote it: the flush will see what it can do
            return None
        try:
            return self._store.probe(event, paused=others)
        except ApplyFailed as error:
            return str(error)

    def _tell(self, claim: Claimed, entries: Sequence[Event | Malformed], applied: Applied) -> None:
        if applied.warning:
            log.error("shard %d: %s", claim.shard, applied.warning)
        for position in sorted(applied.dead):
            entry = entries[position]
            table = entry.changes[0].table if isinstance(entry, Event) else "-"
            log.error("shard %d: event %s (table %s) became a dead letter", claim.shard, entry.id or "-", table)
        log.info(
            "shard %d: batch %d of %d events applied: %d rows, %d dead letters, %d applied before, %d savepoints",
            claim.shard, applied.seq, len(entries), applied.rows, len(applied.dead), applied.skipped,
            applied.savepoints,
        )  # fmt: skip


def _ended(report: FlushReport, end: End) -> FlushReport:
    return msgspec.structs.replace(report, end=end)


def _first_of(entries: Sequence[Event | Malformed], table: str | None) -> Event | None:
    """The first event that touches ``table``."""
    for entry in entries:
        if isinstance(entry, Event) and any(change.table == table for change in entry.changes):
            return entry
    return None


def _aside(entries: Sequence[Event | Malformed], claim: Claimed) -> frozenset[int]:
    """Positions of the entries that must wait: they touch a paused table, or a row on which something waits already."""
    if not claim.paused and not claim.held:
        return frozenset()
    tables = {paused.table for paused in claim.paused}
    held = set(claim.held)
    aside = set()
    for position, entry in enumerate(entries):
        if isinstance(entry, Malformed):
            continue
        rows = [f"{change.table}:{name}" for change, name in zip(entry.changes, entry.identities, strict=True) if name]
        if not held.isdisjoint(rows) or any(change.table in tables for change in entry.changes):
            aside.add(position)
            held.update(rows)
    return frozenset(aside)


def _settled(claim: Claimed, entries: Sequence[Event | Malformed], applied: Applied) -> list[Settled]:
    settled = []
    for position, entry in enumerate(entries):
        rows: list[tuple[str, str]] = []
        if isinstance(entry, Event):
            rows = [
                (change.table, identity)
                for change, identity in zip(entry.changes, entry.identities, strict=True)
                if identity is not None
            ]
        aside = claim.messages[position] if position in applied.aside else None
        settled.append(Settled(entry.seq, rows, position in applied.dead, aside))
    return settled
