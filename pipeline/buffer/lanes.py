"""How far the shards have come, in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.buffer.replies import name_of
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Call, Command, Source, Wire, sound, source
from pipeline.config import Config
from pipeline.progress import Page, Standing, Trouble

__all__ = ["RedisLanes"]

_PAGE: Final = 100
"""Messages in one answer: each may have PIPELINE_MAX_EVENT_BYTES."""


class RedisLanes:
    """`pipeline.progress.Lanes` on one Redis."""

    def __init__(self, wire: Wire, topology: Topology, config: Config) -> None:
        self._wire = wire
        self._topology = topology
        self._keys = Keys(config.namespace, config.shards)
        self._standing = source("standing")
        self._aside = source("aside")

    async def acknowledged(self, shards: Sequence[int]) -> dict[int, int]:
        """See `pipeline.progress.Lanes.acknowledged`."""
        replies = await self._send([("HGET", self._keys.shards[shard].state, "seq") for shard in shards])
        return {shard: int(reply or 0) for shard, reply in zip(shards, replies, strict=True)}

    async def troubles(self, shards: Sequence[int]) -> dict[int, Trouble]:
        """See `pipeline.progress.Lanes.troubles`."""
        commands: list[Command] = []
        for names in (self._keys.shards[shard] for shard in shards):
            commands += [("HMGET", names.state, "seq", "accepted", "error"), ("HKEYS", names.paused)]
        replies = await self._send(commands)
        troubles = {}
        for shard, (seq, accepted, error), paused in zip(shards, replies[::2], replies[1::2], strict=True):
            text = None if error is None else error.decode("utf-8", "replace")
            troubles[shard] = Trouble(int(seq or 0), int(accepted or 0), text, _names(paused))
        return troubles

    async def standings(self, shards: Sequence[int]) -> dict[int, Standing]:
        """See `pipeline.progress.Lanes.standings`."""
        calls: list[Call] = [
            ([names.events, names.batch, names.state, names.parked, names.resumed, names.paused], [])
            for names in (self._keys.shards[shard] for shard in shards)
        ]
        found = {}
        for shard, reply in zip(shards, await self._call(self._standing, calls), strict=True):
            accepted, settled, aside, pending, *paused = reply
            found[shard] = Standing(
                accepted,
                None if settled < 0 else settled,
                None if aside < 0 else aside,
                pending == 0,
                _names(paused),
            )
        return found

    async def aside(self, shard: int, start: int) -> Page:
        """See `pipeline.progress.Lanes.aside`."""
        names = self._keys.shards[shard]
        keys = [names.batch, names.state, names.resumed, names.parked]
        ((more, *messages),) = await self._call(self._aside, [(keys, [start, _PAGE])])
        return Page(messages, bool(more))

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                return sound(await line.send(commands))

    async def _call(self, script: Source, calls: Sequence[Call]) -> list[Any]:
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                return sound(await line.call(script, calls))


def _names(fields: Sequence[bytes]) -> list[str]:
    return sorted(map(name_of, fields))
