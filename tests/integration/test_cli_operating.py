"""``pipeline migrate``, ``status`` and ``flush`` against real servers."""

import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

from pipeline import Change
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.flush import End
from pipeline.ports import Claimed
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, disk_full, eventually


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


@pytest.fixture
def counters(scene: Scene) -> None:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0 CHECK (n < 100))")


# --- migrate


def test_migrate_creates_the_schema_and_the_second_time_has_nothing_to_do(redis_url: str, database_url: str) -> None:
    cli = CommandLine(redis_url, database_url)
    first = cli("migrate")
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines()[0] == "applied 0001_initial"
    again = cli("migrate", "--json")
    assert (again.code, again.json) == (0, {"applied": []})
    assert cli("status").code == 0


def test_migrate_needs_no_redis(database_url: str) -> None:
    assert CommandLine("redis://127.0.0.1:1/0", database_url)("migrate").code == 0


def _as_role(scene: Scene, name: str) -> str:
    """A new role without rights; the URL with which it comes to the test's database."""
    scene.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
    return re.sub(r"//[^@]*@", f"//{name}:hunter2@", scene.database_url)


@pytest.fixture
def role(scene: Scene, database_url: str) -> Iterator[tuple[str, str]]:
    """A role without rights: its URLs for the test's migrated database, and for an empty one."""
    name = "cli_without_rights"
    url = _as_role(scene, name)
    empty = f"{url.rpartition('/')[0]}/{database_url.rpartition('/')[2]}"
    yield url, empty
    scene.sql(f"DROP OWNED BY {name}")
    scene.sql(f"DROP ROLE {name}")


def test_a_role_that_may_not_create_the_schema_is_told_so(redis_url: str, role: tuple[str, str]) -> None:
    ended = CommandLine(redis_url, role[1])("migrate", "--json")
    assert (ended.code, ended.out) == (1, "")
    assert "permission denied for database" in ended.message
    assert "grant it" in ended.message
    assert "hunter2" not in ended.err


def test_a_role_that_may_not_create_anything_finds_a_migrated_database_up_to_date(
    redis_url: str, scene: Scene, role: tuple[str, str]
) -> None:
    scene.sql("GRANT USAGE ON SCHEMA pipeline TO cli_without_rights")
    scene.sql("GRANT SELECT ON pipeline.migration TO cli_without_rights")
    assert CommandLine(redis_url, role[0])("migrate", "--json").json == {"applied": []}


@pytest.fixture
def old_server(postgres: Postgres, database_url: str) -> Iterator[str]:
    """The test's database behind a door that says that it is PostgreSQL 14."""
    with closing(socket.create_server(("127.0.0.1", 0))) as door:
        threading.Thread(target=_make_old, args=(door, postgres.port), daemon=True).start()
        yield database_url.replace(f":{postgres.port}/", f":{door.getsockname()[1]}/")


def _make_old(door: socket.socket, port: int) -> None:
    with suppress(OSError):  # the door was closed
        while True:
            client, _ = door.accept()
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_carry, args=(client, server, lambda data: data), daemon=True).start()
            threading.Thread(target=_carry, args=(server, client, _aged), daemon=True).start()


def _aged(data: bytes) -> bytes:
    return re.sub(rb"(server_version\x00)\d\d", rb"\g<1>14", data)


