"""Cached rows that somebody has made wrong are found, and dropped; nothing else is."""

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from pipeline import Change, InvalidRead, Pipeline, StoreUnavailable, TopologyMismatch
from pipeline.contrib.embedded import Postgres
from pipeline.reconcile import Drift, Problem, Reconciled
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, drain, snapshot

KEY = {"id": 1}
TABLE = "CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, small smallint, name text, price numeric)"
COUNTS = ("checked", "equal", "drifted", "fixed", "busy", "skipped", "unreadable")


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    """Nine rows of one table, all of them cached."""
    scene.sql(TABLE)
    scene.sql("INSERT INTO t (id, small, name) SELECT i, i, 'row ' || i FROM generate_series(1, 9) AS i")
    pipeline = scene.pipeline()
    pipeline.read_many("t", [{"id": i} for i in range(1, 10)])
    return pipeline


def total(parts: Iterator[Reconciled]) -> Reconciled:
    found = list(parts)
    sums = {name: sum(getattr(part, name) for part in found) for name in COUNTS}
    return Reconciled(**sums, rows=[row for part in found for row in part.rows])


def reconciled(pipeline: Pipeline, **options: Any) -> Reconciled:
    result = total(pipeline.reconcile(**options))
    assert result.checked == result.equal + result.drifted + result.unreadable + result.busy
    return result


# --- what is found


