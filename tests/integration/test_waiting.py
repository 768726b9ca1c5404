"""Waiting for the outcome of a write: it is what PostgreSQL says, whatever happens to either server meanwhile."""

import pickle

import pytest

from pipeline import Change, NotMigrated, Outcome, Pipeline, Receipt, StillPending, StoreUnavailable
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.telemetry import Step
from tests.conformance.lane import batch_of, claimed, events_of
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.conftest import Aside
from tests.integration.scene import Scene, dead, drain, eventually, restore, snapshot

SOON = 0.05
"""Long enough for a look at both servers; what is not there by then is not there."""

LONG = 20.0


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word varchar(3))")
    scene.sql("CREATE TABLE log (id int)")
    return scene.pipeline()


def count(pipeline: Pipeline, key: int = 1, **options: str) -> Receipt:
    return pipeline.write("t", {"id": key}, add={"n": 1}, **options)  # type: ignore[arg-type]


def still_pending(pipeline: Pipeline, *receipts: Receipt, seconds: float = SOON) -> str:
    """Nothing becomes of the events; what the error says."""
    with pytest.raises(TimeoutError) as caught:
        pipeline.wait_all(receipts, timeout=seconds)
    assert isinstance(caught.value, StillPending)
    return str(caught.value)


def test_an_event_that_was_written_after_another_one_was_given_up_is_not_said_to_be_forgotten(
    pipeline: Pipeline,
) -> None:
    for _ in range(3):
        assert "back in time" not in still_pending(pipeline, count(pipeline), seconds=0.001)


def test_an_event_is_pending_until_it_is_committed(scene: Scene, pipeline: Pipeline) -> None:
    receipt = count(pipeline)
    assert receipt.outcome() is Outcome.PENDING
    assert "no batch was written since: is a worker flushing?" in still_pending(pipeline, receipt)
    drain(pipeline)
    assert receipt.wait(timeout=LONG) is Outcome.APPLIED
    assert receipt.wait(timeout=0) is Outcome.APPLIED
    assert receipt.outcome() is Outcome.APPLIED
    assert scene.sql("SELECT n FROM t") == [(1,)]


def test_who_waits_goes_on_when_it_is_committed(pipeline: Pipeline, aside: Aside) -> None:
    receipt = count(pipeline)
    waiting = aside(receipt.wait, LONG)
    drain(pipeline)
    assert waiting.result(LONG) is Outcome.APPLIED


def test_a_dead_event_ends_the_wait_with_the_reason(pipeline: Pipeline) -> None:
    poison = pipeline.write("t", {"id": 1}, set={"word": "too long"})
    healthy = count(pipeline, 2)
    drain(pipeline)
    outcome = poison.wait(timeout=LONG)
    assert outcome == Outcome.DEAD
    assert (outcome.reason, outcome.sqlstate) == ("value too long for type character varying(3)", "22001")
    assert outcome.dead_letter == dead(pipeline)[0].id
    assert poison.outcome().reason == outcome.reason
    assert healthy.wait(timeout=LONG) is Outcome.APPLIED


def test_all_kinds_of_writes_can_be_waited_for_in_their_order(pipeline: Pipeline) -> None:
    receipts = [
        pipeline.insert("log", {"id": 1}),
        pipeline.write_group(
            [Change("log", insert={"id": 2}), Change("t", {"id": 9}, {"word": "no way"})], shard_by="x"
        ),
        pipeline.delete("t", {"id": 5}),
        *pipeline.write_many([Change("t", {"id": key}, add={"n": 1}) for key in range(20)]),
    ]
    drain(pipeline)
    outcomes = pipeline.wait_all(receipts, timeout=LONG)
    assert outcomes == [Outcome.APPLIED, Outcome.DEAD, Outcome.APPLIED, *[Outcome.APPLIED] * 20]
    assert pipeline.wait_all([]) == []
    assert pipeline.wait_all([receipts[0], receipts[0]], timeout=LONG) == [Outcome.APPLIED, Outcome.APPLIED]


