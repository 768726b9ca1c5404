"""One batch or many: in real PostgreSQL the rows are the same in the end, whatever the types of their columns are.

Many rows live through a few changes each. In one table all changes are one batch, and are folded; in a twin of it the
first changes of all rows are a batch, then the second ones, and so on, so that nothing is folded. Only values that
PostgreSQL takes are drawn: then both tables must be equal to the last character, and nothing needed isolation.
"""

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline import Config, Pipeline
from pipeline.contrib.embedded import Postgres
from pipeline.core.change import Change
from pipeline.core.codec import decode
from pipeline.core.table import Column
from pipeline.driving import run
from pipeline.ports import Batch
from pipeline.store.catalog import Catalog
from pipeline.store.postgres import PostgresStore
from pipeline.store.queries import BlockingQueries
from pipeline.store.session import Sessions
from tests.unit.messages import TASK, message

TYPES = """
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'Angry');
    CREATE DOMAIN score AS integer DEFAULT 3 CHECK (VALUE BETWEEN -100000 AND 100000);
    CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE > -100000);
    CREATE DOMAIN word AS text COLLATE "C" CHECK (VALUE <> 'forbidden');
    CREATE DOMAIN span AS interval(0);
    CREATE DOMAIN words AS text[];
"""
DEFINITIONS = {
    "int2": "smallint",
    "int4": "integer DEFAULT 7",
    "int8": "bigint NOT NULL DEFAULT 5",
    "exact": "numeric",
    "money": "numeric(10,2) DEFAULT 1.00",
    "rough": "numeric(5,-2)",
    "fine": "numeric(3,5)",
    "float4": "real",
    "float8": "double precision DEFAULT 0.5",
    "plain": "text",
    "posix": "text COLLATE \"C\" DEFAULT 'm'",
    "blind": "citext",
    "short": "varchar(8) NOT NULL DEFAULT 'none'",
    "padded": "char(8)",
    "moment": "timestamptz",
    "second": "timestamptz(0)",
    "clock": "timestamp",
    "day": "date DEFAULT '2013-01-02'",
    "hour": "time",
    "zoned": "timetz",
    "spent": "interval",
    "rounded": "interval(0)",
    "doc": "jsonb",
    "tags": "text[]",
    "counts": "integer[]",
    "flag": "boolean NOT NULL DEFAULT false",
    "token": "uuid",
    "mood": "mood DEFAULT 'ok'",
    "score": "score",
    "price": "price DEFAULT 2",
    "word": "word",
    "span": "span",
    "words": "words",
    "raw": "bytea",
    "address": "inet",
    "range": "int4range",
    "bits": "bit(4)",
}
HERE, THERE = timezone(timedelta(hours=2)), timezone(timedelta(hours=-7))
WHOLE = [0, 1, -1, 100, 7]
DECIMALS = [1, 30, 50, -150, Decimal("0.004"), Decimal("1.006"), Decimal("-0.10"), Decimal("1.00"), 0.1, 0.005]
FLOATS = [1.0, -2.5, 0.25, 3, Decimal("0.5")]  # their sums are exact
TEXTS = ["a", "A", "b", "ab", "B", "é", "e", "z", ""]
MOMENTS = [datetime(2013, 1, 1, hour, 0, 0, us, tzinfo=zone) for hour in (3, 5) for us in (0, 600_000)
           for zone in (UTC, HERE, THERE)]  # fmt: skip
CLOCKS = [moment.replace(tzinfo=None) for moment in MOMENTS]
SPANS = [timedelta(hours=13), timedelta(hours=-1), timedelta(days=1), timedelta(seconds=0.4), timedelta(days=-3)]
LISTS = [[], ["a"], ["b", None], ["a", "b"], ['x"y', "{z}"]]

