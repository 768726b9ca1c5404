"""``pipeline migrate``."""

from __future__ import annotations

import click

from pipeline.cli.printing import print_json
from pipeline.cli.running import Command, open_pipeline

__all__ = ["migrate"]


@click.command(
    cls=Command,
    examples=("PIPELINE_DATABASE_URL=postgresql://owner@db/shop pipeline migrate", "pipeline migrate --json"),
)
@click.option("--json", "as_json", is_flag=True, help='Print {"applied": [names]}.')
def migrate(*, as_json: bool) -> None:
    """Create or upgrade the schema `pipeline` in PostgreSQL.

    Run it before the first flush and after every upgrade. It may be run at any time and by several at once: it applies
    what is missing.
    """
    with open_pipeline() as pipeline:
        applied = pipeline.migrate()
    if as_json:
        print_json({"applied": applied})
    elif applied:
        for name in applied:
            print(f"applied {name}")
    else:
        print("nothing to apply: the schema is up to date")
