"""An outcome compares by what became of the event, and says why."""

import pickle

import pytest

from pipeline import AsyncReceipt, Outcome, Receipt

DEAD = Outcome("dead", "value too long", "22001", 7)


def named(outcome: Outcome) -> str:
    match outcome:
        case Outcome.APPLIED:
            return "applied"
        case Outcome.DEAD:
            return f"dead of {outcome.reason}"
        case _:
            return "pending"


def test_an_outcome_equals_its_kind_whatever_its_reason() -> None:
    assert DEAD == Outcome.DEAD
    assert DEAD != Outcome.APPLIED
    assert len({DEAD, Outcome.DEAD, Outcome.APPLIED, Outcome.PENDING}) == 3
    assert DEAD != "dead"


def test_an_outcome_can_be_matched() -> None:
    assert [named(one) for one in (Outcome.APPLIED, DEAD, Outcome.PENDING)] == [
        "applied", "dead of value too long", "pending",
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_outcome_survives_pickle_with_its_facts(protocol: int) -> None:
    for outcome in (Outcome.APPLIED, Outcome.PENDING):
        assert pickle.loads(pickle.dumps(outcome, protocol)) is outcome  # noqa: S301 - our own bytes
    copy = pickle.loads(pickle.dumps(DEAD, protocol))  # noqa: S301
    assert (copy.reason, copy.sqlstate, copy.dead_letter) == ("value too long", "22001", 7)


def test_an_outcome_shows_what_it_knows() -> None:
    assert repr(Outcome.APPLIED) == "Outcome.APPLIED"
    assert repr(DEAD) == "<Outcome.DEAD: reason='value too long', sqlstate='22001', dead_letter=7>"
    assert [str(Outcome.PENDING), str(DEAD)] == ["pending", "dead: value too long"]


def test_receipts_of_the_same_event_are_equal() -> None:
    assert Receipt("a", 0, 1) == Receipt("a", 0, 1) == AsyncReceipt("a", 0, 1)
    assert len({Receipt("a", 0, 1), AsyncReceipt("a", 0, 1), Receipt("b", 0, 1)}) == 2
    assert Receipt("a", 0, 1) != ("a", 0, 1, False, 0)
    assert Receipt("a", 0, 1) != Receipt("a", 0, 1, after=2)
    assert repr(Receipt("a", 0, 1)) == "Receipt(event_id='a', shard=0, seq=1, duplicate=False, after=0, applied=False)"
