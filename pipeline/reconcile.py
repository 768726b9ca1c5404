"""Find cached rows that are not what a miss would find: somebody wrote to PostgreSQL past the pipeline. And drop them.

Rows change all the time, in Redis first and in PostgreSQL later. So a row that differs is judged by strict evidence:

* Redis is looked at before and after PostgreSQL is asked. What is accepted after the first look can reach PostgreSQL
  only in a batch that is frozen after it. So if the frozen batch and the last acknowledged one are the same both
  times, PostgreSQL and what was pending make the row of the first look. That the cached row is the same both times
  would not do (add 1, take 1); it is asked for as well, since what has changed is not to be dropped.
* None of its pending changes is committed already, or will be refused: a cached row counts what is refused until the
  flush has acknowledged that.

And it must be found to differ twice. A row for which this does not come about in some tries is *busy*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from typing import Final

import msgspec

from pipeline.core.cached import decode_overlay, decode_row, differing
from pipeline.core.change import canonical_table
from pipeline.core.values import Columns, identity, key_texts
from pipeline.driving import Sleep
from pipeline.errors import (
    BufferUnavailable,
    InvalidEvent,
    InvalidRead,
    NotMigrated,
    PipelineError,
    StoreError,
    StoreUnavailable,
)
from pipeline.reading import Fields, Found, Glimpse, Place, Question, Row, RowStore, RowSurvey

__all__ = ["Drift", "Problem", "Reconciled", "Reconciler"]

_AT_ONCE: Final = 256  # rows in one round trip and in one statement
_TRIES: Final = 12
_FIRST_WAIT_SECONDS: Final = 0.001
_LONGEST_WAIT_SECONDS: Final = 0.064
_PROOFS: Final = 2


class Problem(StrEnum):
    """What is wrong with a cached row."""

    DIFFERENT = "different"
    MISSING = "missing"
    """PostgreSQL has no such row."""
    UNREADABLE = "unreadable"
    """PostgreSQL cannot be asked for it: its table is gone, perhaps."""


class Drift(msgspec.Struct, frozen=True):
    """A cached row that a read should not return.

    ``key`` is its identity (`pipeline.core.values.identity`); ``columns`` are those that differ, with their values in
    ``cached`` and ``expected``. Of a row that is missing ``cached`` is all. ``detail`` says why it cannot be read.
    """

    table: str
    shard: int
    key: str
    problem: Problem
    columns: tuple[str, ...] = ()
    detail: str | None = None
    cached: Row | None = None
    expected: Row | None = None
    fixed: bool = False


class Reconciled(msgspec.Struct, frozen=True):
    """Some cached rows that were compared, in numbers, and ``rows``: those that are drifted or unreadable.

    ``checked`` is the sum of ``equal``, ``drifted``, ``unreadable`` and ``busy``: rows that changed whenever they were
    looked at. ``fixed`` of the drifted and unreadable ones were dropped. ``skipped`` is what no read takes for a
    row: somebody is about to fetch or to write it, or it is of an earlier life of the server.
    """

    checked: int = 0
    equal: int = 0
    drifted: int = 0
    fixed: int = 0
    busy: int = 0
    skipped: int = 0
    unreadable: int = 0
    rows: Sequence[Drift] = ()

    @property
    def left(self) -> int:
        """Rows that are wrong and still there."""
        return self.drifted + self.unreadable - self.fixed


class _End(Enum):
    """What became of a suspect that is no drift."""

    EQUAL = 1
    GONE = 2


Answer = Found | PipelineError


class Reconciler:
    """Compares what is cached with what a miss would find. Stateless apart from its connections."""

    def __init__(
        self,
        survey: RowSurvey,
        store: RowStore,
        clock: Callable[[], float],
        sleep: Sleep,
        draw: Callable[[], float],
    ) -> None:
        """``clock`` counts seconds monotonically, ``draw`` gives numbers in [0, 1)."""
        self._survey = survey
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._draw = draw

    async def reconcile(
        self,
        *,
        table: str | None = None,
        sample: float = 1.0,
        fix: bool = False,
        rows_per_second: float | None = None,
    ) -> AsyncGenerator[Reconciled, None]:
        """See `pipeline.wiring.Pipeline.reconcile`."""
        if not 0 < sample <= 1:
            raise ValueError(f"a sample is a part, more than 0 and at most 1, not {sample}")
        if rows_per_second is not None and not rows_per_second > 0:
            raise ValueError(f"rows per second are more than 0, not {rows_per_second}")
        name = None if table is None else _canonical(table)
        most = _AT_ONCE if rows_per_second is None else max(1, min(_AT_ONCE, int(rows_per_second)))
        cursor, further = 0, True
        while further:
            cursor, found = await self._survey.walk(cursor, name)
            further = cursor != 0
            places = [place for place in dict.fromkeys(found) if sample == 1 or self._draw() < sample]
            chunks, strange = _chunks(places, most)
            yield Reconciled(skipped=strange)  # so that its caller can stop, however few rows there are
            for chunk in chunks:
                begun = self._clock()
                yield await self._chunk(chunk, fix=fix)
                if rows_per_second is not None:
                    await self._sleep(max(0.0, begun + len(chunk) / rows_per_second - self._clock()))

    async def _chunk(self, places: Sequence[Place], *, fix: bool) -> Reconciled:
        glimpses = dict(zip(places, await self._survey.glimpse(places), strict=True))
        cached = {place: glimpse for place, glimpse in glimpses.items() if glimpse.row is not None}
        answers = await self._answers(cached)
        suspects = [place for place, glimpse in cached.items() if _judge(place, glimpse, answers[place])]
        ends = await self._trial(suspects, fix=fix)
        drifts = [end for end in ends.values() if isinstance(end, Drift)]
        gone = sum(end is _End.GONE for end in ends.values())
        unreadable = sum(drift.problem is Problem.UNREADABLE for drift in drifts)
        checked = len(cached) - gone
        busy = len(suspects) - len(ends)
        return Reconciled(
            checked=checked,
            equal=checked - len(drifts) - busy,
            drifted=len(drifts) - unreadable,
            fixed=sum(drift.fixed for drift in drifts),
            busy=busy,
            skipped=len(places) - checked,
            unreadable=unreadable,
            rows=drifts,
        )

    # --- what a miss would find

    async def _answers(self, glimpses: Mapping[Place, Glimpse]) -> dict[Place, Answer]:
        answers: dict[Place, Answer] = {}
        questions = []
        for place, glimpse in glimpses.items():
            try:
                pending = decode_overlay(glimpse.overlay)
            except (ValueError, msgspec.MsgspecError):  # so a miss would fail, too
                answers[place] = BufferUnavailable("what is pending on it cannot be read")
            else:
                questions.append(Question(place, _key(place, glimpse.row or {}), glimpse.seq, pending))
        answers.update(await self._asked(questions) if questions else {})
        return answers

    async def _asked(self, questions: Sequence[Question]) -> dict[Place, Answer]:
        try:
            found = await self._store.read(questions)
        except (StoreUnavailable, NotMigrated):
            raise
        except (InvalidRead, StoreError) as error:
            if len(questions) == 1:
                return {questions[0].place: error}
            answers: dict[Place, Answer] = {}
            for question in questions:
                answers.update(await self._asked([question]))
            return answers
        return {question.place: answer for question, answer in zip(questions, found, strict=True)}

    # --- rows that differ

    async def _trial(self, suspects: Sequence[Place], *, fix: bool) -> dict[Place, Drift | _End]:
        """What became of ``suspects``; those that are missing are busy."""
        ends: dict[Place, Drift | _End] = {}
        proofs: Counter[Place] = Counter()
        left = list(suspects)
        wait = _FIRST_WAIT_SECONDS
        for number in range(_TRIES):
            size = max(1, _AT_ONCE >> 3 * number)  # the fewer, the less happens between the two looks
            before = proofs.total()
            for start in range(0, len(left), size):
                await self._try(left[start : start + size], proofs, ends, fix=fix)
            tried = len(left)
            left = [place for place in left if place not in ends]
            if not left:
                break
            if proofs.total() - before < tried:
                await self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
        return ends

    async def _try(
        self, places: Sequence[Place], proofs: Counter[Place], ends: dict[Place, Drift | _End], *, fix: bool
    ) -> None:
        before = dict(zip(places, await self._survey.glimpse(places), strict=True))
        cached = {place: glimpse for place, glimpse in before.items() if glimpse.row is not None}
        ends.update(dict.fromkeys(before.keys() - cached.keys(), _End.GONE))
        answers = await self._answers(cached)
        drifts: dict[Place, Drift] = {}
        for place, glimpse in cached.items():
            drift = _judge(place, glimpse, answers[place])
            if drift is None:
                ends[place] = _End.EQUAL
            elif not _unsettled(glimpse, answers[place]):
                drifts[place] = drift
        doomed: dict[Place, Fields] = {}
        for place, glimpse in zip(drifts, await self._survey.glimpse(list(drifts)), strict=True):
            if not _steady(before[place], glimpse):
                continue
            proofs[place] += 1
            if proofs[place] < _PROOFS:
                continue
            if fix and _droppable(answers[place]):
                doomed[place] = glimpse.content
            else:
                ends[place] = drifts[place]
        for place in await self._survey.drop(doomed):
            ends[place] = msgspec.structs.replace(drifts[place], fixed=True)


def _canonical(table: str) -> str:
    try:
        return canonical_table(table)
    except InvalidEvent as error:
        raise InvalidRead(error.problem, str(table)[:200]) from None


def _chunks(places: Iterable[Place], most: int) -> tuple[list[list[Place]], int]:
    """Places of one table with the same key columns each, and how many have a key that no row can have."""
    groups: dict[tuple[str, ...], list[Place]] = {}
    strange = 0
    for place in places:
        try:
            groups.setdefault((place.table, *key_texts(place.identity)), []).append(place)
        except ValueError:
            strange += 1
    return [group[start : start + most] for group in groups.values() for start in range(0, len(group), most)], strange


def _key(place: Place, row: Fields) -> Columns:
    """The key of a cached row: its own values, or their texts if these are not of this key."""
    texts = key_texts(place.identity)
    own = _decoded({name: value for name, value in row.items() if name.decode(errors="replace") in texts})
    try:
        if own is not None and own.keys() == texts.keys() and identity(own) == place.identity:
            return own
    except InvalidEvent:
        pass
    return texts


def _decoded(fields: Fields) -> Row | None:
    try:
        return decode_row(fields)
    except (ValueError, LookupError, msgspec.MsgspecError):  # somebody else has written it
        return None


def _judge(place: Place, glimpse: Glimpse, answer: Answer) -> Drift | None:
    """What is wrong with a row, ``None`` if nothing is."""
    fields = glimpse.row or {}
    if isinstance(answer, PipelineError):
        return Drift(place.table, place.shard, place.identity, Problem.UNREADABLE, detail=_detail(answer))
    if answer.row is None:
        return Drift(place.table, place.shard, place.identity, Problem.MISSING, cached=_decoded(fields))
    columns = differing(fields, answer.row)
    if not columns:
        return None
    cached = _decoded(fields)
    return Drift(
        place.table,
        place.shard,
        place.identity,
        Problem.DIFFERENT,
        tuple(columns),
        cached=None if cached is None else dict(_only(columns, cached)),
        expected=dict(_only(columns, answer.row)),
    )


def _only(columns: Iterable[str], row: Row) -> Iterator[tuple[str, object]]:
    return ((name, row[name]) for name in columns if name in row)


def _detail(error: PipelineError) -> str:
    if isinstance(error, StoreError) and error.sqlstate is None:
        return "a value of the row has no form in Python"  # its own message quotes the value
    return str(error)


def _droppable(answer: Answer) -> bool:
    """Whether the row is wrong for good; what else PostgreSQL refuses (a right that is missing) may be mended."""
    return isinstance(answer, Found | InvalidRead) or (isinstance(answer, StoreError) and answer.sqlstate is None)


def _unsettled(glimpse: Glimpse, answer: Answer) -> bool:
    """Whether pending changes that the cached row counts are, or will be, no part of the row."""
    return isinstance(answer, Found) and (answer.refused or (answer.fragile and bool(glimpse.overlay)))


def _steady(before: Glimpse, after: Glimpse) -> bool:
    """Whether the cached row is the same, and PostgreSQL cannot have had changes that the first look had not."""
    return (before.row, before.seq, before.batch) == (after.row, after.seq, after.batch)
