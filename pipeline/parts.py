"""What an application's calls are made of; the same for threads and for event loops."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pipeline.barrier import Barrier
from pipeline.buffer.lanes import RedisLanes
from pipeline.buffer.rows import RedisRows
from pipeline.buffer.topology import Topology
from pipeline.buffer.wire import Wire
from pipeline.buffer.writing import RedisIntake
from pipeline.config import Config
from pipeline.core.change import event_id
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

_RANDOM_BITS: Final = 74  # of a UUIDv7

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
        self.writer = Writer(self.intake, config, _new_event_id, patience, stamp(receipt, self.waiting), probe)
        cache = RedisRows(wire, topology, config)
        self.rows = PostgresRows(sessions, config, time.monotonic)
        self.reader = Reader(cache, self.rows, config, time.monotonic, sleep, probe=probe)
        turns = PostgresThrough(sessions, config)
        self.through = Through(cache, turns, flush, config, time.monotonic, sleep, probe=probe)


def _new_event_id() -> str:
    return event_id(time.time_ns() // 1_000_000, secrets.randbits(_RANDOM_BITS))
