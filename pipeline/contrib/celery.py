"""The tasks of a pipeline, for any Celery app.

.. code-block:: python

    app = Celery("shop", broker="redis://…")
    register(app, Pipeline.from_env())

adds ``pipeline.apply_event`` (queue ``pipeline``), ``pipeline.flush``, ``pipeline.flush_shard`` and
``pipeline.prune_ledger`` (queue ``pipeline.control``), routes them, and puts the periodic ones into the beat schedule.
A worker for them takes both queues beside the app's own: ``celery -A shop worker -Q celery,pipeline,pipeline.control``.

Where the broker is the pipeline's own Redis, ``pipeline.flush`` takes the queue ``pipeline`` in bulk. Then a worker of
it consumes ``pipeline.others`` instead: what was found there that only Celery can handle.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any, Final

import msgspec
from celery import Celery, Task
from celery.exceptions import Reject
from celery.signals import worker_init, worker_process_shutdown, worker_shutdown
from celery.worker.request import Request
from kombu import Queue
from kombu.utils.json import dumps, register_type

from pipeline.config import Config
from pipeline.contrib._celery_guard import guard, read_as_celery
from pipeline.core.values import timedelta_us
from pipeline.driving import run
from pipeline.errors import PipelineError, TopologyMismatch
from pipeline.wiring import Pipeline

__all__ = ["register"]

log: Final = logging.getLogger("pipeline.celery")

_PRUNE_SECONDS: Final = 3600.0
_TICKS_EXPIRE_SECONDS: Final = 30.0  # clocks of beat and worker may differ; a late tick does no harm
_PAUSES_SECONDS: Final = (0.1, 0.4, 1.5)  # the worker's processes are needed for the flush that makes room

_OTHER_LISTS: Final = frozenset({"global_keyprefix", "priority_steps", "sep"})
"""Options of kombu's transport with which a queue lies in other lists than those that are taken in bulk."""

_LONG_WAITS: Final = 20
"""Statements of one batch that may each wait for as long as they can; a healthy batch has none."""

_CONNECTION_SECONDS: Final = 20.0
"""Ten for a connection of the pool, five for an attempt without it, five of grace: see `pipeline.store.session`."""


def register(app: Celery, pipeline: Pipeline) -> None:
    """Add the pipeline's tasks to ``app``. Connections are opened by the worker processes, at first use."""
    register_type(timedelta, "timedelta", timedelta_us, lambda us: timedelta(microseconds=us))
    namespace = pipeline.config.namespace
    control = f"{namespace}.control"
    _register_ingress(app, pipeline)
    _register_flush(app, pipeline)
    app.steps["consumer"].add(guard(pipeline))
    app.conf.task_routes = {
        **(app.conf.task_routes or {}),
        f"{namespace}.apply_event": {"queue": namespace},
        f"{namespace}.*": {"queue": control},
    }
    interval = pipeline.config.flush_interval_seconds
    app.conf.beat_schedule = {
        **(app.conf.beat_schedule or {}),
        # an expired tick is dropped: when workers are away, ticks must not pile up
        f"{namespace}.flush": {
            "task": f"{namespace}.flush",
            "schedule": interval,
            "options": {"expires": max(10 * interval, _TICKS_EXPIRE_SECONDS), "queue": control},
        },
        f"{namespace}.prune_ledger": {
            "task": f"{namespace}.prune_ledger",
            "schedule": _PRUNE_SECONDS,
            "options": {"expires": _PRUNE_SECONDS, "queue": control},
        },
    }

    def close(**_: Any) -> None:
        pipeline.close()

    def check(sender: Any, **_: Any) -> None:
        taken = [queue for queue in sender.app.amqp.queues.consume_from if queue.startswith(f"{namespace}.events.")]
        if taken:
            raise SystemExit(
                f"{', '.join(taken)}: events wait there for the flush, which takes them in bulk and in order; "
                f"a worker consumes {namespace} and {control}"
            )
        _take_in_bulk(sender.app, pipeline.config)
        try:
            pipeline.ping()
        except TopologyMismatch as error:
            raise SystemExit(str(error)) from error
        except PipelineError as error:  # Celery itself waits for a broker that is away
            log.warning("%s", error)

    worker_init.connect(check, weak=False)
    worker_process_shutdown.connect(close, weak=False)
    worker_shutdown.connect(close, weak=False)


def _take_in_bulk(app: Celery, config: Config) -> None:
    """Make a worker of the ingress queue leave it to the flush, so that the events of a client keep their order."""
    queues = app.amqp.queues
    if not config.shares_broker or config.namespace not in queues.consume_from:
        return
    others = f"{config.namespace}.others"
    queues.select_add(Queue(others, routing_key=others))
    elsewhere = app.conf.broker_read_url != config.redis_url
    if config.ingress_batch and not elsewhere and not _OTHER_LISTS & (app.conf.broker_transport_options or {}).keys():
        queues.deselect([config.namespace])


