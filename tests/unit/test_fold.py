"""The fold by example; its laws are in test_fold_laws.py."""

import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import FrameType
from typing import Any

import msgspec
import pytest

from pipeline.core.change import Change
from pipeline.core.fold import Delete, Insert, Step, Upsert, Wave, fold, operation, then
from pipeline.core.table import Column, Kind, Table
from tests.unit.table_model import COLUMNS, OTHER_TABLE, TABLE, column, folded

KEY = {"id": 1}


def write(**parts: dict[str, Any]) -> Change:
    return Change("t", KEY, **parts)  # type: ignore[arg-type]


DELETE = Change("t", KEY, delete=True)


def waves(*changes: Change) -> list[Wave]:
    return folded([(TABLE, change) for change in changes])


def program(*changes: Change) -> list[object]:
    """What happens to the row 1, wave by wave."""
    return [wave.rows[TABLE.oid]["id=1"] for wave in waves(*changes)]


def composed(verb: str, first: Any, second: Any, found: Column, before: str | None = None) -> Step | None:
    """The one step that stands for two, ``None`` if PostgreSQL has to do them one after the other."""
    columns = {found.name: found}
    one = Upsert(KEY, {found.name: Step(before or verb, first)})
    both = then(one, Upsert(KEY, {found.name: Step(verb, second)}), columns)
    return both.steps[found.name] if isinstance(both, Upsert) else None


# --- what a batch becomes ---------------------------------------------------------------------------------------------


def test_nothing_is_no_wave() -> None:
    assert waves() == []


def test_a_thousand_increments_of_a_counter_are_one_row() -> None:
    assert program(*[write(add={"count": 1})] * 1000) == [Upsert(KEY, {"count": Step("add", 1000)})]


def test_changes_of_different_columns_are_one_row() -> None:
    changes = write(set={"name": "a"}), write(add={"count": 1}), write(max={"day": date(2013, 1, 1)})
    assert program(*changes) == [
        Upsert(KEY, {"name": Step("set", "a"), "count": Step("add", 1), "day": Step("max", date(2013, 1, 1))})
    ]


def test_the_last_set_counts() -> None:
    assert program(write(set={"name": "a", "count": 1}), write(set={"name": None})) == [
        Upsert(KEY, {"name": Step("set", None), "count": Step("set", 1)})
    ]


def test_an_add_after_a_set_is_a_set() -> None:
    assert program(write(set={"count": 5}), write(add={"count": 2})) == [Upsert(KEY, {"count": Step("set", 7)})]


def test_an_add_after_a_set_to_null_waits_for_postgres() -> None:
    assert len(program(write(set={"count": None}), write(add={"count": 2}))) == 2


def test_a_set_after_an_add_forgets_it() -> None:
    assert program(write(add={"count": 5}), write(set={"count": 2})) == [Upsert(KEY, {"count": Step("set", 2)})]


def test_a_delete_forgets_what_came_before() -> None:
    assert program(write(set={"name": "a"}), write(set={"name": None}), DELETE) == [Delete(KEY)]


def test_a_set_after_a_delete_is_an_insert() -> None:
    # a new row: what the deleted one held must not shine through
    assert program(DELETE, write(set={"name": "a"}), write(add={"count": 1})) == [
        Delete(KEY),
        Upsert(KEY, {"name": Step("set", "a"), "count": Step("add", 1)}),
    ]


def test_a_deleted_row_that_was_made_anew_can_be_deleted_again() -> None:
    assert program(DELETE, write(set={"name": "a"}), DELETE) == [Delete(KEY)]


def test_a_write_of_only_a_key_makes_the_row() -> None:
    assert program(write()) == [Upsert(KEY, {})]


def test_one_row_that_waits_does_not_hold_up_the_others() -> None:
    first, second = waves(DELETE, write(set={"name": "a"}), Change("t", {"id": 2}, add={"count": 1}))
    assert set(first.rows[TABLE.oid]) == {"id=1", "id=2"}
    assert set(second.rows[TABLE.oid]) == {"id=1"}


def test_the_same_key_of_two_tables_is_two_rows() -> None:
    (wave,) = folded([(TABLE, write(add={"count": 1})), (OTHER_TABLE, write(add={"count": 1}))])
    assert wave.rows == {table.oid: {"id=1": Upsert(KEY, {"count": Step("add", 1)})} for table in (TABLE, OTHER_TABLE)}


def test_a_value_and_its_text_are_the_same_row() -> None:
    (wave,) = waves(write(add={"count": 1}), Change("t", {"id": "1"}, add={"count": 1}))
    assert wave.rows[TABLE.oid] == {"id=1": Upsert(KEY, {"count": Step("add", 2)})}


def test_appended_rows_keep_their_order_and_are_never_folded() -> None:
    rows = [{"count": 3}, {"count": 1}, {"count": 1}]
    (wave,) = waves(*[Change("t", insert=row) for row in rows])
    assert wave.inserts == {TABLE.oid: [Insert(row) for row in rows]}


