"""Fold a sequence of changes into at most one row operation per row, order kept, without changing the result.

A row operation is what one statement does to one row. Two operations on one row compose (`then`) when the composed one
provably gives what PostgreSQL would give for the two, one after the other. Where that cannot be known here (text is
ordered by a collation, ``numeric(10,2)`` rounds at every step, a time stamp sent as text …) they do not compose: the
second waits for the next **wave**, and PostgreSQL decides. Waves are applied one after the other, so a fold is exact
whatever the values are, and in practice almost every batch is one wave.

One exception keeps hot keys cheap: many ``max`` (or ``min``) operands that Python cannot compare are carried together,
and PostgreSQL picks the greatest in one step (``Step("max", …, candidates=True)``).

Laws (`tests/unit/test_fold_laws.py` states them as properties):

* applying the waves in order = applying the changes in order;
* ``then`` is associative where it is defined;
* no row has two operations in one wave; every key of the input is in the output.

Two things are different from applying one by one, on purpose, and only for changes that could not be applied:
a value that a later change of the same batch overwrites is never looked at, so it cannot become a dead letter; and a
row that would break a rule only in between (an integer overflows, a CHECK fails, a NOT NULL column comes later) does
not break it.

Source of the idea: log compaction and the conflation of market-data feeds; the algebra is that of a monoid action.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.arithmetic import comparable, total
from pipeline.core.change import Change
from pipeline.core.entries import Block
from pipeline.core.table import Column, Kind, Table
from pipeline.core.values import Columns, identity
from pipeline.errors import InvalidEvent

__all__ = ["Delete", "Insert", "Operation", "Step", "Upsert", "Wave", "fold", "operation", "then"]


class Step(msgspec.Struct, frozen=True, gc=False):
    """What happens to one column: ``verb`` is set, add, max or min.

    With ``candidates`` the operand is a tuple of values: PostgreSQL picks the greatest (max) or the least (min).
    """

    verb: str
    operand: Any
    candidates: bool = False


class Upsert(msgspec.Struct, frozen=True, gc=False):
    """Update the row with this key, or insert it. Columns without a step keep their value, or take their default."""

    key: Columns
    steps: Mapping[str, Step]


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete the row with this key, if there is one."""

    key: Columns


class Insert(msgspec.Struct, frozen=True, gc=False):
    """Append a row."""

    values: Columns


Operation = Upsert | Delete
"""An operation on an addressed row."""


class Wave:
    """Row operations of which no two concern the same row, so they may be applied in any order.

    ``changes[oid][identity]`` is what happens to a row, said as a change wherever a change can say it: nearly always
    there was but one, and it stays as it came. The others (an `Upsert` with candidates) are operations.
    ``inserts[oid]`` are rows to append, in order. ``blocks[oid]`` are changes of different rows, or inserts, that have
    stayed columns: see `pipeline.core.fold_columns`. No row is in more than one of these.
    """

    __slots__ = ("blocks", "changes", "inserts")

    def __init__(self) -> None:
        self.changes: dict[int, dict[str, Change | Upsert]] = {}
        self.inserts: dict[int, list[Insert]] = {}
        self.blocks: dict[int, Sequence[Block]] = {}

    @property
    def rows(self) -> dict[int, dict[str, Operation]]:
        """``changes`` as operations."""
        return {oid: {name: _operation(row) for name, row in rows.items()} for oid, rows in self.changes.items()}


def operation(change: Change) -> Operation | Insert:
    """The row operation of a single change."""
    return _operation(change) if change.insert is None else Insert(change.insert)


def _operation(change: Change | Upsert) -> Operation:
    if isinstance(change, Upsert):
        return change
    if change.delete:
        return Delete(change.key)
    steps: dict[str, Step] = {}
    for verb, columns in (("set", change.set), ("add", change.add), ("max", change.max), ("min", change.min)):
        if columns:
            for name, value in columns.items():
                steps[name] = Step(verb, value)
    return Upsert(change.key, steps)


def _change(table: str, operation: Operation) -> Change | Upsert:
    """The change of ``table`` that is this operation, or the operation itself if it is none."""
    key = dict(operation.key)
    if isinstance(operation, Delete):
        return Change(table, key, delete=True)
    if any(step.candidates for step in operation.steps.values()):
        return operation
    parts: dict[str, dict[str, Any]] = {"set": {}, "add": {}, "max": {}, "min": {}}
    for name, step in operation.steps.items():
        parts[step.verb][name] = step.operand
    return Change(table, key, parts["set"], parts["add"], parts["max"], parts["min"])


