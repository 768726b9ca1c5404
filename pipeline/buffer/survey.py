"""All cached rows in Redis, to look at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.buffer.rows import cached_row
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Call, Wire, sound, source
from pipeline.config import Config
from pipeline.reading import Fields, Glimpse, Place

__all__ = ["RedisSurvey"]

_AT_ONCE: Final = 1000
"""Keys of any kind that one step of a walk looks at: well below a millisecond for Redis."""

_SPECIAL: Final = re.compile(r"([\\*?\[\]])")


class RedisSurvey:
    """`pipeline.reading.RowSurvey` on one Redis."""

    def __init__(self, wire: Wire, topology: Topology, config: Config) -> None:
        self._wire = wire
        self._topology = topology
        self._keys = Keys(config.namespace, config.shards)
        self._prefixes = {names.row: shard for shard, names in enumerate(self._keys.shards)}
        self._glimpse = source("glimpse")
        self._drop = source("drop")

    async def walk(self, cursor: int, table: str | None = None) -> tuple[int, list[Place]]:
        """See `pipeline.reading.RowSurvey.walk`."""
        before, _, behind = self._keys.shards[0].row.rpartition("0")
        pattern = f"{_literal(before)}*{_literal(behind)}" + ("*" if table is None else f"{_literal(table)}:*")
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE, "TYPE", "hash")
                ((following, keys),) = sound(await line.send([scan]))
        places = [place for key in keys if (place := self._place(key)) and table in {None, place.table}]
        return int(following), places

    async def glimpse(self, places: Sequence[Place]) -> list[Glimpse]:
        """See `pipeline.reading.RowSurvey.glimpse`."""
        calls: list[Call] = []
        for place in places:
            names = self._keys.shards[place.shard]
            row = f"{place.table}:{place.identity}"
            calls.append(([names.row + row, names.overlay + row, names.state], []))
        if not calls:
            return []
        with translated():
            async with self._wire.line() as line:
                replies = sound(await line.call(self._glimpse, calls))
                return [_glimpsed(reply, line.life) for reply in replies]

    async def drop(self, contents: Mapping[Place, Fields]) -> list[Place]:
        """See `pipeline.reading.RowSurvey.drop`."""
        calls: list[Call] = []
        for place, content in contents.items():
            key = f"{self._keys.shards[place.shard].row}{place.table}:{place.identity}"
            calls.append(([key], [part for item in content.items() for part in item]))
        if not calls:
            return []
        with translated():
            async with self._wire.line() as line:
                replies = sound(await line.call(self._drop, calls))
        return [place for place, dropped in zip(contents, replies, strict=True) if dropped]

    def _place(self, key: bytes) -> Place | None:
        try:
            prefix, brace, rest = key.decode().partition("}:")
        except UnicodeDecodeError:  # nobody reads it
            return None
        shard = self._prefixes.get(prefix + brace)
        table, colon, identity = rest.rpartition(":")  # an identity has none, the name of a table may
        return Place(table, identity, shard) if shard is not None and colon else None


def _literal(text: str) -> str:
    """A pattern that matches ``text`` and nothing else."""
    return _SPECIAL.sub(r"\\\1", text)


def _glimpsed(reply: Any, life: str) -> Glimpse:
    fields, overlay, seq, batch = reply
    content = dict(zip(fields[::2], fields[1::2], strict=True))
    return Glimpse(cached_row(dict(content), life), content, int(seq), batch.decode(), overlay)
