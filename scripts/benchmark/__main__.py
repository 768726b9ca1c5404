"""The command line of ``scripts/bench``; its help text is in that file, which shows it without installing anything."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from scripts.benchmark import documents
from scripts.benchmark.loads import flat_command, latency_command
from scripts.benchmark.overloading import overload_command
from scripts.benchmark.report import picture, tables
from scripts.benchmark.result import Result
from scripts.benchmark.run import QUICK, Plan, run
from scripts.benchmark.telling import finish, measured, show


@click.group("bench", invoke_without_command=True, epilog="Example: scripts/bench --events 50000 --rounds 5")
@click.option("--events", type=click.IntRange(min=1), help=f"Drained in each round; default: {Plan().events:,}.")
@click.option("--rows", type=click.IntRange(min=1), help=f"Written one by one in each round; default: {Plan().rows:,}.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Medians are shown; default: {Plan().rounds}.")
@click.option("--quick", is_flag=True, help="One short round, to see that everything works; judges no goal.")
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

    Exits with 1 if a goal is missed by more than 15 %; they are judged at full sizes only.
    """
    if context.invoked_subcommand is not None:
        return
    if picture_file and not picture_file.parent.is_dir():  # it is drawn after a quarter of an hour
        raise click.BadParameter(f"there is no directory {picture_file.parent}", param_hint="--picture")
    if write_docs and quick:
        raise click.UsageError("--write-docs wants a run of full size, not --quick")
    plan = QUICK if quick else Plan()
    plan = plan._replace(
        events=events or plan.events, rows=rows or plan.rows, rounds=rounds or plan.rounds, batches=not without_batches
    )
    result = _kept(kept) if kept else measured(lambda say, stop: run(plan, say, stop))
    if write_docs and all(line.ok is None for line in result.lines):
        raise click.UsageError("--write-docs wants a run of full size, and this one judges no goal")
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        show(tables(result))
    if picture_file:
        picture_file.write_text(picture(result), encoding="utf-8")
    if write_docs:
        documents.write(result)
    finish(result.lines)


def _kept(path: Path) -> Result:
    try:
        return documents.read(path)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{path} is not what --json has printed: {error}", param_hint="--from") from None


for command in (overload_command, latency_command, flat_command):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
