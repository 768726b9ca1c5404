"""The workloads of `pipeline.bench`, with the real flights of 2013 in the place of made-up ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Final

from pipeline.bench.workload import FLIGHT, WORKLOADS, Row
from scripts.demo_flights.flights import Flight, days

__all__ = ["REAL"]

_SPARE: Final = 1.1
"""Of a hundred flights three were cancelled; they have neither times nor, some of them, an aircraft."""


def _flights(count: int) -> Sequence[Row]:
    found = chain.from_iterable(days(round(count * _SPARE) + 100))
    return list(islice((_row(flight) for flight in found if flight.departed and flight.tailnum), count))


def _row(flight: Flight) -> Row:
    return tuple(getattr(flight, column) for column in FLIGHT.columns)


REAL: Final = tuple(
    one._replace(title="wide rows: the flights of 2013", rows=_flights) if one.name == "flights" else one
    for one in WORKLOADS
)
