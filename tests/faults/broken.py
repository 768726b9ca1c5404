"""The service with a bug: `celery -A tests.faults.broken worker`, and CHAOS_BUG says which.

For showing that the chaos runner finds it. Nothing in the product knows of this.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence

import msgspec

from pipeline import wiring
from pipeline.core.codec import Malformed
from pipeline.core.fold import Row, Wave, fold
from pipeline.flush import Flusher, FlushReport
from pipeline.ports import Applied, Claimed
from pipeline.store import isolation, postgres
from pipeline.store.application import Application
from tasks import app

__all__ = ["BUGS", "app"]


class AcknowledgesFirst(Flusher):
    """Takes the batch out of Redis before it is in Postgres."""

    def _apply(self, claim: Claimed, report: FlushReport) -> FlushReport:
        entries = [Malformed("", message) for message in claim.messages]
        self._buffer.acknowledge(claim, entries, Applied(seq=claim.seq, rows=0, dead=frozenset()))
        return super()._apply(claim, report)


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

    def _fresh(self, positions: Sequence[int], window: object) -> Sequence[int]:
        del window
        return positions


def _forget_an_add() -> None:
    """Of several changes of a batch that add something, the last one adds nothing."""

    def forgetful(changes: Sequence[Row]) -> list[Wave]:
        kept = list(changes)
        adding = [place for place, (_, change, _) in enumerate(kept) if change.add]
        if len(adding) > 1:
            table, change, name = kept[adding[-1]]
            kept[adding[-1]] = (table, msgspec.structs.replace(change, add={}), name)
        return fold(kept)

    vars(isolation)["fold"] = forgetful


def _reverse() -> None:
    """The changes of a batch are applied newest first."""
    vars(isolation)["fold"] = lambda changes: fold(changes[::-1])


def _acknowledge_first() -> None:
    vars(wiring)["Flusher"] = AcknowledgesFirst


def _ignore_the_ledger() -> None:
    vars(postgres)["Application"] = IgnoresTheLedger


BUGS = {
    "acknowledges before it commits": _acknowledge_first,
    "ignores the ledger": _ignore_the_ledger,
    "forgets an add": _forget_an_add,
    "reverses a batch": _reverse,
}

assert vars(isolation)["fold"] is fold  # what is put in its place must have been there
BUGS[os.environ["CHAOS_BUG"]]()
