"""Write the waves of a fold: ``COPY`` into a temporary table shaped like the target, then one ``MERGE`` or ``DELETE``.

A statement is made once per table and shape of its rows: see `pipeline.store.plans`. Rows that are likely to be new are
copied straight into the target, and take the other way only if that fails: see `pipeline.store.novelty`.

Order within a wave: upserts and inserts, referenced tables first; then deletes, referencing tables first. Rows are
sorted by what COPY is given of them, which begins with their key, so that two flushers do not wait for each other's
rows crosswise. (Where there is no room for one more temporary table, rows are sorted by the texts of their keys. That
may be another order; but two shards share a row only if it is addressed by two keys, and then PostgreSQL ends one of
the two transactions, which is tried again.)

Everything works on columns: nearly always all rows of a table are of one shape, so it is looked at once.

The session that runs these statements has hash and merge joins and sequential scans off (see `pipeline.store.session`):
the temporary table has no statistics, and a plan that reads the whole target would be a disaster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

import psycopg
from psycopg import sql

from pipeline.core.change import Change, printable
from pipeline.core.entries import Block, Form, block_of
from pipeline.core.fold import Insert, Step, Wave
from pipeline.core.table import SUMMABLE, Column, Table
from pipeline.core.values import Columns
from pipeline.store.diagnosis import BLAMED, meaning_of
from pipeline.store.novelty import Novelty
from pipeline.store.outbox import Outbox
from pipeline.store.plans import PARAMETER, Plan, Shape, copy_into, names_of, parameter_type, parametrised, plan_of
from pipeline.store.shapes import Alike, Operands, alike, by_shape
from pipeline.store.statements import statement
from pipeline.store.text import Unfit, array_text, cells_of, copy_data, text_of, texts_of, texts_of_cells

__all__ = ["MAX_STAGES", "BulkWriter", "MissingColumn", "check_shape", "operand_text", "single"]


MAX_STAGES: Final = 64
"""Temporary tables of a session. Each holds a lock and is truncated at every commit; thousands would exhaust both."""


MAX_GUESSES: Final = 32
"""Times that rows are taken for new in a transaction. PostgreSQL keeps 64 savepoints of each at hand; with more, every
snapshot in the server has to look for the others on disk."""

_MARK: Final = b"SAVEPOINT pipeline_new"
_KEPT: Final = b"RELEASE SAVEPOINT pipeline_new"
_BACK: Final = b"ROLLBACK TO SAVEPOINT pipeline_new; " + _KEPT


class BulkWriter:
    """Writes waves on the connection of an outbox, inside the transaction that the caller has open.

    Temporary tables (``stages``, their names) live as long as the session, so that a steady load does not churn the
    catalog. Rows of a shape for which there is no room any more are written one by one.
    """

    def __init__(
        self,
        outbox: Outbox,
        tables: Mapping[int, Table],
        plans: dict[tuple[int, Shape], Plan],
        stages: set[str],
        lane: int,
    ) -> None:
        """``lane``: see `pipeline.store.turns.lane_key`."""
        self._connection = outbox.connection
        self._outbox = outbox
        self._lane = lane
        self._tables = tables
        self._plans = plans
        self._stages = stages
        self._used: set[str] = set()
        self._written: Counter[int] = Counter()  # rows by table, of shapes that may be copied straight into it
        self._looked_for: dict[int, set[Novelty]] = {}
        self._guesses = 0
        self.at: Table | None = None
        """The table that is being written, or was last."""

    def make_room(self) -> None:
        """Outside of a transaction: drop the temporary tables if there is no room for more."""
        if len(self._stages) >= MAX_STAGES:
            self._connection.execute("DISCARD TEMP")
            self._stages.clear()
        if len(self._plans) > 16 * MAX_STAGES:
            self._plans.clear()

    @property
    def looked_for(self) -> Iterable[int]:
        """The object ids of the tables in which rows were looked for that may all have been new."""
        return self._looked_for

    def learn(self, inserted: Mapping[int, int]) -> None:
        """``inserted``: the rows that the transaction has put into tables of `looked_for`, as far as that is known."""
        for oid, novelties in self._looked_for.items():
            rows = self._written[oid]
            for novelty in novelties:
                novelty.learn(rows, all_new=inserted.get(oid) == rows)

    def write(self, waves: Sequence[Wave]) -> int:
        """Write ``waves`` in order and return the number of rows that were written or deleted.

        Raises:
            Unfit: a value, a verb or a key does not fit its table. Nothing is wrong with the transaction then.
            psycopg.Error: PostgreSQL refused something.
        """
        return sum(self._write_wave(wave) for wave in waves)

    def _write_wave(self, wave: Wave) -> int:
        rows = 0
        downwards = sorted({*wave.blocks, *wave.changes, *wave.inserts}, key=lambda oid: (self._tables[oid].depth, oid))
        deletes: list[tuple[Table, Alike]] = []
        for oid in downwards:
            table = self.at = self._tables[oid]
            blocks = wave.blocks.get(oid, ())
            addressed = map(alike, (block for block in blocks if block.names is not None))
            for each in sorted([*by_shape(wave.changes.get(oid, {}).values()), *addressed], key=itemgetter(0)):
                if each.shape.deletes:
                    deletes.append((table, each))
                else:
                    rows += self._merge(table, each)
            for block in blocks:
                if block.form.insert is not None:
                    rows += self._append_block(table, block)
            rows += self._append(table, wave.inserts.get(oid, ()))
        for table, each in reversed(deletes):
            self.at = table
            deleted = self._merge(table, each)
            if deleted < len(each.columns[0]):  # one of them may be on its way: see `lane_key`
                self._connection.execute(statement("close_lane"), {"lane": self._lane})
                deleted += self._merge(table, each)
            rows += deleted
        return rows

    def _merge(self, table: Table, rows: Alike) -> int:
        shape = rows.shape
        check_shape(table, shape)
        plan = self._plans.get((table.oid, shape))
        if plan is None or (plan.table is not table and plan.table != table):
            plan = self._plans[table.oid, shape] = plan_of(table, shape, plan)
        cells = _cells(table, rows)
        if plan.stage not in self._stages and len(self._stages) >= MAX_STAGES:
            texts = zip(*map(texts_of_cells, cells), strict=True)
            self._outbox.send()
            with self._connection.cursor() as cursor:
                cursor.executemany(plan.single, sorted(texts, key=itemgetter(slice(len(shape.key)))))
                return cursor.rowcount
        data = copy_data(cells, ordered=True)
        append = plan.append if plan.novelty.likely() and self._guesses < MAX_GUESSES else None
        count = None if append is None else self._copy_new(append, plan.novelty, data, len(cells[0]))
        if count is None:
            count = self._copy_and_merge(plan, data)
            if append is not None:
                plan.novelty.mistaken()  # only now: what is wrong with a row says nothing of others
            if plan.append is not None:
                self._looked_for.setdefault(table.oid, set()).add(plan.novelty)
        if plan.append is not None:
            self._written[table.oid] += count
        return count

    def _copy_new(self, append: bytes, novelty: Novelty, data: bytes, count: int) -> int | None:
        """Copy so many rows, likely new ones, straight into their table; None if one was not: then nothing was done.

        Of an old row PostgreSQL may first say something else: that a column is missing which an update leaves alone.
        And a trigger that was made just now may leave rows out without a word.
        """
        self._guesses += 1
        self._outbox.send(_MARK)
        try:
            is_done = self._copy(append, data) == count
        except psycopg.Error as error:
            if meaning_of(error) not in BLAMED:
                raise
            is_done = False
        if is_done:
            self._outbox.add(_KEPT)
            return count
        self._outbox.add(_BACK)
        novelty.learn(0, all_new=False)
        return None

    def _copy_and_merge(self, plan: Plan, data: bytes) -> int:
        self._outbox.add(plan.create)
        self._stages.add(plan.stage)
        if plan.stage in self._used:  # an earlier attempt of this transaction left its rows there
            self._outbox.add(plan.clear)
        self._used.add(plan.stage)
        self._outbox.send()
        self._copy(plan.copy, data)
        return self._connection.execute(plan.run).rowcount

    def _copy(self, copy_in: bytes, data: bytes) -> int:
        with self._connection.cursor() as cursor:
            with cursor.copy(copy_in) as copy:
                copy.write(data)
            return cursor.rowcount

    def _append(self, table: Table, inserts: Sequence[Insert]) -> int:
        by_columns: dict[tuple[str, ...], list[Columns]] = {}
        for insert in inserts:
            by_columns.setdefault(tuple(insert.values), []).append(insert.values)
        for names, rows in by_columns.items():
            columns = [[row[name] for row in rows] for name in names]
            self._append_block(table, block_of(Form(table.name, insert=names), columns, len(rows)))
        return len(inserts)

    def _append_block(self, table: Table, block: Block) -> int:
        self._outbox.send()
        target = sql.Identifier(table.schema, table.name)
        columns = [_assignable(table, name) for name in block.form.insert or ()]
        if not columns:
            for _ in range(block.size):
                self._connection.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(target))
            return block.size
        data = copy_data(list(map(cells_of, block.columns, columns, block.kinds)))
        return self._copy(copy_into(target, block.form.insert or ()).as_string().encode(), data)


def single(table: Table, change: Change) -> tuple[bytes, Sequence[str | None]]:
    """The statement for one change, and its parameters. Raises as `BulkWriter.write`."""
    if change.insert is not None:
        return _insert(table, change.insert)
    (row,) = by_shape([change])
    check_shape(table, row.shape)
    cells = _cells(table, row)
    return plan_of(table, row.shape).single, [text for column in cells for text in texts_of_cells(column)]


def _insert(table: Table, row: Columns) -> tuple[bytes, Sequence[str | None]]:
    columns = [_assignable(table, name) for name in row]
    target = sql.Identifier(table.schema, table.name)
    if not columns:
        return parametrised(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(target).as_string()), ()
    values = sql.SQL(", ").join(sql.SQL(f"{PARAMETER}::" + parameter_type(column)) for column in columns)
    text = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(target, names_of(row), values)
    return parametrised(text.as_string()), [text for column in columns for text in texts_of([row[column.name]], column)]


def check_shape(table: Table, shape: Shape) -> None:
    """Raise `Unfit` unless ``table`` can be addressed by the key and every verb works on its column."""
    for name in shape.key:
        _column(table, name)
    if frozenset(shape.key) not in table.unique_keys:
        named = ", ".join(shape.key)
        raise Unfit(named, f"not the primary key or a unique index of {table.name}, so it does not identify one row")
    for name, verb, _ in shape.steps:
        column = _assignable(table, name)
        if verb == "add" and column.kind not in SUMMABLE:
            raise Unfit(name, f"add needs a number or an interval, not the type {column.type}")


class MissingColumn(Exception):
    """A column that the catalog does not have: the schema is wrong, or our copy of it is old."""

    def __init__(self, table: str, column: str) -> None:
        super().__init__(table, column)
        self.table = table
        self.column = column

    def __str__(self) -> str:
        return f"table {self.table} has no column {printable(self.column)}"


def _column(table: Table, name: str) -> Column:
    column = table.columns.get(name)
    if column is None:
        raise MissingColumn(table.name, name)
    return column


def _assignable(table: Table, name: str) -> Column:
    column = _column(table, name)
    if column.generated:
        raise Unfit(name, "a generated column cannot be written")
    if column.identity_always:
        raise Unfit(name, "GENERATED ALWAYS AS IDENTITY: PostgreSQL assigns it")
    return column


# --- data -------------------------------------------------------------------------------------------------------------


def _cells(table: Table, rows: Alike) -> Operands:
    """The cells of the rows of one shape; raises `Unfit`."""
    shape, columns, known = rows
    kinds: Sequence[frozenset[type] | None] = [None] * len(columns) if known is None else known
    names = [(name, False) for name in shape.key] + [(name, candidates) for name, _, candidates in shape.steps]
    return [
        [array_text(value, table.columns[name]) for value in values]
        if candidates
        else cells_of(values, table.columns[name], types)
        for (name, candidates), values, types in zip(names, columns, kinds, strict=True)
    ]


def operand_text(step: Step, column: Column) -> str | None:
    """The operand of ``step`` as PostgreSQL reads it; raises `Unfit`."""
    if step.candidates:
        return array_text(step.operand, column)
    return None if step.operand is None else text_of(step.operand, column)
