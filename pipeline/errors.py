"""Every error that this package raises, as one tree.

::

    PipelineError
    ├── InvalidSetting            a setting has a value that cannot be used
    ├── InvalidEvent              a write was refused before anything reached Redis
    │   └── EventTooLarge         … because its message is larger than PIPELINE_MAX_EVENT_BYTES
    ├── InvalidRead               a row was asked for in a way that has no answer
    ├── PipelineFull              a shard holds as many pending events as it may
    ├── DurabilityNotReached      an event was accepted, and is less durable than its write asked for
    ├── StillPending              what was waited for has not come in time
    ├── NotSettled                a write_through did not get its turn on its row in time
    ├── TopologyMismatch          Redis was set up for another number of shards or format
    ├── BufferUnavailable         Redis could not be reached or refused the command
    └── StoreError                PostgreSQL could not do what was asked
        ├── StoreUnavailable      … because it could not be reached
        ├── NotMigrated           … because ``pipeline migrate`` has not run
        ├── ChangeRefused         … because the change of a write_through does not fit its table
        └── ApplyFailed           … while it applied a batch; nothing of the batch was committed

Every error keeps its facts in attributes and survives ``pickle`` (its ``args`` are exactly the arguments of its
constructor), so it can cross a Celery result backend or a process pool.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ApplyFailed",
    "BufferUnavailable",
    "ChangeRefused",
    "DurabilityNotReached",
    "EventTooLarge",
    "InvalidEvent",
    "InvalidRead",
    "InvalidSetting",
    "NotMigrated",
    "NotSettled",
    "PipelineError",
    "PipelineFull",
    "StillPending",
    "StoreError",
    "StoreUnavailable",
    "TopologyMismatch",
]


class PipelineError(Exception):
    """The root of all errors of this package.

    ``receipts`` is filled by ``write_many`` and by `DurabilityNotReached`: what was accepted before the error, one
    entry per change that was taken, ``None`` where it was not accepted.
    """

    receipts: Sequence[object] = ()


class InvalidSetting(PipelineError, ValueError):
    """A setting has a value that cannot be used."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class InvalidEvent(PipelineError, ValueError):
    """A write was refused; nothing of it has reached Redis.

    ``table`` and ``column`` are ``None`` where the problem is not about one of them. ``position`` is that of the change
    among those given to ``write_many``, from 0; what was accepted before it, its ``receipts`` say.
    """

    position: int | None = None

    def __init__(self, problem: str, table: str | None = None, column: str | None = None) -> None:
        super().__init__(problem, table, column)
        self.problem = problem
        self.table = table
        self.column = column

    def __str__(self) -> str:
        place = ".".join(part for part in (self.table, self.column) if part is not None)
        which = "" if self.position is None else f"change {self.position}: "
        return which + (f"{place}: {self.problem}" if place else self.problem)


class EventTooLarge(InvalidEvent):
    """The message of an event is larger than ``PIPELINE_MAX_EVENT_BYTES``."""


class InvalidRead(PipelineError, ValueError):
    """A row was asked for in a way that has no answer: no such table, no key of it, or a value that fits none."""

    def __init__(self, problem: str, table: str | None = None) -> None:
        super().__init__(problem, table)
        self.problem = problem
        self.table = table

    def __str__(self) -> str:
        return f"{self.table}: {self.problem}" if self.table else self.problem


class PipelineFull(PipelineError):
    """A shard holds as many pending events as it may; nothing of this call was written to it.

    ``accepted`` counts the events of the same ``write_many`` call that were accepted before the refusal.
    ``drain_seconds`` is how long the ``pending`` events will take at the rate of the last half minute, if no more come;
    ``None`` if nothing was drained lately.
    """

    def __init__(
        self, shard: int, pending: int, limit: int, accepted: int = 0, drain_seconds: float | None = None
    ) -> None:
        super().__init__(shard, pending, limit, accepted, drain_seconds)
        self.shard = shard
        self.pending = pending
        self.limit = limit
        self.accepted = accepted
        self.drain_seconds = drain_seconds

    def __str__(self) -> str:
        return (
            f"shard {self.shard} holds {self.pending} pending events, its limit is {self.limit}; {self._outlook()}; "
            f"{self.accepted} events of this call were accepted before. "
            "Is a worker flushing (`pipeline status`)? PIPELINE_MAX_PENDING raises the limit."
        )

    def _outlook(self) -> str:
        if self.drain_seconds is None:
            return "nothing was drained lately"
        return f"they take about {self.drain_seconds:.1f} s to drain"


