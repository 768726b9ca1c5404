"""What must not grow with the backlog: the cost of an event, the memory of a worker, the time of a script in Redis."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import sha1
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
import psycopg
import redis

from pipeline import Change, Pipeline
from pipeline.bench.zipfian import Zipfian
from pipeline.buffer.keys import ShardKeys
from pipeline.buffer.redis import RedisBuffer
from pipeline.contrib.embedded import Servers
from pipeline.flush import FlushReport
from pipeline.ports import nothing

__all__ = ["BACKLOGS", "FOLDED", "POISONED", "Drain", "Folding", "Poison", "Script", "flat", "folding", "poison"]

BACKLOGS: Final = (10_000, 100_000, 1_000_000)

FOLDED: Final = (100_000, 10_000)
"""Updates, and the rows that they are of."""

POISONED: Final = 3000
"""Events in a batch, one of which is wrong."""

ROOT: Final = Path(__file__).parents[2]
SCHEMA: Final = """
CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0);
CREATE TABLE carts (cart_id integer PRIMARY KEY, items integer NOT NULL CHECK (items >= 0))
"""
CHUNK: Final = 50_000
MAX_PENDING: Final = 10_000_000  # no shard may be full
SLOWER_THAN_MICROSECONDS: Final = 200
SLOWLOG_LENGTH: Final = 100_000
SHA: Final = 40  # hexadecimal digits


class Script(msgspec.Struct, frozen=True):
    """A script in Redis that was called ``calls`` times for a fifth of a millisecond or more, by the clock.

    Where there are more processes than processors, others have worked meanwhile in some of these calls: ``seconds`` is
    what nine in ten took at most, ``longest`` what all did.
    """

    name: str
    calls: int
    seconds: float
    longest: float


class Drain(msgspec.Struct, frozen=True):
    """A backlog of events that each change a row of their own, drained by one process. Memory is in bytes.

    ``redis_bytes`` are for one pending event, with its overlay; ``seconds`` and ``cpu_seconds`` of the process, too.
    ``claim_cpu_seconds`` are what Redis itself works at a claim, the longest of its scripts; 0 in a run that is older
    than this measure.
    """

    events: int
    redis_bytes: float
    write_seconds: float
    seconds: float
    cpu_seconds: float
    memory_before: int
    memory_peak: int
    slowest: Script
    claim_cpu_seconds: float = 0.0


class Folding(msgspec.Struct, frozen=True):
    """Updates of popular rows, and how many rows were written for them."""

    events: int
    keys: int
    rows: int

    @property
    def rows_per_event(self) -> float:
        """Less than one, since updates of one row in a batch are folded."""
        return self.rows / self.events


class Poison(msgspec.Struct, frozen=True):
    """What one event that cannot be applied costs its batch: transactions of the whole, and savepoints more."""

    events: int
    dead: int
    transactions: int
    savepoints: int


def flat(backlogs: Sequence[int], say: Callable[[str], None]) -> list[Drain]:
    """Fill the queues with each of ``backlogs`` and drain them in a process of their own, on fresh servers."""
    with _bench() as bench:
        bench.write(range(1000))
        bench.drain()  # the first one finds an empty catalog, and Redis knows no script
        found = []
        for events in backlogs:
            say(f"{events:,} pending")
            found.append(_drain(bench, events))
        return found


def folding(events: int, keys: int, say: Callable[[str], None]) -> Folding:
    """YCSB-A's updates: ``keys`` rows, some of them much more popular than others, as many updates as ``events``."""
    say(f"{events:,} updates of {keys:,} rows")
    chance = random.Random(1)  # noqa: S311 - no secret
    ranks = Zipfian(keys)
    with _bench() as bench:
        bench.write([ranks.rank(chance.random()) for _ in range(events)])
        return Folding(events, keys, bench.drain()["rows"])


