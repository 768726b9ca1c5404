"""Wait until everything that was written has found its end."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Final, NamedTuple

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from scripts.chaos_run.journal import now
from scripts.chaos_run.processes import PROGRAMS, ROOT
from scripts.chaos_run.redelivery import redeliver, restore
from scripts.chaos_run.workload import LATE_COLUMN
from scripts.chaos_run.world import World

__all__ = ["NotDrained", "drain", "leftovers"]

POLL_SECONDS: Final = 0.5
REDELIVER_SECONDS: Final = 3.0
INGRESS: Final = "pipeline"
ARRIVING: Final = (INGRESS, "pipeline.ingress.batch", "pipeline.others")
SHARD_QUEUE: Final = "pipeline.events."


class NotDrained(Exception):
    """Something is still pending, though nothing disturbs it any more."""


class _Left(NamedTuple):
    """Events that have not found their end, by where they are."""

    pending: int
    parked: int
    ingress: int
    unacknowledged: int


def drain(world: World, seconds: float, check: Callable[[], None], *, late: bool = False) -> None:
    """Return when nothing is pending; messages that died with a worker are delivered again.

    ``late``: except events that wait for `LATE_COLUMN`, which nothing else may wait for.

    Raises:
        NotDrained: not in time.
    """
    until = now() + seconds
    redelivery = now() + REDELIVER_SECONDS
    status: dict[str, Any] = {}
    while True:
        check()
        with suppress(RedisError, OSError), world.redis() as client:
            restore(client, Random(0))  # noqa: S311 - the order of what is left does not matter
        status = _status(world)
        left = _left(world, status, late=late)
        if left is not None and not any(left):
            return
        if now() > until:
            raise NotDrained(f"not drained {seconds:.0f} s after the last fault: {left}; status: {json.dumps(status)}")
        if now() > redelivery and left is not None and left.unacknowledged:
            with suppress(RedisError, KombuError, OSError):
                redeliver(world.valkey.url)
            redelivery = now() + REDELIVER_SECONDS
        time.sleep(POLL_SECONDS)


def leftovers(world: World) -> int:
    """Overlays of rows, of which there should be none when nothing is pending."""
    with world.redis() as client:
        return sum(1 for _ in client.scan_iter("pipeline.overlay.*", count=1000))


def _status(world: World) -> dict[str, Any]:
    """What ``pipeline status --json`` says."""
    result = subprocess.run(
        [PROGRAMS / "pipeline", "status", "--json"],
        cwd=ROOT,
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        status: dict[str, Any] = json.loads(result.stdout)
    except json.JSONDecodeError:
        return {"problem": result.stderr[-500:]}
    return status


def _left(world: World, status: dict[str, Any], *, late: bool) -> _Left | None:
    if "pending" not in status:
        return None
    with world.redis() as client:
        expected = _waiting(client) if late else 0
        ingress = sum(client.llen(key) for key in (*ARRIVING, *client.scan_iter("pipeline.waiting.*")))
        waiting = [json.loads(value) for value in client.hvals("unacked")]
    unacknowledged = sum(queue == INGRESS or queue.startswith(SHARD_QUEUE) for _, _, queue in waiting)
    return _Left(status["pending"] - expected, status["parked"] - expected, ingress, unacknowledged)


def _waiting(client: Any) -> int:
    """How many events are set aside that name the late column."""
    name = f'"{LATE_COLUMN}\\":'.encode()
    parked = (message for key in client.scan_iter("pipeline.parked.*") for message in client.lrange(key, 0, -1))
    return sum(name in message for message in parked)
