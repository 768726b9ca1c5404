"""What a pipeline is doing, as numbers: made of what Redis says of its shards and of what the ledger says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pipeline.arrivals import Depth
from pipeline.core.drain import drain_seconds
from pipeline.errors import PipelineError
from pipeline.ports import ShardLedger, ShardState

__all__ = [
    "BufferStatus",
    "LaneStatus",
    "ShardStatus",
    "Sides",
    "Status",
    "buffer_status",
    "shard_statuses",
    "status_of",
]


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One shard as Redis knows it. Ages and waits are in seconds; ``None``: there is none.

    ``pending`` counts ``frozen`` and ``parked`` events, too. ``parked`` events are set aside because of the tables and
    columns in ``paused`` (``table`` or ``table.column`` → why). ``per_second`` is how many events were drained lately,
    ``drain_seconds`` how long the pending ones will take at that rate, if no more come (see `pipeline.core.drain`).
    """

    shard: int
    pending: int
    frozen: int
    oldest_age: float | None
    attempts: int
    failures: int
    next_try: float | None
    error: str | None
    parked: int
    paused: dict[str, str]
    per_second: float | None
    drain_seconds: float | None


class ShardStatus(LaneStatus, frozen=True, kw_only=True):
    """One shard as ``pipeline status`` shows it: what Redis knows, and the ledger."""

    applied_batches: int
    dead_letters: int
    rechecking: bool
    store_gaps: int


class BufferStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All shards and their sums, as far as Redis knows them. ``ingress``: see `Status`."""

    namespace: str
    pending: int
    frozen: int
    parked: int
    oldest_age: float | None
    ingress: Depth | None
    shards: list[LaneStatus]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All shards and their sums.

    ``ingress`` is what Celery clients have sent and is not in a shard yet, ``None`` where that lies elsewhere.

    Not ``healthy``: a batch keeps failing, a table or column is paused, or PostgreSQL went back in time.
    """

    namespace: str
    pending: int
    frozen: int
    parked: int
    oldest_age: float | None
    dead_letters: int
    ingress: Depth | None
    healthy: bool
    shards: list[ShardStatus]


class Sides(msgspec.Struct, frozen=True):
    """What each side says; an error stands for the one that could not be asked."""

    buffer: BufferStatus | PipelineError
    ledger: list[ShardLedger] | PipelineError


def buffer_status(namespace: str, states: Iterable[ShardState], ingress: Depth | None, now_ms: float) -> BufferStatus:
    """What Redis says, with ages instead of times."""
    lanes = [_lane(state, now_ms) for state in states]
    return BufferStatus(namespace=namespace, **_sums(lanes), ingress=ingress, shards=lanes)


def shard_statuses(lanes: Iterable[LaneStatus], ledgers: Iterable[ShardLedger]) -> list[ShardStatus]:
    """Both sides of every lane. The ledger does not know a shard that has never applied a batch."""
    known = {ledger.shard: ledger for ledger in ledgers}
    return [_whole(lane, known.get(lane.shard)) for lane in lanes]


def status_of(sides: Sides) -> Status:
    """Both sides together.

    Raises:
        PipelineError: the one that stands for a side.
    """
    buffer, ledger = sides.buffer, sides.ledger
    if isinstance(ledger, PipelineError):
        raise ledger
    if isinstance(buffer, PipelineError):
        raise buffer
    shards = shard_statuses(buffer.shards, ledger)
    return Status(
        namespace=buffer.namespace,
        **_sums(shards),
        dead_letters=sum(shard.dead_letters for shard in shards),
        ingress=buffer.ingress,
        healthy=not any(shard.failures or shard.store_gaps or shard.paused for shard in shards),
        shards=shards,
    )


def _sums(lanes: Sequence[LaneStatus]) -> dict[str, Any]:
    return {
        "pending": sum(lane.pending for lane in lanes),
        "frozen": sum(lane.frozen for lane in lanes),
        "parked": sum(lane.parked for lane in lanes),
        "oldest_age": max((lane.oldest_age for lane in lanes if lane.oldest_age is not None), default=None),
    }


def _lane(state: ShardState, now_ms: float) -> LaneStatus:
    oldest = state.oldest_ms
    pending = state.queued + state.frozen + state.parked
    return LaneStatus(
        shard=state.shard,
        pending=pending,
        frozen=state.frozen,
        oldest_age=None if oldest is None else round(max(0.0, now_ms - oldest) / 1000, 3),
        attempts=state.begun,
        failures=state.failures,
        next_try=None if state.due_ms is None else round(max(0.0, state.due_ms - now_ms) / 1000, 3),
        error=state.error,
        parked=state.parked,
        paused={paused.name: paused.error for paused in state.paused},
        per_second=state.per_second,
        drain_seconds=drain_seconds(pending, state.per_second),
    )


def _whole(lane: LaneStatus, ledger: ShardLedger | None) -> ShardStatus:
    return ShardStatus(
        **msgspec.structs.asdict(lane),
        applied_batches=ledger.seq if ledger else 0,
        dead_letters=ledger.dead_letters if ledger else 0,
        rechecking=ledger.rechecking if ledger else False,
        store_gaps=ledger.store_gaps if ledger else 0,
    )
