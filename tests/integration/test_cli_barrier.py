"""``pipeline barrier`` against real servers."""

import signal

import pytest

from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, drain


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


@pytest.fixture
def counters(scene: Scene) -> None:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")


def test_it_says_nothing_when_there_is_nothing_to_wait_for(cli: CommandLine) -> None:
    assert cli("barrier") == (0, "", "")
    done = cli("barrier", "--json", "--table", "counters")
    assert (done.code, done.json) == (0, {"ok": True, "pending_shards": 0, "problem": None})


@pytest.mark.usefixtures("counters")
def test_it_ends_when_somebody_has_written_what_was_pending(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 1}, add={"n": 1})
    with cli.started("barrier", "--timeout", 60) as process:
        drain(pipeline)
        assert process.wait(60) == 0
    assert scene.sql("SELECT n FROM counters") == [(1,)]


def test_it_fails_when_that_takes_too_long_and_says_why(cli: CommandLine, scene: Scene) -> None:
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 1}, add={"n": 1})
    pipeline.flush_shard(0)
    late = cli("barrier", "--timeout", "0.1")
    assert (late.code, late.out) == (1, "")
    assert "1 of 1 shard(s) still pending after 0.1" in late.message
    assert "these are paused: counters" in late.message
    late = cli("barrier", "--timeout", 0, "--json", "--table", "counters")
    assert late.code == 1
    assert (late.json["ok"], late.json["pending_shards"]) == (False, 1)
    assert "these are paused: counters" in late.json["problem"]
    assert cli("barrier", "--timeout", 0, "--table", "others").code == 0


@pytest.mark.usefixtures("counters")
def test_at_a_terminal_it_shows_what_is_left_and_ctrl_c_ends_it(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write("counters", {"id": 1}, add={"n": 1})
    with cli.terminal("barrier") as terminal:
        terminal.read_until("0/1")
        terminal.type("\x03")
        terminal.read_until("stopped")
        assert terminal.end() == 1


@pytest.mark.usefixtures("counters")
def test_an_interrupt_ends_it_in_a_line(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write("counters", {"id": 1}, add={"n": 1})
    before = scene.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    with cli.started("barrier") as process:
        while scene.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"] < before + 3:
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (1, "", "pipeline: stopped")


@pytest.mark.parametrize("arguments", [("--timeout", "nan"), ("--timeout", "-1"), ("--table", "a b;")])
def test_what_cannot_be_waited_for_is_wrong_usage(cli: CommandLine, arguments: tuple[str, str]) -> None:
    done = cli("barrier", *arguments)
    assert (done.code, done.out) == (2, "")
    assert arguments[0] in done.message


def test_without_redis_it_fails(scene: Scene) -> None:
    done = CommandLine("redis://127.0.0.1:1/0", scene.database_url)("barrier")
    assert done.code == 1
    assert "Redis is not available" in done.message
