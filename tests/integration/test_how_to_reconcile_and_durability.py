"""The snippets of two how-tos do what their text says."""

import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import redis

from pipeline import Pipeline
from tests.integration.command_line import CommandLine
from tests.integration.conftest import MakePipeline, MakeValkey
from tests.integration.durable import replica_of
from tests.integration.scene import Scene, drain
from tests.integration.test_documentation import blocks

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
RECONCILE = (HOW_TO / "reconcile.md").read_text("utf-8")
DURABILITY = (HOW_TO / "durability.md").read_text("utf-8")
COMMANDS = [line.removeprefix("$ ") for block in blocks(RECONCILE, "console") for line in block.splitlines()]
REDIS_COMMANDS = [line.removeprefix("$ ") for block in blocks(DURABILITY, "console") for line in block.splitlines()]


def run(code: str, pipeline: Pipeline) -> str:
    """What the snippet prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        exec(code, {"pipeline": pipeline})  # noqa: S102 - our own documents
    return printed.getvalue()


@pytest.fixture
def drifted(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views bigint)")
    scene.sql("INSERT INTO page_views SELECT generate_series(1, 40), 1")
    pipeline = scene.pipeline()
    pipeline.read_many("page_views", [{"page_id": i} for i in range(1, 41)])
    scene.sql("UPDATE page_views SET views = 2")
    return pipeline


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("drifted")
def test_the_commands_of_reconcile_find_what_drifted_and_fix_it_if_told_to(scene: Scene, command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "pipeline"
    ended = CommandLine(scene.redis_url, scene.database_url)(*arguments, "--json")
    wrong = ended.json["drifted"]
    assert wrong == 40 or (wrong < 40 and "--sample" in command)
    assert ended.json["fixed"] == (wrong if "--fix" in command else 0)
    assert ended.code == (1 if wrong > ended.json["fixed"] else 0)


def test_the_program_of_reconcile_says_what_it_has_dropped(drifted: Pipeline) -> None:
    (code,) = blocks(RECONCILE, "python")
    printed = run(code.replace("sample=0.1", "sample=1.0"), drifted)
    assert "different page_views page_id=7 ('views',) dropped\n" in printed
    assert drifted.read("page_views", {"page_id": 7}) == {"page_id": 7, "views": 2}


def test_the_snippets_of_durability_write_what_they_say(
    scene: Scene, make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    scene.sql("CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL)")
    server = make_valkey(appendonly="no", appendfsync="everysec", repl_diskless_sync_delay=0)
    with redis.Redis.from_url(server.url) as client:
        for command in REDIS_COMMANDS:
            program, *words = shlex.split(command)
            assert program == "redis-cli"
            assert client.execute_command(" ".join(words[:2]), *words[2:])
        assert client.config_get("append*")["appendfsync"] == "always"
    replica_of(server, make_valkey)
    pipeline = pipeline_on(server, database_url=scene.database_url)
    for code in blocks(DURABILITY, "python"):
        run(code, pipeline)
    assert drain(pipeline).events == 103
    assert scene.sql("SELECT id, total FROM orders WHERE id < 100 ORDER BY id") == [(9, 30), (10, 25), (11, 5)]
    assert scene.sql("SELECT count(*), min(id), max(id) FROM orders WHERE id >= 100") == [(100, 100, 199)]


def test_the_snippet_that_repeats_a_write_makes_no_second_event(
    scene: Scene, make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    scene.sql("CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL)")
    pipeline = pipeline_on(make_valkey(appendonly="no"), database_url=scene.database_url)
    (code,) = (code for code in blocks(DURABILITY, "python") if "def place" in code)
    printed = StringIO()
    with redirect_stdout(printed), pytest.raises(RuntimeError, match="order 10 is accepted"):
        exec(code, {"pipeline": pipeline})  # noqa: S102 - our own document
    assert printed.getvalue().count("wanted disk, reached memory") == 3
    assert drain(pipeline).events == 1
    assert scene.sql("SELECT id, total FROM orders") == [(10, 25)]
