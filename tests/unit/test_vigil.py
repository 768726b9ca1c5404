"""One of those who wait looks; when it ends, another one does, and is told to."""

import asyncio
import threading
from typing import Any

import pytest

from pipeline.driving import run
from pipeline.vigil import AsyncBell, Bell, BlockingBell, Vigil, Watch


class Doorbell:
    """A bell that is heard only when it is rung: no time ends the wait."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def heard(self, seconds: float) -> None:  # noqa: ARG002
        await self._rung.wait()
        self._rung.clear()

    def ring(self) -> None:
        self._rung.set()


class Visitors:
    """A book that notes what it is told; whoever is in ``come`` at a look has what he waits for."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.inside: set[Watch] = set()
        self.come: set[Watch] = set()
        self.looks = 0
        self.error: Exception | None = None

    def enter(self, watch: Watch) -> None:
        assert self.lock.locked()
        self.inside.add(watch)

    def leave(self, watch: Watch) -> None:
        assert self.lock.locked()
        self.inside.remove(watch)

    async def look(self) -> bool:
        assert not self.lock.locked()
        self.looks += 1
        if self.error is not None:
            raise self.error
        for watch in self.come & self.inside:
            watch.settled = True
            watch.bell.ring()
        return False


class House:
    """A vigil whose clock does not tick, and its one book."""

    def __init__(self) -> None:
        self.books: list[Visitors] = []
        self.now = 0.0
        self.vigil = Vigil[Watch, Visitors](self._make, lambda: self.now)

    def _make(self, lock: threading.Lock) -> Visitors:
        self.books.append(Visitors(lock))
        return self.books[-1]

    @property
    def book(self) -> Visitors:
        (book,) = self.books
        return book


async def settle_down() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def two_inside(house: House) -> tuple[list[Watch], list[asyncio.Task[Any]]]:
    watches = [Watch(Doorbell()) for _ in range(2)]
    tasks = []
    for watch in watches:
        tasks.append(asyncio.create_task(house.vigil.keep(watch, 100)))
        await settle_down()
    assert house.book.looks == 1  # the first one's
    return watches, tasks


def test_when_the_one_who_looks_is_cancelled_another_one_looks() -> None:
    async def live() -> None:
        house = House()
        (_, second), tasks = await two_inside(house)
        tasks[0].cancel()
        house.book.come.add(second)
        house.now += 1
        assert await asyncio.wait_for(tasks[1], 20) is None
        assert house.book.inside == set()

    asyncio.run(live())


def test_when_the_one_who_looks_has_what_he_came_for_another_one_looks() -> None:
    async def live() -> None:
        house = House()
        (first, second), tasks = await two_inside(house)
        house.book.come |= {first, second}
        house.book.inside.discard(second)  # not yet
        house.now += 1
        first.bell.ring()
        assert await asyncio.wait_for(tasks[0], 20) is None
        house.book.inside.add(second)
        house.now += 1
        second.bell.ring()
        assert await asyncio.wait_for(tasks[1], 20) is None
        assert house.book.looks == 3

    asyncio.run(live())


def test_what_a_look_raises_ends_one_wait_at_a_time() -> None:
    async def live() -> None:
        house = House()
        watches, tasks = await two_inside(house)
        house.book.error = ValueError("refused")
        house.now += 1
        watches[0].bell.ring()
        with pytest.raises(ValueError, match="refused"):
            await asyncio.wait_for(tasks[0], 20)
        house.now += 1
        await settle_down()
        watches[1].bell.ring()
        with pytest.raises(ValueError, match="refused"):
            await asyncio.wait_for(tasks[1], 20)

    asyncio.run(live())


def test_one_who_looks_and_is_not_heard_of_is_followed_by_another_one() -> None:
    async def live() -> None:
        house = House()
        (_, second), tasks = await two_inside(house)
        house.book.come.add(second)
        house.now += 4
        second.bell.ring()
        await settle_down()
        assert house.book.looks == 1
        house.now += 2
        second.bell.ring()
        assert await asyncio.wait_for(tasks[1], 20) is None
        tasks[0].cancel()

    asyncio.run(live())


def test_whose_time_is_over_gets_the_book_to_say_why() -> None:
    async def live() -> None:
        house = House()
        (_, second), tasks = await two_inside(house)
        house.now += 101
        second.bell.ring()
        assert await asyncio.wait_for(tasks[1], 20) is house.book
        tasks[0].cancel()

    asyncio.run(live())


@pytest.mark.parametrize("kind", [BlockingBell, AsyncBell])
def test_a_ring_before_anybody_listens_is_heard_once(kind: type[Bell]) -> None:
    async def live() -> None:
        bell = kind()
        bell.ring()
        await bell.heard(100)
        await bell.heard(0.001)

    if kind is BlockingBell:
        run(live())
    else:
        asyncio.run(live())
