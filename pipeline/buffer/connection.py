"""Connections to Redis, and its driver's errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from hiredis import pack_command
from redis.connection import HiredisRespSerializer
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from pipeline.config import Config
from pipeline.errors import BufferUnavailable, InvalidSetting

__all__ = ["check_broker", "connect", "connect_async", "life_of", "packed", "translated", "unavailable"]

_REDIS: Final = frozenset({"redis", "rediss"})
_RABBITMQ: Final = frozenset({"amqp", "amqps", "pyamqp"})
_DATABASE: Final = re.compile(r"/?[0-9]*")

_CONNECTIONS: Final = 10_000
"""Most at once in a pool of redis-py, which would stop at 100. Lines (`pipeline.buffer.wire`) have no pool of its."""


def _without_numbers(words: Iterable[Any]) -> tuple[Any, ...]:
    """``hiredis.pack_command`` (3.5.0) asks Python for the text of a number, which lets signal handlers run.

    When one raises (Ctrl-C, a soft time limit of Celery, an alarm), it crashes the process.
    """
    return tuple([b"%d" % word if type(word) is int else word for word in words])


def packed(commands: Iterable[Sequence[Any] | bytes]) -> bytes:
    """``commands`` as the bytes that go to Redis. Their words are text, bytes and integers; or they are packed already.

    redis-py asks of every word more than that, and cuts the bytes into pieces: seven microseconds for a write.
    """
    return b"".join(
        [words if isinstance(words, bytes) else pack_command(_without_numbers(words)) for words in commands]
    )


class _Packer(HiredisRespSerializer):
    """Packs what redis-py itself has to say."""

    def pack(self, *args: Any) -> list[bytes]:
        words: list[bytes] = super().pack(*_without_numbers(args))
        return words


def connect(config: Config, *, lives: bool = False) -> redis.Redis:
    """A lazy client; safe to share between threads, and across a fork (its pool notices the new process id).

    It never repeats a command by itself: a repeated write whose first answer was lost would be a second event.
    ``lives``: its connections ask the server for `life_of`.

    Raises:
        InvalidSetting: the URL cannot be read.
    """
    with _readable():
        _check_redis(config.redis_url)
        return redis.Redis.from_url(
            config.redis_url,
            command_packer=_Packer(),
            redis_connect_func=_ask_for_life if lives else None,
            **_options(config),
        )


def connect_async(config: Config) -> redis.asyncio.Redis:
    """A lazy client for one event loop, whose connections ask for `life_of`; else as `connect`.

    How long it waits for Redis is for its user to say, by `asyncio.timeout`: redis-py's own would take a task for every
    command, and gives ``None`` for an answer that did not come.

    Raises:
        InvalidSetting: the URL cannot be read.
    """
    with _readable():
        _check_redis(config.redis_url)
        return redis.asyncio.Redis.from_url(
            config.redis_url,
            redis_connect_func=_ask_for_life_async,
            **{**_options(config), "socket_timeout": None},
        )


def _options(config: Config) -> dict[str, Any]:
    return {
        "retry": None,
        "retry_on_error": [],
        "socket_timeout": config.redis_timeout_seconds,
        "socket_connect_timeout": config.redis_timeout_seconds,
        "health_check_interval": 0,
        "max_connections": _CONNECTIONS,
    }


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError):  # its message may quote a password
        raise InvalidSetting(
            "PIPELINE_REDIS_URL",
            "not a URL of Redis; write redis://user:password@host:6379/0 "
            "(other characters than letters and digits in the password as %XX; the database is a number)",
        ) from None


_LIVES: Final = (("server", "run_id"), ("replication", "master_replid"))
"""Where the server says which life it is in: section and field of INFO."""


def check_broker(urls: str) -> None:
    """Refuse what Celery could not read either, or would take for something else, such as a word for a host.

    Celery separates URLs that stand in for each other by semicolons. What other brokers than RabbitMQ and Redis make
    of their URLs is their business.

    Raises:
        InvalidSetting: one of them cannot be read.
    """
    try:
        for url in map(str.strip, urls.split(";")):
            scheme, is_url, _ = url.partition("://")
            if url and not (is_url and scheme):
                raise ValueError("no URL")
            if scheme in _REDIS:
                _check_redis(url)
            if scheme in _REDIS | _RABBITMQ:
                urlsplit(url).port  # noqa: B018 - it raises
    except ValueError:  # its message may quote a password
        raise InvalidSetting(
            "PIPELINE_BROKER_URL",
            "not a URL of a broker; write amqp://user:password@host:5672/vhost or redis://user:password@host:6379/0 "
            "(other characters than letters and digits in the password as %XX; a database of Redis is a number)",
        ) from None


def _check_redis(url: str) -> None:
    """redis-py takes a database that is no number for 0, and Celery refuses it at the first message."""
    place = urlsplit(url)
    if place.scheme in _REDIS and not _DATABASE.fullmatch(unquote(place.path)):
        raise ValueError("no number")


def _ask_for_life(connection: Any) -> None:
    connection.on_connect()
    connection.life = ""
    replies = []
    for section, _ in _LIVES:
        connection.send_command("INFO", section)
        try:
            replies.append(connection.read_response())
        except ResponseError:  # forbidden: nobody knows
            return
    connection.life = _life(replies)


async def _ask_for_life_async(connection: Any) -> None:
    await connection.on_connect()
    connection.life = ""
    replies = []
    for section, _ in _LIVES:
        await connection.send_command("INFO", section)
        try:
            replies.append(await connection.read_response())
        except ResponseError:  # forbidden: nobody knows
            return
    connection.life = _life(replies)


def _life(replies: Sequence[Any]) -> str:
    found = ""
    for reply, (_, field) in zip(replies, _LIVES, strict=True):
        lines = (reply.decode() if isinstance(reply, bytes) else str(reply)).splitlines()
        found += next((line.partition(":")[2] for line in lines if line.startswith(f"{field}:")), "")
    return blake2b(found.encode(), digest_size=8).hexdigest() if found else ""


def life_of(connection: Any) -> str:
    """The life of the server that ``connection`` speaks with, ``""`` if it does not say.

    What a server holds may be older than what it held before, when it has restarted or a replica has taken over. Then
    it has another life, and every connection of the earlier one is broken.
    """
    life: str = connection.life
    return life


class translated:  # noqa: N801  # it reads as a verb; and a generator would take a microsecond of every write and read
    """Errors of redis-py are `BufferUnavailable`."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, RedisError):
            raise unavailable(error) from error


def unavailable(error: Exception) -> BufferUnavailable:
    """An error of redis-py as ours."""
    answered = isinstance(error, ResponseError | AuthenticationError | BusyLoadingError)
    return BufferUnavailable(f"{type(error).__name__}: {error}", answered)
