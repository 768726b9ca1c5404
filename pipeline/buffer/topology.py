"""What every client must agree on: it is settled in Redis by the first writer."""

from __future__ import annotations

from typing import Final

from pipeline.buffer.connection import translated
from pipeline.buffer.keys import Keys
from pipeline.buffer.wire import Command, Line, Wire, sound
from pipeline.config import Config
from pipeline.errors import TopologyMismatch

__all__ = ["FORMAT", "Topology", "check_topology", "ping"]

FORMAT: Final = "1"
"""The version of the key space and of the message format. Clients of another version are refused."""


class Topology:
    """The number of shards and the format of one pipeline, compared once with what Redis says."""

    def __init__(self, config: Config) -> None:
        self._key = Keys(config.namespace, config.shards).topology
        self._ours = {"shards": str(config.shards), "format": FORMAT}
        self.checked = False

    async def check(self, line: Line, *, create: bool = False) -> None:
        """Only a writer (``create``) settles what is not settled yet. One round trip, until that is known.

        Raises:
            TopologyMismatch: this client would write or read where nobody else does.
            RedisError: as the driver has it.
        """
        if self.checked:
            return
        look: Command = ("HMGET", self._key, *self._ours)
        (theirs,) = sound(await line.send([look]))
        if None in theirs:  # look first: a full Redis takes no command that could write
            if not create:
                return
            settle: list[Command] = [("HSETNX", self._key, field, value) for field, value in self._ours.items()]
            *_, done = sound(await line.send([("MULTI",), *settle, look, ("EXEC",)]))
            theirs = done[-1]
        for (field, value), found in zip(self._ours.items(), theirs, strict=True):
            if found.decode() != value:
                raise TopologyMismatch(field, value, found.decode())
        self.checked = True


async def check_topology(wire: Wire, topology: Topology) -> None:
    """`Topology.check` over a line of its own; raises `pipeline.errors.BufferUnavailable`, too."""
    if not topology.checked:
        with translated():
            async with wire.line() as line:
                await topology.check(line)


async def ping(wire: Wire, topology: Topology) -> None:
    """Raises `pipeline.errors.BufferUnavailable` or `pipeline.errors.TopologyMismatch` if Redis cannot be used."""
    with translated():
        async with wire.line() as line:
            sound(await line.send([("PING",)]))
            await topology.check(line)
