"""A network that can be disturbed: a TCP proxy in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from pipeline.contrib.embedded.ports import free_port

__all__ = ["Proxy"]

T = TypeVar("T")

CHUNK: Final = 65_536
POLL_SECONDS: Final = 0.01
QUIET_LOOKS: Final = 3


class Proxy:
    """Forwards connections to a port of 127.0.0.1, unless it is told otherwise. Thread-safe.

    * `cut`: break all connections and refuse new ones.
    * `deafen`: take everything and pass on nothing, or nothing of what the server answers.
    * `slow`: hold every piece for some time.
    * `heal`: none of that. What was held back meanwhile is passed on.
    """

    def __init__(self, target: int) -> None:
        self.port: Final = free_port()
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay = 0.0
        self._requests = asyncio.Event()
        self._replies = asyncio.Event()

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()
        self.heal()

    def stop(self) -> None:
        """Break everything."""
        if self._thread.is_alive():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        self._do(self._refuse())
        self.break_connections()

    def break_connections(self) -> None:
        """Break those that there are."""
        self._do(self._abort())

    def deafen(self, *, replies_only: bool) -> None:
        """Take everything, and pass on nothing; or only what goes to the server."""
        self._do(self._close_gates(replies_only=replies_only))

    def slow(self, seconds: float) -> None:
        """Hold every piece that long."""
        self._delay = seconds

    def heal(self) -> None:
        """Forward everything at once."""
        self._delay = 0.0
        self._do(self._open())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    # --- inside of the loop

    async def _open(self) -> None:
        self._requests.set()
        self._replies.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close_gates(self, *, replies_only: bool) -> None:
        self._replies.clear()
        if not replies_only:
            self._requests.clear()

    async def _end(self) -> None:
        await self._refuse()
        self._requests.set()
        self._replies.set()
        quiet = 0
        while quiet < QUIET_LOOKS:  # a connection that was just accepted has no task yet
            quiet = 0 if len(asyncio.all_tasks()) > 1 else quiet + 1
            await self._abort()
            await asyncio.sleep(POLL_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(server_writer)
                try:
                    await asyncio.gather(
                        self._pump(reader, server_writer, self._requests),
                        self._pump(server_reader, writer, self._replies),
                    )
                finally:
                    await self._forget(server_writer)
        finally:
            await self._forget(writer)

    async def _forget(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
        self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        """Raises OSError if the connection breaks; then the other direction ends, too."""
        while data := await reader.read(CHUNK):
            await gate.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
