"""Rows that go straight into their table, because all rows of the batches before were new.

To look for a row that is not there, and to write it twice, first into the stage, is nearly half of what PostgreSQL does
for a new row. Whether the rows of a batch are new is only known when they are written. So a batch of which all were new
lets the next one of its shape be copied straight into the table. If a row is there after all, the unique index says so,
and everything is done again in the usual way.

A try in vain costs more than one that succeeds saves. So whoever was wrong waits for more batches before the next one.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Straight"]

_MOST: Final = 64
"""So many batches in a row of which all rows were new are always enough."""


class Straight:
    """How rows of a shape are copied into their table, and whether that is worth a try.

    ``copy`` is the statement. ``inserted`` asks how many rows were inserted into the table; between two answers in one
    transaction, these were its own. (PostgreSQL does not count those of a view or a partitioned table: then nothing is
    ever tried.)

    Nothing but speed depends on what it learns; threads may share it.
    """

    __slots__ = ("_needed", "_streak", "copy", "inserted")

    def __init__(self, copy: bytes, inserted: bytes) -> None:
        self.copy = copy
        self.inserted = inserted
        self._streak = 0
        self._needed = 1

    @property
    def pays(self) -> bool:
        """Whether a batch is worth a try: so many before it had only new rows."""
        return self._streak >= self._needed

    def merged(self, *, all_new: bool) -> None:
        """A batch went the usual way."""
        self._streak = self._streak + 1 if all_new else 0

    def succeeded(self) -> None:
        """A batch was copied straight into the table."""
        self._needed = max(1, self._needed // 2)

    def failed(self) -> None:
        """A row was there already."""
        self._streak = 0
        self._needed = min(_MOST, 4 * self._needed)
