"""What can happen to workers, beat and producers, and to their clocks."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from pipeline.contrib.embedded.process import kill_family
from scripts.chaos_run.lanes import FaultLog, Turn
from scripts.chaos_run.processes import PROGRAMS, ROOT, Process, kill
from scripts.chaos_run.redelivery import redeliver
from scripts.chaos_run.world import SETTINGS, World

__all__ = ["ENDED", "PROCESS_FAULTS", "STOCK_FAULTS", "ProcessFaults", "StockFaults"]

LEASE_SECONDS: Final = float(SETTINGS["PIPELINE_LEASE"])
HOUR: Final = 3600.0
FLUSH_SECONDS: Final = 30.0
TIMEOUT_SECONDS: Final = 5.0
ENDED: Final = "ended by itself"


class ProcessFaults:
    """Each method is one fault, from begin to end."""

    def __init__(self, world: World, log: FaultLog) -> None:
        self._world = world
        self._log = log

    def revive(self) -> None:
        """Start what has ended by itself, and say so."""
        for process in self._world.celery:
            if process.died:
                self._log.note(ENDED, process=process.name, why=self._world.last_words(process))
                process.kill()
                process.start()
        for number, process in enumerate(self._world.producers.processes):
            if process.died:
                self._log.note(ENDED, process=process.name, why=self._world.last_words(process))
                process.kill()
                self._world.producers.start(number)

    def worker_killed(self, turn: Turn) -> None:
        """SIGKILL to a worker and its pool."""
        process = self._worker(turn)
        process.kill()
        turn.last(0.0, 1.5)
        process.start()

    def worker_stopped(self, turn: Turn) -> None:
        """SIGTERM, as at a deployment; it is started again when it has ended."""
        process = self._worker(turn)
        process.stop()
        process.start()

    def pool_child_killed(self, turn: Turn) -> None:
        """SIGKILL to one process of a pool alone."""
        for _ in range(turn.random.randint(1, 3)):
            if children := self._worker(turn).children:
                with suppress(ProcessLookupError):
                    kill(turn.random.choice(children))
            turn.last(0.1, 0.6)

    def pool_child_stalled(self, turn: Turn) -> None:
        """A process of a pool stands still for longer than its lease, and goes on as if nothing had been."""
        children = self._worker(turn).children
        if not children:
            return
        pid = turn.random.choice(children)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        turn.last(LEASE_SECONDS * 1.1, LEASE_SECONDS * 2.5)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def beat_killed(self, turn: Turn) -> None:
        """SIGKILL to beat."""
        self._world.beat.kill()
        turn.last(0.0, 2.0)
        self._world.beat.start()

    def producer_killed(self, turn: Turn) -> None:
        """SIGKILL to a producer; a new one takes its place."""
        number = turn.random.randrange(len(self._world.producers.processes))
        turn.note(producer=number)
        self._world.producers.processes[number].kill()
        turn.last(0.0, 1.0)
        self._world.producers.start(number)

    def two_flushers(self, turn: Turn) -> None:
        """Everybody may flush every shard at once: leases vanish while two more flushers are at work."""
        flushers = [self._flusher() for _ in range(2)]
        leases = [f"pipeline.lease.{{{shard}}}" for shard in range(self._world.options.shards)]
        try:
            for _ in range(turn.random.randint(20, 60)):
                with suppress(RedisError), self._world.redis() as client:
                    client.delete(*leases)
                turn.last(0.02, 0.1)
            for flusher in flushers:
                with suppress(subprocess.TimeoutExpired):
                    flusher.wait(FLUSH_SECONDS)
        finally:
            for flusher in flushers:
                if flusher.poll() is None:
                    kill_family(flusher)

    def clock_jumped(self, turn: Turn) -> None:
        """The wall clock of a process jumps, and jumps back."""
        process = turn.random.choice([*self._world.celery, *self._world.producers.processes])
        seconds = turn.random.choice((-26 * HOUR, -2 * HOUR, -60.0, -2.0, 2.0, 60.0, 2 * HOUR, 26 * HOUR))
        turn.note(process=process.name, seconds=seconds)
        process.clock.jump_to(seconds)
        turn.last(0.5, 4.0)
        process.clock.jump_to(0.0)

    def messages_redelivered(self, turn: Turn) -> None:
        """Celery delivers again what is not acknowledged, as after its visibility timeout."""
        with suppress(RedisError, KombuError, OSError):
            turn.note(messages=redeliver(self._world.valkey.url))

    def _worker(self, turn: Turn) -> Process:
        process = turn.random.choice(self._world.workers)
        turn.note(process=process.name)
        return process

    def _flusher(self) -> subprocess.Popen[bytes]:
        log = (self._world.directory / "flush.log").open("ab")
        with log:
            return subprocess.Popen(
                [PROGRAMS / "pipeline", "flush"],
                cwd=ROOT,
                env=self._world.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class StockFaults:
    """A worker does with a shard's queue what a stock worker does."""

    def __init__(self, world: World) -> None:
        self._world = world

    def shard_queue_consumed(self, turn: Turn) -> None:
        """A worker is made to consume it: it takes events that the flush should take, one by one."""
        process = turn.random.choice(self._world.workers)
        queue = f"pipeline.events.{{{turn.random.randrange(self._world.options.shards)}}}"
        workers = [f"{process.name}@chaos"]
        turn.note(process=process.name, queue=queue)
        with Celery("control", broker=self._world.valkey.url, set_as_current=False) as app:
            app.conf.broker_transport_options = {"socket_timeout": TIMEOUT_SECONDS}
            begun = 0
            for _ in range(turn.random.randint(2, 6)):
                with suppress(RedisError, KombuError, OSError):
                    begun += bool(app.control.add_consumer(queue, destination=workers, reply=True, timeout=1.0))
                turn.last(0.3, 1.5)
            turn.note(begun=begun)
            with suppress(RedisError, KombuError, OSError):
                app.control.cancel_consumer(queue, destination=workers)


PROCESS_FAULTS: Final[Mapping[str, Callable[[ProcessFaults, Turn], None]]] = {
    "worker_killed": ProcessFaults.worker_killed,
    "worker_stopped": ProcessFaults.worker_stopped,
    "pool_child_killed": ProcessFaults.pool_child_killed,
    "pool_child_stalled": ProcessFaults.pool_child_stalled,
    "beat_killed": ProcessFaults.beat_killed,
    "producer_killed": ProcessFaults.producer_killed,
    "two_flushers": ProcessFaults.two_flushers,
    "clock_jumped": ProcessFaults.clock_jumped,
    "messages_redelivered": ProcessFaults.messages_redelivered,
}
"""By name."""


STOCK_FAULTS: Final[Mapping[str, Callable[[StockFaults, Turn], None]]] = {
    "shard_queue_consumed": StockFaults.shard_queue_consumed,
}
"""By name."""
