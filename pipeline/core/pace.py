"""How many events a batch should have, learned from how long PostgreSQL takes for them.

Additive increase, multiplicative decrease, as in TCP's congestion control (Chiu and Jain, 1989): whoever shares a
database in this way finds a fair part of it. A batch is as large as may be to begin with: a database that keeps up
never sees a smaller one, and one that does not is known after a few, since each that was too slow halves the next.

That supposes that half as many events take half as long. Where a commit waits for a replica or a lock, they do not, and
ever smaller batches would only be less. So two batches of different sizes say what one costs that has no events (the
line through two points), and if that is most of the target, the target gives way.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

__all__ = ["Pace", "Size", "next_size"]

_SMALLEST: Final = 50
"""The smallest batch is so much smaller than the largest. By default it has 100 events: COPY and MERGE still pay."""

_STEPS: Final = 20
"""So many batches in a row bring the size from nothing back to the largest."""

_MARGIN: Final = 0.9
"""Sizes grow to this part of what the time allows, so that not every second batch is a little too slow."""

_MOST_OF_IT: Final = 2 / 3
"""A commit that costs this part of the target without any events leaves too little to them."""

_EVENTS_SHARE: Final = 2
"""Then they get so many times as long as it: two thirds of the events per second that can be had at all."""

_APART: Final = 0.75
"""Two batches tell something only if one has at most this part of the other's events."""

_AGAIN: Final = 64
"""After so many full batches what a commit costs is looked at anew; that costs a halved batch or two."""


class Pace(msgspec.Struct, frozen=True):
    """Batches have at most ``most`` events, and should be committed in ``target_seconds``.

    Where that cannot be, their events may take ``longest_seconds``, beside what a commit takes without any.
    """

    most: int
    target_seconds: float
    longest_seconds: float = math.inf

    @property
    def least(self) -> int:
        """Batches are not made smaller than this, however long they take. Isolation may, and the byte limit."""
        return max(1, self.most // _SMALLEST)

    @property
    def step(self) -> int:
        """What a size grows by."""
        return max(1, self.most // _STEPS)

    def limit_seconds(self, fixed_seconds: float) -> float:
        """How long a batch may take if one without events would take ``fixed_seconds``."""
        if fixed_seconds <= _MOST_OF_IT * self.target_seconds:
            return self.target_seconds
        return max(self.target_seconds, fixed_seconds + min(_EVENTS_SHARE * fixed_seconds, self.longest_seconds))


class Size(msgspec.Struct, frozen=True):
    """The most ``events`` of the next batch, and what is known of those before.

    ``slow``: events and seconds of one that took too long; ``fixed_seconds``: what a batch without events would take;
    ``left``: so many batches more until that is doubted.
    """

    events: int
    slow: tuple[int, float] | None = None
    fixed_seconds: float = 0.0
    left: int = _AGAIN


def next_size(pace: Pace, size: Size, events: int, seconds: float) -> Size:
    """The size of the next batch, when the last one might have had ``size``.

    ``events`` were written, and that took ``seconds``; infinity: it was given up. They are more than ``size`` if
    somebody else had frozen the batch.

    A batch that took too long halves the size. A batch that was full says that more is waiting: the next one is
    larger, unless it would take too long at the same speed, so that sizes do not swing for ever around the right one.
    Of all other batches only the time without their events is learned.
    """
    if events == 0:
        return size
    fixed = _fixed_seconds(size, events, seconds)
    limit = pace.limit_seconds(fixed)
    if seconds > limit:
        return _smaller(pace, size, (events, seconds), fixed)
    if events < size.events:
        return msgspec.structs.replace(size, fixed_seconds=fixed)
    left = size.left - 1 if fixed else _AGAIN
    fits = _MARGIN * events * limit / seconds if seconds else math.inf
    larger = int(min(size.events + pace.step, pace.most, fits))
    return Size(max(size.events, larger), None, fixed, left) if left else Size(size.events)


def _smaller(pace: Pace, size: Size, slow: tuple[int, float], fixed: float) -> Size:
    """The size after a batch that took too long."""
    known = slow if math.isfinite(slow[1]) else None
    if size.events > pace.least:
        return Size(max(pace.least, size.events // 2), known, fixed)
    if size.left > 1:
        return Size(size.events, known, fixed, size.left - 1)
    return Size(min(2 * pace.least, pace.most), known, fixed)  # there is no smaller one to compare it with


def _fixed_seconds(size: Size, events: int, seconds: float) -> float:
    """What a batch without events would take: where the line through this batch and the last slow one begins."""
    if math.isinf(seconds):
        return 0.0
    if size.slow is not None:
        few, many = sorted((size.slow, (events, seconds)))
        if few[0] <= _APART * many[0]:
            return max(0.0, (many[0] * few[1] - few[0] * many[1]) / (many[0] - few[0]))
    return size.fixed_seconds if seconds >= _APART * size.fixed_seconds else 0.0
