"""Change a row in PostgreSQL at once, in a transaction of our own or in one of the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg_pool import PoolTimeout

from pipeline.config import Config
from pipeline.core.change import Change
from pipeline.core.failure import Meaning, classify
from pipeline.core.table import Table
from pipeline.errors import ApplyFailed, ChangeRefused, InvalidEvent, NotSettled, StoreError, StoreUnavailable
from pipeline.reading import Place, Turn
from pipeline.store.bulk import MissingColumn, single
from pipeline.store.catalog import Catalog
from pipeline.store.diagnosis import text_of_error
from pipeline.store.queries import AsyncQueries, BlockingQueries, Queries
from pipeline.store.session import SessionSource, pool_is_busy
from pipeline.store.statements import statement
from pipeline.store.text import Unfit
from pipeline.store.turns import lane_key, turn_key

__all__ = ["CallersConnection", "PostgresThrough"]

CallersConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""Whatever the default is: a change must be made to the row as it is when it is our turn."""

_ISOLATION: Final = "read committed"

_OLD_SNAPSHOT: Final = (
    "the transaction of the connection is {}, in which a DELETE misses a row that is newer than the snapshot, and says "
    "nothing: begin it as READ COMMITTED, or leave connection= away for a transaction of its own"
)

_RACES: Final = 3
"""Tries of a statement that met a row which it had not seen: ``MERGE`` looks first, and somebody else may insert it."""

_JOINABLE: Final = frozenset({TransactionStatus.INTRANS, TransactionStatus.IDLE})
_TRANSIENT: Final = frozenset({Meaning.CONFLICT, Meaning.TIMEOUT, Meaning.BUSY})


class PostgresThrough:
    """`pipeline.reading.ThroughStore` on PostgreSQL ≥ 15."""

    def __init__(self, sessions: SessionSource, config: Config) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._catalog = Catalog()

    def check(self, connection: object) -> None:
        """See `pipeline.reading.ThroughStore.check`."""
        kind = self._sessions.kind
        if not isinstance(connection, kind):
            found = type(connection)
            raise InvalidEvent(
                f"the connection must be a psycopg.{kind.__name__}, not a {found.__module__}.{found.__qualname__}"
            )
        status = connection.info.transaction_status
        if connection.closed or status not in _JOINABLE:
            raise InvalidEvent(
                f"the connection cannot be used now: it is {'closed' if connection.closed else status.name}"
            )
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            raise InvalidEvent("the connection is in pipeline mode, in which no answer can be waited for")
        if connection.autocommit and status is TransactionStatus.IDLE:
            raise InvalidEvent(
                "the connection has no transaction: use `with connection.transaction():`, "
                "or leave connection= away for a transaction of its own"
            )

    def turn(self, table: str, connection: object | None) -> AbstractAsyncContextManager[Turn]:
        """See `pipeline.reading.ThroughStore.turn`."""
        if isinstance(connection, psycopg.Connection):
            return self._joined(table, BlockingQueries(connection), connection)
        if isinstance(connection, psycopg.AsyncConnection):
            return self._joined(table, AsyncQueries(connection), connection)
        return self._own(table)

    @asynccontextmanager
    async def _own(self, name: str) -> AsyncIterator[Turn]:
        with _translated(name):
            async with self._sessions.queries() as queries:  # an error rolls back
                table = await self._table(queries, name)
                await queries.run(_BEGIN)
                yield _Turn(queries, table, name, self._namespace)

    @asynccontextmanager
    async def _joined(self, name: str, queries: Queries, connection: CallersConnection) -> AsyncIterator[Turn]:
        # A connection of the pool comes before the turn, as in a transaction of our own: who has the turn of a row must
        # not wait for a connection when all of them are with those who wait for the turn.
        with _translated(name):
            async with self._sessions.queries() as own:
                table = await self._table(own, name)
                settings = await own.row(statement("session_settings"))
                isolation, *before = await queries.row(statement("join_transaction"), settings) or ()
                try:
                    if isolation != _ISOLATION:
                        raise InvalidEvent(_OLD_SNAPSHOT.format(isolation.upper()), name)
                    yield _JoinedTurn(queries, table, name, self._namespace, own)
                finally:
                    if connection.info.transaction_status is TransactionStatus.INTRANS:
                        await queries.run(statement("leave_transaction"), before)

    async def _table(self, queries: Queries, name: str) -> Table:
        await self._catalog.freshen(queries, [name])
        return self._catalog.get(name) or await self._catalog.read(queries, name)


