"""What the demo shows: how far it is, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from scripts.demo_flights.check import Comparison
from scripts.demo_flights.monitor import Numbers
from scripts.terminal.display import Bar, Shown

__all__ = ["show_table", "shown"]


def shown(numbers: Numbers, of_flights: int) -> Shown:
    """As a display takes it. The first bar is about the flights, the others about what has been written."""
    written, committed = numbers.written, numbers.committed
    flights = f"{written:>11,}  ({numbers.flights:,} of {of_flights:,} flights)"
    return Shown(
        line=f"{numbers.flights:,} flights  written {written:,}  pending {numbers.pending:,}  "
        f"committed {committed:,}  dead {numbers.dead:,}  rows saved by folding {numbers.saved:,}",
        bars=[
            Bar("written", numbers.flights, of_flights, flights),
            Bar("pending", numbers.pending, written, f"{numbers.pending:>11,}"),
            Bar("committed", committed, written, f"{committed:>11,}"),
            Bar("dead", numbers.dead, written, f"{numbers.dead:>11,}"),
            Bar("rows saved by folding", numbers.saved, committed, f"{numbers.saved:>11,}"),
        ],
        at_once=not numbers.pending,
    )


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
