"""The laws of the fold: it never changes a result, whatever the values are."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any

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
amounts = st.sampled_from(
    [1, 30, 50, 99, -150, Decimal("0.004"), Decimal("1.006"), Decimal("-0.10"), Decimal("1.00"), 0.1, 0.005, 10**40]
)
whole_floats = st.integers(-1000, 1000).map(float)  # sums of them are exact
spans = st.builds(timedelta, days=st.integers(-2, 2), hours=st.integers(-30, 30), microseconds=st.integers(0, 2))
moments = st.builds(
    lambda hours, offset: (datetime(2013, 1, 1, tzinfo=UTC) + timedelta(hours=hours)).astimezone(offset),
    st.integers(0, 5),
    st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-7))]),
)
operands: dict[str, st.SearchStrategy[Any]] = {
    "small": st.integers(-100, 100) | st.sampled_from([-(2**15), 2**15 - 1, 2**15]),
    "count": st.integers(-100, 100),
    "exact": amounts,
    "price": amounts,
    "rough": amounts,
    "weight": whole_floats | st.integers(-5, 5),
    "day": st.dates(date(2013, 1, 1), date(2013, 1, 5)),
    "seen": moments,
    "spent": spans,
    "name": st.sampled_from(["a", "A", "ab", "ba", "B", "", "zA", "Za"]),
    "tags": st.sampled_from(["{a}", "{b}", "{a,b}"]),
    "doc": st.sampled_from([1, True, 0, False, Decimal("1.0"), 2]),
}
summable = ("small", "count", "exact", "price", "rough", "weight", "spent")


@st.composite
def keyed(draw: st.DrawFn, columns: Sequence[str], rows: int = 2) -> Change:
    """A write of some of the columns of a row, or a delete."""
    key = {"id": draw(st.integers(1, rows))}
    if draw(st.integers(0, 7)) == 0:
        return Change("t", key, delete=True)
    parts: dict[str, dict[str, Any]] = {"set": {}, "add": {}, "max": {}, "min": {}}
    for name in draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique=True)):
        verb = draw(st.sampled_from(["add", "add", "add", "set", "max"] if name in summable else ["set", "max", "min"]))
        null = verb == "set" and draw(st.integers(0, 3)) == 0
        parts[verb][name] = None if null else draw(operands[name])
    return Change("t", key, parts["set"], parts["add"], parts["max"], parts["min"])


# Few columns at a time, so that changes meet in them.
columns_of_interest = st.lists(st.sampled_from(list(operands)), min_size=1, max_size=2, unique=True)
appended = st.builds(
    lambda number, count: Change("t", insert={"id": number, "count": count}), st.integers(1, 2), st.integers(0, 9)
)


def sequences(changes: st.SearchStrategy[Change], size: int = 10) -> st.SearchStrategy[Sequenced]:
    return st.lists(st.tuples(st.sampled_from([TABLE] * 5 + [OTHER_TABLE]), changes), min_size=size // 2, max_size=size)


@st.composite
def pairs(draw: st.DrawFn, *, inserts: bool = False) -> tuple[Sequenced, Sequenced]:
    """Two sequences of changes: what there is before, and what comes then."""
    changes = keyed(draw(columns_of_interest))
    if inserts:
        changes = changes | appended
    return writable(draw(sequences(changes, 4))), draw(sequences(changes))


@st.composite
def operations_of_one_row(draw: st.DrawFn, count: int) -> list[Operation]:
    changes = keyed(draw(columns_of_interest), rows=1)
    steps = [operation(draw(changes)) for _ in range(count)]
    return [step for step in steps if not isinstance(step, Insert)]


draws = st.integers().map(Random)


def without_refusal(before: Sequenced, changes: Sequenced) -> Database | None:
    """The rows after applying one by one, ``None`` if PostgreSQL would have refused one."""
    found = database(before)
    try:
        apply_one_by_one(found, changes)
    except Refused:
        return None
    return found


def writable(before: Sequenced) -> Sequenced:
    """Those of ``before`` that can be applied, one after the other."""
    found, kept = database(), []
    for change in before:
        try:
            apply_one_by_one(found, [change])
        except Refused:
            continue
        kept.append(change)
    return kept


@given(pairs(), draws)
def test_applying_the_waves_is_applying_the_changes(given: tuple[Sequenced, Sequenced], random: Random) -> None:
    before, changes = given
    expected = without_refusal(before, changes)
    if expected is None:
        return
    found = database(before)
    apply_waves(found, folded(changes), random)
    assert contents(found) == contents(expected)


@given(pairs(inserts=True), draws)
def test_rows_that_are_appended_keep_their_place_among_the_changes(
    given: tuple[Sequenced, Sequenced], random: Random
) -> None:
    before, drawn = given
    changes: list[tuple[Table, Change]] = []
    for change in drawn:  # of the drawn ones those that can be applied
        if without_refusal(before, [*changes, change]) is not None:
            changes.append(change)
    found, expected = database(before), database([*before, *changes])
    apply_waves(found, folded(changes), random)
    assert contents(found) == contents(expected)


@given(pairs(), draws)
def test_a_batch_may_be_cut_anywhere(given: tuple[Sequenced, Sequenced], random: Random) -> None:
    changes, more = given
    if without_refusal([], [*changes, *more]) is None:
        return
    at_once, in_two = database(), database()
    apply_waves(at_once, folded([*changes, *more]), random)
    apply_waves(in_two, [*folded(changes), *folded(more)], random)
    assert contents(at_once) == contents(in_two)


@given(pairs(inserts=True))
def test_no_key_of_the_changes_is_lost_and_none_is_added(given: tuple[Sequenced, Sequenced]) -> None:
    _, changes = given
    waves = folded(changes)
    rows = {(oid, name) for wave in waves for oid, steps in wave.rows.items() for name in steps}
    assert rows == {(table.oid, identity(change.key)) for table, change in changes if change.insert is None}
    assert all(wave.rows or wave.inserts for wave in waves)


@given(operations_of_one_row(3))
def test_then_is_associative_where_it_is_defined(steps: list[Operation]) -> None:
    a, b, c = steps
    ab, bc = then(a, b, COLUMNS), then(b, c, COLUMNS)
    if ab is None or bc is None:
        return
    left, right = then(ab, c, COLUMNS), then(a, bc, COLUMNS)
    if left is not None and right is not None:
        assert left == right


def effects(*steps: Operation) -> object:
    """What is in the table after the steps, ``None`` if PostgreSQL would have refused one."""
    found = database()
    try:
        for step in steps:
            found[TABLE.oid].apply("id=1", step)
    except Refused:
        return None
    return contents(found)


@given(operations_of_one_row(3))
def test_then_does_what_the_two_do_one_after_the_other(steps: list[Operation]) -> None:
    before, a, b = steps
    composed = then(a, b, COLUMNS)
    if composed is not None and (expected := effects(before, a, b)) is not None:
        assert effects(before, composed) == expected


@given(operations_of_one_row(1))
def test_a_delete_absorbs_what_came_before(steps: list[Operation]) -> None:
    delete = Delete({"id": 1})
    assert then(steps[0], delete, COLUMNS) == delete
