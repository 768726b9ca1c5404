"""A change that is written through in a transaction of the caller's leaves no trace before its commit."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pipeline import BufferUnavailable, ChangeRefused, InvalidEvent, NotSettled, Pipeline, StoreError, StoreUnavailable
from pipeline.contrib.embedded import Valkey
from tests.integration.scene import Scene, eventually

KEY = {"id": 1}
ROW = "t:id=1"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7, top int, name text UNIQUE)")
    return scene.pipeline()


def stored(scene: Scene, key: int = 1) -> Any:
    rows = scene.sql("SELECT n FROM t WHERE id = %s", key)
    return rows[0][0] if rows else None


def n_of(pipeline: Pipeline) -> Any:
    row = pipeline.read("t", KEY)
    return None if row is None else row["n"]


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ({"set": {"n": None}}, "23502"),
        ({"set": {"top": "many"}}, "22P02"),
        ({"add": {"n": 2**63 - 1}}, "22003"),
        ({"set": {"name": "taken"}}, "23505"),
        ({"set": {"missing": 1}}, "42703"),
        ({"add": {"name": 1}}, None),
        ({"insert": {"id": 2}}, "23505"),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_what_postgresql_refuses_is_an_error_and_changes_nothing(
    scene: Scene, pipeline: Pipeline, change: dict[str, Any], sqlstate: str | None, *, joined: bool
) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5, 1, 'free'), (2, 5, 1, 'taken')")
    key = None if "insert" in change else KEY
    assert n_of(pipeline) == 5
    with scene.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO t (id) VALUES (3)")
        with pytest.raises(ChangeRefused) as caught:
            pipeline.write_through("t", key, **change, connection=connection if joined else None)
        assert caught.value.sqlstate == sqlstate
        assert connection.execute("SELECT n FROM t ORDER BY id").fetchall() == [(5,), (5,), (7,)]
    assert n_of(pipeline) == 5
    assert stored(scene, 3) == 7


def test_in_the_callers_transaction_reads_see_it_when_that_is_committed(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    with scene.connect() as connection, connection.transaction():
        pipeline.write_through("t", KEY, add={"n": 10}, connection=connection)
        pipeline.write_through("t", KEY, add={"n": 10}, connection=connection)
        assert connection.execute("SELECT n FROM t").fetchone() == (28,)
        connection.execute("UPDATE t SET top = 4")  # what else it does to the row is not overtaken either
        for _ in range(2):
            assert n_of(pipeline) == 8
    assert stored(scene) == 28
    assert pipeline.read("t", KEY) == {"id": 1, "n": 28, "top": 4, "name": None}


@pytest.mark.parametrize("how", ["rolled back", "back to a savepoint", "never ended"])
def test_a_transaction_of_the_callers_that_comes_to_nothing_leaves_no_trace(
    scene: Scene, pipeline: Pipeline, how: str
) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")
    assert n_of(pipeline) == 5
    connection = psycopg.connect(scene.database_url)
    connection.execute("SELECT 1")
    with connection.transaction(force_rollback=how == "back to a savepoint"):
        pipeline.write_through("t", KEY, add={"n": 10}, connection=connection)
        assert n_of(pipeline) == 5
    if how == "rolled back":
        connection.rollback()
    elif how == "never ended":
        pid = connection.info.backend_pid
        scene.sql("SELECT pg_terminate_backend(%s)", pid)
        eventually(lambda: not scene.sql("SELECT pid FROM pg_stat_activity WHERE pid = %s", pid), "it is still there")
    eventually(lambda: n_of(pipeline) == 5 and scene.cached(ROW), "the row is cached again")
    pipeline.write_through("t", KEY, add={"n": 100})
    connection.close()
    assert n_of(pipeline) == 105 == stored(scene)


def test_a_connection_is_left_as_it_was_whatever_its_settings_are(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("ALTER TABLE t ADD took interval, ADD at timestamptz")
    took, at = timedelta(days=-1, seconds=5), datetime(2026, 2, 3, tzinfo=UTC)
    shown = ("lock_timeout", "datestyle", "intervalstyle", "TimeZone", "search_path")
    settings = (
        "-c lock_timeout=77s -c datestyle=German -c intervalstyle=sql_standard "
        "-c timezone=Asia/Kathmandu -c search_path=pg_catalog,public"
    )
    with psycopg.connect(scene.database_url, row_factory=dict_row, options=settings) as connection:
        connection.cursor_factory = psycopg.ClientCursor
        before = [connection.execute(f"SHOW {name}").fetchone() for name in shown]
        connection.commit()
        pipeline.write_through("t", KEY, set={"took": took, "at": at}, connection=connection)
        pipeline.write_through("t", insert={"id": 2, "took": took}, connection=connection)
        with pytest.raises(ChangeRefused):
            pipeline.write_through("t", KEY, set={"top": "x"}, connection=connection)
        assert [connection.execute(f"SHOW {name}").fetchone() for name in shown] == before
        connection.commit()
        assert [connection.execute(f"SHOW {name}").fetchone() for name in shown] == before
    assert scene.sql("SELECT took, at FROM t ORDER BY id") == [(took, at), (took, None)]


def test_a_connection_that_cannot_be_joined_is_refused(scene: Scene, pipeline: Pipeline, new_database: Any) -> None:
    def refused(connection: Any, why: str) -> None:
        with pytest.raises(InvalidEvent, match=why):
            pipeline.write_through("t", KEY, add={"n": 1}, connection=connection)

    refused("postgresql://", "psycopg.Connection, not a builtins.str")
    with scene.connect() as connection:
        refused(connection, "no transaction")
        with connection.transaction(), connection.pipeline():
            refused(connection, "pipeline mode")
        connection.autocommit = False
        with pytest.raises(psycopg.Error):
            connection.execute("nonsense")
        refused(connection, "INERROR")
    refused(connection, "closed")
    elsewhere = scene.database_url.rpartition("/")[0] + "/" + new_database()
    with psycopg.connect(elsewhere) as connection:
        refused(connection, "another database")
    assert stored(scene) is None


def test_what_the_callers_own_locks_hold_up_ends_at_the_deadline(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    with scene.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE t")
        with pytest.raises(NotSettled, match="maybe of the caller's"):
            pipeline.write_through("t", KEY, add={"n": 1}, connection=connection, timeout=0.3)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    eventually(lambda: stored(scene) == 8, "the flush that waited for the lock goes on")
    pipeline.write_through("t", KEY, add={"n": 1})
    assert stored(scene) == 9


def test_without_redis_nothing_is_done_to_the_callers_transaction(
    scene: Scene, pipeline: Pipeline, valkey: Valkey
) -> None:
    with scene.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO t (id) VALUES (2)")
        valkey.stop()
        try:
            with pytest.raises(BufferUnavailable):
                pipeline.write_through("t", KEY, add={"n": 1}, connection=connection)
        finally:
            valkey.start()
    assert (stored(scene), stored(scene, 2)) == (None, 7)


def test_a_conflict_is_told_and_not_tried_again(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")
    scene.sql("CREATE SEQUENCE tries")
    scene.sql(
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('tries'); "
        "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"
    )
    scene.sql("CREATE TRIGGER conflict AFTER UPDATE ON t EXECUTE FUNCTION conflict()")
    with psycopg.connect(scene.database_url) as connection:
        with pytest.raises(StoreError) as caught:
            pipeline.write_through("t", KEY, add={"n": 1}, connection=connection)
        assert caught.value.sqlstate == "40001"
        assert connection.execute("SELECT n, last_value FROM t, tries").fetchone() == (5, 1)


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_a_transaction_that_may_not_see_the_row_is_refused_and_loses_no_delete(
    scene: Scene, pipeline: Pipeline, level: psycopg.IsolationLevel
) -> None:
    with psycopg.connect(scene.database_url) as connection:
        connection.isolation_level = level
        connection.execute("SELECT * FROM t")
        pipeline.write("t", KEY, set={"n": 1})
        with pytest.raises(InvalidEvent, match=f"{level.name.replace('_', ' ')}.* begin it as READ COMMITTED"):
            pipeline.write_through("t", KEY, delete=True, connection=connection)
    assert stored(scene) == n_of(pipeline) == 1


def test_it_is_read_by_the_settings_of_a_flush_and_not_by_the_callers(scene: Scene) -> None:
    scene.sql("CREATE SCHEMA shop")
    scene.sql("CREATE TYPE shop.mood AS ENUM ('calm', 'glad')")
    scene.sql("CREATE FUNCTION shop.start() RETURNS int LANGUAGE sql AS 'SELECT 100'")
    scene.sql("CREATE TABLE shop.o (id int PRIMARY KEY, at timestamptz, mood shop.mood, n int DEFAULT shop.start())")
    url = scene.database_url + ("&" if "?" in scene.database_url else "?")
    pipeline = scene.pipeline(database_url=f"{url}options=-csearch_path%3Dshop,public")
    change: dict[str, Any] = {"set": {"at": "2026-01-01 12:00", "mood": "glad"}, "add": {"n": 1}}
    pipeline.write("shop.o", {"id": 1}, **change)
    pipeline.flush_shard(0)
    pipeline.write_through("shop.o", {"id": 2}, **change)
    with psycopg.connect(scene.database_url) as connection:
        connection.execute("SET TimeZone = 'America/New_York'")
        pipeline.write_through("shop.o", {"id": 3}, **change, connection=connection)
        with connection.transaction(force_rollback=True):
            pipeline.write_through("shop.o", {"id": 4}, **change, connection=connection)
        assert connection.execute("SHOW TimeZone").fetchone() == ("America/New_York",)
    rows = scene.sql("SELECT at, mood::text, n FROM shop.o ORDER BY id")
    assert rows == [rows[0]] * 3
    assert rows[0][1:] == ("glad", 101)


def test_many_who_wait_for_the_row_do_not_keep_the_one_whose_turn_it_is_from_a_connection(
    scene: Scene, pipeline: Pipeline
) -> None:
    def join() -> None:
        with psycopg.connect(scene.database_url) as connection:
            pipeline.write_through("t", KEY, add={"n": 1}, connection=connection)

    with ThreadPoolExecutor(13) as threads:
        with scene.connect() as first, first.transaction():
            pipeline.write_through("t", KEY, set={"n": 0}, connection=first)
            calls = [threads.submit(join)]
            eventually(lambda: waiting(scene) == 1, "it waits for its turn")
            calls += [threads.submit(pipeline.write_through, "t", KEY, add={"n": 1}) for _ in range(12)]
            eventually(lambda: waiting(scene) >= 8, "so do others, with all connections of the pool")
        for call in calls:
            call.result()
    assert stored(scene) == 13


def waiting(scene: Scene) -> int:
    return len(scene.sql("SELECT pid FROM pg_locks WHERE NOT granted"))


@pytest.mark.usefixtures("short_patience")
def test_a_pool_whose_connections_are_all_lent_is_not_called_a_server_that_is_away(
    scene: Scene, pipeline: Pipeline
) -> None:
    with ThreadPoolExecutor(8) as threads:
        with scene.connect() as first, first.transaction():
            pipeline.write_through("t", KEY, set={"n": 0}, connection=first)
            calls = [threads.submit(pipeline.write_through, "t", KEY, add={"n": 1}) for _ in range(8)]
            eventually(lambda: waiting(scene) == 8, "they wait for the row")
            with pytest.raises(StoreUnavailable, match=r"all connections of this process' pool .* are busy"):
                pipeline.write_through("t", {"id": 2}, set={"n": 0})
            with pytest.raises(StoreUnavailable, match=r"all connections of this process' pool .* are busy"):
                pipeline.read("t", {"id": 2})
        for call in calls:
            call.result()


@pytest.mark.parametrize("joined", [False, True])
def test_a_wait_that_statement_timeout_ends_is_a_turn_that_did_not_come(
    scene: Scene, pipeline: Pipeline, *, joined: bool
) -> None:
    impatient = scene.pipeline(statement_timeout_seconds=0.5)
    scene.sql("INSERT INTO t VALUES (1, 5)")
    with scene.connect() as other, psycopg.connect(scene.database_url, options="-c statement_timeout=500") as own:
        connection = own if joined else None
        with other.transaction():
            pipeline.write_through("t", KEY, add={"n": 1}, connection=other)
            with pytest.raises(NotSettled, match="another write_through of the row has not ended"):
                impatient.write_through("t", KEY, add={"n": 1}, connection=connection, timeout=60)
        with other.transaction():
            other.execute("SELECT * FROM t FOR UPDATE")
            with pytest.raises(NotSettled, match="another transaction has locked the row"):
                impatient.write_through("t", KEY, add={"n": 1}, connection=connection, timeout=60)
        impatient.write_through("t", KEY, add={"n": 1}, connection=connection)
    assert stored(scene) == 7
