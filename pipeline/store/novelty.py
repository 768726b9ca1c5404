"""Whether rows are likely to be all new to their table: then they need not be looked for."""

from __future__ import annotations

from typing import Final

__all__ = ["Novelty"]

ROWS_FIRST: Final = 1000
"""Rows that must have been new, one after the other, before the next ones are taken for new."""


class Novelty:
    """What was seen of rows of one table and shape, and what to expect of the next ones. Threads may share it.

    To be wrong costs what was written until then, dead rows in the table and an error in PostgreSQL's log. So every
    mistake doubles how many rows in a row must have been new: a load that is wrong once in ten thousand rows makes
    four or five mistakes, and then none; one that is wrong once in a week makes one in a week.
    """

    def __init__(self) -> None:
        self._streak = 0
        self._wanted = ROWS_FIRST

    def likely(self) -> bool:
        """Whether the next rows may be taken for new."""
        return self._streak >= self._wanted

    def learn(self, rows: int, *, all_new: bool) -> None:
        """So many rows were written, and looked for."""
        self._streak = self._streak + rows if all_new else 0

    def mistaken(self) -> None:
        """One of the rows that were taken for new was not."""
        self._streak = 0
        self._wanted *= 2
