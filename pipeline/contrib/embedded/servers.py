"""Both servers at once, in one directory."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from pipeline.contrib.embedded.postgres import Postgres
from pipeline.contrib.embedded.process import Guard
from pipeline.contrib.embedded.valkey import Valkey, Words


class Servers:
    """A Valkey and a Postgres, running between `with` and its end.

    Without a `directory` they live in a temporary one, which is deleted at the end; a given directory stays, and a
    next `Servers` in it finds the data. With `keep` the end of the `with` leaves both the servers (with their data)
    running: `pids` and `directory` say what there is to end and to delete.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        keep: bool = False,
        valkey_config: Mapping[str, Words] | None = None,
        postgres_settings: Mapping[str, str | int] | None = None,
    ) -> None:
        self._guard = Guard()
        self._temporary = directory is None
        self.keep: Final = keep
        self.directory: Final = directory or self._make_directory()
        self.valkey: Final = Valkey(self.directory / "valkey", config=valkey_config, guard=self._guard)
        self.postgres: Final = Postgres(self.directory / "postgres", settings=postgres_settings, guard=self._guard)

    @property
    def redis_url(self) -> str:
        """For `PIPELINE_REDIS_URL`."""
        return self.valkey.url

    @property
    def database_url(self) -> str:
        """For `PIPELINE_DATABASE_URL`."""
        return self.postgres.url

    @property
    def pids(self) -> tuple[int, int]:
        """Of Valkey and of Postgres."""
        return self.valkey.pid, self.postgres.pid

    def start(self) -> None:
        """Start both; returns when both accept connections. If one does not, the other is stopped.

        Raises:
            EmbeddedServerError: there is no program to run, or it failed.
        """
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.valkey.start()
            self.postgres.start()
            undo.pop_all()

    def stop(self) -> None:
        """Stop both, and delete the directory if it is a temporary one."""
        with ExitStack() as stack:  # each step is taken, whatever the others raise
            stack.callback(self._guard.close)  # runs last, and deletes the directory
            stack.callback(self.valkey.stop)
            stack.callback(self.postgres.stop)

    def release(self) -> None:
        """Let both run on when this process ends, and leave the directory."""
        if self._temporary:
            self._guard.leave(self.directory)
        self.valkey.release()
        self.postgres.release()
        self._guard.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop or, with `keep`, release."""
        if self.keep:
            self.release()
        else:
            self.stop()

    def _make_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="pipeline-"))
        self._guard.remove(directory)
        if os.geteuid() == 0:
            directory.chmod(0o711)  # the unprivileged user who runs Postgres passes through
        return directory
