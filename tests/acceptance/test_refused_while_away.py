"""What a worker refuses while the pipeline's Redis is away it holds, and gives back to its queue when it ends."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from scripts.chaos_run.proxy import Proxy
from tests.acceptance.nodes import ProcessWorker
from tests.acceptance.waiting import wait_until


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """Between the pipeline and its Redis, but not between Celery and its broker, which are the same server."""
    between = Proxy(urlsplit(redis_url).port or 0)
    between.start()
    yield between
    between.stop()


@pytest.fixture
def worker(
    migrated: None,  # noqa: ARG001
    environment: dict[str, str],
    redis_url: str,
    proxy: Proxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProcessWorker]:
    away = redis_url.replace(f":{urlsplit(redis_url).port}", f":{proxy.port}")
    worker = ProcessWorker(
        environment={**environment, "PIPELINE_REDIS_URL": away, "PIPELINE_BROKER_URL": redis_url},
        scratch=tmp_path_factory.mktemp("worker"),
        options=("--concurrency=1", "--queues=pipeline"),
    )
    worker.start()
    yield worker
    worker.stop()
    worker.remove()


def test_what_is_held_outlives_a_reconnection_and_goes_back_at_the_end(
    worker: ProcessWorker, proxy: Proxy, redis_url: str
) -> None:
    garbage = [b"garbage 1", b"garbage 2", b"garbage 3"]
    with redis.Redis.from_url(redis_url) as client:
        proxy.cut()
        client.lpush("pipeline", *garbage[:2])
        wait_until(lambda: "2 refused messages wait for Redis" in worker.logs(), "the worker holds them")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        wait_until(lambda: "onnection to broker lost" in worker.logs(), "the worker has noticed")
        client.lpush("pipeline", garbage[2])
        wait_until(lambda: "3 refused messages wait for Redis" in worker.logs(), "it goes on where it was")
        assert client.llen("pipeline") == 0
        assert "lost with this worker" not in worker.logs()
        worker.stop()
        assert sorted(client.lrange("pipeline", 0, -1)) == garbage
    assert "lost with this worker" not in worker.logs()