class _Turn:
    """`pipeline.reading.Turn` in a transaction of our own."""

    def __init__(self, queries: Queries, table: Table, name: str, namespace: str) -> None:
        self._queries = queries
        self._table = table
        self._name = name
        self._namespace = namespace

    async def take(self, place: Place, seconds: float) -> None:
        """See `pipeline.reading.Turn.take`."""
        parameters = {
            "milliseconds": max(1, round(seconds * 1000)),  # 0 would be for ever
            "key": turn_key(self._namespace, place),
            "lane": lane_key(self._namespace, place.shard),
        }
        with self._in_time("another write_through of the row has not ended"):
            async with self._queries.savepoint():
                await self._queries.row(statement("take_turn"), parameters)

    async def change(self, change: Change) -> None:
        """See `pipeline.reading.Turn.change`."""
        text, parameters = single(self._table, change)
        for left in reversed(range(_RACES)):
            try:
                with self._in_time("another transaction has locked the row"):
                    async with self._queries.savepoint():
                        await self._queries.run(text, parameters)
            except psycopg.errors.UniqueViolation:
                if not left:
                    raise
            else:
                return

    async def commit(self) -> None:
        """See `pipeline.reading.Turn.commit`."""
        try:
            await self._queries.run("COMMIT")
        except psycopg.Error as error:
            if classify(error.sqlstate) is not Meaning.OUTAGE:
                raise
            raise StoreUnavailable(
                f"PostgreSQL went away while it committed, so the change of {self._name} may have been written "
                f"or not: {text_of_error(error)}",
                error.sqlstate,
            ) from error

    @contextmanager
    def _in_time(self, why: str) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.LockNotAvailable as error:
            raise NotSettled(self._name, 0, why) from error
        except psycopg.errors.QueryCanceled as error:  # statement_timeout came first
            raise NotSettled(self._name, 0, f"{why}, or the statement is slow: {text_of_error(error)}") from error


class _JoinedTurn(_Turn):
    """`pipeline.reading.Turn` in the caller's transaction."""

    def __init__(self, queries: Queries, table: Table, name: str, namespace: str, own: Queries) -> None:
        super().__init__(queries, table, name, namespace)
        self._own = own

    async def take(self, place: Place, seconds: float) -> None:
        """See `pipeline.reading.Turn.take`."""
        await super().take(place, seconds)
        if await self._own.row(statement("free_rows"), {"keys": [turn_key(self._namespace, place)]}) is not None:
            raise InvalidEvent("the connection is to another database than PIPELINE_DATABASE_URL", self._name)

    async def commit(self) -> None:
        """Nothing: the transaction is the caller's."""


@contextmanager
def _translated(table: str) -> Iterator[None]:
    """Errors of psycopg and of the catalog are `StoreError`."""
    try:
        yield
    except Unfit as error:
        raise ChangeRefused(str(error), None, table) from error
    except MissingColumn as error:
        raise ChangeRefused(str(error), "42703", table) from error
    except ApplyFailed as error:
        raise ChangeRefused(error.problem, error.sqlstate, table) from error
    except psycopg.DataError as error:  # without a SQLSTATE it is psycopg's own, and no outage
        raise ChangeRefused(text_of_error(error), error.sqlstate, table) from error
    except PoolTimeout as error:
        raise pool_is_busy() from error
    except psycopg.Error as error:
        sqlstate = error.sqlstate
        meaning = classify(sqlstate)
        if meaning is Meaning.OUTAGE:
            raise StoreUnavailable(f"PostgreSQL is not available: {text_of_error(error)}", sqlstate) from error
        if meaning in _TRANSIENT:
            raise StoreError(text_of_error(error), sqlstate) from error
        raise ChangeRefused(text_of_error(error), sqlstate, table) from error
