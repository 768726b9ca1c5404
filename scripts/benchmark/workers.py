"""Celery workers that write rows: ours, a stock task for each row, celery-batches. All with two pool processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import SIGQUIT, SIGTERM
from typing import Final, Self

import psutil
import psycopg
from celery import Celery

from pipeline.bench.measures import Bench
from pipeline.contrib.embedded import Servers
from pipeline.contrib.embedded.process import Guard, ServerProcess
from pipeline.store.yardstick import upsert_statement
from scripts.benchmark.environment import NotInstalled, python_with

__all__ = ["POOL", "Workers", "cpu_of"]

ROOT: Final = Path(__file__).parents[2]
REQUIREMENTS: Final = Path(__file__).parent / "batches" / "requirements.txt"
POOL: Final = 2
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
PING_SECONDS: Final = 0.5
QUIET: Final = ("--loglevel=ERROR", "--without-mingle", "--without-gossip", f"--concurrency={POOL}")


class Workers:
    """A context manager: all of them run, and wait for work, until its end. ``missing``: what is not there, and why."""

    def __init__(self, servers: Servers, bench: Bench, *, batches: bool) -> None:
        self.missing: dict[str, str] = {} if batches else {"batches": "celery-batches was not wanted"}
        self.client: Final = Celery("bench", broker=servers.redis_url, set_as_current=False)
        self._servers = servers
        self._environment = _environment(servers, bench)
        self._guard = Guard()
        self._stack = ExitStack()
        self._processes: dict[str, ServerProcess] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._guard.close)
            stack.enter_context(self.client)
            self._start(stack, "ours", sys.executable, "tasks")
            self._start(stack, "stock", sys.executable, "scripts.benchmark.stock")
            if "batches" not in self.missing:
                self._start_batches(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cpu_seconds(self, kind: str) -> Mapping[str, float]:
        """CPU time of the worker of that kind, and of PostgreSQL."""
        return {"Python": cpu_of(self._processes[kind].pid), "PostgreSQL": cpu_of(self._servers.postgres.pid)}

    def _start_batches(self, stack: ExitStack) -> None:
        try:
            python = python_with(REQUIREMENTS, ROOT / ".cache" / "batches")
        except NotInstalled as error:
            self.missing["batches"] = f"celery-batches could not be installed: {error}"
        else:
            self._start(stack, "batches", str(python), "scripts.benchmark.batches.tasks")

    def _start(self, stack: ExitStack, name: str, python: str, application: str) -> None:
        process = ServerProcess(name, self._servers.directory / f"{name}.log", self._guard)
        stack.callback(process.stop, SIGTERM, STOP_SECONDS)
        node = f"{name}@bench"
        process.start(
            [python, "-m", "celery", "-A", application, "worker", f"--hostname={node}", *QUIET],
            directory=ROOT,
            environment=self._environment,
            last_signal=SIGQUIT,
            ready=lambda: bool(self.client.control.ping([node], timeout=PING_SECONDS)),
            timeout=START_SECONDS,
        )
        self._processes[name] = process


def _environment(servers: Servers, bench: Bench) -> Mapping[str, str]:
    with psycopg.connect(servers.database_url) as connection:
        statements = {one.name: upsert_statement(one.layout).as_string(connection) for one in bench.workloads}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
        "PIPELINE_REDIS_URL": servers.redis_url,
        "PIPELINE_DATABASE_URL": servers.database_url,
        "PIPELINE_NAMESPACE": bench.config.namespace,
        "PIPELINE_SHARDS": str(bench.config.shards),
        "PIPELINE_MAX_PENDING": str(bench.config.max_pending),
        "BENCH_REDIS_URL": servers.redis_url,
        "BENCH_DATABASE_URL": servers.database_url,
        "BENCH_STATEMENTS": json.dumps(statements),
        "TMPDIR": str(servers.directory),  # what a killed worker leaves goes with the directory
    }


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and all of its children, also of those that have ended."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:  # it has just ended
            continue
        used += own.user + own.system
    return used
