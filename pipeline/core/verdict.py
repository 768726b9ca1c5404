"""The decision about a batch that could not be applied, as a value: compare it, log it, test it without a server."""

from __future__ import annotations

from typing import Final

import msgspec

from pipeline.core.failure import Meaning
from pipeline.core.retry import RetryPolicy, delay

__all__ = ["Bury", "Halve", "Leave", "Retry", "Verdict", "crashes_inherited", "judge_crash", "judge_failure"]


class Retry(msgspec.Struct, frozen=True):
    """Keep the batch frozen and try it again after ``seconds``."""

    seconds: float


class Halve(msgspec.Struct, frozen=True):
    """Keep the older half of the batch frozen, give the rest back to the queue, and go on at once."""


class Bury(msgspec.Struct, frozen=True):
    """The batch is one event and it is to blame: make it a dead letter without trying it again."""

    reason: str


class Leave(msgspec.Struct, frozen=True):
    """Another flusher is at work on this shard; nothing is wrong."""


Verdict = Retry | Halve | Bury | Leave

_CRASHES: Final = 3
"""A batch that took its worker along this often is halved: log2(n) + 3 attempts find the one event that does it."""

_TIMEOUTS: Final = 2
"""A batch that ran into the statement timeout this often is halved."""


def judge_crash(begun: int, failures: int, events: int) -> Halve | Bury | None:
    """What to do with a batch before it is tried: has it been begun again and again without any word of an error?

    A flusher that hangs or is cut off before it has begun to write says nothing about the batch. ``None``: go on.
    """
    crashes = begun - failures
    if crashes < _CRASHES:
        return None
    if events > 1:
        return Halve()
    return Bury(f"the worker died {crashes} times while it applied this event alone")


def crashes_inherited(events: int) -> int:
    """How many crashes of a batch of ``events`` count against the half of it that stays frozen.

    All but one: the half is tried once before it is halved in turn. None against a single event: it must have died
    alone before it is buried.
    """
    return _CRASHES - 1 if events > 2 else 0  # noqa: PLR2004 - the older half of 3 is 2


def judge_failure(
    meaning: Meaning, failures: int, events: int, policy: RetryPolicy, draw: float
) -> Retry | Halve | Leave:
    """What to do after the ``failures``-th failure in a row (from 1) of a batch of ``events`` events.

    Poison never comes here: it is isolated and buried while the batch is applied.
    """
    if meaning is Meaning.BUSY:
        return Leave()
    if meaning is Meaning.TIMEOUT and failures >= _TIMEOUTS and events > 1:
        return Halve()
    if meaning is Meaning.CONFLICT and failures == 1:
        return Retry(0.0)
    return Retry(delay(policy, failures, draw))
