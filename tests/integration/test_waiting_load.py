"""However many wait, one of them looks for all: the servers do not notice the others."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any

from pipeline import Change, Outcome, Pipeline
from pipeline.buffer.lanes import RedisLanes
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import BlockingWire
from pipeline.driving import run
from pipeline.progress import Asked, Outcomes, Seen
from pipeline.store.outcomes import PostgresOutcomes
from pipeline.store.session import Sessions
from pipeline.telemetry import Step
from pipeline.vigil import SHORTEST_SECONDS, BlockingBell
from pipeline.waiting import Waiting
from tests.integration.scene import Scene, drain, eventually

THREADS = 200
RECEIPTS = 1000
LONG = 60.0
SHARDS = 4


def commands(redis: Any) -> dict[str, int]:
    return {name: stat["calls"] for name, stat in redis.info("commandstats").items()}


def test_a_thousand_who_wait_cost_as_much_as_one(scene: Scene) -> None:
    """Counted, not timed: the looks, and what a look sends to either server."""
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    steps: Counter[Step] = Counter()

    def note(step: Step) -> None:
        steps[step] += 1

    with Pipeline(scene.config(shards=SHARDS), note) as pipeline, ThreadPoolExecutor(THREADS + 1) as threads:
        receipts = pipeline.write_many([Change("t", {"id": number}, add={"n": 1}) for number in range(RECEIPTS)])
        before = commands(scene.redis)
        inside = threading.Semaphore(0)

        def wait(number: int) -> list[Outcome]:
            inside.release()
            return [receipt.wait(LONG) for receipt in receipts[number::THREADS]]

        waits = [threads.submit(wait, number) for number in range(THREADS)]
        together = threads.submit(pipeline.wait_all, receipts, LONG)
        for _ in range(THREADS):
            inside.acquire()
        polled = steps[Step.POLLED]
        eventually(lambda: steps[Step.POLLED] >= polled + 10, "ten looks")
        # nothing has happened: each look is one command a shard, PostgreSQL is asked once a second at most
        idle_polls, idle_asks = steps[Step.POLLED], steps[Step.ASKED]
        assert idle_asks <= 3
        calls = commands(scene.redis)
        assert calls["cmdstat_hget"] - before.get("cmdstat_hget", 0) <= SHARDS * (idle_polls + 1)
        drain(pipeline)
        outcomes = [outcome for one in waits for outcome in one.result(LONG)]
        assert set(outcomes) == set(together.result(LONG)) == {Outcome.APPLIED}
        assert len(outcomes) == RECEIPTS
    # each of the five turns of a thread takes a look or two of its own at most, shared with all others
    assert steps[Step.ASKED] <= 60
    assert steps[Step.POLLED] - idle_polls <= 100
    assert SHORTEST_SECONDS >= 0.005


class Recorded:
    """`Outcomes` on PostgreSQL, and what it was asked and has answered."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self.looks: list[tuple[int, int]] = []

    async def look(self, asked: Sequence[Asked]) -> Mapping[int, Seen]:
        answers = await self._outcomes.look(asked)
        for one in asked:
            last = answers.get(one.shard, Seen()).last
            self.looks.append((one.start, one.start if last is None else last.seq))
        return answers


def test_a_batch_is_read_once_for_all_who_wait(scene: Scene) -> None:
    """Of the ledger, only what is new is read: who has waited through many batches does not read them again."""
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    config = scene.config()
    pipeline = scene.pipeline()
    with closing(Sessions(config)) as sessions, ThreadPoolExecutor(1) as threads:
        recorded = Recorded(PostgresOutcomes(sessions, config))
        lanes = RedisLanes(BlockingWire(config), Topology(config), config)
        waiting = Waiting(lanes, recorded, 1, time.monotonic, BlockingBell)
        parked = [pipeline.write("missing", {"id": number}) for number in range(8)]
        pipeline.flush_shard(0)
        together = threads.submit(run, waiting.wait_all(parked, LONG))
        eventually(lambda: recorded.looks, "the first look")
        for number in range(20):
            fresh = pipeline.write("t", {"id": number}, add={"n": 1})
            pipeline.flush_shard(0)
            assert run(waiting.wait(fresh, LONG)) is Outcome.APPLIED
        scene.sql("CREATE TABLE missing (id int PRIMARY KEY)")
        drain(pipeline)
        assert set(together.result(LONG)) == {Outcome.APPLIED}
    assert recorded.looks[0][0] == 0
    for (_, last), (start, _) in pairwise(recorded.looks):
        assert start >= last - 1  # one who comes begins behind the batch that was acknowledged when he wrote
