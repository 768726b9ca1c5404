"""What 1,000 events cost in round trips, scripts, commands, statements and bytes: a guard that no clock has a part in.

A number that is not the one in `COSTS` fails, also if it is better: then write the new one down, as the failure says. A
round trip or a statement more per event, or twice the bytes, must be somebody's decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import psycopg
import pytest
import redis
from psycopg.pq import Trace

from pipeline import Change, Config, Pipeline
from pipeline.store.novelty import ROWS_FIRST
from pipeline.store.session import Sessions
from pipeline.store.statements import statement
from tests.integration.conftest import MakeValkey


class Cost(NamedTuple):
    """Of 1,000 events, or of as many reads.

    Attributes:
        trips: times that something was sent to Redis, however many commands at once.
        scripts: calls of Lua scripts.
        commands: what Redis did, in scripts and without.
        sent: bytes to Redis.
        received: bytes from Redis.
        logged: bytes that Redis wrote to its append-only file.
        questions: round trips to PostgreSQL.
        told: bytes to PostgreSQL.
        heard: bytes from PostgreSQL.
    """

    trips: int
    scripts: int
    commands: int
    sent: int
    received: int
    logged: int
    questions: int = 0
    told: int = 0
    heard: int = 0


COSTS: Final = {
    # a call is a script, and that is eleven commands: for cache, overlay, queue, numbers, and what asks for a flush
    "write": Cost(trips=1000, scripts=1000, commands=11000, sent=1097000, received=20914, logged=752000),
    # four chunks; in a chunk an event is one command: RPUSH to its overlay
    "write_many": Cost(trips=4, scripts=4, commands=1040, sent=304216, received=85, logged=619540),
    "read": Cost(trips=1000, scripts=0, commands=1000, sent=66000, received=76002, logged=0),
    "read_many": Cost(trips=2, scripts=0, commands=1000, sent=66000, received=76002, logged=0),
    # five claims, the last of which finds nothing; four times its messages, begin and acknowledge; seven round trips
    # per transaction: is the connection there, begin and lock, savepoint and stage, COPY, MERGE, check, commit
    "flush": Cost(
        trips=21, scripts=13, commands=401, sent=63119, received=432855, logged=57318,
        questions=28, told=49124, heard=2198,
    ),
    # as many rows were new before: six round trips per transaction, since they are copied straight into their table
    "flush_new": Cost(
        trips=21, scripts=13, commands=401, sent=63119, received=432855, logged=57318,
        questions=24, told=48540, heard=2128,
    ),
}  # fmt: skip
COUNTS: Final = ("trips", "scripts", "commands", "questions")
"""These are exact."""

TOLERANCE: Final = 0.02
"""The part of a number of bytes that digits of counters and of clocks, and the meter itself, may make."""

DIGITS: Final = 4
"""Bytes that they may make where there are hardly any: a counter goes from 9 to 10."""

EVENTS: Final = 1000
BATCH: Final = 250
"""Events of a batch: a thousand are four, and the claim that finds nothing more."""

STATEMENT: Final = re.compile(rb"^([FB])\t(\d+)\t(\w+)", re.MULTILINE)
"""A message of PostgreSQL's protocol in a trace of libpq: to the server or from it, its length, its kind."""

ENDS: Final = frozenset({b"Query", b"Sync"})
"""After these a client waits for the server."""


