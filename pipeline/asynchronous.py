"""`AsyncPipeline`: what an application does with a pipeline, for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import partial
from typing import Self

from pipeline.buffer.async_wire import AsyncWire
from pipeline.buffer.topology import Topology, ping
from pipeline.client import Client
from pipeline.config import Config
from pipeline.flush import End, FlushReport
from pipeline.parts import Parts
from pipeline.receipts import AsyncReceipt
from pipeline.store.async_session import AsyncSessions
from pipeline.telemetry import Probe, ignore
from pipeline.through import Flushed
from pipeline.vigil import AsyncBell
from pipeline.wiring import Pipeline

__all__ = ["AsyncPipeline"]


class AsyncPipeline(Client[AsyncReceipt]):
    """`pipeline.Pipeline` for the code of an application in an event loop: the same methods, to be awaited.

    One instance per process and event loop is enough, and any number of tasks may use it at once. Connections are made
    at first use. From then on it belongs to that event loop, until it is closed there; another one gets a RuntimeError.

    A task may be cancelled at any time, also by ``asyncio.timeout``. Then nobody knows whether what it was writing was
    accepted, as when a connection breaks; it was as a whole or not at all.

    To flush, to migrate and to look at dead letters is work for the service, the command line, or `pipeline.Pipeline`.

    >>> async with AsyncPipeline.from_env() as pipeline:                             # doctest: +SKIP
    ...     await pipeline.write("page_views", key={"page_id": 7}, add={"views": 1})
    AsyncReceipt(event_id='019…', shard=3, seq=1, duplicate=False, after=0, applied=False)
    """

    def __init__(self, config: Config | None = None, probe: Probe = ignore) -> None:
        """``probe`` is told every step of a call; see `pipeline.telemetry`."""
        self.config = config or Config()
        self._wire = AsyncWire(self.config)
        self._topology = Topology(self.config)
        self._sessions = AsyncSessions(self.config)
        self._service = Pipeline(self.config, probe)
        parts = Parts(
            self.config,
            self._wire,
            self._topology,
            self._sessions,
            receipt=AsyncReceipt,
            bell=AsyncBell,
            flush=self._flush_aside,
            sleep=asyncio.sleep,
            probe=probe,
        )
        super().__init__(parts, self.config)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """A pipeline with the settings in ``PIPELINE_…`` environment variables.

        Raises:
            InvalidSetting: names the variable and the problem.
        """
        return cls(Config.from_mapping(os.environ if environ is None else environ))

    async def ping(self) -> None:
        """Raise `BufferUnavailable` or `TopologyMismatch` if this pipeline cannot be used."""
        await ping(self._wire, self._topology)

    async def _flush_aside(self, shard: int, seconds: float) -> Flushed | None:
        """See `pipeline.through.FlushAside`. The flush is the workers' own, which blocks: so in a thread."""
        flush = partial(self._service.flush_shard, shard, slice_seconds=0)
        flushing = asyncio.get_running_loop().run_in_executor(None, flush)
        flushing.add_done_callback(_heard)
        done, _ = await asyncio.wait([flushing], timeout=seconds)
        if not done:
            return None
        report = flushing.result()
        return Flushed(report.why, report.end is End.SLICE)

    async def close(self) -> None:
        """Close the connections; the next use opens new ones, perhaps in another event loop.

        A task that is cancelled meanwhile need not wait, and they are closed all the same.
        """
        self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._wire.close()
        await self._sessions.close()
        await asyncio.to_thread(self._service.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _heard(flushing: asyncio.Future[FlushReport]) -> None:
    """Nobody may be there any more to hear of an error."""
    if not flushing.cancelled():
        flushing.exception()
