"""What every embedded server can do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from pipeline.contrib.embedded.process import ServerProcess


class Server(ABC):
    """A server that is one process with its children. It can be stopped, killed, and started again."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Of the server's first process, while it runs."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether that process lives."""
        return self._process.running

    @property
    def log(self) -> Path:
        """The server's log, of all runs."""
        return self._process.log

    @abstractmethod
    def start(self) -> None:
        """Start; returns when it can be used.

        Raises:
            MissingProgram: there is none to start.
            ServerFailed: it did not start.
        """

    @abstractmethod
    def stop(self) -> None:
        """Shut down in order."""

    def kill(self) -> None:
        """SIGKILL to all of it, as in a crash. What it gave to the operating system stays."""
        self._process.kill()

    def release(self) -> None:
        """Let it run on when this process ends."""
        self._process.release()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and leave the directory."""
        self.stop()
        self._process.close()
