"""What the calls of an application are made of, for `pipeline.Pipeline` and for `pipeline.AsyncPipeline`."""

from __future__ import annotations

import secrets
import time
from typing import Final

from pipeline.buffer.rows import RedisRows
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Wire
from pipeline.buffer.writing import RedisIntake
from pipeline.config import Config
from pipeline.core.change import event_id
from pipeline.driving import Sleep
from pipeline.reader import Reader
from pipeline.store.reader import PostgresRows
from pipeline.store.session import SessionSource
from pipeline.store.through import PostgresThrough
from pipeline.telemetry import Probe
from pipeline.through import FlushAside, Through
from pipeline.writer import Writer

__all__ = ["Parts", "new_event_id"]

_RANDOM_BITS: Final = 74  # of a UUIDv7


def new_event_id() -> str:
    """A UUIDv7."""
    return event_id(time.time_ns() // 1_000_000, secrets.randbits(_RANDOM_BITS))


class Parts:
    """What an application's calls are made of, whatever its input and output wait by."""

    def __init__(
        self,
        config: Config,
        wire: Wire,
        topology: Topology,
        sessions: SessionSource,
        *,
        sleep: Sleep,
        flush: FlushAside,
        probe: Probe,
    ) -> None:
        self.intake = RedisIntake(wire, topology, config, sleep)
        self.writer = Writer(self.intake, config, new_event_id, probe)
        rows = RedisRows(wire, topology, config)
        store = PostgresRows(sessions, config, time.monotonic)
        self.reader = Reader(rows, store, config, time.monotonic, sleep, probe=probe)
        turns = PostgresThrough(sessions, config)
        self.through = Through(rows, turns, flush, config, time.monotonic, sleep, probe=probe)
