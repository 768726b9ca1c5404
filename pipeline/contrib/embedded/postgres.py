"""An embedded Postgres server."""

import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import Final, Literal
from urllib.parse import quote

from pipeline.contrib.embedded.errors import ServerFailed
from pipeline.contrib.embedded.ports import free_port
from pipeline.contrib.embedded.process import Guard, ServerProcess
from pipeline.contrib.embedded.programs import Account, postgres_account, postgres_directory, usable_by
from pipeline.contrib.embedded.server import Server

StopMode = Literal["fast", "immediate"]

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
STOP_SIGNALS: Final = {"fast": SIGINT, "immediate": SIGQUIT}
SUPERUSER: Final = "postgres"
# The kernel's limit for the path of a socket is 108 bytes on Linux and 104 on macOS, with the final NUL.
SOCKET_PATH_BYTES: Final = 103


class Postgres(Server):
    """A Postgres server on 127.0.0.1 and on a Unix socket, in a directory that may hold its data already.

    `settings` adds to or replaces its parameters: `{"max_connections": 20}`. `fsync` is on, unless set otherwise.
    Port and password stay the same as long as the object lives; the password lives as long as the data.
    As root the server runs as `nobody` (or `PIPELINE_EMBEDDED_POSTGRES_USER`), to whom `directory` is given: every
    directory above it must be open to others, as those that `tempfile` and pytest's `tmp_path` make are not.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str | int] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.directory: Final = directory.resolve()
        self.data: Final = self.directory / "data"
        self.port: Final = port or free_port()
        self.settings: Final[Mapping[str, str | int]] = {"timezone": "UTC", **(settings or {})}
        self._account = postgres_account()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.password: Final = self._password()
        super().__init__(ServerProcess("Postgres", self.directory / "postgres.log", guard))

    @property
    def url(self) -> str:
        """Of the database `postgres`, as superuser, over TCP."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Of another database of this server."""
        return f"postgresql://{SUPERUSER}:{quote(self.password)}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    @property
    def socket_directory(self) -> Path | None:
        """Where the Unix socket lies: a value for `host=`. `None` when the path would be too long for a socket."""
        path = self.directory / f".s.PGSQL.{self.port}"
        return self.directory if len(os.fsencode(path)) <= SOCKET_PATH_BYTES else None

    def start(self) -> None:
        """Make the data directory if there is none, and start; returns when connections are accepted.

        Raises:
            MissingProgram: there is none to start.
            ServerFailed: it did not start.
        """
        programs = usable_by(self._account, postgres_directory(), self.directory / "programs")
        if not (self.data / "PG_VERSION").exists():
            self._make_data(programs)
        self._process.start(
            [str(programs / "postgres"), "-D", str(self.data), *self._options()],
            directory=self.directory,
            account=self._account,
            environment=_environment(),
            last_signal=SIGQUIT,  # it must be quick and sure; what was committed is safe
            ready=self._accepts,
            timeout=START_SECONDS,
        )

    def stop(self, mode: StopMode = "fast") -> None:
        """`fast` breaks transactions and shuts down in order; `immediate` just ends, and the next start recovers."""
        self._process.stop(STOP_SIGNALS[mode], STOP_SECONDS)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop (if it runs) and start."""
        self.stop(mode)
        self.start()

    def _options(self) -> list[str]:
        settings = {
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": _quoted(self.socket_directory),
        }
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _make_data(self, programs: Path) -> None:
        command = [
            str(programs / "initdb"),
            f"--pgdata={self.data}",
            f"--username={SUPERUSER}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",  # a data directory lost while it is made is made again
        ]
        result = subprocess.run(  # noqa: S603 - a list, no shell
            command,
            cwd=self.directory,
            env=_environment(),
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise ServerFailed(f"initdb failed{_as(self._account)}:\n{result.stdout}{result.stderr}")

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _password(self) -> str:
        """The one that the data were made with, or a new one."""
        if not self._password_file.exists():
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(secrets.token_hex(16), encoding="ascii")
        if self._account is not None:
            for path in (self.directory, self._password_file):
                os.chown(path, self._account.uid, self._account.gid)
        return self._password_file.read_text(encoding="ascii")

    def _accepts(self) -> bool:
        """Whether the postmaster says so in its own file, as `pg_ctl -w` reads it."""
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="replace").split("\n")
        except FileNotFoundError:
            return False
        pid, status = lines[0], "".join(lines[7:8])
        return pid == str(self.pid) and status.strip() == "ready"


def _environment() -> dict[str, str]:
    """Ours, without what would change the server's or initdb's mind."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def _quoted(directory: Path | None) -> str:
    """As an element of Postgres' list of directories; an empty list is no socket at all."""
    return '"{}"'.format(str(directory).replace('"', '""')) if directory else ""


def _as(account: Account | None) -> str:
    if account is None:
        return ""
    return f" as the user {account.name!r} (is every directory above open to others?)"
