"""An error that only looks as if the table were broken is one event's fault; a broken table is nobody's."""

from __future__ import annotations

import logging
import time

import pytest

from pipeline import Change, Pipeline
from pipeline.flush import End
from pipeline.telemetry import Step
from tests.integration.scene import Scene, dead, drain

SECRET = "alice@secret.example"

TRAPS = [
    ("42P01", "EXECUTE 'INSERT INTO t_2026_12 VALUES (1)'"),
    ("42703", "EXECUTE 'SELECT nothing FROM t'"),
    ("42501", "RAISE EXCEPTION 'not yours' USING ERRCODE = '42501'"),
    ("42883", "PERFORM no_such_function()"),
    ("55000", "RAISE EXCEPTION 'not now' USING ERRCODE = '55000'"),
]


def set_trap(scene: Scene, when: str, body: str) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, note text)")
    scene.sql(
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {when} THEN {body}; END IF; RETURN NEW; END $$"
    )
    scene.sql("CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION trap()")


def flush_watching(scene: Scene, count: int, **settings: object) -> list[Step]:
    steps: list[Step] = []
    with Pipeline(scene.config(**settings), steps.append) as pipeline:
        for _ in range(count):
            pipeline.flush_shard(0)
    return steps


# --- one event's fault ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sqlstate", "body"), TRAPS)
@pytest.mark.parametrize("bad", [0, 7, 299])
def test_an_event_whose_trouble_its_likes_do_not_have_dies_alone_and_pauses_nothing(
    scene: Scene, sqlstate: str, body: str, bad: int
) -> None:
    set_trap(scene, f"NEW.id = {bad}", body)
    pipeline = scene.pipeline()
    pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(300))
    steps = flush_watching(scene, 200, retry_attempts=3)
    assert Step.PAUSED not in steps
    assert scene.sql("SELECT count(*), sum(n) FROM t") == [(299, 299)]
    (letter,) = dead(pipeline)
    assert (letter.sqlstate, letter.attempts) == (sqlstate, 3)
    assert scene.sql("SELECT count(*) FROM pipeline.batch") == [(1,)], "its neighbours commit with it"


def test_the_search_for_the_culprit_takes_a_logarithm_of_attempts(scene: Scene) -> None:
    set_trap(scene, "NEW.id = 1234", TRAPS[0][1])
    steps: list[Step] = []
    with Pipeline(scene.config(retry_attempts=1), steps.append) as pipeline:
        pipeline.write_many(Change("t", {"id": n}, set={"n": 1}) for n in range(3000))
        report = pipeline.flush_shard(0)
    assert (report.rows, report.dead) == (2999, 1), "those that were only tried for comparison do not count"
    assert steps.count(Step.ATTEMPTED) <= 2 * 12 + 4


def test_what_row_level_security_refuses_is_one_events_fault(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, tenant int)")
    scene.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    scene.sql("CREATE POLICY own ON t USING (tenant = 1) WITH CHECK (tenant = 1)")
    scene.sql("CREATE ROLE tenant_one LOGIN PASSWORD 'x'")
    scene.sql("GRANT ALL ON t TO tenant_one")
    scene.sql("GRANT USAGE ON SCHEMA pipeline TO tenant_one")
    scene.sql("GRANT ALL ON ALL TABLES IN SCHEMA pipeline TO tenant_one")
    scene.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA pipeline TO tenant_one")
    try:
        pipeline = scene.pipeline(database_url=as_role(scene, "tenant_one"))
        pipeline.write_many(Change("t", {"id": n}, set={"tenant": 1 + (n % 2)}) for n in range(60))
        drain(pipeline)
        assert scene.sql("SELECT count(*), max(tenant) FROM t") == [(30, 1)]
        assert [letter.sqlstate for letter in dead(pipeline)] == ["42501"] * 30
        pipeline.close()
    finally:
        scene.sql("DROP OWNED BY tenant_one")
        scene.sql("DROP ROLE tenant_one")


