"""The size of batches follows what PostgreSQL can do."""

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from pipeline import Config
from pipeline.core.pace import Pace, Size, next_size

paces = st.builds(Pace, st.integers(1, 100_000), st.floats(0.01, 10))
seconds = st.one_of(st.floats(0, 100), st.just(math.inf))

Server = Callable[[int], float]
"""How many seconds it takes for a batch of so many events."""


def server(fixed_seconds: float, per_second: float) -> Server:
    return lambda events: fixed_seconds + events / per_second


def backlog(pace: Pace, size: Size, took: Server, batches: int) -> tuple[Size, list[int]]:
    """Full batches, one after the other: the size after them, and how many events each of them had."""
    sizes = []
    for _ in range(batches):
        sizes.append(size.events)
        size = next_size(pace, size, size.events, took(size.events))
    return size, sizes


def throughput(took: Server, sizes: list[int]) -> float:
    return sum(sizes) / sum(map(took, sizes))


@st.composite
def learned(draw: st.DrawFn, pace: Pace) -> Size:
    """What anything that happened before may have led to."""
    size = Size(pace.most)
    for events, took in draw(st.lists(st.tuples(st.integers(0, pace.most), seconds), max_size=12)):
        size = next_size(pace, size, events, took)
    return size


# --- one batch --------------------------------------------------------------------------------------------------------


@given(paces, st.data())
def test_a_batch_is_never_smaller_than_the_least_nor_larger_than_the_most(pace: Pace, data: st.DataObject) -> None:
    assert pace.least <= data.draw(learned(pace)).events <= pace.most


