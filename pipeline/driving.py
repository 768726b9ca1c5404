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
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["Home", "Sleep", "aside", "blocking_sleep", "each", "run"]

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


def each(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """What an asynchronous generator gives that does all its input and output blockingly."""
    try:
        while True:
            try:
                item = run(_following(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())


async def _following(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


def aside(work: Callable[[], T], seconds: float) -> T | None:
    """What ``work`` returns or raises, done in a thread of its own; ``None`` if that takes longer than ``seconds``.

    Then it goes on by itself, and nobody hears how it ends.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=do, name="pipeline-aside")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return results[0] if results else None


async def blocking_sleep(seconds: float) -> None:
    """Sleep in this thread, as a coroutine for `run`."""
    time.sleep(seconds)  # noqa: ASYNC251  # that is what it is for


class Home:
    """The event loop that something lives in, from its first use until it is closed. A socket waits in one only."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> None:
        """Raises RuntimeError in another loop than the first time, since there it would wait for ever."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("an AsyncPipeline belongs to the event loop that has used it first, until it is closed")

    def leave(self) -> None:
        """From now on it may be another one; raises as `enter`."""
        self.enter()
        self._loop = None
