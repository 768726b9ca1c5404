"""The laws of the fold: it never changes a result, whatever the values are."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Change
from pipeline.core.fold import Delete, Insert, Operation, operation, then
from pipeline.core.table import Table
from pipeline.core.values import identity
from tests.unit.table_model import (
    COLUMNS,
    OTHER_TABLE,
    TABLE,
    Database,
    Refused,
    apply_one_by_one,
    apply_waves,
    contents,
    database,
    folded,
)

Sequenced = Sequence[tuple[Table, Change]]

TWO, SEVEN = timezone(timedelta(hours=2)), timezone(timedelta(hours=-7))
AMOUNTS = [1, 30, 50, 99, -150, *map(Decimal, ["0.004", "1.006", "-0.10", "1.00"]), 0.1, 0.005, 10**40]
# Few values, so that they meet; and those whose order or sum is another one in Python than in PostgreSQL.
OPERANDS: dict[str, list[Any]] = {
    "small": [1, -1, 100, 20_000, -30_000, 2**15 - 1, -(2**15), 2**15],
    "count": [0, 1, -7],
    "exact": AMOUNTS,
    "price": AMOUNTS,
    "rough": AMOUNTS,
    "weight": [1, 2.0, -0.5, 1024.0],  # sums of them are exact
    "day": [date(2013, 1, 1), date(2013, 1, 2)],
    "seen": [datetime(2013, 1, 1, 5, tzinfo=zone) for zone in (UTC, TWO, SEVEN)]
    + [datetime(2013, 1, 1, 3, tzinfo=UTC)],
    "spent": [timedelta(hours=13), timedelta(hours=-1), timedelta(days=1), timedelta(hours=24, microseconds=1)],
    "name": ["a", "A", "ab", "ba", "B", "", "zA", "Za"],
    "tags": ["{a}", "{b}", "{a,b}"],
    "doc": [1, True, 0, False, Decimal("1.0"), 2],
}
SUMMABLE = {"small", "count", "exact", "price", "rough", "weight", "spent"}

Move = tuple[str, str, Any]


def moves(column: str) -> list[Move]:
    """What can be done to a column: (verb, column, operand)."""
    verbs = ["add", "add", "set", "max", "min"] if column in SUMMABLE else ["set", "max", "min"]
    operands = OPERANDS[column]
    return [(verb, column, operand) for operand in operands for verb in verbs] + [("set", column, None)] * 3


def change_of(row: int, *parts: Move | None) -> Change:
    """A write with these moves; with none of them a delete."""
    found: dict[str, dict[str, Any]] = {"set": {}, "add": {}, "max": {}, "min": {}}
    for verb, column, operand in filter(None, parts):
        found[verb][column] = operand
    return Change("t", {"id": row}, found["set"], found["add"], found["max"], found["min"], delete=not any(parts))


def writes(column: str, rows: Sequence[int] = (1, 1, 2)) -> st.SearchStrategy[Change]:
    """Writes of a column, and sometimes of a second one; and deletes."""
    first = st.sampled_from([*moves(column), None])
    second = st.sampled_from([None, None, None, *moves("day" if column == "count" else "count")[:3]])
    return st.builds(change_of, st.sampled_from(rows), first, second)


appended = st.builds(
    lambda number, count: Change("t", insert={"id": number, "count": count}),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 5]),
)


def sequences(changes: st.SearchStrategy[Change], size: int) -> st.SearchStrategy[list[tuple[Table, Change]]]:
    return st.lists(st.tuples(st.sampled_from([TABLE] * 5 + [OTHER_TABLE]), changes), min_size=size // 2, max_size=size)


def pairs(changes: st.SearchStrategy[Change]) -> st.SearchStrategy[tuple[Sequenced, Sequenced]]:
    """Two sequences of changes: what there is before, and what comes then."""
    return st.tuples(sequences(changes, 4), sequences(changes, 8))


def operations_of_one_row(count: int) -> st.SearchStrategy[list[Operation]]:
    """Operations on the same column of the same row."""
    steps = {column: writes(column, rows=[1]).map(operation) for column in OPERANDS}
    lists = [st.lists(of_column, min_size=count, max_size=count) for of_column in steps.values()]
    return st.one_of(lists)  # type: ignore[arg-type]


draws = st.integers().map(Random)


def possible(changes: Sequenced, found: Database) -> list[tuple[Table, Change]]:
    """Those of ``changes`` that PostgreSQL would not refuse; they are applied, one by one."""
    kept = []
    for change in changes:
        try:
            apply_one_by_one(found, [change])
        except Refused:
            continue
        kept.append(change)
    return kept


def check(before: Sequenced, changes: Sequenced, random: Random) -> None:
    """Applying the waves in order is applying the changes in order."""
    expected = database()
    before = possible(before, expected)
    changes = possible(changes, expected)
    found = database(before)
    apply_waves(found, folded(changes), random)
    assert contents(found) == contents(expected)


@pytest.mark.parametrize("column", OPERANDS)
@given(data=st.data(), random=draws)
def test_applying_the_waves_is_applying_the_changes(column: str, data: st.DataObject, random: Random) -> None:
    check(*data.draw(pairs(writes(column))), random)


@given(pairs(writes("count") | appended), draws)
def test_rows_that_are_appended_keep_their_place(given: tuple[Sequenced, Sequenced], random: Random) -> None:
    check(*given, random)


@pytest.mark.parametrize("column", OPERANDS)
@given(data=st.data())
def test_what_becomes_of_a_row_is_what_then_makes_of_its_operations(column: str, data: st.DataObject) -> None:
    changes = data.draw(sequences(writes(column), 8))
    expected: dict[tuple[int, str], list[Operation]] = {}
    for table, change in changes:
        program = expected.setdefault((table.oid, identity(change.key)), [])
        step = operation(change)
        assert not isinstance(step, Insert)
        composed = then(program[-1], step, COLUMNS) if program else None
        if isinstance(step, Delete):
            program[:] = [step]  # nothing that came before can be seen any more
        elif composed is None:
            program.append(step)
        else:
            program[-1] = composed
    found: dict[tuple[int, str], list[Operation]] = {}
    for wave in folded(changes):
        for oid, rows in wave.rows.items():
            for name, step in rows.items():
                found.setdefault((oid, name), []).append(step)
    assert found == expected


@given(pairs(writes("price")), draws)
def test_a_batch_may_be_cut_anywhere(given: tuple[Sequenced, Sequenced], random: Random) -> None:
    changes, more = (possible(part, database()) for part in given)
    at_once, in_two = database(), database()
    apply_waves(at_once, folded([*changes, *more]), random)
    apply_waves(in_two, [*folded(changes), *folded(more)], random)
    assert contents(at_once) == contents(in_two)


@given(sequences(writes("name") | appended, 8))
def test_no_key_of_the_changes_is_lost_and_none_is_added(changes: Sequenced) -> None:
    waves = folded(changes)
    rows = {(oid, name) for wave in waves for oid, steps in wave.rows.items() for name in steps}
    assert rows == {(table.oid, identity(change.key)) for table, change in changes if change.insert is None}
    assert all(wave.rows or wave.inserts for wave in waves)


def effects(*steps: Operation) -> object:
    """What is in the table after the steps, ``None`` if PostgreSQL would have refused one."""
    found = database()
    try:
        for step in steps:
            found[TABLE.oid].apply("id=1", step)
    except Refused:
        return None
    return contents(found)


@given(operations_of_one_row(4))
def test_then_is_associative_where_it_is_defined(steps: list[Operation]) -> None:
    before, a, b, c = steps
    ab, bc = then(a, b, COLUMNS), then(b, c, COLUMNS)
    if ab is None or bc is None:
        return
    left, right = then(ab, c, COLUMNS), then(a, bc, COLUMNS)
    if left is not None and right is not None:
        assert effects(before, left) == effects(before, right)


@given(operations_of_one_row(3))
def test_then_does_what_the_two_do_one_after_the_other(steps: list[Operation]) -> None:
    before, a, b = steps
    composed = then(a, b, COLUMNS)
    if composed is not None and (expected := effects(before, a, b)) is not None:
        assert effects(before, composed) == expected
