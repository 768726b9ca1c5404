"""The size of batches follows the database: large where it is quick, small where it is slow, and never for ever."""

from typing import Any

import pytest

from pipeline import Change, Pipeline
from pipeline.report import End, FlushReport
from pipeline.telemetry import Step
from tests.integration.scene import Scene, drain

SLOW = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(TG_ARGV[0]::float); RETURN NEW; END $$
"""


def write(scene: Scene, pipeline: Pipeline, rows: range, *, row_seconds: float) -> None:
    """Events for a table in which every row takes at least so long."""
    if scene.sql("SELECT to_regclass('t')") == [(None,)]:
        scene.sql(SLOW)
        scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    scene.sql(f"CREATE OR REPLACE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION be_slow({row_seconds})")
    pipeline.write_many(Change("t", {"id": n}) for n in rows)


def batches(scene: Scene) -> list[int]:
    """How many events the batches had, in order."""
    return [size for (size,) in scene.sql("SELECT cardinality(event_ids) FROM pipeline.batch ORDER BY seq")]


def test_a_slow_database_gets_small_batches_and_a_quick_one_large_ones_again(scene: Scene) -> None:
    pipeline = scene.pipeline(batch_size=64, commit_target_seconds=0.1)
    write(scene, pipeline, range(200), row_seconds=0.005)
    drain(pipeline)
    slow = batches(scene)
    assert slow[0] == 64  # what is pending may be little, and most databases are quick
    assert 20 < slow[1] <= 32  # it is too slow, and nobody knows how much
    assert all(size <= 20 for size in slow[3:])  # more do not fit into the tenth of a second
    write(scene, pipeline, range(1000, 5000), row_seconds=0)
    drain(pipeline)
    quick = batches(scene)[len(slow) :]
    assert max(quick) == 64


def test_after_a_statement_timeout_no_batch_is_as_large_again(scene: Scene) -> None:
    pipeline = scene.pipeline(batch_size=64, statement_timeout_seconds=0.25)
    write(scene, pipeline, range(64), row_seconds=0.02)
    report = drain(pipeline)
    assert (report.events, report.dead) == (64, 0)
    first, *others = batches(scene)
    assert first <= 12  # more rows run into the timeout
    assert all(size <= 6 for size in others)  # and these in less than half of it


def test_a_statement_timeout_is_heeded_also_if_what_it_is_halved_to_is_quick(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = scene.pipeline(batch_size=64, statement_timeout_seconds=0.25)
    write(scene, pipeline, range(96), row_seconds=0.008)
    scene.sql("DROP TRIGGER slow ON t")
    scene.sql(
        "CREATE TRIGGER slow_later BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id >= 32) EXECUTE FUNCTION be_slow(0.008)"
    )
    drain(pipeline)
    assert batches(scene)[0] == 32
    assert caplog.text.count("halved") == 1  # a batch of 64 was tried once, and then no more


def test_a_process_that_has_learned_to_take_small_batches_finishes_a_large_one_that_is_frozen(scene: Scene) -> None:
    pipeline = scene.pipeline(batch_size=64, commit_target_seconds=0.1, lease_seconds=0.001)
    write(scene, pipeline, range(128), row_seconds=0.005)
    drain(pipeline)
    write(scene, pipeline, range(1000, 1064), row_seconds=0.005)
    scene.buffer(batch_size=64, lease_seconds=0.001).claim(0, "somebody who died")
    assert drain(pipeline).events == 64
    assert batches(scene)[-1] == 64


# --- a steady load ----------------------------------------------------------------------------------------------------


def flushed_while(scene: Scene, changes: int, **settings: Any) -> tuple[FlushReport, int]:
    """A flush during which so many events are accepted after each batch; also how many are left to the next one."""
    pipeline = scene.pipeline(**settings)

    def write_more(step: Step) -> None:
        if step is Step.ACKNOWLEDGED:
            pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(changes))

    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(12))
    with Pipeline(pipeline.config, write_more) as flushing:
        report = flushing.flush_shard(0)
    assert scene.sql("SELECT sum(n) FROM t") == [(report.events,)]
    return report, pipeline.status().pending


def test_a_flush_does_not_run_after_the_few_events_that_are_accepted_meanwhile(scene: Scene) -> None:
    report, left = flushed_while(scene, 3, batch_size=10)
    assert (report.end, report.batches, report.events) == (End.EMPTY, 2, 12 + 3)  # those behind the first batch, too
    assert left == 3


@pytest.mark.parametrize("settings", [{"flush_threshold": 5}, {"max_pending": 12}, {"batch_size": 6}])
def test_a_flush_goes_on_while_as_many_are_accepted_as_a_write_would_ask_a_flush_for(
    scene: Scene, settings: dict[str, int]
) -> None:
    report, _ = flushed_while(scene, 6, **{"batch_size": 12, "flush_slice_seconds": 0.2, **settings})
    assert report.end is End.SLICE


def test_what_is_left_is_flushed_next_time(scene: Scene) -> None:
    _, left = flushed_while(scene, 3, batch_size=10)
    pipeline = scene.pipeline(batch_size=10)
    assert left == 3
    assert pipeline.shards_to_flush() == [0]
    assert drain(pipeline).events == 3
