"""``pipeline doctor``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.printing import counted, lines, one_line, print_json, tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline
from pipeline.core.health import Finding, Level

__all__ = ["doctor"]

_COLUMNS: Final = ("check", "result", "finding", "what to do")
_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@click.command(cls=Command, examples=("pipeline doctor", "pipeline doctor --json | jq '.findings[].advice'"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: healthy, the counts and every finding.")
def doctor(*, as_json: bool) -> int:
    """Examine Redis, the broker, PostgreSQL and the lanes, and say what to do.

    Looks at versions, settings that could lose data, memory, the schema, grants, the tables of PIPELINE_TABLES, paused
    tables, batches that keep failing, events that nobody flushes, tasks that nobody takes, dead letters, and whether
    one side has gone back in time. It changes nothing. What cannot be asked because a server is away is left out.

    Ends with 1 if there is a problem; a warning is none.
    """
    with open_pipeline() as pipeline:
        findings = pipeline.doctor()
        namespace = pipeline.config.namespace
    counts = Counter(finding.level for finding in findings)
    healthy = not counts[Level.PROBLEM]
    if as_json:
        tally = {str(level): counts[level] for level in Level}
        print_json({"namespace": namespace, "healthy": healthy, "counts": tally, "findings": findings})
    else:
        _show(findings)
    if not healthy:
        tell(f"pipeline: {counted({f'{level}(s)': counts[level] for level in (Level.PROBLEM, Level.WARNING)})}")
    return OK if healthy else FAILED


def _show(findings: Sequence[Finding]) -> None:
    if not sys.stdout.isatty():
        lines([_COLUMNS, *((one.check, str(one.level), one.message, one.advice) for one in findings)])
        return
    table = Table(*_COLUMNS)
    for one in findings:
        texts = (Text(one_line(part), overflow="fold") for part in (one.message, one.advice or ""))
        table.add_row(one_line(one.check), Text(one.level, _STYLES[one.level]), *texts)
    Console().print(table)
