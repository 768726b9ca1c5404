"""``pipeline dead-letters`` against real servers."""

import base64
import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from pipeline import Change
from pipeline.contrib.embedded import Valkey
from tests.integration.command_line import SCRIPT, CommandLine, Ended
from tests.integration.scene import Scene, dead, drain

MALFORMED = b'\xff{"nope": 1}\x1b[2J'


@pytest.fixture
def cli(scene: Scene) -> CommandLine:
    return CommandLine(scene.redis_url, scene.database_url)


@pytest.fixture
def tables(scene: Scene) -> None:
    """A table with a check to run into, which `mend` takes away, and a log whose column is too narrow."""
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0 CHECK (n < 100), at timestamptz)")
    scene.sql("CREATE TABLE log (what varchar(3) NOT NULL)")


def _mend(scene: Scene) -> None:
    scene.sql("ALTER TABLE counters DROP CONSTRAINT counters_n_check")
    scene.sql("ALTER TABLE log ALTER COLUMN what TYPE text")


def _bury(scene: Scene, *changes: Change) -> list[int]:
    """Write what cannot be applied; the ids of the dead letters, oldest first."""
    pipeline = scene.pipeline()
    known = {letter.id for letter in dead(pipeline)}
    pipeline.write_many(changes)
    drain(pipeline)
    new = [letter.id for letter in dead(pipeline) if letter.id not in known]
    assert len(new) == len(changes)
    return new


ADD = Change("counters", {"id": 1}, add={"n": 1000})
SET = Change("counters", {"id": 2}, set={"n": 500})
INSERT = Change("log", insert={"what": "login"})


def _outcomes(ended: Ended) -> dict[int, str]:
    return {int(row["id"]): row["outcome"] for row in ended.rows}


# --- list


@pytest.mark.usefixtures("tables")
def test_the_newest_letter_is_listed_first_with_its_reason(cli: CommandLine, scene: Scene) -> None:
    first, second = _bury(scene, ADD, INSERT)
    ended = cli("dead-letters", "list")
    assert (ended.code, ended.err) == (0, "")
    assert [int(row["id"]) for row in ended.rows] == [second, first]
    assert [row["table"] for row in ended.rows] == ["log", "counters"]
    assert [row["sqlstate"] for row in ended.rows] == ["22001", "23514"]
    assert "counters_n_check" in ended.rows[1]["reason"]


@pytest.mark.usefixtures("tables")
def test_the_list_as_json_is_one_array_with_the_promised_fields(cli: CommandLine, scene: Scene) -> None:
    assert cli("dead-letters", "list", "--json").json == []
    _bury(scene, ADD)
    (letter,) = cli("dead-letters", "list", "--json").json
    assert list(letter) == [
        "id", "event_id", "shard", "table", "status", "reason", "sqlstate", "attempts", "accepted_at", "dead_at",
    ]  # fmt: skip
    accepted, died = (datetime.fromisoformat(letter[name]) for name in ("accepted_at", "dead_at"))
    assert timedelta(0) <= died - accepted < timedelta(minutes=1)
    assert (letter["shard"], letter["status"], letter["attempts"]) == (0, "dead", 1)


@pytest.mark.usefixtures("tables")
def test_the_list_is_narrowed_by_table_and_status(cli: CommandLine, scene: Scene) -> None:
    add, insert = _bury(scene, ADD, INSERT)
    _mend(scene)
    assert cli("dead-letters", "replay", insert).code == 0

    def listed(*options: str) -> list[int]:
        return [letter["id"] for letter in cli("dead-letters", "list", "--json", *options).json]

    assert listed() == [add]
    assert listed("--status", "replayed") == [insert]
    assert listed("--status", "all") == [insert, add]
    assert listed("--status", "discarded") == []
    assert listed("--status", "all", "--table", "log") == [insert]
    assert listed("--table", '"counters"') == [add]


@pytest.mark.usefixtures("tables")
def test_a_long_list_is_paged_and_says_how_to_go_on(cli: CommandLine, scene: Scene) -> None:
    ids = _copies(scene, _bury(scene, ADD)[0], 249)[::-1]
    whole = cli("dead-letters", "list", "--limit", 1000)
    assert [int(row["id"]) for row in whole.rows] == ids
    assert whole.err == ""
    page = cli("dead-letters", "list", "--limit", 150)
    assert [int(row["id"]) for row in page.rows] == ids[:150]
    assert f"--before {ids[149]}" in page.message
    rest = cli("dead-letters", "list", "--limit", 150, "--before", ids[149])
    assert [int(row["id"]) for row in rest.rows] == ids[150:]


