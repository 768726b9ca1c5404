"""Everything that the demo starts: Valkey, Postgres, a Celery worker, Celery beat, and Flower if it is wanted."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGQUIT, SIGTERM
from typing import Final, NamedTuple

from celery import Celery

from pipeline.contrib.embedded import Servers
from pipeline.contrib.embedded.ports import free_port
from pipeline.contrib.embedded.process import Guard, ServerProcess

__all__ = ["ProcessDied", "Services"]

ROOT: Final = Path(__file__).parents[2]
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
PING_SECONDS: Final = 0.3
LOG_TAIL: Final = 3_000
STOP_SCRIPT: Final = """\
#!/bin/sh
# Stops what scripts/demo --keep left up, and deletes this directory.
alive() {{ for pid; do kill -0 "$pid" 2>/dev/null && return; done; return 1; }}
kill {celery} 2>/dev/null
while alive {celery}; do sleep 0.1; done
kill -INT {postgres} 2>/dev/null
kill {valkey} 2>/dev/null
while alive {postgres} {valkey}; do sleep 0.1; done
rm -rf -- {directory}
"""


class ProcessDied(Exception):
    """A process that should be running is not; the message has the end of its log."""


class _Command(NamedTuple):
    """How a Celery process is started, and how it is seen to be ready."""

    words: Sequence[str]
    ready: Callable[[], bool]


class Services:
    """Started with `start`, ended with `stop`, or left alone with `release`. Not thread-safe.

    Whatever happens to this process, its guards end what it has started: see `pipeline.contrib.embedded.guard`.
    """

    def __init__(self, *, flower: bool, postgres_settings: Mapping[str, str | int] | None = None) -> None:
        self.servers: Final = Servers(postgres_settings=postgres_settings)
        self.directory: Final = self.servers.directory
        # This guard and that of the servers both remove the directory: the later one meets nobody who still writes.
        self._guard = Guard()
        self._guard.remove(self.directory)
        self._commands = self._make_commands()
        self.flower_port: Final = free_port() if flower else None
        if self.flower_port is not None:
            self._commands["flower"] = self._flower(self.flower_port)
        self._processes = {
            name: ServerProcess(name, self.directory / f"{name}.log", self._guard) for name in self._commands
        }

    @property
    def environment(self) -> dict[str, str]:
        """Of every process and client of the pipeline.

        Settings that the caller has in the environment count, so that they can be tried; but for where the servers are.
        """
        elsewhere = {"PIPELINE_BROKER_URL"}
        return {
            **{name: value for name, value in os.environ.items() if name not in elsewhere},
            "PIPELINE_REDIS_URL": self.servers.redis_url,
            "PIPELINE_DATABASE_URL": self.servers.database_url,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.directory),  # what a killed worker leaves goes with the directory
        }

    @property
    def urls(self) -> Mapping[str, str]:
        """Where everything is, by name."""
        urls = {"Redis": self.servers.redis_url, "Postgres": self.servers.database_url}
        return urls if self.flower_port is None else {**urls, "Flower": f"http://127.0.0.1:{self.flower_port}"}

    @property
    def names(self) -> list[str]:
        """Of Celery's processes, in the order in which they should be started."""
        return list(self._processes)

    def start(self, name: str) -> None:
        """Start one of Celery's processes; returns when it is ready.

        Raises:
            ServerFailed: it did not start; the message has the end of its log.
        """
        command = self._commands[name]
        self._processes[name].start(
            command.words,
            directory=ROOT,
            environment=self.environment,
            last_signal=SIGQUIT,
            ready=command.ready,
            timeout=START_SECONDS,
        )

    def kill(self, *names: str) -> None:
        """SIGKILL to processes and all of their children."""
        for name in names:
            self._processes[name].kill()

    def pid(self, name: str) -> int:
        """Of a running process."""
        return self._processes[name].pid

    def check(self, *, without: Sequence[str] = ()) -> None:
        """See that everything is still running, but for those that were killed on purpose.

        Raises:
            ProcessDied: with the end of its log.
        """
        for name, process in self._processes.items():
            if name not in without and not process.running:
                raise ProcessDied(f"The {name} has died. Its log ends with:\n{self.log_tail(name)}")
        for name, server in (("Valkey", self.servers.valkey), ("Postgres", self.servers.postgres)):
            if not server.running:
                raise ProcessDied(f"{name} has died. Its log ends with:\n{_tail(server.log)}")

    def log_tail(self, name: str) -> str:
        """The end of the log of one of Celery's processes."""
        return _tail(self._processes[name].log)

    def stop(self, *, quickly: bool) -> None:
        """End everything and delete the directory. ``quickly``: nothing that they still have to do matters."""
        with ExitStack() as stack:  # each step is taken, whatever the others raise
            stack.callback(self.servers.stop)
            stack.callback(self._guard.close)
            stack.callback(self._guard.leave, self.directory)
            for process in self._processes.values():
                if quickly:
                    stack.callback(process.kill)
                else:
                    stack.callback(process.stop, SIGTERM, STOP_SECONDS)

    def release(self) -> Path:
        """Let everything run on; returns a shell script that ends it."""
        celery = shlex.join(str(process.pid) for process in self._processes.values())
        valkey, postgres = self.servers.pids
        script = self.directory / "stop"
        directory = shlex.quote(str(self.directory))
        script.write_text(
            STOP_SCRIPT.format(celery=celery, valkey=valkey, postgres=postgres, directory=directory), encoding="utf-8"
        )
        script.chmod(0o700)
        self._guard.leave(self.directory)
        for process in self._processes.values():
            process.release()
        self._guard.close()
        self.servers.release()
        return script

    def _make_commands(self) -> dict[str, _Command]:
        # As in the README. The banner of beat is all that it says at this level.
        worker = ("worker", "--concurrency", "2", "-l", "warning")
        beat = ("beat", "-l", "warning", f"--schedule={self.directory / 'schedule'}", "--pidfile=")
        return {
            "worker": _Command(_celery(*worker), self._worker_answers),
            "beat": _Command(_celery(*beat), lambda: "is starting" in self._processes["beat"].run_log()),
        }

    def _flower(self, port: int) -> _Command:
        return _Command(_celery("flower", "--address=127.0.0.1", f"--port={port}"), lambda: _listens(port))

    def _worker_answers(self) -> bool:
        with Celery("demo", broker=self.servers.redis_url, set_as_current=False) as client:
            return bool(client.control.ping(timeout=PING_SECONDS, limit=1))


def _celery(*words: str) -> list[str]:
    return [str(Path(sys.executable).parent / "celery"), "-A", "tasks", *words]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.exists() else "(nothing)"