class DurabilityNotReached(PipelineError):
    """An event was accepted, and is less durable than its write asked for: ``reached`` instead of ``wanted``.

    It stays accepted and will be applied, so do not write it again under another id. To wait once more, repeat the
    write under the same ``event_id``: a known event is answered when the first one is as durable as asked for, and an
    event that Redis lost meanwhile is accepted anew. (That takes an ``event_id`` that you gave the first time.)

    ``receipts`` has what was accepted, one entry for each event of the call until it ended; ``None`` where the event
    was not accepted, or the connection broke and nobody knows. ``problem`` says what is missing, and why.
    """

    def __init__(self, wanted: str, reached: str, problem: str, receipts: Sequence[object] = ()) -> None:
        super().__init__(wanted, reached, problem, receipts)
        self.wanted = wanted
        self.reached = reached
        self.problem = problem
        self.receipts = receipts

    def __str__(self) -> str:
        accepted = sum(receipt is not None for receipt in self.receipts)
        return (
            f"{accepted} accepted event(s) reached durability {self.reached!r}, not {self.wanted!r} ({self.problem}); "
            "accepted they stay, so repeat the write only under the same event_id"
        )


class StillPending(PipelineError, TimeoutError):
    """What was waited for has not come in time: ``pending`` of ``total`` events (of a barrier: shards).

    Nothing is lost by that: what was accepted stays pending, and can be waited for again. ``problem`` says what may
    keep it.
    """

    def __init__(self, seconds: float, pending: int, total: int, problem: str, what: str = "event(s)") -> None:
        super().__init__(problem)
        self.args = (seconds, pending, total, problem, what)
        self.seconds = seconds
        self.pending = pending
        self.total = total
        self.problem = problem
        self.what = what

    def __str__(self) -> str:
        return f"{self.pending} of {self.total} {self.what} still pending after {self.seconds:g} s: {self.problem}"


class NotSettled(PipelineError):
    """A ``write_through`` did not get its turn on its row before its deadline. Nothing was written.

    ``pending`` changes of the row, accepted before the call, are not applied yet; with 0 of them another transaction is
    in the way. ``why`` says what they wait for.
    """

    def __init__(self, table: str, pending: int, why: str) -> None:
        super().__init__(table, pending, why)
        self.table = table
        self.pending = pending
        self.why = why

    def __str__(self) -> str:
        waits = f"{self.pending} change(s) of the row are still pending" if self.pending else "the row is not free"
        return f"{self.table}: {waits}, nothing was written: {self.why}"


class TopologyMismatch(PipelineError):
    """Redis was set up for another topology: this client would write where nobody flushes."""

    def __init__(self, field: str, ours: str, theirs: str) -> None:
        super().__init__(field, ours, theirs)
        self.field = field
        self.ours = ours
        self.theirs = theirs

    def __str__(self) -> str:
        return (
            f"this process is configured for {self.field}={self.ours}, but the pipeline in Redis was set up with "
            f"{self.field}={self.theirs}; give every client and worker the same settings"
        )


class BufferUnavailable(PipelineError):
    """Redis could not be reached or refused the command.

    When a connection breaks in the middle of a write, the event may have been accepted. Give writes that you
    retry an ``event_id``: the same id within the dedupe window is one event.

    ``answered``: it is there, and said no.
    """

    def __init__(self, problem: str, answered: bool = False) -> None:  # noqa: FBT001, FBT002 - pickle gives it so
        super().__init__(problem, answered)
        self.problem = problem
        self.answered = answered

    def __str__(self) -> str:
        return self.problem


class StoreError(PipelineError):
    """PostgreSQL could not do what was asked."""

    def __init__(self, problem: str, sqlstate: str | None = None) -> None:
        super().__init__(problem, sqlstate)
        self.problem = problem
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return f"{self.problem} (SQLSTATE {self.sqlstate})" if self.sqlstate else self.problem


class StoreUnavailable(StoreError):
    """PostgreSQL could not be reached, or does not let us in. ``answered``: it is there, and has said no."""

    def __init__(self, problem: str, sqlstate: str | None = None, answered: bool = False) -> None:  # noqa: FBT001, FBT002
        super().__init__(problem, sqlstate)
        self.args = (problem, sqlstate, answered)
        self.answered = answered


class NotMigrated(StoreError):
    """The schema ``pipeline`` is missing or older than this version; ``pipeline migrate`` creates it."""


class ChangeRefused(StoreError):
    """PostgreSQL, or what is known of the table, refused the change of a ``write_through``. Nothing of it was written.

    A transaction of the caller's is as it was before the call.
    """

    def __init__(self, problem: str, sqlstate: str | None = None, table: str | None = None) -> None:
        super().__init__(problem, sqlstate)
        self.args = (problem, sqlstate, table)
        self.table = table

    def __str__(self) -> str:
        return f"{self.table}: {super().__str__()}" if self.table else super().__str__()


class ApplyFailed(StoreError):
    """A batch could not be applied; nothing of it was committed and it stays frozen in Redis.

    ``meaning`` is the value of a `pipeline.core.failure.Meaning`. ``contact`` that of a
    `pipeline.core.failure.Contact`.
    ``event``: the id of the event that met the trouble, where that is known. ``column``: what ``table`` does not have,
    if it is only that.
    """

    def __init__(  # noqa: PLR0917
        self,
        problem: str,
        sqlstate: str | None,
        meaning: str,
        table: str | None = None,
        contact: str = "kept",
        event: str | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(problem, sqlstate)
        self.args = (problem, sqlstate, meaning, table, contact, event, column)
        self.meaning = meaning
        self.table = table
        self.contact = contact
        self.event = event
        self.column = column
