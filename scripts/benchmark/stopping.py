"""Ctrl-C and SIGTERM, which end a measurement at once: it may take seconds, and it has nothing to lose."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from scripts.terminal.interrupts import Interrupted

__all__ = ["Stop"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """From its making on, the first signal raises `Interrupted`, and those after it do nothing: all is being ended."""

    def __init__(self) -> None:
        self._later = False
        self._signum: int | None = None
        for signum in _SIGNALS:
            signal.signal(signum, self._arrived)

    @contextmanager
    def later(self) -> Iterator[None]:
        """In here a signal waits for the end: a process that is being started has nobody yet who would end it."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
        if self._signum is not None:
            self._raise(self._signum)

    def _arrived(self, signum: int, _: FrameType | None) -> None:
        if self._later:
            self._signum = signum
        else:
            self._raise(signum)

    def _raise(self, signum: int) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signum)
