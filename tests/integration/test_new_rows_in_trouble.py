"""Rows are taken for new, and the table changes meanwhile, something is bad, or somebody ends the COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline import Change, Pipeline
from pipeline.core.change import lane_of
from pipeline.core.entries import Events
from pipeline.core.fold import Wave
from pipeline.core.fold_columns import fold_events
from pipeline.core.table import Table
from pipeline.flush import End
from pipeline.store import bulk, isolation, novelty
from tests.integration.conftest import Aside
from tests.integration.new_rows import eager, experienced, looks, put
from tests.integration.scene import Scene, dead, drain, eventually

__all__ = ["eager"]  # a fixture

KEEP = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM t WHERE id = NEW.id) THEN RETURN NULL; END IF; RETURN NEW;
END $$
"""
KEEPING = "CREATE TRIGGER keep BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION keep()"
"""What is there stays as it is, and nobody is told. MERGE does not come by there."""


@contextmanager
def in_the_window(work: Callable[[], object]) -> Iterator[None]:
    """Once, do ``work`` when a batch has looked whether its tables have changed, and has not written yet."""
    left = [work]

    def folding(events: Events, tables: Mapping[str, Table]) -> list[Wave]:
        waves = fold_events(events, tables)
        if left:
            left.pop()()
        return waves

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "fold_events", folding)
        yield


