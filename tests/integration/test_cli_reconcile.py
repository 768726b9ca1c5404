"""``pipeline reconcile`` against real servers."""

import re
import signal
import sys

import pytest

from pipeline import Pipeline
from pipeline.contrib.embedded import Postgres
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, eventually

MANY = 100_000
WRONG = 5_000
COUNTS = ["checked", "equal", "drifted", "fixed", "busy", "skipped", "unreadable"]


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    """Nine cached rows in each of two tables."""
    pipeline = scene.pipeline()
    for name in ("carts", "users"):
        scene.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, n int, secret text)")
        scene.sql(f"INSERT INTO {name} SELECT i, 0, 'hunter' || i FROM generate_series(1, 9) AS i")
        pipeline.read_many(name, [{"id": i} for i in range(1, 10)])
    return pipeline


@pytest.fixture
def drifted(scene: Scene, pipeline: Pipeline) -> Pipeline:
    """Two of these rows were changed past the pipeline, and one was deleted."""
    scene.sql("UPDATE users SET n = 7, secret = 'hunter2000' WHERE id = 2")
    scene.sql("UPDATE carts SET n = 7 WHERE id = 3")
    scene.sql("DELETE FROM carts WHERE id = 4")
    return pipeline


@pytest.mark.usefixtures("pipeline")
def test_without_drift_it_ends_with_0_and_counts(cli: CommandLine) -> None:
    ended = cli("reconcile")
    assert (ended.code, ended.out) == (0, "")
    assert ended.message == (
        "pipeline: 18 checked, 18 equal, 0 drifted, 0 fixed, 0 busy, 0 skipped, 0 unreadable"
    )  # fmt: skip


@pytest.mark.usefixtures("drifted")
def test_drift_ends_with_1_and_names_the_rows_and_columns_and_no_values(cli: CommandLine) -> None:
    ended = cli("reconcile")
    assert ended.code == 1
    rows = sorted(tuple(row.values()) for row in ended.rows)
    assert rows == [
        ("carts", "0", "id=3", "different", "n", "False"),
        ("carts", "0", "id=4", "missing", "", "False"),
        ("users", "0", "id=2", "different", "n, secret", "False"),
    ]
    assert "hunter" not in ended.out + ended.err
    document = cli("reconcile", "--json")
    assert document.code == 1
    assert list(document.json) == ["complete", *COUNTS, "rows"]
    assert (document.json["complete"], document.json["checked"], document.json["drifted"]) == (True, 18, 3)
    assert {row["key"]: row["columns"] for row in document.json["rows"]} == {
        "id=2": ["n", "secret"], "id=3": ["n"], "id=4": [],
    }  # fmt: skip
    assert "hunter" not in document.out


@pytest.mark.usefixtures("drifted")
def test_values_are_shown_to_who_asks_for_them(cli: CommandLine) -> None:
    ended = cli("reconcile", "--table", "users", "--show-values")
    assert ended.rows[0]["cached"] == '{"n":0,"secret":"hunter2"}'
    assert ended.rows[0]["expected"] == '{"n":7,"secret":"hunter2000"}'
    (row,) = cli("reconcile", "--table", '"users"', "--show-values", "--json").json["rows"]
    assert row["expected"] == {"n": 7, "secret": "hunter2000"}


def test_a_fix_ends_with_0_and_the_next_read_is_right(cli: CommandLine, drifted: Pipeline) -> None:
    ended = cli("reconcile", "--fix", "--json")
    assert (ended.code, ended.json["drifted"], ended.json["fixed"]) == (0, 3, 3)
    assert {row["fixed"] for row in ended.json["rows"]} == {True}
    assert drifted.read("users", {"id": 2}) == {"id": 2, "n": 7, "secret": "hunter2000"}
    assert drifted.read("carts", {"id": 4}) is None
    assert cli("reconcile").code == 0


@pytest.mark.usefixtures("drifted")
def test_only_so_many_rows_are_listed_and_all_are_counted(cli: CommandLine) -> None:
    ended = cli("reconcile", "--limit", 1)
    assert (ended.code, len(ended.rows)) == (1, 1)
    assert "3 drifted" in ended.err
    assert "2 more rows are wrong" in ended.err


