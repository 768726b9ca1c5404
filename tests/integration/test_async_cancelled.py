"""A task may be cancelled anywhere: what it was at is done or not, and nobody else notices."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis

from pipeline import AsyncPipeline, Change, Config
from pipeline.buffer import rows
from pipeline.config import Durability
from pipeline.writer import CHUNK
from tests.integration.cancelling import everywhere
from tests.integration.conftest import MakeValkey
from tests.integration.durable import NEVER_SECONDS, pages, waits
from tests.integration.scene import Scene, drain, eventually

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'celery-write-behind'"
PAIR = [Change("t", {"id": 1}, add={"n": 1}), Change("t", {"id": 2}, add={"n": 1})]
KEYS = [{"id": 1}, {"id": 2}]

Use = Callable[[AsyncPipeline], Coroutine[Any, Any, object]]


@pytest.fixture
def config(scene: Scene) -> Config:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    return scene.config()


async def cold(config: Config, use: Use) -> None:
    """With connections that are yet to be made."""
    async with AsyncPipeline(config) as pipeline:
        await use(pipeline)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("durability", ["memory", "disk"])
@pytest.mark.parametrize("many", [True, False])
def test_a_write_that_is_cancelled_is_accepted_as_a_whole_or_not_at_all(
    scene: Scene, config: Config, durability: Durability, *, many: bool, warm: bool
) -> None:
    before = clients(scene)

    async def write(pipeline: AsyncPipeline) -> None:
        if many:
            await pipeline.write_many(PAIR * CHUNK, durability=durability)
        else:
            await pipeline.write_group(PAIR, shard_by="all", durability=durability)

    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            await pipeline.ping()
            assert await everywhere(lambda: write(pipeline) if warm else cold(config, write)) > 0
            mine = await pipeline.write("t", {"id": 3}, add={"n": 1}, event_id="mine")
            assert (mine.event_id, mine.duplicate) == ("mine", False)
            assert await pipeline.read("t", {"id": 3}) == {"id": 3, "n": 1}

    scene.redis.config_set("appendfsync", "always")
    try:
        asyncio.run(use())
    finally:
        scene.redis.config_set("appendfsync", "everysec")
    eventually(lambda: clients(scene) == before, "connections stay open")  # and Redis has done what came over them
    accepted = [len(scene.overlay(f"t:id={row}")) for row in (1, 2)]
    assert accepted[0] == accepted[1] > 0
    assert len(scene.queued()) == 1 + (sum(accepted) if many else accepted[0])
    assert accepted[0] % (CHUNK // 2 if many else 1) == 0
    drain(scene.pipeline())
    assert scene.sql("SELECT n FROM t ORDER BY id") == [(accepted[0],), (accepted[1],), (1,)]


def clients(scene: Scene) -> int:
    return int(scene.redis.info("clients")["connected_clients"])


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize(
    "read",
    [lambda pipeline: pipeline.read("t", {"id": 1}), lambda pipeline: pipeline.read_many("t", KEYS)],
    ids=["one row", "rows"],
)
def test_a_read_that_is_cancelled_holds_nobody_up(
    scene: Scene, config: Config, monkeypatch: pytest.MonkeyPatch, read: Use, *, warm: bool, pending: bool
) -> None:
    monkeypatch.setattr(rows, "_TICKET_MS", 600_000)  # a ticket that is not given back is seen
    scene.sql("INSERT INTO t VALUES (1), (2)")

    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            for key in KEYS if pending else []:
                await pipeline.write("t", key, add={"n": 1})

            async def cancelled() -> None:
                scene.redis.delete(*(f"{scene.keys.row}t:id={key['id']}" for key in KEYS))
                await (read(pipeline) if warm else cold(config, read))

            async def others() -> None:
                found = await pipeline.read_many("t", KEYS)
                assert found == [{**key, "n": int(pending)} for key in KEYS]

            async def then_others() -> None:
                try:
                    await cancelled()
                finally:
                    await asyncio.to_thread(eventually, lambda: not tickets(scene), "a ticket is out")

            await others()
            assert await everywhere(then_others) > 3
            await others()

    before = scene.sql(CONNECTIONS)
    asyncio.run(use())
    eventually(lambda: scene.sql(CONNECTIONS) == before, "connections stay open")


def tickets(scene: Scene) -> list[bytes]:
    tags = [scene.redis.hget(f"{scene.keys.row}t:id={key['id']}", "") or b"" for key in KEYS]
    return [tag for tag in tags if tag.startswith(b"?")]


def test_an_answer_that_comes_after_its_task_was_cancelled_is_nobody_elses(make_valkey: MakeValkey) -> None:
    server = make_valkey(appendfsync="no")
    config = Config(redis_url=server.url, shards=1, durability_timeout_seconds=NEVER_SECONDS)

    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            await view(pipeline, 0)
            waiting = asyncio.create_task(view(pipeline, 1, durability="disk"))
            await asyncio.to_thread(waits, server)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert [(await view(pipeline, page)).seq for page in (2, 3)] == [3, 4]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await view(pipeline, 4, durability="disk")
            assert [(await view(pipeline, page)).seq for page in (5, 6)] == [6, 7]

    asyncio.run(use())
    assert pages(server) == [0, 1, 2, 3, 4, 5, 6]


async def view(pipeline: AsyncPipeline, page: int, **options: Any) -> Any:
    return await pipeline.write("page_views", {"page_id": page}, add={"views": 1}, **options)


def test_a_timeout_ends_every_call_at_once_when_redis_says_nothing(scene: Scene, make_valkey: MakeValkey) -> None:
    server = make_valkey()
    with redis.Redis.from_url(server.url) as client:
        process = int(client.info("server")["process_id"])
    calls: list[Use] = [
        lambda pipeline: pipeline.ping(),
        lambda pipeline: pipeline.write("t", {"id": 1}, add={"n": 1}),
        lambda pipeline: pipeline.write("t", {"id": 1}, add={"n": 1}, durability="disk"),
        lambda pipeline: pipeline.write_many(PAIR),
        lambda pipeline: pipeline.write_many(PAIR, durability="replica"),
        lambda pipeline: pipeline.read("t", {"id": 1}),
        lambda pipeline: pipeline.read_many("t", KEYS),
    ]

    async def use() -> None:
        async with AsyncPipeline(scene.config(redis_url=server.url, redis_timeout_seconds=NEVER_SECONDS)) as pipeline:
            await pipeline.ping()
            os.kill(process, signal.SIGSTOP)
            try:
                for call in calls * 2:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await call(pipeline)
            finally:
                os.kill(process, signal.SIGCONT)

    asyncio.run(asyncio.wait_for(use(), NEVER_SECONDS / 2))