def test_a_row_that_is_appended_after_it_was_deleted_stays() -> None:
    # in one wave, the delete would come last and take it along
    insert = Change("t", insert={"id": 1, "count": 1})
    first, second = waves(DELETE, insert)
    assert (first.rows, first.inserts) == ({TABLE.oid: {"id=1": Delete(KEY)}}, {})
    assert (second.rows, second.inserts) == ({}, {TABLE.oid: [Insert({"id": 1, "count": 1})]})


def test_a_row_that_is_appended_and_then_written_is_written_after_it_is_there() -> None:
    first, second = waves(Change("t", insert={"id": "1"}), write(add={"count": 1}))
    assert first.inserts == {TABLE.oid: [Insert({"id": "1"})]}
    assert second.rows == {TABLE.oid: {"id=1": Upsert(KEY, {"count": Step("add", 1)})}}


# Rows of the other table reference the first one's; when those are deleted, PostgreSQL deletes or changes them too.
PARENT = msgspec.structs.replace(TABLE, cascades=frozenset({OTHER_TABLE.oid}))


def written(*changes: tuple[Table, Change]) -> list[dict[int, list[object]]]:
    """Wave by wave what happens in which table."""
    return [{oid: list(rows.values()) for oid, rows in wave.rows.items()} for wave in folded(changes)]


def test_a_row_that_is_written_after_its_parent_was_deleted_is_not_taken_along() -> None:
    child = Upsert(KEY, {"count": Step("add", 1)})
    assert written((PARENT, DELETE), (OTHER_TABLE, write(add={"count": 1}))) == [
        {TABLE.oid: [Delete(KEY)]},
        {OTHER_TABLE.oid: [child]},
    ]


def test_a_row_that_waits_for_postgres_is_not_overtaken_by_the_delete_of_its_parent() -> None:
    # in the second wave the row would be made again
    changes = (OTHER_TABLE, write(set={"count": None})), (OTHER_TABLE, write(add={"count": 1})), (PARENT, DELETE)
    assert written(*changes) == [
        {OTHER_TABLE.oid: [Upsert(KEY, {"count": Step("set", None)})]},
        {OTHER_TABLE.oid: [Upsert(KEY, {"count": Step("add", 1)})]},
        {TABLE.oid: [Delete(KEY)]},
    ]


def test_parents_that_are_deleted_and_made_anew_are_still_two_waves() -> None:
    rows = [Change("t", {"id": number}, delete=delete) for number in range(100) for delete in (True, False)]
    assert [len(wave.rows[TABLE.oid]) for wave in folded([(PARENT, row) for row in rows])] == [100, 100]


def calls_of_a_fold(tables: int, rows: int) -> int:
    """Function calls for rows of so many tables that are deleted and made anew; another table references each."""
    parents = {f"p{number}": msgspec.structs.replace(PARENT, oid=1000 + number) for number in range(tables)}
    order = [(table, n, delete) for table in parents for n in range(rows) for delete in (True, False)]
    changes = [Change(table, {"id": n}, delete=delete) for table, n, delete in order]
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    names = [f"id={n}" for _, n, _ in order]
    sys.setprofile(note)
    try:
        fold(changes, names, parents)
    finally:
        sys.setprofile(None)
    return count


def test_looking_for_what_a_delete_may_take_along_costs_no_row_more_however_many_tables_there_are() -> None:
    assert calls_of_a_fold(8, 100) < 8.5 * calls_of_a_fold(1, 100)


@pytest.mark.parametrize("row", [{"id": 2}, {"count": 1}, {"id": None}, {"id": 1.0}, {}])
def test_an_appended_row_that_nobody_addresses_waits_for_nothing(row: dict[str, Any]) -> None:
    assert len(waves(DELETE, Change("t", insert=row))) == 1


def test_an_operation_says_what_a_change_does() -> None:
    change = Change("t", KEY, {"a": None}, {"b": 1}, {"c": 2}, {"d": 3})
    assert operation(change) == Upsert(
        KEY, {"a": Step("set", None), "b": Step("add", 1), "c": Step("max", 2), "d": Step("min", 3)}
    )


# --- what Python can know about a column ------------------------------------------------------------------------------

SMALL, COUNT, EXACT, PRICE, ROUGH = (COLUMNS[name] for name in ("small", "count", "exact", "price", "rough"))
WEIGHT, DAY, SEEN, SPENT, NAME, TAGS, DOC = (
    COLUMNS[name] for name in ("weight", "day", "seen", "spent", "name", "tags", "doc")
)
CLOCK = column("clock", "timestamp without time zone", Kind.TIMESTAMP)


@pytest.mark.parametrize(
    ("found", "first", "second", "total"),
    [
        (COUNT, 1, -3, -2),
        (SMALL, 2**15 - 2, 1, 2**15 - 1),
        (EXACT, Decimal("0.10"), 1, Decimal("1.10")),
        (EXACT, 0.1, Decimal("0.2"), Decimal("0.3")),
        (EXACT, 10**40, Decimal("1E-40"), Decimal(f"1{'0' * 40}.{'0' * 39}1")),
        (PRICE, Decimal("0.10"), Decimal("0.20"), Decimal("0.30")),
        (WEIGHT, 1, 0.5, 1.5),
        (WEIGHT, Decimal("0.5"), 0.25, 0.75),
        (SPENT, timedelta(hours=1), timedelta(hours=2), timedelta(hours=3)),
    ],
)
def test_a_sum_that_is_exact_is_made_here(found: Column, first: Any, second: Any, total: Any) -> None:
    assert composed("add", first, second, found) == Step("add", total)
    assert composed("add", first, second, found, before="set") == Step("set", total)


