"""The nodes as containers of the image that the Dockerfile makes, for a machine with Docker: TEST_NODES=docker.

Inside their network the containers know each other by address; the tests reach the same servers by published ports.
"""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from pytest_celery import CeleryTestContainer, CeleryWorkerContainer, RedisContainer
from pytest_docker_tools import build, container, fetch, fxtr, network

from tests.acceptance.nodes import ROOT, process_environment

__all__ = [
    "database_url",
    "default_beat_container",
    "default_redis_backend",
    "default_redis_broker",
    "default_worker_container",
    "environment",
    "inside",
    "migrated",
    "pipeline_image",
    "pipeline_network",
    "postgres_container",
    "postgres_image",
    "redis_url",
    "valkey_image",
]

START_SECONDS = 120
PASSWORD = "pipeline"


class PostgresContainer(CeleryTestContainer):
    @property
    def ready_prompt(self) -> str:
        return "listening on IPv4 address"  # while the image initialises, its server listens on a socket only


class PipelineWorkerContainer(CeleryWorkerContainer):
    @property
    def celeryconfig(self) -> dict[str, str]:
        return {}

    @classmethod
    def worker_queue(cls) -> str:
        return "pipeline"


class PipelineBeatContainer(CeleryTestContainer):
    @property
    def ready_prompt(self) -> str:
        return "beat: Starting..."


pipeline_network = network(scope="session")
pipeline_image = build(path=str(ROOT), tag="celery-write-behind:test", scope="session")
postgres_image = fetch(repository="postgres:18-alpine", scope="session")
valkey_image = fetch(repository="valkey/valkey:9-alpine", scope="session")

default_redis_broker = container(
    image="{valkey_image.id}",
    command=["valkey-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction", "--protected-mode", "no"],
    ports={"6379/tcp": None},
    network="{pipeline_network.name}",
    wrapper_class=RedisContainer,
    timeout=START_SECONDS,
    scope="module",
)

postgres_container = container(
    image="{postgres_image.id}",
    environment={"POSTGRES_PASSWORD": PASSWORD},
    ports={"5432/tcp": None},
    network="{pipeline_network.name}",
    wrapper_class=PostgresContainer,
    timeout=START_SECONDS,
    scope="module",
)

default_worker_container = container(
    image="{pipeline_image.id}",
    command=["celery", "-A", "tasks", "worker", "--loglevel=INFO", "--concurrency=2", "--hostname=worker@%h"],
    environment=fxtr("inside"),
    network="{pipeline_network.name}",
    wrapper_class=PipelineWorkerContainer,
    timeout=START_SECONDS,
    scope="module",
)

default_beat_container = container(
    image="{pipeline_image.id}",
    command=["celery", "-A", "tasks", "beat", "--loglevel=INFO", "--schedule=/tmp/schedule", "--pidfile="],
    environment=fxtr("inside"),
    network="{pipeline_network.name}",
    wrapper_class=PipelineBeatContainer,
    timeout=START_SECONDS,
    scope="module",
)


@pytest.fixture(scope="module")
def default_redis_backend(default_redis_broker: RedisContainer) -> RedisContainer:
    return default_redis_broker


@pytest.fixture(scope="module")
def redis_url(default_redis_broker: RedisContainer) -> str:
    return str(default_redis_broker.host_url)


@pytest.fixture(scope="module")
def database_url(postgres_container: PostgresContainer) -> str:
    address, port = postgres_container.get_addr("5432/tcp")
    return f"postgresql://postgres:{PASSWORD}@{address}:{port}/postgres"


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    """What a command line on this machine is told about where it is."""
    return {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}


@pytest.fixture(scope="module")
def migrated(environment: dict[str, str]) -> None:
    """The database has the pipeline's schema."""
    _wait_for(environment["PIPELINE_DATABASE_URL"])
    program = Path(sys.executable).parent / "pipeline"
    subprocess.run([program, "migrate"], cwd=ROOT, env=process_environment(environment), check=True)


@pytest.fixture(scope="module")
def inside(
    migrated: None,  # noqa: ARG001
    default_redis_broker: RedisContainer,
    postgres_container: PostgresContainer,
) -> dict[str, str]:
    """What a container of the network is told about where it is."""
    return {
        "PIPELINE_REDIS_URL": str(default_redis_broker.url),
        "PIPELINE_DATABASE_URL": f"postgresql://postgres:{PASSWORD}@{postgres_container.ips.primary}:5432/postgres",
        "PYTHONUNBUFFERED": "1",
    }


def _wait_for(database_url: str) -> None:
    """Between listening and accepting, a server that has just started refuses for some milliseconds."""
    while True:
        try:
            psycopg.connect(database_url).close()
        except psycopg.errors.CannotConnectNow:
            continue
        return