def _register_ingress(app: Celery, pipeline: Pipeline) -> None:
    namespace = pipeline.config.namespace

    @app.task(
        name=f"{namespace}.apply_event",
        base=_ApplyEvent,
        bind=True,
        shared=False,  # Celery would add it to every app of the process, of which each may have its own pipeline
        acks_late=True,  # acknowledged when the event is in its shard; its id makes a second run harmless
        reject_on_worker_lost=True,
        acks_on_timeout=False,  # an app's own time limit ends the try, and not the event
        ignore_result=True,
    )
    def apply_event(self: Task[Any, Any], *positional: Any, **arguments: Any) -> None:
        """Accept an event from any Celery client: keyword arguments of one change, or ``changes=[…]``."""
        request = self.request
        for pause in _PAUSES_SECONDS:
            try:
                run(
                    pipeline.ingress.accept(
                        str(request.id),
                        None if positional else arguments,
                        lambda: dumps([positional, arguments, {}]),
                    )
                )
            except PipelineError as error:
                log.warning("event %s cannot be accepted now: %s", request.id, error)
            except Exception:  # whatever it is, a message that is not accepted must not be acknowledged
                log.exception("event %s cannot be accepted now", request.id)
            else:
                return
            time.sleep(pause)
        # Not self.retry: it publishes a delayed copy, which is lost if that fails and is not counted as prefetched
        raise Reject("not accepted now", requeue=True)


class _UnhurriedRequest(Request):
    """Takes no time limit from a client: it could kill the worker's process each time that the task is delivered."""

    time_limits = property(lambda _: (None, None), lambda _self, _limits: None)


class _DiscreetRequest(_UnhurriedRequest):
    """Tells Flower and other listeners that there is an event, and not what is in it (law L9)."""

    argsrepr = property(lambda _: "()")
    kwargsrepr = property(lambda _: "{…}")


class _ApplyEvent(Task):  # type: ignore[type-arg]
    """Refuses positional arguments where the mistake is made; a worker must take what another client sent."""

    Request = f"{__name__}:{_DiscreetRequest.__name__}"

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        if args:
            raise TypeError(f"{self.name} takes keyword arguments only: table=…, key=…, set=…, or changes=[…]")
        options = {"argsrepr": "()", "kwargsrepr": "{…}", **options}
        return super().apply_async(args, kwargs, *rest, **options)


class _Unhurried(Task):  # type: ignore[type-arg]
    Request = f"{__name__}:{_UnhurriedRequest.__name__}"


def _limits(config: Config) -> dict[str, float]:
    """Time limits for what works on PostgreSQL, instead of the app's own.

    A hard limit kills the process, and that counts as a death of its batch. Celery knows no task without one if the
    app has one. So these are for what nobody has thought of: the connection itself ends a wait for a silent server, and
    the server one for a lock. A flush takes its slice and the batch that was begun in it: 5 + 20 x (30 + 20) seconds
    by default, 17 minutes, until the soft limit ends it like any failure; and another long wait until the hard one.
    """
    wait = config.statement_timeout_seconds + _CONNECTION_SECONDS
    soft = config.flush_slice_seconds + _LONG_WAITS * wait
    return {"soft_time_limit": soft, "time_limit": soft + 2 * wait}


def _register_flush(app: Celery, pipeline: Pipeline) -> None:
    namespace = pipeline.config.namespace
    options: dict[str, Any] = {"base": _Unhurried, "shared": False, "ignore_result": True, **_limits(pipeline.config)}

    @app.task(name=f"{namespace}.flush_shard", **options)
    def flush_shard(shard: int) -> dict[str, Any]:
        """Write the pending events of one shard to PostgreSQL."""
        report: dict[str, Any] = msgspec.to_builtins(pipeline.flush_shard(shard))
        return report

    @app.task(name=f"{namespace}.flush", **options)
    def flush() -> list[int]:
        """Take what has arrived; flush every shard that has something to do: the last one here, others by tasks.

        While there is much to take, others flush already.
        """
        asked: list[int] = []

        def share() -> None:
            for shard in pipeline.shards_to_flush():
                flush_shard.delay(shard)
                asked.append(shard)

        try:
            pipeline.take_ingress(read_as_celery, share)
        except Exception:  # whatever it is, what was accepted is written, and room is made
            log.exception("the ingress queue cannot be taken now")
        shards = pipeline.shards_to_flush()
        for shard in shards[:-1]:
            flush_shard.delay(shard)
        if shards:
            pipeline.flush_shard(shards[-1])
        if asked:
            share()  # again, since somebody who was at a shard meanwhile has left there what was little
        return shards

    @app.task(name=f"{namespace}.prune_ledger", **options)
    def prune_ledger() -> int:
        """Forget applied batches that are older than the ledger's retention."""
        return pipeline.ledger.prune()
