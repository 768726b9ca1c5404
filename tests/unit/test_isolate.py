"""Bisection finds the bad events of a batch, and only those, and applies all the others in order."""

import gc
import math
import weakref
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Event
from pipeline.core.isolate import isolate
from pipeline.driving import run


def events(count: int) -> list[Event]:
    return [Event(str(number), (), ()) for number in range(count)]


class Store:
    """Applies events all or nothing. Some are bad by themselves; some pairs fail only when they are applied at once."""

    def __init__(self, bad: set[int], quarrels: Sequence[frozenset[int]] = ()) -> None:
        self.bad = {str(number) for number in bad}
        self.quarrels = [frozenset(map(str, pair)) for pair in quarrels]
        self.applied: list[str] = []
        self.attempts = 0

    async def attempt(self, part: Sequence[Event]) -> str | None:
        self.attempts += 1
        ids = [event.id for event in part]
        for event in ids:
            if event in self.bad:
                return f"{event} is bad"
        for quarrel in self.quarrels:
            if quarrel <= set(ids):
                return f"{sorted(quarrel)} do not fit together"
        self.applied += ids
        return None

    async def attempt_alone(self, event: Event) -> str | None:
        return await self.attempt([event])

    def isolate(self, part: Sequence[Event]) -> list[tuple[str, str]]:
        return [(event.id, finding) for event, finding in run(isolate(part, self.attempt, self.attempt_alone))]


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, set[int]]:
    count = draw(st.integers(0, 200))
    return count, draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=min(count, 8)))


@given(batches())
def test_it_finds_exactly_the_bad_events_and_applies_the_others_in_order(batch: tuple[int, set[int]]) -> None:
    count, bad = batch
    store = Store(bad)
    assert store.isolate(events(count)) == [(str(number), f"{number} is bad") for number in sorted(bad)]
    assert store.applied == [str(number) for number in range(count) if number not in bad]


@given(batches())
def test_the_attempts_grow_with_the_bad_events_and_not_with_the_good_ones(batch: tuple[int, set[int]]) -> None:
    count, bad = batch
    store = Store(bad)
    store.isolate(events(count))
    if not bad:
        assert store.attempts == (1 if count else 0)
    else:
        assert store.attempts <= len(bad) * (2 * math.ceil(math.log2(count)) + 2)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 3000])
def test_one_bad_event_costs_no_more_attempts_than_promised(count: int) -> None:
    worst = 0
    for number in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        store = Store({number})
        assert len(store.isolate(events(count))) == 1
        worst = max(worst, store.attempts)
    assert worst <= 2 * math.ceil(math.log2(count)) + 2


def test_a_half_is_not_tried_as_a_whole_when_the_other_one_was_good() -> None:
    store = Store({7})
    store.isolate(events(8))
    assert store.attempts == 1 + 3 + 1  # everything; the good first half, three times; the last event alone


def test_one_poison_event_in_three_thousand_costs_at_most_25_attempts_more() -> None:
    for number in range(0, 3000, 61):
        store = Store({number})
        store.isolate(events(3000))
        assert store.attempts - 1 <= 25


def test_a_good_batch_costs_one_attempt() -> None:
    store = Store(set())
    assert store.isolate(events(5000)) == []
    assert store.attempts == 1


def test_an_empty_batch_is_not_even_tried() -> None:
    store = Store(set())
    assert store.isolate([]) == []
    assert store.attempts == 0


def test_who_has_applied_a_batch_does_not_stay_in_memory_until_the_collector_comes() -> None:
    store = Store({3})
    watched = weakref.ref(store)
    gc.disable()
    try:
        assert store.isolate(events(8)) == [("3", "3 is bad")]
        del store
        assert watched() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("pair", list(combinations(range(8), 2)))
def test_events_that_fail_only_together_are_not_buried(pair: tuple[int, int]) -> None:
    store = Store(set(), [frozenset(pair)])
    assert store.isolate(events(8)) == []
    assert store.applied == [str(number) for number in range(8)]


@given(batches(), st.lists(st.frozensets(st.integers(0, 199), min_size=2, max_size=2), max_size=5))
def test_a_quarrel_hides_no_bad_event(batch: tuple[int, set[int]], quarrels: list[frozenset[int]]) -> None:
    count, bad = batch
    store = Store(bad, quarrels)
    assert [int(event) for event, _ in store.isolate(events(count))] == sorted(bad)
    assert store.applied == [str(number) for number in range(count) if number not in bad]


def test_an_event_that_fails_in_a_batch_but_not_change_by_change_is_applied() -> None:
    store = Store({3})

    async def apply_alone(event: Event) -> None:
        store.applied.append(event.id)

    assert run(isolate(events(8), store.attempt, apply_alone)) == []
    assert store.applied == [str(number) for number in range(8)]


def test_what_is_no_events_fault_ends_everything() -> None:
    class Outage(Exception):
        pass

    store = Store({5})

    async def attempt(part: Sequence[Event]) -> str | None:
        if len(part) == 1:
            raise Outage
        return await store.attempt(part)

    with pytest.raises(Outage):
        run(isolate(events(8), attempt, store.attempt_alone))