def poison(events: int, say: Callable[[str], None]) -> Poison:
    """One batch of ``events``, of which one breaks a constraint, beside one without it."""
    say(f"one poison event in {events:,}")
    with _bench(shards=1, batch_size=events) as bench:
        healthy = _flushed(bench, [1] * events)
        ill = _flushed(bench, [*[1] * (events // 3), -1, *[1] * (events - events // 3 - 1)])
        return Poison(ill.events, ill.dead, ill.batches, ill.savepoints - healthy.savepoints)


class _Unread(RedisBuffer):
    """Freezes batches, and does not read them: that is no script."""

    def _messages(self, names: ShardKeys, batch_id: bytes) -> list[bytes]:  # noqa: ARG002 - as it is there
        return []


class _Bench:
    """Servers, a pipeline on them, and what Redis says of itself."""

    def __init__(self, servers: Servers, settings: Mapping[str, int]) -> None:
        self._environment = {
            **os.environ,
            **{f"PIPELINE_{name.upper()}": str(value) for name, value in settings.items()},
            "PIPELINE_REDIS_URL": servers.redis_url,
            "PIPELINE_DATABASE_URL": servers.database_url,
            "PIPELINE_MAX_PENDING": str(MAX_PENDING),
        }
        self.pipeline = Pipeline.from_env(self._environment)
        self.redis: Any = redis.Redis.from_url(servers.redis_url)
        self.database = psycopg.connect(servers.database_url, autocommit=True)
        self.database.execute(SCHEMA)
        self.pipeline.migrate()
        self.redis.config_set("slowlog-max-len", SLOWLOG_LENGTH)
        self.redis.config_set("slowlog-log-slower-than", SLOWER_THAN_MICROSECONDS)

    def close(self) -> None:
        self.pipeline.close()
        self.database.close()
        self.redis.close()

    def write(self, pages: Sequence[int]) -> None:
        for start in range(0, len(pages), CHUNK):
            self.pipeline.write_many(
                Change("page_views", {"page_id": page}, add={"views": 1}) for page in pages[start : start + CHUNK]
            )

    def drain(self) -> dict[str, Any]:
        """What `scripts.benchmark.draining` says."""
        command = [sys.executable, "-m", "scripts.benchmark.draining"]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def claim(self) -> float:
        """Claim a batch of every shard; seconds for which Redis works at one, in the median. `drain` finds them frozen.

        That is neither inflated by others that have the processor meanwhile, nor by a heap that has to grow for the
        first one.
        """
        buffer = _Unread(self.redis, self.pipeline.config, nothing)
        took = []
        for shard in range(self.pipeline.config.shards):
            looks = [self._redis_worked(), self._redis_worked()]
            buffer.claim(shard, "bench")
            looks.append(self._redis_worked())
            took.append(looks[2] - looks[1] - (looks[1] - looks[0]))  # looking takes a little, too
            buffer.release(shard, "bench")
        return median(took)

    def _redis_worked(self) -> float:
        """Seconds for which its main thread had a processor."""
        facts = self.redis.info("cpu")
        return float(facts["used_cpu_user_main_thread"] + facts["used_cpu_sys_main_thread"])

    def slowest_script(self) -> Script:
        """Since the slow log was reset."""
        names = {
            sha1(script.read_bytes(), usedforsecurity=False).hexdigest(): script.name.removesuffix(".lua")
            for script in (files("pipeline.buffer") / "lua").iterdir()
        }
        calls: dict[str, list[float]] = {}
        for entry in self.redis.slowlog_get(SLOWLOG_LENGTH):
            command, _, words = entry["command"].decode(errors="replace").partition(" ")
            if command == "EVALSHA":
                calls.setdefault(names.get(words[:SHA], "?"), []).append(entry["duration"] / 1e6)
        scripts = [
            Script(name, len(took), sorted(took)[len(took) * 9 // 10], max(took)) for name, took in calls.items()
        ]
        return max(scripts, key=lambda script: script.seconds, default=Script("-", 0, 0.0, 0.0))


@contextmanager
def _bench(**settings: int) -> Iterator[_Bench]:
    with Servers() as servers, closing(_Bench(servers, settings)) as bench:
        yield bench


def _drain(bench: _Bench, events: int) -> Drain:
    bench.database.execute("TRUNCATE page_views")
    empty = bench.redis.info("memory")["used_memory"]
    bench.redis.slowlog_reset()
    began = time.perf_counter()
    bench.write(range(events))
    write_seconds = time.perf_counter() - began
    full = bench.redis.info("memory")["used_memory"]
    claim_cpu_seconds = bench.claim()
    found = bench.drain()
    return Drain(
        events=events,
        redis_bytes=(full - empty) / events,
        write_seconds=write_seconds / events,
        seconds=found["seconds"] / events,
        cpu_seconds=found["cpu_seconds"] / events,
        memory_before=found["memory_before"],
        memory_peak=found["memory_peak"],
        slowest=bench.slowest_script(),
        claim_cpu_seconds=claim_cpu_seconds,
    )


def _flushed(bench: _Bench, items: Sequence[int]) -> FlushReport:
    bench.pipeline.write_many(Change("carts", {"cart_id": n}, set={"items": number}) for n, number in enumerate(items))
    return bench.pipeline.flush_shard(0)
