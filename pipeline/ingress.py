"""Take the ingress queue in bulk: judge its messages, write the events among them to their shards, and settle the rest.

The messages are frozen first. Whoever dies with them leaves them to the next one, who repeats what was done; since the
id of an event is that of its message, it is accepted once. There is one at a time, and so the events of one client are
accepted in the order in which it has sent them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from pipeline.arrivals import ArrivalQueue, Arrivals
from pipeline.config import Config
from pipeline.core.claim import Busy
from pipeline.core.intake import ForCelery, Refused
from pipeline.errors import PipelineError, PipelineFull
from pipeline.ports import Encoded, EventBuffer
from pipeline.telemetry import Probe, Step, ignore
from pipeline.writer import CHUNK, Ingress

__all__ = ["BulkIngress", "Taken"]

log: Final = logging.getLogger("pipeline.ingress")

CeleryReads = Callable[[bytes | str], object]
"""See `pipeline.writer.Ingress.sort`."""

_Lanes = dict[int, list[tuple[Encoded, bytes]]]
"""Events by shard, each with the message that it came as, oldest first."""


class Taken(msgspec.Struct, frozen=True):
    """How many messages are events that were accepted, were refused, were left to Celery, and began to wait for room.

    ``error``: why it ended early.
    """

    accepted: int = 0
    refused: int = 0
    for_celery: int = 0
    waiting: int = 0
    error: str | None = None


class BulkIngress:
    """Moves messages of Celery clients from the ingress queue into the shards, thousands at a time."""

    def __init__(  # noqa: PLR0917
        self,
        queue: ArrivalQueue,
        buffer: EventBuffer,
        ingress: Ingress,
        config: Config,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        *,
        probe: Probe = ignore,
    ) -> None:
        """``clock`` counts seconds monotonically, ``now`` is the time of day."""
        self._queue = queue
        self._buffer = buffer
        self._ingress = ingress
        self._chunk = min(CHUNK, max(1, config.max_pending // config.shards))
        self._slice = min(config.flush_slice_seconds, config.flush_interval_seconds)
        self._clock = clock
        self._now = now
        self._probe = probe

    async def take(self, owner: str, celery_reads: CeleryReads) -> Taken:
        """Take messages under the name ``owner`` until nothing is left, or it is time to flush what was taken.

        Raises no `PipelineError`: the flush must go on, since that is what makes room.
        """
        total = Taken()
        try:
            async for taken in self._taken(owner, celery_reads):
                total = _sum(total, taken)
        except PipelineError as error:
            log.warning("the ingress queue cannot be taken now: %s", error)
            total = msgspec.structs.replace(total, error=str(error))
        finally:
            with suppress(PipelineError):  # also of a bug, or a stop: without a word of it this would look like a crash
                await self._queue.leave(owner)
        if total != Taken():
            log.info(
                "ingress queue: %d events accepted, %d messages refused, %d left to Celery, %d wait for room",
                total.accepted, total.refused, total.for_celery, total.waiting,
            )  # fmt: skip
        return total

    async def _taken(self, owner: str, celery_reads: CeleryReads) -> AsyncIterator[Taken]:
        """What became of each batch: of new messages, and in between of those for which there may be room now."""
        until = self._clock() + self._slice
        more = True
        while more and self._clock() < until:
            found = await self._queue.take(owner)
            more = isinstance(found, Arrivals)
            if isinstance(found, Arrivals):
                yield await self._place(found, celery_reads)
            for shard in () if isinstance(found, Busy) else sorted(found.waiting):
                waited = await self._queue.take(owner, shard)
                if isinstance(waited, Arrivals):
                    more = True
                    yield await self._place(waited, celery_reads)

    async def _place(self, arrivals: Arrivals, celery_reads: CeleryReads) -> Taken:
        lanes, for_celery, refused = await self._sorted(arrivals, celery_reads)
        # what is newer goes behind what waits; but those that have waited are in front of it
        full = {
            shard: [raw for _, raw in lanes.pop(shard)]
            for shard in arrivals.waiting & lanes.keys()
            if shard != arrivals.source
        }
        accepted = sum(map(len, lanes.values()))
        refused_by = await self._write(lanes)
        full |= refused_by
        if not await self._queue.settle(arrivals, for_celery, full):
            log.warning("messages of the ingress queue are taken again: somebody else was there, or Redis restarted")
        self._probe(Step.PLACED)
        waiting = sum(map(len, full.values()))
        return Taken(accepted - sum(map(len, refused_by.values())), refused, len(for_celery), waiting)

    async def _sorted(self, arrivals: Arrivals, celery_reads: CeleryReads) -> tuple[_Lanes, list[bytes], int]:
        """The events by their shards; messages for Celery; and how many were refused, and handed to the flush."""
        self._probe(Step.ARRIVED)
        if arrivals.suspect:
            log.error("a message of the ingress queue ends whoever takes it, and is left to Celery")
            return {}, list(arrivals.messages), 0
        now = self._now()
        lanes: _Lanes = {}
        for_celery: list[bytes] = []
        refused = 0
        for position, raw in enumerate(arrivals.messages, arrivals.dropped):
            match self._judged(raw, now, celery_reads):
                case Refused(reason):
                    log.error("a message of %d bytes is refused and becomes a dead letter, which says why", len(raw))
                    await self._ingress.bury(raw, reason, f"{arrivals.batch}-{position}")
                    self._probe(Step.REFUSED)
                    refused += 1
                case ForCelery():
                    for_celery.append(raw)
                case event:
                    lanes.setdefault(event.shard, []).append((event, raw))
        return lanes, for_celery, refused

    def _judged(self, raw: bytes, now: datetime, celery_reads: CeleryReads) -> Encoded | Refused | ForCelery:
        try:
            return self._ingress.sort(raw, now, celery_reads)
        except Exception as error:  # a bug must not hold up what is behind it, nor lose the message
            log.exception("a message cannot be read")
            return Refused(f"cannot be read: {type(error).__name__}")

    async def _write(self, lanes: _Lanes) -> dict[int, list[bytes]]:
        """Accept events, in order; the messages of those for which their shards have no room."""
        full: dict[int, list[bytes]] = {}
        for start in range(0, max(map(len, lanes.values()), default=0), self._chunk):
            chunks = [
                self._buffer.chunk(shard, [event for event, _ in part])
                for shard, lane in lanes.items()
                if shard not in full and (part := lane[start : start + self._chunk])
            ]
            for chunk, outcome in zip(chunks, await self._buffer.write_chunks(chunks), strict=True):
                if isinstance(outcome, PipelineFull):
                    full[chunk.shard] = [raw for _, raw in lanes[chunk.shard][start:]]
                elif isinstance(outcome, PipelineError):
                    raise outcome
            self._probe(Step.ADMITTED)
        return full


def _sum(one: Taken, other: Taken) -> Taken:
    return Taken(
        one.accepted + other.accepted,
        one.refused + other.refused,
        one.for_celery + other.for_celery,
        one.waiting + other.waiting,
    )
