"""One pipeline shared by threads, and inherited by forked processes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from pipeline import Change
from pipeline.flush import End
from tests.integration.scene import Scene, dead, drain

VIEWS = "CREATE TABLE views (page int PRIMARY KEY, n int)"
THREADS = 8

# A process that has used its pipeline (both servers) forks; parent, children and a grandchild all go on using it.
FORKS = """
import json, os, sys
from pipeline import Change, Config, Pipeline

pipeline = Pipeline(Config(**json.loads(sys.argv[1])))

def use(name):
    for number in range(20):
        pipeline.write("views", {"page": number % 3}, add={"n": 1}, event_id=f"{name}-{number}")
    pipeline.write_many([Change("views", {"page": 1}, add={"n": 1})] * 10)
    for shard in range(pipeline.config.shards):
        pipeline.flush_shard(shard)
    pipeline.status()

def child(name, then=None):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        use(name)
        if then:
            then()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)

def grandchild():
    assert os.waitpid(child("grandchild"), 0)[1] == 0
    use("child again")

use("before")
children = [child("one"), child("two", grandchild), child("three")]
use("while")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
use("after")
pipeline.close()
use("closed and opened")
pipeline.close()
"""
USES = 9


def test_a_forked_process_uses_its_own_connections_and_leaves_those_of_its_parent_alone(scene: Scene) -> None:
    scene.sql(VIEWS)
    settings = json.dumps({"redis_url": scene.redis_url, "database_url": scene.database_url, "shards": 2})
    process = subprocess.run(
        [sys.executable, "-c", FORKS, settings], capture_output=True, text=True, timeout=60, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")
    pipeline = scene.pipeline(shards=2)
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT sum(n) FROM views") == [(USES * 30,)]


def test_threads_write_through_one_pipeline(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(shards=4)

    def write(thread: int) -> list[tuple[int, int]]:
        receipts = [pipeline.write("views", {"page": n % 10}, add={"n": 1}) for n in range(50)]
        receipts += pipeline.write_many(Change("views", {"page": n % 10}, add={"n": thread}) for n in range(50))
        return [(receipt.shard, receipt.seq) for receipt in receipts]

    with ThreadPoolExecutor(THREADS) as threads:
        numbers = [number for one in threads.map(write, range(THREADS)) for number in one]
    assert len(set(numbers)) == len(numbers) == THREADS * 100
    drain(pipeline)
    assert scene.sql("SELECT sum(n) FROM views") == [(THREADS * 50 + 50 * sum(range(THREADS)),)]


def test_threads_flush_through_one_pipeline(scene: Scene) -> None:
    for number in range(3):
        scene.sql(f"CREATE TABLE t{number} (id int PRIMARY KEY, a int, b varchar(3), c int)")
    pipeline = scene.pipeline(shards=THREADS, batch_size=50)
    changes = []
    for number in range(3000):
        column = "abc"[number % 3]
        bad = number % 500 == 250
        value = "too long" if bad else str(number % 7)
        changes.append(
            Change(f"t{number % 3}", {"id": number}, {column: value} if column == "b" or bad else {column: 1})
        )
    pipeline.write_many(changes)

    def flush(shard: int) -> int:
        events = 0
        while (report := pipeline.flush_shard(shard)).end is not End.EMPTY:
            events += report.events
        return events + report.events

    with ThreadPoolExecutor(THREADS) as threads:
        assert sum(threads.map(flush, range(THREADS))) == 3000
    assert len(dead(pipeline)) == 6
    assert sum(scene.sql(f"SELECT count(*) FROM t{number}")[0][0] for number in range(3)) == 2994


def test_threads_write_and_flush_at_the_same_time(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline(batch_size=20)

    def write(_: int) -> None:
        for number in range(100):
            pipeline.write("views", {"page": number % 5}, add={"n": 1})

    def flush(_: int) -> None:
        for _ in range(50):
            pipeline.flush_shard(0)

    with ThreadPoolExecutor(6) as threads:
        work = [threads.submit(write, n) for n in range(4)] + [threads.submit(flush, n) for n in range(2)]
        for one in work:
            one.result()
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT sum(n) FROM views") == [(400,)]
    assert scene.redis.keys("pipeline.overlay*") == []
