"""The command line. It parses, calls `pipeline.wiring.Pipeline`, and prints; it decides nothing.

click and rich come with the extra ``cli``. Without them `main` says so and ends with 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

try:
    from pipeline.cli.dead_letters import replay
    from pipeline.cli.program import program
    from pipeline.cli.running import run
except ModuleNotFoundError as error:
    _missing: str | None = (error.name or "").partition(".")[0]
    if _missing not in {"click", "rich"}:
        raise
else:
    _missing = None

__all__ = ["main", "replay_dead_letters"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program ``pipeline``; ends the process with 0 (ok), 1 (failed or unhealthy) or 2 (wrong usage)."""
    _require("pipeline")
    run(program, sys.argv[1:] if arguments is None else arguments, "pipeline")


def replay_dead_letters(arguments: Sequence[str] | None = None) -> NoReturn:
    """``pipeline dead-letters replay`` as a program of its own."""
    _require("replay_dead_letters.py")
    run(replay, sys.argv[1:] if arguments is None else arguments, "replay_dead_letters.py")


def _require(name: str) -> None:
    if _missing is not None:
        sys.exit(f"{name}: {_missing} is missing; the command line needs: pip install 'celery-write-behind[cli]'")
