"""Accept writes: check them, encode them, and put them into Redis in one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar
from zlib import crc32

import msgspec

from pipeline.config import DURABILITIES, Config, Durability, WhenFull
from pipeline.core.change import Change, changes_of, unseal
from pipeline.core.codec import OPEN_END, Envelope, malformed_kwargs, read_arguments, refused_header
from pipeline.core.intake import ForCelery, Intake, Refused, fingerprint, ordinary, read
from pipeline.encoding import Encoder
from pipeline.errors import DurabilityNotReached, InvalidEvent, PipelineError, PipelineFull
from pipeline.patience import Attempts, Patience
from pipeline.ports import Chunk, Encoded, EventBuffer, Session, Written
from pipeline.receipts import Slip, Stamp
from pipeline.supply import Supply
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["Ingress", "Writer", "told"]

R = TypeVar("R", bound=Slip)

CHUNK: Final = 250
"""Events that are made ready at once, for each shard."""

MOST: Final = CHUNK * 5 // 4
"""Of one shard in one script call, which holds Redis for 1 to 2 ms: no hash gives every shard the same number."""

CHUNK_CHARACTERS: Final = 2**18
"""After so many of their bodies a call takes no more events; they are copied several times, which holds Redis, too."""


def fitting(events: Sequence[Encoded]) -> int:
    """How many of ``events`` are not too long for one call; one at least, if there is one."""
    characters = 0
    for count, event in enumerate(events):
        characters += len(event.body)
        if characters > CHUNK_CHARACTERS and count:
            return count
    return len(events)


_to_json: Final = msgspec.json.Encoder().encode

_WriteChunks = Callable[[Sequence[Chunk], Callable[[], None]], Awaitable[list[list[Written] | PipelineError]]]
_Lanes = dict[int, list[int]]
_Parts = list[tuple[Sequence[int], Chunk]]


class _Load(NamedTuple):
    """Events, where they go to by their positions, and the first ones of each lane, ready to be sent."""

    events: Sequence[Encoded]
    lanes: _Lanes
    parts: _Parts


class Writer(Generic[R]):
    """The write side. Stateless apart from its connections; safe to share between threads."""

    def __init__(  # noqa: PLR0917
        self,
        buffer: EventBuffer,
        config: Config,
        new_ids: Callable[[int], Sequence[str]],
        patience: Patience,
        stamp: Stamp[R],
        probe: Probe = ignore,
    ) -> None:
        """``new_ids`` makes so many fresh event ids (UUIDv7s in production), ``stamp`` a receipt."""
        self._buffer = buffer
        self._shards = config.shards
        self._chunk = min(CHUNK, config.max_pending // config.shards)
        self._most = min(MOST, config.max_pending // config.shards)
        self._durability = config.durability
        self._when_full = config.when_full
        self._patience = patience
        self._encoder = Encoder(config, new_ids)
        self.encode = self._encoder.encode
        """See `pipeline.encoding.Encoder.encode`."""
        self.encode_unsealed = self._encoder.encode_unsealed
        """See `pipeline.encoding.Encoder.encode_unsealed`."""
        self._stamp = stamp
        self._probe = probe

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
        attempts: Attempts | None = None
        receipt: R | None = None
        while receipt is None:
            try:
                receipt = await self._write(event, wanted)
            except PipelineFull as error:
                attempts = attempts or self._attempts(when_full or self._when_full)
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

        Order is kept per shard; while one is full and waited for, the others go on. ``changes`` are taken a chunk
        ahead, which is encoded while Redis works. When something goes wrong, the error's ``receipts`` say what was
        accepted before: one entry per change that was taken from ``changes``, ``None`` where it was not accepted. An
        error of ``changes`` itself is raised as it is, with a note of how many were accepted.

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
        def ready(some: Sequence[Change]) -> _Load:
            try:
                return self._load(some)
            except InvalidEvent as error:
                error.position = supply.taken - len(some) + (error.position or 0)
                raise

        supply = Supply(changes, self._chunk * self._shards, ready)
        try:
            while load := supply.take():
                receipts += [None] * len(load.events)
                await self._send(load, write_chunks, receipts, supply.prepare)
        except PipelineError as error:
            raise told(error, [*receipts, *[None] * (supply.taken - len(receipts))]) from error.__cause__
        except Exception as error:
            accepted = sum(receipt is not None for receipt in receipts)
            error.add_note(f"write_many had accepted {accepted:,} of the changes that it was given before this")
            raise

    def _load(self, changes: Sequence[Change]) -> _Load:
        events = self._encoder.encode_each(changes)
        lanes: _Lanes = {}
        for position, event in enumerate(events):
            lanes.setdefault(event.shard, []).append(position)
        return _Load(events, lanes, self._parts(lanes, events))

    async def _send(
        self, load: _Load, write_chunks: _WriteChunks, receipts: list[R | None], meanwhile: Callable[[], None]
    ) -> None:
        """Send what is in ``load``; its receipts are the last ones, and are filled in as events are accepted."""
        events, lanes, parts = load
        first = len(receipts) - len(events)
        attempts = self._attempts(self._when_full)
        while lanes:
            outcomes = await write_chunks([chunk for _, chunk in parts], meanwhile)
            for (part, chunk), outcome in zip(parts, outcomes, strict=True):
                if not isinstance(outcome, PipelineError):
                    for position, receipt in zip(part, map(self._receipt, chunk.events, outcome), strict=True):
                        receipts[first + position] = receipt
                    lanes[chunk.shard] = lanes[chunk.shard][len(part) :]
            lanes = {shard: positions for shard, positions in lanes.items() if positions}
            rest = attempts.after(
                (chunk.shard, len(part), outcome) for (part, chunk), outcome in zip(parts, outcomes, strict=True)
            )
            if rest and all(shard in attempts for shard in lanes):  # nobody else has anything to send
                await self._pause(rest)
            parts = self._parts(lanes, events)

    def _parts(self, lanes: _Lanes, events: Sequence[Encoded]) -> _Parts:
        """The next events of each lane, few enough for one call."""
        heads = {shard: [events[position] for position in lane[: self._most]] for shard, lane in lanes.items()}
        counts = {shard: fitting(head) for shard, head in heads.items()}
        return [
            (lanes[shard][:count], self._buffer.chunk(shard, heads[shard][:count])) for shard, count in counts.items()
        ]

    def applied(self, shard: int) -> R:
        """The receipt of a change that was written through, and so needs no event."""
        return self._stamp(self._encoder.new_id(), shard, 0, applied=True)

    def _receipt(self, event: Encoded, written: Written) -> R:
        return self._stamp(event.id, event.shard, written.seq, written.duplicate, written.after)


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
            task_id, headers = _utf8(task_id), refused_header(_utf8(str(error)))
            shard = crc32(task_id.encode()) % self._shards
            id_json, as_it_was = _to_json(task_id).decode(), _to_json(body()).decode()
            refused = Encoded(task_id, id_json, shard, as_it_was, (), dedupe=True, headers=headers)
            await self._buffer.write(shard, [refused])

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
        return self._ordinary(raw) or self._any(raw, now, celery_reads)

    def _ordinary(self, raw: bytes) -> Encoded | None:
        """The event in an `Ordinary` message; ``None``: it is another one, or there is something wrong with it."""
        message = ordinary(raw, self._max_bytes)
        if message is None or message.task != self._task or message.queue.startswith(self._shard_queue):
            return None
        try:
            change, identity = unseal(message.change)
            return self._writer.encode_unsealed(change, identity, message.id)
        except InvalidEvent:
            return None

    def _any(
        self, raw: bytes, now: datetime, celery_reads: Callable[[bytes | str], object]
    ) -> Encoded | Refused | ForCelery:
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
