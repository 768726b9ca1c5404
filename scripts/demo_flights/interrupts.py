"""Ctrl-C and SIGTERM, raised only where nothing can be left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["Interrupted", "Interrupts"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The user has had enough; ``signum`` is the signal that said so."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Interrupts:
    """From its making on, the signals raise `Interrupted`: at once, or at the end of the block that holds them."""

    def __init__(self) -> None:
        self._depth = 0
        self._signum: int | None = None
        for signum in _SIGNALS:
            signal.signal(signum, self._arrived)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is not interrupted: between starting a process and being responsible for it, nothing may come.

        When a signal came, whatever else the block raises gives way to it: in a terminal, Ctrl-C reaches child
        processes too, and what they then do wrong is no news.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth and self._signum is not None:
                raise Interrupted(self._signum) from None

    def ignore(self) -> None:
        """From now on everything is being ended anyway."""
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def _arrived(self, signum: int, _: FrameType | None) -> None:
        self._signum = signum
        if not self._depth:
            raise Interrupted(signum)
