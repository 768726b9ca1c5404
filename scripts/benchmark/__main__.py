"""The command line of ``scripts/bench``."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from pipeline.contrib.embedded import Servers
from scripts.benchmark.loads import flat_command, latency_command
from scripts.benchmark.measure import Bench
from scripts.benchmark.overloading import overload_command

SINGLE_WRITES = 2000
TOLERANCE = 1.15
"""A goal is failed when it is missed by more than 15 %: these machines are noisy."""


@dataclass(frozen=True)
class Goal:
    """A number to reach: a ratio of two measurements of the same run, or a rate."""

    name: str
    value: float
    goal: float
    at_most: bool

    @property
    def ok(self) -> bool:
        """Whether the goal is reached, within the tolerance."""
        return self.value <= self.goal * TOLERANCE if self.at_most else self.value >= self.goal / TOLERANCE


def goals(seconds: dict[str, float]) -> list[Goal]:
    """The goals that this bench can judge so far."""
    return [
        Goal("write() / bare SET", seconds["write"] / seconds["bare SET"], 1.8, at_most=True),
        Goal("read() hit / bare HGETALL", seconds["read, hit"] / seconds["bare HGETALL"], 1.3, at_most=True),
        Goal("delay() / write()", seconds["apply_event.delay"] / seconds["write"], 3.5, at_most=False),
        Goal("delay() / write_many per event", seconds["apply_event.delay"] / seconds["write_many"], 40, at_most=False),
        Goal("stock task per row / drain", seconds["stock task per row"] / seconds["drain"], 100, at_most=False),
        Goal("drain, events/s in one process", 1 / seconds["drain"], 20_000, at_most=False),
    ]


def run(events: int, stock_events: int, rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds per operation of every measurement, one value per round; the rounds are interleaved."""
    found: dict[str, list[float]] = {}
    with Servers() as servers:
        bench = Bench(servers, events, stock_events)
        measurements: dict[str, Callable[[], float]] = {
            "bare SET": lambda: bench.bare_set(SINGLE_WRITES),
            "write": lambda: bench.write(SINGLE_WRITES),
            "apply_event.delay": lambda: bench.delay(SINGLE_WRITES // 2),
            "bare HGETALL": lambda: bench.bare_hgetall(SINGLE_WRITES),
            "read, hit": lambda: bench.read_hit(SINGLE_WRITES),
            "read_many, hits, per row": lambda: bench.read_many(SINGLE_WRITES),
            "read, miss": lambda: bench.read_miss(SINGLE_WRITES // 4),
            "read, miss with a pending change": lambda: bench.read_pending(SINGLE_WRITES // 4),
            "write_many": bench.write_many,
            "drain": bench.drain,
            "stock task per row": bench.stock_task_per_row,
        }
        try:
            for number in range(1, rounds + 1):
                for name, measure in measurements.items():
                    say(f"round {number} of {rounds}: {name}")
                    found.setdefault(name, []).append(measure())
        finally:
            bench.close()
    return found


@click.group("bench", invoke_without_command=True, epilog="Example: scripts/bench --events 50000 --rounds 5")
@click.option(
    "--events", type=click.IntRange(min=1), default=50_000, show_default=True, help="Events to drain in each round."
)
@click.option(
    "--stock-events",
    type=click.IntRange(min=1),
    default=2_000,
    show_default=True,
    help="Tasks for the stock worker in each round.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds; medians are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def main(context: click.Context, events: int, stock_events: int, rounds: int, as_json: bool) -> None:  # noqa: FBT001
    """Measure writes and flushes beside a bare SET, delay() and a stock Celery task per row.

    Exits with 1 if a goal is missed by more than 15 %.
    """
    if context.invoked_subcommand is not None:
        return
    errors = Console(stderr=True)
    with errors.status("starting") as status:
        found = run(events, stock_events, rounds, status.update)
    medians = {name: statistics.median(values) for name, values in found.items()}
    judged = goals(medians)
    if as_json:
        document = {
            "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
            "microseconds": {name: [round(value * 1e6, 1) for value in values] for name, values in found.items()},
            "goals": [
                {"name": goal.name, "value": round(goal.value, 2), "goal": goal.goal, "ok": goal.ok} for goal in judged
            ],
        }
        click.echo(json.dumps(document))
    else:
        show(found, judged)
    sys.exit(0 if all(goal.ok for goal in judged) else 1)


main.add_command(overload_command)
main.add_command(latency_command)
main.add_command(flat_command)


def show(found: dict[str, list[float]], judged: list[Goal]) -> None:
    """Print two tables: what was measured, and the goals."""
    console = Console()
    table = Table("operation", "µs, median", "min", "max", "per second", title="Time per operation")
    for name, values in found.items():
        middle = statistics.median(values)
        row = [f"{value * 1e6:,.1f}" for value in (middle, min(values), max(values))]
        table.add_row(name, *row, f"{1 / middle:,.0f}")
    console.print(table)
    table = Table("goal", "measured", "to reach", "", title="Goals")
    for goal in judged:
        sign = "≤" if goal.at_most else "≥"
        table.add_row(goal.name, f"{goal.value:,.1f}", f"{sign} {goal.goal:,}", "ok" if goal.ok else "missed")
    console.print(table)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