@given(paces, st.data())
def test_a_batch_that_takes_longer_than_the_target_halves_the_size_however_little_was_in_it(
    pace: Pace, data: st.DataObject
) -> None:
    size = data.draw(st.integers(pace.least, pace.most))
    events = data.draw(st.integers(1, size))
    too_long = data.draw(st.floats(min_value=pace.target_seconds, exclude_min=True))
    assert next_size(pace, Size(size), events, too_long).events == max(pace.least, size // 2)


@given(paces, st.data())
def test_only_a_batch_that_was_full_and_quick_makes_the_next_one_larger(pace: Pace, data: st.DataObject) -> None:
    size = data.draw(st.integers(pace.least, pace.most))
    events = data.draw(st.integers(1, size))
    took = data.draw(st.floats(0, pace.target_seconds))
    larger = next_size(pace, Size(size), events, took).events
    if events < size:
        assert larger == size
    elif took <= pace.target_seconds / (1 + pace.step / size) * 0.899:
        assert larger == min(size + pace.step, pace.most)
    else:
        assert size <= larger <= min(size + pace.step, pace.most)
        assert larger == size or took * larger <= pace.target_seconds * size


@given(paces, st.data())
def test_a_batch_of_which_nothing_had_to_be_written_says_nothing(pace: Pace, data: st.DataObject) -> None:
    size = data.draw(learned(pace))
    assert next_size(pace, size, 0, data.draw(seconds)) == size


def test_one_slow_commit_of_one_event_costs_ten_batches_half_of_their_events_and_no_more() -> None:
    pace = Pace(5000, 1.0)
    size = next_size(pace, Size(pace.most), 1, 30.0)
    size, sizes = backlog(pace, size, server(0.01, 30_000), 10)
    assert (min(sizes), size.events) == (2500, 5000)


def test_a_trickle_leaves_large_batches_to_the_next_backlog() -> None:
    pace = Pace(5000, 1.0)
    size = Size(pace.most)
    for _ in range(100):
        size = next_size(pace, size, 3, 0.004)
    assert size.events == 5000


# --- many batches -----------------------------------------------------------------------------------------------------


@given(st.integers(50, 100_000), st.floats(0.01, 10), st.integers(1, 1_000_000))
def test_a_database_that_takes_as_long_as_there_are_events_keeps_the_target(
    most: int, target: float, per_target: int
) -> None:
    pace = Pace(most, target)
    took = server(0.0, per_target / target)
    size, _ = backlog(pace, Size(most), took, 60)  # log2(50) halvings at most, and then twenty steps
    _, sizes = backlog(pace, size, took, 200)
    late = [n for n in sizes if took(n) > target * 1.000001]
    assert all(n == pace.least for n in late) or (took(pace.least) > target and late.count(2 * pace.least) <= 4)
    assert min(sizes) >= min(most, math.floor(0.8 * per_target) - 2)


@given(st.floats(0, 20), st.floats(math.log(200), math.log(1_000_000)), st.floats(0.01, 10))
def test_what_is_written_in_a_second_comes_near_to_the_most_that_the_target_allows_or_else_the_database(
    fixed: float, log_per_target: float, target: float
) -> None:
    per_target = math.exp(log_per_target)  # in units of the target, as ``fixed``
    took = server(fixed * target, per_target / target)
    pace = Pace(5000, target)
    size, _ = backlog(pace, Size(pace.most), took, 60)
    _, sizes = backlog(pace, size, took, 300)
    keeping = math.floor((1 - fixed) * per_target)
    best = min(pace.most, keeping) if keeping >= 1 else pace.most
    assert throughput(took, sizes) >= 0.6 * throughput(took, [best])


@given(st.floats(0, 0.66), st.floats(math.log(500), math.log(1_000_000)))
def test_the_target_is_kept_where_a_third_of_it_is_left_to_the_events(fixed: float, log_per_second: float) -> None:
    pace = Pace(5000, 1.0)
    took = server(fixed, math.exp(log_per_second))
    size, _ = backlog(pace, Size(pace.most), took, 60)
    _, sizes = backlog(pace, size, took, 300)
    assert all(took(n) <= 1.000001 for n in sizes)


@given(st.floats(0.7, 20), st.floats(math.log(500), math.log(1_000_000)))
def test_where_it_cannot_be_kept_no_commit_takes_more_than_three_times_what_it_has_to(
    fixed: float, log_per_second: float
) -> None:
    pace = Pace(5000, 1.0)
    took = server(fixed, math.exp(log_per_second))
    size, _ = backlog(pace, Size(pace.most), took, 60)
    _, sizes = backlog(pace, size, took, 300)
    assert all(took(n) <= 3.000001 * fixed for n in sizes)


def test_events_do_not_run_into_the_statement_timeout_though_every_commit_is_slow() -> None:
    pace = Pace(5000, 1.0, 2.0)
    took = server(4.0, 1000)
    size, _ = backlog(pace, Size(pace.most), took, 60)
    _, sizes = backlog(pace, size, took, 300)
    assert 1200 <= max(sizes) <= 2000


@given(st.data())
def test_whatever_was_learned_large_batches_are_back_when_the_database_is_quick(data: st.DataObject) -> None:
    pace = Pace(5000, 1.0)
    size, _ = backlog(pace, data.draw(learned(pace)), server(0.001, 100_000), 25)
    assert size.events == 5000


@given(st.data())
def test_whatever_was_learned_the_target_is_kept_when_the_database_is_slow_and_it_can_be(data: st.DataObject) -> None:
    pace = Pace(5000, 1.0)
    took = server(0.01, 2000)
    size, _ = backlog(pace, data.draw(learned(pace)), took, 90)
    _, sizes = backlog(pace, size, took, 100)
    assert all(took(n) <= 1.000001 for n in sizes)


def test_an_hour_of_slowness_is_forgotten_after_a_few_full_batches() -> None:
    pace = Pace(5000, 1.0)
    size, sizes = backlog(pace, Size(pace.most), server(0.0, 5), 3600)
    assert min(sizes) == pace.least == 100
    assert throughput(server(0.0, 1), sizes[10:]) < 105  # once in a while a larger one is tried
    size, _ = backlog(pace, size, server(0.0, 10_000_000), 20)
    assert size.events == 5000


def test_the_smallest_batches_become_larger_when_every_commit_turns_out_to_be_slow() -> None:
    pace = Pace(5000, 1.0)
    size, sizes = backlog(pace, Size(pace.most), server(0.0, 5), 20)
    assert sizes[-1] == 100
    size, _ = backlog(pace, size, server(1.1, 30_000), 100)
    assert size.events == 5000


def test_batches_become_smaller_before_they_run_into_the_statement_timeout() -> None:
    assert Config(commit_target_seconds=3.0).pace == Pace(5000, 3.0, 15.0)
    assert Config(commit_target_seconds=3.0, statement_timeout_seconds=2.0, batch_size=7).pace == Pace(7, 1.0, 1.0)
