"""``scripts/bench latency`` and ``scripts/bench flat``: what they ask for and what they show."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from scripts.benchmark.flat import BACKLOGS, Drain, Folding, Poison, flat, folding, poison
from scripts.benchmark.latency import RATES, latencies
from settings import CONFIG

__all__ = ["flat_command", "latency_command"]

MEGABYTE: Final = 1_000_000
TOLERANCE: Final = 1.15
"""A goal is failed when it is missed by more than 15 %: these machines are noisy."""

FOLDED: Final = (100_000, 10_000)
"""Updates, and the rows that they are of."""

POISONED: Final = 3000


class Line(NamedTuple):
    """A number to reach: at most ``goal``."""

    name: str
    value: float
    goal: float
    unit: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is reached, within the tolerance."""
        return self.value <= self.goal * TOLERANCE


@click.command("latency", epilog="Example: scripts/bench latency --seconds 30")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=20.0, show_default=True, help="For so long at each rate."
)
@click.option(
    "--rate",
    "rates",
    type=click.FloatRange(min=1),
    multiple=True,
    help="Events per second; may be given again. Default: 100, 1,000, 10,000, and as many as are taken.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def latency_command(seconds: float, rates: Sequence[float], as_json: bool) -> None:  # noqa: FBT001
    """Measure the time from write to commit at several loads, with a worker of two processes and beat.

    PIPELINE_… settings in the environment count. Exits with 1 if the p99 at 1,000 events/s is above its goal.
    """
    found = _told(lambda say: latencies(rates or RATES, seconds, say))
    interval = CONFIG.flush_interval_seconds
    lines = [
        Line(
            "write to commit at 1,000 events/s, p99, beyond the flush interval", 1000 * (one.p99 - interval), 250, "ms"
        )
        for one in found
        if one.asked == RATES[1]
    ]
    table = _table("events/s", "accepted/s", "events", "batches", "p50, ms", "p99, ms", "longest, ms")
    for one in found:
        asked = "max" if one.asked is None else f"{one.asked:,.0f}"
        times = (f"{1000 * value:,.0f}" for value in (one.p50, one.p99, one.longest))
        table.add_row(asked, f"{one.per_second:,.0f}", f"{one.events:,}", f"{one.batches:,}", *times)
    _finish({"latency": [one._asdict() for one in found]}, table, lines, as_json=as_json)


@click.command("flat", epilog="Example: scripts/bench flat --pending 10000 --pending 100000")
@click.option(
    "--pending",
    "backlogs",
    type=click.IntRange(min=1),
    multiple=True,
    help="Events to drain; may be given again. Default: 10,000, 100,000 and 1,000,000, which needs 1 GB.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flat_command(backlogs: Sequence[int], as_json: bool) -> None:  # noqa: FBT001
    """Measure what must not grow with the backlog: the cost of an event, a worker's memory, the scripts in Redis.

    Also the rows written for popular updates, and what one poison event costs. Exits with 1 if a goal is missed.
    """
    drains = _told(lambda say: flat(sorted(backlogs or BACKLOGS), say))
    folded = _told(lambda say: (say("folding"), folding(*FOLDED))[1])
    poisoned = _told(lambda say: (say("poison"), poison(POISONED))[1])
    table = _table(
        "pending", "write, µs", "drain, µs", "its CPU, µs", "Redis, bytes", "worker, MB", "slowest script, ms"
    )
    for one in drains:
        times = (f"{1e6 * value:.1f}" for value in (one.write_seconds, one.seconds, one.cpu_seconds))
        memory = f"{one.memory_before / MEGABYTE:.0f} → {one.memory_peak / MEGABYTE:.0f}"
        script = (one.slowest.name, *(f"{1e3 * value:.1f}" for value in (one.slowest.seconds, one.slowest.longest)))
        table.add_row(f"{one.events:,}", *times, f"{one.redis_bytes:.0f}", memory, *script)
    document = {
        "flat": [{**one._asdict(), "slowest": one.slowest._asdict()} for one in drains],
        "folding": folded._asdict(),
        "poison": poisoned._asdict(),
    }
    _finish(document, table, _flat_lines(drains, folded, poisoned), as_json=as_json)


def _flat_lines(drains: Sequence[Drain], folded: Folding, poisoned: Poison) -> list[Line]:
    smallest, largest = drains[0], drains[-1]
    slowest = max(drain.slowest.seconds for drain in drains)
    return [
        Line(
            f"cost per event with {largest.events:,} pending against {smallest.events:,}",
            largest.seconds / smallest.seconds,
            1.2,
            "times",
        ),
        Line(f"memory of a worker with {largest.events:,} pending", largest.memory_peak / MEGABYTE, 150, "MB"),
        Line("Redis memory per pending event, overlay included", max(d.redis_bytes for d in drains), 900, "bytes"),
        Line("slowest script in Redis", 1000 * slowest, 5, "ms"),
        Line("rows written per event, YCSB-A zipfian updates", folded.rows_per_event, 0.25),
        Line(f"savepoints more for one poison event in {poisoned.events:,}", poisoned.savepoints, 25),
        Line(f"transactions for one poison event in {poisoned.events:,}", poisoned.transactions, 1),
    ]


def _told(measure: Any) -> Any:
    with Console(stderr=True).status("starting") as status:
        return measure(status.update)


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _finish(document: dict[str, Any], table: Table, lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        machine = f"{platform.machine()} {platform.system()}, Python {platform.python_version()}"
        goals = [{**line._asdict(), "ok": line.ok} for line in lines]
        click.echo(json.dumps({"machine": machine, **document, "goals": goals}))
    else:
        console = Console(highlight=False)
        console.print(table)
        for line in lines:
            mark = "✓" if line.ok else "✗"
            console.print(
                f"{mark} {line.name}: {line.value:,.2f} {line.unit}".rstrip(), f"(≤ {line.goal:g})", soft_wrap=True
            )
    sys.exit(0 if all(line.ok for line in lines) else 1)
