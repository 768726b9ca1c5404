"""Two ways to have a coroutine of the engine done: blockingly in this thread, or by an event loop in another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

from pipeline.buffer.async_wire import AsyncWire
from pipeline.buffer.wire import BlockingWire, Wire
from pipeline.config import Config
from pipeline.driving import Sleep, blocking_sleep, run

T = TypeVar("T")


class Drive(Protocol):
    """Takes a coroutine to its end; its result, or what it raises."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class Way(NamedTuple):
    """How a test has coroutines done, and with what."""

    drive: Drive
    wire: Callable[[Config], Wire]
    sleep: Sleep


BLOCKING = Way(run, BlockingWire, blocking_sleep)


@contextmanager
def loop_in_a_thread() -> Iterator[Drive]:
    """An event loop that other threads may use. What it has left to do in the end is an error."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    with ThreadPoolExecutor(1, "event loop") as threads:
        lived = threads.submit(lambda: asyncio.run(live()))
        loop, stop = started.result()

        def drive(coroutine: Coroutine[Any, Any, T], /) -> T:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

        try:
            yield drive
        finally:
            loop.call_soon_threadsafe(stop.set)
        lived.result()


@contextmanager
def awaiting() -> Iterator[Way]:
    """The way of asyncio."""
    with loop_in_a_thread() as drive:
        yield Way(drive, AsyncWire, asyncio.sleep)
