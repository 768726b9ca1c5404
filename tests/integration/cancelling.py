"""Cancels a coroutine wherever it waits, one place after the other."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any

__all__ = ["everywhere"]


async def everywhere(make: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Start what ``make`` makes again and again, and cancel it where it waits for the first time, the second, ….

    Ends when it was not cancelled, as it did not wait so often; how often it was.
    """
    places = 0
    while True:
        try:
            await asyncio.create_task(_cancelled_at(places, make()))
        except asyncio.CancelledError:
            places += 1
        else:
            return places


async def _cancelled_at(place: int, work: Coroutine[Any, Any, object]) -> None:
    await _driven(place, work)


@coroutine
def _driven(place: int, work: Coroutine[Any, Any, object]) -> Generator[Any, Any, None]:
    task = asyncio.current_task()
    assert task is not None
    go_on: Callable[[], Any] = partial(work.send, None)
    count = 0
    while True:
        try:
            waits_for = go_on()
        except StopIteration:
            return
        if count == place:
            task.cancel()
        count += 1
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001  # it is for the coroutine
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, None)
