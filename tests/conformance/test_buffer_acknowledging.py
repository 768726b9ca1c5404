"""Any `Buffer`: what an acknowledgement drops, and what it leaves. (It looks into Redis: overlays are a contract.)"""

from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from typing import Any

import msgspec
import pytest
import redis

from pipeline.config import Config
from pipeline.core.change import Change
from pipeline.ports import Applied, Claimed, Empty
from pipeline.reading import Missed, Place
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, count, encoded, events_of, names_of
from tests.conformance.whole_buffer import BlockingRows

OVERLAY = "pipeline.overlay.{0}:views:page="
ROW = "pipeline.row.{0}:views:page="
MANY = 1300  # rows: more than two calls of the acknowledge script settle


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def overlay(client: Any, page: int) -> list[str]:
    return [msgspec.json.decode(entry)[1] for entry in client.lrange(f"{OVERLAY}{page}", 0, -1)]


def test_an_acknowledged_batch_leaves_only_what_came_later(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=3)
    accept(buffer, "ab", count(1))
    accept(buffer, "c", count(2))
    accept(buffer, "d", count(1))
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert (overlay(client, 1), overlay(client, 2)) == (["d"], [])
    assert names_of(claimed(buffer)) == ["d"]


def test_an_event_that_touches_a_row_twice_leaves_no_trace(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    buffer.write(0, [encoded("a", count(1), Change("log", insert={"x": 1}), count(2), count(1))])
    assert overlay(client, 1) == ["a", "a"]
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert client.keys("pipeline.overlay*") == []


def test_a_second_acknowledgement_changes_nothing(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    accept(buffer, "cd")
    following = claimed(buffer)
    assert not acknowledge(buffer, claim)
    assert overlay(client, 1) == ["c", "d"]
    assert claimed(buffer).messages == following.messages
    assert buffer.states()[0].committed_batches == 1


def test_a_batch_that_was_halved_meanwhile_cannot_be_acknowledged(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    accept(buffer, "abcd")
    whole = claimed(buffer)
    buffer.halve(whole, suspected=False)
    assert not acknowledge(buffer, whole)
    assert overlay(client, 1) == ["a", "b", "c", "d"]
    assert names_of(claimed(buffer)) == ["a", "b"]


def test_a_batch_of_malformed_messages_can_be_acknowledged(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    client.lpush("pipeline.events.{0}", b"no event")
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert buffer.claim(0, "me") == Empty()


# --- in several parts -------------------------------------------------------------------------------------------------


def big(make_buffer: MakeBuffer) -> Claimed:
    buffer = make_buffer()
    buffer.write(0, [encoded(f"e{page}", count(page)) for page in range(MANY)])
    accept(buffer, ["later"], count(0))
    return claimed(make_buffer(batch_size=MANY))


def test_a_large_batch_is_acknowledged_as_a_whole(make_buffer: MakeBuffer, client: Any) -> None:
    claim = big(make_buffer)
    assert len(claim.messages) == MANY
    assert acknowledge(make_buffer(), claim)
    assert client.keys("pipeline.overlay*") == [f"{OVERLAY}0".encode()]
    assert names_of(claimed(make_buffer())) == ["later"]


@pytest.mark.parametrize("done", [1, 500, 700, MANY - 1])
def test_an_acknowledgement_cut_short_leaves_the_rest_to_be_acknowledged(
    make_buffer: MakeBuffer, client: Any, done: int
) -> None:
    claim = big(make_buffer)
    begin_to_acknowledge(client, claim, done)
    rest = claimed(make_buffer())
    assert (rest.id, rest.seq, rest.messages) == (claim.id, claim.seq, claim.messages[done:])
    assert len(client.keys("pipeline.overlay*")) == MANY - done + (done > 0)  # the row of "later" keeps its own
    assert acknowledge(make_buffer(), rest)
    assert client.keys("pipeline.overlay*") == [f"{OVERLAY}0".encode()]
    assert names_of(claimed(make_buffer())) == ["later"]


@pytest.mark.parametrize("done", [1, 500, 700])
def test_a_zombie_that_holds_the_whole_batch_does_no_harm_to_an_acknowledgement_begun(
    make_buffer: MakeBuffer, client: Any, done: int
) -> None:
    claim = big(make_buffer)
    begin_to_acknowledge(client, claim, done)
    rest = claimed(make_buffer())
    acknowledge(make_buffer(), claim)
    acknowledge(make_buffer(), rest)
    assert client.keys("pipeline.overlay*") == [f"{OVERLAY}0".encode()]
    following = claimed(make_buffer())
    assert (names_of(following), following.seq) == (["later"], 2)


def test_what_is_written_between_two_calls_stays_though_its_row_is_settled_by_both(
    make_buffer: MakeBuffer, client: Any
) -> None:
    buffer = make_buffer()
    buffer.write(0, [encoded(f"e{place}", count(page)) for place, page in enumerate([0, 1, 0])])
    begin_to_acknowledge(client, claimed(buffer), 2, first=1)
    accept(buffer, ["later"], count(0))
    assert acknowledge(buffer, claimed(make_buffer(batch_size=1)))
    assert overlay(client, 0) == ["later"]
    assert names_of(claimed(buffer)) == ["later"]


def begin_to_acknowledge(client: Any, claim: Claimed, done: int, first: int = 0) -> None:
    """What a flusher did that died after its first call: the oldest ``done`` events are dropped and settled.

    ``first`` is the number of the first event, if the batch is taken for an ordinary one.
    """
    script = (files("pipeline.buffer") / "lua" / "acknowledge.lua").read_text()
    keys = [f"pipeline.{name}.{{0}}" for name in ("batch", "shard", "parked", "held", "paused", "events", "resumed")]
    numbers: list[int] = []
    settled = events_of(claim)[:done]
    for kind in ("overlay", "row"):
        keys += [f"pipeline.{kind}.{{0}}:views:{event.identities[0]}" for event in settled]
    for event in settled:
        assert event.seq is not None
        numbers += (1, event.seq, 0)
    args = [
        claim.id,
        len(claim.messages),
        done,
        1,
        1000,
        len(claim.messages),
        0,
        0,
        30_000,
        first,
        done,
        0,
        0,
        msgspec.msgpack.encode(numbers),
    ]
    assert client.eval(script, len(keys), *keys, *args) == len(claim.messages) - done


# --- overlays that somebody tampered with -----------------------------------------------------------------------------


def three_of_five(make_buffer: MakeBuffer) -> Claimed:
    buffer = make_buffer(batch_size=3)
    accept(buffer, "abcde")
    return claimed(buffer)


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_when_overlay_entries_were_lost_the_later_ones_stay(make_buffer: MakeBuffer, client: Any, lost: int) -> None:
    claim = three_of_five(make_buffer)
    client.lpop(f"{OVERLAY}1", lost)
    assert acknowledge(make_buffer(), claim)
    assert overlay(client, 1) == ["d", "e"][max(0, lost - 3) :]


def test_when_the_overlay_was_deleted_nothing_is_left(make_buffer: MakeBuffer, client: Any) -> None:
    claim = three_of_five(make_buffer)
    client.delete(f"{OVERLAY}1")
    assert acknowledge(make_buffer(), claim)
    assert overlay(client, 1) == []


def test_settled_entries_that_came_back_go_with_the_next_acknowledgement(make_buffer: MakeBuffer, client: Any) -> None:
    claim = three_of_five(make_buffer)
    older = client.lrange(f"{OVERLAY}1", 0, -1)
    assert acknowledge(make_buffer(), claim)
    client.delete(f"{OVERLAY}1")
    client.rpush(f"{OVERLAY}1", *older)
    following = claimed(make_buffer())
    assert acknowledge(make_buffer(), following)
    assert client.keys("pipeline.overlay*") == []


# --- cached rows ------------------------------------------------------------------------------------------------------


def test_a_cached_row_lives_for_its_time_once_nothing_of_it_is_pending(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=2, cache_ttl_seconds=100)
    client.hset(f"{ROW}1", mapping={"": "life", "page": 1, "n": 0})
    client.expire(f"{ROW}1", 5)
    accept(buffer, "abc")
    assert client.ttl(f"{ROW}1") == -1
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert client.ttl(f"{ROW}1") == -1
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert 90 < client.ttl(f"{ROW}1") <= 100
    assert client.hgetall(f"{ROW}1") == {b"": b"life", b"page": b"1", b"n": b"3"}


def test_a_dead_event_drops_the_cached_rows_that_it_touched(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    for page in (1, 2, 3):
        client.hset(f"{ROW}{page}", mapping={"": "life", "page": page, "n": 0})
    buffer.write(0, [encoded("a", count(1), count(2)), encoded("b", count(3)), encoded("c", count(1))])
    claim = claimed(buffer)
    assert acknowledge(buffer, claim, dead={"a"})
    assert client.keys("pipeline.row*") == [f"{ROW}3".encode()]


def test_what_was_in_no_overlay_drops_its_cached_row(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    client.hset(f"{ROW}1", mapping={"": "life", "page": 1, "n": 0})
    accept(buffer, "a")
    client.delete(f"{OVERLAY}1")
    claim = claimed(buffer)
    assert acknowledge(buffer, claim)
    assert client.keys("pipeline.row*") == []


def test_an_event_that_came_past_the_write_script_drops_its_cached_row(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    claim = claimed(buffer)
    client.delete(f"{OVERLAY}1")
    client.hset(f"{ROW}1", mapping={"": "life", "page": 1, "n": 0})
    (event,) = events_of(claim)
    unnumbered = msgspec.structs.replace(event, seq=None)
    assert buffer.acknowledge(claim, [unnumbered], Applied(seq=1, rows=1, dead=frozenset()))
    assert client.keys("pipeline.row*") == []


@pytest.mark.parametrize("declined", [False, True])
def test_a_reader_that_is_on_its_way_keeps_its_ticket_and_its_time(
    make_buffer: MakeBuffer, redis_url: str, client: Any, *, declined: bool
) -> None:
    buffer = make_buffer(cache_ttl_seconds=1000)
    accept(buffer, "a")
    claim = claimed(buffer)
    with closing(BlockingRows(Config(redis_url=redis_url, shards=1))) as rows:
        place = Place("views", "page=1", 0)
        (missed,) = rows.look([(place, True)])
        assert isinstance(missed, Missed)
        assert missed.ticket is not None
        if declined:
            rows.decline(place, missed.ticket, seconds=2)
    assert acknowledge(buffer, claim)
    assert client.exists(f"{ROW}1") == (0 if declined else 1)
    assert client.ttl(f"{ROW}1") <= 2
