"""Connections to PostgreSQL for an event loop. What they are set up with is in `pipeline.store.session`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pipeline.config import Config
from pipeline.store.queries import AsyncQueries, Queries
from pipeline.store.session import GRACE_SECONDS, Deaf, arguments_of, listening, patience_of, prepare_session

__all__ = ["AsyncSessions", "PatientAsyncConnection"]

R = TypeVar("R")


class PatientAsyncConnection(psycopg.AsyncConnection[Any]):
    """`pipeline.store.session.PatientConnection` for an event loop."""

    patience_seconds: float = GRACE_SECONDS

    async def wait(self, gen: PQGen[R], *arguments: Any, **options: Any) -> R:
        """See `psycopg.AsyncConnection.wait`; raises OperationalError if nothing comes for ``patience_seconds``."""
        try:
            return await super().wait(listening(gen, self.patience_seconds), *arguments, **options)
        except Deaf:
            await self.close()
            raise


async def _check(connection: PatientAsyncConnection) -> None:
    patience, connection.patience_seconds = connection.patience_seconds, GRACE_SECONDS
    try:
        await AsyncConnectionPool.check_connection(connection)
    finally:
        connection.patience_seconds = patience


class AsyncSessions:
    """`pipeline.store.session.SessionSource` for one event loop: a small pool."""

    kind: type[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]] = psycopg.AsyncConnection

    def __init__(self, config: Config) -> None:
        """No connection is made.

        Raises:
            InvalidSetting: the database URL cannot be read.
        """
        self._url = config.database_url
        self._arguments = arguments_of(config)
        self._patience_seconds = patience_of(config)
        self._pool: AsyncConnectionPool[PatientAsyncConnection] | None = None
        self._doubtful = True  # no connection was made yet, or the last attempt to get one failed

    @asynccontextmanager
    async def queries(self) -> AsyncIterator[Queries]:
        """Lend a connection; wait at most ten seconds for one, and as long again to see that nobody answers."""
        pool = self._pool or await self._open()
        if self._doubtful:
            await self._probe()
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pool.connection())
            except PoolTimeout:
                await self._probe()
                raise  # the server is well: all connections are in use
            yield AsyncQueries(connection)

    async def _probe(self) -> None:
        """Connect once without the pool: it waits its full time for a server that is away, and does not say why."""
        self._doubtful = True
        await (await psycopg.AsyncConnection.connect(self._url, **self._arguments)).close()
        self._doubtful = False

    async def _configure(self, connection: PatientAsyncConnection) -> None:
        await prepare_session(AsyncQueries(connection))
        connection.patience_seconds = self._patience_seconds

    async def _open(self) -> AsyncConnectionPool[PatientAsyncConnection]:
        pool = AsyncConnectionPool(
            self._url,
            connection_class=PatientAsyncConnection,
            kwargs=self._arguments,
            min_size=0,
            max_size=8,
            timeout=10.0,
            max_idle=300.0,
            reconnect_timeout=1.0,
            check=_check,
            configure=self._configure,
            open=False,
            name="pipeline",
        )
        if self._pool is None:
            self._pool = pool
            await pool.open()
        return self._pool

    async def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()
