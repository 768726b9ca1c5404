"""The service: ``celery -A tasks worker``, ``celery -A tasks beat``, ``celery -A tasks flower``."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import celeryd_init
from kombu import Queue

from pipeline import Pipeline
from pipeline.contrib.celery import register
from pipeline.errors import InvalidSetting
from settings import CONFIG

__all__ = ["app", "pipeline"]

REDIS = ("redis://", "rediss://", "unix://", "sentinel://")

try:
    pipeline = Pipeline(CONFIG)
except InvalidSetting as error:  # a URL that cannot be read
    raise SystemExit(str(error)) from None

OWN_QUEUES = (f"{CONFIG.namespace}.control", CONFIG.namespace)
"""In the order in which a worker takes them: a flood of events must not starve what flushes."""

OTHERS = (f"{CONFIG.namespace}.others",) if CONFIG.shares_broker else ()
"""What the flush finds in the ingress queue and leaves to Celery; a worker of that queue takes it by itself."""

SHARD_QUEUES = tuple(f"{CONFIG.namespace}.events.{{{shard}}}" for shard in range(CONFIG.shards))

app = Celery("pipeline", broker=CONFIG.broker_url)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    result_serializer="json",
    task_ignore_result=True,
    task_default_queue=CONFIG.namespace,
    task_queues=[Queue(name) for name in (*OWN_QUEUES, *OTHERS, *SHARD_QUEUES)],
    task_create_missing_queues=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    worker_soft_shutdown_timeout=CONFIG.flush_slice_seconds + 5.0,
    worker_enable_soft_shutdown_on_idle=False,
    worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
    # kombu would take them in turns; other brokers than Redis do not know the option
    broker_transport_options={"queue_order_strategy": "priority"} if CONFIG.broker_url.startswith(REDIS) else {},
    broker_channel_error_retry=True,  # a full Redis refuses to note what a worker took: no reason to exit
    beat_max_loop_interval=CONFIG.flush_interval_seconds,
)
register(app, pipeline)


@celeryd_init.connect
def leave_the_shard_queues_to_the_flush(options: dict[str, Any] | None = None, **_: Any) -> None:
    """The app knows the shard queues so that Flower shows their depth; a worker without ``-Q`` does not take them."""
    if not (options or {}).get("queues"):
        app.amqp.queues.select(list(OWN_QUEUES))
