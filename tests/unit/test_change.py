"""What a change may be, checked before anything reaches Redis, and the same way back."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import MAX_IDENTITY, Change, canonical_table, changes_of, seal, unseal
from pipeline.core.values import identity
from pipeline.errors import InvalidEvent
from tests.unit import strategies

NOW = datetime(2013, 1, 1, 5, 15, tzinfo=UTC)


def refusal_of(change: Change) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as refusal:
        seal(change)
    return refusal.value


def travelled(wire: dict[str, Any]) -> Change:
    """The change after a journey as JSON."""
    return msgspec.json.decode(msgspec.json.encode(wire), type=Change)


@given(strategies.changes)
def test_unseal_gives_back_what_seal_took(change: Change) -> None:
    wire, name = seal(change)
    assert repr(unseal(travelled(wire))) == repr((change, name))


# Names that may be columns, beside those that may not, and few, so that some come twice.
named = st.dictionaries(
    st.sampled_from(["a", "b", "größe", "ß" * 31, "ß" * 32, "x" * 63, "x" * 64, "", "n\x00l"]),
    st.sampled_from([1, 2**70, -1, 0.5, True, None, "text", "n\x00l"]),
    max_size=3,
)
named_changes = st.one_of(
    st.builds(Change, st.just("t"), named, named, named, named, named, st.sampled_from([False, False, True])),
    st.builds(lambda row: Change("t", insert=row), named),
)


def outcome_of(check: Callable[[Change], tuple[object, str | None]], change: Change) -> str | None:
    """The identity of the change, or that it is refused."""
    try:
        return check(change)[1]
    except InvalidEvent:
        return "refused"


@given(named_changes)
def test_the_flush_refuses_what_the_writer_refuses_and_nothing_else(change: Change) -> None:
    wire = msgspec.to_builtins(change)
    sealed = outcome_of(seal, change)
    assert [outcome_of(unseal, travelled(wire)) for _ in range(2)] == [sealed, sealed]


@given(strategies.changes)
def test_both_sides_give_a_key_the_same_identity(change: Change) -> None:
    assert seal(change)[1] == (None if change.insert is not None else identity(change.key))


def test_the_wire_form_holds_only_what_was_given() -> None:
    change = Change("page_views", {"page_id": 7}, add={"views": 1}, max={"last_seen": NOW})
    assert seal(change) == (
        {
            "table": "page_views",
            "key": {"page_id": 7},
            "add": {"views": 1},
            "max": {"last_seen": {"__type__": "datetime", "__value__": "2013-01-01T05:15:00+00:00"}},
        },
        "page_id=7",
    )


def test_an_insert_has_no_identity_even_if_it_is_empty() -> None:
    assert seal(Change("log", insert={})) == ({"table": "log", "insert": {}}, None)


def test_a_write_of_nothing_but_a_key_is_allowed() -> None:
    assert seal(Change("seen", {"id": 1})) == ({"table": "seen", "key": {"id": 1}}, "id=1")


@pytest.mark.parametrize(
    ("change", "column", "problem"),
    [
        (Change("t"), None, "a key is needed"),
        (Change("t", {"id": None}), "id", "NULL cannot identify a row"),
        (Change("t", {"id": 1.5}), "id", "a float cannot identify a row"),
        (Change("t", {"id": "\x00"}), "id", "NUL"),
        (Change("t", {"id": "\ud800"}), "id", "lone surrogate"),
        (Change("t", {"id": "x" * MAX_IDENTITY}), None, "characters long"),
        (Change("t", {"id": 10**5000}), "id", "digits"),
        (Change("t", {"id": 1}, {"a": float("nan")}), "a", "nan is not a number"),
        (Change("t", {"id": 1}, {"a": object()}), "a", "type object cannot be stored"),
        (Change("t", {"id": 1}, {"": 1}), None, "column name"),
        (Change("t", {"id": 1}, {"a\x00": 1}), None, "column name"),
        (Change("t", {"id": 1}, {"a\ud800": 1}), None, "column name"),
        (Change("t", {"id": 1}, {7: 1}), None, "column name"),  # type: ignore[dict-item]
        (Change("t", {7: 1}), None, "column name"),  # type: ignore[dict-item]
        (Change("t", {"id": 1}, ["a"]), None, "dict of column"),  # type: ignore[arg-type]
        (Change("t", {"id": 1}, 0), None, "dict of column"),  # type: ignore[arg-type]
        (Change("t", {"id": 1}, add=[]), None, "dict of column"),  # type: ignore[arg-type]
        (Change("t", ["id"]), None, "dict of column"),  # type: ignore[arg-type]
        (Change("t", insert=["a"]), None, "dict of column"),  # type: ignore[arg-type]
        (Change("t", {"id": 1}, {"id": 2}), "id", "appears twice"),
        (Change("t", {"id": 1}, {"a": 1}, {"a": 1}), "a", "appears twice"),
        (Change("t", {"id": 1}, max={"a": 1}, min={"a": 1}), "a", "appears twice"),
        (Change("t", {"id": 1}, add={"a": "1"}), "a", "an increment must be a number or a timedelta, not a str"),
        (Change("t", {"id": 1}, add={"a": True}), "a", "not a bool"),
        (Change("t", {"id": 1}, add={"a": None}), "a", "not None"),
        (Change("t", {"id": 1}, max={"a": None}), "a", "max and min take a single value, not None"),
        (Change("t", {"id": 1}, min={"a": [1]}), "a", "not a list"),
        (Change("t", {"id": 1}, min={"a": {}}), "a", "not a dict"),
        (Change("t", {"id": 1}, {"a": 1}, delete=True), None, "a delete cannot also"),
        (Change("t", {"id": 1}, insert={"a": 1}), None, "append-only"),
        (Change("t", add={"a": 1}, insert={"a": 1}), None, "append-only"),
        (Change("t", delete=True, insert={"a": 1}), None, "append-only"),
        (Change("t", delete=True), None, "a key is needed"),
    ],
)
def test_a_wrong_change_is_refused_with_its_table_its_column_and_the_problem(
    change: Change, column: str | None, problem: str
) -> None:
    refusal = refusal_of(change)
    assert (refusal.table, refusal.column) == ("t", column)
    assert problem in refusal.problem
    assert str(refusal).startswith(f"t.{column}: " if column else "t: ")


@pytest.mark.parametrize(
    "wire",
    [
        {"table": "t"},
        {"table": "t", "key": {"id": None}},
        {"table": "t", "key": {"id": 1.5}},
        {"table": "t", "key": {"id": {"__type__": "uuid", "__value__": {"int": 1.5}}}},
        {"table": "t", "key": {"id": {"__type__": "decimal", "__value__": "1E+999999999999"}}},
        {"table": "t", "key": {"id": "\x00"}},
        {"table": "t", "key": {"id": 1}, "set": {"id": 2}},
        {"table": "t", "key": {"id": 1}, "set": {"": 2}},
        {"table": "t", "key": {"id": 1}, "set": {"\x00": 2}},
        {"table": "t", "key": {"id": 1}, "set": {"a": {"__type__": "decimal", "__value__": "x"}}},
        {"table": "t", "key": {"id": 1}, "add": {"a": "1"}},
        {"table": "t", "key": {"id": 1}, "max": {"a": None}},
        {"table": "t", "key": {"id": 1}, "set": {"a": 1}, "delete": True},
        {"table": "t", "key": {"id": 1}, "insert": {"a": 1}},
        {"table": "T", "key": {"id": 1}},
    ],
)
def test_what_another_client_sent_is_checked_as_strictly(wire: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        unseal(travelled(wire))
    assert refusal.value.table == wire["table"]


@pytest.mark.parametrize("increment", [1, 1.5, Decimal("0.01"), timedelta(seconds=1)])
def test_numbers_and_durations_can_be_added(increment: object) -> None:
    wire, _ = seal(Change("t", {"id": 1}, add={"a": increment}))
    assert unseal(travelled(wire))[0].add == {"a": increment}


# --- names of tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "canonical"),
    [
        ("page_views", "page_views"),
        ("shop.orders", "shop.orders"),
        ('"page_views"', "page_views"),
        ('"shop"."orders"', "shop.orders"),
        ('shop."Order"', 'shop."Order"'),
        ('"two words"', '"two words"'),
        ('"dotted.name"', '"dotted.name"'),
        ('"a""b"', '"a""b"'),
        ('"""quoted"""', '"""quoted"""'),
        ('"Total"".""x".orders', '"Total"".""x".orders'),
        ("größe", "größe"),
        ("a$1", "a$1"),
        ("_", "_"),
    ],
)
def test_one_table_has_one_spelling(table: str, canonical: str) -> None:
    assert canonical_table(table) == canonical
    assert canonical_table(canonical) == canonical


@pytest.mark.parametrize(
    "table",
    [
        "",
        " ",
        "two words",
        "Order",
        "orderS",
        '"Order".Items',
        "Größe",
        "größE",
        "1st",
        "a.b.c",
        ".a",
        "a.",
        '"',
        '""',
        '"a"b',
        "a;drop table b",
        "a--",
        "a\n",
        '"a\x00"',
        '"a\ud800"',
        "ä\udfff",
    ],
)
def test_what_sql_would_read_differently_is_no_table_name(table: str) -> None:
    with pytest.raises(InvalidEvent) as refusal:
        canonical_table(table)
    assert refusal.value.table == table


def test_a_monstrous_table_name_is_cut_in_the_error() -> None:
    assert len(str(refusal_of(Change("X" * 100_000, {"id": 1})))) < 1000


def test_a_table_that_is_no_text_is_refused() -> None:
    assert "must be text" in refusal_of(Change(7, {"id": 1})).problem  # type: ignore[arg-type]


# --- the arguments of the task ----------------------------------------------------------------------------------------


def test_the_arguments_of_the_task_are_one_change_or_a_list_of_them() -> None:
    one = {"table": "t", "key": {"id": 1}, "set": {"a": 1}}
    other = {"table": "t", "key": {"id": 2}, "delete": True}
    assert changes_of(one) == [Change("t", {"id": 1}, {"a": 1})]
    assert changes_of({"changes": [one, other]}) == [*changes_of(one), Change("t", {"id": 2}, delete=True)]


def test_an_argument_of_none_counts_as_not_given() -> None:
    assert changes_of({"table": "t", "key": {"id": 1}, "set": None, "delete": None}) == [Change("t", {"id": 1})]


@given(
    st.fixed_dictionaries(
        {"table": strategies.tables | strategies.values},
        optional=dict.fromkeys(Change.__struct_fields__[1:], strategies.keys | strategies.values),
    )
)
def test_whatever_the_arguments_are_they_are_a_change_or_refused(arguments: dict[str, Any]) -> None:
    with suppress(InvalidEvent):
        for change in changes_of(arguments):
            wire, name = seal(change)
            assert unseal(travelled(wire))[1] == name


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "a table is needed"),
        ({"key": {"id": 1}}, "a table is needed"),
        ({"table": "t", "keys": {}}, "no argument 'keys'"),
        ({"table": "t", "delete": 1}, "delete must be true or false"),
        ({"changes": [], "table": "t"}, "cannot be mixed"),
        ({"changes": {}}, "must be a list of dicts"),
        ({"changes": [1]}, "must be a list of dicts"),
        ({"changes": None}, "must be a list of dicts"),
        ({"changes": [{"table": "t", "x": 1}]}, "no argument 'x'"),
        ({"changes": [{"changes": []}]}, "no argument 'changes'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidEvent, match=problem):
        changes_of(arguments)
