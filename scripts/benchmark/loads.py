"""``scripts/bench latency`` and ``scripts/bench flat``: parts of the whole run, for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from scripts.benchmark.flat import BACKLOGS, FOLDED, POISONED, flat, folding, poison
from scripts.benchmark.goals import Line, of_flat, of_latency
from scripts.benchmark.latency import RATES, latencies
from scripts.benchmark.report import Table, flat_table, goal_table, latency_table
from scripts.benchmark.telling import finish, measured, show
from settings import CONFIG

__all__ = ["flat_command", "latency_command"]


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
    found = measured(lambda say, _: latencies(rates or RATES, seconds, say))
    lines = of_latency(found, CONFIG.flush_interval_seconds)
    _print({"latency": found}, [latency_table(found)], list(lines.values()), as_json=as_json)


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
    drains = measured(lambda say, _: flat(sorted(backlogs or BACKLOGS), say))
    folded = measured(lambda say, _: folding(*FOLDED, say))
    poisoned = measured(lambda say, _: poison(POISONED, say))
    lines = of_flat(drains, folded, poisoned)
    document = {"flat": drains, "folding": folded, "poison": poisoned}
    _print(document, [flat_table(drains)], list(lines.values()), as_json=as_json)


def _print(document: dict[str, Any], tables: Sequence[Table], lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({**document, "lines": lines}))
    else:
        show([*tables, goal_table(lines)])
    finish(lines)
