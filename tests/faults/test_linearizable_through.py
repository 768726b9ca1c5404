"""Many threads write, write through, read and evict few rows, while flushers are killed: every read is a true one."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from random import Random as Dice
from random import SystemRandom
from typing import Any

import pytest

from pipeline import Change, Pipeline, StoreError
from pipeline.buffer.rows import RedisRows
from pipeline.reading import Place, Question
from pipeline.store.queries import Queries
from pipeline.store.reader import PostgresRows
from pipeline.telemetry import Step
from pipeline.through import Through as UseCase
from tests.faults.history import Read, Write
from tests.faults.mixed_history import MixedHistory, Through
from tests.faults.test_linearizable_reads import DEFAULTS, KEYS, SETTINGS, evict, mortal_flushers
from tests.integration.scene import Scene, drain

SECONDS = 6.0
CLIENTS = 6
LEDGER = "SELECT coalesce(sum(cardinality(event_ids)), 0) FROM pipeline.batch"
COLUMNS = ("id", "n", "top", "token", "price")
ROLLED_BACK = 0.2
DEADLOCK = "40P01"


class Client:
    """A thread that does one thing after the other at random, and keeps a record of it."""

    def __init__(self, scene: Scene, history: MixedHistory, seed: int, until: float, number: Callable[[], int]) -> None:
        self._scene = scene
        self._history = history
        self._dice = Dice(seed)  # noqa: S311 - a seed
        self._name = f"client {seed}, "
        self._until = until
        self._number = number
        self._count = 0
        self._made: tuple[int, int] = (0, 0)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with (
                Pipeline(self._scene.config(**SETTINGS), self._probe) as self._pipeline,
                self._scene.connect() as self._eye,
                self._scene.connect() as self._own,
            ):
                while time.monotonic() < self._until:
                    self._dice.choices((self._read, self._write, self._pass), (55, 30, 15))[0]()
        except BaseException as error:
            self.error = error
            raise

    def _probe(self, step: Step) -> None:
        """The row is locked, so what the ledger has now of its events is what the change is made to."""
        if step is Step.CHANGED:
            (row,) = self._eye.execute(LEDGER).fetchall()
            self._made = self._number(), int(row[0])
            time.sleep(self._dice.random() * 0.01)  # for readers to come
        elif self._dice.random() < 0.1 and step in {Step.DROPPED, Step.FETCHED, Step.LOOKED}:
            time.sleep(self._dice.random() * 0.01)

    def _read(self) -> None:
        keys = self._dice.sample(KEYS, self._dice.choice((1, 1, 1, 2)))
        called = time.monotonic_ns()
        if len(keys) == 1:
            rows = [self._pipeline.read("t", {"id": keys[0]}, shard_by="all")]
        else:
            rows = self._pipeline.read_many("t", [{"id": key} for key in keys], shard_by="all")
        answered = time.monotonic_ns()
        for key, row in zip(keys, rows, strict=True):
            self._history.saw(key, Read(called, answered, row))

    def _write(self) -> None:
        keys = self._dice.sample(KEYS, self._dice.choice((1, 1, 1, 2)))
        writes = [(key, *self._drawn(deletes=True)) for key in keys]
        called = time.monotonic_ns()
        seq = self._pipeline.write_group([_change(*write) for write in writes], shard_by="all").seq
        answered = time.monotonic_ns()
        for key, verb, values in writes:
            self._history.wrote(key, Write(seq, called, answered, verb, values))

    def _pass(self) -> None:
        key = self._dice.choice(KEYS)
        verb, values = self._drawn(deletes=False)
        change = _change(key, verb, values)
        arguments: dict[str, Any] = {"set": change.set, "add": change.add, "max": change.max, "shard_by": "all"}
        called = time.monotonic_ns()
        if self._dice.random() < 0.5:
            self._pipeline.write_through("t", {"id": key}, **arguments)
        else:
            undone = self._dice.random() < ROLLED_BACK
            try:
                with self._own.transaction(force_rollback=undone):
                    self._pipeline.write_through("t", {"id": key}, **arguments, connection=self._own)
                    time.sleep(self._dice.random() * 0.01)
            except StoreError as error:
                undone = error.sqlstate == DEADLOCK
                if not undone:
                    raise
            if undone:
                return
        self._history.wrote(key, Through(*self._made, called, time.monotonic_ns(), verb, values))

    def _drawn(self, *, deletes: bool) -> tuple[str, dict[str, Any]]:
        verb = self._dice.choices(("add", "set", "max", "delete"), (60, 20, 15, 5 * deletes))[0]
        if verb == "delete":
            return verb, {}
        self._count += 1
        column = "top" if verb == "max" else self._dice.choice(("n", "n", "n", "price"))
        return verb, {column: self._dice.randint(-50, 50), "token": f"{self._name}{self._count}"}


def _change(key: int, verb: str, values: dict[str, Any]) -> Change:
    if verb == "delete":
        return Change("t", {"id": key}, delete=True)
    parts: dict[str, dict[str, Any]] = {"set": {"token": values["token"]}, "add": {}, "max": {}}
    parts[verb].update({name: value for name, value in values.items() if name != "token"})
    return Change("t", {"id": key}, parts["set"], parts["add"], parts["max"])


def play(scene: Scene, seconds: float, *, evicted: bool) -> MixedHistory:
    """Let the clients play; their history, with what was read in the end."""
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7, top int, token text, price numeric)")
    scene.disconnect()
    seed = SystemRandom().randrange(1000)
    history = MixedHistory(DEFAULTS)
    numbers = itertools.count(1)
    with mortal_flushers(scene.config(**SETTINGS), seed):
        until = time.monotonic() + seconds
        clients = [Client(scene, history, seed + number, until, numbers.__next__) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        if evicted:
            threads.append(threading.Thread(target=evict, args=(scene, until, Dice(seed))))  # noqa: S311 - a seed
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [client.error for client in clients] == [None] * CLIENTS
    pipeline = scene.pipeline(**SETTINGS)
    drain(pipeline)
    for key in KEYS:
        called = time.monotonic_ns()
        row = pipeline.read("t", {"id": key}, shard_by="all")
        history.saw(key, Read(called, time.monotonic_ns(), row))
    return history


@pytest.mark.faults
@pytest.mark.parametrize("evicted", [False, True])
def test_every_read_is_what_is_committed_with_what_is_pending_on_top(scene: Scene, *, evicted: bool) -> None:
    history = play(scene, SECONDS, evicted=evicted)
    counts = [sum(map(len, kind.values())) for kind in (history.reads, history.writes, history.throughs)]
    assert min(counts) > 30, f"too few to tell: {counts} reads, writes, changes written through"
    assert list(history.violations())[:3] == []
    for key in KEYS:
        found = scene.sql("SELECT id, n, top, token, price FROM t WHERE id = %s", key)
        expected = history.final(key)
        assert [dict(zip(COLUMNS, row, strict=True)) for row in found] == ([] if expected is None else [expected])


async def _free(_store: PostgresRows, _queries: Queries, questions: Sequence[Question]) -> frozenset[Place]:
    return frozenset(question.place for question in questions)


async def _keep(_rows: RedisRows, _place: Place) -> None:
    """Drop nothing."""


async def _hurry(_through: UseCase, _place: Place, _until: float) -> None:
    """Settle nothing."""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("part", "name", "broken"),
    [(PostgresRows, "_free", _free), (RedisRows, "drop", _keep), (UseCase, "_settle", _hurry)],
    ids=["readers do not ask for turns", "the row is not dropped", "nothing is settled"],
)
def test_a_missing_part_of_the_protocol_is_found_out(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, part: type, name: str, broken: Any
) -> None:
    assert hasattr(part, name)
    monkeypatch.setattr(part, name, broken)
    # without evictions: they would heal what went wrong
    assert next(play(scene, SECONDS, evicted=False).violations(), None) is not None
