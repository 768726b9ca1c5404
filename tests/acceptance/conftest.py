"""Worker and beat as users run them: real processes, or with TEST_NODES=docker the image in containers.

One set for each module, since starting a worker takes seconds: a test that kills a node starts it again.
Both forms define `redis_url`, `database_url`, `migrated`, `default_worker_container`, `default_beat_container`,
`default_redis_broker` and `default_redis_backend`; so pytest-celery's own fixtures (`celery_setup` …) work too.
"""

import os
from collections.abc import Generator, Iterator

import pytest
from celery import Celery
from kombu import pools
from pytest_celery import CeleryTestContainer, CeleryTestNode, CeleryTestWorker, RedisTestBackend, RedisTestBroker

if os.environ.get("TEST_NODES", "process") == "docker":
    from tests.acceptance.containers import *  # noqa: F403 - the fixtures of one form or of the other
else:
    from tests.acceptance.processes import *  # noqa: F403


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Celery]:
    """Any Celery application that sends to the pipeline: it knows the broker and names, and none of our code."""
    pools.reset()  # kombu keeps connections for the whole process, and other modules restart the server
    app = Celery("client", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture(scope="module")
def worker(default_worker_container: CeleryTestContainer, client: Celery) -> CeleryTestWorker:
    """A running `celery -A tasks worker` on this module's Redis and database."""
    return CeleryTestWorker(default_worker_container, client)


@pytest.fixture(scope="module")
def beat(default_beat_container: CeleryTestContainer, client: Celery) -> CeleryTestNode:
    """A running `celery -A tasks beat` on this module's Redis and database."""
    return CeleryTestNode(default_beat_container, client)


@pytest.fixture(params=["celery_redis_broker"])
def celery_broker(request: pytest.FixtureRequest) -> RedisTestBroker:
    """pytest-celery's, without the brokers that the pipeline does not use by default."""
    broker: RedisTestBroker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture(params=["celery_redis_backend"])
def celery_backend(request: pytest.FixtureRequest) -> RedisTestBackend:
    backend: RedisTestBackend = request.getfixturevalue(request.param)
    return backend


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The report of a failed test shows what its nodes have said."""
    report = yield
    if report.failed:
        nodes = {name: node for name, node in item.funcargs.items() if isinstance(node, CeleryTestNode)}
        report.sections += [(f"log of {name}", node.logs()[-10_000:]) for name, node in nodes.items()]
    return report
