"""Any `Store`: a batch is applied once, its bad events become dead letters, and the ledger knows both."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pipeline.core.change import Change, Event
from pipeline.core.codec import Malformed
from pipeline.core.failure import Meaning
from pipeline.errors import ApplyFailed, NotMigrated
from tests.conformance.conftest import MakeStore
from tests.conformance.lane import batch_of, count, event

LOCK_SHARD = "SELECT 1 FROM pipeline.shard WHERE shard = 0 FOR UPDATE"


@pytest.fixture
def database(make_store: MakeStore, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    make_store()  # migrates
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def views(database: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return database.execute("SELECT page, n, note FROM views ORDER BY page").fetchall()


def ledger(database: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return database.execute("SELECT seq, event_ids, row_count, dead_count FROM pipeline.batch ORDER BY seq").fetchall()


def test_a_batch_is_applied_and_stands_in_the_ledger(make_store: MakeStore, database: psycopg.Connection[Any]) -> None:
    applied = make_store().apply(batch_of([event("a"), event("b", count(2)), event("c")], 1))
    assert (applied.seq, applied.rows, applied.dead, applied.skipped, applied.warning) == (1, 2, frozenset(), 0, None)
    assert views(database) == [(1, 2, None), (2, 1, None)]
    assert ledger(database) == [(1, ["a", "b", "c"], 2, 0)]


def test_the_same_batch_twice_is_applied_once(make_store: MakeStore, database: psycopg.Connection[Any]) -> None:
    batch = batch_of([event("a"), event("b", Change("views", {"page": 9}, set={"note": "too long"}))], 1)
    first = make_store().apply(batch)
    again = make_store().apply(batch)
    assert (first.dead, first.skipped) == (frozenset({1}), 0)
    assert (again.seq, again.rows, again.dead, again.skipped) == (
        1,
        0,
        frozenset({1}),
        2,
    )  # what it acknowledges is the same
    assert views(database) == [(1, 1, None)]
    assert len(ledger(database)) == 1
    assert database.execute("SELECT count(*) FROM pipeline.dead_letter").fetchone() == (1,)


def test_an_older_batch_that_is_in_the_ledger_is_not_applied_again(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    for number in (1, 2, 3):
        store.apply(batch_of([event(f"e{number}")], number))
    again = store.apply(batch_of([event("e2")], 2))
    assert (again.seq, again.skipped) == (2, 1)
    assert views(database) == [(1, 3, None)]


def test_an_empty_batch_of_malformed_messages_is_buried_as_it_was(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    entries: list[Event | Malformed] = [
        Malformed("no JSON", b"\x00\xff"),
        event("a"),
        Malformed("no task", b"{}", "x", 7, 1_000),
    ]
    applied = make_store().apply(batch_of(entries, 1))
    assert (applied.dead, applied.rows, applied.savepoints) == (frozenset({0, 2}), 1, 1)
    letters = database.execute("SELECT event_id, reason, message, accepted_at IS NULL FROM pipeline.dead_letter")
    (first, *rest), second = letters.fetchall()
    assert first.startswith("raw:")
    assert rest == ["no JSON", b"\x00\xff", True]
    assert second == ("x", "no task", b"{}", False)


def test_a_batch_that_must_not_be_tried_is_buried_untried(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    applied = make_store().apply(batch_of([event("a")], 1, bury="it kills", failures=4))
    assert (applied.dead, applied.rows, applied.savepoints) == (frozenset({0}), 0, 0)
    letter = database.execute("SELECT reason, attempts, message, table_name FROM pipeline.dead_letter").fetchone()
    assert letter == ("it kills", 4, event("a").raw, "views")
    assert views(database) == []
    assert ledger(database) == [(1, ["a"], 0, 1)]


def test_shards_and_namespaces_have_a_ledger_each(make_store: MakeStore, database: psycopg.Connection[Any]) -> None:
    make_store().apply(batch_of([event("a")], 1))
    assert make_store().apply(batch_of([event("b")], 2, seq=1, shard=1)).warning is None
    assert make_store(namespace="other").apply(batch_of([event("c")], 3, seq=1)).warning is None
    assert database.execute("SELECT namespace, shard, seq FROM pipeline.shard ORDER BY 1, 2").fetchall() == [
        ("other", 0, 1),
        ("pipeline", 0, 1),
        ("pipeline", 1, 1),
    ]


def test_while_another_flusher_holds_the_shard_a_store_leaves_at_once(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    store.apply(batch_of([event("a")], 1))
    with database.transaction():
        database.execute(LOCK_SHARD)
        with pytest.raises(ApplyFailed) as caught:
            store.apply(batch_of([event("b")], 2))
        assert caught.value.meaning == Meaning.BUSY
        store.apply(batch_of([event("c", count(5))], 3, seq=1, shard=1))  # another shard is free
    assert store.apply(batch_of([event("b")], 2)).rows == 1
    assert views(database) == [(1, 2, None), (5, 1, None)]


def test_many_stores_with_the_same_batch_apply_it_once(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    batch = batch_of([event(f"e{i}", count(i % 50)) for i in range(500)], 1)
    stores = [make_store() for _ in range(4)]

    def apply(number: int) -> int:
        try:
            return stores[number].apply(batch).rows
        except ApplyFailed as error:
            if error.meaning != Meaning.BUSY:
                raise
            return 0

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(apply, range(4))) == 50
    assert views(database) == [(page, 10, None) for page in range(50)]


def test_what_fails_leaves_nothing_behind(make_store: MakeStore, database: psycopg.Connection[Any]) -> None:
    store = make_store()
    with pytest.raises(ApplyFailed) as caught:
        store.apply(batch_of([event("a"), event("b", Change("nowhere", {"id": 1}))], 1))
    assert (caught.value.meaning, caught.value.sqlstate, caught.value.table) == (Meaning.SYSTEMIC, "42P01", "nowhere")
    assert views(database) == ledger(database) == []
    assert store.apply(batch_of([event("a")], 1)).seq == 1


def test_without_its_schema_a_store_says_that_it_is_not_migrated(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    database.execute("DROP SCHEMA pipeline CASCADE")
    with pytest.raises(NotMigrated, match="pipeline migrate"):
        store.apply(batch_of([event("a")], 1))


# --- time goes back ---------------------------------------------------------------------------------------------------


def test_when_the_buffer_went_back_in_time_known_events_are_skipped(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    for number in (1, 2, 3):
        store.apply(batch_of([event(f"e{number}")], number))
    late = store.apply(batch_of([event("e2"), event("new"), event("e3")], 4, seq=2))
    assert (late.seq, late.skipped, late.rows) == (4, 2, 1)
    assert "Redis went back in time" in (late.warning or "")
    assert views(database) == [(1, 4, None)]
    assert ledger(database)[-1] == (4, ["e2", "new", "e3"], 1, 0)


def test_after_that_events_are_looked_up_for_as_long_as_one_may_come_back(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    for number in (1, 2, 3):
        store.apply(batch_of([event(f"e{number}")], number))
    store.apply(batch_of([event("e2")], 4, seq=2))
    assert store.apply(batch_of([event("e3"), event("new")], 5)).skipped == 1
    window = "SELECT recheck_from, recheck_to, recheck_until - now() BETWEEN '23 h' AND '24 h' FROM pipeline.shard"
    assert database.execute(window).fetchone() == (2, 3, True)
    database.execute("UPDATE pipeline.shard SET recheck_until = now()")
    assert store.apply(batch_of([event("new"), event("e3")], 6)).skipped == 0
    assert database.execute("SELECT recheck_from FROM pipeline.shard").fetchone() == (None,)


def test_when_the_database_went_back_in_time_it_is_said_and_counted(
    make_store: MakeStore, database: psycopg.Connection[Any]
) -> None:
    store = make_store()
    store.apply(batch_of([event("a")], 1))
    applied = store.apply(batch_of([event("b")], 5))
    assert (applied.seq, applied.rows) == (5, 1)
    assert "PostgreSQL went back in time" in (applied.warning or "")
    assert "the 3 batches between" in (applied.warning or "")
    assert database.execute("SELECT seq, store_gaps FROM pipeline.shard").fetchone() == (5, 1)
    assert store.apply(batch_of([event("c")], 6)).warning is None


# --- looking up a column


def test_a_column_is_missed_until_it_is_there(make_store: MakeStore, database: psycopg.Connection[Any]) -> None:
    store = make_store()
    missed = store.lacks("views", "extra")
    assert missed is not None
    assert (missed.sqlstate, missed.table, missed.column, missed.event) == ("42703", "views", "extra", None)
    assert store.lacks("views", "note") is None
    database.execute("ALTER TABLE views ADD COLUMN extra int")
    assert store.lacks("views", "extra") is None


def test_a_column_is_missed_with_its_table(make_store: MakeStore) -> None:
    missed = make_store().lacks("nowhere", "extra")
    assert missed is not None
    assert (missed.sqlstate, missed.column) == ("42P01", None)


def test_an_event_with_a_missing_column_is_refused_with_the_names_that_it_gives(make_store: MakeStore) -> None:
    good, bad = event("a", count(1)), event("b", Change("public.views", {"page": 2}, {"extra": 1}))
    with pytest.raises(ApplyFailed) as caught:
        make_store().apply(batch_of([good, bad, good], 1))
    assert (caught.value.table, caught.value.column) == ("public.views", "extra")
