"""The nodes as processes, on the session's embedded servers. What `conftest` takes unless TEST_NODES=docker."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pipeline.contrib.embedded import Postgres, Valkey
from tests.acceptance.nodes import ROOT, ProcessBeat, ProcessRedis, ProcessWorker, process_environment

__all__ = [
    "database_url",
    "default_beat_container",
    "default_redis_backend",
    "default_redis_broker",
    "default_worker_container",
    "environment",
    "migrated",
    "redis_url",
]


@pytest.fixture(scope="module")
def redis_url(valkey: Valkey) -> str:
    """Database 0 of the session's Valkey, emptied for this module."""
    if not valkey.running:
        valkey.start()
    with redis.Redis.from_url(valkey.url) as connection:
        connection.flushall()
        connection.script_flush()
    return valkey.url


@pytest.fixture(scope="module")
def database_url(postgres: Postgres, new_database: Callable[[], str]) -> str:
    """A database of this module's own. It goes with the session's server."""
    return postgres.url_of(new_database())


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    """What a worker, beat or command line is told about where it is."""
    return {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}


@pytest.fixture(scope="module")
def migrated(environment: dict[str, str]) -> None:
    """The database has the pipeline's schema."""
    program = Path(sys.executable).parent / "pipeline"
    subprocess.run([program, "migrate"], cwd=ROOT, env=process_environment(environment), check=True)


@pytest.fixture(scope="module")
def default_worker_container(
    migrated: None,  # noqa: ARG001
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProcessWorker]:
    worker = ProcessWorker(environment=environment, scratch=tmp_path_factory.mktemp("worker"))
    worker.start()
    yield worker
    worker.remove()  # as it is: to end in order takes seconds, and is a test of its own


@pytest.fixture(scope="module")
def default_beat_container(
    migrated: None,  # noqa: ARG001
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProcessBeat]:
    beat = ProcessBeat(environment=environment, scratch=tmp_path_factory.mktemp("beat"))
    beat.start()
    yield beat
    beat.remove()


@pytest.fixture(scope="module")
def default_redis_broker(valkey: Valkey) -> ProcessRedis:
    return ProcessRedis(valkey)


@pytest.fixture(scope="module")
def default_redis_backend(valkey: Valkey) -> ProcessRedis:
    return ProcessRedis(valkey)