@pytest.mark.parametrize(
    ("found", "first", "second"),
    [
        (SMALL, 2**15 - 1, 1),  # with a negative value in the row, the two may fit where their sum does not
        (SMALL, -(2**15), -1),
        (SMALL, 2**15, -1),
        (COUNT, 1, Decimal(1)),
        (COUNT, "1", 1),
        (PRICE, Decimal("0.004"), Decimal("0.004")),  # rounds at every step
        (PRICE, Decimal("0.10"), 0.001),
        (ROUGH, 30, 30),  # numeric(5,-2) keeps hundreds
        (EXACT, Decimal("1E+2000"), 1),
        (EXACT, "1", 1),
        (WEIGHT, 1e308, 1e308),  # PostgreSQL refuses what Python calls inf
        (WEIGHT, 2**53 + 1, 1),
        (WEIGHT, "NaN", 1),
        (SPENT, timedelta(hours=13), timedelta(hours=12)),  # 25 hours, not a day and an hour
        (SPENT, timedelta.max, timedelta(microseconds=1)),
        (SPENT, timedelta.max, timedelta.max),
        (msgspec.structs.replace(SPENT, type="interval(0)"), timedelta(seconds=0.4), timedelta(seconds=0.4)),
        (NAME, 1, 1),
    ],
)
def test_a_sum_that_cannot_be_known_here_is_left_to_postgres(found: Column, first: Any, second: Any) -> None:
    assert composed("add", first, second, found) is None
    assert composed("add", first, second, found, before="set") is None


HERE, THERE = UTC, timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("found", "lesser", "greater"),
    [
        (COUNT, 1, 2),
        (COUNT, 1, 2**70),
        (EXACT, 1, Decimal("1.5")),
        (PRICE, Decimal("1.001"), Decimal("1.002")),
        (WEIGHT, 1, 1.5),
        (DAY, date(2013, 1, 1), date(2013, 1, 2)),
        (SEEN, datetime(2013, 1, 1, 5, tzinfo=THERE), datetime(2013, 1, 1, 4, tzinfo=HERE)),
        (CLOCK, datetime(2013, 1, 1), datetime(2013, 1, 2)),  # noqa: DTZ001
    ],
)
def test_values_that_python_orders_as_postgres_does_are_compared_here(found: Column, lesser: Any, greater: Any) -> None:
    for first, second in ((lesser, greater), (greater, lesser)):
        assert composed("max", first, second, found) == Step("max", greater)
        assert composed("min", first, second, found) == Step("min", lesser)
        assert composed("max", first, second, found, before="set") == Step("set", greater)


@pytest.mark.parametrize(
    ("found", "first", "second"),
    [
        (NAME, "a", "B"),  # by the column's collation
        (COUNT, 1, "2"),
        (EXACT, 0.1, Decimal("0.1")),
        (WEIGHT, 1, "NaN"),
        (DAY, date(2013, 1, 1), "infinity"),
        (SEEN, datetime(2013, 1, 1, tzinfo=UTC), "2013-01-02"),
        (SEEN, datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 1)),  # noqa: DTZ001
        (CLOCK, datetime(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
        (SPENT, timedelta(1), timedelta(2)),
        (DOC, 1, True),
    ],
)
def test_values_that_only_postgres_can_order_are_carried_along(found: Column, first: Any, second: Any) -> None:
    for verb in ("max", "min"):
        step = composed(verb, first, second, found)
        assert step is not None
        assert repr(step) == repr(Step(verb, (first, second), candidates=True))
        assert composed(verb, first, second, found, before="set") is None


def test_many_texts_of_a_hot_row_are_still_one_row() -> None:
    texts = [f"v{number}" for number in range(100)]
    assert program(*[write(max={"name": text}) for text in texts]) == [
        Upsert(KEY, {"name": Step("max", tuple(texts), candidates=True)})
    ]


def test_arrays_are_never_carried_along_since_they_would_melt_into_one() -> None:
    assert composed("max", "{a}", "{b}", TAGS) is None


@pytest.mark.parametrize(("first", "second"), [("max", "min"), ("add", "max"), ("min", "add"), ("max", "add")])
def test_different_verbs_on_one_column_are_done_one_after_the_other(first: str, second: str) -> None:
    assert composed(second, 1, 2, COUNT, before=first) is None


def test_a_column_that_nobody_knows_is_left_to_postgres_to_refuse() -> None:
    assert then(operation(write(add={"x": 1})), operation(write(add={"x": 1})), COLUMNS) is None  # type: ignore[arg-type]