def fold(changes: Sequence[Change], names: Sequence[str | None], tables: Mapping[str, Table]) -> list[Wave]:
    """The waves of row operations that have the effect of ``changes``, applied in order.

    ``names`` are the identities of their keys, ``None`` for an insert. ``tables`` are theirs by their spelling; two
    spellings may be of one table.
    """
    if not any(table.cascades for table in tables.values()) or not any(change.delete for change in changes):
        return _fold(changes, names, tables)
    waves: list[Wave] = []
    for part in _parts(changes, tables):
        folded = _fold(changes[part], names[part], tables)
        if _overtakes(folded, tables):
            each = [slice(position, position + 1) for position in range(part.start, part.stop)]
            folded = [wave for one in each for wave in _fold(changes[one], names[one], tables)]
        waves += folded
    return waves


def _parts(changes: Sequence[Change], tables: Mapping[str, Table]) -> Iterator[slice]:
    """Cut before a write to a row that an earlier delete may take along (``ON DELETE CASCADE``, ``SET NULL`` …).

    A wave deletes last, so in one wave the delete would take what was written after it.
    """
    start = 0
    disturbed: set[int] = set()
    for position, change in enumerate(changes):
        table = tables[change.table]
        if change.delete:
            disturbed |= table.cascades
        elif table.oid in disturbed:
            yield slice(start, position)
            start = position
            disturbed = set()
    yield slice(start, len(changes))


def _overtakes(waves: Sequence[Wave], tables: Mapping[str, Table]) -> bool:
    """Whether a delete comes before an operation, in a later wave, on a row that it may take along."""
    if len(waves) == 1:
        return False
    cascades = {table.oid: table.cascades for table in tables.values() if table.cascades}
    disturbed: set[int] = set()
    for wave in waves:
        if not disturbed.isdisjoint(wave.changes):
            return True
        for oid in cascades.keys() & wave.changes.keys():
            if any(isinstance(row, Change) and row.delete for row in wave.changes[oid].values()):
                disturbed |= cascades[oid]
    return False


class _Program:
    """What happens to a row that is changed more than once, wave by wave; ``table`` as the first change spells it."""

    __slots__ = ("steps", "table")

    def __init__(self, table: str, steps: list[Operation | Insert]) -> None:
        self.table = table
        self.steps = steps


_Rows = dict[str, Change | _Program]
"""What happens to the addressed rows of a table, by identity: the only change of a row stays as it came."""


def _fold(changes: Sequence[Change], names: Sequence[str | None], tables: Mapping[str, Table]) -> list[Wave]:
    first = Wave()
    waves = [first]
    for table, its_changes, its_names in _by_table(changes, names, tables):
        rows: dict[str, Change | Upsert]
        rows = {name: change for name, change in zip(its_names, its_changes, strict=True) if name is not None}
        if len(rows) == len(its_changes):  # one change of every row, as nearly always: there is nothing to fold
            first.changes[table.oid] = rows
        elif rows:
            _add(*_fold_table(table, its_changes, its_names), table, waves)
        else:
            first.inserts[table.oid] = [Insert(change.insert or {}) for change in its_changes]
    return waves if changes else []


def _by_table(
    changes: Sequence[Change], names: Sequence[str | None], tables: Mapping[str, Table]
) -> Iterable[tuple[Table, Sequence[Change], Sequence[str | None]]]:
    """The changes of each table, and the identities of their keys."""
    if len(tables) == 1:
        return [(table, changes, names) for table in tables.values()]
    found: dict[int, tuple[Table, list[Change], list[str | None]]] = {}
    for change, name in zip(changes, names, strict=True):
        table = tables[change.table]
        if table.oid not in found:
            found[table.oid] = table, [], []
        _, its_changes, its_names = found[table.oid]
        its_changes.append(change)
        its_names.append(name)
    return found.values()


