"""Between any two steps of two flushers, and after anything that may happen to them, a read says what it must."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from pipeline import Change
from pipeline.telemetry import Step
from tests.faults.model import SCHEMA, State, look
from tests.faults.test_stateful import MOST_SAVED, Machine, event, flushers, ids, small
from tests.integration.scene import Scene, restore

values = small.map(abs)  # what the table refuses is seen until it is refused: that is another test's
change = st.one_of(
    st.builds(lambda id_, n: Change("counter", {"id": id_}, set={"n": n}), ids, values),
    st.builds(lambda id_, n: Change("counter", {"id": id_}, add={"n": n}), ids, values),
    st.builds(lambda id_, n: Change("counter", {"id": id_}, max={"n": n}), ids, values),
    st.builds(lambda id_, n: Change("counter", {"id": id_}, min={"low": n}), ids, values),
    st.builds(lambda id_, n: Change("counter", {"id": id_}, set={"label": str(n)}, add={"n": n}), ids, values),
    st.builds(lambda id_: Change("counter", {"id": id_}, delete=True), ids),
)


class Reading(Machine):
    """The machine of `tests.faults.test_stateful`, which also reads."""

    @rule(batch=st.lists(event(change), min_size=1, max_size=5))
    def write(self, batch: Sequence[tuple[Change, ...]]) -> None:
        self._save_redis()
        for changes in batch:
            receipt = self.writer.write_group(changes, shard_by="one")
            self.model.accept(receipt.event_id, changes, duplicate=receipt.duplicate)

    @rule(far=st.integers(1, MOST_SAVED))
    def set_redis_back(self, far: int) -> None:
        if self.saved:
            state, timeline = self.saved[-min(far, len(self.saved))]
            # only a restart sets Redis back, and after one nothing is believed that was cached before
            restore(self.scene.redis, [(key, value) for key, value in state if not key.startswith(b"pipeline.row.")])
            self.model.set_back(timeline)

    @rule(keys=st.lists(ids, min_size=1, max_size=3, unique=True))
    def read(self, keys: list[int]) -> None:
        self._check_reads(keys)

    @rule(keys=st.lists(ids, min_size=1, max_size=3, unique=True))
    def evict_and_read(self, keys: list[int]) -> None:
        for key in keys:
            self.scene.redis.delete(f"{self.scene.keys.row}counter:id={key}")
        self._check_reads(keys)

    @rule(name=flushers, keys=st.lists(ids, min_size=1, max_size=3, unique=True))
    def read_while_an_acknowledgement_is_missing(self, name: str, keys: list[int]) -> None:
        self._save_redis()
        if self.puppets[name].finish(Step.COMMITTED):
            self.evict_and_read(keys)

    def _check_reads(self, keys: list[int]) -> None:
        if self.names["counter"] != "counter" or ("counter", "n") in self.columns_away:
            return  # the row is what it is then, without the column, or cannot be told
        rows = self.writer.read_many("counter", [{"id": key} for key in keys], shard_by="one")
        sight = look(self.scene, self.names)
        applied = self.model._places(sight)
        dead = {letter.event for letter in sight.letters}
        for key, row in zip(keys, rows, strict=True):
            pending = sight.overlays.get(f"counter:id={key}", ())
            if dead.isdisjoint(pending):  # else: refused, and not acknowledged yet
                expected = self._expected(key, sight.rows["counter"].get(key), pending, applied)
                assert row == expected, f"row {key}: read {row} instead of {expected}"

    def _expected(
        self, key: int, stored: dict[str, Any] | None, pending: Sequence[str], applied: Container[str]
    ) -> dict[str, Any] | None:
        state = State()
        state.keyed["counter"] = {} if stored is None else {key: dict(stored)}
        for name in dict.fromkeys(pending):
            if name not in applied:
                for change in self.model.accepted[name].changes:
                    if change.table == "counter" and change.key["id"] == key:
                        state.apply(change)
        row = state.keyed["counter"].get(key)
        return None if row is None else {"id": key, **row}


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(0)  # a failure takes minutes to be made small
def test_a_read_says_what_it_must_whatever_happens_in_whatever_order(scene: Scene) -> None:
    for statement in SCHEMA:
        scene.sql(statement)

    class Here(Reading):
        def __init__(self) -> None:
            super().__init__(scene)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=settings().max_examples, stateful_step_count=40, derandomize=False, print_blob=True
        ),
    )
