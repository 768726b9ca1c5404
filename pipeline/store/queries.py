"""Queries to PostgreSQL over one connection: blocking ones, for `pipeline.driving.run`, and awaiting ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

__all__ = ["AsyncQueries", "BlockingQueries", "Queries"]

Text = str | bytes
Parameters = Sequence[Any] | Mapping[str, Any] | None


class Queries(Protocol):
    """Statements on one connection in autocommit mode. All raise psycopg's errors."""

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
        return self._connection.execute(_bytes(text), parameters).rowcount

    async def row(self, text: Text, parameters: Parameters = None) -> tuple[Any, ...] | None:
        """See `Queries.row`."""
        row: tuple[Any, ...] | None = self._connection.execute(_bytes(text), parameters).fetchone()
        return row

    async def rows(self, text: Text, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """See `Queries.rows`."""
        return self._connection.execute(_bytes(text), parameters).fetchall()

    async def records(self, text: Text, parameters: Parameters = None) -> list[dict[str, Any]]:
        """See `Queries.records`."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
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


class AsyncQueries:
    """`Queries` on a connection of an event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def run(self, text: Text, parameters: Parameters = None) -> int:
        """See `Queries.run`."""
        return (await self._connection.execute(_bytes(text), parameters)).rowcount

    async def row(self, text: Text, parameters: Parameters = None) -> tuple[Any, ...] | None:
        """See `Queries.row`."""
        row: tuple[Any, ...] | None = await (await self._connection.execute(_bytes(text), parameters)).fetchone()
        return row

    async def rows(self, text: Text, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """See `Queries.rows`."""
        return await (await self._connection.execute(_bytes(text), parameters)).fetchall()

    async def records(self, text: Text, parameters: Parameters = None) -> list[dict[str, Any]]:
        """See `Queries.records`."""
        async with self._connection.cursor(row_factory=dict_row) as cursor:
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


def _bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
