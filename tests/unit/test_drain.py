"""How fast a shard is drained, how long that takes, and how long a writer waits for room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.drain import LATELY_SECONDS, Drained, drain_seconds, pause, rate

rates = st.none() | st.floats(1e-6, 1e9)
tries = st.integers(0, 10**6)
draws = st.floats(0, 1, exclude_max=True)


def test_the_rate_is_events_by_the_time_in_which_they_were_drained() -> None:
    assert rate(Drained(3000, 30.0, 50.0, 0.5)) == 100


def test_a_batch_that_takes_longer_than_what_is_remembered_slows_the_estimate_down() -> None:
    assert rate(Drained(3000, 30.0, 60.0, 60.0)) == 50


@pytest.mark.parametrize(
    "drained",
    [None, Drained(3000, 30.0, LATELY_SECONDS + 1), Drained(0.0, 30.0, 0.0), Drained(3000, 0.0, 0.0)],
    ids=["never", "not lately", "only set aside", "in no time"],
)
def test_nobody_knows_the_rate_of_a_shard_that_was_not_drained(drained: Drained | None) -> None:
    assert rate(drained) is None


@given(st.integers(1, 10**9), st.floats(1e-6, 1e9))
def test_the_drain_takes_what_is_pending_at_the_rate(pending: int, per_second: float) -> None:
    assert drain_seconds(pending, per_second) == pytest.approx(pending / per_second)


def test_nothing_is_drained_at_once_and_something_at_no_rate_nobody_knows_when() -> None:
    assert drain_seconds(0, None) == 0
    assert drain_seconds(1, None) is None


@given(st.integers(1, 10**9), rates, tries, draws)
def test_a_pause_is_never_a_busy_loop_and_never_long(
    lacking: int, per_second: float | None, vain: int, draw: float
) -> None:
    assert 0.01 <= pause(lacking, per_second, vain, draw) <= 0.25


@given(st.integers(1, 10**9), rates, tries)
def test_pauses_have_full_jitter(lacking: int, per_second: float | None, vain: int) -> None:
    shortest, middle, longest = (pause(lacking, per_second, vain, draw) for draw in (0.0, 0.5, 1.0))
    assert shortest == pytest.approx(0.01)
    assert middle == pytest.approx((shortest + longest) / 2)


@pytest.mark.parametrize(
    ("lacking", "per_second", "vain", "longest"),
    [
        (1, 200.0, 0, 0.01),
        (20, 200.0, 0, 0.1),
        (250, 200.0, 0, 0.25),
        (1, None, 0, 0.25),
        (250, 1e6, 0, 0.01),
        (1, 200.0, 3, 0.08),
        (20, 200.0, 1, 0.2),
        (1, 1e9, 5, 0.25),
    ],
)
def test_the_longest_pause_is_the_drain_of_what_lacks_room_doubled_after_each_try(
    lacking: int, per_second: float | None, vain: int, longest: float
) -> None:
    assert pause(lacking, per_second, vain, 1.0) == pytest.approx(longest)
