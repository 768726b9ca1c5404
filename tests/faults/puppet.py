"""A flusher on strings: it runs in a thread of its own, stops at every step, and moves only when it is told to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Final

import redis

from pipeline import Config, Pipeline
from pipeline.flush import FlushReport
from pipeline.telemetry import Step
from tests.integration.scene import Scene, eventually

__all__ = ["Puppet"]

_DEADLINE_SECONDS: Final = 30.0
_MOST_STEPS: Final = 2000
_GO: Final = "go"
_DIE: Final = "die"
_IN_TRANSACTION: Final = frozenset({Step.LOCKED, Step.ATTEMPTED, Step.BURIED, Step.COMMITTING})
_numbers: Final[Iterator[int]] = itertools.count(1)


class _Killed(BaseException):
    """Ends the thread of a flusher that is no more; nothing that it does on its way out reaches a server."""


class Puppet:
    """A flusher as a process of its own would have it: its own connections, and nothing shared but the servers."""

    def __init__(self, scene: Scene, config: Config) -> None:
        self._scene = scene
        self._orders: SimpleQueue[str] = SimpleQueue()
        self._reports: SimpleQueue[Step | FlushReport | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._name = f"puppet-{next(_numbers)}"
        self._pipeline = Pipeline(config, self._stop_at)
        self._pipeline._sessions._arguments["application_name"] = self._name
        self.at: Step | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether it holds locks in PostgreSQL."""
        return self.at in _IN_TRANSACTION

    def advance(self) -> bool:
        """Go on to the next step, or begin to flush; whether it is at a step, and not at the end of its flush."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush, name=self._name)
            self._thread.start()
        else:
            self._orders.put(_GO)
        return self._wait()

    def finish(self, stop: Step | None = None) -> bool:
        """Go on to the end of the flush, or to its next step ``stop``; whether it came to that.

        Raises:
            AssertionError: the flush goes round and round.
        """
        for _ in range(_MOST_STEPS):
            if not self.advance():
                return False
            if self.at is stop:
                return True
        raise AssertionError(f"{_MOST_STEPS} steps, and the flush is not at its end")

    def disconnect(self) -> None:
        """Terminate its backends, as an administrator or a failover does; also one that its pool opens meanwhile."""
        terminate = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{self._name}'"
        eventually(lambda: not self._scene.sql(terminate), "a backend does not end")

    def kill(self) -> None:
        """It is no more: its transaction is rolled back, its commands to Redis come to nothing."""
        self.disconnect()
        nowhere = redis.ConnectionPool.from_url("redis://127.0.0.1:1")
        client = self._pipeline._redis
        client.connection_pool.disconnect()
        client.connection_pool = nowhere
        if self._thread is not None:
            self._orders.put(_DIE)
            self._wait(dying=True)
        self._pipeline.close()

    def _wait(self, *, dying: bool = False) -> bool:
        report = self._reports.get(timeout=_DEADLINE_SECONDS)
        if isinstance(report, Step):
            self.at = report
            return True
        self.at = None
        if self._thread is not None:
            self._thread.join(_DEADLINE_SECONDS)
        self._thread = None
        if isinstance(report, BaseException) and not dying:
            raise report
        return False

    # --- in its thread

    def _flush(self) -> None:
        try:
            self._reports.put(self._pipeline.flush_shard(0))
        except BaseException as error:  # noqa: BLE001 - told to whom pulls the strings
            self._reports.put(error)

    def _stop_at(self, step: Step) -> None:
        self._reports.put(step)
        if self._orders.get(timeout=10 * _DEADLINE_SECONDS) == _DIE:
            raise _Killed
