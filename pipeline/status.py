"""What ``pipeline status`` and ``pipeline doctor`` say of the lanes, out of what Redis and the ledger know. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pipeline.core.drain import drain_seconds
from pipeline.core.health import Lane
from pipeline.ports import ShardLedger, ShardState

__all__ = ["ShardStatus", "Status", "lanes", "summary"]


class ShardStatus(msgspec.Struct, frozen=True):
    """One shard as ``pipeline status`` shows it. Ages and waits are in seconds; ``None``: there is none.

    ``pending`` counts ``frozen`` and ``parked`` events, too. ``parked`` events are set aside because of the tables in
    ``paused`` (table → why). ``per_second`` is how many events were drained lately, ``drain_seconds`` how long the
    pending ones will take at that rate, if no more come (see `pipeline.core.drain`).
    """

    shard: int
    pending: int
    frozen: int
    oldest_age: float | None
    attempts: int
    failures: int
    next_try: float | None
    error: str | None
    applied_batches: int
    dead_letters: int
    rechecking: bool
    store_gaps: int
    parked: int
    paused: dict[str, str]
    per_second: float | None
    drain_seconds: float | None


class Status(msgspec.Struct, frozen=True):
    """All shards and their sums.

    Not ``healthy``: a batch keeps failing, a table is paused, or PostgreSQL went back in time.
    """

    namespace: str
    pending: int
    frozen: int
    parked: int
    oldest_age: float | None
    dead_letters: int
    healthy: bool
    shards: list[ShardStatus]


def summary(namespace: str, states: Sequence[ShardState], ledgers: Mapping[int, ShardLedger], now_ms: float) -> Status:
    """All shards and their sums. ``now_ms`` is Unix time in milliseconds."""
    shards = [_shard_status(state, ledgers.get(state.shard), now_ms) for state in states]
    return Status(
        namespace=namespace,
        pending=sum(shard.pending for shard in shards),
        frozen=sum(shard.frozen for shard in shards),
        parked=sum(shard.parked for shard in shards),
        oldest_age=max((shard.oldest_age for shard in shards if shard.oldest_age is not None), default=None),
        dead_letters=sum(shard.dead_letters for shard in shards),
        healthy=not any(shard.failures or shard.store_gaps or shard.paused for shard in shards),
        shards=shards,
    )


def lanes(states: Sequence[ShardState], ledgers: Mapping[int, ShardLedger], now_ms: float) -> list[Lane]:
    """All shards as a diagnosis takes them."""
    return [
        msgspec.convert(_shard_status(state, ledgers.get(state.shard), now_ms), Lane, from_attributes=True)
        for state in states
    ]


def _shard_status(state: ShardState, ledger: ShardLedger | None, now_ms: float) -> ShardStatus:
    oldest = state.oldest_ms
    pending = state.queued + state.frozen + state.parked
    return ShardStatus(
        shard=state.shard,
        pending=pending,
        frozen=state.frozen,
        oldest_age=None if oldest is None else round(max(0.0, now_ms - oldest) / 1000, 3),
        attempts=state.begun,
        failures=state.failures,
        next_try=None if state.due_ms is None else round(max(0.0, state.due_ms - now_ms) / 1000, 3),
        error=state.error,
        applied_batches=ledger.seq if ledger else 0,
        dead_letters=ledger.dead_letters if ledger else 0,
        rechecking=ledger.rechecking if ledger else False,
        store_gaps=ledger.store_gaps if ledger else 0,
        parked=state.parked,
        paused={table.table: table.error for table in state.paused},
        per_second=state.per_second,
        drain_seconds=drain_seconds(pending, state.per_second),
    )
