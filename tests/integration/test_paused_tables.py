"""A table that cannot be written at all hurts only itself: its events wait in order, and everything else flows."""

import pytest

from pipeline import Change, Pipeline
from pipeline.flush import End
from tests.integration.scene import Scene, dead, drain

HEALTHY = "CREATE TABLE healthy (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
BROKEN = "CREATE TABLE broken (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql(HEALTHY)
    return scene.pipeline(batch_size=10)


def test_other_tables_of_the_shard_keep_flowing(scene: Scene, pipeline: Pipeline) -> None:
    for n in range(30):
        pipeline.write("healthy", {"id": n})
        pipeline.write("broken", {"id": n})
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert scene.sql("SELECT count(*) FROM healthy") == [(30,)]
    (shard,) = pipeline.status().shards
    assert (shard.pending, shard.parked, shard.frozen, list(shard.paused)) == (30, 30, 0, ["broken"])
    scene.sql(BROKEN)
    assert drain(pipeline).events == 30
    assert scene.sql("SELECT count(*) FROM broken") == [(30,)]
    assert dead(pipeline) == []
    assert pipeline.status().healthy
    assert scene.redis.keys("pipeline.overlay.*") == []
    assert scene.redis.keys("pipeline.held.*") == []


def test_what_was_set_aside_is_written_before_what_came_later(scene: Scene, pipeline: Pipeline) -> None:
    for n in range(25):
        pipeline.write("broken", {"id": 1}, set={"n": n})
    pipeline.flush_shard(0)
    for n in range(25, 50):
        pipeline.write("broken", {"id": 1}, set={"n": n})
    pipeline.flush_shard(0)
    scene.sql("CREATE TABLE seen (place bigint GENERATED ALWAYS AS IDENTITY, n int)")
    scene.sql(BROKEN)
    scene.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.seen (n) VALUES (NEW.n); RETURN NULL; END $$"
    )
    scene.sql("CREATE TRIGGER note AFTER INSERT OR UPDATE ON broken FOR EACH ROW EXECUTE FUNCTION note()")
    pipeline.write("broken", {"id": 1}, set={"n": 50})
    drain(pipeline)
    seen = [n for (n,) in scene.sql("SELECT n FROM seen ORDER BY place")]
    assert seen == sorted(seen)
    assert seen[-1] == 50
    assert dead(pipeline) == []


def test_a_row_that_a_waiting_event_touches_waits_with_it(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("healthy", {"id": 1}, set={"n": 1}, shard_by="x")
    pipeline.write_group([Change("healthy", {"id": 1}, {"n": 2}), Change("broken", {"id": 1})], shard_by="x")
    pipeline.write("healthy", {"id": 1}, set={"n": 3}, shard_by="x")
    pipeline.flush_shard(0)
    assert scene.sql("SELECT n FROM healthy") == [(1,)]
    pipeline.write("healthy", {"id": 1}, add={"n": 10}, shard_by="x")
    pipeline.write("healthy", {"id": 2}, set={"n": 7}, shard_by="x")
    pipeline.flush_shard(0)
    assert scene.sql("SELECT id, n FROM healthy ORDER BY id") == [(1, 1), (2, 7)]
    scene.sql(BROKEN)
    drain(pipeline)
    assert scene.sql("SELECT id, n FROM healthy ORDER BY id") == [(1, 13), (2, 7)]
    assert scene.sql("SELECT id FROM broken") == [(1,)]


def test_two_broken_tables_come_back_one_after_the_other(scene: Scene, pipeline: Pipeline) -> None:
    for n in range(15):
        pipeline.write("broken", {"id": 1}, set={"n": n})
        pipeline.write("missing", {"id": 1}, set={"n": n})
    pipeline.flush_shard(0)
    assert list(pipeline.status().shards[0].paused) == ["broken", "missing"]
    scene.sql(BROKEN)
    while "broken" in pipeline.status().shards[0].paused or pipeline.status().shards[0].parked > 15:
        pipeline.flush_shard(0)
    assert scene.sql("SELECT n FROM broken") == [(14,)]
    assert pipeline.status().shards[0].parked == 15
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY, n int)")
    drain(pipeline)
    assert scene.sql("SELECT n FROM missing") == [(14,)]
    assert dead(pipeline) == []


def test_a_child_whose_parent_is_set_aside_is_no_dead_letter(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    scene.sql("ALTER TABLE parent RENAME TO elsewhere")
    pipeline = scene.pipeline(retry_attempts=2)
    pipeline.write("parent", {"id": 1})
    pipeline.write("child", {"id": 1}, set={"parent": 1})
    for _ in range(10):
        pipeline.flush_shard(0)
    assert dead(pipeline) == []
    assert list(pipeline.status().shards[0].paused) == ["parent", "child"]
    scene.sql("ALTER TABLE elsewhere RENAME TO parent")
    drain(pipeline)
    assert scene.sql("SELECT parent.id, child.id FROM parent JOIN child ON parent = parent.id") == [(1, 1)]


def test_set_aside_events_count_as_pending_and_bound_the_shard(scene: Scene) -> None:
    pipeline = scene.pipeline(max_pending=3)
    for n in range(3):
        pipeline.write("broken", {"id": n})
    pipeline.flush_shard(0)
    with pytest.raises(Exception, match="3 pending events, its limit is 3"):
        pipeline.write("broken", {"id": 4})


def test_a_new_column_pauses_nothing(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("healthy", {"id": 1})
    drain(pipeline)
    scene.sql("ALTER TABLE healthy ADD COLUMN extra text")
    pipeline.write("healthy", {"id": 1}, set={"extra": "x"})
    assert pipeline.flush_shard(0).end is End.EMPTY
    assert scene.sql("SELECT extra FROM healthy") == [("x",)]


def test_an_orphan_dies_when_nothing_is_set_aside_any_more(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    pipeline = scene.pipeline(retry_attempts=2)
    pipeline.write("broken", {"id": 1})
    pipeline.write("child", {"id": 1}, set={"parent": 404})
    for _ in range(10):
        pipeline.flush_shard(0)
    assert dead(pipeline) == []
    scene.sql(BROKEN)
    drain(pipeline)
    assert [letter.table for letter in dead(pipeline)] == ["child"]
    assert scene.sql("SELECT count(*) FROM broken") == [(1,)]
