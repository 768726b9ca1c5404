"""What reads and ``write_through`` need from Redis and PostgreSQL: protocols and plain values, without technology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from pipeline.core.cached import Pending
from pipeline.core.change import Change
from pipeline.core.values import Columns

__all__ = [
    "Backlog",
    "Fields",
    "Filling",
    "Found",
    "Glimpse",
    "Missed",
    "Place",
    "Question",
    "RowCache",
    "RowQueue",
    "RowStore",
    "RowSurvey",
    "StaleRow",
    "ThroughStore",
    "Ticket",
    "Turn",
]  # fmt: skip

Row = dict[str, Any]
Fields = Mapping[bytes, bytes]
"""A cached row: column → JSON."""


class StaleRow(dict[str, Any]):
    """A row that was read from PostgreSQL alone: changes that are pending in Redis are not in it."""


class Place(msgspec.Struct, frozen=True):
    """Where a row lives: its table (one spelling), the identity of its key, and its shard."""

    table: str
    identity: str
    shard: int


class Ticket(msgspec.Struct, frozen=True):
    """The right to install a row: as long as nothing is written to it, in the same life of the server."""

    token: str
    life: str


class Filling(msgspec.Struct, frozen=True):
    """Somebody else is fetching the row."""


class Missed(msgspec.Struct, frozen=True):
    """The row is not cached. ``overlay`` are its pending changes, oldest first.

    Those of them that are applied are in batches behind ``seq``, or where the ledger looks after Redis went back in
    time. Without a ``ticket`` the row cannot be installed.
    """

    seq: int
    overlay: Sequence[bytes]
    ticket: Ticket | None = None


class RowCache(Protocol):
    """The part of a read that lives in Redis. Raises `pipeline.errors.BufferUnavailable`."""

    async def get(self, places: Sequence[Place]) -> list[Fields | None]:
        """The cached rows, in one round trip; ``None`` where there is none."""
        ...

    async def look(self, places: Sequence[tuple[Place, bool]]) -> list[Fields | Filling | Missed]:
        """The cached rows or what is pending on them, each at one moment; with ``True`` to be installed if possible."""
        ...

    async def install(self, place: Place, ticket: Ticket, row: Mapping[str, bytes], *, fragile: bool) -> bool:
        """Cache ``row``, unless something was written to it since the ticket was given.

        ``fragile``: an event that is in it may be accepted again under its id.
        """
        ...

    async def decline(self, place: Place, ticket: Ticket, *, seconds: float) -> None:
        """Install nothing; for so long, nobody waits for anybody with this row."""
        ...


class Glimpse(msgspec.Struct, frozen=True):
    """A row in Redis at one moment: what is cached, what is pending on it, and where its shard is.

    ``row`` is ``None`` where a read would find nothing cached. ``content`` is what is there all the same, with its tag.
    ``batch`` is the batch that is frozen, if any; ``seq`` and ``overlay`` are as in `Missed`.
    """

    row: Fields | None
    content: Fields
    seq: int
    batch: str
    overlay: Sequence[bytes]


class RowSurvey(Protocol):
    """All cached rows, to look at. Raises `pipeline.errors.BufferUnavailable`."""

    async def walk(self, cursor: int, table: str | None = None) -> tuple[int, list[Place]]:
        """Some places where rows (of ``table``) are cached, and the cursor for more; it begins and ends with 0.

        Every row that is cached all the time is among them, now and then twice.
        """
        ...

    async def glimpse(self, places: Sequence[Place]) -> list[Glimpse]:
        """Each row at one moment, in one round trip. Nothing is changed."""
        ...

    async def drop(self, contents: Mapping[Place, Fields]) -> list[Place]:
        """Drop what is cached where it is still the same, in one round trip; the places where it was."""
        ...


class Question(msgspec.Struct, frozen=True):
    """A row that PostgreSQL is asked for, and what was pending on it before: see `Missed`.

    ``wanted``: who asks has a ticket, and would install the row.
    """

    place: Place
    key: Columns
    seq: int = 0
    pending: Sequence[Pending] = ()
    wanted: bool = False


class Found(msgspec.Struct, frozen=True):
    """A row with its pending changes, ``None`` if there is none.

    ``installable``: its later states follow from the changes that are accepted, so it may be cached. So nobody had a
    `Turn` on it at a moment between the question and the snapshot that answers it. ``updatable`` are
    the columns of which that is so for the cache itself. ``fragile``: see `RowCache.install`. ``refused``: pending
    changes that PostgreSQL will refuse are left out already.
    """

    row: Row | None
    installable: bool = False
    updatable: frozenset[str] = frozenset()
    fragile: bool = False
    refused: bool = False


class RowStore(Protocol):
    """The part of a read that lives in PostgreSQL."""

    async def read(self, questions: Sequence[Question]) -> list[Found]:
        """The rows, all of one table and with keys of the same columns.

        Each as it was at one moment of the call, with those of its pending changes that were not applied then.

        Raises `InvalidRead`, or a `pipeline.errors.StoreError`.
        """
        ...


# --- write_through
# -----------------------------------------------------------------------------------------------------


class Backlog(msgspec.Struct, frozen=True):
    """The pending changes of a row: how many, and the numbers of the oldest and of the newest (0: there is none)."""

    count: int
    first: int
    last: int


class RowQueue(Protocol):
    """The part of a ``write_through`` that lives in Redis. Raises `pipeline.errors.BufferUnavailable`."""

    async def backlog(self, place: Place) -> Backlog:
        """What is pending for a row."""
        ...

    async def drop(self, place: Place) -> None:
        """Let nothing be cached for a row, and make all tickets for it void."""
        ...


class Turn(Protocol):
    """A transaction that changes one row, and during which nobody caches it.

    Raises `pipeline.errors.StoreError`.
    """

    async def take(self, place: Place, seconds: float) -> None:
        """Wait until the row is ours until the end of the transaction, and nobody installs it who asks from now on.

        That end is told to others when the transaction is visible to them. Raises `NotSettled` after ``seconds``.
        """
        ...

    async def change(self, change: Change) -> None:
        """Do it. What fails leaves the transaction as it was. Raises `ChangeRefused`, `NotSettled`."""
        ...

    async def commit(self) -> None:
        """Commit; nothing is done to a transaction of the caller's."""
        ...


class ThroughStore(Protocol):
    """The part of a ``write_through`` that lives in PostgreSQL."""

    def check(self, connection: object) -> None:
        """Raise `pipeline.errors.InvalidEvent` unless this is a connection whose transaction can be joined."""
        ...

    def turn(self, table: str, connection: object | None) -> AbstractAsyncContextManager[Turn]:
        """A transaction of its own, rolled back unless it is committed; or that of ``connection``."""
        ...
