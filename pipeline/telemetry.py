"""Named steps on the way of an event, for whoever wants to be told: traces and metrics, or a test that kills there.

A probe is called synchronously, in the process and thread that takes the step. It gets the name of the step only: no
payload can leak through it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

__all__ = ["Probe", "Step", "ignore"]


class Step(StrEnum):
    """A step on the way of an event. A kill right after it is what a test of that step is about."""

    WRITING = "write.sending"  # checked and encoded, nothing has reached Redis
    BLOCKED = "write.blocked"  # refused by a full shard, and about to wait for room
    WRITTEN = "write.accepted"
    CLAIMED = "claim.frozen"
    LOCKED = "apply.locked"  # the transaction holds its shard, nothing is written
    ATTEMPTED = "apply.attempted"  # a part of the batch is written, or its savepoint rolled back
    BURIED = "apply.buried"
    COMMITTING = "apply.committing"
    COMMITTED = "apply.committed"
    ACKNOWLEDGED = "acknowledge.done"
    HALVED = "halve.done"
    FAILED = "fail.recorded"
    PAUSED = "pause.recorded"
    RESUMED = "resume.recorded"
    REPLAYING = "replay.sending"
    REPLAYED = "replay.accepted"  # written again, not marked as replayed yet
    MARKED = "replay.marked"
    ARRIVED = "ingress.frozen"  # messages of the ingress queue, taken in bulk
    REFUSED = "ingress.refused"  # one that is no event was handed to the flush
    ADMITTED = "ingress.written"  # events of them are in their shards, all of them are still frozen
    PLACED = "ingress.settled"  # each has found its place
    LOOKED = "read.looked"  # the row is not cached; PostgreSQL has not been asked yet
    FETCHED = "read.fetched"  # PostgreSQL has answered, nothing is installed
    INSTALLED = "read.installed"
    POLLED = "wait.polled"  # Redis has said how far the shards are, for all who wait
    ASKED = "wait.asked"  # PostgreSQL has said what became of events
    SETTLED = "through.settled"  # what was pending for the row is applied, nothing is locked
    TAKEN = "through.locked"  # the transaction has its turn on the row, which may still be cached
    DROPPED = "through.dropped"  # the row is not cached any more, and cannot be
    CHANGED = "through.changed"  # the statement has run, nothing is committed
    PASSED = "through.committed"


Probe = Callable[[Step], None]


def ignore(step: Step) -> None:
    """The probe of a pipeline that nobody watches."""
