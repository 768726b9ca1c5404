"""What the demo shows: live bars on a terminal, plain lines otherwise, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from scripts.demo_flights.check import Comparison
from scripts.demo_flights.monitor import Numbers

__all__ = ["Bars", "Display", "Lines", "make_display", "show_table"]

LINE_SECONDS: Final = 1.0


class Display(Protocol):
    """Shows how far the demo is. Everything goes to standard error."""

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
        """See `Display.show`. An idle pipeline is always worth a line."""
        now = time.monotonic()
        if now < self._next and numbers.pending:
            return
        self._next = now + LINE_SECONDS
        self.say(
            f"{numbers.flights:,} flights  written {numbers.written:,}  pending {numbers.pending:,}  "
            f"committed {numbers.committed:,}  dead {numbers.dead:,}  rows saved by folding {numbers.saved:,}"
        )

    def close(self) -> None:
        """See `Display.close`."""


class Bars:
    """Bars that move."""

    def __init__(self, console: Console, flights: int) -> None:
        self._flights = flights
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(40, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=1, text="", visible=False)
            for name in ("written", "pending", "committed", "dead", "rows saved by folding")
        }

    def say(self, text: str) -> None:
        """See `Display.say`."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, numbers: Numbers) -> None:
        """See `Display.show`. The first bar is about the flights, the others about what has been written."""
        self._progress.start()
        written, committed = numbers.written, numbers.committed
        flights = f"{written:>11,}  ({numbers.flights:,} of {self._flights:,} flights)"
        self._bar("written", numbers.flights, self._flights, flights)
        self._bar("pending", numbers.pending, written, f"{numbers.pending:>11,}")
        self._bar("committed", committed, written, f"{committed:>11,}")
        self._bar("dead", numbers.dead, written, f"{numbers.dead:>11,}")
        self._bar("rows saved by folding", numbers.saved, committed, f"{numbers.saved:>11,}")

    def close(self) -> None:
        """See `Display.close`."""
        self._progress.stop()

    def _bar(self, name: str, completed: int, total: int, text: str) -> None:
        self._progress.update(self._tasks[name], completed=completed, total=max(1, total), text=text, visible=True)


def make_display(flights: int) -> Display:
    """Bars if standard error is a terminal."""
    console = Console(stderr=True)
    return Bars(console, flights) if console.is_terminal else Lines()


def show_table(comparisons: Sequence[Comparison], speed: Iterable[str], *, stderr: bool) -> None:
    """Postgres against the CSV file, and how fast it was."""
    console = Console(stderr=stderr, highlight=False)
    table = Table(title="Postgres against the CSV file, both by plain SQL", title_justify="left")
    table.add_column("", overflow="fold")
    for heading in ("from the CSV", "in Postgres", "missing", "surplus"):
        table.add_column(heading, justify="right", overflow="fold", min_width=len("20,092,812"))
    table.add_column("")
    for row in comparisons:
        style = "" if row.equal else "bold red"
        numbers = [f"{number:,}" for number in (row.expected, row.found, row.missing, row.surplus)]
        table.add_row(row.what, *numbers, "✓" if row.equal else "✗", style=style)
    console.print(table)
    for line in speed:
        console.print(line, markup=False, soft_wrap=True)
