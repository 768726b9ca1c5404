"""Logs that survive the SIGKILL of whoever writes them: one JSON object a line, synced to disk where it matters."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Journal", "now", "read"]

now: Final = time.monotonic
"""One clock for all processes of the machine, which does not jump."""


class Journal:
    """An append-only file of one process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def write(self, *lines: dict[str, Any]) -> None:
        """Append lines; they survive the death of the process."""
        self._file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
        self._file.flush()

    def sync(self) -> None:
        """What was written survives a power cut, too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The lines of journals; a last line that its writer did not finish is none."""
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)
