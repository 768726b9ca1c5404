"""``pipeline dead-letters``."""

from __future__ import annotations

import base64
import getpass
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import click

from pipeline.cli.printing import counted, fields, lines, moment, print_json, print_table, progress, tell
from pipeline.cli.running import FAILED, OK, Command, Group, open_pipeline, stoppable
from pipeline.core.change import canonical_table
from pipeline.core.codec import Malformed, arguments
from pipeline.errors import InvalidEvent
from pipeline.ports import DeadLetter
from pipeline.replay import Replayed, ReplayOutcome
from pipeline.wiring import Pipeline

__all__ = ["dead_letters", "replay"]

_PAGE: Final = 100
_ID: Final = click.IntRange(min=1, max=2**63 - 1)
_COLUMNS: Final = ("id", "dead_at", "table", "event_id", "status", "attempts", "sqlstate", "reason")
_DONE: Final = frozenset({ReplayOutcome.REPLAYED, ReplayOutcome.WOULD_REPLAY})


def _table(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else canonical_table(value)
    except InvalidEvent as error:
        raise click.BadParameter(str(error)) from error


@click.group(
    name="dead-letters",
    cls=Group,
    examples=(
        "pipeline dead-letters list --table flights",
        "pipeline dead-letters show 17",
        "pipeline dead-letters replay --all --dry-run",
    ),
)
def dead_letters() -> None:
    """Look at events that could not be applied, and write them again."""


# --- looking


@dead_letters.command(
    name="list",
    cls=Command,
    examples=(
        "pipeline dead-letters list --table flights --limit 20",
        "pipeline dead-letters list --before 4711",
        "pipeline dead-letters list --status all --json | jq '.[].reason'",
    ),
)
@click.option(
    "--status",
    type=click.Choice(["dead", "replayed", "discarded", "all"]),
    default="dead",
    show_default=True,
    help="Only letters of this status.",
)
@click.option("--table", callback=_table, metavar="T", help="Only letters of this table.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option("--before", type=_ID, metavar="ID", help="Only letters older than this one: the next page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_letters(*, status: str, table: str | None, limit: int, before: int | None, as_json: bool) -> None:
    """List dead letters, the newest first."""
    with open_pipeline() as pipeline:
        found = list(_found(pipeline, None if status == "all" else status, table, before, limit))
    if as_json:
        print_json(found)
        return
    print_table(_COLUMNS, [[one[name] for name in _COLUMNS] for one in found])
    if len(found) == limit:
        tell(f"pipeline: there may be more: --before {found[-1]['id']}")


def _found(
    pipeline: Pipeline, status: str | None, table: str | None, before: int | None, limit: int
) -> Iterator[dict[str, Any]]:
    """Page by page, since a page has the messages too, and they may be large."""
    while limit > 0:
        page = pipeline.dead_letters.page(status=status, table=table, before=before, limit=min(limit, _PAGE))
        yield from map(_described, page)
        if len(page) < _PAGE:
            return
        limit -= len(page)
        before = page[-1].id


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "event_id": letter.event_id,
        "shard": letter.shard,
        "table": letter.table,
        "status": letter.status,
        "reason": letter.reason,
        "sqlstate": letter.sqlstate,
        "attempts": letter.attempts,
        "accepted_at": moment(letter.accepted_ms),
        "dead_at": moment(letter.dead_ms),
    }


@dead_letters.command(cls=Command, examples=("pipeline dead-letters show 17",))
@click.argument("letter_id", type=_ID, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(*, letter_id: int, as_json: bool) -> int:
    """Show one dead letter: why and when it died, and its changes.

    The changes are as the task apply_event takes them; a value that JSON has no type for is an object of __type__ and
    __value__. A letter that is no event is shown as it is, in `message` (and exactly, in `message_base64`).
    """
    with open_pipeline() as pipeline:
        letters = pipeline.dead_letters.get([letter_id])
        if not letters:
            tell(f"pipeline: there is no dead letter {letter_id}; see `pipeline dead-letters list --status all`")
            return FAILED
        found = {**_described(letters[0]), **_content(pipeline, letters[0])}
    if as_json:
        print_json(found)
        return OK
    changes = [("change", change) for change in found.pop("changes") or []]
    print_table(["field", "value"], fields([*found.items(), *changes]))
    return OK


def _content(pipeline: Pipeline, letter: DeadLetter) -> dict[str, Any]:
    event = pipeline.replayer.event(letter)
    if isinstance(event, Malformed):
        return {
            "changes": None,
            "shard_by": None,
            "malformed": event.reason,
            "message": event.raw.decode("utf-8", "backslashreplace"),
            "message_base64": base64.b64encode(event.raw).decode("ascii"),
        }
    change = arguments(event)
    shard_by = change.pop("shard_by", None)
    changes = change.get("changes") or [change]
    return {"changes": changes, "shard_by": shard_by, "malformed": None, "message": None, "message_base64": None}


# --- replaying


@dead_letters.command(
    cls=Command,
    examples=(
        "pipeline dead-letters replay 17 18",
        "pipeline dead-letters replay --all --dry-run",
        "pipeline dead-letters replay --table flights --force --yes",
    ),
)
@click.argument("ids", nargs=-1, type=_ID, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="Every letter that is dead now.")
@click.option("--table", callback=_table, metavar="T", help="Every letter of this table that is dead now.")
@click.option("--force", is_flag=True, help="Also what sets or deletes, and so may overwrite a newer write.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask. (Without a terminal nothing is asked.)")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: complete, stopped, the summary and every letter."
)
def replay(
    *, ids: tuple[int, ...], every: bool, table: str | None, force: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Write dead letters again, in the order in which they died.

    Mend what was wrong first. A replayed event goes the way of every write, once, also if this is interrupted and
    repeated; if it cannot be applied again, it becomes a new dead letter. What sets or deletes is refused without
    --force, since it may overwrite what a newer write has set; add and insert cannot.

    Ends with 1 if a letter was not replayed.
    """
    if bool(ids) == (every or table is not None):
        raise click.UsageError("give either ids, or --all, or --table")
    with open_pipeline() as pipeline:
        extent = None if ids else pipeline.dead_letters.extent(table)
        total = len(frozenset(ids)) if extent is None else extent.count
        if total > 1 and not (yes or dry_run) and not _agreed(total):
            tell("pipeline: nothing was replayed")
            return FAILED
        options: dict[str, Any] = {"actor": _actor(), "force": force, "dry_run": dry_run}
        if extent is None:
            results = pipeline.replayer.replay_ids(ids, **options)
        else:
            results = pipeline.replayer.replay_all(last=extent.last, table=table, **options)
        return _Replay(total, dry_run=dry_run, as_json=as_json).run(results)


def _agreed(total: int) -> bool:
    """Ask who sits at a terminal; a script has said what it wants."""
    return not sys.stdin.isatty() or click.confirm(f"Replay {total} dead letters?", err=True)


def _actor() -> str:
    """Who did it, for the audit: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class _Replay:
    """Goes through the results of a replay, shows them and sums them up, also if it ends early."""

    def __init__(self, total: int, *, dry_run: bool, as_json: bool) -> None:
        self._total = total
        self._dry_run = dry_run
        self._as_json = as_json
        self._tally: Counter[str] = Counter()
        self._letters: list[Replayed] = []
        self._ended = False  # by itself: neither Ctrl-C nor an error was in between
        self._stopped = False
        self._shown = False

    def run(self, results: Iterator[Replayed]) -> int:
        """Returns the exit code."""
        try:
            self._go_through(results)
            self._ended = not self._stopped
        finally:
            self._sum_up()
        return OK if self._complete else FAILED

    @property
    def _complete(self) -> bool:
        """Every letter was replayed, or would be."""
        return self._ended and self._tally.keys() <= _DONE

    def _go_through(self, results: Iterator[Replayed]) -> None:
        with stoppable() as stop, progress() as bar:
            task = bar.add_task("replaying", total=self._total)
            for result in results:
                self._tally[result.outcome] += 1
                bar.advance(task)
                self._show(result)
                if stop.is_set():
                    self._stopped = True
                    return

    def _show(self, result: Replayed) -> None:
        if self._as_json:
            self._letters.append(result)
        elif not sys.stdout.isatty() or result.outcome not in _DONE:
            if not self._shown:
                lines([("id", "outcome", "event_id", "detail")])
            self._shown = True
            lines([(result.id, str(result.outcome), result.event_id, result.detail)])

    def _sum_up(self) -> None:
        if self._as_json:
            print_json(
                {
                    "dry_run": self._dry_run,
                    "complete": self._complete,
                    "stopped": not self._ended,
                    "summary": {str(outcome): number for outcome, number in self._tally.items()},
                    "letters": self._letters,
                }
            )
        elif self._tally:
            tell(f"pipeline: {counted(self._tally)}")
        elif self._ended:
            tell("pipeline: there are no dead letters")
        if self._stopped:
            tell("pipeline: stopped; the letters that are not named are as before")
