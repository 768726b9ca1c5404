"""Foreign keys: parents first, deletes children first, whatever the order and the number of events and tables."""

import itertools

import pytest

from pipeline import Change
from tests.integration.scene import Scene, dead, drain

THREE = (
    "CREATE TABLE country (id int PRIMARY KEY, n int)",
    "CREATE TABLE city (id int PRIMARY KEY, country int NOT NULL REFERENCES country, n int)",
    "CREATE TABLE house (id int PRIMARY KEY, city int NOT NULL REFERENCES city, country int REFERENCES country)",
)
WRITES = [
    Change("country", {"id": 1}, {"n": 1}),
    Change("city", {"id": 1}, {"country": 1}),
    Change("house", {"id": 1}, {"city": 1, "country": 1}),
]
DELETES = [
    Change("country", {"id": 1}, delete=True),
    Change("city", {"id": 1}, delete=True),
    Change("house", {"id": 1}, delete=True),
]


def make(scene: Scene, statements: tuple[str, ...]) -> None:
    for statement in statements:
        scene.sql(statement)


def count(scene: Scene, *tables: str) -> list[int]:
    return [scene.sql(f"SELECT count(*) FROM {table}")[0][0] for table in tables]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_rows_of_one_batch_are_written_parents_first_and_deleted_children_first(
    scene: Scene, order: tuple[int, ...]
) -> None:
    make(scene, THREE)
    pipeline = scene.pipeline()
    pipeline.write_many([WRITES[i] for i in order])
    report = drain(pipeline)
    assert (report.batches, report.rows, count(scene, "country", "city", "house")) == (1, 3, [1, 1, 1])
    pipeline.write_many([DELETES[i] for i in order])
    report = drain(pipeline)
    assert (report.batches, report.rows, count(scene, "country", "city", "house")) == (1, 3, [0, 0, 0])
    assert dead(pipeline) == []


def test_a_batch_may_delete_a_family_and_make_another(scene: Scene) -> None:
    make(scene, THREE)
    pipeline = scene.pipeline()
    pipeline.write_many(WRITES)
    drain(pipeline)
    others = [Change(c.table, {"id": 2}, dict.fromkeys(c.set, 2)) for c in WRITES]
    pipeline.write_many([*DELETES, *reversed(others)])
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM house") == [(2, 2, 2)]


def test_appended_rows_wait_for_their_parents_too(scene: Scene) -> None:
    make(scene, ("CREATE TABLE zz (id int PRIMARY KEY)", "CREATE TABLE aa (zz int REFERENCES zz)"))
    pipeline = scene.pipeline()
    pipeline.insert("aa", {"zz": 1})
    pipeline.insert("zz", {"id": 1})
    pipeline.insert("aa", {"zz": 2})
    pipeline.write("zz", {"id": 2})
    assert drain(pipeline).batches == 1
    assert dead(pipeline) == []
    assert count(scene, "aa", "zz") == [2, 2]


def test_a_foreign_key_made_later_is_noticed_before_an_event_is_blamed(scene: Scene) -> None:
    make(scene, ("CREATE TABLE aa (id int PRIMARY KEY, zz int)", "CREATE TABLE zz (id int PRIMARY KEY)"))
    pipeline = scene.pipeline()
    for table in ("aa", "zz"):
        pipeline.write(table, {"id": 1})
    drain(pipeline)
    scene.sql("ALTER TABLE aa ADD FOREIGN KEY (zz) REFERENCES zz")
    pipeline.write("aa", {"id": 2}, set={"zz": 2})
    pipeline.write("zz", {"id": 2})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM aa ORDER BY id") == [(1, None), (2, 2)]


SELF = "CREATE TABLE node (id int PRIMARY KEY, up int REFERENCES node, n int DEFAULT 0)"


