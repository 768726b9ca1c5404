"""What Redis costs without a pipeline, to be measured beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Self, cast

import redis

from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.config import Config

__all__ = ["BareRedis"]

_AT_ONCE: Final = 1000
"""Keys that one step of the removal looks at: well below a millisecond for Redis."""


class BareRedis:
    """redis-py as an application uses it, on keys below ``namespace``; a context manager that closes its connections.

    ``namespace`` is that of a pipeline which is only there to be measured, as a mark in Redis says: `remove` removes
    its keys, too. The mark is there before anything else is and is removed last, so what has none is somebody else's.
    """

    def __init__(self, config: Config) -> None:
        self._client = redis.Redis.from_url(config.redis_url)
        self._prefix = f"{config.namespace}."
        self._queues = Keys(config.namespace, 1).ingress
        self._mark = f"{self._prefix}made-by-pipeline-bench"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def marked(self) -> bool:
        """Whether what is there was left by a run that was killed. Raises `BufferUnavailable`."""
        with translated():
            return bool(self._client.exists(self._mark))

    def in_use(self) -> bool:
        """Whether there is anything, but for the mark. Raises `BufferUnavailable`."""
        with translated():
            return any(self._keys())

    def mark(self) -> bool:
        """Say that the namespace is ours; ``False``: somebody was quicker. Raises `BufferUnavailable`."""
        with translated():
            return bool(self._client.set(self._mark, "", nx=True))

    def unmark(self) -> None:
        """The last thing to do, when nothing is left here and in PostgreSQL. Raises `BufferUnavailable`."""
        with translated():
            self._client.delete(self._mark)

    def remove(self) -> None:
        """Remove everything but the mark. Raises `BufferUnavailable`."""
        with translated():
            for keys in self._keys():
                if keys:
                    self._client.unlink(*keys)

    def _keys(self) -> Iterator[list[str | bytes]]:
        """The keys of the namespace, some at a time, maybe none."""
        yield [queue for queue in self._queues if self._client.exists(queue)]
        cursor = 0
        while True:
            cursor, keys = cast(
                "tuple[int, list[bytes]]",
                self._client.scan(cursor, match=f"{self._prefix}*", count=_AT_ONCE),
            )
            yield [key for key in keys if key != self._mark.encode()]
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
