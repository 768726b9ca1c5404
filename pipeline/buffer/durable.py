"""Writes that are answered when Redis vouches for them: one connection carries them, and is asked.

WAIT and WAITAOF speak of what their own connection wrote before them, so everything here happens on one `Line`.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError

from pipeline.buffer.connection import translated
from pipeline.config import Config, Durability
from pipeline.errors import PipelineError
from pipeline.ports import Encoded, Written

__all__ = ["Command", "Line", "Send", "Session", "line_of"]

Command = tuple[Any, ...]
Send = Callable[[Sequence[Command]], Sequence[Any]]
WriteChunks = Callable[[Sequence[tuple[int, Sequence[Encoded]]], Send], list[list[Written] | PipelineError]]

_POLICY: Final = ("CONFIG", "GET", "appendfsync")
_TRUSTED: Final = 8  # the major version of Redis from which on WAITAOF waits; Valkey says that it is Redis 7
_DUE_SECONDS: Final = 1.05  # ``everysec``, and a little for clocks that tick in milliseconds
_LOOKS: Final = 2
_POLL_SECONDS: Final = 0.02


class Line:
    """One connection, whose answers are taken one by one. What is still owed at the end closes it."""

    def __init__(self, connection: Any, config: Config) -> None:
        self._connection = connection
        self._patience = config.redis_timeout_seconds
        self._seconds = config.durability_timeout_seconds
        self._until = 0.0
        self._broken: str | None = None
        self.owed = 0

    def post(self, commands: Sequence[Command]) -> None:
        """Send ``commands`` in one go; raises `RedisError`."""
        self.owed += len(commands)  # before it is true: an interrupt may come at any instruction
        try:
            self._connection.send_packed_command(self._connection.pack_commands(commands))
        except RedisError as error:
            self._broken = str(error)
            raise

    def reply(self, seconds: float = 0) -> Any:
        """The next answer, an error of Redis as a value; ``seconds`` longer than usual. Raises `RedisError`."""
        try:
            reply = self._connection.read_response(timeout=self._patience + seconds)
        except ResponseError as error:
            reply = error
        except RedisError as error:
            self._broken = str(error)
            raise
        self.owed -= 1
        return reply

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to ``commands``, errors of Redis among them as values; raises `RedisError`."""
        self.post(commands)
        return [self.reply() for _ in commands]

    def write(self, command: Command, script: Any, durability: Durability) -> Any:
        """Send the write ``command`` and the question behind it; the answer to the first. Raises `RedisError`."""
        question = self.question(durability)
        self.post([command, *question])
        reply = self.reply()
        if isinstance(reply, NoScriptError):
            self._connection.disconnect()  # the question waits for what was there before; the next `post` connects
            self.owed = 0
            self.post([("SCRIPT LOAD", script), command, *question])
            self.reply()
            reply = self.reply()
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def question(self, durability: Durability) -> list[Command]:
        """What is sent behind the writes; from now on the time counts."""
        self._until = time.monotonic() + self._seconds
        milliseconds = max(1, ceil(self._seconds * 1000))  # 0 would be for ever
        if durability == "replica":
            return [("WAIT", 1, milliseconds)]
        return [("WAITAOF", 1, 0, milliseconds), _POLICY]

    def answer(self, durability: Durability) -> str | None:
        """Wait for the answer to `question`; ``None`` if it is yes, else what is missing."""
        if self._broken is not None:
            return f"the connection broke, and with it went who could tell: {self._broken}"
        try:
            reached = self.reply(self._seconds)
            policy = self.reply() if durability == "disk" else None
            name = "WAITAOF" if durability == "disk" else "WAIT"
            if isinstance(reached, ResponseError):
                return f"Redis refused {name}, which takes Redis 7.2 or Valkey, and appendonly yes: {reached}"
            if (reached[0] if durability == "disk" else reached) < 1:
                return self._late("no fsync" if durability == "disk" else "no replica had it")
            if durability == "replica" or _is_always(policy):
                return None
            return self._fsynced()
        except RedisError as error:
            return f"the connection broke before Redis answered: {error}"

    def settle(self, durability: Durability) -> str | None:
        """See `pipeline.ports.Session.settle`."""
        if self._broken is None:
            with suppress(RedisError):  # `answer` says so
                self.post(self.question(durability))
        return self.answer(durability)

    def _late(self, what: str) -> str:
        return f"{what} within {self._seconds:g} s (PIPELINE_DURABILITY_TIMEOUT)"

    def _fsynced(self) -> str | None:
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
        if int(self._info("server").get("redis_version", "0").partition(".")[0]) >= _TRUSTED:
            return None
        moved = None
        due = 0.0
        idle = 0
        while idle < _LOOKS:
            asked = time.monotonic()
            now = self._info("persistence")
            if now.get("aof_last_write_status") != "ok":
                return "Redis cannot write its append-only file (INFO persistence: aof_last_write_status)"
            moves = now.get("aof_delayed_fsync"), now.get("aof_rewrites"), now.get("aof_rewrite_in_progress")
            if moves != moved:
                moved, due = moves, time.monotonic() + _DUE_SECONDS
            if max(asked, due) > self._until:
                return self._late("no fsync")
            idle = idle + 1 if asked >= due and now.get("aof_pending_bio_fsync") == "0" else 0
            time.sleep(max(_POLL_SECONDS, due - time.monotonic()))
        return None

    def _info(self, section: str) -> Mapping[str, str]:
        (reply,) = self.send([("INFO", section)])
        if isinstance(reply, ResponseError):
            raise reply
        return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


class Session:
    """`pipeline.ports.Session` on one `Line`."""

    def __init__(self, line: Line, write_chunks: WriteChunks) -> None:
        self._line = line
        self._write_chunks = write_chunks

    def write_chunks(self, chunks: Sequence[tuple[int, Sequence[Encoded]]]) -> list[list[Written] | PipelineError]:
        """See `pipeline.ports.Buffer.write_chunks`."""
        with translated():
            return self._write_chunks(chunks, self._line.send)

    def settle(self, durability: Durability) -> str | None:
        """See `pipeline.ports.Session.settle`."""
        return self._line.settle(durability)


@contextmanager
def line_of(pool: Any, config: Config) -> Iterator[Line]:
    """A connection out of ``pool``, for the time of the ``with``; raises `RedisError`."""
    connection = pool.get_connection()
    line = Line(connection, config)
    try:
        yield line
    finally:
        if line.owed:  # another one must not get our answers
            connection.disconnect()
        pool.release(connection)


def _is_always(policy: Any) -> bool:
    if isinstance(policy, ResponseError):  # CONFIG is forbidden: nobody knows
        return False
    return b"always" in (policy.values() if isinstance(policy, Mapping) else policy)
