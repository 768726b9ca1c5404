"""What Redis costs without a pipeline, to be measured beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self, cast

import redis

from pipeline.buffer.connection import translated
from pipeline.config import Config

__all__ = ["BareRedis"]

_AT_ONCE: Final = 1000
"""Keys that one step of the removal looks at: well below a millisecond for Redis."""


class BareRedis:
    """redis-py as an application uses it, on keys below ``namespace``; a context manager that removes them all.

    ``namespace`` is that of a pipeline which is only there to be measured: its keys are removed, too.
    """

    def __init__(self, config: Config) -> None:
        self._client = redis.Redis.from_url(config.redis_url)
        self._prefix = f"{config.namespace}."
        self._queue = config.namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._client:
            self._remove()

    def prepare(self) -> None:
        """Remove what a killed run has left. Raises `BufferUnavailable`."""
        self._remove()

    def _remove(self) -> None:
        with translated():
            self._client.delete(self._queue)
            cursor = 0
            while True:
                cursor, keys = cast(
                    "tuple[int, list[bytes]]",
                    self._client.scan(cursor, match=f"{self._prefix}*", count=_AT_ONCE),
                )
                if keys:
                    self._client.unlink(*keys)
                if cursor == 0:
                    return

    def name(self, number: int) -> str:
        """A key for `set`, `put_row` and `row`."""
        return f"{self._prefix}bare:{number}"

    def set(self, name: str, value: bytes) -> None:
        """The least that a write to Redis can be."""
        self._client.set(name, value)

    def put_row(self, name: str, fields: Sequence[str]) -> None:
        """A hash like a cached row: names and values in turns."""
        self._client.hset(name, items=list(fields))

    def row(self, name: str) -> None:
        """The least that a read of a cached row can be."""
        self._client.hgetall(name)

    def cpu_seconds(self) -> float:
        """CPU time that the server has used since it was started, for whomever. Raises `BufferUnavailable`."""
        with translated():
            found = cast("dict[str, float]", self._client.info("cpu"))
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

    def room_bytes(self) -> int | None:
        """What fits in until Redis evicts or refuses; ``None``: it has no limit. Raises `BufferUnavailable`."""
        with translated():
            found = cast("dict[str, int]", self._client.info("memory"))
        limit = int(found.get("maxmemory", 0))
        return limit - int(found["used_memory"]) if limit else None
