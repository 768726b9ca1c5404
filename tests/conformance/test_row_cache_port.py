"""Every `pipeline.reading.RowCache` keeps a slow reader from installing what somebody else has overtaken."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from pipeline import Change, Config, Pipeline, TopologyMismatch
from pipeline.contrib.embedded import Valkey
from pipeline.reading import Filling, Missed, Place, Ticket
from tests.conformance.conftest import both_ways
from tests.conformance.whole_buffer import BlockingRows
from tests.driving import Way

pytestmark = both_ways

PLACE = Place("t", "id=1", 0)
ELSEWHERE = Place("t", "id=2", 0)
KEY = {"id": 1}
ROW = {"id": b"1", "n": b"5"}
FIELDS = {name.encode(): value for name, value in ROW.items()}


@pytest.fixture
def config(redis_url: str) -> Config:
    return Config(redis_url=redis_url, shards=1)


@pytest.fixture
def cache(config: Config, way: Way) -> Iterator[BlockingRows]:
    rows = BlockingRows(config, way)
    yield rows
    rows.close()


@pytest.fixture
def pipeline(config: Config) -> Iterator[Pipeline]:
    with Pipeline(config) as pipeline:
        yield pipeline


def ticket(cache: BlockingRows, place: Place = PLACE) -> Ticket:
    (answer,) = cache.look([(place, True)])
    assert isinstance(answer, Missed)
    assert answer.ticket is not None
    return answer.ticket


def test_what_is_installed_is_got_and_looked_at(cache: BlockingRows) -> None:
    assert cache.get([PLACE, ELSEWHERE]) == [None, None]
    assert cache.install(PLACE, ticket(cache), ROW, fragile=False)
    assert cache.get([ELSEWHERE, PLACE]) == [None, FIELDS]
    looked = cache.look([(PLACE, True), (ELSEWHERE, False)])
    assert looked == [FIELDS, Missed(0, [])]


def test_one_reader_gets_the_ticket_and_the_others_hear_of_it(cache: BlockingRows) -> None:
    first = ticket(cache)
    assert cache.look([(PLACE, True)]) == [Filling()]
    assert cache.look([(PLACE, False)]) == [Missed(0, [])]
    assert cache.get([PLACE]) == [None]
    cache.decline(PLACE, first, seconds=0)
    ticket(cache)


def test_for_a_time_after_it_was_declined_everybody_reads_for_himself(cache: BlockingRows) -> None:
    cache.decline(PLACE, ticket(cache), seconds=100)
    assert cache.look([(PLACE, True)] * 2) == [Missed(0, [])] * 2
    assert cache.get([PLACE]) == [None]


@pytest.mark.parametrize(
    "change",
    [Change("t", KEY), Change("t", KEY, add={"n": 1}), Change("t", KEY, set={"n": 1}), Change("t", KEY, delete=True)],
    ids=repr,
)
@pytest.mark.parametrize("declined", [True, False])
def test_a_write_makes_the_ticket_void(
    cache: BlockingRows, pipeline: Pipeline, change: Change, *, declined: bool
) -> None:
    first = ticket(cache)
    if declined:
        cache.decline(PLACE, first, seconds=100)
    pipeline.write_many([change])
    assert not cache.install(PLACE, first, ROW, fragile=False)
    assert cache.get([PLACE]) == [None]
    second = ticket(cache)
    assert not cache.install(PLACE, first, ROW, fragile=False)
    assert cache.install(PLACE, second, ROW, fragile=False)


def test_a_row_lives_for_its_time_unless_something_is_pending(
    cache: BlockingRows, pipeline: Pipeline, redis_url: str
) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    for place in (PLACE, ELSEWHERE):
        cache.install(place, ticket(cache, place), ROW, fragile=False)
    with redis.Redis.from_url(redis_url) as client:
        assert client.ttl("pipeline.row.{0}:t:id=1") == -1
        assert 3590 < int(client.ttl("pipeline.row.{0}:t:id=2")) <= 3600


def test_what_is_pending_comes_with_the_batch_that_redis_acknowledged_last(
    cache: BlockingRows, pipeline: Pipeline, redis_url: str
) -> None:
    pipeline.write("t", KEY, add={"n": 1}, event_id="one")
    with redis.Redis.from_url(redis_url) as client:
        client.hset("pipeline.shard.{0}", "seq", 17)
    (missed,) = cache.look([(PLACE, False)])
    assert missed == Missed(17, [b'[1,"one",{"table":"t","key":{"id":1},"add":{"n":1}}]'])


@pytest.mark.parametrize(("fragile", "left"), [(True, None), (False, {**FIELDS, b"n": b"6"})])
def test_an_event_with_an_id_drops_a_row_that_may_have_it_already(
    cache: BlockingRows, pipeline: Pipeline, *, fragile: bool, left: Any
) -> None:
    cache.install(PLACE, ticket(cache), ROW, fragile=fragile)
    assert cache.get([PLACE]) == [FIELDS]
    pipeline.write("t", KEY, add={"n": 1}, event_id="again")
    assert cache.get([PLACE]) == [left]


def test_a_row_and_a_ticket_of_an_earlier_life_of_the_server_are_void(cache: BlockingRows, valkey: Valkey) -> None:
    cache.install(PLACE, ticket(cache), ROW, fragile=False)
    old = ticket(cache, ELSEWHERE)
    valkey.restart()
    assert cache.get([PLACE]) == [None]
    assert not cache.install(ELSEWHERE, old, ROW, fragile=False)
    assert cache.install(PLACE, ticket(cache), ROW, fragile=False)
    assert cache.get([PLACE]) == [FIELDS]


def test_a_server_that_does_not_tell_its_life_caches_nothing(redis_url: str, way: Way) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "shy", "on", ">secret", "~*", "+@all", "-info")
        try:
            url = f"redis://shy:secret@{redis_url.rpartition('@')[2]}"
            shy = BlockingRows(Config(redis_url=url), way)
            assert shy.look([(PLACE, True)]) == [Missed(0, [])]
            assert shy.get([PLACE]) == [None]
            shy.close()
        finally:
            client.execute_command("ACL", "DELUSER", "shy")


def test_scripts_that_redis_has_lost_are_loaded_again(cache: BlockingRows, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        first, second = cache.look([(PLACE, True), (ELSEWHERE, True)])
        assert isinstance(first, Missed)
        assert isinstance(second, Missed)
        assert first.ticket is not None
        client.script_flush()
        assert cache.install(PLACE, first.ticket, ROW, fragile=False)


def test_threads_do_not_get_each_others_answers(cache: BlockingRows) -> None:
    places = [Place("t", f"id={n}", 0) for n in range(8)]
    for n, place in enumerate(places):
        cache.install(place, ticket(cache, place), {"id": str(n).encode()}, fragile=False)
    wrong: list[object] = []

    def read(n: int) -> None:
        wrong.extend(n for _ in range(100) if cache.get([places[n]]) != [{b"id": str(n).encode()}])

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_client_of_another_topology_is_refused(pipeline: Pipeline, redis_url: str, way: Way) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    with closing(BlockingRows(Config(redis_url=redis_url, shards=2), way)) as other, pytest.raises(TopologyMismatch):
        other.look([(PLACE, False)])
