"""The service with a bug: `celery -A tests.faults.broken worker`, and CHAOS_BUG says which.

For showing that the chaos runner finds it. Nothing in the product knows of this.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import msgspec

from pipeline import operations
from pipeline.buffer.redis import RedisBuffer
from pipeline.core.change import Change
from pipeline.core.codec import decode
from pipeline.core.entries import Events
from pipeline.core.fold import Wave, fold
from pipeline.core.table import Table
from pipeline.ports import Applied, Claimed
from pipeline.store import isolation, postgres
from pipeline.store.application import Application

__all__ = ["BUGS", "app"]


class AcknowledgesFirst(RedisBuffer):
    """Takes the batch out of Redis when it is about to be written, before it is in Postgres."""

    def begin(self, batch: Claimed, *, again: bool = False) -> bool:
        begun = super().begin(batch, again=again)
        if begun:
            entries = [decode(message, "pipeline.apply_event") for message in batch.messages]
            self.acknowledge(batch, entries, Applied(seq=batch.seq, rows=0, dead=frozenset()))
        return begun


class IgnoresTheLedger(Application):
    """Applies what it is given, whatever the ledger says."""

    def run(self, begin: Callable[[], None]) -> Applied:
        self._batch = msgspec.structs.replace(self._batch, id=str(uuid.uuid4()), seq=self._next())
        return super().run(begin)

    def _next(self) -> int:
        row = self._connection.execute(
            "SELECT seq + 1 FROM pipeline.shard WHERE namespace = %(namespace)s AND shard = %(shard)s", self._scope
        ).fetchone()
        return 1 if row is None else int(row[0])

    def _unapplied(self, positions: Sequence[int], suspects: Sequence[int], query: str, **bounds: int) -> Sequence[int]:
        del suspects, query, bounds
        return positions


def _put(module: ModuleType, name: str, broken: object) -> None:
    """Put ``broken`` in the place of what ``module`` uses under ``name``: a bug that nobody calls is none."""
    assert name in vars(module), f"{module.__name__} does not use {name}"
    vars(module)[name] = broken


def _forget_an_add() -> None:
    """Of several changes of a batch that add something, the last one adds nothing."""

    def forgetful(events: Events, tables: Mapping[str, Table]) -> list[Wave]:
        kept, names = _changes(events)
        adding = [place for place, change in enumerate(kept) if change.add]
        if len(adding) > 1:
            kept[adding[-1]] = msgspec.structs.replace(kept[adding[-1]], add={})
        return fold(kept, names, tables)

    _put(isolation, "fold_events", forgetful)


def _reverse() -> None:
    """The changes of a batch are applied newest first."""

    def reversing(events: Events, tables: Mapping[str, Table]) -> list[Wave]:
        changes, names = _changes(events)
        return fold(changes[::-1], names[::-1], tables)

    _put(isolation, "fold_events", reversing)


def _changes(events: Events) -> tuple[list[Change], list[str | None]]:
    return [change for event in events for change in event.changes], [
        name for event in events for name in event.identities
    ]


def _acknowledge_first() -> None:
    _put(operations, "RedisBuffer", AcknowledgesFirst)


def _ignore_the_ledger() -> None:
    _put(postgres, "Application", IgnoresTheLedger)


BUGS = {
    "acknowledges before it commits": _acknowledge_first,
    "ignores the ledger": _ignore_the_ledger,
    "forgets an add": _forget_an_add,
    "reverses a batch": _reverse,
}

BUGS[os.environ["CHAOS_BUG"]]()

from tasks import app  # noqa: E402 - it makes the pipeline, of parts that must be broken by then
