"""What the engine must know about a table. Plain facts; `pipeline.store.catalog` reads them from PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

__all__ = ["SUMMABLE", "Column", "Kind", "Table", "depths", "reach"]


class Kind(StrEnum):
    """The family of a column's type, as far as the engine treats families differently."""

    INTEGER = "integer"  # smallint, integer, bigint
    DECIMAL = "decimal"  # numeric
    FLOAT = "float"  # real, double precision
    TEXT = "text"
    BYTES = "bytes"
    BOOL = "bool"
    JSON = "json"  # json, jsonb
    ARRAY = "array"
    TIMESTAMPTZ = "timestamptz"
    TIMESTAMP = "timestamp"
    DATE = "date"
    TIME = "time"  # time, timetz
    INTERVAL = "interval"
    OTHER = "other"  # enums, ranges, network addresses, composites, extension types …: text in, text out


SUMMABLE = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT, Kind.INTERVAL})
"""Kinds of columns that ``add`` works on."""


class Column(msgspec.Struct, frozen=True):
    """One column.

    ``type`` is its SQL type with modifiers, ``plain_type`` without them (``numeric(10,2)``, ``numeric``). ``kind`` is
    the family of the type, or of the base type of a domain. ``element`` is the family of an array's elements.
    ``scale`` is the number of decimal places of a ``numeric`` column (``None``: as many as the value has). ``low`` and
    ``high`` bound an integer column. ``default`` is the SQL text of its default, from the catalog, ``None`` if it has
    none. ``collation`` is the quoted name of a collation that is not the type's own. ``assigned``: PostgreSQL takes its
    value from a sequence when the row is inserted. ``expression`` is the SQL text of a generated column. ``limited``:
    the type (of an array: of its elements) has a length; the function of PostgreSQL that refuses what is too long (a
    cast would cut it off), and the modifier that it takes.
    """

    name: str
    type: str
    plain_type: str
    kind: Kind
    element: Kind | None = None
    scale: int | None = None
    low: int = 0
    high: int = 0
    default: str | None = None
    generated: bool = False
    identity_always: bool = False
    collation: str | None = None
    not_null: bool = False
    assigned: bool = False
    expression: str | None = None
    limited: tuple[str, int] | None = None


class Table(msgspec.Struct, frozen=True):
    """One table (or partitioned table), by its object id.

    ``unique_keys`` are the column sets by which a row can be addressed: the primary key and every unique index that is
    neither partial, deferrable nor on expressions. ``depth`` is its place in the order of foreign keys: a table is
    deeper than every table that it references. ``cascades`` are the object ids of the tables whose rows PostgreSQL
    itself may delete or change when a row of this one is deleted (``ON DELETE CASCADE``, ``SET NULL`` …). ``copies``:
    ``COPY`` into it does what ``INSERT`` does, and makes an error of a row that is found in it already.
    """

    oid: int
    schema: str
    name: str
    columns: dict[str, Column]
    unique_keys: frozenset[frozenset[str]]
    depth: int = 0
    cascades: frozenset[int] = frozenset()
    copies: bool = False


def depths(references: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The depth of every table in a graph of foreign keys, given as (referencing, referenced) pairs of object ids.

    A table that references nothing has depth 0. In a cycle somebody must be first: there the walk stops.
    """
    parents: dict[int, set[int]] = {}
    for child, parent in references:
        parents.setdefault(child, set()).add(parent)
    found: dict[int, int] = {}

    def depth(table: int, path: frozenset[int]) -> int:
        if table not in found:
            above = (depth(parent, path | {table}) for parent in parents.get(table, ()) if parent not in path | {table})
            found[table] = 1 + max(above, default=-1)
        return found[table]

    for table in parents:
        depth(table, frozenset())
    return found


def reach(edges: Iterable[tuple[int, int]], start: int) -> frozenset[int]:
    """Everything that can be reached from ``start`` over ``edges`` (from, to), in one step or more."""
    following: dict[int, set[int]] = {}
    for source, target in edges:
        following.setdefault(source, set()).add(target)
    found: set[int] = set()
    ahead = [start]
    while ahead:
        fresh = following.get(ahead.pop(), set()) - found
        found |= fresh
        ahead += fresh
    return frozenset(found)
