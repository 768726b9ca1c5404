"""The program ``pipeline``: its commands, and what holds for all of them."""

from __future__ import annotations

import logging

import click

from pipeline.cli.barrier import barrier
from pipeline.cli.benchmark import bench
from pipeline.cli.dead_letters import dead_letters
from pipeline.cli.doctor import doctor
from pipeline.cli.flushing import flush
from pipeline.cli.metrics import metrics
from pipeline.cli.migrating import migrate
from pipeline.cli.reconciling import reconcile
from pipeline.cli.running import Group
from pipeline.cli.status import status

__all__ = ["program"]


@click.group(
    cls=Group,
    examples=(
        "export PIPELINE_REDIS_URL=redis://localhost:6379/0",
        "export PIPELINE_DATABASE_URL=postgresql://user:password@localhost/shop",
        "pipeline migrate",
        "pipeline status --watch",
    ),
)
@click.option("-v", "--verbose", is_flag=True, help="Show on stderr what happens, not only what goes wrong.")
@click.version_option(package_name="celery-write-behind", prog_name="pipeline", message="%(prog)s %(version)s")
def program(*, verbose: bool) -> None:
    """Operate a write-behind pipeline: Redis in front, PostgreSQL behind.

    Settings come from the environment, as PIPELINE_… variables.

    Data goes to stdout, messages to stderr; what is not printed to a terminal is tab-separated. Exit codes: 0 ok,
    1 failed or unhealthy, 2 wrong usage.
    """
    if verbose:
        logging.getLogger("pipeline").setLevel(logging.INFO)


for command in (migrate, status, doctor, metrics, flush, barrier, reconcile, bench, dead_letters):
    program.add_command(command)
