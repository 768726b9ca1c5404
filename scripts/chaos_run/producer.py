"""One producer: a process that writes events and keeps a journal of what it meant to write and what was answered.

``python -m scripts.chaos_run.producer '{"name": "p1.0", "seed": "…", "journal": "…", "rate": 100}'``; it takes the
settings of the pipeline from the environment, and ends after the event at hand on SIGTERM.
"""

from __future__ import annotations

import inspect
import json
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from pipeline import Change, InvalidEvent, Pipeline, PipelineError, PipelineFull, Receipt
from scripts.chaos_run.journal import Journal, now
from scripts.chaos_run.workload import DELAY, MANY, SINGLE, Planned, Workload

__all__ = ["Producer"]

BATCH: Final = 20
ABANDON_SHARE: Final = 0.03
AGAIN_SHARE: Final = 0.02
REMEMBERED: Final = 200
RETRY_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 60.0
CLIENT_TIMEOUT_SECONDS: Final = 3.0
DECIMALS: Final = frozenset({"amount", "total"})


class _Answer(NamedTuple):
    """``result``: accepted, duplicate, invalid, full, unknown. ``known_as``: another id, that the pipeline gave."""

    result: str
    known_as: str | None = None
    error: str | None = None
    disk: bool = False


class Producer:
    """Writes until it is told to stop."""

    def __init__(self, name: str, seed: str, journal: Journal, pipeline: Pipeline, rate: float) -> None:
        self._random = random.Random(f"{seed}:{name}")  # noqa: S311 - to be repeated, not to be secret
        self._workload = Workload(name, self._random)
        self._journal = journal
        self._pipeline = pipeline
        self._seconds = 1 / rate
        self._stop = threading.Event()
        self._recent: deque[Planned] = deque(maxlen=REMEMBERED)
        self._durable = "durability" in inspect.signature(Pipeline.write).parameters
        self._client = Celery("client", broker=pipeline.config.broker_url, set_as_current=False)
        self._client.conf.update(
            task_publish_retry=False,
            broker_transport_options={
                "socket_timeout": CLIENT_TIMEOUT_SECONDS,
                "socket_connect_timeout": CLIENT_TIMEOUT_SECONDS,
            },
        )

    def stop(self, *_: object) -> None:
        """Stop after the event at hand."""
        self._stop.set()

    def run(self) -> None:
        """Write batches of events."""
        due = now()
        while not self._stop.is_set():
            batch = self._workload.batch(BATCH)
            self._journal.write(*({**event.record, "t": now()} for event in batch))
            self._journal.sync()
            self._write(batch)
            self._journal.sync()
            due = max(due + self._seconds * len(batch), now() - 1)
            self._stop.wait(due - now())

    def _write(self, batch: Sequence[Planned]) -> None:
        left = deque(batch)
        while left and not self._stop.is_set() and left[0].via != MANY:
            if not self._settle(left.popleft()):
                break  # what follows in the batch could overtake it: take other rows from now on
        else:
            if left and not self._stop.is_set():
                self._many(left)
                return
        for event in left:
            self._note(event, _Answer("unsent"), now())

    def _settle(self, event: Planned) -> bool:
        """Write it until there is an answer; whether the batch may go on."""
        accepted = self._insist(event)
        if accepted and self._random.random() < AGAIN_SHARE:
            self._insist(event)
        if event.owned is None and accepted:
            self._recent.append(event)
        if self._recent and self._random.random() < AGAIN_SHARE:
            self._insist(self._random.choice(self._recent))
        if not accepted and event.owned is not None:
            self._workload.retire(event.owned)
        return accepted

    def _insist(self, event: Planned) -> bool:
        """Whether the end is known; sometimes it is given up before that."""
        patience = now() + PATIENCE_SECONDS
        doubt = False
        while True:
            began = now()
            answer = self._ask(event)
            doubt = doubt or answer.result == "unknown"
            over = now() > patience or self._random.random() < ABANDON_SHARE
            if answer.result not in {"unknown", "full"} or over:
                break
            self._stop.wait(RETRY_SECONDS) if not self._stop.is_set() else time.sleep(RETRY_SECONDS)
        result = "unknown" if doubt and answer.result in {"full", "invalid"} else answer.result
        self._note(event, answer._replace(result=result), began)
        return result != "unknown"

    def _ask(self, event: Planned) -> _Answer:
        try:
            if event.via == DELAY:
                self._publish(event)
                return _Answer("accepted")
            receipt = self._direct(event)
        except (InvalidEvent, TypeError) as error:
            return _Answer("invalid", error=str(error))
        except PipelineFull as error:
            return _Answer("full", error=str(error))
        except (PipelineError, KombuError, RedisError, OSError) as error:
            name = type(error).__name__
            if name == "DurabilityNotReached":
                return _Answer("accepted", error=name)
            return _Answer("unknown", error=f"{name}: {error}")
        return _Answer("duplicate" if receipt.duplicate else "accepted", disk=event.disk and self._durable)

    def _direct(self, event: Planned) -> Receipt:
        options: dict[str, Any] = {"event_id": event.id}
        if event.disk and self._durable:
            options["durability"] = "disk"
        if event.via != SINGLE:
            changes = [_change(change) for change in event.changes]
            return self._pipeline.write_group(changes, shard_by=event.shard_by, **options)
        change = dict(event.changes[0])
        table = change.pop("table")
        write: Callable[..., Receipt] = self._pipeline.write
        if "insert" in change:
            return self._pipeline.insert(table, change["insert"], **options)
        if change.pop("delete", False):
            write = self._pipeline.delete
        return write(table, **change, **options)

    def _publish(self, event: Planned) -> None:
        kwargs: dict[str, Any] = {"changes": [_typed(change) for change in event.changes]}
        if event.shard_by is not None:
            kwargs["shard_by"] = event.shard_by
        queue = self._pipeline.config.namespace
        self._client.send_task(f"{queue}.apply_event", kwargs=kwargs, task_id=event.id, queue=queue)

    def _many(self, events: Sequence[Planned]) -> None:
        began = now()
        error = None
        disk = events[0].disk and self._durable
        options: dict[str, Any] = {"durability": "disk"} if disk else {}
        receipts: Sequence[object]
        try:
            receipts = self._pipeline.write_many((_change(event.changes[0]) for event in events), **options)
        except PipelineError as problem:
            disk = False
            error = f"{type(problem).__name__}: {problem}"
            receipts = problem.receipts
        padded = [*receipts, *[None] * (len(events) - len(receipts))]
        for event, receipt in zip(events, padded, strict=True):
            if isinstance(receipt, Receipt):
                self._note(event, _Answer("accepted", receipt.event_id, disk=disk), began)
            else:
                self._note(event, _Answer("unknown", error=error), began)
                if event.owned is not None:
                    self._workload.retire(event.owned)

    def _note(self, event: Planned, answer: _Answer, began: float) -> None:
        line = {"outcome": event.id, "result": answer.result, "t0": began, "t1": now(), "disk": answer.disk}
        if answer.known_as:
            line["known_as"] = answer.known_as
        if answer.error:
            line["error"] = answer.error[:200]
        self._journal.write(line)


def _typed(change: dict[str, Any]) -> dict[str, Any]:
    """With numbers that JSON does not have."""
    typed = dict(change)
    for part in ("set", "add"):
        if part in typed:
            typed[part] = {
                column: Decimal(value) if column in DECIMALS else value for column, value in typed[part].items()
            }
    return typed


def _change(change: dict[str, Any]) -> Change:
    return Change(**_typed(change))


def main(options: dict[str, Any]) -> None:
    """Run one producer until SIGTERM."""
    with Journal(Path(options["journal"])) as journal, Pipeline.from_env() as pipeline:
        producer = Producer(options["name"], options["seed"], journal, pipeline, options["rate"])
        signal.signal(signal.SIGTERM, producer.stop)
        producer.run()
        journal.write({"end": options["name"], "t": now()})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
