"""Once only: the ledger in PostgreSQL against lost acknowledgements and servers that go back in time."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import Change, Pipeline
from pipeline.contrib.embedded import Postgres
from pipeline.core.failure import Meaning
from pipeline.errors import ApplyFailed
from pipeline.flush import End
from pipeline.ports import Batch
from pipeline.status import ShardStatus
from pipeline.telemetry import Step
from tests.conformance.lane import batch_of, claimed, event, events_of
from tests.integration.scene import Scene, dead, drain, restore, restored_from_before, snapshot

TABLES = ("CREATE TABLE views (page int PRIMARY KEY, n int)", "CREATE TABLE log (id int)")


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    for table in TABLES:
        scene.sql(table)
    return scene.pipeline(batch_size=3)


def write(pipeline: Pipeline, *numbers: int) -> None:
    """For each number one count of page 1 and one appended row: neither may be lost or doubled."""
    for number in numbers:
        pipeline.write("views", {"page": 1}, add={"n": 1})
        pipeline.insert("log", {"id": number})


def totals(scene: Scene) -> tuple[int, list[int]]:
    n = scene.sql("SELECT coalesce(sum(n), 0) FROM views")[0][0]
    return n, [row[0] for row in scene.sql("SELECT id FROM log ORDER BY id")]


def shard_status(pipeline: Pipeline) -> ShardStatus:
    (shard,) = pipeline.status().shards
    return shard


def test_a_batch_whose_acknowledgement_was_lost_is_not_applied_again(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1, 2)
    claim = claimed(scene.buffer(batch_size=3), "dead")
    scene.store().apply(batch_of(events_of(claim), 0, seq=claim.seq, id=claim.id))
    scene.redis.delete(scene.keys.lease)
    report = drain(pipeline)
    assert (report.events, report.skipped, report.batches) == (4, 3, 2)
    assert totals(scene) == (2, [1, 2])
    assert shard_status(pipeline).applied_batches == 2
    assert scene.redis.keys("pipeline.overlay*") == []


def test_a_shard_that_another_flusher_holds_is_left_without_a_warning(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    store = scene.store()
    batch = Batch(shard=0, id="00000000-0000-0000-0000-000000000001", seq=1, entries=[], final=False, failures=0)
    store.apply(batch)
    with scene.connect() as other, other.transaction():
        other.execute("SELECT FROM pipeline.shard FOR UPDATE")
        for _ in range(20):
            with pytest.raises(ApplyFailed, match="another flusher") as caught:
                store.apply(batch)
            assert caught.value.meaning == Meaning.BUSY
    assert caplog.records == []


def test_a_redis_that_went_back_in_time_does_not_apply_anything_twice(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1)
    drain(pipeline)
    write(pipeline, 2, 3, 4, 5, 6)
    older = snapshot(scene.redis)
    write(pipeline, 7)
    drain(pipeline)
    assert totals(scene) == (7, [1, 2, 3, 4, 5, 6, 7])
    restore(scene.redis, older)
    write(pipeline, 8)
    report = drain(pipeline)
    assert (report.events, report.skipped, report.batches) == (12, 10, 4)
    assert totals(scene) == (8, [1, 2, 3, 4, 5, 6, 7, 8])


def test_while_old_events_may_come_every_batch_is_checked(
    scene: Scene, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    write(pipeline, 1, 2, 3, 4)
    older = snapshot(scene.redis)
    drain(pipeline)
    restore(scene.redis, older)
    step = scene.pipeline(batch_size=3, flush_slice_seconds=1e-9)  # one batch per call
    with caplog.at_level(logging.ERROR, "pipeline"):
        reports = [step.flush_shard(0) for _ in range(2)]
    assert [(report.end, report.events, report.skipped) for report in reports] == [(End.SLICE, 3, 3)] * 2
    assert "Redis went back in time: it is at batch 1, PostgreSQL has applied 3" in caplog.text
    assert shard_status(pipeline).rechecking
    write(pipeline, 5)
    report = drain(pipeline)
    assert (report.events, report.skipped) == (4, 2)
    assert totals(scene) == (5, [1, 2, 3, 4, 5])
    assert pipeline.status().healthy


def test_a_write_repeated_under_its_event_id_is_one_event_although_redis_has_forgotten_it(
    scene: Scene, pipeline: Pipeline
) -> None:
    older = snapshot(scene.redis)
    pipeline.insert("log", {"id": 1}, event_id="order-1")
    drain(pipeline)
    restore(scene.redis, older)
    pipeline.insert("log", {"id": 2}, event_id="order-2")
    drain(pipeline)
    pipeline.insert("log", {"id": 1}, event_id="order-1")  # its caller did not hear of it before the failover
    drain(pipeline)
    assert totals(scene) == (0, [1, 2])


def test_a_redis_that_went_back_to_a_frozen_batch_does_not_apply_it_twice(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1, 2, 3)
    claimed(scene.buffer(batch_size=3), "dead")
    scene.redis.delete(scene.keys.lease)
    older = snapshot(scene.redis)
    drain(pipeline)
    write(pipeline, 4)
    drain(pipeline)
    restore(scene.redis, older)
    write(pipeline, 5)
    drain(pipeline)
    assert totals(scene) == (5, [1, 2, 3, 4, 5])


def test_a_redis_that_went_back_twice_does_not_apply_anything_twice(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1, 2, 3)
    older = snapshot(scene.redis)
    for number in (4, 5):
        write(pipeline, number)
        drain(pipeline)
        restore(scene.redis, older)
    pipeline.flush_shard(0)
    assert totals(scene) == (5, [1, 2, 3, 4, 5])


def test_a_flusher_that_slept_over_it_does_not_write_what_redis_has_forgotten(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE note (id integer PRIMARY KEY, text text)")
    older = snapshot(scene.redis)
    pipeline.write("note", key={"id": 1}, set={"text": "forgotten"})

    def sleep(step: Step) -> None:
        if step is Step.CLAIMED and scene.sql("SELECT 1 FROM note") == []:
            restore(scene.redis, older)
            pipeline.write("note", key={"id": 1}, set={"text": "accepted later"})
            drain(pipeline)

    sleeper = Pipeline(scene.config(), sleep)
    with sleeper:
        assert sleeper.flush_shard(0).events == 0
    assert scene.sql("SELECT text FROM note") == [("accepted later",)]


def test_a_redis_that_lost_everything_begins_anew(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1, 2)
    drain(pipeline)
    scene.redis.flushall()
    write(pipeline, 3, 4)
    report = drain(pipeline)
    assert (report.events, report.skipped) == (4, 0)
    assert totals(scene) == (4, [1, 2, 3, 4])
    write(pipeline, 5)
    drain(pipeline)
    assert totals(scene) == (5, [1, 2, 3, 4, 5])


def test_a_dead_letter_that_comes_back_with_an_old_redis_does_not_die_twice(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("views", {"page": 1}, set={"n": "no number"})
    write(pipeline, 1)
    older = snapshot(scene.redis)
    drain(pipeline)
    restore(scene.redis, older)
    drain(pipeline)
    assert len(dead(pipeline)) == 1
    assert totals(scene) == (1, [1])


def test_a_database_that_went_back_in_time_is_told_loudly(
    scene: Scene, pipeline: Pipeline, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    write(pipeline, 1)
    drain(pipeline)
    with restored_from_before(scene, postgres, pipeline):
        write(pipeline, 2, 3, 4)
        drain(pipeline)
    write(pipeline, 5)
    assert pipeline.status().healthy  # nothing has been seen yet
    with caplog.at_level(logging.ERROR, "pipeline"):
        drain(pipeline)
    assert "PostgreSQL went back in time: it has applied batch 1" in caplog.text
    assert totals(scene) == (2, [1, 5])  # 2, 3 and 4 went with the database: that cannot be hidden
    assert shard_status(pipeline).store_gaps == 1
    assert not pipeline.status().healthy
    write(pipeline, 6)
    drain(pipeline)
    assert totals(scene) == (3, [1, 5, 6])
    assert shard_status(pipeline).store_gaps == 1


def test_two_flushers_with_the_same_batch_apply_it_once(scene: Scene, pipeline: Pipeline) -> None:
    numbers = list(range(60))
    write(pipeline, *numbers)
    rivals = [scene.pipeline(batch_size=3, lease_seconds=0.001) for _ in range(3)]  # no lease keeps them apart
    start = threading.Barrier(len(rivals))

    def flush(rival: Pipeline) -> None:
        start.wait()
        while rival.flush_shard(0).end is not End.EMPTY:
            pass

    with ThreadPoolExecutor(len(rivals)) as threads:
        list(threads.map(flush, rivals))
    drain(pipeline)
    assert totals(scene) == (60, numbers)
    assert dead(pipeline) == []
    assert scene.redis.keys("pipeline.overlay*") == scene.redis.keys("pipeline.batch*") == []


def test_the_ledger_forgets_old_batches_but_never_the_last(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, 1, 2, 3)
    drain(pipeline)
    assert pipeline.ledger.prune() == 0
    scene.sql("UPDATE pipeline.batch SET applied_at = now() - interval '8 days'")
    assert scene.pipeline(namespace="other").ledger.prune() == 0
    assert pipeline.ledger.prune() == 1
    assert scene.sql("SELECT seq FROM pipeline.batch") == [(2,)]
    pipeline.write_many([Change("views", {"page": 1}, add={"n": 1})])
    drain(pipeline)
    assert totals(scene)[0] == 4


def test_a_ledger_that_is_pruned_while_a_batch_is_looked_up_applies_nothing_again(scene: Scene) -> None:
    scene.sql("CREATE TABLE views (page int PRIMARY KEY, n int, note text)")
    store = scene.store()
    for number in (1, 2, 3):
        store.apply(batch_of([event(f"e{number}")], number))
    scene.sql("ALTER TABLE pipeline.batch RENAME TO entry")
    scene.sql("""
        CREATE FUNCTION pipeline.read_once() RETURNS SETOF pipeline.entry LANGUAGE sql
        AS 'DELETE FROM pipeline.entry RETURNING *'
    """)
    scene.sql("CREATE VIEW pipeline.batch AS SELECT * FROM pipeline.read_once()")
    again = store.apply(batch_of([event("e2")], 2))
    assert (again.seq, again.skipped, again.aside) == (2, 1, frozenset())
