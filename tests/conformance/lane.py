"""Events for one shard, and what becomes of them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pipeline.core.change import Change, Event, seal
from pipeline.core.codec import OPEN_END, Envelope, Malformed, body_json, decode, kwargs_json
from pipeline.ports import Applied, Batch, Buffer, Claimed, Encoded
from tests.conformance.whole_buffer import WholeBuffer

TASK = "pipeline.apply_event"
ENVELOPE = Envelope(TASK, "pipeline.events.{0}")


def encoded(name: str, *changes: Change, dedupe: bool = False, shard: int = 0) -> Encoded:
    """The event ``name``, as the write side hands it over; by default it counts a view of page 1."""
    sealed = [seal(change) for change in changes or (count(1),)]
    wires = [wire for wire, _ in sealed]
    return Encoded(
        id=name,
        id_json=f'"{name}"',
        shard=shard,
        body=body_json(kwargs_json(wires)).decode(),
        rows=[(f"{wire['table']}:{row}", kwargs_json([wire]).decode()) for wire, row in sealed if row is not None],
        dedupe=dedupe,
    )


def count(page: int, n: int = 1) -> Change:
    return Change("views", {"page": page}, add={"n": n})


def accept(buffer: WholeBuffer, names: Iterable[str], *changes: Change) -> None:
    """Write one event per name, each by itself."""
    for name in names:
        buffer.write(0, [encoded(name, *changes)])


def claimed(buffer: Buffer, owner: str = "me") -> Claimed:
    """Claim shard 0, which must have something to claim."""
    claim = buffer.claim(0, owner)
    assert isinstance(claim, Claimed), claim
    return claim


def events_of(claim: Claimed) -> list[Event]:
    entries = [decode(message, TASK) for message in claim.messages]
    assert all(isinstance(entry, Event) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, Event)]


def names_of(claim: Claimed) -> list[str]:
    return [event.id for event in events_of(claim)]


def acknowledge(
    buffer: Buffer,
    claim: Claimed,
    *,
    seq: int | None = None,
    dead: Collection[str] = (),
    aside: Collection[str] = (),
    unexplained: bool = False,
) -> bool:
    """Acknowledge a claim; the events named in ``dead`` became dead letters, those in ``aside`` are set aside."""
    entries = [decode(message, TASK) for message in claim.messages]
    applied = Applied(
        seq=claim.seq if seq is None else seq,
        rows=0,
        dead=frozenset(position for position, entry in enumerate(entries) if entry.id in dead),
        aside=frozenset(position for position, entry in enumerate(entries) if entry.id in aside),
    )
    return buffer.acknowledge(claim, entries, applied, unexplained=unexplained)


def batch_of(events: Sequence[Event | Malformed], number: int, seq: int | None = None, **facts: Any) -> Batch:
    """A batch for the store; ``number`` makes its id, and is its seq unless that is given."""
    return Batch(
        **{
            "shard": 0,
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "seq": number if seq is None else seq,
            "entries": events,
            "final": False,
            "failures": 0,
            **facts,
        }
    )


def message_of(name: str, accepted: bytes, *changes: Change) -> bytes:
    """The message of the event ``name`` as it stands in the queue."""
    kwargs = kwargs_json([seal(change)[0] for change in changes or (count(1),)])
    return ENVELOPE.encode(f'"{name}"'.encode(), kwargs) + accepted + OPEN_END


def event(name: str, *changes: Change) -> Event:
    """The event ``name`` as a flush decodes it."""
    entry = decode(message_of(name, b"[1,0]", *changes), TASK)
    assert isinstance(entry, Event), entry
    return entry
