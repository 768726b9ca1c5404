"""Rows of a table by what happens to which of their columns, and the columns of those that are alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pipeline.core.change import Change
from pipeline.core.entries import Block, Form
from pipeline.core.fold import Upsert
from pipeline.store.plans import Shape

__all__ = ["Alike", "Operands", "alike", "by_shape"]

Row = Change | Upsert
"""What a wave has of a row."""

_KNOWN_FORMS: Final = 256
"""Combinations of columns whose shape is remembered: a stranger's names must not cost memory."""

_Names = tuple[str, ...]

_VERBS: Final = ("set", "add", "max", "min")


@lru_cache(maxsize=_KNOWN_FORMS)
def _shape(key: _Names, operands: tuple[_Names, _Names, _Names, _Names], deletes: bool) -> Shape:  # noqa: FBT001
    """The shape of changes that name these columns, whatever their order; ``operands`` by `_VERBS`."""
    steps = sorted((name, verb, False) for verb, names in zip(_VERBS, operands, strict=True) for name in names)
    return Shape(tuple(sorted(key)), tuple(steps), deletes)


def _shape_of(row: Row) -> Shape:
    if isinstance(row, Upsert):
        steps = sorted((name, step.verb, step.candidates) for name, step in row.steps.items())
        return Shape(tuple(sorted(row.key)), tuple(steps))
    operands = tuple(row.set), tuple(row.add), tuple(row.max), tuple(row.min)
    return _shape(tuple(row.key), operands, row.delete)


Operands = Sequence[Sequence[Any]]
"""What rows of one shape have, column by column: those of the key, then the operands."""


class Alike(NamedTuple):
    """Rows of one shape; ``kinds`` are the types in each of their columns, if they are known."""

    shape: Shape
    columns: Operands
    kinds: Sequence[frozenset[type]] | None = None


def by_shape(rows: Iterable[Row]) -> Sequence[Alike]:
    """The rows of each shape; the shapes in an order that all flushers have."""
    rows = list(rows)
    if rows and (columns := _columns_of(shape := _shape_of(rows[0]), rows)):
        return [Alike(shape, columns)]
    shapes: dict[Shape, list[Row]] = {}
    last, found = None, []
    for row in rows:
        shape = _shape_of(row)
        if shape is not last:  # to look a shape up takes longer than to make it
            last, found = shape, shapes.setdefault(shape, [])
        found.append(row)
    return [Alike(shape, _columns_of(shape, shapes[shape]) or ()) for shape in sorted(shapes)]


def alike(block: Block) -> Alike:
    """The rows of a block that addresses them."""
    shape, order = _shape_of_form(block.form)
    return Alike(shape, [block.columns[place] for place in order], [block.kinds[place] for place in order])


@lru_cache(maxsize=_KNOWN_FORMS)
def _shape_of_form(form: Form) -> tuple[Shape, Sequence[int]]:
    """The shape of changes of a form, and where its columns stand in these."""
    shape = _shape(form.key, (form.set, form.add, form.max, form.min), form.delete)
    place = {name: at for at, name in enumerate(form.columns)}
    return shape, [place[name] for name in (*shape.key, *(name for name, _, _ in shape.steps))]


_PARTS: Final[Mapping[str, Callable[[Iterable[Change]], list[dict[str, Any]]]]] = {
    "key": lambda rows: [row.key for row in rows],
    "set": lambda rows: [row.set for row in rows],
    "add": lambda rows: [row.add for row in rows],
    "max": lambda rows: [row.max for row in rows],
    "min": lambda rows: [row.min for row in rows],
}


def _columns_of(shape: Shape, rows: Sequence[Row]) -> Operands | None:
    """The columns of ``rows``, at least one, if all of them are of this shape."""
    changes = [row for row in rows if type(row) is Change and row.delete is shape.deletes]
    if len(changes) < len(rows):
        return None if changes else _columns_of_upserts(shape, rows)
    found: dict[str, Sequence[Any]] = {}
    for verb, part in _PARTS.items():
        names = shape.key if verb == "key" else [name for name, how, _ in shape.steps if how == verb]
        columns = part(changes)
        if any(columns) if not names else set(map(len, columns)) != {len(names)}:
            return None
        try:
            found |= {name: [row[name] for row in columns] for name in names}
        except KeyError:
            return None
    return [found[name] for name in (*shape.key, *(name for name, _, _ in shape.steps))]


def _columns_of_upserts(shape: Shape, rows: Sequence[Row]) -> Operands | None:
    """As `_columns_of`; the operands of upserts, each of which has one with candidates."""
    upserts = [row for row in rows if isinstance(row, Upsert) and _shape_of(row) == shape]
    if len(upserts) < len(rows):
        return None
    keys = [[row.key[name] for row in upserts] for name in shape.key]
    return [*keys, *([row.steps[name].operand for row in upserts] for name, _, _ in shape.steps)]
