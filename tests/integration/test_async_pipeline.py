"""`AsyncPipeline` in its event loop: many tasks at once, other loops, and nothing left open."""

import asyncio
from operator import le
from typing import Any

import pytest

from pipeline import AsyncPipeline, Change, Config, InvalidSetting, TopologyMismatch
from pipeline.telemetry import Step
from tests.integration.scene import Scene, drain, eventually

TASKS = 1000
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'celery-write-behind'"


@pytest.fixture
def config(scene: Scene) -> Config:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    return scene.config(shards=4)


def clients(scene: Scene) -> int:
    return int(scene.redis.info("clients")["connected_clients"])


def connected(scene: Scene) -> tuple[int, int]:
    """Connections to Redis and to PostgreSQL."""
    ((sessions,),) = scene.sql(CONNECTIONS)
    return clients(scene), sessions


def blocked(scene: Scene) -> int:
    return int(scene.redis.info("clients")["blocked_clients"])


async def n_of(pipeline: AsyncPipeline, row: int) -> Any:
    found = await pipeline.read("t", {"id": row})
    return None if found is None else found["n"]


def test_what_a_task_writes_it_reads_and_the_flush_writes_it(scene: Scene, config: Config) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            await pipeline.ping()
            first = await pipeline.write("t", {"id": 1}, add={"n": 1}, event_id="one")
            again = await pipeline.write("t", {"id": 1}, add={"n": 1}, event_id="one")
            assert (first.duplicate, again.duplicate, again.seq) == (False, True, first.seq)
            await pipeline.write_many([Change("t", {"id": 2}, add={"n": 2})] * 300)
            await pipeline.write_group([Change("t", {"id": 3}, add={"n": 3}), Change("t", {"id": 4})], shard_by="all")
            await pipeline.delete("t", {"id": 4}, shard_by="all")
            await pipeline.insert("t", {"id": 5, "n": 5})
            assert await n_of(pipeline, 1) == 1
            assert await pipeline.read_many("t", [{"id": 2}, {"id": 9}]) == [{"id": 2, "n": 600}, None]

    asyncio.run(use())
    drain(scene.pipeline(shards=4))
    assert scene.sql("SELECT * FROM t ORDER BY id") == [(1, 1), (2, 600), (3, 3), (5, 5)]


def test_a_thousand_tasks_at_once_get_their_own_answers_and_nothing_stays_open(scene: Scene, config: Config) -> None:
    before = connected(scene)

    async def one(pipeline: AsyncPipeline, row: int) -> None:
        receipt = await pipeline.write("t", {"id": row}, add={"n": row}, event_id=f"{row}")
        assert receipt.event_id == f"{row}"
        assert await n_of(pipeline, row) == row

    async def use() -> int:
        async with AsyncPipeline(config) as pipeline:
            await asyncio.gather(*(one(pipeline, row) for row in range(TASKS)))
            return clients(scene)

    assert asyncio.run(use()) <= before[0] + 64
    # there may be fewer: the servers of those of another test end when they notice
    eventually(lambda: all(map(le, connected(scene), before)), "connections are closed")
    drain(scene.pipeline(shards=4))
    assert scene.sql("SELECT count(*), sum(n) FROM t") == [(TASKS, sum(range(TASKS)))]


def test_tasks_that_wait_for_the_disk_do_not_keep_others_from_redis(scene: Scene, config: Config) -> None:
    waiting = 100  # more than may use Redis at once for what does not last
    policy = scene.redis.config_get("appendfsync")["appendfsync"]
    scene.redis.config_set("appendfsync", "no")

    async def use() -> None:
        async with AsyncPipeline(config) as pipeline, asyncio.TaskGroup() as group:
            for row in range(waiting):
                group.create_task(pipeline.write("t", {"id": row}, add={"n": 1}, durability="disk"))
            await asyncio.to_thread(eventually, lambda: blocked(scene) == waiting, "not all wait")
            await pipeline.write("t", {"id": 1}, add={"n": 1})
            assert await n_of(pipeline, 1) == 2
            scene.redis.config_set("appendfsync", "always")

    try:
        asyncio.run(use())
    finally:
        scene.redis.config_set("appendfsync", policy)