@pytest.mark.parametrize("verb", ["insert", "set"])
@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_text_that_names_no_relation_is_one_events_fault(
    scene: Scene, caplog: pytest.LogCaptureFixture, verb: str, count: int
) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, v regclass)")
    pipeline = scene.pipeline(retry_attempts=2)
    for n in range(count):
        value = "t" if n != count // 2 else SECRET
        change = Change("t", {"id": n}, {"v": value}) if verb == "set" else Change("t", insert={"id": n, "v": value})
        pipeline.write_group([change], shard_by="one")
    told = tell(pipeline, caplog)
    assert len(dead(pipeline)) == 1
    assert scene.sql("SELECT count(*) FROM t") == [(count - 1,)]
    assert "is paused" not in told
    assert "alice" not in told


def test_a_bad_event_that_came_alone_dies_when_its_likes_have_come(scene: Scene) -> None:
    set_trap(scene, "NEW.id = 0", TRAPS[0][1])
    pipeline = scene.pipeline(retry_attempts=2)
    pipeline.write("t", {"id": 0}, set={"n": 1})
    assert pipeline.flush_shard(0).end is End.PAUSED, "nothing to compare it with"
    assert dead(pipeline) == []
    pipeline.write("t", {"id": 1}, set={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT id FROM t") == [(1,)]
    assert len(dead(pipeline)) == 1


# --- the table's fault ------------------------------------------------------------------------------------------------


def test_a_lost_grant_pauses_the_table_at_once_and_buries_nothing(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE ok (id int PRIMARY KEY)")
    scene.sql("CREATE ROLE no_writer LOGIN PASSWORD 'x'")
    scene.sql("GRANT ALL ON ok TO no_writer")
    scene.sql("GRANT USAGE ON SCHEMA pipeline TO no_writer")
    scene.sql("GRANT ALL ON ALL TABLES IN SCHEMA pipeline TO no_writer")
    scene.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA pipeline TO no_writer")
    try:
        pipeline = scene.pipeline(database_url=as_role(scene, "no_writer"), retry_attempts=1)
        pipeline.write_many(Change("t", {"id": n}, set={"n": 1}) for n in range(300))
        pipeline.write("ok", {"id": 1})
        for _ in range(30):  # often enough to be compared anew
            pipeline.flush_shard(0)
            time.sleep(0.001)
        assert scene.sql("SELECT count(*) FROM ok") == [(1,)]
        assert "t" in pipeline.status().shards[0].paused
        scene.sql("GRANT ALL ON t TO no_writer")
        drain(pipeline)
        assert (scene.sql("SELECT count(*) FROM t"), dead(pipeline)) == ([(300,)], [])
        pipeline.close()
    finally:
        scene.sql("DROP OWNED BY no_writer")
        scene.sql("DROP ROLE no_writer")


@pytest.mark.parametrize(
    ("breakage", "repair"),
    [
        ("CREATE PUBLICATION all_of_t FOR TABLE t", "DROP PUBLICATION all_of_t"),  # 55000: no replica identity
        ("DROP FUNCTION helper()", "CREATE FUNCTION helper() RETURNS int LANGUAGE sql AS 'SELECT 1'"),  # 42883
    ],
)
def test_a_table_that_no_statement_can_write_is_paused_and_its_neighbours_are_not(
    scene: Scene, breakage: str, repair: str
) -> None:
    scene.sql("CREATE TABLE ok (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE t (id int NOT NULL UNIQUE, n int)")
    scene.sql("INSERT INTO t SELECT n, 0 FROM generate_series(0, 49) n")
    scene.sql("CREATE FUNCTION helper() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    scene.sql("CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM helper(); RETURN NEW; END $$")
    scene.sql("CREATE TRIGGER tr BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tr()")
    scene.sql(breakage)
    pipeline = scene.pipeline(retry_attempts=1)
    pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(50))
    pipeline.write("ok", {"id": 1})
    pipeline.flush_shard(0)
    assert list(pipeline.status().shards[0].paused) == ["t"]
    assert scene.sql("SELECT count(*) FROM ok") == [(1,)]
    scene.sql(repair)
    drain(pipeline)
    assert (scene.sql("SELECT sum(n) FROM t"), dead(pipeline)) == ([(50,)], [])


def test_a_table_that_is_resumed_too_early_again_and_again_is_probed_less_and_less_often(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    rests = []
    for n in range(4):
        scene.sql("ALTER TABLE t DROP COLUMN IF EXISTS x")
        pipeline.write("t", {"id": n}, set={"x": n})
        pipeline.flush_shard(0)
        (paused,) = scene.buffer().states()[0].paused
        rests.append(paused.probes)
        scene.sql("ALTER TABLE t ADD COLUMN x int")
        drain(pipeline)
    assert rests == sorted(set(rests)), "every pause rests for longer than the one before"


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_what_a_row_holds_is_not_told_when_its_table_waits_for_a_parent(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.sql("CREATE TABLE parent (email text PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, email text REFERENCES parent)")
    pipeline = scene.pipeline()
    pipeline.write("missing", {"id": 1}, set={"x": 1}, shard_by="one")
    pipeline.write("child", {"id": 1}, set={"email": SECRET}, shard_by="one")
    told = tell(pipeline, caplog)
    assert "child is paused: parent missing (SQLSTATE 23503)" in told
    assert SECRET not in told
    assert "alice" not in str(scene.redis.hgetall(scene.keys.state))


def test_what_a_row_holds_is_not_told_when_its_table_is_paused(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    set_trap(scene, "true", "RAISE EXCEPTION 'not for %', NEW.note USING ERRCODE = '42501'")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, set={"note": SECRET})
    told = tell(pipeline, caplog)
    assert "t is paused" in told
    assert "(SQLSTATE 42" in told
    assert "alice" not in told


def tell(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> str:
    """Everything that is said of some flushes."""
    with caplog.at_level(logging.DEBUG, logger="pipeline"):
        reports = [pipeline.flush_shard(0) for _ in range(10)]
    return f"{caplog.text} {reports} {pipeline.status()} {pipeline.doctor()}"


# --- rows that wait ---------------------------------------------------------------------------------------------------


def test_rows_of_a_paused_table_are_not_listed_one_by_one(scene: Scene) -> None:
    scene.sql("CREATE TABLE ok (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    pipeline.write_many(Change("missing", {"id": n}) for n in range(700))
    pipeline.write_group([Change("missing", {"id": 1}), Change("ok", {"id": 1})], shard_by="one")
    pipeline.flush_shard(0)
    assert {row.split(b":")[0] for row in scene.redis.smembers(scene.keys.held)} == {b"ok"}
    assert scene.redis.scard(scene.keys.held) == 1


@pytest.mark.parametrize("first", ["a", "b"])
def test_rows_keep_their_order_when_one_of_two_paused_tables_comes_back_first(scene: Scene, first: str) -> None:
    scene.sql("CREATE TABLE ok (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline(batch_size=2)
    second = "b" if first == "a" else "a"
    pipeline.write("a", {"id": 9}, shard_by="one")
    pipeline.write("b", {"id": 9}, shard_by="one")
    pipeline.flush_shard(0)
    assert set(pipeline.status().shards[0].paused) == {"a", "b"}
    pipeline.write_group([Change("a", {"id": 1}, {"n": 1}), Change("b", {"id": 1}, {"n": 1})], shard_by="one")
    pipeline.flush_shard(0)
    scene.sql(f"CREATE TABLE {first} (id int PRIMARY KEY, n int)")
    pipeline.write(first, {"id": 1}, set={"n": 2}, shard_by="one")
    deadline = time.monotonic() + 20
    while first in pipeline.status().shards[0].paused or not scene.sql(f"SELECT 1 FROM {first} WHERE id = 9"):
        pipeline.flush_shard(0)
        assert time.monotonic() < deadline
    pipeline.write(first, {"id": 1}, add={"n": 10}, shard_by="one")
    pipeline.flush_shard(0)
    assert scene.sql(f"SELECT n FROM {first} WHERE id = 1") == [], "its first event waits for the other table"
    scene.sql(f"CREATE TABLE {second} (id int PRIMARY KEY, n int)")
    drain(pipeline)
    assert scene.sql(f"SELECT n FROM {first} WHERE id = 1") == [(12,)]
    assert scene.sql(f"SELECT n FROM {second} WHERE id = 1") == [(1,)]
    assert scene.redis.keys("pipeline.held.*") == []


def as_role(scene: Scene, name: str) -> str:
    """The database's address for a role with the password ``x``."""
    scheme, _, rest = scene.database_url.partition("://")
    return f"{scheme}://{name}:x@{rest.rpartition('@')[2]}"
