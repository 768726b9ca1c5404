"""Flush a shard: claim, apply, acknowledge, batch after batch, until all is written or the time slice is over."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pipeline import collector
from pipeline.config import Config
from pipeline.core.change import Event, canonical_table
from pipeline.core.codec import Malformed, accepted_seq
from pipeline.core.decoding import Decoder
from pipeline.core.entries import Entries
from pipeline.core.failure import Contact, Meaning
from pipeline.core.pace import Size, next_size
from pipeline.core.retry import delay
from pipeline.core.turns import Gap, Order, order_of
from pipeline.core.verdict import Bury, Halve, Leave, Retry, judge_crash, judge_failure
from pipeline.errors import ApplyFailed
from pipeline.pausing import PausedTables, rows_of, set_aside
from pipeline.ports import (
    Applied,
    Batch,
    Buffer,
    Busy,
    Claimed,
    Cut,
    Empty,
    FailureKind,
    Resting,
    Store,
)
from pipeline.report import End, FlushReport, ended
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["End", "FlushReport", "Flusher"]

log: Final = logging.getLogger("pipeline.flush")

_TELLING: Final = frozenset({Meaning.OUTAGE, Meaning.SYSTEMIC, Meaning.BUSY})
"""Errors whose text is about the server or the schema. The text of the others may quote a row, and is not logged."""

_BOUNDED: Final = frozenset({Meaning.PARENT_MISSING, Meaning.UNKNOWN})
"""Errors that are tried ``retry_attempts`` times, and only they count: an outage before uses up no try."""


_PATIENCE_LEASES: Final = 3
"""How long events wait for one before them that a worker has taken out of the queue, in leases (30 s by default)."""


class _Missing(Exception):
    """Events are missing in the batch; the rest of it was given back to the queue."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut)
        self.cut = cut


class _Suspected(Exception):
    """A flusher died over the batch: it is not tried again as a whole."""


class _Gone(Exception):
    """The batch is not frozen any more: this flusher has slept over something."""