ORDERED: Mapping[str, Sequence[Any]] = {  # set, max and min
    "plain": TEXTS,
    "posix": TEXTS,
    "blind": ["a", "A", "b", "B", "ab"],
    "short": TEXTS,
    "padded": TEXTS,
    "word": TEXTS,
    "moment": [*MOMENTS, "infinity", "2013-01-01 04:00+00"],
    "second": MOMENTS,
    "clock": [*CLOCKS, "-infinity"],
    "day": [date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 3), "infinity"],
    "hour": [time(5), time(5, 0, 0, 1), time(23)],
    "zoned": [time(5, tzinfo=UTC), time(5, tzinfo=HERE), time(3, tzinfo=UTC)],
    "flag": [True, False],
    "token": [uuid.UUID(int=1), uuid.UUID(int=2**127), str(uuid.UUID(int=2))],
    "mood": ["sad", "ok", "happy", "Angry"],
    "raw": [b"", b"\x00", b"\xff", b"a"],
    "address": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "range": ["[1,3)", "[1,2]", "empty", "[0,9)"],
    "bits": ["0101", "1000"],
}
SUMMED: Mapping[str, Sequence[Any]] = {  # add as well
    "int2": WHOLE,
    "int4": WHOLE,
    "int8": WHOLE,
    "score": WHOLE,
    "exact": [*DECIMALS, 10**40, Decimal("1E-20")],
    "money": DECIMALS,
    "price": DECIMALS,
    "rough": DECIMALS,
    "fine": [Decimal("0.00123"), Decimal("0.000004"), Decimal("0.000009"), Decimal("-0.001")],
    "float4": FLOATS,
    "float8": FLOATS,
    "spent": [*SPANS, timedelta(days=1, hours=-24), timedelta(hours=25)],
    "rounded": SPANS,
    "span": SPANS,
}
SET_TO: Mapping[str, Sequence[Any]] = {"tags": LISTS, "words": LISTS, "counts": [[], [1], [2, None], [1, 5]]}
COMPARED: Mapping[str, Sequence[Any]] = {
    "tags": ["{a}", "{b}", '{a,b,"c d"}'],
    "words": ["{a}", "{b}"],
    "counts": ["{1}", "{1,2}", "{}"],
    "doc": [1, True, False, 0, "a", "B", Decimal("1.0"), 2],
}

TABLES = ("at_once", "one_by_one")
Move = tuple[str, str, Any]


def moves(column: str) -> list[Move]:
    """What can be done to a column without PostgreSQL refusing it: (verb, column, operand)."""
    if column == "doc":
        sets: Sequence[Any] = [*COMPARED["doc"], {"a": [1, Decimal("1.10")]}, [], {}]
    else:
        sets = SET_TO.get(column) or ORDERED.get(column) or SUMMED[column]
    compared = COMPARED.get(column) or ORDERED.get(column) or SUMMED[column]
    found: list[Move] = [("set", column, value) for value in sets]
    found += [(verb, column, value) for value in compared for verb in ("max", "min")]
    found += [("add", column, value) for value in SUMMED.get(column, ()) for _ in range(2)]
    if "NOT NULL" not in DEFINITIONS[column]:
        found += [("set", column, None)] * 3
    return found


Writes = Sequence[tuple[Move | None, Move | None]]
"""What happens to a row, change by change: one or two moves, or none at all, which is a delete."""

STEPS = 6
BEFORE = 2  # of them make what there is before


def lives(column: str) -> st.SearchStrategy[Writes]:
    """The life of a row: moves on a column, some with a move on another one, and deletes."""
    other = "int4" if column != "int4" else "plain"
    step = st.tuples(
        st.sampled_from([*moves(column), *moves(column), None, None]),
        st.sampled_from([None, None, None, *moves(other)[:3]]),
    )
    return st.lists(step, min_size=STEPS, max_size=STEPS)


def change_of(table: str, row: int, write: tuple[Move | None, ...]) -> Change:
    parts: dict[str, dict[str, Any]] = {"set": {}, "add": {}, "max": {}, "min": {}}
    for verb, column, operand in filter(None, write):
        parts[verb][column] = operand
    # the same row may be spelled in more than one way
    key: dict[str, Any] = {"id": row, "part": "a:&="} if row % 2 else {"part": "a:&=", "id": str(row)}
    return Change(table, key, parts["set"], parts["add"], parts["max"], parts["min"], delete=not any(write))


class Twins:
    """Two tables of the same shape, and the store that writes to them."""

    def __init__(self, url: str) -> None:
        config = Config(database_url=url)
        with Pipeline(config) as pipeline:
            pipeline.migrate()
        self._sessions = Sessions(config)
        self._store = PostgresStore(self._sessions, config)
        self._seq = 0
        self._connection = psycopg.connect(url, autocommit=True)
        columns = ", ".join(f"{name} {definition}" for name, definition in DEFINITIONS.items())
        self._connection.execute(TYPES.encode())
        for table in TABLES:
            self._connection.execute(
                f"CREATE TABLE {table} (part text, {columns}, id bigint, PRIMARY KEY (id, part))".encode()
            )

    def close(self) -> None:
        self._connection.close()
        self._sessions.close()

    def clear(self) -> None:
        self._connection.execute("DELETE FROM at_once; DELETE FROM one_by_one")

    def write(self, changes: Sequence[Change]) -> None:
        """Apply one batch of one event per change, as it would come out of Redis."""
        events = [decode(message(str(number), [change]), TASK) for number, change in enumerate(changes)]
        batch = Batch(0, str(uuid.uuid4()), self._seq + 1, events, final=True, failures=0)
        applied = self._store.apply(batch)
        self._seq = applied.seq
        assert not applied.dead, self._reasons()
        assert applied.savepoints == 1, "the batch failed as a whole, and was isolated"

    def rows(self, table: str) -> dict[int, str]:
        """The rows by their ids, as PostgreSQL writes them, to the last character."""
        return dict(self._connection.execute(f"SELECT id, {table}::text FROM {table}".encode()).fetchall())

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        """Columns of the rows of the first table."""
        return self._connection.execute(f"SELECT {', '.join(names)} FROM at_once".encode()).fetchall()

    def column(self, name: str) -> Column:
        """What the store knows of a column."""
        return run(Catalog().read(BlockingQueries(self._connection), "at_once")).columns[name]

    def _reasons(self) -> list[Any]:
        return self._connection.execute("SELECT table_name, sqlstate, reason FROM pipeline.dead_letter").fetchall()


