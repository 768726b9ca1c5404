"""What the benchmarks tell: what they are doing, on standard error, and what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipeline.bench.measures import Wrong
from scripts.benchmark.goals import Line
from scripts.benchmark.report import Table
from scripts.benchmark.stopping import Stop
from scripts.terminal.interrupts import Interrupted

__all__ = ["Say", "finish", "measured", "show"]

Say = Callable[[str], None]
T = TypeVar("T")

FAILED: Final = 1
_SIGNALLED: Final = 128


def measured(measure: Callable[[Say, Stop], T]) -> T:
    """What ``measure`` finds. Ends the process if it is stopped, or if what it measures does not work."""
    stop = Stop()
    try:
        with _saying() as say:
            return measure(say, stop)
    except Interrupted as interrupted:
        click.echo("bench: stopped", err=True)
        sys.exit(_SIGNALLED + interrupted.signum)
    except Wrong as error:
        click.echo(f"bench: this measures nothing: {error}", err=True)
        sys.exit(FAILED)


@contextmanager
def _saying() -> Iterator[Say]:
    """The last of it at a terminal, a line for each elsewhere."""
    errors = Console(stderr=True)
    if errors.is_terminal:
        with errors.status("") as status:
            yield status.update
    else:
        yield lambda text: print(text, file=sys.stderr, flush=True)


def show(tables: Iterable[Table]) -> None:
    """Print tables that have something in them."""
    console = Console()
    for table in tables:
        if not table.rows:
            continue
        grid = Grid(title=table.title)
        for place, column in enumerate(table.columns):
            grid.add_column(column, justify="right" if place else "left")
        for row in table.rows:
            grid.add_row(*map(Text, row))
        console.print(grid)


def finish(lines: Iterable[Line]) -> NoReturn:
    """End with 1 if a goal was missed; what was not measured was not missed."""
    sys.exit(FAILED if any(line.ok is False for line in lines) else 0)
