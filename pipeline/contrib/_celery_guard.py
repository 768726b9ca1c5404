"""Keeps broken messages away from Celery's worker, which some of them end, and others leave without a word.

A step of the worker's consumer. On Redis it reads every message of the pipeline's own queues as it comes out of the
socket, before kombu does; what Celery must not be given (`Ingress.refusal`) is handed to the flush instead, byte for
byte, and becomes a dead letter. On other brokers it does the same with the message that kombu has made. Either way it
is also the net below: a message of ours that Celery itself rejects does not vanish. Other queues are left alone.
"""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import msgspec
from celery import bootsteps
from celery.bootsteps import RUN  # type: ignore[attr-defined] # its stubs leave it out
from celery.worker.consumer.tasks import Tasks
from kombu.utils.json import dumps, loads

from pipeline.driving import run
from pipeline.errors import PipelineError
from pipeline.wiring import Pipeline

__all__ = ["guard", "read_as_celery"]

log: Final = logging.getLogger("pipeline.celery")

_CAUSED_BY_A_MESSAGE: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


_MOST_HELD: Final = 100  # while Redis is away; more go back to where they came from, and come again


class _Refused(msgspec.Struct):
    key: bytes
    raw: bytes
    reason: str
    delivery: str


def guard(pipeline: Pipeline) -> type[bootsteps.StartStopStep]:
    """The step for ``app.steps["consumer"]`` that guards the queues of ``pipeline``."""

    class Guard(bootsteps.StartStopStep):
        name: ClassVar[str | None] = f"pipeline.guard.{pipeline.config.namespace}"
        label: ClassVar[str | None] = "Guard"
        requires: tuple[type[bootsteps.Step] | str, ...] = (Tasks,)

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)
            self.door = _Door(pipeline, parent.app.tasks)
            self.door.hang_the_net(parent)
            _keep_out(parent, f"{pipeline.config.namespace}.events.")

        def start(self, parent: Any) -> None:
            """A consumer that starts, or starts again, has a new channel."""
            if parent.connection.transport.driver_type == "redis":
                self.door.watch(parent.task_consumer.channel)

        def stop(self, parent: Any) -> None:
            """At the end of the worker, and whenever its consumer starts again because the broker was away."""
            if parent.blueprint.state == RUN:
                self.door.settle()
            else:
                self.door.leave()

    return Guard


def _keep_out(consumer: Any, shard_queues: str) -> None:
    """Let nobody make ``consumer`` take from a shard queue at run time; `register` refuses a worker that begins so."""
    add = consumer.add_task_queue

    def add_task_queue(queue: str, *arguments: Any, **options: Any) -> None:
        if queue.startswith(shard_queues):
            log.error("%s: events wait there for the flush; it is not consumed", queue)
        else:
            add(queue, *arguments, **options)

    consumer.add_task_queue = add_task_queue


