"""Messages are collected in the worker's parent process, and written by one ``executemany`` in one transaction."""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from celery import Celery
from celery_batches import Batches, SimpleRequest

STATEMENTS: dict[str, str] = json.loads(os.environ["BENCH_STATEMENTS"])
FLUSH_EVERY = 1000

app = Celery("batches", broker=os.environ["BENCH_REDIS_URL"], set_as_current=False)
app.conf.update(
    task_serializer="json",
    task_ignore_result=True,
    task_default_queue="batches",
    worker_prefetch_multiplier=0,  # as its documentation asks for: what is collected counts as prefetched
)

_connections: dict[int, psycopg.Connection[Any]] = {}


@app.task(name="batches.write_row", base=Batches, flush_every=FLUSH_EVERY, flush_interval=0.5)
def write_rows(requests: list[SimpleRequest]) -> None:
    """Write the rows of a batch, on a connection that the process keeps."""
    connection = _connections.get(os.getpid())
    if connection is None:
        connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"], autocommit=True)
        _connections[os.getpid()] = connection
    rows: dict[str, list[list[Any]]] = {}
    for request in requests:
        workload, *row = request.args
        rows.setdefault(workload, []).append(row)
    with connection.transaction(), connection.cursor() as cursor:
        for workload, found in rows.items():
            cursor.executemany(STATEMENTS[workload], found)
