"""What is written: four kinds of load, the same rows for everybody who writes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from pipeline.bench.zipfian import THETA, Zipfian
from pipeline.core.change import Change
from pipeline.store.yardstick import SCHEMA, Layout

__all__ = ["FLIGHT", "UPSERTS", "WORKLOADS", "Row", "Workload", "change"]

Row = tuple[Any, ...]

UPSERTS: Final = "upserts"
"""The load by which drains are judged: nothing folds, every event is a row."""

KEYS: Final = 100_000
"""Rows that counters are kept for."""

_SEED: Final = 20_130_101
_OLD: Final = -1


def _nothing(_: Sequence[Row]) -> Sequence[Row]:
    return ()


class Workload(NamedTuple):
    """A kind of load.

    ``rows`` gives as many rows as it is asked for, in the order in which they are written, always the same ones.
    ``distinct``: no two of them are for the same row of the table, so that ``COPY`` can write them, too. ``witness`` is
    the column whose sum tells whether all were written; without it their number does. ``before`` is what is in the
    table before they are written.
    """

    name: str
    title: str
    layout: Layout
    rows: Callable[[int], Sequence[Row]]
    distinct: bool = True
    witness: str | None = None
    before: Callable[[Sequence[Row]], Sequence[Row]] = _nothing

    def total(self, rows: Sequence[Row]) -> int:
        """What the witness says when exactly ``rows`` were written."""
        if self.witness is None:
            return len(rows)
        place = list(self.layout.columns).index(self.witness)
        return sum(row[place] for row in rows)


def change(workload: Workload, row: Row) -> Change:
    """The change that writes ``row``."""
    layout = workload.layout
    table = f"{SCHEMA}.{layout.table}"
    values: dict[str, Any] = dict(zip(layout.columns, row, strict=True))
    if not layout.key:
        return Change(table, insert=values)
    return Change(
        table,
        {name: values[name] for name in layout.key},
        set={name: value for name, value in values.items() if name not in layout.key and name not in layout.adds},
        add={name: values[name] for name in layout.adds},
    )


def _counters(count: int) -> Sequence[Row]:
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    keys = list(range(KEYS))
    chance.shuffle(keys)  # hot rows are not neighbours
    ranks = Zipfian(KEYS)
    return [(keys[ranks.rank(chance.random())], 1) for _ in range(count)]


def _upserts(count: int) -> Sequence[Row]:
    keys = list(range(count))
    random.Random(_SEED).shuffle(keys)  # noqa: S311 - no secret
    return [(key, position) for position, key in enumerate(keys)]


def _every_second(rows: Sequence[Row]) -> Sequence[Row]:
    return [(key, _OLD) for key, _ in rows[::2]]


_AIRPORTS: Final = ("EWR", "JFK", "LGA", "ATL", "BOS", "LAX", "MIA", "ORD", "SEA", "SFO")
_CARRIERS: Final = ("AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN")
_PER_DAY: Final = 900
_FIRST: Final = datetime(2013, 1, 1, 5, tzinfo=UTC)


def _flights(count: int) -> Sequence[Row]:
    """Made up; ``scripts/bench`` has the real ones."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    rows = []
    for number in range(count):
        scheduled = _FIRST + timedelta(days=number // _PER_DAY, minutes=number % _PER_DAY)
        delay = round(chance.gauss(10, 20))
        rows.append((
            scheduled.year, scheduled.month, scheduled.day,
            chance.choice(_CARRIERS), number % _PER_DAY, _AIRPORTS[number % 3],
            f"N{chance.randrange(100, 999)}AA", chance.choice(_AIRPORTS), chance.randrange(80, 4983),
            scheduled, scheduled + timedelta(minutes=delay), delay, delay + round(chance.gauss(0, 10)),
        ))  # fmt: skip
    return rows


def _log(count: int) -> Sequence[Row]:
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    actions = ("login", "logout", "view", "order", "pay")
    return [
        (f"user-{chance.randrange(10_000)}", chance.choice(actions), _FIRST + timedelta(milliseconds=number))
        for number in range(count)
    ]


FLIGHT: Final = Layout(
    "flight",
    {
        "year": "smallint", "month": "smallint", "day": "smallint", "carrier": "text", "flight": "integer",
        "origin": "text", "tailnum": "text NOT NULL", "dest": "text NOT NULL", "miles": "integer NOT NULL",
        "scheduled": "timestamptz NOT NULL", "departed": "timestamptz", "dep_delay": "integer", "arr_delay": "integer",
    },
    ("year", "month", "day", "carrier", "flight", "origin"),
)  # fmt: skip

WORKLOADS: Final = (
    Workload(
        "counters",
        f"counters, zipfian {THETA}",
        Layout("counter", {"id": "integer", "hits": "bigint NOT NULL DEFAULT 0"}, ("id",), frozenset({"hits"})),
        _counters,
        distinct=False,
        witness="hits",
    ),
    Workload(
        UPSERTS,
        "upserts of one column, every row once",
        Layout("setting", {"id": "integer", "value": "integer NOT NULL"}, ("id",)),
        _upserts,
        witness="value",
        before=_every_second,
    ),
    Workload("flights", "wide rows of mixed types", FLIGHT, _flights),
    Workload(
        "log",
        "append-only inserts",
        Layout("log", {"actor": "text NOT NULL", "action": "text NOT NULL", "at": "timestamptz NOT NULL"}),
        _log,
    ),
)
