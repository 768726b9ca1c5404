"""Rows out of PostgreSQL, with the pending changes that are not in them folded on top. Nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import psycopg

from pipeline.config import Config
from pipeline.core.cached import Pending
from pipeline.core.failure import Meaning, classify
from pipeline.core.fold import Operation, fold
from pipeline.core.isolate import isolate
from pipeline.core.table import Table
from pipeline.core.values import identity
from pipeline.errors import ApplyFailed, InvalidEvent, InvalidRead, StoreError
from pipeline.reading import Found, Place, Question, Row
from pipeline.store.bulk import MissingColumn, check_shape
from pipeline.store.catalog import Catalog
from pipeline.store.diagnosis import text_of_error
from pipeline.store.plans import Shape
from pipeline.store.queries import Queries
from pipeline.store.rows import array_of, folded_row, key_texts, stored_rows
from pipeline.store.session import SessionSource, translated
from pipeline.store.statements import statement
from pipeline.store.text import Unfit
from pipeline.store.turns import turn_key

__all__ = ["PostgresRows"]

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""One snapshot for the row and for the ledger."""

_UPDATABLE: Final = frozenset({"smallint", "integer", "bigint", "text", "character varying", "boolean"})
"""Types that hold an integer, a text or a boolean exactly as it is, or refuse it: no domain, no length, no scale."""

_FRESH_SECONDS: Final = 1.0
"""What is known of a table is looked after so often: a table is altered rarely, and every miss would pay for it."""


class _Facts(msgspec.Struct):
    """A table as a read sees it.

    ``restless``: its rows may change without a change of their keys, so they are not cached. ``triggered``: what a
    change makes of a row is known only when it is made, so a row is cached only without pending changes, and every
    change drops it.
    """

    table: Table
    restless: bool
    triggered: bool
    updatable: frozenset[str]
    statements: dict[tuple[str, ...], bytes] = {}


class _Refused(Exception):
    """The operations cannot be applied to the row."""


