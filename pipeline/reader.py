"""Read rows with everything that was accepted for them: from the cache, or from PostgreSQL with what is pending.

A miss takes a *ticket* for its row, asks PostgreSQL, and installs what it found if nothing was written meanwhile; the
others who miss the same row wait for that, for a while. Every read equals a state that the row had during the call:

* a hit is the row with all changes accepted so far, since each write changes or drops it in the same step;
* a miss reads the row's pending changes first and asks PostgreSQL afterwards, in one snapshot, for the row and for
  which of these changes are in it. What was acknowledged before is in the snapshot; what is not in it is folded on top.
  If PostgreSQL has applied what was accepted after the first step, it has also applied all that came before;
* what a ``write_through`` commits is in every later snapshot, and in between nothing is installed: `pipeline.through`.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.config import Config
from pipeline.core.cached import decode_overlay, decode_row, encode_row
from pipeline.core.change import canonical_table, shard_of
from pipeline.core.values import identity
from pipeline.driving import Sleep
from pipeline.errors import BufferUnavailable, InvalidEvent, InvalidRead, PipelineError
from pipeline.reading import Filling, Found, Missed, Place, Question, RowCache, RowStore, StaleRow
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["Reader"]

log: Final = logging.getLogger("pipeline.reader")

Row = dict[str, Any]
Key = Mapping[str, Any]

_PATIENCE_SECONDS: Final = 2.0  # to wait for another reader's answer; then everybody asks PostgreSQL himself
_FIRST_WAIT_SECONDS: Final = 0.001
_LONGEST_WAIT_SECONDS: Final = 0.016
_DECLINED_SECONDS: Final = 1.0
_AT_ONCE: Final = 500  # rows in one statement, and commands in one round trip


class Reader:
    """The read side. Stateless apart from its connections; safe to share between threads."""

    def __init__(
        self,
        cache: RowCache,
        store: RowStore,
        config: Config,
        clock: Callable[[], float],
        sleep: Sleep,
        *,
        probe: Probe = ignore,
    ) -> None:
        """``clock`` counts seconds monotonically."""
        self._cache = cache
        self._store = store
        self._shards = config.shards
        self._clock = clock
        self._sleep = sleep
        self._probe = probe

    async def read(self, table: str, key: Key, *, shard_by: str | None = None, allow_stale: bool = False) -> Row | None:
        """See `pipeline.wiring.Pipeline.read`."""
        place = self._place(table, key, shard_by)
        try:
            (cached,) = await self._cache.get([place])
            if cached is not None:
                return decode_row(cached)
            return (await self._miss({place: key}))[place]
        except BufferUnavailable as error:
            if not allow_stale:
                raise
            return (await self._stale([Question(place, key)], error))[place]

    async def read_many(
        self, table: str, keys: Iterable[Key], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> list[Row | None]:
        """See `pipeline.wiring.Pipeline.read_many`."""
        asked = [(self._place(table, key, shard_by), key) for key in keys]
        found: dict[Place, Row | None] = {}
        wanted = list(dict(asked).items())
        for start in range(0, len(wanted), _AT_ONCE):
            part = dict(wanted[start : start + _AT_ONCE])
            try:
                missed = {}
                for (place, key), cached in zip(part.items(), await self._cache.get(list(part)), strict=True):
                    if cached is None:
                        missed[place] = key
                    else:
                        found[place] = decode_row(cached)
                found.update(await self._miss(missed))
            except BufferUnavailable as error:
                if not allow_stale:
                    raise
                found.update(await self._stale([Question(place, key) for place, key in part.items()], error))
        return [found[place] for place, _ in asked]

    def _place(self, table: str, key: Key, shard_by: str | None) -> Place:
        try:
            name = canonical_table(table)
            if not key:
                raise InvalidEvent("a key is needed: {column: value} of the primary key or of a unique index")
            row = identity(key)
            return Place(name, row, shard_of([(name, row)], shard_by, "", self._shards))
        except InvalidEvent as error:
            problem = f"{error.column}: {error.problem}" if error.column else error.problem
            raise InvalidRead(problem, str(table)[:200]) from None
        except (TypeError, AttributeError):
            raise InvalidRead("a row is read by its table and {column: value} of its key", str(table)[:200]) from None

    # --- misses

    async def _miss(self, rows: Mapping[Place, Key]) -> dict[Place, Row | None]:
        found: dict[Place, Row | None] = {}
        left = dict(rows)
        until = self._clock() + _PATIENCE_SECONDS
        wait = _FIRST_WAIT_SECONDS
        while left:
            patient = self._clock() < until
            answers = await self._cache.look([(place, patient) for place in left])
            missed = {}
            for place, answer in zip(list(left), answers, strict=True):
                match answer:
                    case Missed():
                        missed[place] = answer
                        left.pop(place)
                    case Filling():
                        pass
                    case _:
                        found[place] = decode_row(answer)
                        left.pop(place)
            if missed:
                self._probe(Step.LOOKED)
                found.update(await self._fetch({place: rows[place] for place in missed}, missed))
            elif left:
                await self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
        return found

    async def _fetch(self, rows: Mapping[Place, Key], missed: Mapping[Place, Missed]) -> dict[Place, Row | None]:
        """Ask PostgreSQL, and install what may be installed."""
        answers: dict[Place, Found] = {}
        try:
            questions = [_question(place, key, missed[place]) for place, key in rows.items()]
            answers = dict(zip(rows, await self._store.read(questions), strict=True))
            self._probe(Step.FETCHED)
        finally:
            await self._settle_all(missed, answers)
        return {place: answer.row for place, answer in answers.items()}

    async def _settle_all(self, missed: Mapping[Place, Missed], answers: Mapping[Place, Found]) -> None:
        """Use every ticket, or give it back: as long as one is out, others wait for it. Also in a cancelled task."""
        cancelled: CancelledError | None = None
        for place, miss in missed.items():
            try:
                await self._settle(place, miss, None if cancelled else answers.get(place))
            except CancelledError as error:
                cancelled = error
                await self._settle(place, miss, None)
        if cancelled is not None:
            raise cancelled

    async def _settle(self, place: Place, miss: Missed, answer: Found | None) -> None:
        if miss.ticket is None:
            return
        try:
            row = answer.row if answer is not None and answer.installable else None
            fields = None if answer is None or row is None else encode_row(row, answer.updatable)
            if answer is not None and fields is not None:
                await self._cache.install(place, miss.ticket, fields, fragile=answer.fragile)
                self._probe(Step.INSTALLED)
            else:  # without an answer the next one may try at once
                await self._cache.decline(place, miss.ticket, seconds=_DECLINED_SECONDS if answer else 0)
        except BufferUnavailable as error:  # the row is right all the same
            log.warning("a row of %s could not be cached: %s", place.table, error)

    async def _stale(self, questions: Sequence[Question], error: PipelineError) -> dict[Place, Row | None]:
        log.warning(
            "%d row(s) of %s are read from PostgreSQL alone, without what is pending: %s",
            len(questions), questions[0].place.table, error,
        )  # fmt: skip
        found = await self._store.read(questions)
        return {
            question.place: None if answer.row is None else StaleRow(answer.row)
            for question, answer in zip(questions, found, strict=True)
        }


def _question(place: Place, key: Key, miss: Missed) -> Question:
    try:
        return Question(place, key, miss.seq, decode_overlay(miss.overlay), wanted=miss.ticket is not None)
    except ValueError as error:
        raise BufferUnavailable(f"what is pending on a row of {place.table} cannot be read: {error}") from error
