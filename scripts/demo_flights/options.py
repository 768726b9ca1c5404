"""The command line of the demo; the help text is in ``scripts/demo``, where it is shown without installing anything."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Options", "parse"]

DEFAULT_FLIGHTS: Final = 20_000
ALL_FLIGHTS: Final = 336_776


class Options(NamedTuple):
    """What is asked for. ``flights``: that many, from the start of the year."""

    flights: int
    kill: bool
    json: bool
    keep: bool
    flower: bool


def parse(arguments: Sequence[str]) -> Options:
    """The options; ends the process with exit code 2 if they cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        usage="scripts/demo [--flights N | --all] [--kill] [--json] [--keep] [--flower]; see scripts/demo --help",
        add_help=False,
        allow_abbrev=False,
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--flights", type=_count, default=DEFAULT_FLIGHTS, metavar="N")
    how_many.add_argument("--all", dest="flights", action="store_const", const=ALL_FLIGHTS)
    for name in ("--kill", "--json", "--keep", "--flower"):
        parser.add_argument(name, action="store_true")
    return Options(**vars(parser.parse_args(arguments)))


def _count(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if not 1 <= number <= ALL_FLIGHTS:
        raise argparse.ArgumentTypeError(f"must be 1 to {ALL_FLIGHTS:,}, not {text}")
    return number
