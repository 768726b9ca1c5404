"""Flush a shard: claim, apply, acknowledge, batch after batch, until it is empty or the time slice is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.config import Config
from pipeline.core.change import Event
from pipeline.core.codec import Malformed, decode
from pipeline.core.failure import Meaning
from pipeline.core.retry import delay
from pipeline.core.verdict import Bury, Halve, Leave, Retry, crashes_inherited, judge_crash, judge_failure
from pipeline.errors import ApplyFailed
from pipeline.ports import Applied, Batch, Buffer, Busy, Claimed, Empty, Resting, Settled, Store
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


class FlushReport(msgspec.Struct, frozen=True):
    """What a flush of one shard did. ``rows`` were written or deleted; ``skipped`` events had been applied before."""

    shard: int
    end: End
    batches: int = 0
    events: int = 0
    rows: int = 0
    dead: int = 0
    skipped: int = 0
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
                case Empty():
                    return _ended(report, End.EMPTY)
                case Busy():
                    return _ended(report, End.BUSY)
                case Resting():
                    return _ended(report, End.RESTING)
                case Claimed():
                    self._probe(Step.CLAIMED)
                    report = self._apply(claim, report)
            if report.end is not End.EMPTY:
                return report
            if self._clock() >= until:
                self._buffer.release(shard, owner)
                return _ended(report, End.SLICE)

    def _apply(self, claim: Claimed, report: FlushReport) -> FlushReport:
        """Apply a claimed batch; the report's ``end`` stays `End.EMPTY` if the flush may go on."""
        verdict = judge_crash(claim.claims, claim.failures, len(claim.messages))
        if isinstance(verdict, Halve):
            log.warning("shard %d: batch %s keeps dying with its worker, halving it", claim.shard, claim.id)
            self._buffer.halve(claim, crashes_inherited(len(claim.messages)))
            self._probe(Step.HALVED)
            return report
        entries = [decode(message, self._task) for message in claim.messages]
        batch = Batch(
            shard=claim.shard,
            id=claim.id,
            seq=claim.seq,
            entries=entries,
            final=claim.tries + 1 >= self._retry.attempts,
            failures=claim.failures,
            drained=claim.drained,
            bury=verdict.reason if isinstance(verdict, Bury) else None,
        )
        try:
            applied = self._store.apply(batch)
        except ApplyFailed as error:
            return self._failed(claim, error, report)
        except BaseException as error:  # a bug, or a stop: without a word of it this would look like a crash
            self._buffer.fail(claim, type(error).__name__, delay(self._retry, claim.failures + 1, self._draw()))
            raise
        self._tell(claim, entries, applied)
        self._buffer.acknowledge(claim, _settled(entries, applied), applied.seq)
        self._probe(Step.ACKNOWLEDGED)
        return msgspec.structs.replace(
            report,
            batches=report.batches + 1,
            events=report.events + len(entries),
            rows=report.rows + applied.rows,
            dead=report.dead + len(applied.dead),
            skipped=report.skipped + applied.skipped,
        )

    def _failed(self, claim: Claimed, error: ApplyFailed, report: FlushReport) -> FlushReport:
        meaning = Meaning(error.meaning)
        text = str(error) if meaning in _TELLING else f"{meaning} (SQLSTATE {error.sqlstate})"
        verdict = judge_failure(meaning, claim.failures + 1, len(claim.messages), self._retry, self._draw())
        match verdict:
            case Leave():
                self._buffer.leave(claim)
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
                return msgspec.structs.replace(report, end=End.FAILED, error=text)

    def _tell(self, claim: Claimed, entries: Sequence[Event | Malformed], applied: Applied) -> None:
        if applied.warning:
            log.error("shard %d: %s", claim.shard, applied.warning)
        for position in sorted(applied.dead):
            log.error("shard %d: event %s became a dead letter", claim.shard, entries[position].id or "(without an id)")
        log.info(
            "shard %d: batch %d of %d events applied: %d rows, %d dead letters, %d applied before, %d savepoints",
            claim.shard, applied.seq, len(entries), applied.rows, len(applied.dead), applied.skipped,
            applied.savepoints,
        )  # fmt: skip


def _ended(report: FlushReport, end: End) -> FlushReport:
    return msgspec.structs.replace(report, end=end)


def _settled(entries: Sequence[Event | Malformed], applied: Applied) -> list[Settled]:
    settled = []
    for position, entry in enumerate(entries):
        rows: list[tuple[str, str]] = []
        if isinstance(entry, Event) and entry.seq is not None:
            rows = [
                (change.table, identity)
                for change, identity in zip(entry.changes, entry.identities, strict=True)
                if identity is not None
            ]
        settled.append(Settled(entry.seq, rows, position in applied.dead))
    return settled