def test_the_receipt_of_a_duplicate_waits_for_the_first_event(pipeline: Pipeline) -> None:
    first = count(pipeline, event_id="order-1")
    assert count(pipeline, event_id="order-1").outcome() is Outcome.PENDING
    drain(pipeline)
    for number in range(3):
        count(pipeline, number)
        drain(pipeline)
    again = count(pipeline, event_id="order-1")
    assert again.duplicate
    assert (again.seq, again.after) == (first.seq, first.after)
    assert again.wait(timeout=LONG) is Outcome.APPLIED


def test_an_id_that_is_used_again_later_is_another_event(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word varchar(3))")
    forgetful = scene.pipeline(dedupe_window_seconds=0.001, ingress_batch=0)
    first = forgetful.write("t", {"id": 1}, set={"word": "too long"}, event_id="daily")
    drain(forgetful)
    eventually(lambda: not scene.redis.keys("pipeline.seen*"), "the window is over")
    second = count(forgetful, event_id="daily")
    assert [first.outcome(), second.outcome()] == [Outcome.DEAD, Outcome.PENDING]
    still_pending(forgetful, second)
    drain(forgetful)
    assert forgetful.wait_all([second, first], timeout=LONG) == [Outcome.APPLIED, Outcome.DEAD]


def test_an_event_that_is_set_aside_is_pending_until_its_table_is_resumed(
    scene: Scene, pipeline: Pipeline, aside: Aside
) -> None:
    receipt = pipeline.write("missing", {"id": 1})
    other = count(pipeline)
    pipeline.flush_shard(0)
    assert other.wait(timeout=LONG) is Outcome.APPLIED
    assert "shard 0: missing is paused" in still_pending(pipeline, receipt)
    waiting = aside(receipt.wait, LONG)
    for number in range(3):
        count(pipeline, number)
        pipeline.flush_shard(0)
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
    drain(pipeline)
    assert waiting.result(LONG) is Outcome.APPLIED


def test_what_was_committed_before_its_flusher_died_is_known(scene: Scene, pipeline: Pipeline) -> None:
    receipt = count(pipeline)
    assert in_child(scene.config(), die_at(Step.COMMITTED), lambda child: child.flush_shard(0)) == KILLED
    assert scene.redis.hget(scene.keys.state, "seq") is None
    assert receipt.outcome() is Outcome.APPLIED
    assert receipt.wait(timeout=LONG) is Outcome.APPLIED


