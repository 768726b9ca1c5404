"""The zipfian law: a few items are asked for again and again, most of them hardly ever (YCSB's default load)."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Final

__all__ = ["THETA", "Zipfian"]

THETA: Final = 0.99
"""YCSB's constant."""


class Zipfian:
    """Item ``i`` (from 0) has a probability in proportion to ``(i + 1) ** -theta``, exactly."""

    def __init__(self, items: int, theta: float = THETA) -> None:
        self._sums = list(accumulate(rank**-theta for rank in range(1, items + 1)))

    def rank(self, draw: float) -> int:
        """The item for a draw that is uniform in [0, 1)."""
        return bisect_right(self._sums, draw * self._sums[-1])
