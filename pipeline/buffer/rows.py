"""Rows in Redis: cached, and pending changes on them. What else writes and acknowledgements do is in their scripts."""

from __future__ import annotations

import re
import uuid
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Call, Command, Wire, sound, source
from pipeline.config import Config
from pipeline.errors import BufferUnavailable
from pipeline.reading import Backlog, Fields, Filling, Missed, Place, Ticket

__all__ = ["RedisRows", "cached_row"]

_SEQ: Final = re.compile(rb"\[(\d+),")

_TICKET_MS: Final = 2_000
"""A reader that has not installed its row by then is taken for dead, and another one may try."""


class RedisRows:
    """`pipeline.reading.RowCache` and `pipeline.reading.RowQueue` on one Redis."""

    def __init__(self, wire: Wire, topology: Topology, config: Config) -> None:
        self._wire = wire
        self._topology = topology
        self._keys = Keys(config.namespace, config.shards)
        self._ttl_ms = round(config.cache_ttl_seconds * 1000)
        self._look = source("look")
        self._install = source("install")

    async def get(self, places: Sequence[Place]) -> list[Fields | None]:
        """See `pipeline.reading.RowCache.get`."""
        with translated():
            async with self._wire.line() as line:
                replies = sound(await line.send([("HGETALL", self._row(place)) for place in places]))
                return [cached_row(_mapping(reply), line.life) for reply in replies]

    async def look(self, places: Sequence[tuple[Place, bool]]) -> list[Fields | Filling | Missed]:
        """See `pipeline.reading.RowCache.look`."""
        tickets: list[Ticket] = []
        try:
            with translated():
                async with self._wire.line() as line:
                    await self._topology.check(line)  # here only: else no row is installed where nobody writes
                    tickets += [Ticket(f"?{uuid.uuid4().hex}" if wanted else "", line.life) for _, wanted in places]
                    calls = [self._look_call(place, ticket) for (place, _), ticket in zip(places, tickets, strict=True)]
                    replies = sound(await line.call(self._look, calls))
        except CancelledError:  # they may have been given out, and others would wait for them
            with suppress(BufferUnavailable):
                for (place, wanted), ticket in zip(places, tickets, strict=False):
                    if wanted:
                        await self.decline(place, ticket, seconds=0)
            raise
        return [_looked(reply, ticket) for reply, ticket in zip(replies, tickets, strict=True)]

    def _look_call(self, place: Place, ticket: Ticket) -> Call:
        keys = [self._row(place), self._overlay(place), self._keys.shards[place.shard].state]
        return keys, [ticket.life, ticket.token, _TICKET_MS]

    async def install(self, place: Place, ticket: Ticket, row: Mapping[str, bytes], *, fragile: bool) -> bool:
        """See `pipeline.reading.RowCache.install`."""
        fields = [part for item in row.items() for part in item]
        return await self._settle(place, ticket, [ticket.life + ("!" if fragile else ""), self._ttl_ms, *fields])

    async def decline(self, place: Place, ticket: Ticket, *, seconds: float) -> None:
        """See `pipeline.reading.RowCache.decline`."""
        await self._settle(place, ticket, ["-" if seconds else "", round(seconds * 1000)])

    async def _settle(self, place: Place, ticket: Ticket, args: Sequence[Any]) -> bool:
        with translated():
            async with self._wire.line() as line:
                if line.life != ticket.life:  # what the row was made of may be lost
                    return False
                call: Call = ([self._row(place), self._overlay(place)], [ticket.token, *args])
                return bool(sound(await line.call(self._install, [call]))[0])

    async def backlog(self, place: Place) -> Backlog:
        """See `pipeline.reading.RowQueue.backlog`."""
        overlay = self._overlay(place)
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                look: list[Command] = [("LLEN", overlay), ("LINDEX", overlay, 0), ("LINDEX", overlay, -1)]
                *_, (count, first, last) = sound(await line.send([("MULTI",), *look, ("EXEC",)]))
        return Backlog(count, _seq_of(first), _seq_of(last)) if count else Backlog(0, 0, 0)

    async def drop(self, place: Place) -> None:
        """See `pipeline.reading.RowQueue.drop`."""
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                sound(await line.send([("DEL", self._row(place))]))

    def _row(self, place: Place) -> str:
        return f"{self._keys.shards[place.shard].row}{place.table}:{place.identity}"

    def _overlay(self, place: Place) -> str:
        return f"{self._keys.shards[place.shard].overlay}{place.table}:{place.identity}"


def _seq_of(entry: bytes) -> int:
    """The number at the head of an overlay entry; such entries are written by the write script only."""
    found = _SEQ.match(entry)
    if found is None:
        raise BufferUnavailable("what is pending on the row cannot be read")
    return int(found[1])


def _mapping(reply: Any) -> dict[bytes, bytes]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def cached_row(fields: dict[bytes, bytes], life: str) -> Fields | None:
    """The row in a row hash, without its tag; ``None`` if the tag does not vouch for it in this ``life``."""
    tag = fields.pop(b"", b"").decode()
    return fields if life and tag.removesuffix("!") == life else None


def _looked(reply: Any, ticket: Ticket) -> Fields | Filling | Missed:
    match reply:
        case [b"row", *fields]:
            row = cached_row(_mapping(fields), ticket.life)
            if row is not None:
                return row
        case [b"filling"]:
            return Filling()
        case [b"missed", given, seq, *overlay]:
            return Missed(int(seq), overlay, ticket if given else None)
        case _:
            pass
    raise BufferUnavailable(f"unexpected reply of the look script: {reply!r:.200}")