def test_rows_that_reference_their_own_table(scene: Scene) -> None:
    scene.sql(SELF)
    pipeline = scene.pipeline()
    nodes = [Change("node", {"id": n}, {"up": n // 2 or None}) for n in range(1, 100)]
    pipeline.write_many(nodes)
    drain(pipeline)
    assert count(scene, "node") == [99]
    pipeline.write_many([Change("node", {"id": n}, delete=True) for n in range(99, 0, -1)])
    drain(pipeline)
    assert dead(pipeline) == []
    assert count(scene, "node") == [0]


def test_rows_that_reference_their_own_table_with_columns_of_different_kinds(scene: Scene) -> None:
    scene.sql(SELF)
    pipeline = scene.pipeline()
    pipeline.write_many(
        Change("node", {"id": n}, {"up": n - 1} if n else {}, {"n": 1} if n % 2 else {}) for n in range(8)
    )
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT count(*), sum(n), max(up) FROM node") == [(8, 4, 6)]


CYCLE = (
    "CREATE TABLE a (id int PRIMARY KEY, b int)",
    "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED",
)


def test_deferrable_constraints_hold_at_the_end_of_the_batch(scene: Scene) -> None:
    make(scene, CYCLE)
    pipeline = scene.pipeline()
    pipeline.write_many([Change("a", {"id": 1}, {"b": 1}), Change("b", {"id": 1}, {"a": 1})])
    assert drain(pipeline).batches == 1
    assert dead(pipeline) == []
    assert (scene.sql("SELECT * FROM a"), scene.sql("SELECT * FROM b")) == ([(1, 1)], [(1, 1)])


def test_a_deferred_constraint_that_is_broken_hurts_its_own_event_only(scene: Scene) -> None:
    make(scene, CYCLE)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    pipeline = scene.pipeline(retry_attempts=1)
    pipeline.write_many([Change("t", {"id": 1}, {"n": 1}), Change("t", {"id": 2}, {"n": 2})])
    drain(pipeline)
    # swapping two unique values is right at the end, and only there
    swap = pipeline.write_group([Change("t", {"id": 1}, {"n": 2}), Change("t", {"id": 2}, {"n": 1})])
    lost = pipeline.write("a", {"id": 1}, set={"b": 99})
    same = pipeline.write("t", {"id": 3}, set={"n": 1})
    pipeline.write_group([Change("a", {"id": 2}, {"b": 2}), Change("b", {"id": 2}, {"a": 2})])
    drain(pipeline)
    assert [(letter.event_id, letter.sqlstate) for letter in dead(pipeline)] == [
        (lost.event_id, "23503"),
        (same.event_id, "23505"),
    ]
    assert swap.seq == 3
    assert scene.sql("SELECT * FROM t ORDER BY id") == [(1, 2), (2, 1)]
    assert (scene.sql("SELECT * FROM a"), scene.sql("SELECT * FROM b")) == ([(2, 2)], [(2, 2)])


def test_a_cascade_takes_its_rows_along(scene: Scene) -> None:
    make(
        scene,
        (
            "CREATE TABLE cart (id int PRIMARY KEY)",
            "CREATE TABLE item (id int PRIMARY KEY, cart int REFERENCES cart ON DELETE CASCADE)",
        ),
    )
    pipeline = scene.pipeline()
    pipeline.write_many([Change("item", {"id": n}, {"cart": 1}) for n in range(3)] + [Change("cart", {"id": 1})])
    drain(pipeline)
    pipeline.delete("cart", {"id": 1})
    pipeline.write("item", {"id": 7}, set={"cart": None})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id FROM item") == [(7,)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_a_cascade_does_not_reach_what_was_written_after_the_delete(scene: Scene, action: str) -> None:
    make(
        scene,
        (
            "CREATE TABLE cart (id int PRIMARY KEY)",
            f"CREATE TABLE item (id int PRIMARY KEY, cart int REFERENCES cart ON DELETE {action})",
            f"CREATE TABLE note (id int PRIMARY KEY, item int REFERENCES item ON DELETE {action})",
            "INSERT INTO cart VALUES (1)",
            "INSERT INTO item VALUES (6, 1)",
        ),
    )
    pipeline = scene.pipeline()
    pipeline.write_many(
        [
            Change("item", {"id": 5}, {"cart": 1}),
            Change("cart", {"id": 1}, delete=True),
            Change("cart", {"id": 1}),
            Change("item", {"id": 7}, {"cart": 1}),
            Change("note", {"id": 8}, {"item": 7}),
        ]
    )
    report = drain(pipeline)
    assert (report.batches, dead(pipeline)) == (1, [])
    assert scene.sql("SELECT id FROM item WHERE cart = 1") == [(7,)]
    assert scene.sql("SELECT id, item FROM note") == [(8, 7)]
