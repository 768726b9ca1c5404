"""The application: what the computers of New York's airports would write. It knows the pipeline's public API only.

The day before, the schedule is published: every flight becomes a row (``write_many``). During the day, hour by hour,
the feed of departures and arrivals comes in (``write_many``): the flight's row is completed, the airports count, the
aircraft is seen, the log grows. A flight that never departed was cancelled: it is taken off the board, together with
its entry in the log (``write_group``), and counted (``write``). In the evening the log gets a last entry (``insert``).

A flight that has no aircraft yet is published all the same, with ``tailnum`` NULL, which the table refuses: that event
becomes a dead letter, and nothing else does. All of these flights were cancelled, so they are deleted like the others,
and that must do nothing. But within one batch a delete makes the fold forget what came before it for this row: the bad
upsert would never be looked at, and would be no dead letter (documented in ``pipeline.core.fold``). Which events share
a batch depends on the moment. So that what is expected does not, these deletes (``delete``) come last, when everything
else has been committed: `Application.clean_up`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from itertools import groupby
from typing import Any

from pipeline import Change, Pipeline
from scripts.demo_flights.flights import Flight

__all__ = ["Application", "departure", "key_of", "publication"]


class Application:
    """Writes, and counts what was accepted. ``writing_seconds`` is the time spent in the calls of the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._without_aircraft: list[Flight] = []
        self.flights = 0
        self.events = 0
        self.changes = 0
        self.writing_seconds = 0.0

    def play(self, days: Iterable[Sequence[Flight]]) -> Iterator[None]:
        """Play the flights, day by day; yields after a few calls of the pipeline, so that the caller can look at it."""
        for flights in days:
            self._write_many([publication(flight) for flight in flights])
            yield
            for _, hour in groupby(flights, key=lambda flight: flight.scheduled.hour):
                self._play_hour(list(hour))
                yield
            self._close_day(flights)

    def clean_up(self) -> None:
        """Delete the cancelled flights that never had an aircraft. Call it when all else is committed: see above."""
        for key in map(key_of, self._without_aircraft):
            with self._counting(1):
                self._pipeline.delete("flight", key)
        self._without_aircraft = []

    def _play_hour(self, flights: Sequence[Flight]) -> None:
        self._write_many([change for flight in flights for change in departure(flight)])
        for flight in flights:
            if flight.cancelled:
                self._cancel(flight)
        self.flights += len(flights)

    def _cancel(self, flight: Flight) -> None:
        if flight.tailnum is None:
            self._without_aircraft.append(flight)
        else:
            together = [
                Change("flight", key_of(flight), delete=True),
                Change("flight_log", insert=_log_entry(flight, "cancelled", flight.scheduled)),
            ]
            with self._counting(len(together)):
                self._pipeline.write_group(together)
        with self._counting(1):
            self._pipeline.write("airport_day", _airport_day(flight, flight.origin), add={"cancellations": 1})

    def _close_day(self, flights: Sequence[Flight]) -> None:
        last = flights[-1]
        values = {"entry": "day closed", "at": last.scheduled, "year": last.year, "month": last.month, "day": last.day}
        with self._counting(1):
            self._pipeline.insert("flight_log", values)

    def _write_many(self, changes: Sequence[Change]) -> None:
        with self._counting(len(changes), events=len(changes)):
            self._pipeline.write_many(changes)

    @contextmanager
    def _counting(self, changes: int, *, events: int = 1) -> Iterator[None]:
        """Time a call of the pipeline, and count what it has accepted."""
        start = time.perf_counter()
        yield
        self.writing_seconds += time.perf_counter() - start
        self.events += events
        self.changes += changes


def key_of(flight: Flight) -> dict[str, Any]:
    """The composite key of a flight's row."""
    return {
        "year": flight.year,
        "month": flight.month,
        "day": flight.day,
        "carrier": flight.carrier,
        "flight": flight.flight,
        "origin": flight.origin,
    }


def publication(flight: Flight) -> Change:
    """The flight as the schedule announces it."""
    return Change(
        "flight",
        key_of(flight),
        set={"tailnum": flight.tailnum, "dest": flight.dest, "miles": flight.miles, "scheduled": flight.scheduled},
    )


def departure(flight: Flight) -> list[Change]:
    """What is written when a flight has departed, and has arrived if it did; nothing for a cancelled one."""
    if flight.departed is None:
        return []
    changes = [
        Change(
            "flight",
            key_of(flight),
            set={"departed": flight.departed, "dep_delay": flight.dep_delay, "arr_delay": flight.arr_delay},
        ),
        Change(
            "airport_day",
            _airport_day(flight, flight.origin),
            add={"departures": 1, "delay_minutes": flight.dep_delay, "miles": flight.miles},
            max={"longest_delay": flight.dep_delay},
        ),
        # Played in order of the schedule: a late flight is written before one that has left earlier. So the last write
        # tells the place, and only `max` tells the time.
        Change(
            "aircraft",
            {"tailnum": flight.tailnum},
            set={"bound_for": flight.dest, "carrier": flight.carrier, "flight": flight.flight},
            max={"last_seen": flight.departed},
        ),
        Change("flight_log", insert=_log_entry(flight, "departed", flight.departed)),
    ]
    if flight.arrived:
        changes.append(Change("airport_day", _airport_day(flight, flight.dest), add={"arrivals": 1}))
    return changes


def _airport_day(flight: Flight, airport: str) -> dict[str, Any]:
    return {"airport": airport, "day": date(flight.year, flight.month, flight.day)}


def _log_entry(flight: Flight, entry: str, at: datetime) -> dict[str, Any]:
    return {"entry": entry, "at": at, **key_of(flight), "tailnum": flight.tailnum}
