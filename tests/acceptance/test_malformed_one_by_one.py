"""A worker that takes the ingress queue one by one meets broken messages."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pytest_celery import CeleryTestNode, CeleryTestWorker

from pipeline import Pipeline
from tests.acceptance.broken_ingress import *  # noqa: F403 - its tests, and what they need
from tests.acceptance.broken_ingress import reasons
from tests.acceptance.waiting import wait_until

pytestmark = pytest.mark.usefixtures("worker", "beat")


@pytest.fixture(scope="module")
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    urls = {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
    return {**urls, "PIPELINE_INGRESS_BATCH": "0", "PIPELINE_FLUSH_INTERVAL": "0.1", "PIPELINE_RETRY_CAP": "0.5"}


def test_broken_messages_are_handed_over_although_redis_is_full(  # noqa: PLR0917 - the whole stage
    worker: CeleryTestWorker,
    beat: CeleryTestNode,
    broker: Any,
    database: psycopg.Connection,
    pipeline: Pipeline,
    goes_on: Callable[[], None],
) -> None:
    sent = [b"too full %d" % n for n in range(150)]
    beat.container.kill("SIGSTOP")  # a tick that is taken from a full Redis is lost: kombu cannot note it
    wait_until(lambda: not broker.exists("unacked", "pipeline", "pipeline.control"), "an idle worker")
    worker.container.kill("SIGSTOP")
    broker.lpush("pipeline", *sent)
    broker.config_set("maxmemory", 1)
    try:
        worker.container.kill("SIGCONT")
        wait_until(lambda: pipeline.status().pending == len(sent), "all of them in a shard")
    finally:
        broker.config_set("maxmemory", 0)
        worker.container.kill("SIGCONT")
        beat.container.kill("SIGCONT")
    wait_until(lambda: all(len(reasons(database, message)) == 1 for message in sent), "their dead letters")
    goes_on()
