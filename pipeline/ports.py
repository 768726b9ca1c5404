"""What the use cases need from Redis and PostgreSQL, as protocols and plain values. No technology is named here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from pipeline.config import Durability
from pipeline.core.change import Change, Event
from pipeline.core.claim import Busy, Claimed, Cut, Empty, FailureKind, PausedTable, Resting
from pipeline.core.codec import Malformed
from pipeline.core.encoded import Chunk, Encoded, Written
from pipeline.errors import ApplyFailed, PipelineError

__all__ = [
    "Applied",
    "Batch",
    "Buffer",
    "Busy",
    "Chunk",
    "Claimed",
    "Cut",
    "DeadLetter",
    "DeadLetters",
    "Empty",
    "Encoded",
    "EventBuffer",
    "EventWriter",
    "Extent",
    "FailureKind",
    "Ledger",
    "PausedTable",
    "Resting",
    "Session",
    "ShardLedger",
    "ShardState",
    "Store",
    "Written",
    "nothing",
]


def nothing() -> None:
    """Do nothing."""


# --- writing
# ------------------------------------------------------------------------------------------------------------


class EventWriter(Protocol):
    """What accepts an event; `pipeline.writer.Writer` does."""

    async def write(
        self, changes: Sequence[Change], *, event_id: str | None = None, shard_by: str | None = None
    ) -> object:
        """Accept ``changes`` as one event.

        Raises:
            InvalidEvent, PipelineFull, BufferUnavailable: it was not accepted (by a Redis that broke off, perhaps).
            DurabilityNotReached: it was, and is not as durable as the configuration asks for.
        """
        ...


# --- flushing
# -----------------------------------------------------------------------------------------------------------


class ShardState(msgspec.Struct, frozen=True):
    """One shard, for ``pipeline status``. Times are Unix milliseconds; ``None``: there is none.

    ``per_second``: events that were drained lately, see `pipeline.core.drain`.
    """

    shard: int
    queued: int
    frozen: int
    oldest_ms: int | None
    batch_id: str | None
    begun: int
    failures: int
    error: str | None
    due_ms: int | None
    accepted: int
    committed_batches: int
    leased: bool
    unreachable: bool = False
    parked: int = 0
    paused: Sequence[PausedTable] = ()
    per_second: float | None = None


class Session(Protocol):
    """Writes that go to the same server over the same connection."""

    async def write_chunks(
        self, chunks: Sequence[Chunk], meanwhile: Callable[[], object] = nothing
    ) -> list[list[Written] | PipelineError]:
        """See `EventBuffer.write_chunks`."""
        ...

    async def settle(self, durability: Durability) -> str | None:
        """Wait until all that this session wrote is so durable; what is missing, or ``None``. Raises nothing."""
        ...


class EventBuffer(Protocol):
    """The part of a write that lives in Redis. Every method is one atomic step of one shard, unless it says otherwise.

    All raise `pipeline.errors.BufferUnavailable`.
    """

    async def write(self, shard: int, events: Sequence[Encoded]) -> list[Written]:
        """Accept events of one shard, all or none, in one round trip; raises `PipelineFull`."""
        ...

    def chunk(self, shard: int, events: Sequence[Encoded]) -> Chunk:
        """``events`` of one shard, ready for `write_chunks`; raises nothing."""
        ...

    async def write_chunks(
        self, chunks: Sequence[Chunk], meanwhile: Callable[[], object] = nothing
    ) -> list[list[Written] | PipelineError]:
        """Several `write` calls in one round trip; each chunk has its own outcome.

        ``meanwhile`` is called when they are on their way; what it raises leaves open whether they were accepted.
        """
        ...

    async def write_durably(
        self, shard: int, events: Sequence[Encoded], durability: Durability
    ) -> tuple[list[Written], str | None]:
        """`write`, then wait until they are so durable, also those that were known; what is missing, or ``None``.

        Still one round trip. What is refused is not waited for.
        """
        ...

    def session(self) -> AbstractAsyncContextManager[Session]:
        """One connection for several `write_chunks`, which can then be waited for together."""
        ...

    async def hand_over(self, shard: int, message: bytes, mark: str) -> None:
        """Put a message that is no event to the front of a shard queue, full or not; once for each ``mark``."""
        ...


class Buffer(Protocol):
    """The part of a flush that lives in Redis. Every method is one atomic step of one shard, unless it says otherwise.

    All raise `pipeline.errors.BufferUnavailable`.
    """

    def claim(
        self, shard: int, owner: str, most: int | None = None, worth: int = 1
    ) -> Claimed | Empty | Busy | Resting:
        """Freeze the ``most`` oldest pending events, or return the frozen batch; takes the lease for ``owner``.

        Never more than the configured batch size, which is the default. Fewer than ``worth`` in the queue are left
        there, and the shard counts as empty.
        """
        ...

    def acknowledge(
        self, batch: Claimed, entries: Sequence[Event | Malformed], applied: Applied, *, unexplained: bool = False
    ) -> bool:
        """Drop the batch and trim the overlays; ``False`` if somebody else has done so. Not one step: resumable.

        ``entries`` are the events of the batch, decoded, and ``applied`` is what became of them. ``unexplained``:
        Redis does not know why some of it is set aside. It is claimed again, before anything newer.
        """
        ...

    def fail(
        self,
        batch: Claimed,
        error: str,
        rest_seconds: float,
        kind: FailureKind = FailureKind.PLAIN,
        *,
        begun: bool = False,
    ) -> None:
        """Record a failure of the frozen batch and let it rest; ``begun``: `begin` was called in this try."""
        ...

    def begin(self, batch: Claimed, *, again: bool = False) -> bool:
        """Note that the batch is about to be written: a flusher that is not heard of again died over it.

        ``False``: it is not frozen any more, since Redis went back in time or somebody halved it. Then it must not be
        written: what was accepted later may have been applied by now. ``again``: this flusher has noted it before.
        """
        ...

    def cut(self, batch: Claimed, keep: int, passed: int, patience_seconds: float) -> Cut:
        """Keep the ``keep`` oldest events of the batch under a new id and give the rest back to the queue, order kept.

        Behind them some are missing, up to the number ``passed``. If none is to be kept, the batch is given up and its
        events wait: at most for ``patience_seconds``, then nothing is changed and the missing ones count as passed.
        """
        ...

    def halve(self, batch: Claimed, *, suspected: bool) -> bool:
        """Keep the older half under a new id and give the newer half back to the queue, order kept.

        ``suspected``: a flusher died over the batch. If the older half is innocent, the newer one is searched next.
        """
        ...

    def held(self, batch: Claimed, rows: Collection[str]) -> frozenset[str]:
        """Those of ``rows`` (``table:identity``) whose earlier events are set aside.

        Right as long as ``batch`` is frozen. Not those of a table that is paused itself: its events wait anyway.
        """
        ...

    def pause(self, shard: int, table: PausedTable, batch: Claimed | None = None) -> None:
        """Pause a table or a column, or put off its next probe; ``batch`` met the trouble, and stays frozen."""
        ...

    def resume(self, shard: int, table: PausedTable) -> bool:
        """Resume a table or a column: what was set aside is claimed before anything newer; ``probes`` are remembered.

        ``False``: not now. Either it is resumed already, or events are on their way that may rest on what waits.
        """
        ...

    def probed(self, shard: int, table: str, column: str | None = None) -> int:
        """How often a table or a column was probed in vain before it was resumed, if that was lately; else 0."""
        ...

    def release(self, shard: int, owner: str) -> None:
        """Give up the lease."""
        ...

    def want(self, shards: Sequence[int]) -> list[int]:
        """Mark a flush of ``shards`` as asked for; those that were not marked already. A claim removes the mark."""
        ...

    def wake(self, shards: Sequence[int]) -> None:
        """End the rest of the frozen batches of ``shards``, which failed because PostgreSQL was unreachable."""
        ...

    def states(self) -> list[ShardState]:
        """Every shard, in one round trip."""
        ...


class Batch(msgspec.Struct, frozen=True):
    """A claimed batch, decoded. ``final``: errors that are tried a bounded number of times have had their tries.

    ``failures`` counts the tries before, also those that their flushers did not survive. ``bury`` is set when the batch
    is a single event that must not be tried again. ``aside`` are the positions of entries that must wait, because their
    table is paused or a column that they name. While anything is ``paused``, a missing parent may be among what waits,
    so the table of the child is paused as well. ``turns`` are the positions of all entries in the order in which they
    take effect, if that is not their own. ``displaced`` are the positions of entries whose turn was over before: they
    may have been applied, and if not, they must not undo what was.
    """

    shard: int
    id: str
    seq: int
    entries: Sequence[Event | Malformed]
    final: bool
    failures: int
    bury: str | None = None
    aside: frozenset[int] = frozenset()
    paused: bool = False
    turns: Sequence[int] | None = None
    displaced: frozenset[int] = frozenset()


class Applied(msgspec.Struct, frozen=True):
    """The outcome of a batch in PostgreSQL.

    ``seq`` is the shard's sequence number after it. ``dead`` are the positions (in ``Batch.entries``) of dead letters.
    ``skipped`` counts events that had been applied before (the acknowledgement was lost, or Redis went back in time).
    ``aside`` are the positions of entries that were not applied because their table or a column is paused.
    """

    seq: int
    rows: int
    dead: frozenset[int]
    skipped: int = 0
    savepoints: int = 0
    warning: str | None = None
    aside: frozenset[int] = frozenset()


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter, for the command line. ``message`` is the Celery message as it was."""

    id: int
    event_id: str | None
    shard: int
    table: str | None
    status: str
    reason: str
    sqlstate: str | None
    attempts: int
    accepted_ms: int | None
    dead_ms: int
    message: bytes


