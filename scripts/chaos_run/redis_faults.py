"""What can happen to Redis and the network before it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from redis.exceptions import RedisError

from scripts.chaos_run.journal import now
from scripts.chaos_run.lanes import Turn
from scripts.chaos_run.network_faults import NetworkFaults
from scripts.chaos_run.world import World

__all__ = ["REDIS_FAULTS", "RedisFaults"]

UNWRITTEN_SECONDS: Final = 3.0
"""With ``appendfsync everysec`` a server whose fsync is slow answers up to two seconds before it writes (Valkey,
flushAppendOnlyFile). So SIGKILL may take that much; and a copy of the file may be that much older than it seems."""

AOF: Final = "appendonlydir"


class RedisFaults(NetworkFaults):
    """Each method is one fault, from begin to end."""

    def __init__(self, world: World) -> None:
        super().__init__(world.redis_proxy, slowest_seconds=0.12)
        self._world = world
        self._server = world.valkey

    def killed(self, turn: Turn) -> None:
        """SIGKILL; restarted from its append-only file."""
        began = now()
        self._server.kill()
        turn.forgot(began - UNWRITTEN_SECONDS, now(), disk=False)
        turn.last(0.0, 1.5)
        self._server.start()

    def restarted(self, turn: Turn) -> None:
        """Shut down in order and started again: nothing is forgotten."""
        self._server.stop()
        turn.last(0.0, 1.0)
        self._server.start()

    def back_in_time(self, turn: Turn) -> None:
        """Killed, and restarted from an older copy of its append-only file."""
        since = now() - UNWRITTEN_SECONDS
        copy = self._server.directory / "older"
        shutil.copytree(self._server.directory / AOF, copy)
        turn.note(copied=now())
        turn.last(0.3, 3.0)
        self._server.kill()
        turn.forgot(since, now(), disk=True)
        shutil.rmtree(self._server.directory / AOF)
        copy.rename(self._server.directory / AOF)
        self._server.start()

    def full(self, turn: Turn) -> None:
        """Out of memory: commands that could write are refused."""
        with self._world.redis() as client:
            client.config_set("maxmemory", 1_000_000)
            turn.last(0.3, 2.0)
            client.config_set("maxmemory", 0)

    def scripts_lost(self, turn: Turn) -> None:
        """Redis forgets the scripts that it knew, as at a failover."""
        with self._world.redis() as client:
            for _ in range(turn.random.randint(1, 5)):
                client.script_flush()
                turn.last(0.05, 0.3)

    def aof_rewritten(self, turn: Turn) -> None:
        """The append-only file is made new."""
        with self._world.redis() as client, suppress(RedisError):
            client.bgrewriteaof()
        turn.last(0.1, 0.5)


REDIS_FAULTS: Final[Mapping[str, Callable[[RedisFaults, Turn], None]]] = {
    "redis_killed": RedisFaults.killed,
    "redis_restarted": RedisFaults.restarted,
    "redis_back_in_time": RedisFaults.back_in_time,
    "redis_cut": RedisFaults.cut,
    "redis_connections_broken": RedisFaults.connections_broken,
    "redis_deaf": RedisFaults.deaf,
    "redis_slow": RedisFaults.slow,
    "redis_full": RedisFaults.full,
    "redis_scripts_lost": RedisFaults.scripts_lost,
    "redis_aof_rewritten": RedisFaults.aof_rewritten,
}
"""By name."""
