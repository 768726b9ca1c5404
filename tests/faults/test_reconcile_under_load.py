"""While writers, readers and flushers are at work, no row is ever taken for drifted; and what drifted is found."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random as Dice
from random import SystemRandom
from typing import Any

import pytest

from pipeline import Change, Pipeline, PipelineFull
from pipeline.reconcile import Problem
from tests.integration.scene import Scene, drain

ENOUGH = 5000
DEADLINE_SECONDS = 60.0
KEYS = range(1, 201)
BEGIN = datetime(2013, 1, 1, tzinfo=UTC)
TABLE = (
    "CREATE TABLE {} (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7 CHECK (n < 1000000), small smallint, name text, "
    "price numeric(8,2) DEFAULT 1, exact numeric, seen timestamptz, first date, doc jsonb, data bytea, tags text[])"
)
SETTINGS: dict[str, Any] = {"shards": 2, "batch_size": 50, "max_pending": 200}
TOGETHER = "together"
"""The table whose rows are written in groups, in one shard."""


def verbs(dice: Dice) -> dict[str, Any]:
    """What a write may do; the integers and texts are what Redis changes in the cached row by itself."""
    if dice.random() < 0.01:  # Redis takes it, PostgreSQL will not
        return dice.choice([{"set": {"small": 40_000}}, {"add": {"n": 10**6}}])
    whole = dice.randint(-2, 2)
    moment = BEGIN + timedelta(seconds=dice.randint(0, 10**6))
    counts: list[dict[str, Any]] = [{"add": {"n": whole}}, {"set": {"n": whole, "name": dice.choice("ab")}}]
    choices: list[dict[str, Any]] = [
        *counts * 4,
        {"add": {"n": whole}},
        {"add": {"n": -whole}},
        {"set": {"name": dice.choice("ab")}},
        {"set": {"small": dice.choice((1, 2, 3, None))}},
        {"add": {"price": Decimal(whole) / 3, "exact": Decimal("0.1")}},
        {"max": {"seen": moment}, "min": {"first": moment.date()}},
        {"set": {"doc": {"a": [whole, None, 1.5]}, "data": bytes([dice.randint(0, 255)])}},
        {"set": {"tags": [dice.choice("ab"), None]}, "max": {"name": "aa"}},
    ]
    return dice.choice(choices)


class World:
    """Threads that keep a pipeline busy."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._seed = seed
        self._stop = threading.Event()
        self._done: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def __enter__(self) -> Counter[str]:
        works: list[Callable[[Pipeline, Dice], None]] = [self._write, self._write, self._group, self._read, self._read]
        works += [self._flush, self._flush]
        for number, work in enumerate(works):
            pipeline = self._scene.pipeline(**SETTINGS)
            dice = Dice(self._seed + number)  # noqa: S311 - a seed
            self._threads.append(threading.Thread(target=self._repeat, args=(work, pipeline, dice)))
        for thread in self._threads:
            thread.start()
        return self._done

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[Pipeline, Dice], None], pipeline: Pipeline, dice: Dice) -> None:
        try:
            while not self._stop.is_set():
                try:
                    work(pipeline, dice)
                    self._done[work.__name__] += 1
                except PipelineFull:
                    self._stop.wait(0.005)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _write(self, pipeline: Pipeline, dice: Dice) -> None:
        key = {"id": dice.choice(KEYS)}
        if dice.random() < 0.005:
            pipeline.delete("t", key)
        else:
            pipeline.write("t", key, **verbs(dice))

    def _group(self, pipeline: Pipeline, dice: Dice) -> None:
        changes = [Change(TOGETHER, {"id": key}, **verbs(dice)) for key in dice.sample(KEYS, 3)]
        pipeline.write_group(changes, shard_by="all")

    def _read(self, pipeline: Pipeline, dice: Dice) -> None:
        keys = [{"id": key} for key in dice.sample(KEYS, 40)]
        pipeline.read_many("t", keys)
        pipeline.read_many(TOGETHER, keys, shard_by="all")

    def _flush(self, pipeline: Pipeline, dice: Dice) -> None:
        pipeline.flush_shard(dice.randrange(2), slice_seconds=0.05)


def make_tables(scene: Scene) -> None:
    for name in ("t", TOGETHER):
        scene.sql(TABLE.format(name))
        scene.sql(f"INSERT INTO {name} (id, small, name) SELECT i, 1, 'a' FROM generate_series(1, {len(KEYS)}) AS i")


@pytest.mark.faults
def test_at_full_speed_nothing_is_taken_for_drifted(scene: Scene) -> None:
    make_tables(scene)
    seed = SystemRandom().randrange(1000)
    pipeline = scene.pipeline(**SETTINGS)
    counts: Counter[str] = Counter()
    world = World(scene, seed)
    with world as done:
        until = time.monotonic() + DEADLINE_SECONDS
        while counts["checked"] < ENOUGH and time.monotonic() < until:
            for part in pipeline.reconcile():
                assert list(part.rows) == [], f"seed {seed}"
                counts.update(checked=part.checked, equal=part.equal, busy=part.busy, skipped=part.skipped)
    assert world.errors == []
    drain(pipeline)
    assert pipeline.status().dead_letters > 0
    assert min(done.values()) > 20, f"too few to tell: {done}"
    assert counts["equal"] > counts["checked"] * 0.9, f"{counts} beside {done}"


@pytest.mark.faults
def test_at_full_speed_what_drifted_is_found_and_fixed(scene: Scene) -> None:
    make_tables(scene)
    scene.sql("INSERT INTO t (id, name) SELECT 1000 + i, 'quiet' FROM generate_series(1, 20) AS i")
    keys = [{"id": 1000 + i} for i in range(1, 21)]
    pipeline = scene.pipeline(**SETTINGS)
    with World(scene, 0):
        pipeline.read_many("t", keys)
        scene.sql("UPDATE t SET name = 'elsewhere' WHERE id > 1000")
        found = [row for part in pipeline.reconcile(fix=True) for row in part.rows]
        assert {(row.problem, row.columns, row.fixed) for row in found} == {(Problem.DIFFERENT, ("name",), True)}
        assert len(found) == len(keys)
        assert {row["name"] for row in pipeline.read_many("t", keys) if row} == {"elsewhere"}
