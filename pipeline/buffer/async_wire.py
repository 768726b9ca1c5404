"""Lines to Redis for an event loop.

redis-py's connections are used, and not its pool: that one takes a lock to give a connection back, so a cancelled task
may never do it; it keeps as many connections as there ever were tasks; and it lends what the server has closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from redis.exceptions import TimeoutError as RedisTimeoutError

from pipeline.buffer.connection import connect_async, packed
from pipeline.buffer.wire import Command, Line
from pipeline.config import Config
from pipeline.driving import Home

__all__ = ["AsyncWire"]

_AT_ONCE: Final = 64
"""Lines that do not last, at most: one thread keeps no more busy, and to connect costs more than to wait for one."""


class AsyncWire:
    """`pipeline.buffer.wire.Wire` for one event loop."""

    def __init__(self, config: Config) -> None:
        self._make: Any = connect_async(config).connection_pool.make_connection
        self._patience = config.redis_timeout_seconds
        self._home = Home()
        self._open()

    def _open(self) -> None:
        self._idle: list[Any] = []
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def line(self, *, lasting: bool = False) -> Line:
        """See `pipeline.buffer.wire.Wire.line`."""
        return _AsyncLine(self, self._patience, lasting=lasting)

    async def turn(self) -> asyncio.Semaphore:
        """Wait until a line may be opened that does not last; what to release after it."""
        self._home.enter()
        turns = self._turns
        if not turns.locked():
            await turns.acquire()  # at once
        else:
            async with _Patiently(self._patience, f"{_AT_ONCE} connections to Redis are busy"):
                await turns.acquire()
        return turns

    async def take(self) -> tuple[Any, list[Any]]:
        """A connection, and where it came from."""
        self._home.enter()
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not await connection.can_read():  # an answer that nobody waits for, or the end
                return connection, idle
            await connection.disconnect(nowait=True)
        connection = self._make()
        try:
            async with _Patiently(self._patience, "no connection to Redis"):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection, idle

    async def give_back(self, connection: Any, idle: list[Any], *, owed: int) -> None:
        """Keep a connection for the next one, if it is of use; never suspends, so it cannot be cancelled."""
        if owed or idle is not self._idle or len(idle) >= _AT_ONCE or not connection.is_connected:
            await connection.disconnect(nowait=True)
        else:
            idle.append(connection)

    async def close(self) -> None:
        """See `pipeline.buffer.wire.Wire.close`; raises RuntimeError in another event loop."""
        self._home.leave()
        idle = self._idle
        self._open()
        for connection in idle:
            await connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # in which the sockets are closed


class _AsyncLine(Line):
    def __init__(self, wire: AsyncWire, patience_seconds: float, *, lasting: bool) -> None:
        super().__init__(patience_seconds)
        self._wire = wire
        self._lasting = lasting
        self._turn: asyncio.Semaphore | None = None
        self._idle: list[Any] = []

    async def __aenter__(self) -> Self:
        if not self._lasting:
            self._turn = await self._wire.turn()
        try:
            self._connection, self._idle = await self._wire.take()
        except BaseException:
            self._end_turn()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end_turn()
        await self._wire.give_back(self._connection, self._idle, owed=self._owed)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()

    async def _write(self, commands: Sequence[Command]) -> None:
        async with _Patiently(self._patience, "Redis takes nothing"):
            await self._connection.send_packed_command(packed(commands))

    async def _read(self, seconds: float) -> Any:
        async with _Patiently(seconds, "Redis says nothing"):
            return await self._connection.read_response()

    async def _drop(self) -> None:
        await self._connection.disconnect(nowait=True)


class _Patiently:
    """`asyncio.timeout`, whose end is an error of redis-py."""

    __slots__ = ("_limit", "_problem", "_seconds")

    def __init__(self, seconds: float, problem: str) -> None:
        self._limit = asyncio.timeout(seconds)
        self._seconds = seconds
        self._problem = problem

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise RedisTimeoutError(f"{self._problem} for {self._seconds:g} s") from None
