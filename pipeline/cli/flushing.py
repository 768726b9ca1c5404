"""``pipeline flush``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click
import msgspec

from pipeline.cli.printing import print_json, print_table, progress, tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline, stoppable
from pipeline.flush import End, FlushReport
from pipeline.status import Status
from pipeline.wiring import Pipeline

__all__ = ["flush"]

_COUNTS: Final = ("batches", "events", "rows", "dead", "skipped")


@click.command(cls=Command, examples=("pipeline flush", "pipeline flush --shard 3 --json"))
@click.option("--shard", type=click.IntRange(min=0), metavar="N", help="Only this shard.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the sums and every shard.")
def flush(*, shard: int | None, as_json: bool) -> int:
    """Write everything that is pending to PostgreSQL, here and now.

    Works beside running workers, and while the application goes on writing: it ends when each shard was empty once.
    Ctrl-C ends it after the turn it is at. Ends with 1 if a batch failed; its events stay pending and are tried again.
    """
    with open_pipeline() as pipeline:
        shards = pipeline.config.shards
        if shard is not None and shard >= shards:
            raise click.BadParameter(f"shards are 0 to {shards - 1}", param_hint="'--shard'")
        before = pipeline.status()
        reports, stopped = _drain(pipeline, range(shards) if shard is None else [shard], before)
    result = _result(reports, stopped=stopped)
    if as_json:
        print_json(result)
    else:
        rows = [[one.shard, *(getattr(one, name) for name in _COUNTS), str(one.end), one.error] for one in reports]
        print_table(
            ["shard", *_COUNTS, "end", "error"], [*rows, ["all", *(result[name] for name in _COUNTS), None, None]]
        )
    for one in reports:
        if one.end is End.FAILED:
            tell(f"pipeline: shard {one.shard}: the batch stays pending: {one.error}")
        elif one.end is End.PAUSED:
            tell(f"pipeline: shard {one.shard}: events are set aside: {one.error}")
        elif one.end is End.WAITING:
            tell(f"pipeline: shard {one.shard}: events are missing in its queue; does a worker consume it?")
        elif one.end is End.RESTING:
            tell(f"pipeline: shard {one.shard}: its batch has failed before and rests; see `pipeline status`")
    if before.ingress is not None and before.ingress.total:
        tell(
            f"pipeline: {before.ingress.total:,} events of Celery clients are in no shard yet and were not flushed; "
            "beat and a worker take them"
        )
    if stopped:
        tell("pipeline: stopped; what was not flushed is pending as before")
    return OK if result["ok"] else FAILED


def _drain(pipeline: Pipeline, shards: Iterable[int], found: Status) -> tuple[list[FlushReport], bool]:
    """A report per shard, in sum over its turns, and whether Ctrl-C ended it."""
    reports: dict[int, FlushReport] = {}
    states = {state.shard: state.pending for state in found.shards}
    lanes = list(shards)
    with stoppable() as stop, progress() as bar:
        task = bar.add_task("flushing", total=sum(states[shard] for shard in lanes))
        for report in pipeline.drain(lanes):
            before = reports.get(report.shard)
            reports[report.shard] = report if before is None else _sum(before, report)
            done = sum(one.events for one in reports.values())
            bar.update(task, completed=done, total=max(done, bar.tasks[0].total or 0))
            if stop.is_set():
                break
    unfinished = any(reports[lane].end in {End.SLICE, End.BUSY} if lane in reports else True for lane in lanes)
    return [reports[lane] for lane in lanes if lane in reports], unfinished


def _sum(before: FlushReport, after: FlushReport) -> FlushReport:
    counts = {name: getattr(before, name) + getattr(after, name) for name in _COUNTS}
    return msgspec.structs.replace(after, **counts)


def _result(reports: list[FlushReport], *, stopped: bool) -> dict[str, Any]:
    return {
        "ok": not stopped and all(one.end is End.EMPTY for one in reports),
        "stopped": stopped,
        **{name: sum(getattr(one, name) for one in reports) for name in _COUNTS},
        "shards": reports,
    }
