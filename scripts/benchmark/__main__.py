"""The command line of ``scripts/bench``; its help text is in that file, which shows it without installing anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pipeline.bench.measures import Wrong
from scripts.benchmark import documents
from scripts.benchmark.overloading import overload_command
from scripts.benchmark.report import picture, tables
from scripts.benchmark.result import Result
from scripts.benchmark.run import QUICK, Plan, run
from scripts.benchmark.stopping import Stop
from scripts.terminal.interrupts import Interrupted

FAILED = 1
_SIGNALLED = 128


@click.group("bench", invoke_without_command=True, epilog="Example: scripts/bench --events 50000 --rounds 5")
@click.option("--events", type=click.IntRange(min=1), help=f"Drained in each round; default: {Plan().events:,}.")
@click.option("--rows", type=click.IntRange(min=1), help=f"Written one by one in each round; default: {Plan().rows:,}.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Medians are shown; default: {Plan().rounds}.")
@click.option("--quick", is_flag=True, help="One short round, to see that everything works; its numbers mean little.")
@click.option("--without-batches", is_flag=True, help="Leave celery-batches out; it needs pip and a network once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--picture", "picture_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw bars, as SVG.")
@click.option("--write-docs", is_flag=True, help="Put the numbers and the picture into docs/explanation.")
@click.option("--from", "kept", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A run's JSON.")
@click.pass_context
def main(
    context: click.Context,
    *,
    events: int | None,
    rows: int | None,
    rounds: int | None,
    quick: bool,
    without_batches: bool,
    as_json: bool,
    picture_file: Path | None,
    write_docs: bool,
    kept: Path | None,
) -> None:
    """Measure this pipeline beside what people use instead.

    Exits with 1 if a goal is missed by more than 15 %.
    """
    if context.invoked_subcommand is not None:
        return
    plan = QUICK if quick else Plan()
    plan = Plan(
        events or plan.events, rows or plan.rows, plan.singles, rounds or plan.rounds, batches=not without_batches
    )
    result = documents.read(kept) if kept else _measured(plan)
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        _show(result)
    if picture_file:
        picture_file.write_text(picture(result), encoding="utf-8")
    if write_docs:
        documents.write(result)
    sys.exit(0 if result.ok else FAILED)


main.add_command(overload_command)


def _measured(plan: Plan) -> Result:
    stop = Stop()
    try:
        with _saying() as say:
            return run(plan, say, stop)
    except Interrupted as interrupted:
        click.echo("bench: stopped", err=True)
        sys.exit(_SIGNALLED + interrupted.signum)
    except Wrong as error:
        click.echo(f"bench: this measures nothing: {error}", err=True)
        sys.exit(FAILED)


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """What is being done, on standard error: the last of it at a terminal, a line for each elsewhere."""
    errors = Console(stderr=True)
    if errors.is_terminal:
        with errors.status("") as status:
            yield status.update
    else:
        yield lambda text: print(text, file=sys.stderr, flush=True)


def _show(result: Result) -> None:
    console = Console()
    for table in tables(result):
        if table.rows:
            grid = Grid(title=table.title)
            for place, column in enumerate(table.columns):
                grid.add_column(column, justify="right" if place else "left")
            for row in table.rows:
                grid.add_row(*map(Text, row))
            console.print(grid)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
