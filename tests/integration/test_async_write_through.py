"""`AsyncPipeline.write_through` in a transaction of the caller's, and what its flush does to the event loop."""

import asyncio
from typing import Any

import psycopg
import pytest

from pipeline import AsyncPipeline, ChangeRefused, Config, InvalidEvent, NotSettled
from tests.integration.scene import Scene, eventually

KEY = {"id": 1}


@pytest.fixture
def config(scene: Scene) -> Config:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    return scene.config()


async def n_of(pipeline: AsyncPipeline) -> Any:
    row = await pipeline.read("t", KEY)
    return None if row is None else row["n"]


@pytest.mark.parametrize("undone", [False, True])
def test_it_joins_the_callers_transaction(scene: Scene, config: Config, *, undone: bool) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline, await psycopg.AsyncConnection.connect(config.database_url) as own:
            await pipeline.write("t", KEY, add={"n": 1})
            async with own.transaction(force_rollback=undone):
                await pipeline.write_through("t", KEY, add={"n": 10}, connection=own)
                with pytest.raises(ChangeRefused):
                    await pipeline.write_through("t", KEY, set={"n": "many"}, connection=own)
                assert await n_of(pipeline) == 1
            assert await n_of(pipeline) == 1 + 10 * (not undone)

    asyncio.run(use())
    assert scene.sql("SELECT n FROM t") == [(1 + 10 * (not undone),)]


def test_a_connection_of_a_thread_is_refused(scene: Scene, config: Config) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            with scene.connect() as connection, pytest.raises(InvalidEvent, match="must be a psycopg"):
                await pipeline.write_through("t", KEY, add={"n": 1}, connection=connection)

    asyncio.run(use())


def test_the_loop_goes_on_while_a_flush_waits_for_a_lock_and_the_call_ends_at_its_deadline(
    scene: Scene, config: Config
) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline, await psycopg.AsyncConnection.connect(config.database_url) as own:
            await pipeline.write("t", KEY, add={"n": 1})
            await own.execute("LOCK TABLE t IN EXCLUSIVE MODE")
            call = asyncio.create_task(pipeline.write_through("t", KEY, add={"n": 10}, connection=own, timeout=1))
            turns = 0
            while not call.done():
                assert await n_of(pipeline) == 1
                turns += 1
            assert turns > 1
            with pytest.raises(NotSettled, match="has not ended"):
                await call
            await own.rollback()

    asyncio.run(use())
    eventually(lambda: scene.sql("SELECT n FROM t") == [(1,)], "the flush that waited goes on")


def test_a_cancelled_call_has_done_nothing_or_all_and_holds_nobody_up(config: Config) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            done = 0
            for number in range(30):
                call = asyncio.create_task(pipeline.write_through("t", KEY, add={"n": 1}))
                await asyncio.sleep(0.0005 * number)
                call.cancel()
                try:
                    await call
                    done += 1
                except asyncio.CancelledError:
                    pass
            await pipeline.write_through("t", KEY, add={"n": 1000}, timeout=5)
            assert done + 1000 <= await n_of(pipeline) <= 1030

    asyncio.run(use())
