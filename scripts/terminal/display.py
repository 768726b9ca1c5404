"""How far a script is, on standard error: live bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

__all__ = ["Bar", "Display", "Shown", "make_display"]


class Bar(NamedTuple):
    """One bar, with what stands behind it."""

    name: str
    completed: float
    total: float
    text: str


class Shown(NamedTuple):
    """Where a script stands, in both forms. ``at_once``: worth a line, however young the last one is."""

    line: str
    bars: Sequence[Bar]
    at_once: bool = False


class Display(Protocol):
    """Shows how far a script is."""

    def say(self, text: str) -> None:
        """A line of text."""
        ...

    def show(self, shown: Shown) -> None:
        """Where it stands now."""
        ...

    def close(self) -> None:
        """Nothing more will be shown."""
        ...


class Lines:
    """A line now and then, for a log."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._next = 0.0

    def say(self, text: str) -> None:
        """See `Display.say`."""
        print(text, file=sys.stderr, flush=True)

    def show(self, shown: Shown) -> None:
        """See `Display.show`."""
        now = time.monotonic()
        if now >= self._next or shown.at_once:
            self._next = now + self._every_seconds
            self.say(shown.line)

    def close(self) -> None:
        """See `Display.close`."""


class Bars:
    """Bars that move."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(40, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        """See `Display.say`."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, shown: Shown) -> None:
        """See `Display.show`."""
        self._progress.start()
        for bar in shown.bars:
            if bar.name not in self._tasks:
                self._tasks[bar.name] = self._progress.add_task(bar.name, text="")
            total = max(1, bar.total)
            self._progress.update(self._tasks[bar.name], completed=bar.completed, total=total, text=bar.text)

    def close(self) -> None:
        """See `Display.close`."""
        self._progress.stop()


def make_display(every_seconds: float) -> Display:
    """Bars if standard error is a terminal, else a line every so many seconds."""
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines(every_seconds)
