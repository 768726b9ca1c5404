"""Any `Buffer`: a batch is frozen until it is acknowledged, whoever claims it."""

import pytest

from pipeline.core.change import Change
from pipeline.errors import TopologyMismatch
from pipeline.ports import Busy, Claimed, Empty, FailureKind, PausedTable, Resting
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, names_of
from tests.integration.scene import eventually


def test_nothing_pending_is_nothing_to_claim(make_buffer: MakeBuffer) -> None:
    assert make_buffer().claim(0, "me") == Empty()


def test_a_batch_holds_the_oldest_events_oldest_first(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=3)
    accept(buffer, "abcde")
    claim = claimed(buffer)
    assert names_of(claim) == ["a", "b", "c"]
    assert (claim.shard, claim.seq, claim.begun, claim.failures, claim.owner) == (0, 1, 0, 0, "me")


def test_a_frozen_batch_is_returned_unchanged_until_it_is_acknowledged(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=3)
    accept(buffer, "ab")
    first = claimed(buffer)
    accept(buffer, "cdef")
    again = claimed(buffer)
    assert (again.id, again.seq, again.messages) == (first.id, first.seq, first.messages)
    assert acknowledge(buffer, again)
    following = claimed(buffer)
    assert names_of(following) == ["c", "d", "e"]
    assert following.id != first.id
    assert following.seq == 2


def test_a_claim_takes_no_more_than_it_is_asked_for_and_than_a_batch_may_have(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=3)
    accept(buffer, "abcdefg")
    sizes = []
    for most in (2, 100):
        claim = buffer.claim(0, "me", most)
        assert isinstance(claim, Claimed)
        sizes.append(len(claim.messages))
        assert acknowledge(buffer, claim)
    assert sizes == [2, 3]


def test_fewer_events_than_are_worth_it_are_left_in_the_queue_and_nobody_is_kept_from_them(
    make_buffer: MakeBuffer,
) -> None:
    mine, yours = make_buffer(), make_buffer()
    accept(mine, "ab")
    assert mine.claim(0, "me", worth=3) == Empty()
    assert names_of(claimed(yours, "you")) == ["a", "b"]


