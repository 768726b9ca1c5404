"""How fast a shard is drained, and how long that will take.

The buffer keeps two sums for each shard: the events that were settled, and the seconds in which something was there to
be settled. Both forget: what happened t seconds ago counts e^(-t/τ), τ = `TAU_SECONDS`. An acknowledged batch counts as
spread evenly over the time since the one before it (or since it was frozen, if nothing had been pending), so the
quotient is right for batches that take much longer than τ as well as for very short ones, and the second sum never
exceeds τ. Idle time is in neither, nor the time in which a few events wait for the next flush: a shard that is emptied
in no time every second is a fast one.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["LATELY_SECONDS", "TAU_SECONDS", "Drained", "drain_seconds", "pause", "rate"]

TAU_SECONDS: Final = 30.0
"""What an estimate remembers: long enough for several flush intervals, short enough to follow a slow database."""

LATELY_SECONDS: Final = 120.0
"""When nothing was acknowledged for so long, nobody knows when it will be. A statement may take 30 s by default."""

_SHORTEST_SECONDS: Final = 0.01
_LONGEST_SECONDS: Final = 0.25
_MAX_EXPONENT: Final = 5  # 10 ms, five times doubled, are more than the longest


class Drained(msgspec.Struct, frozen=True):
    """The two sums of a shard as they were at the last acknowledgement.

    ``age_seconds`` is how long ago that was, ``busy_seconds`` for how long something has been drained or waited for its
    turn since then.
    """

    events: float
    seconds: float
    age_seconds: float
    busy_seconds: float = 0.0


def rate(drained: Drained | None) -> float | None:
    """Events per second; ``None`` if nothing was drained lately.

    A batch that takes longer than all that is remembered slows the estimate down before it ends.
    """
    if drained is None or drained.age_seconds > LATELY_SECONDS or drained.events <= 0:
        return None
    seconds = max(drained.seconds, drained.busy_seconds)
    return drained.events / seconds if seconds > 0 else None


def drain_seconds(pending: int, per_second: float | None) -> float | None:
    """Until ``pending`` events are drained, if no more come; ``None`` if nobody knows."""
    if pending == 0:
        return 0.0
    return None if per_second is None else pending / per_second


def pause(lacking: int, per_second: float | None, tries: int, draw: float) -> float:
    """Seconds until a writer looks again whether a full shard has room for the ``lacking`` events that did not fit.

    As long as it takes to drain so many, but a batch makes room for many at once, so nobody knows when: twice as long
    after each of the ``tries`` in vain before, at least 10 ms, and at most a quarter of a second. ``draw`` is a uniform
    number in [0, 1): with full jitter, writers that one batch has let go do not come back all at once.
    """
    ceiling = _LONGEST_SECONDS if per_second is None else max(lacking / per_second, _SHORTEST_SECONDS)
    ceiling = min(ceiling * 2.0 ** min(tries, _MAX_EXPONENT), _LONGEST_SECONDS)
    return _SHORTEST_SECONDS + (ceiling - _SHORTEST_SECONDS) * draw
