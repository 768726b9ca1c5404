"""The statements of a read: rows as they are, and a row with the operations that are still to be applied to it.

The second is one ``SELECT`` that does to the row, operation after operation, what `pipeline.store.bulk` would do, with
the same expressions; so PostgreSQL decides what only it can know (collations, scales, domains …), and nothing is
written. A row that is missing is the row of the columns' defaults: a law of `pipeline.core.change`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from psycopg import sql

from pipeline.core.fold import Delete, Operation, Upsert
from pipeline.core.table import Column, Kind, Table
from pipeline.core.values import Columns
from pipeline.store.bulk import check_shape, operand_text
from pipeline.store.plans import PARAMETER, Shape, parameter_type, parametrised, result
from pipeline.store.text import array_text, text_of

__all__ = ["Query", "array_of", "folded_row", "key_texts", "stored_rows"]

_COMMA: Final = sql.SQL(", ")
_AND: Final = sql.SQL(" AND ")


class Query(NamedTuple):
    """A statement and its parameters."""

    text: bytes
    parameters: Sequence[str | None]


def key_texts(table: Table, key: Columns) -> dict[str, str]:
    """The values of ``key`` as PostgreSQL reads them; raises `Unfit`."""
    return {name: text_of(value, table.columns[name]) for name, value in key.items()}


def stored_rows(table: Table, names: Sequence[str]) -> bytes:
    """The rows with the keys in arrays, one array for each of the columns ``names``.

    Behind them come two more, of shards and of the batches that they have acknowledged, and a namespace. Result: number
    of the key from 1, whether an applied event may be accepted again, whether there is a row, its columns.
    """
    arrays = [_array(table.columns[name]) for name in names]
    keys = [sql.Identifier(f"key {number}") for number in range(len(names))]
    match = _AND.join(
        sql.SQL("target.{} = wanted.{}").format(sql.Identifier(name), key)
        for name, key in zip(names, keys, strict=True)
    )
    return parametrised(
        sql.SQL(
            "/* {version} */ "
            "SELECT wanted.number, coalesce(ledger.seq > wanted.seq OR ledger.recheck_until > now(), false), "
            "target.{present} IS NOT NULL, {columns} "
            "FROM unnest({arrays}, {parameter}::int[], {parameter}::bigint[]) "
            "WITH ORDINALITY AS wanted ({keys}, shard, seq, number) "
            "LEFT JOIN pipeline.shard AS ledger ON ledger.namespace = {parameter} AND ledger.shard = wanted.shard "
            "LEFT JOIN {target} AS target ON {match}"
        )
        .format(
            version=sql.SQL(_version(table)),
            present=sql.Identifier(names[0]),
            columns=_COMMA.join(sql.SQL("target.{}").format(sql.Identifier(name)) for name in table.columns),
            arrays=_COMMA.join(arrays),
            parameter=sql.SQL(PARAMETER),
            keys=_COMMA.join(keys),
            target=sql.Identifier(table.schema, table.name),
            match=match,
        )
        .as_string()
    )


def _version(table: Table) -> str:
    """What makes the statement another one when a type changes: the prepared one would be refused for ever."""
    types = [(column.name, column.type) for column in table.columns.values()]
    return blake2b(repr((table.oid, types)).encode(), digest_size=8).hexdigest()


def _array(column: Column) -> sql.SQL:
    return sql.SQL(f"{PARAMETER}::" + parameter_type(column, candidates=True))


def folded_row(table: Table, key: Mapping[str, str], operations: Sequence[Operation]) -> Query | None:
    """The row after ``operations``: whether there was one before, and its columns. ``None``: it ends deleted."""
    last = max((place for place, done in enumerate(operations) if isinstance(done, Delete)), default=-1)
    upserts = [done for done in operations[last + 1 :] if isinstance(done, Upsert)]
    if last >= 0 and not upserts:
        return None
    found = sql.Identifier(_unused(table))
    columns = _COMMA.join(map(sql.Identifier, table.columns))
    parameters: list[str | None] = []
    text = _initial(table, key, found, parameters, stored=last < 0)
    for upsert in upserts:
        if upsert.steps:
            text = _step(table, upsert, found, text, parameters)
    final = [
        sql.SQL("({})").format(sql.SQL(column.expression)) if column.expression else sql.Identifier(name)
        for name, column in table.columns.items()
    ]
    text = sql.SQL("SELECT {}, {} FROM ({}) AS {} ({}, {})").format(
        found, _COMMA.join(final), text, sql.Identifier(table.name), found, columns
    )
    return Query(parametrised(text.as_string()), parameters)


def _unused(table: Table) -> str:
    name = "found"
    while name in table.columns:
        name += "_"
    return name


def _fitted(expression: sql.Composable, column: Column) -> sql.Composed:
    """``expression`` as the column holds it: as by an assignment, what is too long is refused and not cut off."""
    if column.limited is not None and column.kind is not Kind.ARRAY:
        function, length = column.limited
        plain = sql.SQL("CAST({} AS {})").format(expression, sql.SQL(column.plain_type))
        expression = sql.SQL("pg_catalog.{}({}, {}, false)").format(
            sql.Identifier(function), plain, sql.Literal(length)
        )
    collation = f" COLLATE {column.collation}" if column.collation else ""
    return sql.SQL("CAST({} AS {}){}").format(expression, sql.SQL(column.type), sql.SQL(collation))


def _initial(
    table: Table, key: Mapping[str, str], found: sql.Identifier, parameters: list[str | None], *, stored: bool
) -> sql.Composed:
    """The row as it is, if it is to be looked for and there is one; else the row of the defaults."""
    target = sql.Identifier(table.schema, table.name)
    match = _AND.join(
        sql.SQL("{} = {}::{}").format(
            sql.Identifier(name), sql.SQL(PARAMETER), sql.SQL(parameter_type(table.columns[name]))
        )
        for name in key
    )
    defaults = []
    keys: list[str | None] = list(key.values())
    given: list[str | None] = []
    for name, column in table.columns.items():
        value: sql.Composable = sql.SQL("NULL")
        if name in key:
            value = sql.SQL(PARAMETER)
            given.append(key[name])
        elif column.default is not None and not column.assigned:
            value = sql.SQL(f"({column.default})")
        defaults.append(sql.SQL("{} AS {}").format(_fitted(value, column), sql.Identifier(name)))
    fresh = sql.SQL("SELECT false AS {}, {}").format(found, _COMMA.join(defaults))
    if not stored:
        parameters += given
        return fresh
    parameters += [*keys, *given, *keys]
    columns = _COMMA.join(map(sql.Identifier, table.columns))
    return sql.SQL(
        "SELECT true AS {found}, {columns} FROM {target} WHERE {match} UNION ALL {fresh} "
        "WHERE NOT EXISTS (SELECT FROM {target} WHERE {match})"
    ).format(found=found, columns=columns, target=target, match=match, fresh=fresh)


def _step(
    table: Table, upsert: Upsert, found: sql.Identifier, before: sql.Composed, parameters: list[str | None]
) -> sql.Composed:
    """The row after one more operation."""
    values: list[sql.Composable] = []
    stage: list[sql.Composable] = []
    steps = tuple((name, step.verb, step.candidates) for name, step in upsert.steps.items())
    check_shape(table, Shape(tuple(upsert.key), steps))
    for name, column in table.columns.items():
        old = sql.SQL("target.{}").format(sql.Identifier(name))
        step = upsert.steps.get(name)
        if step is None:
            values.append(old)
            continue
        type_ = sql.SQL(parameter_type(column, candidates=step.candidates))
        stage.append(sql.SQL("{}::{} AS {}").format(sql.SQL(PARAMETER), type_, sql.Identifier(name)))
        parameters.append(operand_text(step, column))
        new = _fitted(result(name, step.verb, old, step.candidates), column)
        values.append(sql.SQL("{} AS {}").format(new, sql.Identifier(name)))
    return sql.SQL("SELECT target.{}, {} FROM ({}) AS target CROSS JOIN (SELECT {}) AS stage").format(
        found, _COMMA.join(values), before, _COMMA.join(stage)
    )


_TEXT: Final = Column("", "text", "text", Kind.TEXT)


def array_of(texts: Iterable[str]) -> str:
    """A PostgreSQL array of these texts, whatever its type."""
    return array_text(texts, _TEXT)
