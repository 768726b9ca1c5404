"""Writes into Redis: what the write script takes, in one round trip."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from pipeline.buffer.connection import translated, unavailable
from pipeline.buffer.durable import Question
from pipeline.buffer.keys import Keys
from pipeline.buffer.replies import refusal
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Call, Line, Wire, sound, source
from pipeline.config import Config, Durability
from pipeline.core.codec import flush_message
from pipeline.driving import Sleep
from pipeline.errors import BufferUnavailable, PipelineError, PipelineFull
from pipeline.ports import Encoded, Session, Written

__all__ = ["WANTED_AGAIN_MS", "RedisIntake"]

WANTED_AGAIN_MS: Final = 5_000
"""A flush that was asked for and has not started for so long may be lost with its worker: ask again."""


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
        template = flush_message(f"{config.namespace}.flush_shard", self._keys.control, -1, "@ID@")
        # without the same Redis as broker the script cannot enqueue; the beat still flushes every interval
        self._templates = [
            template.replace(b'\\"shard\\":-1', f'\\"shard\\":{shard}'.encode()) if config.shares_broker else b""
            for shard in range(config.shards)
        ]
        # so those at the head take at most half of the time of one worker process
        self._headed_again_ms = round(2000 * config.shards * config.flush_slice_seconds)
        self._per_shard = max(1, config.max_pending // config.shards)

    async def write(self, shard: int, events: Sequence[Encoded]) -> list[Written]:
        """See `pipeline.ports.EventBuffer.write`."""
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line, create=True)
                replies = await line.call(self._write, [self._write_call(shard, events)])
            return self._written(shard, sound(replies)[0])

    async def write_durably(
        self, shard: int, events: Sequence[Encoded], durability: Durability
    ) -> tuple[list[Written], str | None]:
        """See `pipeline.ports.EventBuffer.write_durably`."""
        with translated():
            async with self._wire.line(lasting=True) as line:
                await self._topology.check(line, create=True)
                question = Question(line, self._config, durability, self._sleep)
                reply = await self._asked(line, question, self._write_call(shard, events))
                return self._written(shard, reply), await question.answer()  # if it is full, nobody waits

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

    async def write_chunks(
        self, chunks: Sequence[tuple[int, Sequence[Encoded]]]
    ) -> list[list[Written] | PipelineError]:
        """See `pipeline.ports.EventBuffer.write_chunks`."""
        with translated():
            async with self._wire.line() as line:
                await self._topology.check(line, create=True)
                return await self.write_over(line, chunks)

    async def write_over(
        self, line: Line, chunks: Sequence[tuple[int, Sequence[Encoded]]]
    ) -> list[list[Written] | PipelineError]:
        """`write_chunks` over this ``line``; raises `RedisError`."""
        replies = await line.call(self._write, [self._write_call(shard, events) for shard, events in chunks])
        outcomes: list[list[Written] | PipelineError] = []
        for (shard, _), reply in zip(chunks, replies, strict=True):
            try:
                if isinstance(reply, Exception):
                    raise unavailable(reply) from reply
                outcomes.append(self._written(shard, reply))
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
        config = self._config
        keys = [names.events, names.batch, names.state, self._keys.control, names.parked, names.resumed, names.lease]
        args: list[Any] = [
            self._per_shard,
            config.flush_threshold,
            self._templates[shard],
            WANTED_AGAIN_MS,
            round(config.dedupe_window_seconds * 1000),
            len(events),
            self._headed_again_ms,
        ]
        for event in events:
            if event.dedupe:
                keys.append(names.seen + event.id)
            keyed = [change for change in event.changes if change.identity is not None]
            args += (event.id_json, event.message, int(event.dedupe), len(keyed))
            for change in keyed:
                row = f"{change.table}:{change.identity}"
                keys += (names.overlay + row, names.row + row)
                args.append(change.json)
        return keys, args

    def _written(self, shard: int, reply: list[Any]) -> list[Written]:
        if reply[0] < 0:
            raise refusal(shard, self._per_shard, reply)
        _, after, *events = reply
        return [Written(one, duplicate=False, after=after) if isinstance(one, int) else _known(one) for one in events]


def _known(seen: bytes) -> Written:
    seq, _, after = seen.partition(b" ")
    return Written(int(seq), duplicate=True, after=int(after or 0))


class _Session:
    """`pipeline.ports.Session` on one line."""

    def __init__(self, intake: RedisIntake, line: Line) -> None:
        self._intake = intake
        self._line = line

    async def write_chunks(
        self, chunks: Sequence[tuple[int, Sequence[Encoded]]]
    ) -> list[list[Written] | PipelineError]:
        """See `pipeline.ports.EventBuffer.write_chunks`."""
        with translated():
            return await self._intake.write_over(self._line, chunks)

    async def settle(self, durability: Durability) -> str | None:
        """See `pipeline.ports.Session.settle`."""
        return await self._intake.question(self._line, durability).ask()
