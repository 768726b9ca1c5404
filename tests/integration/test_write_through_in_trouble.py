"""A write_through that does not get its turn, or whose servers are away, has done nothing, or says what it knows."""

from typing import Any

import pytest

from pipeline import BufferUnavailable, NotSettled, Pipeline, StoreUnavailable
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.flush import End
from pipeline.telemetry import Step
from tests.integration.conftest import both_types
from tests.integration.scene import Scene, disk_full

pytestmark = both_types

KEY = {"id": 1}


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7)")
    return scene.pipeline()


def stored(scene: Scene) -> Any:
    rows = scene.sql("SELECT n FROM t WHERE id = 1")
    return rows[0][0] if rows else None


def n_of(pipeline: Pipeline) -> Any:
    row = pipeline.read("t", KEY)
    return None if row is None else row["n"]


# --- it does not get its turn


def test_a_paused_table_ends_in_an_error_that_says_so(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, set={"later": 1})
    with pytest.raises(NotSettled, match=r"1 change.* t\.later is paused: .*no column") as caught:
        pipeline.write_through("t", KEY, set={"n": 1}, timeout=1.5)
    assert (caught.value.table, caught.value.pending) == ("t", 1)
    assert stored(scene) is None


def test_a_failing_batch_ends_in_an_error_that_says_so(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, set={"n": 1})
    slow = scene.pipeline(retry_base_seconds=1000, retry_cap_seconds=1000)
    with disk_full(scene, "t"):
        for _ in range(2):
            with pytest.raises(NotSettled, match=r"a batch .* has failed.*no space left"):
                slow.write_through("t", KEY, set={"n": 2}, timeout=1.5)
    assert stored(scene) is None


def test_another_flusher_that_is_at_work_is_waited_for_and_named(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    scene.redis.set(scene.keys.lease, "somebody else", ex=60)
    with pytest.raises(NotSettled, match="another flusher is at work"):
        pipeline.write_through("t", KEY, add={"n": 1}, timeout=1)


def test_a_change_that_somebody_has_taken_out_of_the_queue_is_named(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    scene.redis.delete(scene.keys.events)
    with pytest.raises(NotSettled, match="taken the change out of the queue"):
        pipeline.write_through("t", KEY, add={"n": 1}, timeout=1)


def test_a_row_that_somebody_has_locked_is_waited_for_until_the_deadline(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t VALUES (1)")
    with scene.connect() as connection, connection.transaction():
        connection.execute("SELECT * FROM t FOR UPDATE")
        with pytest.raises(NotSettled, match="another transaction has locked the row"):
            pipeline.write_through("t", KEY, add={"n": 1}, timeout=1)
    pipeline.write_through("t", KEY, add={"n": 1}, timeout=1)
    assert stored(scene) == 8


def test_a_shard_that_is_never_empty_does_not_hold_up_what_is_pending_in_its_first_batch(
    scene: Scene, pipeline: Pipeline
) -> None:
    batches = 0

    def probe(step: Step) -> None:
        nonlocal batches
        if step is Step.ACKNOWLEDGED:
            batches += 1
            pipeline.write("t", {"id": 1 + batches}, add={"n": 1})

    with scene.kind(scene.config(), probe) as busy:
        busy.write("t", KEY, add={"n": 1})
        busy.write_through("t", KEY, add={"n": 1}, timeout=5)
    assert (stored(scene), batches) == (9, 1)


def test_batch_after_batch_is_flushed_until_what_was_pending_is_applied(scene: Scene, pipeline: Pipeline) -> None:
    for key in (3, 2, 1):
        pipeline.write("t", {"id": key}, add={"n": 1})
    scene.pipeline(batch_size=1).write_through("t", KEY, add={"n": 1})
    assert stored(scene) == 9


# --- servers are away


def test_without_redis_nothing_is_done(scene: Scene, pipeline: Pipeline, valkey: Valkey) -> None:
    valkey.stop()
    try:
        with pytest.raises(BufferUnavailable):
            pipeline.write_through("t", KEY, add={"n": 1})
    finally:
        valkey.start()
    assert stored(scene) is None


@pytest.mark.parametrize("step", [Step.TAKEN, Step.DROPPED])
def test_a_redis_that_goes_away_meanwhile_undoes_it_or_does_not_matter_any_more(
    scene: Scene, valkey: Valkey, pipeline: Pipeline, step: Step
) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")

    def probe(taken: Step) -> None:
        if taken is step:
            valkey.stop()

    with scene.kind(scene.config(), probe) as dying:
        try:
            if step is Step.TAKEN:
                with pytest.raises(BufferUnavailable):
                    dying.write_through("t", KEY, add={"n": 1})
            else:
                dying.write_through("t", KEY, add={"n": 1})
        finally:
            valkey.start()
    assert stored(scene) == n_of(pipeline) == (5 if step is Step.TAKEN else 6)


def test_without_postgresql_it_is_an_error(scene: Scene, pipeline: Pipeline, postgres: Postgres) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    scene.disconnect()
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            pipeline.write_through("t", {"id": 2}, add={"n": 1})
        with pytest.raises(NotSettled, match="1 change"):
            pipeline.write_through("t", KEY, add={"n": 1}, timeout=0.5)
    finally:
        postgres.start()
    pipeline.write_through("t", KEY, add={"n": 1})
    assert stored(scene) == 9


def test_a_commit_whose_answer_is_lost_says_that_nobody_knows(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7)")

    def probe(step: Step) -> None:
        if step is Step.CHANGED:
            scene.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with scene.kind(scene.config(), probe) as pipeline, pytest.raises(StoreUnavailable, match="may have been written"):
        pipeline.write_through("t", KEY, add={"n": 1})
    assert stored(scene) is None


def test_a_conflict_is_tried_again_in_a_transaction_of_its_own(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE SEQUENCE tries")
    scene.sql(
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') < 3 THEN "
        "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$"
    )
    scene.sql("CREATE TRIGGER conflict AFTER INSERT ON t EXECUTE FUNCTION conflict()")
    pipeline.write_through("t", KEY, add={"n": 1})
    assert (stored(scene), scene.sql("SELECT last_value FROM tries")) == (8, [(3,)])


def test_a_settled_flush_ends_with_its_shard_empty(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write_through("t", KEY, add={"n": 1})
    assert pipeline.flush_shard(0).end is End.EMPTY
    assert scene.redis.keys("pipeline.overlay.*") == []
