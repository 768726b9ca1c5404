"""The command line of the chaos runner; the help text is in ``scripts/chaos``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Options", "parse"]

USAGE: Final = "scripts/chaos [--seed S] [--minutes M] [--shards N] [--json] [--keep] …; see scripts/chaos --help"
LONGEST_MINUTES: Final = 24 * 60


class Options(NamedTuple):
    """What is asked for. ``faults``: only these kinds, or all of them. ``app``: the Celery app under test."""

    seed: str
    minutes: float
    shards: int
    workers: int
    producers: int
    rate: float
    faults: tuple[str, ...]
    without: tuple[str, ...]
    app: str
    drain_seconds: float
    json: bool
    keep: bool


def parse(arguments: Sequence[str], kinds: Sequence[str]) -> Options:
    """The options; ends the process with exit code 2 if they cannot be understood. ``kinds`` are those of faults."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", usage=USAGE, add_help=False, allow_abbrev=False)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes", type=_minutes, default=1.0)
    parser.add_argument("--shards", type=_count, default=4)
    parser.add_argument("--workers", type=_count, default=2)
    parser.add_argument("--producers", type=_count, default=3)
    parser.add_argument("--rate", type=_count, default=200)
    parser.add_argument("--faults", type=lambda text: _kinds(text, kinds), default=())
    parser.add_argument("--without", type=lambda text: _kinds(text, kinds), default=())
    parser.add_argument("--app", default="tasks")
    parser.add_argument("--drain-seconds", type=_count, default=90)
    for name in ("--json", "--keep"):
        parser.add_argument(name, action="store_true")
    return Options(**vars(parser.parse_args(arguments)))


def _minutes(text: str) -> float:
    minutes = float(text)
    if not math.isfinite(minutes) or not 0 < minutes <= LONGEST_MINUTES:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {LONGEST_MINUTES}, not {text}")
    return minutes


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return count


def _kinds(text: str, kinds: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(filter(None, map(str.strip, text.split(","))))
    if unknown := sorted(set(chosen) - set(kinds)):
        raise argparse.ArgumentTypeError(f"there is no fault {unknown[0]}; there are {', '.join(sorted(kinds))}")
    return chosen
