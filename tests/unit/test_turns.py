"""What the numbers of the events in a batch say about their order."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.change import Event
from pipeline.core.claim import Claimed
from pipeline.core.turns import Gap, displaced_of, first_gap, order_of, turns_of


def batch(*numbers: int | None) -> list[Event]:
    return [Event("e", (), (), seq=number) for number in numbers]


def claim(settled: int | None, accepted: int = 1000, *, resumed: bool = False) -> Claimed:
    return Claimed(0, "id", 1, 0, 0, (), settled=settled, accepted=accepted, resumed=resumed)


def gap(settled: int | None, *numbers: int | None, resumed: bool = False) -> Gap | None:
    entries, claimed = batch(*numbers), claim(settled, resumed=resumed)
    return first_gap(entries, turns_of(entries, claimed), claimed)


def test_consecutive_numbers_have_no_gap() -> None:
    assert gap(3, 4, 5, 6) is None


def test_a_gap_before_the_batch_keeps_nothing() -> None:
    assert gap(3, 6, 7) == Gap(keep=0, first=4, last=5, passed=5)


def test_what_stands_before_a_gap_is_kept() -> None:
    assert gap(3, 4, None, 5, 7) == Gap(keep=3, first=6, last=6, passed=3)


def test_what_was_settled_or_has_no_number_or_an_invented_one_makes_no_gap() -> None:
    assert gap(3, 2, None, 4, 5000, 5) is None


def test_events_that_were_set_aside_have_gaps_and_are_not_displaced() -> None:
    assert gap(9, 2, 5, resumed=True) is None
    assert displaced_of(batch(2, 5), claim(9, resumed=True)) == frozenset()


def test_before_anything_is_known_nothing_is_missing() -> None:
    assert gap(None, 7, 9) is None
    assert displaced_of(batch(7), claim(None)) == frozenset()


def test_events_whose_turn_was_over_are_displaced() -> None:
    assert displaced_of(batch(2, None, 4), claim(3)) == {0}


def test_a_batch_that_holds_earlier_events_behind_the_gap_is_not_cut() -> None:
    assert gap(0, 2, 1, 4) == Gap(keep=2, first=3, last=3, passed=0)
    assert gap(0, 1, 4, 2) == Gap(keep=0, first=3, last=3, passed=0)


@given(st.lists(st.integers(1, 50), unique=True))
def test_turns_follow_the_numbers(numbers: list[int]) -> None:
    turns = turns_of(batch(*numbers), claim(0))
    assert [numbers[position] for position in turns] == sorted(numbers)


@given(st.lists(st.none() | st.integers(1, 50)))
def test_every_entry_has_one_turn(numbers: list[int | None]) -> None:
    assert sorted(turns_of(batch(*numbers), claim(0))) == list(range(len(numbers)))


@given(
    st.lists(st.none() | st.integers(1, 9), max_size=6) | st.integers(1, 5).map(lambda first: list(range(first, 9))),
    st.none() | st.integers(0, 6),
    st.integers(0, 9),
    st.booleans(),
)
def test_what_is_seen_at_once_is_what_each_question_finds(
    numbers: list[int | None],
    settled: int | None,
    accepted: int,
    resumed: bool,  # noqa: FBT001
) -> None:
    entries, claimed = batch(*numbers), claim(settled, accepted, resumed=resumed)
    turns, gap, displaced = order_of(entries, claimed)
    assert list(turns) == list(turns_of(entries, claimed))
    assert gap == first_gap(entries, turns_of(entries, claimed), claimed)
    assert displaced == displaced_of(entries, claimed)


def test_a_batch_that_begins_with_what_was_settled_is_not_taken_for_one_in_order() -> None:
    assert order_of(batch(3, 4), claim(3)).displaced == {0}
    assert order_of(batch(5, 6), claim(3)).gap == Gap(keep=0, first=4, last=4, passed=4)
    assert order_of(batch(4, 5), claim(3)) == (range(2), None, frozenset())
