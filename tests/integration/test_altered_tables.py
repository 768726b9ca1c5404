"""Tables that change under the flush, and rows of more shapes than a session keeps statements for."""

from decimal import Decimal
from typing import Any

import pytest

from pipeline import Change
from tests.integration.scene import Scene, dead, drain


def test_more_shapes_than_a_session_has_room_for_are_written_all_the_same(scene: Scene) -> None:
    columns = [f"c{n}" for n in range(12)]
    defined = ", ".join(f"{name} numeric(9, 2) DEFAULT length('50%%') - 3" for name in columns)
    scene.sql(f"CREATE TABLE wide (id int PRIMARY KEY, {defined})")
    pipeline = scene.pipeline()
    shapes = [[name for bit, name in enumerate(columns) if number >> bit & 1] for number in range(200)]
    for _ in range(2):
        pipeline.write_many(Change("wide", {"id": n}, add=dict.fromkeys(shape, 1.25)) for n, shape in enumerate(shapes))
        drain(pipeline)
    assert dead(pipeline) == []
    (sums,) = scene.sql("SELECT " + ", ".join(f"sum({name})" for name in columns) + " FROM wide")
    assert sums == tuple(sum(2.5 for shape in shapes if name in shape) + 200 for name in columns)
    pipeline.write_many(Change("wide", {"id": n}, delete=True) for n in range(200))
    drain(pipeline)
    assert scene.sql("SELECT count(*) FROM wide") == [(0,)]


@pytest.mark.parametrize(
    ("change", "write", "expected"),
    [
        ("ALTER TABLE t ALTER n TYPE numeric(12, 6)", {"set": {"n": Decimal("3.141592")}}, Decimal("3.141592")),
        ("ALTER TABLE t ALTER n SET DEFAULT 100", {"add": {"n": 1}}, Decimal(101)),
        (
            "ALTER TABLE t RENAME TO old; CREATE TABLE t (id int PRIMARY KEY, n numeric DEFAULT 7)",
            {"add": {"n": 1}},
            Decimal(8),
        ),
    ],
)
def test_a_table_that_was_altered_is_written_as_it_is_now(
    scene: Scene, change: str, write: Any, expected: Decimal
) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n numeric(10, 2) DEFAULT 0)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, add={"n": 1})
    drain(pipeline)
    for statement in change.split("; "):
        scene.sql(statement)
    pipeline.write("t", {"id": 2}, **write)
    drain(pipeline)
    assert scene.sql("SELECT n FROM t WHERE id = 2") == [(expected,)]


def test_a_domain_that_was_altered_gives_the_default_that_it_has_now(scene: Scene) -> None:
    scene.sql("CREATE DOMAIN fives AS int DEFAULT 5")
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n fives)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, add={"n": 1})
    drain(pipeline)
    scene.sql("ALTER DOMAIN fives SET DEFAULT 50")
    pipeline.write("t", {"id": 2}, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT n FROM t ORDER BY id") == [(6,), (51,)]


def test_a_key_that_identifies_no_row_any_more_changes_none(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int CONSTRAINT single UNIQUE, n int)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, set={"n": 1})
    drain(pipeline)
    scene.sql("ALTER TABLE t DROP CONSTRAINT single")
    scene.sql("INSERT INTO t VALUES (1, 2)")
    pipeline.write("t", {"id": 1}, set={"n": 3})
    drain(pipeline)
    assert scene.sql("SELECT n FROM t ORDER BY n") == [(1,), (2,)]
    assert len(dead(pipeline)) == 1
