"""Rows out of PostgreSQL, with the pending changes that are not in them folded on top. Nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

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
from pipeline.reading import Found, Question, Row
from pipeline.store.bulk import MissingColumn, Shape, check_shape
from pipeline.store.catalog import Catalog
from pipeline.store.diagnosis import text_of_error
from pipeline.store.rows import array_of, folded_row, key_texts, stored_rows
from pipeline.store.session import Sessions, translated
from pipeline.store.statements import statement
from pipeline.store.text import Unfit

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

    def __init__(self, sessions: Sessions, config: Config, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._clock = clock
        self._catalog = Catalog()
        self._facts: dict[str, tuple[float, _Facts]] = {}

    def read(self, questions: Sequence[Question]) -> list[Found]:
        """See `pipeline.reading.RowStore.read`."""
        name = questions[0].place.table
        for known in (name in self._facts, False):  # what is known may be old: look again, once
            try:
                with translated(), self._sessions.connection() as connection, _values():
                    return _Reading(connection, self._facts_of(connection, name), self._namespace).read(questions)
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

    def _facts_of(self, connection: psycopg.Connection[Any], name: str) -> _Facts:
        now = self._clock()
        until, facts = self._facts.get(name, (0.0, None))
        if facts is None or now > until:
            self._catalog.freshen(connection, [name])
            table = self._catalog.get(name) or self._catalog.read(connection, name)
            row = connection.execute(statement("catalog_caching"), {"oid": table.oid}).fetchone()
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

    def __init__(self, connection: psycopg.Connection[Any], facts: _Facts, namespace: str) -> None:
        self._connection = connection
        self._facts = facts
        self._table = facts.table
        self._namespace = namespace

    def read(self, questions: Sequence[Question]) -> list[Found]:
        """See `pipeline.reading.RowStore.read`."""
        for question in questions:
            check_shape(self._table, Shape(tuple(question.key), ()))
        settled = [question for question in questions if not question.pending]
        found = dict(zip((q.place for q in settled), self._stored(settled), strict=True)) if settled else {}
        for question in questions:
            if question.pending:
                found[question.place] = self._current(question)
        return [found[question.place] for question in questions]

    # --- rows without pending changes

    def _stored(self, questions: Sequence[Question]) -> list[Found]:
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
            rows = self._connection.execute(text, [*parameters, shards, seqs, self._namespace]).fetchall()
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

    def _current(self, question: Question) -> Found:
        for careful in (False, True):
            self._connection.execute(_BEGIN)
            try:
                found = self._folded(question, careful=careful)
            except BaseException as error:
                self._connection.rollback()
                if careful or not _is_refusal(error):
                    raise
            else:
                self._connection.execute("COMMIT")
                return found
        raise AssertionError

    def _folded(self, question: Question, *, careful: bool) -> Found:
        """Raises what PostgreSQL refuses in the pending changes, unless ``careful``: then these are left out."""
        fragile, applied = self._ledger(question)
        fresh = [change for change in question.pending if change.event_id not in applied]
        if not fresh:
            (found,) = self._stored([question])
            return msgspec.structs.replace(found, fragile=fragile)
        if careful:
            self._stored([question])  # what is wrong with the key is no event's fault
            good = self._accepted(question, fresh)
        else:
            good = fresh
        existed, row = self._after(question, good)
        replaced = any(change.change.delete for change in good)
        installable = (
            row is not None
            and existed
            and not replaced
            and not careful
            and not self._facts.triggered
            and self._installable(question, row)
        )
        return Found(row, installable, self._facts.updatable, fragile)

    def _ledger(self, question: Question) -> tuple[bool, frozenset[str]]:
        parameters = {
            "namespace": self._namespace,
            "shard": question.place.shard,
            "seq": question.seq,
            "event_ids": [change.event_id for change in question.pending],
        }
        row = self._connection.execute(statement("read_ledger"), parameters).fetchone()
        return (False, frozenset()) if row is None else (row[0], frozenset(row[1]))

    def _accepted(self, question: Question, pending: Sequence[Pending]) -> list[Pending]:
        """Those of ``pending`` that the row takes, event by event as the flush finds them."""
        events: dict[int, list[Pending]] = {}
        for change in pending:
            events.setdefault(change.seq, []).append(change)
        good: list[Pending] = []

        def attempt(part: Sequence[list[Pending]]) -> Exception | None:
            tried = [*good, *(change for event in part for change in event)]
            try:
                with self._connection.transaction():
                    self._after(question, tried)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                return error
            good[:] = tried
            return None

        isolate(list(events.values()), attempt, lambda event: attempt([event]))
        return good

    def _after(self, question: Question, pending: Sequence[Pending]) -> tuple[bool, Row | None]:
        """Whether there is a row, and what it is after ``pending``."""
        table = self._table
        waves = fold([(table, change.change, question.place.identity) for change in pending])
        operations: list[Operation] = [operation for wave in waves for operation in wave.rows[table.oid].values()]
        try:
            query = folded_row(table, key_texts(table, question.key), operations)
        except MissingColumn as error:  # its events wait for it, and a row without them would be wrong
            raise StoreError(str(error), "42703") from error
        if query is None:
            return False, None
        answer = self._connection.execute(query.text, query.parameters).fetchone()
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
