"""Write a row to PostgreSQL at once, in order with what is pending for it, and leave no older row in the cache.

The order of things, and why no read is stale afterwards (decision 0014):

1. What was accepted for the row before the call is flushed. What is accepted from then on may be applied before us or
   after us, as the row's lock in PostgreSQL decides.
2. The transaction takes its *turn* on the row, an advisory lock that ends with it.
3. The row is dropped from the cache, and with it the ticket of every reader.
4. The change is made, with the flush's own statement, and committed.

A reader asks whether anybody has a turn on the row *after* it took its ticket and *before* its snapshot, and installs
nothing if so. If it asked before step 2, step 3 has voided its ticket. If it asked later and nobody had the turn any
more, the commit is in its snapshot, since PostgreSQL lets go of locks after the transaction is visible. Nothing has to
be done after the commit, so nobody has to survive it, and it need not be ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import msgspec

from pipeline.config import Config
from pipeline.core.change import Change, canonical_table, seal, shard_of, unseal
from pipeline.core.failure import Meaning, classify
from pipeline.driving import Sleep
from pipeline.errors import InvalidEvent, NotSettled, StoreError, StoreUnavailable
from pipeline.reading import Place, RowQueue, ThroughStore
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["PATIENCE_SECONDS", "FlushAside", "Flushed", "Through"]

PATIENCE_SECONDS: Final = 30.0
"""How long a ``write_through`` waits for its turn if it does not say."""

_LEAST_SECONDS: Final = 1.0
"""For the turn, if the time was not shorter from the beginning: what is pending may have taken nearly all of it."""

_TRIES: Final = 5
"""Of a transaction of our own that met a conflict (SQLSTATE 40001, 40P01)."""

_CONFLICT_SECONDS: Final = 0.01
_FIRST_WAIT_SECONDS: Final = 0.002
_LONGEST_WAIT_SECONDS: Final = 0.05

_decode: Final = msgspec.json.Decoder(Change).decode


class Flushed(NamedTuple):
    """How a flush has ended."""

    why: str
    """What waits for what now, in words."""
    goes_on: bool
    """It did something, and can do more at once."""


FlushAside = Callable[[int, float], Awaitable[Flushed | None]]
"""Flushes one batch of a shard; ``None`` after so many seconds, whatever the flush itself waits for."""

_NOT_ENDED: Final = (
    "the flush of its shard has not ended: it has much to do, or waits for a lock, maybe of the caller's"
)


class Through:
    """Writes through. Stateless apart from its connections; safe to share between threads."""

    def __init__(  # noqa: PLR0917
        self,
        rows: RowQueue,
        store: ThroughStore,
        flush: FlushAside,
        config: Config,
        clock: Callable[[], float],
        sleep: Sleep,
        *,
        probe: Probe = ignore,
    ) -> None:
        """``clock`` counts seconds monotonically."""
        self._rows = rows
        self._store = store
        self._flush = flush
        self._shards = config.shards
        self._allowed = frozenset(map(canonical_table, config.tables))
        self._clock = clock
        self._sleep = sleep
        self._probe = probe

    async def write(
        self,
        change: Change,
        *,
        shard_by: str | None = None,
        connection: object | None = None,
        timeout: float = PATIENCE_SECONDS,  # noqa: ASYNC109 - PostgreSQL and the flush have to know it
    ) -> int:
        """Make one change now; the shard of its row. See `pipeline.wiring.Pipeline.write_through`."""
        until = self._clock() + timeout
        least = min(timeout, _LEAST_SECONDS)
        wire, identity = seal(change)
        change, _ = unseal(_decode(msgspec.json.encode(wire)))  # as the flush would read it
        if self._allowed and change.table not in self._allowed:
            raise InvalidEvent("the table is not in PIPELINE_TABLES", change.table)
        shard = shard_of([(change.table, identity)], shard_by, "", self._shards)
        if connection is not None:
            self._store.check(connection)
        place = None if identity is None else Place(change.table, identity, shard)
        if place is not None:
            await self._settle(place, until)
        for left in reversed(range(_TRIES)):
            try:
                await self._write(change, place, connection, lambda: max(least, until - self._clock()))
            except StoreError as error:
                again = connection is None and classify(error.sqlstate or "00000") is Meaning.CONFLICT
                if not again or not left or isinstance(error, StoreUnavailable):
                    raise
                await self._sleep(_CONFLICT_SECONDS * 2 ** (_TRIES - left))
            else:
                break
        return shard

    async def _settle(self, place: Place, until: float) -> None:
        """Wait until what is pending now is applied.

        Every event that was accepted before and has this row has an entry in its overlay, until it is committed or a
        dead letter: also one that is in a frozen batch, set aside, or in the hands of a flusher that sleeps.
        """
        backlog = await self._rows.backlog(place)
        last = backlog.last
        wait = _FIRST_WAIT_SECONDS
        why = _NOT_ENDED
        while backlog.count and backlog.first <= last:
            left = until - self._clock()
            if left <= 0:
                raise NotSettled(place.table, backlog.count, why)
            flushed = await self._flush(place.shard, left)
            why = flushed.why if flushed is not None else why
            backlog = await self._rows.backlog(place)
            if flushed is not None and flushed.goes_on:
                wait = _FIRST_WAIT_SECONDS
            elif backlog.count and backlog.first <= last:
                await self._sleep(min(wait, max(0.0, until - self._clock())))
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
        self._probe(Step.SETTLED)

    async def _write(
        self, change: Change, place: Place | None, connection: object | None, left: Callable[[], float]
    ) -> None:
        async with self._store.turn(change.table, connection) as turn:
            if place is not None:
                await turn.take(place, left())
                self._probe(Step.TAKEN)
                await self._rows.drop(place)
                self._probe(Step.DROPPED)
            await turn.change(change)
            self._probe(Step.CHANGED)
            await turn.commit()
        self._probe(Step.PASSED)