def _carry(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with suppress(OSError), closing(source), closing(target):
        while data := source.recv(65536):
            target.sendall(change(data))


def test_a_postgresql_that_is_too_old_is_named(redis_url: str, old_server: str) -> None:
    ended = CommandLine(redis_url, old_server)("migrate")
    assert (ended.code, ended.out) == (1, "")
    assert "PostgreSQL 14 is too old" in ended.message
    assert "15" in ended.message


@pytest.mark.parametrize(
    "arguments", ["flush", "dead-letters list", "dead-letters show 1", "dead-letters replay --all"]
)
def test_a_database_that_is_not_migrated_is_told_with_the_remedy(
    redis_url: str, database_url: str, arguments: str
) -> None:
    ended = CommandLine(redis_url, database_url)(*arguments.split())
    assert (ended.code, ended.out) == (1, "")
    assert "run `pipeline migrate`" in ended.message


def test_the_status_of_a_database_that_is_not_migrated_says_the_remedy(redis_url: str, database_url: str) -> None:
    ended = CommandLine(redis_url, database_url)("status")
    assert ended.code == 1
    assert ended.rows[-1]["pending"] == "0"
    assert "run `pipeline migrate`" in ended.message


# --- status


def test_status_of_an_unused_pipeline_is_healthy_and_all_zero(cli: CommandLine) -> None:
    ended = cli("status")
    assert (ended.code, ended.err) == (0, "")
    assert [row["shard"] for row in ended.rows] == ["0", "all"]
    assert {row["pending"] for row in ended.rows} == {"0"}
    assert {row["oldest_age"] for row in ended.rows} == {""}


def test_status_counts_per_shard_and_in_sum(scene: Scene) -> None:
    cli = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="4")
    scene.pipeline(shards=4).write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(40)])
    ended = cli("status", "--json")
    assert ended.code == 0
    found = ended.json
    assert (found["pending"], found["frozen"], found["dead_letters"], found["healthy"]) == (40, 0, 0, True)
    assert sum(shard["pending"] for shard in found["shards"]) == 40
    assert [shard["shard"] for shard in found["shards"]] == [0, 1, 2, 3]
    assert 0 <= found["oldest_age"] < 60


def test_the_field_names_of_status_are_those_that_monitoring_relies_on(cli: CommandLine) -> None:
    found = cli("status", "--json").json
    assert list(found) == [
        "namespace", "pending", "frozen", "parked", "oldest_age", "dead_letters", "ingress", "healthy", "shards",
    ]  # fmt: skip
    assert set(found["shards"][0]) == {
        "shard", "pending", "frozen", "oldest_age", "attempts", "failures", "next_try", "error", "applied_batches",
        "dead_letters", "rechecking", "store_gaps", "parked", "paused", "per_second", "drain_seconds",
    }  # fmt: skip


