"""Any `Buffer`: what it accepts, what it refuses, and what it knows already."""

import pytest

from pipeline.core.change import Change
from pipeline.errors import PipelineFull, TopologyMismatch
from pipeline.ports import Empty, Written
from tests.conformance.conftest import MakeBuffer, both_ways
from tests.conformance.lane import accept, acknowledge, claimed, count, encoded, message_of, names_of

pytestmark = both_ways


def test_events_of_a_shard_are_numbered_from_one(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    assert buffer.write(0, [encoded("a"), encoded("b")]) == [Written(1, duplicate=False), Written(2, duplicate=False)]
    assert make_buffer().write(0, [encoded("c")]) == [Written(3, duplicate=False)]


def test_a_known_id_is_not_written_again_also_inside_one_chunk(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    chunk = [
        encoded("a", dedupe=True),
        encoded("b", count(2), count(3), dedupe=True),
        encoded("a", dedupe=True),
        encoded("b", count(2), count(3), dedupe=True),
        encoded("c", count(4)),
    ]
    assert buffer.write(0, chunk) == [
        Written(1, duplicate=False),
        Written(2, duplicate=False),
        Written(1, duplicate=True),
        Written(2, duplicate=True),
        Written(3, duplicate=False),
    ]
    assert names_of(claimed(buffer)) == ["a", "b", "c"]


def test_a_known_id_is_known_after_its_batch_is_gone(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    buffer.write(0, [encoded("a", dedupe=True)])
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert buffer.write(0, [encoded("a", dedupe=True)]) == [Written(1, duplicate=True)]
    assert buffer.claim(0, "me") == Empty()


def test_without_dedupe_the_same_id_is_another_event(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "aa")
    assert names_of(claimed(buffer)) == ["a", "a"]


def test_a_chunk_that_does_not_fit_is_refused_as_a_whole(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(max_pending=3)
    accept(buffer, "ab")
    with pytest.raises(PipelineFull) as caught:
        buffer.write(0, [encoded("c", dedupe=True), encoded("d")])
    assert (caught.value.pending, caught.value.limit) == (2, 3)
    assert buffer.write(0, [encoded("c", dedupe=True)]) == [Written(3, duplicate=False)]
    assert names_of(claimed(buffer)) == ["a", "b", "c"]


def test_every_chunk_of_a_round_trip_has_its_own_outcome(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(shards=3, max_pending=6)
    first, second, third = buffer.write_chunks(
        [
            (0, [encoded("a")]),
            (1, [encoded(name, shard=1) for name in "bcd"]),
            (2, [encoded("e", shard=2), encoded("f", shard=2)]),
        ]
    )
    assert first == [Written(1, duplicate=False)]
    assert isinstance(second, PipelineFull)
    assert (second.shard, second.pending, second.limit) == (1, 0, 2)
    assert third == [Written(1, duplicate=False), Written(2, duplicate=False)]
    assert [state.queued for state in buffer.states()] == [1, 0, 2]


def test_a_message_that_is_handed_over_is_the_next_one_and_is_handed_over_once(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(max_pending=2)
    accept(buffer, "ab")
    for _ in range(2):  # the second time because the worker died before it acknowledged
        buffer.hand_over(0, message_of("z", b"null"), "mark")
    assert names_of(claimed(buffer)) == ["z", "a", "b"]


def test_another_topology_is_refused(make_buffer: MakeBuffer) -> None:
    accept(make_buffer(shards=2), "a")
    with pytest.raises(TopologyMismatch, match="shards=3"):
        accept(make_buffer(shards=3), "b")


def test_states_tell_what_is_pending(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(shards=2, batch_size=2)
    idle, other = buffer.states()
    assert (idle.shard, other.shard) == (0, 1)
    assert (idle.queued, idle.frozen, idle.oldest_ms, idle.batch_id, idle.accepted, idle.leased) == (
        (0, 0, None, None, 0, False)
    )
    accept(buffer, "abc", Change("views", {"page": 1}))
    queued = buffer.states()[0]
    assert (queued.queued, queued.frozen, queued.accepted) == (3, 0, 3)
    claim = claimed(buffer)
    frozen = buffer.states()[0]
    assert (frozen.queued, frozen.frozen, frozen.batch_id, frozen.begun, frozen.leased) == (1, 2, claim.id, 0, True)
    assert frozen.oldest_ms == queued.oldest_ms
    buffer.fail(claim, "no luck", 60)
    failed = buffer.states()[0]
    assert (failed.failures, failed.error, failed.leased) == (1, "no luck", False)
    assert failed.due_ms is not None
    assert queued.oldest_ms is not None
    assert 50_000 < failed.due_ms - queued.oldest_ms < 120_000


def test_a_flush_is_wanted_once_until_it_starts(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(shards=2)
    assert buffer.want([0, 1]) == [0, 1]
    assert make_buffer(shards=2).want([0, 1]) == []
    buffer.claim(0, "me")
    assert buffer.want([0, 1]) == [0]