def _copies(scene: Scene, letter: int, count: int) -> list[int]:
    """``count`` more letters like ``letter``; the ids of all, oldest first."""
    columns = "namespace, shard, batch_id, event_id, table_name, reason, sqlstate, attempts, message"
    scene.sql(
        f"INSERT INTO pipeline.dead_letter ({columns}) "
        f"SELECT {columns} FROM pipeline.dead_letter, generate_series(1, %s) WHERE id = %s",
        count,
        letter,
    )
    return [row[0] for row in scene.sql("SELECT id FROM pipeline.dead_letter ORDER BY id")]


@pytest.mark.usefixtures("tables")
def test_foreign_text_stays_in_its_cell_and_cannot_command_the_terminal(cli: CommandLine, scene: Scene) -> None:
    scene.sql("ALTER TABLE counters ADD COLUMN t text CHECK (t = '')")
    _bury(scene, Change("counters", {"id": 1}, set={"t": "a\tb\nc\x1b[2J\u202e"}))
    ended = cli("dead-letters", "list")
    (row,) = ended.rows
    assert "a b c\\x1b[2J\\u202e" in row["reason"]


def test_a_reader_that_goes_away_is_no_traceback(cli: CommandLine, scene: Scene) -> None:
    scene.redis.rpush(scene.keys.events, MALFORMED)
    drain(scene.pipeline())
    _copies(scene, 1, 2000)
    with cli.started("dead-letters", "list", "--limit", 5000) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


# --- show


@pytest.mark.usefixtures("tables")
def test_show_tells_why_and_when_and_what(cli: CommandLine, scene: Scene) -> None:
    at = datetime(2013, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    (letter,) = _bury(scene, Change("counters", {"id": 7}, set={"at": at}, add={"n": Decimal(1000)}))
    found = cli("dead-letters", "show", letter, "--json").json
    assert found["changes"] == [
        {
            "table": "counters",
            "key": {"id": 7},
            "set": {"at": {"__type__": "datetime", "__value__": at.isoformat()}},
            "add": {"n": {"__type__": "decimal", "__value__": "1000"}},
        }
    ]
    assert (found["sqlstate"], found["status"], found["attempts"]) == ("23514", "dead", 1)
    assert (found["malformed"], found["message"], found["message_base64"]) == (None, None, None)

    plain = cli("dead-letters", "show", letter)
    assert plain.code == 0
    values = {row["field"]: row["value"] for row in plain.rows}
    assert values["sqlstate"] == "23514"
    assert values["change"].startswith('{"table": "counters", "key": {"id": 7}')


@pytest.mark.usefixtures("tables")
def test_show_tells_every_change_of_a_group(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write_group([ADD, INSERT], shard_by="order:42")
    drain(scene.pipeline())
    found = cli("dead-letters", "show", 1, "--json").json
    assert found["changes"] == [
        {"table": "counters", "key": {"id": 1}, "add": {"n": 1000}},
        {"table": "log", "insert": {"what": "login"}},
    ]
    assert found["shard_by"] == "order:42"
    plain = cli("dead-letters", "show", 1)
    assert [row["field"] for row in plain.rows].count("change") == 2


def test_show_gives_a_malformed_message_as_it_was(cli: CommandLine, scene: Scene) -> None:
    scene.redis.rpush(scene.keys.events, MALFORMED)
    drain(scene.pipeline())
    found = cli("dead-letters", "show", 1, "--json").json
    assert found["changes"] is None
    assert "not a Celery message" in found["malformed"]
    assert base64.b64decode(found["message_base64"]) == MALFORMED
    assert found["message"] == '\\xff{"nope": 1}\x1b[2J'
    plain = {row["field"]: row["value"] for row in cli("dead-letters", "show", 1).rows}
    assert plain["message"] == '\\xff{"nope": 1}\\x1b[2J'


def test_a_letter_that_does_not_exist_is_not_shown(cli: CommandLine) -> None:
    ended = cli("dead-letters", "show", 7, "--json")
    assert (ended.code, ended.out) == (1, "")
    assert "no dead letter 7" in ended.message


# --- replay


@pytest.mark.parametrize("script", [False, True], ids=["command", "script"])
@pytest.mark.usefixtures("tables")
def test_replayed_adds_and_inserts_are_written_exactly_once(cli: CommandLine, scene: Scene, *, script: bool) -> None:
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 1}, add={"n": 5})
    add, insert = _bury(scene, ADD, INSERT)
    _mend(scene)
    pipeline.write("counters", {"id": 1}, add={"n": 7})
    ended = cli("--all", program=SCRIPT) if script else cli("dead-letters", "replay", "--all")
    assert ended.code == 0
    assert _outcomes(ended) == {add: "replayed", insert: "replayed"}
    assert ended.message == "pipeline: 2 replayed"

    again = cli("dead-letters", "replay", add, insert)
    assert again.code == 1
    assert _outcomes(again) == {add: "not_dead", insert: "not_dead"}
    assert cli("dead-letters", "replay", "--all").code == 0

    assert cli("flush").code == 0
    assert scene.sql("SELECT id, n FROM counters") == [(1, 1012)]
    assert scene.sql("SELECT what FROM log") == [("login",)]
    assert cli("dead-letters", "list", "--json").json == []


