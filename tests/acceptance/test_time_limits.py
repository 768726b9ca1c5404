"""The time limits of an app, or of who sends a task, are for the app's tasks: they do not kill a flush that waits."""

from collections.abc import Iterator

import psycopg
import pytest
from celery import Celery

from pipeline import Config, Pipeline
from tests.acceptance.nodes import ProcessWorker
from tests.acceptance.waiting import wait_until

SHOP = '''
"""A Celery app whose own tasks may take a second."""

from celery import Celery

from pipeline import Pipeline
from pipeline.contrib.celery import register

pipeline = Pipeline.from_env()
app = Celery("shop", broker=pipeline.config.broker_url, set_as_current=True)
app.conf.task_time_limit = 1
app.conf.task_soft_time_limit = 0.5
register(app, pipeline)
'''
SETTINGS = {"PIPELINE_SHARDS": "1", "PIPELINE_STATEMENT_TIMEOUT": "2", "PIPELINE_FLUSH_THRESHOLD": "0"}


@pytest.fixture
def shop(
    migrated: None,  # noqa: ARG001
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProcessWorker]:
    directory = tmp_path_factory.mktemp("shop")
    (directory / "tasks.py").write_text(SHOP)
    worker = ProcessWorker(
        environment={**environment, **SETTINGS, "C_FORCE_ROOT": "1"},
        scratch=directory,
        name="shop",
        options=("--concurrency=1", "--queues=pipeline.control"),
        directory=directory,
    )
    worker.start()
    yield worker
    worker.stop()
    worker.remove()


def test_a_flush_that_waits_for_a_lock_is_not_killed_by_an_apps_time_limit(
    shop: ProcessWorker, client: Celery, redis_url: str, database_url: str
) -> None:
    config = Config.from_mapping({**SETTINGS, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url})
    with Pipeline(config) as pipeline, psycopg.connect(database_url) as blocker:
        blocker.execute("CREATE TABLE views (page int PRIMARY KEY, n int)")
        blocker.commit()
        blocker.execute("LOCK TABLE views")
        pipeline.write("views", {"page": 1}, add={"n": 1})
        client.send_task("pipeline.flush_shard", [0], queue="pipeline.control", time_limit=1, soft_time_limit=1)
        wait_until(lambda: pipeline.status().shards[0].failures, "the flush that runs into the lock's timeout")
        blocker.rollback()
        (shard,) = pipeline.status().shards
        assert "57014" in (shard.error or "") or "lock" in (shard.error or ""), shard
    assert "TimeLimit" not in shop.logs()
    assert "signal 9" not in shop.logs()
