"""Find the bad events of a batch with few attempts, and apply all the others, in order.

The bulk attempt comes first: a good batch costs one. When it fails, the batch is bisected: k bad events among n cost
O(k log n) attempts, never n. A half is not tried as a whole when its sibling succeeded, since the failure must then be
in it. A single event that fails is tried once more, change by change: that resolves what only folding or a race made
fail, and what still fails is bad by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["isolate"]

E = TypeVar("E")
F = TypeVar("F")


async def isolate(
    events: Sequence[E],
    attempt: Callable[[Sequence[E]], Awaitable[F | None]],
    attempt_alone: Callable[[E], Awaitable[F | None]],
) -> list[tuple[E, F]]:
    """Apply ``events`` in order and return the bad ones with what was wrong with each, in order.

    ``attempt`` applies events all or nothing and returns ``None``, or its finding if one of them is bad; then nothing
    of the attempt may remain (a savepoint was rolled back). ``attempt_alone`` does the same for one event, without
    folding. What is no event's fault (an outage) they raise, and it ends everything.

    With one bad event among n: at most ``2 * ceil(log2(n)) + 2`` attempts.
    """
    bad: list[tuple[E, F]] = []
    if events:
        await _settle(events, attempt, attempt_alone, bad, known_bad=False)
    return bad


async def _settle(
    part: Sequence[E],
    attempt: Callable[[Sequence[E]], Awaitable[F | None]],
    attempt_alone: Callable[[E], Awaitable[F | None]],
    bad: list[tuple[E, F]],
    *,
    known_bad: bool,
) -> bool:
    """Apply ``part`` and add to ``bad``; whether it was good as a whole.

    No function within `isolate`: that would refer to itself, and keep every batch in memory until the collector comes.
    """
    if not known_bad and await attempt(part) is None:
        return True
    if len(part) == 1:
        finding = await attempt_alone(part[0])
        if finding is None:
            return True
        bad.append((part[0], finding))
        return False
    middle = len(part) // 2
    first_was_good = await _settle(part[:middle], attempt, attempt_alone, bad, known_bad=False)
    await _settle(part[middle:], attempt, attempt_alone, bad, known_bad=first_was_good)
    return False