class PostgresRows:
    """`pipeline.reading.RowStore` on PostgreSQL."""

    def __init__(self, sessions: SessionSource, config: Config, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._clock = clock
        self._catalog = Catalog()
        self._facts: dict[str, tuple[float, _Facts]] = {}

    async def read(self, questions: Sequence[Question]) -> list[Found]:
        """See `pipeline.reading.RowStore.read`."""
        name = questions[0].place.table
        for known in (name in self._facts, False):  # what is known may be old: look again, once
            try:
                with translated():
                    async with self._sessions.queries() as queries:
                        with _values():
                            facts = await self._facts_of(queries, name)
                            free = await self._free(queries, questions)
                            found = await _Reading(queries, facts, self._namespace).read(questions)
                            return [
                                msgspec.structs.replace(one, installable=False)
                                if one.installable and question.place not in free
                                else one
                                for question, one in zip(questions, found, strict=True)
                            ]
            except Exception as error:
                if known and _looks_old(error):
                    self._facts.pop(name, None)
                    self._catalog.forget()
                    continue
                if isinstance(error, Unfit | MissingColumn | ApplyFailed):  # about the question
                    problem = error.problem if isinstance(error, ApplyFailed) else str(error)
                    raise InvalidRead(problem, name) from error
                raise
        raise AssertionError

    async def _free(self, queries: Queries, questions: Sequence[Question]) -> frozenset[Place]:
        """The rows on which nobody has a turn now. A statement by itself: what is read follows in a later snapshot."""
        wanted = [question.place for question in questions if question.wanted]
        if not wanted:
            return frozenset()
        keys = [turn_key(self._namespace, place) for place in wanted]
        return frozenset(wanted[number - 1] for (number,) in await queries.rows(statement("free_rows"), {"keys": keys}))

    async def _facts_of(self, queries: Queries, name: str) -> _Facts:
        now = self._clock()
        until, facts = self._facts.get(name, (0.0, None))
        if facts is None or now > until:
            await self._catalog.freshen(queries, [name])
            table = self._catalog.get(name) or await self._catalog.read(queries, name)
            row = await queries.row(statement("catalog_caching"), {"oid": table.oid})
            restless, triggered = row or (True, True)
            if facts is None or (facts.table, facts.restless, facts.triggered) != (table, restless, triggered):
                facts = _Facts(table, restless, triggered, _updatable(table, triggered=triggered))
            self._facts[name] = (now + _FRESH_SECONDS, facts)
        return facts


@contextmanager
def _values() -> Iterator[None]:
    """A value that psycopg cannot turn into one of Python (the time stamp ``infinity``) is no outage."""
    try:
        yield
    except psycopg.DataError as error:
        if error.sqlstate is None:
            raise StoreError(f"a value of the row has no form in Python: {error}") from error
        raise


def _updatable(table: Table, *, triggered: bool) -> frozenset[str]:
    if triggered or any(column.generated for column in table.columns.values()):
        return frozenset()
    return frozenset(name for name, column in table.columns.items() if column.type in _UPDATABLE)


def _looks_old(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
    sqlstate = getattr(cause, "sqlstate", None)
    return isinstance(error, MissingColumn | Unfit) or (
        sqlstate is not None and classify(sqlstate) in {Meaning.SYSTEMIC, Meaning.POISON}
    )


class _Reading:
    """One reading of rows of one table, on one connection."""

    def __init__(self, queries: Queries, facts: _Facts, namespace: str) -> None:
        self._queries = queries
        self._facts = facts
        self._table = facts.table
        self._namespace = namespace

    async def read(self, questions: Sequence[Question]) -> list[Found]:
        """See `pipeline.reading.RowStore.read`."""
        for question in questions:
            check_shape(self._table, Shape(tuple(question.key), ()))
        settled = [question for question in questions if not question.pending]
        answers = await self._stored(settled) if settled else []
        found = {question.place: answer for question, answer in zip(settled, answers, strict=True)}
        for question in questions:
            if question.pending:
                found[question.place] = await self._current(question)
        return [found[question.place] for question in questions]

    # --- rows without pending changes

    async def _stored(self, questions: Sequence[Question]) -> list[Found]:
        """The rows as they are, in one statement."""
        names = tuple(sorted(questions[0].key))
        text = self._facts.statements.get(names)
        if text is None:
            text = self._facts.statements[names] = stored_rows(self._table, names)
        keys = [key_texts(self._table, question.key) for question in questions]
        parameters = [array_of(key[name] for key in keys) for name in names]
        shards = [question.place.shard for question in questions]
        seqs = [question.seq for question in questions]
        try:
            rows = await self._queries.rows(text, [*parameters, shards, seqs, self._namespace])
        except psycopg.DataError as error:
            if error.sqlstate is None:
                raise
            raise Unfit(", ".join(names), text_of_error(error)) from error
        found = [Found(None)] * len(questions)
        for number, fragile, exists, *values in rows:
            if exists:
                row = dict(zip(self._table.columns, values, strict=True))
                installable = self._installable(questions[number - 1], row)
                found[number - 1] = Found(row, installable, self._facts.updatable, fragile)
        return found

    def _installable(self, question: Question, row: Row) -> bool:
        """Whether every write of this row drops or changes what is cached under this spelling of its key."""
        if self._facts.restless:
            return False
        try:
            return identity({name: row[name] for name in question.key}) == question.place.identity
        except InvalidEvent:
            return False

    # --- a row with pending changes

    async def _current(self, question: Question) -> Found:
        for careful in (False, True):
            await self._queries.run(_BEGIN)
            try:
                found = await self._folded(question, careful=careful)
            except BaseException as error:
                await self._queries.rollback()
                if careful or not _is_refusal(error):
                    raise
            else:
                await self._queries.run("COMMIT")
                return found
        raise AssertionError

    async def _folded(self, question: Question, *, careful: bool) -> Found:
        """Raises what PostgreSQL refuses in the pending changes, unless ``careful``: then these are left out."""
        fragile, applied = await self._ledger(question)
        fresh = [change for change in question.pending if change.event_id not in applied]
        if not fresh:
            (found,) = await self._stored([question])
            return msgspec.structs.replace(found, fragile=fragile)
        if careful:
            (found,) = await self._stored([question])  # what is wrong with the key is no event's fault
            good = await self._accepted(question, fresh)
            if not good:
                return Found(found.row, fragile=fragile, refused=True)
        else:
            good = fresh
        existed, row = await self._after(question, good)
        replaced = any(change.change.delete for change in good)
        installable = (
            row is not None
            and existed
            and not replaced
            and not careful
            and not self._facts.triggered
            and self._installable(question, row)
        )
        return Found(row, installable, self._facts.updatable, fragile, refused=careful)

    async def _ledger(self, question: Question) -> tuple[bool, frozenset[str]]:
        parameters = {
            "namespace": self._namespace,
            "shard": question.place.shard,
            "seq": question.seq,
            "event_ids": [change.event_id for change in question.pending],
        }
        row = await self._queries.row(statement("read_ledger"), parameters)
        return (False, frozenset()) if row is None else (row[0], frozenset(row[1]))

    async def _accepted(self, question: Question, pending: Sequence[Pending]) -> list[Pending]:
        """Those of ``pending`` that the row takes, event by event as the flush finds them."""
        events: dict[int, list[Pending]] = {}
        for change in pending:
            events.setdefault(change.seq, []).append(change)
        good: list[Pending] = []

        async def attempt(part: Sequence[list[Pending]]) -> Exception | None:
            tried = [*good, *(change for event in part for change in event)]
            try:
                async with self._queries.savepoint():
                    await self._after(question, tried)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                return error
            good[:] = tried
            return None

        await isolate(list(events.values()), attempt, lambda event: attempt([event]))
        return good

    async def _after(self, question: Question, pending: Sequence[Pending]) -> tuple[bool, Row | None]:
        """Whether there is a row, and what it is after ``pending``."""
        table = self._table
        changes = [each.change for each in pending]
        spelled = {change.table: table for change in changes}
        waves = fold(changes, [question.place.identity] * len(changes), spelled)
        operations: list[Operation] = [operation for wave in waves for operation in wave.rows[table.oid].values()]
        try:
            query = folded_row(table, key_texts(table, question.key), operations)
        except MissingColumn as error:  # its events wait for it, and a row without them would be wrong
            raise StoreError(str(error), "42703") from error
        if query is None:
            return False, None
        answer = await self._queries.row(query.text, query.parameters)
        existed, *values = answer or (False,)
        if not existed and not pending:
            return False, None
        row = dict(zip(table.columns, values, strict=True))
        for name, column in table.columns.items():
            if row[name] is None and column.not_null and not column.assigned:
                raise _Refused(f"column {name} would be NULL")
        return bool(existed), row


def _is_refusal(error: BaseException) -> bool:
    """Whether the events, and not the server or the schema, are to blame."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate is not None and classify(error.sqlstate) is Meaning.POISON
    return isinstance(error, Unfit | _Refused)
