"""What the scripts take and return, as values; pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pipeline.core.change import printable
from pipeline.core.codec import accepted_ms
from pipeline.core.drain import Drained, drain_seconds, rate
from pipeline.errors import PipelineFull
from pipeline.ports import PausedTable, Settled, ShardState

__all__ = ["Why", "field_of", "name_of", "parts", "paused_tables", "per_row", "refusal", "shard_state"]

_ROWS_PER_CALL: Final = 500
"""Rows that one acknowledge call settles: four commands each, so Redis is held for less than a millisecond."""


_SUMS: Final = ("drained", "draining", "drained_at", "busy_since")


class Why(msgspec.Struct, frozen=True):
    """What the hash of what is paused says about one field, besides when it is due."""

    error: str
    sample: bytes
    probes: int
    waits: bool = False


def _due_and_why(value: bytes, now_ms: float) -> tuple[int, bytes]:
    due, _, why = value.partition(b"|")
    return int(due) - int(now_ms), why


_NO_NAME: Final = "\x00"
"""What no table and no column has in its name."""


def field_of(table: str, column: str | None) -> str:
    """By what the hashes of paused and of probed things know a table, or one of its columns."""
    return table if column is None else table + _NO_NAME + column


def name_of(field: bytes) -> str:
    """A field of `field_of` for people: the table, or ``table.column``."""
    return printable(field.decode().replace(_NO_NAME, "."))


def paused_tables(reply: Sequence[Any]) -> tuple[PausedTable, ...]:
    """Paused tables and columns out of a flat reply of field, milliseconds until it is due, and why."""
    tables = []
    for field, milliseconds, encoded in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
        why = msgspec.json.decode(encoded, type=Why)
        table, _, column = field.decode().partition(_NO_NAME)
        seconds = milliseconds / 1000
        tables.append(PausedTable(table, seconds, why.error, why.sample, why.probes, why.waits, column or None))
    return tuple(tables)


def parts(events: Sequence[Settled]) -> Iterator[Sequence[Settled]]:
    """Cut so that no part has more than about `_ROWS_PER_CALL` rows; at least one part, maybe empty."""
    start = rows = 0
    for index, event in enumerate(events):
        rows += max(len(event.rows), event.aside is not None)
        if rows >= _ROWS_PER_CALL:
            yield events[start : index + 1]
            start, rows = index + 1, 0
    if start < len(events) or not events:
        yield events[start:]


def per_row(events: Sequence[Settled]) -> dict[str, tuple[int, int, bool]]:
    """Row → (overlay entries to drop, seq of the last of them, whether a cached row is not right any more).

    That is so after a dead event, and after one that came past the write script: it is in no overlay.
    """
    rows: dict[str, tuple[int, int, bool]] = {}
    for event in events:
        if event.aside is not None:
            continue
        for table, identity in event.rows:
            row = f"{table}:{identity}"
            count, last, spoilt = rows.get(row, (0, 0, False))
            if event.seq is None:
                rows[row] = (count, last, True)
            else:
                rows[row] = (count + 1, event.seq, spoilt or event.dead)
    return rows


def refusal(shard: int, limit: int, reply: Sequence[Any]) -> PipelineFull:
    """What the write script answers when the shard is full."""
    code, now_ms, *sums = reply
    pending = -1 - code
    return PipelineFull(shard, pending, limit, drain_seconds=drain_seconds(pending, rate(_drained(sums, now_ms))))


def _drained(sums: Sequence[Any], now_ms: float) -> Drained | None:
    """``sums`` are the fields `_SUMS` of the shard hash; ``None`` where there is none."""
    events, milliseconds, at_ms, since_ms = sums
    if at_ms is None:
        return None
    age_ms = max(0.0, now_ms - float(at_ms))
    busy_ms = 0.0 if since_ms is None else max(0.0, now_ms - float(since_ms))
    return Drained(float(events), float(milliseconds) / 1000, age_ms / 1000, busy_ms / 1000)


def shard_state(shard: int, reply: list[Any]) -> ShardState:
    """What the replies to the commands of `RedisBuffer.states` say of one shard."""
    queued, frozen, oldest_frozen, oldest_queued, fields, leased, parked, resumed, *oldest_aside, paused = reply
    state = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}

    def number(name: str) -> int:
        return int(state.get(name, 0))

    oldest = [message for message in (oldest_frozen, oldest_queued, *oldest_aside) if message]
    now_ms = time.time() * 1000
    return ShardState(
        shard=shard,
        queued=queued + resumed,
        frozen=frozen,
        oldest_ms=min(filter(None, map(accepted_ms, oldest)), default=None),
        batch_id=state.get("batch_id"),
        begun=number("begun"),
        failures=number("failures"),
        error=state.get("error"),
        due_ms=number("due") or None,
        accepted=number("accepted"),
        committed_batches=number("seq"),
        leased=bool(leased),
        unreachable="unreachable" in state,
        parked=parked,
        per_second=rate(_drained([state.get(name) for name in _SUMS], now_ms)),
        paused=paused_tables(
            [part for field, value in paused.items() for part in (field, *_due_and_why(value, now_ms))]
        ),
    )
