"""What a flush of a shard came to."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

__all__ = ["End", "FlushReport", "ended"]


class End(StrEnum):
    """Why a flush of a shard ended."""

    EMPTY = "empty"  # nothing was pending, or only a little that was accepted meanwhile
    SLICE = "slice"  # its time was over; there may be more
    BUSY = "busy"  # another flusher is at work
    WAITING = "waiting"  # events are missing in the queue, and those behind them wait for a while
    RESTING = "resting"  # the frozen batch failed before and is not due yet
    FAILED = "failed"  # the batch could not be applied now and rests
    PAUSED = "paused"  # the same, but events are set aside until their table can be written


_WHY: Final = {
    End.EMPTY: "nothing else is pending in its shard, so a worker must have taken the change out of the queue",
    End.SLICE: "more is pending in its shard than can be flushed in that time",
    End.BUSY: "another flusher is at work on its shard",
    End.WAITING: "events before it are missing in its shard, a worker must have taken them out of the queue",
    End.RESTING: "a batch of its shard has failed and rests",
    End.FAILED: "a batch of its shard has failed",
    End.PAUSED: "its events are set aside",
}


class FlushReport(msgspec.Struct, frozen=True):
    """What a flush of one shard did.

    ``rows`` were written or deleted; ``skipped`` events had been applied before; events ``aside`` wait for their table.
    """

    shard: int
    end: End
    batches: int = 0
    events: int = 0
    rows: int = 0
    dead: int = 0
    skipped: int = 0
    savepoints: int = 0
    aside: int = 0
    error: str | None = None

    @property
    def why(self) -> str:
        """What waits for what now, in words."""
        return f"{_WHY[self.end]}: {self.error}" if self.error else _WHY[self.end]


def ended(report: FlushReport, end: End) -> FlushReport:
    """The report of a flush that ends here."""
    return msgspec.structs.replace(report, end=end)
