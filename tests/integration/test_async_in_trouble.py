"""`AsyncPipeline` while a server is away or says nothing: every task hears of it soon, and then all is well again."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
import redis

from pipeline import AsyncPipeline, BufferUnavailable, Config, StoreUnavailable
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.store.async_session import AsyncSessions
from tests.integration.conftest import MakeValkey
from tests.integration.scene import Scene

TASKS = 200
FOR_EVER_SECONDS = 30.0


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """It holds its connections open and answers nothing."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def process_of(server: Valkey) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("server")["process_id"])


async def n_of(pipeline: AsyncPipeline, row: int) -> Any:
    found = await pipeline.read("t", {"id": row})
    return None if found is None else found["n"]


async def outcomes(pipeline: AsyncPipeline) -> set[type[object]]:
    """What many tasks hear that read and write at the same time."""
    calls = [n_of(pipeline, row) if row % 2 else write(pipeline, row) for row in range(TASKS)]
    return {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)}


async def write(pipeline: AsyncPipeline, row: int) -> Any:
    return (await pipeline.write("t", {"id": row}, add={"n": 1})).duplicate


@pytest.fixture
def config(scene: Scene) -> Config:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    scene.sql("INSERT INTO t SELECT generate_series(0, 999)")
    return scene.config()


# --- PostgreSQL


def test_without_postgresql_every_task_that_misses_hears_of_it_at_once(
    scene: Scene, config: Config, postgres: Postgres
) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            scene.disconnect()
            postgres.stop()
            try:
                for _ in range(2):
                    assert await outcomes(pipeline) == {StoreUnavailable, bool}
            finally:
                postgres.start()
            assert await n_of(pipeline, 1) == 0

    began = time.monotonic()
    asyncio.run(use())
    assert time.monotonic() - began < FOR_EVER_SECONDS


def test_a_backend_that_says_nothing_is_given_up_and_another_one_is_asked(config: Config) -> None:
    async def use() -> None:
        sessions = AsyncSessions(config)
        async with sessions.queries() as queries:
            connection: Any = vars(queries)["_connection"]
            connection.patience_seconds = 0.3
            with stopped(connection.info.backend_pid):
                with pytest.raises(psycopg.OperationalError, match="not heard of"):
                    await queries.row("SELECT 1")
                assert connection.closed
                await queries.rollback()  # which is no error of its own
        async with sessions.queries() as queries:
            assert await queries.row("SELECT 1") == (1,)
        await sessions.close()

    asyncio.run(use())


def test_a_task_that_is_cancelled_does_not_wait_for_a_backend_that_says_nothing(scene: Scene, config: Config) -> None:
    async def use() -> float:
        async with AsyncPipeline(config) as pipeline:
            assert await n_of(pipeline, 1) == 0
            ((backend,),) = scene.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'celery-write-behind'")
            with stopped(backend):
                began = time.monotonic()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await n_of(pipeline, 2)
                waited = time.monotonic() - began
                assert await n_of(pipeline, 2) == 0  # from another one
            return waited

    assert asyncio.run(use()) < 3  # it takes five seconds to give up a check of a connection, and more for a statement


# --- Redis


def test_without_redis_every_task_hears_of_it_and_then_all_is_well(config: Config, valkey: Valkey) -> None:
    async def use() -> None:
        async with AsyncPipeline(config) as pipeline:
            assert await outcomes(pipeline) == {int, bool}
            valkey.stop()
            try:
                for _ in range(2):
                    assert await outcomes(pipeline) == {BufferUnavailable}
                assert await pipeline.read("t", {"id": 1}, allow_stale=True) == {"id": 1, "n": 0}
            finally:
                valkey.start()
            assert await outcomes(pipeline) == {int, bool}

    asyncio.run(use())


def test_a_redis_that_says_nothing_is_away_and_its_late_answers_are_nobodys(
    config: Config, make_valkey: MakeValkey
) -> None:
    server = make_valkey()
    process = process_of(server)
    impatient = msgspec.structs.replace(config, redis_url=server.url, redis_timeout_seconds=0.2)

    async def use() -> None:
        async with AsyncPipeline(impatient) as pipeline:
            for row in range(TASKS):
                assert await n_of(pipeline, row) == 0
            with stopped(process):
                for _ in range(2):  # over connections that were open, and over new ones
                    assert await outcomes(pipeline) == {BufferUnavailable}
                with pytest.raises(BufferUnavailable, match=r"for 0\.2 s"):
                    await pipeline.write("t", {"id": 1}, durability="disk")
                with pytest.raises(BufferUnavailable, match=r"for 0\.2 s"):
                    await pipeline.ping()
            for row in range(1, TASKS, 2):
                assert await n_of(pipeline, row) == 0
            for row in range(TASKS):
                receipt = await pipeline.write("t", {"id": 500 + row}, add={"n": row}, event_id=f"{row}")
                assert (receipt.event_id, receipt.duplicate) == (f"{row}", False)
                assert await n_of(pipeline, 500 + row) == row

    asyncio.run(use())
