"""Tables: names, keys, defaults, generated columns, partitions, triggers. What the bulk write makes of each."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline import Change
from tests.integration.scene import Scene, dead, drain

# --- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    '"; drop table x; --', "'; drop table x; --", "a b", "Order", "select", "é", "%s", "%(x)s", "{}", "{0}", "a.b",
    "$1",
    "\\", "tab\there", "n" * 63, "stage", "target", "candidate", "pg_temp",
]  # fmt: skip


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_ever_code(scene: Scene, name: str) -> None:
    schema, table, key, column = quoted(f"s {name}"[:63]), quoted(name), quoted(f"k{name}"[:63]), quoted(name)
    scene.sql("CREATE TABLE x (id int PRIMARY KEY)")
    scene.sql(f"CREATE SCHEMA {schema}")
    scene.sql(f"CREATE TABLE {schema}.{table} ({key} int PRIMARY KEY, {column} int)")
    pipeline = scene.pipeline()
    where = f"{schema}.{table}"
    row = {f"k{name}"[:63]: 1}
    pipeline.write(where, row, set={name: 5})
    pipeline.write(where, row, add={name: 2})
    pipeline.insert(where, {f"k{name}"[:63]: 2, name: 9})
    pipeline.write(where, {f"k{name}"[:63]: 3})
    pipeline.delete(where, {f"k{name}"[:63]: 3})
    pipeline.write("x", {"id": 1})
    assert drain(pipeline).events == 6
    assert dead(pipeline) == []
    assert scene.sql(f"SELECT {key}, {column} FROM {where} ORDER BY 1") == [(1, 7), (2, 9)]
    assert scene.sql("SELECT count(*) FROM x") == [(1,)]


def test_spellings_of_one_table_are_one_table(scene: Scene) -> None:
    scene.sql("CREATE TABLE views (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    for table in ("views", '"views"', "public.views", 'public."views"'):
        pipeline.write(table, {"id": 1}, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT n FROM views") == [(4,)]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_composite_key_is_one_row_whatever_the_order_of_its_columns(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (a int, b text, c date, n int, PRIMARY KEY (c, a, b))")
    pipeline = scene.pipeline()
    pipeline.write("t", {"a": 1, "b": "x:y", "c": "2013-01-01"}, add={"n": 1})
    pipeline.write("t", {"c": "2013-01-01", "b": "x:y", "a": 1}, add={"n": 1})
    pipeline.write("t", {"c": "2013-01-01", "b": "x", "a": 1}, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT b, n FROM t ORDER BY b") == [("x", 1), ("x:y", 2)]


def test_a_unique_key_other_than_the_primary_key_addresses_a_row(scene: Scene) -> None:
    scene.sql("CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE, logins int)")
    scene.sql("INSERT INTO users (email, logins) VALUES ('a@b', 1)")
    pipeline = scene.pipeline()
    pipeline.write("users", {"email": "a@b"}, add={"logins": 1})
    pipeline.write("users", {"email": "c@d"}, add={"logins": 1})
    drain(pipeline)
    assert scene.sql("SELECT id, email, logins FROM users ORDER BY id") == [(1, "a@b", 2), (2, "c@d", 1)]


@pytest.mark.parametrize(
    "index",
    [
        "CREATE INDEX ON t (k)",
        "CREATE UNIQUE INDEX ON t (k) WHERE n > 0",
        "CREATE UNIQUE INDEX ON t (lower(k))",
        "CREATE UNIQUE INDEX ON t (k, n)",
        "ALTER TABLE t ADD UNIQUE (k) DEFERRABLE",
    ],
)
def test_a_key_that_does_not_identify_one_row_is_a_dead_letter(scene: Scene, index: str) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, k text, n int)")
    scene.sql(index)
    pipeline = scene.pipeline()
    pipeline.write("t", {"k": "a"}, add={"n": 1})
    pipeline.delete("t", {"k": "a"})
    pipeline.write("t", {"id": 1}, set={"n": 7})
    drain(pipeline)
    reason = "column k: not the primary key or a unique index of t, so it does not identify one row"
    assert [letter.reason for letter in dead(pipeline)] == [reason] * 2
    assert scene.sql("SELECT id, n FROM t") == [(1, 7)]


def test_a_unique_index_made_later_is_noticed_before_an_event_is_blamed(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, k text, n int)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, set={"k": "a", "n": 1})
    drain(pipeline)
    scene.sql("CREATE UNIQUE INDEX ON t (k)")
    pipeline.write("t", {"k": "a"}, add={"n": 1})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM t") == [(2,)]


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [("int", "bigint", 2**40), ("varchar(3)", "varchar(9)", "longer"), ("int", "text", "words"), ("text", "int", 7)],
)
def test_a_column_that_changed_its_type_is_noticed_before_an_event_is_blamed(
    scene: Scene, before: str, after: str, value: Any
) -> None:
    scene.sql(f"CREATE TABLE t (id int PRIMARY KEY, v {before})")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, set={"v": None})
    drain(pipeline)
    scene.sql(f"ALTER TABLE t ALTER v TYPE {after} USING v::{after}")
    pipeline.write_many([Change("t", {"id": n}, {"v": value}) for n in (2, 3)])
    drain(pipeline)
    assert [letter.reason for letter in dead(pipeline)] == []
    assert scene.sql("SELECT v FROM t ORDER BY id") == [(None,), (value,), (value,)]


def test_a_table_that_was_made_anew_is_the_table(scene: Scene) -> None:
    pipeline = scene.pipeline()
    for kind in ("int", "text"):
        scene.sql("DROP TABLE IF EXISTS t")
        scene.sql(f"CREATE TABLE t (id int PRIMARY KEY, {kind}_value {kind})")
        pipeline.write("t", {"id": 1}, set={f"{kind}_value": "7"})
        drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM t") == [(1, "7")]


# --- columns that PostgreSQL fills ------------------------------------------------------------------------------------


def test_identity_columns(scene: Scene) -> None:
    scene.sql("CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)")
    scene.sql("CREATE TABLE bydefault (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, k int UNIQUE)")
    pipeline = scene.pipeline()
    pipeline.write("always", {"id": 70}, set={"n": 1})  # as a key it says which row
    pipeline.write("bydefault", {"id": 70}, set={"k": 1})
    pipeline.write("bydefault", {"k": 2}, set={"id": 71})
    pipeline.insert("always", {"n": 2})
    pipeline.insert("bydefault", {"k": 3})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id, n FROM always ORDER BY n") == [(70, 1), (1, 2)]
    assert scene.sql("SELECT id, k FROM bydefault ORDER BY k") == [(70, 1), (71, 2), (1, 3)]


def test_a_column_that_postgresql_alone_assigns_cannot_be_written(scene: Scene) -> None:
    identity, generated = "id int GENERATED ALWAYS AS IDENTITY", "d int GENERATED ALWAYS AS (2 * k) STORED"
    scene.sql(f"CREATE TABLE t (k int PRIMARY KEY, {identity}, {generated})")
    pipeline = scene.pipeline()
    pipeline.write("t", {"k": 1}, set={"id": 5})
    pipeline.write("t", {"k": 2}, add={"d": 5})
    pipeline.insert("t", {"k": 3, "d": 5})
    pipeline.write("t", {"k": 4})
    drain(pipeline)
    assert [letter.reason for letter in dead(pipeline)] == [
        "column id: GENERATED ALWAYS AS IDENTITY: PostgreSQL assigns it",
        "column d: a generated column cannot be written",
        "column d: a generated column cannot be written",
    ]
    assert scene.sql("SELECT k, d FROM t") == [(4, 8)]


def test_a_missing_row_starts_from_its_defaults(scene: Scene) -> None:
    scene.sql("CREATE SEQUENCE numbers START 1000")
    scene.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 10, free int, price numeric(10,2) DEFAULT 1.5,"
        " high int DEFAULT 7, low int DEFAULT 7, seq int DEFAULT nextval('numbers'), at timestamptz DEFAULT now(),"
        " word text DEFAULT 'de''fault' || chr(92), void int DEFAULT NULL)"
    )
    pipeline = scene.pipeline()
    early, late = datetime(1999, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    pipeline.write(
        "t",
        {"id": 1},
        add={"n": 1, "free": 1, "price": Decimal("0.25"), "seq": 1, "void": 1},
        max={"high": 9, "at": late},
    )
    pipeline.write("t", {"id": 2}, add={"n": -1}, max={"high": 5, "at": early}, min={"low": 5, "free": 3})
    pipeline.write("t", {"id": 3}, min={"low": 9, "word": "z"})
    pipeline.write("t", {"id": 4}, set={"n": 0, "at": early})
    drain(pipeline)
    assert dead(pipeline) == []
    columns = "n, free, price, high, low, seq, word, void, at = %s, at = %s, at = now()"
    rows = scene.sql(f"SELECT {columns} FROM t ORDER BY id", late, early)
    word = "de'fault\\"
    assert rows[0] == (11, 1, Decimal("1.75"), 9, 7, 1001, word, 1, True, False, False)
    assert rows[1] == (9, 3, Decimal("1.50"), 7, 5, 1001, word, None, False, False, False)
    assert rows[2][:5] == (10, None, Decimal("1.50"), 7, 7)
    assert rows[2][6] == word
    assert rows[3][0] == 0
    assert rows[3][9] is True


def test_null_counts_as_nothing_for_add_max_and_min(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 5, b int DEFAULT 5, c int DEFAULT 5)")
    scene.sql("INSERT INTO t VALUES (1, NULL, NULL, NULL)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, add={"a": 2}, max={"b": -3}, min={"c": 9})
    drain(pipeline)
    assert scene.sql("SELECT a, b, c FROM t") == [(2, -3, 9)]


def test_columns_that_a_write_does_not_name_are_left_alone(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, n int, seen timestamptz NOT NULL)")
    scene.sql("INSERT INTO t VALUES (1, 'kept', 1, '2013-01-01Z')")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1}, add={"n": 1})  # INSERT … ON CONFLICT would fail on name
    missing = pipeline.write("t", {"id": 2}, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT id, name, n FROM t") == [(1, "kept", 2)]
    (letter,) = dead(pipeline)
    assert (letter.event_id, letter.sqlstate) == (missing.event_id, "23502")


def test_many_writes_of_one_row_are_one_row_write_with_the_right_result(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, top text, code char(3), bits bit(4), price numeric(6,1))")
    pipeline = scene.pipeline()
    words = ["b", "a", "Ä", "z", "Z", "aa"]
    for number, word in enumerate(words):
        pipeline.write(
            "t",
            {"id": 1},
            add={"n": number, "price": Decimal("0.05")},
            max={"top": word, "code": word, "bits": f"{number:04b}"},
        )
    report = drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n, top = (SELECT max(w) FROM unnest(%s::text[]) w), code, bits::text FROM t", words) == [
        (15, True, "Ä  ", "0101")
    ]
    assert scene.sql("SELECT price FROM t") == [(Decimal("0.6"),)]  # numeric(6,1) rounds every step
    assert report.events == 6


def test_operands_that_only_postgresql_can_compare_are_still_one_row_write(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, code char(3), bits bit(4), name varchar(4), price numeric(6,1))")
    pipeline = scene.pipeline()
    for number in range(8):
        values = {"code": f"c{number}", "bits": f"{number:04b}", "name": f"n{number}", "price": f"{number}.5"}
        pipeline.write("t", {"id": 1}, max=values)
    report = drain(pipeline)
    assert (report.rows, report.dead) == (1, 0)
    assert scene.sql("SELECT code, bits::text, name, price FROM t") == [("c7 ", "0111", "n7", Decimal("7.5"))]


def test_a_delete_and_a_write_after_it_make_a_new_row(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 100, old text)")
    scene.sql("INSERT INTO t VALUES (1, 5, 'old'), (2, 5, 'old')")
    pipeline = scene.pipeline()
    for key in ({"id": 1}, {"id": 2}, {"id": 3}):
        pipeline.write("t", key, add={"n": 1})
        pipeline.delete("t", key)
        if key != {"id": 2}:
            pipeline.write("t", key, add={"n": 1})
    drain(pipeline)
    assert scene.sql("SELECT * FROM t ORDER BY id") == [(1, 101, None), (3, 101, None)]


@pytest.mark.parametrize("present", [False, True])
def test_an_appended_row_and_writes_of_its_key_take_effect_in_order(scene: Scene, *, present: bool) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    if present:
        scene.sql("INSERT INTO t VALUES (1, 0)")
    pipeline = scene.pipeline()
    row = {"id": 1}
    pipeline.delete("t", row)
    pipeline.insert("t", {"id": 1, "n": 5})
    pipeline.write("t", row, add={"n": 1})
    pipeline.write_group(
        [Change("t", row, delete=True), Change("t", insert={"id": 1, "n": 7}), Change("t", row, add={"n": 1})]
    )
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT * FROM t") == [(1, 8)]


# --- other kinds of tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["RANGE", "LIST", "HASH"])
def test_a_partitioned_table_is_a_table(scene: Scene, by: str) -> None:
    bounds = {
        "RANGE": ["FROM (0) TO (10)", "FROM (10) TO (20)"],
        "LIST": ["IN (1, 2)", "IN (11)"],
        "HASH": ["WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)"],
    }[by]
    scene.sql(f"CREATE TABLE t (id int, part int, n int DEFAULT 0, PRIMARY KEY (id, part)) PARTITION BY {by} (part)")
    for number, bound in enumerate(bounds):
        scene.sql(f"CREATE TABLE t{number} PARTITION OF t FOR VALUES {bound}")
    pipeline = scene.pipeline()
    for _ in range(2):
        for part in (1, 2, 11):
            pipeline.write("t", {"id": 1, "part": part}, add={"n": 1})
        drain(pipeline)
    pipeline.insert("t", {"id": 9, "part": 11})
    pipeline.delete("t", {"id": 1, "part": 2})
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id, part, n FROM t ORDER BY 1, 2") == [(1, 1, 2), (1, 11, 2), (9, 11, 0)]


def test_a_row_for_which_there_is_no_partition_is_a_dead_letter(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)")
    scene.sql("CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    pipeline = scene.pipeline()
    for key in (1, 10, 2):
        pipeline.write("t", {"id": key}, set={"n": 1})
    drain(pipeline)
    assert [letter.reason.split(" (")[0] for letter in dead(pipeline)] == ['no partition of relation "t" found for row']
    assert scene.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_triggers_fire(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, stamp text)")
    scene.sql("CREATE TABLE history (id int, n int)")
    scene.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.n = 13 THEN RAISE EXCEPTION 'unlucky' USING ERRCODE = '23514'; END IF;"
        " NEW.stamp := 'was ' || coalesce(OLD.n::text, 'new');"
        " INSERT INTO history VALUES (NEW.id, NEW.n); RETURN NEW; END $$"
    )
    scene.sql("CREATE TRIGGER note BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note()")
    pipeline = scene.pipeline()
    for n in (1, 13, 2):
        pipeline.write("t", {"id": n}, set={"n": n})
    drain(pipeline)
    pipeline.write("t", {"id": 1}, add={"n": 5})
    drain(pipeline)
    assert [letter.reason for letter in dead(pipeline)] == ["unlucky"]
    assert scene.sql("SELECT * FROM t ORDER BY id") == [(1, 6, "was 1"), (2, 2, "was new")]
    assert sorted(scene.sql("SELECT * FROM history")) == [(1, 1), (1, 6), (2, 2)]


@pytest.mark.parametrize("change", [{"set": {"n": 1}}, {"max": {"n": 1}}, {"add": {"n": 1}}])
def test_a_batch_with_many_shapes_and_tables_writes_each_row_once(scene: Scene, change: dict[str, Any]) -> None:
    for number in range(5):
        scene.sql(f"CREATE TABLE t{number} (id int PRIMARY KEY, n int, a int, b int, c int)")
    pipeline = scene.pipeline()
    changes = []
    for number in range(200):
        extra = {
            name: {column: 1} for name, column in zip(("set", "add", "max"), "abc", strict=True) if name not in change
        }
        parts: dict[str, Any] = {**extra, **change} if number % 2 else change
        changes.append(Change(f"t{number % 5}", {"id": number % 20}, **parts))
    pipeline.write_many(changes)
    report = drain(pipeline)
    assert (report.events, report.rows, report.dead) == (200, 20, 0)
    total = sum(scene.sql(f"SELECT coalesce(sum(n), 0) FROM t{number}")[0][0] for number in range(5))
    assert total == (200 if "add" in change else 20)
