"""What the scripts take and return, as values; pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.core.change import Event, printable
from pipeline.core.codec import Malformed, accepted_ms
from pipeline.core.drain import Drained, drain_seconds, rate
from pipeline.core.entries import Entries
from pipeline.errors import PipelineFull
from pipeline.ports import Applied, Claimed, PausedTable, ShardState

__all__ = [
    "Part",
    "Span",
    "Why",
    "field_of",
    "name_of",
    "parts",
    "paused_tables",
    "refusal",
    "shard_state",
    "span_of",
]

_ROWS_PER_CALL: Final = 250
"""Rows that one acknowledge call settles, at one microsecond each, or five if asked: at most a good millisecond."""

_EVENTS_PER_CALL: Final = 5000
"""Events that it settles, whose overlay entries it drops: a fraction of a microsecond each."""

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


class Span(NamedTuple):
    """The numbers of the events in a batch: its ``last``, 0 if none has one, and its ``first``, if it is ordinary.

    Ordinary: all events from the first to the last are in it and settled, and their turn was not over before. Nearly
    every batch is. Of another one, ``first`` is 0.
    """

    first: int
    last: int


def span_of(batch: Claimed, entries: Sequence[Event | Malformed], applied: Applied) -> Span:
    """The span of ``batch``, of which ``entries`` became ``applied``."""
    numbers = Entries.of(entries).numbers
    given = [seq for seq in numbers if seq and seq <= batch.accepted]
    first, last = min(given, default=0), max(given, default=0)
    gapless = len(set(given)) == len(numbers) == last - first + 1
    is_ordinary = gapless and not applied.aside and batch.settled is not None and batch.settled < first
    return Span(first if is_ordinary else 0, last)


class Part(msgspec.Struct):
    """What one call of the acknowledge script settles.

    ``rows``: row → [overlay entries to drop, seq of the last of them, 1 if a cached row is not right any more]. That is
    so after a dead event, and after one that came past the write script: it is in no overlay. ``aside``: positions of
    events to set aside. ``touched``: rows of these → table.
    """

    events: int = 0
    rows: dict[str, list[int]] = {}
    aside: list[int] = []
    touched: dict[str, str] = {}

    @property
    def room(self) -> int:
        """How many more events there is certainly room for, if each has one change."""
        size = len(self.rows) + len(self.aside) + len(self.touched)
        return max(0, min(_ROWS_PER_CALL - size, _EVENTS_PER_CALL - self.events))


def parts(entries: Sequence[Event | Malformed], applied: Applied) -> Iterator[Part]:
    """What became of ``entries``, cut so that no call has much more than `_ROWS_PER_CALL` rows; at least one part."""
    entries = Entries.of(entries)
    odd = iter(sorted(applied.dead | applied.aside | entries.others.keys()))
    rows, numbers, count = entries.rows(), entries.numbers, len(entries)
    part, position, stop = Part(), 0, next(odd, count)
    while position < count:
        if not part.room:
            yield part
            part = Part()
        elif position == stop:
            _settle(part, position, entries[position], applied)
            position, stop = position + 1, next(odd, count)
        else:
            end = min(position + part.room, stop)
            _settle_plain(part, rows[position:end], numbers[position:end])
            position = end
    yield part


def _settle_plain(part: Part, rows: Sequence[str | None], numbers: Sequence[int | None]) -> None:
    """`_settle` for ordinary events that were applied."""
    part.events += len(rows)
    fresh: dict[str, list[int]] = {row: [1, seq, 0] for row, seq in zip(rows, numbers, strict=True) if row and seq}
    comes_once = len(fresh) == len(rows) - rows.count(None) and part.rows.keys().isdisjoint(fresh)
    if comes_once:  # each row, as nearly always
        part.rows |= fresh
        return
    for row, seq in zip(rows, numbers, strict=True):
        if row is not None and seq is not None:
            settled = part.rows.setdefault(row, [0, seq, 0])
            settled[0] += 1
            settled[1] = seq


def _settle(part: Part, position: int, entry: Event | Malformed, applied: Applied) -> None:
    part.events += 1
    if position in applied.aside:
        part.aside.append(position)
        part.touched |= _touched(entry)
    elif isinstance(entry, Event):
        for change, identity in zip(entry.changes, entry.identities, strict=True):
            if identity is None:
                continue
            settled = part.rows.setdefault(f"{change.table}:{identity}", [0, 0, 0])
            if entry.seq is None:
                settled[2] = 1
            else:
                settled[0] += 1
                settled[1] = entry.seq
                if position in applied.dead:
                    settled[2] = 1


def _touched(entry: Event | Malformed) -> dict[str, str]:
    if not isinstance(entry, Event):
        return {}
    changes = zip(entry.changes, entry.identities, strict=True)
    return {f"{change.table}:{identity}": change.table for change, identity in changes if identity is not None}


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