def test_a_commit_whose_acknowledgement_is_lost_ends_the_wait(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    receipt = count(pipeline)
    claim = claimed(scene.buffer(), "dead")
    waiting = aside(receipt.wait, LONG)
    scene.store().apply(batch_of(events_of(claim), 0, seq=claim.seq, id=claim.id))
    assert waiting.result(LONG) is Outcome.APPLIED


# --- servers that go back in time


def test_an_event_that_redis_has_forgotten_never_passes_for_applied(scene: Scene, pipeline: Pipeline) -> None:
    count(pipeline)
    drain(pipeline)
    older = snapshot(scene.redis)
    forgotten = count(pipeline, 2)
    restore(scene.redis, older)
    assert "Redis has gone back in time" in still_pending(pipeline, forgotten)
    other = count(pipeline, 3)
    assert (other.shard, other.seq, other.after) == (forgotten.shard, forgotten.seq, forgotten.after)
    drain(pipeline)
    assert other.wait(timeout=LONG) is Outcome.APPLIED
    still_pending(pipeline, forgotten)
    assert forgotten.outcome() is Outcome.PENDING


def test_an_applied_event_that_comes_back_is_applied(scene: Scene, pipeline: Pipeline) -> None:
    receipts = [count(pipeline), pipeline.write("t", {"id": 2}, set={"word": "too long"})]
    older = snapshot(scene.redis)
    for number in range(3):
        drain(pipeline)
        count(pipeline, number)
    drain(pipeline)
    restore(scene.redis, older)
    late = count(pipeline)
    assert late.after == 0
    drain(pipeline)
    assert pipeline.wait_all([*receipts, late], timeout=LONG) == [Outcome.APPLIED, Outcome.DEAD, Outcome.APPLIED]
    assert [one.outcome() for one in (*receipts, late)] == [Outcome.APPLIED, Outcome.DEAD, Outcome.APPLIED]


def test_a_redis_that_lost_everything_keeps_nobody_from_waiting(scene: Scene, pipeline: Pipeline) -> None:
    for number in range(5):
        count(pipeline, number)
        drain(pipeline)
    lost = count(pipeline)
    scene.redis.flushall()
    first = count(pipeline)
    drain(pipeline)
    second = count(pipeline)
    drain(pipeline)
    assert pipeline.wait_all([first, second], timeout=LONG) == [Outcome.APPLIED] * 2
    still_pending(pipeline, lost)


def test_events_that_went_with_an_older_postgres_are_pending(scene: Scene, pipeline: Pipeline) -> None:
    before = count(pipeline)
    drain(pipeline)
    lost = count(pipeline)
    drain(pipeline)
    assert lost.wait(timeout=LONG) is Outcome.APPLIED
    go_back(scene, 1)
    still_pending(pipeline, lost)
    after = count(pipeline)
    drain(pipeline)
    assert pipeline.wait_all([before, after], timeout=LONG) == [Outcome.APPLIED] * 2
    still_pending(pipeline, lost)


def go_back(scene: Scene, seq: int) -> None:
    """Bring the ledger back to an older state, as a restore of PostgreSQL does."""
    scene.sql("DELETE FROM pipeline.batch WHERE seq > %s", seq)
    scene.sql(
        "UPDATE pipeline.shard SET seq = %s, batch_id = (SELECT batch_id FROM pipeline.batch WHERE seq = %s)", seq, seq
    )


@pytest.mark.parametrize("looks_between", [0, 2])
def test_who_waits_while_both_servers_go_back_in_time_is_not_passed_over(
    scene: Scene, aside: Aside, looks_between: int
) -> None:
    """What he has read of the ledger is not what stands there now, under the same numbers."""
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word varchar(3))")
    asked: list[Step] = []
    pipeline = Pipeline(scene.config(), asked.append)
    with pipeline:
        count(pipeline)
        parked = pipeline.write("missing", {"id": 1})
        pipeline.flush_shard(0)
        older = snapshot(scene.redis)
        waiting = aside(parked.wait, LONG)
        for number in range(3):
            count(pipeline, number)
            pipeline.flush_shard(0)
        last = count(pipeline)
        pipeline.flush_shard(0)
        assert last.wait(timeout=LONG) is Outcome.APPLIED
        assert scene.sql("SELECT max(seq) FROM pipeline.batch") == [(5,)]

        def look(times: int) -> None:
            before = asked.count(Step.ASKED)
            eventually(lambda: asked.count(Step.ASKED) >= before + times, "looks at the ledger")

        look(1)
        restore(scene.redis, older)
        go_back(scene, 1)
        look(looks_between)
        scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
        drain(pipeline)
        assert scene.sql("SELECT seq FROM pipeline.batch WHERE %s = ANY(event_ids)", parked.event_id) == [(2,)]
        assert waiting.result(LONG) is Outcome.APPLIED


# --- what PostgreSQL has forgotten


def test_a_pruned_ledger_does_not_tell(scene: Scene, pipeline: Pipeline) -> None:
    old = count(pipeline)
    for number in range(2):
        drain(pipeline)
        count(pipeline, number)
    drain(pipeline)
    scene.sql("UPDATE pipeline.batch SET applied_at = now() - interval '8 days'")
    pipeline.ledger.prune()
    assert old.outcome() is Outcome.PENDING


