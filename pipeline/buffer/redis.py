"""The buffer on Redis ≥ 6.2 or Valkey: one Lua script per step, so that no step is ever half done."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from itertools import chain
from typing import Any, Final

import msgspec
import redis
from redis.commands.core import Script

from pipeline.buffer.connection import connect, translated
from pipeline.buffer.keys import Keys, ShardKeys
from pipeline.buffer.replies import Part, Why, field_of, parts, paused_tables, shard_state, span_of
from pipeline.buffer.writing import WANTED_AGAIN_MS
from pipeline.config import Config
from pipeline.core.change import Event
from pipeline.core.codec import Malformed
from pipeline.core.drain import TAU_SECONDS
from pipeline.errors import BufferUnavailable
from pipeline.ports import (
    Applied,
    Busy,
    Claimed,
    Cut,
    Empty,
    FailureKind,
    PausedTable,
    Resting,
    ShardState,
)

__all__ = ["RedisBuffer", "connect"]

_SCRIPTS: Final = (
    "claim", "acknowledge", "fail", "begin", "halve", "pause", "resume", "release", "want", "cut", "wake",
)  # fmt: skip

_pack: Final = msgspec.msgpack.Encoder().encode

_ROWS_PER_QUESTION: Final = 1000
"""Rows that one command looks up: Redis is held for less than a millisecond."""

_PROBED_MS: Final = 60_000
"""For so long at least it is remembered how often a table was probed in vain before it was resumed."""

_CAPS: Final = 10
"""And for so many of the longest rests: who resumes it wrongly again and again must not lose count."""

_NAMES_WANTED: Final = -2
"""What the acknowledge script answers if it must know the names of the rows, since some may be cached."""

_TAU_MS: Final = round(TAU_SECONDS * 1000)


class RedisBuffer:
    """`pipeline.ports.Buffer` on one Redis."""

    def __init__(self, client: redis.Redis, config: Config, check_topology: Callable[[], None]) -> None:
        """``check_topology`` raises if Redis was set up for another topology than ``config``."""
        self._redis: Any = client  # redis-py annotates its replies as unions of sync and async results
        self._config = config
        self._keys = Keys(config.namespace, config.shards)
        lua = files("pipeline.buffer") / "lua"
        self._scripts: dict[str, Script] = {
            name: client.register_script((lua / f"{name}.lua").read_text("utf-8")) for name in _SCRIPTS
        }
        self._check_topology = check_topology

    # --- flushing

    def claim(
        self, shard: int, owner: str, most: int | None = None, worth: int = 1
    ) -> Claimed | Empty | Busy | Resting:
        """See `pipeline.ports.Buffer.claim`."""
        names = self._keys.shards[shard]
        config = self._config
        keys = [
            names.events, names.batch, names.state, names.lease, names.paused, names.parked, names.resumed, names.held,
        ]  # fmt: skip
        size = min(config.batch_size, most or config.batch_size)
        args = [owner, round(config.lease_seconds * 1000), size, config.batch_bytes, str(uuid.uuid4()), worth]
        reply = self._run("claim", keys, args)
        match reply:
            case [b"busy"]:
                return Busy()
            case [b"empty", paused]:
                return Empty(paused_tables(paused))
            case [b"resting", milliseconds]:
                return Resting(milliseconds / 1000)
            case [b"batch", batch_id, seq, begun, failures, tries, paused, held, settled, accepted, source, cached]:
                messages = self._messages(names, batch_id)
                if messages is None:
                    self.release(shard, owner)  # or nobody could work on that other batch until the lease is over
                    return Busy()
                return Claimed(
                    shard=shard,
                    id=batch_id.decode(),
                    seq=seq,
                    begun=begun,
                    failures=failures,
                    messages=messages,
                    owner=owner,
                    tries=tries,
                    paused=paused_tables(paused),
                    held=held,
                    settled=None if settled < 0 else settled,
                    accepted=accepted,
                    resumed=source == b"resumed",
                    cached=cached,
                )
            case _:
                raise BufferUnavailable(f"unexpected reply of the claim script: {reply!r:.200}")

    def _messages(self, names: ShardKeys, batch_id: bytes) -> list[bytes] | None:
        """The messages of the frozen batch, oldest first; ``None`` if it is another one by now."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hget(names.state, "batch_id")
        pipe.lrange(names.batch, 0, -1)
        with translated():
            frozen, messages = pipe.execute()
        return messages[::-1] if frozen == batch_id else None

    def acknowledge(
        self, batch: Claimed, entries: Sequence[Event | Malformed], applied: Applied, *, unexplained: bool = False
    ) -> bool:
        """See `pipeline.ports.Buffer.acknowledge`."""
        names = self._keys.shards[batch.shard]
        shard_keys = [names.batch, names.state, names.parked, names.held, names.paused, names.events, names.resumed]
        ttl_ms = round(self._config.cache_ttl_seconds * 1000)
        span = span_of(batch, entries, applied)
        leaving = len(entries) - len(applied.aside)

        def settle(parts_left: Sequence[Part], *, named: bool) -> list[int]:
            held = sum(part.events for part in parts_left)
            pipe = self._redis.pipeline(transaction=False)
            for part in parts_left:
                args: list[Any] = [batch.id, held, part.events, applied.seq, ttl_ms, span.last, int(unexplained)]
                aside = sorted(part.aside, key=lambda position: entries[position].seq or 0)
                args += (leaving, _TAU_MS, span.first, len(part.rows), len(aside))
                args += [batch.messages[position] for position in aside]
                args.append(len(part.touched))
                args += [word for row, table in part.touched.items() for word in (table, row)]
                args.append(_pack(list(chain.from_iterable(part.rows.values()))))
                keys = shard_keys + [names.overlay + row for row in part.rows]
                if named:
                    keys += [names.row + row for row in part.rows]
                self._scripts["acknowledge"](keys=keys, args=args, client=pipe)
                held -= part.events
            with translated():
                replies: list[int] = pipe.execute()
            return replies

        todo = list(parts(entries, applied))
        replies = settle(todo, named=batch.cached >= span.first)
        if _NAMES_WANTED in replies:  # a row was looked up since the batch was claimed
            replies = settle(todo[replies.index(_NAMES_WANTED) :], named=True)
        return replies[-1] == 0

    def fail(
        self,
        batch: Claimed,
        error: str,
        rest_seconds: float,
        kind: FailureKind = FailureKind.PLAIN,
        *,
        begun: bool = False,
    ) -> None:
        """See `pipeline.ports.Buffer.fail`."""
        names = self._keys.shards[batch.shard]
        args = [batch.id, round(rest_seconds * 1000), error, batch.owner, kind, int(begun)]
        self._run("fail", [names.state, names.lease], args)

    def begin(self, batch: Claimed, *, again: bool = False) -> bool:
        """See `pipeline.ports.Buffer.begin`."""
        return bool(self._run("begin", [self._keys.shards[batch.shard].state], [batch.id, int(not again)]))

    def cut(self, batch: Claimed, keep: int, passed: int, patience_seconds: float) -> Cut:
        """See `pipeline.ports.Buffer.cut`."""
        names = self._keys.shards[batch.shard]
        keys = [names.events, names.batch, names.state, names.resumed, names.lease]
        args = [batch.id, str(uuid.uuid4()), keep, round(patience_seconds * 1000), passed]
        return Cut(self._run("cut", keys, args).decode())

    def halve(self, batch: Claimed, *, suspected: bool) -> bool:
        """See `pipeline.ports.Buffer.halve`."""
        names = self._keys.shards[batch.shard]
        args = [batch.id, str(uuid.uuid4()), int(suspected)]
        kept: int = self._run("halve", [names.events, names.batch, names.state, names.resumed], args)
        return kept > 0

    def held(self, batch: Claimed, rows: Collection[str]) -> frozenset[str]:
        """See `pipeline.ports.Buffer.held`."""
        names = list(rows)
        pipe = self._redis.pipeline(transaction=False)
        for start in range(0, len(names), _ROWS_PER_QUESTION):
            pipe.smismember(self._keys.shards[batch.shard].held, names[start : start + _ROWS_PER_QUESTION])
        with translated():
            answers = [held for reply in pipe.execute() for held in reply]
        return frozenset(row for row, held in zip(names, answers, strict=True) if held)

    def pause(self, shard: int, table: PausedTable, batch: Claimed | None = None) -> None:
        """See `pipeline.ports.Buffer.pause`."""
        names = self._keys.shards[shard]
        why = msgspec.json.encode(Why(table.error, table.sample, table.probes, table.waits))
        args = [field_of(table.table, table.column), round(table.seconds * 1000), why, batch.id if batch else ""]
        self._run("pause", [names.state, names.paused], args)

    def resume(self, shard: int, table: PausedTable) -> bool:
        """See `pipeline.ports.Buffer.resume`."""
        names = self._keys.shards[shard]
        keys = [names.state, names.paused, names.batch, names.resumed, names.probed]
        remember_ms = max(_PROBED_MS, round(_CAPS * self._config.retry.cap_seconds * 1000))
        return bool(self._run("resume", keys, [field_of(table.table, table.column), table.probes, remember_ms]))

    def probed(self, shard: int, table: str, column: str | None = None) -> int:
        """See `pipeline.ports.Buffer.probed`."""
        with translated():
            return int(self._redis.hget(self._keys.shards[shard].probed, field_of(table, column)) or 0)

    def release(self, shard: int, owner: str) -> None:
        """See `pipeline.ports.Buffer.release`."""
        self._run("release", [self._keys.shards[shard].lease], [owner])

    def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        self._check_topology()
        with translated():
            return self._scripts[name](keys=keys, args=args)

    def want(self, shards: Sequence[int]) -> list[int]:
        """See `pipeline.ports.Buffer.want`."""
        pipe = self._redis.pipeline(transaction=False)
        script = self._scripts["want"]
        for shard in shards:
            script(keys=[self._keys.shards[shard].state], args=[WANTED_AGAIN_MS], client=pipe)
        self._check_topology()
        with translated():
            replies: list[int] = pipe.execute()
        return [shard for shard, wanted in zip(shards, replies, strict=True) if wanted]

    def wake(self, shards: Sequence[int]) -> None:
        """See `pipeline.ports.Buffer.wake`."""
        pipe = self._redis.pipeline(transaction=False)
        for shard in shards:
            self._scripts["wake"](keys=[self._keys.shards[shard].state], client=pipe)
        self._check_topology()
        with translated():
            pipe.execute()

    # --- looking

    def states(self) -> list[ShardState]:
        """See `pipeline.ports.Buffer.states`."""
        pipe = self._redis.pipeline(transaction=False)
        for names in self._keys.shards:
            pipe.llen(names.events)
            pipe.llen(names.batch)
            pipe.lindex(names.batch, -1)
            pipe.lindex(names.events, -1)
            pipe.hgetall(names.state)
            pipe.exists(names.lease)
            pipe.llen(names.parked)
            pipe.llen(names.resumed)
            pipe.lindex(names.parked, -1)
            pipe.lindex(names.resumed, -1)
            pipe.hgetall(names.paused)
        self._check_topology()
        with translated():
            replies = pipe.execute()
        size = len(replies) // self._config.shards
        return [shard_state(shard, replies[size * shard :][:size]) for shard in range(self._config.shards)]

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._redis.close()
