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
from pipeline.ports import Encoded, EventBuffer, nothing
from pipeline.supply import Supply
from pipeline.telemetry import Probe, Step, ignore
from pipeline.writer import CHUNK, Ingress, fitting

__all__ = ["BulkIngress", "Taken"]

log: Final = logging.getLogger("pipeline.ingress")

CeleryReads = Callable[[bytes | str], object]
"""See `pipeline.writer.Ingress.sort`."""

_Lane = list[tuple[Encoded, bytes]]
"""Events, each with the message that it came as, oldest first."""

_Lanes = dict[int, _Lane]
_Full = dict[int, list[bytes]]
"""Messages that have to wait, by their shards."""

_AHEAD: Final = 500
"""Messages that are judged while Redis writes those before them: so many take each of them some milliseconds."""

_TELL_SECONDS: Final = 0.2
"""How often others hear that they may flush what was taken so far: then a shard has some hundreds of events."""


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

    async def take(self, owner: str, celery_reads: CeleryReads, meanwhile: Callable[[], object] = nothing) -> Taken:
        """Take messages under the name ``owner`` until nothing is left, or it is time to flush what was taken.

        ``meanwhile`` is called every now and then: others may flush what was taken so far.

        Raises no `PipelineError`: the flush must go on, since that is what makes room.
        """
        total = Taken()
        try:
            told = self._clock()
            async for taken in self._taken(owner, celery_reads):
                total = _sum(total, taken)
                if self._clock() - told > _TELL_SECONDS:
                    meanwhile()
                    told = self._clock()
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
        """Give each of ``arrivals`` its place; the next of them are judged while Redis writes those before."""
        self._probe(Step.ARRIVED)
        now = self._now()
        supply = Supply(
            () if arrivals.suspect else arrivals.messages,
            _AHEAD,
            lambda part: [self._judged(raw, now, celery_reads) for raw in part],
        )
        for_celery: list[bytes] = []
        if arrivals.suspect:
            log.error("a message of the ingress queue ends whoever takes it, and is left to Celery")
            for_celery += arrivals.messages
        # what is newer goes behind what waits; but those that have waited are in front of it
        full: _Full = {shard: [] for shard in arrivals.waiting if shard != arrivals.source}
        position = events = refused = 0
        while verdicts := supply.take():
            lanes: _Lanes = {}
            part = arrivals.messages[position : position + len(verdicts)]
            for verdict, raw in zip(verdicts, part, strict=True):
                match verdict:
                    case Encoded():
                        lanes.setdefault(verdict.shard, []).append((verdict, raw))
                        events += 1
                    case ForCelery():
                        for_celery.append(raw)
                    case Refused(reason):
                        await self._refuse(raw, reason, f"{arrivals.batch}-{arrivals.dropped + position}")
                        refused += 1
                position += 1
            await self._write(lanes, full, supply.prepare)
        full = {shard: messages for shard, messages in full.items() if messages}
        if not await self._queue.settle(arrivals, for_celery, full):
            log.warning("messages of the ingress queue are taken again: somebody else was there, or Redis restarted")
        self._probe(Step.PLACED)
        waiting = sum(map(len, full.values()))
        return Taken(events - waiting, refused, len(for_celery), waiting)

    async def _refuse(self, raw: bytes, reason: str, delivery: str) -> None:
        log.error("a message of %d bytes is refused and becomes a dead letter, which says why", len(raw))
        await self._ingress.bury(raw, reason, delivery)
        self._probe(Step.REFUSED)

    def _judged(self, raw: bytes, now: datetime, celery_reads: CeleryReads) -> Encoded | Refused | ForCelery:
        try:
            return self._ingress.sort(raw, now, celery_reads)
        except Exception as error:  # a bug must not hold up what is behind it, nor lose the message
            log.exception("a message cannot be read")
            return Refused(f"cannot be read: {type(error).__name__}")

    async def _write(self, lanes: _Lanes, full: _Full, meanwhile: Callable[[], None]) -> None:
        """Accept events, in order; the messages of those for which their shards have no room are added to ``full``."""
        while True:
            for shard in full.keys() & lanes.keys():
                full[shard] += [raw for _, raw in lanes.pop(shard)]
            if not lanes:
                return
            heads = {shard: [event for event, _ in lane[: self._chunk]] for shard, lane in lanes.items()}
            chunks = [self._buffer.chunk(shard, head[: fitting(head)]) for shard, head in heads.items()]
            for chunk, outcome in zip(chunks, await self._buffer.write_chunks(chunks, meanwhile), strict=True):
                shard, count = chunk.shard, len(chunk.events)
                if isinstance(outcome, PipelineFull):
                    full[shard] = []
                elif isinstance(outcome, PipelineError):
                    raise outcome
                elif count == len(lanes[shard]):
                    del lanes[shard]
                else:
                    lanes[shard] = lanes[shard][count:]
            self._probe(Step.ADMITTED)


def _sum(one: Taken, other: Taken) -> Taken:
    return Taken(
        one.accepted + other.accepted,
        one.refused + other.refused,
        one.for_celery + other.for_celery,
        one.waiting + other.waiting,
    )
