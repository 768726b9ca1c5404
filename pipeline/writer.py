"""Accept writes: check them, encode them, and put them into Redis in one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

import msgspec

from pipeline.config import DURABILITIES, Config, Durability, WhenFull
from pipeline.core.change import Change, TableNames, canonical_table, changes_of, check_event_id, seal, shard_of, unseal
from pipeline.core.codec import OPEN_END, Envelope, kwargs_json, malformed_kwargs, read_arguments
from pipeline.core.intake import ForCelery, Intake, Refused, fingerprint, read
from pipeline.errors import DurabilityNotReached, EventTooLarge, InvalidEvent, PipelineError, PipelineFull
from pipeline.patience import Attempts, Patience
from pipeline.ports import Encoded, EncodedChange, EventBuffer, Session, Written
from pipeline.receipts import Slip, Stamp
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["Ingress", "Writer", "told"]

R = TypeVar("R", bound=Slip)

CHUNK: Final = 250
"""Most events of one shard in one script call: it holds Redis for 1 to 2 ms."""

WRITTEN_THROUGH: Final = (
    "the table is in PIPELINE_WRITE_THROUGH_TABLES: call write_through; its changes cannot be part of a group or come "
    "from Celery, where a message may be delivered twice"
)

_to_json: Final = msgspec.json.Encoder().encode

_WriteChunks = Callable[[Sequence[tuple[int, Sequence[Encoded]]]], Awaitable[list[list[Written] | PipelineError]]]


class Writer(Generic[R]):
    """The write side. Stateless apart from its connections; safe to share between threads."""

    def __init__(  # noqa: PLR0917
        self,
        buffer: EventBuffer,
        config: Config,
        new_id: Callable[[], str],
        patience: Patience,
        stamp: Stamp[R],
        probe: Probe = ignore,
    ) -> None:
        """``new_id`` makes a fresh event id (a UUIDv7 in production), ``stamp`` a receipt."""
        self._buffer = buffer
        self._shards = config.shards
        self._chunk = min(CHUNK, config.max_pending // config.shards)
        self._max_bytes = config.max_event_bytes
        self._durability = config.durability
        self._when_full = config.when_full
        self._patience = patience
        self._tables = frozenset(map(canonical_table, config.tables))
        self._through = TableNames(config.write_through_tables)
        self._new_id = new_id
        self._stamp = stamp
        self._probe = probe
        task = f"{config.namespace}.apply_event"
        self._envelopes = [Envelope(task, f"{config.namespace}.events.{{{shard}}}") for shard in range(config.shards)]

    async def write(
        self,
        changes: Sequence[Change],
        *,
        event_id: str | None = None,
        shard_by: str | None = None,
        durability: Durability | None = None,
        when_full: WhenFull | None = None,
    ) -> R:
        """Accept one event; see `pipeline.wiring.Pipeline.write` for what it raises."""
        wanted = self._durability if durability is None else _known(durability)
        event = self.encode(changes, event_id=event_id, shard_by=shard_by)
        self._probe(Step.WRITING)
        attempts = self._attempts(when_full or self._when_full)
        receipt: R | None = None
        while receipt is None:
            try:
                receipt = await self._write(event, wanted)
            except PipelineFull as error:
                await self._pause(attempts.after([(event.shard, 1, error)]))
        self._probe(Step.WRITTEN)
        return receipt

    async def _write(self, event: Encoded, wanted: Durability) -> R:
        if wanted == "memory":
            (written,) = await self._buffer.write(event.shard, [event])
            return self._receipt(event, written)
        (written,), missing = await self._buffer.write_durably(event.shard, [event], wanted)
        receipt = self._receipt(event, written)
        if missing is not None:
            raise DurabilityNotReached(wanted, "memory", missing, [receipt])
        return receipt

    def _attempts(self, when_full: WhenFull) -> Attempts:
        return Attempts(self._patience, blocking=when_full == "block")

    async def _pause(self, seconds: float) -> None:
        self._probe(Step.BLOCKED)
        await self._patience.sleep(seconds)

    async def write_many(self, changes: Iterable[Change], *, durability: Durability | None = None) -> list[R]:
        """Accept one event per change, in chunks; each chunk is one round trip.

        Order is kept per shard; while one is full and waited for, the others go on. When something goes wrong, the
        error's ``receipts`` say what was accepted before: one entry per change that was taken from ``changes``,
        ``None`` where it was not accepted.

        All chunks are waited for together, over the one connection that carried them, also those that were accepted
        before an error. So if an accepted event is less durable than ``durability``, it is `DurabilityNotReached`.
        """
        wanted = self._durability if durability is None else _known(durability)
        receipts: list[R | None] = []
        if wanted == "memory":
            await self._send_all(changes, self._buffer.write_chunks, receipts)
        else:
            async with self._buffer.session() as session:
                try:
                    await self._send_all(changes, session.write_chunks, receipts)
                except PipelineError as error:
                    await _settle(session, wanted, error.receipts, error)
                    raise
                await _settle(session, wanted, receipts)
        return [receipt for receipt in receipts if receipt is not None]

    async def _send_all(self, changes: Iterable[Change], write_chunks: _WriteChunks, receipts: list[R | None]) -> None:
        for events in self._encoded(changes, receipts):
            receipts += await self._send(events, write_chunks, receipts)

    def _encoded(self, changes: Iterable[Change], receipts: list[R | None]) -> Iterator[list[Encoded]]:
        iterator = iter(changes)
        while chunk := list(islice(iterator, self._chunk * self._shards)):
            try:
                yield [self.encode([change]) for change in chunk]
            except PipelineError as error:
                error.receipts = [*receipts, *([None] * len(chunk))]
                raise

    async def _send(
        self, events: Sequence[Encoded], write_chunks: _WriteChunks, before: Sequence[R | None]
    ) -> list[R | None]:
        lanes: dict[int, list[int]] = {}
        for position, event in enumerate(events):
            lanes.setdefault(event.shard, []).append(position)
        receipts: list[R | None] = [None] * len(events)
        attempts = self._attempts(self._when_full)
        while lanes:
            parts = [(shard, positions[: self._chunk]) for shard, positions in lanes.items()]
            try:
                outcomes = await write_chunks([(shard, [events[i] for i in part]) for shard, part in parts])
            except PipelineError as error:  # none of them, or the connection broke and nobody knows
                error.receipts = [*before, *receipts]
                raise
            for (shard, part), outcome in zip(parts, outcomes, strict=True):
                if not isinstance(outcome, PipelineError):
                    for position, written in zip(part, outcome, strict=True):
                        receipts[position] = self._receipt(events[position], written)
                    lanes[shard] = lanes[shard][len(part) :]
            lanes = {shard: positions for shard, positions in lanes.items() if positions}
            try:
                rest = attempts.after(
                    (shard, len(part), outcome) for (shard, part), outcome in zip(parts, outcomes, strict=True)
                )
            except PipelineError as error:
                raise told(error, [*before, *receipts]) from error.__cause__
            if rest and all(shard in attempts for shard in lanes):  # nobody else has anything to send
                await self._pause(rest)
        return receipts

    def encode(self, changes: Sequence[Change], *, event_id: str | None = None, shard_by: str | None = None) -> Encoded:
        """Check ``changes`` and make the message of the event that they are.

        Raises:
            InvalidEvent: names the table, the column and the problem.
            EventTooLarge: the message has more than ``max_event_bytes``.
        """
        if not changes:
            raise InvalidEvent("an event needs at least one change")
        for change in changes:
            if not isinstance(change, Change):
                raise InvalidEvent(f"a change must be a pipeline.Change, not a {type(change).__qualname__}")
        sealed = [seal(change) for change in changes]
        event = self._new_id() if event_id is None else check_event_id(event_id)
        if self._tables or self._through:
            self._check_allowed(sealed)
        rows = [(wire["table"], identity) for wire, identity in sealed]
        shard = shard_of(rows, shard_by, event, self._shards)
        id_json = _to_json(event)
        kwargs = kwargs_json([wire for wire, _ in sealed], shard_by)
        message = self._envelopes[shard].encode(id_json, kwargs)
        if len(message) > self._max_bytes:
            raise EventTooLarge(
                f"the event has {len(message)} bytes, more than PIPELINE_MAX_EVENT_BYTES={self._max_bytes}; "
                "keep large objects elsewhere and write a reference",
                rows[0][0],
            )
        if len(sealed) == 1 and shard_by is None:  # the message's arguments are the change: encode it once
            encoded: tuple[EncodedChange, ...] = (EncodedChange(rows[0][0], rows[0][1], kwargs),)
        else:
            encoded = tuple(
                EncodedChange(table, identity, _to_json(wire))
                for (table, identity), (wire, _) in zip(rows, sealed, strict=True)
            )
        return Encoded(event, id_json, shard, message, encoded, event_id is not None)

    def applied(self, shard: int) -> R:
        """The receipt of a change that was written through, and so needs no event."""
        return self._stamp(self._new_id(), shard, 0, applied=True)

    def _receipt(self, event: Encoded, written: Written) -> R:
        return self._stamp(event.id, event.shard, written.seq, written.duplicate, written.after)

    def _check_allowed(self, sealed: Sequence[tuple[dict[str, Any], str | None]]) -> None:
        for wire, _ in sealed:
            if self._tables and wire["table"] not in self._tables:
                raise InvalidEvent("the table is not in PIPELINE_TABLES", wire["table"])
            if wire["table"] in self._through:
                raise InvalidEvent(WRITTEN_THROUGH, wire["table"])


class Ingress:
    """Accepts events that arrive as messages of the task ``apply_event``, published by any Celery client."""

    def __init__(self, writer: Writer[Any], buffer: EventBuffer, config: Config) -> None:
        self._writer = writer
        self._buffer = buffer
        self._shards = config.shards
        self._shard_queue = f"{config.namespace}.events."
        self._task = f"{config.namespace}.apply_event"
        self._max_bytes = config.max_event_bytes

    async def accept(
        self,
        task_id: str,
        arguments: Mapping[str, Any] | None,
        body: Callable[[], str],
    ) -> None:
        """Accept the event with the id ``task_id``, once, however often it is delivered.

        ``arguments`` are the keyword arguments, ``None`` if there were positional ones; ``body`` gives the body of the
        message as it was, and is called only where the message itself is needed.

        What is no event is forwarded to a shard queue as it is, where the flush makes it a dead letter.

        Raises:
            BufferUnavailable, PipelineFull: not now; deliver the message again later.
        """
        try:
            if arguments is None:
                raise InvalidEvent("apply_event takes keyword arguments only")
            options = dict(arguments)
            shard_by = options.pop("shard_by", None)
            if not isinstance(shard_by, str | None):
                raise InvalidEvent("shard_by must be text")
            changes = changes_of(options)
            # a worker that waits for room may be the one that would make it
            await self._writer.write(
                changes, event_id=task_id, shard_by=shard_by, durability="memory", when_full="raise"
            )
        except InvalidEvent as error:
            task_id, refused = _utf8(task_id), _utf8(str(error))
            shard = crc32(task_id.encode()) % self._shards
            message = self._message(task_id, body(), f"{self._shard_queue}{{{shard}}}", refused)
            await self._buffer.write(shard, [Encoded(task_id, _to_json(task_id), shard, message, (), dedupe=True)])

    def refusal(
        self, raw: bytes, others: Container[str], now: datetime, celery_reads: Callable[[bytes | str], object]
    ) -> str | None:
        """Why the message ``raw`` must not be given to Celery, ``None`` if it may.

        It may if the worker survives it, and it is an event that `accept` takes, or of one of the tasks in ``others``.
        """
        match self.sort(raw, now, celery_reads):
            case Refused(reason):
                return reason
            case ForCelery(task) if task != self._task and task not in others:
                return f"a message of the task {task!r:.200}, unknown here"
            case _:
                return None

    def sort(
        self, raw: bytes, now: datetime, celery_reads: Callable[[bytes | str], object]
    ) -> Encoded | Refused | ForCelery:
        """What the message ``raw`` of the ingress queue is: the event as `accept` would write it, or none.

        ``celery_reads`` raises `ValueError` for JSON that Celery, which decodes typed values anywhere, cannot read.
        """
        try:
            message = read(raw, self._task, self._max_bytes)
            if not message.plain:
                celery_reads(raw)
            if message.task != self._task:
                return ForCelery(message.task)
            event = self._event(message, now)
            if not message.plain_body:
                celery_reads(message.body)
        except InvalidEvent as error:
            return Refused(str(error))
        except RecursionError:
            return Refused("nested too deeply")
        except ValueError as error:  # of msgspec, of base64, of UTF-8
            return Refused(f"not a Celery message: {error}")
        waits = message.canvas or (message.eta is not None and message.eta > now)
        return ForCelery(message.task) if waits else event

    def _event(self, message: Intake, now: datetime) -> Encoded:
        if message.queue.startswith(self._shard_queue):
            raise InvalidEvent(f"a message that says that it is in the queue {message.queue!r:.200}")
        if message.expires is not None and message.expires < now:
            raise InvalidEvent(f"expired at {message.expires.isoformat()}, before a worker took it")
        args, changes, shard_by = read_arguments(message.body)
        if args:
            raise InvalidEvent("apply_event takes keyword arguments only")
        return self._writer.encode([unseal(change)[0] for change in changes], event_id=message.id, shard_by=shard_by)

    async def bury(self, raw: bytes, reason: str, delivery: str) -> None:
        """Hand what is no message to the flush, which makes it a dead letter as it is.

        Once for each event; where it cannot be told which event it is, once for each ``delivery``.

        It takes its place in the shard even if that is full: it was in this Redis before, or in a broker.

        Raises:
            BufferUnavailable: not now.
        """
        event = fingerprint(raw)
        shard = crc32(event.encode() if event else raw) % self._shards
        envelope = Envelope(self._task, f"{self._shard_queue}{{{shard}}}")
        message = envelope.encode(_to_json(f"malformed-{delivery}"), malformed_kwargs(raw, reason))
        await self._buffer.hand_over(shard, message + b"null" + OPEN_END, event or delivery)

    def _message(self, task_id: str, body: str, queue: str, refused: str) -> bytes:
        return Envelope(self._task, queue).wrap(_to_json(task_id), body, refused)


def _utf8(text: str) -> str:
    """``text`` with its lone surrogates spelled out: another client may have sent some, and UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _known(durability: Durability) -> Durability:
    if durability not in DURABILITIES:
        raise InvalidEvent(f"durability must be one of {', '.join(sorted(DURABILITIES))}, not {durability!r:.200}")
    return durability


async def _settle(
    session: Session, wanted: Durability, receipts: Sequence[object], cause: Exception | None = None
) -> None:
    """Wait until what was accepted is as durable as ``wanted``; raises `DurabilityNotReached`."""
    if any(receipt is not None for receipt in receipts):
        missing = await session.settle(wanted)
        if missing is not None:
            problem = missing if cause is None else f"{missing}; and the call ended early: {cause}"
            raise DurabilityNotReached(wanted, "memory", problem, list(receipts)) from cause


def told(error: PipelineError, receipts: Sequence[object]) -> PipelineError:
    """``error``, which says what was accepted before it."""
    if isinstance(error, PipelineFull):
        accepted = sum(receipt is not None for receipt in receipts)
        error = PipelineFull(error.shard, error.pending, error.limit, accepted, error.drain_seconds)
    error.receipts = receipts
    return error