@pytest.mark.usefixtures("counters")
def test_status_says_how_fast_a_shard_is_drained_and_how_long_that_will_take(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline(batch_size=10)
    pipeline.write_many(Change("counters", {"id": i}, add={"n": 1}) for i in range(10))
    (unknown,) = cli("status", "--json").json["shards"]
    assert (unknown["per_second"], unknown["drain_seconds"]) == (None, None)
    pipeline.flush_shard(0)
    pipeline.write_many(Change("counters", {"id": i}, add={"n": 1}) for i in range(10))
    (known,) = cli("status", "--json").json["shards"]
    assert known["per_second"] > 0
    assert known["drain_seconds"] == pytest.approx(10 / known["per_second"])
    shard, _ = cli("status").rows
    assert (shard["per_second"], shard["drain_time"]) == (
        str(round(known["per_second"], 1)),
        str(round(known["drain_seconds"], 1)),
    )


def test_a_batch_that_keeps_failing_is_unhealthy_and_status_says_why(cli: CommandLine, scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with disk_full(scene, "t"):
        pipeline = scene.pipeline(retry_base_seconds=60, retry_cap_seconds=60)
        pipeline.write("t", {"id": 1})
        assert pipeline.flush_shard(0).end is End.FAILED

        flushed = cli("flush")
        assert flushed.code == 1
        (shard, _) = flushed.rows
        assert (shard["end"], shard["events"]) == ("resting", "0")

        ended = cli("status")
    assert ended.code == 1
    assert "unhealthy" in ended.message
    assert "no space left" in ended.message
    shard, total = ended.rows
    assert (shard["frozen"], shard["attempts"], shard["failures"]) == ("1", "1", "1")
    assert "no space left" in shard["error"]
    assert (total["pending"], total["failures"]) == ("1", "1")
    assert cli("status", "--json").json["healthy"] is False


def test_a_paused_table_is_unhealthy_and_status_says_why(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write("no_such_table", {"id": 1}, add={"n": 1})
    flushed = cli("flush")
    assert flushed.code == 1
    assert "set aside" in flushed.err
    assert "no_such_table" in flushed.err
    (shard, _) = flushed.rows
    assert (shard["end"], shard["events"]) == ("paused", "0")

    ended = cli("status")
    assert ended.code == 1
    assert "no_such_table is paused" in ended.message
    shard, total = ended.rows
    assert (shard["parked"], shard["frozen"], shard["failures"]) == ("1", "0", "0")
    assert "no_such_table" in shard["error"]
    assert (total["pending"], total["parked"]) == ("1", "1")
    document = cli("status", "--json").json
    assert (document["healthy"], document["parked"]) == (False, 1)
    assert "no_such_table" in document["shards"][0]["paused"]


def test_status_without_redis_ends_with_1_and_json_says_unhealthy(migrated_url: str) -> None:
    ended = CommandLine("redis://:hunter2@127.0.0.1:1/0", migrated_url)("status", "--json")
    assert ended.code == 1
    assert ended.json["healthy"] is False
    assert "Redis is not available" in ended.json["problem"]
    assert "PIPELINE_REDIS_URL" in ended.message
    assert "hunter2" not in ended.out + ended.err


def test_status_while_postgresql_is_away_shows_what_redis_knows(
    cli: CommandLine, scene: Scene, postgres: Postgres
) -> None:
    scene.pipeline().write("counters", {"id": 1}, add={"n": 1})
    postgres.stop()
    shown, document = cli("status"), cli("status", "--json")
    postgres.start()
    assert (shown.code, document.code) == (1, 1)
    assert shown.rows[0]["pending"] == shown.rows[-1]["pending"] == "1"
    assert shown.rows[0]["dead_letters"] == shown.rows[-1]["dead_letters"] == ""
    assert "the ledger could not be asked: PostgreSQL is not available" in shown.message
    assert (document.json["pending"], document.json["healthy"]) == (1, False)
    assert document.json["shards"][0]["pending"] == 1
    assert "dead_letters" not in document.json
    assert "the ledger could not be asked" in document.json["problem"]


def test_a_client_with_another_number_of_shards_is_refused(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline(shards=1).write("counters", {"id": 1}, add={"n": 1})
    ended = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="2")("flush")
    assert (ended.code, ended.out) == (1, "")
    assert "shards=2" in ended.message
    assert "shards=1" in ended.message
    assert cli("status", "--json").json["pending"] == 1


def test_a_watch_in_json_prints_an_object_a_line_through_an_outage_until_interrupted(
    cli: CommandLine, scene: Scene, valkey: Valkey
) -> None:
    with cli.started("status", "--json", "--watch", "0.1") as process:
        assert process.stdout is not None

        def following(condition: Callable[[dict[str, Any]], Any]) -> bool:
            return any(condition(json.loads(line)) for line in process.stdout or ())

        assert following(lambda found: found.get("pending") == 0)
        scene.pipeline().write("counters", {"id": 1}, add={"n": 1})
        assert following(lambda found: found.get("pending") == 1)
        valkey.stop()
        assert following(lambda found: not found["healthy"] and "Redis" in found["problem"])
        valkey.start()
        assert following(lambda found: found.get("pending") == 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


# --- flush


@pytest.mark.usefixtures("counters")
def test_flush_writes_everything_that_is_pending(scene: Scene) -> None:
    cli = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="4", PIPELINE_BATCH_SIZE="7")
    pipeline = scene.pipeline(shards=4)
    pipeline.write_many([Change("counters", {"id": i % 50}, add={"n": 1}) for i in range(100)])
    ended = cli("flush", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json
    assert (found["ok"], found["stopped"], found["events"], found["dead"]) == (True, False, 100, 0)
    assert sum(shard["events"] for shard in found["shards"]) == 100
    assert {shard["end"] for shard in found["shards"]} == {"empty"}
    assert scene.sql("SELECT count(*), min(n), max(n) FROM counters") == [(50, 2, 2)]
    assert cli("status", "--json").json["pending"] == 0


@pytest.mark.usefixtures("counters")
def test_flush_goes_on_when_a_shard_needs_more_than_one_turn_and_counts_them_all(scene: Scene) -> None:
    scene.sql(
        "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'"
    )
    scene.sql("CREATE TRIGGER slow BEFORE INSERT ON counters FOR EACH STATEMENT EXECUTE FUNCTION be_slow()")
    scene.pipeline().write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(4)])
    found = CommandLine(scene.redis_url, scene.database_url, PIPELINE_BATCH_SIZE="1")("flush", "--json").json
    assert (found["ok"], found["batches"], found["events"]) == (True, 4, 4)
    assert scene.sql("SELECT count(*) FROM counters") == [(4,)]


@pytest.mark.usefixtures("counters")
def test_flush_of_one_shard_leaves_the_others_alone(scene: Scene) -> None:
    cli = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="2")
    pipeline = scene.pipeline(shards=2)
    pipeline.write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(20)])
    before = [shard.pending for shard in pipeline.status().shards]
    assert all(before)
    assert cli("flush", "--shard", 1).code == 0
    assert [shard.pending for shard in pipeline.status().shards] == [before[0], 0]


