"""Facts about tables, from PostgreSQL's catalog, cached per process until something does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipeline.core.failure import Meaning
from pipeline.core.table import Column, Kind, Table, depths, reach
from pipeline.errors import ApplyFailed
from pipeline.store.queries import Queries
from pipeline.store.statements import statement
from pipeline.store.text import Unfit

__all__ = ["Catalog"]

_KINDS: Final[dict[str, Kind]] = {
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "numeric": Kind.DECIMAL,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "citext": Kind.TEXT,
    "name": Kind.TEXT,
    "bytea": Kind.BYTES,
    "bool": Kind.BOOL,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    "timestamptz": Kind.TIMESTAMPTZ,
    "timestamp": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timetz": Kind.TIME,
    "interval": Kind.INTERVAL,
}
_BITS: Final = {"int2": 16, "int4": 32, "int8": 64}
_LIMITED: Final = frozenset({"varchar", "bpchar", "bit", "varbit"})  # and so are called the functions
_FORBIDDEN: Final = frozenset({"pipeline", "pg_catalog", "information_schema", "pg_toast"})
_TABLES: Final = "rp"  # pg_class.relkind: ordinary and partitioned tables


class Catalog:
    """Tables by the name that a change gives them.

    Threads may share it: reading a table twice does no harm.
    """

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}
        self._fingerprints: dict[str, str] = {}

    async def freshen(self, queries: Queries, names: Iterable[str]) -> None:
        """Forget those of the tables ``names`` that have changed since they were read.

        One statement. A changed type, default, index or foreign key makes no error by itself, but wrong rows.
        """
        known = self.known(names)
        if known:
            self.compare(known, await _fingerprints(queries, known))

    def known(self, names: Iterable[str]) -> list[str]:
        """Those of the tables ``names`` that have been read already."""
        return [name for name in names if name in self._tables]

    def compare(self, known: Iterable[str], now: Mapping[str, str]) -> None:
        """As `freshen`, with the fingerprints that the tables have ``now``."""
        changed = [name for name in known if now.get(name) != self._fingerprints.get(name)]
        for name in changed:
            self._tables.pop(name, None)

    def forget(self) -> None:
        """Read everything anew from now on: the schema seems to have changed."""
        self._tables = {}

    def get(self, name: str) -> Table | None:
        """The table called ``name`` (canonical SQL spelling), if it has been read already."""
        return self._tables.get(name)

    async def read(self, queries: Queries, name: str) -> Table:
        """Read the table called ``name``.

        Raises:
            ApplyFailed: there is no such table, or it is none that can be written in bulk (meaning: systemic).
        """
        fingerprint = (await _fingerprints(queries, [name])).get(name, "")
        table = self._tables[name] = await _read(queries, name)
        self._fingerprints[name] = fingerprint
        return table


async def _fingerprints(queries: Queries, names: list[str]) -> dict[str, str]:
    return dict(await queries.rows(statement("catalog_fingerprints"), {"names": names}))


async def _read(queries: Queries, name: str) -> Table:
    found = await queries.row(statement("catalog_table"), {"name": name})
    if found is None:
        raise ApplyFailed(f"there is no table {name}", "42P01", Meaning.SYSTEMIC, name)
    oid, schema, relname, relkind, copies = found
    if schema in _FORBIDDEN:
        raise Unfit(name, f"a table of the schema {schema} belongs to PostgreSQL or to the pipeline itself")
    if relkind not in _TABLES:
        raise ApplyFailed(f"{name} is not a table", "42809", Meaning.SYSTEMIC, name)
    columns = [_column(record) for record in await queries.records(statement("catalog_columns"), {"oid": oid})]
    unique = await queries.rows(statement("catalog_unique_keys"), {"oid": oid})
    references = await queries.rows(statement("catalog_references"))
    return Table(
        oid=oid,
        schema=schema,
        name=relname,
        columns={column.name: column for column in columns},
        unique_keys=frozenset(frozenset(row[0]) for row in unique),
        depth=depths((child, parent) for child, parent, _ in references if child != parent).get(oid, 0),
        cascades=reach(((parent, child) for child, parent, cascades in references if cascades), oid),
        copies=copies,
    )


def _column(row: dict[str, Any]) -> Column:
    base = row["typname"]
    unit = row["element_typname"] if row["is_array"] else base
    kind = Kind.ARRAY if row["is_array"] else _KINDS.get(base, Kind.OTHER)
    bits = _BITS.get(base, 1)
    return Column(
        name=row["attname"],
        type=row["type"],
        plain_type=row["plain_type"],
        kind=kind,
        element=_KINDS.get(row["element_typname"], Kind.OTHER) if row["is_array"] else None,
        scale=_scale(row["typmod"]) if base == "numeric" else None,
        low=-(2 ** (bits - 1)),
        high=2 ** (bits - 1) - 1,
        default=row["default_sql"],
        generated=row["generated"],
        identity_always=row["identity_always"],
        collation=row["collation"],
        not_null=row["not_null"],
        assigned=row["identity"] or "nextval(" in (row["default_sql"] or ""),
        expression=row["expression"],
        limited=(unit, row["typmod"]) if unit in _LIMITED and row["typmod"] >= 0 else None,
    )


def _scale(typmod: int) -> int | None:
    """The scale in the type modifier of a numeric, as ``numeric_typmod_scale`` in PostgreSQL's numeric.c reads it."""
    return None if typmod < 0 else (((typmod - 4) & 0x7FF) ^ 1024) - 1024
