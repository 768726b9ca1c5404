"""pytest-celery's nodes as processes of this machine: the same tests, without Docker.

pytest-celery wraps a container in a node (`CeleryTestWorker`, `RedisTestBroker` …) and asks the container for its name,
its logs, to be killed, and so on. These classes answer for a process. As with containers, `kill()` takes the whole
family: a worker goes down together with its pool processes.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import Literal

from pytest_celery import CeleryTestContainer, CeleryWorkerContainer, RedisContainer

from pipeline.contrib.embedded import Valkey
from pipeline.contrib.embedded.process import ServerProcess

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """With this virtual environment's programs first on PATH, wherever the tests were started from."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment}


class ProcessNode:
    """What pytest-celery asks of a container, answered for a process. Comes before the container class in the bases."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        scratch: Path,
        directory: Path = ROOT,
    ) -> None:
        self._name = name
        self._command = command
        self._directory = directory
        self._environment = process_environment(environment)
        self._process = ServerProcess(name, scratch / f"{name}.log")

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> Literal["running", "exited"]:
        return "running" if self._process.running else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {}

    @property
    def ready_prompt(self) -> str | None:
        return None

    def start(self) -> None:
        """Start, and wait until it says that it is ready."""
        self._process.start(
            [self._program(self._command[0]), *self._command[1:]],
            directory=self._directory,
            environment=self._environment,
            last_signal=SIGQUIT,
            ready=self._says_ready,
            timeout=START_SECONDS,
        )

    def ready(self) -> bool:
        return self._process.running and self._says_ready()

    def logs(self) -> str:
        return self._process.log.read_text(encoding="utf-8", errors="replace")

    def kill(self, signal: str | int = SIGKILL) -> None:
        signum = Signals[signal] if isinstance(signal, str) else Signals(signal)
        if signum == SIGKILL:
            self._process.kill()
        else:
            os.kill(self.pid, signum)  # as `docker kill`: the signal is sent, and that is all

    def stop(self) -> None:
        self._process.stop(SIGTERM, STOP_SECONDS)

    def restart(self, timeout: float = STOP_SECONDS) -> None:
        self._process.stop(SIGTERM, timeout)
        self.start()

    def remove(self) -> None:
        self._process.kill()
        self._process.close()

    def reload(self) -> None:
        """Everything here is up to date always."""

    def teardown(self) -> None:
        """The fixture that started the process ends it."""

    def exec_run(self, command: str | Sequence[str]) -> tuple[int, bytes]:
        words = shlex.split(command) if isinstance(command, str) else list(command)
        done = subprocess.run(
            [self._program(words[0]), *words[1:]],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout

    def _program(self, name: str) -> str:
        return shutil.which(name, path=self._environment["PATH"]) or name

    def _says_ready(self) -> bool:
        return (self.ready_prompt or "") in self._process.run_log()


class ProcessWorker(ProcessNode, CeleryWorkerContainer):
    """`celery -A tasks worker`."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        scratch: Path,
        name: str = "worker",
        options: Sequence[str] = ("--concurrency=2",),
        directory: Path = ROOT,
    ) -> None:
        # Mingling waits a second for other workers' answers, and here are none.
        command = ["celery", "-A", "tasks", "worker", f"--hostname={name}@%h", "--loglevel=INFO"]
        command += ["--without-mingle", "--without-gossip", *options]
        super().__init__(name, command, environment=environment, scratch=scratch, directory=directory)

    @classmethod
    def worker_queue(cls) -> str:
        return "pipeline"

    @property
    def ready_prompt(self) -> str:
        return " ready."


class ProcessBeat(ProcessNode, CeleryTestContainer):
    """`celery -A tasks beat`."""

    def __init__(
        self, *, environment: Mapping[str, str], scratch: Path, name: str = "beat", directory: Path = ROOT
    ) -> None:
        command = [
            "celery",
            "-A",
            "tasks",
            "beat",
            "--loglevel=INFO",
            f"--schedule={scratch / 'schedule'}",
            "--pidfile=",
        ]
        super().__init__(name, command, environment=environment, scratch=scratch, directory=directory)

    @property
    def ready_prompt(self) -> str:
        return "beat: Starting..."


class ProcessRedis(RedisContainer):
    """The session's embedded Valkey."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    @property
    def name(self) -> str:
        return "valkey"

    @property
    def id(self) -> str:
        return "valkey"

    @property
    def status(self) -> Literal["running", "exited"]:
        return "running" if self._valkey.running else "exited"

    @property
    def url(self) -> str:
        return self._valkey.url

    @property
    def host_url(self) -> str:
        return self._valkey.url

    @property
    def hostname(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self._valkey.port

    def ready(self) -> bool:
        return self._valkey.running

    def logs(self) -> str:
        return self._valkey.log.read_text(encoding="utf-8", errors="replace")

    def kill(self, signal: str | int = SIGKILL) -> None:
        signum = Signals[signal] if isinstance(signal, str) else Signals(signal)
        if signum == SIGKILL:
            self._valkey.kill()
        else:
            os.kill(self._valkey.pid, signum)

    def restart(self, timeout: float = STOP_SECONDS) -> None:  # noqa: ARG002 - pytest-celery's signature
        self._valkey.restart()

    def reload(self) -> None:
        """Everything here is up to date always."""

    def teardown(self) -> None:
        """The session ends it."""