class Store(Protocol):
    """The part that lives in PostgreSQL."""

    def apply(self, batch: Batch, begin: Callable[[], None] = nothing) -> Applied:
        """Write a batch and its dead letters exactly once, in one transaction.

        ``begin`` is called when the shard is locked and before anything is written: what happens from then on may be
        the batch's fault. It may raise, and is called again if the batch is tried a second time.

        Raises `pipeline.errors.ApplyFailed` when nothing was committed and the batch must be tried again.
        """
        ...

    def reachable(self) -> bool:
        """Whether PostgreSQL takes connections now."""
        ...

    def probe(self, event: Event, *, paused: bool) -> ApplyFailed | None:
        """Try ``event`` and take it back; what is still wrong with its table, or ``None``.

        ``paused``: other tables are paused, too; see `Batch`.

        Raises `pipeline.errors.ApplyFailed` when that could not be found out.
        """
        ...

    def lacks(self, table: str, column: str) -> ApplyFailed | None:
        """What is wrong if ``table`` does not have ``column`` now, or ``None``; raises as `probe` does."""
        ...


class Extent(msgspec.Struct, frozen=True):
    """How many letters are dead, and the highest id among them (0: there is none)."""

    count: int
    last: int


class DeadLetters(Protocol):
    """Dead letters, to look at and to mark."""

    def page(
        self, *, status: str | None = "dead", table: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """Up to ``limit`` dead letters with an id below ``before``, newest first; ``status`` None: all."""
        ...

    def get(self, ids: Sequence[int]) -> list[DeadLetter]:
        """The dead letters with these ids, in order of id; ids that do not exist are left out."""
        ...

    def extent(self, table: str | None = None) -> Extent:
        """How many letters (of ``table``) are dead now, and up to which id."""
        ...

    def oldest(self, *, after: int, last: int, table: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Up to ``limit`` letters that are dead, with ids in (``after``, ``last``], oldest first."""
        ...

    def mark_replayed(self, letter: int, *, event_id: str, forced: bool, actor: str) -> bool:
        """Note that ``letter`` was written again as ``event_id``; ``False`` if it was not dead any more."""
        ...


class ShardLedger(msgspec.Struct, frozen=True):
    """What the ledger says of a shard.

    ``rechecking``: Redis went back in time, event ids are being looked up. ``store_gaps``: how often PostgreSQL was
    found to have gone back in time.
    """

    shard: int
    seq: int
    rechecking: bool
    store_gaps: int
    dead_letters: int


class Ledger(Protocol):
    """The ledger, to look at and to prune."""

    def shards(self) -> list[ShardLedger]:
        """Every shard that has ever applied a batch."""
        ...

    def prune(self) -> int:
        """Forget batches that are older than the retention; the number of batches forgotten."""
        ...
