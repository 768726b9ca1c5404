"""Attempts for room in full shards: how long until the next look, and when to give up."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pipeline.core.drain import pause
from pipeline.driving import Sleep
from pipeline.errors import PipelineError, PipelineFull

__all__ = ["Attempts", "Patience"]


class Patience(msgspec.Struct, frozen=True):
    """How writes wait for room, with which clock, chance and sleep.

    ``seconds``: at most so long for one shard. ``clock`` counts seconds monotonically; ``draw`` gives uniform numbers
    in [0, 1).
    """

    seconds: float
    clock: Callable[[], float]
    draw: Callable[[], float]
    sleep: Sleep


class Attempts:
    """The full shards that one call waits for, each with its own deadline."""

    def __init__(self, patience: Patience, *, blocking: bool) -> None:
        """Unless it is ``blocking``, nothing is waited for."""
        self._patience = patience
        self._seconds = patience.seconds if blocking else 0.0
        self._shards: dict[int, tuple[float, int]] = {}

    def __contains__(self, shard: int) -> bool:
        return shard in self._shards

    def after(self, tried: Iterable[tuple[int, int, object]]) -> float:
        """Seconds until what was refused is to be tried again, 0 if nothing was.

        ``tried`` are the number of a shard, how many events were to go there, and what became of it. Where there was
        room, the next refusal is waited for anew.

        Raises:
            PipelineFull: one of those, because its shard has been waited for long enough.
            PipelineError: one that is no refusal.
        """
        pauses = []
        for shard, count, outcome in tried:
            if isinstance(outcome, PipelineFull):
                pauses.append(self._refused(outcome, count))
            elif isinstance(outcome, PipelineError):
                raise outcome
            else:
                self._shards.pop(shard, None)
        return min(pauses, default=0.0)

    def _refused(self, error: PipelineFull, count: int) -> float:
        now = self._patience.clock()
        until, tries = self._shards.get(error.shard, (now + self._seconds, 0))
        if now >= until:
            raise error
        self._shards[error.shard] = until, tries + 1
        per_second = error.pending / error.drain_seconds if error.drain_seconds else None
        lacking = error.pending + count - error.limit
        return min(pause(lacking, per_second, tries, self._patience.draw()), until - now)
