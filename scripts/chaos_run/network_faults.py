"""What can happen to the network before a server."""

from __future__ import annotations

from typing import Final

from scripts.chaos_run.lanes import Turn
from scripts.chaos_run.proxy import Proxy

__all__ = ["NetworkFaults"]

EVEN: Final = 0.5


class NetworkFaults:
    """Each method is one fault, from begin to end."""

    def __init__(self, proxy: Proxy, *, slowest_seconds: float) -> None:
        """``slowest_seconds``: how long a piece is held at most when the network is slow."""
        self._proxy = proxy
        self._slowest_seconds = slowest_seconds

    def cut(self, turn: Turn) -> None:
        """The network is down."""
        self._proxy.cut()
        turn.last(0.2, 3.0)
        self._proxy.heal()

    def connections_broken(self, turn: Turn) -> None:
        """Every connection breaks, several times; new ones are accepted at once."""
        times = turn.random.randint(1, 5)
        turn.note(times=times)
        for _ in range(times):
            self._proxy.break_connections()
            turn.last(0.01, 0.3)

    def deaf(self, turn: Turn) -> None:
        """Nothing comes through, or only the requests; in the end all of it comes, or every connection breaks."""
        replies_only, breaks = turn.random.random() < EVEN, turn.random.random() < EVEN
        turn.note(replies_only=replies_only, breaks=breaks)
        self._proxy.deafen(replies_only=replies_only)
        turn.last(0.3, 4.0)
        if breaks:
            self._proxy.break_connections()
        self._proxy.heal()

    def slow(self, turn: Turn) -> None:
        """Every piece takes its time."""
        self._proxy.slow(turn.random.uniform(self._slowest_seconds / 10, self._slowest_seconds))
        turn.last(0.5, 3.0)
        self._proxy.heal()
