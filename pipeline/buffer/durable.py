"""Writes that are answered when Redis vouches for them: one connection carries them, and is asked.

WAIT and WAITAOF speak of what their own connection wrote before them, so everything here happens on one
`pipeline.buffer.wire.Line`.

- ``"disk"`` is ``WAITAOF 1 0``: the server's own append-only file has been fsynced. It is answered at once with
  ``appendfsync always``, at the next fsync with ``everysec``, never with ``no``, and with an error without AOF. Some
  servers answer before the fsync: see `_fsynced`.
- ``"replica"`` is ``WAIT 1``: a replica has received it. Not ``WAITAOF 0 1``, for three reasons. What a replica is for
  is that the primary may be lost, and then a copy in its memory is what is needed. A replica without AOF (as managed
  services run them) would never answer. And WAIT is answered after a round trip to the replica, where the other takes
  up to a second; all that it adds is that primary and replica may lose power in the same second. Neither helps when
  the primary restarts with an older state *before* a failover: its replica then follows it back. That is what
  ``"disk"`` is for. (Sources: the pages WAIT and WAITAOF of redis.io and valkey.io; and neither makes Redis a strongly
  consistent store, as they say: a failover may promote another replica than the one that answered.)

On a cluster a connection vouches for its own node only, so there one line per node would have to be asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from math import ceil
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from pipeline.buffer.wire import Command, Line
from pipeline.config import Config, Durability
from pipeline.driving import Sleep

__all__ = ["Question"]

_POLICY: Final = ("CONFIG", "GET", "appendfsync")
_TRUSTED: Final = 8  # the major version of Redis from which on WAITAOF waits; Valkey says that it is Redis 7
_DUE_SECONDS: Final = 1.05  # ``everysec``, and a little for clocks that tick in milliseconds
_LOOKS: Final = 2
_POLL_SECONDS: Final = 0.02


class Question:
    """Asks one line how durable everything is that went over it before."""

    def __init__(self, line: Line, config: Config, durability: Durability, sleep: Sleep) -> None:
        self._line = line
        self._durability = durability
        self._sleep = sleep
        self._seconds = config.durability_timeout_seconds
        self._until = 0.0

    def commands(self) -> list[Command]:
        """What is sent behind the writes; from now on the time counts."""
        self._until = time.monotonic() + self._seconds
        milliseconds = max(1, ceil(self._seconds * 1000))  # 0 would be for ever
        if self._durability == "replica":
            return [("WAIT", 1, milliseconds)]
        return [("WAITAOF", 1, 0, milliseconds), _POLICY]

    async def answer(self) -> str | None:
        """Wait for the answer to `commands`; ``None`` if it is yes, else what is missing."""
        line, to_disk = self._line, self._durability == "disk"
        if line.broken is not None:
            return f"the connection broke, and with it went who could tell: {line.broken}"
        try:
            reached = await line.reply(self._seconds)
            policy = await line.reply() if to_disk else None
            name = "WAITAOF" if to_disk else "WAIT"
            if isinstance(reached, ResponseError):
                return f"Redis refused {name}, which takes Redis 7.2 or Valkey, and appendonly yes: {reached}"
            if (reached[0] if to_disk else reached) < 1:
                return self._late("no fsync" if to_disk else "no replica had it")
            if not to_disk or _is_always(policy):
                return None
            return await self._fsynced()
        except RedisError as error:
            return f"the connection broke before Redis answered: {error}"

    async def ask(self) -> str | None:
        """Send `commands`, and wait for the answer."""
        if self._line.broken is None:
            with suppress(RedisError):  # `answer` says so
                await self._line.post(self.commands())
        return await self.answer()

    def _late(self, what: str) -> str:
        return f"{what} within {self._seconds:g} s (PIPELINE_DURABILITY_TIMEOUT)"

    async def _fsynced(self) -> str | None:
        """Wait until an fsync has ended that began after now: the word of WAITAOF alone is not enough.

        With ``appendfsync everysec``, Redis 7.2 to 7.4 and Valkey (9.1.2 at least) take everything for fsynced in
        every turn of their loop in which nothing is to be written and no fsync is due (redis/redis#13793, mended in
        Redis 8). So WAITAOF answers up to a second too early: seen with strace, and a power cut then loses the write.

        What is relied on instead: an fsync starts in the first turn in which none is running and the last one started
        at least a second ago, after all that was accepted has been written to the file. So once a second has passed
        and none is running, either one has run since, or one starts in the turn of that very look; and when a second
        look finds none running, that one is over. A rewrite of the file, and a write that was forced past a slow
        fsync, move the clock without an fsync; they are counted, and then the second starts again.
        """
        if int((await self._info("server")).get("redis_version", "0").partition(".")[0]) >= _TRUSTED:
            return None
        moved = None
        due = 0.0
        idle = 0
        while idle < _LOOKS:
            asked = time.monotonic()
            now = await self._info("persistence")
            if now.get("aof_last_write_status") != "ok":
                return "Redis cannot write its append-only file (INFO persistence: aof_last_write_status)"
            moves = now.get("aof_delayed_fsync"), now.get("aof_rewrites"), now.get("aof_rewrite_in_progress")
            if moves != moved:
                moved, due = moves, time.monotonic() + _DUE_SECONDS
            if max(asked, due) > self._until:
                return self._late("no fsync")
            idle = idle + 1 if asked >= due and now.get("aof_pending_bio_fsync") == "0" else 0
            await self._sleep(max(_POLL_SECONDS, due - time.monotonic()))
        return None

    async def _info(self, section: str) -> Mapping[str, str]:
        (reply,) = await self._line.send([("INFO", section)])
        if isinstance(reply, ResponseError):
            raise reply
        return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


def _is_always(policy: Any) -> bool:
    if isinstance(policy, ResponseError):  # CONFIG is forbidden: nobody knows
        return False
    return b"always" in (policy.values() if isinstance(policy, Mapping) else policy)
