"""An event as the write script takes it, and what becomes of it there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Encoded", "EncodedChange", "Written"]


class EncodedChange(msgspec.Struct, frozen=True):
    """A change as the write script takes it. ``identity`` is ``None`` for an insert, which has no row to cache."""

    table: str
    identity: str | None
    json: bytes


class Encoded(msgspec.Struct, frozen=True):
    """An event ready for the queue of its shard.

    ``message`` is open at its end (`pipeline.core.codec.OPEN_END`). With ``dedupe`` a second event of this id within
    the dedupe window is the first one.
    """

    id: str
    id_json: bytes
    shard: int
    message: bytes
    changes: Sequence[EncodedChange]
    dedupe: bool = False


class Written(msgspec.Struct, frozen=True):
    """What Redis answered: the sequence number in the shard, and whether the id was known already.

    ``after`` is the number of the last batch that the shard was done with then.
    """

    seq: int
    duplicate: bool
    after: int = 0