@pytest.fixture(scope="module")
def twins(postgres: Postgres, new_database: Callable[[], str]) -> Iterator[Twins]:
    with closing(Twins(postgres.url_of(new_database()))) as found:
        yield found


def check(twins: Twins, rows: Sequence[Writes], before: int = BEFORE) -> None:
    twins.clear()
    steps = list(zip(*rows, strict=True))
    for step in steps[:before]:
        twins.write([change_of(table, row, write) for table in TABLES for row, write in enumerate(step)])
    for step in steps[before:]:
        twins.write([change_of("one_by_one", row, write) for row, write in enumerate(step)])
    twins.write([change_of("at_once", row, write) for step in steps[before:] for row, write in enumerate(step)])
    at_once, one_by_one = twins.rows("at_once"), twins.rows("one_by_one")
    differences = at_once.items() ^ one_by_one.items()
    assert [(rows[row], at_once.get(row), one_by_one.get(row)) for row in {row for row, _ in differences}] == []


# Rows are independent, and a difference names its row: there is nothing to shrink, and no time to do it in.
quick = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])


@settings(quick, max_examples=max(4, settings().max_examples // 5))
@given(data=st.data())
def test_a_batch_leaves_the_rows_as_its_events_one_by_one_do(twins: Twins, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.sampled_from(list(DEFINITIONS)), min_size=4, max_size=4, unique=True))
    check(twins, [life for column in columns for life in data.draw(st.lists(lives(column), min_size=10, max_size=10))])


@settings(quick, max_examples=max(2, settings().max_examples // 10))
@given(data=st.data())
def test_changes_of_several_columns_are_no_different(twins: Twins, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.sampled_from(list(DEFINITIONS)), min_size=2, max_size=3, unique=True))
    steps = st.tuples(*[st.sampled_from([*moves(column), None]) for column in columns])
    check(twins, data.draw(st.lists(st.lists(steps, min_size=STEPS, max_size=STEPS), min_size=1, max_size=10)))


def test_every_pair_of_moves_on_a_column_is_folded_exactly(twins: Twins) -> None:
    pairs = [pair for column in DEFINITIONS for pair in itertools.product(a_few(moves(column)), repeat=2)]
    check(twins, [[(first, None), (second, None)] for first, second in pairs], before=0)


def test_an_increment_is_rounded_and_checked_as_part_of_the_sum(twins: Twins) -> None:
    # 1.00 - 0.005 is 0.995, which rounds to 1.00; -0.005 alone would round to -0.01. And 150000 alone is no score.
    first, second = change_of("at_once", 1, (("set", "score", -90_000),)), Change("at_once", {"id": 1, "part": "a:&="})
    twins.clear()
    twins.write([first])
    twins.write([msgspec.structs.replace(second, add={"money": Decimal("-0.005"), "score": 150_000})])
    assert twins.values("money", "score") == [(Decimal("1.00"), 60_000)]


def test_a_row_that_is_appended_after_its_delete_stays(twins: Twins) -> None:
    appended = Change("at_once", insert={"id": 1, "part": "a:&=", "int4": 1})
    twins.clear()
    twins.write([change_of("at_once", 1, ()), appended, change_of("at_once", 1, (("add", "int4", 1),))])
    assert twins.values("int4") == [(2,)]


def test_candidates_of_a_domain_are_compared_by_the_collation_of_the_domain(twins: Twins) -> None:
    # every collation of the embedded server has the same order, so this looks at what the statement is made from
    assert twins.column("word").collation == 'pg_catalog."C"'
    assert twins.column("posix").collation == 'pg_catalog."C"'
    assert twins.column("plain").collation is None


def a_few(found: list[Move]) -> list[Move]:
    """Each verb with up to four operands: the first two, which may be equal in some way, and two of the others."""
    by_verb = itertools.groupby(sorted(found, key=lambda move: move[0]), key=lambda move: move[0])
    groups = [list(group) for _, group in by_verb]
    return [move for group in groups for move in [*group[:2], *group[2 :: max(1, len(group) // 2)][:2]]]
