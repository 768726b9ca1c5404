"""Any `Buffer`: a durable write is answered when its events are durable, and only accepted events are waited for."""

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from pipeline.errors import BufferUnavailable, PipelineFull
from pipeline.ports import Written
from tests.conformance.conftest import MakeBuffer, both_ways
from tests.conformance.lane import accept, count, encoded

pytestmark = both_ways

NEVER_SECONDS = 60.0
"""A wait that does not end in the time of a test; half of it tells whether somebody waited."""

Fsync = Callable[[str], None]


@pytest.fixture
def fsync(redis_url: str) -> Iterator[Fsync]:
    """Sets when Redis fsyncs: ``always`` before every answer, or ``no``, never."""
    with redis.Redis.from_url(redis_url) as client:
        yield lambda policy: client.config_set("appendfsync", policy)
        client.config_set("appendfsync", "everysec")


def test_a_write_that_is_on_disk_lacks_nothing(make_buffer: MakeBuffer, fsync: Fsync) -> None:
    fsync("always")
    buffer = make_buffer()
    assert buffer.write_durably(0, [encoded("a"), encoded("b")], "disk") == (
        [Written(1, duplicate=False), Written(2, duplicate=False)],
        None,
    )


def test_a_write_that_is_not_fsynced_in_time_is_accepted_and_says_what_it_lacks(
    make_buffer: MakeBuffer, fsync: Fsync
) -> None:
    fsync("no")
    buffer = make_buffer(durability_timeout_seconds=0.05)
    written, missing = buffer.write_durably(0, [encoded("a")], "disk")
    assert written == [Written(1, duplicate=False)]
    assert missing == "no fsync within 0.05 s (PIPELINE_DURABILITY_TIMEOUT)"
    assert buffer.states()[0].queued == 1


def test_without_a_replica_a_write_says_that_none_had_it(make_buffer: MakeBuffer) -> None:
    written, missing = make_buffer(durability_timeout_seconds=0.05).write_durably(0, [encoded("a")], "replica")
    assert written == [Written(1, duplicate=False)]
    assert missing == "no replica had it within 0.05 s (PIPELINE_DURABILITY_TIMEOUT)"


def test_a_known_event_is_answered_when_the_first_one_is_durable(make_buffer: MakeBuffer, fsync: Fsync) -> None:
    fsync("no")
    make_buffer().write(0, [encoded("a", dedupe=True)])
    repeating = make_buffer(durability_timeout_seconds=0.05)  # another process: its connection never wrote the event
    written, missing = repeating.write_durably(0, [encoded("a", dedupe=True)], "disk")
    assert written == [Written(1, duplicate=True)]
    assert missing is not None
    fsync("always")
    assert repeating.write_durably(0, [encoded("a", dedupe=True)], "disk") == ([Written(1, duplicate=True)], None)


def test_a_refused_write_waits_for_nothing(make_buffer: MakeBuffer, fsync: Fsync) -> None:
    fsync("no")
    buffer = make_buffer(max_pending=2, durability_timeout_seconds=NEVER_SECONDS)
    accept(buffer, "ab")  # over the same connection, and never fsynced
    began = time.monotonic()
    with pytest.raises(PipelineFull) as caught:
        buffer.write_durably(0, [encoded("c")], "disk")
    assert time.monotonic() - began < NEVER_SECONDS / 2
    assert (caught.value.pending, caught.value.limit) == (2, 2)
    assert buffer.states()[0].queued == 2  # and the next answer is its own


def test_a_write_that_redis_rejects_waits_for_nothing(make_buffer: MakeBuffer, fsync: Fsync, redis_url: str) -> None:
    fsync("no")
    buffer = make_buffer(durability_timeout_seconds=NEVER_SECONDS)
    accept(buffer, "a")
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", 1)
        try:
            began = time.monotonic()
            with pytest.raises(BufferUnavailable, match="OutOfMemory"):
                buffer.write_durably(0, [encoded("b")], "disk")
            assert time.monotonic() - began < NEVER_SECONDS / 2
        finally:
            client.config_set("maxmemory", 0)
    assert buffer.states()[0].queued == 1


def test_a_server_that_lost_its_scripts_gets_them_again_and_is_asked_again(
    make_buffer: MakeBuffer, fsync: Fsync, redis_url: str
) -> None:
    fsync("no")
    buffer = make_buffer(durability_timeout_seconds=0.05)
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        written, missing = buffer.write_durably(0, [encoded("a")], "disk")
        assert written == [Written(1, duplicate=False)]
        assert missing is not None  # of the write, not of the call that found no script
        client.script_flush()
        fsync("always")
        assert buffer.write_durably(0, [encoded("b")], "disk") == ([Written(2, duplicate=False)], None)
        client.script_flush()
        with buffer.session() as session:
            assert session.write_chunks([(0, [encoded("c")]), (0, [encoded("d")])]) == [
                [Written(3, duplicate=False)],
                [Written(4, duplicate=False)],
            ]
            assert session.settle("disk") is None
    assert buffer.states()[0].queued == 4


def test_a_session_settles_everything_that_it_wrote(make_buffer: MakeBuffer, fsync: Fsync) -> None:
    fsync("no")
    buffer = make_buffer(shards=2, durability_timeout_seconds=0.05)
    with buffer.session() as session:
        session.write_chunks([(0, [encoded("a")]), (1, [encoded("b", shard=1)])])
        session.write_chunks([(0, [encoded("c", count(2))])])
        assert session.settle("disk") is not None
        fsync("always")
        assert session.settle("disk") is None
    assert [state.queued for state in buffer.states()] == [2, 1]


def test_a_session_says_which_chunks_were_refused(make_buffer: MakeBuffer, fsync: Fsync) -> None:
    fsync("always")
    buffer = make_buffer(shards=2, max_pending=2)
    with buffer.session() as session:
        first, second = session.write_chunks([(0, [encoded("a")]), (1, [encoded(name, shard=1) for name in "bc"])])
        assert first == [Written(1, duplicate=False)]
        assert isinstance(second, PipelineFull)
        assert session.settle("disk") is None
