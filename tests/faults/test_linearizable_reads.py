"""Many readers and writers on few rows, while flushers are killed and rows are evicted: every read is a true one."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from random import Random as Dice
from random import SystemRandom
from typing import Any

import pytest

from pipeline import BufferUnavailable, Change, Config, Pipeline
from pipeline.contrib.embedded import Valkey
from pipeline.telemetry import Step, ignore
from tests.faults.history import History, Read, Write
from tests.faults.mortal import die_at, in_child
from tests.integration.conftest import MakeValkey, both_types
from tests.integration.scene import Scene, drain

SECONDS = 6.0
KEYS = (1, 2, 3)
DEFAULTS = {"n": 7, "top": None, "token": None, "price": None}
SETTINGS: dict[str, Any] = {"batch_size": 40, "lease_seconds": 0.05, "shards": 1}
TURNS = (
    Step.COMMITTED, Step.COMMITTED, Step.COMMITTED, Step.CLAIMED, Step.ACKNOWLEDGED, Step.COMMITTING, Step.ATTEMPTED,
)  # fmt: skip
"""Where flushers die. After each one another lives, so that no event is taken for one that kills."""


@contextmanager
def mortal_flushers(config: Config, seed: int) -> Iterator[None]:
    """Flushers in processes of their own, killed one after the other, until the ``with`` ends."""
    stop, stopped = os.pipe()
    pid = os.fork()  # before there are threads
    if pid == 0:
        code = 1
        try:
            os.close(stopped)
            os.set_blocking(stop, False)
            _flush_until(stop, config, Dice(seed))  # noqa: S311 - a seed
            code = 0
        finally:
            os._exit(code)
    os.close(stop)
    try:
        yield
    finally:
        os.close(stopped)
        assert os.waitpid(pid, 0)[1] == 0


def _flush_until(stop: int, config: Config, dice: Dice) -> None:
    while True:
        try:
            if os.read(stop, 1) == b"":
                return
        except BlockingIOError:
            pass
        step = dice.choice(TURNS)
        in_child(config, die_at(step, dice.randint(1, 4)), _flush(0.5))
        in_child(config, ignore, _flush(0.1))


def _flush(seconds: float) -> Callable[[Pipeline], object]:
    return lambda pipeline: pipeline.flush_shard(0, slice_seconds=seconds)


class Client:
    """A thread that reads and writes at random and keeps a record of it."""

    def __init__(self, pipeline: Pipeline, history: History, seed: int, until: float, *, named: bool) -> None:
        """``named``: its writes have ids, so that they can be repeated."""
        self._named = named
        self._pipeline = pipeline
        self._history = history
        self._dice = Dice(seed)  # noqa: S311 - a seed
        self._until = until
        self._name = f"client {seed}, write"
        self._count = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                if self._dice.random() < 0.6:
                    self._read()
                else:
                    self._write()
        except BaseException as error:
            self.error = error
            raise

    def _read(self) -> None:
        keys = self._dice.sample(KEYS, self._dice.choice((1, 1, 1, 2, 3)))
        called = time.monotonic_ns()
        try:
            if len(keys) == 1:
                rows = [self._pipeline.read("t", {"id": keys[0]})]
            else:
                rows = self._pipeline.read_many("t", [{"id": key} for key in keys])
        except BufferUnavailable:
            return
        answered = time.monotonic_ns()
        for key, row in zip(keys, rows, strict=True):
            self._history.saw(key, Read(called, answered, row))

    def _write(self) -> None:
        keys = self._dice.sample(KEYS, self._dice.choice((1, 1, 1, 2)))
        writes = [(key, *self._drawn()) for key in keys]
        self._count += 1
        name = f"{self._name} {self._count}"
        called = time.monotonic_ns()
        seq = self._accepted([_change(*write) for write in writes], name)
        answered = time.monotonic_ns()
        for key, verb, values in writes:
            self._history.wrote(key, Write(seq, called, answered, verb, values))

    def _accepted(self, changes: list[Change], name: str) -> int:
        if not self._named:
            return self._pipeline.write_group(changes, shard_by="all").seq
        while True:
            try:
                return self._pipeline.write_group(changes, shard_by="all", event_id=name).seq
            except BufferUnavailable:  # it may have been accepted
                continue

    def _drawn(self) -> tuple[str, dict[str, Any]]:
        verb = self._dice.choices(("add", "set", "max", "delete"), (60, 20, 15, 5))[0]
        if verb == "delete":
            return verb, {}
        self._count += 1
        column = "top" if verb == "max" else self._dice.choice(("n", "n", "n", "price"))
        return verb, {column: self._dice.randint(-50, 50), "token": f"{self._name} {self._count}"}


def _change(key: int, verb: str, values: dict[str, Any]) -> Change:
    if verb == "delete":
        return Change("t", {"id": key}, delete=True)
    parts: dict[str, dict[str, Any]] = {"set": {"token": values["token"]}, "add": {}, "max": {}}
    parts[verb].update({name: value for name, value in values.items() if name != "token"})
    return Change("t", {"id": key}, parts["set"], parts["add"], parts["max"])


def evict(scene: Scene, until: float, dice: Dice) -> None:
    """Drop cached rows, as an eviction policy does."""
    while time.monotonic() < until:
        for key in KEYS:
            if dice.random() < 0.3:
                scene.redis.delete(f"{scene.keys.row}t:id={key}")
        time.sleep(0.001)


def kill_now_and_then(server: Valkey, until: float) -> None:
    """Kill Redis and start it again. What it has answered is on its disk."""
    while time.monotonic() < until - 1:
        time.sleep(0.7)
        server.kill()
        server.start()


def play(scene: Scene, server: Valkey, *, redis_dies: bool) -> None:
    """Let the clients play, and judge."""
    seed = SystemRandom().randrange(1000)
    history = History(DEFAULTS)
    with mortal_flushers(scene.config(**SETTINGS), seed):
        until = time.monotonic() + SECONDS
        pipelines = [scene.pipeline(**SETTINGS) for _ in range(2)]
        clients = [
            Client(pipelines[number % 2], history, seed + number, until, named=redis_dies or number == 0)
            for number in range(6)
        ]
        threads = [threading.Thread(target=client.run) for client in clients]
        if redis_dies:
            threads.append(threading.Thread(target=kill_now_and_then, args=(server, until)))
        else:
            threads.append(threading.Thread(target=evict, args=(scene, until, Dice(seed))))  # noqa: S311 - a seed
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [client.error for client in clients] == [None] * 6
    pipeline = scene.pipeline(**SETTINGS)
    drain(pipeline)
    for key in KEYS:
        expected = history.states(key)[-1]
        found = scene.sql("SELECT id, n, top, token, price FROM t WHERE id = %s", key)
        assert [dict(zip(("id", "n", "top", "token", "price"), row, strict=True)) for row in found] == (
            [] if expected is None else [expected]
        )
        assert pipeline.read("t", {"id": key}) == expected
    reads, writes = (sum(map(len, kind.values())) for kind in (history.reads, history.writes))
    assert min(reads, writes) > 100, f"too few to tell: {reads} reads, {writes} writes"
    assert list(history.violations())[:3] == [], f"seed {seed}"


@pytest.mark.faults
@both_types
@pytest.mark.parametrize("redis_dies", [False, True])
def test_every_read_is_a_state_of_its_row_between_its_call_and_its_answer(
    scene: Scene, make_valkey: MakeValkey, *, redis_dies: bool
) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7, top int, token text, price numeric)")
    scene.disconnect()
    server = make_valkey(appendfsync="always")
    with closing(Scene(server.url, scene.database_url, scene.kind)) as own:
        play(own, server, redis_dies=redis_dies)


# --- the checker itself


def told(*reads: Read) -> list[str]:
    history = History({"n": 0})
    history.wrote(1, Write(1, called=10, answered=20, verb="add", values={"n": 1}))
    history.wrote(1, Write(2, called=30, answered=40, verb="add", values={"n": 1}))
    for read in reads:
        history.saw(1, read)
    return list(history.violations())


def seen(called: int, answered: int, n: int | None) -> Read:
    return Read(called, answered, None if n is None else {"id": 1, "n": n})


@pytest.mark.parametrize(
    ("reads", "good"),
    [
        ([seen(0, 5, None)], True),
        ([seen(0, 15, None)], True),
        ([seen(0, 15, 1)], True),
        ([seen(0, 9, 1)], False),  # not written yet
        ([seen(25, 28, None)], False),  # written before the call
        ([seen(25, 35, 1)], True),
        ([seen(25, 35, 2)], True),
        ([seen(45, 50, 1)], False),
        ([seen(45, 50, 2)], True),
        ([seen(45, 50, 3)], False),  # doubled
        ([seen(11, 12, 1), seen(13, 14, None)], False),  # backwards
        ([seen(11, 13, 1), seen(12, 14, None)], True),  # at the same time
    ],
)
def test_the_checker_tells_true_reads_from_false_ones(reads: list[Read], good: bool) -> None:  # noqa: FBT001
    assert (told(*reads) == []) is good
