"""What waiting needs from Redis and PostgreSQL, as protocols and plain values. No technology is named here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pipeline.core.outcome import Outcome

__all__ = ["Asked", "Found", "Lanes", "Mark", "Outcomes", "Page", "Seen", "Standing", "Trouble"]


class Trouble(msgspec.Struct, frozen=True):
    """What may keep events of a shard from being applied: the last error of its batch, and its paused tables.

    ``acknowledged`` and ``accepted`` are the numbers of its last batch and of its last event.
    """

    acknowledged: int
    accepted: int
    error: str | None
    paused: Sequence[str]


class Standing(msgspec.Struct, frozen=True):
    """How far a shard has come.

    ``settled``: all events with numbers up to this one were settled, set aside or given up; ``None`` if that is not
    known. ``aside`` is the number of the oldest event that was set aside, also on its way back; ``None``: there is
    none. ``idle``: nothing is pending. ``paused`` are tables and columns.
    """

    accepted: int
    settled: int | None
    aside: int | None
    idle: bool
    paused: Sequence[str]


class Page(msgspec.Struct, frozen=True):
    """Messages that were set aside, oldest first, and whether there are more behind them."""

    messages: Sequence[bytes]
    more: bool


class Lanes(Protocol):
    """The part of waiting that lives in Redis. Nothing is written. Raises `pipeline.errors.BufferUnavailable`."""

    async def acknowledged(self, shards: Sequence[int]) -> dict[int, int]:
        """The number of the last batch that each shard is done with, in one round trip."""
        ...

    async def troubles(self, shards: Sequence[int]) -> dict[int, Trouble]:
        """Why it may take longer, in one round trip."""
        ...

    async def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        """How far each shard has come, each at one moment, in one round trip."""
        ...

    async def aside(self, shard: int, start: int) -> Page:
        """Messages that were set aside, without the first ``start``, at one moment."""
        ...


class Mark(msgspec.Struct, frozen=True):
    """A batch of the ledger. A PostgreSQL that has gone back in time does not know it, or has another one there."""

    seq: int
    batch_id: str


class Asked(msgspec.Struct, frozen=True):
    """Events of a shard that the ledger is asked for: in the batches behind ``start``.

    If it does not know ``mark``, PostgreSQL has gone back in time since, and what was read once is read again: behind
    ``floor``.
    """

    shard: int
    start: int
    event_ids: Sequence[str]
    floor: int = 0
    mark: Mark | None = None


class Found(msgspec.Struct, frozen=True):
    """An event in the ledger, in the batch ``seq``."""

    event_id: str
    seq: int
    outcome: Outcome


class Seen(msgspec.Struct, frozen=True):
    """What the ledger says: the events that were ``found``, oldest batch first, in the batches up to ``last``.

    ``last`` is ``None`` if there was no batch to be read; ``more``: there are batches behind it. Not ``intact``: the
    mark is not known, so the batches behind the floor were read.
    """

    found: Sequence[Found] = ()
    last: Mark | None = None
    more: bool = False
    intact: bool = True


class Outcomes(Protocol):
    """The part of waiting that lives in PostgreSQL. Nothing is written."""

    async def look(self, asked: Sequence[Asked]) -> Mapping[int, Seen]:
        """What the ledger says of each shard, in one statement. Raises a `pipeline.errors.StoreError`."""
        ...
