"""What people do without this project: one Celery task for each row, one transaction for each task."""

from __future__ import annotations

import os

import psycopg
from celery import Celery

UPSERT = (
    "INSERT INTO page_views (page_id, views) VALUES (%s, %s) "
    "ON CONFLICT (page_id) DO UPDATE SET views = page_views.views + excluded.views"
)

app = Celery("stock", broker=os.environ.get("PIPELINE_REDIS_URL"), set_as_current=False)
app.conf.update(task_serializer="json", task_ignore_result=True, task_default_queue="stock", task_acks_late=True)

_connections: dict[int, psycopg.Connection] = {}


@app.task(name="stock.count_view")
def count_view(page_id: int, views: int) -> None:
    """Write one row, on a connection that the process keeps."""
    connection = _connections.get(os.getpid())
    if connection is None:
        connection = psycopg.connect(os.environ["PIPELINE_DATABASE_URL"], autocommit=True)
        _connections[os.getpid()] = connection
    connection.execute(UPSERT, (page_id, views))
