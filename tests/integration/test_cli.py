"""The program as such: usage, settings, exit codes, and what it never prints."""

import re
import sys
from importlib.metadata import version

import pytest

from tests.integration.command_line import PROGRAM, SCRIPT, CommandLine

COMMANDS = [
    "migrate",
    "status",
    "doctor",
    "metrics",
    "flush",
    "dead-letters list",
    "dead-letters show",
    "dead-letters replay",
]
DOUBLED = re.compile(r"[.;:,?!]{2}|[.?];")
NOWHERE = CommandLine("redis://:hunter2@127.0.0.1:1/0", "postgresql://eve:hunter2@127.0.0.1:1/none")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    ended = NOWHERE(*command.split(), "--help")
    assert ended.code == 0
    assert f"Usage: pipeline {command} [OPTIONS]" in ended.out
    examples = ended.out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(f"pipeline {command}" in line for line in examples)


def test_help_needs_no_valid_settings() -> None:
    assert CommandLine("", "", PIPELINE_SHARDS="many")("flush", "--help").code == 0


def test_the_version_is_that_of_the_installed_package() -> None:
    assert NOWHERE("--version", program=PROGRAM).out == f"pipeline {version('celery-write-behind')}\n"


def test_the_package_runs_as_a_module() -> None:
    ended = NOWHERE("--version", program=(sys.executable, "-m", "pipeline.cli"))
    assert ended == NOWHERE("--version") == NOWHERE("--version", program=PROGRAM)


def test_the_replay_script_is_an_executable_python_file_with_the_options_of_the_command() -> None:
    assert SCRIPT.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    ended = NOWHERE("--help", program=SCRIPT)
    assert ended.code == 0

    def options(text: str) -> list[str]:
        return re.findall(r"^  (-.*)$", text, flags=re.MULTILINE)

    assert options(ended.out) == options(NOWHERE("dead-letters", "replay", "--help").out) != []


@pytest.mark.parametrize("arguments", [(), ("dead-letters",)])
def test_without_a_command_the_help_goes_to_stderr(arguments: tuple[str, ...]) -> None:
    ended = NOWHERE(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Commands:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("status --nonsense", "No such option"),
        ("status --watch 0", "0.0 is not between 0.1 and 86400 seconds"),
        ("status --watch nan", "nan is not between"),
        ("flush --shard 1", "shards are 0 to 0"),
        ("flush --shard=-1", "-1"),
        ("dead-letters list --status asleep", "asleep"),
        ("dead-letters list --limit 0", "0"),
        ("dead-letters list --table Flights", "capitals"),
        ("dead-letters show", "Missing argument 'ID'"),
        ("dead-letters show seven", "seven"),
        ("dead-letters show 9223372036854775808", "9223372036854775808"),
        ("dead-letters replay", "either ids, or --all, or --table"),
        ("dead-letters replay 1 --all", "either ids, or --all, or --table"),
        ("dead-letters replay 1 --table flights", "either ids, or --all, or --table"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line_that_says_what_is_wrong(arguments: str, problem: str) -> None:
    ended = NOWHERE(*arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert problem in ended.message
    assert "--help`" in ended.message
    assert ".;" not in ended.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PIPELINE_SHARDS", "many"),
        ("PIPELINE_MAX_PENDING", "0"),
        ("PIPELINE_TABLES", "Flights"),
        ("PIPELINE_REDIS_URL", "http://localhost"),
        ("PIPELINE_REDIS_URL", "redis://:hunter2/x@localhost"),
        ("PIPELINE_DATABASE_URL", "postgresql://eve:hunter2/x@localhost/shop"),
        ("PIPELINE_DATABASE_URL", "postgres:/eve:hunter2@localhost/shop"),
        ("PIPELINE_DATABASE_URL", "postgresql://eve:hunter2%zz@localhost/shop"),
        ("PIPELINE_REDIS_URL", "redis://:hunter2@localhost/abc"),
        ("PIPELINE_BROKER_URL", "foo"),
        ("PIPELINE_BROKER_URL", "redis://:hunter2@localhost/abc"),
        ("PIPELINE_BROKER_URL", "redis://:hunter2@localhost:port/0"),
        ("PIPELINE_BROKER_URL", "amqp://guest:hunter2@localhost:port//"),
        ("PIPELINE_BROKER_URL", "amqp://guest:hunter2@localhost//;amqp://[hunter2"),
        ("PIPELINE_NO_SUCH_THING", "1"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_is_named_without_its_secrets(variable: str, value: str) -> None:
    ended = CommandLine("redis://localhost", "postgresql://localhost", **{variable: value})("status")
    assert (ended.code, ended.out) == (2, "")
    assert ended.message.startswith(f"pipeline: {variable}: ")
    assert "hunter2" not in ended.message


@pytest.mark.parametrize(
    "arguments",
    ["migrate", "status", "flush", "dead-letters list", "dead-letters show 1", "dead-letters replay 1"],
)
def test_a_database_that_is_away_is_told_at_once_in_one_line_without_the_password(arguments: str) -> None:
    ended = NOWHERE(*arguments.split())
    assert (ended.code, ended.out) == (1, "")
    assert "Connection refused" in ended.message
    assert "PIPELINE_DATABASE_URL" in ended.message
    assert "hunter2" not in ended.err
    assert not DOUBLED.search(ended.err)


def test_a_server_that_refuses_the_password_is_not_asked_whether_it_runs(
    redis_url: str, database_url: str, migrated_url: str
) -> None:
    def wrong(url: str) -> str:
        return re.sub(r":[^:@]*@", ":hunter2@", url, count=1)

    redis = CommandLine(wrong(redis_url), migrated_url)("status")
    assert (redis.code, redis.out) == (1, "")
    assert "Redis is not available" in redis.message
    assert redis.message.endswith(". Is PIPELINE_REDIS_URL right?")
    postgresql = CommandLine(redis_url, wrong(database_url))("migrate")
    assert (postgresql.code, postgresql.out) == (1, "")
    assert "password authentication failed" in postgresql.message
    assert postgresql.message.endswith(". Is PIPELINE_DATABASE_URL right?")
    assert "hunter2" not in redis.err + postgresql.err
    assert not DOUBLED.search(redis.err + postgresql.err)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_program_says_what_to_install(missing: str) -> None:
    start = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[0] = {str(PROGRAM)!r}; from pipeline.cli import main"
    )
    ended = NOWHERE("status", program=(sys.executable, "-c", f"{start}; main()"))
    assert (ended.code, ended.out) == (1, "")
    assert (
        ended.message
        == f"pipeline: {missing} is missing; the command line needs: pip install 'celery-write-behind[cli]'"
    )
