"""``scripts/bench overload``: what it asks for and what it shows."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from pipeline.contrib.embedded import Servers
from scripts.benchmark.overload import Load, Outcome, Sample, memory_bound, overload

__all__ = ["overload_command"]

LINE_SECONDS: Final = 1.0
TABLE_ROWS: Final = 16
MEBIBYTE: Final = 1024 * 1024


@click.command("overload", epilog="Example: scripts/bench overload --seconds 60 --max-pending 20000")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    help="For so long updates come at 1,000 a second; when they have to wait it takes longer.",
)
@click.option(
    "--max-pending",
    type=click.IntRange(min=8),
    default=Load(0).max_pending,
    show_default=True,
    help="PIPELINE_MAX_PENDING.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def overload_command(seconds: float, max_pending: int, as_json: bool) -> None:  # noqa: FBT001
    """Write faster than PostgreSQL can: 1,000 updates a second, some rows hot, into 200 rows a second.

    Every row takes PostgreSQL 5 ms (a trigger sleeps). Producers block while their shard is full. Shows the backlog,
    the rows saved by folding and the memory of Redis; compares every sum in the end.

    Exits with 1 if a law does not hold.
    """
    load = Load(0, max_pending=max_pending)
    load = load._replace(events=round(seconds * load.per_second))
    with Servers() as servers, _shown(load) as show:
        outcome = overload(servers.redis_url, servers.database_url, load, show)
    if as_json:
        click.echo(json.dumps(_document(outcome)))
    else:
        _print(outcome)
    sys.exit(0 if all(outcome.laws.values()) else 1)


@contextmanager
def _shown(load: Load) -> Iterator[Callable[[Sample], None]]:
    """Bars if standard error is a terminal, else a line a second."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    columns = TextColumn("{task.description:<22}"), BarColumn(40), TextColumn("{task.fields[text]}")
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress, load).show


class _Lines:
    def __init__(self) -> None:
        self._next = 0.0

    def show(self, now: Sample) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            print(
                f"{now.seconds:.0f} s  accepted {now.accepted:,}  pending {now.pending:,}  "
                f"committed {now.committed:,}  rows saved by folding {now.saved:,}  "
                f"Redis {now.memory / MEBIBYTE:.1f} MiB  waits {now.waits:,}",
                file=sys.stderr,
                flush=True,
            )


class _Bars:
    def __init__(self, progress: Progress, load: Load) -> None:
        self._progress = progress
        totals = {
            "accepted": load.events,
            "pending": load.max_pending,
            "committed": load.events,
            "rows saved by folding": load.events,
            "memory of Redis": memory_bound(load),
        }
        self._tasks = {name: progress.add_task(name, total=total, text="") for name, total in totals.items()}

    def show(self, now: Sample) -> None:
        self._bar("accepted", now.accepted, f"{now.accepted:>9,}")
        self._bar("pending", now.pending, f"{now.pending:>9,}  writers waited {now.waits:,} times")
        self._bar("committed", now.committed, f"{now.committed:>9,}")
        self._bar("rows saved by folding", now.saved, f"{now.saved:>9,}")
        self._bar("memory of Redis", now.memory, f"{now.memory / MEBIBYTE:>9.1f} MiB")

    def _bar(self, name: str, completed: int, text: str) -> None:
        self._progress.update(self._tasks[name], completed=completed, text=text)


def _document(outcome: Outcome) -> dict[str, object]:
    return {
        "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
        "load": outcome.load._asdict(),
        "samples": [
            {**sample._asdict(), "committed": sample.committed, "saved": sample.saved} for sample in outcome.samples
        ],
        "peak_pending": outcome.peak_pending,
        "peak_memory": outcome.peak_memory,
        "memory_bound": memory_bound(outcome.load),
        "wrong_rows": outcome.wrong_rows,
        "laws": outcome.laws,
    }


def _print(outcome: Outcome) -> None:
    console = Console(highlight=False)
    table = Table("second", "accepted", "pending", "committed", "rows", "saved", "MiB", "waits")
    for column in table.columns:
        column.justify = "right"
    every = -(-len(outcome.samples) // TABLE_ROWS)
    for sample in (*outcome.samples[1:-1:every], outcome.samples[-1]):
        numbers = (sample.accepted, sample.pending, sample.committed, sample.rows, sample.saved)
        row = [f"{sample.seconds:.0f}", *(f"{number:,}" for number in numbers)]
        table.add_row(*row, f"{sample.memory / MEBIBYTE:.1f}", f"{sample.waits:,}")
    console.print(table)
    console.print("rows: written to PostgreSQL; saved: by folding; MiB: more in Redis; waits: of writers for room")
    last, bound = outcome.samples[-1], memory_bound(outcome.load)
    console.print(
        f"{last.committed / last.seconds:,.0f} events/s in {last.rows / last.seconds:,.0f} rows/s; "
        f"at most {outcome.peak_pending:,} pending and {outcome.peak_memory / MEBIBYTE:.1f} MiB more in Redis "
        f"(bound: {bound / MEBIBYTE:.1f} MiB)"
    )
    for law, holds in outcome.laws.items():
        console.print(f"{'✓' if holds else '✗'} {law}", style="" if holds else "bold red")
