"""Whatever is written, interrupted, killed, set back, taken away and replayed, in any order: the laws hold at any time.

A random machine on real servers. Two flushers move step by step (`tests.faults.puppet`), so that everything can happen
between any two steps of theirs; after every rule the servers are compared with a model (`tests.faults.model`).

About half a minute, with other examples each time. For a run of hours::

    pytest tests/faults/test_stateful.py --hypothesis-profile=thorough
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipeline import Change, Outcome, Pipeline, Receipt
from pipeline.buffer.lanes import RedisLanes
from pipeline.driving import run
from pipeline.store.outcomes import PostgresOutcomes
from pipeline.telemetry import Step
from pipeline.vigil import BlockingBell
from pipeline.waiting import Waiting, _ReceiptWatch
from tests.faults.model import ALWAYS_THERE, AWAY, SCHEMA, TABLES, Model, Sight, Timeline, look
from tests.faults.puppet import Puppet
from tests.integration.scene import Scene, restore, snapshot

# What failed is due again at once, no slice is ever over, and a lease expires when a rule says so: no clock decides.
SETTINGS = {
    "batch_size": 6,
    "retry_base_seconds": 1e-6,
    "retry_cap_seconds": 1e-6,
    "retry_attempts": 2,
    "lease_seconds": 1000.0,
    "flush_slice_seconds": 1000.0,
    "statement_timeout_seconds": 5.0,  # so long one may wait for a row that the other, which stands still, holds
}
FLUSHES_TO_DRAIN = 200
MOST_SAVED = 8
LOOSE = [("counter", "n"), ("child", "note"), ("log", "what")]
"""Columns that may be taken away."""

ids = st.integers(1, 3)
parents = st.integers(ALWAYS_THERE, 3)
small = st.integers(-9, 9)


def _set(id_: int, value: int) -> Change:
    return Change("counter", {"id": id_}, set={"label": "bad" if value < -6 else str(value)})


def _add(id_: int, value: int) -> Change:
    return Change("counter", {"id": id_}, add={"n": value})


def _max(id_: int, value: int) -> Change:
    return Change("counter", {"id": id_}, max={"high": value})


def _min(id_: int, value: int) -> Change:
    return Change("counter", {"id": id_}, min={"low": value})


def _log(what: int | None) -> Change:
    return Change("log", insert={"what": what})


def _parent(id_: int) -> Change:
    return Change("parent", {"id": id_}, {"name": "x"})


def _child(id_: int, parent: int) -> Change:
    return Change("child", {"id": id_}, {"parent": parent})


def _note(id_: int) -> Change:
    return Change("child", {"id": id_}, {"note": "y"})


def _delete(table: str, id_: int) -> Change:
    return Change(table, {"id": id_}, delete=True)


def event(*parts: st.SearchStrategy[Change]) -> st.SearchStrategy[tuple[Change, ...]]:
    return st.tuples(*parts)


what = st.one_of(small, st.none())
ours = st.integers(ALWAYS_THERE + 1, 3)
events = st.one_of(
    *(event(st.builds(make, ids, small)) for make in (_set, _add, _max, _min)),
    event(st.builds(_log, what)),
    event(st.builds(_parent, ours)),
    event(st.builds(_child, ids, parents)),
    event(st.builds(_note, ids)),
    event(st.builds(_delete, st.sampled_from(["counter", "child"]), ids)),
    event(st.builds(_delete, st.just("parent"), ours)),
    event(st.builds(_add, ids, small), st.builds(_log, what)),
    st.builds(lambda parent, child: (_parent(parent), _child(child, parent)), ours, ids),
)
flushers = st.sampled_from(["a", "b"])
deadly = st.sampled_from([step for step in Step if step.split(".")[0] not in {"write", "replay", "ingress"}])


class Machine(RuleBasedStateMachine):
    """One example: an empty Redis, empty tables, and rules in any order."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene
        scene.redis.flushall()
        scene.sql("DELETE FROM child; DELETE FROM parent; DELETE FROM counter; DELETE FROM log")
        scene.sql(f"INSERT INTO parent VALUES ({ALWAYS_THERE}, NULL)")
        scene.sql("DELETE FROM pipeline.batch; DELETE FROM pipeline.shard; DELETE FROM pipeline.dead_letter")
        self.config = scene.config(**SETTINGS)
        self.writer = Pipeline(self.config)
        self.puppets = {name: Puppet(scene, self.config) for name in ("a", "b")}
        self.names = {table: table for table in TABLES}
        self.columns_away: set[tuple[str, str]] = set()
        self.model = Model()
        # one who waits for everything, and looks when a rule says so
        self.now = 0.0
        lanes = RedisLanes(self.writer._wire, self.writer._topology, self.config)
        outcomes = PostgresOutcomes(self.writer._sessions, self.config)
        self.book = Waiting(lanes, outcomes, 1, lambda: self.now, BlockingBell)._book(threading.Lock())
        self.pruned = False
        self.waits: list[_ReceiptWatch] = []
        self.saved: deque[tuple[list[tuple[bytes, bytes]], Timeline]] = deque(maxlen=MOST_SAVED)

    # --- writing

    @rule(batch=st.lists(events, min_size=2, max_size=9))
    def write(self, batch: Sequence[tuple[Change, ...]]) -> None:
        self._save_redis()
        for event in batch:
            receipt = self.writer.write_group(event, shard_by="one")
            self.model.accept(receipt.event_id, event, duplicate=receipt.duplicate)
            self._wait(receipt)

    def _wait(self, receipt: Receipt) -> None:
        self.waits.append(_ReceiptWatch([receipt], BlockingBell()))
        self.book.enter(self.waits[-1])

    @rule(number=st.integers(1, 3))
    def write_under_an_id(self, number: int) -> None:
        event = (Change("counter", {"id": number}, add={"n": 100}),)
        receipt = self.writer.write_group(event, shard_by="one", event_id=f"once-{number}")
        self.model.accept(receipt.event_id, event, duplicate=receipt.duplicate, named=True)
        self._wait(receipt)

    @rule(seconds=st.sampled_from([0, 2]))
    def look_what_became_of_them(self, seconds: int) -> None:
        """With a hint of Redis, or after so long that PostgreSQL is asked anyway."""
        self.now += seconds
        run(self.book.look())

    @rule()
    def replay_dead_letters(self) -> None:
        last = self.writer.dead_letters.extent().last
        letters = {letter.id: letter for letter in self.writer.dead_letters.page(limit=1000)}
        for replayed in self.writer.replayer.replay_all(actor="test", last=last, force=True):
            assert replayed.outcome == "replayed", replayed
            assert replayed.event_id is not None
            changes = self.model.accepted[letters[replayed.id].event_id or ""].changes
            self.model.accept(replayed.event_id, changes, duplicate=False, named=True)

    # --- flushing

    @rule(name=flushers, steps=st.integers(1, 9))
    def advance(self, name: str, steps: int) -> None:
        self._save_redis()
        for _ in range(steps):
            if not self.puppets[name].advance():
                break

    @rule(name=flushers)
    def flush(self, name: str) -> None:
        self._save_redis()
        self.puppets[name].finish()

    @rule()
    def expire_the_lease(self) -> None:
        self.scene.redis.delete(self.scene.keys.lease)

    @rule(name=flushers, step=deadly, times=st.integers(1, 4))
    def kill(self, name: str, step: Step, times: int) -> None:
        """Kill it when it comes to ``step``, and its successors too; their leases expire."""
        for _ in range(times):
            self._save_redis()
            if not self.puppets[name].finish(step):
                return
            self.puppets[name].kill()
            self.puppets[name] = Puppet(self.scene, self.config)
            self.model.vanished += 1
            self.expire_the_lease()

    @rule(name=flushers, step=deadly)
    def disconnect_from_postgres(self, name: str, step: Step) -> None:
        """Terminate its connection when it comes to ``step``."""
        if self.puppets[name].finish(step):
            self.puppets[name].disconnect()
            self.model.vanished += 1

    # --- faults

    def _save_redis(self) -> None:
        self.saved.append((snapshot(self.scene.redis), self.model.timeline.copy()))

    @rule(far=st.integers(1, MOST_SAVED))
    def set_redis_back(self, far: int) -> None:
        if self.saved:
            state, timeline = self.saved[-min(far, len(self.saved))]
            restore(self.scene.redis, state)
            self.model.set_back(timeline)

    @rule(table=st.sampled_from(TABLES))
    def take_a_table_away_or_bring_it_back(self, table: str) -> None:
        if not any(puppet.in_transaction for puppet in self.puppets.values()):  # it would wait for them
            away = table + AWAY if self.names[table] == table else table
            self.scene.sql(f"ALTER TABLE {self.names[table]} RENAME TO {away}")
            self.names[table] = away

    @rule(place=st.sampled_from(LOOSE))
    def take_a_column_away_or_bring_it_back(self, place: tuple[str, str]) -> None:
        if not any(puppet.in_transaction for puppet in self.puppets.values()):
            self._move_column(place)

    def _move_column(self, place: tuple[str, str]) -> None:
        table, column = place
        here, there = (column + AWAY, column) if place in self.columns_away else (column, column + AWAY)
        self.scene.sql(f"ALTER TABLE {self.names[table]} RENAME COLUMN {here} TO {there}")
        self.columns_away ^= {place}

    @rule()
    def prune_the_ledger(self) -> None:
        """Only what no Redis and no flusher can bring back any more: that is what the retention promises."""
        sight = look(self.scene, self.names)
        if all(puppet.at is None for puppet in self.puppets.values()) and not self.model.comes_again(sight):
            self.saved.clear()
            self.model.forget(sight)
            self.scene.sql("UPDATE pipeline.batch SET applied_at = now() - interval '1 year'")
            self.writer.ledger.prune()
            self.pruned = True

    # --- what must hold

    @invariant()
    def the_laws_hold(self) -> None:
        sight = look(self.scene, self.names)
        self.model.check(sight)
        self._check_outcomes(sight)

    def _check_outcomes(self, sight: Sight, *, looked: bool = False) -> None:
        """Nothing is said of an event that is not so; if one has ``looked`` just now, all that is known is said."""
        recorded = {event for _, events in sight.batches for event in events}
        letters = {letter.event for letter in sight.letters}
        for watch in self.waits:
            (entry,) = watch.entries
            known = entry.event_id in recorded
            if entry.outcome == Outcome.APPLIED:
                assert self.pruned or known, entry.event_id
                assert entry.event_id not in letters
            elif entry.outcome == Outcome.DEAD:
                assert entry.event_id in letters
            elif looked:
                assert not known, entry.event_id

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            for puppet in self.puppets.values():
                puppet.kill()
            self._bring_everything_back()
            self.writer.close()

    def _bring_everything_back(self) -> None:
        for place in list(self.columns_away):
            self._move_column(place)
        for table, name in self.names.items():
            if name != table:
                self.scene.sql(f"ALTER TABLE {name} RENAME TO {table}")
                self.names[table] = table

    def _drain(self) -> None:
        for puppet in self.puppets.values():
            if puppet.at is not None:
                puppet.finish()
        self._bring_everything_back()
        self.expire_the_lease()
        for _ in range(FLUSHES_TO_DRAIN):
            if not self.writer.shards_to_flush() and not self.writer.status().pending:
                break
            self.writer.flush_shard(0)
        sight = look(self.scene, self.names)
        self.model.check_drained(sight)
        self.now += 2
        while run(self.book.look()):
            pass
        self._check_outcomes(sight, looked=True)
        assert self.scene.redis.keys("pipeline.held.*") == []


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(0)  # a failure takes minutes to be made small
def test_the_laws_hold_whatever_happens_in_whatever_order(scene: Scene) -> None:
    for statement in SCHEMA:
        scene.sql(statement)

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(scene)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=3 * settings().max_examples, stateful_step_count=40, derandomize=False, print_blob=True
        ),
    )
