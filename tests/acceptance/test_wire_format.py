"""Our messages are Celery's: a stock worker without a line of our code consumes them, and in the order of the queue."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import redis

from pipeline import Change, Config, Pipeline
from tests.acceptance.nodes import ProcessWorker
from tests.acceptance.waiting import wait_until

STOCK_APP = '''
"""A Celery app as anybody writes one; it notes what its task was called with."""

import os

import redis
from celery import Celery

app = Celery("stock", broker=os.environ["PIPELINE_REDIS_URL"])
app.conf.task_serializer = "json"
notes = redis.Redis.from_url(os.environ["PIPELINE_REDIS_URL"])


@app.task(name="pipeline.apply_event", bind=True)
def apply_event(self, **arguments):
    notes.rpush("noted", repr((self.request.id, arguments)))
'''


@pytest.fixture
def pipeline(redis_url: str) -> Iterator[Pipeline]:
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushdb()
    with Pipeline(Config(redis_url=redis_url, shards=2)) as pipeline:
        yield pipeline


@pytest.fixture
def stock_worker(redis_url: str, tmp_path: Path) -> Iterator[ProcessWorker]:
    (tmp_path / "tasks.py").write_text(STOCK_APP)
    worker = ProcessWorker(
        environment={"PIPELINE_REDIS_URL": redis_url},
        scratch=tmp_path,
        name="stock",
        options=("--concurrency=1", "--queues=pipeline.events.{0},pipeline.events.{1}"),
        directory=tmp_path,
    )
    yield worker
    worker.stop()
    worker.remove()


def test_a_stock_worker_consumes_what_we_wrote(pipeline: Pipeline, stock_worker: ProcessWorker, redis_url: str) -> None:
    values = {
        "price": Decimal("1.50"),
        "at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "token": UUID(int=7),
        "raw": b"\x00\xff",
        "text": 'quotes " and \\ and tabs\t and ümlauts',
        "nested": {"a": [1, 2.5, None, True]},
    }
    single = pipeline.write("page_views", key={"page_id": 7}, set=values, add={"views": 1})
    group = pipeline.write_group(
        [Change("orders", key={"id": 1}, set={"total": 3}), Change("lines", insert={"order_id": 1})],
        shard_by="order:1",
        event_id='an id with "quotes"',
    )
    with redis.Redis.from_url(redis_url, decode_responses=True) as notes:
        stock_worker.start()
        wait_until(lambda: notes.llen("noted") == 2, "two consumed messages")
        noted = sorted(notes.lrange("noted", 0, -1))
        wait_until(lambda: notes.hlen("unacked") == 0, "their acknowledgements")
    expected = sorted(
        [
            repr((single.event_id, {"table": "page_views", "key": {"page_id": 7}, "set": values, "add": {"views": 1}})),
            repr(
                (
                    group.event_id,
                    {
                        "changes": [
                            {"table": "orders", "key": {"id": 1}, "set": {"total": 3}},
                            {"table": "lines", "insert": {"order_id": 1}},
                        ],
                        "shard_by": "order:1",
                    },
                )
            ),
        ]
    )
    assert noted == expected


def test_the_oldest_message_is_consumed_first(pipeline: Pipeline, stock_worker: ProcessWorker, redis_url: str) -> None:
    for n in range(20):
        pipeline.write("page_views", key={"page_id": 1}, set={"views": n})
    with redis.Redis.from_url(redis_url, decode_responses=True) as notes:
        stock_worker.start()
        wait_until(lambda: notes.llen("noted") == 20, "all messages")
        order = [json.loads(note.partition("{'views': ")[2].rstrip("})")) for note in notes.lrange("noted", 0, -1)]
    assert order == list(range(20))