@pytest.mark.usefixtures("tables")
def test_a_replay_is_written_down_with_who_did_it(cli: CommandLine, scene: Scene) -> None:
    (letter,) = _bury(scene, ADD)
    cli("dead-letters", "replay", letter)
    ((action, forced, actor),) = scene.sql("SELECT action, forced, actor FROM pipeline.replay")
    assert (action, forced) == ("replay", False)
    assert all(actor.partition("@"))


@pytest.mark.usefixtures("tables")
def test_what_sets_is_refused_without_force_and_overwrites_nothing(cli: CommandLine, scene: Scene) -> None:
    (letter,) = _bury(scene, SET)
    _mend(scene)
    pipeline = scene.pipeline()
    pipeline.write("counters", {"id": 2}, set={"n": 1})
    drain(pipeline)
    refused = cli("dead-letters", "replay", letter)
    assert refused.code == 1
    assert _outcomes(refused) == {letter: "needs_force"}
    assert refused.message == "pipeline: 1 needs force"
    drain(pipeline)
    assert scene.sql("SELECT n FROM counters") == [(1,)]

    assert cli("dead-letters", "replay", letter, "--force").code == 0
    drain(pipeline)
    assert scene.sql("SELECT n FROM counters") == [(500,)]
    assert scene.sql("SELECT forced FROM pipeline.replay") == [(True,)]


@pytest.mark.usefixtures("tables")
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(cli: CommandLine, scene: Scene) -> None:
    add, set_ = _bury(scene, ADD, SET)
    _mend(scene)
    before = _everything(scene)
    ended = cli("dead-letters", "replay", "--all", "--dry-run")
    assert ended.code == 1  # not all of it would be replayed
    assert _outcomes(ended) == {add: "would_replay", set_: "needs_force"}
    assert cli("dead-letters", "replay", "--all", "--dry-run", "--force").code == 0
    assert _everything(scene) == before


def _everything(scene: Scene) -> Any:
    letters = scene.sql("SELECT * FROM pipeline.dead_letter ORDER BY id")
    replays = scene.sql("SELECT * FROM pipeline.replay")
    return letters, replays, {key: scene.redis.dump(key) for key in scene.redis.keys("*")}


@pytest.mark.usefixtures("tables")
def test_only_the_letters_of_the_table_are_replayed(cli: CommandLine, scene: Scene) -> None:
    _add, insert = _bury(scene, ADD, INSERT)
    ended = cli("dead-letters", "replay", "--table", "public.log")
    assert ended.out == ""
    assert "no dead letters" in ended.message
    ended = cli("dead-letters", "replay", "--all", "--table", "log")
    assert _outcomes(ended) == {insert: "replayed"}


