"""A table in memory that applies row operations as the store's statements do in PostgreSQL.

It does what the fold must not overlook: a ``numeric(10,2)`` rounds whatever is stored, an interval keeps days and time
apart, text is ordered by a collation (here: from its end, without regard to case), JSON in a way of its own.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from random import Random
from typing import Any, NamedTuple

import msgspec

from pipeline.core.change import Change
from pipeline.core.fold import Delete, Insert, Operation, Step, Upsert, Wave, fold, operation
from pipeline.core.table import Column, Kind, Table
from pipeline.core.values import identity, timedelta_us

_EXACT = Context(prec=2000)


class Refused(Exception):
    """PostgreSQL would refuse the statement."""


class Interval(NamedTuple):
    days: int
    microseconds: int


def integer(name: str, bits: int, default: str | None = None) -> Column:
    plain = {16: "smallint", 32: "integer", 64: "bigint"}[bits]
    return Column(name, plain, plain, Kind.INTEGER, low=-(2 ** (bits - 1)), high=2 ** (bits - 1) - 1, default=default)


def column(name: str, plain: str, kind: Kind, default: str | None = None) -> Column:
    return Column(name, plain, plain, kind, default=default)


def numeric(name: str, modifier: str, scale: int | None, default: str | None = None) -> Column:
    return Column(name, f"numeric{modifier}", "numeric", Kind.DECIMAL, scale=scale, default=default)


COLUMNS = {
    found.name: found
    for found in (
        integer("id", 64),
        integer("small", 16),
        integer("count", 32, "0"),
        numeric("exact", "", None, "10"),
        numeric("price", "(10,2)", 2, "1.00"),
        numeric("rough", "(5,-2)", -2),
        column("weight", "double precision", Kind.FLOAT),
        column("day", "date", Kind.DATE),
        column("seen", "timestamp with time zone", Kind.TIMESTAMPTZ),
        column("spent", "interval", Kind.INTERVAL),
        column("name", "text", Kind.TEXT),
        column("tags", "text[]", Kind.ARRAY),
        column("doc", "jsonb", Kind.JSON),
    )
}
TABLE = Table(1, "public", "t", COLUMNS, frozenset({frozenset({"id"})}))
OTHER_TABLE = Table(2, "public", "u", COLUMNS, frozenset({frozenset({"id"})}))

Row = dict[str, Any]
Sequenced = Sequence[tuple[Table, Change]]


def plain(value: Any, kind: Kind) -> Any:
    """The value as its type has it, before a precision or a range is looked at."""
    if value is None:
        return None
    match kind:
        case Kind.DECIMAL:
            return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        case Kind.FLOAT:
            return float(value)
        case Kind.INTERVAL if isinstance(value, timedelta):
            return Interval(value.days, timedelta_us(value) - value.days * 86_400_000_000)
    return value


def stored(value: Any, column: Column) -> Any:
    value = plain(value, column.kind)
    if value is None:
        return None
    if column.kind is Kind.INTEGER and not column.low <= value <= column.high:
        raise Refused(column.name)
    if column.kind is Kind.DECIMAL and column.scale is not None:
        rounded = value.quantize(Decimal(1).scaleb(-column.scale), ROUND_HALF_UP, _EXACT)
        return rounded or abs(rounded)  # PostgreSQL has no negative zero
    return value


def order(value: Any, column: Column) -> Any:
    """What the column's type orders by."""
    match value:
        case Interval(days, microseconds):
            return days * 86_400_000_000 + microseconds
        case str() if column.kind is Kind.TEXT:
            return value[::-1].casefold()
        case bool() if column.kind is Kind.JSON:
            return 2, value
        case int() | Decimal() if column.kind is Kind.JSON:
            return 1, value
    return value


def total(old: Any, increment: Any, column: Column) -> Any:
    if isinstance(old, Interval):
        return Interval(old.days + increment.days, old.microseconds + increment.microseconds)
    if column.kind is Kind.DECIMAL:
        return _EXACT.add(old, increment)
    return old + increment


class MemoryTable:
    """Rows of one table by the identity of their key."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._defaults = {name: stored(_default(column.default), column) for name, column in columns.items()}
        self.rows: dict[str, Row] = {}

    def apply(self, name: str, step: Operation) -> None:
        if isinstance(step, Delete):
            self.rows.pop(name, None)
            return
        old = self.rows.get(name)
        if old is None:
            old = {**self._defaults, **step.key}
        new = {column: self._result(old[column], verb, self._columns[column]) for column, verb in step.steps.items()}
        self.rows[name] = {**old, **new}

    def append(self, insert: Insert) -> None:
        name = identity({"id": insert.values["id"]})
        if name in self.rows:
            raise Refused(name)
        values = {column: stored(value, self._columns[column]) for column, value in insert.values.items()}
        self.rows[name] = self._defaults | values

    def _result(self, old: Any, step: Step, column: Column) -> Any:
        if step.verb == "set":
            return stored(step.operand, column)
        if step.verb == "add":
            increment = plain(step.operand, column.kind)
            if column.kind is Kind.INTEGER:
                stored(increment, column)
            return stored(increment if old is None else total(old, increment, column), column)
        operands = step.operand if step.candidates else [stored(step.operand, column)]
        candidates = [plain(operand, column.kind) for operand in operands]
        if old is not None:
            candidates.insert(0, old)  # of equal values the first counts, and the one that is there before all
        pick = max if step.verb == "max" else min
        return stored(pick(candidates, key=lambda value: order(value, column)), column)


def _default(text: str | None) -> Any:
    return None if text is None else Decimal(text) if "." in text else int(text)


Database = dict[int, MemoryTable]


def database(before: Sequenced = ()) -> Database:
    found = {table.oid: MemoryTable(table.columns) for table in (TABLE, OTHER_TABLE)}
    apply_one_by_one(found, before)
    return found


def apply_one_by_one(database: Database, changes: Sequenced) -> None:
    for table, change in changes:
        step = operation(change)
        if isinstance(step, Insert):
            database[table.oid].append(step)
        else:
            database[table.oid].apply(identity(change.key), step)


def folded(changes: Sequenced) -> list[Wave]:
    """The fold of ``changes``, each of which speaks of its table by the table's own name."""
    spelled = [msgspec.structs.replace(change, table=table.name) for table, change in changes]
    names = [None if change.insert is not None else identity(change.key) for _, change in changes]
    return fold(spelled, names, {table.name: table for table, _ in changes})


def apply_waves(database: Database, waves: Sequence[Wave], random: Random) -> None:
    """As the store does: upserts, appended rows, deletes; the rows of a wave in any order."""
    for wave in waves:
        rows = [(oid, name, step) for oid, steps in wave.rows.items() for name, step in steps.items()]
        random.shuffle(rows)
        for oid, name, step in rows:
            if isinstance(step, Upsert):
                database[oid].apply(name, step)
        for oid, inserts in wave.inserts.items():
            for insert in inserts:
                database[oid].append(insert)
        for oid, name, step in rows:
            if isinstance(step, Delete):
                database[oid].apply(name, step)


def contents(database: Database) -> dict[int, dict[str, str]]:
    """The rows, told apart to the last zero behind a decimal point."""
    return {
        oid: {name: repr(sorted(row.items())) for name, row in table.rows.items()} for oid, table in database.items()
    }
