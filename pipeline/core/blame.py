"""Whose fault an error is that speaks of the schema or the grants: the table's, or one event's.

A policy of row-level security, a trigger or an input function may raise for one event what else means that a table
cannot be written at all. Then another event that asks PostgreSQL for the very same passes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.core.change import Event

__all__ = ["Lineup", "shape"]

_SPREAD: Final = 6
"""Events that are asked besides the neighbours. If nine in ten are bad, half of the searches still find a good one."""


def shape(event: Event) -> object:
    """What PostgreSQL must allow for the event: which columns of which tables it writes, and how."""
    return frozenset(
        (
            change.table,
            change.delete,
            None if change.insert is None else frozenset(change.insert),
            *(frozenset(columns) for columns in (change.key, change.set, change.add, change.max, change.min)),
        )
        for change in event.changes
    )


class Lineup:
    """The events of a batch by their shape, to find some that are like a suspect."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._alike: dict[object, list[Event]] = {}
        self._place: dict[int, tuple[object, int]] = {}

    def beside(self, suspect: Event) -> Iterator[Event]:
        """A few events of the same shape: the neighbours first, then some from all over the batch."""
        if not self._place:
            self._sort()
        look, place = self._place[id(suspect)]
        alike = self._alike[look]
        step = max(1, len(alike) // _SPREAD)
        places = dict.fromkeys((place - 1, place + 1, *range(0, len(alike), step)))
        for other in list(places)[: _SPREAD + 2]:
            if 0 <= other < len(alike) and other != place:
                yield alike[other]

    def _sort(self) -> None:
        """Done when the first suspect comes: that takes a while, and hardly any batch has one."""
        for event in self._events:
            look = shape(event)
            alike = self._alike.setdefault(look, [])
            self._place[id(event)] = (look, len(alike))
            alike.append(event)
