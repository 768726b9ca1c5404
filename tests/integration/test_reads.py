"""`read` gives the row with every change that was accepted for it, from the cache or from PostgreSQL, all the same."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg.rows import dict_row

from pipeline import Change, InvalidRead, Pipeline
from pipeline.telemetry import Probe, Step
from tests.integration.conftest import both_types
from tests.integration.scene import Scene, drain

pytestmark = both_types

KEY = {"id": 1}
ROW = "t:id=1"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 5, small smallint, name text, "
        "price numeric(10,2) DEFAULT 1.5, padded char(4), seen timestamptz, flag boolean, doc jsonb, tags text[])"
    )
    return scene.pipeline()


def at(step: Step, act: Callable[[], object]) -> Probe:
    """A probe that does something at a step."""

    def probe(taken: Step) -> None:
        if taken is step:
            act()

    return probe


def stored(scene: Scene, table: str = "t", where: str = "id = 1") -> dict[str, Any] | None:
    """What psycopg returns for the row."""
    with scene.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f"SELECT * FROM {table} WHERE {where}".encode()).fetchone()


def same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Equal, also in the types of the values."""
    types = [None if row is None else {name: type(value) for name, value in row.items()} for row in (one, other)]
    return one == other and types[0] == types[1]


def test_a_row_reads_the_same_before_and_after_it_is_written_and_from_the_cache(
    scene: Scene, pipeline: Pipeline
) -> None:
    now = datetime(2013, 1, 1, 5, 15, 0, 123456, tzinfo=UTC)
    pipeline.write("t", KEY, set={"name": "Ada", "padded": "x", "seen": now}, add={"n": 2, "price": Decimal("0.006")})
    pipeline.write("t", KEY, set={"doc": {"a": [1, None]}, "tags": ["x", None]}, max={"seen": now})
    pending = pipeline.read("t", KEY)
    drain(pipeline)
    missed = pipeline.read("t", KEY)
    hit = pipeline.read("t", KEY)
    assert scene.cached(ROW) != {}
    row = stored(scene)
    assert row is not None
    assert row["padded"] == "x   "
    assert row["price"] == Decimal("1.51")
    assert same(pending, row)
    assert same(missed, row)
    assert same(hit, row)


def test_a_row_that_nobody_wrote_is_none(scene: Scene, pipeline: Pipeline) -> None:
    assert pipeline.read("t", KEY) is None
    assert pipeline.read_many("t", [KEY, {"id": 2}]) == [None, None]
    scene.sql("INSERT INTO t (id) VALUES (1)")
    assert same(pipeline.read("t", KEY), stored(scene))


def test_a_cached_row_follows_its_writes(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id, name, small, flag) VALUES (1, 'x', 1, true)")
    assert pipeline.read("t", KEY) is not None
    pipeline.write("t", KEY, add={"n": 3}, set={"name": "y", "flag": False})
    assert scene.cached(ROW)["n"] == 8
    expected = pipeline.read("t", KEY)
    scene.redis.delete(scene.keys.row + ROW)
    assert same(pipeline.read("t", KEY), expected)
    drain(pipeline)
    assert same(expected, stored(scene))
    assert same(pipeline.read("t", KEY), expected)
    assert scene.redis.ttl(scene.keys.row + ROW) > 0


@pytest.mark.parametrize(
    "change",
    [
        Change("t", KEY, delete=True),
        Change("t", KEY, set={"name": None}),
        Change("t", KEY, set={"padded": "ab"}),
        Change("t", KEY, set={"price": Decimal("1.005")}),
        Change("t", KEY, set={"price": 3}),
        Change("t", KEY, add={"small": 1}),
        Change("t", KEY, add={"n": -1}),
        Change("t", KEY, max={"name": "é"}),
        Change("t", KEY, min={"n": 2}),
        Change("t", KEY, set={"doc": {"b": 1.50, "a": "x"}}),
        Change("t", KEY, set={"doc": "text"}),
        Change("t", KEY, set={"tags": []}),
        Change("t", KEY, set={"small": "12"}),
        Change("t", KEY, set={"seen": "2013-01-01"}),
        Change("t", KEY),
    ],
    ids=repr,
)
@pytest.mark.parametrize("exists", [True, False])
def test_what_is_read_while_a_change_is_pending_is_what_postgresql_will_say(
    scene: Scene, pipeline: Pipeline, change: Change, *, exists: bool
) -> None:
    if exists:
        scene.sql("INSERT INTO t (id, name, small, flag) VALUES (1, 'x', 1, true)")
    for warm in (True, False):
        if warm:
            pipeline.read("t", KEY)
        pipeline.write_many([change])
        seen = pipeline.read("t", KEY)
        again = pipeline.read("t", KEY)
        drain(pipeline)
        row = stored(scene)
        assert same(seen, row)
        assert same(again, row)
        assert same(pipeline.read("t", KEY), row)


def test_a_write_after_a_delete_starts_from_the_defaults(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id, n, name) VALUES (1, 100, 'x')")
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.delete("t", KEY)
    assert pipeline.read("t", KEY) is None
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write("t", KEY, max={"name": "b"})
    row = pipeline.read("t", KEY)
    assert row is not None
    assert (row["n"], row["name"]) == (6, "b")
    assert scene.cached(ROW) == {}  # somebody may have inserted it by then
    drain(pipeline)
    assert same(row, stored(scene))


