"""What writes and changes that are written through did to rows at the same time, and whether the reads tell of it.

A row is what PostgreSQL has, with the pending events on top. So a state is named by two numbers: how many events were
accepted, and how many changes were committed past them. A committed change lies below the events that were not applied
when it was made: its place is the number of those that were.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.history import Read, Row, Write, apply


class Through(NamedTuple):
    """A committed change: its number among those of all rows, and how many events of the shard were applied before."""

    number: int
    place: int
    called: int
    answered: int
    verb: str
    values: Row


class MixedHistory:
    """The history of some rows of one shard."""

    def __init__(self, defaults: Row) -> None:
        self._defaults = defaults
        self._lock = threading.Lock()
        self.writes: dict[int, list[Write]] = defaultdict(list)
        self.throughs: dict[int, list[Through]] = defaultdict(list)
        self.reads: dict[int, list[Read]] = defaultdict(list)

    def wrote(self, key: int, write: Write | Through) -> None:
        with self._lock:
            if isinstance(write, Write):
                self.writes[key].append(write)
            else:
                self.throughs[key].append(write)

    def saw(self, key: int, read: Read) -> None:
        with self._lock:
            self.reads[key].append(read)

    def final(self, key: int) -> Row | None:
        """What PostgreSQL has when everything is applied."""
        timeline = _Timeline(self.writes[key], self.throughs[key], {"id": key, **self._defaults})
        return timeline.state(len(timeline.writes), len(timeline.throughs))

    def violations(self) -> Iterator[str]:
        """Changes that overtook an event before them, and reads of no state that there was during them."""
        for key in {*self.reads, *self.throughs}:
            timeline = _Timeline(self.writes[key], self.throughs[key], {"id": key, **self._defaults})
            for number, change in enumerate(timeline.throughs):
                due = timeline.answered_writes(change.called)
                if timeline.places[number] < due:
                    yield f"key {key}: {change} overtook {timeline.writes[timeline.places[number]]}"
            yield from timeline.false_reads(key, sorted(self.reads[key]))


class _Timeline:
    """One row."""

    def __init__(self, writes: list[Write], throughs: list[Through], fresh: Row) -> None:
        self.writes = sorted(writes)
        self.throughs = sorted(throughs)
        self._fresh = fresh
        seqs = [write.seq for write in self.writes]
        self.places = [bisect_right(seqs, change.place) for change in self.throughs]
        self._states: dict[tuple[int, int], Row | None] = {(0, 0): None}
        self._write_answers = _running_max(sorted((write.answered, n) for n, write in enumerate(self.writes, 1)))
        self._change_answers = _running_max(sorted((one.answered, n) for n, one in enumerate(self.throughs, 1)))

    def state(self, accepted: int, committed: int) -> Row | None:
        """The row with so many events and changes."""
        here = accepted, committed
        if here not in self._states:
            place = self.places[committed - 1] if committed else 0
            for behind in range(place, accepted + 1):  # not recursively: the way is long
                at = behind, committed
                if at in self._states:
                    continue
                if behind > place:
                    done: Write | Through = self.writes[behind - 1]
                    before = self._states[behind - 1, committed]
                else:
                    done, before = self.throughs[committed - 1], self.state(behind, committed - 1)
                write = Write(0, 0, 0, done.verb, done.values)
                self._states[at] = apply(before, write, self._fresh)
        return self._states[here]

    def answered_writes(self, at: int) -> int:
        """How many events must have been accepted by then."""
        return _most(self._write_answers, at)

    def false_reads(self, key: int, reads: list[Read]) -> Iterator[str]:
        calls = [write.called for write in self.writes], [one.called for one in self.throughs]
        ended: list[tuple[int, tuple[int, int]]] = []
        for read in reads:
            seen = [state for answered, state in ended if answered < read.called]
            low = max([self.answered_writes(read.called), *(state[0] for state in seen)])
            first = max([_most(self._change_answers, read.called), *(state[1] for state in seen)])
            high, last = (sum(called < read.answered for called in part) for part in calls)
            found = [
                (accepted, committed)
                for committed in range(first, last + 1)
                for accepted in range(*self._span(low, high, committed))
                if self.state(accepted, committed) == read.row
            ]
            if not found:
                yield f"key {key}: a read saw {read.row}; {low} to {high} events and {first} to {last} changes were due"
                continue
            ended.append((read.answered, (min(state[0] for state in found), min(state[1] for state in found))))

    def _span(self, low: int, high: int, committed: int) -> tuple[int, int]:
        place = self.places[committed - 1] if committed else 0
        return max(low, place), max(high, place) + 1


def _running_max(answers: list[tuple[int, int]]) -> list[tuple[int, int]]:
    highest = 0
    result = []
    for answered, place in answers:
        highest = max(highest, place)
        result.append((answered, highest))
    return result


def _most(answers: list[tuple[int, int]], before: int) -> int:
    at = bisect_left(answers, (before, 0))
    return answers[at - 1][1] if at else 0
