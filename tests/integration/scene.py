"""What the tests on real servers act on: pipelines, and a way to look into Redis and PostgreSQL past them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import msgspec
import psycopg
import redis

from pipeline import Config, Pipeline
from pipeline.buffer.keys import ShardKeys
from pipeline.flush import End, FlushReport
from pipeline.ports import DeadLetter
from pipeline.store.postgres import PostgresStore
from pipeline.store.session import Sessions
from tests.conformance.whole_buffer import WholeBuffer

DEADLINE_SECONDS = 20.0

QUICK: dict[str, Any] = {"shards": 1, "retry_base_seconds": 0.001, "retry_cap_seconds": 0.002}
"""One lane, so that a test knows where its events are; and failed batches are due again at once."""


class Scene:
    """Real servers for one test. Everything that it opens it closes."""

    def __init__(self, redis_url: str, database_url: str, kind: type[Pipeline] = Pipeline) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.kind = kind
        self._stack = ExitStack()
        self._connection: psycopg.Connection[Any] | None = None
        self.redis: Any = self._stack.enter_context(redis.Redis.from_url(redis_url))
        self.keys = ShardKeys("pipeline", 0)

    def config(self, **settings: Any) -> Config:
        urls = {"redis_url": self.redis_url, "database_url": self.database_url}
        return Config(**{**QUICK, **urls, **settings})

    def pipeline(self, **settings: Any) -> Pipeline:
        """A new pipeline, as a process of its own would have it."""
        return self._stack.enter_context(self.kind(self.config(**settings)))

    def buffer(self, **settings: Any) -> WholeBuffer:
        """The Redis half of a pipeline, to drive by hand."""
        return self._stack.enter_context(closing(WholeBuffer(self.config(**settings))))

    def store(self, **settings: Any) -> PostgresStore:
        """The PostgreSQL half of a pipeline, to drive by hand."""
        config = self.config(**settings)
        return PostgresStore(self._stack.enter_context(closing(Sessions(config))), config)

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement, committed; its rows."""
        if self._connection is None:
            self._connection = self._stack.enter_context(self.connect())
        cursor = self._connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit mode, to be used in a ``with``."""
        return psycopg.connect(
            self.database_url,
            autocommit=True,
            client_encoding="utf8",
            prepare_threshold=None,  # tables are dropped and made again
        )

    def disconnect(self) -> None:
        """Let go of the database; the next `sql` connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def queued(self) -> list[bytes]:
        """The messages in the queue of shard 0, oldest first."""
        messages: list[bytes] = self.redis.lrange(self.keys.events, 0, -1)
        return messages[::-1]

    def overlay(self, row: str) -> list[Any]:
        """The overlay of a row (``table:identity``) in shard 0, decoded."""
        return [msgspec.json.decode(entry) for entry in self.redis.lrange(self.keys.overlay + row, 0, -1)]

    def cached(self, row: str) -> dict[str, Any]:
        """The cached row in shard 0, decoded; empty if it is absent."""
        fields = self.redis.hgetall(self.keys.row + row)
        fields.pop(b"", None)
        return {name.decode(): msgspec.json.decode(value) for name, value in fields.items()}

    def cache(self, row: str, values: dict[str, Any], ttl_seconds: int = 1000) -> None:
        """Install a clean, complete cached row in shard 0, as a read does."""
        self.redis.hset(
            self.keys.row + row,
            mapping={"": "life", **{name: msgspec.json.encode(value) for name, value in values.items()}},
        )
        self.redis.expire(self.keys.row + row, ttl_seconds)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def disk_full(scene: Scene, table: str) -> Iterator[None]:
    """Writes to ``table`` fail as on a full disk: an outage, and nobody's fault."""
    scene.sql(
        "CREATE OR REPLACE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
    )
    scene.sql(f"CREATE TRIGGER disk_full BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION disk_full()")
    yield
    scene.sql(f"DROP TRIGGER disk_full ON {table}")


def drain(pipeline: Pipeline) -> FlushReport:
    """Flush until nothing is pending; what was done in sum."""
    total = FlushReport(-1, End.EMPTY)
    for shard in range(pipeline.config.shards):
        until = time.monotonic() + DEADLINE_SECONDS
        while (report := pipeline.flush_shard(shard)).end is not End.EMPTY:
            total = _sum(total, report)
            if time.monotonic() > until:
                raise TimeoutError(f"shard {shard} does not drain: {report}")
        total = _sum(total, report)
    return total


def _sum(one: FlushReport, other: FlushReport) -> FlushReport:
    names = ("batches", "events", "rows", "dead", "skipped")
    return msgspec.structs.replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})


def dead(pipeline: Pipeline) -> list[DeadLetter]:
    """All dead letters, oldest first."""
    return pipeline.dead_letters.page(limit=10_000)[::-1]


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until ``condition`` gives something true, and return that."""
    until = time.monotonic() + DEADLINE_SECONDS
    while not (result := condition()):
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.002)
    return result


def snapshot(client: Any) -> list[tuple[bytes, bytes]]:
    """The whole of Redis, to go back to with `restore`."""
    keys: Sequence[bytes] = client.keys("*")
    return [(key, value) for key in keys if (value := client.dump(key)) is not None]  # a lease may just have expired


def restore(client: Any, saved: list[tuple[bytes, bytes]]) -> None:
    """Bring Redis back to a `snapshot`, as a replica that was behind does."""
    client.flushall()
    for key, value in saved:
        client.restore(key, 0, value)
