"""How far the run is, on standard error."""

from __future__ import annotations

import sys
from typing import Final, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from scripts.chaos_run.journal import now

__all__ = ["Display", "Numbers", "make_display"]

LINE_SECONDS: Final = 5.0


class Numbers(NamedTuple):
    """The run as it is now. ``pending`` and ``applied_batches`` are unknown while the servers are away."""

    seconds: float
    of_seconds: float
    faults: int
    events: int
    pending: int | None
    dead: int | None

    @property
    def text(self) -> str:
        """In one line."""
        pending = "?" if self.pending is None else f"{self.pending:,}"
        dead = "?" if self.dead is None else f"{self.dead:,}"
        return f"{self.faults} faults  {self.events:,} events  pending {pending}  dead {dead}"


class Display(Protocol):
    """Shows how far the run is."""

    def say(self, text: str) -> None:
        """A line of text."""
        ...

    def show(self, numbers: Numbers) -> None:
        """The numbers as they are now."""
        ...

    def close(self) -> None:
        """No more numbers will come."""
        ...


class Lines:
    """A line now and then, for a log."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, text: str) -> None:
        """See `Display.say`."""
        print(text, file=sys.stderr, flush=True)

    def show(self, numbers: Numbers) -> None:
        """See `Display.show`."""
        if now() >= self._next:
            self._next = now() + LINE_SECONDS
            self.say(f"{numbers.seconds:5.0f} s  {numbers.text}")

    def close(self) -> None:
        """See `Display.close`."""


class Bar:
    """A bar that moves."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("chaos"), BarColumn(40), TextColumn("{task.completed:.0f} s  {task.fields[text]}"),
            console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("chaos", total=None, text="")

    def say(self, text: str) -> None:
        """See `Display.say`."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, numbers: Numbers) -> None:
        """See `Display.show`."""
        self._progress.start()
        self._progress.update(self._task, completed=numbers.seconds, total=numbers.of_seconds, text=numbers.text)

    def close(self) -> None:
        """See `Display.close`."""
        self._progress.stop()


def make_display() -> Display:
    """A bar if standard error is a terminal."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines()