class Meter:
    """Counts what goes over the wires of this process, and asks Redis what it did."""

    def __init__(self, client: Any, trace: IO[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._redis = client
        self._trace = trace
        self._trips = 0
        self._traced: list[psycopg.Connection[Any]] = []
        send: Any = redis.Connection.send_packed_command
        wait: Any = psycopg.Connection.wait

        def count(connection: Any, *arguments: Any, **options: Any) -> Any:
            self._trips += 1
            return send(connection, *arguments, **options)

        def listen(connection: Any, *arguments: Any, **options: Any) -> Any:
            if connection not in self._traced:
                self._traced.append(connection)
                connection.pgconn.trace(trace.fileno())
                connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
            return wait(connection, *arguments, **options)

        monkeypatch.setattr(redis.Connection, "send_packed_command", count)
        monkeypatch.setattr(psycopg.Connection, "wait", listen)

    def close(self) -> None:
        """Nothing may be written to the trace when it is closed."""
        for connection in self._traced:
            connection.pgconn.untrace()

    def cost(self, work: Callable[[], object]) -> Cost:
        """Of ``work``, without that of looking."""
        nothing, something = self._difference(lambda: None), self._difference(work)
        return Cost(*(some - none for some, none in zip(something, nothing, strict=True)))

    def _difference(self, work: Callable[[], object]) -> Sequence[int]:
        before = self._look()
        work()
        return [now - then for now, then in zip(self._look(), before, strict=True)]

    def _look(self) -> Cost:
        calls = {name: stats["calls"] for name, stats in self._redis.info("commandstats").items()}
        stats = self._redis.info("stats")
        messages = STATEMENT.findall(Path(self._trace.name).read_bytes())
        return Cost(
            trips=self._trips,
            scripts=calls.get("cmdstat_evalsha", 0),
            commands=sum(calls.values()),
            sent=stats["total_net_input_bytes"],
            received=stats["total_net_output_bytes"],
            logged=self._redis.info("persistence")["aof_current_size"],
            questions=sum(kind in ENDS for _, _, kind in messages),
            told=sum(int(size) for way, size, _ in messages if way == b"F"),
            heard=sum(int(size) for way, size, _ in messages if way == b"B"),
        )


@pytest.fixture
def meter(make_valkey: MakeValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Meter, str]]:
    """A meter, and the URL of the Redis that it watches, which is nobody else's."""
    server = make_valkey(auto_aof_rewrite_percentage=0)
    with redis.Redis.from_url(server.url) as client, (tmp_path / "trace").open("ab") as trace:
        meter = Meter(client, trace, monkeypatch)
        yield meter, server.url
        meter.close()


@pytest.fixture
def pipeline(meter: tuple[Meter, str], migrated_url: str) -> Iterator[Pipeline]:
    config = Config(
        redis_url=meter[1],
        database_url=migrated_url,
        shards=1,
        batch_size=BATCH,
        commit_target_seconds=1000,  # however slow this machine is
        statement_timeout_seconds=2000,
        flush_slice_seconds=1000,
        lease_seconds=1000,
        flush_threshold=0,
    )
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page_views (page_id int PRIMARY KEY, views bigint NOT NULL DEFAULT 0)")
    with Pipeline(config) as pipeline:
        yield pipeline


def changes(numbers: range) -> list[Change]:
    return [Change("page_views", {"page_id": number}, add={"views": 1}) for number in numbers]


def new(numbers: range) -> list[Change]:
    return [Change("page_views", {"page_id": number}, set={"views": 1}) for number in numbers]


def keys(numbers: range) -> list[dict[str, int]]:
    return [{"page_id": number} for number in numbers]


def work_of(pipeline: Pipeline, operation: str) -> Callable[[range], Any]:
    """What costs something, for so many rows; pages have numbers of six digits."""

    def write(numbers: range) -> None:
        for number in numbers:
            pipeline.write("page_views", {"page_id": number}, add={"views": 1})

    def read(numbers: range) -> None:
        for key in keys(numbers):
            pipeline.read("page_views", key)

    return {
        "write": write,
        "write_many": lambda numbers: pipeline.write_many(changes(numbers)),
        "read": read,
        "read_many": lambda numbers: pipeline.read_many("page_views", keys(numbers)),
        "flush": lambda _: pipeline.flush_shard(0),
        "flush_new": lambda _: pipeline.flush_shard(0),
    }[operation]


@pytest.mark.parametrize("operation", COSTS)
def test_a_thousand_events_cost_what_they_did(meter: tuple[Meter, str], pipeline: Pipeline, operation: str) -> None:
    work = work_of(pipeline, operation)
    warm, rows = range(100_000, 102_000), range(200_000, 200_000 + EVENTS)
    pipeline.write_many(changes(warm))
    pipeline.flush_shard(0)  # connects, and psycopg prepares a statement when it runs for the fifth time
    work(warm[:1])
    prepare(pipeline, operation, rows)
    cost = meter[0].cost(lambda: work(rows))
    assert is_as_before(cost, COSTS[operation]), f'now it is\n    "{operation}": {cost!r},'


def prepare(pipeline: Pipeline, operation: str, rows: range) -> None:
    """What is read is cached, what is flushed is pending."""
    if operation == "flush_new":
        pipeline.write_many(new(range(300_000, 300_000 + 3 * ROWS_FIRST)))
        pipeline.flush_shard(0)
        pipeline.write_many(new(rows))
    if operation == "flush" or operation.startswith("read"):
        pipeline.write_many(changes(rows))
    if operation.startswith("read"):
        pipeline.flush_shard(0)
        for _ in range(3):  # on a busy machine a row may not be installed: its reader was too slow
            pipeline.read_many("page_views", keys(rows))


def is_as_before(now: Cost, before: Cost) -> bool:
    """Counts exactly, bytes about."""
    numbers = zip(Cost._fields, now, before, strict=True)
    return all(abs(new - old) <= (0 if name in COUNTS else TOLERANCE * old + DIGITS) for name, new, old in numbers)


def test_the_plan_that_reads_fingerprints_is_kept(migrated_url: str) -> None:
    """To plan it takes three times as long as to run it."""
    with closing(Sessions(Config(database_url=migrated_url))) as sessions, sessions.connection() as connection:
        for _ in range(20):
            connection.execute(statement("catalog_fingerprints"), {"names": ["pipeline.shard"]}, prepare=True)
        kept = connection.execute(
            "SELECT generic_plans FROM pg_prepared_statements WHERE statement LIKE '%fingerprint%'"
        )
        assert kept.fetchone() == (15,)  # the first five are to compare
