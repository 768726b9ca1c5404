"""Queries to PostgreSQL over one connection: blocking ones, for `pipeline.driving.run`, and awaiting ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row, tuple_row

__all__ = ["AsyncQueries", "BlockingQueries", "Queries"]

Text = str | bytes
Parameters = Sequence[Any] | Mapping[str, Any] | None


class Queries(Protocol):
    """Statements on one connection. All raise psycopg's errors."""

    async def run(self, text: Text, parameters: Parameters = None) -> int:
        """Run a statement; the number of rows that it touched."""
        ...

    async def row(self, text: Text, parameters: Parameters = None) -> tuple[Any, ...] | None:
        """The first row."""
        ...

    async def rows(self, text: Text, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """All rows."""
        ...

    async def records(self, text: Text, parameters: Parameters = None) -> list[dict[str, Any]]:
        """All rows, each by the names of its columns."""
        ...

    async def rollback(self) -> None:
        """End the transaction, if there is one and the connection still works."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """A transaction, or a savepoint in one; what fails in it is rolled back."""
        ...


class BlockingQueries:
    """`Queries` on a connection of a thread."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    async def run(self, text: Text, parameters: Parameters = None) -> int:
        """See `Queries.run`."""
        with self._cursor() as cursor:
            return cursor.execute(_bytes(text), parameters).rowcount

    async def row(self, text: Text, parameters: Parameters = None) -> tuple[Any, ...] | None:
        """See `Queries.row`."""
        with self._cursor() as cursor:
            return cursor.execute(_bytes(text), parameters).fetchone()

    async def rows(self, text: Text, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """See `Queries.rows`."""
        with self._cursor() as cursor:
            return cursor.execute(_bytes(text), parameters).fetchall()

    async def records(self, text: Text, parameters: Parameters = None) -> list[dict[str, Any]]:
        """See `Queries.records`."""
        with psycopg.Cursor(self._connection, row_factory=dict_row) as cursor:
            return cursor.execute(_bytes(text), parameters).fetchall()

    async def rollback(self) -> None:
        """See `Queries.rollback`."""
        if not self._connection.closed:
            self._connection.rollback()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `Queries.savepoint`."""
        with self._connection.transaction():
            yield

    def _cursor(self) -> psycopg.Cursor[tuple[Any, ...]]:
        return psycopg.Cursor(self._connection, row_factory=tuple_row)  # whatever a connection of the caller's makes


class AsyncQueries:
    """`Queries` on a connection of an event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def run(self, text: Text, parameters: Parameters = None) -> int:
        """See `Queries.run`."""
        async with self._cursor() as cursor:
            return (await cursor.execute(_bytes(text), parameters)).rowcount

    async def row(self, text: Text, parameters: Parameters = None) -> tuple[Any, ...] | None:
        """See `Queries.row`."""
        async with self._cursor() as cursor:
            return await (await cursor.execute(_bytes(text), parameters)).fetchone()

    async def rows(self, text: Text, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """See `Queries.rows`."""
        async with self._cursor() as cursor:
            return await (await cursor.execute(_bytes(text), parameters)).fetchall()

    async def records(self, text: Text, parameters: Parameters = None) -> list[dict[str, Any]]:
        """See `Queries.records`."""
        async with psycopg.AsyncCursor(self._connection, row_factory=dict_row) as cursor:
            return await (await cursor.execute(_bytes(text), parameters)).fetchall()

    async def rollback(self) -> None:
        """See `Queries.rollback`."""
        if not self._connection.closed:
            await self._connection.rollback()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `Queries.savepoint`."""
        async with self._connection.transaction():
            yield

    def _cursor(self) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        return psycopg.AsyncCursor(self._connection, row_factory=tuple_row)


def _bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