class _Door:
    def __init__(self, pipeline: Pipeline, tasks: Any) -> None:
        self._pipeline = pipeline
        self._tasks = tasks
        self._task = f"{pipeline.config.namespace}.apply_event"
        namespace = pipeline.config.namespace
        self._queues = frozenset({namespace, f"{namespace}.control", f"{namespace}.others"})
        self._held: list[_Refused] = []  # refused while Redis was away
        self._channel: Any = None  # that is watched
        self._leaving = False

    # --- on Redis: what comes out of the socket

    def watch(self, channel: Any) -> None:
        """Look at every reply to the BRPOP of ``channel``; there is one each second at least."""
        self._channel = channel
        client, separator = channel.client, channel.sep
        receive = client.parse_response

        def parse_response(connection: Any, command_name: str, **options: Any) -> Any:
            reply = receive(connection, command_name, **options)
            if command_name != "BRPOP":
                return reply
            self.settle()
            if reply:
                key, raw = reply
                queue = key.decode("utf-8", "replace").rsplit(separator, 1)[0]
                if queue in self._queues and (reason := self._refusal(raw)) is not None:
                    if len(self._held) < _MOST_HELD or not _returned(channel, key, raw):
                        self._refuse(key, raw, reason)
                    return None  # as if nothing had come
            return reply

        client.parse_response = parse_response

    def _refusal(self, raw: bytes) -> str | None:
        try:
            return self._pipeline.ingress.refusal(raw, self._tasks, datetime.now(UTC), read_as_celery)
        except Exception as error:  # a bug must not end the worker, nor lose the message
            log.exception("a message cannot be read")
            return f"cannot be read: {type(error).__name__}"

    def _refuse(self, key: bytes, raw: bytes, reason: str) -> None:
        log.error("a message of %d bytes is refused and becomes a dead letter, which says why", len(raw))
        self._held.append(_Refused(key, raw, reason, uuid.uuid4().hex))
        if self._leaving:  # kombu still waits for the answer to its last BRPOP, and that may take what was given back
            self.leave()
        else:
            self.settle()

    def settle(self) -> PipelineError | None:
        """Hand over what is refused, as far as Redis takes it now; why it does not take the rest."""
        while self._held:
            refused = self._held[0]
            try:
                run(self._pipeline.ingress.bury(refused.raw, refused.reason, refused.delivery))
            except PipelineError as error:
                log.warning("%d refused messages wait for Redis: %s", len(self._held), error)
                return error
            del self._held[0]
        return None

    def leave(self) -> None:
        """Hand over what is refused, or else give it back to its queue: the worker ends."""
        self._leaving = True
        error = self.settle()
        lost = 0
        while self._held:
            refused = self._held.pop()  # the newest first: so the oldest comes to lie in front of it
            lost += not _returned(self._channel, refused.key, refused.raw)
        if lost:
            log.critical("%d refused messages are lost with this worker: %s", lost, error)

    # --- on any broker: what kombu and Celery make of it

    def hang_the_net(self, consumer: Any) -> None:
        """Take what Celery's consumer would drop, and what would end it."""
        for name in ("on_decode_error", "on_unknown_message", "on_unknown_task", "on_invalid_task"):
            setattr(consumer, name, self._instead_of(getattr(consumer, name)))
        make = consumer.create_task_handler

        def create_task_handler(*arguments: Any, **options: Any) -> Callable[[Any], None]:
            take = make(*arguments, **options)

            def on_task_received(message: Any) -> None:
                if not self._is_ours(message):
                    take(message)
                elif self._channel is None and (reason := self._refusal(_raw(message))) is not None:
                    self._divert(message, reason)
                else:
                    try:
                        take(message)
                    except _CAUSED_BY_A_MESSAGE as error:
                        log.warning("Celery cannot take a message: %s", type(error).__name__)
                        self._divert(message, f"Celery cannot take it: {type(error).__name__}: {error!s:.200}")

            return on_task_received

        consumer.create_task_handler = create_task_handler

    def _instead_of(self, drop: Callable[..., None]) -> Callable[..., None]:
        def rescue(*arguments: Any) -> None:
            message, error = _message_and_error(arguments)
            if self._is_ours(message):
                self._divert(message, f"Celery cannot take it: {type(error).__name__}: {error!s:.200}")
            else:
                drop(*arguments)

        return rescue

    def _is_ours(self, message: Any) -> bool:
        delivery, headers = message.delivery_info, message.headers
        return (isinstance(delivery, dict) and delivery.get("routing_key") in self._queues) or (
            isinstance(headers, dict) and headers.get("task") == self._task
        )

    def _divert(self, message: Any, reason: str) -> None:
        if message.acknowledged:
            return
        raw = _raw(message)
        log.error("a message of %d bytes is refused and becomes a dead letter, which says why", len(raw))
        try:
            run(self._pipeline.ingress.bury(raw, reason, uuid.uuid4().hex))
        except PipelineError as error:
            log.warning("a refused message goes back to its queue: %s", error)
            message.reject(requeue=True)
        else:
            message.ack()


def _returned(channel: Any, key: bytes, raw: bytes) -> bool:
    try:
        with channel.conn_or_acquire() as client:
            client.lpush(key.decode("utf-8", "replace"), raw)
    except (*channel.connection_errors, *channel.connection.channel_errors):
        return False
    return True


def read_as_celery(text: bytes | str) -> object:
    """Decode JSON as a worker does, typed values and all.

    Raises:
        ValueError: it cannot.
    """
    try:
        return loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # the decoders of typed values raise what they like
        raise ValueError(f"{type(error).__name__}: {error!s:.200}") from error


def _message_and_error(arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """``on_decode_error(message, error)``; ``on_unknown_message(body, message)``; the others: body, message, error."""
    if isinstance(arguments[-1], Exception):
        return arguments[-2], arguments[-1]
    return arguments[-1], None


def _raw(message: Any) -> bytes:
    """A message as it lay in the queue of a virtual broker, or as kombu would have put it there."""
    if (payload := getattr(message, "_raw", None)) is None:
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "replace")
        headers = {name: value for name, value in (message.headers or {}).items() if name != "compression"}
        payload = {
            "body": base64.b64encode(body).decode("ascii"),
            "content-type": message.content_type,
            "content-encoding": message.content_encoding,
            "headers": headers,
            "properties": {
                **(message.properties or {}),
                "body_encoding": "base64",
                "delivery_tag": str(message.delivery_tag),
                "delivery_info": {
                    name: (message.delivery_info or {}).get(name) or "" for name in ("exchange", "routing_key")
                },
            },
        }
    return dumps(payload, default=repr).encode("utf-8", "replace")
