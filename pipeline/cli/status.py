"""``pipeline status``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.cli.printing import Cell, print_json, print_table, rich_table, seconds, tell
from pipeline.cli.running import FAILED, OK, Command, described, open_pipeline
from pipeline.errors import InvalidSetting, PipelineError
from pipeline.status import Status
from pipeline.wiring import Pipeline

__all__ = ["status"]

_WATCH_SECONDS: Final = 2.0
_SHORTEST: Final = 0.1
_LONGEST: Final = 86_400.0

_COLUMNS: Final = (
    "shard", "pending", "oldest_age", "parked", "frozen", "attempts", "failures", "next_try", "per_second",
    "drain_time", "dead_letters", "error",
)  # fmt: skip


def _interval(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and (math.isnan(value) or not _SHORTEST <= value <= _LONGEST):
        raise click.BadParameter(f"{value} is not between {_SHORTEST} and {_LONGEST:.0f} seconds")
    return value


@click.command(
    cls=Command, examples=("pipeline status", "pipeline status --watch 5", "pipeline status --json | jq .pending")
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch one a line.")
@click.option(
    "--watch",
    type=float,
    is_flag=False,
    flag_value=_WATCH_SECONDS,
    metavar="[SECONDS]",
    callback=_interval,
    help=f"Show it again and again, every {_WATCH_SECONDS:.0f} seconds unless you say otherwise, until Ctrl-C.",
)
def status(*, as_json: bool, watch: float | None) -> int:
    """Show what is pending, frozen and dead, per shard and in sum.

    oldest_age, next_try and drain_time are in seconds. per_second is how many events were drained lately, drain_time
    how long the pending ones will take at that rate, if no more come. A frozen batch is on its way to PostgreSQL:
    attempts says how often it has been taken, failures how often an error was recorded, next_try when it may be tried
    again. Parked events are set aside, because their table cannot be written at all; they come back, in order, when it
    can.

    Ends with 1 if a batch keeps failing, a table is paused, PostgreSQL has gone back in time, or Redis or PostgreSQL
    cannot be reached.
    """
    with open_pipeline() as pipeline:
        if watch is None:
            return _once(pipeline, as_json=as_json)
        try:
            _watch(pipeline, watch, as_json=as_json)
        except KeyboardInterrupt:  # the way a watch ends
            return OK
    return OK


def _once(pipeline: Pipeline, *, as_json: bool) -> int:
    found = _ask(pipeline)
    if isinstance(found, PipelineError):
        if as_json:
            print_json(_unknown(pipeline, found))
        raise found
    if as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, _rows(found))
    if found.healthy:
        return OK
    tell(f"pipeline: unhealthy: {_ailments(found)}")
    return FAILED


def _ask(pipeline: Pipeline) -> Status | PipelineError:
    try:
        return pipeline.status()
    except InvalidSetting:
        raise
    except PipelineError as error:
        return error


def _unknown(pipeline: Pipeline, error: PipelineError) -> dict[str, Any]:
    return {"namespace": pipeline.config.namespace, "healthy": False, "problem": described(error)}


def _watch(pipeline: Pipeline, interval: float, *, as_json: bool) -> None:
    if as_json:
        for found in _repeated(pipeline, interval):
            print_json(_unknown(pipeline, found) if isinstance(found, PipelineError) else found, indent=False)
    elif not sys.stdout.isatty():
        for found in _repeated(pipeline, interval):
            if isinstance(found, PipelineError):
                tell(f"pipeline: {described(found)}")
            else:
                print_table(_COLUMNS, _rows(found))
    else:
        with Live(console=Console(), auto_refresh=False) as live:
            for found in _repeated(pipeline, interval):
                live.update(_view(found), refresh=True)


def _repeated(pipeline: Pipeline, interval: float) -> Iterator[Status | PipelineError]:
    """A side that is away does not end a watch: it is what one watches for."""
    while True:
        yield _ask(pipeline)
        time.sleep(interval)


def _view(found: Status | PipelineError) -> RenderableType:
    if isinstance(found, PipelineError):
        return Text(described(found), style="red")
    health = Text("healthy", "green") if found.healthy else Text(f"unhealthy: {_ailments(found)}", "red")
    return Group(rich_table(_COLUMNS, _rows(found)), health)


def _rows(found: Status) -> list[list[Cell]]:
    rows: list[list[Cell]] = [
        [
            one.shard,
            one.pending,
            seconds(one.oldest_age),
            one.parked,
            one.frozen,
            one.attempts,
            one.failures,
            seconds(one.next_try),
            seconds(one.per_second),
            seconds(one.drain_seconds),
            one.dead_letters,
            one.error or "; ".join(f"{table} is paused: {why}" for table, why in one.paused.items()) or None,
        ]
        for one in found.shards
    ]
    failures = sum(one.failures for one in found.shards)
    attempts = sum(one.attempts for one in found.shards)
    age = seconds(found.oldest_age)
    sums: list[Cell] = ["all", found.pending, age, found.parked, found.frozen, attempts, failures, None, None, None]
    return [*rows, [*sums, found.dead_letters, None]]


def _ailments(found: Status) -> str:
    failing = [
        f"the batch of shard {one.shard} has failed {one.failures} times ({one.error})"
        for one in found.shards
        if one.failures
    ]
    lost = [
        f"PostgreSQL went back in time under shard {one.shard} ({one.store_gaps} times)"
        for one in found.shards
        if one.store_gaps
    ]
    paused = [
        f"table {table} is paused in shard {one.shard}, {one.parked} events are set aside ({why})"
        for one in found.shards
        for table, why in one.paused.items()
    ]
    return "; ".join(failing + paused + lost)
