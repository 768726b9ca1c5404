"""Rows that are all new go straight into their table; whatever is in the way, the result is that of the usual way."""

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Change, Pipeline
from tests.integration.scene import Scene, dead, drain

COUNTED = """
CREATE SEQUENCE merges;
CREATE SEQUENCE inserts;
CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval(CASE TG_OP WHEN 'UPDATE' THEN 'merges' ELSE 'inserts' END); RETURN NULL; END $$;
"""
WATCHED = """
CREATE TRIGGER merges BEFORE UPDATE ON {0} FOR EACH STATEMENT EXECUTE FUNCTION counted();
CREATE TRIGGER inserts BEFORE INSERT ON {0} FOR EACH STATEMENT EXECUTE FUNCTION counted();
"""
"""A MERGE is a statement of both kinds, also if it updates nothing; COPY only inserts. A sequence never goes back."""


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql(COUNTED)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v >= 0), u int UNIQUE)")
    scene.sql(WATCHED.format("t"))
    return scene.pipeline()


def merges_and_copies(scene: Scene) -> tuple[int, int]:
    """How many there were, those that failed included."""
    merges, inserts = (
        last if is_called else 0
        for name in ("merges", "inserts")
        for last, is_called in scene.sql(f"SELECT last_value, is_called FROM {name}")
    )
    return merges, inserts - merges


def write(pipeline: Pipeline, ids: Iterable[int], value: int = 1, table: str = "t") -> None:
    pipeline.write_many([Change(table, {"id": n}, {"v": value}) for n in ids])
    drain(pipeline)


def rows(scene: Scene, table: str = "t") -> dict[int, int]:
    return dict(scene.sql(f"SELECT id, v FROM {table}"))


def test_a_batch_of_new_rows_lets_those_behind_it_go_straight(scene: Scene, pipeline: Pipeline) -> None:
    for start in range(0, 50, 10):
        write(pipeline, range(start, start + 10), start)
    assert rows(scene) == {n: n // 10 * 10 for n in range(50)}
    assert merges_and_copies(scene) == (1, 4)


def test_a_row_that_is_there_is_updated_and_its_neighbours_are_written(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, range(10))
    write(pipeline, range(9, 20), 2)
    assert rows(scene) == {n: 1 if n < 9 else 2 for n in range(20)}
    assert (merges_and_copies(scene), dead(pipeline)) == ((2, 1), [])


def test_after_a_try_in_vain_more_batches_must_be_new(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, range(10))
    write(pipeline, range(10), 2)
    for start in range(10, 80, 10):
        write(pipeline, range(start, start + 10))
    assert merges_and_copies(scene) == (1 + 1 + 4, 1 + 3)


def test_rows_that_are_there_are_never_tried_to_be_copied(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t SELECT n, 0 FROM generate_series(0, 9) n")
    for value in range(5):
        write(pipeline, range(5, 15 + value), value)
    assert merges_and_copies(scene) == (5, 1), "the one is the first line's"


def test_a_new_row_that_cannot_be_is_the_only_one_that_dies(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, range(10))
    pipeline.write_many([Change("t", {"id": n}, {"v": -1 if n == 15 else 1}) for n in range(10, 20)])
    drain(pipeline)
    assert rows(scene) == {n: 1 for n in range(20) if n != 15}
    assert [letter.sqlstate for letter in dead(pipeline)] == ["23514"]


def test_a_new_row_that_is_not_unique_elsewhere_is_the_only_one_that_dies(scene: Scene, pipeline: Pipeline) -> None:
    for ids in (range(10), range(10, 20)):
        pipeline.write_many([Change("t", {"id": n}, {"v": 1, "u": n % 12}) for n in ids])
        drain(pipeline)
    assert sorted(rows(scene)) == list(range(12))
    assert [letter.sqlstate for letter in dead(pipeline)] == ["23505"] * 8


def test_what_is_added_to_is_not_copied_since_a_default_counts(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int DEFAULT 100)")
    scene.sql(WATCHED.format("counters"))
    for start in (0, 10):
        pipeline.write_many([Change("counters", {"id": n}, add={"n": 1}) for n in range(start, start + 10)])
        drain(pipeline)
    assert dict(scene.sql("SELECT id, n FROM counters")) == dict.fromkeys(range(20), 101)
    assert merges_and_copies(scene) == (2, 0)


def test_rows_that_a_trigger_swallows_or_that_go_elsewhere_are_merged(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)")
    scene.sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)")
    scene.sql("CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ "
              "BEGIN RETURN CASE WHEN NEW.id % 2 = 1 THEN NEW END; END $$")  # fmt: skip
    scene.sql("CREATE TRIGGER odd BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()")
    scene.sql(WATCHED.format("p"))
    for start in (0, 10, 20):
        write(pipeline, range(start, start + 10))
        write(pipeline, range(start, start + 10), table="p")
    assert sorted(rows(scene)) == list(range(1, 30, 2))
    assert sorted(rows(scene, "p")) == list(range(30))
    assert merges_and_copies(scene) == (6, 0)


def test_rows_under_row_level_security_are_written(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.close()
    scene.sql("CREATE ROLE straight_limited")
    try:
        scene.sql("GRANT ALL ON ALL TABLES IN SCHEMA pipeline, public TO straight_limited")
        scene.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA pipeline, public TO straight_limited")
        scene.sql("GRANT USAGE ON SCHEMA pipeline TO straight_limited")
        scene.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        scene.sql("CREATE POLICY everybody ON t USING (true) WITH CHECK (true)")
        limited = scene.pipeline(database_url=scene.database_url + "?options=-c%20role%3Dstraight_limited")
        for start in range(0, 40, 10):
            write(limited, range(start, start + 10))
        assert sorted(rows(scene)) == list(range(40))
        assert (merges_and_copies(scene), dead(limited)) == ((4, 0), [])  # PostgreSQL has no COPY for such a table
        limited.close()
    finally:
        scene.sql("DROP OWNED BY straight_limited")
        scene.sql("DROP ROLE straight_limited")


def test_a_key_that_two_texts_spell_is_written(scene: Scene, pipeline: Pipeline) -> None:
    write(pipeline, range(10))
    pipeline.write("t", {"id": "11"}, set={"v": 1})
    pipeline.write("t", {"id": "011"}, set={"v": 2})
    drain(pipeline)
    assert rows(scene)[11] in {1, 2}


batches = st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=12), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(batches)
def test_any_batches_are_written_as_they_were_accepted(
    scene: Scene, pipeline: Pipeline, batches: list[list[tuple[int, int]]]
) -> None:
    scene.sql("TRUNCATE t")
    expected: dict[int, int] = {}
    for batch in batches:
        pipeline.write_many([Change("t", {"id": n}, {"v": value}) for n, value in batch])
        expected |= dict(batch)
        drain(pipeline)
    assert rows(scene) == expected
