"""How far the run is."""

from __future__ import annotations

from typing import NamedTuple

from scripts.terminal.display import Bar, Shown

__all__ = ["Numbers"]


class Numbers(NamedTuple):
    """The run as it is now. ``pending`` and ``dead`` are unknown while the servers are away."""

    seconds: float
    of_seconds: float
    faults: int
    events: int
    pending: int | None
    dead: int | None

    @property
    def shown(self) -> Shown:
        """As a display takes it."""
        pending = "?" if self.pending is None else f"{self.pending:,}"
        dead = "?" if self.dead is None else f"{self.dead:,}"
        text = f"{self.faults} faults  {self.events:,} events  pending {pending}  dead {dead}"
        bar = Bar("chaos", self.seconds, self.of_seconds, f"{self.seconds:.0f} s  {text}")
        return Shown(f"{self.seconds:5.0f} s  {text}", [bar])