@pytest.mark.usefixtures("tables")
def test_what_cannot_be_replayed_does_not_keep_the_rest_from_it(cli: CommandLine, scene: Scene) -> None:
    scene.redis.rpush(scene.keys.events, MALFORMED)
    drain(scene.pipeline())
    add, set_ = _bury(scene, ADD, SET)
    ended = cli("dead-letters", "replay", set_, add, 1, add, 4711)
    assert ended.code == 1
    assert _outcomes(ended) == {1: "malformed", add: "replayed", set_: "needs_force", 4711: "not_found"}
    assert len(ended.rows) == 4
    assert ended.message == "pipeline: 1 malformed, 1 replayed, 1 needs force, 1 not found"


@pytest.mark.usefixtures("tables")
def test_the_replay_as_json_is_one_object_with_summary_and_letters(cli: CommandLine, scene: Scene) -> None:
    add, set_ = _bury(scene, ADD, SET)
    ended = cli("dead-letters", "replay", add, set_, "--json")
    assert (ended.code, ended.err) == (1, "")
    found = ended.json
    assert list(found) == ["dry_run", "complete", "stopped", "summary", "letters"]
    assert (found["dry_run"], found["complete"], found["stopped"]) == (False, False, False)
    assert found["summary"] == {"replayed": 1, "needs_force": 1}
    assert [(letter["id"], letter["outcome"]) for letter in found["letters"]] == [
        (add, "replayed"),
        (set_, "needs_force"),
    ]
    assert found["letters"][0]["event_id"].endswith(f":replay-{add}")
    assert cli("dead-letters", "replay", set_, "--force", "--json").json["complete"] is True


@pytest.mark.usefixtures("tables")
def test_an_event_with_the_longest_id_is_replayed_too(cli: CommandLine, scene: Scene) -> None:
    scene.pipeline().write("counters", {"id": 1}, add={"n": 1000}, event_id="x" * 200)
    drain(scene.pipeline())
    _mend(scene)
    assert cli("dead-letters", "replay", "--all").code == 0
    drain(scene.pipeline())
    assert scene.sql("SELECT n FROM counters") == [(1000,)]


@pytest.mark.usefixtures("tables")
def test_what_dies_of_a_replay_is_not_taken_up_by_the_same_replay(cli: CommandLine, scene: Scene) -> None:
    (letter,) = _bury(scene, ADD)
    pipeline = scene.pipeline()
    results = pipeline.replayer.replay_all(actor="a test", last=pipeline.dead_letters.extent().last)
    assert next(results).id == letter
    drain(pipeline)  # a worker flushes meanwhile, and the event dies of the same fault again
    assert list(results) == []
    (again,) = dead(pipeline)
    assert again.id > letter
    _mend(scene)
    assert _outcomes(cli("dead-letters", "replay", "--all")) == {again.id: "replayed"}
    drain(scene.pipeline())
    assert scene.sql("SELECT n FROM counters") == [(1000,)]


@pytest.mark.usefixtures("tables")
def test_a_replay_while_redis_is_away_leaves_every_letter_dead(cli: CommandLine, scene: Scene, valkey: Valkey) -> None:
    ids = _copies(scene, _bury(scene, ADD)[0], 1)
    valkey.stop()
    ended = cli("dead-letters", "replay", "--all", "--json")
    valkey.start()
    assert ended.code == 1
    assert (ended.json["complete"], ended.json["stopped"], ended.json["letters"]) == (False, True, [])
    assert "Redis is not available" in ended.message
    assert [letter.id for letter in dead(scene.pipeline())] == ids


@pytest.mark.usefixtures("tables")
def test_a_replay_that_is_interrupted_and_repeated_loses_and_doubles_nothing(cli: CommandLine, scene: Scene) -> None:
    ids = _copies(scene, _bury(scene, ADD)[0], 1499)  # more lines than a pipe holds: it cannot end before it is read
    _mend(scene)
    with cli.started("dead-letters", "replay", "--all") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rows = process.stdout.readlines()
        errors = process.stderr.read()
        assert process.wait(30) == 1
    replayed = 1 + len(rows)
    assert replayed < len(ids)
    assert errors.splitlines() == [
        f"pipeline: {replayed} replayed",
        "pipeline: stopped; the letters that are not named are as before",
    ]
    assert [letter.id for letter in dead(scene.pipeline())] == ids[replayed:]

    assert cli("dead-letters", "replay", "--all").code == 0
    assert cli("flush").code == 0
    assert scene.sql("SELECT n FROM counters") == [(1000 * len(ids),)]
