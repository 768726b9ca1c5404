"""Any `Buffer`: how fast it says that a shard is drained. (Time passes by moving the moments that Redis keeps.)"""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.core.drain import LATELY_SECONDS
from pipeline.errors import PipelineFull
from pipeline.ports import Buffer, Empty
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, encoded

STATE = "pipeline.shard.{0}"
MOMENTS = ("drained_at", "busy_since")
SLOW = 0.5  # of the rate that is expected: so slow may the machine be


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def let_pass(client: Any, seconds: int) -> None:
    for name in MOMENTS:
        if client.hexists(STATE, name):
            client.hincrby(STATE, name, -1000 * seconds)


def drain(buffer: Buffer, client: Any, seconds: int) -> None:
    """Claim a batch, and acknowledge it ``seconds`` later."""
    claim = claimed(buffer)
    let_pass(client, seconds)
    assert acknowledge(buffer, claim)


def per_second(buffer: Buffer) -> float | None:
    (state,) = buffer.states()
    return state.per_second


@pytest.mark.parametrize("seconds", [10, 100, 1000])
def test_the_rate_is_that_of_the_batches_however_long_they_take(
    make_buffer: MakeBuffer, client: Any, seconds: int
) -> None:
    buffer = make_buffer(batch_size=500)
    buffer.write(0, [encoded("e")] * 1000)
    for _ in range(2):
        drain(buffer, client, seconds)
        assert 500 / seconds * SLOW <= (per_second(buffer) or 0) <= 500 / seconds


def test_what_waits_between_two_batches_counts(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=500)
    buffer.write(0, [encoded("e")] * 1000)
    drain(buffer, client, 10)
    let_pass(client, 10)
    drain(buffer, client, 0)
    assert 50 * SLOW <= (per_second(buffer) or 0) <= 50.1


def test_an_idle_shard_does_not_become_a_slow_one(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    for _ in range(2):
        accept(buffer, "abcdefghij")
        drain(buffer, client, 10)
        let_pass(client, 100)
    assert (per_second(buffer) or 0) >= SLOW


def test_the_time_in_which_a_few_events_are_left_to_the_next_flush_is_idle(
    make_buffer: MakeBuffer, client: Any
) -> None:
    buffer = make_buffer(batch_size=10)
    for _ in range(2):
        accept(buffer, "abcdefghijkl")
        drain(buffer, client, 10)
        assert buffer.claim(0, "me", worth=5) == Empty()
        let_pass(client, 100)
    assert (per_second(buffer) or 0) >= SLOW


def test_what_was_long_ago_is_forgotten(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=500)
    buffer.write(0, [encoded("e")] * 1000)
    drain(buffer, client, 1)
    drain(buffer, client, 1000)
    assert 0.5 * SLOW <= (per_second(buffer) or 0) <= 0.6


def test_events_that_are_set_aside_are_not_drained(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = claimed(buffer)
    let_pass(client, 10)
    assert acknowledge(buffer, claim, aside={"b"})
    assert 0.1 * SLOW <= (per_second(buffer) or 0) <= 0.1


def test_a_refusal_says_how_long_the_drain_will_take(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=5, max_pending=10)
    accept(buffer, "abcdefghij")
    drain(buffer, client, 10)
    accept(buffer, "klmno")
    with pytest.raises(PipelineFull) as caught:
        buffer.write(0, [encoded("p")])
    assert 20 * 0.99 <= (caught.value.drain_seconds or 0) <= 20 / SLOW
    assert "take about" in str(caught.value)


def test_a_refusal_by_a_shard_that_nobody_drains_says_so(make_buffer: MakeBuffer, client: Any) -> None:
    buffer = make_buffer(batch_size=5, max_pending=10)
    accept(buffer, "abcdefghij")
    for _ in range(2):
        with pytest.raises(PipelineFull) as caught:
            buffer.write(0, [encoded("p")] * 6)
        assert caught.value.drain_seconds is None
        assert "nothing was drained lately" in str(caught.value)
        drain(buffer, client, 10)
        let_pass(client, int(LATELY_SECONDS) + 1)
