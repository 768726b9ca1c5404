"""The fold of what has stayed columns is what `fold` makes of the same changes, one by one."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Change, Event
from pipeline.core.decoding import Decoder
from pipeline.core.entries import Block
from pipeline.core.fold import Insert, Wave, fold, operation
from pipeline.core.fold_columns import fold_events
from pipeline.core.table import Column, Table
from pipeline.store.text import Unfit, cells_of
from tests.unit.calling import calls_of
from tests.unit.messages import TASK, numbered
from tests.unit.table_model import COLUMNS, OTHER_TABLE, TABLE

SPELLINGS = {"t": TABLE, '"T u"': TABLE, "u": OTHER_TABLE}
"""Of two tables, of which one has two."""

KEYS: list[Any] = [1, "1", 7, "7", Decimal("7.0"), Decimal(7), True, "true", 2**70]
"""Some of them identify the same row."""

NUMBERS: list[Any] = [1, 2, -3, 0, 2**14, -(2**14)]
ODD_NUMBERS: list[Any] = [1, 2**15, 2**80, 1.5, Decimal("1.10"), Decimal("0.005")]
VALUES: list[Any] = [None, True, 1, 1.0, Decimal(1), "x", "", [1], {"a": None}]

Make = Callable[[str, Any, Any, Any], Change]
FORMS: dict[str, tuple[Make, Sequence[Any]]] = {
    "sets": (lambda table, key, a, b: Change(table, {"id": key}, {"name": a, "doc": b}), VALUES),
    "sets in another order": (lambda table, key, a, b: Change(table, {"id": key}, {"doc": b, "name": a}), VALUES),
    "sets one": (lambda table, key, a, _b: Change(table, {"id": key}, {"count": a}), NUMBERS),
    "adds": (lambda table, key, a, b: Change(table, {"id": key}, add={"small": a, "count": b}), NUMBERS),
    "adds oddly": (lambda table, key, a, b: Change(table, {"id": key}, add={"count": a, "price": b}), ODD_NUMBERS),
    "adds to no column": (lambda table, key, a, _b: Change(table, {"id": key}, add={"gone": a}), NUMBERS),
    "adds and sets": (lambda table, key, a, b: Change(table, {"id": key}, {"count": a}, add={"small": b}), NUMBERS),
    "adds fractions": (lambda table, key, a, _b: Change(table, {"id": key}, add={"count": a}), [1, 2, 0.5, 1.5]),
    "adds nothing": (lambda table, key, a, _b: Change(table, {"id": key}, add={"exact": a}), [0]),
    "greatest": (lambda table, key, a, _b: Change(table, {"id": key}, max={"count": a}), NUMBERS),
    "least": (lambda table, key, a, _b: Change(table, {"id": key}, min={"count": a}), NUMBERS),
    "greatest and least": (
        lambda table, key, a, b: Change(table, {"id": key}, max={"count": a}, min={"small": b}),
        NUMBERS,
    ),
    "only a key": (lambda table, key, _a, _b: Change(table, {"id": key}), NUMBERS),
    "deletes": (lambda table, key, _a, _b: Change(table, {"id": key}, delete=True), NUMBERS),
    "inserts": (lambda table, key, a, _b: Change(table, insert={"id": key, "name": a}), VALUES),
    "inserts without a key": (lambda table, _key, a, b: Change(table, insert={"name": a, "doc": b}), VALUES),
    "inserts of nothing": (lambda table, _key, _a, _b: Change(table, insert={}), NUMBERS),
}


@st.composite
def runs(draw: st.DrawFn, forms: Sequence[str], spellings: Sequence[str], keys: Sequence[Any]) -> list[Change]:
    """Changes of one form, enough of them to be decoded together."""
    make, values = FORMS[draw(st.sampled_from(forms))]
    table = draw(st.sampled_from(spellings))
    operand = st.sampled_from(values)
    rows = draw(st.lists(st.tuples(st.sampled_from(keys), operand, operand), min_size=4, max_size=8))
    return [make(table, *row) for row in rows]


def one_after_the_other(changes: Sequence[Change]) -> list[list[Change]]:
    """Events of a single change."""
    return [[change] for change in changes]


@st.composite
def batches(
    draw: st.DrawFn,
    forms: Sequence[str] = tuple(FORMS),
    spellings: Sequence[str] = tuple(SPELLINGS),
    *,
    groups: bool = False,
) -> list[list[Change]]:
    """The changes of the events of a batch; with ``groups`` some events have several."""
    few = draw(st.booleans())
    numbered_keys = [n if few else 100 * n for n in range(30)]
    keys = draw(st.sampled_from([KEYS, numbered_keys]))
    found = draw(st.lists(runs(forms, spellings, keys), min_size=1, max_size=3))
    events = draw(st.permutations([event for run in found for event in one_after_the_other(run)]))
    if groups:
        for run in draw(st.lists(runs(forms, spellings, keys), max_size=2)):
            at = draw(st.integers(0, len(events)))
            events = [*events[:at], run[:2], *events[at:]]
    return list(events)


def rows_of(waves: Sequence[Wave]) -> list[dict[int, dict[str, str]]]:
    """What happens to each row, wave by wave; no row is in two places of one."""
    found = []
    for wave in waves:
        rows = {oid: {name: text_of_row(step) for name, step in steps.items()} for oid, steps in wave.rows.items()}
        for oid, blocks in wave.blocks.items():
            for block in blocks:
                for name, change in zip(block.names or (), block.changes() if block.names else (), strict=True):
                    assert name not in rows.get(oid, {})
                    rows.setdefault(oid, {})[name] = text_of_row(operation(change))
        found.append({oid: dict(sorted(steps.items())) for oid, steps in sorted(rows.items()) if steps})
    return found


def text_of_row(step: Any) -> str:
    """1 is not True in it, nor 1.0. The columns of a step are in no order."""
    steps = sorted((name, repr(each)) for name, each in getattr(step, "steps", {}).items())
    return f"{type(step).__name__} {step.key!r} {steps}"


def inserts_of(waves: Sequence[Wave]) -> list[dict[tuple[int, tuple[str, ...]], list[str]]]:
    """What is appended to a table, wave by wave: the rows that name the same columns, in their order."""
    found = []
    for wave in waves:
        rows = {oid: list(inserts) for oid, inserts in wave.inserts.items()}
        for oid, blocks in wave.blocks.items():
            for change in (change for block in blocks if block.names is None for change in block.changes()):
                rows.setdefault(oid, []).append(Insert(change.insert or {}))
        named: dict[tuple[int, tuple[str, ...]], list[str]] = {}
        for oid, inserts in rows.items():
            for insert in inserts:
                named.setdefault((oid, tuple(insert.values)), []).append(repr(insert))
        found.append(named)
    return found


def blocks_of(waves: Sequence[Wave]) -> list[tuple[int, Block]]:
    return [(oid, block) for wave in waves for oid, blocks in wave.blocks.items() for block in blocks]


def folded(
    events: Sequence[Sequence[Change]], tables: Mapping[str, Table] = SPELLINGS
) -> tuple[list[Wave], list[Wave]]:
    """The fold of what was decoded from messages, and that of the same changes one by one."""
    entries = Decoder(TASK).decode(numbered(events))
    mine = {name: tables[name] for name in entries.tables}
    alone = [entry for entry in entries if isinstance(entry, Event)]
    changes = [change for event in alone for change in event.changes]
    names = [name for event in alone for name in event.identities]
    assert len(alone) == len(events)
    return fold_events(entries.events(range(len(entries))), mine), fold(changes, names, mine)


def check(events: Sequence[Sequence[Change]], tables: Mapping[str, Table] = SPELLINGS) -> list[Wave]:
    found, expected = folded(events, tables)
    assert rows_of(found) == rows_of(expected)
    assert inserts_of(found) == inserts_of(expected)
    for _, block in blocks_of(found):
        for values, types in zip(block.columns, block.kinds, strict=True):
            assert set(map(type, values)) <= types
            assert len(values) == block.size
    return found


@given(batches())
def test_ordinary_events_of_any_forms_and_tables_are_folded_as_one_by_one(events: list[list[Change]]) -> None:
    check(events)


@given(batches(groups=True))
def test_events_of_several_changes_among_them_are_folded_in_their_place(events: list[list[Change]]) -> None:
    check(events)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_changes_of_one_form_are_folded_as_one_by_one(form: str, data: st.DataObject) -> None:
    check(data.draw(batches([form], ["t"])))


cascades = st.frozensets(st.sampled_from([TABLE.oid, OTHER_TABLE.oid]))


@given(batches(["sets one", "adds", "deletes", "inserts"], groups=True), cascades, cascades)
def test_a_delete_that_takes_rows_of_another_table_along_keeps_its_place(
    events: list[list[Change]], of_one: frozenset[int], of_other: frozenset[int]
) -> None:
    first = msgspec.structs.replace(TABLE, cascades=of_one)
    second = msgspec.structs.replace(OTHER_TABLE, cascades=of_other)
    check(events, {"t": first, '"T u"': first, "u": second})


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("first", ["t", "u"])
def test_what_is_written_after_such_a_delete_waits_for_it(first: str, count: int) -> None:
    """Also where only an event of several changes deletes, and all that is ordinary are writes."""
    parent = msgspec.structs.replace(SPELLINGS[first], cascades=frozenset({TABLE.oid, OTHER_TABLE.oid}))
    child = "u" if first == "t" else "t"
    deletes = [Change(first, {"id": n}, delete=True) for n in range(count)]
    writes = [Change(child, {"id": n}, add={"small": 1}) for n in range(5)]
    events = [[change] for change in deletes] if count > 1 else [[deletes[0], Change(first, {"id": 7}, delete=True)]]
    waves = check([*events, *([change] for change in writes)], SPELLINGS | {first: parent})
    assert [list(rows) for rows in rows_of(waves)] == [[parent.oid], [SPELLINGS[child].oid]]


overwritten = st.lists(st.tuples(st.sampled_from([1, 2]), st.sampled_from(["x", "y", 7, None])), min_size=4, max_size=6)


@given(overwritten)
def test_a_value_that_was_overwritten_makes_no_other_unfit(given: list[tuple[int, Any]]) -> None:
    """It is not looked at any more, and so are the types of those that are gone."""
    ((_, block),) = blocks_of(check([[Change("t", {"id": key}, {"name": value})] for key, value in given]))
    for name, values, types in zip(block.form.columns, block.columns, block.kinds, strict=True):
        column = COLUMNS[name]
        assert cells(values, column, types) == cells(values, column, None)


def cells(values: Sequence[Any], column: Column, types: frozenset[type] | None) -> str:
    try:
        return repr(list(cells_of(values, column, types)))
    except Unfit as error:
        return f"refused: {error.column}"


# --- what stays columns


def counters(count: int, rows: int, increment: Any = 1) -> list[list[Change]]:
    return [[Change("t", {"id": n % rows}, add={"small": increment})] for n in range(count)]


@pytest.mark.parametrize("rows", [1000, 10])
@pytest.mark.parametrize("form", ["sets", "sets one", "adds", "only a key", "deletes"])
def test_changes_of_one_form_stay_columns_where_rows_come_again(form: str, rows: int) -> None:
    make, _ = FORMS[form]
    waves = check([[make("t", n % rows, n % 10, n % 7)] for n in range(1000)])
    assert [(oid, block.size) for oid, block in blocks_of(waves)] == [(TABLE.oid, rows)]


def test_a_sum_is_made_of_columns_up_to_the_last_number_of_the_column() -> None:
    (block,) = (block for _, block in blocks_of(check(counters(7, 1, 4681))))
    assert block.columns[1] == [2**15 - 1]
    assert blocks_of(check(counters(8, 1, 4681))) == []
    assert blocks_of(check(counters(7, 1, -4681))) != []
    assert blocks_of(check(counters(8, 1, -(2**15) // 8))) == []


def test_the_rows_of_several_forms_stay_columns_if_each_comes_once() -> None:
    events = [*counters(10, 10), *([Change("t", {"id": n}, {"name": "x"})] for n in range(10, 20))]
    assert [block.size for _, block in blocks_of(check(events))] == [10, 10]
    assert blocks_of(check([*events, [Change("t", {"id": 1}, {"name": "x"})]])) == []


def test_an_event_of_several_changes_takes_only_its_tables_out_of_the_columns() -> None:
    other = [[Change("u", {"id": n}, {"name": "x"})] for n in range(10)]
    waves = check([*counters(10, 10), *other, [Change("t", {"id": 3}, delete=True), Change("t", {"id": 4})]])
    assert [oid for oid, _ in blocks_of(waves)] == [OTHER_TABLE.oid]


@pytest.mark.parametrize("cascades", [False, True])
def test_a_few_events_of_another_table_do_not_make_all_others_be_looked_at_alone(cascades: bool) -> None:  # noqa: FBT001
    """Too few to be decoded together; and nothing is deleted that could take others along."""
    strays = [[Change("u", {"id": n}, {"name": "x"})] for n in range(3)]
    entries = Decoder(TASK).decode(numbered([*counters(1000, 1000), *strays]))
    events = entries.events(range(len(entries)))
    table = msgspec.structs.replace(TABLE, cascades=frozenset({OTHER_TABLE.oid} if cascades else ()))
    tables = {"t": table, "u": OTHER_TABLE}
    assert calls_of(lambda: fold_events(events, tables)) < 100
    check([*counters(1000, 1000), *strays], tables)


def test_two_spellings_of_a_table_are_one_table() -> None:
    other = [[Change('"T u"', {"id": n}, add={"small": 1})] for n in range(10)]
    assert blocks_of(check([*counters(10, 10), *other])) == []
    (wave,) = check([*counters(10, 10), *other])
    assert {step for steps in rows_of([wave])[0].values() for step in steps} == {f"id={n}" for n in range(10)}
    assert [len(blocks) for blocks in check([*counters(5, 5), *other[5:]])[0].blocks.values()] == [2]


def test_rows_that_are_appended_under_two_spellings_of_a_table_stay_in_their_order() -> None:
    rows = [[Change(('"T u"', "t")[n % 2], insert={"id": n, "name": "x"})] for n in range(10)]
    assert blocks_of(check(rows)) == []
    assert [block.size for _, block in blocks_of(check(rows[::2]))] == [5]


# --- a row that comes again


def test_the_last_value_of_a_row_stays_under_the_key_that_came_first() -> None:
    keys = [7, "7", Decimal("7.0"), 8, "8"]
    ((_, block),) = blocks_of(check([[Change("t", {"id": key}, {"count": n})] for n, key in enumerate(keys)]))
    assert [*map(list, block.columns)] == [[7, 8], [2, 4]]
    assert block.names == ["id=7", "id=8"]


def test_of_many_deletes_of_a_row_the_last_is_done() -> None:
    ((_, block),) = blocks_of(check([[Change("t", {"id": key}, delete=True)] for key in [7, 8, "8", 9, "7"]]))
    assert [*map(list, block.columns)] == [["7", "8", 9]]
