"""What an error means, what follows from it, and when to try again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.failure import Meaning, classify
from pipeline.core.retry import RetryPolicy, delay
from pipeline.core.verdict import Bury, Halve, Leave, Retry, judge_crash, judge_failure

POLICY = RetryPolicy(base_seconds=0.2, cap_seconds=30.0, attempts=5)

# --- what an error means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meaning", "sqlstates"),
    [
        (Meaning.OUTAGE, ["08000", "08006", "08P01", "53100", "53200", "53300", "55P03", "55006", "57P01", "57P02"]),
        (
            Meaning.OUTAGE,
            ["57P03", "57P05", "58000", "58030", "25P03", "25P04", "25006", "HV000", "HV00N", "XX001", "XX002"],
        ),
        (Meaning.TIMEOUT, ["57014"]),
        (Meaning.CONFLICT, ["40001", "40P01", "25P02"]),
        (Meaning.POISON, ["22001", "22003", "22008", "22P02", "22021", "2200H", "23502", "23505", "23514", "23P01"]),
        (Meaning.POISON, ["21000", "54000", "54001"]),
        (Meaning.PARENT_MISSING, ["23503"]),
        (Meaning.SYSTEMIC, ["42P01", "42703", "42501", "42804", "42809", "42P10", "0A000", "28000", "28P01", "3D000"]),
        (Meaning.SYSTEMIC, ["3F000", "55000", "42883", "42704", "42P02"]),
        (Meaning.UNKNOWN, ["XX000", "P0001", "42601", "57000", "25001", "40002", "0A001", "", "2", "57", "ZZZZZ"]),
    ],
)
def test_the_meaning_of_a_sqlstate_is_in_the_table(meaning: Meaning, sqlstates: list[str]) -> None:
    assert {state: classify(state) for state in sqlstates} == dict.fromkeys(sqlstates, meaning)


def test_no_sqlstate_is_a_broken_connection() -> None:
    assert classify(None) is Meaning.OUTAGE


@given(st.text(max_size=6))
def test_whatever_comes_has_a_meaning(sqlstate: str) -> None:
    assert classify(sqlstate) in Meaning


@given(st.text("0123456789ABCDEFP", min_size=3, max_size=3))
def test_the_longest_known_beginning_wins(rest: str) -> None:
    assert classify("23" + rest) is (Meaning.PARENT_MISSING if rest == "503" else Meaning.POISON)


# --- when to try again ------------------------------------------------------------------------------------------------

draws = st.floats(0, 1, exclude_max=True)


@given(st.integers(-3, 10**6), draws)
def test_a_delay_is_between_a_tenth_of_its_ceiling_and_its_ceiling(failures: int, draw: float) -> None:
    ceiling = min(30.0, 0.2 * 2.0 ** min(max(failures - 1, 0), 60))
    assert ceiling * 0.0999 <= delay(POLICY, failures, draw) <= ceiling


def test_the_ceiling_doubles_until_the_cap() -> None:
    almost = math.nextafter(1, 0)
    assert [round(delay(POLICY, failures, almost), 3) for failures in range(1, 11)] == [
        0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0,
    ]  # fmt: skip


def test_flushers_that_an_outage_has_aligned_spread_again_at_the_cap() -> None:
    assert delay(POLICY, 100, 0.0) == pytest.approx(3.0)
    assert delay(POLICY, 100, 0.5) == pytest.approx(16.5)


@pytest.mark.parametrize("failures", [1, 1024, 10**9, 10**400])
def test_however_many_failures_there_were_the_delay_is_finite(failures: int) -> None:
    assert 0 < delay(RetryPolicy(cap_seconds=1e300), failures, 0.5) < math.inf


# --- what follows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "failures", "events", "verdict"),
    [
        (0, 0, 5000, None),
        (1, 1, 5000, None),  # it ended with an error, and not with a dead flusher
        (1, 0, 5000, Halve()),
        (4, 3, 2, Halve()),
        (2, 0, 1, None),
        (99, 97, 1, None),
        (99, 99, 1, None),
    ],
)
def test_a_batch_over_which_a_flusher_died_is_halved(begun: int, failures: int, events: int, verdict: object) -> None:
    assert judge_crash(begun, failures, events) == verdict


def test_an_event_over_which_flushers_keep_dying_is_buried() -> None:
    verdict = judge_crash(5, 2, 1)
    assert isinstance(verdict, Bury)
    assert verdict.reason.startswith("3 flushers")


@pytest.mark.parametrize("meaning", [meaning for meaning in Meaning if meaning is not Meaning.BUSY])
@given(failures=st.integers(1, 10**6), events=st.integers(1, 5000), draw=draws)
def test_no_failure_ever_gives_a_batch_up(meaning: Meaning, failures: int, events: int, draw: float) -> None:
    verdict = judge_failure(meaning, failures, events, POLICY, draw)
    if isinstance(verdict, Halve):
        assert meaning is Meaning.TIMEOUT
        assert events > 1
    else:
        assert isinstance(verdict, Retry)
        assert 0 <= verdict.seconds <= POLICY.cap_seconds


@pytest.mark.parametrize(
    ("meaning", "failures", "events", "verdict"),
    [
        (Meaning.BUSY, 1, 10, Leave()),
        (Meaning.BUSY, 99, 1, Leave()),
        (Meaning.CONFLICT, 1, 10, Retry(0.0)),
        (Meaning.CONFLICT, 2, 10, Retry(delay(POLICY, 2, 0.5))),
        (Meaning.TIMEOUT, 1, 10, Retry(delay(POLICY, 1, 0.5))),
        (Meaning.TIMEOUT, 2, 10, Halve()),
        (Meaning.TIMEOUT, 9, 1, Retry(delay(POLICY, 9, 0.5))),
        (Meaning.OUTAGE, 9, 10, Retry(delay(POLICY, 9, 0.5))),
        (Meaning.SYSTEMIC, 9, 10, Retry(delay(POLICY, 9, 0.5))),
    ],
)
def test_what_follows_from_a_failure(meaning: Meaning, failures: int, events: int, verdict: object) -> None:
    assert judge_failure(meaning, failures, events, POLICY, 0.5) == verdict
