"""Writes into Redis: what the write script takes, in one round trip."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, Final

import msgspec
from redis.exceptions import NoScriptError, ResponseError

from pipeline.buffer.connection import packed, translated, unavailable
from pipeline.buffer.durable import Question
from pipeline.buffer.keys import Keys
from pipeline.buffer.replies import refusal
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Call, Line, Wire, sound, source
from pipeline.config import Config, Durability
from pipeline.core.codec import Envelope, flush_message
from pipeline.driving import Sleep
from pipeline.errors import BufferUnavailable, PipelineError, PipelineFull
from pipeline.ports import Chunk, Encoded, Session, Written, nothing

__all__ = ["WANTED_AGAIN_MS", "RedisIntake"]

WANTED_AGAIN_MS: Final = 5_000
"""A flush that was asked for and has not started for so long may be lost with its worker: ask again."""

_pack: Final = msgspec.msgpack.Encoder().encode


class RedisIntake:
    """`pipeline.ports.EventBuffer` on one Redis."""

    def __init__(self, wire: Wire, topology: Topology, config: Config, sleep: Sleep) -> None:
        self._wire = wire
        self._topology = topology
        self._config = config
        self._sleep = sleep
        self._keys = Keys(config.namespace, config.shards)
        self._write = source("write")
        self._hand_over = source("hand_over")
        self._per_shard = max(1, config.max_pending // config.shards)
        self._settings = [self._settings_of(shard) for shard in range(config.shards)]

    def _settings_of(self, shard: int) -> bytes:
        config, names = self._config, self._keys.shards[shard]
        # without the same Redis as broker the script cannot enqueue; the beat still flushes every interval
        flush = flush_message(f"{config.namespace}.flush_shard", self._keys.control, shard, "@ID@").decode()
        # so those at the head take at most half of the time of one worker process
        headed_again_ms = round(2000 * config.shards * config.flush_slice_seconds)
        dedupe_ms = round(config.dedupe_window_seconds * 1000)
        envelope = Envelope(f"{config.namespace}.apply_event", names.events)
        waits = [WANTED_AGAIN_MS, headed_again_ms, dedupe_ms]
        flush_if = [self._per_shard, config.flush_threshold, flush if config.shares_broker else ""]
        return _pack([*flush_if, *waits, *envelope.parts])

    async def write(self, shard: int, events: Sequence[Encoded]) -> list[Written]:
        """See `pipeline.ports.EventBuffer.write`."""
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line, create=True)
                replies = await line.run(self._write, [self._write.command(*self._write_call(shard, events))])
            return self._written(shard, events, sound(replies)[0])

    async def write_durably(
        self, shard: int, events: Sequence[Encoded], durability: Durability
    ) -> tuple[list[Written], str | None]:
        """See `pipeline.ports.EventBuffer.write_durably`."""
        with translated():
            async with self._wire.line(lasting=True) as line:
                await self._topology.check(line, create=True)
                question = Question(line, self._config, durability, self._sleep)
                reply = await self._asked(line, question, self._write_call(shard, events))
                return self._written(shard, events, reply), await question.answer()  # if it is full, nobody waits

    async def _asked(self, line: Line, question: Question, call: Call) -> Any:
        """Send a write and the question behind it; the answer to the first."""
        command = self._write.command(*call)
        await line.post([command, *question.commands()])
        reply = await line.reply()
        if isinstance(reply, NoScriptError):
            await line.drop()  # the question waits for what was there before
            await line.post([self._write.load, command, *question.commands()])
            await line.reply()
            reply = await line.reply()
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def session(self) -> AbstractAsyncContextManager[Session]:
        """See `pipeline.ports.EventBuffer.session`."""
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        with translated():
            async with self._wire.line(lasting=True) as line:
                await self._topology.check(line, create=True)
                yield _Session(self, line)

    def chunk(self, shard: int, events: Sequence[Encoded]) -> Chunk:
        """See `pipeline.ports.EventBuffer.chunk`."""
        return Chunk(shard, events, packed([self._write.command(*self._write_call(shard, events))]))

    async def write_chunks(
        self, chunks: Sequence[Chunk], meanwhile: Callable[[], object] = nothing
    ) -> list[list[Written] | PipelineError]:
        """See `pipeline.ports.EventBuffer.write_chunks`."""
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line, create=True)
                return await self.write_over(line, chunks, meanwhile)

    async def write_over(
        self, line: Line, chunks: Sequence[Chunk], meanwhile: Callable[[], object]
    ) -> list[list[Written] | PipelineError]:
        """`write_chunks` over this ``line``; raises `RedisError`."""
        replies = await line.run(self._write, [chunk.command for chunk in chunks], meanwhile)
        outcomes: list[list[Written] | PipelineError] = []
        for chunk, reply in zip(chunks, replies, strict=True):
            try:
                if isinstance(reply, Exception):
                    raise unavailable(reply) from reply
                outcomes.append(self._written(chunk.shard, chunk.events, reply))
            except (BufferUnavailable, PipelineFull) as error:
                outcomes.append(error)
        return outcomes

    def question(self, line: Line, durability: Durability) -> Question:
        """How durable what went over ``line`` is."""
        return Question(line, self._config, durability, self._sleep)

    async def hand_over(self, shard: int, message: bytes, mark: str) -> None:
        """See `pipeline.ports.EventBuffer.hand_over`."""
        names = self._keys.shards[shard]
        remember_ms = round(self._config.dedupe_window_seconds * 1000)
        call: Call = ([names.events, names.handed + mark, names.state], [message, remember_ms])
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line)
                sound(await line.call(self._hand_over, [call]))

    def _write_call(self, shard: int, events: Sequence[Encoded]) -> Call:
        names = self._keys.shards[shard]
        keys = [names.events, names.batch, names.state, self._keys.control, names.parked, names.resumed, names.lease]
        packed: list[str | int] = [len(events)]
        for event in events:
            if event.dedupe:
                keys.append(names.seen + event.id)
            packed += (event.id_json, event.body, event.headers, event.dedupe, len(event.rows))
            for row, json in event.rows:
                keys += (names.overlay + row, names.row + row)
                packed.append(json)
        return keys, [self._settings[shard], _pack(packed)]

    def _written(self, shard: int, events: Sequence[Encoded], reply: list[Any]) -> list[Written]:
        if reply[0] < 0:
            raise refusal(shard, self._per_shard, reply)
        _, after, accepted, *seen = reply
        if not seen:
            return [
                Written(seq, duplicate=False, after=after) for seq in range(accepted + 1, accepted + 1 + len(events))
            ]
        known = dict(zip(seen[::2], map(_known, seen[1::2]), strict=True))
        seqs = count(accepted + 1)
        return [
            known.get(place) or Written(next(seqs), duplicate=False, after=after) for place in range(1, len(events) + 1)
        ]


def _known(seen: bytes) -> Written:
    seq, _, after = seen.partition(b" ")
    return Written(int(seq), duplicate=True, after=int(after or 0))


class _Session:
    """`pipeline.ports.Session` on one line."""

    def __init__(self, intake: RedisIntake, line: Line) -> None:
        self._intake = intake
        self._line = line

    async def write_chunks(
        self, chunks: Sequence[Chunk], meanwhile: Callable[[], object] = nothing
    ) -> list[list[Written] | PipelineError]:
        """See `pipeline.ports.EventBuffer.write_chunks`."""
        with translated():
            return await self._intake.write_over(self._line, chunks, meanwhile)

    async def settle(self, durability: Durability) -> str | None:
        """See `pipeline.ports.Session.settle`."""
        return await self._intake.question(self._line, durability).ask()
