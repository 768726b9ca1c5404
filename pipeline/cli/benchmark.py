"""``pipeline bench``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

import click

from pipeline.bench.clock import Measured, take_turns
from pipeline.bench.machine import machine
from pipeline.bench.measures import BYTES_PER_EVENT, Bench, InUse, Sizes, Wrong
from pipeline.cli.printing import print_json, print_table, progress, tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline
from pipeline.status import Status
from pipeline.store.yardstick import SCHEMA
from pipeline.wiring import Pipeline

__all__ = ["bench"]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@click.command(cls=Command, examples=("pipeline bench --events 20000 --yes", "pipeline bench --rounds 5 --yes --json"))
@click.option(
    "--events",
    type=click.IntRange(100, 1_000_000),
    default=Sizes().events,
    show_default=True,
    help="Events that are written and flushed in each round, of each kind of load.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Medians of so many.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every round.")
def bench(*, events: int, rounds: int, yes: bool, as_json: bool) -> int:
    """Measure this pipeline on its own servers, beside what needs no pipeline.

    What a SET, a write, a read and a flush take here, and the same rows written by upserts, executemany and COPY. It
    works with rows of its own: in Redis in the namespace of the pipeline with "-bench" behind it, in PostgreSQL in the
    schema pipeline_bench; both are removed in the end, also after Ctrl-C or SIGTERM, and by the next run if this one
    is killed. Where there is a pipeline of that name, it refuses. Needs `pipeline migrate`, and the right to create a
    schema.

    Servers that are in use become slower meanwhile, and so do their users: it asks first, or wants --yes.
    """
    usual = Sizes()
    sizes = Sizes(singles=min(events, usual.singles), events=events, rows=min(events, usual.rows))
    with open_pipeline() as pipeline:
        status = pipeline.status()
        measuring = Bench(pipeline.config, sizes)
        if (room := measuring.redis.room_bytes()) is not None and room < events * BYTES_PER_EVENT:
            tell(f"pipeline: Redis has room for {room // BYTES_PER_EVENT:,} more events: fewer --events")
            return FAILED
        if not yes:
            _ask(pipeline, status, events)
        try:
            found = _measure(measuring, rounds)
        except Wrong as error:
            tell(f"pipeline: this measures nothing: {error}")
            return FAILED
        except InUse as error:
            tell(f"pipeline: {error}")
            return FAILED
    if as_json:
        print_json({"machine": machine(), "events": events, "measured": _document(found)})
    else:
        print_table(
            ["measured", "µs", "fastest", "slowest", "per second", "CPU-µs here", "CPU-µs in Redis"],
            [_row(name, measured) for name, measured in found.items()],
        )
    return OK


def _ask(pipeline: Pipeline, status: Status, events: int) -> None:
    """Raises click.Abort, or click.UsageError where nobody can answer."""
    what = f"It writes {events:,} rows again and again, into the schema {SCHEMA} and into its Redis."
    if status.pending:
        what += f" The pipeline {pipeline.config.namespace} is in use: {status.pending:,} events are pending."
    if not sys.stdin.isatty():
        raise click.UsageError(f"{what} Say --yes")
    click.confirm(f"{what} Go on?", abort=True, err=True)


def _measure(measuring: Bench, rounds: int) -> dict[str, Measured]:
    with _ended_once(), measuring, progress() as bar:
        measures = measuring.in_this_process()
        task = bar.add_task("measuring", total=rounds * len(measures))

        def say(what: str) -> None:
            bar.update(task, advance=1, description=what)

        return take_turns(measures, rounds, say)


@contextmanager
def _ended_once() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends it; more of them do not end the removal of what was measured on."""

    def handle(_number: int, _frame: FrameType | None) -> NoReturn:
        for signum in _ENDING:
            signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, handle) for signum in _ENDING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is handle:  # else it was interrupted, and ends
                signal.signal(signum, handler)


def _row(name: str, measured: Measured) -> list[str | float | None]:
    times = [round(seconds * 1e6, 1) for seconds in (measured.seconds, *measured.spread)]
    cpu = [round(measured.cpu[who] * 1e6, 1) if who in measured.cpu else None for who in ("Python", "Redis")]
    return [name, *times, round(1 / measured.seconds), *cpu]


def _document(found: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        name: {
            "microseconds": [round(sample.seconds * 1e6, 2) for sample in measured.samples],
            "cpu_microseconds": {who: round(seconds * 1e6, 2) for who, seconds in measured.cpu.items()},
        }
        for name, measured in found.items()
    }
