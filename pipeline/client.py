"""What an application does with a pipeline, as coroutines: `pipeline.Pipeline` runs them, an event loop awaits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pipeline.barrier import Barrier, Tell
from pipeline.config import Durability
from pipeline.core.change import Change
from pipeline.core.outcome import Outcome
from pipeline.reader import Reader
from pipeline.receipts import Slip
from pipeline.waiting import Waiting
from pipeline.writer import Writer

__all__ = ["Client"]

R = TypeVar("R", bound=Slip)


class Client(Generic[R]):
    """The methods of `pipeline.Pipeline` for applications, by the same names and with the same arguments and errors."""

    def __init__(self, writer: Writer[R], reader: Reader, waiting: Waiting, barrier: Barrier) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting = waiting
        self._barrier = barrier

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
        change = Change(table, dict(key), dict(set or {}), dict(add or {}), dict(max or {}), dict(min or {}))
        return await self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

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
        change = Change(table, dict(key), delete=True)
        return await self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

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
        change = Change(table, insert=dict(values))
        return await self._writer.write([change], event_id=event_id, shard_by=shard_by, durability=durability)

    async def write_many(self, changes: Iterable[Change], *, durability: Durability | None = None) -> list[R]:
        """See `pipeline.Pipeline.write_many`."""
        return await self._writer.write_many(changes, durability=durability)

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
