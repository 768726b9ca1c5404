"""Rows of a table, taken apart by shape and column by column."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.change import Change
from pipeline.core.fold import Delete, Step, Upsert, operation
from pipeline.store.shapes import by_shape

names = st.sampled_from(["a", "b", "c"])
values = st.integers(0, 2)
parts = st.dictionaries(names, values, max_size=2)
keys = st.dictionaries(st.sampled_from(["k", "l"]), values, min_size=1)
verbs = ("set", "add", "max", "min")


def change(key: dict[str, Any], given: Mapping[str, dict[str, Any]]) -> Change:
    return Change("t", key, *(given.get(verb, {}) for verb in verbs))  # type: ignore[arg-type]


@st.composite
def writes(draw: st.DrawFn) -> Change:
    """A write that names no column twice; most are of few shapes, and some of one, spelled in different orders."""
    given = {verb: draw(parts) for verb in draw(st.sets(st.sampled_from(verbs), max_size=2))}
    taken: set[str] = set()
    for columns in given.values():
        for name in taken & columns.keys():
            del columns[name]
        taken |= columns.keys()
    return change(draw(keys), given)


def like(shape: Change) -> st.SearchStrategy[Change]:
    """Another row of the shape, its columns in any order."""

    def columns(of: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        orders = st.permutations(list(of))
        return orders.flatmap(lambda order: st.fixed_dictionaries(dict.fromkeys(order, values)))

    given = {verb: columns(getattr(shape, verb)) for verb in verbs}
    return st.builds(change, columns(shape.key), st.fixed_dictionaries(given))


def several(column: str, key: Mapping[str, Any] = MappingProxyType({"k": 1})) -> Upsert:
    """What no change can say: PostgreSQL picks the greatest."""
    return Upsert(key, {column: Step("max", (1, 2), candidates=True)})


def nearly(shape: Change) -> st.SearchStrategy[Change | Upsert]:
    """A row that could be taken for one of the shape: with a column more or less, or with another end."""
    operands = {verb: getattr(shape, verb) for verb in verbs}
    found: list[Change | Upsert] = [Change("t", shape.key, delete=True)]
    found += [several(name, shape.key) for name in ("a", "b")]
    for verb, columns in operands.items():
        found.append(change(shape.key, operands | {verb: columns | {"more": 1}}))
        found += [change(shape.key, operands | {verb: {"other": 1, **dict(list(columns.items())[1:])}})]
        found += [change(shape.key, operands | {verb: dict(list(columns.items())[1:])})] if columns else []
    found.append(change(shape.key | {"more": 1}, operands))
    return st.sampled_from(found)


def rows_of(strategy: Callable[[Change], st.SearchStrategy[Change | Upsert]]) -> st.SearchStrategy[list[Any]]:
    shapes = writes()
    return shapes.flatmap(lambda shape: st.lists(strategy(shape), min_size=1, max_size=3))


one_shape = rows_of(like)
alike = rows_of(lambda shape: like(shape) | nearly(shape))


def spelled(row: Change | Upsert) -> str:
    """What is to happen to a row, whatever the order of its columns."""
    done = row if isinstance(row, Upsert) else operation(row)
    if isinstance(done, Delete):
        return repr(("delete", sorted(done.key.items())))
    assert isinstance(done, Upsert)
    steps = [(name, step.verb, step.candidates, step.operand) for name, step in done.steps.items()]
    return repr((sorted(done.key.items()), sorted(steps)))


@given(alike)
@example([change({"k": 1}, {}), Change("t", {"k": 2}, delete=True)])
@example([Change("t", {"k": 2}, delete=True), change({"k": 1}, {})])
@example([change({"k": 1}, {"set": {"a": 1}}), change({"k": 2}, {"set": {"a": 1}, "add": {"b": 1}})])
@example([several("a"), several("b")])
@example([several("a"), change({"k": 1}, {})])
def test_the_columns_of_all_shapes_are_the_rows(rows: list[Change | Upsert]) -> None:
    found = []
    shapes = []
    for shape, columns, _ in by_shape(rows):
        shapes.append(shape)
        for cells in zip(*columns, strict=True):
            key = dict(zip(shape.key, cells, strict=False))
            steps = [
                (name, verb, many, operand)
                for (name, verb, many), operand in zip(shape.steps, cells[len(key) :], strict=True)
            ]
            found.append(
                repr(("delete", sorted(key.items())) if shape.deletes else (sorted(key.items()), sorted(steps)))
            )
    assert sorted(found) == sorted(map(spelled, rows))
    assert shapes == sorted(set(shapes))


@given(one_shape)
def test_rows_of_one_shape_are_one_shape(rows: list[Change]) -> None:
    assert len(list(by_shape(rows))) == 1
