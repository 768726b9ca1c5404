"""``pipeline metrics``."""

from __future__ import annotations

import logging
from typing import Final

import click

from pipeline.cli.printing import tell
from pipeline.cli.running import FAILED, OK, Command, open_pipeline
from pipeline.contrib.prometheus import exposition, serving
from pipeline.wiring import Pipeline

__all__ = ["metrics"]

_LOOPBACK: Final = "127.0.0.1"
_HIGHEST_PORT: Final = 65_535


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= _HIGHEST_PORT):
        raise click.BadParameter(f"{value!r} is not [HOST:]PORT")
    return host.strip("[]") or _LOOPBACK, int(port)


@click.command(
    cls=Command,
    examples=("pipeline metrics", "pipeline metrics --serve 9808", "pipeline metrics --serve 0.0.0.0:9808"),
)
@click.option(
    "--serve",
    metavar="[HOST:]PORT",
    callback=_address,
    help=f"Answer scrapes over HTTP until Ctrl-C; HOST is {_LOOPBACK} unless you say otherwise.",
)
def metrics(*, serve: tuple[str, int] | None) -> int:
    """Print the metrics for Prometheus once, or serve them.

    One process serves the whole pipeline. A side that is away is pipeline_up 0, and what only it knows is left out;
    that is no failure of this command, so it ends with 0. It needs the extra `metrics`.
    """
    logging.getLogger("pipeline.contrib.prometheus").setLevel(logging.WARNING)  # it says why a side could not be asked
    try:
        with open_pipeline() as pipeline:
            if serve is not None:
                return _serve(pipeline, *serve)
            print(exposition(pipeline), end="")
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        tell("pipeline: prometheus_client is missing; metrics need: pip install 'celery-write-behind[metrics]'")
        return FAILED
    return OK


def _serve(pipeline: Pipeline, host: str, port: int) -> int:
    try:
        with serving(pipeline, host, port) as (url, thread):
            tell(f"pipeline: serving {url} until Ctrl-C")
            thread.join()
    except KeyboardInterrupt:  # the way it ends
        return OK
    except OSError as error:
        tell(f"pipeline: cannot serve at {host}:{port}: {error.strerror or error}")
        return FAILED
    return OK
