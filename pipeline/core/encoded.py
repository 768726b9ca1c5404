"""An event as the write script takes it, and what becomes of it there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Chunk", "Encoded", "Written"]


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event ready for the queue of its shard.

    ``id_json`` and ``body`` are what differs between the messages of one queue, as JSON; ``headers`` is what else the
    headers of this one say (see `pipeline.core.codec.Envelope`). ``rows`` are those that it changes, each named
    ``table:identity``, with the change as JSON; an insert has none. With ``dedupe`` a second event of this id within
    the dedupe window is the first one.
    """

    id: str
    id_json: str
    shard: int
    body: str
    rows: Sequence[tuple[str, str]]
    dedupe: bool = False
    headers: str = ""


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Events of one shard that go together, and what goes: ``command`` is for the buffer that has made it."""

    shard: int
    events: Sequence[Encoded]
    command: bytes


class Written(msgspec.Struct, frozen=True, gc=False):
    """What Redis answered: the sequence number in the shard, and whether the id was known already.

    ``after`` is the number of the last batch that the shard was done with then.
    """

    seq: int
    duplicate: bool
    after: int = 0