def test_one_of_many_tasks_that_miss_a_row_asks_postgresql(scene: Scene, config: Config) -> None:
    scene.sql("INSERT INTO t VALUES (1)")
    steps: list[Step] = []

    async def use() -> None:
        async with AsyncPipeline(config, steps.append) as pipeline:
            await pipeline.write("t", {"id": 1}, add={"n": 1})
            assert await asyncio.gather(*(n_of(pipeline, 1) for _ in range(50))) == [1] * 50

    asyncio.run(use())
    assert steps.count(Step.FETCHED) == 1


def test_in_another_event_loop_it_says_whose_it_is_until_it_was_closed(config: Config) -> None:
    pipeline = AsyncPipeline(config)

    async def use() -> None:
        await pipeline.write("t", {"id": 1}, add={"n": 1})
        await n_of(pipeline, 1)

    async def refused() -> None:
        for call in (
            use(),
            pipeline.write("t", {"id": 1}, durability="disk"),
            pipeline.read("t", {"id": 1}),
            pipeline.read("t", {"id": 1}, allow_stale=True),
            pipeline.ping(),
            pipeline.close(),
        ):
            with pytest.raises(RuntimeError, match="belongs to the event loop that has used it first"):
                await call

    async def live() -> None:
        await use()
        await asyncio.to_thread(asyncio.run, refused())
        await use()
        await pipeline.close()

    for _ in range(2):
        asyncio.run(live())


def test_after_it_was_closed_it_opens_new_connections(config: Config) -> None:
    async def use() -> None:
        pipeline = AsyncPipeline(config)
        for turn in range(1, 4):
            await pipeline.write("t", {"id": 1}, add={"n": 1})
            assert await n_of(pipeline, 1) == turn
            await pipeline.close()
        await pipeline.close()

    asyncio.run(use())


def test_what_is_closed_while_it_is_used_leaves_nothing_open(scene: Scene, config: Config) -> None:
    before = clients(scene)

    async def use() -> None:
        pipeline = AsyncPipeline(config)
        await pipeline.write("t", {"id": 1}, add={"n": 1})
        writing = asyncio.create_task(pipeline.write_many([Change("t", {"id": 1}, add={"n": 1})] * 1000))
        await asyncio.sleep(0)
        await pipeline.close()
        assert len(await writing) == 1000
        await pipeline.close()

    asyncio.run(use())
    eventually(lambda: clients(scene) <= before, "a connection stays open")


def test_it_is_made_without_an_event_loop_and_with_the_settings_of_the_environment(scene: Scene) -> None:
    environ = {"PIPELINE_REDIS_URL": scene.redis_url, "PIPELINE_DATABASE_URL": scene.database_url}
    pipeline = AsyncPipeline.from_env({**environ, "PIPELINE_SHARDS": "3"})
    assert pipeline.config.shards == 3
    asyncio.run(pipeline.close())
    with pytest.raises(InvalidSetting, match="PIPELINE_SHARDS"):
        AsyncPipeline.from_env({"PIPELINE_SHARDS": "none"})


def test_a_client_of_another_topology_is_refused(scene: Scene, config: Config) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline, AsyncPipeline(scene.config(shards=5)) as other:
            await pipeline.write("t", {"id": 1}, add={"n": 1})
            for call in (other.ping(), other.write("t", {"id": 1}), other.read("t", {"id": 1})):
                with pytest.raises(TopologyMismatch):
                    await call

    asyncio.run(use())


def test_other_tasks_go_on_while_one_waits(scene: Scene, config: Config) -> None:
    """Nothing blocks the loop: not a miss, and not a server that is slow."""

    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            await n_of(pipeline, 1)
            with scene.connect() as blocker:
                blocker.execute("BEGIN; LOCK TABLE t")
                reading = asyncio.create_task(n_of(pipeline, 1))
                waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%t%'"
                await asyncio.to_thread(eventually, lambda: scene.sql(waiting), "nobody waits")
                await pipeline.write("t", {"id": 2}, add={"n": 1})
                assert not reading.done()
                blocker.execute("COMMIT")
            assert await reading is None

    asyncio.run(use())
