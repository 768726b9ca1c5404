"""The program ``pipeline`` as a process, pointed at a test's servers."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration import preloaded

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "pipeline"
SCRIPT = ROOT / "scripts" / "replay_dead_letters.py"
SECONDS = 60


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The tab-separated lines on stdout, by the names in the first one."""
        first, *rest = (line.split("\t") for line in self.out.splitlines())
        return [dict(zip(first, row, strict=True)) for row in rest]

    @property
    def message(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        return line


class CommandLine:
    """Runs the program in the environment of a pipeline, without a terminal."""

    def __init__(self, redis_url: str, database_url: str, **settings: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
        path = f"{PROGRAM.parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
        self.environment: Mapping[str, str] = {
            **inherited,
            "PATH": path,
            "PIPELINE_REDIS_URL": redis_url,
            "PIPELINE_DATABASE_URL": database_url,
            "PIPELINE_SHARDS": "1",
            **settings,
        }

    def __call__(self, *arguments: str | int, program: Path | tuple[str, ...] | None = None) -> Ended:
        """Run it to its end; it is forked off a process that has imported it, unless a ``program`` is given."""
        if program is None:
            ended = Ended(*preloaded.run(list(map(str, arguments)), self.environment, SECONDS))
        else:
            ended = self._started(program, arguments)
        assert "Traceback" not in ended.err
        return ended

    def _started(self, program: Path | tuple[str, ...], arguments: tuple[str | int, ...]) -> Ended:
        done = subprocess.run(
            self._command(program, arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(self, *arguments: str | int) -> Iterator[subprocess.Popen[str]]:
        """A running command; killed at the end if it still runs."""
        process = subprocess.Popen(
            self._command(PROGRAM, arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def terminal(self, *arguments: str | int) -> Iterator[Terminal]:
        """A running command that believes to be at a terminal."""
        ours, theirs = pty.openpty()
        environment = {**self.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        process = subprocess.Popen(
            self._command(PROGRAM, arguments),
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - so that Ctrl-C reaches it
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    @staticmethod
    def _command(program: Path | tuple[str, ...], arguments: tuple[str | int, ...]) -> list[str]:
        start = program if isinstance(program, tuple) else (str(program),)
        return [*start, *map(str, arguments)]


def _take_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first terminal that a session leader opens is its own


class Terminal:
    """What a person does at a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self._process = process
        self._ours = ours
        self.shown = ""

    def read_until(self, text: str) -> str:
        """Everything shown so far, as soon as ``text`` is in it."""
        until = time.monotonic() + SECONDS
        while text not in self.shown:
            if not self._read(until):
                raise EOFError(f"{text!r} was not shown, but {self.shown!r}")
        return self.shown

    def type(self, text: str) -> None:
        """Type; ``\\x03`` is Ctrl-C."""
        os.write(self._ours, text.encode())

    def insist(self, text: str) -> int:
        """Type it again and again to the end, as a person does who is not heard at once; the exit code.

        CPython may miss a Ctrl-C that comes in the instant before ``input()`` waits, until the next one.
        """
        for _ in range(5):
            self.type(text)
            try:
                while self._read(time.monotonic() + 5.0):
                    pass
            except TimeoutError:
                continue
            break
        return self.end()

    def end(self) -> int:
        """Read to the end; the exit code."""
        until = time.monotonic() + SECONDS
        while self._read(until):
            pass
        return self._process.wait(SECONDS)

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError(self.shown)
        try:
            self.shown += os.read(self._ours, 65536).decode("utf-8", "replace")
        except OSError:  # EIO: the other side is closed
            return False
        return True
