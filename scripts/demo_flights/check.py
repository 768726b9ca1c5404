"""Compares Postgres with the CSV file, by plain SQL that shares no code with the pipeline or the application."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from scripts.demo_flights.flights import open_csv

__all__ = ["Comparison", "Work", "compare", "create_tables", "load", "work_done"]

_SQL: Final = Path(__file__).parent / "sql"
_CHUNK: Final = 1 << 20

_TABLES: Final = {
    "flight": "flights (rows)",
    "airport_day": "airports by day (rows)",
    "aircraft": "aircraft (rows)",
    "flight_log": "log (rows)",
    "dead_letter": "dead letters",
}


class Comparison(NamedTuple):
    """One line of the table. A row that is there with other values counts as one missing and one surplus."""

    what: str
    expected: int
    found: int
    missing: int
    surplus: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.expected == self.found and not self.missing and not self.surplus


class Work(NamedTuple):
    """What the ledger says has been done. ``events`` includes the dead ones."""

    events: int
    dead: int
    rows: int


def create_tables(connection: psycopg.Connection[Any]) -> None:
    """Create the application's tables."""
    connection.execute(_statement("application"))


def work_done(connection: psycopg.Connection[Any]) -> Work:
    """What the ledger says."""
    row = connection.execute(_statement("ledger")).fetchone()
    return Work(*(row or (0, 0, 0)))


def load(connection: psycopg.Connection[Any], flights: int) -> None:
    """Copy the CSV file into Postgres, and define what its first ``flights`` flights must give."""
    connection.execute(_statement("csv"))
    with open_csv() as file, connection.cursor().copy(_statement("copy")) as copy:
        while chunk := file.read(_CHUNK):
            copy.write(chunk)
    connection.execute(_statement("played"), {"flights": flights})
    connection.execute(_statement("expected"))


def compare(connection: psycopg.Connection[Any], events: int) -> list[Comparison]:
    """Compare everything with what the flights that were loaded must give.

    ``events`` is the number of events that were accepted; the ledger must know as many.
    """
    comparisons = [_compare_table(connection, name, what) for name, what in _TABLES.items()]
    counters = connection.execute(_statement("counters")).fetchall()
    comparisons[2:2] = [Comparison(f"  {name}", *numbers) for name, *numbers in counters]
    done = work_done(connection).events
    comparisons.append(Comparison("events", events, done, max(0, events - done), max(0, done - events)))
    return comparisons


def _compare_table(connection: psycopg.Connection[Any], name: str, what: str) -> Comparison:
    """Compare ``expected.name`` with ``found.name`` as multisets, both ways."""
    expected, found = sql.Identifier("expected", name), sql.Identifier("found", name)
    query = sql.SQL(
        "SELECT (SELECT count(*) FROM {expected}), (SELECT count(*) FROM {found}),"
        " (SELECT count(*) FROM (TABLE {expected} EXCEPT ALL TABLE {found}) AS missing),"
        " (SELECT count(*) FROM (TABLE {found} EXCEPT ALL TABLE {expected}) AS surplus)"
    ).format(expected=expected, found=found)
    row = connection.execute(query).fetchone()
    return Comparison(what, *(row or (0, 0, 0, 0)))


def _statement(name: str) -> Any:
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")
