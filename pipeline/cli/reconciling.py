"""``pipeline reconcile``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from pipeline.cli.printing import Cell, counted, print_json, print_table, progress, tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline, stoppable
from pipeline.core.change import canonical_table
from pipeline.errors import InvalidEvent
from pipeline.reconcile import Drift, Reconciled

__all__ = ["reconcile"]

_COUNTS: Final = ("checked", "equal", "drifted", "fixed", "busy", "skipped", "unreadable")
_COLUMNS: Final = ("table", "shard", "key", "problem", "columns", "fixed")
_VALUES: Final = ("cached", "expected")


def _table(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else canonical_table(value)
    except InvalidEvent as error:
        raise click.BadParameter(str(error)) from error


def _part(_context: click.Context, _option: click.Parameter, value: str) -> float:
    try:
        part = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        part = math.nan
    if not 0 < part <= 1:
        raise click.BadParameter(f"{value} is no part; write 0.1 or 10%")
    return part


@click.command(
    cls=Command,
    examples=(
        "pipeline reconcile",
        "pipeline reconcile --table page_views --sample 10%",
        "pipeline reconcile --fix --rate 2000",
        "pipeline reconcile --json | jq .drifted",
    ),
)
@click.option("--table", callback=_table, metavar="T", help="Only rows of this table.")
@click.option("--sample", callback=_part, default="100%", metavar="P", help="Only so many of the rows, by chance.")
@click.option("--fix", is_flag=True, help="Drop what is wrong, so that the next read installs the right row.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N rows per second.")
@click.option("--limit", type=click.IntRange(min=0), default=1000, show_default=True, help="List at most so many rows.")
@click.option("--show-values", is_flag=True, help="Show the values that differ, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the counts and the rows that are wrong.")
def reconcile(
    *, table: str | None, sample: float, fix: bool, rate: float | None, limit: int, show_values: bool, as_json: bool
) -> int:
    """Compare cached rows with PostgreSQL and what is pending, and find those that drifted apart.

    That happens when somebody writes to PostgreSQL past the pipeline. Without --fix nothing is changed. Works while
    everything is running; a row that changes whenever it is looked at counts as busy. Of a row that is wrong its table,
    its key and the names of the columns that differ are shown. Ctrl-C ends it with what it has found so far.

    Ends with 1 if a wrong row is left.
    """
    with open_pipeline() as pipeline:
        parts = pipeline.reconcile(table=table, sample=sample, fix=fix, rows_per_second=rate)
        result = _Result(limit, show_values=show_values, as_json=as_json)
        code = result.run(parts)
    if table is not None and not result.seen:
        tell(f"pipeline: no row of {table} is cached; is that how its writes and reads spell it?")
    return code


class _Result:
    """Sums the parts up, and shows the sum, also if it ends early."""

    def __init__(self, limit: int, *, show_values: bool, as_json: bool) -> None:
        self._limit = limit
        self._show_values = show_values
        self._as_json = as_json
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self._left = 0
        self._rows: list[Drift] = []

    @property
    def seen(self) -> int:
        """How many rows there were, whatever became of them."""
        return sum(self._counts[name] for name in ("checked", "busy", "skipped", "unreadable"))

    def run(self, parts: Iterator[Reconciled]) -> int:
        """Returns the exit code."""
        complete = False
        try:
            complete = self._go_through(parts)
        finally:
            self._show(complete=complete)
        return OK if complete and not self._left else FAILED

    def _go_through(self, parts: Iterator[Reconciled]) -> bool:
        """Whether it came to the end."""
        with stoppable() as stop, progress() as bar:
            task = bar.add_task("reconciling", total=None)
            for part in parts:
                self._counts.update({name: getattr(part, name) for name in _COUNTS})
                self._left += part.left
                self._rows += part.rows[: self._limit - len(self._rows)]
                bar.update(task, completed=self._counts["checked"])
                if stop.is_set():
                    return False
            bar.update(task, total=self._counts["checked"])
        return True

    def _show(self, *, complete: bool) -> None:
        rows = [self._described(row) for row in self._rows]
        if self._as_json:
            print_json({"complete": complete, **self._counts, "rows": rows})
        elif rows:
            columns = (*_COLUMNS, *_VALUES) if self._show_values else _COLUMNS
            print_table(columns, [[_cell(row.get(name)) for name in columns] for row in rows])
        tell(f"pipeline: {counted(self._counts)}")
        if (wrong := self._counts["drifted"] + self._counts["unreadable"]) > len(rows):
            tell(f"pipeline: {wrong - len(rows)} more rows are wrong than are listed: --limit")
        for why in dict.fromkeys(f"{row.table}: {row.detail}" for row in self._rows if row.detail):
            tell(f"pipeline: {why}")
        if not complete:
            tell("pipeline: stopped; what was not compared is not counted")

    def _described(self, row: Drift) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(row)
        return {name: value for name, value in plain.items() if self._show_values or name not in _VALUES}


def _cell(value: Any) -> Cell:
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value
