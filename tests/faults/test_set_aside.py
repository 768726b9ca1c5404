"""What is set aside comes back, in order and by itself, also when it is disturbed on its way."""

import pytest

from pipeline import Change, Pipeline
from pipeline.flush import End
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, dead, drain, restore, snapshot

SETTINGS = {"lease_seconds": 0.02, "retry_attempts": 2}


@pytest.fixture
def family(scene: Scene) -> Pipeline:
    """A parent table without the column that its events set, and a child table."""
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    scene.sql("INSERT INTO parent VALUES (1)")
    return scene.pipeline(**SETTINGS)


def give_birth(pipeline: Pipeline) -> None:
    pipeline.write_group([Change("parent", {"id": 2}, {"name": "x"})], shard_by="one")
    for parent in (1, 2):
        pipeline.write_group([Change("child", {"id": parent}, {"parent": parent})], shard_by="one")


def steps_of_flushes(scene: Scene, count: int) -> list[Step]:
    steps: list[Step] = []
    with Pipeline(scene.config(**SETTINGS), steps.append) as pipeline:
        for _ in range(count):
            pipeline.flush_shard(0)
    return steps


def test_a_child_table_is_not_resumed_before_the_parent_that_one_of_its_events_waits_for(
    scene: Scene, family: Pipeline
) -> None:
    give_birth(family)
    assert Step.RESUMED not in steps_of_flushes(scene, 5)
    scene.sql("ALTER TABLE parent ADD COLUMN name text")
    drain(family)
    assert scene.sql("SELECT id, parent FROM child ORDER BY id") == [(1, 1), (2, 2)]
    assert dead(family) == []


