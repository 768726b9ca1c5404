"""What a claim of a shard finds, and what becomes of it; plain values between the buffer and the flush."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from pipeline.core.change import printable

__all__ = ["Busy", "Claimed", "Cut", "Empty", "FailureKind", "PausedTable", "Resting"]


class PausedTable(msgspec.Struct, frozen=True):
    """A table that cannot be written at all now: its events are set aside, in order, and everything else flows.

    With a ``column``, only that is missing in the table, and only the events that name it are set aside.

    ``error`` says why, ``sample`` is the message that met the trouble (what a probe tries again; a column is looked up
    instead), ``probes`` counts how often that was in vain; the next probe is due in ``seconds``. ``waits``: nothing is
    wrong with the table itself, but a row that its events need may be among what is set aside for another one.
    """

    table: str
    seconds: float
    error: str
    sample: bytes
    probes: int = 0
    waits: bool = False
    column: str | None = None

    @property
    def name(self) -> str:
        """The table or ``table.column``, for people."""
        return printable(self.table if self.column is None else f"{self.table}.{self.column}")


class Claimed(msgspec.Struct, frozen=True):
    """A frozen batch: ``messages`` are its events, oldest first.

    Until it is acknowledged, every claim of the shard returns the same batch. ``begun`` counts how often a
    flusher has begun to write it under this id, ``failures`` how often an error was recorded, ``tries`` how many of
    these were of a kind that is tried a bounded number of times. ``held`` counts the rows whose earlier events are set
    aside (`Buffer.held` says which). ``settled`` is the number (``seq``) up to which the shard's events have been
    settled or passed over, ``None`` if that is not known; ``accepted`` the highest number given so far. ``resumed``:
    its events had been set aside, and so have been passed over before. Of its events up to the number ``cached`` rows
    may have been cached when it was claimed, of the others none was.
    """

    shard: int
    id: str
    seq: int
    begun: int
    failures: int
    messages: Sequence[bytes]
    owner: str = ""
    tries: int = 0
    paused: Sequence[PausedTable] = ()
    held: int = 0
    settled: int | None = None
    accepted: int = 0
    resumed: bool = False
    cached: int = 0


class FailureKind(StrEnum):
    """How a failure of a batch counts."""

    PLAIN = "plain"
    BOUNDED = "bounded"  # as one of its tries
    UNREACHABLE = "unreachable"  # PostgreSQL was not there, the batch was not tried: see `Buffer.wake`
    SILENT = "silent"  # the connection died over it: that counts like the death of a flusher


class Empty(msgspec.Struct, frozen=True):
    """Nothing is pending in the shard, except what is set aside."""

    paused: Sequence[PausedTable] = ()


class Busy(msgspec.Struct, frozen=True):
    """Another flusher holds the lease of the shard."""


class Resting(msgspec.Struct, frozen=True):
    """The frozen batch failed and is not due before ``seconds`` have passed."""

    seconds: float


class Cut(StrEnum):
    """What became of a batch in which events are missing."""

    KEPT = "kept"  # what is before the gap is frozen under a new id
    WAITING = "waiting"  # everything waits in the queue for what is missing
    OVER = "over"  # it has waited long enough: go on without
    GONE = "gone"  # the batch is not frozen any more
