"""Ctrl-C and SIGTERM, heeded only where nothing can be left behind."""

from __future__ import annotations

import signal
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
    """From its making on, a signal is noted, and `check` raises it.

    An exception out of the handler itself could come between starting a process and being responsible for it, and is
    lost if it comes in a ``__del__``. Only a second signal raises at once: then something hangs, and the guards of the
    servers clean up.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        for signum in _SIGNALS:
            signal.signal(signum, self._arrived)

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come. To be called several times a second."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def ignore(self) -> None:
        """From now on everything is being ended anyway."""
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def _arrived(self, signum: int, _: FrameType | None) -> None:
        if self.signum is not None:
            raise Interrupted(signum)
        self.signum = signum