def test_a_table_is_not_resumed_while_a_column_is_missing_that_only_some_events_write(scene: Scene) -> None:
    scene.sql("CREATE TABLE page (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    for n in range(3):
        pipeline.write("page", {"id": n}, set={"n": n})
        pipeline.write("page", {"id": n}, set={"extra": n})
    assert Step.RESUMED not in steps_of_flushes(scene, 5)
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    drain(pipeline)
    assert scene.sql("SELECT id, n, extra FROM page ORDER BY id") == [(n, n, n) for n in range(3)]


def test_what_was_set_aside_is_asked_for_again_when_its_flusher_dies_as_soon_as_it_resumed_the_table(
    scene: Scene,
) -> None:
    pipeline = scene.pipeline(**SETTINGS)
    pipeline.write("page", {"id": 1})
    assert pipeline.flush_shard(0).end is End.PAUSED
    scene.sql("CREATE TABLE page (id int PRIMARY KEY)")
    assert in_child(scene.config(**SETTINGS), die_at(Step.RESUMED), drain) == KILLED
    scene.redis.delete(scene.keys.lease)
    assert pipeline.shards_to_flush() == [0]
    pipeline.flush_shard(0)
    assert scene.sql("SELECT id FROM page") == [(1,)]


def test_what_is_set_aside_by_a_batch_of_a_redis_that_knows_of_no_pause_comes_back(scene: Scene) -> None:
    pipeline = scene.pipeline(**SETTINGS)
    scene.sql("CREATE TABLE page (id int PRIMARY KEY, n int)")
    pipeline.write_group([Change("page", {"id": 1}, {"n": 1})], shard_by="one")
    pipeline.write_group([Change("page", {"id": 1}, {"missing": 2})], shard_by="one")
    assert in_child(scene.config(**SETTINGS), die_at(Step.CLAIMED), drain) == KILLED
    state = snapshot(scene.redis)
    scene.redis.delete(scene.keys.lease)
    assert pipeline.flush_shard(0).end is End.PAUSED
    restore(scene.redis, state)
    scene.redis.delete(scene.keys.lease)
    scene.sql("ALTER TABLE page ADD COLUMN missing int")
    for _ in range(5):
        if pipeline.shards_to_flush():
            pipeline.flush_shard(0)
    assert pipeline.status().pending == 0
    assert scene.sql("SELECT n, missing FROM page") == [(1, 2)]


def test_what_is_set_aside_by_a_batch_of_a_redis_that_knows_of_another_pause_only_does_not_wait_for_that(
    scene: Scene,
) -> None:
    pipeline = scene.pipeline(**SETTINGS)
    scene.sql("CREATE TABLE page (id int PRIMARY KEY, n int)")
    pipeline.write("page", {"id": 1}, set={"typo": 1})
    assert pipeline.flush_shard(0).end is End.PAUSED
    pipeline.write("page", {"id": 2}, set={"n": 1, "missing": 1})
    pipeline.write("page", {"id": 2}, add={"n": 1})
    assert in_child(scene.config(**SETTINGS), die_at(Step.CLAIMED), drain) == KILLED
    state = snapshot(scene.redis)
    scene.redis.delete(scene.keys.lease)
    assert pipeline.flush_shard(0).end is End.PAUSED
    restore(scene.redis, state)
    scene.redis.delete(scene.keys.lease)
    scene.sql("ALTER TABLE page ADD COLUMN missing int")
    pipeline.flush_shard(0)
    assert list(pipeline.status().shards[0].paused) == ["page.typo"]
    assert scene.sql("SELECT id, n, missing FROM page") == [(2, 2, 1)]
    assert pipeline.status().pending == 1


def test_a_child_is_no_dead_letter_when_its_parent_is_resumed_in_the_middle_of_its_batch(
    scene: Scene, family: Pipeline
) -> None:
    family.write_group([Change("parent", {"id": 2}, {"name": "x"})], shard_by="one")
    assert family.flush_shard(0).end is End.PAUSED
    for child in range(4):
        family.write_group([Change("child", {"id": child}, {"parent": 2})], shard_by="one")
    for _ in range(3):  # so that the batch is halved
        assert in_child(scene.config(**SETTINGS), die_at(Step.LOCKED), drain) == KILLED
        scene.redis.delete(scene.keys.lease)
    scene.sql("ALTER TABLE parent ADD COLUMN name text")
    drain(family)
    assert dead(family) == []
    assert scene.sql("SELECT count(*) FROM child WHERE parent = 2") == [(4,)]


def test_a_child_is_no_dead_letter_when_its_parent_is_resumed_in_the_middle_of_what_comes_back(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    pipeline = scene.pipeline(batch_size=1, **SETTINGS)
    page = [Change("page", {"id": number}) for number in range(3)]
    parent, child = Change("parent", {"id": 2}, {"name": "x"}), Change("child", {"id": 1}, {"parent": 2})
    for event in ([page[0]], [parent], [page[1]], [page[2], child]):
        pipeline.write_group(event, shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    scene.sql("CREATE TABLE page (id int PRIMARY KEY)")
    while pipeline.status().shards[0].parked != 1:  # all come back, and the parent is set aside again
        pipeline.flush_shard(0, slice_seconds=0)
    scene.sql("ALTER TABLE parent ADD COLUMN name text")
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id, parent FROM child") == [(1, 2)]


def test_a_table_that_fails_only_behind_the_events_that_come_back_with_it_does_not_keep_a_flush_busy_for_ever(
    scene: Scene, family: Pipeline
) -> None:
    """By itself the delete of the parent can be written; behind the child that comes back with it, it cannot."""
    family.write_group([Change("page", {"id": 1})], shard_by="one")
    family.write_group([Change("parent", {"id": 3}), Change("child", {"id": 1}, {"parent": 3})], shard_by="one")
    family.write_group([Change("parent", {"id": 3}, delete=True)], shard_by="one")
    steps = steps_of_flushes(scene, 3)
    assert steps.count(Step.RESUMED) <= 3, "once in a flush"
    scene.sql("CREATE TABLE page (id int PRIMARY KEY)")
    drain(family)
    assert [letter.table for letter in dead(family)] == ["parent"]
    assert scene.sql("SELECT id, parent FROM child") == [(1, 3)]


def test_two_tables_that_only_wait_for_each_other_are_resumed(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    scene.sql("INSERT INTO parent VALUES (1)")
    scene.sql("INSERT INTO child VALUES (1, 1)")
    pipeline = scene.pipeline(**SETTINGS)
    pipeline.write_group([Change("page", {"id": 1})], shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    pipeline.write_group([Change("parent", {"id": 1}, delete=True)], shard_by="one")
    pipeline.write_group([Change("child", {"id": 2}, {"parent": 2})], shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert set(pipeline.status().shards[0].paused) == {"page", "parent", "child"}
    scene.sql("CREATE TABLE page (id int PRIMARY KEY)")
    drain(pipeline)
    assert scene.sql("SELECT id FROM page") == [(1,)]
    assert {letter.table for letter in dead(pipeline)} == {"parent", "child"}
