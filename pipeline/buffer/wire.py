"""Lines to Redis: one connection for the time of an ``async with``, whose answers are taken one by one.

There are blocking lines, for `pipeline.driving.run`, and awaiting ones, for an event loop
(`pipeline.buffer.async_wire`). All that they differ in is how bytes go and come.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol, Self

from redis.exceptions import NoScriptError, RedisError, ResponseError

from pipeline.buffer.connection import connect, life_of, packed
from pipeline.config import Config
from pipeline.ports import nothing

__all__ = ["BlockingWire", "Call", "Command", "Line", "Source", "Wire", "sound", "source"]

Command = tuple[Any, ...] | bytes
"""Its words, or it is packed already."""

Call = tuple[Sequence[str], Sequence[Any]]
"""The keys and the arguments of a script."""


class Source:
    """A script, and what it is called by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        """The command that calls it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    @property
    def load(self) -> Command:
        """The command that makes it known."""
        return ("SCRIPT", "LOAD", self.text)


def source(name: str) -> Source:
    """The script ``lua/<name>.lua``."""
    return Source((files("pipeline.buffer") / "lua" / f"{name}.lua").read_text("utf-8"))


class Line(ABC):
    """One connection. What is still owed at the end closes it, so that nobody else gets our answers."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._connection: Any = None
        self._owed = 0
        self.broken: str | None = None
        """Why nothing more can be learned over this line, ``None`` as long as something can."""

    @property
    def life(self) -> str:
        """See `pipeline.buffer.connection.life_of`."""
        return life_of(self._connection)

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(self, *_: object) -> None: ...

    @abstractmethod
    async def _write(self, commands: Sequence[Command]) -> None: ...

    @abstractmethod
    async def _read(self, seconds: float) -> Any: ...

    @abstractmethod
    async def _drop(self) -> None: ...

    async def drop(self) -> None:
        """Forget what is owed; the next `post` connects anew."""
        await self._drop()
        self._owed = 0

    async def post(self, commands: Sequence[Command]) -> None:
        """Send ``commands`` in one go; raises `RedisError`."""
        self._owed += len(commands)  # before it is true: an interrupt may come at any instruction
        try:
            await self._write(commands)
        except RedisError as error:
            self.broken = str(error)
            raise

    async def reply(self, seconds: float = 0) -> Any:
        """The next answer, an error of Redis as a value; ``seconds`` longer than usual. Raises `RedisError`."""
        try:
            reply = await self._read(self._patience + seconds)
        except ResponseError as error:
            reply = error
        except RedisError as error:
            self.broken = str(error)
            raise
        self._owed -= 1
        return reply

    async def send(self, commands: Sequence[Command], meanwhile: Callable[[], object] = nothing) -> list[Any]:
        """The answers to ``commands``, errors of Redis among them as values; raises `RedisError`.

        ``meanwhile`` is called when they are on their way.
        """
        await self.post(commands)
        meanwhile()
        return [await self.reply() for _ in commands]

    def call(
        self, script: Source, calls: Sequence[Call], meanwhile: Callable[[], object] = nothing
    ) -> Awaitable[list[Any]]:
        """The answers of ``script`` to ``calls``, errors among them as values; in one round trip if Redis knows it.

        ``meanwhile`` as in `send`.
        """
        return self.run(script, [script.command(keys, args) for keys, args in calls], meanwhile)

    async def run(
        self, script: Source, commands: Sequence[Command], meanwhile: Callable[[], object] = nothing
    ) -> list[Any]:
        """`call`, where ``commands`` are its calls."""
        replies = await self.send(commands, meanwhile)
        # Redis lost its scripts: these calls, and only these, did not run
        if missed := [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            _, *again = await self.send([script.load, *(commands[number] for number in missed)])
            for number, reply in zip(missed, again, strict=True):
                replies[number] = reply
        return replies


def sound(replies: list[Any]) -> list[Any]:
    """``replies``, or the first error among them is raised."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


class Wire(Protocol):
    """Where lines come from."""

    def line(self, *, lasting: bool = False) -> Line:
        """A line, to be used in an ``async with``; entering it raises `RedisError`.

        ``lasting``: it is kept for longer than a few round trips.
        """
        ...

    async def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        ...


class _BlockingLine(Line):
    def __init__(self, wire: BlockingWire, patience_seconds: float) -> None:
        super().__init__(patience_seconds)
        self._wire = wire
        self._idle: list[Any] = []

    async def __aenter__(self) -> Self:
        self._connection, self._idle = self._wire.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._wire.give_back(self._connection, self._idle, owed=self._owed)

    async def _write(self, commands: Sequence[Command]) -> None:
        self._connection.send_packed_command([packed(commands)])

    async def _read(self, seconds: float) -> Any:
        if seconds == self._patience:  # which is the socket's own: else it is set and set back, two system calls
            return self._connection.read_response()
        return self._connection.read_response(timeout=seconds)

    async def _drop(self) -> None:
        self._connection.disconnect()


class BlockingWire:
    """`Wire` for threads: each has its own connection while it uses one. Safe across threads and forks.

    redis-py's pool does the same, for six microseconds more.
    """

    def __init__(self, config: Config) -> None:
        pool = connect(config, lives=True).connection_pool
        # the pool's own method counts every connection that was ever made, and refuses at the most that it may hold
        self._make: Any = lambda: pool.connection_class(**pool.connection_kwargs)
        self._patience = config.redis_timeout_seconds
        self._open()

    def _open(self) -> None:
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def line(self, *, lasting: bool = False) -> Line:
        """See `Wire.line`."""
        del lasting  # every thread has its own anyway
        return _BlockingLine(self, self._patience)

    def take(self) -> tuple[Any, list[Any]]:
        """A connection, and where it came from."""
        if self._pid != os.getpid():
            self._open()  # inherited connections belong to the parent; nothing is sent over them
        idle = self._idle
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                break
            try:
                if not connection.can_read():  # else an answer that nobody waits for
                    return connection, idle
            except RedisError:  # the end: the server has closed it
                pass
            connection.disconnect()
        connection = self._make()
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection, idle

    def give_back(self, connection: Any, idle: list[Any], *, owed: int) -> None:
        """Keep a connection for the next one, if it is of use."""
        if owed or idle is not self._idle or self._pid != os.getpid():
            connection.disconnect()
        else:
            idle.append(connection)

    async def close(self) -> None:
        """See `Wire.close`."""
        idle = self._idle
        self._open()
        for connection in idle:
            connection.disconnect()
