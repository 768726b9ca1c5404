"""What is sent to Redis, made ready ahead: Python and Redis work at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Supply"]

S = TypeVar("S")
T = TypeVar("T")


class Supply(Generic[S, T]):
    """Items made ready, some at a time, and some ahead: that is done while Redis works on those before."""

    def __init__(self, items: Iterable[S], size: int, make_ready: Callable[[Sequence[S]], T]) -> None:
        self._items = iter(items)
        self._size = size
        self._make_ready = make_ready
        self._next: tuple[T | None, Exception | None] | None = None
        self.taken = 0
        """How many were taken from the items."""

    def prepare(self) -> None:
        """Make the next ones ready, unless that is done. An error is kept until they are taken."""
        if self._next is None:
            try:
                some = list(islice(self._items, self._size))
                self.taken += len(some)
                self._next = self._make_ready(some) if some else None, None
            except Exception as error:  # noqa: BLE001 - of the caller's iterator, too
                self._next = None, error

    def take(self) -> T | None:
        """The next ones, ``None`` at the end; raises what `prepare` came upon."""
        self.prepare()
        ready, error = self._next or (None, None)
        self._next = None
        if error is not None:
            raise error
        return ready