def test_a_dead_event_whose_letter_was_deleted_does_not_pass_for_applied(scene: Scene, pipeline: Pipeline) -> None:
    letters = [pipeline.write("t", {"id": number}, set={"word": "too long"}) for number in range(2)]
    applied = count(pipeline, 3)
    drain(pipeline)
    assert applied.outcome() is Outcome.APPLIED
    scene.sql("DELETE FROM pipeline.dead_letter WHERE event_id = %s", letters[0].event_id)
    assert [one.outcome() for one in (*letters, applied)] == [Outcome.PENDING, Outcome.DEAD, Outcome.PENDING]


def test_an_event_far_behind_in_the_ledger_is_found(scene: Scene, pipeline: Pipeline) -> None:
    drain(pipeline)
    first = count(pipeline)
    drain(pipeline)
    scene.sql(
        "INSERT INTO pipeline.batch (namespace, shard, seq, batch_id, event_ids, row_count, dead_count) "
        "SELECT 'pipeline', 0, 1 + n, gen_random_uuid(), ARRAY['event-' || n], 1, 0 FROM generate_series(1, 1000) AS n"
    )
    scene.sql("UPDATE pipeline.shard SET seq = 1001")
    for number in (1, 199, 200, 201, 399, 400, 401, 1000):
        receipt = Receipt(f"event-{number}", 0, 1)
        assert pipeline.outcome(receipt) is Outcome.APPLIED
        assert pipeline.wait_all([receipt, first], timeout=LONG) == [Outcome.APPLIED] * 2
    assert pipeline.outcome(Receipt("event-1001", 0, 1)) is Outcome.PENDING


# --- receipts of others


def test_a_receipt_out_of_a_pickle_is_waited_for_by_any_pipeline(scene: Scene, pipeline: Pipeline) -> None:
    receipt = count(pipeline)
    copy: Receipt = pickle.loads(pickle.dumps(receipt))  # noqa: S301 - our own bytes
    assert copy == receipt
    assert repr(copy) == repr(receipt)
    with pytest.raises(RuntimeError, match=r"pipeline\.wait"):
        copy.wait()
    assert type(copy) is Receipt
    assert isinstance(receipt, Receipt)
    drain(pipeline)
    assert scene.pipeline().wait(copy, timeout=LONG) is Outcome.APPLIED
    assert scene.pipeline(namespace="other").outcome(copy) is Outcome.PENDING


def test_what_is_no_receipt_of_this_pipeline_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="shards are 0 to 0"):
        pipeline.wait(Receipt("x", 7, 1))
    with pytest.raises(TypeError, match="not a str"):
        pipeline.wait_all(["x"])  # type: ignore[list-item]


# --- servers that are away


@pytest.mark.usefixtures("short_patience")
def test_while_postgres_is_away_it_goes_on_waiting(
    pipeline: Pipeline, scene: Scene, postgres: Postgres, aside: Aside
) -> None:
    receipt = count(pipeline)
    drain(pipeline)
    later = count(pipeline, 2)
    waiting = aside(later.wait, LONG)
    scene.disconnect()
    postgres.stop()
    assert "PostgreSQL could not be asked" in still_pending(pipeline, receipt, seconds=0.3)
    with pytest.raises(StoreUnavailable):
        receipt.outcome()
    postgres.start()
    assert receipt.wait(timeout=LONG) is Outcome.APPLIED
    drain(pipeline)
    assert waiting.result(LONG) is Outcome.APPLIED


def test_while_redis_is_away_postgres_alone_is_asked(pipeline: Pipeline, valkey: Valkey) -> None:
    receipt = count(pipeline)
    drain(pipeline)
    pending = count(pipeline, 2)
    valkey.stop()
    assert receipt.outcome() is Outcome.APPLIED
    assert receipt.wait(timeout=LONG) is Outcome.APPLIED
    assert "Redis could not be asked" in still_pending(pipeline, pending)


def test_who_waits_without_a_migration_is_told_at_once(redis_url: str, database_url: str) -> None:
    scene = Scene(redis_url, database_url)
    with pytest.raises(NotMigrated):
        count(scene.pipeline()).wait()
    scene.close()
