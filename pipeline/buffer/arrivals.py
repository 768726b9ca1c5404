"""The ingress queue in bulk, where it lies in the pipeline's own Redis."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from pipeline.arrivals import Arrivals, Nothing
from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Command, Line, Source, Wire, sound, source
from pipeline.config import Config
from pipeline.core.claim import Busy
from pipeline.errors import BufferUnavailable

__all__ = ["RedisArrivals"]

_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of messages that are taken at once, so that Redis is held for a few milliseconds at most."""


_WAITED: Final = 1000
"""Most messages that have waited for room and are frozen at once."""


_DEATHS: Final = 3
"""Takers in a row that died over a message, as with batches: a kill or two of a worker are no reason to suspect it."""


class RedisArrivals:
    """`pipeline.arrivals.ArrivalQueue` on one Redis."""

    def __init__(self, wire: Wire, topology: Topology, config: Config) -> None:
        self._wire = wire
        self._topology = topology
        self._keys = Keys(config.namespace, config.shards)
        self._lease_ms = round(config.lease_seconds * 1000)
        self._most = config.ingress_batch
        self._per_shard = max(1, config.max_pending // config.shards)
        self._take = source("take")
        self._settle = source("settle")
        self._leave = source("leave")

    async def take(self, owner: str, shard: int | None = None) -> Arrivals | Nothing | Busy:
        """See `pipeline.arrivals.ArrivalQueue.take`."""
        keys = [self._keys.ingress_batch, self._keys.ingress_state, self._keys.ingress_lease, self._keys.ingress_full]
        if shard is None:
            keys += self._keys.ingress
            most = self._most
        else:
            names = self._keys.shards[shard]
            keys += (names.events, names.batch, names.parked, names.resumed, names.waiting)
            most = _WAITED
        args = [owner, self._lease_ms, most, _BYTES, str(uuid.uuid4()), _text(shard), self._per_shard, _DEATHS]
        async with self._line() as line:
            reply = await _answer(line, self._take, keys, args)
            match reply:
                case [b"busy"]:
                    return Busy()
                case [b"empty", shards]:
                    return Nothing(frozenset(map(int, shards)))
                case [b"batch", batch, dropped, origin, shards, suspect, count]:
                    messages = await self._messages(line, batch, dropped, count)
                    if messages is None:
                        return Busy()
                    return Arrivals(
                        batch=batch.decode(),
                        dropped=int(dropped),
                        source=int(origin) if origin else None,
                        waiting=frozenset(map(int, shards)),
                        suspect=suspect == 1,
                        life=line.life,
                        messages=messages,
                    )
                case _:
                    raise BufferUnavailable(f"unexpected reply of the take script: {reply!r:.200}")

    async def _messages(self, line: Line, batch: bytes, dropped: bytes, count: int) -> list[bytes] | None:
        """The oldest frozen messages, oldest first; ``None`` if somebody else has taken them by now."""
        names = self._keys
        look: Command = ("HMGET", names.ingress_state, "batch_id", "dropped")
        *_, found = sound(await line.send([("MULTI",), look, ("LRANGE", names.ingress_batch, -count, -1), ("EXEC",)]))
        state, messages = found
        return messages[::-1] if state == [batch, dropped] else None

    async def settle(
        self, arrivals: Arrivals, for_celery: Sequence[bytes], waiting: Mapping[int, Sequence[bytes]]
    ) -> bool:
        """See `pipeline.arrivals.ArrivalQueue.settle`."""
        names = self._keys
        origin = names.others if arrivals.source is None else names.shards[arrivals.source].waiting
        keys = [names.ingress_batch, names.ingress_state, names.ingress_full, names.others, origin]
        args: list[Any] = [arrivals.batch, arrivals.dropped, len(arrivals.messages), int(arrivals.suspect)]
        args += (_text(arrivals.source), len(for_celery), *for_celery, len(waiting))
        for shard, messages in waiting.items():
            keys.append(names.shards[shard].waiting)
            args += (shard, len(messages), *messages)
        async with self._line() as line:
            if line.life != arrivals.life:  # what they became may be lost, and they are nowhere else
                return False
            return bool(await _answer(line, self._settle, keys, args))

    async def leave(self, owner: str) -> None:
        """See `pipeline.arrivals.ArrivalQueue.leave`."""
        async with self._line() as line:
            await _answer(line, self._leave, [self._keys.ingress_state, self._keys.ingress_lease], [owner])

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[Line]:
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                yield line


async def _answer(line: Line, script: Source, keys: Sequence[str], args: Sequence[Any]) -> Any:
    return sound(await line.call(script, [(keys, args)]))[0]


def _text(shard: int | None) -> str:
    return "" if shard is None else str(shard)
