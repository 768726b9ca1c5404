"""Connections to Redis, and its driver's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.connection import HiredisRespSerializer
from redis.exceptions import RedisError

from pipeline.config import Config
from pipeline.errors import BufferUnavailable, InvalidSetting

__all__ = ["connect", "translated"]

_CONNECTIONS: Final = 10_000
"""Most at once. Every thread that writes has its own, and keeps it while it waits; redis-py would stop at 100."""


class _Packer(HiredisRespSerializer):
    """Packs commands without numbers in them.

    ``hiredis.pack_command`` (3.5.0) asks Python for the text of a number, which lets signal handlers run; when one
    raises (Ctrl-C, a soft time limit of Celery, an alarm), it crashes the process.
    """

    def pack(self, *args: Any) -> list[bytes]:
        """The command as the bytes that go to Redis."""
        words: list[Any] = [b"%d" % arg if type(arg) is int else arg for arg in args]
        packed: list[bytes] = super().pack(*words)
        return packed


def connect(config: Config) -> redis.Redis:
    """A lazy client; safe to share between threads, and across a fork (its pool notices the new process id).

    It never repeats a command by itself: a repeated write whose first answer was lost would be a second event.

    Raises:
        InvalidSetting: the URL cannot be read.
    """
    try:
        return redis.Redis.from_url(
            config.redis_url,
            retry=None,
            retry_on_error=[],
            socket_timeout=config.redis_timeout_seconds,
            socket_connect_timeout=config.redis_timeout_seconds,
            health_check_interval=0,
            max_connections=_CONNECTIONS,
            command_packer=_Packer(),
        )
    except (ValueError, TypeError):  # its message may quote a password
        raise InvalidSetting(
            "PIPELINE_REDIS_URL",
            "not a URL of Redis; write redis://user:password@host:6379/0 "
            "(other characters than letters and digits in the password as %XX)",
        ) from None


@contextmanager
def translated() -> Iterator[None]:
    """Errors of redis-py are `BufferUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise BufferUnavailable(f"{type(error).__name__}: {error}") from error
