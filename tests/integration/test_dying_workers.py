"""An event that kills its worker or its backend, without a word, is found by halving and buried; nothing else is."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Literal

import pytest

from pipeline import Change
from pipeline.buffer.redis import RedisBuffer
from pipeline.contrib.embedded import Postgres
from pipeline.core.verdict import Halve, judge_crash
from pipeline.flush import End
from pipeline.ports import Claimed, FailureKind
from tests.conformance.lane import accept, acknowledge, claimed, names_of
from tests.integration.scene import Scene, dead, drain, eventually

EVENTS = 16
WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'MERGE%'"
# Workers, one after the other, until nothing is pending. Each is a process, and KILLER ends it while it is applied.
WORKERS = """
import json, os, random, sys, time
from pipeline import Config
from pipeline.buffer.redis import RedisBuffer, connect
from pipeline.flush import End, Flusher
from pipeline.store.postgres import PostgresStore
from pipeline.store.session import Sessions

killer, settings = sys.argv[1], json.loads(sys.argv[2])
config = Config(**settings)

class Deadly:
    def __init__(self):
        self.store = PostgresStore(Sessions(config), config)

    def apply(self, batch, begin):
        def begin_and_die():
            begin()
            if batch.bury is None and any(entry.id == killer for entry in batch.entries):
                os._exit(9)

        return self.store.apply(batch, begin_and_die)

def work():
    buffer = RedisBuffer(connect(config), config, lambda: None)
    flusher = Flusher(buffer, Deadly(), config, time.monotonic, random.random)
    while flusher.flush_shard(0, str(os.getpid())).end is not End.EMPTY:
        pass
    os._exit(0)

deaths = 0
while True:
    child = os.fork()
    if child == 0:
        work()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    deaths += 1
print(deaths)
"""


def test_an_event_that_kills_its_worker_is_the_only_one_that_is_buried(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline()
    receipts = pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(EVENTS))
    urls = {"redis_url": scene.redis_url, "database_url": scene.database_url}
    settings = json.dumps({**urls, "shards": 1, "lease_seconds": 0.01, "batch_size": EVENTS})
    workers = subprocess.run(
        [sys.executable, "-c", WORKERS, receipts[10].event_id, settings],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert workers.returncode == 0, workers.stderr
    (letter,) = dead(pipeline)
    assert letter.event_id == receipts[10].event_id
    assert letter.reason.startswith("3 flushers")
    assert letter.attempts == 3
    assert scene.sql("SELECT array_agg(id ORDER BY id), sum(n) FROM t") == [
        ([n for n in range(EVENTS) if n != 10], EVENTS - 1)
    ]
    assert int(workers.stdout) <= math.log2(EVENTS) + 3


@pytest.mark.parametrize("events", [1, 2, 3, 7, 8, 33])
def test_a_killer_is_found_in_few_attempts_wherever_it_stands(scene: Scene, events: int) -> None:
    most = math.ceil(math.log2(events)) + 3
    for killer in range(events):
        scene.redis.flushdb()
        buffer = scene.buffer(batch_size=1000)
        accept(buffer, [f"{n}" for n in range(events)])
        attempts, buried = attempts_to_bury(scene, buffer, f"{killer}")
        assert (buried, attempts <= most) == ([f"{killer}"], True), (killer, attempts)


def attempts_to_bury(scene: Scene, buffer: RedisBuffer, killer: str) -> tuple[int, list[str]]:
    """Flush as the flusher does, without a store: who begins a batch with ``killer`` in it is not heard of again."""
    attempts = 0
    buried: list[str] = []
    while not buried and isinstance(claim := buffer.claim(0, "me"), Claimed):
        names = names_of(claim)
        verdict = judge_crash(claim.begun, claim.failures, len(names))
        if isinstance(verdict, Halve):
            assert buffer.halve(claim, suspected=True)
            continue
        if verdict is None:
            attempts += 1
            buffer.begin(claim)
            if killer in names:
                scene.redis.delete(scene.keys.lease)
                continue
        else:
            buried += names
        assert acknowledge(buffer, claim)
    return attempts, buried


def test_an_event_that_crashes_its_backend_is_the_only_one_that_is_buried(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    scene.sql("""
        CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.id = 10 THEN
                COPY (SELECT 1) TO PROGRAM 'kill -SEGV $PPID';
            END IF;
            RETURN NEW;
        END $$
    """)
    scene.sql("CREATE TRIGGER crash BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION crash()")
    scene.disconnect()
    pipeline = scene.pipeline()
    receipts = pipeline.write_many(Change("t", {"id": n}, add={"n": 1}) for n in range(EVENTS))
    failed = 0
    while (report := pipeline.flush_shard(0)).end is not End.EMPTY:
        failed += report.end is End.FAILED and "server closed the connection" in (report.error or "")
    (letter,) = dead(pipeline)
    assert letter.event_id == receipts[10].event_id
    assert failed <= math.log2(EVENTS) + 3
    assert scene.sql("SELECT array_agg(id ORDER BY id), sum(n) FROM t") == [
        ([n for n in range(EVENTS) if n != 10], EVENTS - 1)
    ]


def test_a_backend_that_takes_the_server_down_for_a_while_is_not_forgotten(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    pipeline.write_many(Change("t", {"id": n}) for n in range(4))
    buffer = scene.buffer()
    for _ in range(2):  # it crashes, and the next try finds nobody, because PostgreSQL recovers
        claim = claimed(buffer)
        buffer.begin(claim)
        buffer.fail(claim, "server closed the connection", 0, FailureKind.SILENT, begun=True)
        buffer.fail(claim, "connection refused", 0, FailureKind.UNREACHABLE)
    claim = claimed(buffer)
    assert isinstance(judge_crash(claim.begun, claim.failures, len(claim.messages)), Halve)


@pytest.mark.parametrize("how", ["fast", "immediate"])
@pytest.mark.usefixtures("short_patience")
def test_a_server_that_is_stopped_blames_nobody(
    scene: Scene, postgres: Postgres, how: Literal["fast", "immediate"]
) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline = scene.pipeline(retry_base_seconds=0.001, retry_cap_seconds=0.002)
    pipeline.write("t", {"id": 1})
    for _ in range(4):
        with closing(scene.connect()) as holder, ThreadPoolExecutor(1) as thread:
            holder.execute("BEGIN")
            holder.execute("INSERT INTO t VALUES (1)")
            attempt = thread.submit(pipeline.flush_shard, 0)
            eventually(lambda: scene.sql(WAITING), "nobody waits for the row")
            scene.disconnect()
            postgres.stop(how)
            assert attempt.result().end is End.FAILED
        postgres.start()
    claim = claimed(scene.buffer())
    assert claim.begun == claim.failures == 4
    scene.redis.delete(scene.keys.lease)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id FROM t") == [(1,)]


def test_flushers_that_vanish_before_they_write_put_the_blame_on_nobody(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    pipeline.write("t", {"id": 1})
    for n in range(10):  # lost replies, hung connections: each has claimed the batch, and is never heard of again
        claimed(scene.buffer(), f"vanished {n}")
        scene.redis.delete(scene.keys.lease)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id FROM t") == [(1,)]