def test_what_will_be_refused_is_left_out_and_its_neighbours_are_not(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write("t", KEY, set={"small": "many"})
    pipeline.write("t", KEY, set={"n": None})
    pipeline.write("t", KEY, add={"small": 2**40})
    pipeline.write("t", KEY, add={"n": 2})
    row = pipeline.read("t", KEY)
    assert row is not None
    assert (row["n"], row["small"]) == (8, None)
    drain(pipeline)
    assert pipeline.status().dead_letters == 3
    assert same(pipeline.read("t", KEY), row)
    assert same(stored(scene), row)


def test_many_rows_are_read_in_their_order(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id, n) SELECT id, id FROM generate_series(1, 20) AS id")
    pipeline.write("t", {"id": 3}, add={"n": 1000})
    pipeline.read("t", {"id": 5})
    keys = [{"id": n} for n in (5, 3, 99, 20, 3)]
    for _ in range(2):
        rows = pipeline.read_many("t", keys)
        assert [None if row is None else row["n"] for row in rows] == [5, 1003, None, 20, 1003]
    assert pipeline.read_many("t", []) == []


def test_keys_of_every_kind_find_their_rows(scene: Scene) -> None:
    pipeline = scene.pipeline()
    scene.sql('CREATE TABLE "Odd %" ("a %s" text, b timestamptz, v int, PRIMARY KEY ("a %s", b), UNIQUE (v))')
    moment = datetime(2013, 1, 1, tzinfo=UTC)
    for text in ("plain", 'q"uo\\te,{}', "", "NULL", "%s"):
        key = {"a %s": text, "b": moment}
        pipeline.write('"Odd %"', key, set={"v": len(text)})
        before = pipeline.read('"Odd %"', key)
        drain(pipeline)
        assert before == pipeline.read('"Odd %"', key) == {**key, "v": len(text)}
    assert pipeline.read('"Odd %"', {"v": 0}) == {"a %s": "", "b": moment, "v": 0}


@pytest.mark.parametrize(
    ("table", "key", "problem"),
    [
        ("nowhere", KEY, "no table nowhere"),
        ("t", {"n": 1}, "not the primary key or a unique index"),
        ("t", {"id": 1, "n": 1}, "not the primary key or a unique index"),
        ("t", {"other": 1}, "no column other"),
        ("t", {"id": "x"}, "invalid input syntax"),
        ("t", {"id": 2**80}, "out of range"),
        ("t", {"id": None}, "NULL cannot identify a row"),
        ("t", {}, "a key is needed"),
        ("T", KEY, "capitals"),
        ("pg_catalog.pg_class", {"oid": 1}, "belongs to PostgreSQL"),
        ("pipeline.shard", {"namespace": "x", "shard": 1}, "belongs to PostgreSQL or to the pipeline"),
    ],
)
def test_a_read_that_has_no_answer_says_why(
    scene: Scene, pipeline: Pipeline, table: str, key: dict[str, Any], problem: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRead, match=problem):
            pipeline.read(table, key)
        with pytest.raises(InvalidRead, match=problem):
            pipeline.read_many(table, [key])
    assert scene.redis.keys("pipeline.row*") == []


def test_a_hit_is_one_round_trip(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t SELECT id FROM generate_series(1, 3) AS id")
    keys = [{"id": n} for n in (1, 2, 3)]
    pipeline.read_many("t", keys)
    with scene.redis.monitor() as monitor:
        pipeline.read("t", KEY)
        pipeline.read_many("t", keys)
        scene.redis.ping()
        commands = []
        for command in monitor.listen():
            if command["command"] == "PING":
                break
            commands.append(command["command"].split()[0])
    assert [command for command in commands if command not in {"HELLO", "CLIENT"}] == ["HGETALL"] * 4


def test_a_table_that_was_altered_is_read_as_it_is_now(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id) VALUES (1)")
    for alteration in ("ALTER id TYPE int", "DROP COLUMN tags", "ALTER n TYPE numeric", "ADD UNIQUE (name)"):
        scene.sql(f"ALTER TABLE t {alteration}")
        row = stored(scene)
        for _ in range(8):  # psycopg prepares what it has seen five times
            scene.redis.delete(scene.keys.row + ROW)
            assert same(pipeline.read("t", KEY), row)
    scene.sql("UPDATE t SET name = 'x'")
    assert pipeline.read("t", {"name": "x"}) is not None


def test_a_write_during_a_miss_is_not_hidden_by_what_the_miss_installs(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id) VALUES (1)")
    for step in (Step.LOOKED, Step.FETCHED):
        scene.redis.delete(scene.keys.row + ROW)
        with scene.kind(scene.config(), at(step, lambda: pipeline.write("t", KEY, add={"n": 1}))) as reader:
            reader.read("t", KEY)
        assert scene.cached(ROW) == {}
    row = pipeline.read("t", KEY)
    assert row is not None
    assert row["n"] == 7


def test_however_many_batches_commit_during_a_miss_each_change_counts_once(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t (id) VALUES (1)")
    pipeline.write("t", KEY, add={"n": 1})

    def meanwhile() -> None:
        for _ in range(2):
            drain(pipeline)
            pipeline.write("t", KEY, add={"n": 10})

    with scene.kind(scene.config(), at(Step.LOOKED, meanwhile)) as reader:
        row = reader.read("t", KEY)
    assert row is not None
    assert row["n"] == 16  # what was pending in the end was accepted after the look
    again = pipeline.read("t", KEY)
    assert again is not None
    assert again["n"] == 26
