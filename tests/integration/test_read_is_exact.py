"""What a read folds on top of a row is what the flush will make of it, for every type and every sequence of changes."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from pipeline import Config, StoreError
from pipeline.core.cached import Pending
from pipeline.core.change import Change
from pipeline.core.values import identity
from pipeline.driving import run
from pipeline.reading import Place, Question
from pipeline.store.reader import PostgresRows
from tests.integration.test_fold_is_exact import (
    BEFORE,
    DEFINITIONS,
    Twins,
    Writes,
    a_few,
    change_of,
    lives,
    moves,
    quick,
    twins,
)

__all__ = ["twins"]

UNREADABLE = "psycopg has no Python value for it"


def read(reader: PostgresRows, row: int, pending: Sequence[Change]) -> dict[str, Any] | str | None:
    """The row with what is pending on it."""
    key = {"part": "a:&=", "id": row}
    changes = [Pending(seq, f"never applied {seq}", change) for seq, change in enumerate(pending)]
    try:
        (found,) = run(reader.read([Question(Place("at_once", identity(key), 0), key, 10**9, changes)]))
    except StoreError as error:
        return UNREADABLE if isinstance(error.__cause__, psycopg.DataError) else str(error)
    return found.row


def stored(twins: Twins, row: int) -> dict[str, Any] | str | None:
    with twins._connection.cursor(row_factory=dict_row) as cursor:
        try:
            return cursor.execute("SELECT * FROM at_once WHERE id = %s", [row]).fetchone()
        except psycopg.DataError:
            return UNREADABLE


def check(twins: Twins, rows: Sequence[Writes], before: int = BEFORE) -> None:
    twins.clear()
    reader = PostgresRows(twins._sessions, Config(), time.monotonic)
    steps = list(zip(*rows, strict=True))
    for step in steps[:before]:
        twins.write([change_of("at_once", row, write) for row, write in enumerate(step)])
    seen = {
        row: read(reader, row, [change_of("at_once", row, write) for write in life[before:]])
        for row, life in enumerate(rows)
    }
    twins.write([change_of("at_once", row, write) for step in steps[before:] for row, write in enumerate(step)])
    for row, life in enumerate(rows):
        now = stored(twins, row)
        assert (seen[row], types(seen[row])) == (now, types(now)), life
        assert read(reader, row, []) == now


def types(row: dict[str, Any] | str | None) -> Any:
    return {name: type(value) for name, value in row.items()} if isinstance(row, dict) else None


@settings(quick, max_examples=max(4, settings().max_examples // 5))
@given(data=st.data())
def test_a_read_says_what_the_flush_will_make_of_the_row(twins: Twins, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.sampled_from(list(DEFINITIONS)), min_size=4, max_size=4, unique=True))
    check(twins, [life for column in columns for life in data.draw(st.lists(lives(column), min_size=6, max_size=6))])


def test_every_move_on_a_row_that_is_there_and_on_one_that_is_not_reads_as_it_is_written(
    twins: Twins,
) -> None:
    for column in DEFINITIONS:
        found = a_few(moves(column))
        check(twins, [[(move, None)] for move in found], before=0)
        check(twins, [[(first, None), (second, None)] for first, second in itertools.pairwise([*found, found[0]])], 1)
