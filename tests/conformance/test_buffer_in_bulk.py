"""Any `Buffer`: what is done for many messages or rows at once comes out as if it were done one by one."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.buffer.keys import ShardKeys
from pipeline.config import Config
from pipeline.ports import Busy, Claimed, Cut, Empty
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, count, encoded, names_of
from tests.conformance.whole_buffer import WholeBuffer

MANY = 1300
SHARD = ("pipeline.events.{0}", "pipeline.batch.{0}", "pipeline.shard.{0}", "pipeline.lease.{0}")

in_one_redis = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""Its examples share a server: each empties its shard first."""


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def oldest_that_fit(sizes: Sequence[int], most: int, room: int) -> int:
    """How many of messages of ``sizes``, oldest first, a batch takes: one by one, until it is full."""
    taken = 0
    while taken < min(most, len(sizes)) and room > 0:
        room -= sizes[taken]
        taken += 1
    return taken


@in_one_redis
@given(
    sizes=st.lists(st.sampled_from([7, 90, 3000]), max_size=150),
    most=st.integers(1, 70),
    room=st.integers(1, 30_000),
)
@example(sizes=[7] * 150, most=64, room=30_000)  # light, by a glance at some of them
@example(sizes=[7, 7, 3000, 7, 7, 3000, 3000] + [7] * 90, most=64, room=6000)  # none of the heavy ones is glanced at
@example(sizes=[3000] * 100, most=64, room=6000)
@example(sizes=[7] * 10, most=64, room=30)
def test_batches_hold_what_fits_however_that_is_found_out(
    make_buffer: MakeBuffer, client: Any, sizes: list[int], most: int, room: int
) -> None:
    client.delete(*SHARD)
    messages = [f"{number:06d}".encode().ljust(size, b"-") for number, size in enumerate(sizes)]
    for message in messages:
        client.lpush("pipeline.events.{0}", message)
    buffer = make_buffer(batch_size=most, batch_bytes=room)
    while messages:
        taken = oldest_that_fit([len(message) for message in messages], most, room)
        claim = claimed(buffer)
        assert claim.messages == messages[:taken]
        assert client.lrange("pipeline.events.{0}", 0, -1) == messages[taken:][::-1]
        assert acknowledge(buffer, claim)
        del messages[:taken]
    assert buffer.claim(0, "me") == Empty()


@pytest.mark.parametrize("command", ["memory", "sort"])
def test_who_may_not_call_what_makes_it_quick_takes_the_same_batches(
    make_buffer: MakeBuffer, redis_url: str, client: Any, command: str
) -> None:
    client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=[f"-{command}"])
    place = urlsplit(redis_url)
    accept(make_buffer(), "abcde")
    size = len(client.lindex("pipeline.events.{0}", 0))
    url = f"redis://limited:any@{place.hostname}:{place.port}/0"
    limited = Config(redis_url=url, shards=1, batch_bytes=size + 1)
    found = []
    try:
        with closing(WholeBuffer(limited)) as buffer:
            for _ in range(3):
                claim = claimed(buffer)
                found.append("".join(names_of(claim)))
                assert acknowledge(buffer, claim)
    finally:
        client.acl_deluser("limited")
    assert found == ["ab", "cd", "e"]


class Overtaken(WholeBuffer):
    """Somebody halves the batch between its claim and the look at its messages."""

    def _messages(self, names: ShardKeys, batch_id: bytes) -> list[bytes] | None:
        batch = Claimed(shard=0, id=batch_id.decode(), seq=1, begun=0, failures=0, messages=[])
        assert self.halve(batch, suspected=False)
        return super()._messages(names, batch_id)


def test_who_may_not_sort_copies_a_large_batch_in_its_order(
    make_buffer: MakeBuffer, redis_url: str, client: Any
) -> None:
    client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-sort"])
    place = urlsplit(redis_url)
    names = [str(number) for number in range(1300)]
    accept(make_buffer(), names)
    limited = Config(redis_url=f"redis://limited:any@{place.hostname}:{place.port}/0", shards=1, batch_size=1234)
    try:
        with closing(WholeBuffer(limited)) as buffer:
            assert names_of(claimed(buffer)) == names[:1234]
    finally:
        client.acl_deluser("limited")


