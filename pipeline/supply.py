"""What is sent to Redis, prepared a chunk ahead: Python and Redis work at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

__all__ = ["Supply"]

T = TypeVar("T")
U = TypeVar("U")


class Supply(Generic[T, U]):
    """What is made of items, a chunk at a time, and one chunk ahead: while Redis works on another."""

    def __init__(self, items: Iterable[T], size: int, make: Callable[[Sequence[T]], list[U]]) -> None:
        self._items = iter(items)
        self._size = size
        self._make = make
        self._next: list[U] | Exception | None = None
        self.taken = 0
        """How many of the items were taken."""

    def prepare(self) -> None:
        """Make the next chunk, unless that is done. An error is kept until the chunk is taken."""
        if self._next is None:
            try:
                chunk = list(islice(self._items, self._size))
                self.taken += len(chunk)
                self._next = self._make(chunk)
            except Exception as error:  # noqa: BLE001 - of the caller's iterator, too
                self._next = error

    def take(self) -> list[U]:
        """The next chunk, empty at the end; raises what `prepare` came upon."""
        self.prepare()
        chunk, self._next = self._next, None
        if isinstance(chunk, Exception):
            raise chunk
        return chunk or []
