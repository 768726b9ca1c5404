"""What an application's calls are made of; the same for threads and for event loops."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.barrier import Barrier
from pipeline.buffer.lanes import RedisLanes
from pipeline.buffer.rows import RedisRows
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Wire
from pipeline.buffer.writing import RedisIntake
from pipeline.config import Config
from pipeline.core.change import RANDOM_BYTES, event_ids
from pipeline.driving import Sleep
from pipeline.patience import Patience
from pipeline.reader import Reader
from pipeline.receipts import Slip, stamp
from pipeline.store.outcomes import PostgresOutcomes
from pipeline.store.reader import PostgresRows
from pipeline.store.session import SessionSource
from pipeline.store.through import PostgresThrough
from pipeline.telemetry import Probe
from pipeline.through import FlushAside, Through
from pipeline.vigil import Bell
from pipeline.waiting import Waiting
from pipeline.writer import Writer

__all__ = ["Parts"]

R = TypeVar("R", bound=Slip)


class Parts(Generic[R]):
    """What an application's calls are made of, whatever its input and output wait by."""

    def __init__(
        self,
        config: Config,
        wire: Wire,
        topology: Topology,
        sessions: SessionSource,
        *,
        receipt: type[R],
        bell: Callable[[], Bell],
        flush: FlushAside,
        sleep: Sleep,
        probe: Probe,
    ) -> None:
        lanes = RedisLanes(wire, topology, config)
        outcomes = PostgresOutcomes(sessions, config)
        self.waiting = Waiting(lanes, outcomes, config.shards, time.monotonic, bell, probe=probe)
        self.barrier = Barrier(lanes, f"{config.namespace}.apply_event", config.shards, time.monotonic, bell)
        self.intake = RedisIntake(wire, topology, config, sleep)
        patience = Patience(config.full_timeout_seconds, time.monotonic, random.random, sleep)
        self.writer = Writer(self.intake, config, _new_event_ids, patience, stamp(receipt, self.waiting), probe)
        cache = RedisRows(wire, topology, config)
        self.rows = PostgresRows(sessions, config, time.monotonic)
        self.reader = Reader(cache, self.rows, config, time.monotonic, sleep, probe=probe)
        turns = PostgresThrough(sessions, config)
        self.through = Through(cache, turns, flush, config, time.monotonic, sleep, probe=probe)


def _new_event_ids(count: int) -> list[str]:
    return event_ids(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES * count))
