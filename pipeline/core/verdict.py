"""The decision about a batch that could not be applied, as a value: compare it, log it, test it without a server."""

from __future__ import annotations

from typing import Final

import msgspec

from pipeline.core.failure import Meaning
from pipeline.core.retry import RetryPolicy, delay

__all__ = ["Bury", "Halve", "Leave", "Retry", "Verdict", "judge_crash", "judge_failure"]


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
"""An event is buried when so many flushers died over it without a word: one with others in the batch, two alone."""

_TIMEOUTS: Final = 2
"""A batch that ran into the statement timeout this often is halved."""


def judge_crash(begun: int, failures: int, events: int) -> Halve | Bury | None:
    """What to do with a batch that was ``begun`` more often than an error was heard of: its flushers died over it.

    One event may be to blame. So the batch is halved at once, and again until one event is left: that takes
    log2(events) + 3 attempts, and costs next to nothing if the reason was another. ``None``: go on.
    """
    crashes = begun - failures
    if events > 1:
        return Halve() if crashes > 0 else None
    if crashes < _CRASHES:
        return None
    return Bury(f"{crashes} flushers, or their connections to PostgreSQL, died over this event, the last ones alone")


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