def _fold_table(table: Table, changes: Sequence[Change], names: Sequence[str | None]) -> tuple[_Rows, list[Insert]]:
    """What happens to the addressed rows of a table, and the rows that are appended to it."""
    rows: _Rows = {}
    inserts: list[Insert] = []
    addressed = _addressed(changes, names)
    for change, name in zip(changes, names, strict=True):
        if name is None:
            insert = Insert(change.insert or {})
            row = _row_of(insert, addressed)
            if row is None:
                inserts.append(insert)
            else:
                _program(rows, row, change.table).steps.append(insert)
        elif name not in rows or change.delete:  # of what came before a delete nothing can be seen any more
            rows[name] = change
        else:
            _append(_program(rows, name, change.table).steps, _operation(change), table.columns)
    return rows, inserts


def _program(rows: _Rows, name: str, table: str) -> _Program:
    """The program of a row that is changed again."""
    before = rows.get(name)
    if isinstance(before, _Program):
        return before
    program = rows[name] = _Program(table, [] if before is None else [_operation(before)])
    return program


def _append(program: list[Operation | Insert], step: Operation, columns: Mapping[str, Column]) -> None:
    last = program[-1]
    composed = None if isinstance(last, Insert) else then(last, step, columns)
    if composed is None:
        program.append(step)
    else:
        program[-1] = composed


def _add(rows: _Rows, inserts: list[Insert], table: Table, waves: list[Wave]) -> None:
    """Add the rows of a table to the waves: all first steps to the first one, all second ones to the second one."""
    first, oid = waves[0], table.oid
    if inserts:
        first.inserts[oid] = inserts
    once: dict[str, Change | Upsert] = {}
    for name, row in rows.items():
        if isinstance(row, Change):
            once[name] = row
            continue
        waves += [Wave() for _ in range(len(waves), len(row.steps))]
        for wave, step in zip(waves, row.steps, strict=False):
            if isinstance(step, Insert):
                wave.inserts.setdefault(oid, []).append(step)
            else:
                (once if wave is first else wave.changes.setdefault(oid, {}))[name] = _change(row.table, step)
    if once:
        first.changes[oid] = once


_Addressed = Mapping[tuple[str, ...], set[str]]
"""Key columns → identities of the rows that are addressed by them."""


def _addressed(changes: Sequence[Change], names: Sequence[str | None]) -> _Addressed:
    """The addressed rows of a table, if rows are appended to it as well: an appended row may be one of them."""
    found: dict[tuple[str, ...], set[str]] = {}
    if None in names:
        for change, name in zip(changes, names, strict=True):
            if name is not None:
                found.setdefault(tuple(sorted(change.key)), set()).add(name)
    return found


def _row_of(insert: Insert, addressed: _Addressed) -> str | None:
    """The identity of the addressed row that an appended row is, ``None`` if it is none."""
    for names, rows in addressed.items():
        try:
            row = identity({name: insert.values[name] for name in names})
        except (KeyError, InvalidEvent):  # it gets its key from a default, or from a value that addresses nothing
            continue
        if row in rows:
            return row
    return None


def then(first: Operation, second: Operation, columns: Mapping[str, Column]) -> Operation | None:
    """The one operation that does what ``first`` and then ``second`` do to a row, or ``None`` if there is none."""
    if isinstance(second, Delete):
        return second
    if isinstance(first, Delete):
        return None  # delete and insert anew: two statements
    steps = dict(first.steps)
    for name, step in second.steps.items():
        before = steps.get(name)
        if before is None or step.verb == "set":
            steps[name] = step
            continue
        column = columns.get(name)
        composed = None if column is None else _compose(before, step, column)
        if composed is None:
            return None
        steps[name] = composed
    return Upsert(first.key, steps)


def _compose(first: Step, second: Step, column: Column) -> Step | None:
    """``second`` is add, max or min."""
    if first.verb not in {"set", second.verb} or first.operand is None:
        return None
    if second.verb == "add":
        increment = total(first.operand, second.operand, column)
        return None if increment is None else Step(first.verb, increment)
    if not first.candidates and not second.candidates and comparable(first.operand, second.operand, column):
        pick = max if second.verb == "max" else min
        return Step(first.verb, pick(first.operand, second.operand))
    if first.verb == "set":
        return None
    if column.kind is Kind.ARRAY:
        return None  # an array of arrays is one array to PostgreSQL: its candidates could not be told apart
    return Step(first.verb, _candidates(first) + _candidates(second), candidates=True)


def _candidates(step: Step) -> tuple[Any, ...]:
    return step.operand if step.candidates else (step.operand,)
