"""Connections to PostgreSQL for an event loop. What they are set up with is in `pipeline.store.session`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pipeline.config import Config
from pipeline.driving import Home
from pipeline.store.queries import AsyncQueries, Queries
from pipeline.store.session import GRACE_SECONDS, POOL, Deaf, arguments_of, listening, patience_of, prepare_session

__all__ = ["AsyncSessions", "PatientAsyncConnection"]

R = TypeVar("R")

_LOOK_SECONDS: Final = 0.1
"""How often a connection that waits looks up; psycopg's own default."""


class PatientAsyncConnection(psycopg.AsyncConnection[Any]):
    """`pipeline.store.session.PatientConnection` for an event loop. A task that is cancelled waits for nothing more."""

    patience_seconds: float = GRACE_SECONDS

    async def wait(
        self,
        gen: PQGen[R],
        interval: float = _LOOK_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109  # psycopg has it
    ) -> R:
        """See `psycopg.AsyncConnection.wait`; raises OperationalError if nothing comes for ``patience_seconds``.

        Cancelled, psycopg would ask the server to stop the statement, and wait for up to ten seconds until it has.
        The server finds out by itself that nobody is there any more: `pipeline.store.session.prepare_session`.
        """
        try:
            patient = listening(gen, self.patience_seconds)
            return await wait_async(patient, self.pgconn.socket, interval=interval, timeout=timeout)
        except (Deaf, asyncio.CancelledError):
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
        self._home = Home()
        self._pool: AsyncConnectionPool[PatientAsyncConnection] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._doubtful = True  # no connection was made yet, or the last attempt to get one failed

    @asynccontextmanager
    async def queries(self) -> AsyncIterator[Queries]:
        """Lend a connection; wait at most ten seconds for one, and as long again to see that nobody answers."""
        self._home.enter()
        if self._doubtful:
            await self._probe()
        pool = self._pool or await self._open()
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pool.connection())
            except PoolTimeout:
                await self._probe()
                raise  # the server is well: all connections are in use
            yield AsyncQueries(connection)

    async def _probe(self) -> None:
        """Connect without the pool: it waits its full time for a server that is away, and does not say why.

        Once for all who want to know: a thousand tasks would be a thousand connections.
        """
        if self._probing is None or self._probing.done():
            self._doubtful = True
            self._probing = asyncio.create_task(self._connect())
            self._probing.add_done_callback(_seen)
        await asyncio.shield(self._probing)

    async def _connect(self) -> None:
        await (await psycopg.AsyncConnection.connect(self._url, **self._arguments)).close()
        self._doubtful = False

    async def _configure(self, connection: PatientAsyncConnection) -> None:
        await prepare_session(AsyncQueries(connection))
        connection.patience_seconds = self._patience_seconds

    async def _open(self) -> AsyncConnectionPool[PatientAsyncConnection]:
        self._pool = pool = AsyncConnectionPool(
            self._url,
            connection_class=PatientAsyncConnection,
            kwargs=self._arguments,
            check=_check,
            configure=self._configure,
            open=False,
            **POOL,
        )
        await pool.open()
        return pool

    async def close(self) -> None:
        """Close the connections; the next use opens new ones. Raises RuntimeError in another event loop."""
        self._home.leave()
        pool, self._pool = self._pool, None
        probing, self._probing = self._probing, None
        self._doubtful = True
        if probing is not None:
            probing.cancel()
            await asyncio.wait([probing])
        if pool is not None:
            await pool.close()


def _seen(probing: asyncio.Task[None]) -> None:
    """Whoever asked may be gone; then asyncio would complain that nobody has looked at the error."""
    if not probing.cancelled():
        probing.exception()
