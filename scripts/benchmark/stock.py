"""What people do without this project: one Celery task for each row, one transaction for each task."""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from celery import Celery

STATEMENTS: dict[str, str] = json.loads(os.environ["BENCH_STATEMENTS"])

app = Celery("stock", broker=os.environ["BENCH_REDIS_URL"], set_as_current=False)
app.conf.update(task_serializer="json", task_ignore_result=True, task_default_queue="stock", task_acks_late=True)

_connections: dict[int, psycopg.Connection[Any]] = {}


@app.task(name="stock.write_row")
def write_row(workload: str, *row: Any) -> None:
    """Write one row, on a connection that the process keeps."""
    connection = _connections.get(os.getpid())
    if connection is None:
        connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"], autocommit=True)
        _connections[os.getpid()] = connection
    connection.execute(STATEMENTS[workload], row)
