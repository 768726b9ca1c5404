"""An outage is not a poison: what cannot be written now is kept, in order, and written later."""

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from pipeline import Change, NotMigrated, Pipeline
from pipeline.contrib.embedded import Postgres
from pipeline.flush import End
from pipeline.status import ShardStatus
from pipeline.telemetry import Step
from tests.conformance.lane import claimed
from tests.integration.scene import Scene, dead, disk_full, drain, eventually

VIEWS = "CREATE TABLE views (page int PRIMARY KEY, n int)"


def view(pipeline: Pipeline, page: int = 1) -> None:
    pipeline.write("views", {"page": page}, add={"n": 1})


def shard_status(pipeline: Pipeline) -> ShardStatus:
    (shard,) = pipeline.status().shards
    return shard


def fail(pipeline: Pipeline, times: int = 1) -> str:
    """Flush until that has failed so often; the last error."""
    error = ""
    for _ in range(times):
        report = eventually(lambda: (r := pipeline.flush_shard(0)).end is not End.RESTING and r, "it rests for ever")
        assert report.end is End.FAILED, report
        error = report.error or ""
    return error


@contextmanager
def locked(scene: Scene, table: str) -> Iterator[None]:
    with scene.connect() as connection, connection.transaction():
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


# --- PostgreSQL is away -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_patience")
def test_while_postgresql_is_away_everything_is_kept_and_written_afterwards(scene: Scene, postgres: Postgres) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(retry_attempts=1)
    view(pipeline)
    pipeline.flush_shard(0)
    for page in (1, 2, 3):
        view(pipeline, page)
    scene.disconnect()
    postgres.stop("immediate")
    error = fail(pipeline, 3)
    view(pipeline, 4)
    postgres.start()
    assert error
    status = shard_status(pipeline)
    assert (status.failures, status.frozen, status.pending, status.dead_letters) == (3, 3, 4, 0)
    assert not pipeline.status().healthy
    assert drain(pipeline).events == 4
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM views ORDER BY page") == [(1, 2), (2, 1), (3, 1), (4, 1)]
    assert pipeline.status().healthy


def test_a_connection_that_breaks_during_a_batch_is_an_outage(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(retry_attempts=1)
    view(pipeline)
    with ThreadPoolExecutor(1) as threads, locked(scene, "views"):
        flush = threads.submit(pipeline.flush_shard, 0)
        eventually(lambda: kill_waiting(scene), "the flush never waited for the lock")
        report = flush.result()
    assert (report.end, report.dead) == (End.FAILED, 0)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM views") == [(1,)]


def kill_waiting(scene: Scene) -> bool:
    killed = scene.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'celery-write-behind' AND wait_event_type = 'Lock'"
    )
    return len(killed) > 0


