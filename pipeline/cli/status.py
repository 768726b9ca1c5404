"""``pipeline status``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.arrivals import Depth
from pipeline.cli.printing import Cell, print_json, print_table, rich_table, seconds, sentences, tell
from pipeline.cli.running import FAILED, OK, Command, described, open_pipeline
from pipeline.errors import PipelineError
from pipeline.status import BufferStatus, ShardStatus, Status, status_of
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
    again. Parked events are set aside, because their table cannot be written at all or lacks a column; they come back,
    in order, when it can. What Celery clients have sent and is not in a shard yet has a row of its own: ingress.

    While PostgreSQL cannot be asked, what Redis knows is shown, without dead letters.

    Ends with 1 if a batch keeps failing, a table or a column is paused, PostgreSQL has gone back in time, or Redis or
    PostgreSQL cannot be asked.
    """
    with open_pipeline() as pipeline:
        if watch is None:
            return _once(pipeline, as_json=as_json)
        try:
            _watch(pipeline, watch, as_json=as_json)
        except KeyboardInterrupt:  # the way a watch ends
            return OK
    return OK


class _Found(NamedTuple):
    """What could be found out, and why the rest could not; Redis alone is a `BufferStatus`."""

    status: Status | BufferStatus | None
    problem: str | None

    @property
    def healthy(self) -> bool:
        return isinstance(self.status, Status) and self.status.healthy

    @property
    def ailments(self) -> str:
        known = "" if self.status is None else _ailments(self.status)
        return sentences(*filter(None, (self.problem, known)))


def _ask(pipeline: Pipeline) -> _Found:
    sides = pipeline.sides()
    problems = []
    if isinstance(sides.buffer, PipelineError):
        problems.append(described(sides.buffer))
    if isinstance(sides.ledger, PipelineError):
        problems.append(f"the ledger could not be asked: {described(sides.ledger)}")
    if isinstance(sides.buffer, PipelineError):
        return _Found(None, sentences(*problems))
    return _Found(sides.buffer, problems[0]) if problems else _Found(status_of(sides), None)


def _once(pipeline: Pipeline, *, as_json: bool) -> int:
    found = _ask(pipeline)
    if as_json:
        print_json(_document(pipeline, found))
    elif found.status is not None:
        print_table(_COLUMNS, _rows(found.status))
    if found.healthy:
        return OK
    tell(f"pipeline: unhealthy: {found.ailments}")
    return FAILED


def _document(pipeline: Pipeline, found: _Found) -> Any:
    """A status; where there is a problem, it is said, and what could not be asked is missing."""
    if found.problem is None:
        return found.status
    known: dict[str, Any] = {"namespace": pipeline.config.namespace, **(msgspec.to_builtins(found.status) or {})}
    return {**known, "healthy": False, "problem": found.problem}


def _watch(pipeline: Pipeline, interval: float, *, as_json: bool) -> None:
    if as_json:
        for found in _repeated(pipeline, interval):
            print_json(_document(pipeline, found), indent=False)
    elif not sys.stdout.isatty():
        for found in _repeated(pipeline, interval):
            if found.status is not None:
                print_table(_COLUMNS, _rows(found.status))
            if found.problem is not None:
                tell(f"pipeline: {found.problem}")
    else:
        with Live(console=Console(), auto_refresh=False) as live:
            for found in _repeated(pipeline, interval):
                live.update(_view(found), refresh=True)


def _repeated(pipeline: Pipeline, interval: float) -> Iterator[_Found]:
    """A side that is away does not end a watch: it is what one watches for."""
    while True:
        yield _ask(pipeline)
        time.sleep(interval)


def _view(found: _Found) -> RenderableType:
    health = Text("healthy", "green") if found.healthy else Text(f"unhealthy: {found.ailments}", "red")
    return health if found.status is None else Group(rich_table(_COLUMNS, _rows(found.status)), health)


def _rows(found: Status | BufferStatus) -> list[list[Cell]]:
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
            one.dead_letters if isinstance(one, ShardStatus) else None,
            one.error or "; ".join(f"{name} is paused: {why}" for name, why in one.paused.items()) or None,
        ]
        for one in found.shards
    ]
    failures = sum(one.failures for one in found.shards)
    attempts = sum(one.attempts for one in found.shards)
    dead = found.dead_letters if isinstance(found, Status) else None
    age = seconds(found.oldest_age)
    sums: list[Cell] = ["all", found.pending, age, found.parked, found.frozen, attempts, failures, None, None, None]
    return [*rows, [*sums, dead, None], *_arriving(found.ingress)]


def _arriving(ingress: Depth | None) -> list[list[Cell]]:
    """A row for what is not in a shard yet, if there is something."""
    if ingress is None or not ingress.total:
        return []
    told = ((ingress.waiting, "wait for room in their shards"), (ingress.for_celery, "are left to Celery"))
    said = ", ".join(f"{count} {what}" for count, what in told if count)
    blank: list[Cell] = [None] * (len(_COLUMNS) - 6)
    return [["ingress", ingress.total, None, None, ingress.taken, *blank, said or None]]


def _ailments(found: Status | BufferStatus) -> str:
    failing = [
        f"the batch of shard {one.shard} has failed {one.failures} times ({one.error})"
        for one in found.shards
        if one.failures
    ]
    lost = [
        f"PostgreSQL went back in time under shard {one.shard} ({one.store_gaps} times)"
        for one in found.shards
        if isinstance(one, ShardStatus) and one.store_gaps
    ]
    paused = [
        f"{name} is paused in shard {one.shard}, {one.parked} events are set aside ({why})"
        for one in found.shards
        for name, why in one.paused.items()
    ]
    return "; ".join(failing + paused + lost)