_PATIENCE: Final = 5
"""Asking whether PostgreSQL is back takes at most one part in six of a worker process' time."""


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
        self._decoder = Decoder(f"{config.namespace}.apply_event")
        self._tables = frozenset(map(canonical_table, config.tables))
        self._through = frozenset(map(canonical_table, config.write_through_tables))
        self._retry = config.retry
        self._lease = config.lease_seconds
        self._slice = config.flush_slice_seconds
        self._pace = config.pace
        self._sizes: dict[int, Size] = {}
        threshold = config.flush_threshold or config.batch_size
        self._worth = max(1, min(threshold, config.max_pending // config.shards // 2))  # half full: writers may wait
        self._clock = clock
        self._draw = draw
        self._probe = probe
        self._ask_again = float("-inf")
        self._paused = PausedTables(buffer, store, config, draw, probe=probe)

    def flush_shard(self, shard: int, owner: str, slice_seconds: float | None = None) -> FlushReport:
        """Work on ``shard`` in the name of ``owner`` until all that was there is written, it fails, or time is over.

        The slice is the configured one unless ``slice_seconds`` says otherwise. What is accepted meanwhile is left to
        the next flush if it is little: under a steady load there is always some, and ever smaller batches of this
        shard would keep the others waiting.

        Raises:
            BufferUnavailable, StoreUnavailable, NotMigrated: nothing can be done now; the batch stays frozen.
        """
        until = self._clock() + (self._slice if slice_seconds is None else slice_seconds)
        report = FlushReport(shard, End.EMPTY)
        resumed: set[str] = set()
        worth = 1
        while True:
            claim = self._buffer.claim(shard, owner, self._size(shard).events, worth)
            match claim:
                case Empty(paused):
                    if self._paused.probe(shard, paused, resumed):
                        continue
                    why = "; ".join(f"{table.name} is paused: {table.error}" for table in paused)
                    return msgspec.structs.replace(report, end=End.PAUSED if paused else End.EMPTY, error=why or None)
                case Busy():
                    return ended(report, End.BUSY)
                case Resting():
                    return ended(report, End.RESTING)
                case Claimed():
                    self._probe(Step.CLAIMED)
                    batches = report.batches
                    with collector.at_rest():
                        report = self._apply(claim, report)
                    worth = self._worth if report.batches > batches and _was_all(claim) else 1
                    if report.end is End.EMPTY:
                        self._paused.probe(shard, claim.paused, resumed)
            if report.end is not End.EMPTY:
                return report
            if self._clock() >= until:
                self._buffer.release(shard, owner)
                return ended(report, End.SLICE)

    def due(self, now_ms: float) -> list[int]:
        """The shards that have something to do now; they count as asked for from now on, so they must be flushed.

        That is: events are pending, nobody is at work, no failed batch rests, and no flush has been asked for lately.
        A batch that rests because PostgreSQL could not be reached is due as soon as that can be reached again.
        """
        states = self._buffer.states()
        cut_off = [state.shard for state in states if state.unreachable and (state.due_ms or 0) > now_ms]
        awake = set(cut_off) if cut_off and self._reachable() else set()
        if awake:
            self._buffer.wake(cut_off)
        idle = [
            state.shard
            for state in states
            if (
                state.queued
                or state.frozen
                or (state.parked and not state.paused)  # its flusher died when it had resumed the table
                or any(table.seconds <= 0 for table in state.paused)
            )
            and not state.leased
            and ((state.due_ms or 0) <= now_ms or state.shard in awake)
        ]
        return self._buffer.want(idle) if idle else []

    def _reachable(self) -> bool:
        """Ask PostgreSQL, unless the answer took long lately: a server that is deaf must not keep the worker busy."""
        asked = self._clock()
        if asked < self._ask_again:
            return False
        reachable = self._store.reachable()
        answered = self._clock()
        self._ask_again = answered + _PATIENCE * (answered - asked)
        return reachable

    def _apply(self, claim: Claimed, report: FlushReport) -> FlushReport:
        """Apply a claimed batch; the report's ``end`` stays `End.EMPTY` if the flush may go on."""
        verdict = judge_crash(claim.begun, claim.failures, len(claim.messages))
        begun = False

        def begin() -> None:
            nonlocal begun
            if isinstance(verdict, Halve):  # only now is it known that the batch was not applied after all
                raise _Suspected
            if not begun:
                self._check_complete(claim, order.gap)
            if not self._buffer.begin(claim, again=begun):
                raise _Gone
            begun = True

        entries = self._entries(claim)
        order = order_of(entries, claim)
        batch = self._batch(claim, entries, order, verdict)
        try:
            applied = self._write(batch, begin)
        except _Suspected:
            log.warning("shard %d: a flusher died over batch %s, halving it", claim.shard, claim.id)
            self._buffer.halve(claim, suspected=True)
            self._probe(Step.HALVED)
            return report
        except _Missing as missing:
            return report if missing.cut is Cut.KEPT else ended(report, End.WAITING)
        except _Gone:
            log.warning("shard %d: batch %s is not frozen any more and is left alone", claim.shard, claim.id)
            return report
        except ApplyFailed as error:
            return self._failed(claim, entries, error, report, begun=begun)
        except BaseException as error:  # a bug, or a stop: without a word of it this would look like a crash
            rest = delay(self._retry, claim.failures + 1, self._draw())
            self._buffer.fail(claim, type(error).__name__, rest, begun=begun)
            raise
        self._tell(claim, entries, applied)
        # set aside before Redis went back in time, for a pause of which it knows nothing: nobody would resume that
        unexplained = not applied.aside <= batch.aside
        self._buffer.acknowledge(claim, entries, applied, unexplained=unexplained)
        self._probe(Step.ACKNOWLEDGED)
        return msgspec.structs.replace(
            report,
            batches=report.batches + 1,
            events=report.events + len(entries) - len(applied.aside),
            aside=report.aside + len(applied.aside),
            rows=report.rows + applied.rows,
            dead=report.dead + len(applied.dead),
            skipped=report.skipped + applied.skipped,
            savepoints=report.savepoints + applied.savepoints,
        )

    def _write(self, batch: Batch, begin: Callable[[], None]) -> Applied:
        """Apply ``batch``, and learn from how long that took how large the next one of its shard should be.

        What is learned stays in this process. Nothing depends on it: a new process takes full batches, and where they
        are too large, it knows after a few.
        """
        started = self._clock()
        try:
            applied = self._store.apply(batch, begin)
        except ApplyFailed as error:
            if error.meaning == Meaning.TIMEOUT:
                self._learn(batch.shard, len(batch.entries), math.inf)
            raise
        written = len(batch.entries) - applied.skipped - len(applied.aside)
        self._learn(batch.shard, written, self._clock() - started)
        return applied

    def _size(self, shard: int) -> Size:
        """How many events the next batch of ``shard`` may have."""
        return self._sizes.get(shard) or Size(self._pace.most)

    def _learn(self, shard: int, events: int, seconds: float) -> None:
        self._sizes[shard] = next_size(self._pace, self._size(shard), events, seconds)

    def _batch(
        self,
        claim: Claimed,
        entries: Sequence[Event | Malformed],
        order: Order,
        verdict: Halve | Bury | None,
    ) -> Batch:
        return Batch(
            shard=claim.shard,
            id=claim.id,
            seq=claim.seq,
            entries=entries,
            final=claim.tries + 1 >= self._retry.attempts,
            failures=max(claim.begun, claim.failures),
            bury=verdict.reason if isinstance(verdict, Bury) else None,
            aside=set_aside(entries, claim.paused, self._held(claim, entries), order.turns),
            paused=bool(claim.paused),
            turns=order.turns,
            displaced=order.displaced,
        )

    def _held(self, claim: Claimed, entries: Sequence[Event | Malformed]) -> frozenset[str]:
        """The rows of ``entries`` on which something waits; as many rows as events are pending may be held (law L7)."""
        if not claim.held:
            return frozenset()
        return self._buffer.held(
            claim, {row for entry in entries if isinstance(entry, Event) for row in rows_of(entry)}
        )

    def _check_complete(self, claim: Claimed, gap: Gap | None) -> None:
        """Raise `_Missing` if an event before one of these is in somebody's hands and may still come back (law L3)."""
        if gap is None:
            return
        cut = self._buffer.cut(claim, gap.keep, gap.passed, _PATIENCE_LEASES * self._lease)
        if cut is Cut.GONE:
            raise _Gone
        if cut is not Cut.KEPT:
            rest = "waiting for them" if cut is Cut.WAITING else "going on without"
            log.log(
                logging.WARNING if cut is Cut.WAITING else logging.ERROR,
                "shard %d: events %d to %d are missing in its queue, a worker must have taken them out: %s",
                claim.shard, gap.first, gap.last, rest,
            )  # fmt: skip
        if cut is not Cut.OVER:
            raise _Missing(cut)

    def _entries(self, claim: Claimed) -> Entries:
        entries = self._decoder.decode(claim.messages)
        if not entries.others:
            return entries
        return entries.with_others(
            {
                position: entry if entry.seq is not None else self._from_outside(entry)
                for position, entry in entries.others.items()
            }
        )

    def _from_outside(self, entry: Event | Malformed) -> Event | Malformed:
        """``entry``, refused if it may not be written: what comes through the write side was checked there."""
        if isinstance(entry, Malformed):
            return entry
        reason = entry.refused
        tables = {change.table for change in entry.changes}
        if self._tables and not tables <= self._tables:
            reason = reason or "a table of the event is not in PIPELINE_TABLES"
        if not tables.isdisjoint(self._through):
            reason = reason or "a table of the event is in PIPELINE_WRITE_THROUGH_TABLES"
        return entry if reason is entry.refused else msgspec.structs.replace(entry, refused=reason)

    def _failed(
        self,
        claim: Claimed,
        entries: Sequence[Event | Malformed],
        error: ApplyFailed,
        report: FlushReport,
        *,
        begun: bool,
    ) -> FlushReport:
        meaning = Meaning(error.meaning)
        if meaning is Meaning.SYSTEMIC and self._paused.pause(claim, entries, error):
            return report
        text = str(error) if meaning in _TELLING else f"{meaning} (SQLSTATE {error.sqlstate})"
        failures = max(claim.begun, claim.failures) + 1
        verdict = judge_failure(meaning, failures, len(claim.messages), self._retry, self._draw())
        match verdict:
            case Leave():
                self._buffer.release(claim.shard, claim.owner)
                return ended(report, End.BUSY)
            case Halve():
                log.warning("shard %d: batch %s halved: %s", claim.shard, claim.id, text)
                self._buffer.halve(claim, suspected=False)
                self._probe(Step.HALVED)
                return report
            case Retry(seconds):
                level = logging.ERROR if meaning is Meaning.SYSTEMIC else logging.WARNING
                log.log(level, "shard %d: batch %s kept, next try in %.1f s: %s", claim.shard, claim.id, seconds, text)
                self._buffer.fail(claim, text, seconds, _kind(meaning, Contact(error.contact)), begun=begun)
                self._probe(Step.FAILED)
                if seconds == 0:
                    return report
                return msgspec.structs.replace(report, end=End.FAILED, error=text)

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


def _was_all(claim: Claimed) -> bool:
    """Whether nothing was pending behind the batch when it was claimed."""
    return accepted_seq(claim.messages[-1]) == claim.accepted


def _kind(meaning: Meaning, contact: Contact) -> FailureKind:
    match contact:
        case Contact.NEVER:
            return FailureKind.UNREACHABLE
        case Contact.LOST:
            return FailureKind.SILENT
        case Contact.KEPT:
            return FailureKind.BOUNDED if meaning in _BOUNDED else FailureKind.PLAIN
