"""Cached rows in Redis, as a read sees them. What writes and acknowledgements do to them is in their scripts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final

from redis.commands.core import Script
from redis.exceptions import NoScriptError, ResponseError

from pipeline.buffer.connection import connect, life_of, translated
from pipeline.buffer.keys import Keys
from pipeline.config import Config
from pipeline.errors import BufferUnavailable
from pipeline.reading import Fields, Filling, Missed, Place, Ticket

__all__ = ["RedisRows"]

_TICKET_MS: Final = 2_000
"""A reader that has not installed its row by then is taken for dead, and another one may try."""

Command = tuple[Any, ...]


class RedisRows:
    """`pipeline.reading.RowCache` on one Redis.

    It has connections of its own, because it must know with which life of the server each of them speaks.
    """

    def __init__(self, config: Config, check_topology: Callable[[], None]) -> None:
        """``check_topology`` raises if rows and overlays may be in other shards than ``config`` says."""
        self._check_topology = check_topology
        self._redis: Any = connect(config, lives=True)
        self._keys = Keys(config.namespace, config.shards)
        self._ttl_ms = round(config.cache_ttl_seconds * 1000)
        lua = files("pipeline.buffer") / "lua"
        self._look = self._script((lua / "look.lua").read_text("utf-8"))
        self._install = self._script((lua / "install.lua").read_text("utf-8"))

    def _script(self, text: str) -> Script:
        script: Script = self._redis.register_script(text)
        return script

    def get(self, places: Sequence[Place]) -> list[Fields | None]:
        """See `pipeline.reading.RowCache.get`."""
        with translated(), self._connection() as connection:
            life = life_of(connection)
            commands = [("HGETALL", self._row(place)) for place in places]
            return [_row(_mapping(reply), life) for reply in _sound(_send(connection, commands))]

    def look(self, places: Sequence[tuple[Place, bool]]) -> list[Fields | Filling | Missed]:
        """See `pipeline.reading.RowCache.look`."""
        self._check_topology()  # here only: without a look no row is installed where nobody writes
        with translated(), self._connection() as connection:
            life = life_of(connection)
            calls: list[tuple[list[str], list[Any]]] = []
            tickets = [Ticket(f"?{uuid.uuid4().hex}" if wanted else "", life) for _, wanted in places]
            for (place, _), ticket in zip(places, tickets, strict=True):
                shard = self._keys.shards[place.shard]
                calls.append(([self._row(place), self._overlay(place), shard.state], [life, ticket.token, _TICKET_MS]))
            replies = _run(connection, self._look, calls)
        return [_looked(reply, ticket) for reply, ticket in zip(replies, tickets, strict=True)]

    def install(self, place: Place, ticket: Ticket, row: Mapping[str, bytes], *, fragile: bool) -> bool:
        """See `pipeline.reading.RowCache.install`."""
        fields = [part for item in row.items() for part in item]
        return self._settle(place, ticket, [ticket.life + ("!" if fragile else ""), self._ttl_ms, *fields])

    def decline(self, place: Place, ticket: Ticket, *, seconds: float) -> None:
        """See `pipeline.reading.RowCache.decline`."""
        self._settle(place, ticket, ["-" if seconds else "", round(seconds * 1000)])

    def _settle(self, place: Place, ticket: Ticket, args: list[Any]) -> bool:
        with translated(), self._connection() as connection:
            if life_of(connection) != ticket.life:  # what the row was made of may be lost
                return False
            call = ([self._row(place), self._overlay(place)], [ticket.token, *args])
            return bool(_run(connection, self._install, [call])[0])

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._redis.close()

    def _row(self, place: Place) -> str:
        return f"{self._keys.shards[place.shard].row}{place.table}:{place.identity}"

    def _overlay(self, place: Place) -> str:
        return f"{self._keys.shards[place.shard].overlay}{place.table}:{place.identity}"

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """One connection: its answers are of one life of the server."""
        pool = self._redis.connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # another one must not get our answers
            raise
        finally:
            pool.release(connection)


def _send(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """The answers to ``commands``, sent in one go; errors of Redis among them as values."""
    connection.send_packed_command(connection.pack_commands(commands))
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _sound(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def _run(connection: Any, script: Script, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
    commands: list[Command] = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
    replies = _send(connection, commands)
    if isinstance(replies[0], NoScriptError):  # then none of them ran
        replies = _send(connection, [("SCRIPT LOAD", script.script), *commands])[1:]
    return _sound(replies)


def _mapping(reply: Any) -> dict[bytes, bytes]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def _row(fields: dict[bytes, bytes], life: str) -> Fields | None:
    tag = fields.pop(b"", b"").decode()
    return fields if life and tag.removesuffix("!") == life else None


def _looked(reply: Any, ticket: Ticket) -> Fields | Filling | Missed:
    match reply:
        case [b"row", *fields]:
            row = _row(_mapping(fields), ticket.life)
            if row is not None:
                return row
        case [b"filling"]:
            return Filling()
        case [b"missed", given, seq, *overlay]:
            return Missed(int(seq), overlay, ticket if given else None)
        case _:
            pass
    raise BufferUnavailable(f"unexpected reply of the look script: {reply!r:.200}")
