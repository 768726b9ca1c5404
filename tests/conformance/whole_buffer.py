"""Redis as the suites of its ports see it: both halves of the buffer and the cached rows, with methods that block."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pipeline.buffer.redis import RedisBuffer, connect
from pipeline.buffer.rows import RedisRows
from pipeline.buffer.topology import Topology, check_topology
from pipeline.buffer.writing import RedisIntake
from pipeline.config import Config, Durability
from pipeline.errors import PipelineError
from pipeline.ports import Encoded, Session, Written
from pipeline.reading import Fields, Filling, Missed, Place, Ticket
from tests.driving import BLOCKING, Drive, Way

Chunks = Sequence[tuple[int, Sequence[Encoded]]]
Outcomes = list[list[Written] | PipelineError]
T = TypeVar("T")


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


class BlockingSession:
    """`pipeline.ports.Session`."""

    def __init__(self, session: Session, intake: RedisIntake, drive: Drive) -> None:
        self._session = session
        self._intake = intake
        self._drive = drive

    def write_chunks(self, chunks: Chunks) -> Outcomes:
        return self._drive(self._session.write_chunks([self._intake.chunk(*chunk) for chunk in chunks]))

    def settle(self, durability: Durability) -> str | None:
        return self._drive(self._session.settle(durability))


class WholeBuffer(RedisBuffer):
    """`pipeline.ports.Buffer` and `pipeline.ports.EventBuffer` of one process."""

    def __init__(self, config: Config, way: Way = BLOCKING) -> None:
        self._drive = way.drive
        self._wire = wire = way.wire(config)
        topology = Topology(config)
        super().__init__(connect(config), config, lambda: way.drive(check_topology(wire, topology)))
        self._intake = RedisIntake(wire, topology, config, way.sleep)

    def write(self, shard: int, events: Sequence[Encoded]) -> list[Written]:
        return self._drive(self._intake.write(shard, events))

    def write_chunks(self, chunks: Chunks) -> Outcomes:
        return self._drive(self._intake.write_chunks([self._intake.chunk(*chunk) for chunk in chunks]))

    def write_durably(
        self, shard: int, events: Sequence[Encoded], durability: Durability
    ) -> tuple[list[Written], str | None]:
        return self._drive(self._intake.write_durably(shard, events, durability))

    @contextmanager
    def session(self) -> Iterator[BlockingSession]:
        opening = self._intake.session()
        session = self._drive(_awaited(opening.__aenter__()))
        try:
            yield BlockingSession(session, self._intake, self._drive)
        finally:
            self._drive(_awaited(opening.__aexit__(*sys.exc_info())))

    def hand_over(self, shard: int, message: bytes, mark: str) -> None:
        self._drive(self._intake.hand_over(shard, message, mark))

    def close(self) -> None:
        super().close()
        self._drive(self._wire.close())


class BlockingRows:
    """`pipeline.reading.RowCache` of one process."""

    def __init__(self, config: Config, way: Way = BLOCKING) -> None:
        self._drive = way.drive
        self._wire = way.wire(config)
        self._rows = RedisRows(self._wire, Topology(config), config)

    def get(self, places: Sequence[Place]) -> list[Fields | None]:
        return self._drive(self._rows.get(places))

    def look(self, places: Sequence[tuple[Place, bool]]) -> list[Fields | Filling | Missed]:
        return self._drive(self._rows.look(places))

    def install(self, place: Place, ticket: Ticket, row: Mapping[str, bytes], *, fragile: bool) -> bool:
        return self._drive(self._rows.install(place, ticket, row, fragile=fragile))

    def decline(self, place: Place, ticket: Ticket, *, seconds: float) -> None:
        self._drive(self._rows.decline(place, ticket, seconds=seconds))

    def close(self) -> None:
        self._drive(self._wire.close())