def test_a_trigger_made_while_a_batch_is_written_keeps_no_row_as_it_was(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql(KEEP)
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    with in_the_window(lambda: scene.sql(KEEPING)):
        put(pipeline, 1, n=99)
    assert scene.sql("SELECT n FROM t") == [(99,)]


def test_a_batch_that_began_before_a_change_of_its_table_leaves_no_old_plan_to_others(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, m int)")
    scene.sql(KEEP)
    pipeline = scene.pipeline(shards=2)
    lanes: dict[int, list[int]] = {0: [], 1: []}
    for number in range(40):
        lanes[lane_of("t", f"id={number}", "", 2)].append(number)

    def flush(lane: int, number: int, **values: int) -> None:
        assert pipeline.write("t", {"id": number}, set=values).shard == lane
        pipeline.flush_shard(lane)

    def change() -> None:
        scene.sql(KEEPING)
        flush(1, lanes[1][1], m=5)  # another thread sees that first

    flush(1, lanes[1][0], m=1)  # the table is known, and no plan for the other column
    with in_the_window(change):
        flush(0, lanes[0][0], n=1)
    for number in lanes[0][1:4]:
        flush(0, number, n=2)
    flush(0, lanes[0][0], n=99)
    assert scene.sql("SELECT n FROM t WHERE id = %s", lanes[0][0]) == [(99,)]


def test_poison_elsewhere_does_not_make_one_forget_how_often_one_was_wrong(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[int] = []
    mistaken = novelty.Novelty.mistaken

    def note(one: novelty.Novelty) -> None:
        mistaken(one)
        wanted.append(one._wanted)

    monkeypatch.setattr(novelty.Novelty, "mistaken", note)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE narrow (id int PRIMARY KEY, n smallint)")
    pipeline = scene.pipeline()
    for start in range(0, 48, 4):
        for number in range(start, start + 3):
            pipeline.write("t", {"id": number}, set={"n": number})
            drain(pipeline)
        pipeline.write_many(Change("t", {"id": number}, set={"n": 5}) for number in (0, start + 3))
        drain(pipeline)
        pipeline.write("narrow", {"id": start}, set={"n": 40_000})
        drain(pipeline)
    assert wanted == [2, 4]
    assert len(dead(pipeline)) == 12


def test_a_bad_new_row_says_nothing_of_others(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n smallint)")
    pipeline = experienced(scene)
    for number in range(10, 20):
        put_anyway(pipeline, number, 40_000 if number % 2 else 1)
    with looks(scene) as times:
        put_anyway(pipeline, 20, 1)
    assert times == [1]  # for the first of the two


def put_anyway(pipeline: Pipeline, number: int, value: int) -> None:
    """The row ``number``, and before it a good one that shows whether rows are still taken for new."""
    pipeline.write("t", {"id": 1000 + number}, set={"n": 1})
    drain(pipeline)
    pipeline.write("t", {"id": number}, set={"n": value})
    drain(pipeline)


@pytest.mark.parametrize("verb", ["add", "max", "min"])
def test_what_is_made_of_a_default_is_computed(scene: Scene, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(novelty, "ROWS_FIRST", 0)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, m int NOT NULL DEFAULT 7)")
    pipeline = scene.pipeline()
    for number in range(3):
        operand: Any = {verb: {"m": 9 if verb == "min" else 1}}
        pipeline.write("t", {"id": number}, **operand)
        drain(pipeline)
    assert {m for (m,) in scene.sql("SELECT m FROM t")} == {8 if verb == "add" else 7}


def test_rows_are_looked_for_where_the_index_has_another_idea_of_equality(scene: Scene) -> None:
    scene.sql("CREATE TYPE pair AS (a numeric, b int)")
    scene.sql("CREATE TABLE t (k pair NOT NULL, n int)")
    scene.sql("CREATE UNIQUE INDEX ON t (k record_image_ops)")
    pipeline = scene.pipeline()
    scene.sql("INSERT INTO t VALUES ('(9.0,9)', 0)")
    for k in ("(1,1)", "(2,2)", "(3,3)", "(9.00,9)"):
        pipeline.write("t", {"k": k}, set={"n": 7})
        drain(pipeline)
    assert scene.sql("SELECT (k).b, n FROM t ORDER BY k") == [(1, 7), (2, 7), (3, 7), (9, 7)]


MEANWHILE = {
    "policies": ("SELECT", "ALTER TABLE t ENABLE ROW LEVEL SECURITY"),
    "a trigger": (KEEPING + "; ALTER TABLE t DISABLE TRIGGER keep", "ALTER TABLE t ENABLE TRIGGER keep"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_rows_are_looked_for_from_the_moment_that_copy_is_something_else(scene: Scene, what: str) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql(KEEP)
    before, meanwhile = MEANWHILE[what]
    for statement in before.split("; "):
        scene.sql(statement)
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    scene.sql(meanwhile)
    with looks(scene) as times:
        put(pipeline, 2, n=2)
    assert times == [1]


def test_no_more_tables_are_guessed_at_than_postgresql_keeps_savepoints_at_hand(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_GUESSES", 1)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE u (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()

    def write(number: int) -> None:
        pipeline.write_many(Change(table, {"id": number}, set={"n": number}) for table in ("t", "u"))
        drain(pipeline)

    write(1)
    write(2)
    with looks(scene, "t") as times, looks(scene, "u"):
        write(3)
    assert times == [1]  # in either of them
    assert scene.sql("SELECT t.n, u.n FROM t JOIN u USING (id) ORDER BY id") == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("how", ["terminated", "too slow"])
def test_a_copy_that_ends_before_its_time_blames_nobody(scene: Scene, aside: Aside, how: str) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline(**({"statement_timeout_seconds": 1.0} if how == "too slow" else {}))
    for number in (8, 9, 1):
        put(pipeline, number, n=number)
    pipeline.write_many(Change("t", {"id": number}, set={"n": 2}) for number in range(2, 6))
    with scene.connect() as other, other.transaction():
        other.execute("INSERT INTO t VALUES (3, 0)")
        flush = aside(pipeline.flush_shard, 0)
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY %'"
        ((pid,),) = eventually(lambda: scene.sql(waiting), "the flush does not wait")
        if how == "terminated":
            scene.sql(f"SELECT pg_terminate_backend({pid})")
        report: Any = flush.result()
        assert report.end is End.FAILED
    drain(pipeline)
    assert dict(scene.sql("SELECT id, n FROM t")) == {8: 8, 9: 9, 1: 1} | dict.fromkeys(range(2, 6), 2)
    assert dead(pipeline) == []
