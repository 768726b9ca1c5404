"""A server as a child process: started, stopped, killed, and never left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, cast

from pipeline.contrib.embedded import guard
from pipeline.contrib.embedded.errors import MissingProgram, ServerFailed
from pipeline.contrib.embedded.programs import Account

POLL_SECONDS: Final = 0.01
LOG_TAIL: Final = 4_000


class Guard:
    """The other end of `guard`: a child process that outlives this one by just as long as it takes to clean up."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own file, run by our own interpreter
            [sys.executable, "-I", "-S", guard.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal reaches the whole group; it must not reach the guard
        )
        self._orders = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)

    def watch(self, pid: int, signum: int) -> None:
        """Send this signal to this process when we die."""
        self._order("watch", pid, int(signum))

    def forget(self, pid: int) -> None:
        """This process is gone, or may outlive us."""
        self._order("forget", pid)

    def remove(self, path: Path) -> None:
        """Delete this directory when we die."""
        self._order("remove", str(path))

    def leave(self, path: Path) -> None:
        """Do not delete this directory."""
        self._order("leave", str(path))

    def close(self) -> None:
        """Let the guard do now what it would do at our death, and wait for it."""
        self._process.communicate()

    def _order(self, *order: str | int) -> None:
        try:
            print(json.dumps(order), file=self._orders, flush=True)
            answer = self._answers.readline()
        except (BrokenPipeError, ValueError):  # it has died, or was closed
            answer = ""
        if not answer:
            raise ServerFailed("The guard process of the embedded servers is gone; start new servers.")


class ServerProcess:
    """One run after another of the same server, logging to one file. Not thread-safe."""

    def __init__(self, name: str, log: Path, guard: Guard | None = None) -> None:
        self.name: Final = name
        self.log: Final = log
        self._child: subprocess.Popen[bytes] | None = None
        self._guard = guard
        self._owns_guard = guard is None
        self._log_offset = 0

    @property
    def pid(self) -> int:
        """Of the run that is under way."""
        if self._child is None:
            raise ServerFailed(f"{self.name} is not running; start it first.")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether there is a live process. Says nothing about its readiness."""
        return self._child is not None and self._child.poll() is None

    def start(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        last_signal: signal.Signals = signal.SIGTERM,
        ready: Callable[[], bool],
        timeout: float,
    ) -> None:
        """Run `command` in `directory` and wait until it is `ready`; `last_signal` is what it gets if we die first.

        Raises:
            ServerFailed: it ended, or was not ready in time; the message has the end of its log.
        """
        if self.running:
            raise ServerFailed(f"{self.name} is running already.")
        self._guard = self._guard or Guard()
        with self.log.open("ab") as log:
            self._log_offset = log.tell()
            self._child = subprocess.Popen(  # noqa: S603 - a list, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us; we stop the servers when we are done
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        self._guard.watch(self._child.pid, last_signal)
        try:
            self._wait(ready, timeout)
        except BaseException:  # also Ctrl-C: nothing half-started stays
            self.kill()
            self.close()
            raise

    def stop(self, signum: signal.Signals, timeout: float) -> None:
        """Ask it to end, and kill it if it does not in time. Does nothing when it is not running."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signum)
            self._child.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its children, as in a power cut; returns when all are gone."""
        if self._child is None:
            return
        if self._child.poll() is None:
            kill_family(self._child)
        child, self._child = self._child, None
        if self._guard is not None:
            self._guard.forget(child.pid)

    def release(self) -> None:
        """Let it live on when this process ends."""
        if self._child is not None and self._guard is not None:
            self._guard.forget(self._child.pid)
            self._child.returncode = 0  # nobody waits for it any more
            self._child = None

    def close(self) -> None:
        """Give up the guard, if it is our own. The server must have been stopped or released."""
        if self._guard is not None and self._owns_guard:
            self._guard.close()
            self._guard = None

    def run_log(self) -> str:
        """What this run has logged until now; the file has the runs before it too."""
        with self.log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode(errors="replace")

    def _wait(self, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise self._failed("ended while it started")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {timeout} s")
            time.sleep(POLL_SECONDS)

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(f"{self.name} {what}. {self.log} says:\n{self.run_log()[-LOG_TAIL:]}")


def kill_family(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child process and all of its descendants; returns when all are gone."""
    child.send_signal(signal.SIGSTOP)  # freeze it first: no descendant is born while we count
    try:
        family = _descendants(child.pid)
        for member in family:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    while any(map(_lives, family)):
        time.sleep(POLL_SECONDS)


def _descendants(pid: int) -> list[int]:
    try:
        import psutil  # noqa: PLC0415 - of the extra `embedded`
    except ImportError:
        raise MissingProgram("Killing a server needs psutil: pip install 'celery-write-behind[embedded]'.") from None
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def _lives(pid: int) -> bool:
    """Whether it still runs: a zombie, which somebody else has to reap, does not."""
    import psutil  # noqa: PLC0415 - of the extra `embedded`

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
