"""The order in which a claimed batch takes effect, and what is wrong with it.

Redis numbers the events of a shard as it accepts them, and they stand in its queue in that order. A Celery worker that
consumes the queue by mistake takes some out, and Celery puts them back when it has died: later, and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.change import Event
from pipeline.core.claim import Claimed
from pipeline.core.codec import Malformed
from pipeline.core.entries import Entries

__all__ = ["Gap", "Order", "displaced_of", "first_gap", "order_of", "turns_of"]


class Gap(NamedTuple):
    """The numbers from ``first`` to ``last`` are missing.

    ``keep`` entries stand before the gap, 0 also if entries from before it stand behind it. Up to ``passed`` nothing is
    in the batch: those numbers have had their turn if nobody waits for them any more.
    """

    keep: int
    first: int
    last: int
    passed: int


class Order(NamedTuple):
    """What the numbers of the entries say: see `turns_of`, `first_gap` and `displaced_of`."""

    turns: Sequence[int]
    gap: Gap | None
    displaced: frozenset[int]


def order_of(entries: Sequence[Event | Malformed], claim: Claimed) -> Order:
    """The order of a claimed batch. Nearly always its numbers are just those that follow on what was settled."""
    if claim.settled is not None:
        first = claim.settled + 1
        if Entries.of(entries).numbers == list(range(first, first + len(entries))):
            return Order(range(len(entries)), None, frozenset())
    turns = turns_of(entries, claim)
    return Order(turns, first_gap(entries, turns, claim), displaced_of(entries, claim))


def turns_of(entries: Sequence[Event | Malformed], claim: Claimed) -> Sequence[int]:
    """The positions of the entries in the order of their numbers; one without a number stays behind the one before it.

    That is the order in which they stand, unless Celery has put some back that a worker had taken.
    """
    if claim.resumed:
        return range(len(entries))
    numbers: list[int] = []
    last = 0
    for entry in entries:
        last = entry.seq if entry.seq is not None and entry.seq <= claim.accepted else last
        numbers.append(last)
    return sorted(range(len(entries)), key=numbers.__getitem__)  # stable, and linear where nothing is to be done


def first_gap(entries: Sequence[Event | Malformed], turns: Sequence[int], claim: Claimed) -> Gap | None:
    """The first gap in the numbers of the entries, ``None`` if there is none."""
    if claim.settled is None or claim.resumed:
        return None
    expected = claim.settled + 1
    for turn, position in enumerate(turns):
        seq = entries[position].seq
        if seq is None or seq < expected or seq > claim.accepted:
            continue  # from somebody else, or displaced
        if seq > expected:
            in_place = all(position < turn for position in turns[:turn])
            passed = claim.settled if expected > claim.settled + 1 else seq - 1
            return Gap(turn if in_place else 0, expected, seq - 1, passed)
        expected += 1
    return None


def displaced_of(entries: Sequence[Event | Malformed], claim: Claimed) -> frozenset[int]:
    """Positions of the entries whose turn was over before: a worker had taken them out of the queue."""
    settled = claim.settled
    if settled is None or claim.resumed:
        return frozenset()
    return frozenset(
        n
        for n, entry in enumerate(entries)
        if isinstance(entry, Event) and entry.seq is not None and entry.seq <= settled
    )