@pytest.mark.usefixtures("counters")
def test_flush_names_the_event_that_became_a_dead_letter_and_is_not_a_failure(cli: CommandLine, scene: Scene) -> None:
    receipt = scene.pipeline().write("counters", {"id": 1}, set={"n": 100})
    ended = cli("flush")
    assert ended.code == 0
    assert receipt.event_id in ended.message
    assert ended.rows[-1]["dead"] == "1"


@pytest.mark.usefixtures("counters")
def test_flush_waits_for_another_flusher_and_then_finishes(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 1}, add={"n": 1})
    claim = pipeline._buffer.claim(0, "another")
    assert isinstance(claim, Claimed)
    with cli.started("flush") as process:
        _wait_until_it_asked(scene, process)
        pipeline._buffer.release(0, "another")
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert scene.sql("SELECT n FROM counters") == [(1,)]


@pytest.mark.usefixtures("counters")
def test_ctrl_c_ends_a_flush_and_what_it_did_not_write_stays_pending(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 1}, add={"n": 1})
    pipeline._buffer.claim(0, "another")
    with cli.started("flush") as process:
        _wait_until_it_asked(scene, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "pipeline: stopped; what was not flushed is pending as before\n"
    pipeline._buffer.release(0, "another")
    assert cli("flush").code == 0
    assert scene.sql("SELECT n FROM counters") == [(1,)]


def _wait_until_it_asked(scene: Scene, process: Any) -> None:
    """Until the process has asked for the shard twice, and so has been told to wait."""

    def claims() -> int:
        return int(scene.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    before = claims()
    eventually(lambda: process.poll() is not None or claims() >= before + 2, "the flush does not ask for its shard")
    assert process.poll() is None


@pytest.mark.usefixtures("counters")
def test_a_flush_while_the_database_is_away_loses_nothing(cli: CommandLine, scene: Scene, postgres: Postgres) -> None:
    scene.pipeline().write("counters", {"id": 1}, add={"n": 1})
    postgres.stop()
    ended = cli("flush")
    assert (ended.code, ended.out) == (1, "")
    assert "PostgreSQL is not available" in ended.message
    postgres.start()
    assert cli("flush").code == 0
    with psycopg.connect(scene.database_url) as connection:
        assert connection.execute("SELECT n FROM counters").fetchall() == [(1,)]
