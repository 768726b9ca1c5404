"""Durability of many writes at once: in one call, and in many threads."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from pipeline import Change, DurabilityNotReached, InvalidEvent, PipelineFull
from tests.integration.conftest import MakePipeline, MakeValkey, both_types
from tests.integration.durable import NEVER_SECONDS, pages, refused, view, views, waits, watched
from tests.integration.scene import eventually

pytestmark = both_types


def test_write_many_asks_once_for_all_its_chunks(make_valkey: MakeValkey, pipeline_on: MakePipeline) -> None:
    server = make_valkey(appendfsync="always")
    pipeline = pipeline_on(server)
    pipeline.ping()
    seen = watched(server, lambda: pipeline.write_many(views(600), durability="disk"))
    names = [name for _, name in seen if name not in {"HMGET", "MULTI", "HSETNX", "EXEC"}]
    assert names == ["EVALSHA", "SCRIPT", "EVALSHA", "EVALSHA", "EVALSHA", "WAITAOF"]
    assert len({connection for connection, name in seen if name in {"EVALSHA", "WAITAOF"}}) == 1


def test_write_many_that_does_not_fit_says_what_was_accepted_and_that_it_is_durable(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="always")
    pipeline = pipeline_on(server, max_pending=600)
    with pytest.raises(PipelineFull) as caught:
        pipeline.write_many(views(1000), durability="disk")
    assert [receipt is not None for receipt in caught.value.receipts] == [True] * 500 + [False] * 500
    asked = watched(server, lambda: refused(PipelineFull, lambda: pipeline.write_many(views(250), durability="disk")))
    assert "WAITAOF" not in {name for _, name in asked}  # nothing was accepted, so there is nothing to ask for


def test_write_many_that_ends_early_and_is_not_durable_says_both(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendonly="no")
    pipeline = pipeline_on(server)
    bad = Change("page_views", key={"page_id": 1}, add={"views": "many"})
    with pytest.raises(DurabilityNotReached, match=r"refused WAITAOF.*ended early: change 250: page") as caught:
        pipeline.write_many([*views(250), bad], durability="disk")
    assert [receipt is not None for receipt in caught.value.receipts] == [True] * 250 + [False]
    assert isinstance(caught.value.__cause__, InvalidEvent)
    assert pages(server) == list(range(250))
    with pytest.raises(InvalidEvent):
        pipeline.write_many([bad], durability="disk")


def test_write_many_whose_connection_breaks_does_not_go_on_with_another_one(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="always")
    pipeline = pipeline_on(server)

    def changes() -> Iterator[Change]:
        for number, change in enumerate(views(750)):
            if number == 500:
                with redis.Redis.from_url(server.url) as client:
                    eventually(lambda: client.llen("pipeline.events.{0}") == 500, "the chunk before is not accepted")
                    client.client_kill_filter(_type="normal", skipme=True)
            yield change

    with pytest.raises(DurabilityNotReached, match="the connection broke") as caught:
        pipeline.write_many(changes(), durability="disk")
    assert [receipt is not None for receipt in caught.value.receipts] == [True] * 500 + [False] * 250
    assert pages(server) == list(range(500))


def test_many_threads_wait_at_once_and_each_gets_its_own_answer(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="no")
    pipeline = pipeline_on(server, durability_timeout_seconds=NEVER_SECONDS)
    threads = 120  # more than redis-py keeps connections by default
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(view, pipeline, page, durability="disk") for page in range(threads)]
        with redis.Redis.from_url(server.url) as client:
            eventually(lambda: client.info("clients")["blocked_clients"] == threads, "not all wait")
            others = [view(pipeline, threads + number) for number in range(50)]
            client.config_set("appendfsync", "always")
        receipts = [future.result() for future in waiting]
    assert sorted(receipt.seq for receipt in (*receipts, *others)) == list(range(1, threads + 51))
    queue = pages(server)
    assert [queue[receipt.seq - 1] for receipt in receipts] == list(range(threads))


class Interrupt(BaseException):
    """What a signal handler raises: Ctrl-C, or a time limit of Celery."""


def test_an_interrupted_wait_leaves_no_answer_for_the_next_write(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="no")
    pipeline = pipeline_on(server, durability_timeout_seconds=NEVER_SECONDS)
    view(pipeline, 0)  # so that Redis has the script, and who waits has written

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.get_ident()

    def interrupt_waiting() -> None:
        waits(server)
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(interrupt_waiting)
            with pytest.raises(Interrupt):
                view(pipeline, 1, durability="disk")
            done.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
    assert [view(pipeline, page, durability="disk").seq for page in (2, 3)] == [3, 4]
    assert pages(server) == [0, 1, 2, 3]