def test_a_frozen_batch_and_what_is_resumed_are_claimed_however_little_they_are(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    frozen = claimed(buffer)
    assert isinstance(buffer.claim(0, "me", worth=3), Claimed)
    assert acknowledge(buffer, frozen, aside=["a"], unexplained=True)
    resumed = buffer.claim(0, "me", worth=3)
    assert isinstance(resumed, Claimed)
    assert resumed.resumed


def test_the_sequence_goes_on_from_what_was_acknowledged(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=1)
    accept(buffer, "ab")
    claim = claimed(buffer)
    assert acknowledge(buffer, claim, seq=41)
    assert claimed(buffer).seq == 42


def test_a_batch_holds_only_as_many_bytes_as_it_may_but_at_least_one_event(make_buffer: MakeBuffer) -> None:
    accept(make_buffer(), "abcd")
    size = len(claimed(make_buffer(batch_size=1)).messages[0])
    accept(make_buffer(), "efg")
    sizes = []
    for limit in (1, size + 1, 100 * size):
        claim = claimed(make_buffer(batch_bytes=limit, batch_size=100))
        sizes.append(len(claim.messages))
        assert acknowledge(make_buffer(), claim)
    assert sizes == [1, 2, 4]


# --- lease ------------------------------------------------------------------------------------------------------------


def test_a_lease_keeps_others_out_until_it_is_released(make_buffer: MakeBuffer) -> None:
    mine, yours = make_buffer(), make_buffer()
    accept(mine, "ab")
    claimed(mine, "me")
    assert yours.claim(0, "you") == Busy()
    yours.release(0, "you")
    assert yours.claim(0, "you") == Busy()
    mine.release(0, "me")
    assert claimed(yours, "you").owner == "you"


def test_a_lease_ends_by_itself_and_the_next_gets_the_same_batch(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(lease_seconds=0.05)
    accept(buffer, "ab")
    first = claimed(buffer, "dead")
    heir = eventually(lambda: isinstance(claim := buffer.claim(0, "heir"), Claimed) and claim, "the lease never ends")
    assert (heir.id, heir.messages) == (first.id, first.messages)


def test_an_empty_shard_is_leased_to_nobody(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    claim = claimed(buffer, "me")
    assert acknowledge(buffer, claim)
    assert buffer.claim(0, "me") == Empty()
    assert buffer.claim(0, "you") == Empty()
    assert not buffer.states()[0].leased


def test_only_who_has_begun_counts(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = [claimed(buffer) for _ in range(5)][-1]
    assert claim.begun == 0
    buffer.begin(claim)
    buffer.begin(claim)
    assert claimed(buffer).begun == 2
    buffer.fail(claim, "no luck", 0, begun=True)
    assert (claimed(buffer).begun, claimed(buffer).failures) == (2, 1)
    assert buffer.halve(claim, suspected=False)
    buffer.begin(claim)  # of a batch that is not frozen any more
    assert claimed(buffer).begun == 1


def test_a_failure_before_it_was_begun_hides_no_crash(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    buffer.begin(claimed(buffer))  # and nothing more was heard
    for _ in range(4):
        buffer.fail(claimed(buffer), "no connection", 0, FailureKind.UNREACHABLE)
    claim = claimed(buffer)
    assert (claim.begun - claim.failures, claim.failures) == (1, 4)


# --- failure ----------------------------------------------------------------------------------------------------------


def test_a_failed_batch_rests_and_comes_back_unchanged(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = claimed(buffer)
    buffer.fail(claim, "no luck", 30)
    resting = buffer.claim(0, "you")
    assert isinstance(resting, Resting)
    assert 20 < resting.seconds <= 30
    buffer.fail(claim, "again", 0.001, FailureKind.BOUNDED)
    late = eventually(lambda: isinstance(c := buffer.claim(0, "you"), Claimed) and c, "rests for ever")
    assert (late.id, late.seq, late.messages) == (claim.id, claim.seq, claim.messages)
    assert (late.begun, late.failures, late.tries) == (2, 2, 1)


def test_a_resting_batch_holds_back_what_is_queued_behind_it(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    buffer.fail(claimed(buffer), "no luck", 30)
    accept(buffer, "b")
    assert isinstance(buffer.claim(0, "me"), Resting)
    assert (buffer.states()[0].queued, buffer.states()[0].frozen) == (1, 1)


def test_the_failures_of_a_batch_end_with_it(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=1)
    accept(buffer, "ab")
    claim = claimed(buffer)
    buffer.fail(claim, "no luck", 0, FailureKind.BOUNDED)
    again = claimed(buffer)
    assert acknowledge(buffer, again)
    following = claimed(buffer)
    assert (following.begun, following.failures, following.tries) == (0, 0, 0)
    state = buffer.states()[0]
    assert (state.failures, state.error, state.due_ms) == (0, None, None)


def test_a_failure_of_a_batch_that_is_gone_is_not_recorded(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=1)
    accept(buffer, "ab")
    gone = claimed(buffer)
    assert acknowledge(buffer, gone)
    buffer.fail(gone, "too late", 30)
    assert claimed(buffer).failures == 0
    buffer.fail(gone, "too late", 30)
    assert buffer.states()[0].error is None


def test_a_batch_that_could_not_even_be_tried_can_be_woken(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(shards=2)
    accept(buffer, "a")
    claim = claimed(buffer)
    buffer.fail(claim, "connection refused", 300, FailureKind.UNREACHABLE)
    assert buffer.states()[0].unreachable
    buffer.wake([0, 1])
    assert claimed(buffer).messages == claim.messages
    assert not buffer.states()[0].unreachable


def test_a_batch_that_failed_otherwise_by_now_is_not_woken(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    claim = claimed(buffer)
    buffer.fail(claim, "connection refused", 300, FailureKind.UNREACHABLE)
    buffer.fail(claim, "disk full", 300)
    buffer.wake([0])
    assert isinstance(buffer.claim(0, "me"), Resting)


def test_nobody_is_woken_by_who_has_another_topology(make_buffer: MakeBuffer) -> None:
    accept(make_buffer(shards=2), "a")
    with pytest.raises(TopologyMismatch):
        make_buffer(shards=3).wake([0])


def test_only_the_last_failure_says_whether_postgresql_was_unreachable(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=1)
    accept(buffer, "ab")
    buffer.fail(claimed(buffer), "connection refused", 0, FailureKind.UNREACHABLE)
    claim = claimed(buffer)
    assert buffer.states()[0].unreachable
    buffer.fail(claim, "no luck", 0)
    assert not buffer.states()[0].unreachable
    buffer.fail(claim, "connection refused", 0, FailureKind.UNREACHABLE)
    assert acknowledge(buffer, claim)
    assert not buffer.states()[0].unreachable


# --- halving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "kept"), [("ab", 1), ("abc", 2), ("abcdefg", 4)])
def test_halving_keeps_the_older_half_and_the_order(make_buffer: MakeBuffer, held: str, kept: int) -> None:
    buffer = make_buffer(batch_size=len(held))
    accept(buffer, held)
    accept(buffer, "yz")
    whole = claimed(buffer)
    assert buffer.halve(whole, suspected=False)
    half = claimed(buffer)
    assert (half.id != whole.id, half.seq) == (True, whole.seq)
    assert "".join(names_of(half)) == held[:kept]
    assert acknowledge(buffer, half)
    rest = claimed(make_buffer(batch_size=100))
    assert "".join(names_of(rest)) == held[kept:] + "yz"


def test_a_half_of_what_was_set_aside_goes_back_before_what_came_later(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=4)
    accept(buffer, "abcdef")
    for _ in range(2):
        claim = claimed(buffer)
        assert acknowledge(buffer, claim, aside=names_of(claim))
    buffer.pause(0, paused := PausedTable("views", 0, "gone", b"{}"))
    buffer.resume(0, paused)
    accept(buffer, "g")
    seen = []
    while isinstance(found := buffer.claim(0, "me"), Claimed):
        if len(found.messages) > 2:
            assert buffer.halve(found, suspected=False)
            continue
        seen += names_of(found)
        assert acknowledge(buffer, found)
    assert "".join(seen) == "abcdefg"


def test_a_connection_that_died_over_a_batch_counts_like_a_flusher_that_did(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = claimed(buffer)
    buffer.begin(claim)
    buffer.fail(claim, "server closed the connection", 0, FailureKind.SILENT)
    again = claimed(buffer)
    assert (again.begun, again.failures) == (1, 0)
    assert buffer.states()[0].error == "server closed the connection"


def test_the_other_half_of_a_suspected_batch_is_searched_next(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=8)
    accept(buffer, "abcdefghijkl")
    whole = claimed(buffer)
    buffer.fail(whole, "no luck", 0)
    buffer.begin(whole)
    assert buffer.halve(whole, suspected=True)
    searched = []
    while isinstance(found := buffer.claim(0, "me"), Claimed):
        searched.append(("".join(names_of(found)), found.begun - found.failures))
        assert acknowledge(buffer, found)
    # one death counts against an event that is left alone
    assert searched == [("abcd", 0), ("ef", 0), ("g", 1), ("h", 1), ("ijkl", 0)]


def test_a_single_event_and_a_batch_that_is_gone_cannot_be_halved(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "a", Change("views", {"page": 1}))
    single = claimed(buffer)
    assert not buffer.halve(single, suspected=False)
    assert claimed(buffer).id == single.id
    assert acknowledge(buffer, single)
    accept(buffer, "bcd")
    claimed(buffer)
    assert not buffer.halve(single, suspected=False)
    assert names_of(claimed(buffer)) == ["b", "c", "d"]
