"""The size of batches follows what PostgreSQL can do."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline import Config
from pipeline.core.pace import Pace, next_size

paces = st.builds(Pace, st.integers(1, 100_000), st.floats(0.01, 10))
seconds = st.one_of(st.floats(0, 100), st.just(math.inf))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Pace, int, int, float]:
    """A pace, a size that it may have come to, and what a batch took that may have been frozen by somebody else."""
    pace = draw(paces)
    size = draw(st.integers(pace.least, pace.most))
    return pace, size, draw(st.integers(0, pace.most)), draw(seconds)


@given(batches())
def test_a_batch_is_never_smaller_than_the_least_nor_larger_than_the_most(batch: tuple[Pace, int, int, float]) -> None:
    pace, *_ = batch
    assert pace.least <= next_size(*batch) <= pace.most


@given(paces, st.data())
def test_a_batch_that_takes_longer_than_the_target_halves_the_next(pace: Pace, data: st.DataObject) -> None:
    size = data.draw(st.integers(pace.least, pace.most))
    events = data.draw(st.integers(0, size))
    too_long = data.draw(st.floats(min_value=pace.target_seconds, exclude_min=True))
    assert next_size(pace, size, events, too_long) == max(pace.least, events // 2)


@given(paces, st.data())
def test_only_a_batch_that_was_full_and_quick_makes_the_next_one_larger(pace: Pace, data: st.DataObject) -> None:
    size = data.draw(st.integers(pace.least, pace.most))
    events = data.draw(st.integers(0, size))
    took = data.draw(st.floats(0, pace.target_seconds))
    larger = next_size(pace, size, events, took)
    if events < size:
        assert larger == size
    elif took <= pace.target_seconds / (1 + pace.step / size) * 0.999:
        assert larger == min(size + pace.step, pace.most)
    else:
        assert larger in {size, min(size + pace.step, pace.most)}


@given(
    paces,
    st.integers(1, 1_000_000),
    st.floats(0, 0.2),
    st.data(),
)
def test_sizes_come_to_rest_where_the_database_just_keeps_the_target(
    pace: Pace, per_second: int, overhead: float, data: st.DataObject
) -> None:
    def took(events: int) -> float:
        return (overhead + events / per_second) * pace.target_seconds

    size = data.draw(st.integers(pace.least, pace.most))
    for _ in range(60):  # log2(50) halvings at most, and then twenty steps
        size = next_size(pace, size, size, took(size))
    assert next_size(pace, size, size, took(size)) == size
    assert took(size) <= pace.target_seconds or size == pace.least
    assert took(size) * (size + pace.step) > pace.target_seconds * size or size == pace.most
    fits = math.floor((1 - overhead) * per_second)  # more would take too long
    assert size >= min(pace.most, fits // 2 - pace.step)


def test_a_trickle_leaves_large_batches_to_the_next_backlog() -> None:
    pace = Pace(5000, 1.0)
    size = pace.most
    for _ in range(100):
        size = next_size(pace, size, 3, 0.004)
    assert size == 5000


def test_an_hour_of_slowness_is_forgotten_after_a_few_full_batches() -> None:
    pace = Pace(5000, 1.0)
    size = pace.most
    for _ in range(3600):
        size = next_size(pace, size, size, 20.0)
    assert size == pace.least == 100
    for _ in range(20):
        size = next_size(pace, size, size, 0.01)
    assert size == 5000


def test_batches_become_smaller_before_they_run_into_the_statement_timeout() -> None:
    assert Config(commit_target_seconds=3.0).pace == Pace(5000, 3.0)
    assert Config(commit_target_seconds=3.0, statement_timeout_seconds=2.0, batch_size=7).pace == Pace(7, 1.0)
