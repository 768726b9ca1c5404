"""An event that kills its worker (no error, no word) is found by halving, and buried; nothing else is."""

import json
import subprocess
import sys

from pipeline import Change
from tests.conformance.lane import claimed
from tests.integration.scene import Scene, dead, drain

EVENTS = 16
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
    flusher = Flusher(RedisBuffer(connect(config), config), Deadly(), config, time.monotonic, random.random)
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
    assert (letter.event_id, letter.reason) == (
        (receipts[10].event_id, "the worker died 3 times while it applied this event alone")
    )
    assert scene.sql("SELECT array_agg(id ORDER BY id), sum(n) FROM t") == [
        ([n for n in range(EVENTS) if n != 10], EVENTS - 1)
    ]
    assert int(workers.stdout) <= 3 * 5  # three for each of log2(16) halvings and for the event alone


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