def test_not_migrated_is_said_as_often_as_it_is_tried_and_blames_no_event(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(retry_attempts=1)
    scene.sql("DROP SCHEMA pipeline CASCADE")
    view(pipeline)
    for _ in range(8):
        eventually(lambda: not_migrated(pipeline), "it rests for ever")
    pipeline.migrate()
    assert shard_status(pipeline).error == "NotMigrated"
    assert drain(pipeline).events == 1
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM views") == [(1,)]


def test_sessions_that_are_ended_while_a_batch_is_recorded_blame_no_event(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    view(pipeline)
    with ThreadPoolExecutor(1) as threads, locked(scene, "pipeline.batch"):
        flushes = threads.submit(fail, pipeline, 4)
        eventually(lambda: not kill_waiting(scene) and flushes.done(), "the flush goes on")
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM views") == [(1,)]


class TimeIsUp(Exception):
    """What a time limit of Celery raises, out of a signal handler."""


def test_a_time_limit_ends_the_wait_for_a_commit_and_is_no_outage(scene: Scene) -> None:
    def ring(*_: object) -> None:
        raise TimeIsUp

    def probe(step: Step) -> None:
        if step is Step.COMMITTING:
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    scene.sql(VIEWS)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with scene.kind(scene.config(), probe) as pipeline, locked(scene, "pipeline.batch"):
            view(pipeline)
            with pytest.raises(TimeIsUp):
                pipeline.flush_shard(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    drain(scene.pipeline())
    assert scene.sql("SELECT n FROM views") == [(1,)]


def not_migrated(pipeline: Pipeline) -> bool:
    try:
        assert pipeline.flush_shard(0).end is End.RESTING
    except NotMigrated:
        return True
    return False


# --- somebody holds locks ---------------------------------------------------------------------------------------------


def test_a_locked_table_holds_its_events_back_and_kills_none(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(retry_attempts=1, statement_timeout_seconds=0.05)
    for page in range(10):
        view(pipeline, page)
    with locked(scene, "views"):
        fail(pipeline, 7)
    assert shard_status(pipeline).failures == 7
    assert drain(pipeline).events == 10
    assert dead(pipeline) == []
    assert scene.sql("SELECT count(*) FROM views") == [(10,)]


def test_flushers_that_find_another_at_work_do_not_make_its_batch_look_deadly(scene: Scene) -> None:
    scene.sql(VIEWS)
    first = scene.pipeline(statement_timeout_seconds=5, lease_seconds=0.001)
    others = scene.pipeline(statement_timeout_seconds=5, lease_seconds=0.001)
    view(first)
    with ThreadPoolExecutor(1) as threads, locked(scene, "views"):
        flush = threads.submit(first.flush_shard, 0)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'MERGE%'"
        eventually(lambda: scene.sql(waiting), "the flush never waited for the lock")
        assert {others.flush_shard(0).end for _ in range(6)} == {End.BUSY}
        assert shard_status(others).attempts == 1
        assert scene.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'MERGE%'") == [(True,)]
        assert flush.result().end is End.FAILED
    assert drain(first).events == 1
    assert dead(first) == []


def test_a_race_with_another_writer_of_the_same_key_is_no_poison(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    for page in (1, 2, 3):
        view(pipeline, page)
    with ThreadPoolExecutor(1) as threads, scene.connect() as other:
        with other.transaction():
            other.execute("INSERT INTO views VALUES (2, 10)")
            flush = threads.submit(pipeline.flush_shard, 0)
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'MERGE%'"
            eventually(lambda: scene.sql(waiting), "the flush never met the other writer")
        report = flush.result()
    assert (report.end, report.events, report.dead) == (End.EMPTY, 3, 0)
    assert scene.sql("SELECT * FROM views ORDER BY page") == [(1, 1), (2, 11), (3, 1)]


def test_a_batch_that_takes_too_long_is_halved_until_it_fits(scene: Scene) -> None:
    scene.sql("CREATE TABLE slow (id int PRIMARY KEY)")
    scene.sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
    )
    scene.sql("CREATE TRIGGER wait BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION wait()")
    pipeline = scene.pipeline(statement_timeout_seconds=0.25, batch_size=32)
    pipeline.write_many(Change("slow", {"id": n}) for n in range(32))
    report = drain(pipeline)
    assert (report.events, report.dead) == (32, 0)
    assert report.batches > 2
    assert scene.sql("SELECT count(*) FROM slow") == [(32,)]


# --- the schema is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "mended", "sqlstate"),
    [
        ("DROP TABLE views", VIEWS, "42P01"),
        ("ALTER TABLE views DROP COLUMN n", "ALTER TABLE views ADD COLUMN n int", "42703"),
        ("ALTER TABLE views RENAME COLUMN page TO p", "ALTER TABLE views RENAME COLUMN p TO page", "42703"),
        ("ALTER TABLE views SET SCHEMA elsewhere", "ALTER TABLE elsewhere.views SET SCHEMA public", "42P01"),
        ("REVOKE INSERT ON views FROM app", "GRANT INSERT ON views TO app", "42501"),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["at first", "later"])
def test_a_wrong_schema_blames_no_event_and_is_noticed_when_it_is_right(
    scene: Scene, postgres: Postgres, broken: str, mended: str, sqlstate: str, *, known: bool
) -> None:
    with as_app(scene, postgres) as url:
        scene.sql(VIEWS)
        scene.sql("CREATE SCHEMA elsewhere")
        grant = "GRANT ALL ON ALL TABLES IN SCHEMA public TO app"
        scene.sql(grant)
        pipeline = scene.pipeline(database_url=url, retry_attempts=1)
        if known:
            view(pipeline)
            pipeline.flush_shard(0)
        scene.sql(broken)
        view(pipeline)
        view(pipeline, 2)
        for _ in range(4):
            report = pipeline.flush_shard(0)
            assert report.end is End.PAUSED
            assert f"(SQLSTATE {sqlstate})" in (report.error or "")
        status = shard_status(pipeline)
        assert (status.parked, status.frozen, status.pending) == (2, 0, 2)
        scene.sql(mended)
        scene.sql(grant)
        assert drain(pipeline).events == 2
        assert dead(pipeline) == []
        assert scene.sql("SELECT n FROM views WHERE page = 2") == [(1,)]


@contextmanager
def as_app(scene: Scene, postgres: Postgres) -> Iterator[str]:
    """The URL of a role that owns nothing."""
    scene.sql("DROP ROLE IF EXISTS app")
    scene.sql("CREATE ROLE app LOGIN PASSWORD 'app'")
    for kind in ("ALL TABLES", "ALL SEQUENCES"):
        scene.sql(f"GRANT ALL ON {kind} IN SCHEMA pipeline TO app")
    scene.sql("GRANT USAGE ON SCHEMA pipeline TO app")
    database = scene.database_url.rpartition("/")[2]
    yield f"postgresql://app:app@127.0.0.1:{postgres.port}/{database}"
    with psycopg.connect(scene.database_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY app")
        connection.execute("DROP ROLE app")


# --- a parent is missing ----------------------------------------------------------------------------------------------

FAMILY = (
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, up int REFERENCES parent)",
)


def orphan(scene: Scene, pipeline: Pipeline) -> None:
    """A child whose parent is missing, between two events that are right."""
    for statement in FAMILY:
        scene.sql(statement)
    for number, up in ((1, None), (2, 7), (3, None)):
        pipeline.write("child", {"id": number}, set={"up": up})


def test_an_event_whose_parent_never_comes_dies_after_its_tries(scene: Scene) -> None:
    pipeline = scene.pipeline(retry_attempts=3)
    orphan(scene, pipeline)
    fail(pipeline, 2)
    assert scene.sql("SELECT * FROM child") == []
    report = drain(pipeline)
    assert (report.events, report.dead) == (3, 1)
    (letter,) = dead(pipeline)
    assert (letter.sqlstate, letter.attempts) == ("23503", 3)
    assert scene.sql("SELECT id FROM child ORDER BY id") == [(1,), (3,)]


def test_an_event_whose_parent_comes_meanwhile_lives(scene: Scene) -> None:
    pipeline = scene.pipeline(retry_attempts=3)
    orphan(scene, pipeline)
    fail(pipeline, 2)
    scene.sql("INSERT INTO parent VALUES (7)")
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT count(*) FROM child") == [(3,)]


def test_the_parent_may_come_from_another_shard(scene: Scene) -> None:
    pipeline = scene.pipeline(retry_attempts=3, shards=2)
    for statement in FAMILY:
        scene.sql(statement)
    child = pipeline.write_group([Change("child", {"id": 2}, {"up": 7})], shard_by="a")
    parent = pipeline.write_group([Change("parent", {"id": 7})], shard_by="d")
    assert (child.shard, parent.shard) == (1, 0)
    assert pipeline.flush_shard(child.shard).end is End.FAILED
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM child") == [(2, 7)]


def test_an_outage_uses_up_no_tries(scene: Scene) -> None:
    pipeline = scene.pipeline(retry_attempts=3)
    orphan(scene, pipeline)
    with disk_full(scene, "child"):
        fail(pipeline, 5)
    fail(pipeline, 2)
    scene.sql("INSERT INTO parent VALUES (7)")
    drain(pipeline)
    assert dead(pipeline) == []


def test_an_error_that_nobody_knows_is_tried_and_then_buried(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, doc json)")
    pipeline = scene.pipeline(retry_attempts=2)
    pipeline.write("t", {"id": 1}, set={"doc": {}})
    pipeline.write("t", {"id": 1}, max={"doc": {"a": 1}["a"]})  # json has no order
    pipeline.write("t", {"id": 2}, set={"doc": {}})
    fail(pipeline)
    drain(pipeline)
    (letter,) = dead(pipeline)
    assert (letter.sqlstate, letter.attempts) == ("42883", 2)
    assert scene.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


# --- workers die ------------------------------------------------------------------------------------------------------


def die_over_a_batch(scene: Scene) -> None:
    """What a worker leaves that is killed while it writes."""
    buffer = scene.buffer()
    buffer.begin(claimed(buffer, "dead"))
    scene.redis.delete(scene.keys.lease)


def test_a_batch_that_saw_a_worker_die_is_halved_and_no_event_of_it_is_buried_untried(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    for page in range(8):
        view(pipeline, page)
    die_over_a_batch(scene)  # killed by a deployment, not by an event
    with caplog.at_level(logging.WARNING, "pipeline"):
        report = drain(pipeline)
    assert (report.events, report.dead, report.batches) == (8, 0, 4)  # 4, 2, 1 and 1
    assert "a flusher died over batch" in caplog.text
    assert scene.sql("SELECT count(*) FROM views") == [(8,)]


def test_a_single_event_that_saw_workers_die_is_buried_untried(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    view(pipeline)
    for _ in range(3):
        die_over_a_batch(scene)
    assert drain(pipeline).dead == 1
    (letter,) = dead(pipeline)
    assert letter.reason.startswith("3 flushers, or their connections to PostgreSQL, died over this event")
    assert scene.sql("SELECT * FROM views") == []
