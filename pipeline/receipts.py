"""What an accepted write returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from pipeline.core.outcome import Outcome
from pipeline.driving import run

__all__ = ["AsyncReceipt", "Receipt", "Slip", "Stamp", "Waits", "stamp"]


class Slip(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What a receipt says of its event. Equal if all of that is, whoever waits for it; survives pickle.

    ``seq`` numbers the accepted events of a shard in order. ``duplicate``: the ``event_id`` was known already, so
    nothing was written; shard, seq and after are those of the first event. ``after`` is the number of the last batch
    of the shard that was done with when Redis accepted the event: it is applied by a later one. ``applied``: it was
    written through, so it is committed, and has no seq (0).
    """

    event_id: str
    shard: int
    seq: int
    duplicate: bool = False
    after: int = 0
    applied: bool = False

    _waits: ClassVar[Waits | None] = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slip) and msgspec.structs.astuple(self) == msgspec.structs.astuple(other)

    def __hash__(self) -> int:
        return hash(msgspec.structs.astuple(self))


class Waits(Protocol):
    """Who can find out what became of an event."""

    async def wait(self, receipt: Slip, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109
        """See `pipeline.Pipeline.wait`."""
        ...

    async def outcome(self, receipt: Slip) -> Outcome:
        """See `pipeline.Pipeline.outcome`."""
        ...


class Receipt(Slip, frozen=True, gc=False):
    """What an accepted write of a `pipeline.Pipeline` returns."""

    def wait(self, timeout: float | None = None) -> Outcome:
        """See `pipeline.Pipeline.wait`.

        Raises also RuntimeError for a copy out of a pickle, which knows no pipeline: `pipeline.Pipeline.wait` takes it.
        """
        return run(_waits_of(self).wait(self, timeout))

    def outcome(self) -> Outcome:
        """See `pipeline.Pipeline.outcome`; raises RuntimeError as `wait` does."""
        return run(_waits_of(self).outcome(self))


class AsyncReceipt(Slip, frozen=True, gc=False):
    """What an accepted write of a `pipeline.AsyncPipeline` returns."""

    async def wait(self, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109
        """See `Receipt.wait`."""
        return await _waits_of(self).wait(self, timeout)

    async def outcome(self) -> Outcome:
        """See `Receipt.outcome`."""
        return await _waits_of(self).outcome(self)


def _waits_of(receipt: Slip) -> Waits:
    waits = receipt._waits  # noqa: SLF001  # ours
    if waits is None:
        raise RuntimeError("this receipt comes out of a pickle, or from elsewhere: use pipeline.wait(receipt)")
    return waits


R = TypeVar("R", bound=Slip)
Stamp = Callable[..., R]
"""Makes a receipt."""


def stamp(kind: type[R], waits: Waits) -> Stamp[R]:
    """Makes receipts that know whom to ask; that is no part of their value, and is not pickled.

    Their class knows it, one for each pipeline: a million of receipts would be twice as large with a reference in each.
    """

    def reduce(self: R) -> tuple[type[R], tuple[object, ...]]:
        return kind, msgspec.structs.astuple(self)

    namespace = {"_waits": waits, "__reduce__": reduce, "__doc__": kind.__doc__}
    make: Any = msgspec.defstruct(
        kind.__name__, [], bases=(kind,), namespace=namespace, module=kind.__module__, frozen=True, eq=False, gc=False
    )
    made: Stamp[R] = make
    return made
