"""What ``write_many`` sends, encoded a chunk ahead: Python and Redis work at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from pipeline.core.change import Change
from pipeline.core.encoded import Encoded

__all__ = ["Supply"]


class Supply:
    """Encoded changes, a chunk at a time, and one chunk ahead: that one is encoded while Redis works on another."""

    def __init__(
        self, changes: Iterable[Change], size: int, encode: Callable[[Sequence[Change]], list[Encoded]]
    ) -> None:
        self._changes = iter(changes)
        self._size = size
        self._encode = encode
        self._next: list[Encoded] | Exception | None = None
        self.taken = 0
        """How many were taken from ``changes``."""

    def prepare(self) -> None:
        """Encode the next chunk, unless that is done. An error is kept until the chunk is taken."""
        if self._next is None:
            try:
                chunk = list(islice(self._changes, self._size))
                self.taken += len(chunk)
                self._next = self._encode(chunk)
            except Exception as error:  # noqa: BLE001 - of the caller's iterator, too
                self._next = error

    def take(self) -> list[Encoded]:
        """The next chunk, empty at the end; raises what `prepare` came upon."""
        self.prepare()
        chunk, self._next = self._next, None
        if isinstance(chunk, Exception):
            raise chunk
        return chunk or []
