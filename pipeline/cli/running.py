"""Run a command: the pipeline it works on, how it can be stopped, and how its errors become a line and an exit code."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

import click

from pipeline.cli.printing import one_line, tell
from pipeline.errors import BufferUnavailable, InvalidSetting, PipelineError, StoreError, StoreUnavailable
from pipeline.wiring import Pipeline

__all__ = ["FAILED", "OK", "WRONG_USAGE", "Command", "Group", "described", "open_pipeline", "run", "stoppable"]

OK: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2

_NO_RIGHT: Final = "42501"


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples."""
        _write_examples(self._examples, formatter)


class Group(click.Group):
    """A group of commands, with examples, that shows its help and ends with `WRONG_USAGE` when no command is given."""

    def __init__(self, *args: Any, examples: Sequence[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, if there is anything to parse."""
        if not args:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(WRONG_USAGE)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples."""
        _write_examples(self._examples, formatter)


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples"):
        for example in examples:  # as they are: a broken line cannot be copied
            formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def open_pipeline() -> Pipeline:
    """The pipeline that the environment describes.

    Raises:
        InvalidSetting: names the variable and the problem.
    """
    return Pipeline.from_env()


def run(command: click.Command, arguments: Sequence[str], name: str) -> NoReturn:
    """Run ``command`` and end the process. What it returns is the exit code, ``None`` is `OK`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    _show_log()
    try:
        sys.exit(command.main(list(arguments), prog_name=name, standalone_mode=False) or OK)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        tell(f"{path}: {error.format_message().rstrip('.')}; see `{path} --help`")
        sys.exit(WRONG_USAGE)
    except click.Abort:
        tell(f"{name}: stopped")
        sys.exit(FAILED)
    except InvalidSetting as error:
        tell(f"{name}: {described(error)}")
        sys.exit(WRONG_USAGE)
    except PipelineError as error:
        tell(f"{name}: {described(error)}")
        sys.exit(FAILED)


def described(error: PipelineError) -> str:
    """What went wrong and what to do, in one line."""
    text = one_line(str(error)).rstrip(".")
    match error:
        case BufferUnavailable(answered=answered):
            return f"Redis is not available: {text}. {_question('PIPELINE_REDIS_URL', running=answered)}"
        case StoreUnavailable(answered=answered):
            return f"{text}. {_question('PIPELINE_DATABASE_URL', running=answered)}"
        case StoreError(sqlstate=sqlstate) if sqlstate == _NO_RIGHT:
            return f"{text}. Use a role in PIPELINE_DATABASE_URL that has this right, or grant it"
    return text


def _question(variable: str, *, running: bool) -> str:
    return f"Is {variable} right?" if running else f"Is it running, and is {variable} right?"


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Let the first Ctrl-C set the event, so that a loop can end between two steps; the second one interrupts."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print through whatever ``sys.stderr`` is now: a progress bar puts itself in its place."""
        tell(f"pipeline: {record.getMessage()}")


def _show_log() -> None:
    """Errors of the library go to stderr; what its commands raise is told once, by `run`."""
    log = logging.getLogger("pipeline")
    log.setLevel(logging.ERROR)
    log.addHandler(_ToStderr())
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it tells every attempt to connect
