"""``pipeline barrier``."""

from __future__ import annotations

import math
from typing import Final

import click

from pipeline.cli.printing import print_json, progress, tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline
from pipeline.errors import InvalidEvent, StillPending
from pipeline.wiring import Pipeline

__all__ = ["barrier"]

_LONGEST: Final = 315_576_000.0


def _seconds(_context: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and (math.isnan(value) or not 0 <= value <= _LONGEST):
        raise click.BadParameter(f"{value} is no time to wait, in seconds")
    return value


@click.command(cls=Command, examples=("pipeline barrier --timeout 60", "pipeline barrier --table page_views --json"))
@click.option("--table", metavar="NAME", help="Do not wait for what is set aside because of other tables.")
@click.option("--timeout", type=float, metavar="SECONDS", callback=_seconds, help="Give up then; default: never.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: whether all is done, and what is not.")
def barrier(*, table: str | None, timeout: float | None, as_json: bool) -> int:
    """Wait until everything that was accepted before is in PostgreSQL, or a dead letter.

    It only waits: workers do the work, or `pipeline flush`. What is accepted later is not waited for. Ctrl-C ends it.
    Ends with 1 if that took too long, and says which shards are not done and why.
    """
    late = None
    with open_pipeline() as pipeline:
        try:
            _wait(pipeline, table, timeout)
        except StillPending as error:
            late = error
        except InvalidEvent as error:
            raise click.BadParameter(str(error), param_hint="'--table'") from error
    if as_json:
        print_json(
            {"ok": late is None, "pending_shards": late.pending if late else 0, "problem": late and late.problem}
        )
    if late is not None:
        tell(f"pipeline: {late}")
    return OK if late is None else FAILED


def _wait(pipeline: Pipeline, table: str | None, timeout: float | None) -> None:
    with progress() as bar:
        task = bar.add_task("waiting", total=None)
        most = 0

        def show(left: int) -> None:
            nonlocal most
            most = max(most, left)
            bar.update(task, completed=most - left, total=most)

        pipeline.barrier(table, timeout, show)