def test_a_batch_that_is_halved_while_it_is_claimed_is_not_mistaken_for_its_half(
    make_buffer: MakeBuffer, redis_url: str
) -> None:
    accept(make_buffer(), "abcd")
    with closing(Overtaken(Config(redis_url=redis_url, shards=1))) as overtaken:
        assert overtaken.claim(0, "me") == Busy()
    assert names_of(claimed(make_buffer(), "you")) == ["a", "b"]


# --- given back -------------------------------------------------------------------------------------------------------


def large(make_buffer: MakeBuffer) -> Claimed:
    buffer = make_buffer(max_pending=2 * MANY)
    buffer.write(0, [encoded(f"e{number}") for number in range(MANY)])
    claim = claimed(make_buffer(batch_size=MANY))
    accept(buffer, ["later"])
    return claim


def following(make_buffer: MakeBuffer) -> list[str]:
    return names_of(claimed(make_buffer(batch_size=2 * MANY)))


def test_the_newer_half_of_a_large_batch_goes_back_in_order(make_buffer: MakeBuffer) -> None:
    claim = large(make_buffer)
    names = names_of(claim)
    assert make_buffer().halve(claim, suspected=False)
    half = claimed(make_buffer())
    assert names_of(half) == names[: MANY // 2]
    assert acknowledge(make_buffer(), half)
    assert following(make_buffer) == [*names[MANY // 2 :], "later"]


@pytest.mark.parametrize("keep", [0, 1, 700, MANY - 1])
def test_what_is_cut_off_a_large_batch_goes_back_in_order(make_buffer: MakeBuffer, keep: int) -> None:
    claim = large(make_buffer)
    names = names_of(claim)
    assert make_buffer().cut(claim, keep, 0, 100) is (Cut.KEPT if keep else Cut.WAITING)
    if keep:
        kept = claimed(make_buffer())
        assert names_of(kept) == names[:keep]
        assert acknowledge(make_buffer(), kept)
    assert following(make_buffer) == [*names[keep:], "later"]


# --- acknowledged -----------------------------------------------------------------------------------------------------


def overlays_after(
    buffer: WholeBuffer, client: Any, pages: Sequence[int], lost: Sequence[int], *, cached: bool
) -> dict[bytes, list[bytes]]:
    """What is left of the overlays when a batch of changes to ``pages`` is acknowledged, of which some were lost."""
    client.delete(*SHARD, *client.keys("pipeline.overlay*"), *client.keys("pipeline.row*"), "-")
    buffer.write(0, [encoded(f"e{number}", count(page)) for number, page in enumerate(pages)])
    claim = claimed(buffer)
    for page, entries in enumerate(lost):
        client.lpop(f"pipeline.overlay.{{0}}:views:page={page}", entries)
    if cached:
        client.hset(f"pipeline.row.{{0}}:views:page={pages[0]}", mapping={"": "life", "page": pages[0]})
    assert acknowledge(buffer, claim)
    return {key: client.lrange(key, 0, -1) for key in client.keys("pipeline.overlay*")}


@in_one_redis
@given(
    pages=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    most=st.integers(1, 20),
    lost=st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_where_no_row_is_cached_the_same_is_dropped_from_overlays(
    make_buffer: MakeBuffer, client: Any, pages: list[int], most: int, lost: list[int]
) -> None:
    buffer = make_buffer(batch_size=most)
    at_once = overlays_after(buffer, client, pages, lost, cached=False)
    row_by_row = overlays_after(buffer, client, pages, lost, cached=True)
    assert at_once == row_by_row
    survivors = {
        number
        for page in range(4)
        for number in [number for number, other in enumerate(pages, 1) if other == page][lost[page] :]
        if number > most
    }
    assert {int(entry[1:].split(b",")[0]) for entries in at_once.values() for entry in entries} == survivors
