"""Rows that are likely to be new are copied straight into their table, and become what a MERGE makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Change
from pipeline.store import novelty
from tests.integration.conftest import Aside
from tests.integration.new_rows import EAGER, eager, experienced, looks, put
from tests.integration.scene import Scene, dead, drain, eventually

NEVER = 10**9
"""Rows that must have been new."""

__all__ = ["eager"]  # a fixture


def test_rows_after_many_new_ones_are_not_looked_for(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = experienced(scene)
    put(pipeline, 1, 2, n=1)
    with looks(scene) as times:
        put(pipeline, 3, 4, n=2)
    assert times == [0]
    assert scene.sql("SELECT id, n FROM t ORDER BY id") == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_rows_after_one_that_was_there_are_looked_for(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    put(pipeline, 0, n=0)
    scene.sql("INSERT INTO t VALUES (2, 0)")
    put(pipeline, 1, 2, n=1)
    with looks(scene) as times:
        put(pipeline, 3, n=2)
    assert times == [1]


def test_a_row_that_is_there_after_all_is_updated_and_the_others_are_written(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, kept text NOT NULL DEFAULT 'new')")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    scene.sql("INSERT INTO t VALUES (3, 0, 'old')")
    with looks(scene) as times:
        put(pipeline, 2, 3, 4, n=2)
    assert times == [1]
    assert scene.sql("SELECT * FROM t ORDER BY id") == [(1, 1, "new"), (2, 2, "new"), (3, 2, "old"), (4, 2, "new")]


NEW_ONES_REFUSED = {
    "null": "ALTER TABLE t ADD needed int NOT NULL DEFAULT 0; ALTER TABLE t ALTER needed DROP DEFAULT",
    "check": "ALTER TABLE t ADD kept int DEFAULT 1 CHECK (kept > 0); ALTER TABLE t ALTER kept SET DEFAULT 0",
    "trigger": "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
    "silently": "CREATE TRIGGER skip BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION skip()",
    "later": "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
}


@pytest.mark.parametrize("why", NEW_ONES_REFUSED)
def test_a_row_that_is_there_after_all_is_updated_where_a_new_one_would_be_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    scene.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
    scene.sql("CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    monkeypatch.setattr(novelty, "ROWS_FIRST", 0)  # whatever was seen
    pipeline = experienced(scene)
    scene.sql("INSERT INTO t VALUES (1, 0), (2, 0)")
    for statement in NEW_ONES_REFUSED[why].split("; "):
        scene.sql(statement)
    put(pipeline, 1, n=1)
    put(pipeline, 2, n=2)
    assert scene.sql("SELECT id, n FROM t ORDER BY id") == [(1, 1), (2, 2)]


def test_a_row_that_is_there_after_all_takes_nothing_of_another_table_with_it(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE u (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    for number in (1, 2, 3):
        if number == 3:
            scene.sql("INSERT INTO u VALUES (3, 0)")
        pipeline.write_many(Change(table, {"id": number}, set={"n": number}) for table in ("t", "u"))
        assert drain(pipeline).rows == 2
    assert scene.sql("SELECT t.n, u.n FROM t JOIN u USING (id) ORDER BY id") == [(1, 1), (2, 2), (3, 3)]


def test_a_row_that_somebody_else_inserts_meanwhile_is_updated(scene: Scene, aside: Aside) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    pipeline.write("t", {"id": 2}, set={"n": 2})
    with scene.connect() as other, other.transaction():
        other.execute("INSERT INTO t VALUES (2, 0)")
        flush = aside(drain, pipeline)
        eventually(
            lambda: scene.sql(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY %'"
            ),
            "the flush does not wait",
        )
    flush.result()
    assert scene.sql("SELECT id, n FROM t ORDER BY id") == [(1, 1), (2, 2)]
    assert dead(pipeline) == []


def test_a_row_that_another_index_refuses_is_the_only_one_that_is_buried(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int UNIQUE)")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    pipeline.write_many(Change("t", {"id": number}, set={"n": number if number < 5 else 1}) for number in range(2, 6))
    drain(pipeline)
    assert [letter.sqlstate for letter in dead(pipeline)] == ["23505"]
    assert scene.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("definition", ["id int PRIMARY KEY, n int, CHECK (n <> 3)", "id int PRIMARY KEY, n smallint"])
def test_a_new_row_that_is_wrong_is_the_only_one_that_is_buried(scene: Scene, definition: str) -> None:
    scene.sql(f"CREATE TABLE t ({definition})")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    wrong = 3 if "CHECK" in definition else 40_000
    pipeline.write_many(Change("t", {"id": n}, set={"n": wrong if n == 3 else n}) for n in range(2, 6))
    drain(pipeline)
    assert len(dead(pipeline)) == 1
    assert scene.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,), (4,), (5,)]


@pytest.mark.parametrize("before", [True, False], ids=["before", "meanwhile"])
def test_a_row_of_a_table_that_inherits_is_updated_there(scene: Scene, before: bool) -> None:  # noqa: FBT001
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    if before:
        scene.sql("CREATE TABLE heir () INHERITS (t)")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    if not before:
        scene.sql("CREATE TABLE heir () INHERITS (t)")
    scene.sql("INSERT INTO heir VALUES (2, 0), (3, 0)")
    put(pipeline, 2, n=2)
    put(pipeline, 3, n=3)
    assert scene.sql("SELECT id, n FROM ONLY t") == [(1, 1)]
    assert scene.sql("SELECT id, n FROM heir ORDER BY id") == [(2, 2), (3, 3)]


@pytest.mark.parametrize(
    "made",
    ["CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
     "CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t DEFAULT"],
    ids=["policies", "partitions"],
)  # fmt: skip
def test_rows_are_looked_for_where_copy_is_something_else(scene: Scene, made: str) -> None:
    for statement in made.split("; "):
        scene.sql(statement)
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    with looks(scene) as times:
        put(pipeline, 2, n=2)
    assert times == [1]


def test_a_rule_made_meanwhile_is_not_passed_by(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = experienced(scene)
    put(pipeline, 1, n=1)
    scene.sql("CREATE RULE nothing AS ON INSERT TO t DO INSTEAD NOTHING")
    pipeline.write("t", {"id": 2}, set={"n": 2})
    pipeline.flush_shard(0)
    assert scene.sql("SELECT id FROM t") == [(1,)]


@pytest.mark.parametrize(("index", "times"), [("name", 0), ('name COLLATE "C"', 1)], ids=["same", "other"])
def test_rows_are_looked_for_where_the_index_has_another_collation(scene: Scene, index: str, times: int) -> None:
    """It might tell keys apart that are one."""
    scene.sql('CREATE TABLE t (name text COLLATE "POSIX" NOT NULL, n int)')
    scene.sql(f"CREATE UNIQUE INDEX ON t ({index})")
    pipeline = scene.pipeline()
    for name in ("ann", "bob"):
        pipeline.write("t", {"name": name}, set={"n": 1})
        drain(pipeline)
    with looks(scene) as found:
        pipeline.write("t", {"name": "cid"}, set={"n": 2})
        drain(pipeline)
    assert found == [times]


TABLES = {
    "defaults": "id int PRIMARY KEY, n int, s text DEFAULT 'none', m int NOT NULL DEFAULT 7",
    "generated": "id int PRIMARY KEY, n int, d int GENERATED ALWAYS AS (n * 2) STORED, s text",
    "identity": "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, s text",
    "domains": "id whole PRIMARY KEY, n whole, s word",
    "lengths": "id numeric(6, 2) PRIMARY KEY, n numeric(5, 1), s char(8)",
    "required": "id int PRIMARY KEY, n int, s text NOT NULL",
    "partitioned": "id int PRIMARY KEY, n int, s text DEFAULT 'none'",
    "triggered": "id int PRIMARY KEY, n int, s text, seen text",
    "loose": "id int UNIQUE, n int, s text",
}  # fmt: skip
BATCHES: list[list[tuple[int, dict[str, Any]]]] = [
    [(1, {"n": 1}), (2, {"n": None}), (3, {"s": "a"}), (4, {"s": None}), (5, {"n": 5, "s": "null"})],
    [(6, {"n": 6}), (7, {"n": None}), (8, {"s": ""}), (9, {"s": None}), (10, {"n": None, "s": None}), (11, {})],
    [(12, {"n": 12}), (1, {"n": 13}), (13, {"s": "b"}), (14, {"n": -1, "s": '"'}), (11, {}), (15, {})],
    [(16, {"n": 16}), (17, {"n": 99}), (18, {"s": "c"}), (3, {"s": "d"}), (19, {"n": 1, "s": "e"})],
    [(19, {"n": None}), (20, {"n": 20}), (21, {"n": 21}), (22, {"n": 1, "s": "c\\"}), (23, {"s": "f"})],
]  # fmt: skip


def written(scene: Scene, kind: str) -> tuple[Any, ...]:
    """What is in the table, and what is dead, when a new one has got all batches."""
    scene.sql("DROP TABLE IF EXISTS t CASCADE")
    scene.sql(f"CREATE TABLE t ({TABLES[kind]})" + " PARTITION BY HASH (id)" * (kind == "partitioned"))
    if kind == "partitioned":
        for number in range(3):
            scene.sql(f"CREATE TABLE t{number} PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER {number})")
    if kind == "triggered":
        scene.sql("CREATE TRIGGER see BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION see()")
    pipeline = scene.pipeline()
    before = len(dead(pipeline))
    for batch in BATCHES:
        pipeline.write_many(Change("t", {"id": number}, set=values) for number, values in batch)
        drain(pipeline)
    letters = sorted((letter.sqlstate, letter.message) for letter in dead(pipeline)[before:])
    return scene.sql("SELECT * FROM t ORDER BY id"), [sqlstate for sqlstate, _ in letters]


@pytest.mark.parametrize("first", [0, EAGER], ids=["always", "eager"])
@pytest.mark.parametrize("kind", TABLES)
def test_new_rows_are_what_they_are_when_they_are_looked_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, kind: str, first: int
) -> None:
    monkeypatch.setattr(novelty, "ROWS_FIRST", first)
    scene.sql("CREATE DOMAIN whole AS int CHECK (VALUE < 99)")
    scene.sql("CREATE DOMAIN word AS varchar(20) DEFAULT 'w' CHECK (VALUE <> 'c')")
    scene.sql(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.n = 6 THEN RETURN NULL; END IF; NEW.seen = TG_OP || coalesce(NEW.s, '-'); RETURN NEW; END $$"
    )
    copied = written(scene, kind)
    monkeypatch.setattr(novelty, "ROWS_FIRST", NEVER)
    assert copied == written(scene, kind)
