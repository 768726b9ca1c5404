"""``pipeline bench`` against real servers: it measures, and leaves nothing behind."""

import signal
import time
from typing import Any

import pytest
import redis

from pipeline.bench.measures import bench_config
from pipeline.config import Config
from scripts.benchmark.documents import DOCUMENT
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, drain, eventually

QUICK = ("--events", "300", "--rounds", "1")
LEDGERS = "SELECT DISTINCT namespace FROM pipeline.shard UNION SELECT DISTINCT namespace FROM pipeline.batch"

LETTER = """
INSERT INTO pipeline.dead_letter (namespace, shard, batch_id, reason, attempts, message)
VALUES ('pipeline-bench', 0, gen_random_uuid(), 'poison', 1, '{}')
"""


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    scene.pipeline()  # migrated
    return CommandLine(scene.redis_url, scene.database_url)


def keys(scene: Scene) -> set[bytes]:
    with redis.Redis.from_url(scene.redis_url) as client:
        return set(client.keys())


def schemas(scene: Scene) -> list[Any]:
    return scene.sql("SELECT nspname FROM pg_namespace WHERE nspname = 'pipeline_bench'")


def test_it_measures_and_leaves_nothing_behind(cli: CommandLine, scene: Scene) -> None:
    scene.sql("CREATE TABLE carts (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    pipeline.write("carts", {"id": 1}, set={"n": 1})
    before = keys(scene), scene.sql(LEDGERS)
    ended = cli("bench", *QUICK, "--yes", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json["measured"]
    loads = ("counters", "upserts", "flights", "log")
    ways = ("write_many", "drain", "upsert per write", "executemany", "COPY")
    expected = {f"{way}: {load}" for way in ways for load in loads} - {"COPY: counters"}
    assert expected | {"SET", "write", "HGETALL", "read, hit", "read, miss"} < found.keys()
    assert all(one["microseconds"][0] > 0 for one in found.values())
    assert found["drain: upserts"]["cpu_microseconds"]["Redis"] > 0
    assert (keys(scene), scene.sql(LEDGERS), schemas(scene)) == (*before, [])
    assert pipeline.status().pending == 1


def test_it_does_not_start_unasked(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("carts", {"id": 1}, set={"n": 1})
    before = keys(scene)
    ended = cli("bench", *QUICK)
    assert ended.code == 2
    assert "1 events are pending" in ended.message
    assert "--yes" in ended.message
    assert (keys(scene), schemas(scene)) == (before, [])


def test_no_is_no(cli: CommandLine, scene: Scene) -> None:
    with cli.terminal("bench", *QUICK) as terminal:
        terminal.read_until("Go on? [y/N]")
        terminal.type("n\n")
        assert terminal.end() == 1
    assert schemas(scene) == []


@pytest.mark.parametrize(
    ("moment", "signum"), [("the schema is made", signal.SIGINT), ("something is measured", signal.SIGTERM)]
)
def test_ctrl_c_or_sigterm_leaves_nothing_behind(
    cli: CommandLine, scene: Scene, moment: str, signum: signal.Signals
) -> None:
    before = keys(scene)
    with cli.started("bench", "--events", "20000", "--rounds", "50", "--yes") as process:
        eventually(lambda: bool(schemas(scene)) if moment == "the schema is made" else len(keys(scene)) > 100, moment)
        while process.poll() is None:  # impatient
            process.send_signal(signum)
            time.sleep(0.01)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (1, "pipeline: stopped")
    assert (keys(scene), scene.sql(LEDGERS), schemas(scene)) == (before, [], [])


def test_what_a_killed_run_has_left_goes_with_the_next_one(cli: CommandLine, scene: Scene) -> None:
    before = keys(scene)
    with cli.started("bench", "--events", "20000", "--rounds", "50", "--yes") as process:
        eventually(lambda: len(keys(scene)) > 100, "rows are written")
        process.kill()
        process.communicate()
    assert schemas(scene) != []
    assert cli("bench", *QUICK, "--yes").code == 0
    assert (keys(scene), schemas(scene)) == (before, [])


@pytest.mark.parametrize("flushed", [False, True])
def test_a_pipeline_that_has_the_name_of_the_measured_one_is_not_touched(
    cli: CommandLine, scene: Scene, *, flushed: bool
) -> None:
    scene.sql("CREATE TABLE carts (id int PRIMARY KEY, n int)")
    real = scene.pipeline(namespace="pipeline-bench")
    real.write("carts", {"id": 1}, set={"n": 1})
    if flushed:
        drain(real)
    before = keys(scene), scene.sql(LEDGERS)
    ended = cli("bench", *QUICK, "--yes")
    assert ended.code == 1
    assert "there is a pipeline pipeline-bench" in ended.message
    assert "say PIPELINE_NAMESPACE=" in ended.message
    assert (keys(scene), scene.sql(LEDGERS), schemas(scene)) == (*before, [])
    assert real.status().pending == (0 if flushed else 1)


@pytest.mark.parametrize("left", ["INSERT INTO pipeline.shard (namespace, shard) VALUES ('pipeline-bench', 0)", LETTER])
def test_what_postgres_knows_of_a_pipeline_is_kept_though_redis_knows_nothing_of_it(
    cli: CommandLine, scene: Scene, left: str
) -> None:
    scene.sql(left)
    before = keys(scene)
    ended = cli("bench", *QUICK, "--yes")
    assert (ended.code, "there is a pipeline pipeline-bench" in ended.message) == (1, True)
    assert scene.sql("SELECT namespace FROM pipeline.shard UNION SELECT namespace FROM pipeline.dead_letter") == [
        ("pipeline-bench",)
    ]
    assert (keys(scene), schemas(scene)) == (before, [])


def test_long_names_that_begin_alike_are_measured_under_different_names() -> None:
    names = [bench_config(Config(namespace="x" * 38 + end), 100).namespace for end in ("y", "z")]
    assert len({*names, bench_config(Config(namespace="x" * 34), 100).namespace}) == 3
    assert all(Config(namespace=name).namespace.endswith("-bench") for name in names)


def test_a_schema_that_a_killed_run_has_left_goes_though_redis_has_forgotten_that_run(
    cli: CommandLine, scene: Scene
) -> None:
    scene.sql("CREATE SCHEMA pipeline_bench")
    scene.sql("COMMENT ON SCHEMA pipeline_bench IS 'made by pipeline bench'")
    assert cli("bench", *QUICK, "--yes").code == 0
    assert schemas(scene) == []


def test_somebody_elses_schema_is_not_touched(cli: CommandLine, scene: Scene) -> None:
    scene.sql("CREATE SCHEMA pipeline_bench")
    scene.sql("CREATE TABLE pipeline_bench.results (id int)")
    ended = cli("bench", *QUICK, "--yes")
    assert ended.code == 1
    assert "not ours" in ended.message
    assert scene.sql("SELECT count(*) FROM pipeline_bench.results") == [(0,)]


def test_two_at_once_do_not_disturb_each_other(cli: CommandLine, scene: Scene) -> None:
    with cli.started("bench", "--events", "20000", "--rounds", "50", "--yes") as first:
        eventually(lambda: bool(schemas(scene)), "the schema is made")
        second = cli("bench", *QUICK, "--yes")
        assert second.code == 1
        assert "somebody else measures" in second.message
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=30)


def test_it_does_not_fill_a_redis_that_has_no_room(cli: CommandLine, scene: Scene) -> None:
    with redis.Redis.from_url(scene.redis_url) as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 1_000_000)
        try:
            ended = cli("bench", "--events", "5000", "--yes")
        finally:
            client.config_set("maxmemory", 0)
    assert ended.code == 1
    assert "fewer --events" in ended.message
    assert schemas(scene) == []


def test_the_example_of_its_help_and_of_its_document_prints_a_line_for_every_measurement(cli: CommandLine) -> None:
    texts = (cli("bench", "--help").out, DOCUMENT.read_text("utf-8"))
    (example,) = {line.strip(" $") for text in texts for line in text.splitlines() if "pipeline bench --events" in line}
    program, *words = example.replace("20000", "200").split()
    ended = cli(*words, "--rounds", "1")
    assert (program, ended.code) == ("pipeline", 0)
    assert {row["measured"] for row in ended.rows} > {"write", "drain: log"}
