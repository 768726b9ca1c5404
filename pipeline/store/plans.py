"""The statements through which rows of one shape go: into a stage, and from there into their table.

Rows of one table are grouped by what happens to which column (their shape), because one statement can do only one kind
of thing to a column. Names enter SQL as quoted identifiers, values as COPY data or parameters; only expressions of the
catalog itself (a column's default) are taken over as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from psycopg import sql

from pipeline.core.table import Column, Table
from pipeline.store.novelty import Novelty
from pipeline.store.text import COPY_OPTIONS

__all__ = [
    "PARAMETER",
    "Plan",
    "Shape",
    "copy_into",
    "names_of",
    "parameter_type",
    "parametrised",
    "plan_of",
    "result",
    "stage_type",
]


class Shape(NamedTuple):
    """What rows that go through one statement have in common: key columns, and (column, verb, candidates?) triples."""

    key: tuple[str, ...]
    steps: tuple[tuple[str, str, bool], ...]
    deletes: bool = False


class Plan(NamedTuple):
    """The statements for one table and shape; ``single`` takes the row as parameters, the others take none.

    ``append`` copies rows straight into the table, if they are new: there is none where they might be wrong there.
    ``novelty`` is what was seen of such rows. ``table`` is what was known of the table when the statements were made.
    """

    table: Table
    stage: str
    clear: bytes
    create: bytes
    copy: bytes
    run: bytes
    single: bytes
    append: bytes | None
    novelty: Novelty


PARAMETER: Final = "\x00"

_COMMA: Final = sql.SQL(", ")
_GREATEST: Final = {"max": sql.SQL("GREATEST"), "min": sql.SQL("LEAST")}
_FIRST: Final = {"max": sql.SQL("DESC"), "min": sql.SQL("ASC")}


def names_of(names: Iterable[str]) -> sql.Composed:
    """Columns in a list of SQL."""
    return _COMMA.join(map(sql.Identifier, names))


def copy_into(target: sql.Composable, names: Iterable[str]) -> sql.Composed:
    """The statement that reads `pipeline.store.text.copy_data`."""
    return sql.SQL("COPY {} ({}) FROM STDIN {}").format(target, names_of(names), sql.SQL(COPY_OPTIONS))


def plan_of(table: Table, shape: Shape, before: Plan | None = None) -> Plan:
    """The statements for a shape that fits the table: see `pipeline.store.bulk.check_shape`.

    What was seen of rows with the plan ``before`` still counts: that a table has changed makes no old row new.
    """
    names = [*shape.key, *(name for name, _, _ in shape.steps)]
    types = [sql.SQL(stage_type(table.columns[name], "set", candidates=False)) for name in shape.key]
    types += [sql.SQL(stage_type(table.columns[name], verb, candidates=many)) for name, verb, many in shape.steps]
    definition = _COMMA.join(
        sql.Composed([sql.Identifier(name), sql.SQL(" "), type_]) for name, type_ in zip(names, types, strict=True)
    )
    fingerprint = blake2b(f"{table.oid} {definition.as_string()}".encode(), digest_size=8).hexdigest()
    name = f"pipeline_stage_{fingerprint}"
    stage = sql.Identifier("pg_temp", name)
    statement = _delete if shape.deletes else _merge
    many = {name for name, _, candidates in shape.steps if candidates}
    one = _COMMA.join(
        sql.SQL("{}::{} AS {}").format(
            sql.SQL(PARAMETER),
            sql.SQL(parameter_type(table.columns[name], candidates=name in many)),
            sql.Identifier(name),
        )
        for name in names
    )
    single = statement(table, shape, sql.Composed([sql.SQL("(SELECT "), one, sql.SQL(")")])).as_string()
    return Plan(
        table=table,
        stage=name,
        clear=_bytes(sql.SQL("DELETE FROM {}").format(stage)),
        create=_bytes(
            sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(stage, definition)
        ),
        copy=_bytes(copy_into(stage, names)),
        run=_bytes(statement(table, shape, stage)),
        single=parametrised(single),
        append=_bytes(copy_into(sql.Identifier(table.schema, table.name), names)) if _copies(table, shape) else None,
        novelty=Novelty() if before is None else before.novelty,
    )


def _copies(table: Table, shape: Shape) -> bool:
    """Whether new rows may be copied into ``table`` as they are, and a row that is there already makes an error.

    What an operand makes of a default must be computed.
    """
    return table.copies and not shape.deletes and all(verb == "set" for _, verb, _ in shape.steps)


def _bytes(text: sql.Composed) -> bytes:
    return text.as_string().encode()


def parametrised(text: str) -> bytes:
    """``text`` as a query of psycopg, in which `PARAMETER` stands for a parameter."""
    return text.replace("%", "%%").replace(PARAMETER, "%s").encode()


def stage_type(column: Column, verb: str, *, candidates: bool) -> str:
    """The type in which an operand is staged: the column's own. All of it is text that the catalog itself wrote.

    Increments are staged in the plain base type, because a domain's checks and a numeric's scale are about the sum.
    """
    return _spelled(column, plain=verb == "add" or candidates, candidates=candidates)


def parameter_type(column: Column, *, candidates: bool = False) -> str:
    """The type of an operand that is a parameter: without a length, since a cast to one cuts off what is too long.

    Where the value is assigned to the column, PostgreSQL refuses that instead.
    """
    return _spelled(column, plain=True, candidates=candidates)


def _spelled(column: Column, *, plain: bool, candidates: bool) -> str:
    text = column.plain_type if plain else column.type
    return text + ("[]" if candidates else "") + (f" COLLATE {column.collation}" if column.collation else "")


def _match(shape: Shape) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("target.{0} = stage.{0}").format(sql.Identifier(name)) for name in shape.key)


def _delete(table: Table, shape: Shape, stage: sql.Composable) -> sql.Composed:
    return sql.SQL("DELETE FROM {} AS target USING {} AS stage WHERE {}").format(
        sql.Identifier(table.schema, table.name), stage, _match(shape)
    )


def _merge(table: Table, shape: Shape, stage: sql.Composable) -> sql.Composed:
    updates = [
        sql.SQL("{} = {}").format(
            sql.Identifier(name), result(name, verb, sql.Composed([sql.SQL("target."), sql.Identifier(name)]), many)
        )
        for name, verb, many in shape.steps
    ]
    values: list[sql.Composable] = [sql.SQL("stage.{}").format(sql.Identifier(name)) for name in shape.key]
    for name, verb, many in shape.steps:
        default = table.columns[name].default
        base = None if default is None else sql.SQL(f"({default})")
        values.append(result(name, verb, base, many))
    overriding = any(table.columns[name].identity_always for name in shape.key)
    return sql.SQL(
        "MERGE INTO {target} AS target USING {stage} AS stage ON {match} "
        "WHEN MATCHED THEN {update} WHEN NOT MATCHED THEN INSERT ({names}) {overriding}VALUES ({values})"
    ).format(
        target=sql.Identifier(table.schema, table.name),
        stage=stage,
        match=_match(shape),
        update=sql.SQL("UPDATE SET ") + _COMMA.join(updates) if updates else sql.SQL("DO NOTHING"),
        names=names_of([*shape.key, *(name for name, _, _ in shape.steps)]),
        overriding=sql.SQL("OVERRIDING SYSTEM VALUE ") if overriding else sql.SQL(""),
        values=_COMMA.join(values),
    )


def result(name: str, verb: str, base: sql.Composable | None, candidates: bool) -> sql.Composable:  # noqa: FBT001
    """The SQL expression of the column's new value; ``base`` is the old value, ``None`` if there is none."""
    operand: sql.Composable = sql.SQL("stage.{}").format(sql.Identifier(name))
    if candidates:
        # of equal ones the earlier, as GREATEST and LEAST have it
        operand = sql.SQL(
            "(SELECT candidate FROM unnest({}) WITH ORDINALITY AS _ (candidate, place) "
            "ORDER BY candidate {}, place LIMIT 1)"
        ).format(operand, _FIRST[verb])
    if verb == "set" or base is None:
        return operand
    if verb == "add":
        return sql.SQL("COALESCE({} + {}, {})").format(base, operand, operand)
    return sql.SQL("{}({}, {})").format(_GREATEST[verb], base, operand)
