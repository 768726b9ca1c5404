"""What a person sees and types: the program at a pseudo-terminal."""

import pytest

from pipeline import Change
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene, dead, drain

CTRL_C = "\x03"


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


@pytest.fixture
def two_letters(scene: Scene) -> None:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int CHECK (n < 100))")
    pipeline = scene.pipeline()
    pipeline.write_many([Change("counters", {"id": i}, add={"n": 1000}) for i in range(2)])
    drain(pipeline)
    assert len(dead(pipeline)) == 2


def test_status_is_a_table(cli: CommandLine) -> None:
    with cli.terminal("status") as terminal:
        assert terminal.end() == 0
    assert "│" in terminal.shown
    assert "\t" not in terminal.shown


def test_a_watch_is_redrawn_and_ctrl_c_ends_it_in_order(cli: CommandLine, scene: Scene) -> None:
    with cli.terminal("status", "--watch", "0.1") as terminal:
        terminal.read_until("healthy")
        pipeline = scene.pipeline()
        pipeline.write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(4321)])
        terminal.read_until("4321")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    assert terminal.shown.rstrip("\r\n").endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.usefixtures("two_letters")
def test_a_flush_shows_its_progress(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(300)])
    with cli.terminal("flush") as terminal:
        assert terminal.end() == 0
    assert "flushing" in terminal.shown
    assert "300/300" in terminal.shown


@pytest.mark.usefixtures("two_letters")
def test_a_replay_of_many_asks_first_and_no_is_no(cli: CommandLine, scene: Scene) -> None:
    with cli.terminal("dead-letters", "replay", "--all") as terminal:
        terminal.read_until("Replay 2 dead letters? [y/N]")
        terminal.type("n\n")
        assert terminal.end() == 1
    assert "nothing was replayed" in terminal.shown
    assert len(dead(scene.pipeline())) == 2


@pytest.mark.usefixtures("two_letters")
def test_ctrl_c_at_the_question_is_no(cli: CommandLine, scene: Scene) -> None:
    with cli.terminal("dead-letters", "replay", "--all") as terminal:
        terminal.read_until("[y/N]")
        assert terminal.insist(CTRL_C) == 1
    assert "pipeline: stopped" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert len(dead(scene.pipeline())) == 2


@pytest.mark.usefixtures("two_letters")
def test_yes_at_the_question_replays_with_a_progress_bar(cli: CommandLine, scene: Scene) -> None:
    with cli.terminal("dead-letters", "replay", "--all") as terminal:
        terminal.read_until("[y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert "replaying" in terminal.shown
    assert "2/2" in terminal.shown
    assert "2 replayed" in terminal.shown
    assert dead(scene.pipeline()) == []


@pytest.mark.parametrize("arguments", [("--all", "--yes"), ("--all", "--dry-run"), ("1",)])
@pytest.mark.usefixtures("two_letters")
def test_it_does_not_ask_what_is_clear(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    with cli.terminal("dead-letters", "replay", *arguments) as terminal:
        assert terminal.end() == 0
    assert "[y/N]" not in terminal.shown