def test_rows_that_are_as_they_should_be_are_equal(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write("t", {"id": 2}, set={"price": Decimal("1.50")})
    pipeline.read("t", {"id": 2})
    before = snapshot(scene.redis)
    assert reconciled(pipeline) == Reconciled(checked=9, equal=9, rows=[])
    assert sorted(snapshot(scene.redis)) == sorted(before)


def test_a_row_that_was_changed_past_the_pipeline_is_found_and_fixed(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("UPDATE t SET name = 'elsewhere', price = 1.5 WHERE id = 1")
    found = reconciled(pipeline)
    expected = Drift(
        "t", 0, "id=1", Problem.DIFFERENT, ("name", "price"),
        cached={"name": "row 1", "price": None}, expected={"name": "elsewhere", "price": Decimal("1.5")},
    )  # fmt: skip
    assert found == Reconciled(checked=9, equal=8, drifted=1, rows=[expected])
    assert found.left == 1
    assert pipeline.read("t", KEY)["name"] == "row 1"  # type: ignore[index]

    fixed = reconciled(pipeline, fix=True)
    assert (fixed.drifted, fixed.fixed, fixed.left) == (1, 1, 0)
    assert pipeline.read("t", KEY)["name"] == "elsewhere"  # type: ignore[index]
    assert reconciled(pipeline).equal == 9


def test_a_row_that_was_deleted_past_the_pipeline_is_missing_and_fixed(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("DELETE FROM t WHERE id = 1")
    (row,) = reconciled(pipeline, fix=True).rows
    assert (row.problem, row.columns, row.fixed) == (Problem.MISSING, (), True)
    assert row.cached == {"id": 1, "n": 0, "small": 1, "name": "row 1", "price": None}
    assert pipeline.read("t", KEY) is None


def test_pending_changes_are_no_drift_and_hide_none(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 5})
    pipeline.write("t", {"id": 2}, add={"n": 5})
    scene.sql("UPDATE t SET n = 100 WHERE id = 1")
    scene.sql("DELETE FROM t WHERE id = 2")
    found = reconciled(pipeline, fix=True)
    assert (found.equal, found.drifted, found.fixed) == (7, 2, 2)
    assert {row.key: row.columns for row in found.rows} == {"id=1": ("n",), "id=2": ("small", "name")}
    assert pipeline.read("t", KEY)["n"] == 105  # type: ignore[index]
    drain(pipeline)
    assert scene.sql("SELECT n FROM t WHERE id < 3 ORDER BY id") == [(105,), (5,)]


def test_a_cached_row_that_somebody_tampered_with_is_found(scene: Scene, pipeline: Pipeline) -> None:
    scene.redis.hset(f"{scene.keys.row}t:id=1", "name", "no json")
    scene.redis.hset(f"{scene.keys.row}t:id=2", "other", "1")
    scene.redis.hdel(f"{scene.keys.row}t:id=3", "id")
    scene.redis.hset(f"{scene.keys.row}t:id=4", "id", "5")
    found = reconciled(pipeline, fix=True)
    assert {row.key: row.columns for row in found.rows} == {
        "id=1": ("name",), "id=2": ("other",), "id=3": ("id",), "id=4": ("id",),
    }  # fmt: skip
    assert found.fixed == 4
    assert reconciled(pipeline).checked == 5


def test_what_no_read_takes_for_a_row_is_skipped(scene: Scene, pipeline: Pipeline) -> None:
    for number, tag in enumerate(["?token", "-", "=token", "an earlier life", ""], 1):
        scene.redis.hset(f"{scene.keys.row}t:id={number}", "", tag)
    scene.redis.hset(f"{scene.keys.row}t:strange", "", "life")
    scene.redis.hset("pipeline.row.{7}:t:id=1", "", "life")  # no shard of ours
    scene.redis.set(f"{scene.keys.row}t:id=x", "no hash")
    scene.redis.hset(b"pipeline.row.{0}:\xff:id=1", "", "life")
    scene.sql("UPDATE t SET n = 7")
    before = sorted(set(scene.redis.keys("*")))
    found = reconciled(pipeline, fix=True)
    assert (found.checked, found.drifted, found.fixed, found.skipped) == (4, 4, 4, 6)
    gone = {f"{scene.keys.row}t:id={number}".encode() for number in range(6, 10)}
    assert set(before) - set(scene.redis.keys("*")) == gone


# --- what is no drift


def test_a_change_that_will_be_refused_makes_its_row_busy_until_it_is(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, set={"small": 40_000})
    scene.sql("UPDATE t SET name = 'elsewhere' WHERE id = 2")
    found = reconciled(pipeline, fix=True)
    assert (found.equal, found.busy, found.fixed) == (7, 1, 1)
    drain(pipeline)
    assert pipeline.status().dead_letters == 1
    assert pipeline.read("t", KEY)["small"] == 1  # type: ignore[index]
    assert reconciled(pipeline).busy == 0


def test_a_change_that_was_refused_makes_its_row_busy_until_that_is_acknowledged(
    scene: Scene, pipeline: Pipeline
) -> None:
    scene.sql("ALTER TABLE t ADD CHECK (n < 100)")
    pipeline.write("t", KEY, add={"n": 1000})
    pipeline.write("t", {"id": 2}, add={"n": 10})
    assert reconciled(pipeline).equal == 9
    assert in_child(scene.config(), die_at(Step.COMMITTED), lambda child: child.flush_shard(0)) == KILLED
    found = reconciled(pipeline)
    assert (found.equal, found.busy) == (8, 1)
    scene.redis.delete(scene.keys.lease)
    drain(pipeline)
    assert reconciled(pipeline).busy == 0


# --- what cannot be read


def test_rows_of_a_table_that_is_gone_are_unreadable_and_dropped(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("ALTER TABLE t RENAME TO gone")
    found = reconciled(pipeline)
    assert (found.checked, found.unreadable, found.fixed, found.left) == (9, 9, 0, 9)
    assert {row.problem for row in found.rows} == {Problem.UNREADABLE}
    assert "there is no table t" in str(found.rows[0].detail)
    assert reconciled(pipeline, fix=True).fixed == 9
    assert reconciled(pipeline).checked == 0


def test_rows_whose_key_is_none_any_more_are_unreadable_and_dropped(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("ALTER TABLE t RENAME COLUMN id TO number")
    found = reconciled(pipeline, fix=True)
    assert (found.unreadable, found.fixed) == (9, 9)


def test_a_value_without_a_form_in_python_makes_only_its_own_row_unreadable(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    scene.sql("INSERT INTO t SELECT i, now() FROM generate_series(1, 9) AS i")
    pipeline = scene.pipeline()
    pipeline.read_many("t", [{"id": i} for i in range(1, 10)])
    scene.sql("UPDATE t SET at = 'infinity' WHERE id = 1")
    found = reconciled(pipeline, fix=True)
    assert (found.equal, found.unreadable, found.fixed) == (8, 1, 1)
    assert "infinity" not in str(found.rows)


def test_rows_that_this_role_may_not_read_are_not_dropped(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE ROLE reconciler LOGIN PASSWORD 'x'")
    try:
        scene.sql("GRANT USAGE ON SCHEMA pipeline TO reconciler")
        scene.sql("GRANT SELECT ON ALL TABLES IN SCHEMA pipeline TO reconciler")
        other = scene.pipeline(database_url=re.sub(r"//[^@]*@", "//reconciler:x@", scene.database_url))
        found = reconciled(other, fix=True)
        assert (found.unreadable, found.fixed) == (9, 0)
        assert "permission denied" in str(found.rows[0].detail)
        other.close()
    finally:
        scene.sql("DROP OWNED BY reconciler")
        scene.sql("DROP ROLE reconciler")
    assert reconciled(pipeline).equal == 9


def test_pending_changes_that_cannot_be_read_are_no_reason_to_drop_the_row(scene: Scene, pipeline: Pipeline) -> None:
    scene.redis.rpush(f"{scene.keys.overlay}t:id=1", "no json")
    found = reconciled(pipeline, fix=True)
    assert (found.equal, found.unreadable, found.fixed) == (8, 1, 0)


@pytest.mark.usefixtures("short_patience")
def test_an_outage_is_an_error_and_no_drift(scene: Scene, pipeline: Pipeline, postgres: Postgres) -> None:
    scene.disconnect()
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            reconciled(pipeline, fix=True)
    finally:
        postgres.start()
    assert reconciled(pipeline).equal == 9


def test_a_client_with_another_number_of_shards_is_refused(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    with pytest.raises(TopologyMismatch):
        reconciled(scene.pipeline(shards=4))


# --- which rows


def test_only_the_rows_of_one_table_are_looked_at(scene: Scene) -> None:
    names = ["t", "tt", '"t*"', '"t?"', '"[t]"', r'"t\"', '"a:b"', '"t}:t"', "größe"]
    for name in names:
        scene.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, n int)")
        scene.sql(f"INSERT INTO {name} VALUES (1, 1)")
    pipeline = scene.pipeline()
    for name in names:
        pipeline.read(name, KEY)
    assert reconciled(pipeline).equal == len(names)
    for name in names:
        scene.sql(f"UPDATE {name} SET n = 2")
        found = reconciled(pipeline, table=name, fix=True)
        assert (found.checked, found.fixed, found.rows[0].table) == (1, 1, name)


def test_rows_of_every_shard_and_of_any_namespace_are_found(scene: Scene) -> None:
    scene.sql(TABLE)
    scene.sql("INSERT INTO t SELECT generate_series(1, 40)")
    keys = [{"id": i} for i in range(1, 41)]
    pipeline = scene.pipeline(shards=4, namespace="pipe0")
    pipeline.read_many("t", keys)
    scene.pipeline().read_many("t", keys[:5])
    found = reconciled(pipeline)
    assert (found.checked, found.equal) == (40, 40)


def test_a_sample_is_a_part_of_the_rows(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    scene.sql("INSERT INTO t SELECT generate_series(1, 2000)")
    pipeline = scene.pipeline()
    pipeline.read_many("t", [{"id": i} for i in range(1, 2001)])
    assert 300 < reconciled(pipeline, sample=0.25).equal < 700  # nine standard deviations


def test_a_rate_makes_it_slower(pipeline: Pipeline) -> None:
    begun = datetime.now(UTC)
    assert reconciled(pipeline, rows_per_second=30).equal == 9
    assert datetime.now(UTC) - begun >= timedelta(seconds=9 / 30)


@pytest.mark.parametrize("options", [{"sample": 0}, {"sample": 1.1}, {"rows_per_second": 0}])
def test_what_makes_no_sense_is_refused(pipeline: Pipeline, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        list(pipeline.reconcile(**options))


def test_a_table_that_cannot_be_one_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRead):
        list(pipeline.reconcile(table="a b"))


# --- keys of every kind

NASTY = ["*", "?", "[a-z]", "\\", "\\x", "{0}", "}:", "a:b", "a&b=c", "%3A%25", "'\"", "é😀", "", " ", "\n\t", "NULL"]
KEYS: dict[str, list[Any]] = {
    "text": [*NASTY, "7", "x" * 1000],
    "int": [0, -1, 2**31 - 1],
    "bigint": [2**63 - 1, -(2**63)],
    "numeric": [Decimal("1.50"), Decimal("-0.001"), 10**30],
    "boolean": [True, False],
    "uuid": [uuid.UUID(int=7), uuid.uuid4()],
    "date": [date(1, 1, 1), date(2013, 1, 1), date(9999, 12, 31)],
    "time": [time(0), time(5, 15, 0, 123)],
    "timetz": [time(5, 15, tzinfo=timezone(timedelta(hours=2)))],
    "timestamp": [datetime.fromisoformat(text) for text in ("2013-01-01", "0001-01-01", "9999-12-31T23:59:59")],
    "timestamptz": [
        datetime(2013, 1, 1, tzinfo=UTC), datetime(999, 1, 1, tzinfo=UTC), datetime(2013, 7, 1, 5, 15, 0, 1, UTC),
        datetime(2013, 1, 1, 7, tzinfo=timezone(timedelta(hours=2))),
    ],
    "bytea": [b"", b"\x00\xff", b"text", b"\\x00"],
    "jsonb": ["text", "5", *NASTY],
    "mood": ["ok", "a:b"],
}  # fmt: skip


@pytest.mark.parametrize("type_", KEYS)
def test_rows_with_keys_of_every_kind_are_compared_and_fixed(scene: Scene, type_: str) -> None:
    scene.sql("CREATE TYPE mood AS ENUM ('ok', 'a:b')")
    scene.sql(f'CREATE TABLE t ("k:=&%*" {type_}, part text, n bigint, doc jsonb, PRIMARY KEY (part, "k:=&%*"))')
    pipeline = scene.pipeline()
    keys = [{"k:=&%*": value, "part": part} for value in KEYS[type_] for part in ("a", "*:{é}&=")]
    pipeline.write_many([Change("t", key, set={"n": 1, "doc": {"a": [1]}}) for key in keys])
    drain(pipeline)
    pipeline.read_many("t", keys)
    pipeline.write_many([Change("t", key, add={"n": 1}) for key in keys[::2]])
    found = reconciled(pipeline)
    assert (found.equal, found.checked) == (len(keys), len(keys))
    scene.sql("UPDATE t SET n = n + 10")
    found = reconciled(pipeline, fix=True)
    assert (found.drifted, found.fixed, {row.columns for row in found.rows}) == (len(keys), len(keys), {("n",)})
    assert reconciled(pipeline).checked == 0
    rows = pipeline.read_many("t", keys)
    assert [row and row["n"] for row in rows] == [12, 11] * (len(keys) // 2)


def test_a_key_whose_text_is_that_of_another_value_is_asked_for_as_it_is(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (k jsonb PRIMARY KEY, n int)")
    scene.sql("""INSERT INTO t VALUES ('5', 1), ('true', 2)""")
    pipeline = scene.pipeline()
    pipeline.read_many("t", [{"k": 5}, {"k": True}])
    assert reconciled(pipeline).equal == 2


def test_values_of_every_kind_are_compared(scene: Scene) -> None:
    scene.sql(
        "CREATE TABLE t (id int PRIMARY KEY, a numeric, b timestamptz, c jsonb, d bytea, e text[], f interval, g uuid, "
        "h date, i time, j double precision, k numeric(6,2)[], l json, m timestamptz[], n boolean)"
    )
    scene.sql(
        "INSERT INTO t VALUES (1, 1.50, '2013-01-01+02', '{\"b\": [1, 1.5, null]}', '\\x00ff', '{a,NULL}', "
        "'90 minutes', gen_random_uuid(), '2013-01-01', '05:15', 0.1, '{1.5,NULL}', '[1, {}]', '{2013-01-01}', true)"
    )
    pipeline = scene.pipeline()
    pipeline.read("t", KEY)
    assert reconciled(pipeline).equal == 1
    scene.sql("ALTER DATABASE " + scene.database_url.rpartition("/")[2] + " SET timezone = 'Asia/Kolkata'")
    assert reconciled(scene.pipeline()).equal == 1
    others = {
        "a": "1.51", "b": "'2013-01-01'", "c": "'{\"b\": [1, 1.5, 0]}'", "d": "'\\x00'", "e": "'{a}'",
        "f": "'91 minutes'", "g": "gen_random_uuid()", "h": "NULL", "i": "'05:16'", "j": "0.2", "k": "'{1.5,1}'",
        "l": "'[true, {}]'", "m": "'{}'", "n": "NULL",
    }  # fmt: skip
    for name, value in others.items():
        scene.sql(f"UPDATE t SET {name} = {value}")
        (row,) = reconciled(pipeline, fix=True).rows
        assert (row.columns, row.fixed) == ((name,), True)
        pipeline.read("t", KEY)
