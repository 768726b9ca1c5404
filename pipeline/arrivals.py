"""What arrives from Celery clients: messages of the ingress queue that are taken in bulk, and how they leave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pipeline.core.claim import Busy

__all__ = ["ArrivalQueue", "Arrivals", "Depth", "Nothing"]


class Arrivals(msgspec.Struct, frozen=True):
    """Messages that are frozen together under an id, oldest first; behind others of that id that were ``dropped``.

    ``source`` is the shard for whose room they have waited; ``None``: they come from the ingress queue itself.
    ``waiting`` are the shards for which older messages wait. ``suspect``: this is a single message, and those who took
    it before, alone or with others, were not heard of again. ``life`` is that of the server when they were taken; in
    another one it may have forgotten what became of them since. ``""``: it does not say.
    """

    batch: str
    dropped: int
    source: int | None
    waiting: frozenset[int]
    suspect: bool
    life: str
    messages: Sequence[bytes]


class Nothing(msgspec.Struct, frozen=True):
    """Nothing is there that could be taken. ``waiting`` are the shards for whose room messages wait."""

    waiting: frozenset[int]


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages of Celery clients are not in a shard yet.

    They are ``queued`` in the ingress queue, ``taken`` from it in bulk and have not found their place, ``waiting`` for
    room in their shards, or left ``for_celery``.
    """

    queued: int
    taken: int
    waiting: int
    for_celery: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.queued + self.taken + self.waiting + self.for_celery


class ArrivalQueue(Protocol):
    """The ingress queue, in bulk. Every method is one atomic step; all raise `pipeline.errors.BufferUnavailable`."""

    async def take(self, owner: str, shard: int | None = None) -> Arrivals | Nothing | Busy:
        """What is frozen; or else freeze the oldest messages. ``owner`` gets the lease.

        They come from the ingress queue, or from those that wait for room in ``shard``: as many as have room there.
        """
        ...

    async def settle(
        self, arrivals: Arrivals, for_celery: Sequence[bytes], waiting: Mapping[int, Sequence[bytes]]
    ) -> bool:
        """Drop ``arrivals``; of them, messages ``for_celery`` go to its workers, those ``waiting`` wait for a shard.

        ``False``: nothing was done, since somebody else was here meanwhile, or the server has another life than that of
        ``arrivals`` and may have forgotten where they were put. Who takes them next repeats it.
        """
        ...

    async def leave(self, owner: str) -> None:
        """Give up the lease."""
        ...
