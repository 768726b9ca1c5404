"""Run coroutines without an event loop.

What an application calls (writes, reads, waiting) is written once, as coroutines over a little input and output: a line
to Redis, queries to PostgreSQL, a sleep. With the blocking ones nothing in a coroutine ever suspends, so `run` takes it
from its beginning to its end at once; with the awaiting ones an event loop does. psycopg has the same split, by
generators; that coroutines do as well was seen in the client of EdgeDB. See decision 0013.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

__all__ = ["AsyncBell", "Bell", "BlockingBell", "Sleep", "blocking_sleep", "run"]

Sleep = Callable[[float], Awaitable[object]]
"""Sleeps for so many seconds, blockingly or not."""

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does all its input and output blockingly; what it raises is raised here."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine that was to block has suspended: it awaits something of an event loop")


async def blocking_sleep(seconds: float) -> None:
    """Sleep in this thread, as a coroutine for `run`."""
    time.sleep(seconds)  # noqa: ASYNC251  # that is what it is for


class Bell(Protocol):
    """Wakes one who waits."""

    async def heard(self, seconds: float) -> None:
        """Wait until it rings, or for so long. It is still heard if it rang since the last time."""
        ...

    def ring(self) -> None:
        """Ring."""
        ...


class BlockingBell:
    """`Bell` for a thread; any other may ring it."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    async def heard(self, seconds: float) -> None:
        """See `Bell.heard`."""
        self._rung.wait(seconds)  # for `run`
        self._rung.clear()

    def ring(self) -> None:
        """See `Bell.ring`."""
        self._rung.set()


class AsyncBell:
    """`Bell` for a task; another one of the same event loop may ring it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def heard(self, seconds: float) -> None:
        """See `Bell.heard`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        self._rung.clear()

    def ring(self) -> None:
        """See `Bell.ring`."""
        self._rung.set()
