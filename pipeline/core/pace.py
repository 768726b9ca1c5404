"""How many events a batch should have, learned from how long PostgreSQL takes for them.

Additive increase, multiplicative decrease, as in TCP's congestion control (Chiu and Jain, 1989): whoever shares a
database in this way finds a fair part of it. A batch is as large as may be to begin with: a database that keeps up
never sees a smaller one, and one that does not is known after a few, since each that was too slow halves the next.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Pace", "next_size"]

_SMALLEST: Final = 50
"""The smallest batch is so much smaller than the largest. By default it has 100 events: COPY and MERGE still pay."""

_STEPS: Final = 20
"""So many batches in a row bring the size from nothing back to the largest."""


class Pace(msgspec.Struct, frozen=True):
    """Batches have at most ``most`` events, and should be committed in ``target_seconds``."""

    most: int
    target_seconds: float

    @property
    def least(self) -> int:
        """Batches are not made smaller than this, however long they take. Isolation may, and the byte limit."""
        return max(1, self.most // _SMALLEST)

    @property
    def step(self) -> int:
        """What a size grows by."""
        return max(1, self.most // _STEPS)


def next_size(pace: Pace, size: int, events: int, seconds: float) -> int:
    """The most events of the next batch, when the last one might have had ``size``.

    ``events`` were written, and that took ``seconds``; infinity: it was given up. They are more than ``size`` if
    somebody else had frozen the batch.

    A batch that took too long halves what it was, which may be less than it might have been. A batch that was full
    says that more is waiting: the next one is larger, unless it would take too long at the same speed, so that sizes
    do not swing for ever around the right one. All other batches say nothing.
    """
    if seconds > pace.target_seconds:
        return max(pace.least, min(size, events) // 2)
    larger = min(size + pace.step, pace.most)
    if events >= size and seconds * larger <= pace.target_seconds * events:
        return larger
    return size
