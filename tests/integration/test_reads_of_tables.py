"""What may be cached of which table: a cached row never comes to differ from what PostgreSQL says."""

from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any

import pytest
from psycopg.types.range import Range

from pipeline import Change, Pipeline
from tests.integration.conftest import both_types
from tests.integration.scene import Scene, drain
from tests.integration.test_reads import same, stored

pytestmark = both_types

KEY = {"id": 1}
ROW = "t:id=1"

PARTED = (
    "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE) PARTITION BY LIST (id); "
    "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)"
)
STEADY = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v {type})"


def follow(scene: Scene, pipeline: Pipeline, *changes: Change) -> None:
    """Make each change with the row cached and without, and see that the row is right before and after its flush."""
    for change in changes:
        pipeline.read("t", KEY)
        pipeline.write_many([change])
        pending = [pipeline.read("t", KEY), pipeline.read("t", KEY)]
        drain(pipeline)
        row = stored(scene)
        assert all(same(seen, row) for seen in [*pending, pipeline.read("t", KEY), pipeline.read("t", KEY)]), change


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("char(4)", ["a", "abcd", "b  "]),
        ("varchar(4)", ["a", "abcd   "]),
        ("varchar", ["a", "a   "]),
        ("text", ["a", "7", "é\n"]),
        ("name", ["a", "x" * 70]),
        ("citext", ["A", "a"]),
        ("numeric(6,2)", [Decimal("1.005"), 7, "3.14159"]),
        ("numeric", [1, Decimal("1.10")]),
        ("smallint", [1, "7"]),
        ("bigint", [2**62, -1]),
        ("real", [0.1, 1e10, 16777217]),
        ("double precision", [0.1, 1]),
        ("boolean", [True, "off"]),
        ("timestamptz", ["2013-01-01 00:00+02", "2013-01-01"]),
        ("timestamptz(0)", ["2013-01-01 00:00:00.6+00"]),
        ("interval", ["90 minutes", "1 mon"]),
        ("uuid", ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
        ("jsonb", [{"b": 1, "a": 1.50}, "text", [1, None], 5, True]),
        ("json", [{"b": 1, "a": 1.50}, "text", 5]),
        ("bytea", [b"\x00\xff"]),
        ("int[]", [[1, None], []]),
        ("mood", ["ok", "sad"]),
        ("score", [3, 5]),
        ("word", ["  Ab", "b"]),
        ("inet", ["10.0.0.1"]),
        ("int4range", ["[1,5]"]),
    ],
)
def test_a_set_reads_as_it_is_stored(scene: Scene, type_: str, values: list[Any]) -> None:
    scene.sql("CREATE EXTENSION citext")
    scene.sql("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    scene.sql("CREATE DOMAIN score AS int CHECK (VALUE < 10)")
    scene.sql("CREATE DOMAIN word AS varchar(4)")
    scene.sql(STEADY.format(type=type_))
    scene.sql("INSERT INTO t (id) VALUES (1)")
    pipeline = scene.pipeline()
    sets = [Change("t", KEY, set={"v": value}) for value in values]
    follow(scene, pipeline, *sets, *sets, Change("t", KEY, set={"v": None}), *sets, Change("t", KEY, add={"n": 1}))
    assert pipeline.status().dead_letters == 0


def test_values_that_are_no_json_are_read_and_not_cached(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, address inet, spread int4range)")
    scene.sql("INSERT INTO t VALUES (1, '10.0.0.1', '[1,3]')")
    pipeline = scene.pipeline()
    for _ in range(2):
        assert pipeline.read("t", KEY) == {"id": 1, "address": IPv4Address("10.0.0.1"), "spread": Range(1, 4)}
    assert scene.cached(ROW) == {}


def test_a_generated_column_follows_the_others(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 2, twice int GENERATED ALWAYS AS (n * 2) STORED)")
    pipeline = scene.pipeline()
    follow(scene, pipeline, Change("t", KEY), Change("t", KEY, add={"n": 3}), Change("t", KEY, set={"n": 9}))
    assert pipeline.read("t", KEY) == {"id": 1, "n": 9, "twice": 18}


def test_what_a_sequence_will_assign_is_unknown_until_then(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id serial PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY, email text UNIQUE)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"email": "a@b"})
    assert pipeline.read("t", {"email": "a@b"}) == {"id": None, "other": None, "email": "a@b"}
    drain(pipeline)
    assert pipeline.read("t", {"email": "a@b"}) == {"id": 1, "other": 1, "email": "a@b"}


def test_a_row_that_lacks_what_must_not_be_null_is_not_there_yet(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n int)")
    pipeline = scene.pipeline()
    pipeline.insert("t", {"id": 1, "name": "x"})
    pipeline.write("t", KEY, add={"n": 1})
    assert pipeline.read("t", KEY) is None
    drain(pipeline)
    assert pipeline.read("t", KEY) == {"id": 1, "name": "x", "n": 1}


def test_a_row_with_a_trigger_is_cached_only_as_it_is_stored(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, changes int DEFAULT 0)")
    scene.sql(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.changes := NEW.changes + 1; RETURN NEW; END $$"
    )
    scene.sql("CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()")
    scene.sql("INSERT INTO t VALUES (1)")
    pipeline = scene.pipeline()
    for n in range(1, 4):
        pipeline.read("t", KEY)
        assert scene.cached(ROW) != {}
        pipeline.write("t", KEY, add={"n": 1})
        assert scene.cached(ROW) == {}
        assert pipeline.read("t", KEY) == {"id": 1, "n": n, "changes": n - 1}  # the trigger has not run
        assert scene.cached(ROW) == {}
        drain(pipeline)
        assert pipeline.read("t", KEY) == {"id": 1, "n": n, "changes": n}


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE)",
        "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES parent ON UPDATE CASCADE ON DELETE SET NULL)",
        PARTED,
    ],
)
def test_a_row_that_another_table_may_take_along_is_not_cached(scene: Scene, table: str) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    for statement in table.split("; "):
        scene.sql(statement)
    scene.sql("INSERT INTO parent VALUES (1)")
    scene.sql("INSERT INTO t VALUES (1, 1)")
    pipeline = scene.pipeline()
    for _ in range(2):
        assert pipeline.read("t", KEY) == {"id": 1, "parent": 1}
    pipeline.delete("parent", KEY)
    drain(pipeline)
    assert pipeline.read("t", KEY) == stored(scene)


def test_a_child_is_read_before_its_parent_is_written(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    pipeline = scene.pipeline()
    pipeline.write("parent", KEY)
    pipeline.write("t", KEY, set={"parent": 1})
    assert pipeline.read("t", KEY) == {"id": 1, "parent": 1}


def test_a_row_is_cached_only_under_the_spelling_of_its_key_that_it_has_itself(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id numeric PRIMARY KEY, n int)")
    scene.sql("INSERT INTO t VALUES (1, 5)")
    pipeline = scene.pipeline()
    assert pipeline.read("t", {"id": "1.0"}) == {"id": Decimal(1), "n": 5}
    assert scene.redis.hget(scene.keys.row + "t:id=1.0", "") == b"-"
    assert pipeline.read("t", {"id": Decimal("1.0")}) == {"id": Decimal(1), "n": 5}
    assert scene.cached(ROW) != {}
