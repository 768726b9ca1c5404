"""An embedded Valkey (or Redis) server."""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Final
from urllib.parse import quote

from pipeline.contrib.embedded.ports import free_port
from pipeline.contrib.embedded.process import Guard, ServerProcess
from pipeline.contrib.embedded.programs import valkey_program
from pipeline.contrib.embedded.server import Server

Words = str | int | Sequence[str | int]

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
DEFAULTS: Final[Mapping[str, Words]] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": "",  # the AOF is the only truth; a snapshot at shutdown would hide what it lost
}
TUNABLES: Final = "glibc.malloc.tcache_count=8000"
"""For the C library's allocator, with which the wheel's program is built; packages of Redis and Valkey have jemalloc.

A command on a batch of 5,000 messages takes and frees as many small pieces of memory. That allocator keeps seven of a
size at hand, and takes twice as long then; it may keep some dozens of megabytes for it.
"""


class Valkey(Server):
    """A Valkey server on 127.0.0.1, with its append-only file on, in a directory that may hold data already.

    `config` adds to or replaces lines of its configuration: `{"maxmemory": "100mb", "save": ("900", "1")}`.
    The port and the password stay the same as long as the object lives.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        config: Mapping[str, Words] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.directory: Final = directory
        self.port: Final = port or free_port()
        self.password: Final = secrets.token_hex(16)
        self.config: Final[Mapping[str, Words]] = {**DEFAULTS, **(config or {})}
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(ServerProcess("Valkey", directory / "valkey.log", guard))

    @property
    def url(self) -> str:
        """Of database 0, for redis-py and Celery."""
        return f"redis://:{quote(self.password)}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start; returns when it has loaded its data and answers.

        Raises:
            MissingProgram: there is none to start.
            ServerFailed: it did not start.
        """
        config = self.directory / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(self._configuration(), encoding="utf-8")
        self._process.start(
            [str(valkey_program()), str(config)],
            directory=self.directory,
            environment={"GLIBC_TUNABLES": TUNABLES, **os.environ},
            last_signal=SIGTERM,
            ready=self._answers,
            timeout=START_SECONDS,
        )

    def stop(self) -> None:
        """Shut down in order: everything accepted is in the append-only file."""
        self._process.stop(SIGTERM, STOP_SECONDS)

    def restart(self) -> None:
        """Stop (if it runs) and start."""
        self.stop()
        self.start()

    def _configuration(self) -> str:
        lines: dict[str, Words] = {
            **self.config,
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": str(self.directory.resolve()),
            "daemonize": "no",
        }
        return "".join(f"{name} {_words(value)}\n" for name, value in lines.items())

    def _answers(self) -> bool:
        """Whether PING is answered by PONG; while it loads its data, the answer is an error."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answers:
                    return b"+PONG\r\n" in answers.readlines()
        except OSError:
            return False


def _words(value: Words) -> str:
    words = [value] if isinstance(value, str | int) else value
    return " ".join('"{}"'.format(str(word).replace("\\", "\\\\").replace('"', '\\"')) for word in words)
