"""One of those who wait looks for all of them: the load on the servers does not grow with their number.

Whoever comes while nobody looks, looks; the others sleep until their bell rings. When the one who looks has what he
came for, gives up, or is interrupted, he rings for another one. So there is no thread and no task of our own that would
have to be started, stopped, or carried over a fork, and nobody looks when nobody waits. The same code serves threads
and event loops: what suspends is a `Bell`.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["AsyncBell", "Bell", "BlockingBell", "Book", "Vigil", "Watch"]

SHORTEST_SECONDS: Final = 0.005
"""From one look to the next, when something has just happened."""

LONGEST_SECONDS: Final = 0.1
"""… when nothing has happened for a third of a second."""

_GROWTH: Final = 1.5

_DOUBT_SECONDS: Final = 5.0
"""One who looks and is not heard of for so long hangs (another one may have more luck) or was interrupted twice."""


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
        self._rung.wait(seconds)  # for `pipeline.driving.run`
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


class Watch:
    """Somebody who waits. ``settled``: what he waits for has come."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.settled = False


W = TypeVar("W", bound=Watch)
B = TypeVar("B", bound="Book[Any]")
W_contra = TypeVar("W_contra", bound=Watch, contravariant=True)


class Book(Protocol[W_contra]):
    """Who waits for what."""

    def enter(self, watch: W_contra) -> None:
        """Somebody begins to wait; called under the lock."""
        ...

    def leave(self, watch: W_contra) -> None:
        """Somebody does not wait any more; called under the lock, for each that has entered."""
        ...

    async def look(self) -> bool:
        """Look for all, and settle and wake those whose wait is over. Whether it is worth while to look again soon.

        Called without the lock, by one at a time except when that one seems to hang. What it raises ends the wait of
        the one who looks.
        """
        ...


class _Room(Generic[W, B]):
    """Those who wait in one process."""

    def __init__(self, make_book: Callable[[threading.Lock], B]) -> None:
        self.lock = threading.Lock()
        self.book = make_book(self.lock)
        self.watches: dict[W, None] = {}
        self.leader: W | None = None
        self.heard_of = -math.inf  # the leader
        self.looked = -math.inf
        self.pause = SHORTEST_SECONDS


class Vigil(Generic[W, B]):
    """Waits for things that somebody must look for. Safe across threads and forks, and against interrupts."""

    def __init__(self, make_book: Callable[[threading.Lock], B], clock: Callable[[], float]) -> None:
        """``make_book`` gets the lock that guards it; ``clock`` counts seconds monotonically."""
        self._make_book = make_book
        self._clock = clock
        self._rooms: dict[int, _Room[W, B]] = {}

    async def keep(self, watch: W, seconds: float) -> B | None:
        """Wait until ``watch`` is settled; if that takes longer than ``seconds``, the book, to say why."""
        pid = os.getpid()  # a child has none of its parent's threads, and must not wait for their locks
        room = self._rooms.get(pid) or self._rooms.setdefault(pid, _Room(self._make_book))
        until = self._clock() + seconds
        try:
            with room.lock:
                room.watches[watch] = None
                room.book.enter(watch)
                room.pause = SHORTEST_SECONDS
                leader = room.leader
            if leader is not None:
                leader.bell.ring()
            while not watch.settled and (left := until - self._clock()) > 0:
                if self._leads(room, watch):
                    await self._look(room, watch, left)
                else:
                    await watch.bell.heard(min(left, _DOUBT_SECONDS))
            return None if watch.settled else room.book
        finally:
            self._leave(room, watch)

    def _leads(self, room: _Room[W, B], watch: W) -> bool:
        now = self._clock()
        with room.lock:
            if room.leader is not watch and room.leader is not None and now - room.heard_of < _DOUBT_SECONDS:
                return False
            room.leader = watch
            room.heard_of = now
            return True

    async def _look(self, room: _Room[W, B], watch: W, left: float) -> None:
        """Look now, or sleep if that was done just now. Who is alone need not wait for his first look."""
        alone = len(room.watches) == 1 and room.pause == SHORTEST_SECONDS
        early = room.looked + (0 if alone else room.pause) - self._clock()
        if early > 0:
            await watch.bell.heard(min(early, left))
            return
        room.pause = min(room.pause * _GROWTH, LONGEST_SECONDS)
        if await room.book.look():
            room.pause = SHORTEST_SECONDS
        room.looked = self._clock()

    @staticmethod
    def _leave(room: _Room[W, B], watch: W) -> None:
        with room.lock:
            if room.watches.pop(watch, watch) is None:
                room.book.leave(watch)
            if room.leader is watch:
                room.leader = None
            heir = None if room.leader is not None else next(reversed(room.watches), None)
        if heir is not None:
            heir.bell.ring()