@pytest.mark.usefixtures("drifted")
def test_a_table_without_cached_rows_may_be_spelt_wrong(cli: CommandLine) -> None:
    ended = cli("reconcile", "--table", "user")
    assert ended.code == 0
    assert "no row of user is cached" in ended.err
    assert "no row of" not in cli("reconcile", "--table", "users").err


def test_rows_that_cannot_be_read_say_why_once(cli: CommandLine, scene: Scene, pipeline: Pipeline) -> None:
    assert pipeline.read("users", {"id": 1}) is not None
    scene.sql("DROP TABLE users")
    ended = cli("reconcile")
    assert ended.code == 1
    assert "9 unreadable" in ended.err
    assert ended.err.count("there is no table users") == 1
    assert cli("reconcile", "--fix").code == 0


@pytest.mark.parametrize(
    "arguments",
    ["--sample 0", "--sample 101%", "--sample x", "--sample nan", "--table a;b", "--rate 0", "--limit -1", "users"],
)
@pytest.mark.usefixtures("scene")
def test_wrong_usage_ends_with_2(cli: CommandLine, arguments: str) -> None:
    ended = cli("reconcile", *arguments.split())
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize("sample", ["1", "100%", "0.99999999", "99.999999%"])
@pytest.mark.usefixtures("pipeline")
def test_a_sample_is_a_part_or_a_percentage(cli: CommandLine, sample: str) -> None:
    assert cli("reconcile", "--sample", sample, "--json").json["checked"] == 18


@pytest.mark.usefixtures("pipeline")
def test_without_postgresql_it_says_so_and_what_it_has_done(cli: CommandLine, scene: Scene, postgres: Postgres) -> None:
    scene.disconnect()
    postgres.stop()
    try:
        ended = cli("reconcile", "--json")
    finally:
        postgres.start()
    assert ended.code == 1
    assert (ended.json["complete"], ended.json["checked"]) == (False, 0)
    assert "PostgreSQL is not available" in ended.err


@pytest.mark.usefixtures("drifted")
def test_ctrl_c_ends_it_with_what_it_has_counted(cli: CommandLine, scene: Scene) -> None:
    def looked() -> int:
        return int(scene.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    before = looked()
    with cli.started("reconcile", "--rate", "2", "--json") as process:
        eventually(lambda: process.poll() is not None or looked() >= before + 6, "it looks at nothing")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert '"complete": false' in out
    assert 0 < int(re.findall(r'"checked": (\d+)', out)[0]) < 18
    assert "stopped" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("drifted")
def test_at_a_terminal_it_shows_its_progress_and_a_table(cli: CommandLine) -> None:
    with cli.terminal("reconcile") as terminal:
        assert terminal.end() == 1
    assert "reconciling" in terminal.shown
    assert "18/18" in terminal.shown
    assert "│" in terminal.shown
    assert "n, secret" in terminal.shown


# --- many rows


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_no_more_memory_than_a_few(cli: CommandLine, scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint, name text, price numeric(8,2))")
    scene.sql(f"INSERT INTO t SELECT i, i, 'name ' || i, 1.5 FROM generate_series(1, {MANY}) AS i")
    pipeline = scene.pipeline()
    _cache(scene, pipeline)
    equal = 0
    peaks: list[int] = []
    for part in pipeline.reconcile():
        equal += part.equal
        peaks.append(sys.getallocatedblocks())
    assert equal >= MANY  # a row may come twice
    some = len(peaks) // 20
    assert max(peaks[some:]) < max(peaks[:some]) + 20_000, "blocks of memory: a fifth of one for each row"
    scene.sql(f"UPDATE t SET n = 0 WHERE id <= {WRONG}")
    ended = cli("reconcile", "--fix", "--json")
    assert (ended.code, ended.json["fixed"], len(ended.json["rows"])) == (0, WRONG, 1000)


def _cache(scene: Scene, pipeline: Pipeline) -> None:
    """Cache all rows, as copies of one that a read has installed."""
    pipeline.read("t", {"id": 1})
    installed = scene.redis.hgetall(f"{scene.keys.row}t:id=1")
    with scene.redis.pipeline(transaction=False) as batch:
        for i in range(2, MANY + 1):
            row = {b"id": str(i), b"n": str(i), b"name": f'"name {i}"'}
            batch.hset(f"{scene.keys.row}t:id={i}", mapping={**installed, **row})
            if i % 5000 == 0:
                batch.execute()
