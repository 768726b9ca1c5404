"""Faults at random, one after another in each lane; several lanes at once. All are logged to disk."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from scripts.chaos_run.journal import Journal, now

__all__ = ["Fault", "FaultLog", "Lane", "Turn", "nothing"]

SHORTEST_GAP: Final = 0.4
LONGEST_GAP: Final = 3.0


class FaultLog:
    """What was done to the world and when, for all lanes. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.counts: Counter[str] = Counter()
        self._journal = Journal(path)
        self._lock = threading.Lock()

    @contextmanager
    def fault(self, lane: str, kind: str) -> Iterator[dict[str, Any]]:
        """Log the begin, and at the end what it was in detail, which the caller fills in."""
        details: dict[str, Any] = {"t0": now()}
        self._write({"begin": kind, "lane": lane, "t": details["t0"]})
        try:
            yield details
        finally:
            self._write({"fault": kind, "lane": lane, "t1": now(), **details})

    def note(self, what: str, **details: Any) -> None:
        """Log something that is no fault."""
        self._write({"note": what, "t": now(), **details})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            if "fault" in line:
                self.counts[line["fault"]] += 1
            self._journal.write(dict(line))
            self._journal.sync()


class Turn:
    """One fault: chance, time, and a place for details."""

    def __init__(self, random: Random, stop: threading.Event, details: dict[str, Any]) -> None:
        self.random: Final = random
        self._stop = stop
        self._details = details

    def last(self, shortest: float, longest: float) -> float:
        """Wait for a random time, or until the run is over; the time that was drawn."""
        seconds = self.random.uniform(shortest, longest)
        self._stop.wait(seconds)
        return seconds

    def note(self, **details: Any) -> None:
        """Add to the log's line of this fault."""
        self._details.update(details)

    def forgot(self, since: float, until: float, *, disk: bool) -> None:
        """Redis forgot what it accepted in this time; ``disk``: also what had reached the disk."""
        self._details["forgot"] = {"since": since, "until": until, "disk": disk}


Fault = Callable[[Turn], None]


def nothing() -> None:
    """Do nothing."""


class Lane(threading.Thread):
    """Chooses a fault, lets it happen, rests, and chooses again, until it is told to stop.

    ``error`` is what went wrong with the lane itself. ``between`` is called before every fault.
    """

    def __init__(
        self,
        name: str,
        faults: Mapping[str, Fault],
        random: Random,
        log: FaultLog,
        between: Callable[[], None] = nothing,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.error: str | None = None
        self._faults = faults
        self._random = random
        self._log = log
        self._between = between
        self._over = threading.Event()

    def run(self) -> None:
        """See the class."""
        try:
            kinds: Sequence[str] = sorted(self._faults)
            while kinds and not self._over.wait(self._random.uniform(SHORTEST_GAP, LONGEST_GAP)):
                self._between()
                kind = self._random.choice(kinds)
                with self._log.fault(self.name, kind) as details:
                    self._faults[kind](Turn(self._random, self._over, details))
        except Exception:  # noqa: BLE001 - a thread's boundary: the run fails with it
            self.error = traceback.format_exc()
            self._log.note("lane failed", lane=self.name, error=self.error)

    def end(self) -> None:
        """No new fault; the one at hand ends early. Join afterwards."""
        self._over.set()
