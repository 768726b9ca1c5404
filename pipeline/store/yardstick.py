"""What writing costs without a pipeline: the statements that applications use, on tables made for it, to be measured.

Everything happens in the schema `SCHEMA`, which a `Yardstick` makes and removes. An advisory lock of its session keeps
two of them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, LiteralString, NamedTuple, Self, TypeVar

import psycopg
from psycopg import sql

from pipeline.errors import StoreError
from pipeline.store.session import translated
from pipeline.store.statements import statement

__all__ = ["SCHEMA", "Layout", "Yardstick", "chunks", "upsert_statement"]

SCHEMA: Final = "pipeline_bench"

Row = Sequence[Any]
T = TypeVar("T")


class Layout(NamedTuple):
    """A table to write to: columns and their types, as SQL has them, in the order of a row.

    No ``key``: rows are appended, and get a number from PostgreSQL. The columns in ``adds`` are counters: what is
    written to an existing row is added to it.
    """

    table: str
    columns: Mapping[str, LiteralString]
    key: Sequence[str] = ()
    adds: frozenset[str] = frozenset()


class Yardstick:
    """One connection, as an application has it; a context manager that closes it. Not thread-safe.

    ``namespace``: the pipeline's that is measured beside it, whose ledger is forgotten.
    """

    def __init__(self, database_url: str, namespace: str) -> None:
        self._database_url = database_url
        self._namespace = namespace

    def __enter__(self) -> Self:
        """Connect, and see that nobody else's schema is meant.

        Raises:
            StoreUnavailable: PostgreSQL is down.
            StoreError: somebody else is at it, or has a schema of this name.
        """
        with translated():
            self._connection = psycopg.connect(self._database_url, autocommit=True)
        try:
            self._begin()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _begin(self) -> None:
        with translated():
            locked, comment = (
                self._connection.execute(statement("yardstick_begin"), {"schema": SCHEMA}).fetchone() or ()
            )
        if not locked:
            raise StoreError(f"somebody else measures in this database, in the schema {SCHEMA}")
        if comment == "":
            raise StoreError(f"this database has a schema {SCHEMA} that is not ours to remove")

    def in_use(self) -> bool:
        """Whether anything of the namespace is in the ledger or a dead letter.

        Raises:
            NotMigrated: ``pipeline migrate`` has not run.
        """
        with translated():
            found = self._connection.execute(statement("yardstick_in_use"), {"namespace": self._namespace}).fetchone()
        return bool(found and found[0])

    def prepare(self) -> None:
        """Make the schema. Raises `StoreError`: we may not make one."""
        with translated():
            self._connection.execute(statement("yardstick_create"))
            self._connection.execute(statement("yardstick_mark"))

    def remove(self) -> None:
        """Remove the schema, and all of the namespace."""
        with translated():
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                # interrupted in the middle of something: what it has locked is in the way of the removal
                self._connection.close()
                self._connection = psycopg.connect(self._database_url, autocommit=True)
            self._connection.execute(statement("yardstick_drop"))
            self._connection.execute(statement("yardstick_forget"), {"namespace": self._namespace})

    def create(self, layout: Layout) -> None:
        """Make the table."""
        columns = [_column(name, type_) for name, type_ in layout.columns.items()]
        if not layout.key:
            columns.insert(0, sql.SQL("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"))
        else:
            columns.append(sql.SQL("PRIMARY KEY ({})").format(_names(layout.key)))
        with translated():
            self._connection.execute(
                sql.SQL("CREATE TABLE {} ({})").format(_table(layout), sql.SQL(", ").join(columns))
            )

    def empty(self, layout: Layout, rows: Sequence[Row] = ()) -> None:
        """Leave ``rows`` in the table, and nothing else, as a table that is in use: vacuumed, with statistics."""
        with translated():
            self._connection.execute(sql.SQL("TRUNCATE {}").format(_table(layout)))
        self.copy(layout, rows, len(rows) or 1)
        with translated():
            self._connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(_table(layout)))

    def upsert(self, layout: Layout, rows: Sequence[Row]) -> None:
        """Write one row after the other, each in a transaction of its own."""
        query = upsert_statement(layout)
        with translated():
            for row in rows:
                self._connection.execute(query, row)

    def executemany(self, layout: Layout, rows: Sequence[Row], at_once: int) -> None:
        """Write them with psycopg's ``executemany``, ``at_once`` rows in a transaction."""
        query = upsert_statement(layout)
        with translated():
            for chunk in chunks(rows, at_once):
                with self._connection.transaction(), self._connection.cursor() as cursor:
                    cursor.executemany(query, chunk)

    def copy(self, layout: Layout, rows: Sequence[Row], at_once: int) -> None:
        """Append them with ``COPY``, ``at_once`` rows in a transaction: the limit, since it looks for no row."""
        query = sql.SQL("COPY {} ({}) FROM STDIN").format(_table(layout), _names(layout.columns))
        with translated():
            for chunk in chunks(rows, at_once):
                with self._connection.cursor() as cursor, cursor.copy(query) as copy:
                    for row in chunk:
                        copy.write_row(row)

    def total(self, layout: Layout, column: str | None) -> int:
        """The sum of a column of all rows, or without one their number."""
        what = sql.SQL("count(*)") if column is None else sql.SQL("coalesce(sum({}), 0)").format(sql.Identifier(column))
        with translated():
            row = self._connection.execute(sql.SQL("SELECT {} FROM {}").format(what, _table(layout))).fetchone()
        return int(row[0]) if row else 0


def upsert_statement(layout: Layout) -> sql.Composed:
    """The statement with which an application writes one row, with positional parameters."""
    insert = sql.SQL("INSERT INTO {table} ({columns}) VALUES ({values})").format(
        table=_table(layout),
        columns=_names(layout.columns),
        values=sql.SQL(", ").join([sql.Placeholder()] * len(layout.columns)),
    )
    if not layout.key:
        return insert
    changes = [_change(layout, name) for name in layout.columns if name not in layout.key]
    return sql.SQL("{} ON CONFLICT ({}) DO UPDATE SET {}").format(
        insert, _names(layout.key), sql.SQL(", ").join(changes)
    )


def chunks(items: Sequence[T], at_once: int) -> Iterator[list[T]]:
    """``items`` in order, ``at_once`` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, at_once)):
        yield chunk


def _change(layout: Layout, name: str) -> sql.Composed:
    form = sql.SQL(
        "{column} = {table}.{column} + excluded.{column}" if name in layout.adds else "{column} = excluded.{column}"
    )
    return form.format(column=sql.Identifier(name), table=sql.Identifier(layout.table))


def _column(name: str, type_: LiteralString) -> sql.Composable:
    return sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type_))


def _names(names: Sequence[str] | Mapping[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _table(layout: Layout) -> sql.Identifier:
    return sql.Identifier(SCHEMA, layout.table)
