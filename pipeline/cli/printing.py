"""Print: a table for a person at a terminal, tab-separated lines for a program, JSON for either."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = [
    "Cell",
    "lines",
    "moment",
    "one_line",
    "print_json",
    "print_table",
    "progress",
    "rich_table",
    "seconds",
    "sentences",
    "tell",
]

Cell = str | int | float | None


def tell(message: str) -> None:
    """One line on stderr."""
    print(one_line(message), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """``text`` in one line and without anything that a terminal would obey: it may quote foreign data."""
    return "".join(char if char.isprintable() else _escaped(char) for char in " ".join(text.split()))


def sentences(*texts: str) -> str:
    """Several messages as one; a question has its mark already."""
    *first, last = texts
    return " ".join([*(text if text.endswith("?") else f"{text}." for text in first), last])


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def print_json(value: object, *, indent: bool = True) -> None:
    """One JSON document in one line; at a terminal indented, unless ``indent`` is false."""
    plain = msgspec.to_builtins(value)
    print(json.dumps(plain, indent=2 if indent and sys.stdout.isatty() else None), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table at a terminal; elsewhere a line of names and a line per row, cells separated by tabs, empty for None."""
    if sys.stdout.isatty():
        Console().print(rich_table(columns, rows))
    else:
        lines([columns, *rows])


def lines(rows: Sequence[Sequence[Cell]]) -> None:
    """Tab-separated lines."""
    for row in rows:
        print("\t".join(map(_cell, row)), flush=True)


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table for a terminal; numbers are flush right."""
    table = Table()
    for index, name in enumerate(columns):
        number = any(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    return table


def _cell(value: Cell) -> str:
    return "" if value is None else one_line(str(value))


def moment(unix_ms: int | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")


def seconds(value: float | None) -> float | None:
    """A duration for a table; JSON has it as it is."""
    return None if value is None else round(value, 1)


def progress() -> Progress:
    """A progress bar on stderr; nothing at all if that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # a file must get its lines itself
    )


def counted(tally: Mapping[str, int]) -> str:
    """``2 replayed, 1 needs force``."""
    return ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in tally.items())


def fields(values: Iterable[tuple[str, Any]]) -> list[tuple[str, Cell]]:
    """A row per field; what is no cell is shown as JSON."""
    return [
        (name, value if isinstance(value, Cell) else json.dumps(value, ensure_ascii=False)) for name, value in values
    ]
