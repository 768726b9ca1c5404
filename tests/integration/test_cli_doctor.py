"""``pipeline doctor`` against real servers of its own, which it is allowed to find wrong."""

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from pipeline import Pipeline
from pipeline.contrib.embedded import Servers
from pipeline.core.health import Finding, Level
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, disk_full, restore, snapshot

TABLE = "CREATE TABLE page (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"


@pytest.fixture(scope="module")
def sound_servers() -> Iterator[Servers]:
    """Servers as they should be, with fsync; the session's are quicker and careless."""
    with Servers() as running:
        yield running


@pytest.fixture
def scene(sound_servers: Servers) -> Iterator[Scene]:
    """An empty Redis with the settings that it was started with, and a migrated database."""
    scene = Scene(sound_servers.redis_url, sound_servers.database_url)
    scene.redis.flushall()
    settings = {name: scene.redis.config_get(name) for name in ("maxmemory-policy", "maxmemory", "appendonly")}
    scene.sql("DROP SCHEMA IF EXISTS pipeline CASCADE")
    scene.sql("DROP TABLE IF EXISTS page")
    scene.pipeline().migrate()
    yield scene
    for name, value in settings.items():
        scene.redis.config_set(name, value[name])
    scene.close()


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


def found(pipeline: Pipeline, check: str) -> Finding:
    """The finding about ``check``, the worst if there are several."""
    order = list(Level)
    return max((one for one in pipeline.doctor() if one.check == check), key=lambda one: order.index(one.level))


# --- the command


