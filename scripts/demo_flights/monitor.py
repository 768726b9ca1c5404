"""Watches the pipeline while it works: how far it is, and whether it still gets on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from pipeline import Pipeline
from pipeline.status import Status

__all__ = ["Monitor", "Numbers", "Stalled"]

STALL_SECONDS: Final = 60.0
"""Longer than everything that may hold a shard up: a lease (10 s), a statement (30 s), a rest after an error (30 s)."""

DRAIN_SECONDS: Final = 900.0
POLL_SECONDS: Final = 0.1
_ROWS_WRITTEN: Final = (Path(__file__).parent / "sql" / "rows_written.sql").read_text(encoding="utf-8")


class Stalled(Exception):
    """The pipeline does not get on; the message says where it stands."""


class Numbers(NamedTuple):
    """Where the pipeline stands. ``saved``: changes that needed no row operation of their own, thanks to folding."""

    flights: int
    written: int
    pending: int
    committed: int
    dead: int
    saved: int


class Monitor:
    """Looks at the pipeline's status and at the ledger, and notices when nothing moves any more."""

    def __init__(self, pipeline: Pipeline, connection: psycopg.Connection[Any], check: Callable[[], None]) -> None:
        """``check`` is called again and again while something is waited for; it may raise."""
        self._pipeline = pipeline
        self._connection = connection
        self._check = check
        self._last: tuple[int, int] = (-1, -1)
        self._moved = time.monotonic()

    def look(self, *, flights: int, events: int, changes: int) -> Numbers:
        """The numbers now; the arguments are what has been written until now.

        Raises:
            Stalled: nothing has been committed for `STALL_SECONDS`, though something is pending.
        """
        row = self._connection.execute(_ROWS_WRITTEN).fetchone()
        status = self._pipeline.status()
        settled = events - status.pending
        committed = max(0, settled - status.dead_letters)
        # most events are one change; the few that are two count once more when all is done
        saved = max(0, committed + (0 if status.pending else changes - events) - (row[0] if row else 0))
        self._watch(status, settled)
        return Numbers(flights, events, status.pending, committed, status.dead_letters, saved)

    def wait(self, done: Callable[[], bool], seconds: float = DRAIN_SECONDS, poll: float = POLL_SECONDS) -> bool:
        """Whether ``done`` came true within ``seconds``; it is asked every ``poll`` seconds."""
        deadline = time.monotonic() + seconds
        while not done():
            self._check()
            if time.monotonic() > deadline:
                return False
            time.sleep(poll)
        return True

    def _watch(self, status: Status, settled: int) -> None:
        now = time.monotonic()
        if not status.pending or (settled, status.dead_letters) != self._last:
            self._last = (settled, status.dead_letters)
            self._moved = now
        elif now - self._moved > STALL_SECONDS:
            raise Stalled(describe(status, f"nothing was committed for {STALL_SECONDS:.0f} s"))


def describe(status: Status, problem: str) -> str:
    """What is wrong, and where the shards stand."""
    lines = [f"{problem}; {status.pending:,} events are pending, {status.frozen:,} of them in frozen batches"]
    lines += [
        f"  shard {shard.shard}: {shard.pending:,} pending, {shard.frozen:,} frozen, attempt {shard.attempts}, "
        f"{shard.failures} failures, error: {shard.error}"
        for shard in status.shards
        if shard.pending
    ]
    return "\n".join(lines)
