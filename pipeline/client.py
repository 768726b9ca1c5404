"""What an application does with a pipeline, as coroutines: `pipeline.Pipeline` runs them, an event loop awaits them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import msgspec

from pipeline.barrier import Barrier, Tell
from pipeline.config import Config, Durability
from pipeline.core.change import Change, TableNames, canonical_table
from pipeline.core.outcome import Outcome
from pipeline.errors import DurabilityNotReached, InvalidEvent, PipelineError
from pipeline.reader import Reader
from pipeline.receipts import Slip
from pipeline.through import PATIENCE_SECONDS, Through
from pipeline.waiting import Waiting
from pipeline.writer import Writer, told

__all__ = ["Client"]

R = TypeVar("R", bound=Slip)

_PART: Final = 2000
"""Changes that are sent together, where others are written through."""


class UseCases(Protocol[R]):
    """What a client is made of; `pipeline.parts.Parts` is."""

    writer: Writer[R]
    reader: Reader
    waiting: Waiting
    barrier: Barrier
    through: Through


class Client(Generic[R]):
    """The methods of `pipeline.Pipeline` for applications, by the same names and with the same arguments and errors."""

    def __init__(self, parts: UseCases[R], config: Config) -> None:
        self._writer = parts.writer
        self._reader = parts.reader
        self._waiting = parts.waiting
        self._barrier = parts.barrier
        self._through = parts.through
        routed = config.write_through_tables if config.write_through_policy == "route" else ()
        self._routed = TableNames(routed)

    async def write(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        max: Mapping[str, Any] | None = None,
        min: Mapping[str, Any] | None = None,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> R:
        """See `pipeline.Pipeline.write`."""
        change = _change(table, key, set, add, max, min)
        return await self._write(change, event_id, shard_by, durability)

    async def delete(
        self,
        table: str,
        key: Mapping[str, Any],
        *,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> R:
        """See `pipeline.Pipeline.delete`."""
        change = Change(table, _columns(table, key), delete=True)
        return await self._write(change, event_id, shard_by, durability)

    async def insert(
        self,
        table: str,
        values: Mapping[str, Any],
        *,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
    ) -> R:
        """See `pipeline.Pipeline.insert`."""
        change = Change(table, insert=_columns(table, values))
        return await self._write(change, event_id, shard_by, durability)

    async def write_many(self, changes: Iterable[Change], *, durability: Durability | None = None) -> list[R]:
        """See `pipeline.Pipeline.write_many`."""
        if not self._routed:
            return await self._writer.write_many(changes, durability=durability)
        sent: list[R | None] = []
        late: DurabilityNotReached | None = None
        taken = 0
        for part, behind in self._parts(changes):
            taken += len(part) + len(behind)
            try:
                if part:
                    try:
                        sent += await self._writer.write_many(part, durability=durability)
                    except DurabilityNotReached as error:  # accepted they are, and so will be what is behind them
                        late = error
                        sent += cast("Sequence[R | None]", error.receipts)
                for change in behind:
                    sent.append(await self._route(change, None, None))
            except PipelineError as error:
                if isinstance(error, InvalidEvent):
                    error.position = len(sent) + (error.position or 0)
                known = [*sent, *(error.receipts if len(sent) < taken - len(behind) else ())]
                raise _ended(late, error, [*known, *[None] * (taken - len(known))]) from error
        if late is not None:
            raise DurabilityNotReached(late.wanted, late.reached, late.problem, sent) from late.__cause__
        return [receipt for receipt in sent if receipt is not None]

    def _parts(self, changes: Iterable[Change]) -> Iterator[tuple[list[Change], list[Change]]]:
        """``changes`` in order: some that go to Redis, and behind them one that is written through, or none."""
        part: list[Change] = []
        for change in changes:
            if self._is_routed(change):
                yield part, [change]
                part = []
            else:
                part.append(change)
                if len(part) == _PART:
                    yield part, []
                    part = []
        yield part, []

    async def write_group(
        self,
        changes: Sequence[Change],
        *,
        shard_by: str | None = None,
        event_id: str | None = None,
        durability: Durability | None = None,
    ) -> R:
        """See `pipeline.Pipeline.write_group`."""
        return await self._writer.write(changes, event_id=event_id, shard_by=shard_by, durability=durability)

    async def write_through(
        self,
        table: str,
        key: Mapping[str, Any] | None = None,
        *,
        set: Mapping[str, Any] | None = None,
        add: Mapping[str, Any] | None = None,
        max: Mapping[str, Any] | None = None,
        min: Mapping[str, Any] | None = None,
        delete: bool = False,
        insert: Mapping[str, Any] | None = None,
        shard_by: str | None = None,
        connection: Any = None,
        timeout: float = PATIENCE_SECONDS,  # noqa: ASYNC109 - PostgreSQL and the flush have to know it
    ) -> None:
        """See `pipeline.Pipeline.write_through`."""
        appended = None if insert is None else _columns(table, insert)
        change = msgspec.structs.replace(_change(table, key, set, add, max, min), delete=delete, insert=appended)
        await self._through.write(change, shard_by=shard_by, connection=connection, timeout=timeout)

    async def _write(
        self, change: Change, event_id: str | None, shard_by: str | None, durability: Durability | None
    ) -> R:
        if self._routed and self._is_routed(change):
            return await self._route(change, event_id, shard_by)
        return await self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

    def _is_routed(self, change: object) -> bool:
        try:
            return isinstance(change, Change) and canonical_table(change.table) in self._routed
        except (InvalidEvent, TypeError):  # the writer says what is wrong
            return False

    async def _route(self, change: Change, event_id: str | None, shard_by: str | None) -> R:
        if event_id is not None:
            raise InvalidEvent(
                "a change that is written through takes no event_id: PostgreSQL has it before Redis could know the id, "
                "so a repeated one would be applied twice",
                change.table,
            )
        return self._writer.applied(await self._through.write(change, shard_by=shard_by))

    async def read(
        self, table: str, key: Mapping[str, Any], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> dict[str, Any] | None:
        """See `pipeline.Pipeline.read`."""
        return await self._reader.read(table, key, shard_by=shard_by, allow_stale=allow_stale)

    async def read_many(
        self, table: str, keys: Iterable[Mapping[str, Any]], *, shard_by: str | None = None, allow_stale: bool = False
    ) -> list[dict[str, Any] | None]:
        """See `pipeline.Pipeline.read_many`."""
        return await self._reader.read_many(table, keys, shard_by=shard_by, allow_stale=allow_stale)

    async def wait(self, receipt: Slip, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109
        """See `pipeline.Pipeline.wait`."""
        return await self._waiting.wait(receipt, timeout)

    async def wait_all(self, receipts: Iterable[Slip], timeout: float | None = None) -> list[Outcome]:  # noqa: ASYNC109
        """See `pipeline.Pipeline.wait_all`."""
        return await self._waiting.wait_all(receipts, timeout)

    async def outcome(self, receipt: Slip) -> Outcome:
        """See `pipeline.Pipeline.outcome`."""
        return await self._waiting.outcome(receipt)

    async def barrier(
        self,
        table: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        tell: Tell | None = None,
    ) -> None:
        """See `pipeline.Pipeline.barrier`."""
        await self._barrier.wait(table, timeout, tell)


def _ended(late: DurabilityNotReached | None, error: PipelineError, receipts: Sequence[object]) -> PipelineError:
    """``error``, or that what was accepted before it is not durable enough."""
    if late is None:
        return told(error, receipts)
    problem = f"{late.problem}; and the call ended early: {error}"
    return DurabilityNotReached(late.wanted, late.reached, problem, receipts)


def _change(  # noqa: PLR0917
    table: str,
    key: Mapping[str, Any] | None,
    set_: Mapping[str, Any] | None,
    add: Mapping[str, Any] | None,
    max_: Mapping[str, Any] | None,
    min_: Mapping[str, Any] | None,
) -> Change:
    return Change(
        table,
        _columns(table, key),
        _columns(table, set_),
        _columns(table, add),
        _columns(table, max_),
        _columns(table, min_),
    )


def _columns(table: object, columns: object) -> dict[str, Any]:
    if columns is None:
        return {}
    if type(columns) is not dict and not isinstance(columns, Mapping):
        problem = f"columns come as a dict of column → value, not as {type(columns).__qualname__}"
        raise InvalidEvent(problem, str(table)[:200])
    return dict(columns)
