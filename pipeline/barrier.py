"""Wait until everything is written that was accepted before.

Redis numbers the events of a shard as it accepts them, and says up to which number they are settled. What was set aside
counts as settled there, since its turn is over; so that is looked for, too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pipeline.core.change import canonical_table
from pipeline.core.codec import Malformed, decode
from pipeline.errors import BufferUnavailable, StillPending
from pipeline.progress import Lanes, Standing
from pipeline.vigil import Bell, Vigil, Watch

__all__ = ["Barrier", "Tell"]

Tell = Callable[[int], object]
"""Is told how many events are still waited for."""

_SEARCH_AGAIN: Final = 10
"""To search what is set aside takes at most one part in so many of the time."""

_SEARCH_SECONDS: Final = 0.5
"""… and is not done again sooner than that."""


class _BarrierWatch(Watch):
    """Somebody who waits until each shard has settled its events up to a number."""

    def __init__(self, marks: Mapping[int, int], table: str | None, tell: Tell | None, bell: Bell) -> None:
        super().__init__(bell)
        self.marks = dict(marks)
        self.table = table
        self.tell = tell
        self.search_at: dict[int, float] = {}
        self.error: BufferUnavailable | None = None


class _BarrierBook:
    """`pipeline.vigil.Book` of barriers."""

    def __init__(self, lock: threading.Lock, lanes: Lanes, task: str, clock: Callable[[], float]) -> None:
        self._lock = lock
        self._lanes = lanes
        self._task = task
        self._clock = clock
        self._watches: set[_BarrierWatch] = set()
        self._accepted: dict[int, int] = {}
        self.standings: Mapping[int, Standing] = {}
        self.trouble: str | None = None

    def enter(self, watch: _BarrierWatch) -> None:
        """See `Book.enter`."""
        self._watches.add(watch)

    def leave(self, watch: _BarrierWatch) -> None:
        """See `Book.leave`."""
        self._watches.discard(watch)

    async def look(self) -> bool:
        """See `Book.look`."""
        with self._lock:
            watches = list(self._watches)
        try:
            self.standings = await self._lanes.standings(sorted({shard for watch in watches for shard in watch.marks}))
            news = [await self._advance(watch) for watch in watches]
            self.trouble = None
        except BufferUnavailable as error:
            self.trouble = str(error)
            return False
        return any(news)

    async def _advance(self, watch: _BarrierWatch) -> bool:
        """Let ``watch`` forget the shards that are done; whether there were any."""
        done = []
        for shard, mark in list(watch.marks.items()):
            standing = self.standings.get(shard)
            if standing is None:
                continue
            if standing.accepted < mark:
                watch.error = BufferUnavailable(
                    f"Redis has gone back in time: shard {shard} had accepted {mark} events, and now "
                    f"{standing.accepted}; some may be forgotten"
                )
                watch.marks.clear()
                break
            if _passed(standing, mark) and not await self._holds(watch, shard, mark, standing):
                done.append(shard)
        for shard in done:
            watch.marks.pop(shard, None)
        if watch.tell is not None:
            watch.tell(sum(_left(self.standings.get(shard), mark) for shard, mark in watch.marks.items()))
        if not watch.marks:
            watch.settled = True
            watch.bell.ring()
        return bool(done)

    async def _holds(self, watch: _BarrierWatch, shard: int, mark: int, standing: Standing) -> bool:
        """Whether events up to ``mark`` are set aside, of the table if one was asked for."""
        if standing.aside is None or standing.aside > mark:
            return False
        if watch.table is None:
            return True
        began = self._clock()
        if began < watch.search_at.get(shard, began):
            return True
        found = await self._search(watch.table, shard, mark)
        (after,) = (await self._lanes.standings([shard])).values()
        took = self._clock() - began
        watch.search_at[shard] = self._clock() + max(_SEARCH_SECONDS, _SEARCH_AGAIN * took)
        return found or after.aside != standing.aside  # something has moved meanwhile, maybe past us

    async def _search(self, table: str, shard: int, mark: int) -> bool:
        """Whether an event of ``table`` up to ``mark`` is set aside in ``shard``."""
        start = 0
        while True:
            page = await self._lanes.aside(shard, start)
            for message in page.messages:
                event = decode(message, self._task)
                touches = isinstance(event, Malformed) or any(change.table == table for change in event.changes)
                if touches and (event.seq is None or event.seq <= mark):
                    return True
            if not page.more:
                return False
            start += len(page.messages)


def _left(standing: Standing | None, mark: int) -> int:
    return 0 if standing is None or standing.settled is None else max(0, mark - standing.settled)


def _passed(standing: Standing, mark: int) -> bool:
    return standing.idle if standing.settled is None else standing.settled >= mark


class Barrier:
    """Waits until what was accepted before is committed or dead, for all who do so in a process together."""

    def __init__(
        self, lanes: Lanes, task: str, shards: int, clock: Callable[[], float], bell: Callable[[], Bell]
    ) -> None:
        """``task`` is the name of the task of an event; the others are those of `pipeline.waiting.Waiting`."""
        self._lanes = lanes
        self._task = task
        self._shards = shards
        self._clock = clock
        self._bell = bell
        self._vigil = Vigil[_BarrierWatch, _BarrierBook](self._book, clock)

    async def wait(
        self,
        table: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        tell: Tell | None = None,
    ) -> None:
        """See `pipeline.wiring.Pipeline.barrier`."""
        name = None if table is None else canonical_table(table)
        standings = await self._lanes.standings(range(self._shards))
        marks = {
            shard: one.accepted
            for shard, one in standings.items()
            if one.aside is not None or not _passed(one, one.accepted)
        }
        if not marks:
            return
        watch = _BarrierWatch(marks, name, tell, self._bell())
        began = self._clock()
        book: _BarrierBook | None = None
        if timeout is None or timeout > 0:
            book = await self._vigil.keep(watch, math.inf if timeout is None else timeout)
        else:
            book = self._book(threading.Lock())
            book.enter(watch)
            await book.look()
        left = dict(watch.marks)
        if watch.error is not None:
            raise watch.error
        if book is not None and left:
            problem = "; ".join(_why(left, {**standings, **book.standings}))
            if book.trouble is not None:
                problem = f"Redis could not be asked: {book.trouble}"
            raise StillPending(round(self._clock() - began, 3), len(left), self._shards, problem, "shard(s)")

    def _book(self, lock: threading.Lock) -> _BarrierBook:
        return _BarrierBook(lock, self._lanes, self._task, self._clock)


def _why(marks: Mapping[int, int], standings: Mapping[int, Standing]) -> Iterable[str]:
    for shard, mark in sorted(marks.items()):
        standing = standings[shard]
        if standing.paused and _passed(standing, mark):
            yield f"shard {shard}: events are set aside, since these are paused: {', '.join(standing.paused)}"
        elif standing.settled is None:
            yield f"shard {shard}: events up to {mark} were accepted"
        elif standing.settled < mark:
            missing = ", and none of them is in its queue: does a worker consume it?" if standing.idle else ""
            yield f"shard {shard}: events {standing.settled + 1} to {mark} are not written{missing}"
        else:
            yield f"shard {shard}: events that were set aside are on their way back"