def test_sound_servers_end_with_0_and_nothing_to_do(cli: CommandLine) -> None:
    ended = cli("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert {(row["result"], row["what to do"]) for row in ended.rows} == {("ok", "")}
    assert {"redis", "postgres", "broker", "schema", "lanes"} <= {row["check"] for row in ended.rows}


def test_a_problem_ends_with_1_and_is_told_in_json_with_what_to_do(cli: CommandLine, scene: Scene) -> None:
    scene.redis.config_set("maxmemory-policy", "allkeys-lru")
    ended = cli("doctor", "--json")
    assert ended.code == 1
    assert ended.message == "pipeline: 1 problem(s), 0 warning(s)"
    assert (ended.json["healthy"], ended.json["counts"]["problem"]) == (False, 1)
    (problem,) = (one for one in ended.json["findings"] if one["level"] == "problem")
    assert problem["check"] == "eviction"
    assert "noeviction" in problem["advice"]


def test_a_warning_is_told_and_ends_with_0(scene: Scene) -> None:
    scene.sql("CREATE TABLE page (n int)")
    ended = CommandLine(scene.redis_url, scene.database_url, PIPELINE_TABLES="page")("doctor", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["counts"]["warning"] == 1


def test_a_table_that_is_to_be_written_through_and_does_not_exist_is_a_problem(scene: Scene) -> None:
    ended = CommandLine(scene.redis_url, scene.database_url, PIPELINE_WRITE_THROUGH_TABLES="ordres")("doctor", "--json")
    (problem,) = (one for one in ended.json["findings"] if one["level"] == "problem")
    assert (ended.code, problem["check"]) == (1, "table ordres")


def test_a_person_at_a_terminal_gets_a_table(cli: CommandLine, scene: Scene) -> None:
    scene.redis.config_set("maxmemory-policy", "allkeys-lru")
    with cli.terminal("doctor") as terminal:
        assert terminal.end() == 1
        assert "what to do" in terminal.shown
        assert "eviction" in terminal.shown


def test_servers_that_are_away_are_findings_without_their_passwords() -> None:
    nowhere = CommandLine("redis://:hunter2@127.0.0.1:1/0", "postgresql://eve:hunter2@127.0.0.1:1/none")
    ended = nowhere("doctor", "--json")
    assert ended.code == 1
    assert [one["check"] for one in ended.json["findings"]] == ["redis", "broker", "postgres"]
    assert "hunter2" not in ended.out + ended.err


def test_wrong_usage_ends_with_2_and_the_help_has_an_example(cli: CommandLine) -> None:
    assert cli("doctor", "--nonsense").code == 2
    helped = cli("doctor", "--help")
    assert helped.code == 0
    assert "  pipeline doctor --json" in helped.out.partition("Examples:\n")[2]


# --- what it finds


def test_a_redis_without_an_append_only_file_is_a_problem(scene: Scene) -> None:
    scene.redis.config_set("appendonly", "no")
    assert found(scene.pipeline(), "append-only file").level is Level.PROBLEM


def test_a_redis_that_is_almost_full_is_a_problem(scene: Scene) -> None:
    scene.redis.config_set("maxmemory", scene.redis.info("memory")["used_memory"])
    assert found(scene.pipeline(), "memory").level is Level.PROBLEM


def test_a_client_with_another_number_of_shards_is_told_so(scene: Scene) -> None:
    scene.pipeline().write("page", {"id": 1})
    problem = found(scene.pipeline(shards=2), "topology")
    assert problem.level is Level.PROBLEM
    assert "shards=1" in problem.message


def test_a_database_that_was_never_migrated_is_told_so(scene: Scene) -> None:
    scene.sql("DROP SCHEMA pipeline CASCADE")
    schema = found(scene.pipeline(), "schema")
    assert schema.level is Level.PROBLEM
    assert "0001_initial" in schema.message
    assert "pipeline migrate" in str(schema.advice)


def test_a_role_without_rights_is_told_which_ones(scene: Scene) -> None:
    scene.sql(TABLE)
    scene.sql("CREATE ROLE doctor_patient LOGIN PASSWORD 'hunter2'")
    try:
        scene.sql("GRANT USAGE ON SCHEMA pipeline TO doctor_patient")
        scene.sql("GRANT SELECT ON ALL TABLES IN SCHEMA pipeline TO doctor_patient")
        scene.sql("GRANT SELECT, INSERT ON page TO doctor_patient")
        url = re.sub(r"//[^@]*@", "//doctor_patient:hunter2@", scene.database_url)
        pipeline = scene.pipeline(database_url=url, tables=("page",))
        assert found(pipeline, "schema").level is Level.OK
        grants = found(pipeline, "grants")
        assert grants.level is Level.PROBLEM
        assert "INSERT on pipeline.batch" in grants.message
        assert "SELECT" not in grants.message
        assert "UPDATE, DELETE on it" in found(pipeline, "table page").message
        pipeline.close()
    finally:
        scene.sql("DROP OWNED BY doctor_patient")
        scene.sql("DROP ROLE doctor_patient")


def test_a_table_that_is_allowed_and_does_not_exist_is_told(scene: Scene) -> None:
    missing = found(scene.pipeline(tables=("page", "pipeline.shard")), "table page")
    assert missing.level is Level.PROBLEM
    assert "there is no table page" in missing.message


def test_a_paused_table_is_told_with_the_reason(scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("page", {"id": 1})
    pipeline.flush_shard(0)
    paused = found(pipeline, "shard 0")
    assert paused.level is Level.PROBLEM
    assert "page is paused, 1 events are set aside (there is no table page" in paused.message


def test_a_batch_that_keeps_failing_is_first_a_warning_and_then_a_problem(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    pipeline.write("page", {"id": 1})
    with disk_full(scene, "page"):
        levels: list[Level] = []
        for _ in range(3):
            while pipeline.status().shards[0].failures == len(levels):
                pipeline.flush_shard(0)
            levels.append(found(pipeline, "shard 0").level)
    scene.sql("DROP FUNCTION disk_full")
    assert levels == [Level.WARNING, Level.WARNING, Level.PROBLEM]


def test_events_that_nobody_flushes_are_told(scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("page", {"id": 1})
    (message,) = scene.queued()
    headers = json.loads(message)["headers"]["pipeline"]
    old = message.replace(str(headers[1]).encode(), str(headers[1] - 60_000).encode())
    scene.redis.lset(scene.keys.events, 0, old)
    lane = found(pipeline, "shard 0")
    assert lane.level is Level.PROBLEM
    assert "nobody flushes" in lane.message


def test_control_tasks_that_nobody_takes_are_told(scene: Scene) -> None:
    scene.redis.lpush("pipeline.control", *range(40))
    broker = found(scene.pipeline(), "broker")
    assert broker.level is Level.PROBLEM
    assert "worker" in str(broker.advice)


def test_a_broker_that_is_away_is_told(scene: Scene) -> None:
    for url in ("amqp://guest:hunter2@127.0.0.1:1//", "redis://:hunter2@127.0.0.1:1/0"):
        broker = found(scene.pipeline(broker_url=url), "broker")
        assert broker.level is Level.PROBLEM
        assert "hunter2" not in broker.message


@pytest.mark.parametrize("scheme", ["amqp", "sentinel"])
def test_of_brokers_that_stand_in_for_each_other_one_that_answers_is_enough(scene: Scene, scheme: str) -> None:
    port = urlsplit(scene.redis_url).port
    both = f"{scheme}://guest:hunter2@127.0.0.1:1//;{scheme}://guest:hunter2@127.0.0.1:{port}//"
    none = f"{scheme}://guest:hunter2@127.0.0.1:1//;{scheme}://guest:hunter2@127.0.0.1:2//"
    assert found(scene.pipeline(broker_url=both), "broker").level is Level.OK
    broker = found(scene.pipeline(broker_url=none), "broker")
    assert broker.level is Level.PROBLEM
    assert "127.0.0.1:1" in broker.message
    assert "127.0.0.1:2" in broker.message
    assert "hunter2" not in broker.message


def test_a_redis_that_went_back_in_time_is_told(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    pipeline.write("page", {"id": 1})
    state = snapshot(scene.redis)
    pipeline.flush_shard(0)
    restore(scene.redis, state)
    pipeline.flush_shard(0)
    assert found(pipeline, "shard 0").level is Level.WARNING


def test_a_postgres_that_went_back_in_time_is_told(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    for _ in range(2):
        pipeline.write("page", {"id": 1})
        pipeline.flush_shard(0)
    scene.sql("DELETE FROM pipeline.batch")
    scene.sql("UPDATE pipeline.shard SET seq = 0, batch_id = NULL")
    pipeline.write("page", {"id": 1})
    pipeline.flush_shard(0)
    gap = found(pipeline, "shard 0")
    assert gap.level is Level.PROBLEM
    assert "PostgreSQL went back in time" in gap.message


def test_dead_letters_are_counted(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    pipeline.write("page", {"id": 1}, set={"n": None})
    pipeline.flush_shard(0)
    letters = found(pipeline, "dead letters")
    assert (letters.level, letters.message) == (Level.WARNING, "there are 1")
