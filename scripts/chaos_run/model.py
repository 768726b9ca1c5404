"""What a sequence of events makes of rows. Written from the description of the pipeline, without its code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from scripts.chaos_run.history import Record

__all__ = ["Tables", "digits", "replay"]

Key = tuple[Any, ...]
Row = dict[str, Any]
Tables = dict[str, dict[Key, Row]]
"""Table → key → row."""

DEFAULTS: Final[Mapping[str, Row]] = {
    "profile": {"note": "new", "score": 0, "amount": Decimal(0), "hi": None, "lo": None},
    "counter": {"n": 0, "hi": None, "lo": None},
    "stock": {"amount": Decimal(0), "moves": 0},
    "orders": {},
    "item": {},
}
DECIMALS: Final = frozenset({"amount", "total"})


def replay(records: Iterable[Record]) -> Tables:
    """The rows of the replayed tables after ``records``, in this order. Cells are not replayed: see `digits`."""
    tables: Tables = {table: {} for table in DEFAULTS}
    for record in records:
        for change in record.changes:
            if change["table"] in DEFAULTS and "key" in change:
                _apply(tables[change["table"]], change)
    return tables


def _apply(rows: dict[Key, Row], change: Mapping[str, Any]) -> None:
    key = tuple(change["key"].values())
    if change.get("delete"):
        rows.pop(key, None)
        return
    row = rows.setdefault(key, dict(DEFAULTS[change["table"]]))
    for column, value in change.get("set", {}).items():
        row[column] = _number(column, value)
    for column, value in change.get("add", {}).items():
        row[column] = (row[column] or 0) + _number(column, value)
    for verb, choose in (("max", max), ("min", min)):
        for column, value in change.get(verb, {}).items():
            row[column] = value if row[column] is None else choose(row[column], value)


def _number(column: str, value: Any) -> Any:
    return Decimal(value) if column in DECIMALS else value


def digits(tally: int) -> dict[int, int]:
    """How often each event of a cell was applied: event i adds 4^i, so that up to three times can be told."""
    counts = {}
    index = 0
    while tally > 0:
        tally, count = divmod(tally, 4)
        if count:
            counts[index] = count
        index += 1
    return counts
