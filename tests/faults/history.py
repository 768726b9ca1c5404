"""What several clients did to rows at the same time, and whether every read saw a state that its row had meanwhile.

It knows nothing of the pipeline but the order in which its writes were accepted. Its model of a row is its own.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

Row = dict[str, Any]


class Write(NamedTuple):
    """An accepted write of one row: its place in the order, when it was called and answered, and what it does."""

    seq: int
    called: int
    answered: int
    verb: str
    values: Row


class Read(NamedTuple):
    """A read of one row and what it returned."""

    called: int
    answered: int
    row: Row | None


def apply(row: Row | None, write: Write, defaults: Row) -> Row | None:
    """What a write makes of a row."""
    if write.verb == "delete":
        return None
    after = dict(defaults if row is None else row)
    for name, value in write.values.items():
        old = after[name]
        if name == "token" or write.verb == "set" or old is None:
            after[name] = value
        elif write.verb == "add":
            after[name] = old + value
        else:
            after[name] = max(old, value)
    return after


class History:
    """The history of some rows, written by many threads."""

    def __init__(self, defaults: Row) -> None:
        self._defaults = defaults
        self._lock = threading.Lock()
        self.writes: dict[int, list[Write]] = defaultdict(list)
        self.reads: dict[int, list[Read]] = defaultdict(list)

    def wrote(self, key: int, write: Write) -> None:
        with self._lock:
            self.writes[key].append(write)

    def saw(self, key: int, read: Read) -> None:
        with self._lock:
            self.reads[key].append(read)

    def states(self, key: int) -> list[Row | None]:
        """Every state that the row had, from the one before the first write on."""
        states: list[Row | None] = [None]
        for write in sorted(self.writes[key]):
            states.append(apply(states[-1], write, {"id": key, **self._defaults}))
        return states

    def violations(self) -> Iterator[str]:
        """Reads that equal no state between their call and their answer, or are older than one that ended before."""
        for key in self.reads:
            yield from self._violations(key)

    def _violations(self, key: int) -> Iterator[str]:
        states = self.states(key)
        writes = sorted(self.writes[key])
        ended: list[tuple[int, int]] = []  # reads: (answered, place of the state that they saw)
        # a state is over when a later write has been answered; it can be there when all up to it have been called
        answers = sorted((write.answered, place) for place, write in enumerate(writes, 1))
        last_answered = _running_max(answers)
        calls = [write.called for write in writes]
        for read in sorted(self.reads[key]):
            at_least = last_answered[bisect_left(answers, (read.called, 0))]
            at_least = max([at_least, *(place for answered, place in ended if answered < read.called)])
            place = at_least
            while place <= len(writes) and (place <= at_least or calls[place - 1] < read.answered):
                if states[place] == read.row:
                    break
                place += 1
            else:
                place = len(states)
            if place == len(states):
                found = [number for number, state in enumerate(states) if state == read.row]
                yield f"key {key}: a read saw {read.row}, state {found} of {len(writes)}, at least {at_least} was due"
                continue
            ended.append((read.answered, place))


def _running_max(answers: list[tuple[int, int]]) -> list[int]:
    highest = [0]
    for _, place in answers:
        highest.append(max(highest[-1], place))
    return highest
